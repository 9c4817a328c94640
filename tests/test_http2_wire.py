"""The HTTP/2 wire: what goes out for a request, what a sink is told of its response, and how streams end."""

from __future__ import annotations

import pickle
from typing import Any

import hpack
import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, SettingsFrame, WindowUpdateFrame

from http2_wire_kit import (
    ACK,
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEAD,
    HEADERS,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Recorder,
    block,
    connected,
    data,
    decoded,
    frame,
    goaway,
    head,
    opened,
    padded,
    reset,
    settings,
    summary,
    trailers,
    window_update,
    word,
    written,
)
from plugwire.config import Limits
from plugwire.errors import (
    ConnectionClosed,
    IncompleteBody,
    InvalidHeader,
    LimitExceeded,
    ProtocolError,
    ReadError,
    Refused,
    StreamReset,
)
from plugwire.headers import Headers
from plugwire_transports.http2.frames import pack_headers
from plugwire_transports.http2.hpack import Indexing
from plugwire_transports.http2.streams import MAX_REMEMBERED
from plugwire_transports.http2.wire import Code, RequestHead, Wire

MAX_WINDOW = 2**31 - 1
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_CONCURRENT_STREAMS, HEADER_TABLE_SIZE = 4, 5, 3, 1

# -- the beginning -------------------------------------------------------------------------------------------------


def test_the_preface_our_settings_and_a_wide_window_come_first() -> None:
    wire = Wire(Limits(max_head_bytes=12345), stream_window=70_000)
    assert wire.queued
    output = wire.take()
    assert output.startswith(PREFACE)
    assert not wire.queued
    assert wire.take() == b""
    frames = written(Wire(Limits(max_head_bytes=12345), stream_window=70_000))
    assert isinstance(frames[0], SettingsFrame)
    ours = frames[0].settings
    assert (ours[2], ours[4], ours[6]) == (0, 70_000, 12345)
    assert ours.get(5, 16384) == 16384
    assert isinstance(frames[1], WindowUpdateFrame)
    assert (frames[1].stream_id, frames[1].window_increment) == (0, MAX_WINDOW - 65535)
    assert len(frames) == 2


def test_a_limit_that_settings_cannot_say_is_cut() -> None:
    (ours, _) = written(Wire(Limits(max_head_bytes=2**40)))
    assert isinstance(ours, SettingsFrame)
    assert ours.settings[6] == 2**32 - 1


def test_before_the_peers_settings_a_hundred_streams_fit() -> None:
    wire = Wire(Limits())
    assert (wire.max_streams, wire.has_settings) == (100, False)
    for _ in range(100):
        opened(wire)
    assert wire.open_streams == 100
    with pytest.raises(Refused):
        opened(wire)


def test_the_peers_settings_are_obeyed_and_acknowledged() -> None:
    wire = Wire(Limits())
    wire.take()
    wire.feed(settings((MAX_CONCURRENT_STREAMS, 2)))
    assert wire.has_settings
    assert wire.max_streams == 2
    assert wire.take() == frame(SETTINGS, ACK, 0)
    opened(wire)
    opened(wire)
    wire.take()
    with pytest.raises(Refused):
        opened(wire)
    assert not wire.queued, "a refused stream must leave nothing behind"
    wire.feed(settings((MAX_CONCURRENT_STREAMS, 3)))
    opened(wire)
    wire.feed(settings((MAX_CONCURRENT_STREAMS, 0)))
    assert (wire.max_streams, wire.open_streams) == (0, 3)


def test_without_a_limit_of_the_peer_there_are_many() -> None:
    assert connected().max_streams > 10**6


@pytest.mark.parametrize(
    "first",
    [
        frame(SETTINGS, ACK, 0),
        frame(PING, 0, 0, bytes(8)),
        goaway(0),
        window_update(0, 1),
        b"\0\0\0\xff\0\0\0\0\0",
        b"SSH-2.0-OpenSSH",
    ],
)
def test_the_first_frame_is_settings(first: bytes) -> None:
    wire = Wire(Limits())
    with pytest.raises(ProtocolError, match="does not begin with SETTINGS"):
        wire.feed(first)
    assert summary(wire)[-1] == ("GoAway", 0, Code.PROTOCOL_ERROR)


def test_a_peer_that_speaks_http11_is_named() -> None:
    with pytest.raises(ProtocolError, match=r"speaks HTTP/1\.1"):
        Wire(Limits()).feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    wire = Wire(Limits())
    _, sink = opened(wire)
    wire.feed(b"HTTP/1")
    wire.eof("closed")
    assert "speaks HTTP/1.1" in str(sink.error)
    for beginning in (b"", settings()[:5], settings() + b"HTTP/1"):
        wire = Wire(Limits())
        _, sink = opened(wire)
        wire.feed(beginning)
        wire.eof("closed")
        assert str(sink.error) == "closed, before the response began"


# -- requests ------------------------------------------------------------------------------------------------------


def test_a_request_without_content_is_one_frame() -> None:
    wire = connected()
    stream, _ = opened(wire)
    (one,) = written(wire)
    assert isinstance(one, HeadersFrame)
    assert (one.stream_id, set(one.flags)) == (1, {"END_HEADERS", "END_STREAM"})
    assert stream.id == 1
    assert decoded(hpack.Decoder(), one.data) == [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "host.example"),
        (":path", "/path?q"),
        ("user-agent", "test"),
        ("x-key", "secret"),
    ]


def test_connect_has_neither_scheme_nor_path() -> None:
    wire = connected()
    opened(wire, CONNECT)
    (one,) = written(wire)
    assert isinstance(one, HeadersFrame)
    assert decoded(hpack.Decoder(), one.data) == [(":method", "CONNECT"), (":authority", "host.example:443")]
    assert "END_STREAM" not in one.flags


def test_each_stream_has_the_next_odd_number() -> None:
    wire = connected()
    assert [opened(wire)[0].id for _ in range(4)] == [1, 3, 5, 7]


def test_the_peers_table_stays_in_step_over_many_heads() -> None:
    """Memo or not, in any order, also when the table's size changes in between."""
    wire = connected()
    decoder = hpack.Decoder()
    variants = [
        RequestHead(method, "https", authority, path, fields)
        for method in ("GET", "PROPFIND")
        for authority in ("a.example", "b.example")
        for path in ("/", "/x")
        for fields in ((("a", "b", Indexing.ADD),), (("a", "c", Indexing.ADD), ("cookie", "d", Indexing.NEVER)))
    ]
    sizes = {3: 0, 5: 100, 8: 4096, 11: 60}
    for turn in range(14):
        if turn in sizes:
            wire.feed(settings((HEADER_TABLE_SIZE, sizes[turn])))
            wire.take()
            decoder.max_allowed_table_size = sizes[turn]
        for request in variants[turn % 3 :]:
            opened(wire, request, ended=True)
            (one,) = written(wire)
            assert isinstance(one, HeadersFrame)
            pseudo = zip((":method", ":scheme", ":authority", ":path"), request[:4], strict=True)
            expected = [*pseudo, *[field[:2] for field in request.fields]]
            assert decoded(decoder, one.data) == expected
            wire.reset(_last(wire), Code.CANCEL)
            wire.take()


