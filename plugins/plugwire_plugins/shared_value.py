"""A value of a session that many calls need and one of them makes: a token, what stands in a file.

How it works. Who needs the value and finds none that is good *leads*: it makes one, in its own call, under its own
deadline. Who comes meanwhile waits for what becomes of it. Nobody works in the background, so nothing has to be ended
when the session is.

Rules that hold, and what breaks without them:

1. *One leads, the others wait*, whatever a value costs: otherwise a hundred calls whose token has run out ask for a
   hundred.
2. *A failure is everybody's who waited*, once: otherwise each of them would try next, one after the other, and the last
   one wait a hundred times as long. Who comes later tries again.
3. *But not if the leader's own call has ended*: cancelled, out of its own time, interrupted. That says nothing of the
   others; one of them leads next.
4. *Who waits can be woken* by its own deadline and cancel. So there is no lock to be held over an await, but a step
   under a lock that never waits, and a `Waiter` for each call.
5. *A leader that vanishes* (an interrupt between two bytecodes, a coroutine that nobody ran to its end) has given up:
   its `_Lead` sees to that when it is lost, however it is lost. Otherwise all later calls would wait for ever.
6. *The making may need the session*, whose auth would then wait for the value that is being made: `is_made_here` tells.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from plugwire import Cancelled, Error, HeadTimeout, TotalTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plugwire.protocols import Call, Runtime, Waiter

T = TypeVar("T")

OWN: Final[tuple[type[Error], ...]] = (Cancelled, TotalTimeout, HeadTimeout)
"""Errors that say that the leader's own call is over, and nothing of the value."""


class SharedValue(Generic[T]):
    """The value, and who makes it just now. Threads and tasks share it.

    Args:
        runtime: of the session whose calls need it.
        value: to begin with.
    """

    def __init__(self, runtime: Runtime, value: T | None = None) -> None:
        self._runtime = runtime
        self._value = value
        self.after_fork()

    def after_fork(self) -> None:
        """At first, and in the child of a fork, which has none of the threads that make the value or hold the lock."""
        self._step = threading.RLock()  # a finaliser may end a making in the midst of another one's step
        self._making: _Making[T] | None = None

    @property
    def value(self) -> T | None:
        """The last one that was made, good or not."""
        return self._value

    def drop(self, value: T) -> None:
        """This one is not good any more; the next call makes another. A newer one stays."""
        with self._step:
            if self._value is value:
                self._value = None

    def is_made_here(self) -> bool:
        """True in what `make` does, and in calls that it makes in turn."""
        return self in _made_here.get()

    async def get(self, call: Call, is_good: Callable[[T], bool], make: Callable[[], Awaitable[T]]) -> T:
        """The value, if it is good; else one that is made now, by this call or by another one.

        Args:
            call: who needs it.
            is_good: asked of a value that is there; quick, never waits.
            make: makes another.

        Raises:
            TotalTimeout, HeadTimeout, Cancelled: of this call.
            Exception: what `make` raised, for whichever call.
        """
        value = self._value
        if value is not None and is_good(value):
            return value
        while True:
            lead = _Lead(self)
            waiter = self._runtime.waiter()
            with self._step:
                value = self._value
                if value is not None and is_good(value):
                    return value
                making = self._making
                if making is None:
                    self._making = lead.making
                else:
                    making.waiters.add(waiter)
                    if making.is_over:
                        waiter.wake()
            if making is None:
                return await self._lead(lead, make)
            await self._wait(making, waiter, call)
            if making.error is not None:
                raise _again(making.error)
            if making.value is not None:
                return making.value

    async def _lead(self, lead: _Lead[T], make: Callable[[], Awaitable[T]]) -> T:
        token = _made_here.set((*_made_here.get(), self))
        try:
            value = await make()
        except BaseException as error:
            lead.end(None, error if isinstance(error, Exception) and not isinstance(error, OWN) else None)
            raise
        finally:
            try:
                _made_here.reset(token)
            except ValueError:
                pass  # a finaliser ends a coroutine that was dropped, in another context
        lead.end(value, None)
        return value

    async def _wait(self, making: _Making[T], waiter: Waiter, call: Call) -> None:
        try:
            with call.waiting(waiter):
                is_woken = await waiter.wait(call.deadline.at)
        finally:
            with self._step:
                making.waiters.discard(waiter)
        call.check()
        if not is_woken:
            raise call.deadline.error("head", ": before it was sent, another call was getting what it needs")

    def end(self, making: _Making[T], value: T | None, error: Exception | None) -> None:
        """A making is over, for a `_Lead`; only the first time counts."""
        with self._step:
            if making.is_over:
                return
            if self._making is making:
                self._making = None
                if value is not None:
                    self._value = value
            making.value, making.error, making.is_over = value, error, True
            for waiter in tuple(making.waiters):
                waiter.wake()


class _Making(Generic[T]):
    """One making: who waits for it, and what became of it. Neither value nor error: it was given up."""

    def __init__(self) -> None:
        self.waiters: set[Waiter] = set()
        self.is_over = False
        self.value: T | None = None
        self.error: Exception | None = None


class _Lead(Generic[T]):
    """What the leader alone has; when it is lost, the making is over."""

    def __init__(self, shared: SharedValue[T]) -> None:
        self._shared = shared
        self.making: _Making[T] = _Making()

    def end(self, value: T | None, error: Exception | None) -> None:
        """It is over."""
        self._shared.end(self.making, value, error)

    def __del__(self) -> None:
        self.end(None, None)


_made_here: ContextVar[tuple[SharedValue[Any], ...]] = ContextVar("plugwire_made_here", default=())


def _again(error: Exception) -> Exception:
    """The same error for one more call: ours are completed by the call that raises them, so each has its own."""
    if not isinstance(error, Error):
        return error
    twin = type(error).__new__(type(error))
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    twin.__cause__ = error
    return twin
