"""Node's http and https servers; the routes are described at the head of `node_server.js`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.certificates import Authority
from peers.content import write_content
from peers.server import Peer, addresses, find_program, free_ports, running


@dataclass(frozen=True)
class Node(Peer):
    """Node has no ports beyond the common two."""


@contextlib.contextmanager
def node(authority: Authority) -> Iterator[Node]:
    program = find_program("node", "nodejs")

    def configure(directory: Path) -> tuple[Node, list[str], list[int]]:
        plain, tls = ports = free_ports(2)
        settings = {
            "addresses": list(addresses()),
            "port": plain,
            "tlsPort": tls,
            "content": str(write_content(directory / "content")),
            "certificate": str(authority.server.chain_pem),
            "key": str(authority.server.key_pem),
        }
        script = Path(__file__).with_name("node_server.js")
        return Node(directory=directory, port=plain, tls_port=tls), [program, str(script), json.dumps(settings)], ports

    with running("node", configure) as peer:
        yield peer
