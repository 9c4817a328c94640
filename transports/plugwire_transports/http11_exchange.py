"""One request on its way over HTTP/1.1: what goes out, and how it is framed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plugwire_transports.exchange import Exchange
from plugwire_transports.http11_wire import encode_head, join_head

if TYPE_CHECKING:
    from plugwire import Request
    from plugwire.protocols import Call

JOIN_UP_TO: Final = 65536
"""A body in memory up to this size is joined to the head: one system call, one packet if it is small."""


class HTTP11Exchange(Exchange):
    """One request on its way over HTTP/1.1."""

    __slots__ = (
        "head",
        "is_chunked",
        "is_simple",
        "is_upload_open",
        "plain_block",
        "size_in_head",
        "wants_close",
    )

    def __init__(self, request: Request, call: Call, plain_block: bytes | None) -> None:
        super().__init__(request, call)
        self.plain_block = plain_block
        self.is_upload_open = False
        self.size_in_head = 0
        headers = request.headers
        body = request.body
        self.is_chunked = False
        length = body.length
        if plain_block is not None and length == 0 and request.trailers is None and headers.encoded() is plain_block:
            self.wants_close = False
            self.is_simple = True
            self.head = join_head(request.method, _target(request), plain_block)
            return
        self.wants_close = "connection" in headers and "close" in headers["connection"].lower()
        if length == 0 and request.trailers is None and "transfer-encoding" not in headers:
            self.is_simple = True
            self.head = encode_head(request.method, _target(request), headers)
            if not self.wants_close and "content-length" not in headers:
                self.plain_block = headers.encoded()
            return
        if "transfer-encoding" in headers:
            length = None
        elif length is None or request.trailers is not None:
            length = headers.get_int("content-length")
            if length is None:
                headers["Transfer-Encoding"] = "chunked"
        self.is_chunked = length is None
        self.length = length
        self.expect = self.expected()
        head = encode_head(request.method, _target(request), headers)
        content = body.content
        self.is_simple = (
            content is not None and len(content) <= JOIN_UP_TO and not self.is_chunked and self.expect is None
        )
        if self.is_simple and content is not None:
            self.size_in_head = len(content)
            head += content
        self.head = head


def _target(request: Request) -> str:
    """The request target (RFC 9112, 3.2): authority-form for CONNECT, what the caller said, else origin-form."""
    if request.target is not None:
        return request.target
    if request.method == "CONNECT":
        host = request.url.host
        return f"[{host}]:{request.url.port}" if ":" in host else f"{host}:{request.url.port}"
    return request.url.target
