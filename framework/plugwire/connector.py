"""From a route to a connection: resolve -> dial -> secure -> speak, or all at once by a whole transport.

`Connector` knows the session's transports. For each new route it makes a `Plan`: for each role, which transports take
it, in order, and why each other one does not. `Connecting` is what a transport's method gets; its `resolve`, `dial`,
`secure`, `speak` and `open` ask the transports *below the caller*, so that a proxy can dial through
`connecting.dial(route.to_proxy())` and a wrapper can dial below itself and wrap the result.

A URL with a scheme of its own, `session.get("mem://host/")`, is the business of the transport of that name, which is
looked for among the installed packages. Only the URL that the program itself gave begins such a search: a scheme that
arrives in a redirect never loads code.

Phase and blame are added here: streams and transports raise `OSError` kinds, this file turns them into our errors.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from plugwire.errors import (
    ConnectError,
    Error,
    NoTransport,
    PluginError,
    Refused,
    ResolveError,
    TLSError,
    UsageError,
)
from plugwire.events import TLS as TLSStep
from plugwire.events import Resolve
from plugwire.protocols import EVERYTHING, FORWARDING_PROXY, TLS, Address, Connection, Stream
from plugwire.registry import ROLES, entry_points, find_transport, roles_of, worlds_of
from plugwire.route import MAX_KEPT
from plugwire.shipped import DEFAULT_TRANSPORTS, SHIPPED_TRANSPORTS, shipped_transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from plugwire.call import Call, Scope
    from plugwire.config import Limits
    from plugwire.errors import Phase
    from plugwire.protocols import Dialler, Resolver, Runtime, Securer, Speaker, Transport, Whole
    from plugwire.route import Route
    from plugwire.timeouts import Deadline

T = TypeVar("T")

_ANSWERS: Final[Mapping[str, type]] = {
    "dialler": Stream,
    "securer": Stream,
    "speaker": Connection,
    "whole": Connection,
}

_ROLE_OF_FIELD: Final[Mapping[str, str]] = {
    "proxy": "dialler",
    "local_address": "dialler",
    "path": "dialler",
    "http_versions": "speaker",
}


OUR_SCHEMES: Final = frozenset({"http", "https", "ws", "wss", "http+unix", "https+unix"})
"""What the shipped diallers know. Whatever else a scheme may mean, it is not HTTP over TCP in the clear."""


PROXY_SCHEMES: Final = frozenset({"socks5", "socks5h"})
"""What they dial too, on the way to a proxy (`Route.to_proxy`)."""


class Plan(NamedTuple):
    """Which transports take a route: for each role those that do, in order; `reasons` has the others. may_share: its
    connections may turn out to take several requests at once; False if all that they can become is HTTP/1.1."""

    takes: dict[str, tuple[Transport, ...]]
    reasons: dict[str, str]
    may_share: bool


class Connector:
    """The transports of a session, the user's first, then the shipped ones, which are loaded when a route asks for
    them."""

    def __init__(self, given: Sequence[object]) -> None:
        if isinstance(given, (str, bytes)):
            raise UsageError(f"transports={given!r}: a list of objects and names")
        self._given = [find_transport(item) for item in given]
        self._shipped: dict[str, Transport] = {}
        self._roles: dict[str, list[Transport]] = {}
        self._installed: dict[str, Transport] = {}  # by the scheme they were found for
        self._finding = threading.Lock()
        self._plans: dict[Route, Plan] = {}
        names: set[str] = set()
        for transport in self._given:
            if transport.name in names:
                raise PluginError(f"two transports are named {transport.name!r}", transport.name)
            names.add(transport.name)

    @property
    def extra_names(self) -> frozenset[str]:
        """The options that the user's transports take beyond the fields of a route."""
        return frozenset(
            name
            for transport in self._given
            for name in transport.honours
            if not name.startswith("tls.") and name not in {"proxy", "http_versions", EVERYTHING}
        )

    def check_world(self, world: str) -> None:
        """Refuse transports that do not work in this world."""
        for transport in self._given:
            _check_world(transport, world)

    def wrapped(self, runtime: Runtime) -> Runtime:
        """The runtime that the session works with: one of the user's transports may stand before it."""
        for transport in reversed(self._given):
            wrap: Callable[[Runtime], Runtime] | None = getattr(transport, "wrap_runtime", None)
            if wrap is not None:
                runtime = wrap(runtime)
        return runtime

    def find(self, scheme: str, world: str) -> None:
        """Look for the transport that a scheme of its own names, among the installed ones; for a URL that the program
        itself gave. Finds it or not: what is missing, the plan's reasons tell.

        Raises:
            PluginError: there is one, and it cannot be loaded, or does not work in this world.
        """
        if scheme in OUR_SCHEMES or scheme in self._installed or scheme in SHIPPED_TRANSPORTS:
            return
        with self._finding:
            if any(transport.name == scheme for transport in self.all) or scheme not in entry_points(
                "plugwire.transports"
            ):
                return
            transport = find_transport(scheme)
            _check_world(transport, world)
            self._installed[scheme] = transport
            self._roles.clear()
            self._plans.clear()

    def of_role(self, role: str) -> list[Transport]:
        """All transports that play a role, in the order in which they are asked."""
        known = self._roles.get(role)
        if known is not None:
            return known
        found = [transport for transport in self._given if role in roles_of(transport)]
        names = DEFAULT_TRANSPORTS[role]
        for place, name in enumerate(names):
            listed = [transport.name for transport in found]
            if name not in listed:
                if name not in self._shipped:
                    # Two threads may both make one; one of the two stays, and is the one that plans name.
                    self._shipped.setdefault(name, shipped_transport(name))
                # Before the first that it may build upon and that the user lists: a proxy is dialled by "tcp".
                below = [listed.index(later) for later in names[place + 1 :] if later in listed]
                found.insert(min(below, default=len(found)), self._shipped[name])
        # Last, so that the places of the others stay as they are for those who are asking just now.
        found.extend(transport for transport in self._installed.values() if role in roles_of(transport))
        self._roles[role] = found
        return found

    @property
    def all(self) -> list[Transport]:
        """The user's transports, the shipped ones that were needed so far, and those found by a URL's scheme."""
        return [*self._given, *self._shipped.values(), *self._installed.values()]

    def plan(self, route: Route) -> Plan:
        """Who takes the route, asked once for each route."""
        plan = self._plans.get(route)
        if plan is None:
            if len(self._plans) >= MAX_KEPT:
                self._plans.clear()
            plan = self._plans[route] = self._plan(route)
        return plan

    def _plan(self, route: Route) -> Plan:
        takes: dict[str, tuple[Transport, ...]] = {}
        reasons: dict[str, str] = {}
        roles = ["whole", "resolver", "dialler", "speaker"] + (["securer"] if route.is_secure else [])
        role_of = {name: self._role_of(name, roles) for name in route.demands}
        for role in roles:
            taking: list[Transport] = []
            for transport in self.of_role(role):
                reason = self._misplaced(transport, role, route) or _refusal(transport, route)
                reason = reason or _dishonoured(transport, role, route, role_of)
                if reason is None:
                    taking.append(transport)
                else:
                    reasons[transport.name] = reason
            takes[role] = tuple(taking)
        if route.scheme not in OUR_SCHEMES and route.scheme not in {transport.name for transport in self.all}:
            reasons[route.scheme] = "no transport of this name is given or installed for URLs of this scheme"
        return Plan(takes, reasons, _may_share(route, takes))

    def _misplaced(self, transport: Transport, role: str, route: Route) -> str | None:
        """Why this transport is not even asked."""
        if role == "dialler" and transport is self._shipped.get(transport.name):
            if route.scheme not in OUR_SCHEMES | PROXY_SCHEMES:
                return f"does not know the scheme {route.scheme}"
        elif role == "speaker" and route.scheme in PROXY_SCHEMES:
            return f"{route.scheme} is a way to a proxy, and none to speak HTTP"
        if transport in self._installed.values() and transport is not self._installed.get(route.scheme):
            return "was found by the scheme of another URL, and is for that scheme only"
        return None

    def _role_of(self, demand: str, roles: list[str]) -> str:
        """The role that a demand concerns. Of one that is not ours: a role in which somebody honours it."""
        if demand.startswith("tls."):
            return "securer"
        known = _ROLE_OF_FIELD.get(demand)
        if known is not None:
            return known
        for role in roles:
            if role != "whole" and any(demand in transport.honours for transport in self.of_role(role)):
                return role
        return "dialler"

    def own_way(self, route: Route) -> str | None:
        """The name of the program's own transport that carries a route without a proxy, in a way of its own, and takes
        none with one; None if the shipped ones carry it, or could. (A "tcp" of the program's is what proxies are
        dialled by.)"""
        takes = self.plan(route).takes
        taking = (takes["whole"] or takes["dialler"])[:1]
        for transport in taking:
            is_own = transport in self._given and transport.name != "tcp"
            if is_own and transport.honours.isdisjoint({"proxy", EVERYTHING}):
                return transport.name
        return None

    def may_share(self, route: Route) -> bool:
        """Whether a connection for the route may turn out to take several requests at once."""
        return self.plan(route).may_share

    def check(self, route: Route) -> None:
        """Raises `NoTransport`, before any I/O, if nobody takes the route."""
        plan = self.plan(route)
        if plan.takes["whole"]:
            return
        for role in ("dialler", "securer", "speaker"):
            if not plan.takes.get(role, True):
                raise NoTransport(f"no {role} takes {route}:", plan.reasons)

    async def open(self, route: Route, call: Call, limits: Limits, changed: Callable[[Connection], None]) -> Connection:
        """A new connection.

        Raises:
            NoTransport: nobody takes the route.
            ResolveError, ConnectError, TLSError, CertificateError, ProxyError: it failed.
            ConnectTimeout, HeadTimeout, TotalTimeout: it took too long.
        """
        if route.scheme == call.origin.scheme:
            self.find(route.scheme, call.runtime.name)
        self.check(route)
        deadline = call.deadline.earlier(call.timeout.connect, "connect")
        connecting = Connecting(self, call, deadline, limits, changed, {}, {})
        started = call.runtime.now()
        try:
            connection = await connecting.connect(route)
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            raise deadline.error("dial") from error
        call.setup = call.runtime.now() - started
        return connection


