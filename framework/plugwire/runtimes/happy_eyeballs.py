"""Dialling: the first of several addresses that answers (Happy Eyeballs, RFC 8305).

Theory. `Plan` decides, and is pure: which address is the next, and when it is due. `connect` acts: one text for all
worlds over non-blocking sockets. What a world adds is a `Readiness`, which waits until one of several sockets is ready.

Rules that hold here:

- The addresses come best first (RFC 8305, 4: the resolver has sorted them); families alternate from there on.
- One further address is begun each `stagger` seconds, or at once when an attempt has failed (RFC 8305, 5).
- Whatever ends `connect` (success, failure, time, a cancel, an interrupt), every socket but the returned one is closed,
  and every address that was reported as started is reported as finished or failed.
"""

from __future__ import annotations

import errno
import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from plugwire.events import Edge
from plugwire.runtimes.sockets import too_late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from plugwire.protocols import Address

    Seen: TypeAlias = Callable[[Address, Edge, BaseException | None], object]
    SocketOptions: TypeAlias = Sequence[tuple[int, int, int | bytes]]

UNIX_RETRY = 0.01
"""Seconds between two tries at a Unix socket whose backlog is full: the system reports no event for that."""


class Readiness(ABC):
    """Waits for several sockets at once. One waiter; `abort` may come from any thread."""

    @abstractmethod
    async def wait(
        self, reading: Sequence[socket.socket], writing: Sequence[socket.socket], at: float
    ) -> Sequence[socket.socket]:
        """Those that are ready (an error counts); none when `at` has passed, or for nothing.

        Raises:
            ConnectionAbortedError: it was aborted, before or now.
        """

    @abstractmethod
    def abort(self) -> None:
        """Wake the waiter with `ConnectionAbortedError`."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""


class Plan:
    """Decides which address is begun next, and when. No I/O, no clock."""

    def __init__(self, addresses: Iterable[Address], stagger: float) -> None:
        self._waiting = deque(alternate(addresses))
        self._stagger = stagger
        self.next_at = float("-inf")
        """When the next address is due; infinity when there is none."""
        if not self._waiting:
            self.next_at = float("inf")

    def next(self, now: float) -> Address | None:
        """The address to begin now, if one is due."""
        if now < self.next_at or not self._waiting:
            return None
        address = self._waiting.popleft()
        self.next_at = now + self._stagger if self._waiting else float("inf")
        return address

    def failed(self, now: float) -> None:
        """An attempt has failed: the next address is due at once (RFC 8305, 5)."""
        if self._waiting:
            self.next_at = now


def alternate(addresses: Iterable[Address]) -> list[Address]:
    """The families in turns, beginning with that of the first; within a family the order stays (RFC 8305, 4)."""
    families: dict[int, deque[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, deque()).append(address)
    result: list[Address] = []
    while families:
        for family in tuple(families):
            result.append(families[family].popleft())
            if not families[family]:
                del families[family]
    return result


async def connect(
    addresses: Sequence[Address],
    at: float,
    *,
    now: Callable[[], float],
    ready: Readiness,
    local_address: str | None,
    socket_options: SocketOptions,
    stagger: float,
    seen: Seen | None,
) -> socket.socket:
    """A connected, non-blocking TCP socket; see `Runtime.dial_tcp`."""
    if local_address is not None:
        family = socket.AF_INET6 if ":" in local_address else socket.AF_INET
        addresses = [address for address in addresses if address.family == family]
        if not addresses:
            raise OSError(errno.EADDRNOTAVAIL, f"no address of the host is of the family of {local_address}")
    if not addresses:
        raise OSError(errno.EADDRNOTAVAIL, "no address to dial")
    attempts = _Attempts(local_address, socket_options, seen)
    plan = Plan(addresses, stagger)
    reason: BaseException = ConnectionAbortedError("another address answered first")
    try:
        while True:
            while (address := plan.next(now())) is not None:
                if (winner := attempts.begin(address)) is not None:
                    return winner
                if not attempts.is_open(address):
                    plan.failed(now())
            if not attempts.open:
                raise attempts.summary()
            if now() >= at:
                raise too_late()
            for sock in await ready.wait((), tuple(attempts.open), min(at, plan.next_at)):
                if (winner := attempts.check(sock)) is not None:
                    return winner
                plan.failed(now())
    except BaseException as error:
        reason = error if isinstance(error, OSError) else ConnectionAbortedError("the dial was cancelled")
        raise
    finally:
        attempts.close(reason)
        del reason  # or the error and this frame would hold each other


class _Attempts:
    """The sockets that are connecting, and what became of the others."""

    def __init__(self, local_address: str | None, options: SocketOptions, seen: Seen | None) -> None:
        self.open: dict[socket.socket, Address] = {}
        self._errors: list[tuple[Address, OSError]] = []
        self._local_address = local_address
        self._options = options
        self._seen = seen

    def is_open(self, address: Address) -> bool:
        return address in self.open.values()

    def begin(self, address: Address) -> socket.socket | None:
        """Start to connect; the socket, if that was done at once."""
        if self._seen is not None:
            self._seen(address, Edge.STARTED, None)
        sock: socket.socket | None = None
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM)
            self.open[sock] = address
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for level, name, value in self._options:
                sock.setsockopt(level, name, value)
            if self._local_address is not None:
                sock.bind((self._local_address, 0))
            code = sock.connect_ex(endpoint(address))
        except OSError as error:
            self._failed(address, sock, error)
            return None
        if code in (errno.EINPROGRESS, errno.EINTR):
            return None
        return self._settle(sock, code)

    def check(self, sock: socket.socket) -> socket.socket | None:
        """`sock` has an answer: itself if it is connected."""
        return self._settle(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _settle(self, sock: socket.socket, code: int) -> socket.socket | None:
        if code:
            self._failed(self.open[sock], sock, OSError(code, os.strerror(code)))
            return None
        address = self.open.pop(sock)
        if self._seen is not None:
            self._seen(address, Edge.FINISHED, None)
        return sock

    def _failed(self, address: Address, sock: socket.socket | None, error: OSError) -> None:
        if sock is not None:
            self.open.pop(sock, None)
            sock.close()
        self._errors.append((address, error))
        if self._seen is not None:
            self._seen(address, Edge.FAILED, error)

    def close(self, reason: BaseException) -> None:
        """Close those that are still connecting, because of `reason`."""
        self._errors.clear()  # their tracebacks hold this object
        while self.open:
            sock, address = self.open.popitem()
            sock.close()
            if self._seen is not None:
                self._seen(address, Edge.FAILED, reason)

    def summary(self) -> OSError:
        """The first error, with the others as notes."""
        first = self._errors[0][1]
        for address, error in self._errors[1:]:
            first.add_note(f"{address}: {error}")
        return first


def endpoint(address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
    """What `connect` takes."""
    if address.family == socket.AF_INET6:
        return (address.host, address.port, address.flowinfo, address.scope_id)
    return (address.host, address.port)


async def connect_unix(path: str, at: float, *, now: Callable[[], float], ready: Readiness) -> socket.socket:
    """A connected, non-blocking Unix socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while (code := sock.connect_ex(path)) == errno.EAGAIN:
            if now() >= at:
                raise too_late()
            await ready.wait((), (), min(at, now() + UNIX_RETRY))
        if code == errno.EINPROGRESS:
            while not await ready.wait((), (sock,), at):
                if now() >= at:
                    raise too_late()
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code), path)
    except BaseException:
        sock.close()
        raise
    return sock
