"""TLS with real servers: who is believed, what is shown, versions, ALPN, resumption. In every world."""

from __future__ import annotations

import hashlib
import ssl

import pytest

from peers import BIG, SMALL, Authority
from peers.apache import Apache
from peers.asgi import ASGI
from peers.fixtures import PEERS, Site
from peers.nginx import Nginx
from peers.node import Node
from plugwire import CertificateError, NetworkError, TLSConfig, TLSError
from worlds import World

EVERY_SERVER = pytest.mark.parametrize("site", [f"{name}-https" for name in PEERS], indirect=True)


@pytest.fixture
def trusted(ca: Authority) -> TLSConfig:
    return TLSConfig(ca_file=str(ca.cert_pem))


@pytest.mark.parametrize(
    ("port", "reason"),
    [("expired_port", "expired"), ("wrong_host_port", "localhost"), ("untrusted_port", "issuer")],
)
async def test_bad_certificates_are_refused(
    port: str, reason: str, nginx: Nginx, world: World, trusted: TLSConfig
) -> None:
    url = f"https://localhost:{getattr(nginx, port)}/small"
    async with world.session(tls=trusted) as session:
        with pytest.raises(CertificateError, match=reason) as caught:
            await session.get(url)
        assert (caught.value.phase, caught.value.sent) == ("tls", False)
        with pytest.raises(CertificateError):
            await session.connect(url)
        assert session.stats().open == 0
        response = await session.get(url, tls=TLSConfig(verify=False))
        assert response.content == SMALL
        assert not response.connection.tls.verified
        with pytest.raises(CertificateError):  # the connection that was not verified is no way round
            await session.get(url)


@EVERY_SERVER
async def test_nobody_is_believed_without_its_authority(site: Site, world: World) -> None:
    async with world.session() as session:
        with pytest.raises(CertificateError):
            await session.get(f"{site.url}/small")


async def test_another_name_can_be_asked_for(nginx: Nginx, world: World, ca: Authority) -> None:
    url = f"https://localhost:{nginx.wrong_host_port}"
    tls = TLSConfig(ca_file=str(ca.cert_pem), server_hostname="wrong.example")
    async with world.session(tls=tls) as session:
        assert (await session.get(f"{url}/small")).content == SMALL
        assert (await session.get(f"{url}/tls")).text.split()[-1] == "wrong.example"


async def test_an_address_is_verified_too(nginx: Nginx, world: World, trusted: TLSConfig) -> None:
    async with world.session(tls=trusted) as session:
        assert (await session.get(f"https://127.0.0.1:{nginx.tls_port}/small")).content == SMALL
        with pytest.raises(CertificateError):
            await session.get(f"https://127.0.0.1:{nginx.wrong_host_port}/small")


async def test_the_authority_as_data(nginx: Nginx, world: World, ca: Authority) -> None:
    async with world.session(tls=TLSConfig(ca_data=ca.cert_pem.read_text())) as session:
        assert (await session.get(f"{nginx.tls_url}/small")).content == SMALL


async def test_a_context_of_ones_own(nginx: Nginx, world: World, ca: Authority) -> None:
    context = ssl.create_default_context(cafile=str(ca.cert_pem))
    async with world.session(tls=TLSConfig(context=context)) as session:
        assert (await session.get(f"{nginx.tls_url}/small")).content == SMALL


# -- client certificates


async def test_a_client_certificate_is_shown(nginx: Nginx, node: Node, world: World, ca: Authority) -> None:
    for given in (str(ca.client.bundle_pem), (str(ca.client.chain_pem), str(ca.client.key_pem))):
        async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem), client_cert=given)) as session:
            for port in (nginx.mutual_tls_port, node.mutual_tls_port):
                response = await session.get(f"https://localhost:{port}/client")
                assert (response.status_code, "plugwire-client" in response.text) == (200, True)


