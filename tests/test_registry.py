"""What is refused when a session is made, by which name, in which order plugins stand, and how they are found."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import plugwire
import plugwire.events
from plugwire import PluginError, Response, Session, UnknownOption, UsageError, hookimpl
from plugwire.registry import entry_points
from plugwire.shipped import DEFAULT_PLUGINS, SHIPPED_PLUGINS, SHIPPED_TRANSPORTS
from plugwire.testing import MockTransport
from third_party.memory_transport import Memory
from worlds import World


async def _pass(self: Any, request: Any, call_next: Any, call: Any) -> Any:
    return await call_next(request)


class Good:
    @hookimpl
    async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
        return await call_next(request)


def refused(plugin: object, match: str, name: str | None = None) -> None:
    """A session with this plugin cannot be made, and the error says which plugin and why."""
    with pytest.raises(PluginError, match=match) as caught:
        Session(plugins=[plugin])
    assert caught.value.plugin == (name or type(plugin).__name__)
    assert caught.value.plugin in str(caught.value)


def made(**hooks: Any) -> Any:
    """A plugin with these marked methods."""
    return type("Made", (), {name: hookimpl(function) for name, function in hooks.items()})()


# -- shape -----------------------------------------------------------------------------------------------------------


def test_unknown_hook() -> None:
    refused(made(around_everything=_pass), "there is no such hook: around_call, around_send")


def test_unknown_hook_beside_a_known_one() -> None:
    refused(made(around_send=_pass, arround_read=_pass), "Made.arround_read is marked")


def test_no_hook_at_all() -> None:
    refused(object(), "implements no hook")


def test_plain_function_where_async_is_wanted() -> None:
    refused(made(around_send=lambda self, request, call_next: None), "Made.around_send is a plain function")


def test_async_function_where_plain_is_wanted() -> None:
    async def observe(self: Any, event: Any) -> None: ...

    refused(made(observe=observe), "Made.observe is `async def`")


def test_plain_wrapper_of_an_async_function_is_async() -> None:
    @functools.wraps(_pass)
    def wrapper(*args: Any) -> Any:
        return _pass(*args)

    Session(plugins=[made(around_send=wrapper)]).close()


def test_callable_object_is_async_by_its_call() -> None:
    class Function:
        def __init__(self) -> None:
            hookimpl(self)

        async def __call__(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    plugin = Good()
    plugin.around_send = Function()  # type: ignore[method-assign, assignment]
    with Session(plugins=[plugin], transports=[MockTransport({"/": Response(200)})]) as session:
        assert session.get("http://h/").ok


def test_argument_that_the_hook_does_not_have() -> None:
    async def around_send(self: Any, request: Any, call_next: Any, session: Any) -> Any: ...

    refused(made(around_send=around_send), "takes 'session', which the hook does not have: request, call_next, call")


def test_argument_with_a_default() -> None:
    async def around_send(self: Any, request: Any, call_next: Any, call: Any = None) -> Any: ...

    refused(made(around_send=around_send), "call has a default")


@pytest.mark.parametrize("kind", ["*args", "**kwargs", "*, call"])
def test_arguments_that_hooks_are_not_called_with(kind: str) -> None:
    space: dict[str, Any] = {}
    exec(f"async def around_send(self, request, call_next, {kind}): ...", space)
    refused(made(around_send=space["around_send"]), "is not of the form that hooks are called with")


def test_arguments_in_another_order() -> None:
    async def around_send(self: Any, call_next: Any, request: Any) -> Any: ...

    refused(made(around_send=around_send), "in another order than the hook: request, call_next, call")


def test_middleware_without_call_next() -> None:
    async def around_send(self: Any, request: Any) -> Any: ...

    refused(made(around_send=around_send), "must take request and call_next")


def test_hook_name_without_the_mark() -> None:
    class Unmarked(Good):
        async def around_call(self, request: Any, call_next: Any) -> Any: ...

    refused(Unmarked(), "Unmarked.around_call has a hook's name but not the mark")


def test_class_where_an_object_is_meant() -> None:
    refused(Good, r"is a class: give an object, Good\(\)", "Good")


def test_same_object_twice() -> None:
    good = Good()
    with pytest.raises(PluginError, match="Good is listed twice"):
        Session(plugins=[good, "default-headers", good])


def test_same_function_twice() -> None:
    async def middleware(request: Any, call_next: Any) -> Any: ...

    with pytest.raises(PluginError, match="middleware is listed twice"):
        Session(plugins=[middleware, middleware])


def test_plugins_that_compare_as_equal_are_still_two() -> None:
    @dataclass
    class Value:
        number: int

        around_send = hookimpl(_pass)

    Session(plugins=[Value(1), Value(1)]).close()


def test_properties_are_not_evaluated() -> None:
    class Lazy(Good):
        @property
        def observe(self) -> Any:
            raise AssertionError("a property was evaluated")

        @functools.cached_property
        def around_read(self) -> Any:
            raise AssertionError("a cached property was evaluated")

        @property
        def anything(self) -> Any:
            raise AssertionError("a property was evaluated")

    Session(plugins=[Lazy()]).close()


def test_plugins_must_be_a_list() -> None:
    with pytest.raises(UsageError, match="a list of objects and names"):
        Session(plugins="retries")


# -- stages ----------------------------------------------------------------------------------------------------------


def test_unknown_stage_names_the_method() -> None:
    with pytest.raises(UsageError, match=r"_pass: stage='wire' is none of call, decode, redirect, retry, prepare"):
        hookimpl(stage="wire")(_pass)


def test_stage_without_its_keyword() -> None:
    with pytest.raises(UsageError, match=r"@hookimpl\(stage='sign'\)"):
        hookimpl("sign")  # type: ignore[call-overload]


def test_around_call_in_the_send_tier() -> None:
    class Wrong:
        @hookimpl(stage="sign")
        async def around_call(self, request: Any, call_next: Any) -> Any: ...

    refused(Wrong(), "Wrong.around_call at stage sign: that one is in the send tier")


def test_around_send_in_the_call_tier() -> None:
    class Wrong:
        @hookimpl(stage="retry")
        async def around_send(self, request: Any, call_next: Any) -> Any: ...

    refused(Wrong(), "Wrong.around_send at stage retry: that one is in the call tier")


def test_stage_of_a_hook_that_stands_at_none() -> None:
    class Wrong:
        @hookimpl(stage="sign")
        def observe(self, event: Any) -> None: ...

    refused(Wrong(), "Wrong.observe stands at no stage")


# -- short form ------------------------------------------------------------------------------------------------------


def test_short_form_must_be_async() -> None:
    def middleware(request: Any, call_next: Any) -> Any: ...

    refused(middleware, "is a plain function", "middleware")


@pytest.mark.parametrize(
    "arguments", ["request", "request, call_next, context", "request, call_next, call=None", "*args"]
)
def test_short_form_with_wrong_arguments(arguments: str) -> None:
    space: dict[str, Any] = {}
    exec(f"async def middleware({arguments}): ...", space)
    refused(space["middleware"], r"the short form is `async def name\(request, call_next\)`", "middleware")


def test_short_form_takes_no_mark() -> None:
    @hookimpl
    async def around_send(request: Any, call_next: Any) -> Any: ...

    refused(around_send, "those take no mark", "around_send")


# -- worlds, events, options -----------------------------------------------------------------------------------------


async def test_plugin_for_another_world(world: World) -> None:
    class Elsewhere(Good):
        worlds = frozenset({"blocking", "asyncio", "trio"} - {world.name})

    with pytest.raises(PluginError, match=rf"Elsewhere works in .* only, not in {world.name}"):
        async with world.session(plugins=[Elsewhere()]):
            pass


async def test_transport_for_another_world(world: World) -> None:
    memory: Any = Memory()
    memory.worlds = {"blocking", "asyncio", "trio"} - {world.name}
    with pytest.raises(PluginError, match=rf"the transport mem works in .* only, not in {world.name}"):
        async with world.session(transports=[memory]):
            pass


@pytest.mark.parametrize("worlds", ["asyncio", {"curio"}, 5])
def test_worlds_that_are_none(worlds: object) -> None:
    good: Any = Good()
    good.worlds = worlds
    refused(good, "a set of some of blocking, asyncio, trio")


@pytest.mark.parametrize("events", [int, (int,), "Connect", (plugwire.events.Connect, 3)])
def test_events_that_are_none(events: object) -> None:
    good: Any = Good()
    good.events = events
    refused(good, "event class")


def test_events_that_a_plugin_keeps_are_not_those_that_it_wants() -> None:
    class Deaf:
        def __init__(self) -> None:
            self.events: list[Any] = []  # meant to keep what was seen: the name is taken

        @hookimpl
        def observe(self, event: Any) -> None: ...

    refused(Deaf(), r"Deaf\.events must be a tuple of event classes, not \[\]")


@dataclass(frozen=True)
class First:
    cache_ttl: int = 1


@dataclass(frozen=True)
class Second:
    cache_ttl: int = 2


@dataclass
class Thawed:
    cache_ttl: int = 2


@dataclass(frozen=True)
class OfTheRoute:
    path: str = ""


def with_options(name: str, *kinds: object) -> Any:
    return type(name, (Good,), {"option_types": kinds})()


def test_two_plugins_claim_one_option() -> None:
    with pytest.raises(UnknownOption, match="'cache_ttl' is claimed by both One and Other"):
        Session(plugins=[with_options("One", First), with_options("Other", Second)])


def test_plugin_claims_an_option_of_the_route() -> None:
    with pytest.raises(UnknownOption, match="'path' is claimed by both the route and One"):
        Session(plugins=[with_options("One", OfTheRoute)])


def test_two_plugins_share_an_option_type() -> None:
    Session(plugins=[with_options("One", First), with_options("Other", First)]).close()


@pytest.mark.parametrize("kind", [Thawed, int, "x"])
def test_option_types_must_be_frozen_dataclasses(kind: object) -> None:
    refused(with_options("One", kind), "frozen dataclasses only")


# -- order -----------------------------------------------------------------------------------------------------------


def recorder(log: list[str], name: str, hook: str, stage: str) -> Any:
    async def wrap(self: Any, request: Any, call_next: Any) -> Any:
        log.append(name)
        return await call_next(request)

    return type(name, (), {hook: hookimpl(stage=stage)(wrap)})()


def test_order_is_by_stage_then_by_list() -> None:
    log: list[str] = []
    places = [
        ("around_send", "sign"), ("around_send", "prepare"), ("around_call", "retry"), ("around_call", "call"),
        ("around_send", "cache"), ("around_call", "decode"), ("around_send", "auth"), ("around_call", "redirect"),
        ("around_send", "attempt"),
    ]  # fmt: skip
    plugins = [recorder(log, f"{stage} {number}", hook, stage) for number in (1, 2) for hook, stage in places]
    with Session(plugins=plugins, transports=[MockTransport({"/": Response(200)})]) as session:
        session.get("http://h/")
    stages = ["call", "decode", "redirect", "retry", "prepare", "auth", "cache", "attempt", "sign"]
    assert log == [f"{stage} {number}" for stage in stages for number in (1, 2)]


def test_default_stages() -> None:
    log: list[str] = []

    class Everywhere:
        @hookimpl
        async def around_call(self, request: Any, call_next: Any) -> Any:
            log.append("around_call")
            return await call_next(request)

        @hookimpl
        async def around_send(self, request: Any, call_next: Any) -> Any:
            log.append("around_send")
            return await call_next(request)

        @hookimpl
        def around_read(self, body: Any) -> Any:
            log.append("around_read")
            return body

    plugins = [
        Everywhere(),
        recorder(log, "decode", "around_call", "decode"),
        recorder(log, "cache", "around_send", "cache"),
        recorder(log, "sign", "around_send", "sign"),
    ]
    with Session(plugins=plugins, transports=[MockTransport({"/": Response(200)})]) as session:
        session.get("http://h/")
    assert log == ["around_call", "decode", "cache", "around_send", "sign", "around_read"]


def test_defaults_come_after_the_users() -> None:
    with Session(plugins=[Good(), "retries"]) as session:
        assert session.view.engine.plugins.names == ("Good", "retries", *DEFAULT_PLUGINS)
    with Session(plugins=[Good()], defaults=False) as session:
        assert session.view.engine.plugins.names == ("Good",)


def test_own_instance_takes_the_place_of_a_default() -> None:
    from plugwire_plugins.default_headers import DefaultHeaders

    class Mine(DefaultHeaders):
        pass

    for mine in (DefaultHeaders(user_agent="mine"), Mine(user_agent="mine")):
        mock = MockTransport({"/": Response(200)})
        with Session(plugins=[mine], transports=[mock]) as session:
            session.get("http://h/")
            assert len(session.view.engine.plugins.names) == len(DEFAULT_PLUGINS)
        assert mock.calls[0].headers["user-agent"] == "mine"


def test_plugins_of_one_name_are_told_apart() -> None:
    with Session(plugins=[Good(), Good()], defaults=False) as session:
        assert session.view.engine.plugins.names == ("Good", "Good #2")


def test_nothing_is_registered_later() -> None:
    plugins: list[Any] = []
    with Session(plugins=plugins, defaults=False) as session:
        plugins.append(Good())
        assert session.view.engine.plugins.names == ()


# -- entry points ----------------------------------------------------------------------------------------------------

MODULE = """
from plugwire import hookimpl

