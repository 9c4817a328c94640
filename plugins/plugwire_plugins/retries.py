"""Retries: ask again after what may pass by itself, without making it worse.

How it works. A `RetryPolicy` is an immutable value that is asked after each attempt: `decide(...)` gives None (this
outcome is final, good or bad), or a `RetryDecision` with its reason. It reads no clock, draws no random number and does
no I/O; all of these are handed in. `Retries` is the mechanism: it stands at stage `retry`, around each call (inside of
redirects, outside of everything that is done for each attempt), asks, tells the decision as a `plugwire.events.Retry`,
closes what it drops, waits, and calls again.

Rules that hold, and what breaks without them:

1. *Nothing happens twice that must not.* A request is repeated only if nothing of it was sent, or the peer said that it
   did not act (`error.replayable`), or its method is idempotent (RFC 9110, 9.2.2), or the caller says that it is safe:
   by the option `retry_unsafe` or an Idempotency-Key field. Otherwise an order is placed twice.
2. *Only bodies that can be sent again.* Otherwise the second attempt sends half a file.
3. *Never past the deadline.* A pause that would pass it is not begun: the caller gets the last answer at once, and not
   the same failure later with less to see.
4. *No storms.* Pauses grow exponentially, with full jitter: a random part of the whole, so that those who failed
   together do not come back together. And retries need tokens from a `RetryBudget`: when an origin is down, each call
   of a busy client would otherwise turn into three, just when the origin can bear it least.
5. *Retry-After is a lower bound* (RFC 9110, 10.2.3), to which jitter is added; one above `max_retry_after` is taken for
   what it says, come back another time, and the response is handed over.

What is given up ends as if there were no retries: a response is returned, whatever its status, an error is raised. In a
buffered call the body is read here, so one that breaks in the middle counts as a failed attempt; in `stream()` only the
head does.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, replace
from math import inf
from random import random
from time import time
from typing import TYPE_CHECKING, Final, NamedTuple

from plugwire import (
    AddressRefused,
    AsyncResponse,
    Cancelled,
    CertificateError,
    ConnectTimeout,
    Error,
    HeadTimeout,
    IncompleteBody,
    NetworkError,
    PoolTimeout,
    ProxyError,
    ReadTimeout,
    ResolveError,
    ResponseError,
    StreamReset,
    TotalTimeout,
    UsageError,
    WriteTimeout,
    hookimpl,
)
from plugwire.events import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from plugwire import Headers
    from plugwire.protocols import Call, Next, Origin, Request, Runtime

STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may pass by themselves (RFC 9110, 15.5.9, 15.6; RFC 6585, 4)."""

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, 9.2.2."""

PASSING: Final[tuple[type[Error], ...]] = (
    NetworkError, ConnectTimeout, WriteTimeout, ReadTimeout, IncompleteBody, StreamReset,
)  # fmt: skip
"""Errors that may pass by themselves; and all others before the body that are `replayable`, because the peer said that
it did not act. The rest of a peer's errors are not among them: what it said wrong once it will say wrong again."""

LASTING: Final[tuple[type[Error], ...]] = (
    UsageError, Cancelled, TotalTimeout, HeadTimeout, PoolTimeout, AddressRefused, CertificateError, ResponseError,
)  # fmt: skip
"""Errors after which another attempt is pointless, whatever else is said of them: the caller's own, the budgets of the
whole call, which are over, and a full pool, because there are too many requests of ours already."""

NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
"""What a resolver says of a name that does not exist, unlike EAI_AGAIN."""

MAX_ORIGINS: Final = 1000
"""Origins whose budget a session remembers: a crawler sees many."""


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """The options that `Retries` adds to a session and to each call: `options={"max_retries": 5}`.

    Attributes:
        max_retries: in place of the policy's; 0: none; None: the policy's.
        retry_unsafe: True: repeat also methods that are not idempotent, such as POST, because the caller knows that
            acting twice does no harm; None: as the policy says.
    """

    max_retries: int | None = None
    retry_unsafe: bool | None = None

    def __post_init__(self) -> None:
        if self.max_retries is not None:
            _check_count("max_retries", self.max_retries)


