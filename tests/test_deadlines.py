"""Time-outs: the values, the deadline on a fake clock, and each kind of `TimedOut` raised by its real cause.

The peers never answer, and a budget is as small as the machine is fast enough to be in the phase in which it shall end.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Any

import pytest

import plugwire
from plugwire import (
    ConnectTimeout,
    HeadTimeout,
    Limits,
    PoolTimeout,
    ReadTimeout,
    TimedOut,
    Timeout,
    TotalTimeout,
    UsageError,
    WriteTimeout,
)
from plugwire.testing import PeerFailure, ScriptedPeer
from plugwire.testing.peer import expect_head, expect_request, send, wait_for
from plugwire.timeouts import Deadline, make_timeout
from worlds import World, error_in

SOON = 0.1
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NEVER = Timeout(connect=None, read=None, write=None)


@contextmanager
def silence() -> Iterator[int]:
    """The port of a listener that takes connections and says nothing, and reads nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield listener.getsockname()[1]


@contextmanager
def full_backlog() -> Iterator[int]:
    """The port of a listener that takes no connection any more: a SYN to it is dropped."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        filling = [socket.socket() for _ in range(4)]
        for sock in filling:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for sock in filling:
            sock.close()


# -- the values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, inf, float("nan"), True, "5", b"5", [5]])
def test_a_duration_is_a_finite_number_above_0(value: Any) -> None:
    with pytest.raises(UsageError):
        make_timeout(value, base=Timeout(), streaming=False)
    for name in ("total", "head", "pool", "connect", "read", "write"):
        with pytest.raises(UsageError, match=name):
            Timeout(**{name: value})
    with pytest.raises(UsageError, match=r"Timeout\(connect=\.\.\., read=\.\.\.\)"):
        make_timeout((3, 30), base=Timeout(), streaming=False)  # type: ignore[arg-type]  # as requests has it


def test_a_number_bounds_how_long_one_call_of_the_users_may_block() -> None:
    base = Timeout(pool=3, connect=4)
    assert make_timeout(5, base=base, streaming=False) == Timeout(total=5, pool=3, connect=4)
    assert make_timeout(5, base=base, streaming=True) == Timeout(head=5, read=5, write=5, pool=3, connect=4)


def test_none_is_without_end_and_a_timeout_is_itself() -> None:
    assert make_timeout(None, base=Timeout(total=1), streaming=False) == NEVER
    exact = Timeout(head=2)
    assert make_timeout(exact, base=Timeout(total=1), streaming=True) is exact


# -- the deadline --------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_a_deadline_is_only_ever_made_earlier() -> None:
    clock = Clock()
    total = Deadline(clock).earlier(10, "total")
    assert (total.at, total.budget, total.limit) == (1010, "total", 10)
    assert total.earlier(20, "read") is total
    assert total.earlier(10, "read") is total, "of two that end at once the outer one stays"
    assert total.earlier(None, "read") is total
    clock.time += 4
    read = total.earlier(3, "read")
    assert (read.at, read.budget) == (1007, "read")
    assert total.earlier(7, "read") is total


def test_a_deadline_passes_at_its_very_point() -> None:
    clock = Clock()
    assert Deadline(clock).at == inf
    assert not Deadline(clock).has_passed()
    deadline = Deadline(clock).earlier(2, "total")
    assert deadline.remaining() == 2
    clock.time += 1.5
    assert not deadline.has_passed()
    clock.time += 0.5
    assert deadline.has_passed()


@pytest.mark.parametrize(
    ("budget", "kind"),
    [
        ("total", TotalTimeout),
        ("head", HeadTimeout),
        ("pool", PoolTimeout),
        ("connect", ConnectTimeout),
        ("read", ReadTimeout),
        ("write", WriteTimeout),
    ],
)
def test_the_error_says_which_budget_ended_and_in_which_phase(budget: str, kind: type[TimedOut]) -> None:
    clock = Clock()
    deadline = Deadline(clock).earlier(2, budget)
    clock.time += 2.5
    error = deadline.error("head")
    assert type(error) is kind
    assert isinstance(error, TimeoutError)
    assert (error.budget, error.limit, error.elapsed, error.phase) == (budget, 2, 2.5, "head")
    assert f"{budget}=2" in str(error)
    assert "2.5 s" in str(error)


# -- each kind by its real cause -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """What is imported at the first request is not to be paid out of the budgets below."""
    with ScriptedPeer([expect_request(), send(OK)], tls=True) as peer, plugwire.Session(tls=peer.tls_config) as session:
        session.get(peer.url)


async def failure(awaitable: Any) -> TimedOut:
    with pytest.raises(TimedOut) as caught:
        await awaitable
    return caught.value


async def ends(
    attempt: Callable[[float], Awaitable[Any]],
    kind: type[TimedOut],
    budget: str,
    phase: str,
    *,
    sent: bool,
    replayable: bool,
) -> TimedOut:
    """What `attempt` raises, with a budget that is large enough to get as far as this phase."""
    error, limit = await error_in(phase, sent, lambda limit: failure(attempt(limit)), SOON)
    assert isinstance(error, TimedOut)
    assert type(error) is kind
    assert (error.budget, error.phase) == (budget, phase)
    assert (error.sent, error.replayable) == (sent, replayable)
    assert error.limit == limit
    assert error.elapsed >= limit
    assert error.attempts == 1
    assert error.request is not None
    assert f"{budget}={limit:g}" in str(error)
    return error


@pytest.mark.parametrize(
    ("make", "kind", "budget"),
    [
        (float, TotalTimeout, "total"),
        (lambda limit: Timeout(total=limit), TotalTimeout, "total"),
        (lambda limit: Timeout(head=limit), HeadTimeout, "head"),
        (lambda limit: Timeout(read=limit), ReadTimeout, "read"),
    ],
)
async def test_a_peer_that_never_answers(world: World, make: Any, kind: type[TimedOut], budget: str) -> None:
    with silence() as port:
        url = f"http://127.0.0.1:{port}/"
        async with world.session() as session:
            await ends(
                lambda limit: session.get(url, timeout=make(limit)), kind, budget, "head", sent=True, replayable=True
            )
            await ends(
                lambda limit: session.post(url, content=b"x", timeout=make(limit)),
                kind, budget, "head", sent=True, replayable=False,
            )  # fmt: skip
            assert session.stats()[:3] == (0, 0, 0)


async def test_a_number_of_seconds_bounds_a_stream_until_its_head_and_then_each_read(world: World) -> None:
    left: list[int] = []  # open connections, after each attempt

    async def read(limit: float) -> None:
        with ScriptedPeer([expect_request(), send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")]) as peer:
            async with world.session() as session, session.stream("GET", peer.url, timeout=limit) as response:
                assert await response.read(3) == b"abc"
                try:
                    await response.read(3)
                finally:
                    left.append(session.stats().open)

    await ends(read, ReadTimeout, "read", "body", sent=True, replayable=True)
    assert left[-1] == 0

    async def stream(limit: float) -> None:
        with silence() as port:
            async with world.session() as session, session.stream("GET", f"http://127.0.0.1:{port}/", timeout=limit):
                pass

    await ends(stream, HeadTimeout, "head", "head", sent=True, replayable=True)


@pytest.mark.parametrize(("make", "kind", "budget"), [
    (lambda limit: Timeout(total=limit), TotalTimeout, "total"),
    (lambda limit: Timeout(read=limit), ReadTimeout, "read"),
])  # fmt: skip
async def test_a_body_that_does_not_go_on(world: World, make: Any, kind: type[TimedOut], budget: str) -> None:
    left: list[int] = []  # open connections, after each attempt

    async def get(limit: float) -> None:
        script = [expect_request(), send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na")]
        with ScriptedPeer(script) as peer:
            async with world.session() as session:
                try:
                    await session.get(peer.url, timeout=make(limit))
                finally:
                    left.append(session.stats().open)

    await ends(get, kind, budget, "body", sent=True, replayable=True)
    assert left[-1] == 0


async def test_the_head_budget_does_not_bound_the_body(world: World) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"

    async def get(budget: float) -> bytes:
        go_on = threading.Event()
        with ScriptedPeer([expect_request(), send(head), wait_for(go_on), send(b"ok")]) as peer:
            streaming = Timeout(head=budget)
            async with world.session() as session, session.stream("GET", peer.url, timeout=streaming) as response:
                await world.runtime().sleep(budget, inf)
                go_on.set()
                return await response.read()  # type: ignore[no-any-return]

    for budget in (SOON, 10 * SOON, 100 * SOON):  # one within which the head comes
        with suppress(HeadTimeout, PeerFailure):
            assert await get(budget) == b"ok"
            break
    else:
        raise AssertionError("it does")


async def test_a_peer_that_takes_no_bytes(world: World) -> None:
    with silence() as port:
        async with world.session() as session:
            url, content = f"http://127.0.0.1:{port}/", bytes(40_000_000)
            await ends(
                lambda limit: session.put(url, content=content, timeout=Timeout(write=limit)),
                WriteTimeout, "write", "write", sent=True, replayable=True,
            )  # fmt: skip
            await ends(
                lambda limit: session.post(url, content=content, timeout=Timeout(total=limit)),
                TotalTimeout, "total", "write", sent=True, replayable=False,
            )  # fmt: skip
            assert session.stats().open == 0


async def test_a_peer_that_takes_no_connection(world: World) -> None:
    with full_backlog() as port:
        async with world.session() as session:
            url = f"http://127.0.0.1:{port}/"
            await ends(
                lambda limit: session.post(url, timeout=Timeout(connect=limit)),
                ConnectTimeout, "connect", "dial", sent=False, replayable=True,
            )  # fmt: skip
            await ends(
                lambda limit: session.get(url, timeout=limit),
                TotalTimeout, "total", "dial", sent=False, replayable=True,
            )  # fmt: skip
            assert session.stats().open == 0


async def test_a_tls_handshake_that_never_ends(world: World) -> None:
    with silence() as port:
        async with world.session() as session:
            await ends(
                lambda limit: session.post(f"https://127.0.0.1:{port}/", timeout=Timeout(connect=limit)),
                ConnectTimeout, "connect", "tls", sent=False, replayable=True,
            )  # fmt: skip
            assert session.stats().open == 0


class SlowResolver:
    """A resolver that waits until the deadline of the dial, on the runtime it was handed."""

    name = "slow"
    honours = frozenset({"*"})

    def refuse(self, route: Any) -> None:
        return None

    async def resolve(self, host: str, port: int, connecting: Any) -> Any:
        if not await connecting.runtime.waiter().wait(connecting.deadline.at):
            raise TimeoutError
        raise AssertionError("woken by nobody")


async def test_a_resolver_that_never_answers(world: World) -> None:
    async with world.session(transports=[SlowResolver()]) as session:
        await ends(
            lambda limit: session.post("http://slow.example/", timeout=Timeout(connect=limit)),
            ConnectTimeout, "connect", "resolve", sent=False, replayable=True,
        )  # fmt: skip
        assert session.stats().open == 0


@pytest.mark.parametrize(("kind", "budget"), [
    (PoolTimeout, "pool"), (HeadTimeout, "head"), (TotalTimeout, "total")
])  # fmt: skip
async def test_a_pool_that_is_full(world: World, kind: type[TimedOut], budget: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    with ScriptedPeer([expect_request(), send(head)]) as peer:
        async with world.session(limits=Limits(max_connections=1)) as session, session.stream("GET", peer.url):
            error = await ends(
                lambda limit: session.post(peer.url, timeout=Timeout(**{budget: limit})),
                kind, budget, "pool", sent=False, replayable=True,
            )  # fmt: skip
            assert "1 of 1 connections are open" in str(error)
            assert f"{peer.url}: 1 open, 0 idle" in str(error)
            assert session.stats()[:3] == (1, 0, 0)


async def test_a_time_out_is_never_replayed(world: World) -> None:
    async def get(limit: float) -> None:
        # A second connection would be one too many for the script.
        with ScriptedPeer([expect_request(), send(OK), expect_head(b"GET /slow ")]) as peer:
            async with world.session() as session:
                await session.get(peer.url)
                await session.get(f"{peer.url}/slow", timeout=limit)

    await ends(get, TotalTimeout, "total", "head", sent=True, replayable=True)


async def test_a_session_is_as_usable_after_a_time_out_as_before(world: World) -> None:
    async def get(limit: float) -> TimedOut:
        with ScriptedPeer([expect_request()], [expect_request(), send(OK), expect_request(), send(OK)]) as peer:
            async with world.session(limits=Limits(max_connections=1)) as session:
                error = await failure(session.get(peer.url, timeout=limit))
                assert (await session.get(peer.url)).content == b"ok"
                assert (await session.get(peer.url)).content == b"ok"
                assert session.stats()[:3] == (1, 1, 0)
                return error

    await error_in("head", True, get, SOON)


async def test_a_pause_that_would_pass_the_deadline_fails_at_once(world: World) -> None:
    async def patient(request: Any, call_next: Any, call: Any) -> Any:
        await call.sleep(1_000_000)

    async with world.session(plugins=[patient]) as session:
        error = await failure(session.get("http://127.0.0.1:9/", timeout=1000))
        assert type(error) is TotalTimeout
        assert not error.sent
