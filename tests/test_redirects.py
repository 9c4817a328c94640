"""Redirects: the two decisions without a socket, and the plugin through sessions in every world. On the wire:
test_redirects_wire.py."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import plugwire
from plugwire import URL, Headers, Request, Response
from plugwire.drive import drive
from plugwire.events import Attempt, CallStep, Edge, Redirect
from plugwire.protocols import EMPTY, WatchedBody
from plugwire.testing import MockTransport
from plugwire.url import is_bound
from plugwire_plugins import RedirectOptions, Redirects, Retries, RetryPolicy
from plugwire_plugins.redirects import redirected, target_of

if TYPE_CHECKING:
    from plugwire.events import Event
    from worlds import World

A = "https://a.example"
B = "https://b.example"
SECRET = "t0p-secret"
STATUSES = (301, 302, 303, 307, 308)


def to(location: str, status: int = 302, **given: Any) -> Response:
    return Response(status, headers={"Location": location}, **given)


# -- where to ------------------------------------------------------------------------------------------------------

BASE = URL("https://user:pass@a.example:8443/one/two?q=1#part")
AT = "https://a.example:8443"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://b.example/x", "https://b.example/x#part"),
        ("HTTPS://B.example:443", "https://b.example/#part"),
        ("//b.example/x", "https://b.example/x#part"),
        ("/x?y", f"{AT}/x?y#part"),
        ("x", f"{AT}/one/x#part"),
        ("../../../x", f"{AT}/x#part"),
        ("./", f"{AT}/one/#part"),
        ("?other", f"{AT}/one/two?other#part"),
        ("#mine", f"{AT}/one/two?q=1#mine"),
        ("x#", f"{AT}/one/x#"),
        ("/a b", f"{AT}/a%20b#part"),
        ("/a|b\"c", f"{AT}/a|b%22c#part"),
        ("https://eve:pw@b.example/x", "https://b.example/x#part"),
        ("https://:pw@b.example/x", "https://b.example/x#part"),
        ("//eve@a.example:8443/x", f"{AT}/x#part"),
        ("http://a.example/x", "http://a.example/x#part"),
    ],
)  # fmt: skip
def test_a_location_means(location: str, target: str) -> None:
    assert target_of(BASE, location).href == target


@pytest.mark.parametrize("text", ["/caf\u00e9?\u00fc#\u00e4", "/\u0433\u0440\u0443", "https://b\u00fccher.example/x"])
def test_octets_beyond_ascii_are_utf_8(text: str) -> None:
    """Not allowed, and sent by many; a Headers gives octets as latin-1."""
    assert target_of(BASE, text.encode().decode("latin-1")) == BASE.without_userinfo().join(
        text if "#" in text else f"{text}#part"
    )


def test_octets_that_are_no_utf_8_go_back_as_they_came() -> None:
    assert target_of(BASE, "/caf\xe9").target == "/caf%E9"
    with pytest.raises(plugwire.ProtocolError):
        target_of(BASE, "//caf\xe9.example/")


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd", "javascript:alert(1)", "data:,x", "mem://host/", "ftp://h/", "ws://a.example:8443/",
        "http+unix://%2Frun%2Fx.sock/", "HTTP+UNIX://%2Frun%2Fx.sock/", "view-source:https://a.example/",
        "localhost:8080/x", "x" * 100_000 + ":",
    ],
)  # fmt: skip
def test_other_schemes_are_not_followed(location: str) -> None:
    with pytest.raises(plugwire.UnsafeRedirect, match="a redirect to the scheme '") as caught:
        target_of(BASE, location)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("base", ["http+unix://%2Frun%2Fdocker.sock/v1/x", "mem://host/x"])
def test_but_that_of_the_same_origin(base: str) -> None:
    url = URL(base)
    assert target_of(url, "/y").origin == url.origin
    assert target_of(url, url.copy_with(path="/y").href).path == "/y"
    for elsewhere in ("//other/x", f"{url.scheme}://%2Fother/x", f"{url.scheme}://{url.authority}:1/"):
        with pytest.raises(plugwire.UnsafeRedirect):
            target_of(url, elsewhere)


@pytest.mark.parametrize(
    "location",
    [
        "http:///x", "http:x", "https:/x", "\\\\b.example/", "/\\b.example/", "http://", "http://a@b@c/", "//h:99999/",
        "//[::1", "/a\tb", "http://good.example\\@evil.example/", "//good.example%00.evil.example/", "//h:port/",
    ],
)  # fmt: skip
def test_what_is_no_url_is_the_peers_fault(location: str) -> None:
    with pytest.raises(plugwire.ProtocolError, match="Location is no URL"):
        target_of(BASE, location)


def test_no_password_of_a_location_is_shown() -> None:
    with pytest.raises(plugwire.ProtocolError) as caught:
        target_of(BASE, f"https://eve:{SECRET}@host:99999/")
    assert SECRET not in str(caught.value) and SECRET not in repr(caught.value.__cause__)


# -- how -----------------------------------------------------------------------------------------------------------

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT", "Report")


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("method", METHODS)
def test_the_method_after_a_redirect(status: int, method: str) -> None:
    becomes_get = method == "POST" if status in (301, 302) else status == 303 and method not in ("GET", "HEAD")
    request = Request(method, A, content=b"content", headers={"X-Other": "1"})
    following = redirected(request, status, URL(f"{A}/x"))
    assert following.method == ("GET" if becomes_get else method)
    assert following.content == (b"" if becomes_get else b"content")
    assert following.url == URL(f"{A}/x")
    assert following.headers["x-other"] == "1"
    assert (request.method, request.content, request.url) == (method, b"content", URL(A))


CONTENT_FIELDS = (
    "Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Location", "Content-Range",
    "Content-Digest", "Content-MD5", "Content-Disposition", "Digest", "Repr-Digest", "Last-Modified",
    "Transfer-Encoding", "Trailer", "Expect",
)  # fmt: skip


def test_what_speaks_of_the_content_goes_with_it() -> None:
    headers = [(name, "1") for name in CONTENT_FIELDS] + [("Accept", "*/*"), ("If-Match", "x"), ("Contents", "1")]
    request = Request("POST", A, content=[b"x"], headers=headers, trailers=Headers, expect_continue=1.0)
    kept = redirected(request, 307, URL(A))
    assert (kept.trailers, kept.expect_continue, kept.body) == (Headers, 1.0, request.body)
    assert kept.headers == request.headers
    dropped = redirected(request, 303, URL(A))
    assert dropped.trailers is None and dropped.expect_continue is None and dropped.body is EMPTY
    assert list(dropped.headers) == ["Accept", "If-Match", "Contents"]
    assert request.trailers is Headers and "expect" in request.headers


def test_a_target_of_its_own_is_for_one_request() -> None:
    request = Request("OPTIONS", A)
    request.target = "*"
    assert redirected(request, 302, URL(f"{A}/x")).target is None


def test_the_way_of_the_request_stays() -> None:
    request = Request("GET", A)
    request.affinity, request.http_versions = object(), ("http/1.1",)
    request.tls, request.proxy = plugwire.TLSConfig(verify=False), None
    following = redirected(request, 302, URL(B))
    for name in ("affinity", "http_versions", "tls", "proxy"):
        assert getattr(following, name) is getattr(request, name)


BOUND_FIELDS = ("Authorization", "Cookie", "Proxy-Authorization", "Host", "X-Mine", "X-Session")


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("https://a.example/x", True),
        ("https://A.EXAMPLE:443/", True),
        ("http://a.example/", False),
        ("https://a.example:444/", False),
        ("https://sub.a.example/", False),
        ("https://a.example./", False),
        ("https://b.example/", False),
    ],
)
def test_what_is_for_one_origin_is_dropped_elsewhere(target: str, stays: bool) -> None:
    request = Request("GET", A, headers=[*((name, SECRET) for name in BOUND_FIELDS), ("X-Other", "1")])
    request.headers.secret |= {"x-mine"}
    following = redirected(request, 302, URL(target), {"x-session"})
    assert list(following.headers) == [*(BOUND_FIELDS if stays else ()), "X-Other"]


@pytest.mark.parametrize(
    ("origin", "target", "stays"),
    [
        ("http://a.example/", "https://a.example/", True),
        ("http://a.example:80/", "https://a.example:443/", True),
        ("http://a.example:8080/", "https://a.example/", False),
        ("http://a.example:8080/", "https://a.example:8080/", False),
        ("http://a.example/", "https://a.example:8443/", False),
        ("http://a.example/", "https://b.example/", False),
        ("https://a.example/", "http://a.example/", False),
    ],
)
def test_the_step_up_to_https_is_the_only_one_that_keeps_them(origin: str, target: str, stays: bool) -> None:
    request = Request("GET", origin, headers={"Authorization": SECRET})
    assert ("authorization" in redirected(request, 302, URL(target)).headers) is stays


def test_what_is_for_a_proxy_does_not_take_the_step_up_to_https() -> None:
    """There may be a proxy for http only; then the origin would get it."""
    headers = {"Authorization": "a", "Proxy-Authorization": SECRET}
    request = Request("GET", "http://a.example/", headers=headers)
    assert list(redirected(request, 302, URL("https://a.example/")).headers) == ["Authorization"]
    assert list(redirected(request, 302, URL("http://a.example/x")).headers) == list(headers)


def test_every_line_of_a_secret_goes_however_it_is_spelt() -> None:
    lines = [("COOKIE", "a=1"), ("cookie", "b=2"), ("aUthorization", SECRET), ("Authorization", SECRET)]
    lines += [("PROXY-authorization", SECRET), ("proxy-Authorization", SECRET), ("HOST", "h")]
    request = Request("GET", A, headers=lines)
    request.headers.secret = ()  # whatever is said of them: they are credentials
    assert not redirected(request, 302, URL(B)).headers


ORIGINS = st.sampled_from(
    ["http://a.example", "https://a.example", "https://a.example:8443", "http://a.example:8080", B, "http://b.example"]
)


@given(st.lists(ORIGINS, min_size=2, max_size=6), st.lists(st.sampled_from(STATUSES), min_size=6, max_size=6))
@example(["https://a.example", B, "https://a.example"], [302] * 6)
@example(["http://a.example", "https://a.example", "http://a.example"], [302] * 6)
def test_no_secret_reaches_an_origin_that_is_not_bound(origins: list[str], statuses: list[int]) -> None:
    """For any chain, insecure ones allowed: what the call was given goes to its origin only, what the request carries
    never comes back, and the session's secrets are for its origin."""
    chain = iter(zip(statuses, origins[1:], strict=False))

    def handler(request: Request) -> Response:
        following = next(chain, None)
        return to(f"{following[1].replace('://', '://eve:userinfo@')}/", following[0]) if following else Response(200)

    mock = MockTransport(handler)
    own = Headers({"Authorization": "own", "Cookie": "own", "X-Own": "own", "Host": "own"})
    own.secret |= {"x-own"}
    shared = Headers({"X-Shared": "shared", "X-Open": "open"})
    shared.secret |= {"x-shared"}
    home = URL(origins[0]).origin
    with plugwire.Session(transports=[mock], headers=shared, plugins=[Redirects(allow_insecure=True)]) as session:
        session.post(f"{origins[0]}/", content=b"x", headers=own, params={"q": "1"})
    were_bound = True
    assert len(mock.calls) == len(origins)
    for before, request in zip([None, *mock.calls], mock.calls, strict=False):
        were_bound = were_bound and (before is None or is_bound(before.origin, request.origin))
        values = list(request.headers.values())
        assert values.count("own") == (4 if were_bound else 0)
        assert values.count("shared") == is_bound(home, request.origin)
        assert request.headers["x-open"] == "open"
        assert not request.url.has_userinfo and "userinfo" not in repr(request.headers)
        if were_bound:
            assert is_bound(home, request.origin)


