"""Heads over HTTP/2: what a request says in its fields, what a response may say, and that everything above the
connection is what it is over HTTP/1.1. Scripted peers."""

from __future__ import annotations

import base64
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hpack import Decoder
from hyperframe.frame import GoAwayFrame, RstStreamFrame

import plugwire
from faces import bare
from h2_peer import Conversation, H2Peer
from plugwire import Headers, Limits, ProtocolError, Request
from plugwire.events import Event, Informational
from plugwire.testing import ScriptedPeer
from plugwire.testing.peer import close, expect_request, send
from plugwire_plugins import Retries, RetryPolicy
from plugwire_transports.http2.exchange import FieldsMemo
from plugwire_transports.http2.hpack import Indexing
from test_events import Log
from third_party.body_counter import BodyCounter
from third_party.signer import Signer
from worlds import World

PROTOCOL_ERROR, CANCEL = 1, 8


def h2_session(world: World, **options: Any) -> Any:
    return world.session(http_versions=("h2",), **options)


# -- what goes out


async def test_pseudo_fields_come_first_and_names_are_in_lower_case(world: World) -> None:
    def script(h2: Conversation) -> None:
        block = h2.await_block()
        assert block.is_last
        assert sorted(block.fields[:4]) == [
            (":authority", f"127.0.0.1:{peer.port}"),
            (":method", "GET"),
            (":path", "/a?b=c"),
            (":scheme", "http"),
        ]
        assert block.fields[4:] == [("x-one", "1"), ("x-two", "2"), ("x-one", "3")]
        h2.respond(block.stream_id)

    with H2Peer(script) as peer:
        async with h2_session(world, defaults=False) as session:
            headers = [("X-One", "1"), ("X-TWO", "2"), ("x-one", "3")]
            assert (await session.get(f"{peer.url}/a?b=c#fragment", headers=headers)).ok


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Connection", "x-hop"),
        ("Proxy-Connection", "keep-alive"),
        ("Keep-Alive", "timeout=5"),
        ("Upgrade", "websocket"),
        ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
        ("TE", "gzip"),
        ("X-Hop", "what Connection nominates"),
    ],
)
async def test_fields_of_one_http11_connection_are_dropped(world: World, name: str, value: str) -> None:
    """RFC 9113, 8.2.2."""

    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert name.lower() not in fields
        assert fields["x-kept"] == "yes"
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            headers = {name: value, "X-Kept": "yes"}
            if name == "X-Hop":
                headers["Connection"] = "x-hop"
            assert (await session.get(peer.url, headers=headers)).ok


async def test_te_may_ask_for_trailers(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert fields["te"] == "trailers"
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.get(peer.url, headers={"TE": "trailers"})).ok


