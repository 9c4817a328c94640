"""Content decoding through sessions: what is decoded and what is not, what arrives when, what fails and how, and what a
peer may make us hold. The codings themselves are in test_content_codings."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from coders import CODINGS, WAYS, Flushing, coded, zeros
from h2_peer import Conversation, H2Peer
from plugwire import AsyncResponse, DecodingError, IncompleteBody, LimitExceeded, Limits, Response, TLSConfig
from plugwire.drive import drive
from plugwire.protocols import Body, WatchedBody
from plugwire.testing import MockTransport
from plugwire.testing.peer import ScriptedPeer, close, expect_head, send, wait_for
from plugwire_plugins import Decompress, DecompressOptions, Retries
from plugwire_plugins import decompress as module
from plugwire_plugins.content_codings import Chain, Decoder
from plugwire_plugins.decompress import LEAST, MOST

if TYPE_CHECKING:
    from peers.apache import Apache
    from peers.certificates import Authority
    from peers.nginx import Nginx
    from peers.node import Node
    from worlds import World

URL = "http://h.example/x"
TEXT = b"".join(b"line %d of a text that compresses\n" % number for number in range(5000))
MIB = 1 << 20


def answer(coding: str | None, data: bytes, status: int = 200, **fields: str) -> Response:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    if coding is not None:
        headers["Content-Encoding"] = coding
    return Response(status, headers=headers, content=data)


def serving(coding: str | None, data: bytes, status: int = 200, **fields: str) -> MockTransport:
    return MockTransport(lambda request: answer(coding, data, status, **fields))


def head(coding: str, *lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Encoding: {coding}", *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b"0\r\n\r\n"


# -- what is decoded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_every_coding_is_undone_in_buffered_and_streamed_calls(world: World, way: str) -> None:
    coding, data = coded(TEXT, [way])
    peer = ScriptedPeer([expect_head(), send(head(coding, f"Content-Length: {len(data)}") + data, each=5000)] * 3)
    with peer:
        async with world.session() as session:
            response = await session.get(peer.url)
            assert response.content == TEXT and response.is_read
            # As they were received.
            assert response.headers["content-encoding"] == coding
            assert response.headers.get_int("content-length") == len(data)
            async with session.stream("GET", peer.url) as response:
                pieces = [piece async for piece in response.iter_bytes()]
                assert b"".join(pieces) == TEXT
            async with session.stream("GET", peer.url) as response:
                lines = [line async for line in response.iter_lines()]
                assert "\n".join(lines).encode() + b"\n" == TEXT
            assert session.stats()[:2] == (1, 1)


@pytest.mark.parametrize("way", ["gzip", "br", "zstd in frames"])
async def test_over_http2_too(world: World, way: str) -> None:
    coding, data = coded(TEXT, [way])

    def script(h2: Conversation) -> None:
        for _ in range(2):
            stream, fields = h2.await_headers()
            assert fields["accept-encoding"] == "gzip, deflate, br, zstd"
            h2.headers(stream, [(":status", "200"), ("content-encoding", coding)])
            for place in range(0, len(data), 3000):
                h2.data(stream, data[place : place + 3000], end_stream=place + 3000 >= len(data))

    with H2Peer(script) as peer:
        async with world.session(http_versions=("h2",)) as session:
            assert (await session.get(peer.url)).content == TEXT
            async with session.stream("GET", peer.url) as response:
                assert await response.read() == TEXT


async def test_a_chain_in_several_lines_is_undone_from_its_end(world: World) -> None:
    _, data = coded(TEXT, ["deflate", "br", "gzip"])
    headers = [("Content-Encoding", "deflate"), ("Content-Encoding", "br, identity"), ("content-encoding", "X-Gzip")]
    mock = MockTransport(lambda request: Response(200, headers=headers, content=data))
    async with world.session(transports=[mock]) as session:
        assert (await session.get(URL)).content == TEXT


@pytest.mark.parametrize("accepted", [{"Accept-Encoding": "identity"}, {"Accept-Encoding": "br"}])
async def test_what_was_not_asked_for_is_decoded_all_the_same(world: World, accepted: dict[str, str]) -> None:
    mock = serving("gzip", gzip.compress(TEXT))
    async with world.session(transports=[mock]) as session:
        assert (await session.get(URL, headers=accepted)).content == TEXT
    assert mock.calls[0].headers.get_list("accept-encoding") == [accepted["Accept-Encoding"]]


async def test_text_and_json_are_of_the_content(world: World) -> None:
    mock = serving("br", CODINGS["br"]('{"ä": 1}'.encode("utf-16")), content_type="application/json; charset=utf-16")
    async with world.session(transports=[mock]) as session:
        response = await session.get(URL)
        assert response.json() == {"ä": 1} and response.text == '{"ä": 1}'


@pytest.mark.parametrize("coding", ["compress", "gzip, compress", "compress, gzip", "aws-chunked", "dcb"])
async def test_a_coding_that_is_not_known_is_handed_on_as_it_came(world: World, coding: str) -> None:
    data = gzip.compress(TEXT)
    async with world.session(transports=[serving(coding, data)]) as session:
        response = await session.get(URL)
        assert response.content == data and response.headers["content-encoding"] == coding


@pytest.mark.parametrize("length", [(), ("Content-Length: 0",), ("Transfer-Encoding: chunked",)])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
async def test_where_there_is_no_content_there_is_nothing_to_decode(
    world: World, status: str, length: tuple[str, ...]
) -> None:
    if status.startswith("204") and length:
        length = ()
    method = "HEAD" if status.startswith("200") and not length else "GET"
    data = head("gzip, br", *length).replace(b"200 OK", status.encode())
    body = b"0\r\n\r\n" if length == ("Transfer-Encoding: chunked",) and status.startswith("200") else b""
    with ScriptedPeer([expect_head(), send(data + body)] * 2) as peer:
        async with world.session() as session:
            assert (await session.request(method, peer.url)).content == b""
            async with session.stream(method, peer.url) as response:
                assert await response.read() == b""
            assert session.stats()[:2] == (1, 1)


async def test_a_part_of_a_coded_content_is_not_decoded_and_the_whole_is(world: World) -> None:
    data = gzip.compress(TEXT)
    part = {"content_range": f"bytes 0-9/{len(data)}"}
    async with world.session(transports=[serving("gzip", data[:10], 206, **part)]) as session:
        assert (await session.get(URL, headers={"Range": "bytes=0-9"})).content == data[:10]
    for place in (f"bytes 0-{len(data) - 1}/{len(data)}", f"Bytes 0-{len(data) - 1}/{len(data)}"):
        async with world.session(transports=[serving("gzip", data, 206, content_range=place)]) as session:
            assert (await session.get(URL)).content == TEXT
    for place in ("", "bytes 0-9/*", "bytes 5-9/10", "bytes 0-/1", "x"):
        async with world.session(transports=[serving("gzip", b"12345", 206, content_range=place)]) as session:
            assert (await session.get(URL)).content == b"12345"


async def test_the_content_as_received_can_be_had(world: World) -> None:
    data = gzip.compress(TEXT)
    raw = {"decode_content": False}
    async with world.session(transports=[serving("gzip", data)]) as session:
        assert (await session.get(URL, options=raw)).content == data
        async with session.stream("GET", URL, options=raw) as response:
            assert await response.read() == data
        assert (await session.get(URL)).content == TEXT
        assert (await session.derive(options=raw).get(URL)).content == data
    async with world.session(transports=[serving("gzip", data)], options=raw) as session:
        assert (await session.get(URL)).content == data
        assert (await session.get(URL, options={"decode_content": True})).content == TEXT
        with pytest.raises(plugwire.UnknownOption):
            await session.get(URL, options={"decode_content": "no"})
    async with world.session(transports=[serving("gzip", data)], defaults=False) as session:
        assert (await session.get(URL)).content == data
    assert DecompressOptions() == DecompressOptions(decode_content=True)


# -- what is asked for ---------------------------------------------------------------------------------------------


async def test_what_can_be_decoded_is_said_unless_the_user_says_something(world: World) -> None:
    mock = serving(None, b"")
    for plugins, headers, expected in (
        ([], {}, ["gzip, deflate, br, zstd"]),
        ([Decompress()], {}, ["gzip, deflate, br, zstd"]),
        ([Decompress(announce=("gzip",))], {}, ["gzip"]),
        ([Decompress(announce=())], {}, []),
        ([], {"accept-encoding": "br;q=0.5"}, ["br;q=0.5"]),
        ([], {"Accept-Encoding": ""}, [""]),
    ):
        mock.calls.clear()
        async with world.session(transports=[mock], plugins=plugins, headers=headers) as session:
            await session.get(URL)
            await session.get(URL, headers={"Accept-Encoding": "identity"})
        assert [call.headers.get_list("accept-encoding") for call in mock.calls] == [expected, ["identity"]]


def test_what_cannot_be_decoded_cannot_be_announced() -> None:
    for wrong in (("gzip", "compress"), "gzip, br", ("x-gzip",)):
        with pytest.raises(plugwire.UsageError, match="gzip, deflate, br, zstd"):
            Decompress(announce=wrong)
    assert repr(Decompress()) == "Decompress()"
    assert repr(Decompress(announce=("br",))) == "Decompress(announce=('br',))"


# -- where it stands -----------------------------------------------------------------------------------------------


class Watched:
    """Notes what passes at its stage."""

    def __init__(self) -> None:
        self.outside = b""
        self.inside = b""

    @plugwire.hookimpl
    def around_read(self, body: Body) -> Body:
        plugin = self

        class Outside(WatchedBody):
            def seen(self, data: bytes | memoryview) -> None:
                plugin.outside += data

        return Outside(body)


class WatchedInside(Watched):
    @plugwire.hookimpl(stage="attempt")
    def around_read(self, body: Body) -> Body:
        plugin = self

        class Inside(WatchedBody):
            def seen(self, data: bytes | memoryview) -> None:
                plugin.inside += data

        return Inside(body)


@pytest.mark.parametrize("streaming", [False, True])
async def test_outside_is_content_and_inside_is_what_was_received(world: World, streaming: bool) -> None:
    outer, inner = Watched(), WatchedInside()
    data = gzip.compress(TEXT)
    async with world.session(transports=[serving("gzip", data)], plugins=[outer, inner]) as session:
        if streaming:
            async with session.stream("GET", URL) as response:
                buffer = bytearray(1000)
                while await response.readinto(buffer):
                    pass
        else:
            await session.get(URL)
    assert outer.outside == TEXT
    assert inner.inside == data


class Asked(Decompress):
    """Counts its bodies."""

    bodies = 0

    @plugwire.hookimpl(stage="decode", if_response="content-encoding")
    def around_read(self, response: AsyncResponse, body: Body, call: Any) -> Body:
        self.bodies += 1
        return super().around_read(response, body, call)


async def test_a_body_without_a_coding_costs_nothing(world: World) -> None:
    plugin = Asked()
    async with world.session(transports=[serving(None, TEXT)], plugins=[plugin]) as session:
        response = await session.get(URL)
        assert response.content == TEXT
    assert plugin.bodies == 0
    async with world.session(transports=[serving("gzip", gzip.compress(TEXT))], plugins=[plugin]) as session:
        await session.get(URL)
    assert plugin.bodies == 1


async def test_a_coded_body_that_breaks_in_the_middle_is_asked_for_again(world: World) -> None:
    data = gzip.compress(TEXT)
    whole = head("gzip", f"Content-Length: {len(data)}") + data
    with ScriptedPeer([expect_head(), send(whole[:-100]), close()], [expect_head(), send(whole)]) as peer:
        retries = Retries(random=lambda: 0.0)
        async with world.session(plugins=[retries]) as session:
            response = await session.get(peer.url)
            assert response.content == TEXT and response.is_read


async def test_a_coded_body_that_is_wrong_is_not_asked_for_again(world: World) -> None:
    mock = serving("gzip", gzip.compress(TEXT)[:-1])
    async with world.session(transports=[mock], plugins=[Retries(random=lambda: 0.0)]) as session:
        with pytest.raises(IncompleteBody):
            await session.get(URL)
    assert len(mock.calls) == 1


async def test_a_body_in_memory_that_a_middleware_has_read_is_decoded_from_its_start(world: World) -> None:
    class Reads:
        @plugwire.hookimpl(stage="retry")
        async def around_call(self, request: Any, call_next: Any) -> Any:
            response = await call_next(request)
            assert await response.read() == data
            return response

    data = gzip.compress(TEXT)
    for streaming in (False, True):
        async with world.session(transports=[serving("gzip", data)], plugins=[Reads()]) as session:
            if streaming:
                async with session.stream("GET", URL) as response:
                    assert await response.read() == TEXT
            else:
                assert (await session.get(URL)).content == TEXT


# -- what arrives when ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
async def test_what_has_arrived_can_be_read(world: World, coding: str) -> None:
    """Server-sent events through a coder that the server flushes after each."""
    coder, was_read = Flushing(coding), [threading.Event() for _ in range(3)]
    events = [b"data: %d\n\n" % number for number in range(3)]
    script: list[Any] = [expect_head(), send(head(coding, "Transfer-Encoding: chunked"))]
    for event, read in zip(events, was_read, strict=True):
        script += [send(chunk(coder.piece(event))), wait_for(read)]
    script.append(send(chunk(coder.end()) + chunk(b"")))
    with ScriptedPeer(script) as peer:
        async with world.session() as session, session.stream("GET", peer.url) as response:
            for event, read in zip(events, was_read, strict=True):
                assert await response.read(65536) == event
                read.set()
            assert await response.read(65536) == b""


@pytest.mark.parametrize("way", ["gzip", "raw deflate", "br", "zstd"])
async def test_reading_into_a_buffer_and_in_odd_pieces(world: World, way: str) -> None:
    coding, data = coded(TEXT, [way])
    async with world.session(transports=[serving(coding, data)]) as session:
        for size in (1, 7, 16384, 16385, 100_000, 10 * MIB):
            async with session.stream("GET", URL) as response:
                got, buffer = bytearray(), bytearray(size)
                while count := await response.readinto(buffer):
                    got += buffer[:count]
                    if len(got) > 20_000 and size < 10:
                        break
                assert got == TEXT[: len(got)] and (len(got) == len(TEXT) or size < 10)
            async with session.stream("GET", URL) as response:
                assert await response.read(size) == TEXT[: min(size, 256 * 1024)][: len(TEXT)]
                assert await response.readinto(bytearray(3)) == (3 if size < len(TEXT) else 0)


def test_a_blocking_response_is_a_raw_file() -> None:
    import io
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("text")
        entry.size = len(TEXT)
        archive.addfile(entry, io.BytesIO(TEXT))
    with (
        plugwire.Session(transports=[serving("gzip", gzip.compress(packed.getvalue()))]) as session,
        session.stream("GET", URL) as response,
        tarfile.open(fileobj=io.BufferedReader(response), mode="r|") as archive,  # type: ignore[type-var]
    ):
        member = archive.next()
        assert member is not None
        file = archive.extractfile(member)
        assert file is not None and file.read() == TEXT


async def test_trailers_pass_through_and_the_length_is_not_known(world: World) -> None:
    data = head("gzip", "Transfer-Encoding: chunked") + chunk(gzip.compress(TEXT)) + b"0\r\nX-Sum: 7\r\n\r\n"
    with ScriptedPeer([expect_head(), send(data)] * 2) as peer:
        async with world.session() as session:
            response = await session.get(peer.url)
            assert response.content == TEXT and response.trailers["x-sum"] == "7"
            async with session.stream("GET", peer.url) as response:
                await response.read()
                assert response.trailers["x-sum"] == "7"
    body = decoded(Scripted(gzip.compress(TEXT)), "gzip")
    assert body.length is None and body.trailers is None


# -- what fails, and how -------------------------------------------------------------------------------------------


class Scripted(Body):
    """A body of such pieces; an error among them is raised. Knows what became of it."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self.pieces = list(pieces)
        self.asked = 0
        self.closed = 0
        self.aborted = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.asked += 1
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        if len(piece) > max_bytes:
            self.pieces.insert(0, piece[max_bytes:])
        return piece[:max_bytes]

    async def close(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        self.aborted += 1


class FakeCall:
    """As much of a call as a body needs."""

    class Runtime:
        cancellation = (ZeroDivisionError,)
        turns = 0

        async def turn(self) -> None:
            self.turns += 1

    class Total:
        is_over = False

        def has_passed(self) -> bool:
            return self.is_over

        def error(self, phase: Any) -> plugwire.Error:
            return plugwire.TotalTimeout("too late").at(phase)

    def __init__(self) -> None:
        self.runtime, self.total = self.Runtime(), self.Total()
        self.blamed: list[plugwire.Error] = []
        self.is_cancelled = False

    def check(self) -> None:
        if self.is_cancelled:
            raise plugwire.Cancelled("it was cancelled")

    def blame(self, error: plugwire.Error, request: Any) -> None:
        self.blamed.append(error)


def decoded(inner: Body, coding: str, call: Any = None, limits: Limits | None = None) -> module.DecodedBody:
    response = AsyncResponse(200, body=inner, request=plugwire.Request("GET", URL))
    return module.DecodedBody(inner, Chain([coding], limits or Limits()), response, call or FakeCall())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(TEXT)[:-8] + b"12345678", DecodingError),
        (gzip.compress(TEXT)[:-8], IncompleteBody),
        (b"<html>", DecodingError),
    ],
    ids=["corrupt", "cut", "not coded"],
)
async def test_a_bad_body_fails_at_its_end_and_ever_after(
    world: World, data: bytes, kind: type[plugwire.Error]
) -> None:
    framed = head("gzip", f"Content-Length: {len(data)}") + data
    with ScriptedPeer([expect_head(), send(framed)] * 2) as peer:
        async with world.session() as session:
            with pytest.raises(kind) as caught:
                await session.get(peer.url)
            error = caught.value
            assert (error.phase, error.sent, error.attempts) == ("body", True, 1)
            assert error.request is not None and error.connection is not None
            async with session.stream("GET", peer.url) as response:
                got = b""
                errors = []
                for _ in range(1000):
                    try:
                        piece = await response.read(1000)
                    except kind as one:
                        errors.append(one)
                        if len(errors) == 3:
                            break
                    else:
                        assert piece, "an end that is none"
                        got += piece
                assert TEXT.startswith(got) and len(errors) == 3 and len(set(map(id, errors))) == 1
                assert errors[0].phase == "body" and errors[0].attempts == 1
            # The framing was intact: the connection is good for more.
            assert session.stats()[:2] == (1, 1)


