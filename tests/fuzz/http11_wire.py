"""The HTTP/1.1 wire: heads, framing, chunked bodies, trailers.

Whatever comes, and however it is cut: the same verdict, a plugwire error or a result; never more is held than the
limits say. A response that we take is the same response to h11 and to http.client, where those are right.

An input: method and limits, where it is cut, and the bytes of the peer.
"""

from __future__ import annotations

import http.client
import io
import re
from typing import Any

import h11

from fuzz.examples import Choices, examples
from plugwire.config import Limits
from plugwire.errors import Error, IncompleteBody, LimitExceeded, PeerError
from plugwire_transports.http11_wire import (
    MAX_EXTENSION_BYTES,
    BodyDecoder,
    ChunkedDecoder,
    FramingKind,
    HeadReader,
    ResponseHead,
    decoder,
    framing,
)

WORDS = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 ", b"\r\n\r\n", b"\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"keep-alive", b"0\r\n\r\n", b"5\r\nhello\r\n", b";a=b", b';a="\\""',
    b"9223372036854775807", b"7fffffffffffffff", b"ffffffffffffffff", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"304",
    b"204", b"101", b"X: y\r\n",
)  # fmt: skip

METHODS = ("GET", "HEAD", "CONNECT", "GET")
SMALL = Limits(max_head_bytes=90, max_headers=3, max_informational=2)
LIMITS = (Limits(), SMALL)
ONLY_CHUNKS = 8

Verdict = tuple[Any, ...]


def seeds() -> list[bytes]:
    heads = examples("test_http11_wire", bytes) + examples("test_http11_faults", bytes) + examples("test_http11", bytes)
    wholes = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nX-T: 1\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nto the end",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ]
    fields = [b"HTTP/1.1 200 OK\r\n" + one + b"\r\n5\r\nhello\r\n0\r\n\r\n" for one in heads if one[:4] != b"HTTP"]
    found = [bytes((0, 7)) + one for one in [*heads, *wholes, *fields]]
    found += [bytes((4, 9)) + one for one in wholes]
    found += [bytes((ONLY_CHUNKS, 3)) + one for one in heads]
    return found


def check(data: bytes) -> None:
    choices = Choices(data)
    how, place = choices.number(), choices.number()
    octets = choices.rest()
    method, limits = METHODS[how & 3], LIMITS[how >> 2 & 1]
    read = _read_chunks if how & ONLY_CHUNKS else _read_response
    whole = read(method, limits, [octets], False)
    direct = bool(how & 16)
    assert read(method, limits, [octets[i : i + 1] for i in range(len(octets))], direct) == whole
    place %= len(octets) + 1
    middle = place + (len(octets) - place) // 2
    assert read(method, limits, [octets[:place], octets[place:middle], octets[middle:]], not direct) == whole
    if not how & ONLY_CHUNKS and whole[0] == "response":
        _hold_against_h11(method, octets, whole)
        _hold_against_http_client(method, octets, whole)


def _read_response(method: str, limits: Limits, pieces: list[bytes], direct: bool) -> Verdict:
    """What a connection does with these bytes; at the end of them the peer closes."""
    reader = HeadReader(limits)
    interim: list[int] = []
    head: ResponseHead | None = None
    body: BodyDecoder | None = None
    content = bytearray()
    try:
        for piece in pieces:
            rest = piece
            while body is None:
                head = reader.feed(rest)
                assert len(reader._buffer) <= limits.max_head_bytes + len(piece)
                if head is None:
                    break
                rest = reader.rest
                framed = framing(method, head)
                if head.status < 200 and framed.kind is not FramingKind.TUNNEL:
                    interim.append(head.status)
                    if len(interim) > limits.max_informational:
                        return ("too many",)
                else:
                    body = decoder(framed, limits)
            if body is not None:
                _feed(body, rest, direct, content)
        if body is None:
            reader.eof()
            return "nothing", interim
        body.eof()
    except PeerError as error:
        # What came before a fault is given or not, as the cuts have it; the fault is the same.
        return "error", *_blamed(error)
    assert head is not None
    assert body.is_done
    fields = list(head.headers.items())
    trailers = None if body.trailers is None else list(body.trailers.items())
    return (
        "response", interim, head.version, head.status, head.reason, fields, head.keep_alive, bytes(content), trailers,
        bytes(body.rest),
    )  # fmt: skip


