"""What a response gives its reader: content, text, pieces, files, buffers; and what it refuses."""

from __future__ import annotations

import array
import io
import json
import mmap
import pickle
import shutil
import tarfile
import tempfile
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from faces import bare as without_face
from plugwire import AsyncResponse, BodyUnread, Busy, DecodingError, HTTPStatusError, Request, Response, UsageError
from plugwire.drive import drive
from plugwire.testing.peer import ScriptedPeer, close, expect_head, send, wait_for

if TYPE_CHECKING:
    from worlds import World

HEAD = b"HTTP/1.1 200 OK\r\n"
CONTENT = bytes(range(256)) * 1024


def bare(world: World, **kwargs: Any) -> Any:
    return world.session(defaults=False, **kwargs)


def by_length(content: bytes, fields: bytes = b"") -> bytes:
    return HEAD + fields + b"Content-Length: %d\r\n\r\n" % len(content) + content


def by_chunks(content: bytes, size: int = 1000) -> bytes:
    chunks = [content[begin : begin + size] for begin in range(0, len(content), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"


def by_close(content: bytes) -> bytes:
    return HEAD + b"\r\n" + content


FRAMINGS = pytest.mark.parametrize("framed", [by_length, by_chunks, by_close], ids=["length", "chunked", "close"])


def script(data: bytes) -> list[Any]:
    steps = [expect_head(), send(data)]
    return [*steps, close()] if data.startswith(HEAD + b"\r\n") else steps


# -- reading -------------------------------------------------------------------------------------------------------


@FRAMINGS
async def test_read_keeps_and_read_of_a_size_consumes(world: World, framed: Any) -> None:
    with ScriptedPeer(script(framed(CONTENT)), script(framed(CONTENT)), script(framed(CONTENT))) as peer:
        for _ in range(1):
            async with bare(world) as session, session.stream("GET", peer.url) as response:
                assert not response.is_read
                for use in (lambda r: r.content, lambda r: r.text, lambda r: r.json()):
                    with pytest.raises(BodyUnread):
                        use(response)
                assert await response.read() == CONTENT
                assert await response.read() == CONTENT
                assert response.content == CONTENT
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            came = [await response.read(1)]
            while piece := await response.read(10_000):
                assert len(piece) <= 10_000
                came.append(piece)
            assert b"".join(came) == CONTENT
            assert await response.read(1) == await response.read() == await response.read(0) == b""
            with pytest.raises(BodyUnread, match="consumed"):
                _ = response.content
            assert response.is_closed
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            assert await response.read(3) == CONTENT[:3]
            assert await response.read() == CONTENT[3:]
            with pytest.raises(BodyUnread):
                _ = response.content


async def test_a_stream_is_unread_however_its_packets_were_cut(world: World) -> None:
    whole, empty = by_length(b"hello"), HEAD + b"Content-Length: 0\r\n\r\n"
    steps = [expect_head(), send(whole), expect_head(), send(whole, len(whole) - 5), expect_head(), send(empty)]
    with ScriptedPeer(steps) as peer:
        async with bare(world) as session:
            for content in (b"hello", b"hello", b""):
                async with session.stream("GET", peer.url) as response:
                    with pytest.raises(BodyUnread):
                        _ = response.content
                    assert await response.read() == response.content == content
            assert session.stats().open == session.stats().idle == 1


@FRAMINGS
@pytest.mark.parametrize("size", [1000, 4096, 300_000])
async def test_readinto_gives_everything_and_0_at_the_end(world: World, framed: Any, size: int) -> None:
    with ScriptedPeer(script(framed(CONTENT))) as peer:
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            buffer = bytearray(size)
            came = b""
            assert await response.readinto(bytearray()) == 0
            while count := await response.readinto(buffer):
                came += buffer[:count]
            assert came == CONTENT
            assert await response.readinto(buffer) == 0
            assert response.is_closed


async def test_readinto_takes_every_kind_of_buffer(world: World) -> None:
    content = b"0123456789abcdef"
    with ScriptedPeer([step for _ in range(6) for step in script(by_length(content * 5000))]) as peer:
        async with bare(world) as session:
            words = array.array("I", [0] * 4)
            with mmap.mmap(-1, 4096) as mapped:
                buffers: list[Any] = [
                    bytearray(16),
                    memoryview(bytearray(32))[8:24],
                    words,
                    memoryview(words),
                    memoryview(bytearray(16)).cast("B", (4, 4)),
                    mapped,
                ]
                for buffer in buffers:
                    async with session.stream("GET", peer.url) as response:
                        count = await response.readinto(buffer)
                        assert 0 < count <= memoryview(buffer).nbytes
                        assert memoryview(buffer).tobytes()[:count] == (content * 300)[:count]
                        await response.read()


async def test_readinto_refuses_what_cannot_be_written_to(world: World) -> None:
    with ScriptedPeer(script(by_length(b"x" * 100_000))) as peer:
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            for buffer in (b"12345", memoryview(b"12345"), memoryview(bytearray(10))[::2]):
                with pytest.raises(UsageError, match="buffer"):
                    await response.readinto(buffer)
            assert len(await response.read()) == 100_000, "nothing is lost by it"


@pytest.mark.parametrize("framed", [by_length, by_chunks, by_close])
async def test_content_goes_straight_into_the_callers_buffer(world: World, framed: Any) -> None:
    """What is certain to be content is received by the stream into the very buffer that the caller gave."""
    given: list[memoryview] = []

    class Spy:
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

        async def receive_into(self, buffer: memoryview, at: float) -> int:
            given.append(buffer)
            return await self._stream.receive_into(buffer, at)  # type: ignore[no-any-return]

    data = framed(CONTENT) if framed is not by_chunks else by_chunks(CONTENT, 100_000)
    begin = data.index(b"\r\n\r\n") + 4
    go = threading.Event()
    steps = [expect_head(), send(data[: begin + 10]), wait_for(go), send(data[begin + 10 :])]
    with ScriptedPeer([*steps, close()] if framed is by_close else steps) as peer:
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            inner = without_face(response)
            body = getattr(inner, "waiting", inner).body
            body._stream = Spy(body._stream)
            buffer = bytearray(50_000)
            count = await response.readinto(buffer)  # what came with the head
            go.set()
            came = bytes(buffer[:count])
            while count := await response.readinto(buffer):
                came += buffer[:count]
            assert came == CONTENT
            assert given
            assert all(view.obj is buffer for view in given)


async def test_a_second_reader_is_refused(world: World) -> None:
    go = threading.Event()
    data = by_length(b"hello")
    with ScriptedPeer([expect_head(), send(data[:-5]), wait_for(go), send(data[-5:])]) as peer:
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            reading = world.in_background(response.read)
            await world.settle()
            for use in (lambda: response.read(), lambda: response.read(1), lambda: response.readinto(bytearray(1))):
                with pytest.raises(Busy, match="one user"):
                    await use()
            go.set()
            assert await reading.result() == b"hello"


async def test_closing_under_a_reader_ends_the_read(world: World) -> None:
    with ScriptedPeer([expect_head(), send(by_length(b"hello")[:-5])]) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url) as response:
                reading = world.in_background(response.read)
                await world.settle()
                await response.close()
                outcome = await reading.outcome()
                assert isinstance(outcome.error, plugwire.Error)
            assert session.stats().open == 0


# -- iterating -----------------------------------------------------------------------------------------------------


@FRAMINGS
async def test_iter_bytes_of_an_exact_size(world: World, framed: Any) -> None:
    for size in (1, 1000, 65537, len(CONTENT), len(CONTENT) + 1):
        content = CONTENT if size > 1 else CONTENT[:500]
        with ScriptedPeer(script(framed(content))) as peer:
            async with bare(world) as session, session.stream("GET", peer.url) as response:
                pieces = [piece async for piece in response.iter_bytes(size)]
                assert b"".join(pieces) == content
                assert {len(piece) for piece in pieces[:-1]} <= {size}
                assert 0 < len(pieces[-1]) <= size


async def test_iterators_of_a_kept_body_begin_at_its_start(world: World) -> None:
    with ScriptedPeer(script(by_length(b"one\ntwo"))) as peer:
        async with bare(world) as session:
            response = await session.get(peer.url)
            for _ in range(2):
                assert [line async for line in response.iter_lines()] == ["one", "two"]
                assert b"".join([piece async for piece in response.iter_bytes()]) == b"one\ntwo"
            assert response.content == b"one\ntwo"


async def test_leaving_an_iterator_early(world: World) -> None:
    data = by_length(b"x" * 1_000_000)
    with ScriptedPeer([expect_head(), send(data[:1000])], script(by_length(b"ok"))) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url) as response:
                async for piece in response.iter_bytes(100):
                    assert piece == b"x" * 100
                    break
            assert session.stats().open == 0
            assert (await session.get(peer.url)).content == b"ok"


