"""The dialler "http-proxy": HTTP proxies, reached by http:// or https://.

What a proxy is asked for depends on the route (`Route.is_forwarded`):

    http over HTTP/1.1   nothing. The stream ends at the proxy, and says so (FORWARDING_PROXY): the speaker "http/1.1"
                         then writes its requests in absolute-form, see `forwarded`
    all else             a tunnel, by CONNECT (RFC 9110, 9.3.6). TLS, HTTP/2 and WebSocket then go through it as if
                         there were no proxy, with the origin's own settings

TLS to an https proxy is made here, by the proxy's own settings; what lies in it is none of its business, so such a
stream does not tell of it. Everything is dialled by the transports below: what they honour keeps its meaning.

A CONNECT is a request like any other, on an HTTP/1.1 connection of its own: strict parsing, limits and interim
responses are those of every response. In the place of the call stands one of its own, whose only deadline is that of
connecting. As long as the proxy keeps the connection open, the next step of an authentication goes over the same one,
which NTLM needs; otherwise a new one is dialled.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from plugwire import AsyncResponse, Error, Headers, ProxyError, Request, TimedOut, Timeout
from plugwire.events import Tunnel
from plugwire.protocols import EVERYTHING, FORWARDING_PROXY, TLS, Call
from plugwire_transports.http11 import HTTP11Connection, tell_nobody
from plugwire_transports.prefixed import PrefixedStream
from plugwire_transports.proxy_auth import authenticated

if TYPE_CHECKING:
    from plugwire import Proxy
    from plugwire.protocols import Connecting, Extra, Route, Stream

T = TypeVar("T")

MAX_REFUSAL_BYTES: Final = 64 * 1024
"""What is kept of the content of a proxy's refusal; the rest is not read."""

_NO_BUDGETS: Final = Timeout(connect=None, read=None, write=None)
_AUTH_SCHEME: Final = re.compile(r"[A-Za-z0-9\-]{1,40}")


class HTTPProxy:
    """HTTP proxies: `proxy="http://proxy.example:3128"`, or https://, on the session, a call, or from the environment.

    It obeys what the transports below it do. To put one of your own below it, list it first:
    `Session(transports=[HTTPProxy(), Throttled()])`.
    """

    name = "http-proxy"
    honours = frozenset({EVERYTHING})

    def refuse(self, route: Route) -> str | None:
        """Takes routes with a port that have a proxy of http:// or https://, and no socket path."""
        if route.proxy is None:
            return "the route has no proxy"
        if route.proxy.is_socks:
            return "the proxy speaks SOCKS"
        if route.path is not None:
            return "the route has a socket path"
        return None if route.port else f"{route.scheme} has no port"

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        """A stream to the proxy, or through it to the origin.

        Raises:
            ProxyError: the proxy gave no tunnel.
            ConnectError, ResolveError, TLSError, CertificateError: the proxy could not be reached.
        """
        stream = await _reach(route, connecting)
        if route.is_forwarded:
            return HopStream(b"", stream, forwards=True)
        asking = _Asking(route, connecting, stream)
        try:
            with connecting.call.step(Tunnel, proxy=asking.proxy.url, target=asking.target):
                return await asking.tunnel()
        except BaseException:
            asking.close()
            raise


async def _reach(route: Route, connecting: Connecting) -> Stream:
    """A stream to the proxy itself."""
    hop = route.to_proxy()
    stream = await connecting.dial(hop)
    return await connecting.secure(stream, hop) if hop.is_secure else stream


class HopStream(PrefixedStream):
    """A stream that goes to the proxy or through it. TLS below is the proxy's, and says nothing of the origin."""

    def __init__(self, prefix: bytes, stream: Stream, *, forwards: bool = False) -> None:
        super().__init__(prefix, stream)
        self._forwards = forwards

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        if key is TLS:
            return default
        if key is FORWARDING_PROXY and self._forwards:
            return True  # type: ignore[return-value]  # the key's own type, which a checker does not connect with T
        return super().extra(key, default)


class _Asking:
    """The conversation in which a proxy is asked for one tunnel."""

    def __init__(self, route: Route, connecting: Connecting, stream: Stream) -> None:
        assert route.proxy is not None
        self.proxy: Proxy = route.proxy
        host = f"[{route.host}]" if ":" in route.host else route.host
        self.target = f"{host}:{route.port}"
        self._route = route
        self._connecting = connecting
        call = connecting.call
        self._call = Call(call.session, call.runtime, call.origin, _NO_BUDGETS, parent=connecting.deadline)
        # No pool is to hear of its connections.
        self._alone = connecting.for_call(self._call)
        self._alone.changed = tell_nobody
        self._connection: HTTP11Connection | None = HTTP11Connection(stream, self._alone)
        self._is_aborted = False

    async def tunnel(self) -> Stream:
        """The stream to the origin, once the proxy has agreed."""
        request = Request("CONNECT", self.proxy.url, headers=[("Host", self.target), *self.proxy.headers])
        request.target = self.target
        auth = self.proxy.authenticator()
        with self._connecting.call.waiting(self):
            try:
                if auth is None:
                    response = await self._send(request)
                else:
                    response = await authenticated(auth, request, self.proxy, self._send, self._connecting.call)
                if 200 <= response.status_code < 300:
                    stream = response.take_stream()
                    return HopStream(b"", stream) if stream.extra(TLS) is not None else stream
                answer = await _kept(response)
            except Error as error:
                if error.request is None or error.request.method != "CONNECT":
                    raise  # of the way to the proxy, or the auth object's own
                raise self._blamed(error) from error
        raise self._refused(answer)

    async def _send(self, request: Request) -> AsyncResponse:
        connection = self._connection
        if connection is None or connection.is_closed:
            self._connection = None
            stream = await _reach(self._route, self._connecting)
            connection = self._connection = HTTP11Connection(stream, self._alone)
            if self._is_aborted:
                connection.abort()
        return await connection.send(request, self._call)

    def _refused(self, response: AsyncResponse) -> ProxyError:
        """The error for an answer that is none of success."""
        text = f"the proxy {self.proxy.url} refused a tunnel to {self.target}: {response.status_code} {response.reason}"
        if response.status_code == 407:
            schemes = [_AUTH_SCHEME.match(line) for line in response.headers.get_list("proxy-authenticate")]
            wanted = ", ".join(scheme[0] for scheme in schemes[:8] if scheme) or "nothing that it names"
            is_given = self.proxy.auth is not None
            why = "does not accept the credentials given" if is_given else "none are given: Proxy(auth=)"
            text += f" (it wants credentials for {wanted}, and {why})"
        return ProxyError(text, response)

    def _blamed(self, error: Error) -> Error:
        """What the wire says of a CONNECT, said of the call: no byte of its request was sent."""
        if isinstance(error, TimedOut):
            return self._connecting.deadline.error("dial")
        return ProxyError(f"the proxy {self.proxy.url} gave no tunnel to {self.target}: {error}").at("dial")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def abort(self) -> None:
        """For `call.waiting`."""
        self._is_aborted = True
        if self._connection is not None:
            self._connection.abort()


async def _kept(response: AsyncResponse) -> AsyncResponse:
    """An answer with as much of its content as is kept, to be looked at when its connection is gone."""
    content = b""
    try:
        while (left := MAX_REFUSAL_BYTES - len(content)) > 0 and (data := await response.read(left)):
            content += data
    except Error:
        pass  # what came is worth more than the reason why no more did
    finally:
        response.abort()
    headers = Headers(response.headers)
    return AsyncResponse(
        response.status_code, headers=headers, content=content[:MAX_REFUSAL_BYTES], reason=response.reason
    )
