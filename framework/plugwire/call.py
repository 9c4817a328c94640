"""The `Call`: what a plugin gets beside the request, and what ties a user's operation together.

`Scope` is the set of things that wait on behalf of a call, so that `call.cancel()` can reach them from another thread.
`Next` is what a middleware gets as `call_next`.
"""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar, Token
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from weakref import WeakSet, ref

from plugwire.errors import Cancelled, Error, NotReplayable, PluginError
from plugwire.events import Edge, Event, Step
from plugwire.messages import AsyncResponse, Request
from plugwire.timeouts import Deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType
    from typing import Self

    from plugwire.config import Limits
    from plugwire.errors import Phase
    from plugwire.protocols import Abortable, Observer, Runtime
    from plugwire.timeouts import Timeout
    from plugwire.url import Origin
    from plugwire.view import View

T = TypeVar("T")

Handler: TypeAlias = "Callable[[Request, Call], Awaitable[AsyncResponse]]"
Watchers: TypeAlias = "Mapping[type[Event], tuple[Observer, ...]]"

NO_OPTIONS: Final[Mapping[str, object]] = MappingProxyType({})

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, 9.2.2."""


class Scope:
    """What can be aborted on behalf of one call, of one starter of a race, or of a session that is closed.

    Who is about to wait adds itself, and takes itself out afterwards; who is added after the abort is aborted at once,
    so nothing slips through between the two. (A set's `add` and `discard` are atomic; `abort` sets the flag first and
    reads the set after, `add` does it the other way around.) Once `discard` has returned, no abort of this scope comes
    any more, though another thread may have begun it before: what is discarded may be somebody else's at once.
    """

    __slots__ = ("__weakref__", "_members", "is_aborted")

    def __init__(self) -> None:
        self._members: set[ref[Abortable]] = set()
        self.is_aborted = False

    def add(self, member: Abortable) -> None:
        """`member` begins to wait. Held weakly: a response that is dropped must not live on in its scope."""
        self._members.add(ref(member))
        if self.is_aborted:
            member.abort()

    def discard(self, member: Abortable) -> None:
        """`member` does not wait any more."""
        self._members.discard(ref(member))
        if self.is_aborted:
            for hand in _hands.copy():
                if hand.scope is self and hand.holds(member):
                    with hand.lock:  # this abort is over now
                        pass

    def forget(self, member: Abortable) -> None:
        """The same for one that nobody will use again: an abort that has it in hand may go on."""
        self._members.discard(ref(member))

    def abort(self) -> None:
        """Wake all members with an error, and each later one."""
        self.is_aborted = True
        for reference in self._members.copy():
            hand = _Hand(self, reference)
            with hand.lock:
                try:
                    _hands.add(hand)  # first, then the look: `discard` does it the other way around
                    member = reference()
                    if member is not None and reference in self._members:
                        member.abort()
                finally:
                    _hands.discard(hand)


class _Hand:
    """An abort that is under way: of whom, by which scope. `lock` is held until it is over.

    Each has its own, because an abort may run what others wrote: a body of a plugin tells its observers, and these may
    wait for a lock of theirs. Who holds that one, perhaps in a finaliser, then waits at most for the abort of what he
    discards himself. Reentrant, because a signal handler may abort what its own thread discards, or discard what its
    own thread aborts.
    """

    __slots__ = ("_reference", "lock", "scope")

    def __init__(self, scope: Scope, reference: ref[Abortable]) -> None:
        self.scope = scope
        self.lock = threading.RLock()
        self._reference = reference

    def holds(self, member: Abortable) -> bool:
        return self._reference() is member


_hands: Final[set[_Hand]] = set()

racing: ContextVar[Scope | None] = ContextVar("plugwire_racing", default=None)
"""The scope of the starter that runs in this thread or task, inside of `Runtime.race` or `Runtime.start` of the
blocking world; None elsewhere. What waits for a call joins this scope too, so that a race can end its losers."""


class Call:
    """A user's whole operation, retries and redirects included. Made by the session, handed to every hook.

    Attributes:
        context: the caller's `context=`.
        origin: of the first URL: what credentials are bound to.
        session: the session as plugins see it, never a face.
        runtime: the world.
        deadline: when to give up with all that lies before the head.
        total: when to give up with everything, the body included.
        timeout: the `Timeout` of the call.
        max_redirects: how many redirects are followed before it is an error; None: a redirect is given as it is.
        attempt: the number of the attempt on the wire, from 1; 0 before the first.
        streaming: the caller reads the body piece by piece (`stream()`, a handle's `send()`).
        auth: what runs at stage `auth`, for requests to `origin` only.
        given: the call's `options=`.
        scope: what waits on behalf of the call.
        was_sent: an attempt of it went out, and the peer may have acted on it.
        has_acted: so did one whose method is not idempotent, so that the call as a whole must not be repeated, whatever
            the request was that failed (after a redirect it may be a GET).
    """

    __slots__ = (
        "_id",
        "_states",
        "attempt",
        "auth",
        "context",
        "deadline",
        "given",
        "has_acted",
        "holder",
        "max_redirects",
        "origin",
        "runtime",
        "scope",
        "session",
        "setup",
        "started",
        "streaming",
        "timeout",
        "total",
        "was_sent",
        "watchers",
    )

    def __init__(
        self,
        session: View,
        runtime: Runtime,
        origin: Origin,
        timeout: Timeout,
        *,
        streaming: bool = False,
        context: object = None,
        auth: Any = None,
        given: Mapping[str, object] = NO_OPTIONS,
        watchers: Watchers | None = None,
        parent: Deadline | None = None,
    ) -> None:
        now = runtime.now
        self.session = session
        self.runtime = runtime
        self.origin = origin
        self.timeout = timeout
        self.streaming = streaming
        self.context = context
        self.auth = auth
        self.given = given
        self.watchers = watchers
        self.started = now()
        total = parent if parent is not None else Deadline(now)
        if timeout.total is not None:
            total = total.earlier(timeout.total, "total")
        self.total = total
        self.deadline = total if timeout.head is None else total.earlier(timeout.head, "head")
        self.attempt = 0
        self.was_sent = False
        self.has_acted = False
        self.scope = Scope()
        self.holder = ""
        self.setup = 0.0
        self.max_redirects = session.redirect_limit
        self._id = 0
        self._states: dict[type, Any] | None = None

    def __repr__(self) -> str:
        return f"<Call {self.id} to {self.origin}, attempt {self.attempt}>"

    @property
    def id(self) -> int:
        """A number, unique in the process, made when first asked for."""
        if not self._id:
            self._id = next(_ids)
        return self._id

    @property
    def limits(self) -> Limits:
        """What the session may be made to hold."""
        return self.session.engine.limits

    def options(self, kind: type[T]) -> T:
        """The options of the declared type `kind`: its defaults, the session's, this call's, each over the last."""
        return self.session.options(kind, self.given)

    def state(self, kind: type[T]) -> T:
        """An object of type `kind` that lives as long as the call: made by `kind()` at the first asking."""
        states = self._states
        if states is None:
            states = self._states = {}
        found: T | None = states.get(kind)
        if found is None:
            found = states[kind] = kind()
        return found

    def renew(self, seconds: float = 0.0) -> None:
        """The budget of the head begins anew, `seconds` from now: for a body that calls `call_next` once more long
        after the head has come (SSE reconnect, resume by Range). `total` goes on as it was."""
        head, total = self.timeout.head, self.total
        if head is None:
            self.deadline = total
            return
        later = Deadline(self.runtime.now, self.runtime.now() + seconds + head, "head", head)
        self.deadline = total if total.at <= later.at else later

    async def sleep(self, seconds: float) -> None:
        """Wait, as a back-off does. `call.cancel()` ends it.

        Raises:
            TotalTimeout, HeadTimeout: at once, if it would pass the deadline.
        """
        runtime = self.runtime
        at = runtime.now() + max(seconds, 0)
        if at >= self.deadline.at:
            raise self.deadline.error(None, f" (a pause of {seconds:g} s would pass it)")
        waiter = runtime.waiter()
        with self.waiting(waiter):
            await waiter.wait(at)
        self.check()

    async def send(self, request: Request, without: tuple[object, ...] = ()) -> AsyncResponse:
        """A side request through the same session, under the same deadline (token refresh, revalidation); its body is
        read. `without` names plugins (objects) that it does not pass through: `without=(self,)`."""
        return await self.session.side_call(self, request, without)

    def cancel(self) -> None:
        """End the call: whoever waits on its behalf is woken, and the call raises `Cancelled`. Works from any thread in
        the blocking world, from the loop's thread elsewhere."""
        self.scope.abort()

    @property
    def is_cancelled(self) -> bool:
        """True once the call was ended from outside: by `cancel()`, by that of the call it works for, or with the
        session."""
        return self.scope.is_aborted

    def check(self, phase: Phase | None = None) -> None:
        """Raise what ended the call from outside, if anything did: `Cancelled`, `SessionClosed`. `phase`: where it
        stands."""
        try:
            self.session.check_open()
            if self.is_cancelled:
                raise Cancelled("the call was cancelled by call.cancel()")
        except Error as error:
            if phase is not None:
                error.at(phase)
            raise

    def went_out(self, request: Request) -> None:
        """The peer may act on this request, or did: it answered, or nobody knows."""
        self.was_sent = True
        if request.method not in IDEMPOTENT:
            self.has_acted = True

    def blame(self, error: Error, request: Request | None) -> None:
        """Fill in what only the call knows of an error: the request, the attempts, whether it may be sent again. Who
        reads a body calls it, because such an error does not pass the core's own road."""
        if error.request is None:
            error.request = request
        error.attempts = max(error.attempts, self.attempt)
        if self.was_sent and not error.sent:
            # Another attempt was: whatever became of this one, the caller must not take the request for unsent.
            error.sent = True
            error.replayable = False
        if error.request is not None:
            error.replayable = not self.has_acted and can_replay(error, error.request)

    def waiting(self, member: Abortable, shared: bool = False) -> Waiting:
        """A `with` block: while `member` waits on behalf of this call, `cancel()`, the end of a race and the session's
        end reach it.

        With `shared`, `member` alone: a stream or waiter below that serves other calls too, and that is waited for
        inside of the block, is not aborted with the loser of a race.
        """
        return Waiting(self, member, shared)

    # -- events

    def wants(self, kind: type[Event]) -> bool:
        """True if somebody observes events of this class: only then build one."""
        return self.watchers is not None and kind in self.watchers

    def emit(self, event: Event) -> None:
        """Tell those who observe events of this class."""
        if self.watchers is not None:
            for observer in self.watchers.get(type(event), ()):
                tell(observer, event)

    def tell(self, kind: type[Event], **fields: Any) -> None:
        """Build an event of this class and emit it, if somebody wants it."""
        if self.watchers is not None and kind in self.watchers:
            self.emit(kind(time=self.runtime.now(), call=self, attempt=self.attempt, context=self.context, **fields))

    def step(self, kind: type[Step], **fields: Any) -> StepEvents:
        """A `with` block that emits STARTED at its begin and exactly one of FINISHED and FAILED at its end."""
        return StepEvents(self, kind, fields)


class Waiting:
    """What `Call.waiting` gives: adds its member to the scopes, and takes it out again."""

    __slots__ = ("_inner", "_member", "_of_call", "_of_session", "_shared", "_token")

    def __init__(self, call: Call, member: Abortable, shared: bool) -> None:
        self._of_call = call.scope
        self._of_session = call.session.engine.waits
        self._member = member
        self._shared = shared
        self._inner: Scope | None = None
        self._token: Token[Scope | None] | None = None

    def __enter__(self) -> None:
        self._inner = inner = racing.get()
        try:
            self._of_call.add(self._member)
            self._of_session.add(self._member)
            if inner is not None:
                inner.add(self._member)
                if self._shared:
                    self._token = racing.set(None)
        except BaseException:  # an interrupt, or a member that cannot be aborted
            self._leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._of_call.discard(self._member)
        self._of_session.discard(self._member)
        if self._inner is not None:
            self._inner.discard(self._member)
        if self._token is not None:
            token, self._token = self._token, None
            try:
                racing.reset(token)
            except ValueError:
                pass  # a finaliser ends a road that was dropped, in another thread: its variable is not ours to set


class StepEvents:
    """Both ends of a step; `note(...)` adds what is only known at the end. Costs next to nothing if nobody looks."""

    __slots__ = ("_call", "_fields", "_is_wanted", "_kind")

    def __init__(self, call: Call, kind: type[Step], fields: dict[str, Any]) -> None:
        self._call = call
        self._kind = kind
        self._fields = fields
        self._is_wanted = call.wants(kind)

    def note(self, **fields: Any) -> None:
        """What FINISHED or FAILED will say beyond what STARTED said."""
        self._fields.update(fields)

    def start(self) -> Self:
        """The step begins; for steps that end elsewhere than in a `with` block."""
        if self._is_wanted:
            self._call.tell(self._kind, edge=Edge.STARTED, **self._fields)
        return self

    def end(self, error: BaseException | None = None) -> None:
        """The step is over; only the first time counts."""
        if self._is_wanted:
            self._is_wanted = False
            edge = Edge.FINISHED if error is None else Edge.FAILED
            self._call.tell(self._kind, edge=edge, error=error, **self._fields)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)


