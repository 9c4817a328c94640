"""The blocking world: threads.

The blocking world: threads, and sockets in plain blocking mode.

Theory. Nothing here ever suspends: an `await` ends in a system call that blocks, so `drive` can run the whole road.
Streams are in `blocking_stream`, waiters, races and tasks in `threads`.
"""

from __future__ import annotations

import select
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from plugwire.call import racing
from plugwire.drive import drive
from plugwire.runtimes.base import SocketRuntime
from plugwire.runtimes.bell import Bell
from plugwire.runtimes.blocking_stream import BlockingStream, milliseconds
from plugwire.runtimes.happy_eyeballs import Readiness
from plugwire.runtimes.sockets import aborted, too_late
from plugwire.runtimes.threads import BlockingTask, BlockingWaiter, race

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from plugwire.protocols import Waiter

T = TypeVar("T")


class PollReadiness(Readiness):
    """Waits by poll. Another thread wakes it by a bell, made when it is first needed: a dial on a local network is
    mostly answered before that. No lock, as in streams: who waits hangs the bell and then looks whether it is over, who
    aborts does it the other way around."""

    def __init__(self) -> None:
        self._is_over = False
        self._bell: Bell | None = None

    async def wait(
        self, reading: Sequence[socket.socket], writing: Sequence[socket.socket], at: float
    ) -> Sequence[socket.socket]:
        sockets = {sock.fileno(): sock for sock in (*reading, *writing)}
        poll = select.poll()
        for sock in reading:
            poll.register(sock, select.POLLIN)
        for sock in writing:
            poll.register(sock, select.POLLOUT)
        if self._is_over:
            raise aborted()
        if ready := poll.poll(0):
            return [sockets[number] for number, _ in ready]
        scope = racing.get()
        try:
            if self._bell is None:
                self._bell = Bell()
            poll.register(self._bell, select.POLLIN)
            if scope is not None:
                scope.add(self)
            ready = [] if self._is_over else poll.poll(milliseconds(max(at - monotonic(), 0)))
        finally:
            if scope is not None:
                scope.discard(self)
        if self._is_over:
            raise aborted()
        return [sockets[number] for number, _ in ready if number in sockets]

    def abort(self) -> None:
        self._is_over = True
        bell = self._bell
        if bell is not None:
            bell.ring()

    def close(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()


class BlockingRuntime(SocketRuntime):
    """The runtime of `Session`."""

    name = "blocking"
    now = staticmethod(monotonic)  # pyright: ignore[reportAssignmentType]  (called without a frame of our own)

    async def sleep(self, seconds: float, at: float) -> None:
        until = monotonic() + seconds
        if until > at:
            raise too_late()
        if seconds > 0:
            await BlockingWaiter().wait(until)

    async def turn(self) -> None:
        return

    def waiter(self) -> Waiter:
        return BlockingWaiter()

    async def race(
        self, *starters: Callable[[], Awaitable[T]], discard: Callable[[T], object] | None = None
    ) -> tuple[int, T]:
        return await race(starters, discard)

    def stream(self, sock: socket.socket) -> BlockingStream:
        try:
            return BlockingStream(sock)
        except BaseException:
            sock.close()
            raise

    def readiness(self) -> Readiness:
        return PollReadiness()

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> BlockingTask:
        return BlockingTask(function, args)

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    def from_thread(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        return drive(function(*args))
