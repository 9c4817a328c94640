"""HTTP/2 on the wire, without I/O: bytes in, calls on sinks out (RFC 9113). No socket, no clock, no lock, no await.

How it works

A connection is a row of frames, of which those of many streams take turns. `Wire.feed` cuts them apart and handles each
at once: it changes the state of the stream and tells the stream's `Sink`, whoever's turn it is to read. What is to be
written is collected, and taken by `take`.

    open ----> WireStream ----> send, send_trailers, reset, consumed
                   |
    feed ----> on_head* -> on_data* -> on_trailers?         one of the last calls has the end in it,
                   `-> on_failed at any time before                or this is the end

The work stands on three floors, each a file and a class over the one below: `streams` has the table, the ends and the
windows, `receiver` what comes in, and this one what goes out.

Each stream has two sides. The peer's runs through `Side` (HEAD, BODY, ENDED), ours is open or not; when both have
ended, or either side resets it, the stream is over and leaves the table. The connection's own frames (SETTINGS, PING)
are h2's to handle (`control`), what a header block says is judged in `checks`, what a peer may do for free has its
price in `floods`.

Rules that hold

1. **A connection error is for all, a stream error is for one.** What puts the two ends out of step (framing, HPACK,
   the connection's window) ends all streams: GOAWAY is queued and `feed` raises. A malformed response, a length that
   is wrong, a stream's window: RST_STREAM is queued, this sink is told, the others notice nothing.
2. **State first, then the sink.** A sink may call back (`reset`, `consumed`, `send`, `shutdown`), so nothing is left to
   be done to a stream after its sink was told.
3. **A stream that we have reset goes on for the peer**, until it hears of it. Its frames are decoded and counted
   against the windows that it had, and not charged to the flood budget. Other streams that have ended stay silent.
4. **Windows.** The connection's is opened wide and topped up on receipt: it holds up nobody. The stream's is the
   back-pressure and the bound on memory, and goes back as the caller reads. What we may send is the smaller of two
   windows that the peer gives, of which a stream's may be negative after a change of SETTINGS.
5. **The calls do not depend on how the bytes were cut.**
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugwire.errors import ConnectionClosed, ReadError, Refused
from plugwire_transports.http2.checks import Head
from plugwire_transports.http2.floods import SENT_GAIN
from plugwire_transports.http2.frames import (
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_STREAM_ID,
    MAX_WINDOW,
    Code,
    pack_goaway,
    pack_header,
    pack_headers,
    pack_window_update,
)
from plugwire_transports.http2.heads import HeadEncoder, HeadLimits, RequestHead
from plugwire_transports.http2.hpack import Encoder
from plugwire_transports.http2.receiver import Receiver
from plugwire_transports.http2.stream import HEAD, OVER, GoAway, Sink, WireStream
from plugwire_transports.http2.streams import STREAM_WINDOW

if TYPE_CHECKING:
    from plugwire.errors import Error
    from plugwire.headers import Headers
    from plugwire.protocols import Buffer

__all__ = ["Code", "GoAway", "Head", "RequestHead", "Sink", "Wire", "WireStream"]


class Wire(Receiver):
    """One connection, from the client's side.

    Args:
        limits: of heads and trailers.
        stream_window: what a peer may send on one stream before any of it was read, in bytes.

    The preface, our SETTINGS and the opening of the connection's window are queued at once.

    Attributes:
        max_streams: how many streams the peer takes at once.
        has_settings: the peer's SETTINGS have come.
        is_over: a connection error, or the end of the stream below. Nothing comes and nothing goes any more.
        goaway: what the peer said on leaving, None if it has not.
    """

    __slots__ = ("_encoder", "_was_shut")

    def __init__(self, limits: HeadLimits, *, stream_window: int = STREAM_WINDOW) -> None:
        encoder = Encoder()
        super().__init__(limits, stream_window, encoder)
        self._encoder = HeadEncoder(encoder)
        self._was_shut = False
        self._out += (self._control.take(), pack_window_update(0, MAX_WINDOW - DEFAULT_WINDOW))

    # -- the connection ----------------------------------------------------------------------------------------

    @property
    def is_draining(self) -> bool:
        """No new streams: the peer leaves, we do, or the numbers are used up."""
        return self.goaway is not None or self._was_shut or self._next_id > MAX_STREAM_ID

    @property
    def queued(self) -> bool:
        """There is something to `take`."""
        return bool(self._out)

    def take(self) -> bytes:
        """All that is to be written; b"" if nothing is. Take it only when what was taken before has left, so that the
        wire sees how much a peer that does not read makes us answer."""
        out = self._out
        if not out:
            return b""
        taken = b"".join(out)
        out.clear()
        self._replies = 0
        return taken

    def ping(self) -> None:
        """Queue a PING, to see whether the peer is there."""
        self._control.ping()
        self._out.append(self._control.take())

    @property
    def pings_unanswered(self) -> int:
        """PINGs of ours that the peer has not answered."""
        return self._control.pings_unanswered

    def rested(self, seconds: float) -> None:
        """Nothing came for so long: that much of the flood budget is given back. (The wire has no clock.)"""
        self._budget.earn(int(seconds))

    def shutdown(self) -> None:
        """Queue GOAWAY(NO_ERROR), once: we leave. Open streams go on, new ones are refused."""
        if not self._was_shut and not self.is_over:
            self._was_shut = True
            self._out.append(pack_goaway(Code.NO_ERROR))

    # -- streams, from our side --------------------------------------------------------------------------------

    def open(self, sink: Sink, head: RequestHead, ended: bool) -> WireStream:
        """Queue a request's head.

        Args:
            ended: the request has neither content nor trailers.

        Raises:
            Refused: the connection takes no further stream now; nothing was queued.
        """
        if self.is_over or self.is_draining:
            raise Refused("the HTTP/2 connection takes no new streams")
        streams = self._streams
        if len(streams) >= self.max_streams:
            raise Refused(f"the HTTP/2 connection has {self.max_streams} streams open, as many as the peer takes")
        stream_id = self._next_id
        try:
            block = self._encoder.request(head)
            size = len(block)
            if size <= self._max_frame:
                flags = END_HEADERS | END_STREAM if ended else END_HEADERS
                self._out.append(pack_header(size, 1, flags, stream_id) + block)
            else:
                self._out += pack_headers(stream_id, block, ended, self._max_frame)
            self._next_id = stream_id + 2
            stream = streams[stream_id] = WireStream(
                stream_id, sink, head.method, ended, self._initial_send, self._stream_window
            )
        except Exception:
            raise  # the encoder refuses the fields, and has put itself right; nothing was queued
        except BaseException:
            self._interrupted()
            raise
        return stream

    def send(self, stream: WireStream, data: Buffer, ended: bool) -> None:
        """Queue content. Nothing happens if the stream is over.

        Args:
            data: at most `room` bytes. Copied unless it is bytes, or a view of bytes.
            ended: nothing follows, no trailers either.

        Raises:
            ValueError: more than `room` lets out, or the request has ended already.
        """
        if stream.side is OVER:
            return
        if stream.is_sent:
            raise ValueError(f"stream {stream.id}: content after the end of the request")
        if type(data) is not bytes:
            view = memoryview(data)
            data = view.cast("B") if type(view.obj) is bytes and view.c_contiguous else view.tobytes()
        size = len(data)
        if not size:
            if not ended:
                return
        elif size > stream.send_left or size > self._send_left:
            raise ValueError(f"stream {stream.id}: {size} bytes, where the windows let out {self.room(stream)}")
        stream.send_left -= size
        self._send_left -= size
        self._budget.earn(SENT_GAIN)
        most = self._max_frame
        if size <= most:
            self._out += (pack_header(size, 0, END_STREAM if ended else 0, stream.id), data)
        else:
            view = memoryview(data)
            for place in range(0, size, most):
                part = view[place : place + most]
                flags = END_STREAM if ended and place + most >= size else 0
                self._out += (pack_header(len(part), 0, flags, stream.id), part)
        if ended:
            self._sent(stream)

    def send_trailers(self, stream: WireStream, trailers: Headers) -> None:
        """Queue the request's trailers, and with them its end. Nothing happens if the stream is over.

        Raises:
            InvalidHeader: a field that must not be a trailer (RFC 9110, 6.5.1).
            ValueError: the request has ended already.
        """
        if stream.side is OVER:
            return
        if stream.is_sent:
            raise ValueError(f"stream {stream.id}: trailers after the end of the request")
        if not trailers:
            self.send(stream, b"", True)
            return
        try:
            self._out += pack_headers(stream.id, self._encoder.trailers(trailers), True, self._max_frame)
        except Exception:
            raise
        except BaseException:
            self._interrupted()
            raise
        self._sent(stream)

    def eof(self, reason: str) -> None:
        """The stream below has ended, or broke. Every sink is told: `ConnectionClosed` if nothing of its response had
        come, else `ReadError`.

        Args:
            reason: in words, for the errors' texts.
        """
        if self.is_over:
            return
        if self.goaway is not None:
            reason = f"{reason}; it had sent {self.goaway}"
        elif self._held and not self.has_settings and b"HTTP/1.1 ".startswith(b"".join(self._held)):
            reason = f"{reason}; it speaks HTTP/1.1 and not HTTP/2"

        def error_for(stream: WireStream) -> Error:
            if stream.side is HEAD and not stream.informational:
                return ConnectionClosed(f"{reason}, before the response began")
            return ReadError(f"{reason}, inside the response, after {stream.received} bytes of content")

        self._end_all(error_for)
