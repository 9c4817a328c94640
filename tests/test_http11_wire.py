"""The HTTP/1.1 wire: what is sent, what is accepted, what is refused and how, and every limit at its edge."""

from __future__ import annotations

import pytest

from plugwire.config import Limits
from plugwire.errors import IncompleteBody, InvalidHeader, LimitExceeded, ProtocolError
from plugwire.headers import Headers
from plugwire_transports import http11_wire
from plugwire_transports.http11_wire import (
    FORBIDDEN_TRAILERS,
    MAX_EXTENSION_BYTES,
    MAX_LENGTH,
    ChunkedDecoder,
    CloseDecoder,
    Framing,
    FramingKind,
    HeadReader,
    LengthDecoder,
    ResponseHead,
    decoder,
    encode_chunk,
    encode_head,
    encode_last_chunk,
    framing,
)

LIMITS = Limits()


def head_of(data: bytes, limits: Limits = LIMITS) -> ResponseHead:
    head = HeadReader(limits).feed(data)
    assert head is not None
    return head


def framed(fields: bytes, method: str = "GET", status: int = 200, version: bytes = b"HTTP/1.1") -> Framing:
    return framing(method, head_of(b"%b %d OK\r\n%b\r\n" % (version, status, fields)))


def unchunk(data: bytes, limits: Limits = LIMITS) -> tuple[bytes, ChunkedDecoder]:
    chunked = ChunkedDecoder(limits)
    return bytes(chunked.feed(data)), chunked


# -- what is sent --------------------------------------------------------------------------------------------------


def test_a_request_head_is_encoded() -> None:
    headers = Headers([("Host", "h"), ("Accept", "*/*")])
    assert encode_head("GET", "/a?b", headers) == b"GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n"
    assert encode_head("OPTIONS", "*", Headers()) == b"OPTIONS * HTTP/1.1\r\n\r\n"
    assert encode_head("CONNECT", "h:443", Headers()) == b"CONNECT h:443 HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("method", ["", " ", "GET ", "G ET", "GET\r\nX: y", "GET\n", "GÉT", "GET\0", "GET/", "G:T"])
def test_urllib3_cve_2020_26137_aiohttp_cve_2023_49082_methods_that_break_out_are_refused(method: str) -> None:
    with pytest.raises(InvalidHeader):
        encode_head(method, "/", Headers())


@pytest.mark.parametrize("target", ["", " ", "/a b", "/a\r\nX: y", "/\n", "/é", "/\0", "/\x7f", "/a#b", "/ HTTP/1.0"])
def test_targets_that_break_out_are_refused(target: str) -> None:
    with pytest.raises(InvalidHeader):
        encode_head("GET", target, Headers())


@pytest.mark.parametrize(
    "fields",
    [
        [("Content-Length", "1"), ("Transfer-Encoding", "chunked")],
        [("Content-Length", "1"), ("content-length", "2")],
        [("Content-Length", "1"), ("content-length", "1")],
        [("Content-Length", "1, 1")],
        [("Content-Length", "")],
        [("Content-Length", "-1")],
        [("Content-Length", "+1")],
        [("Content-Length", "0x1")],
        [("Content-Length", "\xb2")],
        [("Content-Length", str(MAX_LENGTH + 1))],
        [("Transfer-Encoding", "gzip")],
        [("Transfer-Encoding", "gzip, chunked")],
        [("Transfer-Encoding", "chunked, chunked")],
        [("Transfer-Encoding", "chunked"), ("transfer-encoding", "chunked")],
        [("Transfer-Encoding", "")],
    ],
)
def test_rfc9112_11_2_requests_whose_end_is_open_are_refused(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidHeader):
        encode_head("POST", "/", Headers(fields))


@pytest.mark.parametrize("field", [("Content-Length", "0"), ("content-LENGTH", str(MAX_LENGTH)), ("TE", "x"),
                                   ("Transfer-Encoding", "Chunked"), ("X-Content-Length", "x")])  # fmt: skip
