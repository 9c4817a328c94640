"""Proxies: Squid, tinyproxy, microsocks, dante, and HAProxy as the TLS in front of Squid.

===============  ==================================================================================================
`Squid`          `open_port`: for anybody; `locked_port`: for `USER`, by Basic or Digest (MD5), whichever the client
                 takes; `tls_port` and `locked_tls_port`: TLS with `Authority.server` (HAProxy) in front of the two;
                 `wrong_host_tls_port`: the first of them with `Authority.wrong_host`
`Tinyproxy`      `open_port` for anybody; `locked_port` for `USER`, by Basic; it closes the connection behind a refusal
`Microsocks`     SOCKS 5: `open_port` for anybody; `locked_port` for `USER`
`Dante`          SOCKS 5: `open_port` for anybody
===============  ==================================================================================================

Squid keeps nothing and tells "Via"; nobody looks at who connects where.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import check_output

from peers.certificates import Authority
from peers.server import find_program, free_ports, missing, running

HOST = "127.0.0.1"
USER, PASSWORD = "ich", "ge heim"

_LIBRARIES = ("/usr/lib/squid", "/usr/lib64/squid", "/usr/libexec/squid", "/usr/lib/squid3")
_PROBE = b"GET / HTTP/1.0\r\n\r\n"


@dataclass(frozen=True)
class Squid:
    open_port: int
    locked_port: int
    tls_port: int
    locked_tls_port: int
    wrong_host_tls_port: int


@dataclass(frozen=True)
class Door:
    """Of the others."""

    open_port: int
    locked_port: int = 0


_SQUID = """
http_port {host}:{open_port}
http_port {host}:{locked_port}
auth_param digest program {library}/digest_file_auth {directory}/digest
auth_param digest realm plugwire
auth_param digest children 1
auth_param basic program {library}/basic_ncsa_auth {directory}/basic
auth_param basic realm plugwire
auth_param basic children 1
acl locked localport {locked_port}
acl known proxy_auth REQUIRED
http_access deny locked !known
http_access allow all
cache deny all
access_log none
cache_log {null}
cache_store_log none
netdb_filename none
pid_filename none
logfile_rotate 0
coredump_dir {directory}
shutdown_lifetime 0 seconds
via on
"""

_HAPROXY = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
"""

_FRONT = """
listen tls{port}
    bind {host}:{port} ssl crt {bundle} alpn http/1.1
    server squid {host}:{target}
"""

_DANTE = """
logoutput: stderr
internal: {host} port = {port}
external: lo
clientmethod: none
socksmethod: none
user.privileged: {user}
user.unprivileged: {user}
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
"""


@contextlib.contextmanager
def squid(authority: Authority) -> Iterator[Squid]:
    program = find_program("squid")
    library = next((path for path in _LIBRARIES if Path(path, "digest_file_auth").exists()), None)
    if library is None:
        missing("squid's digest_file_auth")
    with contextlib.ExitStack() as stack:

        def configure(directory: Path) -> tuple[tuple[int, int], list[str], list[int]]:
            ports = free_ports(2)
            (directory / "digest").write_text(f"{USER}:{PASSWORD}\n")
            (directory / "basic").write_text(f"{USER}:{_crypted(PASSWORD)}\n")
            config = directory / "squid.conf"
            config.write_text(
                _SQUID.format(
                    host=HOST, open_port=ports[0], locked_port=ports[1], library=library, directory=directory,
                    null=os.devnull,
                )
            )  # fmt: skip
            return (ports[0], ports[1]), [program, "-N", "-f", str(config)], ports

        opened, locked = stack.enter_context(running("squid", configure, probe=_PROBE, hosts=(HOST,)))
        fronts = [(authority.server, opened), (authority.server, locked), (authority.wrong_host, opened)]

        def front(directory: Path) -> tuple[list[int], list[str], list[int]]:
            ports = free_ports(len(fronts))
            config = directory / "haproxy.cfg"
            config.write_text(
                _HAPROXY
                + "".join(
                    _FRONT.format(host=HOST, port=port, bundle=certificate.bundle_pem, target=target)
                    for port, (certificate, target) in zip(ports, fronts, strict=True)
                )
            )
            return ports, [find_program("haproxy"), "-db", "-q", "-f", str(config)], ports

        yield Squid(opened, locked, *stack.enter_context(running("haproxy", front, probe=None, hosts=(HOST,))))


@contextlib.contextmanager
def tinyproxy() -> Iterator[Door]:
    program = find_program("tinyproxy")

    def start(stack: contextlib.ExitStack, more: str) -> int:
        def configure(directory: Path) -> tuple[int, list[str], list[int]]:
            [port] = free_ports(1)
            config = directory / "tinyproxy.conf"
            config.write_text(f"Port {port}\nListen {HOST}\nTimeout 60\nLogLevel Critical\n{more}\n")
            return port, [program, "-d", "-c", str(config)], [port]

        return stack.enter_context(running("tinyproxy", configure, probe=_PROBE, hosts=(HOST,)))

    with contextlib.ExitStack() as stack:
        # A space in a password is none that its configuration can have.
        yield Door(start(stack, ""), start(stack, f"BasicAuth {USER} {PASSWORD.replace(' ', '')}"))


@contextlib.contextmanager
def microsocks() -> Iterator[Door]:
    program = find_program("microsocks")

    def start(stack: contextlib.ExitStack, *more: str) -> int:
        def configure(directory: Path) -> tuple[int, list[str], list[int]]:
            [port] = free_ports(1)
            return port, [program, "-i", HOST, "-p", str(port), *more], [port]

        return stack.enter_context(running("microsocks", configure, probe=None, hosts=(HOST,)))

    with contextlib.ExitStack() as stack:
        yield Door(start(stack), start(stack, "-u", USER, "-P", PASSWORD))


@contextlib.contextmanager
def dante() -> Iterator[Door]:
    program = find_program("danted", "sockd")

    def configure(directory: Path) -> tuple[int, Sequence[str], list[int]]:
        [port] = free_ports(1)
        config = directory / "danted.conf"
        config.write_text(_DANTE.format(host=HOST, port=port, user=_me()))
        return port, [program, "-f", str(config), "-p", str(directory / "danted.pid")], [port]

    with running("dante", configure, probe=None, hosts=(HOST,)) as port:
        yield Door(port)


def _crypted(password: str) -> str:
    """As basic_ncsa_auth takes it."""
    return check_output([find_program("openssl"), "passwd", "-apr1", password], text=True).strip()


def _me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
