"""Set-Cookie: what a line says, and where a cookie belongs. Pure; the rules of RFC 6265bis (draft 22), section 5.

`parse_set_cookie` takes any text and never raises: servers write what they like, and the standard says for each text
what it means. It tells only what the line says; whether the server may set that, `cookie_from` decides by the URL that
the response came from, and `objection` by what holds for every cookie, wherever it came from. The store has the last
word (`cookie_table`), on what only it can know.

Two decisions that the standard leaves to us:

- *Secure connections* are https and wss, and those to this machine itself: `localhost`, names below it, loopback
  addresses. So a program under development works with the cookies that it will use in earnest.
- *SameSite* is kept and not enforced: it speaks of requests that one site makes a browser send to another, and what a
  program asks for was caused by no site.
"""

from __future__ import annotations

import re
from calendar import timegm
from datetime import date
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from plugwire.protocols import Cookie
from plugwire_plugins.public_suffixes import is_public_suffix

if TYPE_CHECKING:
    from plugwire import URL
    from plugwire.protocols import SameSite

MAX_COOKIE: Final = 4096
"""Bytes of name and value together; a longer cookie is ignored (5.6, 5.7)."""

MAX_ATTRIBUTE: Final = 1024
"""Bytes of an attribute's value; a longer attribute is ignored (5.6). Domain and path are no longer either where they
come from the URL and not from the line."""

