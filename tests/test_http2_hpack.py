"""HPACK: the RFC's own examples, the hpack package as the other end, and everything that must be refused."""

from __future__ import annotations

import tracemalloc
from typing import TypeAlias

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugwire_transports.http2.hpack import MAX_TABLE_SIZE, Decoder, Encoder, HPACKError, Indexing, TooLarge

ADD, WITHOUT, NEVER = Indexing.ADD, Indexing.WITHOUT, Indexing.NEVER

Pairs: TypeAlias = list[tuple[str, str]]
Fields: TypeAlias = list[tuple[str, str, Indexing]]

NO_LIMIT = 2**40


def decode(decoder: Decoder, block: bytes) -> Pairs:
    return decoder.decode(block, NO_LIMIT, NO_LIMIT)


def pairs(fields: Fields) -> Pairs:
    return [(name, value) for name, value, _ in fields]


def theirs_decode(decoder: hpack.Decoder, block: bytes) -> Fields:
    """What the hpack package makes of a block; what it calls sensitive is NEVER, everything else ADD."""
    return [
        (
            bytes(field[0]).decode("latin-1"),
            bytes(field[1]).decode("latin-1"),
            NEVER if isinstance(field, hpack.NeverIndexedHeaderTuple) else ADD,
        )
        for field in decoder.decode(block, raw=True)
    ]


def theirs_encode(encoder: hpack.Encoder, fields: Fields, huffman: bool = True) -> bytes:
    return encoder.encode([(n.encode("latin-1"), v.encode("latin-1"), i is NEVER) for n, v, i in fields], huffman)


# -- appendix C ------------------------------------------------------------------------------------------------------

FIRST: Pairs = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]
SECOND: Pairs = [*FIRST, ("cache-control", "no-cache")]
THIRD: Pairs = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
]
DATE, LATER = "Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT"
TAIL: Pairs = [("cache-control", "private"), ("date", DATE), ("location", "https://www.example.com")]
FOUND: Pairs = [(":status", "302"), *TAIL]
MOVED: Pairs = [(":status", "307"), *TAIL]
FINE: Pairs = [
    (":status", "200"),
    ("cache-control", "private"),
    ("date", LATER),
    ("location", "https://www.example.com"),
    ("content-encoding", "gzip"),
    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
]

PLAIN_REQUESTS = [
    ("828684410f7777772e6578616d706c652e636f6d", FIRST),
    ("828684be58086e6f2d6361636865", SECOND),
    ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", THIRD),
]
HUFFMAN_REQUESTS = [
    ("828684418cf1e3c2e5f23a6ba0ab90f4ff", FIRST),
    ("828684be5886a8eb10649cbf", SECOND),
    ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", THIRD),
]
PLAIN_RESPONSES = [
    (
        "3fe101"  # a table of 256 octets, which the RFC has agreed beforehand
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e17"
        "68747470733a2f2f7777772e6578616d706c652e636f6d",
        FOUND,
    ),
    ("4803333037c1c0bf", MOVED),
    (
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b"
        "425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
        FINE,
    ),
]
HUFFMAN_RESPONSES = [
    (
        "3fe101"
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        FOUND,
    ),
    ("4883640effc1c0bf", MOVED),
    (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af2708"
        "7f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        FINE,
    ),
]


@pytest.mark.parametrize(
    "blocks",
    [PLAIN_REQUESTS, HUFFMAN_REQUESTS, PLAIN_RESPONSES, HUFFMAN_RESPONSES],
    ids=["C.3", "C.4", "C.5", "C.6"],
)
def test_the_rfcs_blocks_on_one_connection_decode(blocks: list[tuple[str, Pairs]]) -> None:
    decoder = Decoder()
    for block, fields in blocks:
        assert decode(decoder, bytes.fromhex(block)) == fields


