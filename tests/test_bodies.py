"""What a request's body can be made of, and bodies that lie in memory. How bodies travel: test_http11_uploads.py."""

from __future__ import annotations

import io
import json
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Request, UsageError
from plugwire.bodies import EMPTY, MemoryBody, PiecesBody, make_source
from plugwire.drive import drive
from plugwire.testing import MockTransport

if TYPE_CHECKING:
    from worlds import World


def body_of(**given: Any) -> tuple[bytes | None, str | None]:
    request = Request("POST", "http://h/", **given)
    return request.content, request.headers.get("content-type")


JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
FORM_OF_ALL_KINDS = b"a=%FF&n=1.5&2=0.10&d=2026-01-02"


@pytest.mark.parametrize(
    ("given", "content", "kind"),
    [
        ({}, b"", None),
        ({"content": None}, b"", None),
        ({"content": b"x"}, b"x", None),
        ({"content": "ü"}, "ü".encode(), None),
        ({"json": None, "data": None, "content": b"x", "files": None}, b"x", None),
        ({"json": [None]}, b"[null]", JSON),
        ({"json": {"a": ["ü", 1.5, True]}}, '{"a":["ü",1.5,true]}'.encode(), JSON),
        ({"data": {"a": "b c", "d": "ü&="}}, b"a=b+c&d=%C3%BC%26%3D", FORM),
        ({"data": {"a": [1, 2], "b": None, "c": True}}, b"a=1&a=2&c=true", FORM),
        ({"data": [("a", 1), ("b", 2), ("a", 3)]}, b"a=1&b=2&a=3", FORM),
        ({"data": {}}, b"", FORM),
        ({"data": {b"a": b"\xff", "n": 1.5, 2: Decimal("0.10"), "d": date(2026, 1, 2)}}, FORM_OF_ALL_KINDS, FORM),
        ({"data": iter([("a", ("1", "2"))])}, b"a=1&a=2", FORM),
    ],
)
def test_bodies_and_their_content_type(given: dict[str, Any], content: bytes, kind: str | None) -> None:
    assert body_of(**given) == (content, kind)


def test_a_method_in_small_letters_is_meant_as_the_known_one() -> None:
    assert [Request(method, "http://h/").method for method in ("get", "Delete", "purge", "PURGE")] == [
        "GET", "DELETE", "purge", "PURGE",
    ]  # fmt: skip


