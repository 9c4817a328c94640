"""What is swept with faults: one text for every world, against servers that always answer alike.

`tests/test_fault_sweep.py` runs a part of it, `python tests/benchmarks/fault_table.py` all of it.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import plugwire
from faces import AsyncFace
from plugwire import Limits, Proxy, Timeout
from plugwire.drive import drive
from plugwire.testing import Server
from plugwire.testing.faults import (
    FAULTS,
    Fault,
    FaultFailure,
    Faults,
    Kind,
    Run,
    async_sweep,
    check_session,
    sweep,
)
from plugwire.testing.interrupts import Interrupts
from plugwire.testing.loopback import Loopback
from plugwire_plugins import BearerAuth
from plugwire_plugins.retries import Retries, RetryPolicy
from plugwire_transports import HTTPProxy
from proxy_peer import WANTS, Challenge, relay
from third_party.hedging import Hedging
from worlds import KINDS, PATIENCE, World

LARGE = 300_000
ONE = Limits(max_connections=1)
TIMEOUT = Timeout(total=7200, head=3600, pool=60, connect=10, read=60, write=60)


class Switch(Loopback):
    """Becomes an echo after 101 and after CONNECT; answers all else by "ok"."""

    def _serve(self, sock: Any, number: int) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = sock.recv(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            if head.startswith(b"CONNECT "):
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            elif b"upgrade: " in head.lower():
                sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
            else:
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            while data := sock.recv(65536):
                sock.sendall(data)
            return


class Forward(Loopback):
    """A proxy that answers http requests itself, in the place of the one server there is, and asks for credentials
    once on each connection; after CONNECT it is that server."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def tls_config(self) -> Any:
        return self.server.tls_config

    def _serve(self, sock: Any, number: int) -> None:
        data = b""
        asked = False
        while True:
            while b"\r\n\r\n" not in data:
                more = sock.recv(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            if not asked:
                asked = True
                sock.sendall(WANTS)
            elif head.startswith(b"CONNECT "):
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                with closing(socket.create_connection(("127.0.0.1", self.server.port))) as target:
                    relay(sock, target)
                return
            else:
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Sites:
    """The servers; leave the `with`, and they are gone."""

    def __enter__(self) -> Sites:
        with ExitStack() as stack:
            self.plain = stack.enter_context(Server())
            self.tls = stack.enter_context(Server(tls=True))
            self.h2 = stack.enter_context(Server(http_versions=("h2",)))
            self.h2_tls = stack.enter_context(Server(tls=True, http_versions=("h2",)))
            self.switch = stack.enter_context(Switch())
            self.forwarding = stack.enter_context(Forward(self.plain))
            self.tunnel = stack.enter_context(Forward(self.tls))
            self.h2_tunnel = stack.enter_context(Forward(self.h2_tls))
            self._stack = stack.pop_all()
        return self

    def wait_closed(self, patience: float = PATIENCE) -> bool:
        """Wait until no connection is open on the servers' side either; False if that took too long. Who forwards
        closes its own connections to the others last."""
        forwards = (self.forwarding, self.tunnel, self.h2_tunnel)
        return all(
            server.wait_closed(patience)
            for server in (*forwards, self.plain, self.tls, self.h2, self.h2_tls, self.switch)
        )

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


class Site:
    """What a scenario gets beside its session."""

    def __init__(self, world: World, server: Any) -> None:
        self.world = world
        self.url: str = server.url


# -- the scenarios -------------------------------------------------------------------------------------------------


async def get(session: Any, site: Site) -> None:
    response = await session.get(f"{site.url}/hello")
    assert b"hello" in response.content or response.content == b"ok"


async def post(session: Any, site: Site) -> None:
    response = await session.post(f"{site.url}/echo", content=b"x" * 1000)
    assert response.json()["length"] == 1000


def pieces(count: int = 5, size: int = 1000) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * size


async def post_one_shot(session: Any, site: Site) -> None:
    response = await session.post(f"{site.url}/echo", content=pieces())
    assert response.json()["length"] == 5000


async def chunked(session: Any, site: Site) -> None:
    async with session.stream("PUT", f"{site.url}/chunked", content=[b"a" * 100, b"b" * 100]) as response:
        content = b""
        while data := await response.read(30):
            content += data
        assert content == b"".join(b"piece %d\n" % number for number in range(1, 11))
        assert response.trailers is not None


async def upload(session: Any, site: Site) -> None:
    response = await session.put(f"{site.url}/echo", content=bytes(LARGE))
    assert response.json()["length"] == LARGE


async def download(session: Any, site: Site) -> None:
    async with session.stream("GET", f"{site.url}/bytes/{LARGE}") as response:
        size = 0
        while data := await response.read(100_000):
            size += len(data)
        assert size == LARGE


async def read_into(session: Any, site: Site) -> None:
    async with session.stream("GET", f"{site.url}/bytes/{LARGE}") as response:
        buffer = bytearray(65536)
        size = 0
        while count := await response.readinto(buffer):
            size += count
        assert size == LARGE


async def keep_alive(session: Any, site: Site) -> None:
    for _ in range(3):
        await get(session, site)
    await post(session, site)


async def closed_unread(session: Any, site: Site) -> None:
    async with session.stream("GET", f"{site.url}/bytes/{LARGE}") as response:
        await response.read(10)
    async with session.stream("GET", f"{site.url}/chunked") as response:
        assert response.status_code == 200


async def retry(session: Any, site: Site) -> None:
    response = await session.get(f"{site.url}/status/503")
    assert response.status_code == 503


async def retry_post(session: Any, site: Site) -> None:
    response = await session.post(f"{site.url}/status/503", content=b"again", options={"retry_unsafe": True})
    assert response.status_code == 503


async def redirect(session: Any, site: Site) -> None:
    response = await session.get(f"{site.url}/redirect/302/redirect/301/hello")
    assert b"hello" in response.content
    assert [hop.status_code for hop in response.history] == [302, 301]


async def redirect_post(session: Any, site: Site) -> None:
    response = await session.post(f"{site.url}/redirect/307/redirect/308/echo", content=b"x" * 1000)
    asked = response.json()
    assert (asked["method"], asked["length"]) == ("POST", 1000)


async def expect(session: Any, site: Site) -> None:
    response = await session.put(f"{site.url}/echo", content=b"x" * 1000, headers={"Expect": "100-continue"})
    assert response.json()["length"] == 1000


async def upgrade(session: Any, site: Site) -> None:
    request = session.open_request("GET", site.url, headers={"Connection": "upgrade", "Upgrade": "echo"})
    response = await request.send()
    async with response:
        assert response.status_code == 101
        stream = response.take_stream()
    await talk(session, site, stream, b"hello")


async def connect(session: Any, site: Site) -> None:
    async with await session.connect(site.url) as handle:
        response = await handle.open_request("CONNECT", "elsewhere.example:443").send()
        async with response:
            assert response.status_code == 200
            stream = response.take_stream()
    await talk(session, site, stream, b"")


async def talk(session: Any, site: Site, stream: Any, begin: bytes) -> None:
    """A stream that was taken raises what streams raise."""
    try:
        at = () if site.world.name == "blocking" else (site.world.runtime().now() + 60,)
        await stream.send(b"ping", *at)
        data = b""
        while len(data) < len(begin) + 4:
            more = await stream.receive(100, *at)
            if not more:
                raise ConnectionResetError("the peer has ended")
            data += more
        assert data == begin + b"ping"
    except (OSError, plugwire.Error) as error:
        raise plugwire.ReadError(f"on the stream: {error}").at("body") from error
    finally:
        stream.close()


async def push(session: Any, site: Site) -> None:
    async with session.open_request("POST", f"{site.url}/echo") as request:
        await request.begin()
        for _ in range(3):
            await request.write(b"x" * 1000)
        async with await request.end() as response:
            await response.read()
            assert response.json()["length"] == 3000


async def leased(session: Any, site: Site) -> None:
    async with await session.connect(site.url) as handle:
        for _ in range(2):
            async with await handle.open_request("GET", "/hello").send() as response:
                await response.read()


async def at_once(session: Any, site: Site) -> None:
    await site.world.gather(lambda: get(session, site), lambda: get(session, site))


async def uploads_at_once(session: Any, site: Site) -> None:
    async def one() -> None:
        response = await session.put(f"{site.url}/echo", content=bytes(120_000))
        assert response.json()["length"] == 120_000

    await site.world.gather(one, one)


async def unauthorized(session: Any, site: Site) -> None:
    """Comes with an old token, and again with another one."""
    assert (await session.get(f"{site.url}/status/401")).status_code == 401


async def another_token(call: Any) -> str:
    response = await call.send(plugwire.Request("GET", f"{call.origin}/hello"))
    assert response.status_code == 200
    return "another"


class SideCall:
    """Asks for something else first, as who fetches a token does."""

    @plugwire.hookimpl
    async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
        token = await call.send(plugwire.Request("GET", request.url.join("/status/200")), without=(self,))
        request.headers["X-Token"] = str(token.status_code)
        return await call_next(request)


@dataclass(frozen=True)
class Scenario:
    """One of these, and what it needs.

    site: which of `Sites`. plugins, auth: made for each session. is_at_once: several threads or tasks of its own do
    it, so which operation is the k-th hangs on chance, and an interrupt would hit a thread that nobody joins.
    """

    name: str
    run: Callable[[Any, Site], Awaitable[None]]
    site: str = "plain"
    limits: Limits = ONE
    plugins: Callable[[], Iterable[Any]] = tuple
    auth: Callable[[], Any] = lambda: None
    is_at_once: bool = False

    def session(self, faults: Faults, server: Any, kind: type[Any]) -> Any:
        is_proxy = isinstance(server, Forward)
        if is_proxy:
            proxy: Any = Proxy(f"http://127.0.0.1:{server.port}", auth=Challenge())
            server = server.server
        return kind(
            transports=[HTTPProxy(), faults],  # below the proxy, so that the way to it has its faults
            proxy=proxy if is_proxy else None,
            plugins=[faults, *self.plugins()],
            auth=self.auth(),
            limits=self.limits,
            timeout=TIMEOUT,
            http_versions=("h2",) if self.site.startswith("h2") else ("http/1.1",),
            **({"tls": server.tls_config} if server.tls else {}),
        )

    def faults(self, world: str) -> list[Fault]:
        return [
            fault
            for fault in FAULTS
            if world in fault.worlds and not (self.is_at_once and fault.kind is Kind.INTERRUPT)
        ]


def _retries() -> list[Any]:
    return [Retries(policy=RetryPolicy(backoff=0), random=lambda: 0.0)]


SCENARIOS = (
    Scenario("GET", get),
    Scenario("POST, replayable", post),
    Scenario("POST, one-shot", post_one_shot),
    Scenario("chunked both ways", chunked),
    Scenario("large up", upload),
    Scenario("large down", download),
    Scenario("large down, readinto", read_into),
    Scenario("keep-alive", keep_alive),
    Scenario("closed unread", closed_unread),
    Scenario("retry", retry, plugins=_retries),
    Scenario("retry POST", retry_post, plugins=_retries),
    Scenario("redirect", redirect),
    Scenario("redirect POST", redirect_post),
    Scenario("Expect: 100-continue", expect),
    Scenario("push upload", push),
    Scenario("leased connection", leased),
    Scenario("side call", get, plugins=lambda: [SideCall()]),
    Scenario("hedging", get, plugins=lambda: [Hedging(0)], limits=Limits(max_connections=2), is_at_once=True),
    Scenario("waiting in the pool", at_once, is_at_once=True),
    Scenario("upgrade (101)", upgrade, "switch"),
    Scenario("CONNECT", connect, "switch"),
    Scenario("TLS GET", get, "tls"),
    Scenario("TLS large up", upload, "tls"),
    Scenario("TLS keep-alive", keep_alive, "tls"),
    Scenario("h2 GET", get, "h2"),
    Scenario("h2 POST, one-shot", post_one_shot, "h2"),
    Scenario("h2 large up", upload, "h2"),
    Scenario("h2 large down", download, "h2"),
    Scenario("h2 push upload", push, "h2"),
    Scenario("h2 keep-alive", keep_alive, "h2"),
    Scenario("h2 redirect", redirect, "h2"),
    Scenario("h2 two at once", at_once, "h2", is_at_once=True),
    Scenario("h2 two uploads at once", uploads_at_once, "h2", is_at_once=True),
    Scenario("h2 TLS GET", get, "h2_tls"),
    Scenario("h2 TLS closed unread", closed_unread, "h2_tls"),
    Scenario("forwarded GET", get, "forwarding"),
    Scenario("tunnel", get, "tunnel"),
    Scenario("h2 tunnel", get, "h2_tunnel"),
    Scenario("another token", unauthorized, auth=lambda: BearerAuth("old", refresh=another_token)),
)


def swept(sites: Sites, scenario: Scenario, fault: Fault, world: str, *, first: int = 1, step: int = 1) -> list[Run]:
    """All runs of one scenario with one fault in one world."""
    server: Any = getattr(sites, scenario.site)
    kind = KINDS[world]()
    site = Site(kind, server)

    async def after(session: Any) -> None:
        # Twice: the second one takes what the first has given back.
        await get(session, site)
        await get(session, site)

    if world == "blocking":
        runs = sweep(
            lambda session: drive(scenario.run(AsyncFace(session), site)),  # type: ignore[arg-type]
            fault,
            make=lambda faults: scenario.session(faults, server, plugwire.Session),
            after=lambda session: drive(after(AsyncFace(session))),
            first=first,
            step=step,
        )
    else:

        async def main() -> list[Run]:
            runs = await async_sweep(
                lambda session: scenario.run(session, site),
                fault,
                make=lambda faults: scenario.session(faults, server, plugwire.AsyncSession),
                after=after,
                first=first,
                step=step,
            )
            return runs

        runs = kind.run(main)
    return runs


# -- an interrupt at any bytecode ----------------------------------------------------------------------------------


INTERRUPTED = (
    "GET",
    "POST, one-shot",
    "chunked both ways",
    "closed unread",
    "keep-alive",
    "leased connection",
    "redirect",
    "TLS GET",
    "another token",
    "tunnel",
)
"""Scenarios that are interrupted at any bytecode, too; those of HTTP/1.1."""


def interrupted(sites: Sites, scenario: Scenario, *, first: int = 1, step: int = 1) -> list[str]:
    """Interrupt a scenario of the blocking world at each bytecode in turn, or at each `step`th: where it was."""
    server: Any = getattr(sites, scenario.site)
    site = Site(KINDS["blocking"](), server)
    places: list[str] = []
    number = first
    while True:
        faults = Faults()
        interrupts = Interrupts(number)
        with scenario.session(faults, server, plugwire.Session) as session:
            face: Any = AsyncFace(session)
            try:
                interrupts.run(lambda face=face: drive(scenario.run(face, site)))  # type: ignore[misc]
            except KeyboardInterrupt:
                pass
            where = f"at bytecode {number}, {interrupts.where}"
            try:
                check_session(session)
                drive(get(face, site))
                drive(get(face, site))
                check_session(session)
            except Exception as error:
                raise FaultFailure(f"{scenario.name}, interrupted {where}: {error!r}") from error
        if faults.open_streams:
            raise FaultFailure(f"{scenario.name}, interrupted {where}: {faults.open_streams} streams are open")
        if not interrupts.was_raised:
            return places
        places.append(interrupts.where)
        number += step