@pytest.mark.parametrize(
    ("block", "field", "is_added"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", ("custom-key", "custom-header"), True),  # C.2.1
        ("040c2f73616d706c652f70617468", (":path", "/sample/path"), False),  # C.2.2
        ("100870617373776f726406736563726574", ("password", "secret"), False),  # C.2.3
        ("82", (":method", "GET"), False),  # C.2.4
    ],
)
def test_the_rfcs_representations_decode(block: str, field: tuple[str, str], is_added: bool) -> None:
    decoder = Decoder()
    assert decode(decoder, bytes.fromhex(block)) == [field]
    if is_added:
        assert decode(decoder, b"\xbe") == [field]
    else:
        with pytest.raises(HPACKError, match="index 62"):
            decode(decoder, b"\xbe")


def test_the_rfcs_integer_1337_is_a_table_size() -> None:  # C.1.2
    decoder = Decoder()
    assert decode(decoder, bytes.fromhex("3f9a0a")) == []
    assert decoder.header_table_size == 1337


def test_encoding_gives_the_rfcs_huffman_requests() -> None:  # C.4
    encoder = Encoder()
    for block, fields in HUFFMAN_REQUESTS:
        assert encoder.encode([(name, value, ADD) for name, value in fields]).hex() == block


def test_encoding_gives_the_rfcs_representations() -> None:
    secret = hpack.Encoder().encode([("password", "secret", True)])  # C.2.3, and in Huffman code
    assert Encoder().encode([("password", "secret", NEVER)]) == secret
    assert Encoder().encode([(":path", "\x00\x01", WITHOUT)]).hex() == "04020001"
    assert Encoder().encode([(":path", "/", WITHOUT)]) == b"\x84"


# -- the hpack package at the other end ------------------------------------------------------------------------------

TOKENS = [":method", ":path", ":status", "cookie", "date", "content-length", "x-a", "x-b", "a-rather-long-name" * 4]
names = st.sampled_from(TOKENS) | st.text("abc-:", min_size=1, max_size=5)
values = (
    st.sampled_from(["", "GET", "/", "200", "0", "x" * 60, "y" * 200, "z" * 5000])
    | st.text(st.characters(max_codepoint=255), max_size=12)
    | st.text("0123456789abcdef-,: ", max_size=40)
)
field_lists = st.lists(st.tuples(names, values, st.sampled_from(Indexing)), max_size=8)
sizes = st.sampled_from([0, 31, 33, 64, 100, 150, 300, 1000, 4096])
steps = st.lists(field_lists | sizes, max_size=12)


@given(steps, st.booleans())
def test_blocks_of_the_hpack_package_decode(script: list[Fields | int], huffman: bool) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for step in script:
        if isinstance(step, int):
            if step != encoder.header_table_size:  # hpack 4.2 forgets a change when the same size is set twice
                encoder.header_table_size = step
        else:
            assert decode(decoder, theirs_encode(encoder, step, huffman)) == pairs(step)


@given(steps)
def test_our_blocks_decode_with_the_hpack_package_and_with_ours(script: list[Fields | int]) -> None:
    encoder, theirs, ours = Encoder(), hpack.Decoder(), Decoder()
    for step in script:
        if isinstance(step, int):
            encoder.header_table_size = step
        else:
            block = encoder.encode(step)
            got = theirs_decode(theirs, block)
            assert pairs(got) == pairs(step)
            assert [i is NEVER for *_, i in got] == [i is NEVER for *_, i in step]
            assert decode(ours, block) == pairs(step)
            assert theirs.header_table_size == ours.header_table_size == encoder.header_table_size


pieces = st.one_of(
    st.integers(0x80, 0xFF).map(lambda octet: bytes((octet,))),
    st.tuples(
        st.integers(0, 0x1F) | st.integers(0x40, 0x7F) | st.sampled_from([0x00, 0x10, 0x40, 0x42, 0x7E]),
        st.lists(st.binary(max_size=6).map(lambda data: bytes((len(data),)) + data), min_size=1, max_size=2),
    ).map(lambda piece: bytes((piece[0],)) + b"".join(piece[1])),
    st.binary(max_size=4),
    st.just(b"\x40\x01a" + b"\x81\x1f"),
)
raw_blocks = st.tuples(
    st.lists(st.sampled_from([b"\x20", b"\x3e", b"\x3f\x20", b"\x3f\xe1\x1f", b"\x3f\xff\x7f"]), max_size=2),
    st.lists(pieces, max_size=6),
).map(lambda parts: b"".join([*parts[0], *parts[1]]))


