"""HTTP/1.1 on the wire, without I/O: bytes in, bytes out (RFC 9112). No socket, no clock, no await.

How it works

A message is a *head* (a line, then field lines, then an empty line) and a *body* whose end is told by the head. So
there are two machines, and the pump (`http11`) feeds first the one, then the other:

    HeadReader   feed(bytes) -> None while the head is incomplete, then a ResponseHead; `rest` is what came behind it
    framing      method + head -> which of the ways of RFC 9112, 6.3 ends this body
    BodyDecoder  feed(bytes) -> content; `is_done`; `rest` is what came behind the body

The head is found by one search for the empty line and judged by one regular expression over the whole of it. A regular
expression is the grammar of the standard, written down once; there is no second, laxer parser behind it. Only when it
does not match is the head looked at line by line, to say what is wrong and where. The expressions use possessive
quantifiers, so they never go back: linear on any input, and more than twice as fast on the good one.

A body decoder tells how many of the next bytes are content for certain (`direct`). The pump may receive that many
straight into the caller's buffer and report them by `took`; everything else goes through `feed`.

Rules that hold

1. **The verdict does not depend on how the bytes were cut.** Whatever came in one piece or byte by byte ends in equal
   results, or in an error of the same class. Therefore every limit is checked at the same byte on either road, and an
   error that can be seen early (a bare LF) goes before one that is seen late (a limit that is passed behind it).
   Tests cut everything everywhere.
2. **Strict.** Two recipients that end a message at different bytes are what request and response smuggling is made of
   (RFC 9112, 11.2). So nothing that RFC 9112 merely allows a recipient to repair is repaired: no bare LF as a line's
   end, no folded lines, no space before the colon, no Transfer-Encoding beside Content-Length, no signs, no unknown
   transfer codings. Two leniences are left, since real servers need them and they move no border: an empty reason
   without the space before it, and white space behind a chunk's size.
3. **Bounded.** Whatever waits for its end (a head, a chunk's line, the trailers) waits in a buffer with a limit, and is
   never searched twice from the start. Extensions of chunks have one budget for the whole body.
4. Bytes behind the end of a body belong to nobody: there is no pipelining, so the peer has lost step or tries to answer
   a question that was not asked yet. They are kept in `rest`, and the pump retires the connection.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol, TypeAlias

from plugwire.errors import IncompleteBody, InvalidHeader, LimitExceeded, ProtocolError
from plugwire.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Data: TypeAlias = bytes | memoryview
"""What decoders take and give. A memoryview given back is a slice of what was fed: use it before that changes."""

MAX_LENGTH: Final = 2**63 - 1
"""The largest Content-Length, and the largest chunk. More is a mistake or an attack on somebody's 64-bit integer."""

MAX_EXTENSION_BYTES: Final = 16 * 1024
"""What all chunk extensions of one body may use together; nobody is known to use any. `LimitExceeded.limit` calls it
max_extension_bytes."""


class HeadLimits(Protocol):
    """The part of plugwire's Limits that is needed here."""

    @property
    def max_head_bytes(self) -> int:
        """Bytes of a head, its empty line included; the same again for the trailers."""
        ...

    @property
    def max_headers(self) -> int:
        """Field lines of a head; the same again for the trailers."""
        ...


# -- the grammar ---------------------------------------------------------------------------------------------------

# Where a repeated group must not be given back it stands in an atomic group, (?>(?:...)*), and not under a possessive
# quantifier, (?:...)*+: CPython below 3.11.5 does not go back to where a failed repetition of a group began.
_TCHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]"  # what may stand in a field value or reason: no control but HTAB
_FIELDS: Final = b"(?>(?:" + _TCHAR + b"++:" + _TEXT + rb"*+\r\n)*)"
_SECTION: Final = re.compile(b"(" + _FIELDS + rb")\r\n")

# status-line = HTTP-version SP status-code SP [ reason-phrase ]   (RFC 9112, 4)
# IIS and several embedded servers leave out the space when they have no reason to give. Codes below 100 do not exist;
# those from 600 do in the wild (999), and are the caller's to judge (RFC 9110, 15).
_STATUS_LINE: Final = rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?>(?: (" + _TEXT + rb"*+))?)\r\n"
_HEAD: Final = re.compile(_STATUS_LINE + b"(" + _FIELDS + rb")\r\n")

