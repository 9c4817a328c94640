"""Flow control of HTTP/2 (RFC 9113, 5.2 and 6.9): never more than the peer lets out, nothing lost, nobody stuck."""

from __future__ import annotations

import pytest
from hyperframe.frame import DataFrame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from http2_wire_kit import (
    DATA,
    END_STREAM,
    GET,
    POST,
    Recorder,
    connected,
    data,
    frame,
    head,
    opened,
    padded,
    settings,
    summary,
    window_update,
    written,
)
from plugwire.config import Limits
from plugwire.errors import ProtocolError
from plugwire_transports.http2 import receiver
from plugwire_transports.http2.wire import Code, Wire

MAX_WINDOW = 2**31 - 1
INITIAL_WINDOW_SIZE = 4

# -- what we may send ----------------------------------------------------------------------------------------------


def test_room_is_the_smaller_window() -> None:
    wire = connected()
    stream, _ = opened(wire, POST)
    other, _ = opened(wire, POST)
    assert wire.room(stream) == 65535
    wire.feed(window_update(0, 100))
    assert wire.room(stream) == 65535
    wire.feed(window_update(1, 50))
    assert (wire.room(stream), wire.room(other)) == (65585, 65535)
    wire.send(stream, bytes(60_000), False)
    assert (wire.room(stream), wire.room(other)) == (5585, 5635)
    wire.send(other, bytes(5635), False)
    assert (wire.room(stream), wire.room(other)) == (0, 0)
    wire.feed(window_update(0, 7))
    assert (wire.room(stream), wire.room(other)) == (7, 7)


def test_more_than_room_is_refused_as_a_whole() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 10))
    stream, _ = opened(wire, POST)
    wire.take()
    with pytest.raises(ValueError, match="11 bytes, where the windows let out 10"):
        wire.send(stream, bytes(11), True)
    assert not wire.queued
    assert wire.room(stream) == 10
    wire.feed(settings((INITIAL_WINDOW_SIZE, 100_000)))
    wire.take()
    with pytest.raises(ValueError, match="let out 65535"):
        wire.send(stream, bytes(65_536), True)
    assert not wire.queued


def test_room_that_comes_is_told_to_those_that_had_none() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 100))
    empty, none = opened(wire, POST)
    full, some = opened(wire, POST)
    _, ended = opened(wire, GET)
    wire.send(empty, bytes(100), False)
    for update in (window_update(0, 5), window_update(3, 5), window_update(5, 5)):
        wire.feed(update)
    assert (none.calls, some.calls, ended.calls) == ([], [], [])
    wire.feed(window_update(1, 5))
    assert none.calls == [("window",)]
    wire.feed(window_update(1, 5))
    assert len(none.calls) == 1
    assert wire.room(full) == 105


def test_room_of_the_connection_is_told_to_all_that_can_use_it() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 65_535))
    first, one = opened(wire, POST)
    _, two = opened(wire, POST)
    third, three = opened(wire, POST)
    wire.send(third, b"x", True)
    wire.send(first, bytes(65_534), False)
    assert wire.room(first) == 0
    wire.feed(window_update(0, 1))
    assert (one.calls, two.calls, three.calls) == ([("window",)], [("window",)], [])
    wire.feed(window_update(0, 1))
    assert len(one.calls) == 1


def test_no_room_is_told_while_the_other_window_is_closed() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 65_535))
    first, one = opened(wire, POST)
    wire.send(first, bytes(65_535), False)
    wire.feed(window_update(1, 5))
    assert one.calls == []
    assert wire.room(first) == 0
    wire.feed(window_update(0, 3))
    assert one.calls == [("window",)]
    assert wire.room(first) == 3


def test_a_window_may_become_negative() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 100))
    stream, sink = opened(wire, POST)
    wire.send(stream, bytes(80), False)
    wire.take()
    wire.feed(settings((INITIAL_WINDOW_SIZE, 30)))
    assert wire.room(stream) == 0
    wire.take()
    wire.send(stream, b"", False)
    assert not wire.queued
    with pytest.raises(ValueError, match="let out 0"):
        wire.send(stream, b"x", False)
    wire.feed(window_update(1, 50))
    assert (wire.room(stream), sink.calls) == (0, [])
    wire.feed(window_update(1, 1))
    assert (wire.room(stream), sink.calls) == (1, [("window",)])
    fresh, _ = opened(wire, POST)
    assert wire.room(fresh) == 30


def test_settings_that_widen_windows_tell_those_that_had_no_room() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 0))
    _, none = opened(wire, POST)
    stream, some = opened(wire, POST)
    wire.feed(window_update(3, 1))
    assert (none.calls, some.calls) == ([], [("window",)])
    wire.feed(settings((INITIAL_WINDOW_SIZE, 10)))
    assert (none.calls, some.calls) == ([("window",)], [("window",)])
    assert wire.room(stream) == 11


def test_an_end_needs_no_window() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 100))
    stream, _ = opened(wire, POST)
    wire.send(stream, bytes(100), False)
    wire.feed(settings((INITIAL_WINDOW_SIZE, 0)))
    wire.take()
    wire.send(stream, b"", True)
    assert wire.take() == frame(DATA, END_STREAM, 1)


