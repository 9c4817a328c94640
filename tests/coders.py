"""Codes content, in each coding that is decoded here; of one coding in several ways, as servers do."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import brotli

from plugwire_plugins import content_codings

zstd: Any = content_codings._zstd()


def raw_deflate(content: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return coder.compress(content) + coder.flush()


def members(content: bytes) -> bytes:
    """gzip in three members, one of them empty."""
    middle = len(content) // 3
    return gzip.compress(content[:middle]) + gzip.compress(b"") + gzip.compress(content[middle:])


def named_member(content: bytes) -> bytes:
    """gzip with every field that its header may have: FEXTRA, FNAME, FCOMMENT, FHCRC (RFC 1952, 2.3)."""
    header = b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff" + b"\x06\0AB\x02\0xy" + b"name\0" + b"comment\0"
    header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    length = (len(content) & 0xFFFFFFFF).to_bytes(4, "little")
    return header + raw_deflate(content) + zlib.crc32(content).to_bytes(4, "little") + length


def frames(content: bytes) -> bytes:
    """zstd in two frames, and one to be skipped between them (RFC 8878, 3.1.2)."""
    middle = len(content) // 2
    return bytes(zstd.compress(content[:middle]) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(content[middle:]))


WAYS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in members": ("gzip", members),
    "gzip with names": ("gzip", named_member),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", lambda content: brotli.compress(content, quality=4)),
    "zstd": ("zstd", zstd.compress),
    "zstd in frames": ("zstd", frames),
    "identity": ("identity", bytes),
}
"""The name in Content-Encoding, and the coder."""

CODINGS: dict[str, Callable[[bytes], bytes]] = {name: WAYS[name][1] for name in ("gzip", "deflate", "br", "zstd")}


class Flushing:
    """A coder that can be flushed after each piece, as a server does that streams events."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._coder: Any = {
            "gzip": lambda: zlib.compressobj(wbits=16 + zlib.MAX_WBITS),
            "deflate": zlib.compressobj,
            "br": lambda: brotli.Compressor(quality=2),
            "zstd": zstd.ZstdCompressor,
        }[coding]()

    def piece(self, content: bytes) -> bytes:
        coder = self._coder
        if self._coding == "br":
            return bytes(coder.process(content) + coder.flush())
        mode = zlib.Z_SYNC_FLUSH if self._coding in ("gzip", "deflate") else coder.FLUSH_BLOCK
        return bytes(coder.compress(content) + coder.flush(mode))

    def end(self) -> bytes:
        return bytes(self._coder.finish() if self._coding == "br" else self._coder.flush())


def coded(content: bytes, ways: Sequence[str]) -> tuple[str, bytes]:
    """Content-Encoding, and the content coded so."""
    for way in ways:
        content = WAYS[way][1](content)
    return ", ".join(WAYS[way][0] for way in ways), content


@lru_cache
def zeros(coding: str, size: int) -> bytes:
    """`size` zeros, coded, without having them in memory."""
    block = bytes(1 << 20)
    coder = Flushing(coding)._coder
    put = coder.process if coding == "br" else coder.compress
    pieces = [bytes(put(block)) for _ in range(size >> 20)] + [bytes(put(block[: size & 0xFFFFF]))]
    return b"".join(pieces) + bytes(coder.finish() if coding == "br" else coder.flush())
