"""A pair of streams in memory, for tests without sockets: what one end sends, the other receives, in every world.

    one, other = memory_streams(runtime)

Each end may be used by another thread or task. The pipe between them holds a bounded number of bytes, so back-pressure
is real: `write_now` keeps what does not fit.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

from plugwire.errors import Busy
from plugwire.protocols import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plugwire.protocols import Buffer, Extra, Runtime, Waiter

T = TypeVar("T")


def memory_streams(
    runtime: Runtime,
    *,
    capacity: int = 65536,
    extras: Mapping[Extra[Any], object] | None = None,
) -> tuple[MemoryStream, MemoryStream]:
    """Two connected streams.

    Args:
        runtime: the world whose waiters both ends use.
        capacity: bytes under way in each direction before `write_now` keeps the rest.
        extras: what `extra` of the first end answers.
    """
    section = threading.RLock()  # reentrant: a finaliser may close one end in the middle of the other's step
    there, back = _Pipe(capacity), _Pipe(capacity)
    one = MemoryStream(runtime, section, incoming=back, outgoing=there, extras=extras or {})
    other = MemoryStream(runtime, section, incoming=there, outgoing=back, extras={})
    return one, other


class _Pipe:
    """One direction. All under the lock that both ends share."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data: deque[bytes] = deque()
        self.size = 0
        self.is_ended = False  # the writer is done
        self.is_broken = False  # the reader is gone
        self.waiters: set[Waiter] = set()  # of both ends

    def wake(self) -> None:
        while self.waiters:
            self.waiters.pop().wake()

    @property
    def is_readable(self) -> bool:
        return self.size > 0 or self.is_ended

    @property
    def is_writable(self) -> bool:
        return self.size < self.capacity or self.is_broken

    def put(self, data: memoryview) -> int:
        """Take what fits."""
        part = bytes(data[: self.capacity - self.size])
        if part:
            self.data.append(part)
            self.size += len(part)
            self.wake()
        return len(part)

    def take(self, max_bytes: int) -> bytes:
        """At least one byte; there must be one."""
        data = self.data.popleft()
        if len(data) > max_bytes:
            self.data.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self.size -= len(data)
        self.wake()
        return data


class MemoryStream(Stream):
    """One end of a pair; made by `memory_streams`."""

    def __init__(
        self,
        runtime: Runtime,
        section: threading.RLock,
        incoming: _Pipe,
        outgoing: _Pipe,
        extras: Mapping[Extra[Any], object],
    ) -> None:
        self._runtime = runtime
        self._section = section
        self._incoming = incoming
        self._outgoing = outgoing
        self._extras = dict(extras)
        self._kept: deque[memoryview] = deque()
        self._unsent = 0
        self._is_over = False
        self._reading: Waiter | None = None  # of the wait for readability that is under way
        self._is_nudged = False

    def __del__(self) -> None:
        if not self._is_over:
            self.close()

    def _check(self) -> None:
        if self._is_over:
            raise ConnectionAbortedError("the stream was closed or aborted on this side")

    def read_now(self, max_bytes: int) -> bytes | None:
        with self._section:
            self._check()
            pipe = self._incoming
            if pipe.size:
                return pipe.take(max_bytes)
            return b"" if pipe.is_ended else None

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        pieces = (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data
        with self._section:
            self._check()
            for piece in pieces:
                view = memoryview(piece).cast("B")
                if len(view):
                    self._kept.append(view)
                    self._unsent += len(view)
            pipe = self._outgoing
            if self._kept and pipe.is_broken:
                raise BrokenPipeError("the other end is closed")
            while self._kept:
                view = self._kept[0]
                gone = pipe.put(view)
                self._unsent -= gone
                if gone < len(view):
                    self._kept[0] = view[gone:]
                    return
                self._kept.popleft()

    @property
    def unsent(self) -> int:
        return self._unsent

    async def wait(self, read: bool, write: bool, at: float) -> None:
        waiter = self._runtime.waiter()
        with self._section:
            self._check()
            if read and self._reading is not None:
                raise Busy("somebody else waits on this stream already: a stream has one user at a time")
            if read and self._is_nudged:
                self._is_nudged = False
                return
            if (read and self._incoming.is_readable) or (write and self._outgoing.is_writable):
                return
            if read:
                self._reading = waiter
                self._incoming.waiters.add(waiter)
            if write:
                self._outgoing.waiters.add(waiter)
        try:
            is_in_time = await waiter.wait(at)
        finally:
            with self._section:
                if read:
                    self._reading = None
                self._incoming.waiters.discard(waiter)
                self._outgoing.waiters.discard(waiter)
        self._check()
        if not is_in_time:
            raise TimeoutError("the point in time has passed")

    def nudge(self) -> None:
        with self._section:
            if self._reading is not None:
                self._reading.wake()
            else:
                self._is_nudged = True

    async def send_eof(self, at: float) -> None:
        await super().send_eof(at)
        with self._section:
            self._check()
            self._outgoing.is_ended = True
            self._outgoing.wake()

    def close(self) -> None:
        with self._section:
            self._is_over = True
            self._kept.clear()
            self._unsent = 0
            self._outgoing.is_ended = self._incoming.is_broken = True
            self._outgoing.wake()
            self._incoming.wake()

    def abort(self) -> None:
        self.close()

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        return cast("T | None", self._extras.get(key, default))
