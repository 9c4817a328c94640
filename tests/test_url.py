"""URLs: what they mean, what is refused, what is shown."""

from __future__ import annotations

import copy
import pickle
import threading
from datetime import date
from decimal import Decimal
from typing import Any
from unicodedata import category

import pytest

import plugwire.url
from plugwire.errors import InvalidURL, UsageError
from plugwire.url import CACHE_SIZE, URL, Origin
from worlds import in_time

MEANINGS = [
    # as written, as meant
    ("http://h", "http://h/"),
    ("HTTP://EXAMPLE.com/A", "http://example.com/A"),
    ("https://h:443/", "https://h/"),
    ("https://h:80/", "https://h:80/"),
    ("http://h:/", "http://h/"),
    ("http://h:00081/", "http://h:81/"),
    ("ws://h:80/", "ws://h/"),
    ("http://h/?", "http://h/?"),
    ("http://h/#", "http://h/#"),
    ("http://h?q", "http://h/?q"),
    ("http://h#f", "http://h/#f"),
    # dot segments
    ("http://h/a/./b/../c", "http://h/a/c"),
    ("http://h/a/%2e%2E/b", "http://h/b"),
    ("http://h/a/.%2e", "http://h/"),
    ("http://h/../..", "http://h/"),
    ("http://h/a/.", "http://h/a/"),
    ("http://h//a//..//b", "http://h//a//b"),
    ("http://h/...", "http://h/..."),
    # percent-encode sets
    ('http://h/ "#<>?`{}', "http://h/%20%22#%3C%3E?%60{}"),
    ("http://h/^`{}|[]'é", "http://h/%5E%60%7B%7D|[]'%C3%A9"),
    ("http://h/%zz%4", "http://h/%zz%4"),
    ("http://h/?'\"<> é^`{}\\", "http://h/?%27%22%3C%3E%20%C3%A9^`{}\\"),
    ("mem://h/?'", "mem://h/?'"),
    ("http://h/#`é \\", "http://h/#%60%C3%A9%20\\"),
    ("http://u;=:p|'@h/", "http://u%3B%3D:p%7C'@h/"),
    ("http://u:p:q@h/", "http://u:p%3Aq@h/"),
    ("http://@h/", "http://h/"),
    ("http://:@h/", "http://h/"),
    ("http://:p@h/", "http://:p@h/"),
    # names
    ("http://ex%61mple.com/", "http://example.com/"),
    ("http://faß.de/", "http://xn--fa-hia.de/"),
    ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
    ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
    ("http://☃.net/", "http://xn--n3h.net/"),
    ("http://a。b/", "http://a.b/"),
    ("http://a\xadb/", "http://ab/"),
    ("http://e\u0301.x/", "http://xn--9ca.x/"),
    ("http://XN--A.x/", "http://xn--a.x/"),
    ("http://a_b.x/", "http://a_b.x/"),
    ("http://-a-.x./", "http://-a-.x./"),
    # IPv4
    ("http://0x7f.1/", "http://127.0.0.1/"),
    ("http://017700000001/", "http://127.0.0.1/"),
    ("http://2130706433/", "http://127.0.0.1/"),
    ("http://0x.0x.0/", "http://0.0.0.0/"),
    ("http://0x" + "0" * 100 + "1/", "http://0.0.0.1/"),
    ("http://127.0.0.1./", "http://127.0.0.1/"),
    ("http://\uff11\uff12\uff17.1/", "http://127.0.0.1/"),
    ("http://1.2.3.4.x/", "http://1.2.3.4.x/"),
    # IPv6
    ("http://[::1]/", "http://[::1]/"),
    ("http://[1:0:0:2:0:0:0:3]:81/", "http://[1:0:0:2::3]:81/"),
    ("http://[1:0:2:3:4:5:6:7]/", "http://[1:0:2:3:4:5:6:7]/"),
    ("http://[::FFFF:1.2.3.4]/", "http://[::ffff:102:304]/"),
    ("http://[0:0::0:0]/", "http://[::]/"),
    ("http://[1:0:0:2:3:0:0:4]/", "http://[1::2:3:0:0:4]/"),
    # schemes that are not special
    ("mem://Host/a/../b?q#f", "mem://Host/b?q#f"),
    ("mem://host", "mem://host"),
    ("mem://ü/", "mem://%C3%BC/"),
    ("mem://h:80/", "mem://h:80/"),
    ("mem://[::0]/", "mem://[::]/"),
    ("http+unix://%2Frun%2Fdocker.sock/v1", "http+unix://%2Frun%2Fdocker.sock/v1"),
]


