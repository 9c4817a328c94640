"""What peers do that no server should: without end, malformed, in advance, too slowly, by broken TLS.

Each row says which error it is, in which phase, and by which limit; it is played whole, cut and byte by byte, in every
world, and leaves no connection and little memory behind. Where the peer goes on for ever, it is the client who ends it.
What ends early, at every byte, stands in `test_http11_faults`; the wire by itself in `test_http11_wire`.
"""

from __future__ import annotations

import ssl
import threading
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme

import plugwire
from plugwire import (
    CertificateError,
    ConnectionClosed,
    Error,
    IncompleteBody,
    LimitExceeded,
    Limits,
    ProtocolError,
    ReadError,
    Timeout,
    TLSConfig,
    TLSError,
    TotalTimeout,
    WriteError,
)
from plugwire.testing.peer import (
    PeerConnection,
    ScriptedPeer,
    abort,
    cut,
    expect_end,
    expect_head,
    expect_request,
    send,
)
from plugwire_transports.http11_wire import MAX_LENGTH
from test_tls import own_certificate
from tls_peer import CA, CA_PEM, server_context
from worlds import World, error_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugwire.testing.peer import Step

HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + b"Content-Length: 2\r\n\r\nok"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVIL = HEAD + b"Content-Length: 4\r\n\r\nevil"


def bare(world: World, **kwargs: Any) -> Any:
    return world.session(defaults=False, **kwargs)


# -- without end ---------------------------------------------------------------------------------------------------


class Endless(NamedTuple):
    """`begin`, and then `again` for ever."""

    begin: bytes
    again: bytes
    phase: str
    limit: str


ENDLESS = {
    "a head": Endless(HEAD, b"X: y\r\n", "head", "max_head_bytes"),
    "a status line": Endless(b"HTTP/1.1 200 ", b"O", "head", "max_head_bytes"),
    "a line without a colon": Endless(HEAD, b"x", "head", "max_head_bytes"),
    "a value": Endless(HEAD + b"X: ", b"y", "head", "max_head_bytes"),
    "interim responses": Endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "head", "max_informational"),
    "trailers": Endless(CHUNKED + b"0\r\n", b"X: y\r\n", "body", "max_head_bytes"),
    "a trailer": Endless(CHUNKED + b"0\r\nX: ", b"y", "body", "max_head_bytes"),
    "a chunk extension": Endless(CHUNKED + b"1;a=", b"b", "body", "max_extension_bytes"),
    "a quoted chunk extension": Endless(CHUNKED + b'1;a="', b"\\\\", "body", "max_extension_bytes"),
    "white space behind a chunk's size": Endless(CHUNKED + b"1", b" ", "body", "max_extension_bytes"),
    "zeros before a chunk's size": Endless(CHUNKED, b"0", "body", "max_extension_bytes"),
    "a small extension of each chunk": Endless(CHUNKED, b"1;a=b\r\nx\r\n", "body", "max_extension_bytes"),
}


