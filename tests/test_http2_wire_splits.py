"""The HTTP/2 wire gives one verdict however its bytes were cut and its streams interleaved, and agrees with the h2
package wherever that is right."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
from hypothesis import example, given
from hypothesis import strategies as st

from http2_wire_kit import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEAD,
    HEADERS,
    PING,
    POST,
    PRIORITY,
    SETTINGS,
    WITH_PRIORITY,
    Recorder,
    blamed,
    block,
    connected,
    data,
    frame,
    goaway,
    head,
    opened,
    padded,
    reset,
    settings,
    trailers,
    window_update,
)
from plugwire.config import Limits
from plugwire.errors import Error
from plugwire_transports.http2.hpack import Indexing
from plugwire_transports.http2.wire import RequestHead, Wire

LIMITS = Limits(max_head_bytes=2000, max_headers=8, max_informational=2)

# -- cutting -------------------------------------------------------------------------------------------------------


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


cuts = st.lists(st.integers(0, 10_000), max_size=8)
REQUESTS = (GET, HEAD, POST, GET)


def verdict(pieces: list[bytes]) -> tuple[Any, ...]:
    """All that the wire tells and writes."""
    wire = Wire(LIMITS, stream_window=200)
    sinks = [opened(wire, request)[1] for request in REQUESTS]
    wire.take()
    end = ""
    for piece in pieces:
        try:
            wire.feed(piece)
        except Error as error:
            end = f"{blamed(error)} {error}".partition(": b'HTTP")[
                0
            ]  # an answer in HTTP/1.1 is shown as far as it came
            break
    if not end:
        wire.eof("closed")
    texts = [str(error).partition(": b'HTTP")[0] for sink in sinks for error in sink.errors]
    return end, [sink.calls for sink in sinks], texts, wire.take(), wire.goaway


stream_ids = st.sampled_from([1, 1, 1, 3, 5, 7, 0, 2, 9])
fields = st.sampled_from(
    [(), (("x", "y"),), (("content-length", "3"),), (("X", "y"),), (("x", "y" * 300),), (("a", "b"),) * 9]
)
blocks = st.one_of(
    st.builds(
        lambda status, more: block((":status", status), *more), st.sampled_from(["200", "103", "204", "x"]), fields
    ),
    fields.map(lambda more: block(*more)),
    st.sampled_from(
        [b"\x88", b"\x88\x40\x01x\x01a", b"\x88\xbe", b"\x80", b"\x20\x88", b"\x3f\xff\xff\xff\xff\xff\x0f"]
    ),
)
contents = st.sampled_from([b"", b"a", b"abc", b"a" * 90, b"b" * 201])
flags = st.sampled_from([END_HEADERS, END_HEADERS | END_STREAM, 0, END_STREAM, END_HEADERS | WITH_PRIORITY])
frames = st.one_of(
    st.builds(data, stream_ids, contents, st.booleans()),
    st.builds(head, stream_ids, status=st.sampled_from(["200", "103"]), ended=st.booleans()),
    st.builds(lambda i, b, f: frame(HEADERS, f, i, b), stream_ids, blocks, flags),
    st.builds(lambda i, c, p: padded(DATA, 0, i, c, p), stream_ids, contents, st.integers(0, 40)),
    st.builds(lambda i, b, f: frame(CONTINUATION, f & END_HEADERS, i, b), stream_ids, blocks, flags),
    st.builds(reset, stream_ids, st.integers(0, 14)),
    st.builds(window_update, stream_ids, st.sampled_from([0, 1, 100, 2**31 - 1])),
    st.builds(goaway, st.integers(0, 9), st.integers(0, 12), contents),
    st.sampled_from(
        [frame(PING, 0, 0, bytes(8)), settings(), settings((4, 5)), settings((3, 1), (3, 2)), frame(SETTINGS, ACK, 0)]
    ),
    st.sampled_from([frame(PRIORITY, 0, 1, bytes(5)), frame(0xFA, 1, 3, b"xyz"), b"\0\x50\0\0\0\0\0\0\x01", b"\0"]),
)


@given(st.lists(frames, max_size=14), cuts, st.booleans())
@example([b"HTTP/1.1 400 Bad Request\r\n\r\n"], [7], False)
@example([head(1), data(1, b"a" * 201)], [3, 9, 14], True)
def test_one_verdict_however_the_bytes_are_cut(parts: list[bytes], places: list[int], greets: bool) -> None:
    octets = (settings() if greets else b"") + b"".join(parts)
    whole = verdict([octets])
    assert verdict([octets[i : i + 1] for i in range(len(octets))]) == whole
    assert verdict(cut(octets, places)) == whole


# -- interleaving --------------------------------------------------------------------------------------------------


def scripts_for(number: int) -> list[tuple[RequestHead, list[bytes]]]:
    i = number
    encoded = block((":status", "200"), ("x", "y"))
    return [
        (GET, [head(i, ("content-length", "5")), data(i, b"he"), data(i, b"llo", True)]),
        (GET, [head(i, status="103"), head(i), data(i, b"x"), trailers(i, ("sum", "1"))]),
        (HEAD, [head(i, ("content-length", "5"), ended=True)]),
        (
            GET,
            [frame(HEADERS, 0, i, encoded[:4]) + frame(CONTINUATION, END_HEADERS, i, encoded[4:]), data(i, b"", True)],
        ),
        (GET, [head(i, ("X", "malformed"))]),
        (GET, [head(i, ("content-length", "5")), data(i, b"abc", True)]),
        (GET, [head(i), data(i, b"ab"), reset(i, 7)]),
        (POST, [window_update(i, 100), head(i, status="204", ended=True)]),
        (GET, [frame(HEADERS, END_HEADERS, i, b"\x88\x0f\x2e\x01z"), padded(DATA, END_STREAM, i, b"q", 9)]),
        (GET, [frame(PRIORITY, 0, i, bytes(5)), head(i), data(i, b"a" * 150), data(i, b"a" * 150)]),
    ]


def alone(which: int) -> list[tuple[Any, ...]]:
    wire = connected(stream_window=200)
    request, steps = scripts_for(1)[which]
    _, sink = opened(wire, request)
    for step in steps:
        wire.feed(step)
    return sink.calls


ALONE = [alone(which) for which in range(len(scripts_for(1)))]


@given(st.lists(st.integers(0, len(ALONE) - 1), min_size=1, max_size=8), st.randoms(use_true_random=False), cuts)
def test_streams_do_not_notice_each_other(chosen: list[int], random: Any, places: list[int]) -> None:
    wire = connected(stream_window=200)
    sinks: list[Recorder] = []
    queues: list[list[bytes]] = []
    for which in chosen:
        stream, sink = opened(wire, scripts_for(1)[which][0])
        sinks.append(sink)
        queues.append(scripts_for(stream.id)[which][1])
    order: list[bytes] = []
    while queues:
        queue = random.choice(queues)
        order.append(queue.pop(0))
        if random.random() < 0.3:
            order.append(
                random.choice([frame(PING, 0, 0, bytes(8)), settings(), window_update(0, 99), frame(200, 0, 1)])
            )
        queues = [queue for queue in queues if queue]
    for piece in cut(b"".join(order), places):
        wire.feed(piece)
    for which, sink in zip(chosen, sinks, strict=True):
        assert sink.calls == ALONE[which]


# -- beside h2 -----------------------------------------------------------------------------------------------------


class Reference:
    """The same sinks behind a client that is h2 all through."""

    def __init__(self, requests: list[RequestHead]) -> None:
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        )
        self.connection.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.ENABLE_PUSH: 0}
        )
        self.connection.initiate_connection()
        self.sinks: dict[int, Recorder] = {}
        self.requests = requests

    def open_all(self) -> None:
        for number, request in enumerate(self.requests):
            pseudo = zip((":method", ":scheme", ":authority", ":path"), request[:4], strict=True)
            named = [(name, value) for name, value in pseudo if value is not None]
            self.connection.send_headers(2 * number + 1, named, end_stream=request.method != "POST")
            self.sinks[2 * number + 1] = Recorder()

    def refuses(self, octets: bytes) -> bool:
        try:
            self.connection.receive_data(octets)
        except h2.exceptions.ProtocolError:
            return True
        return False

    def feed(self, octets: bytes) -> None:
        for event in self.connection.receive_data(octets):
            self._tell(event)

    def _tell(self, event: h2.events.Event) -> None:
        sink = self.sinks.get(getattr(event, "stream_id", None) or 0)
        if sink is None:
            return
        if isinstance(event, (h2.events.ResponseReceived, h2.events.InformationalResponseReceived)):
            fields = [(str(name), str(value)) for name, value in event.headers]
            lengths = [int(value) for name, value in fields if name == "content-length"]
            ended = isinstance(event, h2.events.ResponseReceived) and event.stream_ended is not None
            sink.calls.append(("head", int(fields[0][1]), fields[1:], lengths[0] if lengths else None, ended))
        elif isinstance(event, h2.events.DataReceived):
            if event.data or event.stream_ended:
                sink.calls.append(("data", event.data, event.stream_ended is not None))
        elif isinstance(event, h2.events.TrailersReceived):
            sink.calls.append(("trailers", [(str(name), str(value)) for name, value in event.headers]))
        elif isinstance(event, h2.events.StreamReset):
            sink.calls.append(("failed", "StreamReset", event.error_code == 7))


answers = st.fixed_dictionaries(
    {
        "interim": st.integers(0, 2),
        "status": st.sampled_from(["200", "404", "500", "206"]),
        "fields": st.lists(
            st.tuples(
                st.sampled_from(["x", "server", "etag", "set-cookie"]), st.text("ab=; \xe9", max_size=9).map(str.strip)
            ),
            max_size=5,
        ),
        "content": st.lists(st.binary(max_size=400), max_size=5),
        "announced": st.booleans(),
        "padding": st.none() | st.integers(0, 99),
        "end": st.sampled_from(["data", "empty", "trailers", "reset", "head"]),
        "code": st.integers(0, 13),
    }
)


def play(server: h2.connection.H2Connection, number: int, request: RequestHead, answer: dict[str, Any]) -> list[Any]:
    """The steps of one answer, each a function that makes the server's frames."""
    has_content = request.method != "HEAD"
    content = answer["content"] if has_content and answer["end"] != "head" else []
    named: list[tuple[str, str]] = [(":status", answer["status"]), *answer["fields"]]
    if answer["announced"] and answer["end"] != "reset":
        named.append(("content-length", str(sum(map(len, content)))))
    ends_early = answer["end"] == "head" or not has_content
    steps: list[Any] = [
        lambda: server.send_headers(number, [(":status", "103"), ("link", "</a>")]) for _ in range(answer["interim"])
    ]
    steps.append(lambda: server.send_headers(number, named, end_stream=ends_early))
    if ends_early:
        return steps
    for place, piece in enumerate(content):
        last = answer["end"] == "data" and place == len(content) - 1
        steps.append(lambda piece=piece, last=last: server.send_data(number, piece, last, pad_length=answer["padding"]))
    if answer["end"] == "empty" or (answer["end"] == "data" and not content):
        steps.append(lambda: server.end_stream(number))
    elif answer["end"] == "trailers":
        steps.append(lambda: server.send_headers(number, [("x-sum", "1")], end_stream=True))
    elif answer["end"] == "reset":
        steps.append(lambda: server.reset_stream(number, answer["code"]))
    return steps


