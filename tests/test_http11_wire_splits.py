"""The HTTP/1.1 wire gives one verdict however the bytes were cut, agrees with other readers on what is valid, and reads
what it writes."""

from __future__ import annotations

import http.client
import io
from itertools import pairwise
from typing import Any

import h11
from hypothesis import assume, example, given
from hypothesis import strategies as st

from plugwire.config import Limits
from plugwire.errors import Error, LimitExceeded
from plugwire.headers import Headers
from plugwire_transports.http11_wire import (
    BodyDecoder,
    ChunkedDecoder,
    HeadReader,
    ResponseHead,
    decoder,
    encode_chunk,
    encode_head,
    encode_last_chunk,
    framing,
)

LIMITS = Limits()

# -- cutting -------------------------------------------------------------------------------------------------------


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


cuts = st.lists(st.integers(0, 10_000), max_size=8)


def all_ways(data: bytes, places: list[int]) -> list[list[bytes]]:
    return [[data], [data[i : i + 1] for i in range(len(data))], cut(data, places)]


def blamed(error: Error) -> tuple[str, str]:
    return type(error).__name__, error.limit if isinstance(error, LimitExceeded) else ""


# -- strategies: what is nearly right ------------------------------------------------------------------------------

token = st.text("aZ0-_!", min_size=1, max_size=6).map(str.encode)
value = st.text('aZ 09\t,;="\\\xe9', max_size=10).map(lambda text: text.encode("latin-1"))
steering = st.sampled_from(
    [
        b"Content-Length: 5",
        b"content-length:5",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Content-Length: x",
    ]
)
line = st.one_of(st.builds(b"%b:%b".__mod__, st.tuples(token, value)), steering).map(lambda text: text + b"\r\n")
section = st.lists(line, max_size=5).map(b"".join)
status_line = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404 \r\n", b"HTTP/1.1 304\r\n", b"HTTP/2 200\r\n", b"HTTP/1.1 100 C\r\n"]
)
noise = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b"\r\n\r\n",
        b"\n\n",
        b"\xff",
        b"\x7f",
        b"0",
        b"5",
        b"x",
        b'"',
    ]
)


@st.composite
def damaged(draw: Any, whole: Any) -> bytes:
    """A good message, with at most two bytes or so put in, taken away or exchanged."""
    data: bytes = draw(whole)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 2))
        data = data[:place] + draw(noise | st.just(b"")) + data[place + gone :]
    return data


heads = st.builds(b"%b%b\r\n%b".__mod__, st.tuples(status_line, section, st.binary(max_size=6)))

extension = st.sampled_from([b"", b"", b"", b";a", b";a=b", b' ; a = "b\\"c"', b" ", b";", b";a=b;c"])


@st.composite
def chunk(draw: Any) -> bytes:
    content = draw(st.binary(min_size=1, max_size=20))
    size = draw(st.sampled_from([b"%x", b"%X", b"0%x"])) % len(content)
    return size + draw(extension) + b"\r\n" + content + b"\r\n"


bodies = st.builds(
    b"%b0%b\r\n%b\r\n%b".__mod__,
    st.tuples(st.lists(chunk(), max_size=4).map(b"".join), extension, section, st.binary(max_size=6)),
)
small_limits = st.builds(Limits, max_head_bytes=st.integers(10, 120), max_headers=st.integers(1, 5)) | st.just(LIMITS)

# -- one verdict ---------------------------------------------------------------------------------------------------


def read_head(pieces: list[bytes], limits: Limits) -> Any:
    reader = HeadReader(limits)
    try:
        for number, piece in enumerate(pieces):
            head = reader.feed(piece)
            if head is not None:
                rest = reader.rest + b"".join(pieces[number + 1 :])
                return (*shown(head), rest, framed("GET", head), framed("HEAD", head))
        reader.eof()
    except Error as error:
        return blamed(error)
    return "nothing came"


def shown(head: ResponseHead) -> tuple[Any, ...]:
    return head.version, head.status, head.reason, list(head.headers.items()), head.keep_alive


def framed(method: str, head: ResponseHead) -> Any:
    try:
        return framing(method, head)
    except Error as error:
        return blamed(error)


