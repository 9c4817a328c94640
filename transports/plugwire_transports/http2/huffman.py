"""The Huffman code of HPACK (RFC 7541, 5.2 and appendix B), by the codes of the hpack package.

Decoding goes octet by octet through an automaton, whose transitions are found when they are first needed: one for each
of 256 states and octets at most (8 MiB for the process, if a peer asks for them all).
"""

from __future__ import annotations

from typing import Final, TypeAlias

# The package before its parts: while another thread imports it (h2 does), a part by itself deadlocks with that, and
# Python gets out of a deadlock of imports by handing out a half-made module.
import hpack  # noqa: F401  # pyright: ignore[reportUnusedImport]  # for its effect
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH


class HuffmanError(ValueError):
    """Octets that are no Huffman code. The message says why."""


_CODES: Final = [format(code, f"0{length}b") for code, length in zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)]
_SYMBOLS: Final = {code: symbol for symbol, code in enumerate(_CODES)}
_EOS: Final = 256


# A state of the automaton stands for the bits of an unfinished code. At each octet's place in it stand the characters
# that end in this octet, and the state after it; None if that was not needed before. At _PENDING stand the bits.
_State: TypeAlias = "list[tuple[str, _State] | None]"
_PENDING: Final = 256
_STATES: Final[dict[str, _State]] = {}

# A string is padded with the first bits of EOS, which are all ones, and with fewer than eight.
_PADDINGS: Final = frozenset("1" * count for count in range(8))


def _state(pending: str) -> _State:
    known = _STATES.get(pending)
    if known is not None:
        return known
    state: _State = [None] * 256
    state.append((pending, state))
    return _STATES.setdefault(pending, state)


def _pending(state: _State) -> str:
    at_the_end = state[_PENDING]
    return at_the_end[0] if at_the_end else ""


def _find(state: _State, octet: int) -> tuple[str, _State]:
    """The transition for an octet, which was not needed before."""
    code = _pending(state)
    text = ""
    for bit in format(octet, "08b"):
        code += bit
        symbol = _SYMBOLS.get(code)
        if symbol == _EOS:
            raise HuffmanError("a Huffman string with EOS inside")
        if symbol is not None:
            text += chr(symbol)
            code = ""
    state[octet] = found = text, _state(code)
    return found


_START: Final = _state("")


def from_huffman(data: bytes) -> str:
    """The text of a string in Huffman code.

    Raises:
        HuffmanError: it is none.
    """
    state = _START
    parts: list[str] = []
    for octet in data:
        text, state = state[octet] or _find(state, octet)
        parts.append(text)
    if _pending(state) not in _PADDINGS:
        raise HuffmanError("a Huffman string that is cut off, or with padding that is too long or not all ones")
    return "".join(parts)


def to_huffman(data: bytes) -> bytes | None:
    """The octets in Huffman code; None if that is not shorter."""
    bits = "".join([_CODES[octet] for octet in data])
    length = (len(bits) + 7) >> 3
    if length >= len(data):
        return None
    return int(bits + "1" * (-len(bits) & 7), 2).to_bytes(length, "big")
