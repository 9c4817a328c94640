"""`Session`: the blocking face. Each method is one `drive(...)` over the road that `AsyncSession` awaits."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Self, Unpack

from plugwire.blocking_response import Response, answer, driven
from plugwire.drive import drive
from plugwire.handles import ConnectionHandle, RequestHandle, connect, request_handle
from plugwire.session_base import SessionBase

if TYPE_CHECKING:
    from types import TracebackType

    from plugwire.config import CallOptions
    from plugwire.messages import Request
    from plugwire.url import URL
    from plugwire.view import View


class Session(SessionBase):
    """A blocking HTTP session: a pool of connections, plugins, transports, and defaults for its calls.

    Threads share it freely; a response, a handle or a body has one user at a time. Leaving its `with` closes every
    response, connection and plugin, whatever state they are in. The arguments are those of `SessionBase`.
    """

    def _standing(self) -> None:
        from plugwire.runtimes import blocking_runtime

        self._engine.bind(blocking_runtime(), self._view)

    def request(self, method: str, url: URL | str, **options: Unpack[CallOptions]) -> Response:
        """One call; its body is read.

        Args:
            method: such as "GET".
            url: absolute, or relative to base_url.
            options: see `CallOptions`.

        Raises:
            UsageError: something given cannot be; before any I/O.
            TimedOut, NetworkError, PeerError, ...: see `plugwire.errors`.
        """
        view = self._view
        request = view.request(method, url, options)
        call = view.call(request, options, streaming=False)
        return answer(view.engine.run(request, call))

    def stream(self, method: str, url: URL | str, **options: Unpack[CallOptions]) -> Streaming:
        """`with session.stream("GET", url) as response:` one call whose body is left unread; leaving the `with` closes
        the response."""
        return Streaming(self._view, method, url, options)

    def send(self, request: Request, **options: Unpack[CallOptions]) -> Response:
        """Send a request that was made before; its body is read. The request itself stays as it is."""
        view = self._view
        copy = view.adopted(request, options)
        return answer(view.engine.run(copy, view.call(copy, options, streaming=False)))

    def connect(self, origin: URL | str, **options: Unpack[CallOptions]) -> ConnectionHandle:
        """Dial now, or take an idle connection; the time-out, proxy, tls, http_versions and options given here are for
        all requests opened on it."""
        return ConnectionHandle(driven(connect(self._view, origin, options)))

    def open_request(self, method: str, url: URL | str, **options: Unpack[CallOptions]) -> RequestHandle:
        """A request to be sent later, step by step; no I/O."""
        return RequestHandle(request_handle(self._view, method, url, options))

    def get(self, url: URL | str, **options: Unpack[CallOptions]) -> Response:
        """GET; see `request`."""
        return self.request("GET", url, **options)

    def head(self, url: URL | str, **options: Unpack[CallOptions]) -> Response:
        """HEAD; see `request`."""
        return self.request("HEAD", url, **options)

    def options(self, url: URL | str, **options: Unpack[CallOptions]) -> Response:
        """OPTIONS; see `request`."""
        return self.request("OPTIONS", url, **options)

    def post(self, url: URL | str, **options: Unpack[CallOptions]) -> Response:
        """POST; see `request`."""
        return self.request("POST", url, **options)

    def put(self, url: URL | str, **options: Unpack[CallOptions]) -> Response:
        """PUT; see `request`."""
        return self.request("PUT", url, **options)

    def patch(self, url: URL | str, **options: Unpack[CallOptions]) -> Response:
        """PATCH; see `request`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: URL | str, **options: Unpack[CallOptions]) -> Response:
        """DELETE; see `request`."""
        return self.request("DELETE", url, **options)

    def close(self) -> None:
        """Close every response, connection and plugin, whatever state they are in. Idempotent; works from any thread:
        whoever waits gets `SessionClosed`. Of a derived session it does nothing."""
        if not self._is_derived:
            drive(self._engine.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._is_derived and self._engine.why_closed is None and self._engine.is_open:
            warnings.warn(f"{self!r} was dropped without close()", ResourceWarning, stacklevel=2, source=self)
            self._engine.drop()


class Streaming:
    """What `session.stream(...)` gives: sends when entered, closes the response when left."""

    def __init__(self, view: View, method: str, url: URL | str, options: CallOptions) -> None:
        self._request = view.request(method, url, options)
        self._call = view.call(self._request, options, streaming=True)
        self._response: Response | None = None

    def __enter__(self) -> Response:
        self._response = answer(self._call.session.engine.run(self._request, self._call))
        return self._response

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            self._response.close()
