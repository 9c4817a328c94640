"""nginx.

Beyond the common paths:

===================  ==============================================================================================
`/few`               `SMALL`; the connection is closed after its second request
`/brief`             `SMALL`; the connection is closed after it has been idle for 1 ms, without a word in the response
`/close`             `SMALL`, Connection: close
`/until-close`       `SMALL` over HTTP/1.1 with neither Content-Length nor chunks: the close ends it
`/chunked-big`       `BIG`, chunked
`/gzip`              repetitive text of 64 KiB, Content-Encoding: gzip, chunked, if the client accepts it
`/redirect/CODE`     301, 302, 303, 307, 308 to `/small`
`/method`            the method, as text; a body is read and thrown away, of any size
`/host`              the Host that came
`/from`              the client's address
`/limited`           413 for a body above 1 KiB; nginx answers before it has read the body
`/upload/...`        PUT (201 or 204), GET and DELETE of files that lie in `Nginx.upload_directory`
`/tls`               over TLS: `protocol alpn reused-or-. server-name`
`/basic`             `SMALL` for `USER` and `PASSWORD`, by Basic
`/client`            on `mutual_tls_port`: the subject of the client's certificate
`/fresh?...`         `SMALL`, with six fields whose values no other response has
===================  ==============================================================================================

`/small` also gives 416. What lies in `/upload/` is read by sendfile, so a file put there is a source of any size.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.certificates import Authority, Certificate
from peers.content import write_content, write_passwords
from peers.server import Peer, addresses, find_program, free_ports, running


@dataclass(frozen=True)
class Nginx(Peer):
    rotating_port: int
    """As `h2_port`; a connection gets a GOAWAY with its 10th request (`keepalive_requests`)."""
    narrow_port: int
    """As `h2_port`; 2 streams at once."""
    mutual_tls_port: int
    """TLS that requires a client certificate of the same authority (400 without)."""
    expired_port: int
    """TLS with `Authority.expired`."""
    wrong_host_port: int
    """TLS with `Authority.wrong_host`."""
    untrusted_port: int
    """TLS with `Authority.untrusted`."""
    tls12_port: int
    """TLS 1.2 only."""
    socket_path: Path
    """Plain HTTP/1.1 on a Unix socket."""
    upload_directory: Path


_MAIN = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 2048; }}
http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:plugwire:1m;
{servers}
}}
"""

_SERVER = """
    server {{
        server_name localhost;
{listen}
{tls}
        client_max_body_size 0;
        location = /small {{ alias {content}/small.txt; add_header Cache-Control "max-age=60"; }}
        location = /big {{ alias {content}/big.bin; }}
        location = /large {{ alias {content}/large.bin; }}
        location = /chunked {{ alias {content}/small.txt; ssi on; ssi_types *; }}
        location = /chunked-big {{ alias {content}/big.bin; ssi on; ssi_types *; }}
        location = /until-close {{ alias {content}/small.txt; ssi on; ssi_types *; chunked_transfer_encoding off; }}
        location = /gzip {{ alias {content}/text.txt; gzip on; gzip_min_length 1; gzip_types *; gzip_proxied any; }}
        location = /few {{ alias {content}/small.txt; keepalive_requests 2; }}
        location = /brief {{ alias {content}/small.txt; keepalive_timeout 1ms; }}
        location = /close {{ alias {content}/small.txt; keepalive_timeout 0; }}
        location = /no-content {{ return 204; }}
        location = /unavailable {{ add_header Retry-After 0 always; return 503; }}
        location = /redirect {{ return 302 /small; }}
        location = /redirect/301 {{ return 301 /small; }}
        location = /redirect/302 {{ return 302 /small; }}
        location = /redirect/303 {{ return 303 /small; }}
        location = /redirect/307 {{ return 307 /small; }}
        location = /redirect/308 {{ return 308 /small; }}
        location = /fresh {{
            alias {content}/small.txt;
            add_header X-Request-Id $request_id;
            add_header Traceparent "00-$request_id-$connection_requests-01";
            add_header Set-Cookie "session=$request_id; Path=/; HttpOnly";
            add_header Link "</style-$request_id.css>; rel=preload; as=style";
            add_header Content-Location "/fresh/$request_id";
            add_header X-Served-By "cache-$request_id.example";
        }}
        location = /method {{ return 200 "$request_method"; }}
        location = /host {{ return 200 "$http_host"; }}
        location = /from {{ return 200 "$remote_addr"; }}
        location = /limited {{ client_max_body_size 1k; root {directory}; dav_methods PUT; }}
        location /upload/ {{ root {directory}; sendfile on; dav_methods PUT DELETE; create_full_put_path on; }}
        location = /tls {{ return 200 "$ssl_protocol $ssl_alpn_protocol $ssl_session_reused $ssl_server_name"; }}
        location = /basic {{
            alias {content}/small.txt;
            auth_basic "the site";
            auth_basic_user_file {passwords};
        }}
        location = /client {{ return 200 "$ssl_client_s_dn"; }}
        location / {{ return 404; }}
    }}
"""


