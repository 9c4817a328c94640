"""One stream of an HTTP/2 connection: who is told of it, what comes next on it, and how much of its windows is left."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from plugwire_transports.http2.frames import code_name

if TYPE_CHECKING:
    from plugwire.errors import Error
    from plugwire.headers import Headers
    from plugwire_transports.http2.checks import Head


class GoAway(NamedTuple):
    """What the peer said on leaving (RFC 9113, 6.8)."""

    code: int
    last_stream_id: int
    debug: bytes

    def __str__(self) -> str:
        text = f"GOAWAY with {code_name(self.code)}"
        return f"{text}, {self.debug[:80]!r}" if self.debug else text


class Sink(Protocol):
    """What the wire tells of one stream, as its frames come. Called inside of `feed` and `eof`; must not wait and must
    not raise; may call the wire. After `ended`, `on_trailers` or `on_failed` nothing comes but `on_window`."""

    def on_head(self, head: Head, ended: bool) -> None:
        """A response's head: interim ones (never `ended`), then the final one."""
        ...

    def on_data(self, data: memoryview, ended: bool) -> None:
        """Content, in order; empty only if `ended`. It stays as it is, and keeps at most eight times its size alive.
        All that comes must be given back by `Wire.consumed` when it has been read."""
        ...

    def on_trailers(self, trailers: Headers) -> None:
        """The trailers, and with them the end."""
        ...

    def on_window(self) -> None:
        """`room` was 0 and has grown, or nothing more can be sent: the stream is over though the response is there."""
        ...

    def on_failed(self, error: Error, unprocessed: bool) -> None:
        """The stream is over before its response was.

        Args:
            error: an object of its own for each stream.
            unprocessed: the peer did nothing with the request, which may be sent again, whatever its method (RFC 9113,
                8.7).
        """
        ...


class Side(Enum):
    """What comes next from the peer on a stream.

    ======  ======================================  ================  ==============  ===========
    side    HEADERS                                 DATA              WINDOW_UPDATE   RST_STREAM
    ======  ======================================  ================  ==============  ===========
    HEAD    interim: HEAD. Final: BODY, or the end  malformed         room            failed: OVER
    BODY    trailers, with the end                  content, the end  room            failed: OVER
    ENDED   STREAM_CLOSED: OVER                     STREAM_CLOSED     room            OVER
    ======  ======================================  ================  ==============  ===========

    The end is ENDED, or OVER if we have ended the stream too. Whatever is wrong with a stream makes it OVER. What comes
    for one that is OVER, and so in the table no more, is for `Late` and the flood budget to judge.
    """

    HEAD = "head"  # an interim or the final head
    BODY = "body"  # content, trailers
    ENDED = "ended"  # nothing: END_STREAM has come
    OVER = "over"  # nothing: reset by either side, or both have ended


HEAD, BODY, ENDED, OVER = Side.HEAD, Side.BODY, Side.ENDED, Side.OVER


class WireStream:
    """One stream. Made by `Wire.open`; everything but `id`, `sink` and `is_over` is the wire's own.

    Attributes:
        id: its number (RFC 9113, 5.1.1).
        sink: who is told.
    """

    __slots__ = (
        "expected",
        "id",
        "informational",
        "is_sent",
        "method",
        "receive_left",
        "received",
        "send_left",
        "side",
        "sink",
        "unreturned",
        "why_empty",
    )

    def __init__(self, stream_id: int, sink: Sink, method: str, ended: bool, send: int, receive: int) -> None:
        self.id = stream_id
        self.sink = sink
        self.method = method
        self.side = HEAD
        self.is_sent = ended  # we have ended it
        self.send_left = send
        self.receive_left = receive
        self.unreturned = 0  # read by the caller, not yet given back to the peer
        self.received = 0
        self.expected: int | None = None  # bytes of content; None: nobody has said
        self.why_empty: str | None = None  # for messages
        self.informational = 0

    @property
    def is_over(self) -> bool:
        """Nothing more comes, and nothing more can be sent."""
        return self.side is OVER


class Late:
    """A stream that we reset, as the peer still sees it."""

    __slots__ = ("heads_left", "receive_left")

    def __init__(self, receive_left: int, heads_left: int) -> None:
        self.receive_left = receive_left
        self.heads_left = heads_left
