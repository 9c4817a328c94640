"""Content over HTTP/2, both ways: what waits for which window, what ends early, what length counts, and that one
request holds up no other. Scripted peers."""

from __future__ import annotations

import gc
import io
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

import plugwire
from h2_peer import Conversation, H2Peer
from plugwire import Headers, IncompleteBody, InvalidHeader, Limits, ProtocolError, Request, Timeout, UsageError
from plugwire_transports.http2.streams import STREAM_WINDOW
from test_http11_uploads import CONTENTS, Async, Endless
from worlds import World, error_in

PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, CANCEL = 1, 2, 3, 8
WINDOW = 1 << 20
"""What a peer may send on one stream before any of it was read."""


def h2_session(world: World, **options: Any) -> Any:
    return world.session(http_versions=("h2",), **options)


def next_is_served(h2: Conversation, body: bytes = b"next") -> None:
    """The connection goes on."""
    stream, _ = h2.await_headers()
    h2.respond(stream, 200, body)


async def next_is_fine(session: Any, peer: H2Peer) -> None:
    response = await session.get(peer.url)
    assert response.text == "next"
    assert response.connection.reused
    assert session.stats()[:2] == (1, 1)


async def settled(session: Any, peer: H2Peer) -> None:
    """One request, after which our side knows the peer's SETTINGS."""
    assert (await session.get(peer.url)).ok


def serve_first(h2: Conversation) -> None:
    stream, _ = h2.await_headers()
    h2.respond(stream)
    h2.await_frame(SettingsFrame, flag="ACK")


def data_of(h2: Conversation, stream: int, size: int) -> bytes:
    """So much content of a request, not given back."""
    content = b""
    while len(content) < size:
        content += h2.await_frame(DataFrame, stream).data
    return content


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# -- what goes out, of every source


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 65535, 65536, 65537, 262144, 262145, 3_000_000])
async def test_bytes_of_every_size(world: World, size: int) -> None:
    content = pattern(size)

    def script(h2: Conversation) -> None:
        for _ in range(2):
            stream, fields = h2.await_headers()
            assert fields["content-length"] == str(size)
            if size:
                assert h2.await_body(stream) == content
            h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            for _ in range(2):
                assert (await session.post(peer.url, content=content)).ok
            assert session.stats()[:2] == (1, 1)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make, _ in CONTENTS])
async def test_what_has_no_length_is_ended_by_its_stream(world: World, make: Callable[[], Any]) -> None:
    def script(h2: Conversation) -> None:
        for _ in range(2):
            stream, fields = h2.await_headers()
            assert not {"content-length", "transfer-encoding"} & set(fields)
            assert h2.await_body(stream) == "onezwö".encode()
            h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            for _ in range(2):
                assert (await session.post(peer.url, content=make())).ok


async def test_an_empty_iterable_is_empty_content(world: World) -> None:
    def script(h2: Conversation) -> None:
        block = h2.await_block()
        assert not block.is_last
        assert h2.await_body(block.stream_id) == b""
        h2.respond(block.stream_id)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=iter([]))).ok


async def test_a_file_is_sent_from_where_it_stands(world: World) -> None:
    content = b"0123456789" * 100_000

    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert fields["content-length"] == "999993"
        assert h2.await_body(stream) == content[7:]
        h2.respond(stream)

    with H2Peer(script) as peer, tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(7)
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=file)).ok


async def test_a_file_whose_read_is_awaited(world: World) -> None:
    class File:
        def __init__(self) -> None:
            self._file = io.BytesIO(pattern(400_000))

        async def read(self, size: int = -1) -> bytes:
            return self._file.read(size)

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == pattern(400_000)
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=File())).ok


