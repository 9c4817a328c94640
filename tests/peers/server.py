"""Starting, awaiting and ending one server process.

A peer has all its ports chosen before it starts, because they stand in its configuration. They are drawn at random from
below the kernel's ephemeral range, so that no outgoing connection of a parallel run can take one in between, and marked
as taken for all such runs until the server has ended: else two that draw the same port would both find it free, and one
of them would take the other's server for its own. Who else takes one is told apart by a new try with new ports.

Ready means that every port accepts a connection and the first answers a request (Apache opens its ports before it
has read its configuration for good). Between two looks we wait for the process to end, not for time to pass: a server
that cannot start is reported at once, with what it wrote to stderr.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

LOOPBACK = ("127.0.0.1", "::1")
_PORTS = range(20_000, 32_000)
_STARTS = 3
_LOOKS = 3000
_LOOK_SECONDS = 0.02

_taken: dict[int, socket.socket] = {}
"""By port, what tells other runs that we have drawn it."""


@dataclass(frozen=True)
class Peer:
    """A running server. Subclasses add the ports that only they have."""

    directory: Path
    """Private to this server; gone after the run."""
    port: int
    """Plain HTTP/1.1, on 127.0.0.1 and, where the machine has it, on ::1."""
    tls_port: int
    """TLS with `Authority.server`; ALPN http/1.1 unless the subclass says otherwise."""
    h2_port: int
    """TLS with `Authority.server`; ALPN h2 and http/1.1."""
    h2c_port: int
    """HTTP/2 in the clear, by prior knowledge."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls_port}"

    @property
    def h2_url(self) -> str:
        return f"https://localhost:{self.h2_port}"

    @property
    def h2c_url(self) -> str:
        return f"http://127.0.0.1:{self.h2c_port}"

    @property
    def ipv6_url(self) -> str:
        """Skips the test on a machine without ::1."""
        if "::1" not in addresses():
            pytest.skip("needs an IPv6 loopback address")
        return f"http://[::1]:{self.port}"


PeerT = TypeVar("PeerT")


def addresses() -> Sequence[str]:
    """The loopback addresses that this machine has."""
    return [address for address in LOOPBACK if _can_bind(address, 0)]


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on, on any loopback address. They are ours until `give_back`."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        if not _take(port):
            continue
        if all(_can_bind(address, port) for address in addresses()):
            found.append(port)
        else:
            give_back([port])
    return found


def _take(port: int) -> bool:
    """False if somebody has it. An abstract name is gone with its process, and reaches as far as ports do."""
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0port {port} of plugwire's tests")
    except OSError:
        mark.close()
        return False
    _taken[port] = mark
    return True


def give_back(ports: Iterable[int]) -> None:
    """Nobody of ours listens on these any more."""
    for port in ports:
        _taken.pop(port).close()


def find_program(*names: str) -> str:
    """The first of these programs that is installed, /usr/sbin included; else the test is skipped, or fails in CI."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    for name in names:
        if program := shutil.which(name, path=path):
            return program
    missing(names[0])


def missing(what: str) -> NoReturn:
    """A peer cannot run here: a skip on a developer's machine, a failure in CI, where nothing may be left untested."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed, and interop tests may not be skipped in CI", pytrace=False)
    pytest.skip(f"needs {what}")


class StartFailed(Exception):
    """The server ended, or did not open all its ports."""


HTTP1_PROBE = b"HEAD /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
H2_PROBE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextlib.contextmanager
def running(
    name: str,
    configure: Callable[[Path], tuple[PeerT, Sequence[str], Sequence[int]]],
    *,
    probe: bytes | None = HTTP1_PROBE,
    hosts: Sequence[str] | None = None,
) -> Iterator[PeerT]:
    """Run a server as long as the `with` lasts.

    `configure(directory)` draws `free_ports`, writes the configuration and returns the peer, the command line and the
    ports to wait for, on each of `hosts` (default: all addresses of loopback). It is called anew, with a new directory,
    for each try. `probe` is what the first port must answer with at least a byte.
    """
    with contextlib.ExitStack() as stack:
        for attempt in range(1, _STARTS + 1):
            # Not pytest's tmp_path: that is closed to other users, and Apache, started by root, serves as nobody.
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"plugwire-{name}-")))
            directory.chmod(0o755)
            peer, command, ports = configure(directory)
            stack.callback(give_back, ports)
            log = directory / "stderr"
            process = _spawn(command, directory, log)
            stack.callback(_end, process)
            try:
                _wait_until_ready(process, [(host, port) for host in hosts or addresses() for port in ports], probe)
            except StartFailed as error:
                _end(process)
                if attempt < _STARTS:
                    continue
                said = log.read_text(errors="replace")
                pytest.fail(f"{name} did not start: {error}\n{' '.join(command)}\n{said}", pytrace=False)
            yield peer
            return


def _spawn(command: Sequence[str], directory: Path, log: Path) -> subprocess.Popen[bytes]:
    # A test run that is killed outright must not leave servers behind; only the kernel can see to that.
    leash = [setpriv, "--pdeathsig", "TERM"] if (setpriv := shutil.which("setpriv")) else []
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [*leash, *command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
        )


def _wait_until_ready(process: subprocess.Popen[bytes], places: Sequence[tuple[str, int]], probe: bytes | None) -> None:
    closed = places
    for _ in range(_LOOKS):
        closed = [(address, port) for address, port in closed if not _accepts(address, port)]
        if not closed and (probe is None or _answers(places[0], probe)):
            return
        try:
            status = process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        raise StartFailed(f"exit status {status}")
    raise StartFailed(f"not listening on {closed}" if closed else f"no answer on {places[0]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    # SIGTERM first: the masters of nginx and Apache end their workers with it, a killed master would orphan them.
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _accepts(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def _answers(place: tuple[str, int], probe: bytes) -> bool:
    try:
        with socket.create_connection(place, timeout=5) as sock:
            sock.sendall(probe)
            return sock.recv(1) != b""
    except OSError:
        return False


def _can_bind(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError:
        return False
    return True
