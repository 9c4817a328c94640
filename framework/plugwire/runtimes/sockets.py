"""What the socket streams of all three worlds share: moving bytes without waiting.

Rules that hold here:

- Every system call of this file carries MSG_DONTWAIT, so it never waits, whether the socket is in blocking mode (the
  blocking world) or not (asyncio, trio).
- `read_now` looks with a poll object that is kept for the connection before it reads: finding nothing by an exception
  costs four times as much, and finding nothing is the common case (the idle check before a connection is used again).
- What does not go out at once is kept as views on the caller's buffers, in order, and goes before anything newer.
- The poll object knows the descriptor by its number, so nothing may poll after the socket was closed: `_is_over` is
  asked first everywhere.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

from plugwire.protocols import LOCAL_ADDRESS, PEER_ADDRESS, SOCKET, Address, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from plugwire.protocols import Buffer, Extra

T = TypeVar("T")

# A program may have given SIGPIPE its deadly default back; macOS has no such flag and no such habit.
QUIET = getattr(socket, "MSG_NOSIGNAL", 0)
QUIET_NOW = QUIET | socket.MSG_DONTWAIT
IOV_MAX = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 16
"""Buffers that one sendmsg takes (POSIX: at least 16)."""


def aborted() -> ConnectionAbortedError:
    """What everybody gets from a stream that was closed or aborted on this side."""
    return ConnectionAbortedError("the stream was closed or aborted on this side")


def too_late() -> TimeoutError:
    return TimeoutError("the point in time has passed")


def total(data: Buffer | Sequence[Buffer]) -> int:
    """The number of bytes in one buffer or several."""
    if isinstance(data, (bytes, bytearray)):
        return len(data)
    if isinstance(data, memoryview):
        return data.nbytes
    return sum(map(total, data))


def views(data: Buffer | Sequence[Buffer]) -> list[memoryview]:
    """The non-empty buffers of `data` as views of single bytes."""
    pieces: Iterable[Any] = (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data
    result = [memoryview(piece).cast("B") for piece in pieces]
    return [view for view in result if view]


def address_of(name: Any, family: int) -> Address | str | None:
    """What `getsockname` or `getpeername` said, as an `Address`, or the path of a Unix socket."""
    if family == socket.AF_INET:
        return Address(family, name[0], name[1])
    if family == socket.AF_INET6:
        return Address(family, *name)
    return os.fsdecode(name) if name else None


class SocketStream(Stream):
    """A connected stream socket. Subclasses add the waiting of their world, and its clock as `_now`."""

    _now: Callable[[], float]

    def __init__(self, sock: socket.socket) -> None:
        self._is_over = False  # closed or aborted on this side
        self._kept: deque[memoryview] = deque()
        self._unsent = 0
        self._addresses: dict[str, Address | str | None] = {}
        look = select.poll()
        look.register(sock, select.POLLIN)
        self._look = look.poll
        self._sock = sock  # last: with it there is something to close

    def __del__(self) -> None:
        # Quietly: what a dropped stream means is known above (a response that was not closed), and warned of there.
        if "_sock" in self.__dict__:
            self.close()

    def __repr__(self) -> str:
        peer = self.extra(PEER_ADDRESS)
        return f"<{type(self).__name__}{f' to {peer}' if peer else ''}{', over' if self._is_over else ''}>"

    # -- reading ---------------------------------------------------------------------------------------------------

    def is_readable(self) -> bool:
        """Whether `read_now` has bytes, an end or an error to give."""
        return bool(self._look(0))

    def read_now(self, max_bytes: int) -> bytes | None:
        if self._is_over:
            raise aborted()
        if not self._look(0):
            return None
        try:
            return self._sock.recv(max_bytes, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        return self._unsent

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        if self._is_over:
            raise aborted()
        if self._unsent:
            self._keep(views(data))
            self._flush()
            return
        try:
            if isinstance(data, bytes):
                gone = self._sock.send(data, QUIET_NOW) if data else 0
            elif isinstance(data, (list, tuple)) and 0 < len(data) <= IOV_MAX:
                gone = self._sock.sendmsg(data, (), QUIET_NOW)
            else:
                self._keep(views(data))
                self._flush()
                return
        except BlockingIOError:
            gone = 0
        if gone < total(data):
            self._keep(views(data))
            self._forget(gone)

    def _keep(self, pieces: Iterable[memoryview]) -> None:
        for piece in pieces:
            self._kept.append(piece)
            self._unsent += len(piece)

    def _flush(self) -> None:
        """Send of what is kept as much as goes out at once."""
        while self._kept:
            if len(self._kept) <= IOV_MAX:
                batch = list(self._kept)
            else:
                batch = [self._kept[index] for index in range(IOV_MAX)]
            try:
                gone = self._sock.sendmsg(batch, (), QUIET_NOW)
            except BlockingIOError:
                return
            self._forget(gone)

    def _forget(self, gone: int) -> None:
        """The first `gone` bytes of what is kept went out."""
        self._unsent -= gone
        kept = self._kept
        while gone:
            first = kept[0]
            size = len(first)
            if size > gone:
                kept[0] = first[gone:]
                return
            kept.popleft()
            gone -= size

    async def send(self, data: Buffer | Sequence[Buffer], at: float, stop_if_readable: bool = False) -> int:
        if self._now() >= at:
            raise aborted() if self._is_over else too_late()
        if stop_if_readable and self.is_readable():
            # The peer may have answered already, while each piece of an upload still fits into the socket's buffer.
            if self._is_over:
                raise aborted()
            self._keep(views(data))
            return 0
        self.write_now(data)
        size = total(data)
        while self._unsent:
            await self.wait(stop_if_readable, True, at)
            if stop_if_readable and self.is_readable():
                break
            self.write_now(b"")
        if self._is_over:  # then nothing is unsent, though it has not gone out
            raise aborted()
        return max(size - self._unsent, 0)

    async def send_eof(self, at: float) -> None:
        await super().send_eof(at)
        if self._is_over:
            raise aborted()
        self._sock.shutdown(socket.SHUT_WR)

    # -- the end, and what lies below ------------------------------------------------------------------------------

    def disown(self) -> None:
        # `close` of a socket closes the descriptor and no more, so the connection itself lives on in the parent.
        self._is_over = True
        self._sock.close()
        self._kept.clear()
        self._unsent = 0

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        value: Any = None
        if key is SOCKET:
            value = None if self._is_over else self._sock
        elif key is LOCAL_ADDRESS or key is PEER_ADDRESS:
            value = self._address(key.name)
        return default if value is None else cast("T", value)

    def _address(self, name: str) -> Address | str | None:
        """Asked of the system once, then remembered, also after the end."""
        if name not in self._addresses:
            ask = self._sock.getsockname if name == LOCAL_ADDRESS.name else self._sock.getpeername
            try:
                self._addresses[name] = address_of(ask(), self._sock.family)
            except OSError:  # closed, or the peer is gone already
                return None
        return self._addresses[name]
