"""One session and one HTTP/2 connection, shared by many threads or tasks, against real servers: every answer is its
own, whoever else closes early, times out, is cancelled, uploads or reads slowly.

An ordinary run is short; `PLUGWIRE_SOAK=50 pytest tests/test_http2_shared.py` does fifty times as many requests.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest
import trio

import plugwire
from peers import Authority, pattern
from peers.nghttpd import Nghttpd
from peers.nginx import Nginx
from peers.node import Node
from plugwire import Limits, TLSConfig
from worlds import AsyncioWorld, BlockingWorld, TrioWorld, World

SCALE = int(os.environ.get("PLUGWIRE_SOAK", "1"))
REQUESTS = 160 * SCALE
"""Of each run of `mixed`."""

ONE = Limits(max_connections=1)
FILES = 40
SIZES = (0, 13, 900, 30_000, 200_000)


def own(number: int) -> bytes:
    """Content like no other."""
    mark = b"<%d>" % number
    return (mark * (SIZES[number % len(SIZES)] // len(mark) + 1))[: SIZES[number % len(SIZES)] + number % 7]


class Place:
    """A server, and what it has that tells one request from another."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, number: int) -> tuple[str, str, bytes | None, bytes]:
        """A request with little content: method, URL, what is sent, what comes back."""
        raise NotImplementedError

    def put(self, number: int) -> tuple[str, str, bytes | None, bytes]:
        """An upload."""
        raise NotImplementedError


class AtNginx(Place):
    def __init__(self, peer: Nginx, port: int) -> None:
        super().__init__(f"https://localhost:{port}")
        self._directory = peer.upload_directory / "own"
        self._directory.mkdir(exist_ok=True)
        for number in range(FILES):
            (self._directory / str(number)).write_bytes(own(number))

    def get(self, number: int) -> tuple[str, str, bytes | None, bytes]:
        number %= FILES
        return "GET", f"{self.url}/upload/own/{number}", None, own(number)

    def put(self, number: int) -> tuple[str, str, bytes | None, bytes]:
        return "PUT", f"{self.url}/upload/put/{number}", own(number), b""


class AtNode(Place):
    def get(self, number: int) -> tuple[str, str, bytes | None, bytes]:
        size = SIZES[number % len(SIZES)] + number % 9973
        return "GET", f"{self.url}/pattern?n={size}", None, pattern(size)

    def put(self, number: int) -> tuple[str, str, bytes | None, bytes]:
        # It begins its answer with the first byte of the request.
        return "POST", f"{self.url}/reflect?{number}", own(number), own(number)


class AtNghttpd(Place):
    def get(self, number: int) -> tuple[str, str, bytes | None, bytes]:
        return "POST", f"{self.url}/{number}", own(number), own(number)

    put = get


@pytest.fixture(params=["nginx", "node", "nghttpd"])
def place(request: pytest.FixtureRequest) -> Place:
    peer = request.getfixturevalue(request.param)
    if isinstance(peer, Nginx):
        return AtNginx(peer, peer.h2_port)
    return AtNode(peer.h2_url) if isinstance(peer, Node) else AtNghttpd(peer.h2_url)


@pytest.fixture
def trusted(ca: Authority) -> TLSConfig:
    return TLSConfig(ca_file=str(ca.cert_pem))


class Calls:
    """Keeps the calls that are under way, for whoever cancels some of them."""

    def __init__(self) -> None:
        self.live: dict[int, Any] = {}

    @plugwire.hookimpl
    async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
        self.live[call.id] = call
        try:
            return await call_next(request)
        finally:
            del self.live[call.id]


async def interrupted(world: World, begin: Callable[[], Coroutine[Any, Any, None]], chance: random.Random) -> None:
    """`begin()`, cancelled after a while as its world does it, if it has not ended."""
    seconds = chance.choice([0, 0.0005, 0.003])
    if isinstance(world, TrioWorld):
        with trio.move_on_after(seconds):
            await begin()
    elif isinstance(world, AsyncioWorld) and chance.random() < 0.5:
        try:
            async with asyncio.timeout(seconds):
                await begin()
        except TimeoutError:
            pass
    elif isinstance(world, AsyncioWorld):
        task = asyncio.create_task(begin())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
    else:
        await begin()


