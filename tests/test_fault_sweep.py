"""A part of the sweeps: every scenario with every fault, in one world each, at each fifth operation. All of it:
`python tests/benchmarks/fault_table.py`."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from fault_scenarios import INTERRUPTED, SCENARIOS, Scenario, Sites, interrupted, swept
from plugwire.testing.faults import FAULTS, Fault
from worlds import WORLDS

STEP = 5


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    with Sites() as sites:
        yield sites


def part_of(scenario: Scenario, world: str) -> list[tuple[int, Fault]]:
    """The faults of a scenario that are swept in this world, and the operation to begin with."""
    place = SCENARIOS.index(scenario)
    able = {world: scenario.faults(world) for world in WORLDS}
    part: list[tuple[int, Fault]] = []
    for number, fault in enumerate(FAULTS):
        worlds = [name for name in WORLDS if fault in able[name]]
        if worlds and worlds[(number + place) % len(worlds)] == world:
            part.append((1 + (number + place) % STEP, fault))
    return part


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_fault_at_any_operation_leaves_nothing(sites: Sites, scenario: Scenario, world: str) -> None:
    assert sites.wait_closed()
    threads = {thread for thread in threading.enumerate() if not thread.daemon}
    before = descriptors()
    for first, fault in part_of(scenario, world):
        swept(sites, scenario, fault, world, first=first, step=STEP)
    assert not {thread for thread in threading.enumerate() if not thread.daemon} - threads
    assert sites.wait_closed(), "the client has left a connection open"
    if descriptors() > before:
        gc.collect()
        assert descriptors() <= before


# What is interrupted in a finaliser or between a coroutine and its await says so, and a response that was lost too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupt_at_any_bytecode_leaves_nothing(sites: Sites, name: str) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    interrupted(sites, scenario, first=1 + len(name), step=61)