class RetryDecision(NamedTuple):
    """What a policy decided: whether to try again, after `delay` seconds, and why or why not."""

    will_retry: bool
    reason: str
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What is repeated, how often, and after which pause. Immutable; `dataclasses.replace` makes another.

    Attributes:
        max_retries: attempts after the first.
        statuses: of responses that are tried again.
        methods: those that may be repeated although they were sent; the idempotent ones.
        retry_unsafe: all methods may.
        backoff: seconds; the upper bound of the first pause, doubled for each further one.
        max_backoff: seconds; what that bound grows to at most.
        max_retry_after: seconds; with a longer Retry-After the response is handed over.

    Raises:
        UsageError: a value that means nothing.
    """

    max_retries: int = 2
    statuses: Collection[int] = STATUSES
    methods: Collection[str] = IDEMPOTENT
    retry_unsafe: bool = False
    backoff: float = 0.5
    max_backoff: float = 30.0
    max_retry_after: float = 60.0

    def __post_init__(self) -> None:
        _check_count("max_retries", self.max_retries)
        for name in ("backoff", "max_backoff", "max_retry_after"):
            _check_number(name, getattr(self, name))
        if isinstance(self.methods, str):
            raise UsageError(f"methods={self.methods!r}: a collection of methods")
        # Frozen whatever was given, so that a policy never changes under those who share it.
        object.__setattr__(self, "statuses", frozenset(self.statuses))
        object.__setattr__(self, "methods", frozenset(self.methods))

    def under(self, options: RetryOptions) -> RetryPolicy:
        """This policy as the options of a call change it."""
        policy = self
        if options.max_retries is not None:
            policy = replace(policy, max_retries=options.max_retries)
        if options.retry_unsafe is not None:
            policy = replace(policy, retry_unsafe=options.retry_unsafe)
        return policy

    def decide(
        self,
        request: Request,
        outcome: AsyncResponse | Error,
        *,
        retries: int = 0,
        remaining: float = inf,
        jitter: float = 1.0,
        now: float = 0.0,
    ) -> RetryDecision | None:
        """What to do after an attempt. Pure.

        Args:
            request: as it was handed to the attempt.
            outcome: the response, or the error.
            retries: how many retries were made so far.
            remaining: seconds until the deadline.
            jitter: a random number from 0 to 1.
            now: the wall clock, in seconds since 1970: for a Retry-After with a date, in a response without Date.

        Returns:
            None if the outcome is none that could be retried: success, 404, a bad certificate, ...
        """
        cause = self.cause(outcome)
        if cause is None:
            return None
        if retries >= self.max_retries:
            return RetryDecision(False, f"{cause}; max_retries={self.max_retries} is reached")
        if not self._may_repeat(request, outcome):
            return RetryDecision(False, f"{cause}; {request.method} is not idempotent (RFC 9110, 9.2.2)")
        if not request.body.is_replayable:
            return RetryDecision(False, f"{cause}; the request's body can be sent only once")
        wait = 0.0
        if isinstance(outcome, AsyncResponse):
            wait = retry_after(outcome.headers, now) or 0.0
            if wait > self.max_retry_after:
                return RetryDecision(
                    False, f"{cause}; Retry-After {wait:g} s is over max_retry_after={self.max_retry_after:g}"
                )
        delay = wait + jitter * self._bound(retries)
        if delay >= remaining:
            return RetryDecision(False, f"{cause}; a pause of {delay:.3g} s would pass the deadline", delay)
        return RetryDecision(True, cause, delay)

    def cause(self, outcome: AsyncResponse | Error) -> str | None:
        """What went wrong and may pass by itself, in words; None if nothing did."""
        if isinstance(outcome, AsyncResponse):
            return f"status {outcome.status_code}" if outcome.status_code in self.statuses else None
        match outcome:
            case error if isinstance(error, LASTING):
                return None
            case ResolveError() if getattr(outcome.__cause__, "errno", None) in NO_SUCH_NAME:
                return None
            case ProxyError(response=response) if response is not None:
                # The proxy spoke: 407 stays 407.
                status = response.status_code
                return f"status {status} of the proxy" if status in self.statuses else None
            case _:
                # In the body the peer has acted already: `replayable` then speaks of the method only.
                did_not_act = outcome.replayable and outcome.phase != "body"
                return type(outcome).__name__ if isinstance(outcome, PASSING) or did_not_act else None

    def _may_repeat(self, request: Request, outcome: AsyncResponse | Error) -> bool:
        """True if a second attempt cannot make the peer act twice, or may."""
        if isinstance(outcome, Error) and (outcome.replayable or not outcome.sent):
            return True
        return self.retry_unsafe or request.method in self.methods or "idempotency-key" in request.headers

    def _bound(self, retries: int) -> float:
        return min(self.max_backoff, self.backoff * 2.0 ** min(retries, 60))


def retry_after(headers: Headers, now: float) -> float | None:
    """Retry-After in seconds from now, never negative (RFC 9110, 10.2.3); None if there is none that can be read.

    A date counts from the response's own Date, so that it means the same whatever our clock says; `now`, in seconds
    since 1970, stands in where there is none.
    """
    seconds = headers.get_int("retry-after")
    if seconds is not None:
        return float(min(seconds, 10**9))
    date = headers.get_date("retry-after")
    if date is None:
        return None
    sent = headers.get_date("date")
    return max(date.timestamp() - (sent.timestamp() if sent is not None else now), 0.0)


# -- the budget ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many retries a session may make to one origin: a bucket of tokens, full at first. Each retry takes one; each
    call, and each second, puts a part of one back.

    So a few failures are always retried, and while an origin is down the load on it grows by a tenth, not threefold.
    (The AWS SDKs start with 100 retries in the bucket, gRPC gives back a tenth for each good call, Finagle allows a
    fifth of the calls and some per second on top, so that rare calls do not starve.)

    Attributes:
        capacity: tokens at first and at most.
        per_call: tokens for each call.
        per_second: tokens for each second.
    """

    capacity: float = 100.0
    per_call: float = 0.1
    per_second: float = 1.0

    def __post_init__(self) -> None:
        for name in ("capacity", "per_call", "per_second"):
            _check_number(name, getattr(self, name))