def _last(wire: Wire) -> Any:
    return list(wire._streams.values())[-1]


def test_equal_heads_are_encoded_once() -> None:
    wire = connected()
    blocks: list[bytes] = []
    for _ in range(4):
        opened(wire)
        (one,) = written(wire)
        assert isinstance(one, HeadersFrame)
        blocks.append(one.data)
    assert len(set(blocks[1:])) == 1
    encode = wire._encoder._encoder.encode
    wire._encoder._encoder.encode = None  # type: ignore[assignment,method-assign]
    opened(wire)
    wire._encoder._encoder.encode = encode  # type: ignore[method-assign]
    opened(wire, GET._replace(path="/other"))
    assert len(written(wire)) == 2


def test_paths_go_into_no_table() -> None:
    wire = connected()
    opened(wire)
    version = wire._encoder._encoder.version
    for number in range(5):
        opened(wire, GET._replace(path=f"/{number}"))
    assert wire._encoder._encoder.version == version


def test_memos_are_bounded() -> None:
    wire = connected()
    for number in range(1000):
        stream, _ = opened(wire, GET._replace(path=f"/{number}", fields=(("a", str(number % 70), Indexing.WITHOUT),)))
        wire.feed(head(stream.id, ("x", str(number)), ended=True))
        assert len(wire._encoder._paths) <= 65
        assert len(wire._encoder._frames) <= 64
        assert 0 < len(wire._decoder._known) <= 64


def test_a_long_head_is_cut_at_the_peers_frame_size() -> None:
    wire = connected()
    fields = tuple((f"x-{number}", "\x7c" * 4000, Indexing.WITHOUT) for number in range(10))
    opened(wire, GET._replace(fields=fields))
    first, *more = written(wire)
    assert isinstance(first, HeadersFrame)
    assert "END_STREAM" in first.flags
    assert "END_HEADERS" not in first.flags
    assert len(first.data) == 16384
    assert [type(one) for one in more] == [ContinuationFrame] * 2
    assert ["END_HEADERS" in one.flags for one in more] == [False, True]
    assert len(more[0].data) == 16384
    decoder = hpack.Decoder(max_header_list_size=10**6)
    assert len(decoded(decoder, b"".join(one.data for one in (first, *more)))) == 14


@pytest.mark.parametrize(("size", "parts"), [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (30, 3)])
def test_a_block_fills_its_frames(size: int, parts: int) -> None:
    frames = pack_headers(7, bytes(range(size)), False, 10)
    assert len(frames) == 2 * parts
    assert b"".join(frames[1::2]) == bytes(range(size))
    ends = [header[4] & END_HEADERS for header in frames[::2]]
    assert ends == [0] * (parts - 1) + [END_HEADERS]
    assert not any(header[4] & END_STREAM for header in frames[::2])
    assert pack_headers(7, bytes(size), True, 10)[0][4] & END_STREAM


def test_content_is_cut_at_the_peers_frame_size() -> None:
    wire = connected((MAX_FRAME_SIZE, 20_000), (INITIAL_WINDOW_SIZE, 100_000))
    stream, _ = opened(wire, POST)
    wire.take()
    content = bytes(range(256)) * 200
    wire.send(stream, content, True)
    frames = written(wire)
    assert all(isinstance(one, DataFrame) for one in frames)
    assert [len(one.data) for one in frames] == [20_000, 20_000, 11_200]
    assert ["END_STREAM" in one.flags for one in frames] == [False, False, True]
    assert b"".join(one.data for one in frames) == content


@pytest.mark.parametrize(
    "kind",
    [
        bytes,
        bytearray,
        memoryview,
        lambda b: memoryview(bytearray(b)),
        lambda b: memoryview(b).cast("I"),
        lambda b: memoryview(b + b)[::2],
    ],
)
def test_content_may_be_any_buffer_and_is_not_kept(kind: Any) -> None:
    wire = connected()
    stream, _ = opened(wire, POST)
    wire.take()
    content = kind(b"a" * 20_000)
    wire.send(stream, content, False)
    if not memoryview(content).readonly:
        memoryview(content)[:] = bytes(20_000)
    assert b"".join(one.data for one in written(wire)) == b"a" * 20_000


def test_an_empty_end_is_an_empty_frame_and_an_empty_piece_is_none() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 0))
    stream, _ = opened(wire, POST)
    wire.take()
    wire.send(stream, b"", False)
    assert wire.take() == b""
    wire.send(stream, b"", True)
    assert wire.take() == frame(DATA, END_STREAM, 1)


def test_trailers_of_a_request() -> None:
    wire = connected()
    stream, _ = opened(wire, POST)
    decoder = hpack.Decoder()
    (one,) = written(wire)
    decoded(decoder, one.data)
    wire.send(stream, b"abc", False)
    sent = Headers({"X-Sum": "1", "X-Secret": "2"})
    sent.secret |= {"x-secret"}
    wire.send_trailers(stream, sent)
    content, last = written(wire)
    assert content.data == b"abc"
    assert not content.flags
    assert set(last.flags) == {"END_HEADERS", "END_STREAM"}
    fields = list(decoder.decode(last.data))
    assert [tuple(field) for field in fields] == [("x-sum", "1"), ("x-secret", "2")]
    assert [field.indexable for field in fields] == [True, False]
    assert wire.room(stream) == 0


def test_no_trailers_are_an_empty_end() -> None:
    wire = connected()
    stream, _ = opened(wire, POST)
    wire.take()
    wire.send_trailers(stream, Headers())
    assert wire.take() == frame(DATA, END_STREAM, 1)


def test_trailers_that_must_not_be_are_refused() -> None:
    wire = connected()
    stream, _ = opened(wire, POST)
    wire.take()
    for name in ("Content-Length", "Transfer-Encoding", "Connection", "Host"):
        with pytest.raises(InvalidHeader, match=name):
            wire.send_trailers(stream, Headers({name: "1"}))
    assert not wire.queued


def test_nothing_can_be_sent_after_the_end() -> None:
    wire = connected()
    stream, _ = opened(wire)
    assert wire.room(stream) == 0
    with pytest.raises(ValueError, match="after the end"):
        wire.send(stream, b"x", False)
    with pytest.raises(ValueError, match="after the end"):
        wire.send_trailers(stream, Headers())


