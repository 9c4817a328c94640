"""A server that keeps what came to it, before any parser of ours has put it right: for comparing clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plugwire.testing.loopback import Loopback, say_goodbye


@dataclass(frozen=True)
class Seen:
    """One request, as it came. body: without the framing of chunks. connection: its number, from 0."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""
    connection: int = 0

    def get(self, name: str) -> str | None:
        """The field, its lines joined; None if there is none."""
        values = [value for one, value in self.fields if one.lower() == name.lower()]
        return ", ".join(values) if values else None


def answer(status: int = 200, content: bytes = b"", **fields: str) -> bytes:
    """A response; a field's name has "_" for "-"."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Some\r\n{lines}Content-Length: {len(content)}\r\n\r\n".encode("latin-1") + content


class Recorder(Loopback):
    """Answers each request with the bytes that `respond` makes of it. After a "Connection: close" in them it closes."""

    def __init__(self, respond: Callable[[Seen], bytes] = lambda seen: answer(), *, tls: bool = False) -> None:
        super().__init__(tls=tls)
        self.seen: list[Seen] = []
        self._respond = respond

    def _serve(self, sock: Any, number: int) -> None:
        with sock.makefile("rb") as reader:
            while line := reader.readline():
                method, target, _ = line.decode("latin-1").split(" ")
                fields = []
                while field := reader.readline().decode("latin-1").rstrip("\r\n"):
                    name, _, value = field.partition(":")
                    fields.append((name, value.strip()))
                head = Seen(method, target, tuple(fields), connection=number)
                seen = Seen(method, target, head.fields, _body(reader, head), number)
                self.seen.append(seen)
                response = self._respond(seen)
                if method == "HEAD":
                    response = response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                sock.sendall(response)
                if b"\r\nconnection: close\r\n" in response.lower():
                    break
            say_goodbye(sock)


def _body(reader: Any, head: Seen) -> bytes:
    if head.get("transfer-encoding") is None:
        return reader.read(int(head.get("content-length") or 0))  # type: ignore[no-any-return]
    pieces = []
    while size := int(reader.readline(), 16):
        pieces.append(reader.read(size))
        reader.readline()
    reader.readline()
    return b"".join(pieces)
