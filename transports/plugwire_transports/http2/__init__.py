"""HTTP/2 (RFC 9113): the speaker "h2", chosen by ALPN, and by prior knowledge on plain connections.

hpack        header compression: our coders over the tables of the hpack package
wire         frames in, calls out; no I/O
sharing      who reads, who writes, who waits, among all who share a connection
connection   the road of a request; exchange, body and tunnel are what its users hold
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from plugwire import UsageError

if TYPE_CHECKING:
    from plugwire.protocols import Connecting, Connection, Route, Stream


class KeepAlive(NamedTuple):
    """interval: seconds without a byte from the peer, after which it is asked. patience: seconds that it may take to
    answer."""

    interval: float
    patience: float


class HTTP2:
    """The transport "h2".

    Args:
        keep_alive: while somebody waits for the peer, a PING goes out after so many seconds without a byte from it
            (RFC 9113, 6.7); None, the default: never. In a pool, idle connections are looked at before they are used
            again, and need no PING.
        keep_alive_timeout: seconds that the answer may take, 20 by default; then the connection counts as lost.

    Give one of your own to set them: `Session(transports=[HTTP2(keep_alive=30)])`.

    Raises:
        UsageError: one of them is not a number above 0.
    """

    name = "h2"
    protocols = ("h2",)
    honours = frozenset({"http_versions"})

    def __init__(self, *, keep_alive: float | None = None, keep_alive_timeout: float = 20.0) -> None:
        for value in (keep_alive_timeout, keep_alive if keep_alive is not None else 1.0):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise UsageError(f"keep_alive={keep_alive!r}, {keep_alive_timeout=}: seconds above 0")
        self.keep_alive = KeepAlive(keep_alive, keep_alive_timeout) if keep_alive is not None else None

    def refuse(self, route: Route) -> str | None:
        """Takes routes over TLS that allow HTTP/2, and plain ones that allow nothing else."""
        if "h2" not in route.http_versions:
            return "h2 is not in http_versions"
        if not route.is_secure and "http/1.1" in route.http_versions:
            return 'without TLS nobody negotiates: only by prior knowledge, http_versions=("h2",)'
        return None

    async def speak(self, stream: Stream, protocol: str, route: Route, connecting: Connecting) -> Connection:
        """A connection over the stream. Its preface goes out with the first request."""
        # Here, because every session has this transport and few need the h2 package that early.
        from plugwire_transports.http2.connection import HTTP2Connection

        return HTTP2Connection(stream, connecting, self.keep_alive)
