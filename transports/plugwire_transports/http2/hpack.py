"""HPACK, the compression of header fields in HTTP/2 (RFC 7541), on the tables of the hpack package.

How it works

A header block is a row of *representations*, one for each field, told apart by the first bits of the first octet:

    1xxxxxxx  indexed: the whole field stands in a table        001xxxxx  the dynamic table's new size; only first
    01xxxxxx  literal, and into the dynamic table with it       0001xxxx  literal, never to be indexed by anybody
                                                                0000xxxx  literal, not indexed here

The name of a literal is an index or a string; its value is a string; a string is octets or Huffman code. Indices from 1
to 61 are the static table, those above count the dynamic table from its newest entry. Both ends of a connection build
the same dynamic table out of the same blocks, so each block must go through the coder, once and in order: a block that
is lost or stopped half-way leaves the two tables different, and the next fields are *other fields* without any error.

Rules that hold

1. **In step or broken.** A decoder that could not finish a block never decodes again. One whose block was too large
   has finished it: only the block's stream fails (`TooLarge`). An encoder that could not finish a block has both
   tables emptied by the next one.
2. **`version` names the state.** As long as it has not moved, equal blocks decode to equal fields (and equal fields
   encode to equal blocks) without any effect on the table: this is what the wire's memos stand on. So it moves with
   the table's content, its size, and whatever the next block must say or hear of its size. An insert that does not fit
   into an empty table is no change; nginx sets the size to 0 and goes on to "insert" each field.
3. **Limits are for what a block expands to; the work is bounded by its length.** Each octet is looked at once, entries
   of the tables are shared and not copied, and no string is longer than 8/5 of its code.
4. A literal with a static or literal name means the same in every state of the table. These representations are a
   prefix code: none is the beginning of another. So they are remembered whole, as they stood in the block, and a slice
   of a block that equals a remembered one is that field.

What is remembered of strings belongs to one connection and ends with it; it is bounded, and emptied when it is full.
Only the automaton of `huffman` belongs to the process.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

# The package before its parts: while another thread imports it (h2 does), a part by itself deadlocks with that, and
# Python gets out of a deadlock of imports by handing out a half-made module.
import hpack  # noqa: F401  # pyright: ignore[reportUnusedImport]  # for its effect
from hpack.table import HeaderTable

from plugwire_transports.http2.huffman import HuffmanError, from_huffman, to_huffman

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_TABLE_SIZE: Final = 4096
"""What both tables of a connection may hold before any SETTINGS (RFC 9113, 6.5.2), in octets (RFC 7541, 4.1)."""

MAX_TABLE_SIZE: Final = 4096
"""The most that our encoder uses of what the peer allows, so that a peer cannot have us keep more."""

ENTRY_OVERHEAD: Final = 32
"""What is added to the octets of name and value, in tables (RFC 7541, 4.1) and in limits (RFC 9113, 6.5.2)."""

_DECODED_ROOM: Final = 16 * 1024
"""What a decoder remembers, in octets of representations and `_REMEMBERED` for each."""

_ENCODED_ROOM: Final = 64 * 1024
"""What an encoder remembers, counted likewise. It is more, since long secrets come again with each request."""

_REMEMBERED: Final = 128
"""The charge for remembering something, whatever its length."""

_MAX_CONTINUATION: Final = 5
"""Octets behind the first of an integer (RFC 7541, 5.1): enough for 32 bits."""


class HPACKError(ValueError):
    """The block breaks RFC 7541: a connection error of type COMPRESSION_ERROR (RFC 9113, 4.3). The decoder is of no
    further use."""


class TooLarge(ValueError):
    """The block's fields go over a limit. The block was decoded to its end all the same, so the decoder goes on.

    Attributes:
        limit: the parameter of `Decoder.decode` that was passed: "max_size" or "max_fields".
    """

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class Indexing(IntEnum):
    """What becomes of a field in the dynamic tables along its way. The values are the bits of RFC 7541, 6.2."""

    ADD = 0x40
    """Into the table, unless it does not fit: for fields that come again (6.2.1)."""
    WITHOUT = 0x00
    """Not into the table: for fields that do not come again, as paths and lengths (6.2.2)."""
    NEVER = 0x10
    """Into no table, by no intermediary either: for secrets. Always written as a literal (6.2.3, 7.1.3)."""


_ADD: Final = Indexing.ADD
_WITHOUT: Final = Indexing.WITHOUT
_NEVER: Final = Indexing.NEVER

_Pair: TypeAlias = tuple[str, str]
_Field: TypeAlias = tuple[str, str, Indexing]
_Entry: TypeAlias = tuple[_Pair, int]  # the pair and its size


# -- the static table (appendix A) -----------------------------------------------------------------------------------

_PAIRS: Final[list[_Pair]] = [(name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE]
_FIRST_DYNAMIC: Final = 1 + len(_PAIRS)  # 62

# By index; there is none at 0.
_STATIC: Final[list[_Entry]] = [(pair, len(pair[0]) + len(pair[1]) + ENTRY_OVERHEAD) for pair in [("", ""), *_PAIRS]]
_STATIC_NAMES: Final = [pair[0] for pair, _ in _STATIC]

_INDEX_OF: Final = {pair: index for index, pair in enumerate(_PAIRS, 1)}
_INDEX_OF_NAME: Final = {name: index for index, (name, _) in reversed([*enumerate(_PAIRS, 1)])}  # its first


# -- integers and strings (5.1 and 5.2) ------------------------------------------------------------------------------


def _read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """The integer that begins in the low bits of block[at], and where it ends. IndexError if the block ends first."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _MAX_CONTINUATION, 7):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise HPACKError(f"an integer of more than {1 + _MAX_CONTINUATION} octets")


