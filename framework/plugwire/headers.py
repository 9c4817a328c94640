"""Header fields: ordered, case kept, looked up without regard to case, several lines of one name (RFC 9110, 5).

How it works

A `Headers` is a reference to a `_Fields` and a set of secret names. A `_Fields` never changes once it is published:
a mutation builds a new one and puts it in the old one's place. From that follows everything else:

- `copy()` shares, and costs two assignments; the original and the copy part at the first mutation of either.
- What is derived (the encoded block, the list of lines) is remembered in the `_Fields`, so a request that adds nothing
  to its session's headers sends the session's encoded block, built once.
- A thread that reads sees the fields before or after another thread's mutation, never half of it. Two threads may
  derive the same thing at once; both get equal results, and one of them stays.

A `_Fields` holds its content in one or both of two forms: `lines`, the list of (name, value), and `block`, the bytes
"Name: value CRLF ..." as they stand on the wire. A response is made from a block alone: a name is looked up by `find`
in a lower-cased copy of it, and no list is built until somebody iterates. The look-up is right because of what the
block is known to be: no value holds LF, so LF begins every name and nothing else, and a name never holds a colon.

Rules that hold

1. What enters is valid, so nothing that leaves is checked again: names are tokens, values are free of CR, LF, NUL and
   other controls (RFC 9110, 5.5), without white space around them, and fit latin-1. `from_block` and `from_pairs` are
   for transports, which promise this themselves. Break it and a value can begin a field of its own, or a request.
2. Whoever fills in a derived form stores the parts before that which tells of them (`keys` before `lines`).
3. Set-Cookie is never joined: its values hold commas (RFC 9110, 5.3).
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, overload

from plugwire.errors import InvalidHeader, UsageError

if TYPE_CHECKING:
    from datetime import datetime

T = TypeVar("T")

HeadersInit: TypeAlias = (
    Mapping[str, str]
    | Mapping[str, bytes]
    | Mapping[str, str | bytes]
    | Mapping[bytes, bytes]
    | Iterable[tuple[str | bytes, str | bytes]]
)
"""What `Headers` can be made from: another `Headers` (a Mapping[str, str]), a mapping, or pairs."""

AddMode: TypeAlias = Literal["append", "replace", "if_new", "coalesce"]
"""What `Headers.add` does with lines of the same name that are there already."""

SECRET_NAMES: Final = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
"""The names that every new `Headers` redacts in its repr."""

_USERINFO: Final = re.compile(r"//[^/?#@\s]*@")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*+")
_LINE: Final = re.compile(r"([^:]++):[ \t]*+([^\r]*+)\r\n")


class Headers(MutableMapping[str, str]):
    """The header (or trailer) fields of a message.

    Args:
        init: another `Headers` (its content is shared until one of both changes), a mapping, or an iterable of
            (name, value) pairs. Names and values are str or bytes, both latin-1.

    It is a mutable mapping of names to values, with what HTTP adds to one: `items()`, `values()` and `len()` speak of
    field *lines*, of which several may have one name; iterating and `keys()` give each name once. So `list(h.items())`
    has everything; `dict(h)` joins lines of one name, and fails on several Set-Cookie lines as `h["set-cookie"]` does.

    Raises:
        InvalidHeader: a name is not a token, a value holds CR, LF, NUL or another control character, is not latin-1,
            or is neither str nor bytes. Every method that puts something in raises it, and then has changed nothing.
    """

    __slots__ = ("_fields", "_secret")

    _fields: _Fields
    _secret: frozenset[str]

    def __init__(self, init: HeadersInit | None = None) -> None:
        if init is None:
            self._fields = _EMPTY
            self._secret = SECRET_NAMES
        elif type(init) is not dict and isinstance(init, Headers):  # isinstance is slow on an ABC
            self._fields = init._fields
            self._secret = init._secret
        else:
            self._fields = _Fields(_checked_lines(init), None)
            self._secret = SECRET_NAMES

    # -- trusted roads in, for transports ----------------------------------------------------------------------

    @classmethod
    def from_block(cls, block: bytes) -> Headers:
        """Headers over a block of field lines as received, each ended by CRLF, without the empty line.

        For transports. The block is not looked at: the caller promises that every line is token ":" OWS value OWS
        with a valid value, without line folding. `encoded()` gives back this very block.
        """
        self = _new(cls)
        self._fields = _Fields(None, block)
        self._secret = SECRET_NAMES
        return self

    @classmethod
    def from_pairs(cls, pairs: list[tuple[str, str]]) -> Headers:
        """Headers of these lines. For transports: nothing is checked, and the list belongs to the Headers from now
        on. The caller promises names that are tokens, valid values and no white space around them."""
        self = _new(cls)
        self._fields = _Fields(pairs, None)
        self._secret = SECRET_NAMES
        return self

    # -- looking up --------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> str:
        """The value of the field; several lines joined by ", " (Cookie by "; ": RFC 9113, 8.2.3).

        Raises:
            KeyError: there is none.
            UsageError: there are several Set-Cookie lines, which cannot be joined: use `get_list`.
        """
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    @overload
    def get(self, name: str, default: None = None) -> str | None: ...
    @overload
    def get(self, name: str, default: str | T) -> str | T: ...
    def get(self, name: str, default: Any = None) -> Any:
        """Like `h[name]`, and `default` if there is none."""
        fields = self._fields
        block = fields.block
        if block is None:
            values = fields.values(name)
            if not values:
                return default
            return values[0] if len(values) == 1 else _join(name, values)
        # `values` does the same for any number of lines; most look-ups are for none or one, and are answered here.
        lower = fields.lower or fields.lowered()
        needle = _needle(name if type(name) is str else _text(name))
        found = lower.find(needle)
        if found < 0:
            return default
        start = found + len(needle) - 1
        end = block.find(b"\r", start)
        if lower.find(needle, end) >= 0:
            return _join(name, fields.values(name))
        return str(block[start:end].strip(b" \t"), "latin-1")

    def get_list(self, name: str, split: bool = False) -> list[str]:
        """The values of all lines of this name, in order; [] if there is none.

        With `split` the values are taken apart at their commas too, quoted strings respected, empty elements left
        out (RFC 9110, 5.6.1.2). Only for fields that are defined as lists: not for dates, and not for Set-Cookie.
        """
        values = self._fields.values(name)
        if not split:
            return values
        elements = (element.strip(" \t") for value in values for element in _split_list(value))
        return [element for element in elements if element]

    def get_int(self, name: str) -> int | None:
        """The value as a number of one or more ASCII digits (Age, Content-Length); None if absent or anything else."""
        value = self.get(name)
        # int() refuses more than 4300 digits, since its time is quadratic; no field needs more than 20
        if value is None or not value.isdecimal() or not value.isascii() or len(value) > 1000:
            return None
        return int(value)

    def get_date(self, name: str) -> datetime | None:
        """The value as an aware datetime in UTC, from any of the three forms of RFC 9110, 5.6.7; None if absent or
        invalid (such as `Expires: 0`)."""
        value = self.get(name)
        return None if value is None else _parse_date(value)

    def __contains__(self, name: object) -> bool:
        if type(name) is not str:
            if not isinstance(name, (str, bytes)):
                return False
            name = _text(name)
        fields = self._fields
        if fields.keys is not None or fields.block is None:
            return _key(name) in fields.parsed_keys()
        return (fields.lower or fields.lowered()).find(_needle(name)) >= 0  # `in` takes half as long again

    def __len__(self) -> int:
        """The number of field lines."""
        fields = self._fields
        if fields.lines is not None:
            return len(fields.lines)
        assert fields.block is not None
        return fields.block.count(b"\n")

    def __bool__(self) -> bool:
        fields = self._fields
        return bool(fields.block if fields.lines is None else fields.lines)

    def __iter__(self) -> Iterator[str]:
        """Each name once, spelt as in its first line."""
        fields = self._fields
        seen: dict[str, str] = {}
        for (name, _), key in zip(fields.parsed_lines(), fields.parsed_keys(), strict=True):
            seen.setdefault(key, name)
        return iter(seen.values())

    def keys(self) -> KeysView[str]:
        """Each name once."""
        return _Names(self)

    def values(self) -> ValuesView[str]:
        """The value of every field line."""
        return _Values(self)

    def items(self) -> ItemsView[str, str]:
        """(name, value) of every field line, in order."""
        return _Lines(self)

    # -- changing ----------------------------------------------------------------------------------------------

    def __setitem__(self, name: str | bytes, value: str | bytes) -> None:
        """Replace all lines of this name by one, at the place of the first."""
        self._replace(_checked_name(name), _checked_value(name, value))

    def __delitem__(self, name: str) -> None:
        fields = self._fields
        key = _key(name)
        keys = fields.parsed_keys()
        if key not in keys:
            raise KeyError(name)
        kept = [line for line, other in zip(fields.parsed_lines(), keys, strict=True) if other != key]
        self._fields = _Fields(kept, None)

    def add(self, name: str | bytes, value: str | bytes, mode: AddMode = "append") -> None:
        """Add a field line.

        Args:
            mode: what happens if the name is there already. "append": one more line; "replace": as `h[name] = value`;
                "if_new": nothing; "coalesce": the value joins those that are there in one line, by ", " (Cookie "; ").

        Raises:
            UsageError: Set-Cookie cannot be coalesced.
        """
        name, value = _checked_name(name), _checked_value(name, value)
        if mode == "append":
            self._fields = self._fields.with_last(name, value)
        elif mode == "replace":
            self._replace(name, value)
        elif mode == "if_new":
            if name not in self:
                self._fields = self._fields.with_last(name, value)
        elif mode == "coalesce":
            there = self._fields.values(name)
            joined = _join(name, [*there, value])
            # Empty elements count for nothing (RFC 9110, 5.6.1), and would leave white space at the end of the value.
            if not (value and all(there)):
                joined = _join(name, [one for one in (*there, value) if one])
            self._replace(name, joined)
        else:
            raise UsageError(f"mode must be append, replace, if_new or coalesce, not {mode!r}")

    def prepend(self, name: str | bytes, value: str | bytes) -> None:
        """Add a field line before all others. Made for Host, which should be the first (RFC 9110, 7.2) and is the same
        for many requests: the encoded line is remembered for the last few names and values."""
        name = _checked_name(name)
        if type(value) is not str:
            value = _checked_value(name, value)
        self._fields = _Fields(None, _line(name, value) + self._fields.encoded())

    def update(  # type: ignore[override]  # bytes are taken too
        self, other: HeadersInit = (), /, **fields: str | bytes
    ) -> None:
        """Replace: for each name in `other` all lines of this name by those of `other`, at the place of the first;
        new names come last. Python has no hyphens in keywords, so `fields` fit only names without one."""
        new = _Fields(_checked_lines(other), None) if not isinstance(other, Headers) else other._fields
        if fields:
            new = _replaced(new, _Fields(_checked_lines(fields), None))
        self._fields = _replaced(self._fields, new)

    def over(self, base: Headers) -> Headers:
        """A new Headers: the lines of `base` whose name is not in this one, then this one's.

        So a request's headers stand over its session's. Names that are secret in either are secret in the result.
        If this one is empty, the result shares everything with `base`, its encoded block included.
        """
        mine, theirs = self._fields, base._fields
        if not self:
            result = theirs
        elif not base:
            result = mine
        else:
            own = mine.parsed_keys()
            keys = theirs.parsed_keys()
            if set(own).isdisjoint(keys):
                result = theirs.then(mine)
            else:
                kept = [line for line, key in zip(theirs.parsed_lines(), keys, strict=True) if key not in own]
                result = _Fields(kept + mine.parsed_lines(), None)
        merged = _new(Headers)
        merged._fields = result
        merged._secret = self._secret if self._secret is base._secret else self._secret | base._secret
        return merged

    def clear(self) -> None:
        self._fields = _EMPTY

    def _replace(self, name: str, value: str) -> None:
        fields = self._fields
        self._fields = (
            _replaced(fields, _Fields([(name, value)], None)) if name in self else fields.with_last(name, value)
        )

    # -- secrets -----------------------------------------------------------------------------------------------

    @property
    def secret(self) -> frozenset[str]:
        """The names (lower case) whose values are redacted in the repr and, in a session's headers, are sent to the
        session's own origin only. May be set: `h.secret |= {"x-api-key"}`. Travels with copies."""
        return self._secret

    @secret.setter
    def secret(self, names: Iterable[str]) -> None:
        if isinstance(names, str):
            raise UsageError("secret is a set of names, not one str")
        self._secret = frozenset(name.lower() for name in names)

    # -- as a whole --------------------------------------------------------------------------------------------

    def copy(self) -> Headers:
        """A copy that shares everything until either changes."""
        other = _new(Headers)
        other._fields = self._fields
        other._secret = self._secret
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Headers:
        return self.copy()

    def encoded(self) -> bytes:
        """The lines as they go on the wire, "Name: value" and CRLF each, without the empty line at the end.
        Remembered, and shared by copies."""
        block = self._fields.block
        return self._fields.encoded() if block is None else block

    def __eq__(self, other: object) -> bool:
        """Equal if they have the same names, without regard to case and order, each with the same values in the same
        order. A mapping is compared by what it would be as Headers."""
        if not isinstance(other, Headers):
            if not isinstance(other, Mapping):
                return NotImplemented
            try:
                other = Headers(other)  # pyright: ignore[reportUnknownArgumentType]  # checked by Headers itself
            except InvalidHeader:
                return False
        return self._fields is other._fields or self._fields.grouped() == other._fields.grouped()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Headers({[(name, self._shown(name, value)) for name, value in self._fields.parsed_lines()]!r})"

    def _shown(self, name: str, value: str) -> str:
        if name.lower() in self._secret:
            return "***"
        return _USERINFO.sub("//***@", value) if "@" in value else value  # a Location may have a token there

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.encoded(), self._secret))


