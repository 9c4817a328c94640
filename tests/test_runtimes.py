"""The runtimes keep the promises of `plugwire.protocols.Runtime`, in every world."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import pytest

from plugwire.call import Scope, racing
from plugwire.drive import drive
from plugwire.errors import UsageError
from plugwire.events import Edge
from plugwire.protocols import LOCAL_ADDRESS, SOCKET, Address
from plugwire.runtimes import blocking_runtime, current_async_runtime
from plugwire.runtimes.happy_eyeballs import Plan, alternate
from worlds import PATIENCE, join_all, until_it_waits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from worlds import World

INFINITY = float("inf")


class Listener:
    """A TCP server that accepts nothing by itself; its backlog answers."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        self.socket = socket.create_server((host, 0), family=socket.AddressFamily(family))
        self.address = Address(family, *self.socket.getsockname()[:2])

    def close(self) -> None:
        self.socket.close()


class DeafListener(Listener):
    """A server whose backlog is full: who dials it waits for ever."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(0)
        self.address = Address(socket.AF_INET, *self.socket.getsockname())
        self.fillers = [socket.socket() for _ in range(3)]
        for filler in self.fillers:
            filler.setblocking(False)
            filler.connect_ex(self.socket.getsockname())

    def close(self) -> None:
        for filler in self.fillers:
            filler.close()
        super().close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def deaf() -> Iterator[DeafListener]:
    made = DeafListener()
    yield made
    made.close()


@pytest.fixture
def refusing() -> Iterator[Address]:
    """An address where nobody listens, nor can anybody else."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Address(socket.AF_INET, *sock.getsockname())


class Seen:
    """Records what a dial tells of its addresses."""

    def __init__(self) -> None:
        self.edges: list[tuple[Address, Edge]] = []
        self.errors: dict[Address, BaseException | None] = {}
        self.has_begun = threading.Event()

    def __call__(self, address: Address, edge: Edge, error: BaseException | None) -> None:
        self.edges.append((address, edge))
        if edge is not Edge.STARTED:
            self.errors[address] = error
        self.has_begun.set()

    def check_pairs(self) -> None:
        started = [address for address, edge in self.edges if edge is Edge.STARTED]
        ended = [address for address, edge in self.edges if edge is not Edge.STARTED]
        assert sorted(started) == sorted(ended), "each started address is reported once as finished or failed"


# -- clock, sleep, turn --------------------------------------------------------------------------------------------


async def test_sleep_refuses_at_once_what_would_pass_the_deadline(world: World) -> None:
    runtime = world.runtime()
    begun = runtime.now()
    with pytest.raises(TimeoutError):
        await runtime.sleep(1000, begun + 500)
    assert runtime.now() - begun < 100
    await runtime.sleep(0.01, INFINITY)
    assert runtime.now() >= begun + 0.01
    await runtime.sleep(0, runtime.now() + 10)
    await runtime.turn()


# -- waiters -------------------------------------------------------------------------------------------------------


async def test_waiter_remembers_a_wake_that_came_first(world: World) -> None:
    waiter = world.runtime().waiter()
    waiter.wake()
    waiter.wake()
    assert await waiter.wait(INFINITY) is True
    assert await waiter.wait(0) is True


async def test_waiter_says_when_time_is_up(world: World) -> None:
    runtime = world.runtime()
    waiter = runtime.waiter()
    assert await waiter.wait(runtime.now() + 0.01) is False
    assert await waiter.wait(runtime.now() - 1) is False
    waiter.wake()


async def test_waiter_is_woken_by_a_neighbour(world: World) -> None:
    waiter = world.runtime().waiter()

    async def wake() -> None:
        await world.settle()
        waiter.wake()

    results = await world.gather(lambda: waiter.wait(INFINITY), wake)
    assert results[0] is True


