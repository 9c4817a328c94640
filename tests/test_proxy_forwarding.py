"""http by way of an HTTP proxy: requests in absolute-form (RFC 9112, 3.2.2), in every world."""

from __future__ import annotations

from typing import Any

import pytest

import plugwire
from plugwire import Proxy, TLSConfig, UsageError
from plugwire.events import Edge, Event, Send
from plugwire.testing import ScriptedPeer, Server
from plugwire.testing.peer import close, expect, expect_request, send
from proxy_peer import WANTS, WANTS_MUCH, Challenge, ProxyPeer
from worlds import World

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BARE: dict[str, Any] = {"defaults": False}


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("http://h.example", "http://h.example/", "h.example"),
        ("http://h.example:8080/a?b=c#d", "http://h.example:8080/a?b=c", "h.example:8080"),
        ("http://h.example:80/a%20b", "http://h.example/a%20b", "h.example"),
        ("http://[2001:db8::1]/", "http://[2001:db8::1]/", "[2001:db8::1]"),
        ("http://[2001:db8::1]:81/", "http://[2001:db8::1]:81/", "[2001:db8::1]:81"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
    ],
)
async def test_the_target_is_the_whole_url(world: World, url: str, line: str, host: str) -> None:
    want = f"GET {line} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    with ScriptedPeer([expect(want), send(ANSWER)]) as proxy:
        async with world.session(proxy=proxy.url, **BARE) as session:
            assert (await session.get(url)).text == "ok"


async def test_the_target_that_a_request_brings(world: World) -> None:
    lines = [b"OPTIONS http://h:8001 HTTP/1.1\r\n", b"GET http://h:8001/a/../b HTTP/1.1\r\n"]
    with ScriptedPeer([expect_request(lines[0]), send(ANSWER), expect_request(lines[1]), send(ANSWER)]) as proxy:
        async with world.session(proxy=proxy.url, **BARE) as session:
            for method, target in (("OPTIONS", "*"), ("GET", "/a/../b")):
                request = plugwire.Request(method, "http://h:8001/")
                request.target = target
                assert (await session.send(request)).ok


async def test_connect_is_not_handed_to_a_proxy_that_would_obey_it(world: World) -> None:
    with ScriptedPeer([]) as proxy:
        async with world.session(proxy=proxy.url) as session, await session.connect("http://h/") as handle:
            with pytest.raises(UsageError, match="the proxy would make that tunnel"):
                await handle.open_request("CONNECT", "elsewhere:443").send()


async def test_a_connection_is_used_again_for_its_origin_only(world: World) -> None:
    with ProxyPeer(lambda head: ANSWER) as proxy:
        async with world.session(proxy=proxy.url) as session:
            for url in ("http://a/1", "http://b/1", "http://a/2", "http://b/2"):
                await session.get(url)
    assert proxy.connections == [0, 1, 0, 1]


async def test_what_is_for_the_proxy_goes_to_the_proxy_and_nowhere_else(world: World) -> None:
    events: list[Event] = []
    settings = Proxy("http://ich:geheim@127.0.0.1", headers=(("X-Token", "geheim"),))
    with ProxyPeer(lambda head: ANSWER) as proxy:
        settings = Proxy(proxy.url, auth=settings.auth, headers=settings.headers)
        async with world.session(proxy=settings, auth=("me", "password"), headers={"Cookie": "a=b"}) as session:
            response = await session.get("http://h/", observe=events.append)
    head = proxy.heads[0].decode()
    assert "\r\nProxy-Authorization: Basic aWNoOmdlaGVpbQ==\r\n" in head
    assert "\r\nX-Token: geheim\r\n" in head
    assert "\r\nAuthorization: Basic bWU6cGFzc3dvcmQ=\r\n" in head
    assert "\r\nCookie: a=b\r\n" in head
    names = {name.lower() for name in response.request.headers}
    assert names.isdisjoint({"proxy-authorization", "x-token"})
    [sent] = [event.request.headers for event in events if isinstance(event, Send) and event.edge is Edge.STARTED]
    assert sent["x-token"] == "geheim"
    assert "geheim" not in repr(events) + repr(sent) and "aWNo" not in repr(events) + repr(sent)


async def test_the_next_hop_gets_no_credentials_of_the_first_cve_2023_32681(world: World) -> None:
    """One session, two proxies and a direct way: the credentials of one are not sent on the others."""
    with ProxyPeer(lambda head: ANSWER) as one, ProxyPeer(lambda head: ANSWER) as other, Server() as server:
        proxies = {
            "all://one": Proxy(one.url, auth=("ich", "geheim")),
            "all://other": other.url,
        }
        async with world.session(proxy=proxies) as session:
            await session.get("http://one/")
            await session.get("http://other/")
            await session.get(f"{server.url}/hello")
    assert b"Proxy-Authorization" in one.heads[0]
    assert b"Proxy-Authorization" not in other.heads[0]
    assert "proxy-authorization" not in server.calls[0].headers


async def test_a_407_is_a_response_like_others(world: World) -> None:
    with ScriptedPeer([expect_request(), send(WANTS)]) as proxy:
        async with world.session(proxy=proxy.url) as session:
            response = await session.get("http://h/")
    assert (response.status_code, response.text) == (407, "who?")
    assert response.headers["proxy-authenticate"] == "Test one"


# -- an https proxy ------------------------------------------------------------------------------------------------