_new = Headers.__new__


class FieldNames:
    """Some names, to be looked for at once: that nothing of what is seldom there is there costs one search."""

    __slots__ = ("_first", "_keys", "_later")

    def __init__(self, names: Iterable[str]) -> None:
        self._keys = frozenset(_key(name) for name in names)
        one = b"(?:" + b"|".join(re.escape(key.encode()) for key in sorted(self._keys)) + b"):"
        # Two patterns: one that begins with LF is searched for by LF, and one for both would be tried at each byte.
        self._later = re.compile(b"\n" + one, re.IGNORECASE).search
        self._first = re.compile(one, re.IGNORECASE).match

    def any_in(self, headers: Headers) -> bool:
        """True if `headers` has a field of one of these names."""
        fields = headers._fields  # pyright: ignore[reportPrivateUsage]  # a part of Headers
        block = fields.block
        if fields.keys is not None or block is None:
            return not self._keys.isdisjoint(fields.parsed_keys())
        return self._later(block) is not None or self._first(block) is not None


class _Fields:
    """The content of one or more Headers. Never changes once a Headers holds it, apart from derived forms that are
    filled in. At least one of `lines` and `block` is there."""

    __slots__ = ("block", "keys", "lines", "lower")

    def __init__(self, lines: list[tuple[str, str]] | None, block: bytes | None) -> None:
        self.lines = lines
        self.block = block
        self.keys: list[str] | None = None  # the lower-case names of `lines`, at the same places
        self.lower: bytes | None = None  # LF and the lower-cased block: every name stands between LF and a colon

    def parsed_lines(self) -> list[tuple[str, str]]:
        lines = self.lines
        if lines is None:
            assert self.block is not None
            found = _LINE.findall(str(self.block, "latin-1"))
            lines = self.lines = [(name, value.rstrip(" \t")) for name, value in found]
        return lines

    def parsed_keys(self) -> list[str]:
        keys = self.keys
        if keys is None:
            lines = self.parsed_lines()
            keys = self.keys = [name.lower() for name, _ in lines]
        return keys

    def encoded(self) -> bytes:
        block = self.block
        if block is None:
            assert self.lines is not None
            block = self.block = "".join([f"{name}: {value}\r\n" for name, value in self.lines]).encode("latin-1")
        return block

    def lowered(self) -> bytes:
        lower = self.lower
        if lower is None:
            lower = self.lower = b"\n" + self.encoded().lower()
        return lower

    def values(self, name: str | bytes) -> list[str]:
        block = self.block
        if self.keys is None and block is not None:
            values: list[str] = []
            lower, needle = self.lowered(), _needle(_text(name))
            found = lower.find(needle)
            while found >= 0:
                start = found + len(needle) - 1  # `lower` has one byte more in front
                end = block.find(b"\r", start)
                values.append(str(block[start:end].strip(b" \t"), "latin-1"))
                found = lower.find(needle, end)
            return values
        key = _key(name)
        keys = self.parsed_keys()
        if key not in keys:
            return []
        return [line[1] for line, other in zip(self.parsed_lines(), keys, strict=True) if other == key]

    def grouped(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for (_, value), key in zip(self.parsed_lines(), self.parsed_keys(), strict=True):
            groups.setdefault(key, []).append(value)
        return groups

    # A new line is put to the block where there is one: no list is built to be encoded again right after.

    def with_last(self, name: str, value: str) -> _Fields:
        if self.block is None:
            return _Fields([*self.parsed_lines(), (name, value)], None)
        return _Fields(None, self.block + f"{name}: {value}\r\n".encode("latin-1"))

    def then(self, other: _Fields) -> _Fields:
        if self.block is None:
            return _Fields(self.parsed_lines() + other.parsed_lines(), None)
        return _Fields(None, self.block + other.encoded())


_EMPTY: Final = _Fields([], b"")


def _replaced(old: _Fields, new: _Fields) -> _Fields:
    """The lines of `old`, those of a name in `new` replaced by `new`'s at the place of the first; then the rest."""
    if not new.parsed_keys():
        return old
    groups: dict[str, list[tuple[str, str]]] = {}
    for line, key in zip(new.parsed_lines(), new.parsed_keys(), strict=True):
        groups.setdefault(key, []).append(line)
    lines: list[tuple[str, str]] = []
    placed: set[str] = set()
    for line, key in zip(old.parsed_lines(), old.parsed_keys(), strict=True):
        if key not in groups:
            lines.append(line)
        elif key not in placed:
            placed.add(key)
            lines.extend(groups[key])
    lines.extend(line for line, key in zip(new.parsed_lines(), new.parsed_keys(), strict=True) if key not in placed)
    return _Fields(lines, None)


def _rebuild(block: bytes, secret: frozenset[str]) -> Headers:
    headers = Headers.from_block(block)
    headers.secret = secret
    return headers


# -- views: of lines, not of names ---------------------------------------------------------------------------------


class _Names(KeysView[str]):
    __slots__ = ()
    _mapping: Headers

    def __len__(self) -> int:
        return len(set(self._mapping._fields.parsed_keys()))  # pyright: ignore[reportPrivateUsage]  # a part of Headers


class _Values(ValuesView[str]):
    __slots__ = ()
    _mapping: Headers

    def __iter__(self) -> Iterator[str]:
        return iter([value for _, value in self._mapping._fields.parsed_lines()])  # pyright: ignore[reportPrivateUsage]  # a part of Headers

    def __contains__(self, value: object) -> bool:
        return value in list(self)


class _Lines(ItemsView[str, str]):
    __slots__ = ()
    _mapping: Headers

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._mapping._fields.parsed_lines())  # pyright: ignore[reportPrivateUsage]  # a part of Headers

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:  # pyright: ignore[reportUnknownArgumentType]  # whatever came
            return False
        name, value = item  # pyright: ignore[reportUnknownVariableType]  # checked below
        return isinstance(name, str) and value in self._mapping.get_list(name)


