"""What another thread may do to an HTTP/2 connection at the worst moment: between two steps of somebody else, each made
to come for certain."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from errno import EPIPE
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import plugwire
from h2_puppet import PuppetPeer, PuppetWaiter, Stage, Task, Wait
from plugwire.drive import drive
from plugwire.protocols import Busy, Refused
from plugwire.testing.interrupts import Interrupts
from plugwire_transports.http2 import sharing
from plugwire_transports.http2.connection import HTTP2Connection
from plugwire_transports.http2.exchange import HTTP2Exchange
from plugwire_transports.http2.sharing import SharedConnection
from plugwire_transports.http2.wire import Wire
from worlds import in_time

SIZE = 600_000
"""More than half of a stream's window: reading it gives some back."""


def content(path: str) -> bytes:
    return bytes(SIZE) if path == "/large" else path.encode()


def connection_of(stage: Stage) -> HTTP2Connection:
    (connection,) = stage.session.view.engine.pool._live.values()
    assert isinstance(connection, HTTP2Connection)
    return connection


def say_all(stage: Stage) -> None:
    for peer in stage.peers:
        for side in list(peer.streams.values()):
            while peer.answer(side, 16384):
                pass
        peer.deliver()


async def get(stage: Stage, path: str) -> bytes:
    return (await stage.session.get(f"http://host{path}")).content  # type: ignore[no-any-return]


class Torn:
    """The first task leads. The second one is about to do its deed when the leader is interrupted inside of a move, and
    gets the lock before the leader does."""

    def __init__(self, stage: Stage, deed: str) -> None:
        self.stage = stage
        self.is_held = True
        leader = stage.start(get(stage, "/leader"))
        stage.settle()
        self.connection = connection = connection_of(stage)
        self.task = stage.start(getattr(self, deed)())
        if deed != "flushes":  # which is one step away
            stage.settle()
        (peer,) = stage.peers
        if deed == "reads":
            side = peer.streams[3]
            while side.given < SIZE - 20_000:
                assert peer.answer(side, 16384)
            peer.deliver()
            stage.settle()
        elif deed == "uploads":
            (exchange,) = connection._followers
            assert exchange.stream is not None
            exchange.stream.send_left += 1000
            connection._wire._send_left += 1000
            assert exchange.waiter is not None
            exchange.waiter.wake()  # for nothing, which is normal
        assert connection._leader is not None
        assert connection._leader.request.url.path == "/leader"
        assert not leader.is_done
        connection._is_torn = True
        self.is_held = False

    async def _released(self) -> None:
        await Wait(lambda: not self.is_held)

    async def uploads(self) -> None:
        await self.stage.session.post("http://host/other", content=[bytes(100_000)])

    async def ends(self) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"content"
            await self._released()

        await self.stage.session.post("http://host/other", content=pieces())

    async def flushes(self) -> None:
        await get(self.stage, "/other")

    async def reads(self) -> None:
        async with self.stage.session.stream("GET", "http://host/large") as response:
            await self._released()
            while await response.read(65536):
                pass


@pytest.mark.parametrize("deed", ["uploads", "ends", "flushes", "reads"])
def test_what_an_interrupt_tore_stays_torn_until_the_connection_ends(deed: str) -> None:
    """Whoever went on would work with a connection of whose bytes some may be lost."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        torn = Torn(stage, deed)
        stage.step(torn.task)
        assert torn.connection.is_closed
        stage.settle()
        assert torn.task.is_done
        assert torn.task.error is None or isinstance(torn.task.error, plugwire.Error)


def test_a_connection_is_not_to_blame_if_those_who_took_its_room_are_gone_when_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One is granted a place on it, and others are faster; before its thread looks who is to blame, they have ended. An
    idle connection that refuses would be closed."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        other = stage.start(get(stage, "/other"))
        stage.settle()
        original = HTTP2Connection._open
        refusals: list[Refused] = []

        async def overtaken(self: HTTP2Connection, *args: Any) -> Any:
            monkeypatch.undo()
            self.capacity = 0
            try:
                return await original(self, *args)
            except Refused as refusal:
                refusals.append(refusal)
                say_all(stage)
                await Wait(lambda: other.is_done)
                raise

        monkeypatch.setattr(HTTP2Connection, "_open", overtaken)
        late = stage.start(get(stage, "/late"))
        stage.settle()
        assert len(refusals) == 1
        say_all(stage)
        stage.settle()
        assert (other.result, late.result) == (b"/other", b"/late")
        assert len(stage.peers) == 1


def test_who_looks_at_a_connection_takes_nothing_from_its_leader() -> None:
    """A handle's thread sees that its connection is idle, then another thread begins a request; then the look comes.
    What it read would be the answer that the leader waits for, on a stream that has no more to say."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        leader = stage.start(get(stage, "/leader"))
        stage.settle()
        say_all(stage)
        assert connection_of(stage).is_fresh()
        stage.settle()
        assert leader.is_done, "it hangs"
        assert leader.result == b"/leader"


