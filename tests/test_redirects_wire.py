"""Redirects over sockets: connections that are used again, streams, handles, pushes, HTTP/2, real servers; and what
went wrong in other clients."""

from __future__ import annotations

import gc
import gzip
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Headers, Limits, Response
from plugwire.testing import MockTransport, Server
from plugwire.testing.peer import ScriptedPeer, close, expect_head, expect_request, receive, send
from plugwire_transports import http11_body
from worlds import PATIENCE, World

if TYPE_CHECKING:
    from peers.apache import Apache
    from peers.certificates import Authority
    from peers.nginx import Nginx

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECRET = b"t0p-secret"
LARGE = 1 << 20


def moved(location: str | bytes, status: int = 302, rest: bytes = b"Content-Length: 5\r\n\r\nmoved") -> bytes:
    where = location if isinstance(location, bytes) else location.encode()
    return b"HTTP/1.1 %d Moved\r\nLocation: %s\r\n%s" % (status, where, rest)


# -- what becomes of the redirect's own content --------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
async def test_content_that_came_with_the_head_can_be_read_and_the_connection_is_used_again(
    world: World, streaming: bool
) -> None:
    with ScriptedPeer([expect_head(b"GET / "), send(moved("/x")), expect_head(b"GET /x "), send(OK)]) as peer:
        async with world.session() as session:
            if streaming:
                async with session.stream("GET", peer.url) as response:
                    content = await response.read()
            else:
                response = await session.get(peer.url)
                content = response.content
            assert (content, response.history[0].content, response.history[0].text) == (b"ok", b"moved", "moved")
            assert response.connection.reused and response.connection.id == response.history[0].connection.id


@pytest.mark.parametrize(
    "rest",
    [b"Content-Length: 5\r\n\r\nmo", b"Transfer-Encoding: chunked\r\n\r\n5\r\nmo"],
    ids=["length", "chunked"],
)
async def test_a_short_one_that_comes_later_is_dropped_and_the_connection_is_used_again(
    world: World, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http11_body, "DRAIN_SECONDS", PATIENCE)  # however long the peer takes
    end = b"ved" if b"Length" in rest else b"ved\r\n0\r\n\r\n"
    steps = [expect_head(), send(moved("/x", rest=rest)), send(end), expect_head(b"GET /x "), send(OK)]
    with ScriptedPeer(steps) as peer:
        async with world.session(timeout=plugwire.Timeout(read=30)) as session:
            response = await session.get(peer.url)
            assert response.content == b"ok" and response.connection.reused
            hop = response.history[0]
            assert hop.is_closed
            if not hop.is_read:  # the second piece came after the head
                with pytest.raises(plugwire.BodyUnread):
                    _ = hop.content


async def test_a_long_one_costs_the_connection_and_no_memory(world: World) -> None:
    head = moved("/x", rest=b"Content-Length: %d\r\n\r\n" % LARGE)
    with ScriptedPeer([expect_head(), send(head + bytes(100_000))], [expect_head(b"GET /x "), send(OK)]) as peer:
        async with world.session(limits=Limits(max_connections=1)) as session:
            response = await session.get(peer.url)
            assert response.content == b"ok" and not response.connection.reused
            assert not response.history[0].is_read


async def test_what_is_dropped_is_never_decoded(world: World) -> None:
    """A bomb in a redirect, in a coding and by its length: neither is what the caller asked for."""
    bomb = gzip.compress(bytes(10 << 20))
    rest = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(bomb), bomb)
    with ScriptedPeer([expect_head(), send(moved("/x", rest=rest)), expect_head(b"GET /x "), send(OK)]) as peer:
        async with world.session() as session:
            tracemalloc.start()
            response = await session.get(peer.url)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert response.content == b"ok" and peak < 5 << 20
            hop = response.history[0]
            assert not hop.is_read or hop.content == bomb