async def test_a_small_request_is_one_write(world: World) -> None:
    """Fields and content go out together, the end with the last of it."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        frame = h2.await_frame(DataFrame, stream)
        assert frame.data == b"hello"
        assert "END_STREAM" in frame.flags
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=b"hello")).ok


@pytest.mark.parametrize("length", [None, 9])
async def test_push_style(world: World, length: int | None) -> None:
    """What is written goes out at once, whoever waits for what."""
    came = [threading.Event() for _ in range(3)]

    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert fields.get("content-length") == (str(length) if length else None)
        for event, piece in zip(came, (b"abc", "dü".encode(), b"xyz"), strict=True):
            assert h2.await_frame(DataFrame, stream).data == piece
            event.set()
        assert h2.await_body(stream) == b""
        h2.respond(stream, 200, b"thanks")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin(length)
            for event, piece in zip(came, (b"abc", "dü", memoryview(b"xyz")), strict=True):
                assert await request.write(piece) == 3
                assert await world.runtime().run_blocking(event.wait, 30)
            response = await request.end()
            assert await response.read() == b"thanks"


async def test_a_push_holds_up_nobody(world: World) -> None:
    """Between two writes others come and go on the same connection."""

    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        assert h2.await_frame(DataFrame, first).data == b"one"
        next_is_served(h2)
        assert h2.await_body(first) == b"two"
        h2.respond(first, 200, b"done")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin()
            await request.write(b"one")
            assert (await session.get(peer.url)).text == "next"
            await request.write(b"two")
            assert await (await request.end()).read() == b"done"
            assert session.stats().open == 1


async def test_an_abandoned_push_resets_its_stream_alone(world: World) -> None:
    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, first).error_code == CANCEL
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            request = session.open_request("POST", f"{peer.url}/left")
            await request.begin()
            await request.write(b"x")
            with pytest.warns(ResourceWarning, match="/left.* between begin"):
                del request
                gc.collect()
            await next_is_fine(session, peer)


@pytest.mark.parametrize("ends", [False, True], ids=["plain", "head only"])
async def test_giving_a_push_up_resets_its_stream_alone(world: World, ends: bool) -> None:
    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, first).error_code == CANCEL
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin()
            if not ends:
                await request.write(b"x")
            await request.close()
            await next_is_fine(session, peer)


# -- the length that was announced


async def test_the_callers_content_length_is_obeyed(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert fields["content-length"] == "5"
        assert h2.await_body(stream) == b"hello"
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            headers = {"Content-Length": "5"}
            assert (await session.post(peer.url, content=iter([b"hel", b"lo"]), headers=headers)).ok


@pytest.mark.parametrize(
    ("given", "message"), [([b"hell"], "ended after 4 bytes"), ([], "ended after 0"), ([b"hel", b"lo!"], "more than")]
)
async def test_the_callers_content_length_is_checked(world: World, given: list[bytes], message: str) -> None:
    """Unlike over HTTP/1.1 this costs the stream only."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        assert sum(len(frame.data) for frame in h2.left if isinstance(frame, DataFrame)) <= 5
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(UsageError, match=message) as caught:
                await session.post(peer.url, content=iter(given), headers={"Content-Length": "5"})
            assert (caught.value.phase, caught.value.sent, caught.value.replayable) == ("write", True, False)
            await next_is_fine(session, peer)


async def test_an_error_of_the_body_costs_the_stream_only(world: World) -> None:
    class Trouble(Exception):
        pass

    def body(error: Exception) -> Iterator[bytes]:
        yield b"one"
        raise error

    def script(h2: Conversation) -> None:
        for _ in range(2):
            stream, _ = h2.await_headers()
            assert h2.await_frame(DataFrame, stream).data == b"one"
            assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(Trouble):
                await session.post(peer.url, content=body(Trouble()))
            with pytest.raises(UsageError, match="could not be read"):
                await session.post(peer.url, content=body(OSError(5, "disk")))
            await next_is_fine(session, peer)


