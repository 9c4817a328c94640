"""The bytes that every peer serves."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path

SMALL = (b"plugwire interop: the same small file from every peer. " * 3)[:126] + b"\n"
"""127 bytes of text."""

BIG = hashlib.shake_256(b"plugwire").digest(1 << 20)
"""1 MiB that does not compress, equal in every run."""

LARGE_SIZE = 8 << 20
"""The body of `/large` is `pattern(LARGE_SIZE)`."""

USER, PASSWORD = "Mufasa", "Circle of L\u00effe"
"""Who is let in where a password is asked for."""

REALM = "the site"

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


def write_passwords(directory: Path) -> tuple[Path, Path]:
    """Lay the files into `directory` by which nginx and Apache know `USER`: that of `htpasswd`, and that of `htdigest`
    for `REALM`, readable by any user."""
    basic, digest = directory / "htpasswd", directory / "htdigest"
    hashed = b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
    basic.write_text(f"{USER}:{{SHA}}{hashed}\n")
    digest.write_text(f"{USER}:{REALM}:{hashlib.md5(f'{USER}:{REALM}:{PASSWORD}'.encode()).hexdigest()}\n")
    return basic, digest
