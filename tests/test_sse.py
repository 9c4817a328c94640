"""Event streams that go on: what is handed on, what is asked for again, when, and when not any more."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import plugwire
from fake_time import FakeTime, Script
from plugwire import AsyncResponse, Request, Response, Timeout, UsageError
from plugwire.decoders import ServerSentEvent, ServerSentEvents
from plugwire.events import Retry
from plugwire.protocols import Body
from plugwire.testing import MockTransport, Server
from plugwire.testing.peer import ScriptedPeer, abort, close, expect, expect_end, expect_head, send
from plugwire_plugins import SSEOptions, SSEPolicy, SSEReconnect
from plugwire_plugins.sse import MAX_EVENT_ID, WholeEvents
from test_decoders import CUTS, WORDS, cut, events_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from worlds import World

KIND = {"Content-Type": "text/event-stream; charset=utf-8"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BY_CLOSE = HEAD + b"\r\n"
GONE = b"HTTP/1.1 204 No Content\r\n\r\n"
NOW = SSEPolicy(retry=0.0, min_delay=0.0)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def plugin(policy: SSEPolicy = NOW, **kwargs: Any) -> SSEReconnect:
    return SSEReconnect(policy, random=lambda: 0.0, **kwargs)


async def events(response: Any) -> list[tuple[str, str]]:
    return [(event.id, event.data) async for event in response.iter_decoded(ServerSentEvents())]


# -- what is handed on ---------------------------------------------------------------------------------------------


class Content(Body):
    """Content in pieces, which ends in order or with an error."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = iter(pieces)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        piece = next(self._pieces, b"")
        if isinstance(piece, Exception):
            raise piece
        return piece


class Scripted:
    """Answers in order; what was asked."""

    def __init__(self, *answers: Callable[[], AsyncResponse]) -> None:
        self._answers = iter(answers)
        self.asked: list[str | None] = []

    def __call__(self, request: Request) -> AsyncResponse:
        self.asked.append(request.headers.get("last-event-id"))
        return next(self._answers)()


def stream(*pieces: bytes | Exception, **headers: str) -> Callable[[], AsyncResponse]:
    return lambda: AsyncResponse(200, headers={**KIND, **headers}, body=Content(*pieces))


def gone() -> AsyncResponse:
    return AsyncResponse(204)


class Broken(Exception):
    pass


@pytest.mark.parametrize("version", ["http/1.1", "h2"])
async def test_streams_that_end_and_streams_that_break_are_one(world: World, version: str) -> None:
    handler = Scripted(
        stream(b"id: 1\ndata: a\n\nid: 2\ndata: cut"),
        stream(b"id: 2\ndata: b\n\n: ping\n", b"id: 3\ndata: c\n\nid: 4\nda", Broken()),
        stream(),
        stream(b"\xef\xbb\xbfid: 4\ndata: d\n\n"),
        gone,
    )
    with pytest.raises(Broken), Server(handler, http_versions=(version,)) as server:
        async with world.session(plugins=[plugin()], http_versions=(version,)) as session:
            async with session.stream("GET", server.url) as response:
                assert await events(response) == [("1", "a"), ("2", "b"), ("3", "c"), ("4", "d")]
                assert await response.read(1) == b""
            assert session.stats().open == session.stats().idle
    assert handler.asked == [None, "1", "3", "3", "4"]


async def test_a_connection_that_breaks_inside_an_event(world: World) -> None:
    with ScriptedPeer(
        [expect_head(), send(CHUNKED + chunk(b"id: 1\ndata: a\n\ndata: half")), abort()],
        [expect(b"GET / HTTP/1.1\r\n"), expect_head(), send(CHUNKED + chunk(b"id: 2\r\ndata: b\r\n\r\n")), close()],
        [expect_head(), send(BY_CLOSE + b"data: c\r\r"), close()],
        [expect_head(), send(GONE), expect_end()],
    ) as peer:
        async with world.session(plugins=[plugin()]) as session, session.stream("GET", peer.url) as response:
            assert await events(response) == [("1", "a"), ("2", "b"), ("2", "c")]
        for head, seen in zip(peer.received[1:], (b"1", b"2", b"2"), strict=True):
            assert b"\r\nLast-Event-ID: %b\r\n" % seen in head
        assert b"Last-Event-ID" not in peer.received[0]