# -- responses -----------------------------------------------------------------------------------------------------


def test_a_response_with_content() -> None:
    wire = connected()
    stream, sink = opened(wire)
    wire.feed(head(1, ("content-length", "5"), ("x", "y")) + data(1, b"he") + data(1, b"llo", True))
    assert sink.calls == [
        ("head", 200, [("content-length", "5"), ("x", "y")], 5, False),
        ("data", b"he", False),
        ("data", b"llo", True),
    ]
    assert stream.is_over
    assert wire.open_streams == 0


def test_a_response_without_content() -> None:
    wire = connected()
    stream, sink = opened(wire)
    wire.feed(head(1, ended=True))
    assert sink.calls == [("head", 200, [], None, True)]
    assert stream.is_over


def test_an_empty_last_frame() -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.feed(head(1) + data(1, b"a") + data(1, b"", True))
    assert sink.calls[1:] == [("data", b"a", False), ("data", b"", True)]


def test_interim_responses_come_first() -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.feed(head(1, status="100") + head(1, ("link", "</x>"), status="103") + head(1, status="204", ended=True))
    assert [call[1] for call in sink.calls] == [100, 103, 204]
    assert sink.calls[1] == ("head", 103, [("link", "</x>")], None, False)


def test_trailers_end_a_response_and_those_that_steer_are_dropped() -> None:
    wire = connected()
    stream, sink = opened(wire)
    wire.feed(head(1) + data(1, b"a") + trailers(1, ("x-sum", "1"), ("content-length", "7"), ("set-cookie", "a=b")))
    assert sink.calls[1:] == [("data", b"a", False), ("trailers", [("x-sum", "1")])]
    assert stream.is_over


def test_content_of_the_announced_length() -> None:
    for end in (data(1, b"c", True), data(1, b"c") + data(1, b"", True), data(1, b"c") + trailers(1, ("x", "y"))):
        wire = connected()
        stream, sink = opened(wire)
        wire.feed(head(1, ("content-length", "3")) + data(1, b"ab") + end)
        assert sink.errors == []
        assert stream.is_over


@pytest.mark.parametrize(
    ("request_head", "status", "length"),
    [(HEAD, "200", 5), (GET, "204", None), (GET, "204", 0), (GET, "204", 5), (GET, "304", 5), (HEAD, "404", 5)],
)
@pytest.mark.parametrize("late", [False, True])
def test_responses_that_have_no_content_may_have_a_length(
    request_head: RequestHead, status: str, length: int | None, late: bool
) -> None:
    """An empty DATA frame may end them too."""
    wire = connected()
    _, sink = opened(wire, request_head)
    fields = [] if length is None else [("content-length", str(length))]
    wire.feed(head(1, *fields, status=status, ended=not late) + (data(1, b"", True) if late else b""))
    assert sink.calls[0] == ("head", int(status), fields, length, not late)
    assert sink.calls[1:] == ([("data", b"", True)] if late else [])


def test_a_tunnel_has_no_length() -> None:
    wire = connected()
    stream, sink = opened(wire, CONNECT)
    wire.feed(head(1, ("content-length", "1")) + data(1, b"abc") + data(1, b"", True))
    assert sink.calls[0][3:] == (None, False)
    assert sink.calls[1:] == [("data", b"abc", False), ("data", b"", True)]
    assert not stream.is_over
    assert wire.room(stream) > 0
    wire.send(stream, b"x", True)
    assert stream.is_over


def test_a_refused_tunnel_has_one() -> None:
    wire = connected()
    _, sink = opened(wire, CONNECT)
    wire.feed(head(1, ("content-length", "1"), status="407") + data(1, b"abc"))
    assert isinstance(sink.error, ProtocolError)


def test_padding_is_left_out_and_given_back() -> None:
    wire = connected(stream_window=1000)
    _, sink = opened(wire)
    wire.take()
    wire.feed(padded(HEADERS, END_HEADERS, 1, block((":status", "200")), 7))
    wire.feed(padded(DATA, 0, 1, b"abc", 200) + padded(DATA, 0, 1, b"", 0))
    assert sink.calls[1:] == [("data", b"abc", False)]
    assert not wire.queued
    wire.feed(padded(DATA, 0, 1, b"d", 255) + padded(DATA, 0, 1, b"e", 100) + padded(DATA, 0, 1, b"", 0))
    assert summary(wire) == [("WindowUpdate", 1, 201 + 1 + 256 + 101)]
    wire.feed(padded(DATA, END_STREAM, 1, b"f", 3))
    assert sink.joined()[-1] == ("data", b"abcdef", True)


def test_a_head_with_priority() -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.feed(frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, word(0) + b"\x10" + block((":status", "200"))))
    assert sink.calls == [("head", 200, [], None, False)]
    opened(wire)
    wire.feed(padded(HEADERS, END_HEADERS | WITH_PRIORITY, 1, word(0) + b"\x10" + block(("x", "y")), 3))
    assert sink.calls[1:] == [("failed", "ProtocolError", False)]


def test_a_head_in_several_frames() -> None:
    wire = connected()
    _, sink = opened(wire)
    encoded = block((":status", "200"), ("x", "y"))
    wire.feed(
        frame(HEADERS, END_STREAM, 1, encoded[:5])
        + frame(CONTINUATION, 0, 1, encoded[5:9])
        + frame(CONTINUATION, END_HEADERS, 1, encoded[9:])
    )
    assert sink.calls == [("head", 200, [("x", "y")], None, True)]


def test_headers_of_a_response_are_its_own() -> None:
    wire = connected()
    seen: list[Headers] = []

    class Keeper(Recorder):
        def on_head(self, head: Any, ended: bool) -> None:
            super().on_head(head, ended)
            seen.append(head.headers)
            head.headers["x"] = "changed"

    for _ in range(3):
        sink = Keeper()
        stream = wire.open(sink, GET, True)
        wire.feed(head(stream.id, ("x", "y"), ended=True))
        assert sink.calls == [("head", 200, [("x", "y")], None, True)]
    assert len({id(one) for one in seen}) == 3


def test_equal_heads_are_decoded_once() -> None:
    wire = connected()
    for number in range(3):
        stream, sink = opened(wire)
        wire.feed(head(stream.id, ("x", "y"), ended=True))
        assert sink.calls == [("head", 200, [("x", "y")], None, True)]
        if not number:
            wire._decoder._decoder.decode = None  # type: ignore[assignment,method-assign]


