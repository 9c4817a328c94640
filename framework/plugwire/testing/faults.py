"""Faults on purpose: make the k-th operation of a call go wrong, for k = 1, 2, 3 ... until one passes untouched.

    from plugwire.testing.faults import RESET, sweep

    sweep(lambda session: session.get(url), RESET)            # AsyncSession: await async_sweep(scenario, RESET)

How it works. `Faults` stands in a session as a transport and as a plugin. It wraps the session's runtime, every stream
that is dialled, and, over TLS, the secured stream on top of it, and counts what they are asked to do: look-ups, dials,
handshakes, reads, writes, waits on streams, waits for others (pool, pauses). The operation whose turn it is fails, is
cut off, takes very long (by the clock; nobody sleeps), moves a byte at a time, or is cancelled or interrupted.

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

import errno
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast
from weakref import WeakSet

from plugwire.call import IDEMPOTENT
from plugwire.drive import drive
from plugwire.errors import Cancelled, Error, Suspended, TimedOut
from plugwire.hookspecs import hookimpl
from plugwire.protocols import EVERYTHING, TLS, Runtime, Stream, Waiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from plugwire.async_session import AsyncSession
    from plugwire.call import Call, Next, Scope
    from plugwire.connector import Connecting
    from plugwire.events import Edge
    from plugwire.messages import AsyncResponse, Request
    from plugwire.protocols import Address, AsyncLock, Buffer, Datagrams, Extra, Task
    from plugwire.route import Route
    from plugwire.session import Session

T = TypeVar("T")

__all__ = [
    "BROKEN_PIPE", "CANCEL", "CUT", "DELAY", "DRIBBLE", "FAULTS", "INTERRUPT", "INTERRUPT_AFTER", "NO_DESCRIPTOR",
    "OPERATIONS", "RESET", "RESET_AFTER", "TIMED_OUT", "UNREACHABLE", "WORLD_CANCEL", "Fault", "FaultFailure", "Faults",
    "Kind", "Run", "async_sweep", "sweep",
]  # fmt: skip


class Kind(Enum):
    """What a fault does."""

    FAIL = "fail"
    """The operation raises an `OSError`, and so does everything on its stream from then on."""
    CUT = "cut"
    """The peer's side of the stream has ended: reads give b"", writes fail."""
    DELAY = "delay"
    """So many seconds pass, by the clock of the session's runtime, before the operation does its work."""
    SHORTEN = "shorten"
    """The operation moves one byte, and so do those that follow it."""
    CANCEL = "cancel"
    """`call.cancel()` of the call that does the operation."""
    CANCEL_WORLD = "cancellation"
    """The world's own cancellation, of the task that does the operation. The blocking world has none."""
    INTERRUPT = "interrupt"
    """The operation raises what no program expects there, as a signal handler does. In the blocking world only."""


BYTES_IN: Final = frozenset({"read_now", "receive", "receive_into"})
BYTES_OUT: Final = frozenset({"write_now", "send", "send_eof"})
ON_STREAMS: Final = BYTES_IN | BYTES_OUT | {"wait"}
ON_THE_WAY: Final = frozenset({"resolve", "dial", "dial_tcp", "dial_unix", "secure"})
OTHERS: Final = frozenset({"waiter", "sleep", "turn", "run_blocking"})

OPERATIONS: Final = ON_STREAMS | ON_THE_WAY | OTHERS
"""The names of what is counted: of streams, of transports and of the runtime."""

_OF_KIND: Final[dict[Kind, frozenset[str]]] = {
    Kind.FAIL: ON_STREAMS | ON_THE_WAY,
    Kind.CUT: ON_STREAMS,
    Kind.DELAY: OPERATIONS,
    Kind.SHORTEN: (BYTES_IN | BYTES_OUT) - {"send_eof"},
    Kind.CANCEL: OPERATIONS,
    Kind.CANCEL_WORLD: OPERATIONS,
    Kind.INTERRUPT: OPERATIONS,
}