async def test_a_one_shot_body_is_sent_once(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == b"x"
        h2.respond(stream)
        next_is_served(h2)

    with H2Peer(script) as peer:
        request = Request("POST", peer.url, content=iter([b"x"]))
        async with h2_session(world) as session:
            assert (await session.send(request)).ok
            with pytest.raises(plugwire.NotReplayable) as caught:
                await session.send(request)
            assert not caught.value.sent
            await next_is_fine(session, peer)


# -- trailers


async def test_trailers_of_a_request(world: World) -> None:
    sent: list[bytes] = []

    def body() -> Iterator[bytes]:
        for piece in (b"a", b"b"):
            sent.append(piece)
            yield piece

    def trailers() -> Headers:
        return Headers({"X-Sum": str(len(sent))})

    def script(h2: Conversation) -> None:
        for content in (b"ab", b"ab", b""):
            stream, fields = h2.await_headers()
            assert "content-length" not in fields
            assert h2.await_body(stream) == content
            block = h2.await_block(stream)
            assert block.is_last
            assert block.fields == [("x-sum", "2")]
            h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            for content in (body(), b"ab", None):
                assert (await session.send(Request("POST", peer.url, content=content, trailers=trailers))).ok
            assert session.stats()[:2] == (1, 1)


async def test_no_trailers_after_all(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == b"ab"
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.send(Request("POST", peer.url, content=b"ab", trailers=Headers))).ok


async def test_a_trailer_that_cannot_be_one(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        assert len([frame for frame in h2.received if isinstance(frame, HeadersFrame)]) == 1
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            request = Request("POST", peer.url, content=b"ab", trailers=lambda: Headers({"Host": "evil"}))
            with pytest.raises(InvalidHeader, match="trailer"):
                await session.send(request)
            await next_is_fine(session, peer)


@pytest.mark.parametrize("content", [b"", b"hello", b"x" * 100_000])
async def test_trailers_of_a_response(world: World, content: bytes) -> None:
    def script(h2: Conversation) -> None:
        for _ in range(2):
            stream, _ = h2.await_headers()
            h2.headers(stream, [(":status", "200")])
            if content:
                h2.data(stream, content)
            h2.headers(stream, [("x-sum", "7"), ("content-length", "9"), ("x-sum", "8")], end_stream=True)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            response = await session.get(peer.url)
            assert response.content == content
            # Trailers that would change how the message is read come too late (RFC 9110, 6.5.1).
            assert list(response.trailers.items()) == [("x-sum", "7"), ("x-sum", "8")]
            async with session.stream("GET", peer.url) as response:
                assert response.trailers is None
                assert b"".join([piece async for piece in response.iter_bytes()]) == content
                assert response.trailers.get_list("x-sum") == ["7", "8"]
            assert session.stats()[:2] == (1, 1)


async def test_no_trailers_are_none(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.respond(stream, 200, b"hello")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.get(peer.url)).trailers is None


# -- Expect: 100-continue


def asking(url: str, seconds: float = 30.0, content: Any = b"hello") -> Request:
    return Request("POST", url, content=content, expect_continue=seconds)


@pytest.mark.parametrize("hints", [0, 2])
async def test_expect_waits_for_100(world: World, hints: int) -> None:
    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert (fields["expect"], fields["content-length"]) == ("100-continue", "5")
        for _ in range(hints):
            h2.headers(stream, [(":status", "103")])
        assert not [frame for frame in h2.sync() if isinstance(frame, DataFrame)]
        h2.headers(stream, [(":status", "100")])
        assert h2.await_body(stream) == b"hello"
        h2.respond(stream, 200, b"ok")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.send(asking(peer.url))).text == "ok"


@pytest.mark.parametrize("status", [417, 401, 200])
async def test_a_final_answer_in_place_of_100_keeps_the_content_home(world: World, status: int) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.respond(stream, status, b"no")
        # We have not ended our side, and will not.
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        assert not [frame for frame in h2.received if isinstance(frame, DataFrame)]
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            response = await session.send(asking(peer.url, content=iter([b"hello"])))
            assert (response.status_code, response.content) == (status, b"no")
            await next_is_fine(session, peer)


async def test_a_server_that_does_not_know_expect_gets_the_content_all_the_same(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == b"hello"
        h2.respond(stream, 200, b"ok")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.send(asking(peer.url, 0.02))).text == "ok"


async def test_the_deadline_ends_the_wait_for_100(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        next_is_served(h2)

    async def send(budget: float) -> plugwire.Error:
        with H2Peer(script) as peer:
            async with h2_session(world) as session:
                with pytest.raises(plugwire.TotalTimeout) as caught:
                    await session.send(asking(peer.url), timeout=budget)
                await next_is_fine(session, peer)
                return caught.value

    error, _ = await error_in("write", True, send)
    assert error.phase == "write" and error.sent


async def test_without_content_nothing_is_asked(world: World) -> None:
    def script(h2: Conversation) -> None:
        block = h2.await_block()
        assert block.is_last
        assert "expect" not in dict(block.fields)
        h2.respond(block.stream_id)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.send(Request("POST", peer.url, expect_continue=30.0))).ok


async def test_a_reset_in_place_of_100(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.rst(stream, INTERNAL_ERROR)
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(plugwire.StreamReset, match="INTERNAL_ERROR") as caught:
                await session.send(asking(peer.url))
            assert (caught.value.phase, caught.value.sent) == ("write", True)
            await next_is_fine(session, peer)


# -- a final response that comes early


@pytest.mark.parametrize("how", ["reset", "reset later", "nothing", "head first"])
async def test_a_final_response_ends_an_upload(world: World, how: str) -> None:
    """RFC 9113, 8.1: the peer may answer whole and say RST_STREAM(NO_ERROR); that must not cost the answer."""
    answered = threading.Event()

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_frame(DataFrame, stream)
        if how == "head first":
            h2.headers(stream, [(":status", "413")])
            h2.wait_for(answered)
            assert h2.await_frame(DataFrame, stream)
            h2.data(stream, b"large", end_stream=True)
        else:
            h2.respond(stream, 413, b"large")
        if how == "reset later":
            h2.wait_for(answered)
        if how.startswith("reset"):
            h2.rst(stream, 0)
        else:
            assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        next_is_served(h2)

    body = Endless()
    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("POST", peer.url, content=body) as response:
                assert body.is_closed
                answered.set()
                assert (response.status_code, await response.read()) == (413, b"large")
            await next_is_fine(session, peer)


async def test_a_large_response_that_comes_early_is_read_whole(world: World) -> None:
    content = pattern(3_000_000)

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_frame(DataFrame, stream)
        h2.headers(stream, [(":status", "200"), ("content-length", str(len(content)))])
        room, sent = WINDOW, 0
        while sent < len(content):
            if not room:
                room += h2.await_frame(WindowUpdateFrame, stream).window_increment
            size = min(room, len(content) - sent)
            h2.data(stream, content[sent : sent + size], end_stream=sent + size == len(content))
            sent += size
            room -= size
        h2.rst(stream, 0)
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=Endless())).content == content
            await next_is_fine(session, peer)