@given(st.text("htps:/\\@?#.a1[]%\x00\t \xff", max_size=30))
def test_any_location_is_a_url_or_refused(location: str) -> None:
    try:
        target = target_of(BASE, location)
    except (plugwire.UnsafeRedirect, plugwire.ProtocolError):
        return
    assert target.scheme in ("http", "https") and not target.has_userinfo and target.fragment is not None
    assert URL(target.href) == target


# -- through sessions ----------------------------------------------------------------------------------------------


def chain(*locations: str, status: int = 302) -> MockTransport:
    """Redirects through these, one after the other; the last one answers "end"."""
    answers = iter([*(to(location, status) for location in locations), Response(200, text="end")])
    return MockTransport(lambda request: next(answers))


def endless() -> MockTransport:
    return MockTransport(lambda request: to("/again"))


async def test_it_follows_and_keeps_the_history(world: World) -> None:
    mock = chain("/two", f"{B}/three#there", "four")
    async with world.session(transports=[mock]) as session:
        response = await session.get(f"{A}/one?q=1#here")
        assert (response.status_code, response.text) == (200, "end")
        assert str(response.url) == f"{B}/four#there"
        assert [str(hop.url) for hop in response.history] == [f"{A}/one?q=1#here", f"{A}/two#here", f"{B}/three#there"]
        assert [hop.status_code for hop in response.history] == [302] * 3
        assert [len(hop.history) for hop in response.history] == [0, 1, 2]
        assert all(hop.is_closed for hop in response.history)
    assert [request.url.target for request in mock.calls] == ["/one?q=1", "/two", "/three", "/four"]