@pytest.mark.parametrize(("text", "href"), MEANINGS)
def test_meaning(text: str, href: str) -> None:
    assert URL(text).href == href


REFUSED = [
    ("http://good\\@evil/", "backslash"),
    ("http://h/a\\b", "backslash"),
    ("http:\\\\h/", "backslash"),
    ("mem://h\\x", "backslash"),
    ("ht\ntp://h/", "white space"),
    ("http://h/\tx", "white space"),
    ("http://h/?a\rb", "white space"),
    ("http://h/#a\nb", "white space"),
    (" http://h/", "white space"),
    ("http://h/ ", "white space"),
    ("http://h/\x00", "white space"),
    ("\x1fhttp://h/", "white space"),
    ("http:example.com", "no '//'"),
    ("http:/example.com", "no '//'"),
    ("localhost:8000", "no '//'"),
    ("mailto:a@b", "no '//'"),
    ("http:///x", "no host"),
    ("http:////x", "no host"),
    ("mem:///x", "no host"),
    ("http://", "no host"),
    ("http://?q", "no host"),
    ("http://#f", "no host"),
    ("http://u@/", "host is empty"),
    ("http://:80/", "host is empty"),
    ("http://%C2%AD/", "host is empty"),
    ("http://a@b@h/", "more than one '@'"),
    ("http://u:p@q:p@h/", "more than one '@'"),
    ("file:///etc/passwd", "file"),
    ("file://h/x", "file"),
    ("http://h/\ud800", "surrogate"),
    ("", "no scheme"),
    ("example.com", "no scheme"),
    ("/path", "no scheme"),
    ("1http://h", "no scheme"),
    ("http://h:65536/", "above 65535"),
    ("http://h:99999999999999999999999/", "above 65535"),
    ("http://h:a/", "not a number"),
    ("http://h:٣/", "not a number"),
    ("http://h:1:2/", "not a number"),
    ("http://h:-1/", "not a number"),
    ("http://a b/", "U+0020"),
    ("http://a<b/", "U+003C"),
    ("http://a%2Fb/", "U+002F"),
    ("http://a%00b/", "U+0000"),
    ("http://a%25b/", "U+0025"),
    ("http://a|b/", "U+007C"),
    ("http://a\x7fb/", "U+007F"),
    ("mem://a^b/", "U+005E"),
    ("http://%FF/", "not UTF-8"),
    ("http://a\u0378/", "internationalised"),
    ("http://\u0301a/", "leading combiner"),
    ("http://a\u200db/", "internationalised"),
    ("http://ü.xn--a/", "internationalised"),
    ("http://ü.xn--abc-/", "internationalised"),
    ("http://אa/", "bidi rule"),
    ("http://א.1a/", "bidi rule"),
    ("http://1.2.3.4.5/", "too many parts"),
    ("http://256.1.1.1/", "too large"),
    ("http://1.1.1.256/", "too large"),
    ("http://4294967296/", "too large"),
    ("http://" + "9" * 5000 + "/", "too large"),
    ("http://08/", "not an IPv4"),
    ("http://a.0x1/", "not an IPv4"),
    ("http://1..2/", "not an IPv4"),
    ("http://[::1/", "does not end with ']'"),
    ("http://[::1]x/", "does not end with ']'"),
    ("http://[]/", "not an IPv6"),
    ("http://[1::2::3]/", "not an IPv6"),
    ("http://[12345::]/", "not an IPv6"),
    ("http://[::1.2.3.04]/", "not an IPv6"),
    ("http://[v1.x]/", "not an IPv6"),
    ("http://[fe80::1%25eth0]/", "no zone"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        URL(text)
    assert reason in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ValueError)


def test_characters_that_this_python_does_not_know_are_refused() -> None:
    unknown = [chr(code) for code in range(0x2000, 0x2100) if category(chr(code)) == "Cn"]
    assert unknown
    for character in unknown:
        with pytest.raises(InvalidURL, match="internationalised"):
            URL(f"http://{character}/")


def test_the_message_says_where() -> None:
    with pytest.raises(InvalidURL) as caught:
        URL("http://h/path\\x")
    assert str(caught.value) == r"a backslash (character 13): 'http://h/path\\x'"


@pytest.mark.parametrize("wrong", [None, 5, b"http://h/", ["http://h/"]])
def test_another_type_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError):
        URL(wrong)


