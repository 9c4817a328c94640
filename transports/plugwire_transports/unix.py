"""The dialler "unix": a Unix socket in place of TCP.

Which socket it is, is said by the URL, by an option, or once for all:

    session.get("http+unix://%2Frun%2Fdocker.sock/v1.43/info")     # the host is the path, percent-encoded
    session.get("http://docker/info", options={"path": "/run/docker.sock"})
    Session(transports=[Unix("/run/docker.sock")])

In the first form Host and TLS name "localhost", since a path is no host; in the others they have the URL's host.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from plugwire.errors import UsageError
from plugwire.events import Connect

if TYPE_CHECKING:
    from plugwire.protocols import Connecting, Route, Stream

SUN_PATH: Final = 108 if sys.platform == "linux" else 104
"""Bytes of a socket's path that the system takes; a NUL after it is one of them (unix(7))."""


class Unix:
    """Unix sockets: `Session(transports=[Unix("/run/docker.sock")])` sends every request there; the option `path`, on
    the session or a call, those that have it; and URLs of the schemes http+unix and https+unix name it themselves.

    Args:
        path: the socket for all routes; None: only for routes that bring their own.

    A path is absolute, as the pool takes it for the address and a program may change its directory, or begins with a
    NUL (`%00name` in a URL): then it is a name in Linux's abstract namespace.

    Raises:
        UsageError: the path is none that the system can take. (Of a route's, `refuse` says it.)
    """

    name = "unix"
    honours = frozenset({"path"})

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = os.fspath(path) if path is not None else None
        if self.path is not None and (reason := why_not(self.path)):
            raise UsageError(f"Unix({self.path!r}): {reason}")

    def refuse(self, route: Route) -> str | None:
        """Takes routes that have a path, or all if it has one itself."""
        if route.proxy is not None:
            return "the route has a proxy"
        if route.path is None:
            return "the route has no path" if self.path is None else None
        if route.origin.socket_path is not None and route.origin.port is not None:
            return f"the URL has a port ({route.origin.port}), and Unix sockets have none"
        return why_not(route.path)

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        """A connected stream."""
        path = route.path or self.path or ""
        call = connecting.call
        with call.step(Connect, address=path):
            return await connecting.runtime.dial_unix(path, connecting.deadline.at, scope=connecting.scope)


def why_not(path: object) -> str | None:
    """Why this cannot be the path of a socket, in words; None if it can."""
    if not isinstance(path, str):
        return f"the socket's path is a str, not {type(path).__name__}"
    if not path or path == "\0":
        return "the socket's path is empty"
    is_abstract = path[0] == "\0"
    if is_abstract and sys.platform != "linux":
        return "abstract sockets are Linux's"
    if not is_abstract and path[0] != "/":
        return f"the socket's path {path!r} is not absolute; in a URL write %2F for its slashes"
    if "\0" in path[1:] and not is_abstract:
        # The system would take what stands before it for the whole.
        return "the socket's path has a NUL in it"
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError:
        return "the socket's path is no file name"
    most = SUN_PATH if is_abstract else SUN_PATH - 1
    return f"the socket's path has {size} bytes, and the system takes {most}" if size > most else None
