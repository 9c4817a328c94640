"""The cookies of a jar, and the rules that need to see them all (RFC 6265bis, 5.7 and 5.8): plain data; no lock, no
clock, no I/O. The time is handed in as `now`, and what has expired by then is taken out before anything else is done.

How it works. Four structures hold the same entries:

    _domains    domain -> (name, path, host_only) -> entry    what a request looks at: its host, and the domains above
    _by_use     entry -> None, least recently used first      whom to evict when there are too many
    _by_expiry  a heap of (expires, number, entry)            what expires next, so that nobody scans for it
    _secure     name -> entries with Secure                   what an insecure connection must not overlay

So a request costs as much as the cookies of its own domains, whatever else the jar holds, and an insertion the
logarithm of their number. An entry that was replaced stays in the heap until its time has come, or until such entries
are the larger part of it, when it is built anew.

Who is interrupted half-way (by a signal) leaves at worst an entry that counts and is not sent, until it is evicted:
entries enter `_by_use` before `_domains`, and leave it after.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from plugwire_plugins.set_cookie import domain_matches, is_address, is_secure, path_matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from plugwire import URL
    from plugwire.protocols import Cookie

MAX_PER_DOMAIN: Final = 180
"""Cookies of one domain, as in Chrome; the standard asks for at least 50 (6.1)."""

MAX_COOKIES: Final = 3000
"""Cookies in a jar; the standard asks for at least 3000 (6.1)."""


class _Entry:
    """A cookie in its place.

    number: counts uses and insertions, so the higher, the more recent; no two are alike.
    order: longer paths first, then older cookies, then in the order in which they came (5.8.3).
    """

    __slots__ = ("cookie", "is_there", "number", "order")

    def __init__(self, cookie: Cookie, number: int, born: int) -> None:
        self.cookie = cookie
        self.number = number
        self.order = (-len(cookie.path), cookie.created, born)
        self.is_there = True

    @property
    def key(self) -> tuple[str, str, bool]:
        return (self.cookie.name, self.cookie.path, self.cookie.host_only)


class CookieTable:
    """The cookies of a jar."""

    def __init__(self) -> None:
        self._domains: dict[str, dict[tuple[str, str, bool], _Entry]] = {}
        self._by_use: dict[_Entry, None] = {}
        self._by_expiry: list[tuple[float, int, _Entry]] = []
        self._secure: dict[str, set[_Entry]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._by_use)

    # -- putting in

    def insert(self, cookie: Cookie, now: float) -> None:
        """Put a cookie in, in place of one of the same name, domain, path and host-only flag, whose age it takes over
        (5.7, step 23). One that has expired only takes that one out."""
        self.expire(now)
        self._count += 1
        entry = _Entry(cookie, self._count, self._count)
        old = self._domains.get(cookie.domain, {}).get(entry.key)
        if old is not None:
            entry = _Entry(replace(cookie, created=old.cookie.created), self._count, old.order[2])
            self._remove(old)
        if cookie.expires is not None and cookie.expires <= now:
            return
        self._by_use[entry] = None
        there = self._domains.setdefault(cookie.domain, {})
        there[entry.key] = entry
        if cookie.secure:
            self._secure.setdefault(cookie.name, set()).add(entry)
        if cookie.expires is not None:
            self._remember_expiry(cookie.expires, entry)
        if len(there) > MAX_PER_DOMAIN:
            # First those that anybody on the way could have set: else he could so drive out the others (5.7).
            weaker = [other for other in there.values() if not other.cookie.secure]
            self._remove(min(weaker or there.values(), key=attrgetter("number")))
        if len(self._by_use) > MAX_COOKIES:
            self._remove(next(iter(self._by_use)))

    def _remember_expiry(self, expires: float, entry: _Entry) -> None:
        heappush(self._by_expiry, (expires, entry.number, entry))
        if len(self._by_expiry) > 2 * len(self._by_use) + 100:
            self._by_expiry = [item for item in self._by_expiry if item[2].is_there]
            heapify(self._by_expiry)

    def secure_paths(self, name: str, domain: str, now: float) -> frozenset[str]:
        """The paths of the Secure cookies of this name that are for `domain`, for one above it, or for one below it."""
        self.expire(now)
        return frozenset(
            other.cookie.path
            for other in self._secure.get(name, ())
            if domain_matches(other.cookie.domain, domain) or domain_matches(domain, other.cookie.domain)
        )

    # -- looking up

    def all(self, now: float) -> list[Cookie]:
        """All cookies, in the order in which they came: put into another table so, they are sent as from this one."""
        self.expire(now)
        return [entry.cookie for entry in sorted(self._by_use, key=lambda entry: entry.order[1:])]

    def knows(self, host: str) -> bool:
        """True if a cookie of this host's domains is there, be it for others below them, or expired. Needs no lock: it
        looks things up, one by one."""
        domains = self._domains
        return any(domain in domains for domain in _domains_above(host))

    def matching(self, url: URL, now: float) -> list[Cookie]:
        """What a request to `url` takes along, in order (5.8.3). That is a use of these cookies."""
        self.expire(now)
        found: list[_Entry] = []
        host, path, is_safe = url.host, url.path or "/", is_secure(url)
        for domain in _domains_above(host):
            for entry in self._domains.get(domain, {}).values():
                cookie = entry.cookie
                if (
                    (domain == host or not cookie.host_only)
                    and (is_safe or not cookie.secure)
                    and path_matches(path, cookie.path)
                ):
                    found.append(entry)
        for entry in found:
            self._by_use.pop(entry, None)
            self._by_use[entry] = None
            self._count += 1
            entry.number = self._count
        found.sort(key=attrgetter("order"))
        return [entry.cookie for entry in found]

    def named(self, name: str, domain: str | None, path: str | None, now: float) -> list[Cookie]:
        """All cookies of this name, and of this domain and path if they are given."""
        self.expire(now)
        return [entry.cookie for entry in self._named(name, domain, path)]

    def _named(self, name: str, domain: str | None, path: str | None) -> list[_Entry]:
        entries = self._of(domain)
        return [entry for entry in entries if entry.cookie.name == name and path in (None, entry.cookie.path)]

    def _of(self, domain: str | None) -> Iterable[_Entry]:
        return self._by_use if domain is None else self._domains.get(domain, {}).values()

    # -- taking out

    def delete(self, name: str, domain: str | None, path: str | None, now: float) -> int:
        """Take out all cookies of this name, and of this domain and path if they are given; how many there were."""
        self.expire(now)
        found = self._named(name, domain, path)
        for entry in found:
            self._remove(entry)
        return len(found)

    def clear(self, domain: str | None) -> None:
        """Take out all cookies, or those of one domain."""
        for entry in list(self._of(domain)):
            self._remove(entry)

    def expire(self, now: float) -> None:
        """Take out what has expired."""
        heap = self._by_expiry
        while heap and heap[0][0] <= now:
            entry = heappop(heap)[2]
            if entry.is_there:
                self._remove(entry)

    def _remove(self, entry: _Entry) -> None:
        cookie = entry.cookie
        there = self._domains.get(cookie.domain, {})
        if there.get(entry.key) is entry:
            del there[entry.key]
            if not there:
                self._domains.pop(cookie.domain, None)
        if cookie.secure:
            same = self._secure.get(cookie.name, set())
            same.discard(entry)
            if not same:
                self._secure.pop(cookie.name, None)
        self._by_use.pop(entry, None)
        entry.is_there = False


def would_overlay(cookie: Cookie, secure_paths: AbstractSet[str]) -> bool:
    """True if the cookie, which came over a connection that is not secure, would replace a Secure one with one of these
    paths or be sent before it: so could somebody on the way put his own in a secure site's place (5.7, step 16)."""
    path = cookie.path
    above = {path}  # what `path_matches` says yes to; looked up, since each of a thousand lines may meet thousands
    for place, character in enumerate(path):
        if character == "/":
            above |= {path[:place], path[: place + 1]}
    return not above.isdisjoint(secure_paths)


def _domains_above(host: str) -> Iterator[str]:
    """The host itself, and each domain that it is below."""
    yield host
    dot = -1 if is_address(host) else host.find(".")
    while dot >= 0:
        yield host[dot + 1 :]
        dot = host.find(".", dot + 1)
