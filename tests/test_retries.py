"""Retries: the policy without a socket, the mechanism with a fake call, and both through sessions in every world."""

from __future__ import annotations

import socket
from dataclasses import FrozenInstanceError
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import AsyncResponse, Headers, Request, Response
from plugwire.drive import drive
from plugwire.events import Retry
from plugwire.protocols import Body
from plugwire.testing import MockTransport, ScriptedPeer
from plugwire.testing.peer import expect_request, send
from plugwire.timeouts import Deadline
from plugwire_plugins import Retries, RetryBudget, RetryOptions, RetryPolicy
from plugwire_plugins.retries import _Buckets, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.events import Event
    from worlds import World

URL = "https://h.example/x"
GET = Request("GET", URL)
POLICY = RetryPolicy()


def error_of(
    kind: type[plugwire.Error], *, sent: bool = True, replayable: bool = False, cause: BaseException | None = None
) -> plugwire.Error:
    error = kind("it failed")
    error.sent, error.replayable, error.__cause__ = sent, replayable, cause
    return error


# -- the policy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_these_statuses_are_tried_again(status: int) -> None:
    decision = POLICY.decide(GET, AsyncResponse(status))
    assert decision is not None and decision.will_retry and decision.reason == f"status {status}"


@pytest.mark.parametrize("status", [200, 204, 301, 304, 400, 401, 404, 409, 425, 501, 505])
def test_other_statuses_are_final(status: int) -> None:
    assert POLICY.decide(GET, AsyncResponse(status)) is None


PASSING = [
    plugwire.ConnectError, plugwire.ResolveError, plugwire.ReadError, plugwire.WriteError, plugwire.ConnectionClosed,
    plugwire.TLSError, plugwire.ConnectTimeout, plugwire.ReadTimeout, plugwire.WriteTimeout, plugwire.IncompleteBody,
    plugwire.StreamReset, plugwire.ProxyError,
]  # fmt: skip
LASTING = [
    plugwire.TotalTimeout, plugwire.HeadTimeout, plugwire.PoolTimeout, plugwire.CertificateError, plugwire.Cancelled,
    plugwire.UsageError, plugwire.NoTransport, plugwire.SessionClosed, plugwire.PluginError, plugwire.HTTPStatusError,
    plugwire.AddressRefused,
]  # fmt: skip
WRONG = [plugwire.ProtocolError, plugwire.LimitExceeded, plugwire.DecodingError]


@pytest.mark.parametrize("kind", PASSING)
def test_errors_that_may_pass(kind: type[plugwire.Error]) -> None:
    decision = POLICY.decide(GET, error_of(kind))
    assert decision is not None and decision.will_retry and decision.reason == kind.__name__


@pytest.mark.parametrize("kind", LASTING)
def test_errors_that_do_not_pass_whatever_is_said_of_them(kind: type[plugwire.Error]) -> None:
    assert POLICY.decide(GET, error_of(kind, sent=False)) is None
    assert POLICY.decide(GET, error_of(kind, sent=False, replayable=True)) is None


@pytest.mark.parametrize("kind", WRONG)
def test_what_a_peer_says_wrong_is_final_unless_it_did_not_act(kind: type[plugwire.Error]) -> None:
    assert POLICY.decide(GET, error_of(kind)) is None
    assert POLICY.decide(GET, error_of(kind, replayable=True)) is not None


def test_a_name_that_does_not_exist_is_not_asked_for_again() -> None:
    missing, busy = (error_of(plugwire.ResolveError, sent=False, cause=socket.gaierror(number, ""))
                     for number in (socket.EAI_NONAME, socket.EAI_AGAIN))  # fmt: skip
    assert POLICY.decide(GET, missing) is None
    assert POLICY.decide(GET, busy) is not None


@pytest.mark.parametrize(("status", "is_final"), [(407, True), (403, True), (503, False)])
def test_what_a_proxy_says_counts_as_a_status(status: int, is_final: bool) -> None:
    decision = POLICY.decide(GET, plugwire.ProxyError("no tunnel", Response(status)))
    assert (decision is None) is is_final


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_idempotent_methods_are_repeated(method: str) -> None:
    for outcome in (AsyncResponse(503), error_of(plugwire.ReadError)):
        decision = POLICY.decide(Request(method, URL), outcome)
        assert decision is not None and decision.will_retry


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "Trace-It", "LOCK"])
def test_other_methods_are_not(method: str) -> None:
    for outcome in (AsyncResponse(503), error_of(plugwire.ReadError)):
        decision = POLICY.decide(Request(method, URL), outcome)
        assert decision is not None and not decision.will_retry and "not idempotent" in decision.reason


