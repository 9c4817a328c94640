"""Every public error, raised by its real cause: its type, what it says, what it knows, and that it travels."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Limits, Request, Timeout, errors, hookimpl
from plugwire.errors import Error
from plugwire.testing.peer import PeerConnection, ScriptedPeer, abort, close, expect_head, receive, send, tell, wait_for
from worlds import World, error_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugwire.errors import Phase

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
Cause = "Callable[[World], Coroutine[Any, Any, Error]]"

LATER = {errors.StreamReset}
"""HTTP/2's has tests of its own."""

ROOTS = {errors.Error, errors.TimedOut, errors.NetworkError, errors.PeerError, errors.ResponseError}
"""Never raised themselves."""

CAUSES: dict[type[Error], Any] = {}
KNOWN: dict[type[Error], tuple[Phase | None, bool, str]] = {}


def cause(kind: type[Error], phase: Phase | None, sent: bool, message: str) -> Any:
    """Registers the function that provokes `kind`; phase, sent, and words of its message."""

    def register(function: Any) -> Any:
        CAUSES[kind] = function
        KNOWN[kind] = phase, sent, message
        return function

    return register


def bare(world: World, **kwargs: Any) -> Any:
    return world.session(defaults=False, **kwargs)


async def error_of(awaitable: Any) -> Error:
    with pytest.raises(Error) as caught:
        await awaitable
    return caught.value


async def error_against(world: World, *steps: Any, scheme: str = "http", session: Any = None, **options: Any) -> Error:
    """The error of a GET to a peer that plays these steps."""

    def hear_out(connection: PeerConnection) -> None:
        if not connection.is_closed:
            connection.read_end()

    with ScriptedPeer([*steps, hear_out]) as peer:
        async with bare(world, **(session or {})) as made:
            return await error_of(made.get(peer.url.replace("http", scheme, 1), **options))


@cause(errors.UsageError, None, False, "content= and json=")
async def _two_bodies(world: World) -> Error:
    async with bare(world) as session:
        return await error_of(session.get("http://127.0.0.1:1", content=b"", json={}))


@cause(errors.InvalidURL, None, False, "http://a b/")
async def _bad_url(world: World) -> Error:
    async with bare(world) as session:
        return await error_of(session.get("http://a b/"))


@cause(errors.InvalidHeader, None, False, "X-A")
async def _bad_header(world: World) -> Error:
    async with bare(world) as session:
        return await error_of(session.get("http://127.0.0.1:1", headers={"X-A": "a\r\nb"}))


@cause(errors.UnknownOption, None, False, "colour")
async def _unknown_option(world: World) -> Error:
    async with bare(world) as session:
        return await error_of(session.get("http://127.0.0.1:1", options={"colour": "red"}))


@cause(errors.NoTransport, None, False, "http/1.1")
async def _no_transport(world: World) -> Error:
    async with bare(world, http_versions=("h9",)) as session:
        error = await error_of(session.get("http://127.0.0.1:1"))
        assert isinstance(error, errors.NoTransport)
        assert "http/1.1" in error.reasons
        return error


@cause(errors.BodyUnread, None, False, "read()")
async def _unread(world: World) -> Error:
    with ScriptedPeer([expect_head(), send(OK)]) as peer:
        async with bare(world) as session, session.stream("GET", peer.url) as response:
            with pytest.raises(errors.BodyUnread) as caught:
                _ = response.text
            return caught.value


@cause(errors.NotReplayable, "write", False, "one-shot")
async def _not_replayable(world: World) -> Error:
    with ScriptedPeer([expect_head(), receive(6), receive(5), send(OK)]) as peer:
        request = Request("POST", peer.url, content=iter([b"x"]))
        async with bare(world) as session:
            await session.send(request)
            return await error_of(session.send(request))


