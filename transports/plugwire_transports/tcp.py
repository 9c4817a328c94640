"""The dialler "tcp": resolve, then Happy Eyeballs (RFC 8305)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from plugwire.errors import UsageError
from plugwire.events import Connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.events import Edge
    from plugwire.protocols import Address, Connecting, Route, Stream


class TCP:
    """TCP to the route's host and port.

    Obeys `local_address` (a numeric address to dial from) and `socket_options`: pairs or triples as
    `socket.setsockopt` takes them, given by `options={"socket_options": ((level, name, value), ...)}`.
    """

    name = "tcp"
    honours = frozenset({"local_address", "socket_options"})

    def refuse(self, route: Route) -> str | None:
        """Takes routes with a port and without a socket path or a proxy."""
        if not route.port:
            return f"{route.scheme} has no port"
        if route.path is not None:
            return "the route has a socket path"
        if route.proxy is not None:
            return "the route has a proxy"
        return None

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        """A connected stream.

        Raises:
            OSError: all addresses failed.
            TimeoutError: the deadline has passed.
        """
        options = _checked(route.get_extra("socket_options", ()))
        addresses = await connecting.resolve(route.host, route.port)
        call = connecting.call

        def seen(address: Address, edge: Edge, error: BaseException | None) -> None:
            call.tell(Connect, address=address, edge=edge, error=error)

        try:
            return await connecting.runtime.dial_tcp(
                addresses,
                connecting.deadline.at,
                local_address=route.local_address,
                socket_options=options,
                scope=connecting.scope,
                seen=seen if call.wants(Connect) else None,
            )
        except OSError:  # or there was no time for all of them
            connecting.forget(route.host, route.port)
            raise


def _checked(options: object) -> Sequence[tuple[int, int, int | bytes]]:
    """The socket options, checked before any I/O."""
    if isinstance(options, tuple) and all(_is_option(item) for item in cast("tuple[object, ...]", options)):
        return cast("tuple[tuple[int, int, int | bytes], ...]", options)
    raise UsageError(f"socket_options={options!r}: a tuple of (level, name, value)")


def _is_option(item: object) -> bool:
    match item:
        case (int(), int(), int() | bytes()):
            return True
        case _:
            return False
