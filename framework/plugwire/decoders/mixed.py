"""The parts of multipart content (RFC 2046, 5.1): multipart/mixed, byteranges, x-mixed-replace, and others of the kind.

Parts are separated by delimiter lines: CRLF, "--", the boundary, padding, CRLF; the last one has "--" in place of the
padding. The CRLF before a delimiter belongs to it, also where it ended the line before: the first delimiter may stand
at the very beginning, and a part may have nothing between its head and the next delimiter. So one CRLF is always kept
before what is looked at: the one that ended the last line, or, at the beginning, one that was never there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from plugwire.decoders.items import MAX_ITEM, ItemDecoder, checked_limit
from plugwire.errors import DecodingError, InvalidHeader, LimitExceeded
from plugwire.headers import Headers

MAX_PART_HEAD: Final = 64 * 1024
"""Bytes of a part's header section."""

MAX_PADDING: Final = 128
"""Spaces and tabs behind a boundary; with more of them it is no delimiter."""

_BOUNDARY: Final = re.compile(r";\s*boundary\s*=\s*(?:\"([^\"]{1,70})\"|([^\s;\"]{1,70})(?=\s|;|$))", re.IGNORECASE)
_REST: Final = re.compile(rb"(--)|[ \t]{0,%d}(\r\n)" % MAX_PADDING)
_REST_BEGUN: Final = re.compile(rb"-?|[ \t]{0,%d}\r?" % MAX_PADDING)


@dataclass(frozen=True, slots=True)
class BodyPart:
    """A part: its header fields, and its content as it came."""

    headers: Headers
    content: bytes


class _State(Enum):
    PREAMBLE = "before the first delimiter"
    HEAD = "in a part's header section"
    CONTENT = "in a part"
    EPILOGUE = "behind the last delimiter"


class MultipartMixed(ItemDecoder[BodyPart]):
    """The parts of a multipart body, one by one.

        for part in response.iter_decoded(MultipartMixed(response.headers.get("content-type"))): ...

    Args:
        content_type: of the response, which names the boundary.
        max_part_bytes: bytes of a part's content at most.

    Raises:
        DecodingError: there is no boundary, a part's header section is none, or the last delimiter is missing.
        LimitExceeded: a part, or its header section, is too large.
    """

    def __init__(self, content_type: str | None, *, max_part_bytes: int = MAX_ITEM) -> None:
        super().__init__()
        self._max_part_bytes = checked_limit("max_part_bytes", max_part_bytes)
        found = _BOUNDARY.search(content_type or "")
        if found is None or not (content_type or "").lower().lstrip().startswith("multipart/"):
            raise DecodingError(f"the content-type {(content_type or 'none')[:100]!r} names no boundary of parts")
        self._delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
        self._state = _State.PREAMBLE
        self._buffer = bytearray(b"\r\n")
        self._seen = 0  # so much of the buffer holds no delimiter, nor the begin of one
        self._headers = Headers()

    def _take(self, data: bytes, items: list[BodyPart]) -> None:
        if self._state is _State.EPILOGUE:
            return
        self._buffer += data
        while self._step(items):
            pass

    def _finish(self, items: list[BodyPart]) -> None:
        if self._state is not _State.EPILOGUE:
            raise DecodingError(f"the content ended {self._state.value}: its last delimiter is missing")

    def _step(self, items: list[BodyPart]) -> bool:
        """One transition; False if it needs more bytes."""
        if self._state is _State.EPILOGUE:
            self._buffer.clear()
            return False
        if self._state is _State.HEAD:
            return self._take_head()
        place, end, is_last = self._find_delimiter()
        if place is None:
            self._check_size(self._seen)
            if self._state is _State.PREAMBLE:
                del self._buffer[: self._seen]
                self._seen = 0
            return False
        self._check_size(place)
        if self._state is _State.CONTENT:
            # The first CRLF is the one that ended the head; where it begins the delimiter, there is no content.
            items.append(BodyPart(self._headers, bytes(self._buffer[2:place])))
        self._state = _State.EPILOGUE if is_last else _State.HEAD
        del self._buffer[: end if is_last else end - 2]
        self._seen = 0
        return True

    def _check_size(self, size: int) -> None:
        if self._state is _State.CONTENT and size - 2 > self._max_part_bytes:
            raise LimitExceeded(f"a part is larger than max_part_bytes={self._max_part_bytes}", "max_part_bytes")

    def _take_head(self) -> bool:
        place = self._buffer.find(b"\r\n\r\n", self._seen)
        self._seen = max(len(self._buffer) - 3, 0)
        if (place if place >= 0 else self._seen) > MAX_PART_HEAD:
            raise LimitExceeded(f"the head of a part is larger than {MAX_PART_HEAD} bytes", "max_part_head_bytes")
        if place < 0:
            return False
        self._headers = _parsed(bytes(self._buffer[2 : place + 2]))
        del self._buffer[: place + 2]
        self._seen = 0
        self._state = _State.CONTENT
        return True

    def _find_delimiter(self) -> tuple[int | None, int, bool]:
        """Where the next delimiter begins and ends, and whether it is the last one."""
        buffer, delimiter = self._buffer, self._delimiter
        while (place := buffer.find(delimiter, self._seen)) >= 0:
            behind = place + len(delimiter)
            rest = _REST.match(buffer, behind)
            if rest is not None:
                return place, rest.end(), rest[1] is not None
            if _REST_BEGUN.fullmatch(buffer, behind):
                self._seen = place
                return None, 0, False
            self._seen = place + 1  # a line of content that only begins like one
        self._seen = max(self._seen, len(buffer) - len(delimiter) + 1)
        return None, 0, False


def _parsed(block: bytes) -> Headers:
    """The fields of a part's head, each line with its CRLF."""
    fields: list[tuple[bytes, bytes]] = []
    for line in block.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise DecodingError(f"a line in the head of a part is no field: {line[:60]!r}")
        fields.append((name, value.strip(b" \t")))
    try:
        return Headers(fields)
    except InvalidHeader as error:
        raise DecodingError(f"the head of a part has a field that cannot be one: {error}") from error
