"""TLS as a plain `Stream` over any `Stream`: one text for every world, and TLS inside TLS for free.

Theory. OpenSSL runs over two memory buffers, never over a socket. `_incoming` holds ciphertext of the lower stream that
OpenSSL has not taken yet, `_outgoing` ciphertext that OpenSSL has made and the lower stream has not got yet. The rules:

1. **OpenSSL takes all it can.** When it says "want read", `_incoming` is empty and no plaintext is left in OpenSSL. So
   `_incoming.pending` and `SSLObject.pending()` both 0 means *dry*: ask the lower stream. If not dry, a wait for
   readability returns at once; a wait below would hang on bytes that we hold already.
2. **`_outgoing` goes into `lower.write_now` as soon as it is filled**, before anything is awaited. What does not go out
   at once the lower stream keeps, in order. So no cancel and no time-out can tear a record.
3. **Plaintext is encrypted late.** `_plain` holds references to what `write_now` took; a batch is encrypted when the
   lower stream has nothing unsent. A body of 1 GiB costs one batch of memory.
4. **A read may have to write** (TLS 1.3 key update, post-handshake authentication) **and a write to read** (TLS 1.2
   renegotiation, in a caller's own context). `_is_answering` and `_write_wants_read` carry that into the waits.
5. **Readable below is not readable here.** Session tickets and key updates wake a wait and decrypt to nothing. Only a
   look decides: `_has_news` decrypts, and keeps what it found in `_ahead`. A wait does not look: another thread may be
   inside of OpenSSL. It goes by `_is_dry`, which a read sets when it finds rule 1's case, and what comes from below
   takes back; not dry, it returns early, and the read that follows finds content or makes it dry. What is in `_ahead`
   was read, so it is not dry then.
6. **The end is authenticated** (RFC 8446, 6.1). close_notify is b"" for ever. The lower stream's end without it is
   `ConnectionResetError`, because anybody on the way can fake a FIN and cut a body short. OpenSSL is never told of the
   lower end, so OP_IGNORE_UNEXPECTED_EOF in a caller's context changes nothing.

Forget rule 1 and a reader hangs with its answer in memory; forget 2 and a time-out ruins the connection unseen; forget
5 and a session ticket stops an upload. `abort` may come from another thread: it swaps `_read`, `_write` and `_pending`,
one assignment each, and aborts the lower stream; OpenSSL's objects bear one user at a time, and two of them crash the
process. So may `close`, of a connection whose own thread is just reading the rest of a response. Who touches one of
them marks itself first (`_is_inside`) and then looks whether the stream is closed, or takes `_read` or `_write`;
`close` does it the other way around. With somebody inside it leaves OpenSSL alone, and the peer hears no close_notify.
"""

from __future__ import annotations

import ssl
from collections import deque
from errno import ECONNABORTED, ECONNRESET, EPIPE, EPROTO
from typing import TYPE_CHECKING, Any, TypeVar

from plugwire.protocols import SOCKET, TLS, Extra, Stream, TLSInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plugwire.protocols import Buffer

T = TypeVar("T")

RECORDS = 65536
"""Ciphertext asked of the lower stream at a time: four full records."""

BATCH = 65536
"""Plaintext encrypted at a time."""

RECORD = 16384
"""The most plaintext in one record (RFC 8446, 5.1)."""


NOTHING_AT_MOST = 1 << 20
"""Ciphertext that one look takes without finding content: session tickets and key updates are never that many."""


