"""Authentication against servers that compute by themselves: nginx (Basic) and Apache httpd (Basic, and Digest with
MD5 and qop=auth, the only ones that it has), over HTTP/1.1 and HTTP/2, in every world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peers import PASSWORD, SMALL, USER, Authority, Peer
from peers.apache import Apache
from plugwire import TLSConfig
from plugwire.events import Head, Send
from plugwire_plugins import BasicAuth, DigestAuth, NetrcAuth
from plugwire_plugins.challenges import parse_parameters
from worlds import World

VERSIONS = ("http/1.1", "h2")


@pytest.fixture
def tls(ca: Authority) -> TLSConfig:
    return TLSConfig(ca_file=str(ca.cert_pem))


@pytest.fixture(params=["nginx", "apache"])
def server(request: pytest.FixtureRequest) -> Peer:
    """Each of the two in turn."""
    found: Peer = request.getfixturevalue(request.param)
    return found


class Sent:
    """What each request carries."""

    def __init__(self) -> None:
        self.fields: list[str | None] = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, Send) and event.edge.name == "STARTED":
            self.fields.append(event.request.headers.get("authorization"))

    @property
    def digests(self) -> list[dict[str, str]]:
        return [parse_parameters([field.removeprefix("Digest ")]) for field in self.fields if field is not None]


@pytest.mark.interop
@pytest.mark.parametrize("version", VERSIONS)
async def test_basic(server: Peer, world: World, tls: TLSConfig, tmp_path: Path, version: str) -> None:
    url = f"{server.h2_url if version == 'h2' else server.tls_url}/basic"
    netrc = tmp_path / "netrc"
    netrc.write_text(f'machine localhost login {USER} password "{PASSWORD}"\n', encoding="utf-8")
    async with world.session(tls=tls) as session:
        assert (await session.get(url)).status_code == 401
        assert (await session.get(url, auth=(USER, "wrong"))).status_code == 401
        for auth in ((USER, PASSWORD), BasicAuth(USER, PASSWORD), NetrcAuth(netrc)):
            response = await session.get(url, auth=auth)
            assert (response.status_code, response.content) == (200, SMALL)
            assert response.http_version == ("HTTP/2" if version == "h2" else "HTTP/1.1")
        userinfo = url.replace("://", f"://{USER}:{PASSWORD}@")
        assert (await session.get(userinfo)).content == SMALL


@pytest.mark.parametrize("path", ["/digest", "/both"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_digest(apache: Apache, world: World, tls: TLSConfig, version: str, path: str) -> None:
    url = f"{apache.h2_url if version == 'h2' else apache.tls_url}{path}?a=b,c"
    sent = Sent()
    async with world.session(tls=tls, auth=DigestAuth(USER, PASSWORD)) as session:
        for _ in range(3):
            response = await session.get(url, observe=sent)
            assert (response.status_code, response.content) == (200, SMALL)
            said = parse_parameters(response.headers.get_list("authentication-info"))
            assert "rspauth" in said  # and it was right, or there were no response
        assert session.stats().open == 1
    assert [field is not None for field in sent.fields] == [False, True, True, True]
    assert [said["nc"] for said in sent.digests] == ["00000001", "00000002", "00000003"]


async def test_digest_with_a_wrong_password(apache: Apache, world: World) -> None:
    sent = Sent()
    async with world.session(auth=DigestAuth(USER, "wrong")) as session:
        assert (await session.get(f"{apache.url}/digest", observe=sent)).status_code == 401
    assert len(sent.fields) == 2


async def test_digest_of_a_request_with_content(apache: Apache, world: World) -> None:
    async with world.session(auth=DigestAuth(USER, PASSWORD)) as session:
        for content in (b"x" * 100_000, [b"a", b"bc"]):
            response = await session.post(f"{apache.url}/digest/reflect", content=content)
            assert response.content == b"".join(content if isinstance(content, list) else [content])


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_next_nonce_of_apache(apache: Apache, world: World, tls: TLSConfig, version: str) -> None:
    url = f"{apache.h2_url if version == 'h2' else apache.tls_url}/digest/once"
    sent = Sent()
    auth = DigestAuth(USER, PASSWORD)
    async with world.session(tls=tls, auth=auth) as session:
        for _ in range(3):
            assert (await session.get(url, observe=sent)).content == SMALL
        assert len(sent.fields) == 4  # one challenge, three answers
        assert len({said["nonce"] for said in sent.digests}) == 3
        assert {said["nc"] for said in sent.digests} == {"00000001"}


async def test_many_at_once(apache: Apache, world: World, tls: TLSConfig) -> None:
    async with world.session(tls=tls, auth=DigestAuth(USER, PASSWORD)) as session:

        async def ask() -> bytes:
            return (await session.get(f"{apache.h2_url}/digest")).content  # type: ignore[no-any-return]

        assert await world.gather(*[ask] * 20) == [SMALL] * 20


async def test_a_nonce_that_apache_finds_stale(apache: Apache, world: World) -> None:
    """One of the kind for one request has a number in it where the other place looks for the time."""
    heads: list[Any] = []

    def observe(event: Any) -> None:
        if isinstance(event, Head):
            heads.append(event)

    async with world.session(auth=DigestAuth(USER, PASSWORD)) as session:
        for path in ("/digest/once", "/digest"):
            assert (await session.get(f"{apache.url}{path}", observe=observe)).content == SMALL
    assert [head.status for head in heads] == [401, 200, 401, 200]
    assert ["stale=true" in head.headers.get("www-authenticate", "") for head in heads] == [False, False, True, False]
