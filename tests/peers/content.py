"""The bytes that every peer serves."""

from __future__ import annotations

import hashlib
from pathlib import Path

SMALL = (b"plugwire interop: the same small file from every peer. " * 3)[:126] + b"\n"
"""127 bytes of text."""

BIG = hashlib.shake_256(b"plugwire").digest(1 << 20)
"""1 MiB that does not compress, equal in every run."""

LARGE_SIZE = 8 << 20
"""The body of `/large` is `pattern(LARGE_SIZE)`."""

_PERIOD = bytes(range(251))


def pattern(length: int) -> bytes:
    """The body of `/pattern?n=length`: byte i is i modulo 251, a prime, so that no power-of-two slip goes unseen."""
    return (_PERIOD * (length // len(_PERIOD) + 1))[:length]


def write_content(directory: Path) -> Path:
    """Lay the served files into `directory` as `small.txt`, `big.bin` and `large.bin`, readable by any user."""
    directory.mkdir()
    for name, data in (("small.txt", SMALL), ("big.bin", BIG), ("large.bin", pattern(LARGE_SIZE))):
        (directory / name).write_bytes(data)
    return directory