@dataclass(frozen=True)
class Fault:
    """What goes wrong. Those of this module are constants; make your own for another error or another pause.

    Attributes:
        name: for reports.
        kind: see `Kind`.
        error: makes what is raised, for FAIL and INTERRUPT.
        seconds: of DELAY.
        times: for SHORTEN: so many operations, one after another.
        is_after: only when the operation has done its work, whose outcome is then lost.
        on: the operations that can be hit, and that count; None: all that its kind can hit.
        worlds: where it can be.
    """

    name: str
    kind: Kind
    error: Callable[[], BaseException] | None = None
    seconds: float = 0.0
    times: int = 1
    is_after: bool = False
    on: frozenset[str] | None = None
    worlds: frozenset[str] = frozenset({"blocking", "asyncio", "trio"})

    def __post_init__(self) -> None:
        if (self.error is None) == (self.kind in (Kind.FAIL, Kind.INTERRUPT)):
            raise ValueError(f"{self.name}: an error belongs to FAIL and INTERRUPT, and to no other kind")
        unknown = (self.on or frozenset()) - OPERATIONS
        if unknown:
            raise ValueError(f"{self.name}: there are no operations {', '.join(sorted(unknown))}")

    @property
    def hits(self) -> frozenset[str]:
        """The operations that it can hit."""
        able = _OF_KIND[self.kind]
        return able if self.on is None else able & self.on


def _os_error(number: int, text: str) -> Callable[[], OSError]:
    return lambda: OSError(number, text)


_BLOCKING: Final = frozenset({"blocking"})
_LOOPS: Final = frozenset({"asyncio", "trio"})

RESET: Final = Fault("reset", Kind.FAIL, _os_error(errno.ECONNRESET, "reset by a fault"))
RESET_AFTER: Final = Fault(
    "reset after", Kind.FAIL, _os_error(errno.ECONNRESET, "reset by a fault"), is_after=True, on=ON_STREAMS | {"dial"}
)
BROKEN_PIPE: Final = Fault("broken pipe", Kind.FAIL, _os_error(errno.EPIPE, "broken by a fault"), on=BYTES_OUT)
UNREACHABLE: Final = Fault("unreachable", Kind.FAIL, _os_error(errno.EHOSTUNREACH, "unreachable by a fault"))
TIMED_OUT: Final = Fault("timed out by the system", Kind.FAIL, _os_error(errno.ETIMEDOUT, "timed out by a fault"))
"""What the kernel says of a peer that has acknowledged nothing for long; no deadline of ours has passed."""
NO_DESCRIPTOR: Final = Fault(
    "no descriptor", Kind.FAIL, _os_error(errno.EMFILE, "too many open files, by a fault"), on=ON_THE_WAY
)
CUT: Final = Fault("cut", Kind.CUT)
DELAY: Final = Fault("delay", Kind.DELAY, seconds=86400.0)
DRIBBLE: Final = Fault("dribble", Kind.SHORTEN, times=64)
CANCEL: Final = Fault("call.cancel", Kind.CANCEL)
WORLD_CANCEL: Final = Fault("cancellation", Kind.CANCEL_WORLD, worlds=_LOOPS)
INTERRUPT: Final = Fault("interrupt", Kind.INTERRUPT, KeyboardInterrupt, worlds=_BLOCKING)
INTERRUPT_AFTER: Final = Fault("interrupt after", Kind.INTERRUPT, KeyboardInterrupt, is_after=True, worlds=_BLOCKING)

FAULTS: Final = (
    RESET, RESET_AFTER, BROKEN_PIPE, UNREACHABLE, TIMED_OUT, NO_DESCRIPTOR, CUT, DELAY, DRIBBLE, CANCEL, WORLD_CANCEL,
    INTERRUPT, INTERRUPT_AFTER,
)  # fmt: skip
"""All of these."""

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
        self._streams: WeakSet[_FaultyStream] = WeakSet()

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
        return _FaultyRuntime(self, runtime)

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
        stream = _FaultyStream(self, await connecting.dial(route), True, not (route.is_secure or is_tunnel))
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
        top = _FaultyStream(self, secured, False, info is None or info.alpn != "h2")
        self._streams.add(top)
        try:
            self.strike_after(fault)
        except BaseException:
            top.close()
            raise
        return top


