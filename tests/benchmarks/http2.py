"""HTTP/2 over TLS against nginx: plugwire beside its peers, in turn in one run, as ratios.

    python tests/benchmarks/http2.py [--seconds 0.5] [--rounds 3] [--only sequential]

As in `small_get.py`, each round runs every client once, in turn, in a process of its own pinned to the last CPU; nginx
has the first one. Read the ratios, not the microseconds.

Warm: the same small GET again and again, so that caches, memos and header tables hold what they can. Cold: each request
has a path and three fields that were never sent before, each response six that were never seen. `8 threads` share one
client, and by HTTP/2 one connection (pycurl cannot: it has a connection for each thread). `bulk` reads 64 MiB.

The bare loops are what a competent user of the h2 package writes: one connection, wide windows, reads of 64 KiB, memory
BIOs drained in one go, one write for all that became ready together.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from small_get import AUTHORITY, TESTS, counted, in_threads, parallel
from turns import SERVER_CPU, Awake, OnCPU, in_process, in_turn, installed, print_ratios

MIB = 1 << 20
BULK = 64 * MIB
BUFFER = 256 * 1024
WINDOW = (1 << 31) - 1


# -- what is asked


class Ask(NamedTuple):
    """One GET."""

    url: str
    headers: Mapping[str, str] | None


def warm(url: str) -> Callable[[], Ask]:
    ask = Ask(url, None)
    return lambda: ask


def cold(url: str) -> Callable[[], Ask]:
    """Every string is new."""
    numbers = itertools.count(1)

    def ask() -> Ask:
        mark = f"{next(numbers) * 0x9E3779B97F4A7C15F39CC0605CEDC835 & (1 << 128) - 1:032x}"
        headers = {"x-request-id": mark, "traceparent": f"00-{mark}-01", "cookie": f"session={mark}"}
        return Ask(f"{url}?{mark}", headers)

    return ask


class Spent(NamedTuple):
    """Microseconds for a request or a MiB. What the client's process computes hardly changes on a machine with other
    work to do, unlike the wall time."""

    wall: float
    cpu: float


class Metered:
    """Looks at the CPU time of the process with every fiftieth request that is asked for."""

    def __init__(self, asks: Callable[[], Ask]) -> None:
        self._asks = asks
        self._numbers = itertools.count()
        self._marks: list[float] = []

    def __call__(self) -> Ask:
        if not next(self._numbers) % 50:
            self._marks.append(time.process_time())
        return self._asks()

    def cpu(self) -> float:
        """For one request, the first 100 left out."""
        marks = self._marks[2:]
        return (marks[-1] - marks[0]) / (len(marks) - 1) / 50 * 1e6


def moved(seconds: float, once: Callable[[], int]) -> Spent:
    once()
    size, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        size += once()
    mib = size / MIB
    return Spent((time.perf_counter() - wall) / mib * 1e6, (time.process_time() - cpu) / mib * 1e6)


def tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=os.environ[AUTHORITY])
    context.set_alpn_protocols(["h2"])
    return context


# -- the bare loop, blocking


def new_h2() -> Any:
    import h2.config
    import h2.connection
    import h2.settings

    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    codes = h2.settings.SettingCodes
    values = {codes.ENABLE_PUSH: 0, codes.INITIAL_WINDOW_SIZE: WINDOW}
    # What is assigned to single settings counts only when it has been acknowledged, and is not in the first SETTINGS.
    connection.local_settings = h2.settings.Settings(client=True, initial_values=values)
    connection.initiate_connection()
    connection.increment_flow_control_window(WINDOW - 65535)
    return connection


def head_of(ask: Ask, authority: str) -> list[tuple[str, str]]:
    path = ask.url.partition(authority)[2]
    head = [(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", path)]
    head += [("user-agent", "bare"), ("accept", "*/*")]
    return head if ask.headers is None else [*head, *ask.headers.items()]


class BareLoop:
    """One request after the other on a socket."""

    def __init__(self, url: str) -> None:
        import h2.events

        self._events = h2.events
        parts = urlsplit(url)
        self.authority = parts.netloc
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls_context().wrap_bio(self._incoming, self._outgoing, server_hostname=parts.hostname)
        self._buffer = memoryview(bytearray(65536))
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
        self._h2 = new_h2()
        self._send()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())

    def _receive(self) -> None:
        size = self._socket.recv_into(self._buffer)
        if not size:
            raise ConnectionError("closed")
        self._incoming.write(self._buffer[:size])

    def _send(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._tls.write(data)
            self._flush()

    def get(self, ask: Ask) -> int:
        """The size of the content."""
        connection, events = self._h2, self._events
        stream_id = connection.get_next_available_stream_id()
        connection.send_headers(stream_id, head_of(ask, self.authority), end_stream=True)
        self._send()
        size = given = 0
        status = b""
        while True:
            self._receive()
            pieces = []
            try:
                while True:
                    pieces.append(self._tls.read(65536))
            except ssl.SSLWantReadError:
                pass
            for event in connection.receive_data(b"".join(pieces)):
                if type(event) is events.DataReceived:
                    size += len(event.data)
                elif type(event) is events.ResponseReceived:
                    status = event.headers[0][1]
                elif type(event) is events.StreamEnded:
                    assert status == b"200"
                    connection.increment_flow_control_window(max(size - given, 1))
                    self._send()
                    return size
            if size - given > WINDOW // 2:
                connection.increment_flow_control_window(size - given)
                connection.increment_flow_control_window(size - given, stream_id)
                given = size
            self._send()

    def close(self) -> None:
        self._socket.close()


def bare_sequential(asks: Callable[[], Ask], seconds: float) -> float:
    loop = BareLoop(asks().url)
    try:
        return counted(seconds, lambda: loop.get(asks()))
    finally:
        loop.close()


def bare_bulk(url: str, seconds: float) -> Spent:
    loop = BareLoop(url)
    try:
        return moved(seconds, lambda: loop.get(Ask(url, None)))
    finally:
        loop.close()


# -- the bare loop, asyncio


class BareProtocol(asyncio.Protocol):
    """All requests on one connection; what became ready in one turn of the loop goes out in one write."""

    def __init__(self, authority: str) -> None:
        import h2.events

        self._events = h2.events
        self._authority = authority
        self._h2 = new_h2()
        self._answers: dict[int, tuple[asyncio.Future[bytes], list[bytes]]] = {}
        self._is_scheduled = False
        self._given = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._flush()

    def _flush(self) -> None:
        self._is_scheduled = False
        if data := self._h2.data_to_send():
            self._transport.write(data)

    def _soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    async def get(self, ask: Ask) -> bytes:
        connection = self._h2
        stream_id = connection.get_next_available_stream_id()
        connection.send_headers(stream_id, head_of(ask, self._authority), end_stream=True)
        self._soon()
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answers[stream_id] = answer, []
        return await answer

    def data_received(self, data: bytes) -> None:
        events, answers = self._events, self._answers
        for event in self._h2.receive_data(data):
            if type(event) is events.DataReceived:
                answers[event.stream_id][1].append(event.data)
                self._given += event.flow_controlled_length
            elif type(event) is events.ResponseReceived:
                assert event.headers[0][1] == b"200"
            elif type(event) is events.StreamEnded:
                answer, pieces = answers.pop(event.stream_id)
                if not answer.done():
                    answer.set_result(b"".join(pieces))
        if self._given > WINDOW // 2:
            self._h2.increment_flow_control_window(self._given)
            self._given = 0
        self._soon()


def bare_asyncio(asks: Callable[[], Ask], seconds: float) -> float:
    async def main() -> float:
        parts = urlsplit(asks().url)
        transport, protocol = await asyncio.get_running_loop().create_connection(
            lambda: BareProtocol(parts.netloc), parts.hostname, parts.port, ssl=tls_context()
        )
        try:
            return await parallel(seconds, 100, lambda: protocol.get(asks()))
        finally:
            transport.abort()

    return asyncio.run(main())


# -- plugwire


def session_options() -> dict[str, Any]:
    import plugwire

    return {"tls": plugwire.TLSConfig(ca_file=os.environ[AUTHORITY]), "http_versions": ("h2",)}


def with_plugwire(measure: Callable[..., float], is_shared: bool, asks: Callable[[], Ask], seconds: float) -> float:
    import plugwire

    with plugwire.Session(**session_options()) as session:
        get = session.get

        def once() -> None:
            url, headers = asks()
            response = get(url) if headers is None else get(url, headers=headers)
            assert response.status_code == 200

        once()  # where the first takes long, one more connection would keep it company
        found = measure(seconds, (lambda: once) if is_shared else once)
        assert session.stats().open == 1
        return found


def plugwire_asyncio(asks: Callable[[], Ask], seconds: float) -> float:
    import plugwire

    async def main() -> float:
        async with plugwire.AsyncSession(**session_options()) as session:

            async def once() -> None:
                url, headers = asks()
                response = await (session.get(url) if headers is None else session.get(url, headers=headers))
                assert response.status_code == 200

            await once()
            found = await parallel(seconds, 100, once)
            assert session.stats().open == 1
            return found

    return asyncio.run(main())


def plugwire_bulk(url: str, seconds: float) -> Spent:
    import plugwire

    buffer = bytearray(BUFFER)
    with plugwire.Session(**session_options()) as session:

        def once() -> int:
            done = 0
            with session.stream("GET", url) as response:
                while size := response.readinto(buffer):
                    done += size
            return done

        return moved(seconds, once)


# -- pycurl


def new_curl(multi: Any = None) -> Any:
    import pycurl

    curl = pycurl.Curl()
    curl.setopt(pycurl.CAINFO, os.environ[AUTHORITY])
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_0)
    if multi is not None:
        curl.setopt(pycurl.PIPEWAIT, 1)
    return curl


def prepared(curl: Any, ask: Ask) -> None:
    import pycurl

    body: list[bytes] = []
    head: list[bytes] = []
    curl.setopt(pycurl.URL, ask.url)
    if ask.headers is not None:
        curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in ask.headers.items()])
    curl.setopt(pycurl.WRITEFUNCTION, body.append)
    curl.setopt(pycurl.HEADERFUNCTION, head.append)


def check_curl(curl: Any) -> None:
    import pycurl

    assert curl.getinfo(pycurl.RESPONSE_CODE) == 200
    assert curl.getinfo(pycurl.INFO_HTTP_VERSION) == pycurl.CURL_HTTP_VERSION_2_0


def curl_once(asks: Callable[[], Ask]) -> Callable[[], None]:
    curl = new_curl()

    def once() -> None:
        prepared(curl, asks())
        curl.perform()
        check_curl(curl)

    return once


def pycurl_sequential(asks: Callable[[], Ask], seconds: float) -> float:
    return counted(seconds, curl_once(asks))


def pycurl_threads(asks: Callable[[], Ask], seconds: float) -> float:
    return in_threads(seconds, lambda: curl_once(asks))


def pycurl_multi(asks: Callable[[], Ask], seconds: float) -> float:
    import pycurl

    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
    multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, 1)
    handles = [new_curl(multi) for _ in range(100)]

    def run(stop: float) -> int:
        for curl in handles:
            prepared(curl, asks())
            multi.add_handle(curl)
        active, count = len(handles), 0
        while active:
            multi.perform()
            done, failed = multi.info_read()[1:]
            assert not failed, failed
            is_over = time.perf_counter() >= stop
            for curl in done:
                count += 1
                check_curl(curl)
                multi.remove_handle(curl)
                if is_over:
                    active -= 1
                else:
                    prepared(curl, asks())
                    multi.add_handle(curl)
            if not done and active:
                multi.select(1.0)
        return count

    run(time.perf_counter() + 0.2)
    begin = time.perf_counter()
    count = run(begin + seconds)
    return (time.perf_counter() - begin) / count * 1e6


def pycurl_bulk(url: str, seconds: float) -> Spent:
    import pycurl

    curl = new_curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.BUFFERSIZE, BUFFER)
    done = 0

    def write(data: bytes) -> None:
        nonlocal done
        done += len(data)

    curl.setopt(pycurl.WRITEFUNCTION, write)

    def once() -> int:
        nonlocal done
        done = 0
        curl.perform()
        check_curl(curl)
        return done

    return moved(seconds, once)


# -- pyreqwest


def set_up(builder: Any) -> Any:
    return builder.http2(True).add_root_certificate_pem(Path(os.environ[AUTHORITY]).read_bytes())


def with_pyreqwest(measure: Callable[..., float], is_shared: bool, asks: Callable[[], Ask], seconds: float) -> float:
    from pyreqwest.client import SyncClientBuilder

    with set_up(SyncClientBuilder()).build() as client:

        def once() -> None:
            url, headers = asks()
            request = client.get(url)
            response = (request if headers is None else request.headers(headers)).build().send()
            assert (response.status, response.version) == (200, "HTTP/2.0")
            response.bytes()

        return measure(seconds, (lambda: once) if is_shared else once)


def pyreqwest_asyncio(asks: Callable[[], Ask], seconds: float) -> float:
    from pyreqwest.client import ClientBuilder

    async def main() -> float:
        async with set_up(ClientBuilder()).build() as client:

            async def once() -> None:
                url, headers = asks()
                request = client.get(url)
                response = await (request if headers is None else request.headers(headers)).build().send()
                assert (response.status, response.version) == (200, "HTTP/2.0")
                await response.bytes()

            await once()  # or each of the first hundred would open a connection of its own
            return await parallel(seconds, 100, once)

    return asyncio.run(main())


def pyreqwest_bulk(url: str, seconds: float) -> Spent:
    from pyreqwest.client import SyncClientBuilder

    with set_up(SyncClientBuilder()).build() as client:

        def once() -> int:
            done = 0
            with client.get(url).build_streamed() as response:
                while piece := response.body_reader.read_chunk():
                    done += len(piece)
            return done

        return moved(seconds, once)


# -- httpx2


def with_httpx2(measure: Callable[..., float], is_shared: bool, asks: Callable[[], Ask], seconds: float) -> float:
    import httpx2

    with httpx2.Client(http1=False, http2=True, verify=tls_context(), limits=httpx2.Limits()) as client:

        def once() -> None:
            url, headers = asks()
            response = client.get(url, headers=headers)
            assert (response.status_code, response.http_version) == (200, "HTTP/2")

        once()  # or the first threads would open connections of their own
        return measure(seconds, (lambda: once) if is_shared else once)


def httpx2_asyncio(asks: Callable[[], Ask], seconds: float) -> float:
    import httpx2

    async def main() -> float:
        async with httpx2.AsyncClient(http1=False, http2=True, verify=tls_context(), limits=httpx2.Limits()) as client:

            async def once() -> None:
                url, headers = asks()
                response = await client.get(url, headers=headers)
                assert (response.status_code, response.http_version) == (200, "HTTP/2")

            await once()
            return await parallel(seconds, 100, once)

    return asyncio.run(main())


def httpx2_bulk(url: str, seconds: float) -> Spent:
    import httpx2

    with httpx2.Client(http1=False, http2=True, verify=tls_context()) as client:

        def once() -> int:
            with client.stream("GET", url) as response:
                return sum(len(piece) for piece in response.iter_raw())

        return moved(seconds, once)


# -- the cases

Clients = dict[str, tuple[str | None, Callable[..., Any]]]

SEQUENTIAL: Clients = {
    "bare h2": (None, bare_sequential),
    "plugwire": (None, partial(with_plugwire, counted, False)),
    "pyreqwest": ("pyreqwest", partial(with_pyreqwest, counted, False)),
    "pycurl": ("pycurl", pycurl_sequential),
    "httpx2": ("httpx2", partial(with_httpx2, counted, False)),
}
ASYNCIO: Clients = {
    "bare h2": (None, bare_asyncio),
    "plugwire": (None, plugwire_asyncio),
    "pyreqwest": ("pyreqwest", pyreqwest_asyncio),
    "pycurl multi": ("pycurl", pycurl_multi),
    "httpx2": ("httpx2", httpx2_asyncio),
}
THREADS: Clients = {
    "plugwire": (None, partial(with_plugwire, in_threads, True)),
    "pyreqwest": ("pyreqwest", partial(with_pyreqwest, in_threads, True)),
    "pycurl": ("pycurl", pycurl_threads),
    "httpx2": ("httpx2", partial(with_httpx2, in_threads, True)),
}
BULK_CLIENTS: Clients = {
    "bare h2": (None, bare_bulk),
    "plugwire": (None, plugwire_bulk),
    "pyreqwest": ("pyreqwest", pyreqwest_bulk),
    "pycurl": ("pycurl", pycurl_bulk),
    "httpx2": ("httpx2", httpx2_bulk),
}
CASES: dict[str, Clients] = {
    "sequential": SEQUENTIAL,
    "asyncio x100": ASYNCIO,
    "8 threads": THREADS,
    "bulk": BULK_CLIENTS,
    "sequential, cold": SEQUENTIAL,
    "asyncio x100, cold": ASYNCIO,
    "8 threads, cold": THREADS,
}


def run_one(case: str, client: str, url: str, seconds: float) -> Spent:
    run = CASES[case][client][1]
    if case == "bulk":
        spent: Spent = run(url, seconds)
        return spent
    asks = Metered((cold if case.endswith("cold") else warm)(url))
    return Spent(run(asks, seconds), asks.cpu())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=sorted(CASES))
    parser.add_argument("--without", action="append", default=[], help="leave this client out")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case, client, url, seconds = arguments.one
        print(json.dumps(run_one(case, client, url, float(seconds))), flush=True)
        os._exit(0)  # with its figure told: pyreqwest 0.15 at times crashes in the interpreter's own end
    from peers.certificates import make_authority
    from peers.nginx import nginx

    with tempfile.TemporaryDirectory() as directory:
        authority = make_authority(Path(directory))
        os.environ[AUTHORITY] = str(authority.cert_pem)
        with OnCPU(SERVER_CPU), nginx(authority) as server, Awake():
            with (server.upload_directory / "large").open("wb") as file:
                file.truncate(BULK)
            for case in arguments.only or CASES:
                path = "upload/large" if case == "bulk" else "fresh" if case.endswith("cold") else "small"
                url = f"{server.h2_url}/{path}"

                def once(client: str, case: str = case, url: str = url) -> list[float] | None:
                    try:
                        found = in_process(__file__, "--one", case, client, url, str(arguments.seconds))
                    except SystemExit as error:
                        # httpx2 2.16 at times breaks its connection when threads share it, the more the colder.
                        if client == "plugwire":
                            raise
                        print(f"{case}: {client} failed: {str(error).strip().splitlines()[-1]}")
                        return None
                    values: list[float] = json.loads(found)
                    return values

                clients = [client for client in installed(CASES[case]) if client not in arguments.without]
                runs = in_turn(clients, arguments.rounds, once)
                found = {client: [one for one in values if one] for client, values in runs.items() if any(values)}
                of = "MiB" if case == "bulk" else "small GET"
                for place, name in enumerate(Spent._fields):
                    figures = {client: [one[place] for one in values] for client, values in found.items()}
                    print_ratios(f"{case}, us of {name} time per {of}", figures)


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    main()
