"""On what faults fall: a runtime, its waiters and its streams, which hand everything on but for what goes wrong.

When that is, and what it is, they ask `plugwire.testing.faults.Faults`, which has made them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, TypeVar

from plugwire.protocols import Runtime, Stream, Waiter
from plugwire.testing.fault_kinds import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from plugwire.call import Scope
    from plugwire.events import Edge
    from plugwire.protocols import Address, AsyncLock, Buffer, Datagrams, Extra, Task
    from plugwire.testing.faults import Faults

T = TypeVar("T")


class FaultyStream(Stream):
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


class FaultyRuntime(Runtime):
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
        return FaultyWaiter(self._faults, self, self._inner.waiter())

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


class FaultyWaiter(Waiter):
    """The waits of the pool, of look-ups, of pauses."""

    def __init__(self, faults: Faults, runtime: FaultyRuntime, inner: Waiter) -> None:
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