def test_requests_whose_end_is_clear_are_sent(field: tuple[str, str]) -> None:
    assert encode_head("POST", "/", Headers([field])).endswith(f"\r\n{field[0]}: {field[1]}\r\n\r\n".encode())


def test_chunks_are_encoded_without_a_copy() -> None:
    data = bytearray(b"x" * 300)
    buffers = encode_chunk(data)
    assert b"".join(buffers) == b"12c\r\n" + data + b"\r\n"
    assert any(buffer is data for buffer in buffers)
    assert b"".join(encode_chunk(memoryview(b"abcd" * 4).cast("I"))).startswith(b"10\r\n")


def test_an_empty_chunk_is_not_sent_since_it_would_end_the_body() -> None:
    assert not encode_chunk(b"")
    assert not encode_chunk(memoryview(b""))


def test_the_last_chunk_carries_trailers() -> None:
    assert encode_last_chunk() == encode_last_chunk(Headers()) == b"0\r\n\r\n"
    assert encode_last_chunk(Headers({"X-Sum": "1"})) == b"0\r\nX-Sum: 1\r\n\r\n"


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "HOST", "Authorization", "Trailer"])
def test_trailers_that_come_too_late_are_refused_when_sent(name: str) -> None:
    with pytest.raises(InvalidHeader, match=name):
        encode_last_chunk(Headers([("x", "1"), (name, "1")]))


# -- heads ---------------------------------------------------------------------------------------------------------


def test_a_head_is_read() -> None:
    reader = HeadReader(LIMITS)
    head = reader.feed(b"HTTP/1.1 404 Not F\xf6und\r\nA: 1\r\nb:2 \r\nC:\r\n\r\nrest")
    assert head is not None
    assert (head.version, head.status, head.reason) == ("HTTP/1.1", 404, "Not F\xf6und")
    assert list(head.headers.items()) == [("A", "1"), ("b", "2"), ("C", "")]
    assert reader.rest == b"rest"
    assert "404" in repr(head)


@pytest.mark.parametrize(
    ("line", "version", "status", "reason"),
    [
        (b"HTTP/1.0 200 OK", "HTTP/1.0", 200, "OK"),
        (b"HTTP/1.1 200 ", "HTTP/1.1", 200, ""),
        (b"HTTP/1.1 200", "HTTP/1.1", 200, ""),
        (b"HTTP/1.2 200 OK", "HTTP/1.1", 200, "OK"),
        (b"HTTP/1.9 999 a  b\t", "HTTP/1.1", 999, "a  b\t"),
        (b"HTTP/1.1 100 Continue", "HTTP/1.1", 100, "Continue"),
    ],
)
def test_status_lines(line: bytes, version: str, status: int, reason: str) -> None:
    head = head_of(line + b"\r\n\r\n")
    assert (head.version, head.status, head.reason, len(head.headers)) == (version, status, reason, 0)


def test_heads_follow_one_another() -> None:
    reader = HeadReader(LIMITS)
    first = reader.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 2")
    assert first is not None
    second = reader.feed(reader.rest)
    assert second is not None
    assert (first.status, second.status, second.headers["link"]) == (100, 103, "x")
    assert reader.feed(reader.rest) is None
    third = reader.feed(b"00 OK\r\n\r\nbody")
    assert third is not None
    assert (third.status, reader.rest) == (200, b"body")


