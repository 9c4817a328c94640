"""What the runtimes share: dialling, datagrams and the lock are one text over the primitives of each world."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plugwire.protocols import Runtime
from plugwire.runtimes.datagrams import SocketDatagrams, connected
from plugwire.runtimes.happy_eyeballs import connect, connect_unix
from plugwire.runtimes.locks import HandoverLock

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Sequence

    from plugwire.call import Scope
    from plugwire.events import Edge
    from plugwire.protocols import Address, AsyncLock, Datagrams, Stream
    from plugwire.runtimes.happy_eyeballs import Readiness


class SocketRuntime(Runtime):
    """A runtime whose streams are sockets."""

    @abstractmethod
    def stream(self, sock: socket.socket) -> Stream:
        """A stream over a connected socket, which it then owns. Whatever this raises, the socket is closed."""

    @abstractmethod
    def readiness(self) -> Readiness:
        """What dialling and datagrams wait by."""

    def lock(self) -> AsyncLock:
        return HandoverLock(self.waiter)

    async def dial_tcp(
        self,
        addresses: Sequence[Address],
        at: float,
        *,
        local_address: str | None = None,
        socket_options: Sequence[tuple[int, int, int | bytes]] = (),
        stagger: float = 0.25,
        scope: Scope | None = None,
        seen: Callable[[Address, Edge, BaseException | None], object] | None = None,
    ) -> Stream:
        with _standing(self.readiness(), scope) as ready:
            sock = await connect(
                addresses,
                at,
                now=self.now,
                ready=ready,
                local_address=local_address,
                socket_options=socket_options,
                stagger=stagger,
                seen=seen,
            )
            return self.stream(sock)

    async def dial_unix(self, path: str, at: float, *, scope: Scope | None = None) -> Stream:
        with _standing(self.readiness(), scope) as ready:
            return self.stream(await connect_unix(path, at, now=self.now, ready=ready))

    async def open_datagrams(self, address: Address, at: float, *, local_address: str | None = None) -> Datagrams:
        return SocketDatagrams(connected(address, local_address), self.readiness(), self.now)


@contextmanager
def _standing(ready: Readiness, scope: Scope | None) -> Generator[Readiness]:
    """While inside, aborting `scope` aborts `ready`."""
    try:
        if scope is not None:
            scope.add(ready)
        yield ready
    finally:
        if scope is not None:
            scope.discard(ready)
        ready.close()