# -- parts ---------------------------------------------------------------------------------------------------------


def test_parts() -> None:
    url = URL("https://us%65r:p%40ss@Example.com:8443/a b?q=1#top")
    assert url.scheme == "https"
    assert (url.username, url.password, url.has_userinfo) == ("user", "p@ss", True)
    assert url.host == "example.com"
    assert (url.port, url.explicit_port) == (8443, 8443)
    assert url.authority == "example.com:8443"
    assert (url.path, url.query, url.fragment) == ("/a%20b", "q=1", "top")
    assert url.target == "/a%20b?q=1"
    assert url.origin == Origin("https", "example.com", 8443)
    assert url.is_special
    assert url.href == "https://us%65r:p%40ss@example.com:8443/a%20b?q=1#top"


def test_parts_that_are_not_there() -> None:
    url = URL("http://h")
    assert (url.username, url.password, url.has_userinfo) == ("", "", False)
    assert (url.port, url.explicit_port, url.authority) == (80, None, "h")
    assert (url.path, url.query, url.fragment, url.target) == ("/", None, None, "/")


def test_an_empty_query_or_fragment_is_not_none() -> None:
    url = URL("http://h/?#")
    assert (url.query, url.fragment, url.target) == ("", "", "/?")
    assert url != URL("http://h/")


def test_ipv6_host_is_bare_and_authority_has_brackets() -> None:
    url = URL("http://[::1]:81/")
    assert (url.host, url.authority, str(url.origin)) == ("::1", "[::1]:81", "http://[::1]:81")


def test_a_scheme_that_is_not_special() -> None:
    url = URL("mem://Host")
    assert (url.host, url.port, url.path, url.target, url.is_special) == ("Host", None, "", "/", False)
    assert url.origin == Origin("mem", "Host", None)
    assert URL("mem://h?q").target == "/?q"
    assert str(URL("mem://h:5/x").origin) == "mem://h:5"


def test_origin_has_no_userinfo_and_one_form() -> None:
    assert URL("http://u:p@H:80/x").origin == URL("http://h/y?z").origin
    assert URL("http://h/").origin != URL("https://h/").origin
    assert URL("https://h:444/").origin != URL("https://h/").origin
    assert str(URL("https://u:p@h/").origin) == "https://h"
    assert str(URL("https://h:80/").origin) == "https://h:80"
    assert len({URL("http://a/").origin, URL("http://A:80/").origin}) == 1


# -- relative references -------------------------------------------------------------------------------------------

