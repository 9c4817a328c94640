"""Set-Cookie lines, and a jar that is fed with them.

No line raises. Whatever a jar was told: nothing in it breaks the rules of its structures and of the standard; a request
takes exactly what the rules of sending say (said once more here, otherwise); a copy sends the same. Where the lines are
of the plain kind on which the standard library agrees with RFC 6265bis, its jar sends the same, and so for dates.

An input: what to do; then a date, or steps with LF between them, each of two bytes (where from, how much later) and a
line as latin-1.
"""

from __future__ import annotations

import re
from calendar import timegm
from email.message import Message
from http.cookiejar import CookieJar as TheirJar
from http.cookiejar import DefaultCookiePolicy, http2time
from itertools import pairwise
from time import time
from typing import Any
from urllib.request import Request

from fuzz.examples import Choices, examples
from plugwire import URL
from plugwire.protocols import Cookie
from plugwire_plugins import CookieJar
from plugwire_plugins.public_suffixes import is_public_suffix
from plugwire_plugins.set_cookie import MAX_ATTRIBUTE, MAX_COOKIE, MAX_LIFETIME, parse_cookie_date, parse_set_cookie

NOW = 1_800_000_000.0

WORDS = (
    b"=", b";", b"; ", b"; Path=/", b"; Path=", b"; Domain=", b"; Domain=example.com", b"; Domain=.example.com",
    b"; Domain=com", b"; Secure", b"; HttpOnly", b"; SameSite=None", b"; SameSite=Lax", b"; Max-Age=", b"; Max-Age=0",
    b"; Max-Age=9", b"; Expires=", b"Sun, 06 Nov 2044 08:49:37 GMT", b"06-Nov-94", b"08:49:37", b"__Host-",
    b"__Secure-", b"; Partitioned", b"\n\1\1", b"\n\4\0", b"Jan", b"2099",
)  # fmt: skip

URLS = [
    URL(url)
    for url in (
        "https://www.example.com/a/b", "http://www.example.com/a/b", "https://example.com/", "https://x.www.example.com/a",
        "https://badexample.com/a/", "http://127.0.0.1/a", "https://a.github.io/", "http://[::1]/ab", "https://com/",
        "http://localhost/a/", "https://example.co.uk/a", "http://10.0.0.1/", "http+unix://%2Frun%2Fexample.com/a",
    )
]  # fmt: skip


def seeds() -> list[bytes]:
    lines = [text.encode("latin-1", "replace").replace(b"\n", b"") for text in examples("test_cookie_jar", str)]
    found = [bytes((0,)) + line for line in lines if len(line) < 100]
    found += [bytes((1, number % 13, 0)) + line for number, line in enumerate(lines)]
    found += [bytes((2, number % 13, 0)) + line for number, line in enumerate(lines)]
    for first, second in pairwise(lines):
        last = b"\n\3\7a=b; Domain=example.com; Max-Age=5"
        found.append(b"\1\0\0" + first + b"; Secure; Path=/\n\1\0" + second + last)
    found.append(b"\2\0\0a=1; Path=/a; Max-Age=1000\n\2\0b=2; Secure\n\3\0c=3; HttpOnly\n\0\0a=; Max-Age=0; Path=/a")
    return found


def check(data: bytes) -> None:
    choices = Choices(data)
    what = choices.number() % 3
    (_date, _history, _differential)[what](choices.rest())


def _date(octets: bytes) -> None:
    text = octets.decode("latin-1")
    seconds = parse_cookie_date(text)
    if seconds is None:
        return
    assert timegm((1601, 1, 1, 0, 0, 0)) <= seconds <= timegm((9999, 12, 31, 23, 59, 59))
    if re.fullmatch(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} (19[7-9]|20[0-9])[0-9] [0-9:]{8} GMT", text):
        theirs = http2time(text)
        assert theirs is None or theirs == seconds, (theirs, seconds)


def _steps(octets: bytes) -> list[tuple[URL, int, str]]:
    found: list[tuple[URL, int, str]] = []
    for step in octets.split(b"\n"):
        if len(step) > 2:
            found.append((URLS[step[0] % len(URLS)], step[1] % 8, step[2:].decode("latin-1")))
    return found