@pytest.mark.parametrize(
    ("policy", "headers", "outcome"),
    [
        (POLICY, {}, error_of(plugwire.ConnectError, sent=False)),
        (POLICY, {}, error_of(plugwire.StreamReset, replayable=True)),
        (POLICY, {}, error_of(plugwire.ProtocolError, replayable=True)),
        (POLICY, {"Idempotency-Key": "1"}, AsyncResponse(503)),
        (POLICY.under(RetryOptions(retry_unsafe=True)), {}, error_of(plugwire.ReadTimeout)),
        (RetryPolicy(methods={"POST"}), {}, AsyncResponse(503)),
    ],
    ids=["not sent", "peer did not act", "peer did not act, any error", "caller's key", "caller's option", "policy"],
)
def test_post_is_repeated_where_that_is_safe(policy: RetryPolicy, headers: dict[str, str], outcome: Any) -> None:
    decision = policy.decide(Request("POST", URL, headers=headers, content=b"x"), outcome)
    assert decision is not None and decision.will_retry


def test_a_body_that_can_be_sent_once_is_not_sent_again() -> None:
    request = Request("PUT", URL, content=(piece for piece in (b"a", b"b")))
    decision = POLICY.decide(request, AsyncResponse(503))
    assert decision is not None and not decision.will_retry and "only once" in decision.reason


def test_the_number_of_retries_is_limited() -> None:
    policy = RetryPolicy(max_retries=3)
    will = [policy.decide(GET, AsyncResponse(503), retries=number) for number in range(5)]
    assert [decision is not None and decision.will_retry for decision in will] == [True, True, True, False, False]
    assert will[3] is not None and "max_retries=3" in will[3].reason
    assert not RetryPolicy(max_retries=0).decide(GET, AsyncResponse(503)).will_retry  # type: ignore[union-attr]


def delay_of(policy: RetryPolicy, outcome: Any = None, **given: Any) -> float:
    decision = policy.decide(GET, outcome or AsyncResponse(503), **given)
    assert decision is not None and decision.will_retry, decision
    return decision.delay


def test_pauses_double_up_to_a_bound_with_full_jitter() -> None:
    policy = RetryPolicy(max_retries=5000, backoff=0.5, max_backoff=3.0)
    assert [delay_of(policy, retries=number) for number in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert delay_of(policy, retries=4000) == 3.0
    assert delay_of(policy, retries=2, jitter=0.25) == 0.5
    assert delay_of(policy, retries=2, jitter=0.0) == 0.0


def test_retry_after_is_a_lower_bound_under_the_jitter() -> None:
    response = AsyncResponse(503, headers={"Retry-After": "7"})
    assert delay_of(POLICY, response, jitter=0.0) == 7.0
    assert delay_of(POLICY, response, jitter=0.5) == 7.25


def test_a_long_retry_after_hands_the_response_over() -> None:
    at_cap, above = (AsyncResponse(429, headers={"Retry-After": text}) for text in ("60", "61"))
    assert delay_of(POLICY, at_cap, jitter=0.0) == 60.0
    decision = POLICY.decide(GET, above)
    assert decision is not None and not decision.will_retry and "Retry-After 61 s" in decision.reason
    huge = POLICY.decide(GET, AsyncResponse(429, headers={"Retry-After": "9" * 400}))
    assert huge is not None and not huge.will_retry


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wednesday, 21-Oct-26 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:27:00 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:17:00 GMT"}, 20.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1.5"}, None),
        ({}, None),
    ],
)
def test_both_forms_of_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(Headers(headers), now=1000.0) == seconds


def test_a_pause_never_passes_the_deadline() -> None:
    policy = RetryPolicy(backoff=2.0)
    assert delay_of(policy, remaining=2.01) == 2.0
    decision = policy.decide(GET, AsyncResponse(503), remaining=2.0)
    assert decision is not None and not decision.will_retry and "deadline" in decision.reason


