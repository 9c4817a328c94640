"""One session under a crowd, over HTTP/1.1 and HTTP/2: 64 threads, or a thousand tasks of asyncio or trio, on a few
connections. Every answer is its caller's own, no limit is passed, every place comes back, and closing the session in
the middle ends everybody.

An ordinary run is short; `PLUGWIRE_SOAK=50 pytest tests/test_pool_hammered.py` does fifty times as many requests.
"""

from __future__ import annotations

import os
from functools import partial
from math import inf
from typing import Any

import pytest

from plugwire import Limits, SessionClosed, TimedOut
from plugwire.testing import Server
from worlds import World

SCALE = int(os.environ.get("PLUGWIRE_SOAK", "1"))
PROTOCOLS = {"HTTP/1.1": ("http/1.1",), "HTTP/2": ("h2",)}

pytestmark = pytest.mark.parametrize("protocol", PROTOCOLS)


def crowd(world: World) -> int:
    return 64 if world.name == "blocking" else 1000


def turns(world: World) -> range:
    """Of each caller."""
    return range(SCALE * (4 if world.name == "blocking" else 1))


def serving(protocol: str) -> Server:
    return Server(http_versions=PROTOCOLS[protocol])


def session_of(world: World, protocol: str, **limits: Any) -> Any:
    return world.session(http_versions=PROTOCOLS[protocol], limits=Limits(**limits))


async def own(session: Any, server: Server, number: int, timeout: float | None = None) -> Any:
    """A response that no other has."""
    size = number % 1009 + 1
    response = await session.get(f"{server.url}/bytes/{size}", timeout=timeout)
    assert len(response.content) == size
    return response


async def test_a_crowd_shares_few_connections(world: World, protocol: str) -> None:
    most = 3
    with serving(protocol) as server:
        async with session_of(world, protocol, max_connections=most) as session:

            async def caller(number: int) -> None:
                for turn in turns(world):
                    await own(session, server, number + turn)
                    assert session.stats().open <= most

            await world.gather(*(partial(caller, number) for number in range(crowd(world))))
            assert server.accepted <= most
            stats = session.stats()
            assert (stats.open, stats.waiting) == (stats.idle, 0)
            # Nobody is left in the books.
            assert list(stats.origins.values()) == [(stats.open, stats.open, 0)]


async def test_a_crowd_at_several_servers_comes_to_its_turn(world: World, protocol: str) -> None:
    """Both limits at once: the total is less than there are servers."""
    with serving(protocol) as one, serving(protocol) as two, serving(protocol) as three:
        servers = [one, two, three]
        async with session_of(world, protocol, max_connections=2, max_connections_per_origin=1) as session:
            served = dict.fromkeys(servers, 0)

            async def caller(number: int) -> None:
                server = servers[number % 3]
                for turn in turns(world):
                    await own(session, server, number + turn)
                    stats = session.stats()
                    assert stats.open <= 2
                    assert all(places <= 1 for places, _, _ in stats.origins.values())
                served[server] += 1

            number = crowd(world) // 4  # each change of server is a dial
            await world.gather(*(partial(caller, number) for number in range(number)))
            assert sum(served.values()) == number
            stats = session.stats()
            assert (stats.open, stats.waiting) == (stats.idle, 0)


async def test_a_crowd_that_comes_and_goes(world: World, protocol: str) -> None:
    """Some read to the end, some close early, some run out of time in any phase."""
    with serving(protocol) as server:
        async with session_of(world, protocol, max_connections=4) as session:

            async def caller(number: int) -> None:
                for turn in turns(world):
                    match (number + turn) % 4:
                        case 0 | 1:
                            await own(session, server, number)
                        case 2:
                            async with session.stream("GET", f"{server.url}/bytes/100000") as response:
                                assert len(await response.read(1000)) in range(1, 1001)
                        case _:
                            try:
                                await own(session, server, number, timeout=(number % 40 + 1) / 2000)
                            except TimedOut:
                                pass

            await world.gather(*(partial(caller, number) for number in range(crowd(world) // 2)))
            await own(session, server, 1)
            stats = session.stats()
            assert (stats.open, stats.waiting) == (stats.idle, 0), stats
            assert stats.open <= 4


async def test_closing_the_session_in_the_middle_of_a_crowd_ends_everybody(world: World, protocol: str) -> None:
    for _ in range(SCALE):
        with serving(protocol) as server:
            async with session_of(world, protocol, max_connections=4) as session:
                await close_in_the_middle(world, session, server)
            assert server.wait_closed()


async def close_in_the_middle(world: World, session: Any, server: Server) -> None:
    done: list[int] = []
    ended: list[SessionClosed] = []

    async def caller(number: int) -> None:
        try:
            while True:
                await own(session, server, number)
                done.append(number)
        except SessionClosed as error:
            ended.append(error)

    async def closer() -> None:
        while len(done) < 50:
            await world.runtime().sleep(0.001, inf)
        await session.close()

    await world.gather(closer, *(partial(caller, number) for number in range(crowd(world))))
    assert len(ended) == crowd(world)
    assert session.stats()[:3] == (0, 0, 0)