def test_the_callers_content_type_stays() -> None:
    assert body_of(json={}, headers={"Content-Type": "application/x+json"}) == (b"{}", "application/x+json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"content": 5}, "content= is int"),
        ({"content": {"a": 1}}, "form fields go into data="),
        ({"content": object()}, "content= is object"),
        ({"data": b"a=b"}, "content="),
        ({"data": "a=b"}, "content="),
        ({"data": 5}, "mapping or as pairs"),
        ({"data": [1]}, "mapping or as pairs"),
        ({"json": float("nan")}, "json="),
        ({"json": object()}, "json="),
        ({"json": "\ud800"}, "json="),
        ({"data": {"a": {"b": 1}}}, "the field 'a' has a name or value of type dict; json= carries what has parts"),
        ({"data": {"a": [[1]]}}, "type list"),
        ({"data": {"a": io.BytesIO()}}, "a file goes into files="),
        ({"data": [("a", "b", "c")]}, "tuple is no pair"),
        ({"data": ["ab"]}, "str is no pair"),
        ({"data": {None: 1}}, "type NoneType"),
        ({"data": {"a": print}}, "type builtin_function_or_method"),
        ({"data": io.BytesIO(b"a=b")}, "content="),
        ({"content": b"", "files": {"f": b""}}, "content= and files="),
        ({"json": {}, "files": {"f": b""}, "data": {}}, "json= and files="),
        ({"content": b"", "data": {}}, "content= and data="),
        ({"json": 0, "content": b""}, "content= and json="),
    ],
)
def test_what_a_body_cannot_be_made_of(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request("POST", "http://h/", **given)


def test_an_empty_body_is_one_object() -> None:
    assert make_source(None) is EMPTY
    assert Request("GET", "http://h/").body is EMPTY
    assert (EMPTY.length, EMPTY.content, EMPTY.is_replayable) == (0, b"", True)


def test_a_source_of_ones_own_is_taken_as_it_is() -> None:
    class Source:
        length = 3
        content = None
        is_replayable = True

        def open(self, call: Any) -> Any:
            return MemoryBody(b"abc")

    source = Source()
    assert Request("POST", "http://h/", content=source).body is source


def test_lengths_and_replays() -> None:
    file = io.BytesIO(b"12345")
    file.read(2)
    source = make_source(file)
    assert (source.length, source.is_replayable, source.content) == (3, True, None)
    assert file.tell() == 2
    source = make_source([b"1", b"2"])
    assert (source.length, source.is_replayable, source.content) == (None, True, None)
    assert not make_source(iter([b"1"])).is_replayable
    assert make_source("ü").length == 2


def test_a_body_in_memory() -> None:
    async def main() -> None:
        body = MemoryBody(b"0123456789")
        assert body.length == 10
        assert await body.receive(3) == b"012"
        buffer = bytearray(4)
        assert await body.receive_into(memoryview(buffer)) == 4
        assert buffer == b"3456"
        assert await body.receive() == b"789"
        assert await body.receive() == b""
        assert await body.receive_into(memoryview(buffer)) == 0
        for end in ("close", "abort"):
            body = MemoryBody(b"0123456789")
            outcome = getattr(body, end)()
            if outcome is not None:
                await outcome
            assert await body.receive() == b""
        content = bytes(100)
        assert await MemoryBody(content).receive() is content, "whole content is not copied"

    drive(main())


def test_pieces_are_given_out_in_the_size_asked_for() -> None:
    async def main() -> None:
        body = PiecesBody(iter([b"", b"12345", "ü", bytearray(b"x")]), None)
        came = []
        while piece := await body.receive(2):
            came.append(piece)
        assert came == [b"12", b"34", b"5", "ü".encode(), b"x"]
        assert await body.receive(2) == b""
        body = PiecesBody(iter([b"12345"]), None)
        await body.receive(2)
        await body.close()
        await body.close()
        assert await body.receive(2) == b""

    drive(main())


def test_bodies_show_little_of_themselves() -> None:
    assert repr(make_source(b"secret")) == "<6 bytes>"
    assert "secret" not in repr(Request("POST", "http://user:secret@h/", content=b"secret"))
    assert plugwire.Request("GET", "http://h/").copy().body is EMPTY


# -- JSON by another library -----------------------------------------------------------------------------------------


def spaced(value: object) -> str:
    return json.dumps(value, indent=1)


async def test_the_json_encoder_of_a_session_and_of_a_call(world: World) -> None:
    mock = MockTransport({"/": plugwire.Response(200)})
    async with world.session(transports=[mock], options={"json_encoder": spaced}) as session:
        await session.post("http://h/", json={"a": 1})
        await session.post("http://h/", json={"a": 1}, options={"json_encoder": lambda value: b"%d" % value["a"]})
        await session.derive(options={"json_encoder": None}).post("http://h/", json={"a": 1})
        await session.open_request("POST", "http://h/", json={"a": 1}).send()
    assert [call.content for call in mock.calls] == [b'{\n "a": 1\n}', b"1", b'{"a":1}', b'{\n "a": 1\n}']
    assert {call.headers["content-type"] for call in mock.calls} == {JSON}


def test_the_json_encoder_of_a_request() -> None:
    assert Request("POST", "http://h/", json=[1], json_encoder=lambda value: memoryview(b"[1]")).content == b"[1]"  # type: ignore[arg-type,return-value]  # a buffer will do


def failing(value: object) -> bytes:
    raise KeyError("no")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (failing, "json_encoder raised KeyError: 'no'"),
        (lambda value: 5, "json_encoder gave int, not bytes or str"),
        (lambda value: "\ud800", "json_encoder raised UnicodeEncodeError"),
    ],
)
async def test_what_a_json_encoder_does_wrong_is_said_before_any_io(world: World, encoder: Any, message: str) -> None:
    mock = MockTransport({"/": plugwire.Response(200)})
    async with world.session(transports=[mock]) as session:
        with pytest.raises(UsageError, match=message):
            await session.post("http://h/", json={}, options={"json_encoder": encoder})
    assert mock.calls == []


def test_a_json_encoder_is_callable() -> None:
    with pytest.raises(UsageError, match="json_encoder=5: a callable"):
        plugwire.Session(options={"json_encoder": 5})
    with plugwire.Session() as session, pytest.raises(UsageError, match="json_encoder='x': a callable"):
        session.post("http://h/", json={}, options={"json_encoder": "x"})
    with plugwire.Session() as session, pytest.raises(UsageError, match="unknown option 'json_encodre'"):
        session.post("http://h/", json={}, options={"json_encodre": json.dumps})
