"""What both faces of a session have in common: the constructor, and everything that never waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from plugwire.config import ContentOptions, Limits, TLSConfig
from plugwire.connector import Connector
from plugwire.declared_options import Options
from plugwire.engine import Engine
from plugwire.errors import UsageError
from plugwire.registry import collect_plugins
from plugwire.route import HTTP_VERSIONS
from plugwire.shipped import COOKIES, jar_of
from plugwire.timeouts import Timeout
from plugwire.view import MAX_REDIRECTS, ROUTE_OPTIONS, View, refuse_unknown

if TYPE_CHECKING:
    import http.cookiejar
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from plugwire.cookie_store import CookieStore
    from plugwire.headers import Headers
    from plugwire.messages import AuthTypes, HeaderTypes, ParamTypes
    from plugwire.pool import PoolStats
    from plugwire.protocols import Transport
    from plugwire.proxies import ProxyTypes
    from plugwire.registry import PluginLike
    from plugwire.url import URL
    from plugwire.view import Defaults

    CookieTypes: TypeAlias = Mapping[str, str] | CookieStore | http.cookiejar.CookieJar | None

DEFAULT_TIMEOUT: Final = Timeout()
DEFAULT_LIMITS: Final = Limits()
DEFAULT_TLS: Final = TLSConfig()
_DERIVABLE: Final = frozenset(
    {
        "base_url",
        "headers",
        "params",
        "auth",
        "timeout",
        "tls",
        "proxy",
        "http_versions",
        "options",
        "follow_redirects",
        "max_redirects",
    }
)


class SessionBase:
    """The constructor and the attributes of `Session` and `AsyncSession`.

    Args:
        base_url: a prefix for relative URLs: "https://h/v1" and "users" or "/users" make /v1/users. The session's auth
            and secret headers are then bound to its origin.
        headers: sent with every request; those of a call replace them by name.
        params: added to every URL's query, before the call's own.
        cookies: a `plugwire_plugins.CookieJar`; a jar of `http.cookiejar`, whose cookies are copied; or a mapping of
            names to values for the host of base_url, which must be given then.
        auth: (user, password) for Basic, or any object with around_send; for the origin it was given for only.
        timeout: seconds that one call may block, or a `Timeout`; None: without end.
        limits: connections, and what a peer may make us hold.
        tls: how peers are verified.
        proxy: a URL or `Proxy`; None: none; "env", the default: what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY
            say when the first request is made; or a mapping of schemes and hosts to these, of which the most specific
            counts: {"https": "http://proxy.example:3128", "all://internal.example": None}. `proxies` tells the rest.
        http_versions: the allowed versions, best first.
        transports: further transports, asked before the shipped ones: objects, or names of installed ones.
        plugins: objects, names of installed ones, or `async def (request, call_next)`; first listed is outermost.
        defaults: with the default plugins.
        options: options of plugins, json_encoder (see `ContentOptions`), and the rest of the route (local_address,
            path, socket_options), by name.
        follow_redirects: False: a redirect is given as it is. See `plugwire_plugins.Redirects`.
        max_redirects: followed in one call at most (20); one more is `TooManyRedirects`.

    Raises:
        UsageError, PluginError, UnknownOption, InvalidURL, InvalidHeader: something of this cannot be; before any I/O.
    """

    def __init__(
        self,
        *,
        base_url: URL | str | None = None,
        headers: HeaderTypes | None = None,
        params: ParamTypes | None = None,
        cookies: CookieTypes = None,
        auth: AuthTypes = None,
        timeout: Timeout | float | None = DEFAULT_TIMEOUT,
        limits: Limits = DEFAULT_LIMITS,
        tls: TLSConfig = DEFAULT_TLS,
        proxy: ProxyTypes = "env",
        http_versions: tuple[str, ...] = HTTP_VERSIONS,
        transports: Sequence[Transport | str] = (),
        plugins: Sequence[PluginLike] = (),
        defaults: bool = True,
        options: Mapping[str, object] | None = None,
        follow_redirects: bool = True,
        max_redirects: int = MAX_REDIRECTS,
        **unknown: Any,
    ) -> None:
        self._is_derived = True  # until it stands: nothing is to be cleaned up
        refuse_unknown(unknown, frozenset(), f"{type(self).__name__}()")
        if not isinstance(limits, Limits):
            raise UsageError(f"limits={limits!r}: a Limits")
        collected = collect_plugins(plugins, defaults=defaults)
        engine = Engine(collected, Connector(transports), limits)
        kinds = ((ContentOptions, "plugwire"), *collected.option_types)
        declared = Options(kinds, ROUTE_OPTIONS | engine.connector.extra_names, options)
        self._engine = engine
        self._view = View(
            engine,
            declared,
            {
                "base_url": base_url,
                "headers": headers,
                "params": params,
                "auth": auth,
                "timeout": timeout,
                "tls": tls,
                "proxy": proxy,
                "http_versions": http_versions,
                "options": options,
                "follow_redirects": follow_redirects,
                "max_redirects": max_redirects,
            },
        )
        if cookies is not None:
            if COOKIES not in collected.names:
                raise UsageError("cookies=: this session has no plugin 'cookies': plugins=[\"cookies\"] adds it")
            engine.jars.append(jar_of(cookies, self._view.base_url))
        self._standing()
        self._is_derived = False

    def _standing(self) -> None:
        """The constructor is done; a face that knows its world binds it here."""

    @property
    def view(self) -> View:
        """The session as plugins see it."""
        return self._view

    @property
    def headers(self) -> Headers:
        """Sent with every request."""
        return self._view.headers

    @property
    def cookies(self) -> CookieStore:
        """The jar: what responses set, and what goes out with requests.

        Raises:
            UsageError: no plugin of this session keeps cookies.
        """
        return self._engine.cookies

    @property
    def base_url(self) -> URL | None:
        """The prefix for relative URLs."""
        return self._view.base_url

    @property
    def is_closed(self) -> bool:
        """True from the moment that somebody closes it."""
        return self._engine.why_closed is not None

    def derive(self, **changes: Unpack[Defaults]) -> Self:
        """A light view over the same pool, transports and plugins, with other defaults. Its headers are the session's
        as they are now, with the given ones over them; but where `base_url` is given and leaves the session's origin,
        its auth and secret headers stay behind. Closing it closes nothing; closing the session ends it."""
        refuse_unknown(changes, _DERIVABLE, "derive()")
        new = object.__new__(type(self))
        new._is_derived = True  # before what may fail: nothing is to be cleaned up
        new._engine = self._engine
        new._view = self._view.derived(changes)
        return new

    def stats(self) -> PoolStats:
        """Open, idle and awaited connections, in all and by origin."""
        return self._engine.stats()

    def explain(self, url: URL | str, method: str = "GET", **options: Any) -> str:
        """What would happen with this call: the plugins by stage, the route, the transports with the reason of each
        refusal, the time-outs and options. No I/O."""
        from plugwire.explain import explain

        return explain(self._view, method, url, options)

    if not TYPE_CHECKING:  # or checkers would take every name for one of ours

        def __getattr__(self, name: str) -> Any:
            from plugwire.spellings import Place, hint

            kind = type(self).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}{hint(Place.SESSION, name)}")

        def __setattr__(self, name: str, value: object) -> None:
            # session.verify = False would be obeyed by others, and silently ignored here.
            if not (name.startswith("_") or hasattr(type(self), name)):
                getattr(self, name)
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<{type(self).__name__} {self.base_url or ''}{' ' if self.base_url else ''}{state}>"
