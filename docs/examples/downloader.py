"""Download a file with a progress bar; go on where an earlier try broke off.

    python downloader.py https://example.org/large.iso large.iso

What plugwire does here: the content goes from the socket into one buffer (`readinto`), progress comes by `observe=`
without touching the loop, an end that the framing does not confirm is an error and not a short file, and If-Range makes
the server say whether the part that is there still belongs to what it has now (RFC 9110, 13.1.5).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TextIO

import plugwire
from plugwire.events import Data, Event

BUFFER = 256 * 1024
TRIES = 5


class Bar:
    """An observer that draws a bar. `begin`: what was there before."""

    def __init__(self, out: TextIO, begin: int) -> None:
        self.out = out
        self.begin = begin
        self._shown = -1

    def __call__(self, event: Event) -> None:
        if isinstance(event, Data) and not event.sent and event.total:
            percent = 100 * (self.begin + event.done) // (self.begin + event.total)
            if percent != self._shown:
                self._shown = percent
                print(f"\r[{'#' * (percent // 4):<25}] {percent:3} %", end="", file=self.out, flush=True)


class Part:
    """The unfinished file, and the validator of what it is a part of: without one it cannot be gone on with."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".part")
        self._note = path.with_name(path.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() and self._note.exists() else 0

    @property
    def validator(self) -> str:
        return str(json.loads(self._note.read_text())["validator"])

    def begin(self, response: plugwire.Response) -> None:
        """A new content: forget the old one."""
        self.drop()
        # A weak entity tag says nothing about bytes (RFC 9110, 8.8.1).
        validator = response.headers.get("etag") or response.headers.get("last-modified")
        if validator and not validator.startswith("W/"):
            self._note.write_text(json.dumps({"validator": validator}))

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        os.replace(self.path, path)
        self._note.unlink(missing_ok=True)


def download(session: plugwire.Session, url: str, path: Path, out: TextIO) -> int:
    """The file's size. Raises what the last try raised."""
    part = Part(path)
    for attempt in range(1, TRIES + 1):
        try:
            _once(session, url, part, out)
        except (plugwire.NetworkError, plugwire.IncompleteBody, plugwire.ReadTimeout) as error:
            print(f"\n{type(error).__name__}: {error}", file=out)
            if attempt == TRIES:
                raise
        else:
            part.finish(path)
            return path.stat().st_size
    raise AssertionError("the loop ends by return or raise")


def _once(session: plugwire.Session, url: str, part: Part, out: TextIO) -> None:
    # A part of a compressed content is no part of the content.
    headers = {"accept-encoding": "identity"}
    begin = part.size
    if begin:
        headers |= {"range": f"bytes={begin}-", "if-range": part.validator}
    bar = Bar(out, begin)
    with session.stream("GET", url, headers=headers, observe=bar) as response:
        if response.status_code == 416:  # nothing is missing, or it is another content now
            part.drop()
            raise plugwire.IncompleteBody("the server has nothing from there on; from the start again")
        response.raise_for_status()
        if response.status_code != 206:
            bar.begin = 0
            part.begin(response)
        buffer = memoryview(bytearray(BUFFER))
        with part.path.open("ab") as file:
            while size := response.readinto(buffer):
                file.write(buffer[:size])
    print(file=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    with plugwire.Session(timeout=plugwire.Timeout(connect=10, read=30)) as session:
        size = download(session, options.url, options.path, sys.stderr)
    print(f"{options.path}: {size} bytes")


if __name__ == "__main__":
    main()
