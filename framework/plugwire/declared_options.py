"""The options that plugins and transports declare: which type owns which name, and whether a value will do.

A plugin declares frozen dataclasses (`option_types`), and the names of their fields are what users write in `options=`,
on a session or on a call. Beside these stand the names of the route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

from plugwire.errors import UnknownOption, UsageError


class Options:
    """The declared options of a session: which type owns which name, and what the session set."""

    def __init__(
        self, kinds: Sequence[tuple[type, str]], route_names: frozenset[str], given: Mapping[str, object] | None
    ) -> None:
        self._owner: dict[str, type] = {}
        self._kinds = [kind for kind, _ in kinds]
        self.route_names = route_names
        claimed: dict[str, str] = dict.fromkeys(route_names, "the route")
        for kind, plugin in kinds:
            for field in fields(kind):
                other = claimed.get(field.name)
                if other is not None and self._owner.get(field.name) is not kind:
                    raise UnknownOption(f"the option {field.name!r} is claimed by both {other} and {plugin}")
                claimed[field.name] = plugin
                self._owner[field.name] = kind
        self._base: dict[type, Any] = {}
        given = given or {}
        self.check(given)
        for kind in self._kinds:
            mine = {name: value for name, value in given.items() if self._owner.get(name) is kind}
            self._base[kind] = self._build(kind, mine)
        self.route_base = {name: value for name, value in given.items() if name in route_names}

    def overlaid(self, given: Mapping[str, object]) -> Options:
        """The same declarations with other values of the session."""
        return Options([(kind, kind.__name__) for kind in self._kinds], self.route_names, given)

    def check(self, given: Mapping[str, object]) -> None:
        """Raises `UnknownOption` for a name that nobody declared, or a value of the wrong type or that its class
        refuses."""
        if not isinstance(given, Mapping):
            raise UsageError(f"options={given!r}: a mapping of names to values")
        for name, value in given.items():
            if name in self.route_names:
                continue
            owner = self._owner.get(name)
            if owner is None:
                from difflib import get_close_matches

                known = sorted({*self._owner, *self.route_names})
                close = get_close_matches(name, known, 1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"
                raise UnknownOption(f"unknown option {name!r}{hint}")
            _check_type(owner, name, value)
        # What the class itself says of its values is said now, before any I/O, and not when a plugin asks.
        for kind in self._base:
            self.of(kind, given)

    def of(self, kind: type, given: Mapping[str, object]) -> Any:
        """The values of one declared type: defaults, overlaid with the session's, overlaid with `given`."""
        base = self._base.get(kind)
        if base is None:
            raise UnknownOption(f"{kind.__name__} was not declared by any plugin of this session (option_types)")
        if not given:
            return base
        mine = {name: value for name, value in given.items() if self._owner.get(name) is kind}
        if not mine:
            return base
        return self._build(kind, {**{f.name: getattr(base, f.name) for f in fields(kind)}, **mine})

    @staticmethod
    def _build(kind: type, values: Mapping[str, object]) -> Any:
        try:
            return kind(**values)
        except UsageError:
            raise
        except (TypeError, ValueError) as error:
            raise UnknownOption(f"options of {kind.__name__}: {error}") from error


def _check_type(kind: type, name: str, value: object) -> None:
    """Refuse a value whose type is plainly not the declared one. Only plain types and unions of them are checked;
    what a field means beyond that, its class checks itself."""
    wanted = _hints(kind).get(name)
    allowed = _plain_types(wanted)
    if allowed is None:
        return
    if (isinstance(value, bool) and bool not in allowed) or not isinstance(value, allowed):
        raise UnknownOption(
            f"option {name}={value!r}: {wanted if isinstance(wanted, str) else _spelled(wanted)} is wanted"
        )


@lru_cache(maxsize=256)
def _hints(kind: type) -> Mapping[str, Any]:
    from typing import get_type_hints

    try:
        return get_type_hints(kind)
    except Exception:  # annotations that only a type checker can resolve: then the class checks its values itself
        return {}


def _plain_types(wanted: Any) -> tuple[type, ...] | None:
    from types import NoneType, UnionType
    from typing import Union, get_args, get_origin

    if wanted is None or wanted is NoneType:
        return (NoneType,) if wanted is NoneType else None
    if wanted is float:
        return (float, int)
    if get_origin(wanted) in (UnionType, Union):
        parts = [_plain_types(part) for part in get_args(wanted)]
        return None if any(part is None for part in parts) else tuple(kind for part in parts for kind in part or ())
    origin = get_origin(wanted) or wanted
    return (origin,) if isinstance(origin, type) and origin not in (object, Callable) else None


def _spelled(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) else str(wanted)
