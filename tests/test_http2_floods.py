"""What a peer may send for free over HTTP/2 is bounded, and what is useful is not charged for."""

from __future__ import annotations

import pytest

from http2_wire_kit import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GET,
    HEADERS,
    PING,
    POST,
    PRIORITY,
    SETTINGS,
    Recorder,
    connected,
    data,
    frame,
    goaway,
    head,
    opened,
    padded,
    reset,
    settings,
    summary,
    trailers,
    window_update,
)
from plugwire.config import Limits
from plugwire.errors import LimitExceeded
from plugwire_transports.http2.floods import BUDGET, HIGH_COST, MAX_REPLIES
from plugwire_transports.http2.wire import Code, Wire


def flood(wire: Wire, one: bytes, most: int = 3 * BUDGET) -> int:
    """How many of these frames are taken. What is to be written is written."""
    for number in range(most):
        try:
            wire.feed(one)
        except LimitExceeded as error:
            assert error.limit == "http2 flood budget"
            assert summary(wire)[-1] == ("GoAway", 0, Code.ENHANCE_YOUR_CALM)
            return number
        wire.take()
    return most


ONE_EACH = {
    "PING": frame(PING, 0, 0, bytes(8)),
    "answers to no PING": frame(PING, ACK, 0, bytes(8)),
    "SETTINGS": settings(),
    "SETTINGS of something unknown": settings((99, 1)),
    "empty DATA": data(1, b""),
    "padding-only DATA": padded(DATA, 0, 1, b"", 200),
    "WINDOW_UPDATE of 1": window_update(1, 1),
    "WINDOW_UPDATE of 1, of the connection": window_update(0, 1),
    "WINDOW_UPDATE of a closed stream": window_update(3, 10_000),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "PRIORITY of idle streams": frame(PRIORITY, 0, 99, bytes(5)),
    "ALTSVC": frame(10, 0, 1, b"abc"),
    "ORIGIN": frame(12, 0, 0, b""),
    "unknown": frame(255, 255, 77, bytes(100)),
}


def busy() -> tuple[Wire, Recorder]:
    """A wire with stream 1 inside its response, stream 3 closed."""
    wire = connected()
    _, sink = opened(wire, POST)
    opened(wire)
    wire.feed(head(1) + head(3, ended=True))
    wire.take()
    assert wire._budget.left == BUDGET
    return wire, sink


@pytest.mark.parametrize("one", ONE_EACH.values(), ids=ONE_EACH.keys())
def test_frames_that_cost_one(one: bytes) -> None:
    wire, sink = busy()
    assert flood(wire, one) == BUDGET
    assert sink.calls[-1] == ("failed", "LimitExceeded http2 flood budget", False)
    assert wire.is_over


def test_acknowledgements_of_nothing() -> None:
    wire, _ = busy()
    assert flood(wire, frame(SETTINGS, ACK, 0)) == BUDGET + 1, "the first one is ours"


def test_goaway_once_is_free() -> None:
    wire, _ = busy()
    assert flood(wire, goaway(1)) == BUDGET + 1


def test_resets_of_closed_streams() -> None:
    wire, _ = busy()
    assert flood(wire, reset(3, 8)) == BUDGET // HIGH_COST


def test_continuations() -> None:
    wire, _ = busy()
    opened(wire)
    wire.feed(frame(HEADERS, 0, 5))
    assert flood(wire, frame(CONTINUATION, 0, 5)) == BUDGET // HIGH_COST


def test_settings_that_repeat_themselves() -> None:
    """Each further one is work for h2, and a reason to walk over all streams."""
    wire, _ = busy()
    with pytest.raises(LimitExceeded):
        wire.feed(settings(*[(4, number) for number in range(BUDGET + 10)]))


def test_unknown_settings_are_not_kept() -> None:
    wire, _ = busy()
    for start in range(10, 60_000, 2000):
        wire.feed(settings(*[(start + number, 1) for number in range(2000)]))
        wire.take()
    assert len(wire._control.settings) < 20


@pytest.mark.parametrize("useful", [data(1, b"x"), head(1, status="103")])
def test_useful_frames_fill_the_budget_up_again(useful: bytes) -> None:
    wire = connected(limits=Limits(max_informational=10**6))
    opened(wire)
    if useful[3] == DATA:
        wire.feed(head(1))
    ping = frame(PING, 0, 0, bytes(8))
    assert flood(wire, useful + ping, 5 * BUDGET) == 5 * BUDGET
    wire.feed(useful * 3 * BUDGET)
    assert wire._budget.left == BUDGET, "not above its ceiling"


