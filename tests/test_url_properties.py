"""What must hold for every URL: it means what it means to a browser (here ada), whichever road parsed it."""

from __future__ import annotations

import ada_url
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugwire.errors import InvalidURL
from plugwire.url import SOCKET_SCHEMES, URL, parse, parse_by_standard

MORE = settings(max_examples=5 * settings().max_examples)

# Why we may refuse what a browser takes. The last has names that break the bidi rule in a label that is not itself
# right-to-left, and characters that are younger than this Python's Unicode.
STRICTER = (
    "a backslash",
    "white space or a control character",
    "no scheme such as 'https://', or no '//' after it",
    "no host, or too many slashes before it",
    "more than one '@' before the path",
    "a file URL has no peer to connect to",
    "the host is not a valid internationalised name",
)

SCHEMES = ["http", "https", "HTTP", "Https", "ws", "ftp", "mem", "http+unix", "a.b-c"]
HOST_PIECES = [
    "a", "EX", "example", "com", ".", "..", "-", "_", "~", "*", "xn--", "XN--", "xn--a", "xn--fa-hia", "xn--ls8h",
    "%41", "%2e", "%00", "%C3%BC", "%FF", "%zz", "%25", "ß", "ü", "☃", "。", "\uff10", "1", "0", "0x", "7f", "255",
    "256", "08", "127.0.0.1", "1.2.3", "[::1]", "[", "]", "1::2", "::ffff:1.2.3.4", "א", "ب", "\u200d", "\u200c", "क्",
    "\xad", "^", "|", "<", " ", "e\u0301", "Å", "İ", "ẞ", "😀", "\u0301", "99999999999", "4294967295", "\x7f", "\x01",
]  # fmt: skip
TEXT_PIECES = [
    "/", "//", ".", "..", "%2e", "%2E", "a", "Z", "0", "é", "%", "%41", " ", '"', "<", ">", "^", "`", "{", "}", "|",
    "[", "]", "'", "&", "=", "+", "\\", "\t", "\x00", "\x1f", "\x7f", "\x80", "😀", ":", "@", ";", "~", "-", "!", "$",
    "(", ")", "*", ",", "_",
]  # fmt: skip


def pieces(of: list[str], most: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(of), max_size=most).map("".join)


def maybe(before: str, strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.just("") | strategy.map(lambda text: before + text)


texts = st.text(st.characters(exclude_categories=["Cs"]))
userinfos = st.sampled_from(
    ["", "", "", "u@", "u:p@", ":p@", ":@", "@", "a b:é@", "u:p:q@", "a@b@", "%41;=@", "[]^|`'@"]
)
addresses = st.integers(0, 2**32 + 5).flatmap(
    lambda number: st.sampled_from([str(number), hex(number), f"0{number:o}", f"{number >> 24}.{number & 0xFFFFFF}"])
)
pieces_of_ipv6 = st.lists(st.sampled_from(["0", "0", "1", "ab", "FFFF", "0000", "", "1.2.3.4"]), min_size=1, max_size=9)
hosts = (
    st.sampled_from(["h", "example.com"])
    | pieces(HOST_PIECES, 5)
    | addresses
    | pieces_of_ipv6.map(lambda words: f"[{':'.join(words)}]")
    | st.text(max_size=4)
)
ports = st.sampled_from(["", "", "", ":", ":80", ":443", ":0080", ":0", ":65535", ":65536", ":a", ":8080", ":21"])
authorities = st.builds("{}{}{}".format, userinfos, hosts, ports)
soups = pieces(TEXT_PIECES, 6)
paths = st.just("") | soups.map(lambda text: "/" + text)
tails = st.builds("{}{}{}".format, paths, maybe("?", soups), maybe("#", soups))
absolutes = st.builds(
    "{}{}{}{}".format, st.sampled_from(SCHEMES), st.sampled_from(["://"] * 9 + [":", ":/", ":///"]), authorities, tails
)
references = st.one_of(
    tails, st.builds("{}{}".format, soups, tails), st.builds("//{}{}".format, authorities, tails), absolutes, st.text()
)
bases = st.sampled_from(
    ["http://u:p@h:81/a/b/c?q#f", "mem://H", "mem://H/x/y?z", "https://h/", "ws://[::1]//a/../b//?"]
)

plain_texts = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https"]),
    pieces(["a", "b9", "-", ".", "xn--", "0", "0x1", "127.0.0.1", "255", "256"], 4),
    st.sampled_from(["", "", ":1", ":80", ":443", ":65535", ":65536", ":99999"]),
    st.builds(
        "{}{}{}".format,
        pieces(["/", "/a", "/.", "/..", "/%2e", "/%2E%2e", "%41", "~", "'", "[", "...", "é"], 5),
        maybe("?", pieces(["a", "=", "&", "[", "'", "%", "?", "/", "|", "^", '"'], 4)),
        maybe("#", pieces(["a", "=", "[", "'", "`", "#", "/"], 4)),
    ),
)


