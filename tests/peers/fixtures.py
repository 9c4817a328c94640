"""The peers as fixtures: `ca`, `nginx`, `apache`, `node`, `asgi`, `nghttpd`, `httpbin`; `peer`, which runs a test
against each of the first four; `site`, each of these plain and over TLS; `h2_site`, all that speak HTTP/2, over TLS
and in the clear; and the proxies `squid`, `tinyproxy`, `microsocks`, `dante`.

A test that asks for one of them gets the marker `interop`, so `-m "not interop"` runs without any server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from peers import apache as _apache
from peers import asgi as _asgi
from peers import httpbin as _httpbin
from peers import nghttpd as _nghttpd
from peers import nginx as _nginx
from peers import node as _node
from peers import proxies as _proxies
from peers.certificates import Authority, make_authority
from peers.server import Peer

PEERS = ("nginx", "apache", "node", "asgi")
H2_PEERS = (*PEERS, "nghttpd")
PROXIES = ("squid", "tinyproxy", "microsocks", "dante")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not {*H2_PEERS, *PROXIES, "httpbin", "peer", "site", "h2_site"}.isdisjoint(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker("interop")


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def nginx(ca: Authority) -> Iterator[_nginx.Nginx]:
    with _nginx.nginx(ca) as peer:
        yield peer


@pytest.fixture(scope="session")
def apache(ca: Authority) -> Iterator[_apache.Apache]:
    with _apache.apache(ca) as peer:
        yield peer


@pytest.fixture(scope="session")
def node(ca: Authority) -> Iterator[_node.Node]:
    with _node.node(ca) as peer:
        yield peer


@pytest.fixture(scope="session")
def asgi(ca: Authority) -> Iterator[_asgi.ASGI]:
    with _asgi.asgi(ca) as peer:
        yield peer


@pytest.fixture(scope="session")
def nghttpd(ca: Authority) -> Iterator[_nghttpd.Nghttpd]:
    with _nghttpd.nghttpd(ca) as peer:
        yield peer


@pytest.fixture(scope="session")
def httpbin() -> Iterator[_httpbin.HTTPBin]:
    with _httpbin.httpbin() as peer:
        yield peer


@pytest.fixture(scope="session")
def squid(ca: Authority) -> Iterator[_proxies.Squid]:
    with _proxies.squid(ca) as peer:
        yield peer


@pytest.fixture(scope="session")
def tinyproxy() -> Iterator[_proxies.Door]:
    with _proxies.tinyproxy() as peer:
        yield peer


@pytest.fixture(scope="session")
def microsocks() -> Iterator[_proxies.Door]:
    with _proxies.microsocks() as peer:
        yield peer


@pytest.fixture(scope="session")
def dante() -> Iterator[_proxies.Door]:
    with _proxies.dante() as peer:
        yield peer


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each server in turn."""
    found: Peer = request.getfixturevalue(request.param)
    return found


@dataclass(frozen=True)
class Site:
    """One server, by one scheme."""

    name: str
    url: str


@pytest.fixture(params=[f"{name}-{scheme}" for name in PEERS for scheme in ("http", "https")])
def site(request: pytest.FixtureRequest) -> Site:
    """Each server in turn, plain and over TLS."""
    name, _, scheme = request.param.partition("-")
    found: Peer = request.getfixturevalue(name)
    return Site(name, found.url if scheme == "http" else found.tls_url)


@pytest.fixture(params=[f"{name}-{protocol}" for name in H2_PEERS for protocol in ("h2", "h2c")])
def h2_site(request: pytest.FixtureRequest) -> Site:
    """Each server that speaks HTTP/2 in turn, over TLS and in the clear by prior knowledge."""
    name, _, protocol = request.param.partition("-")
    found: Peer | _nghttpd.Nghttpd = request.getfixturevalue(name)
    return Site(name, found.h2_url if protocol == "h2" else found.h2c_url)
