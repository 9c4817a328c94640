"""The content of an HTTP/2 response, read as the caller asks for it.

What has come lies in the exchange, as views of the reads that brought it, at most a stream's window of it. It is copied
once, into what the caller gets; only then does the window go back to the peer. So a slow reader costs that much memory
and holds up nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugwire import Busy, Error, ReadError
from plugwire_transports.response_body import ResponseBody

if TYPE_CHECKING:
    from plugwire_transports.http2.exchange import HTTP2Exchange


class HTTP2Body(ResponseBody):
    """Reads the content of a response."""

    _exchange: HTTP2Exchange | None = None

    def __init__(self, exchange: HTTP2Exchange, length: int | None) -> None:
        super().__init__(exchange.info, exchange.request, exchange.call)
        self.length = length
        self._connection = exchange.connection
        self._is_reading = False
        self._exchange = exchange

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while True:
            exchange = self._exchange
            if exchange is None:
                return self._ended()
            with self._connection.lock:
                data = exchange.take(max_bytes)
                if data:
                    self._connection.taken(exchange, len(data))
            self._connection.settle()
            if data:
                return data
            await self._more(exchange)

    async def receive_into(self, buffer: memoryview) -> int:
        while True:
            exchange = self._exchange
            if exchange is None:
                self._ended()
                return 0
            with self._connection.lock:
                size = exchange.take_into(buffer)
                if size:
                    self._connection.taken(exchange, size)
            self._connection.settle()
            if size:
                return size
            await self._more(exchange)

    async def _more(self, exchange: HTTP2Exchange) -> None:
        """Nothing is left of what has come: the end, an error, or wait."""
        if self._is_reading:  # a second wait in the name of one stream would take the lead away from the first
            raise Busy("somebody else reads this response already: it has one user at a time")
        try:
            if exchange.is_ended and exchange.failure is None:
                if not exchange.held:
                    self._finish(exchange)
                return
            self._is_reading = True
            if exchange.is_aborted or not exchange.held:  # else both came just now, content first
                exchange.raise_stopped()
            at = self._read_at()
            await self._connection.wait_for(exchange, exchange.has_content, at)
            if not exchange.held:
                exchange.raise_stopped()
        except BaseException as error:
            self._raise(error)
        finally:
            self._is_reading = False

    def _finish(self, exchange: HTTP2Exchange) -> None:
        """The end has come."""
        self.trailers = exchange.trailers
        self._exchange = None
        # An upload that the response made superfluous; nothing otherwise.
        self._connection.cancel(exchange)

    @property
    def is_over(self) -> bool:
        return self._exchange is None

    def _broken_off(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.forget_content()
            self._connection.cancel(exchange)

    def _dropped(self) -> None:
        self._broken_off()

    def _cut(self, error: OSError) -> Error:
        exchange = self._exchange
        received = exchange.received if exchange is not None else 0
        return ReadError(f"the connection broke inside the body, after {received} bytes: {error.strerror or error}")

    async def close(self) -> None:
        self._broken_off()

    def abort(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            self._is_aborted = True  # before the reader is woken, who asks
            exchange.abort()
            # Who reads ends the stream when it is woken. Without one nobody else would.
            if not self._is_reading:
                self._fail(self._why_aborted())
