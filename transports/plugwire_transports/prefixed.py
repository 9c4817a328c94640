"""A stream whose first bytes were read already: what came behind the head of a 101 or of a proxy's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from plugwire.protocols import SOCKET, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.protocols import Buffer, Extra

T = TypeVar("T")


class PrefixedStream(Stream):
    """`prefix`, then what `stream` gives. Writing goes straight through."""

    def __init__(self, prefix: bytes, stream: Stream) -> None:
        self._prefix = prefix
        self._stream = stream

    def read_now(self, max_bytes: int) -> bytes | None:
        if self._prefix:
            data, self._prefix = self._prefix[:max_bytes], self._prefix[max_bytes:]
            return data
        return self._stream.read_now(max_bytes)

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        self._stream.write_now(data)

    @property
    def unsent(self) -> int:
        return self._stream.unsent

    async def wait(self, read: bool, write: bool, at: float) -> None:
        if not (read and self._prefix):
            await self._stream.wait(read, write, at)

    def nudge(self) -> None:
        self._stream.nudge()

    async def receive(self, max_bytes: int, at: float) -> bytes:
        # By the stream's own way, which may be one system call.
        return self.read_now(max_bytes) or b"" if self._prefix else await self._stream.receive(max_bytes, at)

    async def receive_into(self, buffer: memoryview, at: float) -> int:
        if self._prefix:
            return await super().receive_into(buffer, at)
        return await self._stream.receive_into(buffer, at)

    async def send(self, data: Buffer | Sequence[Buffer], at: float, stop_if_readable: bool = False) -> int:
        if stop_if_readable and self._prefix:
            return await super().send(data, at, True)  # by `wait`, which knows of the prefix
        return await self._stream.send(data, at, stop_if_readable)

    async def send_eof(self, at: float) -> None:
        await self._stream.send_eof(at)

    def close(self) -> None:
        self._stream.close()

    def abort(self) -> None:
        self._stream.abort()

    def disown(self) -> None:
        self._stream.disown()

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        # Who has the socket would miss the prefix.
        return default if key is SOCKET else self._stream.extra(key, default)
