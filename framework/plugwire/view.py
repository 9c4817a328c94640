"""`View`: a session as plugins see it, the same in every world, and everything that a call inherits from it.

A session and what `session.derive(...)` gives are views over one `Engine`: they share its pool, transports and plugins,
and differ in their defaults. A view turns the keywords of a call into a `Request` and a `Call`, finds the route, and
does the core's part of the stage `prepare`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, cast
from weakref import ref

from plugwire.bodies import EMPTY
from plugwire.call import NO_OPTIONS, Call
from plugwire.config import ContentOptions, TLSConfig
from plugwire.errors import InvalidHeader, UsageError
from plugwire.headers import Headers
from plugwire.messages import INHERIT, Request
from plugwire.protocols import Session
from plugwire.proxies import Choice, Environment, ProxyTypes, checked_proxy, choose, read_environment
from plugwire.route import HTTP_VERSIONS, MAX_KEPT, Route
from plugwire.timeouts import Timeout, make_timeout
from plugwire.url import URL, is_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plugwire.bodies import JSONEncoder
    from plugwire.config import CallOptions
    from plugwire.cookie_store import CookieStore
    from plugwire.declared_options import Options
    from plugwire.engine import Engine
    from plugwire.events import Event
    from plugwire.messages import AsyncResponse, AuthTypes, HeaderTypes, ParamTypes
    from plugwire.protocols import Observer, Runtime
    from plugwire.url import Origin

T = TypeVar("T")

ROUTE_OPTIONS: Final = frozenset({"local_address", "path", "socket_options"})
"""Fields of the route that are given by `options=`."""

MAX_REDIRECTS: Final = 20
"""What `max_redirects` is by default (curl and browsers: 50 and 20)."""

WITH_CONTENT: Final = frozenset({"POST", "PUT", "PATCH"})
"""Methods for which an empty body is said to be empty: Content-Length: 0 (RFC 9110, 8.6)."""

CALL_KEYWORDS: Final = frozenset(
    {
        "params",
        "headers",
        "content",
        "data",
        "json",
        "files",
        "auth",
        "timeout",
        "context",
        "observe",
        "proxy",
        "tls",
        "http_versions",
        "follow_redirects",
        "max_redirects",
        "options",
    }
)

CONTENT_KEYWORDS: Final = frozenset({"params", "headers", "content", "data", "json", "files"})
"""Those of them that a ready `Request` already has."""


class Defaults(TypedDict, total=False):
    """What `session.derive(...)` can change."""

    base_url: URL | str | None
    headers: HeaderTypes | None
    params: ParamTypes | None
    auth: AuthTypes
    timeout: Timeout | float | None
    tls: TLSConfig | None
    proxy: ProxyTypes
    http_versions: tuple[str, ...]
    options: Mapping[str, object] | None
    follow_redirects: bool
    max_redirects: int


def redirect_limit(given: Mapping[str, Any]) -> int | None:
    """How many redirects `follow_redirects` and `max_redirects` allow; None: one is given as it is.

    Raises:
        UsageError: one of them is of another type, or max_redirects is negative.
    """
    follow, most = given.get("follow_redirects", True), given.get("max_redirects", MAX_REDIRECTS)
    if not isinstance(follow, bool):
        raise UsageError(f"follow_redirects={follow!r}: True or False")
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise UsageError(f"max_redirects={most!r}: a whole number, at least 0")
    return most if follow else None


def refuse_unknown(given: Mapping[str, object], known: frozenset[str], where: str) -> None:
    """A TypeError for a keyword that does not exist; it names ours where another client's was meant."""
    for name in given:
        if name not in known:
            from plugwire.spellings import Place, hint

            raise TypeError(f"{where} got an unexpected keyword argument {name!r}{hint(Place.KEYWORD, name)}")


