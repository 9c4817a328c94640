"""The content of a request (`Source`) and bodies that lie in memory.

`make_source` turns what a caller gives into a `Source`. What can be opened more than once can be replayed: bytes, str,
files that seek, lists, tuples, other iterables of which `iter(x) is not x` (and the same for async ones), and callables
that return any of these. A generator or a pipe can be opened once; the second time raises `NotReplayable`.
"""

from __future__ import annotations

import json as _json
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from plugwire.errors import NotReplayable, UsageError
from plugwire.protocols import Body, Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from plugwire.protocols import Call


class BinaryFile(Protocol):
    """What `read(size)` of bytes can be called on. With `seek` and `tell` it can be replayed and has a length."""

    def read(self, size: int = -1, /) -> bytes: ...


Piece: TypeAlias = bytes | bytearray | memoryview | str
Pieces: TypeAlias = Iterable[Piece] | AsyncIterable[Piece]
SourceTypes: TypeAlias = (
    bytes | bytearray | memoryview | str | BinaryFile | Pieces | Callable[[], Pieces | Piece] | Source | None
)
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


class FileSource:
    """A binary file, from where it stands. Read in a worker thread where the world has an event loop; a file whose
    `read` is `async` (anyio, trio) is awaited, and sent once.

    Raises:
        UsageError: it is a text file, or closed.
    """

    content = None

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self._start = 0
        self.length: int | None = None
        self.is_replayable = False
        self._opened = False
        self._is_async = iscoroutinefunction(file.read)
        if self._is_async:
            return
        try:
            probe: object = file.read(0)
        except (OSError, ValueError) as error:  # closed, or open for writing only
            raise UsageError(f"the request's body is a file that cannot be read: {error}") from error
        if isinstance(probe, str):
            raise UsageError("the request's body is a text file: open it with 'rb'")
        try:
            if file.seekable():  # type: ignore[attr-defined]  # asked of any file-like, and excused if it is not there
                self._start = file.tell()  # type: ignore[attr-defined]  # the same
                self.length = file.seek(0, 2) - self._start  # type: ignore[attr-defined]  # the same
                file.seek(self._start)  # type: ignore[attr-defined]  # the same
                self.is_replayable = True
        except (AttributeError, OSError):
            self.length, self.is_replayable = None, False

    def open(self, call: Call) -> Body:
        if self._opened and not self.is_replayable:
            raise NotReplayable("the request's body is a file that cannot seek, and it was sent once already")
        if self.is_replayable:
            self._file.seek(self._start)  # type: ignore[attr-defined]  # is_replayable says that it is there
        self._opened = True
        return _FileBody(self._file, self.length, call, is_async=self._is_async)


class _FileBody(Body):
    def __init__(self, file: BinaryFile, length: int | None, call: Call, *, is_async: bool) -> None:
        self._file: Any = file
        self._is_async = is_async
        self._left = length
        self._runtime = call.runtime
        self.length = length

    async def receive(self, max_bytes: int = 65536) -> bytes:
        # Never more than the length that was announced: a log file may have grown since.
        size = max_bytes if self._left is None else min(max_bytes, self._left)
        if size == 0:
            return b""
        if self._is_async:
            came: object = await self._file.read(size)
        else:
            came = await self._runtime.run_blocking(self._file.read, size)
        if not isinstance(came, (bytes, bytearray, memoryview)):
            raise UsageError(f"the request's body is a file whose read() gave {type(came).__name__}, not bytes")
        data = as_bytes(cast("bytes", came))
        if self._left is not None:
            self._left -= len(data)
        return data


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


def make_source(content: SourceTypes) -> Source:
    """The `Source` that a caller's `content=` means.

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
    if _has(content, "read"):
        return FileSource(anything)
    try:
        return BytesSource(bytes(memoryview(cast("bytes", content))))  # array.array and other buffers
    except TypeError:
        pass
    if isinstance(content, Mapping):
        raise UsageError("content= is a mapping: form fields go into data=, a JSON document into json=")
    if isinstance(content, AsyncIterable):
        return IterableSource(anything, is_replayable=aiter(anything) is not anything)
    if isinstance(content, Iterable):
        return IterableSource(anything, is_replayable=iter(anything) is not anything)
    if callable(content):
        return IterableSource(content, is_replayable=True)
    raise UsageError(
        f"content= is {type(content).__name__}: bytes, str, a binary file, an iterable of bytes, or a callable"
    )


def _has(content: object, *names: str) -> bool:
    """Asked by `hasattr`, and not by `isinstance` with the protocol: since Python 3.12 that one does not see what a
    wrapper such as `tempfile.NamedTemporaryFile` hands on by `__getattr__`."""
    return all(hasattr(content, name) for name in names)


def make_body(content: SourceTypes, data: object, json: object, files: object) -> tuple[Source, str | None]:
    """The source and the content-type that the body keywords of a call mean. `json` is `NOTHING` if it was not given,
    because None is a JSON document."""
    given = [
        name
        for name, is_given in (
            ("content", content is not None),
            ("data", data is not None),
            ("json", json is not NOTHING),
            ("files", files is not None),
        )
        if is_given
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(f'{name}=' for name in given)}: a request has one body")
    if files is not None:
        raise UsageError("files=: multipart forms are not supported yet; build the body and give it as content=")
    if json is not NOTHING:
        return BytesSource(encode_json(json)), "application/json"
    if data is not None:
        return BytesSource(encode_form(data)), "application/x-www-form-urlencoded"
    return make_source(content), None


NOTHING: Any = object()
"""Stands for a keyword that was not given, where None means something."""


def encode_json(value: object) -> bytes:
    """JSON as RFC 8259 wants it exchanged: UTF-8, no NaN."""
    try:
        return _json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"json=: {error}") from error


def encode_form(data: object) -> bytes:
    """Form fields, url-encoded (WHATWG URL, 5.2). A list as a value gives the field several times; None leaves the
    field out."""
    from urllib.parse import urlencode

    if isinstance(data, (str, bytes)):
        raise UsageError("data=: form fields as a mapping or as pairs; a ready body goes into content=")
    pairs: list[tuple[str, object]] = []
    form: Any = data
    items: Any = form.items() if isinstance(data, Mapping) else form
    try:
        for name, value in items:
            pairs.extend((str(name), _form_value(item)) for item in _form_values(value) if item is not None)
    except (TypeError, ValueError) as error:
        raise UsageError("data=: form fields as a mapping or as pairs") from error
    return urlencode(pairs).encode("ascii")


def _form_values(value: object) -> Iterable[Any]:
    several: Any = value
    return several if isinstance(value, (list, tuple)) else (value,)


def _form_value(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
