"""The embedded server's HTTP/2 (RFC 9113), on the package h2.

How it works. The thread of the connection does all its I/O and stands in a poll. Each request whose content has come
gets a thread of its own, which asks the handler and puts the answer into the connection piece by piece. So a handler
that waits for another request does not hold that one up, as beside HTTP/1.1, where every connection has a thread. What
belongs to h2 is touched under one lock, that of the condition `_changed`, which is notified whenever somebody may go
on: a window has opened, bytes have gone out, a stream was reset, the end has come. A bell gets the connection's thread
out of its poll.

Rules that hold:

- Streams with content to send take turns: of those in `_turns` the first that has room sends one piece and goes to the
  end. Else a large download would take each window as it opens, and a small answer behind it would never come.
- No more than HIGH_WATER bytes wait for the socket, answers' heads aside: a client that does not read stops the
  handlers' bodies, not the reading of its own frames.
- A stream may end under the feet of its thread at any moment it does not hold the lock; `_check` says so.
- A request's content is kept whole, so its window is given back as it comes.
"""

from __future__ import annotations

import select
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from plugwire.drive import drive
from plugwire.runtimes.bell import Bell
from plugwire.testing.loopback import say_goodbye

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from plugwire.messages import AsyncResponse

PIECE: Final = 65536
HIGH_WATER: Final = 4 * PIECE
NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Respond(Protocol):
    """The answer to a request that has come whole; never raises."""

    def __call__(
        self, method: str, target: str, headers: list[tuple[str, str]], content: bytes, trailers: list[tuple[str, str]]
    ) -> AsyncResponse: ...


@dataclass(slots=True)
class _Asked:
    """A request as it comes."""

    stream_id: int
    fields: list[tuple[str, str]]
    pieces: list[bytes] = field(default_factory=list[bytes])
    trailers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


class _Gone(Exception):
    """The stream has ended, or the connection."""