# chunk-size [ chunk-ext ] CRLF   (RFC 9112, 7.1 and 7.1.1)
# Apache 1.3 and others pad the size with spaces; they are charged to the extensions.
_QUOTED: Final = rb'"(?>(?:[\t !#-\[\]-~\x80-\xff]++|\\[\t\x20-\x7e\x80-\xff])*)"'
_EXTENSION: Final = rb"[ \t]*+;[ \t]*+" + _TCHAR + rb"++(?>(?:[ \t]*+=[ \t]*+(?:" + _TCHAR + b"++|" + _QUOTED + b"))?)"
_CHUNK_LINE: Final = rb"([0-9A-Fa-f]{1,16}+)((?>(?:" + _EXTENSION + rb")*)[ \t]*+)\r\n"
_FIRST_CHUNK: Final = re.compile(_CHUNK_LINE)
_NEXT_CHUNK: Final = re.compile(rb"\r\n" + _CHUNK_LINE)

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")

KEPT_TARGET: Final = 2048
"""Characters of a request's target, up to which its line is remembered. A peer chooses targets, by redirects."""

_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_TARGET: Final = re.compile(r'[!"$-~]++')  # visible ASCII, and no fragment


def _shown(data: bytes | bytearray | memoryview) -> str:
    """The bytes for a message, at most 40 of them."""
    head = bytes(data[:41])
    return repr(head) if len(head) <= 40 else repr(head[:40]) + "..."


# -- requests, encoded ---------------------------------------------------------------------------------------------


def encode_head(method: str, target: str, headers: Headers) -> bytes:
    """The head of a request, its empty line included.

    Args:
        target: origin-form, absolute-form, authority-form or "*" (RFC 9112, 3.2); visible ASCII without "#".

    Raises:
        InvalidHeader: the method is not a token, the target not a target, or Content-Length and Transfer-Encoding
            would leave it open where the request ends: both of them, several lengths, no number, or a transfer coding
            other than chunked.
    """
    if "transfer-encoding" in headers:
        _check_request_coding(headers)
    elif "content-length" in headers:
        _check_request_length(headers)
    return join_head(method, target, headers.encoded())


def join_head(method: str, target: str, block: bytes) -> bytes:
    """The head of a request over a block of fields that `encode_head` has accepted before: what a connection sends
    again and again is checked once.

    Raises:
        InvalidHeader: the method is not a token, the target not a target.
    """
    line = _known_line(method, target) if len(target) <= KEPT_TARGET else _request_line(method, target)
    return b"%b%b\r\n" % (line, block)


def _request_line(method: str, target: str) -> bytes:
    if _METHOD.fullmatch(method) is None:
        raise InvalidHeader(f"method {method[:40]!r} is not a token (RFC 9110, 9.1)")
    if _TARGET.fullmatch(target) is None:
        place = match.end() if (match := _TARGET.match(target)) is not None else 0
        bad = repr(target[place]) if place < len(target) else "nothing"
        raise InvalidHeader(f"request target holds {bad} at position {place} (RFC 9112, 3.2)")
    return f"{method} {target} HTTP/1.1\r\n".encode("ascii")


_known_line = lru_cache(512)(_request_line)


def _check_request_coding(headers: Headers) -> None:
    if "content-length" in headers:
        raise InvalidHeader("a request cannot have both Content-Length and Transfer-Encoding (RFC 9112, 6.2)")
    codings = headers.get_list("transfer-encoding")
    if len(codings) != 1 or codings[0].lower() != "chunked":
        raise InvalidHeader(f"Transfer-Encoding of a request is 'chunked', not {', '.join(codings)[:40]!r}")


def _check_request_length(headers: Headers) -> None:
    values = headers.get_list("content-length")
    if len(values) != 1:
        raise InvalidHeader(f"a request has one Content-Length, not {len(values)}")
    if _parse_length(values[0].encode("latin-1")) is None:
        raise InvalidHeader(f"Content-Length {values[0][:40]!r} is not a number of bytes (RFC 9110, 8.6)")


