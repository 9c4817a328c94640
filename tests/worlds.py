"""One test text for every world: the `world` fixture, and a pytest hook that runs `async def` tests in it.

    async def test_reads(world: World) -> None:
        async with world.session() as session:
            response = await session.get(url)

runs three times: driven without a loop, under asyncio, under trio. After each test nothing may be left over: no thread,
no task, no file descriptor.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from faces import AsyncFace
from plugwire.drive import drive
from plugwire.errors import Error
from plugwire.runtimes import blocking_runtime, current_async_runtime
from plugwire.testing import PeerFailure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
    from types import FrameType

    from plugwire.protocols import Runtime

WORLDS = ("blocking", "asyncio", "trio")
PATIENCE = 60.0 * int(os.environ.get("PLUGWIRE_SOAK", "1"))
"""Seconds after which something that must happen counts as missing."""


@dataclass
class Outcome:
    """How something ended. error: what it raised, the world's own cancellation included."""

    value: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value

    @property
    def was_cancelled(self) -> bool:
        """Ended by the world's own cancellation; in the blocking world by an error, because it was aborted."""
        return isinstance(self.error, (asyncio.CancelledError, trio.Cancelled, ConnectionAbortedError))


class Background:
    """Something that goes on beside the test; made by `World.in_background`. It must be waited for."""

    def __init__(self, world: World, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]):
        self._world = world
        self._outcome = Outcome()
        self._has_begun = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_joined = self.has_ended = False
        self._task = world.runtime().start(self._run, function, args)

    async def _run(self, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        self._thread = threading.current_thread()
        self._has_begun.set()
        try:
            self._outcome.value = await function(*args)
        except BaseException as error:
            self._outcome.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self.has_ended = True

    def cancel(self) -> None:
        """The world's own cancellation; in the blocking world what it waits for is aborted."""
        self._task.cancel()

    @property
    def thread(self) -> threading.Thread:
        """In which it runs; to be asked for in the blocking world, where it begins by itself."""
        assert self._has_begun.wait(PATIENCE), "its thread never began"
        assert self._thread is not None
        return self._thread

    async def outcome(self) -> Outcome:
        """Wait for its end."""
        self.is_joined = True
        await self._world.join(self)
        return self._outcome

    async def ended(self) -> None:
        """Wait for its end, however long."""
        await self._task.join()

    async def result(self) -> Any:
        """Wait for its end; what it raised is raised."""
        return (await self.outcome()).get()


class World(ABC):
    """A flavour of I/O, as tests see it."""

    name: str

    def __init__(self) -> None:
        self._background: list[Background] = []

    @abstractmethod
    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        """Run `function(*args)` in this world, from outside of it."""

    @abstractmethod
    def runtime(self) -> Runtime:
        """A fresh runtime; inside of `run`."""

    @abstractmethod
    async def gather(self, *thunks: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Run all at once: threads, tasks. Their results; the first error is raised after all have ended."""

    @abstractmethod
    async def join(self, background: Background) -> None:
        """Wait for its end, as long as patience lasts."""

    @abstractmethod
    async def settle(self) -> None:
        """Let everything else in this world go on until it waits."""

    @abstractmethod
    def session(self, **kwargs: Any) -> Any:
        """An `AsyncSession`; in the blocking world a `Session` with an async face, so that one text tests both."""

    def in_background(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Background:
        """Begin `function(*args)`; its outcome must be awaited."""
        background = Background(self, function, args)
        self._background.append(background)
        return background

    async def until(self, is_so: Callable[[], bool], tell: Callable[[], object], *going_on: Background) -> None:
        """Let everything else go on until `is_so()`. Fails when patience is over, with what `tell()` says, and when one
        of those that it needs has ended before that, with what it raised."""
        over = time.monotonic() + PATIENCE
        while not is_so():
            for one in going_on:
                assert not one.has_ended, f"it ended too early, with {await one.result()!r}"
            assert time.monotonic() < over, f"it never came to that: {tell()}"
            await self.settle()

    async def cancelled_after(
        self, function: Callable[[], Coroutine[Any, Any, Any]], when: threading.Event | Callable[[], Awaitable[object]]
    ) -> Outcome:
        """Begin `function()`, cancel it when `when` says so (an event that a peer sets in its thread, or something to
        await, such as `world.settle`), and return how it ended."""
        background = self.in_background(function)
        try:
            if isinstance(when, threading.Event):
                is_time = await self.runtime().run_blocking(when.wait, PATIENCE)
                assert is_time, "the moment to cancel never came"
            else:
                await when()
        finally:
            background.cancel()
            outcome = await background.outcome()
        return outcome

    def check_background(self) -> None:
        assert all(one.is_joined for one in self._background), "the outcome of something in the background was dropped"


async def _into(outcome: Outcome, thunk: Callable[[], Awaitable[Any]]) -> None:
    try:
        outcome.value = await thunk()
    except Exception as error:
        outcome.error = error


async def error_in(
    phase: str, sent: bool, attempt: Callable[[float], Awaitable[Error]], soon: float = 0.02
) -> tuple[Error, float]:
    """The error of a call whose budget ends in this phase, and the budget: `soon` seconds, or as many times ten as it
    takes this machine to get there. `attempt(budget)` gives the error; it begins all anew, its peer too, which may
    fail if the budget ends too early."""
    for budget in (soon, 10 * soon, 100 * soon):
        try:
            error = await attempt(budget)
        except (Error, PeerFailure):
            continue
        if (error.phase, error.sent) == (phase, sent):
            return error, budget
    return await attempt(1000 * soon), 1000 * soon


def _results(outcomes: list[Outcome]) -> list[Any]:
    return [outcome.get() for outcome in outcomes]


class BlockingWorld(World):
    name = "blocking"

    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        return drive(function(*args, **kwargs))

    def runtime(self) -> Runtime:
        return blocking_runtime()

    async def gather(self, *thunks: Callable[[], Awaitable[Any]]) -> list[Any]:
        outcomes = [Outcome() for _ in thunks]
        threads = [
            threading.Thread(target=copy_context().run, args=(lambda o=o, t=t: drive(_into(o, t)),), daemon=True)
            for o, t in zip(outcomes, thunks, strict=True)
        ]
        for thread in threads:
            thread.start()
        join_all(threads)
        return _results(outcomes)

    async def join(self, background: Background) -> None:
        join_all([background.thread])

    async def settle(self) -> None:
        until_it_waits(*(one.thread for one in self._background))

    def session(self, **kwargs: Any) -> Any:
        import plugwire

        return AsyncFace(plugwire.Session(**kwargs))


def join_all(threads: Sequence[threading.Thread]) -> None:
    """Wait for their end, as long as patience lasts."""
    until = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))
    stuck = [thread for thread in threads if thread.is_alive()]
    assert not stuck, "threads hang:\n" + "\n".join(_stack(thread) for thread in stuck)


def in_time(function: Callable[[], object]) -> None:
    """Run it in a thread, where it must end as long as patience lasts: what hangs may hear no cancel. What it raises is
    raised."""
    outcome = Outcome()

    def run() -> None:
        try:
            outcome.value = function()
        except BaseException as error:
            outcome.error = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    join_all([thread])
    outcome.get()


def until_it_waits(*threads: threading.Thread) -> None:
    """Return when the thread waits for what others do, or has ended; of several, when all do at the same time, since
    one that still runs may wake another. Linux says of each thread whether it runs, or may (R), whether the disk holds
    it up (D), or whether it sleeps (S); because a thread that waits for its turn to run Python sleeps too, they must be
    seen asleep many times in a row."""
    seen, until = 0, time.monotonic() + PATIENCE
    while seen < 20 and (left := [thread for thread in threads if thread.is_alive()]):
        running = [thread for thread in left if _state(thread) != "S"]
        assert time.monotonic() < until, "it never waits:\n" + "\n".join(_stack(thread) for thread in running or left)
        seen = 0 if running else seen + 1
        time.sleep(0.0005)


def _state(thread: threading.Thread) -> str:
    try:
        with open(f"/proc/self/task/{thread.native_id}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:  # it has just ended
        return ""


def _stack(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return f"{thread.name}:\n" + ("".join(traceback.format_stack(frame)) if frame is not None else "(ended)")


def _stack_of_coroutine(coroutine: object) -> str:
    """Where it stands, and where what it awaits stands, and so on."""
    frames: list[tuple[FrameType, int]] = []
    while True:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(coroutine, f"{kind}_frame")), None)
        frame = getattr(coroutine, f"{kind}_frame", None)
        if frame is None:
            return "".join(traceback.StackSummary.extract(iter(frames)).format())
        frames.append((frame, frame.f_lineno))
        coroutine = getattr(coroutine, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


class AsyncioWorld(World):
    name = "asyncio"

    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        async def main() -> Any:
            result = await function(*args, **kwargs)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks are left over: {left}"
            return result

        return asyncio.run(main(), debug=False)

    def runtime(self) -> Runtime:
        return current_async_runtime()

    async def gather(self, *thunks: Callable[[], Awaitable[Any]]) -> list[Any]:
        outcomes = [Outcome() for _ in thunks]
        together = asyncio.gather(*(_into(outcome, thunk) for outcome, thunk in zip(outcomes, thunks, strict=True)))
        hanging = ""

        def give_up() -> None:
            nonlocal hanging
            hanging = self._stacks()
            together.cancel()

        alarm = asyncio.get_running_loop().call_later(PATIENCE, give_up)
        try:
            await together
        except asyncio.CancelledError:
            assert not hanging, hanging
            raise
        finally:
            alarm.cancel()
        return _results(outcomes)

    async def join(self, background: Background) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await background.ended()
        except TimeoutError:
            raise AssertionError(self._stacks()) from None

    def _stacks(self) -> str:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        return "tasks hang:\n" + "\n".join(
            f"{task.get_name()}:\n{_stack_of_coroutine(task.get_coro())}" for task in tasks
        )

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def session(self, **kwargs: Any) -> Any:
        import plugwire

        return plugwire.AsyncSession(**kwargs)


class TrioWorld(World):
    name = "trio"

    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        async def main() -> Any:
            before = _system_tasks()
            result = await function(*args, **kwargs)
            left = _system_tasks() - before
            assert not left, f"tasks are left over: {left}"
            return result

        return trio.run(main)

    def runtime(self) -> Runtime:
        return current_async_runtime()

    async def gather(self, *thunks: Callable[[], Awaitable[Any]]) -> list[Any]:
        outcomes = [Outcome() for _ in thunks]
        hanging = ""

        async def give_up(scope: trio.CancelScope) -> None:
            nonlocal hanging
            await trio.sleep(PATIENCE)
            hanging = self._stacks()
            scope.cancel()

        async with trio.open_nursery() as watched:
            watched.start_soon(give_up, watched.cancel_scope)
            async with trio.open_nursery() as nursery:
                for outcome, thunk in zip(outcomes, thunks, strict=True):
                    nursery.start_soon(_into, outcome, thunk)
            watched.cancel_scope.cancel()
        assert not hanging, hanging
        return _results(outcomes)

    async def join(self, background: Background) -> None:
        with trio.move_on_after(PATIENCE) as patience:
            await background.ended()
        assert not patience.cancelled_caught, self._stacks()

    async def settle(self) -> None:
        with trio.move_on_after(PATIENCE) as patience:
            await trio.testing.wait_all_tasks_blocked()
        assert not patience.cancelled_caught, self._stacks()

    def _stacks(self) -> str:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        tasks, found = [root], []
        while tasks:
            task = tasks.pop()
            tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
            if task is not trio.lowlevel.current_task():
                found.append(f"{task.name}:\n{_stack_of_coroutine(task.coro)}")
        return "tasks hang:\n" + "\n".join(found)

    def session(self, **kwargs: Any) -> Any:
        import plugwire

        return plugwire.AsyncSession(**kwargs)


def _system_tasks() -> set[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return {task for nursery in root.child_nurseries for task in nursery.child_tasks}


KINDS: dict[str, type[World]] = {"blocking": BlockingWorld, "asyncio": AsyncioWorld, "trio": TrioWorld}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each world in turn."""
    made = KINDS[request.param]()
    yield made
    made.check_background()


# -- the hook ------------------------------------------------------------------------------------------------------


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon}


def _descriptors() -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except OSError:  # that of the listing itself
            pass
    return found


def _check_nothing_is_left(threads: set[threading.Thread], descriptors: set[tuple[str, str]]) -> None:
    # A peer in a thread of this process may still be closing its side, so what is left over gets a moment to go.
    until = time.monotonic() + 10
    while True:
        left: set[Any] = (_threads() - threads) | (_descriptors() - descriptors)
        if not left or time.monotonic() > until:
            break
        gc.collect()  # only now: in a large process it takes as long as many a test
        time.sleep(0.005)
    assert not left, f"left over after the test: {left}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test in its world, and look at what it leaves behind."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    world = arguments.get("world")
    assert isinstance(world, World), "an async test takes the fixture `world`"
    threads, descriptors = _threads(), _descriptors()
    world.run(pyfuncitem.obj, **arguments)
    _check_nothing_is_left(threads, descriptors)
    return True
