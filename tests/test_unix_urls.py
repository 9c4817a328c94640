"""Unix sockets by URL, `http+unix://%2Frun%2Fdocker.sock/info`, and what Host, TLS and the pool make of them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from peers import SMALL
from peers.nginx import Nginx
from plugwire import URL, CertificateError, NoTransport, Response, TLSConfig, UnsafeRedirect, UsageError
from plugwire.events import Connect
from plugwire.route import Route
from plugwire.testing import Server
from plugwire.testing.peer import ScriptedPeer, expect_head, send
from plugwire_transports import Unix
from plugwire_transports.unix import SUN_PATH, why_not
from unix_door import Door
from worlds import World

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


# -- what the URL says -------------------------------------------------------------------------------------------------


def test_the_host_is_the_path() -> None:
    url = URL("http+unix://%2Frun%2Fdocker.sock/v1.43/info?all=1")
    assert (url.host, url.authority, url.target) == ("%2Frun%2Fdocker.sock", "localhost", "/v1.43/info?all=1")
    assert url.origin.socket_path == "/run/docker.sock"
    assert url.href == "http+unix://%2Frun%2Fdocker.sock/v1.43/info?all=1"
    assert URL("https+unix://%2Frun%2F%C3%A9%FF/").origin.socket_path == "/run/é\udcff"
    assert URL("http+unix://%00name").origin.socket_path == "\0name"
    for other in ("http://h/", "unix://%2Frun%2Fx/", "mem://%2Frun%2Fx/"):
        assert URL(other).origin.socket_path is None
        assert URL(other).authority == URL(other).host


def test_references_stay_on_the_socket() -> None:
    url = URL("http+unix://%2Frun%2Fx.sock/v1/info")
    assert url.join("/v2?a").href == "http+unix://%2Frun%2Fx.sock/v2?a"
    assert url.join("images").href == "http+unix://%2Frun%2Fx.sock/v1/images"
    assert url.join("//%2Frun%2Fy.sock/").origin.socket_path == "/run/y.sock"
    for base in ("http+unix://%2Frun%2Fx.sock", "http+unix://%2Frun%2Fx.sock/"):
        assert URL(base).prefix("/info").href == "http+unix://%2Frun%2Fx.sock/info"


def test_a_route_has_the_path_and_its_own_pool() -> None:
    one, other = (Route(URL(f"http+unix://%2Frun%2F{name}/").origin) for name in ("x", "y"))
    assert (one.path, "path" in one.demands, one != other) == ("/run/x", True, True)
    secure = URL("https+unix://%2Frun%2Fx/").origin
    assert Route(secure).server_hostname == "localhost"
    assert Route(secure, tls=TLSConfig(server_hostname="db.example")).server_hostname == "db.example"


def test_two_sockets_for_one_request_are_refused() -> None:
    origin = URL("http+unix://%2Frun%2Fx/").origin
    assert Route(origin, path="/run/x").path == "/run/x"
    with pytest.raises(UsageError, match="'/run/x', the option path '/run/y'"):
        Route(origin, path="/run/y")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("\0", "empty"),
        ("run/x", "not absolute"),
        ("/run/x\0y", "NUL"),
        ("/" + "x" * (SUN_PATH - 1), f"has {SUN_PATH} bytes"),
        ("/" + "é" * (SUN_PATH // 2), "bytes"),
        ("\0" + "x" * SUN_PATH, f"has {SUN_PATH + 1} bytes"),
        ("/\ud800", "no file name"),
        (Path("/run/x"), "not PosixPath"),
    ],
)
def test_paths_that_cannot_be(path: Any, reason: str) -> None:
    assert reason in (why_not(path) or "")


def test_the_longest_paths_that_can_be() -> None:
    assert why_not("/" + "x" * (SUN_PATH - 2)) is None
    assert why_not("\0" + "x" * (SUN_PATH - 1)) is None


def test_unix_checks_its_path() -> None:
    assert Unix(Path("/run/x")).path == "/run/x"
    with pytest.raises(UsageError, match="not absolute"):
        Unix("x.sock")


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        ("http+unix://run/docker.sock", {}, "'run' is not absolute; in a URL write %2F"),
        ("http+unix://%2F" + "x" * SUN_PATH + "/", {}, "bytes, and the system takes"),
        ("http+unix://%2Frun%2Fx%00y/", {}, "NUL"),
        ("http+unix://%2Frun%2Fx:80/", {}, "has a port"),
        ("http://h/", {"path": ""}, "empty"),
        ("http://h/", {"path": 5}, "not int"),
    ],
)
async def test_what_cannot_be_is_refused_before_any_io(
    world: World, url: str, options: dict[str, object], reason: str
) -> None:
    events: list[object] = []
    async with world.session() as session:
        with pytest.raises(NoTransport) as caught:
            await session.get(url, options=options, observe=events.append)
        assert reason in caught.value.reasons["unix"]
        assert not caught.value.sent
    assert not any(isinstance(event, Connect) for event in events)


# -- on the wire -------------------------------------------------------------------------------------------------------


async def test_a_socket_by_url(nginx: Nginx, world: World) -> None:
    host = str(nginx.socket_path).replace("/", "%2F")
    async with world.session(base_url=f"http+unix://{host}") as session:
        assert (await session.get("/small")).content == SMALL
        response = await session.get("host")
        assert (response.text, response.connection.reused) == ("localhost", True)
        assert response.connection.peer_address == str(nginx.socket_path)
        async with await session.connect(f"http+unix://{host}") as connection:
            request = connection.open_request("GET", "/small")
            assert (await (await request.send()).read()) == SMALL
        redirect = await session.get("/redirect/302", follow_redirects=False)
        assert redirect.url.join(redirect.headers["location"]).path == "/small"


async def test_the_callers_host_goes_before_localhost(world: World, tmp_path: Path) -> None:
    first, own = (expect_head(b"GET /v1/info HTTP/1.1\r\nHost: " + host) for host in (b"localhost\r\n", b"docker\r\n"))
    with ScriptedPeer([first, send(OK), own, send(OK)]) as peer, Door(peer.port, str(tmp_path / "s")) as door:
        async with world.session() as session:
            await session.get(f"{door.url}/v1/info")
            await session.get(f"{door.url}/v1/info", headers={"Host": "docker"})
    assert door.opened == 1


async def test_http2_by_prior_knowledge(world: World, tmp_path: Path) -> None:
    with Server(http_versions=("h2",)) as server, Door(server.port, str(tmp_path / "s")) as door:
        async with world.session(http_versions=("h2",)) as session:
            response = await session.get(f"{door.url}/echo")
            assert (response.http_version, response.ok) == ("HTTP/2", True)
            assert server.calls[0].headers["host"] == "localhost"
            by_option = await session.get("http://any.example/echo", options={"path": door.path})
            assert by_option.http_version == "HTTP/2"
        async with world.session(http_versions=("h2",), transports=[Unix(door.path)]) as session:
            assert (await session.get("http://any.example/echo")).http_version == "HTTP/2"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_tls_verifies_localhost(world: World, version: str, tmp_path: Path) -> None:
    versions = ("h2", "http/1.1") if version == "HTTP/2" else ("http/1.1",)
    with Server(tls=True, http_versions=versions) as server, Door(server.port, str(tmp_path / "s")) as door:
        url = f"https+unix://{door.host}/hello"
        async with world.session(tls=server.tls_config) as session:
            response = await session.get(url)
            assert (response.http_version, response.connection.tls.server_hostname) == (version, "localhost")
            assert response.connection.tls.verified
            other = TLSConfig(ca_data=server.tls_config.ca_data, server_hostname="other.example")
            with pytest.raises(CertificateError):
                await session.get(url, tls=other)


@pytest.mark.skipif(SUN_PATH != 108, reason="abstract sockets are Linux's")
async def test_an_abstract_socket(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind("")  # the system chooses a name that nobody has
        name = taken.getsockname().decode()
    with Server() as server, Door(server.port, name) as door:
        assert door.url.startswith("http+unix://%00")
        async with world.session() as session:
            assert (await session.get(f"{door.url}/hello")).ok
            assert (await session.get("http://any.example/hello", options={"path": name})).ok


async def test_what_a_socket_has_none_of_is_refused_and_not_ignored(world: World, tmp_path: Path) -> None:
    with Server() as server, Door(server.port, str(tmp_path / "s")) as door:
        async with world.session() as session:
            with pytest.raises(NoTransport, match="unix: does not honour local_address"):
                await session.get(f"{door.url}/hello", options={"local_address": "127.0.0.2"})
            with pytest.raises(NoTransport, match="unix: the route has a proxy"):
                await session.get(f"{door.url}/hello", proxy="http://127.0.0.1:1")  # nothing listens, nothing is asked
        assert door.opened == 0


async def test_redirects_stay_on_the_socket_and_none_leads_onto_one(world: World, tmp_path: Path) -> None:
    """A server on the network must not make the client talk to what listens on this machine."""
    locations = {"/relative": "/hello", "/elsewhere": "http+unix://%2Frun%2Fother.sock/", "/out": "http://h.example/"}

    def answer(request: Any) -> Response:
        location = locations.get(request.url.path)
        return Response(302, headers={"Location": location}) if location else Response(200)

    with Server(answer) as server, Door(server.port, str(tmp_path / "s")) as door:
        locations["/onto"] = f"{door.url}/hello"
        async with world.session() as session:
            response = await session.get(f"{door.url}/relative")
            assert response.url.href == f"{door.url}/hello"
            for path in ("/elsewhere", "/out"):
                with pytest.raises(UnsafeRedirect):
                    await session.get(f"{door.url}{path}")
            with pytest.raises(UnsafeRedirect):
                await session.get(f"{server.url}/onto")
        assert door.opened == 1


async def test_proxies_of_the_environment_are_not_for_sockets(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Server() as server, Door(server.port, str(tmp_path / "s")) as door:
        async with world.session() as session:
            assert (await session.get(f"{door.url}/hello")).ok
            assert (await session.get("http://any.example/hello", options={"path": door.path})).ok
