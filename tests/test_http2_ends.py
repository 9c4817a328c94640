"""How HTTP/2 connections and streams end by the peer's will: GOAWAY, REFUSED_STREAM, RST_STREAM, closes, limits that
move, numbers that run out. What the peer did not begin with is asked again and never seen; the rest says why."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame

import plugwire
from faces import bare as undressed
from h2_peer import Conversation, H2Peer
from peers import nginx as _nginx
from plugwire import ConnectionClosed, Limits, ReadError, StreamReset
from plugwire_transports.http2.frames import MAX_STREAM_ID
from worlds import World

H2 = ("h2",)
ONE = Limits(max_connections=1)
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, CALM = 0, 2, 7, 8, 11


def bare(world: World, **more: Any) -> Any:
    return world.session(http_versions=H2, defaults=False, **more)


def connections(session: Any) -> list[Any]:
    """The connections of a session."""
    return list(undressed(session)._engine.pool._live.values())


async def waits_for(world: World, event: threading.Event) -> None:
    assert await world.runtime().run_blocking(event.wait, 30), "it never came"


def answers(*bodies: bytes) -> Callable[[Conversation], None]:
    """A script: one request after the other gets 200."""

    def script(h2: Conversation) -> None:
        for body in bodies:
            stream, _ = h2.await_headers()
            h2.respond(stream, 200, body)

    return script


def until_it_goes(h2: Conversation) -> None:
    """A script: every request gets its path, its content read before."""
    for stream, fields in h2.requests():
        if not ends_at_once(h2, stream):
            h2.await_body(stream)
        h2.respond(stream, 200, fields[":path"].encode())


def ends_at_once(h2: Conversation, stream: int) -> bool:
    return any(
        isinstance(frame, HeadersFrame) and frame.stream_id == stream and "END_STREAM" in frame.flags
        for frame in h2.received
    )


# -- GOAWAY --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_streams_above_the_last_id_are_asked_again_and_those_below_finish(world: World, method: str) -> None:
    content = None if method == "GET" else b"content"

    def first(h2: Conversation) -> None:
        streams = {fields[":path"]: stream for stream, fields in (h2.await_headers() for _ in range(4))}
        last = sorted(streams.values())[1]
        h2.goaway(last)
        for path, stream in streams.items():
            if stream <= last:
                if content:
                    h2.await_body(stream)
                h2.respond(stream, 200, path.encode() + b" at first")
        h2.await_end()
        # Nothing new began on it, and nothing is said of streams that are gone on both sides.
        assert not any(isinstance(frame, RstStreamFrame) for frame in h2.received)
        assert len(h2.fields) == 4

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            responses = await world.gather(
                *(lambda n=n: session.request(method, f"{peer.url}/{n}", content=content) for n in range(4))
            )
            assert [response.text.partition(" ")[0] for response in responses] == [f"/{n}" for n in range(4)]
            assert sorted(response.text.partition(" ")[2] for response in responses) == ["", "", "at first", "at first"]
            assert session.stats()[:3] == (1, 1, 0)
        assert peer.accepted == 2


async def test_a_body_that_can_be_sent_once_is_not_asked_again(world: World) -> None:
    def first(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_body(stream)
        h2.goaway(0)

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            with pytest.raises(ConnectionClosed, match="did not begin with this request") as caught:
                await session.post(peer.url, content=iter([b"once"]))
            assert (caught.value.sent, caught.value.replayable, caught.value.phase) == (True, False, "head")
            assert (await session.get(f"{peer.url}/next")).text == "/next"
        assert peer.accepted == 2


async def test_the_peer_leaves_in_two_steps(world: World) -> None:
    """GOAWAY with the highest number first, so that what is under way arrives; the real one after a round trip (RFC
    9113, 6.8)."""
    asked_again = threading.Event()

    def first(h2: Conversation) -> None:
        one, _ = h2.await_headers()
        _two, _ = h2.await_headers()
        h2.goaway(2**31 - 1)
        h2.sync()
        assert len(h2.fields) == 2
        h2.goaway(one)
        h2.wait_for(asked_again)
        h2.respond(one, 200, b"first")
        h2.await_end()
        assert len(h2.fields) == 2

    def second(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        asked_again.set()
        h2.respond(stream, 200, b"second")

    with H2Peer(first, second) as peer:
        async with bare(world) as session:
            responses = await world.gather(*[lambda: session.get(peer.url)] * 2)
            assert sorted(response.text for response in responses) == ["first", "second"]


async def test_nothing_begins_after_goaway(world: World) -> None:
    said, go_on = threading.Event(), threading.Event()

    def first(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.goaway(2**31 - 1)
        h2.data(stream, b"begin")
        said.set()
        h2.wait_for(go_on)
        h2.data(stream, b" end", end_stream=True)

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            assert await response.read(5) == b"begin"
            other = await session.get(f"{peer.url}/other")
            assert other.text == "/other"
            assert other.connection.id != response.connection.id
            assert session.stats().open == 2
            go_on.set()
            assert await response.read() == b" end"
            assert session.stats()[:2] == (1, 1)


@pytest.mark.parametrize("code", [NO_ERROR, INTERNAL_ERROR, CALM])
@pytest.mark.parametrize("closes", [False, True])
async def test_goaway_while_idle_is_noticed_before_reuse(world: World, code: int, closes: bool) -> None:
    said = threading.Event()
    go = threading.Event()

    def first(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.respond(stream, 200, b"one")
        h2.wait_for(go)
        h2.goaway(stream, code)
        if closes:
            h2.half_close()
        said.set()

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).text == "one"
            go.set()
            await waits_for(world, said)
            response = await session.post(f"{peer.url}/two", content=iter([b"once"]))
            assert response.text == "/two"
            assert not response.connection.reused
            assert session.stats()[:3] == (1, 1, 0)


async def test_a_peer_that_finds_us_too_demanding_is_not_asked_again_at_once(world: World) -> None:
    def first(h2: Conversation) -> None:
        _stream, _ = h2.await_headers()
        h2.goaway(0, CALM, b"too_many_pings")

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            with pytest.raises(StreamReset, match=r"too demanding.*ENHANCE_YOUR_CALM.*too_many_pings") as caught:
                await session.get(peer.url)
            assert (caught.value.code, caught.value.phase, caught.value.sent) == (CALM, "head", True)
            assert session.stats()[:3] == (0, 0, 0)
            assert (await session.get(f"{peer.url}/next")).text == "/next"
        assert peer.accepted == 2


async def test_who_is_among_the_last_of_a_peer_that_wants_calm_finishes(world: World) -> None:
    def first(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.goaway(stream, CALM)
        h2.respond(stream, 200, b"all the same")

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).text == "all the same"
            assert session.stats()[:3] == (0, 0, 0)
            assert (await session.get(f"{peer.url}/next")).text == "/next"


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "in the body"])
async def test_goaway_with_an_error_and_a_close_is_named(world: World, begun: bool) -> None:
    def first(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        if begun:
            h2.headers(stream, [(":status", "200")])
            h2.data(stream, b"begin")
        h2.goaway(stream, INTERNAL_ERROR, b"out of order")
        h2.half_close()

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            with pytest.raises(
                ReadError if begun else ConnectionClosed, match=r"INTERNAL_ERROR.*out of order"
            ) as caught:
                await session.get(peer.url)
            assert (caught.value.phase, caught.value.sent) == ("body" if begun else "head", True)
            assert caught.value.replayable
            assert session.stats()[:3] == (0, 0, 0)
            assert (await session.get(f"{peer.url}/next")).text == "/next"


async def test_all_that_wait_are_told_when_the_peer_goes(world: World) -> None:
    """Heads pending, a body half read, an upload without window."""
    body = threading.Event()

    def first(h2: Conversation) -> None:
        streams = {fields[":path"]: stream for stream, fields in (h2.await_headers() for _ in range(3))}
        h2.headers(streams["/body"], [(":status", "200")])
        h2.data(streams["/body"], b"begin")
        h2.wait_for(body)
        while h2._windows[0] > 0:
            h2.await_frame(DataFrame, streams["/upload"])
        h2.goaway(max(streams.values()), INTERNAL_ERROR)
        h2.half_close()

    errors: dict[str, plugwire.Error] = {}

    async def caught(name: str, doing: Callable[[], Any]) -> None:
        with pytest.raises(plugwire.Error) as info:
            await doing()
        errors[name] = info.value

    with H2Peer(first) as peer:
        async with bare(world) as session:

            async def read() -> None:
                async with session.stream("GET", f"{peer.url}/body") as response:
                    assert await response.read(5) == b"begin"
                    body.set()
                    await response.read()

            await world.gather(
                lambda: caught("head", lambda: session.post(f"{peer.url}/head")),
                lambda: caught("body", read),
                lambda: caught("upload", lambda: session.post(f"{peer.url}/upload", content=bytes(200_000))),
            )
            assert session.stats()[:3] == (0, 0, 0)
    assert type(errors["head"]) is ConnectionClosed
    assert type(errors["body"]) is ReadError
    assert isinstance(errors["upload"], plugwire.Error)
    assert {name: error.phase for name, error in errors.items()} == {"head": "head", "body": "body", "upload": "write"}
    assert {name: error.replayable for name, error in errors.items()} == {"head": False, "body": True, "upload": False}
    assert all("INTERNAL_ERROR" in str(error) for error in errors.values())


# -- RST_STREAM ----------------------------------------------------------------------------------------------------


async def test_a_peer_that_refuses_for_ever_is_an_error(world: World) -> None:
    refused = 0

    def refuses(h2: Conversation) -> None:
        nonlocal refused
        for stream, _ in h2.requests():
            h2.rst(stream, REFUSED_STREAM)
            refused += 1

    with H2Peer(refuses, repeat=True) as peer:
        async with bare(world) as session:
            with pytest.raises(StreamReset, match="REFUSED_STREAM") as caught:
                await session.post(peer.url, content=b"content")
            assert (caught.value.code, caught.value.sent, caught.value.replayable) == (REFUSED_STREAM, True, True)
            assert caught.value.phase == "head"
            assert session.stats()[:3] == (1, 1, 0)
    assert 2 <= refused <= 20


async def test_a_refused_body_that_can_be_sent_once_is_an_error(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_body(stream)
        h2.rst(stream, REFUSED_STREAM)
        answers(b"next")(h2)

    with H2Peer(script) as peer:
        async with bare(world) as session:
            with pytest.raises(StreamReset, match="REFUSED_STREAM") as caught:
                await session.post(peer.url, content=iter([b"once"]))
            assert (caught.value.sent, caught.value.replayable) == (True, False)
            assert (await session.get(peer.url)).text == "next"
        assert peer.accepted == 1


@pytest.mark.parametrize(
    ("code", "name"), [(1, "PROTOCOL_ERROR"), (8, "CANCEL"), (13, "HTTP_1_1_REQUIRED"), (77, "77")]
)
async def test_a_reset_names_its_code_before_the_head(world: World, code: int, name: str) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.rst(stream, code)
        answers(b"next")(h2)

    with H2Peer(script) as peer:
        async with bare(world) as session:
            with pytest.raises(StreamReset, match=name) as caught:
                await session.get(peer.url)
            error = caught.value
            assert (error.code, error.phase, error.sent, error.replayable) == (code, "head", True, True)
            assert error.connection is not None
            assert error.connection.protocol == "HTTP/2"
            assert session.stats()[:3] == (1, 1, 0)
            assert (await session.get(peer.url)).text == "next"


async def test_a_reset_names_its_code_in_the_body(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200"), ("content-length", "10")])
        h2.data(stream, b"begin")
        h2.rst(stream, INTERNAL_ERROR)
        answers(b"next")(h2)

    with H2Peer(script) as peer:
        async with bare(world) as session:
            async with session.stream("POST", peer.url, content=b"content") as response:
                assert await response.read(5) == b"begin"
                for _ in range(2):
                    with pytest.raises(StreamReset, match="INTERNAL_ERROR") as caught:
                        await response.read(5)
                    error = caught.value
                    assert (error.code, error.phase, error.sent) == (INTERNAL_ERROR, "body", True)
                    assert not error.replayable
                    assert error.request is not None
                    assert error.request.method == "POST"
            assert session.stats()[:3] == (1, 1, 0)
            assert (await session.get(peer.url)).text == "next"
            assert not any(isinstance(frame, RstStreamFrame) for frame in peer.received)


async def test_a_reset_in_the_middle_of_an_upload_is_an_error_of_writing(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_frame(DataFrame, stream)
        h2.rst(stream, INTERNAL_ERROR)
        answers(b"next")(h2)

    with H2Peer(script) as peer:
        async with bare(world) as session:
            with pytest.raises(StreamReset, match="INTERNAL_ERROR") as caught:
                await session.post(peer.url, content=bytes(200_000))
            assert (caught.value.phase, caught.value.sent, caught.value.replayable) == ("write", True, False)
            assert (await session.get(peer.url)).text == "next"


async def test_the_end_of_an_answered_upload_is_no_error(world: World) -> None:
    """The response is complete, then RST_STREAM(NO_ERROR): the server wants no more of the request (RFC 9113, 8.1)."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_frame(DataFrame, stream)
        h2.respond(stream, 413, b"too large")
        h2.rst(stream, NO_ERROR)
        answers(b"next")(h2)

    with H2Peer(script) as peer:
        async with bare(world) as session:
            response = await session.post(peer.url, content=bytes(200_000))
            assert (response.status_code, response.text) == (413, "too large")
            assert (await session.get(peer.url)).text == "next"
            assert session.stats()[:3] == (1, 1, 0)