def _history(octets: bytes) -> None:
    now = NOW
    jar = CookieJar(wall_clock=lambda: now)
    asked: set[str] = set()
    for url, pause, line in _steps(octets):
        _says_what_it_may(line)
        secure = {(cookie.name, cookie.value) for cookie in jar if cookie.secure}
        jar.receive([line], url)
        asked.add(url.host)
        if url.scheme != "https" and url.host not in ("127.0.0.1", "::1", "localhost"):
            assert secure == {(cookie.name, cookie.value) for cookie in jar if cookie.secure}
        now += pause
        jar.clear_expired()
        _agree(jar)
        for cookie in jar:
            _is_allowed(cookie, asked, now)
    for where in URLS:
        going = jar.cookies_for(where)
        assert set(going) == {cookie for cookie in jar if _may_go(cookie, where)}
        order = [(-len(cookie.path), cookie.created) for cookie in going]
        assert order == sorted(order)
    again = jar.copy()
    assert list(again) == list(jar)
    assert all(again.cookies_for(where) == jar.cookies_for(where) for where in URLS)


def _says_what_it_may(line: str) -> None:
    said = parse_set_cookie(line, NOW)
    if said is None:
        return
    assert 0 < len(said.name) + len(said.value) <= MAX_COOKIE
    for text in (said.name, said.value, said.path or ""):
        assert text == text.strip(" \t") and not re.search(r"[\x00-\x08\x0a-\x1f\x7f;]", text)
    assert "=" not in said.name and len(said.domain) <= MAX_ATTRIBUTE
    assert line.lstrip(" \t=").startswith(said.name) and said.value in line


def _agree(jar: CookieJar) -> None:
    table = jar._table
    placed = [entry for there in table._domains.values() for entry in there.values()]
    assert set(placed) == set(table._by_use) and all(table._domains.values())
    assert {entry for same in table._secure.values() for entry in same} == {e for e in placed if e.cookie.secure}


def _is_allowed(cookie: Cookie, asked: set[str], now: float) -> None:
    name = (cookie.name or cookie.value).lower()
    assert not name.startswith("__secure-") or cookie.secure
    assert not name.startswith("__host-") or (cookie.secure and cookie.host_only and cookie.path == "/")
    assert cookie.expires is None or now < cookie.expires <= now + MAX_LIFETIME
    assert cookie.same_site != "none" or cookie.secure
    if cookie.host_only:
        assert cookie.domain in asked
    else:
        assert not is_public_suffix(cookie.domain) and not cookie.domain[-1].isdigit()
        assert any(f".{host}".endswith(f".{cookie.domain}") for host in asked)


def _may_go(cookie: Cookie, url: URL) -> bool:
    is_address = re.fullmatch(r"[0-9.]+|.*:.*", url.host)
    if cookie.host_only or is_address:
        fits = url.host == cookie.domain
    else:
        fits = f".{url.host}".endswith(f".{cookie.domain}")
    below = url.path == cookie.path or url.path.startswith(cookie.path.removesuffix("/") + "/")
    safe = url.scheme == "https" or url.host in ("127.0.0.1", "::1", "localhost")
    return fits and below and (safe or not cookie.secure) and (url.path >= cookie.path)


_PLAIN = re.compile(r"[a-z]+=[a-z0-9]*(?:; (?:Path=/[a-z/]*|Secure|HttpOnly|Max-Age=(?:0|[1-9][0-9]{3,5})))*")


def _is_plain(line: str) -> bool:
    """Of an attribute that stands there twice they take the first one, and there is no length that they do not take."""
    names = [part.partition("=")[0] for part in line.split("; ")[1:]]
    return bool(_PLAIN.fullmatch(line)) and len(line) < 500 and len(names) == len(set(names))


class _Response:
    def __init__(self, line: str) -> None:
        self.message = Message()
        self.message["Set-Cookie"] = line

    def info(self) -> Message:
        return self.message


def _differential(octets: bytes) -> None:
    """Not from names without a dot, which they write otherwise, nor from http, whence they take Secure cookies. And as
    strict as they can be: by default they send a cookie for one host to all below it."""
    now = time()
    jar = CookieJar(wall_clock=lambda: now)
    theirs = TheirJar(DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain))
    for url, _, line in _steps(octets):
        if url.scheme != "https" or url.host == "com" or not _is_plain(line):
            continue
        jar.receive([line], url)
        response: Any = _Response(line)
        theirs.extract_cookies(response, Request(url.href))
    for url in URLS:
        if url.scheme == "https" and url.host != "com":
            request = Request(url.href)
            theirs.add_cookie_header(request)
            pairs = request.get_header("Cookie", "")
            ours = sorted(f"{cookie.name}={cookie.value}" for cookie in jar.cookies_for(url))
            assert ours == sorted(pairs.split("; ") if pairs else [])
