"""The asyncio world; its streams are in `asyncio_stream`."""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeVar

from plugwire.call import report
from plugwire.errors import UsageError
from plugwire.protocols import Waiter
from plugwire.runtimes.asyncio_stream import (
    INFINITY,
    RECEIVE_BUFFER,
    AsyncioStream,
    clock_of,
    wake,
    wake_from_anywhere,
)
from plugwire.runtimes.base import SocketRuntime
from plugwire.runtimes.happy_eyeballs import Readiness
from plugwire.runtimes.sockets import aborted, too_late

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

T = TypeVar("T")


LONG: Final = 2.0
"""Seconds from which on a wait shares its timer."""

GRAIN: Final = 0.125
"""Seconds by which the end of such a wait may be late."""


class Alarms:
    """The ends of long waits, by the eighth of a second.

    A timer of the loop's own costs as much as many a step of a small request, and nearly every one is cancelled unused.
    So long waits share: who waits stands in the set of its eighth of a second, and only the earliest set has a timer.
    """

    __slots__ = ("_loop", "_sets", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sets: dict[int, set[AsyncioWaiter]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0

    def at(self, at: float) -> set[AsyncioWaiter]:
        """The set of those who wait until then: to be joined at once, and left when the wait is over."""
        grain = int(at / GRAIN) + 1
        found = self._sets.get(grain)
        if found is None:
            found = self._sets[grain] = set()
            if self._timer is None or grain < self._timer_at:
                self._arm(grain)
        return found

    def _arm(self, grain: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = grain
        # In a context of its own: the caller's would be kept until then, and all that is in it.
        self._timer = self._loop.call_at(grain * GRAIN, self._ring, context=Context())

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time() / GRAIN
        # Sets that everybody has left are forgotten, so a loop without waits is not woken.
        sets, self._sets = self._sets, {}
        for grain, waiters in sets.items():
            if grain <= now:
                for waiter in tuple(waiters):
                    waiter.late()
            elif waiters:
                self._sets[grain] = waiters
        if self._sets:
            self._arm(min(self._sets))


class AsyncioWaiter(Waiter):
    """A future that is made when somebody waits."""

    __slots__ = ("_future", "_is_woken", "_runtime")

    def __init__(self, runtime: AsyncioRuntime) -> None:
        self._runtime = runtime
        self._is_woken = False
        self._future: asyncio.Future[bool] | None = None

    async def wait(self, at: float) -> bool:
        runtime = self._runtime
        loop = runtime.loop()
        if self._is_woken:
            return True
        rest = at - runtime.now()
        if rest <= 0:
            return False
        self._future = future = loop.create_future()
        # In this order: who wakes from another thread sets the flag first and looks for the future after.
        if self._is_woken:
            return True
        timer: asyncio.TimerHandle | None = None
        company: set[AsyncioWaiter] | None = None
        if rest > LONG:
            if at < INFINITY:
                company = runtime.alarms.at(at)
                company.add(self)
        else:
            timer = loop.call_at(at, self.late)
        try:
            return await future or self._is_woken
        finally:
            self._future = None
            if company is not None:
                company.discard(self)
            elif timer is not None:
                timer.cancel()

    def wake(self) -> None:
        self._is_woken = True
        if self._future is None:
            return
        if self._runtime.is_in_task():
            self._set(True)
        else:
            # Also in the loop's own thread outside of a task: a signal handler or a finaliser may run between the
            # loop's look at what is ready and its sleep, and only the bell ends that sleep.
            self._runtime.call_soon_threadsafe(self._set, True)

    def late(self) -> None:
        """The time is up."""
        self._set(False)

    def _set(self, is_woken: bool) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(is_woken)


class AsyncioReadiness(Readiness):
    """Registers all sockets with the loop for the time of one wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        self._is_over = False
        self._future: asyncio.Future[bool] | None = None

    async def wait(
        self, reading: Sequence[socket.socket], writing: Sequence[socket.socket], at: float
    ) -> Sequence[socket.socket]:
        loop = self._loop
        self._future = future = loop.create_future()
        # In this order: who aborts from another thread sets the flag first and looks for the future after.
        if self._is_over:
            raise aborted()
        ready: list[socket.socket] = []

        def answered(sock: socket.socket) -> None:
            if sock not in ready:
                ready.append(sock)
            wake(future)

        timer = loop.call_at(at, wake, future) if at < INFINITY else None
        try:
            for sock in reading:
                loop.add_reader(sock.fileno(), answered, sock)
            for sock in writing:
                loop.add_writer(sock.fileno(), answered, sock)
            await future
        finally:
            self._future = None
            if timer is not None:
                timer.cancel()
            for sock in reading:
                loop.remove_reader(sock.fileno())
            for sock in writing:
                loop.remove_writer(sock.fileno())
        if self._is_over:
            raise aborted()
        return ready

    def abort(self) -> None:
        self._is_over = True
        future = self._future
        if future is not None:
            wake_from_anywhere(self._loop, self._thread, future)

    def close(self) -> None:
        pass


class AsyncioTask:
    """A `Task` that is an asyncio task."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task  # the loop itself holds tasks weakly

    def cancel(self) -> None:
        self._task.cancel()

    async def join(self) -> None:
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task])


async def _in_background(function: Callable[..., Coroutine[Any, Any, object]], args: tuple[Any, ...]) -> None:
    try:
        await function(*args)
    except Exception as error:
        report(error, "an error in a background task of plugwire")


async def _awaited(begin: Callable[[], Awaitable[T]]) -> T:
    return await begin()


class AsyncioRuntime(SocketRuntime):
    """The runtime of `AsyncSession` under asyncio. It belongs to the loop in which it is made."""

    name = "asyncio"
    cancellation = (asyncio.CancelledError,)

    def __init__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self.alarms = Alarms(loop)
        self._shared = memoryview(bytearray(RECEIVE_BUFFER))
        self.now = clock_of(loop)  # type: ignore[method-assign]  # called without a frame of our own

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop.

        Raises:
            UsageError: it is not the one that this runtime belongs to.
        """
        self.check_here()
        return self._loop

    def check_here(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise UsageError("this session belongs to another event loop: that of its first await")

    def is_in_task(self) -> bool:
        """Whether the caller runs in a task of this loop, and so in its thread."""
        return get_ident() == self._thread and asyncio.current_task(self._loop) is not None

    def call_soon_threadsafe(self, function: Callable[..., object], *args: object) -> None:
        """From anywhere; nothing if the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # closed: nobody waits there any more
            pass

    def now(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float, at: float) -> None:
        if self.loop().time() + seconds > at:
            raise too_late()
        await asyncio.sleep(max(seconds, 0))

    async def turn(self) -> None:
        await asyncio.sleep(0)

    def waiter(self) -> Waiter:
        return AsyncioWaiter(self)

    async def race(
        self, *starters: Callable[[], Awaitable[T]], discard: Callable[[T], object] | None = None
    ) -> tuple[int, T]:
        if not starters:
            raise ValueError("a race needs at least one starter")
        loop = self.loop()
        tasks = [loop.create_task(_awaited(starter)) for starter in starters]
        winner: asyncio.Task[T] | None = None
        last: BaseException | None = None
        running = set(tasks)
        try:
            while running and winner is None:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task in done and winner is None:
                        last = _failure(task)
                        winner = task if last is None else None
        finally:
            await _end([task for task in tasks if task is not winner], discard)
        if winner is not None:
            return tasks.index(winner), winner.result()
        assert last is not None
        try:
            raise last
        finally:
            del last

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> AsyncioTask:
        return AsyncioTask(self.loop().create_task(_in_background(function, args)))

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        return await self.loop().run_in_executor(None, partial(copy_context().run, function, *args))

    def from_thread(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        if get_ident() == self._thread:
            raise UsageError("from_thread is for threads of run_blocking")
        return asyncio.run_coroutine_threadsafe(function(*args), self._loop).result()

    def stream(self, sock: socket.socket) -> AsyncioStream:
        try:
            return AsyncioStream(sock, self.loop(), self._shared)
        except BaseException:
            sock.close()
            raise

    def readiness(self) -> Readiness:
        return AsyncioReadiness(self.loop())


def _failure(task: asyncio.Task[Any]) -> BaseException | None:
    """Why a task that is done has failed."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def _end(tasks: Sequence[asyncio.Task[T]], discard: Callable[[T], object] | None) -> None:
    """Cancel and wait, whatever happens; a cancel of the caller in between is passed on at the end."""
    cancelled: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if _failure(task) is None and discard is not None:
            discard(task.result())
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled
