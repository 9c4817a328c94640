"""Long waits of the asyncio world share their timers, and nobody is forgotten or woken too early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from plugwire.runtimes.asyncio import GRAIN, LONG, Alarms, AsyncioRuntime, AsyncioWaiter


class Timer:
    def __init__(self, at: float, function: Callable[[], None]) -> None:
        self.at = at
        self.function = function
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, function: Callable[[], None], context: Any = None) -> Timer:
        self.timers.append(Timer(at, function))
        return self.timers[-1]

    @property
    def armed(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.is_cancelled]

    def run_to(self, now: float) -> None:
        while due := sorted((timer for timer in self.armed if timer.at <= now), key=lambda timer: timer.at):
            self.now = due[0].at
            due[0].cancel()
            due[0].function()
        self.now = now


class Waiter:
    """Stands in for an `AsyncioWaiter`."""

    def __init__(self, alarms: Alarms, at: float) -> None:
        self.at = at
        self.was_late = False
        self.company: Any = alarms.at(at)
        self.company.add(self)

    def late(self) -> None:
        self.was_late = True
        self.company.discard(self)

    def leave(self) -> None:
        self.company.discard(self)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def alarms(loop: Loop) -> Alarms:
    return Alarms(loop)  # type: ignore[arg-type]


def test_the_time_of_each_is_never_early_and_a_grain_late_at_most(loop: Loop, alarms: Alarms) -> None:
    waiters = [Waiter(alarms, at) for at in (3.0, 3.2, 2.1, 60.0, 2.1001, 2.0, 7.77)]
    was_late: dict[float, float] = {}
    for step in range(61 * 64):
        loop.run_to(step / 64)
        for waiter in waiters:
            if waiter.was_late:
                was_late.setdefault(waiter.at, loop.now)
    assert was_late.keys() == {waiter.at for waiter in waiters}
    assert all(at <= now <= at + GRAIN + 1 / 64 for at, now in was_late.items())


def test_there_is_one_timer_for_all(loop: Loop, alarms: Alarms) -> None:
    for at in (9.0, 5.0, 7.0, 5.0, 60.0):
        Waiter(alarms, at)
        assert len(loop.armed) == 1
    assert loop.armed[0].at == pytest.approx(5.0, abs=GRAIN)


def test_a_loop_in_which_nobody_waits_is_woken_once_and_no_more(loop: Loop, alarms: Alarms) -> None:
    for at in (5.0, 6.0, 60.0):
        Waiter(alarms, at).leave()
    loop.run_to(100.0)
    assert len(loop.timers) == 1


def test_who_comes_after_that_is_served_too(loop: Loop, alarms: Alarms) -> None:
    Waiter(alarms, 5.0).leave()
    loop.run_to(10.0)
    late = Waiter(alarms, 15.0)
    loop.run_to(15.0 + GRAIN)
    assert late.was_late


def test_long_waits_share_a_timer_and_short_ones_have_their_own() -> None:
    async def main() -> None:
        runtime = AsyncioRuntime()
        loop = runtime.loop()
        armed: list[float] = []
        call_at = loop.call_at

        def counted(when: float, *args: Any, **kwargs: Any) -> Any:
            armed.append(when)
            return call_at(when, *args, **kwargs)

        loop.call_at = counted  # type: ignore[method-assign]
        now = runtime.now()
        waits = [(AsyncioWaiter(runtime), now + LONG + 5) for _ in range(10)] + [(AsyncioWaiter(runtime), now + 1)]
        tasks = [loop.create_task(waiter.wait(at)) for waiter, at in waits]
        await asyncio.sleep(0)
        assert len(armed) == 2
        for waiter, _ in waits:
            waiter.wake()
        assert await asyncio.gather(*tasks) == [True] * 11

    asyncio.run(main())