class View(Session):
    """A session's defaults over an engine."""

    def __init__(self, engine: Engine, options: Options, values: Mapping[str, Any]) -> None:
        self.engine = engine
        self.headers = Headers(values.get("headers"))
        base_url = values.get("base_url")
        self.base_url = URL(base_url) if base_url is not None else None
        self.params: Any = values.get("params")
        self.timeout = make_timeout(values.get("timeout", Timeout()), base=Timeout(), streaming=False)
        self.stream_timeout = make_timeout(values.get("timeout", Timeout()), base=Timeout(), streaming=True)
        self.tls = _checked_tls(values.get("tls")) or TLSConfig()
        self.proxy = checked_proxy(values.get("proxy", "env"))
        self.http_versions = checked_versions(values.get("http_versions", HTTP_VERSIONS))
        self.auth = checked_auth(values.get("auth"))
        self.redirect_limit = redirect_limit(values)
        self.declared = options
        self.values = dict(values)
        self.root: View = self
        self.early: list[ref[View]] = []
        self._routes: dict[Origin, Route] = {}
        self._environment: Environment | None = None
        self._prepared: dict[str, tuple[bytes, frozenset[str], Headers]] = {}

    def derived(self, changes: Mapping[str, Any]) -> View:
        """A view over the same engine, with other defaults. Where these name another origin, or none, in `base_url`, it
        does not inherit the auth and the secret headers that were given for this view's."""
        values = {**self.values, **changes}
        shares = self._shares_secrets(values.get("base_url"))
        if not shares and "auth" not in changes:
            values["auth"] = None
        values["headers"] = Headers(changes.get("headers")).over(self.headers if shares else _public(self.headers))
        declared = self.declared
        if changes.get("options"):
            merged: dict[str, object] = {**(self.values.get("options") or {}), **changes["options"]}
            declared = declared.overlaid(merged)
            values["options"] = merged
        view = View(self.engine, declared, values)
        view.root = self.root
        if not self.engine.is_open:
            self.root.early.append(ref(view))
        return view

    def spread(self) -> None:
        """`session_opened` has run: what it put into the session's headers belongs to the views that were derived
        before it ran, too."""
        for reference in self.early:
            view = reference()
            if view is not None:
                headers = self.headers if self._shares_secrets(view.base_url) else _public(self.headers)
                for name, value in headers.items():
                    view.headers.add(name, value, mode="if_new")
        self.early.clear()

    def _shares_secrets(self, base_url: URL | str | None) -> bool:
        """True if what is bound to this view's origin may be inherited by one with that base_url."""
        if self.base_url is None:
            return True
        return base_url is not None and is_bound(self.base_url.origin, URL(base_url).origin)

    # -- what plugins see

    @property
    def runtime(self) -> Runtime:  # type: ignore[override]  # bound at the first call
        """The world."""
        return self.engine.runtime

    @property
    def is_closed(self) -> bool:
        return self.engine.why_closed is not None

    @property
    def cookies(self) -> CookieStore:  # type: ignore[override]  # made when first asked for
        return self.engine.cookies

    @property
    def has_jar(self) -> bool:
        return bool(self.engine.jars)

    def check_open(self) -> None:
        """Raise `SessionClosed` if it is."""
        self.engine.check_open()

    def state(self, owner: object, make: Callable[[Runtime], T]) -> T:
        return self.engine.state(owner, make)

    def options(self, kind: type[T], given: Mapping[str, object] | None = None) -> T:
        return cast("T", self.declared.of(kind, given or NO_OPTIONS))

    async def send(self, request: Request, *, context: object = None, timeout: Any = INHERIT) -> AsyncResponse:
        keywords: dict[str, Any] = {"context": context}
        if timeout is not INHERIT:
            keywords["timeout"] = timeout
        request = _by_any_connection(request)
        return await self.engine.run(request, self.call(request, cast("CallOptions", keywords), streaming=False))

    async def side_call(self, call: Call, request: Request, without: tuple[object, ...]) -> AsyncResponse:
        """A call on behalf of another one: its deadline, its context, its observers; and its origin. A plugin that
        asks where a redirect led does so on the word of a peer: what is secret in the session's headers does not go
        there."""
        request = _by_any_connection(request)
        self.engine.connector.find(request.url.scheme, self.runtime.name)  # for a URL that a plugin gave
        side = Call(
            self,
            self.runtime,
            call.origin,
            call.timeout,
            context=call.context,
            given=call.given,
            watchers=call.watchers,
            parent=call.total,
        )
        with call.waiting(side.scope):
            return await self.engine.run(request, side, without=without)

    # -- from the keywords of a call

    def request(self, method: str, url: URL | str, options: CallOptions) -> Request:
        """The request that a call means, before any plugin has seen it."""
        where = self.resolve(url)
        if not options:
            request = Request(method, where)
        else:
            if not options.keys() <= CALL_KEYWORDS:
                refuse_unknown(options, CALL_KEYWORDS, "a call")
            request = Request(
                method,
                where,
                params=options.get("params"),
                headers=options.get("headers"),
                content=options.get("content"),
                data=options.get("data"),
                json=options.get("json"),
                files=options.get("files"),
                json_encoder=self._json_encoder(options) if "json" in options else None,
            )
            self.apply(request, options)
        if self.params is not None:
            request.url = _with_defaults(request.url, self.params)
        return request

    def _json_encoder(self, options: CallOptions) -> JSONEncoder | None:
        given = options.get("options") or NO_OPTIONS
        if given:
            self.declared.check(given)
        return self.options(ContentOptions, given).json_encoder

    def adopted(self, request: Request, options: CallOptions) -> Request:
        """A copy of a request that the caller made, under the keywords of the call that concern the way."""
        if not isinstance(request, Request):
            raise UsageError(f"send({type(request).__name__}): a Request")
        if options:
            refuse_unknown(options, CALL_KEYWORDS - CONTENT_KEYWORDS, "send()")
        copy = _by_any_connection(request)
        self.apply(copy, options)
        return copy

    def apply(self, request: Request, options: CallOptions) -> None:
        """The keywords that concern the way."""
        if "proxy" in options:
            request.proxy = checked_proxy(options["proxy"])
        if "tls" in options:
            request.tls = _checked_tls(options["tls"]) or self.tls
        if "http_versions" in options:
            request.http_versions = checked_versions(options["http_versions"])

    def resolve(self, url: URL | str) -> URL:
        """The URL that a call's `url` means under `base_url`.

        Raises:
            InvalidURL: it is none, or it is relative and there is no base_url.
        """
        if self.base_url is not None:
            return self.base_url.prefix(url)
        return url if type(url) is URL else URL(url)

    def call(self, request: Request, options: CallOptions, *, streaming: bool, runtime: Runtime | None = None) -> Call:
        """The call that carries the request. `runtime` is for a session that has not met its loop yet."""
        url = request.url
        engine = self.engine
        runtime = runtime or engine.runtime
        timeout = self.stream_timeout if streaming else self.timeout
        auth = self.auth
        if auth is not None and self.base_url is not None and not is_bound(self.base_url.origin, url.origin):
            auth = None
        if not options:
            call = Call(
                self,
                runtime,
                url.origin,
                timeout,
                streaming=streaming,
                auth=auth,
                watchers=engine.watchers,
                parent=engine.never,
            )
        else:
            if "timeout" in options:
                timeout = make_timeout(options["timeout"], base=timeout, streaming=streaming)
            if "auth" in options:
                auth = checked_auth(options["auth"])
            given = options.get("options") or NO_OPTIONS
            if given:
                self.declared.check(given)
            watchers = engine.watchers
            observer = options.get("observe")
            if observer is not None:
                watchers = _observed(watchers, observer)
            call = Call(
                self,
                runtime,
                url.origin,
                timeout,
                streaming=streaming,
                context=options.get("context"),
                auth=auth,
                given=given,
                watchers=watchers,
            )
            if "follow_redirects" in options or "max_redirects" in options:
                call.max_redirects = redirect_limit({**self.values, **options})
        if url.has_userinfo and "auth" not in options:
            call.auth = checked_auth((url.username, url.password))
        return call

    # -- on the way

    def route(self, request: Request, call: Call) -> Route:
        """Where the request goes, and how."""
        origin = request.url.origin
        is_plain = request.proxy is INHERIT and request.tls is INHERIT and request.http_versions is INHERIT
        if is_plain and not call.given:
            route = self._routes.get(origin)
            if route is None:
                if len(self._routes) >= MAX_KEPT:
                    self._routes.clear()
                route = self._routes[origin] = self._make_route(request, call)
            return route
        return self._make_route(request, call)

    def _make_route(self, request: Request, call: Call) -> Route:
        extra: dict[str, Any] = {name: value for name, value in call.given.items() if name in self.declared.route_names}
        extra = {**self.declared.route_base, **extra}
        direct = Route(
            request.url.origin,
            tls=self.tls if request.tls is INHERIT else request.tls,
            http_versions=self.http_versions if request.http_versions is INHERIT else request.http_versions,
            local_address=extra.pop("local_address", None),
            path=extra.pop("path", None),
            extra=extra,
        )
        proxy = self.choose_proxy(request, direct).proxy
        return direct if proxy is None else direct.replaced(proxy=proxy)

    def choose_proxy(self, request: Request, direct: Route) -> Choice:
        """The proxy for a request that would go by the route `direct` without one.

        What the environment says is for connections over the network, of which it knows, and for nothing that the
        program has set up in their place: a Unix socket, a transport of its own that knows nothing of proxies.
        """
        setting = self.proxy if request.proxy is INHERIT else checked_proxy(request.proxy)
        choice = choose(setting, direct.origin, self.root.environment)
        if choice.is_from_environment:
            if direct.path is not None:
                return Choice(None, "a Unix socket")
            own = self.engine.connector.own_way(direct)
            if own is not None:
                return Choice(None, f"{own} knows nothing of proxies")
        return choice

    def environment(self) -> Environment:
        """What the variables said when the session first asked."""
        found = self._environment
        if found is None:
            found = self._environment = read_environment(os.environ)
        return found

    def prepare(self, request: Request, call: Call) -> None:
        """The core's part of the stage `prepare`: the session's headers under the request's own, Host, Content-Length.

        Raises:
            InvalidHeader: two Host lines, or fields that leave it open where the body ends.
            UsageError: the caller's Content-Length is not that of the body.
        """
        url = request.url
        # The origin that the session's secret headers are for.
        scope = call.origin if self.base_url is None else self.base_url.origin
        base = self._base_headers(url, scope is url.origin or is_bound(scope, url.origin))
        body = request.body
        own = request.headers
        if own:
            request.headers = headers = own.over(base)
            if "host" in own:
                _put_host_first(headers)
            if "content-length" in own or "transfer-encoding" in own:
                _check_framing(own, request)
        else:
            request.headers = headers = base.copy()
        if request.expect_continue is not None and body is not EMPTY:
            headers.add("Expect", "100-continue", mode="if_new")
        if request.trailers is not None:
            pass  # only a body that tells its own end has a place for them
        elif body is EMPTY:
            if request.method in WITH_CONTENT and "transfer-encoding" not in headers:
                headers.add("Content-Length", "0", mode="if_new")
        elif body.length is not None and "transfer-encoding" not in headers:
            headers.add("Content-Length", str(body.length), mode="if_new")

    def _base_headers(self, url: URL, with_secrets: bool) -> Headers:
        """The session's headers with Host, encoded once for each host."""
        host = url.authority
        known = self._prepared.get(host)
        block, secret = self.headers.encoded(), self.headers.secret
        if known is not None and known[0] is block and known[1] is secret and with_secrets:
            return known[2]
        base = self.headers.copy() if with_secrets else _public(self.headers)
        if "host" not in base:
            # First, as RFC 9110, 7.2 asks for.
            base.prepend("Host", host)
        else:
            _put_host_first(base)
        if "content-length" in base or "transfer-encoding" in base:
            raise InvalidHeader("Content-Length and Transfer-Encoding belong to one request, not to the session")
        base.encoded()
        if with_secrets:
            if len(self._prepared) >= MAX_KEPT:
                self._prepared.clear()
            self._prepared[host] = (block, secret, base)
        return base


