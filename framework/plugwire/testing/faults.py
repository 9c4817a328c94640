"""Faults on purpose: make the k-th operation of a call go wrong, for k = 1, 2, 3 ... until one passes untouched.

    from plugwire.testing.faults import RESET, sweep

    sweep(lambda session: session.get(url), RESET)            # AsyncSession: await async_sweep(scenario, RESET)

How it works. `Faults` stands in a session as a transport and as a plugin. It wraps the session's runtime, every stream
that is dialled, and, over TLS, the secured stream on top of it, and counts what they are asked to do: look-ups, dials,
handshakes, reads, writes, waits on streams, waits for others (pool, pauses). The operation whose turn it is fails, is
cut off, takes very long (by the clock; nobody sleeps), moves a byte at a time, or is cancelled or interrupted.

What can go wrong is said in `fault_kinds`, and what it falls on is in `faulty`.

`sweep` runs a scenario again and again, each time in a session of its own, with the fault one operation later. After
each run it looks at what must hold whatever went wrong, and raises `FaultFailure` if it does not:

- what came out is the scenario's result, an error of plugwire with a phase, or the interrupt or cancellation itself;
- `sent` is never False though a byte of the request was handed to a stream, and `replayable` says what follows from it;
- no call, waiter or place of the pool is left; closed, the session leaves no stream open;
- the same session does the next request: `after(session)`, with the fault gone.

Between two runs nothing may hang on chance: the scenario must do the same operations each time, so give it a server
that always answers alike (`plugwire.testing.Server`), and no other thread a part in the session.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from weakref import WeakSet

from plugwire.call import IDEMPOTENT
from plugwire.drive import drive
from plugwire.errors import Cancelled, Error, Suspended, TimedOut
from plugwire.hookspecs import hookimpl
from plugwire.protocols import EVERYTHING, TLS
from plugwire.testing.fault_kinds import (
    BROKEN_PIPE,
    CANCEL,
    CUT,
    DELAY,
    DRIBBLE,
    FAULTS,
    INTERRUPT,
    INTERRUPT_AFTER,
    NO_DESCRIPTOR,
    OPERATIONS,
    RESET,
    RESET_AFTER,
    TIMED_OUT,
    UNREACHABLE,
    WORLD_CANCEL,
    Fault,
    Kind,
)
from plugwire.testing.faulty import FaultyRuntime, FaultyStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from plugwire.async_session import AsyncSession
    from plugwire.call import Call, Next
    from plugwire.connector import Connecting
    from plugwire.messages import AsyncResponse, Request
    from plugwire.protocols import Address, Runtime, Stream
    from plugwire.route import Route
    from plugwire.session import Session

T = TypeVar("T")

__all__ = [
    "BROKEN_PIPE", "CANCEL", "CUT", "DELAY", "DRIBBLE", "FAULTS", "INTERRUPT", "INTERRUPT_AFTER", "NO_DESCRIPTOR",
    "OPERATIONS", "RESET", "RESET_AFTER", "TIMED_OUT", "UNREACHABLE", "WORLD_CANCEL", "Fault", "FaultFailure", "Faults",
    "Kind", "Run", "async_sweep", "sweep",
]  # fmt: skip


_calls: ContextVar[Call | None] = ContextVar("plugwire_faulty_call", default=None)


class Faults:
    """A transport and a plugin in one: `Session(transports=[faults], plugins=[faults])`. Serves one session.

    Args:
        fault: what goes wrong; None: nothing, only count.
        number: at which operation, from 1, of those that the fault can hit.

    Attributes:
        operations: the names of the operations so far that the fault can hit.
        hit: the name of the one that was hit; "" if none was yet.
        clock_ahead: seconds by which the clock of the session's runtime is ahead.
        cancel_world: cancels the task that runs the scenario; set by `async_sweep`.
    """

    name = "faults"
    honours = frozenset({EVERYTHING})

    def __init__(self, fault: Fault | None = None, number: int = 1) -> None:
        self.fault = fault
        self.number = number
        self.operations: list[str] = []
        self.hit = ""
        self.clock_ahead = 0.0
        self.cancel_world: Callable[[], object] | None = None
        self.world = ""
        self._lock = threading.Lock()
        self._is_on = True
        self._under_way: set[int] = set()  # calls, by their id
        self._handed: set[int] = set()  # those for which bytes went out
        self._failed: set[int] = set()  # those that raised
        self._streams: WeakSet[FaultyStream] = WeakSet()

    def __repr__(self) -> str:
        if self.fault is None:
            return "<Faults: none>"
        return f"<Faults: {self.fault.name} at operation {self.number}, {self.hit or 'not reached'}>"

    @property
    def open_streams(self) -> int:
        """Streams that were dialled and are not closed."""
        return len([stream for stream in self._streams if not stream.is_closed])

    def stop(self) -> None:
        """From here on nothing goes wrong and nothing is counted."""
        self._is_on = False
        _calls.set(None)

    @property
    def was_handed(self) -> bool:
        """Whether bytes were handed to a stream on which HTTP is spoken, by each call that has failed."""
        return bool(self._failed) and self._failed <= self._handed

    # -- counting

    def due(self, operation: str) -> Fault | None:
        """One more operation; the fault, if it is this one's turn."""
        fault = self.fault
        if not self._is_on or fault is None or operation not in fault.hits:
            return None
        with self._lock:
            self.operations.append(operation)
            place = len(self.operations) - self.number
            if not 0 <= place < (fault.times if fault.kind is Kind.SHORTEN else 1):
                return None
            self.hit = self.hit or operation
        return fault

    def strike(self, fault: Fault | None) -> None:
        """Do the part of a fault that is the same for every operation, before its work."""
        if fault is None or fault.is_after:
            return
        if fault.kind is Kind.DELAY:
            self.clock_ahead += fault.seconds
        elif fault.kind is Kind.CANCEL:
            call = _calls.get()
            if call is not None:
                call.cancel()
        elif fault.kind is Kind.CANCEL_WORLD:
            if self.cancel_world is not None:
                self.cancel_world()
        elif fault.error is not None:
            raise fault.error()

    def strike_after(self, fault: Fault | None) -> None:
        """The same, after its work."""
        if fault is not None and fault.is_after and fault.error is not None:
            raise fault.error()

    def handed(self) -> None:
        """A byte was handed to a stream on which HTTP is spoken."""
        call = _calls.get()
        if call is not None:
            self._handed.add(call.id)

    # -- as a plugin

    @hookimpl
    async def around_call(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Remembers whose operations these are."""
        before = _calls.get()
        _calls.set(call)
        self._under_way.add(call.id)
        try:
            return await call_next(request)
        except BaseException:
            self._failed.add(call.id)
            raise
        finally:
            self._under_way.discard(call.id)
            if before is not None and before.id in self._under_way:
                _calls.set(before)  # else what follows reads the body of this one

    # -- as a transport

    def wrap_runtime(self, runtime: Runtime) -> Runtime:
        """The session works with this runtime in place of its own."""
        self.world = runtime.name
        return FaultyRuntime(self, runtime)

    def refuse(self, route: Route) -> str | None:
        """Takes every route, and hands it on to the transports below."""
        return None

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        """By the resolvers below."""
        fault = self.due("resolve")
        self.strike(fault)
        found = await connecting.resolve(host, port)
        self.strike_after(fault)
        return found

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        """By the diallers below."""
        fault = self.due("dial")
        self.strike(fault)
        # What is said to a proxy that is to make a tunnel is no request of the call.
        is_tunnel = route.hop_of is not None and not route.hop_of.is_forwarded
        stream = FaultyStream(self, await connecting.dial(route), True, not (route.is_secure or is_tunnel))
        self._streams.add(stream)
        try:
            self.strike_after(fault)
        except BaseException:
            stream.close()
            raise
        return stream

    async def secure(self, stream: Stream, route: Route, connecting: Connecting) -> Stream:
        """By the securers below."""
        fault = self.due("secure")
        self.strike(fault)
        secured = await connecting.secure(stream, route)
        # HTTP/2 begins with bytes that belong to no request.
        info = secured.extra(TLS)
        top = FaultyStream(self, secured, False, info is None or info.alpn != "h2")
        self._streams.add(top)
        try:
            self.strike_after(fault)
        except BaseException:
            top.close()
            raise
        return top


# -- sweeps --------------------------------------------------------------------------------------------------------


class FaultFailure(AssertionError):
    """Something did not hold after a fault. The message says which, and at which operation."""


class Run(NamedTuple):
    """One run of a sweep: at which operation, its name, and what came out of the scenario."""

    number: int
    operation: str
    error: BaseException | None


def sweep(
    scenario: Callable[[Session], object],
    fault: Fault,
    *,
    make: Callable[[Faults], Session] | None = None,
    after: Callable[[Session], object] | None = None,
    first: int = 1,
    step: int = 1,
) -> list[Run]:
    """Run a scenario in the blocking world with the fault at each operation in turn, until one run passes untouched.

    Args:
        scenario: what is to be tried. An error of plugwire may come out of it; what else does is a failure.
        fault: what goes wrong.
        make: makes the session of each run, by default `Session(transports=[faults], plugins=[faults])`.
        after: run after each, in the same session, without faults: the session must still be good.
        first: the first operation.
        step: only each so many operations.

    Raises:
        FaultFailure: something does not hold that must; see the module.
    """
    from plugwire.session import Session

    make = make or (lambda faults: Session(transports=[faults], plugins=[faults]))
    return drive(_sweep(scenario, fault, make, after, first, step, _plainly))


async def async_sweep(
    scenario: Callable[[AsyncSession], Awaitable[object]],
    fault: Fault,
    *,
    make: Callable[[Faults], AsyncSession] | None = None,
    after: Callable[[AsyncSession], Awaitable[object]] | None = None,
    first: int = 1,
    step: int = 1,
) -> list[Run]:
    """The same under asyncio or trio."""
    from plugwire.async_session import AsyncSession
    from plugwire.runtimes import current_async_runtime

    make = make or (lambda faults: AsyncSession(transports=[faults], plugins=[faults]))
    protected = _in_task if current_async_runtime().name == "asyncio" else _in_scope
    return await _sweep(scenario, fault, make, after, first, step, protected)


async def _sweep(
    scenario: Callable[[Any], object],
    fault: Fault,
    make: Callable[[Faults], Any],
    after: Callable[[Any], object] | None,
    first: int,
    step: int,
    protected: Callable[[Faults, Callable[[], object]], Awaitable[BaseException | None]],
) -> list[Run]:
    runs: list[Run] = []
    number = first
    while True:
        faults = Faults(fault, number)
        session = make(faults)
        try:
            error = await protected(faults, lambda s=session: scenario(s))  # type: ignore[misc]  # mypy types no default of a lambda
            faults.stop()
            if faults.world and faults.world not in fault.worlds:
                raise ValueError(f"{fault.name} cannot be in the world {faults.world}")
            where = f"{fault.name} at operation {number}, {faults.hit or 'not reached'}"
            try:
                check(faults, error)
                check_session(session)
                if after is not None:
                    await _awaited(after(session))
                    check_session(session)
            except BaseException as failure:
                if not isinstance(failure, Exception):
                    raise
                raise FaultFailure(f"{where}: {failure!r}, after {error!r}") from (error or failure)
        finally:
            await _awaited(session.close())
        if faults.open_streams:
            raise FaultFailure(f"{where}: {faults.open_streams} streams are open behind the closed session") from error
        if not faults.hit:
            if error is not None:
                raise FaultFailure(f"{where}: without a fault it fails as well: {error!r}") from error
            return runs
        runs.append(Run(number, faults.hit, error))
        number += step


def check(faults: Faults, error: BaseException | None) -> None:
    """What came out of a scenario must be a result, or an error that tells the truth.

    Raises:
        FaultFailure: it does not.
    """
    if error is None:
        return
    fault = faults.fault
    if not isinstance(error, Error):
        kind = fault.kind if fault is not None else None
        if kind is Kind.INTERRUPT and fault is not None and fault.error is not None:
            if type(error) is type(fault.error()):
                return
        elif kind is Kind.CANCEL_WORLD and not isinstance(error, Exception):
            return
        raise FaultFailure(f"{error!r} is no error of plugwire")
    if isinstance(error, Suspended):
        raise FaultFailure(f"{error!r}: the road awaited what it must not")
    if error.phase is None and not isinstance(error, (Cancelled, TimedOut)):  # those may come in a pause
        raise FaultFailure(f"{error!r} has no phase")
    if isinstance(error, TimedOut) and not faults.clock_ahead:
        raise FaultFailure(f"{error!r}, and no time has passed")
    request = error.request
    if request is None:
        return
    if not error.sent and faults.was_handed:
        raise FaultFailure(f"{error!r} says sent=False, and bytes were handed to a stream")
    safe = not error.sent or request.method in IDEMPOTENT
    if error.replayable and not request.body.is_replayable:
        raise FaultFailure(f"{error!r} says replayable=True, and its body cannot be sent again")
    if safe and request.body.is_replayable and not error.replayable:
        raise FaultFailure(f"{error!r} says replayable=False, and nothing speaks against it")


def check_session(session: Session | AsyncSession) -> None:
    """Nothing of a call that has ended may be left in its session.

    Raises:
        FaultFailure: something is.
    """
    stats = session.stats()
    if stats.waiting or stats.open != stats.idle:
        raise FaultFailure(f"left over in the pool: {stats}")


async def _awaited(value: object) -> object:
    return await value if isawaitable(value) else value


async def _plainly(faults: Faults, scenario: Callable[[], object]) -> BaseException | None:
    try:
        scenario()
    except Exception as error:
        return error
    except BaseException as error:
        # As who catches an interrupt and goes on: what its traceback holds is let go.
        return error.with_traceback(None)
    return None


async def _in_task(faults: Faults, scenario: Callable[[], object]) -> BaseException | None:
    import asyncio

    async def run() -> object:
        return await cast("Awaitable[object]", scenario())

    task = asyncio.ensure_future(run())
    faults.cancel_world = task.cancel
    await asyncio.wait([task])
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception()


async def _in_scope(faults: Faults, scenario: Callable[[], object]) -> BaseException | None:
    import trio

    caught: BaseException | None = None
    with trio.CancelScope() as scope:
        faults.cancel_world = scope.cancel
        try:
            await cast("Awaitable[object]", scenario())
        except trio.Cancelled as error:
            caught = error
            raise
        except Exception as error:
            return error
    return caught if scope.cancelled_caught else None
