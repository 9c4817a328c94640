"""The stream of the blocking world: a socket in plain blocking mode.

**Deadlines without system calls.** `settimeout` would put a poll before every socket call. Here the kernel keeps the
time (SO_RCVTIMEO, SO_SNDTIMEO), armed to 7/8 of what remains, and armed again only when the armed value is longer than
what remains or shorter than its half. So in the steady state a receive is one `recv` and a send one `send`, total
deadlines included. Who is woken early (EAGAIN) looks at the clock and goes on, or is too late.
What it costs: after a signal handler CPython begins the call anew with the whole of the armed time (PEP 475), so a
single signal may delay a deadline, and in the main thread one that comes again and again (`signal.setitimer` with a
short interval) puts it off for as long as it comes.

**Aborting from another thread.** `abort` sets a flag and shuts the socket down, which ends the owner's system call; the
owner sees the flag. It does not close: a descriptor that is closed under a thread in a system call may be given to
another socket at once, and that thread would read a stranger's bytes. `close` from another thread therefore leaves the
closing to the thread that is inside. The user marks itself and then looks whether the stream is over, the closer marks
it over and then looks for a user, so at least one of them sees the other; the last one who leaves closes. Who waits has
a mark of its own (`_readers`, `_writer`); the calls that never wait, of which there may be several, put one each into
`_inside`. Of threads that come to read at once the first in `_readers` does; an attribute that is looked at and then
set would let both in, and the first to leave would take back the mark of the other.

**No lock.** The garbage collector or a signal handler may run anywhere here, and what it runs may want the lock of the
HTTP/2 connection that this stream carries, while a thread that holds it moves bytes of this stream: each would wait for
the other. So nothing here waits but for the socket. A mark is set and taken back by one step that nothing interrupts.

**Nudging from another thread.** `nudge` sets a flag, and rings a bell that a wait for readability polls beside the
socket. The flag and the mark of who is inside work like those of abort: who waits marks itself and then looks at the
flag, who nudges sets the flag and then looks for somebody inside; with nobody there nothing is rung. The wait that
returns takes back the flag and the ring first, in this order, so its caller sees whatever was changed before the nudge;
what comes in between leaves its flag, and a ring that comes after is heard by a later wait, which then returns for
nothing. A wait touches nothing that the byte moves touch: these have a poll object of their own (one object bears one
poll at a time).
"""

from __future__ import annotations

import select
import socket
import struct
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING

from plugwire.call import racing
from plugwire.errors import Busy
from plugwire.runtimes.bell import Bell
from plugwire.runtimes.sockets import IOV_MAX, QUIET, SocketStream, aborted, too_late, views

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.protocols import Buffer

INFINITY = float("inf")
LONGEST = 1e6
"""Seconds that a single system call may be told to wait; who is woken by it looks at the clock and goes on."""
DEAF = 0.05
"""Seconds of a single poll of a stream that has no bell, because the process has no descriptor left to make one."""


def _timeval(seconds: float) -> bytes:
    """What SO_RCVTIMEO takes. Never zero, which would mean for ever."""
    whole, micro = divmod(max(int(min(seconds, LONGEST) * 1e6), 1), 1_000_000)
    return struct.pack("ll", whole, micro)


def milliseconds(seconds: float) -> int:
    """What poll takes, rounded up."""
    return int(min(seconds, LONGEST) * 1000) + 1


