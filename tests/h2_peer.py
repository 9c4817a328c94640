"""An HTTP/2 peer that plays a script to the frame, for everything that real servers do not do.

    def script(h2: Conversation) -> None:
        stream, fields = h2.await_headers()
        h2.headers(stream, [(":status", "200")])
        h2.data(stream, b"hi", end_stream=True)

    with H2Peer(script) as peer:
        async with world.session(http_versions=("h2",)) as session:
            assert (await session.get(peer.url)).text == "hi"

It is a `ScriptedPeer` (plugwire.testing.peer) whose scripts are functions: each plays one connection, in the order in
which they are accepted, in a thread of its own, in the clear (prior knowledge) or with `tls=True` over TLS with ALPN h2
(the client trusts it by `peer.tls_config`). Whatever goes wrong in a script is raised by leaving the `with` block.

Rules that hold:

- Before the script runs, SETTINGS (`H2Peer(script, settings={"max_concurrent_streams": 1})`) are sent and the client's
  preface and SETTINGS read. `handshake=False`: nothing is sent, read or answered but by the script.
- A frame is read when the script waits for one, never else. Reading answers SETTINGS and PING by their ACK, unless
  `h2.answers = False`. What is read is kept in `h2.received` (and `peer.received`, of all connections), header blocks
  are decoded at once, and an `await_...` takes the first *of its kind* that nothing has taken yet, so that
  `await_frame(RstStreamFrame)` does not mind a WINDOW_UPDATE before it. `h2.left` is what nothing has taken.
- After the last line the peer goes on reading until the client closes, so that frames can be waited for by the test:
  `peer.event(RstStreamFrame)` is a threading.Event that is set when one has come. A new request then is a failure,
  because nobody would answer it.
- Nothing sleeps. Where the order matters: `h2.wait_for(event)` for what the test says, `h2.sync()` (a PING and its ACK)
  for "the client has handled all that I have sent, and this is what it sent before", `h2.impose(...)` for SETTINGS.
- What is sent is not checked. What comes is: a client that sends frames above MAX_FRAME_SIZE, more DATA than the
  windows let out or stream ids out of order fails the script (`h2.checks = False`, where windows go by `send_raw`).
"""

from __future__ import annotations

import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import trustme
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from plugwire import TLSConfig
from plugwire.testing import PeerFailure, ScriptedPeer
from plugwire.testing.certificates import NAMES
from plugwire.testing.loopback import PATIENCE
from plugwire.testing.peer import PeerConnection, Step, abort, close, cut, half_close

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_SIZE: Final = 16384
INITIAL_WINDOW: Final = 65535

F = TypeVar("F", bound=Frame)
Fields: TypeAlias = Iterable[tuple[Any, ...]]
"""Names and values as str or bytes; hpack's NeverIndexedHeaderTuple too."""


class ClientClosed(PeerFailure):
    """The client ended the connection where a frame should come."""


class Block(NamedTuple):
    """The fields of one HEADERS frame and its CONTINUATIONs."""

    stream_id: int
    fields: list[tuple[str, str]]
    is_last: bool
    """END_STREAM."""
    frames: list[Frame]


