"""Middleware that runs only where it is needed: `hookimpl(if_request=, if_response=)`."""

from __future__ import annotations

from typing import Any

import pytest

import plugwire
from plugwire import AsyncResponse, PluginError, Response, hookimpl
from plugwire.protocols import WatchedBody
from plugwire.testing import MockTransport, Server
from worlds import World


def busy_once() -> MockTransport:
    return MockTransport({"/busy": [Response(503), Response(200, text="at last")], "/": Response(200, text="hello")})


class OnBusy:
    """Asks again after a 503."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def is_busy(self, response: Any) -> bool:
        return bool(response.status_code == 503)

    @hookimpl(stage="redirect", if_response=is_busy)
    async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
        self.seen.append(request)
        first = await call_next(request)
        assert first.status_code == 503
        await first.close()
        return await call_next(request)


async def test_it_runs_for_the_responses_that_need_it(world: World) -> None:
    again, mock = OnBusy(), busy_once()
    async with world.session(plugins=[again], transports=[mock]) as session:
        assert (await session.get("http://h/")).text == "hello"
        assert again.seen == []
        assert (await session.get("http://h/busy")).text == "at last"
    assert len(again.seen) == 1
    # The first call_next sent nothing: the response was there.
    assert [request.url.path for request in mock.calls] == ["/", "/busy", "/busy"]


async def test_it_sees_the_request_as_it_came_down(world: World) -> None:
    """And not what the core, or middleware below it, has made of it since."""

    class Meddles:
        @hookimpl(stage="retry")
        async def around_call(self, request: Any, call_next: Any) -> Any:
            request.headers["x-meddled"] = "1"
            request.url = request.url.copy_with(query="meddled")
            return await call_next(request)

    for plugins in ([], [Meddles()]):
        again = OnBusy()
        async with world.session(
            plugins=[again, *plugins], transports=[busy_once()], headers={"x-session": "1"}
        ) as session:
            assert (await session.post("http://h/busy", content=b"x", headers={"x-own": "1"})).status_code == 200
        (request,) = again.seen
        assert [name.lower() for name, _ in request.headers.items()] == ["x-own"]
        assert request.url.href == "http://h/busy"


async def test_who_is_entered_first_changes_nothing_for_the_next(world: World) -> None:
    """Both are entered by the response: the inner one's request is its own."""

    class Marks(OnBusy):
        @hookimpl(stage="redirect", if_response=OnBusy.is_busy)
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            request.headers["x-marked"] = "1"
            return await call_next(request)

    again = OnBusy()
    async with world.session(plugins=[again, Marks()], transports=[busy_once()]) as session:
        await session.get("http://h/busy", headers={"x-own": "1"})
    assert [name.lower() for name, _ in again.seen[0].headers.items()] == ["x-own"]


async def test_a_send_layer_below_changes_nothing_above(world: World) -> None:
    again = OnBusy()

    async def signs(request: Any, call_next: Any) -> Any:
        request.headers["x-signature"] = "1"
        request.method = "PATCH"
        return await call_next(request)

    async with world.session(plugins=[again, signs], transports=[busy_once()]) as session:
        await session.post("http://h/busy", headers={"x-own": "1"})
    assert again.seen[0].method == "POST"
    assert "x-signature" not in again.seen[0].headers


class Noted:
    """Both conditions at a stage; notes when it is entered."""

    def __init__(self, notes: list[str], name: str, *, request: bool = False, response: bool = False) -> None:
        self.notes, self.name = notes, name
        self._request, self._response = request, response

    def on_request(self, request: Any, call: Any) -> bool:
        self.notes.append(f"{self.name} asked")
        return self._request

    def on_response(self, response: Any) -> bool:
        self.notes.append(f"{self.name} looked")
        return self._response


class Sends(Noted):
    @hookimpl(stage="prepare", if_request=Noted.on_request, if_response=Noted.on_response)
    async def around_send(self, request: Any, call_next: Any) -> Any:
        self.notes.append(f"{self.name} in")
        response = await call_next(request)
        self.notes.append(f"{self.name} out")
        return response


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {}, ["a asked", "b asked", "b looked", "a looked"]),
        ({"response": True}, {}, ["a asked", "b asked", "b looked", "a looked", "a in", "a out"]),
        ({}, {"response": True}, ["a asked", "b asked", "b looked", "b in", "b out", "a looked"]),
        # Who is in has its say on the way up itself, and those below it are asked as it calls them.
        ({"request": True}, {}, ["a asked", "a in", "b asked", "b looked", "a out"]),
        ({}, {"request": True, "response": True}, ["a asked", "b asked", "b in", "b out", "a looked"]),
        ({"response": True}, {"request": True}, ["a asked", "b asked", "b in", "b out", "a looked", "a in", "a out"]),
    ],
)
async def test_the_order_of_questions(
    world: World, first: dict[str, bool], second: dict[str, bool], expected: list[str]
) -> None:
    notes: list[str] = []
    plugins = [Sends(notes, "a", **first), Sends(notes, "b", **second)]
    async with world.session(plugins=plugins, transports=[busy_once()], defaults=False) as session:
        await session.get("http://h/")
    assert notes == expected


