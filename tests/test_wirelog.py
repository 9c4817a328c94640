"""wirelog: one line for each thing, fields in the record, and no secret in either."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Headers, Request, Response
from plugwire.events import Attempt, CallStep, Data, Head, Retry
from plugwire.testing import MockTransport, Server
from plugwire_plugins import Retries, RetryPolicy, WireLog
from plugwire_plugins.wirelog import SECRET_HEADERS, SECRET_PARAMS, Secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worlds import World

URL = "https://h.example/x"
QUICK = RetryPolicy(max_retries=1, backoff=0)


class Records(logging.Handler):
    """Keeps the records of the logger under test."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.all: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.all]

    def fields(self, event: str, edge: str | None = None) -> list[dict[str, Any]]:
        """The fields of all records of an event, without "http_"."""
        found = [{key[5:]: value for key, value in vars(one).items() if key.startswith("http_")} for one in self.all]
        return [one for one in found if one["event"] == event and edge in (None, one.get("edge"))]

    def everything(self) -> str:
        """All that any formatter could show."""
        return repr([vars(record) for record in self.all])


@pytest.fixture
def records() -> Iterator[Records]:
    """What the logger of the plugin's default name gets."""
    logger = logging.getLogger("plugwire.wire")
    handler, level = Records(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def without_times(line: str) -> str:
    words = line.split(" ")
    return " ".join(
        "_" if after.rstrip(",:") == "ms" else word for word, after in zip(words, [*words[1:], ""], strict=True)
    )


async def test_a_call_line_by_line(world: World, records: Records) -> None:
    mock = MockTransport({URL: [Response(503, text="busy"), Response(200, headers={"x-a": "b"}, text="hello")]})
    async with world.session(transports=[mock], plugins=[Retries(policy=QUICK), "wirelog"], defaults=False) as session:
        await session.put(URL, content=b"12345")
    number = records.fields("Send")[0]["call"]
    lines = [without_times(line).replace(f"call {number}", "call 1") for line in records.lines]
    lines = [re.sub(r"connection \d+", "connection 7", line) for line in lines]
    asked = f"> PUT {URL}, connection 7 (mock), 5 bytes, Host: h.example, Content-Length: 5"
    kind = "content-type: text/plain; charset=utf-8"
    assert [line for line in lines if line.startswith("call")] == [
        f"call 1 attempt 1 {asked}",
        f"call 1 attempt 1 < 503 Service Unavailable (HTTP/1.1) after _ ms, {kind}",
        "call 1 attempt 1: 503 after _ ms",
        "call 1: retry in 0 s: status 503",
        "call 1 attempt 1 < 0 bytes of content in _ ms, then closed before its end",
        f"call 1 attempt 2 {asked}",
        f"call 1 attempt 2 < 200 OK (HTTP/1.1) after _ ms, x-a: b, {kind}",
        "call 1 attempt 2: 200 after _ ms",
        "call 1 attempt 2 < 5 bytes of content in _ ms",
        f"call 1: PUT {URL}: 200 after _ ms, 2 attempts",
    ]
    assert "connection 7 (mock, None) is open to https://h.example" in lines
    assert all(record.levelno == logging.DEBUG for record in records.all)


async def test_the_same_as_fields(world: World, records: Records) -> None:
    mock = MockTransport({"/x": [plugwire.ConnectError("no way"), Response(200, headers={"x-a": "b"}, text="hello")]})
    async with world.session(transports=[mock], plugins=[Retries(policy=QUICK), WireLog()], defaults=False) as session:
        await session.get(URL)
    (failed,) = records.fields("Attempt", "failed")
    assert failed["error"] == "ConnectError: no way" and failed["attempt"] == 1 and failed["url"] == URL
    (retry,) = records.fields("Retry")
    assert (retry["reason"], retry["delay"], retry["will_retry"]) == ("ConnectError", 0.0, True)
    (head,) = records.fields("Head")
    assert (head["status"], head["reason"], head["version"], head["attempt"]) == (200, "OK", "HTTP/1.1", 2)
    assert ("x-a", "b") in head["headers"] and head["seconds"] >= 0
    (received,) = records.fields("Receive", "finished")
    assert received["bytes"] == 5 and received["seconds"] >= 0
    (call,) = records.fields("CallStep", "finished")
    assert (call["method"], call["url"], call["status"], call["call"]) == ("GET", URL, 200, head["call"])
    assert call["seconds"] >= head["seconds"]


async def test_over_sockets_connections_have_lines_too(world: World, records: Records) -> None:
    with Server() as server:
        async with world.session(plugins=["wirelog"]) as session:
            await session.get(f"{server.url}/")
    (opened,), (closed,) = records.fields("Open"), records.fields("Close")
    assert opened["connection"] == closed["connection"] and closed["reason"]
    (connected,) = records.fields("Connect", "finished")
    assert connected["address"] == opened["address"] and connected["seconds"] >= 0
    assert any(f"connected to {connected['address']} in " in line for line in records.lines)


SECRET = "hush7"


async def test_no_secret_is_shown(world: World, records: Records) -> None:
    leaky = {
        "Set-Cookie": f"id={SECRET}",
        "Location": f"https://u:{SECRET}@h.example/?a=1&to%6ben={SECRET};{SECRET}&b=2#x",
        "Link": f'<https://h.example/?sig={SECRET}>; rel="next"',
        "X-Mine": SECRET,
    }

    def answer(request: Request) -> Response:
        if request.url.path == "/fail":
            raise plugwire.ReadError(f"https://u:{SECRET}@h.example/?password={SECRET}\nbroke")
        return Response(200, headers=leaky)

    headers = Headers({"Authorization": SECRET, "Cookie": SECRET, "X-API-Key": SECRET, "X-Of-Session": SECRET})
    headers.secret |= {"x-of-session"}
    log = WireLog(secret_headers=["x-mine"], secret_params=["Pin"])
    url = f"https://u:{SECRET}@h.example/x?api_key={SECRET}&q=2&PIN={SECRET}&%74oken={SECRET};{SECRET}#{SECRET}"
    async with world.session(transports=[MockTransport(answer)], plugins=[log], headers=headers) as session:
        await session.get(url)
        with pytest.raises(plugwire.ReadError):
            await session.get("https://h.example/fail", headers={"Proxy-Authorization": SECRET})
    text = records.everything()
    assert SECRET not in text
    assert "https://h.example/x?api_key=***&q=2&PIN=***&%74oken=***" in text
    assert "https://***@h.example/?a=1&to%6ben=***&b=2" in text
    assert all("\n" not in line for line in records.lines)
    assert any("ReadError: https://***@h.example/?password=***" in line for line in records.lines)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/?token=a&b=c", "https://h/?token=***&b=c"),
        ("https://h/?b=c&TOKEN=a b", "https://h/?b=c&TOKEN=*** b"),
        ("https://h/?token=", "https://h/?token="),
        ("https://h/?tokens=a", "https://h/?tokens=a"),
        ("http://u@h/ ftp://a:b@c/", "http://***@h/ ftp://***@c/"),
        ("mail to a@b, see //h/p@q", "mail to a@b, see //h/p@q"),
        ("one\r\ntwo\x85three", "one; two; three"),
    ],
)
def test_what_is_taken_out_of_a_text(text: str, shown: str) -> None:
    assert Secrets(SECRET_HEADERS, SECRET_PARAMS).text(text) == shown