def encode_chunk(data: bytes | bytearray | memoryview) -> Sequence[bytes | bytearray | memoryview]:
    """One chunk, as buffers to be sent one after the other; the data is not copied. Nothing for empty data: a chunk
    of no bytes would end the body."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    return (b"%x\r\n" % size, data, b"\r\n") if size else ()


def encode_last_chunk(trailers: Headers | None = None) -> bytes:
    """The end of a chunked body.

    Raises:
        InvalidHeader: a field that must not be a trailer (RFC 9110, 6.5.1); see `FORBIDDEN_TRAILERS`.
    """
    if not trailers:
        return b"0\r\n\r\n"
    for name in trailers:
        if name.lower() in FORBIDDEN_TRAILERS:
            raise InvalidHeader(f"{name} cannot be a trailer field (RFC 9110, 6.5.1)")
    return b"0\r\n%b\r\n" % trailers.encoded()


FORBIDDEN_TRAILERS: Final = frozenset({
    "connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "host", "max-forwards",
    "cache-control", "expect", "pragma", "range",
    "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
    "authorization", "cookie", "proxy-authenticate", "proxy-authorization", "set-cookie", "www-authenticate",
    "age", "date", "expires", "location", "retry-after", "vary",
    "content-encoding", "content-range", "content-type",
})  # fmt: skip
"""Names that mean something for framing, routing, request control, authentication, response control or content
processing, and so come too late in a trailer (RFC 9110, 6.5.1). Refused when sent; dropped when received, which is safe
since trailers are never merged into the headers, and keeps a response whose content has already come."""


# -- the head of a response ----------------------------------------------------------------------------------------


# The fields that steer the connection, found in one pass over the head: three look-ups would cost three times as much.
_Line: TypeAlias = tuple[bytes, bytes]
_STEERING: Final = re.compile(rb"\n(?i:(connection|content-length|transfer-encoding)):[ \t]*+([^\r]*+)")
_CONNECTION, _CONTENT_LENGTH = len("connection"), len("content-length")


def _elements(value: bytes) -> list[bytes]:
    return [element.strip(b" \t") for element in value.lower().split(b",")]


class ResponseHead:
    """The head of a response.

    Attributes:
        version: "HTTP/1.1" or "HTTP/1.0"; any other 1.x is treated as 1.1 (RFC 9110, 2.5).
        status: 100 to 999.
        reason: the reason phrase, often "".
        keep_alive: whether the peer lets the connection be used again, once the body has been read (RFC 9112, 9.3).
        coding, length: Transfer-Encoding and Content-Length as they came, lines joined by a comma; None without one.
    """

    __slots__ = ("coding", "headers", "keep_alive", "length", "reason", "status", "version")

    def __init__(self, version: str, status: int, reason: str, headers: Headers, steering: list[_Line]) -> None:
        self.version = version
        self.status = status
        self.reason = reason
        self.headers = headers
        coding: bytes | None = None
        length: bytes | None = None
        connection = b""
        for name, value in steering:
            which = len(name)  # the three names differ in it
            if which == _CONTENT_LENGTH:
                length = value if length is None else length + b"," + value
            elif which == _CONNECTION:
                connection = connection + b"," + value if connection else value
            else:
                coding = value if coding is None else coding + b"," + value
        self.coding = coding
        self.length = length
        # RFC 9112, 9.3: close ends it; else 1.1 goes on; else 1.0 goes on if it says so; else it ends.
        if connection and connection != b"keep-alive":
            options = _elements(connection)
            self.keep_alive = b"close" not in options and (version == "HTTP/1.1" or b"keep-alive" in options)
        else:
            self.keep_alive = version == "HTTP/1.1" or bool(connection)

    def __repr__(self) -> str:
        return f"<{self.version} {self.status} {self.reason}, {len(self.headers)} field lines>"


class HeadReader:
    """Reads heads, one after the other: after an interim (1xx) head, feed `rest` for the next one.

    Attributes:
        rest: what came behind the last head.
    """

    __slots__ = ("_buffer", "_max_bytes", "_max_fields", "rest")

    def __init__(self, limits: HeadLimits) -> None:
        self._max_bytes = limits.max_head_bytes
        self._max_fields = limits.max_headers
        self._buffer = bytearray()  # the beginning of a head
        self.rest: bytes = b""

    def feed(self, data: bytes) -> ResponseHead | None:
        """The head, or None while it is incomplete.

        Raises:
            ProtocolError: this is not the head of an HTTP/1 response.
            LimitExceeded: max_head_bytes or max_headers.
        """
        seen = len(self._buffer)
        came: bytes | bytearray = data
        if seen:
            came = self._buffer
            came += data
        if seen < 7 and not came.startswith(b"HTTP/1."):
            _check_greeting(came)
        end = came.find(b"\r\n\r\n", seen - 3 if seen > 3 else 0) + 4
        if end == 3 or end > self._max_bytes:
            self._wait(came, seen)
            return None
        if seen:
            data = bytes(came)
            self._buffer = bytearray()
        # Before the match, which keeps 200 bytes for each line while it goes on.
        if data.count(b"\n", 0, end) - 2 > self._max_fields and not _BARE_LF.search(data, 0, end):
            raise _too_many(self._max_fields)
        match = _HEAD.fullmatch(data, 0, end)
        if match is None:
            _explain_head(data[:end])
        minor, code, reason, block = match.groups()
        self.rest = data[end:]
        return ResponseHead(
            "HTTP/1.0" if minor == b"0" else "HTTP/1.1",
            int(code),
            "OK" if reason == b"OK" else str(reason or b"", "latin-1"),
            Headers.from_block(block),
            _STEERING.findall(data, match.start(4) - 1, end),
        )

    def _wait(self, came: bytes | bytearray, seen: int) -> None:
        """The head is incomplete, or goes over the limit."""
        bare = _BARE_LF.search(came, seen, self._max_bytes)
        if bare is not None:
            raise ProtocolError(f"bare LF at byte {bare.start()} of the head: {_shown(came[: bare.end()][-40:])}")
        if len(came) >= self._max_bytes:
            raise LimitExceeded(f"the head is longer than max_head_bytes={self._max_bytes}", "max_head_bytes")
        if not seen:
            self._buffer += came

    def eof(self) -> None:
        """The peer ended the stream. Returns if no byte of a head had come.

        Raises:
            ProtocolError: it ended inside a head.
        """
        if self._buffer:
            raise ProtocolError(
                f"the peer closed the connection inside the head, after {len(self._buffer)} bytes: "
                + _shown(self._buffer)
            )


def _too_many(maximum: int) -> LimitExceeded:
    return LimitExceeded(f"more field lines than max_headers={maximum}", "max_headers")


# What comes when it is not HTTP/1: first bytes, and what they mean.
_GREETINGS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x15\x03", "a TLS alert: the peer speaks TLS, use https"),
    (b"\x16\x03", "a TLS handshake: the peer speaks TLS, use https"),
    (b"SSH-", "an SSH banner"),
    (b"HTTP/", "a version other than HTTP/1.x"),
    (b"ICY ", "a SHOUTcast answer"),
    (b"220", "an FTP or SMTP greeting"),
    (b"\r", "an empty line before the status line"),
    (b"\n", "an empty line before the status line"),
    (b"<", "markup without a head, as HTTP/0.9 had it"),
)


def _check_greeting(data: bytes | bytearray) -> None:
    """Raises if these bytes cannot become a status line."""
    if b"HTTP/1.".startswith(data):
        return
    if data[3:4] == b"\x04" and data[:2] == b"\x00\x00":
        what = "an HTTP/2 SETTINGS frame"  # a server's preface (RFC 9113, 3.4)
    else:
        what = next((meaning for start, meaning in _GREETINGS if data.startswith(start)), "not HTTP/1")
    raise ProtocolError(f"the answer does not begin with 'HTTP/1.' but with {_shown(data)}: {what}")


def _explain_head(head: bytes) -> NoReturn:
    """The head is complete and does not match: say why."""
    line = head[: head.index(b"\r\n") + 2]
    if re.fullmatch(_STATUS_LINE, line) is None:
        raise ProtocolError(f"bad status line {_shown(line)} (RFC 9112, 4)")
    _explain_fields(head[len(line) :], "the head", len(line), 2)


def _explain_fields(section: bytes, where: str, offset: int = 0, number: int = 1) -> NoReturn:
    for line in section.split(b"\r\n")[:-2]:
        name, colon, value = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            what = "a folded line (RFC 9112, 5.2)"
        elif b"\n" in line or b"\r" in line:
            what = "a bare CR or LF (RFC 9112, 2.2)"
        elif not colon:
            what = "a line without a colon"
        elif name[-1:] in (b" ", b"\t"):
            what = "white space before the colon (RFC 9112, 5.1)"
        elif re.fullmatch(_TCHAR + b"++", name) is None:
            what = "a field name that is not a token"
        elif re.fullmatch(_TEXT + b"*+", value) is None:
            what = "a control character in a field value (RFC 9110, 5.5)"
        else:
            offset += len(line) + 2
            number += 1
            continue
        raise ProtocolError(f"{what} in line {number} of {where}, at byte {offset}: {_shown(line)}")
    raise ProtocolError(f"{where} is malformed")  # out of reach while both readings of the grammar agree


# -- where the body ends -------------------------------------------------------------------------------------------


class FramingKind(Enum):
    """What ends a response's body."""

    NONE = "none"  # there is none
    LENGTH = "length"  # after so many bytes
    CHUNKED = "chunked"  # it tells itself
    CLOSE = "close"  # with the connection
    TUNNEL = "tunnel"  # there is none, and what follows is no longer HTTP


