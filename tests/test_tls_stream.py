"""`TLSStream`: what a stream promises, kept over records, tickets, key updates and odd ends."""

from __future__ import annotations

import ssl
import threading
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugwire.config import TLSConfig
from plugwire.drive import drive
from plugwire.protocols import SOCKET, TLS
from plugwire.runtimes import blocking_runtime
from plugwire_transports.tls_stream import NOTHING_AT_MOST
from test_streams import Sharing, echoes, hurried  # noqa: F401  (a fixture)
from test_tls_worlds import inside_tls, over_tcp
from tls_peer import CA_PEM, PEER_ADDRESS, Fault, Peer, Wire, secured, server_context
from worlds import in_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire_transports.tls_stream import TLSStream

VERSIONS = ("TLSv1_2", "TLSv1_3")
TRUSTING = TLSConfig(ca_data=CA_PEM)
CONTEXTS = {version: server_context(version=version) for version in VERSIONS}


def connected(version: str = "TLSv1_3", **wire: Any) -> tuple[TLSStream, Peer, Wire]:
    peer = Peer(CONTEXTS[version])
    lower = Wire(peer, **wire)
    return secured(lower, TRUSTING), peer, lower


def read_all(stream: TLSStream, read: Callable[[TLSStream], bytes]) -> bytes:
    content = b""
    while data := read(stream):
        content += data
    return content


def by_receive(stream: TLSStream) -> bytes:
    return drive(stream.receive(1000, inf))


def by_receive_into(stream: TLSStream) -> bytes:
    buffer = bytearray(50_000)
    return bytes(buffer[: drive(stream.receive_into(memoryview(buffer), inf))])


def by_looking(stream: TLSStream) -> bytes:
    for _ in range(1000):
        data = stream.read_now(700)
        if data is not None:
            return data
        drive(stream.wait(True, False, inf))
    raise AssertionError("a wait for readability goes on returning early")


READS = [by_receive, by_receive_into, by_looking]


# -- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
def test_content_comes_whole_and_ends_for_ever(version: str, read: Callable[[TLSStream], bytes], piece: int) -> None:
    stream, peer, lower = connected(version, piece=piece)
    content = bytes(range(256)) * 150
    for start in range(0, len(content), 20_000):
        peer.say(content[start : start + 20_000])
    peer.say_end()
    assert read_all(stream, read) == content
    assert not stream.read_now(10) and stream.read_now(10) is not None
    assert drive(stream.receive(10, inf)) == b""
    assert drive(stream.receive_into(memoryview(bytearray(5)), inf)) == 0
    drive(stream.wait(True, False, inf))  # an end counts as readable, though the lower stream stays open
    stream.close()
    assert lower.is_closed


@given(
    pieces=st.lists(st.integers(1, 400), max_size=60),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=20),
    read=st.sampled_from(READS),
)
def test_any_split_of_the_ciphertext_gives_the_same_plaintext(
    pieces: list[int], sizes: list[int], read: Callable[[TLSStream], bytes]
) -> None:
    stream, peer, lower = connected()
    records = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    for record in records:
        peer.say(record)
    peer.say_end()
    lower.pieces = pieces.copy()
    assert read_all(stream, read) == b"".join(records)


def test_nothing_there_is_none_and_tickets_are_nothing() -> None:
    stream, peer, _ = connected()
    assert peer.outbox, "TLS 1.3 sends its tickets after the handshake"
    assert stream.read_now(100) is None
    assert not peer.outbox
    peer.say(b"x")
    assert stream.read_now(100) == b"x"


def test_a_look_does_not_go_on_for_ever_without_content() -> None:
    context = server_context(version="TLSv1_3")
    context.num_tickets = 10_000
    peer = Peer(context)
    stream = secured(Wire(peer), TRUSTING)
    assert len(peer.outbox) > NOTHING_AT_MOST
    for _ in range(2):
        with pytest.raises(OSError, match="without content"):
            stream.read_now(100)


def test_an_empty_buffer_is_not_the_end() -> None:
    stream, peer, _ = connected()
    peer.say(b"abc")
    assert drive(stream.receive_into(memoryview(bytearray()), inf)) == 0
    assert stream.read_now(0) == b""
    assert drive(stream.receive(10, inf)) == b"abc"


