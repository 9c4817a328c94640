"""One body of 1 GiB down and up: MiB/s and growth of memory, plugwire beside its peers.

    python tests/benchmarks/bulk.py [--mib 1024] [--rounds 1]

Down: from nginx (sendfile), by `readinto` into one buffer of 256 KiB, plain and over TLS. Up: from a file on disk into
a sink that throws it away (`tests/peers/sink.py`). The files are sparse, so no disk is measured. The goal: less than
4 MiB of growth in every world.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bulk_client import CLIENTS  # noqa: E402
from turns import SERVER_CPU, Awake, OnCPU, in_process, in_turn, installed  # noqa: E402

MIB = 1 << 20


class Moved(NamedTuple):
    speed: float
    """MiB/s."""
    growth: float
    """MiB."""


def moved(size: int, arguments: list[str], client: str) -> Moved:
    found = json.loads(in_process(str(HERE / "bulk_client.py"), client, *arguments))
    if found["bytes"] != size:
        raise SystemExit(f"{client} moved {found['bytes']} bytes of {size}")
    return Moved(size / MIB / found["seconds"], found["growth"] / MIB)


def run(title: str, size: int, rounds: int, arguments: list[str]) -> None:
    figures = in_turn(installed(CLIENTS), rounds, partial(moved, size, arguments))
    ours = statistics.median(one.speed for one in figures["plugwire"])
    print(f"\n{title}, {size // MIB} MiB: MiB/s, plugwire (blocking) as a multiple of it, growth of memory in MiB")
    for client, values in figures.items():
        speed, growth = statistics.median(one.speed for one in values), max(one.growth for one in values)
        goal = "" if not client.startswith("plugwire") else "  (goal: below 4)" if growth < 4 else "  (ABOVE 4)"
        print(f"  {client:18} {speed:8.0f}   {ours / speed:5.2f}   {growth:6.2f}{goal}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    from peers.certificates import make_authority
    from peers.nginx import nginx
    from peers.sink import sink

    size = arguments.mib * MIB
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = make_authority(directory)
        small = directory / "small"
        small.write_bytes(bytes(MIB))
        with OnCPU(SERVER_CPU), nginx(authority) as server, sink() as sunk, Awake():
            large = server.upload_directory / "large"
            with large.open("wb") as file:
                file.truncate(size)
            with large.open("rb") as file:  # into the page cache, or the first client would pay for all
                while file.read(MIB):
                    pass
            for title, base in (("down, plain", server.url), ("down, TLS", server.tls_url)):
                given = [f"{base}/upload/large", f"{base}/big", str(authority.cert_pem)]
                run(title, size, arguments.rounds, given)
            run("up, plain", size, arguments.rounds, [sunk, sunk, "", str(large), str(small)])


if __name__ == "__main__":
    main()