async def test_waiter_is_woken_by_a_foreign_thread(world: World) -> None:
    runtime = world.runtime()
    for _ in range(20):
        waiter = runtime.waiter()
        thread = threading.Thread(target=waiter.wake)
        thread.start()
        assert await waiter.wait(runtime.now() + 30) is True
        thread.join()


async def test_waiter_is_woken_by_a_signal_handler(world: World) -> None:
    runtime = world.runtime()
    waiter = runtime.waiter()
    previous = signal.signal(signal.SIGUSR1, lambda *_: waiter.wake())
    try:
        threading.Timer(0, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert await waiter.wait(runtime.now() + 30) is True
    finally:
        signal.signal(signal.SIGUSR1, previous)


async def test_waiter_is_woken_by_a_finaliser(world: World) -> None:
    runtime = world.runtime()
    waiter = runtime.waiter()

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            waiter.wake()

    async def litter() -> None:
        await world.settle()
        Garbage()
        gc.collect()

    results = await world.gather(lambda: waiter.wait(runtime.now() + 30), litter)
    assert results[0] is True


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_waking_after_the_loop_is_gone_does_nothing(name: str) -> None:
    from worlds import KINDS

    async def main() -> Any:
        waiter = current_async_runtime().waiter()
        assert await waiter.wait(0) is False
        return waiter

    waiter = KINDS[name]().run(main)
    waiter.wake()
    threading.Thread(target=waiter.wake).start()


async def test_cancelled_waiter_leaves_quietly(world: World) -> None:
    waiter = world.runtime().waiter()
    outcome = await world.cancelled_after(lambda: waiter.wait(INFINITY), world.settle)
    assert outcome.was_cancelled
    waiter.wake()


# -- locks ---------------------------------------------------------------------------------------------------------


async def test_lock_lets_one_in_at_a_time_in_order(world: World) -> None:
    runtime = world.runtime()
    lock = runtime.lock()
    inside: list[int] = []
    order: list[int] = []

    async def work(number: int) -> None:
        async with lock:
            inside.append(number)
            await runtime.sleep(0.001, INFINITY)
            assert inside == [number]
            inside.clear()
            order.append(number)

    await world.gather(*(lambda number=number: work(number) for number in range(8)))
    assert sorted(order) == list(range(8))
    if world.name == "asyncio":
        assert order == list(range(8)), "who came first gets it first"


async def test_lock_is_handed_on_by_who_is_cancelled(world: World) -> None:
    runtime = world.runtime()
    lock = runtime.lock()

    async def enter() -> str:
        async with lock:
            return "in"

    await lock.__aenter__()
    outcome = await world.cancelled_after(enter, world.settle)
    assert outcome.was_cancelled
    waiting = world.in_background(enter)
    await world.settle()
    await lock.__aexit__(None, None, None)
    assert await waiting.result() == "in"
    assert await enter() == "in", "free again"


# -- races ---------------------------------------------------------------------------------------------------------


async def test_race_is_won_by_the_first_success(world: World) -> None:
    runtime = world.runtime()
    ended: list[str] = []

    async def never() -> str:
        try:
            await runtime.sleep(1000, INFINITY)
        finally:
            ended.append("never")
        return "never"

    async def fails() -> str:
        raise ValueError("fast, but no success")

    async def wins() -> str:
        await runtime.sleep(0.001, INFINITY)
        return "won"

    assert await runtime.race(never, fails, wins) == (2, "won")
    assert ended == ["never"], "losers are cancelled and waited for"


async def test_race_that_all_lose_raises_the_last_error(world: World) -> None:
    runtime = world.runtime()

    begun = runtime.waiter()
    threads: list[threading.Thread] = []

    async def first() -> None:
        threads.append(threading.current_thread())
        begun.wake()
        raise ValueError("first")

    async def last() -> None:
        assert await begun.wait(runtime.now() + PATIENCE)
        if world.name == "blocking":
            join_all(threads)
        else:
            await world.settle()
        raise KeyError("last")

    with pytest.raises(KeyError):
        await runtime.race(last, first)
    with pytest.raises(ValueError, match="at least one"):
        await runtime.race()


async def test_race_gives_late_results_to_discard(world: World) -> None:
    runtime = world.runtime()
    late: list[str] = []

    async def wins() -> str:
        return "won"

    async def shrugs() -> str:
        try:
            await runtime.sleep(1000, INFINITY)
        except BaseException:
            pass
        return "late"

    winner = await runtime.race(shrugs, wins, discard=late.append)
    assert winner == (1, "won")
    # A task that is cancelled before it has begun has no result; the others have one that comes too late.
    assert late in ([], ["late"])

    async def wins_late() -> str:
        await world.settle() if world.name != "blocking" else await runtime.sleep(0.05, INFINITY)
        return "won"

    late.clear()
    assert await runtime.race(shrugs, wins_late, discard=late.append) == (1, "won")
    assert late == ["late"]


async def test_race_keeps_both_of_two_that_win_at_once_apart(world: World) -> None:
    runtime = world.runtime()
    late: list[int] = []

    async def number(value: int) -> int:
        return value

    index, value = await runtime.race(*(lambda i=i: number(i) for i in range(5)), discard=late.append)
    assert index == value
    assert value not in late
    assert len(late) == len(set(late))


async def test_cancelled_race_cancels_all_and_discards(world: World) -> None:
    runtime = world.runtime()
    ended: list[int] = []
    late: list[int] = []

    async def one(number: int) -> int:
        try:
            await runtime.sleep(1000, INFINITY)
        except BaseException:
            ended.append(number)
            if number == 2 and world.name == "blocking":
                return number
            raise
        return number

    async def all_of_them() -> tuple[int, int]:
        return await runtime.race(*(lambda i=i: one(i) for i in range(3)), discard=late.append)

    outcome = await world.cancelled_after(all_of_them, world.settle)
    assert outcome.was_cancelled
    assert sorted(ended) == [0, 1, 2]
    assert late == ([2] if world.name == "blocking" else [])


async def test_race_ends_streams_dials_and_inner_races_of_its_losers(world: World, deaf: DeafListener) -> None:
    runtime = world.runtime()
    from test_streams import socket_pair

    mine, theirs = socket_pair(runtime)
    seen = Seen()

    async def reads() -> None:
        await mine.receive(10, INFINITY)

    async def dials() -> None:
        await runtime.dial_tcp([deaf.address], INFINITY, seen=seen)

    async def races() -> None:
        await runtime.race(lambda: runtime.sleep(1000, INFINITY), lambda: runtime.sleep(1000, INFINITY))

    async def locks() -> None:
        lock = runtime.lock()
        async with lock, lock:  # nobody can enter twice: waits for ever
            pass

    async def wins() -> str:
        await world.settle()
        return "won"

    starters: list[Callable[[], Awaitable[Any]]] = [reads, dials, races, locks, wins]
    assert (await runtime.race(*starters))[1] == "won"
    seen.check_pairs()
    mine.close()
    theirs.close()


async def test_race_inherits_the_context(world: World) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="lost")
    variable.set("kept")

    async def look() -> str:
        value = variable.get()
        variable.set("changed in the starter")
        return value

    assert await world.runtime().race(look, look, discard=lambda _: None) in [(0, "kept"), (1, "kept")]
    assert variable.get() == "kept"


