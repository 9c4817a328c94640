"""`Response`: the blocking face of a response. Each method that waits is one `drive(...)` over `AsyncResponse`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from plugwire.bodies import NOTHING
from plugwire.drive import drive
from plugwire.errors import Error, ProxyError, ResponseError
from plugwire.messages import AsyncResponse, BodyState, ResponseBase

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from plugwire.bodies import Json
    from plugwire.decoders import Decoded, Decoder
    from plugwire.headers import Headers
    from plugwire.messages import HeaderTypes, Request, Timings
    from plugwire.protocols import ConnectionInfo, Stream
    from plugwire.url import URL

T = TypeVar("T")

_new_face = object.__new__


class Response(ResponseBase):
    """The blocking face of a response, and a raw file: `io.BufferedReader(response)`, `io.TextIOWrapper`,
    `shutil.copyfileobj` and `tarfile` work on it.

    Args: as for `AsyncResponse`, but for `body`.
    """

    __slots__ = ("__weakref__", "_inner")

    def __init__(
        self,
        status_code: int,
        *,
        headers: Headers | HeaderTypes | None = None,
        content: bytes | str | None = None,
        text: str | None = None,
        json: Json = NOTHING,
        request: Request | None = None,
        http_version: str = "HTTP/1.1",
        reason: str | None = None,
    ) -> None:
        self._inner = AsyncResponse(
            status_code,
            headers=headers,
            content=content,
            text=text,
            json=json,
            request=request,
            http_version=http_version,
            reason=reason,
        )

    @classmethod
    def over(cls, inner: AsyncResponse) -> Response:
        """The face over a response of the core."""
        face = _new_face(cls)
        face._inner = inner
        return face

    @property
    def waiting(self) -> AsyncResponse:
        """The response below this face."""
        return self._inner

    @property
    def status_code(self) -> int:  # type: ignore[override]  # read here, a slot there
        """The status (RFC 9110, 15)."""
        return self._inner.status_code

    @property
    def reason(self) -> str:  # type: ignore[override]  # read here, a slot there
        """The reason phrase; over HTTP/2 the usual one."""
        return self._inner.reason

    @property
    def http_version(self) -> str:  # type: ignore[override]  # read here, a slot there
        """ "HTTP/1.1", "HTTP/1.0" or "HTTP/2"."""
        return self._inner.http_version

    @property
    def headers(self) -> Headers:  # type: ignore[override]  # read here, a slot there
        """The header fields."""
        return self._inner.headers

    @property
    def trailers(self) -> Headers | None:
        """The trailer section; there once the end of the body has come, None if there is none."""
        return self._inner.trailers

    @property
    def request(self) -> Request | None:  # type: ignore[override]  # read here, a slot there
        """The request as it went out."""
        return self._inner.request

    @property
    def url(self) -> URL | None:
        """The URL that was asked for, after redirects."""
        return self._inner.url

    @property
    def history(self) -> list[Response]:  # type: ignore[override]  # read here, a slot there
        """The redirects that led here, oldest first; as `AsyncResponse.history`."""
        return [Response.over(hop) for hop in self._inner.history]

    @property
    def connection(self) -> ConnectionInfo | None:
        """The connection it came over."""
        return self._inner.connection

    @property
    def timings(self) -> Timings:
        """Where the time went."""
        return self._inner.timings

    @property
    def content(self) -> bytes:
        """The body, once it was read whole; `BodyUnread` before."""
        return self._inner.content

    @property
    def is_read(self) -> bool:
        """True if the body was read whole and kept."""
        return self._inner.is_read

    @property
    def is_closed(self) -> bool:
        """True if nothing is left to read or to close."""
        return self._inner.is_closed

    @property
    def encoding_override(self) -> str | None:
        """The charset that the caller set."""
        return self._inner.encoding_override

    def _override_encoding(self, encoding: str) -> None:
        self._inner._encoding = encoding  # pyright: ignore[reportPrivateUsage]  # the face of that class

    def read(self, size: int | None = None) -> bytes:
        """As `AsyncResponse.read`."""
        return driven(self._inner.read(size))

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """As `AsyncResponse.readinto`."""
        return driven(self._inner.readinto(buffer))

    def readall(self) -> bytes:
        """What is left of the body; it is consumed, so that the next one gives b"". (Without it
        `io.BufferedReader.read()` would never end.)"""
        return b"".join(iter(lambda: self.read(262144), b""))

    def readable(self) -> Literal[True]:
        """A raw file for reading."""
        return True

    def writable(self) -> Literal[False]:
        """A raw file for reading only."""
        return False

    def seekable(self) -> Literal[False]:
        """A raw file that cannot seek."""
        return False

    def flush(self) -> None:
        """Nothing to do; file objects have it."""

    @property
    def closed(self) -> bool:
        """True once it was closed before its end; a body that was read can still be read from."""
        return self._inner._state is BodyState.CLOSED  # pyright: ignore[reportPrivateUsage]  # the face of that class

    def iter_bytes(self, size: int | None = None) -> Decoded[bytes]:
        """As `AsyncResponse.iter_bytes`."""
        from plugwire.decoders import Decoded

        return Decoded(self, self._inner.iter_bytes(size))

    def iter_text(self) -> Decoded[str]:
        """As `AsyncResponse.iter_text`."""
        from plugwire.decoders import Decoded

        return Decoded(self, self._inner.iter_text())

    def iter_lines(self) -> Decoded[str]:
        """As `AsyncResponse.iter_lines`."""
        from plugwire.decoders import Decoded

        return Decoded(self, self._inner.iter_lines())

    def iter_decoded(self, decoder: Decoder[T]) -> Decoded[T]:
        """As `AsyncResponse.iter_decoded`."""
        from plugwire.decoders import Decoded

        return Decoded(self, self._inner.iter_decoded(decoder))

    def take_stream(self) -> BlockingStream:
        """As `AsyncResponse.take_stream`; of the stream's blocking face nothing is awaited."""
        return BlockingStream(self._inner.take_stream())

    def close(self) -> None:
        """Be done with it, in whatever state it is. Idempotent; may be called from another thread, which then ends the
        read that is under way."""
        driven(self._inner.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Response.over, (self._inner,))


def answer(road: Coroutine[Any, Any, AsyncResponse]) -> Response:
    """The response to which a road of the core leads, under this face; so is that of an error."""
    face = _new_face(Response)
    try:
        face._inner = drive(road)  # pyright: ignore[reportPrivateUsage]  # the face's own module
    except Error as error:
        _put_face(error)
        raise
    return face


def driven(road: Coroutine[Any, Any, T]) -> T:
    """What `drive` gives, for a road of the core that leads to no response."""
    try:
        return drive(road)
    except Error as error:
        _put_face(error)
        raise


def _put_face(error: Error) -> None:
    """An error that brings a response (`TooManyRedirects`, ...) brings it with the blocking face."""
    if isinstance(error, (ResponseError, ProxyError)) and isinstance(error.response, AsyncResponse):
        error.response = Response.over(error.response)


class BlockingStream:
    """The blocking face of a `Stream` that was taken over after 101 or CONNECT."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def receive(self, max_bytes: int = 65536) -> bytes:
        """At most `max_bytes` bytes; b"" at the end."""
        return drive(self.stream.receive(max_bytes, float("inf")))

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        drive(self.stream.send(data, float("inf")))

    def send_eof(self) -> None:
        """End the sending side."""
        drive(self.stream.send_eof(float("inf")))

    def close(self) -> None:
        """Close it."""
        self.stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