async def test_transfer_encoding_is_no_matter_of_http2(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert "transfer-encoding" not in fields
        assert "content-length" not in fields
        assert h2.await_body(stream) == b"hello"
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            headers = {"Transfer-Encoding": "chunked"}
            assert (await session.post(peer.url, content=b"hello", headers=headers)).ok


async def test_the_callers_host_becomes_the_authority(world: World) -> None:
    def script(h2: Conversation) -> None:
        for host in ("www.example", "www.example", f"127.0.0.1:{peer.port}", "other.example"):
            stream, fields = h2.await_headers()
            assert fields[":authority"] == host
            assert "host" not in fields
            h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            for host in ("www.example", "www.example", None, "other.example"):
                await session.get(peer.url, headers={"Host": host} if host else None)


async def test_targets_of_options_and_of_the_callers_own(world: World) -> None:
    def script(h2: Conversation) -> None:
        for path in ("*", "/odd|path", "/", "/?q"):
            stream, fields = h2.await_headers()
            assert fields[":path"] == path
            h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with await session.connect(peer.url) as connection:
                for method, target in (("OPTIONS", "*"), ("GET", "/odd|path")):
                    assert (await connection.open_request(method, target).send()).ok
            assert (await session.get(peer.url)).ok
            assert (await session.get(f"{peer.url}?q")).ok


SECRETS = {
    "Authorization": "Bearer abcdefgh",
    "Proxy-Authorization": "Basic abcdefgh",
    "Cookie": "session=abcdefgh",
    "X-Api-Key": "abcdefgh",
}


async def test_credentials_are_never_indexed(world: World) -> None:
    """RFC 7541, 7.1.3: neither by us nor by anybody who passes the request on."""
    blocks: list[bytes] = []

    def script(h2: Conversation) -> None:
        for _ in range(3):
            block = h2.await_block()
            blocks.append(b"".join(frame.data for frame in block.frames))
            h2.respond(block.stream_id)

    headers = Headers({**SECRETS, "X-Plain": "abcdefgh"})
    headers.secret |= {"x-api-key"}
    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            for _ in range(3):
                await session.get(peer.url, headers=headers)
    decoder: Any = Decoder()
    secret = {name.lower() for name in SECRETS}
    for block in blocks:
        fields = decoder.decode(block)
        assert {name for name, _ in fields} > secret | {"x-plain"}
        for field in fields:
            assert field.indexable is (field[0] not in secret), field
    remembered = {name for name, _ in decoder.header_table.dynamic_entries}
    assert b"x-plain" in remembered
    assert not {name.encode() for name in secret} & remembered


async def test_what_is_secret_from_now_on_is_never_indexed(world: World) -> None:
    """The fields are the same, only that one of them is a secret now."""
    blocks: list[bytes] = []

    def script(h2: Conversation) -> None:
        for _ in range(2):
            block = h2.await_block()
            blocks.append(b"".join(frame.data for frame in block.frames))
            h2.respond(block.stream_id)

    with H2Peer(script) as peer:
        async with h2_session(world, defaults=False) as session:
            session.headers["X-Token"] = "abcdefgh"
            await session.get(peer.url)
            session.headers.secret |= {"x-token"}
            await session.get(peer.url)
    decoder: Any = Decoder()
    assert [field.indexable for block in blocks for field in decoder.decode(block) if field[0] == "x-token"] == [
        True,
        False,
    ]


def test_headers_that_share_their_lines_may_differ_in_their_secrets() -> None:
    memo = FieldsMemo()
    request = Request("GET", "http://h/", headers={"Host": "h", "X-Token": "abcdefgh"})
    again = request.copy()
    again.headers.secret |= {"x-token"}
    assert again.headers.encoded() is request.headers.encoded()
    found = [memo.head_of(one).fields for one in (request, request, again)]
    assert found[0] is found[1]
    assert [fields[0][2] for fields in found] == [Indexing.ADD, Indexing.ADD, Indexing.NEVER]


async def test_a_large_head_goes_out_in_several_frames(world: World) -> None:
    def script(h2: Conversation) -> None:
        block = h2.await_block()
        assert len(block.frames) > 2
        assert dict(block.fields)["x-large"] == value
        h2.respond(block.stream_id)

    value = "".join(chr(33 + number % 90) for number in range(60_000))
    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.get(peer.url, headers={"X-Large": value})).ok


# -- interim responses


HINT = [(":status", "103"), ("link", "</style.css>; rel=preload")]


async def test_hints_come_while_the_response_is_waited_for(world: World) -> None:
    hinted = threading.Event()
    seen: list[Event] = []

    def observe(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Informational):
            hinted.set()

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, HINT)
        h2.wait_for(hinted)
        h2.headers(stream, [(":status", "102")])
        h2.respond(stream, 200, b"ok")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            response = await session.get(peer.url, observe=observe)
            assert (response.status_code, response.text) == (200, "ok")
    hints = [event for event in seen if isinstance(event, Informational)]
    assert [(event.status, event.headers.get("link")) for event in hints] == [
        (103, "</style.css>; rel=preload"),
        (102, None),
    ]


