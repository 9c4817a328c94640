"""Tunnels through an HTTP proxy (CONNECT, RFC 9110, 9.3.6), in every world; the proxy is scripted, or a relay."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
import trustme

import plugwire
from fake_time import FakeTime, Script, says
from plugwire import Limits, Proxy, ProxyError, Timeout, TLSConfig, UsageError
from plugwire.events import TLS, Connect, Edge, Event, Head, Resolve, Send, Tunnel
from plugwire.protocols import EVERYTHING
from plugwire.testing import ScriptedPeer, Server
from plugwire.testing.peer import (
    PeerConnection,
    Step,
    abort,
    close,
    expect,
    expect_end,
    expect_request,
    send,
    tell,
    wait_for,
)
from plugwire_plugins.retries import Retries, RetryPolicy
from plugwire_transports import HTTPProxy
from plugwire_transports.proxy import MAX_REFUSAL_BYTES
from proxy_peer import OK, WANTS, WANTS_MUCH, Challenge, ProxyPeer
from worlds import World

H11: dict[str, Any] = {"http_versions": ("http/1.1",)}


def connect(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"CONNECT {target} HTTP/1.1", f"Host: {target}", *lines, "", ""]).encode()


# -- what goes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://h.example/", "h.example:443"),
        ("https://h.example:8443/", "h.example:8443"),
        ("https://[2001:db8::1]/", "[2001:db8::1]:443"),
        ("wss://h.example/", "h.example:443"),
        ("ws://h.example/", "h.example:80"),
        ("https://bücher.example/", "xn--bcher-kva.example:443"),
    ],
)
async def test_connect_says_where_to_and_no_more(world: World, url: str, target: str) -> None:
    """Nothing of the request is in it: credentials, cookies and fields are for the origin."""
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with ScriptedPeer([expect(connect(target)), send(refusal), expect_end()]) as proxy:
        session_keywords: dict[str, Any] = {"auth": ("me", "geheim"), "headers": {"Cookie": "a=geheim", "X": "geheim"}}
        async with world.session(proxy=proxy.url, **session_keywords) as session:
            with pytest.raises(ProxyError, match="403 Forbidden"):
                await session.get(url, headers={"Authorization": "geheim"})


async def test_credentials_and_fields_for_the_proxy(world: World) -> None:
    want = connect("h:443", "X-Token: one", "Proxy-Authorization: Basic aWNoOmdlaGVpbQ==")
    with ScriptedPeer([expect(want), send(b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n")]) as proxy:
        settings = Proxy(f"http://ich:geheim@127.0.0.1:{proxy.port}", headers=(("X-Token", "one"),))
        async with world.session(proxy=settings) as session:
            with pytest.raises(ProxyError) as caught:
                await session.get("https://h/")
    assert "geheim" not in str(caught.value) + repr(caught.value.response)


def test_the_answer_of_a_proxy_has_the_face_of_its_world() -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    with (
        ScriptedPeer([expect(connect("h:443")), send(refusal), expect_end()]) as proxy,
        plugwire.Session(proxy=proxy.url) as session,
        pytest.raises(ProxyError) as caught,
    ):
        session.connect("https://h/")
    assert isinstance(caught.value.response, plugwire.Response)


async def test_the_origin_gets_nothing_that_is_for_the_proxy_cve_2023_32681(world: World) -> None:
    with Server(tls=True) as server, ProxyPeer(target=server.port) as proxy:
        settings = Proxy(proxy.url, auth=("ich", "geheim"), headers=(("X-Token", "one"),))
        async with world.session(proxy=settings, tls=server.tls_config) as session:
            assert (await session.get(f"{server.url}/hello")).ok
            with pytest.raises(UsageError, match="would go through the tunnel to the origin") as caught:
                await session.get(f"{server.url}/hello", headers={"Proxy-Authorization": "Basic geheim"})
            assert "geheim" not in str(caught.value)
    [call] = server.calls
    assert "proxy-authorization" not in call.headers
    assert "x-token" not in call.headers
    assert b"Proxy-Authorization" in proxy.heads[0]


# -- what goes through ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "tls"), [("h2", False), ("h2", True), ("http/1.1", True)])
@pytest.mark.parametrize("proxy_tls", [False, True])
async def test_what_is_spoken_inside_of_a_tunnel(world: World, version: str, tls: bool, proxy_tls: bool) -> None:
    with (
        Server(tls=tls, http_versions=(version,)) as server,
        ProxyPeer(target=server.port, tls=proxy_tls) as proxy,
    ):
        settings = Proxy(proxy.url, tls=proxy.tls_config if proxy_tls else None)
        trust = {"tls": server.tls_config} if tls else {}
        versions = ("h2", "http/1.1") if tls else (version,)
        async with world.session(proxy=settings, http_versions=versions, **trust) as session:
            for _ in range(2):
                response = await session.post(f"{server.url}/echo", content=b"x" * 40_000)
                assert response.json()["length"] == 40_000
                assert response.http_version == ("HTTP/2" if version == "h2" else "HTTP/1.1")
                assert (response.connection.tls is not None) is tls
    assert proxy.lines == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.1".encode()]


async def test_a_websocket_goes_by_connect_with_its_request_in_origin_form(world: World) -> None:
    script = [expect(connect("h:80")), send(OK), expect_request(b"GET /chat "), send(b"HTTP/1.1 204 No\r\n\r\n")]
    with ScriptedPeer(script) as proxy:
        async with world.session(proxy=proxy.url) as session:
            assert (await session.get("ws://h/chat")).status_code == 204


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_any_answer_of_success_opens_the_tunnel(world: World, answer: bytes) -> None:
    """What its fields say of content counts for nothing: there is none in a 2xx to CONNECT (RFC 9110, 9.3.6)."""
    script = [expect(connect("h:80")), send(answer), expect_request(b"GET / "), send(b"HTTP/1.1 204 No\r\n\r\n")]
    with ScriptedPeer(script) as proxy:
        async with world.session(proxy=proxy.url) as session:
            assert (await session.get("ws://h/")).status_code == 204


@pytest.mark.parametrize("each", [None, 1])
async def test_bytes_behind_the_head_come_out_of_the_tunnel(world: World, each: int | None) -> None:
    """A server that speaks first: h2 in the clear, whose SETTINGS may come with the proxy's answer."""
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    seen = threading.Event()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    script = [expect(connect("h:80")), send(OK + settings, each=each), expect(preface), tell(seen), close()]
    with ScriptedPeer(script) as proxy:
        async with world.session(proxy=proxy.url, http_versions=("h2",)) as session:
            with pytest.raises((plugwire.NetworkError, plugwire.ProtocolError)) as caught:
                await session.get("http://h/")
    assert seen.is_set()
    assert not isinstance(caught.value, ProxyError)