class _FaultyStream(Stream):
    """Hands everything on, but for what goes wrong.

    is_lowest: below it time is written as the world writes it. speaks_http: its bytes are those of requests.
    """

    def __init__(self, faults: Faults, inner: Stream, is_lowest: bool, speaks_http: bool) -> None:
        self._faults = faults
        self._inner = inner
        self._is_lowest = is_lowest
        self._speaks_http = speaks_http
        self._is_cut = False
        self._broken: Callable[[], BaseException] | None = None
        self._kept = bytearray()  # what a shortened write has not handed on yet
        self.is_closed = False
        self._is_over = False

    # -- what goes wrong

    def _begin(self, operation: str) -> Fault | None:
        """Before the work of an operation; raises if that is what goes wrong."""
        if self._is_over:
            return None  # the stream below says so itself
        self._check()
        faults = self._faults
        fault = faults.due(operation)
        if fault is None or fault.is_after:
            return fault
        if fault.kind is Kind.FAIL:
            self._broken = fault.error
        elif fault.kind is Kind.CUT:
            self._is_cut = True
        faults.strike(fault)
        return fault

    def _end(self, fault: Fault | None) -> None:
        if fault is not None and fault.is_after:
            if fault.kind is Kind.FAIL:
                self._broken = fault.error
            self._faults.strike_after(fault)

    def _check(self) -> None:
        if self._broken is not None and not self._is_over:
            raise self._broken()

    def _check_write(self) -> None:
        if self._is_cut and not self._is_over:
            raise BrokenPipeError(errno.EPIPE, "cut by a fault")

    def _at(self, at: float) -> float:
        return at - self._faults.clock_ahead if self._is_lowest else at

    def _out(self) -> None:
        if self._speaks_http:
            self._faults.handed()

    # -- reading

    def read_now(self, max_bytes: int) -> bytes | None:
        fault = self._begin("read_now")
        if self._is_cut and not self._is_over:
            return b""
        data = self._inner.read_now(1 if _shortens(fault) else max_bytes)
        self._end(fault)
        return data

    async def receive(self, max_bytes: int, at: float) -> bytes:
        fault = self._begin("receive")
        if self._is_cut and not self._is_over:
            return b""
        data = await self._inner.receive(1 if _shortens(fault) else max_bytes, self._at(at))
        self._end(fault)
        return data

    async def receive_into(self, buffer: memoryview, at: float) -> int:
        fault = self._begin("receive_into")
        if self._is_cut and not self._is_over:
            return 0
        size = await self._inner.receive_into(buffer[:1] if _shortens(fault) else buffer, self._at(at))
        self._end(fault)
        return size

    # -- writing

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        fault = self._begin("write_now")
        self._check_write()
        self._out()
        self._write(data, _shortens(fault))
        self._end(fault)

    def _write(self, data: Buffer | Sequence[Buffer], is_short: bool) -> None:
        if is_short or self._kept:
            self._kept += _joined(data)
            size = 1 if is_short else len(self._kept)
            gone = bytes(self._kept[:size])
            del self._kept[:size]
            self._inner.write_now(gone)
        else:
            self._inner.write_now(data)

    @property
    def unsent(self) -> int:
        return len(self._kept) + self._inner.unsent

    async def send(self, data: Buffer | Sequence[Buffer], at: float, stop_if_readable: bool = False) -> int:
        fault = self._begin("send")
        self._check_write()
        self._out()
        if _shortens(fault) or self._kept:
            size = len(_joined(data))
            self._write(data, _shortens(fault))
            await super().send(b"", at, stop_if_readable)
            size -= min(size, self.unsent)
        else:
            size = await self._inner.send(data, self._at(at), stop_if_readable)
        self._end(fault)
        return size

    async def send_eof(self, at: float) -> None:
        fault = self._begin("send_eof")
        self._check_write()
        if self._kept:
            await super().send_eof(at)
        await self._inner.send_eof(self._at(at))
        self._end(fault)

    # -- waiting, and the rest

    async def wait(self, read: bool, write: bool, at: float) -> None:
        fault = self._begin("wait")
        if self._is_cut and not self._is_over:
            return
        if write and self._kept and not self._inner.unsent:
            return
        await self._inner.wait(read, write, self._at(at))
        self._end(fault)

    def nudge(self) -> None:
        self._inner.nudge()

    def close(self) -> None:
        self.is_closed = self._is_over = True
        self._inner.close()

    def abort(self) -> None:
        self._is_over = True
        self._inner.abort()

    def disown(self) -> None:
        self.is_closed = self._is_over = True
        self._inner.disown()

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        return self._inner.extra(key, default)


