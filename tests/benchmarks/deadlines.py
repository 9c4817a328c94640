"""How exactly `timeout=0.3` is kept on a real clock, in each world and in each phase.

    python tests/benchmarks/deadlines.py [--runs 5] [--seconds 0.3]

Each call must end with TotalTimeout. Printed is by how many milliseconds too late (median, most); the goal is 100 ms or
10 %, whichever is more. Never too early: a negative figure is a fault as well.

==================  =================================================================================
pool wait           the only connection that the limits allow is taken
resolver            getaddrinfo does not return
dial                the listener's queue is full, so nobody answers the SYN
three addresses     the same, of a host that has three of them
TLS handshake       the peer accepts and never says a word
head                the same, without TLS
trickling body      5 bytes a second: each read makes progress, the whole does not
upload              the peer does not read
endless upload      the peer reads all of a content that does not end
redirects           the peer redirects to itself, 20 times a second
redirect's target   the peer redirects, at once, to one that accepts and never says a word
h2 no SETTINGS      HTTP/2 to a peer that says nothing
h2 follower         the same, while another call waits on the same connection, and reads for both
h2 others' frames   5 DATA frames a second, of another stream
h2 trickling body   5 DATA frames of one byte a second
h2 no window        an upload that gets no WINDOW_UPDATE
h2 endless upload   an upload that gets them all
h2 pool wait        the only stream that the peer allows is taken
==================  =================================================================================
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import plugwire
from plugwire.protocols import EVERYTHING, Address, Connecting, Route
from worlds import KINDS, World

Case = Callable[[World, float], Awaitable[float]]


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """The port of a peer whose system accepts connections, and that says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def full() -> Iterator[int]:
    """The port of a listener whose queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(("127.0.0.1", port))
            except TimeoutError:
                break
        yield port


Talk = Callable[[socket.socket, threading.Event], None]
"""What a peer does with a connection, until it is over."""


def talking(talk: Talk) -> Callable[[], contextlib.AbstractContextManager[int]]:
    """Peers that do so; entered, the port of one."""

    @contextlib.contextmanager
    def peer() -> Iterator[int]:
        is_over = threading.Event()

        def serve(sock: socket.socket) -> None:
            with contextlib.suppress(OSError), sock:
                talk(sock, is_over)

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    break
                sockets.append(sock)
                talkers.append(threading.Thread(target=serve, args=(sock,)))
                talkers[-1].start()

        talkers: list[threading.Thread] = []
        sockets: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
            acceptor = threading.Thread(target=accept)
            acceptor.start()
            try:
                yield listener.getsockname()[1]
            finally:
                is_over.set()
                listener.shutdown(socket.SHUT_RDWR)
                acceptor.join()
                for sock in sockets:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
                for thread in talkers:
                    thread.join()

    return peer


def says(first: bytes, then: bytes = b"", pause: float = 0.2) -> Talk:
    """`first` as soon as something comes, and then a piece each `pause` seconds; reads no more."""

    def talk(sock: socket.socket, is_over: threading.Event) -> None:
        sock.recv(65536)
        sock.sendall(first)
        while not is_over.wait(pause):
            sock.sendall(then)

    return talk


def reads(first: bytes, then: Callable[[int], bytes] | None = None) -> Talk:
    """Reads all that comes; what `then` makes of its size goes back."""

    def talk(sock: socket.socket, is_over: threading.Event) -> None:
        sock.sendall(first)
        while size := len(sock.recv(1 << 20)):
            if then is not None:
                sock.sendall(then(size))

    return talk


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def windows(size: int) -> bytes:
    return b"".join(frame(8, 0, stream, size.to_bytes(4, "big")) for stream in (0, 1))


def redirects(location: str, pause: float = 0.05) -> Talk:
    """Answers every request so, after `pause` seconds."""

    def talk(sock: socket.socket, is_over: threading.Event) -> None:
        while sock.recv(65536) and not is_over.wait(pause):
            sock.sendall(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    return talk


SETTINGS = frame(4, 0, 0)
ONE_STREAM = frame(4, 0, 0, b"\0\3\0\0\0\1")
HEAD = frame(1, 4, 1, b"\x88")
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"

trickling = talking(says(LENGTH, b"x"))


async def late(ask: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """Milliseconds between the deadline and the error."""
    begin = time.perf_counter()
    try:
        await ask()
    except plugwire.TotalTimeout:
        return (time.perf_counter() - begin - seconds) * 1000
    raise SystemExit("the call came to an end")


def session_of(world: World, h2: bool, **options: Any) -> Any:
    return world.session(http_versions=("h2",) if h2 else ("http/1.1",), **options)


Peer = Callable[[], contextlib.AbstractContextManager[int]]


def simple(peer: Peer, scheme: str = "http", h2: bool = False, **options: Any) -> Case:
    async def case(world: World, seconds: float) -> float:
        method = "PUT" if "content" in options else "GET"
        with peer() as port:
            async with session_of(world, h2) as session:
                url = f"{scheme}://127.0.0.1:{port}/"
                return await late(lambda: session.request(method, url, timeout=seconds, **options), seconds)

    return case


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(16384)


def upload(peer: Peer, h2: bool = False) -> Case:
    async def case(world: World, seconds: float) -> float:
        return await simple(peer, h2=h2, content=endless())(world, seconds)

    return case


def beside(peer: Peer, h2: bool, **limits: Any) -> Case:
    """While another response is open, and not read."""

    async def case(world: World, seconds: float) -> float:
        with peer() as port:
            url = f"http://127.0.0.1:{port}/"
            session = session_of(world, h2, limits=plugwire.Limits(**limits))
            async with session, session.stream("GET", url):
                return await late(lambda: session.get(url, timeout=seconds), seconds)

    return case


async def follower(world: World, seconds: float) -> float:
    with talking(says(SETTINGS))() as port:
        url = f"http://127.0.0.1:{port}/"
        async with session_of(world, True) as session:
            leader = world.in_background(session.get, url)
            await world.settle()
            try:
                return await late(lambda: session.get(url, timeout=seconds), seconds)
            finally:
                leader.cancel()
                await leader.outcome()


async def hanging_resolver(world: World, seconds: float) -> float:
    is_over = threading.Event()

    def getaddrinfo(*args: Any, **options: Any) -> Any:
        is_over.wait()
        raise OSError("too late")

    with patch("socket.getaddrinfo", getaddrinfo):
        async with world.session() as session:
            try:
                return await late(lambda: session.get("http://hangs.example/", timeout=seconds), seconds)
            finally:
                is_over.set()


async def target(world: World, seconds: float) -> float:
    with silent() as port:
        return await simple(talking(redirects(f"http://127.0.0.1:{port}/", 0)))(world, seconds)


class Three:
    """A resolver: every host has three addresses."""

    name = "three"
    honours = frozenset({EVERYTHING})

    def refuse(self, route: Route) -> None:
        return None

    async def resolve(self, host: str, port: int, connecting: Connecting) -> list[Address]:
        return [Address(socket.AF_INET, "127.0.0.1", port)] * 3


async def three_addresses(world: World, seconds: float) -> float:
    with full() as port:
        async with world.session(transports=[Three()]) as session:
            return await late(lambda: session.get(f"http://three.example:{port}/", timeout=seconds), seconds)


CASES: dict[str, Case] = {
    "pool wait": beside(trickling, False, max_connections=1),
    "resolver": hanging_resolver,
    "dial": simple(full),
    "three addresses": three_addresses,
    "TLS handshake": simple(silent, "https"),
    "head": simple(silent),
    "trickling body": simple(trickling),
    "upload": simple(silent, content=bytes(64 << 20)),
    "endless upload": upload(talking(reads(b""))),
    "redirects": simple(talking(redirects("/")), max_redirects=1_000_000),
    "redirect's target": target,
    "h2 no SETTINGS": simple(silent, h2=True),
    "h2 follower": follower,
    "h2 others' frames": beside(talking(says(SETTINGS + HEAD, frame(0, 0, 1, b"x"))), True),
    "h2 trickling body": simple(talking(says(SETTINGS + HEAD, frame(0, 0, 1, b"x"))), h2=True),
    "h2 no window": simple(talking(reads(SETTINGS)), h2=True, content=bytes(1 << 20)),
    "h2 endless upload": upload(talking(reads(SETTINGS, windows)), h2=True),
    "h2 pool wait": beside(talking(says(ONE_STREAM + HEAD)), True, max_connections=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3)
    arguments = parser.parse_args()
    seconds: float = arguments.seconds
    goal = max(100.0, seconds * 100)
    print(f"timeout={seconds:g}: ms too late, median (most) of {arguments.runs}; goal below {goal:g}")
    print(f"  {'':18}" + "".join(f"{name:>18}" for name in KINDS))
    is_kept = True
    for name, case in CASES.items():
        cells = []
        for kind in KINDS.values():
            found = [kind().run(case, kind(), seconds) for _ in range(arguments.runs)]
            cells.append(f"{statistics.median(found):.1f} ({max(found):.1f})")
            is_kept = is_kept and max(found) < goal and min(found) >= 0
        print(f"  {name:18}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    if not is_kept:
        raise SystemExit("the goal is MISSED")


if __name__ == "__main__":
    main()
