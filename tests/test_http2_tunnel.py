"""CONNECT over HTTP/2: the stream inside of a stream, beside others on the same connection. Scripted peers."""

from __future__ import annotations

import gc
import itertools
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, WindowUpdateFrame

import plugwire
from faces import bare
from h2_peer import ClientClosed, Conversation, H2Peer
from plugwire import Limits, Request, Timeout, TLSConfig, UsageError
from plugwire.drive import drive
from plugwire.errors import Busy
from plugwire.protocols import LOCAL_ADDRESS, PEER_ADDRESS, SOCKET, TLS, Stream
from plugwire.testing.conformance import (
    STREAM_CHECKS,
    check_one,
    runs_out_of_time_while_sending,
    waits_for_either_direction,
)
from plugwire_transports.http2.tunnel import TunnelStream
from plugwire_transports.tls_context import context_for
from plugwire_transports.tls_stream import TLSStream
from tls_peer import CA_PEM, server_context
from worlds import PATIENCE, BlockingWorld, join_all

if TYPE_CHECKING:
    from plugwire.protocols import Runtime
    from plugwire.testing.conformance import Check
    from worlds import World

INTERNAL_ERROR, CANCEL = 2, 8
FOREVER = float("inf")
OPENED = [(":status", "200")]


def h2_session(world: World, **options: Any) -> Any:
    return world.session(http_versions=("h2",), **options)


def connecting(peer: H2Peer, target: str = "there.example:443") -> Request:
    request = Request("CONNECT", peer.url)
    request.target = target
    return request


async def tunnel(session: Any, peer: H2Peer, target: str = "there.example:443") -> Stream:
    response = await session.send(connecting(peer, target))
    assert response.status_code == 200
    taken = bare(response.take_stream())
    return getattr(taken, "stream", taken)  # of the blocking face, what lies below it


def next_is_served(h2: Conversation) -> None:
    stream, _ = h2.await_headers()
    h2.respond(stream, 200, b"next")


def opens_one_that_is_reset(h2: Conversation) -> None:
    """A script: the client resets the tunnel, and the connection goes on."""
    stream, _ = h2.await_headers()
    h2.headers(stream, OPENED)
    assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
    next_is_served(h2)


async def next_is_fine(session: Any, peer: H2Peer) -> None:
    assert (await session.get(peer.url)).text == "next"
    assert session.stats()[:2] == (1, 1)


async def test_the_fields_of_a_connect(world: World) -> None:
    """RFC 9113, 8.5: neither scheme nor path, and the head does not end the stream."""

    def script(h2: Conversation) -> None:
        for authority in ("there.example:443", f"127.0.0.1:{peer.port}", "[::1]:8443"):
            block = h2.await_block()
            assert not block.is_last
            fields = dict(block.fields)
            assert {name: value for name, value in fields.items() if name[0] == ":"} == {
                ":method": "CONNECT",
                ":authority": authority,
            }
            assert "host" not in fields
            assert "content-length" not in fields
            h2.headers(block.stream_id, OPENED)
            assert h2.await_frame(RstStreamFrame, block.stream_id).error_code == CANCEL

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            for target in ("there.example:443", None, "[::1]:8443"):
                request = Request("CONNECT", peer.url)
                request.target = target
                response = await session.send(request)
                assert (response.status_code, response.http_version) == (200, "HTTP/2")
                await response.close()


async def test_bytes_go_both_ways_and_each_side_ends_by_itself(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [*OPENED, ("content-length", "3")])  # means nothing here (RFC 9110, 9.3.6)
        h2.data(stream, b"hello")
        assert h2.await_frame(DataFrame, stream).data == b"from us"
        h2.data(stream, b"!")
        end = h2.await_frame(DataFrame, stream)
        assert (end.data, "END_STREAM" in end.flags) == (b"", True)
        h2.data(stream, b"behind our end", end_stream=True)
        next_is_served(h2)
        assert not [frame for frame in h2.received if isinstance(frame, RstStreamFrame)]

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
            assert await stream.receive(3, FOREVER) == b"hel"
            assert await stream.receive(3, FOREVER) == b"lo"
            assert await stream.send(b"from us", FOREVER) == 7
            assert await stream.receive(3, FOREVER) == b"!"
            await stream.send_eof(FOREVER)
            with pytest.raises(BrokenPipeError):
                await stream.send(b"more", FOREVER)
            assert await stream.receive(100, FOREVER) == b"behind our end"
            assert await stream.receive(3, FOREVER) == b""
            stream.close()
            stream.close()
            await next_is_fine(session, peer)


