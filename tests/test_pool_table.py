"""The pool's decisions as a pure state machine on a fake clock, held against a model that says only what must hold."""

from __future__ import annotations

import gc
import random
import sys
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plugwire.config import Limits
from plugwire.pool_places import Outcome, Slot, Ticket, TicketState
from plugwire.pool_table import Table
from plugwire.route import Route
from plugwire.url import URL

ORIGINS = [URL(f"http://{name}.example").origin for name in "ab"]
ROUTES = [Route(origin, local_address=address) for origin in ORIGINS for address in (None, "192.0.2.1")]
EVENTS = [
    *["ask"] * 8, *["give back"] * 6, "free", "free twice", "lose",
    "collect", "collect", "leave granted", "lose granted", "leave", "leave twice", "time",
]  # fmt: skip
"""What happens to the table, as often as it stands here."""


class FakeConnection:
    """What the table needs to know of a connection: nothing."""

    numbers = count(1)

    def __init__(self, route: Route) -> None:
        self.route = route
        self.is_closed = False
        self.number = next(self.numbers)

    def __repr__(self) -> str:
        return f"<connection {self.number} to {self.route}>"


class FakeWaiter:
    def __init__(self) -> None:
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1


class User:
    """Somebody with a slot; without a connection it is dialling."""

    def __init__(self, slot: Slot, route: Route, made_at: float) -> None:
        self.slot = slot
        self.route = route
        self.connection: FakeConnection | None = slot.connection  # type: ignore[assignment]
        slot.connection = None


def places_of(table: Table, route: Route) -> int:
    places = table.origins.get(route.origin)
    return places.count if places is not None else 0


