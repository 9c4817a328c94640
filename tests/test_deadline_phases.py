"""`Timeout(total=...)` ends whatever is under way, to the second: on a clock that only moves when somebody waits.

Each case is a peer that would go on for ever, over HTTP/1.1 and over HTTP/2; the call must end exactly when its budget
does, and say which budget that was and what was being done. (How exactly a real clock is met is measured, not tested:
`tests/benchmarks/deadlines.py`.)
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from math import inf
from typing import Any

import pytest

from fake_time import Clock, FakeTime, Script, says
from plugwire import (
    ConnectTimeout,
    Error,
    HeadTimeout,
    Limits,
    PoolTimeout,
    ReadTimeout,
    Timeout,
    TotalTimeout,
    WriteTimeout,
)
from plugwire.protocols import Address
from plugwire.runtimes.happy_eyeballs import connect
from plugwire_plugins import Retries
from test_deadlines import full_backlog
from worlds import World

TOTAL = 10.0
HOST = "slow.example"
PROTOCOLS = ("HTTP/1.1", "HTTP/2")

# -- HTTP/2 in bytes ---------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, 0, 0) + frame(4, 1, 0)
"""Ours, and that we have seen theirs."""
END_HEADERS = 4
HEAD = frame(1, END_HEADERS, 1, b"\x88")
"""`:status: 200`"""
PING = frame(6, 0, 0, b"12345678")
WIDE = frame(8, 0, 0, (1 << 20).to_bytes(4, "big")) + frame(8, 0, 1, (1 << 20).to_bytes(4, "big"))
"""WINDOW_UPDATE, of connection and stream."""


def trickle(data: Iterator[bytes], first: bytes = b"", pause: float = 0.2) -> Script:
    """`first` at once, and then a piece each `pause` seconds: 5 a second."""

    def answers(received: bytes) -> Iterator[tuple[float, bytes]]:
        return chain([(0.0, first)] if first else [], ((pause, piece) for piece in data))

    return Script(answers)


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def continuations() -> Iterator[bytes]:
    """A head that is never complete: a byte of a long value at a time."""
    yield frame(1, 0, 1, b"\x88")
    yield frame(9, 0, 1, b"\x00\x01a\x7f\xe1\x07")
    yield from repeat(frame(9, 0, 1, b"x"))


LONG_HEAD = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TRAILERS = CHUNKED + b"0\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\n\r\n"
ONE_FRAME = frame(0, 0, 1, bytes(16384))

PEERS: dict[tuple[str, str], tuple[str, Callable[[], Script]]] = {
    ("HTTP/1.1", "says nothing"): ("head", lambda: Script()),
    ("HTTP/1.1", "5 bytes of head a second"): ("head", lambda: trickle(one_by_one(LONG_HEAD))),
    ("HTTP/1.1", "hints"): ("head", lambda: trickle(repeat(HINT), pause=1)),
    ("HTTP/1.1", "stops after the head"): ("body", lambda: Script(says((0, LENGTH)))),
    ("HTTP/1.1", "5 bytes of body a second"): ("body", lambda: trickle(repeat(b"x"), LENGTH)),
    ("HTTP/1.1", "5 bytes of chunks a second"): ("body", lambda: trickle(one_by_one(b"1\r\nx\r\n" * 1000), CHUNKED)),
    ("HTTP/1.1", "5 bytes of trailers a second"): ("body", lambda: trickle(one_by_one(b"a: b\r\n" * 99), TRAILERS)),
    ("HTTP/1.1", "5 bytes a second until it closes"): ("body", lambda: trickle(repeat(b"x"), UNTIL_CLOSE)),
    ("HTTP/2", "says nothing, not even SETTINGS"): ("head", lambda: Script()),
    ("HTTP/2", "5 bytes of SETTINGS a second"): ("head", lambda: trickle(one_by_one(frame(4, 0, 0, bytes(6) * 100)))),
    ("HTTP/2", "says nothing but SETTINGS"): ("head", lambda: Script(says((0, SETTINGS)))),
    ("HTTP/2", "5 bytes of head a second"): ("head", lambda: trickle(one_by_one(frame(1, 4, 1, bytes(80))), SETTINGS)),
    ("HTTP/2", "a CONTINUATION now and then"): ("head", lambda: trickle(continuations(), SETTINGS, pause=1)),
    ("HTTP/2", "PING only"): ("head", lambda: trickle(repeat(PING), SETTINGS)),
    ("HTTP/2", "windows only"): ("head", lambda: trickle(repeat(frame(8, 0, 1, b"\0\0\0\1")), SETTINGS)),
    ("HTTP/2", "stops after the head"): ("body", lambda: Script(says((0, SETTINGS + HEAD)))),
    ("HTTP/2", "5 bytes of body a second"): ("body", lambda: trickle(repeat(frame(0, 0, 1, b"x")), SETTINGS + HEAD)),
    ("HTTP/2", "5 bytes of a frame a second"): ("body", lambda: trickle(one_by_one(ONE_FRAME), SETTINGS + HEAD)),
    ("HTTP/2", "PING in place of body"): ("body", lambda: trickle(repeat(PING), SETTINGS + HEAD)),
}  # fmt: skip


def session_of(world: World, fake: FakeTime, protocol: str = "HTTP/1.1", **options: Any) -> Any:
    versions = ("h2",) if protocol == "HTTP/2" else ("http/1.1",)
    return world.session(transports=[fake], http_versions=versions, **options)


async def ends(
    fake: FakeTime,
    ask: Callable[..., Any],
    phase: str | None,
    *,
    kind: type[Error] = TotalTimeout,
    budget: str = "total",
    slack: float = 0,
    **options: Any,
) -> Any:
    """What `ask` does comes to its end to the second, but for `slack`: what it takes to write the RST_STREAM."""
    options.setdefault("timeout", Timeout(total=TOTAL))
    begun = fake.clock.time
    with pytest.raises(Error) as caught:
        await ask(**options)
    error: Any = caught.value
    assert type(error) is kind, error
    assert (error.budget, error.phase, error.limit) == (budget, phase, TOTAL)
    assert f"{budget}={TOTAL:g}" in str(error)
    assert -1e-6 <= fake.clock.time - (begun + TOTAL) <= slack + 1e-6
    return error


def get(session: Any, scheme: str = "http") -> Callable[..., Any]:
    return lambda **options: session.get(f"{scheme}://{HOST}/", **options)


@pytest.mark.parametrize(("protocol", "peer"), PEERS)
async def test_total_ends_a_peer_that_goes_on(world: World, protocol: str, peer: str) -> None:
    phase, script = PEERS[protocol, peer]
    fake = FakeTime(script())
    async with session_of(world, fake, protocol) as session:
        error = await ends(fake, get(session), phase)
        assert (error.sent, error.replayable, error.attempts) == (True, True, 1)
        assert error.connection.protocol == protocol
        # A stream is given up, and a connection that still works is kept; HTTP/1.1 has but the one.
        assert session.stats()[:3] in ([(0, 0, 0)] if protocol == "HTTP/1.1" else [(0, 0, 0), (1, 1, 0)])
        assert protocol == "HTTP/2" or all(stream.is_closed for stream in fake.streams)


@pytest.mark.parametrize(("protocol", "peer"), PEERS)
async def test_and_so_does_the_budget_of_a_head(world: World, protocol: str, peer: str) -> None:
    phase, script = PEERS[protocol, peer]
    fake = FakeTime(script())
    async with session_of(world, fake, protocol) as session:
        if phase == "head":
            await ends(fake, get(session), "head", kind=HeadTimeout, budget="head", timeout=Timeout(head=TOTAL))
        else:  # its head comes at once
            async with session.stream("GET", f"http://{HOST}/", timeout=Timeout(head=TOTAL)):
                assert fake.clock.time == 1000


def pieces(size: int = 1000) -> Iterator[bytes]:
    """A content that never ends."""
    return repeat(bytes(size))


UPLOADS: dict[tuple[str, str], Script] = {
    ("HTTP/1.1", "reads nothing"): Script(reads=0),
    ("HTTP/1.1", "reads 5 bytes a second"): Script(reads=5),
    ("HTTP/1.1", "reads all"): Script(pace=0.5),
    ("HTTP/1.1", "reads and sends hints"): Script(says(*[(1, HINT)] * 15), pace=0.5),
    ("HTTP/2", "reads nothing"): Script(reads=0),
    ("HTTP/2", "never opens its window"): Script(says((0, SETTINGS))),
    ("HTTP/2", "never says SETTINGS"): Script(),
    ("HTTP/2", "opens the window of a byte a second"): Script(
        says((0, SETTINGS), *[(1, frame(8, 0, 0, b"\0\0\0\1") + frame(8, 0, 1, b"\0\0\0\1"))] * 1000)
    ),
    ("HTTP/2", "reads 5 bytes a second"): Script(says((0, SETTINGS + WIDE)), reads=5),
    ("HTTP/2", "reads all"): Script(says((0, SETTINGS), *[(0, WIDE)] * 100), pace=0.5),
}


@pytest.mark.parametrize(("protocol", "peer"), UPLOADS)
@pytest.mark.parametrize("content", ["endless", "large"])
async def test_total_ends_an_upload(world: World, protocol: str, peer: str, content: str) -> None:
    script = UPLOADS[protocol, peer]
    if content == "large" and script.pace:
        content = "many"  # one write of it would be all
    made: Any = {"endless": pieces(), "large": bytes(1 << 20), "many": [bytes(1000)] * 100}[content]
    fake = FakeTime(Script(script.answers, reads=script.reads, pace=script.pace))
    async with session_of(world, fake, protocol) as session:
        ask = lambda **options: session.post(f"http://{HOST}/", content=made, **options)  # noqa: E731
        error = await ends(fake, ask, "write", slack=script.pace)
        assert (error.sent, error.replayable) == (True, False)


@pytest.mark.parametrize("content", [b"", b"small", bytes(1 << 20)])
async def test_frames_of_another_stream_are_no_progress_of_ours(world: World, content: bytes) -> None:
    """The one who waits reads for all, and what it reads is another's: 5 frames a second."""
    fake = FakeTime(trickle(repeat(frame(0, 0, 1, b"x")), SETTINGS + HEAD))
    async with session_of(world, fake, "HTTP/2") as session, session.stream("GET", f"http://{HOST}/other") as other:
        ask = lambda **options: session.post(f"http://{HOST}/ours", content=content, **options)  # noqa: E731
        phase = "head" if len(content) < 65535 else "write"
        await ends(fake, ask, phase)
        kind: Any = ReadTimeout if phase == "head" else WriteTimeout
        budget = "read" if phase == "head" else "write"
        await ends(fake, ask, phase, kind=kind, budget=budget, timeout=Timeout(**{budget: TOTAL}))
        assert await other.read(90) == b"x" * 90
        assert session.stats()[:3] == (1, 0, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("budget", ["total", "connect"])
async def test_a_resolver_a_dial_and_a_handshake_that_hang(world: World, protocol: str, budget: str) -> None:
    kind: Any = TotalTimeout if budget == "total" else ConnectTimeout
    handshake = b"\x16\x03\x03\x40\x00" + bytes(0x4000)  # a record that is never complete
    cases: list[tuple[str, str, FakeTime]] = [
        ("resolve", "http", FakeTime(Script(), resolving=inf)),
        ("dial", "http", FakeTime(Script(), resolving=4, dialling=inf)),
        ("tls", "https", FakeTime(Script(), resolving=3, dialling=3)),
        ("tls", "https", FakeTime(Script(reads=0), resolving=3, dialling=3)),
        ("tls", "https", FakeTime(trickle(one_by_one(handshake)), dialling=3)),
    ]
    for phase, scheme, fake in cases:
        async with session_of(world, fake, protocol) as session:
            timeout = Timeout(**{"connect": 60, budget: TOTAL})
            error = await ends(fake, get(session, scheme), phase, kind=kind, budget=budget, timeout=timeout)
            assert (error.sent, error.replayable) == (False, True)
            assert session.stats()[:3] == (0, 0, 0)
            assert all(stream.is_closed for stream in fake.streams)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("budget", ["total", "pool", "head"])
async def test_a_pool_that_is_full(world: World, protocol: str, budget: str) -> None:
    kind: Any = {"total": TotalTimeout, "pool": PoolTimeout, "head": HeadTimeout}[budget]
    one_stream = frame(4, 0, 0, b"\0\3\0\0\0\1") + frame(4, 1, 0)
    fake = FakeTime(Script(says((0, LENGTH if protocol == "HTTP/1.1" else one_stream + HEAD))))
    async with (
        session_of(world, fake, protocol, limits=Limits(max_connections=1)) as session,
        session.stream("GET", f"http://{HOST}/"),
    ):
        timeout = Timeout(**{budget: TOTAL})
        error = await ends(fake, get(session), "pool", kind=kind, budget=budget, timeout=timeout)
        assert not error.sent
        assert "1 of 1 connections are open" in str(error)
        assert session.stats()[:3] == (1, 0, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_one_budget_spans_all_phases(world: World, protocol: str) -> None:
    """Each takes less than the budget, all together more."""
    head = LENGTH if protocol == "HTTP/1.1" else SETTINGS + HEAD
    byte = b"x" if protocol == "HTTP/1.1" else frame(0, 0, 1, b"x")
    fake = FakeTime(Script(says((3, head), *[(1, byte)] * 100)), resolving=2, dialling=3)
    async with session_of(world, fake, protocol) as session:
        await ends(fake, get(session), "body")


async def test_attempts_and_pauses_share_the_budget(world: World) -> None:
    """A peer that says 503 after 2 seconds, again and again: the last answer, or the end of the budget."""
    answer = b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
    for seconds in (2.0, 4.6):
        fake = FakeTime(Script(says((seconds, answer), *[(seconds + 1, answer)] * 9)))
        async with session_of(world, fake, plugins=[Retries(9, random=lambda: 0.0)]) as session:
            if seconds == 2:  # 2, 1, 2, 1, 2, 1: and no time for an answer after that
                await ends(fake, get(session), "head")
            else:  # 4.6, 1, 4.4 of 4.6
                error = await ends(fake, get(session), "head")
                assert error.attempts == 2


MOVED = b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n"
AWAY = MOVED.replace(b"/next", b"http://other.example/")


def moved_h2(stream: int) -> bytes:
    """HEADERS with END_STREAM: `:status: 302`, `location: /`."""
    return frame(1, END_HEADERS | 1, stream, b"\x48\x03302\x0f\x1f\x01/")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_hops_without_end_share_the_budget(world: World, protocol: str) -> None:
    """Each comes after 3 seconds: the fourth does not come in time."""
    if protocol == "HTTP/1.1":
        script = Script(says(*[(3.0, MOVED)] * 99))
    else:
        script = Script(says((0, SETTINGS), *[(3.0, moved_h2(1 + 2 * number)) for number in range(99)]))
    for budget, kind in (("total", TotalTimeout), ("head", HeadTimeout)):
        fake = FakeTime(script)
        async with session_of(world, fake, protocol) as session:
            error = await ends(fake, get(session), "head", kind=kind, budget=budget, timeout=Timeout(**{budget: TOTAL}))
            assert (error.attempts, error.sent) == (4, True)
            assert len(fake.streams) == 1


class HangsAtTheSecondDial(FakeTime):
    async def dial(self, route: Any, connecting: Any) -> Any:
        if self.streams:
            self.dialling = inf
        return await super().dial(route, connecting)


@pytest.mark.parametrize("phase", ["dial", "tls", "head", "body"])
async def test_a_hop_has_what_is_left_of_the_budget(world: World, phase: str) -> None:
    """The first answer takes 4 seconds; whatever then goes on for ever has 6."""
    away = AWAY.replace(b"http:", b"https:") if phase == "tls" else AWAY
    second = Script(says((1, LENGTH))) if phase == "body" else Script()
    kind = HangsAtTheSecondDial if phase == "dial" else FakeTime
    fake = kind(Script(says((4, away))), second)
    async with session_of(world, fake) as session:
        error = await ends(fake, get(session), phase)
        assert error.attempts == 2
        assert error.request.url.host == "other.example"
        assert all(stream.is_closed for stream in fake.streams[1:])


async def test_dropping_the_content_of_a_redirect_takes_a_moment_and_not_beyond_the_end(world: World) -> None:
    head = MOVED.replace(b"Length: 0", b"Length: 60000")
    for total, lasts in ((TOTAL, 0.1), (0.05, 0.05)):
        fake = FakeTime(trickle(repeat(b"x"), head, pause=0.001), Script(says((0, LENGTH.replace(b"1000000", b"0")))))
        async with session_of(world, fake) as session:
            begun = fake.clock.time
            try:
                await session.get(f"http://{HOST}/", timeout=Timeout(total=total))
            except TotalTimeout:
                assert total < 0.1
            assert fake.clock.time == pytest.approx(begun + lasts, abs=0.002)
            assert fake.streams[0].is_closed


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_number_bounds_each_call_of_a_stream(world: World, protocol: str) -> None:
    head = LENGTH if protocol == "HTTP/1.1" else SETTINGS + HEAD
    byte = b"x" if protocol == "HTTP/1.1" else frame(0, 0, 1, b"x")
    fake = FakeTime(Script(says((9, head), *[(9, byte)] * 3)))
    async with (
        session_of(world, fake, protocol) as session,
        session.stream("GET", f"http://{HOST}/", timeout=TOTAL) as response,
    ):
        for _ in range(3):
            assert await response.read(1) == b"x"
        assert fake.clock.time == 1036
        with pytest.raises(Error) as caught:
            await response.read(1)
        error: Any = caught.value
        assert (error.budget, error.phase, error.limit) == ("read", "body", TOTAL)
        assert fake.clock.time == 1046


@pytest.mark.parametrize(
    ("total", "lasts"),
    [(None, 0.1), (TOTAL, 0.1), (0.05, 0.05)],
)
async def test_closing_an_unread_response_takes_a_moment_and_not_beyond_the_end(
    world: World, total: float | None, lasts: float
) -> None:
    fake = FakeTime(trickle(repeat(b"x"), LENGTH.replace(b"1000000", b"1000"), pause=0.001))
    async with session_of(world, fake) as session:
        async with session.stream("GET", f"http://{HOST}/", timeout=Timeout(total=total)):
            begun = fake.clock.time
        assert fake.clock.time == pytest.approx(begun + lasts, abs=0.002)
        assert session.stats()[:3] == (0, 0, 0)


async def test_closing_a_stream_of_http2_or_a_session_takes_no_time(world: World) -> None:
    for script in (trickle(repeat(PING), SETTINGS + HEAD), Script(says((0, SETTINGS + HEAD)), reads=1000)):
        fake = FakeTime(script)
        async with session_of(world, fake, "HTTP/2") as session:
            async with session.stream("GET", f"http://{HOST}/"):
                begun = fake.clock.time
            assert session.stats()[:3] == (1, 1, 0)
            assert fake.clock.time == begun
        assert fake.clock.time == begun
        assert all(stream.is_closed for stream in fake.streams)


# -- Happy Eyeballs ----------------------------------------------------------------------------------------------------


class NeverReady:
    """No address answers."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.most = 0

    async def wait(self, reading: Sequence[Any], writing: Sequence[Any], at: float) -> Sequence[Any]:
        self.most = max(self.most, len(writing))
        self.clock.wait(inf, at)
        return ()

    def abort(self) -> None:
        pass

    close = abort


@pytest.mark.parametrize("number", [1, 5, 100])
async def test_all_addresses_of_a_host_share_the_budget(world: World, number: int) -> None:
    clock = Clock()
    ready = NeverReady(clock)
    with full_backlog() as port, pytest.raises(TimeoutError):
        await connect(
            [Address(socket.AF_INET, "127.0.0.1", port)] * number,
            clock.time + TOTAL,
            now=clock,
            ready=ready,
            local_address=None,
            socket_options=(),
            stagger=0.25,
            seen=None,
        )
    assert clock.time == 1000 + TOTAL
    assert ready.most == min(number, TOTAL / 0.25)
