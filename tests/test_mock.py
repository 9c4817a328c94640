"""Answers without a network: MockTransport and intercept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import plugwire
from plugwire import AsyncResponse, Request, Response
from plugwire.events import CallStep, Data, Event, Head, Receive, Send
from plugwire.testing import MockTransport, Unanswered, intercept
from worlds import World


async def test_a_function_answers(world: World) -> None:
    def handler(request: Request) -> Response:
        return Response(201, headers={"x-asked": request.url.path}, text=f"{request.method} {request.content!r}")

    mock = MockTransport(handler)
    async with world.session(transports=[mock]) as session:
        response = await session.post("https://h.example/a", content=b"abc")
        assert (response.status_code, response.text) == (201, "POST b'abc'")
        assert response.headers["x-asked"] == "/a"
        assert response.ok and response.request.url.path == "/a"
        assert response.connection.protocol == "mock"
    assert [request.headers["host"] for request in mock.calls] == ["h.example"]


async def test_an_async_function_answers_with_either_class(world: World) -> None:
    async def handler(request: Request) -> AsyncResponse:
        return AsyncResponse(200, json={"n": 1})

    async with world.session(transports=[MockTransport(handler)]) as session:
        assert (await session.get("https://h.example/")).json() == {"n": 1}


MAPPING = {
    "GET https://one.example/x?q=1": Response(200, text="query"),
    "GET https://one.example/x": Response(200, text="origin"),
    "GET /x": Response(200, text="path"),
    "/x": Response(200, text="any method"),
}


@pytest.mark.parametrize(
    ("method", "url", "answer"),
    [
        ("GET", "https://one.example/x?q=1", "query"),
        ("GET", "https://one.example/x?q=2", "origin"),
        ("GET", "https://one.example:443/x", "origin"),
        ("GET", "https://two.example/x", "path"),
        ("GET", "http://one.example/x", "path"),
        ("PUT", "https://one.example/x", "any method"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_most_exact_key_answers(method: str, url: str, answer: str, turned: bool) -> None:
    mapping = dict(reversed(MAPPING.items())) if turned else MAPPING
    with plugwire.Session(transports=[MockTransport(mapping)]) as session:
        assert session.request(method, url).text == answer


async def test_what_is_not_known_raises_and_lists_what_is(world: World) -> None:
    async with world.session(transports=[MockTransport({"GET /a": Response(200), "/b": Response(200)})]) as session:
        with pytest.raises(Unanswered) as caught:
            await session.get("https://h.example/c")
    assert "GET https://h.example/c" in str(caught.value)
    assert "GET /a" in str(caught.value) and "/b" in str(caught.value)
    # So that code under test that handles our errors does not hide it.
    assert not isinstance(caught.value, plugwire.Error)


async def test_one_response_may_be_used_many_times(world: World) -> None:
    reply = Response(200, headers={"x-n": "1"}, text="same")
    async with world.session(transports=[MockTransport({"/": reply})]) as session:
        first = await session.get("https://h.example/")
        first.headers["x-n"] = "changed"
        second = await session.get("https://h.example/")
        assert (first.text, second.text, second.headers["x-n"]) == ("same", "same", "1")
    assert reply.request is None


async def test_a_list_answers_in_turn_and_no_more(world: World) -> None:
    replies = [Response(503), plugwire.ConnectError("no"), lambda request: Response(200, text="at last")]
    async with world.session(transports=[MockTransport({"/": replies})]) as session:
        assert (await session.get("https://h.example/")).status_code == 503
        with pytest.raises(plugwire.ConnectError):
            await session.get("https://h.example/")
        assert (await session.get("https://h.example/")).text == "at last"
        with pytest.raises(Unanswered, match="used up"):
            await session.get("https://h.example/")


@pytest.mark.parametrize(
    ("error", "phase", "sent"),
    [
        (plugwire.ResolveError("x"), "resolve", False),
        (plugwire.ConnectError("x"), "dial", False),
        (plugwire.CertificateError("x"), "tls", False),
        (plugwire.WriteError("x"), "write", True),
        (plugwire.ConnectionClosed("x"), "head", True),
        (plugwire.ReadError("x"), "body", True),
        (plugwire.ProtocolError, "head", True),
    ],
)
def test_an_error_gets_phase_and_blame_and_is_fresh_each_time(error: Any, phase: str, sent: bool) -> None:
    mock = MockTransport({"/": error})
    with plugwire.Session(transports=[mock]) as session:
        for _ in range(2):  # the second time the connection is not taken for a reused one, so nothing is replayed
            with pytest.raises(plugwire.Error) as caught:
                session.get("https://h.example/")
            assert (caught.value.phase, caught.value.sent) == (phase, sent)
            assert caught.value is not error
            assert caught.value.replayable  # GET
    assert len(mock.calls) == 2


async def test_a_body_from_an_iterable_lies_in_memory(world: World) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one "
        yield b"two"

    mock = MockTransport({"/": Response(200)})
    async with world.session(transports=[mock]) as session:
        await session.put("https://h.example/", content=pieces())
    assert mock.calls[0].content == b"one two"


async def test_push_upload_reaches_the_mock(world: World) -> None:
    mock = MockTransport({"/": Response(200, text="thanks")})
    async with world.session(transports=[mock]) as session:
        request = session.open_request("POST", "https://h.example/")
        await request.begin()
        await request.write(b"ab")
        await request.write(b"cd")
        response = await request.end()
        assert await response.read() == b"thanks"
    assert mock.calls[0].content == b"abcd"


async def test_a_streamed_answer_is_unread(world: World) -> None:
    async with (
        world.session(transports=[MockTransport({"/": Response(200, text="hello")})]) as session,
        session.stream("GET", "https://h.example/") as response,
    ):
        with pytest.raises(plugwire.BodyUnread):
            _ = response.content
        buffer = bytearray(3)
        assert await response.readinto(buffer) == 3 and buffer == b"hel"
        assert await response.read() == b"lo"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_what_has_no_content_on_the_wire_has_none_here(method: str, status: int) -> None:
    with plugwire.Session(transports=[MockTransport({"/": Response(status, content=b"x")})]) as session:
        assert session.request(method, "https://h.example/").content == b""


async def test_every_option_is_honoured(world: World) -> None:
    tls = plugwire.TLSConfig(pins=("00" * 32,))
    async with world.session(transports=[MockTransport({"/": Response(200)})], tls=tls) as session:
        response = await session.get("https://h.example/", options={"local_address": "127.0.0.9"}, proxy="http://p:1")
        assert response.ok


async def test_observers_see_what_they_see_of_a_wire(world: World) -> None:
    events: list[Event] = []
    async with world.session(transports=[MockTransport({"/": Response(200, text="hello")})]) as session:
        await session.post("https://h.example/", content=b"abc", observe=events.append)
    kinds = [type(event) for event in events]
    assert kinds.count(Send) == 2 and kinds.count(Receive) == 2 and kinds.count(Head) == 1
    assert [(event.sent, event.size) for event in events if isinstance(event, Data)] == [(True, 3), (False, 5)]
    assert kinds[0] is CallStep


@pytest.mark.parametrize(
    "handler", [None, 3, {"GET nowhere": Response(200)}, {"/": 200}, {"/": Response}, {3: Response(200)}]
)
def test_what_cannot_answer_is_refused_at_once(handler: Any) -> None:
    with pytest.raises(plugwire.UsageError):
        MockTransport(handler)


async def test_a_handler_that_returns_something_else_is_told(world: World) -> None:
    async with world.session(transports=[MockTransport(lambda request: None)]) as session:  # type: ignore[arg-type, return-value]
        with pytest.raises(plugwire.UsageError, match="NoneType"):
            await session.get("https://h.example/")


# -- intercept


async def test_intercept_catches_sessions_that_exist_already(world: World) -> None:
    async with world.session() as session:
        with intercept({"https://h.invalid/": Response(200, text="caught")}) as mock:
            response = await session.get("https://h.invalid/")
            assert response.text == "caught"
            assert response.timings.wait is not None
        assert mock.calls[0].headers["user-agent"].startswith("plugwire/")


async def test_intercept_catches_handles_without_dialling(world: World) -> None:
    async with world.session() as session:
        with intercept({"/x": Response(200, text="caught")}):
            async with await session.connect("https://h.invalid") as connection:
                response = await connection.open_request("GET", "/x").send()
                assert await response.read() == b"caught"


def test_intercept_catches_the_shortcuts() -> None:
    with intercept({"POST /": Response(200, json=[1])}) as mock:
        assert plugwire.post("https://h.invalid/", json={"a": 1}).json() == [1]
    assert mock.calls[0].content == b'{"a":1}'


def test_plugins_run_under_intercept() -> None:
    async def mark(request: Request, call_next: Any) -> AsyncResponse:
        request.headers["x-marked"] = "yes"
        return await call_next(request)  # type: ignore[no-any-return]

    with intercept({"/": Response(200)}) as mock, plugwire.Session(plugins=[mark]) as session:
        session.get("https://h.invalid/")
    assert mock.calls[0].headers["x-marked"] == "yes"


def test_the_one_entered_last_answers_and_each_takes_out_its_own() -> None:
    first, second = intercept({"/": Response(200, text="1")}), intercept({"/": Response(200, text="2")})
    first.__enter__()
    second.__enter__()
    assert plugwire.get("https://h.invalid/").text == "2"
    first.__exit__(None, None, None)  # not in order, as threads may
    assert plugwire.get("https://h.invalid/").text == "2"
    second.__exit__(None, None, None)
    with pytest.raises(plugwire.NetworkError):
        plugwire.get("http://127.0.0.1:1/")


def test_another_thread_is_caught_too() -> None:
    texts: list[str] = []
    with intercept({"/": Response(200, text="caught")}):
        threads = [
            threading.Thread(target=lambda: texts.append(plugwire.get("https://h.invalid/").text)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == ["caught"] * 4


def test_a_mock_grows_by_add() -> None:
    with intercept({}) as mock:
        mock.add("GET /a", Response(200, text="a"))
        assert plugwire.get("https://h.invalid/a").text == "a"
    with intercept(lambda request: Response(200)) as mock, pytest.raises(plugwire.UsageError):
        mock.add("/a", Response(200))
