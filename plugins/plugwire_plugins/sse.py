"""Event streams that go on: connect again when one ends, and say what was seen last (HTML, 9.2, "reconnect").

How it works. `SSEReconnect` is entered by responses that are event streams, and puts a body of its own in the place of
theirs, for whoever reads it piece by piece. That body hands on what is whole: events, and comments between them. When
the stream ends or breaks it drops the event that was cut, waits, calls again with Last-Event-ID, and goes on with the
new stream. So the reader sees one stream, of whole events; the server is asked to begin behind the last of them.

Rules that hold, and what breaks without them:

1. *Only GET is asked again* unless the option `sse_reconnect` is True. An answer to POST that streams, as of language
   models, ends when it is complete; asked again, it would be made and paid for twice, without end.
2. *Whole events only.* A stream may break inside one. Its first half handed on, and then the whole of it from the new
   stream, would be read as one event that was never sent.
3. *204 is the end*, by which a server says: do not come back. Any other status, and any other type of content, is an
   error: who answers there is not the stream.
4. *No storms.* Each pause is at least the server's `retry`, or ours, with up to half as much again of jitter, so that
   those who lost the server together do not come back together; it doubles with each failure in a row.
5. *The peer does not choose how long we wait, or how often we fail*: pauses have a lower and an upper bound, and the
   number of failures in a row is limited.

Each pause is told as a `plugwire.events.Retry`. The deadline `total` holds over all streams of a call and all pauses;
`head` begins anew with each stream. Cancelling the call, or closing the response or the session, ends everything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from random import random
from typing import TYPE_CHECKING, Final

from plugwire import (
    AsyncResponse,
    CertificateError,
    ConnectTimeout,
    DecodingError,
    Error,
    HeadTimeout,
    IncompleteBody,
    LimitExceeded,
    NetworkError,
    PoolTimeout,
    ProtocolError,
    ReadTimeout,
    ResponseError,
    StreamReset,
    UsageError,
    WriteTimeout,
    hookimpl,
)
from plugwire.decoders import ServerSentEvents
from plugwire.errors import InvalidHeader
from plugwire.events import Retry
from plugwire.protocols import Body

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.protocols import Call, Next, Request

MAX_EVENT: Final = 16 * 1024 * 1024
"""Bytes of one event, unless the caller says otherwise."""

MAX_EVENT_ID: Final = 8 * 1024
"""Bytes of an identifier, because it comes back in a field of the request's head."""

BREAKS: Final[tuple[type[Error], ...]] = (NetworkError, ReadTimeout, IncompleteBody, StreamReset, DecodingError)
"""How a stream breaks. DecodingError: what was compressed has no end when the connection just ends."""

FAILURES: Final[tuple[type[Error], ...]] = (*BREAKS, ConnectTimeout, WriteTimeout, HeadTimeout, PoolTimeout)
"""How an attempt to connect again fails, and may be repeated."""

_MARK: Final = b"\xef\xbb\xbf"
_END_OF_LINE: Final = re.compile(rb"\r\n|\n|\r(?!\n)")
_END_OF_BLOCK: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")


@dataclass(frozen=True, slots=True)
class SSEOptions:
    """The options that `SSEReconnect` adds to a session and to each call: `options={"sse_reconnect": False}`.

    Attributes:
        sse_reconnect: False: a stream that ends has ended. True: it is asked for again whatever the method was. None:
            if it was GET.
        sse_max_failures: in place of the policy's; None: the policy's.
    """

    sse_reconnect: bool | None = None
    sse_max_failures: int | None = None

    def __post_init__(self) -> None:
        if self.sse_max_failures is not None:
            _check_count("sse_max_failures", self.sse_max_failures)


