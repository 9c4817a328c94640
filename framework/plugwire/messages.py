"""`Request`, and `AsyncResponse`, which middleware sees in every world. (`Response`, the blocking face that a `Session`
puts over it, stands in `blocking_response`.)

A response's body is in one of these states:

    UNREAD    the head is here, the body untouched
    READING   some of it was consumed by the caller, piece by piece
    KEPT      read whole and kept: `content`, `text`, `json()` answer
    CONSUMED  consumed to its end; nothing was kept
    CLOSED    closed before its end
"""

from __future__ import annotations

import json as _json
import re
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias, TypeVar, cast

from plugwire.bodies import EMPTY, NOTHING, Json, JSONEncoder, MemoryBody, SourceTypes, encode_json, make_body
from plugwire.errors import BodyUnread, Busy, DecodingError, HTTPStatusError, IncompleteBody, UsageError
from plugwire.headers import Headers, HeadersInit
from plugwire.links import parse_links
from plugwire.timeouts import is_seconds
from plugwire.url import URL, Params

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from plugwire.config import TLSConfig
    from plugwire.decoders import AsyncDecoded, Decoder
    from plugwire.multipart import FileTypes
    from plugwire.protocols import Body, ConnectionInfo, Source, Stream
    from plugwire.proxies import ProxyTypes, Setting
    from plugwire.url import Origin

T = TypeVar("T")

HeaderTypes: TypeAlias = HeadersInit
ParamTypes: TypeAlias = Params
AuthTypes: TypeAlias = "tuple[str, str] | object | None"

INHERIT: Final[Any] = NOTHING
"""Stands for "as the session has it"."""

_KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Request:
    """A request: a mutable value without world or session.

    Middleware gets a snapshot of it (copy on write), so it may change what it likes and call again: nothing comes back
    up.

    Args: the first ones as `CallOptions` has them; `json_encoder` in place of `json.dumps`, as the option of that name
        has it for the calls of a session.

    Attributes:
        method: methods are case-sensitive (RFC 9110, 9.1), and it is as given; but "get" and its like, which no server
            would know, are written in capitals.
        url: a `URL`.
        headers: a `Headers`.
        body: its content, a `Source`.
        target: the request target (RFC 9112, 3.2), where it is not the one that method and URL give; "*" for OPTIONS.
        proxy, tls, http_versions: this request's way, or `INHERIT`.
        trailers: called after the body was sent; gives the trailer fields (chunked or HTTP/2 only).
        expect_continue: wait for 100 (Continue) before sending the body, at most so many seconds, then send it anyway
            (RFC 9110, 10.1.1); None: do not ask.
        affinity: the connection to use, for a handle's requests.
    """

    __slots__ = (
        "affinity",
        "body",
        "expect_continue",
        "headers",
        "http_versions",
        "method",
        "proxy",
        "target",
        "tls",
        "trailers",
        "url",
    )

    method: str
    url: URL
    headers: Headers
    body: Source
    target: str | None
    proxy: ProxyTypes | Setting
    tls: TLSConfig
    http_versions: tuple[str, ...]
    trailers: Callable[[], Headers] | None
    expect_continue: float | None
    affinity: Any

    def __init__(
        self,
        method: str,
        url: URL | str,
        *,
        params: ParamTypes | None = None,
        headers: HeaderTypes | None = None,
        content: SourceTypes = None,
        data: object = None,
        json: Json = None,
        files: FileTypes | None = None,
        trailers: Callable[[], Headers] | None = None,
        expect_continue: float | None = None,
        json_encoder: JSONEncoder | None = None,
    ) -> None:
        if method not in _KNOWN_METHODS:
            if not (isinstance(method, str) and _METHOD.fullmatch(method)):
                raise UsageError(f"method {method!r}: a token such as 'GET' (RFC 9110, 9.1)")
            if method.upper() in _KNOWN_METHODS:
                method = method.upper()
        self.method = method
        if expect_continue is not None and not is_seconds(expect_continue):
            raise UsageError(f"expect_continue={expect_continue!r}: a number of seconds above 0, or None")
        self.url = url if type(url) is URL else URL(url)
        if params is not None:
            self.url = self.url.with_params(params)
        self.headers = Headers(headers)
        self.body = EMPTY
        if content is not None or data is not None or json is not None or files is not None:
            given = self.headers.get("content-type") if files is not None else None
            self.body, kind = make_body(content, data, json, files, encode=json_encoder, kind=given)
            if kind is not None:
                is_multipart = kind.startswith("multipart/")  # then it names the boundary, whoever has said it
                self.headers.add("content-type", kind, mode="replace" if is_multipart else "if_new")
        self.target = None
        self.proxy = INHERIT
        self.tls = INHERIT
        self.http_versions = INHERIT
        self.trailers = trailers
        self.expect_continue = expect_continue
        self.affinity = None

    @property
    def origin(self) -> Origin:
        """Scheme, host and port."""
        return self.url.origin

    @property
    def content(self) -> bytes | None:
        """The body, if it lies in memory."""
        return self.body.content

    def copy(self) -> Request:
        """A snapshot; its headers are shared until one of the two changes them."""
        new = _new_request(Request)
        new.method = self.method
        new.url = self.url
        new.headers = self.headers.copy()
        new.body = self.body
        new.target = self.target
        new.proxy = self.proxy
        new.tls = self.tls
        new.http_versions = self.http_versions
        new.trailers = self.trailers
        new.expect_continue = self.expect_continue
        new.affinity = self.affinity
        return new

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # What a pickled response keeps of its request: enough to say what was asked. Bodies and connections stay.
        return (Request._rebuilt, (self.method, self.url, self.headers, self.body.content))

    @classmethod
    def _rebuilt(cls, method: str, url: URL, headers: Headers, content: bytes | None) -> Request:
        request = cls(method, url, content=content)
        request.headers = headers
        return request


