"""The public names: there, documented, and cheap to import."""

from __future__ import annotations

import inspect
import json
import pkgutil
import subprocess
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import plugwire
import plugwire.errors
import plugwire.events
import plugwire.protocols

HEAVY = ("asyncio", "ssl", "h2", "hpack", "pluggy", "trio", "idna", "certifi", "importlib.metadata", "inspect")
MODULES = (
    "plugwire", "plugwire.protocols", "plugwire.decoders", "plugwire.testing", "plugwire_plugins",
    "plugwire_transports",
)  # fmt: skip
FIXED = [
    "Session",
    "AsyncSession",
    "Request",
    "Response",
    "AsyncResponse",
    "Headers",
    "URL",
    "Timeout",
    "Limits",
    "TLSConfig",
    "Proxy",
    "CallOptions",
    "get",
    "head",
    "options",
    "post",
    "put",
    "patch",
    "delete",
    "request",
    "stream",
    "hookimpl",
    "Error",
    "__version__",
]


def public(module: ModuleType) -> list[tuple[str, Any]]:
    return [(name, getattr(module, name)) for name in module.__all__]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_can_be_imported_and_is_listed(name: str) -> None:
    module = import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public_name, _ in public(module):
        assert public_name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented(name: str) -> None:
    module = import_module(name)
    assert module.__doc__
    undocumented = [
        public_name
        for public_name, value in public(module)
        if (inspect.isclass(value) or inspect.isroutine(value)) and not (value.__doc__ or "").strip()
    ]
    assert undocumented == []


@pytest.mark.parametrize("name", ["plugwire.Session", "plugwire.AsyncSession", "plugwire.Response", "plugwire.Headers",
                                  "plugwire.AsyncResponse", "plugwire.URL", "plugwire.Request",
                                  "plugwire.protocols.Call", "plugwire.protocols.Stream", "plugwire.protocols.Body",
                                  "plugwire.protocols.Runtime", "plugwire.protocols.Connection",
                                  "plugwire.protocols.Connecting", "plugwire.protocols.Route",
                                  "plugwire.protocols.Session", "plugwire.protocols.CookieStore", "plugwire.Proxy",
                                  "plugwire_plugins.CookieJar", "plugwire_plugins.Redirects",
                                  "plugwire_plugins.SSEReconnect", "plugwire_plugins.Decompress",
                                  "plugwire_transports.AddressGuard", "plugwire_transports.HTTPProxy",
                                  "plugwire_transports.SOCKS", "plugwire_transports.SystemResolver"])  # fmt: skip
def test_every_public_method_is_documented(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    kind = getattr(import_module(module), attribute)
    undocumented = [
        member
        for member, value in vars(kind).items()
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
        and not inspect.getdoc(getattr(kind, member))
    ]
    assert undocumented == []


def test_the_fixed_names_are_there() -> None:
    assert set(FIXED) <= set(plugwire.__all__)


def test_every_error_is_public() -> None:
    errors = {kind.__name__ for kind in plugwire.errors.PUBLIC}
    assert errors <= set(plugwire.__all__)
    tree = {
        name
        for name, value in vars(plugwire.errors).items()
        if isinstance(value, type) and issubclass(value, plugwire.Error)
    }
    assert tree == errors


def test_no_submodule_bears_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(plugwire.__path__)}
    assert modules & (set(plugwire.__all__) - {"__version__"}) == set()


def test_lazy_names_of_protocols_are_listed() -> None:
    assert set(plugwire.protocols.LAZY) <= set(plugwire.protocols.__all__)


def loaded(code: str) -> set[str]:
    """The modules that are there after `code` ran in an interpreter of its own."""
    code += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_plugwire_loads_nothing_heavy() -> None:
    came = loaded("import plugwire") - loaded("")
    assert came & set(HEAVY) == set()
    assert {name for name in came if name.startswith("plugwire")} == {"plugwire"}


def test_importing_the_names_for_authors_loads_nothing_heavy() -> None:
    came = loaded("from plugwire import hookimpl, AsyncResponse; import plugwire.protocols, plugwire.events") - loaded(
        ""
    )
    assert came & {"asyncio", "ssl", "h2", "hpack", "pluggy", "trio", "idna"} == set()


GET = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    connection, _ = listener.accept()
    data = b""
    while not data.endswith(b"\\r\\n\\r\\n"):
        data += connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    connection.close()
thread = threading.Thread(target=serve)
thread.start()
import plugwire
with plugwire.Session() as session:
    assert session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/").text == "ok"
thread.join()
listener.close()
"""


def test_a_blocking_get_loads_no_event_loop_no_tls_and_no_h2() -> None:
    came = loaded(GET)
    assert came & {"asyncio", "trio", "ssl", "h2", "hpack", "idna"} == set()
    assert "plugwire_transports.tls" not in came


def test_the_async_session_can_be_made_without_a_loop() -> None:
    came = loaded("import plugwire; plugwire.AsyncSession()")
    assert came & {"asyncio", "trio", "ssl", "h2"} == set()