@dataclass(frozen=True, slots=True)
class SSEPolicy:
    """How long to wait before the next stream. Immutable, and asked: it reads no clock and draws no number.

    Attributes:
        retry: seconds, until the server says how long (its `retry` field).
        min_delay: the least pause, whatever the server says.
        max_delay: the longest one, before jitter.
        max_failures: attempts to connect that may fail in a row.

    Raises:
        UsageError: a value that means nothing.
    """

    retry: float = 3.0
    min_delay: float = 0.1
    max_delay: float = 60.0
    max_failures: int = 10

    def __post_init__(self) -> None:
        for name in ("retry", "min_delay", "max_delay"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < inf:
                raise UsageError(f"{name}={value!r}: a number of seconds from 0")
        _check_count("max_failures", self.max_failures)

    def delay(self, retry: int | None, failures: int, jitter: float) -> float:
        """The pause in seconds.

        Args:
            retry: what the server has said last, in milliseconds, or None.
            failures: attempts that have failed since the last stream.
            jitter: a random number from 0 to 1.
        """
        least = self.retry if retry is None else retry / 1000
        doubled = max(least, self.min_delay) * 2.0 ** min(failures, 60)
        return min(doubled, self.max_delay) * (1 + jitter / 2)


class SSEReconnect:
    """Go on with event streams that end or break: `Session(plugins=[SSEReconnect()])`, or "sse-reconnect".

        with session.stream("GET", url, headers={"Accept": "text/event-stream"}) as response:
            for event in response.iter_decoded(ServerSentEvents()): ...

    A request that has a Last-Event-ID of its own begins with that one. A call whose body is read whole is left alone.
    Options, on the session or on a call: see `SSEOptions`.

    Args:
        policy: how long to wait, and how many failures to bear.
        max_event_bytes: bytes of one event; a larger one is `LimitExceeded`.
        random: gives numbers from 0 to 1, for the jitter.
    """

    name = "sse-reconnect"
    option_types = (SSEOptions,)

    def __init__(
        self,
        policy: SSEPolicy | None = None,
        *,
        max_event_bytes: int = MAX_EVENT,
        random: Callable[[], float] = random,
    ) -> None:
        self.policy = policy or SSEPolicy()
        self.max_event_bytes = max_event_bytes
        self._random = random
        WholeEvents(max_event_bytes)  # refuses a limit that is none now, and not when the first stream comes

    def __repr__(self) -> str:
        return f"SSEReconnect(max_failures={self.policy.max_failures})"

    def is_stream(self, response: AsyncResponse) -> bool:
        """Whether this is an event stream."""
        return response.status_code == 200 and is_event_stream(response)

    @hookimpl(if_response=is_stream)
    async def around_call(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Put the body that goes on in the place of the stream's; see the module."""
        response = await call_next(request)
        options = call.options(SSEOptions)
        wanted = options.sse_reconnect if options.sse_reconnect is not None else request.method == "GET"
        if wanted and call.streaming and request.body.is_replayable:
            failures = options.sse_max_failures
            if failures is None:
                failures = self.policy.max_failures
            response.body = _Stream(self, response.body, request, call_next, call, failures)
        return response

    def delay(self, retry: int | None, failures: int) -> float:
        """The next pause in seconds."""
        return self.policy.delay(retry, failures, self._random())


def is_event_stream(response: AsyncResponse) -> bool:
    """Whether the content is said to be events."""
    kind = response.headers.get("content-type") or ""
    return kind.partition(";")[0].strip().lower() == "text/event-stream"


class WholeEvents:
    """Lets through what is whole: events, and comments between them. Without any I/O.

    Attributes:
        events: a decoder that has seen what was let through, and so knows what to say when connecting again.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT) -> None:
        self.events = ServerSentEvents(max_event_bytes=max_event_bytes)
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()
        self._seen = 0
        self._is_begin = True

    def begin(self) -> None:
        """Another stream begins; what was cut off is dropped."""
        self._rest.clear()
        self._seen = 0
        self._is_begin = True

    def feed(self, data: bytes) -> bytes:
        """What is whole now.

        Raises:
            LimitExceeded: an event is too large.
        """
        rest = self._rest
        rest += data
        if self._is_begin:
            if len(rest) < len(_MARK) and _MARK.startswith(rest):
                return b""
            self._is_begin = False
            if rest.startswith(_MARK):  # in the middle of what the reader gets, it would be part of a name
                del rest[: len(_MARK)]
        place = 0
        while found := self._end_of_next(place):
            place = found.end()
        whole = bytes(rest[:place])
        del rest[:place]
        self._seen = max(len(rest) - 3, 0)  # the end of a block may have begun
        if len(rest) > self._max_event_bytes:
            raise LimitExceeded(f"an event is larger than max_event_bytes={self._max_event_bytes}", "max_event_bytes")
        self.events.feed(whole)
        return whole

    def _end_of_next(self, place: int) -> re.Match[bytes] | None:
        """The end of the comment, blank line or block that begins at `place`, if it is there. What was searched once is
        not searched again: a comment of megabytes in small pieces would take minutes of a processor."""
        rest, unseen = self._rest, max(place, self._seen)
        if rest.startswith(b":", place):
            return _END_OF_LINE.search(rest, unseen)
        return _END_OF_LINE.match(rest, place) or _END_OF_BLOCK.search(rest, unseen)


class _Stream(Body):
    """One body over many streams."""

    def __init__(
        self, plugin: SSEReconnect, body: Body, request: Request, call_next: Next, call: Call, max_failures: int
    ) -> None:
        self._plugin = plugin
        self._body = body
        self._request = request
        self._call_next = call_next
        self._call = call
        self._max_failures = max_failures
        self._whole = WholeEvents(plugin.max_event_bytes)
        self._ready = memoryview(b"")
        self._is_over = False
        self._error: Error | None = None

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not (self._ready or self._is_over):
            if self._error is not None:
                raise self._error
            try:
                await self._advance()
            except Error as error:
                self._error = error
                raise
        data, self._ready = bytes(self._ready[:max_bytes]), self._ready[max_bytes:]
        return data

    async def _advance(self) -> None:
        """A piece of the stream, or another stream."""
        try:
            data = await self._body.receive()
        except BREAKS as error:
            await self._reconnect(error)
            return
        if data:
            self._ready = memoryview(self._whole.feed(data))
        else:
            await self._reconnect(None)

    async def close(self) -> None:
        self._is_over = True
        self._ready = memoryview(b"")
        await self._body.close()

    def abort(self) -> None:
        self._is_over = True
        self._body.abort()
        self._call.cancel()  # whoever reads may be pausing, or connecting

    async def _reconnect(self, error: Error | None) -> None:
        """Until there is a stream again, or an end."""
        call = self._call
        await self._body.close()
        failures = 0
        while True:
            call.check()  # whatever the symptom was: a call that was cancelled is over
            reason = "the stream ended" if error is None else type(error).__name__
            if error is not None and (failures > self._max_failures or isinstance(error, CertificateError)):
                call.tell(Retry, reason=reason, delay=0.0, will_retry=False)
                call.blame(error, self._request)
                raise error
            delay = self._plugin.delay(self._whole.events.retry, failures)
            call.tell(Retry, reason=reason, delay=delay)
            call.renew(delay)
            await call.sleep(delay)
            try:
                response = await self._call_next(self._next_request())
            except FAILURES as failure:
                error = failure
                failures += 1
                continue
            call.holder = ""  # it is the caller's, like the first one
            if response.status_code == 200 and is_event_stream(response):
                self._body = response.body
                self._whole.begin()
            else:
                await self._end(response)
            return

    def _next_request(self) -> Request:
        """The request, and what was seen last; "" takes back what the caller or an earlier event has said."""
        request = self._request.copy()
        identifier = self._whole.events.last_event_id
        if identifier is None:
            return request
        octets = identifier.encode("utf-8")
        if len(octets) > MAX_EVENT_ID:
            raise LimitExceeded(f"the event's id is longer than {MAX_EVENT_ID} bytes", "max_event_id_bytes")
        try:
            if octets:
                request.headers["Last-Event-ID"] = octets
            else:
                request.headers.pop("Last-Event-ID", None)
        except InvalidHeader as error:
            raise ProtocolError("the event's id has characters that no field can carry back") from error
        return request

    async def _end(self, response: AsyncResponse) -> None:
        """What was answered is no stream: the end, or an error."""
        await response.close()
        if response.status_code == 204:
            self._is_over = True
            return
        response.raise_for_status()
        kind = response.headers.get("content-type") or "none"
        what = f"connecting again gave status {response.status_code}, content-type {kind[:60]!r}, and no event stream"
        error = ResponseError(what, response)
        self._call.blame(error, response.request)
        raise error


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{name}={value!r}: a whole number from 0")
