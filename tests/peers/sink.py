"""A server in a thread that reads bodies as fast as Python can, throws them away, and answers with their length.

For uploads of a size at which a real server would be what is measured. Only bodies with Content-Length."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@contextlib.contextmanager
def sink(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Its URL; over TLS with a context."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener, context))
        thread.start()
        try:
            scheme = "http" if context is None else "https"
            yield f"{scheme}://localhost:{listener.getsockname()[1]}/"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    """One connection after the other, until the listener is shut down."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        # A client that goes away in the middle is not the sink's trouble.
        with contextlib.suppress(OSError), sock:
            if context is None:
                _serve(sock)
            else:
                with context.wrap_socket(sock, server_side=True) as tls:
                    _serve(tls)


def _serve(sock: socket.socket) -> None:
    buffer = bytearray(1 << 20)
    while True:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = sock.recv(65536)
            if not piece:
                return
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        match = _LENGTH.search(head + b"\r\n")
        length = int(match[1]) if match else 0
        if b"100-continue" in head.lower():
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        left = length - len(body)
        while left > 0:
            size = sock.recv_into(buffer)
            if not size:
                return
            left -= size
        answer = b"%d" % length
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