def test_a_body_that_failed_has_closed_what_is_below_once() -> None:
    for data, kind in ((b"garbage", DecodingError), (gzip.compress(TEXT)[:50], IncompleteBody)):
        inner, call = Scripted(data), FakeCall()
        body = decoded(inner, "gzip", call)
        for _ in range(3):
            with pytest.raises(kind):
                while drive(body.receive()):
                    pass
        assert inner.closed == 1 and len(call.blamed) == 1
        assert body._chain is None and not body._ahead


def test_what_the_body_below_raises_passes_and_stays() -> None:
    inner = Scripted(gzip.compress(TEXT)[:1000], plugwire.ReadError("it broke"), b"never")
    body = decoded(inner, "gzip")
    got = drive(body.receive())
    assert got and TEXT.startswith(got)
    for _ in range(2):
        with pytest.raises(plugwire.ReadError, match="it broke"):
            while True:
                assert drive(body.receive())
    assert inner.pieces == [b"never"]


def test_the_worlds_own_cancellation_loses_nothing() -> None:
    data = gzip.compress(TEXT)
    inner = Scripted(data[:100], ZeroDivisionError(), data[100:200], ZeroDivisionError(), data[200:])
    body = decoded(inner, "gzip")
    got, cancelled = b"", 0
    while True:
        try:
            piece = drive(body.receive())
        except ZeroDivisionError:
            cancelled += 1
            continue
        if not piece:
            break
        got += piece
    assert got == TEXT and cancelled == 2 and not inner.closed


