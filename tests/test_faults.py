"""The fault tool itself, and what it found: each of these went wrong once."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio

import plugwire
from plugwire import Limits, Timeout
from plugwire.call import Scope
from plugwire.drive import drive
from plugwire.errors import ConnectError, ConnectionClosed, ReadTimeout, WriteError
from plugwire.runtimes import blocking_runtime, locks
from plugwire.runtimes.locks import HandoverLock
from plugwire.runtimes.threads import BlockingWaiter
from plugwire.testing import MockTransport, Server
from plugwire.testing.faults import (
    CANCEL,
    DELAY,
    DRIBBLE,
    FAULTS,
    INTERRUPT,
    NO_DESCRIPTOR,
    OPERATIONS,
    RESET,
    TIMED_OUT,
    Fault,
    FaultFailure,
    Faults,
    Kind,
    async_sweep,
    check,
    sweep,
)
from plugwire.testing.interrupts import Interrupts
from worlds import PATIENCE, World

ONE = Limits(max_connections=1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


# -- the tool ------------------------------------------------------------------------------------------------------


def test_a_sweep_goes_through_every_operation_and_ends_with_one_that_passes(server: Server) -> None:
    runs = sweep(lambda session: session.get(f"{server.url}/hello"), RESET)
    assert [run.operation for run in runs] == ["dial", "resolve", "dial_tcp", "send", "receive"]
    assert [run.number for run in runs] == [1, 2, 3, 4, 5]
    kinds = [type(run.error).__name__ for run in runs]
    assert kinds == ["ConnectError", "ResolveError", "ConnectError", "WriteError", "ConnectionClosed"]


def test_a_sweep_may_leave_operations_out(server: Server) -> None:
    runs = sweep(lambda session: session.get(f"{server.url}/hello"), RESET, first=2, step=2)
    assert [run.number for run in runs] == [2, 4]


def test_an_async_sweep_does_the_same(server: Server) -> None:
    async def main() -> list[str]:
        runs = await async_sweep(lambda session: session.get(f"{server.url}/hello"), NO_DESCRIPTOR)
        assert all(isinstance(run.error, plugwire.NetworkError) for run in runs)
        return [run.operation for run in runs]

    assert asyncio.run(main()) == trio.run(main) == ["dial", "resolve", "dial_tcp"]


def test_a_sweep_says_where_something_does_not_hold(server: Server) -> None:
    def careless(session: Any) -> None:
        try:
            session.get(f"{server.url}/hello")
        except plugwire.ConnectError as error:
            raise ValueError("not ours") from error

    with pytest.raises(FaultFailure, match=r"reset at operation 1, dial: .*ValueError.* is no error of plugwire"):
        sweep(careless, RESET)


def test_a_sweep_sees_what_is_left_in_the_pool(server: Server) -> None:
    kept: list[Any] = []
    with pytest.raises(FaultFailure, match="left over in the pool"):
        sweep(lambda session: kept.append(session.open_request("GET", f"{server.url}/bytes/500000").send()), DRIBBLE)
    kept[-1].close()


def test_a_sweep_sees_a_session_that_is_good_for_nothing_afterwards(server: Server) -> None:
    with pytest.raises(FaultFailure, match="ZeroDivisionError"):
        sweep(lambda session: session.get(f"{server.url}/hello"), RESET, after=lambda session: 1 / 0)


def test_a_scenario_that_fails_by_itself_is_told() -> None:
    with pytest.raises(FaultFailure, match="without a fault it fails as well"):
        sweep(lambda session: session.get("http://127.0.0.1:1/"), Fault("never", Kind.DELAY, on=frozenset({"turn"})))


def test_a_false_word_about_what_was_sent_is_seen() -> None:
    request = plugwire.Request("POST", "http://h.example/")
    error = WriteError("broken").at("write", request=request)
    faults = Faults(RESET)
    error.replayable = True
    check(faults, error)
    error.replayable = False
    with pytest.raises(FaultFailure, match="nothing speaks against it"):
        check(faults, error)
    error.replayable = True
    faults._failed, faults._handed = {1}, {1}
    with pytest.raises(FaultFailure, match="says sent=False"):
        check(faults, error)
    with pytest.raises(FaultFailure, match="no time has passed"):
        check(Faults(RESET), plugwire.errors.ReadTimeout("late").at("head"))
    with pytest.raises(FaultFailure, match="has no phase"):
        check(Faults(RESET), plugwire.errors.ReadError("where"))
    with pytest.raises(FaultFailure, match="no error of plugwire"):
        check(Faults(RESET), KeyboardInterrupt())
    check(Faults(INTERRUPT), KeyboardInterrupt())


def test_a_fault_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="an error belongs to"):
        Fault("nothing", Kind.FAIL)
    with pytest.raises(ValueError, match="an error belongs to"):
        Fault("too much", Kind.CUT, error=OSError)
    with pytest.raises(ValueError, match="there are no operations knock"):
        Fault("odd", Kind.CUT, on=frozenset({"knock"}))
    assert all(fault.hits and fault.hits <= OPERATIONS for fault in FAULTS)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_world_that_does_not_know_a_fault_refuses_it(server: Server) -> None:
    async def main() -> None:
        await async_sweep(lambda session: session.get(f"{server.url}/hello"), INTERRUPT, first=99)

    with pytest.raises(ValueError, match="cannot be in the world asyncio"):
        asyncio.run(main())


async def test_a_day_passes_and_nobody_has_slept(world: World, server: Server) -> None:
    faults = Faults(DELAY, 5)
    async with world.session(transports=[faults], plugins=[faults], timeout=Timeout(read=60)) as session:
        with pytest.raises(ReadTimeout) as caught:
            await session.get(f"{server.url}/hello")
        assert (caught.value.budget, caught.value.phase, caught.value.sent) == ("read", "head", True)
        assert faults.clock_ahead == DELAY.seconds
        faults.stop()
        assert (await session.get(f"{server.url}/hello")).ok


def test_an_interrupt_comes_in_the_first_run_of_a_process_too() -> None:
    program = (
        "import plugwire\n"
        "from plugwire.testing.interrupts import Interrupts\n"
        "interrupts = Interrupts(0)\n"
        "interrupts.run(lambda: plugwire.Headers([('a', 'b')]))\n"
        "print(interrupts.count)\n"
    )
    assert int(subprocess.check_output([sys.executable, "-c", program], timeout=PATIENCE)) > 0


async def test_a_byte_at_a_time_changes_nothing(world: World, server: Server) -> None:
    faults = Faults(DRIBBLE)
    async with world.session(transports=[faults], plugins=[faults]) as session:
        assert (await session.post(f"{server.url}/echo", content=b"x" * 100)).json()["length"] == 100
    assert len(faults.operations) > 64


def test_an_interrupt_comes_at_every_place_once() -> None:
    seen: set[str] = set()

    def work() -> None:
        plugwire.Headers([("a", "b")]).get_list("a")

    number = 1
    while True:
        interrupts = Interrupts(number)
        try:
            interrupts.run(work)
        except KeyboardInterrupt:
            seen.add(interrupts.where)
        if not interrupts.was_raised:
            break
        number += 1
    assert number == interrupts.count + 1
    assert any("Headers.get_list" in place for place in seen)
    everywhere = Interrupts(0, is_everywhere=True)
    everywhere.run(work)
    assert everywhere.count > interrupts.count > 0


# -- what it found -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["dial", "send", "receive"])
async def test_a_time_out_of_the_system_is_none_of_ours(world: World, server: Server, operation: str) -> None:
    fault = Fault("kernel", Kind.FAIL, TIMED_OUT.error, on=frozenset({operation}))
    faults = Faults(fault)
    kinds = {"dial": ConnectError, "send": WriteError, "receive": ConnectionClosed}
    async with world.session(transports=[faults]) as session:
        with pytest.raises(kinds[operation], match="timed out by a fault") as caught:
            await session.get(f"{server.url}/hello")
        assert getattr(caught.value.__cause__, "errno", None) == errno.ETIMEDOUT


async def test_what_an_earlier_attempt_sent_stays_sent(world: World, server: Server) -> None:
    """The first is lost with its reused connection, the second cannot dial."""
    reset = Faults(Fault("reset", Kind.FAIL, RESET.error, on=frozenset({"receive"})), 2)
    unreachable = NoDial()
    async with world.session(transports=[unreachable, reset], plugins=[reset], limits=ONE) as session:
        await session.get(f"{server.url}/hello")
        unreachable.is_closed = True
        with pytest.raises(ConnectError) as caught:
            await session.get(f"{server.url}/hello")
        assert (caught.value.sent, caught.value.replayable, caught.value.phase) == (True, True, "dial")


class NoDial:
    """Nobody is reached any more, once it is closed."""

    name = "no-dial"
    honours = frozenset({"*"})

    def __init__(self) -> None:
        self.is_closed = False

    def refuse(self, route: Any) -> str | None:
        return None

    async def dial(self, route: Any, connecting: Any) -> Any:
        if self.is_closed:
            raise OSError(errno.EHOSTUNREACH, "closed")
        return await connecting.dial(route)


def test_who_looks_at_an_idle_connection_and_is_interrupted_gives_its_place_back(server: Server) -> None:
    faults = Faults(Fault("look", Kind.INTERRUPT, KeyboardInterrupt, on=frozenset({"read_now"})))
    with plugwire.Session(transports=[faults], limits=ONE) as session:
        session.get(f"{server.url}/hello")
        with pytest.raises(KeyboardInterrupt) as caught:
            session.get(f"{server.url}/hello")
        assert caught.value.__traceback__ is not None
        assert session.stats()[:3] == (0, 0, 0)


def test_no_abort_comes_after_discard() -> None:
    """The aborting thread has the member in hand already when its owner discards it."""
    scope = Scope()
    in_hand, discarded = threading.Event(), threading.Event()
    aborted_at: list[bool] = []

    class Slow:
        def abort(self) -> None:
            in_hand.set()
            discarded.wait(0.2)  # as long as it takes, the owner stands in `discard`
            aborted_at.append(discarded.is_set())

    class Other:
        def __init__(self) -> None:
            self.aborts = 0

        def abort(self) -> None:
            self.aborts += 1

    slow = Slow()
    scope.add(slow)
    thread = threading.Thread(target=scope.abort)
    thread.start()
    assert in_hand.wait(10)
    scope.discard(slow)
    discarded.set()
    thread.join()
    assert aborted_at == [False]
    late = Other()
    scope.add(late)
    assert late.aborts == 1
    scope.discard(late)
    scope.abort()
    assert late.aborts == 1


def test_a_connection_in_send_is_nobody_elses_until_its_call_has_let_go(server: Server) -> None:
    from plugwire_transports.http11 import HTTP11Connection

    seen: list[tuple[int, int]] = []
    original = HTTP11Connection.reusable

    def reusable(connection: HTTP11Connection) -> None:
        original(connection)
        seen.append(session.stats()[:2])

    with plugwire.Session(limits=ONE) as session, pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTP11Connection, "reusable", reusable)
        session.get(f"{server.url}/hello")
        assert seen == [(1, 0)], "it was given back while call.cancel() could still reach it"
        assert session.stats()[:2] == (1, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning")
def test_who_waits_in_the_pool_is_woken_though_the_giver_is_interrupted(server: Server) -> None:
    """Without a deadline: who was granted a place and not told of it would sleep for ever."""
    number = 1
    while True:
        with plugwire.Session(limits=ONE) as session:
            holder = session.open_request("GET", f"{server.url}/bytes/70000").send()
            came: list[int] = []
            waiting = threading.Thread(
                target=lambda s=session, c=came: c.append(s.get(f"{server.url}/hello").status_code), daemon=True
            )
            waiting.start()
            until = time.monotonic() + PATIENCE
            while not session.stats().waiting:
                assert time.monotonic() < until and waiting.is_alive()
            interrupts = Interrupts(number)
            try:
                interrupts.run(holder.read)
            except KeyboardInterrupt:
                pass
            del holder
            waiting.join(20)
            assert came == [200], f"interrupted at {interrupts.where}"
        if not interrupts.was_raised:
            break
        number += 3


async def test_each_hedged_dial_is_reached_by_the_sessions_end(world: World) -> None:
    """Two dials of one call; the first to end does not take the other out of what the session wakes."""
    from plugwire.engine import _Dialling

    engine_waits, scope = Scope(), Scope()
    one, other = _Dialling(scope), _Dialling(scope)
    engine_waits.add(one)
    engine_waits.add(other)
    engine_waits.discard(one)
    engine_waits.abort()
    assert scope.is_aborted


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_lock_is_handed_over_wherever_an_interrupt_comes() -> None:
    places: set[str] = set()
    while True:
        lock = HandoverLock(blocking_runtime().waiter)
        others: list[threading.Thread] = []
        interrupts = Interrupts(len(places) + 1, directories=(locks.__file__,))
        came: list[int] = []

        async def other(came: list[int] = came) -> None:
            came.append(threading.get_ident())

        async def step(lock: HandoverLock = lock, others: list[threading.Thread] = others, use: Any = other) -> None:
            for number in (1, 2):
                thread = threading.Thread(target=lambda: drive(lock.run(use)), daemon=True)
                thread.start()
                others.append(thread)
                while len(lock._queue) < number:
                    pass

        try:
            interrupts.run(lambda lock=lock, step=step: drive(lock.run(step)))  # type: ignore[misc]
        except KeyboardInterrupt:
            pass
        for thread in others:
            thread.join(20)
            assert not thread.is_alive(), interrupts.where
        assert came == [thread.ident for thread in others]  # in order
        assert lock._owner is None and not lock._queue
        if not interrupts.was_raised:
            break
        places.add(f"{len(places)} {interrupts.where}")
    assert len(places) > 10


def test_a_lock_is_given_back_in_the_midst_of_each_step_of_it() -> None:
    """By finalisers of coroutines that were dropped: who holds the lock, or waits for it."""
    runtime = blocking_runtime()

    class Dropping(BlockingWaiter):
        """Is woken, and another one is dropped meanwhile."""

        dropped: Any = None

        def wake(self) -> None:
            super().wake()
            dropped, self.dropped = self.dropped, None
            if dropped is not None:
                lock._release(dropped)

    for who in ("itself", "the next", "the last"):
        lock = HandoverLock(runtime.waiter)
        owner = runtime.waiter()
        drive(lock._acquire(owner))
        waiting = [Dropping(), BlockingWaiter(), BlockingWaiter()]
        lock._queue.extend(waiting)
        waiting[0].dropped = dropped = waiting[("itself", "the next", "the last").index(who)]  # type: ignore[attr-defined]
        lock._release(owner)
        got: list[Any] = []
        while lock._owner is not None:
            got.append(lock._owner)
            assert drive(lock._owner.wait(0)), "it owns the lock and was not woken"
            lock._release(lock._owner)
        assert got == [one for one in waiting if one is not dropped]
        assert not lock._queue


def test_a_plugins_lock_is_free_after_an_interrupt_when_it_was_handed_over() -> None:
    class Interrupted(BlockingWaiter):
        def wake(self) -> None:
            super().wake()
            raise KeyboardInterrupt

    async def give_back() -> None:
        await lock.__aexit__(None, None, None)

    lock = HandoverLock(blocking_runtime().waiter)
    drive(lock.__aenter__())
    lock._queue.append(second := Interrupted())
    with pytest.raises(KeyboardInterrupt):
        drive(give_back())
    assert lock._owner is second
    drive(give_back())
    assert lock._owner is None and not lock._queue


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_session_ends_wherever_an_interrupt_came_while_it_was_opened() -> None:
    number = 1
    while True:
        session = plugwire.Session(transports=[MockTransport(lambda request: plugwire.Response(200))])
        interrupts = Interrupts(number, directories=(locks.__file__,))
        error: BaseException | None = None  # its traceback holds all that was under way
        try:
            interrupts.run(lambda session=session: session.get("http://h/"))  # type: ignore[misc]
        except KeyboardInterrupt as interrupt:
            error = interrupt
        closing = threading.Thread(target=session.close, daemon=True)
        closing.start()
        closing.join(20)
        assert not closing.is_alive(), interrupts.where
        assert (error is not None) is interrupts.was_raised
        if error is None:
            break
        number += 1
    assert number > 5


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("version", ["http/1.1", "h2"])
def test_the_child_of_a_fork_keeps_no_descriptor_of_its_parents_connections(tls: bool, version: str) -> None:
    with Server(tls=tls, http_versions=(version,)) as server:
        options: Any = {"tls": server.tls_config} if tls else {}
        with plugwire.Session(http_versions=(version,), **options) as session:
            session.get(f"{server.url}/hello")
            response = session.open_request("GET", f"{server.url}/bytes/300000").send()
            assert _sockets_to(server.port) == 1
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                signal.alarm(60)
                try:
                    left = _sockets_to(server.port)
                    try:
                        response.read()
                        said = "read on"
                    except plugwire.Error as error:
                        said = type(error).__name__
                    del response
                    gc.collect()
                    os.write(writing, f"{left} {said}".encode())
                finally:
                    os._exit(0)
            os.close(writing)
            try:
                said = os.read(reading, 1000).decode()
            finally:
                os.close(reading)
                os.waitpid(child, 0)
            assert said.startswith("0 "), f"the child keeps connections of its parent: {said}"
            assert "read on" not in said
            # And has said nothing to the peer.
            assert len(response.read()) == 300_000
            assert session.get(f"{server.url}/hello").ok


def _sockets_to(port: int) -> int:
    """Descriptors of this process that are TCP connections to this port of our own."""
    inodes: set[str] = set()
    with open("/proc/self/net/tcp") as file:
        for line in list(file)[1:]:
            fields = line.split()
            if fields[2].endswith(f":{port:04X}"):
                inodes.add(fields[9])
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        count += target.removeprefix("socket:[").removesuffix("]") in inodes
    return count


def test_asyncio_timeout_and_trio_scopes_around_a_call(server: Server) -> None:
    """At each operation the block's own time ends: it raises what it always raises, and the session works on."""

    async def under_asyncio() -> None:
        for number in range(1, 6):
            faults = Faults(Fault("late", Kind.CANCEL_WORLD), number)
            async with plugwire.AsyncSession(transports=[faults], plugins=[faults], limits=ONE) as session:
                with pytest.raises(TimeoutError) as caught:
                    async with asyncio.timeout(1000) as block:
                        now = asyncio.get_running_loop().time()
                        faults.cancel_world = lambda block=block, now=now: block.reschedule(now)  # type: ignore[misc]
                        # On the loopback no operation need wait; the end of the block comes at the next turn.
                        await session.get(f"{server.url}/hello")
                        await asyncio.sleep(60)
                assert not isinstance(caught.value, plugwire.Error)
                faults.stop()
                assert (await session.get(f"{server.url}/hello")).ok
                assert session.stats()[:3] == (1, 1, 0)

    async def under_trio() -> None:
        for number in range(1, 6):
            faults = Faults(Fault("late", Kind.CANCEL_WORLD), number)
            async with plugwire.AsyncSession(transports=[faults], plugins=[faults], limits=ONE) as session:
                with trio.CancelScope() as scope:
                    faults.cancel_world = scope.cancel
                    await session.get(f"{server.url}/hello")
                    await trio.sleep(60)
                assert scope.cancelled_caught
                faults.stop()
                assert (await session.get(f"{server.url}/hello")).ok
                assert session.stats()[:3] == (1, 1, 0)

    asyncio.run(under_asyncio())
    trio.run(under_trio)