def test_the_memo_of_heads_follows_the_table() -> None:
    """The same octets mean another field after the table has moved."""
    wire = connected()
    add_a = b"\x40\x01x\x01a"
    add_b = b"\x40\x01x\x01b"
    newest = b"\x88\xbe"  # :status 200, and the newest entry of the dynamic table
    seen = []
    for encoded in (b"\x88" + add_a, newest, newest, b"\x88" + add_b, newest, newest, b"\x88" + add_b, newest):
        stream, sink = opened(wire)
        wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, encoded))
        seen.append(sink.calls[0][2][0][1])
    assert seen == ["a", "a", "a", "b", "b", "b", "b", "b"]
    assert len(wire._decoder._decoder._entries) == 3


def test_the_memo_of_heads_forgets_all_when_the_table_moves() -> None:
    """Also what is asked for only after something else was remembered again."""
    wire = connected()
    add_a, add_b = b"\x88\x40\x01x\x01a", b"\x88\x40\x01x\x01b"
    seen = []
    for encoded in (add_a, b"\x88\xbe", add_b, b"\x89", b"\x89", b"\x88\xbe"):
        stream, sink = opened(wire)
        wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, encoded))
        seen += [value for _, value in sink.calls[0][2]]
    assert seen == ["a", "a", "b", "b"]


def test_long_heads_are_not_remembered() -> None:
    wire = connected()
    for _ in range(2):
        opened(wire, GET._replace(path="/" * 1025))
        opened(wire, GET._replace(fields=(("x", "|" * 1100, Indexing.WITHOUT),)))
    assert set(wire._encoder._paths) == {None, "/path?q"}
    assert not wire._encoder._frames or all(len(behind) < 1024 for _, behind, _ in wire._encoder._frames.values())
    stream, _ = opened(wire)
    wire.feed(head(stream.id, ("x", "y" * 1100), ended=True))
    assert not wire._decoder._known


def test_trailers_are_not_taken_for_a_head_that_is_remembered() -> None:
    wire = connected()
    stream, _ = opened(wire)
    wire.feed(head(stream.id, ended=True))
    stream, sink = opened(wire)
    wire.feed(head(stream.id) + head(stream.id, ended=True))
    assert sink.calls[1:] == [("failed", "ProtocolError", False)]


# -- what keeps a read alive ---------------------------------------------------------------------------------------


