"""Small GETs against nginx: plugwire beside its peers, in turn in one process environment, as ratios.

    python tests/benchmarks/small_get.py [--seconds 0.5] [--rounds 3] [--only sequential] [--before PYTHON]

With --before, the interpreter of an environment that has another plugwire installed (an older checkout, by `pip install
-e`), that one takes its turn too, in every case, as "before".

Each round runs every client once, in turn, in a process of its own pinned to the last CPU; nginx has the first one.
Read the ratios, not the microseconds: those shift from machine to machine. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from turns import SERVER_CPU, Awake, OnCPU, in_process, in_turn, installed, print_ratios  # noqa: E402

AUTHORITY = "BENCHMARK_AUTHORITY"
"""The environment variable with the path of the servers' CA certificate."""


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


def in_threads(seconds: float, make: Callable[[], Callable[[], Any]], threads: int = 8) -> float:
    """Each thread has what `make` gives."""
    counts = [0] * threads
    marks: list[float] = []
    barrier = threading.Barrier(threads, action=lambda: marks.append(time.perf_counter()))

    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            once = make()
            for _ in range(50):
                once()
            barrier.wait()
            stop = marks[0] + seconds
            while time.perf_counter() < stop:
                once()
                counts[number] += 1
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return (time.perf_counter() - marks[0]) / sum(counts) * 1e6


def bare_socket(url: str, seconds: float) -> float:
    import socket
    import ssl
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=os.environ[AUTHORITY])
        connection = context.wrap_socket(connection, server_hostname=parts.hostname)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()

    def once() -> None:
        connection.sendall(request)
        connection.recv(65536)

    try:
        return counted(seconds, once)
    finally:
        connection.close()


def session_options() -> dict[str, Any]:
    import plugwire

    return {
        "tls": plugwire.TLSConfig(ca_file=os.environ[AUTHORITY]),
        "limits": plugwire.Limits(max_connections=2000, max_idle=2000),
    }


def plugwire_sequential(url: str, seconds: float, **options: Any) -> float:
    import plugwire

    with plugwire.Session(**session_options(), **options) as session:
        get = session.get

        def once() -> None:
            assert get(url).status_code == 200

        return counted(seconds, once)


def plugwire_with_layers(number: int) -> Callable[[str, float], float]:
    def copy() -> Any:  # the same object twice is refused
        async def own(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        return own

    return lambda url, seconds: plugwire_sequential(url, seconds, plugins=[copy() for _ in range(number)])


def plugwire_new_connection(url: str, seconds: float) -> float:
    import plugwire

    with plugwire.Session(**session_options(), headers={"connection": "close"}) as session:
        return counted(seconds, lambda: session.get(url))


def plugwire_threads(url: str, seconds: float) -> float:
    import plugwire

    with plugwire.Session(**session_options()) as session:
        return in_threads(seconds, lambda: lambda: session.get(url))


def make_pycurl(url: str, *, fresh: bool = False) -> Callable[[], Any]:
    import pycurl

    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.CAINFO, os.environ[AUTHORITY])
    if fresh:  # the server closes, as with the other clients: who closes first has more to do
        curl.setopt(pycurl.HTTPHEADER, ["Connection: close"])

    def once() -> None:
        body: list[bytes] = []
        head: list[bytes] = []
        curl.setopt(pycurl.WRITEFUNCTION, body.append)
        curl.setopt(pycurl.HEADERFUNCTION, head.append)
        curl.perform()
        assert curl.getinfo(pycurl.RESPONSE_CODE) == 200

    return once


def pycurl_sequential(url: str, seconds: float) -> float:
    return counted(seconds, make_pycurl(url))


def pycurl_new_connection(url: str, seconds: float) -> float:
    return counted(seconds, make_pycurl(url, fresh=True))


def pycurl_threads(url: str, seconds: float) -> float:
    return in_threads(seconds, lambda: make_pycurl(url))


def with_pyreqwest(url: str, seconds: float, measure: Callable[..., float], *, shared: bool, **headers: str) -> float:
    from pyreqwest.client import SyncClientBuilder

    builder = SyncClientBuilder().default_headers(headers)
    with builder.add_root_certificate_pem(Path(os.environ[AUTHORITY]).read_bytes()).build() as client:

        def once() -> None:
            response = client.get(url).build().send()
            assert response.status == 200
            response.bytes()

        return measure(seconds, (lambda: once) if shared else once)


