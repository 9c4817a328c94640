"""Asks a second time when the first answer is late, and takes whichever comes first."""

from __future__ import annotations

from plugwire import hookimpl
from plugwire.protocols import AsyncResponse, Call, Next, Request


class Hedging:
    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.winners: list[int] = []

    @hookimpl
    async def around_call(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        if request.method not in ("GET", "HEAD"):
            return await call_next(request)

        async def first() -> AsyncResponse:
            return await call_next(request)

        async def second() -> AsyncResponse:
            await call.sleep(self.delay)
            return await call_next(request)

        winner, response = await call.runtime.race(first, second, discard=AsyncResponse.abort)
        self.winners.append(winner)
        return response
