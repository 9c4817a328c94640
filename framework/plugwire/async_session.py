"""`AsyncSession`: the face for asyncio and trio. It binds to the loop of its first await."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Self, Unpack

from plugwire.handles import AsyncConnectionHandle, AsyncRequestHandle, connect, request_handle
from plugwire.session_base import SessionBase

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from plugwire.config import CallOptions
    from plugwire.messages import AsyncResponse, Request
    from plugwire.url import URL
    from plugwire.view import View


class AsyncSession(SessionBase):
    """An HTTP session for asyncio and trio: a pool of connections, plugins, transports, and defaults for its calls.

    Tasks share it freely; a response, a handle or a body has one user at a time. Leaving its `async with` closes every
    response, connection and plugin, whatever state they are in. The arguments are those of `SessionBase`.
    """

    def _bound(self) -> View:
        """The view, bound to the loop that runs."""
        view = self._view
        if not view.engine.is_bound:
            from plugwire.runtimes import current_async_runtime

            view.engine.bind(current_async_runtime(), view.root)
        else:
            view.engine.runtime.check_here()
        return view

    async def request(self, method: str, url: URL | str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """One call; its body is read.

        Args:
            method: such as "GET".
            url: absolute, or relative to base_url.
            options: see `CallOptions`.

        Raises:
            UsageError: something given cannot be; before any I/O.
            TimedOut, NetworkError, PeerError, ...: see `plugwire.errors`.
        """
        view = self._bound()
        request = view.request(method, url, options)
        call = view.call(request, options, streaming=False)
        return await view.engine.run(request, call)

    def stream(self, method: str, url: URL | str, **options: Unpack[CallOptions]) -> AsyncStreaming:
        """`async with session.stream("GET", url) as response:` one call whose body is left unread; leaving the `with`
        closes the response."""
        return AsyncStreaming(self._view, self._bound, method, url, options)

    async def send(self, request: Request, **options: Unpack[CallOptions]) -> AsyncResponse:
        """Send a request that was made before; its body is read. The request itself stays as it is."""
        view = self._bound()
        copy = view.adopted(request, options)
        return await view.engine.run(copy, view.call(copy, options, streaming=False))

    async def connect(self, origin: URL | str, **options: Unpack[CallOptions]) -> AsyncConnectionHandle:
        """Dial now, or take an idle connection; the time-out, proxy, tls, http_versions and options given here are for
        all requests opened on it."""
        return await connect(self._bound(), origin, options)

    def open_request(self, method: str, url: URL | str, **options: Unpack[CallOptions]) -> AsyncRequestHandle:
        """A request to be sent later, step by step; no I/O."""
        return request_handle(self._bound(), method, url, options)

    async def get(self, url: URL | str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """GET; see `request`."""
        return await self.request("GET", url, **options)

    async def head(self, url: URL | str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """HEAD; see `request`."""
        return await self.request("HEAD", url, **options)

    async def options(self, url: URL | str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """OPTIONS; see `request`."""
        return await self.request("OPTIONS", url, **options)

    async def post(self, url: URL | str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """POST; see `request`."""
        return await self.request("POST", url, **options)

    async def put(self, url: URL | str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """PUT; see `request`."""
        return await self.request("PUT", url, **options)

    async def patch(self, url: URL | str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """PATCH; see `request`."""
        return await self.request("PATCH", url, **options)

    async def delete(self, url: URL | str, **options: Unpack[CallOptions]) -> AsyncResponse:
        """DELETE; see `request`."""
        return await self.request("DELETE", url, **options)

    async def close(self) -> None:
        """Close every response, connection and plugin, whatever state they are in. Idempotent; works from any task of
        the loop: whoever waits gets `SessionClosed`. Of a derived session it does nothing."""
        if not self._is_derived:
            await self._engine.close()

    async def __aenter__(self) -> Self:
        self._bound()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if not self._is_derived and self._engine.why_closed is None and self._engine.is_open:
            warnings.warn(f"{self!r} was dropped without close()", ResourceWarning, stacklevel=2, source=self)
            self._engine.drop()


class AsyncStreaming:
    """What `session.stream(...)` gives: sends when entered, closes the response when left."""

    def __init__(self, view: View, bind: Callable[[], View], method: str, url: URL | str, options: CallOptions) -> None:
        self._bind = bind
        self._request = view.request(method, url, options)
        self._options = options
        self._response: AsyncResponse | None = None

    async def __aenter__(self) -> AsyncResponse:
        view = self._bind()
        call = view.call(self._request, self._options, streaming=True)
        self._response = await view.engine.run(self._request, call)
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            await self._response.close()
