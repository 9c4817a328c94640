"""What comes in on an HTTP/2 connection: bytes are cut into frames, each handled at once (RFC 9113, 4 to 6).

The handlers stand in the order of section 6. What of a frame concerns its stream ends in one call on the stream's sink,
as the last thing that is done: a sink may call the wire back.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Final

from plugwire.errors import (
    ConnectionClosed,
    IncompleteBody,
    LimitExceeded,
    PeerError,
    ProtocolError,
    ReadError,
    StreamReset,
)
from plugwire_transports.http2.control import Control, split
from plugwire_transports.http2.floods import (
    COST,
    DATA_GAIN,
    HEAD_GAIN,
    HIGH_COST,
    MAX_REPLIES,
    SMALL_WINDOW_UPDATE,
    Budget,
    flooded,
)
from plugwire_transports.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADER_SIZE,
    MAX_FRAME_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PRIORITY,
    SETTING_SIZE,
    Code,
    ConnectionBroken,
    code_name,
    kind_name,
    pack_goaway,
    pack_window_update,
    read_header,
    read_word,
    read_words,
)
from plugwire_transports.http2.heads import HeadDecoder, HeadLimits
from plugwire_transports.http2.hpack import Decoder, Encoder
from plugwire_transports.http2.stream import BODY, ENDED, HEAD, OVER, GoAway, WireStream
from plugwire_transports.http2.streams import Streams, idle

if TYPE_CHECKING:
    from plugwire.headers import Headers
    from plugwire.protocols import Buffer
    from plugwire_transports.http2.checks import Head

TOP_UP: Final = 2**30
"""After so many bytes the connection's window is opened to its full width again."""

VIEW_RATIO: Final = 8
"""Content that is less than this part of the read it came in is copied: a view would keep the whole read alive, and a
peer could have us keep 64 KiB for every byte that it sends."""


