"""Every route of httpbin, through every world: what it says that it does must come out as that.

`@route(rule)` marks the check of one or more rules of httpbin's `url_map`. A rule that has neither a check nor a reason
in `LEFT_OUT` fails `test_no_route_is_forgotten`, so a new version of httpbin with a new route is seen.
"""

from __future__ import annotations

import json
import logging
import uuid
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import plugwire
from peers.httpbin import HTTPBin
from plugwire import HTTPStatusError, ProtocolError, ReadError, ReadTimeout, Timeout, TooManyRedirects
from plugwire_plugins import BearerAuth, DigestAuth
from worlds import World

Check = Callable[[Any], Coroutine[Any, Any, None]]

CHECKS: dict[str, Check] = {}
LEFT_OUT = {"/static/<path:filename>": "files of the landing page"}


def route(*rules: str) -> Callable[[Check], Check]:
    def mark(check: Check) -> Check:
        for rule in rules:
            assert rule not in CHECKS
            CHECKS[rule] = check
        return check

    return mark


# -- methods and content -------------------------------------------------------------------------------------------

FIELDS = {"name": "Ada", "tags": ["a", "b"], "word": "ü & ="}


async def content_arrives(session: Any, method: str, path: str) -> None:
    """The same content in every form that it may have."""
    said = (await session.request(method, path, params={"q": ["1", "2"], "e": ""}, data=FIELDS)).json()
    assert (said["args"], said["form"]) == ({"q": ["1", "2"], "e": ""}, FIELDS)
    said = (await session.request(method, path, json={"ä": [1, None]})).json()
    assert (said["json"], said["headers"]["Content-Type"]) == ({"ä": [1, None]}, "application/json")
    said = (await session.request(method, path, content="grüß")).json()
    assert (said["data"], said["headers"]["Content-Length"]) == ("grüß", "6")
    said = (await session.request(method, path, content=iter([b"in ", b"pieces"]))).json()
    assert (said["data"], said["headers"]["Transfer-Encoding"]) == ("in pieces", "chunked")
    said = (await session.request(method, path, data=FIELDS, files={"up": ("a.txt", b"text", "text/plain")})).json()
    assert (said["form"], said["files"]) == (FIELDS, {"up": "text"})


@route("/post")
async def post(session: Any) -> None:
    await content_arrives(session, "POST", "/post")


@route("/put")
async def put(session: Any) -> None:
    await content_arrives(session, "PUT", "/put")


@route("/patch")
async def patch(session: Any) -> None:
    await content_arrives(session, "PATCH", "/patch")


@route("/delete")
async def delete(session: Any) -> None:
    await content_arrives(session, "DELETE", "/delete")


@route("/get")
async def get(session: Any) -> None:
    said = (await session.get("/get", params={"q": "a b", "ü": "é"})).json()
    assert said["args"] == {"q": "a b", "ü": "é"}
    assert (await session.post("/get")).status_code == 405
    head = await session.head("/get")
    assert (head.content, head.headers.get_int("content-length")) > (b"", 0)
    assert (await session.options("/get")).headers["allow"].count("GET") == 1


@route("/anything", "/anything/<path:anything>")
async def anything(session: Any) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
        assert (await session.request(method, "/anything")).json()["method"] == method
    response = await session.get("/anything/a b/ü/%2F?x=%26#here")
    assert response.json()["url"].endswith("/anything/a%20b/ü//?x=%26")
    assert response.url.fragment == "here"


# -- what of the request arrives -----------------------------------------------------------------------------------


@route("/headers")
async def headers(session: Any) -> None:
    said = (await session.get("/headers", headers=[("x-two", "a"), ("x-two", "b"), ("X-Empty", "")])).json()["headers"]
    assert (said["X-Two"], said["X-Empty"]) == ("a,b", "")
    assert said["Accept-Encoding"] == "gzip, deflate, br, zstd"


@route("/ip")
async def ip(session: Any) -> None:
    assert (await session.get("/ip")).json() == {"origin": "127.0.0.1"}


@route("/user-agent")
async def user_agent(session: Any) -> None:
    assert (await session.get("/user-agent")).json() == {"user-agent": f"plugwire/{plugwire.__version__}"}
    assert (await session.get("/user-agent", headers={"user-agent": "me"})).json() == {"user-agent": "me"}


# -- formats -------------------------------------------------------------------------------------------------------

PAGES = {
    "/": ("text/html", "httpbin"),
    "/html": ("text/html", "Moby-Dick"),
    "/robots.txt": ("text/plain", "Disallow: /deny"),
    "/deny": ("text/plain", "YOU SHOULDN'T BE HERE"),
    "/forms/post": ("text/html", '<form method="post" action="/post">'),
    "/xml": ("application/xml", "Wake up to WonderWidgets!"),
    "/encoding/utf8": ("text/html", "∮ E⋅da = Q"),
}


