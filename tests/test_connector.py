"""From a route to a connection: who is asked, in which order, what is demanded, and whose fault a failure is."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import pytest

import plugwire
from plugwire import NoTransport, PluginError, Session, TLSConfig
from plugwire.errors import Refused
from plugwire.protocols import EVERYTHING, FORWARDING_PROXY, Address, Connection, Stream
from plugwire.testing import MockTransport, ScriptedPeer, Server
from plugwire.testing.peer import expect_request, send
from third_party.connect_proxy import ConnectProxy
from third_party.memory_transport import Memory
from third_party.wrapping_dialler import Wrapped
from worlds import World

PIN = "ab" * 32


class Dialler:
    """A dialler that does what it is told."""

    def __init__(
        self, name: str, *, honours: Sequence[str] = (EVERYTHING,), refusal: str | None = None, dial: Any = None
    ):
        self.name = name
        self.honours = frozenset(honours)
        self.refusal = refusal
        self.asked = 0
        self._dial = dial

    def refuse(self, route: Any) -> str | None:
        return self.refusal

    async def dial(self, route: Any, connecting: Any) -> Stream:
        self.asked += 1
        if isinstance(self._dial, BaseException):
            raise self._dial
        if self._dial is not None:
            return self._dial(await connecting.dial(route))  # type: ignore[no-any-return]
        return await connecting.dial(route)  # type: ignore[no-any-return]


class Resolver:
    name = "resolver"
    honours = frozenset[str]()

    def __init__(self, answer: Any, refusal: str | None = None) -> None:
        self.answer = answer
        self.refusal = refusal

    def refuse(self, route: Any) -> str | None:
        return self.refusal

    async def resolve(self, host: str, port: int, connecting: Any) -> Sequence[Address]:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


NOWHERE: dict[str, Any] = {"proxy": "http://proxy:3128", "options": {"path": "/run/x.sock"}}
"""A socket of this machine by way of a proxy: no shipped transport takes that."""


async def fails(world: World, error: type[Exception], url: str = "http://h/", **session: Any) -> Any:
    """What a GET raises."""
    async with world.session(**session) as one:
        with pytest.raises(error) as caught:
            await one.get(url)
        assert one.stats().open == 0
    return caught.value


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_no_transport_lists_each_with_its_reason(world: World) -> None:
    dialler = Dialler("acme", refusal="only on Sundays")
    error = await fails(world, NoTransport, **NOWHERE, transports=[dialler, Memory()])
    assert error.reasons.keys() == {"acme", "mem", "http-proxy", "socks", "unix", "tcp", "h2"}
    assert error.reasons["acme"] == "only on Sundays"
    assert error.reasons["unix"] == "the route has a proxy"
    assert all(f"{name}: {reason}" in str(error) for name, reason in error.reasons.items())
    assert dialler.asked == 0


async def test_refused_in_the_role_passes_on_and_is_told(world: World) -> None:
    first = Dialler("first", dial=Refused("not today"))
    with Server() as server:
        async with world.session(transports=[first]) as session:
            assert (await session.get(f"{server.url}/hello")).ok
    assert first.asked == 1
    error = await fails(world, NoTransport, transports=[first], **NOWHERE)
    assert error.reasons["first"] == "not today"


async def test_whole_transport_that_refuses_leaves_it_to_the_others(world: World) -> None:
    class Reluctant(MockTransport):
        name = "reluctant"

        async def open(self, route: Any, connecting: Any) -> Any:
            raise Refused("not me")

    with Server() as server:
        async with world.session(transports=[Reluctant({})]) as session:
            assert (await session.get(f"{server.url}/hello")).ok
    error = await fails(world, NoTransport, "mem://x/", transports=[Reluctant({})])
    assert error.reasons["reluctant"] == "not me"


async def test_resolver_that_refuses_is_not_asked(world: World) -> None:
    with Server() as server:
        async with world.session(transports=[Resolver(AssertionError("asked"), refusal="no")]) as session:
            assert (await session.get(f"{server.url}/hello")).ok


async def test_refuse_is_asked_once_for_each_route(world: World) -> None:
    asked: list[str] = []

    class Curious(Dialler):
        def refuse(self, route: Any) -> str | None:
            asked.append(str(route))
            return None

    with Server() as server:
        async with world.session(transports=[Curious("curious")]) as session:
            for _ in range(3):
                await session.get(f"{server.url}/hello", headers={"connection": "close"})
    assert asked == [server.url]


# -- honours -----------------------------------------------------------------------------------------------------------


async def test_demand_that_nobody_honours(world: World) -> None:
    error = await fails(world, NoTransport, **NOWHERE, transports=[Dialler("old", honours=())])
    assert error.reasons["old"] == "does not honour path, proxy"


async def test_securer_that_does_not_know_pins_is_passed_over(world: World) -> None:
    class OldTLS:
        name = "old-tls"
        honours = frozenset({"tls.verify", "tls.ca_data"})

        def refuse(self, route: Any) -> None: ...

        async def secure(self, stream: Any, route: Any, connecting: Any) -> Any:
            raise AssertionError("asked although it does not honour pins")

    with Server(tls=True) as server:
        tls = TLSConfig(ca_data=server.tls_config.ca_data, ca_file=server.tls_config.ca_file, pins=(PIN,))
        async with world.session(tls=tls, transports=[OldTLS()]) as session:
            with pytest.raises(plugwire.CertificateError):  # the shipped one looked at the pins
                await session.get(f"{server.url}/hello")


async def test_whole_transport_must_honour_everything_demanded(world: World) -> None:
    error = await fails(world, NoTransport, "mem://x/", proxy="http://proxy:1", transports=[Memory()])
    assert error.reasons["mem"] == "does not honour proxy"


async def test_option_of_a_transport(world: World) -> None:
    seen: list[Any] = []

    class Throttled(Dialler):
        async def dial(self, route: Any, connecting: Any) -> Any:
            seen.append(route.get_extra("bytes_per_second"))
            return await connecting.dial(route.replaced(extra={}))

    with Server() as server:
        throttled = Throttled("throttled", honours=("bytes_per_second",))
        async with world.session(transports=[throttled], options={"bytes_per_second": 5}) as session:
            await session.get(f"{server.url}/hello")
            await session.get(f"{server.url}/hello", options={"bytes_per_second": 9})  # another route
            await session.get(f"{server.url}/hello")
    assert seen == [5, 9]


async def test_route_needs_a_transport_before_any_io(world: World) -> None:
    resolver = Resolver(AssertionError("there was I/O"))
    error = await fails(world, NoTransport, **NOWHERE, transports=[resolver])
    assert error.reasons["http-proxy"] == "the route has a socket path"
    assert not error.sent


# -- order -------------------------------------------------------------------------------------------------------------


async def test_each_asks_those_below_itself(world: World) -> None:
    order: list[str] = []

    def noting(name: str) -> Dialler:
        def wrap(stream: Stream) -> Stream:
            order.append(name)
            return Wrapped(stream)

        return Dialler(name, dial=wrap)

    with Server() as server:
        async with world.session(transports=[noting("outer"), noting("middle"), noting("inner")]) as session:
            await session.get(f"{server.url}/hello")
    assert order == ["inner", "middle", "outer"]


async def test_users_transport_of_a_shipped_name_takes_its_place(world: World) -> None:
    error = await fails(world, plugwire.ConnectError, transports=[Dialler("tcp", dial=OSError("mine"))])
    assert "mine" in str(error)


async def test_wrapper_at_the_bottom_has_nobody_below(world: World) -> None:
    error = await fails(world, NoTransport, **NOWHERE, transports=[Dialler("wrapper")])
    assert "no dialler takes http://h" in str(error)


def test_two_transports_of_one_name() -> None:
    with pytest.raises(PluginError, match="two transports are named 'one'"):
        Session(transports=[Dialler("one"), Dialler("one")])


@pytest.mark.parametrize(
    ("transport", "reason"),
    [
        (object(), "is no transport: it has none of resolve, dial, secure, speak, open"),
        (Memory, r"is a class: give an object, Memory\(\)"),
        (type("Half", (), {"dial": Dialler.dial, "name": "half", "honours": frozenset()})(), "half has no 'refuse'"),
        (
            type("Plain", (), {"dial": lambda *_: 0, "name": "p", "honours": (), "refuse": 0})(),
            "dial is a plain function",
        ),
    ],
)
def test_what_is_no_transport(transport: object, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        Session(transports=[transport])  # type: ignore[list-item]


# -- blame -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "error", "phase"),
    [
        (Resolver(OSError("gone")), plugwire.ResolveError, "resolve"),
        (Resolver([]), plugwire.ResolveError, "resolve"),
        (Resolver(KeyError("bug")), PluginError, "resolve"),
        (Resolver(TimeoutError()), plugwire.ConnectTimeout, "resolve"),
        (Dialler("acme", dial=OSError("gone")), plugwire.ConnectError, "dial"),
        (Dialler("acme", dial=TimeoutError()), plugwire.ConnectTimeout, "dial"),
        (Dialler("acme", dial=ssl.SSLError("odd")), plugwire.ConnectError, "dial"),
        (Dialler("acme", dial=ValueError("bug")), PluginError, "dial"),
        (Dialler("acme", dial=plugwire.ProxyError("no")), plugwire.ProxyError, "dial"),
    ],
)
async def test_errors_get_phase_and_blame(
    world: World, transport: Any, error: type[plugwire.Error], phase: str
) -> None:
    came = await fails(world, error, transports=[transport])
    assert (came.phase, came.sent, came.replayable, came.attempts) == (phase, False, True, 1)
    assert came.request.url.host == "h"
    if error is PluginError:
        assert came.plugin == transport.name
        assert f"{transport.name} raised" in str(came)


async def test_transport_that_returns_something_else(world: World) -> None:
    with Server() as server:
        error = await fails(
            world, PluginError, f"{server.url}/", transports=[Dialler("acme", dial=lambda stream: stream.close())]
        )
    assert "acme.dial returned NoneType, not a Stream" in str(error)


async def test_refuse_that_raises(world: World) -> None:
    class Buggy(Dialler):
        def refuse(self, route: Any) -> str | None:
            raise KeyError("bug")

    error = await fails(world, PluginError, transports=[Buggy("buggy")])
    assert error.plugin == "buggy"


async def test_proxy_dialler_goes_on_below_itself(world: World) -> None:
    below = Dialler("below", dial=OSError("no proxy there"))
    error = await fails(world, plugwire.ConnectError, proxy="http://proxy:1", transports=[ConnectProxy(), below])
    assert "no proxy there" in str(error)
    assert below.asked == 1


class Counted(Memory):
    """Counts the connections that it opens; each of them refuses its first `refusals` requests."""

    def __init__(self, refusals: int = 0) -> None:
        super().__init__()
        self.opened = 0
        self.refusals = refusals

    async def open(self, route: Any, connecting: Any) -> Connection:
        self.opened += 1
        connection = await super().open(route, connecting)
        answer = connection.send

        async def send(request: Any, call: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise Refused("no capacity any more")
            return await answer(request, call)

        connection.send = send  # type: ignore[method-assign]
        return connection


async def test_connection_that_does_not_say_that_it_is_idle_is_used_again(world: World) -> None:
    transport = Counted()
    async with world.session(transports=[transport], defaults=False) as session:
        for _ in range(3):
            assert (await session.get("mem://x/")).content == b"from memory"
        assert session.stats()[:3] == (1, 1, 0)
    assert transport.opened == 1


async def test_request_that_a_connection_refuses_goes_to_another(world: World) -> None:
    transport = Counted(refusals=3)
    async with world.session(transports=[transport], defaults=False) as session:
        assert (await session.get("mem://x/")).content == b"from memory"
    assert transport.opened == 4


async def test_connections_that_refuse_every_request_are_to_blame(world: World) -> None:
    transport = Counted(refusals=1000)
    error = await fails(world, PluginError, "mem://x/", transports=[transport])
    assert "no capacity any more" in str(error)
    assert (error.sent, error.phase) == (False, "pool")


async def test_shipped_ones_stand_before_those_they_build_upon(world: World) -> None:
    """A "tcp" of one's own is what the shipped proxies dial by, and a wrapper above them sees the whole way."""
    tcp, wrapper = Dialler("tcp", dial=OSError("mine")), Dialler("wrapper")
    error = await fails(world, plugwire.ConnectError, transports=[wrapper, tcp], proxy="http://proxy:1")
    assert "http://proxy:1 cannot be reached: mine" in str(error)
    assert (wrapper.asked, tcp.asked) == (1, 1)


async def test_stream_to_a_proxy_that_forwards_is_for_speakers_that_say_so(world: World) -> None:
    class Forwarding(Wrapped):
        def extra(self, key: Any, default: Any = None) -> Any:
            return True if key is FORWARDING_PROXY else super().extra(key, default)

    class Speaker:
        name = "old"
        protocols = ("http/1.1",)
        honours = frozenset({"http_versions"})

        def refuse(self, route: Any) -> None: ...

        async def speak(self, stream: Any, protocol: str, route: Any, connecting: Any) -> Any:
            raise AssertionError("it would have written a request for the origin")

    with ScriptedPeer([expect_request(b"GET http://h/ "), send(b"HTTP/1.1 204 No Content\r\n\r\n")]) as proxy:
        dialler = Dialler("acme", dial=Forwarding)
        async with world.session(transports=[dialler, Speaker()], proxy=proxy.url) as session:
            assert (await session.get("http://h/")).ok