BASE = "http://u:p@h:81/a/b/c?q#f"
JOINS = [
    (BASE, "", "http://u:p@h:81/a/b/c?q"),
    (BASE, "#g", "http://u:p@h:81/a/b/c?q#g"),
    (BASE, "?r", "http://u:p@h:81/a/b/c?r"),
    (BASE, "?", "http://u:p@h:81/a/b/c?"),
    (BASE, "d", "http://u:p@h:81/a/b/d"),
    (BASE, "d?r#g", "http://u:p@h:81/a/b/d?r#g"),
    (BASE, "./d", "http://u:p@h:81/a/b/d"),
    (BASE, "../d", "http://u:p@h:81/a/d"),
    (BASE, "../../../d", "http://u:p@h:81/d"),
    (BASE, "..", "http://u:p@h:81/a/"),
    (BASE, "%2e%2E/d", "http://u:p@h:81/a/d"),
    (BASE, ".", "http://u:p@h:81/a/b/"),
    (BASE, "/d", "http://u:p@h:81/d"),
    (BASE, "/d//e", "http://u:p@h:81/d//e"),
    (BASE, "//other/d", "http://other/d"),
    (BASE, "//u2@other:80", "http://u2@other/"),
    (BASE, "https://other/d", "https://other/d"),
    (BASE, "mem://other", "mem://other"),
    (BASE, "1:2", "http://u:p@h:81/a/b/1:2"),
    (BASE, "a/b:c", "http://u:p@h:81/a/b/a/b:c"),
    ("http://h", "x", "http://h/x"),
    ("http://[::1]:81/a", "b", "http://[::1]:81/b"),
    ("mem://H", "x", "mem://H/x"),
    ("mem://H", "?x", "mem://H?x"),
    ("mem://H/a/b", "../c", "mem://H/c"),
]


@pytest.mark.parametrize(("base", "reference", "href"), JOINS)
def test_join(base: str, reference: str, href: str) -> None:
    assert URL(base).join(reference).href == href


@pytest.mark.parametrize(
    "reference",
    [
        "http:d", "http:/d", "https:d", "///other/d", "//", "//@", "\\\\other", "/\\other", " d", "d\t", "d\ne",
        "//a@b@c", "javascript:x", "//h:99999", "\ud800",
    ],
)  # fmt: skip
def test_join_refuses(reference: str) -> None:
    with pytest.raises(InvalidURL):
        URL(BASE).join(reference)


def test_join_of_a_url_is_that_url() -> None:
    url = URL("mem://x/")
    assert URL(BASE).join(url) is url


PREFIXES = [
    ("https://h/v1", "users", "https://h/v1/users"),
    ("https://h/v1", "/users", "https://h/v1/users"),
    ("https://h/v1/", "users", "https://h/v1/users"),
    ("https://h/v1/", "/users", "https://h/v1/users"),
    ("https://h/v1", "", "https://h/v1"),
    ("https://h/v1/", "", "https://h/v1/"),
    ("https://h/v1", "/", "https://h/v1/"),
    ("https://h/v1", "?q=1", "https://h/v1?q=1"),
    ("https://h/v1", "#f", "https://h/v1#f"),
    ("https://h/v1", "users?q#f", "https://h/v1/users?q#f"),
    ("https://h/v1", "a/../b", "https://h/v1/b"),
    ("https://h/v1", "../v1", "https://h/v1"),
    ("https://h/v1", ".", "https://h/v1/"),
    ("https://h/v1", "things:get", "https://h/v1/things:get"),
    ("https://h/v1", "a@b", "https://h/v1/a@b"),
    ("https://h/v1", ":80", "https://h/v1/:80"),
    ("https://h", "@evil", "https://h/@evil"),
    ("https://h", "users", "https://h/users"),
    ("https://h", "../x", "https://h/x"),
    ("https://u:p@h:81/v1", "x", "https://u:p@h:81/v1/x"),
    ("https://h/v1", "http://other/x", "http://other/x"),
    ("https://h/v1", "MEM://Other/x", "mem://Other/x"),
    ("mem://h", "x", "mem://h/x"),
    ("mem://h", "", "mem://h"),
    ("mem://h", ":80", "mem://h/:80"),
    ("mem://h", "@evil", "mem://h/@evil"),
]


