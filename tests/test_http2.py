"""HTTP/2 as its users see it: the same Response, events and errors as over HTTP/1.1, against scripted peers."""

from __future__ import annotations

import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, RstStreamFrame

import plugwire
from h2_peer import Conversation, H2Peer
from worlds import World

H2 = ("h2",)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_small_get(world: World, tls: bool) -> None:
    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert fields[":method"] == "GET"
        assert fields[":path"] == "/x?y=1"
        assert fields[":scheme"] == ("https" if tls else "http")
        assert fields[":authority"] == peer.url.removeprefix(fields[":scheme"] + "://")
        assert "host" not in fields
        h2.headers(stream, [(":status", "200"), ("content-type", "text/plain"), ("content-length", "2")])
        h2.data(stream, b"hi", end_stream=True)

    with H2Peer(script, tls=tls) as peer:
        async with world.session(http_versions=H2, tls=peer.tls_config) as session:
            response = await session.get(peer.url + "/x?y=1")
            assert (response.status_code, response.reason, response.http_version) == (200, "OK", "HTTP/2")
            assert response.text == "hi"
            assert response.headers["Content-Type"] == "text/plain"
            assert response.connection.protocol == "HTTP/2"
            assert not response.connection.reused


async def test_the_connection_is_used_again(world: World) -> None:
    def script(h2: Conversation) -> None:
        for number in range(3):
            stream, _ = h2.await_headers()
            assert stream == 2 * number + 1
            h2.respond(stream, 200, b"%d" % number)

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            responses = [await session.get(peer.url) for _ in range(3)]
            assert [response.text for response in responses] == ["0", "1", "2"]
            assert [response.connection.reused for response in responses] == [False, True, True]
            assert session.stats().open == session.stats().idle == 1


async def test_content_in_memory_goes_along(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert fields["content-length"] == "5"
        assert h2.await_body(stream) == b"hello"
        h2.respond(stream, 200, b"thanks")

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            assert (await session.post(peer.url, content=b"hello")).text == "thanks"


async def test_a_large_upload_waits_for_windows(world: World) -> None:
    content = bytes(range(256)) * 2000

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        assert h2.await_body(stream) == content
        h2.respond(stream, 200, b"thanks")

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            assert (await session.post(peer.url, content=[content])).text == "thanks"


async def test_requests_share_the_connection(world: World) -> None:
    """Answered in reverse order, after all have come."""

    def script(h2: Conversation) -> None:
        streams = [h2.await_headers() for _ in range(8)]
        for stream, fields in reversed(streams):
            h2.respond(stream, 200, fields[":path"].encode())

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            responses = await world.gather(*(lambda n=n: session.get(f"{peer.url}/{n}") for n in range(8)))
            assert [response.text for response in responses] == [f"/{n}" for n in range(8)]
            assert session.stats().open == 1


async def test_a_slow_reader_holds_up_nobody(world: World) -> None:
    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        h2.headers(first, [(":status", "200")])
        h2.data(first, bytes(100_000))
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"second")
        h2.data(first, b"end", end_stream=True)

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            async with session.stream("GET", peer.url) as slow:
                assert (await session.get(peer.url)).text == "second"
                content = await slow.read()
            assert content == bytes(100_000) + b"end"


async def test_a_closed_response_resets_its_stream(world: World) -> None:
    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        h2.headers(first, [(":status", "200")])
        h2.data(first, b"beginning")
        assert h2.await_frame(RstStreamFrame, first).error_code == 8
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"second")

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            async with session.stream("GET", peer.url) as response:
                assert await response.read(4) == b"begi"
            assert (await session.get(peer.url)).text == "second"
            assert session.stats().open == 1


async def test_a_reset_is_an_error_with_its_code(world: World) -> None:
    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        h2.rst(first, 2)
        second, _ = h2.await_headers()
        h2.respond(second)

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            with pytest.raises(plugwire.StreamReset, match="INTERNAL_ERROR") as info:
                await session.get(peer.url)
            assert (info.value.code, info.value.phase, info.value.sent) == (2, "head", True)
            assert (await session.get(peer.url)).ok


async def test_a_refused_stream_is_asked_again(world: World) -> None:
    def script(h2: Conversation) -> None:
        first, _ = h2.await_headers()
        h2.await_frame(DataFrame, first)
        h2.rst(first, 7)
        second, _ = h2.await_headers()
        assert h2.await_body(second) == b"data"
        h2.respond(second, 200, b"done")

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            assert (await session.post(peer.url, content=b"data")).text == "done"


async def test_a_session_that_ends_takes_its_leave(world: World) -> None:
    """RFC 9113, 6.8."""
    codes: list[int] = []

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.respond(stream, 200, b"done")
        codes.append(h2.await_frame(GoAwayFrame).error_code)
        h2.await_end()

    with H2Peer(script) as peer:
        async with world.session(http_versions=H2) as session:
            assert (await session.get(peer.url)).text == "done"
    assert codes == [0]
