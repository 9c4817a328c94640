"""What the pool's table is about: places in the limits, who holds them, who waits for them. Plain data; the decisions,
and the rules that hold, stand in `pool_table`."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import ref

    from plugwire.protocols import Connection, Waiter
    from plugwire.route import Route
    from plugwire.url import Origin


class Slot:
    """A place in the limits.

    is_scout: the others of the lane wait for what comes of it. leases: handles that keep its connection. is_sending:
    its connection is in `send`; until the call has let go of it, it is nobody else's, whatever it says of itself, for
    `call.cancel()` may have it in hand in another thread. is_shared: its connection takes several requests at once. Of
    such a one, listed: its key in `Lane.open`, 0 if it is not there; granted: the shares whose send has not begun;
    shares: those whose send has not returned.
    """

    __slots__ = (
        "__weakref__",
        "_lost",
        "connection",
        "granted",
        "idle_since",
        "is_counted",
        "is_scout",
        "is_sending",
        "is_shared",
        "lane",
        "leases",
        "listed",
        "made_at",
        "shares",
    )

    def __init__(self, lane: Lane, made_at: float, lost: Callable[[Slot], None]) -> None:
        self.is_counted = False  # who counts it says so, in the same breath: an interrupt comes behind a call only
        self.lane = lane
        self.made_at = made_at
        self.idle_since = 0.0
        self.connection: Connection | None = None
        self.leases = 0
        self.is_scout = False
        self.is_sending = False
        self.is_shared = False
        self.listed = 0
        self.granted: set[int] = set()
        self.shares: set[int] = set()
        self._lost = lost

    def __del__(self) -> None:
        if getattr(self, "is_counted", False):  # not, if an interrupt came before all else
            self._lost(self)


@final
class Share:
    """A place on a connection that takes several requests at once.

    The slot's sets know it by its `id`. Adding and discarding are single steps of the interpreter and can be repeated,
    so they need no lock and stay right wherever an interrupt comes.
    """

    __slots__ = ("__weakref__", "_lost", "connection", "is_counted", "slot")

    def __init__(self, connection: Connection, slot: Slot, lost: Callable[[Connection], None]) -> None:
        self.connection = connection
        self.slot = slot
        self._lost = lost
        self.is_counted = True
        slot.shares.add(id(self))
        slot.granted.add(id(self))

    def begun(self) -> None:
        """From here on the connection's own capacity counts it."""
        self.slot.granted.discard(id(self))

    def end(self) -> None:
        """Its send has returned, or will not come."""
        self.is_counted = False
        self.slot.granted.discard(id(self))
        self.slot.shares.discard(id(self))

    def __del__(self) -> None:
        if getattr(self, "is_counted", False):
            self.end()
            self._lost(self.connection)


class OriginPlaces:
    """What counts for one origin: its open connections, its idle ones (oldest first), its waiters (oldest first)."""

    __slots__ = ("count", "idle", "origin", "waiters")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.count = 0
        self.idle: OrderedDict[Slot, None] = OrderedDict()
        self.waiters: OrderedDict[Ticket, None] = OrderedDict()


class Kind(Enum):
    """What is known of the connections of a route."""

    UNKNOWN = "unknown"
    SHARED = "shared"
    SINGLE = "single"


class Lane:
    """One route: its idle connections, the newest last; how many places and waiters are its own (`users`).

    may_queue: its kind is not SINGLE, so rule 11 holds. Then: open: shared connections in use that had room when last
    looked at, the newest last. shared: how many shared connections there are, idle ones included. waiting: who
    queues, the oldest first; in_line: how many of them stand in the line for places too. scouts: how many are on their
    way; scouted_at: when the last one began.
    """

    __slots__ = (
        "idle",
        "in_line",
        "kind",
        "may_queue",
        "open",
        "places",
        "route",
        "scouted_at",
        "scouts",
        "shared",
        "users",
        "waiting",
    )

    def __init__(self, route: Route, places: OriginPlaces, kind: Kind) -> None:
        self.route = route
        self.places = places
        self.kind = kind
        self.may_queue = kind is not Kind.SINGLE
        self.users = 0
        self.idle: OrderedDict[Slot, None] = OrderedDict()
        self.open: OrderedDict[int, ref[Connection]] = OrderedDict()
        self.shared = 0
        self.waiting: OrderedDict[Ticket, None] = OrderedDict()
        self.in_line = 0
        self.scouts = 0
        self.scouted_at = -inf


class TicketState(Enum):
    """Where a waiter stands."""

    WAITING = "waiting"
    GRANTED = "granted"
    GONE = "gone"


@final
class Ticket:
    """One who waits. What it was granted lies in `slot` (with a connection in it, that is to be used; without, dial) or
    in `share`. Who wants a fresh one is never granted a connection that served one request at a time.

    is_in_line: it stands in the line for places, since `since`; `number` is its age there.
    """

    __slots__ = (
        "__weakref__",
        "is_fresh",
        "is_in_line",
        "lane",
        "number",
        "share",
        "since",
        "slot",
        "state",
        "waiter",
    )

    def __init__(self, lane: Lane, number: int, waiter: Waiter, is_fresh: bool) -> None:
        self.lane = lane
        self.number = number
        self.waiter = waiter
        self.is_fresh = is_fresh
        self.is_in_line = False
        self.since = 0.0
        self.state = TicketState.WAITING
        self.slot: Slot | None = None
        self.share: Share | None = None


class Outcome(NamedTuple):
    """What a step decided.

    slot: use its connection if it has one, else dial in it. share: send on its connection. ticket: wait with it.
    closing: to be closed, with the reason.
    """

    slot: Slot | None = None
    ticket: Ticket | None = None
    closing: tuple[tuple[Connection, str], ...] = ()
    share: Share | None = None


NOTHING: Final = Outcome()
