"""The pool at work: its rules, each with what fails without it; replays."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import pytest

import plugwire
from plugwire import ConnectionClosed, Error, Limits, NetworkError, SessionClosed
from plugwire.config import Limits as PoolLimits
from plugwire.pool import Pool
from plugwire.pool_places import Slot, Ticket
from plugwire.route import Route
from plugwire.runtimes import blocking_runtime
from plugwire.testing import ScriptedPeer, Server
from plugwire.testing.peer import Step, abort, close, expect_end, expect_head, expect_request, send, wait_for
from plugwire.url import URL
from worlds import World

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
A, B = (Route(URL(f"http://{name}.example").origin) for name in "ab")


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# -- slots ---------------------------------------------------------------------------------------------------------


class Idle:
    """A connection that does nothing."""

    def __init__(self) -> None:
        self.place: Any = None
        self.capacity = 1
        self.is_idle = True
        self.is_draining = False
        self.is_closed = False
        self.info = plugwire.protocols.ConnectionInfo(next(plugwire.protocols.connection_ids), "test")

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        pass


def make_pool(**limits: Any) -> Pool:
    return Pool(PoolLimits(**limits), lambda: 0.0, lambda connection, reason: None)


def test_a_slot_that_is_lost_gives_its_place_to_who_waits() -> None:
    pool = make_pool(max_connections=1)
    runtime = blocking_runtime()
    slot: Any = pool.ask(A, runtime.waiter)
    ticket: Any = pool.ask(B, runtime.waiter)
    assert type(slot) is Slot
    assert type(ticket) is Ticket
    with without_collector():
        del slot
        granted = pool.collect(ticket)
    assert granted is not None
    assert pool.stats()[:3] == (1, 0, 0)


def test_a_slot_that_is_lost_inside_of_a_step_is_swept_when_the_step_ends() -> None:
    pool = make_pool(max_connections=2)
    runtime = blocking_runtime()
    kept: list[Any] = [pool.ask(A, runtime.waiter), pool.ask(A, runtime.waiter)]
    ticket: Any = pool.ask(A, runtime.waiter)

    def loses_one() -> Any:  # runs under the lock, as the collector may
        kept.pop()
        return runtime.waiter()

    last: Any = pool.ask(B, loses_one)
    granted = pool.collect(ticket)
    assert granted is not None
    assert pool.stats()[:3] == (2, 0, 1)
    pool.leave(last)


@pytest.mark.parametrize("step", ["collect", "stats"])
def test_a_step_that_decides_nothing_looks_again_too(step: str) -> None:
    pool = make_pool(max_connections=1)
    runtime = blocking_runtime()
    kept: list[Any] = [pool.ask(A, runtime.waiter)]
    ticket: Any = pool.ask(A, runtime.waiter)

    class Losing:
        """Loses the slot while the step holds the lock."""

        def __init__(self, lock: Any) -> None:
            self.lock = lock

        def __enter__(self) -> None:
            self.lock.acquire()
            kept.clear()

        def __exit__(self, *error: Any) -> None:
            self.lock.release()

    lock = pool._lock
    pool._lock = Losing(lock)  # type: ignore[assignment]
    pool.collect(Ticket(ticket.lane, 0, ticket.waiter, False)) if step == "collect" else pool.stats()
    pool._lock = lock
    assert not pool._table.lost
    assert pool.collect(ticket) is not None


def test_a_connection_in_use_is_in_no_cycle() -> None:
    pool = make_pool(max_connections=1)
    slot: Any = pool.ask(A, blocking_runtime().waiter)
    connection: Any = Idle()
    pool.joined(connection, slot)
    del slot
    gone = ref(connection)
    with without_collector():
        del connection
        assert gone() is None
        assert pool.stats()[:3] == (0, 0, 0)
        assert not pool._live, "what is gone is still known"


def test_a_change_that_two_threads_see_counts_once() -> None:
    pool = make_pool(max_idle=0)
    slot: Any = pool.ask(A, blocking_runtime().waiter)
    connection: Any = Idle()
    pool.joined(connection, slot)

    class Twice:
        """The other thread is faster by just this much."""

        def __enter__(self) -> None:
            pool._lock = lock
            pool.changed(connection)
            lock.acquire()

        def __exit__(self, *error: Any) -> None:
            lock.release()

    lock = pool._lock
    pool._lock = Twice()  # type: ignore[assignment]
    pool.changed(connection)
    assert pool.stats()[:3] == (0, 0, 0)


def test_a_connection_that_comes_back_to_a_closed_pool_is_closed() -> None:
    pool = make_pool()
    slot: Any = pool.ask(A, blocking_runtime().waiter)
    connection: Any = Idle()
    pool.joined(connection, slot)
    pool.close("over")
    pool.changed(connection)
    assert connection.is_closed
    assert pool.stats()[:3] == (0, 0, 0)
    with pytest.raises(SessionClosed, match="over"):
        pool.ask(A, blocking_runtime().waiter)


# -- reuse ---------------------------------------------------------------------------------------------------------


async def test_a_connection_is_used_again(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK), expect_request(), send(OK)]) as peer:
        async with world.session() as session:
            first, second = await session.get(peer.url), await session.get(peer.url)
            assert not first.connection.reused
            assert second.connection.reused
            assert first.connection.id == second.connection.id


@pytest.mark.parametrize("end", [close, abort])
async def test_what_the_peer_closed_while_it_was_idle_is_not_used(world: World, end: Any) -> None:
    with ScriptedPeer([expect_request(), send(OK), end()], [expect_request(), send(OK)]) as peer:
        async with world.session() as session:
            await session.get(peer.url)
            assert peer.wait_closed()
            # A POST: it would not be replayed.
            assert (await session.post(peer.url, content=b"x")).content == b"ok"


@pytest.mark.parametrize("surplus", [b"x", OK])
async def test_surplus_bytes_retire_a_connection(world: World, surplus: bytes) -> None:
    with ScriptedPeer([expect_request(), send(OK + surplus), expect_end()], [expect_request(), send(OK)]) as peer:
        async with world.session() as session:
            assert (await session.get(peer.url)).content == b"ok"
            second = await session.get(peer.url)
            assert not second.connection.reused


async def test_bytes_that_come_while_it_is_idle_retire_a_connection(world: World) -> None:
    go_on, has_sent = threading.Event(), threading.Event()
    script: list[Step] = [expect_request(), send(OK), wait_for(go_on), send(OK), lambda _: has_sent.set(), expect_end()]
    with ScriptedPeer(script, [expect_request(), send(OK)]) as peer:
        async with world.session() as session:
            await session.get(peer.url)
            go_on.set()
            await world.runtime().run_blocking(has_sent.wait, 30)
            assert not (await session.get(peer.url)).connection.reused


async def test_connection_close_is_obeyed(world: World) -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    with ScriptedPeer([expect_request(), send(closing), expect_end()], [expect_request(), send(OK)]) as peer:
        async with world.session() as session:
            await session.get(peer.url)
            assert session.stats()[:3] == (0, 0, 0)
            await session.get(peer.url)


async def test_the_oldest_idle_one_makes_room_for_another_origin(world: World) -> None:
    once: list[Step] = [expect_request(), send(OK), expect_end()]
    with ScriptedPeer(once) as one, ScriptedPeer([*once[:2], *once]) as two, ScriptedPeer(once) as three:
        async with world.session(limits=Limits(max_connections=2)) as session:
            for peer in (one, two, three, two):
                await session.get(peer.url)
            assert session.stats()[:2] == (2, 2)
            assert one.wait_closed()


async def test_an_origin_has_no_more_connections_than_its_limit(world: World) -> None:
    go_on = threading.Event()
    script: list[Step] = [expect_request(), send(OK[:-2]), wait_for(go_on), send(b"ok"), expect_request(), send(OK)]
    with ScriptedPeer(script) as peer, Server() as other:
        async with world.session(limits=Limits(max_connections_per_origin=1)) as session:
            async with session.stream("GET", peer.url) as response:
                background = world.in_background(session.get, peer.url)
                await world.settle()
                assert session.stats().origins[peer.url] == (1, 0, 1)
                assert (await session.get(f"{other.url}/hello")).ok
                go_on.set()
                await response.read()
            assert (await background.result()).content == b"ok"


# -- replay --------------------------------------------------------------------------------------------------------


async def test_a_get_that_a_reused_connection_lost_unanswered_is_replayed_once(world: World) -> None:
    lost: list[Step] = [expect_request(), send(OK), expect_request(), close()]
    with ScriptedPeer(lost, [expect_request(), send(OK)]) as peer:
        async with world.session() as session:
            await session.get(peer.url)
            response = await session.get(peer.url)
            assert not response.connection.reused
            assert response.content == b"ok"


async def test_only_once(world: World) -> None:
    lost: list[Step] = [expect_request(), send(OK), expect_request(), close()]
    with ScriptedPeer(lost, [expect_request(), close()]) as peer:
        async with world.session() as session:
            await session.get(peer.url)
            with pytest.raises(ConnectionClosed) as caught:
                await session.get(peer.url)
            assert (caught.value.sent, caught.value.replayable, caught.value.phase) == (True, True, "head")
            assert session.stats()[:3] == (0, 0, 0)


async def test_a_replay_takes_a_new_connection_even_if_idle_ones_are_there(world: World) -> None:
    first: list[Step] = [expect_request(), send(OK), expect_end()]
    go_on = threading.Event()
    second: list[Step] = [expect_request(), wait_for(go_on), send(OK), expect_request(), close()]
    with ScriptedPeer(second, first, [expect_request(), send(OK)]) as peer:
        async with world.session() as session:
            background = world.in_background(session.get, f"{peer.url}/second")
            await world.settle()
            await session.get(f"{peer.url}/first")
            go_on.set()
            await background.result()
            assert session.stats().idle == 2
            assert not (await session.get(peer.url)).connection.reused
            assert peer.accepted == 3


async def test_a_fresh_connection_is_not_replayed(world: World) -> None:
    with ScriptedPeer([expect_request(), close()]) as peer:
        async with world.session() as session:
            with pytest.raises(ConnectionClosed) as caught:
                await session.get(peer.url)
            assert caught.value.replayable


async def test_a_post_is_not_replayed(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK), expect_request(), close()]) as peer:
        async with world.session() as session:
            await session.get(peer.url)
            with pytest.raises(ConnectionClosed) as caught:
                await session.post(peer.url, content=b"pay")
            assert (caught.value.sent, caught.value.replayable) == (True, False)
            assert caught.value.attempts == 1


async def test_a_body_that_can_be_sent_only_once_is_not_replayed(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK), expect_request(), close()]) as peer:
        async with world.session() as session:
            await session.get(peer.url)
            with pytest.raises(NetworkError) as caught:
                await session.put(peer.url, content=(piece for piece in [b"once"]))
            assert not caught.value.replayable


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:-1]])
async def test_nothing_is_replayed_after_a_byte_of_the_response(world: World, begun: bytes) -> None:
    with ScriptedPeer([expect_request(), send(OK), expect_request(), send(begun), close()]) as peer:
        async with world.session() as session:
            await session.get(peer.url)
            with pytest.raises(Error) as caught:
                await session.get(peer.url)
            assert not isinstance(caught.value, ConnectionClosed)


# -- many ----------------------------------------------------------------------------------------------------------


async def test_a_granted_waiter_that_is_cancelled_passes_it_on(world: World) -> None:
    go_on = threading.Event()
    script: list[Step] = [expect_request(), send(OK[:-2]), wait_for(go_on), send(b"ok")]
    script += [expect_head(b"GET /last "), send(OK)]
    with ScriptedPeer(script) as peer:
        async with world.session(limits=Limits(max_connections=1)) as session:
            holder = await session.open_request("GET", peer.url).send()
            first = world.in_background(session.get, f"{peer.url}/first")
            await world.settle()
            last = world.in_background(session.get, f"{peer.url}/last")
            await world.settle()
            assert session.stats().waiting == 2
            first.cancel()
            await first.outcome()
            go_on.set()
            await holder.read()
            assert (await last.result()).content == b"ok"
            assert session.stats()[:3] == (1, 1, 0)


def test_connections_that_nobody_closes_are_not_remembered() -> None:
    from plugwire.testing import MockTransport

    mock = MockTransport({"GET http://h/": plugwire.Response(200)})
    with plugwire.Session(transports=[mock]) as session:
        for _ in range(50):
            session.get("http://h/")
        assert len(session._engine.pool._live) <= 1
        assert session.stats()[:3] == (0, 0, 0) or session.stats().open == 1
