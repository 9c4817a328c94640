"""The interfaces that everybody builds on, each a promise in prose.

Authors of transports and middleware import from here. The abstract classes stand in this file; the concrete ones that
an author also needs (`Call`, `Connecting`, `Route`, `Deadline`, the handles, ...) are re-exported lazily from where
they live, so that this module stays cheap to import.

Rules that hold everywhere:

- **One text, three worlds.** Everything that waits is `async def` and waits only through a `Stream` or a `Runtime`.
  In the blocking world these never suspend. Nobody asks which world it is in.
- **Waits move no bytes, and byte moves never wait.** So a cancelled or timed-out wait loses nothing and cannot tear a
  TLS record or an HTTP/2 frame.
- **Points in time, not durations.** `at` is a point on `Runtime.now()`'s clock, possibly infinity. Nobody else reads a
  clock.
- **Closing never waits.** `close()` is synchronous, hard and idempotent, so clean-up after a cancel awaits nothing.
- **Streams raise builtin `OSError` kinds only** (`Busy` apart). Connector and speaker add phase and blame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import count
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
    runtime_checkable,
)

from plugwire.errors import Busy, Discarded, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from types import TracebackType

    from plugwire.bodies import EMPTY
    from plugwire.call import Call, Next, Scope
    from plugwire.connector import Connecting
    from plugwire.cookie_store import Cookie, CookieStore, SameSite
    from plugwire.events import Edge, Event
    from plugwire.handles import AsyncConnectionHandle, AsyncRequestHandle, ConnectionHandle, RequestHandle
    from plugwire.headers import Headers
    from plugwire.messages import AsyncResponse, Request
    from plugwire.route import Route
    from plugwire.timeouts import Deadline
    from plugwire.url import Origin

T = TypeVar("T")

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Observer: TypeAlias = "Callable[[Event], object]"

LAZY: Mapping[str, str] = {
    "EMPTY": "plugwire.bodies",
    "Call": "plugwire.call",
    "Next": "plugwire.call",
    "Scope": "plugwire.call",
    "Connecting": "plugwire.connector",
    "Cookie": "plugwire.cookie_store",
    "CookieStore": "plugwire.cookie_store",
    "SameSite": "plugwire.cookie_store",
    "AsyncConnectionHandle": "plugwire.handles",
    "AsyncRequestHandle": "plugwire.handles",
    "ConnectionHandle": "plugwire.handles",
    "RequestHandle": "plugwire.handles",
    "AsyncResponse": "plugwire.messages",
    "Request": "plugwire.messages",
    "Route": "plugwire.route",
    "Origin": "plugwire.url",
    "Deadline": "plugwire.timeouts",
}

__all__ = [
    "EMPTY", "EVERYTHING", "FORWARDING_PROXY", "LOCAL_ADDRESS", "PEER_ADDRESS", "SOCKET", "TLS", "Abortable",
    "Address", "AroundCall", "AroundRead", "AroundSend", "AsyncConnectionHandle", "AsyncLock", "AsyncRequestHandle",
    "AsyncResponse", "Body", "Buffer", "Busy", "Call", "Connecting", "Connection", "ConnectionHandle",
    "ConnectionInfo", "Cookie", "CookieStore", "Datagrams", "Deadline", "Dialler", "Discarded", "Extra", "Next",
    "Observer", "Origin", "Refused", "Request", "RequestHandle", "Resolver", "Route", "Runtime", "SameSite",
    "Scope", "Securer", "Session", "Source", "Speaker", "Stream", "TLSInfo", "Task", "Transport", "Waiter",
    "WatchedBody", "Whole", "connection_ids",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    try:
        module = LAZY[name]
    except KeyError:
        raise AttributeError(f"module 'plugwire.protocols' has no attribute {name!r}") from None
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


# -- streams -------------------------------------------------------------------------------------------------------


class Extra(Generic[T]):
    """A typed key for something that lies below a stream: `stream.extra(TLS)` is a `TLSInfo` or None."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Extra {self.name}>"


