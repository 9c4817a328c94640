"""Basic authentication (RFC 7617)."""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Request, Response
from plugwire.testing import MockTransport, Server
from plugwire_plugins import BasicAuth

if TYPE_CHECKING:
    from worlds import World

URL = "https://h.example/x"
OTHER = "https://other.example/x"


async def sent(world: World, *, url: str = URL, call: dict[str, Any] | None = None, **given: Any) -> str | None:
    """The Authorization of a call's request, as it goes out; None without one."""
    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock], **given) as session:
        await session.get(url, **(call or {}))
    return mock.calls[0].headers.get("authorization")


def credentials(value: str | None) -> str:
    assert value is not None and value.startswith("Basic ")
    return b64decode(value.removeprefix("Basic "), validate=True).decode()


async def test_the_example_of_the_rfc(world: World) -> None:
    assert await sent(world, auth=BasicAuth("Aladdin", "open sesame")) == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert await sent(world, auth=BasicAuth("test", "123\u00a3")) == "Basic dGVzdDoxMjPCow=="


async def test_a_pair_means_basic_on_the_session_and_on_a_call(world: World) -> None:
    assert credentials(await sent(world, auth=("user", "pass:word"))) == "user:pass:word"
    assert credentials(await sent(world, call={"auth": ("other", "")}, auth=("user", "x"))) == "other:"
    assert await sent(world, call={"auth": None}, auth=("user", "x")) is None


async def test_a_composed_and_a_decomposed_letter_are_the_same_password(world: World) -> None:
    assert credentials(await sent(world, auth=("e\u0301", "e\u0301"))) == "\u00e9:\u00e9"


async def test_userinfo_in_the_url_is_used_and_not_sent_as_part_of_it(world: World) -> None:
    assert credentials(await sent(world, url="https://us%65r:p%40ss@h.example/x")) == "user:p@ss"


@pytest.mark.parametrize("version", ["http/1.1", "h2"])
@pytest.mark.parametrize("how", ["call", "base_url", "connect", "stream"])
async def test_userinfo_is_basic_for_its_origin_and_appears_nowhere_else(
    world: World, caplog: pytest.LogCaptureFixture, version: str, how: str
) -> None:
    events: list[Any] = []
    caplog.set_level(logging.DEBUG)
    with Server({"/x": Response(404)}, http_versions=(version,)) as server:
        site = server.url.replace("://", "://us%65r:p%40ss-w0rd@")
        given = {"base_url": site} if how == "base_url" else {}
        async with world.session(http_versions=(version,), plugins=["wirelog"], **given) as session:
            if how == "connect":
                async with await session.connect(site) as connection:
                    response = await connection.open_request("GET", "/x").send()
                    await response.read()
            elif how == "stream":
                async with session.stream("GET", f"{site}/x", observe=events.append) as response:
                    await response.read()
            else:
                response = await session.get("/x" if how == "base_url" else f"{site}/x", observe=events.append)
            with pytest.raises(plugwire.HTTPStatusError) as caught:
                response.raise_for_status()
            explained = str(session.explain(f"{site}/x"))
        (request,) = server.calls
    assert credentials(request.headers.get("authorization")) == "user:p@ss-w0rd"
    assert (request.headers["host"], request.url.target) == (server.url.removeprefix("http://"), "/x")
    assert b"p%40ss" not in request.headers.encoded()
    # The server of this test decodes by hpack, which logs all that it sees.
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("hpack"))
    assert logged
    for text in (logged, str(events), repr(response), str(caught.value), repr(caught.value), explained):
        assert "w0rd" not in text and b64encode(b"user:p@ss-w0rd").decode() not in text


async def test_userinfo_goes_before_the_sessions_auth_and_after_the_calls(world: World) -> None:
    url = "https://user:x@h.example/x"
    assert credentials(await sent(world, url=url, auth=("session", "y"))) == "user:x"
    assert credentials(await sent(world, url=url, call={"auth": ("call", "z")}, auth=("session", "y"))) == "call:z"
    assert await sent(world, url=url, call={"auth": None}, auth=("session", "y")) is None


async def test_a_request_that_has_the_field_keeps_it(world: World) -> None:
    assert await sent(world, call={"headers": {"Authorization": "Bearer 1"}}, auth=("user", "x")) == "Bearer 1"


async def test_it_does_not_follow_to_another_origin(world: World) -> None:
    class Elsewhere:
        @plugwire.hookimpl(stage="redirect")
        async def around_call(self, request: Request, call_next: Any) -> Any:
            await call_next(request)
            request.url = plugwire.URL(OTHER)
            return await call_next(request)

    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock], plugins=[Elsewhere()], auth=("user", "x")) as session:
        await session.get(URL)
    assert [request.headers.get("authorization") is not None for request in mock.calls] == [True, False]


async def test_with_a_base_url_it_is_for_that_origin_only(world: World) -> None:
    assert await sent(world, url="/x", base_url="https://h.example/", auth=("user", "x")) is not None
    assert await sent(world, url=OTHER, base_url="https://h.example/", auth=("user", "x")) is None


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("a:b", "x"),
        ("a\n", "x"),
        ("a", "x\r\ny"),
        ("a\x00", "x"),
        ("a", "\x7f"),
        ("\ud800", "x"),
        (b"a", "x"),
        ("a", 1),
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_shown(user: Any, password: Any) -> None:
    with pytest.raises(plugwire.UsageError) as caught:
        BasicAuth(user, password)
    assert repr(user) not in str(caught.value) and repr(password) not in str(caught.value)


def test_a_bad_pair_is_refused_by_the_session() -> None:
    for wrong in (("a:b", "x"), ("a", "b", "c"), ("a",), "user"):
        with pytest.raises(plugwire.UsageError):
            plugwire.Session(auth=wrong)


def test_nothing_of_it_is_shown() -> None:
    auth = BasicAuth("somebody", "secret")
    assert "somebody" not in repr(auth) and "secret" not in repr(auth) and "Basic " not in repr(auth)


def test_it_is_no_plugin_of_a_session() -> None:
    with pytest.raises(plugwire.PluginError, match="auth"):
        plugwire.Session(plugins=["auth"])
    with pytest.raises(plugwire.PluginError, match="hookimpl"):
        plugwire.Session(plugins=[BasicAuth("user", "x")])
