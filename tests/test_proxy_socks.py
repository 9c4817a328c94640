"""SOCKS 5 (RFC 1928, 1929), byte by byte, in every world."""

from __future__ import annotations

import importlib.util
import socket
import threading
from typing import Any

import pytest

import plugwire
from fake_time import FakeTime, Script, says
from plugwire import ConnectError, NoTransport, Proxy, ProxyError, Timeout, UsageError
from plugwire.events import Connect, Edge, Event, Resolve, Send, Tunnel
from plugwire.protocols import Address
from plugwire.testing import ScriptedPeer, Server
from plugwire.testing.peer import abort, close, expect, expect_end, expect_request, receive, send, tell
from plugwire_transports import SOCKS
from proxy_peer import relay
from worlds import World

DONE = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
ANYBODY = [expect(b"\x05\x01\x00"), send(b"\x05\x00")]


def name(host: bytes, port: int) -> bytes:
    return b"\x05\x01\x00\x03" + bytes([len(host)]) + host + port.to_bytes(2, "big")


def reply(code: int) -> bytes:
    return b"\x05" + bytes([code]) + DONE[2:]


async def got(world: World, *script: Any, url: str = "http://h/", scheme: str = "socks5h", **session: Any) -> Any:
    """A GET by way of a proxy that does this."""
    auth = session.pop("auth", None)
    with ScriptedPeer(list(script)) as proxy:
        settings = Proxy(f"{scheme}://127.0.0.1:{proxy.port}", auth=auth)
        async with world.session(proxy=settings, **session) as one:
            return await one.get(url)


class Names:
    """Knows some hosts."""

    name = "names"
    honours = frozenset[str]()

    def __init__(self, **hosts: list[str]) -> None:
        self.hosts = hosts
        self.asked: list[str] = []

    def refuse(self, route: Any) -> None: ...

    async def resolve(self, host: str, port: int, connecting: Any) -> Any:
        self.asked.append(host)
        if host in self.hosts:
            return [Address(10 if ":" in text else 2, text, port) for text in self.hosts[host]]
        return await connecting.resolve(host, port)


# -- the conversation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("http://h.example/", name(b"h.example", 80)),
        ("http://h.example:8080/", name(b"h.example", 8080)),
        ("http://bücher.example/", name(b"xn--bcher-kva.example", 80)),
        ("http://192.0.2.7/", b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50"),
        ("http://[2001:db8::1]/", b"\x05\x01\x00\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x00\x50"),
    ],
)
async def test_socks5h_lets_the_proxy_resolve(world: World, url: str, command: bytes) -> None:
    names = Names()
    script = [*ANYBODY, expect(command), send(DONE), expect_request(b"GET / "), send(ANSWER)]
    response = await got(world, *script, url=url, transports=[names])
    assert response.status_code == 204
    assert names.asked == ["127.0.0.1"]  # the proxy's own


async def test_socks5_resolves_here(world: World) -> None:
    names = Names(h=["192.0.2.7"])
    command = b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50"
    script = [*ANYBODY, expect(command), send(DONE), expect_request(), send(ANSWER)]
    assert (await got(world, *script, scheme="socks5", transports=[names])).ok
    assert names.asked == ["h", "127.0.0.1"]


