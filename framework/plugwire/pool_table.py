"""The decisions of the pool: who gets which connection, within the limits.

How it works. Every decision is one step of `Table`: synchronous, over plain data, without any I/O, under one
`threading.Lock` in every world. A step returns what is to be done (use this connection, dial in this place, wait; close
these), and `pool.Pool` does it afterwards, outside of the lock. Each step costs the same however many connections and
waiters there are (a heap of origins apart, of which a step touches one path).

Rules that hold; each was found by a failing run without it:

1. A place in the limits is a `Slot` whose only reference is its user's. While a connection is in use, connection ->
   slot; while it is idle, slot -> connection; never both, so there is no cycle. Losing a slot, at any bytecode, gives
   the place back: `__del__` appends to a lock-free deque that the next step sweeps. It leaves that to a step that is
   under way (the collector may run inside of one), and after a step everybody looks again, or waits for ever. The
   same holds for all that finalisers and signal handlers want of the pool.
2. A waiter is waiting, granted or gone; it changes under the lock only. What was granted lies in the waiter, which the
   table then forgets: a granted waiter that is lost loses its slot, and rule 1 applies. On any exception a waiter
   passes on what it was granted. It is woken in the step, before it is granted: an interrupt behind the step would
   leave it asleep, with what it waits for in its hands; one in between wakes it for nothing, and it asks anew.
3. In a step, counters change before containers: an interrupt in between then loses an idle connection, never a place.
4. No newcomer overtakes a waiter of its origin. As long as an origin has waiters, it has no idle connection.
5. FIFO within an origin. Between origins that only lack a place in the total: by the age of their oldest waiter; an
   idle or returned connection of another origin is closed for it. Otherwise a busy origin, whose waiters pass each
   other every connection, would starve all others.
6. A route and an origin are known as long as a place or a waiter is theirs, and not longer: with two records of one
   origin, its limit would count twice and its waiters wait where nobody looks. So in a step the new place is counted
   before an old one is given up for it.
7. A connection whose session was closed meanwhile is closed when it comes back.

Connections that take several requests at once (HTTP/2) are *shared*. What they add:

8. The pool grants places on a shared connection as `Share`s, at most as many as `capacity` less those that were granted
   and not begun. A share that is lost comes back as a slot does. From the grant until `send` has returned, the share
   keeps its connection from being called idle: between a grant and the stream's begin another thread could otherwise
   give the connection back, and the next step close it under the request.
9. The pool knows a shared connection weakly as long as it is in use: its users hold it, it holds its slot (rule 1).
10. `capacity` changes outside of the lock. Who finds a connection full takes it from the list first and looks at its
   capacity once more afterwards; who raises a capacity calls `changed` afterwards, which looks at the list without the
   lock and goes on only if the connection is not in it, or somebody waits. So one of the two sees the other; with a
   look before the taking out only, a place that comes free in between is seen by neither, and its waiter sleeps on.
11. As long as it is not known that a route's connections take one request each, or when it is known that they take
   several, one dials at a time (the scout, a slot with `is_scout`; an idle connection whose freshness is being looked
   at counts as one), and the others queue in their lane: without this, a hundred first requests would dial a hundred
   connections, of which one is needed. A queue has a scout on its way, or somebody in the line for places, or it would
   wait for ever. Only who is in that line holds up other routes of the origin.
12. Rule 5 holds for shared connections too: while somebody else waits for a place, who is younger is not put on a
   connection whose place would do (else it would never be idle). But not for ever: see `is_turn`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from itertools import count
from math import frexp, inf
from typing import TYPE_CHECKING, Final
from weakref import ref

from plugwire.pool_places import NOTHING, Kind, Lane, OriginPlaces, Outcome, Share, Slot, Ticket, TicketState

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.config import Limits
    from plugwire.protocols import Connection, Waiter
    from plugwire.route import Route
    from plugwire.url import Origin

COMPANY: Final = 0.25
"""Seconds after which a scout that is still dialling gets company: one more, each time."""

LOST: Final = "its user was lost"
"""Why a connection is closed that a finaliser gave back when the collector had found both it and its slot. It calls the
finalisers of all that it finds, in any order, and each only once, also if one of them brings the rest back to life: the
slot is given up already, or nobody would notice when it is lost again."""

REMEMBERED: Final = 1000
"""Routes of which the pool remembers whether their connections are shared, the last used ones."""


class UnknownRoute(Exception):
    """Asked for a route of which the table knows nothing yet, without saying whether it may be shared."""


def is_turn(waited: float) -> bool:
    """Whether who has waited so many seconds for a place holds back those who are younger from shared connections that
    take its place (rule 12): in the first second, not in the next, then for two seconds, not for four, and so on.

    With streams that end, one of these spans is long enough for a connection to become idle, so nobody starves. With
    one that never ends (server-sent events), its connection never becomes idle; then the others do not stand still
    for longer than the waiter had waited before.
    """
    return waited < 1 or frexp(waited)[1] % 2 == 0


class Table:
    """The decisions. Every method is a step: called under the lock, does no I/O. `now` is a point on the runtime's
    clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.lanes: dict[Route, Lane] = {}
        self.origins: dict[Origin, OriginPlaces] = {}
        self.count = 0
        self.idle: OrderedDict[Slot, None] = OrderedDict()
        self.lost: deque[Slot | Connection | Ticket | str] = deque()
        """What finalisers and signal handlers leave, who may run inside of a step: slots that were lost or are empty,
        connections that have changed or of which a share was lost, waiters that give up, why the pool is closed."""
        self.waiting = 0
        self.why_closed: str | None = None
        self.lose: Callable[[Slot | Connection], None] = self.lost.append
        self.kinds: OrderedDict[Route, Kind] = OrderedDict()
        self._ready: list[tuple[int, Origin]] = []
        self._numbers = count()
        self._expires_at = inf
        self.latest = 0.0
        """When the last question was asked: the time for a finaliser, which runs where no clock may be had (trio's has
        none outside of its run, or in another thread)."""
        self._closing: list[tuple[Connection, str]] = []
        self._yielding: dict[Lane, None] = {}
        """Lanes that hold back who queues (rule 12), as far as steps have seen it."""
        self._has_line_moved = False

    # -- steps

    def ask(
        self,
        route: Route,
        now: float,
        make_waiter: Callable[[], Waiter],
        *,
        fresh: bool = False,
        may_share: bool | None = False,
    ) -> Outcome:
        """Somebody needs a connection for `route`.

        Args:
            fresh: a new one, for which idle ones make room; a shared one in use will do, too.
            may_share: whether its connections may turn out to be shared; looked at when nothing is known of the route.
                None: raise `UnknownRoute` then.
        """
        self.latest = now
        if now >= self._expires_at:
            self.expire(now)
        lane = self.lanes.get(route) or self._lane(route, may_share)
        if lane.may_queue:
            return self._ask_for_share(lane, now, make_waiter, fresh)
        places = lane.places
        if not places.waiters:
            if lane.idle and not fresh:
                slot = self._newest_idle(lane, now)
                if slot is not None:
                    if not self._closing:
                        return Outcome(slot)
                    return self._outcome(slot)
                # All were too old, and closing the last one may have forgotten the route.
                lane = self.lanes.get(route) or self._lane(route, False)
                places = lane.places
            room = self._room(lane, now)
            if room is not None:
                return self._outcome(room)
        ticket = Ticket(lane, next(self._numbers), make_waiter(), fresh)
        self.waiting += 1
        lane.users += 1
        self._stand_in_line(ticket, now)
        return self._outcome(None, ticket)

    def _ask_for_share(self, lane: Lane, now: float, make_waiter: Callable[[], Waiter], fresh: bool) -> Outcome:
        """The same, where requests may share a connection."""
        route = lane.route
        if lane.waiting:
            self._serve_lane(lane, now)
            self._go_on(now)
        if not lane.waiting:
            found = self._open_with_room(lane, now) if lane.open and not self._yields(lane, inf, now) else None
            if found is not None:
                return self._outcome(None, None, Share(*found, self.lose))
            if not lane.places.waiters:
                if lane.idle and not fresh:
                    slot = self._newest_idle(lane, now)
                    if slot is not None:
                        self._scout(slot, now)
                        return self._outcome(slot)
                    lane = self.lanes.get(route) or self._lane(route, True)
                # Who wants a fresh one and leaves idle ones alone does not queue beside them (rule 4).
                if not lane.scouts or lane.idle:
                    slot = self._room(lane, now)
                    if slot is not None:
                        self._scout(slot, now)
                        return self._outcome(slot)
        ticket = Ticket(lane, next(self._numbers), make_waiter(), fresh)
        self.waiting += 1
        lane.users += 1
        lane.waiting[ticket] = None
        self._promote(lane, now)
        return self._outcome(None, ticket)

    def share(self, connection: Connection, now: float) -> Outcome:
        """A connection was dialled, or proved fresh, and stands in its place; the caller is about to use it. What comes
        of its scout is known now: a share for the caller, or none if it takes one request at a time."""
        slot: Slot | None = connection.place
        if slot is None:
            return self._outcome(None)  # it was closed just now
        lane = slot.lane
        self._end_scouting(slot)
        share: Share | None = None
        if connection.capacity < 1:
            pass  # it says so itself, to who uses it; of its kind that tells nothing
        elif slot.is_shared or connection.capacity > 1:
            if not slot.is_shared:
                slot.is_shared = True
                lane.shared += 1
            if lane.kind is not Kind.SHARED:
                self._shared(lane)
            share = Share(connection, slot, self.lose)
            self._list(slot, connection)
        elif lane.may_queue and not lane.shared:
            self._single(lane, now)
        self._serve_lane(lane, now)
        self.serve(now)
        return self._outcome(None, None, share)

    def take(self, connection: Connection) -> Share | None:
        """A share of this very connection, if it has room."""
        slot: Slot | None = connection.place
        if slot is None or not slot.is_shared or connection.capacity <= len(slot.granted):
            return None
        return Share(connection, slot, self.lose)

    def settle(self, connection: Connection, now: float) -> Outcome:
        """The capacity or a flag of a shared connection has changed, or a share of it has ended."""
        self._settle(connection, now)
        self.serve(now)
        return self._outcome(None)

    def refused(self, connection: Connection, now: float) -> Outcome:
        """The same, and it took no request; if nobody else uses it, it is good for nothing."""
        self._settle(connection, now, refused=True)
        self.serve(now)
        return self._outcome(None)

    def come_back(self, connection: Connection, now: float) -> Outcome:
        """A connection that takes one request at a time is closed, or has no open request any more."""
        slot: Slot | None = connection.place
        if slot is None:
            return NOTHING  # another thread saw the same change
        connection.place = None
        if connection.is_closed or connection.is_draining:
            self._closing.append((connection, "closed"))
            return self.free(slot, now)
        return self.give_back(slot, connection, now)

    def hurry(self, ticket: Ticket, now: float) -> Outcome:
        """One who queues looks whether there is something new that only time has brought: the end of somebody else's
        turn, or a scout that takes long."""
        lane = ticket.lane
        if ticket.state is TicketState.WAITING and lane.may_queue:
            self._serve_lane(lane, now)
            if lane.scouts and not lane.in_line and now >= lane.scouted_at + COMPANY:
                self._promote(lane, now, company=True)
            self._go_on(now)
        return self._outcome(None)

    def give_back(self, slot: Slot, connection: Connection, now: float) -> Outcome:
        """`connection` has no open request any more and may be used again; the slot is its own."""
        slot.connection = connection
        slot.idle_since = now
        if not slot.is_counted:
            self._drop(slot, LOST)
            return self._outcome(None)
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
                self._grant(ticket, slot, now)
                self._leave_lane(lane)
                self._go_on(now)
                return self._outcome(None)
        if ready is not None:
            return self._give_up(slot, "its place was needed for another origin", now)
        if lane.waiting:
            # Who queues behind a scout is glad of any other.
            ticket = next(iter(lane.waiting))
            if ticket.is_fresh and not slot.is_shared:
                self._drop(slot, "its place was needed for a new connection to the same origin")
                slot.made_at = now
            self._grant(ticket, slot, now)
            self._leave_lane(lane)
            return self._outcome(None)
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
        self._end_place(slot, now)
        self.serve(now)
        return self._outcome(None)

    def leave(self, ticket: Ticket, now: float) -> Outcome:
        """A waiter gives up, whatever state it is in; what it was granted is passed on."""
        slot, ticket.slot = ticket.slot, None
        share, ticket.share = ticket.share, None
        lane = ticket.lane
        if ticket.state is TicketState.WAITING:
            self._forget(ticket)
            places = lane.places
            if places.waiters and self._has_room_in_origin(places):
                self._push(places)
            if lane.waiting:
                self._promote(lane, now)
            self._leave_lane(lane)
            self._go_on(now)
        elif slot is not None:
            ticket.state = TicketState.GONE
            connection, slot.connection = slot.connection, None
            if connection is not None:
                self._end_scouting(slot)
                return self.give_back(slot, connection, now)
            return self.free(slot, now)
        elif share is not None:
            ticket.state = TicketState.GONE
            share.end()
            return self.settle(share.connection, now)
        return self._outcome(None)

    def sweep(self, now: float) -> Outcome:
        """Take back what was lost."""
        self.take_back(now)
        return self._outcome(None)

    def take_back(self, now: float) -> None:
        """The same, as a part of a step; what is to be closed is told by the next one."""
        while self.lost:
            lost = self.lost.popleft()
            if isinstance(lost, Slot):
                if lost.connection is not None:
                    for idle in (lost.lane.idle, lost.lane.places.idle, self.idle):
                        idle.pop(lost, None)
                    self._drop(lost, LOST)
                self._end_place(lost, now)
            elif isinstance(lost, Ticket):
                self._closing.extend(self.leave(lost, now).closing)
            elif isinstance(lost, str):
                self._closing.extend(self.clear(lost).closing)
            else:
                self._settle(lost, now)
        self.serve(now)

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
                self._dismiss(next(iter(places.waiters)))
        for lane in list(self.lanes.values()):
            while lane.waiting:
                self._dismiss(next(iter(lane.waiting)))
        self._ready.clear()
        return self._outcome(None)

    # -- the parts of steps

    def _lane(self, route: Route, may_share: bool | None) -> Lane:
        """The record of a route; it stays if the step gives it a user."""
        kind = self.kinds.get(route)
        if kind is not None:
            self.kinds.move_to_end(route)
        elif may_share is None:
            raise UnknownRoute
        else:
            kind = Kind.UNKNOWN if may_share else Kind.SINGLE
        places = self.origins.get(route.origin)
        if places is None:
            places = self.origins[route.origin] = OriginPlaces(route.origin)
        lane = self.lanes[route] = Lane(route, places, kind)
        return lane

    def _learn(self, lane: Lane, kind: Kind) -> None:
        """What the connections of a route are has come out."""
        lane.kind = kind
        lane.may_queue = kind is not Kind.SINGLE
        self.kinds[lane.route] = kind
        self.kinds.move_to_end(lane.route)
        if len(self.kinds) > REMEMBERED:
            self.kinds.popitem(last=False)

    def _leave_lane(self, lane: Lane) -> None:
        """One user less. What has none is forgotten: a crawler sees many."""
        lane.users -= 1
        if not lane.users:
            self.lanes.pop(lane.route, None)
            self._yielding.pop(lane, None)
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
            # Each may be missing where an interrupt came before; `Table.idle`, the last one, is what `clear` goes by.
            slot, _ = lane.idle.popitem()
            lane.places.idle.pop(slot, None)
            self.idle.pop(slot, None)
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
        slot = Slot(lane, now, self.lose)
        self.count += 1
        places.count += 1
        lane.users += 1
        slot.is_counted = True
        if in_the_way is not None:
            self._evict(next(iter(in_the_way)), reason)
        return slot

    def _stand_in_line(self, ticket: Ticket, now: float) -> None:
        """A waiter needs a place, and will have it when its turn comes."""
        places = ticket.lane.places
        ticket.is_in_line = True
        ticket.since = now
        places.waiters[ticket] = None
        if len(places.waiters) == 1 and self._has_room_in_origin(places):
            self._push(places)

    def _grant(self, ticket: Ticket, slot: Slot, now: float) -> None:
        ticket.waiter.wake()  # first: rule 2
        ticket.slot = slot
        ticket.state = TicketState.GRANTED
        self._stop_waiting(ticket)
        if ticket.lane.may_queue:
            self._scout(slot, now)
        places = ticket.lane.places
        if places.waiters and self._has_room_in_origin(places):
            self._push(places)

    def _grant_share(self, ticket: Ticket, share: Share) -> None:
        ticket.waiter.wake()
        ticket.share = share
        ticket.state = TicketState.GRANTED
        self._stop_waiting(ticket)
        places = ticket.lane.places
        if places.waiters and self._has_room_in_origin(places):
            self._push(places)
        self._leave_lane(ticket.lane)

    def _forget(self, ticket: Ticket) -> None:
        """A waiter is gone before anything was granted to it."""
        ticket.state = TicketState.GONE
        self._stop_waiting(ticket)

    def _dismiss(self, ticket: Ticket) -> None:
        """A waiter is woken with nothing."""
        ticket.waiter.wake()
        self._forget(ticket)
        self._leave_lane(ticket.lane)

    def _stop_waiting(self, ticket: Ticket) -> None:
        """Out of the line, and of the queue."""
        self.waiting -= 1
        lane = ticket.lane
        # Not by what the lane is said to be: an interrupt may have come while that changed.
        is_queued = ticket in lane.waiting
        if ticket.is_in_line:
            ticket.is_in_line = False
            self._has_line_moved = True
            if is_queued:
                lane.in_line -= 1
            del lane.places.waiters[ticket]
        if is_queued:
            del lane.waiting[ticket]

    def serve(self, now: float) -> None:
        """Give free places to waiters, the oldest first."""
        while self.count < self.limits.max_connections:
            places = self._oldest_ready()
            if places is None:
                break
            ticket = next(iter(places.waiters))
            lane = ticket.lane
            slot = Slot(lane, now, self.lose)
            self.count += 1
            places.count += 1
            lane.users += 1
            slot.is_counted = True
            heapq.heappop(self._ready)
            self._grant(ticket, slot, now)
            lane.users -= 1  # the waiter's use of its route has become the place's
        self._go_on(now)

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

    def _end_place(self, slot: Slot, now: float) -> None:
        """The place is empty; only the first time counts."""
        if slot.is_counted:
            slot.is_counted = False
            self._uncount(slot)
            if slot.lane.waiting:
                self._promote(slot.lane, now)

    def _uncount(self, slot: Slot) -> None:
        lane = slot.lane
        places = lane.places
        self.count -= 1
        places.count -= 1
        self._end_scouting(slot)
        if slot.is_shared:
            self._unshare(slot)
        if places.waiters:
            self._push(places)
        self._leave_lane(lane)

    def _evict(self, slot: Slot, reason: str) -> None:
        """Close an idle connection, and take its place back."""
        slot.lane.idle.pop(slot, None)
        slot.lane.places.idle.pop(slot, None)
        self.idle.pop(slot, None)
        self._close_idle(slot, reason)

    def _close_idle(self, slot: Slot, reason: str) -> None:
        """The same, when it was taken out already."""
        self._drop(slot, reason)
        slot.is_counted = False
        self._uncount(slot)

    def _give_up(self, slot: Slot, reason: str, now: float) -> Outcome:
        """Close a connection that just came back, and give its place to whose turn it is."""
        self._drop(slot, reason)
        return self.free(slot, now)

    def _drop(self, slot: Slot, reason: str) -> None:
        connection, slot.connection = slot.connection, None
        if slot.is_shared:
            self._unshare(slot)
        if connection is not None:
            self._closing.append((connection, reason))

    # -- shared connections

    def _yields(self, lane: Lane, number: float, now: float) -> bool:
        """Whether one who would use a shared connection of `lane`, and came as the `number`th, leaves it to somebody
        older, from elsewhere, who needs its place (rule 12)."""
        places = lane.places
        oldest: Ticket | None = None
        if places.waiters:
            oldest = next(iter(places.waiters))
            if oldest.lane is lane or oldest.number > number or not is_turn(now - oldest.since):
                oldest = None
        if oldest is None and self._ready:
            ready = self._oldest_ready()
            if ready is not None and ready is not places:
                oldest = next(iter(ready.waiters))
                if oldest.number > number or not is_turn(now - oldest.since):
                    oldest = None
        if oldest is None:
            return False
        self._yielding[lane] = None
        return True

    def _go_on(self, now: float) -> None:
        """The line has moved: those who were held back for the sake of somebody in it look again. This costs as much as
        there are lanes that hold back, which are few but for pools whose places are all taken."""
        while self._has_line_moved:
            self._has_line_moved = False
            for lane in list(self._yielding):
                self._yielding.pop(lane, None)
                self._serve_lane(lane, now)

    def _open_with_room(self, lane: Lane, now: float) -> tuple[Connection, Slot] | None:
        """A shared connection that takes one more, the newest first; None if there is none. Those that take none are
        taken from the list (rule 10)."""
        lifetime = self.limits.max_lifetime
        while lane.open:
            key = next(reversed(lane.open))
            connection = lane.open[key]()
            slot: Slot | None = connection.place if connection is not None else None
            if connection is None or slot is None or slot.listed != key:
                del lane.open[key]  # it was lost, or given up just now
                continue
            if lifetime is None or now < slot.made_at + lifetime:
                if connection.capacity > len(slot.granted):
                    return connection, slot
                self._unlist(slot)
                if connection.capacity > len(slot.granted):
                    self._list(slot, connection)
                    return connection, slot
            else:
                self._unlist(slot)
        return None

    def _serve_lane(self, lane: Lane, now: float) -> None:
        """Put those who queue on shared connections, the oldest first."""
        while lane.waiting and lane.open:
            ticket = next(iter(lane.waiting))
            if self._yields(lane, ticket.number, now):
                break
            found = self._open_with_room(lane, now)
            if found is None:
                break
            self._grant_share(ticket, Share(*found, self.lose))
        if lane.waiting:
            self._promote(lane, now)

    def _promote(self, lane: Lane, now: float, *, company: bool = False) -> None:
        """If nobody is on the way for those who queue, the oldest of them shall dial: at once if there is a place, else
        it stands in the line for one. `company`: even if a scout is on its way."""
        if not lane.waiting or lane.in_line or (lane.scouts and not company):
            return
        ticket = next(iter(lane.waiting))
        places = lane.places
        if not places.waiters and self._oldest_ready() is None:
            slot = self._room(lane, now)
            if slot is not None:
                # The waiter's use of its route becomes the place's, which `_room` has counted already.
                lane.users -= 1
                self._grant(ticket, slot, now)
                return
        ticket.number = next(self._numbers)
        lane.in_line += 1
        self._stand_in_line(ticket, now)

    def _scout(self, slot: Slot, now: float) -> None:
        slot.is_scout = True
        slot.lane.scouts += 1
        slot.lane.scouted_at = now

    def _end_scouting(self, slot: Slot) -> None:
        if slot.is_scout:
            slot.is_scout = False
            slot.lane.scouts -= 1

    def _list(self, slot: Slot, connection: Connection) -> None:
        """It has room, as far as this step knows."""
        slot.listed = connection.info.id
        slot.lane.open[slot.listed] = ref(connection)

    def _unlist(self, slot: Slot) -> None:
        key, slot.listed = slot.listed, 0
        slot.lane.open.pop(key, None)

    def _unshare(self, slot: Slot) -> None:
        slot.is_shared = False
        slot.lane.shared -= 1
        self._unlist(slot)

    def _shared(self, lane: Lane) -> None:
        """The route's connections take several requests each. If that is news, those who wait for one in the line queue
        too now."""
        if not lane.may_queue:
            for ticket in lane.places.waiters:
                if ticket.lane is lane and ticket not in lane.waiting:
                    lane.waiting[ticket] = None
                    lane.in_line += 1
        self._learn(lane, Kind.SHARED)

    def _single(self, lane: Lane, now: float) -> None:
        """The route's connections take one request each: those who queue ask anew for connections of their own."""
        places = lane.places
        try:
            self._learn(lane, Kind.SINGLE)
            for ticket in list(lane.waiting):
                if not ticket.is_in_line:
                    ticket.number = next(self._numbers)
                    if not places.waiters and self._oldest_ready() is None:
                        slot = self._room(lane, now)
                        if slot is not None:
                            lane.users -= 1
                            self._grant(ticket, slot, now)
                            continue
                    self._stand_in_line(ticket, now)
                lane.waiting.pop(ticket, None)
        finally:
            # After an interrupt there are some: the place that its caller loses goes to the oldest of them.
            lane.in_line = sum(ticket.is_in_line for ticket in lane.waiting)

    def _settle(self, connection: Connection, now: float, refused: bool = False) -> None:
        slot: Slot | None = connection.place
        if slot is None:
            return  # another thread saw the same change
        is_over = connection.is_closed or (connection.is_draining and connection.is_idle) or not slot.is_counted
        if slot.is_scout and not is_over:
            return  # `share` comes
        lane = slot.lane
        lifetime = self.limits.max_lifetime
        if not is_over:
            if slot.is_shared:
                if (
                    not slot.listed
                    and connection.capacity > len(slot.granted)
                    and (lifetime is None or now < slot.made_at + lifetime)
                ):
                    self._list(slot, connection)
                self._serve_lane(lane, now)
            elif slot.is_sending or connection.capacity < 1:
                return
            if not connection.is_idle or slot.shares or slot.leases:
                return
        connection.place = None
        self._unlist(slot)
        if is_over or refused or connection.capacity < 1:
            reason = "it refused a request" if not is_over else "closed" if slot.is_counted else LOST
            self._closing.append((connection, reason))
            self._end_place(slot, now)
        else:
            # A step of its own: what it decided goes on with what this one did.
            outcome = self.give_back(slot, connection, now)
            self._closing.extend(outcome.closing)

    def _outcome(self, slot: Slot | None, ticket: Ticket | None = None, share: Share | None = None) -> Outcome:
        if not self._closing:
            if slot is None and ticket is None and share is None:
                return NOTHING
            return Outcome(slot, ticket, (), share)
        closing = tuple(self._closing)
        self._closing.clear()
        return Outcome(slot, ticket, closing, share)
