"""Every error that plugwire raises.

One root, `Error`. The *type* tells the phase and who is to blame; the attributes tell the rest:

    Error
        UsageError                  the caller (or a plugin) is to blame
            InvalidURL, InvalidHeader, UnknownOption            also a `ValueError`
            NoTransport
            BodyUnread, NotReplayable, Busy, SessionClosed
            PluginError
                Suspended
        TimedOut                    a budget of `Timeout` is used up; also a `TimeoutError`
            TotalTimeout, HeadTimeout, PoolTimeout, ConnectTimeout, WriteTimeout, ReadTimeout
        NetworkError                the network or the way to the peer; also a `ConnectionError`
            ResolveError
                AddressRefused
            ConnectError, WriteError, ReadError, ConnectionClosed
            TLSError
                CertificateError
            ProxyError
        Cancelled                   `call.cancel()`; asyncio's and trio's own cancellation passes through untouched
        PeerError                   the peer broke the protocol, or went over a limit
            ProtocolError
                IncompleteBody, StreamReset
            LimitExceeded
            DecodingError           also a `ValueError`
        ResponseError               a complete response that is treated as an error
            HTTPStatusError, TooManyRedirects, UnsafeRedirect

No exception of another library leaves plugwire, and all of these can be pickled: what cannot travel (a request, a live
response) is left behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plugwire.messages import Request, ResponseBase
    from plugwire.protocols import ConnectionInfo

Phase: TypeAlias = Literal["pool", "resolve", "dial", "tls", "write", "head", "body"]
"""Where a request stood when it failed: waiting for a place in the pool, resolving the name, dialling (tunnels
through proxies included), in the TLS handshake, writing the request, waiting for the head, reading the body."""


class Error(Exception):
    """The root of all errors of plugwire.

    Attributes:
        request: the request that failed, as it went out, or None outside of a request.
        phase: where it failed (see `Phase`), or None where no request was on its way: outside of one, in a
            middleware, in the pause between two attempts.
        sent: True from the moment the first byte was handed to the stream, by this attempt or an earlier one. May be
            True though nothing left this machine; never False though something did.
        replayable: True if sending the same request again cannot make the peer act twice: nothing was sent, or the
            peer said that it did not act, or the method is idempotent (RFC 9110, 9.2.2), and the body can be replayed.
            False, too, if an earlier request of the same call was not idempotent and went out, as a POST before a
            redirect to a GET that failed: who repeats the call repeats both.
            It says that sending it again does no harm, not that it helps: a `NoTransport` or a `PluginError` before
            the first byte is replayable, and unless something is changed it will fail in the same way.
        attempts: how many attempts were made on the wire, this one included.
        connection: what is known of the connection, or None.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.request: Request | None = None
        self.phase: Phase | None = None
        self.sent: bool = False
        self.replayable: bool = False
        self.attempts: int = 0
        self.connection: ConnectionInfo | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if _can_travel(value)}
        return (_rebuild, (type(self), self.args, state))

    def at(
        self,
        phase: Phase,
        *,
        request: Request | None = None,
        sent: bool | None = None,
        replayable: bool | None = None,
        connection: ConnectionInfo | None = None,
    ) -> Self:
        """Fill in what the raiser below could not know; what is already there stays. Returns self."""
        if self.phase is None:
            self.phase = phase
        if self.request is None:
            self.request = request
        if sent:
            self.sent = True
        if replayable is not None:
            self.replayable = replayable
        if self.connection is None:
            self.connection = connection
        return self


def _can_travel(value: object) -> bool:
    """True for what is pickled with an error: plain values, and tuples of them (`ConnectionInfo`). Requests (their
    bodies may be files) and responses stay behind."""
    if isinstance(value, tuple):
        return all(_can_travel(item) for item in cast("tuple[object, ...]", value))
    return value is None or isinstance(value, (bool, int, float, str, bytes))


def _rebuild(kind: type[Error], args: tuple[Any, ...], state: dict[str, Any]) -> Error:
    error = kind()
    error.args = args
    error.__dict__.update(state)
    return error


# -- the caller's side ---------------------------------------------------------------------------------------------


