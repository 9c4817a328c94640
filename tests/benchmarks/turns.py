"""What the benchmarks share: clients run in turn, each in a fresh process on a CPU of its own, and are told apart by
ratios. Absolute times shift from machine to machine and from hour to hour; ratios of one run hold.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, CLIENT_CPU = CPUS[0], CPUS[-1]


class Awake:
    """Busy loops of the lowest priority on every CPU: an idle virtual CPU takes 20 to 30 us to wake, and differences
    drown in that."""

    def __enter__(self) -> None:
        code = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
        self._loops = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                preexec_fn=lambda cpu=cpu: os.sched_setaffinity(0, {cpu}),
            )
            for cpu in CPUS
        ]

    def __exit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.kill()
            loop.wait()


class OnCPU:
    """The servers that are started inside inherit the CPU."""

    def __init__(self, cpu: int) -> None:
        self._cpu = cpu

    def __enter__(self) -> None:
        os.sched_setaffinity(0, {self._cpu})

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, set(CPUS))


def in_process(script: str, *arguments: str, python: str = sys.executable) -> str:
    """What `script` prints, run in a fresh process on the clients' CPU, by the interpreter `python`."""
    done = subprocess.run(
        [python, script, *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CPU}),
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr}")
    return done.stdout


def installed(clients: Mapping[str, tuple[str | None, object]]) -> list[str]:
    """The names of those whose module is there."""
    return [name for name, (module, _) in clients.items() if module is None or importlib.util.find_spec(module)]


def in_turn(clients: Sequence[str], rounds: int, once: Callable[[str], T]) -> dict[str, list[T]]:
    """Each client once in each round, so that a slow minute of the machine hits all of them."""
    found: dict[str, list[T]] = {client: [] for client in clients}
    for _ in range(rounds):
        for client in clients:
            found[client].append(once(client))
    return found


def print_ratios(title: str, figures: Mapping[str, Sequence[float]], *, ours: str = "plugwire") -> None:
    """A line for each client: median, least and most, and what ours is as a multiple of it."""
    base = statistics.median(figures[ours])
    print(f"\n{title}: median (least, most); {ours} as a multiple of it")
    for client, values in figures.items():
        middle = statistics.median(values)
        print(f"  {client:18} {middle:9.1f} ({min(values):.1f}, {max(values):.1f})   {base / middle:5.2f}")
    sys.stdout.flush()
