"""The main road: call -> attempts -> connection -> response.

An `Engine` is what all views of one session share: plugins compiled into chains, transports, the pool, the world. Read
`run`, `_begin` and `_exchange` in this order, and you have followed a request from the public call to the wire.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from weakref import WeakSet, ref

from plugwire.bodies import LimitedBody
from plugwire.call import Call, Scope, can_replay, racing, returned_no_response, tell
from plugwire.errors import (
    Busy,
    Cancelled,
    ConnectionClosed,
    Error,
    PluginError,
    Refused,
    SessionClosed,
    UsageError,
    WriteError,
)
from plugwire.events import Attempt, CallStep, Close, Event, Open, PoolWait
from plugwire.hookspecs import Stage
from plugwire.messages import AsyncResponse
from plugwire.pipeline import ATTEMPT, Layer, compile_chain, layers_of
from plugwire.pool import Pool, PoolStats
from plugwire.pool_places import Share, Slot, Ticket
from plugwire.pool_table import COMPANY
from plugwire.proxies import check_credentials
from plugwire.registry import watched
from plugwire.runtimes.locks import HandoverLock
from plugwire.shipped import COOKIES, cookie_jar
from plugwire.timeouts import Deadline
from plugwire.url import is_bound

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.call import Handler, Next, Watchers
    from plugwire.config import Limits
    from plugwire.connector import Connector
    from plugwire.cookie_store import CookieStore
    from plugwire.messages import Request
    from plugwire.protocols import Abortable, Connection, Runtime
    from plugwire.registry import Hook, Plugins
    from plugwire.route import Route
    from plugwire.view import View

T = TypeVar("T")

MAX_REFUSALS: Final = 10
"""How often one request may be refused: by a connection whose capacity went away (then its speaker is to blame), or by
a peer that says it did nothing with it (then its error is raised)."""

MAX_LEFT: Final = 250
"""Connections that may leave before they have begun with a request that was sent on them. A server that takes ten
requests a connection (nginx: `keepalive_requests 10`) leaves ninety of a hundred that came at once unprocessed each
time, and chance decides which."""

MAX_OVERTAKEN: Final = 1000
"""The same, where others were faster: they took the capacity, or read that the connection goes. Threads that all begin
at once overtake each other now and then, and a server may rotate its connections; only a connection that is wrong about
its capacity makes so many of it."""

interceptors: Final[list[Handler]] = []
"""`plugwire.testing.intercept`: the last one answers in place of every wire of the process."""


class Lease:
    """A connection that a `ConnectionHandle` holds between its requests."""

    __slots__ = ("connection", "is_over", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.connection: Connection | None = None
        self.is_over = False


class _Dialling:
    """One dial of a call, which may have several under way (hedging): each stands in `Engine.waits` by itself, or the
    first to end would take the others out of it too."""

    __slots__ = ("__weakref__", "_scope")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def abort(self) -> None:
        self._scope.abort()


class Engine:
    """What all views of a session share."""

    def __init__(self, plugins: Plugins, connector: Connector, limits: Limits) -> None:
        self.plugins = plugins
        self.connector = connector
        self.limits = limits
        self.layers = layers_of(plugins.hooks)
        observers = plugins.of("observe")
        self.watchers: Watchers | None = watched(observers) or None
        self.why_closed: str | None = None
        self.waits = Scope()
        """What waits on behalf of the session's calls, but for the connections: those are aborted by the pool."""
        self._bodies: WeakSet[Abortable] = WeakSet()
        """What responses have left to read, and streams that nobody has taken."""
        self.is_open = False
        self._opened: list[Hook] = []
        self._states: dict[int, tuple[object, Any]] = {}
        self.jars: list[CookieStore] = []
        """At most the first one counts; empty until somebody has a cookie, or asks."""
        self._chains: dict[tuple[bool, frozenset[int]], Handler] = {}
        self._plain = self._compile((), False)
        self._with_auth = self._compile((), True)

    # -- the world

    @property
    def is_bound(self) -> bool:
        """True once the world is known."""
        return hasattr(self, "runtime")

    def bind(self, runtime: Runtime, view: View) -> None:
        """The world is known: from here on the session can work. `view` is the session itself."""
        for name, worlds in self.plugins.worlds:
            if runtime.name not in worlds:
                raise PluginError(
                    f"the plugin {name} works in {', '.join(sorted(worlds))} only, not in {runtime.name}", name
                )
        self.connector.check_world(runtime.name)
        runtime = self.connector.wrapped(runtime)
        self.runtime = runtime
        self.never = Deadline(runtime.now)
        self.pool = Pool(self.limits, runtime.now, self._connection_closed)
        self._view = view
        self._opening = HandoverLock(runtime.waiter)
        _engines.add(self)

    def check_open(self) -> None:
        """Raise `SessionClosed` if somebody closed the session."""
        if self.why_closed is not None:
            raise SessionClosed(self.why_closed)

    async def open(self) -> None:
        """Run `session_opened`, once, before the first request."""
        self.check_open()
        await self._opening.run(self._run_opened)
        self.check_open()

    async def _run_opened(self) -> None:
        if self.is_open:
            return
        self.check_open()
        try:
            for hook in self.plugins.of("session_opened"):
                await _called(hook, self._view)
                self._opened.append(hook)
        except BaseException as error:
            # What this raises is `error`, whatever else goes wrong on the way.
            await self._run_closed(error)
        self.is_open = True
        self._view.root.spread()

    async def close(self, reason: str = "the session is closed") -> None:
        """End the session: responses, connections, plugins, in this order. Idempotent."""
        if self.why_closed is not None:
            return
        self.why_closed = reason
        pool: Pool | None = getattr(self, "pool", None)
        if pool is None:
            return
        try:
            self._abort(pool, reason)
        finally:
            # Who is opening the session just now ends first.
            await self._opening.run(self._run_closed)

    def drop(self) -> None:
        """The session was dropped without `close`: what can be done without waiting."""
        if self.why_closed is None:
            self.why_closed = "the session was dropped without close()"
            pool: Pool | None = getattr(self, "pool", None)
            if pool is not None:
                self._abort(pool, self.why_closed)

    def _abort(self, pool: Pool, reason: str) -> None:
        """End everything that is under way. Who waits closes what it used; what nobody waits for is closed here."""
        try:
            for body in self._unread():
                body.abort()
        finally:
            try:
                pool.close(reason)
            finally:
                self.waits.abort()

    def _unread(self) -> list[Abortable]:
        # Other threads add to it meanwhile. They do not go on for ever, for the session is closed already; and what
        # they add from here on, they abort themselves.
        while True:
            try:
                return list(self._bodies)
            except RuntimeError:
                continue

    async def _run_closed(self, error: BaseException | None = None) -> None:
        """`session_closed` in reverse order, of the plugins whose `session_opened` ran, or that have none. Raises
        `error`, or the first that came up."""
        with_opened = {id(hook.plugin) for hook in self.plugins.of("session_opened")}
        opened = {id(hook.plugin) for hook in self._opened}
        for hook in reversed(self.plugins.of("session_closed")):
            ran = id(hook.plugin) in opened or (self.is_open and id(hook.plugin) not in with_opened)
            if not ran:
                continue
            try:
                await _called(hook, self._view)
            except BaseException as failure:
                error = error or failure
        self._opened.clear()
        self.is_open = False
        if error is not None:
            raise error

    def state(self, owner: object, make: Callable[[Runtime], T]) -> T:
        """What a plugin keeps for this session, for as long as both live: a program may make an auth object for each
        call. Two threads may both make one; one of the two stays."""
        key = id(owner)
        found = self._states.get(key)
        if found is None:
            found = self._states.setdefault(key, (self._mark(owner), make(self.runtime)))
        return cast("T", found[1])

    def _mark(self, owner: object) -> object:
        """What sees to it that nobody else gets the state of `owner`: until the callback has run, its id is its own."""
        states, key = self._states, id(owner)
        try:
            return ref(owner, lambda _: states.pop(key, None))
        except TypeError:  # it cannot be held weakly, so it stays
            return owner

    @property
    def cookies(self) -> CookieStore:
        """The jar, made when first asked for. Two threads may both make one; the first one stays.

        Raises:
            UsageError: no plugin of this session keeps cookies.
        """
        if not self.jars:
            if COOKIES not in self.plugins.names:
                raise UsageError("this session keeps no cookies: it has no plugin 'cookies' (defaults=False?)")
            self.jars.append(cookie_jar())
        return self.jars[0]

    def start_anew(self) -> None:
        """In the child of a fork: what is under way is under way in the parent."""
        self.pool.start_anew()
        self._bodies = WeakSet()
        self.waits = Scope()
        self._opening = HandoverLock(self.runtime.waiter)
        for _, state in list(self._states.values()):
            after_fork: Callable[[], object] | None = getattr(state, "after_fork", None)
            if after_fork is not None:
                after_fork()

    # -- the road

    async def run(self, request: Request, call: Call, *, without: tuple[object, ...] = ()) -> AsyncResponse:
        """The user's whole operation."""
        if not self.is_open:
            await self.open()
        if without:
            chain = self._compile(without, call.auth is not None)
        else:
            chain = self._plain if call.auth is None else self._with_auth
        step = None if call.watchers is None else call.step(CallStep, request=request).start()
        try:
            response = await chain(request, call)
            if type(response) is not AsyncResponse:
                raise returned_no_response(self._outermost(without), response)
            # Its body was read with the head, or by a middleware, or is left to the caller; else it is read here.
            if not (response.is_read or call.streaming):
                try:
                    await response.read()
                except BaseException:
                    response.abort()
                    raise
            elif call.streaming and response.is_read:
                # It came whole with the head, or a middleware read it. The caller finds every stream unread, lest it
                # hang on the cut of packets whether `content` is there.
                response.body = response.body
            times = response.times
            if times is not None and times[3] is None and not call.streaming:
                response.times = (*times[:3], self.runtime.now())
            call.holder = ""
            if step is not None:
                step.note(status=response.status_code)
                step.end()
            return response
        except Error as error:
            blamed = self._blamed(error, request, call)
            if step is not None:
                step.end(blamed)
            raise blamed from error.__cause__
        except BaseException as error:
            if step is not None:
                step.end(error)
            if isinstance(error, (OSError, Refused)):
                call.check()
                what = f"a plugin or transport raised {type(error).__name__}: {error}"
                raise PluginError(what, call.holder) from error
            raise

    async def _observed(self, inner: Handler, request: Request, call: Call) -> AsyncResponse:
        with call.step(Attempt, request=request) as step:
            response = await inner(request, call)
            step.note(status=getattr(response, "status_code", 0))  # what is no response, is refused further out
            return response

    def _outermost(self, without: tuple[object, ...]) -> str:
        """Who gave the answer that the core gets: for an error."""
        names = [layer.name for layer in self.layers if not any(layer.plugin is plugin for plugin in without)]
        return names[0] if names else "the call's auth"

    def _compile(self, without: tuple[object, ...], has_auth: bool) -> Handler:
        # Only who has a layer counts: an auth object, of which there may be one for each call, changes nothing.
        absent = {id(plugin) for plugin in without} & {id(layer.plugin) for layer in self.layers}
        key = (has_auth, frozenset(absent))
        chain = self._chains.get(key)
        if chain is None:
            # Outermost at its stage is what stands before the plugins there.
            layers = [Layer(Stage.PREPARE, "", ATTEMPT, self._observed, True, None, True, self._begin)]
            if has_auth:
                layers.append(Layer(Stage.AUTH, "auth", "around_send", _authorize, True, None, True))
            layers += [layer for layer in self.layers if id(layer.plugin) not in absent]
            chain = self._chains[key] = compile_chain(layers, self._exchange)
        return chain

    def _begin(self, request: Request, call: Call) -> bool:
        """Begin an attempt: count it, prepare the request. True if somebody wants to hear of it."""
        call.attempt += 1
        call.session.prepare(request, call)
        return call.watchers is not None

    async def _exchange(self, request: Request, call: Call) -> AsyncResponse:
        """The wire: find a connection, send, receive the head. Replays once what a reused connection lost."""
        if interceptors:
            # By a slice: another thread may take the last one out between two looks.
            for interceptor in interceptors[-1:]:
                return await interceptor(request, call)
        route = call.session.route(request, call)
        if route.proxy is not None:
            check_credentials(request, route)
        lease: Lease | None = request.affinity
        if lease is not None and lease.route != route:
            lease = None
        is_replay = False
        refusals = overtaken = unprocessed = left = 0
        while True:
            try:
                connection, share = await self._connection(route, call, lease, fresh=is_replay)
            except (Cancelled, SessionClosed) as error:
                error.at("pool", request=request)
                raise
            scope, inner = call.scope, racing.get()
            is_scoped = not connection.scopes_calls
            slot: Slot | None = connection.place
            if is_scoped:
                if slot is not None:
                    slot.is_sending = True
                scope.add(connection)
                if inner is not None:
                    inner.add(connection)
            if share is not None:
                share.begun()
            try:
                response = await connection.send(request, call)
            except Refused as refusal:
                # Nothing was sent: its capacity went away between the pool's grant and now.
                is_overtaken = refusal.overtaken or not connection.is_idle
                if share is not None and (is_overtaken or connection.is_draining or connection.is_closed):
                    overtaken += 1
                else:
                    refusals += 1
                    if share is not None:
                        self.pool.refused(share)
                    elif connection.is_idle:
                        self._retire(connection, "it refused a request")
                if refusals > MAX_REFUSALS or overtaken > MAX_OVERTAKEN:
                    what = f"{refusals + overtaken} connections to {route} took no request: {refusal.reason}"
                    raise PluginError(what, type(connection).__name__).at("pool", request=request) from refusal
                call.check()
                continue
            except (Cancelled, SessionClosed) as error:
                # From outside, at a moment of which nothing is known.
                call.went_out(request)
                error.at("head", request=request, sent=True, connection=connection.info)
                raise
            except Error as error:
                if error.sent and not error.replayable:
                    call.went_out(request)
                if inner is not None and inner.is_aborted:
                    raise  # the loser of a race, on its way out
                if error.replayable and error.request in (None, request):
                    # Its speaker says so: the peer did nothing with it (RFC 9113, 8.7), whatever the method. (With
                    # another request in it, it is the error of another call, from which the content was to come.)
                    if connection.is_draining or connection.is_closed:
                        left += 1
                    else:
                        unprocessed += 1
                    if unprocessed > MAX_REFUSALS or left > MAX_LEFT or not request.body.is_replayable:
                        raise
                elif (
                    is_replay
                    or not isinstance(error, (ConnectionClosed, WriteError))
                    or not connection.info.reused
                    or not can_replay(error, request)
                ):
                    raise
                else:
                    is_replay = True
                call.check()
                continue
            finally:
                if share is not None:
                    self.pool.end(share)
                if is_scoped:
                    scope.discard(connection)
                    if inner is not None:
                        inner.discard(connection)
                    if slot is not None:
                        slot.is_sending = False
                        if connection.is_idle:  # it said so when the pool did not listen, or forgot to say it
                            self.pool.look(connection)
                if connection.is_closed:
                    self.pool.forget(connection)
            call.went_out(request)
            now = self.runtime.now()
            is_read = response.is_read
            response.times = (call.started, call.setup, now, now if is_read else None)
            if response.status_code == 101 or request.method == "CONNECT":
                self._bodies.add(response)  # its stream, for as long as nobody has taken it
            if is_read:
                if not is_scoped and connection.place is not None and connection.is_idle:
                    self.pool.look(connection)  # a connection that answers at once may forget to say that it is idle
            else:
                scope.add(response.body)
                self._bodies.add(response.body)
                if self.why_closed is not None:  # just now: it was not among those that were aborted
                    response.body.abort()
            most = self.limits.max_decoded_bytes
            if most is not None and not (is_read and len(response.content) <= most):
                response.body = LimitedBody(response, most)
            return response

    async def _connection(
        self, route: Route, call: Call, lease: Lease | None, *, fresh: bool
    ) -> tuple[Connection, Share | None]:
        """A connection that takes a request now: the lease's own, an idle one, or a new one; or one that others use
        too, with the call's share of it."""
        if lease is not None:
            return await self._leased(lease, call, fresh=fresh)
        while True:
            place: Slot | Share | Ticket | None
            place = self.pool.ask(route, self.runtime.waiter, self.connector.may_share, fresh=fresh)
            if type(place) is Ticket:
                place = await self._wait(place, route, call)
                if place is None:
                    continue
            if type(place) is Share:
                return place.connection, place
            slot = place
            connection, slot.connection = slot.connection, None
            if connection is None:
                connection = await self._dial(route, slot, call)
            else:
                # What it says of itself while it is looked at is no news for the pool yet: only then has it a place.
                try:
                    is_fresh = connection.is_fresh()
                except BaseException:
                    connection.place = slot
                    self._retire(connection, "looking at it was interrupted")
                    raise
                connection.place = slot
                if not is_fresh:
                    self._retire(connection, "the peer closed it while it was idle")
                    continue
            if slot.is_scout or connection.capacity > 1:
                return connection, self.pool.share(connection)
            return connection, None

    async def _wait(self, ticket: Ticket, route: Route, call: Call) -> Slot | Share | None:
        """Wait for a place in the limits, or on a connection. None: it was woken for nothing, and must ask anew."""
        deadline = call.deadline.earlier(call.timeout.pool, "pool")
        place: Slot | Share | None = None
        waiter = ticket.waiter
        with call.step(PoolWait, route=route):
            try:
                with call.waiting(waiter):
                    while ticket.lane.may_queue:
                        at = self.runtime.now() + COMPANY
                        if at >= deadline.at or await waiter.wait(at):
                            break
                        self.pool.hurry(ticket)
                    is_woken = await waiter.wait(deadline.at)
                call.check()
                place = self.pool.collect(ticket)
            finally:
                self.pool.leave(ticket)
            if place is None and not is_woken:
                raise deadline.error("pool", self.pool.describe())
        return place

    async def _dial(self, route: Route, slot: Slot, call: Call) -> Connection:
        """A new connection, in its place."""
        dialling = _Dialling(call.scope)
        try:
            self.waits.add(dialling)
            connection = await self.connector.open(route, call, self.limits, self.pool.changed)
        except BaseException:
            self.pool.free(slot)
            raise
        finally:
            self.waits.forget(dialling)
        try:
            if self.watchers is not None and Open in self.watchers:
                self._tell(Open(time=self.runtime.now(), connection=connection.info, route=route))
            self.pool.joined(connection, slot)
            call.check("dial")
        except BaseException:
            self._retire(connection, "its call had ended")
            raise
        return connection

    def _retire(self, connection: Connection, reason: str) -> None:
        """Close a connection and give its place back."""
        slot: Slot | None = connection.place
        connection.place = None
        connection.close()
        if slot is not None:
            self.pool.free(slot)
        self._connection_closed(connection, reason)

    # -- leases

    async def lease(self, route: Route, call: Call) -> Lease:
        """Take or dial a connection for a handle."""
        if not self.is_open:
            await self.open()
        lease = Lease(route)
        if interceptors:  # who answers in place of the wire is not dialled
            return lease
        try:
            _, share = await self._leased(lease, call, fresh=False)
        except Error as error:
            raise self._blamed(error, None, call) from error.__cause__
        if share is not None:
            self.pool.end(share)
        return lease

    async def _leased(self, lease: Lease, call: Call, *, fresh: bool) -> tuple[Connection, Share | None]:
        """The lease's connection, if it is still good; else another one, which is the lease's from now on."""
        if lease.is_over:
            raise SessionClosed("the connection's handle is closed")
        connection = lease.connection
        if connection is not None and not (connection.is_closed or connection.is_draining):
            share = self.pool.take(connection)
            if share is None and connection.capacity < 1 and not (connection.is_closed or connection.is_draining):
                raise Busy(
                    "the leased connection has an open request: read or close its response first"
                    if connection.place is None or not connection.place.is_shared
                    else "the leased connection takes no further request as long as so many are open"
                )
            # What others use is fresh, and not to be closed under them.
            if not connection.is_idle or (not fresh and connection.is_fresh()):
                return connection, share
            if share is not None:
                self.pool.end(share)
            if connection.is_idle:
                self._retire(connection, "the peer closed it while it was leased")
        if connection is not None:
            lease.connection = None
            self.pool.lease(connection, -1)
        connection, share = await self._connection(lease.route, call, None, fresh=fresh)
        self.pool.lease(connection, 1)
        lease.connection = connection
        if lease.is_over:
            if share is not None:
                self.pool.end(share)
            self.end_lease(lease)
            raise SessionClosed("the connection's handle was closed")
        return connection, share

    def end_lease(self, lease: Lease) -> None:
        """Give the connection back. Idempotent."""
        lease.is_over = True
        connection, lease.connection = lease.connection, None
        if connection is not None:
            self.pool.lease(connection, -1)

    # -- errors and events

    def _blamed(self, error: Error, request: Request | None, call: Call) -> Error:
        """Complete an error with what only the road knows."""
        if not isinstance(error, (Cancelled, SessionClosed)):
            # Whatever the symptom was: if somebody ended the call from outside, that is the reason.
            try:
                call.check()
            except (Cancelled, SessionClosed) as reason:
                error = _with_cause(reason, error)
        call.blame(error, request)
        return error

    def _connection_closed(self, connection: Connection, reason: str) -> None:
        self.pool.forget(connection)
        if self.watchers is not None and Close in self.watchers:
            self._tell(Close(time=self.runtime.now(), connection=connection.info, reason=reason))

    def _tell(self, event: Event) -> None:
        """An event that belongs to no call."""
        for observer in (self.watchers or {}).get(type(event), ()):
            tell(observer, event)

    def stats(self) -> PoolStats:
        """How the pool stands."""
        return self.pool.stats() if self.is_bound else PoolStats(0, 0, 0, {})


_engines: WeakSet[Engine] = WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _with_cause(error: Error, cause: Error) -> Error:
    error.phase, error.sent, error.request, error.attempts = cause.phase, cause.sent, cause.request, cause.attempts
    error.__cause__ = cause
    return error


async def _authorize(request: Request, call_next: Next, call: Call) -> AsyncResponse:
    """The core's layer at stage `auth`: the call's auth, for the origin it was given for and no other."""
    if call.auth is None or not is_bound(call.origin, request.url.origin):
        return await call_next(request)
    function = call.auth.around_send
    return cast("AsyncResponse", await function(request, call_next, call))


async def _called(hook: Hook, view: View) -> None:
    await (hook.function(view) if hook.arguments else hook.function())
