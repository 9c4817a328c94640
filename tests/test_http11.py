"""HTTP/1.1 on one connection: what goes on the wire to the byte, how responses end, what becomes of the connection."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Headers, InvalidHeader, LimitExceeded, Limits, ProtocolError, Request, UsageError
from plugwire.events import Informational
from plugwire.protocols import Stream
from plugwire.testing.peer import (
    PeerConnection,
    ScriptedPeer,
    abort,
    close,
    expect,
    expect_end,
    expect_head,
    expect_request,
    send,
    wait_for,
)
from plugwire_transports import http11_body
from worlds import PATIENCE, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.testing.peer import Step

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def bare(world: World, **kwargs: Any) -> Any:
    """A session without default plugins, so that nothing but the core's own fields goes out."""
    return world.session(defaults=False, **kwargs)


def open_connections(session: Any) -> tuple[int, int]:
    stats = session.stats()
    return stats.open, stats.idle


# -- requests, to the byte -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("GET", "GET /p?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ("HEAD", "HEAD /p?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ("OPTIONS", "OPTIONS /p?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ("TRACE", "TRACE /p?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ("DELETE", "DELETE /p?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ("QUERY", "QUERY /p?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ("get", "GET /p?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ("Propfind", "Propfind /p?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ("POST", "POST /p?q=1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"),
        ("PUT", "PUT /p?q=1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"),
        ("PATCH", "PATCH /p?q=1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_the_exact_bytes_of_a_request_without_a_body(world: World, method: str, head: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with ScriptedPeer([expect_head(), send(answer)]) as peer:
        async with bare(world) as session:
            response = await session.request(method, f"{peer.url}/p?q=1#fragment")
            assert response.status_code == 200
        assert peer.received == [head.format(host=f"127.0.0.1:{peer.port}").encode()]


async def test_fields_go_out_in_the_order_given_host_first(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK)]) as peer:
        async with bare(world, headers={"X-Session": "s"}) as session:
            await session.get(peer.url, headers=[("X-B", "2"), ("x-a", "1"), ("X-B", "3")])
        host = f"127.0.0.1:{peer.port}"
        assert peer.received == [
            f"GET / HTTP/1.1\r\nHost: {host}\r\nX-Session: s\r\nX-B: 2\r\nx-a: 1\r\nX-B: 3\r\n\r\n".encode()
        ]


