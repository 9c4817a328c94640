"""Compiles a session's middleware into one chain of plain functions, once.

A chain is a `Handler`: `await handler(request, call)`. It is built from the inside out:

    call tier (call > decode > redirect > retry)            once for each call
        begin an attempt, `prepare`                         the core: `Engine._begin`
            send tier (prepare > auth > cache > attempt > sign)
                the wire                                    the core

Within a stage list order holds: first listed is outermost. A plugin that is not there leaves no trace in the chain.

Middleware with a condition (`hookimpl(if_request=, if_response=)`) that stands side by side shares one handler: it asks
the conditions, and enters only who is needed. So what is not needed costs a question, where a layer would cost a
coroutine, a `Next` and a snapshot of the request. The begin of an attempt is such a question too, one that also acts:
a session that has but the default plugins has one handler for both tiers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from plugwire.call import Next, returned_no_response
from plugwire.errors import PluginError
from plugwire.headers import FieldNames
from plugwire.messages import AsyncResponse
from plugwire.protocols import Body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from plugwire.call import Call, Handler
    from plugwire.hookspecs import Stage
    from plugwire.messages import Request
    from plugwire.registry import Hook, ResponseCondition


ATTEMPT: Final = "begin an attempt"
"""In the place of a hook's name, in the layer that is the core's."""


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
    if_response: ResponseCondition | None = None

    @property
    def is_attempt(self) -> bool:
        """True for the core's begin of an attempt, which gets the handler below and not a `Next`."""
        return self.hook == ATTEMPT

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


def compile_chain(layers: list[Layer], wire: Handler) -> Handler:
    """The chain of a session.

    Args:
        layers: in any order; of those at one stage the outermost first. One of them begins the attempt.
        wire: the innermost handler. It leaves the request that it gets as it is, but for its `headers`, which it
            replaces and does not change.
    """
    handler, below, is_as_given = wire, "the transport", True
    run: list[Layer] = []
    for layer in sorted(layers, key=lambda layer: layer.stage)[::-1]:
        if layer.is_conditional:
            run.insert(0, layer)
            continue
        handler, below, run = *_run(run, handler, below, is_as_given), []
        if layer.hook == "around_read":
            handler = _read_layer(layer, handler, below)
        else:
            handler = _layer(layer, handler, below)
            is_as_given = False
        below = layer.name
    return _run(run, handler, below, is_as_given)[0]


def _layer(layer: Layer, inner: Handler, below: str) -> Handler:
    function, name, fix_origin = layer.function, layer.name, not layer.stage.is_in_call_tier
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


def _run(layers: list[Layer], inner: Handler, below: str, is_as_given: bool) -> tuple[Handler, str]:
    """One handler for conditional layers that stand side by side, and whom it begins with, for errors.

    Args:
        below: the same of `inner`.
        is_as_given: `inner` treats the request as `compile_chain` says of the wire.
    """
    handler, innermost = inner, below
    entries: list[_Entry] = []
    for layer in reversed(layers):
        if layer.is_attempt:
            entries.insert(0, _attempt(layer, handler, below))
        else:
            entries.insert(0, _entry(layer, handler, below))
            below = layer.name
        if layer.is_attempt and len(entries) == 1:
            handler = _beginning(entries[0], inner)
        else:
            handler = _asking(tuple(entries), inner, innermost, is_as_given)
    return handler, below


class _Entry(NamedTuple):
    """A conditional layer, how it is entered (with the request, and with the response if that is there already), and
    who then answers."""

    layer: Layer
    enter: Callable[[Request, Call, AsyncResponse | None], Awaitable[AsyncResponse]]
    answers: str


def _attempt(layer: Layer, inner: Handler, below: str) -> _Entry:
    def enter(request: Request, call: Call, response: AsyncResponse | None) -> Any:
        return layer.function(inner, request, call)

    return _Entry(layer, enter, below)


def _entry(layer: Layer, inner: Handler, below: str) -> _Entry:
    function, name, takes_call = layer.function, layer.name, layer.takes_call
    fix_origin = not layer.stage.is_in_call_tier

    async def read(request: Request, call: Call, response: AsyncResponse | None) -> AsyncResponse:
        assert response is not None  # around_read has no if_request
        return await _read(layer, response, call)

    def enter(request: Request, call: Call, response: AsyncResponse | None) -> Any:
        if response is None:  # else it is a snapshot already
            request = request.copy()
        call_next = Next(inner, call, name, below, request.url.origin if fix_origin else None, response)
        return function(request, call_next, call) if takes_call else function(request, call_next)

    return _Entry(layer, read if layer.hook == "around_read" else enter, name)


def _beginning(entry: _Entry, inner: Handler) -> Handler:
    """The handler of an attempt inside of which nobody is asked: not even a coroutine."""
    ask, enter = entry.layer.if_request, entry.enter
    assert ask is not None

    def handler(request: Request, call: Call) -> Any:
        return enter(request, call, None) if ask(request, call) else inner(request, call)

    return handler


def _asking(entries: tuple[_Entry, ...], inner: Handler, below: str, is_as_given: bool) -> Handler:
    """The handler of a run: asks on the way down, outermost first, and on the way up, innermost first."""
    down = [(place, entry, ask) for place, entry in enumerate(entries) if (ask := entry.layer.if_request)]
    up = [(place, wants) for place, entry in enumerate(entries) if (wants := entry.layer.if_response)][::-1]
    # Most responses are nobody's, and these three say so at once.
    is_asked = any(wants.function for _, wants in up)
    statuses = frozenset[int]().union(*(wants.statuses for _, wants in up))
    names = [wants.field for _, wants in up if wants.field is not None]
    has_field = FieldNames(names).any_in

    async def handler(request: Request, call: Call) -> AsyncResponse:
        given = request if is_as_given else request.copy()
        called = given.headers
        entered = len(entries)
        for place, entry, ask in down:
            if ask(request, call):
                entered, answers = place, entry.answers
                sent = request.headers
                response = await entry.enter(request, call, None)
                break
        else:
            answers = below
            # Other ones than at first, if an attempt was begun.
            sent = request.headers if is_as_given else request.headers.copy()
            response = await inner(request, call)
        if not isinstance(response, AsyncResponse):
            raise returned_no_response(answers, response)
        while True:
            try:
                if not (is_asked or response.status_code in statuses or (names and has_field(response.headers))):
                    return response
                entered = next((place for place, wants in up if place < entered and wants.is_met_by(response)), -1)
            except BaseException as error:
                await _drop(response, error)
                raise
            if entered < 0:
                return response
            entry = entries[entered]
            before = given.copy()
            before.headers = (called if entry.layer.stage.is_in_call_tier else sent).copy()
            response = await entry.enter(before, call, response)
            if not isinstance(response, AsyncResponse):
                raise returned_no_response(entry.answers, response)

    return handler
