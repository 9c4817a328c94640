"""`Route`: where a request goes, and how. It is the pool's key: two requests share a connection only if everything that
matters for trust is equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plugwire.config import TLSConfig
from plugwire.errors import UsageError
from plugwire.url import SOCKET_HOST, SOCKET_SCHEMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plugwire.proxies import Proxy
    from plugwire.url import Origin

HTTP_VERSIONS = ("h2", "http/1.1")
"""The versions that are allowed by default, best first, as ALPN names them."""

MAX_KEPT = 1000
"""Origins and routes of which a session keeps what it has found out: the route, the fields, who takes it. A crawler
sees many, and a peer may lead to many by redirects; what is forgotten is found out again."""

SECURE_SCHEMES = frozenset({"https", "wss", "https+unix"})

_DEFAULT_TLS = TLSConfig()


class Route:
    """Immutable and hashable.

    Attributes:
        scheme, host, port: of the URL; `origin` has the three together.
        proxy: the proxy on the way, or None.
        tls: how the peer is verified; None for a scheme without TLS.
        http_versions: the allowed versions, best first.
        local_address: the numeric address to dial from, or None.
        path: the Unix socket to dial, by an option or by the URL's scheme, or None.
        extra: further demands by name (`socket_options`, and what third-party transports define), as sorted pairs.
        hop_of: the route to whose proxy this one leads (`to_proxy`), or None; no part of what is compared.
        demands: the names of everything that is not at its default; a transport must list them all in `honours`.
    """

    __slots__ = (
        "_hash",
        "_key",
        "demands",
        "extra",
        "hop_of",
        "http_versions",
        "local_address",
        "origin",
        "path",
        "proxy",
        "tls",
    )

    def __init__(
        self,
        origin: Origin,
        *,
        proxy: Proxy | None = None,
        tls: TLSConfig | None = None,
        http_versions: tuple[str, ...] = HTTP_VERSIONS,
        local_address: str | None = None,
        path: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.origin = origin
        self.proxy = proxy
        self.tls = (tls or _DEFAULT_TLS) if origin.scheme in SECURE_SCHEMES else None
        self.http_versions = http_versions
        self.local_address = local_address
        self.path = _one_path(path, origin)
        self.extra: tuple[tuple[str, Any], ...] = tuple(sorted((extra or {}).items()))
        self._key = (origin, proxy, self.tls, http_versions, local_address, self.path, self.extra)
        try:
            self._hash = hash(self._key)
        except TypeError as error:
            raise UsageError(
                f"an option of the route cannot be hashed, so the pool could not tell routes apart: {error}"
            ) from None
        self.demands = self._demands()
        self.hop_of: Route | None = None

    @property
    def scheme(self) -> str:
        """The URL's scheme."""
        return self.origin.scheme

    @property
    def host(self) -> str:
        """The host, without the brackets of IPv6."""
        return self.origin.host

    @property
    def port(self) -> int:
        """The port, filled in from the scheme; 0 where the scheme has none."""
        return self.origin.port or 0

    @property
    def is_secure(self) -> bool:
        """True if the scheme wants TLS."""
        return self.tls is not None

    @property
    def is_forwarded(self) -> bool:
        """True if the proxy gets the requests themselves, in absolute-form, and forwards them (RFC 9110, 3.7); False if
        there is none, or a tunnel is made: for all but http over HTTP/1.1, and whatever the proxy speaks SOCKS."""
        proxy = self.proxy
        if proxy is None or proxy.is_socks:
            return False
        return self.scheme == "http" and self.path is None and "http/1.1" in self.http_versions

    @property
    def server_hostname(self) -> str:
        """The name that TLS sends (SNI) and verifies."""
        name = self.tls.server_hostname if self.tls is not None else None
        return name or (SOCKET_HOST if self.scheme in SOCKET_SCHEMES else self.host)

    def get_extra(self, name: str, default: Any = None) -> Any:
        """A further demand by its name."""
        for key, value in self.extra:
            if key == name:
                return value
        return default

    def replaced(self, **changes: Any) -> Route:
        """A copy with other fields. `extra` is replaced as a whole."""
        fields: dict[str, Any] = {
            "proxy": self.proxy,
            "tls": self.tls,
            "http_versions": self.http_versions,
            "local_address": self.local_address,
            "path": self.path,
            "extra": dict(self.extra),
        }
        origin = changes.pop("origin", self.origin)
        new = Route(origin, **{**fields, **changes})
        new.hop_of = self.hop_of
        return new

    def to_proxy(self) -> Route:
        """The route to the proxy itself: HTTP/1.1, the proxy's own TLS settings, the same local address and socket
        options."""
        if self.proxy is None:
            raise UsageError(f"{self} has no proxy")
        hop = Route(
            self.proxy.origin,
            tls=self.proxy.tls,
            http_versions=("http/1.1",),
            local_address=self.local_address,
            extra=dict(self.extra),
        )
        hop.hop_of = self
        return hop

    def _demands(self) -> frozenset[str]:
        names: set[str] = set()
        for name in ("proxy", "local_address", "path"):
            if getattr(self, name) is not None:
                names.add(name)
        if self.http_versions != HTTP_VERSIONS:
            names.add("http_versions")
        if self.tls is not None:
            names |= self.tls.demands()
        names.update(name for name, _ in self.extra)
        return frozenset(names)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Route) and self._hash == other._hash and self._key == other._key)

    def __repr__(self) -> str:
        details = [f"{name}={getattr(self, name)!r}" for name in ("local_address", "path") if getattr(self, name)]
        if self.proxy is not None:
            details.append("by proxy")
        return f"<Route {self}{' ' if details else ''}{' '.join(details)}>"

    def __str__(self) -> str:
        return str(self.origin)


def _one_path(path: str | None, origin: Origin) -> str | None:
    """The socket that the option or the URL names.

    Raises:
        UsageError: they name different ones.
    """
    named = origin.socket_path
    if path is not None and named is not None and path != named:
        raise UsageError(f"the URL names the Unix socket {named!r}, the option path {path!r}")
    return named if path is None else path
