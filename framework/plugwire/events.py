"""What happens during a call, as typed, frozen values for observers.

Steps come in pairs: an event with `edge` STARTED is followed by exactly one of the same class with FINISHED or FAILED
(then `error` is set). The nesting:

    CallStep > ( Attempt | Redirect | Retry | Cache )*
    Attempt  > PoolWait? ( Resolve? Connect* (TLS? Tunnel)? TLS? )?
               Send > Data(sent)* . Informational* . Head . Receive > Data(received)*
    without a call: Open, Close

When the pool replays a request on a new connection, it starts again at PoolWait within the same Attempt. Redirect,
Retry, Cache, Informational, Head and Data have no edge: they are single points.

A plugin names the classes it wants in `events = (Connect, Data)`; all others are never built for it. Observers run in
the call's own thread or task. They must be quick and cannot change anything; what they raise goes to
`sys.unraisablehook`, once, and never to the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugwire.headers import Headers
    from plugwire.messages import Request
    from plugwire.protocols import Address, Call, ConnectionInfo, TLSInfo
    from plugwire.route import Route
    from plugwire.url import URL


class Edge(Enum):
    """Which end of a step an event stands for."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The root of all events.

    Attributes:
        time: the point on the runtime's clock, in seconds.
        call: the call it belongs to, or None (Open, Close).
        attempt: the number of the attempt, from 1; 0 before the first.
        context: the caller's `context=`.
    """

    time: float
    call: Call | None = None
    attempt: int = 0
    context: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """An event with two ends. `error` is set when `edge` is FAILED."""

    edge: Edge
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStep(Step):
    """The user's whole operation. `status` is that of the final response, 0 until there is one."""

    request: Request
    status: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Step):
    """One try on the wire, as it goes out (after `prepare`)."""

    request: Request
    status: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect(Event):
    """A redirect is followed."""

    status: int
    url: URL
    target: URL


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Event):
    """The retry policy has decided. `delay` is in seconds; `will_retry` False: it gave up, for `reason`."""

    reason: str
    delay: float
    will_retry: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache(Event):
    """What a cache did: hit, miss, stored, revalidated, ..."""

    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolWait(Step):
    """Waiting for a place in the pool's limits; only when it could not be had at once."""

    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve(Step):
    """A host's name is turned into addresses."""

    host: str
    port: int
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect(Step):
    """One address is dialled; several may be under way at once (Happy Eyeballs, RFC 8305)."""

    address: Address | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel(Step):
    """A proxy is asked for a tunnel. `proxy` is its URL, without credentials, `target` host and port of the origin. If
    the proxy closes the connection behind a challenge, another Resolve, Connect and TLS are inside."""

    proxy: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS(Step):
    """The TLS handshake. `info` is there when it has finished."""

    host: str
    info: TLSInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send(Step):
    """The request is written, body included."""

    request: Request
    connection: ConnectionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Informational(Event):
    """A 1xx response (RFC 9110, 15.2)."""

    status: int
    reason: str
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Head(Event):
    """The final response's head is there."""

    status: int
    reason: str
    headers: Headers
    http_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receive(Step):
    """The response's body is read, from the head to its verified end. `size` is what came, in bytes of content as on
    the wire; an early close is FAILED with `Discarded`."""

    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Data(Event):
    """Content moved.

    Attributes:
        sent: True for the request's body, False for the response's.
        size: bytes of this piece.
        done: bytes so far, this piece included.
        total: bytes in all, or None if that is not known.
    """

    sent: bool
    size: int
    done: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Event):
    """A connection stands and is ready for requests."""

    connection: ConnectionInfo
    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Close(Event):
    """A connection is gone. `reason` in words: idle too long, closed by the peer, session closed, ..."""

    connection: ConnectionInfo
    reason: str


ALL: tuple[type[Event], ...] = (
    CallStep, Attempt, Redirect, Retry, Cache, PoolWait, Resolve, Connect, Tunnel, TLS, Send, Informational, Head,
    Receive, Data, Open, Close,
)  # fmt: skip