async def test_a_missing_client_certificate(nginx: Nginx, node: Node, world: World, trusted: TLSConfig) -> None:
    async with world.session(tls=trusted) as session:
        # nginx answers 400 over HTTP; Node ends the handshake, which with TLS 1.3 we learn when we read.
        assert (await session.get(f"https://localhost:{nginx.mutual_tls_port}/small")).status_code == 400
        with pytest.raises(NetworkError, match="certificate required"):
            await session.get(f"https://localhost:{node.mutual_tls_port}/small")
        assert session.stats().open <= 1


# -- versions, ALPN, pins


async def test_tls12_only(nginx: Nginx, world: World, ca: Authority, trusted: TLSConfig) -> None:
    url = f"https://localhost:{nginx.tls12_port}"
    async with world.session(tls=trusted) as session:
        response = await session.get(f"{url}/tls")
        assert response.text.split()[:2] == ["TLSv1.2", "http/1.1"]
        assert response.connection.tls.version == "TLSv1.2"
        assert (await session.get(f"{url}/big")).content == BIG
        strict = TLSConfig(ca_file=str(ca.cert_pem), minimum_version="TLSv1.3")
        with pytest.raises(TLSError, match=r"(?i)version") as caught:
            await session.get(f"{url}/small", tls=strict)
        assert caught.value.phase == "tls"


@pytest.mark.parametrize(
    ("versions", "spoken"),
    [(("http/1.1",), "HTTP/1.1"), (("h2",), "HTTP/2"), (("h2", "http/1.1"), "HTTP/2")],
    ids=["http/1.1 only", "h2 only", "default"],
)
async def test_alpn_offers_what_is_allowed(
    versions: tuple[str, ...], spoken: str, nginx: Nginx, apache: Apache, asgi: ASGI, world: World, trusted: TLSConfig
) -> None:
    """These servers choose h2 if it is offered."""
    async with world.session(tls=trusted, http_versions=versions) as session:
        for port in (nginx.h2_port, apache.h2_port, asgi.h2_port):
            response = await session.get(f"https://localhost:{port}/small")
            assert (response.content, response.http_version) == (SMALL, spoken)
            assert response.connection.tls.alpn == ("h2" if spoken == "HTTP/2" else "http/1.1")


@EVERY_SERVER
async def test_pins(site: Site, world: World, ca: Authority) -> None:
    pem = ca.server.chain_pem.read_text()
    leaf = ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END CERTIFICATE-----") + 26])
    right, wrong = hashlib.sha256(leaf).hexdigest(), hashlib.sha256(b"other").hexdigest()
    async with world.session() as session:
        for pins in ((right,), (wrong, right)):
            tls = TLSConfig(ca_file=str(ca.cert_pem), pins=pins)
            response = await session.get(f"{site.url}/small", tls=tls)
            assert response.content == SMALL
            assert response.connection.tls.peer_certificate == leaf
        with pytest.raises(CertificateError, match="pin") as caught:
            await session.get(f"{site.url}/small", tls=TLSConfig(ca_file=str(ca.cert_pem), pins=(wrong,)))
        assert (caught.value.phase, caught.value.sent) == ("tls", False)


@EVERY_SERVER
async def test_sessions_are_resumed(site: Site, world: World, trusted: TLSConfig) -> None:
    seen: list[bool] = []
    async with world.session(tls=trusted) as session:
        for _ in range(3):
            response = await session.get(f"{site.url}/small", headers={"connection": "close"})
            assert response.content == SMALL
            seen.append(response.connection.tls.resumed)
    assert seen == [False, True, True]


async def test_nginx_agrees_on_what_was_resumed(nginx: Nginx, world: World, trusted: TLSConfig) -> None:
    """On tls12_port by a session of TLS 1.2, on tls_port by a ticket of TLS 1.3."""
    async with world.session(tls=trusted) as session:
        for port in (nginx.tls_port, nginx.tls12_port):
            said = []
            for _ in range(2):
                response = await session.get(f"https://localhost:{port}/tls", headers={"connection": "close"})
                said.append((response.text.split()[2], response.connection.tls.resumed))
            assert said == [(".", False), ("r", True)]