def test_heads_that_come_in_pieces_follow_one_another() -> None:
    reader = HeadReader(LIMITS)
    for status in (100, 103, 200):
        assert reader.feed(b"HTTP/1.1 %d" % status) is None
        head = reader.feed(b" X\r\n\r\n")
        assert head is not None
        assert (head.status, reader.rest) == (status, b"")


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"\x16\x03\x03\x00\x7a", "TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "HTTP/2"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "version"),
        (b"HTTP/0.9 200 OK\r\n\r\n", "version"),
        (b"HTTP/11 200 OK\r\n\r\n", "version"),
        (b"<html>", "HTTP/0.9"),
        (b"ICY 200 OK\r\n", "SHOUTcast"),
        (b"220 mail.example ESMTP\r\n", "SMTP"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "empty line"),
        (b"\nHTTP/1.1 200 OK\r\n\r\n", "empty line"),
        (b"http/1.1 200 OK\r\n\r\n", "not HTTP/1"),
        (b" HTTP/1.1 200 OK\r\n\r\n", "not HTTP/1"),
        (b"hello", "not HTTP/1"),
    ],
)
def test_what_is_not_http_1_is_named_at_once(data: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        HeadReader(LIMITS).feed(data)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        # RFC 9112, 4: the status line
        (b"HTTP/1.1  200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1\t200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 200OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 2\xb2\xb2 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 +20 OK\r\n\r\n", "status line"),
        (b"HTTP/1.11 200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.x 200 OK\r\n\r\n", "status line"),
        (b"HTTP/1. 200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 O\rK\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 O\nK\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\n\r\n\r\n", "status line"),
        # RFC 9112, 5: field lines
        (OK + b" a: 1\r\n\r\n", "folded"),
        (OK + b"a: 1\r\n 2\r\n\r\n", "folded"),
        (OK + b"a: 1\r\n\t2\r\n\r\n", "folded"),
        (OK + b"a : 1\r\n\r\n", "before the colon"),
        (OK + b"a\t: 1\r\n\r\n", "before the colon"),
        (OK + b": 1\r\n\r\n", "not a token"),
        (OK + b"a b: 1\r\n\r\n", "not a token"),
        (OK + b"a(: 1\r\n\r\n", "not a token"),
        (OK + b"\xe9: 1\r\n\r\n", "not a token"),
        (OK + b"a\0: 1\r\n\r\n", "not a token"),
        (OK + b"a\r\n\r\n", "without a colon"),
        (OK + b"a: 1\r\nb\r\n\r\n", "line 3 .* byte 23"),
        (OK + b"a: \0\r\n\r\n", "control character"),
        (OK + b"a: \x0b\r\n\r\n", "control character"),
        (OK + b"a: \x7f\r\n\r\n", "control character"),
        (OK + b"a: 1\rb: 2\r\n\r\n", "bare CR"),
        (OK + b"a: 1\nb: 2\r\n\r\n", "bare CR or LF"),
        (OK + b"a: 1\n\r\n\r\n", "bare CR or LF"),
        (OK + b"a: 1\r\r\n\r\n", "bare CR"),
        (OK + b"\r\r\n\r\n", "bare CR"),
    ],
)
def test_malformed_heads_are_refused(head: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        HeadReader(LIMITS).feed(head)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\n\nbody", OK + b"a: " + b"x" * 50 + b"1\n\nbody", b"HTTP/1.1 200 OK\n"]
)
def test_rfc9112_2_2_a_bare_lf_is_refused_before_the_head_is_complete(head: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"bare LF .*[K1]\\n"):
        HeadReader(LIMITS).feed(head)


def test_offending_bytes_in_messages_are_shortened() -> None:
    with pytest.raises(ProtocolError) as caught:
        HeadReader(LIMITS).feed(OK + b"x" * 1000 + b"\r\n\r\n")
    assert len(str(caught.value)) < 150


