"""A certificate authority and its certificates, made for one test run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificate:
    """One certificate on disk."""

    chain_pem: Path
    """The certificate and what stands between it and the authority."""
    key_pem: Path
    bundle_pem: Path
    """Key and chain in one file, as `ssl.SSLContext.load_cert_chain` takes it."""


@dataclass(frozen=True)
class Authority:
    """The CA whose `cert_pem` a client of the peers trusts, and what it has issued."""

    cert_pem: Path
    server: Certificate
    """For localhost, 127.0.0.1 and ::1."""
    client: Certificate
    """Subject common name `plugwire-client`; accepted by the peers that ask for a client certificate."""
    expired: Certificate
    """For the same names as `server`; its time ended a day ago."""
    wrong_host: Certificate
    """In time, for wrong.example only."""
    untrusted: Certificate
    """For the same names as `server`, issued by another authority."""


_NAMES = ("localhost", "127.0.0.1", "::1")


def make_authority(directory: Path) -> Authority:
    authority = trustme.CA()
    cert_pem = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(cert_pem))

    def keep(name: str, leaf: trustme.LeafCert) -> Certificate:
        certificate = Certificate(
            chain_pem=directory / f"{name}.chain.pem",
            key_pem=directory / f"{name}.key.pem",
            bundle_pem=directory / f"{name}.bundle.pem",
        )
        certificate.chain_pem.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        certificate.key_pem.write_bytes(leaf.private_key_pem.bytes())
        certificate.bundle_pem.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        return certificate

    now = datetime.now(UTC)
    long_ago, yesterday = now - timedelta(days=30), now - timedelta(days=1)
    return Authority(
        cert_pem=cert_pem,
        server=keep("server", authority.issue_cert(*_NAMES)),
        client=keep("client", authority.issue_cert("client@plugwire.example", common_name="plugwire-client")),
        expired=keep("expired", authority.issue_cert(*_NAMES, not_before=long_ago, not_after=yesterday)),
        wrong_host=keep("wrong_host", authority.issue_cert("wrong.example")),
        untrusted=keep("untrusted", trustme.CA().issue_cert(*_NAMES)),
    )
