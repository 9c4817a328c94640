"""Connections that take several requests at once: the pool's decisions as a state machine held against a model, and
the pool at work with a transport whose connections take several requests each."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plugwire import AsyncResponse, ConnectError, Error, Request, SessionClosed, StreamReset
from plugwire.config import Limits
from plugwire.connector import Connector
from plugwire.engine import MAX_REFUSALS
from plugwire.pool import Pool
from plugwire.pool_places import Kind, Share, Slot, Ticket, TicketState
from plugwire.pool_table import COMPANY, is_turn
from plugwire.protocols import (
    EVERYTHING,
    Busy,
    Call,
    Connecting,
    Connection,
    ConnectionInfo,
    Refused,
    connection_ids,
)
from plugwire.route import Route
from plugwire.url import URL
from test_pool_table import check_costs, cost_of
from worlds import PATIENCE, World

A, B = (Route(URL(f"https://{name}.example").origin) for name in "ab")
A2 = Route(A.origin, local_address="192.0.2.1")
ROUTES = [A, A2, B]
SOAK = int(os.environ.get("PLUGWIRE_SOAK", "1"))
EVENTS = [
    *["ask"] * 7, *["dialled"] * 4, "dial failed", "dial lost",
    *["send"] * 5, *["returns"] * 4, *["ends"] * 4, "gives up", "is lost", "all are lost",
    "lease", "lease", "end lease", "send on a lease",
    "peer changes its limit", "peer goes away", "connection breaks", "peer closes an idle one",
    *["collect"] * 4, "leaves", "lost", "leaves the queue", "time", "time",
]  # fmt: skip
"""What happens to the pool, as often as it stands here."""


@pytest.fixture(autouse=True)
def no_company() -> None:
    """Here are tests of who dials beside a slow scout."""


class Fake:
    """A connection that the test opens and ends streams of."""

    def __init__(self, route: Route, limit: int) -> None:
        self.route = route
        self.limit = limit
        self.streams = 0
        self.place: Any = None
        self.is_draining = False
        self.is_closed = False
        self.info = ConnectionInfo(next(connection_ids), "fake")

    @property
    def capacity(self) -> int:
        return 0 if self.is_draining or self.is_closed else max(self.limit - self.streams, 0)

    @property
    def is_idle(self) -> bool:
        return self.streams == 0

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        assert not self.streams, "closed in use"
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True
        self.streams = 0

    def __repr__(self) -> str:
        return f"<{self.info.id}: {self.streams} of {self.limit}>"


class Sleeper:
    """A waiter that counts."""

    def __init__(self) -> None:
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1


class Use:
    """A request on a connection: granted, then its stream is open, then its send has returned; the last two may come in
    either order."""

    def __init__(self, connection: Any, share: Share | None) -> None:
        self.connection = connection
        self.share = share
        self.has_begun = False
        self.has_ended = False


class Machine(RuleBasedStateMachine):
    """All that callers, peers and the collector may do to the pool, one after the other."""

    @initialize(
        total=st.integers(1, 3),
        per_origin=st.none() | st.integers(1, 2),
        idle=st.integers(0, 3),
        idle_timeout=st.none() | st.integers(1, 8),
        lifetime=st.none() | st.integers(1, 12),
        may_share=st.booleans(),
    )
    def begin(
        self,
        total: int,
        per_origin: int | None,
        idle: int,
        idle_timeout: int | None,
        lifetime: int | None,
        may_share: bool,
    ) -> None:
        self.limits = Limits(
            max_connections=total,
            max_connections_per_origin=per_origin,
            max_idle=idle,
            idle_timeout=idle_timeout,
            max_lifetime=lifetime,
        )
        self.may_share = may_share
        self.now = 0.0
        self.step_at = 0.0
        self.pool = Pool(self.limits, lambda: self.now, lambda connection, reason: None)
        self.table = self.pool._table
        self.dialling: list[Slot] = []
        self.uses: list[Use] = []
        self.leases: list[Any] = []
        self.tickets: list[Ticket] = []  # waiting or granted, in the order in which they asked
        self.granted: set[Ticket] = set()
        self.connections: WeakSet[Any] = WeakSet()

    # -- what came of a step

    def look(self) -> None:
        """Check the grants of a step."""
        waiting = [ticket for ticket in self.tickets if ticket.state is TicketState.WAITING]
        for ticket in self.tickets:
            if ticket.state is not TicketState.GRANTED or ticket in self.granted:
                continue
            self.granted.add(ticket)
            assert ticket.waiter.wakes == 1, "granted and not woken"  # type: ignore[attr-defined]
            assert (ticket.slot is None) != (ticket.share is None)
            for older in self.tickets[: self.tickets.index(ticket)]:
                assert older.state is not TicketState.WAITING or older.lane is not ticket.lane, "not FIFO in the lane"
            if ticket.share is not None:
                self.check_share(ticket.share, ticket.lane.route)
                continue
            assert ticket.slot is not None
            assert ticket.slot.lane is ticket.lane
            if ticket.is_fresh and ticket.slot.connection is not None:
                assert ticket.slot.is_shared, "a fresh one was asked for"
            for other in waiting:
                if other.is_in_line and other.number < ticket.number:
                    assert other.lane.route.origin != ticket.lane.route.origin, "not FIFO within the origin"
                    assert self.is_full(other.lane.route), "a younger waiter of another origin was served first"

    def check_share(self, share: Share, route: Route) -> None:
        connection: Any = share.connection
        slot = share.slot
        assert connection.route == route
        assert connection.place is slot
        assert not connection.is_closed
        assert len(slot.granted) <= connection.capacity, "more was granted than the connection takes"
        if self.limits.max_lifetime is not None and len(slot.shares) > 1:
            assert self.step_at < slot.made_at + self.limits.max_lifetime, "older than max_lifetime"

    def is_full(self, route: Route) -> bool:
        most = self.limits.max_connections_per_origin
        places = self.table.origins.get(route.origin)
        return most is not None and places is not None and places.count >= most

    def got(self, place: Slot | Share, route: Route) -> None:
        """What the engine does with what it was granted, up to the next await."""
        if isinstance(place, Share):
            self.uses.append(Use(place.connection, place))
            return
        assert place.lane.route == route
        connection: Any = place.connection
        if connection is None:
            self.dialling.append(place)
            return
        place.connection = None
        assert connection.route == route
        assert connection.is_idle
        if connection.is_closed or connection.is_draining:  # seen by is_fresh
            self.pool.free(place)
        else:
            connection.place = place
            self.use(connection, place)
        self.look()

    def use(self, connection: Any, slot: Slot) -> None:
        share = None
        if slot.is_scout or connection.capacity > 1:
            share = self.pool.share(connection)
            if share is not None:
                self.check_share(share, connection.route)
        self.uses.append(Use(connection, share))
        self.look()

    # -- callers

    # One rule, and one draw for what happens: with a rule for each, of which a run leaves some out, hardly one comes to
    # where many wait, and something happens to what they wait for.

    @rule(
        what=st.sampled_from(EVENTS),
        index=st.integers(0, 9),
        limit=st.integers(0, 4),
        route=st.sampled_from(ROUTES),
        fresh=st.sampled_from([False, False, False, True]),
        seconds=st.sampled_from([COMPANY / 2, COMPANY, 1, 2, 6]),
    )
    def happens(self, what: str, index: int, limit: int, route: Route, fresh: bool, seconds: float) -> None:
        # A finaliser has no clock, and goes by the last question's.
        self.step_at = self.table.latest if "lost" in what else self.now
        match what:
            case "ask":
                self.ask_once(route, fresh)
            case "dialled" if self.dialling:
                self.dialled(index, limit)
            case "dial failed" | "dial lost" if self.dialling:
                self.dial_failed(index, what[5:])
            case "send" if self.of(False):
                self.send(index)
            case "returns" if self.of(True):
                self.send_returns(index)
            case "ends" if self.of(True):
                self.stream_ends(index)
            case "gives up" | "is lost" if self.of(False):
                self.gives_up_before_sending(index, "ended" if what == "gives up" else "lost")
            case "all are lost" if self.uses:
                self.all_users_of_a_connection_are_lost(index)
            case "lease" if self.uses:
                self.lease(index)
            case "end lease" if self.leases:
                self.end_lease(index)
            case "send on a lease" if self.leases:
                self.send_on_a_lease(index)
            case "peer changes its limit":
                self.peer_changes_its_limit(index, limit)
            case "peer goes away":
                self.peer_goes_away(index)
            case "connection breaks":
                self.connection_breaks(index)
            case "peer closes an idle one":
                self.peer_closes_an_idle_one(index)
            case "collect" if self.has(TicketState.GRANTED):
                self.collect(index)
            case "leaves" | "lost" if self.tickets:
                self.cancelled(index, what)
            case "leaves the queue" if self.has(TicketState.WAITING):
                self.leaves_the_queue(index)
            case "time":
                self.step_at += seconds
                self.time_passes(seconds)
            case _:
                pass

    def ask_once(self, route: Route, fresh: bool) -> None:
        is_first = not any(one.state is TicketState.WAITING and one.lane.route == route for one in self.tickets)
        place: Any = self.pool.ask(route, Sleeper, lambda route: self.may_share, fresh=fresh)  # type: ignore[arg-type]
        if isinstance(place, Ticket):
            self.tickets.append(place)
        else:
            assert is_first or not any(
                one.state is TicketState.WAITING and one.lane.route == route for one in self.tickets
            ), "a newcomer overtook a waiter of its lane"
            if isinstance(place, Share):
                self.check_share(place, route)
            elif fresh:
                assert place.connection is None
            self.got(place, route)
        self.look()

    def dialled(self, index: int, limit: int) -> None:
        slot = self.dialling.pop(index % len(self.dialling))
        connection: Any = Fake(slot.lane.route, limit)
        self.connections.add(connection)
        self.pool.joined(connection, slot)
        self.use(connection, slot)

    def dial_failed(self, index: int, how: str) -> None:
        slot = self.dialling.pop(index % len(self.dialling))
        if how == "failed":
            self.pool.free(slot)
        del slot
        self.look()

    def of(self, begun: bool) -> list[Use]:
        return [use for use in self.uses if use.has_begun is begun]

    def send(self, index: int) -> None:
        """The stream begins, or is refused."""
        found = self.of(False)
        use = found[index % len(found)]
        connection = use.connection
        if use.share is not None:
            use.share.begun()
        if connection.capacity >= 1:
            connection.streams += 1
            use.has_begun = True
        else:
            self.uses.remove(use)
            if use.share is None:
                if connection.is_idle:
                    self.retire(connection)
            elif connection.is_idle:
                self.pool.refused(use.share)
            else:
                self.pool.end(use.share)
        self.look()

    def retire(self, connection: Any) -> None:
        slot, connection.place = connection.place, None
        if not connection.is_closed:
            connection.close()
        if slot is not None:
            self.pool.free(slot)

    def send_returns(self, index: int) -> None:
        found = self.of(True)
        use = found[index % len(found)]
        share, use.share = use.share, None
        if share is not None:
            self.pool.end(share)
        if use.has_ended:
            self.uses.remove(use)
        self.look()

    def stream_ends(self, index: int) -> None:
        found = [use for use in self.of(True) if not use.has_ended]
        if not found:
            return
        use = found[index % len(found)]
        use.has_ended = True
        if not use.connection.is_closed:
            use.connection.streams -= 1
        if use.share is None:
            self.uses.remove(use)
        self.pool.changed(use.connection)
        self.look()

    def gives_up_before_sending(self, index: int, how: str) -> None:
        found = self.of(False)
        use = found[index % len(found)]
        self.uses.remove(use)
        if use.share is None:
            self.pool.changed(use.connection)
        elif how == "ended":
            self.pool.end(use.share)
        del use, found
        self.look()

    def all_users_of_a_connection_are_lost(self, index: int) -> None:
        connection = self.uses[index % len(self.uses)].connection
        lost = connection.info.id
        self.uses = [use for use in self.uses if use.connection is not connection]
        self.leases = [one for one in self.leases if one is not connection]
        # Who is lost may leave its share to the next one, which is lost too.
        while held := [one for one in self.tickets if one.share is not None and one.share.connection is connection]:
            self.tickets = [one for one in self.tickets if one not in held]
            self.granted -= set(held)
            held.clear()
        del connection
        assert not any(one.info.id == lost and one.place is not None for one in self.connections)
        self.look()

    def lease(self, index: int) -> None:
        connection = self.uses[index % len(self.uses)].connection
        if connection.place is not None and connection.place.is_shared:
            self.leases.append(connection)
            self.pool.lease(connection, 1)

    def end_lease(self, index: int) -> None:
        connection = self.leases.pop(index % len(self.leases))
        self.pool.lease(connection, -1)
        del connection
        self.look()

    def send_on_a_lease(self, index: int) -> None:
        connection = self.leases[index % len(self.leases)]
        share = self.pool.take(connection)
        if share is not None:
            assert len(share.slot.granted) <= connection.capacity
            self.uses.append(Use(connection, share))

    # -- peers

    def live(self) -> list[Any]:
        return sorted((one for one in self.connections if one.place is not None), key=lambda one: one.info.id)

    def peer_changes_its_limit(self, index: int, limit: int) -> None:
        # What is used alone is looked at by nobody between the grant and the send.
        alone = {use.connection for use in self.of(False) if use.share is None}
        found = [connection for connection in self.live() if connection not in alone]
        if found:
            connection = found[index % len(found)]
            connection.limit = limit
            self.pool.changed(connection)
        found.clear()
        self.look()

    def peer_goes_away(self, index: int) -> None:
        found = self.live()
        if found:
            connection = found[index % len(found)]
            connection.is_draining = True
            self.pool.changed(connection)
        found.clear()
        self.look()

    def connection_breaks(self, index: int) -> None:
        found = self.live()
        if found:
            connection = found[index % len(found)]
            connection.abort()
            connection.close = lambda: None
            self.pool.changed(connection)
            for use in list(self.uses):
                if use.connection is connection and use.has_begun and not use.has_ended:
                    use.has_ended = True
                    if use.share is None:
                        self.uses.remove(use)
        found.clear()
        self.look()

    def peer_closes_an_idle_one(self, index: int) -> None:
        idle = list(self.table.idle)
        if idle:
            slot = idle[index % len(idle)]
            slot.connection.is_draining = True  # type: ignore[union-attr]

    # -- time

    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for ticket in [ticket for ticket in self.tickets if ticket.state is TicketState.WAITING]:
            before = self.scouts_out(ticket.lane)
            self.pool.hurry(ticket)
            assert self.scouts_out(ticket.lane) <= max(before + 1, 1), "all went at once"
            self.look()

    def scouts_out(self, lane: Any) -> int:
        return int(lane.scouts)

    # -- tickets

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
        place = self.pool.collect(ticket)
        assert place is not None
        self.pool.leave(ticket)
        self.got(place, ticket.lane.route)
        self.look()

    def cancelled(self, index: int, how: str) -> None:
        granted = self.has(TicketState.GRANTED)
        if how == "lost" and not granted:
            return
        ticket = self.ticket(index, TicketState.GRANTED if granted else TicketState.WAITING)
        if how == "leaves":
            self.pool.leave(ticket)
            self.pool.leave(ticket)
        del ticket
        self.look()

    def leaves_the_queue(self, index: int) -> None:
        ticket = self.ticket(index, TicketState.WAITING)
        self.pool.leave(ticket)
        assert ticket.waiter.wakes == 0, "woken for nothing"  # type: ignore[attr-defined]
        self.look()

    # -- what must hold

    def slots(self) -> list[Slot]:
        slots = [*self.dialling, *self.table.idle]
        slots += [ticket.slot for ticket in self.tickets if ticket.slot is not None]
        slots += [one.place for one in self.live()]
        return slots

    @invariant()
    def nothing_is_miscounted(self) -> None:
        if not hasattr(self, "table"):
            return
        table = self.table
        slots = self.slots()
        assert len({id(slot) for slot in slots}) == len(slots), "two have the same place"
        waiting = [ticket for ticket in self.tickets if ticket.state is TicketState.WAITING]
        assert not table.lost
        assert table.count == len(slots) <= self.limits.max_connections
        by_origin = Counter(slot.lane.route.origin for slot in slots)
        assert {origin: places.count for origin, places in table.origins.items() if places.count} == by_origin
        if self.limits.max_connections_per_origin is not None:
            assert all(number <= self.limits.max_connections_per_origin for number in by_origin.values())
        assert table.waiting == len(waiting)
        routes = {slot.lane.route for slot in slots} | {ticket.lane.route for ticket in waiting}
        assert set(table.lanes) == routes
        assert set(table.origins) == {route.origin for route in routes}
        assert sum(queued for _, _, queued in self.pool.stats().origins.values()) == len(waiting)
        for lane in table.lanes.values():
            mine = [slot for slot in slots if slot.lane is lane]
            assert lane.scouts == sum(slot.is_scout for slot in mine)
            assert lane.shared == sum(slot.is_shared for slot in mine)
            in_line = [ticket for ticket in waiting if ticket.lane is lane and ticket.is_in_line]
            assert lane.in_line == (len(in_line) if lane.may_queue else 0)
            assert lane.users == len(mine) + sum(ticket.lane is lane for ticket in waiting)
            assert set(lane.open) == {slot.listed for slot in mine if slot.listed}

    @invariant()
    def shares_are_counted(self) -> None:
        if not hasattr(self, "table"):
            return
        shares = [use.share for use in self.uses if use.share is not None]
        shares += [ticket.share for ticket in self.tickets if ticket.share is not None]
        by_slot: Counter[int] = Counter(id(share.slot) for share in shares)
        for connection in self.live():
            slot = connection.place
            assert len(slot.shares) == by_slot[id(slot)]
            assert not slot.is_scout
            if slot.is_shared:
                assert not connection.is_idle or slot.shares or slot.leases, "nobody uses it and it is not idle"
        for slot in self.table.idle:
            assert slot.connection is not None
            assert slot.connection.place is None
            assert slot.connection.is_idle
            assert not (slot.shares or slot.granted or slot.leases or slot.listed)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if not hasattr(self, "table"):
            return
        table = self.table
        for places in table.origins.values():
            numbers = [ticket.number for ticket in places.waiters]
            assert numbers == sorted(numbers)
            if places.waiters:
                assert not places.idle, "an origin with waiters has an idle connection"
                if not self.is_full(next(iter(places.waiters)).lane.route):
                    assert table.count == self.limits.max_connections, "a place is free and a waiter was not served"
                    assert not table.idle, "an idle connection was not closed for a waiter"
        for lane in table.lanes.values():
            mine = [t for t in self.tickets if t.state is TicketState.WAITING and t.lane is lane]
            if not lane.may_queue:
                assert all(ticket.is_in_line for ticket in mine)
                assert not lane.waiting
                continue
            assert list(lane.waiting) == mine
            if not mine:
                continue
            assert not lane.idle
            assert lane.scouts or lane.in_line, "nobody is on the way for who queues"
            if not self.is_held_back(lane, mine[0].number):
                for connection in self.live():
                    slot = connection.place
                    is_old = (
                        self.limits.max_lifetime is not None and self.now >= slot.made_at + self.limits.max_lifetime
                    )
                    if slot.lane is lane and slot.is_shared and not is_old:
                        assert connection.capacity <= len(slot.granted), "there is room, and one waits for it"

    def is_held_back(self, lane: Any, number: int) -> bool:
        """Somebody older from elsewhere needs the place of the lane's connections, and it is its turn."""
        for other in self.tickets:
            if other.state is TicketState.WAITING and other.is_in_line and other.lane is not lane:
                in_the_way = other.lane.places is lane.places or not self.is_full(other.lane.route)
                # A finaliser has no clock, and goes by the last question's: `hurry` comes to it a moment later.
                turns = [is_turn(moment - other.since) for moment in (self.now, self.table.latest)]
                if in_the_way and other.number < number and any(turns):
                    return True
        return False

    def teardown(self) -> None:
        """The session is closed: everybody is woken, nothing that comes back stays open."""
        if not hasattr(self, "table"):
            return
        waiting = [ticket for ticket in self.tickets if ticket.state is TicketState.WAITING]
        for connection in self.connections:
            connection.close = lambda: None
        self.pool.close("over")
        assert all(ticket.waiter.wakes for ticket in waiting)  # type: ignore[attr-defined]
        assert all(ticket.state is TicketState.GONE for ticket in waiting)
        for ticket in self.tickets:
            self.pool.leave(ticket)
        self.tickets.clear()
        self.granted.clear()
        while self.dialling:
            self.pool.free(self.dialling.pop())
        for use in self.uses:
            if use.share is not None:
                self.pool.end(use.share)
            self.pool.changed(use.connection)
        self.uses.clear()
        while self.leases:
            self.pool.lease(self.leases.pop(), -1)
        gc.collect()
        assert self.table.count == 0
        assert not (self.table.idle or self.table.lanes or self.table.origins or self.table.lost)


