"""Cookies as sessions, plugins and programs see them: what one is, and what a session's jar promises.

The shipped jar is `plugwire_plugins.CookieJar`. It is a class of its own and not a part of the core, so that another
plugin named "cookies" may bring another `CookieStore`; `session.cookies` is whichever the session was given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike
    from typing import Self

    from plugwire.url import URL

T = TypeVar("T")

SameSite = Literal["strict", "lax", "none"]


@dataclass(frozen=True, slots=True, repr=False)
class Cookie:
    """A cookie, as it is stored (RFC 6265bis, 5.7). A value: it never changes, and does not know where it is kept.

    Attributes:
        name: may be empty if the value is not: `Set-Cookie: token` is a cookie without a name.
        value: as received, quotes included. Text in latin-1, as all that HTTP fields carry.
        domain: a host in canonical form, without a dot before it.
        path: begins with "/"; the cookie is for this path and those below.
        host_only: True: for that host alone; False: for those below it too, because the server said Domain.
        secure: sent over secure connections only.
        http_only: not for scripts of a page, which there are none of here; kept for who looks at it.
        same_site: what the server said of requests that other sites cause; None: nothing. Kept for who looks at it:
            a request that a program makes is caused by no site.
        expires: seconds since 1970; None: a session cookie, kept as long as the jar is.
        created: seconds since 1970, when this name first came for this domain and path.
    """

    name: str
    value: str
    domain: str
    path: str = "/"
    host_only: bool = True
    secure: bool = False
    http_only: bool = False
    same_site: SameSite | None = None
    expires: float | None = None
    created: float = 0.0

    def __repr__(self) -> str:
        """Everything but the value, which is a secret more often than not."""
        where = f"{'' if self.host_only else '.'}{self.domain}{self.path}"
        flags = "".join(f", {name}" for name in ("secure", "http_only") if getattr(self, name))
        return f"<Cookie {self.name}=*** for {where}{flags}>"


class CookieStore(ABC):
    """The cookies of a session: what `session.cookies` and `call.session.cookies` are.

    Nothing here waits, and threads may use it at once. Iterating goes over a copy of what was there at the beginning.
    Names are not unique: a name may stand for several domains and paths. What wants one value and finds several raises
    `UsageError`, and `domain=` and `path=` tell them apart.
    """

    @abstractmethod
    def receive(self, lines: Iterable[str], url: URL) -> None:
        """Take what a response from `url` says: the values of its Set-Cookie lines. What is not allowed to be set is
        ignored, as the standard has it; nothing that a peer may say raises."""

    @abstractmethod
    def knows(self, url: URL) -> bool:
        """True if there may be cookies for the host of `url`. Quick: it is asked before each request, and only if it
        says so, `cookies_for` is."""

    @abstractmethod
    def cookies_for(self, url: URL | str) -> list[Cookie]:
        """The cookies that go out with a request to `url`, in the order in which they are sent."""

    @abstractmethod
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
        """Put a cookie in, over one of the same name, domain and path.

        Args:
            domain: a host: the cookie is for it alone. With a dot before it ("." and a domain), for all below it too.
            expires: seconds since 1970; None: a session cookie.
            max_age: seconds from now; stronger than `expires`. 0 or less: such a cookie is deleted.

        Raises:
            UsageError: no server could set such a cookie.
        """

    @overload
    def get(
        self, name: str, default: None = None, *, domain: str | None = None, path: str | None = None
    ) -> str | None: ...
    @overload
    def get(self, name: str, default: T, *, domain: str | None = None, path: str | None = None) -> str | T: ...
    @abstractmethod
    def get(self, name: str, default: Any = None, *, domain: str | None = None, path: str | None = None) -> Any:
        """The value of the one cookie of this name (and domain, and path, if given), or `default` if there is none.

        Raises:
            UsageError: there are several.
        """

    @abstractmethod
    def delete(self, name: str, *, domain: str | None = None, path: str | None = None) -> int:
        """Take out all cookies of this name (and domain, and path, if given); how many there were."""

    @abstractmethod
    def clear(self, domain: str | None = None) -> None:
        """Take out all cookies, or those of one domain (not of those below it)."""

    @abstractmethod
    def clear_expired(self) -> None:
        """Take out what has expired. It is never sent or shown anyway; this frees its memory."""

    @abstractmethod
    def update(
        self, other: CookieStore | Iterable[Cookie] | Mapping[str, str], *, url: URL | str | None = None
    ) -> None:
        """Put in all cookies of another store, or a mapping of names to values for the host of `url` (on all paths,
        Secure if `url` is).

        Raises:
            UsageError: a mapping without `url`: whom its cookies are for is not known, and sending them to everybody
                would be a leak; or a cookie that no server could set.
        """

    @abstractmethod
    def copy(self) -> Self:
        """Another store with the same cookies."""

    @abstractmethod
    def save(self, path: str | PathLike[str], *, session_cookies: bool = False) -> None:
        """Write the cookies into a file that only its owner may read; session cookies only if asked for.

        Raises:
            OSError: the file cannot be written. What was there before is there still.
        """

    @abstractmethod
    def load(self, path: str | PathLike[str]) -> Self:
        """Put in the cookies of a file that `save` wrote, over those that are there; returns the store itself.

        Raises:
            OSError: it cannot be read.
            UsageError: it is no such file. Then nothing of it was put in.
        """

    @abstractmethod
    def __getitem__(self, name: str) -> str:
        """The value of the one cookie of this name.

        Raises:
            KeyError: there is none.
            UsageError: there are several.
        """

    @abstractmethod
    def __iter__(self) -> Iterator[Cookie]:
        """All cookies."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def __contains__(self, name: object) -> bool:
        """True if there is a cookie of this name (or this very `Cookie`)."""
