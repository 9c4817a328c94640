"""Holds the bytes as they were received against Content-Digest (RFC 9530), and a plugin that decodes gzip above it."""

from __future__ import annotations

import base64
import hashlib
import zlib

from plugwire import DecodingError, hookimpl
from plugwire.protocols import AsyncResponse, Body, WatchedBody


class Checksum:
    def __init__(self) -> None:
        self.verified = 0

    @hookimpl(stage="attempt")
    def around_read(self, response: AsyncResponse, body: Body) -> Body:
        field = response.headers.get("content-digest") or ""
        return _Digested(self, body, field) if field.startswith("sha-256=:") else body


class _Digested(WatchedBody):
    def __init__(self, checksum: Checksum, inner: Body, field: str) -> None:
        super().__init__(inner)
        self._checksum = checksum
        self._wanted = base64.b64decode(field.removeprefix("sha-256=:").rstrip(":"))
        self._hash = hashlib.sha256()

    def seen(self, data: bytes | memoryview) -> None:
        self._hash.update(data)

    def ended(self, error: BaseException | None) -> None:
        if error is None and self._hash.digest() != self._wanted:
            raise DecodingError("the content is not what Content-Digest says")
        self._checksum.verified += error is None


class Gunzip:
    @hookimpl(stage="decode")
    def around_read(self, response: AsyncResponse, body: Body) -> Body:
        return _Gunzipped(body) if response.headers.get("content-encoding") == "gzip" else body


class _Gunzipped(Body):
    def __init__(self, inner: Body) -> None:
        self._inner = inner
        self._decoder = zlib.decompressobj(31)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self._decoder.eof:
            data = self._decoder.unconsumed_tail or await self._inner.receive()
            if decoded := self._decoder.decompress(data, max_bytes):
                return decoded
            if not data:
                raise DecodingError("the gzip stream was cut")
        # The end of what was received must be seen, or the connection would not be free.
        while await self._inner.receive():
            pass
        return b""

    async def close(self) -> None:
        await self._inner.close()

    def abort(self) -> None:
        self._inner.abort()
