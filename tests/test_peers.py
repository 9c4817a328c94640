"""Each peer answers as its module says, seen with http.client, so that a broken fixture is known for what it is."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from peers import BIG, SMALL, Authority, Peer, pattern
from peers.apache import TEXT, Apache
from peers.asgi import ASGI
from peers.nginx import Nginx
from peers.node import Node
from peers.server import addresses

TIMEOUT = 30


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def _exchange(
    connection: http.client.HTTPConnection,
    target: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    connection.request(method, target, body=body, headers=headers or {})
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


@contextlib.contextmanager
def _plain(peer: Peer) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", peer.port, timeout=TIMEOUT)) as connection:
        yield connection


def _ask(peer: Peer, target: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    with _plain(peer) as connection:
        return _exchange(connection, target, method, body, {name.replace("_", "-"): headers[name] for name in headers})


def _tls(
    ca: Authority, port: int, target: str = "/small", client: bool = False, alpn: tuple[str, ...] = ("http/1.1",)
) -> Answer:
    context = ssl.create_default_context(cafile=str(ca.cert_pem))
    context.set_alpn_protocols(list(alpn))
    if client:
        context.load_cert_chain(ca.client.bundle_pem)
    connection = http.client.HTTPSConnection("localhost", port, timeout=TIMEOUT, context=context)
    with contextlib.closing(connection):
        return _exchange(connection, target)


@contextlib.contextmanager
def _raw(peer: Peer, head: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", peer.port), timeout=TIMEOUT) as sock:
        sock.sendall(head.replace("\n", "\r\n").encode())
        yield sock


def _until_close(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


# Every peer.


def test_serves_the_common_content(peer: Peer) -> None:
    with _plain(peer) as connection:
        small = _exchange(connection, "/small")
        assert (small.status, small.headers["content-length"], small.body) == (200, "127", SMALL)
        assert _exchange(connection, "/big").body == BIG
        chunked = _exchange(connection, "/chunked")
        assert chunked.headers["transfer-encoding"] == "chunked"
        assert chunked.body == SMALL
        assert _exchange(connection, "/missing").status == 404
        assert _exchange(connection, "/unavailable").status == 503
        redirect = _exchange(connection, "/redirect")
        assert redirect.status == 302
        assert redirect.headers["location"].endswith("/small")
        assert _exchange(connection, "/no-content").status == 204


def test_serves_over_tls_and_on_every_address(peer: Peer, ca: Authority) -> None:
    assert _tls(ca, peer.tls_port).body == SMALL
    for address in addresses():
        with contextlib.closing(http.client.HTTPConnection(address, peer.port, timeout=TIMEOUT)) as connection:
            assert _exchange(connection, "/small").body == SMALL


@pytest.mark.parametrize("name", ["nginx", "apache", "asgi"])
def test_offers_h2_on_its_port(name: str, ca: Authority, request: pytest.FixtureRequest) -> None:
    peer = request.getfixturevalue(name)
    context = ssl.create_default_context(cafile=str(ca.cert_pem))
    context.set_alpn_protocols(["h2", "http/1.1"])
    for port, expected in ((getattr(peer, "h2_port", peer.tls_port), "h2"), (peer.tls_port, None)):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            assert tls.selected_alpn_protocol() == (expected or ("h2" if name == "asgi" else "http/1.1"))


# nginx.


def test_nginx_conditional_and_range(nginx: Nginx) -> None:
    etag = _ask(nginx, "/small").headers["etag"]
    assert _ask(nginx, "/small", If_None_Match=etag).status == 304
    part = _ask(nginx, "/small", Range="bytes=10-19")
    assert (part.status, part.body) == (206, SMALL[10:20])
    assert _ask(nginx, "/small", Range="bytes=200-").status == 416


def test_nginx_framings(nginx: Nginx) -> None:
    assert _ask(nginx, "/chunked-big").body == BIG
    until_close = _ask(nginx, "/until-close")
    assert until_close.body == SMALL
    assert "content-length" not in until_close.headers
    assert "transfer-encoding" not in until_close.headers
    compressed = _ask(nginx, "/gzip", Accept_Encoding="gzip")
    assert compressed.headers["content-encoding"] == "gzip"
    assert len(gzip.decompress(compressed.body)) == 65536


def test_nginx_ends_connections(nginx: Nginx) -> None:
    with _plain(nginx) as connection:
        assert _exchange(connection, "/few").headers["connection"] == "keep-alive"
        assert _exchange(connection, "/few").headers["connection"] == "close"
    assert _ask(nginx, "/close").headers["connection"] == "close"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_codes(code: int, nginx: Nginx, apache: Apache) -> None:
    for peer in (nginx, apache):
        answer = _ask(peer, f"/redirect/{code}")
        assert answer.status == code
        assert answer.headers["location"].endswith("/small")


def test_nginx_takes_uploads(nginx: Nginx) -> None:
    assert _ask(nginx, "/upload/deep/file", "PUT", BIG).status == 201
    assert (nginx.upload_directory / "deep" / "file").read_bytes() == BIG
    assert _ask(nginx, "/upload/deep/file").body == BIG
    assert _ask(nginx, "/upload/deep/file", "DELETE").status == 204
    assert _ask(nginx, "/method", "PATCH", BIG).body == b"PATCH"


def test_nginx_refuses_early(nginx: Nginx) -> None:
    head = "POST /limited HTTP/1.1\nHost: x\nContent-Length: 1000000000\n\n"
    with _raw(nginx, head) as sock:
        assert sock.recv(12) == b"HTTP/1.1 413"  # it goes on reading for five seconds, which we do not wait for


def test_nginx_unix_socket(nginx: Nginx) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(str(nginx.socket_path))
        sock.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert _until_close(sock).endswith(SMALL)


def test_nginx_certificates(nginx: Nginx, ca: Authority) -> None:
    assert _tls(ca, nginx.tls_port, "/tls").body.split() == [b"TLSv1.3", b"http/1.1", b".", b"localhost"]
    assert _tls(ca, nginx.tls12_port, "/tls").body.startswith(b"TLSv1.2 ")
    assert b"plugwire-client" in _tls(ca, nginx.mutual_tls_port, "/client", client=True).body
    assert _tls(ca, nginx.mutual_tls_port).status == 400
    reasons = {
        nginx.expired_port: "expired",
        nginx.wrong_host_port: "Hostname mismatch",
        nginx.untrusted_port: "unable to get local issuer",
    }
    for port, reason in reasons.items():
        with pytest.raises(ssl.SSLCertVerificationError, match=reason):
            _tls(ca, port)


# Apache httpd.


def test_apache_filters(apache: Apache) -> None:
    assert gzip.decompress(_ask(apache, "/gzip", Accept_Encoding="gzip").body) == TEXT
    reflected = _ask(apache, "/reflect", "POST", BIG)
    assert (reflected.status, reflected.body) == (200, BIG)


# Node and ASGI.


@pytest.mark.parametrize("name", ["node", "asgi"])
def test_echo_tells_what_came(name: str, request: pytest.FixtureRequest) -> None:
    peer: Peer = request.getfixturevalue(name)
    answer = _ask(peer, "/echo?a=b", "PUT", BIG, X_Case="Kept")
    seen = json.loads(answer.body)
    assert (seen["method"], seen["target"], seen["httpVersion"]) == ("PUT", "/echo?a=b", "1.1")
    assert (seen["length"], seen["sha256"]) == (len(BIG), hashlib.sha256(BIG).hexdigest())
    assert ["X-Case" if name == "node" else "x-case", "Kept"] in seen["headers"]
    assert _ask(peer, "/reflect", "POST", BIG).body == BIG
    assert _ask(peer, "/pattern?n=1000003").body == pattern(1000003)


def test_asgi_crash_cuts_the_body(asgi: ASGI) -> None:
    with pytest.raises(http.client.IncompleteRead):
        _ask(asgi, "/crash")


def test_node_framings(node: Node) -> None:
    with _raw(node, "GET /chunked?n=2 HTTP/1.1\nHost: x\nConnection: close\n\n") as sock:
        tail = _until_close(sock).partition(b"\r\n\r\n")[2]
    checksum = hashlib.sha256(b"chunk 0\nchunk 1\n").hexdigest().encode()
    assert tail == (b"8\r\nchunk 0\n\r\n8\r\nchunk 1\n\r\n0\r\nX-Checksum: " + checksum + b"\r\nX-Count: 2\r\n\r\n")
    assert _ask(node, "/pattern?n=1000003&chunked=1").headers["transfer-encoding"] == "chunked"
    assert _ask(node, "/close").headers["connection"] == "close"
    with _raw(node, "GET /http10 HTTP/1.1\nHost: x\n\n") as sock:
        whole = _until_close(sock)
    assert whole.startswith(b"HTTP/1.0 200 OK\r\n")
    assert whole.endswith(SMALL)


def test_node_reads_trailers(node: Node) -> None:
    head = "POST /echo HTTP/1.1\nHost: x\nConnection: close\nTransfer-Encoding: chunked\n\n3\nabc\n0\nX-T: 1\n\n"
    with _raw(node, head) as sock:
        seen = json.loads(_until_close(sock).partition(b"\r\n\r\n")[2])
    assert (seen["length"], seen["trailers"]) == (3, [["X-T", "1"]])


@pytest.mark.parametrize(("mode", "status"), [("accept", b"100"), ("reject", b"417"), ("silent", None)])
def test_node_continue(mode: str, status: bytes | None, node: Node) -> None:
    head = (
        f"POST /continue?mode={mode} HTTP/1.1\nHost: x\nConnection: close\nContent-Length: 3\nExpect: 100-continue\n\n"
    )
    with _raw(node, head) as sock:
        if status is not None:
            assert sock.recv(12) == b"HTTP/1.1 " + status
        if mode != "reject":
            sock.sendall(b"abc")
            assert b"HTTP/1.1 200 OK" in _until_close(sock)


@pytest.mark.parametrize("mode", ["linger", "keep", "reset"])
def test_node_answers_early(mode: str, node: Node) -> None:
    head = f"POST /early?mode={mode} HTTP/1.1\nHost: x\nContent-Length: 100\n\n"
    with _raw(node, head) as sock:
        assert sock.recv(12) == b"HTTP/1.1 413"
        if mode == "linger":
            assert _until_close(sock).endswith(b"too large\n")
            sock.sendall(b"x" * 100)
        elif mode == "reset":
            with pytest.raises(ConnectionResetError):
                _until_close(sock)


def test_node_informational(node: Node) -> None:
    with _raw(node, "GET /informational?n=2 HTTP/1.1\nHost: x\nConnection: close\n\n") as sock:
        heads = _until_close(sock).split(b"\r\n\r\n")
    assert [head[9:12] for head in heads[:4]] == [b"102", b"102", b"103", b"200"]
    assert b"rel=preload" in heads[2]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /upgrade HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: echo\n\n", b"HTTP/1.1 101 "),
        ("CONNECT there:443 HTTP/1.1\nHost: there:443\n\n", b"HTTP/1.1 200 "),
    ],
)
def test_node_hands_over_to_echo(head: str, status: bytes, node: Node) -> None:
    with _raw(node, head) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        answer = _until_close(sock)
    assert answer.startswith(status)
    assert answer.endswith(b"\r\n\r\nhello")


def test_node_breaks_off(node: Node) -> None:
    for path in ("/truncate", "/truncate-chunked"):
        with pytest.raises(http.client.IncompleteRead):
            _ask(node, path)
    with pytest.raises(ConnectionResetError):
        _ask(node, "/reset")


def test_node_flaky_recovers(node: Node) -> None:
    assert [_ask(node, "/flaky?key=peers&fail=2").status for _ in range(3)] == [503, 503, 200]
    assert _ask(node, "/status?code=429&retry-after=7").headers["retry-after"] == "7"
