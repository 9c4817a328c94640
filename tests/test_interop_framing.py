"""What only some servers can be made to do: interim responses, Expect, early answers, upgrades, broken bodies, odd
framings, connections that the server ends. In every world."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from peers import BIG, SMALL, Authority, pattern
from peers.asgi import ASGI
from peers.nginx import Nginx
from peers.node import Node
from plugwire import IncompleteBody, LimitExceeded, Limits, ReadError, Request, TLSConfig
from plugwire.events import Attempt, Edge, Event, Informational
from plugwire.protocols import Connecting, Route, Stream
from worlds import PATIENCE, World


class Watched:
    """A dialler as a third party would write it: dials below, and remembers the streams."""

    name = "watched"
    honours = frozenset({"*"})

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    def refuse(self, route: Route) -> str | None:
        return None

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        stream = await connecting.dial(route)
        self.streams.append(stream)
        return stream


# -- framings


async def test_chunks_with_trailers(node: Node, world: World) -> None:
    body = b"".join(b"chunk %d\n" % number for number in range(50))
    async with world.session() as session, session.stream("GET", f"{node.url}/chunked?n=50") as response:
        assert await response.read() == body
        assert response.trailers["x-checksum"] == hashlib.sha256(body).hexdigest()
        assert response.trailers.get_int("x-count") == 50


async def test_trailers_go_out(node: Node, world: World) -> None:
    from plugwire import Headers

    sent: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        for piece in (b"abc", b"def"):
            sent.append(piece)
            yield piece

    request = Request(
        "POST",
        f"{node.url}/echo",
        content=pieces,
        headers={"trailer": "x-length"},
        trailers=lambda: Headers({"x-length": str(len(b"".join(sent)))}),
    )
    async with world.session() as session:
        seen = (await session.send(request)).json()
    assert (seen["length"], seen["trailers"]) == (6, [["x-length", "6"]])


@pytest.mark.parametrize("path", ["/pattern?n=1000003", "/pattern?n=1000003&chunked=1"])
async def test_no_octet_is_out_of_place(path: str, node: Node, asgi: ASGI, world: World) -> None:
    async with world.session() as session:
        for peer in (node, asgi):
            assert (await session.get(f"{peer.url}{path}")).content == pattern(1_000_003)


async def test_nginx_chunks_of_a_big_file(nginx: Nginx, world: World) -> None:
    async with world.session() as session:
        assert (await session.get(f"{nginx.url}/chunked-big")).content == BIG


async def test_a_body_that_the_close_ends(nginx: Nginx, world: World, ca: Authority) -> None:
    async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem))) as session:
        for url in (nginx.url, nginx.tls_url):
            first = await session.get(f"{url}/until-close")
            again = await session.get(f"{url}/until-close")
            assert (first.content, again.content) == (SMALL, SMALL)
            assert first.connection.id != again.connection.id


async def test_an_http10_server(node: Node, world: World) -> None:
    async with world.session() as session:
        response = await session.get(f"{node.url}/http10")
        assert (response.http_version, response.content) == ("HTTP/1.0", SMALL)
        assert session.stats().open == 0


# -- before the response


async def test_interim_responses_are_events(node: Node, world: World) -> None:
    seen: list[Event] = []
    async with world.session() as session:
        response = await session.get(f"{node.url}/informational?n=3", observe=seen.append)
        assert (response.status_code, response.content) == (200, SMALL)
        again = await session.get(f"{node.url}/informational?n=3")  # and without an observer
        assert (again.content, again.connection.reused) == (SMALL, True)
    interim = [event for event in seen if isinstance(event, Informational)]
    assert [event.status for event in interim] == [102, 102, 102, 103]
    assert interim[-1].headers["link"] == "</style.css>; rel=preload; as=style"


async def test_interim_responses_have_a_limit(node: Node, world: World) -> None:
    async with world.session(limits=Limits(max_informational=3)) as session:
        assert (await session.get(f"{node.url}/informational?n=2")).status_code == 200
        with pytest.raises(LimitExceeded, match="max_informational=3"):
            await session.get(f"{node.url}/informational?n=3")
        assert (await session.get(f"{node.url}/informational?n=2")).status_code == 200


class Counted:
    """A body that can be replayed, and knows how much of it was asked for."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        self.taken = 0
        for _ in range(self.pieces):
            self.taken += 1
            yield bytes(65536)


async def test_expect_continue_accepted(node: Node, world: World) -> None:
    seen: list[Event] = []
    request = Request("POST", f"{node.url}/continue", content=BIG, expect_continue=PATIENCE)
    async with world.session() as session:
        response = await session.send(request, observe=seen.append)
        assert response.json()["sha256"] == hashlib.sha256(BIG).hexdigest()
    assert [event.status for event in seen if isinstance(event, Informational)] == [100]


async def test_expect_continue_rejected(node: Node, world: World) -> None:
    """The body stays here: nobody asks the source for a piece."""
    body = Counted(10)
    request = Request("POST", f"{node.url}/continue?mode=reject", content=body, expect_continue=PATIENCE)
    async with world.session() as session:
        response = await session.send(request)
        assert (response.status_code, response.content) == (417, b"not expected\n")
        assert body.taken == 0
        assert session.stats().open == 0, "the peer may still wait for the body: the connection cannot be used again"
        assert (await session.get(f"{node.url}/small")).content == SMALL


async def test_expect_continue_unanswered(node: Node, world: World) -> None:
    """A server that never says 100 gets the body after the time."""
    request = Request("POST", f"{node.url}/continue?mode=silent", content=b"abc", expect_continue=0.05)
    async with world.session() as session:
        assert (await session.send(request)).json()["length"] == 3