@pytest.mark.parametrize(("increment", "code"), [(0, Code.PROTOCOL_ERROR), (MAX_WINDOW - 65_534, 3)])
def test_a_window_update_that_is_wrong_ends_its_stream(increment: int, code: int) -> None:
    wire = connected()
    stream, sink = opened(wire, POST)
    wire.take()
    wire.feed(window_update(1, MAX_WINDOW - 65_535) if increment else b"")
    wire.feed(window_update(1, increment or 0))
    assert sink.calls == [("failed", "ProtocolError", False)]
    assert summary(wire) == [("RstStream", 1, code)]
    assert stream.is_over
    assert not wire.is_over


def test_the_widest_windows_are_right() -> None:
    wire = connected()
    stream, _ = opened(wire, POST)
    wire.feed(window_update(1, MAX_WINDOW - 65_535) + window_update(0, MAX_WINDOW - 65_535))
    assert wire.room(stream) == MAX_WINDOW
    wire.feed(settings((INITIAL_WINDOW_SIZE, 65_535)))
    with pytest.raises(ProtocolError, match="window"):
        wire.feed(settings((INITIAL_WINDOW_SIZE, 65_536)))
    assert summary(wire)[-1] == ("GoAway", 0, Code.FLOW_CONTROL_ERROR)


# -- what the peer may send ----------------------------------------------------------------------------------------


def test_the_peer_fills_its_window_and_not_more() -> None:
    wire = connected(stream_window=100)
    _, sink = opened(wire)
    _, other = opened(wire)
    wire.take()
    wire.feed(head(1) + data(1, bytes(100)))
    assert len(sink.calls) == 2
    wire.feed(data(1, b"x"))
    assert sink.calls[2:] == [("failed", "ProtocolError", False)]
    assert summary(wire) == [("RstStream", 1, Code.FLOW_CONTROL_ERROR)]
    wire.feed(head(3, ended=True))
    assert other.calls == [("head", 200, [], None, True)]


def test_padding_counts() -> None:
    wire = connected(stream_window=100)
    _, sink = opened(wire)
    wire.feed(head(1) + padded(DATA, 0, 1, bytes(80), 20))
    assert sink.calls[1:] == [("failed", "ProtocolError", False)]


def test_what_is_read_goes_back_in_steps_of_a_half() -> None:
    wire = connected(stream_window=100)
    stream, _ = opened(wire)
    wire.take()
    wire.feed(head(1) + data(1, bytes(100)))
    wire.consumed(stream, 49)
    assert not wire.queued
    wire.consumed(stream, 1)
    assert summary(wire) == [("WindowUpdate", 1, 50)]
    wire.consumed(stream, 50)
    assert summary(wire) == [("WindowUpdate", 1, 50)]
    wire.feed(data(1, bytes(100)))
    assert not wire.is_over
    assert not stream.is_over


def test_nothing_goes_back_once_the_peer_has_ended() -> None:
    wire = connected(stream_window=100)
    stream, _ = opened(wire, POST)
    wire.take()
    wire.feed(head(1) + data(1, bytes(100), True))
    wire.consumed(stream, 100)
    assert not wire.queued
    stream, _ = opened(wire)
    wire.take()
    wire.feed(head(3) + data(3, bytes(100)))
    wire.reset(stream, 8)
    wire.take()
    wire.consumed(stream, 100)
    assert not wire.queued


def test_nothing_goes_back_if_the_rest_fits() -> None:
    wire = connected(stream_window=100)
    stream, _ = opened(wire)
    wire.take()
    wire.feed(head(1, ("content-length", "188")) + data(1, bytes(90)))
    wire.consumed(stream, 89)
    assert summary(wire) == [("WindowUpdate", 1, 89)]
    wire.feed(data(1, bytes(90)))
    wire.consumed(stream, 91)
    assert not wire.queued
    wire.feed(data(1, bytes(7)) + data(1, b"x", True))
    assert stream.is_over


def test_something_goes_back_if_the_rest_fits_exactly() -> None:
    """Node sends no end of the stream while the window is empty."""
    wire = connected(stream_window=100)
    stream, _ = opened(wire)
    wire.take()
    wire.feed(head(1, ("content-length", "100")) + data(1, bytes(100)))
    wire.consumed(stream, 100)
    assert summary(wire) == [("WindowUpdate", 1, 100)]


