"""Goes on by Range (RFC 9110, 14) where a download was cut: the body itself asks for the rest."""

from __future__ import annotations

from plugwire import IncompleteBody, ReadError, hookimpl
from plugwire.protocols import AsyncResponse, Body, Call, Next, Request


class Resuming:
    def __init__(self, max_resumes: int = 5) -> None:
        self.max_resumes = max_resumes

    @hookimpl
    async def around_call(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        response = await call_next(request)
        tag = response.headers.get("etag")
        if request.method == "GET" and response.status_code == 200 and tag and "accept-ranges" in response.headers:
            response.body = _ResumingBody(response.body, request, tag, call_next, self.max_resumes)
        return response


class _ResumingBody(Body):
    def __init__(self, inner: Body, request: Request, tag: str, call_next: Next, left: int) -> None:
        self.length = inner.length
        self._inner = inner
        self._request = request
        self._tag = tag
        self._call_next = call_next
        self._left = left
        self._done = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while True:
            try:
                data = await self._inner.receive(max_bytes)
            except (IncompleteBody, ReadError) as error:
                await self._resume(error)
            else:
                self._done += len(data)
                return data

    async def _resume(self, error: IncompleteBody | ReadError) -> None:
        if not self._left:
            raise error
        self._left -= 1
        request = self._request.copy()
        request.headers["Range"] = f"bytes={self._done}-"
        request.headers["If-Range"] = self._tag
        response = await self._call_next(request)
        if response.status_code != 206:
            await response.close()
            raise error
        self._inner = response.body

    async def close(self) -> None:
        await self._inner.close()

    def abort(self) -> None:
        self._inner.abort()