# -- closes --------------------------------------------------------------------------------------------------------


END: dict[str, Callable[[Conversation], object]] = {
    "close": Conversation.half_close,
    "reset": Conversation.abort,
}


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize(("method", "is_replayed"), [("GET", True), ("PUT", True), ("POST", False)])
async def test_a_reused_connection_that_ends_unanswered_is_replayed_if_that_is_safe(
    world: World, end: str, method: str, is_replayed: bool
) -> None:
    content = None if method == "GET" else b"content"

    def first(h2: Conversation) -> None:
        answers(b"first")(h2)
        stream, _ = h2.await_headers()
        if content:
            h2.await_body(stream)
        END[end](h2)

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).text == "first"
            if is_replayed:
                response = await session.request(method, f"{peer.url}/again", content=content)
                assert response.text == "/again"
                assert not response.connection.reused
            else:
                with pytest.raises(ConnectionClosed) as caught:
                    await session.request(method, f"{peer.url}/again", content=content)
                assert (caught.value.sent, caught.value.replayable, caught.value.phase) == (True, False, "head")
                assert session.stats()[:3] == (0, 0, 0)
                assert (await session.get(f"{peer.url}/next")).text == "/next"
        assert peer.accepted == 2


@pytest.mark.parametrize("end", END)
async def test_a_new_connection_that_ends_unanswered_is_an_error(world: World, end: str) -> None:
    def first(h2: Conversation) -> None:
        h2.await_headers()
        END[end](h2)

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            with pytest.raises(ConnectionClosed) as caught:
                await session.get(peer.url)
            assert (caught.value.sent, caught.value.replayable, caught.value.phase) == (True, True, "head")
            assert (await session.get(f"{peer.url}/next")).text == "/next"


