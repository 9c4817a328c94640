"""URLs: absolute, relative, below a prefix, with parts replaced.

Whatever the text: a URL or `InvalidURL`; what ada (the parser of browsers) says, but for what we refuse and it repairs;
the same by every road; and it comes back from its `href`.

An input: what to do, and the texts, as UTF-8.
"""

from __future__ import annotations

import pickle

from fuzz.examples import Choices, examples
from plugwire.errors import InvalidURL
from plugwire.url import URL, parse, parse_by_standard
from test_url_properties import HOST_PIECES, TEXT_PIECES, hold_against_ada

WORDS = tuple(
    dict.fromkeys(
        piece.encode() for piece in [*HOST_PIECES, *TEXT_PIECES, "http://", "https://h/", "//", "mem://", ":80", "u:p@"]
    )
)
BASES = ("http://u:p@h:81/a/b/c?q#f", "mem://H", "mem://H/x/y?z", "https://h/", "ws://[::1]//a/../b//?")
PREFIXES = ("https://h/v1", "https://h/v1/", "http://h", "mem://H", "mem://H/x")
PARTS = ("path", "query", "fragment", "username", "password", "host", "scheme")


def seeds() -> list[bytes]:
    texts = [text.encode("utf-8", "replace") for text in examples("test_url", str)]
    found = [bytes((0,)) + text for text in texts]
    found += [bytes((1 + number % 5,)) + text for number, text in enumerate(texts)]
    found += [bytes((6 + number % 5,)) + text for number, text in enumerate(texts)]
    found += [bytes((11 + number % 7,)) + text for number, text in enumerate(texts)]
    return found


def check(data: bytes) -> None:
    choices = Choices(data)
    what = choices.number() % 18
    text = choices.rest().decode("utf-8", "replace")
    if what == 0:
        _absolute(text)
    elif what <= 5:
        hold_against_ada(text, BASES[what - 1])
    elif what <= 10:
        _below(text, URL(PREFIXES[what - 6]))
    else:
        _replaced(text, PARTS[what - 11])


def _absolute(text: str) -> None:
    hold_against_ada(text, None)
    try:
        url = parse_by_standard(text)
    except InvalidURL:
        try:
            short = parse(text)
        except InvalidURL:
            return
        raise AssertionError(f"only the short road takes it, to {short.href}") from None
    _equal(parse(text), url)
    _equal(pickle.loads(pickle.dumps(url)), url)
    assert url.without_userinfo().origin == url.origin
    assert "\r" not in url.href and "\n" not in url.href and " " not in url.href
    assert url.href.isascii() and url.href.isprintable()
    if len(url.password) > 5 and url.href.count(url._password) == 1:
        assert url._password not in str(url) and url._password not in repr(url)


def _below(text: str, base: URL) -> None:
    try:
        url = base.prefix(text)
    except InvalidURL:
        return
    _equal(parse(url.href), url)
    if url.origin != base.origin:
        _equal(parse(text), url)  # it was absolute
    elif not text.partition(":")[2].startswith("//") and not text.lower().startswith(("http:", "https:")):
        assert url.path == base.path or url.path.startswith(base.path.rstrip("/") + "/")


def _replaced(text: str, part: str) -> None:
    for base in BASES[:2]:
        before = URL(base)
        try:
            url = before.copy_with(**{part: text})  # type: ignore[arg-type]
        except InvalidURL:
            continue
        _equal(parse(url.href), url)
        _equal(parse_by_standard(url.href), url)
        for name in ("path", "query", "fragment", "username", "password", "host"):
            if name != part and part != "scheme":
                assert getattr(url, name) == getattr(before, name), f"{part} went over into {name}"
        if part in ("username", "password"):
            assert getattr(url, part) == text


def _equal(one: URL, other: URL) -> None:
    assert all(getattr(one, name) == getattr(other, name) for name in URL.__slots__)
