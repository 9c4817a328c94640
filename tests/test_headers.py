"""Headers: what goes in, what is found, what is shared, what is shown."""

from __future__ import annotations

import copy
import enum
import pickle
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plugwire.errors import InvalidHeader, UsageError
from plugwire.headers import FieldNames, Headers

TCHAR = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VALUE_CHARS = "\t" + "".join(map(chr, range(0x20, 0x7F))) + "".join(map(chr, range(0x80, 0x100)))

names = st.text(TCHAR, min_size=1, max_size=8)
few_names = st.sampled_from(["a", "A", "xa", "x-a", "X-A", "b", "Set-Cookie", "set-cookie", "cookie", "a-"])
values = st.text(VALUE_CHARS, max_size=12)
trimmed = values.map(lambda value: value.strip(" \t"))
fields = st.lists(st.tuples(few_names | names, trimmed), max_size=8)


def as_block(pairs: list[tuple[str, str]], before: str = " ", after: str = "") -> bytes:
    return "".join(f"{name}:{before}{value}{after}\r\n" for name, value in pairs).encode("latin-1")


def joined(name: str, found: list[str]) -> str:
    return ("; " if name.lower() == "cookie" else ", ").join(found)


def distinct(pairs: list[tuple[str, str]]) -> list[str]:
    first: dict[str, str] = {}
    for name, _ in pairs:
        first.setdefault(name.lower(), name)
    return list(first.values())


def check_against(headers: Headers, model: list[tuple[str, str]], asked: list[str]) -> None:
    """Everything that can be asked gives what the list of pairs gives."""
    for name in asked:
        expected = [value for other, value in model if other.lower() == name.lower()]
        assert (name in headers) == bool(expected)
        assert (name.encode("latin-1") in headers) == bool(expected)
        assert headers.get_list(name) == expected
        if not expected:
            assert headers.get(name) is None
            assert headers.get(name, "other") == "other"
            with pytest.raises(KeyError):
                headers[name]
        elif len(expected) > 1 and name.lower() == "set-cookie":
            with pytest.raises(UsageError):
                headers[name]
        else:
            assert headers[name] == headers.get(name) == joined(name, expected)
    assert len(headers) == len(model)
    assert bool(headers) == bool(model)
    assert list(headers.items()) == model
    assert list(headers.values()) == [value for _, value in model]
    assert list(headers) == list(headers.keys()) == distinct(model)
    assert len(headers.keys()) == len(distinct(model))


# -- against a list of pairs ---------------------------------------------------------------------------------------


