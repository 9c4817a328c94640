"""The pool: carries out what `pool_table` decides. The small part with effects: closing, waking, and the lock.

The steps of the table run under one lock in every world; what they decide is done after it. The rules that hold for
both stand in `pool_table`.

A finaliser or a signal handler may run inside of a step of its own thread: the collector comes by wherever something is
allocated, and what it finds may be a response, an upload or a call that was never ended. It must neither wait for the
lock that its own thread holds nor begin a step inside of another one. So the lock is one that its holder gets again,
`_is_stepping` says that a step is under way, and who finds it set leaves its wish in `Table.lost`. After a step,
everybody looks there and does what was left.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar, TypeVarTuple
from weakref import WeakValueDictionary, ref

from plugwire.errors import Busy, SessionClosed
from plugwire.pool_places import NOTHING, Outcome, Share, Slot, Ticket
from plugwire.pool_table import Table, UnknownRoute

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.config import Limits
    from plugwire.protocols import Connection, Waiter
    from plugwire.route import Route
    from plugwire.url import Origin

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


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
        self.changed: Callable[[Connection], None] = _weakly(ref(self), Pool.look)
        """`look`, given to connections, to be called when a capacity or a flag has changed."""
        self._lock = threading.RLock()
        self._is_stepping = False
        self._now = now
        self._closed = closed
        self._live: WeakValueDictionary[int, Connection] = WeakValueDictionary()

    # -- the hot road

    def ask(
        self,
        route: Route,
        make_waiter: Callable[[], Waiter],
        may_share: Callable[[Route], bool] | None = None,
        *,
        fresh: bool = False,
    ) -> Slot | Share | Ticket:
        """A slot (use its connection, or dial in it), a share of a connection, or a ticket to wait with. `may_share`
        tells whether connections of a route may turn out to be shared; it is asked for new routes only.

        Raises:
            Busy: a finaliser or a signal handler asks, inside of a step of its own thread.
            SessionClosed: the pool is closed.
        """
        answer: bool | None = None
        while True:
            try:
                with self._lock:
                    if self._is_stepping:
                        raise Busy("a finaliser or signal handler cannot send a request: it runs inside of the pool")
                    if self._table.why_closed is not None:
                        raise SessionClosed(self._table.why_closed)
                    try:
                        self._is_stepping = True
                        outcome = self._table.ask(route, self._now(), make_waiter, fresh=fresh, may_share=answer)
                    finally:
                        self._is_stepping = False
                break
            except UnknownRoute:
                # To say it, transports are loaded and asked: not under the lock.
                self._look_again()
                answer = may_share is not None and may_share(route)
            except BaseException:
                self._look_again()  # nobody else would
                raise
        if outcome.closing or self._table.lost:
            self._carry_out(outcome)
        return outcome.slot or outcome.share or outcome.ticket  # type: ignore[return-value]  # a step gives one of them

    def look(self, connection: Connection) -> None:
        """A capacity or a flag of the connection may have changed."""
        slot = connection.place
        if slot is None:
            return  # idle, or not in the pool yet, or given up already
        if slot.is_shared:
            self._settle(connection, slot)
            return
        is_over = connection.is_closed or (connection.is_draining and connection.is_idle)
        if not is_over and (slot.leases or slot.is_sending or not connection.is_idle or connection.capacity < 1):
            return
        outcome = self._step(connection, self._table.come_back, connection, self._now())
        if outcome.closing or self._table.lost:
            self._carry_out(outcome)

    def _settle(self, connection: Connection, slot: Slot) -> None:
        """A shared connection has changed: this runs at the end of each of its streams."""
        if (
            slot.listed
            and not slot.lane.waiting
            and (not connection.is_idle or slot.shares or slot.leases)
            and not connection.is_closed
        ):
            return  # it has room, nobody waits for it, and it is not idle
        if self._is_stepping:
            self._lost(connection)  # whoever steps looks again
            return
        self._carry_out(self._step(connection, self._table.settle, connection, self._now()))

    def share(self, connection: Connection) -> Share | None:
        """A connection that was dialled, or is fresh, is about to be used: the caller's share, if it can be shared."""
        outcome = self._step(connection, self._table.share, connection, self._now())
        self._carry_out(outcome)
        return outcome.share

    def end(self, share: Share) -> None:
        """The send for which it was granted has returned, or will not come."""
        share.end()
        self.look(share.connection)

    def refused(self, share: Share) -> None:
        """Its connection did not take the request."""
        share.end()
        connection = share.connection
        self._carry_out(self._step(connection, self._table.refused, connection, self._now()))

    # -- the other roads

    def take(self, connection: Connection) -> Share | None:
        """A share of this connection, for the handle that leases it; None if it has no room, or cannot be shared."""
        with self._lock:
            return self._table.take(connection)

    def lease(self, connection: Connection, number: int) -> None:
        """One handle more (`number` 1) or less (-1) keeps the connection, which is not idle as long as there is one."""
        with self._lock:
            slot: Slot | None = connection.place
            if slot is not None:  # else it was closed just now
                slot.leases += number
        self.look(connection)

    def hurry(self, ticket: Ticket) -> None:
        """To be called every `COMPANY` seconds while one waits who queues for a shared connection."""
        self._carry_out(self._step(None, self._table.hurry, ticket, self._now()))

    def free(self, slot: Slot) -> None:
        """The place is empty."""
        self._carry_out(self._step(slot, self._table.free, slot, self._now()))

    def collect(self, ticket: Ticket) -> Slot | Share | None:
        """What a woken waiter was granted; None if nothing (woken by a cancel, or the session was closed)."""
        with self._lock:
            slot, ticket.slot = ticket.slot, None
            share, ticket.share = ticket.share, None
        return slot or share

    def leave(self, ticket: Ticket) -> None:
        """A waiter gives up. Called on the way out of every wait; does nothing if the grant was collected."""
        self._carry_out(self._step(ticket, self._table.leave, ticket, self._now()))

    def joined(self, connection: Connection, slot: Slot) -> None:
        """A new connection stands in its slot. Raises `SessionClosed`: too late; the caller closes it."""
        connection.place = slot
        # First known, then the look: `close` does it the other way around.
        self._live[connection.info.id] = connection
        if self._table.why_closed is not None:
            raise SessionClosed(self._table.why_closed)

    def close(self, reason: str) -> None:
        """Close idle connections, wake waiters, abort what is in use. Later questions are refused with the reason."""
        self._carry_out(self._step(reason, self._table.clear, reason))
        for reference in self._live.valuerefs():
            connection = reference()
            if connection is not None and not connection.is_closed:
                connection.abort()
        self._live.clear()

    def stats(self) -> PoolStats:
        """How things stand."""
        self._look_again()
        try:
            with self._lock:
                was_stepping = self._is_stepping  # then a handler asks, in the midst of a step
                try:
                    self._is_stepping = True
                    table = self._table
                    queued: Counter[Origin] = Counter()
                    for route, lane in table.lanes.items():
                        queued[route.origin] += len(lane.waiting) - lane.in_line
                    origins = {
                        str(origin): (places.count, len(places.idle), len(places.waiters) + queued[origin])
                        for origin, places in table.origins.items()
                    }
                    stats = PoolStats(table.count, len(table.idle), table.waiting, origins)
                finally:
                    self._is_stepping = was_stepping
        finally:
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

    def _step(
        self, wish: Slot | Connection | Ticket | str | None, step: Callable[[*Ts], Outcome], *args: *Ts
    ) -> Outcome:
        """What the step decides. Inside of another step of this thread it is not made: the wish is left."""
        try:
            with self._lock:
                if self._is_stepping:
                    if wish is not None:
                        self._table.lost.append(wish)
                    return NOTHING
                try:
                    self._is_stepping = True
                    outcome = step(*args)
                except BaseException:
                    # An interrupt, maybe between freeing a place and giving it to who waits: give it now. What the step
                    # had in hand is lost, and comes back as what is lost does.
                    self._table.take_back(self._table.latest)
                    raise
                finally:
                    self._is_stepping = False
        except BaseException:
            self._look_again()  # nobody else would
            raise
        return outcome

    def _carry_out(self, outcome: Outcome) -> None:
        while True:
            for connection, reason in outcome.closing:
                connection.close()
                self._closed(connection, reason)
            if not self._table.lost:
                return
            outcome = self._step(None, self._table.sweep, self._table.latest)
            if outcome is NOTHING and self._is_stepping:
                return  # in the midst of a step, of this thread or of another one: it looks again

    def _look_again(self) -> None:
        """Something may have been lost, or left, during a step."""
        if self._table.lost:
            self._carry_out(NOTHING)

    def _lost(self, lost: Slot | Connection) -> None:
        """A slot or a share was lost; runs in a finaliser. It waits for no other thread's step either: that may just be
        in a finaliser itself, which waits for a lock that this thread holds."""
        self._table.lost.append(lost)
        if not self._is_stepping:
            try:
                self._look_again()
            except BaseException:  # an interrupt, which a finaliser swallows
                self._look_again()
                raise

    def start_anew(self) -> None:
        """In the child of a fork: the connections belong to the parent. They are not closed here, because closing
        speaks on the parent's connection (TLS: close_notify, HTTP/2: GOAWAY) or to its event loop; they are disowned,
        which closes the child's copies of the descriptors and does no more. What was being dialled by another thread,
        and streams that the caller has taken over, are left alone. Who holds the lock may be a thread that does not
        exist any more."""
        self._lock = threading.RLock()
        self._is_stepping = False
        for connection in list(self._live.values()):
            slot, connection.place = connection.place, None
            if slot is not None:
                slot.is_counted = False
            connection.disown()
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
