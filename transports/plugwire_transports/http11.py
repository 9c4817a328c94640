"""The speaker "http/1.1": the pump over the wire of `http11_wire`. It alone awaits; the wire alone knows the syntax.

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

import warnings
from math import inf
from typing import TYPE_CHECKING, Any, Final, NoReturn

from plugwire import (
    AsyncResponse,
    Cancelled,
    ConnectionClosed,
    Error,
    IncompleteBody,
    LimitExceeded,
    ProtocolError,
    ReadError,
    UsageError,
    WriteError,
)
from plugwire.events import Data, Head, Informational, Receive, Send
from plugwire.protocols import (
    LOCAL_ADDRESS,
    PEER_ADDRESS,
    TLS,
    Body,
    Connection,
    ConnectionInfo,
    Deadline,
    Refused,
    WatchedBody,
    connection_ids,
)
from plugwire_transports.http11_wire import (
    CloseDecoder,
    FramingKind,
    HeadReader,
    decoder,
    encode_chunk,
    encode_head,
    encode_last_chunk,
    framing,
    join_head,
)
from plugwire_transports.prefixed import PrefixedStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire import Request
    from plugwire.errors import Phase
    from plugwire.protocols import Call, Connecting, Route, Stream
    from plugwire_transports.http11_wire import BodyDecoder, ResponseHead

RECEIVE_SIZE: Final = 65536
UPLOAD_PIECE: Final = 262144
JOIN_UP_TO: Final = 65536
"""A body in memory up to this size is joined to the head: one system call, one packet if it is small."""

DRAIN_BYTES: Final = 65536
DRAIN_SECONDS: Final = 0.1
"""What `close()` of an unread body reads and drops at most, to keep the connection: a new one would cost more."""

EXPECT_SECONDS: Final = 1.0
"""How long to wait for 100 (Continue) when the caller only set the header (what curl waits)."""


class HTTP11:
    """The transport "http/1.1" (RFC 9112). Also speaks with HTTP/1.0 servers."""

    name = "http/1.1"
    protocols = ("http/1.1",)
    honours = frozenset({"http_versions"})

    def refuse(self, route: Route) -> str | None:
        """Takes routes that allow HTTP/1.1."""
        return None if "http/1.1" in route.http_versions else "http/1.1 is not in http_versions"

    async def speak(self, stream: Stream, protocol: str, route: Route, connecting: Connecting) -> HTTP11Connection:
        """A connection over the stream; nothing is sent."""
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
        self._stream = stream
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
            exchange = _Exchange(request, call, self._plain_block)
            self._plain_block = exchange.plain_block
        except BaseException:
            self._reusable()
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
        except TimeoutError as error:
            self._failed(exchange)
            raise exchange.timed_out(self.info) from error
        except OSError as error:
            self._failed(exchange)
            call.check()
            raise exchange.broken(error, self.info) from error
        except BaseException:
            self._failed(exchange)
            raise

    async def _simple(self, exchange: _Exchange, call: Call) -> ResponseHead:
        """The hot road: head and body go out in one piece, then the head comes back."""
        stream = self._stream
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

    async def _observed(self, exchange: _Exchange, call: Call) -> ResponseHead:
        """The same with a body of its own, with 100 (Continue), with observers."""
        head: ResponseHead | None = None
        with call.step(Send, request=exchange.request, connection=self.info):
            try:
                if exchange.is_simple:
                    exchange.sent = True
                    await self._stream.send(exchange.head, exchange.write_at(self._now()))
                    exchange.tell_sent(call, exchange.size_in_head)
                else:
                    head = await self._upload(exchange, call)
            except OSError as error:
                head = self._last_words(error, exchange, call)
                if head is None:
                    raise
        exchange.phase = "head"
        while head is None:
            data = await self._stream.receive(RECEIVE_SIZE, exchange.read_at(self._now()))
            head = self._heard(data, exchange, call)
        return head

    async def _upload(self, exchange: _Exchange, call: Call) -> ResponseHead | None:
        """Send head and body; a final response that comes meanwhile ends it, and is returned."""
        request, stream = exchange.request, self._stream
        body = request.body.open(call)
        exchange.is_upload_open = True
        try:
            exchange.sent = True
            await stream.send(exchange.head, exchange.write_at(self._now()))
            if exchange.expect is not None:
                head = await self._continued(exchange, call)
                if head is not None:
                    return head
            sent = 0
            while True:
                piece = await _read_from(body)
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

    async def _send_listening(self, data: Any, exchange: _Exchange, call: Call) -> ResponseHead | None:
        """Send all of `data`, unless a final response comes first: that one is returned."""
        stream = self._stream
        rest: Any = data
        left = inf
        while True:
            try:
                await stream.send(rest, exchange.write_at(self._now()), stop_if_readable=True)
            except TimeoutError:
                # The budget begins anew with each byte that the peer takes, and a slow one takes few of a large piece.
                if exchange.deadline.has_passed() or not 0 < stream.unsent < left:
                    raise
            left = stream.unsent
            if not left:
                return None
            head = self._overheard(exchange, call)
            if head is not None:
                return head
            rest = b""

    async def _continued(self, exchange: _Exchange, call: Call) -> ResponseHead | None:
        """Wait for 100 (Continue), at most as long as the caller said; a final response in its place is returned
        (RFC 9110, 10.1.1)."""
        limit = exchange.deadline.earlier(exchange.expect, "read")
        while not exchange.may_continue:
            try:
                data = await self._stream.receive(RECEIVE_SIZE, limit.at)
            except TimeoutError:
                if exchange.deadline.has_passed():
                    raise
                return None  # an HTTP/1.0 server, or one that does not know Expect: the body goes out all the same
            head = self._heard(data, exchange, call)
            if head is not None:
                return head
        return None

    def _overheard(self, exchange: _Exchange, call: Call) -> ResponseHead | None:
        """What the peer has said while we were sending."""
        data = self._stream.read_now(RECEIVE_SIZE)
        return None if data is None else self._heard(data, exchange, call)

    def _last_words(self, error: OSError, exchange: _Exchange, call: Call) -> ResponseHead | None:
        """The final response that lies in the receive buffer of a connection on which we cannot write any more: the
        peer may have answered (413, 401) before it closed, and then that is what the caller wants to know."""
        if isinstance(error, (TimeoutError, Error)):
            return None
        try:
            while (data := self._stream.read_now(RECEIVE_SIZE)) is not None:
                head = self._heard(data, exchange, call)
                if head is not None:
                    exchange.wants_close = True
                    return head
        except (OSError, Error):
            pass
        return None

    def _heard(self, data: bytes, exchange: _Exchange, call: Call) -> ResponseHead | None:
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
            if head.status == 100:
                exchange.may_continue = True
            exchange.informational += 1
            if exchange.informational > self._limits.max_informational:
                raise LimitExceeded(
                    f"more than max_informational={self._limits.max_informational} interim responses",
                    "max_informational",
                )
            call.tell(Informational, status=head.status, reason=head.reason, headers=head.headers)
            data = reader.rest
            if not data:
                return None

    def _respond(self, exchange: _Exchange, head: ResponseHead, call: Call) -> AsyncResponse:
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
                _tell_received_whole(call, length)
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
                self._reusable()
            else:
                self.close()
            return response
        body: Body = HTTP11Body(self, info, request, call, decoder(framed, self._limits), rest, keep)
        if call.watchers is not None and (call.wants(Data) or call.wants(Receive)):
            body = _ObservedBody(body, call)
        return AsyncResponse(
            head.status,
            headers=head.headers,
            body=body,
            request=request,
            http_version=head.version,
            reason=head.reason,
            connection=info,
        )

    def _tunnel(self, exchange: _Exchange, head: ResponseHead, info: ConnectionInfo, rest: bytes) -> AsyncResponse:
        """101 or CONNECT: from here on the stream is the caller's."""
        if head.status == 101 and "upgrade" not in exchange.request.headers:
            raise ProtocolError("101 (Switching Protocols), but the request has no Upgrade field (RFC 9110, 15.2.2)")
        stream = PrefixedStream(rest, self._stream) if rest else self._stream
        response = AsyncResponse(
            head.status,
            headers=head.headers,
            request=exchange.request,
            http_version=head.version,
            reason=head.reason,
            connection=info,
            stream=stream,
        )
        self._stream = _GONE
        self.is_closed = True
        self._changed(self)
        return response

    # -- the connection's own life

    def _failed(self, exchange: _Exchange) -> None:
        """No response: nobody knows what is on its way, unless nothing was sent."""
        if exchange.sent:
            self.close()
        else:
            self._reusable()

    def _reusable(self) -> None:
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
            return self._stream.read_now(1) is None
        except OSError:
            return False

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.capacity = 0
            self.is_idle = True
            self._stream.close()
            self._changed(self)

    def drop(self) -> None:
        """Close in a finaliser. That may run inside of the pool's own step, so the pool is not told; the place comes
        back when the connection itself is gone."""
        self.is_closed = True
        self.capacity = 0
        self.is_idle = True
        self._stream.close()

    def abort(self) -> None:
        self._stream.abort()