# -- names and values ----------------------------------------------------------------------------------------------


def _checked_lines(init: Any) -> list[tuple[str, str]]:
    if type(init) is dict or isinstance(init, Mapping):
        init = init.items()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # checked below
    lines: list[tuple[str, str]] = []
    kind = type(init).__name__
    try:
        iterator = iter(init)
    except TypeError:
        raise InvalidHeader(f"headers are a mapping or an iterable of pairs, not {kind}") from None
    for pair in iterator:
        if isinstance(pair, (str, bytes)):
            raise InvalidHeader(f"headers are a mapping or an iterable of pairs, not of {type(pair).__name__}")
        try:
            name, value = pair
        except (TypeError, ValueError):
            raise InvalidHeader("headers are a mapping or an iterable of (name, value) pairs") from None
        name = _checked_name(name)
        lines.append((name, _checked_value(name, value)))
    return lines


def _checked_name(name: object) -> str:
    if type(name) is not str:
        if isinstance(name, bytes):
            name = str(name, "latin-1")
        elif isinstance(name, str):
            name = str.__str__(name)  # a plain str: an Enum member would be formatted by its own name
        else:
            raise InvalidHeader(f"a field name is str or bytes, not {type(name).__name__}")
    return _token(name)


@lru_cache(1024)
def _token(name: str) -> str:
    if not is_token(name):
        what = "is empty" if not name else "holds a character that is not allowed (RFC 9110, 5.1)"
        raise InvalidHeader(f"field name {_short(name)} {what}")
    return name


