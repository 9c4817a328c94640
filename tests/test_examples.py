"""The programs of docs/examples do what they say, against an embedded server."""

from __future__ import annotations

import asyncio
import http.server
import importlib.util
import io
import json
import socketserver
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import plugwire
from plugwire import AsyncResponse, Headers, Response
from plugwire.protocols import Body
from plugwire.testing import Server

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


# -- crawler ---------------------------------------------------------------------------------------------------------


def site(request: plugwire.Request) -> Response:
    """600 pages, each of which links to the next two, to a picture, and to what is not there."""
    path = request.url.path
    if path == "/":
        return Response(302, headers={"location": "/page/0"})
    if path == "/logo.png":
        return Response(200, content=b"\x89PNG", headers={"content-type": "image/png"})
    kind, _, number = path[1:].partition("/")
    if kind != "page":
        return Response(404)
    following = [(2 * int(number) + step) for step in (1, 2) if 2 * int(number) + step < 600]
    links = "".join(f'<a href="/page/{one}#top">next</a>' for one in following)
    gone = f'<a href="../gone/{number}">gone</a>' if int(number) % 100 == 0 else ""
    html = f'<p>page {number}<img src="/logo.png">{links}{gone}<a href="https://elsewhere.example/">away</a>'
    return Response(200, text=html, headers={"content-type": "text/html; charset=utf-8"})


def test_the_crawler_finds_every_page_and_every_broken_link() -> None:
    with Server(site) as server:
        report = asyncio.run(program("crawler").crawl(server.url + "/", 5000))
        connections = server.accepted
    assert report.pages == 600
    assert sorted(report.broken) == [f"{server.url}/gone/{number}" for number in (0, 100, 200, 300, 400, 500)]
    what, page = report.broken[f"{server.url}/gone/200"]
    assert what.startswith("HTTPStatusError: 404") and page == f"{server.url}/page/200"
    assert connections <= 20


# -- downloader ------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 4096


class Cut(Body):
    """Breaks off in the middle."""

    def __init__(self, content: bytes, length: int) -> None:
        self._content = content
        self.length = length

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data, self._content = self._content[:max_bytes], self._content[max_bytes:]
        return data