def _may_share(route: Route, takes: Mapping[str, Sequence[Transport]]) -> bool:
    """Which version it will be, the handshake tells (ALPN); without one, it is HTTP/1.1 wherever that is allowed. Of a
    whole transport nothing is known."""
    if takes["whole"]:
        return True
    if not route.is_secure and "http/1.1" in route.http_versions:
        return False
    speakers = cast("Sequence[Speaker]", takes["speaker"])
    return any(
        version in speaker.protocols for version in route.http_versions if version != "http/1.1" for speaker in speakers
    )


def _check_world(transport: Transport, world: str) -> None:
    allowed = worlds_of(transport, transport.name)
    if allowed is not None and world not in allowed:
        raise PluginError(
            f"the transport {transport.name} works in {', '.join(sorted(allowed))} only, not in {world}",
            transport.name,
        )


def _refusal(transport: Transport, route: Route) -> str | None:
    """What the transport itself says."""
    try:
        return transport.refuse(route)
    except Error:
        raise
    except Exception as error:
        raise PluginError(
            f"the transport {transport.name} raised {type(error).__name__} in refuse(): {error}", transport.name
        ) from error


def _dishonoured(transport: Transport, role: str, route: Route, role_of: Mapping[str, str]) -> str | None:
    """The demands that this transport would silently ignore, in words."""
    honours = transport.honours
    if EVERYTHING in honours:
        return None
    missing = sorted(
        demand for demand in route.demands if demand not in honours and (role == "whole" or role_of[demand] == role)
    )
    return f"does not honour {', '.join(missing)}" if missing else None


