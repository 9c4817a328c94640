"""The classical road in steps: a connection's handle, a request's handle, and their blocking faces.

    with session.connect("https://host") as connection:           # dials now
        request = connection.open_request("GET", "/path")         # no I/O
        request.headers.add("accept", "text/plain")
        response = request.send()                                 # the body is unread
        size = response.readinto(buffer)

Push-style upload: `request.begin()`, `request.write(data)` as often as you like, `response = request.end()`. It needs
no thread and no task: the chain of plugins is stepped until it asks for bytes (`drive.Stepper`).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, Self, Unpack

from plugwire.blocking_response import Response, answer, driven
from plugwire.drive import Stepper, ask_for_bytes, drive
from plugwire.errors import Busy, NotReplayable, UsageError
from plugwire.protocols import Body

if TYPE_CHECKING:
    from types import TracebackType

    from plugwire.call import Call
    from plugwire.config import CallOptions
    from plugwire.engine import Lease
    from plugwire.headers import Headers
    from plugwire.messages import AsyncResponse, Request
    from plugwire.protocols import Buffer, ConnectionInfo
    from plugwire.url import URL
    from plugwire.view import View


class PushSource:
    """The content that the caller of `write` gives, piece by piece. It can be sent once."""

    content = None
    is_replayable = False

    def __init__(self, length: int | None) -> None:
        self.length = length
        self._is_open = False

    def open(self, call: Call) -> Body:
        if self._is_open:
            raise NotReplayable("a body that is pushed by write() can be sent only once")
        self._is_open = True
        return _PushBody(self.length)


class _PushBody(Body):
    def __init__(self, length: int | None) -> None:
        self.length = length
        self._rest = memoryview(b"")
        self._is_over = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self._rest and not self._is_over:
            data = await ask_for_bytes()
            if len(data) == 0:
                self._is_over = True
            self._rest = memoryview(data)
        piece = bytes(self._rest[:max_bytes])
        self._rest = self._rest[max_bytes:]
        return piece


class AsyncRequestHandle:
    """A request that was opened and not sent yet. Its `headers` may be changed until then.

    Made by `connection.open_request(...)` or `session.open_request(...)`, without any I/O.
    """

    def __init__(self, view: View, request: Request, options: CallOptions) -> None:
        self.request = request
        self._view = view
        self._options = options
        self._pushing: Stepper[AsyncResponse] | None = None
        self._left: int | None = None  # of the length that was announced
        self._over = ""  # why nothing can be written any more
        self._is_sent = False

    @property
    def headers(self) -> Headers:
        """The request's own header fields; the session's are put under them when it is sent."""
        return self.request.headers

    @property
    def method(self) -> str:
        """The method."""
        return self.request.method

    @property
    def url(self) -> URL:
        """The URL."""
        return self.request.url

    async def send(self) -> AsyncResponse:
        """Send it; the response's body is unread. A status of 404 is a response like any other.

        Raises:
            Busy: it was sent already.
            Error: as for every call.
        """
        request, call = self._begin(self.request)
        return await self._view.engine.run(request, call)

    async def begin(self, length: int | None = None) -> None:
        """Begin a push-style upload: the head goes out, then what `write` gives.

        Args:
            length: bytes that will be written; None: sent chunked.
        """
        if self.request.body.length != 0:
            raise UsageError("begin() after a body was given: a request has one body")
        if length is not None and length < 0:
            raise UsageError(f"begin({length}): a number of bytes, or None")
        request, call = self._begin(self.request)
        request.body = PushSource(length)
        self._left = length
        self._pushing = Stepper(self._view.engine.run(request, call))
        await self._step(None)

    async def write(self, data: Buffer | str) -> int:
        """Send a piece of the body; its size. After the final response has come early, what is written is dropped:
        `end()` gives that response.

        Raises:
            UsageError: before `begin`, after `end`, `close` or a failure, or more than the length that was announced.
            Error: the upload failed.
        """
        pushing = self._stepper()
        piece = memoryview(data.encode() if isinstance(data, str) else data).cast("B")
        size = len(piece)
        if self._left is not None:
            if size > self._left:
                raise UsageError(f"write() of {size} bytes, and {self._left} are left of the length given to begin()")
            self._left -= size
        if size and not pushing.is_over:
            await self._step(piece)
        return size

    async def end(self) -> AsyncResponse:
        """The body is complete; the response, its body unread.

        Raises:
            UsageError: before `begin`, after `end`, `close` or a failure, or less was written than was announced.
            Error: the upload failed.
        """
        pushing = self._stepper()
        while not pushing.is_over:
            await self._step(b"")
        self._over = "end() gave the response"
        return pushing.result

    async def close(self) -> None:
        """Give an unfinished upload up, or the response that nobody took by `end`; the connection is closed.
        Idempotent."""
        self.abort()

    def abort(self) -> None:
        """The same, for who cannot wait."""
        pushing = self._pushing
        if pushing is None or self._over:
            return
        self._over = "it was closed"
        if pushing.is_over:
            pushing.result.abort()
        else:
            pushing.close()

    def __del__(self) -> None:
        if getattr(self, "_pushing", None) is not None and not self._over:
            self.abort()
            warnings.warn(f"{self!r} was dropped between begin() and end()", ResourceWarning, stacklevel=2, source=self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _begin(self, request: Request) -> tuple[Request, Call]:
        if self._is_sent:
            raise Busy("the request was sent already: open another one")
        self._is_sent = True
        request = request.copy()
        return request, self._view.call(request, self._options, streaming=True)

    def _stepper(self) -> Stepper[AsyncResponse]:
        if self._pushing is None:
            raise UsageError("write() and end() come after begin()")
        if self._over:
            raise UsageError(f"nothing can be written any more: {self._over}")
        return self._pushing

    async def _step(self, data: Buffer | None) -> None:
        """One piece of the road; if it fails, the upload has failed."""
        pushing = self._stepper()
        try:
            await pushing.step(data)
        except BaseException as error:
            self._over = f"the upload failed: {error!r}"
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request.method} {self.request.url}>"


class RequestHandle:
    """The blocking face of `AsyncRequestHandle`; between `begin` and `end` also a file that can be written to."""

    def __init__(self, waiting: AsyncRequestHandle) -> None:
        self._waiting = waiting
        self._is_closed = False

    @property
    def request(self) -> Request:
        """The request below."""
        return self._waiting.request

    @property
    def headers(self) -> Headers:
        """The request's own header fields; the session's are put under them when it is sent."""
        return self._waiting.headers

    @property
    def method(self) -> str:
        """The method."""
        return self._waiting.method

    @property
    def url(self) -> URL:
        """The URL."""
        return self._waiting.url

    def send(self) -> Response:
        """As `AsyncRequestHandle.send`."""
        return answer(self._waiting.send())

    def begin(self, length: int | None = None) -> None:
        """As `AsyncRequestHandle.begin`."""
        driven(self._waiting.begin(length))

    def write(self, data: Buffer | str) -> int:
        """As `AsyncRequestHandle.write`."""
        return driven(self._waiting.write(data))

    def end(self) -> Response:
        """As `AsyncRequestHandle.end`."""
        return answer(self._waiting.end())

    def close(self) -> None:
        """As `AsyncRequestHandle.close`."""
        self._is_closed = True
        self._waiting.abort()

    @property
    def closed(self) -> bool:
        """As files have it."""
        return self._is_closed

    def flush(self) -> None:
        """Nothing is held back."""

    def writable(self) -> Literal[True]:
        """A file for writing."""
        return True

    def readable(self) -> Literal[False]:
        """A file for writing only."""
        return False

    def seekable(self) -> Literal[False]:
        """A file that cannot seek."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request.method} {self.request.url}>"