@given(damaged(heads), cuts, small_limits)
@example(b"HTTP/1.1 200 OK\r\na: b\n\r\n\r\n", [], Limits(max_head_bytes=20))
@example(b"HTTP/1.1 200 OK\n" + b"x" * 30 + b"\r\n\r\n", [], Limits(max_head_bytes=20))
def test_the_verdict_on_a_head_does_not_depend_on_the_cuts(data: bytes, places: list[int], limits: Limits) -> None:
    verdicts = [read_head(pieces, limits) for pieces in all_ways(data, places)]
    assert verdicts[0] == verdicts[1] == verdicts[2]


def read_body(body: BodyDecoder, pieces: list[bytes], *, direct: bool = False) -> Any:
    """With `direct`, content goes past the decoder whenever it says that it may."""
    content = bytearray()
    try:
        for piece in pieces:
            while direct and piece and body.direct:
                count = min(len(piece), body.direct)
                content += piece[:count]
                piece = piece[count:]
                body.took(count)
            if piece:
                content += body.feed(memoryview(piece) if len(pieces) % 2 else piece)
            assert body.received == len(content)
            assert not (body.is_done and body.direct)
        body.eof()
    except Error as error:
        return blamed(error)
    trailers = None if body.trailers is None else list(body.trailers.items())
    return bytes(content), body.rest, trailers, body.received


@given(damaged(bodies), cuts, small_limits)
@example(b"0\r\na: b\n\r\n\r\n", [], Limits(max_head_bytes=5))
@example(b"1\r\nx\r\n0\r\n\r\n\r\n", [9, 10], LIMITS)
def test_the_verdict_on_a_chunked_body_does_not_depend_on_the_cuts(
    data: bytes, places: list[int], limits: Limits
) -> None:
    verdicts = [
        read_body(ChunkedDecoder(limits), pieces, direct=direct)
        for pieces in all_ways(data, places)
        for direct in (False, True)
    ]
    assert all(verdict == verdicts[0] for verdict in verdicts)


@given(st.binary(max_size=200), cuts)
def test_noise_is_refused_in_the_same_way_however_it_is_cut(data: bytes, places: list[int]) -> None:
    heads = [read_head(pieces, LIMITS) for pieces in all_ways(b"HTTP/1.1 200 OK\r\n" + data, places)]
    chunked = [read_body(ChunkedDecoder(LIMITS), pieces) for pieces in all_ways(data, places)]
    assert heads[0] == heads[1] == heads[2]
    assert chunked[0] == chunked[1] == chunked[2]


# -- agreement with other readers, on valid responses --------------------------------------------------------------

plain_value = st.text('aZ 09,;=()"', max_size=10).map(str.strip)
plain_fields = st.lists(
    st.tuples(st.sampled_from(["Server", "X-a", "x-A", "ETag", "Set-Cookie", "Vary"]), plain_value), max_size=5
)
reasons = st.sampled_from(["OK", "", "Not Found", "a  b"])
statuses = st.sampled_from([200, 201, 204, 205, 206, 299, 301, 304, 400, 404, 500, 599])


@st.composite
def responses(draw: Any) -> tuple[str, bytes]:
    """A request's method and a valid response to it."""
    method: str = draw(st.sampled_from(["GET", "HEAD", "POST"]))
    status: int = draw(statuses)
    has_body = method != "HEAD" and status not in (204, 304)
    content: bytes = draw(st.binary(max_size=60)) if has_body else b""
    fields = draw(plain_fields)
    way = draw(st.sampled_from(["length", "chunked", "close"]))
    if way == "length":
        body = content
        fields.insert(draw(st.integers(0, len(fields))), ("Content-length", str(len(content))))
    elif way == "chunked":
        pieces = [piece for piece in cut(content, draw(cuts)) if piece]
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(p), draw(st.sampled_from([b"", b";a=b"])), p) for p in pieces)
        body += b"0\r\n" + draw(st.sampled_from([b"", b"X-Sum: 1\r\n"])) + b"\r\n"
        fields.insert(draw(st.integers(0, len(fields))), ("Transfer-Encoding", "chunked"))
    else:
        body = content
    head = f"HTTP/1.1 {status} {draw(reasons)}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    return method, head.encode() + b"\r\n" + (body if has_body else b"")