def for_ever(begin: bytes, again: bytes) -> Step:
    """Send `begin`, then `again` until the client has had enough."""

    def for_ever(connection: PeerConnection) -> None:
        block = again * (16384 // len(again) + 1)
        try:
            connection.sock.sendall(begin)
            while True:
                connection.sock.sendall(block)
        except OSError:
            connection.sock.close()
            connection.is_closed = True

    return for_ever


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_has_no_end_meets_a_limit(world: World, what: str) -> None:
    begin, again, phase, limit = ENDLESS[what]
    with ScriptedPeer([expect_head(), for_ever(begin, again)], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            with pytest.raises(LimitExceeded) as caught:
                await session.get(peer.url)
            assert (caught.value.limit, caught.value.phase, caught.value.sent) == (limit, phase, True)
            assert session.stats().open == 0
            assert (await session.get(peer.url)).content == b"ok"


@pytest.mark.parametrize("what", ENDLESS)
async def test_the_limit_is_the_same_byte_by_byte(world: World, what: str) -> None:
    begin, again, phase, limit = ENDLESS[what]
    limits = Limits(max_head_bytes=300, max_informational=3)
    data = begin + again * (60000 // len(again) if limit == "max_extension_bytes" else 400)
    errors: list[Error] = []
    for each in (None, 1 if len(data) < 4000 else 97):
        with ScriptedPeer([expect_head(), until_closed(data, each)]) as peer:
            async with bare(world, limits=limits) as session:
                with pytest.raises(LimitExceeded) as caught:
                    await session.get(peer.url)
                errors.append(caught.value)
    assert [(error.limit, error.phase, str(error)) for error in errors] == [(limit, phase, str(errors[0]))] * 2


def until_closed(data: bytes, each: int | None) -> Step:
    """Send `data` in pieces, as far as the client takes it."""

    def until_closed(connection: PeerConnection) -> None:
        step = each or len(data)
        try:
            for place in range(0, len(data), step):
                connection.sock.sendall(data[place : place + step])
            connection.read_end()
        except OSError:
            pass
        connection.sock.close()
        connection.is_closed = True

    return until_closed


def saying(data: bytes, each: int | None, said: threading.Event) -> Step:
    """Send `data` in pieces, as far as the client takes it, and set the event when all is there."""

    def saying(connection: PeerConnection) -> None:
        try:
            send(data, each=each)(connection)
        except OSError:
            pass  # it has seen enough
        said.set()
        connection.read_end()

    return saying


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    """What the block allocates at its peak is at most so many bytes. (The peer's part is in it.)"""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak:,} bytes"


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_has_no_end_takes_little_memory(world: World, what: str) -> None:
    begin, again, _, _ = ENDLESS[what]
    # A head of 256 KiB may be there twice or three times: as it came, joined, as text.
    async with bare(world, limits=Limits(max_connections=1)) as session:
        with ScriptedPeer([expect_head(), send(OK)], [expect_head(), for_ever(begin, again)]) as peer:
            await session.get(peer.url, headers={"Connection": "close"})
            with little_memory(3 * 1024 * 1024), pytest.raises(LimitExceeded):
                await session.get(peer.url)


async def test_a_hundred_thousand_fields(world: World) -> None:
    head = HEAD + b"a:b\r\n" * 100_000 + b"\r\n"
    for limits, limit in ((Limits(), "max_head_bytes"), (Limits(max_head_bytes=10**7), "max_headers")):
        with ScriptedPeer([expect_head(), until_closed(head, 65536)]) as peer:
            async with bare(world, limits=limits) as session:
                with little_memory(5 * 1024 * 1024), pytest.raises(LimitExceeded) as caught:
                    await session.get(peer.url)
                assert caught.value.limit == limit


async def test_a_thousand_fields_of_one_name_are_read(world: World) -> None:
    head = HEAD + b"a:b\r\n" * 999 + b"Content-Length: 0\r\n\r\n"
    with ScriptedPeer([expect_head(), send(head)]) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).headers["a"] == ", ".join("b" * 999)


async def test_a_body_in_chunks_of_one_byte(world: World) -> None:
    size = 30_000
    body = b"1\r\nx\r\n" * size + b"0\r\n\r\n"
    with ScriptedPeer([expect_head(), until_closed(CHUNKED + body, None)]) as peer:
        async with bare(world) as session:
            # 180 kB come, of which a read takes 64 KiB with 10,922 pieces in it.
            with little_memory(6 * 1024 * 1024):
                assert len((await session.get(peer.url)).content) == size


async def test_a_body_without_end_is_read_as_far_as_asked(world: World) -> None:
    with ScriptedPeer([expect_head(), for_ever(HEAD + b"\r\n", b"x" * 16384)]) as peer:
        async with bare(world) as session:
            with little_memory(2 * 1024 * 1024):
                async with session.stream("GET", peer.url) as response:
                    for _ in range(100):
                        assert await response.read(65536)
            assert session.stats().open == 0


# -- malformed -----------------------------------------------------------------------------------------------------

FRAMING = {
    # RFC 9112, 11.1: response splitting
    "a bare LF in the head": HEAD + b"X: 1\nContent-Length: 5\r\n\r\nhello",
    "a bare CR in the head": HEAD + b"X: 1\rContent-Length: 5\r\n\r\nhello",
    "a head of LFs": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "a folded field": HEAD + b"X: 1\r\n Content-Length: 9\r\nContent-Length: 5\r\n\r\nhello",
    "a folded first field": HEAD + b" X: 1\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in a value": HEAD + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "white space before the colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "an empty line before the head": b"\r\n" + OK,
    # RFC 9112, 11.2: request smuggling, and its mirror
    "both framings": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both framings the other way round": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two lengths in one line": HEAD + b"Content-Length: 5, 6\r\n\r\nhello!",
    "a length with a sign": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\nhello",
    "a length in hex": HEAD + b"Content-Length: 0x5\r\n\r\nhello",
    "a length with an underscore": HEAD + b"Content-Length: 1_0\r\n\r\nhellohello",
    "a length with a fraction": HEAD + b"Content-Length: 5.0\r\n\r\nhello",
    "an empty length": HEAD + b"Content-Length:\r\n\r\nhello",
    "a length in other digits": HEAD + b"Content-Length: \xb2\r\n\r\nhe",
    "an unknown coding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\nhello",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two lines": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked with a parameter": HEAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "chunked hidden by a vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "an empty coding": HEAD + b"Transfer-Encoding:\r\n\r\nhello",
    "chunked from HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # numbers that overflow
    "a length of 2^63": HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_LENGTH + 1),
    "a length of 2^64": HEAD + b"Content-Length: %d\r\n\r\n" % 2**64,
    "a length of 5000 digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a length of zeros": HEAD + b"Content-Length: " + b"0" * 5000 + b"5\r\n\r\nhello",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a version of two digits": b"HTTP/1.11 200 OK\r\n\r\n",
}

