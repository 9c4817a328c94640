"""Hosts of URLs, by the host parser of the WHATWG URL standard (section 3.5) and UTS 46.

A host is written in many ways and means one: `EXAMPLE.com`, `ex%61mple.com`, `0x7f.1`, `faß.de`, `[1:0::1]`.
Everything that decides by host (routes, pools, credentials, cookies, pins) must see the one canonical form, so this is
the only place that knows the others:

1. A host in brackets is an IPv6 address and nothing else; written in the form of RFC 5952, always in hex.
2. In a *special* scheme (http, https, ws, wss, ftp) a host is percent-decoded; in ASCII it is put into lower case, else
   mapped by UTS 46 (non-transitional, so `faß.de` is not `fass.de`) and turned into A-labels. If its last label then
   is a number, the whole must be an IPv4 address, in any of the forms that inet_aton took; one that is not, is refused
   rather than looked up as a name.
3. In any other scheme a host is opaque: letters keep their case, and what is not ASCII is percent-encoded.

Whoever compares hosts before these steps lets `http://0x7f.1` past a guard for `127.0.0.1`.

The mapping tables come from `idna`, imported on the first host that is not ASCII. Its own `encode` is not used: that is
IDNA 2008, which refuses names such as `☃.net` that browsers, and UTS 46, take. Some browsers hold only right-to-left
labels to the bidi rule; UTS 46 and we hold all labels of a name that has one.
"""

from __future__ import annotations

import re
from typing import Final
from unicodedata import bidirectional, category
from urllib.parse import unquote_to_bytes

_FORBIDDEN = re.compile(r"[\x00\t\n\r #/:<>?@\[\\\]^|]")
_FORBIDDEN_IN_DOMAIN = re.compile(r"[\x00-\x20#/:<>?@\[\\\]^|%\x7f]")
_NOT_OPAQUE = re.compile(r"[^\x20-\x7e]")
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})


class InvalidHost(ValueError):
    """The host is not one. The message says why and quotes nothing but single characters: a host may turn out to be a
    piece of a password that was not escaped."""


def parse_host(text: str, is_special: bool) -> str:
    """The canonical form of a host, with brackets if it is an IPv6 address.

    Raises:
        InvalidHost: it is empty, has a character that no host has, or is an address or a name that is not valid.
    """
    if not text:
        raise InvalidHost("the host is empty")
    if text[0] == "[":
        if text[-1] != "]":
            raise InvalidHost("the host begins with '[' and does not end with ']'")
        return f"[{_parse_ipv6(text[1:-1])}]"
    if not is_special:
        return _parse_opaque(text)
    domain = _to_ascii(_percent_decode(text))
    if not domain:
        raise InvalidHost("the host is empty")
    if wrong := _FORBIDDEN_IN_DOMAIN.search(domain):
        raise InvalidHost(f"the character {_name(wrong[0])} cannot be in a host")
    if _ends_in_number(domain):
        return _parse_ipv4(domain)
    return domain


def _name(character: str) -> str:
    return f"U+{ord(character):04X}" + (f" {character!r}" if character.isprintable() else "")


def _parse_opaque(text: str) -> str:
    if wrong := _FORBIDDEN.search(text):
        raise InvalidHost(f"the character {_name(wrong[0])} cannot be in a host")
    return _NOT_OPAQUE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def _percent_decode(text: str) -> str:
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        pass
    raise InvalidHost("the percent-encoded bytes of the host are not UTF-8")


# -- names ---------------------------------------------------------------------------------------------------------


def _to_ascii(domain: str) -> str:
    """WHATWG URL, 3.3, "domain to ASCII": UTS 46 ToASCII with CheckHyphens, UseSTD3ASCIIRules, Transitional_Processing
    and VerifyDnsLength off, CheckBidi and CheckJoiners on.

    A name in ASCII is only put into lower case: sites are reached under A-labels that UTS 46 does not take, and since
    2026 the standard lets them be.
    """
    if domain.isascii():
        return domain.lower()
    import idna

    try:
        _check_assigned(domain)
        mapped = idna.uts46_remap(domain, std3_rules=False)
        labels = [_decode_label(label) for label in mapped.split(".")]
        is_bidi = any(_is_right_to_left(label) for label in labels)
        for label in labels:
            _check_label(label, is_bidi)
    except (ValueError, IndexError, OverflowError) as error:  # idna: UnicodeErrors, and some plain ValueErrors
        reason = _reason_of(error)
    else:
        return ".".join(label if label.isascii() else _a_label(label) for label in labels)
    raise InvalidHost(f"the host is not a valid internationalised name: {reason}")


