"""When to give up: `Timeout` in the API (durations), `Deadline` inside (a point in time, with its reason).

A duration is turned into a point on the runtime's own clock once, when the thing it bounds begins; from then on only
points are handed down, so no floor can stretch what the floor above allowed. `Deadline.earlier` is the only way to
make one, and it never makes a later one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import TYPE_CHECKING

from plugwire.errors import (
    ConnectTimeout,
    HeadTimeout,
    PoolTimeout,
    ReadTimeout,
    TimedOut,
    TotalTimeout,
    UsageError,
    WriteTimeout,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plugwire.errors import Phase


@dataclass(frozen=True, slots=True)
class Timeout:
    """How long each part of a call may take, in seconds; None means without end.

    Attributes:
        total: the whole call: pool wait, DNS, dial, TLS, sending, every retry and back-off, redirects and the body.
        head: from the start of the call to the end of the (final) response's head.
        pool: waiting for a place in the pool's limits.
        connect: resolving, dialling all addresses and the TLS handshake, together.
        read: one read from the peer; begins anew with each byte that comes.
        write: one write to the peer; begins anew with each byte that the peer takes.

    In the blocking world a signal handler that runs in the main thread begins the wait that it interrupts anew: with
    timer signals at an interval below the budget (`signal.setitimer`), send requests from another thread.

    A plain number stands for "no call of mine blocks longer than this": `get()` and its like get it as `total`;
    `stream()` gets it as `head`, `read` and `write`.

    Raises:
        UsageError: a value is negative, zero, not a number or not finite.
    """

    total: float | None = None
    head: float | None = None
    pool: float | None = None
    connect: float | None = 10.0
    read: float | None = 60.0
    write: float | None = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not is_seconds(value):
                raise UsageError(f"timeout {field.name}={value!r}: a number of seconds above 0, or None")


def is_seconds(value: object) -> bool:
    """True for a finite number above 0. A bool is not a number of seconds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < inf


def make_timeout(value: Timeout | float | None, *, base: Timeout, streaming: bool) -> Timeout:
    """The `Timeout` that a caller's `timeout=` means. A number narrows the session's `base`; None is without end."""
    if isinstance(value, Timeout):
        return value
    if value is None:
        return Timeout(connect=None, read=None, write=None)
    if not is_seconds(value):
        hint = ""
        if isinstance(value, tuple):  # as requests has it
            hint = "; (connect, read) is Timeout(connect=..., read=...)"
        raise UsageError(f"timeout={value!r}: a number of seconds above 0, a Timeout, or None{hint}")
    if streaming:
        return Timeout(head=value, pool=base.pool, connect=base.connect, read=value, write=value)
    return Timeout(total=value, head=base.head, pool=base.pool, connect=base.connect, read=base.read, write=base.write)


ERRORS: Mapping[str, type[TimedOut]] = {
    "total": TotalTimeout,
    "head": HeadTimeout,
    "pool": PoolTimeout,
    "connect": ConnectTimeout,
    "read": ReadTimeout,
    "write": WriteTimeout,
}

_DOING: Mapping[str, str] = {
    "pool": "waiting for a free connection",
    "resolve": "resolving the host's name",
    "dial": "connecting",
    "tls": "in the TLS handshake",
    "write": "sending the request",
    "head": "waiting for the response's head",
    "body": "reading the response's body",
}


class Deadline:
    """A point in time to give up at, and the name of the budget that set it. Immutable.

    Attributes:
        at: the point on the runtime's clock; infinity if there is none. This is what streams take.
        budget: the name of the `Timeout` field that set it, for the error; "" if there is none.
        limit: the size of that budget in seconds.
    """

    __slots__ = ("_now", "at", "budget", "limit")

    def __init__(self, now: Callable[[], float], at: float = inf, budget: str = "", limit: float = inf) -> None:
        self._now = now
        self.at = at
        self.budget = budget
        self.limit = limit

    def __repr__(self) -> str:
        return f"<Deadline {self.budget or 'none'} in {self.remaining():.3f} s>"

    def earlier(self, seconds: float | None, budget: str) -> Deadline:
        """This deadline, or the one `seconds` from now if that comes first. None leaves this one."""
        if seconds is None:
            return self
        at = self._now() + seconds
        return self if self.at <= at else Deadline(self._now, at, budget, seconds)

    def remaining(self) -> float:
        """Seconds that are left; infinity without a deadline; negative when it has passed."""
        return self.at - self._now()

    def has_passed(self) -> bool:
        """True when the time is up."""
        return self._now() >= self.at

    def error(self, phase: Phase | None, detail: str = "") -> TimedOut:
        """The `TimedOut` that says which budget ended and what was being done; phase None: a pause between attempts."""
        elapsed = max(self._now() - (self.at - self.limit), 0.0) if self.budget else 0.0
        kind = ERRORS.get(self.budget, TimedOut)
        doing = "pausing" if phase is None else _DOING[phase]
        text = f"{doing}: {elapsed:.3g} s, over {self.budget}={self.limit:g}{detail}"
        error = kind(text, self.budget, self.limit, elapsed)
        error.phase = phase
        return error