async def test_an_early_response_ends_a_push(world: World) -> None:
    answered = threading.Event()

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_frame(DataFrame, stream)
        h2.respond(stream, 413, b"large")
        h2.rst(stream, 0)
        answered.set()
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin()
            await request.write(b"a")
            assert await world.runtime().run_blocking(answered.wait, 30)
            for _ in range(100):
                assert await request.write(b"b" * 100_000) == 100_000  # dropped, from some point on
            response = await request.end()
            assert (response.status_code, await response.read()) == (413, b"large")
            await next_is_fine(session, peer)


async def test_an_early_response_after_all_content_lets_the_stream_end_in_order(world: World) -> None:
    """The peer counts the announced bytes and answers before it has seen our END_STREAM; somebody else reads that."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_frame(DataFrame, stream).data == b"hello"
        h2.respond(stream, 200, b"thanks")
        next_is_served(h2)
        assert h2.await_frame(DataFrame, stream, "END_STREAM").data == b""
        next_is_served(h2)
        assert not [frame for frame in h2.received if isinstance(frame, RstStreamFrame)]

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin(5)
            await request.write(b"hello")
            assert (await session.get(peer.url)).text == "next"
            response = await request.end()
            assert await response.read() == b"thanks"
            await next_is_fine(session, peer)


async def test_a_reset_in_the_middle_of_an_upload(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_frame(DataFrame, stream)
        h2.rst(stream, INTERNAL_ERROR)
        next_is_served(h2)

    body = Endless()
    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(plugwire.StreamReset, match="INTERNAL_ERROR") as caught:
                await session.post(peer.url, content=body)
            assert (caught.value.code, caught.value.phase, caught.value.sent) == (INTERNAL_ERROR, "write", True)
            assert body.is_closed
            await next_is_fine(session, peer)


async def test_a_reset_without_error_before_the_response_is_complete(world: World) -> None:
    """NO_ERROR tells of a complete response only; half of one is half of one."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"half")
        h2.rst(stream, 0)
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("GET", peer.url) as response:
                with pytest.raises(plugwire.StreamReset, match="NO_ERROR") as caught:
                    while await response.read(10):
                        pass
            assert (caught.value.code, caught.value.phase) == (0, "body")
            await next_is_fine(session, peer)


# -- windows for what goes out


async def test_an_upload_waits_for_the_windows_of_stream_and_connection(world: World) -> None:
    content = pattern(200_000)

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert data_of(h2, stream, 65535) == content[:65535]
        h2.window_update(stream, 100_000)  # the stream's alone lets nothing out
        assert not [frame for frame in h2.sync() if isinstance(frame, DataFrame)]
        h2.window_update(0, 10)
        assert data_of(h2, stream, 10) == content[65535:65545]
        h2.window_update(0, 1_000_000)
        assert data_of(h2, stream, 99_990) == content[65545:165_535]
        assert not [frame for frame in h2.sync() if isinstance(frame, DataFrame)]
        h2.window_update(stream, 1_000_000)
        assert h2.await_body(stream) == content[165_535:]
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=content)).ok


