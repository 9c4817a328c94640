"""A bearer token that is fetched when it is needed and again when the server refuses it: once for all who wait."""

from __future__ import annotations

from plugwire import hookimpl
from plugwire.protocols import AsyncResponse, Call, Next, Request, Runtime


class _Kept:
    """What is kept for each session."""

    def __init__(self, runtime: Runtime) -> None:
        self.lock = runtime.lock()
        self.token = ""


class RefreshedBearer:
    def __init__(self, token_url: str) -> None:
        self.token_url = token_url

    @hookimpl(stage="auth")
    async def around_send(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        if request.origin != call.origin:  # the token is for nobody else
            return await call_next(request)
        kept = call.session.state(self, _Kept)
        token = kept.token or await self._refreshed(kept, "", call)
        request.headers["Authorization"] = f"Bearer {token}"
        response = await call_next(request)
        if response.status_code == 401 and request.body.is_replayable:
            await response.close()
            request.headers["Authorization"] = f"Bearer {await self._refreshed(kept, token, call)}"
            response = await call_next(request)
        return response

    async def _refreshed(self, kept: _Kept, stale: str, call: Call) -> str:
        async with kept.lock:
            if kept.token == stale:  # else somebody else was faster
                response = await call.send(Request("POST", self.token_url), without=(self,))
                kept.token = response.raise_for_status().json()["token"]
            return kept.token
