"""Each peer answers as its module says, seen with http.client and the h2 package, so that a broken fixture is known for
what it is."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import random
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h2.events
import h2.exceptions
import pytest

from h2_client import BareClient, bare_client
from peers import BIG, LARGE_SIZE, SMALL, Authority, Peer, pattern
from peers.apache import TEXT, Apache
from peers.asgi import ASGI
from peers.fixtures import Site
from peers.nghttpd import Nghttpd
from peers.nginx import Nginx
from peers.node import Node
from peers.node import node as start_node
from peers.server import addresses, free_ports, give_back

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


# Their ports.


def test_no_other_run_draws_a_port_before_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on it yet when the other one looks."""
    monkeypatch.setattr(random, "sample", lambda ports, count: ports)
    in_order = "import random; random.sample = lambda ports, count: ports; from peers.server import free_ports"
    command = [sys.executable, "-c", f"{in_order}; print(*free_ports(3))"]
    ours = free_ports(3)
    try:
        there = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, timeout=60)
    finally:
        give_back(ours)
    theirs = [int(port) for port in there.stdout.split()]
    assert len({*ours, *theirs}) == 6


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


@pytest.mark.parametrize("name", ["nginx", "apache", "node", "asgi"])
def test_offers_h2_on_its_port(name: str, ca: Authority, request: pytest.FixtureRequest) -> None:
    peer: Peer = request.getfixturevalue(name)
    context = ssl.create_default_context(cafile=str(ca.cert_pem))
    context.set_alpn_protocols(["h2", "http/1.1"])
    for port, expected in ((peer.h2_port, "h2"), (peer.tls_port, "http/1.1")):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            assert tls.selected_alpn_protocol() == expected


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
    first, second = (dict(_ask(nginx, "/fresh?a").headers) for _ in range(2))
    assert len({name for name in first if first[name] != second[name]} - {"Date"}) == 6
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


# HTTP/2, seen with the h2 package.


@pytest.fixture
def h2_peer(h2_site: Site, ca: Authority) -> Iterator[BareClient]:
    """Each server in turn, over TLS and in the clear."""
    with bare_client(h2_site.url, ca_file=str(ca.cert_pem)) as client:
        yield client


@pytest.fixture(params=["h2", "h2c"])
def h2_node(request: pytest.FixtureRequest, node: Node, ca: Authority) -> Iterator[BareClient]:
    with bare_client(node.h2_url if request.param == "h2" else node.h2c_url, ca_file=str(ca.cert_pem)) as client:
        yield client


