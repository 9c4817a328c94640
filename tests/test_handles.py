"""The classical road: connection handles, request handles, push uploads."""

from __future__ import annotations

import gc
import io
import shutil
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Busy, Limits, Request, Response, SessionClosed, UsageError, hookimpl
from plugwire.testing import Server
from plugwire.testing.peer import (
    PeerConnection,
    ScriptedPeer,
    abort,
    close,
    expect,
    expect_end,
    expect_head,
    expect_request,
    receive,
    send,
    tell,
    wait_for,
)

if TYPE_CHECKING:
    from worlds import World

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge"


def bare(world: World, **kwargs: Any) -> Any:
    return world.session(defaults=False, **kwargs)


def read_all(connection: PeerConnection) -> None:
    connection.read_end()


# -- connections ---------------------------------------------------------------------------------------------------


async def test_the_seven_steps(world: World) -> None:
    with ScriptedPeer([expect_head(b"GET /p?q "), send(OK), expect_head(b"GET /other "), send(OK)]) as peer:
        async with bare(world) as session:
            async with await session.connect(peer.url) as connection:
                assert peer.url in repr(connection)
                assert connection.info.protocol == "HTTP/1.1"
                assert connection.info.peer_address.port == peer.port
                request = connection.open_request("GET", "/p?q")
                assert peer.connections == [] or not peer.connections[0].received, "opening a request is no I/O"
                request.headers.add("X-A", "1")
                assert (request.method, str(request.url)) == ("GET", f"{peer.url}/p?q")
                response = await request.send()
                assert response.ok
                buffer = bytearray(10)
                assert await response.readinto(buffer) == 2
                assert await response.readinto(buffer) == 0
                with pytest.raises(Busy, match="sent already"):
                    await request.send()
                other = await connection.open_request("GET", "other").send()
                assert await other.read() == b"ok"
            await connection.close()
            assert session.stats()[:2] == (1, 1)
            with pytest.raises(SessionClosed, match="handle is closed"):
                await connection.open_request("GET", "/").send()
        assert b"X-A: 1\r\n" in peer.received[0]


@pytest.mark.parametrize(
    "target", ["//other.example/x", "///other.example/x", "\\\\other.example", "http://other.example/", "//127.0.0.1/"]
)
async def test_a_target_that_leads_elsewhere_is_refused(world: World, target: str) -> None:
    """It may come from anybody, who would be sent what was given to connect()."""
    given: Any = {"auth": ("user", "secret"), "headers": {"Authorization": "s"}}
    with ScriptedPeer([]) as peer:
        async with bare(world) as session, await session.connect(peer.url, **given) as connection:
            with pytest.raises(UsageError):
                connection.open_request("GET", target)
            assert connection.open_request("GET", f"{peer.url}/x").url.target == "/x"


async def test_a_request_that_is_sent_again_by_a_session_is_not_for_the_handles_connection(world: World) -> None:
    """That one may be closed, or another session's, which has made it past the address guard of this one."""
    with Server() as server:
        async with bare(world) as session, bare(world, transports=["address-guard"]) as guarded:
            async with await session.connect(server.url) as connection:
                response = await connection.open_request("GET", "/bytes/1000000").send()
                with pytest.raises(plugwire.AddressRefused):
                    await guarded.send(response.request)
                assert (await session.send(response.request)).ok, "while the handle's own connection is busy"
                await response.close()
            assert (await session.send(response.request)).ok, "and after the handle is closed"


async def test_connecting_to_nobody_fails_at_once(world: World) -> None:
    with ScriptedPeer() as peer:
        pass
    async with bare(world) as session:
        with pytest.raises(plugwire.ConnectError) as caught:
            await session.connect(peer.url)
        assert (caught.value.phase, caught.value.sent) == ("dial", False)
        assert session.stats().open == 0


async def test_a_leased_connection_is_nobody_elses(world: World) -> None:
    with ScriptedPeer([expect_head(b"GET /mine "), send(OK)], [expect_head(b"GET /pool "), send(OK)]) as peer:
        async with bare(world) as session, await session.connect(peer.url) as connection:
            assert session.stats()[:2] == (1, 0)
            assert (await session.get(f"{peer.url}/pool")).content == b"ok"
            assert await (await connection.open_request("GET", "/mine").send()).read() == b"ok"


