"""`CookieJar`: the cookies of one or more sessions, safe under threads.

The rules are elsewhere: what a Set-Cookie line says and who may set what in `set_cookie`, what is sent, replaced and
evicted in `cookie_table`, files and `http.cookiejar` in `cookie_files`. Here are the lock, the clock, and the methods
that a program calls. The lock is short: nothing under it waits or does I/O.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast, overload
from weakref import WeakSet

from plugwire import URL, InvalidURL, UsageError
from plugwire.protocols import Cookie, CookieStore
from plugwire_plugins.cookie_table import CookieTable, would_overlay
from plugwire_plugins.set_cookie import MAX_LIFETIME, cookie_from, is_secure, objection

if TYPE_CHECKING:
    import http.cookiejar
    from collections.abc import Callable, Iterable, Iterator
    from os import PathLike
    from typing import Self

    from plugwire.protocols import SameSite

T = TypeVar("T")


class CookieJar(CookieStore):
    """Cookies by the rules of RFC 6265bis: `Session(cookies=CookieJar())`. Sessions may share a jar.

    Iterating gives `Cookie` values, and `jar["name"]` the value of one. What is found several times raises UsageError:
    `get(name, domain=..., path=...)` tells them apart. See `plugwire.protocols.CookieStore` for all methods.

    Args:
        cookies: put in at once: another jar, or Cookie values.
        wall_clock: seconds since 1970; what expiry is measured by.

    Raises:
        UsageError: a cookie that no server could set.
    """

    def __init__(self, cookies: Iterable[Cookie] = (), *, wall_clock: Callable[[], float] = time) -> None:
        self._wall_clock = wall_clock
        self._table = CookieTable()
        self._lock = threading.Lock()
        _jars.add(self)
        self.update(cookies)

    def __repr__(self) -> str:
        cookies = list(self)
        domains = len({cookie.domain for cookie in cookies})
        return f"<CookieJar of {len(cookies)} cookies for {domains} domains>"

    def __reduce__(self) -> NoReturn:
        # To read a pickle is to run what it says: a jar on disk must not be one.
        raise UsageError("a CookieJar is not pickled: use save() and load()")

    # -- what the plugin does

    def receive(self, lines: Iterable[str], url: URL) -> None:
        now, is_safe = self._wall_clock(), is_secure(url)
        # Of one response that is not secure: what its cookies must not overlay. It makes no Secure ones itself.
        guarded: dict[tuple[str, str], frozenset[str]] = {}
        for line in lines:
            cookie = cookie_from(line, url, now)
            if cookie is None:
                continue
            with self._lock:
                if not is_safe:
                    key = (cookie.name, cookie.domain)
                    if key not in guarded:
                        guarded[key] = self._table.secure_paths(*key, now)
                    if would_overlay(cookie, guarded[key]):
                        continue
                self._table.insert(cookie, now)

    def knows(self, url: URL) -> bool:
        return self._table.knows(url.host)

    def cookies_for(self, url: URL | str) -> list[Cookie]:
        url = URL(url)
        with self._lock:
            return self._table.matching(url, self._wall_clock())

    # -- one cookie

    def set(
        self,
        name: str,
        value: str,
        *,
        domain: str,
        path: str = "/",
        secure: bool = False,
        http_only: bool = False,
        same_site: SameSite | None = None,
        expires: float | None = None,
        max_age: float | None = None,
    ) -> None:
        for what, given in (("name", name), ("value", value), ("domain", domain), ("path", path)):
            if not isinstance(given, str):
                raise UsageError(f"set({what}=...): a str, not {type(given).__name__}")
        if same_site not in ("strict", "lax", "none", None):
            raise UsageError(f'same_site={same_site!r}: "strict", "lax", "none" or None')
        for what, seconds in (("expires", expires), ("max_age", max_age)):
            if seconds is not None and not isinstance(seconds, (int, float)):
                raise UsageError(f"set({what}=...): a number of seconds, not {type(seconds).__name__}")
        if max_age is not None:
            expires = self._wall_clock() + max_age
        host_only, host = not domain.startswith("."), domain.removeprefix(".")
        cookie = Cookie(name, value, _canonical(host), path, host_only, secure, http_only, same_site, expires)
        self._insert([cookie])

    @overload
    def get(
        self, name: str, default: None = None, *, domain: str | None = None, path: str | None = None
    ) -> str | None: ...
    @overload
    def get(self, name: str, default: T, *, domain: str | None = None, path: str | None = None) -> str | T: ...
    def get(self, name: str, default: Any = None, *, domain: str | None = None, path: str | None = None) -> Any:
        found = self._named(name, domain, path)
        if len(found) > 1:
            where = ", ".join(f"{cookie.domain}{cookie.path}" for cookie in found[:4])
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            raise UsageError(f"{len(found)} cookies have this name ({where}{more}): give get() a domain= or path=")
        return found[0].value if found else default

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        if isinstance(name, Cookie):
            return name in list(self)
        return isinstance(name, str) and bool(self._named(name, None, None))

    def _named(self, name: str, domain: str | None, path: str | None) -> list[Cookie]:
        with self._lock:
            return self._table.named(name, _bare(domain), path, self._wall_clock())

    def delete(self, name: str, *, domain: str | None = None, path: str | None = None) -> int:
        with self._lock:
            return self._table.delete(name, _bare(domain), path, self._wall_clock())

    # -- all of them

    def __iter__(self) -> Iterator[Cookie]:
        with self._lock:
            return iter(self._table.all(self._wall_clock()))

    def __len__(self) -> int:
        with self._lock:
            self._table.expire(self._wall_clock())
            return len(self._table)

    def clear(self, domain: str | None = None) -> None:
        with self._lock:
            self._table.clear(_bare(domain))

    def clear_expired(self) -> None:
        with self._lock:
            self._table.expire(self._wall_clock())

    def update(
        self, other: CookieStore | Iterable[Cookie] | Mapping[str, str], *, url: URL | str | None = None
    ) -> None:
        if isinstance(other, Mapping):
            self._insert(self._named_for(cast("Mapping[object, object]", other), url))
            return
        cookies = list(other)
        if not all(isinstance(cookie, Cookie) for cookie in cookies):
            raise UsageError("cookies are a mapping of names to values, a jar, or Cookie values")
        self._insert(cookies)

    def _named_for(self, mapping: Mapping[object, object], url: URL | str | None) -> list[Cookie]:
        if url is None:
            raise UsageError("a mapping of cookies does not say whom they are for: give url= too, or use set()")
        url = URL(url)
        cookies: list[Cookie] = []
        for name, value in mapping.items():
            if not (isinstance(name, str) and isinstance(value, str)):
                raise UsageError("a mapping of cookies has names and values of type str")
            cookies.append(Cookie(name, value, url.host, secure=is_secure(url)))
        return cookies

    def copy(self) -> Self:
        return type(self)(self, wall_clock=self._wall_clock)

    def _insert(self, cookies: Iterable[Cookie], *, is_strict: bool = True) -> None:
        """Put them in. If no server could set one of them, none is put in; or, if not `is_strict`, only the others."""
        now = self._wall_clock()
        kept: list[Cookie] = []
        for cookie in cookies:
            reason = objection(cookie)
            if reason is None:
                kept.append(_in_time(cookie, now))
            elif is_strict:
                raise UsageError(f"no server could set this cookie: {reason}")
        with self._lock:
            for cookie in kept:
                self._table.insert(cookie, now)

    # -- files and other jars

    def save(self, path: str | PathLike[str], *, session_cookies: bool = False) -> None:
        from plugwire_plugins.cookie_files import write

        write(path, [cookie for cookie in self if session_cookies or cookie.expires is not None])

    def load(self, path: str | PathLike[str]) -> Self:
        from plugwire_plugins.cookie_files import read

        # What was allowed when it was written may not be so any more: domains become public suffixes.
        self._insert(read(path), is_strict=False)
        return self

    @classmethod
    def from_cookiejar(cls, jar: http.cookiejar.CookieJar, *, wall_clock: Callable[[], float] = time) -> Self:
        """A jar with the cookies of one of the standard library's (or of a cookies.txt, by its `MozillaCookieJar`).
        Those that the rules here do not allow, such as one for all of "com", are left out.

        Raises:
            UsageError: one of them is for everybody, or for one port.
        """
        from plugwire_plugins.cookie_files import from_cookiejar

        made = cls(wall_clock=wall_clock)
        made._insert(from_cookiejar(jar), is_strict=False)
        return made

    def to_cookiejar(self) -> http.cookiejar.CookieJar:
        """A jar of the standard library with the same cookies."""
        from plugwire_plugins.cookie_files import to_cookiejar

        return to_cookiejar(self)


def _canonical(host: str) -> str:
    """A host as URLs have it.

    Raises:
        UsageError: it is none.
    """
    try:
        return URL("http://h/").copy_with(host=host).host
    except InvalidURL as error:
        raise UsageError(f"domain={host!r} is no host: {error}") from None


def _bare(domain: str | None) -> str | None:
    return None if domain is None else domain.removeprefix(".").lower()


def _in_time(cookie: Cookie, now: float) -> Cookie:
    """No cookie lives longer than the standard lets it, wherever it came from; and one that does not know when it was
    made was made now."""
    last = now + MAX_LIFETIME
    expires = last if cookie.expires is not None and cookie.expires > last else cookie.expires
    if cookie.created and expires == cookie.expires:
        return cookie
    return replace(cookie, created=cookie.created or now, expires=expires)


_jars: Final[WeakSet[CookieJar]] = WeakSet()


def _after_fork() -> None:
    """In the child: another thread may have held a lock when the process was forked, and here nobody would ever give it
    back. The table bears being left half-way."""
    for jar in list(_jars):
        jar._lock = threading.Lock()  # pyright: ignore[reportPrivateUsage]  # half of that class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
