"""Started by asgi.py with one argument, its settings as JSON. Beyond the paths that every peer has:

===================  ==============================================================================================
`/echo`              what came, as JSON: method, target, httpVersion, headers ([name, value]), length and sha256
`/reflect`           the request's body, as it comes
`/pattern?n=`        n bytes, byte i is i % 251, without Content-Length
`/crash`             the application fails in the middle of the body
`/trailers`          `SMALL`, then the trailer x-checksum (its sha256), if the client says TE: trailers
`/hints`             103 with a Link, then `SMALL` (HTTP/2 only)
===================  ==============================================================================================
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import hypercorn.asyncio
import hypercorn.config

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Exchange:
    """One request, and the sending of its response."""

    def __init__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self.send = send
        self._has_more = True

    async def next_piece(self) -> bytes | None:
        """The next piece of the request's body, None at its end."""
        # Once the body is complete, another receive would wait for the client to go away.
        if not self._has_more:
            return None
        message = await self._receive()
        self._has_more = message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def write(self, data: bytes) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self.send({"type": "http.response.body", "body": b""})

    async def answer(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        await self.start(status, [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), *headers])
        await self.write(body)
        await self.end()


async def echo(exchange: Exchange) -> None:
    digest, length = hashlib.sha256(), 0
    while (piece := await exchange.next_piece()) is not None:
        digest.update(piece)
        length += len(piece)
    scope = exchange.scope
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    seen = {
        "method": scope["method"],
        "target": target.decode("latin-1"),
        "httpVersion": scope["http_version"],
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "length": length,
        "sha256": digest.hexdigest(),
    }
    await exchange.answer(200, json.dumps(seen).encode())


async def serve_small(exchange: Exchange, small: bytes) -> None:
    headers = dict(exchange.scope["headers"])
    etag = (b"etag", b'"small"')
    if headers.get(b"if-none-match") == etag[1]:
        await exchange.start(304, [etag])
        await exchange.end()
    elif match := re.fullmatch(rb"bytes=(\d+)-(\d+)", headers.get(b"range", b"")):
        first, last = int(match[1]), int(match[2])
        place = (b"content-range", b"bytes %d-%d/%d" % (first, last, len(small)))
        await exchange.answer(206, small[first : last + 1], etag, place)
    else:
        await exchange.answer(200, small, etag)


async def reflect(exchange: Exchange) -> None:
    await exchange.start(200)
    while (piece := await exchange.next_piece()) is not None:
        await exchange.write(piece)
    await exchange.end()


async def pattern(exchange: Exchange) -> None:
    left = int(parse_qs(exchange.scope["query_string"])[b"n"][0])
    block = bytes(range(251)) * 256
    await exchange.start(200)
    while left > 0:
        await exchange.write(block[:left])
        left -= min(left, len(block))
    await exchange.end()


async def crash(exchange: Exchange) -> None:
    await exchange.start(200, [(b"content-length", b"1000")])
    await exchange.write(b"half")
    raise RuntimeError("this failure is asked for")


async def main(settings: dict[str, Any]) -> None:
    content = Path(settings["content"])
    small, big, large = ((content / name).read_bytes() for name in ("small.txt", "big.bin", "large.bin"))

    async def chunked(exchange: Exchange) -> None:
        await exchange.start(200)
        await exchange.write(small)
        await exchange.end()

    async def trailers(exchange: Exchange) -> None:
        await exchange.send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await exchange.send({"type": "http.response.body", "body": small})
        checksum = (b"x-checksum", hashlib.sha256(small).hexdigest().encode())
        await exchange.send({"type": "http.response.trailers", "headers": [checksum]})

    async def hints(exchange: Exchange) -> None:
        await exchange.send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload; as=style"]})
        await exchange.answer(200, small)

    async def no_content(exchange: Exchange) -> None:
        await exchange.start(204)
        await exchange.end()

    routes: dict[str, Callable[[Exchange], Awaitable[None]]] = {
        "/small": lambda exchange: serve_small(exchange, small),
        "/big": lambda exchange: exchange.answer(200, big),
        "/large": lambda exchange: exchange.answer(200, large),
        "/trailers": trailers,
        "/hints": hints,
        "/redirect": lambda exchange: exchange.answer(302, b"", (b"location", b"/small")),
        "/unavailable": lambda exchange: exchange.answer(503, b"unavailable\n"),
        "/no-content": no_content,
        "/chunked": chunked,
        "/echo": echo,
        "/reflect": reflect,
        "/pattern": pattern,
        "/crash": crash,
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        route = routes.get(scope["path"])
        await (route(exchange) if route else exchange.answer(404, b"not found\n"))

    def configured(bind: list[str], alpn: list[str]) -> hypercorn.config.Config:
        config = hypercorn.config.Config()
        config.bind = bind
        config.alpn_protocols = alpn
        config.certfile = settings["certificate"]
        config.keyfile = settings["key"]
        config.keep_alive_timeout = 600
        config.keep_alive_max_requests = 1_000_000
        return config

    first, second = configured(settings["tls"], ["http/1.1"]), configured(settings["h2"], ["h2", "http/1.1"])
    first.insecure_bind = settings["plain"]
    # One signal for both; by itself each of them would take it from the other.
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_over.set)
    await asyncio.gather(
        hypercorn.asyncio.serve(app, first, shutdown_trigger=is_over.wait),
        hypercorn.asyncio.serve(app, second, shutdown_trigger=is_over.wait),
    )


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