@given(
    st.lists(st.tuples(st.sampled_from([GET, HEAD, POST]), answers), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    cuts,
)
def test_the_same_calls_as_from_h2(
    exchanges: list[tuple[RequestHead, dict[str, Any]]], random: Any, places: list[int]
) -> None:
    """Frames, HPACK and settings made by h2 as the server; interleaved, padded, with a table that is in use."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
    server.initiate_connection()
    wire = Wire(Limits())
    requests = [request for request, _ in exchanges]
    reference = Reference(requests)
    server.receive_data(wire.take())
    greeting = server.data_to_send()
    wire.feed(greeting)
    reference.feed(greeting)
    reference.open_all()
    sinks = [opened(wire, request)[1] for request in requests]
    server.receive_data(wire.take())
    queues = [play(server, 2 * n + 1, request, answer) for n, (request, answer) in enumerate(exchanges)]
    octets = b""
    while queues:
        random.choice(queues).pop(0)()
        if random.random() < 0.2:
            server.ping(b"abcdefgh")
        if random.random() < 0.1:
            server.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: random.randrange(200)})
        queues = [queue for queue in queues if queue]
        octets += server.data_to_send()
    for piece in cut(octets, places):
        wire.feed(piece)
    reference.feed(octets)
    for number, sink in enumerate(sinks):
        assert sink.joined() == reference.sinks[2 * number + 1].joined()


@given(st.lists(st.tuples(st.sampled_from([GET, HEAD, POST]), answers), min_size=1, max_size=3), st.data())
def test_what_h2_refuses_is_refused(exchanges: list[tuple[RequestHead, dict[str, Any]]], choice: st.DataObject) -> None:
    """One octet of right bytes is changed. Where h2 ends the connection, we end it or one of its streams."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
    server.initiate_connection()
    wire = Wire(Limits())
    requests = [request for request, _ in exchanges]
    reference = Reference(requests)
    server.receive_data(wire.take())
    greeting = server.data_to_send()
    wire.feed(greeting)
    reference.feed(greeting)
    reference.open_all()
    sinks = [opened(wire, request)[1] for request in requests]
    server.receive_data(wire.take())
    octets = b""
    for number, (request, answer) in enumerate(exchanges):
        for step in play(server, 2 * number + 1, request, answer):
            step()
    octets = server.data_to_send()
    place = choice.draw(st.integers(0, len(octets) - 1))
    octets = octets[:place] + bytes((choice.draw(st.integers(0, 255)),)) + octets[place + 1 :]
    if not reference.refuses(octets):
        return
    try:
        wire.feed(octets)
    except Error:
        return
    assert any(sink.errors for sink in sinks)


# -- the memo of heads ---------------------------------------------------------------------------------------------

pool = st.sampled_from([("x", "a"), ("x", "b"), ("server", "nginx"), ("date", "now"), ("y", "c" * 40)])
answered = st.tuples(
    st.sampled_from(["head", "head", "head", "reset", "trailers", "size"]),
    st.lists(pool, max_size=4),
    st.sampled_from([0, 40, 120, 4096]),
)


@given(st.lists(answered, max_size=40))
def test_the_memo_never_changes_what_a_head_says(steps: list[tuple[str, list[tuple[str, str]], int]]) -> None:
    """With a table that grows, shrinks and drops entries, and blocks that nobody waits for or that are trailers."""
    wire = connected()
    encoder = hpack.Encoder()
    for what, fields, size in steps:
        if what == "size":
            if size != encoder.header_table_size:  # hpack forgets to tell of a change if the size is set twice
                encoder.header_table_size = size
            continue
        stream, sink = opened(wire)
        if what == "reset":
            wire.reset(stream, 8)
        encoded = encoder.encode([(":status", "200"), *fields])
        wire.feed(frame(HEADERS, END_HEADERS | (END_STREAM if what == "head" else 0), stream.id, encoded))
        expected: list[tuple[Any, ...]] = [("head", 200, fields, None, what == "head")] if what != "reset" else []
        if what == "trailers":
            wire.feed(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, encoder.encode(fields)))
            expected.append(("trailers", [field for field in fields if field[0] != "date"]))
        assert sink.calls == expected
        wire.take()


