"""The keep-alive PING of `HTTP2(keep_alive=...)` on a clock of its own: time passes only where the connection waits."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame

import plugwire
from plugwire import ConnectionClosed, Limits, Request, Timeout
from plugwire.call import Call, Scope
from plugwire.drive import drive
from plugwire.protocols import Stream
from plugwire.runtimes import blocking_runtime
from plugwire_transports.http2 import HTTP2
from plugwire_transports.http2.connection import HTTP2Connection

URL = "http://peer.example/"


class Clock:
    """A runtime whose time stands still."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._inner: Any = blocking_runtime()

    def now(self) -> float:
        return self.time

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Pipe(Stream):
    """A stream whose peer says what it says at given times, and answers PINGs after `delay` seconds, if at all."""

    def __init__(self, clock: Clock, delay: float | None = None) -> None:
        self.clock = clock
        self.delay = delay
        self.coming: list[tuple[float, bytes]] = []
        self.pings: list[float] = []
        self.goaway: list[int] = []
        self.is_closed = False
        self._rest = b""
        self._has_preface = False

    def says(self, at: float, *frames: Frame) -> None:
        self.coming.append((at, b"".join(frame.serialize() for frame in frames)))
        self.coming.sort()

    def read_now(self, max_bytes: int) -> bytes | None:
        if self.coming and self.coming[0][0] <= self.clock.time:
            return self.coming.pop(0)[1]
        return None

    def write_now(self, data: Any) -> None:
        self._rest += bytes(data)
        if not self._has_preface:
            self._rest = self._rest.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            self._has_preface = True
        while len(self._rest) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(self._rest[:9]))
            frame.parse_body(memoryview(self._rest[9 : 9 + size]))
            self._rest = self._rest[9 + size :]
            if isinstance(frame, PingFrame):
                self.pings.append(self.clock.time)
                if self.delay is not None:
                    answer = PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"])
                    self.says(self.clock.time + self.delay, answer)
            elif isinstance(frame, GoAwayFrame):
                self.goaway.append(frame.error_code)

    @property
    def unsent(self) -> int:
        return 0

    async def wait(self, read: bool, write: bool, at: float) -> None:
        if at <= self.clock.time:  # first, as real ones do
            raise TimeoutError
        next_at = self.coming[0][0] if self.coming else inf
        assert min(at, next_at) < inf, "it waits for ever"
        self.clock.time = max(self.clock.time, min(at, next_at))
        if next_at > at:
            raise TimeoutError

    def nudge(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def extra(self, key: Any, default: Any = None) -> Any:
        return default


class Setting:
    """A connection on such a stream."""

    def __init__(self, delay: float | None = None, keep_alive: float | None = 10) -> None:
        self.clock = Clock()
        self.pipe = Pipe(self.clock, delay)
        self.encoder = Encoder()
        connecting: Any = SimpleNamespace(limits=Limits(), changed=lambda connection: None, runtime=self.clock)
        transport = HTTP2(keep_alive=keep_alive, keep_alive_timeout=5)
        self.connection = HTTP2Connection(self.pipe, connecting, transport.keep_alive)
        self.pipe.says(self.clock.time, SettingsFrame(0))
        self.streams = 1

    def head(self, *more: Any) -> HeadersFrame:
        """The next stream's."""
        return HeadersFrame(self.streams, self.encoder.encode([(":status", "200")]), flags=["END_HEADERS", *more])

    def ask(self, timeout: Timeout | None = None) -> Any:
        runtime: Any = self.clock
        session: Any = SimpleNamespace(
            engine=SimpleNamespace(waits=Scope()), check_open=lambda: None, is_closed=False, redirect_limit=None
        )  # fmt: skip
        call = Call(session, runtime, plugwire.URL(URL).origin, timeout or Timeout())
        response = drive(self.connection.send(Request("GET", URL), call))
        self.streams += 2
        return response


def test_a_silent_peer_is_asked_and_one_that_answers_is_waited_for() -> None:
    setting = Setting(delay=1)
    setting.pipe.says(1035, setting.head("END_STREAM"))
    assert setting.ask(Timeout(read=None)).status_code == 200
    # 10 seconds after the last byte, which is that of the answer.
    assert setting.pipe.pings == [1010, 1021, 1032]


def test_a_peer_that_does_not_answer_is_lost() -> None:
    setting = Setting()
    with pytest.raises(ConnectionClosed, match="did not answer a PING within 5 s"):
        setting.ask(Timeout(read=None))
    assert setting.clock.time == 1015
    assert setting.pipe.pings == [1010]
    assert setting.pipe.is_closed
    assert setting.connection.is_closed


def test_any_byte_is_an_answer() -> None:
    setting = Setting()
    setting.pipe.says(1014, setting.head())
    setting.pipe.says(1023, DataFrame(1, b"end", flags=["END_STREAM"]))
    response = setting.ask(Timeout(read=None))
    assert drive(response.read()) == b"end"
    assert setting.pipe.pings == [1010]
    assert setting.clock.time == 1023


def test_a_budget_that_ends_first_is_that_budget() -> None:
    setting = Setting(delay=1)
    with pytest.raises(plugwire.ReadTimeout):
        setting.ask(Timeout(read=12))
    assert setting.clock.time == 1012
    assert setting.pipe.pings == [1010]
    assert not setting.connection.is_closed


def test_nothing_is_asked_without_keep_alive() -> None:
    setting = Setting(keep_alive=None)
    setting.pipe.says(1050, setting.head("END_STREAM"))
    setting.ask(Timeout(read=None))
    assert setting.pipe.pings == []


def test_silence_counts_from_when_there_was_something_to_answer() -> None:
    setting = Setting(delay=1)
    setting.pipe.says(1000, setting.head("END_STREAM"))
    setting.ask()
    setting.clock.time += 3600
    setting.pipe.says(4605, setting.head("END_STREAM"))
    assert setting.connection.is_fresh()
    setting.ask()
    assert setting.pipe.pings == []


def test_an_answer_that_nobody_looked_for_counts() -> None:
    """The caller reads nothing for an hour; the PING before that was answered at once."""
    setting = Setting(delay=1)
    setting.pipe.says(1000, setting.head())
    response = setting.ask(Timeout(read=12))
    with pytest.raises(plugwire.ReadTimeout):
        setting.ask(Timeout(read=10.5))  # gives up between the PING and its answer
    assert setting.pipe.pings == [1010]
    setting.clock.time += 3600
    setting.pipe.says(setting.clock.time + 1, DataFrame(1, b"end", flags=["END_STREAM"]))
    assert drive(response.read()) == b"end"
    assert not setting.connection.is_closed


@pytest.mark.parametrize("value", [0, -1, inf, True, "10"])
def test_what_is_no_interval_is_refused(value: Any) -> None:
    with pytest.raises(plugwire.UsageError, match="seconds above 0"):
        HTTP2(keep_alive=value)
    with pytest.raises(plugwire.UsageError, match="seconds above 0"):
        HTTP2(keep_alive_timeout=value)