@pytest.mark.parametrize("which", ["stream", "connection"])
@pytest.mark.parametrize("is_joined", [True, False], ids=["in memory", "streamed"])
async def test_an_upload_without_window_holds_up_nobody(world: World, which: str, is_joined: bool) -> None:
    content = pattern(60_000)
    stands = threading.Event()

    def script(h2: Conversation) -> None:
        if which == "stream":
            serve_first(h2)
            first, _ = h2.await_headers()
            assert data_of(h2, first, 1000) == content[:1000]
            h2.window_update(0, 1_000_000)
        else:
            other, _ = h2.await_headers()  # takes the connection's window away
            assert len(h2.await_body(other, give_back=False)) == 40_000
            h2.respond(other)
            first, _ = h2.await_headers()
            assert data_of(h2, first, 25_535) == content[:25_535]
        stands.set()
        for _ in range(3):
            next_is_served(h2)
        assert not [frame for frame in h2.left if isinstance(frame, DataFrame)]
        h2.window_update(0, 1_000_000)
        h2.window_update(first, 1_000_000)
        h2.await_body(first)
        h2.respond(first, 200, b"done")

    settings = {"initial_window_size": 1000} if which == "stream" else {}
    with H2Peer(script, settings=settings) as peer:
        async with h2_session(world) as session:
            if which == "stream":
                await settled(session, peer)
            else:
                await session.post(peer.url, content=bytes(40_000))
            upload = world.in_background(lambda: session.post(peer.url, content=content if is_joined else [content]))
            assert await world.runtime().run_blocking(stands.wait, 30)
            for _ in range(3):
                assert (await session.get(peer.url)).text == "next"
            assert (await upload.result()).text == "done"
            assert session.stats()[:2] == (1, 1)


async def test_settings_that_make_a_window_negative(world: World) -> None:
    """RFC 9113, 6.9.2."""
    content = pattern(100_000)

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert data_of(h2, stream, 65535) == content[:65535]
        h2.window_update(0, 1_000_000)
        h2.send_settings(initial_window_size=1000)  # the stream's: -64535
        h2.window_update(stream, 64_535)  # 0
        assert not [frame for frame in h2.sync() if isinstance(frame, DataFrame)]
        h2.window_update(stream, 10)
        assert data_of(h2, stream, 10) == content[65535:65545]
        assert not [frame for frame in h2.sync() if isinstance(frame, DataFrame)]
        h2.send_settings(initial_window_size=2000)
        assert data_of(h2, stream, 1000) == content[65545:66545]
        h2.send_settings(initial_window_size=1 << 20)
        assert h2.await_body(stream) == content[66545:]
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=content)).ok


@pytest.mark.parametrize("is_joined", [True, False], ids=["in memory", "streamed"])
async def test_windows_of_one_byte(world: World, is_joined: bool) -> None:
    content = pattern(40)

    def script(h2: Conversation) -> None:
        serve_first(h2)
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == content
        frames = [frame for frame in h2.received if isinstance(frame, DataFrame) and frame.data]
        assert len(frames) == len(content)
        h2.respond(stream)

    with H2Peer(script, settings={"initial_window_size": 1}) as peer:
        async with h2_session(world) as session:
            await settled(session, peer)
            assert (await session.post(peer.url, content=content if is_joined else iter([content]))).ok


async def test_content_may_be_without_a_window_if_there_is_none_of_it(world: World) -> None:
    def script(h2: Conversation) -> None:
        serve_first(h2)
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == b""
        h2.respond(stream)

    with H2Peer(script, settings={"initial_window_size": 0}) as peer:
        async with h2_session(world) as session:
            await settled(session, peer)
            assert (await session.post(peer.url, content=iter([]))).ok


async def test_larger_frames_if_the_peer_takes_them(world: World) -> None:
    def script(h2: Conversation) -> None:
        serve_first(h2)
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == pattern(60_000)
        assert max(len(frame.data) for frame in h2.received if isinstance(frame, DataFrame)) == 50_000
        h2.respond(stream)

    with H2Peer(script, settings={"max_frame_size": 50_000}) as peer:
        async with h2_session(world) as session:
            await settled(session, peer)
            assert (await session.post(peer.url, content=pattern(60_000))).ok


