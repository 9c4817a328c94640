"""The cookie jar: Set-Cookie lines, what is sent where, limits, files; without I/O but for the files."""

from __future__ import annotations

import http.cookiejar
import json
import os
import pickle
import signal
import stat
import threading
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugwire import URL, UsageError
from plugwire.protocols import Cookie, CookieStore
from plugwire_plugins import CookieJar, cookie_table
from plugwire_plugins.public_suffixes import is_public_suffix
from plugwire_plugins.set_cookie import (
    MAX_ATTRIBUTE,
    MAX_COOKIE,
    MAX_LIFETIME,
    default_path,
    domain_matches,
    is_secure,
    parse_cookie_date,
    parse_set_cookie,
    path_matches,
)

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0
SITE = "https://www.example.com/a/b"


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jar(clock: Clock) -> CookieJar:
    return CookieJar(wall_clock=clock)


def receive(jar: CookieJar, *lines: str, url: str = SITE) -> None:
    jar.receive(lines, URL(url))


def sent(jar: CookieJar, url: str = SITE) -> list[str]:
    return [f"{cookie.name}={cookie.value}" for cookie in jar.cookies_for(url)]


def only(jar: CookieJar) -> Cookie:
    (cookie,) = jar
    return cookie


# -- what a line says (5.6) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("a=b", "a", "b"),
        (" a\t= b ", "a", "b"),
        ("a=b=c", "a", "b=c"),
        ("a=", "a", ""),
        ("=b", "", "b"),
        ("b", "", "b"),
        ("==b", "", "=b"),
        ('a="b c"', "a", '"b c"'),
        ("a=b,c", "a", "b,c"),
        ("a=b; Secure", "a", "b"),
        ("a=%20\xe9", "a", "%20\xe9"),
        ("a=x\ty", "a", "x\ty"),
        ("a=b;;;=;x;y=z", "a", "b"),
    ],
)
def test_name_and_value(line: str, name: str, value: str) -> None:
    said = parse_set_cookie(line, NOW)
    assert said is not None and (said.name, said.value) == (name, value)


@pytest.mark.parametrize(
    "line",
    ["", "=", " = ", ";", "; Path=/", "a=\0", "a=b; Path=/\r", "a\n=b", "a=b; x=\x7f", "a=b; \x1f", "a\x01=b",
     "a=" + "b" * MAX_COOKIE, "a" * (MAX_COOKIE + 1)],
)  # fmt: skip
def test_lines_that_are_ignored(line: str) -> None:
    assert parse_set_cookie(line, NOW) is None


def test_a_cookie_may_be_as_long_as_the_limit() -> None:
    assert parse_set_cookie("ab=" + "c" * (MAX_COOKIE - 2), NOW) is not None


@pytest.mark.parametrize(
    ("attributes", "field", "value"),
    [
        ("Domain=Example.COM", "domain", "example.com"),
        ("Domain=.example.com", "domain", "example.com"),
        ("Domain=..example.com", "domain", ".example.com"),
        ("Domain=a.example; domain = b.example", "domain", "b.example"),
        ("Domain=a.example; Domain=", "domain", ""),
        ("Domain=\u212aelvin.example", "domain", "\u212aelvin.example"),
        ("Domain=" + "a" * (MAX_ATTRIBUTE + 1), "domain", ""),
        ("Path=/x", "path", "/x"),
        ("Path=x", "path", None),
        ("Path=/x; Path=y", "path", None),
        ("Path=/" + "x" * MAX_ATTRIBUTE, "path", None),
        ("Path=/" + "x" * (MAX_ATTRIBUTE - 1), "path", "/" + "x" * (MAX_ATTRIBUTE - 1)),
        ("secure", "secure", True),
        ("Secure=no", "secure", True),
        ("Secured", "secure", False),
        ("HttpOnly", "http_only", True),
        ("SameSite=Lax", "same_site", "lax"),
        ("SAMESITE=strict", "same_site", "strict"),
        ("SameSite=None", "same_site", "none"),
        ("SameSite=Lax; SameSite=what", "same_site", None),
        ("Partitioned", "same_site", None),
        ("Max-Age=60", "expires", NOW + 60),
        ("Max-Age=0", "expires", 0.0),
        ("Max-Age=-1", "expires", 0.0),
        ("Max-Age=007", "expires", NOW + 7),
        ("Max-Age=-", "expires", None),
        ("Max-Age=", "expires", None),
        ("Max-Age=+1", "expires", None),
        ("Max-Age=1.5", "expires", None),
        ("Max-Age=\u0661", "expires", None),
        ("Max-Age=" + "9" * 1000, "expires", NOW + MAX_LIFETIME),
        ("Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:01 GMT", "expires", NOW + 60),
        ("Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=60", "expires", NOW + 60),
        ("Expires=Thu, 01 Jan 1970 00:00:01 GMT", "expires", 1.0),
        ("Expires=Thu, 01 Jan 1970 00:00:01 GMT; Expires=nonsense", "expires", 1.0),
        ("Max-Age=x; Expires=Thu, 01 Jan 1970 00:00:01 GMT", "expires", 1.0),
    ],
)
def test_attributes(attributes: str, field: str, value: object) -> None:
    assert getattr(parse_set_cookie(f"a=b; {attributes}", NOW), field) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("6 nov 1994 8:49:37", 784111777),
        ("08:49:37 1994 06 November", 784111777),
        ("08:49:37 06 November 1994", 784111777),
        ("1994;Nov;06;08:49:37", 784111777),
        ("06nov 06 nov 94 08:49:37am", 1162802977),  # the second 06 may be a year, and comes first
        ("6x novelty 1994y 8:49:37z", 784111777),
        ("Thu, 01-Jan-1970 00:00:00 GMT", 0),
        ("Mon, 01 Jan 1601 00:00:00 GMT", -11644473600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
        ("01 Jan 69 00:00:00", 3124224000),
        ("01 Jan 70 00:00:00", 0),
        ("29 Feb 2024 00:00:00", 1709164800),
        ("29 Feb 2023 00:00:00", None),
        ("31 Apr 2024 00:00:00", None),
        ("00 Jan 2024 00:00:00", None),
        ("01 Jan 1600 00:00:00", None),
        ("01 Jan 2024 24:00:00", None),
        ("01 Jan 2024 00:60:00", None),
        ("01 Jan 2024 00:00:60", None),
        ("01 Jan 2024 00:00", None),
        ("01 Jan 2024 000:00:00", None),
        ("01 Jan 20244 00:00:00", None),
        ("001 Jan 2024 00:00:00", None),
        ("Jan 2024 00:00:00", None),
        ("01 2024 00:00:00", None),
        ("01 Jan 00:00:00", None),
        ("0", None),
        ("", None),
    ],
)
def test_cookie_dates(text: str, seconds: int | None) -> None:
    assert parse_cookie_date(text) == seconds