async def test_each_pause_is_told(world: World) -> None:
    handler = Scripted(stream(b"retry: 1000\n\n"), stream(plugwire.IncompleteBody("cut")), gone)
    told: list[Any] = []
    clock = FakeTime(Script())  # for its clock: nothing is dialled

    class Clocked(MockTransport):
        wrap_runtime = clock.wrap_runtime

    async with world.session(plugins=[plugin(SSEPolicy())], transports=[Clocked(handler)]) as session:
        began = clock.clock.time
        async with session.stream("GET", "http://h/", observe=told.append) as response:
            assert await events(response) == []
    retries = [event for event in told if isinstance(event, Retry)]
    assert [(event.reason, event.delay, event.will_retry) for event in retries] == [
        ("the stream ended", 1.0, True),
        ("IncompleteBody", 1.0, True),
    ]
    assert clock.clock.time - began == 2.0


async def test_the_callers_own_last_event_id_is_where_it_begins(world: World) -> None:
    handler = Scripted(stream(b"data: a\n\n"), stream(b"id: \xc3\xbc\ndata: b\n\n"), stream(b"id\ndata: c\n\n"), gone)
    async with (
        world.session(plugins=[plugin()], transports=[MockTransport(handler)]) as session,
        session.stream("GET", "http://h/", headers={"Last-Event-ID": "7"}) as response,
    ):
        assert await events(response) == [("", "a"), ("ü", "b"), ("", "c")]
    assert handler.asked == ["7", "7", "ü".encode().decode("latin-1"), None]


def zipped(data: bytes, *, whole: bool) -> bytes:
    gzip = zlib.compressobj(wbits=31)
    return gzip.compress(data) + (gzip.flush() if whole else gzip.flush(zlib.Z_SYNC_FLUSH))


@pytest.mark.parametrize("version", ["http/1.1", "h2"])
async def test_behind_a_content_coding_that_is_cut_too(world: World, version: str) -> None:
    coded = {"Content-Encoding": "gzip"}
    handler = Scripted(
        stream(zipped(b"id: 1\ndata: a\n\ndata", whole=False), **coded),
        stream(zipped(b"data: b\n\n", whole=True), **coded),
        gone,
    )
    with Server(handler, http_versions=(version,)) as server:
        async with (
            world.session(plugins=[plugin()], http_versions=(version,)) as session,
            session.stream("GET", server.url) as response,
        ):
            assert await events(response) == [("1", "a"), ("1", "b")]
    assert handler.asked == [None, "1", "1"]


# -- what is not asked for again -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "count"),
    [
        ("GET", {}, 2),
        ("POST", {}, 1),
        ("POST", {"sse_reconnect": True}, 2),
        ("GET", {"sse_reconnect": False}, 1),
    ],
)
async def test_which_requests_are_sent_again(world: World, method: str, options: dict[str, Any], count: int) -> None:
    handler = Scripted(stream(b"data: a\n\ndata: b"), gone)
    async with (
        world.session(plugins=[plugin()], transports=[MockTransport(handler)]) as session,
        session.stream(method, "http://h/", options=options) as response,
    ):
        content = await response.read()
    assert len(handler.asked) == count
    assert content == (b"data: a\n\n" if count == 2 else b"data: a\n\ndata: b")