def test_receive_into_fills_the_buffer_from_the_records_that_are_there() -> None:
    stream, peer, lower = connected()
    for letter in b"abc":
        peer.say(bytes([letter]) * 100)
    buffer = bytearray(1000)
    assert drive(stream.receive_into(memoryview(buffer), inf)) == 300
    assert lower.waits <= 3


def test_a_wait_does_not_hang_on_what_is_decrypted_already() -> None:
    stream, peer, lower = connected()
    peer.say(b"x" * 100)
    assert drive(stream.receive(10, inf)) == b"x" * 10
    before = lower.waits
    drive(stream.wait(True, False, inf))
    assert lower.waits == before


def test_a_wait_does_not_hang_on_a_whole_record_that_came_with_another() -> None:
    stream, peer, lower = connected()
    peer.say(b"x")
    peer.say(b"y")
    assert drive(stream.receive(10, inf)) == b"x"
    before = lower.waits
    drive(stream.wait(True, False, inf))
    assert lower.waits == before


def test_a_wait_is_ended_once_at_most_by_a_ticket_that_is_here_already() -> None:
    stream, peer, lower = connected()
    stream._take(bytes(peer.outbox))
    peer.outbox.clear()
    drive(stream.wait(True, False, inf))
    assert stream.read_now(100) is None
    with pytest.raises(TimeoutError, match="nothing will ever come"):
        drive(stream.wait(True, False, inf))
    assert lower.waits


# -- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READS)
def test_an_end_without_close_notify_is_a_reset(read: Callable[[TLSStream], bytes]) -> None:
    stream, peer, lower = connected()
    peer.say(b"half of it")
    lower.is_ended = True
    assert read(stream) == b"half of it"
    for _ in range(2):
        with pytest.raises(ConnectionResetError, match="close_notify"):
            read(stream)


def test_an_end_in_the_middle_of_a_record_is_a_reset() -> None:
    stream, peer, lower = connected()
    peer.say(b"x" * 1000)
    lower.cut = lower.given + len(peer.outbox) - 1
    with pytest.raises(ConnectionResetError):
        read_all(stream, by_receive)


def test_a_callers_context_that_ignores_the_missing_end_does_not() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CA_PEM)
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    peer = Peer(CONTEXTS["TLSv1_3"])
    lower = Wire(peer)
    stream = secured(lower, TLSConfig(context=context))
    lower.is_ended = True
    with pytest.raises(ConnectionResetError):
        by_receive(stream)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("read", READS)
def test_a_bad_record_is_an_error_in_clear_words_and_stays(version: str, read: Callable[[TLSStream], bytes]) -> None:
    stream, peer, _ = connected(version)
    stream.read_now(10)
    peer.say(b"secret")
    peer.outbox[-1] ^= 1
    for _ in range(2):
        with pytest.raises(OSError, match="bad record mac") as caught:
            read(stream)
        assert not isinstance(caught.value, ssl.SSLError)
    with pytest.raises(OSError, match="TLS") as caught:
        stream.write_now(b"more")
    assert not isinstance(caught.value, ssl.SSLError)
    assert stream.unsent == 0
    stream.close()


def test_content_before_a_bad_record_is_not_lost() -> None:
    stream, peer, _ = connected()
    peer.say(b"good")
    peer.say(b"bad")
    peer.outbox[-1] ^= 1
    assert by_receive_into(stream) == b"good"
    with pytest.raises(OSError, match="bad record mac"):
        by_receive_into(stream)


def test_close_says_close_notify_when_it_goes_out_at_once() -> None:
    stream, peer, _ = connected()
    stream.close()
    stream.close()
    assert peer.has_ended


def test_close_after_a_cut_upload_says_nothing() -> None:
    # The peer would take the part for the whole.
    stream, peer, lower = connected()
    lower.room = 100
    stream.write_now(b"x" * 1000)
    assert stream.unsent
    lower.room = inf
    stream.close()
    assert not peer.has_ended
    assert lower.is_closed


@pytest.mark.parametrize("is_aborted", [False, True])
def test_after_close_or_abort_everything_says_so(is_aborted: bool) -> None:
    stream, peer, lower = connected()
    peer.say(b"x" * 100)
    stream.read_now(1)
    if is_aborted:
        stream.abort()
        assert lower.is_aborted
    else:
        stream.close()
    for act in (
        lambda: stream.read_now(1),
        lambda: drive(stream.receive(1, inf)),
        lambda: drive(stream.receive_into(memoryview(bytearray(1)), inf)),
        lambda: stream.write_now(b"x"),
        lambda: drive(stream.send(b"x", inf)),
        lambda: drive(stream.send(b"x", inf, True)),
        lambda: stream.write_now(b""),
        lambda: drive(stream.send_eof(inf)),
        lambda: drive(stream.wait(True, False, inf)),
        lambda: drive(stream.wait(False, True, inf)),
    ):
        with pytest.raises(ConnectionAbortedError):
            act()
    stream.close()
    assert lower.is_closed


