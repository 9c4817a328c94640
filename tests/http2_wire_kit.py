"""For tests of the HTTP/2 wire: a sink that writes down what it is told, and the peer's frames, made by hand."""

from __future__ import annotations

import struct
from typing import Any

import hpack
from hyperframe.frame import Frame

from plugwire.config import Limits
from plugwire.errors import Error, LimitExceeded
from plugwire.headers import Headers
from plugwire_transports.http2.hpack import Indexing
from plugwire_transports.http2.wire import Head, RequestHead, Wire, WireStream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
WITH_PRIORITY = 32

FIELDS = (("user-agent", "test", Indexing.ADD), ("x-key", "secret", Indexing.NEVER))
GET = RequestHead("GET", "https", "host.example", "/path?q", FIELDS)
HEAD = GET._replace(method="HEAD")
POST = GET._replace(method="POST")
CONNECT = RequestHead("CONNECT", None, "host.example:443", None, ())


class Recorder:
    """A sink that writes down what it is told. Errors are kept as they are in `errors`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.errors: list[Error] = []

    def on_head(self, head: Head, ended: bool) -> None:
        self.calls.append(("head", head.status, list(head.headers.items()), head.length, ended))

    def on_data(self, data: memoryview, ended: bool) -> None:
        assert isinstance(data, memoryview)
        assert data or ended
        self.calls.append(("data", bytes(data), ended))

    def on_trailers(self, trailers: Headers) -> None:
        self.calls.append(("trailers", list(trailers.items())))

    def on_window(self) -> None:
        self.calls.append(("window",))

    def on_failed(self, error: Error, unprocessed: bool) -> None:
        self.errors.append(error)
        self.calls.append(("failed", blamed(error), unprocessed))

    @property
    def error(self) -> Error:
        (error,) = self.errors
        return error

    def joined(self) -> list[tuple[Any, ...]]:
        """The calls, with content joined: how it was cut into frames does not matter."""
        result: list[tuple[Any, ...]] = []
        for call in self.calls:
            if call[0] == "data" and result and result[-1][0] == "data":
                call = ("data", result.pop()[1] + call[1], call[2])
            result.append(call)
        return result


def blamed(error: Error) -> str:
    return f"LimitExceeded {error.limit}" if isinstance(error, LimitExceeded) else type(error).__name__


# -- frames --------------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">L", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">L", stream_id) + payload


def word(number: int) -> bytes:
    return struct.pack(">L", number)


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", code, value) for code, value in pairs))


def data(stream_id: int, content: bytes, ended: bool = False) -> bytes:
    return frame(DATA, END_STREAM if ended else 0, stream_id, content)


def padded(kind: int, flags: int, stream_id: int, payload: bytes, padding: int) -> bytes:
    return frame(kind, flags | PADDED, stream_id, bytes((padding,)) + payload + bytes(padding))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, word(increment))


def reset(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, word(code))


def goaway(last: int, code: int = 0, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, word(last) + word(code) + debug)


def block(*fields: tuple[str, str]) -> bytes:
    """Fields as HPACK that touches no table."""
    parts: list[bytes] = []
    for name, value in fields:
        parts.append(b"\0")
        for text in (name.encode("latin-1"), value.encode("latin-1")):
            length = bytearray()
            size = len(text)
            if size < 127:
                length.append(size)
            else:
                length.append(127)
                size -= 127
                while size >= 128:
                    length.append(size & 127 | 128)
                    size >>= 7
                length.append(size)
            parts += (bytes(length), text)
    return b"".join(parts)


def head(stream_id: int, *fields: tuple[str, str], status: str = "200", ended: bool = False) -> bytes:
    """HEADERS with a response's head."""
    flags = END_HEADERS | (END_STREAM if ended else 0)
    return frame(HEADERS, flags, stream_id, block((":status", status), *fields))


def trailers(stream_id: int, *fields: tuple[str, str], ended: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream_id, block(*fields))


# -- wires ---------------------------------------------------------------------------------------------------------


def connected(*pairs: tuple[int, int], limits: Limits | None = None, **options: Any) -> Wire:
    """A wire that has the peer's settings, and nothing more to be written."""
    wire = Wire(limits or Limits(), **options)
    wire.feed(settings(*pairs))
    wire.take()
    return wire


def opened(wire: Wire, request: RequestHead = GET, ended: bool | None = None) -> tuple[WireStream, Recorder]:
    sink = Recorder()
    return wire.open(sink, request, request.method in ("GET", "HEAD") if ended is None else ended), sink


def written(wire: Wire) -> list[Frame]:
    """What the wire wants written."""
    output = wire.take()
    frames: list[Frame] = []
    if output.startswith(PREFACE):
        output = output[len(PREFACE) :]
    while output:
        one, length = Frame.parse_frame_header(memoryview(output[:9]))
        one.parse_body(memoryview(output[9 : 9 + length]))
        frames.append(one)
        output = output[9 + length :]
    return frames


def summary(wire: Wire) -> list[tuple[Any, ...]]:
    """The same in short: (type, stream id) and what counts."""
    result: list[tuple[Any, ...]] = []
    for one in written(wire):
        name = type(one).__name__.removesuffix("Frame")
        values = [
            getattr(one, key) for key in ("error_code", "window_increment", "opaque_data", "data") if hasattr(one, key)
        ]
        result.append((name, one.stream_id, *values))
    return result


def decoded(decoder: hpack.Decoder, block: bytes) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in decoder.decode(block)]
