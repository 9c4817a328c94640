"""Pinned hosts: names that are where the program says."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from names import Names
from plugwire import ConnectError, UsageError
from plugwire.protocols import Address
from plugwire.testing import Server
from plugwire_transports import PinnedHosts
from plugwire_transports.pinned_hosts import Place, parse_place
from worlds import World

LOOPBACK = socket.if_nameindex()[0][1]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("example.org", Place("example.org")),
        ("EXAMPLE.org.:8443", Place("example.org", 8443)),
        ("example.org:80", Place("example.org", 80)),
        ("faß.de", Place("xn--fa-hia.de")),
        ("0x7f.1:1", Place("127.0.0.1", 1)),
        ("[::1]:65535", Place("::1", 65535)),
        ("[1:0::1]", Place("1::1")),
        ("::1", Place("::1")),
    ],
)
def test_hosts_have_one_form(text: str, place: Place) -> None:
    assert parse_place(text, "x") == place


@pytest.mark.parametrize(
    "hosts",
    [
        {"": "127.0.0.1"}, {"h:": "127.0.0.1"}, {"h:0": "127.0.0.1"}, {"h:65536": "127.0.0.1"}, {"h:x": "127.0.0.1"},
        {"http://h": "127.0.0.1"}, {"h/x": "127.0.0.1"}, {"u@h": "127.0.0.1"}, {"a b": "127.0.0.1"},
        {"1.2.3.4.5": "127.0.0.1"}, {"[::1": "127.0.0.1"}, {"::x:y": "127.0.0.1"}, {5: "127.0.0.1"},
        {"h": "localhost"}, {"h": "127.1"}, {"h": "127.0.0.1:80"}, {"h": "10.0.0.0/8"}, {"h": ""}, {"h": []},
        {"h": None}, {"h": [None]}, {"h": 2130706433}, {"h": "fe80::1%no-such-interface"}, {"h": b"127.0.0.1"},
        {"h": "127.0.0.1", "H.": "127.0.0.1"}, [("h", "127.0.0.1")], None,
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_once(hosts: Any) -> None:
    with pytest.raises(UsageError, match="PinnedHosts"):
        PinnedHosts(hosts)


@pytest.mark.parametrize("versions", [("http/1.1",), ("h2",)])
async def test_host_and_tls_name_stay(world: World, names: Names, versions: tuple[str, ...]) -> None:
    with Server(tls=True, http_versions=versions) as server:
        pins = PinnedHosts({"localhost": ["127.0.0.2", "127.0.0.1"]})
        async with world.session(transports=[pins], tls=server.tls_config, http_versions=versions) as session:
            response = await session.get(f"https://localhost:{server.port}/hello")
            assert response.connection.tls.server_hostname == "localhost"
            assert response.connection.peer_address.host == "127.0.0.1"
        assert server.calls[0].headers["host"] == f"localhost:{server.port}"
    assert names.asked == []


async def test_the_port_decides_and_what_is_not_pinned_goes_below(world: World, names: Names) -> None:
    names["other.example"] = ["127.0.0.1"]
    with Server() as server:
        pins = PinnedHosts({f"h.example:{server.port}": "127.0.0.1", "h.example": "127.0.0.3", "::2": "127.0.0.1"})
        async with world.session(transports=[pins]) as session:
            for host in ("h.example", "H.example.", "[::2]", "other.example", "127.0.0.1"):
                assert (await session.get(f"http://{host}:{server.port}/hello")).ok
            with pytest.raises(ConnectError):
                await session.get("http://h.example:1/")
    assert names.asked == ["other.example"]


async def test_a_local_address_chooses_among_pins(world: World) -> None:
    with Server() as server:
        pins = PinnedHosts({"h.example": ["::1", "127.0.0.1"]})
        async with world.session(transports=[pins], options={"local_address": "127.0.0.2"}) as session:
            response = await session.get(f"http://h.example:{server.port}/hello")
            assert response.connection.local_address.host == "127.0.0.2"


async def test_interfaces_of_link_local_addresses(world: World) -> None:
    found: list[Any] = []

    class Dialler:
        name = "dialler"
        honours = frozenset({"*"})

        def refuse(self, route: Any) -> None:
            return None

        async def dial(self, route: Any, connecting: Any) -> Any:
            found.extend(await connecting.resolve(route.host, route.port))
            raise ConnectionRefusedError("seen")

    pins = PinnedHosts({"h.example": [f"fe80::1%{LOOPBACK}", "[fe80::2%7]", "fe80::3"]})
    async with world.session(transports=[pins, Dialler()]) as session:
        with pytest.raises(ConnectError):
            await session.get("http://h.example:81/")
    index = socket.if_nametoindex(LOOPBACK)
    assert found == [
        Address(socket.AF_INET6, f"fe80::{number}", 81, 0, scope) for number, scope in ((1, index), (2, 7), (3, 0))
    ]
