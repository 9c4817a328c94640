"""What a session is made of: finds plugins and transports, checks them, and freezes.

Three things are kept apart:

- *Finding.* A plugin or transport is given as an object, or by name. Names of shipped ones stand in the tables of
  `shipped`, so default use looks nothing up. Any other name makes the registry scan the environment's entry points,
  once per process. A package that is merely installed is never used: only what the program itself names.
- *Checking.* pluggy validates signatures; what pluggy lets through and we do not is refused in `_Manager`. Whatever is
  wrong is said in the session's constructor, with the plugin's name, before any I/O.
- *Order.* pluggy runs the last registered first. We keep list order ourselves: first listed is outermost, and the
  default plugins come after the user's.

After the constructor nothing can be registered.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import is_dataclass
from functools import cached_property, lru_cache
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from plugwire.errors import PluginError, UsageError
from plugwire.events import ALL, Event
from plugwire.headers import is_token
from plugwire.hookspecs import (
    ASYNC_HOOKS,
    CONDITIONS_ATTRIBUTE,
    DEFAULT_STAGES,
    HOOKS,
    PROJECT,
    STAGE_ATTRIBUTE,
    Hooks,
    Stage,
)
from plugwire.shipped import DEFAULT_PLUGINS, SHIPPED_PLUGINS, SHIPPED_TRANSPORTS, imported

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from plugwire.call import Call
    from plugwire.messages import AsyncResponse, Request
    from plugwire.protocols import Transport

PluginLike: TypeAlias = "object | str | Callable[..., Any]"

WORLDS: Final = ("blocking", "asyncio", "trio")

ROLES: Final[Mapping[str, str]] = {
    "resolver": "resolve",
    "dialler": "dial",
    "securer": "secure",
    "speaker": "speak",
    "whole": "open",
}
"""The roles, and the method that makes a transport play one."""


class ResponseCondition(NamedTuple):
    """What a response must be for middleware to run: one of the three."""

    function: Callable[[AsyncResponse], bool] | None = None
    field: str | None = None
    statuses: frozenset[int] = frozenset()

    def is_met_by(self, response: AsyncResponse) -> bool:
        """True if the middleware runs."""
        if self.function is not None:
            return self.function(response)
        return response.status_code in self.statuses if self.field is None else self.field in response.headers


class Hook(NamedTuple):
    """One implementation of a hook, checked.

    arguments: the names of the arguments that it takes, a part of the specification's. if_request, if_response: when it
    runs, functions bound to the plugin; both None: always.
    """

    plugin: object
    name: str
    hook: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    stage: Stage | None
    is_default: bool
    if_request: Callable[[Request, Call], bool] | None = None
    if_response: ResponseCondition | None = None


class Plugins(NamedTuple):
    """The plugins of a session, frozen. `hooks` are in list order."""

    names: tuple[str, ...]
    hooks: tuple[Hook, ...]
    option_types: tuple[tuple[type, str], ...]
    worlds: tuple[tuple[str, frozenset[str]], ...]

    def of(self, hook: str) -> list[Hook]:
        """The implementations of one hook, in list order."""
        return [found for found in self.hooks if found.hook == hook]


class FunctionPlugin:
    """The short form: a bare `async def (request, call_next)` or `(request, call_next, call)` as `around_send`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        name = self.__name__
        if hasattr(function, f"{PROJECT}_impl"):
            raise PluginError(f"{name} is a bare function, and those take no mark: only methods of plugins do", name)
        try:
            check_hook(function, "around_send", name)
        except PluginError as error:
            raise PluginError(
                f"{name} as a plugin: the short form is `async def name(request, call_next)`, with `call` as a third "
                f"argument if you need it ({error})",
                name,
            ) from None

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def collect_plugins(given: Sequence[PluginLike], *, defaults: bool) -> Plugins:
    """Check the user's plugins and the default ones, and freeze them.

    Raises:
        PluginError: one of them breaks a rule; the message names it.
        UnknownOption: two of them claim the same option.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise UsageError(f"plugins={given!r}: a list of objects and names")
    listed: list[tuple[object, str, bool]] = []
    for item in given:
        plugin = _found(item, "plugwire.plugins", SHIPPED_PLUGINS) if isinstance(item, str) else item
        if inspect.isroutine(plugin):
            plugin = FunctionPlugin(plugin)
        listed.append((plugin, item if isinstance(item, str) else _name_of(plugin), False))
    if defaults:
        for name in DEFAULT_PLUGINS:
            plugin = _found(name, "plugwire.plugins", SHIPPED_PLUGINS)
            # A default plugin that the user lists takes the place of ours: `plugins=[Redirects(allow_insecure=True)]`.
            if not any(isinstance(mine, type(plugin)) for mine, _, _ in listed):
                listed.append((plugin, name, True))
    return _checked(listed)


def _checked(listed: list[tuple[object, str, bool]]) -> Plugins:
    hooks: list[Hook] = []
    names: list[str] = []
    option_types: list[tuple[type, str]] = []
    worlds: list[tuple[str, frozenset[str]]] = []
    manager = _manager() if listed else None
    for plugin, wanted, is_default in listed:
        if any(_same(plugin) is _same(seen) for seen, _, _ in listed[: len(names)]):
            raise PluginError(f"the plugin {wanted} is listed twice: one object has one place", wanted)
        name = _unique(wanted, names)
        methods = _methods_of(plugin, name)
        hooks.extend(_hooks_of(plugin, name, methods, is_default))
        assert manager is not None
        manager.add(name, methods)
        option_types.extend((kind, name) for kind in _option_types(plugin, name))
        if (allowed := worlds_of(plugin, name)) is not None:
            worlds.append((name, allowed))
        names.append(name)
    return Plugins(tuple(names), tuple(hooks), tuple(option_types), tuple(worlds))


def _same(plugin: object) -> object:
    """What counts as the same object: of a bare function the function, not the wrapper that we put around it."""
    return plugin.function if isinstance(plugin, FunctionPlugin) else plugin


def worlds_of(plugin: object, name: str) -> frozenset[str] | None:
    """The worlds that a plugin or transport works in, or None for all."""
    allowed: Any = getattr(plugin, "worlds", None)
    if allowed is None:
        return None
    if isinstance(allowed, (set, frozenset, tuple, list)):
        worlds = frozenset(cast("Collection[str]", allowed))
        if worlds <= {*WORLDS}:
            return worlds
    raise PluginError(f"{name}.worlds={allowed!r}: a set of some of {', '.join(WORLDS)}", name)


def _name_of(plugin: object) -> str:
    name = getattr(plugin, "name", None) or getattr(plugin, "__name__", None)
    return (
        name
        if isinstance(name, str) and not isinstance(plugin, type)
        else getattr(plugin, "__name__", type(plugin).__name__)
    )


def _unique(name: str, taken: list[str]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name} #{number}"
    return unique


# -- checking ------------------------------------------------------------------------------------------------------


def _methods_of(plugin: object, name: str) -> dict[str, Callable[..., Any]]:
    """What implements hooks, by the hook's name; and all that can be said of the object as a whole without pluggy."""
    if isinstance(plugin, type):
        raise PluginError(f"the plugin {name} is a class: give an object, {name}()", name)
    if isinstance(plugin, FunctionPlugin):
        return {}
    _check_names(plugin, name)
    methods: dict[str, Callable[..., Any]] = {}
    for hook in HOOKS:
        function = _attribute(plugin, hook)
        if function is None:
            continue
        if not hasattr(function, f"{PROJECT}_impl"):
            # An auth object has an unmarked around_send, because it is no plugin of the session.
            raise PluginError(f"{name}.{hook} has a hook's name but not the mark @plugwire.hookimpl", name)
        methods[hook] = function
    if not methods:
        raise PluginError(f"the plugin {name} ({plugin!r}) implements no hook; the hooks are {', '.join(HOOKS)}", name)
    for kind in _events_of(plugin, name):
        if not issubclass(kind, Event):
            raise PluginError(f"{name}.events has {kind!r}, which is no event class", name)
    return methods