@given(st.integers(0, 4102444800))
def test_dates_as_servers_write_them_today(seconds: int) -> None:
    assert parse_cookie_date(formatdate(seconds, usegmt=True)) == seconds


# -- where a cookie belongs (5.1) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "domain", "matches"),
    [
        ("example.com", "example.com", True),
        ("www.example.com", "example.com", True),
        ("a.b.example.com", "example.com", True),
        ("example.com", "www.example.com", False),
        ("badexample.com", "example.com", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.1", False),
        ("1.127.0.0.1", "127.0.0.1", False),
        ("::1", "::1", True),
        ("::1", "1", False),
    ],
)
def test_domain_match(host: str, domain: str, matches: bool) -> None:
    assert domain_matches(host, domain) is matches


@pytest.mark.parametrize(
    ("path", "cookie_path", "matches"),
    [
        ("/", "/", True),
        ("/a", "/", True),
        ("/a", "/a", True),
        ("/a/", "/a", True),
        ("/a/b", "/a", True),
        ("/a/b", "/a/", True),
        ("/a", "/a/", False),
        ("/ab", "/a", False),
        ("/", "/a", False),
        ("/A", "/a", False),
    ],
)
def test_path_match(path: str, cookie_path: str, matches: bool) -> None:
    assert path_matches(path, cookie_path) is matches


@pytest.mark.parametrize(
    ("url", "path"),
    [("http://h", "/"), ("http://h/", "/"), ("http://h/a", "/"), ("http://h/a/", "/a"), ("http://h/a/b?c/d", "/a"),
     ("http+unix://%2Frun%2Fx", "/"), ("http+unix://%2Frun%2Fx/a/b", "/a")],
)  # fmt: skip
def test_default_path(url: str, path: str) -> None:
    assert default_path(URL(url)) == path


@pytest.mark.parametrize(
    ("url", "secure"),
    [("https://h.example", True), ("wss://h.example", True), ("http://h.example", False), ("ws://h.example", False),
     ("http://localhost:8000", True), ("http://a.localhost", True), ("http://127.1", True), ("http://[::1]", True),
     ("http://127.0.0.1.example", False), ("http://10.0.0.1", False), ("http://notlocalhost", False),
     ("http+unix://%2Frun%2Fx", False)],
)  # fmt: skip
def test_secure_connections(url: str, secure: bool) -> None:
    assert is_secure(URL(url)) is secure


def test_a_cookie_is_for_its_host_alone_unless_the_server_says_domain(jar: CookieJar) -> None:
    receive(jar, "a=1; Path=/", "b=2; Path=/; Domain=example.com", "c=3; Path=/; Domain=www.example.com")
    assert sent(jar) == ["a=1", "b=2", "c=3"]
    assert sent(jar, "https://example.com/") == ["b=2"]
    assert sent(jar, "https://x.example.com/") == ["b=2"]
    assert sent(jar, "https://x.www.example.com/") == ["b=2", "c=3"]
    assert sent(jar, "https://www.example.com.evil.example/") == []
    assert [(cookie.domain, cookie.host_only) for cookie in jar] == [
        ("www.example.com", True), ("example.com", False), ("www.example.com", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.example.com", "example.org"),
        ("https://www.example.com", "x.www.example.com"),
        ("https://www.example.com", "ample.com"),
        ("https://www.example.com", "com"),
        ("https://www.example.com", "."),
        ("https://www.example.co.uk", "co.uk"),
        ("https://a.github.io", "github.io"),
        ("https://a.kobe.jp", "kobe.jp"),
        ("https://a.xn--55qx5d.cn", "xn--55qx5d.cn"),
        ("https://a.intranet", "intranet"),
        ("https://www.example.com", "exampl\xe9.com"),
        ("http://10.0.0.1", "0.0.1"),
        ("http+unix://%2Frun%2Fa.sock", "sock"),
        ("http+unix://%2Frun%2Fa.b.sock", "b.sock"),
    ],
)
def test_aiohttp_cve_2026_54279_a_domain_that_is_not_the_servers_is_refused(
    jar: CookieJar, url: str, domain: str
) -> None:
    receive(jar, f"a=1; Domain={domain}", url=url)
    if domain == ".":
        assert only(jar).host_only  # which is none
    else:
        assert not jar


