"""A world on strings: tasks, clock, network and HTTP/2 peers move only when the test says so, in the order it says.

    stage = Stage(session_options...)
    task = stage.start(user(stage.session))      # a coroutine; it runs up to its first wait
    stage.step(task)                             # one more piece of its road, if what it waits for is there
    stage.peers[0].deliver(5)                    # five bytes of what the peer has said arrive
    stage.settle()                               # everybody runs as far as there is something to do

Nothing here has threads, sockets or a loop, so a run is the same each time, takes no time, and can be played in every
order of its steps. Time passes by `stage.now += 1`. A task is cancelled at once, where it stands (`stage.cancel`).

The peer keeps the rules of RFC 9113 and checks that its client keeps them: windows, numbers of streams, their limit,
frames' sizes, no frames on streams that are over.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from math import inf
from typing import Any, Final, TypeVar

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

import plugwire
from plugwire.protocols import Stream, Waiter
from plugwire.runtimes.base import SocketRuntime

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW: Final = 65535
MAX_WINDOW: Final = 2**31 - 1
T = TypeVar("T")


class Cancelled(BaseException):
    """What a cancel throws into a task, as asyncio.CancelledError."""


class Wait:
    """What a task stands in."""

    def __init__(self, ready: Callable[[], bool], at: float = inf) -> None:
        self.ready = ready
        self.at = at

    def __await__(self) -> Generator[Wait, None, None]:
        yield self


class Task:
    """One on the stage. result, error: how it ended."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.wait: Wait | None = None
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self, error: BaseException | None = None) -> None:
        try:
            self.wait = self.coroutine.send(None) if error is None else self.coroutine.throw(error)
            return
        except StopIteration as stop:
            self.result = stop.value
        except BaseException as failure:
            self.error = failure
        self.is_done, self.wait = True, None


class PuppetWaiter(Waiter):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._is_woken = False

    async def wait(self, at: float) -> bool:
        if not self._is_woken and self._stage.now < at:
            await Wait(lambda: self._is_woken, at)
        return self._is_woken

    def wake(self) -> None:
        self._is_woken = True


class PuppetRuntime(SocketRuntime):
    """As that of asyncio, whose name it bears."""

    name = "asyncio"
    cancellation = (Cancelled,)

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def now(self) -> float:
        return self._stage.now

    async def turn(self) -> None:
        await Wait(lambda: True)

    def waiter(self) -> Waiter:
        return PuppetWaiter(self._stage)

    async def sleep(self, seconds: float, at: float) -> None:
        raise NotImplementedError

    race = start = run_blocking = from_thread = stream = readiness = sleep  # type: ignore[assignment]


class PuppetStream(Stream):
    """The client's end. What it writes reaches the peer as far as `peer.takes` goes."""

    def __init__(self, stage: Stage, peer: PuppetPeer) -> None:
        self._stage = stage
        self._peer = peer
        self._kept = bytearray()
        self._is_waited_on = False
        self._is_nudged = False
        self.is_closed = False

    def _check(self) -> None:
        if self.is_closed:
            raise ConnectionAbortedError("closed on this side")

    def read_now(self, max_bytes: int) -> bytes | None:
        self._check()
        came = self._peer.arrived
        if came:
            data = bytes(came[:max_bytes])
            del came[:max_bytes]
            return data
        return b"" if self._peer.has_closed and not self._peer.flying else None

    def write_now(self, data: Any) -> None:
        self._check()
        self._kept += data if isinstance(data, (bytes, bytearray, memoryview)) else b"".join(data)
        self.push()

    def push(self) -> None:
        peer = self._peer
        gone = min(len(self._kept), peer.takes)
        if gone:
            peer.takes -= gone
            data = bytes(self._kept[:gone])
            del self._kept[:gone]
            peer.receive(data)

    @property
    def unsent(self) -> int:
        return len(self._kept)

    async def wait(self, read: bool, write: bool, at: float) -> None:
        self._check()
        assert not (read and self._is_waited_on), "two wait for readability"

        def ready() -> bool:
            peer = self._peer
            return (
                self.is_closed
                or self._is_nudged
                or (read and bool(peer.arrived or (peer.has_closed and not peer.flying)))
                or (write and peer.takes > 0)
            )

        if not ready():
            if self._stage.now >= at:
                raise TimeoutError
            self._is_waited_on = True
            try:
                await Wait(ready, at)
            finally:
                self._is_waited_on = False
        self._check()
        is_ready, self._is_nudged = ready(), False
        if not is_ready:
            raise TimeoutError

    def nudge(self) -> None:
        self._is_nudged = self._is_waited_on

    def close(self) -> None:
        self.is_closed = True
        self._kept.clear()

    abort = close

    def extra(self, key: Any, default: Any = None) -> Any:
        return default