class Machine(RuleBasedStateMachine):
    """Everybody who uses the table, and the rules of its theory as invariants."""

    @initialize(
        total=st.integers(1, 3),
        per_origin=st.none() | st.integers(1, 2),
        idle=st.integers(0, 4),
        idle_timeout=st.none() | st.integers(1, 8),
        lifetime=st.none() | st.integers(1, 12),
    )
    def begin(self, total: int, per_origin: int | None, idle: int, idle_timeout: int | None, lifetime: int | None):  # type: ignore[no-untyped-def]
        self.limits = Limits(
            max_connections=total,
            max_connections_per_origin=per_origin,
            max_idle=idle,
            idle_timeout=idle_timeout,
            max_lifetime=lifetime,
        )
        self.table = Table(self.limits)
        self.now = 0.0
        self.users: list[User] = []
        self.tickets: list[Ticket] = []  # waiting or granted, in the order in which they asked
        self.granted: set[Ticket] = set()
        self.idle_since: dict[FakeConnection, float] = {}
        self.made_at: dict[FakeConnection, float] = {}
        self.closed: list[Any] = []

    # -- what everybody does with an outcome

    def carry_out(self, outcome: Outcome) -> None:
        for connection, reason in outcome.closing:
            assert reason
            assert not connection.is_closed, "closed twice"
            connection.is_closed = True  # type: ignore[misc]
            self.idle_since.pop(connection, None)  # type: ignore[call-overload]
            assert all(user.connection is not connection for user in self.users), "closed what is in use"
        self.note_grants()

    def note_grants(self) -> None:
        new = [ticket for ticket in self.tickets if ticket.state is TicketState.GRANTED and ticket not in self.granted]
        for ticket in new:
            self.granted.add(ticket)
            assert ticket.waiter.wakes == 1, "granted and not woken"  # type: ignore[attr-defined]
            assert ticket.slot is not None
            assert ticket.slot.lane.route == ticket.lane.route
            if ticket.is_fresh:
                assert ticket.slot.connection is None, "a fresh one was asked for"
            if ticket.slot.connection is not None:
                self.check_usable(ticket.slot.connection, ticket.lane.route)
                self.idle_since.pop(ticket.slot.connection, None)  # type: ignore[call-overload]
            # Nobody who waits longer was passed over, except where the limit of its own origin holds it back.
            for other in self.tickets:
                if other.state is TicketState.WAITING and other.number < ticket.number:
                    assert other.lane.route.origin != ticket.lane.route.origin, "not FIFO within the origin"
                    assert self.is_full(other.lane.route), "a younger waiter of another origin was served first"

    def is_full(self, route: Route) -> bool:
        most = self.limits.max_connections_per_origin
        return most is not None and places_of(self.table, route) >= most

    def check_usable(self, connection: Any, route: Route) -> None:
        assert not connection.is_closed, "a closed connection was handed out"
        assert connection.route == route, "a connection of another route was handed out"
        if self.limits.max_lifetime is not None:
            assert self.now < self.made_at[connection] + self.limits.max_lifetime, "older than max_lifetime"
        since = self.idle_since.get(connection)
        if since is not None and self.limits.idle_timeout is not None:
            assert self.now < since + self.limits.idle_timeout, "idle for longer than idle_timeout"

    def sweep(self) -> None:
        """What `Pool` does when a finaliser told it of a lost slot."""
        self.carry_out(self.table.sweep(self.now))

    # -- what may happen

    # One rule, and one draw for what happens: with a rule for each, of which a run leaves some out, hardly one comes to
    # where somebody waits and a connection comes back.

    @rule(
        what=st.sampled_from(EVENTS),
        index=st.integers(0, 9),
        route=st.sampled_from(ROUTES),
        fresh=st.sampled_from([False, False, False, True]),
        seconds=st.integers(1, 6),
    )
    def happens(self, what: str, index: int, route: Route, fresh: bool, seconds: int) -> None:
        match what:
            case "ask":
                self.ask_once(route, fresh)
            case "give back" if self.users:
                self.give_back(index)
            case "free" | "free twice" if self.users:
                self.free(index, what == "free twice")
            case "lose" if self.users:
                self.lose(index)
            case "collect" if self.has(TicketState.GRANTED):
                self.collect(index)
            case "leave granted" if self.has(TicketState.GRANTED):
                self.leave_granted(index)
            case "lose granted" if self.has(TicketState.GRANTED):
                self.lose_granted(index)
            case "leave" | "leave twice" if self.has(TicketState.WAITING):
                self.leave(index, what == "leave twice")
            case "time":
                self.now += seconds
            case _:
                pass

    def ask_once(self, route: Route, fresh: bool) -> None:
        is_first = not any(
            one.state is TicketState.WAITING and one.lane.route.origin == route.origin for one in self.tickets
        )
        outcome = self.table.ask(route, self.now, FakeWaiter, fresh=fresh)  # type: ignore[arg-type]
        assert (outcome.slot is None) != (outcome.ticket is None)
        if outcome.slot is not None:
            assert is_first, "a newcomer overtook a waiter"
            assert outcome.slot.lane.route == route
            connection: Any = outcome.slot.connection
            if connection is not None:
                assert not fresh
                self.check_usable(connection, route)
                del self.idle_since[connection]
            self.users.append(User(outcome.slot, route, self.now))
        else:
            assert outcome.ticket is not None
            self.tickets.append(outcome.ticket)
        self.carry_out(outcome)

    def user(self, index: int) -> User:
        return self.users.pop(index % len(self.users))

    def give_back(self, index: int) -> None:
        user = self.user(index)
        connection = user.connection
        if connection is None:
            connection = FakeConnection(user.route)
            self.made_at[connection] = user.slot.made_at
        self.idle_since[connection] = self.now
        self.carry_out(self.table.give_back(user.slot, connection, self.now))  # type: ignore[arg-type]

    def free(self, index: int, again: bool) -> None:
        user = self.user(index)
        for _ in range(1 + again):  # a second time does nothing
            self.carry_out(self.table.free(user.slot, self.now))

    def lose(self, index: int) -> None:
        self.user(index)
        assert len(self.table.lost) == 1
        self.sweep()

    def ticket(self, index: int, state: TicketState) -> Ticket:
        found = [ticket for ticket in self.tickets if ticket.state is state]
        ticket = found[index % len(found)]
        self.tickets.remove(ticket)
        self.granted.discard(ticket)
        return ticket

    def has(self, state: TicketState) -> bool:
        return any(ticket.state is state for ticket in self.tickets)

    def collect(self, index: int) -> None:
        ticket = self.ticket(index, TicketState.GRANTED)
        slot, ticket.slot = ticket.slot, None
        assert slot is not None
        self.users.append(User(slot, ticket.lane.route, self.now))
        self.carry_out(self.table.leave(ticket, self.now))

    def leave_granted(self, index: int) -> None:
        ticket = self.ticket(index, TicketState.GRANTED)
        assert ticket.slot is not None
        if ticket.slot.connection is not None:
            self.idle_since[ticket.slot.connection] = self.now  # type: ignore[index]
        self.carry_out(self.table.leave(ticket, self.now))

    def lose_granted(self, index: int) -> None:
        self.ticket(index, TicketState.GRANTED)
        assert len(self.table.lost) == 1
        self.sweep()

    def leave(self, index: int, again: bool) -> None:
        ticket = self.ticket(index, TicketState.WAITING)
        for _ in range(1 + again):
            self.carry_out(self.table.leave(ticket, self.now))
        assert ticket.waiter.wakes == 0, "woken for nothing"  # type: ignore[attr-defined]

    # -- what must hold

    @invariant()
    def nothing_is_miscounted(self) -> None:
        if not hasattr(self, "table"):
            return
        table = self.table
        granted = [ticket for ticket in self.tickets if ticket.state is TicketState.GRANTED]
        waiting = [ticket for ticket in self.tickets if ticket.state is TicketState.WAITING]
        slots: list[Slot] = [user.slot for user in self.users]
        slots += [ticket.slot for ticket in granted if ticket.slot is not None]
        slots += list(table.idle)
        assert not table.lost
        assert table.count == len(slots) <= self.limits.max_connections
        by_origin = Counter(slot.lane.route.origin for slot in slots)
        assert {origin: places.count for origin, places in table.origins.items() if places.count} == by_origin
        if self.limits.max_connections_per_origin is not None:
            assert all(number <= self.limits.max_connections_per_origin for number in by_origin.values())
        assert table.waiting == len(waiting)
        # Routes and origins that nobody uses are forgotten, the others are not.
        routes = {slot.lane.route for slot in slots} | {ticket.lane.route for ticket in waiting}
        assert set(table.lanes) == routes
        assert set(table.origins) == {route.origin for route in routes}
        for slot in slots:
            assert table.lanes[slot.lane.route] is slot.lane
            assert table.origins[slot.lane.route.origin] is slot.lane.places
        assert len(table._ready) <= 4 * len(ORIGINS) + 64

    @invariant()
    def idle_connections_are_in_order(self) -> None:
        if not hasattr(self, "table"):
            return
        table = self.table
        assert len(table.idle) <= self.limits.max_idle
        for slot in table.idle:
            assert slot.connection is not None
            assert not slot.connection.is_closed
            assert slot in slot.lane.idle
            assert slot in slot.lane.places.idle
        assert sum(len(lane.idle) for lane in table.lanes.values()) == len(table.idle)
        assert sum(len(places.idle) for places in table.origins.values()) == len(table.idle)
        times = [slot.idle_since for slot in table.idle]
        assert times == sorted(times)
        assert {slot.connection for slot in table.idle} == set(self.idle_since)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if not hasattr(self, "table"):
            return
        table = self.table
        for origin, places in table.origins.items():
            expected = [
                one for one in self.tickets if one.state is TicketState.WAITING and one.lane.route.origin == origin
            ]
            assert list(places.waiters) == expected
            if not expected:
                continue
            assert not places.idle, "an origin with waiters has an idle connection"
            if not self.is_full(expected[0].lane.route):
                assert table.count == self.limits.max_connections, "a place is free and a waiter was not served"
                assert not table.idle, "an idle connection was not closed for a waiter"

    def teardown(self) -> None:
        """The session is closed: everybody is woken, nothing that comes back stays open."""
        if not hasattr(self, "table"):
            return
        waiting = [ticket for ticket in self.tickets if ticket.state is TicketState.WAITING]
        outcome = self.table.clear("over")
        assert all(ticket.waiter.wakes == 1 for ticket in waiting)  # type: ignore[attr-defined]
        assert all(ticket.state is TicketState.GONE for ticket in waiting)
        self.tickets = [ticket for ticket in self.tickets if ticket.state is TicketState.GRANTED]
        self.carry_out(outcome)
        while self.tickets:
            self.carry_out(self.table.leave(self.tickets.pop(), self.now))
        while self.users:
            self.give_back(0)
        assert self.table.count == 0
        assert not self.table.idle
        assert not self.table.lanes
        assert not self.table.origins
        assert all(connection.is_closed for connection in self.made_at if connection in self.idle_since)
        assert not self.idle_since


