"""The Link field (RFC 8288): one pass over the value, forgiving as the RFC's own algorithm (appendix B.2) is.

What a link-value cannot be is skipped up to the next "<". Each step is a match at a place, none repeats a group:
Python's regular expressions keep some 200 bytes for each round of such a repetition, and a peer may send many rounds.
"""

from __future__ import annotations

import re
from typing import Final

from plugwire.headers import end_of_quoted

_TARGET: Final = re.compile(r"<([^<>]*)>")
_PARAM: Final = re.compile(r"\s*;\s*([\w!#$%&'*+.^`|~-]++)\s*")
_PLAIN: Final = re.compile(r'=\s*([^\s;,"]++)')
_QUOTE: Final = re.compile(r'=\s*"')


def parse_links(value: str) -> list[dict[str, str]]:
    """The links of one field line, each as its parameters by name in lower case, the first of a name, and "url".
    Quoted values are without their quotes, otherwise as they stand; a parameter without a value has ""."""
    links: list[dict[str, str]] = []
    place = 0
    while (target := _TARGET.search(value, place)) is not None:
        link = {"url": target[1]}
        place = target.end()
        while (param := _PARAM.match(value, place)) is not None:
            place = param.end()
            content = ""
            if plain := _PLAIN.match(value, place):
                content, place = plain[1], plain.end()
            elif (quote := _QUOTE.match(value, place)) and (end := end_of_quoted(value, quote.end())) >= 0:
                content, place = value[quote.end() : end], end + 1
            link.setdefault(param[1].lower(), content)
        links.append(link)
    return links
