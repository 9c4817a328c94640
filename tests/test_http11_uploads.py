"""Uploads over HTTP/1.1: chunked and by length, 100-continue, final responses that come early, what a body may be."""

from __future__ import annotations

import array
import contextlib
import io
import mmap
import os
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Headers, InvalidHeader, Request, Timeout, UsageError
from plugwire.protocols import EVERYTHING, Stream
from plugwire.testing.peer import (
    PeerConnection,
    ScriptedPeer,
    abort,
    close,
    expect,
    expect_end,
    expect_head,
    expect_request,
    half_close,
    receive,
    send,
    wait_for,
)
from worlds import PATIENCE, World, error_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def bare(world: World, **kwargs: Any) -> Any:
    return world.session(defaults=False, **kwargs)


def head_of(peer: ScriptedPeer, fields: bytes, method: bytes = b"POST") -> bytes:
    return b"%b / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%b" % (method, peer.port, fields)


def is_kept(session: Any) -> bool:
    stats = session.stats()
    assert stats.open == stats.idle
    return bool(stats.open)


class Async:
    """An async iterable: re-iterable, or one that can be run through once. In the blocking world too, as it never
    suspends."""

    def __init__(self, *pieces: Any) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self  # type: ignore[return-value]  # duck

    async def __anext__(self) -> Any:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


def pieces() -> Iterator[bytes | str]:
    yield b"one"
    yield b""
    yield "zwö"


CONTENTS: list[tuple[str, Callable[[], Any], bool]] = [
    ("generator", pieces, False),
    ("list", lambda: [b"one", "zw", bytearray("ö".encode())], True),
    ("tuple", lambda: (memoryview(b"one"), "zwö"), True),
    ("callable", lambda: pieces, True),
    ("callable giving bytes", lambda: lambda: "onezwö".encode(), True),
    ("async iterator", lambda: Async(b"one", b"", "zwö"), False),
    ("callable giving an async iterator", lambda: lambda: Async(b"one", "zwö"), True),
]