# -- TLS, twice ----------------------------------------------------------------------------------------------------


async def test_proxy_and_origin_are_verified_apart(world: World) -> None:
    """As urllib3 2.2.0 and httpcore2 2.10 had to learn: neither one's settings count for the other."""
    with Server(tls=True) as server, ProxyPeer(target=server.port, tls=True) as proxy:
        trusted, nothing = server.tls_config, TLSConfig(verify=False)
        pinned = TLSConfig(ca_data=trusted.ca_data, pins=("0" * 64,))

        async def get(for_proxy: TLSConfig | None, for_origin: TLSConfig) -> Any:
            settings = Proxy(proxy.url, tls=for_proxy)
            async with world.session(proxy=settings, tls=for_origin, **H11) as session:
                return await session.get(f"{server.url}/hello")

        assert (await get(trusted, trusted)).ok
        assert len(proxy.heads) == 1
        for for_proxy in (None, pinned):
            with pytest.raises(plugwire.CertificateError):
                await get(for_proxy, nothing)
        assert len(proxy.heads) == 1  # it was told nothing
        for for_origin in (TLSConfig(), pinned):
            with pytest.raises(plugwire.CertificateError):
                await get(nothing, for_origin)
        other = trustme.CA().cert_pem.bytes().decode()
        with pytest.raises(plugwire.CertificateError):
            await get(trusted, TLSConfig(ca_data=other))
        assert len(server.calls) == 1


