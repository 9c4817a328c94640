"""Concurrent identical GETs share one request on the wire."""

from __future__ import annotations

import threading

from plugwire import AsyncResponse, hookimpl
from plugwire.protocols import Call, Next, Request, Runtime, Waiter


class _Flight:
    def __init__(self) -> None:
        self.waiters: list[Waiter] = []
        self.answer: AsyncResponse | None = None


class _Flights:
    def __init__(self, runtime: Runtime) -> None:
        self.lock = threading.Lock()
        self.under_way: dict[object, _Flight] = {}


class SingleFlight:
    @hookimpl
    async def around_call(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        if request.method != "GET" or call.streaming:
            return await call_next(request)
        key = (request.url, tuple(request.headers.items()))
        flights = call.session.state(self, _Flights)
        while True:
            with flights.lock:
                flight = flights.under_way.get(key)
                if flight is None:
                    flight = flights.under_way[key] = _Flight()
                    break
                waiter = call.runtime.waiter()
                flight.waiters.append(waiter)
            with call.waiting(waiter):
                in_time = await waiter.wait(call.deadline.at)
            call.check()
            if not in_time:
                raise call.deadline.error("pool")
            if flight.answer is not None:
                return _copied(flight.answer)
            # Who flew for us failed or was cancelled; its reason need not be ours.
        try:
            response = await call_next(request)
            await response.read()
            flight.answer = response
            return _copied(response)
        finally:
            with flights.lock:
                del flights.under_way[key]
            for waiter in flight.waiters:
                waiter.wake()


def _copied(response: AsyncResponse) -> AsyncResponse:
    return AsyncResponse(
        response.status_code,
        headers=response.headers.copy(),
        content=response.content,
        request=response.request,
        reason=response.reason,
        http_version=response.http_version,
        connection=response.connection,
    )