@pytest.mark.parametrize(("base", "reference", "href"), PREFIXES)
def test_prefix(base: str, reference: str, href: str) -> None:
    assert URL(base).prefix(reference).href == href


@pytest.mark.parametrize(
    "reference",
    [
        "//other/x",
        "///x",
        "../v2",
        "/..",
        "../v10",
        "a/../../x",
        "%2e%2e/x",
        "http:x",
        "https:/x",
        " x",
        "x ",
        "\\x",
        "a\tb",
    ],
)
def test_prefix_refuses(reference: str) -> None:
    with pytest.raises(InvalidURL):
        URL("https://h/v1").prefix(reference)


@pytest.mark.parametrize("base", ["https://h/v1?q", "https://h/v1?", "https://h/v1#f"])
def test_a_prefix_has_no_query_and_no_fragment(base: str) -> None:
    with pytest.raises(InvalidURL, match="no query and no fragment"):
        URL(base).prefix("x")
    assert URL(base).prefix("http://other/").href == "http://other/"


# -- changed copies ------------------------------------------------------------------------------------------------

COPIES: list[tuple[str, dict[str, Any], str]] = [
    ("http://h:443/", {"scheme": "https"}, "https://h/"),
    ("https://h/", {"scheme": "HTTP"}, "http://h/"),
    ("mem://0x7F.1", {"scheme": "http"}, "http://127.0.0.1/"),
    ("mem://h/?'", {"scheme": "http"}, "http://h/?%27"),
    ("http://h/", {"host": "FAß.de"}, "http://xn--fa-hia.de/"),
    ("http://h:81/", {"host": "::1"}, "http://[::1]:81/"),
    ("http://h/", {"host": "[::1]"}, "http://[::1]/"),
    ("http://[::1]/", {"port": 81}, "http://[::1]:81/"),
    ("http://h:81/", {"port": None}, "http://h/"),
    ("http://h:81/", {"port": 80}, "http://h/"),
    ("http://h/a?b#c", {"path": "x?#y"}, "http://h/x%3F%23y?b#c"),
    ("http://h/a", {"path": "/a/../b/"}, "http://h/b/"),
    ("http://h/a", {"path": "//b"}, "http://h//b"),
    ("http://h/a", {"path": ""}, "http://h/"),
    ("mem://h/a", {"path": ""}, "mem://h"),
    ("http://h/a?b", {"query": "c#'d"}, "http://h/a?c%23%27d"),
    ("http://h/a?b", {"query": None}, "http://h/a"),
    ("http://h/a", {"query": ""}, "http://h/a?"),
    ("http://h/a#b", {"fragment": None}, "http://h/a"),
    ("http://h/a", {"fragment": "#é"}, "http://h/a##%C3%A9"),
    ("http://h/", {"username": "a@b", "password": "p:/%?#"}, "http://a%40b:p%3A%2F%25%3F%23@h/"),
    ("http://u:p@h/", {"password": ""}, "http://u@h/"),
    ("http://u:p@h/", {"username": ""}, "http://:p@h/"),
    ("http://u:p@h/", {}, "http://u:p@h/"),
]


@pytest.mark.parametrize(("text", "changes", "href"), COPIES)
def test_copy_with(text: str, changes: dict[str, Any], href: str) -> None:
    url = URL(text).copy_with(**changes)
    assert url.href == href
    assert URL(href) == url
    assert URL(href).origin == url.origin


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": "no scheme"}, {"scheme": "file"}, {"scheme": ""}, {"scheme": "http://evil"}, {"host": ""},
        {"host": "a/b"}, {"host": "a@b"}, {"host": "a:80"}, {"host": "1.2.3.4.5"}, {"port": -1}, {"port": 65536},
        {"path": "\\x"}, {"path": "a\nb"}, {"query": "a\rb"}, {"fragment": "a\tb"}, {"username": "\ud800"},
        {"password": "a\nb"},
    ],
)  # fmt: skip
def test_copy_with_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidURL):
        URL("http://h/").copy_with(**changes)


