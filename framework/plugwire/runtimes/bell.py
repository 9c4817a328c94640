"""A bell: what wakes a poll from another thread, because a change of the poll object itself does not.

It is a descriptor that becomes readable when rung and stays so until it is silenced, so a ring just before the other
thread enters the poll is not lost. Where the system has it, an eventfd (one descriptor, a counter in the kernel), else
a pipe. Close-on-exec, as sockets are, and never waiting.

No lock: a finaliser may ring, and who waits for a lock in a finaliser may wait for whoever was interrupted by it. A
ring in a descriptor that is closed meanwhile would go to whoever was given the number next; so who rings marks itself
and then looks whether the bell is closed, who closes marks it closed and then looks for marks, and the last one out
closes.
"""

from __future__ import annotations

import os
from io import FileIO
from itertools import chain, starmap
from sys import byteorder

_ONCE = (1).to_bytes(8, byteorder)  # what an eventfd takes; to a pipe it is as good as any
_ALL = 65536
"""Bytes that a pipe holds, and so all the rings there are."""


class _End(FileIO):
    """A descriptor that closes itself when it is dropped, and says nothing: an interrupt drops what it pleases."""

    def __del__(self) -> None:
        self.close()


class Bell:
    """Rung and not silenced, it is readable. Anybody may ring, and close, at any time; it is silenced by who polls it,
    and not closed before that one has left the poll."""

    __slots__ = ("_hears", "_inside", "_is_closed", "_strikes")

    def __init__(self) -> None:
        self._is_closed = False
        self._inside: list[None] = []  # a mark for each one who rings just now
        # Made in one step, because between a number and the object that owns it an interrupt would lose it.
        if hasattr(os, "eventfd"):
            [self._hears] = map(_End, map(os.eventfd, (0,), (os.EFD_CLOEXEC | os.EFD_NONBLOCK,)), ("r+b",))
            self._strikes = self._hears
        else:
            self._hears, self._strikes = map(_End, chain.from_iterable(starmap(os.pipe, ((),))), ("rb", "wb"))
            os.set_blocking(self._hears.fileno(), False)
            os.set_blocking(self._strikes.fileno(), False)

    def fileno(self) -> int:
        """What to poll for readability."""
        return self._hears.fileno()

    def ring(self) -> None:
        """Any number of times: nothing piles up."""
        inside = self._inside
        try:
            inside.append(None)
            if not self._is_closed:
                self._strikes.write(_ONCE)
        finally:
            inside.pop()
            if self._is_closed:
                self.close()

    def silence(self) -> None:
        """Take back all the rings so far."""
        self._hears.read(_ALL)

    def close(self) -> None:
        """Idempotent."""
        self._is_closed = True
        if not self._inside:
            self._hears.close()
            self._strikes.close()
