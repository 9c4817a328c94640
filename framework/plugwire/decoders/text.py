"""Bytes in pieces, text, and lines."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final

from plugwire.errors import DecodingError, UsageError
from plugwire.messages import charset_called

if TYPE_CHECKING:
    from collections.abc import Sequence


class Pieces:
    """Bytes as they arrive, or in pieces of one size.

    Args:
        size: bytes of each piece, of which the last one may have fewer; None: as they arrive.

    Raises:
        UsageError: a size that means nothing.
    """

    def __init__(self, size: int | None = None) -> None:
        if size is not None and (not isinstance(size, int) or size < 1):
            raise UsageError(f"pieces of size={size!r}: a whole number, at least 1, or None")
        self._size = size
        self._rest = bytearray()

    def feed(self, data: bytes, /) -> Sequence[bytes]:
        size = self._size
        if size is None:
            return (data,) if data else ()
        if self._rest:
            # Copied once for each piece, and not once for each packet of a piece of megabytes.
            self._rest += data
            if len(self._rest) < size:
                return ()
            data = bytes(self._rest)
        whole = len(data) - len(data) % size
        self._rest = bytearray(data[whole:])
        return [data[begin : begin + size] for begin in range(0, whole, size)]

    def end(self) -> Sequence[bytes]:
        rest = bytes(self._rest)
        self._rest.clear()
        return (rest,) if rest else ()


BYTE_ORDER_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))

_WIDE_MARKS: Final = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"))
"""Only for who says that it is UTF-32: to others the first one means UTF-16 and a NUL."""

WITHOUT_MARK: Final = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
"""What these mean where no mark tells the order (WHATWG Encoding, 4.2). Python would take that of this machine, or
raise in the middle of a stream."""


class Text:
    """Text by a charset. What does not decode becomes U+FFFD; a byte order mark is no text (WHATWG Encoding, "decode").

    Args:
        encoding: the charset, by a name that Python knows.
        is_certain: no byte order mark of another charset goes before this one.

    Raises:
        UsageError: there is no such charset.
        DecodingError: the charset is one of ISO-2022, and there is so much of what is none that Python gives up.
    """

    def __init__(self, encoding: str, *, is_certain: bool = False) -> None:
        name = charset_called(encoding)
        if name is None:
            raise UsageError(f"encoding={encoding[:80]!r}: Python knows no charset of this name")
        self._encoding = name
        marks = _WIDE_MARKS if name == "utf-32" else ()
        if is_certain:
            self._marks = tuple(mark for mark in (*marks, *BYTE_ORDER_MARKS) if mark[1] == name)
        else:
            self._marks = (*marks, *BYTE_ORDER_MARKS)
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begin: bytes = b""  # what may become a byte order mark

    def feed(self, data: bytes, /) -> Sequence[str]:
        return self._decode(data, False)

    def end(self) -> Sequence[str]:
        return self._decode(b"", True)

    def _decode(self, data: bytes, final: bool) -> Sequence[str]:
        decoder = self._decoder
        if decoder is None:
            data = self._begin + data
            if not final and any(len(data) < len(mark) and mark.startswith(data) for mark, _ in self._marks):
                self._begin = data
                return ()
            encoding = marked_encoding(data, self._marks) or WITHOUT_MARK.get(self._encoding, self._encoding)
            decoder = self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        try:
            text = decoder.decode(data, final)
        except UnicodeError as error:
            raise DecodingError(f"the content is not {self._encoding}: {error}") from error
        return (text,) if text else ()


def marked_encoding(content: bytes, marks: Sequence[tuple[bytes, str]] = BYTE_ORDER_MARKS) -> str | None:
    """The charset that a byte order mark at the begin tells; None if there is none."""
    return next((encoding for mark, encoding in marks if content.startswith(mark)), None)


class Lines:
    """Lines of text without their ends; an end is LF, CRLF or CR and nothing else: `str.splitlines` would also split
    at form feeds and at U+2028, which stand inside JSON strings. Arguments and errors as of `Text`."""

    def __init__(self, encoding: str, *, is_certain: bool = False) -> None:
        self._text = Text(encoding, is_certain=is_certain)
        self._open: list[str] = []
        self._ended_in_cr = False

    def feed(self, data: bytes, /) -> Sequence[str]:
        lines: list[str] = []
        for text in self._text.feed(data):
            self._split(text, lines)
        return lines

    def end(self) -> Sequence[str]:
        lines: list[str] = []
        for text in self._text.end():
            self._split(text, lines)
        if self._open:
            lines.append("".join(self._open))
            self._open.clear()
        return lines

    def _split(self, text: str, lines: list[str]) -> None:
        begin = 1 if self._ended_in_cr and text.startswith("\n") else 0  # the second half of a CRLF
        self._ended_in_cr = text.endswith("\r")
        text = text[begin:]
        *whole, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for part in whole:
            self._open.append(part)
            lines.append("".join(self._open))
            self._open.clear()
        if rest:
            self._open.append(rest)
