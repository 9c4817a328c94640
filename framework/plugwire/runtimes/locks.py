"""The lock that plugins may hold over an await: one text for all worlds, over the world's `Waiter`.

Fair: who came first gets it first, because a release hands it over instead of opening it. A waiter that is cancelled
after it was handed the lock hands it on.

An interrupt (Ctrl-C) may come between the getting of the lock and the block that it guards, where no `finally` stands
yet. Who must not hang on that takes a `Turn`, which gives the lock back when it is lost, however it is lost.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from plugwire.protocols import Waiter


class HandoverLock:
    """An `AsyncLock`."""

    def __init__(self, waiter: Callable[[], Waiter]) -> None:
        self._waiter = waiter
        self._section = threading.RLock()  # a finaliser may give a lock back in the midst of another one's step
        self._queue: deque[Waiter] = deque()
        self._owner: Waiter | None = None

    async def __aenter__(self) -> None:
        await self.acquire(self._waiter())

    async def acquire(self, mine: Waiter) -> None:
        """Wait until the lock is `mine`."""
        try:
            with self._section:
                if self._owner is None:
                    self._owner = mine
                else:
                    self._queue.append(mine)
            while self._owner is not mine:
                await mine.wait(float("inf"))
        except BaseException:
            self.release(mine)
            raise

    def release(self, mine: Waiter) -> None:
        """Give it back, or stop waiting for it. Idempotent."""
        with self._section:
            if self._owner is mine:
                self._hand_over()
            elif mine in self._queue:
                self._queue.remove(mine)

    def turn(self) -> Turn:
        """`async with lock.turn():` as `async with lock:`, also when an interrupt comes at the wrong moment."""
        return Turn(self, self._waiter())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._section:
            self._hand_over()

    def _hand_over(self) -> None:
        self._owner = self._queue.popleft() if self._queue else None
        if self._owner is not None:
            self._owner.wake()


class Turn:
    """One holding of a lock. The `async with` that uses it is the only one that knows it."""

    def __init__(self, lock: HandoverLock, mine: Waiter) -> None:
        self._lock = lock
        self._mine = mine

    async def __aenter__(self) -> None:
        await self._lock.acquire(self._mine)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release(self._mine)

    def __del__(self) -> None:
        self._lock.release(self._mine)
