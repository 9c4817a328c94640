"""The speaker "http/1.1": the pump over the wire of `http11_wire`. It alone awaits (with `http11_body`, which
reads the rest of a response); the wire alone knows the syntax; `http11_exchange` is what goes out, and what to tell.

One request at a time. The life of a connection:

    IDLE -> SENDING -> HEAD -> BODY -> IDLE      keep-alive, and nothing surplus came
      any of them   -> CLOSED                    everything else
    HEAD -> GONE                                 101 or CONNECT: the stream belongs to the caller

Rules that hold: an interim (1xx) response never ends an upload, a final one does, and then the connection is not used
again. Bytes behind the end of a response belong to nobody and retire the connection; bytes before the request was sent
are somebody's try to answer it in advance and make `is_fresh` say no. Whatever is raised from `send`, the connection is
closed, unless nothing was sent.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from plugwire import (
    AsyncResponse,
    ConnectionClosed,
    Error,
    ProtocolError,
    ReadError,
)
from plugwire.events import Head, Send
from plugwire.protocols import (
    FORWARDING_PROXY,
    LOCAL_ADDRESS,
    PEER_ADDRESS,
    TLS,
    Body,
    Connection,
    ConnectionInfo,
    Refused,
    connection_ids,
)
from plugwire_transports.exchange import is_too_late, next_piece
from plugwire_transports.http11_body import RECEIVE_SIZE, HTTP11Body
from plugwire_transports.http11_exchange import HTTP11Exchange
from plugwire_transports.http11_wire import (
    FramingKind,
    HeadReader,
    decoder,
    encode_chunk,
    encode_last_chunk,
    framing,
)
from plugwire_transports.prefixed import PrefixedStream
from plugwire_transports.response_body import observed, tell_received_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire import Request
    from plugwire.protocols import Call, Connecting, Route, Stream
    from plugwire_transports.http11_wire import ResponseHead


class HTTP11:
    """The transport "http/1.1" (RFC 9112). Also speaks with HTTP/1.0 servers."""

    name = "http/1.1"
    protocols = ("http/1.1",)
    honours = frozenset({"http_versions", "proxy"})

    def refuse(self, route: Route) -> str | None:
        """Takes routes that allow HTTP/1.1."""
        return None if "http/1.1" in route.http_versions else "http/1.1 is not in http_versions"

    async def speak(self, stream: Stream, protocol: str, route: Route, connecting: Connecting) -> HTTP11Connection:
        """A connection over the stream; nothing is sent."""
        if stream.extra(FORWARDING_PROXY):
            from plugwire_transports.forwarded import ForwardedConnection

            return ForwardedConnection(stream, route, connecting)
        return HTTP11Connection(stream, connecting)


class HTTP11Connection(Connection):
    """HTTP/1.1 on one stream."""

    def __init__(self, stream: Stream, connecting: Connecting) -> None:
        self.capacity = 1
        self.is_idle = True
        self.is_draining = False
        self.is_closed = False
        self.info = ConnectionInfo(
            next(connection_ids), "HTTP/1.1", stream.extra(LOCAL_ADDRESS), stream.extra(PEER_ADDRESS), stream.extra(TLS)
        )
        self.stream = stream
        self._limits = connecting.limits
        self._changed: Callable[[Connection], None] = connecting.changed
        self._now = connecting.runtime.now
        self._reader = HeadReader(connecting.limits)
        # The last block of request fields that says nothing about framing or the connection. The same session sends the
        # same object again and again, and it need not be looked at twice.
        self._plain_block: bytes | None = None

    # -- the road of a request

    async def send(self, request: Request, call: Call) -> AsyncResponse:
        if not self.capacity:
            raise Refused("the connection has an open request, or is closed")
        self.capacity = 0
        self.is_idle = False
        # What is wrong with the request itself is found before the first byte, and leaves the connection as it is.
        try:
            exchange = HTTP11Exchange(request, call, self._plain_block)
            self._plain_block = exchange.plain_block
        except BaseException:
            self.reusable()
            raise
        try:
            if exchange.is_simple and call.watchers is None:
                head = await self._simple(exchange, call)
            else:
                head = await self._observed(exchange, call)
            return self._respond(exchange, head, call)
        except Error as error:
            self._failed(exchange)
            error.at(exchange.phase, request=request, sent=exchange.sent, connection=self.info)
            raise
        except OSError as error:
            self._failed(exchange)
            if is_too_late(error):
                raise exchange.timed_out(self.info) from error
            call.check(exchange.phase)
            raise exchange.broken(error, self.info) from error
        except BaseException:
            self._failed(exchange)
            raise

    async def _simple(self, exchange: HTTP11Exchange, call: Call) -> ResponseHead:
        """The hot road: head and body go out in one piece, then the head comes back."""
        stream = self.stream
        deadline = call.deadline.at
        timeout = call.timeout
        at = self._now() + timeout.write if timeout.write is not None else inf
        exchange.sent = True
        try:
            await stream.send(exchange.head, at if at < deadline else deadline)
        except OSError as error:
            head = self._last_words(error, exchange, call)
            if head is None:
                raise
            return head
        exchange.phase = "head"
        while True:
            at = self._now() + timeout.read if timeout.read is not None else inf
            data = await stream.receive(RECEIVE_SIZE, at if at < deadline else deadline)
            head = self._heard(data, exchange, call)
            if head is not None:
                return head

    async def _observed(self, exchange: HTTP11Exchange, call: Call) -> ResponseHead:
        """The same with a body of its own, with 100 (Continue), with observers."""
        head: ResponseHead | None = None
        with call.step(Send, request=exchange.request, connection=self.info):
            try:
                if exchange.is_simple:
                    at = exchange.write_at(self._now())
                    exchange.sent = True
                    await self.stream.send(exchange.head, at)
                    exchange.tell_sent(call, exchange.size_in_head)
                else:
                    head = await self._upload(exchange, call)
            except OSError as error:
                head = self._last_words(error, exchange, call)
                if head is None:
                    raise
        exchange.phase = "head"
        while head is None:
            data = await self.stream.receive(RECEIVE_SIZE, exchange.read_at(self._now()))
            head = self._heard(data, exchange, call)
        return head

    async def _upload(self, exchange: HTTP11Exchange, call: Call) -> ResponseHead | None:
        """Send head and body; a final response that comes meanwhile ends it, and is returned."""
        request, stream = exchange.request, self.stream
        body = request.body.open(call)
        exchange.is_upload_open = True
        try:
            at = exchange.write_at(self._now())
            exchange.sent = True
            await stream.send(exchange.head, at)
            if exchange.expect is not None:
                head = await self._continued(exchange, call)
                if head is not None:
                    return head
            sent = 0
            while True:
                piece = await next_piece(body)
                # Once all that was announced is out, an answer is no longer an early one.
                if sent != exchange.length:
                    head = self._overheard(exchange, call)
                    if head is not None:
                        return head
                if not piece:
                    break
                sent += len(piece)
                exchange.check_length(sent)
                buffers: Any = encode_chunk(piece) if exchange.is_chunked else piece
                head = await self._send_listening(buffers, exchange, call)
                if head is not None:
                    return head
                exchange.tell_sent(call, len(piece), sent)
            exchange.check_complete(sent)
            if exchange.is_chunked:
                trailers = request.trailers() if request.trailers is not None else None
                head = await self._send_listening(encode_last_chunk(trailers), exchange, call)
                if head is not None:
                    return head
            exchange.is_upload_open = False
            return None
        finally:
            await body.close()

    async def _send_listening(self, data: Any, exchange: HTTP11Exchange, call: Call) -> ResponseHead | None:
        """Send all of `data`, unless a final response comes first: that one is returned."""
        stream = self.stream
        rest: Any = data
        left = inf
        while True:
            try:
                await stream.send(rest, exchange.write_at(self._now()), stop_if_readable=True)
            except TimeoutError as error:
                # The budget begins anew with each byte that the peer takes, and a slow one takes few of a large piece.
                if not is_too_late(error) or exchange.deadline.has_passed() or not 0 < stream.unsent < left:
                    raise
            left = stream.unsent
            if not left:
                return None
            head = self._overheard(exchange, call)
            if head is not None:
                return head
            rest = b""

    async def _continued(self, exchange: HTTP11Exchange, call: Call) -> ResponseHead | None:
        """Wait for 100 (Continue), at most as long as the caller said; a final response in its place is returned
        (RFC 9110, 10.1.1)."""
        limit = exchange.deadline.earlier(exchange.expect, "read")
        while not exchange.may_continue:
            try:
                data = await self.stream.receive(RECEIVE_SIZE, limit.at)
            except TimeoutError as error:
                if exchange.deadline.has_passed() or not is_too_late(error):
                    raise
                return None  # an HTTP/1.0 server, or one that does not know Expect: the body goes out all the same
            head = self._heard(data, exchange, call)
            if head is not None:
                return head
        return None

    def _overheard(self, exchange: HTTP11Exchange, call: Call) -> ResponseHead | None:
        """What the peer has said while we were sending."""
        data = self.stream.read_now(RECEIVE_SIZE)
        return None if data is None else self._heard(data, exchange, call)

    def _last_words(self, error: OSError, exchange: HTTP11Exchange, call: Call) -> ResponseHead | None:
        """The final response that lies in the receive buffer of a connection on which we cannot write any more: the
        peer may have answered (413, 401) before it closed, and then that is what the caller wants to know."""
        if isinstance(error, Error) or is_too_late(error):
            return None
        try:
            while (data := self.stream.read_now(RECEIVE_SIZE)) is not None:
                head = self._heard(data, exchange, call)
                if head is not None:
                    exchange.wants_close = True
                    return head
        except (OSError, Error):
            pass
        return None

    def _heard(self, data: bytes, exchange: HTTP11Exchange, call: Call) -> ResponseHead | None:
        """Feed the head reader; the final head, or None until it is complete. Interim ones become events."""
        reader = self._reader
        if not data:
            reader.eof()
            if exchange.has_answer:
                raise ReadError("the peer closed the connection after an interim response, before the final one")
            raise ConnectionClosed("the peer closed the connection without a response")
        exchange.has_answer = True
        while True:
            head = reader.feed(data)
            if head is None:
                return None
            if head.status >= 200 or head.status == 101:
                return head
            exchange.count_interim(head.status, head.reason, head.headers, self._limits.max_informational)
            data = reader.rest
            if not data:
                return None

    def _respond(self, exchange: HTTP11Exchange, head: ResponseHead, call: Call) -> AsyncResponse:
        """The response, whose body came whole with the head, is to be read, or is no body at all."""
        request = exchange.request
        rest = self._reader.rest
        framed = framing(request.method, head)
        kind = framed.kind
        info = self.info
        if not info.reused:
            self.info = info._replace(reused=True)
        if call.watchers is not None:
            call.tell(Head, status=head.status, reason=head.reason, headers=head.headers, http_version=head.version)
        if kind is FramingKind.TUNNEL:
            return self._tunnel(exchange, head, info, rest)
        keep = head.keep_alive and not (exchange.is_upload_open or exchange.wants_close)
        length = framed.length
        if length is not None and len(rest) >= length:
            if call.watchers is not None:
                tell_received_whole(call, length)
            response = AsyncResponse(
                head.status,
                headers=head.headers,
                content=rest if len(rest) == length else rest[:length],
                request=request,
                http_version=head.version,
                reason=head.reason,
                connection=info,
            )
            if keep and len(rest) == length:
                self.reusable()
            else:
                self.close()
            return response
        body: Body = HTTP11Body(self, info, request, call, decoder(framed, self._limits), rest, keep)
        if call.watchers is not None:
            body = observed(body, call)
        return AsyncResponse(
            head.status,
            headers=head.headers,
            body=body,
            request=request,
            http_version=head.version,
            reason=head.reason,
            connection=info,
        )

    def _tunnel(self, exchange: HTTP11Exchange, head: ResponseHead, info: ConnectionInfo, rest: bytes) -> AsyncResponse:
        """101 or CONNECT: from here on the stream is the caller's."""
        if head.status == 101 and "upgrade" not in exchange.request.headers:
            raise ProtocolError("101 (Switching Protocols), but the request has no Upgrade field (RFC 9110, 15.2.2)")
        stream = PrefixedStream(rest, self.stream) if rest else self.stream
        response = AsyncResponse(
            head.status,
            headers=head.headers,
            request=exchange.request,
            http_version=head.version,
            reason=head.reason,
            connection=info,
            stream=stream,
        )
        self.stream = _GONE
        self.is_closed = True
        self._changed(self)
        return response

    # -- the connection's own life

    def _failed(self, exchange: HTTP11Exchange) -> None:
        """No response: nobody knows what is on its way, unless nothing was sent."""
        if exchange.sent:
            self.close()
        else:
            self.reusable()

    def reusable(self) -> None:
        """The response is complete, the connection takes the next request."""
        if not self.is_closed:
            self.capacity = 1
            self.is_idle = True
            self._changed(self)

    def is_fresh(self) -> bool:
        # Anything there, the end included, came unasked: the peer closed, or tries to answer the next request.
        if self.is_closed:
            return False
        try:
            return self.stream.read_now(1) is None
        except OSError:
            return False

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.capacity = 0
            self.is_idle = True
            self.stream.close()
            self._changed(self)

    def drop(self) -> None:
        """Close in a finaliser. That may run inside of the pool's own step, so the pool is not told; the place comes
        back when the connection itself is gone."""
        self.is_closed = True
        self.capacity = 0
        self.is_idle = True
        self.stream.close()

    def abort(self) -> None:
        self.stream.abort()

    def disown(self) -> None:
        self.is_closed = True
        self.capacity = 0
        self.is_idle = True
        self.stream.disown()


def tell_nobody(connection: Connection) -> None:
    """`Connecting.changed`, for a connection of which no pool is to hear."""


class _Gone(PrefixedStream):
    """Stands in for a stream that was handed to the caller: whatever the connection still does, does nothing."""

    def __init__(self) -> None:
        pass

    def read_now(self, max_bytes: int) -> bytes | None:
        return b""

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def disown(self) -> None:
        pass


_GONE: Final = _Gone()