@pytest.mark.parametrize("end", ["abort", "close"])
@pytest.mark.parametrize(("size", "listens"), [(100, False), (100, True), (1 << 20, False)])
def test_what_an_end_drops_was_not_sent(end: str, size: int, listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, _, lower = connected()
    write_now = lower.write_now

    def then_ends(data: bytes) -> None:  # another thread does, before the writer looks what is unsent
        write_now(data)
        lower.kept.clear()
        getattr(stream, end)()

    lower.room = 10
    monkeypatch.setattr(lower, "write_now", then_ends)
    with pytest.raises(ConnectionAbortedError):
        drive(stream.send(b"x" * size, inf, listens))


def test_abort_may_come_from_another_thread() -> None:
    stream, _, lower = connected()
    thread = threading.Thread(target=stream.abort)
    thread.start()
    thread.join()
    assert lower.is_aborted
    with pytest.raises(ConnectionAbortedError):
        by_receive(stream)


def test_an_abort_in_the_middle_of_a_read_is_not_overruled_by_its_symptom(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, _, lower = connected()

    def read_now(_: int) -> bytes:
        stream.abort()
        return b""

    monkeypatch.setattr(lower, "read_now", read_now)
    with pytest.raises(ConnectionError):
        by_receive(stream)
    with pytest.raises(ConnectionAbortedError):
        by_receive(stream)


# -- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("data", [
    b"", b"x", b"x" * 16385, bytearray(b"abc"), memoryview(b"abc"),
    [b"head", b"body"], [], [b"", b"x" * 50_000, memoryview(b"y" * 70_000)],
])  # fmt: skip
def test_all_kinds_of_data_go_out(version: str, data: Any) -> None:
    stream, peer, _ = connected(version)
    whole = bytes(data) if not isinstance(data, list) else b"".join(data)
    assert drive(stream.send(data, inf)) == len(whole)
    assert peer.received == whole
    assert stream.unsent == 0


def test_a_small_head_and_body_are_one_record() -> None:
    stream, _, lower = connected()
    sizes: list[int] = []
    feed = lower.peer.feed
    lower.peer.feed = lambda data: sizes.append(len(data)) or feed(data)
    drive(stream.send([b"h" * 100, b"b" * 100], inf))
    assert sizes == [200 + 22]


@pytest.mark.parametrize("window", [1, 7, 1000, 100_000])
def test_what_does_not_go_out_at_once_goes_out_in_order(window: int) -> None:
    stream, peer, lower = connected()
    lower.window = lower.room = window
    content = bytes(range(256)) * (4 if window == 1 else 1000)
    stream.write_now(content)
    stream.write_now([b"the", b" end"])
    assert stream.unsent
    assert drive(stream.send(b".", inf)) == 1
    assert peer.received == content + b"the end."
    assert stream.unsent == 0


def test_a_large_upload_holds_one_batch_of_ciphertext() -> None:
    stream, peer, lower = connected()
    lower.window = lower.room = 40_000
    content = bytes(8 << 20)
    drive(stream.send(content, inf))
    assert len(peer.received) == len(content)
    assert lower.most_kept < 140_000


def test_an_upload_stops_when_the_peer_speaks() -> None:
    stream, peer, lower = connected()
    lower.window = lower.room = 10_000
    peer.reply = lambda peer: peer.say(b"enough") if not peer.has_ended else None
    content = bytes(1 << 20)
    sent = drive(stream.send(content, inf, True))
    assert 0 < sent < len(content)
    assert stream.unsent
    assert by_receive(stream) == b"enough"


def test_an_upload_looks_before_it_writes() -> None:
    stream, peer, _ = connected()
    peer.say(b"wait")
    assert drive(stream.send(b"body", inf, True)) == 0
    assert peer.received == b""
    assert by_receive(stream) == b"wait"
    assert drive(stream.send(b"", inf, True)) == 0  # an informational response does not end an upload: the rest is kept
    assert peer.received == b"body"