async def test_what_the_handshake_with_the_proxy_agreed_on_says_nothing_of_the_origin(world: World) -> None:
    """ALPN gave http/1.1 for the hop; what is spoken inside is h2 all the same, and TLS there is none."""
    with Server(http_versions=("h2",)) as server, ProxyPeer(target=server.port, tls=True) as proxy:
        settings = Proxy(proxy.url, tls=proxy.tls_config)
        async with world.session(proxy=settings, http_versions=("h2",)) as session:
            response = await session.get(f"{server.url}/hello")
            assert response.http_version == "HTTP/2"
            assert response.connection.tls is None


async def test_proxies_differ_in_the_pools_eyes(world: World) -> None:
    with Server(tls=True) as server, ProxyPeer(target=server.port) as proxy:
        async with world.session(tls=server.tls_config, **H11) as session:
            one, same = Proxy(proxy.url, auth=("a", "b")), Proxy(proxy.url, auth=("a", "b"))
            for settings in (one, same, Proxy(proxy.url), Proxy(proxy.url, headers=(("a", "b"),)), one):
                assert (await session.get(f"{server.url}/hello", proxy=settings)).ok
            assert (await session.get(f"{server.url}/hello", proxy=None)).ok
            assert session.stats().open == 4
    assert len(proxy.heads) == 3


# -- refusals ------------------------------------------------------------------------------------------------------


async def refused(world: World, *script: Any, limits: Limits | None = None, auth: Any = None) -> ProxyError:
    """What a GET raises when the proxy does this."""
    with ScriptedPeer([expect_request(b"CONNECT "), *script]) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=auth), limits=limits or Limits()) as session:
            with pytest.raises(ProxyError) as caught:
                await session.get("https://h/")
            assert session.stats()[:2] == (0, 0)
    error = caught.value
    assert (error.phase, error.sent, error.replayable, error.attempts) == ("dial", False, True, 1)
    assert error.request is not None and str(error.request.url) == "https://h/"
    assert f"the proxy {proxy.url}" in str(error)
    return error


def offer(data: bytes) -> Step:
    """Send as much of it as the client takes: it may leave in the middle, having had enough."""

    def offer(connection: PeerConnection) -> None:
        with suppress(OSError):
            send(data)(connection)

    return offer


async def test_a_refusal_has_the_answer(world: World) -> None:
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 5\r\n\r\nlater"
    error = await refused(world, send(answer))
    assert error.response is not None
    assert (error.response.status_code, error.response.reason, error.response.text) == (503, "Busy", "later")
    assert error.response.headers["retry-after"] == "3"


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked", b"Connection: close"])
async def test_of_its_content_only_so_much_is_kept(world: World, framing: bytes) -> None:
    size = b"100000\r\n" if b"chunked" in framing else b""
    error = await refused(world, offer(b"HTTP/1.1 403 No\r\n" + framing + b"\r\n\r\n" + size + b"x" * 500_000))
    assert error.response is not None
    assert error.response.content == b"x" * MAX_REFUSAL_BYTES


async def test_content_that_breaks_off_is_no_reason_to_hide_the_status(world: World) -> None:
    error = await refused(world, send(b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nhalf"), close())
    assert error.response is not None and error.response.content == b"half"


async def test_a_proxy_that_wants_credentials_and_gets_none(world: World) -> None:
    answer = WANTS.replace(b"Test one", b"Negotiate\r\nProxy-Authenticate: Basic realm=x")
    error = await refused(world, send(answer))
    assert "407" in str(error) and "Negotiate, Basic" in str(error) and "Proxy(auth=)" in str(error)
    error = await refused(world, send(WANTS), auth=("ich", "geheim"))
    assert "does not accept the credentials given" in str(error) and "geheim" not in str(error)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "closed the connection without a response"),
        (b"HTTP/1.1 200 O", "inside the head"),
        (b"SSH-2.0-OpenSSH\r\n", "HTTP"),
        (b"HTTP/1.1 200 OK\nA: b\n\n", "bare LF"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "101"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 21, "max_informational"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 300_000, "max_head_bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1001 + b"\r\n", "max_headers"),
    ],
)
async def test_a_proxy_that_talks_nonsense(world: World, said: bytes, reason: str) -> None:
    error = await refused(world, offer(said), close())
    assert reason in str(error)
    assert error.response is None


async def test_a_proxy_that_resets(world: World) -> None:
    await refused(world, abort())


