"""TLS in every world: the promises of a stream, over memory and sockets, and Python's own server at the other end."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from hashlib import sha256
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

import pytest

from plugwire import TLSConfig, TLSError
from plugwire.protocols import PEER_ADDRESS, Address, TLSInfo
from plugwire.testing.conformance import (
    STREAM_CHECKS,
    check_one,
    runs_out_of_time_while_sending,
    waits_for_either_direction,
)
from plugwire.testing.memory import memory_streams
from plugwire_transports.tls import TLSSecurer
from plugwire_transports.tls_context import context_for
from plugwire_transports.tls_stream import TLSStream
from tls_peer import CA_PEM, LEAF, route_to, server_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    if make_pair is not over_tcp or check not in (runs_out_of_time_while_sending, waits_for_either_direction)
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


def said(output: IO[bytes], what: bytes) -> bytes:
    """The first line that has this in it."""
    lines: list[bytes] = []
    while what not in (line := output.readline()):
        lines.append(line)
        assert line, f"it has ended without a word of {what!r}: {lines}"
    return line


async def test_a_renegotiation_in_a_callers_own_context(world: World, tmp_path: Path) -> None:
    """The peer asks for it in TLS 1.2: then a write cannot go on before something was read. Our contexts refuse it."""
    pem = tmp_path / "peer.pem"
    pem.write_bytes(LEAF.private_key_and_cert_chain_pem.bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CA_PEM)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-tls1_2", "-cert", str(pem)]
    runtime = world.runtime()
    at = runtime.now() + 20
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # noqa: ASYNC220
        assert process.stdin is not None and process.stdout is not None
        try:
            port = int(said(process.stdout, b"ACCEPT 127.0.0.1:").rpartition(b":")[2])
            lower = await runtime.dial_tcp([Address(socket.AF_INET, "127.0.0.1", port)], at)
            route = route_to("https://peer.example", TLSConfig(context=context))
            stream = await TLSSecurer().secure(lower, route, connecting_at(at))
            process.stdin.write(b"r\n")
            process.stdin.flush()
            await lower.wait(True, False, at)
            assert stream.read_now(10) is None  # HelloRequest: answered, and the new handshake begins
            await stream.send(b"while it goes on\n", at)
            process.stdin.write(b"done\n")
            process.stdin.flush()
            assert await stream.receive(100, at) == b"done\n"
            said(process.stdout, b"while it goes on")
            stream.close()
        finally:
            process.kill()
