"""What may go wrong: faults as values, and the operations that they can hit. `faults` has what makes them happen."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(Enum):
    """What a fault does."""

    FAIL = "fail"
    """The operation raises an `OSError`, and so does everything on its stream from then on."""
    CUT = "cut"
    """The peer's side of the stream has ended: reads give b"", writes fail."""
    DELAY = "delay"
    """So many seconds pass, by the clock of the session's runtime, before the operation does its work."""
    SHORTEN = "shorten"
    """The operation moves one byte, and so do those that follow it."""
    CANCEL = "cancel"
    """`call.cancel()` of the call that does the operation."""
    CANCEL_WORLD = "cancellation"
    """The world's own cancellation, of the task that does the operation. The blocking world has none."""
    INTERRUPT = "interrupt"
    """The operation raises what no program expects there, as a signal handler does. In the blocking world only."""


BYTES_IN: Final = frozenset({"read_now", "receive", "receive_into"})
BYTES_OUT: Final = frozenset({"write_now", "send", "send_eof"})
ON_STREAMS: Final = BYTES_IN | BYTES_OUT | {"wait"}
ON_THE_WAY: Final = frozenset({"resolve", "dial", "dial_tcp", "dial_unix", "secure"})
OTHERS: Final = frozenset({"waiter", "sleep", "turn", "run_blocking"})

OPERATIONS: Final = ON_STREAMS | ON_THE_WAY | OTHERS
"""The names of what is counted: of streams, of transports and of the runtime."""

_OF_KIND: Final[dict[Kind, frozenset[str]]] = {
    Kind.FAIL: ON_STREAMS | ON_THE_WAY,
    Kind.CUT: ON_STREAMS,
    Kind.DELAY: OPERATIONS,
    Kind.SHORTEN: (BYTES_IN | BYTES_OUT) - {"send_eof"},
    Kind.CANCEL: OPERATIONS,
    Kind.CANCEL_WORLD: OPERATIONS,
    Kind.INTERRUPT: OPERATIONS,
}


@dataclass(frozen=True)
class Fault:
    """What goes wrong. Those of this module are constants; make your own for another error or another pause.

    Attributes:
        name: for reports.
        kind: see `Kind`.
        error: makes what is raised, for FAIL and INTERRUPT.
        seconds: of DELAY.
        times: for SHORTEN: so many operations, one after another.
        is_after: only when the operation has done its work, whose outcome is then lost.
        on: the operations that can be hit, and that count; None: all that its kind can hit.
        worlds: where it can be.
    """

    name: str
    kind: Kind
    error: Callable[[], BaseException] | None = None
    seconds: float = 0.0
    times: int = 1
    is_after: bool = False
    on: frozenset[str] | None = None
    worlds: frozenset[str] = frozenset({"blocking", "asyncio", "trio"})

    def __post_init__(self) -> None:
        if (self.error is None) == (self.kind in (Kind.FAIL, Kind.INTERRUPT)):
            raise ValueError(f"{self.name}: an error belongs to FAIL and INTERRUPT, and to no other kind")
        unknown = (self.on or frozenset()) - OPERATIONS
        if unknown:
            raise ValueError(f"{self.name}: there are no operations {', '.join(sorted(unknown))}")

    @property
    def hits(self) -> frozenset[str]:
        """The operations that it can hit."""
        able = _OF_KIND[self.kind]
        return able if self.on is None else able & self.on


def _os_error(number: int, text: str) -> Callable[[], OSError]:
    return lambda: OSError(number, text)


_BLOCKING: Final = frozenset({"blocking"})
_LOOPS: Final = frozenset({"asyncio", "trio"})

RESET: Final = Fault("reset", Kind.FAIL, _os_error(errno.ECONNRESET, "reset by a fault"))
RESET_AFTER: Final = Fault(
    "reset after", Kind.FAIL, _os_error(errno.ECONNRESET, "reset by a fault"), is_after=True, on=ON_STREAMS | {"dial"}
)
BROKEN_PIPE: Final = Fault("broken pipe", Kind.FAIL, _os_error(errno.EPIPE, "broken by a fault"), on=BYTES_OUT)
UNREACHABLE: Final = Fault("unreachable", Kind.FAIL, _os_error(errno.EHOSTUNREACH, "unreachable by a fault"))
TIMED_OUT: Final = Fault("timed out by the system", Kind.FAIL, _os_error(errno.ETIMEDOUT, "timed out by a fault"))
"""What the kernel says of a peer that has acknowledged nothing for long; no deadline of ours has passed."""
NO_DESCRIPTOR: Final = Fault(
    "no descriptor", Kind.FAIL, _os_error(errno.EMFILE, "too many open files, by a fault"), on=ON_THE_WAY
)
CUT: Final = Fault("cut", Kind.CUT)
DELAY: Final = Fault("delay", Kind.DELAY, seconds=86400.0)
DRIBBLE: Final = Fault("dribble", Kind.SHORTEN, times=64)
CANCEL: Final = Fault("call.cancel", Kind.CANCEL)
WORLD_CANCEL: Final = Fault("cancellation", Kind.CANCEL_WORLD, worlds=_LOOPS)
INTERRUPT: Final = Fault("interrupt", Kind.INTERRUPT, KeyboardInterrupt, worlds=_BLOCKING)
INTERRUPT_AFTER: Final = Fault("interrupt after", Kind.INTERRUPT, KeyboardInterrupt, is_after=True, worlds=_BLOCKING)

FAULTS: Final = (
    RESET, RESET_AFTER, BROKEN_PIPE, UNREACHABLE, TIMED_OUT, NO_DESCRIPTOR, CUT, DELAY, DRIBBLE, CANCEL, WORLD_CANCEL,
    INTERRUPT, INTERRUPT_AFTER,
)  # fmt: skip
"""All of these."""
