"""The pool: who gets which connection, within the limits.

How it works. Every decision is one step of `Table`: synchronous, over plain data, without any I/O, under one
`threading.Lock` in every world. A step returns what is to be done (use this connection, dial in this place, wait; close
these), and `Pool` does it afterwards, outside of the lock. Each step costs the same however many connections and waiters
there are (a heap of origins apart, of which a step touches one path).

Rules that hold; each was found by a failing run without it:

1. A place in the limits is a `Slot` whose only reference is its user's. While a connection is in use, connection ->
   slot; while it is idle, slot -> connection; never both, so there is no cycle. Losing a slot, at any bytecode, gives
   the place back: `__del__` appends to a lock-free deque that the next step sweeps. It tries the lock without waiting
   (the collector may run inside of a step), and every step looks again after unlocking, or everybody waits for ever.
2. A waiter is waiting, granted or gone; it changes under the lock only. What was granted lies in the waiter, which the
   table then forgets: a granted waiter that is lost loses its slot, and rule 1 applies. On any exception a waiter
   passes on what it was granted.
3. In a step, counters change before containers: an interrupt in between then loses an idle connection and never a place.
4. No newcomer overtakes a waiter of its origin. As long as an origin has waiters, it has no idle connection.
5. FIFO within an origin. Between origins that only lack a place in the total: by the age of their oldest waiter; an idle
   or returned connection of another origin is closed for it.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict, deque
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from weakref import ref

from plugwire.errors import SessionClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.config import Limits
    from plugwire.protocols import Connection, Waiter
    from plugwire.route import Route
    from plugwire.url import Origin

T = TypeVar("T")


class Slot:
    """A place in the limits."""

    __slots__ = ("__weakref__", "_lost", "connection", "idle_since", "is_counted", "is_leased", "lane", "made_at")

    def __init__(self, lane: Lane, made_at: float, lost: Callable[[Lane], None]) -> None:
        self.lane = lane
        self.made_at = made_at
        self.idle_since = 0.0
        self.connection: Connection | None = None
        self.is_counted = True
        self.is_leased = False
        self._lost = lost

    def __del__(self) -> None:
        if self.is_counted:
            self._lost(self.lane)


class OriginPlaces:
    """What counts for one origin: its open connections, its idle ones (oldest first), its waiters (oldest first)."""

    __slots__ = ("count", "idle", "origin", "waiters")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.count = 0
        self.idle: OrderedDict[Slot, None] = OrderedDict()
        self.waiters: OrderedDict[Ticket, None] = OrderedDict()


class Lane:
    """One route: its idle connections, the newest last."""

    __slots__ = ("idle", "places", "route")

    def __init__(self, route: Route, places: OriginPlaces) -> None:
        self.route = route
        self.places = places
        self.idle: OrderedDict[Slot, None] = OrderedDict()


class TicketState(Enum):
    """Where a waiter stands."""

    WAITING = "waiting"
    GRANTED = "granted"
    GONE = "gone"


class Ticket:
    """One who waits. What it was granted lies in `slot`: with a connection in it, that is to be used; without, dial."""

    __slots__ = ("__weakref__", "lane", "number", "slot", "state", "waiter")

    def __init__(self, lane: Lane, number: int, waiter: Waiter) -> None:
        self.lane = lane
        self.number = number
        self.waiter = waiter
        self.state = TicketState.WAITING
        self.slot: Slot | None = None


class Outcome(NamedTuple):
    """What a step decided.

    slot: use its connection if it has one, else dial in it; None: wait with `ticket`. closing: to be closed, with the
    reason. woken: to be woken.
    """

    slot: Slot | None = None
    ticket: Ticket | None = None
    closing: tuple[tuple[Connection, str], ...] = ()
    woken: tuple[Waiter, ...] = ()


class Table:
    """The decisions. Every method is a step: called under the lock, does no I/O. `now` is a point on the runtime's
    clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.lanes: dict[Route, Lane] = {}
        self.origins: dict[Origin, OriginPlaces] = {}
        self.count = 0
        self.idle: OrderedDict[Slot, None] = OrderedDict()
        self.lost: deque[Lane] = deque()
        self.waiting = 0
        self.lose: Callable[[Lane], None] = self.lost.append
        self._ready: list[tuple[int, Origin]] = []
        self._numbers = count()
        self._closing: list[tuple[Connection, str]] = []
        self._woken: list[Waiter] = []

    # -- steps

    def ask(self, route: Route, now: float, make_waiter: Callable[[], Waiter], *, fresh: bool = False) -> Outcome:
        """Somebody needs a connection for `route`. With `fresh` it must be a new one, and idle ones make room for it."""
        lane = self.lanes.get(route) or self._lane(route)
        self.expire(now)
        places = lane.places
        if not places.waiters:
            if lane.idle and not fresh:
                slot, _ = lane.idle.popitem()
                del places.idle[slot]
                del self.idle[slot]
                return self._outcome(slot)
            room = self._room(lane, now)
            if room is not None:
                return self._outcome(room)
        ticket = Ticket(lane, next(self._numbers), make_waiter())
        self.waiting += 1
        places.waiters[ticket] = None
        if len(places.waiters) == 1 and self._has_room_in_origin(places):
            heapq.heappush(self._ready, (ticket.number, places.origin))
        return self._outcome(None, ticket)

    def give_back(self, slot: Slot, connection: Connection, now: float) -> Outcome:
        """`connection` has no open request any more and may be used again; the slot is its own."""
        lane = slot.lane
        places = lane.places
        lifetime = self.limits.max_lifetime
        if lifetime is not None and now >= slot.made_at + lifetime:
            self._closing.append((connection, f"older than max_lifetime={lifetime:g} s"))
            return self.free(slot, now)
        slot.connection = connection
        slot.idle_since = now
        if places.waiters:
            ticket = next(iter(places.waiters))
            if ticket.lane is not lane:
                # The oldest waiter of the origin needs another route: this place, but not this connection.
                self._drop(slot, "its place was needed for another route of the same origin")
                slot.lane = ticket.lane
                slot.made_at = now
            self._grant(ticket, slot)
            return self._outcome(None)
        if self._oldest_ready() is not None:
            self._drop(slot, "its place was needed for another origin")
            return self.free(slot, now)
        places.idle[slot] = None
        lane.idle[slot] = None
        self.idle[slot] = None
        if len(self.idle) > self.limits.max_idle:
            self._evict(next(iter(self.idle)), f"more than max_idle={self.limits.max_idle}", now)
        self.expire(now)
        return self._outcome(None)

    def free(self, slot: Slot, now: float) -> Outcome:
        """The place is empty: its connection is closed, or the dial failed."""
        if slot.is_counted:
            slot.is_counted = False
            self._uncount(slot.lane)
        self._serve(now)
        return self._outcome(None)

    def leave(self, ticket: Ticket, now: float) -> Outcome:
        """A waiter gives up, whatever state it is in; what it was granted is passed on."""
        slot, ticket.slot = ticket.slot, None
        if ticket.state is TicketState.WAITING:
            ticket.state = TicketState.GONE
            self.waiting -= 1
            places = ticket.lane.places
            del places.waiters[ticket]
            if places.waiters and self._has_room_in_origin(places):
                heapq.heappush(self._ready, (next(iter(places.waiters)).number, places.origin))
            self._tidy(ticket.lane)
        elif slot is not None:
            ticket.state = TicketState.GONE
            connection, slot.connection = slot.connection, None
            if connection is not None:
                return self.give_back(slot, connection, now)
            return self.free(slot, now)
        return self._outcome(None)

    def sweep(self, now: float) -> Outcome:
        """Take back the places that were lost."""
        while self.lost:
            self._uncount(self.lost.popleft())
        self._serve(now)
        return self._outcome(None)

    def expire(self, now: float) -> None:
        """Close what was idle for too long. The oldest stands first, so a step looks at one more than it closes."""
        timeout = self.limits.idle_timeout
        if timeout is None:
            return
        while self.idle:
            slot = next(iter(self.idle))
            if now < slot.idle_since + timeout:
                return
            self._evict(slot, f"idle for idle_timeout={timeout:g} s", now)

    def clear(self, reason: str) -> Outcome:
        """Close every idle connection, wake every waiter: the session ends."""
        while self.idle:
            slot = next(iter(self.idle))
            self._take_out(slot)
            self._drop(slot, reason)
            slot.is_counted = False
            self._uncount(slot.lane)
        for places in list(self.origins.values()):
            while places.waiters:
                ticket, _ = places.waiters.popitem(last=False)
                self.waiting -= 1
                ticket.state = TicketState.GONE
                self._woken.append(ticket.waiter)
        self._ready.clear()
        return self._outcome(None)

    # -- the parts of steps

    def _lane(self, route: Route) -> Lane:
        places = self.origins.get(route.origin)
        if places is None:
            places = self.origins[route.origin] = OriginPlaces(route.origin)
        lane = self.lanes[route] = Lane(route, places)
        return lane

    def _has_room_in_origin(self, places: OriginPlaces) -> bool:
        most = self.limits.max_connections_per_origin
        return most is None or places.count < most

    def _room(self, lane: Lane, now: float) -> Slot | None:
        """A new place, for which the oldest idle connection that is in the way is closed; None if there is none."""
        places = lane.places
        if not self._has_room_in_origin(places):
            if not places.idle:
                return None
            self._evict(next(iter(places.idle)), "its place was needed for a new connection to the same origin", now)
        elif self.count >= self.limits.max_connections:
            if not self.idle:
                return None
            self._evict(next(iter(self.idle)), "its place was needed for another origin", now)
        self.count += 1
        places.count += 1
        return Slot(lane, now, self.lose)

    def _grant(self, ticket: Ticket, slot: Slot) -> None:
        ticket.slot = slot
        ticket.state = TicketState.GRANTED
        self.waiting -= 1
        del ticket.lane.places.waiters[ticket]
        self._woken.append(ticket.waiter)

    def _serve(self, now: float) -> None:
        """Give free places to waiters, the oldest first."""
        while self.count < self.limits.max_connections:
            places = self._oldest_ready()
            if places is None:
                return
            ticket = next(iter(places.waiters))
            self.count += 1
            places.count += 1
            self._grant(ticket, Slot(ticket.lane, now, self.lose))
            heapq.heappop(self._ready)
            if places.waiters and self._has_room_in_origin(places):
                heapq.heappush(self._ready, (next(iter(places.waiters)).number, places.origin))

    def _oldest_ready(self) -> OriginPlaces | None:
        """The origin that lacks nothing but a place in the total and has waited longest. Entries of the heap that are
        out of date are dropped here."""
        while self._ready:
            number, origin = self._ready[0]
            places = self.origins.get(origin)
            if places is not None and places.waiters and self._has_room_in_origin(places):
                oldest = next(iter(places.waiters)).number
                if oldest == number:
                    return places
            heapq.heappop(self._ready)
        return None

    def _uncount(self, lane: Lane) -> None:
        places = lane.places
        self.count -= 1
        places.count -= 1
        if places.waiters:
            heapq.heappush(self._ready, (next(iter(places.waiters)).number, places.origin))
        self._tidy(lane)

    def _evict(self, slot: Slot, reason: str, now: float) -> None:
        self._take_out(slot)
        self._drop(slot, reason)
        slot.is_counted = False
        self._uncount(slot.lane)

    def _take_out(self, slot: Slot) -> None:
        del self.idle[slot]
        del slot.lane.idle[slot]
        del slot.lane.places.idle[slot]

    def _drop(self, slot: Slot, reason: str) -> None:
        connection, slot.connection = slot.connection, None
        if connection is not None:
            self._closing.append((connection, reason))

    def _tidy(self, lane: Lane) -> None:
        """Forget a route that nobody uses: a crawler sees many."""
        places = lane.places
        if places.count == 0 and not places.waiters and self.origins.get(places.origin) is places:
            del self.origins[places.origin]
            self.lanes.pop(lane.route, None)
        elif not lane.idle and len(self.lanes) > 4 * len(self.origins) + 64:
            self.lanes.pop(lane.route, None)

    def _outcome(self, slot: Slot | None, ticket: Ticket | None = None) -> Outcome:
        if not self._closing and not self._woken:
            return Outcome(slot, ticket)
        closing, woken = tuple(self._closing), tuple(self._woken)
        self._closing.clear()
        self._woken.clear()
        return Outcome(slot, ticket, closing, woken)