async def test_connecting_takes_an_idle_connection(world: World) -> None:
    with ScriptedPeer([expect_head(), send(OK), expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            first = await session.get(peer.url)
            async with await session.connect(peer.url) as connection:
                assert connection.info.id == first.connection.id
                await (await connection.open_request("GET").send()).read()


async def test_a_leased_connection_that_the_peer_closed_is_dialled_again(world: World) -> None:
    gone = threading.Event()
    with ScriptedPeer([close(), tell(gone)], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session, await session.connect(peer.url) as connection:
            assert await world.runtime().run_blocking(gone.wait, 30)
            response = await connection.open_request("POST").send()
            assert await response.read() == b"ok"
            assert session.stats().open == 1


async def test_a_response_that_outlives_its_handle(world: World) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    go = threading.Event()
    with ScriptedPeer([expect_head(), send(data[:-5]), wait_for(go), send(data[-5:]), expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            async with await session.connect(peer.url) as connection:
                response = await connection.open_request("GET").send()
            go.set()
            assert await response.read() == b"hello"
            assert session.stats()[:2] == (1, 1)
            await session.get(peer.url)


async def test_a_request_without_a_connection(world: World) -> None:
    with ScriptedPeer([expect_request(b"POST "), send(OK)]) as peer:
        async with bare(world) as session:
            request = session.open_request("POST", peer.url, content=b"x")
            assert "POST" in repr(request)
            assert session.stats().open == 0
            assert await (await request.send()).read() == b"ok"


# -- push uploads --------------------------------------------------------------------------------------------------


async def test_push_chunked_and_by_length(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK), expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            for length in (None, 9):
                request = session.open_request("POST", peer.url, headers={"X-A": "1"})
                await request.begin(length)
                assert await request.write(b"abc") == 3
                assert await request.write(b"") == 0
                assert await request.write("dü") == 3
                assert await request.write(memoryview(b"xyz")) == 3
                response = await request.end()
                with pytest.raises(plugwire.BodyUnread):
                    _ = response.content
                assert await response.read() == b"ok"
            assert session.stats()[:2] == (1, 1)
        host = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\nX-A: 1\r\n".encode()
        chunks = b"3\r\nabc\r\n3\r\nd\xc3\xbc\r\n3\r\nxyz\r\n0\r\n\r\n"
        assert peer.received == [
            host + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + host + b"Content-Length: 9\r\n\r\nabcd\xc3\xbcxyz"
        ]


async def test_what_is_pushed_goes_out_at_once(world: World) -> None:
    steps = [threading.Event() for _ in range(3)]
    pieces = [expect(b"1\r\na\r\n"), tell(steps[1]), expect(b"1\r\nb\r\n"), tell(steps[2])]
    with ScriptedPeer([expect_head(), tell(steps[0]), *pieces, expect(b"0\r\n\r\n"), send(OK)]) as peer:
        async with bare(world) as session:
            request = session.open_request("PUT", peer.url)
            await request.begin()
            assert await world.runtime().run_blocking(steps[0].wait, 30)
            for step, piece in zip(steps[1:], (b"a", b"b"), strict=True):
                await request.write(piece)
                assert await world.runtime().run_blocking(step.wait, 30)
            await request.end()


async def test_the_callers_buffer_may_change_after_write(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            request = session.open_request("PUT", peer.url)
            await request.begin(30_000_000)
            buffer = bytearray(1_000_000)
            for number in range(30):
                buffer[:] = bytes([number]) * len(buffer)
                await request.write(buffer)
            await (await request.end()).read()
        body = peer.received[0].partition(b"\r\n\r\n")[2]
        assert body == b"".join(bytes([number]) * 1_000_000 for number in range(30))


async def test_the_order_of_push_calls(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            request = session.open_request("POST", peer.url)
            for use in (lambda: request.write(b"x"), lambda: request.end()):
                with pytest.raises(UsageError, match="after begin"):
                    await use()
            await request.begin()
            for use in (lambda: request.begin(), lambda: request.send()):
                with pytest.raises(UsageError):
                    await use()
            await request.write(b"x")
            await (await request.end()).read()
            for use in (lambda: request.write(b"x"), lambda: request.end()):
                with pytest.raises(UsageError, match="any more"):
                    await use()
            with pytest.raises(UsageError, match="one body"):
                await session.open_request("POST", peer.url, content=b"x").begin()
            with pytest.raises(UsageError, match="number of bytes"):
                await session.open_request("POST", peer.url).begin(-1)


@pytest.mark.parametrize("length", [0, 3])
async def test_more_than_announced_is_not_written(world: World, length: int) -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin(length)
            with pytest.raises(UsageError, match=f"{length} are left"):
                await request.write(b"x" * (length + 1))
            # Nothing of it went out, so the upload can go on.
            assert await request.write(b"y" * length) == length
            assert await (await request.end()).read() == b"ok"
        assert peer.received[0].endswith(b"\r\n\r\n" + b"y" * length)


async def test_less_than_announced_is_an_error(world: World) -> None:
    with ScriptedPeer([expect_head(), expect(b"ab"), expect_end()]) as peer:
        async with bare(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin(3)
            await request.write(b"ab")
            with pytest.raises(UsageError, match="after 2 bytes"):
                await request.end()
            with pytest.raises(UsageError, match="upload failed"):
                await request.end()
            assert session.stats().open == 0


async def test_an_early_response_ends_a_push(world: World) -> None:
    answered = threading.Event()
    with ScriptedPeer([expect_head(), receive(1), send(TOO_LARGE), tell(answered), read_all]) as peer:
        async with bare(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin()
            assert await request.write(b"a") == 1
            assert await world.runtime().run_blocking(answered.wait, 30)
            for _ in range(100):
                assert await request.write(b"b" * 100_000) == 100_000  # dropped, from some point on
            response = await request.end()
            assert (response.status_code, await response.read()) == (413, b"large")
            assert session.stats().open == 0


async def test_an_error_in_the_middle_of_a_push(world: World) -> None:
    gone = threading.Event()
    with ScriptedPeer([expect_head(), receive(1), abort(), tell(gone)]) as peer:
        async with bare(world) as session:
            request = session.open_request("PUT", peer.url)
            await request.begin()
            await request.write(b"a")
            assert await world.runtime().run_blocking(gone.wait, 30)
            with pytest.raises(plugwire.NetworkError) as caught:
                for _ in range(1000):
                    await request.write(b"b" * 100_000)
            assert (caught.value.sent, caught.value.replayable, caught.value.phase) == (True, False, "write")
            for use in (lambda: request.write(b"x"), lambda: request.end()):
                with pytest.raises(UsageError, match="upload failed"):
                    await use()
            await request.close()
            assert session.stats().open == 0


async def test_begin_fails_where_the_peer_is_not_there(world: World) -> None:
    with ScriptedPeer() as peer:
        pass
    async with bare(world) as session:
        request = session.open_request("POST", peer.url)
        with pytest.raises(plugwire.ConnectError):
            await request.begin()
        with pytest.raises(UsageError, match="upload failed"):
            await request.end()


async def test_giving_up_closes_the_connection(world: World) -> None:
    with ScriptedPeer([expect_head(), expect_end()], [expect_head(), read_all]) as peer:
        async with bare(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin()
            await request.close()
            await request.close()
            assert session.stats().open == 0
            with pytest.raises(UsageError, match="closed"):
                await request.write(b"x")
            async with session.open_request("POST", peer.url) as request:
                await request.begin()
                await request.write(b"x")
            assert session.stats().open == 0


async def test_an_abandoned_push_warns_and_leaves_nothing(world: World) -> None:
    with ScriptedPeer([expect_head(), expect_end()], [expect_head(), send(OK)]) as peer:
        async with bare(world, limits=Limits(max_connections=1)) as session:
            request = session.open_request("POST", f"{peer.url}/left")
            await request.begin()
            with pytest.warns(ResourceWarning, match="/left.* between begin"):
                del request
                gc.collect()
            assert session.stats().open == 0
            assert (await session.get(peer.url, timeout=30)).content == b"ok"


async def test_a_response_to_a_push_that_nobody_fetched(world: World) -> None:
    with ScriptedPeer([expect_head(), send(b"HTTP/1.1 413 X\r\nContent-Length: 9\r\n\r\n"), expect_end()]) as peer:
        async with bare(world) as session:
            request = session.open_request("POST", peer.url)
            await request.begin(0)  # so the response comes now
            assert session.stats().open == 1
            await request.close()
            assert session.stats().open == 0


class Again:
    """Sends everything twice."""

    def __init__(self) -> None:
        self.replayable: list[bool] = []

    @hookimpl
    async def around_call(self, request: Request, call_next: Any) -> Any:
        self.replayable.append(request.body.is_replayable)
        response = await call_next(request)
        await response.read()
        return await call_next(request)


class Early:
    """Answers without the wire, and without reading the body."""

    @hookimpl
    async def around_send(self, request: Request, call_next: Any) -> Any:
        return plugwire.AsyncResponse(403, content=b"no", request=request)


async def test_a_push_cannot_be_sent_again(world: World) -> None:
    plugin = Again()
    with ScriptedPeer([expect_request(), send(OK)]) as peer:
        async with bare(world, plugins=[plugin]) as session:
            request = session.open_request("PUT", peer.url)
            await request.begin()
            await request.write(b"x")
            with pytest.raises(plugwire.NotReplayable):
                await request.end()
        assert plugin.replayable == [False]


async def test_retries_leave_a_push_alone(world: World) -> None:
    no = b"HTTP/1.1 503 No\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    with ScriptedPeer([expect_request(), send(no)]) as peer:
        async with bare(world, plugins=["retries"]) as session:
            request = session.open_request("PUT", peer.url)
            await request.begin()
            await request.write(b"x")
            response = await request.end()
            assert response.status_code == 503
            await response.close()


async def test_a_middleware_that_answers_without_the_body(world: World) -> None:
    async with bare(world, plugins=[Early()]) as session:
        request = session.open_request("PUT", "http://127.0.0.1:1/")
        await request.begin(10)
        assert await request.write(b"x") == 1
        response = await request.end()
        assert (response.status_code, await response.read()) == (403, b"no")


async def test_an_upload_with_100_continue_can_be_pushed(world: World) -> None:
    script = [expect_head(), send(b"HTTP/1.1 100 Continue\r\n\r\n"), expect(b"2\r\nhi\r\n0\r\n\r\n"), send(OK)]
    with ScriptedPeer([*script, expect_head(), send(TOO_LARGE), expect_end()]) as peer:
        async with bare(world) as session:
            for status, is_kept in ((200, True), (413, False)):
                request = session.open_request("PUT", peer.url, headers={"Expect": "100-continue"})
                await request.begin()
                await request.write(b"hi")
                response = await request.end()
                assert response.status_code == status
                await response.read()
                assert session.stats().open == is_kept


# -- as files, blocking --------------------------------------------------------------------------------------------


def dechunked(data: bytes) -> bytes:
    content = b""
    data = data.partition(b"\r\n\r\n")[2]
    while data:
        line, _, data = data.partition(b"\r\n")
        content += data[: int(line, 16)]
        data = data[int(line, 16) + 2 :]
    return content


def test_a_handle_is_a_file_to_write_to() -> None:
    source = bytes(range(256)) * 1000
    with ScriptedPeer([expect_request(), send(OK), expect_request(), send(OK)]) as peer, plugwire.Session() as session:
        request = session.open_request("PUT", peer.url)
        assert (request.writable(), request.readable(), request.seekable()) == (True, False, False)
        request.begin()
        shutil.copyfileobj(io.BytesIO(source), request)
        request.flush()
        assert not request.closed
        assert request.end().read() == b"ok"
        request.close()
        assert request.closed
        first = len(peer.received[0])

        request = session.open_request("PUT", peer.url)
        request.begin()
        with zipfile.ZipFile(request, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.txt", source)
            archive.writestr("b.txt", "hello")
        assert request.end().read() == b"ok"
        assert dechunked(peer.received[0][:first]) == source
        with zipfile.ZipFile(io.BytesIO(dechunked(peer.received[0][first:]))) as archive:
            assert archive.testzip() is None
            assert archive.read("a.txt") == source
            assert archive.read("b.txt") == b"hello"


def test_text_can_be_written_through_the_standard_wrappers() -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer, plugwire.Session() as session:
        request = session.open_request("PUT", peer.url)
        request.begin()
        buffered = io.BufferedWriter(request)  # type: ignore[arg-type]  # all that a raw file needs
        text = io.TextIOWrapper(buffered, encoding="utf-16-le")
        text.write("grün")
        text.flush()
        response = request.end()
        assert isinstance(response, Response)
        assert response.read() == b"ok"
        assert dechunked(peer.received[0]) == "grün".encode("utf-16-le")
        text.detach()
        buffered.detach()
