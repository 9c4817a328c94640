"""A resolver that knows some hosts by heart, and asks the resolvers below for all others."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from plugwire.protocols import Address, Connecting, Route


class PinnedHosts:
    name = "pinned-hosts"
    honours = frozenset[str]()

    def __init__(self, pins: Mapping[str, str]) -> None:
        self.pins = pins

    def refuse(self, route: Route) -> str | None:
        return None

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        pinned = self.pins.get(host)
        if pinned is None:
            return await connecting.resolve(host, port)
        return [Address(socket.AF_INET6 if ":" in pinned else socket.AF_INET, pinned, port)]
