"""The stream of the asyncio world (any loop that has `add_reader`: the stock selector loop, uvloop).

Theory. A stream registers its socket with the loop itself (`add_reader`) and stays registered, so that a wait costs no
system call. It does not use the loop's transports: closing one needs a turn of a living loop, so a stream that outlives
its loop could not be closed; and a transport is a reference cycle. Here `close` closes the descriptor at once, with the
loop running or gone.

Rules that hold here:

- **One receive buffer per runtime**, filled and emptied in one callback. (asyncio's plain Protocol allocates 256 KiB a
  read: 23 us in place of 9.) A waiting `receive_into` lends its own buffer; what came into it before a cancel goes to
  the queue, and after return or cancel the buffer is never touched.
- **Bytes go to the queue first; a future only wakes.** So a cancel between the two loses nothing.
- Reading pauses above 1 MiB in the queue. A low mark stalls: pausing costs system calls and a turn of the loop.
- **One timer per stream**, which arms itself again for a later deadline when it fires: moving a deadline forward, the
  common case, costs nothing. `close` cancels it, so that the loop keeps nothing.
- The loop holds streams weakly: a dropped stream closes its socket.
- **`close` may come from another thread**: that of the garbage collector, which closes a dropped session's streams
  while they are in use. The loop's tables and futures belong to its own, so there the rest is left to the loop. Who
  begins to wait shows its future and then looks whether the stream is over; who closes does it the other way around.
"""

from __future__ import annotations

import weakref
from asyncio import BaseEventLoop, current_task
from collections import deque
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any

from plugwire.errors import Busy
from plugwire.runtimes.sockets import SocketStream, aborted, too_late

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Iterable