def test_what_came_before_a_failure_is_read_before_it_is_told() -> None:
    """The failure and content before it come between two steps of the reader."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        got: list[bytes] = []

        async def reads() -> None:
            async with stage.session.stream("GET", "http://host/path") as response:
                exchange = response.body._exchange
                taken = exchange.take

                def take(most: int) -> bytes:
                    data: bytes = taken(most)
                    if not data and exchange.failure is None:
                        exchange.on_data(memoryview(b"content"), False)
                        exchange.on_failed(plugwire.StreamReset("the peer reset the stream", 2), False)
                    return data

                body = response.body
                body._exchange = Meddling(exchange, take)
                while data := await body.receive():
                    got.append(data)

        task = stage.start(reads())
        stage.settle()
        (peer,) = stage.peers
        peer.answer(peer.streams[1], 0)
        peer.deliver()
        stage.settle()
        assert task.is_done
        assert isinstance(task.error, plugwire.StreamReset)
        assert got == [b"content"]


class Meddling:
    """An exchange with another `take`."""

    def __init__(self, exchange: HTTP2Exchange, take: Any) -> None:
        self._exchange = exchange
        self.take = take

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)


class Closing(deque[memoryview]):
    """Pieces of content, in the midst of whose taking another thread closes the response."""

    exchange: HTTP2Exchange

    def popleft(self) -> memoryview:
        piece = super().popleft()
        self.exchange.forget_content()
        return piece


@pytest.mark.parametrize("into", [False, True], ids=["take", "take_into"])
def test_a_response_is_closed_while_its_content_is_being_taken(into: bool) -> None:
    """Ending a session in one thread lets go of what another one is just reading."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        stage.start(get(stage, "/leader"))
        stage.settle()
        exchange = connection_of(stage)._leader
        assert exchange is not None
        exchange._pieces = pieces = Closing(memoryview(bytes(1000)) for _ in range(3))
        pieces.exchange = exchange
        exchange._held = 3000
        if into:
            assert exchange.take_into(memoryview(bytearray(5000))) == 3000
        else:
            assert exchange.take(5000) == bytes(3000)
        assert not exchange.has_content()


def test_one_reader_at_a_time() -> None:
    """A second one on the same response would take the lead twice, and others would pay for it."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        bodies: list[Any] = []

        async def opens() -> None:
            async with stage.session.stream("GET", "http://host/path") as response:
                bodies.append(response.body)
                assert await response.body.receive() == b"/path"

        first = stage.start(opens())
        other = stage.start(get(stage, "/other"))
        stage.settle()
        (peer,) = stage.peers
        peer.answer(peer.streams[1], 0)
        peer.deliver()
        stage.settle()
        second: Task = stage.start(bodies[0].receive())
        stage.settle()
        assert isinstance(second.error, Busy)
        say_all(stage)
        stage.settle()
        assert (first.is_done, first.error) == (True, None)
        assert (other.result, other.error) == (b"/other", None)


# -- finalisers, in the midst of a step -------------------------------------------------------------------------------


async def opened(stage: Stage, path: str) -> Any:
    """The body of a response that nobody has read."""
    response = await stage.session.open_request("GET", f"http://host{path}").send()
    return response.body


async def reads_never(body: Any) -> None:
    """As one who stands in the block of a response, at whose end it is closed."""
    try:
        await Wait(lambda: False)
    finally:
        await body.close()


class Crowd:
    """A response that is to be dropped, and three that wait: one leads, two follow."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        opening = stage.start(opened(stage, "/dropped"))
        stage.settle()
        (peer,) = stage.peers
        peer.answer(peer.streams[1], 0)
        peer.deliver()
        stage.settle()
        self.connection = connection_of(stage)
        self.body = opening.result
        self.dropped: HTTP2Exchange = self.body._exchange
        self.calls = [stage.start(get(stage, path)) for path in ("/first", "/second", "/third")]
        stage.settle()
        assert self.connection._leader is not None and len(self.connection._followers) == 2

    def end(self) -> None:
        for _ in range(10):
            say_all(self.stage)
            self.stage.settle()
        assert [(call.is_done, call.result, call.error) for call in self.calls] == [
            (True, b"/first", None),
            (True, b"/second", None),
            (True, b"/third", None),
        ]
        assert not (self.connection._dropped or self.connection._gone or self.connection._served)
        self.body._exchange = None


