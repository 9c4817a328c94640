"""The header fields that a polite client sends: User-Agent and Accept.

It is no layer around requests: it fills `session.headers` once, before the first request, so a request costs nothing
more. What the user has set there stays. Accept-Encoding is not among them, because it promises what somebody must then
decode: the plugin that decodes (`decompress`) adds its own codings in its own `session_opened`, in the same way.
Without one none is sent, and servers answer with the content as it is (RFC 9110, 12.5.3, allows them any coding then;
in practice they take the absence for "identity").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugwire import Headers, __version__, hookimpl

if TYPE_CHECKING:
    from plugwire.protocols import Session


class DefaultHeaders:
    """Fill in the session's headers that the user did not set.

    A session has it by default. `Session(plugins=[DefaultHeaders(user_agent=None)])` takes its place.

    Args:
        user_agent: the User-Agent (RFC 9110, 10.1.5); None: send none.
        accept: the Accept (RFC 9110, 12.5.1); None: send none.

    Raises:
        InvalidHeader: a value that cannot be sent.
    """

    name = "default-headers"

    def __init__(self, user_agent: str | None = f"plugwire/{__version__}", accept: str | None = "*/*") -> None:
        given = (("User-Agent", user_agent), ("Accept", accept))
        self.headers = Headers([(name, value) for name, value in given if value is not None])

    def __repr__(self) -> str:
        return f"DefaultHeaders({self.headers.get('user-agent')!r}, {self.headers.get('accept')!r})"

    @hookimpl
    async def session_opened(self, session: Session) -> None:
        """Once, before the first request."""
        for name, value in self.headers.items():
            session.headers.add(name, value, mode="if_new")