def test_any_other_interrupt_ends_the_body() -> None:
    inner = Scripted(gzip.compress(TEXT)[:100], KeyboardInterrupt(), b"never")
    body = decoded(inner, "gzip")
    with pytest.raises(KeyboardInterrupt):
        while True:
            drive(body.receive())
    with pytest.raises(plugwire.ReadError, match="KeyboardInterrupt"):
        drive(body.receive())
    assert inner.aborted == 1


def test_a_long_decoding_lets_others_go_on_and_looks_at_the_time() -> None:
    call = FakeCall()
    body = decoded(Scripted(zeros("gzip", 8 * MIB)), "gzip", call)
    while drive(body.receive(MIB)):
        pass
    assert 6 <= call.runtime.turns <= 8
    for name, kind in (("cancelled", plugwire.Cancelled), ("late", plugwire.TotalTimeout)):
        call = FakeCall()
        body = decoded(Scripted(zeros("gzip", 8 * MIB)), "gzip", call)
        drive(body.receive(MIB))
        call.is_cancelled = name == "cancelled"
        call.total.is_over = name == "late"
        with pytest.raises(kind):
            while drive(body.receive(MIB)):
                pass


async def test_cancelling_the_call_ends_a_coded_body(world: World) -> None:
    coder, never, reading = Flushing("gzip"), threading.Event(), threading.Event()
    data = head("gzip", "Transfer-Encoding: chunked") + chunk(coder.piece(b"begin"))
    with ScriptedPeer([expect_head(), send(data), wait_for(never)]) as peer:
        async with world.session() as session, session.stream("GET", peer.url) as response:
            assert await response.read(100) == b"begin"

            async def read_on() -> bytes:
                reading.set()
                return bytes(await response.read(100))

            outcome = await world.cancelled_after(read_on, world.settle)
            assert outcome.error is not None
            never.set()


