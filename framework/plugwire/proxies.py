"""Which proxy a request goes by, if any: decisions without I/O, and the values that they are made of.

How it works. `proxy=`, on a session, in `derive` or on a call, is checked once and becomes a *setting*:

    None            none
    a `Proxy`       this one for every host, but those of its `no_proxy`; a URL stands for a Proxy
    "env"           what the environment says; the default
    a `Table`       one of the three by scheme and host, from a mapping; what is not in it goes without

`choose` takes a setting and an origin and gives a `Choice`; the session makes a route of it, once for each origin.

A mapping's keys are a scheme or "all", alone or with a host: "https", "all://example.org", "http://example.org:8080".
The most specific key wins: host with port, then host, then neither; of two equal in that the scheme goes before "all".
For ws and wss the keys and variables of http and https count, where they have none of their own.

The environment is read once for each session, at its first route that asks: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and
NO_PROXY (`no_proxy` has the patterns). Lower case goes first, as in curl; a variable that is set and empty means none,
as in Python's own clients. HTTP_PROXY in upper case is not read in a CGI program, where it may be the header field
"Proxy" of whoever sent the request (httpoxy, CVE-2016-1000110); REQUEST_METHOD in the environment tells. What one of
them holds is parsed when it is needed: a variable that nobody understands fails the calls that would obey it.

Secrets: a user name and password in a proxy's URL become its `auth`. They are in no repr, no error and no event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from plugwire.config import TLSConfig
from plugwire.errors import InvalidHeader, UsageError
from plugwire.headers import Headers
from plugwire.url import URL, Origin

if TYPE_CHECKING:
    from plugwire.headers import HeadersInit
    from plugwire.messages import Request
    from plugwire.no_proxy import Rule
    from plugwire.route import Route

PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
"""How a proxy is reached, with the port that is meant where its URL names none."""

_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "http": ("http", "all"),
    "https": ("https", "all"),
    "ws": ("ws", "http", "all"),
    "wss": ("wss", "https", "all"),
}
"""For each scheme of a URL: the keys of a mapping that mean it, best first."""

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.\-]*")

_OF_THE_MESSAGE: Final = frozenset({"connection", "content-length", "host", "trailer", "transfer-encoding", "upgrade"})
"""Fields that say where a message ends or what becomes of its connection: no business of a configuration."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and how to speak to it.

    A request of http:// goes to an HTTP proxy as it is, with the whole URL in its first line: the proxy reads it, and
    its own answers (407, 502) are ordinary responses. All else goes through a tunnel (CONNECT, SOCKS): the proxy sees
    host and port only, and if it refuses, `ProxyError` has its answer.

    Attributes:
        url: http://, https://, socks5:// (names are resolved here) or socks5h:// (by the proxy), with host and port;
            "proxy:3128" means http. A user name and password in it become `auth`.
        auth: (user, password), or any object with around_send, which then sees the proxy as if it were a server: its
            407 as a 401, and so on. For SOCKS only (user, password). Never sent to anybody but this proxy.
        tls: how the proxy itself is verified, of https:// only; None: the defaults. What a session says of TLS is for
            origin servers, and says nothing of the proxy.
        headers: fields for the proxy, as (name, value) pairs; with each CONNECT, and with each request of http://, of
            which a proxy may pass them on.
        no_proxy: patterns of hosts that are reached without it, as NO_PROXY has them.

    Raises:
        UsageError, InvalidURL, InvalidHeader: something of this cannot be. No message shows a password.
    """

    url: str
    auth: Any = field(default=None, repr=False)
    tls: TLSConfig | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    no_proxy: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        origin, userinfo = _parsed(self.url)
        if userinfo is not None:
            if self.auth is not None:
                raise UsageError(f"Proxy({str(origin)!r}): credentials both in its URL and in auth=")
            object.__setattr__(self, "auth", userinfo)
        object.__setattr__(self, "url", str(origin))
        object.__setattr__(self, "headers", _checked_headers(self.headers))
        object.__setattr__(self, "no_proxy", _checked_patterns(self.no_proxy))
        if self.tls is not None and not (isinstance(self.tls, TLSConfig) and origin.scheme == "https"):
            raise UsageError(f"Proxy({self.url!r}, tls=...): a TLSConfig, for a proxy of https://")
        if self.is_socks and self.headers:
            raise UsageError(f"Proxy({self.url!r}, headers=...): SOCKS has no header fields")
        _check_auth(self)

    @property
    def origin(self) -> Origin:
        """Scheme, host and port."""
        return _parsed(self.url)[0]

    @property
    def is_socks(self) -> bool:
        """True for SOCKS 5."""
        return self.url.startswith("socks")

    def authenticator(self) -> Any:
        """What runs around each request to the proxy: `auth`, of which a pair means Basic (RFC 7617); None: nothing."""
        match self.auth:
            case (str() as user, str() as password):
                from plugwire.shipped import basic_auth

                return basic_auth(user, password)
            case auth:
                return auth


ProxyTypes: TypeAlias = "Proxy | URL | str | Mapping[str, Proxy | URL | str | None] | None"
"""What `proxy=` takes."""


def _parsed(url: object) -> tuple[Origin, tuple[str, str] | None]:
    """Where the proxy is, and its credentials."""
    if not isinstance(url, str):
        raise UsageError(f"the URL of a proxy is a str, not {type(url).__name__}")
    scheme, colon, rest = url.partition("://")
    if not colon:
        scheme, rest = "http", url
    scheme = scheme.lower()
    if scheme not in PORTS:
        # Where it is no scheme, the "://" may be in the midst of a password.
        shown = f", not by {scheme[:20]!r}" if _SCHEME.fullmatch(scheme) else ""
        raise UsageError(f"a proxy is reached by {', '.join(PORTS)}{shown}")
    place, port = _authority(rest)
    if place.path != "/" or place.query is not None or place.fragment is not None:
        raise UsageError(f"the URL of a proxy ends behind its port: {scheme}://{place.authority}")
    userinfo = (place.username, place.password) if place.has_userinfo else None
    return Origin(scheme, place.host, PORTS[scheme] if port is None else port), userinfo


def _authority(text: str) -> tuple[URL, int | None]:
    """What stands behind the "://", as a URL of http, and the port that it names, be it the default one."""
    return URL(f"http://{text}"), URL(f"x://{text}").port


def _checked_headers(headers: HeadersInit) -> tuple[tuple[str, str], ...]:
    pairs = tuple(Headers(headers).items())
    for name, _ in pairs:
        if name.lower() in _OF_THE_MESSAGE:
            raise InvalidHeader(f"Proxy(headers=...): {name} belongs to each message")
    return pairs


def _checked_patterns(patterns: object) -> tuple[str, ...]:
    if patterns == ():
        return ()
    from plugwire.no_proxy import parse_rule

    match patterns:
        case tuple() | list() | frozenset() | set():
            texts = tuple(cast("Sequence[str]", patterns))
            if all(isinstance(text, str) for text in texts):
                for text in texts:
                    parse_rule(text)
                return texts
        case _:
            pass
    raise UsageError(f"Proxy(no_proxy={patterns!r}): a sequence of patterns, such as ('example.org', '192.0.2.0/24')")


def _check_auth(proxy: Proxy) -> None:
    match proxy.auth:
        case None:
            pass
        case (str() as user, str() as password):
            if not proxy.is_socks:
                proxy.authenticator()  # raises for what Basic cannot send
            elif not (0 < len(user.encode()) < 256 and len(password.encode()) < 256):
                raise UsageError("user name and password for SOCKS have at most 255 bytes each (RFC 1929, 2)")
        case _ if proxy.is_socks:
            raise UsageError(f"Proxy({proxy.url!r}, auth=...): SOCKS takes (user, password)")
        case _ if not hasattr(proxy.auth, "around_send"):
            raise UsageError("Proxy(auth=...): an object with around_send, (user, password), or None")
        case _:
            pass


# -- settings ------------------------------------------------------------------------------------------------------


class _Key(NamedTuple):
    """A key of a mapping: "" and None stand for any host and any port."""

    scheme: str
    host: str
    port: int | None


class Table:
    """A mapping of schemes and hosts to settings, checked. Immutable."""

    __slots__ = ("_settings",)

    def __init__(self, given: Mapping[object, object]) -> None:
        self._settings = {_parsed_key(key): _checked_one(value) for key, value in given.items()}

    def find(self, origin: Origin) -> Proxy | str | None:
        """What the most specific key says; None if there is none."""
        for host, port in ((origin.host, origin.port), (origin.host, None), ("", None)):
            for kind in _KINDS.get(origin.scheme, ("all",)):
                key = _Key(kind, host, port)
                if key in self._settings:
                    return self._settings[key]
        return None


Setting: TypeAlias = "Proxy | Table | str | None"
"""What `proxy=` means. The only str is "env"."""


def checked_proxy(value: Any) -> Setting:
    """The setting that `proxy=` means.

    Raises:
        UsageError: it means none.
    """
    if isinstance(value, Mapping):
        return Table(cast("Mapping[object, object]", value))
    return value if isinstance(value, Table) else _checked_one(value)


def _checked_one(value: Any) -> Proxy | str | None:
    if value is None or value == "env" or isinstance(value, Proxy):
        return cast("Proxy | str | None", value)
    if isinstance(value, (str, URL)):
        return Proxy(value if isinstance(value, str) else value.href)
    what = type(value).__name__  # and not the value, which may have a password in it
    raise UsageError(f"proxy={what}: a URL, a Proxy, None, 'env', or a mapping of schemes and hosts to these")


def _parsed_key(text: object) -> _Key:
    scheme, colon, rest = text.partition("://") if isinstance(text, str) else ("", "", "")
    scheme = scheme.lower()
    if scheme in ("all", *_KINDS) and bool(colon) == bool(rest):
        if not rest:
            return _Key(scheme, "", None)
        place, port = _authority(rest)
        if place.path == "/" and place.query is None and place.fragment is None and not place.has_userinfo:
            return _Key(scheme, place.host, port)
    shown = "..." if "@" in str(text) else repr(text)
    raise UsageError(f"proxy={{{shown}: ...}}: a key is 'http', 'https' or 'all', alone or as 'all://host:port'")


# -- the environment -----------------------------------------------------------------------------------------------


class Environment(NamedTuple):
    """What the variables said when the session looked: for "http", "https" and "all" the name of the variable and its
    value. exempt_by: the name of the variable that `exempt` comes from."""

    values: Mapping[str, tuple[str, str]]
    exempt: tuple[Rule, ...]
    exempt_by: str

    def __repr__(self) -> str:
        return f"<Environment {', '.join(name for name, _ in self.values.values())}>"  # no values: passwords are there

    def choose(self, origin: Origin) -> Choice:
        """The proxy of the first variable that has one for this origin."""
        for kind in _KINDS.get(origin.scheme, ()):
            name, value = self.values.get(kind, ("", ""))
            if not value:
                continue
            if self.exempt and _is_exempt(self.exempt, origin):
                return Choice(None, f"{self.exempt_by} matched")
            try:
                return Choice(Proxy(value), name, is_from_environment=True)
            except UsageError as error:
                raise UsageError(f"the variable {name}: {error}") from None
        return DIRECT


def read_environment(variables: Mapping[str, str]) -> Environment:
    """What is said in there."""
    found: dict[str, tuple[str, str]] = {}
    for kind in ("http", "https", "all", "no"):
        for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY"):
            if name in variables and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in variables):
                found[kind] = (name, variables[name].strip())
                break
    name, exempt = found.pop("no", ("", ""))
    if not (exempt and found):
        return Environment(found, (), name)
    from plugwire.no_proxy import parse_list

    return Environment(found, parse_list(exempt), name)


# -- the choice ----------------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """A proxy or none. why: what decided it, for a reader; "" where it is plain. is_from_environment: the program
    itself did not ask for this proxy."""

    proxy: Proxy | None
    why: str = ""
    is_from_environment: bool = False


DIRECT: Final = Choice(None)


def choose(setting: Setting, origin: Origin, environment: Callable[[], Environment]) -> Choice:
    """The proxy for requests to an origin. `environment` is asked only if the setting wants to know.

    Raises:
        UsageError: the variable that names the proxy cannot be understood.
    """
    if isinstance(setting, Table):
        setting = setting.find(origin)
    if setting is None:
        return DIRECT
    if not isinstance(setting, Proxy):
        return environment().choose(origin)
    if setting.no_proxy:
        from plugwire.no_proxy import parse_rule

        if _is_exempt([parse_rule(text) for text in setting.no_proxy], origin):
            return Choice(None, "no_proxy matched")
    return Choice(setting)


def _is_exempt(rules: Sequence[Rule], origin: Origin) -> bool:
    from plugwire.no_proxy import is_exempt  # not before there are rules: it takes what a request has no need of

    return is_exempt(rules, origin.host, origin.port)


def check_credentials(request: Request, route: Route) -> None:
    """Refuse a Proxy-Authorization that would go past the proxy, inside of the tunnel, to the origin.

    Raises:
        UsageError: there is one.
    """
    if not route.is_forwarded and "proxy-authorization" in request.headers:
        raise UsageError(
            "a Proxy-Authorization among the request's fields would go through the tunnel to the origin, and not to "
            "the proxy: give it by Proxy(auth=...) or Proxy(headers=...)"
        )