INFINITY = float("inf")
RECEIVE_BUFFER = 65536
LEND_FROM = 16384
"""A buffer smaller than this is not lent: it would cost one system call and one turn of the loop for each filling."""
PAUSE_ABOVE = 1024 * 1024
RESUME_BELOW = PAUSE_ABOVE // 2


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The loop's clock; of the stock loop the function below it, which costs a third and is read several times for
    each request."""
    return monotonic if getattr(type(loop), "time", None) is BaseEventLoop.time else loop.time


class AsyncioStream(SocketStream):
    """A socket that is registered with an asyncio loop."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, shared: memoryview) -> None:
        self._loop = loop
        self._now = clock_of(loop)
        self._thread = get_ident()
        self._shared = shared
        self._fd = sock.fileno()
        self._me: weakref.ref[Any] = weakref.ref(self)
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._lent: memoryview | None = None
        self._came = 0  # bytes that came into the lent buffer
        self._is_ended = False  # the peer has ended its side, or reading has failed
        self._read_error: OSError | None = None
        self._write_error: OSError | None = None
        self._reading: asyncio.Future[bool] | None = None
        self._read_at = INFINITY
        self._writing: dict[asyncio.Future[bool], float] = {}
        self._has_reader = False
        self._has_writer = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = INFINITY
        super().__init__(sock)
        self._listen()

    # -- what the loop calls ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        # With the socket, which the loop thereby holds: else the collector, when it finds stream and socket together,
        # may close it before the stream's finaliser has taken it from the loop, and its number is another one's.
        self._loop.add_reader(self._fd, _on_readable, self._me, self._sock)
        self._has_reader = True

    def _pause(self) -> None:
        if self._has_reader:
            self._has_reader = False
            self._loop.remove_reader(self._fd)

    def fill(self) -> None:
        """The socket is readable: move what is there to the lent buffer or the queue."""
        lent = self._lent
        try:
            size = self._sock.recv_into(self._shared if lent is None else lent)
        except BlockingIOError:
            return
        except OSError as error:
            self._read_error = _fresh(error)
            size = 0
        if not size:
            self._is_ended = True
            self._pause()
        elif lent is not None:
            self._lent = None
            self._came = size
        else:
            self._queue.append(bytes(self._shared[:size]))
            self._queued += size
            if self._queued > PAUSE_ABOVE:
                self._pause()
        waiting = self._reading
        if waiting is not None and not waiting.done():
            waiting.set_result(True)

    def drain(self) -> None:
        """The socket is writable: send what is kept, and wake who waits for that. Without somebody who waits nothing
        is sent: an upload that was stopped must not go on by itself."""
        if self._unsent and self._writing:
            try:
                self._flush()
            except OSError as error:
                self._write_error = _fresh(error)
                self._kept.clear()  # `unsent` stays as it is, so that the next write comes to `_flush` and raises
        if not self._kept or not self._writing:
            self._has_writer = False
            self._loop.remove_writer(self._fd)
        for waiting in self._writing:
            if not waiting.done():
                waiting.set_result(True)

    def expire(self) -> None:
        """The timer has fired: end the waits whose time is up, and arm it again for the others."""
        self._timer = None
        now = self._now()
        earliest = INFINITY
        waits = list(self._writing.items())
        if self._reading is not None:
            waits.append((self._reading, self._read_at))
        for waiting, at in waits:
            if waiting.done():
                continue
            if at <= now:
                waiting.set_result(False)
            else:
                earliest = min(earliest, at)
        self._arm(earliest)

    def _arm(self, at: float) -> None:
        timer = self._timer
        if timer is not None:
            if self._timer_at <= at:
                return  # fires before, and looks again then
            timer.cancel()
            self._timer = None
        if at < INFINITY:
            self._timer_at = at
            self._timer = self._loop.call_at(at, _on_time, self._me)

    # -- reading ---------------------------------------------------------------------------------------------------

    def is_readable(self) -> bool:
        return self._is_over or bool(self._queue) or self._is_ended or super().is_readable()

    def read_now(self, max_bytes: int) -> bytes | None:
        if self._is_over:
            raise aborted()
        # What is in the socket counts, though the loop has not told of it yet: an idle connection that the peer has
        # closed must not pass for fresh because the loop was busy.
        if not self._queue and not self._is_ended and self._look(0):
            self.fill()
        if self._queue or self._is_ended:
            return self._take(max_bytes)
        return None

    def _take(self, max_bytes: int) -> bytes:
        """From the queue, or the end when it is empty."""
        queue = self._queue
        if not queue:
            if self._read_error is not None:
                raise _fresh(self._read_error)
            return b""
        data = queue.popleft()
        if len(data) > max_bytes:
            queue.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._queued -= len(data)
        if not self._has_reader and not self._is_ended and self._queued < RESUME_BELOW:
            self._listen()
        return data

    def _begin_reading(self, at: float) -> asyncio.Future[bool]:
        if self._reading is not None:
            raise Busy("another task waits on this stream already: a stream has one user at a time")
        if self._timer is None or self._timer_at > at:
            self._arm(at)
        self._read_at = at
        self._reading = future = self._loop.create_future()
        if self._is_over:
            wake(future)
        return future

    async def receive(self, max_bytes: int, at: float) -> bytes:
        if self._now() >= at:
            raise too_late()
        while not self._is_over:
            if self._queue or self._is_ended:
                return self._take(max_bytes)
            future = self._begin_reading(at)
            try:
                is_in_time = await future
            finally:
                self._reading = None
            if not is_in_time and not self._queue and not self._is_ended:
                raise too_late()
        raise aborted()

    async def receive_into(self, buffer: memoryview, at: float) -> int:
        size = len(buffer)
        if size < LEND_FROM or self._queue or self._is_ended or self._is_over or self._reading is not None:
            data = await self.receive(size, at)
            buffer[: len(data)] = data
            return len(data)
        if self._now() >= at:
            raise too_late()
        future = self._begin_reading(at)
        self._lent, self._came = buffer, 0
        try:
            is_in_time = await future
        except BaseException:
            if self._came:
                self._queue.appendleft(bytes(buffer[: self._came]))
                self._queued += self._came
            raise
        finally:
            self._reading = self._lent = None
        if self._is_over:
            raise aborted()
        if self._came:
            return self._came
        if self._is_ended:
            return len(self._take(size))
        if not is_in_time:
            raise too_late()
        return await self.receive_into(buffer, at)  # woken for nothing

    # -- writing ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._write_error is not None:
            raise _fresh(self._write_error)
        super()._flush()

    def _watch(self) -> None:
        self._has_writer = True
        self._loop.add_writer(self._fd, _on_writable, self._me, self._sock)

    async def wait(self, read: bool, write: bool, at: float) -> None:
        if self._is_over:
            raise aborted()
        if read and (self._queue or self._is_ended):
            return
        if self._now() >= at:
            raise too_late()
        if read:
            future = self._begin_reading(at)
        else:
            self._arm(at)
            future = self._loop.create_future()
        if write:
            self._writing[future] = at
            if self._is_over:
                wake(future)
            elif not self._has_writer:
                self._watch()
        try:
            is_in_time = await future
        finally:
            if read:
                self._reading = None
            self._writing.pop(future, None)
        if self._is_over:
            raise aborted()
        if not is_in_time:
            raise too_late()

    def nudge(self) -> None:
        waiting = self._reading
        if waiting is not None:
            wake_from_anywhere(self._loop, self._thread, waiting)

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._is_over = True
        if self._sock.fileno() < 0:
            return
        waits = [*self._writing]
        reading = self._reading
        if reading is not None:
            waits.append(reading)
        if get_ident() != self._thread and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(_release, self._loop, self._fd, self._sock, self._timer, waits)
                return
            except RuntimeError:  # closed just now
                pass
        for waiting in waits:
            wake_from_anywhere(self._loop, self._thread, waiting)
        _release(self._loop, self._fd, self._sock, self._timer, ())
        self._timer = self._lent = None
        self._queue.clear()
        self._kept.clear()
        self._queued = self._unsent = 0

    def abort(self) -> None:
        self.close()


