"""Sans-IO decoders for `response.iter_decoded(decoder)`: bytes in, items out; and the iterators that run them.

A decoder has `feed(data) -> sequence of items` and `end() -> sequence of items`, which is called once at the verified
end of the body. The iterators are classes with a close, not generators, so that leaving a loop early cleans up when the
caller says so and not when the garbage collector gets to it.
"""

from __future__ import annotations

import codecs
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from plugwire.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from plugwire.blocking_response import Response
    from plugwire.messages import AsyncResponse

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
        if size is not None and (not isinstance(size, int) or size < 1):
            raise UsageError(f"pieces of size={size!r}: a whole number, at least 1, or None")
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


BYTE_ORDER_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class Text:
    """Text by a charset. What does not decode becomes U+FFFD; a byte order mark goes before the charset, unless
    `is_certain`, and is no text (WHATWG Encoding, "decode")."""

    def __init__(self, encoding: str, *, is_certain: bool = False) -> None:
        self._encoding = encoding
        self._decoder = _text_decoder(encoding) if is_certain else None
        self._begin: bytes = b""  # what may become a byte order mark

    def feed(self, data: bytes, /) -> Sequence[str]:
        return self._decode(data, False)

    def end(self) -> Sequence[str]:
        return self._decode(b"", True)

    def _decode(self, data: bytes, final: bool) -> Sequence[str]:
        decoder = self._decoder
        if decoder is None:
            data = self._begin + data
            encoding = self._encoding
            for mark, marked in BYTE_ORDER_MARKS:
                if data.startswith(mark):
                    encoding = marked
                elif mark.startswith(data) and not final:
                    self._begin = data
                    return ()
            decoder = self._decoder = _text_decoder(encoding)
        text = decoder.decode(data, final)
        return (text,) if text else ()


def _text_decoder(encoding: str) -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder(encoding)(errors="replace")


class Lines:
    """Lines of text without their ends; an end is LF, CRLF or CR and nothing else: `str.splitlines` would also split
    at form feeds and at U+2028, which stand inside JSON strings."""

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


class AsyncDecoded(Generic[T]):
    """`async for item in response.iter_...()`. A body that is kept is run through from its start. Leaving early:
    `await close()`, or close the response."""

    def __init__(self, response: AsyncResponse, decoder: Decoder[T], size: int = 65536) -> None:
        self._response = response
        self._decoder = decoder
        self._kept = response.is_read
        self._size = size
        self._ready: deque[T] = deque()
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            if self._kept:
                self._is_over = True
                self._ready.extend(self._decoder.feed(self._response.content))
                self._ready.extend(self._decoder.end())
                continue
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