@route(*PAGES)
async def pages(session: Any) -> None:
    for path, (kind, part) in PAGES.items():
        response = (await session.get(path)).raise_for_status()
        assert response.headers["content-type"].startswith(kind)
        assert part in response.text


@route("/json")
async def json_document(session: Any) -> None:
    assert (await session.get("/json")).json()["slideshow"]["author"] == "Yours Truly"


@route("/uuid")
async def uuid4(session: Any) -> None:
    assert uuid.UUID((await session.get("/uuid")).json()["uuid"]).version == 4


@route("/base64/<value>")
async def base64_text(session: Any) -> None:
    assert (await session.get("/base64/R3LDvMOfZQ==")).text == "Grüße"


IMAGES = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF", "svg": b"<svg"}


@route("/image", *[f"/image/{kind}" for kind in IMAGES])
async def images(session: Any) -> None:
    for kind, magic in IMAGES.items():
        by_path = await session.get(f"/image/{kind}")
        by_type = await session.get("/image", headers={"accept": by_path.headers["content-type"]})
        assert magic in by_path.content[:300]
        assert by_type.content == by_path.content
        assert len(by_path.content) == by_path.headers.get_int("content-length")
    assert (await session.get("/image", headers={"accept": "image/gif"})).status_code == 406


# -- codings and pieces --------------------------------------------------------------------------------------------

CODINGS = {"gzip": "gzipped", "deflate": "deflated", "brotli": "brotli"}


@route(*[f"/{coding}" for coding in CODINGS])
async def content_codings(session: Any) -> None:
    for coding, mark in CODINGS.items():
        response = await session.get(f"/{coding}")
        assert response.json()[mark] is True
        assert response.headers["content-encoding"] == ("br" if coding == "brotli" else coding)
        as_sent = await session.get(f"/{coding}", options={"decode_content": False})
        assert len(as_sent.content) == as_sent.headers.get_int("content-length") != len(response.content)


@route("/stream/<int:n>")
async def lines(session: Any) -> None:
    async with session.stream("GET", "/stream/20") as response:
        assert [json.loads(line)["id"] async for line in response.iter_lines()] == list(range(20))


@route("/bytes/<int:n>", "/stream-bytes/<int:n>")
async def random_bytes(session: Any) -> None:
    whole = (await session.get("/bytes/5000?seed=7")).content
    assert len(whole) == 5000
    async with session.stream("GET", "/stream-bytes/5000?seed=7&chunk_size=13") as response:
        pieces = [piece async for piece in response.iter_bytes(512)]
    assert [len(piece) for piece in pieces] == [512] * 9 + [392]
    assert b"".join(pieces) == whole


@route("/range/<int:numbytes>")
async def ranges(session: Any) -> None:
    whole = await session.get("/range/1000")
    part = await session.get("/range/1000", headers={"range": "bytes=10-35"})
    assert (part.status_code, part.content) == (206, whole.content[10:36])
    assert part.headers["content-range"] == "bytes 10-35/1000"
    assert (await session.get("/range/1000", headers={"range": "bytes=2000-"})).status_code == 416


@route("/drip", "/delay/<delay>")
async def slowly(session: Any) -> None:
    response = await session.get("/drip?numbytes=3&duration=0&code=202")
    assert (response.status_code, response.content) == (202, b"***")
    assert (await session.post("/delay/0", data={"a": "b"})).json()["form"] == {"a": "b"}
    with pytest.raises(ReadTimeout) as caught:
        await session.get("/delay/1", timeout=Timeout(read=0.05))
    assert (caught.value.phase, caught.value.replayable) == ("head", True)


# -- statuses, caching, links --------------------------------------------------------------------------------------


@route("/status/<codes>")
async def statuses(session: Any) -> None:
    for status in (200, 204, 304, 402, 418, 500, 599):
        response = await session.put(f"/status/{status}")
        assert (response.status_code, response.ok) == (status, status < 400)
        if status >= 400:
            with pytest.raises(HTTPStatusError, match=str(status)):
                response.raise_for_status()
    assert (await session.get("/status/200,500")).status_code in (200, 500)
    # As final statuses these two break the protocol. "close", or httpbin waits before it closes.
    with pytest.raises(ReadError, match="interim"):
        await session.get("/status/100", headers={"connection": "close"})
    with pytest.raises(ProtocolError, match="101"):
        await session.get("/status/101", headers={"connection": "close"})


@route("/cache", "/cache/<int:value>", "/etag/<etag>")
async def caching(session: Any) -> None:
    first = await session.get("/cache")
    assert first.headers.get_date("last-modified") is not None
    again = await session.get("/cache", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await session.get("/cache/60")).headers["cache-control"] == "public, max-age=60"
    assert (await session.get("/etag/one", headers={"if-none-match": '"one"'})).status_code == 304
    assert (await session.get("/etag/one", headers={"if-match": '"two"'})).status_code == 412
    assert (await session.get("/etag/one")).headers["etag"] == "one"


