"""A TLS server without I/O, and the stream that leads to it: every byte and every wait is under the test's control."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import trustme

from plugwire.drive import drive
from plugwire.protocols import Extra, Stream
from plugwire.route import Route
from plugwire.url import URL
from plugwire_transports.tls import TLSSecurer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plugwire.config import TLSConfig
    from plugwire.protocols import Buffer
    from plugwire_transports.tls_stream import TLSStream

T = TypeVar("T")

CA = trustme.CA()
CA_PEM = CA.cert_pem.bytes().decode()
LEAF = CA.issue_cert("peer.example", "127.0.0.1", "::1")
PEER_ADDRESS: Extra[str] = Extra("the address of the peer in memory")


def server_context(leaf: trustme.LeafCert = LEAF, *, version: str = "", alpn: Sequence[str] = ()) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    if version:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Peer:
    """The server's end. `received` is its plaintext; `outbox` what goes to the client."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.is_ready = False
        self.has_ended = False
        self.error: Exception | None = None
        self.received = b""
        self.outbox = bytearray()
        self.reply: Callable[[Peer], None] | None = None

    def feed(self, data: bytes) -> None:
        self.incoming.write(data)
        self.turn()

    def turn(self) -> None:
        try:
            if not self.is_ready:
                self.tls.do_handshake()
                self.is_ready = True
            while data := self.tls.read(65536):
                self.received += data
                if self.reply is not None:
                    self.reply(self)
            self.has_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_ended = True
        except ssl.SSLError as error:
            self.error = error
        self.outbox += self.outgoing.read()

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.outbox += self.outgoing.read()

    def say_end(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        self.outbox += self.outgoing.read()


class Script:
    """A peer that answers with fixed bytes whatever comes."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = list(replies)
        self.outbox = bytearray()
        self.got = b""

    def feed(self, data: bytes) -> None:
        self.got += data
        if self.replies:
            self.outbox += self.replies.pop(0)


class Fault(Exception):
    """Stands for a cancel."""


@dataclass(eq=False)
class Wire(Stream):
    """The client's lower stream.

    piece: the most bytes that one read gives; pieces: those of the next reads. window: the most ciphertext that goes
    out between two waits. cut: the end comes after so many bytes to the client. faults: what the wait of that number
    raises. broken: what every write raises.
    """

    peer: Any
    piece: int = 1 << 20
    window: float = inf
    pieces: list[int] = field(default_factory=list)
    cut: float = inf
    faults: dict[int, BaseException] = field(default_factory=dict)
    waits: int = 0
    nudges: int = 0
    reads: int = 0
    given: int = 0
    room: float = inf
    kept: bytearray = field(default_factory=bytearray)
    most_kept: int = 0
    is_ended: bool = False
    is_closed: bool = False
    is_aborted: bool = False
    broken: OSError | None = None

    def __post_init__(self) -> None:
        self.room = self.window

    def _check(self) -> None:
        if self.is_closed or self.is_aborted:
            raise ConnectionAbortedError("closed on this side")

    @property
    def is_at_end(self) -> bool:
        return self.given >= self.cut or (self.is_ended and not self.peer.outbox)

    def read_now(self, max_bytes: int) -> bytes | None:
        self._check()
        self.reads += 1
        piece = self.pieces.pop(0) if self.pieces else self.piece
        size = int(min(max_bytes, piece, self.cut - self.given, len(self.peer.outbox)))
        if size:
            data = bytes(self.peer.outbox[:size])
            del self.peer.outbox[:size]
            self.given += size
            return data
        return b"" if self.is_at_end else None

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        self._check()
        if self.broken:
            raise self.broken
        assert isinstance(data, bytes)
        self.kept += data
        self.most_kept = max(self.most_kept, len(self.kept))
        size = int(min(self.room, len(self.kept)))
        if size:
            out = bytes(self.kept[:size])
            del self.kept[:size]
            self.room -= size
            self.peer.feed(out)

    @property
    def unsent(self) -> int:
        return len(self.kept)

    async def wait(self, read: bool, write: bool, at: float) -> None:
        self._check()
        self.waits += 1
        if self.waits in self.faults:
            raise self.faults.pop(self.waits)
        self.room = self.window
        if not (read and (self.peer.outbox or self.is_at_end)) and not write:
            raise TimeoutError("nothing will ever come")

    def nudge(self) -> None:
        self.nudges += 1

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        return "in memory" if key is PEER_ADDRESS else default  # type: ignore[return-value]


CONNECTING: Any = SimpleNamespace(deadline=SimpleNamespace(at=inf))


def route_to(url: str, tls: TLSConfig, http_versions: tuple[str, ...] = ("http/1.1",)) -> Route:
    return Route(URL(url).origin, tls=tls, http_versions=http_versions)


def secured(lower: Stream, tls: TLSConfig, url: str = "https://peer.example", **more: Any) -> TLSStream:
    securer: TLSSecurer = more.pop("securer", None) or TLSSecurer()
    return drive(securer.secure(lower, route_to(url, tls, **more), CONNECTING))
