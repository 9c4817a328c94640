"""The `Call`: what a plugin gets beside the request, and what ties a user's operation together.

`Scope` is the set of things that wait on behalf of a call, so that `call.cancel()` can reach them from another thread.
`Next` is what a middleware gets as `call_next`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugwire.protocols import Abortable


class Scope:
    """What can be aborted on behalf of one call, or of one starter of a race.

    Who is about to wait adds itself, and takes itself out afterwards; who is added after the abort is aborted at once,
    so nothing slips through between the two. (A set's `add` and `discard` are atomic; `abort` sets the flag first and
    reads the set after, `add` does it the other way around.)
    """

    __slots__ = ("_members", "is_aborted")

    def __init__(self) -> None:
        self._members: set[Abortable] = set()
        self.is_aborted = False

    def add(self, member: Abortable) -> None:
        """`member` begins to wait."""
        self._members.add(member)
        if self.is_aborted:
            member.abort()

    def discard(self, member: Abortable) -> None:
        """`member` does not wait any more."""
        self._members.discard(member)

    def abort(self) -> None:
        """Wake all members with an error, and each later one."""
        self.is_aborted = True
        for member in tuple(self._members):
            member.abort()


racing: ContextVar[Scope | None] = ContextVar("plugwire_racing", default=None)
"""The scope of the starter that runs in this thread or task, inside of `Runtime.race` or `Runtime.start` of the
blocking world; None elsewhere. What waits for a call joins this scope too, so that a race can end its losers."""
