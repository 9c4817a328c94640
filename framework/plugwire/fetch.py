"""`plugwire get URL`: one call whose body goes to stdout or to a file, with progress and timings."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import plugwire
from plugwire.events import TLS as TLSStep
from plugwire.events import (
    CallStep,
    Connect,
    Data,
    Edge,
    Event,
    Head,
    Informational,
    Receive,
    Redirect,
    Resolve,
    Retry,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

    from plugwire import CallOptions, Response, Timeout

BUFFER: Final = 256 * 1024
FORM: Final = "application/x-www-form-urlencoded"


def fetch(options: Any, session_keywords: Mapping[str, Any]) -> Response:
    """Fetch as the command line says; the response, its body written.

    Args:
        options: of the command, parsed.
        session_keywords: what some of them mean for the session.

    Raises:
        UsageError: the arguments cannot be, before any I/O.
        Error: as for every call.
    """
    request = _request(options)
    observers: list[Callable[[Event], object]] = []
    if options.trace:
        observers.append(Trace(sys.stderr))
    if options.output is not None and sys.stderr.isatty():
        observers.append(Progress(sys.stderr))
    with ExitStack() as stack:
        if options.data is not None:
            request.body = _body(options.data, request, stack)
        output = Output(options.output) if options.output is not None else None
        if output is not None:
            stack.enter_context(output)
        session = stack.enter_context(plugwire.Session(timeout=_timeout(options), **session_keywords))
        keywords: CallOptions = {"headers": request.headers}
        if options.no_redirects:
            keywords["follow_redirects"] = False
        if options.data is not None:
            keywords["content"] = request.body
        if observers:
            keywords["observe"] = _all(observers)
        handle = session.open_request(request.method, request.url, **keywords)
        with handle.send() as response:
            file = output.begin() if output is not None else sys.stdout.buffer
            if options.include:
                _write_head(response, sys.stdout.buffer)
            buffer = memoryview(bytearray(BUFFER))
            while size := response.readinto(buffer):
                file.write(buffer[:size])
                file.flush()
        return response


def _request(options: Any) -> plugwire.Request:
    headers = plugwire.Headers()
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon:
            raise plugwire.UsageError(f"-H {line!r}: a field is written 'Name: value'")
        headers.add(name, value.strip())
    return plugwire.Request(options.method or ("GET" if options.data is None else "POST"), options.url, headers=headers)


def _body(data: str, request: plugwire.Request, stack: ExitStack) -> Any:
    """What -d means. Text is taken for a form unless -H says what it is, as other command line clients do."""
    from plugwire.bodies import make_source

    if not data.startswith("@"):
        request.headers.add("Content-Type", FORM, mode="if_new")
        return make_source(data.encode())
    if data == "@-":
        return make_source(sys.stdin.buffer)
    try:
        return make_source(stack.enter_context(open(data[1:], "rb")))
    except OSError as error:
        raise plugwire.UsageError(f"-d {data}: {error.strerror}") from error


def _timeout(options: Any) -> Timeout:
    total, each = options.max_time, options.timeout
    if each is None:
        return plugwire.Timeout(total=total)
    return plugwire.Timeout(total=total, connect=each, read=each, write=each)


def _write_head(response: Response, file: BinaryIO) -> None:
    file.write(f"{response.http_version} {response.status_code} {response.reason}\r\n".encode("latin-1"))
    file.write(response.headers.encoded() + b"\r\n")


class Output:
    """The file of -o. That it can be written is found out at once; what it held is lost only when a response has come;
    what comes to nothing leaves no new file behind."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_new = not os.path.lexists(path)
        self._has_begun = False
        try:
            self._file: BinaryIO = open(path, "ab")  # noqa: SIM115  (closed by __exit__)
        except OSError as error:
            raise plugwire.UsageError(f"-o {path}: {error.strerror}") from error

    def begin(self) -> BinaryIO:
        """The file, empty."""
        self._has_begun = True
        if self._file.seekable():  # not a pipe or a terminal
            self._file.truncate(0)
        return self._file

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._is_new and not self._has_begun:
            os.unlink(self._path)


def _all(observers: list[Callable[[Event], object]]) -> Callable[[Event], None]:
    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe


class Trace:
    """An observer that prints each step when it ends: when that was, how long it took, in ms, and what it was."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._began: dict[object, float] = {}
        self._start: float | None = None

    def __call__(self, event: Event) -> None:
        if self._start is None:
            self._start = event.time
        if isinstance(event, Step):
            key = (type(event), getattr(event, "address", None))
            if event.edge is Edge.STARTED:
                self._began[key] = event.time
                return
            took = f"{(event.time - self._began.pop(key, event.time)) * 1000:9.2f}"
        elif isinstance(event, (Head, Informational, Redirect, Retry)):
            took = f"{'':9}"
        else:
            return
        at = (event.time - self._start) * 1000
        print(f"{at:9.2f} {took} ms  {_told(event)}", file=self._file)


def _told(event: Event) -> str:
    """An event in a few words."""
    name = "call" if isinstance(event, CallStep) else type(event).__name__.lower()
    match event:
        case Resolve():
            detail = f"{event.host} {', '.join(str(address) for address in event.addresses)}"
        case Connect():
            detail = str(event.address)
        case TLSStep() if event.info is not None:
            detail = f"{event.info.version} {event.info.cipher} {'resumed' if event.info.resumed else ''}"
        case Head() | Informational():
            detail = f"{event.status} {event.reason}"
        case Receive():
            detail = f"{event.size} bytes"
        case Redirect():
            detail = f"{event.status} to {event.target}"
        case Retry():
            detail = f"{event.reason}, after {event.delay:.3f} s" if event.will_retry else f"no more: {event.reason}"
        case _:
            detail = ""
    error = f" failed: {event.error}" if isinstance(event, Step) and event.error is not None else ""
    return f"{name:<8} {detail}".rstrip() + error


class Progress:
    """An observer that keeps one line on a terminal up to date, ten times a second at most."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._first: float | None = None
        self._shown = 0.0
        self._length = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Data) and not event.sent:
            if self._first is None:
                self._first = event.time
            if event.done == event.total or event.time - self._shown >= 0.1:
                self._shown = event.time
                self._show(event.done, event.total, event.time - self._first)
        elif isinstance(event, Receive) and event.edge is not Edge.STARTED and self._length:
            print(file=self._file)

    def _show(self, done: int, total: int | None, seconds: float) -> None:
        text = _size(done)
        if total:
            text += f" of {_size(total)}, {done * 100 // total} %"
        if seconds > 0:
            text += f", {_size(int(done / seconds))}/s"
        print(f"\r{text:<{self._length}}", end="", file=self._file, flush=True)
        self._length = len(text)


def _size(count: int) -> str:
    """Bytes in the unit that suits them."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