TestSharing = Machine.TestCase


@pytest.mark.parametrize("seed", range(8 * SOAK))
def test_a_long_way_at_random(seed: int) -> None:
    """The same machine, on longer ways than hypothesis takes: it tells what breaks, not how to get there shortly."""
    chance = random.Random(seed)
    for _ in range(4):
        machine = Machine()
        machine.begin(
            total=chance.randint(1, 3),
            per_origin=chance.choice([None, 1, 2]),
            idle=chance.randint(0, 3),
            idle_timeout=chance.choice([None, 3, 8]),
            lifetime=chance.choice([None, 5, 12]),
            may_share=chance.random() < 0.8,
        )
        for _ in range(250):
            machine.happens(
                what=chance.choice(EVENTS),
                index=chance.randint(0, 9),
                limit=chance.randint(0, 4),
                route=chance.choice(ROUTES),
                fresh=chance.random() < 0.2,
                seconds=chance.choice([COMPANY / 2, COMPANY, 1, 2, 6]),
            )
            machine.nothing_is_miscounted()
            machine.shares_are_counted()
            machine.nobody_is_forgotten()
        machine.teardown()


# A step with real connections behind it takes long: a longer look is PLUGWIRE_SOAK=50.
TestSharing.settings = settings(max_examples=15 * SOAK, deadline=None)