def test_the_connections_window_is_topped_up_on_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads it or not: content, padding, and what comes late for a stream that was reset."""
    monkeypatch.setattr(receiver, "TOP_UP", 1000)
    wire = connected()
    stream, _ = opened(wire)
    opened(wire)
    wire.take()
    wire.feed(head(1) + head(3) + data(3, bytes(300)) + padded(DATA, 0, 3, bytes(99), 100))
    wire.reset(stream, 8)
    wire.take()
    wire.feed(data(1, bytes(499)))
    assert not wire.queued
    wire.feed(data(3, b"x"))
    assert summary(wire) == [("WindowUpdate", 0, 1000)]
    wire.feed(data(3, bytes(999)))
    assert not wire.queued


# -- any sizes, any order ------------------------------------------------------------------------------------------

sizes = st.integers(0, 300)
uploads = st.lists(
    st.one_of(
        st.tuples(st.just("settings"), sizes, sizes),
        st.tuples(st.just("connection"), st.just(0), st.integers(1, 300)),
        st.tuples(st.just("stream"), st.integers(0, 2), st.integers(1, 300)),
        st.tuples(st.just("send"), st.integers(0, 2), sizes),
    ),
    max_size=60,
)


@given(sizes, uploads)
def test_uploads_never_exceed_a_window_and_lose_no_byte(initial: int, steps: list[tuple[str, int, int]]) -> None:
    wire = connected((INITIAL_WINDOW_SIZE, initial))
    pairs = [opened(wire, POST) for _ in range(3)]
    wire.take()
    # The connection's window is made small, so that it counts.
    hog, _ = opened(wire, POST)
    wire.feed(window_update(hog.id, 65_000))
    wire.send(hog, bytes(65_000), True)
    wire.take()
    connection = 535
    windows = [initial] * 3
    contents = [bytes((65 + number,)) + bytes(range(256)) * 80 for number in range(3)]
    offered = [b""] * 3
    got = [b""] * 3
    had_room = [wire.room(stream) > 0 for stream, _ in pairs]
    for what, which, size in steps:
        if what == "settings":
            windows = [window + size - initial for window in windows]
            initial = size
            wire.feed(settings((INITIAL_WINDOW_SIZE, size)))
        elif what == "connection":
            connection += size
            wire.feed(window_update(0, size))
        elif what == "stream":
            windows[which] += size
            wire.feed(window_update(pairs[which][0].id, size))
        else:
            stream, _ = pairs[which]
            allowed = max(0, min(windows[which], connection))
            assert wire.room(stream) == allowed
            size = min(size, allowed)
            piece = contents[which][len(offered[which]) :][:size]
            wire.send(stream, piece, False)
            offered[which] += piece
            windows[which] -= len(piece)
            connection -= len(piece)
        for one in written(wire):
            if isinstance(one, DataFrame):
                got[(one.stream_id - 1) // 2] += one.data
        for number, (stream, sink) in enumerate(pairs):
            has_room = wire.room(stream) > 0
            assert has_room == (min(windows[number], connection) > 0)
            told = sink.calls.count(("window",))
            assert told == (has_room and not had_room[number]), "told exactly when there was none and now is some"
            sink.calls.clear()
            had_room[number] = has_room
    assert got == offered


@given(
    st.integers(1, 500),
    st.lists(st.tuples(st.integers(1, 200), st.integers(0, 50), st.integers(0, 400)), max_size=60),
    st.booleans(),
)
def test_downloads_go_on_as_they_are_read(window: int, steps: list[tuple[int, int, int]], announced: bool) -> None:
    """A peer that obeys its window is never reset, and never waits for one when all was read."""
    total = sum(size for size, _, _ in steps)
    wire = connected(stream_window=window)
    stream, sink = opened(wire)
    wire.take()
    wire.feed(head(1, *([("content-length", str(total))] if announced else [])))
    left = window
    read = 0
    sent = b""

    def settle(size: int) -> None:
        nonlocal left, read
        read += size
        wire.consumed(stream, size)
        for one in written(wire):
            assert isinstance(one, WindowUpdateFrame)
            assert one.stream_id == 1
            left += one.window_increment
            assert left <= window

    for size, padding, wanted in steps:
        while size:
            room = left if left <= padding + 1 else left - padding - 1
            piece = bytes((len(sent) % 251,)) * min(size, room)
            frames = data(1, piece) if left <= padding + 1 else padded(DATA, 0, 1, piece, padding)
            left -= len(frames) - 9
            sent += piece
            size -= len(piece)
            wire.feed(frames)
            assert sink.errors == []
            settle(min(wanted, len(sent) - read))
            if not left or (size and left <= 0):
                settle(len(sent) - read)
                assert left > 0 or len(sent) == total, "nobody is stuck"
    wire.feed(data(1, b"", True))
    assert b"".join(call[1] for call in sink.calls if call[0] == "data") == sent
    assert sink.calls[-1][2] is True
    assert stream.is_over


def test_a_wire_may_have_the_smallest_window() -> None:
    wire = Wire(Limits(), stream_window=1)
    wire.feed(settings())
    wire.take()
    stream, sink = opened(wire)
    wire.take()
    wire.feed(head(1))
    for _ in range(5):
        wire.feed(data(1, b"x"))
        wire.consumed(stream, 1)
        assert summary(wire) == [("WindowUpdate", 1, 1)]
    assert sink.joined()[1][1] == b"xxxxx"


def test_a_new_upload_without_room_is_told_when_there_is_some() -> None:
    wire = connected((INITIAL_WINDOW_SIZE, 0))
    sink = Recorder()
    stream = wire.open(sink, POST, False)
    assert wire.room(stream) == 0
    wire.feed(window_update(stream.id, 1))
    assert sink.calls == [("window",)]
