"""Whatever ends a call from outside, at whatever stage: nothing is left over, and the session works on."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import trio

import plugwire
from plugwire import Cancelled, Error, Limits, SessionClosed
from plugwire.call import Call, Scope, _hands, racing
from plugwire.drive import drive
from plugwire.protocols import EVERYTHING
from plugwire.runtimes import blocking_runtime
from plugwire.testing import PeerFailure, ScriptedPeer
from plugwire.testing.peer import Step, expect_end, expect_head, expect_request, send, tell, wait_for
from test_streams import socket_pair
from worlds import PATIENCE, Outcome, World, in_time, join_all, until_it_waits

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
ONE = Limits(max_connections=1)


class Calls:
    """A plugin that keeps the calls that pass, so that a test can cancel them."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @plugwire.hookimpl
    async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
        self.seen.append(call)
        return await call_next(request)


class Stage:
    """A call brought to one stage, where it hangs until it is ended."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.reached = threading.Event()
        self.calls = Calls()
        self._stack = ExitStack()
        self.is_to_be_played = True
        self.url = ""

    def __enter__(self) -> Stage:
        # The answer to the first request stands still until it is released: who waits in the pool waits for that one.
        self.release = threading.Event()
        if self.name != "pool":
            self.release.set()
        script = [expect_request(), send(OK[:-2]), wait_for(self.release), send(OK[-2:]), expect_request(), send(OK)]
        self.peer = self._stack.enter_context(ScriptedPeer(script))
        scripts: dict[str, list[Step]] = {
            "head": [expect_request(), tell(self.reached)],
            "body": [expect_request(), send(HEAD + b"begin"), tell(self.reached)],
        }
        if self.name in scripts:
            hanging = self._stack.enter_context(ScriptedPeer(scripts[self.name]))
            self.url = hanging.url
        elif self.name in ("dial", "tls", "upload"):  # by one who takes no bytes
            listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            if self.name == "dial":
                for _ in range(4):  # no room is left in the backlog: a SYN is dropped
                    sock = self._stack.enter_context(socket.socket())
                    sock.setblocking(False)
                    sock.connect_ex(listener.getsockname())
            scheme = "https" if self.name == "tls" else "http"
            self.url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        else:
            self.url = self.peer.url
        return self

    def __exit__(self, *error: Any) -> None:
        self.release.set()
        if not self.is_to_be_played and self.peer.accepted == 0:
            with socket.create_connection(("127.0.0.1", self.peer.port)):
                pass
        if self.is_to_be_played:
            self._stack.__exit__(*error)
        else:
            with suppress(PeerFailure):
                self._stack.__exit__(*error)

    async def call(self, session: Any) -> Any:
        if self.name == "upload":
            return await session.put(self.url, content=bytes(40_000_000))
        return await session.get(self.url)

    async def until_reached(self) -> None:
        if self.name in ("head", "body"):
            await self.world.runtime().run_blocking(self.reached.wait, 30)
        await self.world.settle()


STAGES = ("pool", "dial", "tls", "head", "body", "upload")


async def at_stage(world: World, name: str, end: Callable[[Stage, Any, Any], Any]) -> Outcome:
    """Bring a call to a stage and end it by `end(stage, session, background)`; then nothing is left of it, and the
    session does the next one."""
    with Stage(world, name) as stage:
        async with world.session(limits=ONE, plugins=[stage.calls]) as session:
            holder = None
            if name == "pool":
                holder = await session.open_request("GET", stage.peer.url).send()
            background = world.in_background(stage.call, session)
            await stage.until_reached()
            end(stage, session, background)
            outcome: Outcome = await background.outcome()
            if holder is not None:
                assert session.stats()[:3] == (1, 0, 0)
                stage.release.set()
                await holder.read()
            else:
                assert session.stats()[:3] == (0, 0, 0)
                await session.get(stage.peer.url)
            assert (await session.get(stage.peer.url)).content == b"ok"
            assert session.stats()[:3] == (1, 1, 0)
        return outcome


@pytest.mark.parametrize("name", STAGES)
async def test_the_worlds_own_cancellation(world: World, name: str) -> None:
    outcome = await at_stage(world, name, lambda stage, session, background: background.cancel())
    if world.name == "asyncio":
        assert isinstance(outcome.error, asyncio.CancelledError)
    elif world.name == "trio":
        assert isinstance(outcome.error, trio.Cancelled)
    else:  # a task that is cancelled in the blocking world has its waits aborted
        assert isinstance(outcome.error, (Error, ConnectionAbortedError))


PHASES = {"upload": "write"}


@pytest.mark.parametrize("name", STAGES)
async def test_call_cancel_from_elsewhere(world: World, name: str) -> None:
    def cancel(stage: Stage, session: Any, background: Any) -> None:
        stage.calls.seen[-1].cancel()

    outcome = await at_stage(world, name, cancel)
    assert type(outcome.error) is Cancelled
    assert outcome.error.request is not None
    assert outcome.error.phase == PHASES.get(name, name)
    assert outcome.error.sent == (name in ("head", "body", "upload"))


@pytest.mark.parametrize("name", STAGES)
async def test_closing_the_session_under_a_call(world: World, name: str) -> None:
    with Stage(world, name) as stage:
        async with world.session(limits=ONE) as session:
            if name == "pool":
                holder = await session.open_request("GET", stage.peer.url).send()
            background = world.in_background(stage.call, session)
            await stage.until_reached()
            await session.close()
            outcome = await background.outcome()
            if name == "pool":
                with pytest.raises(SessionClosed):
                    await holder.read()
        assert type(outcome.error) is SessionClosed
        assert outcome.error.phase == PHASES.get(name, name)
        assert session.stats()[:3] == (0, 0, 0)
        stage.is_to_be_played = False


async def test_a_call_that_was_cancelled_before_it_began_to_wait_ends_at_once(world: World) -> None:
    async def impatient(request: Any, call_next: Any, call: Any) -> Any:
        call.cancel()
        return await call_next(request)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with world.session(plugins=[impatient]) as session:
            with pytest.raises(Cancelled):
                await session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            assert session.stats()[:3] == (0, 0, 0)


async def test_a_read_that_was_cancelled_goes_on_without_a_lost_byte(world: World) -> None:
    if world.name == "blocking":
        return  # it has no cancellation of its own; an abort ends the connection
    go_on = threading.Event()
    body = bytes(range(256)) * 40
    with ScriptedPeer([
        expect_request(),
        send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:100]),
        wait_for(go_on),
        send(body[100:], each=1000),
    ]) as peer:  # fmt: skip
        async with world.session() as session, session.stream("GET", peer.url) as response:
            assert await response.read(100) == body[:100]
            for _ in range(3):
                outcome = await world.cancelled_after(lambda: response.read(50), world.settle)
                assert outcome.was_cancelled
                outcome = await world.cancelled_after(lambda: response.readinto(bytearray(50)), world.settle)
                assert outcome.was_cancelled
            go_on.set()
            assert await response.read() == body[100:]
            assert session.stats().idle == 1


async def test_a_push_upload_that_was_cancelled_leaves_nothing(world: World) -> None:
    with ScriptedPeer([expect_head(), expect_end()], [expect_request(), send(OK)]) as peer:
        async with world.session(limits=ONE) as session:
            request = session.open_request("POST", peer.url)
            await request.begin(length=10)
            await request.close()
            assert session.stats()[:3] == (0, 0, 0)
            await request.close()
            await session.get(peer.url)


async def test_a_push_upload_that_was_dropped_leaves_nothing(world: World) -> None:
    with ScriptedPeer([expect_head(), expect_end()], [expect_request(), send(OK)]) as peer:
        async with world.session(limits=ONE) as session:
            request = session.open_request("POST", peer.url)
            await request.begin(length=10)
            with pytest.warns(ResourceWarning, match="dropped between begin"):
                del request
            assert session.stats()[:3] == (0, 0, 0)
            await session.get(peer.url)


async def test_closing_a_response_elsewhere_ends_the_read(world: World) -> None:
    begun = threading.Event()
    with ScriptedPeer([expect_request(), send(HEAD), tell(begun)], [expect_request(), send(OK)]) as peer:
        async with world.session(limits=ONE) as session:
            response = await session.open_request("GET", peer.url).send()
            background = world.in_background(response.read)
            await world.runtime().run_blocking(begun.wait, 30)
            await world.settle()
            await response.close()
            outcome = await background.outcome()
            assert type(outcome.error) is Cancelled
            assert "closed while" in str(outcome.error)
            await session.get(peer.url)
            assert session.stats()[:3] == (1, 1, 0)


async def test_a_response_that_is_dropped_unread_is_warned_of_and_gives_its_place_back(world: World) -> None:
    with ScriptedPeer([expect_request(), send(HEAD), expect_end()], [expect_request(), send(OK)]) as peer:
        async with world.session(limits=ONE) as session:
            response = await session.open_request("GET", f"{peer.url}/dropped").send()
            assert response.status_code == 200
            with pytest.warns(ResourceWarning, match=r"GET http://.*/dropped was dropped without close"):
                del response
            assert session.stats()[:3] == (0, 0, 0)
            await session.get(peer.url)


# -- the blocking world --------------------------------------------------------------------------------------------


class Interrupt(BaseException):
    """As a signal handler raises it: between any two bytecodes."""


STEPS = (("receive", False), ("send", False), ("send", True), ("read_now", False), ("read_now", True))


@pytest.mark.parametrize(("step", "after"), STEPS)
def test_an_interrupt_in_the_blocking_road_leaves_a_usable_session(
    step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plugwire.runtimes.blocking_stream import BlockingStream

    scripts = [[expect_request(), send(OK), lambda connection: connection.read_end()]]
    with (
        ScriptedPeer(*scripts, [expect_request(), send(OK), expect_request(), send(OK)]) as peer,
        plugwire.Session(limits=ONE) as session,
    ):
        session.get(peer.url)
        original: Any = getattr(BlockingStream, step)

        async def waits(*args: Any, **kwargs: Any) -> Any:
            if after:
                await original(*args, **kwargs)
            raise Interrupt

        def looks(*args: Any, **kwargs: Any) -> Any:
            if after:
                original(*args, **kwargs)
            raise Interrupt

        monkeypatch.setattr(BlockingStream, step, looks if step == "read_now" else waits)
        with pytest.raises(Interrupt):
            session.get(peer.url)
        monkeypatch.undo()
        assert session.stats()[:3] == (0, 0, 0)
        session.get(peer.url)
        session.get(peer.url)
        assert session.stats()[:3] == (1, 1, 0)


def test_an_interrupt_out_of_an_observer_is_an_interrupt() -> None:
    def observe(event: Any) -> None:
        if type(event).__name__ == "Head":
            raise Interrupt

    with (
        ScriptedPeer([expect_request(), send(OK), expect_end()], [expect_request(), send(OK)]) as peer,
        plugwire.Session(limits=ONE) as session,
    ):
        with pytest.raises(Interrupt):
            session.get(peer.url, observe=observe)
        assert session.stats()[:3] == (0, 0, 0)
        session.get(peer.url)


def test_drive_of_an_interrupted_road_runs_every_finally() -> None:
    ran = []

    async def inner() -> None:
        try:
            raise Interrupt
        finally:
            ran.append(True)

    with pytest.raises(Interrupt):
        drive(inner())
    assert ran == [True]


async def test_cancelling_a_call_cancels_what_it_asked_for_on_the_side(world: World) -> None:
    seen: list[type[BaseException]] = []

    class Refresher:
        @plugwire.hookimpl
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            calls.append(call)
            try:
                return await call.send(request, without=(self,))
            except Error as error:
                seen.append(type(error))
                raise

    calls: list[Any] = []
    begun = threading.Event()
    with ScriptedPeer([expect_request(), tell(begun), expect_end()]) as peer:
        async with world.session(limits=ONE, plugins=[Refresher()]) as session:

            async def get() -> None:
                await session.get(peer.url)

            background = world.in_background(get)
            await world.runtime().run_blocking(begun.wait, 30)
            await world.settle()
            calls[0].cancel()
            outcome = await background.outcome()
            assert type(outcome.error) is Cancelled
            assert seen == [Cancelled]


# -- Call.waiting --------------------------------------------------------------------------------------------------


class Member:
    """What waits on behalf of a call: counts how often it was aborted, and passes it on as a wake."""

    def __init__(self, wake: Callable[[], object] = lambda: None) -> None:
        self.aborts = 0
        self._wake = wake

    def abort(self) -> None:
        self.aborts += 1
        self._wake()


def a_call(runtime: Any) -> Call:
    """A call of a session that has nothing but what waits in it."""
    session: Any = SimpleNamespace(engine=SimpleNamespace(waits=Scope()), redirect_limit=0)
    return Call(session, runtime, plugwire.URL("http://peer.example/").origin, plugwire.Timeout())


@pytest.mark.parametrize("shared", [False, True])
async def test_a_member_is_reached_while_it_waits_and_not_after(world: World, shared: bool) -> None:
    call = a_call(world.runtime())
    session: Any = call.session
    race = Scope()
    for scope in (call.scope, session.engine.waits, race):
        scope.is_aborted = False
        member = Member()
        token = racing.set(race)
        try:
            with suppress(ZeroDivisionError), call.waiting(member, shared):
                assert racing.get() is (None if shared else race)
                scope.abort()
                assert member.aborts == 1
                raise ZeroDivisionError
            assert racing.get() is race
        finally:
            racing.reset(token)
        scope.abort()
        assert member.aborts == 1
        scope.is_aborted = False


@pytest.mark.parametrize("shared", [False, True])
async def test_who_comes_too_late_to_wait_is_aborted_at_once(world: World, shared: bool) -> None:
    call = a_call(world.runtime())
    call.cancel()
    member = Member()
    with call.waiting(member, shared):
        assert member.aborts == 1


def test_a_member_that_cannot_be_aborted_leaves_no_trace() -> None:
    call = a_call(blocking_runtime())
    race = Scope()
    race.abort()

    def fail() -> None:
        raise ZeroDivisionError

    member = Member(fail)
    token = racing.set(race)
    try:
        with pytest.raises(ZeroDivisionError), call.waiting(member, shared=True):
            pass
        assert racing.get() is race
    finally:
        racing.reset(token)
    call.cancel()
    assert member.aborts == 1


async def test_the_loser_of_a_race_leaves_a_shared_stream_alone(world: World) -> None:
    runtime = world.runtime()
    call = a_call(runtime)
    mine, theirs = socket_pair(runtime)
    begun = runtime.waiter()

    async def leads() -> str:
        member = Member(mine.nudge)
        with call.waiting(member, shared=True):
            begun.wake()
            while not member.aborts:
                await mine.wait(True, False, runtime.now() + 30)
        raise ConnectionAbortedError

    async def wins() -> str:
        await begun.wait(runtime.now() + 30)
        return "won"

    assert await runtime.race(leads, wins) == (1, "won")
    theirs.sendall(b"for somebody else")
    assert await mine.receive(100, runtime.now() + 10) == b"for somebody else"
    mine.close()
    theirs.close()


def test_a_road_that_another_thread_drops_changes_nothing_there() -> None:
    call = a_call(blocking_runtime())
    member = Member()
    mine, others = Scope(), Scope()

    def begin() -> None:
        racing.set(mine)
        waiting.__enter__()

    def drop() -> None:
        racing.set(others)
        waiting.__exit__(None, None, None)
        seen.append(racing.get())

    waiting = call.waiting(member, shared=True)
    seen: list[Scope | None] = []
    for step in (begin, drop):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert seen == [others]
    call.cancel()
    mine.abort()
    assert not member.aborts


# -- Scope ---------------------------------------------------------------------------------------------------------


class Held(Member):
    """Somebody's abort that another thread is in, as in one that waits for a lock: until the block is left."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self._begun, self._may_go_on = threading.Event(), threading.Event()

    def _hold(self) -> None:
        self._begun.set()
        assert self._may_go_on.wait(PATIENCE)

    @contextmanager
    def aborted_by(self, abort: Callable[[], object]) -> Iterator[None]:
        thread = threading.Thread(target=abort, daemon=True)
        thread.start()
        assert self._begun.wait(PATIENCE)
        try:
            yield
        finally:
            self._may_go_on.set()
            join_all([thread])


