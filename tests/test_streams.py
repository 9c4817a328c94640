"""Streams keep the promises of `plugwire.protocols.Stream`, in every world."""

from __future__ import annotations

import asyncio
import dis
import errno
import gc
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import weakref
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, cast

import pytest
import trio

from plugwire.drive import drive
from plugwire.errors import Busy
from plugwire.protocols import LOCAL_ADDRESS, PEER_ADDRESS, SOCKET, TLS, Address, Stream, TLSInfo
from plugwire.runtimes import blocking_runtime, blocking_stream, current_async_runtime
from plugwire.runtimes.bell import Bell
from plugwire.runtimes.blocking_stream import BlockingStream
from plugwire.testing import check_stream, conformance
from plugwire.testing.conformance import STREAM_CHECKS, check_one
from plugwire.testing.memory import memory_streams
from plugwire_transports.prefixed import PrefixedStream
from worlds import PATIENCE, in_time, join_all, until_it_waits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
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

    def nudge(self) -> None:
        self.below.nudge()

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


class EndedWhileAsked(Derived):
    """Another thread ends it just before its user asks what is unsent."""

    def __init__(self, below: Stream, how: str) -> None:
        super().__init__(below)
        self._how = how

    @property
    def unsent(self) -> int:
        getattr(self.below, self._how)()
        return self.below.unsent


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_what_an_end_drops_was_not_sent(world: World, how: str) -> None:
    for operation in (
        lambda stream, at: stream.send(b"x" * 100_000, at),
        lambda stream, at: stream.send(b"x" * 100_000, at, True),
        lambda stream, at: stream.send_eof(at),
    ):
        mine, theirs = memory_streams(world.runtime())
        mine.write_now(b"x" * 100_000)
        with pytest.raises(ConnectionAbortedError):
            await operation(EndedWhileAsked(mine, how), world.runtime().now() + 10)
        theirs.close()


def test_what_a_close_by_another_thread_drops_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, theirs = socket_pair(blocking_runtime())

    def closes(_: object) -> int:  # what asks for the size does so between the write and the first look
        stream.close()
        return 16 << 20

    monkeypatch.setattr("plugwire.runtimes.sockets.total", closes)
    with pytest.raises(ConnectionAbortedError):
        drive(stream.send(b"x" * (16 << 20), INFINITY, stop_if_readable=True))
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


class Halting(socket.socket):
    """Does something before each of some system calls, once."""

    halt: Callable[[], object] | None = None

    def _halt(self) -> None:
        halt, self.halt = self.halt, None
        if halt is not None:
            halt()

    def recv(self, *args: int) -> bytes:
        self._halt()
        return super().recv(*args)

    def send(self, *args: Any) -> int:
        self._halt()
        return super().send(*args)

    def shutdown(self, how: int) -> None:
        self._halt()
        super().shutdown(how)


def halting_pair() -> tuple[Stream, Halting, socket.socket]:
    mine, theirs = socket.socketpair()
    halting = Halting(fileno=mine.detach())
    return adopted(blocking_runtime(), halting), halting, theirs


