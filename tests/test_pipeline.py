"""What flows through the chain of middleware: how often, at which stage, with what, and what it does when a plugin
misbehaves."""

from __future__ import annotations

import asyncio
import gc
import warnings
import weakref
from typing import Any

import pytest

import plugwire
import plugwire.events
from plugwire import AsyncResponse, PluginError, Request, Response, Session, hookimpl
from plugwire.events import Event
from plugwire.protocols import Body, WatchedBody
from plugwire.testing import MockTransport, ScriptedPeer, Server
from plugwire.testing.peer import expect_request, send
from worlds import World

LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbegin"


def mock(**kwargs: Any) -> MockTransport:
    return MockTransport(lambda request: Response(200, text=request.url.path, **kwargs))


def plugin(hook: str, function: Any, stage: str | None = None, name: str = "Mine") -> Any:
    """A plugin of one hook; `function` has no self."""
    return type(name, (), {hook: staticmethod(hookimpl(stage=stage)(function))})()


class Count:
    def __init__(self) -> None:
        self.calls = self.sends = self.reads = 0

    @hookimpl
    async def around_call(self, request: Any, call_next: Any) -> Any:
        self.calls += 1
        return await call_next(request)

    @hookimpl
    async def around_send(self, request: Any, call_next: Any) -> Any:
        self.sends += 1
        return await call_next(request)

    @hookimpl
    def around_read(self, body: Any) -> Any:
        self.reads += 1
        return body


class Twice:
    """Calls again at `retry`, dropping the first answer."""

    @hookimpl(stage="retry")
    async def around_call(self, request: Any, call_next: Any) -> Any:
        await (await call_next(request)).close()
        return await call_next(request)


# -- how often -------------------------------------------------------------------------------------------------------


async def test_around_call_runs_once_and_around_send_for_each_attempt(world: World) -> None:
    count = Count()
    async with world.session(plugins=[count, Twice()], transports=[mock()]) as session:
        await session.get("http://h/")
    assert (count.calls, count.sends, count.reads) == (1, 2, 1)


async def test_attempts_are_counted(world: World) -> None:
    seen: list[int] = []

    async def note(request: Any, call_next: Any, call: Any) -> Any:
        seen.append(call.attempt)
        return await call_next(request)

    plugins = [plugin("around_call", note), Twice(), plugin("around_send", note)]
    async with world.session(plugins=plugins, transports=[mock()]) as session:
        await session.get("http://h/")
    assert seen == [0, 1, 2]


async def test_around_read_at_attempt_runs_for_each_attempt(world: World) -> None:
    seen: list[int] = []

    def note(response: Any, body: Any, call: Any) -> Any:
        seen.append(call.attempt)
        return body

    plugins = [Twice(), plugin("around_read", note, stage="attempt")]
    async with world.session(plugins=plugins, transports=[mock()]) as session:
        await session.get("http://h/")
    assert seen == [1, 2]


# -- what each tier sees ---------------------------------------------------------------------------------------------


async def test_call_tier_sees_the_users_request_and_send_tier_what_goes_out(world: World) -> None:
    seen: dict[str, list[str]] = {}

    def note(name: str) -> Any:
        async def middleware(request: Any, call_next: Any) -> Any:
            seen[name] = [key.lower() for key, _ in request.headers.items()]
            return await call_next(request)

        return middleware

    plugins = [plugin("around_call", note("call")), plugin("around_send", note("prepare"), stage="prepare")]
    async with world.session(plugins=plugins, transports=[mock()], headers={"x-session": "1"}) as session:
        await session.post("http://h/", content=b"body", headers={"x-own": "1"})
    assert seen["call"] == ["x-own"]
    assert {"host", "x-session", "x-own", "content-length"} <= set(seen["prepare"])


