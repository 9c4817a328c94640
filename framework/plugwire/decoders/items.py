"""What decoders of items have in common: complete items first, then the error behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from plugwire.errors import DecodingError, LimitExceeded, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

MAX_ITEM: Final = 16 * 1024 * 1024
"""Bytes of one item at most, unless the caller says otherwise: what a peer can make a decoder hold."""


class ItemDecoder(ABC, Generic[T]):
    """A decoder whose items are the same however the bytes were cut, those before an error included. After an error
    every call raises it again."""

    def __init__(self) -> None:
        self._failure: DecodingError | LimitExceeded | None = None

    def feed(self, data: bytes, /) -> Sequence[T]:
        """The items that are complete now.

        Raises:
            DecodingError: the content is not what it should be.
            LimitExceeded: an item is larger than it may be.
        """
        items: list[T] = []
        self._run(data, items)
        return items

    def end(self) -> Sequence[T]:
        """The last items; as `feed`."""
        items: list[T] = []
        self._run(None, items)
        return items

    def _run(self, data: bytes | None, items: list[T]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            if data is None:
                self._finish(items)
            else:
                self._take(data, items)
        except (DecodingError, LimitExceeded) as error:
            self._failure = error
            if not items:
                raise

    @abstractmethod
    def _take(self, data: bytes, items: list[T]) -> None:
        """Add what is complete to `items`."""

    @abstractmethod
    def _finish(self, items: list[T]) -> None:
        """The content is complete."""


def checked_limit(name: str, value: object) -> int:
    """A limit that a caller gives, in bytes."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name}={value!r}: a whole number of bytes, at least 1")
    return value
