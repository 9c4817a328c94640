"""The tests' own examples, as what to begin with: the arguments of every `parametrize` in a test module."""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

T = TypeVar("T", bytes, str)


def examples(module: str, kind: type[T]) -> list[T]:
    """All values of this type, at any depth, in their order, each once."""
    found: dict[T, None] = {}
    for member in vars(importlib.import_module(module)).values():
        for mark in getattr(member, "pytestmark", ()):
            if mark.name == "parametrize":
                _collect(list(mark.args[1]), kind, found)
    assert found, f"{module} has no examples of type {kind.__name__}"
    return list(found)


def _collect(value: Any, kind: type[T], found: dict[T, None]) -> None:
    if isinstance(value, kind):
        found.setdefault(value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            _collect(one, kind, found)
    elif isinstance(value, dict):
        _collect([*value.keys(), *value.values()], kind, found)


class Choices:
    """Reads decisions from the beginning of an input; the rest is the material. Past its end all decisions are 0."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def number(self) -> int:
        """The next byte."""
        self.place += 1
        return self.data[self.place - 1] if self.place <= len(self.data) else 0

    def take(self, size: int) -> bytes:
        self.place += size
        return self.data[self.place - size : self.place]

    def rest(self) -> bytes:
        return self.take(len(self.data))

    def __bool__(self) -> bool:
        return self.place < len(self.data)