class BlockingStream(SocketStream):
    """A socket in blocking mode. `abort` and `close` may come from any thread."""

    _now = staticmethod(monotonic)

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._recv = sock.recv
        self._fd = sock.fileno()
        self._is_closed = False
        self._inside: list[None] = []  # a mark for each one who is inside of a call that never waits
        self._readers: list[int] = []  # the thread that waits for readability; behind it, who is about to be refused
        self._writer = 0  # the thread that waits for writability alone
        self._read_armed = INFINITY
        self._write_armed = INFINITY
        self._poll: select.poll | None = None  # for waits for readability; made at the first one, as the bell is
        self._polls_write = False
        self._bell: Bell | None = None
        self._is_nudged = False
        super().__init__(sock)

    # -- time ------------------------------------------------------------------------------------------------------

    def _arm_read(self, rest: float) -> None:
        if rest <= 0:
            raise too_late()
        self._arm(socket.SO_RCVTIMEO, rest)
        self._read_armed = rest * 0.875

    def _arm_write(self, rest: float) -> None:
        if rest <= 0:
            raise too_late()
        self._arm(socket.SO_SNDTIMEO, rest)
        self._write_armed = rest * 0.875

    def _arm(self, option: int, rest: float) -> None:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, option, _timeval(rest * 0.875))
        except OSError:  # closed by another thread just now
            if self._is_over:
                raise aborted() from None
            raise

    # -- reading ---------------------------------------------------------------------------------------------------

    async def receive(self, max_bytes: int, at: float) -> bytes:
        readers, me, scope = self._readers, get_ident(), racing.get()
        try:
            readers.append(me)
            if readers[0] != me:
                raise _busy()
            if scope is not None:
                scope.add(self)
            while not self._is_over:
                rest = at - monotonic()
                if self._read_armed > rest or self._read_armed + self._read_armed < rest:
                    self._arm_read(rest)
                try:
                    data = self._recv(max_bytes)
                except BlockingIOError:
                    continue
                except OSError:
                    if self._is_over:
                        break
                    raise
                if data or not self._is_over:
                    return data
            raise aborted()
        finally:
            readers.remove(me)
            if scope is not None:
                scope.discard(self)
            if self._is_closed:
                self._release()

    async def receive_into(self, buffer: memoryview, at: float) -> int:
        readers, me, scope = self._readers, get_ident(), racing.get()
        try:
            readers.append(me)
            if readers[0] != me:
                raise _busy()
            if scope is not None:
                scope.add(self)
            while not self._is_over:
                rest = at - monotonic()
                if self._read_armed > rest or self._read_armed + self._read_armed < rest:
                    self._arm_read(rest)
                try:
                    size = self._sock.recv_into(buffer)
                except BlockingIOError:
                    continue
                except OSError:
                    if self._is_over:
                        break
                    raise
                if size or not self._is_over:
                    return size
            raise aborted()
        finally:
            readers.remove(me)
            if scope is not None:
                scope.discard(self)
            if self._is_closed:
                self._release()

    def read_now(self, max_bytes: int) -> bytes | None:
        inside = self._inside
        try:
            inside.append(None)
            if self._is_over:
                raise aborted()
            data = self._sock.recv(max_bytes, socket.MSG_DONTWAIT) if self._look(0) else None
            if not data and self._is_over:  # the end that abort makes is not the peer's
                raise aborted()
            return data
        except BlockingIOError:  # what poll saw was no more than a bad checksum
            return None
        finally:
            inside.pop()
            if self._is_closed:
                self._release()

    def is_readable(self) -> bool:
        inside = self._inside
        try:
            inside.append(None)
            return self._is_over or self._look(0) != []
        finally:
            inside.pop()
            if self._is_closed:
                self._release()

    # -- writing ---------------------------------------------------------------------------------------------------

    async def send(self, data: Buffer | Sequence[Buffer], at: float, stop_if_readable: bool = False) -> int:
        if stop_if_readable:
            return await super().send(data, at, True)
        scope = racing.get()
        try:
            self._writer = get_ident()
            if scope is not None:
                scope.add(self)
            if self._unsent or not isinstance(data, bytes):
                return self._send_pieces(views(data), at)
            size = len(data)
            if size:
                gone = self._send_once(data, at)
                if gone < size:
                    self._send_pieces([memoryview(data)[gone:]], at)
            elif self._is_over:
                raise aborted()
            return size
        finally:
            self._writer = 0
            if scope is not None:
                scope.discard(self)
            if self._is_closed:
                self._release()

    def _send_pieces(self, pieces: list[memoryview], at: float) -> int:
        size = sum(map(len, pieces))
        if not self._unsent and len(pieces) <= IOV_MAX:
            # The common case, head and body: one sendmsg, and nothing is kept.
            gone = self._send_once(pieces, at) if pieces else 0
            if gone == size:
                return size
            self._keep(pieces)
            self._forget(gone)
        else:
            self._keep(pieces)
        while self._kept:
            # What a time-out or an interrupt leaves stays kept, as in the other worlds.
            self._forget(self._send_once([self._kept[i] for i in range(min(len(self._kept), IOV_MAX))], at))
        return size

    def _send_once(self, data: bytes | list[memoryview], at: float) -> int:
        """One system call that waits until bytes have gone out: their number."""
        while not self._is_over:
            rest = at - monotonic()
            if self._write_armed > rest or self._write_armed + self._write_armed < rest:
                self._arm_write(rest)
            try:
                if isinstance(data, bytes):
                    return self._sock.send(data, QUIET)
                return self._sock.sendmsg(data, (), QUIET)
            except BlockingIOError:
                continue
            except OSError:
                if self._is_over:
                    break
                raise
        raise aborted()

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        inside = self._inside
        try:
            inside.append(None)
            super().write_now(data)
        except OSError:
            if self._is_over:
                raise aborted() from None
            raise
        finally:
            inside.pop()
            if self._is_closed:
                self._release()

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def wait(self, read: bool, write: bool, at: float) -> None:
        readers, me, scope = self._readers, get_ident(), racing.get()
        if not read and self._writer not in (0, me):
            raise _busy()
        try:
            if read:
                readers.append(me)
                if readers[0] != me:
                    raise _busy()
            else:
                self._writer = me
            if scope is not None:
                scope.add(self)
            poll = self._poll_for(read, write)
            longest = DEAF if read and self._bell is None else LONGEST
            while not self._is_over:
                rest = at - monotonic()
                if rest <= 0:
                    raise too_late()
                is_nudged = read and self._is_nudged
                ready = [] if is_nudged else poll.poll(milliseconds(min(rest, longest)))
                if is_nudged or ready:
                    if self._is_over:
                        break
                    if read and (is_nudged or self._is_nudged or len(ready) > 1 or ready[0][0] != self._fd):
                        self._calm()
                    return
            raise aborted()
        except RuntimeError:  # a signal handler waits while the thread that it runs in polls already
            raise _busy() from None
        finally:
            if read:
                readers.remove(me)
            else:
                self._writer = 0
            if scope is not None:
                scope.discard(self)
            if self._is_closed:
                self._release()

    def _poll_for(self, read: bool, write: bool) -> select.poll:
        """What waits. That for readability is kept, and hears the bell. To write alone somebody else may wait at the
        same time, and seldom does: that one is made each time."""
        kept = self._poll
        if read and kept is not None and write == self._polls_write:
            return kept
        poll = select.poll()
        if self._is_over:  # there may be no descriptor any more, and nobody will poll
            return poll
        poll.register(self._sock, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
        if read:
            bell = self._bell if self._bell is not None else self._hang()
            if bell is not None:  # else not kept, so that the next wait tries again to have one
                poll.register(bell, select.POLLIN)
                self._poll = poll
                self._polls_write = write
        return poll

    def _hang(self) -> Bell | None:
        """Make the bell, if it can be had: a wait worked without one for as long as there was none."""
        try:
            self._bell = bell = Bell()
        except OSError:
            return None
        return bell

    def nudge(self) -> None:
        if self._is_nudged:  # and whoever waits is about to return
            return
        self._is_nudged = True
        bell = self._bell
        if self._readers and bell is not None:
            try:
                bell.ring()
            except BaseException:  # an interrupt, and nobody would nudge again
                bell.ring()
                raise

    def _calm(self) -> None:
        """The wait returns: it was nudged, however often."""
        self._is_nudged = False
        if self._bell is not None:
            self._bell.silence()

    # -- the end ---------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        self._is_over = True
        inside = self._inside
        try:
            inside.append(None)
            if not self._is_closed:  # else the descriptor may be somebody else's
                self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # the peer has ended it already
            pass
        finally:
            inside.pop()
            if self._is_closed:
                self._release()

    def close(self) -> None:
        self._is_over = True
        if self._readers or self._writer:
            self.abort()
        self._is_closed = True
        self._release()

    def disown(self) -> None:
        self._is_closed = True
        self._writer = 0
        self._readers, self._inside = [], []  # the threads that were inside do not exist here
        super().disown()
        self._release()

    def _release(self) -> None:
        """Close the descriptor, unless somebody is inside: that one does it on leaving."""
        if not (self._readers or self._writer or self._inside):
            self._sock.close()
            self._kept.clear()
            self._unsent = 0
            if self._bell is not None:
                self._bell.close()


def _busy() -> Busy:
    return Busy("another thread waits on this stream already: a stream has one user at a time")