async def test_the_peers_end_leaves_our_side_open(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, OPENED)
        h2.data(stream, b"all", end_stream=True)
        assert h2.await_body(stream) == b"still talking"
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
            assert await stream.receive(10, FOREVER) == b"all"
            assert await stream.receive(10, FOREVER) == b""
            await stream.send(b"still talking", FOREVER)
            await stream.send_eof(FOREVER)
            stream.close()
            await next_is_fine(session, peer)


async def test_closing_resets_the_stream_alone(world: World) -> None:
    with H2Peer(opens_one_that_is_reset) as peer:
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
            stream.close()
            with pytest.raises(ConnectionAbortedError):
                stream.read_now(1)
            with pytest.raises(ConnectionAbortedError):
                stream.write_now(b"x")
            await next_is_fine(session, peer)


async def test_an_end_that_is_still_to_be_sent_when_the_tunnel_is_closed_has_not_gone_out(world: World) -> None:
    """Closed by somebody else, between two looks."""
    with H2Peer(opens_one_that_is_reset) as peer:
        async with h2_session(world) as session:
            stream: Any = await tunnel(session, peer)
            stream.write_now(bytes(100_000))  # more than the window lets out
            push = stream._push

            def closing() -> None:
                push()
                stream.close()

            stream._push = closing
            with pytest.raises(ConnectionAbortedError):
                await stream.send_eof(FOREVER)
            await next_is_fine(session, peer)


@pytest.mark.parametrize("end", ["abort", "close"])
async def test_a_write_that_finds_the_tunnel_ended_from_here_says_so(world: World, end: str) -> None:
    """Somebody else ended it just after the writer has looked."""
    with H2Peer(opens_one_that_is_reset) as peer:
        async with h2_session(world) as session:
            stream: Any = await tunnel(session, peer)
            push = stream._push

            def ended() -> None:
                getattr(stream, end)()
                push()

            stream._push = ended
            with pytest.raises(ConnectionAbortedError):
                stream.write_now(b"x")
            stream.close()
            await next_is_fine(session, peer)


def test_threads_that_come_to_wait_at_once_are_told_apart() -> None:
    both, asked = threading.Barrier(2), itertools.count()
    outcomes: list[BaseException | None] = []

    class Together(TunnelStream):
        """Both waits have begun before either goes on."""

        @property
        def _connection(self) -> Any:
            if next(asked) < 2:
                both.wait(PATIENCE)
            return self.__dict__["_connection"]

    def wait() -> None:
        try:
            drive(stream.wait(True, False, time.monotonic() + PATIENCE / 4))
            outcomes.append(None)
        except (Busy, TimeoutError) as error:
            outcomes.append(error)
            stream.nudge()

    world = BlockingWorld()

    async def opened() -> None:
        nonlocal stream
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
            stream.__class__ = Together
            threads = [threading.Thread(target=wait, daemon=True) for _ in range(2)]
            for thread in threads:
                thread.start()
            join_all(threads)
            stream.__class__ = TunnelStream
            stream.close()
            await next_is_fine(session, peer)

    stream: Any = None
    with H2Peer(opens_one_that_is_reset) as peer:
        world.run(opened)
    assert {type(outcome) for outcome in outcomes} == {Busy, type(None)}, outcomes


async def test_a_dropped_tunnel_is_reset(world: World) -> None:
    with H2Peer(opens_one_that_is_reset) as peer:
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
            del stream
            gc.collect()
            await next_is_fine(session, peer)


@pytest.mark.parametrize("how", ["unread", "closed"])
async def test_a_tunnel_that_nobody_takes_is_reset(world: World, how: str) -> None:
    with H2Peer(opens_one_that_is_reset) as peer:
        async with h2_session(world) as session:
            response = await session.send(connecting(peer))
            if how == "closed":
                await response.close()
                with pytest.raises(UsageError):
                    response.take_stream()
            del response
            gc.collect()
            await next_is_fine(session, peer)


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_the_peers_reset_is_that_of_a_connection(world: World, is_waiting: bool) -> None:
    may_reset = threading.Event()

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, OPENED)
        h2.data(stream, b"last")
        if is_waiting:
            h2.wait_for(may_reset)
        h2.rst(stream, INTERNAL_ERROR)
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
            assert await stream.receive(10, FOREVER) == b"last"
            may_reset.set()
            with pytest.raises(ConnectionResetError, match="INTERNAL_ERROR"):
                await stream.receive(10, FOREVER)
            with pytest.raises(OSError, match="INTERNAL_ERROR"):
                await stream.send(b"x", FOREVER)
            await next_is_fine(session, peer)
            stream.close()