TestTable = Machine.TestCase


@pytest.mark.parametrize("seed", range(10))
def test_a_long_way_at_random(seed: int) -> None:
    """The same machine, on longer ways than hypothesis takes: it tells what breaks, not how to get there shortly."""
    chance = random.Random(seed)
    for _ in range(15):
        machine = Machine()
        machine.begin(
            total=chance.randint(1, 3),
            per_origin=chance.choice([None, 1, 2]),
            idle=chance.randint(0, 3),
            idle_timeout=chance.choice([None, 3, 8]),
            lifetime=chance.choice([None, 5, 12]),
        )
        for _ in range(150):
            machine.happens(
                what=chance.choice(EVENTS),
                index=chance.randint(0, 9),
                route=chance.choice(ROUTES),
                fresh=chance.random() < 0.2,
                seconds=chance.randint(1, 6),
            )
            machine.nothing_is_miscounted()
            machine.idle_connections_are_in_order()
            machine.nobody_is_forgotten()
        machine.teardown()


# -- one test for each rule that the machine holds: they say in words what it would take long to shrink ---------------


A, B = (Route(URL(f"http://{name}.example").origin) for name in "ab")
A2 = Route(A.origin, local_address="192.0.2.1")


def table(**limits: Any) -> Table:
    return Table(Limits(**{"idle_timeout": None, **limits}))