@pytest.mark.parametrize("size", [0, -1, 1.5, "1"])
async def test_a_piece_has_at_least_a_byte(world: World, size: Any) -> None:
    with ScriptedPeer(script(by_length(b"x"))) as peer:
        async with bare(world) as session:
            with pytest.raises(UsageError, match="at least 1"):
                (await session.get(peer.url)).iter_bytes(size)


async def test_iter_text_and_lines_over_the_wire(world: World) -> None:
    text = "grün\r\nüber\rund\n\u2028 aus"
    data = by_length(text.encode("utf-16"), b"Content-Type: text/plain; charset=latin-1\r\n")
    for each in (None, 1):
        with ScriptedPeer([expect_head(), send(data, each=each), expect_head(), send(data, each=each)]) as peer:
            async with bare(world) as session:
                async with session.stream("GET", peer.url) as response:
                    # The byte order mark goes before the charset.
                    assert "".join([piece async for piece in response.iter_text()]) == text
                async with session.stream("GET", peer.url) as response:
                    lines = [line async for line in response.iter_lines()]
                    assert lines == ["grün", "über", "und", "\u2028 aus"]


# -- files, blocking -----------------------------------------------------------------------------------------------


def serve(*answers: bytes) -> ScriptedPeer:
    return ScriptedPeer([step for answer in answers for step in script(answer)])