@settings(max_examples=400)
@given(st.lists(raw_blocks, max_size=8))
def test_any_octets_get_the_verdict_and_the_fields_that_the_hpack_package_gives(blocks: list[bytes]) -> None:
    theirs, ours = hpack.Decoder(), Decoder()
    for block in blocks:
        try:
            expected = pairs(theirs_decode(theirs, block))
        except hpack.HPACKError:
            with pytest.raises(HPACKError):
                decode(ours, block)
            break
        assert decode(ours, block) == expected
        assert ours.header_table_size == theirs.header_table_size


@pytest.mark.parametrize("symbol", range(256))
def test_every_symbol_has_its_huffman_code(symbol: int) -> None:
    text = "aa" + chr(symbol) + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"  # Huffman code pays for the whole
    block = Encoder().encode([("x", text, WITHOUT)])
    assert block[3] & 0x80
    assert decode(Decoder(), block) == [("x", text)]
    assert pairs(theirs_decode(hpack.Decoder(), block)) == [("x", text)]


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 256, 5000, 20000])
def test_strings_of_any_length(length: int) -> None:
    for value in ("a" * length, "\x00" * length):
        block = Encoder().encode([(value, value, NEVER)])
        assert decode(Decoder(), block + b"\x82") == [(value, value), (":method", "GET")]


def test_nothing_inside_a_string_is_taken_for_a_length() -> None:
    for octet in (0x00, 0x7F, 0x80, 0xFF):
        for length in (1, 126, 127, 128, 200, 300):
            text = chr(octet) * length
            for field in [(text, "v"), ("n", text), (text, text)]:
                for pattern in (b"\x40", b"\x00", b"\x10"):
                    raw = [
                        b"\x7f" + _length(len(part) - 127) if len(part) > 126 else bytes((len(part),)) for part in field
                    ]
                    block = pattern + b"".join(
                        size + part.encode("latin-1") for size, part in zip(raw, field, strict=True)
                    )
                    decoder = Decoder()
                    for _ in range(2):
                        assert decode(decoder, block + b"\x82") == [field, (":method", "GET")]


def _length(rest: int) -> bytes:
    return bytes((rest,)) if rest < 128 else bytes((rest & 0x7F | 0x80, rest >> 7))


def test_what_is_remembered_changes_nothing() -> None:
    """The same strings again, in all their forms, at every distance from the block's end."""
    forms = [
        b"\x5f\x02hi", b"\x5f\x82\x9c\xbf", b"\x0f\x10\x02hi", b"\x1f\x10\x02hi", b"\x40\x01x\x02hi",
        b"\x00\x01x\x02hi", b"\x10\x01x\x02hi", b"\x10\x01x\x82\x9c\xbf", b"\x41\x02hi", b"\x01\x02hi", b"\x11\x02hi",
        b"\x5f\xff\x00" + b"\x00" * 126 + b"\x3f", b"\x5f\x7f\x01" + b"h" * 128, b"\x5f\x7f\x00" + b"h" * 127,
        b"\x00\x7f\x00" + b"n" * 127 + b"\x01v", b"\x00\x01v" + b"\x7f\x00" + b"n" * 127,
    ]  # fmt: skip
    decoder, theirs = Decoder(), hpack.Decoder()
    for block in [*forms, *forms, b"".join(forms), b"".join(reversed(forms)), *forms]:
        assert decode(decoder, block) == pairs(theirs_decode(theirs, block))
    for form in forms:
        for cut in range(1, len(form)):
            with pytest.raises(HPACKError):
                decode(_warm(forms), form[:cut])


def _warm(forms: list[bytes]) -> Decoder:
    decoder = Decoder()
    for form in forms:
        decode(decoder, form)
    return decoder


