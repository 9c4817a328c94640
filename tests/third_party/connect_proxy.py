"""A dialler that asks an HTTP proxy for a tunnel (CONNECT, RFC 9110, 9.3.6)."""

from __future__ import annotations

from plugwire import ProxyError
from plugwire.protocols import Connecting, Route, Stream


class ConnectProxy:
    name = "connect-proxy"
    honours = frozenset({"proxy", "local_address", "socket_options"})

    def refuse(self, route: Route) -> str | None:
        return None if route.proxy is not None else "the route has no proxy"

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        stream = await connecting.dial(route.to_proxy())
        try:
            target = f"{route.host}:{route.port}"
            await stream.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode(), connecting.deadline.at)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = await stream.receive(1, connecting.deadline.at)  # not a byte of what comes through the tunnel
                if not data:
                    raise ProxyError("the proxy closed the connection")
                head += data
            if not head.startswith(b"HTTP/1.1 200"):
                raise ProxyError(f"the proxy said {head.splitlines()[0].decode('latin-1')}")
            return stream
        except BaseException:
            stream.close()
            raise
