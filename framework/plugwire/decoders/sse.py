"""Server-sent events (HTML, 9.2: "text/event-stream").

A stream is lines, which end in LF, CRLF or CR, in blocks, which end in an empty line. A line is a comment (it begins
with a colon) or a field. A block with data is an event; one without changes the identifier or the reconnection time
only. A block that is cut off by the end of the stream is no event: whoever reconnects gets it again.

Nothing that a peer sends is malformed here: what is not known is ignored, and what is not UTF-8 becomes U+FFFD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from plugwire.decoders.items import MAX_ITEM, ItemDecoder, checked_limit
from plugwire.errors import LimitExceeded

UTF8_MARK: Final = b"\xef\xbb\xbf"
MAX_RETRY: Final = 10**12
"""Milliseconds; a peer may write a number of any length."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event.

    Attributes:
        event: its type.
        data: its lines of data, joined by LF.
        id: the last identifier that the stream has given, with this event or before it; "" if none is in force.
        retry: the reconnection time in milliseconds, if this block has set it.
    """

    event: str = "message"
    data: str = ""
    id: str = ""
    retry: int | None = None


class ServerSentEvents(ItemDecoder[ServerSentEvent]):
    """The events of a stream.

        for event in response.iter_decoded(ServerSentEvents()): ...

    Args:
        max_event_bytes: bytes of one event at most, and of one line.

    Attributes:
        last_event_id: the identifier in force: what a client that reconnects says in Last-Event-ID; None before the
            stream has given one.
        retry: the reconnection time in force, in milliseconds; None if the stream has not set it.

    Raises:
        LimitExceeded: an event is too large.
    """

    def __init__(self, *, max_event_bytes: int = MAX_ITEM) -> None:
        super().__init__()
        self._max_event_bytes = checked_limit("max_event_bytes", max_event_bytes)
        self.last_event_id: str | None = None
        self.retry: int | None = None
        self._open: list[bytes] = []
        self._open_size = 0
        self._ended_in_cr = False
        self._is_begin = True
        self._type = ""
        self._data: list[str] = []
        self._data_size = 0
        self._id: str | None = None
        self._retry: int | None = None

    def _take(self, data: bytes, items: list[ServerSentEvent]) -> None:
        if self._ended_in_cr and data:
            self._ended_in_cr = False
            if data.startswith(b"\n"):  # the second half of a CRLF
                data = data[1:]
        if not data:
            return
        self._ended_in_cr = data.endswith(b"\r")
        *whole, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in whole:
            self._keep(part)
            line = b"".join(self._open)
            self._open.clear()
            self._open_size = 0
            if self._is_begin:
                self._is_begin = False
                line = line.removeprefix(UTF8_MARK)
            if line:
                self._field(line)
            else:
                self._dispatch(items)
        self._keep(rest)

    def _finish(self, items: list[ServerSentEvent]) -> None:
        self._open.clear()
        self._data.clear()

    def _keep(self, part: bytes) -> None:
        self._open_size += len(part)
        if self._open_size + self._data_size > self._max_event_bytes:
            raise LimitExceeded(f"an event is larger than max_event_bytes={self._max_event_bytes}", "max_event_bytes")
        if part:
            self._open.append(part)

    def _field(self, line: bytes) -> None:
        name, _, rest = line.partition(b":")
        value = rest.removeprefix(b" ").decode("utf-8", "replace")
        match name:
            case b"data":
                self._data.append(value)
                self._data_size += len(line)
            case b"event":
                self._type = value
            case b"id" if "\0" not in value:
                self._id = value
            case b"retry" if value.isascii() and value.isdigit():
                self.retry = self._retry = int(value) if len(value) <= 12 else MAX_RETRY
            case _:  # a comment, or a field of another day
                pass

    def _dispatch(self, items: list[ServerSentEvent]) -> None:
        if self._id is not None:
            self.last_event_id = self._id
        if self._data:
            text = "\n".join(self._data)
            items.append(ServerSentEvent(self._type or "message", text, self.last_event_id or "", self._retry))
        self._type, self._id, self._retry = "", None, None
        self._data.clear()
        self._data_size = 0
