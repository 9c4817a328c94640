"""Cookies through sessions: the plugin in every world, over HTTP/1.1 and HTTP/2; `cookies=` and `session.cookies`."""

from __future__ import annotations

import http.cookiejar
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hpack import Decoder

import plugwire
from h2_peer import Conversation, H2Peer
from plugwire import Request, Response, UsageError, hookimpl
from plugwire.protocols import Cookie, CookieStore
from plugwire.testing import MockTransport
from plugwire.testing.peer import ScriptedPeer, expect_head, send
from plugwire_plugins import CookieJar, Cookies, DigestAuth, Retries

if TYPE_CHECKING:
    from pathlib import Path

    from peers import Authority
    from peers.nginx import Nginx
    from worlds import World

H1 = ("http/1.1",)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def setting(*lines: str, status: int = 200, **headers: str) -> Response:
    """A response with these Set-Cookie lines."""
    return Response(status, headers=[*(("Set-Cookie", line) for line in lines), *headers.items()], text="x")


def answered(line: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nSet-Cookie: " + line + b"\r\nContent-Length: 0\r\n\r\n"


def asked(mock: MockTransport) -> list[str | None]:
    """The Cookie field of each request."""
    return [call.headers.get("cookie") for call in mock.calls]


# -- on the wire ---------------------------------------------------------------------------------------------------


async def test_what_a_response_sets_goes_out_with_the_next_request(world: World) -> None:
    script = [
        expect_head(b"GET / HTTP/1.1\r\n"), send(answered(b"a=1; Path=/")), expect_head(), send(answered(b"b=2")),
        expect_head(), send(OK),
    ]  # fmt: skip
    with ScriptedPeer(script) as peer:
        async with world.session(http_versions=H1) as session:
            for _ in range(3):
                await session.get(peer.url)
            assert session.cookies["a"] == "1" and len(session.cookies) == 2
    heads = peer.received[0].split(b"\r\n\r\n")
    assert [b"Cookie" in head for head in heads[:3]] == [False, True, True]
    assert b"\r\nCookie: a=1" in heads[1] and b"\r\nCookie: a=1; b=2" in heads[2]


async def test_over_http2_cookies_go_out_once_and_are_never_indexed(world: World) -> None:
    blocks: list[bytes] = []

    def script(h2: Conversation) -> None:
        for _ in range(2):
            block = h2.await_block()
            blocks.append(b"".join(frame.data for frame in block.frames))
            h2.respond(block.stream_id, fields=[("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; Secure")])

    with H2Peer(script) as peer:
        async with world.session(http_versions=("h2",)) as session:
            for _ in range(2):
                response = await session.get(peer.url)
            assert response.http_version == "HTTP/2" and response.cookies == {"a": "1", "b": "2"}
            assert "a=1" not in repr(response.request.headers)
    decoder: Any = Decoder()
    first, second = ([field for field in decoder.decode(block) if field[0] == "cookie"] for block in blocks)
    assert first == []
    assert [(tuple(field), field.indexable) for field in second] == [(("cookie", "a=1; b=2"), False)]


@pytest.mark.parametrize("name", ["plain", "tls", "h2"])
async def test_nginx_gives_a_session(nginx: Nginx, ca: Authority, world: World, name: str) -> None:
    tls = plugwire.TLSConfig(ca_file=str(ca.cert_pem))
    url = nginx.url if name == "plain" else nginx.tls_url
    async with world.session(tls=tls, http_versions=("h2", "http/1.1") if name == "h2" else H1) as session:
        first = await session.get(f"{url}/fresh")
        value = session.cookies["session"]
        assert value == first.headers["x-request-id"]
        (cookie,) = session.cookies
        assert (cookie.path, cookie.http_only, cookie.host_only, cookie.expires) == ("/", True, True, None)
        again = await session.get(f"{url}/small")
        assert again.request.headers["cookie"] == f"session={value}"
        await session.get(f"{url}/fresh")
        assert session.cookies["session"] != value and len(session.cookies) == 1


# -- which responses and requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 302, 401, 404, 500])
async def test_every_final_response_may_set_cookies(world: World, status: int) -> None:
    mock = MockTransport({"/": [setting("a=1", status=status), Response(200)]})
    async with world.session(transports=[mock], follow_redirects=False) as session:
        await session.get("http://h/")
        await session.get("http://h/")
    assert asked(mock) == [None, "a=1"]


async def test_interim_responses_set_none(world: World) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nSet-Cookie: a=1\r\n\r\n"
    switching = b"HTTP/1.1 101 Switching Protocols\r\nSet-Cookie: b=1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    with ScriptedPeer([expect_head(), send(hints + OK), expect_head(), send(switching)]) as peer:
        async with world.session(http_versions=H1) as session:
            await session.get(peer.url)
            async with session.stream("GET", peer.url, headers={"Connection": "upgrade", "Upgrade": "x"}) as response:
                assert response.status_code == 101
            assert not session.cookies


async def test_urllib3_cve_2018_20060_cve_2023_43804_aiohttp_cve_2026_47265_no_cookie_follows_a_redirect_elsewhere(
    world: World,
) -> None:
    """Each hop has its cookies decided anew, those of the caller's own field are dropped, and each may set some."""
    evil = setting("all=evil; Domain=example.com", "e=5", status=302, location="https://a.example.com/end")
    mock = MockTransport(
        {
            "https://a.example.com/": setting("a=1", "all=2; Domain=example.com", status=302, location="/next"),
            "https://a.example.com/next": setting("n=3", status=302, location="https://b.example.com/"),
            "https://b.example.com/": setting("b=4", status=302, location="https://evil.example/"),
            "https://evil.example/": evil,
            "https://a.example.com/end": Response(302, headers={"Location": "http://a.example.com/open"}),
            "http://a.example.com/open": Response(200),
        }
    )
    async with world.session(transports=[mock], options={"allow_insecure_redirects": True}) as session:
        session.cookies.set("s", "0", domain="a.example.com", secure=True)
        response = await session.get("https://a.example.com/", headers={"Cookie": "own=9"})
        assert response.cookies == {} and [hop.cookies for hop in response.history][1:3] == [{"n": "3"}, {"b": "4"}]
    assert asked(mock) == [
        "own=9; s=0", "own=9; s=0; a=1; all=2", "all=2", None, "s=0; a=1; all=2; n=3", "a=1; all=2; n=3",
    ]  # fmt: skip


async def test_a_retry_has_the_cookies_of_the_answer_before_it(world: World) -> None:
    mock = MockTransport({"/": [setting("a=1", status=503), Response(200)]})
    async with world.session(transports=[mock], plugins=[Retries(random=lambda: 0.0)]) as session:
        assert (await session.get("http://h/")).ok
    assert asked(mock) == [None, "a=1"]


async def test_the_callers_own_cookie_field_is_kept_and_counts(world: World) -> None:
    mock = MockTransport({"/": Response(200)})
    own = [
        {"Cookie": "a=mine"}, {"Cookie": "b=mine;"}, [("Cookie", "a=mine"), ("cookie", "x=y")], {"Cookie": ""},
        {"Cookie": "token"},
    ]  # fmt: skip
    async with world.session(transports=[mock], cookies={"a": "1", "b": "2"}, base_url="https://h.example") as session:
        for headers in own:
            await session.get("/", headers=headers)
        session.headers["Cookie"] = "b=session"
        await session.get("/")
        await session.get("https://other.example/", headers={"Cookie": "z=1"})
    assert asked(mock) == [
        "a=mine; b=2", "b=mine; a=1", "a=mine; x=y; b=2", "a=1; b=2", "token; a=1; b=2", "b=session; a=1", "z=1",
    ]  # fmt: skip
    assert all(len(call.headers.get_list("cookie")) == 1 for call in mock.calls)


async def test_the_request_of_the_caller_stays_as_it_is(world: World) -> None:
    mock = MockTransport({"/": setting("a=1")})
    request = Request("GET", "http://h/")
    async with world.session(transports=[mock]) as session:
        for _ in range(2):
            await session.send(request)
    assert asked(mock) == [None, "a=1"] and "cookie" not in request.headers


async def test_nothing_that_a_server_sets_raises(world: World) -> None:
    lines = [b"", b"=", b";;;", b"\xff\xfe", b"a=b; Expires=99 Foo 99999; Max-Age=1e9; Domain=.; Path", b"=" * 5000,
             b"a=" + b"b" * 5000, b"x=1; Domain=com", b"__Host-x=1"]  # fmt: skip
    head = b"".join(b"Set-Cookie: " + line + b"\r\n" for line in lines)
    with ScriptedPeer([expect_head(), send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + head + b"\r\n"), expect_head(),
                       send(OK)]) as peer:  # fmt: skip
        async with world.session(http_versions=H1) as session:
            await session.get(peer.url)
            await session.get(peer.url)
            assert [(cookie.name, cookie.value) for cookie in session.cookies] == [("", "\xff\xfe"), ("a", "b")]
    assert b"\r\nCookie: \xff\xfe; a=b" in peer.received[0]


