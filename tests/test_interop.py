"""What every server has in common over HTTP/1.1: each test runs against nginx, Apache, Node and the ASGI server, plain
and over TLS, in every world. What only one of them can do stands in the other `test_interop_*` files."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from peers import BIG, SMALL, Authority
from peers.fixtures import Site
from peers.nginx import Nginx
from plugwire import HTTPStatusError, Limits, TLSConfig
from worlds import World

PIECES = (b"x" * 3, b"", b"y" * 70_001, b"z")
"""The body of a chunked upload: pieces of odd sizes, an empty one among them (which must not end the body)."""


@pytest.fixture
def options(ca: Authority) -> dict[str, Any]:
    """What each session is made with."""
    return {"tls": TLSConfig(ca_file=str(ca.cert_pem)), "http_versions": ("http/1.1",)}


# -- what comes


async def test_gets_a_small_file(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        response = await session.get(f"{site.url}/small")
        assert (response.status_code, response.content, response.http_version) == (200, SMALL, "HTTP/1.1")
        assert response.headers.get_int("content-length") == len(SMALL)
        assert response.connection.protocol == "HTTP/1.1"
        tls = response.connection.tls
        if site.url.startswith("https"):
            assert (tls.version, tls.verified, tls.server_hostname) == ("TLSv1.3", True, "localhost")
        else:
            assert tls is None


async def test_one_connection_serves_what_comes_one_after_the_other(
    site: Site, world: World, options: dict[str, Any]
) -> None:
    """Bodiless answers among them: a wrong idea of where one of them ends would spoil the next."""
    seen: list[tuple[int, int]] = []
    async with world.session(**options) as session:
        for method, path, status, content in (
            ("GET", "/small", 200, SMALL),
            ("HEAD", "/big", 200, b""),
            ("GET", "/no-content", 204, b""),
            ("GET", "/chunked", 200, SMALL),
            ("HEAD", "/chunked", 200, b""),
            ("GET", "/missing", 404, None),
            ("HEAD", "/missing", 404, b""),
            ("GET", "/big", 200, BIG),
            ("GET", "/redirect", 302, None),
            ("GET", "/small", 200, SMALL),
        ):
            response = await session.request(method, f"{site.url}{path}", follow_redirects=False)
            assert response.status_code == status, path
            if content is not None:
                assert response.content == content, path
            seen.append((response.connection.id, response.connection.reused))
            if (method, path) == ("HEAD", "/big"):
                assert response.headers.get_int("content-length") in (len(BIG), None)
    assert len({connection for connection, _ in seen}) == 1
    assert [reused for _, reused in seen] == [False] + [True] * 9


async def test_a_big_file_comes_whole_by_read(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        async with session.stream("GET", f"{site.url}/big") as response:
            assert await response.read() == BIG
            assert response.content == BIG
        async with session.stream("GET", f"{site.url}/big") as response:
            first = await response.read(10)
            assert 0 < len(first) <= 10
            assert first + await response.read() == BIG


@pytest.mark.parametrize("size", [1021, 65537, 300_007])
async def test_a_big_file_comes_whole_by_readinto(size: int, site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session, session.stream("GET", f"{site.url}/big") as response:
        found, buffer = hashlib.sha256(), bytearray(size)
        while count := await response.readinto(buffer):
            found.update(memoryview(buffer)[:count])
        assert found.digest() == hashlib.sha256(BIG).digest()
        assert await response.readinto(buffer) == 0


async def test_a_chunked_body_comes_whole_by_readinto_of_a_byte(
    site: Site, world: World, options: dict[str, Any]
) -> None:
    async with world.session(**options) as session, session.stream("GET", f"{site.url}/chunked") as response:
        assert response.headers["transfer-encoding"] == "chunked"
        found, buffer = bytearray(), bytearray(1)
        while await response.readinto(buffer):
            found += buffer
        assert found == SMALL


async def test_a_big_file_comes_whole_by_iter_bytes(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        for size in (None, 100_003):
            async with session.stream("GET", f"{site.url}/big") as response:
                pieces = [piece async for piece in response.iter_bytes(size)]
            assert b"".join(pieces) == BIG
            assert all(pieces)
            assert size is None or {len(piece) for piece in pieces[:-1]} == {size}


async def test_leaving_a_body_early_does_not_spoil_what_follows(
    site: Site, world: World, options: dict[str, Any]
) -> None:
    async with world.session(**options) as session:
        for _ in range(3):
            async with session.stream("GET", f"{site.url}/big") as response:
                await response.read(1)
            assert (await session.get(f"{site.url}/small")).content == SMALL


async def test_conditional_and_range_requests(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        etag = (await session.get(f"{site.url}/small")).headers["etag"]
        unchanged = await session.get(f"{site.url}/small", headers={"if-none-match": etag})
        assert (unchanged.status_code, unchanged.content, unchanged.ok) == (304, b"", True)
        part = await session.get(f"{site.url}/small", headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, SMALL[10:20])
        assert part.headers["content-range"] == "bytes 10-19/127"
        assert part.connection.id == unchanged.connection.id


async def test_a_status_is_a_response(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        missing = await session.get(f"{site.url}/missing")
        assert (missing.status_code, missing.ok) == (404, False)
        unavailable = await session.get(f"{site.url}/unavailable")
        assert (unavailable.status_code, unavailable.ok) == (503, False)
        with pytest.raises(HTTPStatusError, match="503"):
            unavailable.raise_for_status()


async def test_a_redirect_is_given_as_it_is_when_told_so(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        response = await session.get(f"{site.url}/redirect", follow_redirects=False)
        assert response.status_code == 302
        assert response.headers["location"].endswith("/small")
        assert response.history == []


async def test_connection_close_is_obeyed(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        first = await session.get(f"{site.url}/small", headers={"connection": "close"})
        second = await session.get(f"{site.url}/big", headers={"connection": "close"})
        assert (first.content, second.content) == (SMALL, BIG)
        assert first.connection.id != second.connection.id
        assert session.stats().open == 0


async def test_the_classical_steps(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        connecting = session.connect(site.url)
        async with await connecting as connection:
            before = connection.info.id
            for path, status in (("/small", 200), ("/missing", 404)):
                request = connection.open_request("GET", path)
                request.headers.add("accept", "text/plain")
                response = await request.send()
                assert response.status_code == status
                assert response.connection.id == before
                await response.read()


# -- what goes


def _big_pieces() -> Iterator[bytes]:
    yield from PIECES


class Uploads:
    """Sends a body to a server that says what came: nginx and Apache keep it, Node and the ASGI server describe it."""

    def __init__(self, site: Site, session: Any) -> None:
        keeps = site.name in ("nginx", "apache")
        self._session = session
        self._keeps = keeps
        self.method = "PUT" if keeps else "POST"
        self.url = f"{site.url}/upload/interop" if keeps else f"{site.url}/echo"

    async def check(self, response: Any, body: bytes) -> None:
        """`response` is that to the upload of `body`."""
        if self._keeps:
            assert response.status_code in (201, 204)
            kept = await self._session.get(self.url)
            assert kept.content == body
            assert (await self._session.delete(self.url)).status_code == 204
        else:
            assert response.status_code == 200
            await response.read()
            seen = json.loads(response.content)
            assert (seen["length"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())

    async def send(self, body: bytes, **options: Any) -> None:
        """Upload by the short road."""
        await self.check(await self._session.request(self.method, self.url, **options), body)


async def test_uploads_from_memory(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        uploads = Uploads(site, session)
        await uploads.send(b"", content=b"")
        await uploads.send(b"abc", content=b"abc")
        await uploads.send(BIG, content=BIG)
        await uploads.send(b'{"a":[1,"\xc3\xa9"]}', json={"a": [1, "é"]})
        await uploads.send(b"a=1&b=2+3&b=%26", data={"a": 1, "b": ["2 3", "&"]})


async def test_uploads_from_a_file(site: Site, world: World, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BIG)
    async with world.session(**options) as session:
        uploads = Uploads(site, session)
        with path.open("rb") as file:
            await uploads.send(BIG, content=file)
        file = io.BytesIO(BIG)
        file.seek(5)
        await uploads.send(BIG[5:], content=file)


async def test_uploads_in_chunks(site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        uploads = Uploads(site, session)
        await uploads.send(b"".join(PIECES), content=_big_pieces())
        await uploads.send(b"".join(PIECES), content=_big_pieces)


@pytest.mark.parametrize("has_length", [False, True])
async def test_uploads_by_pushing(has_length: bool, site: Site, world: World, options: dict[str, Any]) -> None:
    body = b"".join(PIECES) + BIG
    async with world.session(**options) as session:
        uploads = Uploads(site, session)
        request = session.open_request(uploads.method, uploads.url)
        await request.begin(len(body) if has_length else None)
        for piece in (*PIECES, BIG):
            assert await request.write(piece) == len(piece)
        async with await request.end() as response:
            await uploads.check(response, body)


# -- many at once


async def test_many_at_once(site: Site, world: World, options: dict[str, Any]) -> None:
    """More callers than connections, bodies of every framing mixed: nobody gets what is another's."""
    async with world.session(**options, limits=Limits(max_connections=6)) as session:
        uploads = Uploads(site, session)

        async def work(number: int) -> None:
            for turn in range(4):
                match (number + turn) % 4:
                    case 0:
                        assert (await session.get(f"{site.url}/small")).content == SMALL
                    case 1:
                        assert (await session.get(f"{site.url}/big")).content == BIG
                    case 2:
                        assert (await session.get(f"{site.url}/chunked")).content == SMALL
                    case _:
                        body = b"%d" % number * 2000
                        own = f"{uploads.url}?{number}" if "echo" in uploads.url else f"{uploads.url}-{number}"
                        response = await session.request(uploads.method, own, content=body)
                        if "echo" in own:
                            assert response.json()["sha256"] == hashlib.sha256(body).hexdigest()
                        else:
                            assert (await session.get(own)).content == body

        await world.gather(*(lambda number=number: work(number) for number in range(16)))
        stats = session.stats()
        assert stats.open == stats.idle <= 6
        assert stats.waiting == 0


async def test_first_used_by_many_at_once(
    nginx: Nginx, world: World, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """What a session makes on first use (transports, the plan of a route, TLS) is made once, whoever comes first."""
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)  # threads change places after almost every bytecode
    for turn in range(20):
        url = nginx.url if turn % 2 else nginx.tls_url
        async with world.session(**options) as session:
            responses = await world.gather(*[lambda s=session, u=url: s.get(f"{u}/small") for _ in range(8)])
        assert [response.content for response in responses] == [SMALL] * 8