class TLSStream(Stream):
    """The plaintext side of a TLS connection over `lower`, which it owns; after the handshake.

    Raises builtin `OSError` kinds only: `ConnectionResetError` when the peer breaks off, by an end without close_notify
    or a fatal alert; `OSError` (EPROTO) when a record is bad.

    Args:
        lower: carries the ciphertext.
        tls, incoming, outgoing: the SSLObject after its handshake, and its two buffers.
        info: what the handshake agreed on.
        keep_session: called once, at an orderly close, when nobody uses `tls` any more.
    """

    def __init__(
        self,
        lower: Stream,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        info: TLSInfo,
        keep_session: Callable[[], object] | None = None,
    ) -> None:
        self.info = info
        self._lower = lower
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._keep_session = keep_session
        # Swapped when the stream is over, so that the hot road need not ask whether it is.
        self._read: Callable[..., Any] = tls.read
        self._write: Callable[[Buffer], int] = tls.write
        self._pending: Callable[[], int] = tls.pending
        self._plain: deque[memoryview] = deque()
        self._plain_size = 0
        self._ahead = b""
        self._is_dry = not (incoming.pending or tls.pending())  # OpenSSL holds nothing, as the last read has seen
        self._is_answering = False
        self._write_wants_read = False
        self._is_sound = True
        self._is_inside = False  # somebody is inside of OpenSSL, or hands down what came out of it
        self._has_said_end = False
        self._is_aborted = False
        self._is_closed = False

    # -- reading -------------------------------------------------------------------------------------------------

    def read_now(self, max_bytes: int) -> bytes | None:
        if self._ahead:
            return self._take_ahead(max_bytes)
        left = NOTHING_AT_MOST
        while True:
            if not self._incoming.pending and not self._pending():
                if self._outgoing.pending or self._is_answering:
                    self._answer()
                data = self._lower.read_now(RECORDS)
                if data is None:
                    self._is_dry = True
                    return None
                left -= len(data)
                if left < 0:  # who never waits looks at no clock, so a peer that pours would never let it go
                    raise self._fail(OSError(EPROTO, "TLS: the peer sends records without content, and no end of them"))
                self._take(data)
            try:
                self._is_inside = True
                plain: bytes = self._read(max_bytes)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                plain = self._end(error)
            finally:
                self._is_inside = False
            return plain if plain or not max_bytes else self._end(None)

    async def receive(self, max_bytes: int, at: float) -> bytes:
        if self._ahead:
            return self._take_ahead(max_bytes)
        while True:
            if not self._incoming.pending and not self._pending():
                if self._outgoing.pending or self._is_answering:
                    return await super().receive(max_bytes, at)
                self._is_dry = True
                self._take(await self._lower.receive(RECORDS, at))
            try:
                self._is_inside = True
                plain: bytes = self._read(max_bytes)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                plain = self._end(error)
            finally:
                self._is_inside = False
            return plain if plain or not max_bytes else self._end(None)

    async def receive_into(self, buffer: memoryview, at: float) -> int:
        if self._ahead or not buffer:
            return await super().receive_into(buffer, at)
        while True:
            if not self._incoming.pending and not self._pending():
                if self._outgoing.pending or self._is_answering:
                    return await super().receive_into(buffer, at)
                self._is_dry = True
                self._take(await self._lower.receive(RECORDS, at))
            try:
                self._is_inside = True
                size: int = self._read(len(buffer), buffer)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                size = len(self._end(error))
            finally:
                self._is_inside = False
            if not size:
                return len(self._end(None))
            # Whole records that came along: decrypt them into place too. What stops this comes again at the next read.
            while self._incoming.pending and size < len(buffer):
                try:
                    self._is_inside = True
                    more: int = self._read(len(buffer) - size, buffer[size:])
                except ssl.SSLWantReadError:
                    break
                except ssl.SSLError as error:
                    try:
                        self._end(error)
                    except OSError:
                        pass
                    break
                finally:
                    self._is_inside = False
                if not more:
                    self._end(None)
                    break
                size += more
            return size

    def _take(self, data: bytes) -> None:
        """Ciphertext from below; b"" is its end, which is none of ours."""
        self._is_dry = False
        if not data:
            raise self._fail(ConnectionResetError(ECONNRESET, "the peer closed the connection without close_notify"))
        try:
            self._is_inside = True
            if self._is_closed:
                raise _over()
            self._incoming.write(data)
        finally:
            self._is_inside = False

    def _take_ahead(self, max_bytes: int) -> bytes:
        data, self._ahead = self._ahead[:max_bytes], self._ahead[max_bytes:]
        return data

    def _has_news(self) -> bool:
        """True if the next read gives something: content, the end, or an error."""
        if not self._ahead:
            try:
                data = self.read_now(RECORD)
            except ConnectionAbortedError:
                raise
            except OSError as error:
                self._fail(error)
                return True
            if data is None:
                return False
            self._ahead = data
        return True

    def _answer(self) -> None:
        """Send what a read had to write. If that fails the reading goes on: the next write will tell."""
        try:
            self._is_inside = True
            self._check()
            self._lower.write_now(self._outgoing.read())
            self._is_answering = self._lower.unsent > 0
        except OSError:
            self._is_answering = False
        finally:
            self._is_inside = False

    # -- how it ends ---------------------------------------------------------------------------------------------

    def _end(self, error: ssl.SSLError | None) -> bytes:
        """OpenSSL gives nothing more: b"" after close_notify, from now on; else raises, from now on."""
        if error is None or isinstance(error, ssl.SSLZeroReturnError):
            self._pending = _one
            self._read = _read_end
            return b""
        self._is_sound = False
        text = in_words(error)
        alert = "_ALERT_" in (error.reason or "")
        kind = ConnectionResetError(ECONNRESET, text) if alert else OSError(EPROTO, f"TLS: {text}")
        raise self._fail(kind) from error

    def _fail(self, error: OSError) -> OSError:
        """From now on every read raises the same; `_pending` keeps it from asking the lower stream."""
        self._is_dry = False
        if not (self._is_aborted or self._is_closed):
            self._pending = _one
            self._read = _raises(error)
        return error

    # -- writing -------------------------------------------------------------------------------------------------

    def write_now(self, data: Buffer | Sequence[Buffer]) -> None:
        # The short road: a request with nothing before it. What stops it, the long one meets again and sorts out.
        lower = self._lower
        if isinstance(data, bytes) and 0 < len(data) <= BATCH and not self._plain_size and not lower.unsent:
            try:
                self._is_inside = True
                try:
                    done = self._write(data)
                except OSError:
                    done = 0
                if done == len(data):
                    lower.write_now(self._outgoing.read())
                    return
            finally:
                self._is_inside = False
            data = data[done:]
        self._keep(data)
        self._push()

    @property
    def unsent(self) -> int:
        """Bytes not encrypted yet, and bytes of ciphertext in the lower stream."""
        return self._plain_size + self._lower.unsent

    async def send(self, data: Buffer | Sequence[Buffer], at: float, stop_if_readable: bool = False) -> int:
        if isinstance(data, bytes) and not stop_if_readable:
            size = len(data)
            self.write_now(data)
        else:
            has_news = stop_if_readable and self._has_news()
            size = self._keep(data)
            if has_news:
                return 0
            self._push()
        while self._plain_size or self._lower.unsent:
            await self.wait(stop_if_readable, True, at)
            if stop_if_readable and self._has_news():
                break
            self._push()
        self._check()  # over, nothing is unsent, though it has not gone out
        return max(size - self.unsent, 0)

    async def send_eof(self, at: float) -> None:
        while self.unsent:
            await self.wait(False, True, at)
            self._push()
        if self._is_sound:
            self._write = _raises(BrokenPipeError(EPIPE, "the sending side was ended"))
            try:
                self._is_inside = True
                self._check()
                self._say_end()
            finally:
                self._is_inside = False
        self._push()
        while self._lower.unsent:
            await self._lower.wait(False, True, at)
            self._lower.write_now(b"")
        self._check()

    def _keep(self, data: Buffer | Sequence[Buffer]) -> int:
        """Queue it; its size."""
        self._check()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            pieces = [memoryview(piece).cast("B") for piece in data]
            size = sum(map(len, pieces))
            if size > RECORD:
                self._plain.extend(piece for piece in pieces if piece)
                self._plain_size += size
                return size
            # Head and body of a small request: one record, not two.
            data = b"".join(pieces)
        view = memoryview(data).cast("B")
        if view:
            self._plain.append(view)
            self._plain_size += len(view)
        return len(view)

    def _push(self) -> None:
        """Encrypt and hand down, until the lower stream has something unsent or nothing is left."""
        lower, outgoing, plain = self._lower, self._outgoing, self._plain
        if self._write_wants_read:
            # Tried again in any case: a read may have taken meanwhile what the write was waiting for.
            self._write_wants_read = False
            data = lower.read_now(RECORDS)
            if data is not None:
                self._take(data)
        try:
            self._is_inside = True
            self._check()
            while True:
                if outgoing.pending or lower.unsent:
                    lower.write_now(outgoing.read())
                if not plain or lower.unsent or self._write_wants_read:
                    return
                piece = plain[0]
                try:
                    done = self._write(piece[:BATCH])
                except ssl.SSLWantReadError:
                    # OpenSSL must see the same bytes again, and does: they stay first in the queue.
                    self._write_wants_read = True
                    continue
                except OSError as error:
                    # Nothing that is queued will ever go out.
                    self._is_sound = False
                    plain.clear()
                    self._plain_size = 0
                    if isinstance(error, ssl.SSLError):
                        raise BrokenPipeError(EPIPE, f"TLS: {in_words(error)}") from error
                    raise
                self._plain_size -= done
                if done == len(piece):
                    plain.popleft()
                else:
                    plain[0] = piece[done:]
        finally:
            self._is_inside = False

    def _say_end(self) -> None:
        """close_notify into `_outgoing`, once."""
        if self._has_said_end:
            return
        self._has_said_end = True
        # unwrap() also looks for the peer's close_notify, and finding content there it breaks the connection for good;
        # so content is taken out of its sight.
        if size := self._tls.pending():
            self._ahead += self._tls.read(size)
        held = self._incoming.read()
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # it wants to read
        self._incoming.write(held)

    # -- waiting, closing ----------------------------------------------------------------------------------------

    async def wait(self, read: bool, write: bool, at: float) -> None:
        # Python's own attributes alone, because another thread may move bytes meanwhile (`Stream`): OpenSSL's objects
        # bear one thread at a time, and even the question what is pending races with a change of keys.
        if read and not self._is_dry and not self._is_closed and not self._is_aborted:
            return
        if write:
            if self._write_wants_read:
                read, write = True, self._lower.unsent > 0
            elif self._plain and not self._lower.unsent:
                return
        await self._lower.wait(read, write or self._is_answering, at)

    def nudge(self) -> None:
        self._lower.nudge()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._refuse()
        if not self._is_inside:
            self._let_go()
        self._keep_session = None
        self._ahead = b""
        self._lower.close()

    def _let_go(self) -> None:
        """Be done with OpenSSL, where nobody is inside, nor will be any more."""
        # After a part of what was to be sent close_notify would be a lie: the peer took a cut body for a whole one.
        if self._is_sound and not self.unsent:
            try:
                self._say_end()
                self._lower.write_now(self._outgoing.read())
            except OSError:
                pass
        if self._keep_session is not None and self._is_sound:
            self._keep_session()
        self._plain.clear()
        self._plain_size = 0
        self._incoming.read()

    def abort(self) -> None:
        self._is_aborted = True
        self._is_sound = False
        self._refuse()
        self._lower.abort()

    def disown(self) -> None:
        self._is_closed = True
        self._is_sound = False
        self._refuse()
        self._lower.disown()

    def _refuse(self) -> None:
        """From now on everything raises."""
        self._read = self._write = self._pending = _raises(_over())

    def _check(self) -> None:
        if self._is_aborted or self._is_closed:
            raise _over()

    def extra(self, key: Extra[T], default: T | None = None) -> T | None:
        if key is TLS:
            return self.info  # type: ignore[return-value]  # T is TLSInfo, by the key
        if key is SOCKET:
            return default
        return self._lower.extra(key, default)


def _over() -> ConnectionAbortedError:
    return ConnectionAbortedError(ECONNABORTED, "the stream was closed on this side")


def _one() -> int:
    return 1


def _read_end(_size: int, buffer: memoryview | None = None) -> bytes | int:
    return b"" if buffer is None else 0


def _raises(error: OSError) -> Callable[..., Any]:
    """A function that raises the like of `error`, anew each time: the same object would gather tracebacks."""
    kind, args = type(error), error.args

    def fail(*_: object) -> Any:
        raise kind(*args)

    return fail


_REASONS = {
    "UNSUPPORTED_PROTOCOL": "the peer has no TLS version that is allowed here",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer has no TLS version that is allowed here",
}


def in_words(error: OSError) -> str:
    """What went wrong, in words, without OpenSSL's decoration."""
    if not isinstance(error, ssl.SSLError):
        return str(error)
    reason = error.reason or ""
    if reason in _REASONS:
        return _REASONS[reason]
    _, is_alert, alert = reason.rpartition("_ALERT_")
    if is_alert:
        return f"the peer sent the alert {alert.lower().replace('_', ' ')!r}"
    return reason.lower().replace("_", " ") or str(error)