class _Buckets:
    """The tokens of one session, by origin. Threads share it."""

    def __init__(self, budget: RetryBudget, runtime: Runtime) -> None:
        self._budget = budget
        self._now = runtime.now
        self._tokens: dict[Origin, tuple[float, float]] = {}  # how many, and when that was
        self.after_fork()

    def after_fork(self) -> None:
        """At first, and in the child of a fork, which has none of the threads that hold the lock."""
        self._lock = threading.Lock()

    def deposit(self, origin: Origin) -> None:
        """A call begins."""
        if origin in self._tokens:  # one that is not known is full
            with self._lock:
                self._set(origin, self._count(origin) + self._budget.per_call)

    def withdraw(self, origin: Origin) -> bool:
        """Take a token for a retry; False if there is none."""
        with self._lock:
            count = self._count(origin)
            if count < 1:
                return False
            self._set(origin, count - 1)
            return True

    def _count(self, origin: Origin) -> float:
        known = self._tokens.get(origin)
        if known is None:
            return self._budget.capacity
        count, then = known
        return min(self._budget.capacity, count + (self._now() - then) * self._budget.per_second)

    def _set(self, origin: Origin, count: float) -> None:
        self._tokens.pop(origin, None)
        if count < self._budget.capacity:
            while len(self._tokens) >= MAX_ORIGINS:
                del self._tokens[next(iter(self._tokens))]  # the one that was not asked for longest
            self._tokens[origin] = (count, self._now())


