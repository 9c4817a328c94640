"""What comes with plugwire, by import strings: the core imports neither transports nor plugins.

Those that can be given by name are entry points, too, like anyone else's (a test holds the tables against pyproject).
The others are what a session or a call may be given in short: a pair for `auth=`, a mapping for `cookies=`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from plugwire.errors import UsageError

if TYPE_CHECKING:
    from plugwire.cookie_store import CookieStore
    from plugwire.protocols import Transport
    from plugwire.url import URL

SHIPPED_PLUGINS: Final[Mapping[str, str]] = {
    "cookies": "plugwire_plugins.cookies:Cookies",
    "decompress": "plugwire_plugins.decompress:Decompress",
    "default-headers": "plugwire_plugins.default_headers:DefaultHeaders",
    "redirects": "plugwire_plugins.redirects:Redirects",
    "retries": "plugwire_plugins.retries:Retries",
    "sse-reconnect": "plugwire_plugins.sse:SSEReconnect",
    "wirelog": "plugwire_plugins.wirelog:WireLog",
}
DEFAULT_PLUGINS: Final[tuple[str, ...]] = ("default-headers", "cookies", "redirects", "decompress")

BASIC_AUTH: Final = "plugwire_plugins.basic_auth:BasicAuth"
"""What `auth=(user, password)` means. No plugin: it has no place among a session's hooks, and no entry point."""

PINNED_HOSTS: Final = "plugwire_transports.pinned_hosts:PinnedHosts"
"""What `--resolve` means. It cannot be given by name, without arguments, so it has no entry point."""

COOKIES: Final = "cookies"
"""The name of the plugin without which a session keeps no cookies."""

COOKIE_JAR: Final = "plugwire_plugins.cookie_jar:CookieJar"
"""What `session.cookies` is unless the program gave another `CookieStore`."""

SHIPPED_TRANSPORTS: Final[Mapping[str, str]] = {
    "address-guard": "plugwire_transports.address_guard:AddressGuard",
    "system": "plugwire_transports.resolver:SystemResolver",
    "http-proxy": "plugwire_transports.proxy:HTTPProxy",
    "socks": "plugwire_transports.socks:SOCKS",
    "tcp": "plugwire_transports.tcp:TCP",
    "unix": "plugwire_transports.unix:Unix",
    "tls": "plugwire_transports.tls:TLSSecurer",
    "h2": "plugwire_transports.http2:HTTP2",
    "http/1.1": "plugwire_transports.http11:HTTP11",
}
DEFAULT_TRANSPORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "resolver": ("system",),
    "dialler": ("http-proxy", "socks", "unix", "tcp"),
    "securer": ("tls",),
    "speaker": ("h2", "http/1.1"),
    "whole": (),
}
"""The shipped transports of each role, in the order in which they are asked, after the user's."""


def imported(path: str) -> Any:
    """The object that an import string ("module:name") means."""
    from importlib import import_module

    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def shipped_transport(name: str) -> Transport:
    """A new object of a shipped transport."""
    transport: Transport = imported(SHIPPED_TRANSPORTS[name])()
    return transport


def basic_auth(user: str, password: str) -> Any:
    """The auth object that `auth=(user, password)` means."""
    return imported(BASIC_AUTH)(user, password)


def pinned_hosts(hosts: Mapping[str, Sequence[str]]) -> Transport:
    """The resolver that `plugwire get --resolve` means."""
    resolver: Transport = imported(PINNED_HOSTS)(hosts)
    return resolver


def cookie_jar() -> CookieStore:
    """A new, empty jar."""
    jar: CookieStore = imported(COOKIE_JAR)()
    return jar


def jar_of(given: object, base_url: URL | None) -> CookieStore:
    """The jar that a session's `cookies=` means: itself, or a new one with what another kind of jar or a mapping holds.

    Raises:
        UsageError: it is none of these, or a mapping in a session that has no base_url to say whom it is for.
    """
    from plugwire.cookie_store import CookieStore

    if isinstance(given, CookieStore):
        return given
    # Not imported for this: whoever has such a jar has imported it.
    theirs = sys.modules.get("http.cookiejar")
    if theirs is not None and isinstance(given, theirs.CookieJar):
        copied: CookieStore = imported(COOKIE_JAR).from_cookiejar(given)
        return copied
    if not isinstance(given, Mapping):
        raise UsageError(f"cookies={type(given).__name__}: a mapping, a CookieJar, or an http.cookiejar.CookieJar")
    jar = cookie_jar()
    mapping = cast("Mapping[str, str]", given)
    if not mapping:
        return jar
    if base_url is None:
        raise UsageError(
            "cookies={...} does not say whom the cookies are for, and without base_url= they would go to everybody: "
            "give base_url=, or a CookieJar, or use session.cookies.set(name, value, domain=...)"
        )
    jar.update(mapping, url=base_url)
    return jar