def test_the_history_of_a_blocking_response_has_blocking_responses() -> None:
    with plugwire.Session(transports=[chain("/two")]) as session:
        response = session.get(A)
    assert [type(hop) for hop in response.history] == [Response]
    response.history[0].close()


async def test_a_response_with_a_history_can_be_pickled(world: World) -> None:
    async with world.session(transports=[chain("/two")]) as session:
        response = await session.get(A)
        again = pickle.loads(pickle.dumps(getattr(response, "waiting", response)))
    assert again.text == "end" and [hop.status_code for hop in again.history] == [302]
    assert again.history[0].is_closed
    with pytest.raises(plugwire.BodyUnread, match="closed"):
        _ = again.history[0].content


async def test_each_hop_is_an_event_between_two_attempts(world: World) -> None:
    seen: list[Event] = []
    async with world.session(transports=[chain("/two", f"https://eve:{SECRET}@b.example/", status=307)]) as session:
        await session.get(A, observe=seen.append)
    steps = [event for event in seen if isinstance(event, (CallStep, Attempt, Redirect))]
    kinds = [type(step).__name__ for step in steps]
    assert kinds == ["CallStep", *["Attempt", "Attempt", "Redirect"] * 2, "Attempt", "Attempt", "CallStep"]
    hops = [event for event in steps if isinstance(event, Redirect)]
    assert [(hop.status, str(hop.url), str(hop.target), hop.attempt) for hop in hops] == [
        (307, f"{A}/", f"{A}/two", 1),
        (307, f"{A}/two", f"{B}/", 2),
    ]
    assert [step.attempt for step in steps if isinstance(step, Attempt) and step.edge is Edge.STARTED] == [1, 2, 3]


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399, 201, 200])
async def test_other_statuses_are_responses_like_any_other(world: World, status: int) -> None:
    mock = MockTransport({"/": to("/x", status)})
    async with world.session(transports=[mock]) as session:
        response = await session.get(A)
        assert (response.status_code, response.history) == (status, [])