@route("/response-headers")
async def response_headers(session: Any) -> None:
    for method in ("GET", "POST"):
        response = await session.request(method, "/response-headers", params={"x-a": ["1", "2"], "x-b": "c d"})
        assert response.headers.get_list("X-A") == ["1", "2"]
        assert (response.headers["x-a"], response.headers["x-b"]) == ("1, 2", "c d")


@route("/links/<int:n>", "/links/<int:n>/<int:offset>")
async def links(session: Any) -> None:
    response = await session.get("/links/3")
    assert [one.status_code for one in response.history] == [302]
    assert response.url.path == "/links/3/0"
    assert "/links/3/2" in response.text


# -- redirects -----------------------------------------------------------------------------------------------------


@route("/redirect/<int:n>", "/relative-redirect/<int:n>", "/absolute-redirect/<int:n>")
async def redirects(session: Any) -> None:
    for kind in ("redirect", "relative-redirect", "absolute-redirect"):
        response = await session.get(f"/{kind}/3")
        assert [one.status_code for one in response.history] == [302] * 3
        assert response.json()["url"] == str(response.url) == f"{session.view.base_url}get"
        with pytest.raises(TooManyRedirects):
            await session.get(f"/{kind}/3", max_redirects=2)
        assert (await session.get(f"/{kind}/3", follow_redirects=False)).status_code == 302


@route("/redirect-to")
async def redirect_to(session: Any) -> None:
    for status, method in ((301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")):
        query = {"url": "/anything?x=1", "status_code": str(status)}
        response = await session.post("/redirect-to", params=query, json={"a": 1})
        said = response.json()
        assert (said["method"], said["args"]) == (method, {"x": "1"})
        assert said["json"] == ({"a": 1} if method == "POST" else None)
        assert ("Content-Type" in said["headers"]) == (method == "POST")
    response = await session.put("/redirect-to?url=/anything", content=b"kept")
    assert (response.json()["method"], response.json()["data"]) == ("PUT", "kept")


# -- cookies -------------------------------------------------------------------------------------------------------


@route("/cookies", "/cookies/set", "/cookies/set/<name>/<value>", "/cookies/delete")
async def cookies(session: Any) -> None:
    assert (await session.get("/cookies/set/a/1")).json() == {"cookies": {"a": "1"}}
    assert (await session.get("/cookies/set?b=2&c=x%20y")).json() == {"cookies": {"a": "1", "b": "2", "c": "x y"}}
    assert (await session.get("/cookies/delete?a")).json() == {"cookies": {"b": "2", "c": "x y"}}
    assert (await session.get("/cookies", headers={"cookie": "own=1"})).json()["cookies"]["own"] == "1"


# -- auth ----------------------------------------------------------------------------------------------------------

ME = {"authenticated": True, "user": "ada"}


@route("/basic-auth/<user>/<passwd>", "/hidden-basic-auth/<user>/<passwd>")
async def basic_auth(session: Any) -> None:
    for path, refused in (("/basic-auth/ada/s", 401), ("/hidden-basic-auth/ada/s", 404)):
        assert (await session.get(path)).status_code == refused
        assert (await session.get(path, auth=("ada", "wrong"))).status_code == refused
        assert (await session.get(path, auth=("ada", "s"))).json() == ME


@route("/bearer")
async def bearer_auth(session: Any) -> None:
    assert (await session.get("/bearer")).headers["www-authenticate"] == "Bearer"
    assert (await session.get("/bearer", auth=BearerAuth("t"))).json() == {"authenticated": True, "token": "t"}


@route(
    "/digest-auth/<qop>/<user>/<passwd>",
    "/digest-auth/<qop>/<user>/<passwd>/<algorithm>",
    "/digest-auth/<qop>/<user>/<passwd>/<algorithm>/<stale_after>",
)
async def digest_auth(session: Any) -> None:
    for qop in ("auth", "auth-int", "none"):
        for rest in ("", "/MD5", "/SHA-256", "/SHA-256/never"):
            path = f"/digest-auth/{qop}/ada/s{rest}"
            assert (await session.get(path, auth=DigestAuth("ada", "s"))).json() == ME, path
            assert (await session.get(path, auth=DigestAuth("ada", "wrong"))).status_code == 401, path
            session.cookies.clear()  # that say which nonce is stale


# -- the tests -------------------------------------------------------------------------------------------------------


def test_no_route_is_forgotten() -> None:
    logging.getLogger("httpbin.core").setLevel(logging.ERROR)  # it says that flasgger is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from httpbin import app  # type: ignore[import-untyped]  # it has no types
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    assert rules == CHECKS.keys() | LEFT_OUT.keys()


@pytest.mark.parametrize("check", dict.fromkeys(CHECKS.values()), ids=lambda check: check.__name__)
async def test_route(httpbin: HTTPBin, world: World, check: Check) -> None:
    async with world.session(base_url=httpbin.url, timeout=30) as session:
        await check(session)