@pytest.mark.parametrize(
    ("url", "domain"),
    [("https://github.io", "github.io"), ("http://localhost", "localhost"), ("http://127.0.0.1", "127.0.0.1"),
     ("https://com", "com")],
)  # fmt: skip
def test_a_suffix_or_address_that_is_the_host_itself_is_for_it_alone(jar: CookieJar, url: str, domain: str) -> None:
    receive(jar, f"a=1; Domain={domain}", url=url)
    assert only(jar).host_only and only(jar).domain == domain


def test_the_list_of_public_suffixes_is_not_read_before_it_is_needed(jar: CookieJar) -> None:
    from plugwire_plugins import public_suffixes

    public_suffixes._list.cache_clear()
    receive(jar, "a=1; Path=/; Secure", "b=2; Domain=example.org")
    sent(jar)
    assert public_suffixes._list.cache_info().misses == 0
    receive(jar, "a=1; Domain=example.com")
    assert public_suffixes._list.cache_info().misses == 1


@pytest.mark.parametrize(
    ("domain", "is_public"),
    [("com", True), ("co.uk", True), ("example.co.uk", False), ("example.com.", False), ("com.", True),
     ("a..example.com", True), ("city.kobe.jp", False), ("x.kobe.jp", True), ("nothing-like-that", True)],
)  # fmt: skip
def test_public_suffixes(domain: str, is_public: bool) -> None:
    assert is_public_suffix(domain) is is_public


def test_longer_paths_go_first_and_then_older_cookies(jar: CookieJar, clock: Clock) -> None:
    receive(jar, "young=1; Path=/a", "root=2; Path=/")
    clock.now += 1
    receive(jar, "long=3; Path=/a/b", "late=4; Path=/a")
    clock.now += 1
    receive(jar, "young=5; Path=/a")  # it keeps its age
    assert sent(jar) == ["long=3", "young=5", "late=4", "root=2"]
    assert sent(jar, "https://www.example.com/a") == ["young=5", "late=4", "root=2"]
    assert sent(jar, "https://www.example.com/ab") == ["root=2"]


def test_cookies_of_one_moment_keep_the_order_in_which_they_came(jar: CookieJar) -> None:
    receive(jar, "a=1; Path=/", "b=2; Path=/", "long=3; Path=/a", "a=4; Path=/")
    assert sent(jar) == ["long=3", "a=4", "b=2"]
    assert [cookie.name for cookie in jar] == ["a", "b", "long"]
    jar.update([Cookie("late", "5", "h.example", created=NOW - 1), Cookie("early", "6", "h.example", created=NOW - 2)])
    assert sent(jar, "https://h.example/") == ["early=6", "late=5"]


def test_name_domain_path_and_host_only_flag_tell_cookies_apart(jar: CookieJar) -> None:
    receive(jar, "a=1; Path=/", "a=2; Path=/a", "a=3; Path=/; Domain=www.example.com", "A=4; Path=/", "a=5; Path=/")
    assert sorted(sent(jar)) == ["A=4", "a=2", "a=3", "a=5"]


def test_a_cookie_without_a_name_goes_out_as_its_value(jar: CookieJar) -> None:
    from plugwire_plugins.cookies import joined

    receive(jar, "token; Path=/", "a=; Path=/")
    assert joined("", jar.cookies_for(SITE)) == "token; a="


# -- Secure, prefixes, SameSite (5.4, 5.7) ---------------------------------------------------------------------------


def test_secure_cookies_are_neither_taken_from_nor_sent_over_plain_http(jar: CookieJar) -> None:
    receive(jar, "a=1; Secure; Path=/", "b=2; Path=/")
    assert sent(jar, "http://www.example.com/") == ["b=2"]
    receive(jar, "c=3; Secure; Path=/", url="http://www.example.com/")
    assert sent(jar) == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("sid=evil; Path=/login", "http://www.example.com/"),
        ("sid=evil; Path=/login/en", "http://www.example.com/"),
        ("sid=evil; Path=/login; Domain=example.com", "http://www.example.com/"),
        ("sid=evil; Path=/login", "http://x.www.example.com/"),
        ("sid=; Path=/login; Max-Age=0", "http://www.example.com/"),
    ],
)
def test_secure_cookies_are_left_alone(jar: CookieJar, line: str, url: str) -> None:
    receive(jar, "sid=good; Secure; Path=/login; Domain=www.example.com")
    receive(jar, line, url=url)
    assert sent(jar, "https://www.example.com/login") == sent(jar, "https://x.www.example.com/login") == ["sid=good"]


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("sid=other; Path=/", "http://www.example.com/"),
        ("sid=other; Path=/foo", "http://www.example.com/"),
        ("sid=other; Path=/login", "http://y.example.com/"),
        ("SID=other; Path=/login", "http://www.example.com/"),
        ("sid=other; Path=/login", "https://www.example.com/"),
    ],
)
def test_what_does_not_overlay_a_secure_cookie_is_taken(jar: CookieJar, line: str, url: str) -> None:
    receive(jar, "sid=good; Secure; Path=/login")
    receive(jar, line, url=url)
    assert "other" in [cookie.value for cookie in jar]


def test_where_a_secure_cookie_has_gone_its_name_is_free(jar: CookieJar, clock: Clock) -> None:
    receive(jar, "sid=good; Secure; Path=/; Max-Age=10")
    clock.now += 10
    receive(jar, "sid=other; Path=/", url="http://www.example.com/")
    assert sent(jar) == ["sid=other"]


