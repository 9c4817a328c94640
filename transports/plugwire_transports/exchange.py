"""One request on its way, in whatever protocol: its budgets, and what an error will have to tell."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from plugwire import ConnectionClosed, Error, LimitExceeded, ReadError, UsageError, WriteError
from plugwire.events import Data, Informational
from plugwire.protocols import Deadline

if TYPE_CHECKING:
    from plugwire import Headers, Request
    from plugwire.errors import Phase
    from plugwire.protocols import Body, Call, ConnectionInfo

EXPECT_SECONDS: Final = 1.0
"""How long to wait for 100 (Continue) when the caller only set the header (what curl waits)."""

UPLOAD_PIECE: Final = 262144
"""Bytes asked of a request's body at a time."""


class Exchange:
    """One request on its way: when which budget ends, what has happened so far, and what an error will have to tell.

    Attributes:
        phase: "write" until all of the request is out, then "head".
        sent: a first byte was handed to the stream.
        has_answer: a byte of an answer has come.
        length: bytes of content that were announced; None if none were.
        expect: seconds to wait for 100 (Continue); None: do not ask.
        may_continue: 100 (Continue) has come.
        informational: the number of interim responses so far.
    """

    __slots__ = (
        "call",
        "deadline",
        "expect",
        "has_answer",
        "informational",
        "length",
        "may_continue",
        "phase",
        "request",
        "sent",
    )

    def __init__(self, request: Request, call: Call) -> None:
        self.request = request
        self.call = call
        self.deadline = call.deadline
        self.phase: Phase = "write"
        self.sent = False
        self.has_answer = False
        self.informational = 0
        self.may_continue = False
        self.expect: float | None = None
        self.length: int | None = 0

    def expected(self) -> float | None:
        """How long to wait for 100 (Continue), by what the caller said; None if not at all."""
        request = self.request
        headers = request.headers
        if "expect" in headers and headers["expect"].lower() == "100-continue":
            return request.expect_continue if request.expect_continue is not None else EXPECT_SECONDS
        return None

    def write_at(self, now: float) -> float:
        """When the next write must have made progress.

        Raises:
            TimeoutError: the deadline has passed. Asked here too, because a peer that reads at once lets no write wait,
                and only a wait looks at the time: an upload without end would go on beyond it.
        """
        write = self.call.timeout.write
        if now >= self.deadline.at:
            raise TimeoutError
        return min(self.deadline.at, inf if write is None else now + write)

    def read_at(self, now: float) -> float:
        """When the next read must have brought something."""
        read = self.call.timeout.read
        return min(self.deadline.at, inf if read is None else now + read)

    def check_length(self, sent: int) -> None:
        """Not a byte more than was announced."""
        if self.length is not None and sent > self.length:
            raise UsageError(f"the request's body gave more than its Content-Length of {self.length} bytes")

    def check_complete(self, sent: int) -> None:
        """Not a byte less either."""
        if self.length is not None and sent < self.length:
            raise UsageError(f"the request's body ended after {sent} bytes; its Content-Length is {self.length}")

    def count_interim(self, status: int, reason: str, headers: Headers, most: int) -> None:
        """An interim (1xx) response came: one more, of at most `max_informational`; and an event."""
        if status == 100:
            self.may_continue = True
        self.informational += 1
        if self.informational > most:
            raise LimitExceeded(f"more than max_informational={most} interim responses", "max_informational")
        self.call.tell(Informational, status=status, reason=reason, headers=headers)

    def tell_sent(self, call: Call, size: int, done: int | None = None) -> None:
        """Content went out."""
        if size and call.wants(Data):
            call.tell(Data, sent=True, size=size, done=size if done is None else done, total=self.length)

    def timed_out(self, info: ConnectionInfo) -> Error:
        """Which budget was it?"""
        if self.deadline.has_passed():
            deadline = self.deadline
        else:
            budget = "write" if self.phase == "write" else "read"
            seconds = self.call.timeout.write if budget == "write" else self.call.timeout.read
            now = self.call.runtime.now
            deadline = Deadline(now, now(), budget, seconds if seconds is not None else inf)
        return deadline.error(self.phase).at(self.phase, request=self.request, sent=self.sent, connection=info)

    def broken(self, error: OSError, info: ConnectionInfo) -> Error:
        """The connection broke: by phase, and by whether a byte of an answer had come."""
        reason = error.strerror or str(error)
        broken: Error
        if self.phase == "write" and not self.has_answer:
            broken = WriteError(f"the connection broke while the request was sent: {reason}")
        elif not self.has_answer:
            broken = ConnectionClosed(f"the peer closed the connection without a response: {reason}")
        else:
            # Also while the request is still being sent: the peer has begun to act on it, so nobody sends it again
            # unasked.
            broken = ReadError(f"the connection broke inside the response's head: {reason}")
        return broken.at(self.phase, request=self.request, sent=self.sent, connection=info)


def is_too_late(error: OSError) -> bool:
    """Whether a stream says that a point in time of ours has passed. With an errno (ETIMEDOUT) it is the system that
    has waited, for a peer that acknowledges nothing: the connection is broken."""
    return isinstance(error, TimeoutError) and error.errno is None


async def next_piece(body: Body) -> bytes:
    """The next piece of the request's content. What goes wrong in there is not the connection's fault."""
    try:
        return await body.receive(UPLOAD_PIECE)
    except OSError as error:
        if isinstance(error, Error):
            raise
        raise UsageError(f"the request's body could not be read: {error}") from error