async def test_body_wrappers_stand_at_their_stage(world: World) -> None:
    class Wrapped(WatchedBody):
        def __init__(self, inner: Body, name: str) -> None:
            super().__init__(inner)
            self.name = name

        async def receive(self, max_bytes: int = 65536) -> bytes:
            data = await self.inner.receive(max_bytes)
            return self.name.encode() + data if data else b""

    def at(stage: str, name: str) -> Any:
        return plugin("around_read", lambda body: Wrapped(body, name), stage=stage)

    plugins = [at("attempt", "a"), at("call", "c"), at("decode", "d"), at("call", "C")]
    with Server() as server:
        async with world.session(plugins=plugins) as session:
            assert (await session.get(f"{server.url}/hello")).text.startswith("cCdahello from")
            assert (await session.get(f"{server.url}/hello")).text.startswith("cCdahello from")


async def test_wrappers_outside_apply_after_a_middleware_has_read(world: World) -> None:
    class Upper(WatchedBody):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            return (await self.inner.receive(max_bytes)).upper()

    seen: list[bytes] = []

    async def read(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        seen.append(await response.read())
        return response

    plugins = [plugin("around_read", lambda body: Upper(body)), plugin("around_call", read, stage="retry")]
    with Server() as server:
        async with world.session(plugins=plugins) as session:
            assert (await session.get(f"{server.url}/hello")).text == "HELLO FROM PLUGWIRE'S OWN SERVER\n"
            async with session.stream("GET", f"{server.url}/chunked") as response:
                assert (await response.read()).startswith(b"PIECE 1\n")
    assert seen[0] == b"hello from plugwire's own server\n"


# -- snapshots -------------------------------------------------------------------------------------------------------


async def test_what_a_middleware_changes_never_comes_back_up(world: World) -> None:
    async def change(request: Any, call_next: Any) -> Any:
        request.headers["x-inner"] = "1"
        request.method = "PUT"
        request.url = plugwire.URL("http://h/inner")
        return await call_next(request)

    async def outer(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        assert (request.method, str(request.url), "x-inner" in request.headers) == ("GET", "http://h/", False)
        assert response.request.method == "PUT"
        return response

    transport = mock()
    plugins = [plugin("around_call", outer), plugin("around_call", change)]
    async with world.session(plugins=plugins, transports=[transport]) as session:
        mine = Request("GET", "http://h/")
        assert (await session.send(mine)).text == "/inner"
    assert (mine.method, [*mine.headers.items()]) == ("GET", [])


async def test_each_attempt_is_prepared_from_the_same_request(world: World) -> None:
    async def add(request: Any, call_next: Any) -> Any:
        request.headers.add("x-once", "1")
        return await call_next(request)

    transport = mock()
    async with world.session(plugins=[Twice(), plugin("around_send", add)], transports=[transport]) as session:
        await session.get("http://h/")
    assert [call.headers.get_list("x-once") for call in transport.calls] == [["1"], ["1"]]


# -- call_next -------------------------------------------------------------------------------------------------------


async def test_call_next_may_run_concurrently(world: World) -> None:
    async def both(request: Any, call_next: Any, call: Any) -> Any:
        async def start(path: str) -> Any:
            changed = request.copy()
            changed.url = plugwire.URL(f"http://h/{path}")
            return await call_next(changed)

        winner, response = await call.runtime.race(lambda: start("a"), lambda: start("b"), discard=AsyncResponse.abort)
        assert response.request.url.path == ("/a", "/b")[winner]
        return response

    async with world.session(plugins=[plugin("around_call", both)], transports=[mock()]) as session:
        assert (await session.get("http://h/")).text in ("/a", "/b")


async def test_answer_without_call_next(world: World) -> None:
    async def answer(request: Any, call_next: Any) -> Any:
        return AsyncResponse(299, text="no wire", request=request)

    for hook in ("around_call", "around_send"):
        async with world.session(plugins=[plugin(hook, answer)]) as session:
            response = await session.get("http://nowhere.invalid/")
            assert (response.status_code, response.text) == (299, "no wire")


async def test_short_forms(world: World) -> None:
    async def two(request: Request, call_next: Any) -> AsyncResponse:
        request.headers["x-two"] = "2"
        return await call_next(request)  # type: ignore[no-any-return]

    async def three(request: Request, call_next: Any, call: Any) -> AsyncResponse:
        request.headers["x-three"] = str(call.attempt)
        return await call_next(request)  # type: ignore[no-any-return]

    transport = mock()
    async with world.session(plugins=[two, three], transports=[transport]) as session:
        await session.get("http://h/")
    (came,) = transport.calls
    assert (came.headers["x-two"], came.headers["x-three"]) == ("2", "1")


# -- manners ---------------------------------------------------------------------------------------------------------


async def test_dropped_response_is_reported_with_the_plugins_name(world: World) -> None:
    async def drop(request: Any, call_next: Any) -> Any:
        await call_next(request)
        gc.collect()
        return AsyncResponse(200)

    with ScriptedPeer([expect_request(), send(LONG)]) as peer:
        async with world.session(plugins=[Count(), plugin("around_call", drop, name="Dropper")]) as session:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                await session.get(peer.url)
    (warning,) = [one for one in caught if issubclass(one.category, ResourceWarning)]
    assert "was dropped without close() by the plugin Dropper" in str(warning.message)


async def test_origin_is_fixed_in_the_send_tier(world: World) -> None:
    async def move(request: Any, call_next: Any) -> Any:
        request.url = plugwire.URL("http://elsewhere/")
        return await call_next(request)

    async with world.session(plugins=[plugin("around_send", move, name="Mover")], transports=[mock()]) as session:
        with pytest.raises(PluginError, match="Mover changed the origin from http://h to http://elsewhere") as caught:
            await session.get("http://h/")
        assert caught.value.plugin == "Mover"
    async with world.session(plugins=[plugin("around_call", move)], transports=[mock()]) as session:
        assert str((await session.get("http://h/")).url) == "http://elsewhere/"


async def test_call_next_again_with_a_body_that_is_gone(world: World) -> None:
    async with world.session(plugins=[Twice()], transports=[mock()]) as session:
        with pytest.raises(plugwire.NotReplayable, match="Twice called call_next again"):
            await session.post("http://h/", content=iter([b"once"]))
        await session.post("http://h/", content=[b"as", b"often", b"as you like"])


async def test_call_next_with_something_else_than_a_request(world: World) -> None:
    async def wrong(request: Any, call_next: Any) -> Any:
        return await call_next("http://h/")

    async with world.session(plugins=[plugin("around_send", wrong, name="Wrong")], transports=[mock()]) as session:
        with pytest.raises(PluginError, match=r"Wrong called call_next\(str\)"):
            await session.get("http://h/")


@pytest.mark.parametrize("hook", ["around_call", "around_send"])
@pytest.mark.parametrize("is_observed", [False, True])
@pytest.mark.parametrize("outer", [(), ("around_call",), ("around_send",), ("around_read",)])
async def test_wrong_answer_names_who_gave_it(
    world: World, hook: str, is_observed: bool, outer: tuple[str, ...]
) -> None:
    async def wrong(request: Any, call_next: Any) -> Any:
        return None if is_observed else Response(200)  # the blocking face is no answer

    async def through(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    def same(body: Any) -> Any:
        return body

    plugins = [plugin(one, same if one == "around_read" else through, name="Outer") for one in outer]
    plugins.append(plugin(hook, wrong, name="Wrong"))
    options: Any = {"observe": lambda event: None} if is_observed else {}
    async with world.session(plugins=plugins, transports=[mock()]) as session:
        with pytest.raises(PluginError, match=r"Wrong returned (Response|NoneType), not an AsyncResponse") as caught:
            await session.get("http://h/", **options)
        assert caught.value.plugin == "Wrong"


async def test_around_read_returns_a_body(world: World) -> None:
    with Server() as server:
        async with world.session(plugins=[plugin("around_read", lambda body: None, name="Wrong")]) as session:
            with pytest.raises(PluginError, match=r"Wrong\.around_read returned NoneType, not a Body"):
                await session.get(f"{server.url}/bytes/100000")
            assert session.stats().open == session.stats().idle  # the response was closed


def test_suspended_names_the_awaitable_and_the_plugin() -> None:
    class Sleeper:
        @hookimpl
        async def around_send(self, request: Any, call_next: Any) -> Any:
            await asyncio.sleep(0)
            return await call_next(request)

    with Session(plugins=[Sleeper()], transports=[mock()]) as session:
        with pytest.raises(plugwire.Suspended, match=r"Sleeper\.around_send") as caught:
            session.get("http://h/")
        assert "turn" in caught.value.awaitable


def test_suspended_when_a_plugin_wants_a_loop() -> None:
    class Sleeper:
        @hookimpl
        async def around_call(self, request: Any, call_next: Any) -> Any:
            await asyncio.sleep(1)
            return await call_next(request)

    with Session(plugins=[Sleeper()], transports=[mock()]) as session:
        with pytest.raises(plugwire.Suspended, match=r"no running event loop.*Sleeper\.around_call"):
            session.get("http://h/")
        with pytest.raises(plugwire.Suspended):  # and the session goes on
            session.get("http://h/")


# -- what a hook raises ----------------------------------------------------------------------------------------------


class Own(Exception):
    pass


@pytest.mark.parametrize("hook", ["around_call", "around_send", "around_read", "session_opened"])
async def test_what_a_hook_raises_the_user_gets(world: World, hook: str) -> None:
    async def raising(*args: Any) -> Any: ...

    space: dict[str, Any] = {"Own": Own}
    arguments = {"around_read": "body", "session_opened": "session"}.get(hook, "request, call_next")
    exec(f"{'' if hook == 'around_read' else 'async '}def raising({arguments}): raise Own('mine')", space)
    with Server() as server:
        async with world.session(plugins=[plugin(hook, space["raising"])]) as session:
            for _ in range(2):
                with pytest.raises(Own, match="mine"):
                    await session.get(f"{server.url}/bytes/100000")
            assert session.stats().open == session.stats().idle


async def test_what_session_closed_raises_close_raises_after_all_ran(world: World) -> None:
    log: list[str] = []

    def closing(name: str, error: Exception | None) -> Any:
        async def session_closed(session: Any) -> None:
            log.append(name)
            if error is not None:
                raise error

        return plugin("session_closed", session_closed, name=name)

    session = world.session(
        plugins=[closing("a", None), closing("b", Own("mine")), closing("c", None)], transports=[mock()]
    )
    await session.get("http://h/")
    with pytest.raises(Own, match="mine"):
        await session.close()
    assert log == ["c", "b", "a"]
    await session.close()
    assert log == ["c", "b", "a"]


async def test_session_hooks_run_in_order_and_only_where_opened_ran(world: World) -> None:
    log: list[str] = []

    class Both:
        def __init__(self, name: str, fails: bool = False) -> None:
            self.name = name
            self.fails = fails

        @hookimpl
        async def session_opened(self, session: Any) -> None:
            log.append(f"opened {self.name}")
            if self.fails:
                raise Own

        @hookimpl
        async def session_closed(self) -> None:
            log.append(f"closed {self.name}")

    async with world.session(plugins=[Both("a"), Both("b")], transports=[mock()]) as session:
        assert log == []  # not before the first request
        await session.get("http://h/")
        await session.get("http://h/")
    assert log == ["opened a", "opened b", "closed b", "closed a"]
    log.clear()
    async with world.session(plugins=[Both("a"), Both("b", fails=True), Both("c")], transports=[mock()]) as session:
        with pytest.raises(Own):
            await session.get("http://h/")
        assert log == ["opened a", "opened b", "closed a"]
    assert log == ["opened a", "opened b", "closed a"]
    log.clear()
    async with world.session(plugins=[Both("a")], transports=[mock()]):
        pass
    assert log == []


# -- the call --------------------------------------------------------------------------------------------------------


async def test_state_of_a_call_is_shared_by_its_hooks_and_no_other_call(world: World) -> None:
    class Seen(list[str]):
        pass

    found: list[list[str]] = []

    async def outer(request: Any, call_next: Any, call: Any) -> Any:
        call.state(Seen).append("outer")
        return await call_next(request)

    async def inner(request: Any, call_next: Any, call: Any) -> Any:
        call.state(Seen).append("inner")
        found.append(call.state(Seen))
        return await call_next(request)

    plugins = [plugin("around_call", outer), plugin("around_send", inner)]
    async with world.session(plugins=plugins, transports=[mock()]) as session:
        await session.get("http://h/")
        await session.get("http://h/")
    assert found == [["outer", "inner"], ["outer", "inner"]]


async def test_state_of_a_session_is_made_once_for_each_session(world: World) -> None:
    class Keeper:
        def __init__(self) -> None:
            self.made: list[Any] = []

        def make(self, runtime: Any) -> dict[str, int]:
            self.made.append(runtime.name)
            return {"count": 0}

        @hookimpl
        async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
            call.session.state(self, self.make)["count"] += 1
            return await call_next(request)

    keeper = Keeper()
    for _ in range(2):
        async with world.session(plugins=[keeper], transports=[mock()]) as session:
            for _ in range(3):
                await session.get("http://h/")
            assert session.view.state(keeper, keeper.make) == {"count": 3}
    assert keeper.made == [world.name] * 2


async def test_state_of_a_session_goes_with_its_owner(world: World) -> None:
    """An auth object that a program makes for each call does not fill the memory."""

    class Owner:
        pass

    class Slotted:
        __slots__ = ()

    class State:
        def __init__(self, runtime: Any) -> None:
            self.runtime = runtime

    async with world.session(transports=[mock()]) as session:
        await session.get("http://h/")
        owner = Owner()
        state = weakref.ref(session.view.state(owner, State))
        assert session.view.state(owner, State) is state()
        del owner
        gc.collect()
        assert state() is None
        fixed = Slotted()
        assert session.view.state(fixed, State) is session.view.state(fixed, State)  # what no weakref can hold stays


async def test_sleep_that_would_pass_the_deadline_raises_at_once(world: World) -> None:
    async def nap(request: Any, call_next: Any, call: Any) -> Any:
        await call.sleep(0.001)
        await call.sleep(1e6)

    async with world.session(plugins=[plugin("around_call", nap)], transports=[mock()]) as session:
        with pytest.raises(plugwire.TotalTimeout, match="a pause of 1e\\+06 s would pass it"):
            await session.get("http://h/", timeout=5000)


async def test_cancelled_sleep(world: World) -> None:
    calls: list[Any] = []

    async def nap(request: Any, call_next: Any, call: Any) -> Any:
        calls.append(call)
        await call.sleep(1000)

    async with world.session(plugins=[plugin("around_call", nap)], transports=[mock()], timeout=None) as session:
        background = world.in_background(lambda: session.get("http://h/"))
        await world.settle()
        calls[0].cancel()
        assert isinstance((await background.outcome()).error, plugwire.Cancelled)


async def test_side_request_goes_past_the_plugins_it_names(world: World) -> None:
    class Side:
        @hookimpl
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            side = await call.send(Request("GET", "http://h/side"), without=(self,))
            assert side.is_read
            response = await call_next(request)
            response.headers["x-side"] = side.text
            return response

    count = Count()
    async with world.session(plugins=[Side(), count], transports=[mock()]) as session:
        assert (await session.get("http://h/")).headers["x-side"] == "/side"
    assert count.calls == 2


async def test_side_requests_past_objects_that_are_no_plugins_leave_nothing_behind(world: World) -> None:
    class Auth:
        async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
            await call.send(Request("GET", "http://h/token"), without=(self, self))
            return await call_next(request)

    async with world.session(transports=[mock()]) as session:
        await session.get("http://h/", auth=Auth())
        chains = len(session.view.engine._chains)
        kept = [Auth() for _ in range(10)]  # at once, so that none has the place of another
        for auth in kept:
            await session.get("http://h/", auth=auth)
        assert len(session.view.engine._chains) == chains


async def test_side_request_tells_the_sessions_secrets_to_the_origin_of_its_call_only(world: World) -> None:
    """Which side requests a plugin makes may be decided by whom a redirect led to."""

    class Side:
        @hookimpl
        async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
            await call.send(Request("OPTIONS", request.url.join("/side")), without=(self,))
            return await call_next(request)

    def moved(request: Request) -> Response:
        is_first = request.method == "GET" and request.url.host == "a.example"
        return Response(302 if is_first else 200, headers={"location": "http://b.example/"})

    transport = MockTransport(moved)
    secret = {"Authorization": "s", "X-Plain": "1"}
    async with world.session(plugins=[Side()], transports=[transport], headers=secret) as session:
        await session.get("http://a.example/")
    seen = [(c.method, c.url.host, c.headers.get("authorization"), c.headers.get("x-plain")) for c in transport.calls]
    assert seen == [
        ("OPTIONS", "a.example", "s", "1"),
        ("GET", "a.example", "s", "1"),
        ("OPTIONS", "b.example", None, "1"),
        ("GET", "b.example", None, "1"),
    ]


async def test_side_request_stands_under_the_deadline_of_its_call(world: World) -> None:
    deadlines: list[float] = []

    class Side:
        @hookimpl
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            deadlines.append(call.deadline.at)
            await call.send(Request("GET", "http://h/side"), without=(self,))
            return await call_next(request)

    async def note(request: Any, call_next: Any, call: Any) -> Any:
        deadlines.append(call.deadline.at)
        return await call_next(request)

    async with world.session(plugins=[Side(), note], transports=[mock()]) as session:
        await session.get("http://h/", timeout=50)
    assert len(set(deadlines)) == 1


async def test_context_and_streaming_are_told(world: World) -> None:
    seen: list[Any] = []

    async def note(request: Any, call_next: Any, call: Any) -> Any:
        seen.append((call.context, call.streaming, str(call.origin), call.runtime.name))
        return await call_next(request)

    async with world.session(plugins=[note], transports=[mock()]) as session:
        await session.get("http://h/", context="mine")
        async with session.stream("GET", "http://h/"):
            pass
    assert seen == [("mine", False, "http://h", world.name), (None, True, "http://h", world.name)]


async def test_buffered_call_reads_after_the_chain_and_streaming_does_not(world: World) -> None:
    seen: list[bool] = []

    async def note(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        seen.append(response.is_read)
        return response

    with Server() as server:
        async with world.session(plugins=[plugin("around_call", note)]) as session:
            assert (await session.get(f"{server.url}/bytes/100000")).is_read
            async with session.stream("GET", f"{server.url}/bytes/100000") as response:
                assert not response.is_read
                with pytest.raises(plugwire.BodyUnread):
                    _ = response.content
    assert seen == [False, False]


async def test_emitted_events_reach_their_observers(world: World) -> None:
    class Mine(Event):
        pass

    seen: list[Any] = []

    class Emitter:
        events = (Mine,)

        @hookimpl
        def observe(self, event: Any) -> None:
            seen.append(event.context)

        @hookimpl
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            assert call.wants(Mine)
            call.tell(Mine)
            return await call_next(request)

    async with world.session(plugins=[Emitter()], transports=[mock()]) as session:
        await session.get("http://h/", context=7)
    assert seen == [7]


# -- cost ------------------------------------------------------------------------------------------------------------


def constructions(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """Every event that is built from here on."""
    built: list[type] = []
    for kind in plugwire.events.ALL:
        made = kind.__init__

        def counted(self: Any, *args: Any, made: Any = made, **kwargs: Any) -> None:
            built.append(type(self))
            made(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", counted)
    return built


async def test_no_event_is_built_when_nobody_observes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    built = constructions(monkeypatch)
    with Server() as server:
        async with world.session() as session:
            await session.get(f"{server.url}/bytes/100000")
            await session.post(f"{server.url}/echo", content=[b"a", b"b"])
            assert built == []
            await session.get(f"{server.url}/hello", observe=lambda event: None)
            assert built


async def test_only_the_events_that_somebody_wants_are_built(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Heads:
        events = (plugwire.events.Head,)

        @hookimpl
        def observe(self) -> None: ...

    built = constructions(monkeypatch)
    hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    with ScriptedPeer([expect_request(), send(hint + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]) as peer:
        async with world.session(plugins=[Heads()]) as session:
            await session.get(peer.url)
    assert built == [plugwire.events.Head]


def test_a_plugin_that_is_not_there_leaves_no_layer() -> None:
    with Session(transports=[mock()], defaults=False) as session:
        assert session.view.engine.layers == []
