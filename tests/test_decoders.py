"""Decoders without I/O: whatever came, however it was cut, the items are the same."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import plugwire
from plugwire import AsyncResponse, DecodingError, LimitExceeded, Response, UsageError
from plugwire.decoders import (
    NDJSON,
    BodyPart,
    Lines,
    MultipartMixed,
    Pieces,
    ServerSentEvent,
    ServerSentEvents,
    Text,
)
from plugwire.decoders.items import MAX_ITEM
from plugwire.decoders.mixed import MAX_PADDING, MAX_PART_HEAD
from plugwire.drive import drive
from plugwire.headers import Headers
from plugwire.testing.peer import ScriptedPeer, expect_end, expect_head, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from worlds import World


def run(decoder: Any, pieces: Iterable[bytes]) -> list[Any]:
    items: list[Any] = []
    for piece in pieces:
        items.extend(decoder.feed(piece))
    items.extend(decoder.end())
    assert not decoder.end(), "the end comes once"
    return items


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in pairwise(borders)]


CUTS = st.lists(st.integers(0, 1000), max_size=8)
TEXTS = st.text(st.sampled_from("ab\r\n\u2028\x0b\x0c\x1c\x85ü€😀"), max_size=30)


def lines_of(text: str) -> list[str]:
    """The definition: LF, CRLF and CR end a line; the last one need not have an end."""
    lines = re.split("\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


@given(TEXTS, CUTS)
@example("a\r\n\nb", [2, 3])  # the CRLF is cut, and behind it stands an empty line
@example("a\r", [])
@example("\r\r\n\r", [1, 2])
def test_lines(text: str, places: list[int]) -> None:
    assert run(Lines("utf-8"), cut(text.encode(), places)) == lines_of(text)


def test_a_line_that_ended_in_cr_is_given_at_once() -> None:
    decoder = Lines("utf-8")
    decoder.feed(b"x" * 3)
    assert list(decoder.feed(b"a\r")) == ["xxxa"]
    assert list(decoder.feed(b"\n")) == []
    assert list(decoder.feed(b"\n")) == [""]
    assert list(decoder.end()) == []


@given(TEXTS, CUTS, st.sampled_from(["utf-8", "utf-16-le", "utf-16", "utf-8-sig"]))
def test_text(text: str, places: list[int], encoding: str) -> None:
    announced = "utf-8" if encoding == "utf-8-sig" else encoding
    assert "".join(run(Text(announced), cut(text.encode(encoding), places))) == text


@given(st.binary(max_size=12), CUTS)
def test_text_that_does_not_decode_is_the_same_however_it_was_cut(data: bytes, places: list[int]) -> None:
    for encoding in ("utf-8", "utf-16-be", "shift_jis"):
        assert "".join(run(Text(encoding), cut(data, places))) == "".join(run(Text(encoding), [data]))
        # And the same as `text` gives.
        kind = {"content-type": f"text/plain; charset={encoding}"}
        assert "".join(run(Text(encoding), cut(data, places))) == Response(200, headers=kind, content=data).text


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("latin-1", b"\xef\xbb\xbf\xc3\xbc", "ü"),
        ("latin-1", b"\xff\xfe\xfc\x00", "ü"),
        ("latin-1", b"\xfe\xff\x00\xfc", "ü"),
        ("latin-1", b"\xef\xbb", "ï»"),
        ("latin-1", b"\xff", "ÿ"),
        ("utf-16", b"\xff\xfe\xfc\x00", "ü"),
        ("utf-16", b"\xfc\x00a\x00", "üa"),
        ("utf-16", b"\x00a", "\u6100"),
        ("utf-32", b"\xff\xfe\0\0\xfc\0\0\0", "ü"),
        ("utf-32", b"\0\0\xfe\xff\0\0\0\xfc", "ü"),
        ("utf-32", b"\xfc\0\0\0", "ü"),
        ("utf-32", b"\xff\xfe\xfc\0", "ü"),
        ("utf-8", b"", ""),
        ("utf-8", b"a\xef\xbb\xbf", "a\ufeff"),
    ],
)
def test_byte_order_marks(encoding: str, data: bytes, text: str) -> None:
    for pieces in ([data], [data[place : place + 1] for place in range(len(data))], [b"", data, b""]):
        assert "".join(run(Text(encoding), pieces)) == text
    assert Response(200, headers={"content-type": f"text/plain; charset={encoding}"}, content=data).text == text


def test_the_callers_word_goes_before_a_byte_order_mark() -> None:
    assert run(Text("latin-1", is_certain=True), [b"\xef", b"\xbb\xbf"]) == ["ï", "»¿"]
    assert run(Lines("latin-1", is_certain=True), [b"\xef\n"]) == ["ï"]
    for data, text in ((b"\xff\xfea\0", "a"), (b"\xfe\xff\0a", "a"), (b"a\0", "a"), (b"\xef\xbb\xbf\0", "믯¿")):
        assert "".join(run(Text("UTF-16", is_certain=True), [data[:1], data[1:]])) == text
        response = Response(200, content=data)
        response.encoding = "UTF_16"
        assert response.text == "".join(response.iter_text()) == text


def test_text_that_makes_pythons_decoder_give_up_is_the_peers_fault() -> None:
    decoder = Text("iso2022_jp")
    with pytest.raises(DecodingError, match="the content is not iso2022_jp"):
        for byte in b"b+B\x1b$~a\xff&$\x00$}a\x00}({":
            decoder.feed(bytes((byte,)))


@given(st.binary(max_size=40), CUTS, st.integers(1, 10))
def test_pieces(data: bytes, places: list[int], size: int) -> None:
    pieces = run(Pieces(size), cut(data, places))
    assert pieces == [data[begin : begin + size] for begin in range(0, len(data), size)]
    assert run(Pieces(), cut(data, places)) == [piece for piece in cut(data, places) if piece]


def test_a_large_piece_of_small_packets_is_copied_once() -> None:
    """Copied with each packet, 30 MB of them would take the suite's patience."""
    pieces = Pieces(30_000_000)
    assert not any(pieces.feed(b"x" * 1000) for _ in range(29_999))
    assert pieces.feed(b"x" * 1001) == [b"x" * 30_000_000]
    assert pieces.end() == (b"x",)


