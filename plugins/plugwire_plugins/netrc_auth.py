"""User and password from a netrc file, for exactly the hosts that it names.

Clients that read such files by themselves have sent passwords where nobody meant them to go: over credentials that the
caller gave, to the target of a redirect, or to another host than the one they looked up, because they took the host out
of the URL by other rules than the ones they connect by (CVE-2024-47081: of `http://example.com:@evil.com/` the password
of example.com went to evil.com). Here the file is read only where the program says so; the core asks an auth object for
the origin of the call alone, and never where the call has an auth of its own; and the host is `URL.host`, the one that
is connected to.
"""

from __future__ import annotations

import netrc
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from plugwire import URL, InvalidURL, UsageError
from plugwire_plugins.basic_auth import BasicAuth
from plugwire_plugins.shared_value import SharedValue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plugwire.protocols import AsyncResponse, Call, Next, Request, Runtime

DEFAULT: Final = "default"
"""The name under which the standard library keeps the entry for all other hosts."""


_MORE = re.compile(r"[/?#@\\]")


class Login(NamedTuple):
    """An entry of a netrc file."""

    user: str
    password: str

    def __repr__(self) -> str:
        return "<Login ***>"


class NetrcAuth:
    """Basic authentication with what a netrc file has for the host: `Session(auth=NetrcAuth())`.

    A host gets the entry of its own name, without regard to case, internationalised names in either form, addresses in
    any spelling; the port does not count, nor http or https. A host without an entry, and a request that has an
    Authorization field already, go out as they are. The file is read once in a session, before its first request.

    Without a path it is the one that the variable NETRC names, or else `~/.netrc`. That one may be missing: then there
    are no entries; and nobody but its owner, the user, may have access to it, as the standard library checks. One that
    is named must be there.

    Args:
        path: of the file.
        use_default: give the entry "default" to all hosts without one of their own. Each server that the session talks
            to then gets that password.

    Raises:
        UsageError: of a call: the file is missing, cannot be read, is not in netrc's form, or others have access to it;
            or an entry cannot be sent by Basic. No message shows what is in it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, use_default: bool = False) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise UsageError(f"NetrcAuth(path={type(path).__name__}): a path, or None")
        self._path = path
        self._use_default = use_default

    def __repr__(self) -> str:
        return "<NetrcAuth>" if self._path is None else f"<NetrcAuth {os.fspath(self._path)}>"

    async def around_send(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Add the Authorization field, if there is an entry for the host and none yet."""
        if "authorization" in request.headers:
            return await call_next(request)
        kept = call.session.state(self, _make_state)

        async def read() -> Mapping[str, Login]:
            return await call.runtime.run_blocking(read_netrc, self._path)

        logins = await kept.get(call, lambda _: True, read)
        login = logins.get(request.url.host)
        if login is None and self._use_default:
            login = logins.get("")
        if login is None:
            return await call_next(request)
        return await BasicAuth(*login).around_send(request, call_next, call)


def _make_state(runtime: Runtime) -> SharedValue[Mapping[str, Login]]:
    return SharedValue(runtime)


def read_netrc(path: str | os.PathLike[str] | None) -> Mapping[str, Login]:
    """The entries of the file by host, as URLs have it; "": the one for all others. See `NetrcAuth` for the path, and
    for what is raised."""
    named = path or os.environ.get("NETRC") or None
    try:
        found = netrc.netrc(os.path.expanduser(named) if named is not None else None)
    except FileNotFoundError:
        if named is None:
            return {}
        raise UsageError(f"there is no netrc file {os.fspath(named)}") from None
    except netrc.NetrcParseError as error:
        # With a line it quotes what stands there, which may be a password; without one it is about permissions.
        what = str(error.msg) if error.lineno is None else f"it is not in netrc's form (line {error.lineno})"
        raise UsageError(f"the netrc file {_shown(named)} is not used: {what}") from None
    except OSError as error:
        raise UsageError(f"the netrc file {_shown(named)} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the netrc file {_shown(named)} is no text") from None
    logins: dict[str, Login] = {}
    for name, (user, _, password) in found.hosts.items():
        host = "" if name == DEFAULT else host_of(name)
        if host is not None:
            logins[host] = Login(user, password)
    return logins


def host_of(name: str) -> str | None:
    """The host that an entry is for, as `URL.host` spells it; None if the name is anything else than a host."""
    if _MORE.search(name):
        return None
    if ":" in name:  # an address of IPv6, if anything
        name = f"[{name.removeprefix('[').removesuffix(']')}]"
    try:
        return URL(f"https://{name}/").host
    except InvalidURL:
        return None


def _shown(named: str | os.PathLike[str] | None) -> str:
    return "~/.netrc" if named is None else os.fspath(named)