def test_every_entry_of_a_long_table_can_be_referred_to() -> None:
    fields: Fields = [("x", f"{number:03}", ADD) for number in range(110)]  # 36 octets each
    encoder, decoder = Encoder(), Decoder()
    assert decode(decoder, encoder.encode(fields)) == pairs(fields)
    block = encoder.encode(fields)
    assert len(block) == 65 + 2 * 45  # the newest 65 in one octet
    assert decode(decoder, block) == pairs(fields)
    assert theirs_decode(hpack.Decoder(), Encoder().encode(fields) + block) == fields * 2


def test_what_is_remembered_does_not_hold_names_from_the_table() -> None:
    decoder, theirs = Decoder(), hpack.Decoder()
    with_newest_name = b"\x0f\x2f\x01v"
    for block in (b"\x40\x01a\x011", with_newest_name, b"\x40\x01b\x011", with_newest_name):
        assert decode(decoder, block) == pairs(theirs_decode(theirs, block))

    encoder, theirs = Encoder(), hpack.Decoder()
    for field in [("a", "1", ADD), ("a", "v", WITHOUT), ("b", "1", ADD), ("a", "v", WITHOUT)]:
        assert pairs(theirs_decode(theirs, encoder.encode([field]))) == pairs([field])


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("80", "index 0"),
        ("be", "index 62"),
        ("ff00", "index 127"),
        ("ffffffff0f", "index"),
        ("ff8080808000", "index 127"),
        ("7e0161", "index 62"),
        ("0f2f0161", "index 62"),
        ("ffffffffffffff", "more than 6 octets"),
        ("ff808080808000", "more than 6 octets"),
        ("3fffffffffffff01", "more than 6 octets"),
        ("417f8080808080800161", "more than 6 octets"),
        ("ff", "ends inside"),
        ("ffff", "ends inside"),
        ("41", "ends inside"),
        ("410261", "ends inside"),
        ("41ff8001", "ends inside"),
        ("40", "ends inside"),
        ("4001", "ends inside"),
        ("400161", "ends inside"),
        ("40016102", "ends inside"),
        ("5f", "ends inside"),
        ("0f", "ends inside"),
        ("3f", "ends inside"),
        ("3fe2" + "1f", "a table size of 4097"),
        ("3fffffff0f", "a table size of"),
        ("8220", "behind the block's first field"),
        ("8220" + "82", "behind the block's first field"),
        ("418100", "cut off, or with padding"),  # zeros behind "0", which is 00000
        ("41811c", "cut off, or with padding"),  # "a" is 00011, padded by 100
        ("4182" + "1fff", "cut off, or with padding"),  # "a" and eleven ones
        ("4181" + "ff", "cut off, or with padding"),  # eight ones and nothing else
        ("4186" + "0000000000ff", "cut off, or with padding"),  # eight zeros of five bits, and eight ones
        ("4182" + "ffc0", "cut off, or with padding"),  # a code that is not finished
        ("4184" + "fffffffc", "EOS"),
        ("4185" + "1fffffffff", "EOS"),  # "a", then EOS
        ("4081ff0161", "cut off, or with padding"),  # in a name too
    ],
)
def test_malformed_blocks_are_refused_for_good(block: str, reason: str) -> None:
    decoder = Decoder()
    with pytest.raises(HPACKError, match=reason):
        decode(decoder, bytes.fromhex(block))
    with pytest.raises(HPACKError, match="earlier block"):
        decode(decoder, b"\x82")


def test_errors_are_value_errors_of_two_kinds() -> None:
    assert issubclass(HPACKError, ValueError)
    assert issubclass(TooLarge, ValueError)
    assert not issubclass(TooLarge, HPACKError)


def test_seven_ones_are_padding() -> None:
    assert decode(Decoder(), bytes.fromhex("41" + "81" + "1f")) == [(":authority", "a")]
    assert decode(Decoder(), bytes.fromhex("41" + "84" + "0000007f")) == [(":authority", "00000")]
    assert decode(Decoder(), bytes.fromhex("4180")) == [(":authority", "")]