def test_a_session_ticket_does_not_stop_an_upload() -> None:
    stream, peer, lower = connected()
    assert peer.outbox, "tickets are on their way"
    lower.window = lower.room = 10_000
    content = bytes(100_000)
    assert drive(stream.send(content, inf, True)) == len(content)
    assert peer.received == content


def test_an_error_seen_while_sending_is_kept_for_the_reader() -> None:
    stream, peer, lower = connected()
    lower.is_ended = True
    stream.read_now(10) if not peer.outbox else None
    assert drive(stream.send(b"body", inf, True)) == 0
    with pytest.raises(ConnectionResetError):
        by_receive(stream)


def test_an_error_that_the_lower_stream_tells_once_is_kept_for_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, _, lower = connected()
    errors: list[OSError] = [TimeoutError(110, "the keep-alive probes went unanswered")]

    def read_now(_: int) -> bytes | None:
        if errors:
            raise errors.pop()
        return None

    monkeypatch.setattr(lower, "read_now", read_now)
    assert drive(stream.send(b"body", inf, True)) == 0
    with pytest.raises(TimeoutError, match="probes"):
        stream.read_now(1)


def test_an_error_of_the_lower_stream_passes_through() -> None:
    stream, _, lower = connected()
    lower.broken = BrokenPipeError("gone")
    with pytest.raises(BrokenPipeError, match="gone"):
        drive(stream.send(b"x", inf))
    stream.close()


# -- half close ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("read", READS)
def test_send_eof_ends_one_direction_only(version: str, read: Callable[[TLSStream], bytes]) -> None:
    stream, peer, lower = connected(version)
    stream.read_now(1)
    lower.window = lower.room = 100
    peer.say(b"a" * 5000)  # content on its way: half in OpenSSL, half in the buffer
    peer.say(b"b" * 5000)
    assert drive(stream.receive(10, inf)) == b"a" * 10
    stream.write_now(b"x" * 1000)
    drive(stream.send_eof(inf))
    assert peer.received == b"x" * 1000
    assert peer.has_ended
    with pytest.raises(BrokenPipeError):
        stream.write_now(b"more")
    peer.say_end()
    assert read_all(stream, read) == b"a" * 4990 + b"b" * 5000
    assert read(stream) == b""
    stream.close()


# -- time-outs and cancels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [TimeoutError(), Fault()])
def test_no_fault_in_a_wait_tears_a_record(fault: BaseException) -> None:
    """Interrupt each wait of an exchange once, go on, and see both sides whole."""
    number = 0
    while True:
        number += 1
        stream, peer, lower = connected(piece=150)
        lower.window = lower.room = 200
        lower.faults = {lower.waits + number: fault}
        peer.say(b"down" * 1000)
        interrupted = False
        got = b""
        try:
            drive(stream.send(b"up" * 1500, inf))
        except (TimeoutError, Fault):
            interrupted = True
            drive(stream.send(b"", inf))
        while len(got) < 4000:
            try:
                got += drive(stream.receive(100, inf))
            except (TimeoutError, Fault):
                interrupted = True
        try:
            drive(stream.send_eof(inf))
        except (TimeoutError, Fault):
            interrupted = True
            drive(stream.send_eof(inf))
        assert got == b"down" * 1000
        assert peer.received == b"up" * 1500
        assert peer.has_ended and peer.error is None
        if not interrupted:
            break
    assert number > 10


# -- what a read has to write --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, inf])
@pytest.mark.parametrize("read", READS)
def test_a_read_sends_what_openssl_wants_to_say(window: float, read: Callable[[TLSStream], bytes]) -> None:
    """Post-handshake authentication (RFC 8446, 4.6.2): the request comes in a read, the answer must go out by it."""
    context = server_context()
    context.post_handshake_auth = True
    context.verify_mode = ssl.CERT_OPTIONAL
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    mine.load_verify_locations(cadata=CA_PEM)
    mine.post_handshake_auth = True
    peer = Peer(context)
    lower = Wire(peer)
    stream = secured(lower, TLSConfig(context=mine))
    drive(stream.send(b"GET", inf))
    assert stream.read_now(1) is None
    lower.window = lower.room = window
    peer.tls.verify_client_post_handshake()
    peer.turn()
    said: list[bool] = []
    feed = peer.feed

    def feed_and_tell(data: bytes) -> None:
        feed(data)
        if peer.outbox and len(said) == 0:  # it has accepted the answer, with a new ticket
            said.append(True)
            peer.say(b"content")

    peer.feed = feed_and_tell  # type: ignore[method-assign]
    assert read(stream) == b"content"
    assert peer.error is None
    drive(stream.send(b" more", inf))
    assert peer.received == b"GET more"