class Address(NamedTuple):
    """Where to dial: a numeric IP address with its port. `family` is a `socket.AF_*` number; `flowinfo` and
    `scope_id` only matter for IPv6 (link-local)."""

    family: int
    host: str
    port: int
    flowinfo: int = 0
    scope_id: int = 0

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TLSInfo(NamedTuple):
    """What a handshake agreed on.

    version: "TLSv1.2", "TLSv1.3". cipher: OpenSSL's name. alpn: the protocol chosen by ALPN (RFC 7301), None if none
    was. server_hostname: the name that was sent and verified. peer_certificate: DER, None if the peer has none.
    resumed: the session was resumed. verified: the certificate and the name were checked.
    """

    version: str
    cipher: str
    alpn: str | None
    server_hostname: str | None
    peer_certificate: bytes | None
    resumed: bool
    verified: bool


class Stream(ABC):
    """A pipe of bytes in both directions.

    Only `read_now`, `write_now`, `unsent`, `wait`, `close`, `abort` and `extra` must be written; `receive`,
    `receive_into` and `send` are derived from them and may be overridden where one plain system call does it.

    One user at a time: a second waiter for readability raises `Busy`. Errors are builtin `OSError` kinds; a wait that
    runs out of time raises the builtin `TimeoutError`, without an `errno`: one that has it (ETIMEDOUT) is what the
    system says of a peer that does not acknowledge, and no more than a broken connection. A stream that was closed or
    aborted on this side raises `ConnectionAbortedError` from every method but `close`, `abort`, `nudge`, `disown`,
    `extra` and `unsent`.

    Threads (of the blocking world): `abort` and `nudge` may come from any thread at any time. Who keeps all else apart
    by a lock of its own may call `read_now`, `write_now`, `unsent` and `close` in one thread while another one is in
    `wait`, as requests that share a connection do. It then nudges the waiter after a read, because no descriptor tells
    what the stream holds itself, and after a write that left something `unsent`, if the wait is not for writability.
    """

    @abstractmethod
    def read_now(self, max_bytes: int) -> bytes | None:
        """At most `max_bytes` bytes that are there now. Never waits.

        None: nothing is there (for TLS: nothing that decrypts). b"": the peer ended its side in order, and for ever.
        TLS that ends without close_notify raises `ConnectionResetError` in its place.
        """

    @abstractmethod
    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        """Take all of `data`, send what goes out at once, keep the rest in order (`unsent`). Never waits.

        What is kept may be a reference: the caller must not change a buffer until `unsent` is 0. An empty `data`
        tries to send what is kept.
        """

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes taken by `write_now` that have not gone out."""

    @abstractmethod
    async def wait(self, read: bool, write: bool, at: float) -> None:
        """Wait until a read or a write, whichever was asked for, can make progress; an end or an error counts.

        May return early for nothing (a spurious wake). Moves no bytes that the caller could miss.

        Raises:
            TimeoutError: `at` has passed.
            Busy: somebody else waits for readability already.
        """

    def nudge(self) -> None:  # noqa: B027  (a stream that cannot is still a stream)
        """Make the `wait` for readability that is under way return early, for nothing.

        Any number of times; no byte is lost. In the blocking world, where this may come from another thread, a nudge
        just before the wait begins is not lost: with nobody waiting the next wait returns early, once, however often
        it was nudged. In the other worlds, where it comes from the loop's thread, it may do nothing then. The derived
        methods and `receive` go on waiting. A wrapper hands it down; a stream that has no way to do it leaves this one,
        which does nothing.
        """

    async def receive(self, max_bytes: int, at: float) -> bytes:
        """At most `max_bytes` bytes as soon as there is one; b"" is the end. After a time-out or a cancel no byte is
        lost and the stream is usable."""
        while True:
            data = self.read_now(max_bytes)
            if data is not None:
                return data
            await self.wait(True, False, at)

    async def receive_into(self, buffer: memoryview, at: float) -> int:
        """Like `receive`, into `buffer`; the number of bytes, 0 at the end. After return or cancel the stream never
        touches the buffer again."""
        data = await self.receive(len(buffer), at)
        buffer[: len(data)] = data
        return len(data)

    async def send(self, data: Buffer | Sequence[Buffer], at: float, stop_if_readable: bool = False) -> int:
        """Send all of `data`; the number of its bytes that went out.

        With `stop_if_readable` it may return with less as soon as the peer has something to say (which `read_now`
        then gives); the rest stays `unsent`. After a time-out or a cancel an unknown part has gone out.
        """
        size = len(data) if isinstance(data, (bytes, bytearray)) else _total(data)
        self.write_now(data)
        while left := self.unsent:
            await self.wait(stop_if_readable, True, at)
            self.write_now(b"")
            # No progress although woken, and reading was asked for: it was the peer's bytes that woke us.
            if stop_if_readable and self.unsent == left:
                break
        self.write_now(b"")  # raises if the stream is over: then nothing is unsent, though it has not gone out
        return max(size - self.unsent, 0)

    async def send_eof(self, at: float) -> None:
        """End the sending side after what is unsent has gone out, where the stream can (TCP: FIN, TLS: close_notify);
        otherwise it does nothing more than wait for that."""
        while self.unsent:
            await self.wait(False, True, at)
            self.write_now(b"")
        self.write_now(b"")  # as in `send`

    @abstractmethod
    def close(self) -> None:
        """Close: synchronous, hard, idempotent, never waits. Unsent bytes are dropped. TLS sends close_notify if it
        goes out at once. A waiter is woken with `ConnectionAbortedError`. The garbage collector, which closes what was
        dropped, may call it in any thread, in every world."""

    @abstractmethod
    def abort(self) -> None:
        """Make whoever uses the stream stop with an error, as soon as can be; that user then closes it. May be called
        from another thread in the blocking world, from the loop's thread elsewhere; any number of times."""

    def disown(self) -> None:  # noqa: B027  (a stream without a descriptor has nothing to give up)
        """In the child of a fork, where the stream is the parent's: close this process's copies of descriptors, without
        a word to the peer, and without touching the event loop, both of which the parent goes on to use. From then on
        it is as after `close`. A wrapper hands it down."""

    @abstractmethod
    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        """What lies below: LOCAL_ADDRESS, PEER_ADDRESS and TLS pass through wrappers; SOCKET is answered only by the
        stream that *is* the socket, because who has the socket may go past the stream."""