MAX_LIFETIME: Final = 400 * 86400
"""Seconds; what is to live longer, lives so long (5.5)."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNSENDABLE: Final = re.compile(r"[^\x20-\x7e\x80-\xff\t]")
_MAX_AGE: Final = re.compile(r"(-?)([0-9]+)")
_SAME_SITE: Final = frozenset({"strict", "lax", "none"})
_SECURE_SCHEMES: Final = frozenset({"https", "wss"})


class SetCookie(NamedTuple):
    """What a line says. Of an attribute that stands there several times, the last one counts.

    domain: in lower case, without a dot before it; "": none.
    path: None: none that is one, so the default.
    has_path: there was such an attribute, whatever it said.
    expires: seconds since 1970, from Max-Age or Expires; None: neither.
    """

    name: str
    value: str
    domain: str
    path: str | None
    has_path: bool
    secure: bool
    http_only: bool
    same_site: SameSite | None
    expires: float | None


def parse_set_cookie(line: str, now: float) -> SetCookie | None:
    """What a Set-Cookie line says (5.6), or None if that is nothing. `now` is what Max-Age counts from."""
    if _CONTROL.search(line):
        return None
    pair, *attributes = line.split(";")
    name, equals, value = pair.partition("=")
    if not equals:
        name, value = "", pair
    name, value = name.strip(" \t"), value.strip(" \t")
    if (not name and not value) or len(name) + len(value) > MAX_COOKIE:
        return None
    domain, path, has_path, secure, http_only = "", None, False, False, False
    same_site: SameSite | None = None
    max_age: float | None = None
    expires: float | None = None
    for attribute in attributes:
        key, _, given = attribute.partition("=")
        given = given.strip(" \t")
        if len(given) > MAX_ATTRIBUTE:
            continue
        match key.strip(" \t").lower():
            case "expires":
                expires = _first(parse_cookie_date(given), expires)
            case "max-age":
                max_age = _first(_parse_max_age(given, now), max_age)
            case "domain":
                # What is not ASCII stays as it is, so it matches no host.
                domain = given.removeprefix(".")
                domain = domain.lower() if domain.isascii() else domain
            case "path":
                has_path = True
                path = given if given.startswith("/") else None
            case "secure":
                secure = True
            case "httponly":
                http_only = True
            case "samesite":
                word = given.lower()
                same_site = cast("SameSite", word) if word in _SAME_SITE else None
            case _:
                pass
    return SetCookie(name, value, domain, path, has_path, secure, http_only, same_site, _first(max_age, expires))


def _first(value: float | None, otherwise: float | None) -> float | None:
    return otherwise if value is None else value


def _parse_max_age(text: str, now: float) -> float | None:
    """The point in time that Max-Age means (5.6.2); None if the text is no number."""
    found = _MAX_AGE.fullmatch(text)
    if found is None:
        return None
    sign, digits = found[1], found[2].lstrip("0")
    if sign or not digits:
        return 0.0  # the earliest date that there is
    return now + (min(int(digits), MAX_LIFETIME) if len(digits) < 10 else MAX_LIFETIME)


# -- dates ---------------------------------------------------------------------------------------------------------

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE_TOKEN: Final = re.compile(r"[^\t\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
_TIME: Final = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])")
_DAY: Final = re.compile(r"([0-9]{1,2})(?![0-9])")
_YEAR: Final = re.compile(r"([0-9]{2,4})(?![0-9])")


def parse_cookie_date(text: str) -> float | None:
    """The date that an Expires means, in seconds since 1970, by the lax algorithm of 5.1.1; None if it is none.

    It looks for a time, a day, a month and a year among the words, in whatever order they come, and overlooks all else:
    of names of days and of time zones servers have written everything.
    """
    time: tuple[int, int, int] | None = None
    day = month = year = None
    for token in _DATE_TOKEN.findall(text):
        if time is None and (found := _TIME.match(token)):
            time = (int(found[1]), int(found[2]), int(found[3]))
        elif day is None and (found := _DAY.match(token)):
            day = int(found[1])
        elif month is None and (word := token[:3].lower()) in _MONTHS:
            month = _MONTHS.index(word) + 1
        elif year is None and (found := _YEAR.match(token)):
            year = int(found[1])
    if time is None or day is None or month is None or year is None:
        return None
    if 70 <= year <= 99:
        year += 1900
    elif year <= 69:
        year += 2000
    if year < 1601 or time[0] > 23 or time[1] > 59 or time[2] > 59:
        return None
    try:
        date(year, month, day)
    except ValueError:
        return None
    return float(timegm((year, month, day, *time)))


# -- where it belongs ----------------------------------------------------------------------------------------------


def is_address(host: str) -> bool:
    """True for an IP address; of a canonical host, as in `URL.host`."""
    return ":" in host or host[host.rfind(".") + 1 :].isdecimal()


def is_secure(url: URL) -> bool:
    """True if Secure cookies may go to and come from there; see the module."""
    if url.scheme in _SECURE_SCHEMES:
        return True
    host = url.host
    return (
        host == "localhost"
        or host.endswith(".localhost")
        or host == "::1"
        or (host.startswith("127.") and is_address(host))
    )


def domain_matches(host: str, domain: str) -> bool:
    """True if `host` is `domain` or below it (5.1.3). Nothing is below or above an address."""
    return host == domain or (host.endswith(f".{domain}") and not is_address(host))


def path_matches(path: str, cookie_path: str) -> bool:
    """True if `path` is `cookie_path` or below it (5.1.4)."""
    if not path.startswith(cookie_path):
        return False
    return len(path) == len(cookie_path) or cookie_path[-1] == "/" or path[len(cookie_path)] == "/"


def default_path(url: URL) -> str:
    """The path of a cookie whose server named none: that of the URL up to its last "/" (5.1.4)."""
    return url.path[: url.path.rfind("/")] or "/"


def cookie_from(line: str, url: URL, now: float) -> Cookie | None:
    """The cookie that a Set-Cookie line in a response from `url` makes, as far as can be said without looking at others
    (5.7); None if it must be ignored. An expiry in the past is one that deletes."""
    said = parse_set_cookie(line, now)
    if said is None:
        return None
    host, is_safe = url.host, is_secure(url)
    host_only = not said.domain or (
        said.domain == host and (is_address(host) or not url.is_special or is_public_suffix(host))
    )
    if not host_only and (not url.is_special or not domain_matches(host, said.domain)):
        return None
    if said.secure and not is_safe:
        return None
    if said.name[:7].lower() == "__host-" and not said.has_path:
        return None
    cookie = Cookie(
        said.name,
        said.value,
        host if host_only else said.domain,
        said.path if said.path is not None else default_path(url),
        host_only,
        said.secure,
        said.http_only,
        said.same_site,
        None if said.expires is None else min(said.expires, now + MAX_LIFETIME),
        now,
    )
    return None if objection(cookie) else cookie


def objection(cookie: Cookie) -> str | None:
    """Why no server could have set this cookie, wherever it came from: a program, a file, another jar; None if one
    could (5.7). The text names neither value nor name, which may be secrets."""
    name, value, domain, path = cookie.name, cookie.value, cookie.domain, cookie.path
    if not name and not value:
        return "it has neither a name nor a value"
    if _UNSENDABLE.search(name) or _UNSENDABLE.search(value) or ";" in name or ";" in value or "=" in name:
        return "name or value hold a control character, ';', '=' in the name, or what is not latin-1"
    if name.strip(" \t") != name or value.strip(" \t") != value:
        return "there is white space around name or value"
    if len(name) + len(value) > MAX_COOKIE:
        return f"name and value together are longer than {MAX_COOKIE} bytes"
    if not path.startswith("/") or ";" in path or _CONTROL.search(path):
        return "the path does not begin with '/', or holds ';' or a control character"
    if not domain.strip(".") or domain[0] == ".":
        return "there is no domain, or a dot before it"
    if len(domain) > MAX_ATTRIBUTE or len(path) > MAX_ATTRIBUTE:
        return f"domain or path are longer than {MAX_ATTRIBUTE} bytes"
    if not cookie.host_only and (is_address(domain) or is_public_suffix(domain)):
        return "its domain is an address or a public suffix: nobody owns what is below it"
    if cookie.expires is not None and cookie.expires != cookie.expires:  # not by isnan(): a file may have 10**400
        return "its expiry is no point in time"
    if cookie.same_site == "none" and not cookie.secure:
        return "SameSite=None without Secure"
    # A server that does not look at capitals takes one for the other; and a cookie without a name is sent as its
    # value alone, which may read as a name and a value.
    prefix = (name or value).lower()
    if prefix.startswith("__secure-") and not (name and cookie.secure):
        return "__Secure- without Secure"
    if prefix.startswith("__host-") and not (name and cookie.secure and cookie.host_only and path == "/"):
        return "__Host- without Secure, or not for one host alone and the path '/'"
    return None