@pytest.mark.parametrize("is_signed", [False, True], ids=["", "signed"])
@pytest.mark.parametrize("options", [{}, {"observe": lambda event: None}], ids=["", "observed"])
async def test_each_tier_sees_its_own_request_though_one_handler_asks_both(
    world: World, options: dict[str, Any], is_signed: bool
) -> None:
    class Signs:
        @hookimpl(stage="sign")
        async def around_send(self, request: Any, call_next: Any) -> Any:
            request.headers["x-signature"] = "1"
            return await call_next(request)

    class InBoth:
        def __init__(self) -> None:
            self.seen: list[tuple[int, list[str]]] = []

        def always(self, response: Any) -> bool:
            return True

        def note(self, request: Any, call: Any) -> bool:
            self.seen.append((call.attempt, [name.lower() for name in request.headers]))
            return False

        @hookimpl(stage="call", if_request=note, if_response=always)
        async def around_call(self, request: Any, call_next: Any, call: Any) -> AsyncResponse:
            self.note(request, call)
            return await call_next(request)  # type: ignore[no-any-return]  # Any

        @hookimpl(stage="sign", if_request=note, if_response=always)
        async def around_send(self, request: Any, call_next: Any, call: Any) -> AsyncResponse:
            self.note(request, call)
            return await call_next(request)  # type: ignore[no-any-return]  # Any

    both, mock = InBoth(), busy_once()
    plugins = [both, Signs()] if is_signed else [both]
    async with world.session(plugins=plugins, transports=[mock], headers={"x-session": "1"}, defaults=False) as session:
        assert (await session.get("http://h/", headers={"x-own": "1"}, **options)).text == "hello"
    called, sent = ["x-own"], ["host", "x-session", "x-own"]
    # Asked on the way down, then entered by the response, from within.
    assert both.seen == [(0, called), (1, sent), (1, sent), (1, called)]
    assert len(mock.calls) == 1


@pytest.mark.parametrize("ways", ["MARK", "mark"])
async def test_the_name_of_a_field_is_a_condition(world: World, ways: str) -> None:
    class Marked:
        def __init__(self) -> None:
            self.seen: list[str] = []

        @hookimpl(stage="call", if_response="X-Mark")
        async def around_call(self, request: Any, call_next: Any) -> Any:
            self.seen.append(request.url.path)
            return await call_next(request)

        @hookimpl(if_response="etag")
        async def around_send(self, request: Any, call_next: Any) -> Any:
            self.seen.append(f"{request.url.path} etag")
            return await call_next(request)

    marked = Marked()
    name = f"x-{ways}"
    mock = {
        "/first": Response(200, headers={name: "1"}),
        "/both": Response(200, headers={"ETag": "1", name: "1"}),
        "/neither": Response(200, headers={"a": "x-mark: 1", "xx-mark": "1", "x-mark-x": "1"}),
        "/back": Response(302, headers={"Location": "/first", "ETag": "1"}),
    }
    with Server(mock) as server:
        async with world.session(plugins=[marked]) as session:
            for path in ("/first", "/neither", "/both", "/back"):
                assert (await session.get(server.url + path)).status_code == 200
    # By the last one, too: what a redirect in between led to is looked at anew.
    assert marked.seen == ["/first", "/both etag", "/both", "/back etag", "/back"]


@pytest.mark.parametrize("codes", [{503}, frozenset({503, 504}), {503: "busy"}.keys()])
async def test_status_codes_are_a_condition(world: World, codes: Any) -> None:
    class Again(OnBusy):
        @hookimpl(stage="redirect", if_response=codes)
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            return await super().around_call(request, call_next, call)

    again, mock = Again(), busy_once()
    async with world.session(plugins=[again], transports=[mock]) as session:
        assert (await session.get("http://h/")).text == "hello"
        assert again.seen == []
        assert (await session.get("http://h/busy")).text == "at last"
    assert len(again.seen) == 1


async def test_around_read_wraps_the_bodies_that_need_it(world: World) -> None:
    class Loud(WatchedBody):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            return (await super().receive(max_bytes)).upper()

    class Shouts:
        def is_text(self, response: Any) -> bool:
            return "text" in (response.headers.get("content-type") or "")

        @hookimpl(stage="decode", if_response=is_text)
        def around_read(self, body: Any) -> Any:
            return Loud(body)

    mock = MockTransport({"/text": Response(200, text="hello"), "/bytes": Response(200, content=b"hello")})
    async with world.session(plugins=[Shouts()], transports=[mock]) as session:
        assert (await session.get("http://h/text")).content == b"HELLO"
        assert (await session.get("http://h/bytes")).content == b"hello"


async def test_a_condition_that_raises_leaves_nothing_open(world: World) -> None:
    class Broken:
        def breaks(self, response: Any) -> bool:
            raise ZeroDivisionError

        @hookimpl(stage="redirect", if_response=breaks)
        async def around_call(self, request: Any, call_next: Any) -> Any:
            raise AssertionError

    with Server({"/": Response(200, content=b"x" * 1_000_000)}) as server:
        async with world.session(plugins=[Broken()]) as session:
            with pytest.raises(ZeroDivisionError):
                await session.get(server.url + "/")
            assert session.stats().open == 0  # closed, or a dropped response would warn too


