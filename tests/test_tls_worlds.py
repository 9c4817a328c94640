"""TLS in every world: the promises of a stream, over memory and sockets, and Python's own server at the other end."""

from __future__ import annotations

import socket
import ssl
import threading
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from plugwire import TLSConfig, TLSError
from plugwire.protocols import PEER_ADDRESS, Address, TLSInfo
from plugwire.testing.conformance import STREAM_CHECKS, check_one, waits_for_either_direction
from plugwire.testing.memory import memory_streams
from plugwire_transports.tls import TLSSecurer
from plugwire_transports.tls_context import context_for
from plugwire_transports.tls_stream import TLSStream
from tls_peer import CA_PEM, route_to, server_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.protocols import Runtime, Stream
    from plugwire.runtimes.base import SocketRuntime
    from plugwire.testing.conformance import Check
    from worlds import World

TRUSTING = TLSConfig(ca_data=CA_PEM)
SERVER = server_context()


def over(lower: tuple[Stream, Stream]) -> tuple[TLSStream, TLSStream]:
    """Both ends secured, after a handshake by hand."""
    ends = []
    for context, is_server in ((context_for(TRUSTING), False), (SERVER, True)):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if is_server else "peer.example"
        ends.append((context.wrap_bio(incoming, outgoing, is_server, name), incoming, outgoing))
    (mine, mine_in, mine_out), (theirs, theirs_in, theirs_out) = ends
    for _ in range(3):
        for tls in (mine, theirs):
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            theirs_in.write(mine_out.read())
            mine_in.write(theirs_out.read())
    with pytest.raises(ssl.SSLWantReadError):
        mine.read()  # the tickets
    info = TLSInfo("TLSv1.3", "", None, None, None, False, True)
    return (
        TLSStream(lower[0], mine, mine_in, mine_out, info),
        TLSStream(lower[1], theirs, theirs_in, theirs_out, info),
    )


async def over_memory(runtime: Runtime) -> tuple[Stream, Stream]:
    return over(memory_streams(runtime))


async def over_tcp(runtime: SocketRuntime) -> tuple[Stream, Stream]:
    mine, sock = await dialled(runtime)
    sock.setblocking(False)
    return over((mine, runtime.stream(sock)))


async def inside_tls(runtime: Runtime) -> tuple[Stream, Stream]:
    return over(over(memory_streams(runtime)))


async def dialled(runtime: Runtime) -> tuple[Stream, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        stream = await runtime.dial_tcp([Address(socket.AF_INET, host, port)], runtime.now() + 10)
        return stream, server.accept()[0]


PAIRS = [
    (make_pair, check)
    for make_pair in (over_memory, over_tcp, inside_tls)
    for check in STREAM_CHECKS
    # A full pipe has one batch of ciphertext left over; the kernel finds room for that a moment later.
    if (make_pair, check) != (over_tcp, waits_for_either_direction)
]


@pytest.mark.parametrize(("make_pair", "check"), PAIRS)
async def test_it_keeps_the_promises_of_a_stream(world: World, make_pair: Callable[..., Any], check: Check) -> None:
    await check_one(check, make_pair, world.runtime())


class Served:
    """Python's own `SSLSocket` in a thread."""

    def __init__(self, sock: socket.socket, serve: Callable[[ssl.SSLSocket], None]) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(sock, serve))
        self._thread.start()

    def _run(self, sock: socket.socket, serve: Callable[[ssl.SSLSocket], None]) -> None:
        sock.settimeout(30)
        try:
            with SERVER.wrap_socket(sock, server_side=True) as secured:
                serve(secured)
        except OSError as error:
            self.error = error
        finally:
            sock.close()

    def join(self) -> None:
        self._thread.join()


def connecting_at(at: float) -> Any:
    return SimpleNamespace(deadline=SimpleNamespace(at=at))


async def test_a_large_transfer_both_ways(world: World) -> None:
    runtime = world.runtime()
    at = runtime.now() + 30
    lower, sock = await dialled(runtime)
    content = bytes(range(256)) * 20_000
    digests: list[bytes] = []

    def serve(peer: ssl.SSLSocket) -> None:
        received = b""
        while len(received) < len(content):
            received += peer.recv(65536)
        digests.append(sha256(received).digest())
        peer.sendall(received)
        peer.unwrap()

    peer = Served(sock, serve)
    try:
        stream = await TLSSecurer().secure(lower, route_to("https://peer.example", TRUSTING), connecting_at(at))
        try:
            assert stream.extra(PEER_ADDRESS) == lower.extra(PEER_ADDRESS) is not None
            assert await stream.send(content, at) == len(content)
            buffer = bytearray(100_000)
            received = bytearray()
            while size := await stream.receive_into(memoryview(buffer), at):
                received += buffer[:size]
            assert received == content
        finally:
            stream.close()
    finally:
        peer.join()
    assert digests == [sha256(content).digest()]
    assert peer.error is None


async def test_a_silent_peer_runs_out_of_time(world: World) -> None:
    runtime = world.runtime()
    lower, sock = await dialled(runtime)
    with sock:
        with pytest.raises(TimeoutError):
            at = runtime.now() + 0.01
            await TLSSecurer().secure(lower, route_to("https://peer.example", TRUSTING), connecting_at(at))
        lower.close()


async def test_a_peer_that_hangs_up(world: World) -> None:
    runtime = world.runtime()
    lower, sock = await dialled(runtime)
    sock.close()
    with pytest.raises(TLSError, match=r"peer\.example") as caught:
        at = runtime.now() + 10
        await TLSSecurer().secure(lower, route_to("https://peer.example", TRUSTING), connecting_at(at))
    assert caught.value.phase == "tls"
    lower.close()
