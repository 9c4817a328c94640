"""The content of a request (`Source`) and bodies that lie in memory.

`make_source` turns what a caller gives into a `Source`. What can be opened more than once can be replayed: bytes, str,
files that seek and paths of files (`file_sources`), lists, tuples, other iterables of which `iter(x) is not x` (and the
same for async ones), and callables that return any of these. A generator or a pipe can be opened once; the second time
raises `NotReplayable`. Forms are in `forms`, multipart ones in `multipart`.
"""

from __future__ import annotations

import json as _json
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from plugwire.errors import LimitExceeded, NotReplayable, UsageError
from plugwire.file_sources import AsyncBinaryFile, BinaryFile, FileSource, PathSource
from plugwire.protocols import Body, Source, WatchedBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from plugwire.messages import AsyncResponse
    from plugwire.protocols import Call


Piece: TypeAlias = bytes | bytearray | memoryview | str
Pieces: TypeAlias = Iterable[Piece] | AsyncIterable[Piece]
SourceTypes: TypeAlias = (
    Piece | BinaryFile | AsyncBinaryFile | PathLike[str] | Pieces | Callable[[], Pieces | Piece] | Source | None
)
JSONEncoder: TypeAlias = Callable[[Any], bytes | str]
Json: TypeAlias = "Mapping[str, Json] | list[Json] | tuple[Json, ...] | str | int | float | bool | None"


class MemoryBody(Body):
    """Content that lies in memory. `closed` content reads as an error no more than read content: it is just at its
    end."""

    def __init__(self, content: bytes, trailers: Any = None) -> None:
        self._content = content
        self._position = 0
        self.length = len(content)
        self.trailers = trailers

    async def receive(self, max_bytes: int = 65536) -> bytes:
        begin = self._position
        content = self._content
        if begin == 0 and max_bytes >= len(content):
            self._position = len(content)
            return content
        data = content[begin : begin + max_bytes]
        self._position = begin + len(data)
        return data

    async def receive_into(self, buffer: memoryview) -> int:
        begin = self._position
        size = min(len(buffer), len(self._content) - begin)
        buffer[:size] = memoryview(self._content)[begin : begin + size]
        self._position = begin + size
        return size

    async def close(self) -> None:
        self._position = len(self._content)

    def abort(self) -> None:
        self._position = len(self._content)


class LimitedBody(WatchedBody):
    """The body of a response that may not be longer than `Limits.max_decoded_bytes`, as it was received. (What becomes
    of it by decoding is counted by who decodes.)"""

    def __init__(self, response: AsyncResponse, most: int) -> None:
        super().__init__(response.body)
        self._response = response
        self._most = most
        self._size = 0

    def seen(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        # With a Content-Length the first piece shows it.
        if max(self._size, self.length or 0) > self._most:
            error = LimitExceeded(f"the body is longer than max_decoded_bytes={self._most}", "max_decoded_bytes")
            response = self._response
            raise error.at("body", request=response.request, sent=True, connection=response.connection)


class BytesSource:
    """Content that lies in memory."""

    __slots__ = ("content", "length")
    is_replayable = True

    def __init__(self, content: bytes) -> None:
        self.content: bytes | None = content
        self.length: int | None = len(content)

    def __repr__(self) -> str:
        return f"<{self.length} bytes>"

    def open(self, call: Call) -> Body:
        return MemoryBody(self.content or b"")


EMPTY = BytesSource(b"")
"""The source of a request without content."""


class IterableSource:
    """Pieces from an iterable, plain or async, or from a callable that returns one."""

    content = None
    length = None

    def __init__(self, pieces: Any, *, is_replayable: bool) -> None:
        self._pieces = pieces
        self.is_replayable = is_replayable
        self._opened = False

    def open(self, call: Call) -> Body:
        if self._opened and not self.is_replayable:
            raise NotReplayable("the request's body is a one-shot iterable, and it was sent once already")
        self._opened = True
        given: object = self._pieces() if callable(self._pieces) else self._pieces
        pieces: Any = given
        if isinstance(given, AsyncIterable):
            return PiecesBody(None, aiter(pieces))
        if isinstance(given, (bytes, bytearray, memoryview, str)):
            return PiecesBody(iter((as_bytes(pieces),)), None)
        return PiecesBody(iter(pieces), None)


class PiecesBody(Body):
    """Pieces of any size, given out in pieces of the size that is asked for."""

    def __init__(self, plain: Iterator[Piece] | None, waiting: AsyncIterator[Piece] | None) -> None:
        self._plain = plain
        self._waiting = waiting
        self._rest = memoryview(b"")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self._rest:
            piece = await self._next()
            if piece is None:
                return b""
            self._rest = memoryview(as_bytes(piece))
        data = bytes(self._rest[:max_bytes])
        self._rest = self._rest[max_bytes:]
        return data

    async def _next(self) -> Piece | None:
        if self._plain is not None:
            return next(self._plain, None)
        assert self._waiting is not None
        return await anext(self._waiting, None)

    async def close(self) -> None:
        plain, self._plain, self._rest = self._plain, iter(()), memoryview(b"")
        close = getattr(plain, "close", None) or getattr(self._waiting, "aclose", None)
        if close is not None:
            closing = close()
            if closing is not None:
                await closing


def as_bytes(piece: object) -> bytes:
    """A piece of a body as bytes; text is UTF-8."""
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytearray, memoryview)):
        return bytes(cast("memoryview", piece))
    raise UsageError(f"a piece of the request's body is {type(piece).__name__}: bytes or str")


