"""Contexts: shared for equal settings, made anew for others, picked up when a file changes."""

from __future__ import annotations

import os
import signal
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import trustme

from plugwire.config import TLSConfig
from plugwire.errors import UsageError
from plugwire_transports import tls_context
from plugwire_transports.tls_context import context_for
from tls_peer import CA, CA_PEM, Peer, Wire, secured, server_context

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_context, "_contexts", type(tls_context._contexts)())
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)


def test_equal_settings_share_one_context() -> None:
    context = context_for(TLSConfig(ca_data=CA_PEM), ("http/1.1",))
    assert context_for(TLSConfig(ca_data=CA_PEM), ["http/1.1"]) is context
    assert context_for(TLSConfig(ca_data=CA_PEM, pins=("00" * 32,), server_hostname="x"), ("http/1.1",)) is context
    for other in (
        context_for(TLSConfig(ca_data=CA_PEM), ("h2", "http/1.1")),
        context_for(TLSConfig(ca_data=CA_PEM)),
        context_for(TLSConfig(ca_data=CA_PEM, verify=False), ("http/1.1",)),
        context_for(TLSConfig(ca_data=CA_PEM, minimum_version="TLSv1.3"), ("http/1.1",)),
    ):
        assert other is not context


def test_threads_that_come_at_once_build_one(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    build = tls_context._build
    monkeypatch.setattr(tls_context, "_build", lambda *args: built.append(args) or build(*args))
    with ThreadPoolExecutor(8) as threads:
        contexts = set(threads.map(lambda _: context_for(TLSConfig()), range(32)))
    assert len(contexts) == len(built) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_waits_for_no_thread_that_builds_one() -> None:
    with tls_context._lock:  # as if another thread had it
        child = os.fork()
        if not child:
            signal.alarm(10)
            status = 1
            try:
                context_for(TLSConfig(ca_data=CA_PEM))
                status = 0
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_context, "MAX_CONTEXTS", 3)
    contexts = [context_for(TLSConfig(verify=False), (str(n),)) for n in range(4)]
    assert len(tls_context._contexts) == 3
    assert context_for(TLSConfig(verify=False), ("3",)) is contexts[3]
    assert context_for(TLSConfig(verify=False), ("0",)) is not contexts[0]


def test_what_every_context_has() -> None:
    for context in (context_for(TLSConfig()), context_for(TLSConfig(verify=False))):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION and context.options & ssl.OP_NO_RENEGOTIATION
        assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context_for(TLSConfig()).verify_mode == ssl.CERT_REQUIRED and context_for(TLSConfig()).check_hostname
    assert context_for(TLSConfig(minimum_version="TLSv1.3")).minimum_version == ssl.TLSVersion.TLSv1_3


def test_certifi_by_default_and_nothing_beside_an_own_bundle() -> None:
    assert len(context_for(TLSConfig()).get_ca_certs()) > 50
    assert len(context_for(TLSConfig(ca_data=CA_PEM)).get_ca_certs()) == 1


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes())
    os.utime(path, ns=(1, 1))
    config = TLSConfig(ca_file=str(path))
    context = context_for(config)
    assert context_for(config) is context
    path.write_bytes(CA.cert_pem.bytes())
    assert context_for(config) is not context
    assert secured(Wire(Peer(server_context())), config).info.verified


def test_the_key_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TLSConfig(ca_data=CA_PEM)
    monkeypatch.setenv("SSLKEYLOGFILE", "")
    assert context_for(config).keylog_filename is None
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    secured(Wire(Peer(server_context())), config)
    assert "CLIENT_HANDSHAKE_TRAFFIC_SECRET" in (tmp_path / "keys.log").read_text()
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys.log"))
    with pytest.raises(UsageError, match=r"SSLKEYLOGFILE=.*keys\.log"):
        context_for(config)
    monkeypatch.delenv("SSLKEYLOGFILE")
    assert context_for(config).keylog_filename is None