@pytest.mark.parametrize("whose", ["its own", "another"])
def test_who_leaves_a_scope_waits_for_no_abort_of_others(whose: str) -> None:
    """That may wait for a lock that this very thread holds: it may be in a finaliser."""
    held, member = Held(), Member()
    scope = Scope()
    scope.abort()
    theirs = scope if whose == "its own" else Scope()
    scope._members.add(ref(member))  # just now
    theirs._members.add(ref(held))
    with held.aborted_by(theirs.abort):
        in_time(lambda: scope.discard(member))
        aborts = member.aborts
    assert member.aborts == aborts


def test_who_leaves_a_scope_that_is_just_aborting_it_waits_until_it_has() -> None:
    """What was left may be somebody else's at once."""
    held, scope = Held(), Scope()
    scope.add(held)
    leaving = threading.Thread(target=scope.discard, args=(held,), daemon=True)
    with held.aborted_by(scope.abort):
        leaving.start()
        until_it_waits(leaving)
        assert leaving.is_alive()
    join_all([leaving])


def test_a_member_leaves_its_scope_in_the_midst_of_its_abort() -> None:
    """A signal handler runs anywhere in its thread."""
    scope = Scope()
    member = Member(lambda: scope.discard(member))
    scope.add(member)
    in_time(scope.abort)
    assert (member.aborts, scope._members, _hands) == (1, set(), set())