def test_userinfo_comes_back_as_it_was_given() -> None:
    url = URL("http://h/").copy_with(username="é %41", password="a+b:@/")
    assert (url.username, url.password) == ("é %41", "a+b:@/")
    assert url.without_userinfo() == URL("http://h/")
    assert URL("http://h/").without_userinfo() is URL("http://h/")


PARAMS: list[tuple[str, Any, str]] = [
    ("http://h/", {"a": "b c"}, "http://h/?a=b+c"),
    ("http://h/?x=1", {"a": "b"}, "http://h/?x=1&a=b"),
    ("http://h/?", {"a": "b"}, "http://h/?a=b"),
    ("http://h/#f", {"a": "b"}, "http://h/?a=b#f"),
    ("http://h/", {"a": [1, 2.5, None, True]}, "http://h/?a=1&a=2.5&a=true"),
    ("http://h/", [("a", "1"), ("b", False), ("a", 2)], "http://h/?a=1&b=false&a=2"),
    ("http://h/", {"a": None}, "http://h/"),
    ("http://h/", {}, "http://h/"),
    ("http://h/?x", [], "http://h/?x"),
    ("http://h/", "", "http://h/"),
    ("http://h/?x", "a=b c#'", "http://h/?x&a=b%20c%23%27"),
    ("http://h/", {"é&=": "+/~-._*%"}, "http://h/?%C3%A9%26%3D=%2B%2F~-._%2A%25"),
    ("http://h/", {"": ""}, "http://h/?="),
    ("http://h/", {"a": "x\ny\t"}, "http://h/?a=x%0Ay%09"),
    ("http://h/", {"a": ()}, "http://h/"),
    (
        "http://h/",
        {"a": b"\xff /", "d": date(2026, 1, 2), "n": Decimal("0.10"), 2: 3},
        "http://h/?a=%FF+%2F&d=2026-01-02&n=0.10&2=3",
    ),
]


@pytest.mark.parametrize(("text", "params", "href"), PARAMS)
def test_with_params(text: str, params: Any, href: str) -> None:
    assert URL(text).with_params(params).href == href


@pytest.mark.parametrize(
    "params", [b"a=1", {"a": {"b": 1}}, {"a": {1}}, {None: "x"}, {"a": [["x"]]}, 5, {"a": "\ud800"}]
)
def test_params_that_cannot_be_written_are_refused(params: Any) -> None:
    with pytest.raises(UsageError, match=r"^params=: "):
        URL("http://h/").with_params(params)


# -- as a value ----------------------------------------------------------------------------------------------------


def test_equality_and_hash_go_by_the_canonical_form() -> None:
    assert URL("HTTP://H:80") == URL("http://h/")
    assert hash(URL("HTTP://H:80")) == hash(URL("http://h/"))
    assert URL("http://u:p@h/") != URL("http://u:q@h/")


def test_a_url_cannot_be_changed() -> None:
    url = URL("http://h/")
    with pytest.raises(AttributeError, match="copy_with"):
        url.host = "evil"
    with pytest.raises(AttributeError):
        del url.host
    with pytest.raises(AttributeError):
        url.new = 1  # type: ignore[attr-defined]
    assert not hasattr(url, "__dict__")


@pytest.mark.parametrize("text", ["http://u:p@h/a?b#c", "http://[::1]:81/", "mem://H", "http://☃.net/?"])
def test_copies_and_pickles_are_equal(text: str) -> None:
    url = URL(text)
    for twin in (pickle.loads(pickle.dumps(url)), copy.copy(url), copy.deepcopy(url), URL(url), URL(url.href)):
        assert twin == url
        assert all(getattr(twin, name) == getattr(url, name) for name in URL.__slots__)


