"""URLs: one parser for routing, pooling and the scope of credentials.

How it works. `URL(text)` parses by the WHATWG URL standard, the rules that browsers follow, and keeps the canonical
parts. Where two programs may read the same text as different hosts, that standard silently repairs it and we refuse it,
because a guard that read it differently has then already been passed:

    backslash before the query     http://good\\@evil        also in relative references
    tab, CR or LF anywhere         ht\\ntp://host
    space or control at the ends   " http://host"
    no "//" after the scheme       http:host                 also `localhost:8000`, which has the scheme "localhost"
    no host, or too many slashes   http:///host
    a second "@" in the userinfo   http://a@b@host
    file:                          has no peer to connect to
    lone surrogates                are no text

(A backslash in a query or fragment is a character like others.) So what is accepted means what it means to a browser,
and parsing `url.href` again gives the same URL.

Rules that hold: a URL never changes; two are equal if their `href`s are; `Origin` never has userinfo; neither `str`,
`repr` nor a message of `InvalidURL` has a password in it, only `href` and `password` do.

Parsing takes one of three roads: the cache by string; one regular expression for the plain common form, of which every
part is canonical already; the standard's algorithm. The second must give what the third gives (a property test holds it
to that): the expression may only match text that canonicalisation leaves alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, Literal, NamedTuple, NoReturn, TypeAlias, final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from plugwire.errors import InvalidURL
from plugwire.forms import form_fields
from plugwire.hosts import InvalidHost, parse_host

Params: TypeAlias = Mapping[str, object] | Sequence[tuple[str, object]] | str
"""Query parameters, as `URL.with_params` takes them."""

DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
"""The default ports of the special schemes (WHATWG URL, 4.2). `file` is left out: it is refused."""

SOCKET_SCHEMES: Final = frozenset({"http+unix", "https+unix"})
"""The schemes whose host is the path of a Unix socket, percent-encoded: `http+unix://%2Frun%2Fdocker.sock/info`."""

SOCKET_HOST: Final = "localhost"
"""Who is at the other end of a Unix socket: for Host, :authority and TLS. A path is no host (RFC 9110, 7.2, and servers
that check it would refuse it); the clients of Docker and the like say this."""


class Origin(NamedTuple):
    """Whom a request is for: the scope of credentials and cookies (RFC 6454, section 4).

    Attributes:
        scheme: in lower case.
        host: canonical, IPv6 addresses without brackets.
        port: the effective one; None where the scheme has no default and the URL names none.
    """

    scheme: str
    host: str
    port: int | None

    @property
    def socket_path(self) -> str | None:
        """The Unix socket that the host of an http+unix or https+unix URL names: percent-decoded, as file names are
        (`os.fsdecode`), and not checked; with a NUL before it, the name of an abstract one. None in other schemes."""
        return os.fsdecode(unquote_to_bytes(self.host)) if self.scheme in SOCKET_SCHEMES else None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port is None or self.port == DEFAULT_PORTS.get(self.scheme):
            return f"{self.scheme}://{host}"
        return f"{self.scheme}://{host}:{self.port}"


def is_bound(given_for: Origin, asked: Origin) -> bool:
    """True if a credential given for one origin may go to the other: they are equal, or the second is the first one's
    https, both at their default ports. Never the other way round. From an origin to another and on to a third one,
    both times True, it is True from the first to the third."""
    if given_for == asked:
        return True
    return (
        given_for.host == asked.host
        and (given_for.scheme, asked.scheme) == ("http", "https")
        and (given_for.port, asked.port) == (80, 443)
    )


class _Unset(Enum):
    UNSET = "unset"


_UNSET: Final = _Unset.UNSET

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_END_OF_AUTHORITY = re.compile(r"[/?#]")
_END_OF_PATH = re.compile(r"[?#]")
_STRIPPED = re.compile(r"^[\x00-\x20]|[\x00-\x20]\Z|[\t\n\r]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_DOT_SEGMENT = re.compile(r"(?:\.|%2[eE]){1,2}")
_BEFORE_USERINFO = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.\-]*:)?/*")

# What is percent-encoded where: WHATWG URL, 1.3.
_IN_FRAGMENT = re.compile(r"""[^\x21\x23-;=?-_a-~]""")
_IN_QUERY = re.compile(r"""[^\x21\x24-;=?-~]""")
_IN_SPECIAL_QUERY = re.compile(r"""[^\x21\x24-&(-;=?-~]""")
_IN_PATH = re.compile(r"""[^\x21\x24-;=@-\]_a-z|~]""")
_IN_USERINFO = re.compile(r"""[^\x21\x24-.0-9A-Z_a-z~]""")
_IN_USERINFO_VALUE = re.compile(r"""[^\x21\x24&-.0-9A-Z_a-z~]""")
_IN_FORM = re.compile(r"[^0-9A-Za-z\-._~ ]")

# Text that canonicalisation leaves alone. Dot segments, a last label that may be a number and all else that is left out
# here, harmless or not, take the long road. Atomic groups stand where possessive quantifiers over a group would do:
# CPython below 3.11.5 does not go back to where a failed repetition began.
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PLAIN = re.compile(
    r"(https?)://"
    rf"((?>(?:[a-z0-9\-]++\.)*)[a-z][a-z0-9\-]*+|(?:{_BYTE}\.){{3}}{_BYTE})"
    r"(?>(?::([1-9][0-9]{0,4}))?)"
    r"((?>(?:/(?!\.|%2[eE])[A-Za-z0-9\-._~!$&'()*+,;=:@%]*+)*))"
    r"(?>(?:\?([A-Za-z0-9\-._~!$&()*+,;=:@%/?\[\]|{}]*+))?)"
    r"(?>(?:#([A-Za-z0-9\-._~!$&()*+,;=:@%/?]*+))?)"
)


def _encode(unsafe: re.Pattern[str], text: str) -> str:
    return unsafe.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in found[0].encode()])


def _percent_decode(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace") if "%" in text else text


def _invalid(text: str, position: int, reason: str) -> InvalidURL:
    """Everything up to the last "@" may be part of a password, however it was meant, so none of it is shown."""
    shown = text
    at = text.rfind("@")
    if at >= 0:
        before = _BEFORE_USERINFO.match(text, 0, at)
        shown = f"{before[0] if before else ''}***{text[at:]}"
    if len(shown) > 200:
        shown = shown[:200] + "..."
    return InvalidURL(f"{reason} (character {position}): {shown!r}")


@final
class URL:
    """An absolute URL, canonical and immutable.

    `URL(text)` parses text; a URL given is returned as it is. All attributes but `username` and `password` are in the
    canonical, percent-encoded form in which they go on the wire.

    Attributes:
        href: the whole URL with its userinfo. The only form that can be parsed back; not for logs.
        scheme: in lower case.
        host: as needed to connect: A-labels in lower case, or an address; IPv6 without brackets. Percent-encoded in
            schemes that are not special (`http+unix://%2Frun%2Fx.sock/` has the host "%2Frun%2Fx.sock").
        port: the effective port; None where the scheme has no default and none is named.
        explicit_port: the port if one is named that is not the default, else None.
        authority: host and explicit port, with brackets for IPv6, without userinfo: what `Host` and `:authority` take
            (RFC 9110, 7.2). "localhost" where the host names a Unix socket.
        path: begins with "/" in special schemes; may be empty in others.
        query: without "?". "" is a "?" with nothing after it, None no "?" at all.
        fragment: without "#", None as in `query`.
        target: path and query in origin form (RFC 9112, 3.2.1), never empty.
        origin: the `Origin`.
        has_userinfo: True if there is a user name or a password.
        is_special: True for http, https, ws, wss and ftp, whose hosts are names or addresses of the internet.

    A URL equals its `href`, so `response.url == "https://h/x"` means what it says; text that is not canonical
    ("https://h") is not that of any URL.

    `str(url)` shows the password as "***", `repr(url)` shows the whole userinfo as "***"; equality and hash see both.

    Raises:
        InvalidURL: the text is not an absolute URL, or is one that the module's table refuses.
    """

    __slots__ = (
        "_password",
        "_username",
        "authority",
        "explicit_port",
        "fragment",
        "has_userinfo",
        "host",
        "href",
        "is_special",
        "origin",
        "path",
        "port",
        "query",
        "scheme",
        "target",
    )

    href: str
    scheme: str
    host: str
    port: int | None
    explicit_port: int | None
    authority: str
    path: str
    query: str | None
    fragment: str | None
    target: str
    origin: Origin
    has_userinfo: bool
    is_special: bool
    _username: str
    _password: str

    def __new__(cls, text: str | URL) -> URL:
        found = _recent.get(text)
        if found is not None:
            return found
        if isinstance(text, URL):
            return text
        return _remember(text)

    # -- parts --

    @property
    def username(self) -> str:
        """The user name, percent-decoded as UTF-8; "" if there is none."""
        return _percent_decode(self._username)

    @property
    def password(self) -> str:
        """The password, percent-decoded as UTF-8; "" if there is none."""
        return _percent_decode(self._password)

    # -- other URLs --

    def join(self, reference: str | URL) -> URL:
        """The URL that `reference` means in a document or response at this one: redirects, links (WHATWG URL, 4.4).

        A reference without a host keeps this URL's userinfo, host and port. It never inherits the fragment.

        Raises:
            InvalidURL: as for `URL`; also for a reference such as "http:path", whose meaning depends on who reads it.
        """
        if isinstance(reference, URL):
            return reference
        if _SCHEME.match(reference):
            return URL(reference)
        return _parse_relative(self._parts(), reference)

    def prefix(self, reference: str | URL) -> URL:
        """`reference` below this URL: what a session does with its `base_url`.

        An absolute URL ("scheme://...") stays itself. All else is put after this URL's path, with exactly one "/"
        between: "https://h/v1" with "users" or "/users" is "https://h/v1/users", with "?q=1" "https://h/v1?q=1", with
        "" itself.

        Raises:
            InvalidURL: this URL has a query or a fragment; the reference begins with "//", leaves the prefix by
                ".." segments, or is refused by `URL`.
        """
        if isinstance(reference, URL):
            return reference
        scheme = _SCHEME.match(reference)
        if scheme and (reference.startswith("//", scheme.end()) or scheme[1].lower() in DEFAULT_PORTS):
            return URL(reference)
        if self.query is not None or self.fragment is not None:
            raise _invalid(str(self), 0, "a URL that is a prefix has no query and no fragment")
        first = reference[:1]
        if first in ("", "?", "#"):
            return URL(self.href + reference)
        if first <= " ":
            raise _invalid(reference, 0, "white space or a control character")
        if first == "/":
            reference = reference[1:]
            if reference[:1] == "/":
                raise _invalid("/" + reference, 0, "a reference below a prefix does not begin with '//'")
        base = self.href
        url = URL(base + reference if base[-1] == "/" else f"{base}/{reference}")
        path = self.path
        if not url.path.startswith(path) or (path[-1:] != "/" and url.path[len(path) :][:1] not in ("", "/")):
            raise _invalid(reference, 0, "the reference leaves the prefix by '..' segments")
        return url

    def with_params(self, params: Params) -> URL:
        """This URL with parameters added after those it has.

        Args:
            params: a mapping, whose values may be lists or tuples (each item gives a parameter), or pairs: written as
                application/x-www-form-urlencoded, a space as "+" and all but letters, digits and "-._~" percent-encoded
                as UTF-8; True and False as "true" and "false"; None left out; numbers, dates and their like as `str`
                writes them, as in a form. Or a str, added as it stands.

        Raises:
            InvalidURL: a str has characters that `URL` refuses.
            UsageError: a name or value that cannot be written, as one with parts of its own.
        """
        added = params if isinstance(params, str) else _write_params(params)
        if not added:
            return self
        return self.copy_with(query=f"{self.query}&{added}" if self.query else added)

    def copy_with(
        self,
        *,
        scheme: str | Literal[_Unset.UNSET] = _UNSET,
        username: str | Literal[_Unset.UNSET] = _UNSET,
        password: str | Literal[_Unset.UNSET] = _UNSET,
        host: str | Literal[_Unset.UNSET] = _UNSET,
        port: int | Literal[_Unset.UNSET] | None = _UNSET,
        path: str | Literal[_Unset.UNSET] = _UNSET,
        query: str | Literal[_Unset.UNSET] | None = _UNSET,
        fragment: str | Literal[_Unset.UNSET] | None = _UNSET,
    ) -> URL:
        """This URL with some parts replaced; each is canonicalised as if it had been parsed.

        Delimiters inside a part are escaped, so `path="a?b"` is the path "/a%3Fb". `username` and `password` are taken
        unescaped; in the others "%" stands for itself. An IPv6 host may be given with or without brackets. None
        removes a port, query or fragment; "" removes a user name or password.

        Raises:
            InvalidURL: as for `URL`; also a port outside of 0 to 65535.
        """
        parts = self._parts()
        if scheme is not _UNSET:
            if ":" in scheme:
                raise InvalidURL("a scheme has no ':'")
            parts.scheme = _check_scheme(scheme + ":")
        if username is not _UNSET:
            parts.username = _encode(_IN_USERINFO_VALUE, _check_part(username))
        if password is not _UNSET:
            parts.password = _encode(_IN_USERINFO_VALUE, _check_part(password))
        is_special = parts.scheme in DEFAULT_PORTS
        if host is not _UNSET or is_special != self.is_special:
            try:
                parts.host = parse_host(parts.host if host is _UNSET else _bracketed(host), is_special)
            except InvalidHost as error:
                raise InvalidURL(str(error)) from None
        if port is not _UNSET:
            if port is not None and not 0 <= port <= 65535:
                raise InvalidURL(f"the port is not between 0 and 65535: {port}")
            parts.port = port
        if path is not _UNSET:
            if "\\" in path:
                raise InvalidURL("a backslash in the path")
            parts.path = _write_path([], _check_part(path).removeprefix("/")) if path else ""
        if query is not _UNSET:
            parts.query = None if query is None else _check_part(query)
        if parts.query is not None and (query is not _UNSET or is_special != self.is_special):
            parts.query = _encode(_IN_SPECIAL_QUERY if is_special else _IN_QUERY, parts.query)
        if fragment is not _UNSET:
            parts.fragment = None if fragment is None else _encode(_IN_FRAGMENT, _check_part(fragment))
        return _make(parts)

    def without_userinfo(self) -> URL:
        """This URL without user name and password."""
        return self.copy_with(username="", password="") if self.has_userinfo else self

    def _parts(self) -> _Parts:
        return _Parts(
            self.scheme,
            self._username,
            self._password,
            _bracketed(self.host),
            self.explicit_port,
            self.path,
            self.query,
            self.fragment,
        )

    # -- as a value --

    def __str__(self) -> str:
        if not self._password:
            return self.href
        return self.href.replace(f":{self._password}@", ":***@", 1)

    def __repr__(self) -> str:
        if not self.has_userinfo:
            return f"URL({self.href!r})"
        return f"URL({self.scheme + '://***@' + self.without_userinfo().href[len(self.scheme) + 3 :]!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.href == other
        return self.href == other.href if isinstance(other, URL) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.href)

    def __reduce__(self) -> tuple[type[URL], tuple[str]]:
        return (URL, (self.href,))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a URL cannot be changed: use copy_with({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a URL cannot be changed")


# -- the cache -----------------------------------------------------------------------------------------------------
#
# Two generations: what is used is in the recent one or comes back into it, and when that is full the older one is
# dropped. Readers take no lock: a dict's get is atomic, and a miss only costs a parse.

CACHE_SIZE: Final = 1024
"""How many URLs are remembered, at most (and a few more, when threads come together)."""

_CACHED_LENGTH = 2048  # longer texts are not remembered, so that the cache is bounded in bytes too
_recent: dict[str | URL, URL] = {}  # keys are texts; the type lets `URL.__new__` look before it knows what it has
_older: dict[str | URL, URL] = {}


def _remember(text: object) -> URL:
    global _older, _recent
    if not isinstance(text, str):
        raise TypeError(f"a URL is a str, not {type(text).__name__}")
    url = _older.get(text) or parse(text)
    if len(text) <= _CACHED_LENGTH:
        # Without a lock, which a signal handler or a finaliser might need in the midst of this. Who comes in between
        # makes it forget a few texts at worst.
        recent = _recent
        if len(recent) >= CACHE_SIZE // 2:
            _older, _recent = recent, {}
        _recent[text] = url
    return url


# -- parsing -------------------------------------------------------------------------------------------------------


class _Parts:
    """The parts of a URL in canonical form; the host with brackets. Mutable, never seen outside."""

    __slots__ = ("fragment", "host", "password", "path", "port", "query", "scheme", "username")

    def __init__(
        self,
        scheme: str,
        username: str,
        password: str,
        host: str,
        port: int | None,
        path: str,
        query: str | None,
        fragment: str | None,
    ) -> None:
        self.scheme = scheme
        self.username = username
        self.password = password
        self.host = host
        self.port = port
        self.path = path
        self.query = query
        self.fragment = fragment


def parse(text: str) -> URL:
    """`URL(text)` without the cache."""
    # Not for long ones, of peers perhaps: the match keeps some 130 bytes for each segment while it goes on.
    if len(text) <= _CACHED_LENGTH and (plain := _PLAIN.fullmatch(text)):
        url = _make_plain(plain)
        if url is not None:
            return url
    return parse_by_standard(text)


def _make_plain(plain: re.Match[str]) -> URL | None:
    scheme, host, port_text, path, query, fragment = plain.groups()
    port = None
    if port_text is not None:
        port = int(port_text)
        if port > 65535:
            return None
    return _make(_Parts(scheme, "", "", host, port, path, query, fragment))


def parse_by_standard(text: str) -> URL:
    """`URL(text)` by the standard's algorithm alone, for tests to hold the fast road against."""
    _check_text(text)
    scheme = _check_scheme(text)
    after = len(scheme) + 1
    if not text.startswith("//", after):
        raise _invalid(text, after, "no scheme such as 'https://', or no '//' after it")
    parts = _Parts(scheme, "", "", "", None, "", None, None)
    after = _parse_authority(parts, text, after + 2)
    _parse_rest(parts, text, after, "")
    return _make(parts)


