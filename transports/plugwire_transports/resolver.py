"""The resolver "system": `getaddrinfo`, in threads of its own, so that a deadline ends it in every world.

How it works. getaddrinfo waits as long as it likes, cannot be ended, and tells no TTL. So:

1. *A look-up belongs to nobody.* It runs in a daemon thread. Who asks for a name waits for it with a waiter and a
   deadline of its own; who leaves, by a cancel or because time is up, does not end it for the others.
2. *One look-up for a name at a time* in each session: who asks for the same name meanwhile waits for the same answer.
   So a name that hangs holds one thread, however often it is asked for.
3. *`MAX_THREADS` threads in the process* hold the rest in bounds: names that hang are many when a network is down, and
   sessions may be as many as calls (`plugwire.get`). Further look-ups stand in line, until there is room or nobody
   waits for them any more.
4. *What was found is kept* for `ttl` seconds from the question, `max_entries` names at most, the oldest going first, in
   each session for itself. A failed dial of all addresses drops it at once (`forget`): the host may have moved. Only
   successes are kept. Why a name failed may pass by the next second, and the system's own resolver remembers failures
   where somebody configured it to.

A session has one `_Names`; its lock guards cache, look-ups and who waits for them. Under it nothing waits for a peer.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from copy import copy
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from plugwire.errors import UsageError
from plugwire.protocols import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.protocols import Connecting, Route, Waiter

Addresses: TypeAlias = "tuple[Address, ...]"

MAX_THREADS: Final = 64
"""Threads of the process that are in getaddrinfo at once."""


class SystemResolver:
    """The operating system's own resolver, with a cache. Numeric addresses are taken as they are.

    `Session(transports=[SystemResolver(ttl=5)])` takes the place of the one that every session has.

    Args:
        max_entries: names that are remembered, in each session; 0: none.
        ttl: seconds for which they are. 30 is what the JVM takes where no TTL is known, between aiohttp's 10 and curl's
            60: long enough for one look-up to serve a burst of connections, short enough for a host that moves.
            0: every connection looks its host up anew.

    Raises:
        UsageError: a value that means nothing.
    """

    name = "system"
    honours = frozenset[str]()

    def __init__(self, *, max_entries: int = 1000, ttl: float = 30.0) -> None:
        if not isinstance(max_entries, int) or isinstance(max_entries, bool) or max_entries < 0:
            raise UsageError(f"max_entries={max_entries!r}: a whole number from 0")
        if not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or not 0 <= ttl < inf:
            raise UsageError(f"ttl={ttl!r}: a number of seconds from 0")
        self.max_entries = max_entries
        self.ttl = ttl

    def refuse(self, route: Route) -> str | None:
        """Takes every route."""
        return None

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        """Addresses in the order of RFC 6724, as getaddrinfo gives them.

        Raises:
            OSError: what getaddrinfo says (`socket.gaierror`).
            TimeoutError: the deadline has passed.
        """
        numeric = _numeric(host, port)
        if numeric is not None:
            return [numeric]
        names, runtime, call = self._names(connecting), connecting.runtime, connecting.call
        waiter = runtime.waiter()
        found = names.ask(host, port, runtime.now(), waiter)
        if isinstance(found, _LookUp):
            try:
                with call.waiting(waiter):
                    in_time = await waiter.wait(connecting.deadline.at)
            except GeneratorExit:
                found.desert(waiter)
                raise
            except BaseException:
                names.leave(found, waiter)
                raise
            names.leave(found, waiter)
            call.check()
            if not in_time:
                raise TimeoutError
            found = found.result()
        return [address._replace(port=port) for address in found]

    def forget(self, host: str, port: int, connecting: Connecting) -> None:
        """Look the host up anew when it is asked for next."""
        self._names(connecting).forget(host)

    def _names(self, connecting: Connecting) -> _Names:
        # By session, as its points in time are: an object that is given to several would mix up their clocks.
        return connecting.call.session.state(self, lambda runtime: _Names(_Cache(self.max_entries, self.ttl)))


class _Cache:
    """What was found, for a while. No clock, no lock.

    All entries live equally long, so the order in which they were kept is the order in which they end.
    """

    def __init__(self, max_entries: int, ttl: float) -> None:
        self._max_entries = max_entries
        self._ttl = ttl
        self._found: dict[str, tuple[float, Addresses]] = {}  # until when, and what

    def __len__(self) -> int:
        return len(self._found)

    def get(self, host: str, now: float) -> Addresses | None:
        """The addresses, if they are still good."""
        until, addresses = self._found.get(host, (now, None))
        return addresses if now < until else None

    def put(self, host: str, addresses: Addresses, now: float) -> None:
        """Keep what was asked for at `now`; the oldest make room."""
        found = self._found
        found.pop(host, None)
        while found and (len(found) >= self._max_entries or next(iter(found.values()))[0] <= now):
            del found[next(iter(found))]
        if self._max_entries and self._ttl:
            found[host] = (now + self._ttl, addresses)

    def drop(self, host: str) -> None:
        """Forget one."""
        self._found.pop(host, None)


class _Names:
    """The names of one session: what is known of them, and who waits for which look-up."""

    def __init__(self, cache: _Cache) -> None:
        self._cache = cache
        self.after_fork()

    def after_fork(self) -> None:
        """At first, and in the child of a fork, which has none of the threads that look up or hold the lock."""
        self._lock = threading.Lock()
        self._looking: dict[str, _LookUp] = {}

    def ask(self, host: str, port: int, now: float, waiter: Waiter) -> Addresses | _LookUp:
        """The addresses; or a look-up, which wakes the waiter when it is over."""
        with self._lock:
            found = self._cache.get(host, now)
            if found is not None:
                return found
            look_up = self._looking.get(host)
            if look_up is None:
                look_up = _LookUp(self, host, port, now)
                _threads.begin(look_up)
                self._looking[host] = look_up
            look_up.waiters.append(waiter)
            return look_up

    def leave(self, look_up: _LookUp, waiter: Waiter) -> None:
        """`waiter` does not wait any more. Of a look-up that has not begun, the last one to leave is the end."""
        with self._lock:
            if waiter in look_up.waiters:
                look_up.waiters.remove(waiter)
            if not look_up.waiters and not look_up.has_begun:
                self._end(look_up)
                _threads.withdraw(look_up)

    def may_begin(self, look_up: _LookUp) -> bool:
        """A thread is there for it. False: nobody waits for it."""
        with self._lock:
            if not look_up.waiters:
                self._end(look_up)
                return False
            look_up.has_begun = True
            return True

    def finish(self, look_up: _LookUp) -> None:
        """It has its result."""
        with self._lock:
            self._end(look_up)
            if look_up.error is None:
                self._cache.put(look_up.host, look_up.addresses, look_up.asked_at)
            waiters, look_up.waiters = look_up.waiters, []
        for waiter in waiters:
            waiter.wake()

    def forget(self, host: str) -> None:
        with self._lock:
            self._cache.drop(host)

    def _end(self, look_up: _LookUp) -> None:
        if self._looking.get(look_up.host) is look_up:
            del self._looking[look_up.host]


class _LookUp:
    """One call of getaddrinfo."""

    def __init__(self, names: _Names, host: str, port: int, asked_at: float) -> None:
        self.names = names
        self.host = host
        self.port = port
        self.asked_at = asked_at
        self.waiters: list[Waiter] = []
        self.has_begun = False
        self.addresses: Addresses = ()
        self.error: Exception | None = None

    def desert(self, waiter: Waiter) -> None:
        """`waiter` was dropped, perhaps by the collector inside of a step under one of the locks. So none is taken: a
        look-up that stands in line and that nobody waits for ends when its turn comes."""
        try:
            self.waiters.remove(waiter)
        except ValueError:  # it was woken already
            pass

    def run(self) -> None:
        """In a thread."""
        if not self.names.may_begin(self):
            return
        try:
            found: list[Any] = list(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
            # place: (host, port), and for IPv6 flowinfo and scope_id
            self.addresses = tuple(dict.fromkeys(Address(family, *place) for family, _, _, _, place in found))
        except UnicodeError as error:
            # A label over 63 characters: the idna codec raises before any look-up.
            self.error = socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}")
        except Exception as error:
            self.error = error.with_traceback(None)
        finally:
            self.names.finish(self)

    def result(self) -> Addresses:
        """What came of it. Each who waited gets an exception of his own, for they are written on as they rise."""
        if self.error is not None:
            raise copy(self.error)
        return self.addresses


class _Threads:
    """Look-ups that run, `MAX_THREADS` at once, and those that stand in line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: dict[_LookUp, None] = {}  # in order
        self._working: set[threading.Thread] = set()

    def begin(self, look_up: _LookUp) -> None:
        """Run it, or let it stand in line.

        Raises:
            OSError: the system has no thread to give.
        """
        with self._lock:
            if len(self._working) >= MAX_THREADS:
                self._line[look_up] = None
                return
            name = f"plugwire resolves {look_up.host}"
            thread = threading.Thread(target=self._work, args=(look_up,), name=name, daemon=True)
            try:
                self._working.add(thread)
                thread.start()
            except BaseException as error:
                self._working.discard(thread)
                if isinstance(error, RuntimeError):
                    raise OSError(errno.EAGAIN, "no thread for the look-up can be started") from error
                raise

    def withdraw(self, look_up: _LookUp) -> None:
        """Take it out of the line, if it is there."""
        with self._lock:
            self._line.pop(look_up, None)

    def _work(self, look_up: _LookUp) -> None:
        while True:
            look_up.run()
            with self._lock:
                if not self._line:
                    self._working.discard(threading.current_thread())
                    return
                look_up = next(iter(self._line))
                del self._line[look_up]


_threads = _Threads()


def _after_fork() -> None:
    global _threads
    _threads = _Threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _numeric(host: str, port: int) -> Address | None:
    """The address that the host is already, or None. A scope ("fe80::1%eth0") is left to getaddrinfo."""
    for family in (socket.AF_INET6,) if ":" in host else (socket.AF_INET,):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return Address(family, host, port)
    return None