def test_sizes_are_checked() -> None:
    for size in (0, -1, 1.0, "1"):
        with pytest.raises(UsageError):
            Pieces(size)  # type: ignore[arg-type]  # that is the point


class Numbers:
    """A decoder as users write them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Sequence[int]:
        *whole, self._rest = (self._rest + data).split(b",")
        return [int(item) for item in whole]

    def end(self) -> Sequence[int]:
        if self._rest:
            raise DecodingError("the last number has no comma")
        return ()


def test_a_decoder_of_ones_own() -> None:
    assert list(Response(200, content=b"1,2,30,").iter_decoded(Numbers())) == [1, 2, 30]
    iterator = Response(200, content=b"1,2").iter_decoded(Numbers())
    with pytest.raises(DecodingError):
        list(iterator)


def test_iterators_are_closed_early() -> None:
    response = Response(200, content=b"1,2,3,")
    with response.iter_decoded(Numbers()) as numbers:
        assert next(numbers) == 1
    assert list(numbers) == []
    iterator = response.iter_lines()
    iterator.close()
    iterator.close()
    assert list(iterator) == []
    assert response.content == b"1,2,3,"


def test_async_iterators_are_closed_early() -> None:
    async def main() -> None:
        response = AsyncResponse(200, content=b"1,2,3,")
        async with response.iter_decoded(Numbers()) as numbers:
            assert await anext(numbers) == 1
        assert [number async for number in numbers] == []

    drive(main())


# -- items ---------------------------------------------------------------------------------------------------------


def outcome(decoder: Any, pieces: Iterable[bytes]) -> tuple[list[Any], str | None]:
    """The items, and the error that came behind them."""
    items: list[Any] = []
    try:
        for piece in pieces:
            items.extend(decoder.feed(piece))
        items.extend(decoder.end())
    except (DecodingError, LimitExceeded) as error:
        for call in (lambda: decoder.feed(b"x"), decoder.end):
            with pytest.raises(type(error)) as again:
                call()
            assert again.value is error
        return items, str(error)
    assert not decoder.end(), "the end comes once"
    return items, None


def same_however_cut(make: Callable[[], Any], data: bytes, places: list[int]) -> tuple[list[Any], str | None]:
    whole = outcome(make(), [data])
    assert outcome(make(), cut(data, places)) == whole
    assert outcome(make(), [data[place : place + 1] for place in range(len(data))]) == whole
    return whole


@pytest.mark.parametrize("make", [
    lambda limit: NDJSON(max_line_bytes=limit), lambda limit: ServerSentEvents(max_event_bytes=limit),
    lambda limit: MultipartMixed("multipart/mixed; boundary=B", max_part_bytes=limit),
], ids=["NDJSON", "ServerSentEvents", "MultipartMixed"])  # fmt: skip
def test_limits_are_numbers_of_bytes(make: Any) -> None:
    for limit in (0, -1, 1.5, True, "1", None):
        with pytest.raises(UsageError, match="a whole number of bytes"):
            make(limit)
    make(1)


async def test_items_before_an_error_are_given_first(world: World) -> None:
    """Over a stream and over a kept body, and without waiting for what the peer says next."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    content = b'1\n{"a": 2}\n!\n3\n'
    chunk = b"%x\r\n%b\r\n" % (len(content), content)
    with ScriptedPeer([expect_head(), send(head + chunk), expect_end()]) as peer:
        async with world.session() as session, session.stream("GET", peer.url) as response:
            items = response.iter_decoded(NDJSON())
            assert [await anext(items), await anext(items)] == [1, {"a": 2}]
            with pytest.raises(DecodingError, match="line 3 is not JSON"):
                await anext(items)
    kept = Response(200, content=content).iter_decoded(NDJSON())
    assert [next(kept), next(kept)] == [1, {"a": 2}]
    with pytest.raises(DecodingError, match="line 3"):
        next(kept)
    assert list(Response(200, content=b"1\n2").iter_decoded(NDJSON())) == [1, 2]