@pytest.mark.parametrize("end", END)
async def test_what_had_begun_to_be_answered_is_not_replayed(world: World, end: str) -> None:
    def first(h2: Conversation) -> None:
        answers(b"first")(h2)
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "103")])
        END[end](h2)

    with H2Peer(first) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).text == "first"
            with pytest.raises(ReadError) as caught:
                await session.get(peer.url)
            assert (caught.value.sent, caught.value.replayable, caught.value.phase) == (True, True, "head")


@pytest.mark.parametrize("end", END)
async def test_a_close_inside_a_body(world: World, end: str) -> None:
    def first(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"begin")
        END[end](h2)

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            async with session.stream("GET", peer.url) as response:
                content = b""
                with pytest.raises(ReadError) as caught:
                    while piece := await response.read(2):
                        content += piece
                assert content == b"begin"
                assert "after 5 bytes" in str(caught.value)
                assert (caught.value.sent, caught.value.replayable, caught.value.phase) == (True, True, "body")
            assert session.stats()[:3] == (0, 0, 0)
            assert (await session.get(f"{peer.url}/next")).text == "/next"


@pytest.mark.parametrize("end", END)
async def test_a_close_while_idle_is_noticed_before_reuse(world: World, end: str) -> None:
    go, ended = threading.Event(), threading.Event()

    def first(h2: Conversation) -> None:
        answers(b"first")(h2)
        h2.wait_for(go)
        END[end](h2)
        ended.set()

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).text == "first"
            go.set()
            await waits_for(world, ended)
            response = await session.post(f"{peer.url}/next", content=iter([b"once"]))
            assert response.text == "/next"
            assert session.stats()[:3] == (1, 1, 0)
        assert peer.accepted == 2