async def test_an_upload_that_gets_no_window_runs_out_of_time(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(plugwire.WriteTimeout) as caught:
                await session.post(peer.url, content=pattern(100_000), timeout=Timeout(write=0.05))
            assert (caught.value.phase, caught.value.sent, caught.value.budget) == ("write", True, "write")
            await next_is_fine(session, peer)


async def test_several_uploads_share_the_connections_window(world: World) -> None:
    contents = {f"/{number}": pattern(50_000 + number) for number in range(6)}

    def script(h2: Conversation) -> None:
        paths: dict[int, str] = {}
        came: dict[int, bytes] = {}
        done = 0
        while done < len(contents):
            frame = h2.await_frame()
            if isinstance(frame, HeadersFrame):
                paths[frame.stream_id] = dict(h2.fields[frame.stream_id])[":path"]
                came[frame.stream_id] = b""
            elif isinstance(frame, DataFrame):
                came[frame.stream_id] += frame.data
                if frame.data:
                    h2.window_update(0, len(frame.data))
                if "END_STREAM" in frame.flags:
                    assert came[frame.stream_id] == contents[paths[frame.stream_id]]
                    h2.respond(frame.stream_id)
                    done += 1

    with H2Peer(script) as peer:
        async with h2_session(world) as session:

            async def upload(path: str) -> bool:
                return bool((await session.post(peer.url + path, content=[contents[path]])).ok)

            assert all(await world.gather(*(lambda path=path: upload(path) for path in contents)))
            assert session.stats().open == 1


# -- what comes in


@pytest.mark.parametrize("size", [0, 1, 16384, 100_000, WINDOW, 3 * WINDOW + 1])
@pytest.mark.parametrize("how", ["get", "read", "sized", "readinto", "iter_bytes"])
@pytest.mark.parametrize("is_known", [True, False], ids=["length", "no length"])
async def test_content_of_every_size_by_every_way(world: World, size: int, how: str, is_known: bool) -> None:
    content = pattern(size)

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")] + ([("content-length", str(size))] if is_known else []))
        room, sent = WINDOW, 0
        while sent < size:
            if not room:
                room += h2.await_frame(WindowUpdateFrame, stream).window_increment
            piece = content[sent : sent + min(room, 100_000)]
            h2.data(stream, piece)
            sent += len(piece)
            room -= len(piece)
        h2.data(stream, b"", end_stream=True)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            if how == "get":
                assert (await session.get(peer.url)).content == content
                return
            found = bytearray()
            async with session.stream("GET", peer.url) as response:
                if how == "read":
                    found += await response.read()
                elif how == "sized":
                    while piece := await response.read(70_001):
                        assert 0 < len(piece) <= 70_001
                        found += piece
                elif how == "readinto":
                    buffer = bytearray(30_011)
                    while count := await response.readinto(buffer):
                        found += memoryview(buffer)[:count]
                    assert await response.readinto(buffer) == 0
                else:
                    async for piece in response.iter_bytes():
                        assert piece
                        found += piece
            assert found == content
            assert session.stats()[:2] == (1, 1)


async def test_a_reader_that_does_not_read_gets_a_window_full_and_no_more(world: World) -> None:
    """The others go on; the window comes back as the content is read."""
    may_read = threading.Event()

    def script(h2: Conversation) -> None:
        assert h2.settings["initial_window_size"] == WINDOW
        slow, _ = h2.await_headers()
        h2.headers(slow, [(":status", "200")])
        h2.data(slow, pattern(WINDOW))
        for _ in range(3):
            other, _ = h2.await_headers()
            h2.headers(other, [(":status", "200")])
            h2.data(other, pattern(WINDOW))
            h2.sync()
            room = h2.await_frame(WindowUpdateFrame, other).window_increment
            h2.data(other, bytes(room), end_stream=True)
        assert not [frame for frame in h2.received if isinstance(frame, WindowUpdateFrame) and frame.stream_id == slow]
        may_read.set()
        room = h2.await_frame(WindowUpdateFrame, slow).window_increment
        assert WINDOW // 2 <= room < WINDOW // 2 + 10_000  # in steps, not for every read
        h2.data(slow, bytes(room), end_stream=True)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("GET", peer.url) as slow:
                for _ in range(3):
                    assert len((await session.get(peer.url)).content) > WINDOW
                assert await world.runtime().run_blocking(may_read.wait, 30)
                found = b""
                while piece := await slow.read(10_000):
                    found += piece
                assert found[:WINDOW] == pattern(WINDOW)
                assert len(found) > WINDOW
            assert session.stats().open == 1


async def test_more_than_the_window_lets_out_fails_that_stream(world: World) -> None:
    def script(h2: Conversation) -> None:
        slow, _ = h2.await_headers()
        h2.headers(slow, [(":status", "200")])
        h2.data(slow, bytes(WINDOW))
        h2.data(slow, b"x")
        other, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, slow).error_code == FLOW_CONTROL_ERROR
        h2.respond(other, 200, b"next")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("GET", peer.url) as slow:
                assert (await session.get(peer.url)).text == "next"
                with pytest.raises(ProtocolError, match="window"):
                    while await slow.read(100_000):
                        pass
            assert session.stats().open == 1