class Framing(NamedTuple):
    """`length` is the number of bytes for NONE (0) and LENGTH, None for the others."""

    kind: FramingKind
    length: int | None = None


_LENGTH: Final = FramingKind.LENGTH
_NONE: Final = Framing(FramingKind.NONE, 0)
_CHUNKED: Final = Framing(FramingKind.CHUNKED)
_CLOSE: Final = Framing(FramingKind.CLOSE)
_TUNNEL: Final = Framing(FramingKind.TUNNEL)


def framing(method: str, head: ResponseHead) -> Framing:
    """How the body of the response to `method` ends: RFC 9112, 6.3, step by step.

    Raises:
        ProtocolError: the head leaves it open, or says it in two ways.
    """
    status = head.status
    # 1. No body: answers to HEAD, 1xx, 204, 304, whatever their fields say. Behind a 101 comes another protocol.
    if status < 200:
        return _TUNNEL if status == 101 else _NONE
    # 2. A tunnel: 2xx to CONNECT, whatever the fields say. (204 too, so this stands before the rest of 1.)
    if method == "CONNECT" and status < 300:
        return _TUNNEL
    if method == "HEAD" or status == 204 or status == 304:
        return _NONE
    coding, length = head.coding, head.length
    if coding is not None:
        # 3. Both: the sign of an attempt at smuggling, and the standard's "ought to be handled as an error".
        if length is not None:
            raise ProtocolError("the response has both Transfer-Encoding and Content-Length (RFC 9112, 6.3)")
        # 4. Transfer-Encoding: chunked alone. We never say TE, so no other coding may come (7.4), and chunked may
        #    come only once (7.1). HTTP/1.0 has no transfer codings: the framing is faulty (6.1).
        if head.version == "HTTP/1.0":
            raise ProtocolError("Transfer-Encoding from an HTTP/1.0 server (RFC 9112, 6.1)")
        if _elements(coding) != [b"chunked"]:
            raise ProtocolError(f"Transfer-Encoding {_shown(coding)} was not asked for (RFC 9112, 7.4)")
        return _CHUNKED
    if length is not None:
        # 5. Content-Length that is no number, or several that differ: refused. Several equal ones count as one.
        size = _parse_length(length)
        if size is None:
            sizes = {_parse_length(element) for element in _elements(length)}
            size = sizes.pop() if len(sizes) == 1 else None
            if size is None:
                raise ProtocolError(f"Content-Length {_shown(length)} is not one number of bytes (RFC 9112, 6.3)")
        # 6. A valid Content-Length.
        return Framing(_LENGTH, size)
    # 7. is about requests. 8. Everything up to the end of the connection.
    return _CLOSE