def test_a_policy_is_a_value() -> None:
    statuses = {503}
    policy = RetryPolicy(statuses=statuses)
    statuses.add(500)
    assert policy.decide(GET, AsyncResponse(500)) is None
    assert policy == RetryPolicy(statuses=frozenset({503}))
    with pytest.raises(FrozenInstanceError):
        policy.max_retries = 7  # type: ignore[misc]
    assert POLICY.under(RetryOptions()) is POLICY
    assert POLICY.under(RetryOptions(max_retries=7)).max_retries == 7


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RetryPolicy(max_retries=-1),
        lambda: RetryPolicy(max_retries=1.5),  # type: ignore[arg-type]
        lambda: RetryPolicy(max_retries=True),
        lambda: RetryPolicy(backoff=-1),
        lambda: RetryPolicy(max_backoff=inf),
        lambda: RetryPolicy(max_retry_after=float("nan")),
        lambda: RetryPolicy(methods="GET"),
        lambda: RetryOptions(max_retries=-1),
        lambda: RetryBudget(capacity=-1),
        lambda: RetryBudget(per_second="1"),  # type: ignore[arg-type]
        lambda: Retries(-1),
    ],
)
def test_values_that_mean_nothing_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(plugwire.UsageError):
        wrong()


# -- the budget ----------------------------------------------------------------------------------------------------

HERE, THERE = Request("GET", URL).origin, Request("GET", "https://there.example/").origin