def test_a_dial_ends_while_others_of_its_call_are_being_aborted() -> None:
    """By a session that is closed in another thread: what it is in may wait for a lock that the dialling one has."""
    held, calls = Held(), Calls()
    with ExitStack() as stack:

        class Dialler:
            name, honours = "dialler", frozenset({EVERYTHING})

            def refuse(self, route: Any) -> None:
                return None

            async def dial(self, route: Any, connecting: Any) -> Any:
                calls.seen[0].scope.add(held)
                stack.enter_context(held.aborted_by(session.close))
                raise ConnectionRefusedError

        session = stack.enter_context(plugwire.Session(plugins=[calls], transports=[Dialler()]))
        with pytest.raises(SessionClosed):
            in_time(lambda: session.get("http://peer.example/"))


def test_the_collector_comes_by_where_a_scope_begins_to_abort() -> None:
    """What it ends may begin to wait, as may other threads meanwhile."""

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            scope.add(late)

    late, threshold = Member(), gc.get_threshold()
    try:
        for number in range(1, 60):
            scope, members = Scope(), [Member() for _ in range(100)]
            for member in members:
                scope.add(member)
            gc.collect()
            Garbage()
            gc.set_threshold(number)
            scope.abort()
            gc.set_threshold(*threshold)
            gc.collect()
            assert [member.aborts for member in members] == [1] * 100
    finally:
        gc.set_threshold(*threshold)
