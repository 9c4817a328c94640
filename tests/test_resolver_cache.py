"""The shipped resolver: one look-up for many, what is kept and for how long, and how many threads may hang."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plugwire
from fake_time import StandingClock
from names import Names
from plugwire import ConnectError, ConnectTimeout, ResolveError, Timeout, UsageError
from plugwire.events import Connect, Resolve
from plugwire.protocols import Address
from plugwire.testing import Server
from plugwire.testing.interrupts import Interrupts
from plugwire_transports import SystemResolver, resolver
from worlds import PATIENCE, World, in_time

CLOSE = {"Connection": "close"}
PATIENT = Timeout(connect=60)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(http_versions=("h2", "http/1.1")) as made:
        yield made


def url(server: Server, host: str = "h.example") -> str:
    return f"http://{host}:{server.port}/hello"


# -- the cache, as a value -----------------------------------------------------------------------------------------


HOSTS = st.sampled_from("abcde")


@given(
    st.integers(0, 4),
    st.sampled_from([0.0, 3.0, 10.0]),
    st.lists(st.tuples(st.sampled_from(["put", "drop", "get", "wait"]), HOSTS, st.integers(0, 6)), max_size=40),
)
def test_the_cache_keeps_the_latest_of_each_name_for_ttl_and_no_more_than_it_may(
    max_entries: int, ttl: float, steps: list[tuple[str, str, int]]
) -> None:
    cache = resolver._Cache(max_entries, ttl)
    puts: list[tuple[str, float, Any]] = []  # in order; what was dropped, replaced or too much is taken out
    now = 0.0
    for number, (step, host, seconds) in enumerate(steps):
        if step == "wait":
            now += seconds
        elif step == "drop":
            cache.drop(host)
            puts = [put for put in puts if put[0] != host]
        elif step == "put":
            addresses = (Address(socket.AF_INET, f"192.0.2.{number}", 80),)
            cache.put(host, addresses, now)
            alive = [put for put in puts if put[0] != host and now - put[1] < ttl]
            puts = [*alive, (host, now, addresses)][-max_entries:] if max_entries else []
        good = {host: addresses for host, since, addresses in puts if now - since < ttl}
        assert {host: cache.get(host, now) for host in "abcde"} == dict.fromkeys("abcde") | good
        assert len(cache) <= max_entries


@pytest.mark.parametrize(
    "wrong", [{"max_entries": -1}, {"max_entries": True}, {"max_entries": 1.5}, {"ttl": -1}, {"ttl": float("inf")},
              {"ttl": "30"}, {"ttl": float("nan")}, {"ttl": True}],
)  # fmt: skip
def test_values_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SystemResolver(**wrong)


# -- through sessions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("versions", [("http/1.1",), ("h2",)])
async def test_a_name_is_looked_up_once_in_ttl_seconds(
    world: World, server: Server, names: Names, versions: tuple[str, ...]
) -> None:
    names["h.example"] = ["127.0.0.1"]
    clock = StandingClock()
    async with world.session(transports=[clock], http_versions=versions) as session:
        for seconds, looked_up in ((0, 1), (29.9, 1), (30, 2), (59.9, 2)):
            clock.seconds = seconds
            response = await session.get(url(server), headers=CLOSE)
            assert not response.connection.reused
            assert names.asked == ["h.example"] * looked_up


async def test_the_ttl_counts_from_the_question_and_is_ours_to_choose(
    world: World, server: Server, names: Names
) -> None:
    names["h.example"] = ["127.0.0.1"]
    clock = StandingClock()
    async with world.session(transports=[clock, SystemResolver(ttl=5)]) as session:
        for seconds, looked_up in ((0, 1), (4.9, 1), (5, 2), (9.9, 2), (10, 3)):
            clock.seconds = seconds
            await session.get(url(server), headers=CLOSE)
            assert len(names.asked) == looked_up, seconds


@pytest.mark.parametrize("off", [{"ttl": 0}, {"max_entries": 0}])
async def test_off_means_that_each_connection_asks(
    world: World, server: Server, names: Names, off: dict[str, Any]
) -> None:
    names["h.example"] = ["127.0.0.1"]
    async with world.session(transports=[SystemResolver(**off)]) as session:
        for _ in range(3):
            await session.get(url(server), headers=CLOSE)
    assert len(names.asked) == 3


async def test_a_name_is_the_same_for_every_port_and_each_gets_its_own(
    world: World, server: Server, names: Names
) -> None:
    names["h.example"] = ["127.0.0.1"]
    with Server() as other:
        async with world.session() as session:
            for one in (server, other):
                response = await session.get(url(one))
                assert response.connection.peer_address.port == one.port
    assert names.asked == ["h.example"]


async def test_aiohttp_cve_2026_34513_the_cache_is_bounded_and_the_oldest_go(
    world: World, server: Server, names: Names
) -> None:
    hosts = [f"{number}.example" for number in range(30)]
    names.update({host: ["127.0.0.1"] for host in hosts})
    bounded = SystemResolver(max_entries=10)
    async with world.session(transports=[bounded]) as session:
        for host in hosts:
            await session.get(url(server, host), headers=CLOSE)
        kept = session.view.engine.state(bounded, lambda runtime: pytest.fail("has no names"))
        assert len(kept._cache) == 10
        names.asked.clear()
        for host in (hosts[-1], hosts[-10], hosts[-11]):
            await session.get(url(server, host), headers=CLOSE)
        assert names.asked == [hosts[-11]]
    assert (SystemResolver().max_entries, SystemResolver().ttl) == (1000, 30)


async def test_sessions_share_no_names(world: World, server: Server, names: Names) -> None:
    names["h.example"] = ["127.0.0.1"]
    shared = SystemResolver()
    for _ in range(2):
        async with world.session(transports=[shared]) as session:
            await session.get(url(server))
            await session.derive(headers={"a": "b"}).get(url(server), headers=CLOSE)
    assert len(names.asked) == 2


async def test_numeric_hosts_are_not_looked_up(world: World, server: Server, names: Names) -> None:
    async with world.session() as session:
        for host in ("127.0.0.1", "0x7f.1"):
            assert (await session.get(url(server, host))).ok
    assert names.asked == []


async def test_failures_are_not_kept(world: World, server: Server, names: Names) -> None:
    names["h.example"] = socket.gaierror(socket.EAI_AGAIN, "try again")
    async with world.session() as session:
        for _ in range(2):
            with pytest.raises(ResolveError, match="cannot be resolved: try again"):
                await session.get(url(server))
        names["h.example"] = ["127.0.0.1"]
        assert (await session.get(url(server))).ok
    assert len(names.asked) == 3


async def test_names_that_getaddrinfo_cannot_take(world: World, names: Names) -> None:
    names["h.example"] = UnicodeError("label too long")
    async with world.session() as session:
        with pytest.raises(ResolveError, match="not a host name") as caught:
            await session.get("http://h.example/")
        assert isinstance(caught.value.__cause__, socket.gaierror)
        names["h.example"] = RuntimeError("a bug")
        with pytest.raises(plugwire.PluginError, match="system raised RuntimeError"):
            await session.get("http://h.example/")


async def test_a_host_that_cannot_be_reached_is_looked_up_anew(world: World, server: Server, names: Names) -> None:
    names["h.example"] = ["127.0.0.2", "127.0.0.3"]
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.2", server.port))
        async with world.session() as session:
            with pytest.raises(ConnectError):
                await session.get(url(server))
            names["h.example"] = ["127.0.0.2", "127.0.0.1"]  # one of them is enough
            for _ in range(2):
                assert (await session.get(url(server), headers=CLOSE)).ok
    assert len(names.asked) == 2


async def test_scopes_of_ipv6_addresses_are_kept(world: World, server: Server, names: Names) -> None:
    names["h.example"] = [("fe80::1", 7), "::1", "127.0.0.1", "127.0.0.1"]
    found: list[Any] = []

    def observe(event: object) -> None:
        if isinstance(event, Resolve) and event.addresses:
            found.append(event.addresses)

    async with world.session() as session:
        for _ in range(2):
            await session.get(url(server), headers=CLOSE, observe=observe)
    port = server.port
    expected = (
        Address(socket.AF_INET6, "fe80::1", port, 0, 7),
        Address(socket.AF_INET6, "::1", port),
        Address(socket.AF_INET, "127.0.0.1", port),
    )
    assert found == [expected, expected]
    assert names.asked == ["h.example"]


async def test_a_local_address_goes_with_kept_names(world: World, server: Server, names: Names) -> None:
    names["h.example"] = ["::1", "127.0.0.1"]
    async with world.session(options={"local_address": "127.0.0.2"}) as session:
        for _ in range(2):
            response = await session.get(url(server), headers=CLOSE)
            assert response.connection.local_address.host == "127.0.0.2"
    assert len(names.asked) == 1


async def test_resolving_is_one_step_however_many_resolvers_have_a_hand_in_it(
    world: World, server: Server, names: Names
) -> None:
    names["h.example"] = ["127.0.0.1"]
    steps: list[object] = []
    async with world.session(transports=[StandingClock()]) as session:
        await session.get(url(server), observe=steps.append)
    assert [step.edge.value for step in steps if isinstance(step, Resolve)] == ["started", "finished"]


# -- many at once --------------------------------------------------------------------------------------------------


async def test_many_who_ask_for_one_name_share_the_look_up(world: World, server: Server, names: Names) -> None:
    names["h.example"] = ["127.0.0.1"]
    names.hold("h.example")
    async with world.session(timeout=PATIENT) as session:
        asking = [world.in_background(lambda: session.get(url(server), headers=CLOSE)) for _ in range(5)]
        await world.settle()
        names.let_go()
        assert [(await one.result()).status_code for one in asking] == [200] * 5
    assert names.asked == ["h.example"]


async def test_who_shares_a_failure_gets_an_error_of_its_own(world: World, server: Server, names: Names) -> None:
    names.hold("h.example")
    async with world.session(timeout=PATIENT) as session:
        asking = [world.in_background(lambda: session.get(url(server))) for _ in range(2)]
        await world.settle()
        names.let_go()
        one, other = [(await each.outcome()).error for each in asking]
    assert isinstance(one, ResolveError) and isinstance(other, ResolveError)
    assert one.__cause__ is not other.__cause__
    assert one.__cause__.errno == other.__cause__.errno == socket.EAI_NONAME  # type: ignore[union-attr]
    assert names.asked == ["h.example"]


async def test_who_leaves_does_not_end_the_look_up_for_the_others(world: World, server: Server, names: Names) -> None:
    names["h.example"] = ["127.0.0.1"]
    names.hold("h.example")
    async with world.session(timeout=PATIENT) as session:
        cancelled = await world.cancelled_after(lambda: session.get(url(server)), world.settle)
        assert cancelled.was_cancelled or isinstance(cancelled.error, plugwire.Error)
        with pytest.raises(ConnectTimeout) as caught:
            await session.get(url(server), timeout=Timeout(connect=0.01))
        assert caught.value.phase == "resolve"
        stays = world.in_background(lambda: session.get(url(server)))
        await world.settle()
        names.let_go()
        assert (await stays.result()).ok
    assert names.asked == ["h.example"]


async def test_what_nobody_waits_for_any_more_is_found_for_the_next(world: World, server: Server, names: Names) -> None:
    names["h.example"] = ["127.0.0.1"]
    names.hold("h.example")
    async with world.session() as session:
        with pytest.raises(ConnectTimeout):
            await session.get(url(server), timeout=Timeout(connect=0.01))
        names.let_go()
        names.wait_until_quiet()
        assert (await session.get(url(server))).ok
    assert names.asked == ["h.example"]


@pytest.mark.parametrize("lock", ["of the names", "of the threads"])
def test_a_call_that_waits_for_a_name_is_dropped_in_the_midst_of_a_step(
    names: Names, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the collector, when the loop of its task is gone: in the thread that holds the lock just then."""
    monkeypatch.setattr(resolver, "MAX_THREADS", 0)  # so that it stands in line
    threads = resolver._Threads()
    monkeypatch.setattr(resolver, "_threads", threads)
    loop = asyncio.new_event_loop()
    session = plugwire.AsyncSession()
    task = loop.create_task(session.get("http://h.example/"))
    while not threads._line:
        loop.run_until_complete(asyncio.sleep(0))
    (look_up,) = threads._line
    assert look_up.waiters

    def drop() -> None:
        with look_up.names._lock if lock == "of the names" else threads._lock:
            task.get_coro().close()  # type: ignore[union-attr]

    in_time(drop)
    assert not look_up.waiters
    look_up.run()  # its turn has come
    assert not look_up.names._looking
    assert names.asked == []
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(session.close())
    loop.close()


