"""Streams keep the promises of `plugwire.protocols.Stream`, in every world."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import tempfile
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pytest

from plugwire.drive import drive
from plugwire.protocols import LOCAL_ADDRESS, PEER_ADDRESS, SOCKET, TLS, Address, Stream, TLSInfo
from plugwire.runtimes import blocking_runtime, current_async_runtime
from plugwire.testing.conformance import STREAM_CHECKS, check_one
from plugwire.testing.memory import memory_streams
from worlds import until_it_waits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Any

    from plugwire.protocols import Runtime
    from plugwire.runtimes.base import SocketRuntime
    from plugwire.testing.conformance import Check
    from worlds import World

INFINITY = float("inf")


async def tcp_pair(runtime: Runtime) -> tuple[Stream, Stream]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        mine = await runtime.dial_tcp([Address(socket.AF_INET, host, port)], runtime.now() + 10)
        sock, _ = server.accept()
    return mine, adopted(runtime, sock)


async def unix_pair(runtime: Runtime) -> tuple[Stream, Stream]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = os.path.join(folder, "socket")
        server.bind(path)
        server.listen()
        mine = await runtime.dial_unix(path, runtime.now() + 10)
        sock, _ = server.accept()
    return mine, adopted(runtime, sock)


async def memory_pair(runtime: Runtime) -> tuple[Stream, Stream]:
    return memory_streams(runtime)


def adopted(runtime: Runtime, sock: socket.socket) -> Stream:
    """A stream over a socket that the test has made."""
    sock.setblocking(False)
    return cast("SocketRuntime", runtime).stream(sock)


def socket_pair(runtime: Runtime) -> tuple[Stream, socket.socket]:
    """A stream, and the other end as a plain socket."""
    mine, theirs = socket.socketpair()
    return adopted(runtime, mine), theirs


class Derived(Stream):
    """Has only what a stream must have, so that the derived methods of `Stream` come under test."""

    def __init__(self, below: Stream) -> None:
        self.below = below

    def read_now(self, max_bytes: int) -> bytes | None:
        return self.below.read_now(max_bytes)

    def write_now(self, data: Any) -> None:
        self.below.write_now(data)

    @property
    def unsent(self) -> int:
        return self.below.unsent

    async def wait(self, read: bool, write: bool, at: float) -> None:
        await self.below.wait(read, write, at)

    async def send_eof(self, at: float) -> None:
        await super().send_eof(at)
        await self.below.send_eof(at)

    def close(self) -> None:
        self.below.close()

    def abort(self) -> None:
        self.below.abort()

    def extra(self, key: Any, default: Any = None) -> Any:
        return self.below.extra(key, default)


async def derived_pair(runtime: Runtime) -> tuple[Stream, Stream]:
    mine, theirs = memory_streams(runtime)
    return Derived(mine), theirs


@pytest.mark.parametrize("make_pair", [tcp_pair, unix_pair, memory_pair, derived_pair])
@pytest.mark.parametrize("check", STREAM_CHECKS, ids=lambda check: check.__name__)
async def test_stream_keeps_its_promise(
    world: World, make_pair: Callable[[Runtime], Awaitable[tuple[Stream, Stream]]], check: Check
) -> None:
    await check_one(check, make_pair, world.runtime())


# -- what lies below -----------------------------------------------------------------------------------------------


async def test_tcp_stream_tells_addresses_and_socket(world: World) -> None:
    mine, theirs = await tcp_pair(world.runtime())
    local, peer = mine.extra(LOCAL_ADDRESS), mine.extra(PEER_ADDRESS)
    assert isinstance(local, Address) and isinstance(peer, Address)
    assert (local, peer) == (theirs.extra(PEER_ADDRESS), theirs.extra(LOCAL_ADDRESS))
    sock = mine.extra(SOCKET)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert mine.extra(TLS) is None
    mine.close()
    assert mine.extra(PEER_ADDRESS) == peer, "who the peer was is still known after the end"
    assert mine.extra(SOCKET) is None, "the socket is not handed out any more"
    theirs.close()


async def test_unix_stream_tells_its_path(world: World) -> None:
    mine, theirs = await unix_pair(world.runtime())
    assert str(mine.extra(PEER_ADDRESS)).endswith("/socket")
    assert mine.extra(LOCAL_ADDRESS) is None
    mine.close()
    theirs.close()


async def test_memory_stream_answers_the_extras_it_was_given(world: World) -> None:
    info = TLSInfo("TLSv1.3", "c", "h2", None, None, False, True)
    mine, theirs = memory_streams(world.runtime(), extras={TLS: info})
    assert mine.extra(TLS) == info
    assert theirs.extra(TLS) is None


# -- the idle check, errors, the end -------------------------------------------------------------------------------


async def test_read_now_sees_an_end_that_no_loop_has_told_of_yet(world: World) -> None:
    mine, theirs = socket_pair(world.runtime())
    assert mine.read_now(10) is None
    theirs.close()
    assert mine.read_now(10) == b""
    mine.close()


async def test_a_reset_is_an_error_and_not_an_end(world: World) -> None:
    runtime = world.runtime()
    mine, theirs = await tcp_pair(runtime)
    sock = theirs.extra(SOCKET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close resets
    theirs.close()
    with pytest.raises(ConnectionResetError):
        await mine.receive(10, INFINITY)
    mine.close()


async def test_a_write_error_comes_at_the_next_write_and_does_not_hide_what_can_be_read(world: World) -> None:
    runtime = world.runtime()
    mine, theirs = socket_pair(runtime)
    theirs.sendall(b"413 too large")
    theirs.shutdown(socket.SHUT_RD)
    with pytest.raises(OSError):
        while True:
            await mine.send(b"x" * 100_000, runtime.now() + 10)
    assert await mine.receive(100, runtime.now() + 10) == b"413 too large"
    mine.close()
    theirs.close()


async def test_a_flood_is_held_back_by_the_socket(world: World) -> None:
    runtime = world.runtime()
    mine, theirs = await tcp_pair(runtime)
    theirs.write_now(b"x" * (64 << 20))
    await world.settle()
    assert theirs.unsent > 32 << 20, "who does not read does not take in everything"
    mine.close()
    theirs.close()


async def test_a_flood_that_was_held_back_goes_on_when_read(world: World) -> None:
    runtime = world.runtime()
    mine, theirs = socket_pair(runtime)
    size = 8 << 20
    thread = threading.Thread(target=theirs.sendall, args=(b"x" * size,))
    thread.start()
    await world.settle()
    buffer = memoryview(bytearray(1 << 17))
    received = 0
    while received < size:
        received += await mine.receive_into(buffer, runtime.now() + 10)
    thread.join()
    mine.close()
    theirs.close()


@pytest.mark.parametrize("turns", range(4))  # between the bytes and the cancel: the loop has told the stream, or not
@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_cancel_that_crosses_the_bytes_loses_none(world: World, turns: int, size: int) -> None:
    runtime = world.runtime()
    mine, theirs = socket_pair(runtime)
    buffer = bytearray(size)

    async def speak() -> None:
        await world.settle()
        theirs.sendall(b"late")
        for _ in range(turns):
            await runtime.turn()

    outcome = await world.cancelled_after(lambda: mine.receive_into(memoryview(buffer), INFINITY), speak)
    if world.name == "blocking":
        # A thread is taken out of recv by aborting the stream; what it had read before is its result.
        assert outcome.value == 4 or outcome.was_cancelled
    elif outcome.was_cancelled:
        before = bytes(buffer)
        theirs.sendall(b"r")
        data = b""
        while len(data) < 5:
            data += await mine.receive(10, runtime.now() + 10)
        assert data == b"later"
        assert bytes(buffer) == before, "the buffer of a cancelled receive is not touched again"
    else:
        assert outcome.value == 4
    mine.close()
    theirs.close()


async def test_the_time_of_an_earlier_wait_does_not_end_a_later_one(world: World) -> None:
    runtime = world.runtime()
    mine, theirs = socket_pair(runtime)
    theirs.sendall(b"a")
    early = runtime.now() + 0.02
    assert await mine.receive(1, early) == b"a"
    waiting = world.in_background(mine.receive, 1, runtime.now() + 30)
    await runtime.sleep(0.05, INFINITY)
    theirs.sendall(b"b")
    assert await waiting.result() == b"b"
    begun = runtime.now()
    with pytest.raises(TimeoutError):
        await mine.receive(1, runtime.now() + 0.02)
    assert runtime.now() < begun + 10, "nor does the time of a longer one hold up a shorter"
    mine.close()
    theirs.close()


async def test_streams_are_no_cycles_in_use(world: World) -> None:
    runtime = world.runtime()
    mine, theirs = socket_pair(runtime)
    theirs.sendall(b"hello")
    await mine.receive(10, runtime.now() + 10)
    if world.name != "trio":
        # trio ends a wait by a cancellation of its own, which on CPython 3.13 keeps the frames that waited until the
        # collector comes by. What times out is closed by its speaker, so only memory waits for that.
        with pytest.raises(TimeoutError):
            await mine.receive(10, runtime.now() + 0.01)
    await mine.send([b"a", b"b"], runtime.now() + 10)
    gone = weakref.ref(mine)
    gc.disable()
    try:
        del mine
        assert gone() is None
        assert theirs.recv(10) == b"ab"
        assert theirs.recv(10) == b"", "the dropped stream has closed its socket"
    finally:
        gc.enable()
    theirs.close()


# -- what only one world can get wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["abort", "close"])
@pytest.mark.parametrize("operation", ["receive", "receive_into", "send", "wait"])
def test_blocking_stream_can_be_ended_by_another_thread(how: str, operation: str) -> None:
    stream, theirs = socket_pair(blocking_runtime())
    descriptor = stream.extra(SOCKET).fileno()
    errors: list[BaseException] = []
    operations: dict[str, Callable[[], Any]] = {
        "receive": lambda: stream.receive(10, INFINITY),
        "receive_into": lambda: stream.receive_into(memoryview(bytearray(10)), INFINITY),
        "send": lambda: stream.send(b"x" * (64 << 20), INFINITY),
        "wait": lambda: stream.wait(True, False, INFINITY),
    }

    def run() -> None:
        try:
            drive(operations[operation]())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    getattr(stream, how)()  # before, at or after the system call: never lost
    thread.join(30)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [ConnectionAbortedError]
    if how == "abort":
        assert os.fstat(descriptor), "abort leaves the descriptor to its owner: the number must not be used again yet"
        stream.close()
    with pytest.raises(OSError):
        os.fstat(descriptor)
    theirs.close()


def test_blocking_stream_makes_no_system_call_beyond_recv_and_send(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = blocking_runtime()
    stream, theirs = socket_pair(runtime)
    from plugwire.runtimes.blocking_stream import BlockingStream

    armed: list[int] = []
    arm = BlockingStream._arm

    def counted(self: BlockingStream, option: int, rest: float) -> None:
        armed.append(option)
        arm(self, option, rest)

    monkeypatch.setattr(BlockingStream, "_arm", counted)

    async def exchange(seconds: float) -> None:
        theirs.sendall(b"x")
        await stream.send(b"y", runtime.now() + seconds)
        await stream.receive(1, runtime.now() + seconds)

    drive(exchange(60))
    assert armed == [socket.SO_SNDTIMEO, socket.SO_RCVTIMEO]
    for seconds in (60, 59, 58, 55, 53, 60):
        drive(exchange(seconds))
    assert len(armed) == 2, "a shrinking rest does not set the time again until it is shorter than what is armed"
    drive(exchange(50))
    assert len(armed) == 4
    drive(exchange(1000))
    assert len(armed) == 6, "a much longer rest does: or a long wait would wake for nothing again and again"
    stream.close()
    theirs.close()


def test_blocking_stream_keeps_the_time_when_woken_early() -> None:
    runtime = blocking_runtime()
    stream, theirs = socket_pair(runtime)
    for _ in range(3):  # armed to 7/8 of what remains, so it wakes before the time is up, and looks again
        at = runtime.now() + 0.03
        with pytest.raises(TimeoutError):
            drive(stream.receive(1, at))
        assert runtime.now() >= at
    stream.close()
    theirs.close()


@contextmanager
def signalled(number: signal.Signals) -> Iterator[None]:
    """Inside, this thread gets a signal as soon as it waits in a system call."""
    me = threading.current_thread()
    assert me.ident is not None

    def run(ident: int = me.ident) -> None:
        until_it_waits(me)
        signal.pthread_kill(ident, number)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


def test_interrupted_blocking_stream_can_be_used_and_closed() -> None:
    stream, theirs = socket_pair(blocking_runtime())
    descriptor = stream.extra(SOCKET).fileno()
    with signalled(signal.SIGINT), pytest.raises(KeyboardInterrupt):
        drive(stream.receive(10, INFINITY))
    theirs.sendall(b"still usable")
    assert drive(stream.receive(100, INFINITY)) == b"still usable"
    with signalled(signal.SIGINT), pytest.raises(KeyboardInterrupt):
        drive(stream.wait(True, False, INFINITY))
    stream.close()
    with pytest.raises(OSError):
        os.fstat(descriptor)
    theirs.close()


def test_signal_handler_may_abort_the_stream_of_its_own_thread() -> None:
    stream, theirs = socket_pair(blocking_runtime())
    previous = signal.signal(signal.SIGUSR1, lambda *_: stream.abort())
    try:
        with signalled(signal.SIGUSR1), pytest.raises(ConnectionAbortedError):
            drive(stream.receive(10, INFINITY))
    finally:
        signal.signal(signal.SIGUSR1, previous)
    stream.close()
    theirs.close()


def test_asyncio_stream_outlives_its_loop() -> None:
    async def main() -> tuple[Stream, socket.socket]:
        runtime = current_async_runtime()
        stream, theirs = socket_pair(runtime)
        with pytest.raises(TimeoutError):
            await stream.receive(1, runtime.now() + 0.01)
        stream.write_now(b"x" * (16 << 20))
        return stream, theirs

    for end in ("close", "drop"):
        stream, theirs = asyncio.run(main())
        descriptor = stream.extra(SOCKET).fileno()
        if end == "close":
            stream.close()
        del stream
        with pytest.raises(OSError):
            os.fstat(descriptor)
        theirs.close()


def test_asyncio_stream_that_another_thread_drops_closes() -> None:
    async def main() -> None:
        runtime = current_async_runtime()
        box = [socket_pair(runtime)]
        stream, theirs = box.pop()
        descriptor = stream.extra(SOCKET).fileno()
        boxes = [stream]
        del stream
        await runtime.run_blocking(boxes.clear)
        await runtime.turn()
        with pytest.raises(OSError):
            os.fstat(descriptor)
        theirs.close()

    asyncio.run(main())


def test_asyncio_loop_keeps_nothing_of_a_closed_stream() -> None:
    async def main() -> None:
        runtime = current_async_runtime()
        stream, theirs = socket_pair(runtime)
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await stream.receive(1, runtime.now() + 0.01)
        waiting = runtime.start(stream.receive, 1, runtime.now() + 1000)
        await runtime.turn()
        waiting.cancel()
        await waiting.join()
        gone = weakref.ref(stream)
        descriptor = stream.extra(SOCKET).fileno()
        stream.close()
        del stream, waiting
        assert gone() is None
        assert not loop.remove_reader(descriptor)
        theirs.close()

    asyncio.run(main())
