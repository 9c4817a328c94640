"""The same calls by requests, httpx and plugwire against the same server, compared field by field.

Each case says what plugwire gives; the others must give the same, unless the case says what they give instead, under
the id of a difference. docs/coming-from.md has a row for each id, with the reason: a test holds the two together. So a
difference can neither appear unseen, nor go unexplained, nor stay in the page when it is gone.

aiohttp stands at the end: it has no blocking face, and shares most of these with one of the two.
"""

from __future__ import annotations

import asyncio
import gzip
import inspect
import io
import re
import socket
import ssl
import threading
import warnings
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests

import plugwire
from names import Names
from plugwire_plugins import NetrcAuth
from plugwire_transports import SystemResolver
from recorder import Recorder, Seen, answer

PAGE = Path(__file__).parent.parent / "docs" / "coming-from.md"

# -- the clients ---------------------------------------------------------------------------------------------------


def by_requests(method: str, url: str, **keywords: Any) -> Any:
    names = {"content": "data", "follow_redirects": "allow_redirects"}
    with requests.Session() as session:
        return session.request(method, url, **{names.get(name, name): value for name, value in keywords.items()})


TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Of httpx, which would make one for each client and each proxy, and take most of the time of these tests for it."""


def open_httpx(**keywords: Any) -> httpx.Client:
    return httpx.Client(**{"follow_redirects": True, "verify": TLS, **keywords})


def by_httpx(method: str, url: str, **keywords: Any) -> Any:
    with open_httpx() as client:
        return client.request(method, url, **keywords)


def by_plugwire(method: str, url: str, **keywords: Any) -> Any:
    with plugwire.Session() as session:
        return session.request(method, url, **keywords)


CLIENTS: dict[str, Callable[..., Any]] = {"requests": by_requests, "httpx": by_httpx, "plugwire": by_plugwire}
OPENERS: dict[str, Callable[[], Any]] = {
    "requests": requests.Session,
    "httpx": open_httpx,
    "plugwire": plugwire.Session,
}


@dataclass(frozen=True)
class Raised:
    """In place of a value: the class of what was raised."""

    name: str


def outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:
        return Raised(type(error).__name__)


# -- cases ---------------------------------------------------------------------------------------------------------

IDS: set[str] = set()
"""The differences that some case has."""


def differs(*ids: str) -> Callable[[Any], Any]:
    """Marks a test that shows differences without cases."""
    IDS.update(ids)
    return lambda test: test


@dataclass
class Case:
    """What is given, and what comes of it with plugwire, and with others where that is something else: (id, value)."""

    given: Any
    ours: Any
    requests: tuple[str, Any] | None = None
    httpx: tuple[str, Any] | None = None

    def __post_init__(self) -> None:
        for one in (self.requests, self.httpx):
            if one is not None:
                IDS.add(one[0])
                assert one[1] != self.ours, f"{one[0]}: this is no difference"

    def of(self, client: str) -> Any:
        different = getattr(self, client, None)
        return self.ours if different is None else different[1]

    def __str__(self) -> str:
        return re.sub(r"\W+", "-", str(self.given)).strip("-")[:60]


def cases(*rows: Case) -> Any:
    clients = [pytest.param(case, client, id=f"{case}-{client}") for case in rows for client in CLIENTS]
    return pytest.mark.parametrize(("case", "client"), clients)


def both(id: str, value: Any) -> dict[str, Any]:
    return {"requests": (id, value), "httpx": (id, value)}


def target_of(client: str, url: str, **keywords: Any) -> Any:
    """The request target as it came."""
    with Recorder() as peer:

        def ask() -> str:
            CLIENTS[client]("GET", peer.url + url, **keywords)
            return peer.seen[-1].target

        return outcome(ask)


def sent(client: str, method: str = "POST", **keywords: Any) -> Any:
    """The request as it came."""
    with Recorder() as peer:

        def ask() -> Seen:
            CLIENTS[client](method, peer.url, **keywords)
            return peer.seen[-1]

        return outcome(ask)


def received(client: str, response: bytes, look: Callable[[Any], Any], **keywords: Any) -> Any:
    """What a look at the response sees."""
    with Recorder(lambda seen: response) as peer:
        return outcome(lambda: look(CLIENTS[client]("GET", peer.url, **keywords)))


# -- params and data -----------------------------------------------------------------------------------------------

ALL = {"a": "ü x&=+/?:@,;'~*()!$"}
ALL_CODED = "a=%C3%BC+x%26%3D%2B%2F%3F%3A%40%2C%3B%27~%2A%28%29%21%24"


@cases(
    Case({"a": [1, 2]}, "/p?a=1&a=2"),
    Case({"a": ""}, "/p?a="),
    Case({"a": 1.5, "ü": "é"}, "/p?a=1.5&%C3%BC=%C3%A9"),
    Case([("a", "1"), ("b", "2"), ("a", "3")], "/p?a=1&b=2&a=3", httpx=("params-order", "/p?a=1&a=3&b=2")),
    Case(ALL, f"/p?{ALL_CODED}"),
    Case({}, "/p"),
    Case({"a": None}, "/p", httpx=("params-none", "/p?a=")),
    Case({"a": []}, "/p", httpx=("params-none", "/p?")),
    Case({"a": (1, None)}, "/p?a=1", httpx=("params-none", "/p?a=1&a=")),
    Case({"a": True, "b": False}, "/p?a=true&b=false", requests=("params-bool", "/p?a=True&b=False")),
    Case({"a": b"x\xff"}, "/p?a=x%FF", httpx=("params-bytes", "/p?a=b%27x%5Cxff%27")),
    Case("a=1&b=x y", "/p?a=1&b=x%20y", httpx=("params-query", "/p?a=1&b=x+y")),
    Case(b"a=1", Raised("UsageError"), **both("params-parts", "/p?a=1")),
    Case(
        {"a": {"b": 1}},
        Raised("UsageError"),
        requests=("params-parts", "/p?a=b"),
        httpx=("params-parts", "/p?a=%7B%27b%27%3A+1%7D"),
    ),
)
def test_params(case: Case, client: str) -> None:
    assert target_of(client, "/p", params=case.given) == case.of(client)


@cases(
    Case({"a": "1"}, "/p?q=0&a=1", httpx=("params-query", "/p?a=1")),
    Case({}, "/p?q=0", httpx=("params-query", "/p")),
    Case(None, "/p?q=0"),
)
def test_params_beside_a_query(case: Case, client: str) -> None:
    assert target_of(client, "/p?q=0", params=case.given) == case.of(client)


FORM = "application/x-www-form-urlencoded"


@cases(
    Case({"a": [1, 2], "b": ""}, (b"a=1&a=2&b=", FORM)),
    Case(ALL, (ALL_CODED.encode(), FORM)),
    Case({"a": None, "b": "1"}, (b"b=1", FORM), httpx=("params-none", (b"a=&b=1", FORM))),
    Case({"a": True}, (b"a=true", FORM), requests=("params-bool", (b"a=True", FORM))),
    Case({"a": b"x\xff"}, (b"a=x%FF", FORM), httpx=("params-bytes", (b"a=b%27x%5Cxff%27", FORM))),
    Case({}, (b"", FORM), **both("form-empty", (b"", None))),
    Case(
        {"a": {"b": 1}},
        Raised("UsageError"),
        requests=("params-parts", (b"a=b", FORM)),
        httpx=("params-parts", (b"a=%7B%27b%27%3A+1%7D", FORM)),
    ),
    Case(
        b"a=1",
        Raised("UsageError"),
        requests=("form-raw", (b"a=1", None)),
        httpx=("form-raw", Raised("DeprecationWarning")),
    ),
)
def test_data(case: Case, client: str) -> None:
    seen = sent(client, data=case.given)
    assert (seen if isinstance(seen, Raised) else (seen.body, seen.get("content-type"))) == case.of(client)


# -- URLs ----------------------------------------------------------------------------------------------------------


@cases(
    *[
        Case(*pair)
        for pair in [
            ("", "/"),
            ("/a b", "/a%20b"),
            ("/a%20b", "/a%20b"),
            ("/ä", "/%C3%A4"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a//b", "/a//b"),
            ("//b", "//b"),
            ("/a;b=c", "/a;b=c"),
            ("/a:b@c", "/a:b@c"),
            ("/?q=a b", "/?q=a%20b"),
            ("/?q=%20+", "/?q=%20+"),
            ("/?q=ä", "/?q=%C3%A4"),
            ("/#f", "/"),
            ("/?q#f?x", "/?q"),
        ]
    ],
    Case("/a/%2e%2e/b", "/b", requests=("url-dots", "/a/../b"), httpx=("url-dots", "/a/%2e%2e/b")),
    Case("/%7e%2f", "/%7e%2f", requests=("url-percent", "/~%2F")),
    Case("/%zz?%", "/%zz?%", requests=("url-percent", "/%25zz?%25")),
    Case("/?", "/?", requests=("url-percent", "/")),
    Case('/"<>^`{}', "/%22%3C%3E%5E%60%7B%7D", httpx=("url-marks", "/%22%3C%3E^%60%7B%7D")),
    Case("/a[b]", "/a[b]", requests=("url-marks", "/a%5Bb%5D")),
    Case("/?q='|", "/?q=%27|", requests=("url-marks", "/?q='%7C"), httpx=("url-marks", "/?q='|")),
    Case("/a\\b", Raised("InvalidURL"), requests=("url-refused", "/a%5Cb"), httpx=("url-refused", "/a\\b")),
    Case("/a\tb", Raised("InvalidURL"), requests=("url-refused", "/a%09b")),
)
def test_urls(case: Case, client: str) -> None:
    assert target_of(client, case.given) == case.of(client)


@cases(
    Case(
        "ada:p%40@",
        ("Basic YWRhOnBA", "http://ada:***@h/"),
        **both("url-str", ("Basic YWRhOnBA", "http://ada:p%40@h/")),
    ),
    Case("ada@", ("Basic YWRhOg==", "http://ada@h/"), requests=("auth-user-only", (None, "http://ada@h/"))),
)
def test_userinfo(case: Case, client: str) -> None:
    with Recorder() as peer:
        response = CLIENTS[client]("GET", f"http://{case.given}127.0.0.1:{peer.port}/")
        shown = str(response.url).replace(f"127.0.0.1:{peer.port}", "h")
        assert (peer.seen[-1].get("authorization"), shown) == case.of(client)


@differs("url-type")
def test_what_the_url_of_a_response_is() -> None:
    with Recorder() as peer:
        for client in CLIENTS.values():
            url = client("GET", peer.url + "/").url
            assert url == peer.url + "/"
            assert isinstance(url, str) == (client is by_requests)


@differs("base-url", "auth-scope")
def test_base_url() -> None:
    def targets(session: Any, *references: str) -> list[str]:
        for reference in references:
            session.get(reference)
        return [seen.target for seen in peer.seen[-len(references) :]]

    with Recorder() as peer, Recorder() as other:
        for opener in (open_httpx, plugwire.Session):
            with opener(base_url=f"{peer.url}/v1", auth=("a", "b")) as session:
                assert targets(session, "users", "/users", "?q=1") == ["/v1/users", "/v1/users"] + (
                    ["/v1/?q=1"] if opener is open_httpx else ["/v1?q=1"]
                )
                session.get(other.url)
                assert other.seen[-1].get("authorization") == ("Basic YTpi" if opener is open_httpx else None)
                given = outcome(lambda session=session: targets(session, "../x"))  # type: ignore[misc]
                assert given == (["/x"] if opener is open_httpx else Raised("InvalidURL"))

        async def ask() -> None:
            async with aiohttp.ClientSession(f"{peer.url}/v1/") as session, session.get("/users"):
                pass

        asyncio.run(ask())
        assert peer.seen[-1].target == "/users"


# -- header fields and auth ----------------------------------------------------------------------------------------


@cases(
    Case({"auth": ("a", "b")}, "Basic YTpi"),
    Case({"auth": ("ü", "é")}, "Basic w7w6w6k=", requests=("auth-charset", "Basic /Drp")),
    Case({"auth": ("a", "b"), "headers": {"Authorization": "Own"}}, "Own", **both("auth-header", "Basic YTpi")),
)
def test_auth(case: Case, client: str) -> None:
    assert sent(client, **case.given).get("authorization") == case.of(client)


DEFAULTS = {"host", "user-agent", "accept", "accept-encoding"}


@cases(
    Case("GET", DEFAULTS, **both("default-headers", DEFAULTS | {"connection"})),
    Case("HEAD", DEFAULTS, **both("default-headers", DEFAULTS | {"connection"})),
    Case("POST", DEFAULTS | {"content-length"}, **both("default-headers", DEFAULTS | {"connection", "content-length"})),
    Case(
        "DELETE",
        DEFAULTS,
        requests=("default-headers", DEFAULTS | {"connection", "content-length"}),
        httpx=("default-headers", DEFAULTS | {"connection"}),
    ),
)
def test_default_headers(case: Case, client: str) -> None:
    seen = sent(client, case.given)
    assert {name.lower() for name, _ in seen.fields} == case.of(client)
    assert seen.get("accept") == "*/*"
    assert {"gzip", "deflate", "br"} <= set(seen.get("accept-encoding").split(", "))


@cases(
    Case("get", "GET"),
    Case("Delete", "DELETE"),
    Case("purge", "purge", **both("method-case", "PURGE")),
)
def test_methods(case: Case, client: str) -> None:
    assert sent(client, case.given).method == case.of(client)


@cases(
    Case("ü", "ü", httpx=("header-charset", Raised("UnicodeEncodeError"))),
    Case("a\r\nb: c", Raised("InvalidHeader"), httpx=("errors", Raised("LocalProtocolError"))),
    Case(1, Raised("InvalidHeader"), httpx=("errors", Raised("TypeError"))),
    Case(
        " a ",
        "a",
        requests=("header-space", Raised("InvalidHeader")),
        httpx=("header-space", Raised("LocalProtocolError")),
    ),
    Case(None, Raised("InvalidHeader"), requests=("header-none", None), httpx=("errors", Raised("TypeError"))),
)
def test_header_values(case: Case, client: str) -> None:
    seen = sent(client, headers={"X-A": case.given})
    assert (seen if isinstance(seen, Raised) else seen.get("x-a")) == case.of(client)


# -- content -------------------------------------------------------------------------------------------------------

COMPACT, SPACED = '{"a":"ü","b":[null]}'.encode(), b'{"a": "\\u00fc", "b": [null]}'


@cases(
    Case({"a": "ü", "b": [None]}, COMPACT, requests=("json-text", SPACED)),
    Case(0, b"0"),
    Case("x", b'"x"'),
    Case([], b"[]"),
    Case(None, b""),
    Case(
        float("nan"),
        Raised("UsageError"),
        requests=("errors", Raised("InvalidJSONError")),
        httpx=("errors", Raised("ValueError")),
    ),
    Case({1}, Raised("UsageError"), **both("errors", Raised("TypeError"))),
)
def test_json(case: Case, client: str) -> None:
    seen = sent(client, json=case.given)
    assert (seen if isinstance(seen, Raised) else seen.body) == case.of(client)
    if case.ours and not isinstance(seen, Raised):
        assert seen.get("content-type") == "application/json"


def at_one() -> io.BytesIO:
    file = io.BytesIO(b"abc")
    file.seek(1)
    return file


@cases(
    Case(lambda: "ü", ("ü".encode(), "2", None)),
    Case(lambda: b"", (b"", "0", None)),
    Case(lambda: iter([b"a", b"", b"b"]), (b"ab", None, "chunked")),
    Case(lambda: io.BytesIO(b"abc"), (b"abc", "3", None)),
    Case(lambda: [b"a", b"b"], (b"ab", None, "chunked"), requests=("content-list", Raised("ValueError"))),
    Case(at_one, (b"bc", "2", None), httpx=("content-offset", Raised("LocalProtocolError"))),
)
def test_content(case: Case, client: str) -> None:
    seen = sent(client, content=case.given())
    if not isinstance(seen, Raised):
        seen = (seen.body, seen.get("content-length"), seen.get("transfer-encoding"))
    assert seen == case.of(client)


@differs("two-bodies")
def test_two_bodies() -> None:
    given = {"json": {"a": 1}, "data": {"b": "2"}}
    assert [sent(client, **given).body for client in ("requests", "httpx")] == [b"b=2"] * 2
    assert sent("plugwire", **given) == Raised("UsageError")


Part = tuple[dict[str, str], bytes]


def parts_of(seen: Seen) -> list[Part]:
    """The parts of a multipart body, each with its fields and its content."""
    found = re.fullmatch(r'multipart/form-data; ?boundary="?([^"]+)"?', seen.get("content-type") or "")
    assert found is not None
    assert seen.get("content-length") == str(len(seen.body))
    delimiter = b"--" + found[1].encode()
    first, *parts, last = seen.body.split(delimiter)
    assert (first, last) == (b"", b"--\r\n")
    result = []
    for part in parts:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        fields = (line.partition(": ") for line in head.decode().split("\r\n"))
        result.append(({name: value for name, _, value in fields}, content.removesuffix(b"\r\n")))
    return result


def part(name: str, content: bytes, filename: str | None = None, kind: str | None = None, **more: str) -> Part:
    file = "" if filename is None else f'; filename="{filename}"'
    fields = {"Content-Disposition": f'form-data; name="{name}"{file}'}
    return ({**fields, **({"Content-Type": kind} if kind else {}), **more}, content)


BINARY = "application/octet-stream"


@cases(
    Case({"files": {"f": ("n.txt", b"x", "text/csv")}}, [part("f", b"x", "n.txt", "text/csv")]),
    Case({"files": {"f": (None, b"x")}}, [part("f", b"x")]),
    Case({"files": {"f": ("n", b"x", "a/b", {"X-A": "1"})}}, [part("f", b"x", "n", "a/b", **{"X-A": "1"})]),
    Case(
        {"files": [("f", ("ü.txt", b"1", "a/b")), ("f", ('a"\r\n', b"2", "a/b"))]},
        [part("f", b"1", "ü.txt", "a/b"), part("f", b"2", "a%22%0D%0A", "a/b")],
    ),
    Case(
        {"files": {"f": ("n", b"x", "a/b")}, "data": {"a": [1, 2], "ü": "é"}},
        [part("a", b"1"), part("a", b"2"), part("ü", "é".encode()), part("f", b"x", "n", "a/b")],
    ),
    Case(
        {"files": {"f": ("a.png", b"x")}},
        [part("f", b"x", "a.png", "image/png")],
        requests=("part-type", [part("f", b"x", "a.png")]),
    ),
    Case(
        {"files": {"f": b"x"}},
        [part("f", b"x", "f", BINARY)],
        requests=("part-type", [part("f", b"x", "f")]),
        httpx=("part-name", [part("f", b"x", "upload", BINARY)]),
    ),
    Case(
        {"files": {"f": ("n", b"x", "a/b")}, "data": {"a": None, "b": True}},
        [part("b", b"true"), part("f", b"x", "n", "a/b")],
        requests=("params-bool", [part("b", b"True"), part("f", b"x", "n", "a/b")]),
        httpx=("params-none", [part("a", b""), part("b", b"true"), part("f", b"x", "n", "a/b")]),
    ),
    Case(
        {"files": {"f": io.StringIO("x")}},
        Raised("UsageError"),
        requests=("part-text-file", [part("f", b"x", "f")]),
        httpx=("errors", Raised("TypeError")),
    ),
)
def test_multipart(case: Case, client: str) -> None:
    seen = sent(client, **case.given)
    assert (seen if isinstance(seen, Raised) else parts_of(seen)) == case.of(client)


@differs("part-boundary")
def test_a_boundary_of_the_callers() -> None:
    given = {"files": {"f": ("n", b"x", "a/b")}, "headers": {"content-type": "multipart/form-data; boundary=abc"}}
    assert b"--abc" not in sent("requests", **given).body
    for client in ("httpx", "plugwire"):
        assert parts_of(sent(client, **given)) == [part("f", b"x", "n", "a/b")]


# -- text, JSON, lines ---------------------------------------------------------------------------------------------


@cases(
    Case(("text/html; charset=latin-1", b"\xfc"), "ü"),
    Case(('text/plain; charset="utf-8"', b"\xc3\xbc"), "ü"),
    Case(("text/plain; charset=utf-8", b"\xfc"), "\ufffd"),
    Case(("text/plain; charset=nonsense", b"\xfc"), "\ufffd"),
    Case(("application/json", b"\xc3\xbc"), "ü"),
    Case(("text/plain", b"\xc3\xbc"), "ü", requests=("text-default", "Ã¼")),
    Case(("text/plain", b"\xfc"), "\ufffd", requests=("text-default", "ü")),
    Case(("text/plain; charset=utf-8", b"\xef\xbb\xbfa"), "a", **both("text-bom", "\ufeffa")),
    Case(("text/plain; charset=latin-1", b"\xff\xfea\0"), "a", **both("text-bom", "ÿþa\0")),
    Case(("text/plain; charset=base64", b"aGk="), "aGk=", httpx=("text-codec", Raised("AssertionError"))),
)
def test_text(case: Case, client: str) -> None:
    kind, content = case.given
    assert received(client, answer(200, content, Content_Type=kind), lambda r: r.text) == case.of(client)


@cases(
    Case(b'{"a": "\xc3\xbc"}', {"a": "ü"}),
    Case(b"\xef\xbb\xbf{}", {}, requests=("json-signature", Raised("JSONDecodeError"))),
    Case("[]".encode("utf-16"), [], requests=("json-signature", Raised("JSONDecodeError"))),
    Case(b"nope", Raised("DecodingError"), **both("errors", Raised("JSONDecodeError"))),
    Case(
        b'"\xfc"',
        Raised("DecodingError"),
        requests=("json-utf8", "\ufffd"),
        httpx=("json-utf8", Raised("UnicodeDecodeError")),
    ),
)
def test_json_of_a_response(case: Case, client: str) -> None:
    response = answer(200, case.given, Content_Type="application/json")
    assert received(client, response, lambda r: r.json()) == case.of(client)


def test_what_is_no_json_is_a_value_error_everywhere() -> None:
    for client in CLIENTS.values():
        with Recorder(lambda seen: answer(200, b"nope")) as peer:
            response = client("GET", peer.url)
        with pytest.raises(ValueError):
            response.json()


def lines_of(client: str, url: str) -> list[Any]:
    with OPENERS[client]() as session:
        if client == "requests":
            with session.get(url, stream=True) as response:
                return list(response.iter_lines())
        with session.stream("GET", url) as response:
            return list(response.iter_lines())


@cases(
    *[
        Case(content, lines, requests=("lines-bytes", [line.encode() for line in lines]) if lines else None)
        for content, lines in [
            (b"a\nb\n", ["a", "b"]),
            (b"a\r\nb", ["a", "b"]),
            (b"a\rb", ["a", "b"]),
            (b"a\n\nb", ["a", "", "b"]),
            (b"", []),
            (b"\n", [""]),
        ]
    ],
    *[
        Case(
            content,
            [content.decode()],
            requests=("lines-bytes", [content]),
            httpx=("line-ends", content.decode().splitlines()),
        )
        for content in (b"a\x0bb\x0cc\x1cd", "a\u2028b\x85c".encode())
    ],
)
def test_lines(case: Case, client: str) -> None:
    with Recorder(lambda seen: answer(200, case.given, Content_Type="text/plain; charset=utf-8")) as peer:
        assert lines_of(client, peer.url) == case.of(client)


# -- statuses and header fields of a response ----------------------------------------------------------------------


@cases(
    Case(200, "Response", requests=("status-returns", "NoneType")),
    Case(204, "Response", requests=("status-returns", "NoneType")),
    Case(304, "Response", requests=("status-returns", "NoneType"), httpx=("status-3xx", Raised("HTTPStatusError"))),
    Case(300, "Response", requests=("status-returns", "NoneType"), httpx=("status-3xx", Raised("HTTPStatusError"))),
    Case(404, Raised("HTTPStatusError"), requests=("errors", Raised("HTTPError"))),
    Case(599, Raised("HTTPStatusError"), requests=("errors", Raised("HTTPError"))),
)
def test_raise_for_status(case: Case, client: str) -> None:
    look = lambda response: type(response.raise_for_status()).__name__  # noqa: E731
    assert received(client, answer(case.given), look) == case.of(client)


LINES = answer(200, b"", X_A="1\r\nX-A: 2", X_B="\xfc", Set_Cookie="a=1\r\nSet-Cookie: b=2")


@cases(
    Case(lambda r: (r.headers["x-a"], r.headers["X-B"], r.headers.get("x-c")), ("1, 2", "ü", None)),
    Case(lambda r: dict(r.cookies), {"a": "1", "b": "2"}),
    Case(
        lambda r: [value for name, value in r.headers.items() if name.lower() == "x-a"],
        ["1", "2"],
        **both("headers-items", ["1, 2"]),
    ),
    Case(lambda r: r.headers["set-cookie"], Raised("UsageError"), **both("set-cookie", "a=1, b=2")),
)
def test_fields_of_a_response(case: Case, client: str) -> None:
    assert received(client, LINES, case.given) == case.of(client)


# -- content codings -----------------------------------------------------------------------------------------------

GZIP, DEFLATE = gzip.compress(b"hello"), zlib.compress(b"hello")


@cases(
    Case(("gzip", GZIP), b"hello"),
    Case(("GZIP", GZIP), b"hello"),
    Case(("gzip", GZIP + b"rest"), b"hello"),
    Case(("gzip", b""), b""),
    Case(("deflate", DEFLATE), b"hello"),
    Case(("deflate", DEFLATE[2:-4]), b"hello"),
    Case(("gzip, deflate", zlib.compress(GZIP)), b"hello"),
    Case(("unheard-of", b"hello"), b"hello"),
    Case(("identity", b"hello"), b"hello"),
    Case(("gzip", GZIP + GZIP), b"hellohello", httpx=("coding-members", b"hello")),
    Case(("x-gzip", GZIP), b"hello", httpx=("coding-x-gzip", GZIP)),
    Case(("gzip", GZIP[:-5]), Raised("IncompleteBody"), **both("coding-cut", b"hello")),
    Case(("gzip", GZIP[:5]), Raised("IncompleteBody"), **both("coding-cut", b"")),
    Case(("deflate", DEFLATE[:-3]), Raised("IncompleteBody"), **both("coding-cut", b"hello")),
    Case(("gzip", b"nope nope"), Raised("DecodingError"), requests=("errors", Raised("ContentDecodingError"))),
    Case(("br", b"zzzz"), Raised("DecodingError"), requests=("errors", Raised("ContentDecodingError"))),
    Case(
        ("unheard-of, gzip", GZIP),
        GZIP,
        requests=("coding-unknown", Raised("ContentDecodingError")),
        httpx=("coding-unknown", b"hello"),
    ),
    Case(
        ("gzip," * 6, GZIP), Raised("LimitExceeded"), requests=("errors", Raised("ContentDecodingError")),
        httpx=("coding-chain", Raised("DecodingError")),
    ),
)  # fmt: skip
def test_codings(case: Case, client: str) -> None:
    coding, content = case.given
    response = answer(200, content, Content_Encoding=coding)
    assert received(client, response, lambda r: r.content) == case.of(client)


# -- what servers do wrong -----------------------------------------------------------------------------------------

CLOSE = b"Connection: close\r\n\r\nabc"
STRICT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 3\nX: \r\n" + CLOSE,
    b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 3\r\n" + CLOSE,
]
FIRST = b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n"


@cases(
    Case(b"HTTP/1.1 200 OK\r\n" + CLOSE, (200, b"abc")),
    Case(b"HTTP/1.0 200 OK\r\n" + CLOSE, (200, b"abc")),
    Case(b"HTTP/1.1 204 No\r\nContent-Length: 3\r\n" + CLOSE, (204, b"")),
    Case(FIRST + b"HTTP/1.1 200 OK\r\n" + CLOSE, (200, b"abc"), requests=("informational", (103, b""))),
    *[Case(data, Raised("ProtocolError"), **both("wire-strict", (200, b"abc"))) for data in STRICT],
    Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n" + CLOSE,
        Raised("ProtocolError"),
        requests=("wire-strict", (200, b"abc")),
        httpx=("errors", Raised("RemoteProtocolError")),
    ),
    Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + CLOSE,
        Raised("IncompleteBody"),
        requests=("errors", Raised("ChunkedEncodingError")),
        httpx=("errors", Raised("RemoteProtocolError")),
    ),
    Case(
        b"nonsense\r\nconnection: close\r\n\r\n",
        Raised("ProtocolError"),
        requests=("errors", Raised("ConnectionError")),
        httpx=("errors", Raised("RemoteProtocolError")),
    ),
)
def test_answers_on_the_wire(case: Case, client: str) -> None:
    assert received(client, case.given, lambda r: (r.status_code, r.content)) == case.of(client)


# -- redirects -----------------------------------------------------------------------------------------------------


def redirect(location: str | Callable[[Seen], str], status: int = 302, **fields: str) -> Callable[[Seen], bytes]:
    """A server that sends from /from to somewhere, and answers "here" elsewhere."""

    def respond(seen: Seen) -> bytes:
        if seen.target.startswith("/from"):
            return answer(status, b"gone", Location=location if isinstance(location, str) else location(seen), **fields)
        return answer(200, b"here")

    return respond


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")
BODY, NOTHING = (b"x", "a/b"), (b"", None)


def after(method: str, status: int, client: str) -> tuple[str, tuple[bytes, str | None]] | None:
    """The request that follows on a redirect: method, content and content-type; None: none follows."""
    if status not in (301, 302, 303, 307, 308):
        return None
    if method in ("GET", "HEAD"):
        return method, NOTHING
    became_get = status == 303 or (method == "POST" and status in (301, 302))
    if client != "plugwire" and status == 302:
        became_get = True  # redirect-method
    if client == "requests" and status == 301 and not became_get:
        return method, NOTHING  # redirect-content
    if not became_get:
        return method, BODY
    return "GET", (b"", "a/b") if client == "httpx" else NOTHING  # redirect-content-fields


@differs("redirect-method", "redirect-content", "redirect-content-fields")
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
def test_methods_and_content_of_redirects(status: int, client: str) -> None:
    for method in METHODS:
        given = {} if method in ("GET", "HEAD") else {"content": b"x", "headers": {"content-type": "a/b"}}
        with Recorder(redirect("/to", status)) as peer:
            response = CLIENTS[client](method, peer.url + "/from", **given)
            following = [(one.method, (one.body, one.get("content-type"))) for one in peer.seen[1:]]
        expected = after(method, status, client)
        assert following == ([] if expected is None else [expected]), method
        assert [one.status_code for one in response.history] == ([] if expected is None else [status])
        assert response.status_code == (status if expected is None else 200)
        assert [one.content for one in response.history] == [b"" if method == "HEAD" else b"gone"] * len(following)


def host_of(seen: Seen) -> str:
    host = seen.get("host")
    assert host is not None
    return host


@cases(
    Case("/to#new", ("/to", "http://h/to#new")),
    Case("to?x=1", ("/to?x=1", "http://h/to?x=1#old")),
    Case("../to", ("/to", "http://h/to#old")),
    Case("/to a", ("/to%20a", "http://h/to%20a#old")),
    Case("/to\xc3\xbc", ("/to%C3%BC", "http://h/to%C3%BC#old")),
    Case(lambda seen: f"//{host_of(seen)}/to", ("/to", "http://h/to#old")),
    Case(lambda seen: f"HTTP://{host_of(seen)}/to", ("/to", "http://h/to#old")),
    Case("", ("/from", "http://h/from#old"), httpx=("redirect-empty", Raised("TooManyRedirects"))),
    Case(
        "/to\xfc",
        ("/to%FC", "http://h/to%FC#old"),
        requests=("redirect-octets", Raised("UnicodeDecodeError")),
        httpx=("redirect-octets", ("/to%C3%BC", "http://h/to%C3%BC#old")),
    ),
    Case(
        lambda seen: f"http://u:p@{host_of(seen)}/to",
        ("/to", "http://h/to#old"),
        **both("redirect-userinfo", ("/to", "http://u:p@h/to#old")),
    ),
    Case(
        "/a\\b",
        Raised("ProtocolError"),
        requests=("url-refused", ("/a%5Cb", "http://h/a%5Cb#old")),
        httpx=("url-refused", ("/a\\b", "http://h/a\\b#old")),
    ),
    Case(
        "ftp://h/",
        Raised("UnsafeRedirect"),
        requests=("errors", Raised("InvalidSchema")),
        httpx=("errors", Raised("UnsupportedProtocol")),
    ),
    Case(
        "/one\r\nLocation: /two",
        Raised("ProtocolError"),
        **both("redirect-twice", ("/one,%20/two", "http://h/one,%20/two#old")),
    ),
)
def test_where_a_redirect_leads(case: Case, client: str) -> None:
    with Recorder(redirect(case.given)) as peer:

        def ask() -> tuple[str, str]:
            response = CLIENTS[client]("GET", peer.url + "/from#old")
            return peer.seen[-1].target, str(response.url).replace(f"127.0.0.1:{peer.port}", "h")

        assert outcome(ask) == case.of(client)


@cases(Case("a loop", 21, requests=("redirect-limit", 31)))
def test_how_many_redirects_are_followed(case: Case, client: str) -> None:
    with Recorder(redirect("/from")) as peer:
        assert outcome(lambda: CLIENTS[client]("GET", peer.url + "/from")) == Raised("TooManyRedirects")
        assert len(peer.seen) == case.of(client)


@differs("redirect-default")
def test_whether_redirects_are_followed() -> None:
    with Recorder(redirect("/to")) as peer:
        assert httpx.get(peer.url + "/from").status_code == 302
        assert requests.head(peer.url + "/from").status_code == 302
        with plugwire.Session() as session:
            assert session.get(peer.url + "/from").status_code == 200
            assert session.head(peer.url + "/from").status_code == 200
            with pytest.raises(plugwire.TooManyRedirects):
                session.get(peer.url + "/from", max_redirects=0)


@cases(
    Case(lambda: b"abc", b"abc"),
    Case(lambda: io.BytesIO(b"abc"), b"abc", httpx=("content-offset", Raised("LocalProtocolError"))),
    Case(lambda: iter([b"abc"]), Raised("NotReplayable"), **both("redirect-replay", b"")),
)
def test_content_that_is_sent_again(case: Case, client: str) -> None:
    with Recorder(redirect("/to", 307)) as peer:

        def ask() -> bytes:
            CLIENTS[client]("POST", peer.url + "/from", content=case.given())
            return peer.seen[1].body

        assert outcome(ask) == case.of(client)


GIVEN = {"Authorization": "A", "Cookie": "c=1", "Proxy-Authorization": "P", "X-Api-Key": "K", "Host": "named"}
KEPT = dict.fromkeys(GIVEN) | {"X-Api-Key": "K", "Host": "OTHER"}


@cases(
    Case(
        "another port",
        KEPT,
        requests=("redirect-host", KEPT | {"Host": "named"}),
        httpx=("redirect-proxy-authorization", KEPT | {"Proxy-Authorization": "P"}),
    )
)
def test_what_goes_along_to_another_origin(case: Case, client: str) -> None:
    with Recorder() as other, Recorder(redirect(other.url + "/to")) as peer:
        CLIENTS[client]("GET", peer.url + "/from", headers=GIVEN)
        (seen,) = other.seen
        came = {name: (seen.get(name) or "").replace(f"127.0.0.1:{other.port}", "OTHER") or None for name in GIVEN}
        assert came == case.of(client)
        CLIENTS[client]("GET", peer.url + "/from", auth=("a", "b"))
        assert other.seen[-1].get("authorization") is None


@differs("redirect-secret")
def test_secrets_of_other_names() -> None:
    with Recorder() as other, Recorder(redirect(other.url + "/to")) as peer, plugwire.Session() as session:
        session.headers["X-Api-Key"] = "K"
        session.get(peer.url + "/from")
        assert other.seen[-1].get("x-api-key") == "K"
        session.headers.secret |= {"x-api-key"}
        session.get(peer.url + "/from")
        assert other.seen[-1].get("x-api-key") is None


@cases(Case("Cookie", "c=1", **both("redirect-cookie", None)))
def test_a_cookie_field_of_the_callers_on_the_same_origin(case: Case, client: str) -> None:
    with Recorder(redirect("/to")) as peer:
        CLIENTS[client]("GET", peer.url + "/from", headers={"Cookie": "c=1"})
        assert peer.seen[1].get("cookie") == case.of(client)


@cases(Case("https to http", Raised("UnsafeRedirect"), **both("redirect-down", "here")))
def test_a_redirect_from_https_to_http(case: Case, client: str) -> None:
    with Recorder() as other, Recorder(lambda seen: answer(302, Location=other.url), tls=True) as peer:
        given: dict[str, Any] = {}
        opener: Any = OPENERS[client]
        if client == "requests":
            given["verify"] = False
        elif client == "httpx":
            opener = lambda: open_httpx(verify=False)  # noqa: E731
        else:
            given["tls"] = peer.tls_config

        def ask() -> str:
            with opener() as session:
                session.get(peer.url, **given)
            return "here"

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # requests says that nobody is verified
            assert outcome(ask) == case.of(client)


# -- cookies -------------------------------------------------------------------------------------------------------


def cookie_after(client: str, line: str, host: str = "127.0.0.1") -> Any:
    """What a second request to /x says in Cookie, after /from has set one."""
    with Recorder(lambda seen: answer(200, Set_Cookie=line) if seen.target == "/from" else answer()) as peer:

        def ask() -> str | None:
            with OPENERS[client]() as session:
                session.get(f"http://{host}:{peer.port}/from")
                session.get(f"http://{host}:{peer.port}/x")
            return peer.seen[1].get("cookie")

        return outcome(ask)


@cases(
    Case("a=1", "a=1"),
    Case("a=1; Path=/x; HttpOnly", "a=1"),
    Case("a=1; Path=/y", None),
    Case("a=1; Domain=127.0.0.1", "a=1"),
    Case("a=1; Domain=example.com", None),
    Case("a=1; Max-Age=0", None),
    Case("a=1; Max-Age=100", "a=1"),
    Case("a=1; Expires=Wed, 01 Jan 2020 00:00:00 GMT", None),
    Case('a="1 2"', 'a="1 2"'),
    Case("a=b=c", "a=b=c"),
    Case("justvalue", "justvalue"),
    Case("a=1; Secure", "a=1", **both("cookie-loopback", None)),
    Case("__Host-a=1; Path=/", None, **both("cookie-prefix", "__Host-a=1")),
    Case("__Secure-a=1", None, **both("cookie-prefix", "__Secure-a=1")),
    Case("a=\xc3\xbc", "a=Ã¼", httpx=("header-charset", Raised("UnicodeEncodeError"))),
)
def test_cookies(case: Case, client: str) -> None:
    assert cookie_after(client, case.given) == case.of(client)


@cases(Case("a=1; Domain=localhost", "a=1", **both("cookie-own-domain", None)))
def test_cookies_of_a_name(case: Case, client: str) -> None:
    assert cookie_after(client, case.given, "localhost") == case.of(client)


@pytest.mark.parametrize("client", CLIENTS)
def test_cookies_over_redirects(client: str) -> None:
    with (
        Recorder() as other,
        Recorder(lambda seen: answer(302, Location=other.url + "/from", Set_Cookie="a=1; Path=/")) as peer,
        OPENERS[client]() as session,
    ):
        response = session.get(peer.url)
        # Cookies know no ports (RFC 6265, 8.5).
        assert other.seen[0].get("cookie") == "a=1"
        assert dict(response.history[0].cookies) == {"a": "1"}


@cases(Case("both", "b=2; a=1", **both("cookie-field", "b=2")))
def test_a_cookie_field_beside_the_jar(case: Case, client: str) -> None:
    with Recorder(lambda seen: answer(200, Set_Cookie="a=1")) as peer, OPENERS[client]() as session:
        session.get(peer.url)
        session.get(peer.url, headers={"Cookie": "b=2"})
        assert peer.seen[1].get("cookie") == case.of(client)


@differs("cookies-given")
def test_cookies_given_to_a_session() -> None:
    with Recorder() as peer:
        for opener in (requests.Session, httpx.Client):
            with opener() as session:
                session.cookies.update({"a": "1"})  # for every host there is
                session.get(peer.url)
                assert peer.seen[-1].get("cookie") == "a=1"
        with pytest.raises(plugwire.UsageError, match="base_url"):
            plugwire.Session(cookies={"a": "1"})
        with plugwire.Session(base_url=peer.url, cookies={"a": "1"}) as session:
            session.get("/")
            assert peer.seen[-1].get("cookie") == "a=1"


# -- errors and time -----------------------------------------------------------------------------------------------


@cases(
    Case("http://127.0.0.1:{closed}/", "ConnectError", requests=("errors", "ConnectionError")),
    Case(
        "http://nowhere.invalid/",
        "ResolveError",
        requests=("errors", "ConnectionError"),
        httpx=("errors", "ConnectError"),
    ),
    Case("example.org", "InvalidURL", requests=("errors", "MissingSchema"), httpx=("errors", "UnsupportedProtocol")),
    Case("/x", "InvalidURL", requests=("errors", "MissingSchema"), httpx=("errors", "UnsupportedProtocol")),
    Case("ftp://h/", "NoTransport", requests=("errors", "InvalidSchema"), httpx=("errors", "UnsupportedProtocol")),
    Case("http://", "InvalidURL", httpx=("errors", "UnsupportedProtocol")),
    Case("http://h:99999/", "InvalidURL", httpx=("errors", "ConnectError")),
    Case("http://[::1/", "InvalidURL"),
    Case("http://a b/", "InvalidURL", httpx=("errors", "ConnectError")),
    Case("http://h\0/", "InvalidURL"),
)
def test_errors(case: Case, client: str, names: Names) -> None:
    names["127.0.0.1"] = ["127.0.0.1"]
    with socket.socket() as closed:  # bound, and not listening: nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        url = case.given.format(closed=closed.getsockname()[1])
        assert outcome(lambda: CLIENTS[client]("GET", url, timeout=10)) == Raised(case.of(client))


@cases(Case("nobody known", "CertificateError", requests=("errors", "SSLError"), httpx=("errors", "ConnectError")))
def test_certificates(case: Case, client: str) -> None:
    with Recorder(tls=True) as peer:
        assert outcome(lambda: CLIENTS[client]("GET", peer.url)) == Raised(case.of(client))


SHORT, LONG = 0.05, 30.0


def limits(client: str, *, connect: float, read: float) -> Any:
    """Two of the time-outs, as each client spells them."""
    return {
        "requests": (connect, read),
        "httpx": httpx.Timeout(LONG, connect=connect, read=read),
        "plugwire": plugwire.Timeout(connect=connect, read=read),
    }[client]


@pytest.mark.parametrize("client", CLIENTS)
def test_time_outs_of_one_step(client: str) -> None:
    release = threading.Event()
    with Recorder(lambda seen: answer() if release.wait(LONG) else b"") as peer:
        timeout = limits(client, connect=LONG, read=SHORT)
        assert outcome(lambda: CLIENTS[client]("GET", peer.url, timeout=timeout)) == Raised("ReadTimeout")
        release.set()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as filling:
        for _ in range(3):
            one = filling.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        url, timeout = f"http://127.0.0.1:{full.getsockname()[1]}/", limits(client, connect=SHORT, read=LONG)
        assert outcome(lambda: CLIENTS[client]("GET", url, timeout=timeout)) == Raised("ConnectTimeout")


@differs("timeout-total")
def test_a_number_of_seconds() -> None:
    """To others a number is the time between two bytes, which a server that drips renews for ever."""
    release = threading.Event()
    with Recorder(lambda seen: answer() if release.wait(30) else b"") as peer:
        assert outcome(lambda: by_requests("GET", peer.url, timeout=0.05)) == Raised("ReadTimeout")
        assert outcome(lambda: by_httpx("GET", peer.url, timeout=0.05)) == Raised("ReadTimeout")
        assert outcome(lambda: by_plugwire("GET", peer.url, timeout=0.05)) == Raised("TotalTimeout")
        release.set()


# -- proxies and netrc ---------------------------------------------------------------------------------------------

HOSTS = {
    "http://example.org/": "plain",
    "http://www.example.org/": "below",
    "http://notexample.org/": "not",
    "http://example.org:81/": "port",
    "http://192.0.2.7/": "v4",
    "http://[2001:db8::5]/": "v6",
}


def exempt(client: str) -> Any:
    """Which of the hosts are reached without the proxy."""
    found = set()
    for url, name in HOSTS.items():
        if client == "requests":
            is_exempt = requests.utils.should_bypass_proxies(url, no_proxy=None)  # type: ignore[no-untyped-call]
        elif client == "httpx":
            with open_httpx() as session:
                is_exempt = session._transport_for_url(httpx.URL(url)) is session._transport
        else:
            with plugwire.Session() as session:
                is_exempt = "proxy none" in session.explain(url)
        if is_exempt:
            found.add(name)
    return found


@cases(
    Case("*", set(HOSTS.values())),
    Case("example.org", {"plain", "below", "port"}),
    Case(" EXAMPLE.ORG , x", {"plain", "below", "port"}),
    Case("example.org:81", {"port"}),
    Case("192.0.2.7", {"v4"}),
    Case("", set()),
    Case(".example.org", {"plain", "below", "port"}, httpx=("no-proxy", {"below"})),
    Case("*.example.org", {"below"}, **both("no-proxy", set())),
    Case("example.org:80", {"plain", "below"}, **both("no-proxy", set())),
    Case("example.org.", {"plain", "below", "port"}, **both("no-proxy", set())),
    Case("192.0.2.0/24", {"v4"}, httpx=("no-proxy", set())),
    Case("[2001:db8::5]", {"v6"}, requests=("no-proxy", set()), httpx=("no-proxy", Raised("InvalidURL"))),
    Case("2001:db8::/32", {"v6"}, requests=("no-proxy", set()), httpx=("no-proxy", Raised("InvalidURL"))),
)
def test_no_proxy(case: Case, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", case.given)
    assert outcome(lambda: exempt(client)) == case.of(client)


@cases(Case("without being asked", None, requests=("netrc-default", "Basic YWRhOnM=")))
def test_netrc(case: Case, client: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login ada password s\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert sent(client, "GET").get("authorization") == case.of(client)
    asked = {"requests": None, "httpx": httpx.NetRCAuth(str(file)), "plugwire": NetrcAuth()}[client]
    assert sent(client, "GET", auth=asked).get("authorization") == "Basic YWRhOnM="


@differs("env-ca")
def test_bundles_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Recorder(tls=True) as peer:
        bundle = tmp_path / "ca.pem"
        bundle.write_text(peer.tls_config.ca_data or "")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        assert by_requests("GET", peer.url).status_code == 200
        assert httpx.get(peer.url).status_code == 200
        assert outcome(lambda: by_plugwire("GET", peer.url)) == Raised("CertificateError")
        with plugwire.Session(tls=plugwire.TLSConfig(ca_file=str(bundle))) as session:
            assert session.get(peer.url).status_code == 200


@differs("timeout-default", "http2-default", "dns-cache", "unix-path")
def test_defaults() -> None:
    assert inspect.signature(SystemResolver).parameters["ttl"].default == 30
    assert outcome(lambda: by_plugwire("GET", "http+unix://relative%2Fpath/")) == Raised("NoTransport")
    assert open_httpx().timeout == httpx.Timeout(5)
    assert aiohttp.client.DEFAULT_TIMEOUT.total == 300
    assert plugwire.Timeout() == plugwire.Timeout(connect=10, read=60, write=60, total=None)
    with plugwire.Session() as session:
        assert "h2 or http/1.1" in session.explain("https://h.invalid/")


# -- aiohttp -------------------------------------------------------------------------------------------------------


def by_aiohttp(url: str, look: Callable[[aiohttp.ClientResponse], Any], **keywords: Any) -> Any:
    async def ask() -> Any:
        async with aiohttp.ClientSession() as session, session.get(url, **keywords) as response:
            return await look(response)

    return outcome(lambda: asyncio.run(ask()))


@differs("aiohttp-params", "redirect-limit", "aiohttp-json", "aiohttp-text", "cookie-address", "netrc-default")
def test_aiohttp(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    names["127.0.0.1"] = ["127.0.0.1"]
    with Recorder(redirect("/from")) as peer:
        for value in (True, None):
            assert by_aiohttp(peer.url, lambda r: r.read(), params={"a": value}) == Raised("TypeError")
        assert by_aiohttp(peer.url + "/from", lambda r: r.read()) == Raised("TooManyRedirects")
        assert len(peer.seen) == 10
    with Recorder(lambda seen: answer(200, b"{}", Content_Type="text/plain")) as peer:
        assert by_aiohttp(peer.url, lambda r: r.json()) == Raised("ContentTypeError")
        assert by_plugwire("GET", peer.url).json() == {}
    with Recorder(lambda seen: answer(200, b"\xfc", Content_Type="text/plain", Set_Cookie="a=1")) as peer:
        assert by_aiohttp(peer.url, lambda r: r.text()) == Raised("UnicodeDecodeError")

        async def twice() -> None:
            async with aiohttp.ClientSession() as session:
                for _ in range(2):
                    (await session.get(peer.url)).close()

        asyncio.run(twice())
        assert peer.seen[-1].get("cookie") is None
        monkeypatch.setenv("HTTP_PROXY", peer.url)
        assert by_aiohttp("http://nowhere.invalid/", lambda r: r.read()) == Raised("ClientConnectorDNSError")
        assert by_plugwire("GET", "http://nowhere.invalid/").status_code == 200


# -- the page ------------------------------------------------------------------------------------------------------


def test_every_difference_has_its_row() -> None:
    part = PAGE.read_text().partition("## Differences in behaviour\n")[2]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", part, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == IDS
