"""docs/coming-from.md: its code runs, and all clients print the same; its tables of names are the data's."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import ssl
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import trustme

import plugwire
from peers.httpbin import HTTPBin
from plugwire import Response
from plugwire.spellings import SPELLINGS, Place
from plugwire.testing import MockTransport, Server
from proxy_peer import ProxyPeer
from unix_door import Door

PAGE = Path(__file__).parent.parent / "docs" / "coming-from.md"
CLIENTS = ("requests", "httpx", "aiohttp", "plugwire")


class Block(NamedTuple):
    client: str
    code: str


def sections() -> dict[str, list[Block]]:
    """The blocks under each heading of the page."""
    found: dict[str, list[Block]] = {}
    page = PAGE.read_text()
    part = page[page.index("## Side by side") : page.index("## Names")]
    for heading, text in re.findall(r"^### (.*?)\n(.*?)(?=^### |\Z)", part, re.MULTILINE | re.DOTALL):
        blocks = re.findall(r"^```python\n# (\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        found[heading] = [Block(*block) for block in blocks]
    return found


# -- running the code ----------------------------------------------------------------------------------------------


def api(answers: Iterator[Response]) -> Any:
    """What the servers of the page answer."""

    def handle(request: plugwire.Request) -> Response:
        match request.url.path:
            case "/busy":  # each second time
                return next(answers)
            case "/events":
                return Response(200, text="data: one\n\nevent: end\ndata: two\n\n")
            case _:
                return Response(200, text="hello")

    return handle


class MutualServer(Server):
    """Answers nobody who shows no certificate of the authority."""

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__({"/hello": Response(200, text="hello")}, tls=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        self._context = context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def places(
    httpbin: HTTPBin, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """What the page calls by names that lead elsewhere, or nowhere, and what stands there here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("report.csv").write_text("a,b\n")
    netrc = Path(".netrc")
    netrc.write_text("machine 127.0.0.1 login ada password secret\n")
    netrc.chmod(0o600)
    client = authority.issue_cert("client.example")
    client.private_key_pem.write_to_path("client.key")
    client.cert_chain_pems[0].write_to_path("client.pem")

    answers = cycle([Response(503), Response(200, text="ready")])
    proxied = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nby proxy"
    with ExitStack() as stack:
        server = stack.enter_context(Server(api(answers)))
        tls = stack.enter_context(Server(api(answers), tls=True))
        h2 = stack.enter_context(Server(api(answers), tls=True, http_versions=("h2", "http/1.1")))
        mutual = stack.enter_context(MutualServer(authority))
        proxy = stack.enter_context(ProxyPeer(lambda head: proxied))
        door = stack.enter_context(Door(server.port, str(tmp_path / "sock")))
        authority.cert_pem.write_to_path("ca.pem")
        with open("ca.pem", "a") as file:
            file.write(server.tls_config.ca_data or "")
        yield {
            "https://httpbin.org": httpbin.url,
            "https://api.example": server.url,
            "https://tls.example": tls.url,
            "https://h2.example": h2.url,
            "https://mutual.example": mutual.url,
            "proxy.example:3128": f"127.0.0.1:{proxy.port}",
            quote("/run/docker.sock", safe=""): quote(door.path, safe=""),
            "/run/docker.sock": door.path,
        }
    assert all(b"Proxy-Authorization: Basic YWRhOnNlY3JldA==" in head for head in proxy.heads)


def run(block: Block, places: dict[str, str]) -> list[tuple[Any, ...]]:
    """What the block prints."""
    code = block.code
    for name, here in places.items():
        code = code.replace(name, here)
    printed: list[tuple[Any, ...]] = []

    def note(*values: Any) -> None:
        printed.append(values)

    names: dict[str, Any] = {"print": note}
    exec(f"import asyncio, json, os, {block.client}", names)
    compiled: CodeType = compile(code, block.client, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)
    if inspect.iscoroutine(result):
        asyncio.run(result)
    return printed


@pytest.mark.parametrize("heading", sections())
def test_all_clients_print_the_same(heading: str, places: dict[str, str]) -> None:
    blocks = sections()[heading]
    assert [block.client for block in blocks] == [one for one in CLIENTS if one in {block.client for block in blocks}]
    assert blocks[-1].client == "plugwire"
    with warnings.catch_warnings():
        if "verification" in heading:
            warnings.simplefilter("ignore")  # requests says that it does what it was told
        printed = [run(block, places) for block in blocks]
    assert printed[-1]
    for block, one in zip(blocks, printed, strict=True):
        assert one == printed[-1], block.client


# -- the tables of names -------------------------------------------------------------------------------------------


def table(place: Place) -> str:
    """A table of the page, as the data has it."""
    rows = [f"| `{name}` | {', '.join(clients)} | {ours} |" for name, ours, clients in SPELLINGS[place]]
    return "\n".join(["| theirs | of | plugwire |", "|---|---|---|", *rows])


@pytest.mark.parametrize("place", Place)
def test_the_tables_of_names_are_those_of_the_errors(place: Place) -> None:
    heading = place.value[0].upper() + place.value[1:]
    assert f"\n### {heading}\n\n{table(place)}\n" in PAGE.read_text()


def test_names_that_mean_something_else() -> None:
    assert not issubclass(plugwire.Timeout, Exception)
    assert issubclass(plugwire.ConnectError, ConnectionError)
    assert issubclass(plugwire.ConnectTimeout, TimeoutError)
    assert str(plugwire.URL("http://me:secret@h/")) == "http://me:***@h/"
    mock = MockTransport(lambda request: Response(200, text="ab", headers={"set-cookie": "a=1"}))
    with plugwire.Session(transports=[mock]) as session:
        response = session.post("http://h/", json={})
        assert response.cookies == {"a": "1"}
        assert response.request is not None
        assert response.request.content == b"{}"
        with session.open_request("GET", "http://h/").send() as response:
            assert response.read(1) == b"a"
            assert list(response.iter_bytes(1)) == [b"b"]


def test_links_within_the_page_lead_somewhere() -> None:
    text = PAGE.read_text()
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    }
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert links
    assert set(links) <= anchors
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (PAGE.parent / target).exists(), target