@pytest.mark.parametrize("mode", ["linger", "keep"])
async def test_an_early_answer_ends_the_upload(mode: str, node: Node, world: World) -> None:
    body = Counted(10_000)
    async with world.session() as session:
        response = await session.post(f"{node.url}/early?mode={mode}", content=body)
        assert (response.status_code, response.content) == (413, b"too large\n")
        assert body.taken < body.pieces
        assert session.stats().open == 0
        assert (await session.get(f"{node.url}/small")).content == SMALL


async def test_nginx_refuses_a_large_body_early(nginx: Nginx, world: World, ca: Authority) -> None:
    async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem))) as session:
        for url in (nginx.url, nginx.tls_url):
            body = Counted(10_000)
            headers = {"content-length": str(65536 * body.pieces)}
            response = await session.put(f"{url}/limited", content=body, headers=headers)
            assert response.status_code == 413
            assert body.taken < body.pieces
            assert (await session.get(f"{url}/small")).content == SMALL


async def test_pushing_into_an_early_answer(node: Node, world: World) -> None:
    async with world.session() as session:
        request = session.open_request("POST", f"{node.url}/early")
        await request.begin()
        for _ in range(1000):
            assert await request.write(bytes(65536)) == 65536
        async with await request.end() as response:
            assert response.status_code == 413
            assert await response.read() == b"too large\n"


# -- the stream is handed over


async def _echoes(world: World, stream: Any, text: bytes) -> None:
    """`stream` is a Stream, or its blocking face, which takes no point in time."""
    at = () if world.name == "blocking" else (world.runtime().now() + PATIENCE,)
    await stream.send(text, *at)
    await stream.send_eof(*at)
    found = b""
    while piece := await stream.receive(65536, *at):
        found += piece
    stream.close()
    assert found == text


async def test_upgrade_hands_the_stream_over(node: Node, world: World, ca: Authority) -> None:
    async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem))) as session:
        headers = {"connection": "upgrade", "upgrade": "echo"}
        async with session.stream("GET", f"{node.url}/upgrade", headers=headers) as response:
            assert (response.status_code, response.headers["upgrade"]) == (101, "echo")
            await _echoes(world, response.take_stream(), b"hello" * 5000)
        assert session.stats().open == 0
        assert (await session.get(f"{node.url}/small")).content == SMALL


async def test_connect_hands_the_stream_over(node: Node, world: World) -> None:
    async with world.session() as session, await session.connect(node.url) as connection:
        request = connection.open_request("CONNECT", "there.example:443")
        async with await request.send() as response:
            assert response.status_code == 200
            await _echoes(world, response.take_stream(), b"hello")


# -- broken bodies


async def test_a_reset_inside_the_body(node: Node, world: World) -> None:
    async with world.session() as session:
        with pytest.raises(ReadError) as caught:
            await session.get(f"{node.url}/reset")
        error = caught.value
        assert (error.phase, error.sent, error.request.method) == ("body", True, "GET")
        assert error.connection is not None
        assert session.stats().open == 0
        assert (await session.get(f"{node.url}/small")).content == SMALL


@pytest.mark.parametrize(
    ("path", "received", "expected"),
    [("/truncate", len(SMALL) // 2, len(SMALL)), ("/truncate-chunked", len(SMALL), None)],
)
async def test_a_truncated_body(
    path: str, received: int, expected: int | None, node: Node, world: World, ca: Authority
) -> None:
    async with world.session(tls=TLSConfig(ca_file=str(ca.cert_pem))) as session:
        for url in (node.url, node.tls_url):
            with pytest.raises(IncompleteBody) as caught:
                await session.get(f"{url}{path}")
            assert (caught.value.received, caught.value.expected, caught.value.phase) == (received, expected, "body")
            async with session.stream("GET", f"{url}{path}") as response:
                assert await response.read(1000) == SMALL[:received], "what came before is given"
                for _ in range(2):
                    with pytest.raises(IncompleteBody):
                        await response.read(1000)


async def test_an_application_that_fails_in_the_body(asgi: ASGI, world: World) -> None:
    async with world.session() as session:
        with pytest.raises(IncompleteBody) as caught:
            await session.get(f"{asgi.url}/crash")
        assert (caught.value.received, caught.value.expected) == (4, 1000)


# -- connections that the server ends


async def test_a_rotation_of_connections_goes_unseen(nginx: Nginx, world: World) -> None:
    """nginx says Connection: close with each second response."""
    connections = []
    async with world.session() as session:
        for _ in range(500):
            response = await session.get(f"{nginx.url}/few")
            assert response.content == SMALL
            connections.append(response.connection.id)
    assert len(set(connections)) == 250


async def test_a_connection_closed_while_idle_goes_unseen(nginx: Nginx, world: World) -> None:
    """We see the close before the next request: a new connection, and no request was lost on the way."""
    watched = Watched()
    seen: list[Event] = []
    async with world.session(transports=[watched]) as session:
        for turn in range(5):
            response = await session.post(f"{nginx.url}/brief", observe=seen.append)
            assert response.status_code == 405  # nginx has no POST of a file: a request that may not be replayed
            assert not response.connection.reused
            await watched.streams[turn].wait(True, False, world.runtime().now() + PATIENCE)
    attempts = [event for event in seen if isinstance(event, Attempt) and event.edge is Edge.STARTED]
    assert len(attempts) == 5
    assert len(watched.streams) == 5


async def test_a_close_that_crosses_the_request_goes_unseen(nginx: Nginx, world: World) -> None:
    """The server may close in the moment that we send: a GET is replayed on a new connection."""
    async with world.session() as session:
        for _ in range(300):
            assert (await session.get(f"{nginx.url}/brief")).content == SMALL