_new_request = object.__new__


class Timings(NamedTuple):
    """Where the time of the last attempt went, in seconds; None for what did not happen or is not over.

    setup: resolving, dialling and TLS, of a connection made for this request. wait: from the start of the attempt to
    the end of the head, setup included. total: to the end of the body.
    """

    setup: float | None
    wait: float | None
    total: float | None


class BodyState(Enum):
    """Where a response's body stands; see the module."""

    UNREAD = "unread"
    READING = "being read"
    KEPT = "kept"
    CONSUMED = "consumed"
    CLOSED = "closed"


_CHARSET = re.compile(r";\s*charset\s*=\s*(?:\"([^\"]+)\"|([^\s;\"]+))", re.IGNORECASE)

_NO_CHARSETS: Final = frozenset({"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"})
"""What Python's registry calls text encodings too."""

_NOT_OF_PEERS: Final = frozenset({"utf-7"})
"""What a caller may ask for, and no peer: no browser knows it, and a run of it without end, which Python decodes anew
with each piece, took a minute of a processor for 2 MB."""


def charset_called(name: str) -> str | None:
    """Python's name of a charset; None if it knows none of that name."""
    import codecs

    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    # The registry also has codecs from bytes to bytes ("base64", "zip"), which text must not go through.
    is_text = getattr(info, "_is_text_encoding", True) and info.name not in _NO_CHARSETS
    return info.name if is_text else None


@lru_cache(1)
def _known_charsets() -> frozenset[str]:
    """Every name that a peer's charset may have, as Python normalises it."""
    from encodings.aliases import aliases

    unaliased = (
        "cp1006 cp720 cp737 cp856 cp874 cp875 koi8_t koi8_u mac_arabic mac_croatian mac_farsi mac_romanian utf_8_sig"
    )
    return frozenset((*aliases, *aliases.values(), *unaliased.split()))