def _parse_length(text: bytes) -> int | None:
    """1*DIGIT up to MAX_LENGTH, in at most 19 digits; else None."""
    if not text.isdigit() or len(text) > 19:
        return None
    size = int(text)
    return size if size <= MAX_LENGTH else None


# -- bodies --------------------------------------------------------------------------------------------------------


class BodyDecoder(ABC):
    """Takes the bytes of a body, gives its content.

    Attributes:
        direct: so many of the next bytes are content for certain: they may be received past the decoder, straight
            into the caller's buffer, and be reported by `took`. 0 if the next byte is framing, or the end is reached.
        received: bytes of content so far.
        expected: bytes that were announced, or None.
        is_done: the end was reached, as the framing has it.
        rest: bytes that came behind the end.
        trailers: the trailer fields, once `is_done`; None if there were none.
    """

    __slots__ = ("direct", "expected", "is_done", "received", "rest", "trailers")

    def __init__(self, direct: int, expected: int | None) -> None:
        self.direct: int = direct
        self.received: int = 0
        self.expected: int | None = expected
        self.is_done: bool = False
        self.rest: bytes = b""
        self.trailers: Headers | None = None

    @abstractmethod
    def took(self, count: int) -> None:
        """`count` bytes of content, at most `direct`, were received past the decoder."""

    @abstractmethod
    def feed(self, data: Data) -> Data:
        """The content in `data`; b"" if it holds none, which is not the end: ask `is_done`. Content that lies in one
        piece is not copied."""

    def eof(self) -> None:
        """The peer ended the stream, and all that it had sent was fed.

        Raises:
            IncompleteBody: the body is not complete.
        """
        if not self.is_done:
            announced = "" if self.expected is None else f" of {self.expected}"
            raise IncompleteBody(
                f"the peer closed the connection inside the body, after {self.received}{announced} bytes of content",
                self.received,
                self.expected,
            )


