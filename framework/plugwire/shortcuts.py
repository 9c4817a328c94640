"""`plugwire.get(url)` and friends: each is one `Session` for one call. There is no hidden global session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from plugwire.session import Session, Streaming

if TYPE_CHECKING:
    from types import TracebackType

    from plugwire.blocking_response import Response
    from plugwire.config import CallOptions
    from plugwire.url import URL


def request(method: str, url: URL | str, **options: Unpack[CallOptions]) -> Response:
    """One call in a session of its own; see `Session.request`."""
    with Session() as session:
        return session.request(method, url, **options)


def stream(method: str, url: URL | str, **options: Unpack[CallOptions]) -> OneStreaming:
    """`with plugwire.stream("GET", url) as response:` one call in a session of its own, its body unread."""
    return OneStreaming(Session(), method, url, options)


def get(url: URL | str, **options: Unpack[CallOptions]) -> Response:
    """GET; see `request`."""
    return request("GET", url, **options)


def head(url: URL | str, **options: Unpack[CallOptions]) -> Response:
    """HEAD; see `request`."""
    return request("HEAD", url, **options)


def options(url: URL | str, **options: Unpack[CallOptions]) -> Response:
    """OPTIONS; see `request`."""
    return request("OPTIONS", url, **options)


def post(url: URL | str, **options: Unpack[CallOptions]) -> Response:
    """POST; see `request`."""
    return request("POST", url, **options)


def put(url: URL | str, **options: Unpack[CallOptions]) -> Response:
    """PUT; see `request`."""
    return request("PUT", url, **options)


def patch(url: URL | str, **options: Unpack[CallOptions]) -> Response:
    """PATCH; see `request`."""
    return request("PATCH", url, **options)


def delete(url: URL | str, **options: Unpack[CallOptions]) -> Response:
    """DELETE; see `request`."""
    return request("DELETE", url, **options)


class OneStreaming(Streaming):
    """`plugwire.stream(...)`: leaving the `with` closes the session too."""

    def __init__(self, session: Session, method: str, url: URL | str, options: CallOptions) -> None:
        super().__init__(session.view, method, url, options)
        self._session = session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._session.close()