# -- what is left unread -------------------------------------------------------------------------------------------


async def test_urllib3_cve_2026_21441_what_is_closed_unread_is_never_decoded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    decode = Decoder.decode

    def counted(self: Decoder, data: bytes, max_bytes: int) -> bytes:
        calls.append(max_bytes)
        return decode(self, data, max_bytes)

    monkeypatch.setattr(Decoder, "decode", counted)
    bomb = zeros("gzip", 4 * MIB)
    whole = head("gzip", f"Content-Length: {len(bomb)}") + bomb
    with ScriptedPeer([expect_head(), send(whole), expect_head(), send(whole)]) as peer:
        async with world.session() as session:
            async with session.stream("GET", peer.url) as response:
                pass
            assert calls == []
            with pytest.raises(plugwire.UsageError):
                await response.read()
            # The rest of a body that was begun is dropped as it came, and the connection is used again.
            async with session.stream("GET", peer.url) as response:
                assert response.connection.reused
                assert len(await response.read(10)) == 10
            assert len(calls) == 1
            assert session.stats()[:2] == (1, 1)


async def test_a_redirects_body_is_never_decoded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zeros("gzip", 4 * MIB)
    mock = MockTransport({"/x": answer("gzip", bomb, 302, location="/y"), "/y": answer(None, b"here")})
    monkeypatch.setattr(Decoder, "decode", None)
    async with world.session(transports=[mock]) as session:
        assert (await session.get(URL)).content == b"here"
    assert len(mock.calls) == 2


