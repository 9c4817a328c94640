"""What RFC 9113, section 8, calls malformed: one function on the decoded head of a response, one on trailers.

A header block comes out of HPACK as any strings at all: names in upper case or with a colon in them, values with CR and
LF, pseudo-fields anywhere. Whoever passes such a thing on, to HTTP/1.1 or into a cache, is the tool of a smuggler (RFC
9113, 10.3). So a block is judged as a whole before anybody sees a part of it. A malformed message ends its stream; the
connection and the other streams go on (8.1.1).

How it works: the fields are joined to one text, name NUL value LF, and judged by one regular expression. NUL and LF
are in neither alphabet, so if the text matches and has as many LF as there are fields, it can be read in one way only.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NoReturn

from plugwire.errors import ProtocolError
from plugwire.headers import Headers
from plugwire_transports.http11_wire import FORBIDDEN_TRAILERS, MAX_LENGTH

Fields = list[tuple[str, str]]


class Head(NamedTuple):
    """The head of a response.

    Attributes:
        status: 100 to 999, never 101.
        headers: without the pseudo-field.
        length: its Content-Length, None without one. It need not be that of the content: answers to HEAD, 304, and
            a successful CONNECT have it too.
    """

    status: int
    headers: Headers
    length: int | None


# Values neither begin nor end with white space (RFC 9113, 8.2.1), and no control but HTAB stands in them. Lone
# controls other than CR, LF and NUL are RFC 9110's to forbid (5.5), and are refused over HTTP/1.1 too.
_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9a-z]++"
_VALUE: Final = r"(?![ \t])[\t\x20-\x7e\x80-\xff]*+(?<![ \t])"
_SECTION: Final = re.compile(rf"(?>(?:{_NAME}\0{_VALUE}\n)*)")

CONNECTION_SPECIFIC: Final = frozenset({"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"})
"""Fields that make a message malformed (RFC 9113, 8.2.2)."""

_STEERING: Final = CONNECTION_SPECIFIC | {"content-length", "te"}


def check_response(fields: Fields) -> Head:
    """The head of a response, interim ones included (RFC 9113, 8.2 and 8.3.2). The list belongs to it from now on.

    Raises:
        ProtocolError: it is malformed.
    """
    if not fields or fields[0][0] != ":status":
        _explain_status(fields)
    status = fields[0][1]
    if len(status) != 3 or not status.isdecimal() or not status.isascii() or status < "100":
        raise ProtocolError(f"malformed response: :status is {_shown(status)} (RFC 9113, 8.3.2)")
    if status == "101":
        raise ProtocolError("malformed response: 101 does not exist in HTTP/2 (RFC 9113, 8.6)")
    del fields[0]
    length = None
    for name, value in _checked(fields, "response"):
        if name != "content-length":
            continue
        if length is not None:
            raise ProtocolError("malformed response: more than one content-length (RFC 9110, 8.6)")
        # Digits only; their number is bounded before int() sees them.
        if not value.isdecimal() or not value.isascii() or len(value) > 19 or (length := int(value)) > MAX_LENGTH:
            raise ProtocolError(f"malformed response: content-length is {_shown(value)} (RFC 9110, 8.6)")
    return Head(int(status), Headers.from_pairs(fields), length)


def check_trailers(fields: Fields) -> Headers:
    """The trailers of a response: no pseudo-fields (RFC 9113, 8.1), and the rules of all fields. Those that come too
    late to mean anything are dropped, as over HTTP/1.1. The list belongs to it from now on.

    Raises:
        ProtocolError: they are malformed.
    """
    _checked(fields, "trailers")
    return Headers.from_pairs([field for field in fields if field[0] not in FORBIDDEN_TRAILERS])


def _checked(fields: Fields, where: str) -> Fields:
    """The fields that steer the message, after a look at all."""
    text = "".join([f"{name}\0{value}\n" for name, value in fields])
    if _SECTION.fullmatch(text) is None or text.count("\n") != len(fields):
        _explain(fields, where)
    steering = [field for field in fields if field[0] in _STEERING]
    for name, value in steering:
        if name in CONNECTION_SPECIFIC or (name == "te" and value != "trailers"):
            raise ProtocolError(f"malformed {where}: {name} has no place in HTTP/2 (RFC 9113, 8.2.2)")
    return steering


def _explain_status(fields: Fields) -> NoReturn:
    if any(name == ":status" for name, _ in fields):
        raise ProtocolError("malformed response: :status does not come first (RFC 9113, 8.3)")
    raise ProtocolError("malformed response: it has no :status (RFC 9113, 8.3.2)")


def _explain(fields: Fields, where: str) -> NoReturn:
    """The fields do not match: say why."""
    for name, value in fields:
        if name[:1] == ":":
            what = f"the pseudo-field {_shown(name)} (RFC 9113, 8.3)"
        elif re.fullmatch(_NAME, name) is None:
            wrong = "no token" if name == name.lower() else "in upper case"
            what = f"the field name {_shown(name)}, which is {wrong} (RFC 9113, 8.2.1)"
        elif value != value.strip(" \t"):
            what = f"white space around the value of {_shown(name)} (RFC 9113, 8.2.1)"
        elif re.fullmatch(_VALUE, value) is None:
            what = f"a control character in the value of {_shown(name)} (RFC 9113, 8.2.1)"
        else:
            continue
        raise ProtocolError(f"malformed {where}: {what}")
    raise ProtocolError(f"malformed {where}")  # out of reach while both readings of the grammar agree


def _shown(text: str) -> str:
    """For a message: at most 40 characters. Values are shown only where they cannot be secrets."""
    return repr(text if len(text) <= 40 else text[:40] + "...")
