"""A Unix socket in front of a TCP server of the test, so that every peer that there is can be reached by a path.

with Server() as server, Door(server.port, str(tmp_path / "s")) as door:
    await session.get(f"{door.url}/hello")
"""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import quote_from_bytes


class Door:
    """Hands bytes on in both directions. A path with a NUL before it is an abstract name.

    Attributes:
        opened: connections so far.
    """

    def __init__(self, port: int, path: str) -> None:
        self.port = port
        self.path = path
        self.opened = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    @property
    def host(self) -> str:
        """The path as the host of a URL."""
        return quote_from_bytes(os.fsencode(self.path), safe="")

    @property
    def url(self) -> str:
        return f"http+unix://{self.host}"

    def __enter__(self) -> Self:
        self._listener.bind(self.path)
        self._listener.listen(32)
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for sock in self._sockets:
            _shut_down(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _begin(self, function: object, *args: socket.socket) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)  # type: ignore[arg-type]  # of this class
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            self.opened += 1
            outer = socket.create_connection(("127.0.0.1", self.port))
            self._sockets += [inner, outer]
            self._begin(_pump, inner, outer)
            self._begin(_pump, outer, inner)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    _shut_down(sink, socket.SHUT_WR)


def _shut_down(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:  # it is already
        pass
