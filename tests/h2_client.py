"""A bare HTTP/2 client over the h2 package, for tests of the peers: one blocking socket, no pool, no mercy."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions

TIMEOUT = 30

E = TypeVar("E", bound=h2.events.Event)
Fields = Sequence[tuple[str, str]]


@dataclass
class Answer:
    """What came on one stream, until it ended or was reset."""

    stream_id: int
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] | None = None
    interim: list[dict[str, str]] = field(default_factory=list)
    reset: int | None = None
    """The code of a RST_STREAM before the end."""


class BareClient:
    """Speaks on `sock`. `h2` is the H2Connection, `events` is all that it said; after a GOAWAY it says nothing more."""

    def __init__(self, sock: socket.socket, authority: str = "x") -> None:
        self.sock = sock
        self.authority = authority
        self.scheme = "https" if isinstance(sock, ssl.SSLSocket) else "http"
        self.events: list[h2.events.Event] = []
        self._unread = b""
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def begin(self, method: str = "GET", path: str = "/", fields: Fields = (), end_stream: bool = True) -> int:
        """Send a request's head."""
        stream_id: int = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":authority", self.authority), (":scheme", self.scheme), (":path", path)]
        if method == "CONNECT":
            del head[2:]
        self.h2.send_headers(stream_id, [*head, *fields], end_stream=end_stream)
        self.flush()
        return stream_id

    def send(self, stream_id: int, body: bytes, end_stream: bool = True) -> None:
        """Send content, as the windows let it out; stop if the stream is reset."""
        while body:
            try:
                room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
                if room > 0:
                    self.h2.send_data(stream_id, body[:room], end_stream=end_stream and len(body) <= room)
            except h2.exceptions.StreamClosedError:
                return
            if room > 0:
                body = body[room:]
                self.flush()
            else:
                self.read()

    def request(self, method: str = "GET", path: str = "/", body: bytes | None = None, fields: Fields = ()) -> int:
        """Send a request, whole."""
        stream_id = self.begin(method, path, fields, not body)
        if body:
            self.send(stream_id, body)
        return stream_id

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, fields: Fields = ()) -> Answer:
        """Send a request, read its answer."""
        return self.answer(self.request(method, path, body, fields))

    def read(self) -> bool:
        """Read once, giving windows back; False at the end."""
        data = self.sock.recv(65536)
        for event in self._fed(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.h2.increment_flow_control_window(event.flow_controlled_length)
                with contextlib.suppress(h2.exceptions.StreamClosedError):
                    self.h2.increment_flow_control_window(event.flow_controlled_length, event.stream_id)
        with contextlib.suppress(BrokenPipeError):  # the peer has closed in order, as the next look will tell
            self.flush()
        return bool(data)

    def _fed(self, data: bytes) -> Iterator[h2.events.Event]:
        """What h2 says, frame by frame, for it refuses every frame after a GOAWAY, and gives no events then."""
        self._unread += data
        while len(self._unread) >= 9 and len(self._unread) >= (size := 9 + int.from_bytes(self._unread[:3])):
            frame, self._unread = self._unread[:size], self._unread[size:]
            if not any(isinstance(event, h2.events.ConnectionTerminated) for event in self.events):
                yield from self.h2.receive_data(frame)

    def until(self, kind: type[E], count: int = 1, when: Callable[[E], bool] = lambda event: True) -> E:
        """Read until there are so many of these events; the last of them."""
        while True:
            found = [event for event in self.events if isinstance(event, kind) and when(event)]
            if len(found) >= count:
                return found[count - 1]
            assert self.read(), f"closed before {kind.__name__}"

    def answer(self, stream_id: int) -> Answer:
        """Read until the stream has ended, or was reset."""
        ends = (h2.events.StreamEnded, h2.events.StreamReset)
        while not any(isinstance(event, ends) and event.stream_id == stream_id for event in self.events):
            assert self.read(), f"closed before the end of stream {stream_id}"
        answer = Answer(stream_id)
        for event in self.events:
            if getattr(event, "stream_id", None) == stream_id:
                _add(answer, event)
        return answer


def _add(answer: Answer, event: Any) -> None:
    match event:
        case h2.events.InformationalResponseReceived():
            answer.interim.append(dict(event.headers))
        case h2.events.ResponseReceived():
            answer.headers = dict(event.headers)
            answer.status = int(answer.headers[":status"])
        case h2.events.DataReceived():
            answer.body += event.data
        case h2.events.TrailersReceived():
            answer.trailers = dict(event.headers)
        case h2.events.StreamReset() if answer.reset is None:
            answer.reset = event.error_code


@contextlib.contextmanager
def connected(url: str, ca_data: str | None = None, ca_file: str | None = None) -> Iterator[socket.socket]:
    """A connection to the URL's host; over TLS with ALPN h2 and http/1.1."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT) as sock:
        if parts.scheme == "http":
            yield sock
            return
        context = ssl.create_default_context(cadata=ca_data, cafile=ca_file)
        context.set_alpn_protocols(["h2", "http/1.1"])
        # CPython 3.11.2 sets it, and then an end without close_notify looks like one with it.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        with context.wrap_socket(sock, server_hostname=parts.hostname, suppress_ragged_eofs=False) as secured:
            yield secured


@contextlib.contextmanager
def bare_client(url: str, ca_data: str | None = None, ca_file: str | None = None) -> Iterator[BareClient]:
    with connected(url, ca_data, ca_file) as sock:
        assert not isinstance(sock, ssl.SSLSocket) or sock.selected_alpn_protocol() == "h2"
        yield BareClient(sock, urlsplit(url).netloc)
