"""Decoders without I/O: whatever came, however it was cut, the items are the same."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugwire import AsyncResponse, DecodingError, Response, UsageError
from plugwire.decoders import Lines, Pieces, Text
from plugwire.drive import drive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
        ("utf-8", b"", ""),
        ("utf-8", b"a\xef\xbb\xbf", "a\ufeff"),
    ],
)
def test_byte_order_marks(encoding: str, data: bytes, text: str) -> None:
    for pieces in ([data], [data[place : place + 1] for place in range(len(data))], [b"", data, b""]):
        assert "".join(run(Text(encoding), pieces)) == text


def test_the_callers_word_goes_before_a_byte_order_mark() -> None:
    assert run(Text("latin-1", is_certain=True), [b"\xef", b"\xbb\xbf"]) == ["ï", "»¿"]
    assert run(Lines("latin-1", is_certain=True), [b"\xef\n"]) == ["ï"]


@given(st.binary(max_size=40), CUTS, st.integers(1, 10))
def test_pieces(data: bytes, places: list[int], size: int) -> None:
    pieces = run(Pieces(size), cut(data, places))
    assert pieces == [data[begin : begin + size] for begin in range(0, len(data), size)]
    assert run(Pieces(), cut(data, places)) == [piece for piece in cut(data, places) if piece]


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