PLACES = {
    "woken": (PuppetWaiter, "wake"),
    "asked": (HTTP2Exchange, "has_news"),
    "measured": (SharedConnection, "_measure"),
    "left": (SharedConnection, "_leave"),
    "served": (SharedConnection, "served"),
    "moved": (SharedConnection, "_move"),
    "written": (SharedConnection, "_write_out"),
    "fed": (Wire, "feed"),
}


@pytest.mark.parametrize("is_broken", [False, True], ids=["sound", "broken"])
@pytest.mark.parametrize("is_before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("place", PLACES)
def test_a_response_is_dropped_in_the_midst_of_a_step(
    place: str, is_before: bool, is_broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream is reset after that; perhaps this finds out that the connection has gone, and all are told."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        kind, name = PLACES[place]
        original = getattr(kind, name)
        crowds: list[Crowd] = []
        seen: list[bool] = []

        def drop() -> None:
            if seen or not crowds or not crowds[0].connection._is_inside():
                return
            connection, exchange = crowds[0].connection, crowds[0].dropped
            seen.append(True)
            if is_broken:
                monkeypatch.setattr(connection.stream, "write_now", broken)
            connection.cancel(exchange)
            assert exchange.stream is not None, "somebody is in the midst of a step"

        def meddled(self: Any, *args: Any) -> Any:
            if is_before:
                drop()
            result = original(self, *args)
            if not is_before:
                drop()
            return result

        monkeypatch.setattr(kind, name, meddled)
        crowd = Crowd(stage)
        connection, exchange = crowd.connection, crowd.dropped
        crowds.append(crowd)
        stage.peers[0].ping()  # so that there is something to be written
        say_all_but(stage, 1)
        stage.settle()
        assert seen
        assert exchange.stream is None or connection.is_closed
        assert connection.is_closed == is_broken
        crowd.end()


def broken(data: Any) -> None:
    raise BrokenPipeError(EPIPE, "broken")


def say_all_but(stage: Stage, stream_id: int) -> None:
    (peer,) = stage.peers
    for side in list(peer.streams.values()):
        while side.id != stream_id and peer.answer(side, 16384):
            pass
    peer.deliver()


@pytest.mark.parametrize("who", ["leads", "follows", "reads", "flushes"])
def test_a_task_is_dropped_in_the_midst_of_a_move(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector ends coroutines too, and their `finally` blocks run inside of the move of another one."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        crowd = Crowd(stage)
        connection = crowd.connection
        if who == "reads":
            victim = stage.start(crowd.body.receive())
            stage.settle()
        elif who == "flushes":
            victim = stage.start(get(stage, "/flushes"))
            assert connection._flusher is not None
        else:
            victim = stage.start(get(stage, f"/{who}-first"))
            stage.settle()
        if who == "leads":
            assert connection._leader is not None
            paths = ["/first", "/second", "/third"]
            victim = crowd.calls[paths.index(connection._leader.request.url.path)]
        original = Wire.feed
        seen: list[bool] = []

        def feed(self: Wire, data: bytes) -> None:
            if not seen:
                seen.append(True)
                assert connection._is_torn
                victim.coroutine.close()
            original(self, data)

        monkeypatch.setattr(Wire, "feed", feed)
        if who == "leads":  # another one moves, and not the coroutine itself
            with connection.lock:
                say_all_but(stage, 1)
                connection._is_dry = False
                connection._move(None)
            connection.settle()
        else:
            say_all_but(stage, 1)
        victim.is_done, victim.wait = True, None
        stage.settle()
        assert seen
        assert not connection.is_closed
        assert not connection._is_torn
        if who == "leads":
            crowd.calls.remove(victim)
        for _ in range(3):
            say_all_but(stage, 1)
            stage.settle()
        assert [call.error for call in crowd.calls] == [None] * len(crowd.calls)
        assert all(call.is_done for call in crowd.calls), "somebody hangs"
        assert connection._leader is None and connection._flusher is None and not connection._followers
        crowd.body._exchange = None


@pytest.mark.parametrize(
    "deed", ["drops a response", "drops a task", "drops a block", "ends the session", "closes the connection"]
)
def test_a_finaliser_waits_for_no_lock(deed: str) -> None:
    """It may run while its thread holds what the owner of the lock needs to go on."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        crowd = Crowd(stage)
        connection = crowd.connection
        follower = crowd.calls[2]
        block = stage.start(reads_never(crowd.body))
        deeds: dict[str, Callable[[], object]] = {
            "drops a response": lambda: connection.cancel(crowd.dropped),
            "drops a task": follower.coroutine.close,
            "drops a block": block.coroutine.close,
            "ends the session": connection.abort,
            "closes the connection": connection.close,
        }
        with connection.lock:
            in_time(deeds[deed])  # it does not wait for the lock
            assert crowd.dropped.stream is not None
            assert len(connection._followers) == 2
            connection._leader = None if deed == "ends the session" else connection._leader
        connection.settle()  # as whoever had the lock
        if deed in ("drops a response", "drops a block"):
            assert crowd.dropped.stream is None
            crowd.end()
        elif deed == "drops a task":
            assert len(connection._followers) == 1
            follower.is_done, follower.wait = True, None
        else:
            assert connection.is_closed
        crowd.body._exchange = None


def test_an_interrupt_of_who_sees_to_wishes_loses_neither_them_nor_the_lock() -> None:
    number = 2  # the first one comes before anything was done
    while True:
        with Stage(lambda: PuppetPeer(content, {})) as stage:
            crowd = Crowd(stage)
            connection = crowd.connection
            interrupts = Interrupts(number, directories=(sharing.__file__,))
            try:
                interrupts.run(lambda c=connection, e=crowd.dropped: c.cancel(e))  # type: ignore[misc]
            except KeyboardInterrupt:
                pass
            taking = threading.Thread(target=connection.settle, daemon=True)
            taking.start()
            taking.join(20)
            assert not taking.is_alive(), interrupts.where
            assert not connection._is_inside()
            assert crowd.dropped.stream is None or connection.is_closed, interrupts.where
            if not connection.is_closed:
                crowd.end()
            crowd.body._exchange = None
        if not interrupts.was_raised:
            break
        number += 1
    assert number > 20


def test_an_interrupt_of_a_cancel_leaves_no_wish() -> None:
    """It would hold the connection, and its place in the pool, until the collector comes by."""
    for number in count(1):
        with Stage(lambda: PuppetPeer(content, {})) as stage:
            crowd = Crowd(stage)
            interrupts = Interrupts(number, directories=(str(Path(sharing.__file__).parent),))
            try:
                interrupts.run(lambda body=crowd.body: drive(body.close()))  # type: ignore[misc]
            except KeyboardInterrupt:
                pass
            assert not crowd.connection._dropped, interrupts.where
        if not interrupts.was_raised:
            break
    assert number > 20


def test_an_abort_while_another_one_sees_to_wishes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the lock taken, and the one who has it has just looked whether there was an abort."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:
        crowd = Crowd(stage)
        connection = crowd.connection
        connection._leader = None
        grant = SharedConnection._grant

        def granting(self: SharedConnection) -> None:
            grant(self)
            monkeypatch.undo()
            in_time(connection.abort)
            assert not connection.is_closed

        monkeypatch.setattr(SharedConnection, "_grant", granting)
        connection.cancel(crowd.dropped)
        assert connection.is_closed
        crowd.body._exchange = None