async def test_a_body_that_can_be_sent_once_and_a_buffered_call_are_left_alone(world: World) -> None:
    handler = Scripted(stream(b"data"), stream(b"data"), lambda: AsyncResponse(200, body=Content(b"text")))
    async with world.session(plugins=[plugin()], transports=[MockTransport(handler)]) as session:
        options = {"sse_reconnect": True}
        async with session.stream("POST", "http://h/", content=iter([b"x"]), options=options) as response:
            assert await response.read() == b"data"
        assert (await session.get("http://h/")).content == b"data"
        async with session.stream("GET", "http://h/") as response:
            assert await response.read() == b"text"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (lambda: AsyncResponse(503, body=Content(b"busy")), plugwire.HTTPStatusError, "503"),
        (lambda: AsyncResponse(200, text="<html>"), plugwire.ResponseError, "content-type 'text/plain; charset=utf-8'"),
        (lambda: AsyncResponse(201, headers=KIND, content=b""), plugwire.ResponseError, "status 201"),
        (lambda: AsyncResponse(301, content=b""), plugwire.ResponseError, "content-type 'none'"),
    ],
)
async def test_what_answers_and_is_no_stream_is_an_error(
    world: World, answer: Any, kind: type[plugwire.Error], message: str
) -> None:
    handler = Scripted(stream(b"data: a\n\n"), answer)
    async with (
        world.session(plugins=[plugin()], transports=[MockTransport(handler)], defaults=False) as session,
        session.stream("GET", "http://h/") as response,
    ):
        assert await response.read(100) == b"data: a\n\n"
        for _ in range(2):
            with pytest.raises(kind, match=message) as caught:
                await response.read(100)
        assert caught.value.request is not None
        assert caught.value.response.is_closed
    assert len(handler.asked) == 2


@pytest.mark.parametrize("read", [lambda response: response.readall(), lambda response: response.readinto(bytearray(9)),
                                  lambda response: list(response.iter_lines())])  # fmt: skip
def test_an_error_of_reading_has_the_face_of_its_world(read: Any) -> None:
    handler = Scripted(stream(b""), lambda: AsyncResponse(503, text="busy"))
    with (
        plugwire.Session(plugins=[plugin()], transports=[MockTransport(handler)], defaults=False) as session,
        session.stream("GET", "http://h/") as response,
        pytest.raises(plugwire.HTTPStatusError) as caught,
    ):
        read(response)
    assert isinstance(caught.value.response, Response)


def failing() -> AsyncResponse:
    raise plugwire.ConnectError("nobody listens")


async def test_failures_in_a_row_are_limited_and_pauses_double(world: World) -> None:
    handler = Scripted(
        stream(b"data: a\n\n"), failing, failing, stream(b"data: b\n\n"), failing, failing, failing, gone
    )
    told: list[Any] = []
    clock = FakeTime(Script())

    class Clocked(MockTransport):
        wrap_runtime = clock.wrap_runtime

    async with world.session(plugins=[plugin(SSEPolicy(retry=2))], transports=[Clocked(handler)]) as session:
        options = {"sse_max_failures": 2}
        async with session.stream("GET", "http://h/", observe=told.append, options=options) as response:
            found = response.iter_decoded(ServerSentEvents())
            assert [(await anext(found)).data, (await anext(found)).data] == ["a", "b"]
            with pytest.raises(plugwire.ConnectError) as caught:
                await anext(found)
    assert caught.value.attempts == len(handler.asked) == 7
    retries = [(event.delay, event.will_retry) for event in told if isinstance(event, Retry)]
    assert retries == [(2, True), (4, True), (8, True), (2, True), (4, True), (8, True), (0, False)]


async def test_a_certificate_that_is_bad_stays_bad(world: World) -> None:
    def bad() -> AsyncResponse:
        raise plugwire.CertificateError("expired")

    handler = Scripted(stream(), bad)
    async with (
        world.session(plugins=[plugin()], transports=[MockTransport(handler)]) as session,
        session.stream("GET", "http://h/") as response,
    ):
        with pytest.raises(plugwire.CertificateError):
            await response.read()
    assert len(handler.asked) == 2


@pytest.mark.parametrize(
    ("identifier", "kind", "message"),
    [
        (b"x" * (MAX_EVENT_ID + 1), plugwire.LimitExceeded, "longer than 8192 bytes"),
        (b"a\x01b", plugwire.ProtocolError, "no field can carry back"),
    ],
)
async def test_an_id_that_cannot_be_sent_back(
    world: World, identifier: bytes, kind: type[plugwire.Error], message: str
) -> None:
    handler = Scripted(stream(b"id: " + identifier + b"\ndata: a\n\n"), gone)
    async with (
        world.session(plugins=[plugin()], transports=[MockTransport(handler)]) as session,
        session.stream("GET", "http://h/") as response,
    ):
        assert (await response.read(7)).startswith(b"id: ")
        with pytest.raises(kind, match=message):
            await response.read()