@pytest.mark.parametrize("content", [None, b"x" * 100_000, b"x" * 30_000], ids=["get", "upload", "joined"])
async def test_hints_in_one_packet_with_the_response(world: World, content: bytes | None) -> None:
    """However the two arrive, the observers are told of both, in this order."""
    log = Log()

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        if content:
            assert h2.await_body(stream) == content
        h2.send(*h2._block_frames(stream, HINT, False), *h2._block_frames(stream, [(":status", "200")], True))

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            await session.request("POST" if content else "GET", peer.url, content=content, observe=log)
    log.check()
    assert log.words.count("Informational") == 1
    assert log.words.index("Informational") < log.words.index("Head")


async def test_hints_in_one_packet_with_an_early_response(world: World) -> None:
    """The upload waits for its window, and finds both at once."""
    log = Log()

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.send(*h2._block_frames(stream, HINT, False), *h2._block_frames(stream, [(":status", "413")], True))

    with H2Peer(script, settings={"initial_window_size": 10}) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=b"x" * 100_000, observe=log)).status_code == 413
    log.check()
    assert log.words.count("Informational") == 1
    assert log.words.index("Informational") < log.words.index("Head")


async def test_hints_and_an_early_response_that_lie_there_already(world: World) -> None:
    """The upload finds both when it looks, before the next piece."""
    log = Log()
    answered = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"one"
        assert answered.wait(30)
        yield b"two"
        yield b"three"

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.send(*h2._block_frames(stream, HINT, False), *h2._block_frames(stream, [(":status", "413")], True))
        answered.set()

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=body(), observe=log)).status_code == 413
    log.check()
    assert log.words.count("Informational") == 1
    assert log.words.index("Informational") < log.words.index("Head")


async def test_hints_come_while_the_upload_goes_on(world: World) -> None:
    hinted = threading.Event()

    def observe(event: Event) -> None:
        if isinstance(event, Informational):
            hinted.set()

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, HINT)
        h2.wait_for(hinted)  # until then the window stays shut
        assert h2.await_body(stream) == b"x" * 100_000
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            assert (await session.post(peer.url, content=[b"x" * 100_000], observe=observe)).ok


