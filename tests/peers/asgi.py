"""A Python ASGI server (hypercorn); the routes are described at the head of `asgi_server.py`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.certificates import Authority
from peers.content import write_content
from peers.server import Peer, addresses, free_ports, missing, running


@dataclass(frozen=True)
class ASGI(Peer):
    """Its `h2c_port` is its `port`: it looks at the first bytes."""


@contextlib.contextmanager
def asgi(authority: Authority) -> Iterator[ASGI]:
    if importlib.util.find_spec("hypercorn") is None:
        missing("hypercorn")

    def configure(directory: Path) -> tuple[ASGI, list[str], list[int]]:
        plain, tls, h2 = ports = free_ports(3)
        hosts = [f"[{address}]" if ":" in address else address for address in addresses()]
        settings = {
            "plain": [f"{host}:{plain}" for host in hosts],
            "tls": [f"{host}:{tls}" for host in hosts],
            "h2": [f"{host}:{h2}" for host in hosts],
            "content": str(write_content(directory / "content")),
            "certificate": str(authority.server.chain_pem),
            "key": str(authority.server.key_pem),
        }
        script = Path(__file__).with_name("asgi_server.py")
        command = [sys.executable, str(script), json.dumps(settings)]
        peer = ASGI(directory=directory, port=plain, tls_port=tls, h2_port=h2, h2c_port=plain)
        return peer, command, ports

    with running("asgi", configure) as peer:
        yield peer
