"""Cookies in files, and those of `http.cookiejar`.

The file is JSON, in latin-1 text escaped to ASCII, with a version, and everything that a `Cookie` knows: without the
host-only flag a cookie for one host would come back as one for all hosts below it. It is never a pickle, which whoever
can write the file could make run anything. It holds secrets, so only its owner may read it, at every moment: a file of
its own is written in the same directory (created exclusively, so nobody can have put one there) and takes the old one's
place in one step. Who reads meanwhile sees the old or the new one, never half of it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, cast

from plugwire import UsageError
from plugwire.protocols import Cookie

if TYPE_CHECKING:
    import http.cookiejar
    from collections.abc import Iterable

FORMAT: Final = "plugwire cookies"
VERSION: Final = 1
_NAMES: Final = frozenset(field.name for field in fields(Cookie))
_TEXTS: Final = ("name", "value", "domain", "path")
_FLAGS: Final = ("host_only", "secure", "http_only")


def write(path: str | os.PathLike[str], cookies: Iterable[Cookie]) -> None:
    """Write the file, or leave what was there.

    Raises:
        OSError: it cannot be written.
    """
    target = os.fspath(path)
    content = json.dumps(
        {"format": FORMAT, "version": VERSION, "cookies": [asdict(cookie) for cookie in cookies]}, indent=1
    )
    temporary = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{token_hex(8)}")
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(number, "w", encoding="ascii") as file:
            os.fchmod(number, 0o600)  # a umask may have taken away what the owner needs
            file.write(content)
            file.flush()
            os.fsync(number)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str]) -> list[Cookie]:
    """The cookies in a file.

    Raises:
        OSError: it cannot be read.
        UsageError: it is not one that `write` wrote.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _broken(path, "it is not JSON") from error
    if not isinstance(content, dict) or cast("dict[str, Any]", content).get("format") != FORMAT:
        raise _broken(path, f"it does not say that its format is {FORMAT!r}")
    said = cast("dict[str, Any]", content)
    if said.get("version") != VERSION:
        raise _broken(path, f"this plugwire reads version {VERSION} of the format, and it is of another one")
    if not isinstance(said.get("cookies"), list):
        raise _broken(path, "it has no list of cookies")
    return [_checked(path, item) for item in said["cookies"]]


def _broken(path: str | os.PathLike[str], reason: str) -> UsageError:
    """Quotes nothing of the content, which is secret if it is what it should be."""
    return UsageError(f"{os.fspath(path)!r} is not a file of cookies that save() wrote: {reason}")


def _checked(path: str | os.PathLike[str], item: object) -> Cookie:
    if not isinstance(item, dict) or cast("dict[str, object]", item).keys() != _NAMES:
        raise _broken(path, "a cookie lacks a field, or has one too many")
    values = cast("dict[str, Any]", item)
    is_right = (
        all(isinstance(values[name], str) for name in _TEXTS)
        and all(isinstance(values[name], bool) for name in _FLAGS)
        and values["same_site"] in ("strict", "lax", "none", None)
        and (values["expires"] is None or _is_time(values["expires"]))
        and _is_time(values["created"])
    )
    if not is_right:
        raise _broken(path, "a field of a cookie has the wrong type")
    return Cookie(**values)


def _is_time(value: object) -> bool:
    # A whole number of JSON's may have thousands of digits, of which no float can be made.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 2**53


# -- http.cookiejar ------------------------------------------------------------------------------------------------
#
# There a dot before the domain means "and all below it"; a host without any dot has ".local" put to its end; a cookie
# without a name has its value in the name, and None for a value.

_LOCAL: Final = ".local"


def from_cookiejar(jar: Iterable[http.cookiejar.Cookie]) -> list[Cookie]:
    """The cookies of a jar of the standard library.

    Raises:
        UsageError: one has no domain (requests sends such a one to everybody), or is for a port.
    """
    return [_from_theirs(cookie) for cookie in jar]


def _from_theirs(cookie: http.cookiejar.Cookie) -> Cookie:
    if not cookie.domain.strip("."):
        raise UsageError("a cookie of that jar has no domain, so it would go to everybody: set one")
    if cookie.port_specified:
        raise UsageError("a cookie of that jar is for one port only, which cookies have not been since RFC 6265")
    domain = cookie.domain.removeprefix(".").lower()
    same_site = str(cookie.get_nonstandard_attr("SameSite") or "").lower()
    return Cookie(
        cookie.name if cookie.value is not None else "",
        cookie.value if cookie.value is not None else cookie.name,
        "localhost" if domain == f"localhost{_LOCAL}" else domain,
        cookie.path,
        not cookie.domain.startswith("."),
        cookie.secure,
        any(cookie.has_nonstandard_attr(name) for name in ("HttpOnly", "httponly", "HTTPOnly")),
        cast("Any", same_site if same_site in ("strict", "lax") or (same_site == "none" and cookie.secure) else None),
        None if cookie.expires is None else float(cookie.expires),
    )


def to_cookiejar(cookies: Iterable[Cookie]) -> http.cookiejar.CookieJar:
    """A jar of the standard library."""
    from http.cookiejar import CookieJar

    jar = CookieJar()
    for cookie in cookies:
        jar.set_cookie(_to_theirs(cookie))
    return jar


def _to_theirs(cookie: Cookie) -> http.cookiejar.Cookie:
    from http.cookiejar import Cookie as Theirs

    domain = cookie.domain if "." in cookie.domain or ":" in cookie.domain else cookie.domain + _LOCAL
    rest = {"HttpOnly": ""} if cookie.http_only else {}
    if cookie.same_site is not None:
        rest["SameSite"] = cookie.same_site.capitalize()
    return Theirs(
        version=0,
        name=cookie.name or cookie.value,
        value=cookie.value if cookie.name else None,
        port=None,
        port_specified=False,
        domain=domain if cookie.host_only else f".{domain}",
        domain_specified=not cookie.host_only,
        domain_initial_dot=not cookie.host_only,
        path=cookie.path,
        path_specified=True,
        secure=cookie.secure,
        expires=None if cookie.expires is None else int(cookie.expires),
        discard=cookie.expires is None,
        comment=None,
        comment_url=None,
        rest=rest,
    )
