"""The peer ends the connection at every byte of a response, in order and by a reset: which error it is, what it knows,
and that nothing is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import ConnectionClosed, Error, IncompleteBody, ProtocolError, ReadError
from plugwire.testing.peer import PeerConnection, ScriptedPeer, abort, close, expect_end, expect_head, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from worlds import World

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = (HEAD + b"Content-Length: 5\r\n\r\n", b"hello")
CHUNKED = (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nX-T: 1\r\n\r\n")
CLOSING = (HEAD + b"\r\n", b"hello")
INTERIM = (b"HTTP/1.1 103 Early Hints\r\n\r\n" + LENGTH[0], b"hello")


def content_in(body: bytes) -> int:
    """Bytes of content in a prefix of the chunked body above."""
    return sum(1 for place in (3, 4, 5, 15, 16) if place < len(body))


def bare(world: World, **kwargs: Any) -> Any:
    return world.session(defaults=False, **kwargs)


async def ended_at(
    world: World, response: tuple[bytes, bytes], place: int, end: Callable[[PeerConnection], object]
) -> tuple[Error | None, bytes]:
    """The error of a response that ends after `place` bytes, and the content that came before it. The session must
    be none the worse for it."""
    data = b"".join(response)[:place]
    caught: Error | None = None
    content = b""
    with ScriptedPeer([expect_head(), *([send(data)] if data else []), end], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            try:
                async with session.stream("GET", peer.url) as answer:
                    try:
                        while piece := await answer.read(2):
                            content += piece
                    except Error as error:
                        caught = error
                        # It says so again, for who did not listen.
                        with pytest.raises(type(error)):
                            await answer.read(2)
                        with pytest.raises(plugwire.BodyUnread):
                            _ = answer.content
            except Error as error:
                caught = error
            assert session.stats().open == 0
            assert (await session.get(f"{peer.url}/next")).content == b"ok"
            assert session.stats()[:2] == (1, 1)
    return caught, content


def check_common(error: Error | None, phase: str) -> Error:
    assert error is not None
    assert (error.phase, error.sent, error.replayable, error.attempts) == (phase, True, True, 1)
    assert error.request is not None
    assert error.request.method == "GET"
    assert error.connection is not None
    assert error.__cause__ is not error
    return error


HEADS = range(len(LENGTH[0]))


@pytest.mark.parametrize("kind", [LENGTH, CHUNKED, CLOSING, INTERIM], ids=["length", "chunked", "close", "interim"])
async def test_an_orderly_end_inside_the_head(world: World, kind: tuple[bytes, bytes]) -> None:
    for place in range(len(kind[0])):
        error = check_common((await ended_at(world, kind, place, close()))[0], "head")
        if place == 0:
            assert type(error) is ConnectionClosed
        elif kind is INTERIM and place == INTERIM[0].index(b"\r\n\r\n") + 4:
            assert type(error) is ReadError
            assert "interim" in str(error)
        else:
            assert type(error) is ProtocolError
            assert "inside the head" in str(error)


@pytest.mark.parametrize("kind", [LENGTH, CHUNKED, CLOSING, INTERIM], ids=["length", "chunked", "close", "interim"])
async def test_a_reset_inside_the_head(world: World, kind: tuple[bytes, bytes]) -> None:
    for place in range(len(kind[0])):
        error = check_common((await ended_at(world, kind, place, abort()))[0], "head")
        assert type(error) is (ReadError if place else ConnectionClosed)
        assert isinstance(error.__cause__, ConnectionResetError)


async def test_an_orderly_end_inside_a_body_of_known_length(world: World) -> None:
    head, body = LENGTH
    for place in range(len(body)):
        error, content = await ended_at(world, LENGTH, len(head) + place, close())
        check_common(error, "body")
        assert type(error) is IncompleteBody
        assert (error.received, error.expected) == (place, 5)
        assert content == body[:place]


async def test_an_orderly_end_inside_a_chunked_body(world: World) -> None:
    head, body = CHUNKED
    for place in range(len(body)):
        error, content = await ended_at(world, CHUNKED, len(head) + place, close())
        check_common(error, "body")
        assert type(error) is IncompleteBody
        assert (error.received, error.expected) == (content_in(body[:place]), None)
        assert content == b"hello"[: error.received]


@pytest.mark.parametrize("kind", [LENGTH, CHUNKED], ids=["length", "chunked"])
async def test_a_reset_inside_a_body(world: World, kind: tuple[bytes, bytes]) -> None:
    head, body = kind
    for place in range(len(body)):
        error, content = await ended_at(world, kind, len(head) + place, abort())
        check_common(error, "body")
        assert type(error) is ReadError, place
        received = content_in(body[:place]) if kind is CHUNKED else place
        # What came before the reset is there to be had, on this system.
        assert content == b"hello"[:received]
        assert f"after {received} bytes" in str(error)


async def test_an_end_behind_a_complete_response_is_no_error(world: World) -> None:
    for kind in (LENGTH, CHUNKED):
        for end in (close(), abort()):
            whole = b"".join(kind)
            with ScriptedPeer([expect_head(), send(whole), end], [expect_head(), send(OK)]) as peer:
                async with bare(world) as session:
                    assert (await session.get(peer.url)).content == b"hello"
                    assert await world.runtime().run_blocking(peer.wait_closed, 30)
                    assert (await session.get(peer.url)).content == b"ok"


async def test_a_body_that_ends_with_the_connection(world: World) -> None:
    head, body = CLOSING
    for place in range(len(body) + 1):
        error, content = await ended_at(world, CLOSING, len(head) + place, close())
        assert error is None
        assert content == body[:place]
        # A reset is no end: nobody can tell what is missing.
        error, content = await ended_at(world, CLOSING, len(head) + place, abort())
        check_common(error, "body")
        assert type(error) is IncompleteBody
        assert (error.received, error.expected) == (place, None)
        assert content == body[:place]


async def test_a_post_that_broke_may_not_be_replayed(world: World) -> None:
    for end in (close(), abort()):
        with ScriptedPeer([expect_head(), end]) as peer:
            async with bare(world) as session:
                with pytest.raises(ConnectionClosed) as caught:
                    await session.post(peer.url)
                assert (caught.value.sent, caught.value.replayable) == (True, False)


@pytest.mark.parametrize("end", [close, abort])
async def test_a_reused_connection_that_ends_unanswered_is_replayed_once(world: World, end: Any) -> None:
    answered = [expect_head(), send(OK)]
    with ScriptedPeer([*answered, expect_head(), end()], answered) as peer:
        async with bare(world) as session:
            await session.get(peer.url)
            response = await session.get(f"{peer.url}/again")
            assert response.content == b"ok"
            assert not response.connection.reused
        assert peer.accepted == 2
    with ScriptedPeer([*answered, expect_head(), end()], [expect_head(), end()]) as peer:
        async with bare(world) as session:
            await session.get(peer.url)
            with pytest.raises(ConnectionClosed):
                await session.get(f"{peer.url}/again")
    with ScriptedPeer([*answered, expect_head(b"POST "), end()]) as peer:
        async with bare(world) as session:
            await session.get(peer.url)
            with pytest.raises(ConnectionClosed) as caught:
                await session.post(f"{peer.url}/again")
            assert not caught.value.replayable


async def test_a_reused_connection_that_had_begun_to_answer_is_not_replayed(world: World) -> None:
    for begin in (b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n"):
        for end in (close(), abort()):
            with ScriptedPeer([expect_head(), send(OK), expect_head(), send(begin), end]) as peer:
                async with bare(world) as session:
                    await session.get(peer.url)
                    with pytest.raises((ReadError, ProtocolError)):
                        await session.get(peer.url)


async def test_a_fault_behind_good_content_in_the_same_packet(world: World) -> None:
    # Cut so or so, the verdict is the same, and the connection is gone.
    bad = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\nXX\r\n"
    for cuts in ((), range(1, len(bad))):
        with ScriptedPeer([expect_head(), send(bad, *cuts), expect_end()]) as peer:
            async with bare(world) as session:
                async with session.stream("GET", peer.url) as response:
                    with pytest.raises(ProtocolError, match="chunk line") as caught:
                        await response.read()
                    assert caught.value.phase == "body"
                    assert caught.value.connection == response.connection
                assert session.stats().open == 0


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -5\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"X: 1\r\n folded\r\n",
        b"X : 1\r\n",
        b"X: \0\r\n",
        b"X\r\n",
        b"X: 1\n",
    ],
)
async def test_heads_that_are_read_in_two_ways_end_the_connection(world: World, head: bytes) -> None:
    with ScriptedPeer([expect_head(), send(HEAD + head + b"\r\n5\r\nhello\r\n0\r\n\r\n"), expect_end()]) as peer:
        async with bare(world) as session:
            with pytest.raises(ProtocolError) as caught:
                await session.get(peer.url)
            assert caught.value.phase == "head"
            assert session.stats().open == 0