class Mixed:
    """Does all kinds of requests, and checks that each answer is its own."""

    def __init__(self, world: World, place: Place) -> None:
        self.world = world
        self.place = place
        self.session: Any = None
        self.calls = Calls()
        self.done = 0
        self.connections: set[int] = set()

    def check(self, response: Any, expected: bytes, content: bytes) -> None:
        assert response.ok, response.status_code
        if response.status_code not in (201, 204):
            is_own = expected in content if b"sha256" in content[:4000] else content == expected
            assert is_own, f"{len(content)} bytes of another answer, or of none"
        self.connections.add(response.connection.id)
        self.done += 1

    async def whole(self, number: int, timeout: float | None = None) -> None:
        method, url, content, expected = self.place.get(number)
        response = await self.session.request(method, url, content=content or b"", timeout=timeout)
        self.check(response, expected, response.content)

    async def upload(self, number: int) -> None:
        method, url, content, expected = self.place.put(number)
        assert content is not None
        if number % 2:
            sent: Any = content
        elif isinstance(self.world, BlockingWorld):
            sent = iter([content[i : i + 20_000] for i in range(0, len(content), 20_000)])
        else:
            sent = _pieces(content)
        response = await self.session.request(method, url, content=sent)
        self.check(response, expected, response.content)

    async def early(self, number: int) -> None:
        method, url, content, expected = self.place.get(number)
        async with self.session.stream(method, url, content=content or b"") as response:
            begin = await response.read(10)
            assert expected.startswith(begin)

    async def slow(self, number: int) -> None:
        method, url, content, expected = self.place.get(number)
        async with self.session.stream(method, url, content=content or b"") as response:
            whole = b""
            while part := await response.read(20_000):
                whole += part
                await self.world.runtime().turn()
            self.check(response, expected, whole)

    async def hurried(self, number: int) -> None:
        try:
            await self.whole(number, timeout=random.choice([0.0005, 0.003, 0.01]))
        except plugwire.TimedOut:
            pass

    async def cancelled(self, number: int) -> None:
        chance = random.Random(number)
        await interrupted(self.world, lambda: self.whole(number), chance)
        live = list(self.calls.live.values())
        if live:
            chance.choice(live).cancel()

    async def work(self, worker: int, workers: int) -> None:
        deeds = [
            self.whole, self.whole, self.whole, self.upload, self.early, self.slow, self.hurried, self.cancelled
        ]  # fmt: skip
        for number in range(worker, REQUESTS, workers):
            try:
                await deeds[(number * 7 + number // 8) % len(deeds)](number)
            except plugwire.Cancelled:
                pass  # by another one's `cancelled`


def _pieces(content: bytes) -> Any:
    async def pieces() -> Any:
        for begin in range(0, len(content), 20_000):
            yield content[begin : begin + 20_000]

    return pieces()


async def mixed(world: World, place: Place, tls: TLSConfig, workers: int, limits: Limits = ONE) -> Mixed:
    """So many workers at once on one session."""
    mix = Mixed(world, place)
    async with world.session(
        tls=tls, limits=limits, http_versions=("h2",), timeout=60, plugins=[mix.calls]
    ) as mix.session:
        await world.gather(*(lambda worker=worker: mix.work(worker, workers) for worker in range(workers)))
        await mix.whole(1)
        stats = mix.session.stats()
        assert (stats.open, stats.waiting) == (stats.idle, 0), stats
    assert mix.done > REQUESTS // 4
    return mix


@pytest.mark.parametrize("workers", [8, 64])
async def test_many_share_one_connection(world: World, place: Place, trusted: TLSConfig, workers: int) -> None:
    mix = await mixed(world, place, trusted, workers)
    assert len(mix.connections) == 1


@pytest.mark.parametrize("tasks", [100, 1000])
async def test_as_many_tasks_as_one_likes(world: World, nginx: Nginx, trusted: TLSConfig, tasks: int) -> None:
    """More than a connection takes wait for room on it; what the peer takes less is told by its SETTINGS."""
    tasks = min(tasks, 200) if world.name == "blocking" else tasks
    place = AtNginx(nginx, nginx.h2_port)
    ended: list[int] = []

    async with world.session(tls=trusted, limits=ONE, http_versions=("h2",), timeout=60) as session:

        async def get(number: int) -> None:
            _, url, _, expected = place.get(number % 4)  # small ones
            response = await session.get(url)
            assert response.content == expected
            ended.append(response.connection.id)

        await world.gather(*(lambda number=number: get(number) for number in range(tasks)))
        stats = session.stats()
        assert (stats.open, stats.idle, stats.waiting) == (1, 1, 0)
    assert len(ended) == tasks
    assert len(set(ended)) == 1


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("server", ["nginx", "nghttpd"])
async def test_two_streams_at_once_and_no_more(
    world: World, server: str, most: int, nginx: Nginx, nghttpd: Nghttpd, trusted: TLSConfig
) -> None:
    """Further connections are opened as far as Limits allow; who finds no room waits."""
    place: Place = AtNginx(nginx, nginx.narrow_port)
    if server == "nghttpd":
        place = AtNghttpd(f"http://127.0.0.1:{nghttpd.narrow_port}")
    connections: set[int] = set()
    async with world.session(
        tls=trusted, limits=Limits(max_connections=most), http_versions=("h2",), timeout=60
    ) as session:

        async def ask(number: int) -> None:
            # Small ones: nghttpd takes it ill (FLOW_CONTROL_ERROR) if more of an upload than its SETTINGS allow has
            # come before it was told that we know them, though nobody can know them then (RFC 9113, 6.9.2).
            method, url, content, expected = place.get(5 * number + number % 3)
            response = await session.request(method, url, content=content or b"")
            assert response.content == expected
            connections.add(response.connection.id)

        await world.gather(*(lambda number=number: ask(number) for number in range(40)))
        stats = session.stats()
        assert (stats.open, stats.waiting) == (stats.idle, 0), stats
    # A refused stream costs nothing but a new try.
    assert 1 <= len(connections) <= most


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change after each microsecond."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_threads_that_change_at_every_step(place: Place, trusted: TLSConfig) -> None:
    world = BlockingWorld()
    mix = world.run(mixed, world, place, trusted, 16)
    assert len(mix.connections) == 1


if not getattr(sys, "_is_gil_enabled", lambda: True)():

    @pytest.mark.parametrize("workers", [2, 8, 64])
    def test_threads_that_run_at_once(place: Place, trusted: TLSConfig, workers: int) -> None:
        """There is only where there is an interpreter without the GIL: a skip would be red in CI."""
        world = BlockingWorld()
        for _ in range(5):
            mix = world.run(mixed, world, place, trusted, workers)
            assert len(mix.connections) == 1
        assert not sys._is_gil_enabled(), "an extension module has brought the GIL back"  # type: ignore[attr-defined]


async def test_a_hundred_first_requests(world: World, nginx: Nginx, trusted: TLSConfig) -> None:
    """One connection where the server speaks HTTP/2; as many as Limits allow where it does not."""
    for port, version, least, most in ((nginx.h2_port, "HTTP/2", 1, 1), (nginx.tls_port, "HTTP/1.1", 2, 10)):
        async with world.session(tls=trusted, limits=Limits(max_connections=10), timeout=60) as session:
            get = partial(session.get, f"https://localhost:{port}/small")
            responses = await world.gather(*[get] * 100)
            assert {response.http_version for response in responses} == {version}
            assert least <= session.stats().open <= most


def test_a_task_group_that_is_cancelled_in_the_middle(place: Place, trusted: TLSConfig) -> None:
    world = AsyncioWorld()

    async def play() -> None:
        mix = Mixed(world, place)
        async with world.session(tls=trusted, limits=ONE, http_versions=("h2",), timeout=60) as mix.session:

            async def fails(number: int) -> None:
                await mix.whole(number)
                if mix.done % 20 == 0:
                    raise ArithmeticError

            for _ in range(3):
                with pytest.raises(ExceptionGroup) as caught:
                    async with asyncio.TaskGroup() as group:
                        for number in range(80):
                            group.create_task(fails(number))
                assert {type(error) for error in caught.value.exceptions} == {ArithmeticError}
                await mix.whole(3)
            stats = mix.session.stats()
            assert (stats.open, stats.idle, stats.waiting) == (1, 1, 0)
            assert len(mix.connections) == 1

    world.run(play)


def test_a_nursery_that_is_cancelled_in_the_middle(place: Place, trusted: TLSConfig) -> None:
    world = TrioWorld()

    async def play() -> None:
        mix = Mixed(world, place)
        async with world.session(tls=trusted, limits=ONE, http_versions=("h2",), timeout=60) as mix.session:

            async def cancels(number: int, scope: trio.CancelScope) -> None:
                await mix.whole(number)
                if mix.done % 20 == 0:
                    scope.cancel()

            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for number in range(80):
                        nursery.start_soon(cancels, number, nursery.cancel_scope)
                assert nursery.cancel_scope.cancel_called
                await mix.whole(3)
            stats = mix.session.stats()
            assert (stats.open, stats.idle, stats.waiting) == (1, 1, 0)
            assert len(mix.connections) == 1

    world.run(play)