def test_it_never_shows_less_than_headers_hide() -> None:
    assert Headers().secret <= SECRET_HEADERS


async def test_samples_of_content_are_off_unless_asked_for(world: World, records: Records) -> None:
    mock = MockTransport({URL: Response(200, content=b"response content")})
    async with world.session(transports=[mock], plugins=["wirelog"]) as session:
        assert (await session.post(URL, content=b"request content")).text == "response content"
    assert "response content" not in records.everything() and "request content" not in records.everything()


async def test_samples_show_the_first_bytes(world: World, records: Records) -> None:
    mock = MockTransport({URL: Response(200, content=b"\x1b[31mresponse")})
    log = WireLog(sample_request=4, sample_response=100)
    async with world.session(transports=[mock], plugins=[log]) as session:
        response = await session.post(URL, content=b"request content")
        assert response.content == b"\x1b[31mresponse"
        async with session.stream("POST", URL, content=[b"not in memory"]) as response:
            await response.read(3)
    assert records.fields("Send")[0]["sample"] == "b'requ' (first 4 of 15 bytes)"
    assert "sample" not in records.fields("Send")[1]
    first, second = records.fields("Sample")
    assert (first["sample"], first["bytes"], first["attempt"]) == (r"b'\x1b[31mresponse'", 13, 1)
    assert (second["sample"], second["bytes"]) == (r"b'\x1b[3'", 3)


