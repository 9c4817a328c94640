"""The decoders of items: events, lines of JSON, parts.

Whatever comes, and however it is cut, gives the same items and then the same error, which is plugwire's, and no item is
larger than allowed. Events are those of the standard's own algorithm, lines those of `json.loads`; of parts, what was
found and is written again is found again.

An input: which decoder, how it is cut, and the content.
"""

from __future__ import annotations

import json
from typing import Any

from fuzz.examples import Choices, examples
from plugwire.decoders import NDJSON, MultipartMixed, ServerSentEvents
from plugwire.errors import DecodingError, LimitExceeded
from test_decoders import events_of

WORDS = (
    b"\r\n", b"\n\n", b"\r", b"data:", b"id: 1", b"event: x", b"retry: 5", b": ", b"\xef\xbb\xbf", b"--B", b"--B--",
    b"\r\n--B\r\n", b"\r\n\r\n", b"A: 1", b'{"a": 1}', b"[1]", b"null", b" \t",
)  # fmt: skip

LIMIT = 40


def seeds() -> list[bytes]:
    found = [content for content in examples("test_decoders", bytes) if len(content) < 300]
    return [bytes((which, step)) + content for content in found for which in range(3) for step in (1, 5)]


def check(data: bytes) -> None:
    choices = Choices(data)
    which, step = choices.number() % 3, choices.number() % 7 + 1
    content = choices.rest()
    (_events, _lines, _parts)[which](content, step)


def _outcome(decoder: Any, pieces: list[bytes]) -> tuple[list[Any], str | None]:
    items: list[Any] = []
    try:
        for piece in pieces:
            items.extend(decoder.feed(piece))
        items.extend(decoder.end())
    except (DecodingError, LimitExceeded) as error:
        return items, str(error)
    return items, None


def _checked(make: Any, content: bytes, step: int) -> tuple[list[Any], str | None]:
    pieces = [content[place : place + step] for place in range(0, len(content), step)]
    whole = _outcome(make(), [content])
    assert _outcome(make(), pieces) == whole
    return whole


def _events(content: bytes, step: int) -> None:
    events, error = _checked(ServerSentEvents, content, step)
    assert error is None
    short = [event if event.retry is None or event.retry < 10**12 else None for event in events]
    for found, event in zip(short, events_of(content), strict=True):
        assert found is None or found == event
    few, _ = _checked(lambda: ServerSentEvents(max_event_bytes=LIMIT), content, step)
    assert few == events[: len(few)]


def _lines(content: bytes, step: int) -> None:
    values, error = _checked(lambda: NDJSON(max_line_bytes=LIMIT), content, step)
    expected: list[Any] = []
    for line in content.split(b"\n"):
        if len(line) > LIMIT:
            assert error is not None
            break
        if line.strip(b" \t\r"):
            try:
                expected.append(json.loads(line))
            except (ValueError, RecursionError):
                assert error is not None
                break
    else:
        assert error is None
    assert repr(values) == repr(expected)  # NaN is not equal to itself


def _parts(content: bytes, step: int) -> None:
    kind = "multipart/mixed; boundary=B"
    parts, _ = _checked(lambda: MultipartMixed(kind, max_part_bytes=LIMIT), content, step)
    written = b"".join(b"--B\r\n%b\r\n%b\r\n" % (part.headers.encoded(), part.content) for part in parts)
    assert all(len(part.content) <= LIMIT for part in parts)
    assert _outcome(MultipartMixed(kind), [written + b"--B--"]) == (parts, None)