class UsageError(Error):
    """The caller asked for something that cannot be. Refused before any I/O, where that can be seen before: that a body
    cannot be sent again, say, comes to light when a redirect asks for it. `sent` tells."""


class InvalidURL(UsageError, ValueError):
    """The URL cannot be parsed by the WHATWG URL standard, or is not fit for a request."""


class InvalidHeader(UsageError, ValueError):
    """A method, target, field name or field value that must not go on the wire (RFC 9110, 5.1, 5.5, 9.1)."""


class UnknownOption(UsageError, ValueError):
    """An option that nobody declared, or of the wrong type."""


class NoTransport(UsageError):
    """No transport takes this route. `reasons` lists each transport that was asked with its reason in words."""

    def __init__(self, message: str = "", reasons: Mapping[str, str] | None = None) -> None:
        self.reasons: dict[str, str] = dict(reasons or {})
        lines = "".join(f"\n  {name}: {reason}" for name, reason in self.reasons.items())
        super().__init__(message + lines)

    def __reduce__(self) -> tuple[Any, ...]:
        kind, (cls, args, state) = super().__reduce__()
        return (kind, (cls, args, {**state, "reasons": self.reasons}))


class BodyUnread(UsageError):
    """`content`, `text` or `json()` of a response whose body has not been read: call `read()` first."""


class NotReplayable(UsageError):
    """The body had to be sent a second time and cannot be: it was a one-shot iterable or a pipe."""


class Busy(UsageError):
    """A second user of something that has one user at a time: a response, a body, a leased connection, a stream; the
    pool, if a finaliser or signal handler sends a request that comes inside of one of its steps."""


class SessionClosed(UsageError):
    """The session was closed, before the call or under it."""


class PluginError(UsageError):
    """A plugin broke the rules of its hook. `plugin` is its name."""

    def __init__(self, message: str = "", plugin: str = "") -> None:
        super().__init__(message)
        self.plugin = plugin


class Suspended(PluginError):
    """In a blocking session a plugin or transport awaited something that needs an event loop, such as
    `asyncio.sleep`. `awaitable` names it."""

    def __init__(self, message: str = "", plugin: str = "", awaitable: str = "") -> None:
        super().__init__(message, plugin)
        self.awaitable = awaitable


# -- time ----------------------------------------------------------------------------------------------------------


class TimedOut(Error, TimeoutError):
    """A budget of `Timeout` was used up.

    Attributes:
        budget: the name of the budget: total, head, pool, connect, read or write.
        limit: its size in seconds.
        elapsed: seconds since the budget began to run.
    """

    def __init__(self, message: str = "", budget: str = "", limit: float = 0.0, elapsed: float = 0.0) -> None:
        super().__init__(message)
        self.budget = budget
        self.limit = limit
        self.elapsed = elapsed


class TotalTimeout(TimedOut):
    """`Timeout.total`: the whole call, retries and redirects included."""


class HeadTimeout(TimedOut):
    """`Timeout.head`: from the start of the call to the end of the response's head."""


class PoolTimeout(TimedOut):
    """`Timeout.pool`: no connection became free. The message tells who holds the connections."""


class ConnectTimeout(TimedOut):
    """`Timeout.connect`: resolving, dialling all addresses and the TLS handshake, together."""


class WriteTimeout(TimedOut):
    """`Timeout.write`: the peer took no byte of the request for so long."""


class ReadTimeout(TimedOut):
    """`Timeout.read`: the peer sent no byte of the response for so long."""


# -- the network ---------------------------------------------------------------------------------------------------


class NetworkError(Error, ConnectionError):
    """The network, or the way to the peer, failed. The cause is the `OSError`."""


class ResolveError(NetworkError):
    """The host's name could not be resolved."""


class AddressRefused(ResolveError):
    """The host is at an address that this session must not connect to (`plugwire_transports.AddressGuard`). Nothing was
    sent, and to try again is pointless.

    Attributes:
        host: of the URL.
        address: where it is, or the path of the Unix socket; None if that is not known.
    """

    def __init__(self, message: str = "", host: str = "", address: str | None = None) -> None:
        super().__init__(message)
        self.host = host
        self.address = address


