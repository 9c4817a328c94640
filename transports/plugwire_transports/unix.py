"""The dialler "unix": a Unix socket in place of TCP. The URL's host is then only a name, for Host and TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugwire.events import Connect

if TYPE_CHECKING:
    from plugwire.protocols import Connecting, Route, Stream


class Unix:
    """Unix sockets: `Session(transports=[Unix("/run/docker.sock")])` sends every request there;
    `options={"path": "/run/docker.sock"}`, on the session or a call, those that have it.

    Args:
        path: the socket for all routes; None: only for routes that bring their own.
    """

    name = "unix"
    honours = frozenset({"path"})

    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def refuse(self, route: Route) -> str | None:
        """Takes routes that have a path, or all if it has one itself."""
        if route.proxy is not None:
            return "the route has a proxy"
        if route.path is None and self.path is None:
            return "the route has no path"
        return None

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        """A connected stream."""
        path = route.path or self.path or ""
        call = connecting.call
        with call.step(Connect, address=path):
            return await connecting.runtime.dial_unix(path, connecting.deadline.at, scope=connecting.scope)