# -- threads -------------------------------------------------------------------------------------------------------


async def test_names_that_hang_hold_a_bounded_number_of_threads(
    world: World, server: Server, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "MAX_THREADS", 2)
    hosts = [f"{number}.example" for number in range(6)]
    names.update({host: ["127.0.0.1"] for host in hosts})
    names.hold(*hosts[:2])
    async with world.session(timeout=PATIENT) as session:

        def begin(host: str) -> Any:
            return world.in_background(lambda: session.get(url(server, host), headers=CLOSE))

        hanging = [begin(host) for host in hosts[:2]]
        await world.runtime().run_blocking(names.wait_for, 2)
        # These two stand in line; the first gives up, and then nobody waits for it.
        with pytest.raises(ConnectTimeout):
            await session.get(url(server, hosts[2]), timeout=Timeout(connect=0.01))
        assert not resolver._threads._line
        waiting = [begin(host) for host in hosts[3:]]
        await world.settle()
        assert names.asked == hosts[:2] or names.asked == hosts[1::-1]
        names.let_go(hosts[0])
        for one in (hanging[0], *waiting):
            assert (await one.result()).ok
        assert hosts[2] not in names.asked
        names.let_go()
        assert (await hanging[1].result()).ok
        # There is room again for new threads, and what was given up can be asked for.
        assert (await session.get(url(server, hosts[2]))).ok
    assert names.most == 2


