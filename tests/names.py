"""A name service for tests, in place of `socket.getaddrinfo`: the fixture `names`.

names["h.example"] = ["127.0.0.1"]
names["gone.example"] = socket.gaierror(socket.EAI_NONAME, "no such name")
names.hold("slow.example")          # does not answer before names.let_go("slow.example")
assert names.asked == ["h.example"]
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pytest

from worlds import PATIENCE, join_all

Answer: TypeAlias = "Sequence[str | tuple[str, int]] | Exception"
"""Addresses, an IPv6 one with its scope id if it has one; or what is raised."""


class Names(dict[str, Answer]):
    """What each name means. Names that are not there do not exist.

    Attributes:
        asked: for what getaddrinfo was called, in order.
        most: calls that were under way at once, at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.most = 0
        self._under_way = 0
        self._held: dict[str, threading.Event] = {}
        self._changed = threading.Condition()

    def hold(self, *hosts: str) -> None:
        for host in hosts:
            self._held[host] = threading.Event()

    def let_go(self, *hosts: str) -> None:
        for host in hosts or tuple(self._held):
            self._held[host].set()

    def wait_for(self, count: int) -> None:
        """Until so many calls have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, PATIENCE), f"only {self.asked}"

    def wait_until_quiet(self) -> None:
        """Until no call is under way."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._under_way, PATIENCE), "a look-up goes on"

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        with self._changed:
            self.asked.append(host)
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            self._changed.notify_all()
        try:
            if host in self._held:
                assert self._held[host].wait(PATIENCE), f"{host} was never let go"
            answer = self.get(host, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
            if isinstance(answer, Exception):
                raise answer
            return [_entry(address, port) for address in answer]
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()


def _entry(address: str | tuple[str, int], port: int) -> Any:
    text, scope = address if isinstance(address, tuple) else (address, 0)
    if ":" in text:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, port, 0, scope))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, port))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """`Names` in place of the system's resolver. At the end nothing may be under way."""
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.let_go()
    made.wait_until_quiet()
    # A thread of this test that is late would be one too many in the next.
    join_all([thread for thread in threading.enumerate() if thread.name.startswith("plugwire resolves ")])