# -- at work ---------------------------------------------------------------------------------------------------------


class Gate:
    """Whoever comes waits until it is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self.waiters: list[Any] = []

    async def passed(self, call: Call) -> None:
        waiter = call.runtime.waiter()
        self.waiters.append(waiter)
        if not self.is_open:
            with call.waiting(waiter):
                assert await waiter.wait(call.runtime.now() + PATIENCE), "the gate stayed shut"
            call.check()

    def open(self) -> None:
        self.is_open = True
        for waiter in self.waiters:
            waiter.wake()


class MuxConnection(Connection):
    """Takes `limit` requests at once, and answers each when the gate is open."""

    scopes_calls = True

    def __init__(self, mux: Mux, connecting: Connecting) -> None:
        self.mux = mux
        self.limit = mux.limit
        self.streams = 0
        self.capacity = self.limit
        self.is_idle = True
        self.is_draining = self.is_closed = False
        self.info = ConnectionInfo(next(connection_ids), "mux")
        self.changed = connecting.changed
        self.lock = threading.RLock()
        self.failures: list[Error] = []
        self.aborts = 0

    def set(self, streams: int = 0, **values: Any) -> None:
        with self.lock:
            self.streams += streams
            for name, value in values.items():
                setattr(self, name, value)
            self.mux.most = max(self.mux.most, self.streams)
            is_over = self.is_closed or self.is_draining
            self.capacity = 0 if is_over else max(self.limit - self.streams, 0)
            self.is_idle = self.streams == 0
        self.changed(self)

    async def send(self, request: Request, call: Call) -> AsyncResponse:
        with self.lock:
            if self.capacity < 1:
                raise Refused("no capacity")
            self.set(1)
            failure = self.failures.pop(0) if self.failures else None
        self.mux.served.append(request.url.path)
        try:
            if failure is not None:
                raise failure.at("head", request=request, sent=True, connection=self.info)
            await self.mux.gate.passed(call)
            await call.runtime.turn()
        finally:
            self.set(-1)
        self.info = self.info._replace(reused=True)
        return AsyncResponse(200, content=b"ok", request=request, connection=self.info)

    def is_fresh(self) -> bool:
        return not (self.is_closed or self.is_draining)

    def close(self) -> None:
        self.set(is_closed=True)

    def abort(self) -> None:
        self.aborts += 1
        self.set(is_closed=True)


class Mux:
    """A whole transport; its connections take `limit` requests at once."""

    name = "mux"
    honours = frozenset({EVERYTHING})

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.gate, self.door = Gate(), Gate()
        self.opened = 0
        self.most = 0
        self.connections: list[MuxConnection] = []
        self.served: list[str] = []
        self.failures: list[Error] = []

    def refuse(self, route: Route) -> str | None:
        return None

    async def open(self, route: Route, connecting: Connecting) -> MuxConnection:
        self.opened += 1
        await self.door.passed(connecting.call)
        if self.failures:
            raise self.failures.pop(0)
        connection = MuxConnection(self, connecting)
        self.connections.append(connection)
        return connection


URL_A, URL_B = "https://a.example/", "https://b.example/"


@asynccontextmanager
async def shared(world: World, limit: int, *, company: float = inf, **limits: Any) -> AsyncIterator[tuple[Mux, Any]]:
    mux = Mux(limit)
    with patch("plugwire.pool_table.COMPANY", company):
        async with served(world, mux, limits) as session:
            yield mux, session


@asynccontextmanager
async def served(world: World, mux: Mux, limits: dict[str, Any]) -> AsyncIterator[Any]:
    async with world.session(transports=[mux], limits=Limits(**limits)) as session:
        yield session
        stats = session.stats()
        assert stats.open == stats.idle, "a place is lost"
        assert stats.waiting == 0
    assert all(connection.is_closed for connection in mux.connections)


async def begin(world: World, session: Any, number: int, url: str = URL_A) -> list[Any]:
    """So many requests, one after the other, each until it waits."""
    begun = []
    for one in range(number):
        begun.append(world.in_background(session.get, f"{url}{one}"))
        await world.settle()
    return begun


async def test_many_first_requests_dial_one_connection(world: World) -> None:
    async with shared(world, 10) as (mux, session):
        mux.door.is_open = False
        begun = await begin(world, session, 6)
        assert session.stats()[:3] == (1, 0, 5)
        mux.door.open()
        for one in begun:
            assert (await one.result()).content == b"ok"
        assert mux.opened == 1
        assert len({connection.info.id for connection in mux.connections}) == 1


async def test_who_finds_all_full_dials_one_more_at_a_time(world: World) -> None:
    async with shared(world, 3) as (mux, session):
        mux.gate.is_open = False
        begun = await begin(world, session, 7)
        assert mux.opened == 3
        assert [connection.streams for connection in mux.connections] == [3, 3, 1]
        mux.gate.open()
        for one in begun:
            await one.result()
        assert mux.most == 3


async def test_with_the_limits_full_it_is_room_or_a_place_whichever_comes_first(world: World) -> None:
    async with shared(world, 2, max_connections=1) as (mux, session):
        mux.gate.is_open = False
        begun = await begin(world, session, 5)
        assert session.stats()[:3] == (1, 0, 3)
        mux.gate.open()
        for one in begun:
            await one.result()
        assert mux.opened == 1
        assert mux.most == 2
        assert sorted(mux.served) == [f"/{number}" for number in range(5)]


async def test_connections_that_take_one_request_each_let_the_queue_dial_for_itself(world: World) -> None:
    async with shared(world, 1) as (mux, session):
        mux.door.is_open = mux.gate.is_open = False
        begun = await begin(world, session, 4)
        assert mux.opened == 1
        mux.door.open()
        await world.settle()
        assert mux.opened == 4
        mux.gate.open()
        for one in begun:
            await one.result()
        # From now on it is known.
        mux.door.is_open = mux.gate.is_open = False
        for connection in mux.connections:
            connection.is_draining = True
        begun = await begin(world, session, 3)
        assert mux.opened == 7
        mux.door.open()
        mux.gate.open()
        for one in begun:
            await one.result()


async def test_a_failed_scout_has_the_error_for_itself(world: World) -> None:
    async with shared(world, 10) as (mux, session):
        mux.door.is_open = False
        mux.failures = [ConnectError("no way"), ConnectError("nor here")]
        begun = await begin(world, session, 4)
        mux.door.open()
        outcomes = [await one.outcome() for one in begun]
        assert [type(outcome.error) for outcome in outcomes] == [ConnectError, ConnectError, type(None), type(None)]
        assert mux.opened == 3


async def test_a_slow_scout_gets_company(world: World) -> None:
    async with shared(world, 10, company=0) as (mux, session):
        mux.door.is_open = False
        begun = await begin(world, session, 2)
        runtime = world.runtime()
        until = runtime.now() + PATIENCE
        while mux.opened < 2:
            assert runtime.now() < until
            await runtime.sleep(0.01, inf)
        mux.door.open()
        for one in begun:
            await one.result()


async def test_a_cancelled_scout_is_followed_by_the_next(world: World) -> None:
    async with shared(world, 10) as (mux, session):
        mux.door.is_open = False
        begun = await begin(world, session, 3)
        begun[0].cancel()
        assert (await begun[0].outcome()).error is not None
        await world.settle()
        assert mux.opened == 2
        begun[2].cancel()
        assert (await begun[2].outcome()).error is not None
        mux.door.open()
        await begun[1].result()
        assert mux.opened == 2


async def test_closing_the_session_while_a_scout_dials_ends_the_queue(world: World) -> None:
    async with shared(world, 10) as (mux, session):
        mux.door.is_open = False
        begun = await begin(world, session, 4)
        await session.close()
        for one in begun:
            assert isinstance((await one.outcome()).error, SessionClosed)
        assert session.stats()[:3] == (0, 0, 0)
        assert mux.opened == 1


async def test_a_limit_that_falls_and_rises_again(world: World) -> None:
    async with shared(world, 4, max_connections=1) as (mux, session):
        mux.gate.is_open = False
        begun = await begin(world, session, 2)
        connection = mux.connections[0]
        connection.set(limit=1)
        begun += await begin(world, session, 2)
        assert session.stats().waiting == 2
        assert connection.streams == 2
        connection.set(limit=3)
        await world.settle()
        assert connection.streams == 3
        assert session.stats().waiting == 1
        connection.set(limit=4)
        await world.settle()
        assert connection.streams == 4
        mux.gate.open()
        for one in begun:
            await one.result()


async def test_a_place_that_went_away_before_the_send_is_looked_for_anew(world: World) -> None:
    async with shared(world, 4) as (mux, session):
        await session.get(URL_A)
        connection = mux.connections[0]
        is_fresh = connection.is_fresh

        def with_news() -> bool:
            connection.is_fresh = is_fresh  # type: ignore[method-assign]
            connection.set(limit=0)
            return True

        connection.is_fresh = with_news  # type: ignore[method-assign]
        assert (await session.get(URL_A)).content == b"ok"
        assert mux.opened == 2
        assert connection.is_closed


async def test_connections_that_leave_before_the_send_are_nobodys_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that rotates its connections: somebody else has just read that this one goes."""
    leaving = [True] * (MAX_REFUSALS + 2)
    send = MuxConnection.send

    async def refuses(self: MuxConnection, request: Request, call: Call) -> AsyncResponse:
        if leaving:
            leaving.pop()
            self.set(is_draining=True)
        return await send(self, request, call)

    monkeypatch.setattr(MuxConnection, "send", refuses)
    async with shared(world, 4) as (mux, session):
        assert (await session.get(URL_A)).content == b"ok"
        assert mux.opened == MAX_REFUSALS + 3
        assert all(connection.is_closed for connection in mux.connections[:-1])


