"""The contract of decoders, and the iterators that run one over a response.

The iterators are classes with a close, not generators, so that leaving a loop early cleans up when the caller says so
and not when the garbage collector gets to it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from plugwire.blocking_response import driven

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from plugwire.blocking_response import Response
    from plugwire.messages import AsyncResponse

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Decoder(Protocol[T_co]):
    """Turns bytes into items, without any I/O. What the items are does not depend on how the bytes were cut.

    So an error behind complete items must not swallow them: `feed` gives them, and raises when it is called next,
    which may be with b"".
    """

    def feed(self, data: bytes, /) -> Sequence[T_co]:
        """The items that are complete now."""
        ...

    def end(self) -> Sequence[T_co]:
        """The content is complete: the last items. Raises `DecodingError` if something is missing."""
        ...


class AsyncDecoded(Generic[T]):
    """`async for item in response.iter_...()`. A body that is kept is run through from its start. Leaving early:
    `await close()`, or close the response. What reading and decoding raise, it raises.

    Args:
        response: whose body is read.
        decoder: what makes items of it; used for this body only.
        size: bytes to read at once.
    """

    def __init__(self, response: AsyncResponse, decoder: Decoder[T], size: int = 65536) -> None:
        self._response = response
        self._decoder = decoder
        self._kept = response.content if response.is_read else None
        self._size = size
        self._may_have_failed = False
        self._ready: deque[T] = deque()
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            # An error behind the last items is told now, and not when the peer has more to say.
            data = b"" if self._may_have_failed else await self._next()
            if data or self._may_have_failed:
                self._ready.extend(self._decoder.feed(data))
                self._may_have_failed = bool(self._ready)
            else:
                self._is_over = True
                self._ready.extend(self._decoder.end())
        return self._ready.popleft()

    async def _next(self) -> bytes:
        if self._kept is None:
            return await self._response.read(self._size)
        data, self._kept = self._kept, b""
        return data

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
        try:
            return driven(self._waiting.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Be done with the response before its end."""
        driven(self._waiting.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
