"""A proxy whose every answer the test decides, and through whose tunnels real bytes go."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

from plugwire.testing.loopback import Loopback, say_goodbye

OK = b"HTTP/1.1 200 OK\r\n\r\n"
WANTS_MUCH = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Test one\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50000
WANTS = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Test one\r\nContent-Length: 4\r\n\r\nwho?"


class ProxyPeer(Loopback):
    """Reads requests, answers them by `answer(head)`, and after a 2xx to CONNECT connects to `target`, a port here.

    An answer with "Connection: close" ends the connection. `heads` is what came, in order; `connections` has the number
    of the connection for each of them.
    """

    def __init__(
        self, answer: Callable[[bytes], bytes] = lambda head: OK, *, target: int = 0, tls: bool = False
    ) -> None:
        super().__init__(tls=tls)
        self.heads: list[bytes] = []
        self.connections: list[int] = []
        self._answer = answer
        self._target = target

    @property
    def lines(self) -> list[bytes]:
        """The first line of each request."""
        return [head.partition(b"\r\n")[0] for head in self.heads]

    def _serve(self, sock: Any, number: int) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data or len(data) < (size := _size(data)):
                more = sock.recv(65536)
                if not more:
                    say_goodbye(sock)
                    return
                data += more
            request, data = data[:size], data[size:]
            head = request.partition(b"\r\n\r\n")[0]
            self.heads.append(head + b"\r\n\r\n")
            self.connections.append(number)
            answer = self._answer(self.heads[-1])
            sock.sendall(answer)
            if head.startswith(b"CONNECT ") and answer.startswith(b"HTTP/1.1 2"):
                with closing(socket.create_connection(("127.0.0.1", self._target))) as target:
                    target.sendall(data)
                    relay(sock, target)
                return
            if b"connection: close" in answer.lower():
                say_goodbye(sock)
                return


def _size(data: bytes) -> int:
    """That of the request whose head is at the beginning."""
    head, mark, _ = data.partition(b"\r\n\r\n")
    return len(head + mark) + int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)


def relay(one: Any, other: Any) -> None:
    """Bytes both ways, until one of the two ends."""
    pending = getattr(one, "pending", int)
    while True:
        ready = [one] if pending() else select.select([one, other], [], [])[0]
        for source in ready:
            try:
                data = source.recv(65536)
                (other if source is one else one).sendall(data)
            except OSError:
                data = b""
            if not data:
                return


class Challenge:
    """An auth object as third parties write them: it waits to be asked, and shows what it has seen."""

    def __init__(self, answers: tuple[str, ...] = ("Test 1",)) -> None:
        self.answers = answers
        self.seen: list[tuple[str, str | None, int, str | None]] = []
        self.infos: list[str] = []

    async def around_send(self, request: Any, call_next: Any, call: Any) -> Any:
        response = await self._asked(request, call_next)
        for answer in self.answers:
            if response.status_code != 401:
                break
            request.headers["Authorization"] = answer
            response = await self._asked(request, call_next)
        return response

    async def _asked(self, request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        challenge = response.headers.get("www-authenticate")
        self.seen.append((str(request.url), request.target, response.status_code, challenge))
        self.infos += response.headers.get_list("authentication-info")
        return response