async def test_a_connection_that_drains_takes_nothing_new_and_is_closed_at_its_end(world: World) -> None:
    async with shared(world, 4) as (mux, session):
        mux.gate.is_open = False
        begun = await begin(world, session, 1)
        mux.connections[0].set(is_draining=True)
        begun += await begin(world, session, 1)
        assert mux.opened == 2
        mux.gate.open()
        for one in begun:
            await one.result()
        assert mux.connections[0].is_closed
        assert session.stats()[:3] == (1, 1, 0)


async def test_cancelling_a_call_leaves_the_connection_to_the_others(world: World) -> None:
    async with shared(world, 4) as (mux, session):
        mux.gate.is_open = False
        first, second = await begin(world, session, 2)
        first.cancel()
        assert (await first.outcome()).error is not None
        mux.gate.open()
        await second.result()
        assert mux.connections[0].aborts == 0
        assert mux.opened == 1


# -- what the peer did nothing with ------------------------------------------------------------------------------------


def unprocessed(number: int) -> list[Error]:
    return [StreamReset("refused", 7).at("head", replayable=True) for _ in range(number)]


async def test_what_the_peer_did_nothing_with_is_sent_again_whatever_the_method(world: World) -> None:
    async with shared(world, 4) as (mux, session):
        await session.get(URL_A)
        mux.connections[0].failures = unprocessed(3)
        response = await session.post(URL_A, content=b"pay")
        assert response.content == b"ok"
        assert len(mux.served) == 5