@given(steps.filter(bool))
def test_a_block_cut_inside_a_field_is_refused_and_between_fields_is_not(script: list[Fields | int]) -> None:
    fields = [field for step in script if not isinstance(step, int) for field in step]
    encoder = Encoder()
    blocks = [encoder.encode([field]) for field in fields]
    whole, borders = b"".join(blocks)[:300], {0}
    for block in blocks:
        borders.add(max(borders) + len(block))
    for cut in range(len(whole)):
        if cut in borders:
            assert decode(Decoder(), whole[:cut]) == pairs(fields)[: len([b for b in borders if 0 < b <= cut])]
        else:
            with pytest.raises(HPACKError):
                decode(Decoder(), whole[:cut])


# -- table size, decoding --------------------------------------------------------------------------------------------


def _with_entries(count: int) -> Decoder:
    decoder = Decoder()
    for number in range(count):
        decode(decoder, b"\x40\x01x\x01" + bytes((0x30 + number,)))  # 34 octets each
    return decoder


def test_a_smaller_table_keeps_the_newest_entries() -> None:
    decoder = _with_entries(3)
    assert decode(decoder, b"\x3f\x25\xbe\xbf") == [("x", "2"), ("x", "1")]  # 31 + 37 = 68 octets
    with pytest.raises(HPACKError, match="index 64, above the table's last, 63"):
        decode(decoder, b"\xc0")


def test_a_name_may_come_from_the_entry_that_its_own_field_evicts() -> None:
    decoder = _with_entries(2)
    assert decode(decoder, b"\x3f\x03\x7e\x01z\xbe") == [("x", "z"), ("x", "z")]  # a table for one entry


def test_a_field_too_large_for_the_table_empties_it() -> None:
    decoder = _with_entries(2)
    assert decode(decoder, b"\x7e\x7f\x91\x1f" + b"v" * 4112) == [("x", "v" * 4112)]
    with pytest.raises(HPACKError, match="index 62"):
        decode(decoder, b"\xbe")


def test_a_lowered_allowance_demands_a_size_update_first() -> None:
    for bad, reason in [
        (b"\x82", "no table size update"),
        (b"", "no table size update"),
        (b"\x3f\x46", "above the 100 allowed"),
    ]:
        decoder = Decoder()
        decoder.max_allowed_table_size = 100
        with pytest.raises(HPACKError, match=reason):
            decode(decoder, bad)
    decoder = Decoder()
    decoder.max_allowed_table_size = 100
    assert decode(decoder, b"\x3f\x45\x82") == [(":method", "GET")]
    assert decode(decoder, b"\x82") == [(":method", "GET")]  # once is enough


def test_the_smallest_allowance_in_between_must_be_heard_of() -> None:
    decoder = _with_entries(2)
    decoder.max_allowed_table_size = 40
    decoder.max_allowed_table_size = 200
    with pytest.raises(HPACKError, match="at most 40 was due"):
        decode(decoder, b"\x3f\x45")
    decoder = _with_entries(2)
    decoder.max_allowed_table_size = 40
    decoder.max_allowed_table_size = 200
    assert decode(decoder, b"\x3f\x09\x3f\xa9\x01\xbe") == [("x", "1")]
    assert decoder.header_table_size == 200


def test_an_allowance_above_the_size_in_use_demands_nothing() -> None:
    decoder = Decoder()
    decode(decoder, b"\x20")
    decoder.max_allowed_table_size = 100
    decoder.max_allowed_table_size = 65536
    assert decode(decoder, b"\x82") == [(":method", "GET")]
    decode(decoder, b"\x3f\xe1\xff\x03")
    assert decoder.header_table_size == decoder.max_allowed_table_size == 65536


# -- limits ----------------------------------------------------------------------------------------------------------


def test_limits_count_names_values_and_32_for_each_field() -> None:
    block = b"\x82\x40\x01x\x01y"  # :method GET is 42, x: y is 34
    assert len(Decoder().decode(block, 76, 2)) == 2
    with pytest.raises(TooLarge, match="76 octets, more than the 75 allowed") as size:
        Decoder().decode(block, 75, 2)
    assert size.value.limit == "max_size"
    with pytest.raises(TooLarge, match="2 header fields, more than the 1 allowed") as count:
        Decoder().decode(block, 76, 1)
    assert count.value.limit == "max_fields"