async def test_a_reset_wakes_who_waits_for_a_window(world: World) -> None:
    """The peer has sent all, and takes no more: RST_STREAM(NO_ERROR)."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, OPENED)
        h2.data(stream, b"all I have", end_stream=True)
        came = 0
        while came < 65535:
            came += len(h2.await_frame(DataFrame, stream).data)
        h2.rst(stream, 0)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
            with pytest.raises(BrokenPipeError):
                await stream.send(bytes(100_000), world.runtime().now() + 30)
            assert await stream.receive(100, FOREVER) == b"all I have"
            assert await stream.receive(100, FOREVER) == b""
            stream.close()


async def test_a_tunnel_waits_for_its_window(world: World) -> None:
    may_go_on = threading.Event()
    content = bytes(range(250)) * 400

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, OPENED)
        h2.wait_for(may_go_on)
        assert h2.await_body(stream) == content + b"and more"
        h2.data(stream, b"bye", end_stream=True)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            now = world.runtime().now
            stream = await tunnel(session, peer)
            with pytest.raises(TimeoutError):
                await stream.send(content, now() + 0.02)
            assert stream.unsent == len(content) - 65535
            for is_reading in (False, True):
                with pytest.raises(TimeoutError):
                    await stream.wait(is_reading, True, now() + 0.02)
            buffer = bytearray(b"and more")
            stream.write_now(buffer)
            buffer[:] = b"scribble"
            may_go_on.set()
            await stream.send(b"", now() + 30)
            assert stream.unsent == 0
            await stream.send_eof(now() + 30)
            assert await stream.receive(10, now() + 30) == b"bye"
            stream.close()


async def test_a_connect_that_is_refused_is_a_response(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.respond(stream, 407, b"who are you?")
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            response = await session.send(connecting(peer))
            assert (response.status_code, response.text) == (407, "who are you?")
            with pytest.raises(UsageError):
                response.take_stream()
            await next_is_fine(session, peer)


async def test_a_connect_that_nobody_answers_runs_out_of_time(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, stream).error_code == CANCEL
        next_is_served(h2)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(plugwire.ReadTimeout) as caught:
                await session.send(connecting(peer), timeout=Timeout(read=0.05))
            assert caught.value.phase == "head"
            await next_is_fine(session, peer)


async def test_others_use_the_connection_beside_a_tunnel(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, OPENED)
        for _ in range(3):
            next_is_served(h2)
            h2.data(stream, h2.await_frame(DataFrame, stream).data)

    with H2Peer(script) as peer:
        async with h2_session(world, limits=Limits(max_connections=1)) as session:
            stream = await tunnel(session, peer)
            for text in (b"one", b"two", b"three"):
                assert (await session.get(peer.url)).text == "next"
                await stream.send(text, FOREVER)
                assert await stream.receive(100, FOREVER) == text
            stream.close()


async def test_a_tunnel_ends_with_its_connection(world: World) -> None:
    """There is no other place for it: unlike an upgraded connection it is one stream among others."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, OPENED)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
        with pytest.raises(OSError):
            await stream.receive(10, FOREVER)
        stream.close()


async def test_what_a_tunnel_says_of_itself(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, OPENED)

    with H2Peer(script, tls=True) as peer:
        async with h2_session(world, tls=peer.tls_config) as session:
            stream = await tunnel(session, peer)
            address = stream.extra(PEER_ADDRESS)
            assert address is not None
            assert address.port == peer.port
            assert stream.extra(LOCAL_ADDRESS) is not None
            # TLS would be the proxy's, and the socket is not this stream's own.
            assert stream.extra(TLS) is None
            assert stream.extra(SOCKET) is None
            stream.close()


# -- what every stream promises ------------------------------------------------------------------------------------


