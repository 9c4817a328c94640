"""What observers are told: the nesting of events, both ends of each step, and what an observer cannot break."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import plugwire
from plugwire import AsyncResponse, Response, hookimpl
from plugwire.call import tell
from plugwire.events import (
    ALL,
    TLS,
    Attempt,
    CallStep,
    Close,
    Connect,
    Data,
    Edge,
    Event,
    Head,
    Informational,
    Open,
    PoolWait,
    Receive,
    Resolve,
    Send,
    Step,
)  # fmt: skip
from plugwire.protocols import Discarded
from plugwire.testing import MockTransport, ScriptedPeer, Server
from plugwire.testing.peer import close, expect_request, send
from worlds import World

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class Log:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.seen.append(event)

    @hookimpl
    def observe(self, event: Event) -> None:
        self.seen.append(event)

    @property
    def words(self) -> list[str]:
        """Each event in a word: `+Send` is its start, `-Send` its end, `!Send` its failure, `Head` a single point."""
        signs = {Edge.STARTED: "+", Edge.FINISHED: "-", Edge.FAILED: "!"}
        return [(signs[one.edge] if isinstance(one, Step) else "") + type(one).__name__ for one in self.seen]

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    def check(self) -> None:
        """Each STARTED is followed by exactly one end of the same class."""
        under_way: list[tuple[type, object]] = []
        for event in self.seen:
            if not isinstance(event, Step):
                continue
            key = (type(event), getattr(event, "address", None))
            if event.edge is Edge.STARTED:
                assert key not in under_way, f"{key} began twice"
                under_way.append(key)
                assert event.error is None
            else:
                assert key in under_way, f"{key} ended without a begin"
                under_way.remove(key)
                assert (event.error is not None) == (event.edge is Edge.FAILED)
        assert not under_way, f"{under_way} never ended"


NEW = ["+Resolve", "-Resolve", "+Connect", "-Connect"]


async def test_events_of_a_call_on_a_new_connection_and_on_a_used_one(world: World) -> None:
    log = Log()
    with Server() as server:
        async with world.session(plugins=[log]) as session:
            await session.get(f"{server.url}/hello")
            exchange = ["+Send", "-Send", "Head", "+Receive", "Data", "-Receive"]
            assert log.words == ["+CallStep", "+Attempt", *NEW, "Open", *exchange, "-Attempt", "-CallStep"]
            log.check()
            log.seen.clear()
            await session.get(f"{server.url}/hello")
            assert log.words == ["+CallStep", "+Attempt", *exchange, "-Attempt", "-CallStep"]
            log.seen.clear()
        assert log.words == ["Close"]
        assert log.of(Close)[0].call is None
        assert "session" in log.of(Close)[0].reason


async def test_events_of_tls(world: World) -> None:
    log = Log()
    with Server(tls=True) as server:
        async with world.session(plugins=[log], tls=server.tls_config) as session:
            await session.get(f"{server.url}/hello")
    assert log.words[: 2 + len(NEW) + 3] == ["+CallStep", "+Attempt", *NEW, "+TLS", "-TLS", "Open"]
    log.check()
    started, finished = log.of(TLS)
    assert started.info is None
    assert finished.info.version.startswith("TLSv1.")


async def test_events_of_an_upload_and_a_long_answer(world: World) -> None:
    log = Log()
    with Server() as server:
        async with world.session() as session:
            await session.post(f"{server.url}/bytes/100000", content=[b"abc", b"de"], observe=log)
    log.check()
    sent = [event for event in log.of(Data) if event.sent]
    assert [(event.size, event.done, event.total) for event in sent] == [(3, 3, None), (2, 5, None)]
    received = [event for event in log.of(Data) if not event.sent]
    assert sum(event.size for event in received) == received[-1].done == 100000
    assert {event.total for event in received} == {100000}
    assert log.of(Receive)[-1].size == 100000
    words = log.words
    assert words.index("+Send") < words.index("Data") < words.index("-Send") < words.index("Head")
    assert words.index("Head") < words.index("+Receive") < words.index("-Receive")


async def test_interim_responses_are_points(world: World) -> None:
    log = Log()
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with ScriptedPeer([expect_request(), send(early + OK + b"ok")]) as peer:
        async with world.session() as session:
            await session.get(peer.url, observe=log)
    (hint,) = log.of(Informational)
    assert (hint.status, hint.headers["link"]) == (103, "</x>")
    assert log.words.index("Informational") < log.words.index("Head")
    log.check()


async def test_waiting_for_the_pool_is_a_step(world: World) -> None:
    log = Log()
    with Server() as server:
        async with world.session(limits=plugwire.Limits(max_connections=1)) as session:
            held = session.stream("GET", f"{server.url}/bytes/1000000")
            async with held:
                waiting = world.in_background(lambda: session.get(f"{server.url}/hello", observe=log))
                await world.settle()
                assert log.words == ["+CallStep", "+Attempt", "+PoolWait"]
            await waiting.result()
    assert log.of(PoolWait)[1].edge is Edge.FINISHED
    log.check()


async def test_observers_of_one_call_see_this_call_only(world: World) -> None:
    log = Log()
    with Server() as server:
        async with world.session() as session:
            await session.get(f"{server.url}/hello")
            await session.get(f"{server.url}/hello", observe=log, context="mine")
            await session.get(f"{server.url}/hello")
    assert log.words.count("+CallStep") == 1
    assert {event.context for event in log.seen} == {"mine"}
    assert len({event.call.id for event in log.seen if event.call}) == 1
    assert log.of(CallStep)[1].status == 200


async def test_both_kinds_of_observers_are_told(world: World) -> None:
    log, own = Log(), Log()
    async with world.session(plugins=[log], transports=[MockTransport({"/": Response(200)})]) as session:
        await session.get("http://h/", observe=own)
    assert [word for word in log.words if word not in ("Open", "Close")] == own.words


async def test_a_plugin_gets_what_it_names_and_subclasses_of_it(world: World) -> None:
    steps, heads = Log(), Log()
    named: Any = type("Named", (), {"events": (Attempt, Head), "observe": hookimpl(_telling(heads))})()
    rooted: Any = type("Rooted", (), {"events": (Step,), "observe": hookimpl(_telling(steps))})()
    async with world.session(plugins=[named, rooted], transports=[MockTransport({"/": Response(200)})]) as session:
        await session.get("http://h/")
    assert heads.words == ["+Attempt", "Head", "-Attempt"]
    assert {"+CallStep", "+Send", "-Receive"} <= set(steps.words)
    assert "Head" not in steps.words


def _telling(log: Log) -> Callable[[Any, Event], None]:
    def observe(self: Any, event: Event) -> None:
        log(event)

    return observe


async def test_times_never_run_backwards(world: World) -> None:
    log = Log()
    with Server() as server:
        async with world.session(plugins=[log]) as session:
            await session.get(f"{server.url}/bytes/100000")
    times = [event.time for event in log.seen]
    assert times == sorted(times)


async def test_attempts_are_numbered(world: World) -> None:
    class Twice:
        @hookimpl(stage="retry")
        async def around_call(self, request: Any, call_next: Any) -> AsyncResponse:
            await (await call_next(request)).close()
            return await call_next(request)  # type: ignore[no-any-return]

    log = Log()
    async with world.session(plugins=[Twice()], transports=[MockTransport({"/": Response(200)})]) as session:
        await session.get("http://h/", observe=log)
    assert [event.attempt for event in log.of(Attempt)] == [1, 1, 2, 2]
    assert [event.attempt for event in log.of(CallStep)] == [0, 2]
    log.check()


# -- failures --------------------------------------------------------------------------------------------------------


async def test_refused_connection(world: World) -> None:
    log = Log()
    async with world.session() as session:
        with pytest.raises(plugwire.ConnectError):
            await session.get("http://127.0.0.1:1/", observe=log)
    assert log.words == [
        "+CallStep",
        "+Attempt",
        "+Resolve",
        "-Resolve",
        "+Connect",
        "!Connect",
        "!Attempt",
        "!CallStep",
    ]
    log.check()


async def test_name_that_does_not_resolve(world: World) -> None:
    class Nobody:
        name = "nobody"
        honours = frozenset[str]()

        def refuse(self, route: Any) -> None: ...

        async def resolve(self, host: str, port: int, connecting: Any) -> Any:
            raise OSError("nobody knows")

    log = Log()
    async with world.session(transports=[Nobody()]) as session:
        with pytest.raises(plugwire.ResolveError):
            await session.get("http://h/", observe=log)
    assert log.words == ["+CallStep", "+Attempt", "+Resolve", "!Resolve", "!Attempt", "!CallStep"]


async def test_connection_that_closes_without_a_response(world: World) -> None:
    log = Log()
    with ScriptedPeer([expect_request(), close()]) as peer:
        async with world.session() as session:
            with pytest.raises(plugwire.ConnectionClosed) as caught:
                await session.get(peer.url, observe=log)
    assert log.words[-2:] == ["!Attempt", "!CallStep"]
    assert log.seen[-1].error is caught.value  # type: ignore[attr-defined]
    log.check()


async def test_body_that_is_cut_fails_its_step(world: World) -> None:
    log = Log()
    with ScriptedPeer([expect_request(), send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"), close()]) as peer:
        async with world.session() as session:
            with pytest.raises(plugwire.IncompleteBody):
                await session.get(peer.url, observe=log)
    (failed,) = [event for event in log.of(Receive) if event.edge is Edge.FAILED]
    assert (failed.size, type(failed.error)) == (4, plugwire.IncompleteBody)
    log.check()


async def test_body_that_is_closed_early_is_discarded(world: World) -> None:
    log = Log()
    with Server() as server:
        async with (
            world.session() as session,
            session.stream("GET", f"{server.url}/bytes/1000000", observe=log) as response,
        ):
            await response.read(10)
    assert isinstance(log.of(Receive)[-1].error, Discarded)
    log.check()


async def test_failing_plugin_fails_the_call_step(world: World) -> None:
    async def failing(request: Any, call_next: Any) -> AsyncResponse:
        raise KeyError("mine")

    log = Log()
    async with world.session(plugins=[failing], transports=[MockTransport({"/": Response(200)})]) as session:
        with pytest.raises(KeyError):
            await session.get("http://h/", observe=log)
    assert log.words == ["+CallStep", "+Attempt", "!Attempt", "!CallStep"]


# -- what an observer cannot break -----------------------------------------------------------------------------------


async def test_what_an_observer_raises_goes_to_unraisablehook_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @hookimpl
        def observe(self, event: Event) -> None:
            raise KeyError("broken")

    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    log, broken = Log(), Broken()
    transport = MockTransport({"/": Response(200)})
    async with world.session(plugins=[broken, log], transports=[transport]) as session:
        for _ in range(3):
            assert (await session.get("http://h/")).ok
    (one,) = unraisable
    assert one.exc_type is KeyError
    assert one.object.__self__ is broken
    assert log.words.count("-CallStep") == 3  # others are told all the same


async def test_observe_must_be_callable(world: World) -> None:
    async with world.session() as session:
        with pytest.raises(plugwire.UsageError, match="observe=5: a callable"):
            await session.get("http://h/", observe=5)


async def test_events_cannot_be_changed(world: World) -> None:
    log = Log()
    async with world.session(transports=[MockTransport({"/": Response(200)})]) as session:
        await session.get("http://h/", observe=log)
    for event in log.seen:
        with pytest.raises(AttributeError):
            event.time = 0.0  # type: ignore[misc]


def test_every_event_class_is_public_and_documented() -> None:
    import plugwire.events as module

    classes = {value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Event)}
    assert classes == {*ALL, Event, Step}
    assert all(kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "(") for kind in classes)
    assert {Connect, Open, Resolve, Send} <= set(ALL)


async def test_call_step_lasts_until_the_body_was_read(world: World) -> None:
    log = Log()
    with ScriptedPeer([expect_request(), send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"), close()]) as peer:
        async with world.session() as session:
            with pytest.raises(plugwire.IncompleteBody):
                await session.get(peer.url, observe=log)
    assert log.words[-1] == "!CallStep"


def test_each_broken_observer_is_reported_even_where_another_one_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reports.append(str(report.exc_value)))
    event = Open(time=0, connection=None, route=None)  # type: ignore[arg-type]
    for number in range(50):

        def broken(event: Event, number: int = number) -> None:
            raise ValueError(number)

        tell(broken, event)
        tell(broken, event)
        del broken  # the next one is likely to be made in its place
    assert reports == [str(number) for number in range(50)]