class Stamp:
    def __init__(self, text="stamped"):
        self.text = text
    @hookimpl
    async def around_send(self, request, call_next):
        request.headers["x-stamp"] = self.text
        return await call_next(request)

def factory():
    return Stamp("made")

ready = Stamp("ready")

async def short(request, call_next):
    request.headers["x-stamp"] = "short"
    return await call_next(request)

def broken():
    raise RuntimeError("out of order")
"""
POINTS = """
[plugwire.plugins]
stamp = fake_plugin:Stamp
factory = fake_plugin:factory
ready = fake_plugin:ready
short = fake_plugin:short
broken = fake_plugin:broken
missing = fake_plugin:nothing

[plugwire.transports]
mem = third_party.memory_transport:Memory
"""


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A distribution with plugins is installed; the groups that were scanned for so far."""
    (tmp_path / "fake_plugin.py").write_text(MODULE)
    info = tmp_path / "fake_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    scanned: list[str] = []
    scan = metadata.entry_points

    def counted(**kwargs: Any) -> Any:
        scanned.append(kwargs["group"])
        return scan(**kwargs)

    monkeypatch.setattr(metadata, "entry_points", counted)
    entry_points.cache_clear()
    yield scanned
    entry_points.cache_clear()
    sys.modules.pop("fake_plugin", None)