def _total(data: Buffer | Sequence[Buffer]) -> int:
    """The number of bytes in one buffer or several."""
    if isinstance(data, (bytes, bytearray)):
        return len(data)
    if isinstance(data, memoryview):
        return data.nbytes
    return sum(_total(piece) for piece in data)


LOCAL_ADDRESS: Extra[Address | str] = Extra("LOCAL_ADDRESS")
PEER_ADDRESS: Extra[Address | str] = Extra("PEER_ADDRESS")
TLS: Extra[TLSInfo] = Extra("TLS")
SOCKET: Extra[Any] = Extra("SOCKET")
FORWARDING_PROXY: Extra[bool] = Extra("FORWARDING_PROXY")
"""True: the stream ends at the route's proxy, which wants the requests themselves, in absolute-form, and forwards them
(RFC 9112, 3.2.2). A speaker that writes them so says "proxy" in `honours`, and others do not get such a stream."""


# -- bodies --------------------------------------------------------------------------------------------------------


class Body(ABC):
    """Reads the content of a request or a response. Its deadline is bound when it is opened. One user at a time.

    Attributes:
        length: bytes in all, if that is known before the end.
        trailers: the trailer section (RFC 9110, 6.5); there once `receive` gave b"".
    """

    length: int | None = None
    trailers: Headers | None = None

    @abstractmethod
    async def receive(self, max_bytes: int = 65536) -> bytes:
        """At most `max_bytes` bytes of content, at least one unless at the end.

        b"" only at an end that framing and coding confirm, and from then on for ever.

        Raises:
            IncompleteBody: the content ended before its framing or its coding said so.
        """

    async def receive_into(self, buffer: memoryview) -> int:
        """Like `receive`, into `buffer`; 0 at the end. Straight from the socket where nothing wraps."""
        data = await self.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def close(self) -> None:  # noqa: B027  (a body in memory has nothing to close)
        """Be done with it. Before the end: what is left is read and dropped if it is little, so that the connection
        can be used again; otherwise the connection is closed. Idempotent; never raises for what the peer does."""

    def abort(self) -> None:  # noqa: B027  (the same)
        """Be done at once: whoever reads is woken with an error, the connection is dropped. May be called from
        another thread in the blocking world, from the loop's thread elsewhere."""