async def test_tls_to_the_proxy_is_not_tls_to_the_origin(world: World) -> None:
    with ProxyPeer(lambda head: ANSWER, tls=True) as proxy:
        settings = Proxy(proxy.url, tls=proxy.tls_config)
        async with world.session(proxy=settings) as session:
            response = await session.get("http://h/")
            assert response.text == "ok"
            assert response.connection.tls is None
        # Neither the session's settings count for the proxy, nor is it trusted unasked.
        for session_tls in (proxy.tls_config, TLSConfig(verify=False)):
            async with world.session(proxy=proxy.url, tls=session_tls) as session:
                with pytest.raises(plugwire.CertificateError):
                    await session.get("http://h/")
    assert proxy.lines == [b"GET http://h/ HTTP/1.1"]


# -- authentication ------------------------------------------------------------------------------------------------


def demanding(head: bytes) -> bytes:
    """Wants "Test 1" of whoever asks; behind it stands an origin that wants "Origin" of its own."""
    if b"\r\nProxy-Authorization: Test 1\r\n" not in head:
        return WANTS
    if b"\r\nAuthorization: Origin\r\n" not in head:
        return b"HTTP/1.1 401 No\r\nWWW-Authenticate: Origin\r\nContent-Length: 0\r\n\r\n"
    return ANSWER


class OriginAuth:
    async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
        response = await call_next(request)
        if response.status_code == 401:
            assert response.headers["www-authenticate"] == "Origin"
            request.headers["Authorization"] = "Origin"
            response = await call_next(request)
        return response


async def test_proxy_and_origin_ask_for_credentials_apart(world: World) -> None:
    auth = Challenge()
    with ProxyPeer(demanding) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=auth), auth=OriginAuth()) as session:
            response = await session.post("http://h/x", content=b"abc")
            assert response.text == "ok"
            assert response.request.headers["authorization"] == "Origin"
            assert "proxy-authorization" not in response.request.headers
            assert session.stats()[:2] == (1, 1)
    assert set(proxy.connections) == {0}
    assert [b"\r\nAuthorization: Origin" in head for head in proxy.heads] == [False, False, True, True]
    assert auth.seen == [
        (f"{proxy.url}/", "http://h/x", 401, "Test one"),
        (f"{proxy.url}/", "http://h/x", 407, None),  # the origin's own 401, which is none of its business
        (f"{proxy.url}/", "http://h/x", 401, "Test one"),
        (f"{proxy.url}/", "http://h/x", 200, None),
    ]


async def test_a_proxy_that_closes_behind_its_challenge_is_dialled_again(world: World) -> None:
    def closing(head: bytes) -> bytes:
        answer = demanding(head)
        return answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") if answer is WANTS else ANSWER

    with ProxyPeer(closing) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Challenge())) as session:
            for path in ("a", "b"):
                response = await session.post(f"http://h/{path}", content=b"abc")
                assert response.text == "ok"
                assert session.stats()[:2] == (1, 1)
    # The first closed, the second asked again for "b" and closed, the third.
    assert proxy.connections == [0, 1, 1, 2]


async def test_a_challenge_that_the_auth_object_leaves_unread(world: World) -> None:
    answers = iter([WANTS_MUCH, ANSWER])
    with ProxyPeer(lambda head: next(answers)) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Challenge())) as session:
            assert (await session.get("http://h/")).text == "ok"
    assert proxy.connections == [0, 0]


async def test_a_redirect_takes_the_proxy_of_its_target(world: World) -> None:
    """And not the credentials for the one before."""
    away = b"HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n"
    with ProxyPeer(lambda head: away) as one, ProxyPeer(lambda head: ANSWER) as other:
        proxies = {"all": Proxy(one.url, auth=("ich", "geheim")), "all://other": other.url}
        async with world.session(proxy=proxies) as session:
            assert (await session.get("http://h/")).text == "ok"
    assert other.lines == [b"GET http://other/ HTTP/1.1"]
    assert b"Proxy-Authorization" not in other.heads[0]


async def test_credentials_that_are_not_accepted_end_in_a_407(world: World) -> None:
    with ProxyPeer(lambda head: WANTS) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Challenge(("Test 2", "Test 3")))) as session:
            response = await session.get("http://h/")
            assert (response.status_code, response.text) == (407, "who?")
            assert response.headers["proxy-authenticate"] == "Test one"
            assert session.stats()[:2] == (1, 1)
    assert len(proxy.heads) == 3


async def test_a_body_that_can_be_sent_only_once_is_not_sent_twice(world: World) -> None:
    with ProxyPeer(lambda head: WANTS) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Challenge())) as session:
            with pytest.raises(plugwire.NotReplayable, match="the proxy wants credentials first"):
                await session.post("http://h/", content=iter([b"abc"]), headers={"Content-Length": "3"})
            assert session.stats().open <= 1


async def test_an_auth_object_that_gives_no_response_is_named(world: World) -> None:
    class Broken:
        async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
            await (await call_next(request)).close()

    with ProxyPeer(lambda head: ANSWER) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=Broken())) as session:
            with pytest.raises(plugwire.PluginError, match="Broken returned NoneType"):
                await session.get("http://h/")


async def test_a_proxy_that_closed_an_idle_connection_is_asked_anew(world: World) -> None:
    with ScriptedPeer(
        [expect_request(), send(ANSWER), expect_request(), close()], [expect_request(), send(ANSWER)]
    ) as proxy:
        async with world.session(proxy=proxy.url) as session:
            assert (await session.get("http://h/")).ok
            assert (await session.get("http://h/")).ok


async def test_an_error_has_the_callers_own_request(world: World) -> None:
    with ScriptedPeer([expect_request(), close()]) as proxy:
        async with world.session(proxy=Proxy(proxy.url, auth=("ich", "geheim"))) as session:
            with pytest.raises(plugwire.ConnectionClosed) as caught:
                await session.post("http://h/")
    assert caught.value.request is not None
    assert "proxy-authorization" not in caught.value.request.headers
    assert caught.value.request.target is None