# -- NDJSON --------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**20) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(VALUES, max_size=6), st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\r\n"]), st.booleans(), CUTS)
def test_ndjson(values: list[Any], ending: str, is_ended: bool, places: list[int]) -> None:
    text = ending.join(json.dumps(value, ensure_ascii=False) for value in values) + (ending if is_ended else "")
    assert same_however_cut(NDJSON, text.encode(), places) == (values, None)


@given(st.binary(max_size=40) | st.text("1\n{}\r\\", max_size=20).map(str.encode), CUTS)
def test_ndjson_that_is_none(data: bytes, places: list[int]) -> None:
    same_however_cut(lambda: NDJSON(max_line_bytes=8), data, places)


@pytest.mark.parametrize(
    ("data", "values", "message"),
    [
        (b"1\n\n2\nx\n3", [1, 2], "line 4 is not JSON"),
        (b"12345678\n123456789\n", [12345678], "line 2 is longer than max_line_bytes=8"),
        (b"12345678\n123456789", [12345678], "line 2 is longer than max_line_bytes=8"),
        (b'1\n"\xff"\n', [1], "line 2 is not JSON"),
        (b"[" * 8, [], "line 1 is not JSON"),
        (b"\xef\xbb\xbf1\n2\n", [1, 2], None),
    ],
)
def test_errors_of_ndjson_name_the_line(data: bytes, values: list[Any], message: str | None) -> None:
    items, error = same_however_cut(lambda: NDJSON(max_line_bytes=8), data, [3])
    assert items == values
    assert (message or "") in (error or "") and (message is None) is (error is None)


def test_ndjson_by_another_library() -> None:
    def failing(line: bytes) -> Any:
        raise KeyError(line)

    assert run(NDJSON(decoder=len), [b"12\n3"]) == [2, 1]
    items, error = outcome(NDJSON(decoder=failing), [b"1\n"])
    assert (items, error) == ([], "line 1 is not JSON: b'1'")


# -- events --------------------------------------------------------------------------------------------------------


def events_of(content: bytes) -> list[ServerSentEvent]:
    """The definition, as HTML has it, of what lies there whole."""
    text = content.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _ = re.split("\r\n|\r|\n", text)
    found: list[ServerSentEvent] = []
    kind, identifier, pending, data, retry = "", "", "", "", None
    for line in lines:
        if line == "":
            identifier = pending
            if data:
                found.append(ServerSentEvent(kind or "message", data[:-1], identifier, retry))
            kind, data, retry = "", "", None
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            pending = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return found


