"""The only place that runs a coroutine without an event loop.

Theory. Core, transports and plugins are `async def`. They wait only through a `Stream` or a `Runtime`, and those of the
blocking world never suspend: their `await` ends in a plain system call. So a whole call is one `coroutine.send(None)`
that ends in StopIteration, and `drive` returns its value. If a coroutine suspends all the same, somebody awaited what
only an event loop can answer (`asyncio.sleep` in a plugin): `drive` closes the coroutine, so that every `finally` on
the way runs, and raises `Suspended`, which names the awaitable and, by the chain of `cr_await`, who awaited it.

One suspension is our own: a push upload (`begin`, `write`, `end`) whose chain asks for bytes that the caller has not
written yet. It awaits `ask_for_bytes()`, which yields `ASK`. `Stepper` runs such a chain piece by piece in the caller's
own thread or task: it stops at `ASK` and passes everything else on to the loop, so push upload needs no thread and no
task in any world.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from plugwire.errors import Suspended

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from plugwire.protocols import Buffer

T = TypeVar("T")


class _Ask:
    """What a chain yields to ask the caller of `write` for bytes."""

    def __repr__(self) -> str:
        return "a push upload that asks for bytes"


ASK: Final = _Ask()


class ask_for_bytes:
    """`await ask_for_bytes()` is the next buffer that the caller writes; empty at the end of the upload."""

    __slots__ = ()

    def __await__(self) -> Generator[_Ask, Buffer, Buffer]:
        return (yield ASK)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result.

    Raises:
        Suspended: it suspended, or asked for a running event loop.
    """
    try:
        awaitable = coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration does not know the coroutine's type
    except RuntimeError as error:
        # What asyncio says when asked for a loop that is not there; trio says it in the same words' spirit.
        if _is_about_a_missing_loop(error):
            raise _suspended(coroutine, error) from error
        raise
    error_to_raise = _suspended(coroutine, awaitable)
    coroutine.close()
    raise error_to_raise


def _is_about_a_missing_loop(error: RuntimeError) -> bool:
    text = str(error)
    return "no running event loop" in text or "must be called from async context" in text


def _suspended(coroutine: Coroutine[Any, Any, Any], awaitable: object) -> Suspended:
    """The error that names what was awaited, and by whom."""
    chain = _chain(coroutine, awaitable)
    where = " -> ".join(chain)
    return Suspended(
        f"a blocking session cannot wait for {_describe(awaitable)}: only Runtime and Stream may be awaited there"
        + (f" (awaited by {where})" if where else ""),
        plugin=chain[-1] if chain else "",
        awaitable=_describe(awaitable),
    )


def _describe(awaitable: object) -> str:
    if isinstance(awaitable, BaseException):
        return f"an event loop ({awaitable})"
    return repr(awaitable) if awaitable is not None else "an event loop's turn (a bare yield)"


def _chain(coroutine: Coroutine[Any, Any, Any], awaitable: object) -> list[str]:
    """The qualified names of the coroutines from outside in; the last one is the one that awaited what it must not."""
    names: list[str] = []
    if isinstance(awaitable, BaseException):
        trace = awaitable.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_flags & 0x80:  # CO_COROUTINE
                names.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}.{trace.tb_frame.f_code.co_qualname}")
            trace = trace.tb_next
        return names
    current: Any = coroutine
    while current is not None:
        code = getattr(current, "cr_code", None)
        frame = getattr(current, "cr_frame", None)
        if code is not None:
            module = frame.f_globals.get("__name__", "?") if frame is not None else "?"
            names.append(f"{module}.{code.co_qualname}")
        current = getattr(current, "cr_await", None)
    return names


class Stepper(Generic[T]):
    """Runs the chain of a push upload piece by piece.

    `await step(data)` hands `data` to the chain and runs it until it asks for more: then it returns False; or until it
    has ended: then it returns True and `result` is there. What the chain raises, `step` raises.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self.is_over = False
        self._result: list[T] = []

    @property
    def result(self) -> T:
        """What the chain returned."""
        return self._result[0]

    def step(self, data: Buffer | None) -> _Step[T]:
        """Awaitable: one piece of the road. The first step takes None."""
        return _Step(self, data)

    def close(self) -> None:
        """Stop the chain where it stands; every `finally` in it runs. It must not await in them."""
        if not self.is_over:
            self.is_over = True
            self._coroutine.close()

    def run(self, data: Buffer | None) -> Generator[Any, Any, bool]:
        """The body of `step`."""
        to_send: Any = data
        to_throw: BaseException | None = None
        while True:
            try:
                if to_throw is None:
                    awaited = self._coroutine.send(to_send)
                else:
                    awaited = self._coroutine.throw(to_throw)
            except StopIteration as stop:
                self.is_over = True
                self._result.append(stop.value)
                return True
            except BaseException:
                self.is_over = True
                raise
            if awaited is ASK:
                return False
            to_throw = None
            try:
                to_send = yield awaited
            except BaseException as error:
                to_send, to_throw = None, error


class _Step(Generic[T]):
    __slots__ = ("_data", "_stepper")

    def __init__(self, stepper: Stepper[T], data: Buffer | None) -> None:
        self._stepper = stepper
        self._data = data

    def __await__(self) -> Generator[Any, Any, bool]:
        return self._stepper.run(self._data)