def _integer(value: int, mask: int, pattern: int) -> bytes:
    """The integer in the low bits of an octet and the octets after it; `pattern` is what stands in the high bits."""
    if value < mask:
        return bytes((pattern | value,))
    octets = bytearray((pattern | mask,))
    value -= mask
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _read_string(block: bytes, at: int) -> tuple[str, int]:
    first = block[at]
    length = first & 0x7F
    at += 1
    if length == 0x7F:
        length, at = _read_integer(block, at - 1, 0x7F)
    end = at + length
    if end > len(block):
        raise HPACKError("the block ends inside a string")
    data = block[at:end]
    if first < 0x80:
        return data.decode("latin-1"), end
    try:
        return from_huffman(data), end
    except HuffmanError as error:
        raise HPACKError(str(error)) from None


def _string(text: str) -> bytes:
    """The string with its length, in Huffman code if that is shorter."""
    data = text.encode("latin-1")
    code = to_huffman(data)
    if code is None:
        return _integer(len(data), 0x7F, 0x00) + data
    return _integer(len(code), 0x7F, 0x80) + code


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Memory(dict[_Key, _Value]):
    """A dict that is emptied when what was put into it comes to more than its room."""

    __slots__ = ("_left", "_room")

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = self._left = room

    def remember(self, key: _Key, value: _Value, octets: int) -> None:
        octets += _REMEMBERED
        if octets > self._left:
            if octets > self._room // 4:
                return  # one large thing is not worth all the others
            self.forget()
        self._left -= octets
        self[key] = value

    def forget(self) -> None:
        self.clear()
        self._left = self._room


def _skip_name(block: bytes, at: int) -> int:
    """Where the value of the literal at block[at] begins."""
    octet = block[at]
    if 0x20 <= octet < 0x40:
        raise HPACKError("a table size update behind the block's first field")
    index, at = _read_integer(block, at, 0x3F if octet >= 0x40 else 0x0F)
    if not index:
        length, at = _read_integer(block, at, 0x7F)
        at += length
    return at


# -- decoding --------------------------------------------------------------------------------------------------------


