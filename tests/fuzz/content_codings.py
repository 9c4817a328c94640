"""The content codings: gzip, deflate, br, zstd, and chains of them.

Whatever comes, and however it is cut and asked for: the same verdict, no piece larger than was asked for, and content
that the libraries find in it too. What was coded comes back.

An input: which codings and what is done, the size of pieces, where it is cut, and the bytes of the peer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import brotli

from coders import CODINGS, WAYS, coded, zstd
from fuzz.examples import Choices, examples
from plugwire.config import Limits
from plugwire.errors import LimitExceeded, PeerError
from plugwire.headers import Headers
from plugwire_plugins.content_codings import Chain, codings_of

WORDS = (
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x1f\x8b\x08\x1e", b"\x78\x9c", b"\x78\x01", b"\x03\0", b"\0\0\0\xff\xff",
    b"\x01\0\0\xff\xff", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\x03\0\0\0", b"\x3b", b"\x0b\x02\x80", b"\0" * 8,
)  # fmt: skip

CHAINS = ("gzip", "deflate", "br", "zstd", "deflate, gzip", "br, deflate", "gzip, zstd", "gzip, gzip, gzip")
NAMES = sorted(set(WAYS) - {"identity"})
ROUND_TRIP = 8
BROTLI_MORE = 98 * 1024
"""What the library of brotli may give beyond the size that it is asked for."""

Verdict = tuple[Any, ...]


def seeds() -> list[bytes]:
    contents = [b"", b"x", b"a text that a coder makes shorter, that a coder makes shorter", bytes(300)]
    found = [bytes((number, 9, 7)) + data for data in examples("test_content_codings", bytes) for number in range(4)]
    for content in contents:
        for way in NAMES:
            coding, data = coded(content, [way])
            number = CHAINS.index(coding.removeprefix("x-"))
            found += [
                bytes((number, 30, 5)) + data,
                bytes((number, 0, 5)) + data[:-1],
                bytes((number, 0, 5)) + data * 2,
            ]
        for number, chain in enumerate(CHAINS):
            data = coded(content, chain.split(", "))[1]
            found += [bytes((number, 30, 20)) + data, bytes((ROUND_TRIP | number, 3, 2)) + content]
    return [seed for seed in found if len(seed) < 400]


def check(data: bytes) -> None:
    choices = Choices(data)
    how, size, place = choices.number(), choices.number() + 1, choices.number()
    octets = choices.rest()
    if how & ROUND_TRIP:
        ways = [NAMES[(how * 7 + step * size) % len(NAMES)] for step in range(1 + size % 5)]
        coding, packed = coded(octets, ways)
        for pieces in (_cut(packed, place), [packed[i : i + 1] for i in range(len(packed))]):
            assert _undone(coding, pieces, size) == ("content", octets)
        return
    chain = CHAINS[how & 7]
    whole = _undone(chain, [octets], 65536)
    assert _same(chain, _undone(chain, [octets[i : i + 1] for i in range(len(octets))], 65536), whole)
    assert _same(chain, _undone(chain, _cut(octets, place), size * 64), whole)
    if chain in CODINGS:
        _hold_against_the_library(chain, octets, whole)


def _cut(octets: bytes, place: int) -> list[bytes]:
    place %= len(octets) + 1
    middle = place + (len(octets) - place) // 2
    return [octets[:place], octets[place:middle], octets[middle:]]


def _same(chain: str, one: Verdict, other: Verdict) -> bool:
    kinds = {one[0], other[0]}
    if "zstd" in chain and "DecodingError" in kinds and kinds <= {"content", "IncompleteBody", "DecodingError"}:
        # By pieces, its library does not look at the announced size of a frame that ends in an empty block: it takes
        # the frame, or waits for what it thinks is missing.
        return True
    # A step that is larger may meet the fault before the limit is counted.
    return one == other or ("LimitExceeded" in kinds and "content" not in kinds)


def _undone(coding: str, pieces: Iterable[bytes], size: int) -> Verdict:
    chain = Chain(codings_of(Headers({"content-encoding": coding})), Limits())
    content = bytearray()
    try:
        for piece in pieces:
            if piece:
                chain.feed(piece)
            while got := chain.pull(size):
                assert len(got) <= size + (BROTLI_MORE if coding.startswith("br") else 0)
                content += got
        chain.end()
    except LimitExceeded:
        return ("LimitExceeded",)
    except PeerError as error:
        return (type(error).__name__,)
    return "content", bytes(content)


def _hold_against_the_library(coding: str, octets: bytes, verdict: Verdict) -> None:
    """What a library takes as a whole, we take, with the same content."""
    if verdict == ("LimitExceeded",) or not octets:
        return
    try:
        theirs = {"gzip": _gunzipped, "deflate": _inflated, "br": brotli.decompress, "zstd": zstd.decompress}[coding](
            octets
        )
    except (OSError, EOFError, zlib.error, brotli.error, zstd.ZstdError):
        assert coding != "br" or verdict[0] != "content"
        return
    assert verdict == ("content", theirs)


def _gunzipped(octets: bytes) -> bytes:
    """By members of zlib, and not by the gzip module, which looks neither at reserved flags nor at the header's CRC."""
    content = b""
    while True:
        member = zlib.decompressobj(31)
        content += member.decompress(octets)
        if not member.eof:
            raise EOFError
        octets = member.unused_data
        if not octets or not b"\x1f\x8b".startswith(octets[:2]):
            return content


def _inflated(octets: bytes) -> bytes:
    try:
        return zlib.decompress(octets)
    except zlib.error:
        # Not where the beginning is a header of zlib, but what follows it is wrong.
        if len(octets) > 1 and octets[0] & 15 == 8 and octets[0] >> 4 < 8 and (octets[0] << 8 | octets[1]) % 31 == 0:
            raise
        return zlib.decompress(octets, -15)
