"""Connected datagrams (UDP): one text for all worlds, over a `Readiness`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from plugwire.runtimes.happy_eyeballs import endpoint
from plugwire.runtimes.sockets import aborted, too_late

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.protocols import Address, Buffer
    from plugwire.runtimes.happy_eyeballs import Readiness


def connected(address: Address, local_address: str | None) -> socket.socket:
    """A non-blocking UDP socket that is connected to `address`."""
    sock = socket.socket(address.family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if local_address is not None:
            sock.bind((local_address, 0))
        sock.connect(endpoint(address))
    except BaseException:
        sock.close()
        raise
    return sock


class SocketDatagrams:
    """`Datagrams` over a non-blocking socket.

    They may be closed in any thread, by a finaliser if nobody else does. Who uses the socket marks itself inside and
    then looks whether it is over; who closes does it the other way around, and the last one out gives it back.
    """

    def __init__(self, sock: socket.socket, ready: Readiness, now: Callable[[], float]) -> None:
        self._is_over = False
        self._is_closed = False
        self._inside: list[None] = []
        self._sock = sock
        self._now = now
        self._ready = ready

    def __del__(self) -> None:
        if "_ready" in self.__dict__:
            self.close()

    def send_now(self, data: Buffer) -> bool:
        """Send one datagram; False if the socket's buffer is full."""
        inside = self._inside
        try:
            inside.append(None)
            if self._is_over:
                raise aborted()
            self._sock.send(data)
        except BlockingIOError:
            return False
        finally:
            inside.pop()
            if self._is_closed:
                self._release()
        return True

    async def receive(self, max_bytes: int, at: float) -> bytes:
        """One datagram, its rest dropped if it is longer than `max_bytes`."""
        inside = self._inside
        try:
            inside.append(None)
            while not self._is_over:
                if self._now() >= at:
                    raise too_late()
                try:
                    return self._sock.recv(max_bytes)
                except BlockingIOError:
                    pass
                await self._ready.wait((self._sock,), (), at)
            raise aborted()
        finally:
            inside.pop()
            if self._is_closed:
                self._release()

    def close(self) -> None:
        self._is_over = self._is_closed = True
        self._ready.abort()
        self._release()

    def abort(self) -> None:
        self._is_over = True
        self._ready.abort()

    def _release(self) -> None:
        # A thread that still waits has the descriptor in a system call: it closes on its way out.
        if not self._inside:
            self._sock.close()
            self._ready.close()