@cause(errors.Busy, None, False, "sent already")
async def _busy(world: World) -> Error:
    with ScriptedPeer([expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            request = session.open_request("GET", peer.url)
            await (await request.send()).close()
            return await error_of(request.send())


@cause(errors.SessionClosed, None, False, "closed")
async def _closed(world: World) -> Error:
    async with bare(world) as session:
        pass
    return await error_of(session.get("http://127.0.0.1:1"))


class Nothing:
    @hookimpl
    async def around_send(self, request: Request, call_next: Any) -> Any:
        return None


@cause(errors.PluginError, None, False, "Nothing")
async def _bad_plugin(world: World) -> Error:
    async with bare(world, plugins=[Nothing()]) as session:
        error = await error_of(session.get("http://127.0.0.1:1"))
        assert isinstance(error, errors.PluginError)
        assert "Nothing" in error.plugin
        return error


class Sleeper:
    @hookimpl
    async def around_send(self, request: Request, call_next: Any) -> Any:
        await asyncio.sleep(1)


@cause(errors.Suspended, None, False, "Sleeper")
async def _suspended(world: World) -> Error:
    # A blocking session, whatever runs around it: nobody answers what its plugin awaits.
    with plugwire.Session(defaults=False, plugins=[Sleeper()]) as session, pytest.raises(Error) as caught:
        session.get("http://127.0.0.1:1")
    assert isinstance(caught.value, errors.Suspended)
    assert caught.value.awaitable
    return caught.value


@cause(errors.TotalTimeout, "head", True, "total=")
async def _total(world: World, budget: float) -> Error:
    return await error_against(world, expect_head(), timeout=budget)


@cause(errors.HeadTimeout, "head", True, "head=")
async def _head(world: World, budget: float) -> Error:
    return await error_against(world, expect_head(), timeout=Timeout(head=budget))


@cause(errors.ReadTimeout, "body", True, "read=")
async def _read(world: World, budget: float) -> Error:
    return await error_against(world, expect_head(), send(HELLO[:-1]), timeout=Timeout(read=budget))


@cause(errors.WriteTimeout, "write", True, "write=")
async def _write(world: World, budget: float) -> Error:
    over = threading.Event()
    with ScriptedPeer([expect_head(), wait_for(over), lambda connection: connection.read_end()]) as peer:
        async with bare(world) as session:
            try:
                return await error_of(session.post(peer.url, content=b"x" * 30_000_000, timeout=Timeout(write=budget)))
            finally:
                over.set()


@cause(errors.ConnectTimeout, "tls", False, "connect=")
async def _connect_timeout(world: World, budget: float) -> Error:
    return await error_against(world, scheme="https", timeout=Timeout(connect=budget))


@cause(errors.PoolTimeout, "pool", False, "1 of 1 connections")
async def _pool(world: World, budget: float) -> Error:
    with ScriptedPeer([expect_head(), send(HELLO[:-1])]) as peer:
        async with bare(world, limits=Limits(max_connections=1)) as session, session.stream("GET", peer.url):
            return await error_of(session.get(peer.url, timeout=Timeout(pool=budget)))


@cause(errors.ResolveError, "resolve", False, "nobody.invalid")
async def _resolve(world: World) -> Error:
    async with bare(world) as session:
        return await error_of(session.get("http://nobody.invalid/"))


@cause(errors.AddressRefused, "resolve", False, "127.0.0.1 is out of bounds: loopback")
async def _out_of_bounds(world: World) -> Error:
    async with bare(world, transports=["address-guard"]) as session:
        return await error_of(session.get("http://127.0.0.1:1"))


@cause(errors.ConnectError, "dial", False, "127.0.0.1")
async def _connect(world: World) -> Error:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        async with bare(world) as session:
            return await error_of(session.get(f"http://127.0.0.1:{taken.getsockname()[1]}"))


@cause(errors.WriteError, "write", True, "while the request was sent")
async def _broken_write(world: World) -> Error:
    gone = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"x"
        gone.wait(30)
        while True:
            yield b"x" * 100_000

    with ScriptedPeer([expect_head(), receive(6), abort(), tell(gone)]) as peer:
        async with bare(world) as session:
            return await error_of(session.post(peer.url, content=body()))


@cause(errors.ReadError, "body", True, "after 4 bytes")
async def _broken_read(world: World) -> Error:
    return await error_against(world, expect_head(), send(HELLO[:-1]), abort())


@cause(errors.ConnectionClosed, "head", True, "without a response")
async def _no_answer(world: World) -> Error:
    with ScriptedPeer([expect_head(), close()]) as peer:
        async with bare(world) as session:
            return await error_of(session.get(peer.url))


@cause(errors.TLSError, "tls", False, "127.0.0.1")
async def _no_tls(world: World) -> Error:
    with ScriptedPeer([receive(5), send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), close()]) as peer:
        async with bare(world) as session:
            return await error_of(session.get(peer.url.replace("http", "https")))


@cause(errors.CertificateError, "tls", False, "127.0.0.1")
async def _bad_certificate(world: World) -> Error:
    with ScriptedPeer(tls=True) as peer:
        async with bare(world) as session:
            return await error_of(session.get(peer.url))


class Remember:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    @hookimpl
    async def around_call(self, request: Request, call_next: Any, call: Any) -> Any:
        self.calls.append(call)
        return await call_next(request)


@cause(errors.Cancelled, "head", True, "call.cancel()")
async def _cancelled(world: World) -> Error:
    heard, plugin = threading.Event(), Remember()
    with ScriptedPeer([expect_head(), tell(heard)]) as peer:
        async with bare(world, plugins=[plugin]) as session:
            getting = world.in_background(session.get, peer.url)
            assert await world.runtime().run_blocking(heard.wait, 30)
            plugin.calls[0].cancel()
            return await error_of(getting.result())


@cause(errors.ProtocolError, "head", True, "SSH")
async def _protocol(world: World) -> Error:
    return await error_against(world, expect_head(), send(b"SSH-2.0-x\r\n"))


@cause(errors.IncompleteBody, "body", True, "4 of 5 bytes")
async def _incomplete(world: World) -> Error:
    error = await error_against(world, expect_head(), send(HELLO[:-1]), close())
    assert isinstance(error, errors.IncompleteBody)
    assert (error.received, error.expected) == (4, 5)
    return error


@cause(errors.LimitExceeded, "head", True, "max_headers=1")
async def _limit(world: World) -> Error:
    answer = b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\r\n"
    error = await error_against(world, expect_head(), send(answer), session={"limits": Limits(max_headers=1)})
    assert isinstance(error, errors.LimitExceeded)
    assert error.limit == "max_headers"
    return error


@cause(errors.DecodingError, None, False, "not JSON")
async def _decoding(world: World) -> Error:
    with ScriptedPeer([expect_head(), send(OK)]) as peer:
        async with bare(world) as session:
            response = await session.get(peer.url)
            with pytest.raises(errors.DecodingError) as caught:
                response.json()
            return caught.value


@cause(errors.HTTPStatusError, None, True, "404 Not Found")
async def _status(world: World) -> Error:
    with ScriptedPeer([expect_head(), send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")]) as peer:
        async with bare(world) as session:
            response = await session.get(peer.url)
            with pytest.raises(errors.HTTPStatusError) as caught:
                response.raise_for_status()
            assert caught.value.response is not None
            assert peer.url in str(caught.value)
            return caught.value


async def _redirect_error(world: World, location: str, **options: Any) -> Any:
    answer = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location.encode()
    with ScriptedPeer([expect_head(), send(answer)]) as peer:
        async with bare(world, plugins=["redirects"]) as session:
            return await error_of(session.get(peer.url, **options))


@cause(errors.ProxyError, "dial", False, "refused a tunnel to h:443: 403 No")
async def _refused_tunnel(world: World) -> Error:
    with ScriptedPeer([expect_head(), send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")]) as proxy:
        async with bare(world, proxy=proxy.url) as session:
            return await error_of(session.get("https://h/"))


@cause(errors.TooManyRedirects, "head", True, "max_redirects=0")
async def _too_many(world: World) -> Error:
    error: Error = await _redirect_error(world, "/", max_redirects=0)
    assert isinstance(error, errors.TooManyRedirects) and error.response is not None
    assert error.response.status_code == 302
    return error


@cause(errors.UnsafeRedirect, "head", True, "the scheme 'javascript'")
async def _unsafe(world: World) -> Error:
    error: Error = await _redirect_error(world, "javascript:alert(1)")
    assert isinstance(error, errors.UnsafeRedirect) and error.response is not None
    assert error.response.headers["location"] == "javascript:alert(1)"
    return error


# ------------------------------------------------------------------------------------------------------------------


def test_every_public_error_has_a_cause_here() -> None:
    assert set(errors.PUBLIC) == CAUSES.keys() | ROOTS | LATER
    assert not CAUSES.keys() & (ROOTS | LATER)
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Error)}
    assert defined == set(errors.PUBLIC)
    for kind in errors.PUBLIC:
        assert getattr(plugwire, kind.__name__) is kind
        assert kind.__doc__


@pytest.mark.parametrize("kind", CAUSES, ids=lambda kind: kind.__name__)
async def test_an_error_and_its_real_cause(world: World, kind: type[Error]) -> None:
    phase, sent, message = KNOWN[kind]
    if issubclass(kind, errors.TimedOut):
        error, budget = await error_in(str(phase), sent, lambda budget: CAUSES[kind](world, budget))
    else:
        error, budget = await CAUSES[kind](world), 0
    assert type(error) is kind, repr(error)
    assert message in str(error)
    assert (error.phase, error.sent) == (phase, sent)
    assert error.__cause__ is not error
    if isinstance(error, errors.TimedOut):
        assert error.limit == budget
        assert f"{error.budget}={budget:g}" in str(error) or kind is errors.PoolTimeout
        assert error.elapsed >= 0
    if phase not in (None, "pool") and kind not in (errors.NotReplayable,):
        assert error.request is not None
        assert error.attempts == 1
    # It travels, without what cannot.
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.request is None
        assert again.connection == error.connection, "what is known of the connection is plain data"
        for name in ("phase", "sent", "replayable", "attempts", "budget", "limit", "elapsed", "received", "expected"):
            assert getattr(again, name, None) == getattr(error, name, None)
        for name in ("reasons", "plugin", "awaitable"):
            assert getattr(again, name, None) == getattr(error, name, None)


def test_what_else_they_are() -> None:
    assert issubclass(errors.InvalidURL, ValueError)
    assert issubclass(errors.DecodingError, ValueError)
    assert issubclass(errors.InvalidHeader, ValueError)
    assert issubclass(errors.UnknownOption, ValueError)
    assert issubclass(errors.TimedOut, TimeoutError)
    assert issubclass(errors.NetworkError, ConnectionError)
    assert not issubclass(errors.TimedOut, errors.NetworkError)
    assert not issubclass(errors.Refused, Error)
    assert not issubclass(errors.Discarded, Error)


def test_the_tree_of_errors_is_drawn_as_it_stands() -> None:
    drawn: list[tuple[str, str]] = []
    above: list[str] = ["Exception"]
    for line in re.findall(r"^    ( *\w.*)$", errors.__doc__ or "", re.MULTILINE):
        depth = (len(line) - len(line.lstrip())) // 4 + 1
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        drawn += [(above[depth - 1], name) for name in names]
        above[depth:] = [names[-1]]
    assert sorted(drawn) == sorted((kind.__bases__[0].__name__, kind.__name__) for kind in errors.PUBLIC)


@pytest.mark.parametrize("kind", errors.PUBLIC)
def test_all_of_them_can_be_made_and_sent_elsewhere(kind: type[Error]) -> None:
    error = kind("what happened")
    error.phase = "body"
    error.attempts = 3
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == "what happened"
    assert (again.phase, again.attempts, again.args) == ("body", 3, ("what happened",))


def test_at_fills_in_and_never_overwrites() -> None:
    error = Error("x").at("head", sent=True)
    assert (error.phase, error.sent, error.replayable) == ("head", True, False)
    assert error.at("body", sent=False, replayable=True) is error
    assert (error.phase, error.sent, error.replayable) == ("head", True, True)