class AsyncConnectionHandle:
    """A connection that was dialled, or taken idle from the pool.

    Over HTTP/1.1 it is leased: a second request while one is open raises `Busy`. Over HTTP/2 it is shared, with other
    calls too, and `Busy` means that the server's limit of open requests is reached. Closed by the peer in between, or
    going away (GOAWAY), it is dialled again. Leaving the `with` gives it back to the pool.
    """

    def __init__(self, view: View, origin: URL, lease: Lease, options: CallOptions) -> None:
        self._view = view
        self._lease = lease
        self._options = options
        self.url = origin

    @property
    def info(self) -> ConnectionInfo | None:
        """What is known of the connection; None once it was closed."""
        connection = self._lease.connection
        return connection.info if connection is not None else None

    def open_request(self, method: str, target: str = "/", **options: Unpack[CallOptions]) -> AsyncRequestHandle:
        """A request on this connection; no I/O.

        Args:
            target: a path with or without a query; "*" for OPTIONS; host:port for CONNECT.
            options: as for every call; over those of `connect`.

        Raises:
            UsageError: the target leads to another origin, as "//other.example/" does: what was given to `connect`, its
                auth and headers, is not for that one.
        """
        merged: CallOptions = {**self._options, **options}
        request = opened(self._view, method, self.url, target, merged)
        request.affinity = self._lease
        return AsyncRequestHandle(self._view, request, merged)

    async def close(self) -> None:
        """Give the connection back. Idempotent."""
        self._view.engine.end_lease(self._lease)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.url.origin}>"


class ConnectionHandle:
    """The blocking face of `AsyncConnectionHandle`."""

    def __init__(self, waiting: AsyncConnectionHandle) -> None:
        self._waiting = waiting

    @property
    def url(self) -> URL:
        """The origin that it leads to."""
        return self._waiting.url

    @property
    def info(self) -> ConnectionInfo | None:
        """What is known of the connection; None once it was closed."""
        return self._waiting.info

    def open_request(self, method: str, target: str = "/", **options: Unpack[CallOptions]) -> RequestHandle:
        """As `AsyncConnectionHandle.open_request`."""
        return RequestHandle(self._waiting.open_request(method, target, **options))

    def close(self) -> None:
        """Give the connection back. Idempotent."""
        drive(self._waiting.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.url.origin}>"


def opened(view: View, method: str, base: URL, target: str, options: CallOptions) -> Request:
    """The request that `open_request` means; `base` is what the target is relative to.

    Raises:
        UsageError: the target leads to another origin.
    """
    if target == "*" or method == "CONNECT":
        request = view.request(method, base, options)
        request.target = target
        if method == "CONNECT":
            # Host repeats the authority of the target (RFC 9112, 3.2).
            request.headers.add("Host", target, mode="if_new")
        return request
    url = base.join(target)
    if url.origin != base.origin:
        raise UsageError(f"a target that leads to {url.origin}: this connection's requests are for {base.origin}")
    return view.request(method, url, options)


async def connect(view: View, origin: URL | str, options: CallOptions) -> AsyncConnectionHandle:
    """Dial now, or take an idle connection, so a bad host fails here."""
    url = view.resolve(origin)
    probe = view.request("GET", url, options)
    call = view.call(probe, options, streaming=True)
    lease = await view.engine.lease(view.route(probe, call), call)
    return AsyncConnectionHandle(view, url, lease, options)


def request_handle(view: View, method: str, url: URL | str, options: CallOptions) -> AsyncRequestHandle:
    """A request to be sent later, by whatever connection the pool then gives."""
    return AsyncRequestHandle(view, view.request(method, url, options), options)
