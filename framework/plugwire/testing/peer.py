"""A peer that plays a script to the byte, for everything that real servers do not do.

    from plugwire.testing.peer import ScriptedPeer, close, expect_request, send

    with ScriptedPeer([expect_request(), send(b"HTTP/1.1 200 OK\\r\\nContent-Le"), close()]) as peer:
        plugwire.get(peer.url)                      # raises: the head ended early

Each argument is the script of one connection, in the order in which they are accepted: a list of steps. A step is a
function that gets the `PeerConnection`; those of this module are made by calling them. Nothing here sleeps: where the
order of things matters, a script waits for an event that the test sets (`wait_for`), or sets one itself (`tell`).

What goes wrong in a script (other bytes than expected, a connection that no script was written for, a script that was
not played to its end) is raised by leaving the `with` block, as `PeerFailure`; if the block raises itself, it is added
to that exception as a note. A connection whose script failed is reset at once, so that the client does not hang.

After the last step of a script the peer waits for the client to close, unless the script did; bytes that come
meanwhile are a failure, too.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from bisect import insort
from typing import TYPE_CHECKING, TypeAlias

from plugwire.testing.loopback import PATIENCE, Loopback, say_goodbye

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

__all__ = [
    "PeerConnection",
    "PeerFailure",
    "ScriptedPeer",
    "Step",
    "abort",
    "close",
    "cut",
    "expect",
    "expect_end",
    "expect_head",
    "expect_request",
    "half_close",
    "receive",
    "send",
    "tell",
    "wait_for",
]


class PeerFailure(AssertionError):
    """The script of a `ScriptedPeer` did not go as it was written."""


class PeerConnection:
    """One connection of a `ScriptedPeer`.

    Attributes:
        received: everything that came, in order.
        sock: the socket, wrapped for TLS; for steps of your own.
        is_closed: the script has ended the connection.
        is_waiting: it stands where only the client can make it go on.
    """

    def __init__(self, sock: socket.socket, number: int, changed: threading.Condition) -> None:
        self.sock = sock
        self.number = number
        self._changed = changed
        self.received = bytearray()
        self.is_closed = False
        self.is_waiting = False
        self._taken = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        while len(self.received) - self._taken < size:
            self._more(f"{size} bytes")
        return self._take(size)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to `mark`, which is included."""
        while (found := self.received.find(mark, self._taken)) < 0:
            self._more(repr(mark))
        return self._take(found + len(mark) - self._taken)

    def read_end(self) -> bytes:
        """Everything up to the end; a reset is an end, too."""
        while self._receive():
            pass
        return self._take(len(self.received) - self._taken)

    def _take(self, size: int) -> bytes:
        data = bytes(self.received[self._taken : self._taken + size])
        self._taken += size
        return data

    def _more(self, what: str) -> None:
        if not self._receive():
            rest = bytes(self.received[self._taken :])
            raise PeerFailure(f"the client closed where {what} should come, after {rest[-200:]!r}")

    def _stands(self, is_waiting: bool) -> None:
        with self._changed:
            self.is_waiting = is_waiting
            self._changed.notify_all()

    def _receive(self) -> bool:
        self._stands(True)
        try:
            data = self.sock.recv(65536)
        except (ConnectionError, ssl.SSLEOFError):  # of a TLS client that closes without close_notify
            return False
        finally:
            self._stands(False)
        self.received += data
        return bool(data)


Step: TypeAlias = "Callable[[PeerConnection], object]"


class ScriptedPeer(Loopback):
    """Plays scripts; see the module.

    Args:
        scripts: one for each connection.
        repeat: play the last script for all further connections, too.
        tls: speak TLS; the client trusts it by `peer.tls_config`.

    Attributes:
        connections: in the order in which they were accepted.
        failures: what went wrong so far, in words.
    """

    def __init__(self, *scripts: Sequence[Step], repeat: bool = False, tls: bool = False) -> None:
        super().__init__(tls=tls)
        self.connections: list[PeerConnection] = []
        self.failures: list[str] = []
        self._scripts = [list(script) for script in scripts]
        self._repeat = repeat

    @property
    def received(self) -> list[bytes]:
        """What came on each connection so far."""
        with self._changed:
            return [bytes(connection.received) for connection in self.connections]

    def _serve(self, sock: socket.socket, number: int) -> None:
        connection = PeerConnection(sock, number, self._changed)
        with self._changed:
            insort(self.connections, connection, key=lambda one: one.number)  # whose thread is first is chance
        if number >= len(self._scripts) and not (self._repeat and self._scripts):
            self.failures.append(f"connection {number + 1} was opened, {len(self._scripts)} are in the script")
            _reset(sock)
            return
        script = self._scripts[min(number, len(self._scripts) - 1)]
        for place, step in enumerate(script, 1):
            try:
                step(connection)
            except (PeerFailure, OSError) as error:
                where = "not played to its end, " if self._is_over else ""
                self._failed(connection, f"{where}step {place} of {len(script)}, {_name(step)}: {error}")
                return
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                self._failed(connection, f"step {place} of {len(script)}, {_name(step)}: {what}")
                return
        if not connection.is_closed:
            rest = connection.read_end()
            if rest and not self._is_over:
                self._failed(connection, f"after the last step came {rest[:200]!r}")
                return

    def _last_moment(self) -> None:
        # What a script can do without the client it still does, so that its failure does not hang on who is faster.
        def is_done() -> bool:
            # Who waits for what has come already is just about to go on.
            waiting = sum(connection.is_waiting and not _has_news(connection.sock) for connection in self.connections)
            return waiting >= len(self._open)

        with self._changed:
            self._changed.wait_for(is_done, PATIENCE / 10)

    def _failed(self, connection: PeerConnection, reason: str) -> None:
        self.failures.append(f"connection {connection.number + 1}, {reason}")
        _reset(connection.sock)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Who waits for an event that nobody will set any more has failed; it is woken, so that its thread ends.
        for script in self._scripts:
            for step in script:
                if isinstance(step, _WaitFor):
                    step.give_up()
        super().__exit__(kind, error, trace)
        failures = list(self.failures)
        missing = len(self._scripts) - self.accepted
        if missing > 0 and not failures:
            failures.append(f"{missing} of {len(self._scripts)} scripts were not begun: no connection came")
        if not failures:
            return
        text = "; ".join(failures)
        if error is None:
            raise PeerFailure(text)
        error.add_note(f"the scripted peer: {text}")


