"""Real proxies: Squid, plain and with HAProxy's TLS in front of it, tinyproxy, microsocks and dante. In every world."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from typing import Any

import pytest

from peers import BIG, SMALL, Authority
from peers.nginx import Nginx
from peers.proxies import HOST, PASSWORD, USER, Door, Squid
from plugwire import CertificateError, ConnectError, NoTransport, Proxy, ProxyError, TLSConfig
from plugwire_plugins import DigestAuth
from worlds import World

WAYS = pytest.mark.parametrize(
    ("kind", "front"), [("http", "http"), ("http", "https"), ("https", "https"), ("h2", "http"), ("h2", "https")]
)
"""What is fetched, and how the proxy is reached."""


@pytest.fixture
def trusted(ca: Authority) -> TLSConfig:
    return TLSConfig(ca_file=str(ca.cert_pem))


def sites(nginx: Nginx) -> Mapping[str, tuple[str, str]]:
    """URL and version of the same content: in the clear, over TLS, by HTTP/2."""
    return {
        "http": (nginx.url, "HTTP/1.1"),
        "https": (nginx.tls_url, "HTTP/1.1"),
        "h2": (nginx.h2_url, "HTTP/2"),
    }


async def fetch(session: Any, nginx: Nginx, kind: str, **keywords: Any) -> Any:
    url, version = sites(nginx)[kind]
    response = await session.get(f"{url}/small", **keywords)
    assert (response.status_code, response.content, response.http_version) == (200, SMALL, version)
    big = await session.get(f"{url}/big", **keywords)
    assert big.content == BIG
    # In one packet: this server answers before it has read the content, Squid then closes, and what HAProxy still has
    # for it makes the answer get lost now and then, with other clients too.
    posted = await session.post(f"{url}/method", content=b"x" * 1000, **keywords)
    assert posted.text == "POST"
    return response


# -- Squid ---------------------------------------------------------------------------------------------------------


@WAYS
async def test_squid(world: World, squid: Squid, nginx: Nginx, trusted: TLSConfig, kind: str, front: str) -> None:
    proxy = Proxy(f"http://{HOST}:{squid.open_port}")
    if front == "https":
        proxy = Proxy(f"https://localhost:{squid.tls_port}", tls=trusted)
    async with world.session(proxy=proxy, tls=trusted) as session:
        response = await fetch(session, nginx, kind)
        # It says "Via" of what it forwards, and knows nothing of what is in a tunnel.
        assert ("via" in response.headers) is (kind == "http")
        assert (response.connection.tls is not None) is (kind != "http")


@WAYS
@pytest.mark.parametrize("auth", [(USER, PASSWORD), DigestAuth(USER, PASSWORD)], ids=["basic", "digest"])
async def test_squid_wants_to_know_who_it_is(
    world: World, squid: Squid, nginx: Nginx, trusted: TLSConfig, kind: str, front: str, auth: Any
) -> None:
    proxy = Proxy(f"http://{HOST}:{squid.locked_port}", auth=auth)
    if front == "https":
        proxy = Proxy(f"https://localhost:{squid.locked_tls_port}", auth=auth, tls=trusted)
    async with world.session(proxy=proxy, tls=trusted) as session:
        await fetch(session, nginx, kind)
        response = await session.get(f"{sites(nginx)[kind][0]}/few", headers={"Connection": "close"})
        assert response.content == SMALL


async def test_squid_refuses(world: World, squid: Squid, nginx: Nginx, trusted: TLSConfig) -> None:
    url = f"http://{HOST}:{squid.locked_port}"
    for auth in (None, (USER, "wrong"), DigestAuth(USER, "wrong")):
        async with world.session(proxy=Proxy(url, auth=auth), tls=trusted) as session:
            assert (await session.get(f"{nginx.url}/small")).status_code == 407
            with pytest.raises(ProxyError, match=r"407 .*wants credentials for (Digest|Basic)") as caught:
                await session.get(f"{nginx.tls_url}/small")
            assert caught.value.response is not None
            assert caught.value.response.headers["server"].startswith("squid")
            assert "ERR_CACHE_ACCESS_DENIED" in caught.value.response.text
            assert session.stats().open <= 1
    async with world.session(proxy=f"http://{HOST}:{squid.open_port}", tls=trusted) as session:
        with pytest.raises(ProxyError, match="503"):
            await session.get("https://127.0.0.1:1/")
        assert (await session.get("http://127.0.0.1:1/")).status_code == 503


async def test_the_front_of_the_proxy_is_verified_apart(
    world: World, squid: Squid, nginx: Nginx, trusted: TLSConfig, ca: Authority
) -> None:
    url = f"https://localhost:{squid.wrong_host_tls_port}"
    async with world.session(proxy=Proxy(url, tls=trusted), tls=trusted) as session:
        for target in (nginx.url, nginx.tls_url):
            with pytest.raises(CertificateError, match="localhost"):
                await session.get(f"{target}/small")
    for_it = TLSConfig(ca_file=str(ca.cert_pem), server_hostname="wrong.example")
    async with world.session(proxy=Proxy(url, tls=for_it), tls=trusted) as session:
        await fetch(session, nginx, "https")
        with pytest.raises(CertificateError, match="expired"):
            await session.get(f"https://localhost:{nginx.expired_port}/small")


async def test_options_of_the_route_keep_their_meaning(world: World, squid: Squid, nginx: Nginx, ca: Authority) -> None:
    """Pins are those of the origin; the local address is that of the way to the proxy, or refused where it has none."""
    certificate = ca.server.chain_pem.read_text()
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.split("-----END")[0] + "-----END CERTIFICATE-----"))
    async with world.session(proxy=f"http://{HOST}:{squid.open_port}") as session:
        good = TLSConfig(ca_file=str(ca.cert_pem), pins=(pin.hexdigest(),))
        await fetch(session, nginx, "h2", tls=good, options={"local_address": "127.0.0.2"})
        with pytest.raises(CertificateError, match="pins"):
            await session.get(f"{nginx.h2_url}/small", tls=TLSConfig(ca_file=str(ca.cert_pem), pins=("0" * 64,)))
        info = (await session.get(f"{nginx.url}/small", options={"local_address": "127.0.0.3"})).connection
        assert (info.local_address.host, info.peer_address.port) == ("127.0.0.3", squid.open_port)
        with pytest.raises(NoTransport):
            await session.get(f"{nginx.url}/small", options={"path": str(nginx.socket_path)})


# -- tinyproxy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "h2"])
async def test_tinyproxy(world: World, tinyproxy: Door, nginx: Nginx, trusted: TLSConfig, kind: str) -> None:
    # It closes behind each answer to a forwarded request, and does not say so. A POST that meets the close halfway is
    # lost, by whatever client: nobody may send it again unasked.
    more = {"headers": {"connection": "close"}} if kind == "http" else {}
    async with world.session(proxy=f"http://{HOST}:{tinyproxy.open_port}", tls=trusted, **more) as session:
        await fetch(session, nginx, kind)
    credentials = f"{USER}:{PASSWORD.replace(' ', '')}@"
    locked = f"{HOST}:{tinyproxy.locked_port}"
    async with world.session(proxy=f"http://{credentials}{locked}", tls=trusted, **more) as session:
        await fetch(session, nginx, kind)
    async with world.session(proxy=f"http://{locked}", tls=trusted) as session:
        if kind == "http":
            assert (await session.get(f"{nginx.url}/small")).status_code in (401, 407)
        else:
            with pytest.raises(ProxyError):
                await session.get(f"{nginx.tls_url}/small")


# -- SOCKS ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def door(request: pytest.FixtureRequest, name: str) -> Door:
    """The server of that name; it starts here, and not in the test, whose descriptors are counted."""
    found: Door = request.getfixturevalue(name)
    return found


@pytest.mark.parametrize(
    ("name", "scheme", "kind"),
    [
        ("microsocks", "socks5h", "http"),
        ("microsocks", "socks5", "h2"),
        ("dante", "socks5", "https"),
        ("dante", "socks5h", "h2"),
    ],
)
async def test_socks(
    world: World, door: Door, nginx: Nginx, trusted: TLSConfig, kind: str, scheme: str, name: str
) -> None:
    proxy = f"{scheme}://{HOST}:{door.open_port}"
    async with world.session(proxy=proxy, tls=trusted) as session:
        await fetch(session, nginx, kind)
        with pytest.raises((ConnectError, ProxyError)) as caught:
            await session.get("http://127.0.0.1:1/")
        assert "127.0.0.1 port 1" in str(caught.value)


@pytest.mark.parametrize("kind", ["http", "h2"])
async def test_socks_with_credentials(
    world: World, microsocks: Door, nginx: Nginx, trusted: TLSConfig, kind: str
) -> None:
    url = f"socks5h://{HOST}:{microsocks.locked_port}"
    async with world.session(proxy=Proxy(url, auth=(USER, PASSWORD)), tls=trusted) as session:
        await fetch(session, nginx, kind)
    for auth, reason in ((None, "wants credentials"), ((USER, "wrong"), "does not accept")):
        async with world.session(proxy=Proxy(url, auth=auth), tls=trusted) as session:
            with pytest.raises(ProxyError, match=reason):
                await session.get(f"{sites(nginx)[kind][0]}/small")
