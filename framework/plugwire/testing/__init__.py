"""Test kits: for programs that use plugwire, and for authors of transports and plugins.

- `MockTransport`, `intercept`: answers without a network.
- `Server`: a small server on loopback, HTTP/1.1 or, if asked, HTTP/2; plain or TLS.
- `ScriptedPeer`: a peer that says and expects exact bytes, for what real servers do not do; the steps of its scripts
  are in `plugwire.testing.peer`.
- `memory_streams`, `check_stream`: streams without sockets, and the conformance kit for streams.
- `plugwire.testing.faults`: make each operation of a call fail, one after another, and see that nothing is left.
- `plugwire.testing.interrupts`: the same with an interrupt at each bytecode, in the blocking world.
- `plugwire.testing.fixtures`: pytest fixtures; `pytest_plugins = ["plugwire.testing.fixtures"]` in a conftest.py.

Everything is imported when first used. `Server(tls=True)` and `ScriptedPeer(tls=True)` need the package trustme
(`pip install 'plugwire[demo]'`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plugwire.testing.conformance import STREAM_CHECKS, check_stream
    from plugwire.testing.memory import memory_streams
    from plugwire.testing.mock import Mock, MockTransport, Unanswered, intercept
    from plugwire.testing.peer import PeerFailure, ScriptedPeer
    from plugwire.testing.server import Server

__all__ = [
    "STREAM_CHECKS",
    "Mock",
    "MockTransport",
    "PeerFailure",
    "ScriptedPeer",
    "Server",
    "Unanswered",
    "check_stream",
    "intercept",
    "memory_streams",
]

_MODULES: Mapping[str, str] = {
    "STREAM_CHECKS": "conformance",
    "check_stream": "conformance",
    "memory_streams": "memory",
    "Mock": "mock",
    "MockTransport": "mock",
    "Unanswered": "mock",
    "intercept": "mock",
    "PeerFailure": "peer",
    "ScriptedPeer": "peer",
    "Server": "server",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'plugwire.testing' has no attribute {name!r}")
    value: Any = getattr(import_module(f"plugwire.testing.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