async def test_a_proxy_that_cannot_be_reached(world: World) -> None:
    with socket.socket() as silent:  # bound, and not listening: nobody else gets the port
        silent.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with world.session(proxy=proxy) as session:
            for url in ("https://h/", "http://h/"):
                with pytest.raises(plugwire.ConnectError, match=rf"the proxy {proxy} cannot be reached") as caught:
                    await session.get(url)
                assert caught.value.phase == "dial" and not caught.value.sent


async def test_what_the_proxy_says_may_be_retried(world: World) -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    retries = Retries(policy=RetryPolicy(backoff=0), random=lambda: 0.0)
    with Server(tls=True) as server:
        answers = iter([busy, busy, OK])
        with ProxyPeer(lambda head: next(answers), target=server.port) as proxy:
            async with world.session(proxy=proxy.url, tls=server.tls_config, plugins=[retries]) as session:
                assert (await session.post(f"{server.url}/echo", content=b"x")).ok
    assert len(proxy.heads) == 3
    with ScriptedPeer([expect_request(), send(WANTS)]) as proxy:
        async with world.session(proxy=proxy.url, plugins=[retries]) as session:
            with pytest.raises(ProxyError, match="407"):
                await session.get("https://h/")


# -- authentication ------------------------------------------------------------------------------------------------


async def test_the_same_connection_is_asked_again(world: World) -> None:
    """NTLM and its like authenticate connections."""
    auth = Challenge(("Test 1", "Test 2"))
    with Server(tls=True) as server:
        done = b"HTTP/1.1 200 OK\r\nProxy-Authentication-Info: well\r\n\r\n"
        answers = iter([WANTS, WANTS.replace(b"one", b"two"), done])
        with ProxyPeer(lambda head: next(answers), target=server.port) as proxy:
            async with world.session(proxy=Proxy(proxy.url, auth=auth), tls=server.tls_config) as session:
                assert (await session.get(f"{server.url}/hello")).ok
    assert proxy.connections == [0, 0, 0]
    assert auth.infos == ["well"]
    assert proxy.heads[0] == connect(f"127.0.0.1:{server.port}")
    assert proxy.heads[2] == connect(f"127.0.0.1:{server.port}", "Proxy-Authorization: Test 2")
    target = f"127.0.0.1:{server.port}"
    assert auth.seen == [
        (f"{proxy.url}/", target, 401, "Test one"),
        (f"{proxy.url}/", target, 401, "Test two"),
        (f"{proxy.url}/", target, 200, None),
    ]


async def test_a_challenge_that_the_auth_object_leaves_unread(world: World) -> None:
    """It is read for it, for the same connection is to be asked again."""
    with Server(tls=True) as server:
        answers = iter([WANTS_MUCH, OK])
        with ProxyPeer(lambda head: next(answers), target=server.port) as proxy:
            async with world.session(proxy=Proxy(proxy.url, auth=Challenge()), tls=server.tls_config) as session:
                assert (await session.get(f"{server.url}/hello")).ok
    assert proxy.connections == [0, 0]


@pytest.mark.parametrize("url", ["https://h/", "http://h/"])
async def test_cancel_between_the_second_dial_and_its_use(world: World, url: str) -> None:
    class Canceller:
        name = "canceller"
        honours = frozenset({EVERYTHING})
        dials = 0

        def refuse(self, route: Any) -> None: ...

        async def dial(self, route: Any, connecting: Any) -> Any:
            stream = await connecting.dial(route)
            self.dials += 1
            if self.dials == 2:
                calls[0].cancel()
            return stream

    calls: list[Any] = []

    class Watch:
        @plugwire.hookimpl
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            calls.append(call)
            return await call_next(request)

    closing = WANTS.replace(b"Content", b"Connection: close\r\nContent")
    transports = [HTTPProxy(), Canceller()]
    with ScriptedPeer([expect_request(), send(closing), close()], [expect_end()]) as proxy:
        settings = Proxy(proxy.url, auth=Challenge())
        async with world.session(proxy=settings, transports=transports, plugins=[Watch()]) as session:
            with pytest.raises(plugwire.Cancelled):
                await session.get(url)