def _check_names(plugin: object, name: str) -> None:
    """Raises for a marked method that has no hook's name."""
    seen: set[str] = set()
    # Not looked up, but in these: what is no plain function may do anything when it is.
    for holder in (plugin, *type(plugin).__mro__[:-1]):
        for attribute, function in getattr(holder, "__dict__", {}).items():
            if (
                attribute not in seen
                and isinstance(getattr(function, f"{PROJECT}_impl", None), dict)
                and attribute not in HOOKS
            ):
                raise PluginError(
                    f"{name}.{attribute} is marked as a hook, but there is no such hook: {', '.join(HOOKS)}", name
                )
            seen.add(attribute)


def _attribute(plugin: object, name: str) -> Any:
    """A method of the plugin; properties are not evaluated."""
    if isinstance(inspect.getattr_static(plugin, name, None), (property, cached_property)):
        return None
    return getattr(plugin, name, None)


def _events_of(plugin: object, name: str) -> tuple[type[Event], ...]:
    events: Any = getattr(plugin, "events", ALL)
    # No lists: a plugin that keeps what it has seen in self.events would silently be told nothing.
    if isinstance(events, (tuple, frozenset)):
        kinds = tuple(cast("Collection[object]", events))
        if all(isinstance(kind, type) for kind in kinds):
            return cast("tuple[type[Event], ...]", kinds)
    raise PluginError(f"{name}.events must be a tuple of event classes, not {events!r}", name)