class Relay:
    """Joins every two tunnels, as proxies do: what cannot go on waits, and so does its sender."""

    def __call__(self, h2: Conversation) -> None:
        self.h2 = h2
        self.other: dict[int, int] = {}
        self.left: dict[int, bytearray] = {}
        self.windows: dict[int, int] = {}
        self.owed: dict[int, int] = {}
        self.ended: set[int] = set()
        self.lonely: int | None = None
        while True:
            try:
                frame = h2.await_frame()
                self._handle(frame)
            except (ClientClosed, OSError):  # it may close while something is on its way to it
                return

    def _handle(self, frame: Frame) -> None:
        h2 = self.h2
        stream = frame.stream_id
        if isinstance(frame, HeadersFrame):
            self.left[stream], self.windows[stream] = bytearray(), 1 << 20
            if self.lonely is None:
                self.lonely = stream
                return
            self.other[stream], self.other[self.lonely] = self.lonely, stream
            h2.headers(self.lonely, OPENED)
            h2.headers(stream, OPENED)
            self.lonely = None
        elif stream not in self.other:
            return
        elif isinstance(frame, DataFrame):
            self.left[stream] += frame.data
            self._give_back(0, len(frame.data))
            if "END_STREAM" in frame.flags:
                self.ended.add(stream)
            self._pass_on(stream)
        elif isinstance(frame, WindowUpdateFrame):
            self.windows[stream] += frame.window_increment
            self._pass_on(self.other[stream])
        elif isinstance(frame, RstStreamFrame):
            other = self.other.pop(stream)
            if self.other.pop(other, None) is not None:
                h2.rst(other, CANCEL)

    def _give_back(self, stream: int, size: int) -> None:
        """Not for each byte: that would be a flood."""
        self.owed[stream] = owed = self.owed.get(stream, 0) + size
        if owed >= 16384:
            self.owed[stream] = 0
            self.h2.window_update(stream, owed)

    def _pass_on(self, stream: int) -> None:
        other, left = self.other[stream], self.left[stream]
        size = min(len(left), self.windows[other])
        if size:
            self.windows[other] -= size
            self.h2.data(other, bytes(left[:size]))
            del left[:size]
            self._give_back(stream, size)
        if stream in self.ended and not left:
            self.ended.remove(stream)
            self.h2.data(other, b"", end_stream=True)


# The relay is a thread of this process, and takes longer to fill its buffers than these two give it.
HURRIED = (runs_out_of_time_while_sending, waits_for_either_direction)


@pytest.mark.parametrize("check", [check for check in STREAM_CHECKS if check not in HURRIED])
async def test_a_tunnel_keeps_the_promises_of_a_stream(world: World, check: Check) -> None:
    """Both ends are tunnels on one connection, so one leads and the other follows."""
    with H2Peer(Relay()) as peer:
        async with h2_session(world) as session:

            async def pair(runtime: Runtime) -> tuple[Stream, Stream]:
                mine, theirs = await world.gather(lambda: tunnel(session, peer), lambda: tunnel(session, peer))
                return mine, theirs

            await check_one(check, pair, world.runtime())


async def test_tls_inside_of_a_tunnel(world: World) -> None:
    trusting = TLSConfig(ca_data=CA_PEM)
    with H2Peer(Relay()) as peer:
        async with h2_session(world) as session:
            ends = await world.gather(lambda: tunnel(session, peer), lambda: tunnel(session, peer))
            secured: list[TLSStream] = []

            async def secure(stream: Stream, is_server: bool) -> TLSStream:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                context = server_context() if is_server else context_for(trusting)
                tls = context.wrap_bio(incoming, outgoing, is_server, None if is_server else "peer.example")
                while True:
                    try:
                        tls.do_handshake()
                        is_done = True
                    except ssl.SSLWantReadError:
                        is_done = False
                    await stream.send(outgoing.read(), FOREVER)
                    if is_done:
                        info: Any = None
                        return TLSStream(stream, tls, incoming, outgoing, info)
                    incoming.write(await stream.receive(65536, FOREVER))

            secured = await world.gather(lambda: secure(ends[0], False), lambda: secure(ends[1], True))
            text = bytes(range(256)) * 2000

            async def all_of(stream: Stream) -> bytes:
                came = b""
                while len(came) < len(text):
                    came += await stream.receive(65536, FOREVER)
                return came

            for one, other in (secured, secured[::-1]):
                sent, came = await world.gather(lambda s=one: s.send(text, FOREVER), lambda s=other: all_of(s))
                assert (sent, came) == (len(text), text)
            for stream in secured:
                stream.close()


async def test_a_send_is_over_when_its_bytes_have_left_the_connection(world: World) -> None:
    """What the windows let out may still lie in the connection's stream, where nobody else would send it."""
    held = threading.Event()
    size = 8 * 1024 * 1024

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.window_update(0, size)
        h2.window_update(stream, size)
        h2.headers(stream, OPENED)
        h2.wait_for(held)
        left = size
        while left:
            left -= len(h2.await_frame(DataFrame, stream).data)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            stream = await tunnel(session, peer)
            stream.write_now(bytes(size))
            assert stream.unsent > 0
            held.set()
            await stream.send(b"", FOREVER)
            assert stream.unsent == 0
            stream.close()
