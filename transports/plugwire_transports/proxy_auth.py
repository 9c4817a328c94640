"""Authentication to a proxy, by objects that know servers only.

A proxy asks for credentials as a server does, in words of its own (RFC 9110, 11.7):

    401                   407
    WWW-Authenticate      Proxy-Authenticate
    Authorization         Proxy-Authorization
    Authentication-Info   Proxy-Authentication-Info

So an auth object is shown a request to the proxy in which the two columns have changed places, and its answers are
translated in the same way. That is its own inverse, and it hides what is none of its business: the Authorization that
an http request has for its origin is a Proxy-Authorization to it, a 401 of the origin a 407, and both come out as they
went in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plugwire import AsyncResponse, Headers, NotReplayable, PluginError
from plugwire.url import URL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeAlias

    from plugwire import Proxy, Request
    from plugwire.protocols import Call

    Send: TypeAlias = Callable[[Request], Awaitable[AsyncResponse]]

_PAIRS: Final = (
    ("WWW-Authenticate", "Proxy-Authenticate"),
    ("Authorization", "Proxy-Authorization"),
    ("Authentication-Info", "Proxy-Authentication-Info"),
)
_NAMES: Final = {one.lower(): other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_STATUSES: Final = {401: 407, 407: 401}


async def authenticated(auth: Any, request: Request, proxy: Proxy, send: Send, call: Call) -> AsyncResponse:
    """Run `auth.around_send` on a request to a proxy.

    `send` sends a request as it goes out, and may be asked several times; a response that it gave is closed before it
    is asked again, so that the same connection can be used.

    Raises:
        PluginError: the auth object returned no response.
        NotReplayable: it wanted to send a body again that can be sent only once.
    """
    seen = request.copy()
    seen.url = URL(proxy.url)
    seen.headers = swapped(request.headers)
    following = _Next(send, request.url)
    try:
        response = await auth.around_send(seen, following, call)
    except BaseException:
        if following.last is not None:
            following.last.abort()  # the auth object may have been stopped before it could
        raise
    if not isinstance(response, AsyncResponse):
        name = type(auth).__name__
        raise PluginError(f"{name} returned {type(response).__name__}, not an AsyncResponse", name)
    _swap(response)
    return response


class _Next:
    """What the auth object gets as `call_next`."""

    def __init__(self, send: Send, url: URL) -> None:
        self._send = send
        self._url = url
        self.last: AsyncResponse | None = None

    async def __call__(self, request: Request) -> AsyncResponse:
        if self.last is not None:
            if not request.body.is_replayable:
                raise NotReplayable("the proxy wants credentials first, and the request's body can be sent only once")
            await self.last.close()
        outgoing = request.copy()
        outgoing.url = self._url
        outgoing.headers = swapped(request.headers)
        response = self.last = await self._send(outgoing)
        _swap(response)
        return response


def swapped(headers: Headers) -> Headers:
    """The same lines, the two columns exchanged."""
    if not any(name in headers for name in _NAMES):
        return headers.copy()
    other = Headers.from_pairs([(_NAMES.get(name.lower(), name), value) for name, value in headers.items()])
    other.secret = headers.secret
    return other


def _swap(response: AsyncResponse) -> None:
    response.status_code = _STATUSES.get(response.status_code, response.status_code)
    response.headers = swapped(response.headers)