def _arguments(function: Callable[..., Any], where: str) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise PluginError(f"{where} has no signature that can be read: {error}", where) from error


def check_hook(function: Callable[..., Any], hook: str, name: str) -> tuple[str, ...]:
    """The rules that every implementation of a hook obeys; the names of its arguments."""
    where = f"{name}.{hook}"
    wanted = _arguments_of(hook)
    is_async = _is_async(function)
    if is_async and hook not in ASYNC_HOOKS:
        raise PluginError(f"{where} is `async def`, but the hook is a plain function", name)
    if not is_async and hook in ASYNC_HOOKS:
        raise PluginError(f"{where} is a plain function, but the hook is `async def`", name)
    arguments = _arguments(function, where)
    for parameter in arguments.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PluginError(f"{where}: the argument {parameter} is not of the form that hooks are called with", name)
        if parameter.name not in wanted:
            raise PluginError(
                f"{where} takes {parameter.name!r}, which the hook does not have: {', '.join(wanted)}", name
            )
        if parameter.default is not parameter.empty:
            raise PluginError(f"{where}: {parameter.name} has a default, so pluggy would silently never pass it", name)
    names = tuple(arguments)
    if names != tuple(argument for argument in wanted if argument in names):
        raise PluginError(f"{where} takes its arguments in another order than the hook: {', '.join(wanted)}", name)
    if hook in ("around_call", "around_send") and names[:2] != ("request", "call_next"):
        raise PluginError(f"{where} must take request and call_next", name)
    return names


@lru_cache(maxsize=len(HOOKS))
def _arguments_of(hook: str) -> tuple[str, ...]:
    """The names of the arguments that a hook has."""
    return tuple(inspect.signature(getattr(Hooks, hook)).parameters)[1:]


def _is_async(function: Callable[..., Any]) -> bool:
    """Looks through plain decorators (functools.wraps) and callable objects, which inspect takes for plain."""
    inner = inspect.unwrap(function)
    return (
        inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(inner)
        or (
            not inspect.isroutine(inner) and inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004
        )
    )


def _hooks_of(plugin: object, name: str, methods: Mapping[str, Callable[..., Any]], is_default: bool) -> list[Hook]:
    if isinstance(plugin, FunctionPlugin):
        arguments = tuple(_arguments(plugin.function, name))
        return [Hook(plugin, name, "around_send", plugin.function, arguments, Stage.ATTEMPT, is_default)]
    found: list[Hook] = []
    for hook, function in methods.items():
        arguments = check_hook(function, hook, name)
        stage = _stage_of(function, hook, name)
        conditions = _conditions_of(plugin, function, hook, name)
        found.append(Hook(plugin, name, hook, function, arguments, stage, is_default, *conditions))
    return found


