"""What a server says of how to authenticate: WWW-Authenticate and its relatives (RFC 9110, 11).

    WWW-Authenticate: Negotiate, Digest realm="a, b", nonce="xyz", qop="auth,auth-int"
    WWW-Authenticate: Basic realm="a"

are three challenges. The grammar has a trap: a comma parts challenges, and the parameters of one. What stands behind it
is a parameter if a "=" follows its first word, and the scheme of the next challenge otherwise (RFC 9110, 11.6.1). So a
line is read from left to right; there is no way to split it first.

What is taken that the grammar does not have: empty list elements (RFC 9110, 5.6.1.2), white space around "=" (11.2),
and values that should have been quoted, such as `nonce=MTIz==`. What is not read: a challenge with a parameter twice,
and one in which anything else is wrong, with all that follows it in its line: half a challenge must not be answered.
Nothing here raises.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_CHARACTERS: Final = 65536
"""What is read of a response's challenges, all lines together; the largest that are seen are tickets of Kerberos."""

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_END = r"(?=[ \t]*(?:,|\Z))"
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,)|\Z)")
_TOKEN68 = re.compile(rf"[A-Za-z0-9\-._~+/]+=*{_END}")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"([^"\\]*(?:\\.[^"\\]*)*)"|([^\s,"]+)){_END}')
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)*")
_ESCAPED = re.compile(r"\\(.)")
_TO_ESCAPE = re.compile(r'["\\]')


class Challenge(NamedTuple):
    """One challenge.

    scheme: in lower case. token: what stands in place of parameters ("token68": Negotiate, NTLM), or None. parameters:
    by name in lower case, values without quotes and escapes, in the characters that the bytes are in latin-1.
    """

    scheme: str
    token: str | None
    parameters: Mapping[str, str]


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """The challenges in the field's lines, in the server's order; see the module for what is left out."""
    found: list[Challenge] = []
    left = MAX_CHARACTERS
    for line in lines:
        left -= len(line)
        if left < 0:
            break
        found += _parse_line(line)
    return found


def _parse_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = _after_separator(line, 0)
    while at < len(line):
        scheme = _SCHEME.match(line, at)
        if scheme is None:
            break
        at = scheme.end()
        token = _TOKEN68.match(line, at)
        if token is not None:
            found.append(Challenge(scheme[1].lower(), token[0], {}))
            at = token.end()
        elif at == len(line) or line[at] == ",":
            found.append(Challenge(scheme[1].lower(), None, {}))
        else:
            parameters, at = _parse_parameters(line, at)
            if not parameters or not (at == len(line) or _SCHEME.match(line, at)):
                break
            found.append(Challenge(scheme[1].lower(), None, parameters))
        at = _after_separator(line, at)
    return found


def _parse_parameters(line: str, at: int) -> tuple[dict[str, str], int]:
    """The parameters from `at` on, and where the first thing stands that is none. Nothing, if one is there twice."""
    parameters: dict[str, str] = {}
    while parameter := _PARAMETER.match(line, at):
        name, quoted, plain = parameter.groups()
        if name.lower() in parameters:
            return {}, at
        parameters[name.lower()] = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        at = _after_separator(line, parameter.end())
    return parameters, at


def _after_separator(line: str, at: int) -> int:
    separator = _SEPARATOR.match(line, at)
    return separator.end() if separator is not None else at


def parse_parameters(lines: Iterable[str]) -> dict[str, str]:
    """The parameters of a field that has nothing else: Authentication-Info (RFC 7615). None, if anything is wrong."""
    line = ", ".join(lines)
    if len(line) > MAX_CHARACTERS:
        return {}
    parameters, at = _parse_parameters(line, _after_separator(line, 0))
    return parameters if at == len(line) else {}


def quoted(text: str) -> str:
    """As a quoted-string (RFC 9110, 5.6.4)."""
    return f'"{_TO_ESCAPE.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    return "\\" + found[0]