async def _read_from(body: Body) -> bytes:
    """The next piece of the request's content. What goes wrong in there is not the connection's fault."""
    try:
        return await body.receive(UPLOAD_PIECE)
    except OSError as error:
        if isinstance(error, Error):
            raise
        raise UsageError(f"the request's body could not be read: {error}") from error


class _Exchange:
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
        if self.phase == "write":
            broken = WriteError(f"the connection broke while the request was sent: {reason}")
        elif not self.has_answer:
            broken = ConnectionClosed(f"the peer closed the connection without a response: {reason}")
        else:
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


class HTTP11Body(Body):
    """Reads the content of a response. The connection is free again as soon as the last byte was read."""

    def __init__(
        self,
        connection: HTTP11Connection,
        info: ConnectionInfo,
        request: Request,
        call: Call,
        framed: BodyDecoder,
        rest: bytes,
        keep: bool,
    ) -> None:
        self.length = framed.expected
        self._connection: HTTP11Connection | None = connection
        self._stream = connection._stream  # pyright: ignore[reportPrivateUsage]  # the body is that connection's own
        self._info = info
        self._request = request
        self._call = call
        self._decoder = framed
        self._keep = keep
        self._ahead: memoryview | bytes = b""
        self._error: Error | None = None
        self._is_reading = False
        self._is_aborted = False
        if rest:
            try:
                self._ahead = self._fed(rest)
            except Error as error:
                # The content before the fault is lost, and the first read says so.
                self._fail(error)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while True:
            if self._ahead:
                return self._take(max_bytes)
            if self._connection is None:
                return self._over()
            try:
                self._is_reading = True
                data = await self._stream.receive(max(max_bytes, 4096), self._at())
                self._arrived(data)
            except BaseException as error:
                self._raise(error)
            finally:
                self._is_reading = False

    async def receive_into(self, buffer: memoryview) -> int:
        while True:
            if self._ahead:
                data = self._take(len(buffer))
                buffer[: len(data)] = data
                return len(data)
            if self._connection is None:
                self._over()
                return 0
            framed = self._decoder
            direct = framed.direct
            try:
                self._is_reading = True
                if not direct:
                    self._arrived(await self._stream.receive(RECEIVE_SIZE, self._at()))
                    continue
                # Content for certain: from the socket into the caller's buffer, without a copy of ours.
                size = await self._stream.receive_into(buffer if len(buffer) <= direct else buffer[:direct], self._at())
                if size:
                    framed.took(size)
                    if framed.is_done:
                        self._finish()
                    return size
                self._arrived(b"")
            except BaseException as error:
                self._raise(error)
            finally:
                self._is_reading = False

    def _at(self) -> float:
        call = self._call
        read = call.timeout.read
        now = call.runtime.now()
        if now >= call.total.at:
            # Asked here too, because a stream that always has something to give never looks at the time.
            raise TimeoutError
        return min(call.total.at, inf if read is None else now + read)

    def _fed(self, data: bytes) -> memoryview | bytes:
        content = self._decoder.feed(data)
        if self._decoder.is_done:
            self._finish()
        return content

    def _arrived(self, data: bytes) -> None:
        if data:
            self._ahead = self._fed(data)
        else:
            self._decoder.eof()
            self._keep = False
            self._finish()

    def _take(self, max_bytes: int) -> bytes:
        ahead = self._ahead
        if len(ahead) <= max_bytes:
            self._ahead = b""
            return ahead if type(ahead) is bytes else bytes(ahead)
        view = memoryview(ahead)
        self._ahead = view[max_bytes:]
        return bytes(view[:max_bytes])

    def _over(self) -> bytes:
        if self._error is not None:
            raise self._error
        return b""

    def _finish(self) -> None:
        """The end is verified."""
        self.trailers = self._decoder.trailers
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._keep and not self._decoder.rest:
                connection._reusable()  # pyright: ignore[reportPrivateUsage]  # the body is that connection's own
            else:
                connection.close()

    def _fail(self, error: Error) -> Error:
        """The body cannot be read on; every later read says the same."""
        error.at("body", request=self._request, sent=True, connection=self._info)
        self._call.blame(error, self._request)
        self._error = error
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        return error

    def _raise(self, error: BaseException) -> NoReturn:
        broken = self._broken(error)
        if broken is error:
            raise error
        raise broken from error

    def _broken(self, error: BaseException) -> BaseException:
        """What a failed read means. A cancellation by asyncio or trio loses no byte and leaves the body as it is."""
        call = self._call
        if isinstance(error, call.runtime.cancellation):
            return error
        if call.is_cancelled or call.session.is_closed:
            try:
                call.check()
            except Error as reason:
                return self._fail(reason)
        if self._is_aborted:
            return self._fail(Cancelled("the response was closed while its body was being read"))
        if isinstance(error, TimeoutError) and not isinstance(error, Error):
            deadline = call.total
            if not deadline.has_passed():
                seconds = call.timeout.read if call.timeout.read is not None else inf
                deadline = Deadline(call.runtime.now, call.runtime.now(), "read", seconds)
            return self._fail(deadline.error("body"))
        if isinstance(error, Error):
            return self._fail(error)
        if isinstance(error, OSError):
            return self._fail(self._cut(error))
        self._fail(ReadError(f"reading was interrupted by {type(error).__name__}"))
        return error

    def _cut(self, error: OSError) -> Error:
        framed = self._decoder
        reason = error.strerror or str(error)
        if isinstance(framed, CloseDecoder):
            # Only the end of the connection could have said that this body is complete, and it did not end in order
            # (over TLS: no close_notify).
            return IncompleteBody(
                f"the connection broke inside the body, after {framed.received} bytes: {reason}", framed.received
            )
        return ReadError(f"the connection broke inside the body, after {framed.received} bytes of content: {reason}")

    async def close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        self._ahead = b""
        framed = self._decoder
        left = DRAIN_BYTES
        # What is certain to come yet must fit: a chunked body tells at least the rest of its chunk, one that ends with
        # the connection is endless.
        if self._keep and framed.direct <= left:
            at = min(self._call.runtime.now() + DRAIN_SECONDS, self._call.total.at)
            try:
                while self._connection is not None and left > 0:
                    data = await self._stream.receive(RECEIVE_SIZE, at)
                    left -= len(data)
                    self._arrived(data)
                    self._ahead = b""
            except (OSError, Error):
                pass
            except BaseException:
                self._drop()
                raise
        self._drop()

    def _drop(self) -> None:
        self._ahead = b""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        connection = self._connection
        if connection is not None:
            self._is_aborted = True  # before the reader is woken, who asks
            connection.abort()
            # Who reads closes the connection when it is woken. Without one (its read was cancelled) nobody else would.
            if not self._is_reading:
                try:
                    self._call.check()
                    reason: Error = ReadError("the response was aborted before its body was read")
                except Error as error:
                    reason = error
                self._fail(reason)

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:
            self._connection = None
            holder = self._call.holder
            connection.drop()
            warnings.warn(
                f"the response to {self._request.method} {self._request.url} was dropped without close()"
                + (f" by the plugin {holder}" if holder else ""),
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class _ObservedBody(WatchedBody):
    """Tells of each piece, and of the end."""

    def __init__(self, inner: Body, call: Call) -> None:
        super().__init__(inner)
        self._call = call
        self._step = call.step(Receive).start()
        self._done = 0

    def seen(self, data: bytes | memoryview) -> None:
        self._done += len(data)
        if self._call.wants(Data):
            self._call.tell(Data, sent=False, size=len(data), done=self._done, total=self.length)

    def ended(self, error: BaseException | None) -> None:
        self._step.note(size=self._done)
        self._step.end(error)


def _tell_received_whole(call: Call, size: int) -> None:
    """The events of a body that came with the head."""
    with call.step(Receive) as step:
        if size and call.wants(Data):
            call.tell(Data, sent=False, size=size, done=size, total=size)
        step.note(size=size)


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


_GONE: Final = _Gone()