def _conditions_of(plugin: object, function: Callable[..., Any], hook: str, name: str) -> tuple[Any, Any]:
    """The conditions under which it runs, bound to the plugin."""
    given: tuple[Any, Any] = getattr(function, CONDITIONS_ATTRIBUTE, (None, None))
    bound: list[Any] = []
    for condition, keyword, arguments in zip(
        given, ("if_request", "if_response"), ("self, request, call", "self, response"), strict=True
    ):
        if condition is None:
            bound.append(None)
            continue
        where = f"{name}.{hook}: {keyword}"
        if hook not in DEFAULT_STAGES or (hook == "around_read" and keyword == "if_request"):
            raise PluginError(f"{where} means nothing for this hook", name)
        if keyword == "if_response" and (data := _as_data(condition)) is not None:
            bound.append(data)
            continue
        if not inspect.isroutine(condition) or _is_async(condition):
            or_data = ", the name of a field or a set of status codes" if keyword == "if_response" else ""
            raise PluginError(f"{where} must be a plain function of ({arguments}){or_data}", name)
        if len(_arguments(condition, where)) != arguments.count(",") + 1:
            raise PluginError(f"{where} must take ({arguments})", name)
        method = MethodType(condition, plugin)
        bound.append(method if keyword == "if_request" else ResponseCondition(method))
    return bound[0], bound[1]


def _as_data(condition: Any) -> ResponseCondition | None:
    """The name of a field, or a set of status codes."""
    if isinstance(condition, str) and is_token(condition):
        return ResponseCondition(field=condition)
    if isinstance(condition, Set) and condition:
        codes = cast("Set[object]", condition)
        statuses = frozenset(code for code in codes if type(code) is int and 100 <= code <= 999)
        return ResponseCondition(statuses=statuses) if len(statuses) == len(codes) else None
    return None


def _stage_of(function: Callable[..., Any], hook: str, name: str) -> Stage | None:
    word = getattr(function, STAGE_ATTRIBUTE, None)
    if hook not in DEFAULT_STAGES:
        if word is not None:
            raise PluginError(f"{name}.{hook} stands at no stage, so stage={word!r} means nothing", name)
        return None
    stage = DEFAULT_STAGES[hook] if word is None else Stage[word.upper()]
    if hook == "around_call" and not stage.is_in_call_tier:
        raise PluginError(f"{name}.around_call at stage {stage.word}: that one is in the send tier (around_send)", name)
    if hook == "around_send" and stage.is_in_call_tier:
        raise PluginError(f"{name}.around_send at stage {stage.word}: that one is in the call tier (around_call)", name)
    return stage


def _option_types(plugin: object, name: str) -> tuple[type, ...]:
    kinds: Any = getattr(plugin, "option_types", ())
    if not isinstance(kinds, tuple):
        raise PluginError(f"{name}.option_types must be a tuple of frozen dataclasses", name)
    types = tuple(cast("Collection[Any]", kinds))
    for kind in types:
        if not (isinstance(kind, type) and is_dataclass(kind) and kind.__dataclass_params__.frozen):  # type: ignore[attr-defined]  # dataclasses keep it there
            raise PluginError(f"{name}.option_types has {kind!r}: frozen dataclasses only", name)
    return types


def watched(hooks: Sequence[Hook]) -> dict[type[Event], tuple[Callable[[Event], object], ...]]:
    """For each event class, who observes it."""
    found: dict[type[Event], tuple[Callable[[Event], object], ...]] = {}
    for hook in hooks:
        wanted = _events_of(hook.plugin, hook.name)
        observer = _observer(hook)
        for kind in ALL:
            if any(issubclass(kind, one) for one in wanted):
                found[kind] = (*found.get(kind, ()), observer)
        for kind in wanted:
            if kind not in ALL and kind is not Event:
                found[kind] = (*found.get(kind, ()), observer)
    return found


