"""Header fields, and what is made of their values: lists, numbers, dates, links, charsets, cookies.

Fields that a caller gives are refused as `InvalidHeader` or go out as one line each. A block that the wire has taken
says the same by each road of looking it up. No value that a peer may send makes a helper raise, or keeps memory.

An input: what to do, and fields or a value as latin-1.
"""

from __future__ import annotations

import codecs
import encodings
import re
from datetime import UTC, datetime
from typing import Any

from fuzz.examples import Choices, examples
from plugwire.errors import InvalidHeader, UsageError
from plugwire.headers import Headers
from plugwire.messages import AsyncResponse
from plugwire_transports.http11_wire import _SECTION

WORDS = (
    b"\r\n", b": ", b",", b'"', b"\\", b";", b"<", b">", b"; rel=", b"next", b"charset=", b"utf-8", b"utf-16",
    b"text/html", b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994",
    b"Set-Cookie", b"cookie", b"; path=/", b"base64", b"idna", b"Link", b"Content-Type", b"1" * 30,
    b"\xef\xbb\xbf", b"\xff\xfe",
)  # fmt: skip

NAMES = ("content-type", "link", "set-cookie", "date", "x", "cookie", "content-length")
MODES: Any = ("append", "replace", "if_new", "coalesce")


def seeds() -> list[bytes]:
    values = [text.encode("utf-8", "replace") for text in examples("test_headers", str)]
    values += [text.encode("utf-8", "replace") for text in examples("test_responses", str)]
    lines = [
        b"A: 1\r\nb:2\r\na:\t3 \r\n",
        b"Set-Cookie: a=1, b\r\nset-cookie: c\r\n",
        b"X:\r\n",
        b"x-a: b:c\r\nA: x-a: d\r\n",
    ]
    found = [bytes((0,)) + line for line in lines]
    found += [bytes((1 + number % 5,)) + value for number, value in enumerate(values)]
    found += [bytes((2,)) + value for value in values]
    found += [
        b"\2text/html; charset=iso-8859-1\0h\xe9", b'\2a/b; charset="utf-16"\0\xff\xfea\0', b"\2a; charset=zip\0x",
        b'\2</a>; rel="next prev"; title="a\\"b", <b>; rel=up', b"\2a=b; path=/, c=d",
        b"\3Sun, 06 Nov 1994 08:49:37 GMT",
        b"\3Sunday, 06-Nov-94 08:49:37 GMT", b"\3Sun Nov  6 08:49:60 1994", b"\4a, \"b,c\" , , d\\,",
        b"\5Na\0me\0value\0x\0y",
    ]  # fmt: skip
    return found


def check(data: bytes) -> None:
    choices = Choices(data)
    what = choices.number() % 6
    octets = choices.rest()
    (_block, _block, _response, _date, _list, _given)[what](octets)


def _block(octets: bytes) -> None:
    match = _SECTION.match(octets + b"\r\n")
    if match is None:
        return
    block = match[1]
    pairs: list[tuple[str, str]] = []
    for line in block.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        pairs.append((name, value.strip(" \t")))
    lazy, listed, again = Headers.from_block(block), Headers(pairs), Headers.from_block(block)
    again.items().__iter__()
    list(again)
    assert lazy.encoded() == block
    assert len(lazy) == len(pairs)
    for name in {name for name, _ in pairs} | {"x", "content-length"}:
        values = [value for other, value in pairs if other.lower() == name.lower()]
        for headers in (lazy, listed, again):
            assert headers.get_list(name) == values
            assert (name in headers) == bool(values)
            if name.lower() == "set-cookie" and len(values) > 1:
                continue
            joined = ("; " if name.lower() == "cookie" else ", ").join(values)
            assert headers.get(name) == (joined if values else None)
    assert list(lazy.items()) == list(listed.items()) == list(again.items()) == pairs
    assert lazy == listed
    assert Headers.from_block(listed.encoded()) == lazy


def _response(octets: bytes) -> None:
    value, _, content = octets.partition(b"\0")
    text = re.sub(r"[^\t\x20-\x7e\x80-\xff]", "", value.decode("latin-1")).strip(" \t")
    names = ("content-type", "link", "set-cookie")
    response = AsyncResponse(200, headers=[(name, text) for name in names], content=content)
    known = len(encodings._cache)  # type: ignore[attr-defined]
    assert codecs.lookup(response.encoding)
    assert isinstance(response.text, str)
    for url_or_relation, link in response.links.items():
        assert isinstance(url_or_relation, str)
        assert "url" in link
        assert all(isinstance(part, str) for part in link.values())
    assert all(isinstance(one, str) and one for one in response.cookies)
    for name in NAMES:
        response.headers.get_int(name)
        response.headers.get_date(name)
    # Python remembers every charset that it was asked for, those that it does not know too, for ever.
    assert len(encodings._cache) <= max(known, 400)  # type: ignore[attr-defined]


def _date(octets: bytes) -> None:
    text = octets.decode("latin-1")
    try:
        headers = Headers([("date", text)])
    except InvalidHeader:
        return
    date = headers.get_date("date")
    if date is None:
        return
    assert date.tzinfo is UTC
    written = date.strftime("%d %b ") + f"{date.year:04} " + date.strftime("%H:%M:%S")
    stripped = headers["date"]
    if stripped[3] == ",":
        assert stripped[5:25] == written or stripped[22:25] == ":60"
    assert Headers({"date": f"Mon, {written} GMT"}).get_date("date") == date
    assert date <= datetime.max.replace(tzinfo=UTC)


def _list(octets: bytes) -> None:
    lines = [line.decode("latin-1") for line in octets.split(b"\0")]
    try:
        headers = Headers([("x", line) for line in lines])
    except InvalidHeader:
        return
    elements = headers.get_list("x", split=True)
    assert all(element and element == element.strip(" \t") for element in elements)
    # Nothing is lost but commas and white space, and what has no quotes is what split gives.
    if '"' not in "".join(lines):
        assert elements == [one for line in lines for part in line.split(",") if (one := part.strip(" \t"))]
    else:
        skip = str.maketrans("", "", ", \t")
        assert "".join(elements).translate(skip) == "".join(lines).translate(skip)
    number = headers.get_int("x")
    assert number is None or len(lines) == 1


def _given(octets: bytes) -> None:
    """What a caller does, right or wrong."""
    texts = [text.decode("utf-8", "surrogateescape") for text in octets.split(b"\0")]
    pairs = list(zip(texts[::2], texts[1::2], strict=False))
    headers = Headers({"Host": "h", "x": "1"})
    for number, (name, value) in enumerate(pairs):
        before = headers.encoded()
        try:
            headers.add(name, value, mode=MODES[(len(name) + number) % 4])
        except (InvalidHeader, UsageError):
            assert headers.encoded() == before
            continue
        assert value.strip(" \t") in ", ".join(headers.get_list(name)) or MODES[(len(name) + number) % 4] != "append"
        encoded = headers.encoded()
        assert encoded.count(b"\r\n") == encoded.count(b"\n") == encoded.count(b"\r") == len(headers)
        assert Headers.from_block(encoded) == headers
        assert _SECTION.fullmatch(encoded + b"\r\n")
