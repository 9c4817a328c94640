"""Resumption: what is offered again, to whom, and how often."""

from __future__ import annotations

import ssl
from math import inf
from typing import TYPE_CHECKING

import pytest

from plugwire.config import TLSConfig
from plugwire.drive import drive
from plugwire_transports import tls_sessions
from plugwire_transports.tls import TLSSecurer
from tls_peer import CA_PEM, Peer, Wire, route_to, secured, server_context
from worlds import in_time

if TYPE_CHECKING:
    from plugwire.protocols import TLSInfo

TRUSTING = TLSConfig(ca_data=CA_PEM)


def exchange(
    context: ssl.SSLContext, securer: TLSSecurer, tls: TLSConfig = TRUSTING, url: str = "https://peer.example",
    versions: tuple[str, ...] = ("http/1.1",), closes: bool = True,
) -> TLSInfo:  # fmt: skip
    peer = Peer(context)
    stream = secured(Wire(peer), tls, url, securer=securer, http_versions=versions)
    peer.say(b"x")
    assert drive(stream.receive(10, inf)) == b"x"
    if closes:
        stream.close()
        peer.say_end()
    return stream.info


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("has_tickets", [True, False])
def test_the_second_handshake_is_resumed(version: str, has_tickets: bool) -> None:
    context, securer = server_context(version=version), TLSSecurer()
    if not has_tickets:
        if version == "TLSv1_3":
            context.num_tickets = 0
        else:
            context.options |= ssl.OP_NO_TICKET
    infos = [exchange(context, securer) for _ in range(4)]
    # TLS 1.2 without tickets resumes by the server's memory; TLS 1.3 has nothing but tickets.
    resumes = has_tickets or version == "TLSv1_2"
    assert [info.resumed for info in infos] == [False, resumes, resumes, resumes]
    assert len({info.peer_certificate for info in infos}) == 1
    assert all(info.verified for info in infos)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_session_is_offered_once(version: str) -> None:
    context, securer = server_context(version=version), TLSSecurer()
    exchange(context, securer)
    assert exchange(context, securer, closes=False).resumed
    assert not exchange(context, securer, closes=False).resumed


def test_no_session_crosses_to_another_configuration_or_peer() -> None:
    context = server_context(alpn=["http/1.1"])
    digests = (exchange(context, TLSSecurer()).peer_certificate or b"").hex()[:64]
    for change in (
        {"tls": TLSConfig(ca_data=CA_PEM, pins=(digests,))},
        {"tls": TLSConfig(verify=False)},
        {"tls": TLSConfig(ca_data=CA_PEM, server_hostname="127.0.0.1")},
        {"tls": TLSConfig(ca_data=CA_PEM, minimum_version="TLSv1.3")},
        {"url": "https://127.0.0.1"},
        {"url": "https://peer.example:8443"},
        {"versions": ("h2", "http/1.1")},
    ):
        securer = TLSSecurer()
        exchange(context, securer)
        try:
            assert not exchange(context, securer, **change).resumed  # type: ignore[arg-type]
        except Exception as error:
            assert "pins" in str(error)
        assert exchange(context, securer).resumed
    assert not exchange(context, TLSSecurer()).resumed


def test_an_unverified_session_does_not_pass_for_a_verified_one() -> None:
    securer = TLSSecurer()
    other = server_context()
    assert not exchange(other, securer, TLSConfig(verify=False)).verified
    info = exchange(other, securer)
    assert info.verified and not info.resumed


@pytest.mark.parametrize("end", ["abort", "reset", "bad record"])
def test_a_connection_that_went_bad_leaves_no_session(end: str) -> None:
    context, securer = server_context(), TLSSecurer()
    peer = Peer(context)
    lower = Wire(peer)
    stream = secured(lower, TRUSTING, securer=securer)
    stream.read_now(1)
    if end == "abort":
        stream.abort()
    else:
        peer.say(b"x")
        if end == "reset":
            lower.cut = lower.given + 3
        else:
            peer.outbox[-1] ^= 1
        with pytest.raises(OSError):
            drive(stream.receive(1, inf))
    stream.close()
    # A cut alone says nothing against the session (RFC 5246, 7.2.1).
    assert exchange(context, securer).resumed is (end == "reset")


def test_the_store_is_bounded() -> None:
    store = TLSSecurer()._sessions
    routes = [route_to(f"https://h{n}.example", TRUSTING) for n in range(tls_sessions.MAX_ROUTES + 1)]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="h")
    for _ in range(2 * tls_sessions.MAX_ROUTES * tls_sessions.MAX_PER_ROUTE):
        store.keep(routes[-1], tls)
    assert len(store._came) == tls_sessions.MAX_ROUTES * tls_sessions.MAX_PER_ROUTE
    assert store.take(routes[-1], tls.context) is None  # none of them ever finished a handshake
    for route in routes:
        for _ in range(tls_sessions.MAX_PER_ROUTE + 1):
            store.keep(route, tls)
        store.take(route_to("https://other.example", TRUSTING), tls.context)
    assert len(store._finished) == tls_sessions.MAX_ROUTES
    assert routes[0] not in store._finished
    assert {len(finished) for finished in store._finished.values()} == {tls_sessions.MAX_PER_ROUTE}
    assert store.take(routes[1], tls.context) is None
    assert routes[1] not in store._finished


def test_the_collector_closes_a_stream_in_the_midst_of_a_step_of_the_store() -> None:
    store = TLSSecurer()._sessions
    route = route_to("https://peer.example", TRUSTING)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="h")
    lock = store._lock

    class Closing:
        has_closed = False

        def __enter__(self) -> None:
            lock.__enter__()
            if not self.has_closed:
                self.has_closed = True
                store.keep(route, tls)

        def __exit__(self, *args: object) -> None:
            lock.__exit__(*args)  # type: ignore[arg-type]

    store._lock = Closing()  # type: ignore[assignment]

    def use() -> None:
        store.keep(route, tls)
        store.take(route, tls.context)

    in_time(use)
