"""Sans-IO decoders for `response.iter_decoded(decoder)`: bytes in, items out; and the iterators that run them.

A decoder has `feed(data) -> sequence of items` and `end() -> sequence of items`, which is called once at the verified
end of the body. The iterators are classes with a close, not generators, so that leaving a loop early cleans up when the
caller says so and not when the garbage collector gets to it.
"""

from __future__ import annotations

import codecs
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from plugwire.messages import AsyncResponse, Response

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Decoder(Protocol[T_co]):
    """Turns bytes into items, without any I/O."""

    def feed(self, data: bytes, /) -> Sequence[T_co]:
        """The items that are complete now."""
        ...

    def end(self) -> Sequence[T_co]:
        """The content is complete: the last items. Raises `DecodingError` if something is missing."""
        ...


class Pieces:
    """Bytes as they arrive, or in pieces of exactly `size` bytes (the last one may be shorter)."""

    def __init__(self, size: int | None = None) -> None:
        self._size = size
        self._rest = b""

    def feed(self, data: bytes, /) -> Sequence[bytes]:
        size = self._size
        if size is None:
            return (data,) if data else ()
        if self._rest:
            data = self._rest + data
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        return [data[begin : begin + size] for begin in range(0, whole, size)]

    def end(self) -> Sequence[bytes]:
        rest, self._rest = self._rest, b""
        return (rest,) if rest else ()


class Text:
    """Text by a charset. What does not decode becomes U+FFFD, as browsers do it (WHATWG Encoding, "decode")."""

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")

    def feed(self, data: bytes, /) -> Sequence[str]:
        text = self._decoder.decode(data)
        return (text,) if text else ()

    def end(self) -> Sequence[str]:
        text = self._decoder.decode(b"", final=True)
        return (text,) if text else ()


class Lines:
    """Lines of text without their ends; an end is LF, CRLF or CR and nothing else: `str.splitlines` would also split
    at form feeds and at U+2028, which stand inside JSON strings."""

    def __init__(self, encoding: str) -> None:
        self._text = Text(encoding)
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
        if self._ended_in_cr and text.startswith("\n"):
            text = text[1:]
        self._ended_in_cr = text.endswith("\r") if text else self._ended_in_cr
        *whole, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for part in whole:
            self._open.append(part)
            lines.append("".join(self._open))
            self._open.clear()
        if rest:
            self._open.append(rest)


class AsyncDecoded(Generic[T]):
    """`async for item in response.iter_...()`. Leaving early: `await close()`, or close the response."""

    def __init__(self, response: AsyncResponse, decoder: Decoder[T], size: int = 65536) -> None:
        self._response = response
        self._decoder = decoder
        self._size = size
        self._ready: deque[T] = deque()
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            data = await self._response.read(self._size)
            if data:
                self._ready.extend(self._decoder.feed(data))
            else:
                self._is_over = True
                self._ready.extend(self._decoder.end())
        return self._ready.popleft()

    async def close(self) -> None:
        """Be done with the response before its end."""
        self._is_over = True
        self._ready.clear()
        await self._response.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Decoded(Generic[T]):
    """`for item in response.iter_...()`. Leaving early: `close()`, or close the response."""

    def __init__(self, response: Response, waiting: AsyncDecoded[T]) -> None:
        self._response = response
        self._waiting = waiting

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        from plugwire.drive import drive

        try:
            return drive(self._waiting.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Be done with the response before its end."""
        from plugwire.drive import drive

        drive(self._waiting.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