@pytest.mark.parametrize("headers", [[], [("Location", "")], [("Location", ""), ("Location", "")]])
async def test_without_a_location_there_is_nowhere_to_go(world: World, headers: Any) -> None:
    """An empty one would mean the same URL, for ever; nobody means that (curl, browsers and requests do not follow)."""
    async with world.session(transports=[MockTransport({"/": Response(302, headers=headers, text="x")})]) as session:
        response = await session.get(A)
        assert (response.status_code, response.text, response.history) == (302, "x", [])


async def test_several_locations_must_say_the_same(world: World) -> None:
    twice = Response(302, headers=[("Location", "/x"), ("location", "/x")])
    differ = Response(302, headers=[("Location", "/x"), ("Location", "/y")])
    mock = MockTransport({"/twice": twice, "/x": Response(200), "/differ": differ})
    async with world.session(transports=[mock]) as session:
        assert (await session.get(f"{A}/twice")).status_code == 200
        with pytest.raises(plugwire.ProtocolError, match="2 Location fields that differ"):
            await session.get(f"{A}/differ")


async def test_an_answer_to_connect_is_not_followed(world: World) -> None:
    async with world.session(transports=[endless()]) as session:
        response = await session.open_request("CONNECT", A).send()
        async with response:
            assert response.status_code == 302