def ours(text: str, base: str | None = None) -> URL | str:
    try:
        return URL(text) if base is None else URL(base).join(text)
    except InvalidURL as error:
        return str(error)


def hold_against_ada(text: str, base: str | None) -> None:
    url = ours(text, base)
    try:
        reference = ada_url.URL(text, base)
    except ValueError:
        assert isinstance(url, str), f"only we take it, as {url.href}"
        return
    if isinstance(url, str):
        assert url.startswith(STRICTER), f"we refuse {reference.href}: {url}"
        return
    assert url.href == reference.href
    assert url.scheme + ":" == reference.protocol
    assert url.authority == ("localhost" if url.scheme in SOCKET_SCHEMES else reference.host)
    assert url.host == reference.hostname.strip("[]")
    assert ("" if url.explicit_port is None else str(url.explicit_port)) == reference.port
    assert url.path == reference.pathname
    assert (f"?{url.query}" if url.query else "") == reference.search
    assert (f"#{url.fragment}" if url.fragment else "") == reference.hash
    if url.is_special:
        assert str(url.origin) == reference.origin
    again = parse_by_standard(url.href)
    assert all(getattr(again, name) == getattr(url, name) for name in URL.__slots__)


@MORE
@given(absolutes | plain_texts)
def test_urls_mean_what_they_mean_to_a_browser(text: str) -> None:
    hold_against_ada(text, None)


@MORE
@given(bases, references)
def test_references_mean_what_they_mean_to_a_browser(base: str, text: str) -> None:
    hold_against_ada(text, base)


@given(texts)
def test_any_text_is_a_url_or_refused(text: str) -> None:
    hold_against_ada(text, None)
    hold_against_ada("http://" + text, None)
    hold_against_ada("http://h/" + text, None)


@MORE
@given(plain_texts)
def test_the_short_road_leads_where_the_long_one_does(text: str) -> None:
    try:
        long = parse_by_standard(text)
    except InvalidURL:
        with pytest.raises(InvalidURL):
            parse(text)
        return
    short = parse(text)
    assert all(getattr(short, name) == getattr(long, name) for name in URL.__slots__)


PLACES = [
    "{}ttp://h/", "http://{}@h/", "http://u:{}@h/", "http://a{}b/", "http://h:{}/", "http://h/{}", "http://h/a{}b?c",
    "http://h/?{}x", "http://h/#{}x", "mem://a{}b/", "mem://h/a{}b", "mem://h/?{}x", "mem://h/#{}x",
]  # fmt: skip


@pytest.mark.parametrize("character", [chr(code) for code in range(0x80)])
def test_every_ascii_character_in_every_place(character: str) -> None:
    for pattern in PLACES:
        hold_against_ada(pattern.format(character), None)


@given(st.text(), st.text(), st.text())
def test_parts_put_in_stay_inside_their_part(path: str, query: str, user: str) -> None:
    base = URL("https://h:81/x#f")
    try:
        url = base.copy_with(path=path, query=query, username=user, password=user)
    except InvalidURL:
        return
    assert URL(url.href) == url
    assert (url.origin, url.fragment) == (base.origin, "f")
    assert (url.username, url.password) == (user, user)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_params_are_read_back_as_written(params: dict[str, str]) -> None:
    url = URL("http://h/").with_params(params)
    assert URL(url.href) == url
    assert list(ada_url.URLSearchParams(url.query or "").items()) == list(params.items())


@given(references)
def test_a_prefix_is_never_left(reference: str) -> None:
    base = URL("https://h:81/v1/x")
    if "://" in reference:
        return
    try:
        url = base.prefix(reference)
    except InvalidURL:
        return
    assert url.origin == base.origin
    assert url.path == "/v1/x" or url.path.startswith("/v1/x/")