CHUNKING = {
    "a chunk of 2^63": b"8000000000000000\r\n",
    "a chunk of 2^64": b"10000000000000000\r\n",
    "a chunk's size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative chunk": b"-5\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with an underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
    "a chunk's size behind a space": b" 5\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "an extension without a size": b";a=b\r\nhello\r\n0\r\n\r\n",
    "a chunk's line ended by LF": b"5\nhello\r\n0\r\n\r\n",
    "a chunk's line ended by CR": b"5\rhello\r\n0\r\n\r\n",
    "LF in an extension": b"5;a=\nb\r\nhello\r\n0\r\n\r\n",
    "CR in an extension": b"5;a=\rb\r\nhello\r\n0\r\n\r\n",
    "LF in a quoted extension": b'5;a="\n"\r\nhello\r\n0\r\n\r\n',
    "an extension whose quotes are open": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "a chunk longer than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "a chunk ended by LF": b"5\r\nhello\n0\r\n\r\n",
    "a chunk ended by two bytes that are not CRLF": b"5\r\nhelloXX0\r\n\r\n",
    "trailers ended by LF": b"0\r\nX: 1\n\n",
    "a folded trailer": b"0\r\nX: 1\r\n 2\r\n\r\n",
    "a trailer without a colon": b"0\r\nX\r\n\r\n",
    "white space before a trailer's colon": b"0\r\nX : 1\r\n\r\n",
    "NUL in a trailer": b"0\r\nX: \0\r\n\r\n",
    "a second response for a trailer": b"0\r\nHTTP/1.1 200 OK\r\n\r\n",
}


async def refused(world: World, data: bytes, each: int | None) -> ProtocolError:
    """The error of a response that is answered by closing the connection."""
    with ScriptedPeer([expect_head(), until_closed(data, each)]) as peer:
        async with bare(world) as session:
            with pytest.raises(ProtocolError) as caught:
                await session.get(peer.url)
            assert caught.value.sent
            assert session.stats().open == 0
    return caught.value