@given(steps, st.integers(0, 400), st.integers(0, 6))
def test_after_a_block_that_is_too_large_the_next_one_decodes(
    script: list[Fields | int], max_size: int, max_fields: int
) -> None:
    encoder, decoder = Encoder(), Decoder()
    for step in script:
        if isinstance(step, int):
            encoder.header_table_size = step
            continue
        block = encoder.encode(step)
        size = sum(len(name) + len(value) + 32 for name, value in pairs(step))
        if size > max_size or len(step) > max_fields:
            with pytest.raises(TooLarge):
                decoder.decode(block, max_size, max_fields)
        else:
            assert decoder.decode(block, max_size, max_fields) == pairs(step)


def test_what_a_block_that_is_too_large_adds_is_there() -> None:
    encoder, decoder = Encoder(), Decoder()
    fields: Fields = [("x", str(number), ADD) for number in range(8)]
    with pytest.raises(TooLarge):
        decoder.decode(encoder.encode(fields), 50, 100)
    block = encoder.encode(fields)
    assert len(block) == 8
    assert decode(decoder, block) == pairs(fields)
    with pytest.raises(TooLarge, match="9 header fields"):
        decoder.decode(encoder.encode([*fields, ("y", "y", ADD)]), NO_LIMIT, 2)
    assert decode(decoder, b"\xbe\xc6") == [("y", "y"), ("x", "0")]


def test_a_block_that_is_too_large_is_still_checked_to_its_end() -> None:
    with pytest.raises(HPACKError, match="index 0"):
        Decoder().decode(b"\x82" * 50 + b"\x80", 100, 10)


def test_a_bomb_takes_no_memory() -> None:
    """One entry of 4000 octets, referred to 100,000 times; many short fields, the same and new ones."""
    entry = b"\x40\x01x\x7f\xb8\x1e" + b"v" * 4023
    new = b"".join(b"\x01\x05%05d" % number for number in range(20_000))
    for bomb in (entry + b"\xbe" * 100_000, b"\x01\x00" * 50_000, b"\x5f\x00" * 50_000, new):
        decoder = Decoder()
        tracemalloc.start()
        with pytest.raises(TooLarge):
            decoder.decode(bomb, 65536, 200)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 * len(bomb)


def test_memory_of_what_is_remembered_is_bounded() -> None:
    encoder, decoder = Encoder(), Decoder()
    texts = [f"{number:06}" + "0" * 20 for number in range(6000)]
    for text in ["x" * 26, *texts[:500]]:
        decode(decoder, encoder.encode([(":path", text, WITHOUT), ("cookie", text, NEVER)]))
    tracemalloc.start()
    for text in texts:
        decode(decoder, encoder.encode([(":path", text, WITHOUT), ("cookie", text, NEVER)]))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 700_000


def test_one_large_string_is_not_remembered() -> None:
    encoder, decoder = Encoder(), Decoder()
    decode(decoder, encoder.encode([(":path", "/", WITHOUT), ("cookie", "a" * 1000, NEVER)]))
    tracemalloc.start()
    block = encoder.encode([("cookie", "a" * 1_000_000, NEVER)])
    assert len(decode(decoder, block)) == 1
    del block
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 50_000


# -- the encoder's choices -------------------------------------------------------------------------------------------


def test_each_indexing_does_what_it_says() -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    for indexing, first, second in [(WITHOUT, 0x00, 0x00), (NEVER, 0x10, 0x10), (ADD, 0x40, 0xBE)]:
        for octet in (first, second):
            block = encoder.encode([("x-name", "value", indexing)])
            assert block[0] == octet
            theirs_decode(decoder, block)
    # The name stands in the table now, and the field too.
    encoder = Encoder()
    encoder.encode([("x-name", "value", ADD)])
    assert encoder.encode([("x-name", "value", WITHOUT)]) == b"\xbe"
    assert encoder.encode([("x-name", "other", WITHOUT)])[:2] == b"\x0f\x2f"  # the name is index 62
    assert encoder.encode([("x-name", "value", NEVER)])[:2] == b"\x1f\x2f"
    assert encoder.encode([(":method", "GET", NEVER)])[:1] == b"\x12"
    assert encoder.encode([("accept-charset", "", WITHOUT)]) == b"\x8f"