async def test_head_and_a_small_body_go_out_together(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=b"hello")
        host = f"127.0.0.1:{peer.port}"
        assert peer.received == [f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello".encode()]


@pytest.mark.parametrize(
    ("method", "target", "line"),
    [
        ("OPTIONS", "*", b"OPTIONS * HTTP/1.1\r\n"),
        ("GET", "http://example.com/x", b"GET http://example.com/x HTTP/1.1\r\n"),
        ("CONNECT", "example.com:443", b"CONNECT example.com:443 HTTP/1.1\r\n"),
    ],
)
async def test_target_forms(world: World, method: str, target: str, line: bytes) -> None:
    with ScriptedPeer([expect_head(line), send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")]) as peer:
        request = Request(method, peer.url)
        request.target = target
        async with bare(world) as session:
            assert (await session.send(request)).status_code == 404


async def test_a_connect_without_a_target_asks_for_the_authority_of_its_url(world: World) -> None:
    with ScriptedPeer([expect_head(), send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")]) as peer:
        async with bare(world) as session:
            assert (await session.request("CONNECT", f"{peer.url}/ignored")).status_code == 403
        assert peer.received[0].startswith(f"CONNECT 127.0.0.1:{peer.port} HTTP/1.1\r\n".encode())


async def test_a_handle_sends_star_and_authority_targets(world: World) -> None:
    no = send(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
    with ScriptedPeer([expect_head(b"OPTIONS * "), no, expect_head(b"CONNECT [::1]:22 "), no]) as peer:
        async with bare(world) as session, await session.connect(peer.url) as connection:
            for method, target in (("OPTIONS", "*"), ("CONNECT", "[::1]:22")):
                response = await connection.open_request(method, target).send()
                assert response.status_code == 405
                await response.close()
        # Host repeats the authority that is asked for.
        assert peer.received[0].endswith(b"CONNECT [::1]:22 HTTP/1.1\r\nHost: [::1]:22\r\n\r\n")


async def test_the_callers_own_host_takes_the_place_of_ours(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK)], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.get(peer.url, headers=[("X-A", "1"), ("host", "other.example")])
        async with bare(world, headers=[("X-A", "1"), ("Host", "mine.example")]) as session:
            await session.get(peer.url)
        assert peer.received[0] == b"GET / HTTP/1.1\r\nHost: other.example\r\nX-A: 1\r\n\r\n"
        assert peer.received[1] == b"GET / HTTP/1.1\r\nHost: mine.example\r\nX-A: 1\r\n\r\n"


# -- refused before any I/O ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "content", "message"),
    [
        ("GET", [("Host", "a"), ("host", "b")], None, "one Host"),
        ("GET", [("Host", "a"), ("host", "a")], None, "one Host"),
        ("POST", [("Content-Length", "4")], b"12345", "has 5 bytes"),
        ("POST", [("Content-Length", "6")], b"12345", "has 5 bytes"),
        ("GET", [("Content-Length", "5")], None, "has 0 bytes"),
        ("POST", [("Content-Length", "5"), ("Content-Length", "5")], b"12345", "not one number"),
        ("POST", [("Content-Length", "5, 5")], b"12345", "not one number"),
        ("POST", [("Content-Length", "five")], b"12345", "not one number"),
        ("POST", [("Content-Length", "+5")], b"12345", "not one number"),
        ("POST", [("Content-Length", "5"), ("Transfer-Encoding", "chunked")], b"12345", "both"),
        ("POST", [("Transfer-Encoding", "gzip, chunked")], b"12345", "'chunked'"),
        ("POST", [("Transfer-Encoding", "identity")], b"12345", "'chunked'"),
        ("POST", [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], b"1", "'chunked'"),
    ],
)
async def test_framing_that_is_ambiguous_or_wrong_is_refused_before_io(
    world: World, method: str, headers: list[tuple[str, str]], content: bytes | None, message: str
) -> None:
    with ScriptedPeer() as peer:
        async with bare(world) as session:
            with pytest.raises(UsageError, match=message) as caught:
                await session.request(method, peer.url, headers=headers, content=content)
            assert not caught.value.sent
        assert peer.accepted == 0


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
async def test_a_session_cannot_have_framing_fields(world: World, name: str) -> None:
    async with bare(world, headers={name: "chunked" if name[0] == "T" else "0"}) as session:
        with pytest.raises(InvalidHeader, match="one request"):
            await session.get("http://127.0.0.1:1/")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "a\rb", "€"])
async def test_values_that_must_not_go_out_are_refused_before_io(world: World, value: str) -> None:
    with ScriptedPeer() as peer:
        async with bare(world) as session:
            with pytest.raises(InvalidHeader):
                await session.get(peer.url, headers={"X-A": value})
            with pytest.raises(UsageError):
                await session.request("GE T", peer.url)
            with pytest.raises(InvalidHeader):
                await session.get(peer.url, headers={"X A": "1"})
        assert peer.accepted == 0


async def test_a_bad_target_leaves_the_connection_as_it_is(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            request = Request("GET", peer.url)
            request.target = "/a b"
            with pytest.raises(InvalidHeader, match="position 2") as caught:
                await session.send(request)
            assert not caught.value.sent
            assert open_connections(session) == (1, 1)
            await session.get(peer.url)


# -- where responses end -------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("method", "answer", "content", "is_kept"),
    [
        ("GET", HEAD + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
        ("GET", HEAD + b"Content-Length: 5, 5\r\n\r\nhello", b"hello", True),
        ("GET", HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
        ("GET", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\n wo\r\n0\r\n\r\n", b"hello wo", True),
        ("GET", HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", True),
        ("HEAD", HEAD + b"Content-Length: 5\r\n\r\n", b"", True),
        ("HEAD", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"", True),
        ("HEAD", HEAD + b"\r\n", b"", True),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"", True),
        ("GET", HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
        ("GET", HEAD + b"Connection: x, Close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"hi", False),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
        ("GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    ],
)
@pytest.mark.parametrize("each", [None, 1])
async def test_what_ends_a_response_and_whether_its_connection_is_kept(
    world: World, method: str, answer: bytes, content: bytes, is_kept: bool, each: int | None
) -> None:
    again = [expect_head(b"GET /again "), send(OK)]
    first = [expect_head(), send(answer, each=each)]
    scripts = [[*first, *again]] if is_kept else [first, again]
    with ScriptedPeer(*scripts) as peer:
        async with bare(world) as session:
            response = await session.request(method, peer.url)
            assert response.content == content
            assert (await session.get(f"{peer.url}/again")).content == b"ok"
            assert open_connections(session) == (1, 1)


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_a_body_that_ends_with_the_connection(world: World, version: bytes) -> None:
    with ScriptedPeer([expect_head(), send(version + b" 200 OK\r\n\r\nall of it", 21), close()]) as peer:
        async with bare(world) as session:
            response = await session.get(peer.url)
            assert response.content == b"all of it"
            assert response.http_version == version.decode()
            assert open_connections(session) == (0, 0)


async def test_trailers(world: World) -> None:
    body = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\nContent-Length: 9\r\n\r\n"
    with ScriptedPeer([expect_head(), send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)]) as peer:
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            # What came in one packet is decoded at once, so they may be there early; here they are at the latest:
            assert await response.read() == b"abc"
            assert response.trailers is not None
            # Content-Length cannot be a trailer: it is dropped.
            assert list(response.trailers.items()) == [("X-Sum", "1"), ("X-Sum", "2")]


async def test_no_trailers_are_none(world: World) -> None:
    answer = HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with ScriptedPeer([expect_head(), send(answer), expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).trailers is None
            assert (await session.get(peer.url)).trailers is None


# -- surplus and unasked bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "answer", "surplus", "content"),
    [
        ("GET", HEAD + b"Content-Length: 5\r\n\r\nhello", b"!", b"hello"),
        ("GET", HEAD + b"Content-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b""),
        ("GET", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"HTTP/1.1 200", b"hi"),
        ("HEAD", HEAD + b"Content-Length: 5\r\n\r\n", b"hello", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"x", b""),
    ],
)
@pytest.mark.parametrize("is_cut", [False, True])
async def test_surplus_bytes_retire_the_connection(
    world: World, method: str, answer: bytes, surplus: bytes, content: bytes, is_cut: bool
) -> None:
    cuts = range(1, len(answer)) if is_cut else ()
    with ScriptedPeer(
        [expect_head(), send(answer + surplus, *cuts), expect_end()], [expect_head(b"GET /again "), send(OK)]
    ) as peer:
        async with bare(world) as session:
            assert (await session.request(method, peer.url)).content == content
            assert open_connections(session) == (0, 0)
            assert (await session.get(f"{peer.url}/again")).content == b"ok"


async def test_bytes_that_come_while_idle_are_never_taken_for_an_answer(world: World) -> None:
    said = threading.Event()
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    def speak_unasked(connection: PeerConnection) -> None:
        connection.sock.sendall(evil)
        said.set()

    with ScriptedPeer(
        [expect_head(), send(OK), wait_for(go := threading.Event()), speak_unasked, expect_end()],
        [expect_head(), send(OK)],
    ) as peer:
        async with bare(world) as session:
            await session.get(peer.url)
            go.set()
            await world.runtime().run_blocking(said.wait, 30)
            assert (await session.get(peer.url)).content == b"ok"
        assert peer.accepted == 2


async def test_a_connection_that_the_peer_closed_while_idle_is_replaced(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK), close()], [expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.get(peer.url)
            assert await world.runtime().run_blocking(peer.wait_closed, 30)
            assert (await session.post(peer.url, content=iter([b"one-shot"]))).content == b"ok"


# -- interim responses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [None, 1])
async def test_interim_responses_are_events(world: World, each: int | None) -> None:
    seen: list[Any] = []
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    with ScriptedPeer([expect_head(), send(interim + OK, each=each)]) as peer:
        async with bare(world) as session:
            response = await session.get(
                peer.url, observe=lambda event: seen.append(event) if isinstance(event, Informational) else None
            )
            assert response.content == b"ok"
    assert [(event.status, event.reason) for event in seen] == [(103, "Early Hints"), (102, "Processing")]
    assert seen[0].headers["link"] == "</a>"


async def test_interim_responses_are_limited_for_each_request(world: World) -> None:
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    script: list[Step] = []
    for _ in range(3):
        script += [expect_head(), send(interim * 2 + OK)]
    with ScriptedPeer([*script, expect_head(), send(interim * 3 + OK), expect_end()]) as peer:
        async with bare(world, limits=Limits(max_informational=2)) as session:
            for _ in range(3):
                assert (await session.get(peer.url)).content == b"ok"
            with pytest.raises(LimitExceeded, match="max_informational=2") as caught:
                await session.get(peer.url)
            assert caught.value.limit == "max_informational"
            assert caught.value.phase == "head"
            assert open_connections(session) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "answer", "limit"),
    [
        (Limits(max_head_bytes=100), HEAD + b"X: " + b"y" * 100 + b"\r\n\r\n", "max_head_bytes"),
        (Limits(max_headers=3), HEAD + b"X: y\r\n" * 4 + b"\r\n", "max_headers"),
        (
            Limits(max_head_bytes=100),
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: " + b"y" * 100 + b"\r\n\r\n",
            "max_head_bytes",
        ),
        (
            Limits(max_headers=3),
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 4 + b"\r\n",
            "max_headers",
        ),
    ],
)
async def test_limits_of_heads_and_trailers(world: World, limits: Limits, answer: bytes, limit: str) -> None:
    with ScriptedPeer([expect_head(), send(answer), expect_end()]) as peer:
        async with bare(world, limits=limits) as session:
            with pytest.raises(LimitExceeded, match=limit) as caught:
                await session.get(peer.url)
            assert caught.value.limit == limit
            assert caught.value.sent
            assert open_connections(session) == (0, 0)


# -- tunnels and upgrades ------------------------------------------------------------------------------------------


class Raw:
    """A taken stream, one text for the stream itself and for its blocking face."""

    def __init__(self, taken: Any) -> None:
        self._blocking = getattr(taken, "_inner", None)  # what the async face has put around it
        self._stream = taken if self._blocking is None else self._blocking

    async def receive(self, size: int) -> bytes:
        if self._blocking is not None:
            return self._blocking.receive(size)  # type: ignore[no-any-return]
        return await self._stream.receive(size, float("inf"))  # type: ignore[no-any-return]

    async def send(self, data: bytes) -> None:
        if self._blocking is not None:
            self._blocking.send(data)
        else:
            await self._stream.send(data, float("inf"))

    async def send_eof(self) -> None:
        if self._blocking is not None:
            self._blocking.send_eof()
        else:
            await self._stream.send_eof(float("inf"))

    def close(self) -> None:
        self._stream.close()


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"
UPGRADE = {"Connection": "upgrade", "Upgrade": "chat"}


@pytest.mark.parametrize("behind", [b"", b"hello"])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_upgrade_hands_the_stream_over(world: World, behind: bytes, is_streamed: bool) -> None:
    script = [expect_head(), send(SWITCH + behind), send(b"world"), expect(b"from us"), send(b"!"), expect_end()]
    with ScriptedPeer([*script, close()]) as peer:
        async with bare(world) as session:
            if is_streamed:
                response = await session.open_request("GET", peer.url, headers=UPGRADE).send()
            else:
                response = await session.get(peer.url, headers=UPGRADE)
            assert response.status_code == 101
            assert open_connections(session) == (0, 0), "the pool has nothing to do with it any more"
            stream = Raw(response.take_stream())
            with pytest.raises(UsageError, match="taken already"):
                response.take_stream()
            came = b""
            while len(came) < len(behind) + 5:
                piece = await stream.receive(3)
                assert 0 < len(piece) <= 3
                came += piece
            assert came == behind + b"world"
            await stream.send(b"from us")
            assert await stream.receive(10) == b"!"
            await stream.send_eof()
            assert await stream.receive(10) == b""
            assert await stream.receive(10) == b""
            await response.close()  # no longer its stream
            stream.close()
            stream.close()


async def test_a_stream_that_nobody_takes_is_closed_with_the_response(world: World) -> None:
    with ScriptedPeer([expect_head(), send(SWITCH), expect_end()]) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url, headers=UPGRADE) as response:
                assert response.status_code == 101
            assert await world.runtime().run_blocking(peer.wait_closed, 30)
            with pytest.raises(UsageError):
                response.take_stream()


async def test_a_stream_that_nobody_takes_is_closed_with_the_session(world: World) -> None:
    with ScriptedPeer([expect_head(), send(SWITCH), expect_end()]) as peer:
        async with bare(world) as session:
            response = await session.get(peer.url, headers=UPGRADE)
            assert response.status_code == 101
        assert await world.runtime().run_blocking(peer.wait_closed, 30)


async def test_a_stream_that_was_taken_outlives_the_session(world: World) -> None:
    with ScriptedPeer([expect_head(), send(SWITCH), expect(b"still here"), close()]) as peer:
        async with bare(world) as session:
            stream = Raw((await session.get(peer.url, headers=UPGRADE)).take_stream())
        await stream.send(b"still here")
        assert await stream.receive(10) == b""
        stream.close()


async def test_an_upgrade_that_nobody_asked_for_is_refused(world: World) -> None:
    with ScriptedPeer([expect_head(), send(SWITCH), expect_end()]) as peer:
        async with bare(world) as session:
            with pytest.raises(ProtocolError, match="no Upgrade") as caught:
                await session.get(peer.url)
            assert caught.value.phase == "head"
            assert open_connections(session) == (0, 0)


async def test_an_upgrade_that_is_declined_is_an_ordinary_response(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            response = await session.get(peer.url, headers=UPGRADE)
            assert response.content == b"ok"
            with pytest.raises(UsageError, match="no stream"):
                response.take_stream()
            assert open_connections(session) == (1, 1)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"])
async def test_connect_opens_a_tunnel_whatever_its_fields_say(world: World, head: bytes) -> None:
    script = [expect_head(b"CONNECT far.example:7 "), send(head + b"SSH-2.0"), expect(b"hi"), expect_end()]
    with ScriptedPeer(script) as peer:
        async with bare(world) as session, await session.connect(peer.url) as connection:
            response = await connection.open_request("CONNECT", "far.example:7").send()
            stream = Raw(response.take_stream())
            assert await stream.receive(100) == b"SSH-2.0"
            await stream.send(b"hi")
            stream.close()


async def test_a_connect_that_is_refused_leaves_the_connection_to_http(world: World) -> None:
    no = b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno"
    with ScriptedPeer([expect_head(), send(no), expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            assert (await session.request("CONNECT", peer.url)).content == b"no"
            assert (await session.get(peer.url)).content == b"ok"


# -- who speaks something else -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"\x16\x03\x03\x00\x05", "TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "HTTP/2"),
        (b"<html><body>old</body></html>", "HTTP/0.9"),
        (b"220 mail.example ESMTP\r\n", "SMTP"),
        (b"HTTP/2 200 OK\r\n\r\n", "version"),
        (b"RTSP/1.0 200 OK\r\n\r\n", "not HTTP/1"),
    ],
)
async def test_a_peer_that_speaks_something_else(world: World, greeting: bytes, message: str) -> None:
    with ScriptedPeer([expect_head(), send(greeting), close()]) as peer:
        async with bare(world) as session:
            with pytest.raises(ProtocolError, match=message) as caught:
                await session.get(peer.url)
            assert caught.value.phase == "head"
            assert open_connections(session) == (0, 0)


async def test_a_peer_that_greets_before_the_request(world: World) -> None:
    with ScriptedPeer([send(b"SSH-2.0-OpenSSH_9.6\r\n"), expect_head()]) as peer:
        async with bare(world) as session:
            with pytest.raises(ProtocolError, match="SSH"):
                await session.get(peer.url)


# -- one request at a time -----------------------------------------------------------------------------------------


async def test_a_leased_connection_takes_one_request_at_a_time(world: World) -> None:
    script = [expect_head(b"GET /1 "), send(HEAD + b"Content-Length: 4\r\n\r\nhe"), wait_for(go := threading.Event())]
    with ScriptedPeer([*script, send(b"re"), expect_head(b"GET /2 "), send(OK)]) as peer:
        async with bare(world) as session, await session.connect(peer.url) as connection:
            first = await connection.open_request("GET", "/1").send()
            with pytest.raises(plugwire.Busy, match="open request"):
                await connection.open_request("GET", "/2").send()
            go.set()
            assert await first.read() == b"here"
            second = await connection.open_request("GET", "/2").send()
            assert await second.read() == b"ok"
            assert (first.connection.reused, second.connection.reused) == (False, True)
            assert first.connection.id == second.connection.id


async def test_connection_numbers_are_unique_across_transports(world: World) -> None:
    from plugwire.protocols import connection_ids

    with ScriptedPeer([expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            before = next(connection_ids)
            assert (await session.get(peer.url)).connection.id == before + 1


async def test_a_request_for_close_is_obeyed(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK), expect_end()]) as peer:
        async with bare(world) as session:
            await session.get(peer.url, headers={"Connection": "close"})
            assert open_connections(session) == (0, 0)


# -- the end of a body before its end ------------------------------------------------------------------------------


def scripts_of_an_early_end(rest: Sequence[Step], *, is_kept: bool) -> list[list[Step]]:
    again: list[Step] = [expect_head(b"GET /again "), send(OK)]
    return [[*rest, *again]] if is_kept else [[*rest, expect_end()], again]


@pytest.mark.parametrize(
    ("head", "parts", "is_kept"),
    [
        (b"Content-Length: 9\r\n", (b"12345", b"6789"), True),
        (b"Content-Length: 9\r\n", (b"", b"123456789"), True),
        (b"Content-Length: 65541\r\n", (b"12345", b"x" * 65536), True),
        (b"Content-Length: 65542\r\n", (b"12345", b""), False),  # 65537 are left, and never come
        (b"Transfer-Encoding: chunked\r\n", (b"5\r\n12345\r\n", b"4\r\n6789\r\n0\r\n\r\n"), True),
        (b"Transfer-Encoding: chunked\r\n", (b"20005\r\n12345", b""), False),  # 128 KiB are left
        (b"Connection: close\r\nContent-Length: 9\r\n", (b"12345", b""), False),
        (b"", (b"12345", b""), False),
    ],
)
async def test_closing_before_the_end(
    world: World, head: bytes, parts: tuple[bytes, bytes], is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A little is read and dropped, so that the connection is kept; who is told to expect much does not even look.
    monkeypatch.setattr(http11_body, "DRAIN_SECONDS", PATIENCE)  # however long the peer takes
    rest: list[Step] = [expect_head(), send(HEAD + head + b"\r\n" + parts[0]), send(parts[1])]
    with ScriptedPeer(*scripts_of_an_early_end(rest, is_kept=is_kept)) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url) as response:
                if parts[0]:
                    assert (await response.read(1)) == b"1"
            assert open_connections(session) == ((1, 1) if is_kept else (0, 0))
            with pytest.raises(UsageError, match="closed"):
                await response.read()
            with pytest.raises(plugwire.BodyUnread):
                _ = response.content
            assert (await session.get(f"{peer.url}/again")).content == b"ok"


async def test_closing_does_not_wait_for_a_rest_that_does_not_come(world: World) -> None:
    script = [expect_head(), send(HEAD + b"Content-Length: 9\r\n\r\n1234"), expect_end()]
    with ScriptedPeer(script, [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url):
                pass
            assert open_connections(session) == (0, 0)
            assert (await session.get(peer.url)).content == b"ok"


async def test_closing_does_not_read_on_for_ever(world: World) -> None:
    # Each chunk is small, but they never end: after 64 KiB it is enough.
    def chatter(connection: PeerConnection) -> None:
        try:
            while True:
                connection.sock.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        except OSError:
            connection.is_closed = True

    with ScriptedPeer([expect_head(), send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n"), chatter]) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url):
                pass
            assert open_connections(session) == (0, 0)


async def test_closing_is_idempotent_and_a_read_body_stays_readable(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK), expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            response = await session.get(peer.url)
            await response.close()
            await response.close()
            assert response.content == b"ok"
            async with session.stream("GET", peer.url) as response:
                assert await response.read() == b"ok"
            assert response.content == b"ok"


async def test_a_reset_while_draining_is_nobodys_error(world: World) -> None:
    script = [expect_head(), send(HEAD + b"Content-Length: 9\r\n\r\n1234"), abort()]
    with ScriptedPeer(script) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url):
                pass
            assert open_connections(session) == (0, 0)


async def test_a_dropped_response_warns_and_gives_its_place_back(world: World) -> None:
    with ScriptedPeer(
        [expect_head(), send(HEAD + b"Content-Length: 9\r\n\r\n1234"), expect_end()], [expect_head(), send(OK)]
    ) as peer:
        async with bare(world, limits=Limits(max_connections=1)) as session:
            response = await session.open_request("GET", f"{peer.url}/dropped").send()
            assert open_connections(session) == (1, 0)
            with pytest.warns(ResourceWarning, match="/dropped was dropped without close"):
                del response
            assert open_connections(session) == (0, 0)
            assert (await session.get(peer.url, timeout=30)).content == b"ok"


async def test_headers_of_a_response(world: World) -> None:
    answer = HEAD + b"X-A: 1\r\nx-a:\t2 \r\nSet-Cookie: a=1, b\r\nEmpty:\r\nContent-Length: 0\r\n\r\n"
    with ScriptedPeer([expect_head(), send(answer)]) as peer:
        async with bare(world) as session:
            headers = (await session.get(peer.url)).headers
            assert isinstance(headers, Headers)
            assert headers["x-A"] == "1, 2"
            assert headers["empty"] == ""
            assert list(headers.items())[:3] == [("X-A", "1"), ("x-a", "2"), ("Set-Cookie", "a=1, b")]


# -- what only a stream can tell -----------------------------------------------------------------------------------


class Watched(Stream):
    """A stream that counts what is received through it, or breaks when it is written to."""

    def __init__(self, stream: Stream, *, is_broken: bool = False) -> None:
        self._stream = stream
        self._is_broken = is_broken
        self.received = 0
        self.calls = 0

    def read_now(self, max_bytes: int) -> bytes | None:
        return self._stream.read_now(max_bytes)

    def write_now(self, data: Any) -> None:
        self._stream.write_now(data)

    @property
    def unsent(self) -> int:
        return self._stream.unsent

    async def wait(self, read: bool, write: bool, at: float) -> None:
        await self._stream.wait(read, write, at)

    def close(self) -> None:
        self._stream.close()

    def abort(self) -> None:
        self._stream.abort()

    def extra(self, key: Any, default: Any = None) -> Any:
        return self._stream.extra(key, default)

    async def receive(self, max_bytes: int, at: float) -> bytes:
        self.calls += 1
        data = await self._stream.receive(max_bytes, at)
        self.received += len(data)
        return data

    async def send(self, data: Any, at: float, stop_if_readable: bool = False) -> int:
        if not self._is_broken:
            return await self._stream.send(data, at, stop_if_readable)
        await self._stream.wait(True, False, at)
        raise BrokenPipeError(32, "Broken pipe")


class Watching:
    """A dialler that puts `Watched` around what is dialled below it."""

    name = "watching"
    honours = frozenset({"*"})

    def __init__(self, *, is_broken: bool = False) -> None:
        self._is_broken = is_broken
        self.streams: list[Watched] = []

    def refuse(self, route: Any) -> str | None:
        return None

    async def dial(self, route: Any, connecting: Any) -> Any:
        self.streams.append(Watched(await connecting.dial(route), is_broken=self._is_broken))
        return self.streams[-1]


@pytest.mark.parametrize("head", [b"Content-Length: 65542\r\n", b"", b"Connection: close\r\nContent-Length: 9\r\n"])
async def test_closing_does_not_read_what_cannot_be_kept(world: World, head: bytes) -> None:
    watching = Watching()
    with ScriptedPeer([expect_head(), send(HEAD + head + b"\r\n"), expect_end()]) as peer:
        async with bare(world, transports=[watching]) as session:
            async with session.stream("GET", peer.url):
                before = watching.streams[0].calls
            assert watching.streams[0].calls == before
            assert open_connections(session) == (0, 0)


async def test_closing_reads_no_more_than_a_little(world: World) -> None:
    watching = Watching()
    chunks = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    script = [expect_head(), send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 100), expect_end()]
    with ScriptedPeer(script) as peer:
        async with bare(world, transports=[watching]) as session:
            async with session.stream("GET", peer.url):
                before = watching.streams[0].received
            assert watching.streams[0].received - before < 65536 + 65536
            assert open_connections(session) == (0, 0)


@pytest.mark.parametrize("content", [None, b"small", [b"pieces"]])
@pytest.mark.parametrize("is_observed", [False, True])
async def test_an_answer_that_came_before_the_write_failed(world: World, content: Any, is_observed: bool) -> None:
    answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge"
    options: Any = {"observe": lambda event: None} if is_observed else {}
    with ScriptedPeer([send(answer), expect_end()]) as peer:
        async with bare(world, transports=[Watching(is_broken=True)]) as session:
            response = await session.post(peer.url, content=content, **options)
            assert (response.status_code, response.content) == (413, b"large")
            assert open_connections(session) == (0, 0), "whatever the head says, it cannot be written to any more"


async def test_a_dropped_response_of_a_leased_connection(world: World) -> None:
    script = [expect_head(), send(HEAD + b"Content-Length: 9\r\n\r\n1234"), expect_end()]
    with ScriptedPeer(script, [expect_head(), send(OK)]) as peer:
        async with bare(world) as session, await session.connect(peer.url) as connection:
            response = await connection.open_request("GET").send()
            with pytest.warns(ResourceWarning):
                del response
            assert await (await connection.open_request("GET").send()).read() == b"ok"
            assert session.stats().open == 1
