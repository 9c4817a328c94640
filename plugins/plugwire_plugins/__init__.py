"""The plugins that come with plugwire, one file each. Everything public is here; the modules below are not.

Plugins are given to a session as objects or by name: `Session(plugins=[Retries(max_retries=5), "wirelog"])`.
`BasicAuth` and what else ends in `Auth` is no plugin but an auth object: `Session(auth=BearerAuth("token"))`.
`CookieJar` is where the plugin `Cookies` keeps them: `Session(cookies=CookieJar().load("cookies.json"))`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugwire_plugins.basic_auth import BasicAuth
    from plugwire_plugins.bearer_auth import BearerAuth
    from plugwire_plugins.cookie_jar import CookieJar
    from plugwire_plugins.cookies import Cookies
    from plugwire_plugins.decompress import Decompress, DecompressOptions
    from plugwire_plugins.default_headers import DefaultHeaders
    from plugwire_plugins.digest_auth import DigestAuth
    from plugwire_plugins.netrc_auth import NetrcAuth
    from plugwire_plugins.redirects import RedirectOptions, Redirects
    from plugwire_plugins.retries import Retries, RetryBudget, RetryDecision, RetryOptions, RetryPolicy
    from plugwire_plugins.sse import SSEOptions, SSEPolicy, SSEReconnect
    from plugwire_plugins.wirelog import WireLog

__all__ = [
    "BasicAuth",
    "BearerAuth",
    "CookieJar",
    "Cookies",
    "Decompress",
    "DecompressOptions",
    "DefaultHeaders",
    "DigestAuth",
    "NetrcAuth",
    "RedirectOptions",
    "Redirects",
    "Retries",
    "RetryBudget",
    "RetryDecision",
    "RetryOptions",
    "RetryPolicy",
    "SSEOptions",
    "SSEPolicy",
    "SSEReconnect",
    "WireLog",
]

_WHERE = {
    "BasicAuth": "basic_auth",
    "BearerAuth": "bearer_auth",
    "CookieJar": "cookie_jar",
    "Cookies": "cookies",
    "Decompress": "decompress",
    "DecompressOptions": "decompress",
    "DefaultHeaders": "default_headers",
    "DigestAuth": "digest_auth",
    "NetrcAuth": "netrc_auth",
    "RedirectOptions": "redirects",
    "Redirects": "redirects",
    "Retries": "retries",
    "RetryBudget": "retries",
    "RetryDecision": "retries",
    "RetryOptions": "retries",
    "RetryPolicy": "retries",
    "SSEOptions": "sse",
    "SSEPolicy": "sse",
    "SSEReconnect": "sse",
    "WireLog": "wirelog",
}


def __getattr__(name: str) -> Any:
    # Lazily: a session that names one plugin does not pay for importing the others.
    if name not in _WHERE:
        raise AttributeError(f"module 'plugwire_plugins' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"plugwire_plugins.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
