"""What users expect of a client's security, with the case that made each concrete; and that docs/security.md tells it.

Rows of the table there whose test stands elsewhere (the framing of HTTP/1.1, floods of HTTP/2) name the case in that
test's name or docstring.
"""

from __future__ import annotations

import logging
import re
import ssl
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hpack
import pytest
import trustme

import plugwire
from http2_wire_kit import CONTINUATION, END_HEADERS, HEADERS, connected, frame, opened
from plugwire import (
    URL,
    CertificateError,
    Headers,
    InvalidHeader,
    InvalidURL,
    LimitExceeded,
    Limits,
    Request,
    Response,
    Timeout,
    TLSConfig,
    UsageError,
    pool_table,
    route,
)
from plugwire.decoders import items, mixed
from plugwire.route import Route
from plugwire.testing import MockTransport
from plugwire.testing.peer import ScriptedPeer, expect_head, send
from plugwire.view import MAX_REDIRECTS
from plugwire_plugins import (
    Retries,
    SSEPolicy,
    WireLog,
    challenges,
    content_codings,
    cookie_table,
    decompress,
    digest_auth,
    retries,
    set_cookie,
    sse,
)
from plugwire_transports import SystemResolver, http11_body, http11_wire, resolver, tls_context, tls_sessions
from plugwire_transports import proxy as http_proxy
from plugwire_transports.http2 import floods, heads, receiver, streams
from plugwire_transports.http2 import hpack as own_hpack
from plugwire_transports.http2.hpack import Decoder, TooLarge
from plugwire_transports.http11_wire import encode_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from worlds import World

ROOT = Path(__file__).parent.parent
DOC = ROOT / "docs" / "security.md"
SOURCES = ("framework", "transports", "plugins")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECRET = "pass-w0rd-t0ken"

# -- who may share a connection ------------------------------------------------------------------------------------


async def test_requests_cve_2024_35195_a_connection_that_was_not_verified_is_not_used_by_who_verifies(
    world: World,
) -> None:
    with ScriptedPeer([expect_head(), send(OK)], repeat=True, tls=True) as peer:
        stranger = TLSConfig(ca_data=trustme.CA().cert_pem.bytes().decode())
        async with world.session(tls=stranger, http_versions=("http/1.1",)) as session:
            blind = await session.get(peer.url, tls=TLSConfig(verify=False))
            assert not blind.connection.tls.verified
            assert session.stats().idle == 1
            with pytest.raises(CertificateError):
                await session.get(peer.url)


@pytest.mark.parametrize("change", [{"pins": ("ab" * 32,)}, {"server_hostname": "other.example"}])
async def test_aiohttp_3_14_1_who_asks_for_more_gets_a_connection_of_its_own(
    world: World, change: dict[str, Any]
) -> None:
    with ScriptedPeer([expect_head(), send(OK)], [], tls=True) as peer:
        async with world.session(tls=peer.tls_config) as session:
            await session.get(peer.url)
            assert session.stats().idle == 1
            with pytest.raises(CertificateError):
                await session.get(peer.url, tls=replace(peer.tls_config, **change))


def test_every_setting_of_tls_is_part_of_the_pools_key() -> None:
    changes: list[dict[str, Any]] = [
        {"verify": False}, {"ca_file": "system"}, {"ca_data": "x"}, {"client_cert": "x"}, {"server_hostname": "x"},
        {"pins": ("ab" * 32,)}, {"minimum_version": "TLSv1.3"}, {"context": ssl.create_default_context()},
    ]  # fmt: skip
    assert {name for change in changes for name in change} == {field.name for field in fields(TLSConfig)}
    origin = URL("https://h.example/").origin
    assert len({Route(origin, tls=TLSConfig(**change)) for change in [{}, *changes]}) == len(changes) + 1


# -- nothing goes out that the caller did not mean -----------------------------------------------------------------

BREAKOUTS = ("a\r\nX: 1", "a\nX: 1", "a\rX: 1", "a\0b", "\r\n\r\nGET / HTTP/1.1", "a\r\n ")


