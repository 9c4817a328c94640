"""Bearer tokens (RFC 6750), which may run out and are then got anew: once for all calls that need one.

Each session has a token of its own (`SharedValue`). A call comes with the one that is there; if it has run out, by what
was said of its life or by a 401, whoever sees it first refreshes it, and the others wait. So a hundred calls that run
into 401 at once ask for one token, and then each is sent again once.

A request is sent twice at most. A token that was got for this very request and is refused is not refreshed again: a
server that refuses all tokens, or a clock that is wrong, would turn each call into an endless chain.
"""

from __future__ import annotations

import inspect
import re
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from plugwire import UsageError
from plugwire_plugins.shared_value import SharedValue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plugwire.protocols import AsyncResponse, Call, Next, Request, Runtime

Grant: TypeAlias = "str | tuple[str, float]"
"""A token, or a token and how many seconds it lives."""

Refresh: TypeAlias = "Callable[[Call], Grant | Awaitable[Grant]]"

_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class BearerAuth:
    """A token in every request: `auth=BearerAuth("mF_9.B5f-4.1JqM")`; or one that is got when it is needed:

        async def refresh(call):
            request = plugwire.Request("POST", TOKEN_URL, data={"grant_type": "client_credentials", ...})
            answer = (await call.send(request)).raise_for_status().json()
            return answer["access_token"], answer["expires_in"]

        session = plugwire.Session(auth=BearerAuth(refresh=refresh))

    `refresh(call)` is asked before the first request if there is no token, shortly before the end of a life that it
    told, and after a 401 (RFC 9110, 15.5.2); then the request is sent again, once, if its body can be. For calls that
    need a token at once it is asked once. What it raises, all of these calls raise; the next call asks again. If the
    call that it works for is cancelled or out of time, another call asks.

    `call.send(...)` makes a request through the same session under the deadline of the call, without any auth; so do
    in `async def` whatever waits, also for blocking sessions. A plain function may block: it runs in a worker thread
    where there is an event loop. Other requests that it makes through the session go out without the token.

    A request that has an Authorization field already keeps it, whatever is answered.

    Args:
        token: the first one; letters, digits, "-._~+/", and "=" at the end (RFC 6750, 2.1).
        refresh: gives a token, or (token, seconds that it lives); plain or `async def`.
        leeway: seconds before the end of a token's life, at most half of it, at which it is got anew.

    Raises:
        UsageError: a token that cannot be sent this way, or neither a token nor refresh. No message shows a token.
    """

    def __init__(self, token: str | None = None, *, refresh: Refresh | None = None, leeway: float = 30.0) -> None:
        if token is None and refresh is None:
            raise UsageError("BearerAuth(): a token, or refresh=, which gives one")
        if callable(token):
            raise UsageError("BearerAuth(): a callable that gives tokens is refresh=")
        if refresh is not None and not callable(refresh):
            raise UsageError(f"BearerAuth(refresh={type(refresh).__name__}): a callable that takes the call")
        if not _is_seconds(leeway) or leeway == inf:
            raise UsageError(f"BearerAuth(leeway={leeway!r}): a number of seconds from 0")
        self._first = _Token(token, inf) if token is not None else None
        self._refresh = refresh
        self._leeway = leeway

    def __repr__(self) -> str:
        return "<BearerAuth ***>"

    async def around_send(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Add the Authorization field, unless the request has one; get another token where that may help."""
        if "authorization" in request.headers:
            return await call_next(request)
        refresh = self._refresh
        if refresh is None:
            assert self._first is not None  # the constructor has seen to it
            request.headers["Authorization"] = self._first.field
            return await call_next(request)
        kept = call.session.state(self, self._make_state)
        if kept.is_made_here():
            return await call_next(request)

        async def renew() -> _Token:
            return await self._renew(refresh, call)

        before = kept.value
        token = await kept.get(call, lambda token: call.runtime.now() < token.until, renew)
        request.headers["Authorization"] = token.field
        response = await call_next(request)
        if response.status_code != 401 or token is not before:
            return response
        if not request.body.is_replayable:
            kept.drop(token)
            return response
        await response.close()
        refused = token
        token = await kept.get(call, lambda token: token is not refused, renew)
        request.headers["Authorization"] = token.field
        return await call_next(request)

    def _make_state(self, runtime: Runtime) -> SharedValue[_Token]:
        return SharedValue(runtime, self._first)

    async def _renew(self, refresh: Refresh, call: Call) -> _Token:
        asked = call.runtime.now()
        match await _called(refresh, call):
            case (token, life):
                pass
            case token:
                life = inf
        if not _is_seconds(life):
            raise UsageError("refresh= of BearerAuth gave a life that is no number of seconds")
        return _Token(token, asked + life - min(self._leeway, life / 2))


class _Token:
    """A token, as it is sent, and until when it is used. Two are the same only if they are one object: who comes with a
    refused one must tell it from another that reads alike.

    Raises:
        UsageError: it cannot be sent.
    """

    __slots__ = ("field", "until")

    def __init__(self, token: Any, until: float) -> None:
        if not isinstance(token, str):
            raise UsageError(f"a token of BearerAuth is a str, not {type(token).__name__}")
        if _B64TOKEN.fullmatch(token) is None:
            raise UsageError(
                "a token of BearerAuth has a character that RFC 6750, 2.1 does not allow; if the server wants it so, "
                "give the field as a header"
            )
        self.field = f"Bearer {token}"
        self.until = until


async def _called(refresh: Refresh, call: Call) -> Any:
    """What `refresh` gives, whatever kind of callable it is."""
    if inspect.iscoroutinefunction(refresh) or inspect.iscoroutinefunction(type(refresh).__call__):
        given: Any = refresh(call)
    else:
        (given,) = await call.runtime.run_blocking(_in_thread, refresh, call)
    return await given if inspect.isawaitable(given) else given


def _in_thread(refresh: Refresh, call: Call) -> tuple[Any]:
    """Wrapped up: it may be a coroutine, which trio takes for a mistake in what a thread gives."""
    return (refresh(call),)


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