def test_a_field_too_large_for_the_table_leaves_it_alone() -> None:
    encoder = Encoder()
    encoder.encode([("x", "y", ADD)])
    assert encoder.encode([("x", "z" * 4096, ADD)])[0] == 0x0F
    assert encoder.encode([("x", "y", ADD)]) == b"\xbe"


def test_huffman_only_where_it_is_shorter() -> None:
    assert Encoder().encode([(":path", "aaa", WITHOUT)]).hex() == "0482" + "18c7"
    assert Encoder().encode([(":path", "&&&", WITHOUT)]).hex() == "0403" + "262626"
    assert Encoder().encode([(":path", "<a>", WITHOUT)]).hex() == "0403" + "3c613e"


def test_a_size_change_is_told_by_the_next_block_smallest_first_last_at_the_end() -> None:
    encoder = Encoder()
    for size in (1000, 100, 3000, 200):
        encoder.header_table_size = size
    assert encoder.encode([]) == b"\x3f\x45\x3f\xa9\x01"
    assert encoder.encode([]) == b""
    encoder.header_table_size = 100
    assert encoder.encode([]) == b"\x3f\x45"
    encoder.header_table_size = 100
    assert encoder.encode([]) == b""


def test_no_more_of_the_peers_table_is_used_than_we_want_to_keep() -> None:
    encoder = Encoder()
    encoder.header_table_size = 2**32 - 1
    assert encoder.header_table_size == MAX_TABLE_SIZE
    assert encoder.encode([]) == b""
    encoder.header_table_size = 0
    encoder.header_table_size = 2**32 - 1
    assert encoder.encode([]) == b"\x20\x3f\xe1\x1f"


def test_a_table_of_size_zero_takes_nothing() -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    assert encoder.encode([("x", "y", ADD)]) == b"\x20\x00\x01x\x01y"
    assert encoder.encode([("x", "y", ADD)]) == b"\x00\x01x\x01y"


def test_an_encode_that_raises_leaves_both_ends_in_step() -> None:
    encoder, theirs = Encoder(), hpack.Decoder()
    theirs_decode(theirs, encoder.encode([("x-a", "1", ADD)]))
    version = encoder.version
    with pytest.raises(UnicodeEncodeError):
        encoder.encode([("x-c", "\u20ac", WITHOUT)])
    assert encoder.version > version
    with pytest.raises(UnicodeEncodeError):
        encoder.encode([("x-b", "2", ADD), ("x-c", "\u20ac", ADD)])
    fields: Fields = [("x-b", "2", ADD), ("x-a", "1", ADD)]
    block = encoder.encode(fields)
    assert block.startswith(b"\x20\x3f\xe1\x1f\x40")  # the peer's table is emptied, and then filled anew
    assert theirs_decode(theirs, block) == fields
    assert theirs_decode(theirs, encoder.encode(fields)) == fields
    assert len(theirs.header_table.dynamic_entries) == 2


# -- versions, and the memos that stand on them ----------------------------------------------------------------------


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from([0, 40, 100, 4096])
        | st.lists(
            st.sampled_from(
                [
                    b"\x82",
                    b"\xbe",
                    b"\xbf",
                    b"\x7e\x01a",
                    b"\x0f\x2f\x01b",
                    b"\x41\x01a",
                    b"\x40\x01x\x01y",
                    b"\x01\x01b",
                ]
            ),
            max_size=3,
        ).map(b"".join)
        | st.sampled_from(
            [b"\x20", b"\x29\x82", b"\x20\x41\x01a", b"\x20\x3f\x09", b"\x3f\x45\x40\x01x\x01y", b"\x88"]
        ),
        max_size=25,
    )
)
def test_a_memo_by_version_never_differs_from_decoding(script: list[bytes | int]) -> None:
    plain, other = Decoder(), Decoder()
    memo: dict[bytes, Pairs] = {}
    at = 0
    for step in script:
        if isinstance(step, int):
            plain.max_allowed_table_size = other.max_allowed_table_size = step
            continue
        try:
            expected = decode(plain, step)
        except HPACKError:
            expected = None
        if other.version != at:
            memo.clear()
        at = other.version
        if step in memo:
            assert memo[step] == expected
        elif expected is None:
            with pytest.raises(HPACKError):
                decode(other, step)
            return
        else:
            assert decode(other, step) == expected
            if other.version == at:
                memo[step] = expected