def test_a_response_is_a_raw_file() -> None:
    with serve(by_length(CONTENT)) as peer, plugwire.Session() as session, session.stream("GET", peer.url) as response:
        assert (response.readable(), response.writable(), response.seekable()) == (True, False, False)
        file = io.BufferedReader(response)  # type: ignore[arg-type]  # all that a raw file needs
        assert file.read(5) == CONTENT[:5]
        assert file.peek(1)[:1] == CONTENT[5:6]
        assert file.read() == CONTENT[5:]
        assert file.read() == b""
        assert file.read(1) == b""


def test_reading_to_the_end_twice_through_a_buffer() -> None:
    with serve(by_length(b"hello")) as peer, plugwire.Session() as session:
        response = session.get(peer.url)
        file = io.BufferedReader(response)  # type: ignore[arg-type]  # all that a raw file needs
        assert (file.read(), file.read()) == (b"hello", b"")
        assert response.content == b"hello"


def test_text_io_copyfileobj_json_and_tar() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"hello"))
    document = json.dumps({"a": ["ü"] * 10_000}).encode()
    answers = by_chunks(b"one\ntwo\r\nthree"), by_chunks(CONTENT), by_chunks(document), by_chunks(packed.getvalue(), 7)
    with serve(*answers) as peer, plugwire.Session() as session:
        with session.stream("GET", peer.url) as response, io.TextIOWrapper(io.BufferedReader(response)) as text:  # type: ignore[arg-type]
            assert list(text) == ["one\n", "two\n", "three"]
        with session.stream("GET", peer.url) as response:
            copy = io.BytesIO()
            shutil.copyfileobj(response, copy)
            assert copy.getvalue() == CONTENT
        with session.stream("GET", peer.url) as response:
            assert json.load(response) == json.loads(document)
        with session.stream("GET", peer.url) as response, tarfile.open(fileobj=response, mode="r|gz") as archive:  # type: ignore[call-overload]
            assert {member.name: archive.extractfile(member).read() for member in archive} == {  # type: ignore[union-attr]
                "a": b"hello",
                "b": b"hello",
            }
        assert session.stats().open == session.stats().idle == 1


# -- responses without a wire --------------------------------------------------------------------------------------

KINDS = pytest.mark.parametrize("kind", [Response, AsyncResponse])


