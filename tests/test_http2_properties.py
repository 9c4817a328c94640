"""One HTTP/2 connection, shared by many, in every order of events: whatever peers, callers and the network do and in
whatever order, each gets what is its own, nobody is forgotten, and nothing is left over.

On the stage of `h2_puppet` everything that happens is a step that hypothesis chooses: which task runs, how many bytes
arrive, which frame the peer sends next, who is cancelled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
from hyperframe.frame import SettingsFrame
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import plugwire
from h2_puppet import Cancelled, PuppetPeer, Stage, Task, Wait
from plugwire import Limits, Timeout
from plugwire.pool_table import COMPANY
from plugwire_transports.http2 import connection as http2
from plugwire_transports.http2 import sharing
from plugwire_transports.http2.wire import Wire

SCALE = int(os.environ.get("PLUGWIRE_SOAK", "1"))
"""PLUGWIRE_SOAK=100 runs a hundred times as long."""

MAX_STREAMS = SettingsFrame.MAX_CONCURRENT_STREAMS
WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE
SIZES = (0, 1, 60, 400, 3000)


@pytest.fixture(autouse=True)
def no_company() -> None:
    """Here are tests of who dials beside a slow scout."""


def content(path: str) -> bytes:
    """What is at a path like no other, in size and bytes."""
    number = int(path.rpartition("/")[2])
    size = SIZES[number % len(SIZES)] + number
    return ((path + ".") * (size // len(path) + 1)).encode()[:size]


def pieces(path: str) -> list[bytes]:
    """What is sent there."""
    whole = b"up" + content(path) * 2
    return [whole[i : i + 97] for i in range(0, len(whole), 97)]


@contextmanager
def scaled(stream_window: int, unsent: int, join: int, read: int) -> Iterator[None]:
    """The same code with small numbers, so that every limit is met often."""
    with (
        patch.object(sharing, "Wire", partial(Wire, stream_window=stream_window)),
        patch.object(sharing, "UNSENT_AT_MOST", unsent),
        patch.object(http2, "JOIN_UP_TO", join),
        patch.object(sharing, "READ_SIZE", read),
        patch.object(sharing, "READ_AT_ONCE", 2 * read),
    ):
        yield


class Pieces:
    """Content for an upload; whoever sends it may be suspended before each piece."""

    def __init__(self, path: str) -> None:
        self._left = pieces(path)

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)


class Play:
    """What is played on a stage: users of one session, and what is known of each of them."""

    def __init__(self, stage: Stage, stream_window: int) -> None:
        self.stage = stage
        self.stream_window = stream_window
        self.users: dict[str, Task] = {}
        self.permits: dict[str, int] = {}
        self.consumed: dict[str, int] = {}
        self.excused: set[str] = set()  # those to whom something was done
        self.responses: dict[str, Any] = {}
        self.is_last_act = False

    # -- the users

    async def _get(self, path: str) -> None:
        response = await self.stage.session.get(f"http://host{path}")
        self._is_own(path, response)
        assert response.content == content(path)

    async def _timed(self, path: str) -> None:
        response = await self.stage.session.get(f"http://host{path}", timeout=Timeout(total=5))
        assert response.content == content(path)

    async def _post(self, path: str) -> None:
        response = await self.stage.session.post(f"http://host{path}", content=b"".join(pieces(path)))
        self._is_own(path, response)
        assert response.content == content(path)

    async def _upload(self, path: str) -> None:
        response = await self.stage.session.put(f"http://host{path}", content=Pieces(path))
        self._is_own(path, response)
        assert response.content == content(path)

    async def _slow(self, path: str) -> None:
        async with self.stage.session.stream("GET", f"http://host{path}") as response:
            self._is_own(path, response)
            self.responses[path] = response
            whole = b""
            while True:
                await self._permit(path)
                part = await response.read(50)
                whole += part
                self.consumed[path] = len(whole)
                assert content(path).startswith(whole)
                if not part:
                    break
            assert whole == content(path)

    async def _leaver(self, path: str) -> None:
        async with self.stage.session.stream("GET", f"http://host{path}") as response:
            self._is_own(path, response)
            await self._permit(path)
            part = await response.read(30)
            self.consumed[path] = len(part)
            assert content(path).startswith(part)

    async def _permit(self, path: str) -> None:
        await Wait(lambda: self.permits.get(path, 0) > 0 or self.is_last_act)
        self.permits[path] = self.permits.get(path, 0) - 1

    def _is_own(self, path: str, response: Any) -> None:
        assert response.headers["x-path"] == path

    def begin(self, which: int) -> None:
        kinds: list[Callable[[str], Any]] = [
            self._get, self._slow, self._post, self._upload, self._leaver, self._timed, self._get, self._slow
        ]  # fmt: skip
        kind = kinds[which % len(kinds)]
        path = f"/{kind.__name__[1:]}/{len(self.users)}"
        self.consumed[path] = 0
        if any(peer.has_closed and peer.stream and not peer.stream.is_closed for peer in self.stage.peers):
            self.excused.add(path)  # it may run into the close
        if kind == self._upload and any(peer.goaway is not None for peer in self.stage.peers):
            self.excused.add(path)  # it may run into the GOAWAY, and cannot be sent again
        self.users[path] = self.stage.start(kind(path))

    # -- what may happen

    def act(self, what: str, one: int, two: int) -> None:
        stage = self.stage
        peers = [peer for peer in stage.peers if not peer.has_closed]
        peer = peers[one % len(peers)] if peers else None
        path = list(self.users)[one % len(self.users)] if self.users else ""
        if what == "begin":
            self.begin(one)
        elif what == "run":
            runnable = stage.runnable
            if runnable:
                stage.step(runnable[one % len(runnable)])
        elif what == "settle":
            stage.settle()
            self.check()
        elif what == "cancel" and path:
            self.excused.add(path)
            stage.cancel(self.users[path])
        elif what == "cancel call" and path in stage.calls.of:
            self.excused.add(path)
            stage.calls.of[path].cancel()
        elif what == "close response" and path in self.responses:
            self.excused.add(path)
            self.responses[path].abort()
        elif what == "permit" and path:
            self.permits[path] = self.permits.get(path, 0) + 1 + two % 3
        elif what == "time":
            stage.now += two % 4
        elif peer is not None:
            self._act_of_peer(peer, what, one, two)

    def _act_of_peer(self, peer: PuppetPeer, what: str, one: int, two: int) -> None:
        sides = peer.open
        side = sides[two % len(sides)] if sides else None
        if what == "deliver":
            peer.deliver(1 + two * 7 % 900)
        elif what == "take":
            peer.take(1 + two * 11 % 700)
        elif what == "settings":
            value = {MAX_STREAMS: 1 + one % 5} if two % 3 else {WINDOW: one * 37 % 500}
            peer.settings(value)
        elif what == "ping":
            peer.ping()
        elif what == "widen":
            peer.widen(side if two % 3 else None, 1 + one * 13 % 600)
        elif what == "goaway" and one % 4 == 0:
            last = max(peer.streams, default=0) - 2 * (two % 3)
            self._excuse([side for side in peer.streams.values() if side.is_complete is False or side.has_head])
            # What can be sent only once cannot be asked again.
            self.excused |= {path for path, task in self.users.items() if "upload" in path and not task.is_done}
            peer.leave(max(last, 0))
        elif what == "close" and one % 4 == 1:
            self._excuse(peer.streams.values())
            self._excuse_all_on(peer)
            peer.close()
        elif side is not None:
            if what == "answer" and (side.is_complete or one % 6 == 0):
                if not side.is_complete:
                    self._excuse([side])
                peer.answer(side, 1 + one * 29 % 800)
            elif what == "reset":
                self._excuse([side])
                peer.reset(side, (7, 8, 2)[one % 3])

    def _excuse(self, sides: Any) -> None:
        for side in sides:
            self.excused.add(side.fields[":path"])

    def _excuse_all_on(self, peer: PuppetPeer) -> None:
        """A close reaches those whose request is still on its way, too."""
        self.excused |= {path for path, task in self.users.items() if not task.is_done}

    # -- what must hold

    def check(self) -> None:
        """When everybody waits: nobody waits for what is there, and no window is wider than it may be."""
        for peer in self.stage.peers:
            for side in peer.streams.values():
                path = side.fields[":path"]
                if path.startswith(("/slow", "/leaver")) and not side.is_over:
                    unread = side.given - self.consumed[path]
                    assert side.send_window + unread <= self.stream_window, "more than the bound may come"
                if path.startswith(("/post", "/upload")):
                    whole = b"".join(pieces(path))
                    assert whole.startswith(bytes(side.came))
                    assert len(side.came) == len(whole) or not side.is_complete
        for connection in self.connections():
            followers = list(connection._followers)
            assert connection._leader is not None or not followers, "followers without a leader"
            for exchange in followers:
                assert exchange.ready is not None
                assert not exchange.ready(), "somebody waits for what is there"
            assert connection._flusher is None
            assert not connection._is_torn
            assert not connection._wire.queued or connection.stream.unsent >= sharing.UNSENT_AT_MOST

    def connections(self) -> list[http2.HTTP2Connection]:
        live = self.stage.session.view.engine.pool._live.values()
        return [one for one in live if isinstance(one, http2.HTTP2Connection) and not one.is_closed]

    def end(self) -> None:
        """The last act: the peers answer whatever is asked, as fast as they can. Then everybody must have ended."""
        stage = self.stage
        self.is_last_act = True
        for _ in range(3000):
            before = [(len(peer.flying), peer.takes) for peer in stage.peers], [task.is_done for task in stage.tasks]
            moved = False
            for peer in stage.peers:
                if peer.has_closed:
                    peer.deliver()
                    continue
                peer.takes = 1 << 60
                for side in peer.open:
                    if not side.is_complete and peer.receive_window < 1 << 30:
                        peer.widen(None, 1 << 20)
                    if not side.is_complete and side.receive_window < 1 << 20:
                        peer.widen(side, 1 << 20)
                        moved = True
                    while side.is_complete and peer.answer(side, 10_000):
                        moved = True
                peer.deliver()
            stage.settle()
            self.check()
            after = [(len(peer.flying), peer.takes) for peer in stage.peers], [task.is_done for task in stage.tasks]
            if not moved and before == after:
                break
        hang = [path for path, task in self.users.items() if not task.is_done]
        assert not hang, f"forgotten: {hang}"
        for path, task in self.users.items():
            error = task.error
            if error is None:
                continue
            if path.startswith("/timed") and isinstance(error, plugwire.TotalTimeout):
                continue
            assert path in self.excused, f"{path}: {error!r}"
            assert isinstance(error, (plugwire.Error, Cancelled)), f"{path}: {error!r}"
        for connection in self.connections():
            assert connection._wire.open_streams == 0
            assert connection.is_idle
            assert connection.capacity == (0 if connection.is_draining else connection._wire.max_streams)
            assert connection._leader is None
            assert not connection._followers
        stats = stage.session.stats()
        assert stats.open == stats.idle, stats
        assert stats.waiting == 0, stats
        stage.run(stage.session.close())
        assert stage.session.stats().open == 0


ACTS = (
    "begin", "begin", "begin", "run", "run", "run", "run", "settle", "settle", "cancel", "cancel call",
    "close response", "permit", "permit", "time", "deliver", "deliver", "deliver", "take", "take", "settings", "ping",
    "widen", "widen", "goaway", "close", "answer", "answer", "answer", "answer", "reset",
)  # fmt: skip
numbers = st.integers(0, 200)
acts = st.lists(st.tuples(st.sampled_from(ACTS), numbers, numbers), min_size=5, max_size=120)
scales = st.tuples(
    st.sampled_from([100, 1000, 100_000]),
    st.sampled_from([50, 1000, 262144]),
    st.sampled_from([0, 300, 65536]),
    st.sampled_from([20, 300, 65536]),
)


@settings(max_examples=200 * SCALE, deadline=None, phases=(Phase.explicit, Phase.generate, Phase.shrink))
@given(
    acts, scales, st.booleans(), st.sampled_from([1, 2, 100]), st.sampled_from([1, 3]), st.sampled_from([0, 90, 65535])
)
def test_chaos(
    script: list[tuple[str, int, int]],
    scale: tuple[int, int, int, int],
    is_slow: bool,
    streams: int,
    most: int,
    window: int,
) -> None:
    def peer() -> PuppetPeer:
        return PuppetPeer(content, {MAX_STREAMS: streams, WINDOW: window}, 60 if is_slow else 1 << 60)

    with scaled(*scale), Stage(peer, limits=Limits(max_connections=most)) as stage:
        play = Play(stage, scale[0])
        for what, one, two in script:
            play.act(what, one, two)
        play.end()


# -- scouts --------------------------------------------------------------------------------------------------------


@contextmanager
def first_requests(number: int, limits: Limits = Limits()) -> Iterator[tuple[Stage, list[Task]]]:  # noqa: B008
    """So many requests to an origin of which nothing is known, whose dials hang."""
    with Stage(lambda: PuppetPeer(content, {}), limits=limits) as stage:
        stage.dials_hang = True

        async def get(path: str) -> None:
            assert (await stage.session.get(f"http://host{path}")).content == content(path)

        tasks = [stage.start(get(f"/get/{number}")) for number in range(number)]
        stage.settle()
        yield stage, tasks


def answer_all(stage: Stage) -> None:
    """Every peer answers whatever comes, until nothing comes."""
    is_moving = True
    while is_moving:
        stage.settle()
        is_moving = False
        for peer in stage.peers:
            for side in peer.open:
                while peer.answer(side, 10_000):
                    is_moving = True
            peer.deliver()
    stage.settle()


def test_a_hundred_first_requests_open_one_connection() -> None:
    with first_requests(100) as (stage, tasks):
        assert (stage.dials, len(stage.peers)) == (1, 0)
        stage.dials_hang = False
        answer_all(stage)
        assert [task.error for task in tasks] == [None] * 100
        assert len(stage.peers) == 1
        stage.run(stage.session.close())


def test_a_failing_scout_gives_its_error_to_its_own_request_only() -> None:
    with first_requests(5) as (stage, tasks):
        stage.failing_dials = 2
        stage.dials_hang = False
        answer_all(stage)
        assert [type(task.error) for task in tasks] == [plugwire.ConnectError] * 2 + [type(None)] * 3
        assert (stage.dials, len(stage.peers)) == (3, 1)
        stage.run(stage.session.close())


def test_a_slow_scout_gets_company_one_by_one() -> None:
    with first_requests(5) as (stage, tasks):
        for dials in (2, 3, 4):
            stage.now += COMPANY / 2
            stage.settle()
            assert stage.dials == dials - 1
            stage.now += COMPANY / 2
            stage.settle()
            assert stage.dials == dials
        stage.dials_hang = False
        answer_all(stage)
        assert [task.error for task in tasks] == [None] * 5
        stats = stage.session.stats()
        assert (stats.open, stats.idle) == (4, 4)
        stage.run(stage.session.close())


def test_a_cancelled_scout_is_followed_by_the_next() -> None:
    with first_requests(3) as (stage, tasks):
        stage.cancel(tasks[0])
        stage.settle()
        assert stage.dials == 2
        stage.dials_hang = False
        answer_all(stage)
        assert [type(task.error) for task in tasks] == [Cancelled, type(None), type(None)]
        stage.run(stage.session.close())


def test_a_slow_scout_has_no_more_company_than_places() -> None:
    with first_requests(9, Limits(max_connections=2)) as (stage, tasks):
        for _ in range(5):
            stage.now += COMPANY
            stage.settle()
        assert stage.dials == 2
        stage.dials_hang = False
        answer_all(stage)
        assert [task.error for task in tasks] == [None] * 9
        stage.run(stage.session.close())


# -- one step at a time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "timed out"])
def test_a_leader_that_gives_up_hands_over(is_cancelled: bool) -> None:
    with Stage(lambda: PuppetPeer(content, {})) as stage:

        async def get(path: str, timeout: float | None) -> None:
            response = await stage.session.get(f"http://host{path}", timeout=Timeout(total=timeout))
            assert response.content == content(path)

        leader = stage.start(get("/get/0", 5))
        stage.settle()
        followers = [stage.start(get(f"/get/{number}", None)) for number in (1, 2, 3)]
        stage.settle()
        if is_cancelled:
            stage.cancel(leader)
        else:
            stage.now += 6
        stage.settle()
        assert leader.is_done
        answer_all(stage)
        assert [task.error for task in followers] == [None] * 3
        stage.run(stage.session.close())


def test_who_is_named_leader_while_it_gives_up_passes_it_on() -> None:
    with Stage(lambda: PuppetPeer(content, {})) as stage:

        async def get(path: str) -> None:
            assert (await stage.session.get(f"http://host{path}")).content == content(path)

        tasks = [stage.start(get(f"/get/{number}")) for number in range(3)]
        stage.settle()
        stage.cancel(tasks[0])  # names tasks[1], which has not run yet
        stage.cancel(tasks[1])
        answer_all(stage)
        assert tasks[2].is_done
        assert tasks[2].error is None
        stage.run(stage.session.close())


def test_a_peer_that_reads_nothing_until_we_do_is_no_deadlock() -> None:
    """Rule 5: the upload cannot go out before the answer to somebody else is read, who waits for it as a follower."""
    with Stage(lambda: PuppetPeer(content, {}, takes=400)) as stage:

        async def get(path: str) -> None:
            assert (await stage.session.get(f"http://host{path}")).content == content(path)

        async def post(path: str) -> None:
            response = await stage.session.post(f"http://host{path}", content=b"".join(pieces(path)))
            assert response.content == content(path)

        reader = stage.start(get("/get/1"))
        stage.settle()
        writer = stage.start(post("/post/4"))
        stage.settle()
        (peer,) = stage.peers
        assert peer.takes == 0
        while peer.answer(peer.streams[1], 10_000):
            pass
        peer.deliver()
        stage.settle()
        assert reader.is_done
        assert not writer.is_done
        peer.take(1 << 30)
        answer_all(stage)
        assert (writer.is_done, writer.error) == (True, None)
        stage.run(stage.session.close())


def test_a_follower_that_has_left_is_never_named() -> None:
    with Stage(lambda: PuppetPeer(content, {})) as stage:

        async def get(path: str) -> None:
            assert (await stage.session.get(f"http://host{path}")).content == content(path)

        tasks = [stage.start(get(f"/get/{number}")) for number in range(4)]
        stage.settle()
        stage.cancel(tasks[1])
        stage.cancel(tasks[0])
        stage.settle()
        answer_all(stage)
        assert [task.error for task in tasks[2:]] == [None, None]
        assert [type(task.error) for task in tasks[:2]] == [Cancelled, Cancelled]
        stage.run(stage.session.close())


def test_a_cancelled_writer_writes_for_all_that_rely_on_it() -> None:
    """The first of several lets the others run before it writes for all."""
    with Stage(lambda: PuppetPeer(content, {})) as stage:

        async def get(path: str) -> None:
            assert (await stage.session.get(f"http://host{path}")).content == content(path)

        tasks = [stage.start(get(f"/get/{number}")) for number in range(4)]
        stage.cancel(tasks[1])
        stage.settle()
        (peer,) = stage.peers
        assert [side.fields[":path"] for side in peer.open] == ["/get/0", "/get/2", "/get/3"]
        answer_all(stage)
        assert [task.error for task in tasks[2:]] == [None, None]
        stage.run(stage.session.close())


def test_an_upload_goes_on_when_what_was_unsent_has_gone_out() -> None:
    """It follows, and waits for neither window: only for memory."""
    with scaled(100_000, 200, 0, 65536), Stage(lambda: PuppetPeer(content, {}, takes=400)) as stage:

        async def get(path: str) -> None:
            assert (await stage.session.get(f"http://host{path}")).content == content(path)

        async def put(path: str) -> None:
            await stage.session.put(f"http://host{path}", content=Pieces(path))

        stage.start(get("/get/1"))
        stage.settle()
        upload = stage.start(put("/upload/4"))
        stage.settle()
        (peer,) = stage.peers
        assert not peer.streams[3].is_complete
        for _ in range(200):
            peer.take(150)
            stage.settle()
        assert peer.streams[3].is_complete
        assert peer.streams[3].came == b"".join(pieces("/upload/4"))
        answer_all(stage)
        assert (upload.is_done, upload.error) == (True, None)
        stage.run(stage.session.close())


def test_news_are_noted_when_they_can_be_told() -> None:
    """As if another thread told them in the very moment in which they are noted."""

    class Overtaken(http2.HTTP2Connection):
        _noted = False

        @property  # type: ignore[override]
        def _has_news(self) -> bool:
            return self._noted

        @_has_news.setter
        def _has_news(self, value: bool) -> None:
            self._noted = value
            if value:
                self.settle()

    limits = Limits(max_connections=1)
    with (
        patch.object(http2, "HTTP2Connection", Overtaken),
        Stage(lambda: PuppetPeer(content, {MAX_STREAMS: 1}), limits=limits) as stage,
    ):

        async def read(path: str) -> None:
            async with stage.session.stream("GET", f"http://host{path}") as response:
                assert await response.read() == content(path)

        stage.start(read("/get/0"))
        answer_all(stage)  # from here on the limit of one stream is known
        (peer,) = stage.peers
        tasks = [stage.start(read(f"/get/{number}")) for number in (3, 4)]
        for _ in tasks:
            stage.settle()
            (side,) = peer.open
            while peer.answer(side, 100):  # the end comes when `send` has returned, and only the news tell the pool
                peer.deliver()
                stage.settle()
        assert [(task.is_done, task.error) for task in tasks] == [(True, None)] * 2
        stats = stage.session.stats()
        assert (stats.open, stats.idle, stats.waiting) == (1, 1, 0)
        stage.run(stage.session.close())


@given(st.lists(st.integers(1, 3), min_size=1, max_size=40))
def test_a_slow_reader_bounds_what_may_come(permits: list[int]) -> None:
    with scaled(100, 1000, 0, 65536), Stage(lambda: PuppetPeer(content, {})) as stage:
        play = Play(stage, 100)
        for which in (1, 1, 1, 1, 1):
            play.begin(which)
        for number in permits:
            stage.settle()
            for peer in stage.peers:
                for side in peer.open:
                    while peer.answer(side, 1000):
                        pass
                peer.deliver()
            play.act("settle", 0, 0)
            play.permits = dict.fromkeys(play.users, number)
        play.end()