def _release(
    loop: asyncio.AbstractEventLoop,
    fd: int,
    sock: socket.socket,
    timer: asyncio.TimerHandle | None,
    waits: Iterable[asyncio.Future[bool]],
) -> None:
    """Be done with a socket; in the loop's thread, or after the loop."""
    for waiting in waits:
        wake(waiting)
    if not loop.is_closed() and sock.fileno() >= 0:  # else the number may be another one's
        loop.remove_reader(fd)
        loop.remove_writer(fd)
        if timer is not None:
            timer.cancel()
    sock.close()


def wake(waiting: asyncio.Future[bool]) -> None:
    """End a wait, unless it has ended."""
    if not waiting.done():
        waiting.set_result(True)


def wake_from_anywhere(loop: asyncio.AbstractEventLoop, thread: int, waiting: asyncio.Future[bool]) -> None:
    """End a wait of the loop, which runs in `thread`."""
    if get_ident() == thread and current_task(loop) is not None:
        wake(waiting)
        return
    # A finaliser may run in another thread, or between the loop's look at what is ready and its sleep, which only this
    # ends.
    try:
        loop.call_soon_threadsafe(wake, waiting)
    except RuntimeError:  # closed: nobody waits there any more
        pass


def _on_readable(stream_ref: weakref.ref[AsyncioStream], sock: socket.socket) -> None:
    stream = stream_ref()
    if stream is not None:
        stream.fill()


def _on_writable(stream_ref: weakref.ref[AsyncioStream], sock: socket.socket) -> None:
    stream = stream_ref()
    if stream is not None:
        stream.drain()


def _on_time(stream_ref: weakref.ref[AsyncioStream]) -> None:
    stream = stream_ref()
    if stream is not None:
        stream.expire()


def _fresh(error: OSError) -> OSError:
    """The same error without the traceback, which would hold the stream."""
    return type(error)(*error.args)