def _parse_relative(parts: _Parts, text: str) -> URL:
    """WHATWG URL, 4.4, from "no scheme state" on. `parts` are those of the base, whose path is not opaque."""
    _check_text(text)
    parts.fragment = None
    if text.startswith("//"):
        parts.query = None
        _parse_rest(parts, text, _parse_authority(parts, text, 2), "")
        return _make(parts)
    if text and text[0] != "#":
        parts.query = None
    _parse_rest(parts, text, 0, parts.path)
    return _make(parts)


def _check_text(text: str) -> None:
    if wrong := _STRIPPED.search(text):
        raise _invalid(text, wrong.start(), "white space or a control character")
    if wrong := _SURROGATE.search(text):
        raise _invalid(text, wrong.start(), "a lone surrogate")
    head_end = _END_OF_PATH.search(text)
    backslash = text.find("\\", 0, head_end.start() if head_end else len(text))
    if backslash >= 0:
        raise _invalid(text, backslash, "a backslash")


def _check_part(text: str) -> str:
    if re.search(r"[\t\n\r]", text):
        raise InvalidURL("a tab or a line end in a part of a URL")
    if _SURROGATE.search(text):
        raise InvalidURL("a lone surrogate in a part of a URL")
    return text


def _check_scheme(text: str) -> str:
    found = _SCHEME.match(text)
    if not found:
        raise _invalid(text, 0, "no scheme, such as 'https://'")
    scheme = found[1].lower()
    if scheme == "file":
        raise _invalid(text, 0, "a file URL has no peer to connect to")
    return scheme


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _parse_authority(parts: _Parts, text: str, start: int) -> int:
    """Userinfo, host and port, from `start`; returns where the path begins."""
    found = _END_OF_AUTHORITY.search(text, start)
    end = found.start() if found else len(text)
    if end == start:
        raise _invalid(text, start, "no host, or too many slashes before it")
    parts.username = parts.password = ""
    at = text.find("@", start, end)
    if at >= 0:
        if text.find("@", at + 1, end) >= 0:
            raise _invalid(text, at, "more than one '@' before the path; write it as %40")
        username, _, password = text[start:at].partition(":")
        parts.username = _encode(_IN_USERINFO, username)
        parts.password = _encode(_IN_USERINFO, password)
        start = at + 1
    host, port = text[start:end], ""
    colon = host.find(":", host.rfind("]") + 1)
    if colon >= 0:
        host, port = host[:colon], host[colon + 1 :]
    try:
        parts.host = parse_host(host, parts.scheme in DEFAULT_PORTS)
    except InvalidHost as error:
        raise _invalid(text, start, str(error)) from None
    parts.port = None
    if port:
        if not (port.isascii() and port.isdigit()):
            raise _invalid(text, start + colon + 1, "the port is not a number")
        digits = port.lstrip("0") or "0"
        if len(digits) > 5 or int(digits) > 65535:
            raise _invalid(text, start + colon + 1, "the port is above 65535")
        parts.port = int(digits)
    return end


