"""A server on loopback, in threads of this process, for demonstrations and tests. It is written for peace of mind, not
for speed, and it knows one client: a well-behaved one. For the others there is `ScriptedPeer`.

    with Server() as server:
        plugwire.get(f"{server.url}/hello")

    with Server(tls=True, http_versions=("h2", "http/1.1")) as server:
        plugwire.get(f"{server.url}/hello", tls=server.tls_config)   # HTTP/2, by ALPN

It speaks HTTP/1.1 unless told otherwise, so that a test that counts connections counts the same ones for ever. Without
a handler it has these routes:

    /hello      a line of text                          /echo       what was asked, as JSON
    /bytes/N    N bytes with a known pattern            /status/N   status N
    /chunked    ten pieces and a trailer                /redirect/N/PATH  status N, to /PATH
    all others  404

A handler is the same as that of `MockTransport`: a function from a `Request` to a `Response`, or a mapping. An
`AsyncResponse` with a `body=` is sent as it is read, over HTTP/1.1 chunked if its length is not known. What a handler
raises is answered by 500, what such a body raises cuts the response off; both are raised again by leaving the `with`
block. So does, over HTTP/1.1, a body that ends before its length, but that is taken for intended. Handlers run in a
thread for each connection of HTTP/1.1 and each request of HTTP/2, so several may run at once.
"""

from __future__ import annotations

import socket
import ssl
from importlib import import_module
from typing import TYPE_CHECKING, Final

from plugwire.blocking_response import Response
from plugwire.bodies import BytesSource
from plugwire.drive import drive
from plugwire.errors import Error, UsageError
from plugwire.headers import Headers
from plugwire.messages import AsyncResponse, Request
from plugwire.protocols import Body
from plugwire.testing.loopback import Loopback, say_goodbye
from plugwire.testing.mock import Mock, Unanswered

if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO

    from plugwire.bodies import Json
    from plugwire.testing.mock import Answer, MockHandler
    from plugwire.testing.server_http2 import HTTP2Connection

PIECE: Final = 65536
MAX_LINE: Final = 65536
VERSIONS: Final = frozenset({"h2", "http/1.1"})


class Server(Loopback):
    """Serves while its `with` block runs; leaving it closes every connection and ends every thread.

    Args:
        handler: what answers; None: the routes that the module names.
        tls: speak TLS; a client trusts it by `tls=server.tls_config`. Needs the package trustme.
        http_versions: "h2" and "http/1.1", the preferred one first: over TLS what ALPN chooses from, in the clear what
            is understood. A client without ALPN gets HTTP/1.1, if that is among them.

    Attributes:
        http_versions: as given.

    Raises:
        UsageError: tls=True, and trustme is not installed; or `http_versions` names none, or one that is unknown.
    """

    def __init__(
        self,
        handler: MockHandler | None = None,
        *,
        tls: bool = False,
        http_versions: tuple[str, ...] = ("http/1.1",),
    ) -> None:
        if not isinstance(http_versions, tuple) or not http_versions or not VERSIONS.issuperset(http_versions):
            raise UsageError(
                f"a server's http_versions={http_versions!r}: a tuple of 'h2' and 'http/1.1', or one of them"
            )
        super().__init__(tls=tls, alpn=http_versions)
        self.http_versions = http_versions
        self._mock = Mock(default_routes if handler is None else handler)
        self._errors: list[Exception] = []
        self._speaking: dict[socket.socket, HTTP2Connection] = {}
        if "h2" in http_versions:
            # Here, not in a connection's thread: if the client imports the same at the same time, in another order, the
            # import system gives one of the two a package that is half there.
            import_module("plugwire.testing.server_http2")

    @property
    def calls(self) -> list[Request]:
        """The requests that came, in order, their bodies in memory; `trailers()` of one gives those that came."""
        return self._mock.calls

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._errors and error is None:
            raise self._errors[0]

    def _serve(self, sock: socket.socket, number: int) -> None:
        if self._speaks_http2(sock):
            self._serve_http2(sock)
            return
        with sock.makefile("rb") as reader:
            while self._exchange(sock, reader):
                pass
        say_goodbye(sock)

    def _speaks_http2(self, sock: socket.socket) -> bool:
        if len(self.http_versions) == 1:
            return "h2" in self.http_versions
        if isinstance(sock, ssl.SSLSocket):
            return sock.selected_alpn_protocol() == "h2"
        # The preface is made so that three bytes tell it from any request of HTTP/1.1 (RFC 9113, 3.4).
        return sock.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL) == b"PRI"

    def _serve_http2(self, sock: socket.socket) -> None:
        from plugwire.testing.server_http2 import HTTP2Connection

        connection = HTTP2Connection(sock, self._respond, self._errors.append)
        with self._changed:
            self._speaking[sock] = connection
        try:
            connection.run()
        finally:
            with self._changed:
                del self._speaking[sock]

    def _end(self, sock: socket.socket) -> None:
        if sock in self._speaking:
            self._speaking[sock].stop()
        else:
            super()._end(sock)

    def _exchange(self, sock: socket.socket, reader: BinaryIO) -> bool:
        """One request of HTTP/1.1 and its answer; whether there may be another."""
        line = reader.readline(MAX_LINE)
        if not line:
            return False
        try:
            method, target, version = line.decode("ascii").split()
            headers = Headers(_read_fields(reader))
            if (headers.get("expect") or "").lower() == "100-continue":
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            content, trailers = _read_body(reader, headers)
            request = self._request(method, target, headers, content, trailers)
        except (ValueError, Error) as error:
            _send(sock, _refusal(error), "GET", False)
            return False
        options = (headers.get("connection") or "").lower()
        stays = "close" not in options and (version == "HTTP/1.1" or "keep-alive" in options)
        response = self._answer(request)
        try:
            return _send(sock, response, method, stays)
        except _BodyFailed as failure:
            self._errors.append(failure.error)
            return False

    def _respond(
        self, method: str, target: str, headers: list[tuple[str, str]], content: bytes, trailers: list[tuple[str, str]]
    ) -> AsyncResponse:
        """The answer to a request of HTTP/2."""
        try:
            request = self._request(method, target, Headers(headers), content, trailers)
        except (ValueError, Error) as error:
            return _refusal(error)
        return self._answer(request)

    def _request(
        self, method: str, target: str, headers: Headers, content: bytes, trailers: list[tuple[str, str]]
    ) -> Request:
        came = Headers(trailers)
        request = Request(method, target if "://" in target else self.url + target, headers=headers)
        request.body = BytesSource(content)
        request.trailers = lambda: came
        return request

    def _answer(self, request: Request) -> AsyncResponse:
        try:
            return drive(self._mock.answer(request))
        except Unanswered as error:
            return AsyncResponse(404, text=f"{error}\n")
        except Exception as error:
            self._errors.append(error)
            return AsyncResponse(500, text=f"{type(error).__name__}: {error}\n")