async def test_every_request_in_flight_on_a_reused_connection_is_replayed(world: World) -> None:
    def first(h2: Conversation) -> None:
        answers(b"first")(h2)
        for _ in range(5):
            h2.await_headers()
        h2.half_close()

    def second(h2: Conversation) -> None:
        # Nobody is answered before all have come: a connection that is idle again is not fresh enough for a replay.
        for stream, fields in [h2.await_headers() for _ in range(5)]:
            h2.respond(stream, 200, fields[":path"].encode())

    with H2Peer(first, second) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).text == "first"
            responses = await world.gather(*(lambda n=n: session.get(f"{peer.url}/{n}") for n in range(5)))
            assert [response.text for response in responses] == [f"/{n}" for n in range(5)]
            assert session.stats()[:3] == (1, 1, 0)
        assert peer.accepted == 2


# -- rotation by nginx ---------------------------------------------------------------------------------------------


async def test_rotation_is_not_seen_by_one_who_asks_again_and_again(world: World, nginx: _nginx.Nginx, ca: Any) -> None:
    async with world.session(http_versions=H2, tls=plugwire.TLSConfig(ca_file=str(ca.cert_pem))) as session:
        ids = []
        for _ in range(45):
            response = await session.post(f"https://localhost:{nginx.rotating_port}/method", content=b"content")
            assert response.text == "POST"
            ids.append(response.connection.id)
        assert len(set(ids)) >= 4
        assert session.stats().open <= 1


