"""Whatever ends a call or a response from our side: only this stream ends, the peer hears of it, and the connection
goes on for all others, whoever led them."""

from __future__ import annotations

import asyncio
import gc
import linecache
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, WindowUpdateFrame

import plugwire
from faces import bare as undressed
from h2_peer import Conversation, H2Peer
from plugwire import Cancelled, Error, Limits, SessionClosed, Timeout
from plugwire.runtimes.blocking_stream import BlockingStream
from plugwire.testing import PeerFailure
from plugwire.testing.faults import Faults
from plugwire_transports.http2 import receiver
from test_cancellation import Calls
from third_party.hedging import Hedging
from worlds import Background, Outcome, World, until_it_waits

H2 = ("h2",)
ONE = Limits(max_connections=1)
CANCEL = 8
CONTENT = bytes(200_000)
"""More than the windows let out at first."""


def bare(world: World, **more: Any) -> Any:
    return world.session(http_versions=H2, defaults=False, limits=ONE, **more)


async def waits_for(world: World, event: threading.Event) -> None:
    assert await world.runtime().run_blocking(event.wait, 30), "it never came"


class Stage:
    """One request, the victim, that hangs at a stage, and another one on the same connection that waits too.

    role: "leads" (the victim began to wait first), "follows" (the other one did), "alone".
    """

    def __init__(self, world: World, name: str, role: str, **session: Any) -> None:
        self.world = world
        self.name = name
        self.role = role
        self.calls = Calls()
        self.reached, self.other_came = threading.Event(), threading.Event()
        self.peer = H2Peer(self._script)
        self._session = session
        self.timeout: Any = Timeout()
        self.response: Any = None

    def _script(self, h2: Conversation) -> None:
        streams: dict[str, int] = {}
        for _ in range(1 if self.role == "alone" else 2):
            stream, fields = h2.await_headers()
            path = fields[":path"]
            streams[path] = stream
            if path == "/other":
                self.other_came.set()
                continue
            if self.name == "body":
                h2.headers(stream, [(":status", "200")])
                h2.data(stream, b"begin")
            elif self.name == "upload":
                while h2._windows[0] > 0:
                    h2.await_frame(DataFrame, stream)
            self.reached.set()
        assert h2.await_frame(RstStreamFrame, streams["/victim"]).error_code == CANCEL
        # What was under way is none of our business any more.
        if self.name == "body":
            h2.data(streams["/victim"], b"late", end_stream=True)
        if self.role != "alone":
            h2.respond(streams["/other"], 200, b"other")
        if self.name == "upload":
            h2.window_update(0, 65535)
        for _ in range(2):
            stream, fields = h2.await_headers()
            if fields[":method"] == "POST":
                h2.await_body(stream)
            h2.respond(stream, 200, b"next")

    async def victim(self) -> Any:
        if self.name == "upload":
            return await self.session.post(f"{self.peer.url}/victim", content=CONTENT, timeout=self.timeout)
        if self.name == "head":
            return await self.session.get(f"{self.peer.url}/victim", timeout=self.timeout)
        request = self.session.open_request("GET", f"{self.peer.url}/victim", timeout=self.timeout)
        self.response = await request.send()
        try:
            return await self.response.read()
        finally:
            await self.response.close()

    async def other(self) -> str:
        return (await self.session.get(f"{self.peer.url}/other")).text  # type: ignore[no-any-return]

    async def play(self, end: Callable[[Background], Any]) -> Outcome:
        """Both wait; `end` ends the victim. The other one is served, and two more over the same connection."""
        world = self.world
        with self.peer:
            async with bare(world, plugins=[self.calls], **self._session) as session:
                self.session = session
                background: Background | None = None
                other: Background | None = None
                for who in {"leads": "vo", "follows": "ov", "alone": "v"}[self.role]:
                    if who == "v":
                        background = world.in_background(self.victim)
                        await waits_for(world, self.reached)
                    else:
                        other = world.in_background(self.other)
                        await waits_for(world, self.other_came)
                    await world.settle()
                assert background is not None
                ended = end(background)
                if ended is not None:
                    await ended
                outcome = await background.outcome()
                if other is not None:
                    assert await other.result() == "other"
                assert session.stats()[:3] == (1, 1, 0)
                assert (await session.post(self.peer.url, content=b"content")).text == "next"
                assert (await session.get(self.peer.url)).text == "next"
                assert session.stats()[:3] == (1, 1, 0)
        assert self.peer.accepted == 1
        return outcome