def test_a_write_that_has_to_read_first_waits_for_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Room to write would end the wait at once, for ever.
    stream, _, lower = connected()
    stream.read_now(1)
    waits: list[tuple[bool, bool]] = []

    async def wait(read: bool, write: bool, at: float) -> None:
        waits.append((read, write))
        assert len(waits) < 5
        stream._write = stream._tls.write

    def refuse(_: object) -> int:
        raise ssl.SSLWantReadError

    monkeypatch.setattr(lower, "wait", wait)
    stream._write = refuse
    assert drive(stream.send(b"x", inf)) == 1
    assert waits == [(True, False)]


def test_a_failed_answer_does_not_stop_the_reading() -> None:
    stream, peer, lower = connected()
    stream._outgoing.write(b"an answer")  # type: ignore[attr-defined]
    lower.broken = BrokenPipeError()
    peer.say(b"content")
    assert by_receive(stream) == b"content"


# -- what lies below -----------------------------------------------------------------------------------------------


def test_extras_pass_through_but_for_the_socket() -> None:
    stream, _, _ = connected()
    info = stream.extra(TLS)
    assert info is not None and info.version == "TLSv1.3" and info.server_hostname == "peer.example"
    assert stream.extra(PEER_ADDRESS) == "in memory"
    assert stream.extra(SOCKET) is None


def test_tls_inside_tls() -> None:
    outer, peer, _ = connected()
    inner_peer = Peer(CONTEXTS["TLSv1_2"])

    def relay(_: Peer) -> None:
        data, peer.received = peer.received, b""
        inner_peer.feed(data)
        if inner_peer.outbox:
            peer.say(bytes(inner_peer.outbox))
            inner_peer.outbox.clear()

    peer.reply = relay
    inner = secured(outer, TRUSTING)
    assert inner.info.version == "TLSv1.2" and outer.info.version == "TLSv1.3"
    inner_peer.reply = lambda inner_peer: inner_peer.say(b"echo " + inner_peer.received)
    drive(inner.send(b"hello", inf))
    assert by_receive(inner) == b"echo hello"
    assert inner.extra(TLS) is inner.info
    inner.close()
    assert inner_peer.has_ended and peer.has_ended


# -- shared by threads ---------------------------------------------------------------------------------------------


