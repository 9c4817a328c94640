"""HTTP/2 with real servers: what all have in common against nginx, Apache, Node, the ASGI server and nghttpd, over TLS
and in the clear; then what only some can be made to do. In every world."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import plugwire
from faces import bare
from peers import BIG, SMALL, Authority, pattern
from peers.apache import Apache
from peers.asgi import ASGI
from peers.fixtures import Site
from peers.h2_sink import h2_sink
from peers.nghttpd import Nghttpd
from peers.nginx import Nginx
from peers.node import Node
from plugwire import Headers, IncompleteBody, Limits, Request, TLSConfig
from plugwire.events import Event, Informational
from test_interop import PIECES, Uploads
from worlds import World


@pytest.fixture
def options(ca: Authority) -> dict[str, Any]:
    """What each session is made with."""
    return {"tls": TLSConfig(ca_file=str(ca.cert_pem)), "http_versions": ("h2",)}


class Echoing(Uploads):
    """nghttpd sends back what came."""

    def __init__(self, site: Site, session: Any) -> None:
        super().__init__(site, session)
        self._echoes = site.name == "nghttpd"

    async def check(self, response: Any, body: bytes) -> None:
        if not self._echoes:
            await super().check(response, body)
            return
        assert response.status_code == 200
        assert await response.read() == body


# -- what comes


async def test_gets_a_small_file(h2_site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        response = await session.get(f"{h2_site.url}/small")
        assert (response.status_code, response.content, response.http_version) == (200, SMALL, "HTTP/2")
        assert response.reason == "OK"
        assert response.headers.get_int("content-length") in (len(SMALL), None)
        assert response.connection.protocol == "HTTP/2"
        tls = response.connection.tls
        if h2_site.url.startswith("https"):
            assert (tls.version, tls.alpn, tls.verified) == ("TLSv1.3", "h2", True)
        else:
            assert tls is None


async def test_alpn_chooses_http2_by_default(nginx: Nginx, apache: Apache, world: World, ca: Authority) -> None:
    async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem))) as session:
        for peer in (nginx, apache):
            assert (await session.get(f"{peer.h2_url}/small")).http_version == "HTTP/2"
            assert (await session.get(f"{peer.url}/small")).http_version == "HTTP/1.1"
            plain = await session.get(f"{peer.h2_url}/small", http_versions=("http/1.1",))
            assert (plain.content, plain.http_version) == (SMALL, "HTTP/1.1")


async def test_one_connection_serves_what_comes_one_after_the_other(
    h2_site: Site, world: World, options: dict[str, Any]
) -> None:
    """Bodiless answers among them."""
    cases: list[tuple[str, str, int, bytes | None]] = [
        ("GET", "/small", 200, SMALL),
        ("HEAD", "/big", 200, b""),
        ("GET", "/missing", 404, None),
        ("GET", "/big", 200, BIG),
        ("GET", "/small", 200, SMALL),
    ]
    if h2_site.name != "nghttpd":
        cases += [
            ("HEAD", "/missing", 404, b""),
            ("GET", "/no-content", 204, b""),
            ("GET", "/chunked", 200, SMALL),
            ("GET", "/unavailable", 503, None),
            ("GET", "/redirect", 302, None),
        ]
    if h2_site.name in ("nginx", "node", "asgi"):
        cases.append(("HEAD", "/chunked", 200, b""))
    seen: list[tuple[int, bool]] = []
    async with world.session(**options) as session:
        for method, path, status, content in cases:
            response = await session.request(method, f"{h2_site.url}{path}", follow_redirects=False)
            assert response.status_code == status, path
            if content is not None:
                assert response.content == content, path
            seen.append((response.connection.id, response.connection.reused))
            if (method, path) == ("HEAD", "/big"):
                assert response.headers.get_int("content-length") in (len(BIG), None)
        assert session.stats()[:2] == (1, 1)
    assert len({connection for connection, _ in seen}) == 1
    assert [reused for _, reused in seen] == [False] + [True] * (len(cases) - 1)


@pytest.mark.parametrize("how", ["read", "readinto", "iter_bytes"])
async def test_a_big_file_comes_whole(how: str, h2_site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session, session.stream("GET", f"{h2_site.url}/big") as response:
        found = bytearray()
        if how == "read":
            while piece := await response.read(300_007):
                assert len(piece) <= 300_007
                found += piece
        elif how == "readinto":
            buffer = bytearray(65537)
            while count := await response.readinto(buffer):
                found += memoryview(buffer)[:count]
        else:
            async for piece in response.iter_bytes(100_003):
                found += piece
        assert found == BIG


async def test_leaving_a_body_early_does_not_spoil_what_follows(
    h2_site: Site, world: World, options: dict[str, Any]
) -> None:
    async with world.session(**options) as session:
        for _ in range(3):
            async with session.stream("GET", f"{h2_site.url}/big") as response:
                await response.read(1)
            assert (await session.get(f"{h2_site.url}/small")).content == SMALL
        assert session.stats()[:2] == (1, 1)


async def test_conditional_and_range_requests(h2_site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        if h2_site.name == "nghttpd":  # knows neither If-None-Match nor ranges, and answers in full
            for headers in ({"if-none-match": '"x"'}, {"range": "bytes=10-19"}):
                response = await session.get(f"{h2_site.url}/small", headers=headers)
                assert (response.status_code, response.content) == (200, SMALL)
            return
        etag = (await session.get(f"{h2_site.url}/small")).headers["etag"]
        unchanged = await session.get(f"{h2_site.url}/small", headers={"if-none-match": etag})
        assert (unchanged.status_code, unchanged.content, unchanged.ok) == (304, b"", True)
        part = await session.get(f"{h2_site.url}/small", headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, SMALL[10:20])
        assert part.connection.id == unchanged.connection.id


async def test_content_behind_the_head_of_head(
    nghttpd: Nghttpd, apache: Apache, world: World, options: dict[str, Any]
) -> None:
    """nghttpd sends its error page, and Apache what mod_include makes, to HEAD too: malformed (RFC 9113, 8.1.1), for us
    as for curl. It costs the stream."""
    async with world.session(**options) as session:
        for base, path in ((nghttpd.h2c_url, "/missing"), (apache.h2c_url, "/chunked")):
            with pytest.raises(plugwire.ProtocolError, match="HEAD"):
                await session.head(base + path)
            assert (await session.get(f"{base}/small")).connection.reused


async def test_connection_close_is_obeyed(h2_site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        first = await session.get(f"{h2_site.url}/small", headers={"connection": "close"})
        second = await session.get(f"{h2_site.url}/big", headers={"connection": "close"})
        assert (first.content, second.content) == (SMALL, BIG)
        assert first.connection.id != second.connection.id
        assert session.stats().open == 0


async def test_the_classical_steps(h2_site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session, await session.connect(h2_site.url) as connection:
        before = connection.info.id
        for path, status in (("/small", 200), ("/missing", 404)):
            request = connection.open_request("GET", path)
            request.headers.add("accept", "text/plain")
            response = await request.send()
            assert (response.status_code, response.connection.id) == (status, before)
            await response.read()


# -- what goes


async def test_uploads_from_memory(h2_site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        uploads = Echoing(h2_site, session)
        for body in (b"", b"abc", b"x" * 65536, b"y" * 65537, BIG):
            await uploads.send(body, content=body)
        assert session.stats()[:2] == (1, 1)


async def test_uploads_from_files_and_pieces(
    h2_site: Site, world: World, options: dict[str, Any], tmp_path: Path
) -> None:
    def pieces() -> Iterator[bytes]:
        yield from PIECES

    path = tmp_path / "file"
    path.write_bytes(BIG)
    async with world.session(**options) as session:
        uploads = Echoing(h2_site, session)
        with path.open("rb") as file:
            await uploads.send(BIG, content=file)
        file = io.BytesIO(BIG)
        file.seek(5)
        await uploads.send(BIG[5:], content=file)
        await uploads.send(b"".join(PIECES), content=pieces())
        await uploads.send(b"".join(PIECES), content=pieces)


@pytest.mark.parametrize("has_length", [False, True])
async def test_uploads_by_pushing(has_length: bool, h2_site: Site, world: World, options: dict[str, Any]) -> None:
    body = b"".join(PIECES) + BIG
    async with world.session(**options) as session:
        uploads = Echoing(h2_site, session)
        request = session.open_request(uploads.method, uploads.url)
        await request.begin(len(body) if has_length else None)
        for piece in (*PIECES, BIG):
            assert await request.write(piece) == len(piece)
        async with await request.end() as response:
            await uploads.check(response, body)


async def test_many_at_once_on_one_connection(h2_site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options, limits=Limits(max_connections=1)) as session:

        async def work(number: int) -> None:
            for turn in range(4):
                if (number + turn) % 3:
                    assert (await session.get(f"{h2_site.url}/small")).content == SMALL
                else:
                    assert (await session.get(f"{h2_site.url}/big")).content == BIG

        await world.gather(*(lambda number=number: work(number) for number in range(16)))
        assert session.stats()[:3] == (1, 1, 0)


async def test_a_slow_reader_and_an_upload_hold_up_nobody(h2_site: Site, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options, limits=Limits(max_connections=1)) as session:
        uploads = Echoing(h2_site, session)
        async with session.stream("GET", f"{h2_site.url}/big") as slow:
            first = await slow.read(1000)
            request = session.open_request(uploads.method, uploads.url)
            await request.begin()
            await request.write(b"x" * 1000)
            for _ in range(3):
                assert (await session.get(f"{h2_site.url}/small")).content == SMALL
            await request.write(b"y" * 1000)
            async with await request.end() as response:
                await uploads.check(response, b"x" * 1000 + b"y" * 1000)
            rest = b""
            while piece := await slow.read(65536):
                rest += piece
            assert first + rest == BIG


# -- trailers, interim responses, Expect


async def test_trailers_of_responses(
    node: Node, asgi: ASGI, nghttpd: Nghttpd, world: World, options: dict[str, Any]
) -> None:
    body = b"".join(b"chunk %d\n" % number for number in range(50))
    async with world.session(**options) as session:
        async with session.stream("GET", f"{node.h2_url}/chunked?n=50") as response:
            assert await response.read() == body
            assert response.trailers["x-checksum"] == hashlib.sha256(body).hexdigest()
            assert response.trailers.get_int("x-count") == 50
        response = await session.get(f"{asgi.h2_url}/trailers", headers={"te": "trailers"})
        assert response.content == SMALL
        assert response.trailers["x-checksum"] == hashlib.sha256(SMALL).hexdigest()
        response = await session.get(f"http://127.0.0.1:{nghttpd.trailers_port}/big")
        assert response.content == BIG
        assert response.trailers["x-trailer"] == "at last"


async def test_trailers_of_requests(node: Node, world: World, options: dict[str, Any]) -> None:
    sent: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        for piece in (b"abc", b"def"):
            sent.append(piece)
            yield piece

    async with world.session(**options) as session:
        request = Request(
            "POST",
            f"{node.h2_url}/echo",
            content=pieces,
            trailers=lambda: Headers({"x-length": str(len(b"".join(sent)))}),
        )
        seen = (await session.send(request)).json()
    assert (seen["length"], seen["trailers"]) == (6, [["x-length", "6"]])


async def test_what_node_sees_of_the_fields(node: Node, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        headers = {"X-One": "1", "Connection": "x-hop", "X-Hop": "2", "Keep-Alive": "3", "Cookie": "a=b; c=d"}
        seen = (await session.get(f"{node.h2_url}/echo?a=b", headers=headers)).json()
    fields = {name.lower(): value for name, value in seen["headers"]}
    assert (seen["method"], seen["target"], seen["httpVersion"]) == ("GET", "/echo?a=b", "2.0")
    assert fields["x-one"] == "1"
    assert fields["cookie"] == "a=b; c=d"
    assert not {"connection", "x-hop", "keep-alive", "host"} & set(fields)


async def test_interim_responses(node: Node, asgi: ASGI, world: World, options: dict[str, Any]) -> None:
    seen: list[Event] = []
    async with world.session(**options) as session:
        response = await session.get(f"{node.h2_url}/informational?n=3", observe=seen.append)
        assert response.content == SMALL
        statuses = [event.status for event in seen if isinstance(event, Informational)]
        assert statuses == [102, 102, 102, 103]
        seen.clear()
        assert (await session.get(f"{asgi.h2_url}/hints", observe=seen.append)).content == SMALL
        (hint,) = [event for event in seen if isinstance(event, Informational)]
        assert hint.status == 103
        assert "link" in hint.headers


async def test_expect(node: Node, nginx: Nginx, apache: Apache, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        for mode, status in (("accept", 200), ("reject", 417), ("silent", 200)):
            url = f"{node.h2_url}/continue?mode={mode}"
            seconds = 0.05 if mode == "silent" else 30.0
            response = await session.send(Request("POST", url, content=b"x" * 100_000, expect_continue=seconds))
            assert response.status_code == status, mode
        for peer in (nginx, apache):
            url = f"{peer.h2_url}/upload/expect"
            # Over HTTP/2 nginx never says 100.
            seconds = 0.05 if peer is nginx else 30.0
            response = await session.send(Request("PUT", url, content=b"x" * 1000, expect_continue=seconds))
            assert response.status_code in (201, 204)
            assert (await session.get(url)).content == b"x" * 1000
            await session.delete(url)
        assert session.stats()[:2] == (3, 3)


# -- answers that come early, streams that break


async def test_early_answers(node: Node, nginx: Nginx, nghttpd: Nghttpd, world: World, options: dict[str, Any]) -> None:
    """The answer comes whole, and the connection stays."""
    async with world.session(**options) as session:
        for content in (BIG * 3, [BIG] * 3):
            for mode in ("reset", "keep"):
                response = await session.post(f"{node.h2_url}/early?mode={mode}", content=content)
                assert (response.status_code, response.content) == (413, b"too large\n"), mode
            response = await session.put(f"{nginx.h2_url}/limited", content=content)
            assert response.status_code == 413
            assert b"413" in response.content
            response = await session.post(f"http://127.0.0.1:{nghttpd.early_port}/small", content=content)
            assert response.status_code < 500
            with pytest.raises(plugwire.StreamReset, match="CANCEL"):
                await session.post(f"{node.h2_url}/early?mode=cancel", content=content)
        assert (await session.get(f"{node.h2_url}/small")).connection.reused
        assert session.stats()[:2] == (3, 3)


@pytest.mark.parametrize("after", ["nothing", "head", "half"])
async def test_resets_have_their_code(after: str, node: Node, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        first = await session.get(f"{node.h2_url}/small")
        with pytest.raises(plugwire.StreamReset, match="INTERNAL_ERROR") as caught:
            await session.get(f"{node.h2_url}/rst?code=2&after={after}")
        assert caught.value.code == 2
        assert caught.value.phase == ("head" if after == "nothing" else "body")
        assert (await session.get(f"{node.h2_url}/small")).connection.id == first.connection.id


async def test_half_a_body(node: Node, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        with pytest.raises(IncompleteBody) as caught:
            await session.get(f"{node.h2_url}/truncate")
        assert (caught.value.received, caught.value.expected) == (len(SMALL) // 2, len(SMALL))
        assert (await session.get(f"{node.h2_url}/small")).connection.reused
        with pytest.raises(plugwire.NetworkError) as broken:
            await session.get(f"{node.h2_url}/reset")
        assert broken.value.phase in ("head", "body")
        assert (await session.get(f"{node.h2_url}/small")).content == SMALL


async def test_settings_that_change_on_the_way(node: Node, world: World, options: dict[str, Any]) -> None:
    async with world.session(**options) as session:
        for size in (1, 70_000, 1000, 1 << 20):
            await session.get(f"{node.h2_url}/settings?initialWindowSize={size}")
            body = BIG[: 200 if size == 1 else len(BIG)]
            seen = (await session.post(f"{node.h2_url}/echo", content=body)).json()
            assert (seen["length"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert (await session.get(f"{node.h2_url}/ping")).content == SMALL
        assert session.stats()[:2] == (1, 1)


async def test_odd_servers(nghttpd: Nghttpd, world: World, options: dict[str, Any]) -> None:
    """Padding on every frame; two streams at once and a window of 1023 bytes."""
    async with world.session(**options, limits=Limits(max_connections=1)) as session:
        padded, narrow = (f"http://127.0.0.1:{port}" for port in (nghttpd.padded_port, nghttpd.narrow_port))
        assert (await session.get(f"{padded}/big")).content == BIG
        body = pattern(50_000)

        async def echo(number: int) -> None:
            assert (await session.post(f"{narrow}/echo", content=body[number:])).content == body[number:]

        # First a small one: what is sent before the server's SETTINGS are known, more than they allow, it takes ill.
        assert (await session.post(f"{narrow}/echo", content=b"small")).content == b"small"
        await world.gather(*(lambda number=number: echo(number) for number in range(6)))
        assert session.stats().open == 1


async def test_rotation_is_never_seen(nginx: Nginx, world: World, options: dict[str, Any]) -> None:
    """nginx says GOAWAY with each tenth request, uploads among them."""
    base = f"https://localhost:{nginx.rotating_port}"
    async with world.session(**options) as session:

        async def work(number: int) -> None:
            for turn in range(25):
                if (number + turn) % 5:
                    assert (await session.get(f"{base}/small")).content == SMALL
                else:
                    assert (await session.get(f"{base}/big")).content == BIG

        await world.gather(*(lambda number=number: work(number) for number in range(4)))


# -- CONNECT


async def test_connect_hands_the_stream_over(node: Node, world: World, options: dict[str, Any]) -> None:
    forever = float("inf")
    async with world.session(**options) as session:
        request = Request("CONNECT", node.h2_url)
        request.target = "there.example:443"
        response = await session.send(request)
        assert response.status_code == 200
        taken = bare(response.take_stream())
        stream = getattr(taken, "stream", taken)
        for text in (b"hello", b"x" * 30_000):
            assert await stream.send(text, forever) == len(text)
            found = b""
            while len(found) < len(text):
                found += await stream.receive(65536, forever)
            assert found == text
            assert (await session.get(f"{node.h2_url}/small")).connection.id == response.connection.id
        await stream.send_eof(forever)
        assert await stream.receive(10, forever) == b""
        stream.close()
        assert session.stats()[:2] == (1, 1)


# -- large bodies


SIZE = 128 << 20
GROWTH = 8 << 20
CLIENT = Path(__file__).parent / "benchmarks" / "bulk_client.py"

each_world = pytest.mark.parametrize("client", ["plugwire", "plugwire asyncio", "plugwire trio"])


def _run(client: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, CLIENT, client, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] == SIZE
    assert found["growth"] < GROWTH, f"{found['growth'] / (1 << 20):.1f} MiB"


def _sparse(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@each_world
def test_download_in_bounded_memory(client: str, nginx: Nginx, ca: Authority) -> None:
    path = _sparse(nginx.upload_directory / "large-h2")
    try:
        _run(client, f"{nginx.h2_url}/upload/large-h2", f"{nginx.h2_url}/big", str(ca.cert_pem))
    finally:
        path.unlink()


@each_world
def test_upload_from_disk_in_bounded_memory(client: str, ca: Authority, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca.server.bundle_pem)
    large, small = _sparse(tmp_path / "large"), tmp_path / "small"
    small.write_bytes(BIG)
    with h2_sink(context) as url:
        _run(client, url, url, str(ca.cert_pem), str(large), str(small))


async def test_a_peer_that_sends_back_what_it_gets(node: Node, world: World, options: dict[str, Any]) -> None:
    """It answers at once and pipes: more than both windows hold, so each side must read while it sends."""
    content = bytes(range(256)) * 4 * 4096
    async with world.session(**options) as session:
        answers = await world.gather(
            *(lambda: session.post(f"{node.h2_url}/reflect", content=[content]) for _ in range(4)),
            lambda: session.get(f"{node.h2_url}/small"),
        )
        assert [answer.status_code for answer in answers] == [200] * 5
        assert all(answer.content == content for answer in answers[:4])
        assert session.stats().open == 1


async def test_a_crowd_on_connections_that_take_ten_requests_each(
    nginx: Nginx, world: World, options: dict[str, Any]
) -> None:
    """Most of them are left unprocessed again and again, by chance some of them many times."""
    async with world.session(**options, limits=Limits(max_connections=2)) as session:
        get = partial(session.get, f"https://localhost:{nginx.rotating_port}/small")
        answers = await world.gather(*[get] * 200)
        assert all(answer.content == SMALL for answer in answers)
        assert len({answer.connection.id for answer in answers}) >= 20
