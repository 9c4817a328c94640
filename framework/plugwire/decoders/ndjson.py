"""JSON values, one a line (NDJSON, JSON Lines)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from plugwire.decoders.items import MAX_ITEM, ItemDecoder, checked_limit
from plugwire.errors import DecodingError, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable


class NDJSON(ItemDecoder[Any]):
    """The value of each line; lines end in LF, blank ones are skipped, the last one need not have an end.

        for record in response.iter_decoded(NDJSON()): ...

    Args:
        decoder: called with each line (bytes), such as `orjson.loads`.
        max_line_bytes: bytes of one line at most.

    Raises:
        DecodingError: a line is not JSON; the message has its number.
        LimitExceeded: a line is too long.
    """

    def __init__(self, *, decoder: Callable[[bytes], Any] = json.loads, max_line_bytes: int = MAX_ITEM) -> None:
        super().__init__()
        self._decoder = decoder
        self._max_line_bytes = checked_limit("max_line_bytes", max_line_bytes)
        self._open: list[bytes] = []
        self._size = 0
        self._number = 0

    def _take(self, data: bytes, items: list[Any]) -> None:
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._keep(part)
            self._end_line(items)
        self._keep(rest)

    def _finish(self, items: list[Any]) -> None:
        self._end_line(items)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max_line_bytes:
            raise LimitExceeded(
                f"line {self._number + 1} is longer than max_line_bytes={self._max_line_bytes}", "max_line_bytes"
            )
        if part:
            self._open.append(part)

    def _end_line(self, items: list[Any]) -> None:
        line = b"".join(self._open)
        self._open.clear()
        self._size = 0
        self._number += 1
        if not line.strip(b" \t\r"):
            return
        try:
            items.append(self._decoder(line))
        except Exception as error:  # of whatever library the decoder is
            raise DecodingError(f"line {self._number} is not JSON: {error}") from error
