"""One request on its way over HTTP/2: what goes out as fields, and what has come back so far.

An exchange is the wire's `Sink` for its stream, and the one who waits on the connection in the name of a call, of a
body, or of a tunnel. The wire calls it under the connection's lock, in whichever thread or task reads just then, so
what is said to observers (interim responses) is kept here until its own thread or task comes by.
"""

from __future__ import annotations

from collections import deque
from errno import ECONNABORTED
from typing import TYPE_CHECKING, Final

from plugwire_transports.exchange import Exchange
from plugwire_transports.http2.hpack import Indexing
from plugwire_transports.http2.streams import STREAM_WINDOW
from plugwire_transports.http2.wire import RequestHead

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plugwire import Error, Headers, Request
    from plugwire.protocols import Call, ConnectionInfo, Waiter
    from plugwire_transports.http2.sharing import SharedConnection
    from plugwire_transports.http2.wire import Head, WireStream

Fields = tuple[tuple[str, str, Indexing], ...]


FULL: Final = STREAM_WINDOW // 2
"""With so much of a response unread, who is still sending the request turns to it."""

SMALL_PIECE: Final = 512
"""Content that comes in smaller pieces than this is joined while it waits to be read."""


class HTTP2Exchange(Exchange):
    """One request on its way over HTTP/2.

    Attributes:
        stream: its stream on the wire; None before it is opened.
        answer: the final response's head.
        interim: heads of interim responses that nobody was told of yet.
        is_ended: the peer has sent all.
        is_sent: we have sent all, trailers included.
        failure: why nothing more will come.
        is_unprocessed: the peer says that it did nothing with the request (RFC 9113, 8.7).
        is_aborted: somebody ended it from outside.
        ready: while it waits: whether it may stop waiting. Called under the connection's lock.
        waiter: while it follows: what wakes it.
    """

    __slots__ = (
        "__weakref__",
        "_credited",
        "_held",
        "_pieces",
        "answer",
        "connection",
        "failure",
        "info",
        "interim",
        "is_aborted",
        "is_ended",
        "is_sent",
        "is_unprocessed",
        "ready",
        "received",
        "stream",
        "trailers",
        "waiter",
    )

    def __init__(self, connection: SharedConnection, request: Request, call: Call) -> None:
        super().__init__(request, call)
        self.connection = connection
        self.info: ConnectionInfo = connection.info
        self.stream: WireStream | None = None
        self.answer: Head | None = None
        self.interim: deque[Head] = deque()
        self.is_ended = False
        self.is_sent = False
        self.trailers: Headers | None = None
        self.failure: Error | None = None
        self.is_unprocessed = False
        self.is_aborted = False
        self.ready: Callable[[], bool] | None = None
        self.waiter: Waiter | None = None
        self.received = 0
        self._pieces: deque[memoryview] = deque()
        self._held = 0
        self._credited = 0

    # -- what the wire tells (under the lock; never waits, never raises)

    def on_head(self, head: Head, ended: bool) -> None:
        self.has_answer = True
        if head.status < 200:
            self.interim.append(head)
        else:
            self.answer = head
            self.is_ended = ended
        self.connection.served(self)

    def on_data(self, data: memoryview, ended: bool) -> None:
        size = len(data)
        if size:
            pieces = self._pieces
            if size < SMALL_PIECE and pieces and len(pieces[-1]) < 8 * SMALL_PIECE:
                # A window filled byte by byte would be a million views; each costs 200 times what it shows.
                pieces[-1] = memoryview(b"".join((pieces[-1], data)))
            else:
                pieces.append(data)
            self._held += size
            self.received += size
        self.is_ended = ended
        self.connection.served(self)

    def on_trailers(self, trailers: Headers) -> None:
        self.trailers = trailers
        self.is_ended = True
        self.connection.served(self)

    def on_window(self) -> None:
        if self.is_ended and self.stream is not None and self.stream.is_over:
            # The peer has answered and does not want the rest of the upload: no reason to discard the answer (RFC 9113,
            # 8.1).
            self.is_sent = True
        self.connection.served(self)

    def on_failed(self, error: Error, unprocessed: bool) -> None:
        self.failure = error
        self.is_unprocessed = unprocessed
        self.connection.served(self)

    # -- what may be waited for

    def is_stopped(self) -> bool:
        """Nothing more will come: it failed, or was ended from outside."""
        return self.failure is not None or self.is_aborted

    def has_news(self) -> bool:
        """A head came, or none will."""
        return self.answer is not None or bool(self.interim) or self.failure is not None or self.is_aborted

    def is_answered(self) -> bool:
        """The final head came, or none will: an upload has lost its meaning."""
        return self.answer is not None or self.failure is not None or self.is_aborted

    def is_superfluous(self) -> bool:
        """The rest of an upload has lost its meaning: the peer has answered all, or with a redirect or an error; or it
        answers while we send, and the caller must read before it can go on."""
        answer = self.answer
        if self.failure is not None or self.is_aborted or self.is_ended:
            return True
        return answer is not None and (answer.status >= 300 or (self.call.streaming and self._held >= FULL))

    def has_content(self) -> bool:
        """There is something to read, or there never will be."""
        return self._held > 0 or self.is_ended or self.failure is not None or self.is_aborted

    def may_send(self) -> bool:
        """A byte of content may go out, or none need to, or there is something to tell first."""
        if self.is_superfluous() or self.interim or self.connection.room(self) > 0:
            return True
        return self.answer is not None and self._held - self._credited >= FULL

    @property
    def is_settled(self) -> bool:
        """Nothing is left to be said on the stream, by either side."""
        return self.stream is None or self.failure is not None or (self.is_ended and self.is_sent)

    def check(self) -> None:
        """Raise what has stopped it, if something did and the final head is not there."""
        if self.answer is None:
            self.raise_stopped()

    def raise_stopped(self) -> None:
        """Raise what has stopped it, if something did."""
        if self.failure is not None:
            raise self.failure
        if self.is_aborted:
            raise ConnectionAbortedError(ECONNABORTED, "the request was ended on this side")

    # -- content that has come (under the lock)

    def credit(self) -> int:
        """What has come and was not read, and for which the window is to be given back all the same."""
        size = self._held - self._credited
        self._credited = self._held
        return size

    def uncredited(self, size: int) -> int:
        """How much of what was just read the window is yet to be given back for."""
        early = min(size, self._credited)
        self._credited -= early
        return size - early

    @property
    def held(self) -> int:
        """Bytes of content that have come and were not taken."""
        return self._held

    def take(self, most: int) -> bytes:
        """At most so many bytes of what has come."""
        pieces = self._pieces
        if not pieces:
            return b""
        first = pieces[0]
        if len(first) >= most:
            if len(first) == most:
                pieces.popleft()
            else:
                pieces[0] = first[most:]
                first = first[:most]
            self._held -= most
            return bytes(first)
        taken: list[memoryview] = []
        left = min(most, self._held)
        size = left
        while left:
            piece = pieces.popleft()
            if len(piece) > left:
                pieces.appendleft(piece[left:])
                piece = piece[:left]
            taken.append(piece)
            left -= len(piece)
        self._held -= size
        return b"".join(taken)

    def take_into(self, buffer: memoryview) -> int:
        """The same, into `buffer`; how many."""
        pieces = self._pieces
        done, room = 0, len(buffer)
        while pieces and done < room:
            piece = pieces.popleft()
            if len(piece) > room - done:
                pieces.appendleft(piece[room - done :])
                piece = piece[: room - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        self._held -= done
        return done

    def forget_content(self) -> None:
        """What has come will not be read. Without the lock: another thread may be just taking from it."""
        self._pieces = deque()
        self._held = 0

    # -- from outside

    def abort(self) -> None:
        """Stop waiting, and take nothing more. From any thread, also in a signal handler: takes no lock."""
        self.is_aborted = True
        waiter = self.waiter
        if waiter is not None:
            waiter.wake()
        # If it leads, it stands in the stream's own wait.
        self.connection.stream.nudge()


# -- the request as fields -----------------------------------------------------------------------------------------

CONNECTION_SPECIFIC: Final = frozenset(
    {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "http2-settings", "host"}
)
"""Fields that HTTP/2 has no place for (RFC 9113, 8.2.2), and Host, which becomes :authority."""

PASSING: Final = frozenset(
    {"content-length", "content-range", "date", "expect", "if-match", "if-modified-since", "if-none-match", "if-range",
     "if-unmodified-since", "last-event-id", "range"}
)  # fmt: skip
"""Fields whose values belong to one request: in the dynamic table they would only push out what comes again."""


class FieldsMemo:
    """The fields of the last request, as HTTP/2 has them. The same session sends the same encoded block again and
    again; then the very same tuple goes to the wire, which knows its encoding.

    Attributes:
        wants_close: the last request said "Connection: close". HTTP/2 has no such field, but the wish can be granted:
            the connection takes no further request.
    """

    __slots__ = ("_authority", "_block", "_fields", "_secret", "_values", "wants_close")

    def __init__(self) -> None:
        self.wants_close = False
        self._block: bytes | None = None
        self._secret: frozenset[str] | None = None  # headers may share a block and differ in this
        self._authority = ""
        self._fields: Fields = ()
        self._values: dict[str, str] = {}

    def head_of(self, request: Request) -> RequestHead:
        """What a request says in HEADERS (RFC 9113, 8.3.1)."""
        headers = request.headers
        block = headers.encoded()
        if block is not self._block or headers.secret != self._secret:
            nominated = {name.lower() for name in headers.get_list("connection", split=True)}
            self.wants_close = "close" in nominated
            self._fields = fields_of(headers, nominated, self._values)
            self._values = {name: value for name, value, _ in self._fields}
            self._authority = headers.get("host") or request.url.authority
            self._block = block
            self._secret = headers.secret
        method = request.method
        if method == "CONNECT":
            host, port = request.url.host, request.url.port
            authority = request.target or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            return RequestHead(method, None, authority, None, self._fields)
        url = request.url
        target = request.target if request.target is not None else url.target
        return RequestHead(method, url.scheme.partition("+")[0], self._authority, target, self._fields)


def fields_of(headers: Headers, nominated: set[str], last: Mapping[str, str]) -> Fields:
    """A request's fields: names in lower case, without those that concern one HTTP/1.1 connection only, and those that
    its Connection field nominates. `last`: those of the request before; a value that changes from one to the next (a
    trace id) will hardly come again."""
    secret = headers.secret
    fields: list[tuple[str, str, Indexing]] = []
    for name, value in headers.items():
        key = name.lower()
        if key in CONNECTION_SPECIFIC or key in nominated or (key == "te" and value.lower() != "trailers"):
            continue
        if key in secret:
            indexing = Indexing.NEVER
        elif key in PASSING or last.get(key, value) != value:
            indexing = Indexing.WITHOUT
        else:
            indexing = Indexing.ADD
        fields.append((key, value, indexing))
    return tuple(fields)
