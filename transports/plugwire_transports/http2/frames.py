"""HTTP/2 frames as bytes: their types, flags and error codes, and what we write (RFC 9113, 4.1, 6 and 7)."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final

from plugwire.errors import ProtocolError

if TYPE_CHECKING:
    from plugwire.errors import Error

HEADER_SIZE: Final = 9
MAX_FRAME_SIZE: Final = 2**14
"""The longest frame that we take. We never announce more: a longer frame gains nothing, and holds up other streams."""

MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65535
"""What every window holds before anybody has said anything (RFC 9113, 6.9.2)."""

MAX_STREAM_ID: Final = 2**31 - 1


class Kind(IntEnum):
    """Frame types (RFC 9113, 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


# Flags, as plain numbers: they are asked for with every frame.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20


class Code(IntEnum):
    """Error codes (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def code_name(code: int) -> str:
    """An error code for a message. Unknown ones are allowed, and mean nothing (RFC 9113, 7)."""
    try:
        return f"{Code(code).name} ({code})"
    except ValueError:
        return f"unknown code {code}"


def kind_name(kind: int) -> str:
    try:
        return Kind(kind).name
    except ValueError:
        return f"type {kind:#x}"


class ConnectionBroken(Exception):
    """A connection error (RFC 9113, 5.4.1): GOAWAY with `code` goes out, and every stream ends with `error`."""

    def __init__(self, code: Code, error: Error | str) -> None:
        super().__init__(code)
        self.code = code
        self.error: Error = ProtocolError(error) if isinstance(error, str) else error


_HEADER: Final = Struct(">HBBBL")
_HEADER_AND_WORD: Final = Struct(">HBBBLL")
_GOAWAY: Final = Struct(">HBBBLLL")

read_header: Final = Struct(">BHBBL").unpack_from
"""Of a frame: bits 16 to 23 and bits 0 to 15 of its length, type, flags, stream id (its highest bit reserved)."""

read_word: Final = Struct(">L").unpack_from
read_words: Final = Struct(">LL").unpack_from
read_setting: Final = Struct(">HL").unpack_from
SETTING_SIZE: Final = 6


def pack_header(size: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes in front of a frame's payload."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id)


def pack_reset(stream_id: int, code: int) -> bytes:
    return _HEADER_AND_WORD.pack(0, 4, Kind.RST_STREAM, 0, stream_id, code)


def pack_window_update(stream_id: int, increment: int) -> bytes:
    return _HEADER_AND_WORD.pack(0, 4, Kind.WINDOW_UPDATE, 0, stream_id, increment)


def pack_goaway(code: int) -> bytes:
    """GOAWAY of a client: it takes no streams from the peer, so the last one it has handled is 0 (RFC 9113, 6.8)."""
    return _GOAWAY.pack(0, 8, Kind.GOAWAY, 0, 0, 0, code)


def pack_headers(stream_id: int, block: bytes, ended: bool, max_size: int) -> list[bytes]:
    """A header block as HEADERS and, where it is longer than the peer takes in one frame, CONTINUATION."""
    flags = END_STREAM if ended else 0
    size = len(block)
    if size <= max_size:
        return [pack_header(size, Kind.HEADERS, flags | END_HEADERS, stream_id), block]
    parts = [pack_header(max_size, Kind.HEADERS, flags, stream_id), block[:max_size]]
    for place in range(max_size, size, max_size):
        part = block[place : place + max_size]
        last = END_HEADERS if place + max_size >= size else 0
        parts += (pack_header(len(part), Kind.CONTINUATION, last, stream_id), part)
    return parts
