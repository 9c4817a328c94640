"""A stream of bytes inside of one HTTP/2 stream, after CONNECT (RFC 9113, 8.5)."""

from __future__ import annotations

from collections import deque
from errno import ECONNABORTED, ECONNRESET, EPIPE
from typing import TYPE_CHECKING, TypeVar

from plugwire import Error
from plugwire.protocols import SOCKET, TLS, Busy, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.protocols import Buffer, Extra
    from plugwire_transports.http2.exchange import HTTP2Exchange

T = TypeVar("T")


class TunnelStream(Stream):
    """The caller's end of a tunnel. The connection goes on to serve others; closing the tunnel resets its stream,
    unless both sides have ended it."""

    def __init__(self, exchange: HTTP2Exchange) -> None:
        self._exchange = exchange
        self._connection = exchange.connection
        self._kept: deque[memoryview] = deque()
        self._unsent = 0
        self._handed = 0  # bytes that the connection's stream may still keep
        self._is_over = False
        self._wants_end = False
        self._is_nudged = False
        self._waiters: list[object] = []  # who waits, and who is about to be refused because of that

    # -- moves -----------------------------------------------------------------------------------------------------

    def read_now(self, max_bytes: int) -> bytes | None:
        self._check()
        exchange, connection = self._exchange, self._connection
        with connection.lock:
            connection.look(exchange)
            data = exchange.take(max_bytes)
            if data:
                connection.taken(exchange, len(data))
        connection.settle()
        if data:
            return data
        if exchange.is_ended:
            return b""
        if exchange.failure is not None:
            self._check()
            raise ConnectionResetError(ECONNRESET, str(exchange.failure))
        return None

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        self._check()
        if type(data) is not bytes:
            # One piece, of which nobody else has a hold: each would be a frame of its own, and what does not go out now
            # is kept, while the caller may write to his buffer again.
            data = bytes(data) if isinstance(data, (bytes, bytearray, memoryview)) else b"".join(data)
        if data:
            self._kept.append(memoryview(data))
            self._unsent += len(data)
        self._push()

    @property
    def unsent(self) -> int:
        """What the windows do not let out, and what was let out and lies below with nobody there who will send it."""
        below = self._connection.left_below(self._exchange)
        if not below:
            self._handed = 0
        return self._unsent + min(below, self._handed)

    def _push(self) -> None:
        """What the windows let out."""
        exchange, connection = self._exchange, self._connection
        if exchange.is_stopped() or exchange.is_sent:
            self._check()  # ended from here just now, which is the reason, whatever else is
            if self._kept:
                raise BrokenPipeError(EPIPE, str(exchange.failure or "the sending side was ended"))
            return
        with connection.lock:
            while self._kept and (room := connection.room(exchange)):
                piece = self._kept.popleft()
                if len(piece) > room:
                    self._kept.appendleft(piece[room:])
                    piece = piece[:room]
                self._unsent -= len(piece)
                self._handed += len(piece)
                connection.write(exchange, piece)
            if self._wants_end and not self._kept and not exchange.is_sent:
                connection.write(exchange, memoryview(b""), ends=True)
        connection.settle()

    # -- waits -----------------------------------------------------------------------------------------------------

    async def wait(self, read: bool, write: bool, at: float) -> None:
        self._check()
        exchange, connection = self._exchange, self._connection

        def ready() -> bool:
            return bool(
                exchange.is_stopped()
                or (read and exchange.has_content())
                or (write and (self._is_out() or exchange.is_sent or (self._kept and connection.room(exchange) > 0)))
                or self._is_nudged
            )

        mark = object()
        try:
            self._waiters.append(mark)
            if self._waiters[0] is not mark:  # of threads that come at once the first one waits
                raise Busy("somebody else waits on this tunnel already: a stream has one user at a time")
            await connection.wait_for(exchange, ready, at)
        except Error as error:
            if isinstance(error, (TimeoutError, Busy)):
                raise
            raise ConnectionResetError(ECONNRESET, str(error)) from error
        finally:
            self._waiters.remove(mark)
        self._is_nudged = False
        self._check()

    def _is_out(self) -> bool:
        return not self._kept and not (self._handed and self._connection.left_below(self._exchange))

    async def send_eof(self, at: float) -> None:
        self._wants_end = True
        self._push()
        while self.unsent:
            await self.wait(False, True, at)
            self._push()
        self._check()

    def nudge(self) -> None:
        self._is_nudged = True
        waiter = self._exchange.waiter
        if waiter is not None:
            waiter.wake()
        else:
            self._connection.stream.nudge()

    # -- the end ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._is_over or self._exchange.is_aborted:
            raise ConnectionAbortedError(ECONNABORTED, "the tunnel was closed on this side")

    def close(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._kept.clear()
            self._unsent = 0
            self._exchange.abort()
            self._connection.cancel(self._exchange)

    def abort(self) -> None:
        self._exchange.abort()

    def __del__(self) -> None:
        if not getattr(self, "_is_over", True):
            self._connection.cancel(self._exchange)

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        # TLS here would be that of the proxy, and SOCKET is not this stream's own.
        if key is SOCKET or key is TLS:
            return default
        return self._connection.stream.extra(key, default)
