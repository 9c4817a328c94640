"""The scripted peer says what it is told to, and tells when the client did not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

import pytest

import plugwire
from plugwire.testing import PeerFailure, ScriptedPeer
from plugwire.testing.peer import (
    PeerConnection,
    Step,
    abort,
    close,
    cut,
    expect,
    expect_end,
    expect_head,
    expect_request,
    half_close,
    receive,
    send,
    tell,
    wait_for,
)
from worlds import PATIENCE, World, until_it_waits

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhi"


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("step", [send(OK), send(OK, 3, 20), send(OK, each=1)], ids=["whole", "cut", "bytes"])
async def test_says_exact_bytes(world: World, tls: bool, step: Step) -> None:
    with ScriptedPeer([expect_request(b"GET /x HTTP/1.1\r\nHost: "), step], tls=tls) as peer:
        async with world.session(tls=peer.tls_config) as session:
            assert (await session.get(f"{peer.url}/x")).text == "hi"
    assert peer.received[0].endswith(b"\r\n\r\n")


async def test_plays_one_script_for_each_connection(world: World) -> None:
    with ScriptedPeer([expect_head(), send(UNTIL_CLOSE), close()], [expect_head(), send(OK)]) as peer:
        async with world.session() as session:
            assert (await session.get(peer.url)).text == "hi"
            assert (await session.get(peer.url)).text == "hi"
    assert peer.accepted == 2


async def test_repeats_the_last_script(world: World) -> None:
    with ScriptedPeer([expect_head(), send(UNTIL_CLOSE), close()], repeat=True) as peer:
        async with world.session() as session:
            for _ in range(3):
                assert (await session.get(peer.url)).text == "hi"


@pytest.mark.parametrize("end", [close, cut, abort, half_close])
async def test_ends_in_every_way(world: World, tls: bool, end: Callable[[], Step]) -> None:
    """Over TCP, FIN ends a body without length; over TLS only close_notify does. RST never does."""
    steps: list[Step] = [expect_head(), send(UNTIL_CLOSE), end()]
    is_whole = end in (close, half_close) or (end is cut and not tls)
    with ScriptedPeer(steps, tls=tls) as peer:
        async with world.session(tls=peer.tls_config) as session:
            if is_whole:
                assert (await session.get(peer.url)).text == "hi"
            else:
                with pytest.raises((plugwire.IncompleteBody, plugwire.ConnectionClosed)):
                    await session.get(peer.url)


def test_connections_stand_in_the_order_in_which_they_were_accepted() -> None:
    second = threading.Event()

    class Late(ScriptedPeer):
        def _serve(self, sock: socket.socket, number: int) -> None:
            assert number or second.wait(PATIENCE)
            super()._serve(sock, number)

    with Late([expect(b"a")], [expect(b"b"), tell(second)]) as peer:
        for data in (b"a", b"b"):
            with socket.create_connection(("127.0.0.1", peer.port)) as sock:
                sock.sendall(data)
        assert peer.wait_closed()
    assert peer.received == [b"a", b"b"]


async def test_reads_whole_requests(world: World) -> None:
    with ScriptedPeer([expect_request(), send(OK), expect_request(b"PUT "), send(OK)]) as peer:
        async with world.session() as session:
            await session.post(peer.url, content=b"x" * 1000)
            await session.put(peer.url, content=iter([b"abc", b"de"]))
    assert peer.received[0].endswith(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")


async def test_events_order_things_without_sleeping(world: World) -> None:
    asked, may_answer = threading.Event(), threading.Event()
    with ScriptedPeer([expect_head(), tell(asked), wait_for(may_answer), send(OK)]) as peer:
        async with world.session() as session:
            call = world.in_background(session.get, peer.url)
            await world.runtime().run_blocking(asked.wait, 30)
            may_answer.set()
            assert (await call.result()).text == "hi"


async def test_steps_of_your_own(world: World) -> None:
    def answer(connection: PeerConnection) -> None:
        line = connection.read_until(b"\r\n")
        connection.read_until(b"\r\n\r\n")
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line))

    with ScriptedPeer([answer, expect_end()]) as peer:
        async with world.session() as session:
            assert (await session.get(f"{peer.url}/a")).text == "GET /a HTTP/1.1\r\n"


def test_what_needs_no_client_is_still_played_at_the_end() -> None:
    """The client leaves as soon as it has what it needs; whether the peer is slower must not matter."""
    ended, who_leaves = threading.Event(), threading.current_thread()

    def slowly(connection: PeerConnection) -> None:
        assert peer._acceptor is not None
        peer._acceptor.join()  # until the block is being left
        until_it_waits(who_leaves)

    with socket.socket() as sock:
        with ScriptedPeer([receive(1), slowly, send(b"x"), tell(ended)]) as peer:
            sock.connect(("127.0.0.1", peer.port))
            sock.sendall(b"a")
        assert ended.is_set()


# -- failures


def failure(scripts: Sequence[Sequence[Step]], *said: bytes) -> str:
    """What a peer with these scripts says of clients that say these bytes, each on a connection of its own."""
    with pytest.raises(PeerFailure) as caught, ScriptedPeer(*scripts) as peer:
        for data in said:
            with socket.create_connection(("127.0.0.1", peer.port)) as sock:
                try:
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(1000):
                        pass
                except OSError:  # a peer whose script failed resets the connection, at once
                    pass
    return str(caught.value)


def test_other_bytes_fail() -> None:
    assert "step 2 of 2, expect: expected b'ok', got b'no'" in failure([[receive(1), expect(b"ok")]], b"-no")
    assert "begins with b'GET'" in failure([[expect_head(b"GET")]], b"PUT / HTTP/1.1\r\n\r\n")


def test_an_early_end_fails() -> None:
    assert "the client closed where 5 bytes should come, after b'abc'" in failure([[receive(5)]], b"abc")


def test_bytes_after_the_script_fail() -> None:
    assert "after the last step came b'b'" in failure([[receive(1)]], b"ab")
    assert "expected the end, got b'b'" in failure([[receive(1), expect_end()]], b"ab")


def test_a_connection_too_many_fails() -> None:
    assert "connection 2 was opened, 1 are in the script" in failure([[receive(1)]], b"a", b"b")


def test_a_connection_too_few_fails() -> None:
    assert "1 of 2 scripts were not begun" in failure([[receive(1)], [receive(1)]], b"a")


def test_an_event_that_is_never_set_fails_at_the_end_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugwire.testing.peer.PATIENCE", 3600.0)
    with pytest.raises(PeerFailure, match="event was not set"), ScriptedPeer([wait_for(threading.Event())]) as peer:
        socket.create_connection(("127.0.0.1", peer.port)).close()


def test_a_script_that_stands_somewhere_at_the_end_fails() -> None:
    reason = "not played to its end, step 1 of 2, expect_head"
    with (
        socket.socket() as sock,
        pytest.raises(PeerFailure, match=reason),
        ScriptedPeer([expect_head(), send(OK)]) as peer,
    ):
        sock.connect(("127.0.0.1", peer.port))


def test_what_a_step_of_your_own_raises_is_told() -> None:
    def wrong(connection: PeerConnection) -> None:
        raise LookupError("my mistake")

    assert "wrong: LookupError: my mistake" in failure([[wrong]], b"")


def test_a_failure_is_a_note_on_what_the_block_raises() -> None:
    with pytest.raises(plugwire.ConnectionClosed) as caught, ScriptedPeer([expect_head(b"PUT")]) as peer:
        plugwire.get(peer.url)
    assert "begins with b'PUT'" in "".join(caught.value.__notes__)
