"""An async face over the blocking classes, so that one `async def` test text covers both.

`AsyncFace(session)` has the methods of `AsyncSession`: what is `async def` there is `async def` here and calls the
blocking method. Which methods those are is read from the async class, so a method that one of the two lacks is seen.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

PAIRS = {
    "Session": ("plugwire.async_session", "AsyncSession"),
    "Response": ("plugwire.messages", "AsyncResponse"),
    "ConnectionHandle": ("plugwire.handles", "AsyncConnectionHandle"),
    "RequestHandle": ("plugwire.handles", "AsyncRequestHandle"),
    "BlockingStream": ("plugwire.protocols", "Stream"),
}


def _async_class(thing: object) -> type | None:
    for kind in type(thing).__mro__:
        if kind.__name__ in PAIRS and kind.__module__.startswith("plugwire."):
            module, name = PAIRS[kind.__name__]
            return getattr(import_module(module), name)  # type: ignore[no-any-return]
    return None


def dressed(value: Any) -> Any:
    """`value` with an async face, if it needs one."""
    if _async_class(value) is not None:
        return AsyncFace(value)
    if isinstance(value, list):
        return [dressed(item) for item in value]
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(dressed(item) for item in value)
    if hasattr(value, "__next__"):
        return AsyncIterator(value)
    module = type(value).__module__
    if module.startswith("plugwire") and hasattr(value, "__enter__"):
        return AsyncManager(value)
    return value


def bare(value: Any) -> Any:
    """The blocking object behind a face."""
    return object.__getattribute__(value, "_inner") if isinstance(value, AsyncFace) else value


class AsyncManager:
    """A context manager that is entered with `async with`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aenter__(self) -> Any:
        return dressed(self._inner.__enter__())

    async def __aexit__(self, *error: Any) -> Any:
        return self._inner.__exit__(*error)


class AsyncIterator:
    """An iterator that is run through with `async for`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __aiter__(self) -> AsyncIterator:
        return self

    async def __anext__(self) -> Any:
        try:
            return dressed(next(self._inner))
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self._inner.close()


class AsyncFace:
    """A blocking object with the methods of its async twin."""

    def __init__(self, inner: Any) -> None:
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "_twin", _async_class(inner))

    def __getattr__(self, name: str) -> Any:
        inner = object.__getattribute__(self, "_inner")
        twin = getattr(object.__getattribute__(self, "_twin"), name, None)
        value = getattr(inner, name)
        if not inspect.isroutine(value):
            return dressed(value)
        if inspect.iscoroutinefunction(twin):

            async def awaited(*args: Any, **kwargs: Any) -> Any:
                return dressed(value(*map(bare, args), **{key: bare(item) for key, item in kwargs.items()}))

            return awaited

        def called(*args: Any, **kwargs: Any) -> Any:
            return dressed(value(*map(bare, args), **{key: bare(item) for key, item in kwargs.items()}))

        return called

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(bare(self), name, bare(value))

    def __repr__(self) -> str:
        return f"<async face of {bare(self)!r}>"

    async def __aenter__(self) -> Any:
        entered = bare(self).__enter__()
        return self if entered is bare(self) else dressed(entered)

    async def __aexit__(self, *error: Any) -> Any:
        return bare(self).__exit__(*error)

    def __aiter__(self) -> AsyncIterator:
        return AsyncIterator(iter(bare(self)))