STAGES = ("head", "upload", "body")
ROLES = ("leads", "follows", "alone")
PHASES = {"head": "head", "upload": "write", "body": "body"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", STAGES)
async def test_the_worlds_own_cancellation(world: World, name: str, role: str) -> None:
    outcome = await Stage(world, name, role).play(lambda background: background.cancel())
    if world.name == "asyncio":
        assert isinstance(outcome.error, asyncio.CancelledError)
    elif world.name == "trio":
        assert isinstance(outcome.error, trio.Cancelled)
    else:  # a task that is cancelled in the blocking world has its waits aborted
        assert isinstance(outcome.error, (Error, ConnectionAbortedError))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", STAGES)
async def test_call_cancel_from_elsewhere(world: World, name: str, role: str) -> None:
    stage = Stage(world, name, role)

    def cancel(background: Background) -> None:
        stage.calls.seen[1 if role == "follows" else 0].cancel()

    outcome = await stage.play(cancel)
    assert type(outcome.error) is Cancelled
    assert outcome.error.request is not None
    assert outcome.error.request.url.path == "/victim"
    assert (outcome.error.sent, outcome.error.phase) == (True, PHASES[name])


BUDGETS = {
    "head": {"total": plugwire.TotalTimeout, "head": plugwire.HeadTimeout, "read": plugwire.ReadTimeout},
    "upload": {"total": plugwire.TotalTimeout, "head": plugwire.HeadTimeout, "write": plugwire.WriteTimeout},
    "body": {"total": plugwire.TotalTimeout, "read": plugwire.ReadTimeout},
}
LIMIT = 20
"""Shorter than what the other one may wait, by default."""


@pytest.mark.parametrize("role", ["leads", "follows"])
@pytest.mark.parametrize(("name", "budget"), [(name, budget) for name in BUDGETS for budget in BUDGETS[name]])
async def test_a_budget_ends(world: World, name: str, budget: str, role: str) -> None:
    """Once the victim hangs where it should, the clock goes on to just before the budget's end; the rest really passes.
    So a machine under load may be as slow as it likes until then."""
    clock = Faults()
    stage = Stage(world, name, role, transports=[clock])
    stage.timeout = Timeout(**{budget: LIMIT})

    def pass_time(background: Background) -> None:
        clock.clock_ahead += LIMIT - 0.03
        (connection,) = undressed(stage.session)._engine.pool._live.values()
        for follower in list(connection._followers):  # who waits looks at the clock again
            follower.waiter.wake()
        connection.stream.nudge()

    error = (await stage.play(pass_time)).error
    assert type(error) is BUDGETS[name][budget]
    assert (error.budget, error.limit, error.phase, error.sent) == (budget, LIMIT, PHASES[name], True)
    assert error.replayable == (name != "upload")
    assert error.request is not None
    assert error.connection is not None
    assert error.connection.protocol == "HTTP/2"


@pytest.mark.parametrize("role", ROLES)
async def test_closing_a_response_elsewhere_ends_the_read(world: World, role: str) -> None:
    stage = Stage(world, "body", role)
    outcome = await stage.play(lambda background: stage.response.close())
    assert type(outcome.error) is Cancelled
    assert "closed while" in str(outcome.error)


async def test_a_response_that_is_aborted_unread_ends_its_stream(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"begin")
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        stream, _ = h2.await_headers()
        h2.respond(stream, 200, b"next")

    with H2Peer(script) as peer:
        async with bare(world) as session:
            response = await session.open_request("GET", peer.url).send()
            inner = undressed(response)
            abort = inner.abort if hasattr(inner, "abort") else inner._inner.abort
            if world.name == "blocking":
                thread = threading.Thread(target=abort)
                thread.start()
                thread.join()
            else:
                abort()
            assert session.stats()[:3] == (1, 1, 0)
            assert (await session.get(peer.url)).text == "next"


async def test_what_comes_for_a_cancelled_stream_is_given_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection's window does not shrink by what nobody reads."""
    monkeypatch.setattr(receiver, "TOP_UP", 100_000)
    came = 0

    def script(h2: Conversation) -> None:
        nonlocal came
        h2.await_frame(WindowUpdateFrame, 0)
        for _ in range(5):
            stream, _ = h2.await_headers()
            h2.headers(stream, [(":status", "200")])
            h2.data(stream, bytes(50_000))
            h2.await_frame(RstStreamFrame, stream)
            h2.data(stream, bytes(50_000))
        h2.sync()
        came = sum(frame.window_increment for frame in h2.left if isinstance(frame, WindowUpdateFrame))
        stream, _ = h2.await_headers()
        h2.respond(stream, 200, b"next")

    with H2Peer(script) as peer:
        async with bare(world) as session:
            for _ in range(5):
                async with session.stream("GET", peer.url) as response:
                    await response.read(10)
            assert (await session.get(peer.url)).text == "next"
            assert session.stats()[:3] == (1, 1, 0)
    # Frame by frame, so the last of it may be due only with the next one.
    assert 500_000 - 16384 - 100_000 < came <= 500_000


async def test_the_loser_of_a_race_ends_alone(world: World) -> None:
    """Two on one connection; the loser's request is not asked again on its way out."""
    other_came = threading.Event()

    def script(h2: Conversation) -> None:
        other, _ = h2.await_headers()
        other_came.set()
        first, _ = h2.await_headers()
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"won")
        assert h2.await_frame(RstStreamFrame, first).error_code == CANCEL
        h2.sync()
        h2.respond(other, 200, b"other")
        last, _ = h2.await_headers()
        assert len(h2.fields) == 4
        h2.respond(last, 200, b"last")

    with H2Peer(script) as peer:
        async with bare(world, plugins=[Hedging(0.001)]) as session:
            other = world.in_background(session.post, peer.url)  # not hedged
            await waits_for(world, other_came)
            assert (await session.get(peer.url)).text == "won"
            assert (await other.result()).text == "other"
            assert (await session.post(peer.url)).text == "last"
            assert session.stats()[:3] == (1, 1, 0)
        assert peer.accepted == 1