WORDS = [
    "data", "event", "id", "retry", ":", ": ", " ", "\n", "\r", "\r\n", "\n\n", "x", "ü", "7", "\0", "\ufeff", "٣",
    "data: a\n", "id: 1\n", "retry: 10\n", ": comment\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=20).map("".join).map(str.encode), CUTS)
@example(b"\xef\xbb\xbfdata: x\r\r\ndata\n\n", [1, 12])
@example(b"data: x\r\n\r\ndata: y\r\n\r", [8, 9, 10, 11])
def test_events(data: bytes, places: list[int]) -> None:
    assert same_however_cut(ServerSentEvents, data, places) == (events_of(data), None)


@given(st.binary(max_size=60), CUTS)
def test_events_of_any_bytes(data: bytes, places: list[int]) -> None:
    items, error = same_however_cut(ServerSentEvents, data, places)
    assert (items, error) == (events_of(data), None)
    same_however_cut(lambda: ServerSentEvents(max_event_bytes=8), data, places)


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"", []),
        (b"data: a\n", []),
        (b"data: a\n\n", [ServerSentEvent(data="a")]),
        (b"data\n\n", [ServerSentEvent()]),
        (b"data\ndata\n\n", [ServerSentEvent(data="\n")]),
        (b"data:  a\ndata:b\n\n", [ServerSentEvent(data=" a\nb")]),
        (b"event: e\n\ndata: a\n\n", [ServerSentEvent(data="a")]),
        (b"event: e\ndata: a\n\n", [ServerSentEvent("e", "a")]),
        (b"id: 1\n\ndata: a\n\nid\ndata: b\n\n", [ServerSentEvent(data="a", id="1"), ServerSentEvent(data="b")]),
        (b"id: 1\0\ndata: a\n\n", [ServerSentEvent(data="a")]),
        (b"retry: 5\ndata: a\n\ndata: b\n\n", [ServerSentEvent(data="a", retry=5), ServerSentEvent(data="b")]),
        (b"retry: 5x\nretry: -5\nretry:\ndata: a\n\n", [ServerSentEvent(data="a")]),
        (b":x\nDATA: a\ndata : b\nother: c\n\n", []),
        (b"data: \xff\n\n", [ServerSentEvent(data="\ufffd")]),
    ],
)
def test_the_examples_of_events(data: bytes, events: list[ServerSentEvent]) -> None:
    assert same_however_cut(ServerSentEvents, data, [3, 7]) == (events, None)


def test_an_event_is_given_with_the_byte_that_completes_it() -> None:
    for ending in (b"\n\n", b"\r\r", b"\r\n\r"):
        decoder = ServerSentEvents()
        assert [list(decoder.feed(bytes((byte,)))) for byte in b"data:x" + ending][-2:] == [
            [],
            [ServerSentEvent(data="x")],
        ]


def test_what_a_client_that_reconnects_needs() -> None:
    decoder = ServerSentEvents()
    assert (decoder.last_event_id, decoder.retry) == (None, None)
    decoder.feed(b"id: 1\nretry: 10\n\n")
    assert (decoder.last_event_id, decoder.retry) == ("1", 10)
    decoder.feed(b"id: 2\ndata: x\n")
    assert decoder.last_event_id == "1", "this event has not come yet"
    decoder.feed(b"\nretry: " + b"9" * 5000 + b"\nid\n\n")
    assert (decoder.last_event_id, decoder.retry) == ("", 10**12)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"data: 12\n\n" * 3, 3),
        (b":12345678\n:12345678\n\n", None),
        (b":1234567\n" * 9 + b"data:123\n\n", 1),
        (b"data: 12\n\ndata: 123\n\n", None),
        (b"data:\ndata:\n\n", None),
        (b"x" * 9, None),
    ],
)
def test_events_are_bounded(data: bytes, count: int | None) -> None:
    items, error = same_however_cut(lambda: ServerSentEvents(max_event_bytes=8), data, [2])
    assert (error is None) is (count is not None)
    assert count is None or len(items) == count
    assert error is None or error == "an event is larger than max_event_bytes=8"


# -- parts ---------------------------------------------------------------------------------------------------------

KIND = "multipart/mixed; boundary=B"


