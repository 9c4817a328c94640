"""The conformance kit for streams: every promise of `Stream`, checked.

For authors of diallers, securers and wrappers. Write a function that makes a connected pair, and run the kit in each
world that the stream is for:

    async def make_pair(runtime):
        return await my_stream(runtime), await its_peer(runtime)

    await check_stream(make_pair, runtime)

Both ends must be streams; only the first one is put to the test. Checks that need two things to happen at once use
`runtime.start`. A broken promise raises `AssertionError` with the promise in words. `STREAM_CHECKS` has the checks one
by one, for a test runner that wants one test for each.
"""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from plugwire.errors import Busy
from plugwire.protocols import Extra

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from plugwire.protocols import Buffer, Runtime, Stream

    MakePair: TypeAlias = Callable[[Runtime], Awaitable[tuple[Stream, Stream]]]
    Check: TypeAlias = "Callable[[StreamPair], Coroutine[Any, Any, None]]"

PATIENCE = 30.0
"""Seconds until something that must happen counts as missing."""
SOON = 0.02
"""Seconds that a wait gets which is meant to run out of time."""
NUDGED = 5.0
"""Seconds that a wait gets which is meant to be nudged."""
MORE_THAN_FITS = 16 * 1024 * 1024
"""Bytes that no pipe of a sane size takes at once."""


async def check_stream(make_pair: MakePair, runtime: Runtime, *, can_be_nudged: bool = True) -> None:
    """Run all checks, each on a fresh pair.

    Args:
        make_pair: connects the stream under test with its peer.
        runtime: the world.
        can_be_nudged: False for a stream that leaves `Stream.nudge` as it is, because it has no way to wake its waiter.

    Raises:
        AssertionError: a promise is broken; a note names the check.
    """
    for check in STREAM_CHECKS:
        if can_be_nudged or check is not wakes_its_waiter_when_nudged:
            await check_one(check, make_pair, runtime)


async def check_one(check: Check, make_pair: MakePair, runtime: Runtime) -> None:
    """Run one check on a fresh pair and close both ends afterwards."""
    pair = StreamPair(runtime, *await make_pair(runtime))
    try:
        await check(pair)
    except Exception as error:
        error.add_note(f"while checking that a stream {check.__name__}")
        raise
    finally:
        pair.close()


class StreamPair:
    """The stream under test (`mine`), its peer (`theirs`), and what the checks need of the world."""

    def __init__(self, runtime: Runtime, mine: Stream, theirs: Stream) -> None:
        self.runtime = runtime
        self.mine = mine
        self.theirs = theirs

    def close(self) -> None:
        self.mine.close()
        self.theirs.close()

    def in_time(self) -> float:
        return self.runtime.now() + PATIENCE

    def soon(self) -> float:
        return self.runtime.now() + SOON

    async def read_exactly(self, stream: Stream, size: int) -> bytes:
        """The next `size` bytes; fewer if the stream ends."""
        parts: list[bytes] = []
        while size and (data := await stream.receive(min(size, 65536), self.in_time())):
            expect(len(data) <= min(size, 65536), "receive gives at most max_bytes")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    async def fill(self, stream: Stream) -> int:
        """Write until the pipe is full, also that part of it that the peer reads ahead; the bytes written."""
        stream.write_now(pattern(MORE_THAN_FITS))
        await self.until_full(stream)
        return MORE_THAN_FITS

    async def until_full(self, stream: Stream) -> None:
        """The same with what is unsent already."""
        while stream.unsent:
            try:
                await stream.wait(False, True, self.soon())
            except TimeoutError:
                return
            stream.write_now(b"")
        raise AssertionError(f"what does not go out at once is kept ({MORE_THAN_FITS} bytes went)")