async def test_padding_goes_back_too(world: World) -> None:
    """Padding counts against the window (RFC 9113, 6.9.1), and nobody reads it."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        room = WINDOW
        for _ in range(10_000):
            if room < 1000:
                room += h2.await_frame(WindowUpdateFrame, stream).window_increment
            h2.data(stream, b"x" * 10, pad_length=200)
            room -= 211
        h2.data(stream, b"", end_stream=True, pad_length=200)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert len((await session.get(peer.url)).content) == 100_000


@pytest.mark.parametrize(
    ("length", "parts", "error"),
    [
        (10, [b"hello"], IncompleteBody),
        (10, [], IncompleteBody),
        (10, [b"hello", b""], IncompleteBody),
        (5, [b"hello!"], ProtocolError),
        (5, [b"hello", b"!"], ProtocolError),
        (0, [b"!"], ProtocolError),
    ],
)
async def test_content_length_is_held_against_data(
    world: World, length: int, parts: list[bytes], error: type[plugwire.Error]
) -> None:
    """RFC 9113, 8.1.1. What came of it is given out before the error."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200"), ("content-length", str(length))], end_stream=not parts)
        for number, part in enumerate(parts, 1):
            h2.data(stream, part, end_stream=number == len(parts))
        assert h2.await_frame(RstStreamFrame, stream).error_code == PROTOCOL_ERROR
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(error) as caught:
                await session.get(peer.url)
            assert type(caught.value) is error
            if isinstance(caught.value, IncompleteBody):
                came = sum(map(len, parts))
                assert (caught.value.received, caught.value.expected) == (came, length)
            await next_is_fine(session, peer)


async def test_what_came_of_a_short_response_can_be_read(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200"), ("content-length", "10")])
        h2.data(stream, b"hello", end_stream=True)
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("GET", peer.url) as response:
                assert await response.read(100) == b"hello"
                for _ in range(2):
                    with pytest.raises(IncompleteBody) as caught:
                        await response.read(100)
                assert (caught.value.phase, caught.value.received, caught.value.expected) == ("body", 5, 10)
            await next_is_fine(session, peer)


async def test_what_came_before_a_reset_can_be_read(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"hello")
        h2.rst(stream, INTERNAL_ERROR)
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("GET", peer.url) as response:
                assert await response.read(100) == b"hello"
                for _ in range(2):
                    with pytest.raises(plugwire.StreamReset) as caught:
                        await response.read(100)
                assert (caught.value.phase, caught.value.code, caught.value.sent) == ("body", INTERNAL_ERROR, True)
            await next_is_fine(session, peer)


# -- responses that are not read to the end


async def test_a_dropped_response_warns_once_and_resets_its_stream(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, bytes(1000))
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world, limits=Limits(max_connections=1)) as session:
            response = await session.open_request("GET", f"{peer.url}/dropped").send()
            assert session.stats()[:2] == (1, 0)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del response
                gc.collect()
            assert [str(one.message) for one in caught if one.category is ResourceWarning] == [
                f"the response to GET {peer.url}/dropped was dropped without close()"
            ]
            await next_is_fine(session, peer)


