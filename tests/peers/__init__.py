"""Real servers on loopback for the tests: nginx, Apache httpd, Node, a Python ASGI server, nghttpd and httpbin.

Each is a session fixture of the same name (see `fixtures.py`), started when a test first asks for it, on free ports,
with its own configuration in its own temporary directory, and killed and waited for at the end of the run.

The first four serve the same bytes at the same paths, so that one test text runs against any of them (fixture `peer`;
over HTTP/2 too, fixture `h2_site`), nghttpd the first three of them (httpbin has its own):

=============  ====================================================================================
`/small`       `SMALL`, 127 bytes, with Content-Length and ETag; obeys If-None-Match (304) and Range (206)
`/big`         `BIG`, 1 MiB, with Content-Length
`/large`       `pattern(LARGE_SIZE)`, 8 MiB, with Content-Length
`/chunked`     `SMALL`, Transfer-Encoding: chunked; over HTTP/2 without Content-Length
`/missing`     404
`/redirect`    302 to `/small`
`/unavailable` 503
`/no-content`  204
=============  ====================================================================================

What only one of them has is listed at the head of its module.
"""

from __future__ import annotations

from peers.certificates import Authority, Certificate
from peers.content import BIG, LARGE_SIZE, PASSWORD, SMALL, USER, pattern
from peers.server import Peer

__all__ = ["BIG", "LARGE_SIZE", "PASSWORD", "SMALL", "USER", "Authority", "Certificate", "Peer", "pattern"]
