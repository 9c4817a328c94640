"""The pool: who gets which connection, within the limits.

How it works. Every decision is one step of `Table`: synchronous, over plain data, without any I/O, under one
`threading.Lock` in every world. A step returns what is to be done (use this connection, dial in this place, wait; close
these), and `Pool` does it afterwards, outside of the lock. Each step costs the same however many connections and
waiters there are (a heap of origins apart, of which a step touches one path).

Rules that hold; each was found by a failing run without it:

1. A place in the limits is a `Slot` whose only reference is its user's. While a connection is in use, connection ->
   slot; while it is idle, slot -> connection; never both, so there is no cycle. Losing a slot, at any bytecode, gives
   the place back: `__del__` appends to a lock-free deque that the next step sweeps. It tries the lock without waiting
   (the collector may run inside of a step), and every step looks again after unlocking, or everybody waits for ever.
2. A waiter is waiting, granted or gone; it changes under the lock only. What was granted lies in the waiter, which the
   table then forgets: a granted waiter that is lost loses its slot, and rule 1 applies. On any exception a waiter
   passes on what it was granted.
3. In a step, counters change before containers: an interrupt in between then loses an idle connection, never a place.
4. No newcomer overtakes a waiter of its origin. As long as an origin has waiters, it has no idle connection.
5. FIFO within an origin. Between origins that only lack a place in the total: by the age of their oldest waiter; an
   idle or returned connection of another origin is closed for it. Otherwise a busy origin, whose waiters pass each
   other every connection, would starve all others.
6. A route and an origin are known as long as a place or a waiter is theirs, and not longer: with two records of one
   origin, its limit would count twice and its waiters wait where nobody looks. So in a step the new place is counted
   before an old one is given up for it.
7. A connection whose session was closed meanwhile is closed when it comes back.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict, deque
from enum import Enum
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from weakref import WeakValueDictionary, ref

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
    """One route: its idle connections, the newest last; how many places and waiters are its own."""

    __slots__ = ("idle", "places", "route", "users")

    def __init__(self, route: Route, places: OriginPlaces) -> None:
        self.route = route
        self.places = places
        self.users = 0
        self.idle: OrderedDict[Slot, None] = OrderedDict()


class TicketState(Enum):
    """Where a waiter stands."""

    WAITING = "waiting"
    GRANTED = "granted"
    GONE = "gone"


class Ticket:
    """One who waits. What it was granted lies in `slot`: with a connection in it, that is to be used; without, dial.
    Who wants a fresh one is never granted a connection."""

    __slots__ = ("__weakref__", "is_fresh", "lane", "number", "slot", "state", "waiter")

    def __init__(self, lane: Lane, number: int, waiter: Waiter, is_fresh: bool) -> None:
        self.lane = lane
        self.number = number
        self.waiter = waiter
        self.is_fresh = is_fresh
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


NOTHING: Final = Outcome()


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
        self.why_closed: str | None = None
        self.lose: Callable[[Lane], None] = self.lost.append
        self._ready: list[tuple[int, Origin]] = []
        self._numbers = count()
        self._expires_at = inf
        self.latest = 0.0
        """When the last question was asked: the time for a finaliser, which runs where no clock may be had (trio's has
        none outside of its run, or in another thread)."""
        self._closing: list[tuple[Connection, str]] = []
        self._woken: list[Waiter] = []

    # -- steps

    def ask(self, route: Route, now: float, make_waiter: Callable[[], Waiter], *, fresh: bool = False) -> Outcome:
        """Somebody needs a connection for `route`. `fresh`: a new one, for which idle ones make room."""
        self.latest = now
        if now >= self._expires_at:
            self.expire(now)
        lane = self.lanes.get(route) or self._lane(route)
        places = lane.places
        if not places.waiters:
            if lane.idle and not fresh:
                slot = self._newest_idle(lane, now)
                if slot is not None:
                    return self._outcome(slot)
                # All were too old, and closing the last one may have forgotten the route.
                lane = self.lanes.get(route) or self._lane(route)
                places = lane.places
            room = self._room(lane, now)
            if room is not None:
                return self._outcome(room)
        ticket = Ticket(lane, next(self._numbers), make_waiter(), fresh)
        self.waiting += 1
        lane.users += 1
        places.waiters[ticket] = None
        if len(places.waiters) == 1 and self._has_room_in_origin(places):
            self._push(places)
        return self._outcome(None, ticket)

    def give_back(self, slot: Slot, connection: Connection, now: float) -> Outcome:
        """`connection` has no open request any more and may be used again; the slot is its own."""
        slot.connection = connection
        slot.idle_since = now
        if self.why_closed is not None:
            return self._give_up(slot, self.why_closed, now)
        lifetime = self.limits.max_lifetime
        if lifetime is not None and now >= slot.made_at + lifetime:
            return self._give_up(slot, f"older than max_lifetime={lifetime:g} s", now)
        lane = slot.lane
        places = lane.places
        ready = self._oldest_ready() if self._ready else None
        if places.waiters:
            ticket = next(iter(places.waiters))
            if ready is None or next(iter(ready.waiters)).number >= ticket.number:
                if ticket.lane is not lane or ticket.is_fresh:
                    # The oldest waiter of the origin needs this place, but not this connection.
                    what = "a new connection" if ticket.lane is lane else "another route"
                    self._drop(slot, f"its place was needed for {what} to the same origin")
                    slot.made_at = now
                # The waiter's use of its route becomes the place's; the place's own use of the old one ends.
                slot.lane = ticket.lane
                self._grant(ticket, slot)
                self._leave_lane(lane)
                return self._outcome(None)
        if ready is not None:
            return self._give_up(slot, "its place was needed for another origin", now)
        places.idle[slot] = None
        lane.idle[slot] = None
        self.idle[slot] = None
        if len(self.idle) > self.limits.max_idle:
            self._evict(next(iter(self.idle)), f"more than max_idle={self.limits.max_idle}")
        if now >= self._expires_at:
            self.expire(now)
        elif self._expires_at == inf and self.limits.idle_timeout is not None:
            self._expires_at = now + self.limits.idle_timeout
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
            self._forget(ticket)
            places = ticket.lane.places
            if places.waiters and self._has_room_in_origin(places):
                self._push(places)
            self._leave_lane(ticket.lane)
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
        """Close what was idle for too long. The oldest stands first, so a step looks at one more than it closes, and
        need not look at all before `_expires_at`, which is never later than when the oldest expires."""
        timeout = self.limits.idle_timeout
        self._expires_at = inf
        if timeout is None:
            return
        while self.idle:
            slot = next(iter(self.idle))
            if now < slot.idle_since + timeout:
                self._expires_at = slot.idle_since + timeout
                return
            self._evict(slot, f"idle for idle_timeout={timeout:g} s")

    def clear(self, reason: str) -> Outcome:
        """Close every idle connection, wake every waiter: the session ends. What comes back later is closed."""
        self.why_closed = reason
        while self.idle:
            self._evict(next(iter(self.idle)), reason)
        for places in list(self.origins.values()):
            while places.waiters:
                ticket = next(iter(places.waiters))
                self._forget(ticket)
                self._woken.append(ticket.waiter)
                self._leave_lane(ticket.lane)
        self._ready.clear()
        return self._outcome(None)

    # -- the parts of steps

    def _lane(self, route: Route) -> Lane:
        """The record of a route; it stays if the step gives it a user."""
        places = self.origins.get(route.origin)
        if places is None:
            places = self.origins[route.origin] = OriginPlaces(route.origin)
        lane = self.lanes[route] = Lane(route, places)
        return lane

    def _leave_lane(self, lane: Lane) -> None:
        """One user less. What has none is forgotten: a crawler sees many."""
        lane.users -= 1
        if not lane.users:
            self.lanes.pop(lane.route, None)
            places = lane.places
            if not places.count and not places.waiters:
                self.origins.pop(places.origin, None)

    def _has_room_in_origin(self, places: OriginPlaces) -> bool:
        most = self.limits.max_connections_per_origin
        return most is None or places.count < most

    def _newest_idle(self, lane: Lane, now: float) -> Slot | None:
        """The route's connection that was used last, taken out; None if all have lived too long."""
        lifetime = self.limits.max_lifetime
        while lane.idle:
            slot, _ = lane.idle.popitem()
            del lane.places.idle[slot]
            del self.idle[slot]
            if lifetime is None or now < slot.made_at + lifetime:
                return slot
            self._close_idle(slot, f"older than max_lifetime={lifetime:g} s")
        return None

    def _room(self, lane: Lane, now: float) -> Slot | None:
        """A new place, for which the oldest idle connection that is in the way is closed; None if there is none."""
        places = lane.places
        in_the_way: OrderedDict[Slot, None] | None = None
        reason = ""
        if not self._has_room_in_origin(places):
            in_the_way, reason = places.idle, "its place was needed for a new connection to the same origin"
        elif self.count >= self.limits.max_connections:
            in_the_way, reason = self.idle, "its place was needed for another connection"
        if in_the_way is not None and not in_the_way:
            return None
        self.count += 1
        places.count += 1
        lane.users += 1
        if in_the_way is not None:
            self._evict(next(iter(in_the_way)), reason)
        return Slot(lane, now, self.lose)

    def _grant(self, ticket: Ticket, slot: Slot) -> None:
        ticket.slot = slot
        ticket.state = TicketState.GRANTED
        self.waiting -= 1
        places = ticket.lane.places
        del places.waiters[ticket]
        if places.waiters and self._has_room_in_origin(places):
            self._push(places)
        self._woken.append(ticket.waiter)

    def _forget(self, ticket: Ticket) -> None:
        """A waiter is gone before anything was granted to it."""
        ticket.state = TicketState.GONE
        self.waiting -= 1
        del ticket.lane.places.waiters[ticket]

    def _serve(self, now: float) -> None:
        """Give free places to waiters, the oldest first."""
        while self.count < self.limits.max_connections:
            places = self._oldest_ready()
            if places is None:
                return
            ticket = next(iter(places.waiters))
            self.count += 1
            places.count += 1
            heapq.heappop(self._ready)
            self._grant(ticket, Slot(ticket.lane, now, self.lose))

    def _push(self, places: OriginPlaces) -> None:
        """The origin lacks nothing but a place in the total, as far as this step knows."""
        ready = self._ready
        heapq.heappush(ready, (next(iter(places.waiters)).number, places.origin))
        if len(ready) > 4 * len(self.origins) + 64:
            # Waiters that left below an entry that nobody serves. Rare: so many steps apart that each pays for one
            # entry.
            ready[:] = [
                (next(iter(each.waiters)).number, each.origin) for each in self.origins.values() if each.waiters
            ]
            heapq.heapify(ready)

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
            self._push(places)
        self._leave_lane(lane)

    def _evict(self, slot: Slot, reason: str) -> None:
        """Close an idle connection, and take its place back."""
        del self.idle[slot]
        del slot.lane.idle[slot]
        del slot.lane.places.idle[slot]
        self._close_idle(slot, reason)

    def _close_idle(self, slot: Slot, reason: str) -> None:
        """The same, when it was taken out already."""
        self._drop(slot, reason)
        slot.is_counted = False
        self._uncount(slot.lane)

    def _give_up(self, slot: Slot, reason: str, now: float) -> Outcome:
        """Close a connection that just came back, and give its place to whose turn it is."""
        self._drop(slot, reason)
        return self.free(slot, now)

    def _drop(self, slot: Slot, reason: str) -> None:
        connection, slot.connection = slot.connection, None
        if connection is not None:
            self._closing.append((connection, reason))

    def _outcome(self, slot: Slot | None, ticket: Ticket | None = None) -> Outcome:
        if not self._closing and not self._woken:
            return Outcome(slot, ticket) if slot is not None or ticket is not None else NOTHING
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


