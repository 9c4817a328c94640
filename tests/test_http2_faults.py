"""Every operation on the stream below HTTP/2 goes wrong in turn: the k-th one fails, finds the end, brings a byte at a
time, or has the call cancelled in it, for k = 1, 2, 3 ... until a run passes untouched. After each of them the error is
ours and says what is right, nothing is left, and the same session does the next request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hyperframe.frame import DataFrame, HeadersFrame

from h2_peer import Conversation, H2Peer
from plugwire import Cancelled, Error, Limits
from plugwire.protocols import EVERYTHING, Buffer, Connecting, Route, Stream
from plugwire.testing import PeerFailure
from test_cancellation import Calls
from third_party.wrapping_dialler import Wrapped
from worlds import World

LARGE = bytes(range(256)) * 800
"""Up: several times the windows at first. Down: several reads."""


def serving(h2: Conversation) -> None:
    """Whatever comes, complete, is answered; whatever breaks off, is nothing to a server."""
    h2.answers = True
    try:
        h2.handshake()
        while True:
            h2._read_frame("a request")
            frame = h2.received[-1]
            if isinstance(frame, DataFrame):
                h2.window_update(0, frame.flow_controlled_length or 1)
                if "END_STREAM" not in frame.flags:
                    h2.window_update(frame.stream_id, frame.flow_controlled_length or 1)
            if isinstance(frame, (HeadersFrame, DataFrame)) and "END_STREAM" in frame.flags:
                fields = dict(h2.fields[frame.stream_id])
                if fields[":method"] == "GET":
                    body = LARGE if fields[":path"] == "/down" else fields[":path"].encode()
                else:
                    came = sum(len(f.data) for f in h2.received if is_data(f, frame.stream_id))  # type: ignore[attr-defined]
                    body = b"%d" % came
                h2.respond(frame.stream_id, 200, body)
    except (PeerFailure, OSError):
        h2.connection.is_closed = True  # what else has come, was lost on its way


def is_data(frame: object, stream_id: int) -> bool:
    return isinstance(frame, DataFrame) and frame.stream_id == stream_id


class Faults:
    """A dialler whose first stream goes wrong at its k-th operation, counted from `arm` on."""

    name = "faults"
    honours = frozenset({EVERYTHING})

    def __init__(self, fault: str, k: int, cancel: Callable[[], object]) -> None:
        self.fault = fault
        self.left = k
        self.cancel = cancel
        self.is_armed = False
        self.has_struck = False
        self.streams: list[Faulty] = []

    def refuse(self, route: Route) -> str | None:
        return None

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        stream = Faulty(self, await connecting.dial(route))
        self.streams.append(stream)
        return stream

    def strikes(self, stream: Faulty) -> bool:
        """One operation more; True for the one whose turn it is."""
        if not self.is_armed or stream is not self.streams[0] or self.has_struck:
            return False
        self.left -= 1
        self.has_struck = self.left <= 0
        return self.has_struck


class Faulty(Wrapped):
    def __init__(self, faults: Faults, inner: Stream) -> None:
        super().__init__(inner)
        self._faults = faults
        self._state = ""
        self._dribbles = 100
        self.is_closed = False
        self.written = 0

    def _operate(self) -> None:
        if self._faults.strikes(self):
            self._state = self._faults.fault
            if self._state == "cancel":
                self._faults.cancel()
        if self._state == "fail" and not self.is_closed:
            raise ConnectionResetError(104, "as if reset by the peer")

    def read_now(self, max_bytes: int) -> bytes | None:
        self._operate()
        if self._state == "end":
            return b""
        if self._dribbles > 0 and self._state == "dribble":
            self._dribbles -= 1
            max_bytes = 1
        return super().read_now(max_bytes)

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        self._operate()
        super().write_now(data)
        self.written += 1

    async def wait(self, read: bool, write: bool, at: float) -> None:
        self._operate()
        if self._state == "end" and read:
            return
        await super().wait(read, write, at)

    def close(self) -> None:
        self.is_closed = True
        super().close()


async def get(world: World, session: Any, url: str) -> list[tuple[Any, Any]]:
    return [await ended(session.get(f"{url}/get"), b"/get")]


async def post(world: World, session: Any, url: str) -> list[tuple[Any, Any]]:
    return [await ended(session.post(f"{url}/post", content=b"content"), b"7")]


async def once(world: World, session: Any, url: str) -> list[tuple[Any, Any]]:
    return [await ended(session.put(f"{url}/put", content=iter([b"con", b"tent"])), b"7")]


async def up(world: World, session: Any, url: str) -> list[tuple[Any, Any]]:
    return [await ended(session.put(f"{url}/up", content=LARGE), b"%d" % len(LARGE))]


async def down(world: World, session: Any, url: str) -> list[tuple[Any, Any]]:
    async def read() -> Any:
        async with session.stream("GET", f"{url}/down") as response:
            while await response.read(100_000):
                pass
            return response

    return [await ended(read(), None)]


async def two(world: World, session: Any, url: str) -> list[tuple[Any, Any]]:
    return await world.gather(
        lambda: ended(session.get(f"{url}/get"), b"/get"),
        lambda: ended(session.post(f"{url}/post", content=b"content"), b"7"),
    )


async def ended(asked: Awaitable[Any], content: bytes | None) -> tuple[Any, Any]:
    """How it ended: whether with the right response, and the error."""
    try:
        response = await asked
    except Error as error:
        return None, error
    assert response.status_code == 200
    if content is not None:
        assert response.content == content
    return response, None


SCENARIOS = (get, post, once, up, down, two)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("is_reused", [False, True], ids=["new", "reused"])
@pytest.mark.parametrize("fault", ["fail", "end", "dribble", "cancel"])
async def test_each_operation_goes_wrong_in_turn(world: World, fault: str, is_reused: bool, scenario: Any) -> None:
    with H2Peer(serving, repeat=True, handshake=False) as peer:
        for k in range(1, 200):
            calls = Calls()
            faults = Faults(fault, k, lambda calls=calls: calls.seen[1 if is_reused else 0].cancel())
            async with world.session(
                http_versions=("h2",),
                defaults=False,
                transports=[faults],
                plugins=[calls],
                limits=Limits(max_connections=1),
            ) as session:
                if is_reused:
                    await session.get(f"{peer.url}/first")
                faults.is_armed = True
                outcomes = await scenario(world, session, peer.url)
                faults.is_armed = False
                for _, error in outcomes:
                    check(fault, faults, is_reused, error)
                if fault == "cancel":
                    assert sum(error is not None for _, error in outcomes) <= 1, "it ends one call only"
                stats = session.stats()
                assert (stats.open, stats.waiting) == (stats.idle, 0), k
                assert (await session.get(f"{peer.url}/next")).content == b"/next"
                assert session.stats()[:3] == (1, 1, 0)
                if fault in ("cancel", "dribble"):
                    assert len(faults.streams) == 1, "the connection survives it"
            assert all(stream.is_closed for stream in faults.streams)
            if not faults.has_struck:
                break
        else:
            raise AssertionError("no run passed untouched")
        assert k > 3


def check(fault: str, faults: Faults, is_reused: bool, error: Error | None) -> None:
    if fault == "dribble" or not faults.has_struck:
        assert error is None
    if error is None:
        return
    assert error.request is not None
    method = error.request.method
    # Who is cancelled while it waits for the other one's dial has asked for nothing yet.
    assert error.phase in ("write", "head", "body") or (error.phase, error.sent, fault) == ("pool", False, "cancel")
    assert error.sent or not faults.streams[0].written
    assert error.replayable == ((not error.sent or method != "POST") and error.request.body.is_replayable)
    if fault == "cancel":
        assert type(error) is Cancelled
    elif is_reused and method != "POST" and error.request.body.is_replayable:
        # Only what had begun to be answered is not asked again.
        assert error.phase == "body" or "inside" in str(error)
