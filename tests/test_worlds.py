"""What hangs in a test ends it after a while, and the test says where it hangs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import worlds
from worlds import World


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "PATIENCE", 0.1)


class Hanging:
    """Hangs until it is cancelled, or woken when the test is over."""

    def __init__(self, world: World) -> None:
        self.waiter = world.runtime().waiter()

    async def never(self) -> None:
        await self.waiter.wait(math.inf)


async def gathers(world: World, hanging: Hanging) -> None:
    await world.gather(hanging.never)


async def joins(world: World, hanging: Hanging) -> None:
    await world.in_background(hanging.never).outcome()


@pytest.mark.parametrize("waits", [gathers, joins])
async def test_who_waits_for_what_hangs_is_told_where(
    world: World, waits: Callable[[World, Hanging], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for patience in (0.1, 1, 10):  # within which it gets where it hangs
        monkeypatch.setattr(worlds, "PATIENCE", patience)
        hanging = Hanging(world)
        try:
            with pytest.raises(AssertionError) as caught:
                await waits(world, hanging)
        finally:
            hanging.waiter.wake()
            for one in world._background:
                await one.ended()
        if "await self.waiter.wait(math.inf)" in str(caught.value):
            break
    assert "s hang:\n" in str(caught.value), "threads or tasks"
    assert "await self.waiter.wait(math.inf)" in str(caught.value)


async def test_what_never_comes_to_be_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in (0.1, 1, 10):  # within which all others come to a halt once
        monkeypatch.setattr(worlds, "PATIENCE", patience)
        with pytest.raises(AssertionError) as caught:
            await world.until(lambda: False, lambda: "it stands still")
        if "hang" not in str(caught.value):
            break
    assert "it never came to that: it stands still" in str(caught.value)


async def test_who_is_needed_and_ends_too_early_ends_the_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "PATIENCE", 30)

    async def fails() -> None:
        raise ZeroDivisionError

    failing = world.in_background(fails)
    with pytest.raises(ZeroDivisionError):
        await world.until(lambda: False, lambda: "", failing)


def test_a_thread_that_never_waits_is_told_where() -> None:
    begun, over = threading.Event(), threading.Event()

    def spin() -> None:
        begun.set()
        while not over.is_set():
            pass

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    assert begun.wait(30)
    try:
        with pytest.raises(AssertionError, match=r"it never waits:(.|\n)*in spin\n"):
            worlds.until_it_waits(thread)
    finally:
        over.set()
        thread.join(30)


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[threading.Thread]]:
    """Two threads that do nothing."""
    monkeypatch.setattr(worlds, "PATIENCE", 30)
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, args=(30,), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield threads
    over.set()
    worlds.join_all(threads)


def test_a_thread_that_is_held_up_by_the_disk_does_not_wait(
    asleep: list[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter("R" + "D" * 40 + "S" * 19 + "R" + "S" * 20)
    monkeypatch.setattr(worlds, "_state", lambda thread: next(states))
    worlds.until_it_waits(asleep[0])
    assert not list(states)


def test_a_thread_that_another_one_may_wake_does_not_wait_for_us(
    asleep: list[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter("SR" * 40 + "SS" * 5 + "RS" + "SS" * 20)
    monkeypatch.setattr(worlds, "_state", lambda thread: next(states))
    worlds.until_it_waits(*asleep)
    assert not list(states)