@pytest.mark.parametrize(
    ("name", "stamp"), [("stamp", "stamped"), ("factory", "made"), ("ready", "ready"), ("short", "short")]
)
def test_plugin_by_name(scans: list[str], name: str, stamp: str) -> None:
    mock = MockTransport({"/": Response(200)})
    with Session(plugins=[name], transports=[mock]) as session:
        session.get("http://h/")
        assert session.view.engine.plugins.names[0] == name
    assert mock.calls[0].headers["x-stamp"] == stamp


def test_environment_is_scanned_once(scans: list[str]) -> None:
    for _ in range(3):
        Session(plugins=["stamp", "factory"], transports=["mem"]).close()
    assert sorted(scans) == ["plugwire.plugins", "plugwire.transports"]


def test_shipped_names_need_no_scan(scans: list[str]) -> None:
    Session(plugins=[*SHIPPED_PLUGINS], transports=[*SHIPPED_TRANSPORTS]).close()
    with Session(transports=[MockTransport({"/": Response(200)})]) as session:
        session.get("https://h/")
    assert scans == []


def test_an_installed_plugin_never_inserts_itself(scans: list[str]) -> None:
    entry_points("plugwire.plugins")
    with Session() as session:
        assert session.view.engine.plugins.names == DEFAULT_PLUGINS