class Background:
    """Something that goes on at the same time: `Runtime.start`, with its outcome kept."""

    def __init__(self, pair: StreamPair, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_over = False
        self._task = pair.runtime.start(self._run, work)

    async def _run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            self.result = await work()
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self.is_over = True

    def cancel(self) -> None:
        self._task.cancel()

    async def outcome(self) -> Any:
        """What it returned; what it raised is raised."""
        await self._task.join()
        if self.error is not None:
            raise self.error
        return self.result

    async def end(self) -> BaseException | None:
        """Wait for its end; what it raised."""
        await self._task.join()
        return self.error


def expect(condition: object, promise: str) -> None:
    if not condition:
        raise AssertionError(promise)


async def expect_raises(kind: type[BaseException], awaitable: Awaitable[object], promise: str) -> None:
    try:
        await awaitable
    except kind:
        return
    raise AssertionError(promise)


def expect_raises_now(kind: type[BaseException], function: Callable[[], object], promise: str) -> None:
    try:
        function()
    except kind:
        return
    raise AssertionError(promise)


def pattern(size: int, salt: int = 0) -> bytes:
    """Bytes in which a swapped, lost or repeated piece shows: no period that a buffer size divides."""
    block = bytes((index * index + salt) % 251 for index in range(65521))
    return (block * (size // len(block) + 1))[:size]


# -- the checks ----------------------------------------------------------------------------------------------------


async def delivers_bytes_in_order(pair: StreamPair) -> None:
    sent: list[Buffer] = [b"one", bytearray(b"two"), memoryview(b"three")]
    for piece in sent:
        expect(await pair.mine.send(piece, pair.in_time()) == len(piece), "send returns the number of bytes sent")
    expect(await pair.read_exactly(pair.theirs, 11) == b"onetwothree", "bytes arrive in the order they were sent")
    await pair.theirs.send(b"back", pair.in_time())
    expect(await pair.read_exactly(pair.mine, 4) == b"back", "both directions work")


async def takes_sequences_of_buffers(pair: StreamPair) -> None:
    pieces: list[Buffer] = [b"", b"head", bytearray(b"er"), memoryview(b"body"), b""]
    expect(await pair.mine.send(pieces, pair.in_time()) == 10, "send counts the bytes of all buffers")
    pair.mine.write_now([b"+", memoryview(b"tail")])
    expect(await pair.read_exactly(pair.theirs, 15) == b"headerbody+tail", "the buffers of a sequence go out in order")
    expect(await pair.mine.send(b"", pair.in_time()) == 0, "sending nothing sends nothing")
    expect(await pair.mine.send([], pair.in_time()) == 0, "sending no buffer sends nothing")
    many = [bytes((index % 251,)) for index in range(5000)]  # more than any IOV_MAX
    task = Background(pair, lambda: pair.mine.send(many, pair.in_time()))
    expect(await pair.read_exactly(pair.theirs, 5000) == b"".join(many), "any number of buffers goes out in order")
    expect(await task.outcome() == 5000, "send counts the bytes of all buffers")


async def says_none_when_nothing_is_there(pair: StreamPair) -> None:
    expect(pair.mine.read_now(10) is None, "read_now gives None, not an end, when nothing is there")
    await pair.theirs.send(b"abcdef", pair.in_time())
    await pair.mine.wait(True, False, pair.in_time())
    first = pair.mine.read_now(2)
    expect(first == b"ab", "read_now gives at most max_bytes, and at least one byte that is there")
    expect(await pair.read_exactly(pair.mine, 4) == b"cdef", "what read_now left over comes next")
    expect(pair.mine.read_now(10) is None, "read_now gives None again when everything was read")


async def receives_into_a_buffer(pair: StreamPair) -> None:
    for size in (4, 100_000):  # a stream may treat small buffers in another way
        buffer = bytearray(size)
        task = Background(pair, partial(pair.mine.receive_into, memoryview(buffer), pair.in_time()))
        await pair.theirs.send(b"abc", pair.in_time())
        count = await task.outcome()
        expect(0 < count <= 3, "receive_into returns the number of bytes it put there")
        rest = await pair.read_exactly(pair.mine, 3 - count)
        expect(bytes(buffer[:count]) + rest == b"abc", "receive_into fills the buffer from its start")
        expect(not any(buffer[count:]), "receive_into leaves the rest of the buffer alone")
        before = bytes(buffer)
        await pair.theirs.send(b"later", pair.in_time())
        await pair.mine.wait(True, False, pair.in_time())
        expect(bytes(buffer) == before, "after receive_into has returned, the buffer is never touched again")
        expect(await pair.read_exactly(pair.mine, 5) == b"later", "bytes that come later are not lost")


async def ends_in_order_and_for_ever(pair: StreamPair) -> None:
    await pair.theirs.send(b"last", pair.in_time())
    await pair.theirs.send_eof(pair.in_time())
    expect(await pair.read_exactly(pair.mine, 4) == b"last", "what was sent before the end arrives")
    for _ in range(3):
        expect(await pair.mine.receive(10, pair.in_time()) == b"", "receive gives b'' at the end, and for ever")
        expect(await pair.mine.receive_into(memoryview(bytearray(9)), pair.in_time()) == 0, "receive_into gives 0 then")
        expect(pair.mine.read_now(10) == b"", "read_now gives b'' then")
        await pair.mine.wait(True, False, pair.in_time())


async def ends_when_the_peer_closes(pair: StreamPair) -> None:
    waiting = Background(pair, lambda: pair.mine.receive(10, pair.in_time()))
    pair.theirs.close()
    try:
        expect(await waiting.outcome() == b"", "a peer that closes is seen as the end of the stream, or as an OSError")
    except OSError as error:
        expect(not isinstance(error, TimeoutError), "a peer that closes wakes who waits")


async def runs_out_of_time_and_loses_nothing(pair: StreamPair) -> None:
    await expect_raises(
        TimeoutError, pair.mine.receive(10, pair.soon()), "receive raises TimeoutError when `at` passes"
    )
    for size in (10, 100_000):
        await expect_raises(
            TimeoutError,
            pair.mine.receive_into(memoryview(bytearray(size)), pair.soon()),
            "receive_into raises TimeoutError when `at` passes",
        )
    await expect_raises(TimeoutError, pair.mine.wait(True, False, pair.soon()), "wait raises TimeoutError")
    await expect_raises(
        TimeoutError, pair.mine.receive(10, pair.runtime.now() - 1), "a point in the past is too late at once"
    )
    await pair.theirs.send(b"still here", pair.in_time())
    await pair.mine.wait(True, False, pair.in_time())
    try:
        data = await pair.mine.receive(3, pair.runtime.now() - 1)  # may look at the bytes first, or at the clock
    except TimeoutError:
        data = b""
    rest = await pair.read_exactly(pair.mine, 10 - len(data))
    expect(data + rest == b"still here", "after a time-out no byte is lost and the stream is usable")
    expect(await pair.mine.send(b"and out", float("inf")) == 7, "`at` may be infinity")
    expect(await pair.read_exactly(pair.theirs, 7) == b"and out", "after a time-out the stream can send")
    await pair.theirs.send(b"!", float("inf"))
    expect(await pair.mine.receive(1, float("inf")) == b"!", "`at` may be infinity")


async def keeps_what_does_not_go_out(pair: StreamPair) -> None:
    size = await pair.fill(pair.mine)
    pair.mine.write_now([b"newer"])
    task = Background(pair, lambda: pair.read_exactly(pair.theirs, size + 5))
    expect(await pair.mine.send(b"", pair.in_time()) == 0, "bytes that were kept do not count as those of a later send")
    expect(pair.mine.unsent == 0, "send returns when everything that was kept has gone out")
    expect(await task.outcome() == pattern(size) + b"newer", "what is kept goes out in order, before anything newer")


async def runs_out_of_time_while_sending(pair: StreamPair) -> None:
    data = pattern(MORE_THAN_FITS)
    await expect_raises(
        TimeoutError, pair.mine.send(data, pair.soon()), "send raises TimeoutError when the peer takes nothing"
    )
    if pair.mine.unsent:  # on a machine that stood still the time was over before the pipe was full
        await pair.until_full(pair.mine)
    await expect_raises(
        TimeoutError, pair.mine.wait(False, True, pair.soon()), "wait for writability raises TimeoutError"
    )
    left = pair.mine.unsent
    task = Background(pair, lambda: pair.read_exactly(pair.theirs, len(data)))
    await pair.mine.send(b"", pair.in_time())
    await pair.mine.send_eof(pair.in_time())
    arrived = await task.outcome()
    expect(data.startswith(arrived), "after a time-out a first part of the bytes has gone out, nothing else")
    expect(len(arrived) == len(data) or not left, "what is unsent after a time-out goes out with the next send")


async def waits_for_either_direction(pair: StreamPair) -> None:
    await pair.mine.wait(False, True, pair.in_time())
    await pair.mine.wait(True, True, pair.in_time())  # nothing to read, but room to write
    await pair.fill(pair.mine)
    await expect_raises(TimeoutError, pair.mine.wait(True, True, pair.soon()), "neither direction can make progress")
    waiting = Background(pair, lambda: pair.mine.wait(True, True, pair.in_time()))
    await pair.theirs.send(b"early", pair.in_time())
    await waiting.outcome()
    await pair.mine.wait(True, False, pair.in_time())
    expect(pair.mine.unsent > 0, "a wait that ends for reading leaves what is unsent")
    expect(await pair.read_exactly(pair.mine, 5) == b"early", "who cannot write can still read")


async def stops_sending_when_the_peer_speaks(pair: StreamPair) -> None:
    data = pattern(MORE_THAN_FITS)
    task = Background(pair, lambda: pair.mine.send(data, pair.in_time(), True))
    await pair.theirs.send(b"413", pair.in_time())
    sent = await task.outcome()
    expect(sent < len(data), "send with stop_if_readable returns as soon as the peer has something to say")
    expect(pair.mine.unsent == len(data) - sent, "what it did not send stays unsent")
    expect(pair.mine.read_now(3) == b"413", "read_now then gives what the peer said")
    reading = Background(pair, lambda: pair.read_exactly(pair.theirs, len(data)))
    await pair.mine.send(b"", pair.in_time())
    expect(await reading.outcome() == data, "a later send goes on where it stopped")


async def carries_both_directions_at_once(pair: StreamPair) -> None:
    size = 3 * 1024 * 1024
    there, back = pattern(size, 1), pattern(size, 2)

    async def both(stream: Stream, data: bytes) -> bytes:
        """Read while writing, in one task: a wait for both directions."""
        parts: list[bytes] = []
        received = 0
        stream.write_now(data)
        while stream.unsent or received < size:
            if (part := stream.read_now(65536)) is not None:
                parts.append(part)
                received += len(part)
                expect(part, "the stream does not end before its peer ends it")
            else:
                await stream.wait(True, stream.unsent > 0, pair.in_time())
            if stream.unsent:
                stream.write_now(b"")
        return b"".join(parts)

    task = Background(pair, lambda: both(pair.theirs, back))
    expect(await both(pair.mine, there) == back, "bulk arrives whole while bulk goes out")
    expect(await task.outcome() == there, "bulk goes out whole while bulk arrives")


async def loses_nothing_to_a_cancel(pair: StreamPair) -> None:
    for size in (10, 100_000):
        buffer = memoryview(bytearray(size))
        waiting = Background(pair, partial(pair.mine.receive_into, buffer, pair.in_time()))
        await pair.runtime.turn()
        waiting.cancel()
        await waiting.end()
    try:
        pair.mine.read_now(1)
    except ConnectionAbortedError:
        return  # the blocking world cannot take a thread out of a system call in any other way
    await pair.theirs.send(b"abc", pair.in_time())
    data = await pair.read_exactly(pair.mine, 3)
    expect(data == b"abc", "after a cancel no byte is lost and the stream is usable")


async def has_one_reader_at_a_time(pair: StreamPair) -> None:
    refusals: list[Busy] = []

    async def wait() -> None:
        try:
            await pair.mine.wait(True, False, pair.in_time())
        except Busy as error:
            refusals.append(error)
            pair.theirs.write_now(b"x")  # ends the wait of the one who was first

    task = Background(pair, wait)
    await wait()
    await task.outcome()
    expect(len(refusals) == 1, "a second waiter for readability raises Busy, the first goes on")


async def wakes_its_waiter_when_nudged(pair: StreamPair) -> None:
    expect(pair.mine.read_now(1) is None, "read_now gives None when nothing is there")
    for is_full in (False, True):
        if is_full:
            await pair.fill(pair.mine)
        waiting = Background(pair, partial(pair.mine.wait, True, is_full, pair.runtime.now() + NUDGED))
        while not waiting.is_over:
            pair.mine.nudge()
            await pair.runtime.sleep(0.001, float("inf"))
        expect(await waiting.end() is None, "a nudge ends the wait that is under way (and a wrapper hands it down)")
        await pair.theirs.send(b"news", pair.in_time())
        expect(await pair.read_exactly(pair.mine, 4) == b"news", "after a nudge the stream is usable")


async def loses_nothing_when_nudged(pair: StreamPair) -> None:
    for _ in range(2000):
        pair.mine.nudge()
    expect(pair.mine.read_now(1) is None, "a nudge is not something to read")
    early = 0
    try:
        while early < 2:
            await pair.mine.wait(True, False, pair.soon())
            expect(pair.mine.read_now(1) is None, "a nudge is not something to read")
            early += 1
    except TimeoutError:
        pass
    expect(early < 2, "nudged while nobody waits, however often, one later wait may return early, no more")
    for size in (10, 100_000):
        buffer = memoryview(bytearray(size))
        reading = Background(pair, partial(pair.mine.receive_into, buffer, pair.in_time()))
        for _ in range(5):
            await pair.runtime.turn()
            pair.mine.nudge()
        await pair.theirs.send(b"c", pair.in_time())
        pair.mine.nudge()
        expect(await reading.outcome() == 1 and buffer[0] == ord("c"), "who receives goes on waiting when nudged")
    data = pattern(MORE_THAN_FITS)
    sending = Background(pair, lambda: pair.mine.send(data, pair.in_time()))
    for _ in range(5):
        await pair.runtime.turn()
        pair.mine.nudge()
    expect(await pair.read_exactly(pair.theirs, len(data)) == data, "nudging loses no byte")
    expect(await sending.outcome() == len(data), "who sends goes on when nudged")


async def wakes_its_user_when_aborted(pair: StreamPair) -> None:
    waiting = Background(pair, lambda: pair.mine.receive(10, pair.in_time()))
    await pair.runtime.turn()
    pair.mine.abort()
    pair.mine.abort()
    error = await waiting.end()
    expect(isinstance(error, ConnectionAbortedError), f"abort wakes its user with an abort, not {error!r}")
    await expect_raises(
        ConnectionAbortedError, pair.mine.receive(1, pair.in_time()), "an aborted stream raises ConnectionAbortedError"
    )


async def wakes_its_writer_when_aborted(pair: StreamPair) -> None:
    waiting = Background(pair, lambda: pair.mine.send(pattern(MORE_THAN_FITS), pair.in_time()))
    await pair.runtime.turn()
    pair.mine.abort()
    error = await waiting.end()
    expect(isinstance(error, ConnectionAbortedError), f"abort wakes a sender with an abort, not {error!r}")


async def wakes_its_user_when_closed(pair: StreamPair) -> None:
    waiting = Background(pair, lambda: pair.mine.wait(True, True, pair.in_time()))
    await pair.runtime.turn()
    pair.mine.close()
    error = await waiting.end()
    expect(error is None or isinstance(error, ConnectionAbortedError), f"close wakes with an abort, not with {error!r}")


async def refuses_everything_once_closed(pair: StreamPair) -> None:
    await pair.theirs.send(b"unread", pair.in_time())
    pair.mine.close()
    pair.mine.close()
    pair.mine.abort()
    pair.mine.nudge()
    mine, at, promise = pair.mine, pair.in_time(), "a closed stream raises ConnectionAbortedError"
    expect_raises_now(ConnectionAbortedError, lambda: mine.read_now(1), promise)
    expect_raises_now(ConnectionAbortedError, lambda: mine.write_now(b"x"), promise)
    await expect_raises(ConnectionAbortedError, mine.wait(True, False, at), promise)
    await expect_raises(ConnectionAbortedError, mine.wait(False, True, at), promise)
    await expect_raises(ConnectionAbortedError, mine.receive(1, at), promise)
    await expect_raises(ConnectionAbortedError, mine.receive_into(memoryview(bytearray(1)), at), promise)
    await expect_raises(ConnectionAbortedError, mine.receive_into(memoryview(bytearray(100_000)), at), promise)
    await expect_raises(ConnectionAbortedError, mine.send(b"x", at), promise)
    await expect_raises(ConnectionAbortedError, mine.send(b"x", at, True), promise)
    await expect_raises(ConnectionAbortedError, mine.send_eof(at), promise)
    expect_raises_now(ConnectionAbortedError, lambda: mine.write_now(b""), promise)
    await expect_raises(ConnectionAbortedError, mine.send(b"", at), promise)
    expect(mine.unsent == 0, "unsent can be asked of a closed stream")
    unknown: Extra[str] = Extra("UNKNOWN")
    expect(mine.extra(unknown) is None and mine.extra(unknown, "there") == "there", "extra gives the default")


async def breaks_when_nobody_reads(pair: StreamPair) -> None:
    await pair.fill(pair.mine)
    pair.theirs.close()
    try:
        while True:
            await pair.mine.send(b"more", pair.in_time())
    except OSError as error:
        expect(not isinstance(error, TimeoutError), "a peer that has gone is an error of its own, not a time-out")


async def closes_when_dropped(pair: StreamPair) -> None:
    pair.mine = pair.theirs  # the last reference to the stream under test
    gc.disable()
    try:
        try:
            data = await pair.theirs.receive(1, pair.in_time())
        except TimeoutError:
            raise AssertionError("a stream that is dropped closes without the garbage collector: no cycles") from None
        except OSError:
            data = b""
        expect(data == b"", "the peer of a dropped stream sees the end")
    finally:
        gc.enable()


STREAM_CHECKS: tuple[Check, ...] = (
    delivers_bytes_in_order,
    takes_sequences_of_buffers,
    says_none_when_nothing_is_there,
    receives_into_a_buffer,
    ends_in_order_and_for_ever,
    ends_when_the_peer_closes,
    runs_out_of_time_and_loses_nothing,
    keeps_what_does_not_go_out,
    runs_out_of_time_while_sending,
    waits_for_either_direction,
    stops_sending_when_the_peer_speaks,
    carries_both_directions_at_once,
    loses_nothing_to_a_cancel,
    has_one_reader_at_a_time,
    wakes_its_waiter_when_nudged,
    loses_nothing_when_nudged,
    wakes_its_user_when_aborted,
    wakes_its_writer_when_aborted,
    wakes_its_user_when_closed,
    refuses_everything_once_closed,
    breaks_when_nobody_reads,
    closes_when_dropped,
)