def ask(table: Table, route: Route, now: float = 0, **options: Any) -> Any:
    outcome = table.ask(route, now, FakeWaiter, **options)  # type: ignore[arg-type]
    return outcome.slot or outcome.ticket


def give_back(table: Table, slot: Slot, now: float = 0, connection: Any = None) -> Outcome:
    connection, slot.connection = connection or slot.connection or FakeConnection(slot.lane.route), None
    return table.give_back(slot, connection, now)


def test_the_connection_used_last_is_used_first() -> None:
    pool = table()
    slots = [ask(pool, A) for _ in range(3)]
    for slot in slots:
        give_back(pool, slot)
    assert [ask(pool, A) for _ in range(3)] == slots[::-1]


def test_the_one_that_is_idle_for_longest_makes_room_for_another_origin() -> None:
    pool = table(max_connections=2)
    old, new = ask(pool, A), ask(pool, A2)
    give_back(pool, old, 1)
    give_back(pool, new, 2)
    connection = old.connection
    outcome = pool.ask(B, 3, FakeWaiter)  # type: ignore[arg-type]
    assert outcome.slot is not None
    assert [closed for closed, _ in outcome.closing] == [connection]


def test_a_busy_origin_does_not_starve_another() -> None:
    pool = table(max_connections=1)
    slot = ask(pool, A)
    of_b = ask(pool, B)
    for _ in range(3):
        ask(pool, A)
    outcome = give_back(pool, slot)
    assert of_b.state is TicketState.GRANTED
    assert len(outcome.closing) == 1


def test_the_next_waiter_of_an_origin_is_still_known_after_the_first_was_served_directly() -> None:
    pool = table(max_connections=2)
    of_a, of_b = ask(pool, A), ask(pool, B)
    first, second = ask(pool, A), ask(pool, A)
    give_back(pool, of_a)
    assert first.state is TicketState.GRANTED
    give_back(pool, of_b)
    assert second.state is TicketState.GRANTED


def test_an_origin_whose_last_idle_connection_has_just_expired_is_still_counted() -> None:
    pool = table(max_connections_per_origin=1, idle_timeout=10)
    give_back(pool, ask(pool, A), 0)
    first = ask(pool, A, 20)
    assert type(first) is Slot
    waiter = ask(pool, A, 20)
    assert type(waiter) is Ticket, "the limit of the origin"
    pool.free(first, 20)
    assert waiter.state is TicketState.GRANTED


def test_another_route_of_the_same_origin_shares_its_limit() -> None:
    pool = table(max_connections_per_origin=1)
    give_back(pool, ask(pool, A))
    slot = ask(pool, A2)
    assert type(slot) is Slot
    assert type(ask(pool, A)) is Ticket
    pool.free(slot, 0)


def test_too_old_a_connection_takes_no_new_request_even_if_it_was_young_when_it_came_back() -> None:
    pool = table(max_lifetime=10)
    slot = ask(pool, A, 0)
    give_back(pool, slot, 9)
    connection = slot.connection
    outcome = pool.ask(A, 11, FakeWaiter)  # type: ignore[arg-type]
    assert outcome.slot is not None
    assert outcome.slot.connection is None
    assert outcome.closing == ((connection, "older than max_lifetime=10 s"),)


def test_a_new_connection_in_an_old_place_is_as_young_as_it_is() -> None:
    for options in ({"fresh": True}, {}):
        pool = table(max_connections=1, max_lifetime=10)
        slot = ask(pool, A, 0)
        ticket = ask(pool, A if options else A2, 1, **options)
        assert len(give_back(pool, slot, 9).closing) == 1
        assert ticket.slot.made_at == 9


