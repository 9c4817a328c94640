"""Redirects: go where a response says, by the rules of RFC 9110, 15.4, and take along only what is meant for there.

How it works. `Redirects` stands at stage `redirect`, around retries: each hop is tried again by itself, and one
deadline spans them all. It is entered by responses that redirect only. Two pure functions decide: `target_of`, which
URL a Location means, and `redirected`, which makes the next request of the last one. The mechanism asks them, tells the
hop as a `plugwire.events.Redirect`, closes its response, and sends the next request.

What becomes of the request:

    status            method                              content
    301, 302          POST becomes GET; others stay       dropped where the method changes
    303               all but HEAD become GET             the same
    307, 308          stays                               sent again

Rules that hold, and what breaks without them:

1. *A secret goes to its own origin.* At each hop that leaves the origin (`is_bound`), the fields of `BOUND` and those
   that the caller or the session named in `Headers.secret` are dropped, every line of them, and do not come back,
   wherever the chain leads; what is for the proxy is dropped at the step up to https, too. The call's auth and the
   session's secret headers are added to each request by the core, for their origin only, so a chain that comes home is
   authorized again. Otherwise a site that anybody may redirect to reads the token.
2. *A peer gives no credentials.* User and password in a Location are neither used nor kept. Otherwise a site could log
   a user in as somebody else, or put a secret of its choice where URLs are shown.
3. *Never down.* From https, and from a socket of this machine, to http only if that was asked for. Otherwise whoever
   stands on the way reads what the caller meant to be secret.
4. *A peer chooses no transport.* http and https are followed, other schemes only within one and the same origin.
   Otherwise a site could make the client open files, sockets and whatever else is installed.
5. *Content is sent again as a whole, or not at all*: where it can be sent only once, the call fails, and the caller
   learns why. Otherwise half a file is stored.
6. *What is dropped is closed*: read to its end if that is little, so that the connection can be used again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from plugwire import (
    Error,
    InvalidURL,
    NotReplayable,
    ProtocolError,
    ResponseError,
    TooManyRedirects,
    UnsafeRedirect,
    UsageError,
    hookimpl,
)
from plugwire.events import Redirect
from plugwire.protocols import EMPTY
from plugwire.url import is_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from plugwire import URL, AsyncResponse, Headers, Request
    from plugwire.protocols import Call, Next

STATUSES: Final = frozenset({301, 302, 303, 307, 308})
"""Those that mean: go there. 300 has a choice to offer, 304 speaks of a cache, 305 and 306 are not in use any more."""

SCHEMES: Final = frozenset({"http", "https"})
"""Where a redirect may lead, whoever sends it."""

BOUND: Final = frozenset({"authorization", "cookie", "host", "proxy-authorization"})
"""Fields that speak to one origin, however they came into the request: credentials, and the name that the caller gave a
server, which another server would take for a site of its own."""

OF_CONTENT: Final = frozenset(
    {
        "digest", "repr-digest", "last-modified",  # of the representation that was sent (RFC 3230, RFC 9530, RFC 9110)
        "transfer-encoding", "trailer",  # how it was framed
        "expect",  # asks whether to send it
    }
)  # fmt: skip
"""Fields that mean nothing without the content, beside all that begin with "content-": type, length, encoding,
language, location, range, digest, ... (RFC 9110, 15.4, has a list that is not meant to be complete)."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class RedirectOptions:
    """The option that `Redirects` adds to a session and to each call: `options={"allow_insecure_redirects": True}`.

    Attributes:
        allow_insecure_redirects: True: follow from https to http, too; None: as the plugin says.
    """

    allow_insecure_redirects: bool | None = None


def target_of(url: URL, location: str) -> URL:
    """The URL that a Location means in a response from `url` (RFC 9110, 10.2.2). It never has user or password, and has
    the fragment of `url` if it brings none.

    Octets beyond ASCII, which may not be there but are, are escaped as they came: so UTF-8 is read as servers mean it,
    in hosts too, and what is no UTF-8 comes back to the server as it was. So browsers do.

    Raises:
        UnsafeRedirect: another scheme than http and https, but for that of `url` and its origin.
        ProtocolError: it is no URL.
    """
    scheme = _SCHEME.match(location)
    if scheme is not None and scheme[1].lower() not in SCHEMES | {url.scheme}:
        raise _strange(scheme[1].lower())
    try:
        target = url.join(_NOT_ASCII.sub(lambda octet: f"%{ord(octet[0]):02X}", location)).without_userinfo()
    except InvalidURL as error:
        raise ProtocolError(f"a redirect whose Location is no URL: {error}") from error
    if target.scheme not in SCHEMES and target.origin != url.origin:
        raise _strange(target.scheme)
    if target.fragment is None and url.fragment is not None:
        target = target.copy_with(fragment=url.fragment)
    return target


def _strange(scheme: str) -> UnsafeRedirect:
    # A scheme is a word, unless the peer makes it a book.
    return UnsafeRedirect(f"a redirect to the scheme {scheme[:40]!r}: only http and https are followed")


