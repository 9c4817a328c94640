"""`plugwire demo`: the seven classical steps of an HTTP client program, told as they happen.

Against an embedded server on loopback, over HTTP/1.1 in the clear and with TLS, and over HTTP/2, in the blocking and
the asyncio world, through the real transports and plugins. At the end what was opened is held against what was closed,
on both sides.
"""

from __future__ import annotations

import inspect
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import plugwire
from plugwire.drive import drive
from plugwire.events import Close, Event, Open
from plugwire.runtimes import blocking_runtime
from plugwire.testing.server import Server, default_routes

if TYPE_CHECKING:
    from plugwire.testing.mock import Answer

SIZE: Final = 1_000_000
BUFFER: Final = 64 * 1024
AT_ONCE: Final = 8


class Tally:
    """A plugin as anybody could write it: counts the connections that a session opens and closes."""

    events = (Open, Close)

    def __init__(self) -> None:
        self.opened: set[int] = set()
        self.closed: set[int] = set()

    @plugwire.hookimpl
    def observe(self, event: Event) -> None:
        """One connection more, or less."""
        if isinstance(event, Open):
            self.opened.add(event.connection.id)
        elif isinstance(event, Close):
            self.closed.add(event.connection.id)


class Lines(logging.Handler):
    """Counts the lines that the plugin "wirelog" writes to the standard logging module."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.count += 1


class Balance(NamedTuple):
    """What was opened and closed in one run."""

    opened: int
    closed: int
    accepted: int
    left: int

    @property
    def is_even(self) -> bool:
        """Nothing stayed open, on either side."""
        return 0 < self.opened == self.closed == self.accepted and self.left == 0


class Answers:
    """The server's own routes, and

    /flaky  503 to every other request
    /meet   answers when `AT_ONCE` requests are there; each waits for the others
    """

    def __init__(self) -> None:
        self._asked = 0
        self._meeting = threading.Barrier(AT_ONCE, timeout=30)

    def __call__(self, request: plugwire.Request) -> Answer:
        match request.url.path:
            case "/flaky":
                self._asked += 1
                if self._asked % 2:
                    return plugwire.Response(503, headers={"Retry-After": "0"}, text="try again\n")
                return plugwire.Response(200, text="the second time it works\n")
            case "/meet":
                self._meeting.wait()
                return plugwire.Response(200, text="all are here\n")
            case _:
                return default_routes(request)


def run(out: TextIO) -> bool:
    """Run it all; whether nothing stayed open."""
    before = threading.active_count()
    balances: list[Balance] = []
    for tls, http_versions in ((False, ("http/1.1",)), (True, ("http/1.1",)), (True, ("h2", "http/1.1"))):
        with Server(Answers(), tls=tls, http_versions=http_versions) as server:
            balances.append(drive(_told(server, False, out)))
            balances.append(_in_asyncio(server, out))
    opened, closed = sum(one.opened for one in balances), sum(one.closed for one in balances)
    threads = threading.active_count() - before
    is_even = all(one.is_even for one in balances) and threads <= 0
    print(
        f"In all: {opened} connections opened, {closed} closed; the servers accepted "
        f"{sum(one.accepted for one in balances)}, {sum(one.left for one in balances)} stayed open; "
        f"{max(threads, 0)} threads stayed. {'Nothing is left over.' if is_even else 'SOMETHING IS LEFT OVER.'}",
        file=out,
    )
    return is_even


def _in_asyncio(server: Server, out: TextIO) -> Balance:
    import asyncio

    return asyncio.run(_told(server, True, out))


async def _told(server: Server, is_async: bool, out: TextIO) -> Balance:
    """The steps in one world, against one server. One text for both faces: `done` awaits what is to be awaited."""
    versions = "HTTP/2 or HTTP/1.1" if "h2" in server.http_versions else "HTTP/1.1"
    print(f"{'asyncio' if is_async else 'blocking'}, {server.url}, which speaks {versions}", file=out)
    tally, lines = Tally(), Lines()
    accepted = server.accepted
    log = logging.getLogger("plugwire.wire")
    level, propagate = log.level, log.propagate
    log.addHandler(lines)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        await _steps(server, is_async, tally, lines, out)
    finally:
        log.removeHandler(lines)
        log.setLevel(level)
        log.propagate = propagate
    server.wait_closed(5)
    return Balance(len(tally.opened), len(tally.closed), server.accepted - accepted, server.open_connections)


async def _steps(server: Server, is_async: bool, tally: Tally, lines: Lines, out: TextIO) -> None:
    step = _Clock(out)
    face = plugwire.AsyncSession if is_async else plugwire.Session
    tls = server.tls_config if server.tls else plugwire.TLSConfig()
    session: Any = face(base_url=server.url, tls=tls, plugins=["retries", "wirelog", tally])
    step.done("1 begin a session", f"{face.__name__} with the plugins retries, wirelog and a counter of our own")
    try:
        await _talk(server, session, is_async, step)
    finally:
        await _done(session.close())
    step.done(
        "7 end the session",
        f"connections: {len(tally.opened)} opened, {len(tally.closed)} closed; wirelog wrote {lines.count} lines",
    )
    print(file=out)


async def _talk(server: Server, session: Any, is_async: bool, step: _Clock) -> None:
    """Steps 2 to 6. Typed by Any: one text drives both faces, which differ in what is awaited only."""
    connection: Any = await _done(session.connect(server.url))
    tls = connection.info.tls
    over = f"{tls.version}, {tls.cipher}" if tls is not None else "no TLS"
    step.done("2 connect to a server", f"{connection.info.peer_address}, {connection.info.protocol}, {over}")

    request: Any = connection.open_request("GET", f"/bytes/{SIZE}")
    step.done("3 open a request", f"{request.method} {request.url.path}; nothing is sent yet")

    request.headers.add("X-Demo", "plugwire")
    response: Any = await _done(request.send())
    step.done("4 add headers, send", f"{response.status_code} {response.reason}, its body unread")

    buffer, size, reads = bytearray(BUFFER), 0, 0
    while count := await _done(response.readinto(buffer)):
        size, reads = size + count, reads + 1
    step.done("5 read", f"{size} bytes, {reads} reads into a buffer of {BUFFER // 1024} KiB of ours")
    await _done(connection.close())

    response = await _done(session.get("/nowhere"))
    step.done("  what is not there", f"{response.status_code} is a response, response.ok is {response.ok}")
    response = await _done(session.get("/flaky"))
    step.done("  a server that falters", f"503, then {response.status_code}: the plugin retries sent it again")

    responses = await _in_tasks(session) if is_async else _in_threads(session)
    count = len({one.connection.id for one in responses})
    step.done(
        "  many at once",
        f"{len(responses)} {'tasks' if is_async else 'threads'}, each answered when all were there: "
        f"{responses[0].http_version} took {count} connection{'s' * (count > 1)}",
    )

    try:
        await _done(session.get(f"http://127.0.0.1:{_closed_port()}/", options={"max_retries": 0}))
    except plugwire.Error as error:
        step.done("6 handle exceptions", f"{type(error).__name__}, phase {error.phase}: {error}")


def _in_threads(session: Any) -> list[Any]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(session.get, ["/meet"] * AT_ONCE))


async def _in_tasks(session: Any) -> list[Any]:
    import asyncio

    return await asyncio.gather(*(session.get("/meet") for _ in range(AT_ONCE)))


async def _done(value: Any) -> Any:
    """What a method of either face gives."""
    return await value if inspect.isawaitable(value) else value


class _Clock:
    """Prints each step with the time that it took."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._now = blocking_runtime().now
        self._last = self._now()

    def done(self, step: str, effect: str) -> None:
        """A step is over."""
        now = self._now()
        print(f"  {step:<26} {(now - self._last) * 1000:8.2f} ms  {effect}", file=self._out)
        self._last = self._now()


def _closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