@pytest.mark.parametrize(
    "location", [b"file:///x", b"http:///", b"/x\r\nLocation: /y"], ids=["scheme", "no URL", "several"]
)
async def test_one_that_is_not_followed_leaves_nothing_open(world: World, location: bytes) -> None:
    """Neither a connection nor a warning that a response was dropped."""
    head = moved(location, rest=b"Content-Length: %d\r\n\r\n" % LARGE)
    with ScriptedPeer([expect_head(), send(head)]) as peer:
        async with world.session() as session:
            with pytest.raises(plugwire.Error) as caught:
                await session.get(peer.url)
            assert caught.value.connection is not None
            del caught
            gc.collect()
            assert session.stats().open == 0


async def test_a_second_hop_that_fails_leaves_nothing_open(world: World) -> None:
    steps = [expect_request(), send(moved("/x", 308)), expect_request(b"POST /x "), close()]
    with ScriptedPeer(steps) as peer:
        async with world.session() as session:
            with pytest.raises(plugwire.ConnectionClosed) as caught:
                await session.post(peer.url, content=b"x")
            assert (caught.value.attempts, caught.value.sent) == (2, True)
            assert session.stats().open == 0


# -- streams, handles, pushes --------------------------------------------------------------------------------------


async def test_a_stream_is_that_of_the_last_response(world: World) -> None:
    with Server() as server:
        async with world.session() as session:
            async with session.stream("GET", f"{server.url}/redirect/302/bytes/100000") as response:
                assert not response.is_read
                assert len(await response.read()) == 100_000
            assert [hop.status_code for hop in response.history] == [302]


async def test_a_handle_keeps_its_connection_for_what_is_on_it(world: World) -> None:
    with Server() as here:
        async with world.session() as session, await session.connect(here.url) as handle:
            first = await handle.open_request("GET", "/redirect/301/hello").send()
            assert (await first.read()).startswith(b"hello")
            assert first.connection.id == handle.info.id == first.history[0].connection.id
            assert session.stats().open == 1


async def test_a_redirect_elsewhere_leaves_the_handle_where_it_was(world: World) -> None:
    with ScriptedPeer([expect_head(b"GET /there "), send(OK)]) as there:
        steps = [expect_head(), send(moved(f"{there.url}/there")), expect_head(b"GET /again "), send(OK)]
        with ScriptedPeer(steps) as here:
            async with world.session() as session, await session.connect(here.url) as handle:
                leased = handle.info.id
                async with await handle.open_request("GET", "/away").send() as response:
                    assert await response.read() == b"ok"
                    assert response.connection.id != leased
                async with await handle.open_request("GET", "/again").send() as response:
                    assert response.connection.id == leased


async def test_a_push_that_is_answered_by_303_becomes_a_get(world: World) -> None:
    with Server() as server:
        async with world.session() as session, session.open_request("POST", f"{server.url}/redirect/303/echo") as push:
            await push.begin()
            await push.write(b"x" * 1000)
            async with await push.end() as response:
                await response.read()
                asked = response.json()
    assert (asked["method"], asked["length"], len(response.history)) == ("GET", 0, 1)
    assert server.calls[0].content == b"x" * 1000


async def test_a_push_that_must_be_sent_again_fails(world: World) -> None:
    with Server() as server:
        async with world.session() as session:
            for status in (307, 308):
                async with session.open_request("POST", f"{server.url}/redirect/{status}/echo") as push:
                    await push.begin()
                    await push.write(b"x")
                    with pytest.raises(plugwire.NotReplayable):
                        await push.end()
    assert len(server.calls) == 2


async def test_a_redirect_in_the_middle_of_a_push_is_followed_at_once(world: World) -> None:
    with ScriptedPeer(
        [expect_head(), receive(6), send(moved("/x", 303)), lambda connection: connection.read_end()],
        [expect_head(b"GET /x "), send(OK)],
    ) as peer:
        async with world.session() as session, session.open_request("PUT", peer.url) as push:
            await push.begin()
            until = time.monotonic() + PATIENCE
            while peer.accepted < 2:  # it is seen by one of the writes
                assert time.monotonic() < until
                await push.write(b"x")
            async with await push.end() as response:
                assert await response.read() == b"ok"


