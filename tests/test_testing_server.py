"""The embedded server, and the fixtures."""

from __future__ import annotations

import errno
import gc
import socket
import subprocess
import sys
import threading
from functools import lru_cache
from typing import Any, NamedTuple

import pytest

import plugwire
from plugwire import AsyncResponse, Headers, Request, Response
from plugwire.events import Event, Informational
from plugwire.protocols import Body
from plugwire.testing import Mock, Server, certificates
from plugwire.testing.fixtures import plugwire_mock, plugwire_server  # noqa: F401  (fixtures)
from plugwire.testing.mock import MockHandler
from plugwire.testing.server import PatternBody
from worlds import PATIENCE, World, in_time


class Way(NamedTuple):
    """How server and client speak."""

    tls: bool
    http_versions: tuple[str, ...]

    def server(self, handler: MockHandler | None = None) -> Server:
        return Server(handler, tls=self.tls, http_versions=self.http_versions)

    def session(self, world: World, server: Server) -> Any:
        tls = server.tls_config if self.tls else plugwire.TLSConfig()
        return world.session(base_url=server.url, tls=tls, http_versions=self.http_versions)

    @property
    def is_http2(self) -> bool:
        return self.http_versions[0] == "h2"


WAYS = {
    "plain": Way(False, ("http/1.1",)),
    "tls": Way(True, ("http/1.1",)),
    "h2-plain": Way(False, ("h2",)),
    "h2-tls": Way(True, ("h2", "http/1.1")),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_the_default_routes(world: World, way: Way) -> None:
    with way.server() as server:
        async with way.session(world, server) as session:
            hello = await session.get("/hello")
            assert hello.text.startswith("hello")
            assert hello.http_version == ("HTTP/2" if way.is_http2 else "HTTP/1.1")
            content = (await session.get("/bytes/200000")).content
            assert content == (bytes(range(251)) * 800)[:200000]
            chunked = await session.get("/chunked")
            assert chunked.text.splitlines() == [f"piece {number}" for number in range(1, 11)]
            assert chunked.trailers["x-pieces"] == "10"
            assert (await session.get("/status/418")).status_code == 418
            assert (await session.get("/status/204")).content == b""
            assert (await session.get("/nowhere")).status_code == 404
            head = await session.head("/bytes/5")
            assert head.headers["content-length"] == "5" and head.content == b""
            assert server.accepted == 1  # all over one connection
            assert server.open_connections == 1
        assert server.wait_closed()
        assert server.open_connections == 0
        assert len(server.calls) == 7


def test_it_speaks_http11_unless_told_otherwise(tls: bool, plugwire_server: Server) -> None:  # noqa: F811
    with Server(tls=tls) as server, plugwire.Session(tls=server.tls_config) as session:
        assert server.http_versions == plugwire_server.http_versions == ("http/1.1",)
        assert session.get(f"{server.url}/hello").http_version == "HTTP/1.1"


async def test_echo_tells_what_came(world: World, way: Way) -> None:
    events: list[Event] = []
    with way.server() as server:
        async with way.session(world, server) as session:
            response = await session.put("/echo?a=b", content=b"12345", headers={"X-Two": "2"})
            streamed = await session.post("/echo", content=iter([b"123", b"", b"4567"]))
            large = await session.post("/echo", content=b"x" * 1_000_000)
            expecting = await session.post(
                "/echo", content=b"123", headers={"Expect": "100-continue"}, observe=events.append
            )
    echo = response.json()
    assert (echo["method"], echo["url"], echo["length"]) == ("PUT", f"{server.url}/echo?a=b", 5)
    came = {name.lower(): value for name, value in echo["headers"]}
    assert (came["x-two"], came["host"]) == ("2", server.url.partition("://")[2])
    assert streamed.json()["length"] == 7
    assert large.json()["length"] == 1_000_000
    assert expecting.json()["length"] == 3
    assert [event.status for event in events if isinstance(event, Informational)] == [100]


async def test_calls_keep_trailers(world: World, way: Way) -> None:
    with way.server() as server:
        async with way.session(world, server) as session:
            asked = Request(
                "POST", f"{server.url}/echo", content=iter([b"123"]), trailers=lambda: Headers({"X-Sum": "6"})
            )
            assert (await session.send(asked)).status_code == 200
            assert (await session.get("/echo")).status_code == 200
        given, none = (call.trailers for call in server.calls)
        assert given is not None and none is not None
        assert (given()["x-sum"], none()) == ("6", Headers())


async def test_a_mapping_answers_and_what_it_does_not_know_is_404(world: World, way: Way) -> None:
    with way.server({"GET /x": Response(200, text="x")}) as server:
        async with way.session(world, server) as session:
            assert (await session.get("/x")).text == "x"
            missing = await session.get("/y")
            assert missing.status_code == 404 and "GET /x" in missing.text


async def test_a_body_without_length_is_sent_as_it_comes(world: World, way: Way) -> None:
    def handler(request: Request) -> AsyncResponse:
        body = PatternBody(1000)
        body.length = None
        return AsyncResponse(200, body=body)

    with way.server(handler) as server:
        async with way.session(world, server) as session:
            response = await session.get("/")
            assert response.headers.get("transfer-encoding") == (None if way.is_http2 else "chunked")
            assert "content-length" not in response.headers
            assert len(response.content) == 1000


async def test_what_a_handler_raises_is_500_and_raised_at_the_end(world: World, way: Way) -> None:
    def handler(request: Request) -> Response:
        raise LookupError("my mistake")

    with pytest.raises(LookupError, match="my mistake"), way.server(handler) as server:
        async with way.session(world, server) as session:
            assert (await session.get("/")).status_code == 500


async def test_what_a_body_raises_cuts_it_off_and_is_raised_at_the_end(world: World, way: Way) -> None:
    class Broken(PatternBody):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            data = await super().receive(500)
            if not data:
                raise FileNotFoundError("my mistake")  # an OSError, as of a connection
            return data

    def handler(request: Request) -> AsyncResponse:
        body = Broken(1000)
        body.length = None
        return AsyncResponse(200, body=body)

    with pytest.raises(FileNotFoundError, match="my mistake"), way.server(handler) as server:
        async with way.session(world, server) as session:
            with pytest.raises(plugwire.ProtocolError):
                await session.get("/")


async def test_connection_close_is_obeyed(world: World, tls: bool) -> None:
    with Server(tls=tls) as server:
        async with world.session(tls=server.tls_config if tls else plugwire.TLSConfig()) as session:
            for _ in range(2):
                response = await session.get(f"{server.url}/hello", headers={"Connection": "close"})
                assert response.headers["connection"] == "close"
        assert server.accepted == 2


def test_nothing_is_left_when_the_server_ends_under_open_connections(way: Way) -> None:
    before = threading.enumerate()
    config = plugwire.TLSConfig(verify=False)
    with plugwire.Session(tls=config, http_versions=way.http_versions) as session:
        with way.server() as server, session.stream("GET", f"{server.url}/bytes/100000000") as response:
            assert response.read(10)
            assert server.open_connections == 1
        assert server.open_connections == 0
        assert not set(threading.enumerate()).difference(before)  # of those before, some may just end
    server.close()  # idempotent
    gc.collect()


class SlowToAccept(Server):
    """Accepts nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def _accept(self, listener: Any) -> None:
        assert self.may.wait(PATIENCE)
        super()._accept(listener)


def test_a_connection_that_is_not_accepted_yet_is_not_closed_yet() -> None:
    with SlowToAccept() as server:
        socket.create_connection(("127.0.0.1", server.port)).close()
        assert not server.wait_closed(0.001)
        server.may.set()
        assert server.wait_closed()
        assert (server.accepted, server.open_connections) == (1, 0)
    assert server.wait_closed()  # nor does it ask a listener that is gone


def test_no_time_is_not_enough_to_know_that_all_is_closed() -> None:
    with SlowToAccept() as server:
        assert not server.wait_closed(0)
        assert not server.wait_closed(-1)
        server.may.set()

        def ask_again_and_again() -> None:
            while not server.wait_closed(0):
                pass

        in_time(ask_again_and_again)  # a moment is enough if nothing is there


def test_who_comes_from_where_the_server_asked_in_vain_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Any] = []

    def connect(sock: socket.socket, address: Any) -> None:
        places.append(sock.getsockname())
        raise TimeoutError

    with Server() as server:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", connect)
            assert not server.wait_closed()
        with socket.create_connection(("127.0.0.1", server.port), source_address=places[0]) as sock:
            sock.sendall(b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n")
            assert sock.recv(8) == b"HTTP/1.1"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_leaving_does_not_wait_for_who_accepts_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(sock: socket.socket) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket.socket, "accept", accept)
    with Server() as server:
        in_time(server.wait_closed)
        in_time(server.close)


def test_leaving_waits_for_a_handler_that_is_at_work() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def handler(request: Request) -> Response:
        begun.set()
        may_end.wait(30)
        ended.set()
        return Response(200)

    class Leaving(Server):
        def _last_moment(self) -> None:
            threading.Thread(target=may_end.set).start()

    with Leaving(handler) as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        begun.wait(30)
        sock.shutdown(socket.SHUT_RDWR)
        server.close()
        assert ended.is_set()


def test_without_trustme_tls_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_authority", lru_cache(certificates._authority.__wrapped__))
    monkeypatch.setitem(sys.modules, "trustme", None)
    certificates.loopback_identity.cache_clear()
    with pytest.raises(plugwire.UsageError, match=r"plugwire\[demo\]"):
        Server(tls=True)
    Server()


def test_the_fixtures(plugwire_mock: Mock) -> None:  # noqa: F811
    plugwire_mock.add("GET https://h.invalid/", Response(200, text="mocked"))
    assert plugwire.get("https://h.invalid/").text == "mocked"


def test_the_server_fixture(plugwire_server: Server) -> None:  # noqa: F811
    assert plugwire.get(f"{plugwire_server.url}/hello").ok


def test_the_package_imports_its_names_when_they_are_used() -> None:
    code = (
        "import sys, plugwire.testing as t; assert not {'ssl', 'asyncio', 'trio', 'pytest'} & sys.modules.keys();"
        "[getattr(t, name) for name in t.__all__]; assert not {'h2', 'trio', 'pytest', 'trustme'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError):
        _: Any = getattr(plugwire.testing, "nothing")  # noqa: B009


def test_a_body_that_ends_before_its_length_cuts_the_response_off() -> None:
    class Short(Body):
        length = 100
        given = False

        async def receive(self, max_bytes: int = 65536) -> bytes:
            data, self.given = b"" if self.given else b"a part", True
            return data

    with Server(lambda request: AsyncResponse(200, body=Short())) as server:
        for _ in range(2):  # and the next request is answered, on another connection
            with pytest.raises(plugwire.IncompleteBody) as caught:
                plugwire.get(server.url + "/", timeout=PATIENCE)
            assert (caught.value.received, caught.value.expected) == (6, 100)
