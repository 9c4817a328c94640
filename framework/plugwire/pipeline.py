"""Compiles a session's middleware into one chain of plain functions, once.

A chain is a `Handler`: `await handler(request, call)`. It is built from the inside out:

    call tier (call > decode > redirect > retry)            once for each call
        begin an attempt, `prepare`                         the core
            send tier (prepare > auth > cache > attempt > sign)
                the wire                                    the core

Within a stage list order holds: first listed is outermost. A plugin that is not there leaves no trace in the chain.

Middleware with a condition (`hookimpl(if_request=, if_response=)`) that stands side by side shares one handler: it asks
the conditions, and enters only who is needed. So what is not needed costs a question, where a layer would cost a
coroutine, a `Next` and a snapshot of the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from plugwire.call import Next, returned_no_response
from plugwire.errors import PluginError
from plugwire.hookspecs import Stage
from plugwire.messages import AsyncResponse
from plugwire.protocols import Body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from plugwire.call import Call, Handler
    from plugwire.messages import Request
    from plugwire.registry import Hook


class Layer(NamedTuple):
    """A middleware at its place."""

    stage: Stage
    name: str
    hook: str
    function: Callable[..., Any]
    takes_call: bool
    plugin: object
    is_default: bool
    if_request: Callable[[Request, Call], bool] | None = None
    if_response: Callable[[AsyncResponse], bool] | None = None

    @property
    def is_conditional(self) -> bool:
        """True if it runs only where it is needed."""
        return self.if_request is not None or self.if_response is not None


def layers_of(hooks: Iterable[Hook]) -> list[Layer]:
    """The middleware among the hooks, outermost first."""
    layers = [
        Layer(
            hook.stage,
            hook.name,
            hook.hook,
            hook.function if hook.hook != "around_read" else _reader(hook),
            "call" in hook.arguments,
            hook.plugin,
            hook.is_default,
            hook.if_request,
            hook.if_response,
        )
        for hook in hooks
        if hook.stage is not None
    ]
    return sorted(layers, key=lambda layer: layer.stage)  # stable: list order within a stage


def _reader(hook: Hook) -> Callable[[AsyncResponse, Body, Call], Body]:
    """around_read with all three arguments, whichever of them it takes."""
    function, names = hook.function, hook.arguments

    def read(response: AsyncResponse, body: Body, call: Call) -> Body:
        given = {"response": response, "body": body, "call": call}
        return function(*(given[name] for name in names))  # type: ignore[no-any-return]  # checked by its caller

    return read


def compile_chain(
    layers: list[Layer], attempt: Callable[[Handler], Handler], wire: Handler, auth: Layer | None
) -> Handler:
    """The chain of a session.

    Args:
        layers: outermost first.
        attempt: wraps the send tier in the core's begin of an attempt.
        wire: the innermost handler.
        auth: the core's layer at stage `auth`, outside of the plugins there; None for a call without auth.
    """
    outer = [layer for layer in layers if layer.stage.is_in_call_tier]
    inner = [layer for layer in layers if not layer.stage.is_in_call_tier]
    if auth is not None:
        place = sum(layer.stage < Stage.AUTH for layer in inner)
        inner.insert(place, auth)
    sending, is_as_given = _wrapped(inner, wire, "the transport", True, fix_origin=True)
    below = inner[0].name if inner else "the transport"
    return _wrapped(outer, attempt(sending), below, is_as_given, fix_origin=False)[0]


def _wrapped(
    layers: list[Layer], handler: Handler, below: str, is_as_given: bool, *, fix_origin: bool
) -> tuple[Handler, bool]:
    """The handler with the layers around it.

    Args:
        below: whom the handler begins with, for errors.
        is_as_given: what is below leaves the request that it gets as it is, but for its `headers`, which it replaces
            and does not change. The same is returned of the result.
    """
    run: list[Layer] = []
    for layer in reversed(layers):
        if layer.is_conditional:
            run.insert(0, layer)
            continue
        if run:
            handler, below, run = _run(run, handler, below, is_as_given, fix_origin), run[0].name, []
        if layer.hook == "around_read":
            handler = _read_layer(layer, handler, below)
        else:
            handler = _layer(layer, handler, below, fix_origin)
            is_as_given = False
        below = layer.name
    if run:
        handler = _run(run, handler, below, is_as_given, fix_origin)
    return handler, is_as_given


def _layer(layer: Layer, inner: Handler, below: str, fix_origin: bool) -> Handler:
    function, name = layer.function, layer.name
    if not layer.takes_call:

        def without_call(request: Request, call: Call) -> Any:
            origin = request.url.origin if fix_origin else None
            return function(request, Next(inner, call, name, below, origin))

        return without_call

    def handler(request: Request, call: Call) -> Any:
        origin = request.url.origin if fix_origin else None
        return function(request, Next(inner, call, name, below, origin), call)

    return handler


def _read_layer(layer: Layer, inner: Handler, below: str) -> Handler:
    async def handler(request: Request, call: Call) -> AsyncResponse:
        response = await inner(request, call)
        if not isinstance(response, AsyncResponse):
            raise returned_no_response(below, response)
        return await _read(layer, response, call)

    return handler


async def _read(layer: Layer, response: AsyncResponse, call: Call) -> AsyncResponse:
    """The response with the body that around_read gives."""
    body = response.body
    try:
        wrapped = layer.function(response, body, call)
        if not isinstance(wrapped, Body):
            raise PluginError(f"{layer.name}.around_read returned {type(wrapped).__name__}, not a Body", layer.name)
    except BaseException as error:
        await _drop(response, error)
        raise
    if wrapped is not body:
        response.body = wrapped
    return response


async def _drop(response: AsyncResponse, error: BaseException) -> None:
    """Nobody gets the response, because of the error."""
    if isinstance(error, Exception):
        await response.close()
    else:
        response.abort()


# -- middleware with a condition -----------------------------------------------------------------------------------


def _run(layers: list[Layer], inner: Handler, below: str, is_as_given: bool, fix_origin: bool) -> Handler:
    """One handler for conditional layers that stand side by side."""
    handler, innermost = inner, below
    entries: list[_Entry] = []
    for layer in reversed(layers):
        entries.insert(0, _entry(layer, handler, below, fix_origin))
        handler = _asking(tuple(entries), inner, innermost, is_as_given)
        below = layer.name
    return handler


class _Entry(NamedTuple):
    """A conditional layer, and how it is entered: with the request, and with the response if that is there already."""

    layer: Layer
    enter: Callable[[Request, Call, AsyncResponse | None], Awaitable[AsyncResponse]]


def _entry(layer: Layer, inner: Handler, below: str, fix_origin: bool) -> _Entry:
    function, name, takes_call = layer.function, layer.name, layer.takes_call

    async def read(request: Request, call: Call, response: AsyncResponse | None) -> AsyncResponse:
        assert response is not None  # around_read has no if_request
        return await _read(layer, response, call)

    def enter(request: Request, call: Call, response: AsyncResponse | None) -> Any:
        call_next = Next(inner, call, name, below, request.url.origin if fix_origin else None, response)
        return function(request, call_next, call) if takes_call else function(request, call_next)

    return _Entry(layer, read if layer.hook == "around_read" else enter)


def _asking(entries: tuple[_Entry, ...], inner: Handler, below: str, is_as_given: bool) -> Handler:
    """The handler of a run: asks on the way down, outermost first, and on the way up, innermost first."""
    down = [(place, entry, ask) for place, entry in enumerate(entries) if (ask := entry.layer.if_request)]
    up = [(place, entry, look) for place, entry in enumerate(entries) if (look := entry.layer.if_response)][::-1]

    async def handler(request: Request, call: Call) -> AsyncResponse:
        given = request if is_as_given else request.copy()
        headers = given.headers
        entered, answers = len(entries), below
        for place, entry, ask in down:
            if ask(request, call):
                entered, answers = place, entry.layer.name
                response = await entry.enter(request.copy(), call, None)
                break
        else:
            response = await inner(request, call)
        if not isinstance(response, AsyncResponse):
            raise returned_no_response(answers, response)
        for place, entry, look in up:
            if place < entered:
                try:
                    is_needed = look(response)
                except BaseException as error:
                    await _drop(response, error)
                    raise
                if is_needed:
                    before = given.copy()
                    before.headers = headers.copy()
                    answers = entry.layer.name
                    response = await entry.enter(before, call, response)
                    if not isinstance(response, AsyncResponse):
                        raise returned_no_response(answers, response)
        return response

    return handler
