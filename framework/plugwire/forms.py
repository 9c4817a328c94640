"""The fields of a form, as `data=` and `params=` take them; and the url-encoded form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from plugwire.errors import UsageError


def encode_form(data: object) -> bytes:
    """Form fields, url-encoded (WHATWG URL, 5.2)."""
    from urllib.parse import urlencode

    return urlencode(form_fields(data)).encode("ascii")


def form_fields(data: object, keyword: str = "data=") -> list[tuple[str | bytes, str | bytes]]:
    """The fields that `data=` means, in order; or what `keyword` names for the errors.

    A list or tuple as a value gives the field several times; None leaves it out; True and False are written "true" and
    "false". What has parts of its own is refused: there is no one way to write a mapping into a form, and a file's
    place is `files=`.

    Raises:
        UsageError: it is no mapping and no pairs, or a name or value cannot be written.
    """
    if isinstance(data, (str, bytes, bytearray, memoryview)):
        ready = "; a ready body goes into content=" if keyword == "data=" else ""
        raise UsageError(f"{keyword}: fields as a mapping or as pairs{ready}")
    fields: list[tuple[str | bytes, str | bytes]] = []
    for name, value in pairs_of(data, keyword, "fields"):
        spelled = _spelled(keyword, name, name)
        several: list[Any] = [*value] if isinstance(value, (list, tuple)) else [value]
        fields += [(spelled, _spelled(keyword, name, one)) for one in several if one is not None]
    return fields


def pairs_of(given: object, keyword: str, what: str) -> list[tuple[Any, Any]]:
    """The pairs of a mapping, or of an iterable of pairs."""
    anything: Any = given
    kind = type(given).__name__
    if hasattr(given, "read"):
        raise UsageError(f"{keyword}: {what} as a mapping or as pairs; a file as the whole body goes into content=")
    try:
        items: list[Any] = list(anything.items() if isinstance(given, Mapping) else anything)
    except TypeError as error:
        raise UsageError(f"{keyword}: {what} as a mapping or as pairs, not {kind}") from error
    pairs: list[tuple[Any, Any]] = []
    for item in items:
        match item:
            case (name, value):
                pairs.append((name, value))
            case _:
                raise UsageError(f"{keyword}: {what} as a mapping or as pairs, and {type(item).__name__} is no pair")
    return pairs


def _spelled(keyword: str, name: object, value: Any) -> str | bytes:
    """A name or value as it is written. Numbers, dates, identifiers and their like are written as `str` writes them."""
    kind = type(value).__name__
    match value:
        case bytes():
            return value
        case str():
            if not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError as error:  # a lone surrogate
                    raise UsageError(f"{keyword}: the field {name!a} cannot be written: {error}") from error
            return value
        case bytearray() | memoryview():
            return bytes(cast("bytes", value))
        case bool():
            return "true" if value else "false"
        case _ if value is None or callable(value) or hasattr(value, "__iter__"):
            hint = "a file goes into files=" if hasattr(value, "read") else "json= carries what has parts"
            raise UsageError(f"{keyword}: the field {name!r} has a name or value of type {kind}; {hint}")
        case _:
            return str(value)
