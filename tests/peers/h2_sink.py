"""As `sink`, over HTTP/2 and TLS: a server in a thread that takes one upload after the other, throws it away, and
answers with its length. Only frames are read, no fields; one stream at a time."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from typing import BinaryIO

WINDOW = 1 << 20
STEP = 1 << 18
"""Content after which the windows are given back."""

DATA, SETTINGS, PING, GOAWAY = 0, 4, 6, 7
PREFACE_SIZE = 24


@contextlib.contextmanager
def h2_sink(context: ssl.SSLContext) -> Iterator[str]:
    """Its URL. ALPN is set by this."""
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener, context))
        thread.start()
        try:
            yield f"https://localhost:{listener.getsockname()[1]}/"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, context: ssl.SSLContext) -> None:
    """One connection after the other, until the listener is shut down."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        # A client that goes away in the middle is not the sink's trouble.
        with (
            contextlib.suppress(OSError),
            sock,
            context.wrap_socket(sock, server_side=True) as tls,
            tls.makefile("rb", buffering=STEP) as reader,
        ):
            _serve(tls, reader)


def _serve(sock: ssl.SSLSocket, reader: BinaryIO) -> None:
    # The first is the window of each stream, the second that of the connection, which has its own beginning.
    sock.sendall(_frame(SETTINGS, 0, 0, struct.pack(">HI", 4, WINDOW)) + _frame(8, 0, 0, struct.pack(">I", WINDOW)))
    reader.read(PREFACE_SIZE)
    length = owed = 0
    while len(header := reader.read(9)) == 9:
        high, low, kind, flags, stream = struct.unpack(">BHBBI", header)
        payload = reader.read(high << 16 | low)
        if kind == DATA:
            length += len(payload)
            owed += len(payload)
            if flags & 1:
                answer = b"%d" % length
                # 0x88 is ":status: 200" in HPACK's static table.
                sock.sendall(_frame(1, 4, stream, b"\x88") + _frame(DATA, 1, stream, answer))
                length = 0
            elif owed >= STEP:
                increment = struct.pack(">I", owed)
                sock.sendall(_frame(8, 0, 0, increment) + _frame(8, 0, stream, increment))
                owed = 0
        elif kind in (SETTINGS, PING) and not flags & 1:
            sock.sendall(_frame(kind, 1, 0, payload if kind == PING else b""))
        elif kind == GOAWAY:
            return


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload
