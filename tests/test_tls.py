"""The securer: whom it trusts, what it says when it does not, what it offers and resumes."""

from __future__ import annotations

import datetime
import ssl
import warnings
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from plugwire.config import TLSConfig
from plugwire.drive import drive
from plugwire.errors import CertificateError, Error, TLSError, UsageError
from plugwire_transports.tls import TLSSecurer
from tls_peer import CA, CA_PEM, CONNECTING, LEAF, Peer, Script, Wire, route_to, secured, server_context

if TYPE_CHECKING:
    from pathlib import Path

TRUSTING = TLSConfig(ca_data=CA_PEM)
BLIND = TLSConfig(verify=False)
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
DIGEST = sha256(ssl.PEM_cert_to_DER_cert(LEAF.cert_chain_pems[0].bytes().decode())).hexdigest()


def meet(context: ssl.SSLContext, tls: TLSConfig, url: str = "https://peer.example", **more: Any) -> Any:
    """The stream after a handshake with a peer that uses `context`."""
    return secured(Wire(Peer(context)), tls, url, **more)


def own_certificate(names: list[str], *, common_name: str = "peer.example") -> ssl.SSLContext:
    """A server with a self-signed certificate for `names`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    certificate = builder.sign(key, hashes.SHA256())
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with trustme.Blob(private + pem).tempfile() as path:
        context.load_cert_chain(path)
    context.own_pem = pem.decode()  # type: ignore[attr-defined]
    return context


# -- whom it trusts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("url", ["https://peer.example", "https://127.0.0.1", "https://[::1]", "https://peer.example."])
def test_a_trusted_peer_is_accepted(version: str, url: str) -> None:
    info = meet(server_context(version=version), TRUSTING, url).info
    assert info.version == version.replace("_", ".")
    assert info.cipher and info.verified and not info.resumed
    assert info.server_hostname == url.removeprefix("https://").strip("[]").removesuffix(".")
    assert sha256(info.peer_certificate).hexdigest() == DIGEST


def test_the_name_is_sent_but_no_address_is() -> None:
    seen: list[str | None] = []
    context = server_context()
    context.sni_callback = lambda _tls, name, _context: seen.append(name)
    for url in ("https://peer.example.", "https://127.0.0.1"):
        meet(context, TRUSTING, url)
    meet(context, TLSConfig(ca_data=CA_PEM, server_hostname="peer.example"), "https://10.0.0.1")
    assert seen == ["peer.example", None, "peer.example"]


@pytest.mark.parametrize(
    "case", ["wrong host", "wrong address", "expired", "not yet valid", "self-signed", "unknown CA", "no SAN"]
)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_certificate_that_does_not_do_is_named(case: str, version: str) -> None:
    config, url = TRUSTING, "https://peer.example"
    match case:
        case "wrong host":
            context, url, says = server_context(), "https://other.example", "other.example"
        case "wrong address":
            context, url, says = server_context(), "https://127.0.0.2", "127.0.0.2"
        case "expired":
            leaf = CA.issue_cert("peer.example", not_before=NOW - 2 * DAY, not_after=NOW - DAY)
            context, says = server_context(leaf), "expired"
        case "not yet valid":
            leaf = CA.issue_cert("peer.example", not_before=NOW + DAY, not_after=NOW + 2 * DAY)
            context, says = server_context(leaf), "not yet valid"
        case "self-signed":
            context, says = own_certificate(["peer.example"]), "self-signed"
        case "unknown CA":
            context, says = server_context(trustme.CA().issue_cert("peer.example")), "unable to get local issuer"
        case _:
            context = own_certificate([])
            config, says = TLSConfig(ca_data=context.own_pem), "peer.example"  # type: ignore[attr-defined]
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    lower = Wire(Peer(context))
    with pytest.raises(CertificateError, match=says) as caught:
        secured(lower, config, url)
    assert caught.value.phase == "tls"
    assert url.removeprefix("https://") in str(caught.value)
    assert isinstance(lower.peer.error, ssl.SSLError)  # it was told why
    assert not secured(Wire(Peer(context)), BLIND, url).info.verified


def test_a_self_signed_certificate_may_be_trusted_by_itself() -> None:
    context = own_certificate(["peer.example"])
    assert meet(context, TLSConfig(ca_data=context.own_pem)).info.verified  # type: ignore[attr-defined]


def test_an_intermediate_in_the_bundle_is_an_anchor() -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    config = TLSConfig(ca_data=middle.cert_pem.bytes().decode())
    assert meet(server_context(middle.issue_cert("peer.example")), config).info.verified


def test_a_bundle_in_a_file_and_further_authorities_beside_it(tmp_path: Path) -> None:
    other = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(other.cert_pem.bytes())
    config = TLSConfig(ca_file=str(tmp_path / "ca.pem"), ca_data=CA_PEM)
    assert meet(server_context(), config).info.verified
    assert meet(server_context(other.issue_cert("peer.example")), config).info.verified
    with pytest.raises(CertificateError):
        meet(server_context(), TLSConfig(ca_file=str(tmp_path / "ca.pem")))


@pytest.mark.parametrize("ca_file", [None, "system"])
def test_the_public_bundles_do_not_know_our_authority(ca_file: str | None) -> None:
    with pytest.raises(CertificateError):
        meet(server_context(), TLSConfig(ca_file=ca_file))


@pytest.mark.parametrize("verify", [True, False])
def test_pins(verify: bool) -> None:
    ca_data = CA_PEM if verify else None
    for pins in [(DIGEST,), ("00" * 32, DIGEST.upper())]:
        assert meet(server_context(), TLSConfig(verify=verify, ca_data=ca_data, pins=pins))
    with pytest.raises(CertificateError, match=f"peer.example is not among the pins.*{DIGEST}") as caught:
        meet(server_context(), TLSConfig(verify=verify, ca_data=ca_data, pins=("00" * 32,)))
    assert caught.value.phase == "tls"


def test_the_pin_of_a_certificate_does_not_make_it_trusted() -> None:
    with pytest.raises(CertificateError, match="issuer"):
        meet(server_context(), TLSConfig(pins=(DIGEST,)))


# -- what it says to odd peers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"220 mail.example ESMTP\r\n", b"H", b"\0" * 100],
)
@pytest.mark.parametrize("ends", [False, True])
def test_a_peer_without_tls_is_told_apart(reply: bytes, ends: bool) -> None:
    lower = Wire(Script(reply), is_ended=ends)
    kinds = (TLSError,) if ends or len(reply) > 5 else (TimeoutError,)
    with pytest.raises(kinds) as caught:
        secured(lower, TRUSTING)
    if isinstance(caught.value, TLSError):
        assert "does not speak TLS" in str(caught.value)
        assert repr(reply[:32]) in str(caught.value)
        assert caught.value.phase == "tls"


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_a_peer_with_old_versions_only(version: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    LEAF.configure_cert(context)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion[version]
    with pytest.raises(TLSError, match="no TLS version that is allowed"):
        meet(context, TRUSTING)


def test_the_minimum_version_is_obeyed() -> None:
    with pytest.raises(TLSError, match="no TLS version that is allowed"):
        meet(server_context(version="TLSv1_2"), TLSConfig(ca_data=CA_PEM, minimum_version="TLSv1.3"))


def test_an_alert_is_told_in_words() -> None:
    context = server_context(version="TLSv1_2")
    context.set_ciphers("AES128-SHA256")  # no forward secrecy: not among ours
    with pytest.raises(TLSError, match="the peer sent the alert 'handshake failure'"):
        meet(context, TRUSTING)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_handshake_cut_after_each_byte(version: str) -> None:
    context = server_context(version=version)
    whole = Wire(Peer(context))
    secured(whole, TRUSTING)
    for cut in [*range(0, whole.given - 10, 37), whole.given - 10]:  # signatures differ by some bytes in length
        with pytest.raises(TLSError) as caught:
            secured(Wire(Peer(context), cut=cut), TRUSTING)
        assert caught.value.phase == "tls"
        assert not isinstance(caught.value, CertificateError)
        assert "peer.example" in str(caught.value)


@pytest.mark.parametrize("piece", [1, 3])
def test_a_handshake_in_small_pieces(piece: int) -> None:
    lower = Wire(Peer(server_context()), piece=piece, window=5)
    assert secured(lower, TRUSTING).info.verified


def test_the_lower_streams_errors_are_of_the_handshake() -> None:
    lower = Wire(Peer(server_context()), broken=ConnectionResetError("reset by peer"))
    with pytest.raises(TLSError, match="reset by peer") as caught:
        secured(lower, TRUSTING)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


def test_time_running_out_is_left_to_the_connector() -> None:
    for number in (1, 2):
        lower = Wire(Peer(server_context()), window=100, faults={number: TimeoutError()})
        with pytest.raises(TimeoutError) as caught:
            secured(lower, TRUSTING)
        assert not isinstance(caught.value, Error)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", ".example"])
def test_a_name_that_tls_cannot_carry(host: str) -> None:
    lower = Wire(Peer(server_context()))
    with pytest.raises(UsageError, match="cannot begin"):
        secured(lower, TLSConfig(ca_data=CA_PEM, server_hostname=host))


# -- client certificates -------------------------------------------------------------------------------------------


def client_cert(tmp_path: Path, kind: str) -> Any:
    leaf = CA.issue_cert("client@plugwire.example")
    both, chain, key = tmp_path / "both.pem", tmp_path / "chain.pem", tmp_path / "key.pem"
    both.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    if kind == "one file":
        return str(both)
    if kind == "two files":
        return (str(chain), str(key))
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    return (str(chain), str(key), "open sesame")


@pytest.mark.parametrize("kind", ["one file", "two files", "password"])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_client_certificate(tmp_path: Path, kind: str, version: str) -> None:
    context = server_context(version=version)
    context.verify_mode = ssl.CERT_REQUIRED
    CA.configure_trust(context)
    stream = meet(context, TLSConfig(ca_data=CA_PEM, client_cert=client_cert(tmp_path, kind)))
    assert stream._lower.peer.tls.getpeercert()


def test_a_missing_client_certificate() -> None:
    old, new = server_context(version="TLSv1_2"), server_context(version="TLSv1_3")
    for context in (old, new):
        context.verify_mode = ssl.CERT_REQUIRED
        CA.configure_trust(context)
    with pytest.raises(TLSError, match="alert"):
        meet(old, TRUSTING)
    # TLS 1.3: the client is done before the server has looked.
    stream = meet(new, TRUSTING)
    with pytest.raises(ConnectionResetError, match="alert 'certificate required'"):
        drive(stream.receive(10, CONNECTING.deadline.at))


# -- bad configuration ---------------------------------------------------------------------------------------------


def test_bad_files_are_refused_before_any_io(tmp_path: Path) -> None:
    (tmp_path / "rubbish.pem").write_text("no certificate")
    (tmp_path / "key.pem").write_bytes(LEAF.private_key_pem.bytes())
    chain, key, _ = client_cert(tmp_path, "password")
    (tmp_path / "other.pem").write_bytes(LEAF.private_key_pem.bytes())
    missing, rubbish = str(tmp_path / "missing.pem"), str(tmp_path / "rubbish.pem")
    for config, says in [
        (TLSConfig(ca_file=missing), "missing.pem.*No such file"),
        (TLSConfig(ca_file=str(tmp_path)), "directory"),
        (TLSConfig(ca_file=rubbish), "rubbish.pem.*no PEM certificate"),
        (TLSConfig(ca_data="rubbish"), "ca_data"),
        (TLSConfig(client_cert=missing), "missing.pem.*No such file"),
        (TLSConfig(client_cert=rubbish), "rubbish.pem"),
        (TLSConfig(client_cert=(chain, missing)), "missing.pem"),
        (TLSConfig(client_cert=(chain, str(tmp_path / "other.pem"))), "other.pem"),
        (TLSConfig(client_cert=(chain, key)), "needs a password"),
        (TLSConfig(client_cert=(chain, key, "wrong")), "password"),
    ]:
        route = route_to("https://peer.example", config)
        reason = TLSSecurer().refuse(route)
        assert reason is not None
        lower = Wire(Peer(server_context()))
        with pytest.raises(UsageError, match=says) as caught:
            drive(TLSSecurer().secure(lower, route, CONNECTING))
        assert str(caught.value) == reason
        assert lower.reads == lower.waits == 0


def test_it_refuses_what_has_no_tls() -> None:
    securer = TLSSecurer()
    assert securer.refuse(route_to("http://peer.example", TRUSTING)) == "http is a scheme without TLS"
    for url in ("https://peer.example", "wss://peer.example"):
        assert securer.refuse(route_to(url, TRUSTING)) is None


def test_it_honours_every_field_of_the_configuration() -> None:
    everything = TLSConfig(
        verify=False, ca_file="system", ca_data="x", client_cert="x", server_hostname="x", pins=("00" * 32,),
        minimum_version="TLSv1.3", context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )  # fmt: skip
    assert everything.demands() | {"http_versions"} == TLSSecurer.honours


# -- ALPN ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "chosen"),
    [
        (["h2", "http/1.1"], ("h2", "http/1.1"), "h2"),
        (["http/1.1", "h2"], ("h2", "http/1.1"), "http/1.1"),
        (["h2", "http/1.1"], ("http/1.1",), "http/1.1"),
        ([], ("h2", "http/1.1"), None),
        (["h3", "http/1.1"], ("h3", "http/1.1"), "http/1.1"),
    ],
)
def test_alpn_offers_the_allowed_versions(theirs: list[str], ours: tuple[str, ...], chosen: str | None) -> None:
    assert meet(server_context(alpn=theirs), TRUSTING, http_versions=ours).info.alpn == chosen


# -- a caller's own context ----------------------------------------------------------------------------------------


def test_a_callers_context_is_used_as_it_is() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    before = (context.options, context.verify_flags, context.verify_mode, context.minimum_version)
    info = meet(server_context(alpn=["h2"]), TLSConfig(context=context, verify=False), http_versions=("h2",)).info
    assert info.verified and info.alpn is None
    assert before == (context.options, context.verify_flags, context.verify_mode, context.minimum_version)
    with pytest.raises(CertificateError, match="pins"):
        meet(server_context(), TLSConfig(context=context, pins=("00" * 32,)))


def test_a_context_for_servers_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot begin"):
        meet(server_context(), TLSConfig(context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))