class Decoder:
    """Decodes the header blocks of one direction of one connection. Not safe for use by several threads at once.

    Attributes:
        version: grows whenever the table, its size or the demand for a size update has changed (rule 2).
        max_header_list_size: not used; h2 writes it. The limits are arguments of `decode`.
    """

    def __init__(self) -> None:
        self.version = 0
        self.max_header_list_size = 0
        self._entries: deque[_Entry] = deque()  # the oldest first
        self._used = 0
        self._size = DEFAULT_TABLE_SIZE
        self._allowed = DEFAULT_TABLE_SIZE
        self._demanded: int | None = None  # the next block must begin with a size update, to no more than this
        self._is_broken = False
        self._known: _Memory[bytes, _Entry] = _Memory(_DECODED_ROOM)  # rule 4

    @property
    def header_table_size(self) -> int:
        """The size that the peer's encoder uses, in octets."""
        return self._size

    @property
    def max_allowed_table_size(self) -> int:
        """The SETTINGS_HEADER_TABLE_SIZE that we sent and the peer has acknowledged, in octets. Set below the size in
        use, the next block must begin with an update to no more than that (RFC 7541, 4.2; RFC 9113, 4.3.1)."""
        return self._allowed

    @max_allowed_table_size.setter
    def max_allowed_table_size(self, value: int) -> None:
        if value != self._allowed:
            self.version += 1
        self._allowed = value
        lowest = self._size if self._demanded is None else self._demanded
        if value < lowest:
            self._demanded = value

    def decode(self, block: bytes, max_size: int, max_fields: int) -> list[tuple[str, str]]:
        """The fields of a block, in order, names and values as latin-1.

        Args:
            block: the fragments of HEADERS and its CONTINUATIONs, joined.
            max_size: what the fields may come to, in octets of names and values and 32 for each (RFC 9113, 6.5.2).
            max_fields: how many fields there may be.

        Raises:
            HPACKError: the block breaks RFC 7541. Every later call raises too.
            TooLarge: over a limit; the decoder is in step with its peer, and decodes the next block.
        """
        if self._is_broken:
            raise HPACKError("an earlier block could not be decoded")
        fields: list[tuple[str, str]] = []
        dropped = size = at = 0
        end = len(block)
        entries = self._entries
        known = self._known
        try:
            if self._demanded is not None or (end and 0x20 <= block[0] < 0x40):
                at = self._read_updates(block)
            while at < end:
                octet = block[at]
                if octet >= 0x80:
                    # An index in one octet: below 0xBE (62) static, below 0xFF (where more octets follow) dynamic.
                    if 0x80 < octet < 0xBE:
                        entry = _STATIC[octet - 0x80]
                        at += 1
                    elif octet - 0xBE < len(entries) and 0x80 < octet < 0xFF:
                        entry = entries[0xBD - octet]
                        at += 1
                    else:
                        index, at = _read_integer(block, at, 0x7F)
                        entry = self._entry(index)
                else:
                    after = at + 1 if 0x40 < octet < 0x7F else _skip_name(block, at)
                    length = block[after] & 0x7F
                    if length == 0x7F:
                        length, after = _read_integer(block, after, 0x7F)
                        after += length
                    else:
                        after += 1 + length
                    found = known.get(block[at:after])
                    if found is not None:
                        entry = found
                        at = after
                    else:
                        entry, at = self._read_literal(block, at)
                        if size > max_size or len(fields) > max_fields:
                            # Lost in any case: from here on only the table counts.
                            dropped += len(fields)
                            fields.clear()
                    if octet >= 0x40 and (entries or entry[1] <= self._size):
                        self._insert(entry)
                pair, entry_size = entry
                fields.append(pair)
                size += entry_size
        except IndexError:
            self._is_broken = True
            raise HPACKError("the block ends inside a field") from None
        except BaseException:
            # An interrupt too: nobody knows how far the table has come.
            self._is_broken = True
            raise
        if size > max_size:
            raise TooLarge(f"header fields of {size} octets, more than the {max_size} allowed", "max_size")
        count = dropped + len(fields)
        if count > max_fields:
            raise TooLarge(f"{count} header fields, more than the {max_fields} allowed", "max_fields")
        return fields

    def _entry(self, index: int) -> _Entry:
        if index < _FIRST_DYNAMIC:
            if not index:
                raise HPACKError("index 0")
            return _STATIC[index]
        if index - _FIRST_DYNAMIC >= len(self._entries):
            raise HPACKError(f"index {index}, above the table's last, {_FIRST_DYNAMIC - 1 + len(self._entries)}")
        return self._entries[_FIRST_DYNAMIC - 1 - index]

    def _read_literal(self, block: bytes, start: int) -> tuple[_Entry, int]:
        octet = block[start]
        mask = 0x3F if octet >= 0x40 else 0x0F
        index = octet & mask
        at = start + 1
        if index == mask:
            index, at = _read_integer(block, start, mask)
        if not index:
            name, at = _read_string(block, at)
        elif index < _FIRST_DYNAMIC:
            name = _STATIC_NAMES[index]
        else:
            name = self._entry(index)[0][0]
        value, at = _read_string(block, at)
        entry = (name, value), len(name) + len(value) + ENTRY_OVERHEAD
        if index < _FIRST_DYNAMIC:
            self._known.remember(block[start:at], entry, at - start)
        return entry, at

    def _read_updates(self, block: bytes) -> int:
        """Take the size updates at the block's begin (RFC 7541, 6.3). Returns where they end."""
        at = 0
        while at < len(block) and 0x20 <= block[at] < 0x40:
            size, at = _read_integer(block, at, 0x1F)
            if size > self._allowed:
                raise HPACKError(f"a table size of {size}, above the {self._allowed} allowed")
            if self._demanded is not None:
                if size > self._demanded:
                    raise HPACKError(f"a table size of {size}, where one of at most {self._demanded} was due")
                self._demanded = None
            if size != self._size:
                self._size = size
                self.version += 1
                self._evict(size)
        if self._demanded is not None:
            raise HPACKError("no table size update, though the allowed size has been lowered")
        return at

    def _insert(self, entry: _Entry) -> None:
        size = entry[1]
        if size <= self._size:
            self._evict(self._size - size)
            self._entries.append(entry)
            self._used += size
            self.version += 1
        elif self._entries:
            # Too large for the table: it empties it and stays out (RFC 7541, 4.4).
            self._evict(0)
            self.version += 1

    def _evict(self, size: int) -> None:
        while self._used > size:
            self._used -= self._entries.popleft()[1]


