"""Every hook: its signature, its stage, when it runs, how often, and what raising means.

A plugin is an object with methods marked by `@plugwire.hookimpl`. A hook's arguments may be left out from the end of
what a plugin needs; none may be invented. `docs/hooks.md` has a section for each of these with a complete example.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from plugwire.errors import UsageError

if TYPE_CHECKING:
    from plugwire.call import Call, Next
    from plugwire.events import Event
    from plugwire.messages import AsyncResponse, Request
    from plugwire.protocols import Body, Session

F = TypeVar("F", bound=Callable[..., Any])

PROJECT: Final = "plugwire"
STAGE_ATTRIBUTE: Final = "plugwire_stage"
CONDITIONS_ATTRIBUTE: Final = "plugwire_conditions"


class Stage(IntEnum):
    """Where middleware stands, outermost first. The first four are the call tier (once for each call of the user), the
    others the send tier (once for each attempt)."""

    CALL = 0
    DECODE = 1
    REDIRECT = 2
    RETRY = 3
    PREPARE = 4
    AUTH = 5
    CACHE = 6
    ATTEMPT = 7
    SIGN = 8

    @property
    def word(self) -> str:
        """As `hookimpl(stage=...)` spells it."""
        return self.name.lower()

    @property
    def is_in_call_tier(self) -> bool:
        """True for the stages that run once for each call."""
        return self <= Stage.RETRY


DEFAULT_STAGES: Final[dict[str, Stage]] = {
    "around_call": Stage.CALL,
    "around_send": Stage.ATTEMPT,
    "around_read": Stage.CALL,
}
"""The hooks that stand at a stage, and where they stand if they do not say."""


@overload
def hookimpl(function: F, /) -> F: ...
@overload
def hookimpl(
    *,
    stage: str | None = None,
    if_request: Callable[[Any, Request, Call], bool] | None = None,
    if_response: Callable[[Any, AsyncResponse], bool] | str | Set[int] | None = None,
) -> Callable[[F], F]: ...
def hookimpl(
    function: F | None = None,
    /,
    *,
    stage: str | None = None,
    if_request: Callable[[Any, Request, Call], bool] | None = None,
    if_response: Callable[[Any, AsyncResponse], bool] | str | Set[int] | None = None,
) -> F | Callable[[F], F]:
    """Mark a method as the implementation of the hook of its name.

    With a condition, middleware runs only where it is needed, and costs a fraction of a layer everywhere else:

        class Redirects:
            @hookimpl(stage="redirect", if_response={301, 302, 303, 307, 308})
            async def around_call(self, request, call_next, call): ...

    Both given, it runs if either says yes. If it is the response that did, the response is there already: the method
    gets the request as it was on its way down, and its first `call_next(...)` gives that response at once.

    Args:
        stage: where it stands: call, decode, redirect, retry, prepare, auth, cache, attempt or sign; None: the hook's
            default. Only for around_call (the first four), around_send (the last five) and around_read (any).
        if_request: `(self, request, call) -> bool`, asked on the way down; for around_call and around_send. Plain and
            quick; it changes nothing.
        if_response: `(self, response) -> bool`, asked of the response that comes from below; or, which costs less, the
            name of a header field that the response must have, or a set of status codes. For these two and around_read.

    Raises:
        UsageError: there is no such stage.
    """
    if function is not None and not callable(function):
        raise UsageError(f"hookimpl({function!r}): the stage is a keyword, @hookimpl(stage={function!r})")

    def mark(marked: F) -> F:
        if stage is not None and stage not in {known.word for known in Stage}:
            where = getattr(marked, "__qualname__", repr(marked))
            raise UsageError(f"{where}: stage={stage!r} is none of {', '.join(known.word for known in Stage)}")
        # The attribute that pluggy looks for; set here, so that importing plugwire does not import pluggy.
        options = {
            "wrapper": False,
            "hookwrapper": False,
            "optionalhook": False,
            "tryfirst": False,
            "trylast": False,
            "specname": None,
        }
        setattr(marked, f"{PROJECT}_impl", options)
        setattr(marked, STAGE_ATTRIBUTE, stage)
        setattr(marked, CONDITIONS_ATTRIBUTE, (if_request, if_response))
        return marked

    return mark(function) if function is not None else mark


def _hookspec(function: F) -> F:
    setattr(
        function,
        f"{PROJECT}_spec",
        {"firstresult": False, "historic": False, "warn_on_impl": None, "warn_on_impl_args": None},
    )
    return function


class Hooks:
    """The hooks. Never instantiated for use: pluggy reads the signatures from here."""

    @_hookspec
    async def around_call(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:  # type: ignore[empty-body]  # spec
        """Around the user's whole operation, once for each call; stage `call` unless it says another of the call tier.

        Sees the request as the user wrote it. May run `call_next` again. What it raises, the user gets.
        """

    @_hookspec
    async def around_send(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:  # type: ignore[empty-body]  # spec
        """Around each attempt on the wire; stage `attempt` unless it says another of the send tier.

        Sees the request as it goes out: the session's headers, Host and Content-Length are there. From here inwards the
        origin is fixed. May answer without `call_next`. What it raises fails the attempt; a retry policy may look at
        it.
        """

    @_hookspec
    def around_read(self, response: AsyncResponse, body: Body, call: Call) -> Body:  # type: ignore[empty-body]  # spec
        """Once for each response that passes its stage (`call` unless it says another); returns the body to read in
        place of `body`, or `body` itself.

        At `call` it wraps what the user reads, at `attempt` the bytes as received. What it raises fails the call; the
        response is closed.
        """

    @_hookspec
    def observe(self, event: Event) -> None:
        """Each event of the classes that the plugin names in `events`. In the call's own thread or task; quick; cannot
        change anything. What it raises goes to `sys.unraisablehook`, once."""

    @_hookspec
    async def session_opened(self, session: Session) -> None:
        """Once for each session, before its first request, in list order. What it raises, the user's first call gets;
        the session is then not open, and those whose `session_opened` ran get `session_closed`."""

    @_hookspec
    async def session_closed(self, session: Session) -> None:
        """Once, at the end, in reverse order, only if `session_opened` (or nothing) ran. Responses and connections are
        closed already. What it raises, `close()` raises, after all others ran."""


HOOKS: Final[tuple[str, ...]] = (
    "around_call",
    "around_send",
    "around_read",
    "observe",
    "session_opened",
    "session_closed",
)
ASYNC_HOOKS: Final = frozenset({"around_call", "around_send", "session_opened", "session_closed"})