async def test_a_sample_is_as_received_of_each_attempt(world: World, records: Records) -> None:
    mock = MockTransport({URL: [Response(200, content=b"first"), Response(200, content=b"second")]})

    class Twice:
        @plugwire.hookimpl(stage="retry")
        async def around_call(self, request: Request, call_next: Any) -> Any:
            await (await call_next(request)).read()
            return await call_next(request)

    async with world.session(transports=[mock], plugins=[Twice(), WireLog(sample_response=3)]) as session:
        assert (await session.get(URL)).content == b"second"
    assert [one["sample"] for one in records.fields("Sample")] == [
        "b'fir' (first 3 of 5 bytes)",
        "b'sec' (first 3 of 6 bytes)",
    ]


async def test_a_logger_that_is_off_costs_nothing(world: World, records: Records) -> None:
    logging.getLogger("plugwire.wire").setLevel(logging.INFO)
    is_observed: list[bool] = []

    class Looks:
        @plugwire.hookimpl
        async def around_send(self, request: Request, call_next: Any, call: Any) -> Any:
            is_observed.append(call.watchers is not None)
            return await call_next(request)

    mock = MockTransport({URL: Response(200)})
    async with world.session(transports=[mock], plugins=[Looks(), "wirelog"]) as session:
        await session.get(URL)
    assert is_observed == [False]
    assert records.all == []


async def test_a_logger_that_is_on_too_late_says_so(world: World, records: Records) -> None:
    logger = logging.getLogger("plugwire.wire")
    logger.setLevel(logging.INFO)
    session = world.session(transports=[MockTransport({URL: Response(200)})], plugins=["wirelog"])
    logger.setLevel(logging.DEBUG)
    async with session:
        await session.get(URL)
        await session.get(URL)
    (line,) = records.lines
    assert "switchable=True" in line and records.all[0].levelname == "WARNING"


async def test_a_switchable_one_follows_its_logger(world: World, records: Records) -> None:
    logger = logging.getLogger("plugwire.wire")
    logger.setLevel(logging.INFO)
    mock = MockTransport({URL: Response(200, content=b"x")})
    async with world.session(transports=[mock], plugins=[WireLog(switchable=True, sample_response=9)]) as session:
        await session.get(URL)
        assert records.all == []
        logger.setLevel(logging.DEBUG)
        await session.get(URL)
        assert len(records.fields("CallStep", "finished")) == len(records.fields("Sample")) == 1


async def test_a_logger_level_and_events_of_ones_own(world: World) -> None:
    logger = logging.getLogger("tests.wirelog")
    logger.setLevel(logging.INFO)
    handler = Records()
    logger.addHandler(handler)
    mock = MockTransport({URL: [Response(503), Response(200), Response(200)]})
    plugins = [Retries(policy=QUICK), WireLog(logger, level=logging.INFO, events=(CallStep, Retry))]
    async with world.session(transports=[mock], plugins=plugins) as session:
        await session.get(URL)
    logger.removeHandler(handler)
    assert [record.levelname for record in handler.all] == ["INFO", "INFO"]
    assert [record.__dict__["http_event"] for record in handler.all] == ["Retry", "CallStep"]
    (call,) = handler.fields("CallStep")
    assert call["seconds"] >= 0


async def test_what_other_events_need_is_not_built(world: World, records: Records) -> None:
    built: list[str] = []
    mock = MockTransport({URL: Response(200)})

    class Looks:
        @plugwire.hookimpl
        async def around_send(self, request: Request, call_next: Any, call: Any) -> Any:
            built.extend(kind.__name__ for kind in (CallStep, Attempt, Head, Data, Retry) if call.wants(kind))
            return await call_next(request)

    async with world.session(transports=[mock], plugins=[Looks(), WireLog(events=(CallStep,))]) as session:
        await session.get(URL)
    assert built == ["CallStep"]


async def test_two_of_them_do_not_disturb_each_other(world: World, records: Records) -> None:
    mock = MockTransport({URL: Response(200)})
    async with world.session(transports=[mock], plugins=[WireLog(), WireLog(events=(CallStep,))]) as session:
        await session.get(URL)
    assert [call["status"] for call in records.fields("CallStep", "finished")] == [200, 200]
    assert all(call["seconds"] is not None for call in records.fields("CallStep", "finished"))


@pytest.mark.parametrize("given", [{"events": (Data,)}, {"sample_request": -1}, {"sample_response": "1"}])
def test_values_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(plugwire.UsageError):
        WireLog(**given)
