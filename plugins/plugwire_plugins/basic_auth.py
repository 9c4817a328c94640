"""Basic authentication (RFC 7617).

An auth object is no plugin of the session: it has an `around_send` without the mark, and the core runs it at stage
`auth`, only for requests to the origin that it was given for. So the password cannot follow a redirect elsewhere.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING
from unicodedata import normalize

from plugwire import UsageError

if TYPE_CHECKING:
    from plugwire.protocols import AsyncResponse, Call, Next, Request

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BasicAuth:
    """User and password in every request: `auth=BasicAuth("user", "password")`, or just `auth=("user", "password")`.

    They are sent as UTF-8 in normalisation form C, which is what a server means that says charset="UTF-8" (RFC 7617,
    2.1). A request that has an Authorization field already keeps it.

    Args:
        user: without ":", which ends it on the wire (RFC 7617, 2).
        password: any text without control characters.

    Raises:
        UsageError: one of them cannot be sent this way. The message never shows them.
    """

    def __init__(self, user: str, password: str) -> None:
        for what, value in (("user", user), ("password", password)):
            if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all checked
                raise UsageError(f"the {what} of Basic authentication is a str, not {type(value).__name__}")
            if _CONTROL.search(value):
                raise UsageError(f"the {what} of Basic authentication has a control character (RFC 7617, 2)")
        if ":" in user:
            raise UsageError("the user of Basic authentication has a ':', which ends it on the wire (RFC 7617, 2)")
        try:
            pair = normalize("NFC", f"{user}:{password}").encode()
        except UnicodeEncodeError:
            raise UsageError("the user or password of Basic authentication has a lone surrogate: no text") from None
        self._value = "Basic " + b64encode(pair).decode("ascii")

    def __repr__(self) -> str:
        return "<BasicAuth ***>"

    async def around_send(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Add the Authorization field, unless the request has one."""
        request.headers.add("Authorization", self._value, mode="if_new")
        return await call_next(request)