class Files:
    """Serves CONTENT under an entity tag, by ranges too; the first answers break off after a third."""

    def __init__(self, cuts: int) -> None:
        self.cuts = cuts
        self.tag = '"one"'
        self.ranges: list[str | None] = []

    def __call__(self, request: plugwire.Request) -> Any:
        wanted = request.headers.get("range")
        self.ranges.append(wanted)
        begin = 0
        if wanted and request.headers.get("if-range") == self.tag:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        rest = CONTENT[begin:]
        headers = Headers({"etag": self.tag})
        if begin:
            headers["content-range"] = f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}"
        status = 206 if begin else 200
        if self.cuts:
            self.cuts -= 1
            return AsyncResponse(status, headers=headers, body=Cut(rest[: len(CONTENT) // 3], len(rest)))
        return Response(status, headers=headers, content=rest)


@pytest.fixture
def session() -> Any:
    with plugwire.Session(timeout=10) as session:
        yield session


def test_the_downloader_goes_on_where_it_broke_off(session: plugwire.Session, tmp_path: Path) -> None:
    files, out = Files(cuts=2), io.StringIO()
    with Server(files) as server:
        size = program("downloader").download(session, server.url + "/file", tmp_path / "file", out)
    assert size == len(CONTENT)
    assert (tmp_path / "file").read_bytes() == CONTENT
    third = len(CONTENT) // 3
    assert files.ranges == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert out.getvalue().rstrip().endswith("[#########################] 100 %")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_downloader_begins_anew_when_the_file_has_changed(session: plugwire.Session, tmp_path: Path) -> None:
    files = Files(cuts=1)

    def changing(request: plugwire.Request) -> Any:
        answer = files(request)
        files.tag = '"two"'
        return answer

    with Server(changing) as server:
        program("downloader").download(session, server.url + "/file", tmp_path / "file", io.StringIO())
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(files.ranges) == 2 and files.ranges[1] is not None


def test_the_downloader_gives_up(session: plugwire.Session, tmp_path: Path) -> None:
    files = Files(cuts=1000)
    files.tag = 'W/"weak"'
    with Server(files) as server, pytest.raises(plugwire.IncompleteBody):
        program("downloader").download(session, server.url + "/file", tmp_path / "file", io.StringIO())
    assert files.ranges == [None] * 5  # a weak tag is nothing to go on with
    assert not (tmp_path / "file").exists()


# -- API client ------------------------------------------------------------------------------------------------------


class API:
    """Tokens that are good for a few requests, pages, a server that is busy now and then, and orders."""

    def __init__(self) -> None:
        self.refreshes = 0
        self.uses = 0
        self.busy = 0
        self.orders: dict[str, str] = {}

    def __call__(self, request: plugwire.Request) -> Response:
        if request.url.path == "/oauth/token":
            assert request.content == b"grant_type=refresh_token&refresh_token=secret"
            assert "authorization" not in request.headers
            self.refreshes += 1
            self.uses = 0
            return Response(200, json={"access_token": f"token-{self.refreshes}", "expires_in": 3600})
        # Who asks with the token before this one uses up nothing of it: who was told to refresh must get in then.
        is_known = request.headers.get("authorization") == f"Bearer token-{self.refreshes}"
        self.uses += is_known
        if not is_known or self.uses > 20:
            return Response(401, headers={"www-authenticate": 'Bearer error="invalid_token"'})
        match request.url.path.split("/")[2:]:
            case ["products"]:
                page = int((request.url.query or "page=1").removeprefix("page="))
                link = {"link": f'</v1/products?page={page + 1}>; rel="next"'} if page < 3 else {}
                return Response(200, json=[{"name": f"p{10 * page + n}"} for n in range(10)], headers=link)
            case ["products", name, "stock"]:
                self.busy += 1
                if self.busy % 7 == 0:
                    return Response(503, headers={"retry-after": "0"})
                return Response(200, json={"count": int(name[1:])})
            case ["orders"]:
                key = request.headers["idempotency-key"]
                is_new = key not in self.orders
                self.orders[key] = request.content.decode() if request.content else ""
                # The first answer is lost: only the key makes it safe to ask again.
                return Response(502) if is_new else Response(201, json={"id": f"order {len(self.orders)}"})
        return Response(404)


def test_the_api_client_refreshes_its_token_and_repeats_what_is_safe() -> None:
    api = API()
    module = program("api_client")
    with Server(api) as server, module.Shop(f"{server.url}/v1", "secret") as shop:
        names = [product["name"] for product in shop.products()]
        with module.ThreadPoolExecutor(8) as threads:
            counts = list(threads.map(shop.stock, names))
        order = shop.order("3 boxes of nails")
    assert names == [f"p{n}" for n in range(10, 40)]
    assert counts == list(range(10, 40))
    assert order == "order 1"
    assert list(api.orders.values()) == ['{"text":"3 boxes of nails"}']
    assert api.refreshes >= 2  # each token is good for 20 requests


# -- LLM stream ------------------------------------------------------------------------------------------------------


class Words(Body):
    """A model that writes for ever, an event at a time."""

    def __init__(self) -> None:
        self.given = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.given += 1
        return b'data: {"choices": [{"delta": {"content": "word%d "}}], "usage": {"n": %d}}\n\n' % (
            self.given,
            self.given,
        )


@pytest.mark.parametrize("version", ["http/1.1", "h2"])
def test_the_model_is_left_when_enough_was_said(version: str) -> None:
    module, said = program("llm_stream"), list[str]()

    def answer(request: plugwire.Request) -> AsyncResponse:
        assert request.headers["authorization"] == "Bearer key"
        return AsyncResponse(200, headers={"content-type": "text/event-stream"}, body=Words())

    async def main(url: str) -> Any:
        async with plugwire.AsyncSession(auth=module.BearerAuth("key"), http_versions=(version,)) as session:
            return await module.ask(session, url, "a-model", "why?", said.append, words=3)

    with Server(answer, http_versions=(version,)) as server:
        usage = asyncio.run(main(server.url + "/"))
    assert said == ["word1 ", "word2 ", "word3 "]
    assert usage == {"n": 3}


def test_what_the_model_refuses_is_told() -> None:
    module = program("llm_stream")

    async def main(url: str) -> None:
        async with plugwire.AsyncSession() as session:
            await module.ask(session, url, "a-model", "why?", print, words=3)

    refused = pytest.raises(plugwire.HTTPStatusError, match="429: too many words")
    with Server(lambda request: Response(429, text="too many words")) as server, refused:
        asyncio.run(main(server.url + "/"))


# -- Docker client ---------------------------------------------------------------------------------------------------


def frame(stream: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(content)) + content


class Engine(http.server.BaseHTTPRequestHandler):
    """As much of a Docker engine as the client asks for."""

    protocol_version = "HTTP/1.1"
    hosts: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self.hosts.add(self.headers["host"])
        match self.path.partition("?")[0].split("/")[2:]:
            case ["containers", "json"]:
                found = [{"Id": "0123456789abcdef", "Image": "nginx", "State": "running", "Names": ["/web"]}]
                self._send(200, json.dumps(found).encode())
            case ["containers", "web", "logs"]:
                self._send_pieces(frame(1, b"hello\n")[:5], frame(1, b"hello\n")[5:] + frame(2, b"oh\n"))
            case _:
                self._send(404, b'{"message": "No such container"}')

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("content-length") or 0))
        match self.path.partition("?")[0].split("/")[2:]:
            case ["images", "create"]:
                self._send_pieces(b'{"status": "Pulling"}\r\n{"sta', b'tus": "Done"}\r\n')
            case ["containers", "web", "exec"]:
                assert json.loads(asked)["Cmd"] == ["sh", "-c", "tr a-z A-Z"]
                self._send(201, b'{"Id": "e1"}')
            case ["exec", "e1", "start"]:
                self.send_response(101)
                self.send_header("Connection", "Upgrade")
                self.send_header("Upgrade", "tcp")
                self.end_headers()
                given = self.rfile.read()  # to the half close
                self.wfile.write(frame(1, given.upper()))
                self.close_connection = True

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_pieces(self, *pieces: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (*pieces, b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def log_message(self, *arguments: Any) -> None:
        pass

    def address_string(self) -> str:
        return "a socket"


@pytest.fixture
def engine() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/docker.sock"
        with socketserver.ThreadingUnixStreamServer(path, Engine) as server:
            server.daemon_threads = False
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield path
            server.shutdown()
            thread.join()


def test_the_docker_client(engine: str) -> None:
    with program("docker_client").Docker(engine) as docker:
        assert [one["Names"] for one in docker.containers()] == [["/web"]]
        assert list(docker.logs("web")) == [(1, b"hello\n"), (2, b"oh\n")]
        assert list(docker.pull("alpine:3")) == ["Pulling", "Done"]
        assert list(docker.execute("web", "tr a-z A-Z", io.BytesIO(b"shout"))) == [(1, b"SHOUT")]
        with pytest.raises(plugwire.HTTPStatusError, match="No such container"):
            list(docker.logs("gone"))
    assert Engine.hosts == {"localhost"}