def ours(method: str, data: bytes, places: list[int]) -> tuple[Any, ...]:
    reader = HeadReader(LIMITS)
    head: ResponseHead | None = None
    content = bytearray()
    body: BodyDecoder | None = None
    for piece in cut(data, places):
        if body is None:
            head = reader.feed(piece)
            if head is not None:
                body = decoder(framing(method, head), LIMITS)
                content += body.feed(reader.rest)
        else:
            content += body.feed(piece)
    assert head is not None
    assert body is not None
    body.eof()
    assert body.rest == b""
    return head.status, head.reason, list(head.headers.items()), bytes(content)


@given(responses(), cuts)
def test_h11_agrees(response: tuple[str, bytes], places: list[int]) -> None:
    method, data = response
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method=method, target="/", headers=[("Host", "h"), ("Content-Length", "0")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(data)
    peer.receive_data(b"")
    head = peer.next_event()
    assert isinstance(head, h11.Response)
    content = b""
    while isinstance(event := peer.next_event(), h11.Data):
        content += event.data
    assert isinstance(event, h11.EndOfMessage)
    fields = [(name.decode(), value.decode("latin-1")) for name, value in head.headers.raw_items()]
    assert ours(method, data, places) == (head.status_code, head.reason.decode(), fields, content)


class _Pipe:
    """What http.client needs of a socket."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


@given(responses(), cuts)
def test_http_client_agrees(response: tuple[str, bytes], places: list[int]) -> None:
    method, data = response
    # http.client looks for chunks where there is no body
    assume(b"chunked" not in data or not (method == "HEAD" or data[9:12] in (b"204", b"304")))
    other = http.client.HTTPResponse(_Pipe(data), method=method)  # type: ignore[arg-type]
    other.begin()
    status, reason, fields, content = ours(method, data, places)
    assert (status, reason.strip(), content) == (other.status, other.reason, other.read())
    assert fields == other.getheaders()
    other.close()


# -- round trips ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.tuples(st.sampled_from(["X-a", "x-A", "Content-Digest"]), plain_value), max_size=3),
    cuts,
)
def test_what_the_chunk_encoder_writes_the_decoder_reads(
    parts: list[bytes], trailers: list[tuple[str, str]], places: list[int]
) -> None:
    data = b"".join(b"".join(encode_chunk(part)) for part in parts) + encode_last_chunk(Headers(trailers))
    content, rest, got, _ = read_body(ChunkedDecoder(LIMITS), cut(data, places))
    assert (content, rest, got) == (b"".join(parts), b"", trailers or None)


@given(
    st.sampled_from(["GET", "M-SEARCH", "patch"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), min_size=1, max_size=20),
    plain_fields,
    st.sampled_from([[], [("Content-Length", "0")], [("Transfer-Encoding", "chunked")]]),
)
def test_h11_reads_the_request_heads_that_are_written(
    method: str, target: str, fields: list[tuple[str, str]], framed_by: list[tuple[str, str]]
) -> None:
    headers = Headers([*fields, *framed_by])
    headers.prepend("Host", "h")
    server = h11.Connection(h11.SERVER)
    server.receive_data(encode_head(method, target, headers))
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method.decode(), request.target.decode()) == (method, target)
    assert [(n.decode(), v.decode()) for n, v in request.headers.raw_items()] == list(headers.items())


@given(
    st.text(max_size=6), st.text(max_size=10), st.lists(st.tuples(st.text(max_size=5), st.text(max_size=8)), max_size=3)
)
def test_no_request_head_holds_more_than_was_meant(method: str, target: str, fields: list[tuple[str, str]]) -> None:
    """Whatever the caller passes: an error, or one request line, one line for each field, and one empty line."""
    try:
        data = encode_head(method, target, Headers(fields))
    except Error:
        return
    assert data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r") == len(fields) + 2
    assert data.endswith(b"\r\n\r\n")
    assert data.split(b"\r\n")[0].count(b" ") == 2