def _read_fields(reader: BinaryIO) -> list[tuple[str, str]]:
    """Field lines up to the empty line."""
    fields: list[tuple[str, str]] = []
    while (line := reader.readline(MAX_LINE).decode("latin-1")).rstrip("\r\n"):
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"a field line without a colon: {line!r}")
        fields.append((name, value.strip()))
    return fields


def _read_body(reader: BinaryIO, headers: Headers) -> tuple[bytes, list[tuple[str, str]]]:
    """The body that Content-Length or chunked coding announces, and its trailers."""
    if "transfer-encoding" not in headers:
        return reader.read(headers.get_int("content-length") or 0), []
    pieces: list[bytes] = []
    while size := int(reader.readline(MAX_LINE).split(b";")[0], 16):
        pieces.append(reader.read(size))
        reader.readline(MAX_LINE)
    return b"".join(pieces), _read_fields(reader)


def _refusal(error: Exception) -> AsyncResponse:
    return AsyncResponse(400, text=f"{error}\n")


class _BodyFailed(Exception):
    """The handler's body raised, not the connection."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _receive(body: Body) -> bytes:
    try:
        return drive(body.receive(PIECE))
    except Exception as error:
        raise _BodyFailed(error) from error


def _send(sock: socket.socket, response: AsyncResponse, method: str, stays: bool) -> bool:
    """Send the answer; whether the connection can go on."""
    body, status = response.body, response.status_code
    has_no_body = method == "HEAD" or status in (204, 304) or status < 200
    headers = response.headers.copy()
    is_chunked = body.length is None and not has_no_body
    if is_chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif status not in (204, 304) and status >= 200:
        headers.add("Content-Length", str(body.length or 0), mode="if_new")
    if not stays:
        headers["Connection"] = "close"
    head = b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, response.reason.encode("latin-1"), headers.encoded())
    try:
        piece = b"" if has_no_body else _receive(body)
        # Head and first piece together: one packet for a small answer.
        sock.sendall(head + _framed(piece, is_chunked))
        sent = len(piece)
        while piece:
            piece = _receive(body)
            if piece:
                sock.sendall(_framed(piece, is_chunked))
                sent += len(piece)
        if is_chunked:
            trailers = body.trailers.encoded() if body.trailers is not None else b""
            sock.sendall(b"0\r\n%s\r\n" % trailers)
    finally:
        drive(body.close())
    return stays and (has_no_body or is_chunked or sent == body.length)


def _framed(piece: bytes, is_chunked: bool) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked and piece else piece


# -- the routes of a server without a handler ------------------------------------------------------------------------


class PatternBody(Body):
    """`length` bytes, of which the one at place n is n mod 251, so that a shifted or repeated piece is seen. Takes no
    memory."""

    PATTERN: Final = bytes(range(251)) * (PIECE // 251 + 2)

    def __init__(self, length: int) -> None:
        self.length: int | None = length
        self._place = 0
        self._left = length

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        size = min(max_bytes, PIECE, self._left)
        begin = self._place % 251
        self._place += size
        self._left -= size
        return self.PATTERN[begin : begin + size]


class _Chunks(Body):
    """Ten lines, each a chunk of its own, and a trailer."""

    def __init__(self) -> None:
        self._given = 0

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        if self._given == 10:
            self.trailers = Headers({"x-pieces": "10"})
            return b""
        self._given += 1
        return b"piece %d\n" % self._given


def default_routes(request: Request) -> Answer:
    """The routes that the module names."""
    match request.url.path.split("/")[1:]:
        case ["hello"]:
            return Response(200, text="hello from plugwire's own server\n")
        case ["echo"]:
            lines: list[Json] = [(name, value) for name, value in request.headers.items()]
            asked: dict[str, Json] = {"method": request.method, "url": str(request.url), "headers": lines}
            return Response(200, json={**asked, "length": request.body.length})
        case ["chunked"]:
            return AsyncResponse(200, headers={"content-type": "text/plain"}, body=_Chunks())
        case ["bytes", size] if size.isascii() and size.isdigit():
            return AsyncResponse(200, headers={"content-type": "application/octet-stream"}, body=PatternBody(int(size)))
        case ["status", number] if number.isascii() and number.isdigit() and 200 <= int(number) <= 599:
            return Response(int(number), text=f"status {number}\n")
        case ["redirect", number, *place] if number.isascii() and number.isdigit() and 300 <= int(number) <= 399:
            return Response(int(number), headers={"location": "/" + "/".join(place)}, text=f"status {number}\n")
        case _:
            return Response(404, text=f"there is nothing at {request.url.path}\n")