# -- both directions -----------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "LOCK"]),
            st.text("/ab%", min_size=1, max_size=9),
            st.lists(
                st.tuples(
                    st.sampled_from(["x", "y", "accept"]),
                    st.text("ab; ", max_size=9).map(str.strip),
                    st.sampled_from(Indexing),
                ),
                max_size=4,
            ),
            st.binary(max_size=3000),
        ),
        max_size=8,
    ),
    st.sampled_from([0, 60, 4096]),
)
def test_h2_reads_what_we_write(requests: list[tuple[str, str, list[Any], bytes]], table: int) -> None:
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
    server.local_settings.header_table_size = table
    server.local_settings.acknowledge()
    server.initiate_connection()
    wire = Wire(Limits())
    server.receive_data(wire.take())
    wire.feed(server.data_to_send())
    server.decoder.max_allowed_table_size = table
    server.receive_data(wire.take())
    for method, path, more, content in requests:
        request = RequestHead(method, "https", "host.example", "/" + path, tuple(more))
        stream, _ = opened(wire, request, ended=not content)
        if content:
            wire.send(stream, content, True)
        got_fields: list[tuple[str, str]] = []
        got = b""
        ended = False
        for event in server.receive_data(wire.take()):
            if isinstance(event, h2.events.RequestReceived):
                got_fields = [(str(name), str(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.DataReceived):
                got += event.data
                server.acknowledge_received_data(event.flow_controlled_length, stream.id)
            elif isinstance(event, h2.events.StreamEnded):
                ended = True
        assert dict(got_fields[:4]) == {
            ":method": method, ":scheme": "https", ":authority": "host.example", ":path": "/" + path
        }  # fmt: skip
        assert got_fields[4:] == [(name, value) for name, value, _ in more]
        assert got == content
        assert ended
        wire.feed(server.data_to_send())
        server.send_headers(stream.id, [(":status", "200")], end_stream=True)
        wire.feed(server.data_to_send())
        assert stream.is_over
