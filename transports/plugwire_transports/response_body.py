"""The content of a response, whatever the protocol: its budgets, what a failed read means, and who is told.

A subclass reads, and says how to let go of the connection. A cancellation by asyncio or trio loses no byte and leaves
the body as it is; any other interrupt ends it, because nobody knows between which two of its steps it came.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from math import inf
from typing import TYPE_CHECKING, NoReturn

from plugwire import Cancelled, Error, ReadError
from plugwire.events import Data, Receive
from plugwire.protocols import Body, Deadline, WatchedBody

if TYPE_CHECKING:
    from plugwire import Request
    from plugwire.protocols import Call, ConnectionInfo


class ResponseBody(Body):
    """What the bodies of all protocols have in common."""

    def __init__(self, info: ConnectionInfo, request: Request, call: Call) -> None:
        self._info = info
        self._request = request
        self._call = call
        self._error: Error | None = None
        self._is_aborted = False

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """True once there is nothing to read from the connection any more."""

    @abstractmethod
    def _broken_off(self) -> None:
        """Nothing more will be read, though there is more: let go of the connection."""

    @abstractmethod
    def _dropped(self) -> None:
        """The same in a finaliser: nothing that waits, and nobody told who may be inside of a step of his own."""

    def _cut(self, error: OSError) -> Error:
        """What it means that the connection broke."""
        return ReadError(f"the connection broke inside the body: {error.strerror or error}")

    def _read_at(self) -> float:
        """When the next read must have brought something."""
        call = self._call
        read = call.timeout.read
        now = call.runtime.now()
        if now >= call.total.at:
            # Asked here too, because a stream that always has something to give never looks at the time.
            raise TimeoutError
        return min(call.total.at, inf if read is None else now + read)

    def _ended(self) -> bytes:
        """What a read gives when the body is over."""
        if self._error is not None:
            raise self._error
        return b""

    def _fail(self, error: Error) -> Error:
        """The body cannot be read on; every later read says the same."""
        error.at("body", request=self._request, sent=True, connection=self._info)
        self._call.blame(error, self._request)
        self._error = error
        self._broken_off()
        return error

    def _raise(self, error: BaseException) -> NoReturn:
        broken = self._meant(error)
        try:
            if broken is error:
                raise error
            raise broken from error
        finally:
            del error, broken  # or error, traceback and this frame would hold each other, and a place in the pool

    def _meant(self, error: BaseException) -> BaseException:
        """What a failed read means."""
        call = self._call
        if isinstance(error, call.runtime.cancellation):
            return error
        if call.is_cancelled or call.session.is_closed:
            try:
                call.check()
            except Error as reason:
                return self._fail(reason)
        if self._is_aborted:
            return self._fail(Cancelled("the response was closed while its body was being read"))
        if isinstance(error, TimeoutError) and error.errno is None and not isinstance(error, Error):
            deadline = call.total
            if not deadline.has_passed():
                seconds = call.timeout.read if call.timeout.read is not None else inf
                deadline = Deadline(call.runtime.now, call.runtime.now(), "read", seconds)
            return self._fail(deadline.error("body"))
        if isinstance(error, Error):
            return self._fail(error)
        if isinstance(error, OSError):
            return self._fail(self._cut(error))
        self._fail(ReadError(f"reading was interrupted by {type(error).__name__}"))
        return error

    def _why_aborted(self) -> Error:
        """The error of a body that was aborted while nobody read it."""
        try:
            self._call.check()
        except Error as error:
            return error
        return ReadError("the response was aborted before its body was read")

    def __del__(self) -> None:
        if getattr(self, "_call", None) is None or self.is_over:
            return
        holder = self._call.holder
        self._dropped()
        warnings.warn(
            f"the response to {self._request.method} {self._request.url} was dropped without close()"
            + (f" by the plugin {holder}" if holder else ""),
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


def observed(body: Body, call: Call) -> Body:
    """The body, and with observers one that tells them."""
    return ObservedBody(body, call) if call.wants(Data) or call.wants(Receive) else body


class ObservedBody(WatchedBody):
    """Tells of each piece, and of the end."""

    def __init__(self, inner: Body, call: Call) -> None:
        super().__init__(inner)
        self._call = call
        self._step = call.step(Receive).start()
        self._done = 0

    def seen(self, data: bytes | memoryview) -> None:
        self._done += len(data)
        if self._call.wants(Data):
            self._call.tell(Data, sent=False, size=len(data), done=self._done, total=self.length)

    def ended(self, error: BaseException | None) -> None:
        self._step.note(size=self._done)
        self._step.end(error)


def tell_received_whole(call: Call, size: int) -> None:
    """The events of a body that came with the head."""
    with call.step(Receive) as step:
        if size and call.wants(Data):
            call.tell(Data, sent=False, size=size, done=size, total=size)
        step.note(size=size)