def elsewhere(*steps: Callable[[], object]) -> None:
    """Do it in another thread, which must not have to wait for this one."""
    thread = threading.Thread(target=lambda: [step() for step in steps], daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for who is inside of the stream"


@pytest.mark.parametrize("step", ["read_now", "write_now", "abort", "wait", "nudge"])
def test_nobody_waits_for_who_is_inside_of_a_blocking_stream(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finaliser may run anywhere, and may wait there for a thread that wants to move bytes of the same stream."""
    stream, halting, theirs = halting_pair()
    descriptor = halting.fileno()
    begun: list[bool] = []

    def write() -> None:
        with suppress(ConnectionAbortedError):
            stream.write_now(b"y")

    def interfere() -> None:
        elsewhere(stream.nudge, stream.is_readable, write, stream.close)
        assert os.fstat(descriptor), "the one who is inside closes"
        begun.append(True)

    class Halted(Bell):
        def __init__(self) -> None:
            if step == "wait":
                interfere()
            super().__init__()

        def ring(self) -> None:
            if step == "nudge" and not begun:
                interfere()
            super().ring()

    monkeypatch.setattr(blocking_stream, "Bell", Halted)
    theirs.sendall(b"x")
    if step in ("wait", "nudge"):
        if step == "nudge":
            drive(stream.wait(True, False, INFINITY))
            cast("Any", stream)._readers.append(-1)  # as if a thread waited
            stream.nudge()
            cast("Any", stream)._readers.clear()
            stream.close()
        else:
            with pytest.raises(ConnectionAbortedError):
                drive(stream.wait(True, False, INFINITY))
    else:
        halting.halt = interfere
        {"read_now": lambda: stream.read_now(9), "write_now": lambda: stream.write_now(b"x"), "abort": stream.abort}[
            step
        ]()
    assert begun
    with pytest.raises(OSError):
        os.fstat(descriptor)
    theirs.close()


def test_the_end_that_an_abort_makes_is_not_the_peers() -> None:
    for end in ("read", "write"):
        stream, halting, theirs = halting_pair()
        if end == "read":
            look = cast("Any", stream)._look

            def aborted(timeout: int, stream: Stream = stream, look: Any = look) -> Any:
                elsewhere(stream.abort)
                return look(timeout)

            cast("Any", stream)._look = aborted
            with pytest.raises(ConnectionAbortedError):
                stream.read_now(10)
        else:
            halting.halt = lambda stream=stream: elsewhere(stream.abort)  # type: ignore[misc]
            with pytest.raises(ConnectionAbortedError):
                stream.write_now(b"x")
        stream.close()
        theirs.close()


CHECKED = {
    number
    for name, number in dis.opmap.items()
    if name.startswith("CALL") or name in ("JUMP_BACKWARD", "RESUME", "SEND")
}


def interrupting(at: int) -> Callable[..., Any]:
    """A trace function that raises where CPython raises what a signal handler does, at the `at`-th such place."""
    left = at
    last: dict[Any, int] = {}
    sys._getframe().f_trace_opcodes = True  # for CPython 3.12, as in `Interrupts.run`

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal left
        if "/runtimes/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = last.get(frame)
            last[frame] = frame.f_code.co_code[frame.f_lasti]
            if before in CHECKED:
                left -= 1
                if not left:
                    last.clear()
                    raise KeyboardInterrupt
        elif event == "return":
            last.pop(frame, None)
        return trace

    return trace


@pytest.mark.parametrize("has_eventfd", [True, False])
@pytest.mark.filterwarnings("always::ResourceWarning")
def test_an_interrupt_anywhere_in_a_blocking_stream_costs_no_descriptor(
    has_eventfd: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    if not has_eventfd:
        monkeypatch.delattr(os, "eventfd")
    runtime = blocking_runtime()
    theirs: socket.socket | None = None

    def use(stream: Stream) -> None:
        drive(stream.wait(True, False, INFINITY))
        stream.nudge()
        drive(stream.wait(True, True, INFINITY))
        cast("Any", stream)._readers.append(-1)  # as if a thread waited
        stream.nudge()
        cast("Any", stream)._readers.clear()
        stream.read_now(1)
        stream.is_readable()
        drive(stream.wait(True, False, INFINITY))
        stream.write_now(b"x")
        stream.abort()
        stream.close()

    before = descriptors()
    traced = sys.gettrace()
    gc.disable()
    try:
        for number in range(1, 10_000):
            stream, theirs = socket_pair(runtime)
            theirs.sendall(b"xy")
            sys.settrace(interrupting(number))
            try:
                use(stream)
            except KeyboardInterrupt:
                pass
            else:
                break
            finally:
                sys.settrace(traced)
                cast("Any", stream)._readers.clear()
                del stream
                theirs.close()
            assert descriptors() == before, number
    finally:
        gc.enable()
    assert number > 50
    assert not [str(warning.message) for warning in recwarn]


# -- ends that come from elsewhere ---------------------------------------------------------------------------------


def run_asyncio(main: Callable[[], Coroutine[Any, Any, object]]) -> None:
    asyncio.run(main(), debug=True)  # which tells who touches the loop from another thread


LOOPS = pytest.mark.parametrize("run", [run_asyncio, trio.run], ids=["asyncio", "trio"])

OPERATIONS: dict[str, Callable[[Stream, float], Awaitable[object]]] = {
    "receive": lambda stream, at: stream.receive(10, at),
    "receive_into": lambda stream, at: stream.receive_into(memoryview(bytearray(1 << 17)), at),
    "send": lambda stream, at: stream.send(b"x" * (64 << 20), at),
    "wait to read": lambda stream, at: stream.wait(True, False, at),
    "wait to write": lambda stream, at: stream.wait(False, True, at),
    "wait for both": lambda stream, at: stream.wait(True, True, at),
}


@LOOPS
@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_waits_hears_of_an_end_that_comes_from_another_thread(
    run: Callable[..., object], operation: str, how: str
) -> None:
    """The garbage collector closes the streams of a dropped session in whichever thread is there."""

    async def main() -> None:
        runtime = current_async_runtime()
        mine, theirs = socket_pair(runtime)
        descriptor = mine.extra(SOCKET).fileno()
        mine.write_now(b"x" * (16 << 20))

        heard: list[bool] = []

        async def waits() -> None:
            with pytest.raises(ConnectionAbortedError):
                await OPERATIONS[operation](mine, runtime.now() + 2 * PATIENCE)
            heard.append(True)

        task = runtime.start(waits)
        for _ in range(3):
            await runtime.turn()
        elsewhere(getattr(mine, how))
        await task.join()
        assert heard
        with pytest.raises(OSError):
            os.fstat(descriptor)
        mine.close()
        theirs.close()

    in_time(lambda: run(main))


@LOOPS
@pytest.mark.parametrize("how", ["close", "abort"])
def test_who_waits_for_datagrams_hears_of_an_end_that_comes_from_another_thread(
    run: Callable[..., object], how: str
) -> None:
    async def main() -> None:
        runtime = current_async_runtime()
        datagrams = await runtime.open_datagrams(Address(socket.AF_INET, "127.0.0.1", 9), INFINITY)

        heard: list[bool] = []

        async def waits() -> None:
            with pytest.raises(ConnectionAbortedError):
                await datagrams.receive(100, INFINITY)
            heard.append(True)

        task = runtime.start(waits)
        for _ in range(3):
            await runtime.turn()
        elsewhere(getattr(datagrams, how))
        await task.join()
        assert heard
        datagrams.close()

    in_time(lambda: run(main))


@contextmanager
def before_the_sleep(deed: Callable[[], object]) -> Iterator[None]:
    """`deed` is done when the loop has looked what is ready and found nothing, as by a finaliser that comes there."""
    if current_async_runtime().name == "trio":

        class Finaliser(trio.abc.Instrument):
            def before_io_wait(self, timeout: float) -> None:
                if timeout:
                    deed()

        finaliser = Finaliser()
        trio.lowlevel.add_instrument(finaliser)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(finaliser)
        return
    selector = cast("Any", asyncio.get_running_loop())._selector
    select = selector.select

    def finalising(timeout: float | None) -> Any:
        if timeout != 0:
            deed()
        return select(timeout)

    selector.select = finalising
    try:
        yield
    finally:
        del selector.select


@LOOPS
def test_an_end_between_the_loops_look_and_its_sleep_ends_the_sleep(run: Callable[..., object]) -> None:
    async def main() -> None:
        runtime = current_async_runtime()
        mine, theirs = socket_pair(runtime)
        at = runtime.now() + 10
        with before_the_sleep(mine.close), pytest.raises(ConnectionAbortedError):
            await mine.wait(True, False, at)
        assert runtime.now() < at, "it was the time that ended the sleep"
        theirs.close()

    in_time(lambda: run(main))


def test_datagrams_that_another_thread_ends_while_the_wait_begins_do_not_wait() -> None:
    async def main() -> None:
        runtime = current_async_runtime()
        datagrams = await runtime.open_datagrams(Address(socket.AF_INET, "127.0.0.1", 9), INFINITY)
        cast("Any", datagrams)._ready._loop = Interfering(datagrams.close)
        with pytest.raises(ConnectionAbortedError):
            await datagrams.receive(100, INFINITY)

    in_time(lambda: run_asyncio(main))


class Interfering:
    """The running loop. Another thread does something while a wait begins: after its look whether it is over."""

    def __init__(self, interfere: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._interfere = interfere

    def __getattr__(self, name: str) -> Any:
        if name == "create_future":
            elsewhere(self._interfere)
        return getattr(self._loop, name)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_end_that_comes_from_another_thread_just_before_the_wait_is_not_lost(operation: str) -> None:
    async def main() -> None:
        runtime = current_async_runtime()
        mine, theirs = socket_pair(runtime)
        mine.write_now(b"x" * (16 << 20))
        cast("Any", mine)._loop = Interfering(mine.close)
        with pytest.raises(ConnectionAbortedError):
            await OPERATIONS[operation](mine, runtime.now() + 2 * PATIENCE)
        theirs.close()

    in_time(lambda: run_asyncio(main))


# -- nudges --------------------------------------------------------------------------------------------------------


class Forgetful(Derived):
    """A wrapper whose author has forgotten to hand nudges down."""

    def nudge(self) -> None:
        Stream.nudge(self)


async def test_the_kit_tells_a_nudge_that_does_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "NUDGED", 0.05)

    async def make_pair(runtime: Runtime) -> tuple[Stream, Stream]:
        mine, theirs = memory_streams(runtime)
        return Forgetful(mine), theirs

    with pytest.raises(AssertionError, match="a nudge ends the wait"):
        await check_one(conformance.wakes_its_waiter_when_nudged, make_pair, world.runtime())
    checks = (conformance.loses_nothing_when_nudged, conformance.wakes_its_waiter_when_nudged)
    monkeypatch.setattr(conformance, "STREAM_CHECKS", checks)
    await check_stream(make_pair, world.runtime(), can_be_nudged=False)
    with pytest.raises(AssertionError):
        await check_stream(make_pair, world.runtime())


@pytest.mark.parametrize("make_pair", [tcp_pair, memory_pair])
async def test_a_nudge_and_bytes_at_once_end_one_wait(
    world: World, make_pair: Callable[[Runtime], Awaitable[tuple[Stream, Stream]]]
) -> None:
    runtime = world.runtime()
    mine, theirs = await make_pair(runtime)
    for number in range(20):
        waiting = world.in_background(mine.wait, True, False, INFINITY)
        await world.settle()
        if number % 2:
            theirs.write_now(b"x")
        mine.nudge()
        if not number % 2:
            theirs.write_now(b"x")
        await waiting.result()
        assert await mine.receive(10, runtime.now() + 10) == b"x"
    mine.close()
    theirs.close()


async def test_a_nudge_does_not_hide_that_the_time_is_up(world: World) -> None:
    runtime = world.runtime()
    mine, theirs = socket_pair(runtime)
    for _ in range(3):
        waiting = world.in_background(mine.wait, True, False, INFINITY)
        await world.settle()
        mine.nudge()
        await waiting.result()
        with pytest.raises(TimeoutError):
            await mine.wait(True, False, runtime.now() + 0.01)
    mine.close()
    theirs.close()


@pytest.mark.parametrize("make_pair", [tcp_pair, memory_pair])
async def test_a_nudge_finds_the_waiter_after_another_one_was_refused(
    world: World, make_pair: Callable[[Runtime], Awaitable[tuple[Stream, Stream]]]
) -> None:
    runtime = world.runtime()
    mine, theirs = await make_pair(runtime)
    waiting = world.in_background(mine.wait, True, False, runtime.now() + 10)
    await world.settle()
    with pytest.raises(Busy):
        await mine.wait(True, False, INFINITY)
    mine.nudge()
    await waiting.result()
    mine.close()
    theirs.close()


async def test_each_wait_is_for_what_it_was_asked_for(world: World) -> None:
    runtime = world.runtime()
    mine, theirs = socket_pair(runtime)
    for _ in range(2):
        await mine.wait(True, True, runtime.now() + 10)
        with pytest.raises(TimeoutError):
            await mine.wait(True, False, runtime.now() + 0.01)
        await mine.wait(False, True, runtime.now() + 10)
    mine.close()
    theirs.close()


def test_threads_that_come_to_wait_at_once_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, theirs = socket_pair(blocking_runtime())
    both = threading.Barrier(2)
    outcomes: list[BaseException | None] = []

    class Racing:
        """Asked by each wait when it begins: both have begun before either goes on."""

        @staticmethod
        def get() -> None:
            both.wait(PATIENCE)

    def wait() -> None:
        try:
            drive(stream.wait(True, False, monotonic() + PATIENCE / 4))
            outcomes.append(None)
        except (Busy, TimeoutError) as error:
            outcomes.append(error)
            theirs.sendall(b"x")

    monkeypatch.setattr(blocking_stream, "racing", Racing)
    threads = [threading.Thread(target=wait, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    join_all(threads)
    assert {type(outcome) for outcome in outcomes} == {Busy, type(None)}, outcomes
    stream.close()
    theirs.close()


async def prefixed_pair(runtime: Runtime) -> tuple[Stream, Stream]:
    mine, theirs = memory_streams(runtime)
    return PrefixedStream(b"", mine), theirs


@pytest.mark.parametrize("make_pair", [tcp_pair, memory_pair, prefixed_pair])
def test_a_nudge_before_the_wait_ends_it_and_no_other(
    make_pair: Callable[[Runtime], Awaitable[tuple[Stream, Stream]]],
) -> None:
    runtime = blocking_runtime()
    mine, theirs = drive(cast("Any", make_pair(runtime)))
    for _ in range(2):
        mine.nudge()
        mine.nudge()
        drive(mine.wait(True, False, runtime.now() + 10))
        with pytest.raises(TimeoutError):
            drive(mine.wait(True, False, runtime.now() + 0.01))
    mine.close()
    theirs.close()


def test_a_ring_that_comes_after_its_wait_ends_one_later_wait_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = blocking_runtime()
    stream, theirs = socket_pair(runtime)
    drive(stream.wait(False, True, INFINITY))
    waiter = threading.Thread(target=lambda: drive(stream.wait(True, False, INFINITY)), daemon=True)
    waiter.start()
    until_it_waits(waiter)
    ring = Bell.ring

    def late(bell: Bell) -> None:
        theirs.sendall(b"x")
        waiter.join(PATIENCE)
        ring(bell)

    monkeypatch.setattr(Bell, "ring", late)
    stream.nudge()
    assert not waiter.is_alive()
    monkeypatch.undo()
    assert stream.read_now(10) == b"x"
    drive(stream.wait(True, False, runtime.now() + PATIENCE))
    with pytest.raises(TimeoutError):
        drive(stream.wait(True, False, runtime.now() + 0.01))
    stream.close()
    theirs.close()


def test_a_nudge_is_not_for_who_waits_to_write_alone() -> None:
    runtime = blocking_runtime()
    stream, theirs = socket_pair(runtime)
    stream.write_now(b"x" * (16 << 20))
    stream.nudge()
    with pytest.raises(TimeoutError):
        drive(stream.wait(False, True, runtime.now() + 0.01))
    drive(stream.wait(True, False, INFINITY))
    stream.close()
    theirs.close()


@pytest.mark.parametrize("has_eventfd", [True, False])
def test_a_bell_rings_until_it_is_silenced(has_eventfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_eventfd:
        monkeypatch.delattr(os, "eventfd")
    bell = Bell()

    def is_heard() -> bool:
        return bool(select.select([bell], [], [], 0)[0])

    assert not os.get_blocking(bell.fileno()), "a child of fork may have taken the ring"
    for _ in range(2):
        bell.silence()
        assert not is_heard()
        for _ in range(10_000):
            bell.ring()
        assert is_heard()
        bell.silence()
        assert not is_heard()
    bell.close()
    bell.close()


@LOOPS
def test_a_nudge_between_the_loops_look_and_its_sleep_ends_the_sleep(run: Callable[..., object]) -> None:
    async def main() -> None:
        runtime = current_async_runtime()
        mine, theirs = socket_pair(runtime)
        at = runtime.now() + 10
        with before_the_sleep(mine.nudge):
            await mine.wait(True, False, at)
        assert runtime.now() < at, "it was the time that ended the sleep"
        mine.close()
        theirs.close()

    in_time(lambda: run(main))


@LOOPS
def test_a_nudge_may_come_from_a_finaliser_in_any_thread(run: Callable[..., object]) -> None:
    """The collector runs in whichever thread is there, while a task of the loop's own thread is at work."""

    async def main() -> None:
        runtime = current_async_runtime()
        mine, theirs = socket_pair(runtime)
        errors: list[BaseException] = []

        async def waits() -> None:
            await mine.wait(True, False, runtime.now() + 20)

        def nudges() -> None:
            try:
                mine.nudge()
            except BaseException as error:
                errors.append(error)

        task = runtime.start(waits)
        for _ in range(3):
            await runtime.turn()
        thread = threading.Thread(target=nudges)
        thread.start()
        thread.join()
        assert not errors
        await task.join()
        mine.close()
        theirs.close()

    run(main)


def test_a_nudge_between_the_last_look_and_the_poll_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = blocking_runtime()
    stream, theirs = socket_pair(runtime)
    poll_for = BlockingStream._poll_for
    polls: list[int] = []

    class Late:
        def __init__(self, poll: select.poll) -> None:
            self._poll = poll

        def poll(self, timeout: int) -> Any:
            thread = threading.Thread(target=stream.nudge)
            thread.start()
            thread.join()
            polls.append(timeout)
            return self._poll.poll(timeout)

    monkeypatch.setattr(BlockingStream, "_poll_for", lambda *args: Late(poll_for(*args)))
    for number in range(1, 4):
        drive(stream.wait(True, False, runtime.now() + 10))
        assert len(polls) == number
    monkeypatch.undo()
    with pytest.raises(TimeoutError):
        drive(stream.wait(True, False, runtime.now() + 0.01))
    stream.close()
    theirs.close()


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns after each microsecond."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("make_pair", [tcp_pair, memory_pair])
def test_no_nudge_is_ever_lost(make_pair: Callable[[Runtime], Awaitable[tuple[Stream, Stream]]]) -> None:
    runtime = blocking_runtime()
    stream, theirs = drive(cast("Any", make_pair(runtime)))
    section = threading.Condition()
    told = seen = 0

    def wait() -> None:
        nonlocal seen
        while seen < 1500:
            drive(stream.wait(True, False, runtime.now() + 30))
            with section:
                seen = told
                section.notify()

    thread = threading.Thread(target=wait)
    thread.start()
    for number in range(1, 1501):
        with section:
            told = number
        stream.nudge()
        with section:
            while seen < number:
                assert section.wait(30), "the waiter was not woken"
    thread.join()
    stream.close()
    theirs.close()


def descriptors() -> set[int]:
    """Those that are open; that of the listing itself is not any more."""
    return {number for number in map(int, os.listdir("/proc/self/fd")) if os.path.lexists(f"/proc/self/fd/{number}")}


def test_nudging_with_nobody_there_takes_no_descriptor_and_a_waiter_one() -> None:
    runtime = blocking_runtime()
    stream, theirs = socket_pair(runtime)
    before = descriptors()
    for _ in range(10_000):
        stream.nudge()
    drive(stream.wait(True, False, INFINITY))
    drive(stream.wait(False, True, INFINITY))
    for _ in range(10_000):
        stream.nudge()
    made = descriptors() - before
    assert len(made) == 1
    assert not os.get_inheritable(*made)
    assert not select.select([*made], [], [], 0)[0], "nobody waits, so nothing is rung"
    drive(stream.wait(True, False, INFINITY))
    with pytest.raises(TimeoutError):
        drive(stream.wait(True, False, runtime.now() + 0.01))
    stream.close()
    stream.nudge()
    assert not made & descriptors()
    theirs.close()


def test_a_dropped_stream_takes_its_bell_along() -> None:
    stream, theirs = socket_pair(blocking_runtime())
    before = descriptors()
    stream.nudge()
    drive(stream.wait(True, False, INFINITY))
    assert descriptors() > before
    gc.disable()
    try:
        del stream
        assert len(descriptors()) == len(before) - 1
    finally:
        gc.enable()
    theirs.close()


@pytest.mark.parametrize("check", [conformance.wakes_its_waiter_when_nudged, conformance.loses_nothing_when_nudged])
def test_nudges_work_where_the_system_has_no_eventfd(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    before = descriptors()
    drive(check_one(check, tcp_pair, blocking_runtime()))
    assert descriptors() == before


def test_a_wait_works_without_a_descriptor_to_spare_and_takes_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = blocking_runtime()
    stream, theirs = socket_pair(runtime)

    def refuse() -> Bell:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(blocking_stream, "Bell", refuse)
    drive(check_one(conformance.wakes_its_waiter_when_nudged, tcp_pair, runtime))
    with pytest.raises(TimeoutError):
        drive(stream.wait(True, False, runtime.now() + 0.01))
    before = descriptors()
    monkeypatch.undo()
    with pytest.raises(TimeoutError):
        drive(stream.wait(True, False, runtime.now() + 0.01))
    assert len(descriptors() - before) == 1
    stream.close()
    theirs.close()


class Sharing:
    """Threads that share a stream to a peer which echoes: one of them waits for all, the others move bytes meanwhile.

    It is how HTTP/2 does it, with everything left out: a lock, one who leads, and nudges where the leader could miss
    something.
    """

    def __init__(self, stream: Stream, runtime: Runtime, size: int) -> None:
        self.stream = stream
        self.now = runtime.now
        self.size = size
        self.section = threading.Condition()
        self.come: dict[int, int] = {}
        self.partial = b""
        self.leader = 0
        self.errors: list[BaseException] = []

    def run(self, threads: int, rounds: int) -> None:
        running = [threading.Thread(target=self._talk, args=(number, rounds)) for number in range(1, threads + 1)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert not self.errors, self.errors
        assert self.come == dict.fromkeys(range(1, threads + 1), rounds)

    def _talk(self, me: int, rounds: int) -> None:
        try:
            for number in range(1, rounds + 1):
                with self.section:
                    self.stream.write_now(bytes([me]) * self.size)
                    if self.stream.unsent:
                        self.stream.nudge()
                self._until(me, number)
        except BaseException as error:
            self.errors.append(error)

    def _until(self, me: int, number: int) -> None:
        while True:
            with self.section:
                self._move(me)
                if self.come.get(me, 0) >= number:
                    if self.leader == me:
                        self.leader = 0
                    self.section.notify_all()
                    return
                if self.leader not in (0, me):
                    assert self.section.wait(30)
                    continue
                self.leader = me
                write = self.stream.unsent > 0
            drive(self.stream.wait(True, write, self.now() + 30))

    def _move(self, me: int) -> None:
        if self.stream.unsent:
            self.stream.write_now(b"")
        data = self.stream.read_now(65536)
        if data is None:
            return
        assert data, "the peer has ended"
        self.partial += data
        while len(self.partial) >= self.size:
            piece, self.partial = self.partial[: self.size], self.partial[self.size :]
            assert len(set(piece)) == 1, "bytes of two threads are mixed"
            self.come[piece[0]] = self.come.get(piece[0], 0) + 1
        self.section.notify_all()
        if self.leader not in (0, me):
            self.stream.nudge()  # our read may have taken what the leader waits for, and this may be our last one


def echoes(stream: Stream, runtime: Runtime) -> threading.Thread:
    """A peer in a thread of its own, until the end."""

    async def echo() -> None:
        while data := await stream.receive(65536, runtime.now() + 30):
            await stream.send(data, runtime.now() + 30)

    thread = threading.Thread(target=lambda: drive(echo()))
    thread.start()
    return thread


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("make_pair", [tcp_pair, memory_pair])
def test_threads_may_move_bytes_under_a_lock_while_one_of_them_waits(
    make_pair: Callable[[Runtime], Awaitable[tuple[Stream, Stream]]], size: int
) -> None:
    runtime = blocking_runtime()
    stream, theirs = drive(cast("Any", make_pair(runtime)))
    peer = echoes(theirs, runtime)
    Sharing(stream, runtime, size).run(threads=5, rounds=30)
    stream.close()
    peer.join()
    theirs.close()


# -- what only asyncio can get wrong -------------------------------------------------------------------------------


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


@LOOPS
def test_a_stream_that_another_thread_drops_closes(run: Callable[..., object]) -> None:
    async def main() -> None:
        runtime = current_async_runtime()
        box = [socket_pair(runtime)]
        stream, theirs = box.pop()
        descriptor = stream.extra(SOCKET).fileno()
        boxes = [stream]
        del stream
        elsewhere(boxes.clear)
        await runtime.turn()
        await runtime.turn()
        with pytest.raises(OSError):
            os.fstat(descriptor)
        theirs.close()

    run(main)


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
