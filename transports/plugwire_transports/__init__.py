"""The transports that come with plugwire, one file each. Everything public is here; the modules below are not.

Every session has them, after its own: they need naming only to be subclassed, or put into another order:
`Session(transports=[Throttled(), TCP()])`. `AddressGuard` and `PinnedHosts` it has only if they are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugwire_transports.address_guard import AddressGuard
    from plugwire_transports.http2 import HTTP2
    from plugwire_transports.http11 import HTTP11
    from plugwire_transports.pinned_hosts import PinnedHosts
    from plugwire_transports.proxy import HTTPProxy
    from plugwire_transports.resolver import SystemResolver
    from plugwire_transports.socks import SOCKS
    from plugwire_transports.tcp import TCP
    from plugwire_transports.tls import TLSSecurer
    from plugwire_transports.unix import Unix

__all__ = [
    "HTTP2",
    "HTTP11",
    "SOCKS",
    "TCP",
    "AddressGuard",
    "HTTPProxy",
    "PinnedHosts",
    "SystemResolver",
    "TLSSecurer",
    "Unix",
]

_WHERE = {
    "AddressGuard": "address_guard",
    "HTTP2": "http2",
    "HTTP11": "http11",
    "HTTPProxy": "proxy",
    "PinnedHosts": "pinned_hosts",
    "SOCKS": "socks",
    "SystemResolver": "resolver",
    "TCP": "tcp",
    "TLSSecurer": "tls",
    "Unix": "unix",
}


def __getattr__(name: str) -> Any:
    # Lazily: a request over plain TCP does not import what TLS needs.
    if name not in _WHERE:
        raise AttributeError(f"module 'plugwire_transports' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"plugwire_transports.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