def _parse_rest(parts: _Parts, text: str, start: int, base_path: str) -> None:
    """Path, query and fragment, from `start`; an empty path is that of the base, a relative one begins from there."""
    text, hash_mark, fragment = text[start:].partition("#")
    path, question_mark, query = text.partition("?")
    if path.startswith("/"):
        parts.path = _write_path([], path[1:])
    elif path:
        parts.path = _write_path(base_path.split("/")[1:-1], path)
    else:
        parts.path = base_path
    if question_mark:
        parts.query = _encode(_IN_SPECIAL_QUERY if parts.scheme in DEFAULT_PORTS else _IN_QUERY, query)
    if hash_mark:
        parts.fragment = _encode(_IN_FRAGMENT, fragment)


def _write_path(written: list[str], path: str) -> str:
    """WHATWG URL, 4.4, "path state": dot segments, plain or escaped, are resolved; the rest is escaped. `written`
    holds the segments that stand before."""
    segments = path.split("/")
    last = len(segments) - 1
    for index, segment in enumerate(segments):
        if _DOT_SEGMENT.fullmatch(segment):
            is_double = segment.lower().replace("%2e", ".") == ".."
            if is_double and written:
                written.pop()
            if index == last:
                written.append("")
        else:
            written.append(_encode(_IN_PATH, segment))
    return "/" + "/".join(written)


