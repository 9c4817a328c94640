"""HPACK, both ways, beside the hpack package.

Whatever the blocks: fields or `HPACKError`; what we take the hpack package takes for the same fields; what our encoder
writes it reads. A block that is too large leaves the decoder in step.

An input: the limits, and blocks, each with its length before it; or fields to be encoded.
"""

from __future__ import annotations

import re
from itertools import pairwise

import hpack

from fuzz.examples import Choices, examples
from plugwire_transports.http2.hpack import Decoder, Encoder, HPACKError, Indexing, TooLarge

WORDS = (
    b"\x82", b"\x88", b"\xbe", b"\x40\x01x\x01a", b"\x00\x01x\x01a", b"\x10\x01x\x01a", b"\x20", b"\x3f\xe1\x1f",
    b"\x3f\x00", b"\x7f\xff\xff\xff\xff\x0f", b"\x48\x82\x64\x02", b"\x58\x85\xae\xc3\x77\x1a\x4b", b"\xff\x00",
    b"\x0f\x0d\x01",
    b"\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
)  # fmt: skip


def seeds() -> list[bytes]:
    texts = [text for text in examples("test_http2_hpack", str) if re.fullmatch("(?:[0-9a-f]{2}){1,200}", text)]
    blocks = [bytes.fromhex(text) for text in texts]
    found = [bytes((0, len(one))) + one for one in blocks]
    found += [bytes((4, len(one))) + one + bytes((len(other),)) + other for one, other in pairwise(blocks)]
    found += [b"\1\3abc\1x\2\5value\4path\0", b"\1" + b"\4name\5value\0" * 4]
    return found


def check(data: bytes) -> None:
    choices = Choices(data)
    how = choices.number()
    if how & 1:
        _encode(choices, how)
    else:
        _decode(choices, how)


def _decode(choices: Choices, how: int) -> None:
    ours, theirs = Decoder(), hpack.Decoder(max_header_list_size=1 << 30)
    if how & 2:
        ours.max_allowed_table_size = theirs.max_allowed_table_size = 64
    max_size, max_fields = (150, 3) if how & 4 else (1 << 20, 1 << 20)
    memo: dict[tuple[bytes, int], list[tuple[str, str]]] = {}
    while choices:
        block = choices.take(choices.number())
        version = ours.version
        try:
            fields = ours.decode(block, max_size, max_fields)
        except HPACKError:
            try:
                ours.decode(b"\x82", max_size, max_fields)
            except HPACKError:
                return
            raise AssertionError("it goes on after an error") from None
        except TooLarge as error:
            fields = None
            assert error.limit in ("max_size", "max_fields")
            limit = error.limit
        try:
            expected = [(_text(name), _text(value)) for name, value in theirs.decode(block, raw=True)]
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise AssertionError(f"only we take it: {error!r}") from error
        if fields is None:
            size = sum(len(name) + len(value) + 32 for name, value in expected)
            assert size > max_size if limit == "max_size" else len(expected) > max_fields
        else:
            assert fields == expected
            if ours.version == version:
                assert memo.setdefault((block, version), fields) == fields
        assert ours.header_table_size == theirs.header_table_size
        assert ours._used <= ours.header_table_size


def _encode(choices: Choices, how: int) -> None:
    ours, theirs = Encoder(), hpack.Decoder(max_header_list_size=1 << 30)
    while choices:
        fields: list[tuple[str, str, Indexing]] = []
        for _ in range(choices.number() & 7):
            kind = (Indexing.ADD, Indexing.WITHOUT, Indexing.NEVER)[choices.number() % 3]
            name = choices.take(choices.number() & 31).decode("latin-1").lower()
            name = name.encode("latin-1", "replace").decode("latin-1")
            fields.append((name, choices.take(choices.number()).decode("latin-1"), kind))
        if how & 2:
            size = choices.number() * 20
            if size != ours.header_table_size and size <= 4096:
                ours.header_table_size = theirs.max_allowed_table_size = size
        got = theirs.decode(ours.encode(fields), raw=True)
        assert [(_text(name), _text(value)) for name, value in got] == [field[:2] for field in fields]
        for (name, value, kind), field in zip(fields, got, strict=True):
            assert (kind is Indexing.NEVER) == (not field.indexable), (name, value)
        assert theirs.header_table_size == ours.header_table_size


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