async def test_rotation_is_not_seen_by_many_at_once(world: World, nginx: _nginx.Nginx, ca: Any) -> None:
    async with world.session(http_versions=H2, tls=plugwire.TLSConfig(ca_file=str(ca.cert_pem))) as session:
        ids: set[int] = set()

        async def ask() -> None:
            for _ in range(10):
                response = await session.get(f"https://localhost:{nginx.rotating_port}/small")
                assert response.ok
                ids.add(response.connection.id)

        await world.gather(*[ask] * 12)
        assert len(ids) >= 5
        assert session.stats().waiting == 0


# -- the peer's limit of streams ------------------------------------------------------------------------------------


async def test_a_limit_that_comes_after_more_were_opened(world: World) -> None:
    """Eight go out before the peer has said that it takes two: it refuses six, which are asked again."""
    lock = threading.Lock()
    opened: list[int] = []

    def script(h2: Conversation) -> None:
        h2.await_preface()
        h2.answers = True
        streams = [h2.await_headers() for _ in range(8)]
        with lock:
            opened.append(len(streams))
        h2.impose(max_concurrent_streams=2)
        for stream, _ in streams[2:]:
            h2.rst(stream, REFUSED_STREAM)
        for stream, fields in streams[:2]:
            h2.respond(stream, 200, fields[":path"].encode())
        answered = 2
        while answered < 8:
            stream, fields = h2.await_headers()
            h2.respond(stream, 200, fields[":path"].encode())
            answered += 1

    with H2Peer(script, handshake=False) as peer:
        async with bare(world, limits=ONE) as session:
            responses = await world.gather(
                *(lambda n=n: session.post(f"{peer.url}/{n}", content=b"content") for n in range(8))
            )
            assert [response.text for response in responses] == [f"/{n}" for n in range(8)]
            assert session.stats()[:3] == (1, 1, 0)
    assert opened == [8]


