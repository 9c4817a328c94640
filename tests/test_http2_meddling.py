"""What another thread may do to an HTTP/2 connection at the worst moment: between two steps of somebody else, each made
to come for certain."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest

import plugwire
from h2_puppet import PuppetPeer, Stage, Task, Wait
from plugwire.protocols import Busy
from plugwire_transports.http2.connection import HTTP2Connection
from plugwire_transports.http2.exchange import HTTP2Exchange

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