async def test_a_system_without_threads_is_an_error_of_ours(
    world: World, server: Server, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names["h.example"] = ["127.0.0.1"]
    monkeypatch.setattr(resolver, "MAX_THREADS", 1)

    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    async with world.session() as session:
        with monkeypatch.context() as patched:
            patched.setattr(resolver.threading, "Thread", NoThread)
            with pytest.raises(ResolveError, match="no thread for the look-up can be started"):
                await session.get(url(server))
        assert (await session.get(url(server))).ok  # the place that it would have had was given back


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_an_interrupt_anywhere_holds_no_lock_and_no_place(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names["h.example"] = ["127.0.0.2"]
    monkeypatch.setattr(resolver, "MAX_THREADS", 1)
    for number in count(1):
        interrupts = Interrupts(number, directories=(resolver.__file__,))
        with plugwire.Session(transports=[Refusing()], timeout=PATIENCE) as session:
            with pytest.raises((KeyboardInterrupt, ConnectError)):
                interrupts.run(lambda: session.get("http://h.example/"))
            with pytest.raises(ConnectError, match="nobody is there"):
                session.get("http://h.example/")
        if not interrupts.was_raised:
            break
    assert number > 30


class Refusing:
    """A dialler that resolves, and then says that nobody is there."""

    name = "refusing"
    honours = frozenset({"*"})

    def refuse(self, route: Any) -> str | None:
        return None

    async def dial(self, route: Any, connecting: Any) -> Any:
        await connecting.resolve(route.host, route.port)
        connecting.forget(route.host, route.port)
        raise ConnectionRefusedError("nobody is there")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_waits_for_no_thread_of_its_parent(
    server: Server, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "MAX_THREADS", 1)
    names["h.example"] = names["kept.example"] = ["127.0.0.1"]
    names.hold("h.example")
    with plugwire.Session(timeout=PATIENT) as session:
        session.get(url(server, "kept.example"))
        asking = threading.Thread(target=session.get, args=(url(server),))
        asking.start()
        names.wait_for(2)
        child = os.fork()
        if not child:
            signal.alarm(60)
            status = 1
            try:
                names._held.clear()
                names.asked.clear()
                ok = session.get(url(server), timeout=PATIENCE).ok and session.get(url(server, "kept.example")).ok
                status = 0 if ok and names.asked == ["h.example"] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        names.let_go()
        asking.join()


# -- what others may do with it ------------------------------------------------------------------------------------


class Remembering:
    """A resolver that is told of what was of no use."""

    name = "remembering"
    honours = frozenset({"*"})

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, int, str]] = []

    def refuse(self, route: Any) -> str | None:
        return None

    async def resolve(self, host: str, port: int, connecting: Any) -> Any:
        return await connecting.resolve(host, port)

    def forget(self, host: str, port: int, connecting: Any) -> None:
        self.forgotten.append((host, port, connecting.runtime.name))


async def test_every_resolver_that_remembers_is_told(world: World, server: Server, names: Names) -> None:
    names["h.example"] = ["127.0.0.2"]
    remembering = Remembering()
    events: list[object] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        port = taken.getsockname()[1]
        async with world.session(transports=[StandingClock(), remembering]) as session:
            for _ in range(2):
                with pytest.raises(ConnectError):
                    await session.get(f"http://h.example:{port}/", observe=events.append)
    assert remembering.forgotten == [("h.example", port, world.name)] * 2
    assert len(names.asked) == 2
    assert any(isinstance(event, Connect) for event in events)
