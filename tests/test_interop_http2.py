"""HTTP/2 with real servers, over TLS and in the clear by prior knowledge."""

from __future__ import annotations

import hashlib

import pytest

from peers import BIG, LARGE_SIZE, SMALL, Authority, pattern
from peers.fixtures import Site
from plugwire import TLSConfig
from worlds import World


@pytest.fixture
def trusted(ca: Authority) -> TLSConfig:
    return TLSConfig(ca_file=str(ca.cert_pem))


async def test_gets_what_every_server_has(h2_site: Site, world: World, trusted: TLSConfig) -> None:
    async with world.session(tls=trusted, http_versions=("h2",)) as session:
        small = await session.get(f"{h2_site.url}/small")
        assert (small.content, small.http_version) == (SMALL, "HTTP/2")
        assert (await session.head(f"{h2_site.url}/small")).headers["content-length"] == "127"
        assert (await session.get(f"{h2_site.url}/big")).content == BIG
        assert (await session.get(f"{h2_site.url}/missing")).status_code == 404
        answers = await world.gather(*(lambda: session.get(f"{h2_site.url}/small") for _ in range(8)))
        assert [answer.content for answer in answers] == [SMALL] * 8
        assert len({answer.connection.id for answer in (small, *answers)}) == 1


async def test_a_length_of_whole_windows_comes_to_its_end(h2_site: Site, world: World, trusted: TLSConfig) -> None:
    """8 MiB is eight stream windows. Node says END_STREAM in an empty frame of its own, and only with window left."""
    async with world.session(tls=trusted, http_versions=("h2",)) as session:
        assert (await session.get(f"{h2_site.url}/large")).content == pattern(LARGE_SIZE)


async def test_uploads(h2_site: Site, world: World, trusted: TLSConfig) -> None:
    async with world.session(tls=trusted, http_versions=("h2",)) as session:
        if h2_site.name in ("nginx", "apache"):
            url = f"{h2_site.url}/upload/{world.name}"
            assert (await session.put(url, content=BIG)).status_code in (201, 204)
            assert (await session.get(url)).content == BIG
        elif h2_site.name == "nghttpd":
            assert (await session.put(f"{h2_site.url}/any", content=BIG)).content == BIG
        else:
            seen = (await session.put(f"{h2_site.url}/echo", content=BIG)).json()
            assert (seen["length"], seen["sha256"]) == (len(BIG), hashlib.sha256(BIG).hexdigest())
