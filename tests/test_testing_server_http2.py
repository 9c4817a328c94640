"""The embedded server's HTTP/2, frame by frame, as a bare client sees it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import h2.errors
import h2.events
import pytest

import plugwire
from h2_client import Answer, BareClient, bare_client
from plugwire import AsyncResponse, Headers, Request, Response
from plugwire.protocols import Body
from plugwire.testing import Server
from plugwire.testing.server import PatternBody
from worlds import World, until_it_waits

WIDE = 1 << 30


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@contextlib.contextmanager
def client(server: Server) -> Iterator[BareClient]:
    with bare_client(server.url, server.tls_config.ca_data if server.tls else None) as one:
        yield one


@pytest.mark.parametrize(
    ("server_has", "client_has", "chosen"),
    [
        (("h2", "http/1.1"), ["h2", "http/1.1"], "h2"),
        (("http/1.1", "h2"), ["h2", "http/1.1"], "http/1.1"),
        (("h2", "http/1.1"), ["http/1.1"], "http/1.1"),
        (("h2",), ["h2", "http/1.1"], "h2"),
        (("http/1.1",), ["h2", "http/1.1"], "http/1.1"),
        (("h2", "http/1.1"), [], None),
    ],
)
def test_alpn_chooses(server_has: tuple[str, ...], client_has: list[str], chosen: str | None) -> None:
    with Server(tls=True, http_versions=server_has) as server:
        context = ssl.create_default_context(cadata=server.tls_config.ca_data)
        if client_has:
            context.set_alpn_protocols(client_has)
        with (
            socket.create_connection(("127.0.0.1", server.port), 30) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            assert sock.selected_alpn_protocol() == chosen
            if chosen == "h2":
                assert BareClient(sock).ask("/hello").status == 200
            else:
                sock.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
                assert sock.recv(15) == b"HTTP/1.1 200 OK"


def test_in_the_clear_the_preface_tells() -> None:
    with Server(http_versions=("http/1.1", "h2")) as server:
        with client(server) as one:
            assert one.ask("/hello").status == 200
        with socket.create_connection(("127.0.0.1", server.port), 30) as sock:
            sock.sendall(b"P")  # as PRI begins
            sock.sendall(b"OST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert sock.recv(15) == b"HTTP/1.1 200 OK"
        with socket.create_connection(("127.0.0.1", server.port), 30):
            pass  # and one that says nothing
        assert server.wait_closed()


@pytest.mark.parametrize("versions", [(), ("h3",), ("h2", "h3"), "h2", ["h2"]])
def test_other_versions_are_refused(versions: tuple[str, ...]) -> None:
    with pytest.raises(plugwire.UsageError, match="http_versions"):
        Server(http_versions=versions)


def test_what_has_no_content_ends_with_its_head(tls: bool) -> None:
    with Server(tls=tls, http_versions=("h2",)) as server, client(server) as one:
        head = one.ask("/bytes/5", "HEAD")
        assert (head.status, head.headers["content-length"], head.body) == (200, "5", b"")
        none = one.ask("/status/204")
        assert (none.status, none.body, "content-length" in none.headers) == (204, b"", False)
        unchanged = one.ask("/status/304")
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert not [event for event in one.events if isinstance(event, h2.events.DataReceived)]


def test_fields_of_the_connection_stay_there() -> None:
    headers = {"Connection": "x", "Keep-Alive": "2", "X-Name": "\xe9"}
    handlers = {"/": Response(200, headers=headers, text="hi")}
    with Server(handlers, http_versions=("h2",)) as server, client(server) as one:
        answer = one.ask("/")
    assert answer.headers.keys() == {":status", "content-type", "content-length", "x-name"}
    assert answer.headers["x-name"] == "\xe9"


def test_a_request_is_as_over_http11() -> None:
    with Server(http_versions=("h2",)) as server, client(server) as one:
        odd: Any = (b"x-name", b"\xe9")  # as str it would be sent as UTF-8
        one.ask("/echo?a=b", fields=[("cookie", "a=1"), ("cookie", "b=2"), odd])
        (call,) = server.calls
        assert (call.method, str(call.url), call.content) == ("GET", f"{server.url}/echo?a=b", b"")
        host = server.url.removeprefix("http://")
        assert dict(call.headers.items()) == {"host": host, "cookie": "a=1; b=2", "x-name": "\xe9"}


def test_trailers_both_ways() -> None:
    def handler(request: Request) -> AsyncResponse:
        assert request.trailers is not None
        body = PatternBody(100_000)
        body.trailers = Headers({"X-Came": request.trailers().get("x-sum", "none")})
        return AsyncResponse(200, body=body)

    with Server(handler, http_versions=("h2",)) as server, client(server) as one:
        stream_id = one.begin("POST", "/", end_stream=False)
        one.send(stream_id, b"abc", end_stream=False)
        one.h2.send_headers(stream_id, [("x-sum", "7")], end_stream=True)
        one.flush()
        answer = one.answer(stream_id)
        assert (len(answer.body), answer.trailers) == (100_000, {"x-came": "7"})
        assert one.ask("/").trailers == {"x-came": "none"}
        assert server.calls[0].content == b"abc"


def test_100_continue_only_for_content_to_come() -> None:
    with Server(http_versions=("h2",)) as server, client(server) as one:
        stream_id = one.begin("POST", "/echo", [("expect", "100-Continue")], end_stream=False)
        one.until(h2.events.InformationalResponseReceived)
        one.send(stream_id, b"abc")
        assert one.answer(stream_id).interim == [{":status": "100"}]
        assert one.ask("/echo", fields=[("expect", "100-continue")]).interim == []


def test_an_upload_gets_its_window_back_padding_included() -> None:
    with Server(http_versions=("h2",)) as server, client(server) as one:
        assert one.ask("/echo", "POST", b"x" * 300_000).status == 200
        stream_id = one.begin("POST", "/echo", end_stream=False)
        for _ in range(400):
            while one.h2.local_flow_control_window(stream_id) < 257:
                assert one.read()
            one.h2.send_data(stream_id, b"x", pad_length=255)
            one.flush()
        one.h2.end_stream(stream_id)
        one.flush()
        assert b'"length":400}' in one.answer(stream_id).body
        assert server.calls[0].content == b"x" * 300_000


def test_a_download_that_nobody_reads_holds_up_no_other(tls: bool) -> None:
    with Server(tls=tls, http_versions=("h2",)) as server, client(server) as one:
        one.h2.increment_flow_control_window(WIDE)
        one.begin(path=f"/bytes/{WIDE}")
        while sum(len(event.data) for event in one.events if isinstance(event, h2.events.DataReceived)) < 65535:
            one.events += one.h2.receive_data(one.sock.recv(65536))  # no window is given back
        assert one.ask("/hello").body.startswith(b"hello")
        assert len(one.ask("/bytes/60000").body) == 60000


def until_they_wait(streams: list[int]) -> None:
    """Return when the threads that answer on these streams, of the first connection, can do no more."""
    names = tuple(f"-0-{stream_id}" for stream_id in streams)
    until_it_waits(*(thread for thread in threading.enumerate() if thread.name.endswith(names)))


def test_streams_take_turns_where_the_connections_window_is_scarce() -> None:
    with Server(http_versions=("h2",)) as server, client(server) as one:
        streams = [one.begin(path=f"/bytes/{WIDE}") for _ in range(3)]
        for stream_id in streams:
            one.h2.increment_flow_control_window(WIDE, stream_id)
        one.flush()

        def came() -> list[int]:
            data = [event for event in one.events if isinstance(event, h2.events.DataReceived)]
            return [sum(len(event.data) for event in data if event.stream_id == stream_id) for stream_id in streams]

        def read_until(total: int) -> list[int]:
            heads = h2.events.ResponseReceived
            while sum(came()) < total or sum(isinstance(event, heads) for event in one.events) < 3:
                one.events += one.h2.receive_data(one.sock.recv(65536))  # no window is given back
            return came()

        before = read_until(65535)
        until_they_wait(streams)  # or one of them is not in line yet
        for number in range(1, 61):
            one.h2.increment_flow_control_window(1000)
            one.flush()
            after = read_until(65535 + 1000 * number)
        assert all(now - then >= 10_000 for now, then in zip(after, before, strict=True)), (before, after)


def test_a_large_download_stops_where_the_client_does_not_read() -> None:
    given = [0]

    class Counted(PatternBody):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            data = await super().receive(max_bytes)
            given[0] += len(data)
            return data

    handler = {"/": lambda request: AsyncResponse(200, body=Counted(64 << 20))}
    with Server(handler, http_versions=("h2",)) as server, client(server) as one:
        one.h2.increment_flow_control_window(WIDE)
        stream_id = one.begin()
        one.h2.increment_flow_control_window(WIDE, stream_id)
        one.flush()
        one.until(h2.events.ResponseReceived)
        until_they_wait([stream_id])
        # Beside HIGH_WATER lies what the system buffers on loopback for one connection, both sides: some MiB.
        assert given[0] < 32 << 20


class Waiting(Body):
    """One piece, and then nothing until it is told."""

    def __init__(self) -> None:
        self.length = None
        self.may_end = threading.Event()
        self.closed = threading.Event()
        self._pieces = [b"piece"]

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        assert self.may_end.wait(30)
        return b""

    async def close(self) -> None:
        self.closed.set()


def test_a_piece_is_sent_when_it_is_there_and_a_reset_ends_the_body(tls: bool) -> None:
    body = Waiting()
    handlers = {"/x": lambda request: AsyncResponse(200, body=body), "/y": Response(200, text="y")}
    with Server(handlers, tls=tls, http_versions=("h2",)) as server, client(server) as one:
        stream_id = one.begin(path="/x")
        assert one.until(h2.events.DataReceived).data == b"piece"
        one.h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        one.flush()
        assert one.ask("/y").body == b"y"
        body.may_end.set()
        assert body.closed.wait(30)
        assert one.ask("/y").body == b"y"


def test_a_reset_while_it_waits_for_window_ends_the_body() -> None:
    closed = threading.Event()

    class Watched(PatternBody):
        async def close(self) -> None:
            closed.set()

    handlers = {"/x": lambda request: AsyncResponse(200, body=Watched(WIDE)), "/y": Response(200, text="y")}
    with Server(handlers, http_versions=("h2",)) as server, client(server) as one:
        one.h2.increment_flow_control_window(WIDE)
        stream_id = one.begin(path="/x")
        one.until(h2.events.ResponseReceived)
        one.h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        one.flush()
        assert closed.wait(30)
        assert one.ask("/y").body == b"y"


def test_a_request_reset_before_it_came_whole_is_none() -> None:
    with Server(http_versions=("h2",)) as server, client(server) as one:
        stream_id = one.h2.get_next_available_stream_id()
        head = [
            (":method", "POST"),
            (":authority", "x"),
            (":scheme", "http"),
            (":path", "/"),
            ("expect", "100-continue"),
        ]
        one.h2.send_headers(stream_id, head)
        one.h2.send_data(stream_id, b"abc")
        one.h2.reset_stream(stream_id)
        one.flush()  # in one go, so that the server sees the end before it answers the beginning
        assert one.ask("/hello").status == 200
        assert [call.url.path for call in server.calls] == ["/hello"]


def test_a_body_that_raises_is_reset_and_raised_at_the_end() -> None:
    class Broken(Waiting):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            if not self._pieces:
                raise LookupError("my mistake")
            return await super().receive(max_bytes)

    with pytest.raises(LookupError, match="my mistake"):
        handlers = {"/x": lambda request: AsyncResponse(200, body=Broken()), "/y": Response(200, text="y")}
        with Server(handlers, http_versions=("h2",)) as server, client(server) as one:
            answer = one.ask("/x")
            assert (answer.body, answer.reset) == (b"piece", h2.errors.ErrorCodes.INTERNAL_ERROR)
            assert one.ask("/y").body == b"y"


def test_what_cannot_be_asked_is_400() -> None:
    with Server(http_versions=("h2",)) as server, client(server) as one:
        assert one.ask("/", "CONNECT").status == 400
        assert one.ask("/hello").status == 200
        assert len(server.calls) == 1


def test_closing_says_goaway_and_waits_for_handlers(tls: bool) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def handler(request: Request) -> Response:
        if request.url.path == "/slow":
            begun.set()
            assert may_end.wait(30)
            ended.set()
        return Response(200)

    server = Server(handler, tls=tls, http_versions=("h2",))
    with server, client(server) as one:
        one.ask("/")
        slow = one.begin(path="/slow")
        assert begun.wait(30)
        closing = threading.Thread(target=server.close)
        closing.start()
        bye = one.until(h2.events.ConnectionTerminated)
        assert (bye.error_code, bye.last_stream_id) == (h2.errors.ErrorCodes.NO_ERROR, slow)
        while one.read():
            pass
        assert closing.is_alive()
        may_end.set()
        closing.join(30)
        assert ended.is_set() and not closing.is_alive()
    assert server.open_connections == 0


def test_a_client_that_breaks_the_rules_is_told(tls: bool) -> None:
    with Server(tls=tls, http_versions=("h2",)) as server:
        with client(server) as one:
            one.ask("/hello")
            one.sock.sendall(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00")  # WINDOW_UPDATE of 0
            assert one.until(h2.events.ConnectionTerminated).error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR
            assert not one.read()
        with client(server) as one:
            assert one.ask("/hello").status == 200


def test_a_client_may_leave_at_any_time(tls: bool) -> None:
    with Server(tls=tls, http_versions=("h2",)) as server:
        with client(server) as one:  # in order
            one.begin(path=f"/bytes/{WIDE}")
            one.until(h2.events.DataReceived)
            one.h2.close_connection()
            one.flush()
            while one.sock.recv(65536):
                pass
        with client(server) as one:  # all at once
            one.begin(path=f"/bytes/{WIDE}")
            one.until(h2.events.DataReceived)
        assert server.wait_closed()
        with client(server) as one:
            assert one.ask("/hello").status == 200


async def test_handlers_run_at_once_over_one_connection(world: World, tls: bool) -> None:
    all_there = threading.Barrier(8)

    def handler(request: Request) -> Response:
        if request.url.path == "/meet":
            all_there.wait(30)
        return Response(200, text=request.url.query or "")

    with Server(handler, tls=tls, http_versions=("h2",)) as server:
        async with world.session(base_url=server.url, http_versions=("h2",), tls=server.tls_config) as session:
            await session.get("/")
            asked = [lambda n=n: session.get(f"/meet?{n}") for n in range(8)]
            answers = await world.gather(*asked)
            assert [answer.text for answer in answers] == [str(n) for n in range(8)]
        assert server.accepted == 1
        assert server.wait_closed()


def test_one_connection_many_streams(tls: bool) -> None:
    with Server(tls=tls, http_versions=("h2",)) as server, client(server) as one:
        streams = [one.begin(path=f"/bytes/{1000 * n}") for n in range(50)]
        answers: list[Answer] = [one.answer(stream_id) for stream_id in streams]
        assert [len(answer.body) for answer in answers] == [1000 * n for n in range(50)]
        pattern = (bytes(range(251)) * 200)[:49000]
        assert answers[-1].body == pattern
