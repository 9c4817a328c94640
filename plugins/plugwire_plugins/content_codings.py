"""Content codings undone, without I/O: bytes in, bounded pieces of content out (RFC 9110, 8.4.1).

How it works. A `Decoder` undoes one coding: it is given input only while it `needs_input`, and each `decode` builds
about as many bytes as it was asked for, and no more. A `Chain` has one for each coding of a body, and is pulled from
its end: a level asks the one before it for a bounded piece when it has none, and the first takes what was received. So
what is held at any time is one piece for each level, whatever a piece expands to, and what nobody reads is never
decoded.

Rules that hold, and what breaks without them:

1. *Every step is bounded*, not only its result: a library is never asked for all that an input holds. Some have no
   such way (`zstandard`, Brotli before 1.2); those are not used, and their codings not announced. Otherwise 10 KiB
   received become 10 MiB in memory for each level.
2. *Every level is counted*: `Limits.max_ratio` holds for what each of them gives, `Limits.max_decoded_bytes` for what
   the last one does. Otherwise a chain hides a bomb between two levels, of which nothing comes out at the end.
3. *Whatever can be had is given*, without waiting for more: a server that flushes its coder after each event expects
   that the event arrives (SSE).
4. *The end is verified*: `Chain.end` refuses a body that ends inside a coding, although its framing is intact. A coding
   that was given nothing at all has nothing to undo: HEAD, 204, 304, Content-Length: 0.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from plugwire import DecodingError, IncompleteBody, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from plugwire import Headers, Limits

MAX_CODINGS: Final = 5
"""Codings of one body, each of which costs memory and time (CVE-2025-66418)."""

MAX_TRAILING_BYTES: Final = 64 * 1024
"""What is ignored behind the end of a gzip or deflate stream. gzip(1), browsers and urllib3 ignore it too: some servers
pad with zeros, and others count a line end into the content."""

ZSTD_WINDOW_LOG: Final = 23
"""The largest window of zstd is 8 MiB (RFC 9659, 3), as a power of two."""

RATIO_FROM: Final = 10 * 1024 * 1024
"""Bytes that a level may give before `Limits.max_ratio` counts: a small page of white space harms nobody."""

PIECE: Final = 64 * 1024
"""What one level asks another for."""

GZIP_MAGIC: Final = b"\x1f\x8b"
"""How a member begins (RFC 1952, 2.3.1)."""


class _Step(NamedTuple):
    """What a library made of some input: the content, the input that it left, whether its stream is over, and whether
    it has more to give without input."""

    content: bytes
    rest: bytes
    is_done: bool
    has_more: bool


class Decoder(ABC):
    """Undoes one coding.

    A subclass drives a library, of which each stream is one part of the input: gzip has members (RFC 1952, 2.2), zstd
    has frames (RFC 8878, 3.1), and both may come in any number.

    Attributes:
        coding: its name in Content-Encoding.
        needs_input: `decode` can give nothing unless it gets more.
        decoded: bytes given so far.
    """

    coding: ClassVar[str]

    def __init__(self) -> None:
        self.needs_input = True
        self.decoded = 0
        self._rest = b""
        self._part: Any = None
        self._is_begun = False
        self._parts = 0
        self._ignored = 0

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        """About `max_bytes` bytes of content at most (Brotli's library may give 96 KiB more); b"": it needs input.

        Args:
            data: more input; b"" unless `needs_input`.
            max_bytes: at least 1.

        Raises:
            DecodingError: this is not the coding that it is said to be, or a checksum or length is not right.
            LimitExceeded: more than `MAX_TRAILING_BYTES` behind the end.
        """
        self._is_begun = self._is_begun or bool(data)
        self._rest = self._rest + data if self._rest else data
        try:
            while True:
                if self._part is None:
                    self._part = self._begun(self._rest) if self._rest else None
                if self._part is None:
                    self.needs_input = True
                    return b""
                content, self._rest, is_done, has_more = self._step(self._part, self._rest, max_bytes)
                if is_done:
                    self._part = None
                    self._parts += 1
                if content or not is_done:
                    self.needs_input = not (self._rest or has_more)
                    self.decoded += len(content)
                    return content
        except self._faults() as error:
            raise DecodingError(f"the content is not valid {self.coding}: {error}") from error

    def end(self) -> None:
        """There is no more input.

        Raises:
            IncompleteBody: it ended inside of the coding.
        """
        if self._is_begun and (self._part is not None or self._rest or not self._parts):
            raise IncompleteBody(f"the content ended inside its {self.coding} coding", self.decoded)

    @abstractmethod
    def _begun(self, data: bytes) -> Any:
        """The library's object for the part that begins with `data`; None if more of it must be seen, or if no part
        begins there. What is not to be seen again is taken out of `_rest`."""

    @abstractmethod
    def _step(self, part: Any, data: bytes, max_bytes: int) -> _Step:
        """Give the input to the library's object."""

    @abstractmethod
    def _faults(self) -> tuple[type[Exception], ...]:
        """What the library raises for bad input."""

    def _ignore(self, data: bytes) -> None:
        """Drop what is behind the end."""
        self._rest = b""
        self._ignored += len(data)
        if self._ignored > MAX_TRAILING_BYTES:
            what = f"more than {MAX_TRAILING_BYTES} bytes follow the end of the {self.coding} coding"
            raise LimitExceeded(what, "max_trailing_bytes")


class _Zlib(Decoder):
    """What gzip and deflate have in common."""

    def _step(self, part: Any, data: bytes, max_bytes: int) -> _Step:
        content = part.decompress(data, max_bytes)
        if part.eof:
            return _Step(content, part.unused_data, True, False)
        # All input may be taken, and content wait inside: only a piece that is not full says that there is none.
        return _Step(content, part.unconsumed_tail, False, len(content) == max_bytes)

    def _faults(self) -> tuple[type[Exception], ...]:
        return (zlib.error,)


class Gzip(_Zlib):
    """gzip, and x-gzip (RFC 9110, 8.4.1.3; RFC 1952): any number of members, CRC and length of each checked. What
    follows a member and does not begin like one is ignored."""

    coding = "gzip"

    def _begun(self, data: bytes) -> Any:
        if self._parts:
            if self._ignored or not GZIP_MAGIC.startswith(data[:2]):
                self._ignore(data)
                return None
            if len(data) < 2:
                return None
        return zlib.decompressobj(16 + zlib.MAX_WBITS)


class Deflate(_Zlib):
    """deflate (RFC 9110, 8.4.1.2): DEFLATE in zlib's format as it should be (RFC 1950), or without, as some servers
    send it. What follows the end is ignored."""

    coding = "deflate"

    def _begun(self, data: bytes) -> Any:
        if self._parts:
            self._ignore(data)
            return None
        if len(data) < 2:
            return None
        # The header of RFC 1950, 2.2: method 8, a window of at most 32 KiB, and a multiple of 31. DEFLATE alone could
        # begin so only with a stored block whose padding bits are not zero, and no coder writes those.
        has_header = data[0] & 15 == 8 and data[0] >> 4 <= 7 and (data[0] << 8 | data[1]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


class Brotli(Decoder):
    """br (RFC 7932), by the package brotli or brotlicffi. Nothing may follow. A window is 16 MiB at most."""

    coding = "br"

    def _begun(self, data: bytes) -> Any:
        if self._parts:
            raise DecodingError(f"{len(data)} bytes follow the end of the br coding")
        return _brotli().Decompressor()

    def _step(self, part: Any, data: bytes, max_bytes: int) -> _Step:
        content = part.process(data, output_buffer_limit=max_bytes)
        if part.is_finished():
            return _Step(content, b"", True, False)
        # The last bits of the input may lie unread behind a full piece: only an empty one says that all is read.
        return _Step(content, b"", False, bool(content) or not part.can_accept_more_data())

    def _faults(self) -> tuple[type[Exception], ...]:
        return (_brotli().error,)


class Zstd(Decoder):
    """zstd (RFC 8878), by `compression.zstd` of Python 3.14 or its backport: any number of frames, of a window that is
    8 MiB at most (RFC 9659). Nothing else may follow."""

    coding = "zstd"

    def _begun(self, data: bytes) -> Any:
        library = _zstd()
        return library.ZstdDecompressor(options={library.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})

    def _step(self, part: Any, data: bytes, max_bytes: int) -> _Step:
        content = part.decompress(data, max_bytes)
        if part.eof:
            return _Step(content, part.unused_data, True, False)
        return _Step(content, b"", False, not part.needs_input)

    def _faults(self) -> tuple[type[Exception], ...]:
        return (_zstd().ZstdError,)


# -- which codings can be undone here ------------------------------------------------------------------------------


@lru_cache(1)
def _brotli() -> Any:
    """A package that can limit what it gives at once; None without one."""
    for name in ("brotli", "brotlicffi"):
        module = _imported(name)
        if hasattr(getattr(module, "Decompressor", None), "can_accept_more_data"):  # since 1.2
            return module
    return None


@lru_cache(1)
def _zstd() -> Any:
    """The module of Python 3.14, or its backport; None without one."""
    return _imported("compression.zstd") or _imported("backports.zstd")


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


_DECODERS: Final[Mapping[str, tuple[type[Decoder], Callable[[], Any]]]] = {
    "gzip": (Gzip, lambda: zlib),
    "deflate": (Deflate, lambda: zlib),
    "br": (Brotli, _brotli),
    "zstd": (Zstd, _zstd),
}
"""The decoders, and what each needs."""


def available() -> tuple[str, ...]:
    """The codings that can be undone with what is installed, in the order in which Accept-Encoding names them."""
    return tuple(coding for coding, (_, needed) in _DECODERS.items() if needed() is not None)


def codings_of(headers: Headers) -> list[str]:
    """The codings of a response, in the order in which they were applied (RFC 9110, 8.4); without "identity", which
    says nothing.

    Raises:
        LimitExceeded: more than `MAX_CODINGS`.
    """
    names = [name.lower() for name in headers.get_list("content-encoding", split=True)]
    codings = ["gzip" if name == "x-gzip" else name for name in names if name != "identity"]
    if len(codings) > MAX_CODINGS:
        raise LimitExceeded(f"{len(codings)} content codings, over {MAX_CODINGS}", "max_codings")
    return codings


def can_undo(codings: Sequence[str]) -> bool:
    """True if all of them can be undone with what is installed."""
    return all(coding in _DECODERS and _DECODERS[coding][1]() is not None for coding in codings)


# -- a chain of them -----------------------------------------------------------------------------------------------


class Chain:
    """The codings of one body, undone one after the other, under the limits of a session.

    Args:
        codings: in the order in which they were applied; all of them can be undone.
        limits: `max_ratio` and `max_decoded_bytes` count.
    """

    def __init__(self, codings: Sequence[str], limits: Limits) -> None:
        self._levels = [_DECODERS[coding][0]() for coding in reversed(codings)]
        self._limits = limits
        self._received = 0
        self._raw = b""

    def feed(self, data: bytes) -> None:
        """What was received; only after `pull` gave b""."""
        self._received += len(data)
        self._raw = data

    def pull(self, max_bytes: int) -> bytes:
        """Some content, as much as `Decoder.decode` gives; b"": feed more.

        Raises:
            DecodingError: see `Decoder.decode`.
            LimitExceeded: `max_ratio`, `max_decoded_bytes`, or see `Decoder.decode`.
        """
        return self._pull(len(self._levels) - 1, max_bytes)

    def end(self) -> None:
        """All was received, and pulled.

        Raises:
            IncompleteBody: it ended inside of a coding.
        """
        for decoder in self._levels:
            decoder.end()

    def _pull(self, level: int, max_bytes: int) -> bytes:
        decoder = self._levels[level]
        while True:
            data = b""
            if decoder.needs_input:
                data = self._pull(level - 1, PIECE) if level else self._take_raw()
                if not data:
                    return b""
            content = decoder.decode(data, max_bytes)
            if content:
                self._check(level, decoder)
                return content

    def _take_raw(self) -> bytes:
        data, self._raw = self._raw, b""
        return data

    def _check(self, level: int, decoder: Decoder) -> None:
        decoded, limits = decoder.decoded, self._limits
        if decoded > RATIO_FROM and decoded > limits.max_ratio * self._received:
            what = f"{self._received} bytes became {decoded} by {decoder.coding}, over max_ratio={limits.max_ratio}"
            raise LimitExceeded(what, "max_ratio")
        most = limits.max_decoded_bytes
        if most is not None and decoded > most and level == len(self._levels) - 1:
            raise LimitExceeded(f"the content is longer than max_decoded_bytes={most}", "max_decoded_bytes")
