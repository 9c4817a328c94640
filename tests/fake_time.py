"""A world whose clock only moves when somebody waits: a wait for what never comes jumps to its end.

`FakeTime` is a transport for `world.session(transports=[...])`. It stands before the runtime, and in place of resolver
and dialler; TLS and HTTP are the shipped ones, over its streams. The other side of a stream is a `Script`: what it says
and when, and how fast it reads. So a test of a deadline takes no time, and tells to the second when it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any, TypeVar

from plugwire.protocols import (
    EVERYTHING,
    Address,
    AsyncLock,
    Connecting,
    Route,
    Runtime,
    Stream,
    Task,
    Waiter,
)

T = TypeVar("T")

PATIENCE = 100_000.0
"""A point in time that no test comes to."""


class Clock:
    """Seconds. Whoever waits moves it."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time

    def wait(self, event: float, at: float) -> bool:
        """Wait for something that happens at `event`, not beyond `at`. Whether it happened."""
        assert min(event, at) < inf, "this waits for ever"
        self.time = max(self.time, min(event, at))
        return event < at


class Script:
    """The other side of a stream.

    Args:
        answers: called with what came, once it is not empty; each answer is (seconds after the one before, bytes).
        reads: bytes a second that it takes; 0: not one; inf: all at once.
        pace: seconds that each write of ours takes, though it goes out at once.
    """

    def __init__(
        self,
        answers: Callable[[bytes], Iterator[tuple[float, bytes]]] | None = None,
        *,
        reads: float = inf,
        pace: float = 0,
    ) -> None:
        self.answers = answers
        self.reads = reads
        self.pace = pace


def says(*answers: tuple[float, bytes]) -> Callable[[bytes], Iterator[tuple[float, bytes]]]:
    """These, and no more."""
    return lambda received: iter(answers)


class FakeStream(Stream):
    """A stream to a script."""

    def __init__(self, clock: Clock, script: Script) -> None:
        self._clock = clock
        self._script = script
        self._answers: Iterator[tuple[float, bytes]] | None = None
        self._next: tuple[float, bytes] | None = None
        self._kept = bytearray()
        self._taken_at = clock.time
        self.received = bytearray()
        self.is_closed = False

    def _take(self) -> None:
        """What the script has read by now."""
        script, now = self._script, self._clock.time
        if script.reads == inf:
            size = len(self._kept)
        else:
            size = min(int((now - self._taken_at) * script.reads + 1e-6), len(self._kept))
        if size or not self._kept:
            self._taken_at = now
        self.received += self._kept[:size]
        del self._kept[:size]
        if self.received and self._answers is None and script.answers is not None:
            self._answers = script.answers(bytes(self.received))
            self._advance(now)

    def _advance(self, since: float) -> None:
        assert self._answers is not None
        found = next(self._answers, None)
        self._next = None if found is None else (since + found[0], found[1])

    def _check(self) -> None:
        if self.is_closed:
            raise ConnectionAbortedError("closed")

    def read_now(self, max_bytes: int) -> bytes | None:
        self._check()
        self._take()
        if self._next is None or self._next[0] > self._clock.time:
            return None
        at, data = self._next
        if len(data) > max_bytes:
            self._next = (at, data[max_bytes:])
        else:
            self._advance(at)
        return data[:max_bytes]

    def write_now(self, data: Any) -> None:
        self._check()
        pieces = (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data
        before = len(self._kept)
        for piece in pieces:
            self._kept += piece
        if len(self._kept) > before:
            self._clock.time += self._script.pace
            assert self._clock.time < PATIENCE, "this goes on for ever"
        self._take()

    @property
    def unsent(self) -> int:
        return len(self._kept)

    async def wait(self, read: bool, write: bool, at: float) -> None:
        self._check()
        self._take()
        event = inf
        if read and self._next is not None:
            event = self._next[0]
        if write:
            if not self._kept:
                event = self._clock.time
            elif self._script.reads:
                event = min(event, self._taken_at + 1 / self._script.reads)
        if not self._clock.wait(event, at):
            raise TimeoutError

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def extra(self, key: Any, default: Any = None) -> Any:
        return default


class FakeWaiter(Waiter):
    """Woken by nobody but those who were there before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._is_woken = False

    async def wait(self, at: float) -> bool:
        return self._is_woken or self._clock.wait(inf, at)

    def wake(self) -> None:
        self._is_woken = True


class FakeRuntime(Runtime):
    """The runtime of a world, with another clock."""

    def __init__(self, clock: Clock, inner: Runtime) -> None:
        self._clock = clock
        self._inner = inner
        self.name = inner.name
        self.cancellation = inner.cancellation

    def now(self) -> float:
        return self._clock.time

    async def sleep(self, seconds: float, at: float) -> None:
        if self._clock.time + seconds > at:
            raise TimeoutError
        self._clock.time += seconds

    def lock(self) -> AsyncLock:
        return self._inner.lock()

    async def turn(self) -> None:
        await self._inner.turn()

    def waiter(self) -> Waiter:
        return FakeWaiter(self._clock)

    async def race(self, *starters: Any, discard: Any = None) -> tuple[int, Any]:
        return await self._inner.race(*starters, discard=discard)

    def start(self, function: Any, *args: Any) -> Task:
        return self._inner.start(function, *args)

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    def from_thread(self, function: Any, *args: Any) -> Any:
        return self._inner.from_thread(function, *args)

    async def dial_tcp(self, addresses: Sequence[Address], at: float, **options: Any) -> Stream:
        raise AssertionError("FakeTime dials")

    async def dial_unix(self, path: str, at: float, *, scope: Any = None) -> Stream:
        raise AssertionError("FakeTime dials")

    async def open_datagrams(self, address: Address, at: float, *, local_address: str | None = None) -> Any:
        raise AssertionError("FakeTime has none")


class FakeTime:
    """The transport.

    Args:
        scripts: of the streams, in the order in which they are dialled; the last one stands for all further ones.
        resolving, dialling: seconds that these take; infinity: they hang.
    """

    name = "fake time"
    honours = frozenset({EVERYTHING})

    def __init__(self, *scripts: Script, resolving: float = 0, dialling: float = 0) -> None:
        self.clock = Clock()
        self.scripts = list(scripts)
        self.resolving = resolving
        self.dialling = dialling
        self.streams: list[FakeStream] = []

    def wrap_runtime(self, runtime: Runtime) -> Runtime:
        return FakeRuntime(self.clock, runtime)

    def refuse(self, route: Route) -> str | None:
        return None

    def _spend(self, seconds: float, at: float) -> None:
        if not self.clock.wait(self.clock.time + seconds, at):
            raise TimeoutError

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        self._spend(self.resolving, connecting.deadline.at)
        return [Address(2, "192.0.2.1", port)]

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        await connecting.resolve(route.host, route.port)
        self._spend(self.dialling, connecting.deadline.at)
        script = self.scripts[min(len(self.streams), len(self.scripts) - 1)]
        self.streams.append(FakeStream(self.clock, script))
        return self.streams[-1]


class StandingClock:
    """A transport by which the session's clock stands where the test has set it: `seconds` after the session met its
    world. All else is real, so what waits must not have to wait long."""

    name = "standing clock"
    honours = frozenset({EVERYTHING})

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap_runtime(self, runtime: Runtime) -> Runtime:
        beginning = runtime.now()
        runtime.now = lambda: beginning + self.seconds  # type: ignore[method-assign]
        return runtime

    def refuse(self, route: Route) -> str | None:
        return None

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        return await connecting.resolve(host, port)