async def test_but_not_for_ever(world: World) -> None:
    async with shared(world, 4) as (mux, session):
        await session.get(URL_A)
        mux.connections[0].failures = unprocessed(100)
        with pytest.raises(StreamReset) as caught:
            await session.post(URL_A, content=b"pay")
        assert caught.value.replayable
        assert len(mux.served) == 1 + 1 + MAX_REFUSALS


async def test_nor_if_its_content_cannot_be_sent_again(world: World) -> None:
    async with shared(world, 4) as (mux, session):
        await session.get(URL_A)
        mux.connections[0].failures = unprocessed(1)
        with pytest.raises(StreamReset) as caught:
            await session.post(URL_A, content=(piece for piece in [b"once"]))
        assert not caught.value.replayable
        assert len(mux.served) == 2


# -- handles -----------------------------------------------------------------------------------------------------------


async def test_handles_share_a_connection_and_leave_it_to_others(world: World) -> None:
    async with shared(world, 3) as (mux, session):
        one, two = await session.connect(URL_A), await session.connect(URL_A)
        async with one, two:
            assert mux.opened == 1
            assert session.stats()[:2] == (1, 0), "what is leased is not idle"
            for handle in (one, two):
                assert (await handle.open_request("GET", "/").send()).status_code == 200
            await session.get(URL_A)
        assert mux.opened == 1
        assert session.stats()[:2] == (1, 1)