@pytest.mark.parametrize(
    "line",
    [
        "__Secure-a=1", "__secure-a=1; Domain=example.com", "__SECURE-a=1; Path=/", "__Host-a=1",
        "__host-a=1; Secure", "__Host-a=1; Secure; Path=/x",
        "__HOST-a=1; Secure; Path=/; Domain=www.example.com", "__Host-a=1; Path=/",
        "__Host-a", "=__Secure-a=1; Secure", "=__host-a; Secure; Path=/", "a=1; SameSite=None",
    ],
)  # fmt: skip
def test_prefixes_and_same_site_none_promise_more_than_these_keep(jar: CookieJar, line: str) -> None:
    receive(jar, line, url="https://www.example.com/")
    assert not jar


@pytest.mark.parametrize(
    "line",
    ["__Secure-a=1; Secure; Domain=example.com", "__SECURE-a=1; secure", "__Host-a=1; Secure; Path=/",
     "__host-a=1; Path=/; Secure; Domain=", "a=1; SameSite=None; Secure", "__Hosta=1", "a__Host-=1"],
)  # fmt: skip
def test_prefixes_that_are_kept(jar: CookieJar, line: str) -> None:
    receive(jar, line)
    assert len(jar) == 1


def test_a_prefix_from_plain_http_is_refused(jar: CookieJar) -> None:
    receive(jar, "__Host-a=1; Secure; Path=/", url="http://www.example.com/")
    assert not jar


# -- expiry and limits ---------------------------------------------------------------------------------------------