def test_passwords_are_redacted() -> None:
    url = URL("https://user:se%3Acret@h/secret")
    assert str(url) == "https://user:***@h/secret"
    assert repr(url) == "URL('https://***@h/secret')"
    assert f"{url}" == str(url)
    assert str(URL("https://user@h/")) == "https://user@h/"
    assert repr(URL("https://token@h:81/?q#f")) == "URL('https://***@h:81/?q#f')"
    assert repr(URL("http://h/")) == "URL('http://h/')"
    assert str(URL("https://a:a@a/:a@")) == "https://a:***@a/:a@"


@pytest.mark.parametrize(
    "text",
    [
        "http://user:secret@h:x/", "http://user:secret@h\\", "http://user:secret@@h/", "http://user:sec/secret@h/",
        "http://user:sec?secret@h/", "http://user:sec#secret@h\t/", "http://secret x@a@h/", "user:secret@h",
        "http:user:secret@h/", "http://user:secret@/", "http://user:secret@a b/", " http://user:secret@h/",
        "http://user:\nsecret@h/", "http://user:secret\ud800@h/", "http://user:[secret@h/", "//user:secret@h/",
        "http:///user:secret@h/", "file://user:secret@h/",
    ],
)  # fmt: skip
def test_messages_have_no_password(text: str) -> None:
    for attempt in (URL, URL("https://u:secret@h/v1").join, URL("https://u:secret@h/v1").prefix):
        try:
            result = attempt(text)
        except InvalidURL as error:
            assert "secret" not in str(error)
            assert error.__context__ is None or "secret" not in str(error.__context__)
        else:
            assert "secret" not in str(result).removeprefix("https://u:***@h/v1") or attempt is not URL


def test_messages_are_short() -> None:
    with pytest.raises(InvalidURL) as caught:
        URL("x" * 100_000)
    assert len(str(caught.value)) < 400


# -- the cache -----------------------------------------------------------------------------------------------------


def test_a_known_text_is_not_parsed_again() -> None:
    assert URL("http://h/known") is URL("http://h/known")


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    kept = URL("http://h/kept")
    for number in range(CACHE_SIZE * 3):
        URL(f"http://h/{number}")
        assert URL("http://h/kept") is kept
    assert len(plugwire.url._recent) + len(plugwire.url._older) <= CACHE_SIZE


def test_long_texts_are_not_kept() -> None:
    long = "http://h/" + "a" * 10_000
    assert URL(long) == URL(long)
    assert URL(long) is not URL(long)


def test_threads_share_the_cache() -> None:
    errors: list[object] = []

    def work(offset: int) -> None:
        for number in range(3000):
            text = f"http://h/{(number * 7 + offset) % 1500}"
            if URL(text).href != text:
                errors.append(text)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(plugwire.url._recent) + len(plugwire.url._older) <= CACHE_SIZE + 2 * len(threads)


def test_a_url_is_made_in_the_midst_of_remembering_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal handler, or by what an observer does when the collector ends a connection."""

    class Size(int):
        def __floordiv__(self, other: int) -> int:
            monkeypatch.undo()
            URL("http://h/made-in-between")
            return CACHE_SIZE // other

    monkeypatch.setattr("plugwire.url.CACHE_SIZE", Size(CACHE_SIZE))
    in_time(lambda: URL("http://h/made-around-it"))
    assert URL("http://h/made-around-it") is URL("http://h/made-around-it")


def test_a_url_equals_its_text_and_has_its_hash() -> None:
    url = URL("https://user:secret@h/x?q#f")
    assert url == "https://user:secret@h/x?q#f" and url != "https://h/x?q#f"
    assert url in {url.href}  # what is equal is found in its place
    assert URL("https://h") == "https://h/" and URL("https://h") != "https://h"
    assert url != b"https://user:secret@h/x?q#f"
