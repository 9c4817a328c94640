"""Sessions of earlier connections, offered to the next one over the same route (RFC 8446, 2.2; RFC 5077).

A resumed handshake proves nothing anew: the certificate was checked when the session was made. So a session is only
offered over an equal `Route`, which has everything that decides trust in it (host, port, proxy, the whole `TLSConfig`,
the versions), and only with the very context that made it. Each is offered once (RFC 8446, C.4: who sees the same
ticket twice can link the two connections); the resumed connection brings a new one.

Reading a session out of OpenSSL and giving it to a connection costs about 150 us each, as much as resuming saves this
side (it saves the server its signature, and TLS 1.2 a round trip). So the finished `SSLObject` itself is kept, and
asked for its session only when somebody needs it. By then the tickets have come, which in TLS 1.3 follow the handshake.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from plugwire.protocols import Route

MAX_ROUTES = 64
MAX_PER_ROUTE = 4


class Sessions:
    """A bounded store, least recently used routes first out. Threads may share it.

    Finalisers close streams too, wherever the collector runs, be it inside of a step of this store, or of an HTTP/2
    connection that another thread needs to go on. So `keep` takes no lock; `take` sorts in what has come.
    """

    def __init__(self) -> None:
        self._came: deque[tuple[Route, ssl.SSLObject]] = deque(maxlen=MAX_ROUTES * MAX_PER_ROUTE)
        self._finished: OrderedDict[Route, list[ssl.SSLObject]] = OrderedDict()
        self._lock = Lock()  # of `take`

    def keep(self, route: Route, tls: ssl.SSLObject) -> None:
        """`tls` is over, in order, and nobody will use it any more."""
        self._came.append((route, tls))

    def take(self, route: Route, context: ssl.SSLContext) -> ssl.SSLSession | None:
        """The newest session for the route that can be resumed, and forget it; None if there is none."""
        while True:
            with self._lock:
                self._sort_in()
                finished = self._finished.get(route)
                if not finished:
                    return None
                tls = finished.pop()
                if not finished:
                    del self._finished[route]
            # Another context: a file of the configuration was replaced, so trust is decided anew.
            if tls.context is context:
                session = tls.session
                # TLS 1.2 also resumes by the server's own memory: then there is an id and no ticket.
                if session is not None and (session.has_ticket or (tls.version() == "TLSv1.2" and session.id)):
                    return session

    def _sort_in(self) -> None:
        came = self._came
        while came:
            route, tls = came.popleft()
            finished = self._finished.setdefault(route, [])
            self._finished.move_to_end(route)
            finished.append(tls)
            del finished[:-MAX_PER_ROUTE]
            if len(self._finished) > MAX_ROUTES:
                self._finished.popitem(last=False)