async def test_an_event_that_is_too_large(world: World) -> None:
    for pieces in ((b"data: 12345", b"67890"), (b"data: 1234567890\n\n", b"x")):
        handler = Scripted(stream(*pieces))
        async with (
            world.session(plugins=[plugin(max_event_bytes=12)], transports=[MockTransport(handler)]) as session,
            session.stream("GET", "http://h/") as response,
        ):
            with pytest.raises(plugwire.LimitExceeded) as caught:
                await response.read()
        assert caught.value.limit == "max_event_bytes"


# -- deadlines and ends from outside -------------------------------------------------------------------------------


def answering(*answers: bytes) -> list[Script]:
    def script(data: bytes) -> Script:
        return Script(lambda received: iter([(0.0, data)]))

    return [script(data) for data in answers]


ONE = HEAD + b"Connection: close\r\nContent-Length: 9\r\n\r\ndata: a\n\n"


async def test_total_holds_over_all_streams_and_pauses(world: World) -> None:
    time = FakeTime(*answering(ONE))
    async with world.session(plugins=[plugin(SSEPolicy(retry=4))], transports=[time]) as session:
        began = time.clock.time
        async with session.stream("GET", "http://h/", timeout=Timeout(total=10)) as response:
            with pytest.raises(plugwire.TotalTimeout):
                await response.read()
            with pytest.raises(plugwire.TotalTimeout):
                await response.read()
    assert len(time.streams) == 3
    assert time.clock.time - began == 8, "the pause that would pass the deadline was not begun"


async def test_the_budget_of_the_head_begins_anew_with_each_stream(world: World) -> None:
    time = FakeTime(*answering(ONE, ONE, ONE), Script())
    policy = SSEPolicy(retry=60, max_failures=0)
    async with world.session(plugins=[plugin(policy)], transports=[time]) as session:
        began = time.clock.time
        async with session.stream("GET", "http://h/", timeout=5) as response:
            with pytest.raises(plugwire.TimedOut) as caught:
                await response.read()
    assert len(time.streams) == 4
    assert caught.value.limit == 5
    assert time.clock.time - began == 3 * 60 + 5


@pytest.mark.parametrize("way", ["response", "session", "cancel"])
async def test_closing_ends_a_pause(world: World, way: str) -> None:
    handler = Scripted(stream(b"retry: 60000\ndata: a\n\n"), gone)
    calls: list[Any] = []
    async with (
        world.session(plugins=[plugin()], transports=[MockTransport(handler)]) as session,
        session.stream("GET", "http://h/", observe=lambda event: calls.append(event.call)) as response,
    ):
        assert (await response.read(100)).endswith(b"data: a\n\n")
        background = world.in_background(response.read)
        await world.settle()
        if way == "response":
            await response.close()
        elif way == "session":
            await session.close()
        else:
            calls[-1].cancel()
        error = (await background.outcome()).error
        assert isinstance(error, plugwire.SessionClosed if way == "session" else plugwire.Cancelled)
    assert len(handler.asked) == 1


async def test_the_worlds_own_cancellation_ends_a_pause_and_the_stream_can_be_read_on(world: World) -> None:
    if world.name == "blocking":
        return  # has none
    handler = Scripted(stream(b"retry: 60000\ndata: a\n\n"), gone)
    async with (
        world.session(plugins=[plugin(SSEPolicy(max_delay=0.2))], transports=[MockTransport(handler)]) as session,
        session.stream("GET", "http://h/") as response,
    ):
        await response.read(100)
        outcome = await world.cancelled_after(response.read, world.settle)
        assert outcome.was_cancelled
        assert await response.read(100) == b""
    assert len(handler.asked) == 2