class WatchedBody(Body):
    """A body that looks at what passes: override `seen` and `ended`.

    `ended` runs exactly once: with None when the content is complete, with `Discarded` when the body was closed
    before its end, with the error otherwise.
    """

    def __init__(self, inner: Body) -> None:
        self.inner = inner
        self._is_over = False
        self.length = inner.length

    def seen(self, data: bytes | memoryview) -> None:
        """Content passes. The buffer is only valid during the call."""

    def ended(self, error: BaseException | None) -> None:
        """The body is over, one way or another."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = await self.inner.receive(max_bytes)
        except BaseException as error:
            self._end(error)
            raise
        if data:
            self.seen(data)
        else:
            self.trailers = self.inner.trailers
            self._end(None)
        return data

    async def receive_into(self, buffer: memoryview) -> int:
        try:
            size = await self.inner.receive_into(buffer)
        except BaseException as error:
            self._end(error)
            raise
        if size:
            self.seen(buffer[:size])
        else:
            self.trailers = self.inner.trailers
            self._end(None)
        return size

    async def close(self) -> None:
        try:
            await self.inner.close()
        finally:
            self._end(Discarded())

    def abort(self) -> None:
        try:
            self.inner.abort()
        finally:
            self._end(Discarded())

    def _end(self, error: BaseException | None) -> None:
        if not self._is_over:
            self._is_over = True
            self.ended(error)


@runtime_checkable
class Source(Protocol):
    """A request's content, which may be opened once for each attempt.

    length: bytes in all, or None (then it is sent chunked). content: the bytes, if it lies in memory (a signer may
    hash it), else None. is_replayable: whether it can be opened more than once.
    """

    @property
    def length(self) -> int | None: ...
    @property
    def content(self) -> bytes | None: ...
    @property
    def is_replayable(self) -> bool: ...

    def open(self, call: Call) -> Body:
        """A body from the start; the call gives runtime and deadline.

        Raises:
            NotReplayable: the second open of a one-shot source.
        """
        ...


# -- connections ---------------------------------------------------------------------------------------------------


class ConnectionInfo(NamedTuple):
    """What is known of the connection that carried a response.

    id: a number, unique in the process. protocol: "HTTP/1.1", "HTTP/2", ... reused: an earlier request went over it.
    tls: what the handshake agreed on, None without TLS.
    """

    id: int
    protocol: str
    local_address: Address | str | None = None
    peer_address: Address | str | None = None
    tls: TLSInfo | None = None
    reused: bool = False


connection_ids: Final = count(1)
"""Where every kind of connection takes its `ConnectionInfo.id` from: `next(connection_ids)`."""


class Connection(ABC):
    """An HTTP life on one pipe: takes requests, gives responses. Never follows, retries or interprets a status.

    It is made with a function `changed(connection)`, to be called from any thread whenever `capacity` or a flag has
    changed; the pool then looks at it.

    Attributes:
        capacity: requests that it takes now. HTTP/1.1: 0 or 1. HTTP/2: the peer's limit less the open ones; 0 when
            draining or closed; before the peer's SETTINGS count as 100. What the pool has granted and was not sent
            yet, the pool itself subtracts.
        is_idle: no request is open.
        is_draining: takes no new request, the open ones go on.
        is_closed: over.
        info: what `Response.connection` shows.
        scopes_calls: False: who ends a call early, aborts the connection that carries it. True: `send` itself puts what
            waits into the call's scope (`call.waiting(..., shared=True)`), because aborting the connection would end
            other calls too.
        place: belongs to the pool; leave it alone.
    """

    capacity: int
    is_idle: bool
    is_draining: bool
    is_closed: bool
    info: ConnectionInfo
    scopes_calls: bool = False
    place: Any = None

    @abstractmethod
    async def send(self, request: Request, call: Call) -> AsyncResponse:
        """Send the request; return when the final response's head was read, its body unread.

        Up to `capacity` at once. Whatever it raises, the connection is then either usable or closed.

        Raises:
            Refused: the capacity went away and nothing was sent: the pool picks anew.
        """

    @abstractmethod
    def is_fresh(self) -> bool:
        """Asked before an idle connection is used again; never waits. False if the peer closed it or sent anything
        that it should not have; handles what came while idle (HTTP/2: PING, SETTINGS)."""

    @abstractmethod
    def close(self) -> None:
        """Close hard; synchronous, idempotent."""

    @abstractmethod
    def abort(self) -> None:
        """Wake whoever uses it with an error. Like `Stream.abort`, from another thread in the blocking world."""

    def disown(self) -> None:  # noqa: B027  (what has no descriptor has nothing to give up)
        """In the child of a fork: be closed without a word; hands on to `Stream.disown`. Locks may be held for ever, by
        threads that exist in the parent only."""


# -- transports ----------------------------------------------------------------------------------------------------

EVERYTHING: Final = "*"
"""In `Transport.honours`: nothing is ignored, whatever the route demands; of a wrapper, because it hands the route on
as it is to a transport below that must honour it."""


class Transport(Protocol):
    """What all five roles have in common.

    name: by which it is configured and named in errors and `explain()`. honours: the route fields and options that it
    obeys, as `Route.demands` spells them; a route that demands anything else is not given to it, so that nothing is
    silently ignored. worlds (optional): the names of the runtimes it works in; without it, all of them.
    wrap_runtime (optional, for tests): `wrap_runtime(runtime) -> Runtime`, asked once, when a session learns its world;
    the session works with the answer, which has a clock of its own, say, as that of `plugwire.testing.faults` has.
    """

    @property
    def name(self) -> str: ...
    @property
    def honours(self) -> frozenset[str]: ...

    def refuse(self, route: Route) -> str | None:
        """None, or the reason in words why this route is not for it. Pure and quick; asked once for each new route."""
        ...


@runtime_checkable
class Resolver(Transport, Protocol):
    """Role: names to addresses.

    One that remembers them has a method `forget(host, port, connecting)` too, plain and quick, which may be called at
    any time: a dialler found that no address of the host takes a connection (`Connecting.forget`).
    """

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        """At least one address, best first. Raises `ResolveError` or an `OSError`."""
        ...


@runtime_checkable
class Dialler(Transport, Protocol):
    """Role: a route to a stream."""

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        """A connected stream. Raises `ConnectError` or an `OSError`; `Refused` passes on to the next dialler."""
        ...


@runtime_checkable
class Securer(Transport, Protocol):
    """Role: a stream to a secured stream, which answers `extra(TLS)`."""

    async def secure(self, stream: Stream, route: Route, connecting: Connecting) -> Stream:
        """After the handshake. Whatever it raises, the connector closes `stream`."""
        ...


@runtime_checkable
class Speaker(Transport, Protocol):
    """Role: a stream to a connection.

    protocols: the names it speaks, as ALPN and `http_versions` spell them: "http/1.1", "h2".
    """

    @property
    def protocols(self) -> tuple[str, ...]: ...

    async def speak(self, stream: Stream, protocol: str, route: Route, connecting: Connecting) -> Connection:
        """A connection over the stream, which it then owns."""
        ...


@runtime_checkable
class Whole(Transport, Protocol):
    """Role: a route to a connection, all by itself: ASGI, WSGI, replay, mock, HTTP/3."""

    async def open(self, route: Route, connecting: Connecting) -> Connection:
        """A connection. `Refused` passes on to the next transport."""
        ...


# -- runtime -------------------------------------------------------------------------------------------------------


class Abortable(Protocol):
    """Whatever can be woken with an error by `abort()`, from another thread in the blocking world."""

    def abort(self) -> None: ...


class Waiter(ABC):
    """A meeting of one who waits and one who wakes. Single use."""

    @abstractmethod
    async def wait(self, at: float) -> bool:
        """True when woken (also if that was before), False when `at` has passed."""

    @abstractmethod
    def wake(self) -> None:
        """Synchronous, from any thread, any number of times, before or during `wait`; may run in the pool's step."""

    def abort(self) -> None:
        """The same as `wake`: who was aborted looks why."""
        self.wake()