def _name(step: Step) -> str:
    name: str = getattr(step, "__name__", type(step).__name__)
    return name


def _reset(sock: socket.socket) -> None:
    """End the connection by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket.close(sock)


# -- steps ---------------------------------------------------------------------------------------------------------


def expect(data: bytes) -> Step:
    """Read as many bytes as `data` has; they must be these."""

    def expect(connection: PeerConnection) -> None:
        came = connection.read(len(data))
        if came != data:
            raise PeerFailure(f"expected {data!r}, got {came!r}")

    return expect


def receive(size: int) -> Step:
    """Read exactly `size` bytes, whatever they are."""

    def receive(connection: PeerConnection) -> None:
        connection.read(size)

    return receive


def expect_head(begin: bytes = b"") -> Step:
    """Read a request's head; it must begin with `begin`: `expect_head(b"GET /x ")`."""

    def expect_head(connection: PeerConnection) -> None:
        _read_head(connection, begin)

    return expect_head


def expect_request(begin: bytes = b"") -> Step:
    """Read a whole request: its head, which must begin with `begin`, and the body that Content-Length or chunked
    coding announces."""

    def expect_request(connection: PeerConnection) -> None:
        head = _read_head(connection, begin).lower()
        if b"\r\ntransfer-encoding: chunked" in head:
            while (size := int(connection.read_until(b"\r\n").split(b";")[0], 16)) > 0:
                connection.read(size + 2)
            while connection.read_until(b"\r\n") != b"\r\n":  # trailers
                pass
        elif (found := head.find(b"\r\ncontent-length:")) >= 0:
            connection.read(int(head[found + 17 : head.index(b"\r\n", found + 2)]))

    return expect_request


def _read_head(connection: PeerConnection, begin: bytes) -> bytes:
    head = connection.read_until(b"\r\n\r\n")
    if not head.startswith(begin):
        raise PeerFailure(f"expected a request that begins with {begin!r}, got {head[:200]!r}")
    return head


def expect_end() -> Step:
    """The client ends its side (or resets), and nothing comes before."""

    def expect_end(connection: PeerConnection) -> None:
        rest = connection.read_end()
        if rest:
            raise PeerFailure(f"expected the end, got {rest[:200]!r}")

    return expect_end


def send(data: bytes, *cuts: int, each: int | None = None) -> Step:
    """Send `data`, in one piece, or cut at the offsets `cuts`, or in pieces of `each` bytes. Each piece is a packet of
    its own, but what the client does not read at once it may get joined."""

    def send(connection: PeerConnection) -> None:
        places = sorted(cuts) if each is None else range(each, len(data), each)
        begin = 0
        for end in (*places, len(data)):
            connection.sock.sendall(data[begin:end])
            begin = end

    return send


def close() -> Step:
    """End the connection in order: close_notify over TLS, FIN, close. What the client has sent and nobody has read yet
    is read first, because the system would answer it by a reset, as it does what comes later."""

    def close(connection: PeerConnection) -> None:
        say_goodbye(connection.sock)
        _drain(connection)
        connection.sock.close()
        connection.is_closed = True

    return close


def cut() -> Step:
    """End the connection by FIN alone; over TLS that is an end without close_notify, as of a truncation attack."""

    def cut(connection: PeerConnection) -> None:
        socket.socket.shutdown(connection.sock, socket.SHUT_WR)
        _drain(connection)
        socket.socket.close(connection.sock)
        connection.is_closed = True

    return cut


def half_close() -> Step:
    """End the sending side only: close_notify over TLS, FIN. Over TLS nothing can be read afterwards."""

    def half_close(connection: PeerConnection) -> None:
        say_goodbye(connection.sock)

    return half_close


def abort() -> Step:
    """End the connection by RST."""

    def abort(connection: PeerConnection) -> None:
        _reset(connection.sock)
        connection.is_closed = True

    return abort


def tell(event: threading.Event) -> Step:
    """Set `event`: the test may go on."""

    def tell(connection: PeerConnection) -> None:
        event.set()

    return tell


def wait_for(event: threading.Event) -> Step:
    """Wait until the test sets `event`."""
    return _WaitFor(event)


class _WaitFor:
    __name__ = "wait_for"

    def __init__(self, event: threading.Event) -> None:
        self._event = event
        self._is_given_up = False

    def __call__(self, connection: PeerConnection) -> None:
        if not self._event.wait(PATIENCE) or self._is_given_up:
            raise PeerFailure("the event was not set")

    def give_up(self) -> None:
        """The test is over."""
        if not self._event.is_set():
            self._is_given_up = True
            self._event.set()


def _drain(connection: PeerConnection) -> None:
    """Read what lies there already, without waiting."""
    sock = connection.sock
    sock.setblocking(False)
    try:
        while data := socket.socket.recv(sock, 65536):
            if not hasattr(sock, "unwrap"):
                connection.received += data
    except OSError:
        pass


def _has_news(sock: socket.socket) -> bool:
    """Whether bytes, or an end, have come that nobody has read. Of a socket that is closed: no."""
    number = sock.fileno()
    if number < 0:
        return False
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
