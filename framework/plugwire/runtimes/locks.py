"""The lock that plugins may hold over an await: one text for all worlds, over the world's `Waiter`.

Fair: who came first gets it first, because a release hands it over instead of opening it. A waiter that is cancelled
after it was handed the lock hands it on.
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
        self._section = threading.Lock()
        self._queue: deque[Waiter] = deque()
        self._owner: Waiter | None = None

    async def __aenter__(self) -> None:
        mine = self._waiter()
        with self._section:
            if self._owner is None:
                self._owner = mine
                return
            self._queue.append(mine)
        try:
            while self._owner is not mine:
                await mine.wait(float("inf"))
        except BaseException:
            with self._section:
                if self._owner is mine:
                    self._hand_over()
                else:
                    self._queue.remove(mine)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._section:
            self._hand_over()

    def _hand_over(self) -> None:
        self._owner = self._queue.popleft() if self._queue else None
        if self._owner is not None:
            self._owner.wake()
