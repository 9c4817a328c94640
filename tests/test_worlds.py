"""What hangs in a test ends it after a while, and the test says where it hangs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import worlds
from worlds import World


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "PATIENCE", 0.1)


async def never(world: World, wake: list[Any]) -> None:
    """Hangs until it is cancelled, or woken when the test is over."""
    waiter = world.runtime().waiter()
    wake.append(waiter.wake)
    await waiter.wait(math.inf)


async def gathers(world: World, wake: list[Any]) -> None:
    await world.gather(lambda: never(world, wake))


async def joins(world: World, wake: list[Any]) -> None:
    await world.in_background(never, world, wake).outcome()


@pytest.mark.parametrize("waits", [gathers, joins])
async def test_who_waits_for_what_hangs_is_told_where(
    world: World, waits: Callable[[World, list[Any]], Coroutine[Any, Any, None]]
) -> None:
    wake: list[Any] = []
    try:
        with pytest.raises(AssertionError, match=r"(threads|tasks) hang:(.|\n)*in never\n") as caught:
            await waits(world, wake)
        assert "await waiter.wait(math.inf)" in str(caught.value)
    finally:
        for each in wake:
            each()
        for one in world._background:
            await one.ended()


async def test_what_never_comes_to_be_is_told(world: World) -> None:
    with pytest.raises(AssertionError, match="it never came to that: it stands still"):
        await world.until(lambda: False, lambda: "it stands still")


async def test_who_is_needed_and_ends_too_early_ends_the_wait(world: World) -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    failing = world.in_background(fails)
    with pytest.raises(ZeroDivisionError):
        await world.until(lambda: False, lambda: "", failing)


def test_a_thread_that_never_waits_is_told_where() -> None:
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            pass

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        with pytest.raises(AssertionError, match=r"it never waits:(.|\n)*in spin\n"):
            worlds.until_it_waits(thread)
    finally:
        over.set()
        thread.join(30)