def test_cookies_expire_and_an_expiry_in_the_past_deletes(jar: CookieJar, clock: Clock) -> None:
    receive(jar, "a=1; Path=/; Max-Age=10", "b=2; Path=/", f"c=3; Path=/; Expires={formatdate(NOW + 20, usegmt=True)}")
    clock.now += 9
    assert sent(jar) == ["a=1", "b=2", "c=3"]
    clock.now += 1
    assert sent(jar) == ["b=2", "c=3"] and len(jar) == 2 and "a" not in jar
    receive(jar, "b=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "c=; Path=/x; Max-Age=0")
    assert sent(jar) == ["c=3"]
    clock.now += 10
    assert not jar and list(jar) == []


@pytest.mark.parametrize("attribute", ["Max-Age=99999999", "Expires=Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_cookie_lives_longer_than_400_days(jar: CookieJar, clock: Clock, attribute: str) -> None:
    receive(jar, f"a=1; {attribute}")
    assert only(jar).expires == NOW + 400 * 86400
    clock.now += 400 * 86400
    assert not jar


def test_expired_cookies_are_found_without_looking_at_the_others(jar: CookieJar, clock: Clock) -> None:
    for number in range(1000):
        receive(jar, "a=1; Path=/; Max-Age=1000", url=f"https://h{number}.example/")
        receive(jar, "a=2; Path=/; Max-Age=10", url=f"https://h{number}.example/")  # leaves a stale entry in the heap
    table = jar._table
    assert len(jar) == 1000 and len(table._by_expiry) <= 2100
    for _ in range(5000):
        receive(jar, "b=2; Path=/; Max-Age=1000", url="https://h.example/")
    assert len(table._by_expiry) <= 2 * 1001 + 100
    clock.now += 10
    assert len(jar) == 1 and len(table._domains) == 1 and len(table._by_use) == 1


PATHS = st.text("/ab", max_size=8).map("/".__add__)


@given(PATHS, st.frozensets(PATHS, max_size=5))
def test_what_overlays_is_looked_up_as_it_would_be_compared(path: str, secure: frozenset[str]) -> None:
    cookie = Cookie("a", "b", "example.com", path)
    assert cookie_table.would_overlay(cookie, secure) is any(path_matches(path, other) for other in secure)


def test_a_thousand_lines_look_at_thousands_of_secure_cookies_once(
    jar: CookieJar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 KB that a stranger sends over http: each line looked at all of them, for more than a second."""
    for site in range(10):
        url = f"https://site-{site}.example/"
        receive(jar, *(f"a=b; Secure; Path=/{number}" for number in range(cookie_table.MAX_PER_DOMAIN)), url=url)
    asked = 0

    def counted(host: str, domain: str) -> bool:
        nonlocal asked
        asked += 1
        return domain_matches(host, domain)

    monkeypatch.setattr(cookie_table, "domain_matches", counted)
    receive(jar, *["a=b"] * 1000, "a=b; Path=/7", url="http://stranger.example/")
    assert 0 < asked <= 2 * len(jar)


def test_a_domain_has_180_cookies_and_insecure_ones_go_first(jar: CookieJar) -> None:
    receive(jar, *(f"s{number}=1; Path=/; Secure" for number in range(100)))
    receive(jar, *(f"p{number}=1; Path=/" for number in range(80)))
    assert len(jar) == cookie_table.MAX_PER_DOMAIN == 180
    receive(jar, "gone=1; Max-Age=0")  # drives out nothing
    assert "p0" in jar and len(jar) == 180
    receive(jar, "used=1; Path=/used")  # drives out p0, the oldest
    assert "p0" not in jar and len(jar) == 180
    for number in range(300):
        receive(jar, f"q{number}=1; Path=/", url="http://www.example.com/")
    names = {cookie.name for cookie in jar}
    assert len(names) == 180 and {f"s{number}" for number in range(100)} <= names and "q299" in names
    receive(jar, *(f"t{number}=1; Path=/; Secure" for number in range(180)))
    assert {cookie.name for cookie in jar} == {f"t{number}" for number in range(180)}
    receive(jar, "late=1", url="http://www.example.com/")  # nobody on the way drives out what is Secure
    assert "late" not in jar and len(jar) == 180


def test_the_least_recently_used_goes_first(jar: CookieJar) -> None:
    receive(jar, *(f"c{number}=1; Path=/{number}" for number in range(180)))
    assert sent(jar, "https://www.example.com/0") == ["c0=1"]
    receive(jar, "new=1")
    assert "c0" in jar and "c1" not in jar


def test_a_jar_has_3000_cookies(jar: CookieJar) -> None:
    for number in range(cookie_table.MAX_COOKIES):
        receive(jar, "a=1; Path=/", url=f"https://h{number}.example/")
    sent(jar, "https://h0.example/")
    receive(jar, "a=1; Path=/", url="https://more.example/")
    assert len(jar) == cookie_table.MAX_COOKIES == 3000 == len(jar._table._domains)
    assert sent(jar, "https://h0.example/") and not sent(jar, "https://h1.example/")


def test_a_path_that_only_the_url_is_long_enough_for_is_not_kept(jar: CookieJar) -> None:
    long = "https://www.example.com/" + "x" * MAX_ATTRIBUTE + "/"
    receive(jar, "a=1", url=long)
    assert not jar
    receive(jar, "a=1; Path=/", url=long)
    assert len(jar) == 1


def test_a_request_looks_at_its_own_domains_only(jar: CookieJar, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2000):
        receive(jar, "a=1; Path=/; Max-Age=100", url=f"https://h{number}.example/")
    receive(jar, "a=1; Path=/", "b=1; Path=/no")
    looked: list[str] = []

    def counting(path: str, cookie_path: str) -> bool:
        looked.append(cookie_path)
        return path_matches(path, cookie_path)

    monkeypatch.setattr(cookie_table, "path_matches", counting)
    assert sent(jar) == ["a=1"]
    assert sorted(looked) == ["/", "/no"]


# -- what a program calls ------------------------------------------------------------------------------------------


def test_set_and_get(jar: CookieJar) -> None:
    assert isinstance(jar, CookieStore)
    jar.set("a", "1", domain="Example.COM")
    jar.set("a", "2", domain=".example.com", path="/x", secure=True, http_only=True, same_site="lax", max_age=60)
    jar.set("b", "3", domain="b\xfccher.example", expires=NOW + 5)
    assert jar["b"] == "3" and jar.get("b", domain="xn--bcher-kva.example") == "3"
    assert [cookie.domain for cookie in jar] == ["example.com", "example.com", "xn--bcher-kva.example"]
    assert jar.get("a", path="/x") == "2" and jar.get("a", domain="example.com", path="/") == "1"
    assert jar.get("nothing") is None and jar.get("nothing", "else") == "else"
    assert sent(jar, "https://example.com/x") == ["a=2", "a=1"]
    assert sent(jar, "https://w.example.com/x") == ["a=2"]
    assert "a" in jar and "nothing" not in jar and 1 not in jar and next(iter(jar)) in jar
    with pytest.raises(KeyError):
        _ = jar["nothing"]
    for ambiguous in (lambda: jar["a"], lambda: jar.get("a"), lambda: jar.get("a", domain=".example.com")):
        with pytest.raises(UsageError, match=r"2 cookies have this name \(example.com/, example.com/x\)"):
            ambiguous()
    jar.set("a", "", domain=".example.com", path="/x", max_age=0)
    assert jar["a"] == "1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "a;b"}, "control character"), ({"name": "a=b"}, "control character"), ({"value": "a\r\n"}, "control"),
        ({"value": "a;b"}, "control"), ({"value": "\u20ac"}, "latin-1"), ({"value": " a"}, "white space"),
        ({"name": "", "value": ""}, "neither"), ({"value": "a" * 4096}, "longer than 4096"), ({"path": "x"}, "path"),
        ({"path": "/;"}, "path"), ({"path": "/" * 2000}, "longer than 1024"), ({"domain": ""}, "no host"),
        ({"domain": "a b"}, "no host"), ({"domain": ".com"}, "public suffix"), ({"domain": ".127.0.0.1"}, "address"),
        ({"name": "__Host-a"}, "__Host-"), ({"name": "__secure-a"}, "__Secure-"), ({"same_site": "none"}, "SameSite"),
        ({"same_site": "odd"}, "same_site="), ({"value": 1}, "a str, not int"), ({"expires": "now"}, "not str"),
        ({"max_age": timedelta(1)}, "not timedelta"), ({"expires": float("nan")}, "no point in time"),
        ({"max_age": float("nan")}, "no point in time"),
    ],
)  # fmt: skip
def test_what_no_server_could_set_is_refused(jar: CookieJar, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        jar.set(**{"name": "a", "value": "s3cret", "domain": "h.example", **change})
    assert not jar


@pytest.mark.parametrize("name", ["expires", "created"])
@pytest.mark.parametrize("number", [10**400, -(10**400), 2**53 + 1, 1e300])
def test_numbers_that_are_no_points_in_time_are_refused_in_a_file(
    jar: CookieJar, tmp_path: Path, name: str, number: float
) -> None:
    jar.set("a", "b", domain="h.example", max_age=5)
    jar.save(path := tmp_path / "jar")
    content = json.loads(path.read_text())
    content["cookies"][0][name] = number
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="wrong type"):
        CookieJar().load(path)


def test_an_expiry_of_any_size_is_one(jar: CookieJar) -> None:
    for expires in (10**400, -(10**400)):
        jar.set("a", "b", domain="h.example", expires=expires)
        assert len(jar) == (expires > 0)


def test_delete_and_clear(jar: CookieJar, clock: Clock) -> None:
    receive(jar, "a=1; Path=/", "a=2; Path=/a", "b=3; Domain=example.com", "c=4; Max-Age=5")
    assert jar.delete("a", path="/a") == 1 and jar.delete("a", domain="other.example") == 0
    assert jar.delete("a") == 1 and jar.delete("a") == 0
    jar.clear(".Example.com")
    assert [cookie.name for cookie in jar] == ["c"]
    clock.now += 5
    jar.clear_expired()
    assert not jar._table._by_use and not jar._table._domains
    receive(jar, "a=1", "b=2; Secure")
    jar.clear()
    assert not jar and not jar._table._secure


def test_update_and_copy(jar: CookieJar, clock: Clock) -> None:
    receive(jar, "a=1; Path=/", "b=2; Path=/; Domain=example.com; Secure; Max-Age=9")
    other = jar.copy()
    assert list(other) == list(jar) and other is not jar
    other.clear()
    assert len(jar) == 2
    other.update({"x": "1", "y": "2"}, url="https://api.example/v1/")
    other.update([Cookie("z", "3", "z.example")])
    other.update(jar)
    assert sent(other) == ["a=1", "b=2"] and sent(other, "https://z.example") == ["z=3"]
    assert sent(other, "https://api.example/") == ["x=1", "y=2"]
    assert sent(other, "http://api.example/") == sent(other, "https://x.api.example/") == []
    assert all(cookie.created == NOW for cookie in other)
    for wrong in ({"a": "b"}, ["a"], [("a", "b")]):
        with pytest.raises(UsageError):
            other.update(wrong)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(UsageError, match="of type str"):
        other.update({"a": 1}, url="https://h")  # type: ignore[dict-item]  # wrong on purpose
    with pytest.raises(UsageError, match="no server"):
        CookieJar([Cookie("good", "1", "h.example"), Cookie("a", "b", "com", host_only=False)])


def test_no_repr_shows_a_value(jar: CookieJar) -> None:
    receive(jar, "sid=s3cret; Secure; HttpOnly; Domain=example.com")
    cookie = only(jar)
    assert repr(cookie) == "<Cookie sid=*** for .example.com/a, secure, http_only>"
    assert repr(jar) == "<CookieJar of 1 cookies for 1 domains>"
    assert "s3cret" not in f"{jar} {cookie!s} {[cookie]} {vars(jar)}"
    with pytest.raises(FrozenInstanceError):
        cookie.value = "x"  # type: ignore[misc]  # wrong on purpose


def test_threads_share_a_jar(jar: CookieJar) -> None:
    failures: list[BaseException] = []
    begin = threading.Barrier(64)

    def work(number: int) -> None:
        begin.wait()
        host = f"https://h{number % 8}.example/"
        try:
            for turn in range(30):
                receive(jar, f"c{number}={turn}; Path=/; Max-Age=100", "shared=1; Path=/; Domain=h.example", url=host)
                assert f"c{number}={turn}" in sent(jar, host)
                for cookie in jar:
                    assert cookie.value
                if turn % 10 == 9:
                    assert jar.delete(f"c{number}") == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not jar and not jar._table._domains


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_finds_the_lock_free_whoever_held_it(jar: CookieJar) -> None:
    receive(jar, "a=1")
    with jar._lock:
        child = os.fork()
        if not child:
            signal.alarm(60)
            os._exit(0 if len(jar) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


# -- files ---------------------------------------------------------------------------------------------------------


def test_aiohttp_cve_2026_34993_a_jar_is_no_pickle(jar: CookieJar, tmp_path: Path) -> None:
    receive(jar, "a=1; Max-Age=60")
    with pytest.raises(UsageError, match=r"save\(\) and load\(\)"):
        pickle.dumps(jar)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "jar").write_bytes(pickle.dumps({"format": "plugwire cookies"}, protocol))
        with pytest.raises(UsageError, match="it is not JSON"):
            jar.load(tmp_path / "jar")
    jar.save(tmp_path / "jar")
    json.loads((tmp_path / "jar").read_bytes())


def test_aiohttp_cve_2026_54279_a_saved_cookie_is_for_one_host(jar: CookieJar, clock: Clock, tmp_path: Path) -> None:
    receive(jar, "a=1; Path=/; Max-Age=60", "b=2; Path=/; Domain=example.com; Max-Age=60", url="https://example.com")
    jar.save(tmp_path / "jar")
    again = CookieJar(wall_clock=clock).load(tmp_path / "jar")
    assert list(again) == list(jar) and [cookie.host_only for cookie in again] == [True, False]
    assert sent(again, "https://x.example.com/") == ["b=2"]


def test_session_cookies_are_saved_if_asked_for(jar: CookieJar, clock: Clock, tmp_path: Path) -> None:
    receive(jar, "session=1", "kept=2; Max-Age=60")
    jar.save(tmp_path / "jar")
    assert [cookie.name for cookie in CookieJar(wall_clock=clock).load(tmp_path / "jar")] == ["kept"]
    jar.save(str(tmp_path / "jar"), session_cookies=True)
    assert list(CookieJar(wall_clock=clock).load(str(tmp_path / "jar"))) == list(jar)
    clock.now += 60
    assert [cookie.name for cookie in CookieJar(wall_clock=clock).load(tmp_path / "jar")] == ["session"]


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_a_file_is_for_its_owner_whatever_was_there(jar: CookieJar, tmp_path: Path, umask: int) -> None:
    receive(jar, "a=1; Max-Age=60")
    path = tmp_path / "jar"
    path.write_text("old")
    path.chmod(0o666)
    before = os.umask(umask)
    try:
        jar.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["jar"]


def test_a_link_is_replaced_and_not_followed(jar: CookieJar, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "jar").symlink_to(victim)
    jar.save(tmp_path / "jar")
    assert victim.read_text() == "precious" and not (tmp_path / "jar").is_symlink()


def test_what_lies_in_the_way_of_the_temporary_file_is_not_written_to(
    jar: CookieJar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugwire_plugins.cookie_files.token_hex", lambda size: "guessed")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".jar.guessed").symlink_to(victim)
    with pytest.raises(FileExistsError):
        jar.save(tmp_path / "jar")
    assert victim.read_text() == "precious" and not (tmp_path / "jar").exists()


def test_a_save_that_fails_leaves_what_was_there(
    jar: CookieJar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jar"
    jar.save(path)
    before = path.read_bytes()
    receive(jar, "a=1; Max-Age=60")

    def failing(number: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="full"):
        jar.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["jar"]


COOKIE = {"name": "a", "value": "s3cret", "domain": "h.example", "path": "/", "host_only": True, "secure": False,
          "http_only": False, "same_site": None, "expires": None, "created": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON"), (b"[]", "format"), (b"{}", "format"),
        (b'{"format": "plugwire cookies"}', "version"),
        (b'{"format": "plugwire cookies", "version": 2, "cookies": []}', "version"),
        (b'{"format": "plugwire cookies", "version": 1, "cookies": {}}', "list"),
        (b'{"format": "plugwire cookies", "version": 1, "cookies": ["s3cret"]}', "field"),
        ({**COOKIE, "more": 1}, "field"), ({"name": "a"}, "field"), ({**COOKIE, "value": 1}, "type"),
        ({**COOKIE, "host_only": "no"}, "type"), ({**COOKIE, "same_site": "odd"}, "type"),
        ({**COOKIE, "expires": True}, "type"), ({**COOKIE, "expires": float("inf")}, "type"),
        ({**COOKIE, "created": None}, "type"), ({**COOKIE, "same_site": ["lax"]}, "type"),
    ],
)  # fmt: skip
def test_a_broken_file_is_said_to_be_one(jar: CookieJar, tmp_path: Path, content: Any, reason: str) -> None:
    if isinstance(content, dict):
        good = {**COOKIE, "name": "good"}
        content = json.dumps({"format": "plugwire cookies", "version": 1, "cookies": [good, content]}).encode()
    (tmp_path / "jar").write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        jar.load(tmp_path / "jar")
    assert "s3cret" not in str(caught.value) and "jar" in str(caught.value)
    assert not jar
    with pytest.raises(FileNotFoundError):
        jar.load(tmp_path / "nothing")


def test_what_is_not_allowed_any_more_is_not_loaded(jar: CookieJar, tmp_path: Path) -> None:
    changes = [
        {"domain": "com", "host_only": False}, {"name": "__Host-a"}, {"value": "a\r\nb"}, {"domain": ""},
        {"expires": 1.0}, {"expires": 1e12},
    ]  # fmt: skip
    cookies = [{**COOKIE, **change} for change in changes]
    content = {"format": "plugwire cookies", "version": 1, "cookies": cookies}
    (tmp_path / "jar").write_text(json.dumps(content))
    assert only(jar.load(tmp_path / "jar")).expires == NOW + MAX_LIFETIME


# -- http.cookiejar ------------------------------------------------------------------------------------------------


def test_cookies_of_the_standard_library_come_and_go(jar: CookieJar, clock: Clock) -> None:
    receive(jar, "a=1; Path=/", "b=2; Path=/x; Domain=example.com; Secure; HttpOnly; SameSite=Lax; Max-Age=60", "token")
    receive(jar, "d=4", url="http://localhost/")
    theirs = jar.to_cookiejar()
    assert {(cookie.name, cookie.value, cookie.domain) for cookie in theirs} == {
        ("a", "1", "www.example.com"), ("b", "2", ".example.com"), ("token", None, "www.example.com"),
        ("d", "4", "localhost.local"),
    }  # fmt: skip
    again = CookieJar.from_cookiejar(theirs, wall_clock=clock)
    assert set(again) == set(jar)
    clock.now += 60
    assert "b" not in CookieJar.from_cookiejar(theirs, wall_clock=clock)


def test_a_jar_of_the_standard_library_sends_what_ours_does(jar: CookieJar) -> None:
    import urllib.request

    receive(jar, "a=1; Path=/", "b=2; Path=/a; Domain=example.com; Secure")
    receive(jar, "d=4; Path=/", url="http://localhost/")
    for url in (SITE, "https://x.example.com/a", "http://www.example.com/a", "http://localhost/"):
        request = urllib.request.Request(url)
        jar.to_cookiejar().add_cookie_header(request)
        pairs = (request.get_header("Cookie") or "").split("; ")
        assert sorted(pair for pair in pairs if pair) == sorted(sent(jar, url))


def test_cookies_txt(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "cookies.txt").write_text(
        "# Netscape HTTP Cookie File\n"
        f".example.com\tTRUE\t/\tTRUE\t{int(NOW) + 60}\tb\t2\n"
        f"www.example.com\tFALSE\t/\tFALSE\t{int(NOW) + 60}\ta\t1\n"
        f".com\tTRUE\t/\tFALSE\t{int(NOW) + 60}\tevil\t1\n"
    )
    theirs = http.cookiejar.MozillaCookieJar(tmp_path / "cookies.txt")
    theirs.load(ignore_discard=True, ignore_expires=True)
    jar = CookieJar.from_cookiejar(theirs, wall_clock=clock)
    assert {replace(cookie, created=0) for cookie in jar} == {
        Cookie("b", "2", "example.com", host_only=False, secure=True, expires=NOW + 60),
        Cookie("a", "1", "www.example.com", expires=NOW + 60),
    }


@pytest.mark.parametrize("change", [{"domain": ""}, {"domain": "."}, {"port": "80", "port_specified": True}])
def test_a_cookie_for_everybody_or_for_a_port_is_not_taken(jar: CookieJar, change: dict[str, Any]) -> None:
    jar.set("a", "1", domain="h.example")
    theirs = http.cookiejar.CookieJar()
    for cookie in jar.to_cookiejar():
        for name, value in change.items():
            setattr(cookie, name, value)
        theirs.set_cookie(cookie)
    with pytest.raises(UsageError, match="a cookie of that jar"):
        CookieJar.from_cookiejar(theirs)


# -- properties ----------------------------------------------------------------------------------------------------

hosts = st.sampled_from(
    ["example.com", "www.example.com", "a.www.example.com", "badexample.com", "example.co.uk", "x.example.co.uk",
     "co.uk", "github.io", "a.github.io", "127.0.0.1", "localhost", "[::1]", "com"]
)  # fmt: skip
urls = st.builds(
    "{}://{}{}".format, st.sampled_from(["http", "https"]), hosts, st.sampled_from(["/", "/a", "/a/b", "/ab", "/a/"])
)
attributes = st.sampled_from(
    ["Secure", "HttpOnly", "Path=/", "Path=/a", "Path=/a/", "Path=a", "Domain=example.com", "Domain=.example.com",
     "Domain=www.example.com", "Domain=co.uk", "Domain=github.io", "Domain=127.0.0.1", "Domain=com", "Max-Age=0",
     "Max-Age=5", "Max-Age=10", "Expires=Thu, 01 Jan 2099 00:00:00 GMT", "SameSite=None", "SameSite=Lax"]
)  # fmt: skip
set_cookies = st.builds(
    lambda name, value, parts: "; ".join([f"{name}={value}", *parts]),
    st.sampled_from(["a", "b", "__Host-a", "__secure-b", ""]),
    st.sampled_from(["1", "2", "", "__Host-a=1"]),
    st.lists(attributes, max_size=4),
)
histories = st.lists(st.tuples(urls, set_cookies, st.sampled_from([0, 1, 5])), max_size=12)


def played(history: list[tuple[str, str, int]]) -> tuple[CookieJar, Clock]:
    clock = Clock()
    jar = CookieJar(wall_clock=clock)
    for url, line, pause in history:
        receive(jar, line, url=url)
        clock.now += pause
    return jar, clock


def may_go(cookie: Cookie, url: URL, now: float) -> bool:
    """The rules of 5.8.3, said once more and otherwise."""
    labels, domain = url.host.split("."), cookie.domain.split(".")
    is_below = not url.host.replace(".", "").isdigit() and ":" not in url.host and labels[-len(domain) :] == domain
    segments = [*url.path.split("/"), ""]
    wanted = cookie.path.rstrip("/").split("/")
    return (
        (url.host == cookie.domain if cookie.host_only else is_below)
        and segments[: len(wanted)] == wanted
        and (not cookie.path.endswith("/") or url.path.startswith(cookie.path))
        and (not cookie.secure or url.scheme == "https" or url.host in ("127.0.0.1", "localhost", "::1"))
        and (cookie.expires is None or cookie.expires > now)
    )


@given(histories, urls)
def test_a_cookie_is_sent_where_the_standard_lets_it_and_nowhere_else(
    history: list[tuple[str, str, int]], url: str
) -> None:
    jar, clock = played(history)
    where = URL(url)
    known = jar.knows(where)
    going = jar.cookies_for(where)
    assert known or not going
    assert set(going) == {cookie for cookie in jar if may_go(cookie, where, clock.now)}
    lengths = [len(cookie.path) for cookie in going]
    assert lengths == sorted(lengths, reverse=True)
    # Whoever set it had a right to: nothing in the jar is for more than the hosts it was asked at, and those below.
    origins = {URL(asked).host for asked, _, _ in history}
    for cookie in jar:
        assert any(domain_matches(host, cookie.domain) for host in origins)
        assert cookie.host_only or not is_public_suffix(cookie.domain)
        if cookie.name.lower().startswith("__host-"):
            assert cookie.secure and cookie.host_only and cookie.path == "/"


@given(histories)
def test_a_file_gives_back_what_was_saved(history: list[tuple[str, str, int]]) -> None:
    import tempfile

    jar, clock = played(history)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "jar")
        jar.save(path, session_cookies=True)
        again = CookieJar(wall_clock=clock).load(path)
    assert list(again) == list(jar)
    for url, _, _ in history:
        assert again.cookies_for(url) == jar.cookies_for(url)


@given(histories)
def test_the_structures_of_a_table_agree(history: list[tuple[str, str, int]]) -> None:
    jar, _ = played(history)
    jar.clear_expired()
    table = jar._table
    placed = [entry for there in table._domains.values() for entry in there.values()]
    assert set(placed) == set(table._by_use) and len(placed) == len(table._by_use)
    assert all(entry.is_there for entry in placed) and all(table._domains.values())
    assert {entry for same in table._secure.values() for entry in same} == {e for e in placed if e.cookie.secure}
    timed = {entry for _, _, entry in table._by_expiry if entry.is_there}
    assert timed == {entry for entry in placed if entry.cookie.expires is not None}