@given(
    st.lists(
        st.sampled_from([0, 40, 100, 4096])
        | st.lists(
            st.tuples(st.sampled_from(["x", ":path", "y"]), st.sampled_from(["", "/", "1"]), st.sampled_from(Indexing)),
            max_size=3,
        ),
        max_size=20,
    )
)
def test_a_memo_by_version_never_differs_from_encoding(script: list[Fields | int]) -> None:
    encoder, theirs = Encoder(), hpack.Decoder()
    memo: dict[tuple[tuple[str, str, Indexing], ...], bytes] = {}
    at = 0
    for step in script:
        if isinstance(step, int):
            encoder.header_table_size = step
            continue
        if encoder.version != at:
            memo.clear()
        at = encoder.version
        block = memo.get(tuple(step))
        if block is None:
            block = encoder.encode(step)
            if encoder.version == at:
                memo[tuple(step)] = block
        assert pairs(theirs_decode(theirs, block)) == pairs(step)


def test_versions_rest_in_the_steady_state() -> None:
    """What nginx does (a table of size 0, into which it goes on to insert), and what everybody else does."""
    nginx = Decoder()
    decode(nginx, b"\x20\x88\x76\x05nginx")
    version = nginx.version
    for _ in range(3):
        assert decode(nginx, b"\x88\x76\x05nginx") == [(":status", "200"), ("server", "nginx")]
    assert nginx.version == version

    encoder, decoder = Encoder(), Decoder()
    fields: Fields = [(":method", "GET", ADD), (":path", "/somewhere", WITHOUT), ("x-a", "1", ADD), ("k", "v", NEVER)]
    decode(decoder, encoder.encode(fields))
    versions = encoder.version, decoder.version
    for _ in range(3):
        assert decode(decoder, encoder.encode(fields)) == pairs(fields)
    assert (encoder.version, decoder.version) == versions


def test_versions_move_with_whatever_makes_a_difference() -> None:
    decoder = _with_entries(2)
    for name, block in {
        "an insert": b"\x40\x01y\x01y",
        "a size, though nothing is evicted": b"\x3f\xe1\x07",
        "a field that empties the table": b"\x40\x01x\x7f\x91\x1f" + b"v" * 4112,
    }.items():
        version = decoder.version
        decode(decoder, block)
        assert decoder.version > version, name
    version = decoder.version
    decoder.max_allowed_table_size = 100
    assert decoder.version > version

    encoder = Encoder()
    versions = [encoder.version]
    encoder.encode([("x", "y", ADD)])
    versions.append(encoder.version)
    encoder.header_table_size = 1000
    versions.append(encoder.version)
    encoder.encode([])  # says the size
    versions.append(encoder.version)
    assert len(set(versions)) == 4


def test_h2_finds_what_it_touches() -> None:
    import h2.connection
    import h2.settings

    connection = h2.connection.H2Connection()
    encoder, decoder = Encoder(), Decoder()
    connection.encoder, connection.decoder = encoder, decoder  # type: ignore[assignment]
    connection.initiate_connection()
    connection.update_settings(
        {h2.settings.SettingCodes.HEADER_TABLE_SIZE: 100, h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 5000}
    )
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    peer.initiate_connection()
    peer.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 50})
    peer.receive_data(connection.data_to_send())
    connection.receive_data(peer.data_to_send())
    assert encoder.header_table_size == 50
    assert decoder.max_allowed_table_size == 100
    with pytest.raises(HPACKError, match="no table size update"):
        decode(decoder, b"\x82")
