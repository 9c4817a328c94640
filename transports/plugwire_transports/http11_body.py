"""The content of an HTTP/1.1 response, read as the caller asks for it.

What came with the head is given first; then the stream is read, straight into the caller's buffer wherever the decoder
says that the next bytes are content for certain. The connection is free again as soon as the last byte was read, not
when the caller asks once more.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from plugwire import Error, IncompleteBody, ReadError
from plugwire_transports.http11_wire import CloseDecoder
from plugwire_transports.response_body import ResponseBody

if TYPE_CHECKING:
    from plugwire import Request
    from plugwire.protocols import Call, ConnectionInfo
    from plugwire_transports.http11 import HTTP11Connection
    from plugwire_transports.http11_wire import BodyDecoder

RECEIVE_SIZE: Final = 65536

DRAIN_BYTES: Final = 65536
DRAIN_SECONDS: Final = 0.1
"""What `close()` of an unread body reads and drops at most, to keep the connection: a new one would cost more."""


class HTTP11Body(ResponseBody):
    """Reads the content of a response. The connection is free again as soon as the last byte was read."""

    _connection: HTTP11Connection | None = None

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
        super().__init__(info, request, call)
        self.length = framed.expected
        self._connection = connection
        self._stream = connection.stream
        self._decoder = framed
        self._keep = keep
        self._ahead: memoryview | bytes = b""
        self._is_reading = False
        # Around letting go of the connection, and around aborting it: what was let go may be another call's at once.
        self._guard = threading.RLock()
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
                return self._ended()
            try:
                self._is_reading = True
                data = await self._stream.receive(max(max_bytes, 4096), self._read_at())
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
                self._ended()
                return 0
            framed = self._decoder
            direct = framed.direct
            try:
                self._is_reading = True
                if not direct:
                    self._arrived(await self._stream.receive(RECEIVE_SIZE, self._read_at()))
                    continue
                # Content for certain: from the socket into the caller's buffer, without a copy of ours.
                size = await self._stream.receive_into(
                    buffer if len(buffer) <= direct else buffer[:direct], self._read_at()
                )
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

    def _finish(self) -> None:
        """The end is verified."""
        self.trailers = self._decoder.trailers
        with self._guard:
            connection, self._connection = self._connection, None
        if connection is not None:
            if self._keep and not self._decoder.rest:
                connection.reusable()
            else:
                connection.close()

    @property
    def is_over(self) -> bool:
        return self._connection is None

    def _broken_off(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _dropped(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()

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
        self._broken_off()

    def abort(self) -> None:
        with self._guard:
            connection = self._connection
            if connection is None:
                return
            self._is_aborted = True  # before the reader is woken, who asks
            connection.abort()
        # Who reads closes the connection when it is woken. Without one (its read was cancelled) nobody else would.
        if not self._is_reading:
            self._fail(self._why_aborted())
            self._ahead = b""  # what came with the head is gone with the rest
