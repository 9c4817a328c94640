"""Files as the content of a request or of a part of a form: open ones, and paths.

What has a length is sent as long as it was when the request was made, never longer: a log file may have grown since.
One that has become shorter ends the upload with an error, because its length was announced.
"""

from __future__ import annotations

import os
import stat
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol, cast

from plugwire.errors import NotReplayable, UsageError
from plugwire.protocols import Body

if TYPE_CHECKING:
    from io import BufferedReader

    from plugwire.protocols import Call


class BinaryFile(Protocol):
    """What `read(size)` of bytes can be called on. With `seek` and `tell` it can be replayed and has a length."""

    def read(self, size: int = -1, /) -> bytes: ...


class AsyncBinaryFile(Protocol):
    """The same, awaited. With `wrapped`, the plain file below (as anyio and trio have it), it is like one of those."""

    async def read(self, size: int = -1, /) -> bytes: ...


class FileSource:
    """A binary file, from where it stands. Read in a worker thread where the world has an event loop; a file whose
    `read` is `async` (anyio, trio, aiofiles) is awaited. It stays open, and is the caller's to close.

    Raises:
        UsageError: it is a text file, or closed.
    """

    content = None

    def __init__(self, file: BinaryFile | AsyncBinaryFile) -> None:
        self._file = file
        self._start = 0
        self.length: int | None = None
        self.is_replayable = False
        self._opened = False
        self._is_async = iscoroutinefunction(file.read)
        anything: Any = file
        self._plain: Any = getattr(anything, "wrapped", None) if self._is_async else anything
        if self._plain is None:
            return
        try:
            probe: object = self._plain.read(0)
        except (OSError, ValueError) as error:  # closed, or open for writing only
            raise UsageError(f"the request's body is a file that cannot be read: {error}") from error
        if isinstance(probe, str):
            raise UsageError("the request's body is a text file: open it with 'rb'")
        try:
            if self._plain.seekable():
                self._start = self._plain.tell()
                self.length = self._plain.seek(0, 2) - self._start
                self._plain.seek(self._start)
                self.is_replayable = True
        except (AttributeError, OSError):
            self.length, self.is_replayable = None, False

    def open(self, call: Call) -> Body:
        if self._opened and not self.is_replayable:
            raise NotReplayable("the request's body is a file that cannot seek, and it was sent once already")
        if self.is_replayable:
            try:
                self._plain.seek(self._start)
            except (OSError, ValueError) as error:
                raise UsageError(f"the request's body is a file that was closed meanwhile: {error}") from error
        self._opened = True
        return _FileBody(self._file, self.length, call, is_async=self._is_async)


class PathSource:
    """A file by its path: opened anew for each attempt, and closed behind it.

    Raises:
        UsageError: there is none, it is a directory, or it cannot be looked at.
    """

    content = None

    def __init__(self, path: os.PathLike[str] | os.PathLike[bytes]) -> None:
        self._path = os.fspath(path)
        try:
            status = os.stat(self._path)
        except (OSError, ValueError) as error:
            raise UsageError(f"the request's body is a path that cannot be read: {error}") from error
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"the request's body is a directory: {os.fsdecode(self._path)!r}")
        # Of a pipe or a device nobody knows how long it is, or whether it says the same twice.
        self.is_replayable = stat.S_ISREG(status.st_mode)
        self.length = status.st_size if self.is_replayable else None
        self._opened = False

    def open(self, call: Call) -> Body:
        if self._opened and not self.is_replayable:
            raise NotReplayable("the request's body is the path of a pipe or device, and it was sent once already")
        self._opened = True
        return _PathBody(self._path, self.length, call)


class _FileBody(Body):
    def __init__(self, file: object, length: int | None, call: Call, *, is_async: bool) -> None:
        self._file: Any = file
        self._is_async = is_async
        self._left = length
        self._runtime = call.runtime
        self.length = length

    async def receive(self, max_bytes: int = 65536) -> bytes:
        size = max_bytes if self._left is None else min(max_bytes, self._left)
        if size == 0:
            return b""
        came: object
        try:
            came = (
                await self._file.read(size)
                if self._is_async
                else await self._runtime.run_blocking(self._file.read, size)
            )
        except ValueError as error:  # what a closed file says
            raise UsageError(f"the request's body is a file that cannot be read: {error}") from error
        if not isinstance(came, (bytes, bytearray, memoryview)):
            raise UsageError(f"the request's body is a file whose read() gave {type(came).__name__}, not bytes")
        data = bytes(cast("bytes", came))
        if self._left is not None:
            self._left -= len(data)
        return data


class _PathBody(Body):
    """Opens its file when the first byte is wanted.

    A cancelled read is abandoned to its thread, which may be opening the file just then. So who reads marks itself and
    then looks whether the body is closed, `close` does it the other way around, and the last one out closes the file:
    `close` never waits for a disk. No lock, for an interrupt could leave it held, and that thread would hang on it.
    """

    def __init__(self, path: str | bytes, length: int | None, call: Call) -> None:
        self._path = path
        self._runtime = call.runtime
        self._left = length
        self._inside: list[None] = []  # a mark for each read
        self._file: BufferedReader | None = None
        self._is_closed = False
        self.length = length

    async def receive(self, max_bytes: int = 65536) -> bytes:
        size = max_bytes if self._left is None else min(max_bytes, self._left)
        if size == 0 or self._is_closed:
            return b""
        data = await self._runtime.run_blocking(self._read, size)
        if self._left is not None:
            self._left -= len(data)
        return data

    def _read(self, size: int) -> bytes:
        inside = self._inside
        try:
            inside.append(None)
            if self._is_closed:
                return b""
            if self._file is None:
                self._file = open(self._path, "rb")  # noqa: SIM115  (closed by close)
            return self._file.read(size)
        finally:
            inside.pop()
            if self._is_closed:
                self._release()

    async def close(self) -> None:
        self._is_closed = True
        self._release()

    def _release(self) -> None:
        if not self._inside and self._file is not None:
            self._file.close()
