"""The parser of challenges (RFC 9110, 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugwire_plugins.challenges import MAX_CHARACTERS, Challenge, parse_challenges, parse_parameters, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping


def challenge(scheme: str, token: str | None = None, **parameters: str) -> Challenge:
    return Challenge(scheme, token, parameters)


BASIC = challenge("basic", realm="a")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], []),
        ([""], []),
        ([" , ,"], []),
        (['Basic realm="a"'], [BASIC]),
        (["bAsIc rEaLm=a"], [BASIC]),
        (['Basic realm = "a" ,'], [BASIC]),
        ([", ,Basic\t realm\t=\ta"], [BASIC]),
        # The two of RFC 9110, 11.6.1.
        (
            ['Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""'],
            [
                challenge("basic", realm="simple"),
                challenge("newauth", realm="apps", type="1", title='Login to "apps"'),
            ],
        ),
        (["NTLM", "Negotiate"], [challenge("ntlm"), challenge("negotiate")]),
        (["NTLM, Negotiate,Basic realm=a"], [challenge("ntlm"), challenge("negotiate"), BASIC]),
        (["Negotiate YII+/x==, Basic realm=a"], [challenge("negotiate", "YII+/x=="), BASIC]),
        (["Digest realm=, NTLM"], [challenge("digest", "realm="), challenge("ntlm")]),
        (["Negotiate ABC"], [challenge("negotiate", "ABC")]),
        (['X a=b,, c="d"'], [challenge("x", a="b", c="d")]),
        (['Digest realm="a, b=c, Basic realm=d"'], [challenge("digest", realm="a, b=c, Basic realm=d")]),
        (['X a="\\\\\\"\\x"'], [challenge("x", a='\\"x')]),
        (['X a=""'], [challenge("x", a="")]),
        # What should have been quoted.
        (["Digest nonce=MTIz==, domain=/a:b"], [challenge("digest", nonce="MTIz==", domain="/a:b")]),
        # What is wrong ends the line, and takes its challenge with it.
        (['Basic realm="a", Digest realm="b" nonce="c"'], [BASIC]),
        (['Basic realm="a", Digest realm="b", nonce="c'], [BASIC]),
        (['Basic realm="a", Digest realm="b", realm="c", nonce="d"', "NTLM"], [BASIC, challenge("ntlm")]),
        (['Basic realm="a", Digest realm="b", REALM="c"'], [BASIC]),
        (["Basic realm=a, Digest a=b, realm=, NTLM"], [BASIC]),
        (["Basic realm=a b, NTLM"], []),
        (["Basic realm=a, =b, NTLM"], []),
        (['Basic realm="a"x, NTLM'], []),
        (["Basic a b"], []),
        (["Negotiate abc=, realm=b"], [challenge("negotiate", "abc=")]),
        (['"Basic" realm=a'], []),
        (["Basic  \t "], [challenge("basic")]),
        (["\u00e9 realm=a"], []),
        (['Basic realm="\u00e9"'], [challenge("basic", realm="\u00e9")]),
    ],
)  # fmt: skip
def test_examples(lines: list[str], found: list[Challenge]) -> None:
    assert parse_challenges(lines) == found


TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8)
VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12)
TOKENS68 = st.builds(str.__add__, st.text("09azAZ-._~+/", min_size=1, max_size=8), st.sampled_from(["", "=", "=="]))
SCHEMES = TOKENS.map(str.lower)
CHALLENGES = st.builds(Challenge, SCHEMES, TOKENS68 | st.none(), st.just({})) | st.builds(
    Challenge, SCHEMES, st.none(), st.dictionaries(SCHEMES, VALUES, min_size=1, max_size=4)
)


def written(one: Challenge, plain: bool) -> str:
    if one.token is not None:
        return f"{one.scheme} {one.token}"
    return f"{one.scheme} {parameters(one.parameters, plain)}" if one.parameters else one.scheme


def parameters(given: Mapping[str, str], plain: bool) -> str:
    is_token = {name: plain and value.isascii() and value.isalnum() for name, value in given.items()}
    return ", ".join(f"{name}={value if is_token[name] else quoted(value)}" for name, value in given.items())


@given(st.lists(CHALLENGES, max_size=5), st.booleans(), st.booleans())
def test_what_is_written_is_read(challenges: list[Challenge], plain: bool, one_line: bool) -> None:
    lines = [written(one, plain) for one in challenges]
    assert parse_challenges([", ".join(lines)] if one_line else lines) == challenges


@given(st.dictionaries(SCHEMES, VALUES, max_size=5), st.booleans())
def test_parameters_alone(given: dict[str, str], plain: bool) -> None:
    assert parse_parameters([parameters(given, plain)]) == given
    if given:
        assert parse_parameters([parameters(given, plain) + ' "']) == {}


@given(st.lists(st.text('Basic Digest realm="\\,=; \t\u00e9')))
def test_nothing_raises_and_what_is_found_reads_the_same_when_written(lines: list[str]) -> None:
    found = parse_challenges(lines)
    assert parse_challenges([written(one, False) for one in found]) == found
    parse_parameters(lines)


def test_parameters_of_several_lines() -> None:
    assert parse_parameters(['a="1"', "b=2"]) == {"a": "1", "b": "2"}
    assert parse_parameters(["a=1", "a=2"]) == {}


def test_what_is_read_is_bounded() -> None:
    just = "X" * (MAX_CHARACTERS - 3)
    assert parse_challenges([just, "a a"]) == [challenge(just.lower()), challenge("a", "a")]
    assert parse_challenges([just, "a aa", "b"]) == [challenge(just.lower())]
    assert parse_parameters(["a=" + "b" * (MAX_CHARACTERS - 1)]) == {}


@pytest.mark.parametrize(
    ("hostile", "count"),
    [
        ('X a="' + "\\a" * 30_000, 0),
        ('X a="' + "a" * 60_000, 0),
        ("X " + "a" * 60_000 + "\u00e9", 0),
        ("X a" + " " * 60_000 + "b", 0),
        ("X a=b" + " " * 60_000 + "c", 0),
        ("," * 60_000, 0),
        (", ".join(f"a{number}" for number in range(9000)), 9000),
        ("X a=" + "=" * 60_000 + '"', 0),
        ("X " + ",".join(f"a{number}=1" for number in range(6000)) + ',a="', 0),
    ],
)
def test_long_lines_are_read_in_linear_time(hostile: str, count: int) -> None:
    """Each takes milliseconds; read in quadratic time it would take the suite's patience."""
    assert len(parse_challenges([hostile])) == count