@pytest.mark.parametrize("what", FRAMING)
async def test_framing_that_can_be_read_in_two_ways_is_refused(world: World, what: str) -> None:
    whole = await refused(world, FRAMING[what], None)
    assert type(whole) is ProtocolError
    assert whole.phase == "head"
    small = await refused(world, FRAMING[what], 1 if len(FRAMING[what]) < 200 else 100)
    assert (type(small), small.phase) == (type(whole), whole.phase)


@pytest.mark.parametrize("what", CHUNKING)
async def test_chunks_that_can_be_read_in_two_ways_are_refused(world: World, what: str) -> None:
    for each in (None, 1):
        error = await refused(world, CHUNKED + CHUNKING[what], each)
        assert type(error) is ProtocolError
        assert error.phase == "body"


async def test_an_empty_chunk_is_the_end_and_what_follows_is_surplus(world: World) -> None:
    data = CHUNKED + b"0\r\n\r\n" + b"5\r\nhello\r\n0\r\n\r\n"
    for each in (None, 1):
        said = threading.Event()
        with ScriptedPeer([expect_head(), saying(data, each, said)], [expect_head(), send(OK)]) as peer:
            async with bare(world) as session:
                assert (await session.get(peer.url)).content == b""
                assert await world.runtime().run_blocking(said.wait, 30)
                assert (await session.get(peer.url)).content == b"ok"
            assert peer.accepted == 2


async def test_numbers_at_the_edge_are_numbers(world: World) -> None:
    for head in (HEAD + b"Content-Length: %d\r\n\r\nhello" % MAX_LENGTH, CHUNKED + b"%x\r\nhello" % MAX_LENGTH):
        with ScriptedPeer([expect_head(), send(head), cut()]) as peer:
            async with bare(world) as session:
                with pytest.raises(IncompleteBody) as caught:
                    await session.get(peer.url)
                assert caught.value.received == 5
                assert caught.value.expected in (MAX_LENGTH, None)