class Untouchable:
    """Stands for an object of OpenSSL's that another thread is inside of."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of it was asked for")

    def __call__(self, *_: object) -> Any:
        raise AssertionError("it was called")


INSIDE: dict[str, tuple[str, Callable[[TLSStream], object]]] = {
    "read_now": ("_read", lambda stream: stream.read_now(10)),
    "receive": ("_read", lambda stream: drive(stream.receive(10, inf))),
    "receive_into": ("_read", lambda stream: drive(stream.receive_into(memoryview(bytearray(10)), inf))),
    "write_now": ("_write", lambda stream: stream.write_now(b"x")),
    "write_now of two": ("_write", lambda stream: stream.write_now([b"x", b"y"])),
    "unwrap": ("_tls", lambda stream: drive(stream.send_eof(inf))),
}


@pytest.mark.parametrize("inside", INSIDE)
def test_who_closes_while_another_thread_is_inside_of_openssl_touches_nothing_of_it(inside: str) -> None:
    """It bears one thread at a time, and two of them crash the process."""
    kept: list[bool] = []
    stream, peer, lower = connected()
    stream._keep_session = lambda: kept.append(True)
    peer.say(b"content")
    name, act = INSIDE[inside]
    anything: Any = stream
    original = getattr(stream, name)
    closed: list[bool] = []

    def close() -> None:
        parts = {part: getattr(stream, part) for part in ("_tls", "_incoming", "_outgoing")}
        for part in parts:
            setattr(stream, part, Untouchable())
        in_time(stream.close)
        for part, object_ in parts.items():
            setattr(stream, part, object_)
        closed.append(lower.is_closed)

    def held(*args: Any) -> Any:
        close()
        return original(*args)

    class Unwrapping:
        def __getattr__(self, name: str) -> Any:
            if name == "unwrap":
                anything._tls = original
                close()
            return getattr(original, name)

    setattr(stream, name, Unwrapping() if inside == "unwrap" else held)
    try:
        act(stream)
    except ConnectionAbortedError:
        pass
    assert closed == [True]
    assert not (peer.has_ended or peer.error or kept)
    for _, later in INSIDE.values():
        with pytest.raises(ConnectionAbortedError):
            later(stream)


@pytest.mark.parametrize("act", [
    lambda stream: stream._take(b"x"),
    lambda stream: stream._push(),
    lambda stream: stream._answer(),
    lambda stream: stream.write_now(b"x"),
    lambda stream: drive(stream.send_eof(inf)),
])  # fmt: skip
def test_who_uses_a_stream_that_is_just_being_closed_touches_nothing_of_openssl(act: Any) -> None:
    """The one who closes is inside of it."""
    stream, peer, lower = connected()
    anything: Any = stream
    tls = stream._tls
    came: list[Any] = []

    def use() -> None:
        try:
            act(stream)
        except ConnectionAbortedError as error:
            came.append(error)

    class Unwrapping:
        def __getattr__(self, name: str) -> Any:
            if name == "unwrap":
                parts = {part: getattr(stream, part) for part in ("_tls", "_incoming", "_outgoing")}
                for part in parts:
                    setattr(stream, part, Untouchable())
                in_time(use)
                came.append("nothing was touched")
                for part, object_ in parts.items():
                    setattr(stream, part, object_)
            return getattr(tls, name)

    anything._tls = Unwrapping()
    stream.close()
    assert came[-1] == "nothing was touched"
    assert peer.has_ended
    assert lower.is_closed


@pytest.mark.parametrize("is_dry", [True, False])
@pytest.mark.parametrize("write", [True, False])
def test_a_wait_touches_nothing_of_openssl(is_dry: bool, write: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, peer, lower = connected()
    assert stream.read_now(1) is None
    if not is_dry:
        peer.say(b"xyz")
        assert stream.read_now(1) == b"x"
    for name in ("_tls", "_incoming", "_outgoing", "_read", "_write", "_pending"):
        monkeypatch.setattr(stream, name, Untouchable())
    if is_dry and not write:
        with pytest.raises(TimeoutError, match="nothing will ever come"):
            drive(stream.wait(True, write, inf))
    else:
        drive(stream.wait(True, write, inf))
    assert lower.waits == (1 if is_dry else 0)


def test_a_read_that_found_nothing_here_and_an_error_below_ends_the_next_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, _, lower = connected()
    assert stream.read_now(1) is None
    with pytest.raises(TimeoutError):
        drive(stream.wait(True, False, inf))

    def fail(_: int) -> bytes:
        raise ConnectionResetError

    monkeypatch.setattr(lower, "read_now", fail)
    assert stream._has_news()
    drive(stream.wait(True, False, inf))
    with pytest.raises(ConnectionResetError):
        stream.read_now(1)


@pytest.mark.parametrize("is_aborted", [True, False])
def test_a_wait_says_that_the_stream_is_over_though_something_is_left_to_read(is_aborted: bool) -> None:
    stream, peer, _ = connected()
    peer.say(b"xyz")
    assert stream.read_now(1) == b"x"
    if is_aborted:
        stream.abort()
    else:
        stream.close()
    with pytest.raises(ConnectionAbortedError):
        drive(stream.wait(True, False, inf))


@pytest.mark.parametrize("read", [by_receive, by_receive_into])
def test_a_wait_does_not_return_early_for_what_a_receive_has_read(read: Callable[[TLSStream], bytes]) -> None:
    stream, peer, lower = connected()
    peer.say(b"xyz")
    assert read(stream) == b"xyz"
    with pytest.raises(TimeoutError):
        read(stream)
    before = lower.waits
    with pytest.raises(TimeoutError):
        drive(stream.wait(True, False, inf))
    assert lower.waits == before + 1


def test_nudges_go_down() -> None:
    stream, _, lower = connected()
    stream.nudge()
    assert lower.nudges == 1


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("make_pair", [over_tcp, inside_tls])
@pytest.mark.parametrize("size", [10, 100_000])
def test_threads_may_move_bytes_under_a_lock_while_one_of_them_waits(make_pair: Any, size: int) -> None:
    runtime = blocking_runtime()
    stream, theirs = drive(make_pair(runtime))
    peer = echoes(theirs, runtime)
    Sharing(stream, runtime, size).run(threads=4, rounds=20)
    stream.close()
    peer.join()
    theirs.close()