def tell(observer: Observer, event: Event) -> None:
    """Give an event to an observer. What it raises goes to `sys.unraisablehook`, once for each observer, never to the
    call."""
    try:
        observer(event)
    except Exception as error:
        if _is_first_fault(observer):
            report(error, "an observer raised; ignored in", observer)


def report(error: BaseException, message: str, culprit: object = None) -> None:
    """Give an error that nobody can catch to `sys.unraisablehook`."""
    sys.unraisablehook(_Unraisable(type(error), error, error.__traceback__, message, culprit))


@dataclass
class _Unraisable:
    """What `sys.unraisablehook` is called with; its own type cannot be made in Python."""

    exc_type: type[BaseException]
    exc_value: BaseException | None
    exc_traceback: TracebackType | None
    err_msg: str | None
    object: object


_broken: WeakSet[Any] = WeakSet()
_ids = count(1)


def _is_first_fault(observer: Observer) -> bool:
    """Whether this observer, or the plugin whose method it is, raises for the first time. Remembered weakly: what is
    made in its place later is another one, even at the same address."""
    owner: Any = getattr(observer, "__self__", observer)
    try:
        if owner in _broken:
            return False
        _broken.add(owner)
    except TypeError:  # nothing that can be remembered so, such as the list of `list.append`
        pass
    return True