@pytest.mark.parametrize(("make", "is_replayable"), [pytest.param(*rest, id=name) for name, *rest in CONTENTS])
async def test_what_has_no_length_is_sent_chunked(world: World, make: Callable[[], Any], is_replayable: bool) -> None:
    with ScriptedPeer([expect_request(), send(OK), expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=make())
            await session.put(peer.url, content=make(), headers={"Transfer-Encoding": "chunked"})
        head, _, body = peer.received[0].partition(b"\r\n\r\n")
        assert head + b"\r\n\r\n" == head_of(peer, CHUNKED)
        first, _, second = body.partition(b"PUT / HTTP/1.1\r\n")
        assert second.partition(b"\r\n\r\n")[2] == first
        assert dechunked(first) == "onezwö".encode()
        assert first.endswith(b"\r\n0\r\n\r\n")
    assert Request("POST", "http://h/", content=make()).body.is_replayable is is_replayable


def dechunked(data: bytes) -> bytes:
    content = b""
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        content += data[:size]
        assert data[size : size + 2] == b"\r\n"
        data = data[size + 2 :]
    return content


async def test_a_generators_pieces_are_the_chunks(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=iter([b"one", b"", b"three"]))
        assert peer.received == [head_of(peer, CHUNKED) + b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"]


async def test_an_empty_iterable_is_an_empty_chunked_body(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=iter([]))
            assert is_kept(session)
        assert peer.received == [head_of(peer, CHUNKED) + b"0\r\n\r\n"]


@pytest.mark.parametrize("content", [b"", b"hello"])
async def test_bytes_are_sent_chunked_if_the_caller_says_so(world: World, content: bytes) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=content, headers={"Transfer-Encoding": "Chunked"})
            assert is_kept(session)
        assert dechunked(peer.received[0].partition(b"\r\n\r\n")[2]) == content


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 262144, 262145, 3_000_000])
async def test_bytes_of_every_size(world: World, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    with ScriptedPeer([expect_request(), send(OK), expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            for _ in range(2):
                await session.post(peer.url, content=content)
            assert is_kept(session)
        once = head_of(peer, b"Content-Length: %d\r\n\r\n" % size) + content
        assert peer.received == [once * 2]


async def test_the_callers_content_length_is_obeyed(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=iter([b"hel", b"lo"]), headers={"Content-Length": "5"})
            assert is_kept(session)
        assert peer.received == [head_of(peer, b"Content-Length: 5\r\n\r\n") + b"hello"]


@pytest.mark.parametrize(
    ("given", "message"), [([b"hell"], "ended after 4 bytes"), ([], "ended after 0"), ([b"hel", b"lo!"], "more than")]
)
async def test_the_callers_content_length_is_checked(world: World, given: list[bytes], message: str) -> None:
    with ScriptedPeer([expect_head(), expect_end_with(b"hel", b"hell", b"")]) as peer:
        async with bare(world) as session:
            with pytest.raises(UsageError, match=message) as caught:
                await session.post(peer.url, content=iter(given), headers={"Content-Length": "5"})
            assert caught.value.sent
            assert caught.value.phase == "write"
            assert not caught.value.replayable
            assert not is_kept(session)


def expect_end_with(*allowed: bytes) -> Callable[[PeerConnection], None]:
    """Not a byte more than was announced goes out."""

    def step(connection: PeerConnection) -> None:
        rest = connection.read_end()
        assert rest in allowed, rest

    return step


async def test_trailers_are_sent_behind_a_chunked_body(world: World) -> None:
    sent: list[bytes] = []

    def body() -> Iterator[bytes]:
        for piece in (b"a", b"b"):
            sent.append(piece)
            yield piece

    def trailers() -> Headers:
        return Headers({"X-Sum": str(len(sent))})

    end = b"0\r\nX-Sum: 2\r\n\r\n"
    with ScriptedPeer([expect_request(), send(OK), expect_request(), send(OK), expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.send(Request("POST", peer.url, content=body(), trailers=trailers))
            # Only a chunked body has a place for trailers, so bytes are sent chunked too, and an empty body.
            await session.send(Request("POST", peer.url, content=b"ab", trailers=trailers))
            await session.send(Request("POST", peer.url, trailers=trailers))
            assert is_kept(session)
        head = head_of(peer, CHUNKED)
        assert peer.received == [head + b"1\r\na\r\n1\r\nb\r\n" + end + head + b"2\r\nab\r\n" + end + head + end]


async def test_trailers_and_a_length_are_refused_before_io(world: World) -> None:
    with ScriptedPeer() as peer:
        async with bare(world) as session:
            request = Request(
                "POST", peer.url, content=b"ab", headers={"Content-Length": "2"}, trailers=lambda: Headers()
            )
            with pytest.raises(UsageError, match="no trailers"):
                await session.send(request)
        assert peer.accepted == 0


async def test_a_trailer_that_cannot_be_one(world: World) -> None:
    with ScriptedPeer([expect_head(), expect(b"2\r\nab\r\n"), expect_end()]) as peer:
        async with bare(world) as session:
            request = Request("POST", peer.url, content=b"ab", trailers=lambda: Headers({"Host": "evil"}))
            with pytest.raises(InvalidHeader, match="trailer"):
                await session.send(request)
            assert not is_kept(session)


# -- Expect: 100-continue ------------------------------------------------------------------------------------------

EXPECT = b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def asking(url: str, seconds: float = 30.0, content: Any = b"hello") -> Request:
    return Request("POST", url, content=content, expect_continue=seconds)


@pytest.mark.parametrize("each", [None, 1])
async def test_expect_waits_for_100(world: World, each: int | None) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    script = [expect_head(), send(CONTINUE, each=each), expect(b"hello"), send(OK)]
    with ScriptedPeer([*script, expect_head(), send(hint), send(CONTINUE), expect(b"hello"), send(OK)]) as peer:
        async with bare(world) as session:
            for _ in range(2):
                assert (await session.send(asking(peer.url))).content == b"ok"
            assert is_kept(session)
        assert peer.received[0] == (head_of(peer, EXPECT) + b"hello") * 2


async def test_only_100_says_go_on(world: World) -> None:
    # 103 is no 100: nothing of the body may come before the final answer, which is no.
    script = [expect_head(), send(b"HTTP/1.1 103 Early Hints\r\n\r\n"), send(TOO_LARGE), expect_end()]
    with ScriptedPeer(script) as peer:
        async with bare(world) as session:
            assert (await session.send(asking(peer.url))).status_code == 413


@pytest.mark.parametrize("status", [b"417 Expectation Failed", b"401 Unauthorized", b"200 OK"])
async def test_a_final_status_in_place_of_100_keeps_the_body_home(world: World, status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno"
    with ScriptedPeer([expect_head(), send(answer), expect_end()]) as peer:
        async with bare(world) as session:
            response = await session.send(asking(peer.url, content=iter([b"hello"])))
            assert response.status_code == int(status[:3])
            assert response.content == b"no"
            assert not is_kept(session)


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_a_server_that_does_not_know_expect_gets_the_body_all_the_same(world: World, version: bytes) -> None:
    with ScriptedPeer([expect_head(), expect(b"hello"), send(OK.replace(b"HTTP/1.1", version)), expect_end()]) as peer:
        async with bare(world) as session:
            assert (await session.send(asking(peer.url, 0.02))).content == b"ok"


async def test_the_header_alone_asks_too(world: World) -> None:
    with ScriptedPeer([expect_head(), send(CONTINUE), expect(b"hello"), send(OK)]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=b"hello", headers={"Expect": "100-Continue"})


async def test_without_content_nothing_is_asked(world: World) -> None:
    # RFC 9110, 10.1.1: a request without content has nothing to wait with.
    with ScriptedPeer([expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.send(Request("POST", peer.url, expect_continue=30.0))
        assert b"expect" not in peer.received[0].lower()


async def test_the_deadline_ends_the_wait_for_100(world: World) -> None:
    kept: list[bool] = []

    async def send_it(budget: float) -> plugwire.Error:
        with ScriptedPeer([expect_head(), expect_end()]) as peer:
            async with bare(world) as session:
                with pytest.raises(plugwire.TotalTimeout) as caught:
                    await session.send(asking(peer.url), timeout=budget)
                kept.append(is_kept(session))
                return caught.value

    error, _ = await error_in("write", True, send_it)
    assert error.phase == "write" and error.sent
    assert not kept[-1]


@pytest.mark.parametrize("value", [0, -1, "1", True])
def test_how_long_to_wait_is_checked(value: Any) -> None:
    with pytest.raises(UsageError, match="expect_continue"):
        Request("POST", "http://h/", expect_continue=value)


# -- a final response that comes early -----------------------------------------------------------------------------


class Endless:
    """Pieces for ever, and how many were taken."""

    def __init__(self, size: int = 65536) -> None:
        self.taken = 0
        self.is_closed = False
        self._piece = b"x" * size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.taken += 1
        return self._piece

    def close(self) -> None:
        self.is_closed = True


def read_all(connection: PeerConnection) -> None:
    connection.read_end()


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([send(TOO_LARGE), close()], id="413 then close"),
        pytest.param([send(TOO_LARGE), read_all], id="413 then reading on"),
        pytest.param([send(TOO_LARGE, each=1), read_all], id="413 byte by byte"),
        pytest.param([send(b"HTTP/1.1 102 Processing\r\n\r\n" * 3), send(TOO_LARGE), read_all], id="1xx, then 413"),
        pytest.param([send(TOO_LARGE), half_close(), read_all], id="413, FIN, reading on"),
    ],
)
async def test_a_final_response_ends_an_upload(world: World, steps: list[Any]) -> None:
    body = Endless()
    with ScriptedPeer([expect_head(), receive(100), *steps], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            response = await session.post(peer.url, content=body)
            assert response.status_code == 413
            assert response.content == b"large"
            assert not is_kept(session)
            assert body.is_closed
            assert (await session.get(peer.url)).content == b"ok"


async def test_a_peer_that_never_reads_but_answers(world: World) -> None:
    # What the system takes without the peer reading is soon used up, so the upload stands when the answer comes.
    body = Endless(262144)
    with ScriptedPeer([expect_head(), send(TOO_LARGE), wait_for(over := threading.Event()), read_all]) as peer:
        async with bare(world) as session:
            response = await session.post(peer.url, content=body)
            assert (response.status_code, response.content) == (413, b"large")
            assert not is_kept(session)
            over.set()


async def test_an_answer_that_comes_while_the_upload_stands(world: World) -> None:
    def is_full(connection: PeerConnection) -> None:
        # Nothing more is taken in, neither here nor there: by now the client waits.
        import fcntl
        import struct
        import termios

        last, same, until = -1, 0, time.monotonic() + PATIENCE
        while same < 100:
            assert time.monotonic() < until, f"{last} bytes lie here, and still it changes"
            waiting = struct.unpack("i", fcntl.ioctl(connection.sock, termios.FIONREAD, b"\0" * 4))[0]
            same = same + 1 if waiting == last and waiting else 0
            last = waiting
            threading.Event().wait(0.0005)

    with ScriptedPeer([expect_head(), is_full, send(TOO_LARGE), wait_for(over := threading.Event()), read_all]) as peer:
        async with bare(world) as session:
            response = await session.post(peer.url, content=b"x" * 30_000_000)
            assert (response.status_code, response.content) == (413, b"large")
            over.set()


async def test_a_reset_behind_the_answer_does_not_hide_it(world: World) -> None:
    # Closing with unread bytes makes the peer's system send a reset, while the answer lies in our buffer already.
    answered = threading.Event()

    def answer_and_reset(connection: PeerConnection) -> None:
        connection.sock.sendall(TOO_LARGE)
        abort()(connection)
        answered.set()

    def body() -> Iterator[bytes]:
        yield b"x" * 1000
        answered.wait(30)
        yield b"y" * 1000
        yield b"z" * 1000

    with ScriptedPeer([expect_head(), receive(1000), answer_and_reset]) as peer:
        async with bare(world) as session:
            response = await session.post(peer.url, content=body())
            assert (response.status_code, response.content) == (413, b"large")
            assert not is_kept(session)


async def test_a_success_that_comes_early_retires_the_connection_too(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK), read_all], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            assert (await session.post(peer.url, content=Endless())).content == b"ok"
            assert not is_kept(session)
            await session.get(peer.url)


@pytest.mark.parametrize("content", [b"x" * 30_000_000, None])
async def test_a_reset_without_an_answer(world: World, content: bytes | None) -> None:
    with ScriptedPeer([expect_head(), receive(100), abort()]) as peer:
        async with bare(world) as session:
            with pytest.raises(plugwire.NetworkError) as caught:
                await session.put(peer.url, content=content or Endless())
            error = caught.value
            assert isinstance(error, (plugwire.WriteError, plugwire.ConnectionClosed))
            assert (error.phase, error.sent) == ("write", True)
            assert error.replayable is (content is not None)  # PUT is idempotent, the endless body cannot be rewound
            assert isinstance(error.__cause__, ConnectionError)
            assert not is_kept(session)


async def test_an_end_without_an_answer_while_uploading(world: World) -> None:
    with ScriptedPeer([expect_head(), receive(100), half_close(), read_all]) as peer:
        async with bare(world) as session:
            with pytest.raises(plugwire.ConnectionClosed) as caught:
                await session.put(peer.url, content=Endless())
            assert (caught.value.phase, caught.value.sent) == ("write", True)


async def test_an_upload_that_nobody_takes_runs_out_of_time(world: World) -> None:
    with ScriptedPeer([expect_head(), wait_for(over := threading.Event()), read_all]) as peer:
        async with bare(world) as session:
            with pytest.raises(plugwire.WriteTimeout) as caught:
                await session.post(peer.url, content=b"x" * 30_000_000, timeout=Timeout(write=0.05))
            over.set()
            assert (caught.value.phase, caught.value.sent, caught.value.budget) == ("write", True, "write")
            assert not is_kept(session)


# -- what goes wrong in the body itself ----------------------------------------------------------------------------


class Trouble(Exception):
    pass


@pytest.mark.parametrize("error", [Trouble("x"), OSError(5, "disk"), TimeoutError("mine"), ConnectionResetError("x")])
async def test_errors_of_the_body_are_not_the_networks(world: World, error: Exception) -> None:
    def body() -> Iterator[bytes]:
        yield b"one"
        raise error

    with ScriptedPeer([expect_head(), expect(b"3\r\none\r\n"), expect_end()]) as peer:
        async with bare(world) as session:
            if isinstance(error, OSError):
                with pytest.raises(UsageError, match="could not be read") as caught:
                    await session.put(peer.url, content=body())
                assert caught.value.__cause__ is error
                assert (caught.value.phase, caught.value.sent) == ("write", True)
            else:
                with pytest.raises(Trouble):
                    await session.put(peer.url, content=body())
            assert not is_kept(session)


async def test_a_piece_of_the_wrong_type(world: World) -> None:
    with ScriptedPeer([expect_head(), expect_end()]) as peer:
        async with bare(world) as session:
            with pytest.raises(UsageError, match="is int"):
                await session.post(peer.url, content=iter([1, 2]))


async def test_a_one_shot_body_is_sent_once(world: World) -> None:
    body = iter([b"x"])
    request = Request("POST", "http://h/", content=body)
    with ScriptedPeer([expect_request(), send(OK), expect_request(), send(OK)]) as peer:
        request.url = plugwire.URL(peer.url)
        async with bare(world) as session:
            await session.send(request)
            with pytest.raises(plugwire.NotReplayable) as caught:
                await session.send(request)
            assert not caught.value.sent
            # Nothing was sent, so nothing is wrong with the connection.
            assert is_kept(session)
            await session.post(peer.url, content=b"x")


async def test_a_generator_is_closed_however_it_ends(world: World) -> None:
    closed: list[str] = []

    def body(name: str) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.append(name)

    with ScriptedPeer([expect_head(), send(TOO_LARGE), read_all], [expect_head(), abort()]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=body("early"))
            with pytest.raises(plugwire.NetworkError):
                await session.post(peer.url, content=body("reset"))
        assert closed == ["early", "reset"]


# -- files ---------------------------------------------------------------------------------------------------------


async def upload(world: World, content: Any, **options: Any) -> tuple[bytes, bytes]:
    """Head fields and body as they arrived, dechunked."""
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            await session.post(peer.url, content=content, **options)
            assert is_kept(session)
        head, _, body = peer.received[0].partition(b"\r\n\r\n")
    return head, dechunked(body) if b"chunked" in head else body


async def test_a_file_is_sent_from_where_it_stands(world: World) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789" * 100_000)
        file.seek(7)
        head, body = await upload(world, file)
        assert b"Content-Length: 999993" in head
        assert body == (b"0123456789" * 100_000)[7:]
        # It was read to the end; from there on there is nothing.
        head, body = await upload(world, file)
        assert b"Content-Length: 0" in head
        assert body == b""


async def test_a_file_that_grows_is_sent_as_long_as_it_was(world: World) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"12345")
        file.seek(0)
        request = Request("POST", "http://h/", content=file)
        os.write(file.fileno(), b"12345" + b"67890")
        with ScriptedPeer([expect_request(), send(OK)]) as peer:
            request.url = plugwire.URL(peer.url)
            async with bare(world) as session:
                await session.send(request)
            assert peer.received[0].endswith(b"Content-Length: 5\r\n\r\n12345")


async def test_a_file_that_shrinks_is_noticed(world: World) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"1234567890")
        file.seek(0)
        request = Request("POST", "http://h/", content=file)
        file.truncate(4)
        with ScriptedPeer([expect_head(), expect(b"1234"), expect_end()]) as peer:
            request.url = plugwire.URL(peer.url)
            async with bare(world) as session:
                with pytest.raises(UsageError, match="ended after 4 bytes"):
                    await session.send(request)


async def test_a_pipe_is_sent_chunked_and_once(world: World) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as end:
        end.write(b"through a pipe")
    with os.fdopen(reading, "rb") as file:
        head, body = await upload(world, file)
    assert b"chunked" in head
    assert body == b"through a pipe"


@pytest.mark.parametrize("what", ["StringIO", "text file", "temporary", "closed", "write only"])
def test_files_that_cannot_be_a_body_are_refused_at_once(what: str, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    file: Any
    if what == "StringIO":
        file = io.StringIO("hello")
    elif what == "temporary":
        file = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115  (closed below)
    else:
        file = path.open({"text file": "r", "closed": "rb", "write only": "wb"}[what])
    if what == "closed":
        file.close()
    message = "cannot be read" if what in ("closed", "write only") else "text file"
    with contextlib.closing(file), pytest.raises(UsageError, match=message):
        Request("POST", "http://h/", content=file)


async def test_buffers_of_all_kinds(world: World, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"mapped")
    assert (await upload(world, bytearray(b"abc")))[1] == b"abc"
    assert (await upload(world, memoryview(b"abcdef")[::2]))[1] == b"ace"
    assert (await upload(world, array.array("H", [1, 2])))[1] == array.array("H", [1, 2]).tobytes()
    assert (await upload(world, memoryview(array.array("H", [1, 2]))))[1] == array.array("H", [1, 2]).tobytes()
    assert (await upload(world, "grüße"))[1] == "grüße".encode()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert (await upload(world, mapped))[1] == b"mapped"
    assert (await upload(world, io.BytesIO(b"bytes"), headers={"Content-Length": "5"}))[1] == b"bytes"


async def test_a_file_whose_read_is_awaited(world: World) -> None:
    class File:
        def __init__(self) -> None:
            self._file = io.BytesIO(b"awaited")

        async def read(self, size: int = -1) -> bytes:
            return self._file.read(size)

    head, body = await upload(world, File())
    assert b"chunked" in head
    assert body == b"awaited"


async def test_the_body_of_another_response_is_streamed_through(world: World) -> None:
    large = bytes(range(256)) * 1000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\n" + large
    with ScriptedPeer([expect_head(), send(answer)]) as source, ScriptedPeer([expect_request(), send(OK)]) as target:
        async with bare(world) as session, session.stream("GET", source.url) as response:
            pieces = response.iter_bytes()
            # The async face of the blocking world is the test's own; the iterator below is what users have.
            content = getattr(pieces, "_inner", pieces)
            await session.put(target.url, content=content)
        assert dechunked(target.received[0].partition(b"\r\n\r\n")[2]) == large


class Reluctant(Stream):
    """A peer that takes a few bytes of each piece before the time is up, `patience` times; and then answers."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.left = 0
        self.taken = 0

    def read_now(self, max_bytes: int) -> bytes | None:
        return None

    def write_now(self, data: Any) -> None:
        raise AssertionError("the speaker sends")

    @property
    def unsent(self) -> int:
        return self.left

    async def wait(self, read: bool, write: bool, at: float) -> None:
        raise AssertionError("the speaker sends and receives")

    async def send(self, data: Any, at: float, stop_if_readable: bool = False) -> int:
        size = len(data) if isinstance(data, bytes) else sum(map(len, data))
        self.left += size
        took = min(1000, self.left) if self.patience else 0
        if stop_if_readable and self.left > took:
            self.patience -= bool(took)
            self.left -= took
            self.taken += took
            raise TimeoutError
        self.taken += self.left
        self.left = 0
        return size

    async def receive(self, max_bytes: int, at: float) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def close(self) -> None: ...
    def abort(self) -> None: ...
    def extra(self, key: Any, default: Any = None) -> Any:
        return default


class ReluctantDialler:
    name = "reluctant"
    honours = frozenset({EVERYTHING})

    def __init__(self, patience: int) -> None:
        self.stream = Reluctant(patience)

    def refuse(self, route: Any) -> str | None:
        return None

    async def dial(self, route: Any, connecting: Any) -> Stream:
        return self.stream


async def test_the_write_budget_begins_anew_with_each_byte_that_the_peer_takes(world: World) -> None:
    dialler = ReluctantDialler(patience=200)
    async with bare(world, transports=[dialler]) as session:
        response = await session.post("http://127.0.0.1:1", content=b"x" * 100_000)
        assert response.status_code == 200
    assert dialler.stream.taken > 100_000


async def test_a_peer_that_takes_nothing_any_more_is_given_up(world: World) -> None:
    dialler = ReluctantDialler(patience=20)
    async with bare(world, transports=[dialler]) as session:
        with pytest.raises(plugwire.WriteTimeout):
            await session.post("http://127.0.0.1:1", content=b"x" * 100_000)
    assert dialler.stream.taken < 100_000


class Breaking(Reluctant):
    """Answers the first request, says 100 (Continue) to the second, and then takes no more of it."""

    def __init__(self) -> None:
        super().__init__(patience=0)
        self.heads = 0

    async def send(self, data: Any, at: float, stop_if_readable: bool = False) -> int:
        if stop_if_readable:
            raise ConnectionResetError("gone")
        self.heads += 1
        return len(data)

    async def receive(self, max_bytes: int, at: float) -> bytes:
        return b"HTTP/1.1 100 Continue\r\n\r\n" if self.heads > 1 else await super().receive(max_bytes, at)


async def test_nothing_is_replayed_after_a_byte_of_an_answer_an_interim_one_included(world: World) -> None:
    dialler = ReluctantDialler(patience=0)
    dialler.stream = Breaking()
    async with bare(world, transports=[dialler]) as session:
        await session.get("http://127.0.0.1:1")
        with pytest.raises(plugwire.ReadError) as caught:
            await session.put("http://127.0.0.1:1", content=b"x", headers={"expect": "100-continue"})
        assert caught.value.connection is not None and caught.value.connection.reused
    assert dialler.stream.heads == 2