async def test_a_side_request_of_the_auth_object_fails_as_itself(world: World) -> None:
    class Ticket:
        async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
            await call.send(plugwire.Request("GET", f"{tickets.url}/"))

    with ScriptedPeer([expect_request(), close()]) as tickets, ScriptedPeer([]) as proxy:
        settings = {"https": Proxy(proxy.url, auth=Ticket())}
        async with world.session(proxy=settings) as session:
            with pytest.raises(plugwire.ConnectionClosed):
                await session.get("https://h/")


async def test_a_connection_that_is_leased_goes_through_its_tunnel(world: World) -> None:
    with Server(tls=True) as server, ProxyPeer(target=server.port) as proxy:
        session = world.session(proxy=proxy.url, tls=server.tls_config, **H11)
        async with session, await session.connect(server.url) as handle:
            assert len(proxy.heads) == 1
            for _ in range(2):
                async with await handle.open_request("GET", "/hello").send() as response:
                    await response.read()
    assert len(proxy.heads) == 1


async def test_a_proxy_that_closes_is_dialled_again(world: World) -> None:
    closing = WANTS.replace(b"Content", b"Connection: close\r\nContent")
    with Server(tls=True) as server:
        answers = iter([closing, OK])
        with ProxyPeer(lambda head: next(answers), target=server.port) as proxy:
            events: list[Event] = []
            async with world.session(proxy=Proxy(proxy.url, auth=Challenge()), tls=server.tls_config) as session:
                assert (await session.get(f"{server.url}/hello", observe=events.append)).ok
    assert proxy.connections == [0, 1]
    kinds = [type(event) for event in events if getattr(event, "edge", None) is Edge.STARTED]
    assert kinds.count(Connect) == 2 and kinds.count(Tunnel) == 1


async def test_credentials_that_are_not_accepted(world: World) -> None:
    with ProxyPeer(lambda head: WANTS) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Challenge())) as session:
            with pytest.raises(ProxyError, match="does not accept the credentials given") as caught:
                await session.get("https://h/")
            assert session.stats().open == 0
    assert caught.value.response is not None and caught.value.response.headers["proxy-authenticate"] == "Test one"


async def test_an_error_of_the_auth_object_is_its_own(world: World) -> None:
    class Strict:
        async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
            raise UsageError("no ticket")

    with ScriptedPeer([]) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Strict())) as session:
            with pytest.raises(UsageError, match="no ticket"):
                await session.get("https://h/")


# -- events, time, cancel ------------------------------------------------------------------------------------------


async def test_events(world: World) -> None:
    events: list[Event] = []
    with Server(tls=True) as server, ProxyPeer(target=server.port, tls=True) as proxy:
        url = f"https://ich:geheim@127.0.0.1:{proxy.port}"
        async with world.session(proxy=Proxy(url, tls=proxy.tls_config), tls=server.tls_config) as session:
            await session.get(f"{server.url}/hello", observe=events.append)
    kinds = [type(event) for event in events if getattr(event, "edge", None) is Edge.STARTED]
    begin = kinds.index(Resolve)
    assert kinds[begin : begin + 6] == [Resolve, Connect, TLS, Tunnel, TLS, Send]
    assert sum(isinstance(event, Head) for event in events) == 1  # CONNECT is no request of the caller's
    tunnels = [event for event in events if isinstance(event, Tunnel)]
    assert [tunnel.edge for tunnel in tunnels] == [Edge.STARTED, Edge.FINISHED]
    assert (tunnels[0].proxy, tunnels[0].target) == (proxy.url, f"127.0.0.1:{server.port}")
    assert "geheim" not in repr(events)


async def test_a_tunnel_that_is_refused_is_an_event_too(world: World) -> None:
    events: list[Event] = []
    with ScriptedPeer([expect_request(), send(WANTS)]) as proxy:
        async with world.session(proxy=proxy.url) as session:
            with pytest.raises(ProxyError):
                await session.get("https://h/", observe=events.append)
    [_, failed] = [event for event in events if isinstance(event, Tunnel)]
    assert failed.edge is Edge.FAILED and isinstance(failed.error, ProxyError)