@pytest.mark.parametrize("text", BREAKOUTS)
def test_aiohttp_cve_2026_34514_names_and_values_that_break_out_are_refused(text: str) -> None:
    for wrong in ({text: "1"}, {"x": text}, {text.encode(): b"1"}, {b"x": text.encode()}):
        with pytest.raises(InvalidHeader):
            Headers(wrong)
    headers = Headers()
    for change in (headers.add, headers.prepend, headers.__setitem__):
        with pytest.raises(InvalidHeader):
            change("x", text)
        with pytest.raises(InvalidHeader):
            change(text, "1")
    assert not headers


@pytest.mark.parametrize("text", BREAKOUTS)
async def test_urllib3_cve_2020_26137_methods_and_targets_that_break_out_never_reach_the_wire(
    world: World, text: str
) -> None:
    with ScriptedPeer() as peer:
        async with world.session() as session:
            for wrong in (
                lambda: session.request(text, peer.url),
                lambda: session.get(f"{peer.url}/{text}\n"),
                lambda: session.get(peer.url, headers={"x": text}),
                lambda: session.get(peer.url, headers={"Host": text}),
                lambda: session.get(peer.url, auth=("user", text)),
            ):
                with pytest.raises(UsageError) as caught:
                    await wrong()
                assert not caught.value.sent
        assert peer.accepted == 0
    with pytest.raises(InvalidHeader):
        encode_head("GET", f"/{text}", Headers())


async def test_params_that_would_break_out_are_escaped(world: World) -> None:
    with ScriptedPeer([expect_head(b"GET /?a%0D%0AX=%0D%0AY%3A+1 HTTP/1.1\r\n"), send(OK)]) as peer:
        async with world.session() as session:
            await session.get(peer.url, params={"a\r\nX": "\r\nY: 1"})


@pytest.mark.parametrize("text", [*BREAKOUTS, " a", "a "])
def test_h2_cve_2025_57804_fields_that_would_be_others_over_http_1_cannot_be_made(text: str) -> None:
    """A front end that speaks HTTP/2 to us and HTTP/1.1 to others would pass them on as lines."""
    # HTTP/2's requests are made of Headers, of which no value has them; and responses are judged as a whole.
    if text.strip() == text:
        with pytest.raises(InvalidHeader):
            Headers({"x": text})
    wire = connected()
    stream, sink = opened(wire)
    block = hpack.Encoder().encode([(":status", "200"), ("x", text)])
    wire.feed(frame(HEADERS, END_HEADERS, stream.id, block))
    assert isinstance(sink.error, plugwire.ProtocolError)


# -- what a peer may make us keep ----------------------------------------------------------------------------------


def test_cve_2016_6581_a_small_block_cannot_become_large_fields() -> None:
    """The HPACK bomb: one large entry in the table, and thousands of one-octet references to it."""
    encoder = hpack.Encoder()
    entry = encoder.encode([("x", "y" * 3900)])
    bomb = entry + b"\xbe" * 16_000
    tracemalloc.start()
    decoder = Decoder()
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(TooLarge):
        decoder.decode(bomb, Limits().max_head_bytes, Limits().max_headers)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 256 * 1024  # 62 MB would have come of it
    assert decoder.decode(b"\x82", 1000, 10) == [(":method", "GET")]
    wire = connected()
    stream, sink = opened(wire)
    wire.feed(frame(HEADERS, END_HEADERS, stream.id, b"\x88" + bomb[:16_000]))
    assert isinstance(sink.error, LimitExceeded)


def test_cve_2024_27316_a_header_block_without_end_is_cut_off() -> None:
    """The CONTINUATION flood: never END_HEADERS."""
    wire = connected()
    stream, sink = opened(wire)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(LimitExceeded):
        wire.feed(frame(HEADERS, 0, stream.id, b"\x88"))
        for _ in range(1000):
            wire.feed(frame(CONTINUATION, 0, stream.id, b"\x00\x01x\x7f\x81\x7d" + b"y" * 16_000))
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024
    assert sink.errors


def test_names_of_charsets_are_not_kept() -> None:
    import encodings

    def look(name: str) -> str:
        return Response(200, headers={"content-type": f"text/plain; charset={name}"}, content=b"").encoding

    look("utf-8")
    kept = len(encodings._cache)  # type: ignore[attr-defined]
    for number in range(1000):
        assert look(f"made-up-{number}") == "utf-8"
        assert look("utf" + "-" * (number % 30 + 1) + "8") == "utf-8"
        assert look("x" * (number + 1)) == "utf-8"
    assert len(encodings._cache) <= kept + 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "value",
    ['<a>; t="' + "x" * 250_000 + '"', '<a>; t="' + "\\x" * 125_000 + '"', "<a>" + ";a" * 125_000, '<a>; t="' * 25_000],
)
def test_links_take_no_more_memory_than_they_are_long(value: str) -> None:
    response = Response(200, headers={"link": value}, content=b"")
    tracemalloc.start()
    assert response.links
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * len(value)  # a match for each round kept 400 bytes for each character


