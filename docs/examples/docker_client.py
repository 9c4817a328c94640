"""Talk to a Docker engine over its Unix socket: list containers, follow logs, pull an image, run a command.

    python docker_client.py ps
    python docker_client.py logs web
    python docker_client.py pull alpine:3
    python docker_client.py exec web 'cat > /tmp/x' < x

What plugwire does here: the socket stands in the URL, as a host; progress comes as JSON lines (`NDJSON`) while the
engine still works; `exec` switches protocols, and the plain pipe of bytes behind it is taken out of the response.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from struct import unpack
from typing import Any, BinaryIO

import plugwire
from plugwire.decoders import NDJSON

SOCKET = "/var/run/docker.sock"
VERSION = "v1.43"


class Frames:
    """Sans-IO: what a container without a terminal writes, in frames: stream, three zeros, length, content."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes, /) -> list[tuple[int, bytes]]:
        self._rest += data
        frames: list[tuple[int, bytes]] = []
        while len(self._rest) >= 8:
            stream, length = unpack(">BxxxL", self._rest[:8])
            if len(self._rest) < 8 + length:
                break
            frames.append((stream, self._rest[8 : 8 + length]))
            self._rest = self._rest[8 + length :]
        return frames

    def end(self) -> list[tuple[int, bytes]]:
        if self._rest:
            raise plugwire.DecodingError("the output ends inside a frame")
        return []


class Docker:
    """An engine behind a Unix socket. Use it in a `with`."""

    def __init__(self, path: str = SOCKET) -> None:
        host = path.replace("%", "%25").replace("/", "%2F")
        self._session = plugwire.Session(
            base_url=f"http+unix://{host}/{VERSION}", timeout=plugwire.Timeout(connect=5, read=None)
        )

    def __enter__(self) -> Docker:
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    def containers(self) -> list[dict[str, Any]]:
        """The containers that run."""
        found: list[dict[str, Any]] = self._session.get("containers/json").raise_for_status().json()
        return found

    def logs(self, container: str) -> Iterator[tuple[int, bytes]]:
        """(1 for output, 2 for errors; content) as the container writes it."""
        params = {"follow": True, "stdout": True, "stderr": True}
        with self._session.stream("GET", f"containers/{container}/logs", params=params) as response:
            _check(response)
            yield from response.iter_decoded(Frames())

    def pull(self, image: str) -> Iterator[str]:
        """Fetch an image; what the engine says meanwhile."""
        name, _, tag = image.partition(":")
        params = {"fromImage": name, "tag": tag or "latest"}
        with self._session.stream("POST", "images/create", params=params) as response:
            _check(response)
            for line in response.iter_decoded(NDJSON()):
                if "error" in line:
                    raise RuntimeError(line["error"])
                yield line["status"]

    def execute(self, container: str, command: str, given: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Run a shell command in a container, with an input; what it writes."""
        wanted = {"Cmd": ["sh", "-c", command], "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
        made = self._session.post(f"containers/{container}/exec", json=wanted).raise_for_status().json()
        request = self._session.open_request(
            "POST",
            f"exec/{made['Id']}/start",
            json={"Detach": False, "Tty": False},
            headers={"connection": "Upgrade", "upgrade": "tcp"},
        )
        with request.send() as response:
            if response.status_code != 101:
                _check(response)
                raise RuntimeError(f"the engine answered {response.status_code}, not 101")
            with response.take_stream() as stream:
                while data := given.read(65536):
                    stream.send(data)
                stream.send_eof()
                frames = Frames()
                while data := stream.receive():
                    yield from frames.feed(data)
                frames.end()


def _check(response: plugwire.Response) -> None:
    """The engine says in its body what was wrong."""
    if not response.ok:
        response.read()
        raise plugwire.HTTPStatusError(f"{response.status_code}: {response.json()['message']}", response)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--socket", default=SOCKET)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ps")
    commands.add_parser("logs").add_argument("container")
    commands.add_parser("pull").add_argument("image")
    run = commands.add_parser("exec")
    run.add_argument("container")
    run.add_argument("shell", help="what the container's shell runs; its input is ours")
    options = parser.parse_args()
    with Docker(options.socket) as docker:
        match options.command:
            case "ps":
                for one in docker.containers():
                    print(one["Id"][:12], one["Image"], one["State"], *one["Names"])
            case "pull":
                for line in docker.pull(options.image):
                    print(line)
            case "logs":
                _write(docker.logs(options.container))
            case _:
                _write(docker.execute(options.container, options.shell, sys.stdin.buffer))


def _write(frames: Iterator[tuple[int, bytes]]) -> None:
    for stream, data in frames:
        out = sys.stdout.buffer if stream == 1 else sys.stderr.buffer
        out.write(data)
        out.flush()


if __name__ == "__main__":
    main()