async def test_leaving_early_closes_the_stream_that_is_open(world: World) -> None:
    with ScriptedPeer(
        [expect_head(), send(BY_CLOSE + b"data: a\n\n"), close()],
        [expect_head(), send(CHUNKED + chunk(b"data: b\n\n")), expect_end()],
    ) as peer:
        async with world.session(plugins=[plugin()]) as session, session.stream("GET", peer.url) as response:
            found = response.iter_decoded(ServerSentEvents())
            assert [(await anext(found)).data, (await anext(found)).data] == ["a", "b"]


# -- decisions -----------------------------------------------------------------------------------------------------


def test_pauses() -> None:
    policy = SSEPolicy(retry=3, min_delay=0.5, max_delay=20)
    assert [policy.delay(None, failures, 0.0) for failures in range(5)] == [3, 6, 12, 20, 20]
    assert [policy.delay(retry, 0, 0.0) for retry in (0, 100, 1000, 10**12)] == [0.5, 0.5, 1, 20]
    assert policy.delay(None, 0, 1.0) == 4.5
    assert policy.delay(0, 10**6, 1.0) == 30


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), "1", True, None])
def test_values_are_checked(value: Any) -> None:
    for name in ("retry", "min_delay", "max_delay", "max_failures"):
        with pytest.raises(UsageError):
            SSEPolicy(**{name: value})
    with pytest.raises(UsageError):
        SSEReconnect(max_event_bytes=value)
    if value is not None:
        with pytest.raises(UsageError):
            SSEOptions(sse_max_failures=value)
        with pytest.raises(UsageError):
            plugwire.Session(plugins=["sse-reconnect"], options={"sse_max_failures": value})


@given(st.lists(st.sampled_from(WORDS), max_size=20).map("".join).map(str.encode), CUTS)
@example(b"data: a\r\n\r\n: c\r\ndata: b\r\r", [9, 10, 15])
@example(b"\xef\xbb\xbf:x\ndata: a\n\n", [1, 2])
def test_whole_events_are_all_that_is_handed_on(data: bytes, places: list[int]) -> None:
    whole = WholeEvents()
    came = b"".join([whole.feed(piece) for piece in cut(data, places)])
    content = data.removeprefix(b"\xef\xbb\xbf")
    assert content.startswith(came)
    assert events_of(came) == events_of(data)
    decoder = ServerSentEvents()
    decoder.feed(data)
    assert whole.events.last_event_id == decoder.last_event_id
    # What is kept back is at most one block: an event that is not whole.
    assert events_of(content[len(came) :] + b"\n") in ([], [*events_of(content[len(came) :] + b"\n\n")][:1])
    assert not content[len(came) :].startswith((b"\n", b":x\n", b": comment\n"))


def test_comments_do_not_wait_for_an_event() -> None:
    whole = WholeEvents(max_event_bytes=20)
    assert [whole.feed(b": keep-alive\n") for _ in range(5)] == [b": keep-alive\n"] * 5
    assert whole.feed(b"data: a\n: c\n") == b""
    assert whole.feed(b"\n: d\nda") == b"data: a\n: c\n\n: d\n"
    whole.begin()
    assert whole.feed(b"data: b\n\n") == b"data: b\n\n"
    assert list(whole.events.feed(b"data\n\n")) == [ServerSentEvent()]


def test_by_its_name() -> None:
    with plugwire.Session(plugins=["sse-reconnect"], transports=[MockTransport({"/": Response(200)})]) as session:
        assert "SSEReconnect" in repr(SSEReconnect())
        assert session.get("http://h/").status_code == 200


@pytest.mark.parametrize("begin", [b": ", b"data: ", b"\n: ", b"data: a\n\n: "])
def test_what_does_not_end_is_searched_once(begin: bytes) -> None:
    """Read in quadratic time it would take the suite's patience: of 4 MB in pieces of a packet's size, two minutes."""
    whole = WholeEvents()
    came = whole.feed(begin)
    for _ in range(15_000):
        came += whole.feed(b"x" * 1000)
    assert came in (b"", b"\n", b"data: a\n\n")
    assert came + whole.feed(b"\n\n") == begin + b"x" * 15_000_000 + b"\n\n"