async def test_late_content_of_a_closed_response_is_nobodys(world: World) -> None:
    """What was on its way is counted and dropped, and does not hold up the connection."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"beginning")
        assert h2.await_frame(RstStreamFrame, stream)
        h2.data(stream, bytes(500_000))
        h2.headers(stream, [("x-late", "trailer")], end_stream=True)
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("GET", peer.url) as response:
                assert await response.read(3) == b"beg"
            await next_is_fine(session, peer)


async def test_a_response_that_came_whole_is_not_reset_when_it_is_closed_unread(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.respond(stream, 200, b"whole")
        next_is_served(h2)
        assert not [frame for frame in h2.received if isinstance(frame, RstStreamFrame)]

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("GET", peer.url):
                pass
            await next_is_fine(session, peer)


async def test_the_body_of_another_response_is_streamed_through(world: World) -> None:
    """Even on the same connection: who reads and who writes is one call."""
    content = pattern(2_000_000)

    def script(h2: Conversation) -> None:
        source, _ = h2.await_headers()
        h2.headers(source, [(":status", "200"), ("content-length", str(len(content)))])
        h2.data(source, content[:WINDOW])
        target, _ = h2.await_headers()
        came = data_of(h2, target, 60_000)
        h2.window_update(0, 10_000_000)
        h2.window_update(target, 10_000_000)
        while len(came) < WINDOW // 2 + 1000:
            came += h2.await_frame(DataFrame, target).data
        room = h2.await_frame(WindowUpdateFrame, source).window_increment
        h2.data(source, content[WINDOW : WINDOW + room])
        if WINDOW + room < len(content):
            h2.await_frame(WindowUpdateFrame, source)
            h2.data(source, content[WINDOW + room :], end_stream=True)
        else:
            h2.data(source, b"", end_stream=True)
        came += h2.await_body(target)
        assert came == content
        h2.respond(target)

    with H2Peer(script) as peer:
        async with h2_session(world) as session, session.stream("GET", peer.url) as response:
            pieces = response.iter_bytes()
            # The async face of the blocking world is the test's own; the iterator below is what users have.
            result = await session.put(peer.url, content=getattr(pieces, "_inner", pieces))
            assert result.ok
            assert session.stats().open == 1


async def test_an_async_iterator_as_content(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == b"x" * 90_000
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.put(peer.url, content=Async(*[b"x" * 30_000] * 3))).ok


async def test_an_upload_goes_on_though_a_2xx_has_begun(world: World) -> None:
    """Many servers begin their answer before they have read the request. Over one shared connection an upload that
    stops there would keep the windows that everybody needs."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        assert h2.await_body(stream) == b"x" * 200_000
        h2.data(stream, b"thanks", end_stream=True)

    with H2Peer(script) as peer:
        async with world.session(http_versions=("h2",)) as session:
            assert (await session.post(peer.url, content=[b"x" * 200_000])).text == "thanks"


async def test_an_upload_turns_to_a_response_that_has_grown_large(world: World) -> None:
    """A streaming caller must get to read before the peer's window is used up; the upload ends there."""
    size = STREAM_WINDOW // 2

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, bytes(size))
        assert h2.await_frame(RstStreamFrame, stream).error_code == 8
        h2.respond(h2.await_headers()[0], 200, b"next")

    with H2Peer(script) as peer:
        async with world.session(http_versions=("h2",)) as session:
            async with session.stream("POST", peer.url, content=[b"x" * 200_000]) as response:
                left = size
                while left:
                    left -= len(await response.read(65536))
            assert (await session.get(peer.url)).text == "next"


async def test_a_window_is_given_back_to_an_upload_whose_answer_comes_though_another_request_leads(
    world: World,
) -> None:
    """Nobody else would write the WINDOW_UPDATE: who leads waits for something to read."""
    size = STREAM_WINDOW // 2 + 1000
    begun = threading.Event()

    def script(h2: Conversation) -> None:
        waiting, _ = h2.await_headers()
        begun.set()
        stream, _ = h2.await_headers()
        sent = 0
        while sent < 65535:
            sent += len(h2.await_frame(DataFrame, stream).data)
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, bytes(size))
        h2.await_frame(WindowUpdateFrame, stream)
        h2.window_update(0, 200_000)
        h2.window_update(stream, 200_000)
        while sent < 200_000:
            sent += len(h2.await_frame(DataFrame, stream).data)
        h2.data(stream, b"end", end_stream=True)
        h2.respond(waiting, 200, b"leads")

    with H2Peer(script) as peer:
        async with world.session(http_versions=("h2",), timeout=Timeout(read=30, write=20)) as session:
            leader = world.in_background(session.get, f"{peer.url}/leads")
            assert await world.runtime().run_blocking(begun.wait, 30)
            await world.settle()
            answer = await session.post(peer.url, content=[b"x" * 200_000])
            assert answer.content == bytes(size) + b"end"
            assert (await leader.result()).text == "leads"