class Connecting:
    """What a transport's method gets. Each transport gets one of its own, which knows what lies below it.

    Attributes:
        runtime: the world.
        deadline: for everything up to the connection: connect, or what ends earlier.
        call: the call that needs the connection.
        limits: what a peer may make us hold.
        changed: to be given to the connection.
        scope: what waits on behalf of the call; for `Runtime.dial_tcp(scope=...)`.
        route: what is being connected at this step: a resolver, which is told a host only, may ask for which route, or
            on the way to which proxy (`Route.hop_of`), it is to be resolved. None at the very begin.
    """

    def __init__(
        self,
        connector: Connector,
        call: Call,
        deadline: Deadline,
        limits: Limits,
        changed: Callable[[Connection], None],
        asked: Mapping[str, int],
        refusals: dict[str, str],
        route: Route | None = None,
    ) -> None:
        self._connector = connector
        self._asked = asked
        self._refusals = refusals  # what was said on the way to this connection
        self.route = route
        self.call = call
        self.runtime: Runtime = call.runtime
        self.deadline = deadline
        self.limits = limits
        self.changed = changed
        self.scope: Scope = call.scope

    async def connect(self, route: Route) -> Connection:
        """The whole road: by a whole transport if one takes it, else dial, secure, speak."""
        connection = await self._opened(route)
        if connection is not None:
            return connection
        stream = await self.dial(route)
        try:
            if route.is_secure:
                stream = await self.secure(stream, self._spoken(route))
            return await self.speak(stream, self._protocol(stream, route), route)
        except BaseException:
            stream.close()
            raise

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """Addresses of a host, by the resolvers below."""
        if "resolver" in self._asked:  # a resolver asks those below itself: that is no step of its own
            return await self._resolved(host, port)
        with self.call.step(Resolve, host=host, port=port) as step:
            found = await self._resolved(host, port)
            step.note(addresses=tuple(found))
        return found

    async def _resolved(self, host: str, port: int) -> Sequence[Address]:
        async def ask(resolver: Resolver, connecting: Connecting) -> Sequence[Address]:
            return await resolver.resolve(host, port, connecting)

        found: Sequence[Address] = await self._ask(
            "resolver", self.route, cast("Any", ask), "resolve", ResolveError, f"{host} cannot be resolved"
        )
        if not found:
            raise ResolveError(f"{host} cannot be resolved: no address").at("resolve")
        return found

    def forget(self, host: str, port: int) -> None:
        """The addresses that `resolve` gave are of no use: none took a connection. The resolvers below that remember
        them (those with a `forget`) drop them, so that who asks next gets an answer that is new."""
        for transport in self._next("resolver", self.route):
            forget: Callable[[str, int, Connecting], object] | None = getattr(transport, "forget", None)
            if forget is not None:
                forget(host, port, self._below("resolver", transport, self.route))

    async def dial(self, route: Route) -> Stream:
        """A stream, by the diallers below."""

        async def ask(dialler: Dialler, connecting: Connecting) -> Stream:
            return await dialler.dial(route, connecting)

        whom = "the proxy " if route.hop_of is not None else ""
        what = f"{whom}{route} cannot be reached"
        return await self._ask("dialler", route, cast("Any", ask), "dial", ConnectError, what)

    async def secure(self, stream: Stream, route: Route) -> Stream:
        """A secured stream, by the securers below. Closes `stream` if it fails."""

        async def ask(securer: Securer, connecting: Connecting) -> Stream:
            with self.call.waiting(stream):
                return await securer.secure(stream, route, connecting)

        try:
            with self.call.step(TLSStep, host=route.server_hostname) as step:
                secured: Stream = await self._ask(
                    "securer", route, cast("Any", ask), "tls", TLSError, f"the TLS handshake with {route} failed"
                )
                step.note(info=secured.extra(TLS))
            return secured
        except BaseException:
            stream.close()
            raise

    async def speak(self, stream: Stream, protocol: str, route: Route) -> Connection:
        """A connection over a stream, by the speakers below."""

        async def ask(speaker: Speaker, connecting: Connecting) -> Connection:
            if protocol not in speaker.protocols:
                raise Refused(f"does not speak {protocol}")
            if stream.extra(FORWARDING_PROXY) and speaker.honours.isdisjoint({"proxy", EVERYTHING}):
                raise Refused("does not speak to a proxy that forwards")
            return await speaker.speak(stream, protocol, route, connecting)

        what = f"no HTTP connection to {route}"
        return await self._ask("speaker", route, cast("Any", ask), "dial", ConnectError, what)

    async def open(self, route: Route) -> Connection:
        """A connection, by the whole transports below."""
        connection = await self._opened(route)
        if connection is None:
            raise self._no_transport("whole", route, "dial", str(route))
        return connection

    async def _opened(self, route: Route) -> Connection | None:
        """The same; None if all refuse."""

        async def ask(whole: Whole, connecting: Connecting) -> Connection:
            return await whole.open(route, connecting)

        what = f"{route} cannot be reached"
        return await self._first("whole", route, cast("Any", ask), "dial", ConnectError, what)

    def for_call(self, call: Call) -> Connecting:
        """The same place among the transports on behalf of another call, under its deadline: for a connection that
        dials once more when a later call needs it to."""
        deadline = call.deadline.earlier(call.timeout.connect, "connect")
        return type(self)(
            self._connector, call, deadline, self.limits, self.changed, self._asked, self._refusals, self.route
        )

    # -- how each of them asks

    def _next(self, role: str, route: Route | None) -> list[Transport]:
        """The transports of a role that lie below, in order."""
        all_of_role = self._connector.of_role(role)
        begin = self._asked.get(role, 0)
        if route is None:
            return all_of_role[begin:]
        taking = self._connector.plan(route).takes.get(role, ())
        return [transport for transport in all_of_role[begin:] if transport in taking]

    def _below(self, role: str, transport: Transport, route: Route | None) -> Connecting:
        place = self._connector.of_role(role).index(transport) + 1
        asked = {**self._asked, role: place}
        return type(self)(
            self._connector, self.call, self.deadline, self.limits, self.changed, asked, self._refusals, route
        )

    async def _ask(
        self,
        role: str,
        route: Route | None,
        ask: Callable[[Transport, Connecting], Awaitable[T]],
        phase: Phase,
        kind: type[Error],
        what: str,
    ) -> T:
        """The first transport that does not refuse answers."""
        answer = await self._first(role, route, ask, phase, kind, what)
        if answer is None:
            raise self._no_transport(role, route, phase, what)
        return answer

    async def _first(
        self,
        role: str,
        route: Route | None,
        ask: Callable[[Transport, Connecting], Awaitable[T]],
        phase: Phase,
        kind: type[Error],
        what: str,
    ) -> T | None:
        """The same; None if all refuse. Errors get phase and blame."""
        for transport in self._next(role, route):
            try:
                answer = await ask(transport, self._below(role, transport, route))
            except Refused as refusal:
                self._refusals[transport.name] = refusal.reason
            except Error as error:
                error.at(phase)
                raise
            except OSError as error:
                self.call.check(phase)
                if is_too_late(error):
                    raise self.deadline.error(phase) from error
                raise kind(f"{what}: {reason_of(error)}").at(phase) from error
            except Exception as error:
                raise PluginError(
                    f"the transport {transport.name} raised {type(error).__name__}: {error}", transport.name
                ).at(phase) from error
            else:
                wanted = _ANSWERS.get(role)
                if wanted is not None and not isinstance(answer, wanted):
                    raise PluginError(
                        f"{transport.name}.{ROLES[role]} returned {type(answer).__name__}, not a {wanted.__name__}",
                        transport.name,
                    ).at(phase)
                return answer
        return None

    def _no_transport(self, role: str, route: Route | None, phase: Phase, what: str) -> NoTransport:
        reasons = self._connector.plan(route).reasons if route is not None else {}
        return NoTransport(f"no {role} takes {route or what}:", {**reasons, **self._refusals}).at(phase)

    def _spoken(self, route: Route) -> Route:
        """The route with the versions that some speaker speaks: no other may be offered by ALPN, for the peer might
        choose it."""
        speakers = [cast("Speaker", speaker) for speaker in self._connector.plan(route).takes["speaker"]]
        spoken = tuple(one for one in route.http_versions if any(one in speaker.protocols for speaker in speakers))
        return route if spoken == route.http_versions else route.replaced(http_versions=spoken)

    def _protocol(self, stream: Stream, route: Route) -> str:
        """What to speak: ALPN's answer, else HTTP/1.1 if it is allowed, else the only version that is (by prior
        knowledge)."""
        info = stream.extra(TLS)
        if info is not None and info.alpn is not None:
            return info.alpn
        if "http/1.1" in route.http_versions:
            return "http/1.1"
        return route.http_versions[0]


def is_too_late(error: OSError) -> bool:
    """Whether a point in time of ours has passed. With an errno it is the system that waited (ETIMEDOUT)."""
    return isinstance(error, TimeoutError) and error.errno is None


def reason_of(error: OSError) -> str:
    """An OSError in words: what the system says, and the notes on other addresses."""
    text = error.strerror or str(error) or type(error).__name__
    notes = getattr(error, "__notes__", [])
    return "; ".join([text, *notes])