class HTTP2Connection:
    """One connection, from its preface to its end.

    Args:
        sock: plain, or TLS after its handshake.
        respond: asked in a thread for each request.
        failed: told what a response's body raises, or why a response cannot be sent.
    """

    def __init__(self, sock: socket.socket, respond: Respond, failed: Callable[[Exception], None]) -> None:
        self._sock = sock
        self._respond = respond
        self._failed = failed
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        self._changed = threading.Condition()
        self._bell = Bell()
        self._out = bytearray()
        self._asking: dict[int, _Asked] = {}
        self._answering: set[int] = set()
        self._turns: list[int] = []
        self._threads: list[threading.Thread] = []
        self._is_stopping = False
        self._is_over = False

    def stop(self) -> None:
        """Say GOAWAY and end, whatever is under way. From any thread, and any number of times."""
        with self._changed:
            self._is_stopping = True
            self._ring()

    def run(self) -> None:
        """Serve, until the client ends the connection or `stop` is called; all threads have ended then."""
        self._sock.setblocking(False)
        try:
            with self._changed:
                self._h2.initiate_connection()
                self._take()
            self._pump()
            with self._changed:
                if self._is_stopping and not self._is_over:
                    self._h2.close_connection()
                    self._take()
                self._is_over = True  # with the same grip of the lock: h2 sends no more after its GOAWAY
                self._write()
            say_goodbye(self._sock)  # before handlers that are at work have ended
        finally:
            with self._changed:
                self._is_over = True
                self._bell.close()
                self._changed.notify_all()
            for thread in self._threads:
                thread.join()

    # -- the thread of the connection

    def _pump(self) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.register(self._sock, select.POLLIN)
        while True:
            with self._changed:
                if self._is_stopping or self._is_over:
                    return
                self._bell.silence()
                self._write()
                poll.modify(self._sock, select.POLLIN | select.POLLOUT if self._out else select.POLLIN)
            poll.poll()
            # To the end of what is there: a TLS socket keeps bytes of which a poll does not know.
            while (data := self._read()) is not None:
                with self._changed:
                    if not data:
                        self._is_over = True
                        return
                    self._feed(data)
                    self._write()

    def _read(self) -> bytes | None:
        """b"" at the end, or if nothing more is wanted; None if there is nothing now."""
        if self._is_over or self._is_stopping:
            return None
        try:
            return self._sock.recv(PIECE)
        except NOT_NOW:
            return None

    def _write(self) -> None:
        """What goes out at once."""
        try:
            while self._out:
                sent = self._sock.send(bytes(self._out[:PIECE]))
                del self._out[:sent]
                self._changed.notify_all()
        except NOT_NOW:
            pass

    def _take(self) -> None:
        """Fetch what h2 wants to have sent."""
        self._out += self._h2.data_to_send()
        self._ring()

    def _ring(self) -> None:
        if not self._is_over:
            self._bell.ring()

    def _feed(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:  # h2 has a GOAWAY ready that says which
            self._is_over = True
            events = []
        for event in events:
            self._handle(event)
        self._take()
        self._changed.notify_all()

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=stream_id):
                self._asking[stream_id] = _Asked(stream_id, _decoded(event.headers))
                expected = [value.lower() for name, value in self._asking[stream_id].fields if name == "expect"]
                if event.stream_ended is None and expected == ["100-continue"]:
                    try:
                        self._h2.send_headers(stream_id, [(b":status", b"100")])
                    except ProtocolError:  # reset by a frame of the same read
                        pass
            case DataReceived(stream_id=stream_id):
                if stream_id in self._asking:
                    self._asking[stream_id].pieces.append(event.data)
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
            case TrailersReceived(stream_id=stream_id):
                self._asking[stream_id].trailers += _decoded(event.headers)
            case StreamEnded(stream_id=stream_id):
                self._start(self._asking.pop(stream_id))
            case StreamReset(stream_id=stream_id):
                self._asking.pop(stream_id, None)
                self._answering.discard(stream_id)
            case ConnectionTerminated():
                self._is_over = True
            case _:
                pass

    def _start(self, asked: _Asked) -> None:
        self._answering.add(asked.stream_id)
        name = f"{threading.current_thread().name}-{asked.stream_id}"
        thread = threading.Thread(target=self._answer, args=(asked,), name=name, daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    # -- the thread of a request

    def _answer(self, asked: _Asked) -> None:
        fields = dict(asked.fields)
        method, authority = fields.get(":method", ""), fields.get(":authority")
        headers = [(name, value) for name, value in asked.fields if not name.startswith(":")]
        if authority is not None and "host" not in fields:
            headers.insert(0, ("host", authority))  # where handlers look for it (RFC 9113, 8.3.1)
        # CONNECT has no path: its authority is the target, as in HTTP/1.1.
        target = fields.get(":path", authority or "")
        response = self._respond(method, target, headers, b"".join(asked.pieces), asked.trailers)
        try:
            try:
                self._send(asked.stream_id, method, response)
            finally:
                drive(response.body.close())
        except _Gone:
            pass
        except Exception as error:
            self._failed(error)
            self._reset(asked.stream_id)
        finally:
            with self._changed:
                self._answering.discard(asked.stream_id)

    def _send(self, stream_id: int, method: str, response: AsyncResponse) -> None:
        body, status = response.body, response.status_code
        fields = [(b":status", b"%d" % status), *_encoded(response.headers.items())]
        if body.length is not None and status >= 200 and status != 204 and "content-length" not in response.headers:
            fields.append((b"content-length", b"%d" % body.length))
        has_no_body = method == "HEAD" or status in (204, 304)
        with self._changed:
            self._check(stream_id)
            self._h2.send_headers(stream_id, fields, end_stream=has_no_body)
            self._take()
        if has_no_body:
            return
        while piece := drive(body.receive(PIECE)):
            self._send_data(stream_id, piece)
        with self._changed:
            self._check(stream_id)
            if body.trailers:
                self._h2.send_headers(stream_id, _encoded(body.trailers.items()), end_stream=True)
            else:
                self._h2.end_stream(stream_id)
            self._take()

    def _send_data(self, stream_id: int, data: bytes) -> None:
        """Wait for one's turns, until all of it is on its way."""
        left = memoryview(data)
        while left:
            with self._changed:
                self._turns.append(stream_id)
                try:
                    self._changed.wait_for(lambda: self._is_gone(stream_id) or self._next() == stream_id)
                finally:
                    self._turns.remove(stream_id)
                    self._changed.notify_all()
                self._check(stream_id)
                room = min(len(left), PIECE, self._h2.local_flow_control_window(stream_id))
                for begin in range(0, room, size := self._h2.max_outbound_frame_size):
                    self._h2.send_data(stream_id, left[begin : min(begin + size, room)])
                self._take()
                left = left[room:]

    def _next(self) -> int | None:
        """Whose turn it is."""
        if len(self._out) >= HIGH_WATER:
            return None
        window = self._h2.local_flow_control_window
        return next((one for one in self._turns if not self._is_gone(one) and window(one) > 0), None)

    def _is_gone(self, stream_id: int) -> bool:
        return self._is_over or stream_id not in self._answering

    def _check(self, stream_id: int) -> None:
        if self._is_gone(stream_id):
            raise _Gone

    def _reset(self, stream_id: int) -> None:
        """Tell the client that the rest of the answer will not come."""
        with self._changed:
            if not self._is_gone(stream_id):
                try:
                    self._h2.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
                except ProtocolError:  # the answer had ended; what failed was closing its body
                    pass
                self._take()


def _decoded(fields: Iterable[tuple[str | bytes, str | bytes]]) -> list[tuple[str, str]]:
    """As plain strings; h2 gives a type of its own, which may be bytes or str."""
    return [(_text(name), _text(value)) for name, value in fields]


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Field lines for h2, which would encode str as UTF-8. It makes names lower-case, and leaves out what HTTP/2 has no
    place for, such as a handler's `Connection` (RFC 9113, 8.2.2)."""
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]