def test_the_end_of_the_stream_before_and_inside_a_head() -> None:
    reader = HeadReader(LIMITS)
    reader.eof()
    reader.feed(b"")
    reader.eof()
    reader.feed(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(ProtocolError, match="after 17 bytes"):
        reader.eof()


def test_a_head_may_have_max_head_bytes_and_not_one_more() -> None:
    head = OK + b"a: " + b"x" * 100 + b"\r\n\r\n"
    assert head_of(head + b"rest", Limits(max_head_bytes=len(head))).status == 200
    for data in (head, head + b"rest", head[:-1], head[:-1] + b"x" * 100):
        with pytest.raises(LimitExceeded) as caught:
            HeadReader(Limits(max_head_bytes=len(head) - 1)).feed(data)
        assert caught.value.limit == "max_head_bytes"


def test_a_head_may_have_max_headers_lines_and_not_one_more() -> None:
    head = OK + b"a: 1\r\n" * 5 + b"\r\n"
    assert len(head_of(head, Limits(max_headers=5)).headers) == 5
    with pytest.raises(LimitExceeded) as caught:
        HeadReader(Limits(max_headers=4)).feed(head)
    assert caught.value.limit == "max_headers"


def test_a_long_head_that_comes_byte_by_byte_is_not_searched_again_and_again() -> None:
    # Quadratic work over these 200 000 feeds would be 20 GB to copy or to search: the test would not end.
    head = OK + b"a: " + b"x" * 200_000 + b"\r\n\r\n"
    reader = HeadReader(LIMITS)
    assert not any(reader.feed(head[place : place + 1]) for place in range(len(head) - 1))
    assert reader.feed(b"\n") is not None


# -- keep alive ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"Connection: keep-alive\r\n", True),
        (b"HTTP/1.1", b"connection:close\r\n", False),
        (b"HTTP/1.1", b"CONNECTION: Close \r\n", False),
        (b"HTTP/1.1", b"Connection: x, close\r\n", False),
        (b"HTTP/1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"HTTP/1.1", b"Connection: close\r\nConnection: keep-alive\r\n", False),
        (b"HTTP/1.1", b"Connection: closed\r\n", True),
        (b"HTTP/1.1", b"Connection:\r\n", True),
        (b"HTTP/1.1", b"Connection:\r\nConnection: close\r\n", False),
        (b"HTTP/1.1", b"X-Connection: close\r\n", True),
        (b"HTTP/1.1", b"X: Connection: close\r\n", True),
        (b"HTTP/1.0", b"", False),
        (b"HTTP/1.0", b"Connection: keep-alive\r\n", True),
        (b"HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
        (b"HTTP/1.0", b"Connection: x,keep-alive\r\n", True),
        (b"HTTP/1.0", b"Connection: keep-alive, close\r\n", False),
        (b"HTTP/1.0", b"Connection: x\r\n", False),
        (b"HTTP/1.0", b"Connection:\r\n", False),
        (b"HTTP/1.2", b"", True),
    ],
)
def test_rfc9112_9_3_keep_alive(version: bytes, fields: bytes, keep_alive: bool) -> None:
    assert head_of(version + b" 200 OK\r\n" + fields + b"\r\n").keep_alive is keep_alive


# -- framing: RFC 9112, 6.3 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "kind"),
    [
        ("HEAD", 200, FramingKind.NONE),
        ("HEAD", 404, FramingKind.NONE),
        ("GET", 100, FramingKind.NONE),
        ("GET", 199, FramingKind.NONE),
        ("GET", 204, FramingKind.NONE),
        ("GET", 304, FramingKind.NONE),
        ("CONNECT", 100, FramingKind.NONE),
        ("CONNECT", 304, FramingKind.NONE),
        ("GET", 101, FramingKind.TUNNEL),
        ("CONNECT", 200, FramingKind.TUNNEL),
        ("CONNECT", 204, FramingKind.TUNNEL),
        ("CONNECT", 299, FramingKind.TUNNEL),
        ("CONNECT", 300, FramingKind.LENGTH),
        ("CONNECT", 407, FramingKind.LENGTH),
        ("GET", 205, FramingKind.LENGTH),
        ("GET", 200, FramingKind.LENGTH),
    ],
)
def test_framing_by_method_and_status(method: str, status: int, kind: FramingKind) -> None:
    assert framed(b"Content-Length: 5\r\n", method, status).kind is kind