async def test_interim_responses_are_limited(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        for _ in range(4):
            h2.headers(stream, [(":status", "102")])
        assert h2.await_frame(RstStreamFrame, stream)
        second, _ = h2.await_headers()
        for _ in range(3):
            h2.headers(second, [(":status", "102")])
        h2.respond(second)

    with H2Peer(script) as peer:
        async with h2_session(world, limits=Limits(max_informational=3)) as session:
            with pytest.raises(plugwire.LimitExceeded, match="interim") as caught:
                await session.get(peer.url)
            assert caught.value.limit == "max_informational"
            assert (await session.get(peer.url)).connection.reused


# -- responses without content


@pytest.mark.parametrize("closing", ["head", "data"])
@pytest.mark.parametrize(
    ("method", "status", "length"),
    [
        ("HEAD", "200", "1000"),
        ("HEAD", "200", None),
        ("GET", "204", None),
        ("GET", "304", "1000"),
        ("GET", "304", None),
    ],
)
async def test_responses_without_content(
    world: World, method: str, status: str, length: str | None, closing: str
) -> None:
    """Their Content-Length is that of what is not sent."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        fields = [(":status", status)] + ([("content-length", length)] if length else [])
        h2.headers(stream, fields, end_stream=closing == "head")
        if closing == "data":
            h2.data(stream, b"", end_stream=True)
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"next")

    log = Log()
    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            response = await session.request(method, peer.url, observe=log)
            assert (response.status_code, response.content) == (int(status), b"")
            assert response.headers.get("content-length") == length
            assert (await session.get(peer.url)).text == "next"
            assert session.stats().open == 1
    log.check()


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200"), ("GET", "204"), ("GET", "304")])
async def test_content_where_none_may_be(world: World, method: str, status: str) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", status), ("content-length", "5")])
        h2.data(stream, b"hello", end_stream=True)
        assert h2.await_frame(RstStreamFrame, stream).error_code == PROTOCOL_ERROR
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"next")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(ProtocolError, match="content behind the head"):
                await session.request(method, peer.url)
            assert (await session.get(peer.url)).text == "next"
            assert session.stats().open == 1


# -- strictness, end to end


MALFORMED: list[tuple[str, list[tuple[str, str]], str]] = [
    ("no status", [("x", "y")], "no :status"),
    ("101", [(":status", "101")], "101"),
    ("empty status", [(":status", "")], ":status"),
    ("status of two digits", [(":status", "20")], ":status"),
    ("status after a field", [("x", "y"), (":status", "200")], ":status"),
    ("two of them", [(":status", "200"), (":status", "200")], ":status"),
    ("request pseudo-field", [(":status", "200"), (":path", "/")], ":path"),
    ("upper case", [(":status", "200"), ("X-Up", "y")], "upper case"),
    ("line feed", [(":status", "200"), ("x", "a\nb: c")], "control"),
    ("nul", [(":status", "200"), ("x", "a\0b")], "control"),
    ("space before", [(":status", "200"), ("x", " y")], "white space"),
    ("connection", [(":status", "200"), ("connection", "close")], "connection"),
    ("transfer-encoding", [(":status", "200"), ("transfer-encoding", "chunked")], "transfer-encoding"),
    ("upgrade", [(":status", "200"), ("upgrade", "h2c")], "upgrade"),
    ("lengths that differ", [(":status", "200"), ("content-length", "1"), ("content-length", "2")], "content-length"),
    ("length that is none", [(":status", "200"), ("content-length", "+2")], "content-length"),
]


@pytest.mark.parametrize(("fields", "message"), [pytest.param(*rest, id=name) for name, *rest in MALFORMED])
async def test_a_malformed_response_fails_alone(world: World, fields: list[tuple[str, str]], message: str) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, fields)
        assert h2.await_frame(RstStreamFrame, stream).error_code == PROTOCOL_ERROR
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"next")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(ProtocolError, match=message) as caught:
                await session.get(peer.url)
            error = caught.value
            assert (error.phase, error.sent, error.replayable, error.attempts) == ("head", True, True, 1)
            assert error.request.url == plugwire.URL(peer.url)
            assert error.connection.protocol == "HTTP/2"
            response = await session.get(peer.url)
            assert response.text == "next"
            assert response.connection.id == error.connection.id
            assert session.stats().open == 1
    assert not [frame for frame in peer.received if isinstance(frame, GoAwayFrame) and frame.error_code]


async def test_an_interim_response_with_the_end_is_malformed(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "103")], end_stream=True)
        assert h2.await_frame(RstStreamFrame, stream).error_code == PROTOCOL_ERROR
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"next")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(ProtocolError, match="103 ends the stream"):
                await session.get(peer.url)
            assert (await session.get(peer.url)).text == "next"


async def test_content_before_the_head_is_malformed(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.data(stream, b"hello")
        assert h2.await_frame(RstStreamFrame, stream).error_code == PROTOCOL_ERROR
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"next")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            with pytest.raises(ProtocolError, match="before the head"):
                await session.get(peer.url)
            assert (await session.get(peer.url)).text == "next"


@pytest.mark.parametrize(
    ("fields", "end", "message"),
    [
        ([(":status", "200")], True, "pseudo-field"),
        ([("X-Up", "y")], True, "upper case"),
        ([("connection", "close")], True, "connection"),
        ([("x-fine", "y")], False, "do not end the stream"),
    ],
)
async def test_malformed_trailers_fail_alone(
    world: World, fields: list[tuple[str, str]], end: bool, message: str
) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"hello")
        h2.headers(stream, fields, end_stream=end)
        assert h2.await_frame(RstStreamFrame, stream).error_code == PROTOCOL_ERROR
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"next")

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            async with session.stream("GET", peer.url) as response:
                with pytest.raises(ProtocolError, match=message) as caught:
                    await response.read()
            assert (caught.value.phase, caught.value.sent) == ("body", True)
            assert (await session.get(peer.url)).text == "next"


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (Limits(max_head_bytes=1000), "max_head_bytes"),
        (Limits(max_headers=10), "max_headers"),
    ],
)
async def test_a_head_beyond_the_limits_fails_alone(world: World, limits: Limits, limit: str) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200"), *((f"x-field-{number}", "y" * 100) for number in range(11))])
        assert h2.await_frame(RstStreamFrame, stream)
        second, _ = h2.await_headers()
        h2.respond(second, 200, b"next")

    with H2Peer(script) as peer:
        async with h2_session(world, limits=limits) as session:
            with pytest.raises(plugwire.LimitExceeded) as caught:
                await session.get(peer.url)
            assert caught.value.limit == limit
            assert (await session.get(peer.url)).text == "next"
            assert session.stats().open == 1


# -- the same as over HTTP/1.1


async def test_what_a_response_says_of_itself(world: World) -> None:
    def script(h2: Conversation) -> None:
        for status in (200, 404, 599):
            stream, _ = h2.await_headers()
            h2.headers(
                stream, [(":status", str(status)), ("set-cookie", "a=1"), ("set-cookie", "b=2")], end_stream=True
            )

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            first, second, third = [await session.get(peer.url) for _ in range(3)]
            assert [one.reason for one in (first, second, third)] == ["OK", "Not Found", ""]
            assert [one.ok for one in (first, second, third)] == [True, False, False]
            assert {one.http_version for one in (first, second, third)} == {"HTTP/2"}
            assert first.headers.get_list("set-cookie") == ["a=1", "b=2"]
            assert first.cookies == {"a": "1", "b": "2"}
            info = first.connection
            assert (info.protocol, info.reused, info.peer_address.port) == ("HTTP/2", False, peer.port)
            assert second.connection.reused
            assert second.connection.id == info.id
            assert first.timings.setup is not None
            assert first.timings.wait is not None
            assert first.timings.total >= first.timings.wait
            assert second.timings.setup is None
            with pytest.raises(plugwire.HTTPStatusError, match="404 Not Found"):
                second.raise_for_status()


async def test_a_read_response_can_be_pickled(world: World) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200"), ("x", "y")])
        h2.data(stream, b"hello")
        h2.headers(stream, [("x-sum", "5")], end_stream=True)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            response = bare(await session.get(peer.url))
            copy = pickle.loads(pickle.dumps(response))
            assert (copy.status_code, copy.http_version, copy.reason, copy.content) == (200, "HTTP/2", "OK", b"hello")
            assert (copy.headers, copy.trailers) == (response.headers, Headers({"x-sum": "5"}))


async def _sequence(world: World, url: str, versions: tuple[str, ...], **kwargs: Any) -> list[tuple[Any, ...]]:
    """The events of one call, and what can be compared of what they say."""
    log = Log()
    async with world.session(http_versions=versions, transports=[]) as session:
        try:
            await session.request(kwargs.pop("method", "GET"), url, observe=log, **kwargs)
        except plugwire.Error:
            pass
    log.check()
    names = ("sent", "size", "done", "total", "status", "phase")
    return [
        (word, *(getattr(event, name, None) for name in names)) for word, event in zip(log.words, log.seen, strict=True)
    ]


H1_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize("content", [None, b"hello", b"x" * 60_000], ids=["none", "small", "medium"])
async def test_events_are_the_same(world: World, content: bytes | None) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        if content:
            h2.await_body(stream)
        h2.send(*h2._block_frames(stream, HINT, False))
        h2.respond(stream, 200, b"reply")

    kwargs: dict[str, Any] = {"method": "POST", "content": content} if content else {}
    answer = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n" + H1_HEAD + b"reply"
    with H2Peer(script) as two, ScriptedPeer([expect_request(), send(answer)]) as one:
        over_2 = await _sequence(world, two.url, ("h2",), **kwargs)
        over_1 = await _sequence(world, one.url, ("http/1.1",), **kwargs)
    assert over_2 == over_1
    assert [step[0] for step in over_2 if step[0] in ("Informational", "Head", "-CallStep")] == [
        "Informational",
        "Head",
        "-CallStep",
    ]


async def test_events_of_an_upload_are_the_same(world: World) -> None:
    pieces = [b"abc", b"de" * 20_000, b"f"]

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.await_body(stream)
        h2.respond(stream, 200, b"reply")

    with H2Peer(script) as two, ScriptedPeer([expect_request(), send(H1_HEAD + b"reply")]) as one:
        over_2 = await _sequence(world, two.url, ("h2",), method="PUT", content=pieces)
        over_1 = await _sequence(world, one.url, ("http/1.1",), method="PUT", content=pieces)
    assert over_2 == over_1
    assert [step[2] for step in over_2 if step[1]] == [3, 40_000, 1]


async def test_events_of_a_failure_are_the_same(world: World) -> None:
    def script(h2: Conversation) -> None:
        h2.await_headers()
        h2.cut()

    with H2Peer(script) as two, ScriptedPeer([expect_request(), close()]) as one:
        over_2 = await _sequence(world, two.url, ("h2",))
        over_1 = await _sequence(world, one.url, ("http/1.1",))
    assert [step[0] for step in over_2] == [step[0] for step in over_1]
    assert over_2[-1][0] == "!CallStep"


async def test_plugins_do_not_know_the_difference(world: World) -> None:
    """Retries, wirelog, and two that others wrote."""
    signer, counter = Signer(b"key"), BodyCounter()

    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        assert fields["x-signature"]
        h2.respond(stream, 503, b"busy")
        stream, fields = h2.await_headers()
        assert fields["x-signature"]
        h2.respond(stream, 200, b"hello")

    retries = Retries(policy=RetryPolicy(max_retries=1, backoff=0))
    with H2Peer(script) as peer:
        async with h2_session(world, plugins=[retries, "wirelog", signer, counter]) as session:
            response = await session.get(peer.url)
            assert (response.text, response.http_version) == ("hello", "HTTP/2")
            assert counter.ends[-1] == "complete"
            assert counter.bytes >= len("hello")


async def test_wirelog_says_what_went_over_the_wire(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.headers(stream, [(":status", "200"), ("x-a", "b"), ("content-length", "5")])
        h2.data(stream, b"hello", end_stream=True)

    secret = base64.b64encode(b"user:password").decode()
    with H2Peer(script) as peer, caplog.at_level("DEBUG", "plugwire.wire"):
        async with h2_session(world, plugins=["wirelog"]) as session:
            await session.get(peer.url, headers={"Authorization": f"Basic {secret}"})
    lines = caplog.text
    assert "GET" in lines
    assert "HTTP/2" in lines
    assert "x-a: b" in lines
    assert secret not in lines


async def test_a_request_keeps_its_callers_headers(world: World) -> None:
    """What HTTP/2 leaves out is left out on the wire only."""

    def script(h2: Conversation) -> None:
        stream, _ = h2.await_headers()
        h2.respond(stream)

    with H2Peer(script) as peer:
        async with h2_session(world) as session:
            request = Request("GET", peer.url, headers={"Keep-Alive": "timeout=5"})
            response = await session.send(request)
            assert response.request.headers["keep-alive"] == "timeout=5"
            assert response.request.headers["host"] == f"127.0.0.1:{peer.port}"