def test_h2_serves_the_common_content(h2_peer: BareClient, h2_site: Site) -> None:
    small = h2_peer.ask("/small")
    assert (small.status, small.headers["content-length"], small.body) == (200, "127", SMALL)
    head = h2_peer.ask("/small", "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, "127", b"")
    assert h2_peer.ask("/big").body == BIG
    if h2_site.url.startswith("http:"):  # the h2 package takes its time
        assert h2_peer.ask("/large").body == pattern(LARGE_SIZE)
    assert h2_peer.ask("/missing").status == 404
    if h2_site.name == "nghttpd":
        return
    chunked = h2_peer.ask("/chunked")
    assert "content-length" not in chunked.headers
    assert chunked.body == SMALL
    assert h2_peer.ask("/unavailable").status == 503
    redirect = h2_peer.ask("/redirect")
    assert redirect.status == 302
    assert redirect.headers["location"].endswith("/small")
    no_content = h2_peer.ask("/no-content")
    assert (no_content.status, no_content.body) == (204, b"")
    same = h2_peer.ask("/small", fields=[("if-none-match", small.headers["etag"])])
    assert (same.status, same.body) == (304, b"")


UPLOADS = {"nginx": "/upload/h2", "apache": "/upload/h2", "node": "/echo", "asgi": "/echo", "nghttpd": "/echo"}


def test_h2_takes_uploads(h2_peer: BareClient, h2_site: Site) -> None:
    path = UPLOADS[h2_site.name]
    answer = h2_peer.ask(path, "PUT", BIG)
    if path == "/upload/h2":
        assert answer.status in (201, 204)
        assert h2_peer.ask(path).body == BIG
    elif h2_site.name == "nghttpd":
        assert answer.body == BIG
    else:
        seen = json.loads(answer.body)
        assert (seen["length"], seen["sha256"]) == (len(BIG), hashlib.sha256(BIG).hexdigest())


def test_h2_serves_many_streams_at_once(h2_peer: BareClient) -> None:
    streams = [h2_peer.request(path="/small") for _ in range(20)]
    assert [h2_peer.answer(stream).body for stream in streams] == [SMALL] * 20


def test_nginx_rotates_and_is_narrow(nginx: Nginx, ca: Authority) -> None:
    with bare_client(f"https://localhost:{nginx.rotating_port}", ca_file=str(ca.cert_pem)) as client:
        for _ in range(9):
            assert client.ask("/small").body == SMALL
        client.request(path="/small")
        assert client.until(h2.events.ConnectionTerminated).error_code == 0
    with bare_client(f"https://localhost:{nginx.narrow_port}", ca_file=str(ca.cert_pem)) as client:
        client.ask("/small")
        assert client.h2.remote_settings.max_concurrent_streams == 2


def test_nginx_answers_over_h2_before_it_has_read(nginx: Nginx) -> None:
    with bare_client(nginx.h2c_url) as client:
        stream = client.begin("PUT", "/limited", [("content-length", "1000000000")], end_stream=False)
        client.until(h2.events.ResponseReceived)
        assert client.answer(stream).status == 413


def test_nghttpd_variants(nghttpd: Nghttpd) -> None:
    url = "http://127.0.0.1"
    with bare_client(f"{url}:{nghttpd.trailers_port}") as client:
        answer = client.ask("/small")
        assert (answer.body, answer.trailers) == (SMALL, {"x-trailer": "at last"})
        assert "content-length" not in answer.headers
    with bare_client(f"{url}:{nghttpd.padded_port}") as client:
        assert client.ask("/large").body == pattern(LARGE_SIZE)
        pieces = [event for event in client.events if isinstance(event, h2.events.DataReceived)]
        assert any(event.flow_controlled_length > len(event.data) for event in pieces)
    with bare_client(f"{url}:{nghttpd.early_port}") as client:
        stream = client.begin("PUT", "/small", end_stream=False)
        client.until(h2.events.StreamEnded)
        client.send(stream, b"late")
    with bare_client(f"{url}:{nghttpd.narrow_port}") as client:
        assert client.ask("/any", "POST", BIG[:100_000]).body == BIG[:100_000]
        settings = client.h2.remote_settings
        assert (settings.max_concurrent_streams, settings.initial_window_size) == (2, 1023)


def test_node_speaks_both_on_its_h2_port(node: Node, ca: Authority) -> None:
    assert _tls(ca, node.h2_port).body == SMALL


def test_node_h2_echo_and_trailers(h2_node: BareClient) -> None:
    stream = h2_node.begin("PUT", "/echo?a=b", [("x-case", "Kept")], end_stream=False)
    h2_node.send(stream, b"abc", end_stream=False)
    h2_node.h2.send_headers(stream, [("x-t", "1")], end_stream=True)
    h2_node.flush()
    seen = json.loads(h2_node.answer(stream).body)
    assert (seen["method"], seen["target"], seen["httpVersion"], seen["length"]) == ("PUT", "/echo?a=b", "2.0", 3)
    assert ["x-case", "Kept"] in seen["headers"]
    assert seen["trailers"] == [["x-t", "1"]]
    assert h2_node.ask("/reflect", "POST", BIG).body == BIG
    chunked = h2_node.ask("/chunked?n=2")
    assert chunked.body == b"chunk 0\nchunk 1\n"
    assert chunked.trailers == {"x-checksum": hashlib.sha256(chunked.body).hexdigest(), "x-count": "2"}


def test_node_h2_interim_answers(h2_node: BareClient) -> None:
    answer = h2_node.ask("/informational?n=2")
    assert [one[":status"] for one in answer.interim] == ["102", "102", "103"]
    assert (answer.interim[2]["link"], answer.body) == ("</style.css>; rel=preload; as=style", SMALL)
    expect = [("expect", "100-continue")]
    stream = h2_node.begin("POST", "/continue", expect, end_stream=False)
    h2_node.until(h2.events.InformationalResponseReceived, when=lambda event: event.stream_id == stream)
    h2_node.send(stream, b"abc")
    assert json.loads(h2_node.answer(stream).body)["length"] == 3
    stream = h2_node.begin("POST", "/continue?mode=reject", expect, end_stream=False)
    assert h2_node.answer(stream).status == 417


@pytest.mark.parametrize("mode", ["reset", "keep", "cancel"])
def test_node_h2_answers_early(mode: str, h2_node: BareClient) -> None:
    stream = h2_node.begin("POST", f"/early?mode={mode}", end_stream=False)
    answer = h2_node.answer(stream)
    if mode == "cancel":
        assert (answer.status, answer.reset) == (0, 8)
        return
    assert (answer.status, answer.body) == (413, b"too large\n")
    if mode == "reset":
        assert h2_node.until(h2.events.StreamReset).error_code == 0
    else:
        h2_node.send(stream, BIG)
    assert h2_node.ask("/small").body == SMALL


def test_node_h2_resets_with_any_code(h2_node: BareClient) -> None:
    for code, after in ((7, "nothing"), (8, "head"), (11, "half")):
        answer = h2_node.ask(f"/rst?code={code}&after={after}")
        body = SMALL[: len(SMALL) // 2] if after == "half" else b""
        assert (answer.reset, answer.status, answer.body) == (code, 0 if after == "nothing" else 200, body)


def test_node_h2_goes_away(node: Node) -> None:
    with bare_client(node.h2c_url) as client:
        client.ask("/small")
        client.request(path="/goaway?code=11&last=1")
        goaway = client.until(h2.events.ConnectionTerminated)
        assert (goaway.error_code, goaway.last_stream_id, goaway.additional_data) == (11, 1, b"as asked")
    with bare_client(node.h2c_url) as client:
        client.request(path="/goaway?cut=1")
        client.until(h2.events.ConnectionTerminated)
        while client.read():
            pass
        assert not any(isinstance(event, h2.events.ResponseReceived) for event in client.events)
    with bare_client(node.h2c_url) as client:
        client.request(path="/close")
        assert client.until(h2.events.ConnectionTerminated).error_code == 0
        while client.read():
            pass


def test_node_h2_breaks_off(node: Node) -> None:
    with bare_client(node.h2c_url) as client, pytest.raises(ConnectionResetError):
        client.ask("/reset")
    with bare_client(node.h2c_url) as client, pytest.raises(h2.exceptions.ProtocolError):
        client.ask("/truncate")


def test_node_h2_settings_ping_and_session(h2_node: BareClient) -> None:
    first = json.loads(h2_node.ask("/session").body)
    assert first["stream"] == 1
    assert json.loads(h2_node.ask("/session").body)["session"] == first["session"]
    assert h2_node.ask("/settings?maxConcurrentStreams=3&initialWindowSize=100000").body == SMALL
    settings = h2_node.h2.remote_settings
    assert (settings.max_concurrent_streams, settings.initial_window_size) == (3, 100_000)
    assert h2_node.ask("/ping").body == SMALL


def test_node_h2_connect_is_an_echo(h2_node: BareClient) -> None:
    stream = h2_node.begin("CONNECT", end_stream=False)
    h2_node.send(stream, b"hello")
    answer = h2_node.answer(stream)
    assert (answer.status, answer.body) == (200, b"hello")


def test_node_takes_settings_of_ones_own(ca: Authority) -> None:
    with start_node(ca, maxConcurrentStreams=1) as peer, bare_client(peer.h2c_url) as client:
        client.ask("/small")
        assert client.h2.remote_settings.max_concurrent_streams == 1


def test_asgi_h2_trailers_and_hints(asgi: ASGI) -> None:
    with bare_client(asgi.h2c_url) as client:
        answer = client.ask("/trailers", fields=[("te", "trailers")])
        assert answer.trailers == {"x-checksum": hashlib.sha256(SMALL).hexdigest()}
        assert [one[":status"] for one in client.ask("/hints").interim] == ["103"]