def test_unknown_name_lists_the_known_ones(scans: list[str]) -> None:
    with pytest.raises(PluginError, match=r"there is no plugin named 'stampp'; known: .*retries.*stamp") as caught:
        Session(plugins=["stampp"])
    assert caught.value.plugin == "stampp"
    with pytest.raises(PluginError, match=r"there is no transport named 'men'; known: .*mem"):
        Session(transports=["men"])


@pytest.mark.parametrize(("name", "reason"), [("broken", "RuntimeError: out of order"), ("missing", "AttributeError")])
def test_what_cannot_be_loaded_is_named(scans: list[str], name: str, reason: str) -> None:
    with pytest.raises(PluginError, match=rf"'{name}' \(fake_plugin:.*\) cannot be loaded: {reason}"):
        Session(plugins=[name])


def test_shipped_tables_are_our_entry_points() -> None:
    distribution = metadata.distribution("plugwire")
    for group, table in (("plugwire.plugins", SHIPPED_PLUGINS), ("plugwire.transports", SHIPPED_TRANSPORTS)):
        mine = {point.name: point.value for point in distribution.entry_points if point.group == group}
        assert mine == dict(table)


async def test_scheme_finds_the_installed_transport_of_its_name(world: World, scans: list[str]) -> None:
    async with world.session() as session:
        assert (await session.get("mem://anywhere/")).content == b"from memory"
        assert (await session.get("mem://anywhere/nothing")).status_code == 404
    assert scans == ["plugwire.transports"]