# -- the mechanism -------------------------------------------------------------------------------------------------


class Retries:
    """Try again after errors and statuses that may pass: `Session(plugins=[Retries(max_retries=5)])`, or "retries".

    Options, on the session or on a call: see `RetryOptions`. Each decision is a `plugwire.events.Retry` event, the last
    one with `will_retry` False if it gave up.

    Args:
        max_retries: in place of the policy's.
        policy: what is repeated, how often, after which pause.
        budget: how many retries each origin gets from one session.
        random: gives numbers from 0 to 1, for the jitter.
        wall_clock: seconds since 1970; only asked for a Retry-After with a date in a response without Date.

    Raises:
        UsageError: a value that means nothing.
    """

    name = "retries"
    option_types = (RetryOptions,)

    def __init__(
        self,
        max_retries: int | None = None,
        *,
        policy: RetryPolicy | None = None,
        budget: RetryBudget | None = None,
        random: Callable[[], float] = random,
        wall_clock: Callable[[], float] = time,
    ) -> None:
        self.policy = (policy or RetryPolicy()).under(RetryOptions(max_retries))
        self.budget = budget or RetryBudget()
        self._random = random
        self._wall_clock = wall_clock

    def __repr__(self) -> str:
        return f"Retries(max_retries={self.policy.max_retries})"

    @hookimpl(stage="retry")
    async def around_call(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Call again until the policy has had enough; see the module."""
        policy = self.policy.under(call.options(RetryOptions))
        buckets = call.session.state(self, self._make_buckets)
        buckets.deposit(request.origin)
        retries = 0
        while True:
            try:
                response = await call_next(request)
                decision = self._decide(policy, request, response, call, retries, buckets)
                if decision is None or not decision.will_retry:
                    if not (call.streaming or response.is_read):
                        await _read(response)
                    return response
            except Error as error:
                call.check()  # whatever the symptom was: a call that was cancelled is over
                error.attempts = max(error.attempts, call.attempt)
                decision = self._decide(policy, request, error, call, retries, buckets)
                if decision is None or not decision.will_retry:
                    raise
            else:
                # Read to its end if that is little, so that the connection can be used again.
                await response.close()
            retries += 1
            await call.sleep(decision.delay)

    def _make_buckets(self, runtime: Runtime) -> _Buckets:
        return _Buckets(self.budget, runtime)

    def _decide(
        self,
        policy: RetryPolicy,
        request: Request,
        outcome: AsyncResponse | Error,
        call: Call,
        retries: int,
        buckets: _Buckets,
    ) -> RetryDecision | None:
        """The policy's word, and the budget's; told to whoever observes."""
        if policy.cause(outcome) is None:
            return None  # as nearly always, so nothing was drawn or read for it
        decision = policy.decide(
            request,
            outcome,
            retries=retries,
            remaining=call.deadline.remaining(),
            jitter=self._random(),
            now=self._wall_clock(),
        )
        if decision is None:
            return None
        if decision.will_retry and not buckets.withdraw(request.origin):
            reason = f"{decision.reason}; the retry budget for {request.origin} is used up"
            decision = RetryDecision(False, reason, decision.delay)
        call.tell(Retry, reason=decision.reason, delay=decision.delay, will_retry=decision.will_retry)
        return decision


async def _read(response: AsyncResponse) -> None:
    try:
        await response.read()
    except BaseException as error:
        response.abort()
        if isinstance(error, Error):
            # There was a head, so the request was sent, whoever forgot to say so: it decides over POST.
            error.sent = True
        raise


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{name}={value!r}: a whole number from 0")


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < inf:
        raise UsageError(f"{name}={value!r}: a number from 0")
