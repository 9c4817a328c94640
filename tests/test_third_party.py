"""The plugins and transports of tests/third_party, unchanged in all three worlds, against real sockets."""

from __future__ import annotations

import base64
import gzip
import hashlib
import threading
from typing import Any

import pytest

import plugwire
from plugwire import Response
from plugwire.call import Call
from plugwire.testing import ScriptedPeer, Server
from plugwire.testing.peer import close, expect_head, expect_request, send, tell, wait_for
from third_party.bearer import RefreshedBearer
from third_party.body_counter import BodyCounter
from third_party.checksum import Checksum, Gunzip
from third_party.connect_proxy import ConnectProxy
from third_party.hedging import Hedging
from third_party.memory_transport import Memory
from third_party.pinned_hosts import PinnedHosts
from third_party.resuming import Resuming
from third_party.signer import Signer
from third_party.single_flight import SingleFlight
from third_party.wrapping_dialler import CountingDialler, CuttingDialler
from worlds import PATIENCE, World

SIZE = 300_000
CONTENT = bytes(range(251)) * 1200 + b"the end"


async def _pieces(response: Any, size: int) -> bytes:
    """The body, read piece by piece."""
    content = b""
    while piece := await response.read(size):
        content += piece
    return content


async def test_signer_sees_the_request_as_it_goes_out(world: World) -> None:
    signer = Signer(b"key")
    with Server({"/x": Response(200)}) as server:
        async with world.session(plugins=[signer]) as session:
            await session.post(f"{server.url}/x?q=1", content=b"body")
    (came,) = server.calls
    assert came.headers["x-signature"] == signer.sign(came)


async def test_twenty_callers_share_one_token_refresh(world: World) -> None:
    tokens = iter(["first", "second", "third"])
    valid = ["none yet"]

    def handler(request: plugwire.Request) -> Response:
        if request.url.path == "/token":
            valid[0] = next(tokens)
            return Response(200, json={"token": valid[0]})
        is_valid = request.headers.get("authorization") == f"Bearer {valid[0]}"
        return Response(200 if is_valid else 401, text="x" * 10)

    with Server(handler) as server:
        bearer = RefreshedBearer(f"{server.url}/token")
        async with world.session(plugins=[bearer]) as session:

            async def one() -> int:
                return (await session.get(f"{server.url}/x")).status_code  # type: ignore[no-any-return]

            assert await world.gather(*[one] * 20) == [200] * 20
            assert [call.url.path for call in server.calls].count("/token") == 1
            valid[0] = "revoked"  # the server forgets the token: one more refresh for all
            assert await world.gather(*[one] * 20) == [200] * 20
            assert [call.url.path for call in server.calls].count("/token") == 2


async def test_two_sessions_of_one_plugin_keep_their_own_tokens(world: World) -> None:
    made = iter(range(9))
    with Server(
        {"/token": lambda request: Response(200, json={"token": str(next(made))}), "/x": Response(200)}
    ) as server:
        bearer = RefreshedBearer(f"{server.url}/token")
        async with world.session(plugins=[bearer]) as one, world.session(plugins=[bearer]) as other:
            for session in (one, other, one):
                await session.get(f"{server.url}/x")
    sent = [call.headers["authorization"] for call in server.calls if call.url.path == "/x"]
    assert sent == ["Bearer 0", "Bearer 1", "Bearer 0"]


@pytest.mark.parametrize("path", ["/hello", f"/bytes/{SIZE}", "/chunked"])
async def test_body_counter_counts_what_is_read(world: World, path: str) -> None:
    counter = BodyCounter()
    with Server() as server:
        async with world.session(plugins=[counter]) as session:
            response = await session.get(server.url + path)
            assert counter.bytes == len(response.content)
            assert counter.ends == ["complete"]
            size = counter.bytes
            async with session.stream("GET", server.url + path) as response:
                assert await response.readinto(bytearray(7)) == 7
            assert counter.bytes == size + 7
            assert counter.ends == ["complete", "Discarded"]