async def test_an_upload_that_is_redirected_in_the_middle_is_sent_again_as_a_whole(world: World) -> None:
    content = bytes(range(256)) * 40_000
    steps = [expect_head(), receive(1000), send(moved("/x", 307)), lambda connection: connection.read_end()]
    with ScriptedPeer(steps, [expect_request(b"PUT /x "), send(OK)]) as peer:
        async with world.session() as session:
            assert (await session.put(peer.url, content=content)).content == b"ok"
        assert peer.connections[1].received.endswith(content)


async def test_who_asks_first_keeps_the_content_for_the_target(world: World) -> None:
    """Expect: 100-continue; storage services answer so with 307 (RFC 9110, 10.1.1)."""
    steps = [expect_head(), send(moved("/x", 307)), expect_head(b"PUT /x "), send(b"HTTP/1.1 100 Continue\r\n\r\n")]
    with ScriptedPeer([*steps[:2], close()], [*steps[2:], receive(4), send(OK)]) as peer:
        async with world.session() as session:
            request = plugwire.Request("PUT", peer.url, content=b"once", expect_continue=30)
            assert (await session.send(request)).content == b"ok"
        assert b"once" not in peer.connections[0].received
        assert peer.connections[1].received.lower().count(b"expect: 100-continue") == 1


async def test_octets_beyond_ascii_reach_the_target_escaped(world: World) -> None:
    where = "/caf\u00e9/\u0433".encode()
    with ScriptedPeer([expect_head(), send(moved(where)), expect_head(b"GET /caf%C3%A9/%D0%B3 "), send(OK)]) as peer:
        async with world.session() as session:
            assert (await session.get(peer.url)).content == b"ok"


async def test_a_location_is_as_long_as_a_head_may_be(world: World) -> None:
    path = b"/" + b"x" * 20_000
    with ScriptedPeer([expect_head(), send(moved(path)), expect_head(b"GET " + path), send(OK)]) as peer:
        async with world.session() as session:
            assert (await session.get(peer.url)).content == b"ok"
    with ScriptedPeer([expect_head(), send(moved(path))]) as peer:
        async with world.session(limits=Limits(max_head_bytes=10_000)) as session:
            with pytest.raises(plugwire.LimitExceeded):
                await session.get(peer.url)


async def test_each_hop_goes_by_the_proxy_that_it_has(world: World) -> None:
    """The call's proxy for every hop; that of no_proxy for none."""
    with (
        ScriptedPeer([expect_head(b"GET /x HTTP/1.1\r\n"), send(OK)]) as direct,
        ScriptedPeer(
            [expect_head(b"GET http://a.example/ HTTP/1.1\r\n"), send(moved("http://b.example/x"))],
            [expect_head(b"GET http://b.example/x HTTP/1.1\r\n"), send(moved(f"{direct.url}/x"))],
        ) as peer,
    ):
        proxy = plugwire.Proxy(peer.url, no_proxy=("127.0.0.1",))
        async with world.session() as session:
            response = await session.get("http://a.example/", proxy=proxy)
            assert (response.content, len(response.history)) == (b"ok", 2)


# -- HTTP/2 --------------------------------------------------------------------------------------------------------


async def test_from_one_version_to_the_other(world: World) -> None:
    with Server(tls=True) as old, Server(tls=True, http_versions=("h2",)) as new:
        from dataclasses import replace

        assert old.tls_config is not None and new.tls_config is not None
        both = replace(old.tls_config, ca_data=f"{old.tls_config.ca_data}{new.tls_config.ca_data}")
        ways = {old.url: f"{new.url}/redirect/303/hello", new.url: f"{old.url}/hello"}

        class Ways:
            """Answers in place of the servers' own Location."""

            @plugwire.hookimpl
            async def around_send(self, request: Any, call_next: Any) -> Any:
                response = await call_next(request)
                if response.status_code == 307:
                    response.headers["location"] = f"{new.url}/redirect/303/x"
                elif response.status_code == 303:
                    response.headers["location"] = ways[new.url]
                return response

        async with world.session(tls=both, plugins=[Ways()]) as session:
            response = await session.post(f"{old.url}/redirect/307/x", content=b"content")
            versions = [hop.http_version for hop in [*response.history, response]]
            assert versions == ["HTTP/1.1", "HTTP/2", "HTTP/1.1"]
            assert response.text.startswith("hello")
    assert [request.method for request in old.calls] == ["POST", "GET"]
    assert [request.content for request in new.calls] == [b"content"]


