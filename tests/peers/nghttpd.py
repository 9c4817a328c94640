"""nghttpd, nghttp2's own server. It speaks HTTP/2 only, and serves files:

===================  ==============================================================================================
`/small`             `SMALL`, with Content-Length          `/big`  `BIG`          `/large`  `pattern(LARGE_SIZE)`
POST or PUT /any     what came, echoed, without Content-Length
anything else        404
===================  ==============================================================================================

It knows neither If-None-Match nor ranges. What else it can do hangs on its command line, so each of its ports is a
process of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.certificates import Authority
from peers.content import write_content
from peers.server import H2_PROBE, find_program, free_ports, running

HOST = "127.0.0.1"  # it listens on one address, or on all of the machine


@dataclass(frozen=True)
class Nghttpd:
    h2_port: int
    """TLS with `Authority.server`, ALPN h2."""
    h2c_port: int
    """In the clear, by prior knowledge."""
    trailers_port: int
    """In the clear; no Content-Length, and the trailer `x-trailer: at last` ends each content."""
    padded_port: int
    """In the clear; frames with up to 255 bytes of padding."""
    early_port: int
    """In the clear; answers a request before its content has come."""
    narrow_port: int
    """In the clear; 2 streams at once, and a window of 1023 bytes for each upload."""

    @property
    def h2_url(self) -> str:
        return f"https://{HOST}:{self.h2_port}"

    @property
    def h2c_url(self) -> str:
        return f"http://{HOST}:{self.h2c_port}"


_OPTIONS = {
    "h2_port": ("--echo-upload",),
    "h2c_port": ("--echo-upload", "--no-tls"),
    "trailers_port": ("--no-content-length", "--trailer=x-trailer: at last", "--no-tls"),
    "padded_port": ("--padding=255", "--no-tls"),
    "early_port": ("--early-response", "--no-tls"),
    "narrow_port": ("--echo-upload", "--max-concurrent-streams=2", "--window-bits=10", "--no-tls"),
}


@contextlib.contextmanager
def nghttpd(authority: Authority) -> Iterator[Nghttpd]:
    program = find_program("nghttpd")
    with contextlib.ExitStack() as stack:

        def start(options: tuple[str, ...]) -> int:
            def configure(directory: Path) -> tuple[int, list[str], list[int]]:
                content = write_content(directory / "content")
                for path in content.iterdir():
                    path.rename(path.with_suffix(""))
                ports = free_ports(1)
                command = [program, f"--address={HOST}", f"--htdocs={content}", *options, str(ports[0])]
                if "--no-tls" not in options:
                    command += [str(authority.server.key_pem), str(authority.server.chain_pem)]
                return ports[0], command, ports

            probe = H2_PROBE if "--no-tls" in options else None
            return stack.enter_context(running("nghttpd", configure, probe=probe, hosts=[HOST]))

        yield Nghttpd(**{name: start(options) for name, options in _OPTIONS.items()})
