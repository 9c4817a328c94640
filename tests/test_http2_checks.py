"""What RFC 9113, section 8, calls malformed, on decoded fields."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugwire.errors import ProtocolError
from plugwire.headers import Headers
from plugwire_transports.http2.checks import check_response, check_trailers

OK = (":status", "200")
TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"


def test_a_head() -> None:
    head = check_response([(":status", "404"), ("a", "b"), ("content-length", "12"), ("a", "c")])
    assert (head.status, head.length) == (404, 12)
    assert list(head.headers.items()) == [("a", "b"), ("content-length", "12"), ("a", "c")]
    assert head.headers["A"] == "b, c"


@pytest.mark.parametrize("status", ["100", "103", "200", "204", "304", "599", "600", "999"])
def test_statuses(status: str) -> None:
    assert check_response([(":status", status)]).status == int(status)


@pytest.mark.parametrize(
    "status", ["", "2", "20", "2000", "099", "000", "-20", "+20", " 20", "20 ", "2 0", "2e1", "200 OK", "٢٠٠", "²00"]
)
def test_what_is_no_status(status: str) -> None:
    with pytest.raises(ProtocolError, match=":status is"):
        check_response([(":status", status)])


def test_101_does_not_exist() -> None:
    with pytest.raises(ProtocolError, match="101"):
        check_response([(":status", "101")])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([], "no :status"),
        ([("a", "b")], "no :status"),
        ([("a", "b"), OK], "does not come first"),
        ([(":path", "/"), OK], "does not come first"),
        ([OK, OK], "pseudo-field ':status'"),
        ([OK, (":path", "/")], "pseudo-field ':path'"),
        ([OK, ("a", "b"), (":method", "GET")], "pseudo-field"),
        ([OK, (":", "x")], "pseudo-field"),
        ([(":Status", "200")], "no :status"),
    ],
)
def test_pseudo_fields(fields: list[tuple[str, str]], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        check_response(fields)


@pytest.mark.parametrize("character", TOKEN)
def test_names_are_tokens(character: str) -> None:
    for name in (character, f"a{character}", f"{character}a"):
        assert check_response([OK, (name, "x")]).headers[name] == "x"


@pytest.mark.parametrize("character", sorted({chr(code) for code in range(256)} - {*TOKEN}))
def test_names_are_nothing_else(character: str) -> None:
    """Upper case, a colon, white space, controls and everything above ASCII."""
    for name in (character, f"a{character}", f"{character}a", f"a{character}a"):
        with pytest.raises(ProtocolError, match="malformed response"):
            check_response([OK, ("a", "b"), (name, "x"), ("c", "d")])
        with pytest.raises(ProtocolError, match="malformed trailers"):
            check_trailers([(name, "x")])


def test_a_name_is_not_empty() -> None:
    with pytest.raises(ProtocolError, match="field name"):
        check_response([OK, ("", "x")])


CONTROLS = [chr(code) for code in [*range(32), 127] if code != 9]


@pytest.mark.parametrize("character", CONTROLS)
def test_controls_in_values(character: str) -> None:
    for value in (character, f"a{character}", f"{character}a", f"a{character}b"):
        with pytest.raises(ProtocolError, match="control character in the value of 'x'"):
            check_response([OK, ("x", value)])
        with pytest.raises(ProtocolError, match="control character"):
            check_trailers([("x", value)])


@pytest.mark.parametrize("value", [" ", "\t", " a", "a ", "\ta", "a\t", "  "])
def test_white_space_around_values(value: str) -> None:
    with pytest.raises(ProtocolError, match="white space around"):
        check_response([OK, ("x", value), ("y", "z")])


@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", "a: b", "\x80\xff", "a,b", '"', "a  b", "\xa0"])
def test_values(value: str) -> None:
    assert check_response([OK, ("x", value)]).headers["x"] == value


def test_secrets_are_not_shown() -> None:
    with pytest.raises(ProtocolError) as caught:
        check_response([OK, ("set-cookie", "sesame\n")])
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        [("a", "b\nc\0d")],  # what joins the fields for the expression, smuggled in
        [("a\0b\nc", "d")],
        [("a", "b\r\nc: d")],
        [("a: b", "c")],
        [("a\0b", "")],
        [("a", "b\n"), ("c", "d")],
    ],
)
def test_fields_inside_of_fields(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(ProtocolError):
        check_response([OK, *fields])
    with pytest.raises(ProtocolError):
        check_trailers(fields)


@pytest.mark.parametrize("name", ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"])
def test_fields_that_have_no_place_in_http2(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"{name} has no place"):
        check_response([OK, ("a", "b"), (name, "")])
    with pytest.raises(ProtocolError, match=f"{name} has no place"):
        check_response([(":status", "103"), (name, "x")])
    with pytest.raises(ProtocolError, match=f"{name} has no place"):
        check_trailers([(name, "x")])


def test_te_says_trailers_or_is_not_there() -> None:
    assert check_response([OK, ("te", "trailers")]).headers["te"] == "trailers"
    for value in ("gzip", "", "trailers, gzip", "Trailers"):
        with pytest.raises(ProtocolError, match="te has no place"):
            check_response([OK, ("te", value)])


@pytest.mark.parametrize("value", ["0", "1", "00", "007", str(2**63 - 1)])
def test_lengths(value: str) -> None:
    assert check_response([OK, ("content-length", value)]).length == int(value)


@pytest.mark.parametrize(
    "value",
    ["", "-1", "+1", "1.0", "0x1", "1,1", "1, 1", "1 1", "1_0", "²", str(2**63), "9" * 19, "0" * 20, "1" * 5000],
)
def test_what_is_no_length(value: str) -> None:
    with pytest.raises(ProtocolError, match="content-length is"):
        check_response([OK, ("content-length", value)])


@pytest.mark.parametrize("second", ["3", "4"])
def test_there_is_one_length(second: str) -> None:
    with pytest.raises(ProtocolError, match="more than one content-length"):
        check_response([OK, ("content-length", "3"), ("a", "b"), ("content-length", second)])


def test_trailers() -> None:
    assert list(check_trailers([("a", "b"), ("content-type", "x"), ("a", "")]).items()) == [("a", "b"), ("a", "")]
    assert list(check_trailers([]).items()) == []
    with pytest.raises(ProtocolError, match="pseudo-field"):
        check_trailers([OK])


def test_messages_are_short() -> None:
    for fields in ([(":status", "2" * 5000)], [OK, ("A" * 5000, "x")], [OK, ("content-length", "1" * 5000)]):
        with pytest.raises(ProtocolError) as caught:
            check_response(fields)
        assert len(str(caught.value)) < 200


# What a field may be, said a second time and slowly (RFC 9110, 5.1 and 5.5; RFC 9113, 8.2.1).
any_text = st.text(st.characters(max_codepoint=255), max_size=6)
near_text = st.text("aZ0-: \t\n\r\0\x7f\xe9,", max_size=6)
pairs = st.lists(st.tuples(near_text | any_text, near_text | any_text), max_size=5)


def is_right(name: str, value: str) -> bool:
    return (
        re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9a-z]+", name) is not None
        and re.fullmatch(r"[^\x00-\x08\x0a-\x1f\x7f]*", value) is not None
        and value == value.strip(" \t")
    )


@given(pairs)
@example([("a", "b\nc\0d")])
@example([("a\0b\nc", "d")])
def test_the_expression_agrees_with_the_rules(fields: list[tuple[str, str]]) -> None:
    right = all(is_right(*field) for field in fields)
    try:
        headers = check_response([OK, *fields]).headers
    except ProtocolError:
        assert not right
    else:
        assert right
        assert list(headers.items()) == fields
        # Headers are made without a look at them: they must be such as it would take.
        assert Headers(fields) == headers
