"""What goes over the wire, in the standard logging module: requests, responses, attempts, connections, with times and
sizes. One line for each thing, as logger "plugwire.wire" at level DEBUG:

    call 1 attempt 1 > GET https://h/x, connection 3 (HTTP/1.1, reused), 0 bytes, Host: h, Accept: */*
    call 1 attempt 1 < 503 Service Unavailable (HTTP/1.1) after 2.1 ms, Retry-After: 1, Content-Length: 5
    call 1 attempt 1 < 5 bytes of content in 0.1 ms
    call 1: retry in 1.2 s: status 503

How it works. `WireLog` observes events and turns each into a line and into fields of the log record (`extra=`), all
named http_...: http_event and http_edge say what it is; http_call, http_attempt, http_method, http_url, http_version,
http_status, http_reason, http_headers, http_connection, http_seconds, http_bytes, http_error and others are there where
they apply.

An event that somebody observes must be built, whether it is shown or not: for all of them together about as long as a
small request takes. So a logger that is off when a session is made is taken to stay off, and costs the session nothing.
If it turns out to be on at the first request, a warning says so. `WireLog(switchable=True)` observes in any case.

What is never shown: values of fields whose names are secret in the `Headers` itself or listed here, the userinfo of
URLs, their fragment, and values of query parameters whose names are listed here, also in fields such as Location and in
the text of errors. Nobody can know what is secret in a path or in content: samples of content are off unless asked for.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from plugwire import UsageError, hookimpl
from plugwire.events import (
    TLS,
    Attempt,
    CallStep,
    Close,
    Connect,
    Edge,
    Event,
    Head,
    Informational,
    Open,
    PoolWait,
    Receive,
    Redirect,
    Resolve,
    Retry,
    Send,
    Step,
    Tunnel,
)
from plugwire.protocols import Discarded, WatchedBody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from plugwire import URL, AsyncResponse, Headers
    from plugwire.protocols import Body, Call, ConnectionInfo

SECRET_HEADERS: Final = frozenset(
    {
        "api-key", "authorization", "cookie", "private-token", "proxy-authorization", "set-cookie",
        "x-amz-security-token", "x-api-key", "x-auth-token", "x-csrf-token", "x-goog-api-key", "x-vault-token",
        "x-xsrf-token",
    }
)  # fmt: skip
"""Fields whose values are never shown, beside those that the `Headers` itself calls secret."""

SECRET_PARAMS: Final = frozenset(
    {
        "access_token", "api_key", "apikey", "auth", "client_secret", "code", "id_token", "jwt", "key", "passwd",
        "password", "pwd", "refresh_token", "secret", "session", "sessionid", "sig", "signature", "state", "token",
        "x-amz-credential", "x-amz-security-token", "x-amz-signature", "x-goog-credential", "x-goog-signature",
    }
)  # fmt: skip
"""Query parameters whose values are never shown: credentials, and the signatures that make a URL one."""

HIDDEN: Final = "***"

EVENTS: Final[tuple[type[Event], ...]] = (
    CallStep, Attempt, Redirect, Retry, PoolWait, Resolve, Connect, Tunnel, TLS, Send, Informational, Head, Receive,
    Open, Close,
)  # fmt: skip

Fields = dict[str, Any]


class WireLog:
    """Log what goes over the wire: `Session(plugins=[WireLog()])`, or "wirelog".

    Args:
        logger: a logger or its name.
        level: of all lines.
        events: the classes of `plugwire.events` that become lines; events of others are never built.
            `(CallStep, Retry)` gives a line for each call and retry.
        switchable: the logger's level may be changed while sessions live; it then costs something also while it is off.
        secret_headers: further fields whose values are not shown.
        secret_params: further query parameters whose values are not shown.
        sample_request: bytes of each request's content to show, if it lies in memory. They may hold secrets.
        sample_response: bytes of each response's content to show, as received. They may hold secrets.

    Raises:
        UsageError: an event that has no line, or a negative number of bytes.
    """

    name = "wirelog"

    def __init__(
        self,
        logger: logging.Logger | str = "plugwire.wire",
        *,
        level: int = logging.DEBUG,
        events: Iterable[type[Event]] = EVENTS,
        switchable: bool = False,
        secret_headers: Iterable[str] = (),
        secret_params: Iterable[str] = (),
        sample_request: int = 0,
        sample_response: int = 0,
    ) -> None:
        self.logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self.level = level
        self._events = tuple(events)
        self._is_switchable = switchable
        self._was_off = False  # when a session asked last
        for kind in self._events:
            if kind not in EVENTS:
                raise UsageError(f"events: {kind!r} has no line; {', '.join(known.__name__ for known in EVENTS)} have")
        for name, size in (("sample_request", sample_request), ("sample_response", sample_response)):
            if not isinstance(size, int) or size < 0:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all checked
                raise UsageError(f"{name}={size!r}: a number of bytes")
        self._secrets = Secrets({*SECRET_HEADERS, *secret_headers}, {*SECRET_PARAMS, *secret_params})
        self._sample_request = sample_request
        if sample_response:
            self.around_read = self._sampler(sample_response)  # a layer that is not there costs nothing
        self._lines: dict[type[Event], Callable[[Any, Fields], str | None]] = {
            CallStep: self._call_step,
            Attempt: self._attempt,
            Redirect: self._redirect,
            Retry: self._retry,
            PoolWait: self._pool_wait,
            Resolve: self._resolve,
            Connect: self._connect,
            Tunnel: self._tunnel,
            TLS: self._tls,
            Send: self._send,
            Informational: self._informational,
            Head: self._head,
            Receive: self._receive,
            Open: self._open,
            Close: self._close,
        }

    def __repr__(self) -> str:
        return f"WireLog({self.logger.name!r}, level={logging.getLevelName(self.level)})"

    @property
    def events(self) -> tuple[type[Event], ...]:
        """What a session that is made now should build: nothing, if nobody would see it."""
        self._was_off = not (self._is_switchable or self.logger.isEnabledFor(self.level))
        return () if self._was_off else self._events

    @hookimpl
    def observe(self, event: Event) -> None:
        """Log the event, if it makes a line."""
        if not self.logger.isEnabledFor(self.level):
            return
        fields: Fields = {"http_event": type(event).__name__}
        if event.call is not None:
            fields["http_call"] = event.call.id
            if event.attempt:
                fields["http_attempt"] = event.attempt
        if isinstance(event, Step):
            fields["http_edge"] = event.edge.value
            if event.edge is Edge.STARTED:
                _remember(event)
            else:
                fields["http_seconds"] = _seconds(event)
            if event.error is not None:
                fields["http_error"] = self._error(event.error)
        text = self._lines[type(event)](event, fields)
        if text is not None:
            self.logger.log(self.level, f"{_where(event)}{text}", extra=fields)

    @hookimpl
    async def session_opened(self) -> None:
        """Say that nothing will be seen, rather than show nothing."""
        if self._was_off and self.logger.isEnabledFor(self.level):
            self.logger.warning(
                "wirelog shows nothing of this session: the logger was off when the session was made; set up logging "
                "before, or use WireLog(switchable=True)"
            )

    def _sampler(self, limit: int) -> Callable[[AsyncResponse, Body, Call], Body]:
        @hookimpl(stage="attempt")
        def around_read(response: AsyncResponse, body: Body, call: Call) -> Body:
            return _Sampled(body, limit, call, self._sampled) if self.logger.isEnabledFor(self.level) else body

        return around_read

    def _sampled(self, sample: bytes, size: int, call: Call, attempt: int) -> None:
        if not size:
            return
        shown = _shown(sample, size)
        fields: Fields = {"http_event": "Sample", "http_call": call.id, "http_attempt": attempt}
        fields |= {"http_bytes": size, "http_sample": shown}
        self.logger.log(self.level, f"call {call.id} attempt {attempt} < content {shown}", extra=fields)

    # -- one line each: fills in its fields, returns the text, or None where there is nothing to say

    def _call_step(self, event: CallStep, fields: Fields) -> str | None:
        fields |= {"http_method": event.request.method, "http_url": self._secrets.url(event.request.url)}
        if event.edge is Edge.STARTED:
            return None
        attempts = f"{event.attempt} attempt{'s' if event.attempt != 1 else ''}"
        asked = f"{fields['http_method']} {fields['http_url']}"
        return f": {asked}: {self._end(event, event.status, fields)}, {attempts}"

    def _attempt(self, event: Attempt, fields: Fields) -> str | None:
        fields |= {"http_method": event.request.method, "http_url": self._secrets.url(event.request.url)}
        return None if event.edge is Edge.STARTED else f": {self._end(event, event.status, fields)}"

    def _end(self, event: Step, status: int, fields: Fields) -> str:
        if event.edge is Edge.FAILED:
            return f"failed{_after(fields, ' after')}: {fields.get('http_error')}"
        fields["http_status"] = status
        return f"{status}{_after(fields, ' after')}"

    def _send(self, event: Send, fields: Fields) -> str | None:
        if event.edge is not Edge.STARTED:
            return None  # its failure is the attempt's
        request, connection = event.request, event.connection
        size = request.body.length
        headers = self._secrets.headers(request.headers)
        fields |= {
            "http_method": request.method,
            "http_url": self._secrets.url(request.url),
            "http_headers": headers,
            "http_bytes": size,
            "http_connection": connection.id,
        }
        content = request.content
        sample = ""
        if self._sample_request and content:
            fields["http_sample"] = _shown(content[: self._sample_request], len(content))
            sample = f", content {fields['http_sample']}"
        length = "content of unknown length" if size is None else f"{size} bytes"
        return f" > {request.method} {fields['http_url']}, {_named(connection)}, {length}{_listed(headers)}{sample}"

    def _informational(self, event: Informational, fields: Fields) -> str:
        headers = self._secrets.headers(event.headers)
        fields |= {"http_status": event.status, "http_reason": event.reason, "http_headers": headers}
        return f" < {event.status} {event.reason}{_listed(headers)}"

    def _head(self, event: Head, fields: Fields) -> str:
        headers = self._secrets.headers(event.headers)
        fields |= {
            "http_status": event.status,
            "http_reason": event.reason,
            "http_headers": headers,
            "http_version": event.http_version,
            "http_seconds": _since(event, Attempt),
        }
        return f" < {event.status} {event.reason} ({event.http_version}){_after(fields, ' after')}{_listed(headers)}"

    def _receive(self, event: Receive, fields: Fields) -> str | None:
        if event.edge is Edge.STARTED:
            return None
        fields["http_bytes"] = event.size
        end = ""
        if event.edge is Edge.FAILED:
            is_early = isinstance(event.error, Discarded)
            end = ", then closed before its end" if is_early else f", then {fields['http_error']}"
        return f" < {event.size} bytes of content{_after(fields)}{end}"

    def _retry(self, event: Retry, fields: Fields) -> str:
        fields |= {"http_reason": event.reason, "http_delay": event.delay, "http_will_retry": event.will_retry}
        return f": retry in {event.delay:.3g} s: {event.reason}" if event.will_retry else f": no retry: {event.reason}"

    def _redirect(self, event: Redirect, fields: Fields) -> str:
        fields |= {"http_status": event.status, "http_url": self._secrets.url(event.url)}
        fields["http_target"] = self._secrets.url(event.target)
        return f": {event.status} redirects to {fields['http_target']}"

    def _pool_wait(self, event: PoolWait, fields: Fields) -> str | None:
        return self._setup(event, fields, f"waited for a connection to {event.route}")

    def _resolve(self, event: Resolve, fields: Fields) -> str | None:
        fields |= {"http_host": event.host, "http_addresses": [address.host for address in event.addresses]}
        found = f" as {', '.join(fields['http_addresses'])}" if event.addresses else ""
        return self._setup(event, fields, f"resolved {event.host}{found}")

    def _connect(self, event: Connect, fields: Fields) -> str | None:
        fields["http_address"] = str(event.address)
        return self._setup(event, fields, f"connected to {event.address}")

    def _tunnel(self, event: Tunnel, fields: Fields) -> str | None:
        proxy = self._secrets.text(event.proxy)
        fields |= {"http_proxy": proxy, "http_target": event.target}
        return self._setup(event, fields, f"tunnelled through {proxy} to {event.target}")

    def _tls(self, event: TLS, fields: Fields) -> str | None:
        fields["http_host"] = event.host
        info = event.info
        agreed = ""
        if info is not None:
            fields |= {"http_tls": info.version, "http_alpn": info.alpn}
            resumed = ", resumed" if info.resumed else ""
            agreed = f": {info.version}, {info.cipher}, {info.alpn or 'no ALPN'}{resumed}"
        return self._setup(event, fields, f"TLS with {event.host}{agreed}")

    def _setup(self, event: Step, fields: Fields, what: str) -> str | None:
        if event.edge is Edge.STARTED:
            return None
        failed = f", failed: {fields['http_error']}" if event.edge is Edge.FAILED else ""
        return f": {what}{_after(fields)}{failed}"

    def _open(self, event: Open, fields: Fields) -> str:
        return self._connection(event.connection, fields) + f" is open to {event.route}"

    def _close(self, event: Close, fields: Fields) -> str:
        fields["http_reason"] = event.reason
        return self._connection(event.connection, fields) + f" is closed: {event.reason}"

    @staticmethod
    def _connection(connection: ConnectionInfo, fields: Fields) -> str:
        fields |= {"http_connection": connection.id, "http_version": connection.protocol}
        fields["http_address"] = str(connection.peer_address) if connection.peer_address is not None else None
        return f"connection {connection.id} ({connection.protocol}, {fields['http_address']})"

    def _error(self, error: BaseException) -> str:
        return f"{type(error).__name__}: {self._secrets.text(str(error))}".removesuffix(": ")


class Secrets:
    """Takes out of what is shown what nobody must see. Names are compared without regard to case."""

    def __init__(self, headers: Iterable[str], params: Iterable[str]) -> None:
        self._headers = frozenset(name.lower() for name in headers)
        self._params = frozenset(name.lower() for name in params)

    def url(self, url: URL) -> str:
        """The URL without userinfo and fragment, and without the values of secret parameters."""
        query = url.query
        if query is None:
            return f"{url.origin}{url.path}"
        return f"{url.origin}{url.path}?{'&'.join(map(self._pair, query.split('&')))}"

    def _pair(self, pair: str) -> str:
        name, equals, _ = pair.partition("=")
        return f"{name}={HIDDEN}" if equals and unquote_plus(name).lower() in self._params else pair

    def headers(self, headers: Headers) -> list[tuple[str, str]]:
        """The field lines, without secret values, and without those of secret parameters in URLs (Location, Link)."""
        secret = self._headers | headers.secret
        return [
            (name, HIDDEN if name.lower() in secret else self._without_params(value)) for name, value in headers.items()
        ]

    def text(self, text: str) -> str:
        """A text that may quote URLs, such as an error's, in one line."""
        return self._without_params("; ".join(text.splitlines()))

    def _without_params(self, text: str) -> str:
        if "//" in text:
            text = _USERINFO.sub(f"//{HIDDEN}@", text)
        return _PARAM.sub(self._hidden, text) if "=" in text else text

    def _hidden(self, found: re.Match[str]) -> str:
        return f"{found[1]}={HIDDEN}" if unquote_plus(found[1][1:]).lower() in self._params else found[0]