class PeerSide:
    """One stream, as the peer sees it."""

    def __init__(self, stream_id: int, fields: dict[str, str], receive: int, send: int) -> None:
        self.id = stream_id
        self.fields = fields
        self.came = bytearray()
        self.is_complete = False  # the client has ended it
        self.has_head = False
        self.left: bytes | None = None  # of the response's content, once it is being sent
        self.given = 0  # bytes of content that were sent
        self.has_ended = False  # we have ended it
        self.is_reset = False  # by either side
        self.receive_window = receive
        self.send_window = send

    @property
    def is_over(self) -> bool:
        return self.is_reset or (self.is_complete and self.has_ended)


class PuppetPeer:
    """One connection's other end. `answers(path)` is the content of each response.

    Attributes:
        takes: bytes that it still reads of what the client writes.
        flying: what it said and has not arrived; arrived: what has, and was not read.
    """

    def __init__(self, answers: Callable[[str], bytes], settings: dict[int, int], takes: float = inf) -> None:
        self.answers = answers
        self.takes: Any = takes
        self.flying = bytearray()
        self.arrived = bytearray()
        self.has_closed = False
        self.streams: dict[int, PeerSide] = {}
        self.goaway: int | None = None
        self.client_left = False
        self.stream: PuppetStream | None = None
        self._buffer = bytearray()
        self._began = False
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._told: list[dict[int, int]] = []
        self._max_streams: float = inf
        self._receive_initial = DEFAULT_WINDOW
        self.receive_window = DEFAULT_WINDOW
        self._send_initial = DEFAULT_WINDOW
        self._send_window = DEFAULT_WINDOW
        self.settings(settings)

    # -- what it says

    def say(self, *frames: Frame) -> None:
        if not self.has_closed:
            for frame in frames:
                self.flying += frame.serialize()

    def deliver(self, most: int | None = None) -> None:
        """So many bytes arrive; all of them without a number."""
        size = len(self.flying) if most is None else most
        self.arrived += self.flying[:size]
        del self.flying[:size]

    def take(self, more: float) -> None:
        """Read so many bytes more of what the client writes."""
        self.takes += more

    def settings(self, values: dict[int, int]) -> None:
        self._told.append(values)
        self.say(SettingsFrame(0, values))

    def answer(self, side: PeerSide, size: int) -> bool:
        """The next frame of a response. False: nothing can be sent."""
        if side.has_ended or side.is_reset or self.has_closed:
            return False
        if not side.has_head:
            side.has_head = True
            content = side.left = self.answers(side.fields[":path"])
            fields = [(":status", "200"), ("x-path", side.fields[":path"])]
            if side.id % 4 == 1:
                fields.append(("content-length", str(len(content))))
            frame: Frame = HeadersFrame(side.id, self._encoder.encode(fields), flags=["END_HEADERS"])
            side.has_ended = not content
        else:
            assert side.left is not None
            size = min(size, len(side.left), side.send_window, self._send_window, 16384)
            if size <= 0 and side.left:
                return False
            frame = DataFrame(side.id, side.left[:size])
            side.left = side.left[size:]
            side.given += size
            side.send_window -= size
            self._send_window -= size
            side.has_ended = not side.left
        if side.has_ended:
            frame.flags.add("END_STREAM")
        self.say(frame)
        return True

    def reset(self, side: PeerSide, code: int) -> None:
        if not side.is_over:
            side.is_reset = True
            self.say(RstStreamFrame(side.id, error_code=code))

    def widen(self, side: PeerSide | None, size: int) -> None:
        if side is None:
            self.receive_window += size
            self.say(WindowUpdateFrame(0, window_increment=size))
        elif not side.is_over and not side.is_complete:
            side.receive_window += size
            self.say(WindowUpdateFrame(side.id, window_increment=size))

    def ping(self) -> None:
        self.say(PingFrame(0, opaque_data=b"plugwire"))

    def leave(self, last: int) -> None:
        """GOAWAY: what is above `last` is not answered."""
        self.goaway = last if self.goaway is None else min(last, self.goaway)
        self.say(GoAwayFrame(0, last_stream_id=self.goaway))
        for side in self.streams.values():
            if side.id > self.goaway:
                side.is_reset = True

    def close(self) -> None:
        self.has_closed = True

    @property
    def open(self) -> list[PeerSide]:
        return [side for side in self.streams.values() if not side.is_over]

    def may_send(self, side: PeerSide) -> int:
        """Bytes of content that the client has let it send on a stream, so far as is known here."""
        return side.send_window

    # -- what it hears

    def receive(self, data: bytes) -> None:
        self._buffer += data
        if not self._began:
            if len(self._buffer) < len(PREFACE):
                return
            assert self._buffer.startswith(PREFACE)
            del self._buffer[: len(PREFACE)]
            self._began = True
        while len(self._buffer) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(bytes(self._buffer[:9])))
            if len(self._buffer) < 9 + size:
                return
            assert size <= 16384, "above MAX_FRAME_SIZE"
            frame.parse_body(memoryview(bytes(self._buffer[9 : 9 + size])))
            del self._buffer[: 9 + size]
            self._heard(frame)

    def _heard(self, frame: Frame) -> None:
        if isinstance(frame, SettingsFrame):
            self._on_settings(frame)
        elif isinstance(frame, PingFrame):
            if "ACK" not in frame.flags:
                self.say(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, HeadersFrame):
            self._on_headers(frame)
        elif isinstance(frame, WindowUpdateFrame):
            if not frame.stream_id:
                self._send_window += frame.window_increment
                assert self._send_window <= MAX_WINDOW
            else:
                self.streams[frame.stream_id].send_window += frame.window_increment
        elif isinstance(frame, DataFrame):
            self._on_data(frame)
        elif isinstance(frame, RstStreamFrame):
            side = self.streams[frame.stream_id]
            side.is_reset = True
        elif isinstance(frame, GoAwayFrame):
            assert frame.error_code == 0, f"the client complains: {frame}"
            self.client_left = True
        else:
            raise AssertionError(f"unexpected: {frame}")

    def _on_settings(self, frame: SettingsFrame) -> None:
        if "ACK" in frame.flags:
            told = self._told.pop(0)
            self._max_streams = told.get(SettingsFrame.MAX_CONCURRENT_STREAMS, self._max_streams)
            window = told.get(SettingsFrame.INITIAL_WINDOW_SIZE)
            if window is not None:
                for side in self.streams.values():
                    side.receive_window += window - self._receive_initial
                self._receive_initial = window
            return
        self._send_initial = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self._send_initial)
        self.say(SettingsFrame(0, flags=["ACK"]))

    def _on_headers(self, frame: HeadersFrame) -> None:
        fields: Any = self._decoder.decode(frame.data)
        assert "END_HEADERS" in frame.flags
        assert frame.stream_id % 2 == 1
        assert frame.stream_id > max(self.streams, default=0), "stream ids out of order"
        assert len(self.open) < self._max_streams, "more streams than we allow"
        assert not self.client_left
        side = PeerSide(frame.stream_id, dict(fields), self._receive_initial, self._send_initial)
        self.streams[side.id] = side
        side.is_complete = "END_STREAM" in frame.flags
        if self.goaway is not None and side.id > self.goaway:
            side.is_reset = True

    def _on_data(self, frame: DataFrame) -> None:
        side = self.streams[frame.stream_id]
        size = frame.flow_controlled_length
        side.receive_window -= size
        self.receive_window -= size
        assert not side.is_complete, "DATA after END_STREAM"
        if size:
            assert self.receive_window >= 0, "more than the connection's window"
            assert side.receive_window >= 0, "more than the stream's window"
        side.came += frame.data
        side.is_complete = "END_STREAM" in frame.flags