def _read_chunks(method: str, limits: Limits, pieces: list[bytes], direct: bool) -> Verdict:
    body = ChunkedDecoder(limits)
    content = bytearray()
    try:
        for piece in pieces:
            _feed(body, piece, direct, content)
            most = max(limits.max_head_bytes, MAX_EXTENSION_BYTES) + 32
            assert len(body._held) <= most
        body.eof()
    except PeerError as error:
        return "error", *_blamed(error)
    return "chunks", bytes(content), None if body.trailers is None else list(body.trailers.items()), bytes(body.rest)


def _feed(body: BodyDecoder, data: bytes, direct: bool, content: bytearray) -> None:
    """With `direct`, content goes past the decoder whenever it says that it may."""
    while direct and data and body.direct:
        count = min(len(data), body.direct)
        content += data[:count]
        data = data[count:]
        body.took(count)
    if data:
        content += body.feed(memoryview(data) if direct else data)
    assert body.received == len(content)
    assert not (body.is_done and body.direct)


def _blamed(error: Error) -> tuple[Any, ...]:
    if isinstance(error, LimitExceeded):
        return type(error).__name__, error.limit
    if isinstance(error, IncompleteBody):
        return type(error).__name__, error.received, error.expected
    return (type(error).__name__,)


# -- beside others -------------------------------------------------------------------------------------------------


def _hold_against_h11(method: str, octets: bytes, verdict: Verdict) -> None:
    _, interim, _, status, reason, fields, _, content, _, rest = verdict
    # Not h11's way: statuses from 600 on; heads that switch; lengths that are equal as numbers and not as text.
    lengths = {one.strip() for name, value in fields if name.lower() == "content-length" for one in value.split(",")}
    if status > 599 or status < 200 or method == "CONNECT" or len(fields) > 50 or len(lengths) > 1:
        return
    # It also judges what says nothing where there is no body.
    if _has_no_body(method, status) and _apart_from_framing(fields) != fields:
        return
    if rest:
        octets = octets[: len(octets) - len(rest)]
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method=method, target="/", headers=[("Host", "h"), ("Content-Length", "0")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(octets)
    peer.receive_data(b"")
    seen: list[int] = []
    got = b""
    try:
        head = peer.next_event()
        while isinstance(head, h11.InformationalResponse):
            seen.append(head.status_code)
            head = peer.next_event()
        while isinstance(event := peer.next_event(), h11.Data):
            got += event.data
    except h11.RemoteProtocolError as error:
        values = {value.lower() for name, value in fields if (name, value) not in _apart_from_framing(fields)}
        is_about_framing = str(error).startswith(("Only Transfer", "bad Content", "conflicting Content"))
        if is_about_framing and len(values) < 2 and all(value == "chunked" or value.isdecimal() for value in values):
            return  # not about this head: it judges interim heads and trailers, too, by what they would say in one
        if str(error).startswith("illegal chunk header") and re.search(rb"[0-9A-Fa-f][ \t]+;", octets):
            return  # it does not know of the white space that RFC 9112, 7.1.1 allows there
        raise AssertionError(f"only we take it: {error}") from error
    assert isinstance(head, h11.Response)
    assert isinstance(event, h11.EndOfMessage)
    theirs = [(name.decode(), value.decode("latin-1")) for name, value in head.headers.raw_items()]
    assert (seen, head.status_code, head.reason.decode("latin-1")) == (interim, status, reason)
    assert _apart_from_framing(theirs) == _apart_from_framing(fields)
    assert got == content


def _has_no_body(method: str, status: int) -> bool:
    return method == "HEAD" or status in (204, 304)


def _apart_from_framing(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """h11 writes these two anew."""
    return [field for field in fields if field[0].lower() not in ("content-length", "transfer-encoding")]


class _Pipe:
    """What http.client needs of a socket."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


def _hold_against_http_client(method: str, octets: bytes, verdict: Verdict) -> None:
    _, interim, _, status, _, fields, _, content, _, _ = verdict
    framed = [
        (name.lower(), value) for name, value in fields if name.lower() in ("transfer-encoding", "content-length")
    ]
    if (
        any(one != 100 for one in interim)  # it takes other interim heads for the response
        or status < 200
        or method == "CONNECT"
        or len(framed) > 1  # it sees the first of several
        or len(fields) > 90
    ):
        return
    for name, value in framed:
        # It looks for chunks where there is no body, does not strip, and reads joined lengths as none.
        if _has_no_body(method, status) if name == "transfer-encoding" else not value.isdecimal():
            return
        if octets.lower().count(b"\r\n" + name.encode() + b": " + value.lower().encode() + b"\r\n") != 1:
            return
    other = http.client.HTTPResponse(_Pipe(octets), method=method)  # type: ignore[arg-type]
    try:
        other.begin()
        got = other.read()
    finally:
        other.close()
    assert other.status == status
    assert got == content