_USERINFO: Final = re.compile(r"""//[^/?#\s"'<>@]*@""")
_PARAM: Final = re.compile(r"""([?&;][^=?&;#\s"'<>]+)=[^&#\s"'<>]+""")


class _Sampled(WatchedBody):
    """Keeps the first bytes that pass."""

    def __init__(self, inner: Body, limit: int, call: Call, ended: Callable[[bytes, int, Call, int], None]) -> None:
        super().__init__(inner)
        self._left = limit
        self._sample = bytearray()
        self._size = 0
        self._call = call
        self._attempt = call.attempt
        self._when_ended = ended

    def seen(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        if self._left:
            self._sample += data[: self._left]
            self._left -= min(self._left, len(data))

    def ended(self, error: BaseException | None) -> None:
        self._when_ended(bytes(self._sample), self._size, self._call, self._attempt)


class _Starts:
    """When the steps of a call began."""

    def __init__(self) -> None:
        self.times: dict[tuple[type[Event], int, object], float] = {}


def _key(event: Step) -> tuple[type[Event], int, object]:
    # Several addresses may be dialled at once; a call spans attempts; of the others one is under way in each attempt.
    subject = event.address if isinstance(event, Connect) else None
    return type(event), 0 if isinstance(event, CallStep) else event.attempt, subject


def _remember(event: Step) -> None:
    if event.call is not None:
        event.call.state(_Starts).times[_key(event)] = event.time


def _seconds(event: Step) -> float | None:
    """How long the step took; None if its begin was not seen."""
    if event.call is None:
        return None
    started = event.call.state(_Starts).times.get(_key(event))
    return event.time - started if started is not None else None


def _since(event: Event, kind: type[Event]) -> float | None:
    """How long after the begin of the attempt's step of this kind the event is."""
    if event.call is None:
        return None
    started = event.call.state(_Starts).times.get((kind, event.attempt, None))
    return event.time - started if started is not None else None


def _where(event: Event) -> str:
    """What the line is about: the call, and in it the attempt."""
    if event.call is None:
        return ""
    is_of_call = isinstance(event, (CallStep, Retry, Redirect)) or not event.attempt
    return f"call {event.call.id}" if is_of_call else f"call {event.call.id} attempt {event.attempt}"


def _after(fields: Fields, word: str = " in") -> str:
    seconds = fields.get("http_seconds")
    return "" if seconds is None else f"{word} {seconds * 1000:.3g} ms"


def _named(connection: ConnectionInfo) -> str:
    return f"connection {connection.id} ({connection.protocol}{', reused' if connection.reused else ''})"


def _listed(headers: list[tuple[str, str]]) -> str:
    return "".join(f", {name}: {value}" for name, value in headers)


def _shown(sample: bytes, size: int) -> str:
    """Bytes as Python writes them: no control character of the peer's reaches a terminal."""
    return f"{bytes(sample)!r}{f' (first {len(sample)} of {size} bytes)' if len(sample) < size else ''}"
