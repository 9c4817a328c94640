"""How exactly `timeout=0.3` is kept on a real clock, in each world and in each phase.

    python tests/benchmarks/deadlines.py [--runs 5] [--seconds 0.3]

Each call must end with TotalTimeout. Printed is by how many milliseconds too late (median, most); the goal is 100 ms or
10 %, whichever is more. Never too early: a negative figure is a fault as well.

===============  ====================================================================================
pool wait        the only connection that the limits allow is taken
dial             the listener's queue is full, so nobody answers the SYN
TLS handshake    the peer accepts and never says a word
head             the same, without TLS
trickling body   5 bytes a second: each read makes progress, the whole does not
upload           the peer does not read
===============  ====================================================================================
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import plugwire
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


@contextlib.contextmanager
def trickling() -> Iterator[int]:
    """The port of a peer that sends a head at once, and then 5 bytes of body a second."""
    is_over = threading.Event()

    def talk(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not is_over.wait(0.2):
                sock.sendall(b"x")

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                break
            talkers.append(threading.Thread(target=talk, args=(sock,)))
            talkers[-1].start()

    talkers: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            is_over.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (acceptor, *talkers):
                thread.join()


async def late(ask: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """Milliseconds between the deadline and the error."""
    begin = time.perf_counter()
    try:
        await ask()
    except plugwire.TotalTimeout:
        return (time.perf_counter() - begin - seconds) * 1000
    raise SystemExit("the call came to an end")


def simple(peer: Callable[[], contextlib.AbstractContextManager[int]], scheme: str = "http", **options: Any) -> Case:
    async def case(world: World, seconds: float) -> float:
        method = "PUT" if options else "GET"
        with peer() as port:
            async with world.session() as session:
                url = f"{scheme}://127.0.0.1:{port}/"
                return await late(lambda: session.request(method, url, timeout=seconds, **options), seconds)

    return case


async def pool_wait(world: World, seconds: float) -> float:
    with trickling() as port:
        url = f"http://127.0.0.1:{port}/"
        session = world.session(limits=plugwire.Limits(max_connections=1))
        async with session, session.stream("GET", url):
            return await late(lambda: session.get(url, timeout=seconds), seconds)


CASES: dict[str, Case] = {
    "pool wait": pool_wait,
    "dial": simple(full),
    "TLS handshake": simple(silent, "https"),
    "head": simple(silent),
    "trickling body": simple(trickling),
    "upload": simple(silent, content=bytes(64 << 20)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3)
    arguments = parser.parse_args()
    seconds: float = arguments.seconds
    goal = max(100.0, seconds * 100)
    print(f"timeout={seconds:g}: ms too late, median (most) of {arguments.runs}; goal below {goal:g}")
    print(f"  {'':16}" + "".join(f"{name:>18}" for name in KINDS))
    is_kept = True
    for name, case in CASES.items():
        cells = []
        for kind in KINDS.values():
            found = [kind().run(case, kind(), seconds) for _ in range(arguments.runs)]
            cells.append(f"{statistics.median(found):.1f} ({max(found):.1f})")
            is_kept = is_kept and max(found) < goal and min(found) >= 0
        print(f"  {name:16}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    if not is_kept:
        raise SystemExit("the goal is MISSED")


if __name__ == "__main__":
    main()