class Next:
    """What a middleware gets as `call_next`: `response = await call_next(request)`.

    It hands down a snapshot of the request (copy on write), so the middleware may change its own freely. It may be
    called again, also concurrently, and stays valid until the response is closed. It checks the middleware's manners.
    With `ready`, the first call gives that response: the middleware runs because of it (`hookimpl(if_response=)`).
    """

    __slots__ = ("_below", "_call", "_inner", "_name", "_origin", "_ready", "_times")

    def __init__(
        self,
        inner: Handler,
        call: Call,
        name: str,
        below: str,
        origin: Origin | None,
        ready: AsyncResponse | None = None,
    ) -> None:
        self._inner = inner
        self._call = call
        self._name = name
        self._below = below
        self._origin = origin
        self._ready = ready
        self._times = 0

    async def __call__(self, request: Request) -> AsyncResponse:
        if not isinstance(request, Request):
            raise PluginError(f"{self._name} called call_next({type(request).__name__}): a Request", self._name)
        if self._origin is not None and request.url.origin != self._origin:
            raise PluginError(
                f"{self._name} changed the origin from {self._origin} to {request.url.origin} inside the send tier, "
                "where credentials are already on the request; do it in around_call",
                self._name,
            )
        if self._times and not request.body.is_replayable:
            raise NotReplayable(f"{self._name} called call_next again, and the request's body can be sent only once")
        self._times += 1
        response = self._ready
        if response is not None:
            self._ready = None
        else:
            response = await self._inner(request.copy(), self._call)
            if not isinstance(response, AsyncResponse):
                raise returned_no_response(self._below, response)
        self._call.holder = self._name
        return response


def can_replay(error: Error, request: Request) -> bool:
    """True if the same request may be sent again after this error: nothing had been sent, or the peer did nothing with
    it (its speaker said so), or the method is idempotent (RFC 9110, 9.2.2); and the body can be sent again."""
    may_repeat = not error.sent or error.replayable or request.method in IDEMPOTENT
    return may_repeat and request.body.is_replayable


def returned_no_response(name: str, value: object) -> PluginError:
    """The error for a middleware that returned something else than a response."""
    return PluginError(f"{name} returned {type(value).__name__}, not an AsyncResponse", name)