async def test_socks5_tries_each_address(world: World) -> None:
    names = Names(h=["2001:db8::1", "192.0.2.7"])
    first = [*ANYBODY, expect(b"\x05\x01\x00\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x00\x50"), send(reply(4))]
    second = [*ANYBODY, expect(b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50"), send(DONE), expect_request(), send(ANSWER)]
    with ScriptedPeer([*first, expect_end()], second) as proxy:
        async with world.session(proxy=f"socks5://127.0.0.1:{proxy.port}", transports=[names]) as session:
            assert (await session.get("http://h/")).ok
    with ScriptedPeer([*first, expect_end()], [*ANYBODY, receive(10), send(reply(5)), expect_end()]) as proxy:
        async with world.session(proxy=f"socks5://127.0.0.1:{proxy.port}", transports=[names]) as session:
            with pytest.raises(ConnectError, match=r"2001:db8::1 port 80: host unreachable; .*7 port 80: connection"):
                await session.get("http://h/")


async def test_user_name_and_password(world: World) -> None:
    script = [
        expect(b"\x05\x02\x00\x02"), send(b"\x05\x02"),
        expect(b"\x01\x03ich\x07g\xc3\xa9heim"), send(b"\x01\x00"),
        expect(name(b"h", 80)), send(DONE), expect_request(), send(ANSWER),
    ]  # fmt: skip
    assert (await got(world, *script, auth=("ich", "géheim"))).ok


async def test_a_proxy_that_wants_no_credentials_is_not_told_them(world: World) -> None:
    script = [expect(b"\x05\x02\x00\x02"), send(b"\x05\x00"), expect(name(b"h", 80)), send(DONE)]
    assert (await got(world, *script, expect_request(), send(ANSWER), auth=("ich", "geheim"))).ok


@pytest.mark.parametrize(
    "done",
    [DONE, b"\x05\x00\x00\x03\x04here\x00\x50", b"\x05\x00\x00\x03\x00\x00\x50", b"\x05\x00\x00\x04" + bytes(18)],
)
@pytest.mark.parametrize("each", [None, 1])
async def test_what_is_behind_the_reply_comes_out_of_the_tunnel(world: World, done: bytes, each: int | None) -> None:
    """An answer before the question stands for a server that speaks first."""
    script = [*ANYBODY, expect(name(b"h", 80)), send(done + ANSWER, each=each), expect_request()]
    assert (await got(world, *script)).status_code == 204


@pytest.mark.parametrize("version", ["http/1.1", "h2"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_tls_and_http2_go_through(world: World, version: str, scheme: str) -> None:
    with Server(tls=True, http_versions=(version,)) as server:

        def through(connection: Any) -> None:
            with socket.create_connection(("127.0.0.1", server.port)) as target:
                relay(connection.sock, target)
            connection.is_closed = True
            connection.sock.close()

        with ScriptedPeer([*ANYBODY, receive(10), send(DONE), through]) as proxy:
            settings = f"{scheme}://127.0.0.1:{proxy.port}"
            async with world.session(proxy=settings, tls=server.tls_config) as session:
                for _ in range(2):
                    response = await session.post(f"{server.url}/echo", content=b"x" * 40_000)
                    assert response.json()["length"] == 40_000
                assert response.http_version == ("HTTP/2" if version == "h2" else "HTTP/1.1")


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ([send(b"\x05\xff")], ProxyError, r"wants credentials: Proxy\(auth=\)"),
        ([send(b"\x05\x02")], ProxyError, "wants credentials"),
        ([send(b"\x05\x01")], ProxyError, "wants credentials"),
        ([send(b"\x04\x00")], ProxyError, "does not answer as a SOCKS 5 proxy does"),
        ([send(b"HTTP/1.1 400 Bad\r\n\r\n")], ProxyError, "does not answer as a SOCKS 5 proxy does"),
        ([close()], ProxyError, "closed the connection"),
        ([send(b"\x05"), close()], ProxyError, "closed the connection"),
        ([abort()], ConnectError, "cannot be reached"),
        *[
            ([send(b"\x05\x00"), expect(name(b"h", 80)), send(reply(code))], error, reason)
            for code, error, reason in [
                (1, ProxyError, "refused a tunnel to h port 80: general failure"),
                (2, ProxyError, "not allowed by its rules"),
                (3, ConnectError, "cannot reach h port 80: network unreachable"),
                (4, ConnectError, "host unreachable"),
                (5, ConnectError, "connection refused"),
                (6, ConnectError, "TTL expired"),
                (7, ProxyError, "command not supported"),
                (8, ProxyError, "address type not supported"),
                (9, ProxyError, "does not answer as a SOCKS 5 proxy does"),
            ]
        ],
        ([send(b"\x05\x00"), expect(name(b"h", 80)), send(DONE[:7]), close()], ProxyError, "closed the connection"),
        ([send(b"\x05\x00"), expect(name(b"h", 80)), send(b"\x05\x00\x00\x09\x00")], ProxyError, "does not answer"),
        ([send(b"\x05\x00"), expect(name(b"h", 80)), send(b"\x00" + DONE[1:])], ProxyError, "does not answer"),
        ([send(b"\x05\x00"), expect(name(b"h", 80)), send(b"\x05\0\0\x03\x02\xff\xff\0\0")], ProxyError, "does not"),
    ],
)
async def test_errors(world: World, script: Any, error: type[plugwire.Error], reason: str) -> None:
    with ScriptedPeer([expect(b"\x05\x01\x00"), *script]) as proxy:
        async with world.session(proxy=f"socks5h://127.0.0.1:{proxy.port}") as session:
            with pytest.raises(error, match=reason) as caught:
                await session.get("http://h/")
            assert session.stats()[:2] == (0, 0)
    assert (caught.value.phase, caught.value.sent, caught.value.replayable) == ("dial", False, True)


@pytest.mark.parametrize(("answer", "reason"), [(b"\x01\x01", "does not accept"), (b"\x05\x00", "does not accept")])
async def test_credentials_that_are_not_accepted(world: World, answer: bytes, reason: str) -> None:
    script = [expect(b"\x05\x02\x00\x02"), send(b"\x05\x02"), expect(b"\x01\x03ich\x06geheim"), send(answer)]
    with pytest.raises(ProxyError, match=reason) as caught:
        await got(world, *script, expect_end(), auth=("ich", "geheim"))
    assert "geheim" not in str(caught.value)


async def test_a_name_that_is_too_long_for_socks(world: World) -> None:
    with pytest.raises(UsageError, match="at most 255"):
        async with world.session(proxy="socks5h://127.0.0.1:1") as session:
            await session.get(f"http://{'a.' * 128}example/")


async def test_without_the_library_every_route_is_refused_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("plugwire_transports.socks.find_spec", lambda name: None if name == "socksio" else find(name))
    async with world.session(proxy="socks5h://127.0.0.1:1") as session:
        with pytest.raises(NoTransport, match=r"socks: needs the package socksio: pip install 'plugwire\[socks\]'"):
            await session.get("http://h/")


async def test_one_budget_spans_all_of_it(world: World) -> None:
    fake = FakeTime(Script(says((4.0, b"\x05"), (4.0, b"\x00"), (4.0, DONE))))
    async with world.session(
        transports=[SOCKS(), fake], proxy="socks5h://127.0.0.1:1", timeout=Timeout(connect=10)
    ) as session:
        begun = fake.clock.time
        with pytest.raises(plugwire.ConnectTimeout) as caught:
            await session.get("http://h/")
        assert fake.clock.time - begun == 10
        assert caught.value.phase == "dial"
        assert all(stream.is_closed for stream in fake.streams)


async def test_cancel(world: World) -> None:
    asked = threading.Event()
    with ScriptedPeer([expect(b"\x05\x01\x00"), tell(asked), expect_end()]) as proxy:
        async with world.session(proxy=f"socks5h://127.0.0.1:{proxy.port}") as session:
            outcome = await world.cancelled_after(lambda: session.get("http://h/"), asked)
            assert outcome.error is not None
            assert session.stats().open == 0


async def test_events(world: World) -> None:
    events: list[Event] = []
    script = [*ANYBODY, expect(name(b"h", 80)), send(DONE), expect_request(), send(ANSWER)]
    with ScriptedPeer(script) as proxy:
        settings = Proxy(f"socks5h://127.0.0.1:{proxy.port}")
        async with world.session(proxy=settings) as session:
            await session.get("http://h/", observe=events.append)
    kinds = [type(event) for event in events if getattr(event, "edge", None) is Edge.STARTED]
    begin = kinds.index(Resolve)
    assert kinds[begin : begin + 4] == [Resolve, Connect, Tunnel, Send]
    [started, finished] = [event for event in events if isinstance(event, Tunnel)]
    assert (started.proxy, started.target, finished.edge) == (settings.url, "h:80", Edge.FINISHED)