async def test_follow_redirects_says_whether(world: World) -> None:
    async with world.session(transports=[endless()], follow_redirects=False) as session:
        assert (await session.get(A)).status_code == 302
        assert (await session.get(A, max_redirects=5)).status_code == 302
        with pytest.raises(plugwire.TooManyRedirects):
            await session.get(A, follow_redirects=True)
        with pytest.raises(plugwire.TooManyRedirects):
            await session.derive(follow_redirects=True).get(A)
    async with world.session(transports=[endless()]) as session:
        assert (await session.get(A, follow_redirects=False)).status_code == 302
        assert (await session.derive(follow_redirects=False).get(A)).status_code == 302
    async with world.session(transports=[endless()], defaults=False) as session:
        assert (await session.get(A)).status_code == 302


@pytest.mark.parametrize("limit", [0, 1, 3, None])
async def test_max_redirects_says_how_many(world: World, limit: int | None) -> None:
    given: Any = {} if limit is None else {"max_redirects": limit}
    most = 20 if limit is None else limit
    mock = endless()
    async with world.session(transports=[mock]) as session:
        with pytest.raises(plugwire.TooManyRedirects, match=f"max_redirects={most}") as caught:
            await session.get(A, **given)
        assert len(mock.calls) == most + 1
        error: Any = caught.value
        assert (error.phase, error.sent, error.attempts) == ("head", True, most + 1)
        assert error.response.status_code == 302 and len(error.response.history) == most
        assert error.request.url == mock.calls[-1].url
        kind = Response if world.name == "blocking" else plugwire.AsyncResponse
        assert {type(one) for one in (error.response, *error.response.history)} == {kind}
    exact = chain(*["/x"] * most)
    async with world.session(transports=[exact], **given) as session:
        assert len((await session.get(A)).history) == most


async def test_the_limit_of_a_session_of_a_derived_one_of_a_call_and_of_the_plugin(world: World) -> None:
    async def followed(session: Any, **options: Any) -> int:
        mock.calls.clear()
        with pytest.raises(plugwire.TooManyRedirects):
            await session.get(A, **options)
        return len(mock.calls) - 1

    mock = endless()
    async with world.session(transports=[mock], max_redirects=4) as session:
        assert await followed(session) == 4
        assert await followed(session, max_redirects=6) == 6
        assert await followed(session.derive(max_redirects=2)) == 2
        with pytest.raises(plugwire.TooManyRedirects):
            async with session.stream("GET", A, max_redirects=1):
                pass
    async with world.session(transports=[mock], plugins=[Redirects(3)]) as session:
        assert await followed(session) == 3
        assert await followed(session, max_redirects=2) == 2
        assert await followed(session, max_redirects=5) == 3


@pytest.mark.parametrize(
    "wrong",
    [{"max_redirects": -1}, {"max_redirects": True}, {"max_redirects": 1.0}, {"max_redirects": None},
     {"follow_redirects": 1}, {"follow_redirects": None}, {"follow_redirects": "no"}],
)  # fmt: skip
async def test_wrong_values_are_refused_before_any_io(world: World, wrong: dict[str, Any]) -> None:
    mock = endless()
    with pytest.raises(plugwire.UsageError):
        world.session(**wrong)
    async with world.session(transports=[mock]) as session:
        for call in (session.get, lambda url, **given: session.send(Request("GET", url), **given)):
            with pytest.raises(plugwire.UsageError):
                await call(A, **wrong)
        with pytest.raises(plugwire.UsageError):
            session.derive(**wrong)
    assert not mock.calls