def _shortens(fault: Fault | None) -> bool:
    return fault is not None and fault.kind is Kind.SHORTEN


def _joined(data: Buffer | Sequence[Buffer]) -> bytes:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    return b"".join(data)


class _FaultyRuntime(Runtime):
    """Hands everything on, but for what goes wrong, with a clock that may be ahead."""

    def __init__(self, faults: Faults, inner: Runtime) -> None:
        self._faults = faults
        self._inner = inner
        self.name = inner.name
        self.cancellation = inner.cancellation

    def now(self) -> float:
        return self._inner.now() + self._faults.clock_ahead

    def at(self, at: float) -> float:
        """A point in time, as the runtime below writes it."""
        return at - self._faults.clock_ahead

    def check_here(self) -> None:
        self._inner.check_here()

    async def _operation(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        fault = self._faults.due(name)
        self._faults.strike(fault)
        result = await work()
        self._faults.strike_after(fault)
        return result

    async def sleep(self, seconds: float, at: float) -> None:
        await self._operation("sleep", lambda: self._inner.sleep(seconds, self.at(at)))

    async def turn(self) -> None:
        await self._operation("turn", self._inner.turn)

    def waiter(self) -> Waiter:
        return _FaultyWaiter(self._faults, self, self._inner.waiter())

    def lock(self) -> AsyncLock:
        return self._inner.lock()

    async def race(
        self, *starters: Callable[[], Awaitable[T]], discard: Callable[[T], object] | None = None
    ) -> tuple[int, T]:
        return await self._inner.race(*starters, discard=discard)

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> Task:
        return self._inner.start(function, *args)

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        return await self._operation("run_blocking", lambda: self._inner.run_blocking(function, *args))

    def from_thread(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        return self._inner.from_thread(function, *args)

    async def dial_tcp(
        self,
        addresses: Sequence[Address],
        at: float,
        *,
        local_address: str | None = None,
        socket_options: Sequence[tuple[int, int, int | bytes]] = (),
        stagger: float = 0.25,
        scope: Scope | None = None,
        seen: Callable[[Address, Edge, BaseException | None], object] | None = None,
    ) -> Stream:
        return await self._operation(
            "dial_tcp",
            lambda: self._inner.dial_tcp(
                addresses,
                self.at(at),
                local_address=local_address,
                socket_options=socket_options,
                stagger=stagger,
                scope=scope,
                seen=seen,
            ),
        )

    async def dial_unix(self, path: str, at: float, *, scope: Scope | None = None) -> Stream:
        return await self._operation("dial_unix", lambda: self._inner.dial_unix(path, self.at(at), scope=scope))

    async def open_datagrams(self, address: Address, at: float, *, local_address: str | None = None) -> Datagrams:
        return await self._inner.open_datagrams(address, self.at(at), local_address=local_address)


class _FaultyWaiter(Waiter):
    """The waits of the pool, of look-ups, of pauses."""

    def __init__(self, faults: Faults, runtime: _FaultyRuntime, inner: Waiter) -> None:
        self._faults = faults
        self._runtime = runtime
        self._inner = inner

    async def wait(self, at: float) -> bool:
        fault = self._faults.due("waiter")
        self._faults.strike(fault)
        is_woken = await self._inner.wait(self._runtime.at(at))
        self._faults.strike_after(fault)
        return is_woken

    def wake(self) -> None:
        self._inner.wake()


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
