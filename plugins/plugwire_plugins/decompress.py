"""Content decoding: the body that a caller reads is the content, whatever coding it was sent in (RFC 9110, 8.4).

The plugin stands at stage `decode`: outside of redirects, so the body of a redirect is never decoded, and outside of
retries, so in a buffered call a body that breaks in the middle is asked for again, before anything is decoded. What
stands at stage `call` sees content, what stands further inside the bytes as received.

What is decoded, and what is handed on as it came:

- A coding is undone although it was not asked for: servers and caches send what they have, and `Accept-Encoding:
  identity` in the request keeps few of them from it.
- If one coding of several is not known here, none is undone: `Content-Encoding` then still says what the bytes are.
- A part of a coded representation (206) is not decoded, since only the whole could be: what a Range selects are bytes
  of the coded form (RFC 9110, 14.2), fit to be put behind those of an earlier answer. A 206 with the whole is.
- `response.headers` are as received: Content-Encoding and Content-Length speak of the coded form.

The codings themselves, and what bounds them, are in `content_codings`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from plugwire import Error, ReadError, UsageError, hookimpl
from plugwire.protocols import Body
from plugwire_plugins.content_codings import PIECE, Chain, available, can_undo, codings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire import AsyncResponse
    from plugwire.protocols import Call, Session

LEAST: Final = 16 * 1024
"""What is decoded at once for a caller who reads less: the rest waits for the next reads."""

MOST: Final = 256 * 1024
"""What is decoded at once for a caller who reads more."""

TURN_BYTES: Final = 1024 * 1024
"""Content after which other tasks get their turn, and the call's time is looked at: a body that lies in memory can be
decoded for seconds without waiting for anything."""

_WHOLE = re.compile(r"bytes 0-(\d{1,18})/(\d{1,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DecompressOptions:
    """The options that `Decompress` adds to a session and to each call: `options={"decode_content": False}`.

    Attributes:
        decode_content: False: the body is given as received.
    """

    decode_content: bool = True


class Decompress:
    """Decode gzip, deflate, br and zstd, and say in Accept-Encoding what can be decoded.

    A session has it by default. br needs the extra `plugwire[br]`, zstd `plugwire[zstd]` (before Python 3.14). The
    limits are the session's: `Limits(max_decoded_bytes=, max_ratio=)`; `content_codings` has those that are constants.

    Options, on the session or on a call: see `DecompressOptions`.

    Args:
        announce: the codings to name in Accept-Encoding (RFC 9110, 12.5.3) where the user has not set that; None: all
            that can be decoded; (): send no Accept-Encoding. What is decoded does not depend on it.

    Raises:
        UsageError: a coding that cannot be decoded with what is installed.

    Reading raises:
        DecodingError: the content is not what its codings say.
        IncompleteBody: it ends inside of a coding, though its framing is intact.
        LimitExceeded: over one of the limits. Having failed, a body fails in the same way at every later read.
    """

    name = "decompress"
    option_types = (DecompressOptions,)

    def __init__(self, announce: Sequence[str] | None = None) -> None:
        if announce is not None:
            known = available()
            for coding in (announce,) if isinstance(announce, str) else announce:
                if coding not in known:
                    raise UsageError(f"announce={announce!r}: a sequence of {', '.join(known)}")
        self._announce = announce

    def __repr__(self) -> str:
        return "Decompress()" if self._announce is None else f"Decompress(announce={self._announce!r})"

    @hookimpl
    async def session_opened(self, session: Session) -> None:
        """Say what can be decoded, unless the user has said something."""
        codings = available() if self._announce is None else self._announce
        if codings:
            session.headers.add("Accept-Encoding", ", ".join(codings), mode="if_new")

    @hookimpl(stage="decode", if_response="content-encoding")
    def around_read(self, response: AsyncResponse, body: Body, call: Call) -> Body:
        """The body with its codings undone, or as it is; see the module."""
        if not call.options(DecompressOptions).decode_content or is_part(response):
            return body
        try:
            codings = codings_of(response.headers)
        except Error as error:
            error.at("body", request=response.request, sent=True, connection=response.connection)
            raise
        if not codings or not can_undo(codings):
            return body
        return DecodedBody(body, Chain(codings, call.limits), response, call)


def is_part(response: AsyncResponse) -> bool:
    """True for a 206 with anything but the whole representation (RFC 9110, 15.3.7)."""
    if response.status_code != 206:
        return False
    whole = _WHOLE.fullmatch(response.headers.get("content-range") or "")
    return whole is None or int(whole[1]) + 1 != int(whole[2])


class DecodedBody(Body):
    """A body with its codings undone; `length` is not known before the end.

    A cancellation by asyncio or trio loses nothing, since it comes only while the body below is read; whatever else
    comes up ends the body, and each later read says the same.
    """

    def __init__(self, inner: Body, chain: Chain, response: AsyncResponse, call: Call) -> None:
        self._inner = inner
        self._chain: Chain | None = chain
        self._request = response.request
        self._connection = response.connection
        self._call = call
        self._ahead: bytes | memoryview = b""
        self._error: Error | None = None
        self._since_turn = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._ahead:
            await self._fill(max_bytes)
        data = self._take(max_bytes)
        return data if isinstance(data, bytes) else bytes(data)

    async def receive_into(self, buffer: memoryview) -> int:
        if not self._ahead:
            await self._fill(len(buffer))
        data = self._take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def close(self) -> None:
        # What is left is dropped as it came: nothing is decoded that nobody reads.
        if (self._chain is not None or self._ahead) and self._error is None:
            self._error = UsageError("the body was closed before its end")
        self._forget()
        await self._inner.close()

    def abort(self) -> None:
        self._inner.abort()

    def _take(self, max_bytes: int) -> bytes | memoryview:
        data = self._ahead
        if len(data) <= max_bytes:
            self._ahead = b""
            return data
        view = memoryview(data)
        self._ahead = view[max_bytes:]
        return view[:max_bytes]

    async def _fill(self, wanted: int) -> None:
        """Have something ahead, unless the end is reached."""
        if self._error is not None:
            raise self._error
        try:
            if self._since_turn >= TURN_BYTES:
                await self._turn()
            while (chain := self._chain) is not None:
                self._ahead = chain.pull(min(max(wanted, LEAST), MOST))
                if self._ahead:
                    self._since_turn += len(self._ahead)
                    return
                data = await self._inner.receive(PIECE)
                if data:
                    chain.feed(data)
                else:
                    chain.end()
                    self.trailers = self._inner.trailers
                    self._chain = None
        except self._call.runtime.cancellation:
            raise
        except Error as error:
            self._fail(error)
            await self._inner.close()
            raise
        except BaseException as error:
            self._fail(ReadError(f"reading was interrupted by {type(error).__name__}"))
            self._inner.abort()
            raise

    async def _turn(self) -> None:
        """Let others go on, and see whether the call may."""
        self._since_turn = 0
        call = self._call
        call.check()
        if call.total.has_passed():
            raise call.total.error("body")
        await call.runtime.turn()

    def _fail(self, error: Error) -> None:
        error.at("body", request=self._request, sent=True, connection=self._connection)
        self._call.blame(error, self._request)
        self._error = error
        self._forget()

    def _forget(self) -> None:
        self._chain = None
        self._ahead = b""
