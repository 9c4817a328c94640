"""The life of a session: opened once, derived, leased from, forked, closed."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import threading
from typing import Any

import pytest
import trio

import plugwire
from faces import bare as undressed
from plugwire import Busy, Headers, Limits, NetworkError, Response, SessionClosed, UsageError, hookimpl
from plugwire.call import Scope
from plugwire.events import Close, Open
from plugwire.runtimes import current_async_runtime
from plugwire.testing import MockTransport, ScriptedPeer, Server
from plugwire.testing.peer import close, expect_end, expect_head, expect_request, send, wait_for
from plugwire_plugins import Retries, RetryPolicy
from worlds import PATIENCE, World

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Life:
    """Writes its life into `log`; fails where it is told to."""

    def __init__(self, name: str, log: list[str], fails: str = "") -> None:
        self.name = name
        self.log = log
        self.fails = fails

    def note(self, what: str) -> None:
        self.log.append(f"{what} {self.name}")
        if what == self.fails:
            raise ValueError(f"{what} {self.name}")

    @plugwire.hookimpl
    async def session_opened(self, session: Any) -> None:
        await session.runtime.turn()
        self.note("opened")

    @plugwire.hookimpl
    async def session_closed(self, session: Any) -> None:
        self.note("closed")


# -- opened, closed ------------------------------------------------------------------------------------------------


async def test_opened_once_before_the_first_request_and_closed_in_reverse_order(world: World) -> None:
    log: list[str] = []
    with Server() as server:
        async with world.session(plugins=[Life("a", log), Life("b", log)]) as session:
            assert log == []

            async def call() -> None:
                await session.get(f"{server.url}/hello")
                assert log == ["opened a", "opened b"]

            await world.gather(*[call] * 10)
        assert log == ["opened a", "opened b", "closed b", "closed a"]
        await session.close()
        assert log[4:] == []


async def test_a_session_that_was_never_used_is_never_opened(world: World) -> None:
    log: list[str] = []
    async with world.session(plugins=[Life("a", log)]) as session:
        assert session.stats() == (0, 0, 0, {})
    assert log == []


async def test_stats_of_a_session_before_its_first_await(world: World) -> None:
    session = world.session()
    assert session.stats() == (0, 0, 0, {})
    await session.close()


async def test_who_cannot_be_opened_fails_the_call_and_those_before_it_are_closed(world: World) -> None:
    log: list[str] = []
    plugins = [Life("a", log), Life("b", log, fails="opened"), Life("c", log)]
    with Server() as server:
        async with world.session(plugins=plugins) as session:
            with pytest.raises(ValueError, match="opened b"):
                await session.get(server.url)
            assert log == ["opened a", "opened b", "closed a"]
            plugins[1].fails = ""
            await session.get(f"{server.url}/hello")
            assert log[3:] == ["opened a", "opened b", "opened c"]
            log.clear()
        assert log == ["closed c", "closed b", "closed a"]


async def test_an_error_at_the_end_does_not_keep_the_others_from_closing(world: World) -> None:
    log: list[str] = []
    with Server() as server:
        session = world.session(plugins=[Life("a", log), Life("b", log, fails="closed")])
        await session.get(f"{server.url}/hello")
        with pytest.raises(ValueError, match="closed b"):
            await session.close()
        assert log[2:] == ["closed b", "closed a"]
        assert session.is_closed
        assert session.stats()[:3] == (0, 0, 0)
        await session.close()


async def test_a_session_that_is_closed_while_it_opens_is_closed(world: World) -> None:
    log: list[str] = []
    reached = threading.Event()

    class Slow(Life):
        @plugwire.hookimpl
        async def session_opened(self, session: Any) -> None:
            self.note("opened")
            self.waiter = session.runtime.waiter()
            reached.set()
            await self.waiter.wait(float("inf"))

    slow = Slow("slow", log)
    session = world.session(plugins=[slow])
    background = world.in_background(session.get, "http://127.0.0.1:9/")
    await world.settle()
    assert reached.is_set()
    closing = world.in_background(session.close)
    await world.settle()
    slow.waiter.wake()
    await closing.result()
    outcome = await background.outcome()
    assert type(outcome.error) is SessionClosed
    assert log == ["opened slow", "closed slow"]


async def test_nothing_works_after_the_end(world: World) -> None:
    with Server() as server:
        session = world.session()
        handle = await session.connect(server.url)
        request = handle.open_request("GET", "/hello")
        derived = session.derive(headers={"x": "y"})
        await session.close()
        assert session.is_closed
        assert derived.is_closed
        for call in (
            lambda: session.get(server.url),
            lambda: derived.get(server.url),
            lambda: session.connect(server.url),
            lambda: request.send(),
            lambda: session.open_request("GET", server.url).send(),
        ):
            with pytest.raises(SessionClosed):
                await call()
        await handle.close()
        await session.close()
        assert session.stats()[:3] == (0, 0, 0)


async def test_leaving_the_session_closes_what_is_open_in_any_state(world: World) -> None:
    go_on = threading.Event()
    half = [expect_request(), send(OK[:-1]), expect_end()]
    with ScriptedPeer(half, half, [expect_request(), send(OK), expect_end()]) as peer:
        async with world.session() as session:
            unread = await session.open_request("GET", peer.url).send()
            begun = await session.open_request("GET", peer.url).send()
            assert await begun.read(1) == b"o"
            await session.get(peer.url)
            assert session.stats()[:3] == (3, 1, 0)
        assert peer.wait_closed()
        assert session.stats()[:3] == (0, 0, 0)
        for response in (unread, begun):
            with pytest.raises(SessionClosed):
                await response.read()
        go_on.set()


async def test_a_session_that_is_dropped_is_warned_of_and_closes_its_connections(world: World) -> None:
    with Server() as server:
        session = world.session()
        await session.get(f"{server.url}/hello")
        with pytest.warns(ResourceWarning, match="dropped without close"):
            del session
        assert server.wait_closed()


@pytest.mark.parametrize("run", [lambda main: asyncio.run(main()), trio.run], ids=["asyncio", "trio"])
@pytest.mark.filterwarnings("ignore:.*dropped without close:ResourceWarning")
def test_a_session_that_is_collected_in_another_thread_ends_its_readers(run: Any) -> None:
    ends: list[bool] = []

    async def main() -> None:
        session = plugwire.AsyncSession(timeout=PATIENCE * 2)
        response = await session.open_request("GET", peer.url).send()
        assert await response.read(2) == b"ok"

        async def reads() -> None:
            with pytest.raises(SessionClosed):
                await response.read(5)
            ends.append(True)

        runtime = current_async_runtime()
        reader = runtime.start(reads)
        for _ in range(3):
            await runtime.turn()
        gc.disable()  # or the collector comes before the other thread asks for it
        try:
            cycle: list[Any] = [session]
            cycle.append(cycle)
            del session, cycle
            collector = threading.Thread(target=gc.collect, daemon=True)
            collector.start()
            collector.join(PATIENCE)
        finally:
            gc.enable()
        await reader.join()

    part = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok"
    with ScriptedPeer([expect_request(), send(part), lambda connection: connection.read_end()]) as peer:
        thread = threading.Thread(target=run, args=(main,), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the reader hears nothing"
    assert ends


async def test_open_and_close_of_connections_are_told_once_each(world: World) -> None:
    told: list[Any] = []

    class Watcher:
        events = (Open, Close)

        @plugwire.hookimpl
        def observe(self, event: Any) -> None:
            told.append((type(event).__name__, event.connection.id))

    with ScriptedPeer([expect_request(), send(OK), close()], [expect_request(), send(OK), expect_end()]) as peer:
        async with world.session(plugins=[Watcher()]) as session:
            await session.get(peer.url)
            assert peer.wait_closed()
            await session.get(peer.url)
    (_, one), _, (_, two), _ = told
    assert told == [("Open", one), ("Close", one), ("Open", two), ("Close", two)]


# -- derived -------------------------------------------------------------------------------------------------------


async def test_a_derived_session_shares_the_pool_and_closes_nothing(world: World) -> None:
    with Server() as server:
        async with world.session(headers={"x-one": "1"}) as session:
            async with session.derive(headers={"x-two": "2"}, base_url=server.url) as derived:
                echo = (await derived.get("/echo")).json()
                assert {"x-one", "x-two"} <= {name.lower() for name, _ in echo["headers"]}
            assert not session.is_closed
            response = await session.get(f"{server.url}/echo")
            assert response.connection.reused
            assert "x-two" not in {name.lower() for name, _ in response.json()["headers"]}


@pytest.mark.parametrize(
    ("base_url", "stays"),
    [
        ("https://a.example/v2", True),
        ("https://b.example/", False),
        ("http://a.example/", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
async def test_a_derived_session_inherits_no_secrets_for_another_origin(
    world: World, base_url: str | None, stays: bool, is_open: bool
) -> None:
    class Keyed:
        @hookimpl
        async def session_opened(self, session: Any) -> None:
            session.headers["Cookie"] = "of a.example"

    mock = MockTransport(lambda request: Response(200))
    headers = Headers({"X-Key": "secret", "X-Plain": "1"})
    headers.secret |= {"x-key"}
    given: Any = {"base_url": "https://a.example/v1", "headers": headers, "auth": ("user", "secret")}
    async with world.session(transports=[mock], plugins=[Keyed()], **given) as session:
        if is_open:
            await session.get("/")
        url = f"{base_url or 'https://b.example'}/x"
        await session.derive(base_url=base_url).get(url)
        names = {name.lower() for name in mock.calls[-1].headers}
        secrets = {"x-key", "cookie", "authorization"}
        assert names & {*secrets, "x-plain"} == {"x-plain", *(secrets if stays else ())}
        own: Any = {"auth": ("user", "of b"), "headers": {"X-Key": "of b"}}
        await session.derive(base_url=base_url, **own).get(url)
        assert {"x-key", "authorization"} <= {name.lower() for name in mock.calls[-1].headers}


async def test_derive_refuses_what_belongs_to_the_pool(world: World) -> None:
    async with world.session() as session:
        with pytest.raises(TypeError, match="limits"):
            session.derive(limits=Limits())


# -- leases --------------------------------------------------------------------------------------------------------


async def test_connect_dials_at_once(world: World) -> None:
    with Server() as server:
        async with world.session() as session:
            async with await session.connect(server.url) as connection:
                assert connection.info is not None
                assert session.stats()[:3] == (1, 0, 0)
                for _ in range(2):
                    response = await connection.open_request("GET", "/hello").send()
                    assert response.connection.id == connection.info.id
                    await response.read()
                assert session.stats()[:3] == (1, 0, 0), "between its requests it is still leased"
            assert session.stats()[:3] == (1, 1, 0)
            assert (await session.get(f"{server.url}/hello")).connection.reused
    async with world.session() as session:
        with pytest.raises(NetworkError):
            await session.connect(server.url)
        assert session.stats()[:3] == (0, 0, 0)


async def test_a_leased_connection_has_one_open_request(world: World) -> None:
    with Server() as server:
        async with world.session() as session, await session.connect(server.url) as connection:
            response = await connection.open_request("GET", "/bytes/1000000").send()
            with pytest.raises(Busy):
                await connection.open_request("GET", "/hello").send()
            assert len(await response.read()) == 1_000_000
            assert (await connection.open_request("GET", "/hello").send()).ok


async def test_a_handle_dials_again_if_the_peer_closed_in_between(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK), close()], [expect_request(), send(OK)]) as peer:
        async with world.session() as session, await session.connect(peer.url) as connection:
            await (await connection.open_request("GET").send()).read()
            assert peer.wait_closed()
            response = await connection.open_request("POST").send()
            assert await response.read() == b"ok"
            assert session.stats()[:3] == (1, 0, 0)


async def test_a_handle_replays_by_the_rule_of_the_pool(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK), expect_request(), close()], [expect_request(), send(OK)]) as peer:
        async with world.session(limits=Limits(max_connections=1)) as session:
            async with await session.connect(peer.url) as connection:
                await (await connection.open_request("GET").send()).read()
                assert await (await connection.open_request("GET").send()).read() == b"ok"
            assert session.stats()[:3] == (1, 1, 0)


async def test_a_handle_that_is_closed_under_its_request_gives_the_connection_back_afterwards(world: World) -> None:
    go_on = threading.Event()
    with ScriptedPeer([expect_head(), send(OK[:-2]), wait_for(go_on), send(b"ok")]) as peer:
        async with world.session() as session:
            connection = await session.connect(peer.url)
            response = await connection.open_request("GET").send()
            await connection.close()
            await connection.close()
            assert session.stats()[:3] == (1, 0, 0)
            go_on.set()
            await response.read()
            assert session.stats()[:3] == (1, 1, 0)
            with pytest.raises(UsageError):
                await connection.open_request("GET").send()


async def test_a_handle_that_is_dropped_gives_its_place_back(world: World) -> None:
    with Server() as server:
        async with world.session(limits=Limits(max_connections=1)) as session:
            connection = await session.connect(server.url)
            assert connection.info is not None
            del connection
            assert (await session.get(f"{server.url}/hello")).ok


# -- fork ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["http/1.1", "h2"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("is_reading", [False, True])
def test_after_a_fork_the_child_starts_with_an_empty_pool(tls: bool, is_reading: bool, version: str) -> None:
    limits = Limits(max_connections=2)
    with (
        Server(tls=tls, http_versions=(version,)) as server,
        plugwire.Session(limits=limits, http_versions=(version,)) as session,
    ):
        options: Any = {"tls": server.tls_config} if tls else {}
        mine = session.get(f"{server.url}/hello", **options).connection
        assert mine is not None
        response = session.open_request("GET", f"{server.url}/bytes/500000", **options).send() if is_reading else None
        if response is not None:
            response.read(10)
            session.get(f"{server.url}/hello", **options)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(60)
            says = b"failed"
            try:
                stats = session.stats()[:3]
                theirs = session.get(f"{server.url}/hello", **options).connection
                if stats == (0, 0, 0) and theirs is not None and not theirs.reused:
                    says = b"ok"
                session.close()
            except BaseException as error:
                says = repr(error).encode()
            finally:
                os.write(writing, says)
                os._exit(0)
        os.close(writing)
        try:
            said = os.read(reading, 1000)
        finally:
            os.close(reading)
            os.waitpid(child, 0)
        assert said == b"ok"
        # What the child did to its copies has said nothing to the peer.
        if response is not None:
            assert len(response.read()) == 500_000 - 10
        after = session.get(f"{server.url}/hello", **options).connection
        assert after is not None
        assert after.reused


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_a_thread_of_the_parent_holds_hinders_nobody_in_the_child() -> None:
    """Another thread has the lock of a shared connection at the moment of the fork; in the child it never lets go."""
    with Server(http_versions=("h2",)) as server, plugwire.Session(http_versions=("h2",)) as session:
        responses = [session.open_request("GET", f"{server.url}/bytes/500000").send()]
        (connection,) = session.view.engine.pool._live.values()
        is_held, is_over = threading.Event(), threading.Event()

        def hold() -> None:
            with connection.lock:  # type: ignore[attr-defined]
                is_held.set()
                is_over.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        assert is_held.wait(30)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            says = b"failed"
            try:
                assert connection.is_closed
                assert connection.stream._sock.fileno() == -1, "the parent's descriptor is kept open"  # type: ignore[attr-defined]
                responses.clear()
                says = b"ok"
            except BaseException as error:
                says = repr(error).encode()
            finally:
                os.write(writing, says)
                os._exit(0)
        is_over.set()
        os.close(writing)
        try:
            said = os.read(reading, 1000) if select.select([reading], [], [], 20)[0] else b"it hangs"
        finally:
            os.close(reading)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            thread.join()
        assert said == b"ok"
        assert len(responses[0].read()) == 500_000


class Keeper:
    """Keeps a lock for the session, which is taken when the process is forked."""

    class Kept:
        def __init__(self, runtime: object) -> None:
            self.after_fork()

        def after_fork(self) -> None:
            self.lock = threading.Lock()

    def __init__(self) -> None:
        self.kept: Any = None

    @hookimpl
    async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
        self.kept = call.session.state(self, Keeper.Kept)
        assert self.kept.lock.acquire(blocking=False)
        try:
            return await call_next(request)
        finally:
            self.kept.lock.release()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_what_plugins_keep_is_told_of_a_fork() -> None:
    keeper = Keeper()
    mock = MockTransport({"/": [plugwire.Response(503), plugwire.Response(200)] * 2})
    retries = Retries(policy=RetryPolicy(backoff=0))
    with plugwire.Session(plugins=[keeper, retries], transports=[mock]) as session:
        assert session.get("http://h/").ok
        buckets = session.view.engine.state(retries, lambda runtime: None)
        with keeper.kept.lock, buckets._lock:  # type: ignore[attr-defined]  # of that plugin
            child = os.fork()
            if not child:
                signal.alarm(20)
                status = 1
                try:
                    status = 0 if session.get("http://h/").ok else 2
                finally:
                    os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def _get(session: Any, url: str) -> None:
    await session.get(url)


@pytest.mark.parametrize("run", [lambda *work: asyncio.run(work[0](*work[1:])), trio.run], ids=["asyncio", "trio"])
def test_an_async_session_belongs_to_the_loop_of_its_first_await(run: Any) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        session = plugwire.AsyncSession()
        run(_get, session, peer.url)
        with pytest.raises(plugwire.UsageError, match="another event loop"):
            run(_get, session, peer.url)
        run(session.close)


async def test_a_response_gives_nothing_after_its_session_was_closed(world: World) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500
    with ScriptedPeer([expect_request(), send(head)]) as peer:
        async with world.session() as session:
            response = await session.open_request("GET", peer.url).send()
            assert await response.read(10) == b"x" * 10
        with pytest.raises(plugwire.SessionClosed):
            await response.read(10)


@pytest.mark.parametrize("trouble", ["others add", "one raises"])
async def test_a_session_ends_all_that_is_under_way_whatever_stands_in_the_way(world: World, trouble: str) -> None:
    """Other threads add to what is unread while it is listed; something of a plugin's cannot be aborted."""

    class Unread(list[Any]):
        changes = 3

        def __iter__(self) -> Any:
            if self.changes:
                self.changes -= 1
                raise RuntimeError("Set changed size during iteration")
            return super().__iter__()

    class Bad:
        def abort(self) -> None:
            raise ValueError("bad")

    with Server() as server:
        session = world.session()
        response = await session.open_request("GET", f"{server.url}/bytes/300000").send()
        engine = undressed(session)._engine
        waiting = Scope()
        engine.waits.add(waiting)
        if trouble == "others add":
            engine._bodies = Unread(engine._bodies)
            await session.close()
        else:
            engine._bodies = [Bad()]
            with pytest.raises(ValueError, match="bad"):
                await session.close()
        assert waiting.is_aborted
        assert session.stats()[:3] in ((0, 0, 0), (1, 0, 0))
        with pytest.raises(SessionClosed):
            await response.read()
        assert session.stats()[:3] == (0, 0, 0)