def test_transport_found_by_a_scheme_takes_no_other(scans: list[str]) -> None:
    class Greedy(Memory):
        def refuse(self, route: Any) -> str | None:
            return None

    import third_party.memory_transport as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Memory", Greedy)
        with Session() as session:
            assert session.get("mem://x/").content == b"from memory"
            with pytest.raises(plugwire.ConnectError):
                session.get("http://127.0.0.1:1/")


def test_scheme_that_came_from_a_response_is_not_looked_for(scans: list[str]) -> None:
    class Follow:
        @hookimpl(stage="redirect")
        async def around_call(self, request: Any, call_next: Any) -> Any:
            response = await call_next(request)
            request.url = plugwire.URL(response.headers["location"])
            return await call_next(request)

    class OnlyHTTP(MockTransport):
        def refuse(self, route: Any) -> str | None:
            return None if route.scheme == "http" else "only http"

    only_http = OnlyHTTP({"/": Response(302, headers={"location": "mem://anywhere/"})})
    session = Session(plugins=[Follow()], transports=[only_http], defaults=False)
    with session, pytest.raises(plugwire.NoTransport) as caught:
        session.get("http://h/")
    assert scans == []
    assert "mem" in caught.value.reasons


def test_given_transport_goes_before_an_installed_one(scans: list[str]) -> None:
    with Session(transports=[Memory({"/": b"mine"})]) as session:
        assert session.get("mem://x/").content == b"mine"
    assert scans == []


def test_unknown_scheme_is_not_sent_in_the_clear(scans: list[str]) -> None:
    with Session() as session, pytest.raises(plugwire.NoTransport) as caught:
        session.get("htps://127.0.0.1:1/")
    assert caught.value.reasons["tcp"] == "does not know the scheme htps"
    assert "htps" in caught.value.reasons
