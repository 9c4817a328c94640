"""The scripted HTTP/2 peer says what it is told to, hears every frame, and tells when the client broke the rules."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from hpack import NeverIndexedHeaderTuple
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from h2_client import BareClient, bare_client, connected
from h2_peer import PREFACE, ClientClosed, Conversation, H2Peer
from plugwire.protocols import Address
from plugwire.testing import PeerFailure
from plugwire.testing.peer import expect_head, send
from worlds import World

TIMEOUT = 30


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@contextlib.contextmanager
def client(peer: H2Peer) -> Iterator[BareClient]:
    with bare_client(peer.url, ca_data=peer.tls_config.ca_data) as one:
        yield one


def raw(peer: H2Peer) -> contextlib.AbstractContextManager[socket.socket]:
    return connected(peer.url, ca_data=peer.tls_config.ca_data)


def nothing(h2: Conversation) -> None:
    pass


def test_plays_an_exchange(tls: bool) -> None:
    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert list(fields.items()) == [(":method", "GET"), (":authority", "x"), (":scheme", scheme), (":path", "/a")]
        h2.headers(stream, [(":status", "200"), ("x-a", "1"), ("x-a", "2")])
        h2.data(stream, b"hi", end_stream=True)

    scheme = "https" if tls else "http"
    with H2Peer(script, tls=tls) as peer, raw(peer) as sock:
        one = BareClient(sock)
        one.request(path="/a")
        assert one.until(h2.events.ResponseReceived).headers == [(":status", "200"), ("x-a", "1"), ("x-a", "2")]
        assert one.until(h2.events.DataReceived).data == b"hi"
        one.until(h2.events.StreamEnded)


async def test_serves_every_world(world: World) -> None:
    def script(h2: Conversation) -> None:
        h2.respond(h2.await_headers()[0], body=b"hi")

    with H2Peer(script) as peer:
        runtime = world.runtime()
        one = h2.connection.H2Connection()
        one.initiate_connection()
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
        one.send_headers(1, head, end_stream=True)
        stream = await runtime.dial_tcp([Address(socket.AF_INET, "127.0.0.1", peer.port)], math.inf, local_address=None)
        try:
            await stream.send(one.data_to_send(), math.inf)
            seen: list[Any] = []
            while not any(isinstance(event, h2.events.StreamEnded) for event in seen):
                seen += one.receive_data(await stream.receive(65536, math.inf))
            arrived = peer.event(HeadersFrame, stream_id=1)
            assert await runtime.run_blocking(arrived.wait, TIMEOUT)
        finally:
            stream.close()
    assert not [thread for thread in threading.enumerate() if "H2Peer" in thread.name]


def test_tells_settings_and_hears_the_clients() -> None:
    def script(h2: Conversation) -> None:
        assert h2.settings["enable_push"] == 1  # as the bare loop has it
        h2.await_frame(SettingsFrame, flag="ACK")
        h2.send_settings(initial_window_size=0)
        h2.await_frame(SettingsFrame, flag="ACK")
        done.set()

    done = threading.Event()
    with H2Peer(script, settings={"max_concurrent_streams": 7}) as peer, client(peer) as one:
        one.until(h2.events.RemoteSettingsChanged, 2)
        assert done.wait(TIMEOUT)
        assert (one.h2.remote_settings.max_concurrent_streams, one.h2.remote_settings.initial_window_size) == (7, 0)


def test_leaves_everything_to_the_script_without_a_handshake() -> None:
    def script(h2: Conversation) -> None:
        h2.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert h2.connection.read(len(PREFACE)) == PREFACE
        h2.await_frame(SettingsFrame)
        h2.close()

    with H2Peer(script, handshake=False) as peer, raw(peer) as sock:
        sock.sendall(PREFACE + SettingsFrame(0).serialize())
        assert b"".join(iter(lambda: sock.recv(100), b"")) == b"HTTP/1.1 400 Bad Request\r\n\r\n"


def test_plays_steps_and_chooses_no_h2() -> None:
    with H2Peer([expect_head(), send(b"x")], tls=True, alpn=["http/1.1"]) as peer, raw(peer) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.selected_alpn_protocol() == "http/1.1"
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(1) == b"x"


def test_cuts_blocks_pads_and_sends_trailers() -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "103")])
        h2.headers(stream, [(":status", "200"), NeverIndexedHeaderTuple("x-a", "b" * 20000)], cuts=[1, 2, 2, 16000])
        h2.data(stream, b"hi", pad_length=0)
        h2.data(stream, b"", pad_length=255)
        h2.headers(stream, [("x-t", "1")], end_stream=True)

    with H2Peer(script) as peer, client(peer) as one:
        one.request()
        assert one.until(h2.events.TrailersReceived).headers == [("x-t", "1")]
        assert one.until(h2.events.InformationalResponseReceived).headers == [(":status", "103")]
        assert len(one.until(h2.events.ResponseReceived).headers[1][1]) == 20000
        data = [event for event in one.events if isinstance(event, h2.events.DataReceived)]
        assert [(event.data, event.flow_controlled_length) for event in data] == [(b"hi", 3), (b"", 256)]


def test_cuts_large_content_and_heads_at_the_frame_size() -> None:
    def script(h2: Conversation) -> None:
        h2.respond(h2.await_headers()[0], body=b"x" * 40000, fields=[("x-a", "\xff" * 5000)])

    with H2Peer(script) as peer, client(peer) as one:
        one.request()
        one.until(h2.events.StreamEnded)
        sizes = [len(event.data) for event in one.events if isinstance(event, h2.events.DataReceived)]
        assert sizes == [16384, 16384, 7232]


def test_reads_a_body_and_gives_windows_back() -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        body = h2.await_body(stream)
        h2.respond(stream, body=b"%d" % len(body))
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == b"ab"
        assert h2.await_headers(stream) == (stream, {"x-t": "1"})
        h2.respond(stream)

    with H2Peer(script) as peer, client(peer) as one:
        one.request("PUT", "/", b"x" * 300_000)
        one.until(h2.events.StreamEnded)
        assert one.until(h2.events.DataReceived).data == b"300000"
        one.h2.send_headers(3, [(":method", "PUT"), (":scheme", "http"), (":authority", "x"), (":path", "/")])
        one.h2.send_data(3, b"ab")
        one.h2.send_headers(3, [("x-t", "1")], end_stream=True)
        one.flush()
        one.until(h2.events.StreamEnded, 2)


def test_takes_frames_by_kind_stream_and_flag() -> None:
    def script(h2: Conversation) -> None:
        assert h2.await_frame(WindowUpdateFrame, stream_id=1).window_increment == 7
        assert [type(frame) for frame in h2.left] == [HeadersFrame, WindowUpdateFrame, HeadersFrame]
        assert h2.await_headers(3)[0] == 3
        assert h2.await_block().stream_id == 1
        assert h2.fields[3][-1] == (":path", "/")
        assert [type(frame) for frame in h2.left] == [WindowUpdateFrame]
        assert len(h2.received) == 5
        assert h2.await_frame(SettingsFrame, flag="ACK") is h2.received[-1]
        h2.rst(1, 8)

    with H2Peer(script) as peer, client(peer) as one:
        one.begin(end_stream=False)
        one.h2.increment_flow_control_window(5)
        one.request()
        one.h2.increment_flow_control_window(7, stream_id=1)
        one.flush()  # h2 acknowledges SETTINGS when it reads: last
        assert one.until(h2.events.StreamReset).error_code == 8


def test_what_is_imposed_is_not_taken_for_acknowledged_by_the_ack_of_the_handshake() -> None:
    def script(h2: Conversation) -> None:
        h2.impose(initial_window_size=1)
        acknowledged = [frame for frame in h2.received if isinstance(frame, SettingsFrame) and "ACK" in frame.flags]
        assert len(acknowledged) == 2
        h2.goaway(0, 11, b"calm")

    with H2Peer(script) as peer, client(peer) as one:
        one.until(h2.events.ConnectionTerminated)
        assert one.h2.remote_settings.initial_window_size == 1


def test_sync_gives_what_the_client_sent_before() -> None:
    def script(h2: Conversation) -> None:
        h2.await_headers()
        h2.send_settings(initial_window_size=1)
        came = h2.sync()
        assert [type(frame) for frame in came] == [SettingsFrame]
        assert h2.await_frame(SettingsFrame, flag="ACK")  # of the handshake
        assert h2.await_frame() is came[0]
        h2.send(ExtensionFrame(type=0xBB, stream_id=1, flag_byte=3, body=b"?"), PingFrame(0, opaque_data=b"12345678"))
        assert h2.await_frame(PingFrame, flag="ACK").opaque_data == b"12345678"
        h2.goaway(1, 11, b"calm")

    with H2Peer(script) as peer, client(peer) as one:
        one.until(h2.events.RemoteSettingsChanged)
        one.request()
        goaway = one.until(h2.events.ConnectionTerminated)
        assert (goaway.error_code, goaway.last_stream_id, goaway.additional_data) == (11, 1, b"calm")


def test_events_of_frames_reach_the_test() -> None:
    with H2Peer(lambda h2: h2.await_headers()) as peer, client(peer) as one:
        reset, two = peer.event(RstStreamFrame, stream_id=1), peer.event(HeadersFrame, count=2)
        one.begin(end_stream=False)
        assert peer.event(HeadersFrame).wait(TIMEOUT)
        assert not reset.is_set()
        one.h2.reset_stream(1, 8)
        one.flush()
        assert reset.wait(TIMEOUT)
        assert peer.event(RstStreamFrame, stream_id=1).is_set()
        assert not two.is_set()
        codes = [frame.error_code for frame in peer.received if isinstance(frame, RstStreamFrame)]
        assert codes == [8]


def test_waits_for_the_test() -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.wait_for(go_on)
        h2.respond(stream)

    go_on = threading.Event()
    with H2Peer(script) as peer, client(peer) as one:
        one.request()
        assert peer.event(HeadersFrame).wait(TIMEOUT)
        go_on.set()
        one.until(h2.events.StreamEnded)


def test_an_event_that_nobody_sets_is_a_failure() -> None:
    def script(h2: Conversation) -> None:
        stood.set()
        h2.wait_for(threading.Event())

    stood = threading.Event()
    with (
        pytest.raises(PeerFailure, match=r"line [0-9]+: PeerFailure: the event was not set"),
        H2Peer(script) as peer,
        client(peer),
    ):
        assert stood.wait(TIMEOUT)


def test_serves_one_script_for_each_connection_and_endless_ones() -> None:
    def first(h2: Conversation) -> None:
        h2.goaway(0)
        h2.close()

    def echo(h2: Conversation) -> None:
        for stream, fields in h2.requests():
            h2.respond(stream, body=fields[":path"].encode())

    with H2Peer(first, echo, repeat=True) as peer:
        with client(peer) as one:
            one.until(h2.events.ConnectionTerminated)
        for _ in range(2):
            with client(peer) as one:
                for number in range(1, 4):
                    one.request(path=f"/{number}")
                    one.until(h2.events.StreamEnded, number)
                assert one.until(h2.events.DataReceived, 3).data == b"/3"
    assert [len(conversation.fields) for conversation in peer.conversations] == [0, 3, 3]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (Conversation.close, None),
        (Conversation.half_close, None),
        (Conversation.cut, ssl.SSLError),
        (Conversation.abort, OSError),  # over TLS an end without close_notify, as OpenSSL sees it
    ],
)
def test_ends_in_every_way(end: Callable[[Conversation], None], error: type[OSError] | None, tls: bool) -> None:
    def script(h2: Conversation) -> None:
        h2.await_frame(SettingsFrame, flag="ACK")
        end(h2)

    with H2Peer(script, tls=tls) as peer, raw(peer) as sock:
        if isinstance(sock, ssl.SSLSocket):
            sock.suppress_ragged_eofs = False
        one = BareClient(sock)
        if error is None or (error is ssl.SSLError and not tls):
            while one.read():
                pass
        else:
            with pytest.raises(error):
                while one.read():
                    pass


def failure(script: Callable[[Conversation], object], act: Callable[[BareClient], object], **options: Any) -> str:
    """What the peer says after the client did `act` and was cut off."""
    with pytest.raises(PeerFailure) as caught, H2Peer(script, **options) as peer, client(peer) as one:
        act(one)
        with contextlib.suppress(ConnectionError):
            while one.read():
                pass
    return str(caught.value)


def test_a_request_after_the_last_line_is_a_failure() -> None:
    assert "after the last line came a request" in failure(nothing, BareClient.request)


def test_a_failed_assertion_names_its_line() -> None:
    def script(h2: Conversation) -> None:
        assert h2.await_headers()[1][":path"] == "/other"

    assert f"step 1 of 1, script: line {script.__code__.co_firstlineno + 1}: AssertionError" in failure(
        script, BareClient.request
    )


def test_a_client_that_closes_early_is_a_failure() -> None:
    def script(h2: Conversation) -> None:
        begun.set()
        h2.await_headers()

    begun = threading.Event()
    with (
        pytest.raises(PeerFailure, match=r"ClientClosed: the client closed where HEADERS should come"),
        H2Peer(script) as peer,
        client(peer) as one,
    ):
        assert begun.wait(TIMEOUT)
        one.sock.close()
        peer.wait_closed()


def test_awaits_the_end() -> None:
    def script(h2: Conversation) -> None:
        begun.set()
        h2.await_end()
        with pytest.raises(ClientClosed):
            h2.await_headers()
        kinds.extend(type(frame) for frame in h2.left)

    kinds: list[type] = []
    begun = threading.Event()
    with H2Peer(script) as peer, client(peer) as one:
        one.h2.close_connection()
        one.flush()
        one.sock.shutdown(socket.SHUT_WR)
        assert begun.wait(TIMEOUT)
        peer.wait_closed()
    assert GoAwayFrame in kinds


def test_another_protocol_is_a_failure() -> None:
    with pytest.raises(PeerFailure, match="expected the preface"), H2Peer(nothing) as peer, raw(peer) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x.example\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sock.recv(100):
                pass


def head_of(one: BareClient, stream_id: int) -> bytes:
    head = [(":method", "PUT"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
    return HeadersFrame(stream_id, one.h2.encoder.encode(head), flags=["END_HEADERS"]).serialize()


def test_checks_windows() -> None:
    def flood(one: BareClient) -> None:
        piece = DataFrame(1, b"x" * 16384).serialize()
        with contextlib.suppress(ConnectionError):
            one.sock.sendall(head_of(one, 1) + piece * 4)

    assert "window of stream 0" in failure(Conversation.await_end, flood)


def test_checks_windows_that_were_lowered() -> None:
    def script(h2: Conversation) -> None:
        h2.await_frame(SettingsFrame, flag="ACK")
        h2.await_end()

    def flood(one: BareClient) -> None:
        one.until(h2.events.RemoteSettingsChanged)
        with contextlib.suppress(ConnectionError):
            one.sock.sendall(head_of(one, 1) + DataFrame(1, b"1234").serialize() + DataFrame(1, b"").serialize())
            one.sock.sendall(DataFrame(1, b"5").serialize())

    text = failure(script, flood, settings={"initial_window_size": 4})
    assert "window of stream 1" in text
    assert "5" in text


def test_checks_stream_ids_and_frame_sizes() -> None:
    def backwards(one: BareClient) -> None:
        one.sock.sendall(head_of(one, 3) + head_of(one, 1))

    def large(one: BareClient) -> None:
        one.sock.sendall(head_of(one, 1) + DataFrame(1, b"x" * 16385).serialize())

    assert "a new stream with id 1" in failure(Conversation.await_end, backwards)
    assert "16385 bytes, above MAX_FRAME_SIZE" in failure(Conversation.await_end, large)


def test_decodes_what_was_cut_by_the_client() -> None:
    def script(h2: Conversation) -> None:
        block = h2.await_block()
        assert block.fields[-1] == ("x-a", "b" * 30000)
        assert [type(frame) for frame in block.frames] == [HeadersFrame, ContinuationFrame]
        assert not any(isinstance(frame, ContinuationFrame) for frame in h2.left)
        h2.respond(block.stream_id)

    with H2Peer(script) as peer, client(peer) as one:
        one.request(fields=[("x-a", "b" * 30000)])
        one.until(h2.events.StreamEnded)
