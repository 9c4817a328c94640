"""Finalisers and signal handlers run wherever they like, also inside of a step of the pool, in the very thread that
holds its lock: nothing hangs, and what they want is done when the step has ended."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

import plugwire
from h2_peer import Conversation, H2Peer
from plugwire import Busy, Limits
from plugwire.pool import Pool
from plugwire.pool_places import Ticket, TicketState
from plugwire.pool_table import Table
from plugwire.protocols import ConnectionInfo, connection_ids
from plugwire.route import Route
from plugwire.testing import ScriptedPeer
from plugwire.testing.interrupts import Interrupts
from plugwire.testing.peer import PeerConnection, expect_head, expect_request, send, wait_for
from plugwire.url import URL
from worlds import World, in_time

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
A, B, C, D, E, F, G = (Route(URL(f"http://{name}.example").origin) for name in "abcdefg")
SHARED = (C, D, F)


class Fake:
    """A connection of so many streams."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.streams = 1
        self.place: Any = None
        self.is_draining = self.is_closed = False
        self.info = ConnectionInfo(next(connection_ids), "fake")

    @property
    def capacity(self) -> int:
        return 0 if self.is_closed else self.limit - self.streams

    @property
    def is_idle(self) -> bool:
        return self.streams == 0

    def close(self) -> None:
        self.is_closed = True
        self.streams = 0

    abort = close


class Sleeper:
    def wake(self) -> None:
        pass


class Full:
    """A pool whose places are all taken, and who holds them: two of a kind, one for the wish and one for the step."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.pool = Pool(Limits(max_connections=10), lambda: 0.0, lambda connection, reason: self.closed.append(reason))
        self.singles = [self.joined(route, 1) for route in (A, A)]
        self.slots: list[Any] = [self.ask(route) for route in (B, B)]
        self.others: list[Any] = [self.ask(route) for route in (E, E)]
        self.shared = [self.joined(route, 4) for route in (C, D)]
        self.shares: list[Any] = [self.pool.share(connection) for connection in self.shared]  # type: ignore[arg-type]
        self.late: Fake | None = self.joined(F, 4)
        self.unexpected: Fake | None = self.joined(G, 4)
        self.tickets: list[Any] = [self.ask(route) for route in (A, B, E, A, B, E)]
        assert all(type(ticket) is Ticket for ticket in self.tickets)
        self.leaving = [self.tickets.pop(), self.tickets.pop(0)]

    def ask(self, route: Route) -> Any:
        return self.pool.ask(route, Sleeper, lambda route: route in SHARED)  # type: ignore[arg-type]

    def joined(self, route: Route, limit: int) -> Fake:
        connection: Any = Fake(limit)
        self.pool.joined(connection, self.ask(route))
        return connection  # type: ignore[no-any-return]

    def end(self) -> None:
        """Everybody is done; those who wait get what there is, one after the other."""
        waiting = [ticket for ticket in (*self.tickets, *self.leaving) if ticket.state is not TicketState.GONE]
        self.tickets = self.leaving = []
        self.singles = self.slots = self.others = self.shared = self.shares = []
        self.late = self.unexpected = None
        for _ in range(2 * len(waiting)):
            for ticket in waiting:
                self.pool.hurry(ticket)
            served = [ticket for ticket in waiting if ticket.state is not TicketState.WAITING]
            waiting = [ticket for ticket in waiting if ticket.state is TicketState.WAITING]
            for ticket in served:
                self.pool.leave(ticket)
            del served
            if not waiting:
                break
        assert not waiting, self.pool.stats()
        self.pool.close("the end")
        assert self.pool.stats()[:3] == (0, 0, 0)

    def facts(self) -> Any:
        """How things stand, as far as it does not hang on the order of two things that come at once."""
        granted = [(ticket.state, ticket.slot is not None, ticket.share is not None) for ticket in self.tickets]
        stats = self.pool.stats()
        if self.pool._table.why_closed is None:
            return stats, granted
        return stats.idle, stats.waiting, granted, self.pool._table.why_closed


def comes_back(full: Full, number: int) -> None:
    full.singles[number].streams = 0
    full.pool.changed(full.singles[number])  # type: ignore[arg-type]


def breaks(full: Full, number: int) -> None:
    full.singles[number].close()
    full.pool.changed(full.singles[number])  # type: ignore[arg-type]


def is_empty(full: Full, number: int) -> None:
    full.pool.free(full.slots[number])


def is_lost(full: Full, number: int) -> None:
    full.others[number] = None


def gives_up(full: Full, number: int) -> None:
    full.pool.leave(full.leaving[number])


def ends_a_stream(full: Full, number: int) -> None:
    full.shared[number].streams = 0
    full.pool.end(full.shares[number])


def loses_a_share(full: Full, number: int) -> None:
    full.shared[number].streams = 0
    full.shares[number] = None


def is_dropped(full: Full, number: int) -> None:
    full.pool.close("dropped")


def looks(full: Full, number: int) -> None:
    assert full.pool.stats().open


WISHES = (comes_back, breaks, is_empty, is_lost, gives_up, ends_a_stream, loses_a_share, is_dropped, looks)


def asks(full: Full, number: int) -> None:
    full.pool.leave(full.ask(A))


def learns(full: Full, number: int) -> None:
    full.pool.share(full.late)  # type: ignore[arg-type]


def hurries(full: Full, number: int) -> None:
    full.pool.hurry(full.tickets[0])


STEPS = {
    "ask": asks,
    "give_back": comes_back,
    "free": is_empty,
    "leave": gives_up,
    "settle": ends_a_stream,
    "share": learns,
    "hurry": hurries,
    "sweep": is_lost,
    "clear": is_dropped,
}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wish_inside_of_a_step(step: str, when: str, wish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as if it came right before the step, or right after."""
    if step in ("clear", "sweep") and wish in (is_lost, is_dropped) and when == "before":
        return  # the same thing twice
    inside, apart = Full(), Full()
    original = getattr(Table, step)

    def interrupted(table: Table, *args: Any, **options: Any) -> Any:
        if table is not inside.pool._table or inside.__dict__.pop("is_armed", None) is None:
            return original(table, *args, **options)
        if when == "before":
            wish(inside, 1)
            return original(table, *args, **options)
        try:
            return original(table, *args, **options)
        finally:
            wish(inside, 1)

    monkeypatch.setattr(Table, step, interrupted)
    inside.is_armed = True  # type: ignore[attr-defined]
    in_time(lambda: STEPS[step](inside, 0))
    assert "is_armed" not in inside.__dict__
    assert not inside.pool._table.lost
    STEPS[step](apart, 0)
    wish(apart, 1)
    assert inside.facts() == apart.facts()