def test_the_session_is_closed_by_another_thread_at_each_operation(server: Server) -> None:
    number = 1
    while True:
        closing: list[threading.Thread] = []
        faults = Faults(Fault("closed", Kind.CANCEL), number)
        session = plugwire.Session(transports=[faults], limits=ONE)

        def close(fault: Fault | None, session: Any = session, closing: list[threading.Thread] = closing) -> None:
            if fault is not None:
                thread = threading.Thread(target=session.close)
                thread.start()
                thread.join(10)
                assert not thread.is_alive()
                closing.append(thread)

        faults.strike = close  # type: ignore[method-assign]
        try:
            session.post(f"{server.url}/echo", content=iter([b"a", b"b"]))
            assert not closing
        except plugwire.errors.SessionClosed as error:
            assert closing, "closed by nobody"
            assert error.phase is not None or not error.sent
        assert session.stats()[:3] == ((0, 0, 0) if closing else (1, 1, 0))
        session.close()
        assert faults.open_streams == 0
        if not closing:
            break
        number += 1
    assert number > 6


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the collector may come by the socket first
def test_an_unread_response_that_is_collected_closes_its_connection(server: Server) -> None:
    faults = Faults(CANCEL, 10**6)
    with plugwire.Session(transports=[faults], limits=ONE) as session:
        response: Any = session.open_request("GET", f"{server.url}/bytes/500000").send()
        holder: list[Any] = [response]
        holder.append(holder)  # a cycle, which nothing but the collector ends
        del response
        with pytest.warns(ResourceWarning, match="dropped without close"):
            del holder
            gc.collect()
        assert faults.open_streams == 0
        assert session.stats()[:3] == (0, 0, 0)
        assert session.get(f"{server.url}/hello").ok