@KINDS
def test_a_response_can_be_made(kind: Any) -> None:
    assert kind(204).content == b""
    assert kind(200, text="ü").text == "ü"
    assert kind(200, text="ü").headers["content-type"] == "text/plain; charset=utf-8"
    assert kind(200, json={"a": 1}).json() == {"a": 1}
    assert kind(200, content="ü").content == "ü".encode()
    assert kind(404).reason == "Not Found"
    assert kind(299).reason == ""
    assert kind(299, reason="Fine").reason == "Fine"
    with pytest.raises(UsageError, match="one body"):
        kind(200, text="a", content=b"")
    for status in (99, 1000, "200", None):
        with pytest.raises(UsageError, match="status_code"):
            kind(status)


@KINDS
@pytest.mark.parametrize(
    ("kind_of_text", "content", "text"),
    [
        ("text/plain; charset=latin-1", b"\xfc", "ü"),
        ('text/plain; CHARSET="iso-8859-15"', b"\xa4", "€"),
        ("text/plain", "ü".encode(), "ü"),
        ("text/plain; charset=utf-8", b"\xff", "\ufffd"),
        ("text/plain; charset=latin-1", b"\xef\xbb\xbf\xc3\xbc", "ü"),
        ("text/plain; charset=latin-1", "ü".encode("utf-16"), "ü"),
        ("text/html; charset=big5", "中文".encode("big5"), "中文"),
        ("text/html; charset=utf-16", "ü€".encode("utf-16"), "ü€"),
        ("text/html; charset=utf-16le", "ü€".encode("utf-16-le"), "ü€"),
        ("text/html; charset=utf-16", "ü€".encode("utf-16-be"), "ﰀ갠"),
        ("text/html; charset=GB18030;x=y", "中\U0001f600".encode("gb18030"), "中\U0001f600"),
        ("text/plain; charset=nonsense", "ü".encode(), "ü"),
        # Read in quadratic time by Python, and no charset of the web.
        *((f"text/plain; charset={name}", b"+AOQ-", "+AOQ-") for name in ("utf-7", "U7", "UNICODE-1-1-UTF-7")),
        # Codecs of Python that are no charsets.
        *((f"text/plain; charset={name}", b"ab", "ab") for name in ("base64", "hex", "zip", "rot13", "idna")),
        *((f"text/plain; charset={name}", b"ab", "ab") for name in ("undefined", "unicode_escape", "punycode", "é")),
    ],
)
def test_text_and_its_charset(kind: Any, kind_of_text: str, content: bytes, text: str) -> None:
    headers = {} if not kind_of_text.isascii() else {"Content-Type": kind_of_text}
    response = kind(200, headers=headers, content=content)
    assert response.text == text
    if kind is Response:
        assert "".join(response.iter_text()) == text


@KINDS
def test_the_encoding_can_be_set(kind: Any) -> None:
    response = kind(200, content=b"\xef\xbb\xbf\xfc", headers={"Content-Type": "text/plain; charset=utf-8"})
    assert response.encoding == "utf-8"
    response.encoding = "latin-1"
    assert response.encoding == "latin-1"
    assert response.text == "ï»¿ü", "the caller's word goes before a byte order mark"
    for wrong in ("nonsense", "base64", None):
        with pytest.raises(UsageError, match="charset"):
            response.encoding = wrong


@KINDS
def test_json_that_is_none(kind: Any) -> None:
    assert kind(200, content='\ufeff"ü"').json() == "ü"
    assert kind(200, content='"ü"'.encode("utf-16")).json() == "ü"
    for content in (b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000):
        with pytest.raises(DecodingError, match="not JSON") as caught:
            kind(200, content=content).json()
        assert str(len(content)) in str(caught.value)


@KINDS
def test_json_by_another_decoder(kind: Any) -> None:
    response = kind(200, content=b'{"a": 1.10}')
    assert response.json(parse_float=Decimal) == {"a": Decimal("1.10")}
    assert response.json(decoder=len) == 11
    assert response.json(decoder=json.loads, parse_float=str) == {"a": "1.10"}

    def failing(content: bytes) -> Any:
        raise KeyError("no")

    with pytest.raises(DecodingError, match=r"11 bytes, no content-type.*not JSON: 'no'") as caught:
        response.json(decoder=failing)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(TypeError, match="nonsense"):
        response.json(nonsense=1)


