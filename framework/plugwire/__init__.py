"""plugwire: a pluggable-transport HTTP client framework. Write a plugin once; it runs under threads, asyncio and trio.

    with plugwire.Session() as session:
        response = session.get("https://example.org/")

`get`, `post`, ... of this module are each one `Session` for one call; there is no hidden global session.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # what checkers know it as; importing typing would take longer than all the rest of this module
if TYPE_CHECKING:
    from typing import Any

    from plugwire.async_session import AsyncSession
    from plugwire.blocking_response import Response
    from plugwire.config import CallOptions, Limits, TLSConfig
    from plugwire.errors import (
        AddressRefused,
        BodyUnread,
        Busy,
        Cancelled,
        CertificateError,
        ConnectError,
        ConnectionClosed,
        ConnectTimeout,
        DecodingError,
        Error,
        HeadTimeout,
        HTTPStatusError,
        IncompleteBody,
        InvalidHeader,
        InvalidURL,
        LimitExceeded,
        NetworkError,
        NoTransport,
        NotReplayable,
        PeerError,
        PluginError,
        PoolTimeout,
        ProtocolError,
        ProxyError,
        ReadError,
        ReadTimeout,
        ResolveError,
        ResponseError,
        SessionClosed,
        StreamReset,
        Suspended,
        TimedOut,
        TLSError,
        TooManyRedirects,
        TotalTimeout,
        UnknownOption,
        UnsafeRedirect,
        UsageError,
        WriteError,
        WriteTimeout,
    )
    from plugwire.headers import Headers
    from plugwire.hookspecs import hookimpl
    from plugwire.messages import AsyncResponse, Request
    from plugwire.proxies import Proxy
    from plugwire.session import Session
    from plugwire.shortcuts import delete, get, head, options, patch, post, put, request, stream
    from plugwire.timeouts import Timeout
    from plugwire.url import URL

__all__ = [
    "URL",
    "AddressRefused",
    "AsyncResponse",
    "AsyncSession",
    "BodyUnread",
    "Busy",
    "CallOptions",
    "Cancelled",
    "CertificateError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionClosed",
    "DecodingError",
    "Error",
    "HTTPStatusError",
    "HeadTimeout",
    "Headers",
    "IncompleteBody",
    "InvalidHeader",
    "InvalidURL",
    "LimitExceeded",
    "Limits",
    "NetworkError",
    "NoTransport",
    "NotReplayable",
    "PeerError",
    "PluginError",
    "PoolTimeout",
    "ProtocolError",
    "Proxy",
    "ProxyError",
    "ReadError",
    "ReadTimeout",
    "Request",
    "ResolveError",
    "Response",
    "ResponseError",
    "Session",
    "SessionClosed",
    "StreamReset",
    "Suspended",
    "TLSConfig",
    "TLSError",
    "TimedOut",
    "Timeout",
    "TooManyRedirects",
    "TotalTimeout",
    "UnknownOption",
    "UnsafeRedirect",
    "UsageError",
    "WriteError",
    "WriteTimeout",
    "__version__",
    "delete",
    "get",
    "head",
    "hookimpl",
    "options",
    "patch",
    "post",
    "put",
    "request",
    "stream",
]

_MODULES = {
    "async_session": ("AsyncSession",),
    "config": ("CallOptions", "Limits", "TLSConfig"),
    "headers": ("Headers",),
    "hookspecs": ("hookimpl",),
    "blocking_response": ("Response",),
    "messages": ("AsyncResponse", "Request"),
    "proxies": ("Proxy",),
    "session": ("Session",),
    "shortcuts": ("delete", "get", "head", "options", "patch", "post", "put", "request", "stream"),
    "timeouts": ("Timeout",),
    "url": ("URL",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Lazily, so that `import plugwire` stays cheap. What is not listed and public is an error class.
    if name not in __all__:
        from plugwire.spellings import Place, hint

        raise AttributeError(f"module 'plugwire' has no attribute {name!r}{hint(Place.MODULE, name)}")
    from importlib import import_module

    value = getattr(import_module(f"plugwire.{_WHERE.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
