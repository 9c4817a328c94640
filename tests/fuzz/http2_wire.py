"""The HTTP/2 wire: frames of any kind in any order, four requests open, and what their users do in between.

However the bytes are cut: the same calls, errors and answers; each stream ends once, and is told nothing afterwards;
only plugwire's errors leave; what waits to be written, or for its end, stays bounded.

An input: a row of records. A record is a frame (kind, flags, stream, length, payload) or something that we do.
"""

from __future__ import annotations

from typing import Any

from hyperframe.frame import Frame

from fuzz.examples import Choices
from http2_wire_kit import (
    ACK,
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEAD,
    HEADERS,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Recorder,
    blamed,
    block,
    frame,
    word,
)
from plugwire.config import Limits
from plugwire.errors import Error, Refused
from plugwire.headers import Headers
from plugwire_transports.http2.wire import Wire

LIMITS = Limits(max_head_bytes=400, max_headers=6, max_informational=2)
STREAMS = (1, 3, 5, 7, 0, 9, 2, 1)
REQUESTS = (GET, HEAD, POST, CONNECT)
RAW, ACTION = 11, 12
KINDS = 16

WORDS = (
    b"\x01\x04\x00\x01\x88", b"\x00\x01\x00\x03abc", b"\x04\x00\x04\x00", b"\x03\x00\x00\x04\x00\x00\x00\x08",
    b"\x88\x0f\x0d\x013",
    b"\x08\x00\x00\x04\x7f\xff\xff\xff", b"\x07\x00\x04\x08\x00\x00\x00\x01\x00\x00\x00\x00",
    b"\x06\x00\x04\x08abcdefgh",
)  # fmt: skip