@KINDS
def test_raise_for_status(kind: Any) -> None:
    request = Request("GET", "http://user:secret@h/x")
    for status in (200, 204, 301, 399):
        response = kind(status, request=request)
        assert response.ok
        assert response.raise_for_status() is response
    for status, whose in ((400, "client"), (404, "client"), (500, "server"), (999, "server")):
        response = kind(status, request=request)
        assert not response.ok
        with pytest.raises(HTTPStatusError, match=f"{status} .*{whose} error") as caught:
            response.raise_for_status()
        assert caught.value.response is response
        assert caught.value.request is request
        assert "secret" not in str(caught.value)
    assert not hasattr(type(response), "__bool__")


@KINDS
def test_links(kind: Any) -> None:
    lines = [
        ("Link", '<https://h/2>; rel="next"; title="a, b; c", </0>; rel=prev'),
        ("link", '<page>; REL="last next" ; x, <alone>'),
    ]
    links = kind(200, headers=lines).links
    assert links["next"] == {"url": "https://h/2", "rel": "next", "title": "a, b; c"}
    assert links["prev"]["url"] == "/0"
    assert links["last"]["url"] == "page"
    assert links["alone"] == {"url": "alone"}
    assert kind(200).links == {}
    # In linear time, whatever stands there.
    assert kind(200, headers=[("Link", "<" * 200_000)]).links == {}
    assert kind(200, headers=[("Link", "<a>" + "; a" * 60_000 + '; "')]).links


@KINDS
def test_cookies(kind: Any) -> None:
    lines = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b = 2=3 "), ("Set-Cookie", "=x"), ("Set-Cookie", "noise")]
    assert kind(200, headers=lines).cookies == {"a": "1", "b": "2=3"}


@KINDS
def test_a_read_response_can_be_pickled(kind: Any) -> None:
    request = Request("POST", "http://h/x", content=b"body", headers={"X": "1"})
    response = kind(201, headers=[("A", "1"), ("A", "2")], content=b"\xfc", request=request, http_version="HTTP/2")
    response.encoding = "latin-1"
    again = pickle.loads(pickle.dumps(response))
    assert type(again) is kind
    assert (again.status_code, again.reason, again.http_version) == (201, "Created", "HTTP/2")
    assert list(again.headers.items()) == [("A", "1"), ("A", "2")]
    assert (again.text, again.content) == ("ü", b"\xfc")
    assert again.request.method == "POST"
    assert again.request.content == b"body"
    assert again.request.headers["x"] == "1"
    assert str(again.url) == "http://h/x"


@KINDS
def test_a_response_to_an_upload_of_files_can_be_pickled(kind: Any) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(100_000))
        file.seek(0)
        request = Request("POST", "http://h/x", files={"f": file, "g": ("x", iter([b"once"]))})
        again = pickle.loads(pickle.dumps(kind(200, content=b"ok", request=request)))
    assert again.content == b"ok"
    assert again.request.headers["content-type"] == request.headers["content-type"]


async def test_a_response_from_the_wire_can_be_pickled_once_it_is_read(world: World) -> None:
    body = b"2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n"
    data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with ScriptedPeer([expect_head(), send(data), send(body), expect_head(), send(data + body)]) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url) as response:
                with pytest.raises(BodyUnread):
                    pickle.dumps(without_face(response))
                await response.read()
            again = pickle.loads(pickle.dumps(without_face(response)))
            assert again.content == b"hi"
            assert again.trailers["x-t"] == "1"
            assert again.timings.wait == response.timings.wait
            assert pickle.loads(pickle.dumps(without_face(await session.get(peer.url)))).content == b"hi"


def test_two_kinds_of_repr() -> None:
    assert repr(Response(404)) == "<Response 404 Not Found>"
    assert repr(AsyncResponse(404)) == "<AsyncResponse 404 Not Found>"


def test_the_body_of_a_response_can_be_wrapped() -> None:
    response = AsyncResponse(200, content=b"hello")
    response.body = response.body
    assert not response.is_read
    assert drive(response.read()) == b"hello"


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_stream_that_is_just_being_closed_is_not_to_be_had(end: str) -> None:
    """A session ends in another thread, and all the streams that nobody has taken."""
    refusals: list[UsageError] = []

    class Closing:
        def close(self) -> None:
            with pytest.raises(UsageError, match="taken already") as caught:
                response.take_stream()
            refusals.append(caught.value)

    anything: Any = Closing()
    response = AsyncResponse(101, stream=anything)
    if end == "close":
        drive(response.close())
    else:
        response.abort()
    assert len(refusals) == 1