@pytest.mark.parametrize("value", ['"' * 250_000, '"' + "\\x" * 125_000 + '"', '"a\\",",' * 40_000])
def test_lists_take_no_more_memory_than_they_are_long(value: str) -> None:
    headers = Headers({"x": value})
    tracemalloc.start()
    assert headers.get_list("x", split=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * len(value)


@pytest.mark.parametrize("text", ["http://h" + "/" * 250_000, "http://" + "a." * 125_000 + "a/"])
def test_urls_take_no_more_memory_than_they_are_long(text: str) -> None:
    tracemalloc.start()
    assert URL(text).href == text
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * len(text)


async def test_urllib3_2_6_3_a_peer_cannot_make_us_wait_as_long_as_it_likes(world: World) -> None:
    busy = Response(503, headers={"Retry-After": "1000000"}, content=b"")
    mock = MockTransport(lambda request: busy)
    async with world.session(transports=[mock], plugins=[Retries()]) as session:
        assert (await session.get("http://h.example/")).status_code == 503
    assert len(mock.calls) == 1


# -- one reading of a URL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "http://good.example\\@evil.example/",
        "http://evil.example\\.good.example/",
        "http:\\\\evil.example/",
        "http://good.example\t@evil.example/",
        "ht\ntp://evil.example/",
        " http://evil.example/",
        "http://evil.example/ ",
        "http://a@good.example@evil.example/",
        "http:///evil.example/",
        "http:evil.example/",
        "http://good.example:80@evil.example:81@x/",
        "http://[::1%25eth0]/",
        "http://good.example\0.evil.example/",
        "http://good.example%00.evil.example/",
    ],
)
def test_requests_cve_2024_47081_httpx_cve_2021_41945_what_two_programs_read_differently_is_refused(text: str) -> None:
    with pytest.raises(InvalidURL):
        URL(text)
    with pytest.raises(InvalidURL):
        URL("http://base.example/a").join(text)


@pytest.mark.parametrize("text", ["http://0x7f.1/", "http://2130706433/", "http://0177.0.0.01/", "http://127.1/"])
def test_every_spelling_of_an_address_is_that_address(text: str) -> None:
    url = URL(text)
    assert url.host == url.origin.host == url.authority == "127.0.0.1"


async def test_what_is_routed_is_what_is_asked_for(world: World) -> None:
    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock]) as session:
        await session.get("http://EXAMPLE.com%2e:080/../x")
    assert mock.calls[0].url.origin == ("http", "example.com.", 80)
    assert mock.calls[0].headers["host"] == "example.com."


# -- credentials stay where they belong ----------------------------------------------------------------------------


async def test_requests_cve_2023_32681_secrets_of_the_session_are_for_its_own_origin(world: World) -> None:
    headers = Headers({"Authorization": "Bearer " + SECRET, "X-Api-Key": SECRET, "X-Other": "open"})
    headers.secret |= {"x-api-key"}
    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock], base_url="https://h.example/v1", headers=headers) as session:
        await session.get("/x")
        for elsewhere in ("https://other.example/x", "http://h.example/x", "https://h.example:444/x"):
            await session.get(elsewhere)
    first, *others = (request.headers for request in mock.calls)
    assert (first["authorization"], first["x-api-key"], first["x-other"]) == ("Bearer " + SECRET, SECRET, "open")
    for sent in others:
        assert "authorization" not in sent
        assert "x-api-key" not in sent
        assert sent["x-other"] == "open"


async def test_userinfo_is_never_sent_in_a_url(world: World) -> None:
    with ScriptedPeer([expect_head(b"GET /x HTTP/1.1\r\n"), send(OK)]) as peer:
        async with world.session() as session:
            await session.get(f"http://user:{SECRET}@127.0.0.1:{peer.port}/x")
        assert SECRET.encode() not in peer.received[0]  # it is in Authorization, as base64