def test_of_too_many_idle_ones_the_oldest_is_closed() -> None:
    pool = table(max_idle=2)
    slots = [ask(pool, A) for _ in range(3)]
    closed: list[Any] = []
    connections = []
    for now, slot in enumerate(slots):
        connections.append(FakeConnection(A))
        closed += give_back(pool, slot, now, connections[-1]).closing
    assert closed == [(connections[0], "more than max_idle=2")]


def test_what_was_idle_for_too_long_is_closed_by_any_step() -> None:
    pool = table(idle_timeout=10)
    first, second = ask(pool, A, 0), ask(pool, B, 0)
    give_back(pool, first, 0)
    connection = first.connection
    assert not give_back(pool, second, 9).closing
    again = ask(pool, B, 9.5)
    assert give_back(pool, again, 10).closing == ((connection, "idle for idle_timeout=10 s"),)


def test_who_waits_for_a_fresh_one_gets_no_used_one() -> None:
    pool = table(max_connections=1)
    slot = ask(pool, A)
    ticket = ask(pool, A, fresh=True)
    outcome = give_back(pool, slot)
    assert ticket.state is TicketState.GRANTED
    assert ticket.slot.connection is None
    assert len(outcome.closing) == 1


def test_the_list_of_ready_origins_does_not_grow_with_those_who_gave_up() -> None:
    pool = table(max_connections=1)
    slot = ask(pool, A)
    ask(pool, A)  # the oldest of all, never served
    for _ in range(1000):
        pool.leave(ask(pool, B), 0)
    assert len(pool._ready) < 100
    pool.free(slot, 0)


# -- cost ----------------------------------------------------------------------------------------------------------


def cost_of(function: Any) -> int:
    """How many bytecodes and calls of C functions `function()` makes. Counted, not timed."""
    number = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal number
        frame.f_trace_opcodes = True
        number += event == "opcode"
        return trace

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal number
        number += event == "c_call"

    gc.disable()
    sys._getframe().f_trace_opcodes = True  # for CPython 3.12, as in `Interrupts.run`
    before = sys.gettrace(), sys.getprofile()
    sys.setprofile(profile)
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
        gc.enable()
    return number


SIZES = (10, 1000, 10_000)


def check_costs(steps: Callable[[int], dict[str, int]]) -> None:
    """No step costs more among thousands than among ten."""
    costs = [steps(size) for size in SIZES]
    for name, cost in costs[0].items():
        assert cost > 10
        for size, larger in zip(SIZES[1:], costs[1:], strict=True):
            assert larger[name] <= cost * 1.1 + 10, f"{name}: {cost} operations among 10, {larger[name]} among {size}"


def steps(size: int) -> dict[str, int]:
    """What each step costs with `size` connections in use, idle, and as many who wait, over many origins."""
    routes = [Route(URL(f"http://h{number}.example").origin) for number in range(size)]
    costs: dict[str, int] = {}
    idle = table(max_connections=2 * size, max_idle=2 * size)
    slots = [ask(idle, route) for route in routes]
    for slot in slots:
        give_back(idle, slot, 0)
    taken: list[Any] = []
    costs["take an idle one"] = cost_of(lambda: taken.append(ask(idle, routes[size // 2])))
    connection, taken[0].connection = taken[0].connection, None
    costs["give it back"] = cost_of(lambda: idle.give_back(taken[0], connection, 1))
    full = table(max_connections=size, max_idle=size)
    slots = [ask(full, route) for route in routes]
    tickets = [ask(full, route) for route in routes for _ in range(2)]
    costs["wait"] = cost_of(lambda: tickets.append(ask(full, routes[-1])))
    costs["give up"] = cost_of(lambda: full.leave(tickets.pop(size), 1))
    costs["free, to another origin"] = cost_of(lambda: full.free(slots[-1], 1))
    connection = FakeConnection(routes[1])  # type: ignore[assignment]
    costs["give back, to another origin"] = cost_of(lambda: full.give_back(slots[1], connection, 1))
    costs["wake by who was lost"] = cost_of(lambda: (full.lost.append(slots[2]), full.sweep(2)))
    timed = table(max_connections=size, max_idle=size, idle_timeout=10)
    for number, slot in enumerate([ask(timed, route) for route in routes]):
        give_back(timed, slot, number / size)
    costs["expire the oldest"] = cost_of(lambda: timed.expire(10))
    costs["close the oldest for a new one"] = cost_of(lambda: ask(timed, A, 10))
    return costs


def test_a_step_costs_the_same_however_many_connections_and_waiters_there_are() -> None:
    check_costs(steps)
