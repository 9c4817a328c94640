"""One request on its way over HTTP/1.1: what goes out, how it is framed, and what an error will have to tell."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from plugwire import ConnectionClosed, Error, ReadError, UsageError, WriteError
from plugwire.events import Data
from plugwire.protocols import ConnectionInfo, Deadline
from plugwire_transports.http11_wire import encode_head, join_head

if TYPE_CHECKING:
    from plugwire import Request
    from plugwire.errors import Phase
    from plugwire.protocols import Call

JOIN_UP_TO: Final = 65536
"""A body in memory up to this size is joined to the head: one system call, one packet if it is small."""

EXPECT_SECONDS: Final = 1.0
"""How long to wait for 100 (Continue) when the caller only set the header (what curl waits)."""


class Exchange:
    """One request on its way: what goes out, and what an error will have to tell."""

    __slots__ = (
        "call",
        "deadline",
        "expect",
        "has_answer",
        "head",
        "informational",
        "is_chunked",
        "is_simple",
        "is_upload_open",
        "length",
        "may_continue",
        "phase",
        "plain_block",
        "request",
        "sent",
        "size_in_head",
        "wants_close",
    )

    def __init__(self, request: Request, call: Call, plain_block: bytes | None) -> None:
        self.request = request
        self.call = call
        self.plain_block = plain_block
        self.deadline = call.deadline
        self.phase: Phase = "write"
        self.sent = False
        self.has_answer = False
        self.is_upload_open = False
        self.informational = 0
        self.may_continue = False
        self.size_in_head = 0
        headers = request.headers
        body = request.body
        self.expect: float | None = None
        self.is_chunked = False
        length = body.length
        if plain_block is not None and length == 0 and request.trailers is None and headers.encoded() is plain_block:
            self.wants_close = False
            self.is_simple = True
            self.length: int | None = 0
            self.head = join_head(request.method, _target(request), plain_block)
            return
        self.wants_close = "connection" in headers and "close" in headers["connection"].lower()
        if length == 0 and request.trailers is None and "transfer-encoding" not in headers:
            self.is_simple = True
            self.length = 0
            self.head = encode_head(request.method, _target(request), headers)
            if not self.wants_close and "content-length" not in headers:
                self.plain_block = headers.encoded()
            return
        if "transfer-encoding" in headers:
            length = None
        elif length is None or request.trailers is not None:
            length = headers.get_int("content-length")
            if length is None:
                headers["Transfer-Encoding"] = "chunked"
        self.is_chunked = length is None
        self.length = length
        if "expect" in headers and headers["expect"].lower() == "100-continue":
            self.expect = request.expect_continue if request.expect_continue is not None else EXPECT_SECONDS
        head = encode_head(request.method, _target(request), headers)
        content = body.content
        self.is_simple = (
            content is not None and len(content) <= JOIN_UP_TO and not self.is_chunked and self.expect is None
        )
        if self.is_simple and content is not None:
            self.size_in_head = len(content)
            head += content
        self.head = head

    def write_at(self, now: float) -> float:
        """When the next write must have made progress."""
        write = self.call.timeout.write
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


def _target(request: Request) -> str:
    """The request target (RFC 9112, 3.2): authority-form for CONNECT, what the caller said, else origin-form."""
    if request.target is not None:
        return request.target
    if request.method == "CONNECT":
        host = request.url.host
        return f"[{host}]:{request.url.port}" if ":" in host else f"{host}:{request.url.port}"
    return request.url.target