async def test_what_keeps_a_field_from_being_looked_for_leaves_nothing_open(world: World) -> None:
    class Broken:
        @hookimpl(stage="decode", if_response="x-mark")
        def around_read(self, body: Any) -> Any:
            raise AssertionError

        @hookimpl(stage="sign")
        async def around_send(self, request: Any, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers = None
            return response

    with Server({"/": Response(200, content=b"x" * 1_000_000)}) as server:
        async with world.session(plugins=[Broken()], defaults=False) as session:
            with pytest.raises(AttributeError):
                await session.get(server.url + "/")
            assert session.stats().open == 0


async def test_who_observes_changes_nothing_of_an_error(world: World) -> None:
    class Asks:
        def never(self, request: Any, call: Any) -> bool:
            return False

        @hookimpl(stage="retry", if_request=never)
        async def around_call(self, request: Any, call_next: Any) -> Any:
            raise AssertionError

    async def posts(request: Any, call_next: Any) -> AsyncResponse:
        request.method = "POST"
        raise plugwire.ReadError("no")

    for options in ({}, {"observe": lambda event: None}):
        async with world.session(plugins=[Asks(), posts], transports=[busy_once()], defaults=False) as session:
            with pytest.raises(plugwire.ReadError) as caught:
                await session.get("http://h/", **options)
        assert caught.value.request.method == "POST"


async def test_what_is_no_response_is_blamed_on_who_gave_it(world: World) -> None:
    async def gives_nothing(request: Any, call_next: Any) -> Any:
        await (await call_next(request)).close()

    class Nothing(OnBusy):
        @hookimpl(stage="redirect", if_response=OnBusy.is_busy)
        async def around_call(self, request: Any, call_next: Any, call: Any) -> Any:
            await (await call_next(request)).close()

    for plugin, path in ((gives_nothing, "/"), (Nothing(), "/busy")):
        async with world.session(plugins=[OnBusy(), plugin], transports=[busy_once()]) as session:
            with pytest.raises(PluginError, match=f"{'gives_nothing' if path == '/' else 'Nothing'} returned NoneType"):
                await session.get(f"http://h{path}")


async def test_manners_are_checked_as_everywhere(world: World) -> None:
    class Elsewhere:
        def is_busy(self, response: Any) -> bool:
            return bool(response.status_code == 503)

        @hookimpl(stage="prepare", if_response=is_busy)
        async def around_send(self, request: Any, call_next: Any) -> Any:
            await (await call_next(request)).close()
            request.url = plugwire.URL("http://elsewhere/")
            return await call_next(request)

    async with world.session(plugins=[Elsewhere()], transports=[busy_once()]) as session:
        with pytest.raises(PluginError, match="Elsewhere changed the origin"):
            await session.get("http://h/busy")


def of(hook: str, **conditions: Any) -> Any:
    async def around(request: Any, call_next: Any) -> AsyncResponse:
        raise AssertionError

    async def opened(session: Any) -> None:
        raise AssertionError

    functions: dict[str, Any] = {
        "around_send": around,
        "around_read": lambda body: body,
        "session_opened": opened,
    }
    return type("Mine", (), {hook: staticmethod(hookimpl(**conditions)(functions[hook]))})()


async def waits(self: Any, response: Any) -> bool:
    raise AssertionError


@pytest.mark.parametrize(
    ("hook", "conditions", "why"),
    [
        ("session_opened", {"if_request": lambda self, request, call: True}, "if_request means nothing"),
        ("around_read", {"if_request": lambda self, request, call: True}, "if_request means nothing"),
        ("around_send", {"if_response": waits}, r"if_response must be a plain function of \(self, response\)"),
        ("around_send", {"if_response": 503}, "if_response must be a plain function"),
        ("around_send", {"if_response": "no name"}, "if_response must be .*, the name of a field or a set"),
        ("around_send", {"if_response": {"503"}}, "if_response must be a plain function"),
        ("around_send", {"if_response": {503, 5030}}, "if_response must be a plain function"),
        ("around_send", {"if_response": {True}}, "if_response must be a plain function"),
        ("around_send", {"if_response": set()}, "if_response must be a plain function"),
        ("around_send", {"if_request": "accept"}, "if_request must be a plain function"),
        ("session_opened", {"if_response": "etag"}, "if_response means nothing"),
        ("around_send", {"if_response": lambda response: True}, r"if_response must take \(self, response\)"),
        ("around_send", {"if_request": lambda self, request: True}, r"if_request must take \(self, request, call\)"),
    ],
)
def test_conditions_that_cannot_be(hook: str, conditions: dict[str, Any], why: str) -> None:
    with pytest.raises(PluginError, match=f"Mine.{hook}: {why}"):
        plugwire.Session(plugins=[of(hook, **conditions)])
