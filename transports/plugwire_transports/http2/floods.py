"""What a peer may send for free over HTTP/2 (RFC 9113, 10.5).

Each of these frames costs the receiver time and the sender next to nothing, and none of them is ever wrong by itself:
PING, SETTINGS, empty DATA, small WINDOW_UPDATEs, PRIORITY, frames of unknown types, RST_STREAM of streams that are long
closed, CONTINUATION. So they spend one budget for each connection, which useful frames fill up again. A peer that
answers requests never comes near its end; one that only keeps us busy reaches it, and the connection ends with
ENHANCE_YOUR_CALM and `LimitExceeded`.

Time does not fill it: there is no clock here. Whoever has one and sees that the peer was quiet may call `earn`, or a
peer that sends PING every 15 seconds, and nothing else, would be cut off after four hours.
"""

from __future__ import annotations

from typing import Final

from plugwire.errors import LimitExceeded
from plugwire_transports.http2.frames import Code, ConnectionBroken

LIMIT: Final = "http2 flood budget"
"""`LimitExceeded.limit` of all of these."""

BUDGET: Final = 1000
"""What a connection begins with, and the most it can have."""

COST: Final = 1
"""Of a PING, SETTINGS (and each further time that one of its settings comes twice), empty or padding-only DATA,
WINDOW_UPDATE below SMALL_WINDOW_UPDATE or for a closed stream, PRIORITY, a second GOAWAY, an acknowledgement of
nothing, and a frame of an unknown type. What comes late for a stream that we have reset is free, but for empty DATA."""

HIGH_COST: Final = 5
"""Of a CONTINUATION, of RST_STREAM for a closed stream, and of a header block too many for a stream that was reset."""

SMALL_WINDOW_UPDATE: Final = 64
"""A WINDOW_UPDATE of less is charged for. Larger ones let us send, whatever a peer's habits are (some give back each
read of a few hundred bytes), and end by themselves: a window cannot exceed 2^31-1."""

HEAD_GAIN: Final = 10
"""Of a header block for an open stream. Their number is bounded by `max_informational`."""

DATA_GAIN: Final = 1
"""Of DATA with content for an open stream."""

SENT_GAIN: Final = 2
"""Of DATA that we send: it may be answered by a WINDOW_UPDATE for the stream and one for the connection, however small
the piece was, and by a PING of a server that measures the way (gRPC does)."""

MAX_REPLIES: Final = 1000
"""Answers (to PING and SETTINGS) that may wait to be written. A peer that earns its budget by useful frames, and reads
nothing, would else fill memory with them."""


class Budget:
    """One connection's. `left` is what may still be spent."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left: int = BUDGET

    def spend(self, cost: int, what: str) -> None:
        """Pay for `what`.

        Raises:
            ConnectionBroken: there is not that much left.
        """
        self.left -= cost
        if self.left < 0:
            raise flooded(f"the peer sends too many frames that serve nothing; the last was {what} (RFC 9113, 10.5)")

    def earn(self, gain: int) -> None:
        left = self.left + gain
        self.left = left if left < BUDGET else BUDGET


def flooded(text: str) -> ConnectionBroken:
    return ConnectionBroken(Code.ENHANCE_YOUR_CALM, LimitExceeded(text, LIMIT))
