"""The command line: what it prints, and its exit status."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import plugwire
from plugwire import Response
from plugwire.cli import main
from plugwire.fetch import Progress, Trace
from plugwire.testing import ScriptedPeer, Server, intercept
from plugwire.testing.peer import expect_head, send
from unix_door import Door

Capture = pytest.CaptureFixture[bytes]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture(scope="module")
def secure() -> Iterator[Server]:
    with Server(tls=True) as made:
        yield made


# -- get


def test_get_prints_the_body_byte_for_byte(server: Server, capsysbinary: Capture) -> None:
    assert main(["get", f"{server.url}/bytes/100000"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == (bytes(range(251)) * 400)[:100000]
    assert err == b""


def test_get_includes_the_head(capsysbinary: Capture) -> None:
    headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Y", "z")]
    with intercept({"/": Response(203, headers=headers, content=b"body")}):
        assert main(["get", "-i", "http://h.invalid/"]) == 0
    out = capsysbinary.readouterr().out
    reason = b"Non-Authoritative Information"
    assert out == b"HTTP/1.1 203 " + reason + b"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Y: z\r\n\r\nbody"


def test_get_sends_method_fields_and_data(
    capsysbinary: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_bytes(b"of a file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"of stdin")))
    url = "http://h.invalid/"
    with intercept({"/": Response(200)}) as mock:
        assert main(["get", "-X", "DELETE", "-H", "X-A: 1", "-H", "X-B:2", url]) == 0
        assert main(["get", "-d", "a=b", url]) == 0
        assert main(["get", "-d", "a=b", "-H", "content-type: text/plain", url]) == 0
        assert main(["get", "-X", "PUT", "-d", f"@{tmp_path / 'data'}", url]) == 0
        assert main(["get", "-d", "@-", url]) == 0
    assert [(call.method, call.content) for call in mock.calls] == [
        ("DELETE", b""), ("POST", b"a=b"), ("POST", b"a=b"), ("PUT", b"of a file"), ("POST", b"of stdin")
    ]  # fmt: skip
    assert (mock.calls[0].headers["x-a"], mock.calls[0].headers["x-b"]) == ("1", "2")
    kinds = [call.headers.get("content-type") for call in mock.calls[1:4]]
    assert kinds == ["application/x-www-form-urlencoded", "text/plain", None]


def test_a_bad_status_prints_the_body_and_exits_with_1(server: Server, capsysbinary: Capture) -> None:
    assert main(["get", f"{server.url}/status/404"]) == 1
    assert capsysbinary.readouterr() == (b"status 404\n", b"plugwire: 404 Not Found\n")


def test_a_network_failure_exits_with_1(capsysbinary: Capture) -> None:
    assert main(["get", "http://127.0.0.1:1/"]) == 1
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err.startswith(b"plugwire: ConnectError: ") and err.count(b"\n") == 1


def test_an_unknown_certificate_is_refused_unless_told_otherwise(
    secure: Server, capsysbinary: Capture, tmp_path: Path
) -> None:
    url = f"{secure.url}/hello"
    assert main(["get", url]) == 1
    assert b"CertificateError" in capsysbinary.readouterr().err
    assert main(["get", "--insecure", url]) == 0
    bundle = tmp_path / "ca.pem"
    bundle.write_text(secure.tls_config.ca_data or "")
    assert main(["get", "--ca-file", str(bundle), url]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["get"],
        ["get", "--nothing", "http://h.invalid/"],
        ["get", "nowhere"],
        ["get", "http://"],
        ["get", "http://h:99999/"],
        ["get", "gopher://h.invalid/"],
        ["get", "-H", "no colon", "http://h.invalid/"],
        ["get", "-H", "bad name: x", "http://h.invalid/"],
        ["get", "-H", "x: bad\nvalue", "http://h.invalid/"],
        ["get", "-X", "BAD METHOD", "http://h.invalid/"],
        ["get", "-d", "@/nowhere/at all", "http://h.invalid/"],
        ["get", "-o", "/nowhere/at all", "http://h.invalid/"],
        ["get", "-o", "/", "http://h.invalid/"],
        ["get", "--timeout", "soon", "http://h.invalid/"],
        ["get", "--timeout", "-1", "http://h.invalid/"],
        ["get", "--max-time", "0", "http://h.invalid/"],
        ["get", "--ca-file", "/nowhere/at all", "https://h.invalid/"],
        ["explain", "nowhere"],
        ["explain", "--plugin", "nothing", "http://h.invalid/"],
        ["explain", "--transport", "nothing", "http://h.invalid/"],
    ],
    ids=" ".join,
)
def test_bad_input_is_told_in_one_line_and_exits_with_2(arguments: list[str], capsysbinary: Capture) -> None:
    assert main(arguments) == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err.startswith(b"plugwire") and err.endswith(b"\n") and err.count(b"\n") == 1


def test_get_writes_to_a_file(server: Server, tmp_path: Path, capsysbinary: Capture) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"what was there before, and is longer than what comes")
    assert main(["get", "-i", "-o", str(path), f"{server.url}/hello"]) == 0
    assert path.read_bytes() == b"hello from plugwire's own server\n"
    out, err = capsysbinary.readouterr()
    assert out.startswith(b"HTTP/1.1 200 OK\r\n") and out.endswith(b"\r\n\r\n")
    assert err == b""  # no terminal, no progress


def test_a_file_is_left_alone_when_no_response_comes(tmp_path: Path) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    kept.write_bytes(b"precious")
    for path in (kept, new):
        assert main(["get", "-o", str(path), "http://127.0.0.1:1/"]) == 1
    assert kept.read_bytes() == b"precious"
    assert not new.exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_goes_to_a_terminal(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["get", "-o", str(tmp_path / "out"), f"{server.url}/bytes/3000000"]) == 0
    last = terminal.getvalue().rpartition("\r")[2]
    assert last.startswith("2.9 MiB of 2.9 MiB, 100 %") and last.endswith("\n")


def test_trace_tells_the_steps_with_their_times(secure: Server, capsysbinary: Capture) -> None:
    assert main(["get", "--trace", "--insecure", f"{secure.url}/hello"]) == 0
    lines = capsysbinary.readouterr().err.decode().splitlines()
    steps = [line.split(" ms  ")[1].split()[0] for line in lines]
    for step in ("resolve", "connect", "tls", "send", "head", "receive", "call"):
        assert steps.count(step) == 1
    assert next(line for line in lines if " tls " in line).split()[:2] != ["0.00", "0.00"]


def test_redirects_are_followed_unless_told_otherwise(server: Server, capsysbinary: Capture) -> None:
    url = f"{server.url}/redirect/301/hello"
    assert main(["get", "-i", "--trace", url]) == 0
    out, err = capsysbinary.readouterr()
    assert out.startswith(b"HTTP/1.1 200 OK\r\n") and out.endswith(b"hello from plugwire's own server\n")
    assert b"redirect 301 to " + server.url.encode() + b"/hello\n" in err
    assert main(["get", "-i", "--no-redirects", url]) == 0
    out, err = capsysbinary.readouterr()
    assert out.startswith(b"HTTP/1.1 301 Moved Permanently\r\n") and b"status 301" in out


def test_a_redirect_that_is_not_followed_is_a_failure(
    server: Server, capsysbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with intercept(lambda request: Response(302, headers={"location": "ftp://h.invalid/"})):
        assert main(["get", "http://h.invalid/"]) == 1
    assert capsysbinary.readouterr().err.startswith(b"plugwire: UnsafeRedirect: a redirect to the scheme 'ftp'")
    reading, writing = os.pipe()
    os.write(writing, b"once")
    os.close(writing)
    with os.fdopen(reading) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert main(["get", "-d", "@-", f"{server.url}/redirect/307/echo"]) == 1
    assert capsysbinary.readouterr().err.startswith(b"plugwire: NotReplayable: a redirect to http://127.0.0.1:")


def test_trace_tells_what_failed(capsysbinary: Capture) -> None:
    assert main(["get", "--trace", "http://127.0.0.1:1/"]) == 1
    assert b"connect  127.0.0.1:1 failed: " in capsysbinary.readouterr().err


def test_an_interrupt_exits_with_130(capsysbinary: Capture) -> None:
    with intercept({"/": KeyboardInterrupt()}):
        assert main(["get", "http://h.invalid/"]) == 130
    assert capsysbinary.readouterr().err == b""


# -- the others


def test_plugins_lists_what_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    for name in ("http/1.1", "tls", "retries", "wirelog"):
        assert f"\n  {name} " in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "retries plugwire_plugins.retries:Retries shipped, if named" in lines
    assert "redirects plugwire_plugins.redirects:Redirects shipped, in every session" in lines
    assert "tcp plugwire_transports.tcp:TCP shipped, in every session" in lines


def test_plugins_lists_what_is_installed_with_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import Distribution, EntryPoint

    class Acme(Distribution):
        metadata = {"Name": "acme-plugwire", "Version": "1.2"}  # type: ignore[assignment]
        version = "1.2"

        def read_text(self, filename: str) -> None:
            return None

        def locate_file(self, path: Any) -> Any:
            raise NotImplementedError

    point = EntryPoint("acme", "acme:Transport", "plugwire.transports")._for(Acme())  # type: ignore[attr-defined]
    hiding = EntryPoint("tcp", "acme:TCP", "plugwire.transports")._for(Acme())  # type: ignore[attr-defined]
    groups = {"plugwire.transports": {"acme": point, "tcp": hiding}}
    monkeypatch.setattr("plugwire.registry.entry_points", lambda group: groups.get(group, {}))
    assert main(["plugins"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "acme acme:Transport acme-plugwire 1.2" in lines
    assert "tcp acme:TCP acme-plugwire 1.2, hidden by the shipped one of this name" in lines


def test_explain_prints_what_the_session_explains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--plugin", "retries", "-X", "PUT", "https://h.invalid/x"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("PUT https://h.invalid/x\n") and "Retries" in out


def test_get_by_a_unix_socket(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    with Door(server.port, str(tmp_path / "s")) as door:
        assert main(["get", "--unix-socket", "s", "http://h.invalid/status/200"]) == 0
        assert main(["get", f"{door.url}/status/200"]) == 0
    assert server.calls[-2].headers["host"] == "h.invalid"
    assert main(["get", "--unix-socket", "", "http://h.invalid/"]) == 2
    assert b"the socket's path is empty" in capsysbinary.readouterr().err


def test_get_from_where_the_user_says(server: Server, capsysbinary: Capture) -> None:
    pinned = ["--resolve", f"h.invalid:{server.port}:127.0.0.1,[::1]", "--resolve", "[::2]:80:[::1]"]
    assert main(["get", *pinned, f"http://h.invalid:{server.port}/status/200"]) == 0
    assert server.calls[-1].headers["host"] == f"h.invalid:{server.port}"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["h.invalid"], "HOST:PORT:ADDRESS"),
        (["h.invalid:80"], "HOST:PORT:ADDRESS"),
        (["h.invalid:80:localhost"], "no numeric address"),
        (["h.invalid:0:127.0.0.1"], "port"),
        (["h.invalid:80:127.0.0.1", "h.invalid:80:127.0.0.2"], "twice"),
    ],
)
@pytest.mark.parametrize("command", ["get", "explain"])
def test_places_that_cannot_be(
    command: str, values: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *(word for value in values for word in ("--resolve", value)), "http://h.invalid/"]) == 2
    assert reason in capsys.readouterr().err


def test_get_by_a_proxy(monkeypatch: pytest.MonkeyPatch, server: Server, capsysbinary: Capture) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with ScriptedPeer([expect_head(b"GET http://h.invalid/ "), send(answer)]) as proxy:
        assert main(["get", "--proxy", proxy.url, "http://h.invalid/"]) == 0
    assert capsysbinary.readouterr().out == b"ok"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nobody there
    assert main(["get", f"{server.url}/status/200"]) == 1
    assert main(["get", "-x", "none", f"{server.url}/status/200"]) == 0
    assert main(["get", "-x", "ftp://u:geheim@h", f"{server.url}/status/200"]) == 2
    assert b"geheim" not in capsysbinary.readouterr().err


def test_explain_tells_the_proxy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://u:geheim@proxy")
    assert main(["explain", "https://h.invalid/"]) == 0
    assert main(["explain", "--proxy", "none", "https://h.invalid/"]) == 0
    out = capsys.readouterr().out
    assert "proxy socks5h://proxy:1080 (ALL_PROXY)" in out and "proxy none," in out and "geheim" not in out


def test_explain_tells_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    way = ["--transport", "address-guard", "--resolve", "h.invalid:80:127.0.0.1", "--unix-socket", "/run/x"]
    assert main(["explain", *way, "http://h.invalid/"]) == 0
    assert "path /run/x" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["get", "--help"], ["--version"]])
def test_help_and_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert plugwire.__version__ in capsys.readouterr().out or "--help" in arguments


# -- as a program


def run(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "plugwire", *arguments]
    # As at home: stdout of a pipe is held back until there is much of it, or the end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, timeout=120, check=False, env=environment, **{"capture_output": True, **keywords})


def test_as_a_program(server: Server) -> None:
    good = run("get", f"{server.url}/hello")
    assert (good.returncode, good.stdout, good.stderr) == (0, b"hello from plugwire's own server\n", b"")
    assert run("get", "nowhere").returncode == 2


@pytest.mark.parametrize("command", ["get", "plugins"])
def test_nobody_reads_the_output(server: Server, command: str) -> None:
    arguments = [command, f"{server.url}/bytes/10000000"][: 2 if command == "get" else 1]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        broken = run(*arguments, stdout=writing, stderr=subprocess.PIPE, capture_output=False)
    finally:
        os.close(writing)
    assert (broken.returncode, broken.stderr) == (141, b"")


def test_observers_are_public_enough_to_be_used_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Trace and Progress are plain observers: `observe=Trace(file)`."""
    trace, progress = io.StringIO(), io.StringIO()
    with intercept({"/": Response(200, content=b"12345")}), plugwire.Session() as session:
        session.get("http://h.invalid/", observe=Trace(trace))
        session.get("http://h.invalid/", observe=Progress(progress))
    assert "head     200 OK" in trace.getvalue()
    assert "5 B of 5 B, 100 %" in progress.getvalue()