def test_what_a_read_decodes_is_bounded_from_both_sides() -> None:
    for wanted, least, most in ((10, LEAST, LEAST), (100_000, 100_000, 100_000), (100 * MIB, MOST, MOST)):
        body = decoded(Scripted(zeros("gzip", 4 * MIB)), "gzip")
        size = len(drive(body.receive(wanted)))
        assert 0 < size <= wanted
        assert least <= size + len(body._ahead) <= most


def test_a_closed_body_gives_nothing_more() -> None:
    inner = Scripted(gzip.compress(TEXT))
    body = decoded(inner, "gzip")
    assert drive(body.receive(10)) == TEXT[:10]
    drive(body.close())
    assert inner.closed == 1 and not body._ahead
    with pytest.raises(plugwire.UsageError, match="closed before its end"):
        drive(body.receive())
    body = decoded(Scripted(gzip.compress(b"x")), "gzip")
    assert drive(body.receive()) == b"x" and drive(body.receive()) == b""
    drive(body.close())
    assert drive(body.receive()) == b"" == drive(body.receive())
    body.abort()


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("retried", [False, True])
async def test_aiohttp_cve_2025_69223_a_bomb_is_not_kept_by_a_buffered_call(
    world: World, coding: str, retried: bool
) -> None:
    mock = serving(coding, zeros(coding, 16 * MIB))
    plugins = [Retries(random=lambda: 0.0)] if retried else []
    async with world.session(transports=[mock], plugins=plugins) as session:
        with pytest.raises(LimitExceeded) as caught:
            await session.get(URL)
    assert (caught.value.limit, caught.value.phase, len(mock.calls)) == ("max_ratio", "body", 1)
    assert "max_ratio=200" in str(caught.value)
    async with world.session(transports=[mock], limits=Limits(max_ratio=10**9)) as session:
        assert len((await session.get(URL)).content) == 16 * MIB