def _reason_of(error: Exception) -> str:
    code = getattr(error, "code", None)
    return code.replace("_", " ") if isinstance(code, str) else "a label breaks the rules of UTS 46"


def _a_label(label: str) -> str:
    return "xn--" + label.encode("punycode").decode("ascii")


def _decode_label(label: str) -> str:
    """The U-label of an A-label; other labels as they are."""
    if not label.startswith("xn--"):
        return label
    decoded = label[4:].encode("ascii").decode("punycode")
    if decoded.isascii() or _a_label(decoded) != label:
        raise UnicodeError
    return decoded


def _is_right_to_left(label: str) -> bool:
    return any(bidirectional(character) in _RIGHT_TO_LEFT for character in label)


def _check_assigned(text: str) -> None:
    """No character that is younger than this Python's Unicode, which cannot say what its NFC and direction are."""
    if "Cn" in map(category, text):
        raise UnicodeError


def _check_label(label: str, is_bidi: bool) -> None:
    """The validity criteria of UTS 46, section 4.1."""
    import idna

    if not label.isascii():
        _check_assigned(label)
        if idna.uts46_remap(label, std3_rules=False) != label:  # a character that is mapped or ignored, or not NFC
            raise UnicodeError
        if label.startswith("xn--"):
            raise UnicodeError
        idna.check_initial_combiner(label)
        for position, character in enumerate(label):
            if character in "\u200c\u200d" and not idna.valid_contextj(label, position):
                raise UnicodeError
    if is_bidi and label:
        idna.check_bidi(label, check_ltr=True)


# -- addresses -----------------------------------------------------------------------------------------------------


def _ends_in_number(domain: str) -> bool:
    """WHATWG, "ends-in-a-number checker"."""
    labels = domain.split(".")
    if labels[-1] == "" and len(labels) > 1:
        labels.pop()
    last = labels[-1]
    return (last.isdigit() and last.isascii()) or _parse_ipv4_number(last) is not None


def _parse_ipv4_number(text: str) -> int | None:
    if not text:
        return None
    radix = 10
    if text[:2] in ("0x", "0X"):
        text, radix = text[2:], 16
    elif len(text) >= 2 and text[0] == "0":
        text, radix = text[1:], 8
    if not text:
        return 0
    digits = "0123456789abcdef"[:radix]
    if text.lower().strip(digits):
        return None
    text = text.lstrip("0") or "0"
    return int(text, radix) if len(text) <= 64 else 1 << 64  # too large in any radix: do not compute how much


def _parse_ipv4(domain: str) -> str:
    parts = domain.split(".")
    if parts[-1] == "" and len(parts) > 1:
        parts.pop()
    if len(parts) > 4:
        raise InvalidHost("the host ends in a number and has too many parts for an IPv4 address")
    numbers = [_parse_ipv4_number(part) for part in parts]
    valid = [number for number in numbers if number is not None]
    if len(valid) != len(numbers):
        raise InvalidHost("the host ends in a number and is not an IPv4 address")
    *high, low = valid
    if any(number > 255 for number in high) or low >= 256 ** (4 - len(high)):
        raise InvalidHost("a part of the IPv4 address is too large")
    address = low
    for index, number in enumerate(high):
        address += number << (8 * (3 - index))
    return ".".join(str(byte) for byte in address.to_bytes(4, "big"))


def _parse_ipv6(text: str) -> str:
    from ipaddress import AddressValueError, IPv6Address

    if "%" in text:
        raise InvalidHost("an IPv6 address in a URL has no zone")
    try:
        address = int(IPv6Address(text))
    except AddressValueError:
        pass
    else:
        return _write_ipv6(address)
    raise InvalidHost("the host in brackets is not an IPv6 address")


def _write_ipv6(address: int) -> str:
    """RFC 5952, section 4, but never with dotted decimals (which Python 3.13 writes for mapped addresses)."""
    pieces = [address >> shift & 0xFFFF for shift in range(112, -1, -16)]
    start = length = 0
    index = 0
    while index < 8:
        end = index
        while end < 8 and not pieces[end]:
            end += 1
        if end - index > max(length, 1):
            start, length = index, end - index
        index = end + 1
    words = [f"{piece:x}" for piece in pieces]
    if not length:
        return ":".join(words)
    return ":".join(words[:start]) + "::" + ":".join(words[start + length :])
