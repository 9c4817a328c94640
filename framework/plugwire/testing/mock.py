"""Answers without a network: `MockTransport` in one session, `intercept` in every session of the process.

    session = plugwire.Session(transports=[MockTransport({"GET https://api.example/users": Response(200, json=[])})])

    with plugwire.testing.intercept(handler) as mock:
        plugwire.get("https://api.example/users")
    assert mock.calls[0].headers["accept"] == "application/json"

A handler is a function, plain or async, from a `Request` to a `Response` or `AsyncResponse`; or a mapping of what to
answer. A key of the mapping is a URL or a path, with a method before it or without:

    "GET https://h/x?q=1"   "GET https://h/x"   "GET /x"   "/x"

A key without method, origin or query matches any; of several that match, the most exact one answers. A value is a
response (given out as a fresh copy each time), an exception (raised), a handler, or a list of these: one for each
request in turn, and no more. What nothing matches raises `Unanswered`, which lists what is known.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeAlias

from plugwire.blocking_response import Response
from plugwire.bodies import BytesSource, MemoryBody
from plugwire.engine import interceptors
from plugwire.errors import (
    ConnectError,
    Error,
    PeerError,
    ReadError,
    ResolveError,
    TLSError,
    UsageError,
    WriteError,
)
from plugwire.events import Data, Head, Receive, Send
from plugwire.messages import AsyncResponse, Request
from plugwire.protocols import EVERYTHING, Connection, ConnectionInfo, WatchedBody, connection_ids
from plugwire.url import URL

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from plugwire.errors import Phase
    from plugwire.protocols import Body, Call, Connecting, Route

Answer: TypeAlias = "Response | AsyncResponse"
AnswerFunction: TypeAlias = "Callable[[Request], Answer | Awaitable[Answer]]"
Reply: TypeAlias = "Answer | BaseException | type[BaseException] | AnswerFunction | Sequence[Reply]"
MockHandler: TypeAlias = "AnswerFunction | Mapping[str, Reply]"

CAPACITY: Final = 1_000_000
"""A mock takes any number of requests at once, over one connection for each route."""

PHASES: Final[tuple[tuple[type[Error], Phase], ...]] = (
    (ResolveError, "resolve"),
    (ConnectError, "dial"),
    (TLSError, "tls"),
    (WriteError, "write"),
    (ReadError, "body"),
    (PeerError, "head"),
)
"""Where an error that a handler raises would have happened, if the error itself does not say."""

BEFORE_SENDING: Final = frozenset({"pool", "resolve", "dial", "tls"})


class Unanswered(AssertionError):
    """A request for which the mock has no answer. An AssertionError, so that code under test which handles
    `plugwire.Error` does not hide it."""


class Mock:
    """Finds the answer to a request and keeps what was asked.

    Attributes:
        calls: the requests in the order in which they came, as they would have gone out; their body always lies in
            memory (`request.content`).
    """

    def __init__(self, handler: MockHandler) -> None:
        self.calls: list[Request] = []
        self._function: AnswerFunction | None = None
        self._answers: dict[_Key, AnswerFunction] = {}
        if callable(handler):
            self._function = handler
        elif isinstance(handler, Mapping):
            for key, reply in handler.items():
                self.add(key, reply)
        else:
            raise UsageError(f"a mock's handler is {type(handler).__name__}: a function or a mapping")

    def add(self, key: str, reply: Reply) -> None:
        """Answer requests that match `key` with `reply` from now on; see the module.

        Raises:
            UsageError: the key is neither a URL nor a path, or the reply is nothing that can answer; or the mock was
                made with a function, which answers everything.
        """
        if self._function is not None:
            raise UsageError("this mock was made with a function, which answers everything")
        self._answers[_parsed(key)] = _function(reply, key)

    async def answer(self, request: Request) -> AsyncResponse:
        """The answer to a request whose body lies in memory.

        Raises:
            Unanswered: there is none.
        """
        self.calls.append(request)
        function = self._function if self._function is not None else self._find(request)
        answer = function(request)
        return _copied(await answer if inspect.isawaitable(answer) else answer, request)

    def _find(self, request: Request) -> AnswerFunction:
        matching = [key for key in self._answers if key.matches(request)]
        if not matching:
            known = "\n".join(f"  {key.text}" for key in self._answers) or "  nothing"
            raise Unanswered(f"no answer to {request.method} {request.url}; known:\n{known}")
        return self._answers[max(matching, key=lambda key: key.exactness)]

    async def exchange(self, request: Request, call: Call, info: ConnectionInfo) -> AsyncResponse:
        """A whole exchange as the core sees it: the body is read, events are told, errors get phase and blame."""
        asked = request.copy()
        try:
            with call.step(Send, request=request, connection=info):
                asked.body = BytesSource(await _content(request, call))
            response = await self.answer(asked)
        except Error as error:
            phase = error.phase or _phase(error)
            error.at(phase, request=request, sent=phase not in BEFORE_SENDING, connection=info)
            raise
        response.request = request
        response.connection = info
        call.tell(
            Head,
            status=response.status_code,
            reason=response.reason,
            headers=response.headers,
            http_version=response.http_version,
        )
        if call.wants(Receive) or call.wants(Data):
            response.body = _Received(response.body, call)
        return response


class MockTransport(Mock):
    """A whole transport that answers every route by its handler. Honours every option: nothing goes out.

    Its connections are never taken for reused ones, so the pool replays nothing: what the handler raises is what the
    plugins and the caller get.
    """

    name = "mock"
    honours = frozenset({EVERYTHING})

    def refuse(self, route: Route) -> str | None:
        """Takes every route."""
        return None

    async def open(self, route: Route, connecting: Connecting) -> MockConnection:
        """A connection to the handler."""
        return MockConnection(self)


class MockConnection(Connection):
    """Takes any number of requests at once."""

    def __init__(self, mock: Mock) -> None:
        self.capacity = CAPACITY
        self.is_idle = True
        self.is_draining = False
        self.is_closed = False
        self.info = ConnectionInfo(next(connection_ids), "mock")
        self._mock = mock

    async def send(self, request: Request, call: Call) -> AsyncResponse:
        return await self._mock.exchange(request, call, self.info)

    def is_fresh(self) -> bool:
        return not self.is_closed

    def close(self) -> None:
        self.is_closed = True
        self.capacity = 0

    def abort(self) -> None:
        """Nothing waits here but the handler itself."""


@contextmanager
def intercept(handler: MockHandler) -> Generator[Mock]:
    """While the `with` block runs, `handler` answers in place of every wire of the process: of sessions that exist
    already, of `plugwire.get` and its like, in every thread and world. Plugins run as ever. The one entered last
    answers.

        with intercept({"GET https://h/x": Response(200, text="hello")}) as mock:
            assert plugwire.get("https://h/x").text == "hello"
    """
    mock = Mock(handler)
    info = ConnectionInfo(next(connection_ids), "mock")

    async def answer(request: Request, call: Call) -> AsyncResponse:
        response = await mock.exchange(request, call, info)
        response.times = (call.started, 0.0, call.runtime.now(), None)
        return response

    interceptors.append(answer)
    try:
        yield mock
    finally:
        # Its own, not the last: another thread may have entered one since.
        interceptors.remove(answer)


def _phase(error: Error) -> Phase:
    for kind, phase in PHASES:
        if isinstance(error, kind):
            return phase
    return "head"


class _Key(NamedTuple):
    """What a key of the mapping asks for; None: any."""

    text: str
    method: str | None
    url: URL
    with_origin: bool

    def matches(self, request: Request) -> bool:
        asked = request.url
        return (
            self.method in (None, request.method)
            and self.url.path == asked.path
            and self.url.query in (None, asked.query)
            and (not self.with_origin or self.url.origin == asked.origin)
        )

    @property
    def exactness(self) -> tuple[bool, bool, bool]:
        return (self.with_origin, self.url.query is not None, self.method is not None)


def _parsed(key: str) -> _Key:
    if not isinstance(key, str):
        raise UsageError(f"a mock's key is {key!r}: a str such as 'GET https://h/x'")
    method, space, target = key.rpartition(" ")
    with_origin = not target.startswith("/")
    try:
        url = URL(target if with_origin else f"http://any.invalid{target}")
        if space:
            Request(method, url)
    except Error as error:
        raise UsageError(f"a mock's key is {key!r}: a URL or a path, with a method before it or without") from error
    return _Key(key, method if space else None, url, with_origin)


def _function(reply: Reply, key: str) -> AnswerFunction:
    """What a value of the mapping does. What can do nothing is refused while the test's line is on the stack."""
    if isinstance(reply, (Response, AsyncResponse)):
        answer = reply  # a name of its own keeps its type
        return lambda request: answer
    if isinstance(reply, BaseException):
        return _Raising(reply)
    if isinstance(reply, type):
        if issubclass(reply, BaseException):
            return _Raising(reply())
    elif callable(reply):
        return reply
    elif isinstance(reply, (list, tuple)):
        return _InTurn([_function(one, key) for one in reply])
    raise UsageError(
        f"a mock's reply to {key!r} is {reply!r}: a Response, an exception, a function, or a list of these"
    )