async def test_urllib3_cve_2025_66418_too_many_codings_fail_the_call(world: World) -> None:
    mock = serving("gzip, gzip, gzip, gzip, gzip, gzip", b"x")
    async with world.session(transports=[mock]) as session:
        for call in (session.get(URL), session.stream("GET", URL).__aenter__()):
            with pytest.raises(LimitExceeded) as caught:
                await call
            assert (caught.value.limit, caught.value.phase, caught.value.sent) == ("max_codings", "body", True)
            assert caught.value.request is not None


@pytest.mark.parametrize("coding", ["gzip", None])
async def test_max_decoded_bytes_holds_for_every_body(world: World, coding: str | None) -> None:
    data = gzip.compress(TEXT) if coding else TEXT
    for most, is_fine in ((len(TEXT), True), (len(TEXT) - 1, False)):
        mock = serving(coding, data)
        async with world.session(
            transports=[mock], limits=Limits(max_decoded_bytes=most), plugins=[Retries(random=lambda: 0.0)]
        ) as session:
            if is_fine:
                assert (await session.get(URL)).content == TEXT
                continue
            with pytest.raises(LimitExceeded) as caught:
                await session.get(URL)
            assert (caught.value.limit, caught.value.phase) == ("max_decoded_bytes", "body")
            assert len(mock.calls) == 1
            async with session.stream("GET", URL) as response:
                got = 0
                for _ in range(2):
                    with pytest.raises(LimitExceeded) as caught:
                        while piece := await response.read(1000):
                            got += len(piece)
                assert got <= most
                assert caught.value.request is not None