class Conversation:
    """What a script says and hears on one connection.

    Attributes:
        received: every frame that was read, in order.
        left: those of them that nothing has taken.
        fields: of each stream the fields of its first header block, every line of them.
        settings: the client's, by their names ("initial_window_size").
        answers: SETTINGS and PING are answered by their ACK as they are read.
        checks: the client's frames are checked against what it was told; see the module.
        connection: the `PeerConnection` below, with the bytes that came and the socket.
    """

    def __init__(self, connection: PeerConnection, noticed: Callable[[Frame], None]) -> None:
        self.connection = connection
        self.received: list[Frame] = []
        self.left: list[Frame] = []
        self.fields: dict[int, list[tuple[str, str]]] = {}
        self.settings: dict[str, int] = {}
        self.answers = True
        self.checks = True
        self._noticed = noticed
        self._encoder = Encoder()
        self._decoder = Decoder(max_header_list_size=1 << 24)
        self._blocks: list[Block] = []
        self._open_block: list[Frame] = []
        self._sent_settings: list[dict[int, int]] = []
        self._windows: dict[int, int] = {0: INITIAL_WINDOW}
        self._initial_window = INITIAL_WINDOW
        self._max_frame = MAX_FRAME_SIZE
        self._awaited: threading.Event | None = None
        self._is_given_up = False
        self._lock = threading.Lock()

    # -- what the client says

    def handshake(self, **settings: int) -> None:
        """Send SETTINGS, read the client's preface and its SETTINGS."""
        self.send_settings(**settings)
        self.await_preface()

    def await_preface(self) -> None:
        """Read the client's preface and its SETTINGS, which must follow."""
        came = self.connection.read(len(PREFACE))
        if came != PREFACE:
            raise PeerFailure(f"expected the preface of HTTP/2, got {came!r}")
        frame = self.await_frame()
        if not isinstance(frame, SettingsFrame):
            raise PeerFailure(f"expected SETTINGS after the preface, got {frame}")

    def await_headers(self, stream_id: int | None = None) -> tuple[int, dict[str, str]]:
        """The next header block, of a request or of trailers: the stream's id and the fields (all lines of a name but
        the last are lost; `fields` has them)."""
        block = self.await_block(stream_id)
        return block.stream_id, dict(block.fields)

    def await_block(self, stream_id: int | None = None) -> Block:
        """As `await_headers`, with everything that is to be known."""
        while True:
            for block in self._blocks:
                if stream_id in (None, block.stream_id):
                    for frame in block.frames:
                        self._take(frame)
                    return block
            self._read_frame("HEADERS" if stream_id is None else f"HEADERS of stream {stream_id}")

    def await_frame(
        self,
        kind: type[F] = Frame,  # type: ignore[assignment]
        stream_id: int | None = None,
        flag: str | None = None,
    ) -> F:
        """The next frame of this kind; of this stream; with this flag ("ACK", "END_STREAM")."""
        while True:
            for frame in self.left:
                if _fits(frame, kind, stream_id, flag):
                    self._take(frame)
                    return frame
            self._read_frame(kind.__name__)

    def await_body(self, stream_id: int, give_back: bool = True) -> bytes:
        """Read the content of a request up to the end of its stream, trailers not taken.

        `give_back`: by WINDOW_UPDATEs for the connection and for the stream, frame by frame.
        """
        body = bytearray()
        while True:
            for frame in list(self.left):
                if isinstance(frame, DataFrame) and frame.stream_id == stream_id:
                    self._take(frame)
                    body += frame.data
                    if "END_STREAM" in frame.flags:
                        return bytes(body)
                    if give_back and frame.flow_controlled_length:
                        self.window_update(0, frame.flow_controlled_length)
                        self.window_update(stream_id, frame.flow_controlled_length)
                elif isinstance(frame, RstStreamFrame) and frame.stream_id == stream_id:
                    raise PeerFailure(f"the client reset stream {stream_id} with code {frame.error_code} in its body")
                elif isinstance(frame, HeadersFrame) and frame.stream_id == stream_id and "END_STREAM" in frame.flags:
                    return bytes(body)
            self._read_frame(f"the end of stream {stream_id}")

    def requests(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Each header block that comes, until the client closes."""
        while True:
            try:
                yield self.await_headers()
            except ClientClosed:
                return

    def sync(self) -> list[Frame]:
        """Send a PING, wait for its ACK; what came before it and was not taken (it is not taken by this either)."""
        mark = b"sync%04d" % len(self.received)
        before = len(self.left)
        self.send(PingFrame(0, opaque_data=mark))
        while not any(isinstance(frame, PingFrame) and frame.opaque_data == mark for frame in self.left):
            self._read_frame("the ACK of a PING")
        found = next(frame for frame in self.left if isinstance(frame, PingFrame) and frame.opaque_data == mark)
        came = self.left[before : self.left.index(found)]
        self._take(found)
        return came

    def await_end(self) -> None:
        """The client closes; whatever comes before is kept."""
        try:
            while True:
                self._read_frame("the end")
        except ClientClosed:
            pass

    def wait_for(self, event: threading.Event) -> None:
        """Wait until the test sets `event`. Nothing is read meanwhile."""
        with self._lock:
            if self._is_given_up and not event.is_set():
                raise PeerFailure("the event was not set")
            self._awaited = event
        is_set = event.wait(PATIENCE)
        with self._lock:
            was_woken, self._awaited = self._awaited is None, None
            if not is_set or was_woken:
                raise PeerFailure("the event was not set")

    # -- what it is told

    def send_raw(self, data: bytes) -> None:
        """These bytes. Windows, settings and header tables do not learn of them."""
        self.connection.sock.sendall(data)

    def send(self, *frames: Frame) -> None:
        """These frames, in one write."""
        for frame in frames:
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                self._sent_settings.append(dict(frame.settings))
            elif isinstance(frame, WindowUpdateFrame):
                self._grant(frame.stream_id, frame.window_increment)
            elif isinstance(frame, ExtensionFrame):
                frame.body_len = len(frame.body)  # hyperframe does that for all others
        self.send_raw(b"".join(frame.serialize() for frame in frames))

    def encode(self, fields: Fields, huffman: bool = True) -> bytes:
        """A header block, for frames of one's own. What is encoded must be sent, in this order: the table learns."""
        return self._encoder.encode([*fields], huffman=huffman)

    def headers(
        self, stream_id: int, fields: Fields, end_stream: bool = False, cuts: Sequence[int] = (), **more: Any
    ) -> None:
        """HEADERS. `cuts`: where the block is cut, the rest following as CONTINUATION; `more`: of HeadersFrame."""
        self.send(*self._block_frames(stream_id, fields, end_stream, cuts, **more))

    def _block_frames(
        self, stream_id: int, fields: Fields, end_stream: bool, cuts: Sequence[int] = (), **more: Any
    ) -> list[Frame]:
        block = self.encode(fields)
        cuts = cuts or range(MAX_FRAME_SIZE, len(block), MAX_FRAME_SIZE)
        parts = [block[begin:end] for begin, end in zip((0, *cuts), (*cuts, None), strict=True)]
        first = HeadersFrame(stream_id, parts[0], flags=["END_STREAM"] if end_stream else [], **more)
        frames = [first, *(ContinuationFrame(stream_id, part) for part in parts[1:])]
        frames[-1].flags.add("END_HEADERS")
        return frames

    def data(self, stream_id: int, data: bytes, end_stream: bool = False, pad_length: int | None = None) -> None:
        """DATA, as many frames as MAX_FRAME_SIZE asks for. Windows are the script's care."""
        self.send(*self._data_frames(stream_id, data, end_stream, pad_length))

    def _data_frames(self, stream_id: int, data: bytes, end_stream: bool, pad_length: int | None = None) -> list[Frame]:
        frames: list[Frame] = []
        for begin in range(0, len(data) or 1, MAX_FRAME_SIZE):
            frame = DataFrame(stream_id, data[begin : begin + MAX_FRAME_SIZE], pad_length=pad_length or 0)
            if pad_length is not None:
                frame.flags.add("PADDED")
            frames.append(frame)
        if end_stream:
            frames[-1].flags.add("END_STREAM")
        return frames

    def respond(self, stream_id: int, status: int = 200, body: bytes = b"", fields: Fields = ()) -> None:
        """A whole response, with Content-Length if it has a body, in one write."""
        head: list[tuple[Any, ...]] = [(":status", str(status)), *fields]
        if not body:
            self.send(*self._block_frames(stream_id, head, True))
            return
        head.append(("content-length", str(len(body))))
        self.send(*self._block_frames(stream_id, head, False), *self._data_frames(stream_id, body, True))

    def send_settings(self, **settings: int) -> None:
        """SETTINGS, by the names of RFC 9113 6.5.2 in lower case: `send_settings(max_concurrent_streams=1)`."""
        self.send(SettingsFrame(0, {getattr(SettingsFrame, name.upper()): settings[name] for name in settings}))

    def impose(self, **settings: int) -> None:
        """As `send_settings`, and return once the client goes by them. The ACK that comes next does not tell: it may be
        that of the SETTINGS before, of the handshake for instance."""
        self.send_settings(**settings)
        self.sync()

    def rst(self, stream_id: int, code: int = 0) -> None:
        self.send(RstStreamFrame(stream_id, error_code=code))

    def goaway(self, last_stream_id: int, code: int = 0, debug: bytes = b"") -> None:
        self.send(GoAwayFrame(0, last_stream_id=last_stream_id, error_code=code, additional_data=debug))

    def ping(self, opaque: bytes = b"plugwire") -> None:
        """A PING; its ACK is `await_frame(PingFrame, flag="ACK")`."""
        self.send(PingFrame(0, opaque_data=opaque))

    def window_update(self, stream_id: int, increment: int) -> None:
        self.send(WindowUpdateFrame(stream_id, window_increment=increment))

    # -- how it ends

    def close(self) -> None:
        """In order: close_notify over TLS, FIN, close. What the client sends later (an ACK under way) is answered by
        the system with a RST; `half_close` has no such race."""
        close()(self.connection)

    def cut(self) -> None:
        """FIN alone; over TLS an end without close_notify."""
        cut()(self.connection)

    def half_close(self) -> None:
        """End the sending side only. Over TLS no frame can be read afterwards; what comes is thrown away."""
        half_close()(self.connection)
        if isinstance(self.connection.sock, ssl.SSLSocket):
            self._drain()
            self.connection.is_closed = True

    def _drain(self) -> None:
        """Read up to the end, past TLS."""
        sock = self.connection.sock
        socket.socket.settimeout(sock, PATIENCE)
        try:
            while socket.socket.recv(sock, 65536):
                pass
        except ConnectionError:
            pass

    def abort(self) -> None:
        """RST of TCP."""
        abort()(self.connection)

    # -- reading

    def _take(self, taken: Frame) -> None:
        self.left = [frame for frame in self.left if frame is not taken]
        self._blocks = [block for block in self._blocks if block.frames[0] is not taken]

    def _read_frame(self, what: str) -> None:
        frame = self._next_frame(what)
        self.received.append(frame)
        self.left.append(frame)
        if isinstance(frame, HeadersFrame | ContinuationFrame):
            self._on_block_part(frame)
        elif isinstance(frame, SettingsFrame):
            self._on_settings(frame)
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags and self.answers:
            self._answer(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, DataFrame):
            self._on_data(frame)
        self._noticed(frame)

    def _next_frame(self, what: str) -> Frame:
        try:
            header = self.connection.read(9)
            size = int.from_bytes(header[:3])
            is_legal = size <= self._max_frame or not self.checks
            body = self.connection.read(size) if is_legal else b""
        except PeerFailure as error:
            raise ClientClosed(f"the client closed where {what} should come; not taken were {self.left}") from error
        frame, _ = Frame.parse_frame_header(memoryview(header))
        if not is_legal:
            raise PeerFailure(f"a {type(frame).__name__} of {size} bytes, above MAX_FRAME_SIZE")
        frame.parse_body(memoryview(body))
        return frame

    def _on_block_part(self, frame: Frame) -> None:
        self._open_block.append(frame)
        if "END_HEADERS" not in frame.flags:
            return
        frames, self._open_block = self._open_block, []
        stream_id = frames[0].stream_id
        raw: Any = self._decoder.decode(b"".join(part.data for part in frames), raw=True)  # type: ignore[attr-defined]
        fields = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in raw]
        if stream_id not in self.fields:
            if self.checks and (stream_id % 2 == 0 or stream_id <= max(self.fields, default=0)):
                raise PeerFailure(f"a new stream with id {stream_id}, after {sorted(self.fields)}")
            self.fields[stream_id] = fields
            self._windows[stream_id] = self._windows.get(stream_id, 0) + self._initial_window
        self._blocks.append(Block(stream_id, fields, "END_STREAM" in frames[0].flags, frames))

    def _on_settings(self, frame: SettingsFrame) -> None:
        if "ACK" in frame.flags:
            # Only now the client goes by what it was told.
            told = self._sent_settings.pop(0) if self._sent_settings else {}
            self._max_frame = told.get(SettingsFrame.MAX_FRAME_SIZE, self._max_frame)
            table = told.get(SettingsFrame.HEADER_TABLE_SIZE)
            if table is not None:
                self._decoder.max_allowed_table_size = table
            window = told.get(SettingsFrame.INITIAL_WINDOW_SIZE)
            if window is not None:
                for stream_id in self.fields:
                    self._windows[stream_id] += window - self._initial_window
                self._initial_window = window
            return
        names = {value: name.lower() for name, value in vars(SettingsFrame).items() if name.isupper()}
        for identifier, value in frame.settings.items():
            self.settings[names.get(identifier, str(identifier))] = value
        if SettingsFrame.HEADER_TABLE_SIZE in frame.settings:
            self._encoder.header_table_size = min(frame.settings[SettingsFrame.HEADER_TABLE_SIZE], 4096)
        if self.answers:
            self._answer(SettingsFrame(0, flags=["ACK"]))

    def _answer(self, frame: Frame) -> None:
        try:
            self.send(frame)
        except (ConnectionError, ssl.SSLError):  # the client has closed meanwhile, as reading will tell
            pass

    def _grant(self, stream_id: int, increment: int) -> None:
        self._windows[stream_id] = self._windows.get(stream_id, 0) + increment

    def _on_data(self, frame: DataFrame) -> None:
        for stream_id in (0, frame.stream_id):
            self._grant(stream_id, -frame.flow_controlled_length)
            # An empty frame may be sent into a window that is used up, or below 0.
            if self.checks and frame.flow_controlled_length and self._windows[stream_id] < 0:
                raise PeerFailure(f"more DATA than the window of stream {stream_id} lets out: {frame}")

    def _rest(self) -> None:
        """After the last line of the script."""
        streams = len(self.fields)
        try:
            while not self.connection.is_closed:
                self._read_frame("the end")
                if len(self.fields) > streams:
                    raise PeerFailure(f"after the last line came a request: {self._blocks[-1].fields}")
        except ClientClosed:
            pass

    def _give_up(self) -> None:
        """The test is over: who waits for an event has failed."""
        with self._lock:
            self._is_given_up = True
            if self._awaited is not None and not self._awaited.is_set():
                self._awaited.set()
                self._awaited = None