class AsyncLock(Protocol):
    """A lock for plugins, which may be held over an await: `async with lock:`."""

    async def __aenter__(self) -> object: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Task(Protocol):
    """Background work, owned by the session."""

    def cancel(self) -> None:
        """Ask it to end: cancelled in asyncio and trio; in the blocking world its streams and waits are aborted."""
        ...

    async def join(self) -> None:
        """Wait until it has ended. What it raised goes to `sys.unraisablehook`, not here."""
        ...


class Datagrams(Protocol):
    """Connected datagrams (UDP), for transports such as HTTP/3. A receive with a near `at` is a timer."""

    def send_now(self, data: Buffer) -> bool:
        """Send one datagram; False if it did not go out at once."""
        ...

    async def receive(self, max_bytes: int, at: float) -> bytes: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Runtime(ABC):
    """A flavour of I/O: blocking, asyncio or trio. The only thing that waits, beside the streams it makes.

    Attributes:
        name: "blocking", "asyncio" or "trio".
        cancellation: the exceptions by which this world cancels who awaits; none in the blocking world. They come out
            of an await only, so what was consistent before it still is. Any other exception may come at any bytecode.
    """

    name: str
    cancellation: tuple[type[BaseException], ...] = ()

    @abstractmethod
    def now(self) -> float:
        """The clock, in seconds, that every point in time is written in. Its origin means nothing."""

    def check_here(self) -> None:  # noqa: B027  (a runtime without a loop is everywhere at home)
        """Raise `UsageError` if the caller runs in another event loop than the one that this runtime belongs to."""

    @abstractmethod
    async def sleep(self, seconds: float, at: float) -> None:
        """Sleep. Raises the builtin `TimeoutError` at once if that would pass `at`."""

    @abstractmethod
    def lock(self) -> AsyncLock:
        """A lock for plugins, which may be held over an await. The core's own short sections use `threading.Lock`."""

    @abstractmethod
    async def turn(self) -> None:
        """Let the tasks that are ready run. Nothing in the blocking world."""

    @abstractmethod
    def waiter(self) -> Waiter:
        """A new waiter."""

    @abstractmethod
    async def race(
        self, *starters: Callable[[], Awaitable[T]], discard: Callable[[T], object] | None = None
    ) -> tuple[int, T]:
        """Run all at once; the first success wins: its index and result.

        The losers are cancelled and waited for; a result that comes too late goes to `discard`. If all fail, the last
        error is raised. If the race itself is cancelled, so are all.
        """

    @abstractmethod
    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> Task:
        """Begin background work, `function(*args)`. The owner cancels and joins it. A thread in the blocking world."""

    @abstractmethod
    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """The result of a plain function that blocks (file reads, foreign libraries): in a worker thread, but called
        directly in the blocking world, so there no deadline ends it."""

    @abstractmethod
    def from_thread(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Back from a thread of `run_blocking` into this world: run `function(*args)` there and wait for its result."""

    @abstractmethod
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
        """Connect to the first of `addresses` that answers (Happy Eyeballs, RFC 8305, 5: families alternate, one
        further address each `stagger` seconds or as soon as one has failed). A cancelled dial leaves no socket.

        Args:
            addresses: best first.
            at: for all of them together.
            local_address: numeric; addresses of the other family are left out.
            socket_options: (level, name, value), set before connecting. TCP_NODELAY is set in any case.
            scope: what `call.cancel()` aborts; the dial stands in it while it waits.
            seen: told of each address when it is started, finished or failed.

        Raises:
            TimeoutError: `at` has passed.
            OSError: all failed: the one error, or the first one with the others as notes.
        """

    @abstractmethod
    async def dial_unix(self, path: str, at: float, *, scope: Scope | None = None) -> Stream:
        """Connect to the Unix socket at `path`."""

    @abstractmethod
    async def open_datagrams(self, address: Address, at: float, *, local_address: str | None = None) -> Datagrams:
        """A connected UDP socket."""


# -- what hooks get ------------------------------------------------------------------------------------------------


class Session(ABC):
    """A session as plugins see it: never a face, the same in every world.

    Attributes:
        headers: sent with every request of the session; a plugin may add to them in `session_opened`.
        cookies: the jar, shared with the sessions that were derived from this one. It is made when first asked for: who
            only wants to know whether there is a cookie asks `has_jar` first. Raises `UsageError` in a session without
            the plugin "cookies".
        runtime: the world.
    """

    headers: Headers
    cookies: CookieStore
    runtime: Runtime

    @abstractmethod
    async def send(self, request: Request, *, context: object = None, timeout: Any = None) -> AsyncResponse:
        """A call of its own through this session; the body is read."""

    @abstractmethod
    def state(self, owner: object, make: Callable[[Runtime], T]) -> T:
        """What a plugin keeps for each session (locks, tokens, counters): made by `make(runtime)` once per session and
        owner, so one plugin object may serve several sessions and worlds. Threads may ask at once. It goes with the
        owner, if nothing in it holds that one; so an owner is an object that lives as long as its state is needed, not
        a value made for the asking.

        The child of a fork has what its parent had, but none of its threads, so a lock that one of them held is never
        given back. What `make` returns may have a method `after_fork()`, plain and quick: it is called in the child,
        before anything else there uses the session."""

    @abstractmethod
    @overload
    def options(self, kind: type[T]) -> T: ...
    @abstractmethod
    @overload
    def options(self, kind: type[T], given: Mapping[str, object]) -> T: ...
    @abstractmethod
    def options(self, kind: type[T], given: Mapping[str, object] | None = None) -> T:
        """The options of the declared type `kind`: its defaults, overlaid with the session's `options=`, overlaid with
        `given`."""

    @property
    @abstractmethod
    def has_jar(self) -> bool:
        """True once `cookies` are there: given, asked for, or made for the first one. This makes none."""

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """True from the moment that somebody closes the session."""


class AroundCall(Protocol):
    """The shape of `around_call` and, at other stages, of `around_send`."""

    async def __call__(self, request: Request, call_next: Next, call: Call) -> AsyncResponse: ...


AroundSend: TypeAlias = AroundCall


class AroundRead(Protocol):
    """The shape of `around_read`: returns the body to read in place of `body`, or `body` itself."""

    def __call__(self, response: AsyncResponse, body: Body, call: Call) -> Body: ...