@pytest.mark.parametrize(
    "framed",
    [
        b"Content-Length: 1000000000000\r\n\r\n" + b"x" * 100,
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 2000),
        b"\r\n" + b"x" * 2000,
    ],
    ids=["length", "chunked", "to the end"],
)
async def test_a_plain_body_of_the_wire_is_bounded(world: World, framed: bytes) -> None:
    """With a Content-Length, the first piece shows it. The connection is not used again."""
    is_over = threading.Event()
    with ScriptedPeer([expect_head(), send(b"HTTP/1.1 200 OK\r\n" + framed), wait_for(is_over)]) as peer:
        async with world.session(limits=Limits(max_decoded_bytes=1000)) as session:
            with pytest.raises(LimitExceeded) as caught:
                await session.get(peer.url)
            assert caught.value.limit == "max_decoded_bytes"
            assert session.stats().open == 0
            is_over.set()


async def test_a_body_that_came_with_its_head_is_bounded_too(world: World) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    for most in (4, 5):
        with ScriptedPeer([expect_head(), send(whole)] * (2 if most == 4 else 1)) as peer:
            async with world.session(limits=Limits(max_decoded_bytes=most)) as session:
                if most == 5:
                    assert (await session.get(peer.url)).content == b"hello"
                    continue
                with pytest.raises(LimitExceeded):
                    await session.get(peer.url)
                async with session.stream("GET", peer.url) as response:
                    assert response.headers["content-length"] == "5"
                    with pytest.raises(LimitExceeded):
                        await response.read()


