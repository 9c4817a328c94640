"""What an unread response costs over HTTP/2, however its content was cut."""

from __future__ import annotations

import tracemalloc

from hyperframe.frame import DataFrame

from h2_peer import Conversation, H2Peer
from worlds import World


async def test_content_in_pieces_of_a_byte_costs_little_more_than_its_bytes(world: World) -> None:
    size = 4_000
    frames = DataFrame(3, b"x").serialize() * size

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.respond(stream)
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.send_raw(frames)
        h2.sync()
        second, _ = h2.await_headers()
        h2.respond(second)
        h2.data(stream, b"end", end_stream=True)

    with H2Peer(script) as peer:
        async with world.session(http_versions=("h2",)) as session:
            await session.get(peer.url)  # what a first request loads is not meant
            tracemalloc.start()
            try:
                async with session.stream("GET", peer.url) as response:
                    await session.get(peer.url)  # reads what has come of the first, too
                    held = tracemalloc.get_traced_memory()[0]
                    content = await response.read()
            finally:
                tracemalloc.stop()
            assert content == b"x" * size + b"end"
            assert held < 50 * size, held
