"""One client moves one large body and tells of time and memory. Run by `bulk.py` and by the tests, in a fresh process:

    python bulk_client.py CLIENT URL WARM_UP_URL AUTHORITY [FILE WARM_UP_FILE]

Without FILE the URL is downloaded, otherwise FILE is uploaded to it. AUTHORITY is the path of a CA certificate or "".
Prints JSON: bytes, seconds, growth (of the resident set, in bytes).

The growth is the highest resident set during the transfer (VmHWM, set back before it) less the resident set after a
warm-up with a body of 1 MiB, which has loaded every module and filled every buffer that a client keeps.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUFFER = 256 * 1024


class Job:
    """What to move; `move(url, file)` is done by a client and gives the bytes moved."""

    def __init__(self, url: str, warm_url: str, authority: str, file: str = "", warm_file: str = "") -> None:
        self.url, self.warm_url, self.authority, self.file, self.warm_file = url, warm_url, authority, file, warm_file

    def measured(self, move: Callable[[str, str], int]) -> None:
        move(self.warm_url, self.warm_file)
        begin = self._begin()
        self._tell(begin, move(self.url, self.file))

    async def measured_async(self, move: Callable[[str, str], Any]) -> None:
        await move(self.warm_url, self.warm_file)
        begin = self._begin()
        self._tell(begin, await move(self.url, self.file))

    def _begin(self) -> tuple[int, float]:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        return _status("VmRSS"), time.perf_counter()

    def _tell(self, begin: tuple[int, float], size: int) -> None:
        before, started = begin
        seconds = time.perf_counter() - started
        print(json.dumps({"bytes": size, "seconds": seconds, "growth": _status("VmHWM") - before}))


def _status(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def plugwire_blocking(job: Job) -> None:
    import plugwire

    buffer = bytearray(BUFFER)
    with plugwire.Session(tls=plugwire.TLSConfig(ca_file=job.authority or None)) as session:

        def move(url: str, file: str) -> int:
            if file:
                with open(file, "rb") as content:
                    return int(session.put(url, content=content).raise_for_status().text)
            done = 0
            with session.stream("GET", url) as response:
                response.raise_for_status()
                while size := response.readinto(buffer):
                    done += size
            return done

        job.measured(move)


async def _plugwire_async(job: Job) -> None:
    import plugwire

    buffer = bytearray(BUFFER)
    async with plugwire.AsyncSession(tls=plugwire.TLSConfig(ca_file=job.authority or None)) as session:

        async def move(url: str, file: str) -> int:
            if file:
                with open(file, "rb") as content:  # noqa: ASYNC230  (opening is not what is measured)
                    return int((await session.put(url, content=content)).raise_for_status().text)
            done = 0
            async with session.stream("GET", url) as response:
                response.raise_for_status()
                while size := await response.readinto(buffer):
                    done += size
            return done

        await job.measured_async(move)


def plugwire_asyncio(job: Job) -> None:
    asyncio.run(_plugwire_async(job))


def plugwire_trio(job: Job) -> None:
    import trio

    trio.run(_plugwire_async, job)


def with_pycurl(job: Job) -> None:
    import pycurl

    curl = pycurl.Curl()
    if job.authority:
        curl.setopt(pycurl.CAINFO, job.authority)
    curl.setopt(pycurl.BUFFERSIZE, BUFFER)
    curl.setopt(pycurl.UPLOAD_BUFFERSIZE, BUFFER)
    curl.setopt(pycurl.HTTPHEADER, ["Expect:"])

    def move(url: str, file: str) -> int:
        done = 0

        def write(data: bytes) -> None:
            nonlocal done
            done += len(data)

        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.WRITEFUNCTION, write)
        if not file:
            curl.perform()
            return done
        with open(file, "rb") as content:
            curl.setopt(pycurl.UPLOAD, 1)
            curl.setopt(pycurl.READFUNCTION, content.read)
            curl.setopt(pycurl.INFILESIZE_LARGE, Path(file).stat().st_size)
            curl.perform()
            return int(curl.getinfo(pycurl.SIZE_UPLOAD_T))

    job.measured(move)


def with_pyreqwest(job: Job) -> None:
    from pyreqwest.client import SyncClientBuilder

    builder = SyncClientBuilder()
    if job.authority:
        builder = builder.add_root_certificate_pem(Path(job.authority).read_bytes())
    with builder.build() as client:

        def move(url: str, file: str) -> int:
            if file:
                with open(file, "rb") as content:
                    pieces = iter(lambda: content.read(BUFFER), b"")
                    length = str(Path(file).stat().st_size)
                    request = client.put(url).header("content-length", length).body_stream(pieces)
                    return int(request.build().send().text())
            done = 0
            with client.get(url).build_streamed() as response:
                while piece := response.body_reader.read_chunk():
                    done += len(piece)
            return done

        job.measured(move)


CLIENTS: dict[str, tuple[str | None, Callable[[Job], None]]] = {
    "plugwire": (None, plugwire_blocking),
    "plugwire asyncio": (None, plugwire_asyncio),
    "plugwire trio": ("trio", plugwire_trio),
    "pycurl": ("pycurl", with_pycurl),
    "pyreqwest": ("pyreqwest", with_pyreqwest),
}
"""By name: the module that must be installed, and the function."""

if __name__ == "__main__":
    CLIENTS[sys.argv[1]][1](Job(*sys.argv[2:]))
