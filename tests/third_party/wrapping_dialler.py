"""Diallers that wrap the one below them: one counts bytes, one cuts the connection after so many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from plugwire.protocols import EVERYTHING, Buffer, Connecting, Extra, Route, Stream

T = TypeVar("T")


class Wrapped(Stream):
    """Hands everything on."""

    def __init__(self, inner: Stream) -> None:
        self.inner = inner

    def read_now(self, max_bytes: int) -> bytes | None:
        return self.inner.read_now(max_bytes)

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        self.inner.write_now(data)

    @property
    def unsent(self) -> int:
        return self.inner.unsent

    async def wait(self, read: bool, write: bool, at: float) -> None:
        await self.inner.wait(read, write, at)

    def nudge(self) -> None:
        self.inner.nudge()

    async def send_eof(self, at: float) -> None:
        await self.inner.send_eof(at)

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.abort()

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        return self.inner.extra(key, default)


class CountingDialler:
    name = "counting"
    honours = frozenset({EVERYTHING})

    def __init__(self) -> None:
        self.received = 0

    def refuse(self, route: Route) -> str | None:
        return None

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        return _Counting(self, await connecting.dial(route))


class _Counting(Wrapped):
    def __init__(self, counter: CountingDialler, inner: Stream) -> None:
        super().__init__(inner)
        self._counter = counter

    def read_now(self, max_bytes: int) -> bytes | None:
        data = self.inner.read_now(max_bytes)
        self._counter.received += len(data or b"")
        return data


class CuttingDialler:
    name = "cutting"
    honours = frozenset({EVERYTHING})

    def __init__(self, after: int) -> None:
        self.after = after

    def refuse(self, route: Route) -> str | None:
        return None

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        return _Cut(self.after, await connecting.dial(route))


class _Cut(Wrapped):
    def __init__(self, left: int, inner: Stream) -> None:
        super().__init__(inner)
        self._left = left

    def read_now(self, max_bytes: int) -> bytes | None:
        if not self._left:
            raise ConnectionResetError("cut for a test")
        data = self.inner.read_now(min(max_bytes, self._left))
        self._left -= len(data or b"")
        return data