def pyreqwest_sequential(url: str, seconds: float) -> float:
    return with_pyreqwest(url, seconds, counted, shared=False)


def pyreqwest_new_connection(url: str, seconds: float) -> float:
    return with_pyreqwest(url, seconds, counted, shared=False, connection="close")


def pyreqwest_threads(url: str, seconds: float) -> float:
    return with_pyreqwest(url, seconds, in_threads, shared=True)


def http_client_sequential(url: str, seconds: float) -> float:
    import http.client
    import ssl
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=os.environ[AUTHORITY])
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(parts.netloc, context=context)
    else:
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


def urllib3_sequential(url: str, seconds: float) -> float:
    import urllib3  # type: ignore[import-not-found]  # measured only where it is installed

    with urllib3.PoolManager(ca_certs=os.environ[AUTHORITY]) as pool:
        return counted(seconds, lambda: pool.request("GET", url))


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
            async with plugwire.AsyncSession(**session_options()) as session:
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


SEQUENTIAL: dict[str, tuple[str | None, Callable[[str, float], float]]] = {
    "bare socket": (None, bare_socket),
    "plugwire": (None, plugwire_sequential),
    "pycurl": ("pycurl", pycurl_sequential),
    "pyreqwest": ("pyreqwest", pyreqwest_sequential),
    "http.client": (None, http_client_sequential),
    "urllib3": ("urllib3", urllib3_sequential),
}
CASES: dict[str, dict[str, tuple[str | None, Callable[[str, float], float]]]] = {
    "sequential": SEQUENTIAL,
    "TLS": SEQUENTIAL,
    "8 threads": {
        "plugwire": (None, plugwire_threads),
        "pycurl": ("pycurl", pycurl_threads),
        "pyreqwest": ("pyreqwest", pyreqwest_threads),
    },
    "new connection": {
        "plugwire": (None, plugwire_new_connection),
        "pycurl": ("pycurl", pycurl_new_connection),
        "pyreqwest": ("pyreqwest", pyreqwest_new_connection),
    },
    "layers": {
        "plugwire": (None, plugwire_sequential),
        "1 no-op plugin": (None, plugwire_with_layers(1)),
        "10 no-op plugins": (None, plugwire_with_layers(10)),
    },
    **{
        f"asyncio x{tasks}": {
            "plugwire": (None, plugwire_asyncio(tasks)),
            "aiohttp": ("aiohttp", aiohttp_asyncio(tasks)),
            "pyreqwest": ("pyreqwest", pyreqwest_asyncio(tasks)),
        }
        for tasks in (1, 100)
    },
}


BEFORE = "before"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=sorted(CASES))
    parser.add_argument("--before", metavar="PYTHON", help="the interpreter that has another plugwire")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case, client, url, seconds = arguments.one
        print(CASES[case][client][1](url, float(seconds)), flush=True)
        os._exit(0)  # with its figure told: pyreqwest 0.15 at times crashes in the interpreter's own end
    from peers.certificates import make_authority
    from peers.nginx import nginx

    with tempfile.TemporaryDirectory() as directory:
        authority = make_authority(Path(directory))
        os.environ[AUTHORITY] = str(authority.cert_pem)
        with OnCPU(SERVER_CPU), nginx(authority) as server, Awake():
            for case in arguments.only or CASES:
                url = f"{server.tls_url if case == 'TLS' else server.url}/small"

                def once(client: str, case: str = case, url: str = url) -> float:
                    python = arguments.before if client == BEFORE else sys.executable
                    name = "plugwire" if client == BEFORE else client
                    one = ("--one", case, name, url, str(arguments.seconds))
                    return float(in_process(__file__, *one, python=python))

                clients = installed(CASES[case])
                if arguments.before:
                    clients.insert(clients.index("plugwire") + 1, BEFORE)
                print_ratios(f"{case}, us per small GET", in_turn(clients, arguments.rounds, once))


if __name__ == "__main__":
    main()
