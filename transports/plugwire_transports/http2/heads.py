"""Header blocks of one connection: HPACK and the checks of RFC 9113, section 8, with memos over both.

The same session sends nearly the same head again and again, and a server answers with nearly the same one. Decoding
and judging a head costs more than all the rest of a small request, so what was found is kept, by block.

Rules that hold

1. **A memo holds for one state of the table.** The coders' `version` names that state: as long as it has not moved,
   equal blocks mean equal fields and leave the table as it is. When it moves all is forgotten. A block that moves it
   is not kept: the next one like it means something else, or must do to the table what this one did.
2. **Every block is decoded, also that of a stream nobody waits for any more**: the table must stay in step.
3. What is kept is bounded, and what is given out is a copy: headers that a plugin changes must not change the memo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from plugwire.errors import InvalidHeader, LimitExceeded
from plugwire_transports.http2.checks import Head, check_response, check_trailers
from plugwire_transports.http2.frames import Code, ConnectionBroken
from plugwire_transports.http2.hpack import Decoder, Encoder, HPACKError, Indexing, TooLarge
from plugwire_transports.http11_wire import FORBIDDEN_TRAILERS

if TYPE_CHECKING:
    from plugwire.headers import Headers

Fields: TypeAlias = tuple[tuple[str, str, Indexing], ...]

MAX_MEMO: Final = 64
"""Heads and paths that are kept, of each direction."""

MAX_MEMO_BLOCK: Final = 1024
"""Longer blocks, and paths, are not kept: nothing says that they come again."""


class RequestHead(NamedTuple):
    """What a request says in HEADERS (RFC 9113, 8.3.1).

    Attributes:
        scheme, authority, path: None where they are left out (CONNECT has neither scheme nor path).
        fields: names in lower case, values, and what becomes of them in HPACK's tables; without those that concern one
            HTTP/1.1 connection. The same tuple object, request after request, makes encoding them a look-up.
    """

    method: str
    scheme: str | None
    authority: str | None
    path: str | None
    fields: Fields


class HeadLimits(Protocol):
    """The part of plugwire's Limits that is needed here and in `wire`."""

    @property
    def max_head_bytes(self) -> int:
        """Of a head or of trailers, as RFC 9113, 6.5.2 counts: names, values, and 32 for each field."""
        ...

    @property
    def max_headers(self) -> int: ...
    @property
    def max_informational(self) -> int: ...


class HeadEncoder:
    """Requests to blocks."""

    __slots__ = ("_encoder", "_frames", "_paths", "_version")

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._version = encoder.version
        # What stands before and behind the path. The fields are kept too, so that nobody else gets their id.
        self._frames: dict[tuple[str, str | None, str | None, int], tuple[bytes, bytes, Fields]] = {}
        self._paths: dict[str | None, bytes] = {None: b""}

    def request(self, head: RequestHead) -> bytes:
        """The block of a request's head. Its path goes into no table: it would push out what comes again."""
        method, scheme, authority, path, fields = head
        encoder = self._encoder
        if encoder.version != self._version:
            self._forget()
        key = (method, scheme, authority, id(fields))
        known = self._frames.get(key)
        if known is not None:
            encoded = self._paths.get(path)
            return known[0] + (self._path(path) if encoded is None else encoded) + known[1]
        # The parts of a block are encoded one after the other: HPACK does not see where one ends.
        before = encoder.encode(
            [
                (name, value, Indexing.ADD)
                for name, value in ((":method", method), (":scheme", scheme), (":authority", authority))
                if value is not None
            ]
        )
        middle = self._path(path)
        behind = encoder.encode(fields)
        if encoder.version == self._version and len(before) + len(behind) <= MAX_MEMO_BLOCK:
            if len(self._frames) >= MAX_MEMO:
                self._frames.clear()
            self._frames[key] = before, behind, fields
        return before + middle + behind

    def trailers(self, trailers: Headers) -> bytes:
        """The block of a request's trailers.

        Raises:
            InvalidHeader: a field that must not be a trailer (RFC 9110, 6.5.1).
        """
        secret = trailers.secret
        fields: list[tuple[str, str, Indexing]] = []
        for name, value in trailers.items():
            key = name.lower()
            if key in FORBIDDEN_TRAILERS:
                raise InvalidHeader(f"{name} cannot be a trailer field (RFC 9110, 6.5.1)")
            fields.append((key, value, Indexing.NEVER if key in secret else Indexing.WITHOUT))
        return self._encoder.encode(fields)

    def _path(self, path: str | None) -> bytes:
        if path is None:
            return b""
        encoded = self._encoder.encode(((":path", path, Indexing.WITHOUT),))
        if len(path) <= MAX_MEMO_BLOCK and self._encoder.version == self._version:
            if len(self._paths) > MAX_MEMO:
                self._paths = {None: b""}
            self._paths[path] = encoded
        return encoded

    def _forget(self) -> None:
        self._version = self._encoder.version
        self._frames.clear()
        self._paths = {None: b""}


class HeadDecoder:
    """Blocks to responses."""

    __slots__ = ("_decoder", "_known", "_max_bytes", "_max_fields", "_version")

    def __init__(self, decoder: Decoder, limits: HeadLimits) -> None:
        self._decoder = decoder
        self._max_bytes = limits.max_head_bytes
        self._max_fields = limits.max_headers
        self._version = decoder.version
        self._known: dict[bytes, Head] = {}

    def response(self, block: bytes) -> Head:
        """The head of a response, of an interim one too.

        Raises:
            ProtocolError: it is malformed: the stream's end.
            LimitExceeded: it is too large: the stream's end.
            ConnectionBroken: it cannot be decoded.
        """
        if self._decoder.version == self._version:
            known = self._known.get(block)
            if known is not None:
                return Head(known[0], known[1].copy(), known[2])
        else:
            self._version = self._decoder.version
            self._known.clear()
        head = check_response(self._decode(block, self._max_fields + 1))
        if self._decoder.version == self._version and len(block) <= MAX_MEMO_BLOCK:
            if len(self._known) >= MAX_MEMO:
                self._known.clear()
            self._known[block] = Head(head.status, head.headers.copy(), head.length)
        return head

    def trailers(self, block: bytes) -> Headers:
        """The trailers of a response. Raises as `response` does."""
        return check_trailers(self._decode(block, self._max_fields))

    def skip(self, block: bytes) -> None:
        """A block that nobody waits for: only for the table. Raises ConnectionBroken as `response` does."""
        try:
            self._decode(block, self._max_fields)
        except LimitExceeded:
            pass

    def _decode(self, block: bytes, max_fields: int) -> list[tuple[str, str]]:
        try:
            return self._decoder.decode(block, self._max_bytes, max_fields)
        except TooLarge as error:
            limit, most = "max_head_bytes", self._max_bytes
            if error.limit == "max_fields":
                limit, most = "max_headers", self._max_fields
            raise LimitExceeded(f"{error}: {limit}={most}", limit) from None
        except HPACKError as error:
            raise ConnectionBroken(
                Code.COMPRESSION_ERROR, f"a header block that cannot be decoded: {error} (RFC 7541)"
            ) from None