async def test_secrets_are_not_shown_in_reprs_errors_logs_or_explanations(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[str] = []
    url = f"http://user:{SECRET}@h.example/x"
    headers = {"Authorization": "Bearer " + SECRET, "Cookie": "a=" + SECRET, "Proxy-Authorization": SECRET}
    request = Request("GET", url, headers=headers)
    response = Response(200, headers={"Set-Cookie": "a=" + SECRET}, content=b"", request=request)
    shown += [repr(request), repr(request.headers), repr(response), repr(response.headers), repr(request.url)]
    shown.append(str(request.url))
    mock = MockTransport({})
    with caplog.at_level(logging.DEBUG):
        async with world.session(transports=[mock], plugins=[WireLog()]) as session:
            with pytest.raises(Exception) as caught:
                await session.get(
                    url, headers=headers, auth=("user", SECRET), observe=lambda event: shown.append(repr(event))
                )
            shown += [str(caught.value), repr(caught.value)]
            shown.append(str(session.explain(url)))
    shown += [record.getMessage() for record in caplog.records]
    assert caplog.records
    for text in shown:
        assert SECRET not in text, text


# -- the document --------------------------------------------------------------------------------------------------

KIB, MIB = 1024, 1024 * 1024

CONSTANTS: dict[str, Callable[[], float]] = {
    "max_extension_bytes": lambda: http11_wire.MAX_EXTENSION_BYTES,
    "MAX_LENGTH": lambda: http11_wire.MAX_LENGTH,
    "DRAIN_BYTES": lambda: http11_body.DRAIN_BYTES,
    "DRAIN_SECONDS": lambda: http11_body.DRAIN_SECONDS,
    "http2 flood budget": lambda: floods.BUDGET,
    "COST": lambda: floods.COST,
    "HIGH_COST": lambda: floods.HIGH_COST,
    "SMALL_WINDOW_UPDATE": lambda: floods.SMALL_WINDOW_UPDATE,
    "HEAD_GAIN": lambda: floods.HEAD_GAIN,
    "DATA_GAIN": lambda: floods.DATA_GAIN,
    "SENT_GAIN": lambda: floods.SENT_GAIN,
    "MAX_REPLIES": lambda: floods.MAX_REPLIES,
    "STREAM_WINDOW": lambda: streams.STREAM_WINDOW,
    "MAX_REMEMBERED": lambda: streams.MAX_REMEMBERED,
    "MAX_FRAME_SIZE": lambda: receiver.MAX_FRAME_SIZE,
    "MAX_TABLE_SIZE": lambda: own_hpack.MAX_TABLE_SIZE,
    "MAX_MEMO": lambda: heads.MAX_MEMO,
    "MAX_MEMO_BLOCK": lambda: heads.MAX_MEMO_BLOCK,
    "MAX_CONTEXTS": lambda: tls_context.MAX_CONTEXTS,
    "MAX_ROUTES": lambda: tls_sessions.MAX_ROUTES,
    "MAX_PER_ROUTE": lambda: tls_sessions.MAX_PER_ROUTE,
    "max_redirects": lambda: MAX_REDIRECTS,
    "max_codings": lambda: content_codings.MAX_CODINGS,
    "max_trailing_bytes": lambda: content_codings.MAX_TRAILING_BYTES,
    "RATIO_FROM": lambda: content_codings.RATIO_FROM,
    "PIECE": lambda: content_codings.PIECE,
    "MOST": lambda: decompress.MOST,
    "ZSTD_WINDOW_LOG": lambda: content_codings.ZSTD_WINDOW_LOG,
    "max_retry_after": lambda: Retries().policy.max_retry_after,
    "max_entries": lambda: SystemResolver().max_entries,
    "ttl": lambda: SystemResolver().ttl,
    "MAX_THREADS": lambda: resolver.MAX_THREADS,
    "MAX_COOKIE": lambda: set_cookie.MAX_COOKIE,
    "MAX_ATTRIBUTE": lambda: set_cookie.MAX_ATTRIBUTE,
    "MAX_PER_DOMAIN": lambda: cookie_table.MAX_PER_DOMAIN,
    "MAX_COOKIES": lambda: cookie_table.MAX_COOKIES,
    "MAX_LIFETIME": lambda: set_cookie.MAX_LIFETIME,
    "max_line_bytes": lambda: items.MAX_ITEM,
    "max_event_bytes": lambda: items.MAX_ITEM,
    "max_event_id_bytes": lambda: sse.MAX_EVENT_ID,
    "max_delay": lambda: SSEPolicy().max_delay,
    "min_delay": lambda: SSEPolicy().min_delay,
    "max_failures": lambda: SSEPolicy().max_failures,
    "max_part_bytes": lambda: items.MAX_ITEM,
    "max_part_head_bytes": lambda: mixed.MAX_PART_HEAD,
    "MAX_PADDING": lambda: mixed.MAX_PADDING,
    "MAX_CHARACTERS": lambda: challenges.MAX_CHARACTERS,
    "MAX_ANSWERS": lambda: digest_auth.MAX_ANSWERS,
    "MAX_ORIGINS": lambda: digest_auth.MAX_ORIGINS,
    "MAX_KEPT": lambda: route.MAX_KEPT,
    "REMEMBERED": lambda: pool_table.REMEMBERED,
    "KEPT_TARGET": lambda: http11_wire.KEPT_TARGET,
    "MAX_REFUSAL_BYTES": lambda: http_proxy.MAX_REFUSAL_BYTES,
    "CACHE_SIZE": lambda: plugwire.url.CACHE_SIZE,
}
"""What the document's tables of limits say beside the fields of `Limits` and `Timeout`."""


def documented() -> dict[str, str]:
    """The limits in the document, and the default that stands beside each: the rows "| `name` | default | ..."."""
    section = DOC.read_text().split("\n## Limits\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", section, re.MULTILINE))