def test_a_request_inside_of_a_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Full()
    original = Table.hurry

    def asking(table: Table, *args: Any) -> Any:
        with pytest.raises(Busy, match="finaliser or signal handler"):
            full.ask(A)
        return original(table, *args)

    monkeypatch.setattr(Table, "hurry", asking)
    before = full.facts()
    in_time(lambda: full.pool.hurry(full.tickets[0]))
    assert full.facts() == before


# -- interrupts ----------------------------------------------------------------------------------------------------


def turns_out(limit: int, *, is_expected: bool) -> Callable[[Full, int], None]:
    """The first connection of a route, for which others wait, takes so many streams, expected or not."""

    def step(full: Full, number: int) -> None:
        connection: Any = full.late if is_expected else full.unexpected
        connection.limit, connection.streams = limit, 0
        full.pool.share(connection)

    return step


LEARNING = [turns_out(limit, is_expected=is_expected) for limit in (1, 4) for is_expected in (True, False)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", [*STEPS.values(), *LEARNING])
@pytest.mark.parametrize("closes", [False, True])
def test_an_interrupt_anywhere_in_a_step_leaves_nobody_asleep(step: Any, closes: bool) -> None:
    """Whatever the step had in hand: when the places have come back, everybody who waited has had one, and nothing is
    left; or closing ends. (What strikes in a finaliser itself is swallowed by it, and cannot be made good.)"""
    for number in count(1):
        full = Full()
        full.tickets += [full.ask(route) for route in (F, G) * 3]
        interrupts = Interrupts(number)
        is_swallowed = True
        try:
            interrupts.run(lambda full=full: step(full, 0))  # type: ignore[misc]
        except KeyboardInterrupt:
            is_swallowed = False
        if not interrupts.was_raised or not is_swallowed:
            in_time(full.end if not closes else lambda full=full: full.pool.close("the end"))  # type: ignore[misc]
        if not interrupts.was_raised:
            break
    assert number > 3


@pytest.mark.parametrize("step", [step for step in STEPS.values() if step is not is_lost])
def test_what_another_thread_left_during_a_step_that_is_interrupted_is_done(
    step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found a step under way, and relies on it."""
    full = Full()
    name = next(name for name, each in STEPS.items() if each is step)
    original = getattr(Table, name)

    def interrupted(table: Table, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(Table, name, original)
        full.shared[1].streams = 0
        thread = threading.Thread(target=full.pool.end, args=(full.shares[1],))
        thread.start()
        thread.join(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(Table, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        step(full, 0)
    assert full.shared[1].place is None, "nobody has looked"
    assert not full.pool._table.lost


# -- on the real road ----------------------------------------------------------------------------------------------


def reads_on(connection: PeerConnection) -> None:
    connection.read_end()


class InStep:
    """Does something once, inside of the next step of this name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str, deed: Callable[[], object]) -> None:
        self.is_done = False
        original = getattr(Table, step)

        def stepping(table: Table, *args: Any, **options: Any) -> Any:
            if not self.is_done:
                self.is_done = True
                deed()
            return original(table, *args, **options)

        monkeypatch.setattr(Table, step, stepping)


@pytest.fixture
def by_hand() -> Any:
    """The collector comes when it is called."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_upload_that_nobody_ended_is_collected(by_hand: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedPeer([expect_head(), reads_on], [expect_request(), send(OK)]) as peer, plugwire.Session() as session:
        handle = session.open_request("POST", peer.url)
        handle.begin(100)
        handle.write(b"x")
        cycle = [handle]
        cycle.append(cycle)  # type: ignore[arg-type]
        del handle, cycle
        in_step = InStep(monkeypatch, "ask", gc.collect)
        in_time(lambda: session.get(peer.url))
        assert in_step.is_done
        assert session.stats()[:3] == (1, 1, 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_session_that_nobody_closed_is_collected(
    by_hand: None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its response is read: who reads is served, or told."""
    go_on = threading.Event()
    with ScriptedPeer([expect_request(), send(OK[:-2]), wait_for(go_on), send(OK[-2:])]) as peer:
        session = world.session()
        response = await session.open_request("GET", peer.url).send()
        cycle = [session]
        cycle.append(cycle)
        del session, cycle
        in_step = InStep(monkeypatch, "give_back", gc.collect)
        go_on.set()
        background = world.in_background(response.read)
        outcome = await background.outcome()
        assert in_step.is_done
        assert outcome.value == b"ok" or isinstance(outcome.error, plugwire.Error)
        await response.close()


def test_a_handler_cancels_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    async def keeps(request: Any, call_next: Any, call: Any) -> Any:
        calls.append(call)
        return await call_next(request)

    unread = [expect_request(), send(OK[:-2]), reads_on]
    with ScriptedPeer(unread, [expect_request(), send(OK)]) as peer, plugwire.Session(plugins=[keeps]) as session:
        response = session.open_request("GET", peer.url).send()
        in_step = InStep(monkeypatch, "ask", lambda: calls[0].cancel())
        in_time(lambda: session.get(peer.url))
        assert in_step.is_done
        with pytest.raises(plugwire.Cancelled):
            response.read()
        assert session.stats()[:3] == (1, 1, 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another thread"])
async def test_a_response_is_collected_with_all_that_hangs_on_it(world: World, elsewhere: bool, by_hand: None) -> None:
    """The collector calls the finalisers of all that it finds: the body ends its stream, and its connection would be
    idle; the slot is given up. Places are counted right, and the next request works."""

    def script(h2: Conversation) -> None:
        try:
            for stream, fields in h2.requests():
                h2.headers(stream, [(":status", "200")])
                h2.data(stream, b"begin", end_stream=fields[":path"] != "/dropped")
        except ConnectionError:
            h2.connection.is_closed = True

    with H2Peer(script, repeat=True) as peer:
        async with world.session(http_versions=("h2",), limits=Limits(max_connections=1)) as session:
            response = await session.open_request("GET", f"{peer.url}/dropped").send()
            cycle = [response]
            cycle.append(cycle)
            del response, cycle
            if elsewhere:
                thread = threading.Thread(target=gc.collect)
                thread.start()
                thread.join()
            else:
                gc.collect()
            stats = session.stats()
            assert stats[:3] in ((0, 0, 0), (1, 1, 0))
            for _ in range(2):
                assert (await session.get(peer.url)).content == b"begin"
                assert session.stats()[:3] == (1, 1, 0)
