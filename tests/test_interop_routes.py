"""Ways to a server other than TCP over IPv4: Unix sockets, IPv6, a local address, socket options. In every world."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from peers import BIG, SMALL, Peer
from peers.nginx import Nginx
from plugwire import ConnectError, NoTransport, UsageError
from plugwire.protocols import SOCKET, Connecting, Route, Stream
from plugwire_transports import Unix
from worlds import World


async def test_ipv6(peer: Peer, world: World) -> None:
    async with world.session() as session:
        response = await session.get(f"{peer.ipv6_url}/small")
        assert response.content == SMALL
        assert response.connection.peer_address.host == "::1"


async def test_a_name_with_addresses_of_both_kinds(peer: Peer, world: World) -> None:
    async with world.session() as session:
        assert (await session.get(f"http://localhost:{peer.port}/small")).content == SMALL


async def test_a_unix_socket_by_option(nginx: Nginx, world: World) -> None:
    path = str(nginx.socket_path)
    async with world.session(options={"path": path}) as session:
        assert (await session.get("http://nginx.example/small")).content == SMALL
        response = await session.get("http://nginx.example/host")
        assert (response.text, response.connection.reused) == ("nginx.example", True)
        assert (await session.put("http://nginx.example/upload/unix", content=BIG)).status_code in (201, 204)
        assert (await session.get("http://nginx.example/upload/unix")).content == BIG
    async with world.session() as session:
        assert (await session.get("http://nginx.example/small", options={"path": path})).content == SMALL
        over_tcp = await session.get(f"{nginx.url}/small")
        assert not over_tcp.connection.reused, "a route without the path shares no connection with one that has it"


async def test_a_unix_socket_by_transport(nginx: Nginx, world: World) -> None:
    async with world.session(transports=[Unix(str(nginx.socket_path))]) as session:
        for _ in range(2):
            response = await session.get("http://any.example/host")
            assert response.text == "any.example"
        assert response.connection.reused
        assert await _whole(session, "http://any.example/big") == BIG


async def _whole(session: object, url: str) -> bytes:
    async with session.stream("GET", url) as response:  # type: ignore[attr-defined]  # either face
        return b"".join([piece async for piece in response.iter_bytes()])


async def test_a_unix_socket_that_is_not_there(world: World, tmp_path: Path) -> None:
    async with world.session() as session:
        with pytest.raises(ConnectError) as caught:
            await session.get("http://any.example/", options={"path": str(tmp_path / "none")})
        assert (caught.value.phase, caught.value.sent) == ("dial", False)


async def test_a_local_address(nginx: Nginx, world: World) -> None:
    async with world.session(options={"local_address": "127.0.0.2"}) as session:
        response = await session.get(f"{nginx.url}/from")
        assert response.text == "127.0.0.2"
        assert response.connection.local_address.host == "127.0.0.2"
        plain = await session.get(f"{nginx.url}/from", options={"local_address": None})
        assert plain.text == "127.0.0.1"
        with pytest.raises(ConnectError):  # TEST-NET-1 (RFC 5737): nobody's address
            await session.get(f"{nginx.url}/from", options={"local_address": "192.0.2.1"})


class Watched:
    """Dials below and keeps what it got."""

    name = "watched"
    honours = frozenset({"*"})

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def refuse(self, route: Route) -> str | None:
        return None

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        stream = await connecting.dial(route)
        found = stream.extra(SOCKET)
        assert found is not None
        self.sockets.append(found)
        return stream


async def test_socket_options(nginx: Nginx, world: World) -> None:
    watched = Watched()
    options = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77))
    async with world.session(transports=[watched]) as session:
        response = await session.get(f"{nginx.url}/small", options={"socket_options": options})
        assert response.content == SMALL
        [sock] = watched.sockets
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
        other = await session.get(f"{nginx.url}/small")
        assert not other.connection.reused
        assert watched.sockets[1].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        with pytest.raises(UsageError, match="socket_options"):
            await session.get(f"{nginx.url}/small", options={"socket_options": (("a", 1),)})


async def test_nothing_is_silently_ignored(nginx: Nginx, world: World) -> None:
    """Over a Unix socket there is no local address to choose."""
    async with world.session() as session:
        with pytest.raises(NoTransport, match="local_address"):
            await session.get(
                "http://any.example/", options={"path": str(nginx.socket_path), "local_address": "127.0.0.2"}
            )
