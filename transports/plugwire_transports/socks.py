"""The dialler "socks": SOCKS 5 proxies (RFC 1928), with no authentication or user name and password (RFC 1929).

    socks5://proxy     names are resolved here, by the session's resolver; the proxy is told an address
    socks5h://proxy    the proxy is told the name, and resolves it where it stands

The messages are made and read by socksio. It wants to be fed one whole message at a time, so who feeds it knows how
long each of them is, and not a byte is read that comes from behind the proxy. UDP and BIND are of no use to HTTP.

It needs the extra: `pip install 'plugwire[socks]'`. Without it every route is refused with just this reason.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from plugwire import ConnectError, ProxyError, UsageError
from plugwire.events import Tunnel
from plugwire.protocols import EVERYTHING

if TYPE_CHECKING:
    from plugwire import Proxy
    from plugwire.protocols import Connecting, Route, Stream

_REASONS: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
"""What a reply says (RFC 1928, 6)."""

_OF_THE_TARGET: Final = frozenset({3, 4, 5, 6})
"""Replies that speak of the target: the proxy did what it was asked, and another address may be better."""


class SOCKS:
    """SOCKS proxies: `proxy="socks5h://user:password@proxy.example:1080"`. Obeys what the transports below it do."""

    name = "socks"
    honours = frozenset({EVERYTHING})

    def refuse(self, route: Route) -> str | None:
        """Takes routes with a port that have a SOCKS proxy and no socket path."""
        if route.proxy is None:
            return "the route has no proxy"
        if not route.proxy.is_socks:
            return "the proxy speaks HTTP"
        if route.path is not None:
            return "the route has a socket path"
        if not route.port:
            return f"{route.scheme} has no port"
        if find_spec("socksio") is None:
            return "needs the package socksio: pip install 'plugwire[socks]'"
        return None

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        """A stream to the origin.

        Raises:
            ProxyError: the proxy did not do what it was asked.
            ConnectError: it could not reach the origin, or was not reached itself.
            ResolveError: the origin's name, for socks5, or the proxy's has no address.
        """
        assert route.proxy is not None
        hosts = [route.host]
        if route.proxy.url.startswith("socks5:"):
            hosts = [address.host for address in await connecting.resolve(route.host, route.port)]
        elif len(route.host) > 255:
            raise UsageError("a name for SOCKS has at most 255 characters (RFC 1928, 5)")
        errors: list[ConnectError] = []
        for host in hosts:
            stream = await connecting.dial(route.to_proxy())
            try:
                target = f"[{host}]:{route.port}" if ":" in host else f"{host}:{route.port}"
                with (
                    connecting.call.step(Tunnel, proxy=route.proxy.url, target=target),
                    connecting.call.waiting(stream),
                ):
                    await _ask(stream, route.proxy, host, route.port, connecting)
                return stream
            except ConnectError as error:
                stream.close()
                errors.append(error)
            except BaseException:
                stream.close()
                raise
        raise errors[0] if len(errors) == 1 else ConnectError("; ".join(str(error) for error in errors))


async def _ask(stream: Stream, proxy: Proxy, host: str, port: int, connecting: Connecting) -> None:
    """The conversation, up to the reply that all is well."""
    import socksio
    from socksio.socks5 import SOCKS5UsernamePasswordRequest

    # How the library is annotated, no checker understands.
    conversation: Any = socksio.SOCKS5Connection()
    methods = socksio.SOCKS5AuthMethod
    credentials: tuple[str, str] | None = proxy.auth

    async def say(message: object) -> None:
        conversation.send(message)
        await stream.send(conversation.data_to_send(), connecting.deadline.at)

    async def read(length: int, begin: bytes = b"") -> bytes:
        data = begin
        while len(data) < length:
            more = await stream.receive(length - len(data), connecting.deadline.at)
            if not more:
                raise ProxyError(f"the proxy {proxy.url} closed the connection in the middle of the SOCKS handshake")
            data += more
        return data

    try:
        # A proxy that wants no credentials is not told them.
        offered = [methods.USERNAME_PASSWORD] if credentials is not None else []
        await say(socksio.SOCKS5AuthMethodsRequest([methods.NO_AUTH_REQUIRED, *offered]))
        chosen = conversation.receive_data(_checked(await read(2))).method
        if chosen == methods.USERNAME_PASSWORD and credentials is not None:
            await say(SOCKS5UsernamePasswordRequest(*(text.encode() for text in credentials)))
            if not conversation.receive_data(await read(2)).success:
                raise ProxyError(f"the proxy {proxy.url} does not accept the credentials given")
        elif chosen != methods.NO_AUTH_REQUIRED:
            what = "takes neither the credentials given nor none" if credentials else "wants credentials: Proxy(auth=)"
            raise ProxyError(f"the proxy {proxy.url} {what}")
        await say(socksio.SOCKS5CommandRequest.from_address(socksio.SOCKS5Command.CONNECT, (host, port)))
        head = _checked(await read(5))
        reply = conversation.receive_data(await read(_length(head), head))
    except socksio.ProtocolError as error:
        raise ProxyError(f"{proxy.url} does not answer as a SOCKS 5 proxy does") from error
    code = reply.reply_code.value[0]
    if code in _OF_THE_TARGET:
        raise ConnectError(f"the proxy {proxy.url} cannot reach {host} port {port}: {_REASONS[code]}")
    if code:
        raise ProxyError(f"the proxy {proxy.url} refused a tunnel to {host} port {port}: {_REASONS[code]}")


def _checked(data: bytes) -> bytes:
    """What every answer but that to the credentials begins with."""
    from socksio import ProtocolError

    if data[0] != 5:
        raise ProtocolError("not version 5")
    return data


def _length(head: bytes) -> int:
    """Bytes of a reply that begins with these five (RFC 1928, 6): four, an address by its type, a port."""
    from socksio import ProtocolError

    match head[3]:
        case 1:
            return 4 + 4 + 2
        case 3:
            return 4 + 1 + head[4] + 2
        case 4:
            return 4 + 16 + 2
        case _:
            raise ProtocolError("an address of no known type")
