"""What `import plugwire` costs, and what a first blocking GET over plain HTTP loads.

    python tests/benchmarks/importtime.py [--runs 10]

The goal is 15 ms for the import, with asyncio, ssl, h2, pluggy and trio left out. The time is that of `-X importtime`,
cumulative for `plugwire`, with compiled files in place; the least of the runs is the figure to look at.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

GOAL_MS = 15.0
HEAVY = (
    "asyncio",
    "ssl",
    "h2",
    "hpack",
    "pluggy",
    "trio",
    "certifi",
    "idna",
    "email",
    "http.client",
    "inspect",
    "logging",
)
"""Modules worth naming. The first six must not be there after the import."""
FORBIDDEN = HEAVY[:6]

LOADED = """
import json, sys
before = set(sys.modules)
import plugwire
imported = set(sys.modules) - before
with plugwire.Session() as session:
    assert session.get(sys.argv[1]).status_code == 200
print(json.dumps([sorted(imported), sorted(set(sys.modules) - before - imported)]))
"""


class Small(BaseHTTPRequestHandler):
    """A response to anything."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def milliseconds() -> dict[str, float]:
    """Cumulative, by module, of one import in a fresh process."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", "import plugwire"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = re.findall(r"^import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)$", done.stderr, re.MULTILINE)
    return {name: int(micro) / 1000 for micro, name in found}


def loaded() -> tuple[list[str], list[str]]:
    """What the import loads, and what the first GET loads then."""
    with HTTPServer(("127.0.0.1", 0), Small) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            done = subprocess.run([sys.executable, "-c", LOADED, url], capture_output=True, text=True)
        finally:
            server.shutdown()
            thread.join()
    if done.returncode:
        raise SystemExit(done.stderr)
    imported, later = json.loads(done.stdout)
    return imported, later


def summary(modules: list[str]) -> str:
    """The packages by number of modules, our own by name."""
    ours = [name for name in modules if name.startswith("plugwire")]
    others = sorted({name.partition(".")[0] for name in modules} - {name.partition(".")[0] for name in ours})
    return f"{len(modules)} modules; ours: {', '.join(ours)}; others: {', '.join(others)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    milliseconds()  # compiles what is not compiled yet
    runs = [milliseconds()["plugwire"] for _ in range(arguments.runs)]
    least, middle = min(runs), statistics.median(runs)
    verdict = "kept" if least <= GOAL_MS else "MISSED"
    print(f"import plugwire: least {least:.1f} ms, median {middle:.1f} of {len(runs)}; goal {GOAL_MS:g} ms: {verdict}")
    imported, later = loaded()
    print(f"\nthe import loads {summary(imported)}")
    print(f"\na first blocking GET over plain HTTP loads {summary(later)}")
    for when, modules in (("after the import", imported), ("after the first GET", [*imported, *later])):
        heavy = [name for name in HEAVY if name in modules]
        print(f"\nheavy modules {when}: {', '.join(heavy) or 'none'}")
    if found := [name for name in FORBIDDEN if name in imported]:
        raise SystemExit(f"import plugwire must not load {', '.join(found)}")


if __name__ == "__main__":
    main()