class ConnectError(NetworkError):
    """No address of the host took the connection."""


class WriteError(NetworkError):
    """The connection broke while the request was being written."""


class ReadError(NetworkError):
    """The connection broke while the response was being read."""


class ConnectionClosed(NetworkError):
    """The peer closed the connection before the response began."""


class TLSError(NetworkError):
    """The TLS handshake failed, or a record was bad."""


class CertificateError(TLSError):
    """The peer's certificate was not accepted: unknown issuer, wrong host, expired, or not among the pins."""


class ProxyError(NetworkError):
    """A proxy gave no tunnel. `response` is its answer, where it gave one, with at most the first 64 KiB of content."""

    def __init__(self, message: str = "", response: ResponseBase | None = None) -> None:
        super().__init__(message)
        self.response = response


class Cancelled(Error):
    """`call.cancel()` was called. (asyncio and trio raise their own exception for their own cancellation.)"""


# -- the peer ------------------------------------------------------------------------------------------------------


class PeerError(Error):
    """The peer did what no peer may do."""


class ProtocolError(PeerError):
    """The peer's bytes are not valid HTTP. The message says what and where."""


class IncompleteBody(ProtocolError):
    """The body ended before its framing said so, or inside of a content coding.

    Attributes:
        received: bytes of content that came (decoded ones, in the second case).
        expected: bytes that were announced, or None if no length was.
    """

    def __init__(self, message: str = "", received: int = 0, expected: int | None = None) -> None:
        super().__init__(message)
        self.received = received
        self.expected = expected


class StreamReset(ProtocolError):
    """The peer reset the HTTP/2 stream. `code` is its error code (RFC 9113, 7)."""

    def __init__(self, message: str = "", code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class LimitExceeded(PeerError):
    """The peer went over a limit of `Limits`. `limit` is the name of the limit."""

    def __init__(self, message: str = "", limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


class DecodingError(PeerError, ValueError):
    """The content could not be decoded by its content coding or charset, or is not JSON."""


# -- complete responses --------------------------------------------------------------------------------------------


class ResponseError(Error):
    """A complete response, treated as an error. `response` has it."""

    def __init__(self, message: str = "", response: ResponseBase | None = None) -> None:
        super().__init__(message)
        self.response = response


class HTTPStatusError(ResponseError):
    """`raise_for_status()` on a status of 400 or above."""


class TooManyRedirects(ResponseError):
    """More redirects than `max_redirects`. `response` is the one that was not followed, with all before it in its
    `history`."""


class UnsafeRedirect(ResponseError):
    """A redirect to where none is followed: from https to http (unless asked for: `allow_insecure_redirects`), or to
    another scheme than these two. `response` is the redirect."""


# -- never seen by users -------------------------------------------------------------------------------------------


class Refused(Exception):
    """Raised by a transport's role method, before any request byte: the next transport is asked. Raised by
    `Connection.send`: nothing was sent, the pool picks anew. Never leaves the core.

    Args:
        overtaken: by `Connection.send`: others are under way on the connection and took the room, so it is not to
            blame. It knows this in the moment in which it refuses; a look at it afterwards may find them gone.
    """

    def __init__(self, reason: str, *, overtaken: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.overtaken = overtaken


class Discarded(Exception):
    """Given to `WatchedBody.ended` when the body was closed before its end. Never raised to anybody."""


PUBLIC: Sequence[type[Error]] = (
    Error, UsageError, InvalidURL, InvalidHeader, UnknownOption, NoTransport, BodyUnread, NotReplayable, Busy,
    SessionClosed, PluginError, Suspended, TimedOut, TotalTimeout, HeadTimeout, PoolTimeout, ConnectTimeout,
    WriteTimeout, ReadTimeout, NetworkError, ResolveError, AddressRefused, ConnectError, WriteError, ReadError,
    ConnectionClosed, TLSError, CertificateError, ProxyError, Cancelled, PeerError, ProtocolError, IncompleteBody,
    StreamReset, LimitExceeded, DecodingError, ResponseError, HTTPStatusError, TooManyRedirects, UnsafeRedirect,
)  # fmt: skip