def redirected(request: Request, status: int, target: URL, secret: Collection[str] = ()) -> Request:
    """The request that follows on `request` after a redirect; `request` stays as it is. `secret` names further fields
    (in lower case) that are for one origin."""
    following = request.copy()
    following.url = target
    following.target = None
    method = request.method
    if (status in (301, 302) and method == "POST") or (status == 303 and method not in ("GET", "HEAD")):
        following.method = "GET"
        following.body = EMPTY
        following.trailers = following.expect_continue = None
        _drop(following.headers, lambda name: name.startswith("content-") or name in OF_CONTENT)
    if not is_bound(request.origin, target.origin):
        bound = BOUND | request.headers.secret | frozenset(secret)
        _drop(following.headers, bound.__contains__)
    elif request.origin != target.origin:
        # The step up to https: it goes by another proxy, or by none, and then the origin would read it.
        following.headers.pop("Proxy-Authorization", None)
    return following


def _drop(headers: Headers, is_dropped: Callable[[str], bool]) -> None:
    for name in [name for name in headers if is_dropped(name.lower())]:
        del headers[name]


class Redirects:
    """Follow redirects.

    A session has it by default, and how far it goes is said by `follow_redirects=` (True) and `max_redirects=` (20), of
    the session or of a call. `Session(plugins=[Redirects(...)])` takes its place.

    - `follow_redirects=False`: a redirect is a response like any other. So is, always, one without Location or with an
      empty one, and an answer to CONNECT.
    - A redirect beyond `max_redirects` raises `TooManyRedirects`; with `max_redirects=0` the first one does.
    - `response.history` has the redirects that were followed, oldest first; `response.url` is where they led.
    - Options: see `RedirectOptions`. Each redirect that is followed is a `plugwire.events.Redirect` event.

    Args:
        max_redirects: never more than so many, whatever the session or a call says; None: as these say.
        allow_insecure: follow from https to http, unless a call's or the session's options say otherwise.

    Raises:
        UsageError: a value that means nothing.

    A call raises, with the response closed, and phase "head":
        TooManyRedirects, UnsafeRedirect: `error.response` is the redirect.
        ProtocolError: a Location that is no URL, or several that differ.
        NotReplayable: the redirect asks for the content once more, and it can be sent only once.
    """

    name = "redirects"
    option_types = (RedirectOptions,)

    def __init__(self, max_redirects: int | None = None, *, allow_insecure: bool = False) -> None:
        if max_redirects is not None and (
            not isinstance(max_redirects, int) or isinstance(max_redirects, bool) or max_redirects < 0
        ):
            raise UsageError(f"max_redirects={max_redirects!r}: a whole number from 0, or None")
        if not isinstance(allow_insecure, bool):
            raise UsageError(f"allow_insecure={allow_insecure!r}: True or False")
        self.max_redirects = max_redirects
        self.allow_insecure = allow_insecure

    @hookimpl(stage="redirect", if_response=STATUSES)
    async def around_call(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Send the next request as long as the response is a redirect; see the module."""
        hops: list[AsyncResponse] = []
        followed = 0
        while True:
            try:
                response = await call_next(request)
            except Error as error:
                if error.request is None:  # who could not even dial does not say what for
                    error.request = request
                raise
            if hops:
                response.history = [*hops, *response.history]
            try:
                following = self._following(request, response, call, followed)
            except Error as error:
                if isinstance(error, ResponseError):
                    error.response = response
                error.at("head", request=response.request or request, sent=True, connection=response.connection)
                await response.close()
                raise
            except BaseException:  # an interrupt
                response.abort()
                raise
            if following is None:
                return response
            call.tell(Redirect, status=response.status_code, url=request.url, target=following.url)
            await response.close()
            hops = [*response.history, response]
            request = following
            followed += 1

    def _following(self, request: Request, response: AsyncResponse, call: Call, followed: int) -> Request | None:
        """The request that the response asks for; None if it is the last one."""
        limit = self._limit(call)
        if limit is None or request.method == "CONNECT" or response.status_code not in STATUSES:
            return None
        locations = response.headers.get_list("location")
        if len(set(locations)) > 1:
            raise ProtocolError(f"a redirect with {len(locations)} Location fields that differ")
        if not any(locations):
            return None
        if followed >= limit:
            raise TooManyRedirects(f"more than max_redirects={limit}; the last one from {request.origin}")
        target = target_of(request.url, locations[0])
        if target.scheme == "http" != request.url.scheme and not self._allows_insecure(call):
            raise UnsafeRedirect(
                f"a redirect from {request.origin} to {target.origin}, which is not encrypted: it is followed only "
                'with options={"allow_insecure_redirects": True}'
            )
        following = redirected(request, response.status_code, target, call.session.headers.secret)
        if not following.body.is_replayable:
            raise NotReplayable(
                f"a redirect to {target.origin} by {response.status_code}, which asks for the request's content again, "
                "and that can be sent only once; give it as bytes, a file that seeks, a list or a callable"
            )
        return following

    def _limit(self, call: Call) -> int | None:
        """How many redirects are followed; None: one is given as it is."""
        if call.max_redirects is None or self.max_redirects is None:
            return call.max_redirects
        return min(call.max_redirects, self.max_redirects)

    def _allows_insecure(self, call: Call) -> bool:
        said = call.options(RedirectOptions).allow_insecure_redirects
        return self.allow_insecure if said is None else said

    def describe(self, call: Call) -> str:
        """For `session.explain()`."""
        limit = self._limit(call)
        if limit is None:
            return "Redirects off"
        return f"Redirects max={limit}{', insecure ones too' if self._allows_insecure(call) else ''}"