def _tls(certificate: Certificate, *more: str) -> str:
    lines = [f"ssl_certificate {certificate.chain_pem};", f"ssl_certificate_key {certificate.key_pem};", *more]
    return "\n".join(f"        {line}" for line in lines)


def _listen(port: int, flags: str = "") -> str:
    hosts = [f"[{address}]" if ":" in address else address for address in addresses()]
    return "\n".join(f"        listen {host}:{port}{flags};" for host in hosts)


@contextlib.contextmanager
def nginx(authority: Authority) -> Iterator[Nginx]:
    program = find_program("nginx")

    def configure(directory: Path) -> tuple[Nginx, list[str], list[int]]:
        ports = free_ports(11)
        plain, tls, h2, h2c, rotating, narrow, mutual, expired, wrong_host, untrusted, tls12 = ports
        peer = Nginx(
            directory=directory,
            port=plain,
            tls_port=tls,
            h2_port=h2,
            h2c_port=h2c,
            rotating_port=rotating,
            narrow_port=narrow,
            mutual_tls_port=mutual,
            expired_port=expired,
            wrong_host_port=wrong_host,
            untrusted_port=untrusted,
            tls12_port=tls12,
            socket_path=directory / "nginx.sock",
            upload_directory=directory / "upload",
        )
        peer.upload_directory.mkdir()
        content = write_content(directory / "content")
        (content / "text.txt").write_bytes(b"one of 2048 lines of 32 octets.\n" * 2048)
        passwords, _ = write_passwords(directory)
        servers = [
            (_listen(plain) + f"\n        listen unix:{peer.socket_path};", ""),
            (_listen(tls, " ssl"), _tls(authority.server)),
            (_listen(h2, " ssl http2"), _tls(authority.server)),
            (_listen(h2c, " http2"), ""),
            (_listen(rotating, " ssl http2"), _tls(authority.server, "keepalive_requests 10;")),
            (_listen(narrow, " ssl http2"), _tls(authority.server, "http2_max_concurrent_streams 2;")),
            (
                _listen(mutual, " ssl"),
                _tls(authority.server, f"ssl_client_certificate {authority.cert_pem};", "ssl_verify_client on;"),
            ),
            (_listen(expired, " ssl"), _tls(authority.expired)),
            (_listen(wrong_host, " ssl"), _tls(authority.wrong_host)),
            (_listen(untrusted, " ssl"), _tls(authority.untrusted)),
            (_listen(tls12, " ssl"), _tls(authority.server, "ssl_protocols TLSv1.2;")),
        ]
        config = directory / "nginx.conf"
        config.write_text(
            _MAIN.format(
                directory=directory,
                # Workers of a root master would run as nobody, who may not write what a test then wants to read.
                user="user root;" if os.geteuid() == 0 else "",
                servers="".join(
                    _SERVER.format(listen=listen, tls=tls, content=content, directory=directory, passwords=passwords)
                    for listen, tls in servers
                ),
            )
        )
        return peer, [program, "-e", "stderr", "-p", str(directory), "-c", str(config)], ports

    with running("nginx", configure) as peer:
        yield peer
