"""Node's http, https and http2 servers; the routes are described at the heads of `node_server.js` and `node_h2.js`."""

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
    mutual_tls_port: int
    """TLS that ends the connection of a client without a certificate of the same authority."""


@contextlib.contextmanager
def node(authority: Authority, **h2_settings: int) -> Iterator[Node]:
    """`h2_settings`: in the SETTINGS of its HTTP/2 servers, as Node calls them (`maxConcurrentStreams=1`)."""
    program = find_program("node", "nodejs")

    def configure(directory: Path) -> tuple[Node, list[str], list[int]]:
        plain, tls, mutual, h2, h2c = ports = free_ports(5)
        settings = {
            "addresses": list(addresses()),
            "port": plain,
            "tlsPort": tls,
            "mutualTlsPort": mutual,
            "h2Port": h2,
            "h2cPort": h2c,
            "h2Settings": h2_settings,
            "content": str(write_content(directory / "content")),
            "certificate": str(authority.server.chain_pem),
            "key": str(authority.server.key_pem),
            "authority": str(authority.cert_pem),
        }
        script = Path(__file__).with_name("node_server.js")
        peer = Node(directory=directory, port=plain, tls_port=tls, mutual_tls_port=mutual, h2_port=h2, h2c_port=h2c)
        return peer, [program, str(script), json.dumps(settings)], ports

    with running("node", configure) as peer:
        yield peer
