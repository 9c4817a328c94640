"""What a type checker must see of the public faces. Never run: mypy and pyright read it, as they read the sources."""

from __future__ import annotations

import http.cookiejar
from pathlib import Path
from typing import Any, assert_type

import plugwire
from plugwire.blocking_response import BlockingStream
from plugwire.decoders import ServerSentEvent, ServerSentEvents
from plugwire.protocols import (
    AsyncConnectionHandle,
    AsyncRequestHandle,
    Call,
    ConnectionHandle,
    Cookie,
    CookieStore,
    Next,
    RequestHandle,
    Stream,
)
from plugwire_plugins import CookieJar


def blocking(session: plugwire.Session) -> None:
    assert_type(session.get("u", timeout=3, json={"a": [1, None]}), plugwire.Response)
    assert_type(session.send(plugwire.Request("GET", "u")), plugwire.Response)
    assert_type(session.headers, plugwire.Headers)
    assert_type(session.cookies, CookieStore)
    assert_type(session.cookies["sid"], str)
    assert_type(session.cookies.get("sid"), str | None)
    assert_type(session.cookies.get("sid", 0, domain="h"), str | int)
    for cookie in session.cookies:
        assert_type(cookie, Cookie)
    assert_type(plugwire.Session(cookies=CookieJar().load("path")), plugwire.Session)
    plugwire.Session(cookies=http.cookiejar.CookieJar())
    plugwire.Session(cookies={"a": "b"}, base_url="https://h")
    assert_type(session.derive(timeout=plugwire.Timeout(total=1)), plugwire.Session)
    assert_type(session.explain("u"), str)
    with session.stream("GET", "u") as response:
        assert_type(response, plugwire.Response)
        assert_type(response.readinto(bytearray(1)), int)
        assert_type(response.raise_for_status(), plugwire.Response)
        for line in response.iter_lines():
            assert_type(line, str)
        for piece in response.iter_bytes():
            assert_type(piece, bytes)
        assert_type(response.take_stream(), BlockingStream)
    with session.connect("u") as connection:
        assert_type(connection, ConnectionHandle)
        request = connection.open_request("GET", "/")
        assert_type(request, RequestHandle)
        assert_type(request.send(), plugwire.Response)
        assert_type(request.end(), plugwire.Response)
    assert_type(plugwire.get("u"), plugwire.Response)
    session.post(
        "u", data={"a": 1}, files={"f": b"x", "g": ("name", Path("x")), "h": ("name", "text", "a/b", {"X": "1"})}
    )
    session.post("u", files=[("f", open("x", "rb")), ("f", (None, iter([b"x"])))])  # noqa: SIM115  (never run)
    assert_type(list(session.get("u").iter_decoded(ServerSentEvents())), list[ServerSentEvent])
    session.get("u").elapsed  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
    session.get("u", allow_redirects=False)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # not our word


async def waiting(session: plugwire.AsyncSession) -> None:
    assert_type(await session.get("u"), plugwire.AsyncResponse)
    async with session.stream("GET", "u") as response:
        assert_type(response, plugwire.AsyncResponse)
        assert_type(await response.read(), bytes)
        assert_type(response.raise_for_status(), plugwire.AsyncResponse)
        async for line in response.iter_lines():
            assert_type(line, str)
        assert_type(response.take_stream(), Stream)
    async with await session.connect("u") as connection:
        assert_type(connection, AsyncConnectionHandle)
        assert_type(connection.open_request("GET"), AsyncRequestHandle)


class Middleware:
    """A hook keeps its own type under the mark."""

    @plugwire.hookimpl(stage="sign")
    async def around_send(self, request: plugwire.Request, call_next: Next, call: Call) -> plugwire.AsyncResponse:
        response = await call_next(request)
        assert_type(response, plugwire.AsyncResponse)
        return response


def hooks(plugin: Middleware, request: plugwire.Request, call_next: Next, call: Call) -> Any:
    return plugin.around_send(request, call_next, call)