def _public(headers: Headers) -> Headers:
    """A copy without what is secret."""
    copy = headers.copy()
    for name in copy.secret:
        copy.pop(name, None)
    return copy


def _by_any_connection(request: Request) -> Request:
    """A copy that the pool finds a connection for. The request may be one that was sent by a connection's handle, maybe
    of another session: that one's connections were made by other transports, past the address guard of this one."""
    copy = request.copy()
    copy.affinity = None
    return copy


def _put_host_first(headers: Headers) -> None:
    """The caller's own Host, where a Host belongs. Two of them are read differently by different servers, which is what
    attacks on routing and caches are made of (RFC 9112, 3.2)."""
    hosts = headers.get_list("host")
    if len(hosts) != 1:
        raise InvalidHeader(f"a request has one Host, not {len(hosts)} (RFC 9112, 3.2)")
    del headers["host"]
    headers.prepend("Host", hosts[0])


def _check_framing(own: Headers, request: Request) -> None:
    """Refuse what would leave it open where the request ends, before any I/O."""
    lengths, codings = own.get_list("content-length"), own.get_list("transfer-encoding")
    if lengths and codings:
        raise InvalidHeader("a request cannot have both Content-Length and Transfer-Encoding (RFC 9112, 6.2)")
    if codings:
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise InvalidHeader(f"Transfer-Encoding of a request is 'chunked', not {', '.join(codings)[:40]!r}")
        return
    length = own.get_int("content-length")
    if len(lengths) != 1 or length is None:
        raise InvalidHeader(f"Content-Length {', '.join(lengths)[:40]!r} is not one number of bytes (RFC 9110, 8.6)")
    if request.trailers is not None:
        raise UsageError("a body with a Content-Length has no trailers: only a chunked one has (RFC 9112, 7.1.2)")
    if request.body.length not in (None, length):
        raise UsageError(f"Content-Length: {length}, but the body has {request.body.length} bytes")