# -- the session's end ---------------------------------------------------------------------------------------------


async def test_closing_the_session_wakes_all(world: World) -> None:
    """Heads pending, bodies half read, uploads that wait for window, and one that waits in the pool."""
    _bodies, uploads = threading.Event(), threading.Event()

    def script(h2: Conversation) -> None:
        known, _ = h2.await_headers()
        h2.respond(known)
        for _ in range(5):
            stream, fields = h2.await_headers()
            if fields[":path"] == "/body":
                h2.headers(stream, [(":status", "200")])
                h2.data(stream, b"begin")
        while h2._windows[0] > 0:
            h2.await_frame(DataFrame)
        uploads.set()
        h2.await_end()

    with H2Peer(script, settings={"max_concurrent_streams": 5}) as peer:
        async with bare(world) as session:
            await session.get(peer.url)

            async def body() -> None:
                async with session.stream("GET", f"{peer.url}/body") as response:
                    assert await response.read(5) == b"begin"
                    await response.read()

            begun = [
                world.in_background(session.get, f"{peer.url}/head"),
                world.in_background(session.get, f"{peer.url}/head"),
                world.in_background(body),
                world.in_background(body),
            ]
            await world.settle()
            begun.append(world.in_background(lambda: session.post(f"{peer.url}/upload", content=CONTENT)))
            await waits_for(world, uploads)
            begun.append(world.in_background(session.get, f"{peer.url}/pool"))
            await world.settle()
            assert session.stats()[:3] == (1, 0, 1)
            await session.close()
            outcomes = [await one.outcome() for one in begun]
            assert [type(outcome.error) for outcome in outcomes] == [SessionClosed] * 6
            assert session.stats()[:3] == (0, 0, 0)
        assert peer.accepted == 1


async def test_closing_the_session_under_responses_that_nobody_reads(world: World) -> None:
    def script(h2: Conversation) -> None:
        for _ in range(2):
            stream, _ = h2.await_headers()
            h2.headers(stream, [(":status", "200")])
            h2.data(stream, b"begin")
        h2.await_end()

    with H2Peer(script) as peer:
        async with bare(world) as session:
            responses = [await session.open_request("GET", peer.url).send() for _ in range(2)]
            assert await responses[0].read(2) == b"be"
            await session.close()
            for response in responses:
                with pytest.raises(SessionClosed):
                    await response.read()
            assert session.stats()[:3] == (0, 0, 0)


