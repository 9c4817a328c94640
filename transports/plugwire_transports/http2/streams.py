"""The streams of one HTTP/2 connection: the table of those that are open, how they end, and the windows.

Rules that hold

1. A stream is in the table as long as it counts against the peer's limit: until both sides have ended it, or one has
   reset it.
2. A stream that we have reset goes on for the peer until it hears of it. What the peer may still say on it is kept
   (`Late`): its window, and how many header blocks are to be expected.
3. What we may send is the smaller of two windows that the peer gives. A stream's may be negative, after a change of
   SETTINGS. Who has found no room is told when there is some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plugwire_transports.http2.frames import (
    DEFAULT_WINDOW,
    MAX_WINDOW,
    Code,
    ConnectionBroken,
    pack_reset,
    pack_window_update,
)
from plugwire_transports.http2.stream import BODY, ENDED, OVER, Late, WireStream

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from plugwire.errors import Error, PeerError
    from plugwire.protocols import Buffer
    from plugwire_transports.http2.heads import HeadLimits

STREAM_WINDOW: Final = 2**20
"""What a peer may send on one stream before any of it was read: the bound on its memory, in bytes."""

STREAMS_BEFORE_SETTINGS: Final = 100
"""Streams to have open while the peer has not said how many it takes: RFC 9113, 6.5.2 advises no peer to take fewer."""

MAX_REMEMBERED: Final = 1000
"""Streams that we reset and the peer may not have heard of. Of older ones it is not known any more whether they were
reset or ended, so their frames are charged for and dropped."""


class Streams:
    """The lower floor of `Wire`: what both directions share."""

    __slots__ = (
        "__weakref__",
        "_initial_send",
        "_late",
        "_late_floor",
        "_limits",
        "_next_id",
        "_out",
        "_send_left",
        "_stream_window",
        "_streams",
        "is_over",
        "max_streams",
    )

    def __init__(self, limits: HeadLimits, stream_window: int) -> None:
        self._limits = limits
        self._stream_window = stream_window
        self._streams: dict[int, WireStream] = {}
        self._late: dict[int, Late] = {}
        self._late_floor = 0  # the newest stream that was forgotten
        self._next_id = 1
        self._send_left = DEFAULT_WINDOW
        self._initial_send = DEFAULT_WINDOW
        self._out: list[Buffer] = []
        self.max_streams: int = STREAMS_BEFORE_SETTINGS
        self.is_over: bool = False

    @property
    def open_streams(self) -> int:
        """Streams that count against `max_streams`."""
        return len(self._streams)

    # -- windows, ours to send -----------------------------------------------------------------------------------

    def room(self, stream: WireStream) -> int:
        """Bytes of DATA that both windows let out now. 0 too if the stream is over or we have ended it."""
        if stream.side is OVER or stream.is_sent:
            return 0
        room = stream.send_left
        if room > self._send_left:
            room = self._send_left
        return room if room > 0 else 0

    def _apply_window(self, size: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE moves the window of every stream, also below 0 (RFC 9113, 6.9.2)."""
        change = size - self._initial_send
        if not change:
            return
        self._initial_send = size
        for stream in self._streams.values():
            stream.send_left += change
            if stream.send_left > MAX_WINDOW:
                text = f"SETTINGS widen the window of stream {stream.id} beyond 2^31-1 (RFC 9113, 6.9.2)"
                raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, text)

    def _widen(self, increment: int) -> None:
        """WINDOW_UPDATE for the connection."""
        if not increment:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 for the connection (RFC 9113, 6.9)")
        before = self._send_left
        self._send_left = before + increment
        if self._send_left > MAX_WINDOW:
            text = "WINDOW_UPDATE of the connection beyond 2^31-1 (RFC 9113, 6.9.1)"
            raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, text)
        if not before:
            self._tell_room(())

    def _tell_room(self, could_send: Container[WireStream]) -> None:
        """Tell those that have got room, except those that had it."""
        for stream in list(self._streams.values()):
            if self.room(stream) and stream not in could_send:
                stream.sink.on_window()

    # -- windows, the peer's ----------------------------------------------------------------------------------

    def consumed(self, stream: WireStream, size: int) -> None:
        """So much of the content has been read: it is given back to the peer, in steps of half a window. Nothing
        happens once the peer has ended."""
        if stream.side is not BODY:
            return
        stream.unreturned += size
        if stream.unreturned * 2 >= self._stream_window:
            self._give_back(stream)

    def _give_back(self, stream: WireStream) -> None:
        left = stream.receive_left
        if stream.expected is not None and stream.expected - stream.received < left:
            return  # the rest fits. Not if it fits exactly: with no window left Node does not see that it is at the end
        self._out.append(pack_window_update(stream.id, stream.unreturned))
        stream.receive_left = left + stream.unreturned
        stream.unreturned = 0

    # -- how streams end ---------------------------------------------------------------------------------------

    def reset(self, stream: WireStream, code: int) -> None:
        """Queue RST_STREAM and forget the stream; its sink hears nothing more. Nothing happens if it is over."""
        if stream.side is not OVER:
            self._abandon(stream, code)

    def _sent(self, stream: WireStream) -> None:
        """We have ended the stream."""
        stream.is_sent = True
        if stream.side is ENDED:
            stream.side = OVER
            del self._streams[stream.id]

    def _received_end(self, stream: WireStream) -> None:
        """The peer has ended the stream."""
        if stream.is_sent:
            stream.side = OVER
            del self._streams[stream.id]
        else:
            stream.side = ENDED

    def _end_all(self, error_for: Callable[[WireStream], Error]) -> None:
        self.is_over = True
        self.max_streams = 0
        ends = [(stream, None if stream.side is ENDED else error_for(stream)) for stream in self._streams.values()]
        self._streams.clear()
        for stream, _ in ends:
            stream.side = OVER
        for stream, error in ends:
            if error is None:
                stream.sink.on_window()
            else:
                stream.sink.on_failed(error, False)

    def _fail(self, stream: WireStream, code: Code, error: PeerError, ended: int = 0) -> None:
        """A stream error (5.4.2). `ended`: in a frame with END_STREAM."""
        side = stream.side
        self._abandon(stream, code)
        if ended:
            self._late.pop(stream.id, None)
        if side is ENDED:
            stream.sink.on_window()
        else:
            stream.sink.on_failed(error, False)

    def _abandon(self, stream: WireStream, code: int) -> None:
        self._out.append(pack_reset(stream.id, code))
        self._forget(stream)

    def _forget(self, stream: WireStream) -> None:
        """The stream is over for us; for the peer it may go on for a while."""
        side = stream.side
        stream.side = OVER
        del self._streams[stream.id]
        if side is ENDED:
            return  # it cannot say anything more
        late = self._late
        if len(late) >= MAX_REMEMBERED:
            oldest = next(iter(late))
            del late[oldest]
            self._late_floor = max(self._late_floor, oldest)
        late[stream.id] = Late(stream.receive_left, self._limits.max_informational + 2)

    def _check_forgotten(self, stream_id: int, what: str) -> None:
        """Only streams that we have reset may still have frames coming, and of those only the newest are known."""
        if not stream_id or not stream_id & 1 or stream_id >= self._next_id:
            raise idle(what, stream_id)
        if stream_id > self._late_floor:
            raise ConnectionBroken(Code.STREAM_CLOSED, f"{what} after the end of stream {stream_id} (RFC 9113, 5.1)")


def idle(what: str, stream_id: int) -> ConnectionBroken:
    """A frame of a stream that is the peer's to open, which it may not, or that we have not opened."""
    return ConnectionBroken(
        Code.PROTOCOL_ERROR, f"{what} of stream {stream_id}, which we have not opened (RFC 9113, 5.1)"
    )