BOMB = """
import resource, sys
sys.path[:0] = {path!r}
from coders import zeros
from plugwire import Limits, Session
from plugwire.testing.peer import ScriptedPeer, expect_head

COUNT, coding = 12, {coding!r}
member = zeros(coding, 16 << 20)

def bomb(connection):
    connection.sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Encoding: %s\\r\\n\\r\\n" % coding.encode())
    try:
        for _ in range(COUNT):
            connection.sock.sendall(member)
    except OSError:
        pass  # the first time the client leaves in the middle
    connection.sock.close()

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
limits = Limits(max_ratio=10**9)
with ScriptedPeer([expect_head(), bomb], [expect_head(), bomb]) as peer, Session(limits=limits) as session:
    for expected in (1 << 20, COUNT * 16 << 20):
        with session.stream("GET", peer.url) as response:
            size, buffer = 0, bytearray(65536)
            while size < expected and (count := response.readinto(buffer)):
                size += count
            before = before if expected > 1 << 20 else peak()
assert size == COUNT * 16 << 20, size
print(peak() - before)
"""


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_urllib3_cve_2025_66471_memory_stays_small_however_much_comes_out(coding: str) -> None:
    """192 MiB out of a few KiB, in a process of its own: what the system says that it took, beyond what 1 MiB takes."""
    code = BOMB.format(path=[str(Path(__file__).parent)], coding=coding)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 * 1024  # KiB


# -- real servers --------------------------------------------------------------------------------------------------


def sites(peer: Nginx | Apache | Node) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (peer.url, ("http/1.1",)),
        (peer.tls_url, ("http/1.1",)),
        (peer.h2_url, ("h2",)),
        (peer.h2c_url, ("h2",)),
    ]


async def test_nginx(nginx: Nginx, world: World, ca: Authority) -> None:
    for url, versions in sites(nginx):
        async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem)), http_versions=versions) as session:
            response = await session.get(f"{url}/gzip")
            assert response.headers["content-encoding"] == "gzip"
            assert response.content == b"one of 2048 lines of 32 octets.\n" * 2048
            response = await session.request("HEAD", f"{url}/gzip")
            assert response.content == b""
            plain = await session.get(f"{url}/gzip", headers={"Accept-Encoding": "identity"})
            assert "content-encoding" not in plain.headers and len(plain.content) == 65536


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_apache(apache: Apache, world: World, ca: Authority, coding: str) -> None:
    from peers.apache import TEXT as SERVED

    for url, versions in sites(apache):
        async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem)), http_versions=versions) as session:
            response = await session.get(f"{url}/{coding}")
            assert response.headers["content-encoding"] == coding and response.content == SERVED
            async with session.stream("GET", f"{url}/{coding}") as response:
                got, buffer = bytearray(), bytearray(10_000)
                while count := await response.readinto(buffer):
                    got += buffer[:count]
                assert got == SERVED


async def test_apaches_parts_of_a_coded_content_are_put_together(apache: Apache, world: World) -> None:
    """It cuts the coded form: each part by itself is no gzip, and all of them are."""
    from peers.apache import TEXT as SERVED

    async with world.session() as session:
        whole = b""
        for place in ("bytes=0-99", "bytes=100-999", "bytes=1000-"):
            response = await session.get(f"{apache.url}/gzip", headers={"Range": place})
            assert (response.status_code, response.headers["content-encoding"]) == (206, "gzip")
            whole += response.content
        assert gzip.decompress(whole) == SERVED
        response = await session.get(f"{apache.url}/gzip", headers={"Range": "bytes=0-"})
        assert response.content == SERVED


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw", "br", "deflate, br", "br, gzip, raw"])
async def test_node(node: Node, world: World, ca: Authority, coding: str) -> None:
    expected = (bytes(range(251)) * 2000)[:300_000]
    for url, versions in sites(node):
        async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem)), http_versions=versions) as session:
            response = await session.get(f"{url}/coded", params={"coding": coding, "n": "300000"})
            assert response.headers["content-encoding"] == coding.replace("raw", "deflate")
            assert response.content == expected and response.trailers["x-count"] == "300000"


async def test_what_node_flushes_arrives(node: Node, world: World, ca: Authority) -> None:
    for url, versions in sites(node):
        for coding in ("gzip", "br"):
            async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem)), http_versions=versions) as session:
                query = {"coding": coding}
                async with session.stream("GET", f"{url}/coded-events", params=query) as response:
                    # The server sends the next one when it is asked to, by another request.
                    for number in range(3):
                        assert await response.read(1000) == b"data: %d\n\n" % number
                        await session.get(f"{url}/coded-events", params={"next": response.headers["x-key"]})
                    assert await response.read(1000) == b""