class Clock:
    """A runtime's clock that stands still."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


def buckets(clock: Clock, **budget: float) -> _Buckets:
    return _Buckets(RetryBudget(**budget), clock)  # type: ignore[arg-type]


def test_a_retry_takes_a_token_and_origins_have_their_own() -> None:
    bucket = buckets(Clock(), capacity=2, per_call=0, per_second=0)
    assert [bucket.withdraw(HERE) for _ in range(3)] == [True, True, False]
    assert bucket.withdraw(THERE)


def test_calls_put_tokens_back_up_to_the_capacity() -> None:
    bucket = buckets(Clock(), capacity=2, per_call=0.5, per_second=0)
    assert [bucket.withdraw(HERE) for _ in range(3)] == [True, True, False]
    bucket.deposit(HERE)
    assert not bucket.withdraw(HERE)
    bucket.deposit(HERE)
    assert [bucket.withdraw(HERE) for _ in range(2)] == [True, False]
    for _ in range(100):
        bucket.deposit(HERE)
    assert [bucket.withdraw(HERE) for _ in range(3)] == [True, True, False]


def test_time_puts_tokens_back_up_to_the_capacity() -> None:
    clock = Clock()
    bucket = buckets(clock, capacity=2, per_call=0, per_second=0.5)
    assert [bucket.withdraw(HERE) for _ in range(3)] == [True, True, False]
    clock.time += 1
    assert not bucket.withdraw(HERE)
    clock.time += 1
    assert [bucket.withdraw(HERE) for _ in range(2)] == [True, False]
    clock.time += 1000
    assert [bucket.withdraw(HERE) for _ in range(3)] == [True, True, False]


def test_only_so_many_origins_are_remembered() -> None:
    bucket = buckets(Clock(), capacity=1, per_call=0, per_second=0)
    for number in range(1500):
        assert bucket.withdraw(Request("GET", f"https://h{number}.example/").origin)
    assert len(bucket._tokens) == 1000
    assert not bucket.withdraw(Request("GET", "https://h1499.example/").origin)


# -- the mechanism, with a fake call -------------------------------------------------------------------------------


class FakeCall:
    """As much of a call as Retries uses. Sleeping moves the clock."""

    def __init__(self, plugin: Retries, *, total: float | None = None, streaming: bool = False) -> None:
        self.runtime = Clock()
        self.deadline = Deadline(self.runtime.now).earlier(total, "total")
        self.streaming = streaming
        self.attempt = 0
        self.slept: list[float] = []
        self.told: list[tuple[str, float, bool]] = []
        self.is_cancelled = False
        self._bucket = plugin._make_buckets(self.runtime)  # type: ignore[arg-type]
        self.session = SimpleNamespace(state=lambda owner, make: self._bucket)

    def options(self, kind: type) -> Any:
        return kind()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.runtime.time += seconds

    def tell(self, kind: type, *, reason: str, delay: float, will_retry: bool) -> None:
        assert kind is Retry
        self.told.append((reason, delay, will_retry))

    def check(self) -> None:
        if self.is_cancelled:
            raise plugwire.Cancelled("the call was cancelled")


class Watched(Body):
    """A body that may break, and knows whether it was closed."""

    def __init__(self, error: plugwire.Error | None = None) -> None:
        self.error = error
        self.is_closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.error is not None:
            raise self.error
        return b""

    async def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


def run(plugin: Retries, call: FakeCall, *outcomes: Any, request: Request = GET) -> AsyncResponse:
    left = list(outcomes)

    async def call_next(request: Request) -> AsyncResponse:
        call.attempt += 1
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    response = drive(plugin.around_call(request, call_next, call))  # type: ignore[arg-type]
    assert not left, "it was not called as often as expected"
    return response


def test_pauses_are_slept_and_told() -> None:
    plugin = Retries(policy=RetryPolicy(max_retries=3, backoff=1.0), random=lambda: 0.5)
    call = FakeCall(plugin)
    after = AsyncResponse(503, headers={"Retry-After": "4"})
    response = run(plugin, call, AsyncResponse(500), error_of(plugwire.ReadTimeout), after, AsyncResponse(200))
    assert response.status_code == 200
    assert call.slept == [0.5, 1.0, 4 + 2.0]
    assert call.told == [("status 500", 0.5, True), ("ReadTimeout", 1.0, True), ("status 503", 6.0, True)]


def test_the_wall_clock_stands_in_for_a_missing_date() -> None:
    plugin = Retries(random=lambda: 0.0, wall_clock=lambda: 1000.0)
    call = FakeCall(plugin)
    run(plugin, call, AsyncResponse(503, headers={"Retry-After": "Thu, 01 Jan 1970 00:17:00 GMT"}), AsyncResponse(200))
    assert call.slept == [20.0]


def test_what_is_dropped_is_closed_first_and_what_is_handed_over_is_not() -> None:
    dropped, kept = Watched(), Watched()
    plugin = Retries(1, random=lambda: 0.0)
    response = run(
        plugin, FakeCall(plugin, streaming=True), AsyncResponse(503, body=dropped), AsyncResponse(503, body=kept)
    )
    assert dropped.is_closed
    assert response.body is kept and not kept.is_closed


def test_near_the_deadline_the_last_answer_is_handed_over_without_a_pause() -> None:
    plugin = Retries(policy=RetryPolicy(max_retries=9, backoff=2.0), random=lambda: 1.0)
    call = FakeCall(plugin, total=5.0)
    response = run(plugin, call, AsyncResponse(500), AsyncResponse(502))
    assert response.status_code == 502
    assert call.slept == [2.0]  # 3 of 5 seconds are left, the next pause is 4
    assert call.told[-1][2] is False and "deadline" in call.told[-1][0]


def test_near_the_deadline_the_last_error_is_raised() -> None:
    plugin = Retries(policy=RetryPolicy(backoff=2.0), random=lambda: 1.0)
    call = FakeCall(plugin, total=1.0)
    error = error_of(plugwire.ConnectError, sent=False)
    with pytest.raises(plugwire.ConnectError) as caught:
        run(plugin, call, error)
    assert caught.value is error and call.slept == []


def test_a_cancelled_call_is_over_whatever_the_symptom() -> None:
    plugin = Retries(random=lambda: 0.0)
    call = FakeCall(plugin)
    call.is_cancelled = True
    with pytest.raises(plugwire.Cancelled):
        run(plugin, call, error_of(plugwire.ReadError))
    assert call.told == []


def test_a_post_whose_answer_broke_is_not_repeated_whoever_forgot_to_say_that_it_was_sent() -> None:
    plugin = Retries(random=lambda: 0.0)
    body = Watched(error_of(plugwire.ReadTimeout, sent=False))
    with pytest.raises(plugwire.ReadTimeout):
        run(plugin, FakeCall(plugin), AsyncResponse(200, body=body), request=Request("POST", URL))
    assert body.is_closed


# -- through sessions ----------------------------------------------------------------------------------------------


def quick(max_retries: int = 2, **given: Any) -> Retries:
    """Without pauses."""
    return Retries(policy=RetryPolicy(max_retries=max_retries, backoff=0), **given)


async def test_a_status_passes(world: World) -> None:
    mock = MockTransport({URL: [Response(503), Response(429, headers={"Retry-After": "0"}), Response(200, text="ok")]})
    async with world.session(transports=[mock], plugins=[quick()]) as session:
        response = await session.get(URL)
        assert (response.status_code, response.text) == (200, "ok")
        assert response.timings.total is not None
    assert len(mock.calls) == 3


async def test_giving_up_returns_the_last_response(world: World) -> None:
    mock = MockTransport({URL: [Response(503), Response(502, text="sorry")]})
    async with world.session(transports=[mock], plugins=[quick(1)]) as session:
        response = await session.get(URL)
    assert (response.status_code, response.text) == (502, "sorry")


async def test_giving_up_raises_the_last_error(world: World) -> None:
    mock = MockTransport({URL: [plugwire.ConnectError("first"), plugwire.ReadError("second")]})
    async with world.session(transports=[mock], plugins=[quick(1)]) as session:
        with pytest.raises(plugwire.ReadError, match="second") as caught:
            await session.get(URL)
    assert caught.value.attempts == 2


async def test_a_plugin_outside_sees_how_many_attempts_were_made(world: World) -> None:
    seen: list[int] = []

    class Outside:
        @plugwire.hookimpl
        async def around_call(self, request: Request, call_next: Any) -> Any:
            try:
                return await call_next(request)
            except plugwire.Error as error:
                seen.append(error.attempts)
                raise

    mock = MockTransport({URL: [plugwire.ConnectError(), plugwire.ConnectError()]})
    async with world.session(transports=[mock], plugins=[Outside(), quick(1)]) as session:
        with pytest.raises(plugwire.ConnectError):
            await session.get(URL)
    assert seen == [2]


async def test_options_of_a_call_and_of_the_session(world: World) -> None:
    mock = MockTransport({URL: [Response(503) for _ in range(20)]})
    async with world.session(transports=[mock], plugins=[quick()], options={"max_retries": 1}) as session:
        await session.get(URL)
        assert len(mock.calls) == 2
        await session.get(URL, options={"max_retries": 3})
        assert len(mock.calls) == 6
        await session.get(URL, options={"max_retries": 0})
        assert len(mock.calls) == 7
        await session.post(URL, content=b"x")
        assert len(mock.calls) == 8
        await session.post(URL, content=b"x", options={"retry_unsafe": True})
        assert len(mock.calls) == 10
        for wrong in ({"max_retries": "3"}, {"max_retries": -1}, {"max_retires": 3}):
            with pytest.raises(plugwire.UsageError):
                await session.get(URL, options=wrong)
        assert len(mock.calls) == 10


async def test_each_attempt_sends_the_same_request(world: World) -> None:
    mock = MockTransport({URL: [Response(503), Response(200)]})
    async with world.session(transports=[mock], plugins=[quick()], headers={"x-mine": "1"}) as session:
        await session.put(URL, content=[b"a", b"b"], params={"q": 1})
    first, second = mock.calls
    assert first.content == second.content == b"ab"
    assert first.url == second.url and first.headers == second.headers


async def test_a_body_that_breaks_in_the_middle_is_a_failed_attempt(world: World) -> None:
    bodies = [Watched(plugwire.IncompleteBody("cut", 3, 10)), Watched()]
    answers = [AsyncResponse(200, body=body) for body in bodies]
    mock = MockTransport(lambda request: answers.pop(0))
    async with world.session(transports=[mock], plugins=[quick()]) as session:
        response = await session.get(URL)
        assert response.content == b""
    assert len(mock.calls) == 2


async def test_what_a_body_says_wrong_is_not_asked_for_again(world: World) -> None:
    """Whatever the method: it would be the same, or as long, the next time."""
    wrong = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcNO CRLF"
    with ScriptedPeer([expect_request(), send(wrong)], repeat=True) as peer:
        async with world.session(plugins=[quick()]) as session:
            with pytest.raises(plugwire.ProtocolError) as caught:
                await session.get(peer.url)
    assert (caught.value.phase, caught.value.replayable, caught.value.attempts) == ("body", True, 1)


async def test_a_streamed_body_that_breaks_is_the_callers(world: World) -> None:
    mock = MockTransport(lambda request: AsyncResponse(200, body=Watched(plugwire.IncompleteBody("cut", 3, 10))))
    async with world.session(transports=[mock], plugins=[quick()]) as session, session.stream("GET", URL) as response:
        with pytest.raises(plugwire.IncompleteBody):
            await response.read()
    assert len(mock.calls) == 1


async def test_each_decision_is_an_event(world: World) -> None:
    mock = MockTransport({URL: [Response(503), plugwire.ConnectError("no"), Response(500)]})
    seen: list[Event] = []
    async with world.session(transports=[mock], plugins=[quick()]) as session:
        await session.get(URL, observe=seen.append)
    told = [(event.attempt, event.reason, event.will_retry) for event in seen if isinstance(event, Retry)]
    assert told == [
        (1, "status 503", True),
        (2, "ConnectError", True),
        (3, "status 500; max_retries=2 is reached", False),
    ]


async def test_a_final_answer_is_no_decision(world: World) -> None:
    seen: list[Event] = []
    async with world.session(transports=[MockTransport({URL: Response(404)})], plugins=[quick()]) as session:
        await session.get(URL, observe=seen.append)
    assert not [event for event in seen if isinstance(event, Retry)]


async def test_the_budget_stops_storms_for_each_session_and_origin(world: World) -> None:
    mock = MockTransport(lambda request: Response(503))
    plugin = quick(1, budget=RetryBudget(capacity=3, per_call=0, per_second=0))
    seen: list[Event] = []
    async with world.session(transports=[mock], plugins=[plugin]) as session:
        for _ in range(5):
            await session.get(URL, observe=seen.append)
        assert len(mock.calls) == 5 + 3
        await session.get("https://other.example/")
        assert len(mock.calls) == 8 + 2
        assert (await session.derive().get(URL)).status_code == 503
        assert len(mock.calls) == 10 + 1
    last = [event for event in seen if isinstance(event, Retry)][-1]
    assert last.reason == "status 503; the retry budget for https://h.example is used up"
    async with world.session(transports=[MockTransport(lambda request: Response(503))], plugins=[plugin]) as session:
        await session.get(URL, observe=seen.append)
    assert [event.will_retry for event in seen if isinstance(event, Retry)][-2:] == [True, False]


async def test_each_call_puts_a_part_of_a_token_back(world: World) -> None:
    mock = MockTransport(lambda request: Response(200 if request.url.path == "/good" else 503))
    plugin = quick(1, budget=RetryBudget(capacity=1, per_call=0.25, per_second=0))
    made: list[int] = []
    async with world.session(transports=[mock], plugins=[plugin]) as session:
        for path in ("/bad", "/bad", "/good", "/good", "/bad", "/bad"):
            before = len(mock.calls)
            await session.get(f"https://h.example{path}")
            made.append(len(mock.calls) - before)
    assert made == [2, 1, 1, 1, 2, 1]


async def test_a_retry_after_beyond_the_time_out_ends_the_call_at_once(world: World) -> None:
    mock = MockTransport({URL: [Response(503, headers={"Retry-After": "30"}, text="later")]})
    async with world.session(transports=[mock], plugins=["retries"]) as session:
        response = await session.get(URL, timeout=20)
    assert (response.status_code, response.text) == (503, "later")


async def test_it_stands_inside_of_around_call_and_outside_of_around_send(world: World) -> None:
    log: list[str] = []

    class Both:
        @plugwire.hookimpl
        async def around_call(self, request: Request, call_next: Any) -> Any:
            log.append("call")
            return await call_next(request)

        @plugwire.hookimpl
        async def around_send(self, request: Request, call_next: Any) -> Any:
            log.append("send")
            return await call_next(request)

    mock = MockTransport({URL: [Response(503), Response(200)]})
    async with world.session(transports=[mock], plugins=[Both(), quick()]) as session:
        await session.get(URL)
    assert log == ["call", "send", "send"]