class Dialler:
    """Gives streams to peers that are made as they are needed."""

    name = "puppets"
    honours = frozenset({"*"})

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def refuse(self, route: Any) -> None:
        return None

    async def dial(self, route: Any, connecting: Any) -> Stream:
        return await self._stage.dial()


class Calls:
    """Keeps the calls, by their path, so that they can be cancelled."""

    def __init__(self) -> None:
        self.of: dict[str, Any] = {}

    @plugwire.hookimpl
    async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
        self.of[request.url.path] = call
        return await call_next(request)


class Stage:
    """Where it all takes place: one session, its tasks, its peers.

    dials: how many began. dials_hang: they stand still as long as it is set. failing_dials: so many will fail.
    """

    def __init__(self, make_peer: Callable[[], PuppetPeer], **options: Any) -> None:
        self.now = 1000.0
        self.tasks: list[Task] = []
        self.peers: list[PuppetPeer] = []
        self.calls = Calls()
        self.dials = 0
        self.dials_hang = False
        self.failing_dials = 0
        self._make_peer = make_peer
        self.session = plugwire.AsyncSession(
            http_versions=("h2",), transports=[Dialler(self)], plugins=[self.calls], **options
        )
        view = self.session.view
        view.engine.bind(PuppetRuntime(self), view)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Whoever is still there leaves without a word, so that a failure is the only thing to be read."""
        for task in self.tasks:
            if not task.is_done:
                task.run(Cancelled())
                task.coroutine.close()
        self.session.view.engine.drop()

    async def dial(self) -> Stream:
        self.dials += 1
        if self.dials_hang:
            await Wait(lambda: not self.dials_hang)
        if self.failing_dials:
            self.failing_dials -= 1
            raise ConnectionRefusedError("nobody is at home")
        peer = self._make_peer()
        self.peers.append(peer)
        peer.stream = PuppetStream(self, peer)
        return peer.stream

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Task:
        task = Task(coroutine)
        self.tasks.append(task)
        task.run()
        return task

    def is_runnable(self, task: Task) -> bool:
        wait = task.wait
        return wait is not None and (self.now >= wait.at or wait.ready())

    @property
    def runnable(self) -> list[Task]:
        return [task for task in self.tasks if self.is_runnable(task)]

    def step(self, task: Task) -> None:
        if self.is_runnable(task):
            task.run()

    def cancel(self, task: Task) -> None:
        if not task.is_done:
            task.run(Cancelled())

    def settle(self) -> None:
        """Everybody runs until all wait for something that is not there."""
        for _ in range(100_000):
            runnable = self.runnable
            if not runnable:
                return
            for task in runnable:
                self.step(task)
        raise AssertionError("somebody runs in circles")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """To its end, which must come without anybody's help."""
        task = self.start(coroutine)
        self.settle()
        assert task.is_done, "it hangs"
        if task.error is not None:
            raise task.error
        return task.result  # type: ignore[no-any-return]