def test_interrupt_ends_a_blocking_race_and_joins_its_threads() -> None:
    runtime = blocking_runtime()
    begun = threading.Barrier(3)
    threads: list[threading.Thread] = []

    async def never() -> None:
        threads.append(threading.current_thread())
        begun.wait(30)
        await runtime.sleep(1000, INFINITY)

    me = threading.current_thread()
    assert me.ident is not None

    def interrupt(ident: int = me.ident) -> None:
        begun.wait(30)
        until_it_waits(me)
        signal.pthread_kill(ident, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        drive(runtime.race(never, never))
    interrupter.join()
    assert [thread.is_alive() for thread in threads] == [False, False]


# -- background tasks ----------------------------------------------------------------------------------------------


async def test_task_runs_and_is_joined(world: World) -> None:
    runtime = world.runtime()
    done: list[int] = []

    async def work(number: int) -> None:
        await runtime.turn()
        done.append(number)

    task = runtime.start(work, 7)
    await task.join()
    await task.join()
    assert done == [7]
    task.cancel()


async def test_task_is_cancelled(world: World) -> None:
    runtime = world.runtime()
    begun = threading.Event()
    ended: list[BaseException] = []

    async def work() -> None:
        begun.set()
        try:
            await runtime.sleep(1000, INFINITY)
        except BaseException as error:
            ended.append(error)
            raise

    task = runtime.start(work)
    await world.settle()
    assert begun.wait(30)
    task.cancel()
    await task.join()
    assert len(ended) == 1


async def test_what_a_task_raises_goes_to_the_unraisable_hook(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda arguments: caught.append(arguments.exc_value))

    async def fails() -> None:
        raise ValueError("nobody can catch this")

    task = world.runtime().start(fails)
    await task.join()
    assert [str(error) for error in caught] == ["nobody can catch this"]
    caught.clear()


async def test_blocking_work_and_the_way_back(world: World) -> None:
    runtime = world.runtime()
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("kept")

    async def inside(number: int) -> int:
        await runtime.turn()
        return number + 1

    def outside(number: int) -> tuple[int, str]:
        return runtime.from_thread(inside, number) * 2, variable.get()

    assert await runtime.run_blocking(outside, 1) == (4, "kept")
    with pytest.raises(ZeroDivisionError):
        await runtime.run_blocking(lambda: 1 / 0)


# -- dialling ------------------------------------------------------------------------------------------------------


V4 = [Address(socket.AF_INET, f"192.0.2.{number}", 80) for number in (1, 2, 3)]
V6 = [Address(socket.AF_INET6, f"2001:db8::{number}", 80) for number in (1, 2)]


def test_families_alternate_beginning_with_the_best() -> None:
    assert alternate([*V6, *V4]) == [V6[0], V4[0], V6[1], V4[1], V4[2]]
    assert alternate([*V4, *V6]) == [V4[0], V6[0], V4[1], V6[1], V4[2]]
    assert alternate([]) == []


def test_plan_begins_one_address_each_stagger_or_at_once_after_a_failure() -> None:
    plan = Plan(V4, 0.25)
    assert plan.next(100.0) == V4[0]
    assert plan.next(100.0) is None
    assert plan.next_at == 100.25
    assert plan.next(100.2) is None
    assert plan.next(100.25) == V4[1]
    plan.failed(100.3)
    assert plan.next_at == 100.3
    assert plan.next(100.3) == V4[2]
    assert plan.next_at == INFINITY
    plan.failed(100.4)
    assert plan.next(1000) is None
    assert plan.next_at == INFINITY


async def test_dial_takes_the_next_address_when_one_refuses(
    world: World, listener: Listener, refusing: Address
) -> None:
    runtime = world.runtime()
    seen = Seen()
    stream = await runtime.dial_tcp([refusing, listener.address], runtime.now() + 30, stagger=1000, seen=seen)
    stream.close()
    assert seen.edges == [
        (refusing, Edge.STARTED),
        (refusing, Edge.FAILED),
        (listener.address, Edge.STARTED),
        (listener.address, Edge.FINISHED),
    ]
    assert isinstance(seen.errors[refusing], ConnectionRefusedError)


async def test_dial_goes_on_when_an_address_does_not_answer(
    world: World, listener: Listener, deaf: DeafListener
) -> None:
    runtime = world.runtime()
    seen = Seen()
    stream = await runtime.dial_tcp([deaf.address, listener.address], runtime.now() + 30, stagger=0.01, seen=seen)
    stream.close()
    seen.check_pairs()
    assert seen.errors[listener.address] is None
    assert isinstance(seen.errors[deaf.address], OSError), "the loser is reported as failed"


async def test_dial_to_one_address_raises_its_error(world: World, refusing: Address) -> None:
    runtime = world.runtime()
    with pytest.raises(ConnectionRefusedError) as caught:
        await runtime.dial_tcp([refusing], runtime.now() + 30)
    assert not getattr(caught.value, "__notes__", [])


async def test_dial_raises_the_first_error_with_the_others_as_notes(world: World, refusing: Address) -> None:
    runtime = world.runtime()
    nowhere = Address(socket.AF_INET, "255.255.255.255", 80)  # cannot be dialled by TCP
    with pytest.raises(ConnectionRefusedError) as caught:
        await runtime.dial_tcp([refusing, nowhere], runtime.now() + 30, stagger=1000)
    assert len(caught.value.__notes__) == 1
    assert str(nowhere) in caught.value.__notes__[0]


async def test_dial_without_addresses_is_an_error(world: World) -> None:
    with pytest.raises(OSError, match="no address"):
        await world.runtime().dial_tcp([], INFINITY)


async def test_dial_runs_out_of_time(world: World, deaf: DeafListener) -> None:
    runtime = world.runtime()
    seen = Seen()
    with pytest.raises(TimeoutError):
        await runtime.dial_tcp([deaf.address], runtime.now() + 0.03, seen=seen)
    seen.check_pairs()
    with pytest.raises(TimeoutError):
        await runtime.dial_tcp([deaf.address], runtime.now() - 1)


async def test_cancelled_dial_leaves_no_socket(world: World, deaf: DeafListener) -> None:
    runtime = world.runtime()
    seen = Seen()
    outcome = await world.cancelled_after(lambda: runtime.dial_tcp([deaf.address], INFINITY, seen=seen), seen.has_begun)
    assert outcome.was_cancelled
    seen.check_pairs()  # that no descriptor is left, the world checks after each test


async def test_dial_is_aborted_through_its_scope(world: World, deaf: DeafListener) -> None:
    runtime = world.runtime()
    for is_early in (True, False):
        scope = Scope()
        if is_early:
            scope.abort()
        waiting = world.in_background(lambda scope=scope: runtime.dial_tcp([deaf.address], INFINITY, scope=scope))
        await world.settle()
        scope.abort()
        outcome = await waiting.outcome()
        assert isinstance(outcome.error, ConnectionAbortedError)


async def test_dial_sets_what_it_was_told(world: World, listener: Listener) -> None:
    runtime = world.runtime()
    stream = await runtime.dial_tcp(
        [Address(socket.AF_INET6, "::1", 1), listener.address],
        runtime.now() + 30,
        local_address="127.0.0.2",
        socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
    )
    local = stream.extra(LOCAL_ADDRESS)
    assert isinstance(local, Address)
    assert local.host == "127.0.0.2"
    sock = stream.extra(SOCKET)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    stream.close()
    with pytest.raises(OSError, match="family of ::1"):
        await runtime.dial_tcp([listener.address], runtime.now() + 30, local_address="::1")
    with pytest.raises(OSError):  # not an address of this machine
        await runtime.dial_tcp([listener.address], runtime.now() + 30, local_address="192.0.2.1")


async def test_dial_ipv6(world: World) -> None:
    try:
        listener = Listener(socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    runtime = world.runtime()
    stream = await runtime.dial_tcp([listener.address], runtime.now() + 30)
    assert "[::1]" in repr(stream)
    stream.close()
    listener.close()


async def test_dial_unix_names_the_path_when_nobody_listens(world: World) -> None:
    runtime = world.runtime()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        with pytest.raises(FileNotFoundError) as caught:
            await runtime.dial_unix(path, runtime.now() + 30)
    assert caught.value.filename == path


async def test_dial_unix_waits_while_the_backlog_is_full(world: World) -> None:
    runtime = world.runtime()
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = os.path.join(folder, "socket")
        server.bind(path)
        server.listen(0)
        first = await runtime.dial_unix(path, runtime.now() + 30)
        with pytest.raises(TimeoutError):
            await runtime.dial_unix(path, runtime.now() + 0.03)
        waiting = world.in_background(runtime.dial_unix, path, runtime.now() + 30)
        await world.settle()
        server.accept()[0].close()
        (await waiting.result()).close()
        first.close()


async def test_datagrams(world: World) -> None:
    runtime = world.runtime()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        datagrams = await runtime.open_datagrams(
            Address(socket.AF_INET, *peer.getsockname()), runtime.now() + 30, local_address="127.0.0.1"
        )
        assert datagrams.send_now(b"ping")
        data, sender = peer.recvfrom(100)
        assert data == b"ping"
        with pytest.raises(TimeoutError):
            await datagrams.receive(100, runtime.now() + 0.01)
        waiting = world.in_background(datagrams.receive, 100, INFINITY)
        await world.settle()
        peer.sendto(b"one", sender)
        peer.sendto(b"two", sender)
        assert await waiting.result() == b"one"
        assert await datagrams.receive(2, INFINITY) == b"tw", "the rest of a datagram is dropped"
        waiting = world.in_background(datagrams.receive, 100, INFINITY)
        await world.settle()
        datagrams.abort()
        assert isinstance((await waiting.outcome()).error, ConnectionAbortedError)
        datagrams.close()
        datagrams.close()
        with pytest.raises(ConnectionAbortedError):
            datagrams.send_now(b"x")


async def test_closing_datagrams_wakes_who_waits(world: World) -> None:
    runtime = world.runtime()
    datagrams = await runtime.open_datagrams(Address(socket.AF_INET, "127.0.0.1", 9), INFINITY)
    waiting = world.in_background(datagrams.receive, 100, INFINITY)
    await world.settle()
    datagrams.close()
    assert isinstance((await waiting.outcome()).error, ConnectionAbortedError)


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_datagrams_that_another_thread_ends_just_before_the_wait_do_not_wait(world: World, how: str) -> None:
    runtime = world.runtime()
    datagrams = await runtime.open_datagrams(Address(socket.AF_INET, "127.0.0.1", 9), INFINITY)

    def ended() -> float:
        join_all([in_thread(getattr(datagrams, how))])
        return runtime.now()

    cast("Any", datagrams)._now = ended
    with pytest.raises(ConnectionAbortedError):
        await datagrams.receive(100, runtime.now() + PATIENCE)
    datagrams.close()


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


# -- which world is this -------------------------------------------------------------------------------------------


async def test_current_async_runtime_is_that_of_the_loop(world: World) -> None:
    if world.name == "blocking":
        with pytest.raises(UsageError, match="running event loop"):
            current_async_runtime()
    else:
        assert current_async_runtime().name == world.name


def test_asyncio_runtime_belongs_to_one_loop() -> None:
    async def first() -> Any:
        runtime = current_async_runtime()
        await runtime.waiter().wait(0)
        return runtime

    runtime = asyncio.run(first())

    async def second() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await runtime.waiter().wait(0)

    asyncio.run(second())


def test_blocking_runtime_imports_no_event_loop() -> None:
    code = (
        "import sys, plugwire.runtimes as r; r.blocking_runtime();"
        "print({'asyncio', 'trio', 'ssl', 'pluggy', 'h2'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_scope_of_a_race_is_seen_only_inside() -> None:
    runtime = blocking_runtime()
    scopes: list[Scope | None] = []

    async def look() -> None:
        scopes.append(racing.get())

    drive(runtime.race(look))
    assert racing.get() is None
    assert isinstance(scopes[0], Scope)
