"""A bell: what wakes a poll from another thread, because a change of the poll object itself does not.

It is a descriptor that becomes readable when rung and stays so until it is silenced, so a ring just before the other
thread enters the poll is not lost. Where the system has it, an eventfd (one descriptor, a counter in the kernel), else
a pipe. Close-on-exec, as sockets are, and never waiting.
"""

from __future__ import annotations

import os
from io import FileIO
from sys import byteorder

_ONCE = (1).to_bytes(8, byteorder)  # what an eventfd takes; to a pipe it is as good as any


class Bell:
    """Rung and not silenced, it is readable. Not safe by itself: the owner calls it under a lock of its own, because a
    ring after `close` would go to whoever was given the number."""

    __slots__ = ("_hears", "_is_rung", "_strikes")

    def __init__(self) -> None:
        self._is_rung = False
        # Objects that own their descriptors, so that none is lost to an interrupt, and none is closed twice.
        if hasattr(os, "eventfd"):
            self._hears = self._strikes = FileIO(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), "r+b")
        else:
            hears, strikes = os.pipe()
            os.set_blocking(hears, False)
            os.set_blocking(strikes, False)
            self._hears, self._strikes = FileIO(hears, "rb"), FileIO(strikes, "wb")

    def fileno(self) -> int:
        """What to poll for readability."""
        return self._hears.fileno()

    def ring(self) -> None:
        """Any number of times: nothing piles up."""
        if not self._is_rung:
            self._is_rung = True
            self._strikes.write(_ONCE)

    def silence(self) -> None:
        """Take back all the rings so far."""
        if self._is_rung:
            self._is_rung = False
            self._hears.read(len(_ONCE))

    def close(self) -> None:
        """Idempotent."""
        self._hears.close()
        self._strikes.close()