def _charset_of_peer(name: str) -> str | None:
    """Python's name of a charset that a peer has named.

    Python remembers each spelling that it was ever asked for, unknown ones too, for good: peers could fill the memory
    with them. So it is asked only for names that are known, in one spelling.
    """
    from encodings import normalize_encoding

    if len(name) > 40:  # the longest that is known has 20
        return None
    key = normalize_encoding(name).lower()
    found = charset_called(key) if key in _known_charsets() else None
    return None if found in _NOT_OF_PEERS else found


class ResponseBase:
    """What both faces have in common, and never waits."""

    __slots__ = ()

    # Each face gives these; here they stand for the type checkers.
    if TYPE_CHECKING:
        status_code: int
        reason: str
        http_version: str
        headers: Headers
        request: Request | None
        history: list[Any]

        @property
        def encoding_override(self) -> str | None: ...
        def _override_encoding(self, encoding: str) -> None: ...
        @property
        def content(self) -> bytes: ...
        @property
        def url(self) -> URL | None: ...

    if not TYPE_CHECKING:  # or checkers would take every name for one of ours

        def __getattr__(self, name: str) -> Any:
            from plugwire.spellings import Place, hint

            kind = type(self).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}{hint(Place.RESPONSE, name)}")

    @property
    def ok(self) -> bool:
        """True for a status below 400."""
        return self.status_code < 400

    @property
    def encoding(self) -> str:
        """The charset that `text` and `iter_text` use: the one set by the caller, that of content-type, else UTF-8.
        An unknown charset counts as none."""
        if self.encoding_override:
            return self.encoding_override
        match = _CHARSET.search(self.headers.get("content-type") or "")
        return (match and _charset_of_peer(match[1] or match[2])) or "utf-8"

    @encoding.setter
    def encoding(self, value: str) -> None:
        if not isinstance(value, str) or charset_called(value) is None:
            raise UsageError(f"encoding={value!r}: Python knows no such charset")
        self._override_encoding(value)

    @property
    def text(self) -> str:
        """The content as text. A byte order mark goes before the charset of content-type (WHATWG Encoding, "decode");
        what does not decode becomes U+FFFD.

        Raises:
            BodyUnread: the body was not read.
        """
        content = self.content
        encoding = self.encoding
        if charset_called(encoding) in ("utf-16", "utf-32"):
            from plugwire.decoders.text import Text

            decoder = Text(encoding, is_certain=bool(self.encoding_override))
            return "".join((*decoder.feed(content), *decoder.end()))
        if content[:1] in (b"\xef", b"\xff", b"\xfe") and not self.encoding_override:
            from plugwire.decoders.text import marked_encoding

            encoding = marked_encoding(content) or encoding
        return content.decode(encoding, "replace")

    def json(self, *, decoder: Callable[..., Any] | None = None, **keywords: Any) -> Any:
        """The content as a JSON document (RFC 8259; UTF-8, or UTF-16 and UTF-32 by their signature).

        Args:
            decoder: called with the content (bytes), such as `orjson.loads`; None: `json.loads`. It is no option of the
                session: a response is a value, which means the same when it was pickled, cached or made by a test.
            keywords: handed to the decoder, such as `parse_float=Decimal`.

        Raises:
            BodyUnread: the body was not read.
            DecodingError: it is not JSON; or whatever else a decoder of yours raised, which is the cause.
        """
        content = self.content
        try:
            if decoder is not None:
                return decoder(content, **keywords)
            return _json.loads(content, **keywords)
        except Exception as error:
            if decoder is None and not isinstance(error, (ValueError, RecursionError)):
                raise  # a keyword that json.loads does not have, or what a callable of the caller's raised
            kind = self.headers.get("content-type") or "no content-type"
            raise DecodingError(f"the content ({len(content)} bytes, {kind}) is not JSON: {error}") from error

    def raise_for_status(self) -> Self:
        """Raise `HTTPStatusError` for a status of 400 or above; otherwise the response itself."""
        if self.status_code < 400:
            return self
        whose = "client" if self.status_code < 500 else "server"
        error = HTTPStatusError(f"{self.status_code} {self.reason} ({whose} error) for {self.url}", self)
        error.request = self.request
        error.sent = True
        raise error

    @property
    def links(self) -> dict[str, dict[str, str]]:
        """The Link field (RFC 8288), by relation type, or by target where there is none."""
        found: dict[str, dict[str, str]] = {}
        for line in self.headers.get_list("link"):
            for link in parse_links(line):
                for relation in link.get("rel", link["url"]).split():
                    found.setdefault(relation, link)
        return found

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that this response sets, by name (RFC 6265, 5.2)."""
        pairs = (line.partition(";")[0].partition("=") for line in self.headers.get_list("set-cookie"))
        return {name.strip(): value.strip() for name, equals, value in pairs if equals and name.strip()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status_code} {self.reason}>"


class AsyncResponse(ResponseBase):
    """A response as middleware and the async worlds see it.

    Args:
        status_code: 100 to 999.
        headers: as `Headers` takes them.
        content, text, json: at most one; the body, then read and kept already.
        body: a `Body` that is yet to be read.
        request: what it answers.
        reason: the phrase; None: the usual one of the status.

    Attributes:
        status_code, reason, http_version ("HTTP/1.1", "HTTP/2"), headers, request, connection.
        history: the redirects that led here, oldest first. They are closed. The content of one that came whole with its
            head, as short ones mostly do, can still be read, as it was sent: a content coding is not undone.
        body: the `Body` that `read` and its like read from; put another in its place to wrap it. A body that is kept
            already is read again, through the wrapper.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_content",
        "_encoding",
        "_is_busy",
        "_reader",
        "_state",
        "_stream",
        "connection",
        "headers",
        "history",
        "http_version",
        "reason",
        "request",
        "status_code",
        "times",
    )

    def __init__(
        self,
        status_code: int,
        *,
        headers: Headers | HeaderTypes | None = None,
        content: bytes | str | None = None,
        text: str | None = None,
        json: Json = NOTHING,
        body: Body | None = None,
        request: Request | None = None,
        http_version: str = "HTTP/1.1",
        reason: str | None = None,
        connection: ConnectionInfo | None = None,
        stream: Stream | None = None,
    ) -> None:
        self.status_code = status_code
        self.headers = headers if type(headers) is Headers else Headers(headers)
        self.request = request
        self.http_version = http_version
        self.reason = reason if reason is not None else usual_reason(status_code)
        self.connection = connection
        self.history: list[AsyncResponse] = []
        self._encoding: str | None = None
        self.times: tuple[float, float, float, float | None] | None = None
        self._stream = stream
        self._is_busy = False
        self._reader: MemoryBody | None = None
        self._body = body
        if body is not None:
            self._content: bytes | None = None
            self._state = BodyState.UNREAD
            return
        if type(content) is not bytes or text is not None or json is not NOTHING:
            content = self._written(content, text, json)
        self._content = content
        self._state = BodyState.KEPT

    def _written(self, content: bytes | str | None, text: str | None, json: Json) -> bytes:
        """What `content=`, `text=` and `json=` mean, for a response that a middleware or a test makes."""
        if not (isinstance(self.status_code, int) and 100 <= self.status_code <= 999):
            raise UsageError(f"status_code={self.status_code!r}: a number from 100 to 999")
        if (content is not None) + (text is not None) + (json is not NOTHING) > 1:
            raise UsageError("content=, text= and json=: a response has one body")
        if json is not NOTHING:
            self.headers.add("content-type", "application/json", mode="if_new")
            return encode_json(json)
        if text is not None:
            self.headers.add("content-type", "text/plain; charset=utf-8", mode="if_new")
            return text.encode()
        return content.encode() if isinstance(content, str) else bytes(content or b"")

    # -- what never waits

    @property
    def url(self) -> URL | None:
        """The URL that was asked for, after redirects."""
        return self.request.url if self.request is not None else None

    @property
    def content(self) -> bytes:
        """The body, once it was read whole.

        Raises:
            BodyUnread: it was not.
        """
        if self._content is None:
            raise BodyUnread(f"the response's body is {self._state.value}: read() keeps it whole")
        return self._content

    @property
    def is_read(self) -> bool:
        """True if the body was read whole and kept."""
        return self._content is not None

    @property
    def is_closed(self) -> bool:
        """True if nothing is left to read or to close."""
        return self._state in (BodyState.KEPT, BodyState.CONSUMED, BodyState.CLOSED)

    @property
    def encoding_override(self) -> str | None:
        """The charset that the caller set, or None."""
        return self._encoding

    def _override_encoding(self, encoding: str) -> None:
        self._encoding = encoding

    @property
    def trailers(self) -> Headers | None:
        """The trailer section; there once the end of the body has come, None if there is none."""
        return self._body.trailers if self._body is not None else None

    @property
    def timings(self) -> Timings:
        """Where the time went."""
        if self.times is None:
            return Timings(None, None, None)
        started, setup, head, ended = self.times
        return Timings(setup or None, head - started, ended - started if ended is not None else None)

    @property
    def body(self) -> Body:
        """The body below `read`."""
        if self._body is None:
            self._body = MemoryBody(self._content or b"")
        elif self._state is BodyState.KEPT:
            # From its start: the one below was read to its end, though it may lie in memory itself.
            self._body = MemoryBody(self._content or b"", self._body.trailers)
        return self._body

    @body.setter
    def body(self, body: Body) -> None:
        self._body = body
        self._content = None
        self._reader = None
        self._state = BodyState.UNREAD

    # -- what waits

    async def read(self, size: int | None = None) -> bytes:
        """Without `size`: the whole body; of an untouched one it is kept as `content`. With `size`: at most so many
        bytes, at least one unless at the end; they are consumed.

        Raises:
            ReadTimeout, TotalTimeout, ReadError, IncompleteBody, ...: as for every read.
            Busy: somebody else reads it now.
        """
        if size is not None and size >= 0:
            return await self._receive(size) if size else b""
        if self._content is not None and self._reader is None:
            return self._content
        is_untouched = self._state is BodyState.UNREAD
        pieces: list[bytes] = []
        while data := await self._receive(262144):
            pieces.append(data)
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if is_untouched:
            self._content = content
            self._state = BodyState.KEPT
        return content

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read into `buffer`; the number of bytes, 0 at the end. Without a copy of its own where nothing wraps the
        body: the bytes come straight from the socket."""
        view = buffer if isinstance(buffer, memoryview) else memoryview(buffer)
        if view.readonly or not view.c_contiguous:
            raise UsageError("readinto() takes a buffer that can be written to and lies in one piece")
        if not view.nbytes:
            return 0
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        body = self._begin()
        try:
            size = await body.receive_into(view)
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._is_busy = False
        if not size:
            self._ended()
        return size

    async def _receive(self, size: int) -> bytes:
        body = self._begin()
        try:
            data = await body.receive(size)
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._is_busy = False
        if not data:
            self._ended()
        return data

    def _begin(self) -> Body:
        """The body to read from, taken."""
        if self._is_busy:
            raise Busy("the response is being read already: it has one user at a time")
        if self._state is BodyState.CLOSED:
            raise UsageError("the response was closed before its body was read")
        if self._state is BodyState.KEPT:
            # Read again, from what is kept; `content` stays.
            if self._reader is None:
                self._reader = MemoryBody(self._content or b"")
            self._is_busy = True
            return self._reader
        if self._state is BodyState.UNREAD:
            self._state = BodyState.READING
        self._is_busy = True
        return cast("Body", self._body)

    def _ended(self) -> None:
        if self._state is BodyState.READING:
            self._state = BodyState.CONSUMED

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, IncompleteBody):
            self._state = BodyState.CONSUMED

    def iter_bytes(self, size: int | None = None) -> AsyncDecoded[bytes]:
        """The content as it arrives, or in pieces of exactly `size` bytes (the last one may be shorter)."""
        from plugwire.decoders import Pieces

        return self.iter_decoded(Pieces(size))

    def iter_text(self) -> AsyncDecoded[str]:
        """The content as text, as it arrives."""
        from plugwire.decoders import Text

        return self.iter_decoded(Text(self.encoding, is_certain=bool(self._encoding)))

    def iter_lines(self) -> AsyncDecoded[str]:
        """Lines of text, without their ends (LF, CRLF or CR)."""
        from plugwire.decoders import Lines

        return self.iter_decoded(Lines(self.encoding, is_certain=bool(self._encoding)))

    def iter_decoded(self, decoder: Decoder[T]) -> AsyncDecoded[T]:
        """The items that a sans-IO decoder finds (see `plugwire.decoders`)."""
        from plugwire.decoders import AsyncDecoded

        return AsyncDecoded(self, decoder)

    def take_stream(self) -> Stream:
        """The stream, after 101 (Switching Protocols) or a 2xx to CONNECT. It is yours then: close it.

        Raises:
            UsageError: this response has none, or it was taken already.
        """
        stream, self._stream = self._stream, None
        if stream is None:
            raise UsageError(f"a {self.status_code} response has no stream to take, or it was taken already")
        self._state = BodyState.CLOSED
        return stream

    async def close(self) -> None:
        """Be done with it, in whatever state it is. Idempotent."""
        self._close_stream()
        if self._state in (BodyState.UNREAD, BodyState.READING):
            body = cast("Body", self._body)
            if self._is_busy:
                body.abort()
                return
            self._state = BodyState.CLOSED
            await body.close()

    def abort(self) -> None:
        """Be done with it at once, without waiting: whoever reads is woken with an error, the connection is dropped."""
        self._close_stream()
        if self._state in (BodyState.UNREAD, BodyState.READING):
            if not self._is_busy:
                self._state = BodyState.CLOSED
            cast("Body", self._body).abort()

    def _close_stream(self) -> None:
        # First taken, because who takes it in another thread, or a handler in this one, may come by while it is closed.
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_response, _travelling(self))


def _travelling(response: AsyncResponse) -> tuple[Any, ...]:
    """What of a response is pickled: of one that was read, and of one that was closed unread (a redirect in the
    history of another), which stays so."""
    return (
        response.status_code,
        response.headers,
        response.content if response._state is not BodyState.CLOSED else None,  # pyright: ignore[reportPrivateUsage]  # half of that class
        response.request,
        response.http_version,
        response.reason,
        response.history,
        response.times,
        response.trailers,
        response.encoding_override,
    )


def _rebuild_response(
    status_code: int,
    headers: Headers,
    content: bytes | None,
    request: Request | None,
    http_version: str,
    reason: str,
    history: list[AsyncResponse],
    times: Any,
    trailers: Headers | None,
    encoding: str | None,
) -> AsyncResponse:
    inner = AsyncResponse(
        status_code, headers=headers, content=content, request=request, http_version=http_version, reason=reason
    )
    inner.history = history
    inner.times = times
    inner._body = MemoryBody(content or b"", trailers)  # pyright: ignore[reportPrivateUsage]  # half of that class
    inner._encoding = encoding  # pyright: ignore[reportPrivateUsage]  # the same
    if content is None:
        inner._content = None  # pyright: ignore[reportPrivateUsage]  # the same
        inner._state = BodyState.CLOSED  # pyright: ignore[reportPrivateUsage]  # the same
    return inner


_REASONS: dict[int, str] = {}


def usual_reason(status_code: int) -> str:
    """The phrase that RFC 9110 gives for a status; "" for one that it does not know."""
    if not _REASONS:
        from http import HTTPStatus

        _REASONS.update({int(status): status.phrase for status in HTTPStatus})
    return _REASONS.get(status_code, "")