def _observer(hook: Hook) -> Callable[[Event], object]:
    """observe with its argument, whether it takes it or not."""
    function = hook.function
    return function if hook.arguments else lambda event: function()


@lru_cache(maxsize=1)
def _manager_class() -> Any:
    """The `PluginManager` of this project; made when first needed, because importing pluggy takes 20 ms."""
    import pluggy

    class Manager(pluggy.PluginManager):
        """Registers and validates. Hooks are never called through it: pluggy knows no async."""

        def __init__(self) -> None:
            super().__init__(PROJECT)
            self.add_hookspecs(Hooks)

        def add(self, name: str, methods: Mapping[str, Callable[..., Any]]) -> None:
            """Register, and turn pluggy's words about a bad plugin into ours."""
            try:
                self.register(_Shell(methods), name=name)
                self.check_pending()
            except (pluggy.PluginValidationError, ValueError) as error:
                raise PluginError(f"the plugin {name} is not accepted: {error}", name) from error

    return Manager


class _Shell:
    """What pluggy sees of a plugin: its hooks and nothing else. So no attribute of the plugin is evaluated that is none
    of ours, and two plugins that compare as equal (dataclasses) are still two."""

    def __init__(self, methods: Mapping[str, Callable[..., Any]]) -> None:
        self._methods = methods

    def __dir__(self) -> list[str]:
        return list(self._methods)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._methods[name]
        except KeyError:
            raise AttributeError(name) from None


def _manager() -> Any:
    return _manager_class()()


# -- finding -------------------------------------------------------------------------------------------------------


def _found(name: str, group: str, shipped: Mapping[str, str]) -> object:
    """The object that a name stands for."""
    if name in shipped:
        return _made(imported(shipped[name]))
    point = entry_points(group).get(name)
    if point is None:
        known = sorted({*shipped, *entry_points(group)})
        raise PluginError(
            f"there is no {group.removeprefix('plugwire.').rstrip('s')} named {name!r}; known: {', '.join(known)}", name
        )
    try:
        return _made(point.load())
    except Exception as error:
        raise PluginError(
            f"{name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}", name
        ) from error


def _made(value: Any) -> object:
    """An entry point's value is a class called without arguments, a factory, or an object."""
    if isinstance(value, type) or (inspect.isfunction(value) and not inspect.iscoroutinefunction(value)):
        return value()
    return value


@lru_cache(maxsize=4)
def entry_points(group: str) -> Mapping[str, EntryPoint]:
    """What the environment offers in a group, scanned once per process."""
    from importlib.metadata import entry_points as scan

    found: dict[str, EntryPoint] = {}
    for point in scan(group=group):
        found.setdefault(point.name, point)  # as imports have it: the first on the path wins
    return found


def find_transport(item: object) -> Transport:
    """A transport that the user gave: an object, or a name.

    Raises:
        PluginError: it plays no role, or there is none of that name.
    """
    transport: Any = _found(item, "plugwire.transports", SHIPPED_TRANSPORTS) if isinstance(item, str) else item
    label = item if isinstance(item, str) else _name_of(transport)
    if isinstance(transport, type):
        raise PluginError(f"the transport {label} is a class: give an object, {label}()", label)
    if not roles_of(transport):
        raise PluginError(f"{transport!r} is no transport: it has none of {', '.join(ROLES.values())}", label)
    for attribute in ("name", "honours", "refuse"):
        if not hasattr(transport, attribute):
            raise PluginError(f"the transport {label} has no {attribute!r}", label)
    worlds_of(transport, label)
    for role in roles_of(transport):
        if not inspect.iscoroutinefunction(inspect.unwrap(getattr(transport, ROLES[role]))):
            raise PluginError(f"{label}.{ROLES[role]} is a plain function, but the role's method is `async def`", label)
    return transport  # type: ignore[no-any-return]  # checked by hand above


def roles_of(transport: object) -> tuple[str, ...]:
    """The roles that a transport plays."""
    return tuple(role for role, method in ROLES.items() if callable(getattr(transport, method, None)))