# -- answers to other questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n"])
@pytest.mark.parametrize("each", [None, 1])
async def test_a_response_behind_the_response_is_nobodys(world: World, answer: bytes, each: int | None) -> None:
    # Response-queue poisoning: who takes it for the answer to the next request is one behind for ever. What comes only
    # when the next request is on its way nobody can tell from an answer to it, so all of it is there before.
    said = threading.Event()

    script = [expect_head(), saying(answer + EVIL, each, said)]
    with ScriptedPeer(script, [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            assert (await session.get(peer.url)).content in (b"ok", b"")
            assert await world.runtime().run_blocking(said.wait, 30)
            assert (await session.get(peer.url)).content == b"ok"
        assert peer.accepted == 2


async def test_a_response_behind_a_tunnel_that_was_refused(world: World) -> None:
    no = b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno"
    with ScriptedPeer([expect_head(), send(no + EVIL), expect_end()], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            assert (await session.request("CONNECT", peer.url)).content == b"no"
            assert (await session.get(peer.url)).content == b"ok"


async def test_a_leased_connection_that_spoke_before_it_was_asked_is_replaced(world: World) -> None:
    said = threading.Event()

    def tell_all(connection: PeerConnection) -> None:
        connection.sock.sendall(EVIL)
        said.set()

    with ScriptedPeer([tell_all, expect_end()], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session, await session.connect(peer.url) as connection:
            assert await world.runtime().run_blocking(said.wait, 30)
            response = await connection.open_request("GET", "/").send()
            assert await response.read() == b"ok"


async def test_an_answer_before_the_end_of_an_upload_spends_the_connection(world: World) -> None:
    # RFC 9112, 9.3: what is left of the request would be read as the next one.
    early = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"
    answered = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        answered.wait(30)
        for _ in range(1000):
            yield b"x" * 65536

    def answer(connection: PeerConnection) -> None:
        connection.read_until(b"first")
        connection.sock.sendall(early)
        answered.set()
        connection.read_end()

    with ScriptedPeer([answer], [expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            assert (await session.post(peer.url, content=pieces())).status_code == 413
            assert (await session.get(peer.url)).content == b"ok"
        assert peer.accepted == 2


# -- too slowly ----------------------------------------------------------------------------------------------------


def dripping(data: bytes) -> Step:
    """Send `data` for ever, a byte at a time, a little slower than anybody would."""
    stop = threading.Event()

    def dripping(connection: PeerConnection) -> None:
        place = 0
        try:
            while not stop.wait(0.002):
                connection.sock.sendall(data[place % len(data) : place % len(data) + 1])
                place += 1
        except OSError:
            connection.sock.close()
            connection.is_closed = True

    return dripping


@pytest.mark.parametrize(
    ("begin", "drips", "phase"),
    [(HEAD + b"X: ", b"y", "head"), (HEAD + b"\r\n", b"x", "body"), (CHUNKED, b"1\r\nx\r\n", "body")],
)
async def test_the_total_ends_a_peer_that_drips(world: World, begin: bytes, drips: bytes, phase: str) -> None:
    # Each byte renews the time-out of a read, so that alone would never end it.
    left: list[int] = []  # open connections, after each attempt

    async def get(budget: float) -> Error:
        with ScriptedPeer([expect_head(), send(begin), dripping(drips)]) as peer:
            async with bare(world) as session:
                with pytest.raises(TotalTimeout) as caught:
                    await session.get(peer.url, timeout=Timeout(total=budget, read=budget * 2 / 3))
                left.append(session.stats().open)
                return caught.value

    error, _ = await error_in(phase, True, get, 0.3)
    assert error.phase == phase
    assert left[-1] == 0


@pytest.mark.parametrize("tls", [False, True])
async def test_the_total_ends_a_peer_that_pours(world: World, tls: bool) -> None:
    # Nobody ever waits, so it is not a wait that ends it.
    async def read(budget: float) -> Error:
        with ScriptedPeer([expect_head(), for_ever(HEAD + b"\r\n", b"x" * 65536)], tls=tls) as peer:
            async with bare(world, tls=peer.tls_config if tls else TLSConfig()) as session:
                async with session.stream("GET", peer.url, timeout=Timeout(total=budget)) as response:
                    with pytest.raises(TotalTimeout) as caught:
                        while await response.read(65536):
                            pass
                assert session.stats().open == 0
                return caught.value

    error, _ = await error_in("body", True, read, 0.3)
    assert error.phase == "body"


async def test_the_total_ends_a_peer_that_sips(world: World) -> None:
    left: list[int] = []  # open connections, after each attempt

    async def post(budget: float) -> Error:
        seen = threading.Event()

        def sips(connection: PeerConnection) -> None:
            try:
                while not seen.wait(0.002) and connection.sock.recv(10):
                    pass
            except OSError:
                pass
            connection.sock.close()
            connection.is_closed = True

        with ScriptedPeer([expect_head(), sips]) as peer:
            async with bare(world) as session:
                timeout = Timeout(total=budget, write=budget * 2 / 3)
                try:
                    with pytest.raises(TotalTimeout) as caught:
                        await session.post(peer.url, content=bytes(40_000_000), timeout=timeout)
                finally:
                    seen.set()
                left.append(session.stats().open)
                return caught.value

    error, _ = await error_in("write", True, post, 0.3)
    assert (error.phase, error.sent) == ("write", True)
    assert left[-1] == 0


async def test_interim_responses_do_not_renew_the_total(world: World) -> None:
    limits = Limits(max_informational=10**6)
    drip = b"HTTP/1.1 102 Processing\r\n\r\n"

    def process(connection: PeerConnection) -> None:
        stop = threading.Event()
        try:
            while not stop.wait(0.002):
                connection.sock.sendall(drip)
        except OSError:
            connection.sock.close()
            connection.is_closed = True

    async def get(budget: float) -> Error:
        with ScriptedPeer([expect_head(), process]) as peer:
            async with bare(world, limits=limits) as session:
                with pytest.raises(TotalTimeout) as caught:
                    await session.get(peer.url, timeout=budget)
                return caught.value

    error, _ = await error_in("head", True, get, 0.3)
    assert error.phase == "head"


# -- TLS -----------------------------------------------------------------------------------------------------------

TRUSTING = TLSConfig(ca_data=CA_PEM)


def records(data: bytes) -> list[bytes]:
    """TLS records, the last of which may be cut."""
    found: list[bytes] = []
    while data:
        size = 5 + int.from_bytes(data[3:5], "big")
        found.append(data[:size])
        data = data[size:]
    return found


class Shaky:
    """Serves one response over TLS, and ends the connection after so many records of its own."""

    def __init__(self, context: ssl.SSLContext, most: int, *, resets: bool = False, says_goodbye: bool = True) -> None:
        self.context = context
        self.most = most
        self.resets = resets
        self.says_goodbye = says_goodbye
        self.sent = 0

    __name__ = "shaky"

    def __call__(self, connection: PeerConnection) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(incoming, outgoing, server_side=True)
        request = b""
        step: Any = tls.do_handshake
        try:
            while not request.endswith(b"\r\n\r\n"):
                try:
                    if step is None:
                        request += tls.read(65536)
                    else:
                        step()
                        step = None
                except ssl.SSLWantReadError:
                    if self._flush(connection, outgoing):
                        return
                    if not (data := connection.sock.recv(65536)):
                        return
                    incoming.write(data)
            tls.write(OK)
            if self.says_goodbye:
                try:
                    tls.unwrap()
                except ssl.SSLError:
                    pass
        except ssl.SSLError:
            pass  # the client's alert
        except OSError:
            self._leave(connection)  # it had heard enough
            return
        try:
            if not self._flush(connection, outgoing):
                cut()(connection)
        except OSError:
            self._leave(connection)

    @staticmethod
    def _leave(connection: PeerConnection) -> None:
        connection.sock.close()
        connection.is_closed = True

    def _flush(self, connection: PeerConnection, outgoing: ssl.MemoryBIO) -> bool:
        for record in records(outgoing.read()):
            if self.sent == self.most:
                (abort() if self.resets else cut())(connection)
                return True
            connection.sock.sendall(record)
            self.sent += 1
        return False


def secure_url(peer: ScriptedPeer) -> str:
    return peer.url.replace("http:", "https:")


ANY = 1000


def bad_certificates() -> dict[str, tuple[ssl.SSLContext, TLSConfig, str]]:
    from datetime import UTC, datetime, timedelta

    now, day = datetime.now(UTC), timedelta(days=1)
    own, nameless = own_certificate(["peer.example"]), own_certificate([])
    expired = CA.issue_cert("127.0.0.1", not_before=now - 2 * day, not_after=now - day)
    early = CA.issue_cert("127.0.0.1", not_before=now + day, not_after=now + 2 * day)
    return {
        "wrong host": (server_context(CA.issue_cert("other.example")), TRUSTING, "127.0.0.1"),
        "wrong address": (server_context(CA.issue_cert("127.0.0.2")), TRUSTING, "127.0.0.1"),
        "expired": (server_context(expired), TRUSTING, "expired"),
        "not yet valid": (server_context(early), TRUSTING, "not yet valid"),
        "self-signed": (own, TRUSTING, "self-signed"),
        "unknown CA": (server_context(trustme.CA().issue_cert("127.0.0.1")), TRUSTING, "issuer"),
        "no SAN": (nameless, TLSConfig(ca_data=nameless.own_pem), "127.0.0.1"),  # type: ignore[attr-defined]
    }


BAD = ("wrong host", "wrong address", "expired", "not yet valid", "self-signed", "unknown CA", "no SAN")


@pytest.mark.parametrize("case", BAD)
async def test_a_certificate_that_does_not_do(world: World, case: str) -> None:
    context, tls, says = bad_certificates()[case]
    with ScriptedPeer([Shaky(context, ANY)], [Shaky(context, ANY)]) as peer:
        async with bare(world, tls=tls) as session:
            with pytest.raises(CertificateError, match=says) as caught:
                await session.get(secure_url(peer), headers={"Authorization": "secret"})
            assert (caught.value.phase, caught.value.sent, caught.value.replayable) == ("tls", False, True)
            assert session.stats().open == 0
            response = await session.get(secure_url(peer), tls=TLSConfig(verify=False))
            assert response.content == b"ok"


@pytest.mark.parametrize("version", ["TLSv1_1", "TLSv1"])
async def test_an_old_version_is_refused(world: World, version: str) -> None:
    with pytest.warns(DeprecationWarning):
        context = server_context(CA.issue_cert("127.0.0.1"), version=version)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with ScriptedPeer([Shaky(context, ANY)]) as peer:
        async with bare(world, tls=TRUSTING) as session:
            with pytest.raises(TLSError) as caught:
                await session.get(secure_url(peer))
            assert not isinstance(caught.value, CertificateError)
            assert (caught.value.phase, caught.value.sent) == ("tls", False)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("resets", [False, True])
async def test_a_connection_that_ends_after_each_record(world: World, version: str, resets: bool) -> None:
    context = server_context(CA.issue_cert("127.0.0.1"), version=version)
    phases: list[str] = []
    for most in range(ANY):
        shaky = Shaky(context, most, resets=resets)
        with ScriptedPeer([shaky]) as peer:
            async with bare(world, tls=TRUSTING) as session:
                try:
                    response = await session.get(secure_url(peer))
                except Error as error:
                    # A reset may be seen while the request is still being written.
                    is_any = (ReadError, WriteError, ConnectionClosed)
                    assert isinstance(error, TLSError if error.phase == "tls" else is_any)
                    assert error.sent == (error.phase != "tls")
                    phases.append(str(error.phase))
                else:
                    assert response.content == b"ok"
                    break
                assert session.stats().open == 0
    assert shaky.sent > 3
    # While the handshake is going on, and then while the head is waited for; nothing in between, and no way back.
    assert "".join(phases).lstrip("tls").replace("write", "").replace("head", "") == ""
    assert phases.count("tls") >= (4 if version == "TLSv1_2" else 2)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_an_end_without_close_notify_is_no_end_of_a_body(world: World, version: str) -> None:
    context = server_context(CA.issue_cert("127.0.0.1"), version=version)
    for says_goodbye in (True, False):
        with ScriptedPeer([Shaky(context, ANY, says_goodbye=says_goodbye)]) as peer:
            async with bare(world, tls=TRUSTING) as session:
                # The length says where it ends, so nothing is missing.
                assert (await session.get(secure_url(peer))).content == b"ok"
    with ScriptedPeer([expect_request(), send(HEAD + b"\r\nall of"), cut()], tls=True) as peer:
        async with bare(world, tls=peer.tls_config) as session:
            with pytest.raises(IncompleteBody) as caught:
                await session.get(peer.url)
            assert (caught.value.received, caught.value.phase) == (6, "body")


async def test_bytes_of_the_plain_stream_before_the_handshake_are_not_content(world: World) -> None:
    # Injected before the handshake (as in the STARTTLS attacks): they belong to no record.
    with ScriptedPeer([send(EVIL), expect_any_end]) as peer:
        async with bare(world, tls=TRUSTING) as session:
            with pytest.raises(TLSError) as caught:
                await session.get(secure_url(peer))
            assert (caught.value.phase, caught.value.sent) == ("tls", False)


def expect_any_end(connection: PeerConnection) -> None:
    connection.read_end()


async def test_a_secret_is_not_sent_before_the_peer_is_known(world: World) -> None:
    with ScriptedPeer([Shaky(server_context(CA.issue_cert("other.example")), ANY)]) as peer:
        async with bare(world, tls=TRUSTING) as session:
            with pytest.raises(plugwire.NetworkError):
                await session.post(secure_url(peer), content=b"secret", headers={"Authorization": "secret"})
        assert b"secret" not in peer.received[0]
