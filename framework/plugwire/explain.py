"""`session.explain(url)`: what a call would do, in words, without doing any of it.

Nothing secret is printed: of credentials the kind and the origin they are for, of a URL neither user name nor query, of
an option neither what its author keeps out of the repr (`field(repr=False)`) nor what is named like a secret.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from plugwire.pipeline import Layer
from plugwire.runtimes import blocking_runtime
from plugwire.url import is_bound
from plugwire.view import CALL_KEYWORDS, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from plugwire.call import Call
    from plugwire.config import CallOptions, TLSConfig
    from plugwire.connector import Plan
    from plugwire.registry import Hook
    from plugwire.route import Route
    from plugwire.url import URL
    from plugwire.view import View

SECRET: Final = re.compile(r"token|secret|password|passwd|key|auth|cookie|credential", re.IGNORECASE)
CHAIN: Final = ("resolver", "dialler", "securer", "speaker")
DETAIL: Final = 60
"""Characters of a plugin's own repr that are shown."""


def explain(view: View, method: str, url: URL | str, options: Mapping[str, Any]) -> str:
    """The plugins by stage, outermost first; the route; who makes the connection, and why the others do not; time-outs
    and options, each with where it comes from.

    Raises:
        UsageError: the call would be refused before any I/O. A route that nobody takes is told, not raised.
    """
    refuse_unknown(options, CALL_KEYWORDS, "explain()")
    # Never empty: the call of a session that has not met its loop cannot take the short road, which wants the engine's.
    given = cast("CallOptions", {"context": None, **options})
    request = view.request(method, url, given)
    runtime = view.engine.runtime if view.engine.is_bound else blocking_runtime()
    call = view.call(request, given, streaming=False, runtime=runtime)
    route = view.route(request, call)
    plan = view.engine.connector.plan(route)
    sections: list[tuple[str, list[str]]] = [
        ("plugins", _columns([*_layers(view, call, request.url), *_others(view, call)]) or ["none"]),
        ("route", [_route(route, view.choose_proxy(request, route.replaced(proxy=None)).why)]),
        ("wire", [_wire(plan, route)]),
        ("refused", [f"{name}: {reason}" for name, reason in plan.reasons.items()] or ["none"]),
        ("timeout", [_timeout(view, given)]),
        ("options", list(_options(view, call)) or ["none"]),
    ]
    lines = [f"{method} {request.url.without_userinfo().copy_with(query=None, fragment=None)}"]
    for title, texts in sections:
        for number, text in enumerate(texts):
            lines.append(f"{title if number == 0 else '':<9}{text}".rstrip())
    return "\n".join(lines)


# -- plugins ---------------------------------------------------------------------------------------------------------


def _layers(view: View, call: Call, url: URL) -> Iterator[tuple[str, str, str, str]]:
    """What stands at the stages, outermost first; the core's own auth among it."""
    from plugwire.hookspecs import Stage

    layers = list(view.engine.layers)
    if call.auth is not None:
        place = sum(layer.stage < Stage.AUTH for layer in layers)
        layers.insert(place, Layer(Stage.AUTH, "auth", "around_send", call.auth.around_send, True, call.auth, True))
    for layer in layers:
        if layer.plugin is call.auth:
            bound = call.origin if is_bound(call.origin, url.origin) else "another origin"
            yield layer.stage.word, layer.hook, f"{type(call.auth).__name__} ***", f"for {bound}"
        else:
            yield layer.stage.word, layer.hook, _shown(layer.name, layer.plugin, call), _whose(view, layer)


def _others(view: View, call: Call) -> Iterator[tuple[str, str, str, str]]:
    """Hooks that stand at no stage."""
    for hook in view.engine.plugins.hooks:
        if hook.stage is None:
            yield "-", hook.hook, _shown(hook.name, hook.plugin, call), _whose(view, hook)


def _whose(view: View, layer: Layer | Hook) -> str:
    """ "default", or the place in the user's list."""
    if layer.is_default:
        return "default"
    users: list[object] = []
    for hook in view.engine.plugins.hooks:
        if not hook.is_default and not any(hook.plugin is seen for seen in users):
            users.append(hook.plugin)
    return f"yours #{next(place for place, plugin in enumerate(users, 1) if plugin is layer.plugin)}"