def _make(parts: _Parts) -> URL:
    """The URL of canonical parts."""
    scheme, query, fragment, path, port = parts.scheme, parts.query, parts.fragment, parts.path, parts.port
    default_port = DEFAULT_PORTS.get(scheme)
    if not path and default_port is not None:
        path = "/"
    if port == default_port:
        port = None
    authority = parts.host if port is None else f"{parts.host}:{port}"
    host = parts.host[1:-1] if parts.host[0] == "[" else parts.host
    userinfo = ""
    if parts.username or parts.password:
        userinfo = f"{parts.username}:{parts.password}@" if parts.password else f"{parts.username}@"
    tail = path if query is None else f"{path}?{query}"
    href = f"{scheme}://{userinfo}{authority}{tail}"
    effective_port = default_port if port is None else port
    url = object.__new__(URL)
    _set(url, "href", href if fragment is None else f"{href}#{fragment}")
    _set(url, "scheme", scheme)
    _set(url, "_username", parts.username)
    _set(url, "_password", parts.password)
    _set(url, "host", host)
    _set(url, "port", effective_port)
    _set(url, "explicit_port", port)
    _set(url, "authority", SOCKET_HOST if scheme in SOCKET_SCHEMES else authority)
    _set(url, "path", path)
    _set(url, "query", query)
    _set(url, "fragment", fragment)
    _set(url, "target", tail if path else f"/{tail}")
    _set(url, "origin", Origin(scheme, host, effective_port))
    _set(url, "has_userinfo", bool(userinfo))
    _set(url, "is_special", default_port is not None)
    return url


_set = object.__setattr__


# -- parameters ----------------------------------------------------------------------------------------------------


def _write_params(params: Mapping[str, object] | Sequence[tuple[str, object]]) -> str:
    return "&".join(f"{_write_form(name)}={_write_form(value)}" for name, value in form_fields(params, "params="))


def _write_form(text: str | bytes) -> str:
    if isinstance(text, bytes):
        return quote_from_bytes(text, safe=" ").replace(" ", "+")
    return _encode(_IN_FORM, text).replace(" ", "+")