class Receiver(Streams):
    """The middle floor of `Wire`: what comes in."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_stream",
        "_budget",
        "_control",
        "_decoder",
        "_held",
        "_max_frame",
        "_missing",
        "_received",
        "_replies",
        "goaway",
        "has_settings",
    )

    def __init__(self, limits: HeadLimits, stream_window: int, encoder: Encoder) -> None:
        super().__init__(limits, stream_window)
        decoder = Decoder()
        self._decoder = HeadDecoder(decoder, limits)
        self._control = Control(encoder, decoder, stream_window, limits.max_head_bytes)
        self._budget = Budget()
        self._max_frame = MAX_FRAME_SIZE
        self._received = 0  # since the connection's window was topped up
        self._held: list[Buffer] = []  # the beginning of a frame, as it came
        self._missing = 0  # how much more of it to wait for: the rest of its header, then of its payload
        self._block_stream = 0  # whose header block is being collected; 0: none
        self._block_flags = 0
        self._block = bytearray()
        self._replies = 0
        self.has_settings: bool = False
        self.goaway: GoAway | None = None

    # -- what comes in -----------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Handle what came. Ignored when the connection is over.

        Raises:
            ProtocolError, LimitExceeded: a connection error. Every sink was told, and GOAWAY is queued.
        """
        if self.is_over:
            return
        place = 0
        try:
            while self._held:
                missing = self._missing
                if len(data) - place < missing:
                    self._held.append(data[place:])
                    self._missing = missing - len(data) + place
                    return
                self._held.append(memoryview(data)[place : place + missing])
                frame = b"".join(self._held)
                self._held.clear()
                place += missing
                self._cut(frame, 0)
            self._cut(data, place)
        except ConnectionBroken as broken:
            self._break(broken)
            raise broken.error from None
        except BaseException:
            self._interrupted()
            raise

    def _cut(self, data: bytes, place: int) -> None:
        """Handle the frames from `place` on, and hold what remains."""
        size = len(data)
        streams = self._streams
        handlers = self._handlers
        view: memoryview | None = None
        end = place
        while size - place >= HEADER_SIZE:
            high, low, kind, flags, stream_id = read_header(data, place)
            length = high << 16 | low
            if not self.has_settings and (kind != 4 or flags & ACK or length > MAX_FRAME_SIZE):
                raise ConnectionBroken(Code.PROTOCOL_ERROR, _not_a_preface(data[place:]))
            if length > MAX_FRAME_SIZE:
                text = f"a {kind_name(kind)} frame of {length} bytes; we take {MAX_FRAME_SIZE} (RFC 9113, 4.2)"
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, text)
            start = place + HEADER_SIZE
            end = start + length
            if end > size:
                break
            stream_id &= MAX_STREAM_ID
            if self._block_stream and (kind != 9 or stream_id != self._block_stream):
                text = f"{kind_name(kind)} inside the header block of stream {self._block_stream} (RFC 9113, 6.10)"
                raise ConnectionBroken(Code.PROTOCOL_ERROR, text)
            if not kind:
                if view is None:
                    view = memoryview(data)
                if flags & PADDED:
                    padding = _padding(data, start, end)
                    piece = view[start + 1 : end - padding]
                else:
                    piece = view[start:end]
                stream = streams.get(stream_id)
                if stream is None:
                    self._on_late_data(stream_id, length, len(piece), flags)
                else:
                    if len(piece) * VIEW_RATIO < size:
                        piece = memoryview(bytes(piece))
                    self._on_data(stream, piece, length, flags & END_STREAM)
            elif kind <= 9:
                handlers[kind](self, data, start, end, flags, stream_id)
            else:
                self._budget.spend(COST, f"a frame of the unknown type {kind:#x}")
            place = end
        if place < size:
            had = size - place
            self._missing = HEADER_SIZE - had if had < HEADER_SIZE else end - size
            self._held.append(data[place:] if had * VIEW_RATIO < size else memoryview(data)[place:])

    # -- DATA (6.1)

    def _on_data(self, stream: WireStream, piece: memoryview, length: int, ended: int) -> None:
        self._took(length)
        side = stream.side
        stream.receive_left -= length
        if stream.receive_left < 0:
            text = f"more content than the window of {self._stream_window} bytes let out (RFC 9113, 6.9)"
            self._fail(stream, Code.FLOW_CONTROL_ERROR, ProtocolError(text), ended)
            return
        if side is not BODY:
            if side is ENDED:
                self._abandon(stream, Code.STREAM_CLOSED)
                stream.sink.on_window()
            else:
                text = "malformed response: content before the head (RFC 9113, 8.1)"
                self._fail(stream, Code.PROTOCOL_ERROR, ProtocolError(text), ended)
            return
        size = len(piece)
        received = stream.received = stream.received + size
        expected = stream.expected
        if size:
            self._budget.earn(DATA_GAIN)
            if expected is not None and received > expected:
                what = stream.why_empty or f"more content than its content-length of {expected}"
                error = ProtocolError(f"malformed response: {what} (RFC 9113, 8.1.1)")
                self._fail(stream, Code.PROTOCOL_ERROR, error, ended)
                return
        elif not ended:
            self._budget.spend(COST, "DATA without content")
        if size != length:
            self.consumed(stream, length - size)
        if ended:
            if expected is not None and received < expected:
                if size:
                    stream.sink.on_data(piece, False)
                if stream.side is BODY:  # else the sink has reset it
                    self._fail(stream, Code.PROTOCOL_ERROR, _too_short(received, expected), ended)
                return
            self._received_end(stream)
            stream.sink.on_data(piece, True)
        elif size:
            stream.sink.on_data(piece, False)

    def _on_late_data(self, stream_id: int, length: int, size: int, flags: int) -> None:
        """DATA of a stream that is not open."""
        late = self._late.get(stream_id)
        if late is None:
            # nginx (1.22) says END_STREAM twice for an empty file that had to wait for its turn: in HEADERS, and in an
            # empty DATA after it. The others on the connection must not pay for that.
            is_said_twice = flags & END_STREAM and not size and stream_id & 1 and stream_id < self._next_id
            if not is_said_twice:
                self._check_forgotten(stream_id, "DATA")
            self._budget.spend(COST, "DATA of a closed stream")
        else:
            late.receive_left -= length
            if late.receive_left < 0:
                text = f"stream {stream_id}: more content than its window let out (RFC 9113, 6.9)"
                raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, text)
            if flags & END_STREAM:
                del self._late[stream_id]
            elif not size:
                self._budget.spend(COST, "DATA without content")
        self._took(length)

    def _took(self, length: int) -> None:
        """Top up the connection's window."""
        received = self._received = self._received + length
        if received >= TOP_UP:
            self._received = 0
            self._out.append(pack_window_update(0, received))

    # -- HEADERS (6.2) and CONTINUATION (6.10)

    def _on_headers(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if flags & PADDED:
            end -= _padding(data, start, end)
            start += 1
        if flags & PRIORITY:
            start += 5
            if start > end:
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority (RFC 9113, 6.2)")
        if flags & END_HEADERS:
            self._on_block(stream_id, data[start:end], flags & END_STREAM)
        else:
            self._block_stream = stream_id
            self._block_flags = flags
            self._block += data[start:end]

    def _on_continuation(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if not self._block_stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS (RFC 9113, 6.10)")
        self._budget.spend(HIGH_COST, "CONTINUATION")
        self._block += data[start:end]
        # Fields are never longer in HPACK than they are, unless a peer wants them to be. What fits into this is
        # decoded and judged by itself; beyond it the table is lost, and with it the connection.
        most = self._limits.max_head_bytes * 2 + MAX_FRAME_SIZE
        if len(self._block) > most:
            error = LimitExceeded(f"a header block of more than {most} bytes", "max_head_bytes")
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, error)
        if flags & END_HEADERS:
            block = bytes(self._block)
            self._block.clear()
            self._block_stream = 0
            self._on_block(stream_id, block, self._block_flags & END_STREAM)

    def _on_block(self, stream_id: int, block: bytes, ended: int) -> None:
        """A header block is complete."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._on_late_block(stream_id, block, ended)
            return
        self._budget.earn(HEAD_GAIN)
        side = stream.side
        try:
            if side is HEAD:
                self._on_head(stream, self._decoder.response(block), ended)
            elif side is BODY:
                self._on_trailers(stream, self._decoder.trailers(block), ended)
            else:
                self._decoder.skip(block)
                self._abandon(stream, Code.STREAM_CLOSED)
                stream.sink.on_window()
        except PeerError as error:
            code = Code.ENHANCE_YOUR_CALM if isinstance(error, LimitExceeded) else Code.PROTOCOL_ERROR
            self._fail(stream, code, error, ended)

    def _on_head(self, stream: WireStream, head: Head, ended: int) -> None:
        status = head.status
        if status < 200:
            if ended:
                raise ProtocolError(f"malformed response: {status} ends the stream (RFC 9113, 8.1)")
            stream.informational += 1
            if stream.informational > self._limits.max_informational:
                most = self._limits.max_informational
                raise LimitExceeded(f"more than max_informational={most} interim responses", "max_informational")
            stream.sink.on_head(head, False)
            return
        if stream.method == "CONNECT" and status < 300:
            if head.length is not None:
                head = head._replace(length=None)  # it is a tunnel (RFC 9110, 9.3.6)
        elif stream.method == "HEAD" or status == 204 or status == 304:
            stream.expected = 0
            stream.why_empty = f"content behind the head of {'HEAD' if stream.method == 'HEAD' else status}"
        else:
            stream.expected = head.length
            if ended and head.length:
                raise _too_short(0, head.length)
        if ended:
            self._received_end(stream)
            stream.sink.on_head(head, True)
        else:
            stream.side = BODY
            stream.sink.on_head(head, False)

    def _on_trailers(self, stream: WireStream, trailers: Headers, ended: int) -> None:
        if not ended:
            raise ProtocolError("malformed response: trailers do not end the stream (RFC 9113, 8.1)")
        if stream.expected is not None and stream.received < stream.expected:
            raise _too_short(stream.received, stream.expected)
        self._received_end(stream)
        stream.sink.on_trailers(trailers)

    def _on_late_block(self, stream_id: int, block: bytes, ended: int) -> None:
        """A header block of a stream that is not open: only for HPACK's table."""
        late = self._late.get(stream_id)
        if late is None:
            self._check_forgotten(stream_id, "HEADERS")
            self._budget.spend(HIGH_COST, "HEADERS of a closed stream")
        elif ended:
            del self._late[stream_id]
        elif late.heads_left:
            late.heads_left -= 1
        else:
            self._budget.spend(HIGH_COST, "HEADERS of a stream that we reset")
        self._decoder.skip(block)

    # -- RST_STREAM (6.4)

    def _on_reset(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if end - start != 4:
            raise _wrong_size("RST_STREAM", end - start)
        if not stream_id or not stream_id & 1 or stream_id >= self._next_id:
            raise idle("RST_STREAM", stream_id)
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            if self._late.pop(stream_id, None) is None:
                self._budget.spend(HIGH_COST, "RST_STREAM of a closed stream")
            return
        code: int = read_word(data, start)[0]
        side = stream.side
        stream.side = OVER
        if side is ENDED:
            # The response is complete, and the server does not want the rest of the request (RFC 9113, 8.1).
            stream.sink.on_window()
            return
        text = f"the peer reset the stream: {code_name(code)}"
        if code == Code.ENHANCE_YOUR_CALM:
            text += ", it finds us too demanding"
        stream.sink.on_failed(StreamReset(text, code), code == Code.REFUSED_STREAM)

    # -- SETTINGS (6.5) and PING (6.7)

    def _on_settings(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if stream_id:
            raise _not_of_streams("SETTINGS", stream_id)
        control = self._control
        if flags & ACK:
            if end != start:
                raise _wrong_size("the acknowledgement of SETTINGS", end - start)
            if control.is_acknowledged:
                self._budget.spend(COST, "an acknowledgement of SETTINGS")
            control.acknowledged(data[start - HEADER_SIZE : end])
            return
        if (end - start) % SETTING_SIZE:
            raise _wrong_size("SETTINGS", end - start)
        frames = split(data[start:end])
        if self.has_settings:
            self._budget.spend(COST, "SETTINGS")
        if len(frames) > 1:
            self._budget.spend(COST * len(frames), "SETTINGS that repeat themselves")
        could_send = {stream for stream in self._streams.values() if self.room(stream)}
        for frame in frames:
            control.apply(frame)
            self._reply(control.take(), frame is frames[-1])
            self._apply_window(control.settings.initial_window_size)
        self.has_settings = True
        self.max_streams = control.settings.max_concurrent_streams
        self._max_frame = control.settings.max_frame_size
        self._tell_room(could_send)

    def _on_ping(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if not flags & ACK:
            self._budget.spend(COST, "PING")
        was_asked = self._control.pinged(data[start - HEADER_SIZE : end])
        if not was_asked:
            self._budget.spend(COST, "an answer to no PING of ours")
        elif not flags & ACK:
            self._reply(self._control.take(), True)

    def _reply(self, data: bytes, wanted: bool) -> None:
        if not wanted:
            return
        self._replies += 1
        if self._replies > MAX_REPLIES:
            raise flooded(f"the peer has {MAX_REPLIES} answers to read, and asks for more (RFC 9113, 10.5)")
        self._out.append(data)

    # -- GOAWAY (6.8)

    def _on_goaway(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if stream_id:
            raise _not_of_streams("GOAWAY", stream_id)
        if end - start < 8:
            raise _wrong_size("GOAWAY", end - start)
        last, code = read_words(data, start)
        last &= MAX_STREAM_ID
        if self.goaway is not None:
            self._budget.spend(COST, "GOAWAY")
            # It must not rise (6.8). If it does, the streams above are gone all the same.
            last = min(last, self.goaway.last_stream_id)
        goaway = self.goaway = GoAway(code, last, data[start + 8 : min(end, start + 8 + 256)])
        calm = code == Code.ENHANCE_YOUR_CALM
        above = [(stream, stream.side) for stream in self._streams.values() if stream.id > last]
        for stream, _ in above:
            self._forget(stream)
        for stream, side in above:
            if side is ENDED:
                stream.sink.on_window()
            elif calm:
                text = f"the peer finds us too demanding, and closes the connection: {goaway}"
                stream.sink.on_failed(StreamReset(text, code), False)
            else:
                text = f"the peer closes the connection, and did not begin with this request: {goaway}"
                stream.sink.on_failed(ConnectionClosed(text), True)

    # -- WINDOW_UPDATE (6.9)

    def _on_window_update(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if end - start != 4:
            raise _wrong_size("WINDOW_UPDATE", end - start)
        increment: int = read_word(data, start)[0] & MAX_WINDOW
        if increment < SMALL_WINDOW_UPDATE:
            self._budget.spend(COST, f"WINDOW_UPDATE of {increment}")
        if not stream_id:
            self._widen(increment)
            return
        if not stream_id & 1 or stream_id >= self._next_id:
            raise idle("WINDOW_UPDATE", stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            # The peer had not heard of its end (5.1).
            if stream_id not in self._late:
                self._budget.spend(COST, "WINDOW_UPDATE of a closed stream")
            return
        if not increment:
            text = "WINDOW_UPDATE of 0 (RFC 9113, 6.9)"
            self._fail(stream, Code.PROTOCOL_ERROR, ProtocolError(text))
            return
        before = stream.send_left
        stream.send_left = before + increment
        if stream.send_left > MAX_WINDOW:
            text = "WINDOW_UPDATE beyond 2^31-1 (RFC 9113, 6.9.1)"
            self._fail(stream, Code.FLOW_CONTROL_ERROR, ProtocolError(text))
        elif before <= 0 and self.room(stream):
            stream.sink.on_window()

    # -- the other frames

    def _on_priority(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        """Deprecated, means nothing to a client, may come at any time (6.3)."""
        if not stream_id:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "PRIORITY of no stream (RFC 9113, 6.3)")
        if end - start != 5:
            raise _wrong_size("PRIORITY", end - start)
        self._budget.spend(COST, "PRIORITY")

    def _on_push(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        raise ConnectionBroken(Code.PROTOCOL_ERROR, "PUSH_PROMISE, though our SETTINGS forbid it (RFC 9113, 8.4)")

    # By frame type, from HEADERS on; DATA never gets here.
    _handlers: Final = (
        _on_push, _on_headers, _on_priority, _on_reset, _on_settings, _on_push, _on_ping, _on_goaway,
        _on_window_update, _on_continuation,
    )  # fmt: skip

    def _break(self, broken: ConnectionBroken) -> None:
        """A connection error (5.4.1)."""
        self._out.append(pack_goaway(broken.code))
        self._end_all(lambda stream: copy(broken.error))

    def _interrupted(self) -> None:
        """By Ctrl-C, in the middle of something: what has come, or the peer's HPACK table, is out of step."""
        self._break(
            ConnectionBroken(Code.INTERNAL_ERROR, ReadError("the connection's reader or writer was interrupted"))
        )


# -- texts ---------------------------------------------------------------------------------------------------------


def _padding(data: bytes, start: int, end: int) -> int:
    """How many bytes at the end are padding; the first byte says so (6.1)."""
    if start == end or data[start] >= end - start:
        raise ConnectionBroken(Code.PROTOCOL_ERROR, "padding that is longer than its frame (RFC 9113, 6.1)")
    return data[start]


def _too_short(received: int, expected: int) -> IncompleteBody:
    text = f"the response ends after {received} of {expected} bytes of content (RFC 9113, 8.1.1)"
    return IncompleteBody(text, received, expected)


def _not_of_streams(what: str, stream_id: int) -> ConnectionBroken:
    return ConnectionBroken(Code.PROTOCOL_ERROR, f"{what} of stream {stream_id}, not of the connection (RFC 9113, 6)")


def _wrong_size(what: str, size: int) -> ConnectionBroken:
    return ConnectionBroken(Code.FRAME_SIZE_ERROR, f"{what} of {size} bytes (RFC 9113, 4.2)")


def _not_a_preface(data: bytes) -> str:
    if data.startswith(b"HTTP/1."):
        return "the peer speaks HTTP/1.1 and not HTTP/2"  # not what it says: how much has come depends on the cuts
    return f"the peer does not begin with SETTINGS but with {data[:9]!r} (RFC 9113, 3.4)"