class Strict(Recorder):
    """A sink that holds the wire to the order of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.state = "head"

    def on_head(self, head: Any, ended: bool) -> None:
        assert self.state == "head"
        assert 100 <= head.status <= 999
        if head.status >= 200:
            self.state = "ended" if ended else "body"
        else:
            assert not ended
        super().on_head(head, ended)

    def on_data(self, data: memoryview, ended: bool) -> None:
        assert self.state == "body"
        if ended:
            self.state = "ended"
        super().on_data(data, ended)

    def on_trailers(self, trailers: Headers) -> None:
        assert self.state == "body"
        self.state = "ended"
        super().on_trailers(trailers)

    def on_failed(self, error: Error, unprocessed: bool) -> None:
        assert self.state in ("head", "body")
        assert isinstance(error, Error)
        self.state = "failed"
        super().on_failed(error, unprocessed)


def record(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return bytes((kind, flags, STREAMS.index(stream), len(payload))) + payload


def seeds() -> list[bytes]:
    ok = block((":status", "200"), ("x", "y"))
    greeting = record(SETTINGS, 0, 0, b"")
    length = block((":status", "200"), ("content-length", "3"))
    rows = [
        [record(HEADERS, END_HEADERS, 1, ok), record(DATA, END_STREAM, 1, b"abc")],
        [record(HEADERS, END_HEADERS, 1, length), record(DATA, 0, 1, b"ab"), record(DATA, END_STREAM, 1, b"c")],
        [record(HEADERS, END_HEADERS, 1, block((":status", "103"))), record(HEADERS, END_HEADERS | END_STREAM, 3, ok)],
        [
            record(HEADERS, 0, 1, ok[:5]),
            record(CONTINUATION, END_HEADERS, 1, ok[5:]),
            record(DATA, PADDED, 1, b"\3abc..."),
        ],
        [record(HEADERS, END_HEADERS, 1, ok), record(HEADERS, END_HEADERS | END_STREAM, 1, block(("sum", "1")))],
        [record(RST_STREAM, 0, 1, word(7)), record(GOAWAY, 0, 0, word(3) + word(0) + b"bye")],
        [record(PING, 0, 0, bytes(8)), record(PING, ACK, 0, bytes(8)), record(SETTINGS, ACK, 0, b"")],
        [
            record(WINDOW_UPDATE, 0, 0, word(9)),
            record(WINDOW_UPDATE, 0, 5, word(2**31 - 1)),
            record(PRIORITY, 0, 1, bytes(5)),
        ],
        [
            record(SETTINGS, 0, 0, b"\0\4\0\0\0\5\0\3\0\0\0\2\0\1\0\0\0\0"),
            bytes((ACTION, 2, 2, 20)),
            bytes((ACTION, 1, 0, 9)),
        ],
        [
            record(HEADERS, END_HEADERS, 1, block((":status", "200"), ("X", "y"))),
            record(5, 0, 1, ok),
            record(10, 0, 0, b"x"),
        ],
        [
            record(DATA, 0, 7, b"x"),
            bytes((ACTION, 3, 0, 0)),
            record(DATA, 0, 1, b"late"),
            bytes((RAW, 0, 0, 4)) + b"\0\x50\0\0",
        ],
    ]
    found = [bytes((number % 8,)) + b"".join(row) for number, row in enumerate(rows)]
    found += [bytes((number % 8,)) + greeting + b"".join(row) for number, row in enumerate(rows)]
    found.append(bytes((3,)) + greeting + b"".join(b"".join(row) for row in rows))
    found.append(bytes((3, RAW, 0, 0, 30)) + b"HTTP/1.1 400 Bad Request\r\n\r\n..")
    return found


def check(data: bytes) -> None:
    choices = Choices(data)
    place = choices.number()
    steps = _steps(choices)
    whole = _verdict(steps, lambda octets: [octets])
    frames_of(whole[3])
    if place & 3:
        cut = _verdict(steps, lambda octets: [octets[: place % (len(octets) + 1)], octets[place % (len(octets) + 1) :]])
    else:
        cut = _verdict(steps, lambda octets: [octets[i : i + 1] for i in range(len(octets))])
    assert cut == whole


def _steps(choices: Choices) -> list[bytes | tuple[int, int, int]]:
    """What comes, in pieces, and what we do in between."""
    steps: list[bytes | tuple[int, int, int]] = []
    octets = b""
    while choices:
        kind, flags, stream, size = (choices.number() for _ in range(4))
        kind %= KINDS
        if kind >= ACTION:
            steps += [octets, (flags % 7, stream % 4, size)]
            octets = b""
        elif kind == RAW:
            octets += choices.take(size)
        else:
            octets += frame(kind, flags, STREAMS[stream % 8], choices.take(size))
    return [*steps, octets]


def _verdict(steps: list[Any], cut: Any) -> tuple[Any, ...]:
    wire = Wire(LIMITS, stream_window=200)
    assert wire.queued
    streams: list[Any] = []
    sinks: list[Strict] = []
    for request in REQUESTS:
        sink = Strict()
        streams.append(wire.open(sink, request, request.method in ("GET", "HEAD")))
        sinks.append(sink)
    end = ""
    for step in steps:
        if isinstance(step, tuple):
            _act(wire, streams, sinks, *step)
        else:
            try:
                for piece in cut(step):
                    wire.feed(piece)
            except Error as error:
                end = f"{blamed(error)} {error}"
                assert wire.is_over
        # The largest frame, and what HPACK may need beyond the limit, are all that is ever held.
        assert len(wire._block) <= 2 * LIMITS.max_head_bytes + 2 * 16384
        assert sum(map(len, wire._held)) <= 16384 + 9
    if not end:
        wire.eof("closed")
    assert wire.is_over
    for sink in sinks:
        assert sink.state in ("ended", "failed") or sink.calls[-1:] == [("reset",)]
    texts = [str(error) for sink in sinks for error in sink.errors]
    return end, [sink.calls for sink in sinks], texts, wire.take(), wire.goaway


def frames_of(octets: bytes) -> None:
    """What we write is frames, each of a stream that was opened, or of the connection."""
    assert octets.startswith(PREFACE)
    octets = octets[len(PREFACE) :]
    while octets:
        one, length = Frame.parse_frame_header(memoryview(octets[:9]))
        one.parse_body(memoryview(octets[9 : 9 + length]))
        assert length <= 16384
        octets = octets[9 + length :]


def _act(wire: Wire, streams: list[Any], sinks: list[Any], what: int, which: int, size: int) -> None:
    """What the users of streams do, and the connection."""
    stream, sink = streams[which], sinks[which]
    if wire.is_over:
        return
    if what == 0:
        wire.consumed(stream, min(size, stream.received))
    elif what == 1:
        wire.reset(stream, 8)
        if sink.state in ("head", "body"):
            sink.calls.append(("reset",))
            sink.state = "reset"
    elif what == 2:
        if not stream.is_sent:
            count = min(size, max(wire.room(stream), 0))
            wire.send(stream, bytes(count), count < size)
    elif what == 3:
        if not stream.is_sent:
            wire.send_trailers(stream, Headers({"sum": "1"}))
    elif what == 4:
        wire.ping()
    elif what == 5:
        wire.shutdown()
    elif len(streams) < 12:
        try:
            added, recorder = Strict(), GET
            streams.append(wire.open(added, recorder, True))
            sinks.append(added)
        except Refused:
            pass