async def test_a_limit_is_kept_lowered_and_raised(world: World) -> None:
    """Never more than the limit at once on the only connection; what waits goes on when it is raised."""

    def script(h2: Conversation) -> None:
        known, _ = h2.await_headers()
        h2.respond(known, 200, b"known")
        # As many as the limit of 4 come, and no more.
        streams = [h2.await_headers() for _ in range(4)]
        h2.sync()
        assert len(h2.fields) == 5
        # Lowered while 4 are open: the next one comes only when a single one is left, and that has ended.
        h2.impose(max_concurrent_streams=1)
        for stream, _ in streams[:3]:
            h2.respond(stream, 200, b"first")
        h2.sync()
        assert len(h2.fields) == 5
        h2.respond(streams[3][0], 200, b"first")
        stream, _ = h2.await_headers()
        h2.sync()
        assert len(h2.fields) == 6
        # Raised: everybody comes, though nothing has ended.
        h2.send_settings(max_concurrent_streams=100)
        rest = [h2.await_headers()[0] for _ in range(5)]
        for one in (stream, *rest):
            h2.respond(one, 200, b"second")

    with H2Peer(script, settings={"max_concurrent_streams": 4}) as peer:
        async with bare(world, limits=ONE) as session:
            assert (await session.get(peer.url)).text == "known"
            responses = await world.gather(*[lambda: session.get(peer.url)] * 10)
            assert sorted(response.text for response in responses) == ["first"] * 4 + ["second"] * 6
            assert session.stats()[:3] == (1, 1, 0)
        assert peer.accepted == 1


async def test_a_limit_of_0_for_a_while(world: World) -> None:
    """With a stream open who reads: the others wait, and go on when the limit rises."""
    held, waiting = threading.Event(), threading.Event()

    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        h2.impose(max_concurrent_streams=0)
        held.set()
        h2.wait_for(waiting)
        h2.sync()
        assert len(h2.fields) == 1
        h2.impose(max_concurrent_streams=1)
        h2.respond(first, 200, b"first")
        for _ in range(2):
            stream, _ = h2.await_headers()
            h2.respond(stream, 200, b"second")

    with H2Peer(script) as peer:
        async with bare(world, limits=ONE) as session:
            first = world.in_background(session.get, peer.url)
            await waits_for(world, held)
            others = [world.in_background(session.get, peer.url) for _ in range(2)]
            # Who was woken for nothing asks anew, and is not in line meanwhile.
            await world.until(lambda: session.stats().waiting == 2, session.stats, first, *others)
            waiting.set()
            assert [(await one.result()).text for one in (first, *others)] == ["first", "second", "second"]
        assert peer.accepted == 1


async def test_a_peer_that_takes_no_streams_at_all(world: World) -> None:
    """Its limit of 0 stands in its first SETTINGS, and it refuses: no endless loop, and the next one is asked."""

    def script(h2: Conversation) -> None:
        for stream, _ in h2.requests():
            h2.rst(stream, REFUSED_STREAM)

    with H2Peer(script, settings={"max_concurrent_streams": 0}, repeat=True) as peer:
        async with bare(world, limits=ONE) as session:
            with pytest.raises(plugwire.Error) as caught:
                await session.get(peer.url)
            assert caught.value.request is not None
            assert session.stats().waiting == 0
    assert peer.accepted <= 25


