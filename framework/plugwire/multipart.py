"""Multipart forms: what `files=` means (RFC 7578; HTML, "multipart/form-data encoding algorithm").

A form is a row of segments: small ones that lie in memory (delimiters, part headers, fields), and the contents of
files, which are opened when their turn comes and read piece by piece. So a form of any size takes the memory of one
piece. Its length is the sum of its segments', and unknown (then it is sent chunked) only if that of a part is. It can
be sent again if every part can.

Two things keep the parts apart, whatever the caller's names and files hold: the boundary is random, and names are
escaped. Names and file names are written as browsers write them, which is what servers know: UTF-8 in quotes, with
`"`, CR and LF as %22, %0D and %0A, and nothing else changed. NUL, which some servers take for the end of a name, is
refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from plugwire.bodies import BytesSource, MemoryBody, SourceTypes, make_source
from plugwire.errors import InvalidHeader, UsageError
from plugwire.forms import form_fields
from plugwire.headers import Headers, HeadersInit
from plugwire.protocols import Body, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugwire.protocols import Call

FilePart: TypeAlias = (
    SourceTypes
    | tuple[str | None, SourceTypes]
    | tuple[str | None, SourceTypes, str | None]
    | tuple[str | None, SourceTypes, str | None, HeadersInit]
)
FileTypes: TypeAlias = Mapping[str, FilePart] | Sequence[tuple[str, FilePart]]

DEFAULT_TYPE: Final = "application/octet-stream"
JOIN_UP_TO: Final = 65536
"""Neighbours in memory are joined up to this size, so that a form of many fields goes out in few pieces."""

_ESCAPES: Final = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_BOUNDARY_PARAMETER: Final = re.compile(r";\s*boundary\s*=\s*(?:\"([^\"]*)\"|([^\s;\"]+))", re.IGNORECASE)


class Part(NamedTuple):
    """A part of a form: its header section with the empty line behind it, and its content. `name` is for errors."""

    name: str
    head: bytes
    content: Source


def make_multipart(data: object, files: Iterable[tuple[Any, Any]], kind: str | None) -> tuple[Source, str]:
    """The source and the content-type that `files=`, with the fields of `data=` before them, means.

    Args:
        data: form fields, or None.
        files: pairs of field names and parts; see `CallOptions`.
        kind: the content-type that the caller has set; its boundary, if it has one, is used.

    Raises:
        UsageError: something of it cannot be a form.
        InvalidHeader: a part's content-type or headers must not be sent.
    """
    parts = [field_part(name, value) for name, value in (form_fields(data) if data is not None else ())]
    parts += [file_part(name, value) for name, value in files]
    boundary, kind = _boundary(kind, parts)
    source = MultipartSource(parts, boundary)
    return (source if source.joined is None else BytesSource(source.joined)), kind


def field_part(name: str | bytes, value: str | bytes) -> Part:
    """A form field: no file name, no content-type."""
    text = _text(name)
    return Part(text, _head(text, None, None), BytesSource(value.encode() if isinstance(value, str) else value))


def file_part(name: object, given: Any) -> Part:
    """A file: content alone, or (filename, content[, content-type[, headers]]).

    A content alone is called as its file or path is, or, if that has no name, as its field, because servers tell by the
    name that it is a file; a filename of None sends the part without one. The content-type is guessed by the name's
    extension.
    """
    field = _text(name)
    filename: object
    kind: object = None
    headers: Any = None
    match given:
        case (filename, content):
            pass
        case (filename, content, kind):
            pass
        case (filename, content, kind, headers):
            pass
        case tuple():
            raise UsageError(f"files=: {field!r}: (filename, content[, content-type[, headers]])")
        case list():
            raise UsageError(f"files=: {field!r} is a list; several files of one name are given as pairs")
        case content:
            filename = _own_name(content) or field
    if content is None:
        raise UsageError(f"files=: {field!r} has no content")
    if not isinstance(filename, (str, type(None))) or not isinstance(kind, (str, type(None))):
        raise UsageError(f"files=: {field!r}: filename and content-type are str or None")
    fields = Headers(headers)
    if "content-disposition" in fields:
        raise UsageError(f"files=: {field!r}: its Content-Disposition is made of its names")
    if kind is not None:
        fields["Content-Type"] = kind
    elif filename is not None:
        fields.add("Content-Type", guessed_type(filename), mode="if_new")
    try:
        source = make_source(content, f"the part {field!r} of files=")
    except UsageError as error:
        raise UsageError(f"files=: {field!r}: {error}") from error
    return Part(field, _head(field, filename, fields), source)


def guessed_type(filename: str) -> str:
    """The content-type that a file's name stands for; what is compressed is that, and not what was compressed."""
    from mimetypes import guess_type

    kind, coding = guess_type("./" + filename)  # a path, and never a URL, whatever the name is
    if coding is not None:
        return "application/gzip" if coding == "gzip" else DEFAULT_TYPE
    return kind or DEFAULT_TYPE