class PoolStats(NamedTuple):
    """`session.stats()`: open connections, how many of them are idle, how many calls wait; by origin (open, idle,
    waiting)."""

    open: int
    idle: int
    waiting: int
    origins: dict[str, tuple[int, int, int]]


class Pool:
    """Carries out what the table decides. The small part with effects: closing, waking."""

    def __init__(self, limits: Limits, now: Callable[[], float], closed: Callable[[Connection, str], object]) -> None:
        self._table = Table(limits)
        self._table.lose = _weakly(ref(self), Pool._lost)
        self.changed: Callable[[Connection], None] = _weakly(ref(self), Pool._changed)
        """Given to connections, to be called when a capacity or a flag has changed."""
        self._lock = threading.Lock()
        self._now = now
        self._closed = closed
        self._live: dict[int, ref[Connection]] = {}
        self._why_closed: str | None = None

    # -- the hot road

    def ask(self, route: Route, make_waiter: Callable[[], Waiter], *, fresh: bool = False) -> Slot | Ticket:
        """A slot (use its connection, or dial in it), or a ticket to wait with."""
        with self._lock:
            if self._why_closed is not None:
                raise SessionClosed(self._why_closed)
            outcome = self._table.ask(route, self._now(), make_waiter, fresh=fresh)
        if outcome.closing or outcome.woken or self._table.lost:
            self._carry_out(outcome)
        return outcome.slot or outcome.ticket  # type: ignore[return-value]  # a step gives one of the two

    def _changed(self, connection: Connection) -> None:
        slot = connection.place
        if slot is None:
            return  # idle, or not in the pool yet, or given up already
        if connection.is_closed or (connection.is_draining and connection.is_idle):
            connection.place = None
            self.free(slot)
            if not connection.is_closed:
                connection.close()
            self._closed(connection, "closed")
        elif connection.is_idle and connection.capacity > 0 and not slot.is_leased:
            connection.place = None
            if self._why_closed is not None:
                connection.place = slot
                connection.close()
                return
            with self._lock:
                outcome = self._table.give_back(slot, connection, self._now())
            if outcome.closing or outcome.woken or self._table.lost:
                self._carry_out(outcome)

    # -- the other roads

    def free(self, slot: Slot) -> None:
        """The place is empty."""
        with self._lock:
            outcome = self._table.free(slot, self._now())
        self._carry_out(outcome)

    def collect(self, ticket: Ticket) -> Slot | None:
        """What a woken waiter was granted; None if nothing (woken by a cancel, or the session was closed)."""
        with self._lock:
            slot, ticket.slot = ticket.slot, None
        return slot

    def leave(self, ticket: Ticket) -> None:
        """A waiter gives up. Called on the way out of every wait; does nothing if the grant was collected."""
        with self._lock:
            outcome = self._table.leave(ticket, self._now())
        self._carry_out(outcome)

    def joined(self, connection: Connection, slot: Slot) -> None:
        """A new connection stands in its slot."""
        connection.place = slot
        self._live[connection.info.id] = ref(connection)
        if self._why_closed is not None:
            connection.close()
            raise SessionClosed(self._why_closed)

    def close(self, reason: str) -> None:
        """Close idle connections, wake waiters, abort what is in use. Later questions are refused with the reason."""
        with self._lock:
            self._why_closed = reason
            outcome = self._table.clear(reason)
        self._carry_out(outcome)
        for reference in list(self._live.values()):
            connection = reference()
            if connection is not None and not connection.is_closed:
                connection.abort()
        self._live.clear()

    def stats(self) -> PoolStats:
        """How things stand."""
        with self._lock:
            table = self._table
            origins = {
                str(origin): (places.count, len(places.idle), len(places.waiters))
                for origin, places in table.origins.items()
            }
            return PoolStats(table.count, len(table.idle), table.waiting, origins)

    def describe(self) -> str:
        """Who holds the connections, for the message of `PoolTimeout`."""
        stats = self.stats()
        held = sorted(stats.origins.items(), key=lambda item: -item[1][0])[:5]
        who = ", ".join(
            f"{origin}: {count} open, {idle} idle, {waiting} waiting" for origin, (count, idle, waiting) in held
        )
        return f"; {stats.open} of {self._table.limits.max_connections} connections are open ({who})"

    def _carry_out(self, outcome: Outcome) -> None:
        while True:
            for waiter in outcome.woken:
                waiter.wake()
            for connection, reason in outcome.closing:
                connection.close()
                self._closed(connection, reason)
            if not self._table.lost:
                return
            with self._lock:
                outcome = self._table.sweep(self._now())

    def _lost(self, lane: Lane) -> None:
        """A slot was lost; runs in a finaliser, perhaps inside of a step of this very thread, so it never waits."""
        self._table.lost.append(lane)
        if self._lock.acquire(blocking=False):
            try:
                outcome = self._table.sweep(self._now())
            finally:
                self._lock.release()
            self._carry_out(outcome)

    def forget(self, connection: Connection) -> None:
        """A connection is gone for good."""
        self._live.pop(connection.info.id, None)


def _weakly(pool: ref[Pool], method: Callable[[Pool, T], None]) -> Callable[[T], None]:
    """A method of the pool for those whom the pool holds: with a plain one, an idle connection would be part of a
    cycle, and a session that is dropped would keep its sockets until the collector comes by."""

    def call(argument: T) -> None:
        found = pool()
        if found is not None:
            method(found, argument)

    return call
