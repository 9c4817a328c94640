"""Races and background tasks of the blocking world: coroutines driven in threads of their own.

Each thread has its own `Scope` in the context variable `plugwire.call.racing`. Whatever waits in it (streams, waiters,
dials, races) joins that scope, and raises `ConnectionAbortedError` once the scope was aborted: this is what cancelling
means where nothing can be thrown into a thread.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from contextvars import Context, copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from plugwire.call import Scope, racing, report
from plugwire.drive import drive
from plugwire.protocols import Waiter
from plugwire.runtimes.blocking_stream import INFINITY, LONGEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

T = TypeVar("T")


class BlockingWaiter(Waiter):
    """A raw lock, locked until it is woken. A lock's `release` is one step, so `wake` may come from a signal handler
    or a finaliser at any point of the waiting thread."""

    __slots__ = ("_is_woken", "_lock")

    def __init__(self) -> None:
        self._is_woken = False
        self._lock = allocate_lock()
        self._lock.acquire()

    async def wait(self, at: float) -> bool:
        scope = racing.get()
        if scope is None:
            return self._wait(at)
        scope.add(self)
        try:
            is_woken = self._wait(at)
        finally:
            scope.discard(self)
        if scope.is_aborted:
            raise ConnectionAbortedError("the race or task that waited was cancelled")
        return is_woken

    def _wait(self, at: float) -> bool:
        while not self._is_woken:
            rest = at - monotonic()
            if rest <= 0:
                break
            self._lock.acquire(timeout=min(rest, LONGEST))
        return self._is_woken

    def wake(self) -> None:
        self._is_woken = True
        try:
            self._lock.release()
        except RuntimeError:  # woken before
            pass


class _Worker:
    """A coroutine in a thread of its own, with a scope by which it can be ended."""

    def __init__(self, context: Context, begin: Callable[[], Awaitable[Any]], ended: Callable[[_Worker], object]):
        self.scope = Scope()
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._context = context
        self._begin = begin
        self._ended = ended
        # A daemon: a starter that hears no abort must not keep a program from ending after a second Ctrl-C.
        self.thread = threading.Thread(target=self._context.run, args=(self._run,), daemon=True)

    def _run(self) -> None:
        racing.set(self.scope)
        try:
            self.result = drive(_awaited(self._begin))
            self.is_done = True
        except BaseException as error:
            self.error = error
        finally:
            self._ended(self)


async def _awaited(begin: Callable[[], Awaitable[T]]) -> T:
    return await begin()


class _Race:
    """Who has ended, in order; wakes the caller when the first has won or all have failed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.order: list[_Worker] = []  # as they ended; it only grows
        self.is_decided = BlockingWaiter()

    def ended(self, worker: _Worker) -> None:
        self.order.append(worker)
        if worker.is_done or len(self.order) == self._count:
            self.is_decided.wake()

    def winner(self) -> _Worker | None:
        """The same whenever it is asked, once it is decided."""
        return next((worker for worker in self.order if worker.is_done), None)


async def race(starters: Sequence[Callable[[], Awaitable[T]]], discard: Callable[[T], object] | None) -> tuple[int, T]:
    """`Runtime.race`. It waits in a `BlockingWaiter`, so it stands in its caller's scope and can be aborted itself."""
    if not starters:
        raise ValueError("a race needs at least one starter")
    state = _Race(len(starters))
    workers = [_Worker(copy_context(), starter, state.ended) for starter in starters]
    winner: _Worker | None = None
    try:
        for worker in workers:
            worker.thread.start()
        await state.is_decided.wait(INFINITY)
        winner = state.winner()
    finally:
        # The losers are left; or, if the race itself was cancelled, all of them.
        for worker in workers:
            if worker is not winner:
                worker.scope.abort()
        for worker in workers:
            if worker.thread.ident is not None:
                worker.thread.join()
        errors = [worker.error for worker in state.order if worker.error is not None]
        for worker in state.order:
            worker.error = None  # or error, traceback and worker would hold each other
            if worker is not winner and worker.is_done and discard is not None:
                discard(worker.result)
    if winner is not None:
        return workers.index(winner), winner.result
    try:
        raise errors[-1]
    finally:
        del errors


class BlockingTask:
    """A `Task` that is a daemon thread."""

    def __init__(self, function: Callable[..., Coroutine[Any, Any, object]], args: tuple[Any, ...]) -> None:
        self._worker = _Worker(copy_context(), lambda: function(*args), _report)
        self._worker.thread.start()

    def cancel(self) -> None:
        self._worker.scope.abort()

    async def join(self) -> None:
        if self._worker.thread is not threading.current_thread():
            self._worker.thread.join()


def _report(worker: _Worker) -> None:
    """What a background task raised goes to the hook for errors that nobody can catch, unless it was cancelled."""
    error, worker.error = worker.error, None
    if error is not None and not worker.scope.is_aborted:
        report(error, "an error in a background task of plugwire")