class LengthDecoder(BodyDecoder):
    """A body of a known length, 0 included."""

    __slots__ = ()

    def __init__(self, length: int) -> None:
        super().__init__(length, length)
        self.is_done = not length

    def took(self, count: int) -> None:
        self.received += count
        self.direct -= count
        if not self.direct:
            self.is_done = True

    def feed(self, data: Data) -> Data:
        left = self.direct
        count = len(data)
        if count > left:
            self.rest += data[left:]
            data = data[:left]
            count = left
        self.took(count)
        return data


class CloseDecoder(BodyDecoder):
    """A body that ends with the connection. Whether it is complete nobody can tell (RFC 9112, 8)."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(MAX_LENGTH, None)

    def took(self, count: int) -> None:
        self.received += count

    def feed(self, data: Data) -> Data:
        self.received += len(data)
        return data

    def eof(self) -> None:
        self.is_done = True
        self.direct = 0


class _At(Enum):
    """What a chunked body's next byte belongs to, outside of a chunk's data."""

    FIRST = 1  # the first chunk's line
    NEXT = 2  # the CRLF behind a chunk's data, and the next chunk's line
    TRAILERS = 3  # trailer fields or the empty line
    DONE = 4


class ChunkedDecoder(BodyDecoder):
    """A chunked body (RFC 9112, 7.1).

    Inside a chunk `direct` is not 0. Outside of one, the next unit (see `_At`) is matched in place if it came whole;
    else its bytes are collected in `_held` until its end comes.
    """

    __slots__ = ("_at", "_extensions_left", "_held", "_max_bytes", "_max_fields")

    def __init__(self, limits: HeadLimits) -> None:
        super().__init__(0, None)
        self._at = _At.FIRST
        self._held = bytearray()
        self._extensions_left = MAX_EXTENSION_BYTES
        self._max_bytes = limits.max_head_bytes
        self._max_fields = limits.max_headers

    def took(self, count: int) -> None:
        self.received += count
        self.direct -= count
        # When it is 0, the state is NEXT: it was set when the chunk began.

    def feed(self, data: Data) -> Data:
        end = len(data)
        if end <= self.direct:
            self.received += end
            self.direct -= end
            return data
        view = memoryview(data)
        parts: list[memoryview] = []
        place = 0
        while place < end:
            size = self.direct
            if size:
                stop = place + size
                if stop > end:
                    stop = end
                parts.append(view[place:stop])
                self.received += stop - place
                self.direct = size - stop + place
                place = stop
            elif self._at is _At.TRAILERS:
                place = self._feed_trailers(view, place)
            elif self._at is _At.DONE:
                self.rest += view[place:]
                break
            else:
                unit = None
                if not self._held:
                    # No further than a line may go: the match keeps 200 bytes for each part of an extension.
                    most = place + 21 + self._extensions_left
                    unit = (_NEXT_CHUNK if self._at is _At.NEXT else _FIRST_CHUNK).match(data, place, most)
                if unit is None:
                    place = self._feed_line(view, place)
                else:
                    place = unit.end()
                    self._begin(unit[1], unit[2])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _begin(self, digits: bytes, extensions: bytes) -> None:
        """A chunk's line has come."""
        if extensions:
            self._extensions_left -= len(extensions)
            if self._extensions_left < 0:
                raise _too_many_extensions()
        size = int(digits, 16)
        if size > MAX_LENGTH:
            raise ProtocolError(f"chunk of {size} bytes after {self.received} bytes of content")
        self.direct = size
        if size:
            self._at = _At.NEXT
        else:
            self._at = _At.TRAILERS
            self._held += b"\r\n"  # the end of the last line: with it, an empty section ends by CRLF CRLF as all do

    def _feed_line(self, view: memoryview, place: int) -> int:
        """Collect a chunk's line that did not come whole, or is wrong. Returns the place behind what was used."""
        held = self._held
        had = len(held)
        skip = 2 if self._at is _At.NEXT else 0
        most = skip + 16 + self._extensions_left + 1  # before the LF: the CRLF of the last chunk, digits, the rest, CR
        held += view[place : place + most + 1 - had]
        if skip and not b"\r\n".startswith(held[:2]):
            raise ProtocolError(f"no CRLF behind a chunk, after {self.received} bytes of content, but {_shown(held)}")
        end = held.find(b"\n", max(had, skip)) + 1
        if not end:
            if len(held) > most:
                raise _too_many_extensions()
            return place + len(held) - had
        line = bytes(held[:end])
        held.clear()
        unit = (_NEXT_CHUNK if skip else _FIRST_CHUNK).fullmatch(line)
        if unit is None:
            raise ProtocolError(f"bad chunk line {_shown(line[skip:])} after {self.received} bytes of content")
        self._begin(unit[1], unit[2])
        return place + end - had

    def _feed_trailers(self, view: memoryview, place: int) -> int:
        """Collect the trailers up to the empty line."""
        held = self._held
        had = len(held)
        held += view[place : place + self._max_bytes + 2 - had]
        end = held.find(b"\r\n\r\n", max(had - 3, 0)) + 4
        if end == 3:
            bare = _BARE_LF.search(held, had)
            if bare is not None:
                raise ProtocolError(f"bare LF at byte {bare.start() - 2} of the trailers: {_shown(held[2:])}")
            if len(held) >= self._max_bytes + 2:
                raise LimitExceeded(f"the trailers are longer than max_head_bytes={self._max_bytes}", "max_head_bytes")
            return place + len(held) - had
        self._finish(bytes(held[2:end]))
        held.clear()
        return place + end - had

    def _finish(self, section: bytes) -> None:
        if section.count(b"\n") - 1 > self._max_fields and not _BARE_LF.search(section):
            raise _too_many(self._max_fields)
        match = _SECTION.fullmatch(section)
        if match is None:
            _explain_fields(section, "the trailers")
        if len(section) > 2:
            trailers = Headers.from_block(match[1])
            for name in list(trailers):
                if name.lower() in FORBIDDEN_TRAILERS:
                    del trailers[name]
            self.trailers = trailers
        self._at = _At.DONE
        self.is_done = True


def _too_many_extensions() -> LimitExceeded:
    return LimitExceeded(f"chunk extensions of more than {MAX_EXTENSION_BYTES} bytes", "max_extension_bytes")


def decoder(framed: Framing, limits: HeadLimits) -> BodyDecoder:
    """The decoder for a body that is framed so. For NONE and TUNNEL it is done at once, and gives all as `rest`."""
    return _DECODERS[framed.kind](framed, limits)


_DECODERS: Final[dict[FramingKind, Callable[[Framing, HeadLimits], BodyDecoder]]] = {
    FramingKind.NONE: lambda framed, limits: LengthDecoder(0),
    FramingKind.LENGTH: lambda framed, limits: LengthDecoder(framed.length or 0),
    FramingKind.CHUNKED: lambda framed, limits: ChunkedDecoder(limits),
    FramingKind.CLOSE: lambda framed, limits: CloseDecoder(),
    FramingKind.TUNNEL: lambda framed, limits: LengthDecoder(0),
}
