"""Signs every request as it goes out, with all header fields in place."""

from __future__ import annotations

import hashlib
import hmac

from plugwire import hookimpl
from plugwire.protocols import AsyncResponse, Next, Request


class Signer:
    def __init__(self, key: bytes) -> None:
        self.key = key

    def sign(self, request: Request) -> str:
        content = hashlib.sha256(request.content or b"").hexdigest()
        text = "\n".join((request.method, request.url.target, request.headers["host"], content))
        return hmac.digest(self.key, text.encode(), "sha256").hex()

    @hookimpl(stage="sign")
    async def around_send(self, request: Request, call_next: Next) -> AsyncResponse:
        request.headers["X-Signature"] = self.sign(request)
        return await call_next(request)
