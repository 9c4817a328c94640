"""Small GETs against nginx: plugwire beside its peers, in turn in one process environment, as ratios.

    python tests/benchmarks/small_get.py [--seconds 0.7] [--rounds 5] [--only sequential]

Each round runs every client once, in turn, in a process of its own pinned to the last CPU; nginx has the first one. Read
the ratios, not the microseconds: those shift from machine to machine. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))


# -- what each client does; each returns microseconds of wall time for one request


def counted(seconds: float, once: Callable[[], Any]) -> float:
    for _ in range(200):
        once()
    count, begin = 0, time.perf_counter()
    end = begin + seconds
    while time.perf_counter() < end:
        for _ in range(50):
            once()
        count += 50
    return (time.perf_counter() - begin) / count * 1e6


def bare_socket(url: str, seconds: float) -> float:
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()

    def once() -> None:
        connection.sendall(request)
        connection.recv(65536)

    try:
        return counted(seconds, once)
    finally:
        connection.close()


def plugwire_sequential(url: str, seconds: float) -> float:
    import plugwire

    with plugwire.Session() as session:
        get = session.get

        def once() -> None:
            assert get(url).status_code == 200

        return counted(seconds, once)


def pycurl_sequential(url: str, seconds: float) -> float:
    import pycurl

    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)

    def once() -> None:
        body: list[bytes] = []
        head: list[bytes] = []
        curl.setopt(pycurl.WRITEFUNCTION, body.append)
        curl.setopt(pycurl.HEADERFUNCTION, head.append)
        curl.perform()
        assert curl.getinfo(pycurl.RESPONSE_CODE) == 200

    return counted(seconds, once)


def pyreqwest_sequential(url: str, seconds: float) -> float:
    from pyreqwest.client import SyncClientBuilder

    with SyncClientBuilder().build() as client:

        def once() -> None:
            response = client.get(url).build().send()
            assert response.status == 200
            response.bytes()

        return counted(seconds, once)


def http_client_sequential(url: str, seconds: float) -> float:
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)

    def once() -> None:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        response.read()
        assert response.status == 200

    try:
        return counted(seconds, once)
    finally:
        connection.close()


async def parallel(seconds: float, tasks: int, once: Callable[[], Any]) -> float:
    stop = time.perf_counter() + 0.2
    count = 0

    async def work() -> None:
        nonlocal count
        while time.perf_counter() < stop:
            await once()
            count += 1

    await asyncio.gather(*(work() for _ in range(tasks)))
    count, begin = 0, time.perf_counter()
    stop = begin + seconds
    await asyncio.gather(*(work() for _ in range(tasks)))
    return (time.perf_counter() - begin) / count * 1e6


def plugwire_asyncio(tasks: int) -> Callable[[str, float], float]:
    def run(url: str, seconds: float) -> float:
        import plugwire

        async def main() -> float:
            async with plugwire.AsyncSession(limits=plugwire.Limits(max_connections=2000, max_idle=2000)) as session:
                return await parallel(seconds, tasks, lambda: session.get(url))

        return asyncio.run(main())

    return run


def aiohttp_asyncio(tasks: int) -> Callable[[str, float], float]:
    def run(url: str, seconds: float) -> float:
        import aiohttp

        async def main() -> float:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2000)) as session:

                async def once() -> None:
                    async with session.get(url) as response:
                        await response.read()

                return await parallel(seconds, tasks, once)

        return asyncio.run(main())

    return run


def pyreqwest_asyncio(tasks: int) -> Callable[[str, float], float]:
    def run(url: str, seconds: float) -> float:
        from pyreqwest.client import ClientBuilder

        async def main() -> float:
            async with ClientBuilder().build() as client:

                async def once() -> None:
                    response = await client.get(url).build().send()
                    await response.bytes()

                return await parallel(seconds, tasks, once)

        return asyncio.run(main())

    return run


CASES: dict[str, dict[str, tuple[str | None, Callable[[str, float], float]]]] = {
    "sequential": {
        "bare socket": (None, bare_socket),
        "plugwire": (None, plugwire_sequential),
        "pycurl": ("pycurl", pycurl_sequential),
        "pyreqwest": ("pyreqwest", pyreqwest_sequential),
        "http.client": (None, http_client_sequential),
    },
    "asyncio x1": {
        "plugwire": (None, plugwire_asyncio(1)),
        "aiohttp": ("aiohttp", aiohttp_asyncio(1)),
        "pyreqwest": ("pyreqwest", pyreqwest_asyncio(1)),
    },
    "asyncio x100": {
        "plugwire": (None, plugwire_asyncio(100)),
        "aiohttp": ("aiohttp", aiohttp_asyncio(100)),
        "pyreqwest": ("pyreqwest", pyreqwest_asyncio(100)),
    },
}


class Awake:
    """Busy loops of the lowest priority on every CPU: an idle virtual CPU takes 20 to 30 us to wake, and differences
    drown in that."""

    def __enter__(self) -> None:
        code = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
        self._loops = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                preexec_fn=lambda cpu=cpu: os.sched_setaffinity(0, {cpu}),  # noqa: PLW1509  (no threads yet)
            )
            for cpu in sorted(os.sched_getaffinity(0))
        ]

    def __exit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.kill()
            loop.wait()


def measure(case: str, client: str, url: str, seconds: float, cpu: int) -> float:
    command = [sys.executable, __file__, "--one", case, client, url, str(seconds)]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {cpu})  # noqa: PLW1509
    )
    if done.returncode:
        raise SystemExit(f"{client}: {done.stderr}")
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=sorted(CASES))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case, client, url, seconds = arguments.one
        print(CASES[case][client][1](url, float(seconds)))
        return
    from peers.certificates import make_authority
    from peers.nginx import nginx

    cpus = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        os.sched_setaffinity(0, {cpus[0]})  # nginx inherits it
        with nginx(make_authority(Path(directory))) as server:
            os.sched_setaffinity(0, set(cpus))
            with Awake():
                for case in arguments.only or CASES:
                    run_case(case, f"{server.url}/small", arguments.rounds, arguments.seconds, cpus[-1])


def run_case(case: str, url: str, rounds: int, seconds: float, cpu: int) -> None:
    clients = [name for name, (module, _) in CASES[case].items() if module is None or importlib.util.find_spec(module)]
    figures: dict[str, list[float]] = {client: [] for client in clients}
    for _ in range(rounds):
        for client in clients:
            figures[client].append(measure(case, client, url, seconds, cpu))
    ours = statistics.median(figures["plugwire"])
    print(f"\n{case}: us per small GET, median of {rounds} (least, most); plugwire's ratio to it")
    for client in clients:
        values = figures[client]
        middle = statistics.median(values)
        print(f"  {client:12} {middle:8.1f} ({min(values):.1f}, {max(values):.1f})   {ours / middle:5.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