async def test_a_connection_whose_numbers_are_used_up_retires(world: World) -> None:
    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        h2.respond(first, 200, b"first")
        last, _ = h2.await_headers()
        assert last == MAX_STREAM_ID
        h2.respond(last, 200, b"last")

    with H2Peer(script, until_it_goes) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).text == "first"
            (connection,) = connections(session)
            connection._wire._next_id = MAX_STREAM_ID
            assert (await session.get(peer.url)).text == "last"
            assert session.stats()[:3] == (0, 0, 0)
            assert (await session.get(f"{peer.url}/next")).text == "/next"


# -- leases --------------------------------------------------------------------------------------------------------


async def asked(handle: Any, path: str) -> Any:
    """A response over the handle's connection, read."""
    response = await handle.open_request("GET", path).send()
    await response.read()
    return response


async def test_a_lease_takes_several_requests_at_once(world: World) -> None:
    def script(h2: Conversation) -> None:
        streams = [h2.await_headers() for _ in range(5)]
        for stream, fields in reversed(streams):
            h2.respond(stream, 200, fields[":path"].encode())

    with H2Peer(script) as peer:
        async with bare(world) as session, await session.connect(peer.url) as handle:
            responses = await world.gather(*(lambda n=n: asked(handle, f"/{n}") for n in range(4)), *[
                lambda: session.get(f"{peer.url}/shared")
            ])  # fmt: skip
            assert [response.text for response in responses] == ["/0", "/1", "/2", "/3", "/shared"]
            assert len({response.connection.id for response in responses}) == 1
            assert session.stats().open == 1


async def test_a_lease_is_busy_at_the_limit_alone(world: World) -> None:
    def script(h2: Conversation) -> None:
        one, _ = h2.await_headers()
        h2.respond(one, 200, b"one")
        streams = []
        for _ in range(2):
            streams.append(h2.await_headers()[0])
            h2.headers(streams[-1], [(":status", "200")])
        for stream in streams:
            h2.await_frame(RstStreamFrame, stream)
        last, _ = h2.await_headers()
        h2.respond(last, 200, b"last")

    with H2Peer(script, settings={"max_concurrent_streams": 2}) as peer:
        async with bare(world) as session, await session.connect(peer.url) as handle:
            assert (await asked(handle, "/")).text == "one"
            open_ones = [await handle.open_request("GET", "/").send() for _ in range(2)]
            with pytest.raises(plugwire.Busy, match="no further request"):
                await asked(handle, "/")
            for response in open_ones:
                await response.close()
            assert (await asked(handle, "/")).text == "last"


async def test_a_lease_dials_anew_after_goaway(world: World) -> None:
    def first(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.goaway(stream)  # before the answer, or the next request may be faster
        h2.respond(stream, 200, b"first")

    with H2Peer(first, until_it_goes) as peer:
        async with bare(world) as session, await session.connect(peer.url) as handle:
            one = await asked(handle, "/")
            two = await asked(handle, "/two")
            assert (one.text, two.text) == ("first", "/two")
            assert one.connection.id != two.connection.id
            assert (await asked(handle, "/three")).connection.id == two.connection.id
            assert session.stats().open == 1
        assert peer.accepted == 2


async def test_a_trailer_that_cannot_be_ends_its_request_alone(world: World) -> None:
    """It is the caller's fault; the connection and who shares it notice a reset stream and nothing else."""

    def script(h2: Conversation) -> None:
        other, _ = h2.await_headers()
        came.set()
        bad, _ = h2.await_headers()
        assert h2.await_frame(RstStreamFrame, bad).error_code == CANCEL
        h2.respond(other, 200, b"other")

    came = threading.Event()
    with H2Peer(script) as peer:
        async with bare(world) as session:
            other = world.in_background(session.get, peer.url)
            await waits_for(world, came)
            request = plugwire.Request(
                "POST", peer.url, content=b"content", trailers=lambda: plugwire.Headers({"Content-Length": "7"})
            )
            with pytest.raises(plugwire.InvalidHeader):
                await session.send(request)
            assert (await other.result()).text == "other"
            assert session.stats()[:3] == (1, 1, 0)