def number(text: str) -> float | None:
    if text == "none":
        return None
    if found := re.fullmatch(r"2\^(\d+)(?: - 1)?", text):
        return 2 ** int(found[1]) - text.endswith("- 1")
    found = re.fullmatch(r"([\d,.]+)(?: (KiB|MiB|s|bytes))?", text)
    assert found is not None, text
    return float(found[1].replace(",", "")) * {"KiB": KIB, "MiB": MIB}.get(found[2], 1)


def test_the_document_has_every_limit_with_its_default() -> None:
    assert digest_auth.MAX_ORIGINS == retries.MAX_ORIGINS, "one row tells of both"
    expected: dict[str, float | None] = {field.name: getattr(Limits(), field.name) for field in fields(Limits)}
    expected |= {name: getattr(Timeout(), name) for name in ("total", "head", "pool", "connect", "read", "write")}
    expected |= {name: value() for name, value in CONSTANTS.items()}
    assert {name: number(text) for name, text in documented().items()} == expected


def test_every_variable_of_the_environment_that_is_read_is_in_the_document() -> None:
    texts = [path.read_text() for root in SOURCES for path in (ROOT / root).rglob("*.py")]
    read = {
        line.strip() for text in texts for line in text.splitlines() if "environ" in line and "environment" not in line
    }
    read |= {
        line.strip() for text in texts for line in text.splitlines() if "environ[" in line or "environ.get" in line
    }
    read.discard(passed := "found = self._environment = read_environment(os.environ)")
    assert any(passed in text for text in texts)
    section = DOC.read_text().split("### The environment")[1].split("### ")[0]
    documented = re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE)
    proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"]
    assert documented == ["SSLKEYLOGFILE", "NETRC", *proxies]
    unknown = {line for line in read if not any(name in line for name in documented)}
    assert read and not unknown


def test_every_name_of_a_limit_that_an_error_can_have_is_documented() -> None:
    texts = [path.read_text() for root in SOURCES for path in (ROOT / root).rglob("*.py")]
    names = {name for text in texts for name in re.findall(r'LimitExceeded\([^"]*?f?"[^"]*", "([a-z_0-9 ]+)"\)', text)}
    assert {"max_head_bytes", "max_headers", "max_informational", "max_extension_bytes"} <= names
    assert names | {floods.LIMIT} <= set(documented())


def test_every_case_in_the_document_has_a_test_that_names_it() -> None:
    cases = re.findall(r"CVE-(\d{4}-\d+)", DOC.read_text())
    assert len(cases) > 10
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py")).lower().replace("-", "_")
    missing = [case for case in cases if f"cve_{case.replace('-', '_')}" not in tests]
    assert not missing
