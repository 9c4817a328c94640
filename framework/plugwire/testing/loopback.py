"""What the embedded server and the scripted peer have in common: a listener on loopback, a thread for each connection,
and an end after which no thread and no socket is left.

Rules: a thread that stands in `recv` is woken by shutting its socket down, not by closing it (closing under a running
system call does not wake it, and the number may meanwhile mean another socket). Each thread closes its own socket. The
listener is woken by a connection of our own, a knock. Connections are accepted in the order in which they came, so when
the knock is, all that came before it are known, and served, however little of their time is left. Who accepts closes
the listener, whatever ends it, so that no knock waits for one that will accept nothing more.
"""

from __future__ import annotations

import socket
import ssl
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Self

from plugwire.testing.certificates import loopback_identity

if TYPE_CHECKING:
    from types import TracebackType

    from plugwire.config import TLSConfig

PATIENCE: Final = 30.0
"""Seconds after which something that must happen counts as missing. Nothing waits so long when all is well."""

A_MOMENT: Final = 0.05
"""Seconds within which a connection is accepted where all is well."""


class Loopback(ABC):
    """Accepts connections on 127.0.0.1 while its `with` block runs.

    Args:
        alpn: the protocols that ALPN chooses from, the preferred one first; with `tls` only.

    Attributes:
        tls: whether it speaks TLS.
        port: the port, given by the system; 0 before the `with`.
        accepted: connections accepted so far.
    """

    def __init__(self, *, tls: bool = False, alpn: tuple[str, ...] = ("http/1.1",)) -> None:
        self.tls = tls
        self.port = 0
        self.accepted = 0
        identity = loopback_identity(alpn) if tls else None
        self._context = identity and identity.context
        self._client = identity and identity.client
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._knocks: dict[object, bool] = {}  # where they come from, and whether it is the last
        self._is_over = False

    @property
    def url(self) -> str:
        """The origin, with no slash at its end: "http://127.0.0.1:40001"."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def tls_config(self) -> TLSConfig:
        """What a client needs to trust this server; the package trustme makes it.

        Raises:
            UsageError: it is not installed.
        """
        return self._client or loopback_identity().client

    @property
    def open_connections(self) -> int:
        """Connections that are open now, as far as this side has noticed; see `wait_closed`."""
        with self._changed:
            return len(self._open)

    def wait_closed(self, patience: float = PATIENCE) -> bool:
        """Wait until every connection is closed on this side too, also one that the client has opened and closed and
        that is still to be accepted; False if `patience` seconds were not enough for one of the two. A moment is always
        taken to ask who accepts.
        """
        if self._listener is not None:
            try:
                self._knock(max(patience, A_MOMENT))  # or who asks with no patience never learns it
            except TimeoutError:
                return False
            except ConnectionError:  # closed meanwhile
                pass
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, patience)

    @abstractmethod
    def _serve(self, sock: socket.socket, number: int) -> None:
        """Talk on the connection `number` (from 0), in a thread of its own. Need not close it."""

    # -- life

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._listen, args=(self._listener,), name=f"{type(self).__name__}-{self.port}", daemon=True
        )
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end every thread. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is None or self._acceptor is None:
            return
        try:
            self._knock(None, is_last=True)
        except ConnectionError:  # nobody accepts any more: that has failed, as its thread has told
            pass
        self._acceptor.join()
        self._last_moment()
        with self._changed:
            self._is_over = True
            for sock in self._open:
                self._end(sock)
        for thread in self._threads:
            thread.join()

    def _knock(self, patience: float | None, *, is_last: bool = False) -> None:
        """Wait until all that were connected before are accepted; after the last knock nothing is."""
        with socket.socket() as knock:
            knock.settimeout(patience)
            knock.bind(("127.0.0.1", 0))
            here = knock.getsockname()
            self._knocks[here] = is_last
            try:
                knock.connect(("127.0.0.1", self.port))
            except OSError:  # somebody else may come from there
                del self._knocks[here]
                raise
            knock.recv(1)  # ends when it is accepted

    def _end(self, sock: socket.socket) -> None:
        """Make the thread of this connection end. Called from another one, which holds `_changed`."""
        _shut_down(sock)

    def _last_moment(self) -> None:  # noqa: B027  (may be overridden, need not)
        """No new connection can come; those that are there are about to be shut down."""

    def _listen(self, listener: socket.socket) -> None:
        with listener:
            self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = listener.accept()
            except ConnectionError:  # reset before it was accepted, on some systems
                continue
            is_last = self._knocks.pop(address, None)
            if is_last is not None:
                sock.close()
                if is_last:
                    return
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                number, self.accepted = self.accepted, self.accepted + 1
                self._open.add(sock)
            thread = threading.Thread(
                target=self._run, args=(sock, number), name=f"{type(self).__name__}-{self.port}-{number}", daemon=True
            )
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()

    def _run(self, sock: socket.socket, number: int) -> None:
        talking = sock
        try:
            talking = self._secured(sock)
            self._serve(talking, number)
        except OSError:  # the client went away, or refused our certificate; who must know has noted it
            pass
        finally:
            talking.close()
            with self._changed:
                self._open -= {sock, talking}
                self._changed.notify_all()

    def _secured(self, sock: socket.socket) -> socket.socket:
        if self._context is None:
            return sock
        secured = self._context.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        with self._changed:
            # wrap_socket has taken the descriptor over.
            self._open.discard(sock)
            self._open.add(secured)
            if self._is_over:
                _shut_down(secured)
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()
            with self._changed:
                self._open.discard(secured)
                self._changed.notify_all()
            raise
        return secured


def _shut_down(sock: socket.socket) -> None:
    """End both directions of the TCP connection, so that whoever waits on it wakes; past TLS."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:  # the peer was faster
        pass


def say_goodbye(sock: socket.socket) -> None:
    """End the sending side in order: close_notify over TLS, then FIN."""
    if isinstance(sock, ssl.SSLSocket):
        sock.setblocking(False)
        try:
            # Sends the alert; it does not wait for the client's.
            sock.unwrap()
        except (OSError, ValueError):
            pass
    try:
        socket.socket.shutdown(sock, socket.SHUT_WR)
    except OSError:
        pass