async def test_hops_share_a_connection_of_http2(world: World) -> None:
    with Server(http_versions=("h2",)) as server:
        async with world.session(http_versions=("h2",)) as session:
            response = await session.get(f"{server.url}/redirect/301/redirect/302/redirect/303/hello")
            assert response.text.startswith("hello") and len(response.history) == 3
            assert {hop.connection.id for hop in response.history} == {response.connection.id}
            with pytest.raises(plugwire.NotReplayable):
                await session.post(f"{server.url}/redirect/307/echo", content=iter([b"x"]))
            with pytest.raises(plugwire.TooManyRedirects):
                await session.get(f"{server.url}/redirect/302/redirect/302/hello", max_redirects=1)
            assert session.stats()[:2] == (1, 1)


# -- real servers --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["nginx-http/1.1", "nginx-h2", "apache-http/1.1", "apache-h2"])
def where(request: pytest.FixtureRequest, nginx: Nginx, apache: Apache) -> tuple[str, str]:
    """The URL of a server, and the version that it speaks there."""
    name, _, version = request.param.partition("-")
    peer: Any = {"nginx": nginx, "apache": apache}[name]
    return (peer.url if version == "http/1.1" else peer.h2_url), version


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_real_servers_redirect(world: World, status: int, where: tuple[str, str], ca: Authority) -> None:
    url, version = where
    tls = plugwire.TLSConfig(ca_file=str(ca.cert_pem))
    async with world.session(tls=tls) as session:
        for method in ("GET", "HEAD", "POST"):
            response = await session.request(
                method, f"{url}/redirect/{status}", content=b"x" if method == "POST" else None
            )
            kept = method != "POST" or status in (307, 308)
            assert response.request.method == (method if kept else "GET")
            assert response.status_code in ((200, 405) if method == "POST" and kept else (200,))
            assert (response.url.path, len(response.history)) == ("/small", 1)
            assert response.http_version == ("HTTP/2" if version == "h2" else "HTTP/1.1")
        # Each server says in its own words where to go: whole URLs and paths.
        assert session.stats().open == 1


# -- what went wrong elsewhere -------------------------------------------------------------------------------------

OK_MOCK = Response(200)
EVERY_SECRET = [
    ("Authorization", b"Bearer " + SECRET),
    ("authorization", b"Digest " + SECRET),
    ("Cookie", b"a=" + SECRET),
    ("COOKIE", b"b=" + SECRET),
    ("Proxy-Authorization", b"Basic " + SECRET),
    ("proxy-authorization", b"Other " + SECRET),
]


async def sent_elsewhere(world: World, own: Any, status: int = 302, **given: Any) -> bytes:
    """What of a request with these headers arrives at another origin, after a redirect by the one that it was for."""
    with (
        ScriptedPeer([expect_request(), send(OK)]) as there,
        ScriptedPeer([expect_request(), send(moved(f"{there.url}/there", status))]) as here,
    ):
        async with world.session(**given) as session:
            assert (await session.request("POST", here.url, content=b"body", headers=own)).content == b"ok"
        assert SECRET in here.connections[0].received
        return bytes(there.connections[0].received)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_urllib3_cve_2018_20060_cve_2023_43804_cve_2024_37891_credentials_of_a_request_stay_with_their_origin(
    world: World, status: int
) -> None:
    """Authorization; then Cookie; then Proxy-Authorization: each was forgotten once. aiohttp: CVE-2026-34518."""
    for name, value in EVERY_SECRET:
        assert SECRET not in await sent_elsewhere(world, [(name, value)], status)


async def test_urllib3_cve_2026_44431_aiohttp_cve_2026_47265_every_copy_of_them_and_those_of_the_session(
    world: World,
) -> None:
    assert SECRET not in await sent_elsewhere(world, EVERY_SECRET)
    own = Headers(EVERY_SECRET)
    own.add("X-Api-Key", SECRET)
    own.secret |= {"x-api-key"}
    assert SECRET not in await sent_elsewhere(world, own)
    assert SECRET not in await sent_elsewhere(world, {"X-Api-Key": SECRET}, headers=own)
    with_auth = await sent_elsewhere(world, own, auth=("user", SECRET.decode()))
    assert SECRET not in with_auth and b"uthorization" not in with_auth


