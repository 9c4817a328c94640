"""A transport that answers `mem://` URLs from a dictionary: `session.get("mem://host/")` finds it by the scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugwire import AsyncResponse
from plugwire.protocols import Call, Connecting, Connection, ConnectionInfo, Request, Route, connection_ids

if TYPE_CHECKING:
    from collections.abc import Mapping


class Memory:
    """Serves `files`, by path."""

    name = "mem"
    honours = frozenset[str]()

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files = {"/": b"from memory"} if files is None else files

    def refuse(self, route: Route) -> str | None:
        return None if route.scheme == "mem" else "only for mem:// URLs"

    async def open(self, route: Route, connecting: Connecting) -> Connection:
        return _MemoryConnection(self.files)


class _MemoryConnection(Connection):
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.capacity = 1000
        self.is_idle = True
        self.is_draining = False
        self.is_closed = False
        self.info = ConnectionInfo(next(connection_ids), "memory")
        self._files = files

    async def send(self, request: Request, call: Call) -> AsyncResponse:
        found = self._files.get(request.url.path or "/")
        status = 404 if found is None else 200
        return AsyncResponse(status, content=found or b"", request=request, connection=self.info)

    def is_fresh(self) -> bool:
        return not self.is_closed

    def close(self) -> None:
        self.is_closed = True
        self.capacity = 0

    def abort(self) -> None:
        self.close()