# -- encoding --------------------------------------------------------------------------------------------------------


# The indexed representations of the newest entry (at 1), the one before, ...: as many as a table can hold.
_BY_DISTANCE: Final = [
    _integer(_FIRST_DYNAMIC - 1 + distance, 0x7F, 0x80) for distance in range(1 + MAX_TABLE_SIZE // ENTRY_OVERHEAD)
]


class Encoder:
    """Encodes the header blocks of one direction of one connection. Not safe for use by several threads at once.

    Attributes:
        version: grows whenever the table, its size or what the next block must say of it has changed (rule 2).
    """

    def __init__(self) -> None:
        self.version = 0
        self._entries: deque[tuple[_Field, int]] = deque()  # fields and their sizes, the oldest first
        self._places: dict[_Field, int] = {}  # field -> how many were inserted before it
        self._names: dict[str, int] = {}  # name -> the same of its newest entry
        self._inserted = 0
        self._used = 0
        self._size = DEFAULT_TABLE_SIZE
        self._lowest: int | None = None  # the smallest size since the last block, which must be told of it
        self._known: _Memory[_Field, bytes] = _Memory(_ENCODED_ROOM)  # those that the table has no part in

    @property
    def header_table_size(self) -> int:
        """The size in use, in octets. Set it to the peer's SETTINGS_HEADER_TABLE_SIZE; no more than `MAX_TABLE_SIZE` is
        used of it. The next block tells the peer: the smallest size there was since the last one, then the last."""
        return self._size

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        size = min(value, MAX_TABLE_SIZE)
        if size == self._size:
            return
        self._lowest = min(size, self._size if self._lowest is None else self._lowest)
        self._size = size
        self._evict(size)
        self.version += 1

    def encode(self, fields: Sequence[tuple[str, str, Indexing]]) -> bytes:
        """The fields as a block. Names are in lower case already; names and values are latin-1.

        An encode that raises leaves nothing behind: the next block empties the peer's table.
        """
        parts: list[bytes] = []
        places = self._places
        known = self._known
        try:
            if self._lowest is not None:
                parts.append(self._updates())
            for field in fields:
                place = places.get(field)
                if place is None:
                    parts.append(known.get(field) or self._represent(field))
                else:
                    parts.append(_BY_DISTANCE[self._inserted - place])
            return b"".join(parts)
        except BaseException:
            # An interrupt too, so nothing here is sure to be whole.
            self._entries.clear()
            self._places.clear()
            self._names.clear()
            self._used = self._lowest = 0
            self.version += 1
            raise

    def _updates(self) -> bytes:
        lowest, self._lowest = self._lowest, None
        self.version += 1
        update = _integer(self._size, 0x1F, 0x20)
        if lowest is None or lowest == self._size:
            return update
        return _integer(lowest, 0x1F, 0x20) + update

    def _represent(self, field: _Field) -> bytes:
        """The representation of a field that neither stands in the dynamic table to be found there nor is known."""
        name, value, indexing = field
        if indexing is not _NEVER:
            index = _INDEX_OF.get((name, value))
            if index:
                part = _integer(index, 0x7F, 0x80)
                self._known.remember(field, part, 1)
                return part
            if indexing is _WITHOUT:
                place = self._places.get((name, value, _ADD))
                if place is not None:
                    return _BY_DISTANCE[self._inserted - place]
        index = _INDEX_OF_NAME.get(name, 0)
        if not index and name in self._names:
            index = _FIRST_DYNAMIC - 1 + self._inserted - self._names[name]
        size = len(name) + len(value) + ENTRY_OVERHEAD
        is_added = indexing is _ADD and size <= self._size
        if is_added:
            part = _integer(index, 0x3F, 0x40)
        else:
            part = _integer(index, 0x0F, 0x10 if indexing is _NEVER else 0x00)
        if not index:
            part += _string(name)
        part += _string(value)
        if is_added:
            self._insert(field, size)
        elif index < _FIRST_DYNAMIC:
            self._known.remember(field, part, len(part))
        return part

    def _insert(self, field: _Field, size: int) -> None:
        self._evict(self._size - size)
        self._entries.append((field, size))
        self._used += size
        self._places[field] = self._names[field[0]] = self._inserted
        self._inserted += 1
        self.version += 1

    def _evict(self, size: int) -> None:
        while self._used > size:
            field, freed = self._entries.popleft()
            self._used -= freed
            place = self._places.pop(field)
            if self._names[field[0]] == place:
                del self._names[field[0]]