async def test_checksum_stands_below_the_decoder(world: World) -> None:
    packed = gzip.compress(CONTENT)
    digest = base64.b64encode(hashlib.sha256(packed).digest()).decode()
    fields = {"content-encoding": "gzip", "content-digest": f"sha-256=:{digest}:"}
    spoilt = packed[:-1] + bytes([packed[-1] ^ 1])
    replies = {
        "/x": Response(200, headers=fields, content=packed),
        "/spoilt": Response(200, headers=fields, content=spoilt),
    }
    checksum = Checksum()
    raw = {"decode_content": False}  # of the plugin that decodes by default
    with Server(replies) as server:
        async with world.session(plugins=[Gunzip(), checksum], options=raw) as session:
            assert (await session.get(f"{server.url}/x")).content == CONTENT
            assert checksum.verified == 1
            async with session.stream("GET", f"{server.url}/x") as response:
                assert await _pieces(response, 1000) == CONTENT
            assert checksum.verified == 2
            assert server.accepted == 1  # the end was seen, so the connection was used again
        async with world.session(plugins=[checksum], options=raw) as session:
            with pytest.raises(plugwire.DecodingError, match="Content-Digest"):
                await session.get(f"{server.url}/spoilt")


async def test_identical_gets_share_one_flight(world: World) -> None:
    may_answer = threading.Event()

    def handler(request: plugwire.Request) -> Response:
        if request.url.path == "/slow":
            assert may_answer.wait(30)
        return Response(200, text=request.url.path)

    with Server(handler) as server:
        async with world.session(plugins=[SingleFlight()]) as session:

            async def one() -> str:
                return (await session.get(f"{server.url}/slow")).text  # type: ignore[no-any-return]

            flying = [world.in_background(one) for _ in range(8)]
            await world.settle()
            may_answer.set()
            assert [await one.result() for one in flying] == ["/slow"] * 8
            assert len(server.calls) == 1
            assert await one() == "/slow"  # it has landed: the next one flies itself
            assert len(server.calls) == 2


async def test_the_failure_of_a_flight_is_not_that_of_its_passengers(world: World) -> None:
    arrived, may_answer = threading.Event(), threading.Event()
    dropping = [expect_request(), tell(arrived), wait_for(may_answer), close()]
    answering = [expect_request(), send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]
    with ScriptedPeer(dropping, answering) as peer:
        async with world.session(plugins=[SingleFlight()]) as session:

            async def one() -> str:
                return (await session.get(peer.url)).text  # type: ignore[no-any-return]

            leader = world.in_background(one)
            assert await world.runtime().run_blocking(arrived.wait, 30)
            passenger = world.in_background(one)
            await world.settle()
            may_answer.set()
            assert isinstance((await leader.outcome()).error, plugwire.ConnectionClosed)
            assert await passenger.result() == "ok"


async def test_resolver_pins_hosts(world: World) -> None:
    with Server() as server:
        pinned = PinnedHosts({"api.example": "127.0.0.1"})
        async with world.session(transports=[pinned]) as session:
            response = await session.get(f"http://api.example:{server.port}/echo")
            assert ["Host", f"api.example:{server.port}"] in response.json()["headers"]
            # What it does not know, it leaves to those below.
            assert (await session.get(f"{server.url}/hello")).ok


async def test_dialler_wraps_another(world: World) -> None:
    counting = CountingDialler()
    with Server() as server:
        async with world.session(transports=[counting]) as session:
            response = await session.get(f"{server.url}/bytes/{SIZE}")
            assert len(response.content) == SIZE
            assert counting.received > SIZE
            assert response.connection.peer_address.port == server.port  # passes through the wrapper


