"""Compiles a session's middleware into one chain of plain functions, once.

A chain is a `Handler`: `await handler(request, call)`. It is built from the inside out:

    call tier (call > decode > redirect > retry)            once for each call
        begin an attempt, `prepare`                         the core
            send tier (prepare > auth > cache > attempt > sign)
                the wire                                    the core

Within a stage list order holds: first listed is outermost. A plugin that is not there leaves no trace in the chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from plugwire.call import Next, returned_no_response
from plugwire.errors import PluginError
from plugwire.hookspecs import Stage
from plugwire.messages import AsyncResponse
from plugwire.protocols import Body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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


def layers_of(hooks: Iterable[Hook]) -> list[Layer]:
    """The middleware among the hooks, outermost first."""
    layers = [
        Layer(hook.stage, hook.name, hook.hook, hook.function, "call" in hook.arguments, hook.plugin, hook.is_default)
        if hook.hook != "around_read"
        else Layer(hook.stage, hook.name, hook.hook, _reader(hook), True, hook.plugin, hook.is_default)
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
    sending = _wrapped(inner, wire, "the transport", fix_origin=True)
    return _wrapped(outer, attempt(sending), inner[0].name if inner else "the transport", fix_origin=False)


def _wrapped(layers: list[Layer], handler: Handler, below: str, *, fix_origin: bool) -> Handler:
    for layer in reversed(layers):
        if layer.hook == "around_read":
            handler = _read_layer(layer, handler, below)
        elif layer.takes_call:
            handler = _layer(layer, handler, below, fix_origin)
        else:
            handler = _layer_without_call(layer, handler, below, fix_origin)
        below = layer.name
    return handler


def _layer(layer: Layer, inner: Handler, below: str, fix_origin: bool) -> Handler:
    function, name = layer.function, layer.name

    def handler(request: Request, call: Call) -> Any:
        origin = request.url.origin if fix_origin else None
        return function(request, Next(inner, call, name, below, origin), call)

    return handler


def _layer_without_call(layer: Layer, inner: Handler, below: str, fix_origin: bool) -> Handler:
    function, name = layer.function, layer.name

    def handler(request: Request, call: Call) -> Any:
        origin = request.url.origin if fix_origin else None
        return function(request, Next(inner, call, name, below, origin))

    return handler


def _read_layer(layer: Layer, inner: Handler, below: str) -> Handler:
    function, name = layer.function, layer.name

    async def handler(request: Request, call: Call) -> AsyncResponse:
        response = await inner(request, call)
        if not isinstance(response, AsyncResponse):
            raise returned_no_response(below, response)
        body = response.body
        try:
            wrapped = function(response, body, call)
            if not isinstance(wrapped, Body):
                raise PluginError(f"{name}.around_read returned {type(wrapped).__name__}, not a Body", name)
        except BaseException as error:
            if isinstance(error, Exception):
                await response.close()
            else:
                response.abort()
            raise
        if wrapped is not body:
            response.body = wrapped
        return response

    return handler