@pytest.mark.parametrize(
    ("timeout", "kind", "after"),
    [
        (Timeout(connect=10, read=3), plugwire.ConnectTimeout, 10),
        (Timeout(connect=10, total=4), plugwire.TotalTimeout, 4),
    ],
)
@pytest.mark.parametrize(
    "said",
    [
        [],
        [(2.0, b"HTTP/1.1 100 Continue\r\n\r\n")] * 19,
        [(0.1, bytes([byte])) for byte in b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200],
    ],
)
async def test_one_budget_spans_all_of_it(
    world: World, timeout: Timeout, kind: type[plugwire.TimedOut], after: float, said: list[tuple[float, bytes]]
) -> None:
    """However the proxy draws it out, and whatever one read may take."""
    fake = FakeTime(Script(says(*said)) if said else Script())
    async with world.session(
        transports=[HTTPProxy(), fake], proxy=Proxy("http://127.0.0.1:1", auth=Challenge()), timeout=timeout
    ) as session:
        begun = fake.clock.time
        with pytest.raises(kind) as caught:
            await session.get("https://h/")
        assert fake.clock.time - begun == after
        assert (caught.value.phase, caught.value.sent) == ("dial", False)
        assert caught.value.request is not None and caught.value.request.method == "GET"
        assert all(stream.is_closed for stream in fake.streams)


async def test_a_refusal_that_never_ends_is_told_when_the_time_is_up(world: World) -> None:
    head = b"HTTP/1.1 403 No\r\nContent-Length: 90\r\n\r\n"
    fake = FakeTime(Script(says((2.0, head), *[(2.0, b"x")] * 50)))
    async with world.session(transports=[HTTPProxy(), fake], proxy="http://127.0.0.1:1") as session:
        begun = fake.clock.time
        with pytest.raises(ProxyError, match="403") as caught:
            await session.get("https://h/")
        assert fake.clock.time - begun == 10
        assert caught.value.response is not None and caught.value.response.content == b"xxx"


class Reader:
    """Reads what it is told before it answers."""

    async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
        response = await call_next(request)
        await response.read()
        return response


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 407 No\r\nContent-Length: 9\r\n\r\n"])
async def test_cancel(world: World, answer: bytes) -> None:
    """Before the answer, and inside of a refusal that the auth object reads."""
    asked = threading.Event()
    script = [expect_request(), send(answer), tell(asked), expect_end()]
    with ScriptedPeer(script) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Reader())) as session:
            outcome = await world.cancelled_after(lambda: session.get("https://h/"), asked)
            assert outcome.error is not None
            assert session.stats().open == 0


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 407 No\r\nContent-Length: 9\r\n\r\n"])
async def test_cancel_by_the_call_itself(world: World, answer: bytes) -> None:
    calls: list[Any] = []
    asked = threading.Event()

    class Watch:
        @plugwire.hookimpl
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            calls.append(call)
            return await call_next(request)

    with ScriptedPeer([expect_request(), send(answer), tell(asked), expect_end()]) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Reader()), plugins=[Watch()]) as session:
            getting = world.in_background(lambda: session.get("https://h/"))
            await world.runtime().run_blocking(asked.wait, 30)
            calls[0].cancel()
            outcome = await getting.outcome()
            assert isinstance(outcome.error, plugwire.Cancelled)
            assert (outcome.error.sent, outcome.error.phase) == (False, "dial")
            assert session.stats().open == 0


async def test_closing_the_session_under_it(world: World) -> None:
    asked = threading.Event()
    with ScriptedPeer([expect_request(), tell(asked), expect_end()]) as proxy:
        session = world.session(proxy=proxy.url)
        getting = world.in_background(lambda: session.get("https://h/"))
        await world.runtime().run_blocking(asked.wait, 30)
        await session.close()
        outcome = await getting.outcome()
        assert isinstance(outcome.error, plugwire.SessionClosed)


async def test_cancel_while_a_forwarded_request_is_dialled_again(world: World) -> None:
    closing = WANTS.replace(b"Content", b"Connection: close\r\nContent")
    asked, go = threading.Event(), threading.Event()
    script = [expect_request(), send(closing), close()]
    with ScriptedPeer(script, [expect_request(), tell(asked), wait_for(go), expect_end()]) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Challenge())) as session:
            outcome = await world.cancelled_after(lambda: session.get("http://h/"), asked)
            go.set()
            assert outcome.error is not None
            assert session.stats().open == 0
