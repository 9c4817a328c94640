"""Typed options: who declares them, which value holds, and what is refused before any I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from plugwire import Response, Session, UnknownOption, UsageError, hookimpl
from plugwire.testing import MockTransport
from worlds import World


@dataclass(frozen=True)
class CacheOptions:
    cache_ttl: float = 60.0
    cache_mode: str | None = None
    cache_tags: tuple[str, ...] = ()
    cache_on: bool = True
    cache_size: int = 100

    def __post_init__(self) -> None:
        if self.cache_size < 0:
            raise ValueError("cache_size is not negative")


class Cache:
    option_types = (CacheOptions,)

    def __init__(self) -> None:
        self.seen: list[CacheOptions] = []

    @hookimpl(stage="cache")
    async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
        response = await call_next(request)
        self.seen.append(call.options(CacheOptions))  # as late as can be: what is wrong must have been said before
        return response


def mock() -> MockTransport:
    return MockTransport({"/": Response(200)})


async def test_defaults_then_session_then_call(world: World) -> None:
    cache = Cache()
    options = {"cache_ttl": 5, "cache_mode": "strict"}
    async with world.session(plugins=[cache], transports=[mock()], options=options) as session:
        await session.get("http://h/")
        await session.get("http://h/", options={"cache_ttl": 7, "cache_tags": ("a",)})
        await session.get("http://h/")
        derived = session.derive(options={"cache_ttl": 9})
        await derived.get("http://h/")
        await derived.get("http://h/", options={"cache_mode": None})
    assert cache.seen == [
        CacheOptions(5, "strict"),
        CacheOptions(7, "strict", ("a",)),
        CacheOptions(5, "strict"),
        CacheOptions(9, "strict"),
        CacheOptions(9, None),
    ]


async def test_a_session_without_options_has_the_defaults(world: World) -> None:
    cache = Cache()
    async with world.session(plugins=[cache], transports=[mock()]) as session:
        await session.get("http://h/")
    assert cache.seen == [CacheOptions()]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"cache_tll": 1}, "unknown option 'cache_tll'; did you mean 'cache_ttl'?"),
    ({"zzz": 1}, "unknown option 'zzz'; known: cache_mode, cache_on, cache_size, cache_tags, cache_ttl, "),
    ({"cache_ttl": "5"}, "option cache_ttl='5': float is wanted"),
    ({"cache_ttl": True}, "option cache_ttl=True: float is wanted"),
    ({"cache_ttl": None}, "option cache_ttl=None: float is wanted"),
    ({"cache_mode": 5}, "option cache_mode=5: str | None is wanted"),
    ({"cache_tags": ["a"]}, "option cache_tags=['a']: tuple[str, ...] is wanted"),
    ({"cache_on": 1}, "option cache_on=1: bool is wanted"),
    ({"cache_size": 1.5}, "option cache_size=1.5: int is wanted"),
    ({"cache_size": -1}, "options of CacheOptions: cache_size is not negative"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
async def test_wrong_option_of_a_call_is_refused_before_any_io(
    world: World, options: dict[str, Any], message: str
) -> None:
    transport, cache = mock(), Cache()
    async with world.session(plugins=[cache], transports=[transport], defaults=False) as session:
        with pytest.raises(UnknownOption) as caught:
            await session.get("http://h/", options=options)
        assert message in str(caught.value)
    assert transport.calls == cache.seen == []


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_option_of_a_session_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownOption) as caught:
        Session(plugins=[Cache()], options=options, defaults=False)
    assert message in str(caught.value)


@pytest.mark.parametrize("options", [5, "cache_ttl", [("cache_ttl", 5)]])
def test_options_are_a_mapping(options: Any) -> None:
    with pytest.raises(UsageError, match="a mapping of names to values"):
        Session(plugins=[Cache()], options=options)
    with Session(plugins=[Cache()], transports=[mock()]) as session, pytest.raises(UsageError, match="a mapping"):
        session.get("http://h/", options=options)


def test_option_of_a_plugin_that_is_not_there() -> None:
    with pytest.raises(UnknownOption, match="unknown option 'cache_ttl'"):
        Session(options={"cache_ttl": 5})


async def test_options_that_nobody_declared_cannot_be_asked_for(world: World) -> None:
    @dataclass(frozen=True)
    class Undeclared:
        thing: int = 1

    async def asking(request: Any, call_next: Any, call: Any) -> Any:
        return call.options(Undeclared)

    async with world.session(plugins=[asking], transports=[mock()]) as session:
        with pytest.raises(UnknownOption, match="Undeclared was not declared by any plugin"):
            await session.get("http://h/")


def test_option_of_the_route_must_be_hashable() -> None:
    with (
        Session(transports=[mock()]) as session,
        pytest.raises(UsageError, match="cannot be hashed"),
    ):
        session.get("http://h/", options={"socket_options": [1]})