# -- the session's jar ---------------------------------------------------------------------------------------------


async def test_a_session_without_cookies_makes_no_jar(world: World) -> None:
    mock = MockTransport({"/": Response(200), "/set": setting("a=1")})
    async with world.session(transports=[mock]) as session:
        await session.get("http://h/")
        view = session.view
        assert not view.engine.jars and not view.has_jar
        await session.get("http://h/set")
        assert view.has_jar and len(view.engine.jars) == 1
        assert isinstance(session.cookies, CookieStore) and session.cookies is view.cookies


def test_nothing_of_it_is_imported_before_there_is_a_cookie() -> None:
    code = (
        "import sys, plugwire\n"
        "from plugwire.testing import MockTransport\n"
        "mock = MockTransport({'/': plugwire.Response(200)})\n"
        "with plugwire.Session(transports=[mock]) as session: session.get('http://h/')\n"
        "print([name for name in sys.modules if name.endswith(('cookie_jar', 'set_cookie', 'cookie_store', 'cookiejar',"
        " 'publicsuffixlist'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


async def test_the_plugin_is_not_entered_where_there_is_nothing_to_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []
    real = Cookies.around_send

    class Seen(Cookies):
        @hookimpl(stage="auth", if_request=Cookies.has_cookies, if_response="set-cookie")
        async def around_send(self, request: Request, call_next: Any, call: Any) -> Any:
            entered.append(request.url.path)
            return await real(self, request, call_next, call)

    mock = MockTransport({"/": Response(200), "/set": setting("a=1; Path=/"), "/else": Response(200)})
    async with world.session(transports=[mock], plugins=[Seen()]) as session:
        for url in ("h/", "h/set", "h/", "h/set", "other/else", "x.h/"):
            await session.get(f"http://{url}")
    assert entered == ["/set", "/", "/set", "/"]  # the last one for cookies of "h", which are not for those below
    assert asked(mock) == [None, None, "a=1", "a=1", None, None]


async def test_derived_sessions_share_the_jar(world: World) -> None:
    mock = MockTransport({"/": setting("a=1")})
    async with world.session(transports=[mock]) as session:
        derived = session.derive(base_url="http://h")
        await derived.get("/")
        assert derived.cookies is session.cookies
        await session.get("http://h/")
    assert asked(mock) == [None, "a=1"]


async def test_a_mapping_is_for_the_host_of_base_url(world: World) -> None:
    mock = MockTransport({"/": Response(200), "/v1/x": Response(200)})
    async with world.session(
        transports=[mock], base_url="https://api.example/v1", cookies={"sid": "s3cret"}
    ) as session:
        for url in ("x", "https://api.example/", "http://api.example/", "https://x.api.example/", "https://example/"):
            await session.get(url)
        assert list(session.cookies) == [
            Cookie("sid", "s3cret", "api.example", secure=True, created=next(iter(session.cookies)).created)
        ]
    assert asked(mock) == ["sid=s3cret", "sid=s3cret", None, None, None]


async def test_a_jar_of_ones_own_may_serve_several_sessions(world: World, tmp_path: Path) -> None:
    jar = CookieJar()
    mock = MockTransport({"/": setting("a=1; Max-Age=100")})
    async with (
        world.session(transports=[mock], cookies=jar) as one,
        world.session(transports=[mock], cookies=jar) as two,
    ):
        await one.get("http://h/")
        await two.get("http://h/")
        assert one.cookies is two.cookies is jar
    jar.save(tmp_path / "cookies.json")
    async with world.session(transports=[mock], cookies=CookieJar().load(tmp_path / "cookies.json")) as session:
        await session.get("http://h/")
    assert asked(mock) == [None, "a=1", "a=1"]


async def test_a_jar_of_the_standard_library_is_copied(world: World) -> None:
    filled = CookieJar()
    filled.set("a", "1", domain="h.example")
    theirs = filled.to_cookiejar()
    mock = MockTransport({"/": setting("b=2")})
    async with world.session(transports=[mock], cookies=theirs) as session:
        await session.get("http://h.example/")
        await session.get("http://x.h.example/")
        assert len(session.cookies) == 3 and len(list(theirs)) == 1
    assert asked(mock) == ["a=1", None]


@pytest.mark.parametrize("kind", [plugwire.Session, plugwire.AsyncSession])
def test_what_cookies_cannot_mean_is_refused(kind: Any) -> None:
    with pytest.raises(UsageError, match="base_url="):
        kind(cookies={"a": "s3cret"})
    for wrong in (1, "a=b", [("a", "b")]):
        with pytest.raises(UsageError, match="a mapping, a CookieJar"):
            kind(cookies=wrong)
    with pytest.raises(UsageError, match="type str"):
        kind(cookies={"a": 1}, base_url="http://h")
    for cookies in ({"a": "1"}, CookieJar(), http.cookiejar.CookieJar()):
        with pytest.raises(UsageError, match="no plugin 'cookies'"):
            kind(cookies=cookies, base_url="http://h", defaults=False)
    assert not kind(cookies={}).cookies
    assert len(kind(cookies={"a": "1"}, base_url="http://h", defaults=False, plugins=["cookies"]).cookies) == 1
    with pytest.raises(UsageError, match="keeps no cookies"):
        _ = kind(defaults=False).cookies
    with pytest.raises(TypeError, match="derive"):
        kind().derive(cookies={})


async def test_without_the_plugin_nothing_is_kept(world: World) -> None:
    mock = MockTransport({"/": setting("a=1")})
    async with world.session(transports=[mock], defaults=False) as session:
        assert (await session.get("http://h/")).cookies == {"a": "1"}
        await session.get("http://h/")
    assert asked(mock) == [None, None]


async def test_a_call_has_no_keyword_cookies(world: World) -> None:
    async with world.session() as session:
        with pytest.raises(TypeError, match=r"session\.cookies\.set.*Cookie"):
            await session.get("http://h/", cookies={"a": "1"})
    with pytest.raises(TypeError, match=r"session\.cookies\.set"):
        plugwire.get("http://h/", cookies={"a": "1"})  # type: ignore[call-arg]  # wrong on purpose


async def test_plugins_reach_the_jar(world: World) -> None:
    class Consent:
        @hookimpl
        async def session_opened(self, session: Any) -> None:
            assert not session.has_jar
            session.cookies.set("consent", "yes", domain="h.example")

    mock = MockTransport({"/": Response(200)})
    async with world.session(transports=[mock], plugins=[Consent()]) as session:
        await session.get("http://h.example/")
    assert asked(mock) == ["consent=yes"]


async def test_no_event_or_explanation_shows_a_value(world: World) -> None:
    shown: list[str] = []

    def watch(event: object) -> None:
        shown.append(repr(event))

    with ScriptedPeer([expect_head(), send(answered(b"a=s3cret")), expect_head(), send(OK)]) as peer:
        async with world.session(http_versions=H1) as session:
            for _ in range(2):
                response = await session.get(peer.url, observe=watch)
                shown.extend([repr(response), repr(response.headers), repr(response.request.headers)])
            shown.extend([session.explain(peer.url), repr(session), repr(session.cookies), repr(list(session.cookies))])
    assert "s3cret" not in " ".join(shown)


async def test_a_challenge_that_auth_answers_by_itself_sets_cookies_too(world: World) -> None:
    """Servers tie a login to a session that begins with the 401."""
    challenge = {"www-authenticate": 'Digest realm="r", nonce="n", qop="auth"', "set-cookie": "sid=1; Path=/"}
    mock = MockTransport({"/": [Response(401, headers=challenge), Response(200)]})
    async with world.session(transports=[mock], auth=DigestAuth("user", "password")) as session:
        assert (await session.get("http://h/")).status_code == 200
    assert asked(mock) == [None, "sid=1"]