def _checked_value(name: str | bytes, value: object) -> str:
    if type(value) is not str:
        if isinstance(value, bytes):
            value = str(value, "latin-1")
        elif isinstance(value, str):
            value = str.__str__(value)
        else:
            raise InvalidHeader(f"field {_short(name)}: the value is str or bytes, not {type(value).__name__}")
    value = value.strip(" \t")
    if _VALUE.fullmatch(value) is None:
        raise _bad_value(name, value)
    return value


def _bad_value(name: str | bytes, value: str) -> InvalidHeader:
    """Names the character and its place, never the value: it may be a secret."""
    match = _VALUE.match(value)
    assert match is not None
    place = match.end()
    bad = value[place]
    if bad > "\xff":
        return InvalidHeader(
            f"field {_short(name)}: {bad!a} at position {place} is not latin-1; field values cannot carry it: encode it"
            " (RFC 8187), or pass bytes if the server reads UTF-8"
        )
    return InvalidHeader(f"field {_short(name)}: control character {bad!r} at position {place} (RFC 9110, 5.5)")


def _short(name: str | bytes) -> str:
    text = _text(name)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _text(name: str | bytes) -> str:
    if isinstance(name, bytes):
        return str(name, "latin-1")
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all checked
        raise TypeError(f"a field name is str or bytes, not {type(name).__name__}")
    return name


