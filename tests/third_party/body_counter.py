"""Counts the bytes of every body, and how each of them ended."""

from __future__ import annotations

from plugwire import hookimpl
from plugwire.protocols import AsyncResponse, Body, WatchedBody


class BodyCounter:
    def __init__(self) -> None:
        self.bytes = 0
        self.ends: list[str] = []

    @hookimpl
    def around_read(self, response: AsyncResponse, body: Body) -> Body:
        return _Counted(self, body)


class _Counted(WatchedBody):
    def __init__(self, counter: BodyCounter, inner: Body) -> None:
        super().__init__(inner)
        self._counter = counter

    def seen(self, data: bytes | memoryview) -> None:
        self._counter.bytes += len(data)

    def ended(self, error: BaseException | None) -> None:
        self._counter.ends.append("complete" if error is None else type(error).__name__)
