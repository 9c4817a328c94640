"""The trio world.

Non-blocking sockets and trio's own `wait_readable` and `wait_writable`. A deadline is a cancel scope around one such
wait alone: a scope that stayed open over more would not nest with those of the caller.

An await on a stream is a checkpoint only if it really waits, as in the other worlds. Cancellation comes from trio and
passes through untouched. `close` tells trio first (`notify_closing`), so a task that waits is woken and no poll set
keeps the number of a descriptor that is gone. What is trio's is touched by a task of its run only: what comes from
elsewhere (another thread, where the garbage collector closes what a task is still using; a finaliser in the middle of
trio's own work) is left to the run, as long as there is one.
"""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar, cast

import trio

from plugwire.call import report
from plugwire.errors import Busy, UsageError
from plugwire.protocols import Waiter
from plugwire.runtimes.base import SocketRuntime
from plugwire.runtimes.happy_eyeballs import Readiness
from plugwire.runtimes.sockets import SocketStream, aborted, too_late

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

T = TypeVar("T")


class TrioStream(SocketStream):
    """A non-blocking socket that is waited for by trio."""

    _now = staticmethod(trio.current_time)

    def __init__(self, sock: socket.socket, token: trio.lowlevel.TrioToken) -> None:
        self._token = token  # of the run that it belongs to
        self._waiting: trio.CancelScope | None = None  # the wait for readability that is under way
        super().__init__(sock)

    async def receive(self, max_bytes: int, at: float) -> bytes:
        if trio.current_time() >= at:
            raise too_late()
        return await super().receive(max_bytes, at)

    async def receive_into(self, buffer: memoryview, at: float) -> int:
        if trio.current_time() >= at:
            raise too_late()
        while not self._is_over:
            if self.is_readable():
                try:
                    return self._sock.recv_into(buffer)
                except BlockingIOError:
                    pass
            await self.wait(True, False, at)
        raise aborted()

    async def wait(self, read: bool, write: bool, at: float) -> None:
        if self._is_over:
            raise aborted()
        if trio.current_time() >= at:
            raise too_late()
        scope = trio.CancelScope(deadline=at)
        if read:
            if self._waiting is not None:
                raise _busy()
            self._waiting = scope
        try:
            await _until_ready(self._sock, read, write, scope)
        finally:
            if read:
                self._waiting = None
        if self._is_over:
            raise aborted()
        if scope.cancelled_caught and trio.current_time() >= at:  # else it was nudged
            raise too_late()

    def nudge(self) -> None:
        scope = self._waiting
        if scope is not None:
            _in_run(self._token, scope.cancel)

    def close(self) -> None:
        self._is_over = True
        if self._sock.fileno() >= 0 and not _in_run(self._token, _release, self._sock):
            self._sock.close()  # the run has ended, and nobody waits any more
        if self._sock.fileno() < 0:  # else a task of the run may be writing
            self._kept.clear()
            self._unsent = 0

    def abort(self) -> None:
        self.close()


def _release(sock: socket.socket) -> None:
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()


def _in_run(token: trio.lowlevel.TrioToken, function: Callable[..., object], *args: object) -> bool:
    """Call it in the run's own thread, now or soon. False: the run has ended."""
    if trio.lowlevel.in_trio_task() and trio.lowlevel.current_trio_token() is token:
        function(*args)
        return True
    # Another thread, a signal handler, a finaliser in the middle of trio's own work: maybe between its look at what is
    # ready and its sleep, which this ends.
    try:
        token.run_sync_soon(function, *args)
    except trio.RunFinishedError:
        return False
    return True


async def _until_ready(sock: socket.socket, read: bool, write: bool, scope: trio.CancelScope) -> None:
    """Until the socket is ready or the scope is cancelled. A function, so that the cancellation that trio raises for
    the time keeps this frame alive (until the garbage collector comes) and not that of a stream; CPython 3.13 keeps the
    callers' frames too."""
    with scope:
        try:
            if not write:
                await trio.lowlevel.wait_readable(sock)
            elif not read:
                await trio.lowlevel.wait_writable(sock)
            else:
                await _first((trio.lowlevel.wait_readable, sock), (trio.lowlevel.wait_writable, sock))
        except (trio.ClosedResourceError, ValueError):  # ValueError: closed before the wait had begun
            raise aborted() from None
        except trio.BusyResourceError:
            raise _busy() from None


def _busy() -> Busy:
    return Busy("another task waits on this stream already: a stream has one user at a time")


async def _first(*waits: tuple[Callable[[Any], Awaitable[object]], Any]) -> list[Any]:
    """Wait until one of several waits ends; the arguments of those that did."""
    ended: list[Any] = []

    async def one(wait: Callable[[Any], Awaitable[object]], argument: Any) -> None:
        await wait(argument)
        ended.append(argument)
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for wait, argument in waits:
                nursery.start_soon(one, wait, argument)
    except BaseExceptionGroup as group:
        raise _unwrapped(group) from None
    return ended


