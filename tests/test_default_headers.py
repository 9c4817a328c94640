"""The default headers: filled in once, under what the user has set."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Response
from plugwire.testing import MockTransport
from plugwire_plugins import DefaultHeaders

if TYPE_CHECKING:
    from worlds import World

URL = "https://h.example/x"


ONLY: dict[str, Any] = {"defaults": False, "plugins": ["default-headers"]}
"""A session that has none of the other defaults."""


async def sent(world: World, **given: Any) -> plugwire.Headers:
    """The headers of a request of such a session, as they go out."""
    mock = MockTransport({URL: Response(200)})
    async with world.session(transports=[mock], **given) as session:
        await session.get(URL)
    return mock.calls[0].headers


async def test_a_session_says_who_it_is_and_takes_anything(world: World) -> None:
    headers = await sent(world, **ONLY)
    assert list(headers.items()) == [
        ("Host", "h.example"),
        ("User-Agent", f"plugwire/{plugwire.__version__}"),
        ("Accept", "*/*"),
    ]
    assert re.fullmatch(r"plugwire/[0-9.]+", headers["user-agent"])


async def test_no_content_coding_is_promised_that_nobody_decodes(world: World) -> None:
    assert "accept-encoding" not in await sent(world, **ONLY)


async def test_a_plugin_that_decodes_adds_its_own_codings(world: World) -> None:
    class Decodes:
        @plugwire.hookimpl
        async def session_opened(self, session: Any) -> None:
            session.headers.add("Accept-Encoding", "rot13", mode="if_new")

    assert (await sent(world, plugins=[Decodes()]))["accept-encoding"] == "rot13"


async def test_what_the_user_has_set_stays(world: World) -> None:
    headers = await sent(world, headers={"user-agent": "mine/1"})
    assert headers.get_list("user-agent") == ["mine/1"]
    assert headers["accept"] == "*/*"


async def test_a_call_has_the_last_word(world: World) -> None:
    mock = MockTransport({URL: Response(200)})
    async with world.session(transports=[mock], **ONLY) as session:
        await session.get(URL, headers={"Accept": "text/csv"})
        await session.get(URL)
        assert list(session.headers) == ["User-Agent", "Accept"]
    assert [request.headers.get_list("accept") for request in mock.calls] == [["text/csv"], ["*/*"]]


async def test_without_defaults_there_are_none(world: World) -> None:
    assert list(await sent(world, defaults=False)) == ["Host"]


async def test_another_one_takes_its_place(world: World) -> None:
    headers = await sent(world, plugins=[DefaultHeaders(user_agent=None, accept="text/html")])
    del headers["accept-encoding"]
    assert list(headers.items()) == [("Host", "h.example"), ("Accept", "text/html")]


async def test_one_object_serves_several_sessions(world: World) -> None:
    plugin = DefaultHeaders("both/1")
    assert (await sent(world, plugins=[plugin]))["user-agent"] == "both/1"
    assert (await sent(world, plugins=[plugin], headers={"user-agent": "own/1"}))["user-agent"] == "own/1"
    assert (await sent(world, plugins=[plugin]))["user-agent"] == "both/1"


async def test_a_derived_session_has_them_too(world: World) -> None:
    mock = MockTransport({URL: Response(200)})
    async with world.session(transports=[mock]) as session:
        derived = session.derive(headers={"x-mine": "1"})
        await derived.get(URL)
    assert mock.calls[0].headers["user-agent"].startswith("plugwire/")


def test_a_value_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(plugwire.InvalidHeader):
        DefaultHeaders("two\r\nlines")
