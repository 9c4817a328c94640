"""The lock that plugins may hold over an await: one text for all worlds, over the world's `Waiter`.

Fair: who came first gets it first, because a release hands it over instead of opening it. A waiter that is cancelled
after it was handed the lock hands it on.

An interrupt (Ctrl-C) may come between the getting of the lock and the block that it guards, where no `finally` stands
yet, and in the very step of giving it back. Who must not hang on that uses `run`.

A step here may be broken off by an interrupt, and a finaliser may give a lock back in the midst of it. So who is handed
the lock stays first in the queue until it was woken for certain, and each step ends with a look at that.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from plugwire.protocols import Waiter

T = TypeVar("T")


class HandoverLock:
    """An `AsyncLock`."""

    def __init__(self, waiter: Callable[[], Waiter]) -> None:
        self._waiter = waiter
        self._section = threading.RLock()  # a finaliser may give a lock back in the midst of another one's step
        self._queue: deque[Waiter] = deque()
        self._owner: Waiter | None = None

    async def run(self, step: Callable[[], Awaitable[T]]) -> T:
        """What `step` gives, under the lock. However it ends, the lock is given back: once more, if an interrupt came
        when it was being given back."""
        mine = self._waiter()
        try:
            try:
                await self._acquire(mine)
                return await step()
            finally:
                self._release(mine)
        except BaseException:
            self._release(mine)
            raise

    async def __aenter__(self) -> None:
        await self._acquire(self._waiter())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._section:
            if self._queue and self._queue[0] is self._owner:  # an interrupt came when it was handed over
                self._queue.popleft()
            self._owner = None
            self._hand_over()

    async def _acquire(self, mine: Waiter) -> None:
        """Wait until the lock is `mine`."""
        try:
            with self._section:
                self._queue.append(mine)
                self._hand_over()
            while self._owner is not mine:
                await mine.wait(float("inf"))
        except BaseException:
            self._release(mine)
            raise

    def _release(self, mine: Waiter) -> None:
        """Give it back, or stop waiting for it. Idempotent."""
        with self._section:
            if mine in self._queue:
                self._queue.remove(mine)
            if self._owner is mine:
                self._owner = None
            self._hand_over()

    def _hand_over(self) -> None:
        """To the first in the queue, if nobody has it."""
        queue = self._queue
        if self._owner is None and queue:
            self._owner = queue[0]
        owner = self._owner
        if owner is not None and queue and queue[0] is owner:
            owner.wake()
            if queue and queue[0] is owner:
                queue.popleft()
