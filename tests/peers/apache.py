"""Apache httpd, event MPM.

Beyond the common paths:

===================  ==============================================================================================
`/reflect`           POST: the request's body comes back, chunked; over HTTP/2 mod_reflector answers with nothing
                     instead, before it has read the body
`/redirect/CODE`     301, 302, 303, 307, 308 to `/small`
`/upload/...`        PUT (201 or 204), GET and DELETE of files (mod_dav)
`/gzip`              `TEXT`, Content-Encoding: gzip, chunked, if the client accepts it
`/br`                `TEXT`, Content-Encoding: br, chunked, if the client accepts it
`/basic`             `SMALL` for `USER` and `PASSWORD`, by Basic
`/digest`            the same by Digest: MD5, qop="auth"
`/digest/once`       the same; each nonce is good for one request, and the next one is in Authentication-Info
`/digest/reflect`    as `/reflect`, by Digest
`/both`              the same as `/digest`, beside a challenge of Basic that stands first
===================  ==============================================================================================
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.certificates import Authority
from peers.content import write_content, write_passwords
from peers.server import Peer, addresses, find_program, free_ports, missing, running


@dataclass(frozen=True)
class Apache(Peer):
    """What every peer has."""


TEXT = b"one of 16384 lines of 64 octets, through the DEFLATE filter....\n" * 16384
"""The body of `/gzip`, 1 MiB."""

_MODULES = (
    "mpm_event",
    "unixd",
    "authn_core",
    "authn_file",
    "authz_core",
    "authz_user",
    "auth_basic",
    "auth_digest",
    "log_config",
    "mime",
    "alias",
    "headers",
    "filter",
    "include",
    "deflate",
    "brotli",
    "reflector",
    "socache_shmcb",
    "ssl",
    "http2",
    "dav",
    "dav_fs",
)
_MODULE_DIRECTORIES = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
    "/usr/local/apache2/modules",
    "/usr/libexec/apache2",
    "/opt/homebrew/lib/httpd/modules",
)

_MAIN = """
ServerRoot {directory}
ServerName localhost
PidFile {directory}/httpd.pid
DefaultRuntimeDir {directory}
ErrorLog /dev/stderr
LogLevel warn
{modules}
TypesConfig /dev/null
{user}
Mutex pthread
StartServers 1
ServerLimit 2
ThreadsPerChild 32
MaxRequestWorkers 64
MinSpareThreads 8
MaxSpareThreads 64
KeepAlive On
KeepAliveTimeout 600
MaxKeepAliveRequests 0
DocumentRoot {content}
<Directory {content}>
    Require all granted
    Options +Includes
</Directory>
Alias /small {content}/small.txt
Alias /big {content}/big.bin
Alias /large {content}/large.bin
Alias /chunked {content}/chunked.html
Alias /gzip {content}/text.txt
Alias /br {content}/text.txt
DavLockDB {directory}/dav.lock
Alias /upload {directory}/upload
<Directory {directory}/upload>
    Require all granted
    Dav On
</Directory>
<Location /chunked>
    ForceType text/html
    SetOutputFilter INCLUDES
</Location>
<Location /gzip>
    ForceType text/plain
    SetOutputFilter DEFLATE
</Location>
Alias /basic {content}/small.txt
Alias /both {content}/small.txt
AliasMatch ^/digest(/once)?$ {content}/small.txt
<Location /basic>
    AuthType Basic
    AuthName "the site"
    AuthUserFile {passwords}
    Require valid-user
</Location>
<LocationMatch ^/(digest|both)>
    AuthType Digest
    AuthName "the site"
    AuthUserFile {digests}
    Require valid-user
</LocationMatch>
<Location /digest/once>
    AuthDigestNonceLifetime 0
</Location>
<Location /digest/reflect>
    SetHandler reflector
</Location>
<Location /both>
    Header always edit WWW-Authenticate ^ 'Basic realm="the site", '
</Location>
<Location /br>
    ForceType text/plain
    SetOutputFilter BROTLI_COMPRESS
</Location>
<Location /reflect>
    SetHandler reflector
</Location>
Redirect 204 /no-content
Redirect 503 /unavailable
RedirectMatch 302 ^/redirect$ /small
RedirectMatch 301 ^/redirect/301$ /small
RedirectMatch 302 ^/redirect/302$ /small
RedirectMatch 303 ^/redirect/303$ /small
RedirectMatch 307 ^/redirect/307$ /small
RedirectMatch 308 ^/redirect/308$ /small
SSLSessionCache shmcb:{directory}/ssl_cache(512000)
{hosts}
"""

_TLS_HOST = """
<VirtualHost *:{port}>
    SSLEngine on
    SSLCertificateFile {certificate.chain_pem}
    SSLCertificateKeyFile {certificate.key_pem}
    Protocols {protocols}
</VirtualHost>
"""

_H2C_HOST = """
<VirtualHost *:{port}>
    Protocols h2c http/1.1
</VirtualHost>
"""


@contextlib.contextmanager
def apache(authority: Authority) -> Iterator[Apache]:
    program = find_program("apache2", "httpd")
    modules = next((Path(path) for path in _MODULE_DIRECTORIES if Path(path).is_dir()), None)
    if modules is None:
        missing("the modules of Apache httpd")

    def configure(directory: Path) -> tuple[Apache, list[str], list[int]]:
        plain, tls, h2, h2c = ports = free_ports(4)
        content = write_content(directory / "content")
        (content / "text.txt").write_bytes(TEXT)
        # An included part goes out before the length of the whole is known; any other small file gets a Content-Length.
        (content / "chunked.html").write_text('<!--#include virtual="/small" -->')
        passwords, digests = write_passwords(directory)
        upload = directory / "upload"
        upload.mkdir()
        for place in (upload, directory):  # its workers run as nobody: see _unprivileged
            place.chmod(0o777)
        hosts = [f"[{address}]" if ":" in address else address for address in addresses()]
        clear = (plain, h2c)
        parts = [f"Listen {host}:{port} {'http' if port in clear else 'https'}" for port in ports for host in hosts]
        parts.append(_TLS_HOST.format(port=tls, certificate=authority.server, protocols="http/1.1"))
        parts.append(_TLS_HOST.format(port=h2, certificate=authority.server, protocols="h2 http/1.1"))
        parts.append(_H2C_HOST.format(port=h2c))
        config = directory / "httpd.conf"
        config.write_text(
            _MAIN.format(
                directory=directory,
                content=content,
                passwords=passwords,
                digests=digests,
                # What a distribution compiled in has no file; loading it again is an error.
                modules="\n".join(
                    f"LoadModule {name}_module {path}"
                    for name in _MODULES
                    if (path := modules / f"mod_{name}.so").exists()
                ),
                user=_unprivileged(),
                hosts="\n".join(parts),
            )
        )
        peer = Apache(directory=directory, port=plain, tls_port=tls, h2_port=h2, h2c_port=h2c)
        return peer, [program, "-D", "FOREGROUND", "-f", str(config)], ports

    with running("apache", configure) as peer:
        yield peer


def _unprivileged() -> str:
    """Apache refuses to serve as root."""
    if os.geteuid() != 0:
        return ""
    nobody = pwd.getpwnam("nobody")
    return f"User nobody\nGroup #{nobody.pw_gid}"