# -- what is dropped -----------------------------------------------------------------------------------------------


async def test_a_response_that_is_dropped_unread_ends_its_stream(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"begin")
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        stream, _ = h2.await_headers()
        h2.respond(stream, 200, b"next")

    with H2Peer(script) as peer:
        async with bare(world) as session:
            response = await session.open_request("GET", f"{peer.url}/dropped").send()
            with pytest.warns(ResourceWarning, match=r"GET http://.*/dropped was dropped without close"):
                del response
                gc.collect()
            assert (await session.get(peer.url)).text == "next"
            assert session.stats()[:3] == (1, 1, 0)


@pytest.mark.parametrize("step", ["read_now", "write_now", "feed", "consumed", "take"])
async def test_a_response_that_is_dropped_inside_of_a_step(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector comes by in the middle of a step of the same thread: the bytes of both stay whole and in order."""
    dropped: list[Any] = []

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"begin")
        other, _ = h2.await_headers()
        h2.headers(other, [(":status", "200")])
        h2.data(other, bytes(900_000), end_stream=True)
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        last, _ = h2.await_headers()
        h2.respond(last, 200, b"last")

    with H2Peer(script) as peer:
        async with bare(world) as session:
            dropped.append(await session.open_request("GET", f"{peer.url}/dropped").send())
            (connection,) = undressed(session)._engine.pool._live.values()
            place = connection.stream if step in ("read_now", "write_now") else connection._wire
            original = getattr(type(place), step)

            def dropping(self: Any, *args: Any) -> Any:
                if step == "write_now":  # half of it is out
                    data = bytes(args[0])
                    original(self, data[:5])
                    drop()
                    return original(self, data[5:])
                result = original(self, *args)
                drop()
                return result

            def drop() -> None:
                if dropped:
                    with pytest.warns(ResourceWarning, match="dropped without close"):
                        dropped.clear()
                        gc.collect()

            monkeypatch.setattr(type(place), step, dropping)
            response = await session.get(f"{peer.url}/other")
            assert len(response.content) == 900_000
            monkeypatch.undo()
            assert not dropped
            assert (await session.get(peer.url)).text == "last"
            assert session.stats()[:3] == (1, 1, 0)


# -- the blocking world: interrupts ----------------------------------------------------------------------------------


class Interrupt(BaseException):
    """As a signal handler raises it: between any two bytecodes."""


def in_thread(
    session: plugwire.Session, url: str, begun: threading.Event | None = None
) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def ask() -> None:
        if begun is not None:
            begun.set()
        try:
            results.append(session.get(url).text)
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, results


def test_a_signal_that_interrupts_the_leader_hands_the_lead_over() -> None:
    came, all_came = threading.Event(), threading.Event()

    def script(h2: Conversation) -> None:
        leader, _ = h2.await_headers()
        came.set()
        others = [h2.await_headers()[0] for _ in range(2)]
        all_came.set()
        assert h2.await_frame(RstStreamFrame, leader).error_code == CANCEL
        for stream in others:
            h2.respond(stream, 200, b"other")
        last, _ = h2.await_headers()
        h2.respond(last, 200, b"last")

    def on_signal(number: int, frame: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, on_signal)
    threads: list[tuple[threading.Thread, list[Any]]] = []
    try:
        with H2Peer(script) as peer, plugwire.Session(http_versions=H2, limits=ONE) as session:

            def interrupt() -> None:
                came.wait(30)
                threads.extend(in_thread(session, peer.url) for _ in range(2))
                all_came.wait(30)
                for thread, _ in threads:
                    until_it_waits(thread)
                os.kill(os.getpid(), signal.SIGUSR1)

            helper = threading.Thread(target=interrupt, daemon=True)
            helper.start()
            with pytest.raises(Interrupt):
                session.get(peer.url)
            helper.join(30)
            for thread, results in threads:
                thread.join(30)
                assert results == ["other"]
            assert session.get(peer.url).text == "last"
            assert session.stats()[:3] == (1, 1, 0)
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupting(k: int, files: tuple[str, ...]) -> tuple[Callable[..., Any], list[str]]:
    """A trace function that raises at the k-th line of these files, once, and where it did.

    Not in lines that begin with "with" or "try:". There a trace can raise where no signal handler can: between the end
    of a `with` block and its `__exit__`, and in the NOP of a `try`, which no handler covers. The lock would stay held.
    """
    left = k
    struck: list[str] = []

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(files):
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not struck and not line.lstrip().startswith(("with ", "try:")):
            left -= 1
            if not left:
                struck.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
                raise Interrupt
        return trace

    return trace, struck


@pytest.mark.parametrize(
    ("path", "role"), [("/slow", "leads"), ("/slow", "follows"), ("/quick", "follows"), ("/upload", "leads")]
)
def test_an_interrupt_at_any_line_leaves_nobody_waiting(path: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is interrupted at every line of the connection in turn, while another one waits on it; it is either
    served or told that the connection is gone, and the session works on."""
    files = ("http2/connection.py", "http2/sharing.py", "http2/exchange.py", "http2/body.py")

    def serving(h2: Conversation) -> None:
        h2.answers = True
        slow: list[int] = []
        try:
            h2.handshake()
            while True:
                h2._read_frame("a request")
                frame = h2.received[-1]
                if isinstance(frame, DataFrame) and frame.flow_controlled_length:
                    h2.window_update(0, frame.flow_controlled_length)
                    if "END_STREAM" not in frame.flags:
                        h2.window_update(frame.stream_id, frame.flow_controlled_length)
                if isinstance(frame, RstStreamFrame) and frame.stream_id in slow:
                    slow.remove(frame.stream_id)
                if isinstance(frame, (HeadersFrame, DataFrame)) and "END_STREAM" in frame.flags:
                    is_slow = dict(h2.fields[frame.stream_id])[":path"] == "/slow"
                    if is_slow:
                        slow.append(frame.stream_id)
                    else:
                        h2.respond(frame.stream_id, 200, b"quick")
                    if len(slow) > (path == "/slow") or not is_slow:
                        for one in slow:
                            h2.respond(one, 200, b"slow")
                        slow.clear()
        except (PeerFailure, OSError):
            h2.connection.is_closed = True

    threads: list[tuple[threading.Thread, list[Any]]] = []
    original = BlockingStream.wait

    def company() -> None:
        """The other one, who waits."""
        begun = threading.Event()
        thread, results = in_thread(session, f"{peer.url}/slow", begun)
        begun.wait(10)
        until_it_waits(thread)
        threads.append((thread, results))

    async def with_company(self: BlockingStream, read: bool, write: bool, at: float) -> None:
        if not threads and threading.current_thread() is threading.main_thread():
            company()
        await original(self, read, write, at)

    places = set()
    with H2Peer(serving, repeat=True, handshake=False) as peer:
        for k in range(1, 1000):
            with plugwire.Session(http_versions=H2, defaults=False, timeout=Timeout(read=20)) as session:
                session.get(f"{peer.url}/known")
                threads.clear()
                if role == "follows":
                    company()
                else:
                    monkeypatch.setattr(BlockingStream, "wait", with_company)
                trace, struck = interrupting(k, files)
                sys.settrace(trace)
                try:
                    if path == "/upload":
                        session.post(peer.url + path, content=CONTENT[:70_000])
                    else:
                        with session.stream("GET", peer.url + path) as response:
                            response.read()
                except (Interrupt, Error):
                    pass
                finally:
                    sys.settrace(None)
                    monkeypatch.undo()
                places.update(struck)
                assert session.get(f"{peer.url}/next").text == "quick"
                for thread, results in threads:
                    # This makes the peer answer, also if the other one had to ask again on a new connection.
                    for _ in range(100):
                        session.get(f"{peer.url}/next")
                        thread.join(0.05)
                        if not thread.is_alive():
                            break
                    assert not thread.is_alive(), struck
                    if results != ["slow"]:
                        assert isinstance(results[0], (plugwire.ConnectionClosed, plugwire.ReadError)), struck
                assert (session.stats().waiting, session.stats().open) == (0, session.stats().idle), struck
            if not struck:
                break
    assert len(places) > 100
