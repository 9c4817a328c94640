"""The content of an HTTP/1.1 response, read as the caller asks for it.

What came with the head is given first; then the stream is read, straight into the caller's buffer wherever the decoder
says that the next bytes are content for certain. The connection is free again as soon as the last byte was read, not
when the caller asks once more. A cancellation by asyncio or trio loses no byte and leaves the body as it is; any other
interrupt ends it, because nobody knows between which two of its steps it came.
"""

from __future__ import annotations

import warnings
from math import inf
from typing import TYPE_CHECKING, Final, NoReturn

from plugwire import Cancelled, Error, IncompleteBody, ReadError
from plugwire.events import Data, Receive
from plugwire.protocols import Body, Deadline, WatchedBody
from plugwire_transports.http11_wire import CloseDecoder

if TYPE_CHECKING:
    from plugwire import Request
    from plugwire.protocols import Call, ConnectionInfo
    from plugwire_transports.http11 import HTTP11Connection
    from plugwire_transports.http11_wire import BodyDecoder

RECEIVE_SIZE: Final = 65536

DRAIN_BYTES: Final = 65536
DRAIN_SECONDS: Final = 0.1
"""What `close()` of an unread body reads and drops at most, to keep the connection: a new one would cost more."""


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
        self._stream = connection.stream
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
                connection.reusable()
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
                self._ahead = b""  # what came with the head is gone with the rest

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


class ObservedBody(WatchedBody):
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


def tell_received_whole(call: Call, size: int) -> None:
    """The events of a body that came with the head."""
    with call.step(Receive) as step:
        if size and call.wants(Data):
            call.tell(Data, sent=False, size=size, done=size, total=size)
        step.note(size=size)