class Keeper(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[memoryview] = []

    def on_data(self, data: memoryview, ended: bool) -> None:
        self.pieces.append(data)


def test_content_is_a_view_of_the_read() -> None:
    wire = connected()
    sink = Keeper()
    wire.open(sink, GET, True)
    read = head(1) + data(1, bytes(10_000)) + data(1, bytes(10_000))
    wire.feed(read)
    assert [piece.obj is read for piece in sink.pieces] == [True, True]


def test_small_content_of_a_large_read_is_copied() -> None:
    wire = connected()
    keeper, other = Keeper(), Keeper()
    wire.open(keeper, GET, True)
    wire.open(other, GET, True)
    read = head(1) + head(3) + data(1, b"a" * 10) + data(3, bytes(16_000)) + data(3, bytes(16_000))
    wire.feed(read)
    (piece,) = keeper.pieces
    assert bytes(piece) == b"a" * 10
    assert memoryview(piece).obj is not read
    assert len(piece.obj) == 10


# -- malformed responses: the end of their stream, not of others (RFC 9113, 8.1.1) ---------------------------------

MALFORMED: dict[str, bytes] = {
    "no :status": frame(HEADERS, END_HEADERS, 1, block(("x", "y"))),
    "an empty block": frame(HEADERS, END_HEADERS, 1, b""),
    "status of two digits": head(1, status="20"),
    "101": head(1, status="101"),
    "an upper-case name": head(1, ("X", "y")),
    "connection": head(1, ("connection", "close")),
    "white space in front": head(1, ("x", " y")),
    "an interim response that ends the stream": head(1, status="103", ended=True),
    "a malformed interim response": head(1, ("X", "y"), status="103"),
    "content before the head": data(1, b"x"),
    "an empty frame before the head": data(1, b"", True),
    "content after an interim response": head(1, status="100") + data(1, b"x"),
    "trailers that do not end the stream": head(1) + trailers(1, ("x", "y"), ended=False),
    "a pseudo-field in trailers": head(1) + trailers(1, (":status", "200")),
    "an upper-case name in trailers": head(1) + trailers(1, ("X", "y")),
    "a second head": head(1) + head(1),
    "more content than announced": head(1, ("content-length", "3")) + data(1, b"abcd"),
    "more content than announced, in pieces": head(1, ("content-length", "3")) + data(1, b"ab") + data(1, b"cd"),
    "content with 204": head(1, status="204") + data(1, b"x"),
    "content with 304": head(1, status="304") + data(1, b"x"),
    "two lengths": head(1, ("content-length", "3"), ("content-length", "3")),
}


@pytest.mark.parametrize("frames", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_response_ends_its_stream_only(frames: bytes) -> None:
    wire = connected()
    stream, sink = opened(wire)
    _, other = opened(wire)
    wire.take()
    wire.feed(head(3))
    wire.feed(frames)
    assert type(sink.error) is ProtocolError
    assert sink.calls[-1] == ("failed", "ProtocolError", False)
    assert stream.is_over
    assert summary(wire) == [("RstStream", 1, Code.PROTOCOL_ERROR)]
    assert wire.open_streams == 1
    wire.feed(data(3, b"x", True))
    assert other.calls == [("head", 200, [], None, False), ("data", b"x", True)]
    assert not wire.is_over


def test_content_for_head_is_malformed() -> None:
    wire = connected()
    _, sink = opened(wire, HEAD)
    wire.feed(head(1, ("content-length", "1")) + data(1, b"x", True))
    assert "HEAD" in str(sink.error)


@pytest.mark.parametrize(
    ("frames", "received"),
    [
        (head(1, ("content-length", "5"), ended=True), 0),
        (head(1, ("content-length", "5")) + data(1, b"", True), 0),
        (head(1, ("content-length", "5")) + data(1, b"abc", True), 3),
        (head(1, ("content-length", "5")) + data(1, b"abc") + data(1, b"", True), 3),
        (head(1, ("content-length", "5")) + data(1, b"abc") + trailers(1, ("x", "y")), 3),
        (head(1, ("content-length", "5")) + data(1, b"abc") + padded(DATA, END_STREAM, 1, b"", 9), 3),
    ],
)
def test_a_response_that_is_too_short(frames: bytes, received: int) -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.take()
    wire.feed(frames)
    error = sink.error
    assert isinstance(error, IncompleteBody)
    assert (error.received, error.expected) == (received, 5)
    assert sum(len(call[1]) for call in sink.calls if call[0] == "data") == received
    assert not any(call[-1] is True for call in sink.calls), "no end was announced"
    assert summary(wire) == [("RstStream", 1, Code.PROTOCOL_ERROR)]
    assert not wire._late, "the peer has ended it: nothing more can come"


def test_a_head_over_the_limit_ends_its_stream_only() -> None:
    wire = connected(limits=Limits(max_head_bytes=1000, max_headers=5))
    _, large = opened(wire)
    _, many = opened(wire)
    _, right = opened(wire)
    wire.take()
    wire.feed(head(1, ("x", "y" * 1000)))
    wire.feed(head(3, *[("x", "y")] * 6))
    wire.feed(head(5, *[("x", "y")] * 5))
    assert large.calls == [("failed", "LimitExceeded max_head_bytes", False)]
    assert many.calls == [("failed", "LimitExceeded max_headers", False)]
    assert right.calls[0][0] == "head"
    assert summary(wire) == [("RstStream", 1, 11), ("RstStream", 3, 11)]


def test_trailers_over_the_limit() -> None:
    wire = connected(limits=Limits(max_headers=2))
    _, sink = opened(wire)
    wire.feed(head(1, ("a", "b"), ("a", "b")) + trailers(1, *[("x", "y")] * 3))
    assert sink.calls[1:] == [("failed", "LimitExceeded max_headers", False)]
    _, sink = opened(wire)
    wire.feed(head(3) + trailers(3, *[("x", "y")] * 2))
    assert sink.calls[1][0] == "trailers"


def test_too_many_interim_responses() -> None:
    wire = connected(limits=Limits(max_informational=2))
    _, sink = opened(wire)
    wire.feed(head(1, status="103") * 2)
    assert len(sink.calls) == 2
    wire.feed(head(1, status="103"))
    assert sink.calls[2:] == [("failed", "LimitExceeded max_informational", False)]


# -- connection errors: the end of all (RFC 9113, 5.4.1) -----------------------------------------------------------

BROKEN: dict[str, tuple[bytes, Code]] = {
    "a frame that is too long": (b"\0\x40\x01\0\0\0\0\0\x01", Code.FRAME_SIZE_ERROR),
    "DATA of no stream": (data(0, b""), Code.PROTOCOL_ERROR),
    "DATA of an idle stream": (data(5, b""), Code.PROTOCOL_ERROR),
    "DATA of the peer's stream": (data(2, b""), Code.PROTOCOL_ERROR),
    "DATA with too much padding": (frame(DATA, PADDED, 1, b"\x03ab"), Code.PROTOCOL_ERROR),
    "DATA without its padding's length": (frame(DATA, PADDED, 1), Code.PROTOCOL_ERROR),
    "HEADERS of no stream": (head(0), Code.PROTOCOL_ERROR),
    "HEADERS of an idle stream": (head(5), Code.PROTOCOL_ERROR),
    "HEADERS of the peer's stream": (head(2), Code.PROTOCOL_ERROR),
    "HEADERS with too much padding": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03ab"), Code.PROTOCOL_ERROR),
    "HEADERS without its priority": (frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"abcd"), Code.FRAME_SIZE_ERROR),
    "a block that is no HPACK": (frame(HEADERS, END_HEADERS, 1, b"\x80"), Code.COMPRESSION_ERROR),
    "a block that is cut off": (frame(HEADERS, END_HEADERS, 1, b"\0\x05a"), Code.COMPRESSION_ERROR),
    "PRIORITY of no stream": (frame(PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    "PRIORITY of another size": (frame(PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "RST_STREAM of no stream": (reset(0, 0), Code.PROTOCOL_ERROR),
    "RST_STREAM of an idle stream": (reset(5, 0), Code.PROTOCOL_ERROR),
    "RST_STREAM of the peer's stream": (reset(2, 0), Code.PROTOCOL_ERROR),
    "RST_STREAM of another size": (frame(RST_STREAM, 0, 1, bytes(5)), Code.FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "SETTINGS of another size": (frame(SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "an acknowledgement with settings": (frame(SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "ENABLE_PUSH from a server": (settings((2, 1)), Code.PROTOCOL_ERROR),
    "a window above 2^31-1": (settings((INITIAL_WINDOW_SIZE, 2**31)), Code.FLOW_CONTROL_ERROR),
    "the same, taken back": (settings((4, 2**31), (4, 1)), Code.FLOW_CONTROL_ERROR),
    "a frame size below 2^14": (settings((MAX_FRAME_SIZE, 2**14 - 1)), Code.PROTOCOL_ERROR),
    "a frame size above 2^24-1": (settings((MAX_FRAME_SIZE, 2**24)), Code.PROTOCOL_ERROR),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, 1, word(2) + block((":status", "200"))), Code.PROTOCOL_ERROR),
    "PING of a stream": (frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "PING of another size": (frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "GOAWAY of a stream": (frame(7, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "GOAWAY of another size": (frame(7, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of another size": (frame(WINDOW_UPDATE, 0, 1, bytes(5)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 0": (window_update(0, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of an idle stream": (window_update(5, 1), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of the peer's stream": (window_update(2, 1), Code.PROTOCOL_ERROR),
    "the connection's window above 2^31-1": (window_update(0, MAX_WINDOW - 65534), Code.FLOW_CONTROL_ERROR),
    "CONTINUATION without HEADERS": (frame(CONTINUATION, END_HEADERS, 1), Code.PROTOCOL_ERROR),
    "CONTINUATION of another stream": (frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 3), Code.PROTOCOL_ERROR),
    "a frame inside a header block": (frame(HEADERS, 0, 1) + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "an unknown frame inside a header block": (frame(HEADERS, 0, 1) + frame(99, 0, 0), Code.PROTOCOL_ERROR),
    "DATA inside a header block": (frame(HEADERS, 0, 1) + data(1, b""), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("frames", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_a_connection_error_ends_everything(frames: bytes, code: Code) -> None:
    wire = connected()
    stream, sink = opened(wire)
    _, other = opened(wire)
    wire.take()
    with pytest.raises(ProtocolError) as caught:
        wire.feed(frames)
    assert wire.is_over
    assert wire.max_streams == 0
    assert wire.open_streams == 0
    assert stream.is_over
    assert summary(wire)[-1] == ("GoAway", 0, code)
    for one in (sink, other):
        assert one.calls[-1] == ("failed", "ProtocolError", False)
        assert str(one.error) == str(caught.value)
    assert len({id(sink.error), id(other.error), id(caught.value)}) == 3, "an error each: they get their own request"
    assert "RFC" in str(caught.value)
    # Nothing more happens.
    calls = len(sink.calls)
    wire.feed(head(1))
    wire.reset(stream, 8)
    wire.consumed(stream, 1)
    wire.send(stream, b"", True)
    wire.eof("closed")
    wire.shutdown()
    assert len(sink.calls) == calls
    assert not wire.queued
    with pytest.raises(Refused):
        opened(wire)


def test_the_longest_frame_is_taken() -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.feed(head(1) + data(1, bytes(16_384), True))
    assert sink.calls[1] == ("data", bytes(16_384), True)


def test_an_interrupt_leaves_no_half_read_connection() -> None:
    """Ctrl-C in the thread that reads for all: what was not handled is lost, so nobody may go on."""

    class Interrupted(Recorder):
        def on_head(self, head: Any, ended: bool) -> None:
            super().on_head(head, ended)
            raise KeyboardInterrupt

    wire = connected()
    sink = Interrupted()
    wire.open(sink, GET, True)
    _, other = opened(wire)
    wire.take()
    with pytest.raises(KeyboardInterrupt):
        wire.feed(head(1) + head(3))
    assert wire.is_over
    assert other.calls == [("failed", "ReadError", False)]
    assert summary(wire)[-1] == ("GoAway", 0, Code.INTERNAL_ERROR)


@pytest.mark.parametrize("what", ["request", "trailers"])
def test_an_interrupt_leaves_no_half_written_block(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder's table may have an entry that the peer will never hear of."""
    wire = connected()
    stream, other = opened(wire, POST)

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(wire._encoder), what, interrupted)
    with pytest.raises(KeyboardInterrupt):
        if what == "request":
            opened(wire)
        else:
            wire.send_trailers(stream, Headers({"x": "y"}))
    assert wire.is_over
    assert other.calls == [("failed", "ReadError", False)]


def test_fields_that_cannot_be_encoded_do_no_harm() -> None:
    wire = connected()
    decoder = hpack.Decoder()
    opened(wire)
    wire.take()
    with pytest.raises(UnicodeEncodeError):
        opened(wire, GET._replace(authority="other.example", fields=(("x", "\u20ac", Indexing.ADD),)))
    assert not wire.queued
    assert wire.open_streams == 1
    for _ in range(3):
        stream, _ = opened(wire)
        (one,) = written(wire)
        assert isinstance(one, HeadersFrame)
        assert (":authority", "host.example") in decoded(decoder, one.data)
    assert stream.id == 7


def test_the_highest_bit_of_numbers_is_reserved() -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.feed(frame(HEADERS, END_HEADERS, 1 | 2**31, block((":status", "200"))))
    wire.feed(window_update(0, 5 | 2**31))
    wire.feed(frame(7, 0, 0, word(1 | 2**31) + word(0)))
    assert sink.calls == [("head", 200, [], None, False)]


def test_a_header_block_without_end() -> None:
    wire = connected(limits=Limits(max_head_bytes=20_000))
    _, sink = opened(wire)
    fill = bytes(16_384)
    wire.feed(frame(HEADERS, 0, 1, fill) + frame(CONTINUATION, 0, 1, fill) + frame(CONTINUATION, 0, 1, fill))
    with pytest.raises(LimitExceeded) as caught:
        wire.feed(frame(CONTINUATION, 0, 1, fill))
    assert caught.value.limit == "max_head_bytes"
    assert sink.calls == [("failed", "LimitExceeded max_head_bytes", False)]
    assert summary(wire)[-1] == ("GoAway", 0, Code.ENHANCE_YOUR_CALM)


# -- streams that have ended ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [data(1, b"x"), head(1), trailers(1, ("x", "y"))])
def test_frames_after_the_end_are_a_connection_error(late: bytes) -> None:
    wire = connected()
    opened(wire)
    wire.feed(head(1, ended=True))
    with pytest.raises(ProtocolError, match="after the end of stream 1"):
        wire.feed(late)
    assert summary(wire)[-1] == ("GoAway", 0, Code.STREAM_CLOSED)


@pytest.mark.parametrize("late", [data(1, b"x"), trailers(1, ("x", "y"))])
def test_frames_after_the_end_while_we_send_end_the_stream(late: bytes) -> None:
    """The response stays: it was complete."""
    wire = connected()
    stream, sink = opened(wire, POST)
    wire.take()
    wire.feed(head(1, ended=True) + late)
    assert sink.calls == [("head", 200, [], None, True), ("window",)]
    assert stream.is_over
    assert wire.room(stream) == 0
    assert summary(wire) == [("RstStream", 1, Code.STREAM_CLOSED)]


@pytest.mark.parametrize("late", [window_update(1, 5000), reset(1, 0), frame(PRIORITY, 0, 1, bytes(5))])
def test_frames_that_may_come_after_the_end(late: bytes) -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.feed(head(1, ended=True) + late)
    assert sink.calls == [("head", 200, [], None, True)]
    assert not wire.is_over


def test_a_stream_that_we_reset_is_forgotten() -> None:
    wire = connected()
    stream, sink = opened(wire)
    wire.take()
    wire.reset(stream, Code.CANCEL)
    assert wire.take() == reset(1, 8)
    assert stream.is_over
    assert wire.open_streams == 0
    wire.reset(stream, Code.CANCEL)
    assert not wire.queued
    wire.feed(head(1) + data(1, b"x") + window_update(1, 5) + window_update(1, 0) + trailers(1, ("x", "y")))
    assert sink.calls == []
    assert not wire.queued


def test_late_heads_keep_the_table_in_step() -> None:
    wire = connected()
    stream, _ = opened(wire)
    _, other = opened(wire)
    wire.reset(stream, Code.CANCEL)
    wire.feed(frame(HEADERS, END_HEADERS, 1, b"\x88\x40\x01x\x01a"))
    wire.feed(frame(HEADERS, END_HEADERS, 3, b"\x88\xbe"))
    assert other.calls == [("head", 200, [("x", "a")], None, False)]


def test_a_late_head_that_is_malformed_or_too_large_does_no_harm() -> None:
    wire = connected(limits=Limits(max_headers=2))
    for late in (head(1, ("X", " y")), head(3, *[("x", "y")] * 5)):
        stream, _ = opened(wire)
        wire.reset(stream, Code.CANCEL)
        wire.feed(late)
    assert not wire.is_over


def test_a_late_block_that_cannot_be_decoded_ends_the_connection() -> None:
    wire = connected()
    stream, _ = opened(wire)
    wire.reset(stream, Code.CANCEL)
    with pytest.raises(ProtocolError, match="decoded"):
        wire.feed(frame(HEADERS, END_HEADERS, 1, b"\x80"))


def test_late_content_is_bounded_by_its_window() -> None:
    wire = connected(stream_window=100)
    stream, _ = opened(wire)
    wire.feed(head(1) + data(1, bytes(40)))
    wire.reset(stream, Code.CANCEL)
    wire.feed(data(1, bytes(60)))
    with pytest.raises(ProtocolError, match="window"):
        wire.feed(data(1, b"x"))
    assert summary(wire)[-1] == ("GoAway", 0, Code.FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("end", [data(1, b"", True), head(1, ended=True), reset(1, 8)])
def test_after_its_late_end_nothing_may_come(end: bytes) -> None:
    wire = connected()
    stream, _ = opened(wire)
    wire.reset(stream, Code.CANCEL)
    wire.feed(end)
    assert not wire._late
    with pytest.raises(ProtocolError, match="after the end"):
        wire.feed(data(1, b"x"))


def test_of_streams_that_we_reset_only_the_newest_are_remembered() -> None:
    wire = connected()
    for _ in range(MAX_REMEMBERED + 50):
        stream, _ = opened(wire)
        wire.reset(stream, Code.CANCEL)
    assert len(wire._late) == MAX_REMEMBERED
    wire.feed(head(1) + data(1, b"x") + data(stream.id, b"x"))  # too old to know: dropped
    assert not wire.is_over


def test_resetting_a_stream_whose_response_has_come() -> None:
    wire = connected()
    stream, sink = opened(wire, POST)
    wire.take()
    wire.feed(head(1, ended=True))
    assert not stream.is_over
    assert wire.open_streams == 1, "half-closed streams count (RFC 9113, 5.1.2)"
    wire.reset(stream, Code.NO_ERROR)
    assert wire.take() == reset(1, 0)
    assert wire.open_streams == 0
    assert len(sink.calls) == 1


@pytest.mark.parametrize("how", ["empty", "data", "trailers"])
def test_the_upload_may_end_after_the_response(how: str) -> None:
    wire = connected()
    stream, sink = opened(wire, POST)
    wire.feed(head(1, ended=True))
    if how == "trailers":
        wire.send_trailers(stream, Headers({"x": "y"}))
    else:
        wire.send(stream, b"x" if how == "data" else b"", True)
    assert stream.is_over
    assert wire.open_streams == 0
    assert len(sink.calls) == 1


# -- RST_STREAM from the peer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "unprocessed"),
    [
        (0, r"NO_ERROR \(0\)", False),
        (1, r"PROTOCOL_ERROR \(1\)", False),
        (7, r"REFUSED_STREAM \(7\)", True),
        (8, r"CANCEL \(8\)", False),
        (11, r"ENHANCE_YOUR_CALM \(11\).*too demanding", False),
        (13, r"HTTP_1_1_REQUIRED \(13\)", False),
        (0xBEEF, "unknown code 48879", False),
    ],
)
def test_a_reset_by_the_peer(code: int, text: str, unprocessed: bool) -> None:
    wire = connected()
    stream, sink = opened(wire)
    _, other = opened(wire)
    wire.take()
    wire.feed(reset(1, code))
    error = sink.error
    assert isinstance(error, StreamReset)
    assert error.code == code
    with pytest.raises(StreamReset, match=text):
        raise error
    assert pickle.loads(pickle.dumps(error)).code == code
    assert sink.calls == [("failed", "StreamReset", unprocessed)]
    assert stream.is_over
    assert not wire.queued
    assert other.calls == []


def test_a_reset_inside_the_response() -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.feed(head(1) + data(1, b"x") + reset(1, 0))
    assert sink.calls[1:] == [("data", b"x", False), ("failed", "StreamReset", False)]


@pytest.mark.parametrize("code", [0, 8])
def test_a_reset_behind_the_response_stops_the_upload(code: int) -> None:
    """RFC 9113, 8.1: the server does not want the rest of the request."""
    wire = connected()
    stream, sink = opened(wire, POST)
    wire.feed(head(1, ended=True) + reset(1, code))
    assert sink.calls == [("head", 200, [], None, True), ("window",)]
    assert stream.is_over
    assert wire.room(stream) == 0
    wire.take()
    wire.send(stream, b"x" * 10**6, True)
    wire.send_trailers(stream, Headers({"x": "y"}))
    assert not wire.queued, "nothing is sent on a stream that is over, and nobody is blamed"


# -- GOAWAY --------------------------------------------------------------------------------------------------------


def test_goaway_fails_what_the_peer_did_not_begin_and_lets_the_rest_finish() -> None:
    wire = connected()
    sinks = [opened(wire)[1] for _ in range(3)]
    wire.take()
    assert not wire.is_draining
    wire.feed(head(1) + goaway(3, 0, b"bye") + data(1, b"x", True))
    assert wire.is_draining
    assert not wire.is_over
    assert wire.goaway is not None
    assert tuple(wire.goaway) == (0, 3, b"bye")
    assert sinks[0].calls[1:] == [("data", b"x", True)]
    assert sinks[1].calls == []
    assert sinks[2].calls == [("failed", "ConnectionClosed", True)]
    assert "NO_ERROR" in str(sinks[2].error)
    assert "bye" in str(sinks[2].error)
    assert wire.open_streams == 1
    with pytest.raises(Refused):
        opened(wire)
    wire.feed(head(3, ended=True))
    assert sinks[1].calls == [("head", 200, [], None, True)]
    assert not wire.queued


@pytest.mark.parametrize("late", [window_update(1, 0), window_update(1, MAX_WINDOW), data(1, bytes(101))])
def test_a_stream_error_behind_the_response_stops_the_upload(late: bytes) -> None:
    wire = connected(stream_window=100)
    stream, sink = opened(wire, POST)
    wire.take()
    wire.feed(head(1, ended=True) + late)
    assert sink.calls == [("head", 200, [], None, True), ("window",)]
    assert stream.is_over
    assert summary(wire)[0][:2] == ("RstStream", 1)


def test_a_second_goaway_may_lower_the_number_and_not_raise_it() -> None:
    wire = connected()
    sinks = [opened(wire)[1] for _ in range(3)]
    wire.feed(goaway(MAX_WINDOW))
    assert [len(sink.calls) for sink in sinks] == [0, 0, 0]
    wire.feed(goaway(3))
    assert [len(sink.calls) for sink in sinks] == [0, 0, 1]
    wire.feed(goaway(1))
    assert [len(sink.calls) for sink in sinks] == [0, 1, 1]
    wire.feed(goaway(5, 2))
    assert wire.goaway is not None
    assert wire.goaway[:2] == (2, 1)


def test_goaway_that_finds_us_too_demanding_is_not_replayed() -> None:
    wire = connected()
    sinks = [opened(wire)[1] for _ in range(2)]
    wire.feed(goaway(1, 11, b"slow down"))
    assert sinks[0].calls == []
    assert sinks[1].calls == [("failed", "StreamReset", False)]
    error = sinks[1].error
    assert isinstance(error, StreamReset)
    assert error.code == 11
    assert "too demanding" in str(error)
    assert "slow down" in str(error)


def test_goaway_and_an_upload_whose_response_has_come() -> None:
    wire = connected()
    stream, sink = opened(wire, POST)
    wire.feed(head(1, ended=True) + goaway(0))
    assert sink.calls[1:] == [("window",)]
    assert stream.is_over


def test_long_debug_data_is_cut() -> None:
    wire = connected()
    wire.feed(goaway(0, 2, b"x" * 5000))
    assert wire.goaway is not None
    assert len(wire.goaway.debug) == 256
    assert len(str(wire.goaway)) < 150


def test_a_sink_may_reset_its_neighbours_while_it_is_told() -> None:
    wire = connected()
    streams: list[Any] = []

    class Wrecker(Recorder):
        def on_failed(self, error: Any, unprocessed: bool) -> None:
            super().on_failed(error, unprocessed)
            for stream in streams:
                wire.reset(stream, 8)

    sinks = [Wrecker() for _ in range(3)]
    streams.extend(wire.open(sink, GET, True) for sink in sinks)
    wire.take()
    wire.feed(goaway(0))
    assert [len(sink.calls) for sink in sinks] == [1, 1, 1]
    assert not wire.queued
    wire = connected()
    streams[:] = [wire.open(sink, GET, True) for sink in sinks]
    wire.eof("closed")
    assert [len(sink.calls) for sink in sinks] == [2, 2, 2]


def test_a_sink_may_reset_its_stream_while_it_is_told() -> None:
    wire = connected()
    streams: list[Any] = []

    class Wrecker(Recorder):
        def on_head(self, head: Any, ended: bool) -> None:
            super().on_head(head, ended)
            if head.status == 100:
                wire.reset(streams[0], 8)

        def on_data(self, data: memoryview, ended: bool) -> None:
            super().on_data(data, ended)
            wire.reset(streams[0], 8)

    for frames, count in (
        (head(1, status="100") + head(1), 1),
        (head(1, ("content-length", "5")) + data(1, b"abc", True), 2),
        (head(1) + data(1, b"abc") + data(1, b"abc"), 2),
    ):
        wire = connected()
        sink = Wrecker()
        streams[:] = [wire.open(sink, GET, True)]
        wire.take()
        wire.feed(frames)
        assert len(sink.calls) == count
        assert summary(wire) == [("RstStream", 1, 8)]


# -- the end -------------------------------------------------------------------------------------------------------


def test_the_end_of_the_stream_below() -> None:
    wire = connected()
    sinks = [opened(wire)[1] for _ in range(4)]
    upload = opened(wire, POST)[1]
    wire.feed(head(3) + data(3, b"abc") + head(5, status="100") + head(7, ended=True) + head(9, ended=True))
    wire.eof("the peer closed the connection")
    assert wire.is_over
    assert wire.open_streams == 0
    assert type(sinks[0].error) is ConnectionClosed
    assert type(sinks[1].error) is ReadError
    assert "after 3 bytes" in str(sinks[1].error)
    assert type(sinks[2].error) is ReadError, "an interim response is a part of the response"
    assert sinks[3].errors == []
    assert upload.calls[1:] == [("window",)]
    assert all(call[2] is False for sink in sinks for call in sink.calls if call[0] == "failed")
    calls = [len(sink.calls) for sink in sinks]
    wire.eof("again")
    assert [len(sink.calls) for sink in sinks] == calls
    with pytest.raises(Refused):
        opened(wire)


def test_the_end_after_goaway_names_it() -> None:
    wire = connected()
    _, sink = opened(wire)
    wire.feed(goaway(1, 2, b"out of memory"))
    wire.eof("the peer closed the connection")
    assert "INTERNAL_ERROR (2)" in str(sink.error)
    assert "out of memory" in str(sink.error)


def test_shutdown_says_so_once() -> None:
    wire = connected()
    stream, sink = opened(wire, POST)
    wire.take()
    wire.shutdown()
    wire.shutdown()
    assert wire.take() == goaway(0)
    assert wire.is_draining
    with pytest.raises(Refused):
        opened(wire)
    wire.feed(head(1, ended=True))
    wire.send(stream, b"x", True)
    assert sink.calls == [("head", 200, [], None, True)]


def test_the_numbers_of_streams_may_be_used_up() -> None:
    wire = connected()
    wire._next_id = 2**31 - 1
    assert not wire.is_draining
    stream, sink = opened(wire)
    assert stream.id == 2**31 - 1
    assert wire.is_draining
    with pytest.raises(Refused):
        opened(wire)
    wire.feed(head(stream.id, ended=True))
    assert sink.calls == [("head", 200, [], None, True)]


# -- PING ----------------------------------------------------------------------------------------------------------


def test_ping_is_answered() -> None:
    wire = connected()
    wire.feed(frame(PING, 0, 0, b"abcdefgh"))
    assert wire.take() == frame(PING, ACK, 0, b"abcdefgh")


def test_our_pings_are_counted_until_they_are_answered() -> None:
    wire = connected()
    wire.ping()
    wire.ping()
    wire.ping()
    assert wire.pings_unanswered == 3
    pings = written(wire)
    assert len({ping.opaque_data for ping in pings}) == 3
    wire.feed(frame(PING, ACK, 0, b"whatever"))
    assert wire.pings_unanswered == 3
    wire.feed(frame(PING, ACK, 0, pings[1].opaque_data))
    assert wire.pings_unanswered == 1
    wire.feed(frame(PING, ACK, 0, pings[2].opaque_data))
    assert wire.pings_unanswered == 0
    assert not wire.queued


def test_an_end_that_is_said_twice_is_charged_for_and_harms_nobody() -> None:
    """nginx does so with an empty file, if other streams let it wait."""
    wire = connected()
    _, sink = opened(wire)
    _, other = opened(wire)
    wire.feed(head(1, ended=True))
    wire._budget.left = before = 500
    wire.feed(data(1, b"", True))
    assert wire._budget.left < before
    wire.feed(head(3, ended=True))
    assert (len(sink.calls), len(other.calls)) == (1, 1)
    with pytest.raises(ProtocolError, match="after the end of stream 1"):
        wire.feed(data(1, b"x", True))


def test_an_end_of_a_stream_that_was_never_opened_is_an_error() -> None:
    for stream_id in (0, 2, 3):
        wire = connected()
        opened(wire)
        with pytest.raises(ProtocolError):
            wire.feed(data(stream_id, b"", True))