async def test_requests_cve_2023_32681_on_the_way_from_https_nothing_goes_to_http_or_another_port(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK)]) as there:
        steps = [expect_head(), send(moved(f"{there.url}/there"))]
        with ScriptedPeer(steps * 2, tls=True) as here:
            async with world.session(tls=here.tls_config, http_versions=("http/1.1",)) as session:
                with pytest.raises(plugwire.UnsafeRedirect):
                    await session.get(here.url, headers=EVERY_SECRET)
                assert there.accepted == 0
                allowed = {"allow_insecure_redirects": True}
                assert (await session.get(here.url, headers=EVERY_SECRET, options=allowed)).content == b"ok"
        assert SECRET not in there.connections[0].received


@pytest.mark.parametrize(
    ("origin", "target", "goes"),
    [
        ("http://a.example", "https://a.example", True),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "http://a.example", False),
        ("http://a.example", "https://a.example:8443", False),
    ],
)
async def test_guzzle_7_4_4_cve_2022_31043_and_cve_2022_31091_scheme_and_port_are_part_of_an_origin(
    world: World, origin: str, target: str, goes: bool
) -> None:
    mock = MockTransport({f"{origin}/": Response(302, headers={"Location": f"{target}/x"}), f"{target}/x": OK_MOCK})
    options = {"allow_insecure_redirects": True}
    async with world.session(transports=[mock], auth=("user", SECRET.decode())) as session:
        await session.get(origin, headers={"Cookie": SECRET}, options=options)
    first, second = (request.headers for request in mock.calls)
    assert "cookie" in first and "authorization" in first
    assert ("cookie" in second, "authorization" in second) == (goes, goes)


async def test_userinfo_of_a_location_is_never_used(world: World) -> None:
    with ScriptedPeer([expect_head(b"GET /x "), send(OK)]) as there:
        location = f"http://eve:{SECRET.decode()}@127.0.0.1:{there.port}/x"
        with ScriptedPeer([expect_head(), send(moved(location))]) as here:
            async with world.session() as session:
                response = await session.get(here.url)
                assert response.url.href == f"{there.url}/x"
        assert b"uthorization" not in there.connections[0].received and SECRET not in there.connections[0].received


async def test_urllib3_cve_2025_50181_a_limit_that_is_set_anywhere_holds_everywhere(world: World) -> None:
    """There, a limit of the pool manager's had no effect. Here: the session, a derived one, a call, a stream, a
    handle's request, a request that was made before."""

    async def refused(asked: Any) -> None:
        with pytest.raises(plugwire.TooManyRedirects):
            async with await asked:
                raise AssertionError("it was followed")

    with Server() as server:
        url = f"{server.url}/redirect/302/hello"
        for session_limit, call in ((0, {}), (20, {"max_redirects": 0})):
            async with world.session(max_redirects=session_limit) as session:
                for view in (session, session.derive(), session.derive(max_redirects=0)):
                    await refused(view.get(url, **call))
                    await refused(view.send(plugwire.Request("GET", url), **call))
                    await refused(view.open_request("GET", url, **call).send())
                    async with await view.connect(server.url, **call) as handle:
                        await refused(handle.open_request("GET", "/redirect/302/hello").send())
                    with pytest.raises(plugwire.TooManyRedirects):
                        async with view.stream("GET", url, **call):
                            raise AssertionError("it was followed")
        assert all(request.url.path != "/hello" for request in server.calls)


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_urllib3_cve_2023_45803_content_does_not_follow_a_request_that_became_get(
    world: World, status: int
) -> None:
    arrived = await sent_elsewhere(world, {"Content-Type": b"text/" + SECRET, "X-Other": "1"}, status)
    assert arrived.startswith(b"GET /there ") and arrived.endswith(b"\r\n\r\n")
    assert b"\r\nx-other: 1\r\n" in arrived.lower()
    assert b"content-" not in arrived.lower() and b"transfer-encoding" not in arrived.lower()