def _shown(name: str, plugin: object, call: Call) -> str:
    """What a plugin says of itself for this call by `describe(call)`; without that its repr, if its author wrote one: a
    generated one may show anything; else its name."""
    describe: Callable[[Call], str] | None = getattr(plugin, "describe", None)
    if describe is not None:
        text = describe(call)
    elif type(plugin).__repr__ is object.__repr__ or is_dataclass(plugin):
        return name
    else:
        text = repr(plugin)
    return text if len(text) <= DETAIL else f"{text[: DETAIL - 3]}..."


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


# -- the way ---------------------------------------------------------------------------------------------------------


def _route(route: Route, why: str) -> str:
    origin = route.origin
    port = f":{route.port}" if route.port else ""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    parts = [f"{origin.scheme}://{host}{port}"]
    parts.append(f"proxy {route.proxy.url if route.proxy is not None else 'none'}{f' ({why})' if why else ''}")
    if route.tls is not None:
        parts += _tls(route.tls)
    parts.append(f"versions {', '.join(route.http_versions)}")
    parts += [f"{name} {value}" for name in ("local_address", "path") if (value := getattr(route, name)) is not None]
    parts += [f"{name} {_redacted(name, value)}" for name, value in route.extra]
    return ", ".join(parts)


def _tls(config: TLSConfig) -> Iterator[str]:
    if config.context is not None:
        yield "verify by a context of your own"
    elif not config.verify:
        yield "verify OFF"
    else:
        files = config.ca_file or ("" if config.ca_data else "certifi")
        yield f"verify on ({' and '.join(filter(None, (files, 'ca_data' if config.ca_data else '')))})"
    yield f"client cert {'none' if config.client_cert is None else 'given'}"
    if config.server_hostname is not None:
        yield f"server_hostname {config.server_hostname}"
    if config.pins:
        yield f"{len(config.pins)} pins"


def _wire(plan: Plan, route: Route) -> str:
    """Who makes the connection; "or": who is asked next if the first passes on."""
    names = {role: " or ".join(transport.name for transport in takers) for role, takers in plan.takes.items()}
    roles = [role for role in CHAIN if role in plan.takes and not (role == "resolver" and route.path is not None)]
    lacking = [role for role in roles if not names[role]]
    if lacking:
        chain = f"nobody: no {lacking[0]} takes this route" if not names["whole"] else ""
    else:
        texts = [names[role] for role in roles]
        if "securer" in roles:
            texts[roles.index("securer")] += f"({', '.join(_offered(plan, route))})"
        chain = " > ".join(texts)
    return ", else ".join(filter(None, (names["whole"], chain)))


def _offered(plan: Plan, route: Route) -> list[str]:
    """The versions that somebody speaks, as ALPN offers them."""
    spoken = {protocol for speaker in plan.takes["speaker"] for protocol in getattr(speaker, "protocols", ())}
    return [version for version in route.http_versions if version in spoken]


# -- values and where they come from -----------------------------------------------------------------------------------


def _timeout(view: View, options: CallOptions) -> str:
    from plugwire.timeouts import Timeout, make_timeout

    timeout, origin = view.timeout, "session"
    if "timeout" in options:
        timeout, origin = make_timeout(options["timeout"], base=timeout, streaming=False), "call"
    elif timeout == Timeout():
        origin = "default"
    values = [
        f"{f.name} {'-' if (value := getattr(timeout, f.name)) is None else f'{value:g}'}" for f in fields(timeout)
    ]
    return f"{', '.join(values)} ({origin})"


def _options(view: View, call: Call) -> Iterator[str]:
    """Every option of every plugin, and the route's that are set."""
    session: Mapping[str, object] = view.values.get("options") or {}
    seen: set[type] = set()
    for kind, plugin in view.engine.plugins.option_types:
        if kind in seen:
            continue
        seen.add(kind)
        values = view.options(cast("type[Any]", kind), call.given)
        for f in fields(values):
            origin = "call" if f.name in call.given else "session" if f.name in session else f"default of {plugin}"
            value = _redacted(f.name, getattr(values, f.name)) if f.repr else "***"
            yield f"{f.name}={value} ({origin})"
    for name in sorted({*view.declared.route_base, *call.given} & view.declared.route_names):
        chosen = call.given[name] if name in call.given else view.declared.route_base[name]
        yield f"{name}={_redacted(name, chosen)} ({'call' if name in call.given else 'session'})"


def _redacted(name: str, value: object) -> str:
    return "***" if SECRET.search(name) and value not in (None, True, False) else repr(value)