def _own_name(content: object) -> str | None:
    """The last part of a file's name. That of a descriptor is a number, and of some streams "<stdin>"."""
    name: Any = content if hasattr(content, "__fspath__") else getattr(content, "name", None)
    if isinstance(name, bytes) or hasattr(name, "__fspath__"):
        name = os.fsdecode(name)
    if not isinstance(name, str) or (name.startswith("<") and name.endswith(">")):
        return None
    return os.path.basename(name) or None


def _text(name: object) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", "replace")
    if not isinstance(name, str):
        raise UsageError(f"files=: a field's name is a str, not {type(name).__name__}")
    return name


def _head(name: str, filename: str | None, fields: Headers | None) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{_escaped(name)}"'
    if filename is not None:
        disposition += f'; filename="{_escaped(filename)}"'
    head = disposition.encode("utf-8", "surrogateescape") + b"\r\n"  # as the file system has it
    return head + (fields.encoded() if fields else b"") + b"\r\n"


def _escaped(name: str) -> str:
    if "\0" in name:
        raise InvalidHeader(f"the name {name[:40]!r} of a part has a NUL")
    return name.translate(_ESCAPES)


def _boundary(kind: str | None, parts: Iterable[Part]) -> tuple[str, str]:
    """The boundary, and the content-type that says it (RFC 2046, 5.1.1)."""
    from secrets import token_hex

    if kind is None:
        kind = "multipart/form-data"
    elif not kind.lower().startswith("multipart/"):
        raise UsageError(f"files= makes a multipart form, but the Content-Type is {kind[:60]!r}")
    else:
        given = _BOUNDARY_PARAMETER.search(kind)
        if given is not None:
            boundary = given[1] if given[1] is not None else given[2]
            if not _BOUNDARY.fullmatch(boundary):
                raise UsageError(f"the boundary {boundary[:80]!r} cannot be one (RFC 2046, 5.1.1)")
            return boundary, kind
    in_memory = [part.content.content for part in parts if part.content.content]
    boundary = token_hex(16)
    while any(boundary.encode() in content for content in in_memory):
        boundary = token_hex(16)
    return boundary, f"{kind}; boundary={boundary}"


class MultipartSource:
    """The content of a multipart form.

    Attributes:
        joined: all of it, if it lies in memory and is small.
    """

    content = None

    def __init__(self, parts: Iterable[Part], boundary: str) -> None:
        self._segments: list[bytes | Part] = []
        delimiter = f"--{boundary}\r\n".encode()
        for part in parts:
            self._add(delimiter + part.head)
            if part.content.content is not None:
                self._add(part.content.content)
            else:
                self._segments.append(part)
            self._add(b"\r\n")
        self._add(f"--{boundary}--\r\n".encode())
        lengths = [len(one) if isinstance(one, bytes) else one.content.length for one in self._segments]
        self.length = None if None in lengths else sum(cast("list[int]", lengths))
        self.is_replayable = all(isinstance(one, bytes) or one.content.is_replayable for one in self._segments)
        only = self._segments[0] if len(self._segments) == 1 else None
        self.joined = only if isinstance(only, bytes) else None

    def __repr__(self) -> str:
        return f"<multipart form, {self.length if self.length is not None else 'unknown number of'} bytes>"

    def _add(self, data: bytes) -> None:
        last = self._segments[-1] if self._segments else None
        if isinstance(last, bytes) and len(last) + len(data) <= JOIN_UP_TO:
            self._segments[-1] = last + data
        else:
            self._segments.append(data)

    def open(self, call: Call) -> Body:
        return _MultipartBody(self._segments, self.length, call)


class _MultipartBody(Body):
    """One segment after the other; a part's content is open only while its turn lasts."""

    def __init__(self, segments: Iterable[bytes | Part], length: int | None, call: Call) -> None:
        self._segments: Iterator[bytes | Part] = iter(segments)
        self._call = call
        self._part: Part | None = None
        self._body: Body | None = None
        self._done = 0
        self.length = length

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while True:
            if self._body is None:
                segment = next(self._segments, None)
                if segment is None:
                    return b""
                self._done = 0
                if isinstance(segment, bytes):
                    self._part, self._body = None, MemoryBody(segment)
                else:
                    self._part, self._body = segment, segment.content.open(self._call)
            data = await self._body.receive(max_bytes)
            self._done += len(data)
            if self._part is not None:
                _check_length(self._part, self._done, is_over=not data)
            if data:
                return data
            await self._end()

    async def _end(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            await body.close()

    async def close(self) -> None:
        self._segments = iter(())
        await self._end()


def _check_length(part: Part, done: int, *, is_over: bool) -> None:
    """A part is as long as was announced, or its neighbours would be read as its content."""
    length = part.content.length
    if length is not None and (done > length or (is_over and done < length)):
        so_far = "ended after" if is_over else "gave"
        raise UsageError(f"the part {part.name!r} {so_far} {done} bytes; {length} were announced")
