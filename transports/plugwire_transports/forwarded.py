"""HTTP/1.1 to a proxy that forwards requests: the connection behind a stream that says FORWARDING_PROXY.

It differs from one to the origin in what goes out, and in nothing else: the target is the whole URL (absolute-form,
RFC 9112, 3.2.2), the proxy's own fields and credentials are added, and of those nothing is left in what the caller gets
back. It is for one origin like every other, so what is meant for this one is not sent to another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugwire import Error, UsageError
from plugwire.protocols import Call
from plugwire_transports.http11 import HTTP11Connection, tell_nobody
from plugwire_transports.proxy_auth import authenticated

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire import AsyncResponse, Proxy, Request
    from plugwire.protocols import Connecting, Connection, Route, Stream


class ForwardedConnection(HTTP11Connection):
    """HTTP/1.1 to the route's proxy."""

    def __init__(self, stream: Stream, route: Route, connecting: Connecting) -> None:
        super().__init__(stream, connecting)
        assert route.proxy is not None
        self._route = route
        self._proxy: Proxy = route.proxy
        self._auth = route.proxy.authenticator()
        # It holds the call that it was made for, so it is kept only where it may be needed again.
        self._connecting = connecting if self._auth is not None else None
        self._tell_pool: Callable[[Connection], None] = connecting.changed

    async def send(self, request: Request, call: Call) -> AsyncResponse:
        forwarded = in_absolute_form(request, self._proxy)
        try:
            if self._auth is None:
                response = await super().send(forwarded, call)
            else:
                response = await self._authenticated(forwarded, call)
        except Error as error:
            if error.request is not None:
                error.request = request  # the caller's own, without what is for the proxy
            raise
        response.request = request
        return response

    async def _authenticated(self, request: Request, call: Call) -> AsyncResponse:
        """The same with what an auth object does before and after, which may be several requests over this connection:
        until it is done, nobody hears what becomes of it in between."""
        is_first = True

        async def send(request: Request) -> AsyncResponse:
            nonlocal is_first
            if self.is_closed and not is_first:
                await self._dial_again(call)
            is_first = False
            return await HTTP11Connection.send(self, request, call)

        self._changed = tell_nobody
        try:
            return await authenticated(self._auth, request, self._proxy, send, call)
        finally:
            self._changed = self._tell_pool
            self._changed(self)

    async def _dial_again(self, call: Call) -> None:
        """The proxy has closed the connection behind its challenge: go on with a new one, in the same place."""
        side = Call(
            call.session, call.runtime, call.origin, call.timeout,
            context=call.context, given=call.given, watchers=call.watchers, parent=call.deadline,
        )  # fmt: skip
        side.attempt = call.attempt
        connecting = self._connecting
        assert connecting is not None
        with call.waiting(side.scope):
            stream = await connecting.for_call(side).dial(self._route)
            HTTP11Connection.__init__(self, stream, connecting)
            self._changed = tell_nobody
            side.check()  # an abort that came before the new stream was in its place


def in_absolute_form(request: Request, proxy: Proxy) -> Request:
    """The request as the proxy gets it.

    Raises:
        UsageError: it is a CONNECT, which the proxy would take for its own.
    """
    if request.method == "CONNECT":
        raise UsageError(
            "CONNECT to an http origin by way of a proxy: the proxy would make that tunnel, not the origin"
        )
    forwarded = request.copy()
    origin = f"http://{request.url.authority}"
    target = request.target
    if target is None:
        forwarded.target = origin + request.url.target
    elif target == "*":
        forwarded.target = origin  # OPTIONS, of which the last proxy makes "*" again (RFC 9112, 3.2.4)
    elif target.startswith("/"):
        forwarded.target = origin + target
    for name, value in proxy.headers:
        forwarded.headers.add(name, value, mode="replace")
    if proxy.headers:
        forwarded.headers.secret |= {name.lower() for name, _ in proxy.headers}
    return forwarded