class _Raising:
    """Raises a copy each time, because tracebacks and notes grow on what is raised more than once."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, request: Request) -> NoReturn:
        try:
            error = copy.copy(self._error)
        except Exception:  # a constructor that copying does not know: then itself
            error = self._error
        raise error


class _InTurn:
    """One after the other. Threads may ask at once."""

    def __init__(self, functions: list[AnswerFunction]) -> None:
        self._left = deque(functions)

    def __call__(self, request: Request) -> Answer | Awaitable[Answer]:
        try:
            function = self._left.popleft()
        except IndexError:
            raise Unanswered(f"{request.method} {request.url}: the listed answers are used up") from None
        return function(request)


def _copied(reply: object, request: Request) -> AsyncResponse:
    """An answer of its own for each request, its body unread, as from a wire."""
    if isinstance(reply, Response):
        reply = reply.waiting
    if not isinstance(reply, AsyncResponse):
        raise UsageError(f"a mock's handler returned {type(reply).__name__}: a Response or AsyncResponse")
    if not reply.is_read:
        if reply.is_closed:
            raise UsageError("a mock's handler gave out a response whose body was read already: make one each time")
        return reply
    # What has no content on the wire has none here (RFC 9110, 6.4.1).
    has_content = request.method != "HEAD" and reply.status_code not in (204, 304)
    return AsyncResponse(
        reply.status_code,
        headers=reply.headers.copy(),
        body=MemoryBody(reply.content if has_content else b"", reply.trailers),
        http_version=reply.http_version,
        reason=reply.reason,
    )


async def _content(request: Request, call: Call) -> bytes:
    """The request's body, read as the wire would read it."""
    body = request.body.open(call)
    pieces: list[bytes] = []
    try:
        while piece := await body.receive():
            call.tell(Data, sent=True, size=len(piece), done=sum(map(len, pieces)) + len(piece), total=body.length)
            pieces.append(piece)
    finally:
        await body.close()
    return b"".join(pieces)


class _Received(WatchedBody):
    """Tells of a response's body what a wire tells."""

    def __init__(self, inner: Body, call: Call) -> None:
        super().__init__(inner)
        self._call = call
        self._done = 0
        self._step = call.step(Receive).start()

    def seen(self, data: bytes | memoryview) -> None:
        self._done += len(data)
        self._call.tell(Data, sent=False, size=len(data), done=self._done, total=self.length)

    def ended(self, error: BaseException | None) -> None:
        self._step.note(size=self._done)
        self._step.end(error)
