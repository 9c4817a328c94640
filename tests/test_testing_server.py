"""The embedded server, and the fixtures."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

import plugwire
from plugwire import AsyncResponse, Request, Response
from plugwire.events import Event, Informational
from plugwire.testing import Mock, Server
from plugwire.testing.fixtures import plugwire_mock, plugwire_server  # noqa: F401  (fixtures)
from plugwire.testing.server import PatternBody
from worlds import World


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_the_default_routes(world: World, tls: bool) -> None:
    with Server(tls=tls) as server:
        async with world.session(
            base_url=server.url, tls=server.tls_config if tls else plugwire.TLSConfig()
        ) as session:
            assert (await session.get("/hello")).text.startswith("hello")
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


async def test_echo_tells_what_came(world: World) -> None:
    events: list[Event] = []
    with Server() as server:
        async with world.session() as session:
            response = await session.put(f"{server.url}/echo?a=b", content=b"12345", headers={"X-Two": "2"})
            chunked = await session.post(f"{server.url}/echo", content=iter([b"123", b"", b"4567"]))
            expecting = await session.post(
                f"{server.url}/echo", content=b"123", headers={"Expect": "100-continue"}, observe=events.append
            )
    echo = response.json()
    assert (echo["method"], echo["url"], echo["length"]) == ("PUT", f"{server.url}/echo?a=b", 5)
    assert ["X-Two", "2"] in echo["headers"]
    assert chunked.json()["length"] == 7
    assert expecting.json()["length"] == 3
    assert [event.status for event in events if isinstance(event, Informational)] == [100]


async def test_a_mapping_answers_and_what_it_does_not_know_is_404(world: World) -> None:
    with Server({"GET /x": Response(200, text="x")}) as server:
        async with world.session(base_url=server.url) as session:
            assert (await session.get("/x")).text == "x"
            missing = await session.get("/y")
            assert missing.status_code == 404 and "GET /x" in missing.text


async def test_a_body_without_length_is_sent_chunked(world: World) -> None:
    def handler(request: Request) -> AsyncResponse:
        body = PatternBody(1000)
        body.length = None
        return AsyncResponse(200, body=body)

    with Server(handler) as server:
        async with world.session() as session:
            response = await session.get(server.url)
            assert response.headers["transfer-encoding"] == "chunked"
            assert len(response.content) == 1000


async def test_what_a_handler_raises_is_500_and_raised_at_the_end(world: World) -> None:
    def handler(request: Request) -> Response:
        raise LookupError("my mistake")

    async with world.session() as session:
        with pytest.raises(LookupError, match="my mistake"), Server(handler) as server:
            assert (await session.get(server.url)).status_code == 500


async def test_connection_close_is_obeyed(world: World, tls: bool) -> None:
    with Server(tls=tls) as server:
        async with world.session(tls=server.tls_config if tls else plugwire.TLSConfig()) as session:
            for _ in range(2):
                response = await session.get(f"{server.url}/hello", headers={"Connection": "close"})
                assert response.headers["connection"] == "close"
        assert server.accepted == 2


def test_nothing_is_left_when_the_server_ends_under_open_connections(tls: bool) -> None:
    before = threading.active_count()
    config = plugwire.TLSConfig(verify=False)
    with plugwire.Session(tls=config) as session:
        with Server(tls=tls) as server, session.stream("GET", f"{server.url}/bytes/100000000") as response:
            assert response.read(10)
            assert server.open_connections == 1
        assert server.open_connections == 0
        assert threading.active_count() == before
    server.close()  # idempotent
    gc.collect()


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
    from plugwire.testing.certificates import loopback_identity

    loopback_identity.cache_clear()
    monkeypatch.setitem(sys.modules, "trustme", None)
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
        "[getattr(t, name) for name in t.__all__]; assert not {'trio', 'pytest', 'trustme'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError):
        _: Any = getattr(plugwire.testing, "nothing")  # noqa: B009