def parts_of(*parts: tuple[dict[str, str], bytes]) -> list[BodyPart]:
    return [BodyPart(Headers(headers), content) for headers, content in parts]


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"--B\r\n\r\nx\r\n--B--", parts_of(({}, b"x"))),
        (b"preamble\r\n--B\r\nA: 1\r\nB:\t2 \r\n\r\nx\r\n\r\n--B--\r\nepilogue\r\n--B\r\n",
         parts_of(({"A": "1", "B": "2"}, b"x\r\n"))),
        (b"--B \t\r\n\r\n\r\n--B\r\n\r\n\n--B\r\n--Bx\r\n--B-\r\n--B--",
         parts_of(({}, b""), ({}, b"\n--B\r\n--Bx\r\n--B-"))),
        (b"--B\r\nA: 1\r\n\r\n--B--", parts_of(({"A": "1"}, b""))),
        (b"--B\r\n\r\n--B\r\n\r\n--B--x", parts_of(({}, b""), ({}, b""))),
        (b"--B--", []),
        (b"--Bx\r\n--B\r\n\r\na\r\r\n--B--", parts_of(({}, b"a\r"))),
    ],
)  # fmt: skip
def test_parts(data: bytes, parts: list[BodyPart]) -> None:
    assert same_however_cut(lambda: MultipartMixed(KIND), data, [1, 5, 9, 12]) == (parts, None)


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"", 0, "ended before the first delimiter"),
        (b"preamble\r\n--B", 0, "ended before the first delimiter"),
        (b"--B\r\nA: 1\r\n", 0, "ended in a part's header section"),
        (b"--B\r\n\r\nx\r\n--B\r\n\r\ny\r\n--B-", 1, "ended in a part: its last delimiter is missing"),
        (b"--B\r\n\r\nx\r\n--B\r\nA\r\n\r\n", 1, "in the head of a part is no field: b'A'"),
        (b"--B\r\nA b: 1\r\n\r\n", 0, "a field that cannot be one"),
        (b"--B\r\nA: \0\r\n\r\n", 0, "a field that cannot be one"),
        (b"--B\r\nA: 1\r\n b\r\n\r\n", 0, "is no field"),
        (b"--B\n\nx\n--B--", 0, "ended before the first delimiter"),
        (b"--B\r\n\r\n12345678\r\n--B\r\n\r\n123456789\r\n--B--", 1, "larger than max_part_bytes=8"),
        (b"--B\r\n\r\n123456789", 0, "ended in a part"),
        (b"--B\r\n\r\n" + b"1" * 20, 0, "larger than max_part_bytes=8"),
        (b"--B\r\nA: " + b"1" * MAX_PART_HEAD, 0, "the head of a part is larger than 65536 bytes"),
    ],
)
def test_what_is_wrong_with_parts(data: bytes, count: int, message: str) -> None:
    make = lambda: MultipartMixed(KIND, max_part_bytes=8)  # noqa: E731  (short)
    items, error = outcome(make(), [data])
    assert len(items) == count and message in (error or "")
    if len(data) < 1000:
        same_however_cut(make, data, [3, 8])


def test_padding_is_bounded() -> None:
    for padding, count in ((MAX_PADDING, 1), (MAX_PADDING + 1, 0)):
        data = b"--B" + b" " * padding + b"\r\n\r\nx\r\n--B--"
        assert len(same_however_cut(lambda: MultipartMixed(KIND), data, [100])[0]) == count


FIELDS = st.dictionaries(st.sampled_from(["A", "content-type"]), st.text("ab;=", min_size=1))
BITS = [b"\r\n", b"--B", b"--", b" ", b"\r", b"\n", b"A: 1", b"x", b"\r\n\r\n", b"\r\n--B"]


@given(st.lists(st.tuples(FIELDS, st.binary()), max_size=4), st.sampled_from(["B", "a'b_c", "x" * 70]), CUTS)
def test_parts_that_were_written(parts: Any, boundary: str, places: list[int]) -> None:
    delimiter = f"--{boundary}".encode()
    if any(delimiter in content for _, content in parts):
        return
    data = b"".join(
        b"%b\r\n%b\r\n%b\r\n" % (delimiter, Headers(headers).encoded(), content) for headers, content in parts
    )
    kind = f'Multipart/Byteranges; x=y; Boundary="{boundary}"'
    expected = (parts_of(*parts), None)
    assert same_however_cut(lambda: MultipartMixed(kind), data + delimiter + b"--\r\n", places) == expected


@given(st.lists(st.sampled_from(BITS), max_size=16).map(b"".join), CUTS)
def test_parts_of_any_bytes(data: bytes, places: list[int]) -> None:
    same_however_cut(lambda: MultipartMixed(KIND, max_part_bytes=8), data, places)


@pytest.mark.parametrize("kind", [None, "", "text/html; boundary=B", "multipart/mixed", 'multipart/mixed; boundary=""',
                                  "multipart/mixed; boundary=" + "x" * 71])  # fmt: skip
def test_parts_without_a_boundary(kind: str | None) -> None:
    with pytest.raises(DecodingError, match="names no boundary"):
        MultipartMixed(kind)


def test_a_form_of_ours_can_be_read_as_parts() -> None:
    request = plugwire.Request("POST", "http://h/", data={"a": "1"}, files={"f": ("x.txt", b"content")})
    decoder = MultipartMixed(request.headers["content-type"])
    parts = run(decoder, [request.content or b""])
    assert [part.content for part in parts] == [b"1", b"content"]
    assert parts[1].headers["content-disposition"] == 'form-data; name="f"; filename="x.txt"'


def test_the_default_limit_is_what_is_documented() -> None:
    assert MAX_ITEM == 16 * 1024 * 1024


@pytest.mark.parametrize("make", [Text, Lines])
@pytest.mark.parametrize("name", ["utf-99", "base64", "idna", "a\0b"])
def test_what_is_no_charset_is_refused(make: Any, name: str) -> None:
    with pytest.raises(UsageError, match="no charset of this name"):
        make(name)