def _unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error out of a nursery whose tasks are an inner matter: a real one before a cancellation."""
    errors = list(_leaves(group))
    for error in errors:
        if not isinstance(error, trio.Cancelled):
            return error
    return errors[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    result: list[BaseException] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            result.extend(_leaves(cast("BaseExceptionGroup[BaseException]", error)))
        else:
            result.append(error)
    return result


class TrioWaiter(Waiter):
    """A trio event that can be set from anywhere."""

    __slots__ = ("_event", "_is_woken", "_token")

    def __init__(self) -> None:
        self._is_woken = False
        self._event: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    async def wait(self, at: float) -> bool:
        if self._is_woken:
            return True
        if trio.current_time() >= at:
            return False
        self._token = trio.lowlevel.current_trio_token()
        self._event = event = trio.Event()
        # In this order: who wakes from another thread sets the flag first and looks for the event after.
        if not self._is_woken:
            with trio.move_on_at(at):
                await event.wait()
        return self._is_woken

    def wake(self) -> None:
        self._is_woken = True
        event = self._event
        if event is not None:
            assert self._token is not None
            _in_run(self._token, event.set)


class TrioReadiness(Readiness):
    """Waits for several sockets by one task each."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._is_over = False
        self._scope: trio.CancelScope | None = None

    async def wait(
        self, reading: Sequence[socket.socket], writing: Sequence[socket.socket], at: float
    ) -> Sequence[socket.socket]:
        ready: list[socket.socket] = []
        with trio.CancelScope(deadline=at) as self._scope:
            # In this order: who aborts from another thread sets the flag first and looks for the scope after.
            if self._is_over:
                raise aborted()
            if reading or writing:
                ready = await _first(
                    *((trio.lowlevel.wait_readable, sock) for sock in reading),
                    *((trio.lowlevel.wait_writable, sock) for sock in writing),
                )
            else:
                await trio.sleep_until(at)
        self._scope = None
        if self._is_over:
            raise aborted()
        return ready

    def abort(self) -> None:
        self._is_over = True
        scope = self._scope
        if scope is not None:
            _in_run(self._token, scope.cancel)

    def close(self) -> None:
        pass


class TrioTask:
    """A `Task` that is a system task: it lives as long as the run, not as its caller's nursery."""

    def __init__(self, function: Callable[..., Coroutine[Any, Any, object]], args: tuple[Any, ...]) -> None:
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, function, args, context=copy_context())

    async def _run(self, function: Callable[..., Coroutine[Any, Any, object]], args: tuple[Any, ...]) -> None:
        try:
            with self._scope:
                await function(*args)
        except Exception as error:
            report(error, "an error in a background task of plugwire")
        finally:
            self._ended.set()

    def cancel(self) -> None:
        self._scope.cancel()

    async def join(self) -> None:
        await self._ended.wait()


class TrioRuntime(SocketRuntime):
    """The runtime of `AsyncSession` under trio."""

    name = "trio"
    cancellation = (trio.Cancelled,)

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._clock = trio.lowlevel.current_clock()
        self.now = self._clock.current_time  # type: ignore[method-assign]  # called without a frame of our own

    def now(self) -> float:
        # Not trio.current_time, which raises in other threads: the collector finalises what it finds in any of them.
        return self._clock.current_time()

    def check_here(self) -> None:
        if trio.lowlevel.current_trio_token() is not self._token:
            raise UsageError("this session belongs to another event loop: that of its first await")

    async def sleep(self, seconds: float, at: float) -> None:
        until = trio.current_time() + seconds
        if until > at:
            raise too_late()
        await trio.sleep_until(until)

    async def turn(self) -> None:
        await trio.lowlevel.checkpoint()

    def waiter(self) -> Waiter:
        return TrioWaiter()

    async def race(
        self, *starters: Callable[[], Awaitable[T]], discard: Callable[[T], object] | None = None
    ) -> tuple[int, T]:
        if not starters:
            raise ValueError("a race needs at least one starter")
        results: list[tuple[int, T]] = []
        errors: list[Exception] = []

        async def run(index: int, starter: Callable[[], Awaitable[T]]) -> None:
            try:
                results.append((index, await starter()))
            except Exception as error:
                errors.append(error)
            else:
                nursery.cancel_scope.cancel()

        is_won = False
        try:
            async with trio.open_nursery() as nursery:
                for index, starter in enumerate(starters):
                    nursery.start_soon(run, index, starter)
            is_won = bool(results)
        except BaseExceptionGroup as group:
            raise _unwrapped(group) from None
        finally:
            # Cancelled from outside after the first success: that one came too late as well.
            for _, result in results[is_won:]:
                if discard is not None:
                    discard(result)
        if results:
            return results[0]
        try:
            raise errors[-1]
        finally:
            errors.clear()

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> TrioTask:
        return TrioTask(function, args)

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)

    def from_thread(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        return trio.from_thread.run(function, *args)

    def stream(self, sock: socket.socket) -> TrioStream:
        try:
            return TrioStream(sock, self._token)
        except BaseException:
            sock.close()
            raise

    def readiness(self) -> Readiness:
        return TrioReadiness(self._token)