@pytest.mark.parametrize("wrong", [{"max_redirects": -1}, {"max_redirects": True}, {"allow_insecure": 1}])
def test_so_are_those_of_the_plugin(wrong: dict[str, Any]) -> None:
    with pytest.raises(plugwire.UsageError):
        Redirects(**wrong)


async def test_from_https_to_http_only_if_asked_for(world: World) -> None:
    down = "http://a.example/x"
    mock = MockTransport({f"{A}/": to(down), f"{A}/x": to("/"), down: Response(200)})
    async with world.session(transports=[mock]) as session:
        for allowed in ({}, {"options": {"allow_insecure_redirects": False}}):
            mock.calls.clear()
            with pytest.raises(plugwire.UnsafeRedirect, match="allow_insecure_redirects") as caught:
                await session.get(A, **allowed)
            error: Any = caught.value
            assert (error.phase, error.sent, error.response.headers["location"]) == ("head", True, down)
            assert len(mock.calls) == 1
        assert (await session.get(A, options={"allow_insecure_redirects": True})).status_code == 200
        with pytest.raises(plugwire.UnknownOption):
            await session.get(A, options={"allow_insecure_redirects": "yes"})
    for allowing in ({"plugins": [Redirects(allow_insecure=True)]}, {"options": {"allow_insecure_redirects": True}}):
        async with world.session(transports=[mock], **allowing) as session:
            assert (await session.get(f"{A}/x")).status_code == 200
            with pytest.raises(plugwire.UnsafeRedirect):
                await session.get(A, options={"allow_insecure_redirects": False})


async def test_nor_from_a_socket_of_this_machine(world: World) -> None:
    mock = MockTransport(lambda request: to("http://a.example/") if request.url.scheme != "http" else Response(200))
    async with world.session(transports=[mock]) as session:
        with pytest.raises(plugwire.UnsafeRedirect):
            await session.get("http+unix://%2Frun%2Fx.sock/")


