"""httpbin, the package, under gunicorn: what most people try a client against first. Plain HTTP/1.1 on 127.0.0.1."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.server import free_ports, missing, running

HOST = "127.0.0.1"
THREADS = 8


@dataclass(frozen=True)
class HTTPBin:
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


@contextlib.contextmanager
def httpbin() -> Iterator[HTTPBin]:
    for package in ("httpbin", "gunicorn"):
        if importlib.util.find_spec(package) is None:
            missing(package)

    def configure(directory: Path) -> tuple[HTTPBin, list[str], list[int]]:
        (port,) = free_ports(1)
        # gunicorn, since httpbin takes chunked bodies under no other server. Its threads keep connections alive; by
        # default for two seconds, and then they close under whatever is on its way.
        options = ["--bind", f"{HOST}:{port}", "--worker-class", "gthread", "--threads", str(THREADS)]
        options += ["--keep-alive", "600"]
        options += ["--worker-tmp-dir", str(directory), "--no-control-socket", "--graceful-timeout", "1"]
        return HTTPBin(port), [sys.executable, "-m", "gunicorn", *options, "httpbin:app"], [port]

    with running("httpbin", configure, hosts=[HOST]) as peer:
        yield peer
