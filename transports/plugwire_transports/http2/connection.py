"""The road of a request over HTTP/2: fields and content out, heads and content in. Who waits, and who reads for all who
share the connection, stands in `sharing`.

    send -> _submit -> _open | _upload -> wait for the head -> _respond

An interim (1xx) response never ends an upload. A final one does if it is a redirect or an error, or complete; what has
come of a stream that is not read lies in its exchange, at most a window of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plugwire import AsyncResponse, Error
from plugwire.events import Head as HeadEvent
from plugwire.events import Send
from plugwire.protocols import Refused
from plugwire_transports.exchange import next_piece
from plugwire_transports.http2.body import HTTP2Body
from plugwire_transports.http2.exchange import FieldsMemo, HTTP2Exchange
from plugwire_transports.http2.sharing import TORN, SharedConnection
from plugwire_transports.http2.tunnel import TunnelStream
from plugwire_transports.response_body import observed, tell_received_whole

if TYPE_CHECKING:
    from plugwire import Request
    from plugwire.protocols import Body, Call, Connecting, Stream
    from plugwire_transports.http2 import KeepAlive

JOIN_UP_TO: Final = 65536
"""Content in memory up to this size goes out with the fields, as far as the windows let it."""


class HTTP2Connection(SharedConnection):
    """HTTP/2 on one stream."""

    def __init__(self, stream: Stream, connecting: Connecting, keep_alive: KeepAlive | None) -> None:
        super().__init__(stream, connecting, keep_alive)
        self._memo = FieldsMemo()

    # -- the road of a request -----------------------------------------------------------------------------------

    async def send(self, request: Request, call: Call) -> AsyncResponse:
        exchange = HTTP2Exchange(self, request, call)
        try:
            if call.watchers is None:
                await self._submit(exchange)
            else:
                with call.step(Send, request=request, connection=exchange.info):
                    await self._submit(exchange)
            while exchange.answer is None or exchange.interim:
                if not exchange.has_news():
                    await self.wait_for(exchange, exchange.has_news, exchange.read_at(self._now()))
                if exchange.interim:
                    self._tell_interim(exchange)
                exchange.check()
            return self._respond(exchange)
        except Error as error:
            self.cancel(exchange)
            if not self.is_closed:
                self._was_used()
            replayable = True if exchange.is_unprocessed and request.body.is_replayable else None
            error.at(
                exchange.phase, request=request, sent=exchange.sent, replayable=replayable, connection=exchange.info
            )
            raise
        except TimeoutError as error:
            self.cancel(exchange)
            raise exchange.timed_out(exchange.info) from error
        except OSError as error:
            self.cancel(exchange)
            call.check(exchange.phase)
            raise exchange.broken(error, exchange.info) from error
        except BaseException:
            self.cancel(exchange)
            raise

    async def _submit(self, exchange: HTTP2Exchange) -> None:
        """Fields and content, on their way."""
        request = exchange.request
        body = request.body
        exchange.expect = exchange.expected() if body.length != 0 else None
        content = body.content
        exchange.length = body.length if body.length is not None else request.headers.get_int("content-length")
        if body.length == 0 and request.trailers is None:
            # What CONNECT opens goes on in both directions.
            await self._open(exchange, b"", request.method != "CONNECT")
            exchange.phase = "head"
        elif (
            content is not None and len(content) <= JOIN_UP_TO and exchange.expect is None and request.trailers is None
        ):
            rest = await self._open(exchange, content, True)
            if not rest or await self._send_all(exchange, rest, True):
                exchange.phase = "head"
                exchange.tell_sent(exchange.call, len(content))
        else:
            await self._upload(exchange)

    async def _open(self, exchange: HTTP2Exchange, content: bytes, ends: bool) -> memoryview | None:
        """Begin a stream; content goes along as far as the windows let it. What did not, is returned.

        Raises:
            Refused: the peer takes no further stream on this connection, or it is over. Nothing was sent.
        """
        rest: memoryview | None = None
        try:
            with self.lock:
                if self._is_torn:
                    self._die(TORN)
                if self.capacity < 1:
                    raise Refused("the HTTP/2 connection takes no further stream", overtaken=not self.is_idle)
                head = self._memo.head_of(exchange.request)
                self._is_last = self._is_last or self._memo.wants_close
                if self._keep_alive is not None and self.is_idle:
                    self._heard_at = self._now()  # until now there was nothing to be heard
                self._is_torn = True
                wire = self._wire
                exchange.sent = True
                stream = exchange.stream = wire.open(exchange, head, ends and not content)
                if content:
                    room = wire.room(stream)
                    if room >= len(content):
                        wire.send(stream, content, ends)
                        exchange.is_sent = ends
                    else:
                        rest = memoryview(content)
                        if room:
                            wire.send(stream, rest[:room], False)
                            rest = rest[room:]
                else:
                    exchange.is_sent = ends
                self._is_torn = False
                self._measure()
                if wire.open_streams == 1:
                    if self._flusher is None:
                        self._write_out()
                elif self._flusher is None:
                    self._flusher = exchange
            if self._has_news:
                self.settle()
            if self._flusher is exchange:
                await self._runtime.turn()
                self._flush()
        except GeneratorExit:
            raise  # `cancel` does it
        except BaseException:
            if self._flusher is exchange:
                self._flush()
            raise
        return rest

    async def _upload(self, exchange: HTTP2Exchange) -> None:
        """Content of any kind, piece by piece, until it ends or an answer makes the rest superfluous."""
        request, call = exchange.request, exchange.call
        body = request.body.open(call)
        try:
            await self._open(exchange, b"", False)
            if exchange.expect is not None:
                await self._continued(exchange)
                if exchange.is_answered():
                    return
            sent = 0
            while not exchange.is_superfluous():
                piece = await next_piece(body)
                if not piece:
                    break
                sent += len(piece)
                exchange.check_length(sent)
                if not await self._send_all(exchange, piece, False):
                    return
                exchange.tell_sent(call, len(piece), sent)
            # Once all that was announced is out, an answer is no longer an early one: the stream ends in order.
            if exchange.is_stopped() or (exchange.is_superfluous() and sent != exchange.length):
                return
            exchange.check_complete(sent)
            trailers = request.trailers() if request.trailers is not None else None
            with self.lock:
                if self._is_torn:
                    self._die(TORN)
                stream = exchange.stream
                if stream is None or exchange.is_stopped() or (exchange.is_superfluous() and sent != exchange.length):
                    return
                self._is_torn = True
                try:
                    if trailers:
                        self._wire.send_trailers(stream, trailers)
                    else:
                        self._wire.send(stream, b"", True)
                except Error:  # a field that cannot be a trailer: the wire did nothing
                    self._is_torn = False
                    raise
                exchange.is_sent = True
                self._is_torn = False
                self._measure()
                self._write_out()
            exchange.phase = "head"
        finally:
            try:
                if self._has_news:
                    self.settle()
            finally:
                await body.close()

    async def _send_all(self, exchange: HTTP2Exchange, data: bytes | memoryview, ends: bool) -> bool:
        """Send content as the windows let it. False: the rest has lost its meaning."""
        rest = memoryview(data)
        while True:
            if exchange.interim:
                self._tell_interim(exchange)
            at = exchange.write_at(self._now())
            with self.lock:
                if exchange.answer is not None and not exchange.call.streaming:
                    # All of the response will be read, but not before the upload is over: a peer that sends back what
                    # it gets would wait for us, and we for it.
                    self.credit(exchange)
                # For windows, and for an answer that makes the rest superfluous.
                self.look(exchange)
                stream = exchange.stream
                has_meaning = stream is not None and not exchange.is_superfluous()
                size = min(self.room(exchange), len(rest)) if has_meaning else 0
                if size:
                    assert stream is not None
                    self._is_torn = True
                    is_last = ends and size == len(rest)
                    self._wire.send(stream, rest[:size], is_last)
                    exchange.is_sent = is_last
                    rest = rest[size:]
                    self._is_torn = False
                    self._measure()
                    self._write_out()
            if self._has_news:
                self.settle()
            if not has_meaning:
                return False
            if not rest:
                return True
            if not size:
                await self.wait_for(exchange, exchange.may_send, at)

    async def _continued(self, exchange: HTTP2Exchange) -> None:
        """Wait for 100 (Continue), at most as long as the caller said (RFC 9110, 10.1.1)."""
        limit = exchange.deadline.earlier(exchange.expect, "read")
        while not (exchange.may_continue or exchange.is_answered()):
            if not exchange.interim:
                try:
                    await self.wait_for(exchange, exchange.has_news, limit.at)
                except TimeoutError:
                    if exchange.deadline.has_passed():
                        raise
                    return  # a server that does not know Expect: the content goes out all the same
            self._tell_interim(exchange)

    def _tell_interim(self, exchange: HTTP2Exchange) -> None:
        """Interim heads become events, in the call's own thread or task."""
        while exchange.interim:
            head = exchange.interim.popleft()
            exchange.count_interim(head.status, "", head.headers, self._limits.max_informational)

    def _respond(self, exchange: HTTP2Exchange) -> AsyncResponse:
        """The response, whose content came whole with the head, is to be read, or is none at all."""
        head = exchange.answer
        assert head is not None
        request, call = exchange.request, exchange.call
        self._was_used()
        if call.watchers is not None:
            call.tell(HeadEvent, status=head.status, reason="", headers=head.headers, http_version="HTTP/2")
        if request.method == "CONNECT" and head.status < 300:
            return AsyncResponse(
                head.status,
                headers=head.headers,
                request=request,
                http_version="HTTP/2",
                connection=exchange.info,
                stream=TunnelStream(exchange),
            )
        if exchange.is_ended and exchange.trailers is None and exchange.failure is None:
            content = exchange.take(exchange.held) if exchange.held else b""
            self.cancel(exchange)
            if call.watchers is not None:
                tell_received_whole(call, len(content))
            return AsyncResponse(
                head.status,
                headers=head.headers,
                content=content,
                request=request,
                http_version="HTTP/2",
                connection=exchange.info,
            )
        body: Body = HTTP2Body(exchange, head.length)
        if call.watchers is not None:
            body = observed(body, call)
        return AsyncResponse(
            head.status,
            headers=head.headers,
            body=body,
            request=request,
            http_version="HTTP/2",
            connection=exchange.info,
        )