async def test_a_handle_whose_connection_drains_gets_another(world: World) -> None:
    async with shared(world, 3) as (mux, session), await session.connect(URL_A) as handle:
        mux.connections[0].set(is_draining=True)
        assert (await handle.open_request("GET", "/").send()).status_code == 200
        assert mux.opened == 2
        assert mux.connections[0].is_closed


async def test_a_handle_whose_connection_is_full_is_busy(world: World) -> None:
    async with shared(world, 2) as (mux, session), await session.connect(URL_A) as handle:
        mux.gate.is_open = False
        begun = await begin(world, session, 2)
        with pytest.raises(Busy, match="no further request"):
            await handle.open_request("GET", "/").send()
        mux.gate.open()
        for one in begun:
            await one.result()
        assert (await handle.open_request("GET", "/").send()).status_code == 200


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_many_callers_share_few_connections_of_few_streams(world: World, limit: int) -> None:
    callers, each = (16, 25) if world.name == "blocking" else (100, 5)
    async with shared(world, limit, max_connections=3, max_connections_per_origin=2) as (mux, session):

        async def caller(url: str) -> None:
            for _ in range(each):
                assert (await session.get(url)).content == b"ok"

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            await world.gather(*[partial(caller, url) for url in [URL_A, URL_B] * (callers // 2)])
        finally:
            sys.setswitchinterval(interval)
        assert mux.most <= limit
        assert len(mux.served) == callers // 2 * 2 * each


# -- who needs a place, and who only room on a connection --------------------------------------------------------------


def step(pool: Pool, route: Route, **options: Any) -> Any:
    return pool.ask(route, Sleeper, lambda route: True, **options)  # type: ignore[arg-type]


def dialled(pool: Pool, slot: Slot, limit: int) -> tuple[Any, Share]:
    connection: Any = Fake(slot.lane.route, limit)
    pool.joined(connection, slot)
    share = pool.share(connection)
    assert share is not None
    return connection, share


def test_a_busy_connection_does_not_starve_another_origin_nor_stand_still_for_it() -> None:
    now = 0.0
    pool = Pool(Limits(max_connections=1), lambda: now, lambda connection, reason: None)
    connection, share = dialled(pool, step(pool, A), 10)
    of_b = step(pool, B)
    assert type(of_b) is Ticket
    of_a = step(pool, A)
    assert type(of_a) is Ticket, "a younger one kept the connection from becoming idle"
    now = 1.5  # it does not become idle: the others go on
    pool.hurry(of_a)
    assert of_a.state is TicketState.GRANTED
    now = 2.5
    last = step(pool, A)
    assert type(last) is Ticket
    for one in (share, of_a.share):
        pool.end(one)
    assert of_b.state is TicketState.GRANTED
    assert connection.is_closed
    pool.leave(of_b)
    assert last.state is TicketState.GRANTED


def test_a_turn_comes_again_and_lasts_longer_each_time() -> None:
    assert all(is_turn(seconds) for seconds in (0, 0.9, 2, 3.9, 8, 15.9))
    assert not any(is_turn(seconds) for seconds in (1, 1.9, 4, 7.9, 16))


def test_a_share_that_is_lost_comes_back() -> None:
    pool = Pool(Limits(max_connections=1), lambda: 0.0, lambda connection, reason: None)
    connection, share = dialled(pool, step(pool, A), 2)
    other = step(pool, A)
    waiting = step(pool, A)
    assert (type(other), type(waiting)) == (Share, Ticket)
    gc.disable()
    try:
        del other
    finally:
        gc.enable()
    assert waiting.share.connection is connection
    del waiting
    pool.end(share)
    assert pool.stats()[:3] == (1, 1, 0)


def full(pool: Pool) -> tuple[Any, list[Share]]:
    """A connection of two streams, both granted; somebody has seen that it is full, and gone."""
    connection, share = dialled(pool, step(pool, A), 2)
    shares = [share, step(pool, A)]
    pool.leave(step(pool, A))
    assert not connection.place.listed
    return connection, shares


def test_what_is_granted_and_not_begun_keeps_a_connection_from_being_idle() -> None:
    pool = Pool(Limits(max_connections=1), lambda: 0.0, lambda connection, reason: None)
    connection, shares = full(pool)
    shares.pop().begun()  # its thread sleeps just here
    pool.changed(connection)
    assert pool.stats()[:2] == (1, 0)
    assert type(step(pool, B)) is Ticket
    assert not connection.is_closed, "closed under who is about to send"


def test_what_a_handle_holds_is_not_idle() -> None:
    pool = Pool(Limits(max_connections=1), lambda: 0.0, lambda connection, reason: None)
    connection, shares = full(pool)
    pool.lease(connection, 1)
    for share in shares:
        share.end()
    pool.changed(connection)
    assert pool.stats()[:2] == (1, 0)
    pool.lease(connection, -1)
    assert pool.stats()[:2] == (1, 1)


def test_who_was_held_back_goes_on_as_soon_as_the_other_gives_up() -> None:
    pool = Pool(Limits(max_connections=1), lambda: 0.0, lambda connection, reason: None)
    _, share = dialled(pool, step(pool, A), 10)
    of_b, of_a = step(pool, B), step(pool, A)
    assert of_a.state is TicketState.WAITING
    pool.leave(of_b)
    assert of_a.state is TicketState.GRANTED
    pool.leave(of_a)
    pool.end(share)


def test_who_asks_brings_in_who_was_held_back_until_now() -> None:
    now = 0.0
    pool = Pool(Limits(max_connections=1), lambda: now, lambda connection, reason: None)
    _, share = dialled(pool, step(pool, A), 10)
    of_b, of_a = step(pool, B), step(pool, A)
    now = 1.5  # the turn of B's is over
    assert type(step(pool, A)) is Share
    assert of_a.state is TicketState.GRANTED, "overtaken"
    pool.leave(of_b)
    pool.end(share)


def test_a_route_whose_last_shared_connection_is_too_old_is_still_counted() -> None:
    now = 0.0
    pool = Pool(
        Limits(max_connections_per_origin=1, max_lifetime=10, idle_timeout=None),
        lambda: now,
        lambda connection, reason: None,
    )
    connection, share = dialled(pool, step(pool, A), 10)
    pool.end(share)
    now = 20.0
    slot = step(pool, A)
    assert type(slot) is Slot
    assert connection.is_closed
    waiting = step(pool, A)
    assert type(waiting) is Ticket, "the limit of the origin"
    pool.free(slot)
    assert waiting.state is TicketState.GRANTED


def test_who_wants_a_fresh_one_does_not_queue_beside_idle_ones() -> None:
    pool = Pool(Limits(), lambda: 0.0, lambda connection, reason: None)
    _, share = dialled(pool, step(pool, A), 10)
    pool.end(share)
    first, second = step(pool, A, fresh=True), step(pool, A, fresh=True)
    assert (type(first), type(second)) == (Slot, Slot)
    assert pool.stats()[:3] == (3, 1, 0)


@pytest.mark.parametrize(("limits", "expected"), [([3, 1], Kind.SHARED), ([0], Kind.UNKNOWN), ([1], Kind.SINGLE)])
def test_what_the_connections_of_a_route_are_is_learned_once(limits: list[int], expected: Kind) -> None:
    """One that takes nothing tells nothing, and one of many that takes a single request is an exception."""
    pool = Pool(Limits(), lambda: 0.0, lambda connection, reason: None)
    kept: list[Any] = []
    for limit in limits:
        slot = step(pool, A)
        assert type(slot) is Slot
        connection: Any = Fake(A, limit)
        pool.joined(connection, slot)
        kept += [connection, pool.share(connection)]
        connection.streams = limit  # full
    assert kept[0].place.lane.kind is expected


def test_who_queues_for_a_fresh_one_gets_no_used_one() -> None:
    now = 0.0
    pool = Pool(Limits(max_lifetime=10), lambda: now, lambda connection, reason: None)
    slot = step(pool, A)
    used: Any = Fake(A, 1)
    pool.joined(used, slot)  # it has not come out yet that it takes one request at a time
    waiting = step(pool, A, fresh=True)
    assert type(waiting) is Ticket
    now = 5.0
    pool.changed(used)
    assert used.is_closed
    assert waiting.slot.connection is None
    assert waiting.slot.made_at == 5
    pool.leave(waiting)


def test_room_that_comes_while_one_looks_is_not_missed() -> None:
    """Rule 10: the stream ends after the look at the capacity, before the taking off the list."""
    pool = Pool(Limits(max_connections=1), lambda: 0.0, lambda connection, reason: None)
    connection, share = dialled(pool, step(pool, A), 2)
    share.begun()
    connection.streams = 2

    class Ending(Fake):
        @property
        def capacity(self) -> int:
            seen = super().capacity
            if self.streams == 2:
                self.streams = 1
                pool.changed(self)  # type: ignore[arg-type]  # it is in the list, and nobody waits: nothing to do
            return seen

    connection.__class__ = Ending
    assert type(step(pool, A)) is Share


def test_what_a_route_is_outlives_its_lane() -> None:
    pool = Pool(Limits(), lambda: 0.0, lambda connection, reason: None)
    asked: list[Route] = []

    def may_share(route: Route) -> bool:
        asked.append(route)
        return True

    for _ in range(2):
        slot: Any = pool.ask(A, Sleeper, may_share)  # type: ignore[arg-type]
        connection: Any = Fake(A, 1)
        pool.joined(connection, slot)
        assert pool.share(connection) is None
        pool.free(connection.place)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("url", "versions", "transports", "expected"),
    [
        ("http://h/", ("h2", "http/1.1"), [], False),
        ("http://h/", ("h2",), [], True),
        ("https://h/", ("h2", "http/1.1"), [], True),
        ("https://h/", ("http/1.1",), [], False),
        ("http://h/", ("http/1.1",), [Mux(3)], True),
    ],
)
def test_which_routes_may_be_shared(url: str, versions: tuple[str, ...], transports: list[Any], expected: bool) -> None:
    route = Route(URL(url).origin, http_versions=versions)
    assert Connector(transports).may_share(route) is expected


# -- cost --------------------------------------------------------------------------------------------------------------


def shared_steps(size: int) -> dict[str, int]:
    """What each step costs with `size` shared connections, of which one is full, and as many who queue for it."""
    now = 0.0
    costs: dict[str, int] = {}
    pool = Pool(Limits(max_connections=size, max_idle=size), lambda: now, lambda connection, reason: None)
    routes = [Route(URL(f"https://h{number}.example").origin) for number in range(size)]
    kept = [dialled(pool, step(pool, route), 3) for route in routes]
    got: list[Any] = []
    costs["share"] = cost_of(lambda: got.append(step(pool, routes[size // 2])))
    assert type(got[-1]) is Share
    costs["end a share"] = cost_of(lambda: pool.end(got.pop()))
    full, _ = kept[0]
    kept += [(full, step(pool, routes[0])) for _ in range(2)]
    queue = [step(pool, routes[0]) for _ in range(size + 3)]
    assert all(type(one) is Ticket for one in queue)
    costs["queue"] = cost_of(lambda: queue.append(step(pool, routes[0])))
    costs["give up"] = cost_of(lambda: pool.leave(queue.pop(size // 2)))
    costs["look again"] = cost_of(lambda: pool.hurry(queue[size // 2]))
    costs["end a share that others wait for"] = cost_of(lambda: pool.end(kept[0][1]))
    assert queue[0].share is not None
    costs["lose a share that others wait for"] = cost_of(lambda: setattr(queue[0], "share", None))
    assert queue[1].share is not None
    last, share = kept[size - 1]
    costs["become idle"] = cost_of(lambda: pool.end(share))
    assert last.is_closed, "its place was needed for another origin"
    for one in queue:
        pool.leave(one)
    return costs


def test_a_step_costs_the_same_however_many_share_and_queue() -> None:
    check_costs(shared_steps)