@lru_cache(256)
def _line(name: str, value: str) -> bytes:
    return f"{name}: {_checked_value(name, value)}\r\n".encode("latin-1")


def _key(name: str | bytes) -> str:
    """The name in lower case. A name that is no token is in no Headers, and is not made one by lower-casing (as the
    Kelvin sign would be)."""
    name = _text(name)
    return name.lower() if name.isascii() else ""


def is_token(name: str) -> bool:
    """True for what can be a field's name (RFC 9110, 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None


@lru_cache(1024)
def _needle(name: str) -> bytes:
    """What to look for in `_Fields.lower`."""
    # A name with a colon or LF in it must not be found across the border of name and value. No valid block has NUL.
    return b"\n" + name.lower().encode() + b":" if is_token(name) else b"\0"


def _join(name: str | bytes, values: list[str]) -> str:
    key = _key(name)
    if key == "set-cookie" and len(values) > 1:
        raise UsageError("several Set-Cookie lines cannot be joined (RFC 9110, 5.3): use get_list('set-cookie')")
    return ("; " if key == "cookie" else ", ").join(values)


# -- lists ---------------------------------------------------------------------------------------------------------


def _split_list(value: str) -> list[str]:
    """The value cut at the commas that are not in a quoted string. One that does not end goes on to the end."""
    if '"' not in value:
        return value.split(",")
    elements: list[str] = []
    start = place = 0
    comma = -1
    while True:
        if comma < place:
            comma = value.find(",", place)
            if comma < 0:
                comma = len(value)
        quote = value.find('"', place, comma)
        if quote >= 0:
            place = end_of_quoted(value, quote + 1) + 1
            if place:
                continue
            comma = len(value)
        elements.append(value[start:comma])
        if comma == len(value):
            return elements
        start = place = comma + 1


def end_of_quoted(value: str, place: int) -> int:
    """Where the quote is that ends a quoted string (RFC 9110, 5.6.4) whose content begins at `place`; -1: none is.

    Not by a regular expression: for each escaped character it would keep some 200 bytes until the match ends.
    """
    quote = value.find('"', place)
    while quote >= 0:
        escape = value.find("\\", place, quote)
        if escape < 0:
            return quote
        place = escape + 2
        if place > quote:
            quote = value.find('"', place)
    return -1


# -- dates ---------------------------------------------------------------------------------------------------------

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES: Final = (
    # IMF-fixdate, RFC 850 and asctime, in this order (RFC 9110, 5.6.7)
    rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
    rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
    rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})",
)


def _parse_date(text: str) -> datetime | None:
    from datetime import UTC, datetime

    for form in _DATES:
        match = re.fullmatch(form, text)
        if match is not None:
            break
    else:
        return None
    year = int(match["year"])
    second = min(int(match["second"]), 59) if match["second"] == "60" else int(match["second"])  # a leap second
    try:
        if len(match["year"]) == 2:
            # Two digits mean the latest year that is not more than 50 years in the future. The wall clock is read
            # here: this is about the calendar, not about when to give up.
            this_year = datetime.now(UTC).year
            year += this_year - this_year % 100 + 100
            while year > this_year + 50:
                year -= 100
        return datetime(
            year, _MONTHS.index(match["month"]) + 1, int(match["day"]), int(match["hour"]), int(match["minute"]),
            second, tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return None
