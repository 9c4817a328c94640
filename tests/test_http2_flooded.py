"""A peer that floods a session with frames that serve nothing is cut off, and told why; the next request goes over a
new connection. (What each kind of frame costs, is tested with the wire, in `test_http2_floods`.)"""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

import plugwire
from h2_peer import ClientClosed, Conversation, H2Peer
from plugwire_transports.http2.floods import BUDGET, HIGH_COST, MAX_REPLIES
from worlds import World

H2 = ("h2",)
CALM = 11

FLOODS: dict[str, Frame] = {
    "PING": PingFrame(0, opaque_data=b"plugwire"),
    "answers to no PING": PingFrame(0, opaque_data=b"plugwire", flags=["ACK"]),
    "SETTINGS": SettingsFrame(0),
    "empty DATA": DataFrame(1),
    "WINDOW_UPDATE": WindowUpdateFrame(0, window_increment=1),
    "WINDOW_UPDATE of the stream": WindowUpdateFrame(1, window_increment=1),
    "PRIORITY": PriorityFrame(1),
    "unknown": ExtensionFrame(0xBB, 0, flag_byte=0, body=b"grease"),
    "RST_STREAM": RstStreamFrame(1, error_code=8),
    "GOAWAY": GoAwayFrame(0, last_stream_id=2**31 - 1),
    "CONTINUATION": ContinuationFrame(1),
}
FLOODS["unknown"].body_len = 6  # hyperframe reckons it for all but this one


def next_one(h2: Conversation) -> None:
    stream, _ = h2.await_headers()
    h2.respond(stream, 200, b"next")


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_the_connection_with_a_reason(world: World, kind: str) -> None:
    codes: list[int] = []

    def flood(h2: Conversation) -> None:
        h2.checks = False
        stream, _ = h2.await_headers()
        frame = FLOODS[kind]
        if kind == "RST_STREAM":  # the stream that it ends is the first one's
            h2.respond(stream, 200, b"first")
            h2.await_headers()
        elif kind == "CONTINUATION":
            h2.send(HeadersFrame(stream, b""))
        elif kind in ("empty DATA", "WINDOW_UPDATE of the stream"):
            h2.headers(stream, [(":status", "200")])
        try:
            # More than is held before it is noticed: the client's answers are not read meanwhile.
            for _ in range(30):
                h2.send_raw(frame.serialize() * 100)
        except OSError:
            pass
        try:
            codes.append(h2.await_frame(GoAwayFrame).error_code)
        except ClientClosed:
            pass

    with H2Peer(flood, next_one) as peer:
        async with world.session(http_versions=H2, defaults=False) as session:
            if kind == "RST_STREAM":
                assert (await session.get(peer.url)).text == "first"
            with pytest.raises(plugwire.LimitExceeded) as caught:
                await session.get(peer.url)
            assert caught.value.limit == "http2 flood budget"
            assert caught.value.request is not None
            assert caught.value.sent
            assert session.stats()[:3] == (0, 0, 0)
            assert (await session.get(peer.url)).text == "next"
    assert codes == [CALM]


async def test_a_flood_on_an_idle_connection_is_not_seen(world: World) -> None:
    go, done = threading.Event(), threading.Event()

    def flood(h2: Conversation) -> None:
        next_one(h2)
        h2.wait_for(go)
        h2.send_raw(PriorityFrame(1).serialize() * 2 * BUDGET)
        done.set()

    with H2Peer(flood, next_one) as peer:
        async with world.session(http_versions=H2, defaults=False) as session:
            await session.get(peer.url)
            go.set()
            assert await world.runtime().run_blocking(done.wait, 30)
            response = await session.post(peer.url, content=iter([b"once"]))
            assert response.text == "next"
            assert not response.connection.reused


async def test_all_who_share_the_connection_are_told(world: World) -> None:
    def flood(h2: Conversation) -> None:
        for _ in range(3):
            h2.await_headers()
        try:
            h2.send_raw(FLOODS["PRIORITY"].serialize() * 2 * BUDGET)
        except OSError:
            pass

    errors: list[plugwire.LimitExceeded] = []

    with H2Peer(flood) as peer:
        async with world.session(http_versions=H2, defaults=False) as session:

            async def ask() -> None:
                with pytest.raises(plugwire.LimitExceeded) as caught:
                    await session.get(peer.url)
                errors.append(caught.value)

            await world.gather(*[ask] * 3)
            assert session.stats()[:3] == (0, 0, 0)
    assert len({id(error) for error in errors}) == 3


async def test_a_peer_that_is_useful_never_meets_the_budget(world: World) -> None:
    """For each answer a PING, SETTINGS and window updates: after thousands of them all is well."""

    def chatty(h2: Conversation) -> None:
        for stream, fields in h2.requests():
            assert fields[":method"] == "GET"
            h2.send(
                FLOODS["PING"], FLOODS["SETTINGS"], FLOODS["PRIORITY"], FLOODS["unknown"],
                WindowUpdateFrame(0, window_increment=1),
            )  # fmt: skip
            h2.respond(stream, 200, b"useful")

    rounds = BUDGET // 5 + 100
    with H2Peer(chatty) as peer:
        async with world.session(http_versions=H2, defaults=False) as session:
            for _ in range(rounds):
                assert (await session.get(peer.url)).text == "useful"
        assert peer.accepted == 1
    assert HIGH_COST < BUDGET
    assert MAX_REPLIES >= BUDGET


async def test_a_ping_is_answered_and_settings_are_acknowledged(world: World) -> None:
    acknowledged: list[Any] = []

    def script(h2: Conversation) -> None:
        acknowledged.append(h2.await_frame(SettingsFrame, flag="ACK"))
        stream, _ = h2.await_headers()
        h2.ping(b"12345678")
        assert h2.await_frame(PingFrame, flag="ACK").opaque_data == b"12345678"
        h2.send_settings(initial_window_size=100)
        h2.await_frame(SettingsFrame, flag="ACK")
        h2.respond(stream, 200, b"done")

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2, defaults=False) as session:
            assert (await session.get(peer.url)).text == "done"
    assert acknowledged