Script: TypeAlias = Callable[[Conversation], object]


class H2Peer(ScriptedPeer):
    """Plays scripts of HTTP/2; see the module.

    Args:
        scripts: one for each connection: a function, or a list of steps of `plugwire.testing.peer` (for a peer that
            does not speak HTTP/2).
        settings: in the SETTINGS that are sent first.
        handshake: whether these are sent, and the client's read, before the script.
        tls: speak TLS.
        alpn: what it offers there.
        repeat: play the last script for all further connections, too.

    Attributes:
        conversations: of each connection whose script is a function.
    """

    def __init__(
        self,
        *scripts: Script | Sequence[Step],
        settings: Mapping[str, int] | None = None,
        handshake: bool = True,
        tls: bool = False,
        alpn: Sequence[str] = ("h2",),
        repeat: bool = False,
    ) -> None:
        steps = [[self._step(script)] if callable(script) else script for script in scripts]
        super().__init__(*steps, repeat=repeat, tls=tls)
        self.conversations: list[Conversation] = []
        self._settings = dict(settings or {})
        self._handshake = handshake
        self._watches: list[_Watch] = []
        self._noticing = threading.Lock()
        self._frames: list[Frame] = []
        if tls:
            self._context = _server_context(tuple(alpn))

    @property
    def tls_config(self) -> TLSConfig:
        return TLSConfig(ca_data=_authority().cert_pem.bytes().decode("ascii"))

    @property
    def received(self) -> list[Frame]:  # type: ignore[override]  # frames say more here than bytes
        """Every frame that was read so far, on any connection, in order."""
        with self._noticing:
            return list(self._frames)

    def event(
        self, kind: type[Frame] = Frame, stream_id: int | None = None, flag: str | None = None, count: int = 1
    ) -> threading.Event:
        """An event that is set when `count` frames of this kind, of this stream, with this flag have been read; those
        before this call count."""
        watch = _Watch(kind, stream_id, flag, count)
        with self._noticing:
            for frame in self._frames:
                watch.see(frame)
            self._watches.append(watch)
        return watch.event

    def _notice(self, frame: Frame) -> None:
        with self._noticing:
            self._frames.append(frame)
            for watch in self._watches:
                watch.see(frame)

    def _step(self, script: Script) -> Step:
        def play(connection: PeerConnection) -> None:
            h2 = Conversation(connection, self._notice)
            with self._noticing:
                self.conversations.append(h2)
            try:
                if self._handshake:
                    h2.handshake(**self._settings)
                else:
                    h2.answers = False
                script(h2)
                h2._rest()
            except BaseException as error:  # pytest's own failures are no Exceptions
                raise PeerFailure(f"{_where(script, error)}: {type(error).__name__}: {error}") from error

        play.__name__ = getattr(script, "__name__", type(script).__name__)
        return play

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for h2 in list(self.conversations):
            h2._give_up()
        super().__exit__(kind, error, trace)


class _Watch:
    def __init__(self, kind: type[Frame], stream_id: int | None, flag: str | None, count: int) -> None:
        self._wanted = (kind, stream_id, flag)
        self._missing = count
        self.event = threading.Event()

    def see(self, frame: Frame) -> None:
        self._missing -= _fits(frame, *self._wanted)
        if self._missing <= 0:
            self.event.set()


def _fits(frame: Frame, kind: type[Frame], stream_id: int | None, flag: str | None) -> bool:
    return isinstance(frame, kind) and stream_id in (None, frame.stream_id) and (flag is None or flag in frame.flags)


def _where(script: Script, error: BaseException) -> str:
    """In which line of the script."""
    code = getattr(script, "__code__", None)
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
    return f"line {lines[-1]}" if lines else "around the script"


@lru_cache(maxsize=1)
def _authority() -> trustme.CA:
    return trustme.CA()


@lru_cache(maxsize=8)
def _server_context(alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    _authority().issue_cert(*NAMES).configure_cert(context)
    return context