def _checked_tls(value: Any) -> TLSConfig | None:
    if value is None or isinstance(value, TLSConfig):
        return value
    raise UsageError(f"tls={value!r}: a TLSConfig(ca_file=...), TLSConfig(verify=False), TLSConfig(context=...), ...")


def checked_versions(value: Any) -> tuple[str, ...]:
    """A tuple of version names."""
    versions = cast("tuple[object, ...]", value)
    if isinstance(value, tuple) and versions and all(isinstance(item, str) for item in versions):
        return cast("tuple[str, ...]", value)
    raise UsageError(f'http_versions={value!r}: a tuple such as ("h2", "http/1.1")')


def checked_auth(value: Any) -> Any:
    """Something with `around_send`, or None. A pair is user and password for Basic."""
    if value is None or hasattr(value, "around_send"):
        return value
    match value:
        case (str(), str()):
            from plugwire.shipped import basic_auth

            return basic_auth(*value)
        case _:
            pass
    raise UsageError("auth=: (user, password), BearerAuth(token) or another object with around_send, or None")


def _observed(
    watchers: Mapping[type[Event], tuple[Observer, ...]] | None, observer: Observer
) -> Mapping[type[Event], tuple[Observer, ...]]:
    """The session's watchers and one more, who wants every event of this call."""
    from plugwire.events import ALL

    if not callable(observer):
        raise UsageError(f"observe={observer!r}: a callable that takes an event")
    return {kind: (*(watchers or {}).get(kind, ()), observer) for kind in {*ALL, *(watchers or {})}}


def _with_defaults(url: URL, params: Any) -> URL:
    """The session's params before the call's own."""
    own = url.query
    url = url.copy_with(query=None).with_params(params)
    if own is None:
        return url
    return url.copy_with(query=f"{url.query}&{own}" if url.query else own)