@pytest.mark.parametrize("fields", [b"Content-Length: x\r\n", b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("CONNECT", 200), ("GET", 101)])
def test_framing_without_a_body_ignores_the_fields(method: str, status: int, fields: bytes) -> None:
    assert framed(fields, method, status).kind in (FramingKind.NONE, FramingKind.TUNNEL)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"", Framing(FramingKind.CLOSE)),
        (b"Transfer-Encoding: chunked\r\n", Framing(FramingKind.CHUNKED)),
        (b"transfer-encoding:\tChunked \r\n", Framing(FramingKind.CHUNKED)),
        (b"Content-Length: 0\r\n", Framing(FramingKind.LENGTH, 0)),
        (b"Content-Length:5 \r\n", Framing(FramingKind.LENGTH, 5)),
        (b"Content-Length: 007\r\n", Framing(FramingKind.LENGTH, 7)),
        (b"Content-Length: 5, 5\r\n", Framing(FramingKind.LENGTH, 5)),
        (b"Content-Length: 5\r\ncontent-length: 5\r\n", Framing(FramingKind.LENGTH, 5)),
        (b"Content-Length: 5,05\r\ncontent-length: 5\r\n", Framing(FramingKind.LENGTH, 5)),
        (b"Content-Length: %d\r\n" % MAX_LENGTH, Framing(FramingKind.LENGTH, MAX_LENGTH)),
        (b"X-Content-Length: 5\r\n", Framing(FramingKind.CLOSE)),
        (b"Content-Length-X: 5\r\n", Framing(FramingKind.CLOSE)),
        (b"X: Content-Length: 5\r\n", Framing(FramingKind.CLOSE)),
    ],
)
def test_framing_by_fields(fields: bytes, expected: Framing) -> None:
    assert framed(fields) == expected


LENGTHS = [b"", b" ", b"-1", b"+1", b"1.0", b"0x1", b"1_0", b"1 1", b"5;", b"five", b"\xb2", b"\xd9\xa1", b",", b"5,",
           b",5", b"5,,5", b"5, 6", b"5,x", b"%d" % (MAX_LENGTH + 1), b"9" * 5000, b"0" * 20]  # fmt: skip


@pytest.mark.parametrize("length", LENGTHS)
def test_rfc9112_6_3_content_length_that_is_no_number_is_refused(length: bytes) -> None:
    with pytest.raises(ProtocolError):
        framed(b"Content-Length: %b\r\n" % length)


def test_rfc9112_11_2_several_different_lengths_are_refused() -> None:
    with pytest.raises(ProtocolError):
        framed(b"Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n")


@pytest.mark.parametrize("length", [b"5", b"x", b""])
@pytest.mark.parametrize("order", [1, -1])
def test_rfc9112_11_2_length_beside_transfer_encoding_is_refused(length: bytes, order: int) -> None:
    fields = [b"Content-Length: %b\r\n" % length, b"Transfer-Encoding: chunked\r\n"]
    with pytest.raises(ProtocolError, match="both"):
        framed(b"".join(fields[::order]))


CODINGS = [b"gzip, chunked", b"chunked, gzip", b"gzip", b"identity", b"chunked, identity", b"chunked, chunked", b"",
           b"chunked;q=1", b"xchunked", b"chunkedx", b'"chunked"', b"chunked,", b",chunked", b"chun ked"]  # fmt: skip


@pytest.mark.parametrize("coding", CODINGS)
def test_rfc9112_7_4_codings_that_were_not_asked_for_are_refused(coding: bytes) -> None:
    with pytest.raises(ProtocolError):
        framed(b"Transfer-Encoding: %b\r\n" % coding)