async def test_a_scheme_that_a_peer_names_begins_no_search(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[str] = []
    monkeypatch.setattr("plugwire.connector.entry_points", lambda group: searches.append(group) or {})
    async with world.session(transports=[MockTransport({"http://h/": to("strange://h/")})]) as session:
        with pytest.raises(plugwire.UnsafeRedirect, match="'strange'"):
            await session.get("http://h/")
    assert not searches


async def test_the_content_goes_along_where_the_method_does(world: World) -> None:
    mock = MockTransport(lambda request: to("/x", 308) if request.url.path == "/" else Response(200))
    async with world.session(transports=[mock]) as session:
        for content in (b"abc", [b"a", b"bc"], lambda: iter([b"abc"])):
            await session.put(A, content=content)
        await session.post(A, json={"a": 1})
        await session.post(A, data={"a": 1})
        await session.delete(A)
    contents = [b"abc"] * 6 + [b'{"a":1}'] * 2 + [b"a=1"] * 2 + [b""] * 2
    assert [request.content for request in mock.calls] == contents
    assert [request.headers.get("content-type") for request in mock.calls[6:10]] == [
        *["application/json"] * 2, *["application/x-www-form-urlencoded"] * 2
    ]  # fmt: skip


@pytest.mark.parametrize("status", [307, 308])
async def test_content_that_can_be_sent_once_is_not_sent_again(world: World, status: int) -> None:
    mock = MockTransport(lambda request: to(f"{B}/x", status))
    async with world.session(transports=[mock]) as session:
        with pytest.raises(plugwire.NotReplayable, match=f"to {B} by {status}") as caught:
            await session.post(A, content=iter([b"a"]))
        error = caught.value
        assert (error.phase, error.sent, error.replayable, error.attempts) == ("head", True, False, 1)
        assert error.request is not None and error.request.url == URL(A)
        response = await session.post(A, content=iter([b"a"]), follow_redirects=False)
        assert response.status_code == status
    assert len(mock.calls) == 2


async def test_but_a_redirect_that_does_not_want_it_is_followed(world: World) -> None:
    mock = chain("/x", status=303)
    async with world.session(transports=[mock]) as session:
        assert (await session.post(A, content=iter([b"a"]))).text == "end"
    assert [(request.method, request.content) for request in mock.calls] == [("POST", b"a"), ("GET", b"")]
    assert "content-length" not in mock.calls[1].headers


async def test_the_calls_auth_is_for_its_origin_and_welcome_at_home(world: World) -> None:
    mock = chain("/x", f"{B}/x", f"{A}/y")
    async with world.session(transports=[mock], auth=("user", SECRET)) as session:
        await session.get(A, headers={"X-Other": "1", "Cookie": SECRET})
    assert ["authorization" in request.headers for request in mock.calls] == [True, True, False, True]
    assert ["cookie" in request.headers for request in mock.calls] == [True, True, False, False]


async def test_user_and_password_of_the_first_url_are_for_its_origin_too(world: World) -> None:
    mock = chain("/x", f"{B}/x")
    async with world.session(transports=[mock]) as session:
        response = await session.get(f"https://user:{SECRET}@a.example/")
        assert response.url.href == f"{B}/x"
    assert ["authorization" in request.headers for request in mock.calls] == [True, True, False]


async def test_the_sessions_secrets_are_for_its_base_url(world: World) -> None:
    headers = Headers({"X-Api-Key": SECRET})
    headers.secret |= {"x-api-key"}
    mock = chain(f"{A}/x", f"{B}/x", f"{A}/y")
    async with world.session(transports=[mock], base_url=A, headers=headers) as session:
        await session.get("/", headers={"X-Api-Key": "of this call"})
    # That of the call took the place of the session's, is dropped on the way, and only the session's comes home.
    assert [request.headers.get("x-api-key") for request in mock.calls] == [
        "of this call", "of this call", None, SECRET
    ]  # fmt: skip


async def test_a_host_that_the_caller_gave_is_for_that_server(world: World) -> None:
    mock = chain("/x", f"{B}/x")
    async with world.session(transports=[mock]) as session:
        await session.get(A, headers={"Host": "virtual.example"})
    assert [request.headers["host"] for request in mock.calls] == ["virtual.example"] * 2 + ["b.example"]


async def test_each_hop_is_retried_by_itself(world: World) -> None:
    answers = iter([Response(503), to("/x"), Response(503), to("/y"), Response(503), Response(200)])
    mock = MockTransport(lambda request: next(answers))
    retries = Retries(policy=RetryPolicy(max_retries=1, backoff=0))
    async with world.session(transports=[mock], plugins=[retries]) as session:
        response = await session.get(A)
        assert (response.status_code, len(response.history)) == (200, 2)
    assert [request.url.path for request in mock.calls] == ["/", "/", "/x", "/x", "/y", "/y"]


async def test_an_error_on_the_way_says_how_many_attempts_there_were(world: World) -> None:
    answers: Any = iter([to("/x"), plugwire.ReadError("broken")])

    def handler(request: Request) -> Response:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    async with world.session(transports=[MockTransport(handler)]) as session:
        with pytest.raises(plugwire.ReadError) as caught:
            await session.get(A)
    assert caught.value.attempts == 2
    assert caught.value.request is not None and caught.value.request.url == URL(f"{A}/x")


@pytest.mark.parametrize(("method", "replayable"), [("GET", True), ("POST", False), ("PUT", True)])
async def test_whether_the_call_may_be_repeated_hangs_on_all_its_requests(
    world: World, method: str, replayable: bool
) -> None:
    """What failed is a GET; but with the call its POST would be repeated, too."""
    mock = MockTransport({"/": to("/x", 303), "/x": plugwire.ReadError("broken")})
    async with world.session(transports=[mock]) as session:
        with pytest.raises(plugwire.ReadError) as caught:
            await session.request(method, A, content=b"x")
    assert caught.value.request is not None and caught.value.request.method == "GET"
    assert caught.value.replayable is replayable


class Closing:
    """Watches every body at the stage `attempt`."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    @plugwire.hookimpl(stage="attempt")
    def around_read(self, body: Any) -> Any:
        ends = self.ends

        class Watched(WatchedBody):
            def ended(self, error: BaseException | None) -> None:
                ends.append(type(error).__name__)

        return Watched(body)


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (to("/", text="x"), {"max_redirects": 0}),
        (to("file:///x", text="x"), {}),
        (to("http://a.example/", text="x"), {}),
        (to("http:///", text="x"), {}),
        (Response(302, headers=[("Location", "/a"), ("Location", "/b")], text="x"), {}),
        (to("/", 307, text="x"), {"content": iter([b"x"])}),
    ],
    ids=["too many", "scheme", "insecure", "no URL", "several", "content"],
)
async def test_what_is_not_followed_is_closed(world: World, answer: Response, given: dict[str, Any]) -> None:
    closing = Closing()
    if "content" in given:
        given = {"content": iter([b"x"])}
    async with world.session(transports=[MockTransport(lambda request: answer)], plugins=[closing]) as session:
        with pytest.raises(plugwire.Error):
            await session.request("POST", A, **given)
    assert closing.ends == ["Discarded"]


def test_what_an_interrupt_left_undecided_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("plugwire_plugins.redirects.target_of", interrupted)
    closing = Closing()
    with plugwire.Session(transports=[endless()], plugins=[closing]) as session, pytest.raises(KeyboardInterrupt):
        session.get(A)
    assert closing.ends == ["Discarded"]


async def test_it_sees_what_an_outer_plugin_made_of_the_request(world: World) -> None:
    class Elsewhere:
        @plugwire.hookimpl
        async def around_call(self, request: Request, call_next: Any) -> Any:
            request.url = URL(f"{B}/from/there")
            return await call_next(request)

    mock = chain("x")
    async with world.session(transports=[mock], plugins=[Elsewhere()]) as session:
        await session.get(f"{A}/here")
    assert str(mock.calls[1].url) == f"{B}/from/x"


async def test_a_history_from_further_in_is_kept(world: World) -> None:
    class Inner:
        @plugwire.hookimpl(stage="retry")
        async def around_call(self, request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            response.history = [plugwire.AsyncResponse(399)]
            return response

    async with world.session(transports=[chain("/x", "/y")], plugins=[Inner()]) as session:
        response = await session.get(A)
        assert [hop.status_code for hop in response.history] == [399, 302, 399, 302, 399]


def test_explain_says_how_far_it_goes() -> None:
    def row(session: plugwire.Session, **options: Any) -> str:
        rows = [" ".join(line.split()) for line in session.explain(A, **options).splitlines()]
        return next(line for line in rows if "Redirects" in line).removeprefix("plugins ")

    with plugwire.Session() as session:
        assert row(session) == "redirect around_call Redirects max=20 default"
        assert row(session, max_redirects=3) == "redirect around_call Redirects max=3 default"
        assert row(session, follow_redirects=False) == "redirect around_call Redirects off default"
    with plugwire.Session(plugins=[Redirects(5, allow_insecure=True)]) as session:
        assert row(session) == "redirect around_call Redirects max=5, insecure ones too yours #1"
    assert RedirectOptions() == RedirectOptions(allow_insecure_redirects=None)


def test_what_is_no_redirect_does_not_enter_it() -> None:
    entered: list[int] = []

    class Counted(Redirects):
        @plugwire.hookimpl(stage="redirect", if_response=frozenset(STATUSES))
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            entered.append(1)
            return await super().around_call(request, call_next, call)

    mock = MockTransport({"/": Response(200), "/x": to("/"), "/y": Response(300, headers={"Location": "/"})})
    with plugwire.Session(transports=[mock], plugins=[Counted()]) as session:
        session.get(A)
        session.get(f"{A}/y")
        assert not entered
        session.get(f"{A}/x")
        assert entered == [1]


def test_a_plain_call_of_the_plugin_gives_what_comes() -> None:
    async def call_next(request: Request) -> plugwire.AsyncResponse:
        return plugwire.AsyncResponse(200)

    class Call:
        max_redirects = 20

    request: Any = Request("GET", A)
    assert drive(Redirects().around_call(request, call_next, Call())).status_code == 200  # type: ignore[arg-type]
