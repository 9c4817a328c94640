"""Large bodies both ways in bounded memory: 256 MiB by `readinto` from nginx and from disk into a sink, with less than
4 MiB of growth. The client is a process of its own (`benchmarks/bulk_client.py`), so nobody else's memory counts."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from peers import BIG, Authority
from peers.nginx import Nginx
from peers.sink import sink

SIZE = 256 << 20
GROWTH = 4 << 20
CLIENT = Path(__file__).parent / "benchmarks" / "bulk_client.py"

each_world = pytest.mark.parametrize("client", ["plugwire", "plugwire asyncio", "plugwire trio"])
each_scheme = pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])


def _run(client: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, CLIENT, client, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] == SIZE
    assert found["growth"] < GROWTH, f"{found['growth'] / (1 << 20):.1f} MiB"


def _sparse(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@each_scheme
@each_world
def test_download_in_bounded_memory(client: str, is_secure: bool, nginx: Nginx, ca: Authority) -> None:
    path = _sparse(nginx.upload_directory / "large")
    base = nginx.tls_url if is_secure else nginx.url
    try:
        _run(client, f"{base}/upload/large", f"{base}/big", str(ca.cert_pem))
    finally:
        path.unlink()


@each_scheme
@each_world
def test_upload_from_disk_in_bounded_memory(client: str, is_secure: bool, ca: Authority, tmp_path: Path) -> None:
    context = None
    if is_secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca.server.bundle_pem)
    large, small = _sparse(tmp_path / "large"), tmp_path / "small"
    small.write_bytes(BIG)
    with sink(context) as url:
        _run(client, url, url, str(ca.cert_pem), str(large), str(small))