def test_what_we_send_pays_for_window_updates() -> None:
    """However small the pieces are that a caller sends."""
    wire = connected()
    stream, _ = opened(wire, POST)
    for _ in range(3 * BUDGET):
        wire.send(stream, b"x", False)
        wire.take()
        wire.feed(window_update(0, 1) + window_update(1, 1))
    assert not wire.is_over


def test_large_window_updates_are_free() -> None:
    wire = connected()
    opened(wire, POST)
    wire.feed((window_update(0, 512) + window_update(1, 512)) * 2 * BUDGET)
    assert wire._budget.left == BUDGET


def test_a_quiet_time_fills_it_up() -> None:
    wire, _ = busy()
    for _ in range(3 * BUDGET):
        wire.feed(frame(PING, 0, 0, bytes(8)))
        wire.take()
        wire.rested(15.0)
    assert not wire.is_over


# -- late frames of streams that we reset --------------------------------------------------------------------------


def test_late_frames_are_not_charged() -> None:
    """Thousands of cancelled requests, whose answers come all the same."""
    wire = connected()
    for _ in range(2 * BUDGET):
        stream, _ = opened(wire)
        wire.reset(stream, 8)
        wire.take()
        number = stream.id
        wire.feed(
            head(number, status="103") + head(number) + data(number, b"x") + window_update(number, 5000)
            + trailers(number, ("x", "y"))
        )  # fmt: skip
        stream, _ = opened(wire)
        wire.reset(stream, 8)
        wire.feed(head(stream.id) + reset(stream.id, 8))
    assert wire._budget.left == BUDGET


def test_late_heads_are_bounded() -> None:
    wire = connected(limits=Limits(max_informational=3))
    stream, _ = opened(wire)
    wire.reset(stream, 8)
    assert flood(wire, head(1, status="103")) == 3 + 2 + BUDGET // HIGH_COST


def test_late_empty_content_is_charged() -> None:
    wire = connected()
    stream, _ = opened(wire)
    wire.reset(stream, 8)
    assert flood(wire, data(1, b"")) == BUDGET


def test_frames_of_streams_too_old_to_know_are_charged() -> None:
    for one, cost in ((data(1, b"x"), 1), (head(1), HIGH_COST)):
        wire = connected()
        for _ in range(1010):
            stream, _ = opened(wire)
            wire.reset(stream, 8)
        assert flood(wire, one) == BUDGET // cost


# -- answers that nobody reads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [frame(PING, 0, 0, bytes(8)), settings()])
def test_answers_that_wait_to_be_written_are_bounded(one: bytes) -> None:
    """A peer that earns its budget by content, and reads nothing (CVE-2019-9512, CVE-2019-9515)."""
    wire = connected()
    wire.open(Recorder(), GET, True)
    wire.feed(head(1))
    wire.take()
    both = data(1, b"x") + one
    for _ in range(MAX_REPLIES):
        wire.feed(both)
    wire.take()
    for _ in range(MAX_REPLIES):
        wire.feed(both)
    with pytest.raises(LimitExceeded, match="answers to read"):
        wire.feed(both)
    assert summary(wire)[-1] == ("GoAway", 0, Code.ENHANCE_YOUR_CALM)


def test_a_head_in_many_frames_is_no_flood() -> None:
    wire = connected()
    for _ in range(50):
        stream, sink = opened(wire)
        fields = [("x", "y" * 3000)] * 80
        encoded = head(stream.id, *fields)[9:]
        pieces = [encoded[place : place + 16_384] for place in range(0, len(encoded), 16_384)]
        wire.feed(frame(HEADERS, 1, stream.id, pieces[0]))
        for piece in pieces[1:-1]:
            wire.feed(frame(CONTINUATION, 0, stream.id, piece))
        wire.feed(frame(CONTINUATION, END_HEADERS, stream.id, pieces[-1]))
        assert sink.calls[0][0] == "head"
        stream, _ = opened(wire)
        wire.feed(head(stream.id) + data(stream.id, b"x") * 60 + data(stream.id, b"", True))
    assert not wire.is_over
