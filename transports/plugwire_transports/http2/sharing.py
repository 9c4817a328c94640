"""How threads and tasks share one HTTP/2 connection: who reads, who writes, who waits. The only file of this package
that awaits on the stream.

Theory. There is no reader in the background, in no world. Who waits for something (a head, content, room to send)
reads, for all: one at a time, the *leader*; the others park as *followers*. The rules, each found by a failing run:

1. One lock guards the wire, the moves of the stream below, and who leads and who follows. Under it there is only
   computing and moves that never wait. Only the leader waits on the stream, outside of the lock.
2. Who waits (`wait_for`) returns if it is served already; else it leads if nobody does; else it follows.
3. Waking a follower takes it out of the followers. A wake for nothing is normal: everybody looks again.
4. Who stops leading, however it stops (served, time-out, cancel, KeyboardInterrupt), names the first follower leader
   and wakes it, under the lock and without awaiting. Who was named while it was giving up passes it on the same way.
   Forget this once and everybody waits for ever.
5. Nobody waits for writability without reading: a peer that has filled our receive buffer may read nothing until we
   do. The leader waits for both while bytes are unsent; who leaves bytes unsent nudges a leader that does not.
6. Cancelling is one synchronous step: RST_STREAM, forget, write what goes out. It waits for nobody (rule 8).
7. `_is_torn` is set while the wire is being moved. Found set under the lock, it means that an interrupt came in
   between: then nobody knows what was said, and the connection ends.
8. Finalisers and signal handlers run anywhere: inside of a step of their own thread, or of one on another connection,
   whose lock they hold. So they never wait for the lock. They leave a wish (`_dropped`, `_gone`, `_is_aborted`,
   `_is_given_up`), say so (`_has_news`), and see to it themselves if the lock is free. Who had the lock looks at
   `_has_news` after each step. The collector ends blocks too (`async with`, a generator's `with`), so whatever closes
   or cancels may be in a finaliser and not know it: it always goes by a wish.

The bytes of a new request enter the wire at once. Alone they are written at once too; with other streams open the first
task lets all that are ready run (`turn`), and writes for everybody who came meanwhile: one record, one system call.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from plugwire import ConnectionClosed, Error
from plugwire.protocols import LOCAL_ADDRESS, PEER_ADDRESS, TLS, Connection, ConnectionInfo, Stream, connection_ids
from plugwire_transports.exchange import is_too_late
from plugwire_transports.http2.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.protocols import Connecting
    from plugwire_transports.http2 import KeepAlive
    from plugwire_transports.http2.exchange import HTTP2Exchange

READ_SIZE: Final = 65536
READ_AT_ONCE: Final = 262144
"""Bytes that one look at the stream takes at most: others wait for the lock meanwhile."""

UNSENT_AT_MOST: Final = 262144
"""With more than this not gone out, no stream adds content: it would only lie in memory."""

CANCEL: Final = 0x8
"""RFC 9113, 7."""

TORN: Final = "a thread was interrupted while it moved the connection"
"""Rule 7: why it ends, before anybody makes another move on it."""

SLICE: Final = 0.1
"""Seconds that a leader waits at a time on a stream that cannot be nudged."""


class SharedConnection(Connection):
    """An HTTP/2 connection, but for what a request does on it."""

    scopes_calls = True

    def __init__(self, stream: Stream, connecting: Connecting, keep_alive: KeepAlive | None) -> None:
        self.capacity = 100
        self.is_idle = True
        self.is_draining = False
        self.is_closed = False
        self.info = ConnectionInfo(
            next(connection_ids), "HTTP/2", stream.extra(LOCAL_ADDRESS), stream.extra(PEER_ADDRESS), stream.extra(TLS)
        )
        self.stream = stream
        self._limits = connecting.limits
        self._changed: Callable[[Connection], None] = connecting.changed
        self._runtime = connecting.runtime
        self._now = connecting.runtime.now
        self._wire = Wire(connecting.limits)
        self.lock = threading.RLock()
        self._is_torn = False
        self._leader: HTTP2Exchange | None = None
        self._leader_writes = False
        self._followers: dict[HTTP2Exchange, None] = {}
        self._served: list[HTTP2Exchange] = []
        self._is_blocked = False  # some follower waits for unsent bytes to go out
        self._flusher: HTTP2Exchange | None = None  # who will write what is queued
        self._is_dry = False  # the last look at the stream found nothing
        self._has_news = False  # for the pool
        self._dropped: deque[HTTP2Exchange] = deque()  # to be reset
        self._gone: deque[tuple[HTTP2Exchange, Callable[[], bool]]] = deque()  # who waits no more, and for what it did
        self._is_aborted = False
        self._is_given_up = False  # it is to be closed
        self._is_last = False  # a caller said "Connection: close"
        self._can_nudge = type(stream).nudge is not Stream.nudge
        self._keep_alive = keep_alive
        self._heard_at = self._now()
        self._pinged_at: float | None = None

    # -- waiting: one leads, the others follow ---------------------------------------------------------------------

    async def wait_for(self, exchange: HTTP2Exchange, ready: Callable[[], bool], at: float) -> None:
        """Return once `ready()`, which is asked under the lock. One wait of an exchange at a time.

        Raises:
            TimeoutError: `at` has passed.
        """
        exchange.ready = ready
        try:
            try:
                with exchange.call.waiting(exchange, shared=True):
                    while not self._is_served(exchange, ready):
                        waiter = exchange.waiter
                        if waiter is None:
                            await self._lead(at)
                        elif not await waiter.wait(at) and not ready():
                            raise TimeoutError
            except GeneratorExit:  # dropped while it waited, perhaps by the collector
                self._gone.append((exchange, ready))
                self._has_news = True
                raise
            except BaseException:
                self._give_up(exchange)
                raise
            finally:
                if self._has_news:
                    self.settle()
        except GeneratorExit:
            raise
        except BaseException:
            self._give_up(exchange)  # an interrupt, in the very step of giving up
            raise

    def _is_served(self, exchange: HTTP2Exchange, ready: Callable[[], bool]) -> bool:
        """Rule 2. If not served, it leads from here on, or follows and has a waiter."""
        with self.lock:
            leads = self._leader is exchange
            if self._leader is None:
                self._leader = exchange
                leads = True
            if leads and not self._is_dry:
                self._move(exchange)
            if ready():
                self._leave(exchange)
                return True
            if self.is_closed:
                # Every open stream was told; this is for who comes later.
                raise ConnectionClosed("the HTTP/2 connection is closed")
            if leads:
                self._followers.pop(exchange, None)
                exchange.waiter = None
                self._leader_writes = self.stream.unsent > 0
            else:
                exchange.waiter = self._runtime.waiter()
                self._followers[exchange] = None
                if exchange.is_aborted:  # just now, by another thread, which may have found no waiter
                    exchange.waiter.wake()
        if self._has_news:
            self.settle()
        return False

    async def _lead(self, at: float) -> None:
        """The leader's wait, for all."""
        began = self._now()
        if began >= at:
            raise TimeoutError  # asked here, because a stream that always has something for others never asks
        if not self._is_dry:
            # There is more than one look takes. The stream must not be waited on: it may hold what it has to give.
            await self._runtime.turn()
            return
        until = at if self._can_nudge else min(at, began + SLICE)
        if self._keep_alive is not None:
            until = min(until, self._next_ping(self._keep_alive))
        try:
            await self.stream.wait(True, self._leader_writes, until)
        except OSError as error:
            if not is_too_late(error):
                with self.lock:
                    self._break(error)
                return
            if self._now() >= at:
                raise
            if self._keep_alive is not None:
                self._ping(self._keep_alive)
        else:
            self._is_dry = False
            if (rested := self._now() - began) >= 1:
                with self.lock:
                    self._wire.rested(rested)

    def _give_up(self, exchange: HTTP2Exchange) -> None:
        if exchange.ready is not None:
            with self.lock:
                self._leave(exchange)

    def _leave(self, exchange: HTTP2Exchange) -> None:
        """The exchange does not wait any more. If it leads, the first follower does from here on. Under the lock.

        An interrupt may come between any two of these steps: then all are done once more. So who is to lead is woken
        before it is named, and named before it is no follower any more.
        """
        self._followers.pop(exchange, None)
        if self._leader is exchange:
            self._leader_writes = False
            self._leader = None
        if self._leader is None:
            for follower in self._followers:
                assert follower.waiter is not None
                follower.waiter.wake()
                self._leader = follower
                del self._followers[follower]
                break
        if self._served:  # left by an interrupt
            self._wake_served()
        exchange.ready = exchange.waiter = None  # last: it tells that nothing is left to do

    def served(self, exchange: HTTP2Exchange) -> None:
        """The wire told the exchange something: it may be what it waits for. Under the lock."""
        if exchange.ready is not None:
            self._served.append(exchange)

    def _wake_served(self) -> None:
        """Wake the followers that got what they wait for. Under the lock."""
        served = self._served
        if not served:
            return
        followers = self._followers
        for exchange in served:
            if exchange in followers and exchange.ready is not None and exchange.ready():
                assert exchange.waiter is not None
                exchange.waiter.wake()
                del followers[exchange]
        served.clear()

    # -- moving bytes (under the lock) -----------------------------------------------------------------------------

    def _move(self, leader: HTTP2Exchange | None) -> None:
        """Read what is there, act on it, write what is queued. Stops early when the leader alone is served."""
        if self.is_closed:
            return
        if self._is_torn:
            self._die(TORN)
            return
        wire, stream = self._wire, self.stream
        left = READ_AT_ONCE
        try:
            while left > 0:
                self._is_torn = True  # from here on: what was read must not be lost
                data = stream.read_now(READ_SIZE)
                if data is None:
                    self._is_torn = False
                    self._is_dry = True
                    break
                self._is_dry = False
                if not data:
                    self._die("the peer closed the connection")
                    break
                if self._keep_alive is not None:
                    self._heard_at = self._now()
                    self._pinged_at = None
                left -= len(data)
                wire.feed(data)
                self._is_torn = False
                if leader is not None and not self._followers and leader.ready is not None and leader.ready():
                    break
        except Error as error:  # the connection is over; GOAWAY is queued, and everybody was told
            self._is_torn = False
            self._end(str(error))
        except OSError as error:
            self._break(error)
        self._measure()
        if stream.unsent or (wire.queued and self._flusher is None):
            self._write_out()
        self._wake_served()

    def _write_out(self) -> None:
        """Write what is queued, as far as it goes out."""
        if self._is_torn:
            self._die(TORN)
        if self.is_closed:
            return
        stream = self.stream
        try:
            # A peer that reads nothing must not make us pile up answers: the wire counts those that it still has.
            self._is_torn = True
            if self._wire.queued and stream.unsent < UNSENT_AT_MOST:
                stream.write_now(self._wire.take())
            elif stream.unsent:
                stream.write_now(b"")
                if self._wire.queued and stream.unsent < UNSENT_AT_MOST:
                    stream.write_now(self._wire.take())
            else:
                self._is_torn = False
                return
            self._is_torn = False
        except OSError as error:
            self._break(error)
            return
        if stream.unsent:
            if self._leader is not None and not self._leader_writes:
                stream.nudge()  # first: nobody would do it again after an interrupt
                self._leader_writes = True
        elif self._is_blocked:
            self._is_blocked = False
            self._served.extend(self._followers)
            self._wake_served()

    def _flush(self) -> None:
        """Write for everybody who came meanwhile."""
        with self.lock:
            self._write_out()
            self._flusher = None
        if self._has_news:
            self.settle()

    def look(self, exchange: HTTP2Exchange) -> None:
        """Take in what has come, if nobody leads who does it anyway."""
        if self._is_torn or (self._leader is None and not exchange.held):
            self._move(None)

    def room(self, exchange: HTTP2Exchange) -> int:
        """Bytes of content that the exchange may hand to the wire now."""
        stream = exchange.stream
        if stream is None or self.is_closed:
            return 0
        room = self._wire.room(stream)
        if room > 0:
            unsent = self.stream.unsent
            if unsent:
                room = min(room, UNSENT_AT_MOST - unsent)
                if room <= 0:
                    self._is_blocked = True
        return max(room, 0)

    def left_below(self, exchange: HTTP2Exchange) -> int:
        """Bytes that have not gone out and that nobody but the exchange itself would send."""
        return self.stream.unsent if self._leader is None or self._leader is exchange else 0

    def taken(self, exchange: HTTP2Exchange, size: int) -> None:
        """The caller has read so much: the stream's window goes back, in steps."""
        self._give_back(exchange, exchange.uncredited(size))

    def credit(self, exchange: HTTP2Exchange) -> None:
        """What has come will be read for certain: its window goes back before that."""
        self._give_back(exchange, exchange.credit())

    def _give_back(self, exchange: HTTP2Exchange, size: int) -> None:
        if self._is_torn:
            self._die(TORN)
        stream = exchange.stream
        if size and stream is not None and not (exchange.is_ended or exchange.failure is not None or self.is_closed):
            self._wire.consumed(stream, size)
            if self._wire.queued and self._flusher is None:
                self._write_out()

    def write(self, exchange: HTTP2Exchange, data: memoryview, ends: bool = False) -> None:
        """Content of a tunnel, at most `room` bytes."""
        if self._is_torn:
            self._die(TORN)
        stream = exchange.stream
        if stream is not None and exchange.failure is None and not exchange.is_sent:
            self._is_torn = True
            self._wire.send(stream, data, ends)
            exchange.is_sent = ends
            self._is_torn = False
            self._measure()
            self._write_out()

    # -- ending ----------------------------------------------------------------------------------------------------

    def cancel(self, exchange: HTTP2Exchange) -> None:
        """Be done with a stream; reset it if it has not ended. Never awaits, nor waits for the lock: if somebody is in
        the midst of a step, it is done after that."""
        if exchange.is_settled and not (self._is_torn or self._flusher is exchange or self._is_inside()):
            exchange.stream = None  # which knows the exchange: no cycle may be left for the collector
            if self._has_news:
                self.settle()
            return
        try:
            self._dropped.append(exchange)
            self._has_news = True
            # Perhaps nobody else holds the connection any more: then the pool takes it now, or it is lost.
            self.settle()
        except BaseException:  # an interrupt; and a wish that nobody grants is such a cycle, too
            self._has_news = True
            self.settle()
            raise

    def _is_inside(self) -> bool:
        """Whether this very thread is in the midst of a step."""
        # `threading.Condition` asks the same.
        return cast("bool", cast("Any", self.lock)._is_owned())

    def _tidy(self) -> bool:
        """See to the wishes, without waiting for the lock. False: somebody has it, and sees to them after his step."""
        lock = self.lock
        if self._is_inside():
            return False
        try:
            try:
                if not lock.acquire(blocking=False):
                    return False
                self._grant()
                return True
            finally:
                if self._is_inside():
                    lock.release()
        except BaseException:  # perhaps an interrupt, between two steps of getting or giving back the lock
            if self._is_inside():
                lock.release()
            raise

    def _grant(self) -> None:
        """Each wish is forgotten after it was granted, for an interrupt may come in between."""
        while self._gone:
            exchange, ready = self._gone[0]
            if exchange.ready is ready:  # else it waits for something else by now
                self._leave(exchange)
            self._gone.popleft()
        while self._dropped:
            exchange = self._dropped[0]
            self._reset(exchange)
            if self._flusher is exchange:
                self._write_out()
                self._flusher = None
            self._dropped.popleft()
        if self._is_to_close():
            if self._is_given_up and not self._is_torn:
                self._wire.shutdown()
            self._die("the connection was closed on this side")

    def _is_to_close(self) -> bool:
        """Whether that is a wish. After an abort the leader hears of it from the stream, and closes."""
        return not self.is_closed and (self._is_given_up or (self._is_aborted and self._leader is None))

    def _reset(self, exchange: HTTP2Exchange) -> None:
        if self._is_torn:
            self._die(TORN)
        stream = exchange.stream
        if stream is None or exchange.is_settled or self.is_closed:
            exchange.stream = None  # as in `cancel`
            return
        self._was_used()
        self._is_torn = True
        self._wire.reset(stream, CANCEL)
        exchange.stream = None
        exchange.forget_content()
        self._is_torn = False
        self._measure()
        if self._flusher is None:
            self._write_out()

    def _break(self, error: OSError) -> None:
        """The stream failed. What the peer said before counts: a GOAWAY, an answer to an upload it did not want."""
        if self.is_closed:
            return
        try:
            while data := self.stream.read_now(READ_SIZE):
                self._wire.feed(data)
        except (OSError, Error):
            pass
        self._die(error.strerror or str(error) or type(error).__name__)

    def _die(self, reason: str) -> None:
        """The connection is over: everybody is told, the stream is closed. Under the lock."""
        if not self.is_closed:
            self._wire.eof(reason)
            self._end(reason)

    def _end(self, reason: str) -> None:
        """The same, when the wire has told everybody."""
        if self.is_closed:
            return
        if self._wire.queued:  # GOAWAY, with the reason
            try:
                self.stream.write_now(self._wire.take())
            except OSError:
                pass
        self.is_closed = True
        self._is_torn = False
        self.stream.close()
        self._measure()
        self._served.extend(self._followers)
        self._wake_served()

    # -- the connection's own life ---------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Bring what the pool looks at up to date; `settle` tells it, after the lock."""
        wire = self._wire
        open_streams = wire.open_streams
        has_news = self.is_closed
        if self.is_closed:
            capacity, is_idle = 0, True
        else:
            if not self.is_draining and (wire.is_draining or self._is_last):
                self.is_draining = has_news = True
            capacity = 0 if self.is_draining else max(wire.max_streams - open_streams, 0)
            is_idle = open_streams == 0
        has_news = has_news or capacity > self.capacity or (is_idle and not self.is_idle)
        self.capacity = capacity
        self.is_idle = is_idle
        if has_news:  # last: another thread may settle at once, and must find what there is to be told
            self._has_news = True

    def _was_used(self) -> None:
        """What comes from now on is not the connection's first request."""
        if not self.info.reused:
            self.info = self.info._replace(reused=True)

    def settle(self) -> None:
        """After a step, without the lock: grant the wishes, and tell the pool what it must know."""
        while self._has_news:
            is_over = self._is_aborted or self._is_given_up
            if (self._dropped or self._gone or is_over) and not self._tidy():
                return
            self._has_news = False  # first: what is noted from here on is news again
            if not (self._dropped or self._gone or self._is_to_close()):
                self._changed(self)
                return
            self._has_news = True  # a wish that came just now, and whose owner may have found the lock taken

    def is_fresh(self) -> bool:
        with self.lock:
            if self._leader is None:  # else another one has begun just now, and what was read here would not wake it
                self._is_dry = False
                self._move(None)
            is_fresh = not (self.is_closed or self.is_draining)
        return is_fresh

    def close(self) -> None:
        if not self.is_closed:
            self._is_given_up = self._has_news = True
            self.settle()

    def abort(self) -> None:
        self.stream.abort()
        # Without a leader nobody would notice, and close it. First noted, then the look, as in `cancel`.
        self._is_aborted = self._has_news = True
        self._tidy()

    def disown(self) -> None:
        self.lock = threading.RLock()  # the thread that held the old one may not exist here
        self.is_closed = self.is_idle = True
        self.capacity = 0
        self.stream.disown()

    # -- keep-alive ------------------------------------------------------------------------------------------------

    def _next_ping(self, keep_alive: KeepAlive) -> float:
        if self._pinged_at is None:
            return self._heard_at + keep_alive.interval
        return self._pinged_at + keep_alive.patience

    def _ping(self, keep_alive: KeepAlive) -> None:
        """Nothing came for so long: ask whether the peer is there, or give up when it does not say so."""
        now = self._now()
        if now < self._next_ping(keep_alive):
            return
        with self.lock:
            # Nobody may have looked for a long time: then the answer is there.
            self._is_dry = False
            self._move(None)
            if self.is_closed or now < self._next_ping(keep_alive):
                pass
            elif self._pinged_at is None:
                self._pinged_at = now
                self._wire.ping()
                self._write_out()
            else:
                self._die(f"the peer did not answer a PING within {keep_alive.patience:g} s")
        if self._has_news:
            self.settle()