_of_the_parent: list[Table] = []
"""In the child of a fork: what must not be finalised there."""


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
        self._live: WeakValueDictionary[int, Connection] = WeakValueDictionary()

    # -- the hot road

    def ask(self, route: Route, make_waiter: Callable[[], Waiter], *, fresh: bool = False) -> Slot | Ticket:
        """A slot (use its connection, or dial in it), or a ticket to wait with."""
        with self._lock:
            if self._table.why_closed is not None:
                raise SessionClosed(self._table.why_closed)
            outcome = self._table.ask(route, self._now(), make_waiter, fresh=fresh)
        if outcome.closing or outcome.woken or self._table.lost:
            self._carry_out(outcome)
        return outcome.slot or outcome.ticket  # type: ignore[return-value]  # a step gives one of the two

    def _changed(self, connection: Connection) -> None:
        slot = connection.place
        if slot is None:
            return  # idle, or not in the pool yet, or given up already
        is_over = connection.is_closed or (connection.is_draining and connection.is_idle)
        if not is_over and (slot.is_leased or not connection.is_idle or connection.capacity < 1):
            return
        with self._lock:
            if connection.place is not slot:
                return  # another thread saw the same change
            connection.place = None
            if is_over:
                outcome = self._table.free(slot, self._now())
            else:
                outcome = self._table.give_back(slot, connection, self._now())
        if is_over:
            connection.close()
            self._closed(connection, "closed")
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
        self._look_again()
        return slot

    def leave(self, ticket: Ticket) -> None:
        """A waiter gives up. Called on the way out of every wait; does nothing if the grant was collected."""
        with self._lock:
            outcome = self._table.leave(ticket, self._now())
        self._carry_out(outcome)

    def joined(self, connection: Connection, slot: Slot) -> None:
        """A new connection stands in its slot. Raises `SessionClosed`: too late; the caller closes it."""
        connection.place = slot
        # First known, then the look: `close` does it the other way around.
        self._live[connection.info.id] = connection
        if self._table.why_closed is not None:
            raise SessionClosed(self._table.why_closed)

    def close(self, reason: str) -> None:
        """Close idle connections, wake waiters, abort what is in use. Later questions are refused with the reason."""
        with self._lock:
            outcome = self._table.clear(reason)
        self._carry_out(outcome)
        for connection in list(self._live.values()):
            if not connection.is_closed:
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
            stats = PoolStats(table.count, len(table.idle), table.waiting, origins)
        self._look_again()
        return stats

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
                outcome = self._table.sweep(self._table.latest)

    def _look_again(self) -> None:
        """After a step that decides nothing: slots may have been lost while it held the lock."""
        if self._table.lost:
            self._carry_out(Outcome())

    def _lost(self, lane: Lane) -> None:
        """A slot was lost; runs in a finaliser, perhaps inside of a step of this very thread, so it never waits."""
        self._table.lost.append(lane)
        if self._lock.acquire(blocking=False):
            try:
                outcome = self._table.sweep(self._table.latest)
            finally:
                self._lock.release()
            self._carry_out(outcome)

    def start_anew(self) -> None:
        """In the child of a fork: the connections belong to the parent. They are neither used nor closed here, because
        closing speaks on the parent's connection (TLS: close_notify) or to its event loop; the child keeps its copies
        of the descriptors and leaves them alone. Who holds the lock may be a thread that does not exist any more."""
        self._lock = threading.Lock()
        for connection in list(self._live.values()):
            slot, connection.place = connection.place, None
            if slot is not None:
                slot.is_counted = False
        self._live.clear()
        for slot in self._table.idle:
            slot.is_counted = False
        _of_the_parent.append(self._table)
        reason = self._table.why_closed
        self._table = Table(self._table.limits)
        self._table.lose = _weakly(ref(self), Pool._lost)
        self._table.why_closed = reason

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