def test_rfc9112_11_2_chunked_on_two_lines_is_refused() -> None:
    with pytest.raises(ProtocolError):
        framed(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")


def test_rfc9112_6_1_transfer_encoding_from_http_1_0_is_refused() -> None:
    with pytest.raises(ProtocolError, match="an HTTP/1"):
        framed(b"Transfer-Encoding: chunked\r\n", version=b"HTTP/1.0")


@pytest.mark.parametrize("field", [b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked",
                                   b" Transfer-Encoding: chunked", b"Transfer-Encoding: \x0bchunked",
                                   b"Transfer-Encoding:\r\n chunked", b"X: y\rTransfer-Encoding: chunked",
                                   b"X: y\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\0"])  # fmt: skip
def test_rfc9112_11_2_disguised_transfer_encodings_are_refused(field: bytes) -> None:
    with pytest.raises(ProtocolError):
        framed(b"Content-Length: 5\r\n" + field + b"\r\n")


# -- bodies of known length, to the end of the connection, and none ------------------------------------------------


def test_a_body_of_known_length() -> None:
    body = decoder(Framing(FramingKind.LENGTH, 10), LIMITS)
    assert isinstance(body, LengthDecoder)
    assert (body.direct, body.expected, body.is_done) == (10, 10, False)
    piece = b"abcd"
    assert body.feed(piece) is piece
    assert (body.direct, body.received) == (6, 4)
    body.took(2)
    assert bytes(body.feed(memoryview(b"ghijsurplus"))) == b"ghij"
    assert (body.direct, body.received, body.is_done, body.rest, body.trailers) == (0, 10, True, b"surplus", None)
    body.eof()
    assert body.feed(b"more") == b""
    assert (body.rest, body.received) == (b"surplusmore", 10)


def test_a_body_that_is_read_past_the_decoder_to_its_end() -> None:
    body = LengthDecoder(3)
    body.took(3)
    assert body.is_done
    assert body.direct == 0


def test_rfc9112_11_3_a_body_cut_short_is_incomplete() -> None:
    body = LengthDecoder(10)
    body.feed(b"abc")
    with pytest.raises(IncompleteBody) as caught:
        body.eof()
    assert (caught.value.received, caught.value.expected) == (3, 10)


@pytest.mark.parametrize("kind", [FramingKind.NONE, FramingKind.TUNNEL])
def test_no_body_is_done_at_once_and_all_that_comes_is_surplus(kind: FramingKind) -> None:
    body = decoder(Framing(kind, 0), LIMITS)
    assert (body.is_done, body.direct) == (True, 0)
    assert body.feed(b"surplus") == b""
    assert body.rest == b"surplus"
    body.eof()


def test_a_body_to_the_end_of_the_connection() -> None:
    body = decoder(Framing(FramingKind.CLOSE), LIMITS)
    assert isinstance(body, CloseDecoder)
    piece = b"abc"
    assert body.feed(piece) is piece
    assert body.direct > 2**40
    body.took(7)
    assert (body.received, body.expected, body.is_done) == (10, None, False)
    body.eof()
    assert body.is_done
    assert body.direct == 0


# -- chunked bodies ------------------------------------------------------------------------------------------------


def test_a_chunked_body() -> None:
    body = decoder(Framing(FramingKind.CHUNKED), LIMITS)
    assert isinstance(body, ChunkedDecoder)
    assert body.feed(b'5;a;b=c ; d = "e\\";"\r\nhello\r\n0006\r\n wor') == b"hello wor"
    assert (body.direct, body.received) == (2, 9)
    body.took(2)
    assert (body.direct, body.received, body.is_done) == (0, 11, False)
    assert body.feed(b"\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\nsurplus") == b""
    assert (body.is_done, body.rest, body.received, body.expected) == (True, b"surplus", 11, None)
    assert body.trailers is not None
    assert body.trailers.get_list("X-Sum") == ["1", "2"]
    body.eof()


def test_content_that_lies_in_one_chunk_is_not_copied() -> None:
    content, body = bytearray(b"x" * 1000), ChunkedDecoder(LIMITS)
    data = b"3e8\r\n" + content + b"\r\n"
    got = body.feed(data)
    assert isinstance(got, memoryview)
    assert got.obj is data
    body.feed(b"10\r\n")
    piece = b"inside"
    assert body.feed(piece) is piece


def test_white_space_behind_a_chunks_size_is_let_through() -> None:
    assert unchunk(b"5  \r\nhello\r\n0 \r\n\r\n")[0] == b"hello"


def test_hex_digits_of_either_case_and_leading_zeros() -> None:
    content, body = unchunk(b"A\r\n0123456789\r\n000000000000000a\r\n0123456789\r\n00\r\n\r\n")
    assert len(content) == 20
    assert body.is_done
    assert body.trailers is None


CHUNK_LINES = [b"", b" 5", b"\t5", b"0x5", b"-5", b"+5", b"5_0", b"g", b"5g", b"5 5", b"5 ,", b"5;", b"5;;", b"5; ",
               b"5;a=", b"5;=b", b"5;a=b=c", b"5;a b", b'5;a="b', b'5;a=b"c"', b'5;a="\x01"', b"5;a=\xe9", b"5;a\x00",
               b"5\x0b", b"00000000000000005", b"\xb25", b"5;a=b\rc", b'5;a="b\rc"', b"5\r"]  # fmt: skip


@pytest.mark.parametrize("line", CHUNK_LINES)
@pytest.mark.parametrize("before", [b"", b"1\r\nx\r\n"])
def test_malformed_chunk_lines_are_refused(line: bytes, before: bytes) -> None:
    with pytest.raises(ProtocolError):
        unchunk(before + line + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("body", [b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r\n0\n\r\n",
                                  b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n0\r\nA: 1\n\r\n"])  # fmt: skip
def test_rfc9112_7_1_bare_lf_in_a_chunked_body_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        unchunk(body)


@pytest.mark.parametrize("end", [b"xx", b"x\r\n", b"\rx", b"\n\n", b"\n\r", b"00", b"\r\r\n"])
def test_h11_cve_2025_43859_what_stands_behind_a_chunk_is_looked_at(end: bytes) -> None:
    with pytest.raises(ProtocolError):
        unchunk(b"5\r\nhello" + end + b"0\r\n\r\n")


@pytest.mark.parametrize("end", [b"x", b"\n", b"\rx"])
def test_what_stands_behind_a_chunk_is_looked_at_at_once(end: bytes) -> None:
    with pytest.raises(ProtocolError, match="no CRLF"):
        unchunk(b"5\r\nhello" + end)


@pytest.mark.parametrize("extension", [b";a\n", b";a=b\nc", b';a="b\nc"', b";\n5", b";a=b\n\nGET / HTTP/1.1"])
def test_aiohttp_cve_2024_52304_line_ends_in_chunk_extensions_are_refused(extension: bytes) -> None:
    with pytest.raises(ProtocolError):
        unchunk(b"5" + extension + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("section", [b"x", b"a b: c", b"a : b", b" a: b", b"a: b\r\n c", b": b", b"a: \0", b"a: b\rc",
                                     b"HTTP/1.1 200 OK", b"GET / HTTP/1.1"])  # fmt: skip
def test_aiohttp_cve_2025_53643_trailers_are_parsed_as_strictly_as_a_head(section: bytes) -> None:
    with pytest.raises(ProtocolError):
        unchunk(b"0\r\n" + section + b"\r\n\r\n")


def test_trailers_that_come_too_late_are_dropped() -> None:
    forbidden = b"".join(b"%b: 1\r\n" % name.title().encode() for name in sorted(FORBIDDEN_TRAILERS))
    trailers = unchunk(b"0\r\nA: 1\r\n" + forbidden + b"Content-Digest: 2\r\n\r\n")[1].trailers
    assert trailers is not None
    assert list(trailers.items()) == [("A", "1"), ("Content-Digest", "2")]


def test_aiohttp_cve_2026_22815_trailers_may_have_max_head_bytes_and_not_one_more() -> None:
    section = b"a: " + b"x" * 100 + b"\r\n\r\n"
    assert unchunk(b"0\r\n" + section, Limits(max_head_bytes=len(section)))[1].is_done
    for data in (section, section + b"rest", section[:-1]):
        with pytest.raises(LimitExceeded) as caught:
            unchunk(b"0\r\n" + data, Limits(max_head_bytes=len(section) - 1))
        assert caught.value.limit == "max_head_bytes"


def test_trailers_may_have_max_headers_lines_and_not_one_more() -> None:
    data = b"0\r\n" + b"a: 1\r\n" * 5 + b"\r\n"
    assert unchunk(data, Limits(max_headers=5))[1].is_done
    with pytest.raises(LimitExceeded) as caught:
        unchunk(data, Limits(max_headers=4))
    assert caught.value.limit == "max_headers"


def extended(size: int) -> bytes:
    """A chunk with an extension of so many bytes."""
    return b"1;" + b"e" * (size - 1) + b"\r\nx\r\n"


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_extensions_of_all_chunks_share_one_limit(step: int) -> None:
    def feed(data: bytes) -> ChunkedDecoder:
        body = ChunkedDecoder(LIMITS)
        for place in range(0, len(data), step):
            body.feed(data[place : place + step])
        return body

    half = MAX_EXTENSION_BYTES // 2
    assert feed(extended(half) * 2 + b"0\r\n\r\n").is_done
    assert feed(extended(MAX_EXTENSION_BYTES) + b"0\r\n\r\n").is_done
    assert feed(b"0" * 15 + extended(MAX_EXTENSION_BYTES) + b"0\r\n\r\n").is_done
    assert feed(b"1\r\nx\r\n" + b"0" * 15 + extended(MAX_EXTENSION_BYTES) + b"0\r\n\r\n").is_done
    for data in (
        extended(half) + extended(half + 1),
        extended(half) * 2 + b"0;a\r\n\r\n",
        extended(MAX_EXTENSION_BYTES + 1),
        extended(MAX_EXTENSION_BYTES + 100),
        b"1;" + b"e" * (MAX_EXTENSION_BYTES + 100),
        b"1" * (MAX_EXTENSION_BYTES + 100),
    ):
        with pytest.raises(LimitExceeded) as caught:
            feed(data)
        assert caught.value.limit == "max_extension_bytes"


def test_the_largest_chunk() -> None:
    assert unchunk(b"%x\r\n" % MAX_LENGTH)[1].direct == MAX_LENGTH
    with pytest.raises(ProtocolError):
        unchunk(b"%x\r\n" % (MAX_LENGTH + 1))


@pytest.mark.parametrize("data", [b"", b"5", b"5\r\n", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r\n", b"0", b"0\r\n",
                                  b"0\r\nA: 1\r\n", b"0\r\n\r"])  # fmt: skip
def test_rfc9112_11_3_a_chunked_body_cut_short_is_incomplete(data: bytes) -> None:
    body = unchunk(data)[1]
    assert not body.is_done
    with pytest.raises(IncompleteBody) as caught:
        body.eof()
    assert (caught.value.received, caught.value.expected) == (body.received, None)


def test_rfc9112_11_1_a_second_response_behind_the_first_is_surplus() -> None:
    second = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"
    for body, data in ((LengthDecoder(5), b"hello"), (ChunkedDecoder(LIMITS), b"5\r\nhello\r\n0\r\n\r\n")):
        assert bytes(body.feed(data + second)) == b"hello"
        assert (body.is_done, body.rest) == (True, second)


def test_long_targets_are_not_remembered() -> None:
    """A peer chooses them, by redirects: 512 of 60 KB each stayed in memory."""
    http11_wire._known_line.cache_clear()
    for length, kept in ((http11_wire.KEPT_TARGET, 1), (http11_wire.KEPT_TARGET + 1, 0)):
        target = "/" + "a" * (length - 1)
        assert encode_head("GET", target, Headers()) == f"GET {target} HTTP/1.1\r\n\r\n".encode()
        assert http11_wire._known_line.cache_info().currsize == kept
        http11_wire._known_line.cache_clear()