def make_source(content: SourceTypes, what: str = "content=") -> Source:
    """The `Source` that a caller's `content=` means; `what` it is, for errors.

    Raises:
        UsageError: it is nothing that a body can be made of.
    """
    anything: Any = content
    if content is None:
        return EMPTY
    if isinstance(content, (bytes, bytearray, memoryview, str)):
        return BytesSource(as_bytes(content))
    if _has(content, "open", "is_replayable"):
        return cast("Source", content)
    if isinstance(content, PathLike):
        return PathSource(anything)
    if _has(content, "read"):
        return FileSource(anything)
    try:
        return BytesSource(bytes(memoryview(cast("bytes", content))))  # array.array and other buffers
    except TypeError:
        pass
    if isinstance(content, Mapping):
        raise UsageError(f"{what} is a mapping: form fields go into data=, a JSON document into json=")
    if isinstance(content, AsyncIterable):
        return IterableSource(anything, is_replayable=aiter(anything) is not anything)
    if isinstance(content, Iterable):
        return IterableSource(anything, is_replayable=iter(anything) is not anything)
    if callable(content):
        return IterableSource(content, is_replayable=True)
    raise UsageError(
        f"{what} is {type(content).__name__}: bytes, str, a binary file, a path, an iterable of bytes, or a callable"
    )


def _has(content: object, *names: str) -> bool:
    """Asked by `hasattr`, and not by `isinstance` with the protocol: since Python 3.12 that one does not see what a
    wrapper such as `tempfile.NamedTemporaryFile` hands on by `__getattr__`."""
    return all(hasattr(content, name) for name in names)


NOTHING: Any = object()
"""Stands for a keyword that was not given, where None means something."""


def make_body(
    content: SourceTypes,
    data: object,
    json: object,
    files: object,
    *,
    encode: JSONEncoder | None = None,
    kind: str | None = None,
) -> tuple[Source, str | None]:
    """The source and the content-type that the body keywords of a call mean.

    Args:
        content, data, json, files: as `Request` takes them. None is none of all of them, as in other clients, whose
            users hand on what they were given; the JSON document null is `content="null"`. `data` and `files` are one
            form; an empty `files` is none, as requests and httpx have it.
        encode: what makes JSON; None: `json.dumps`.
        kind: the content-type that the caller has set, which may have a boundary.
    """
    parts: list[tuple[Any, Any]] = []
    if files is not None:
        from plugwire.forms import pairs_of

        parts = pairs_of(files, "files=", "files")
    given = [
        name
        for name, is_given in (
            ("content", content is not None),
            ("data", data is not None and not parts),
            ("json", json is not None),
            ("files", bool(parts)),
        )
        if is_given
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(f'{name}=' for name in given)}: a request has one body")
    if parts:
        from plugwire.multipart import make_multipart

        return make_multipart(data, parts, kind)
    if json is not None:
        return BytesSource(encode_json(json, encode)), "application/json"
    if data is not None:
        from plugwire.forms import encode_form

        return BytesSource(encode_form(data)), "application/x-www-form-urlencoded"
    return make_source(content), None


def encode_json(value: object, encode: JSONEncoder | None = None) -> bytes:
    """JSON as RFC 8259 wants it exchanged: UTF-8, no NaN; or what the caller's encoder makes of the value.

    Raises:
        UsageError: it cannot be encoded, or the encoder gives neither bytes nor str.
    """
    if encode is None:
        try:
            return _json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"json=: {error}") from error
    try:
        made: object = encode(value)
        if isinstance(made, str):
            return made.encode()
    except Exception as error:  # whatever library it is from
        raise UsageError(f"json=: the option json_encoder raised {type(error).__name__}: {error}") from error
    if isinstance(made, (bytes, bytearray, memoryview)):
        return bytes(made)
    raise UsageError(f"json=: the option json_encoder gave {type(made).__name__}, not bytes or str")
