"""The Python of README.md runs as it stands there, in order, against embedded servers under the names that it uses."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
import tomllib
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import certifi
import pytest

import plugwire
from plugwire import Response
from plugwire.testing import Server
from plugwire_transports import tls_context
from unix_door import Door

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def answer(request: plugwire.Request) -> Response:
    match request.method, request.url.path:
        case "POST", "/token":
            return Response(200, json={"access_token": "t", "expires_in": 3600})
        case "GET", "/v1/users":
            return Response(200, json=[request.headers["authorization"]])
        case "GET", "/report.csv":
            return Response(200, text="a,b\n")
        case "GET", "/v1/events":
            return Response(200, text="one\ntwo\n")
        case "PUT", "/archive.zip":
            content = request.body.content
            assert content is not None
            return Response(201 if zipfile.ZipFile(io.BytesIO(content)).namelist() == ["report.csv"] else 400)
        case _:
            return Response(200, text="hello")


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What README calls by other names. The authority of the servers stands in place of all those of certifi."""
    monkeypatch.chdir(tmp_path)
    Path("report.csv").write_text("a,b\n")
    with ExitStack() as stack:
        server = stack.enter_context(Server(answer, tls=True, http_versions=("h2", "http/1.1")))
        plain = stack.enter_context(Server({"/v1.43/info": Response(200, json={})}))
        door = stack.enter_context(Door(plain.port, str(tmp_path / "sock")))
        Path("ca.pem").write_text(server.tls_config.ca_data or "")
        monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "ca.pem"))
        monkeypatch.setattr(tls_context, "_contexts", OrderedDict())
        yield {
            '"https://example.org': f'"{server.url}',
            '(base_url="https://api.example': f'(base_url="{server.url}',
            "TOKEN_URL": f'"{server.url}/token"',
            "http+unix://%2Frun%2Fdocker.sock": door.url,
        }
        assert len(plain.calls) == 1


def test_the_code_runs(servers: dict[str, str]) -> None:
    printed: list[Any] = []
    names: dict[str, Any] = {"KEY": b"secret", "print": lambda *values: printed.append(values)}
    exec("import hmac, plugwire, zipfile\nfrom concurrent.futures import ThreadPoolExecutor", names)
    assert len(BLOCKS) >= 9
    for block in BLOCKS:
        for name, here in servers.items():
            block = block.replace(name, here)
        result = eval(compile(block, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    assert names["response"].status_code == 201
    flat = [value for (value, *_) in printed]
    assert flat[:4] == [4, "hello", "one", "two"]
    assert [version for version, _ in flat[4]] == ["HTTP/2"]  # one connection
    assert flat[5] == ["Bearer t"]
    assert "Signature" in flat[6]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_every_extra_is_named() -> None:
    extras = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"`plugwire\[(\w+)\]`", README.read_text())) == set(extras)