async def test_wrappers_may_be_stacked(world: World) -> None:
    outer, inner = CountingDialler(), CountingDialler()
    inner.name = "inner"  # type: ignore[misc]
    with Server() as server:
        async with world.session(transports=[outer, inner]) as session:
            await session.get(f"{server.url}/hello")
    assert outer.received == inner.received > 0


async def test_dialler_injects_a_fault(world: World) -> None:
    with Server() as server:
        async with world.session(transports=[CuttingDialler(1000)]) as session:
            with pytest.raises(plugwire.ReadError) as caught:
                await session.get(f"{server.url}/bytes/{SIZE}")
            assert caught.value.phase == "body"
            assert caught.value.sent


async def test_whole_transport_in_memory(world: World) -> None:
    async with world.session(transports=[Memory({"/a": b"in memory"})]) as session:
        assert (await session.get("mem://anywhere/a")).content == b"in memory"
        assert (await session.get("mem://anywhere/b")).status_code == 404
        with Server() as server:  # other URLs go on as ever
            assert (await session.get(f"{server.url}/hello")).ok


async def test_hedging_takes_the_answer_that_comes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stalled, over = threading.Event(), threading.Event()
    stalling = [expect_request(), tell(stalled), wait_for(over)]
    answering = [wait_for(stalled), expect_request(), send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]
    sleep = Call.sleep

    async def until_the_first_stalls(call: Call, seconds: float) -> None:
        assert await call.runtime.run_blocking(stalled.wait, PATIENCE)
        await sleep(call, seconds)

    monkeypatch.setattr(Call, "sleep", until_the_first_stalls)
    hedging = Hedging(0.02)
    with ScriptedPeer(stalling, answering) as peer:
        async with world.session(plugins=[hedging]) as session:
            assert (await session.get(peer.url)).text == "ok"
            over.set()
    assert hedging.winners == [1]


async def test_a_cut_download_goes_on_by_range(world: World) -> None:
    first = b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nAccept-Ranges: bytes\r\nContent-Length: 10\r\n\r\n01234'
    rest = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n56789"
    with ScriptedPeer([expect_request(), send(first), close()], [expect_request(), send(rest)]) as peer:
        async with world.session(plugins=[Resuming()]) as session, session.stream("GET", peer.url) as response:
            content = await _pieces(response, 1000)
        assert content == b"0123456789"
        assert b"Range: bytes=5-\r\n" in peer.received[1]
        assert b'If-Range: "v1"\r\n' in peer.received[1]


async def test_a_cut_download_without_range_stays_cut(world: World) -> None:
    cut = b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nAccept-Ranges: bytes\r\nContent-Length: 10\r\n\r\n01234'
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"
    with ScriptedPeer([expect_request(), send(cut), close()], [expect_request(), send(whole)]) as peer:
        async with world.session(plugins=[Resuming()]) as session:
            with pytest.raises(plugwire.IncompleteBody):
                await session.get(peer.url)


async def test_a_proxy_dialler_makes_a_tunnel(world: World) -> None:
    script: list[Any] = [
        expect_head(b"CONNECT origin.example:80 HTTP/1.1\r\n"),
        send(b"HTTP/1.1 200 Connection established\r\n\r\n"),
        expect_request(b"GET /x HTTP/1.1\r\nHost: origin.example\r\n"),
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ]
    with ScriptedPeer(script) as proxy:
        async with world.session(proxy=proxy.url, transports=[ConnectProxy()]) as session:
            assert (await session.get("http://origin.example/x")).text == "ok"


async def test_a_proxy_that_refuses_the_tunnel(world: World) -> None:
    script = [expect_head(b"CONNECT "), send(b"HTTP/1.1 403 Forbidden\r\n\r\n")]
    with ScriptedPeer(script) as proxy:
        async with world.session(proxy=proxy.url, transports=[ConnectProxy()]) as session:
            with pytest.raises(plugwire.ProxyError, match="403 Forbidden") as caught:
                await session.get("http://origin.example/x")
            assert caught.value.phase == "dial"
            assert not caught.value.sent
