"""Cookies: what responses set goes into the session's jar, and out again with the requests that it is for.

The plugin stands at stage `auth`, inside of what answers challenges: so each hop of a redirect, each retry and each
answer to a 401 has its cookies decided anew, for the URL that it really goes to, and every response on the way may set
some, an error and the 401 itself too. Informational ones do not come this far, and what a 101 says is not taken: it
belongs to another protocol already.

A Cookie field that the caller wrote, for a call or for the session, goes out as it is, and the jar's cookies are put
behind it in the same line, but for those whose name stands there already: what the caller says of a name counts.

A request for which there are none pays a question on the way down and one on the way up. In a session that has never
seen a cookie there is no jar either: it is made for the first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugwire import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.protocols import AsyncResponse, Call, Cookie, Next, Request


class Cookies:
    """Keep cookies. A session has it by default, and its cookies are in `session.cookies`."""

    name = "cookies"

    def __repr__(self) -> str:
        return "Cookies()"

    def has_cookies(self, request: Request, call: Call) -> bool:
        """True if there may be one to send."""
        session = call.session
        return session.has_jar and session.cookies.knows(request.url)

    @hookimpl(stage="auth", if_request=has_cookies, if_response="set-cookie")
    async def around_send(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Send what is for this URL, keep what comes."""
        jar = call.session.cookies
        cookies = jar.cookies_for(request.url)
        if cookies:
            request.headers["Cookie"] = joined(request.headers.get("cookie", ""), cookies)
        response = await call_next(request)
        lines = response.headers.get_list("set-cookie")
        if lines and response.status_code >= 200:
            jar.receive(lines, request.url)
        return response


def joined(own: str, cookies: Sequence[Cookie]) -> str:
    """The Cookie field's value (RFC 6265bis, 5.8.3): the caller's own pairs, then the jar's that they do not name."""
    named = {pair.partition("=")[0].strip(" \t") for pair in own.split(";")} if own else ()
    pairs = [
        f"{cookie.name}={cookie.value}" if cookie.name else cookie.value
        for cookie in cookies
        if cookie.name not in named
    ]
    return "; ".join([own.rstrip("; \t"), *pairs] if own else pairs)
