"""The decoders of content codings, without I/O: what they give, in which pieces, what they refuse, what they hold."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import brotli
import brotlicffi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coders import CODINGS, WAYS, Flushing, coded, members, raw_deflate, zeros, zstd
from plugwire import DecodingError, Headers, IncompleteBody, LimitExceeded, Limits, PeerError
from plugwire_plugins import content_codings
from plugwire_plugins.content_codings import (
    MAX_CODINGS,
    MAX_TRAILING_BYTES,
    PIECE,
    RATIO_FROM,
    Chain,
    available,
    can_undo,
    codings_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TEXT = b"".join(b"line %d of a text that compresses\n" % number for number in range(3000))
NOISE = random.Random(0).randbytes(100_000)
MIB = 1 << 20


def names(coding: str) -> list[str]:
    return codings_of(Headers({"content-encoding": coding}))


def pulled(
    coding: str,
    pieces: Iterable[bytes],
    size: int = PIECE,
    limits: Limits = Limits(),  # noqa: B008  (immutable)
) -> Iterator[bytes]:
    """What comes out, piece by piece."""
    chain = Chain(names(coding), limits)
    for piece in pieces:
        if piece:
            chain.feed(piece)
        while content := chain.pull(size):
            yield content
    chain.end()


def undone(coding: str, *pieces: bytes, size: int = PIECE, limits: Limits = Limits()) -> bytes:  # noqa: B008  (same)
    return b"".join(pulled(coding, pieces, size, limits))


def cut(data: bytes, each: int) -> list[bytes]:
    return [data[place : place + each] for place in range(0, len(data), each)]


# -- what comes out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in WAYS if way != "identity"])
@pytest.mark.parametrize("content", [b"", b"x", TEXT, NOISE], ids=["nothing", "a byte", "text", "noise"])
def test_each_coding_gives_back_the_content(way: str, content: bytes) -> None:
    coding, data = coded(content, [way])
    for size in (1000, PIECE, 10 * MIB):
        assert undone(coding, data, size=size) == content
        assert undone(coding, *cut(data, 1000), size=size) == content
    if len(data) < 30_000:
        assert undone(coding, *cut(data, 1)) == content


@given(
    content=st.one_of(st.binary(max_size=300), st.binary(max_size=20).map(lambda part: part * 3000)),
    ways=st.lists(st.sampled_from(sorted(set(WAYS) - {"identity"})), min_size=1, max_size=MAX_CODINGS),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
    size=st.integers(1, 3000),
)
def test_any_chain_cut_anywhere_gives_back_the_content(
    content: bytes, ways: list[str], cuts: list[int], size: int
) -> None:
    coding, data = coded(content, ways)
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(places)]
    assert undone(coding, *pieces, size=size) == content


@given(
    contents=st.lists(st.binary(max_size=30), min_size=1, max_size=3),
    level=st.integers(0, 9),
    change=st.tuples(st.integers(0, 60), st.binary(max_size=2)),
)
def test_gzip_means_what_it_means_to_the_gzip_module(
    contents: list[bytes], level: int, change: tuple[int, bytes]
) -> None:
    data = b"".join(gzip.compress(content, level) for content in contents)
    assert undone("gzip", data) == gzip.decompress(data) == b"".join(contents)
    place, new = change
    data = data[:place] + new + data[place + len(new) :]
    try:
        theirs = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        # We ignore what follows a member and is none.
        is_tail = str(error).startswith("Not a gzipped file") and data[:2] == b"\x1f\x8b"
        if not is_tail:
            with pytest.raises(PeerError):
                undone("gzip", data)
    else:
        try:
            assert undone("gzip", data) == theirs
        except DecodingError as error:
            # It looks neither at reserved flags nor at the header's CRC (RFC 1952, 2.3.1.2).
            assert "header" in str(error)


@pytest.mark.parametrize("coding", CODINGS)
def test_what_a_server_flushes_is_there_at_once(coding: str) -> None:
    coder = Flushing(coding)
    chain = Chain([coding], Limits())
    for number in range(100):
        event = b"data: %d\n\n" % number
        chain.feed(coder.piece(event))
        assert chain.pull(PIECE) == event
        assert chain.pull(PIECE) == b""
    with pytest.raises(IncompleteBody):
        chain.end()
    chain.feed(coder.end())
    assert chain.pull(PIECE) == b""
    chain.end()


@pytest.mark.parametrize("way", ["raw deflate", "deflate", "gzip", "br", "zstd"])
def test_what_waits_inside_is_had_without_more_input(way: str) -> None:
    """All input may be taken, and content wait: a match of DEFLATE gives up to 258 bytes for a few bits."""
    for length in (20, 21, 22, 23, 100, 258, 259, 1000, 5000, 70_000):
        coding, data = coded(bytes(length), [way])
        for size in (1, 2, 100, 258, length - 1, length):
            if length // size < 6000:
                assert undone(coding, data, size=size) == undone(coding, *cut(data, 1), size=size) == bytes(length)


def test_flushed_through_a_chain_too() -> None:
    inner, outer = Flushing("br"), Flushing("gzip")
    chain = Chain(["br", "gzip"], Limits())
    for number in range(10):
        chain.feed(outer.piece(inner.piece(b"%d" % number)))
        assert chain.pull(PIECE) == b"%d" % number


def test_the_last_coding_is_undone_first() -> None:
    assert undone("deflate, gzip", gzip.compress(zlib.compress(TEXT))) == TEXT
    with pytest.raises(DecodingError):
        undone("gzip, deflate", gzip.compress(zlib.compress(TEXT)))


def test_raw_deflate_is_told_from_zlibs_by_the_header() -> None:
    for level in range(10):
        for window in range(9, 16):
            coder = zlib.compressobj(level, wbits=window)
            assert undone("deflate", coder.compress(TEXT) + coder.flush()) == TEXT
            coder = zlib.compressobj(level, wbits=-window)
            assert undone("deflate", coder.compress(TEXT) + coder.flush()) == TEXT


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 1000, b"\r\n", b"garbage", b"\x1f\0", b"\x8b\x1f"])
def test_what_follows_gzip_or_deflate_is_ignored(tail: bytes) -> None:
    for coding, data in (("gzip", gzip.compress(TEXT)), ("gzip", members(TEXT)), ("deflate", zlib.compress(TEXT)),
                         ("deflate", raw_deflate(TEXT))):  # fmt: skip
        assert undone(coding, data + tail) == TEXT
        assert undone(coding, data, tail) == TEXT
        assert undone(coding, data, *cut(tail, 1)) == TEXT
    # Once ignored, always ignored: a member behind garbage is none.
    if tail[:1] != b"\x1f":
        assert undone("gzip", gzip.compress(TEXT) + tail + gzip.compress(b"more")) == TEXT


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_but_not_without_end(coding: str) -> None:
    data = CODINGS[coding](TEXT)
    assert undone(coding, data, bytes(MAX_TRAILING_BYTES)) == TEXT
    for pieces in ([data, bytes(MAX_TRAILING_BYTES + 1)], [data, *cut(bytes(MAX_TRAILING_BYTES + 1), 1000)]):
        with pytest.raises(LimitExceeded) as caught:
            undone(coding, *pieces)
        assert caught.value.limit == "max_trailing_bytes"


@pytest.mark.parametrize("coding", ["br", "zstd"])
@pytest.mark.parametrize("tail", [b"\0", b"\r\n", b"garbage garbage"])
def test_what_follows_br_or_zstd_is_refused(coding: str, tail: bytes) -> None:
    data = CODINGS[coding](TEXT)
    for pieces in ((data + tail,), (data, tail)):
        with pytest.raises((DecodingError, IncompleteBody)):
            undone(coding, *pieces)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in WAYS if way != "identity"])
def test_a_content_that_ends_inside_its_coding_is_incomplete(way: str) -> None:
    coding, data = coded(b"some words, and some words more", [way])
    ends = 0
    for end in range(1, len(data)):
        try:
            content = undone(coding, data[:end])
        except IncompleteBody as error:
            assert error.received <= 31
        else:
            # Between two members or frames, where nothing tells that more should come.
            ends += 1
            assert way in ("gzip in members", "zstd in frames") and len(content) < 31
    assert ends <= 2


def test_every_level_of_a_chain_must_be_complete() -> None:
    for inner, outer in ((b"", b""), (b"x", b""), (TEXT, b"tail")):
        data = gzip.compress(zlib.compress(inner) + outer)
        assert undone("deflate, gzip", data) == inner
        for cut_off in range(1, 9):
            with pytest.raises(IncompleteBody, match="gzip"):
                undone("deflate, gzip", data[:-cut_off])
    with pytest.raises(IncompleteBody, match="deflate"):
        undone("deflate, gzip", gzip.compress(zlib.compress(TEXT)[:-1]))


@pytest.mark.parametrize("coding", CODINGS)
def test_the_length_is_what_was_given_before_the_cut(coding: str) -> None:
    data = Flushing(coding).piece(TEXT)
    with pytest.raises(IncompleteBody) as caught:
        undone(coding, data)
    assert caught.value.received == len(TEXT)


@pytest.mark.parametrize("coding", CODINGS)
def test_nothing_at_all_has_nothing_to_undo(coding: str) -> None:
    assert undone(coding) == b""
    assert undone(f"{coding}, gzip") == b""


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", b"<html>not coded at all</html>"),
        ("gzip", b"\x1f\x8b\x07\0\0\0\0\0\0\xff" + raw_deflate(b"x")),
        ("gzip", gzip.compress(TEXT)[:-8] + b"\0" * 8),
        ("gzip", gzip.compress(TEXT)[:-4] + b"\0" * 4),
        ("gzip", gzip.compress(TEXT) + b"\x1f\x8b\x08\xff garbage garbage"),
        ("deflate", b"<html>not coded at all</html>"),
        ("deflate", zlib.compress(TEXT)[:-4] + b"\0" * 4),
        ("deflate", b"\x78\xbb\0\0\0\1" + raw_deflate(b"x")),
        ("br", b"<html>not coded at all</html>"),
        ("zstd", b"<html>not coded at all</html>"),
        ("zstd", zstd.compress(TEXT) + b"not a frame at all"),
    ],
    ids=["gzip: text", "gzip: another method", "gzip: CRC", "gzip: length", "gzip: second member", "deflate: text",
         "deflate: checksum", "deflate: a dictionary", "br: text", "zstd: text", "zstd: second frame"],
)  # fmt: skip
def test_what_is_not_that_coding_is_refused(coding: str, data: bytes) -> None:
    for pieces in ([data], cut(data, 1)):
        with pytest.raises(DecodingError, match=f"not valid {coding}"):
            undone(coding, *pieces)


def test_a_window_of_zstd_above_8_mib_is_refused() -> None:
    """RFC 9659: it is what the peer makes us allocate."""
    log = zstd.CompressionParameter.window_log
    for window, is_taken in ((23, True), (24, False), (27, False)):
        coder = zstd.ZstdCompressor(options={log: window})
        data = coder.compress(TEXT) + coder.flush()
        if is_taken:
            assert undone("zstd", data) == TEXT
        else:
            with pytest.raises(DecodingError):
                undone("zstd", data)


# -- which codings there are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "codings"),
    [
        (["gzip"], ["gzip"]),
        (["X-GZIP"], ["gzip"]),
        (["Gzip , BR"], ["gzip", "br"]),
        (["deflate", "br, zstd"], ["deflate", "br", "zstd"]),
        (["identity"], []),
        (["identity, gzip,identity"], ["gzip"]),
        (["", ", ,"], []),
        (["compress"], ["compress"]),
    ],
)
def test_codings_are_read_from_all_lines_in_order(lines: list[str], codings: list[str]) -> None:
    assert codings_of(Headers([("Content-Encoding", line) for line in lines])) == codings


def test_what_is_not_known_cannot_be_undone() -> None:
    assert can_undo(["gzip", "br", "zstd", "deflate"]) and can_undo([])
    assert not any(can_undo([name]) for name in ("compress", "x-compress", "aws-chunked", "utf-8", "dcb", "gzip;q=1"))
    assert not can_undo(["gzip", "compress"])


def test_what_is_installed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available() == ("gzip", "deflate", "br", "zstd")
    real = content_codings._imported

    class Old:
        """Brotli before 1.2: no way to limit what it gives."""

        Decompressor = type("Decompressor", (), {"process": None})

    def forget() -> None:
        content_codings._brotli.cache_clear()
        content_codings._zstd.cache_clear()

    try:
        for found, expected in (
            ({}, ("gzip", "deflate")),
            ({"brotli": Old}, ("gzip", "deflate")),
            ({"brotli": Old, "brotlicffi": brotlicffi}, ("gzip", "deflate", "br")),
            ({"backports.zstd": zstd}, ("gzip", "deflate", "zstd")),
        ):
            monkeypatch.setattr(content_codings, "_imported", found.get)
            forget()
            assert available() == expected
            assert can_undo(["br"]) == ("br" in expected)
        assert real("plugwire_has_no_such_module") is None
    finally:
        monkeypatch.undo()
        forget()


@pytest.mark.parametrize("library", [brotli, brotlicffi])
def test_both_libraries_of_brotli_do(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_codings, "_brotli", lambda: library)
    for content in (b"", TEXT, NOISE, bytes(MIB)):
        data = brotli.compress(content)
        for size in (1, 1000, PIECE) if len(content) < MIB else (PIECE,):
            assert undone("br", *cut(data, 777), size=max(size, len(content) // 100)) == content
        if content:
            with pytest.raises(IncompleteBody):
                undone("br", data[:-1])
    with pytest.raises(DecodingError):
        undone("br", b"<html>not coded at all</html>")
    with pytest.raises(DecodingError):
        undone("br", brotli.compress(TEXT) + b"tail")


# -- bounds --------------------------------------------------------------------------------------------------------

LOOSE = Limits(max_ratio=10**9)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [1, 1000, PIECE])
def test_urllib3_cve_2025_66471_a_piece_is_never_larger_than_was_asked_for(coding: str, size: int) -> None:
    data = zeros(coding, 4 * MIB)
    more = 98 * 1024 if coding == "br" else 0  # its library knows only blocks
    tracemalloc.start()
    try:
        count = 0
        for piece in pulled(coding, [data]):
            assert len(piece) <= PIECE + more
            count += len(piece)
        assert count == 4 * MIB
        chain = Chain([coding], Limits())
        chain.feed(data)
        assert all(0 < len(chain.pull(size)) <= size + more for _ in range(20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * (PIECE + more)


@pytest.mark.parametrize("codings", [["gzip"] * 5, ["gzip", "br"], ["zstd", "deflate"], ["br", "zstd", "gzip"]])
def test_urllib3_cve_2026_44432_no_level_of_a_chain_holds_more_than_a_piece(codings: list[str]) -> None:
    data = bytes(32 * MIB)
    for coding in codings:
        data = CODINGS[coding](data)
    assert len(data) < MIB
    tracemalloc.start()
    try:
        count = sum(map(len, pulled(", ".join(codings), [data], limits=LOOSE)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 32 * MIB
    assert peak < 3 * MIB + len(data)


def test_urllib3_cve_2025_66418_a_chain_has_at_most_five_codings() -> None:
    assert names("gzip, deflate, br, zstd, gzip, identity") == ["gzip", "deflate", "br", "zstd", "gzip"]
    for many in (["gzip"] * 6, ["gzip"] * 10_000, ["compress"] * 6):
        with pytest.raises(LimitExceeded) as caught:
            names(", ".join(many))
        assert caught.value.limit == "max_codings"


@pytest.mark.parametrize("coding", CODINGS)
def test_aiohttp_cve_2025_69223_a_bomb_is_refused_by_its_ratio(coding: str) -> None:
    data = zeros(coding, 16 * MIB)
    count = 0
    with pytest.raises(LimitExceeded) as caught:
        for piece in pulled(coding, [data]):
            count += len(piece)
    assert caught.value.limit == "max_ratio"
    assert count <= max(RATIO_FROM, 200 * len(data))
    assert undone(coding, data, limits=LOOSE).count(0) == 16 * MIB


def test_the_ratio_counts_only_after_10_mib() -> None:
    small, large = zeros("gzip", RATIO_FROM), zeros("gzip", RATIO_FROM + 1)
    assert len(undone("gzip", small)) == RATIO_FROM
    with pytest.raises(LimitExceeded):
        undone("gzip", large)
    ratio = RATIO_FROM // len(large) + 1
    assert len(undone("gzip", large, limits=Limits(max_ratio=ratio))) == RATIO_FROM + 1


def test_a_bomb_between_two_levels_is_seen_though_nothing_comes_of_it() -> None:
    """The outer coding expands to empty blocks of the inner one."""
    empty_blocks = b"\0\0\0\xff\xff" * (4 * MIB)
    with pytest.raises(LimitExceeded) as caught:
        undone("deflate, gzip", gzip.compress(empty_blocks))
    assert caught.value.limit == "max_ratio"


@pytest.mark.parametrize("coding", CODINGS)
def test_the_content_is_bounded(coding: str) -> None:
    data = CODINGS[coding](TEXT)
    exact, less = Limits(max_decoded_bytes=len(TEXT)), Limits(max_decoded_bytes=len(TEXT) - 1)
    assert undone(coding, data, limits=exact) == TEXT
    with pytest.raises(LimitExceeded) as caught:
        undone(coding, data, limits=less)
    assert caught.value.limit == "max_decoded_bytes"
    # What stands between two levels may be longer than the content.
    twice = gzip.compress(CODINGS[coding](NOISE), 0)
    assert undone(f"{coding}, gzip", twice, limits=Limits(max_decoded_bytes=len(NOISE))) == NOISE