class HeadersAgainstPairs(RuleBasedStateMachine):
    """Two Headers that share whenever they can, each beside a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.headers = [Headers(), Headers()]
        self.models: list[list[tuple[str, str]]] = [[], []]

    which = st.integers(0, 1)

    @rule(which=which, name=few_names, value=values)
    def set(self, which: int, name: str, value: str) -> None:
        self.headers[which][name] = value
        self.models[which] = self._replaced(self.models[which], [(name, value.strip(" \t"))])

    @rule(which=which, name=few_names, value=values, mode=st.sampled_from(["append", "replace", "if_new", "coalesce"]))
    def add(self, which: int, name: str, value: str, mode: Any) -> None:
        headers, model = self.headers[which], self.models[which]
        value = value.strip(" \t")
        old = [other for key, other in model if key.lower() == name.lower()]
        if mode == "coalesce" and old and name.lower() == "set-cookie":
            with pytest.raises(UsageError):
                headers.add(name, value, mode)
            return
        headers.add(name, value, mode)
        if mode == "append" or (mode == "if_new" and not old):
            self.models[which] = [*model, (name, value)]
        elif mode == "replace":
            self.models[which] = self._replaced(model, [(name, value)])
        elif mode == "coalesce":
            self.models[which] = self._replaced(model, [(name, joined(name, [one for one in (*old, value) if one]))])

    @rule(which=which, name=few_names)
    def delete(self, which: int, name: str) -> None:
        if any(key.lower() == name.lower() for key, _ in self.models[which]):
            del self.headers[which][name]
        else:
            with pytest.raises(KeyError):
                del self.headers[which][name]
        self.models[which] = [line for line in self.models[which] if line[0].lower() != name.lower()]

    @rule(which=which, name=few_names, value=trimmed)
    def prepend(self, which: int, name: str, value: str) -> None:
        self.headers[which].prepend(name, value)
        self.models[which] = [(name, value), *self.models[which]]

    @rule(which=which, pairs=fields)
    def update(self, which: int, pairs: list[tuple[str, str]]) -> None:
        self.headers[which].update(pairs)
        self.models[which] = self._replaced(self.models[which], pairs)

    @rule(which=which, pairs=fields)
    def from_block(self, which: int, pairs: list[tuple[str, str]]) -> None:
        self.headers[which] = Headers.from_block(as_block(pairs))
        self.models[which] = list(pairs)

    @rule(which=which)
    def copy(self, which: int) -> None:
        self.headers[1 - which] = self.headers[which].copy()
        self.models[1 - which] = list(self.models[which])

    @rule(which=which)
    def over(self, which: int) -> None:
        own, base = self.models[which], self.models[1 - which]
        taken = {name.lower() for name, _ in own}
        self.headers[which] = self.headers[which].over(self.headers[1 - which])
        self.models[which] = [line for line in base if line[0].lower() not in taken] + own

    @rule(which=which)
    def clear(self, which: int) -> None:
        self.headers[which].clear()
        self.models[which] = []

    @rule(which=which)
    def encode(self, which: int) -> None:
        headers = self.headers[which]
        assert headers.encoded() is headers.encoded()
        assert headers.encoded() == as_block(self.models[which])

    @rule(which=which)
    def ask(self, which: int) -> None:
        asked = ["a", "A", "x-a", "set-cookie", "Cookie", "nothing", "", ":", "a:", "\u212a"]
        check_against(self.headers[which], self.models[which], [name for name in asked if name.isascii()])
        assert "\u212a" not in self.headers[which]

    @invariant()
    def names_are_found(self) -> None:
        for headers, model in zip(self.headers, self.models, strict=True):
            for name in ("a", "x-a", "set-cookie"):
                assert (name in headers) == any(name == other.lower() for other, _ in model)

    @staticmethod
    def _replaced(old: list[tuple[str, str]], new: list[tuple[str, str]]) -> list[tuple[str, str]]:
        out: list[tuple[str, str]] = []
        done: set[str] = set()
        for line in old:
            key = line[0].lower()
            group = [other for other in new if other[0].lower() == key]
            if not group:
                out.append(line)
            elif key not in done:
                done.add(key)
                out += group
        return out + [line for line in new if line[0].lower() not in done]


TestHeadersAgainstPairs = HeadersAgainstPairs.TestCase


@given(pairs=fields, before=st.sampled_from(["", " ", "\t", " \t "]), after=st.sampled_from(["", " ", "\t "]))
def test_look_ups_in_a_block_equal_a_naive_parse(pairs: list[tuple[str, str]], before: str, after: str) -> None:
    block = as_block(pairs, before, after)
    asked = [name.swapcase() for name, _ in pairs] + ["a", "-a", "xa", "cookie", "Set-Cookie", "", ":", "a:", "\n"]
    check_against(Headers.from_block(block), pairs, asked)
    # the values are asked before any list is there, and after
    headers = Headers.from_block(block)
    list(headers)
    check_against(headers, pairs, asked)
    assert headers.encoded() == block
    assert headers == Headers(pairs) == Headers.from_pairs(list(pairs))


@given(pairs=fields, wanted=st.lists(few_names | names, min_size=1, max_size=3))
def test_names_that_are_looked_for_at_once_are_those_that_are_found(
    pairs: list[tuple[str, str]], wanted: list[str]
) -> None:
    here = {name.lower() for name, _ in pairs}
    expected = any(name.lower() in here for name in wanted)
    look = FieldNames(wanted)
    as_list, as_lines = Headers.from_block(as_block(pairs)), Headers.from_pairs(list(pairs))
    assert list(as_list) == distinct(pairs)
    assert [look.any_in(headers) for headers in (Headers.from_block(as_block(pairs)), as_list, as_lines)] == [
        expected
    ] * 3


def test_names_in_a_block_that_end_or_begin_like_others() -> None:
    headers = Headers.from_block(b"X-Host: 1\r\nHost: 2\r\nHost-X: 3\r\nA: Host: 4\r\nB:\r\nC: \t \r\n")
    assert headers["host"] == "2"
    assert headers["x-host"] == "1"
    assert headers["host-x"] == "3"
    assert headers["a"] == "Host: 4"
    assert headers["b"] == headers["c"] == ""
    assert "ost" not in headers
    assert "a: host" not in headers
    assert headers.get("A: Host") is None


def test_headers_are_a_mutable_mapping() -> None:
    headers = Headers({"a": "1"})
    assert isinstance(headers, MutableMapping)
    assert headers.setdefault("A", "2") == "1"
    assert headers.setdefault("b", "2") == "2"
    assert headers.pop("B") == "2"
    assert headers.pop("b", None) is None
    assert headers.popitem() == ("a", "1")
    assert not headers
    with pytest.raises(TypeError):
        hash(headers)


def test_views_know_what_they_hold() -> None:
    headers = Headers([("a", "1"), ("A", "2")])
    assert ("a", "2") in headers.items()
    assert ("a", "3") not in headers.items()
    assert "a" not in headers.items()
    assert "2" in headers.values()
    assert "A" in headers.keys()  # noqa: SIM118
    assert len(headers.items()) == len(headers.values()) == 2
    assert len(headers.keys()) == 1


def test_a_look_up_by_something_else_is_a_type_error() -> None:
    for headers in (Headers({"a": "1"}), Headers.from_block(b"a: 1\r\n")):
        assert 5 not in headers
        with pytest.raises(TypeError):
            headers[5]  # type: ignore[index]


# -- what goes in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "init",
    [
        {"A": "1", "B": "2"},
        {b"A": b"1", b"B": b"2"},
        {"A": b"1", "B": "2"},
        [("A", "1"), (b"B", b"2")],
        (pair for pair in [("A", "1"), ["B", "2"]]),
        Headers({"A": "1", "B": "2"}),
    ],
)
def test_headers_are_made_from(init: Any) -> None:
    assert list(Headers(init).items()) == [("A", "1"), ("B", "2")]


@pytest.mark.parametrize("init", ["a: b", b"a: b", ["ab"], [b"ab"], [("a",)], [("a", "b", "c")], 5, [5], {"a": ["b"]}])
def test_headers_are_not_made_from(init: Any) -> None:
    with pytest.raises(InvalidHeader):
        Headers(init)


BAD_NAMES = [
    "",
    " ",
    "a b",
    "a:",
    ":a",
    "a\r\n",
    "a\n",
    "a\0",
    "\x7f",
    "é",
    "\uff41",
    "a\t",
    " a",
    '"a"',
    "a,b",
    "a/b",
    5,
    None,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_no_tokens_are_refused_everywhere(name: Any) -> None:
    headers = Headers({"a": "1"})
    for put in putters(headers):
        with pytest.raises(InvalidHeader):
            put(name, "x")
    assert list(headers.items()) == [("a", "1")]


BAD_VALUES = ["a\r\nb: c", "a\nb", "a\rb", "a\0", "\x01", "\x7f", "\x0b", "x\n", "\r\n", "☃", 5, None, ["a"], ("a",)]


@pytest.mark.parametrize("value", BAD_VALUES)
def test_values_that_would_break_out_are_refused_everywhere(value: Any) -> None:
    headers = Headers({"a": "1"})
    for put in putters(headers):
        with pytest.raises(InvalidHeader, match="x-name"):
            put("x-name", value)
    assert list(headers.items()) == [("a", "1")]


def putters(headers: Headers) -> list[Any]:
    def by_mode(mode: Any) -> Any:
        return lambda name, value: headers.add(name, value, mode)

    return [
        headers.__setitem__,
        headers.add,
        by_mode("replace"),
        by_mode("if_new"),
        by_mode("coalesce"),
        headers.prepend,
        lambda name, value: headers.update({name: value}),
        lambda name, value: headers.update([(name, value)]),
        lambda name, value: Headers([(name, value)]),
        lambda name, value: Headers({"ok": "1", name: value}),
    ]


def test_setdefault_refuses_too() -> None:
    for name, value in (("a b", "c"), ("a", "b\n")):
        with pytest.raises(InvalidHeader):
            Headers().setdefault(name, value)


def test_a_refused_value_is_not_in_the_message() -> None:
    with pytest.raises(InvalidHeader) as caught:
        Headers({"Authorization": "Bearer s3cret\n"})
    assert "s3cret" not in str(caught.value)
    assert "'\\n' at position 13" in str(caught.value)


def test_a_value_outside_latin_1_comes_with_a_hint() -> None:
    with pytest.raises(InvalidHeader, match="bytes"):
        Headers({"a": "☃"})
    assert Headers({"a": "☃".encode()}).encoded() == b"a: \xe2\x98\x83\r\n"


def test_white_space_around_values_is_stripped_and_text_kept() -> None:
    headers = Headers({"a": " \t x\ty \t", "b": "\xa0é\x80"})
    assert headers["a"] == "x\ty"
    assert headers["b"] == "\xa0é\x80"
    assert headers.encoded() == b"a: x\ty\r\nb: \xa0\xe9\x80\r\n"


def test_members_of_str_enums_are_what_they_stand_for() -> None:
    class Name(str, enum.Enum):  # noqa: UP042  # StrEnum formats itself as its value, this one does not
        KEY = "X-Key"
        VALUE = "value"

    headers = Headers({Name.KEY: Name.VALUE})
    headers.add(Name.KEY, Name.VALUE)
    headers.prepend(Name.KEY, Name.VALUE)
    assert headers.encoded() == b"X-Key: value\r\n" * 3
    assert headers[Name.KEY] == "value, value, value"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="mode"):
        Headers().add("a", "b", "upsert")  # type: ignore[arg-type]


# -- typed look-ups ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 0), ("127", 127), ("007", 7), ("", None), ("-1", None), ("+1", None), ("1.0", None), ("1 2", None),
     ("1_000", None), ("\xb2", None), ("0x10", None), ("9" * 5000, None)],
)  # fmt: skip
def test_get_int(value: str, number: int | None) -> None:
    assert Headers({"n": value}).get_int("N") == number


def test_get_int_of_nothing_or_of_two() -> None:
    assert Headers().get_int("n") is None
    assert Headers([("n", "1"), ("n", "1")]).get_int("n") is None


EXAMPLE = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "date"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", EXAMPLE),
        ("Sunday, 06-Nov-94 08:49:37 GMT", EXAMPLE),
        ("Sun Nov  6 08:49:37 1994", EXAMPLE),
        ("Wed Nov 16 08:49:37 1994", EXAMPLE.replace(day=16)),
        ("Sat, 31 Dec 2016 23:59:60 GMT", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("0", None),
        ("-1", None),
        ("", None),
        ("Sun, 06 Nov 1994 08:49:37", None),
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:61 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None),
    ],
)
def test_get_date(value: str, date: datetime | None) -> None:
    assert Headers({"Date": value}).get_date("date") == date
    assert Headers().get_date("date") is None


def test_two_digits_of_a_year_are_at_most_50_years_ahead() -> None:
    this_year = datetime.now(UTC).year
    for ahead, expected in ((50, this_year + 50), (51, this_year - 49), (0, this_year), (-1, this_year - 1)):
        date = Headers({"Date": f"Monday, 01-Feb-{(this_year + ahead) % 100:02} 00:00:00 GMT"}).get_date("date")
        assert date is not None
        assert date.year == expected


@pytest.mark.parametrize(
    ("lines", "elements"),
    [
        (["a, b"], ["a", "b"]),
        (["a", "b,c"], ["a", "b", "c"]),
        ([",a, ,b,,"], ["a", "b"]),
        (['a="x, y";q=1, b'], ['a="x, y";q=1', "b"]),
        (['"a\\", b", c'], ['"a\\", b"', "c"]),
        (['"open, a', "b"], ['"open, a', "b"]),
        (['"open\\'], ['"open\\']),
        ([""], []),
    ],
)
def test_get_list_takes_lists_apart(lines: list[str], elements: list[str]) -> None:
    headers = Headers([("a", line) for line in lines])
    assert headers.get_list("A", split=True) == elements
    assert headers.get_list("A") == lines


@given(st.text('ab,"\\ \t', max_size=20))
def test_get_list_respects_quoted_strings(value: str) -> None:
    elements, quoted, escaped = [""], False, False
    for char in value:
        if char == "," and not quoted:
            elements.append("")
            continue
        elements[-1] += char
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
    expected = [element.strip(" \t") for element in elements if element.strip(" \t")]
    # the value is stripped on its way in; an escaped blank at the end of an open string goes with it
    assert [e.strip(" \t") for e in Headers({"a": value}).get_list("a", split=True)] == expected


def test_several_set_cookie_lines_are_never_joined() -> None:
    headers = Headers([("Set-Cookie", "a=1; Expires=Sun, 06 Nov 1994 08:49:37 GMT")])
    assert headers["set-cookie"].startswith("a=1")
    headers.add("set-cookie", "b=2")
    for look_up in (headers.__getitem__, headers.get):
        with pytest.raises(UsageError, match="get_list"):
            look_up("Set-Cookie")
    assert headers.get_list("set-cookie")[1] == "b=2"


def test_cookie_lines_are_joined_by_semicolons() -> None:
    headers = Headers([("cookie", "a=1"), ("cookie", "b=2")])
    assert headers["cookie"] == "a=1; b=2"
    headers.add("Cookie", "c=3", mode="coalesce")
    assert headers.get_list("cookie") == ["a=1; b=2; c=3"]


# -- sharing -------------------------------------------------------------------------------------------------------


def test_copies_share_the_encoded_block_even_if_it_is_made_later() -> None:
    session = Headers({"a": "1"})
    first, second = session.copy(), session.copy()
    assert first.encoded() is session.encoded() is second.encoded()
    second["a"] = "2"
    assert first.encoded() is session.encoded()
    assert second.encoded() == b"a: 2\r\n"
    session["b"] = "3"
    assert first.encoded() == b"a: 1\r\n"


def test_an_empty_headers_over_its_base_shares_the_block() -> None:
    base = Headers({"a": "1"})
    assert Headers().over(base).encoded() is base.encoded()
    own = Headers({"b": "1"})
    assert own.over(Headers()).encoded() is own.encoded()


def test_over_replaces_by_name_and_keeps_both_untouched() -> None:
    base = Headers([("A", "1"), ("a", "2"), ("B", "3")])
    own = Headers([("a", "4"), ("C", "5"), ("c", "6")])
    assert list(own.over(base).items()) == [("B", "3"), ("a", "4"), ("C", "5"), ("c", "6")]
    assert base["A"] == "1, 2"
    assert own["A"] == "4"


def test_a_list_of_items_may_be_iterated_while_the_headers_change() -> None:
    headers = Headers([("a", "1"), ("b", "2")])
    for name, _ in headers.items():
        del headers[name]
    assert not headers


@given(fields)
def test_pickles_and_copies_are_equal_and_apart(pairs: list[tuple[str, str]]) -> None:
    headers = Headers(pairs)
    headers.secret |= {"x-api-key"}
    for other in (pickle.loads(pickle.dumps(headers)), copy.copy(headers), copy.deepcopy(headers), Headers(headers)):
        assert other == headers
        assert list(other.items()) == pairs
        assert other.secret == headers.secret
        other.add("new", "1")
        assert other != headers


# -- equality ------------------------------------------------------------------------------------------------------


def test_equality_ignores_case_and_order_of_names_but_not_of_values() -> None:
    assert Headers([("A", "1"), ("b", "2")]) == Headers([("B", "2"), ("a", "1")])
    assert Headers([("a", "1"), ("a", "2")]) != Headers([("a", "2"), ("a", "1")])
    assert Headers([("a", "1"), ("a", "2")]) != Headers([("a", "1, 2")])
    assert Headers({"a": "1"}) == {"A": b"1"}
    assert Headers({"a": "1"}) != {"A": 1}
    assert Headers({"a": "1"}) != [("a", "1")]


# -- secrets -------------------------------------------------------------------------------------------------------


def test_secrets_are_redacted_in_every_repr() -> None:
    headers = Headers({"Authorization": "s3cret", "PROXY-authorization": "s3cret", "Cookie": "s3cret", "a": "1"})
    headers.add("Set-Cookie", "s3cret")
    headers["X-Api-Key"] = "s3cret"
    headers.secret |= {"X-API-Key"}
    for shown in (repr(headers), str(headers), repr(headers.items()), repr(headers.values()), repr(headers.copy())):
        assert "s3cret" not in shown
    assert "'1'" in repr(headers)
    assert repr(Headers.from_block(headers.encoded())).count("***") == 4  # a new one knows the default names only


def test_a_password_in_a_url_is_not_shown() -> None:
    headers = Headers({"Location": "https://user:t0ken@h/a@b", "Link": "<//t0ken@h>, </x>", "From": "me@h"})
    assert "t0ken" not in repr(headers)
    for rest in ("'https://***@h/a@b'", "'<//***@h>, </x>'", "'me@h'"):
        assert rest in repr(headers)


def test_secret_names_travel() -> None:
    base = Headers({"x-key": "1"})
    base.secret |= {"x-key"}
    own = Headers({"y-key": "1"})
    own.secret |= {"y-key"}
    assert own.over(base).secret >= {"x-key", "y-key"}
    assert base.copy().secret == base.secret
    base.secret = []
    assert "***" not in repr(Headers({"cookie": "1"}).over(Headers())).replace("'***'", "")
    assert base.secret == frozenset()
    with pytest.raises(UsageError):
        base.secret = "x-key"  # type: ignore[assignment]
