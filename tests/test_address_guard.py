"""The address guard: nothing but the public internet is reached, whatever names, redirects and spellings say."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from names import Names
from plugwire import AddressRefused, ConnectError, Response, UsageError
from plugwire.protocols import Stream
from plugwire.testing import Server
from plugwire.testing.peer import ScriptedPeer, expect_head, send
from plugwire_plugins import Retries
from plugwire_transports import AddressGuard, PinnedHosts, SystemResolver, Unix
from plugwire_transports.address_guard import SPECIAL, special, unmapped
from third_party.connect_proxy import ConnectProxy
from unix_door import Door
from worlds import World

PUBLIC = "93.184.215.14"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Recorder:
    """A dialler that would dial, says where, and does not."""

    name = "recorder"
    honours = frozenset({"*"})

    def __init__(self) -> None:
        self.dialled: list[list[str]] = []

    def refuse(self, route: Any) -> None:
        return None

    async def dial(self, route: Any, connecting: Any) -> Stream:
        self.dialled.append([address.host for address in await connecting.resolve(route.host, route.port)])
        raise ConnectionRefusedError("this only records")


# -- the decision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.0.0.0", "this network"), ("0.255.0.1", "this network"), ("10.1.2.3", "private"), ("127.8.8.8", "loopback"),
        ("100.64.0.1", "shared by a carrier's NAT"), ("100.127.255.255", "shared by a carrier's NAT"),
        ("169.254.169.254", "link-local"), ("172.16.0.1", "private"), ("172.31.255.255", "private"),
        ("192.0.0.192", "for protocols of the IETF"), ("192.0.2.1", "for documentation"), ("192.168.1.1", "private"),
        ("192.88.99.1", "of 6to4 relays"), ("198.19.0.1", "for benchmarks"), ("198.51.100.1", "for documentation"),
        ("203.0.113.9", "for documentation"), ("224.0.0.251", "multicast"), ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"), ("168.63.129.16", "the cloud's own (Azure)"),
        ("::", "unspecified"), ("::1", "loopback"), ("::7f00:1", "IPv4-compatible"), ("::ffff:10.0.0.1", "private"),
        ("::ffff:127.0.0.1", "loopback"), ("64:ff9b::a00:1", "10.0.0.1 behind NAT64, private"),
        ("64:ff9b::169.254.169.254", "169.254.169.254 behind NAT64, link-local"),
        ("64:ff9b:1::1", "of a NAT64 of its network"), ("100::1", "discarded"), ("2001:0:a00:1::", "Teredo"),
        ("2001:10::1", "for protocols of the IETF"), ("2001:db8::1", "for documentation"), ("2002:a00:1::1", "6to4"),
        ("2002:808:808::1", "6to4"), ("3fff::1", "for documentation"), ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"), ("fec0::1", "site-local"), ("ff02::1", "multicast"),
        ("4000::1", "not of the public internet"), ("5f00::1", "not of the public internet"),
        ("::fffe:8.8.8.8", "not of the public internet"), ("64:ff9b:0:0:1::1", "not of the public internet"),
    ],
)  # fmt: skip
def test_special_addresses(text: str, words: str) -> None:
    assert special(ip_address(text)) == words


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
     "223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2001:4860:4860::8888", "2606:4700::1111", "2001:200::"],
)  # fmt: skip
def test_public_addresses(text: str) -> None:
    assert special(ip_address(text)) is None


def _edges() -> list[Any]:
    """Both ends of every special network, of our table and of this Python's, and what lies beside them."""
    networks = [network for network, _ in SPECIAL]
    for constants in (ipaddress._IPv4Constants, ipaddress._IPv6Constants):  # type: ignore[attr-defined]
        networks += constants._private_networks
    found: list[Any] = []
    for network in networks:
        kind = type(network.network_address)
        top = (1 << network.max_prefixlen) - 1
        for end in (int(network[0]), int(network[-1])):
            found += [kind(min(max(end + step, 0), top)) for step in (-1, 0, 1)]
    return found


EDGES = _edges()
V4 = st.one_of(st.ip_addresses(v=4), st.sampled_from([edge for edge in EDGES if edge.version == 4]))
EMBEDDED = st.builds(
    lambda prefix, inner: IPv6Address(int(IPv6Address(prefix)) | int(inner)),
    st.sampled_from(["::ffff:0:0", "64:ff9b::", "::"]),
    V4,
)


@given(st.one_of(V4, st.ip_addresses(v=6), st.sampled_from(EDGES), EMBEDDED))
@example(ip_address("100.64.0.0"))
def test_nothing_passes_that_is_not_globally_routable(address: IPv4Address | IPv6Address) -> None:
    found = unmapped(address)
    if isinstance(address, IPv6Address) and int(address) >> 32 == int(IPv6Address("64:ff9b::")) >> 32:
        found = IPv4Address(int(address) & 0xFFFFFFFF)
    if special(address) is None:
        assert found.is_global and not found.is_multicast and not found.is_reserved and not found.is_link_local
        assert not found.is_private and not found.is_loopback and not found.is_unspecified
        if isinstance(found, IPv6Address):
            assert found.sixtofour is None and found.teredo is None and found in ipaddress.ip_network("2000::/3")


@given(EMBEDDED)
def test_what_is_in_an_address_decides(address: IPv6Address) -> None:
    inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if special(inner) is not None:
        assert special(address) is not None


@pytest.mark.parametrize(
    "wrong",
    [{"allow": "10.0.0.0/8"}, {"allow": ["10.0.0.1/8"]}, {"allow": [""]}, {"allow": [5]}, {"allow": None},
     {"allow": ["http://h/"]}, {"allow": ["h:99999"]}, {"allow": ["10.0.0.0/99"]}, {"allow": ["::ffff:10.0.0.0/104"]},
     {"deny": ["a b"]}, {"deny": "h"}, {"deny": [b"h"]}],
)  # fmt: skip
def test_entries_that_mean_nothing(wrong: Any) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        AddressGuard(**wrong)


# -- through sessions --------------------------------------------------------------------------------------------------


async def refused(session: Any, url: str, **options: Any) -> AddressRefused:
    with pytest.raises(AddressRefused) as caught:
        await session.get(url, **options)
    error = caught.value
    assert (error.phase, error.sent, error.attempts) == ("resolve", False, 1)
    return error


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.01", "127.1", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]",
     "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "10.0.0.1", "169.254.169.254", "%31%32%37.0.0.1", "127.0.0.1."],
)  # fmt: skip
async def test_numeric_hosts_in_every_spelling(world: World, host: str, names: Names) -> None:
    async with world.session(transports=["address-guard"]) as session:
        error = await refused(session, f"http://{host}/")
        assert error.host in str(error)
        assert error.address == error.host
    assert names.asked == []


async def test_names_are_judged_by_their_addresses(world: World, names: Names) -> None:
    names["metadata.example"] = ["169.254.169.254"]
    names["both.example"] = ["10.0.0.1", PUBLIC, "fe80::1", "2606:4700::1111"]
    names["odd.example"], names["odder.example"] = ["fe80::1%lo"], ["nonsense"]
    recorder = Recorder()
    async with world.session(transports=[AddressGuard(), recorder], plugins=[Retries()]) as session:
        error = await refused(session, "http://metadata.example/latest")
        assert str(error) == "metadata.example at '169.254.169.254' is out of bounds: link-local"
        assert (error.host, error.address) == ("metadata.example", "169.254.169.254")
        for odd in ("odd", "odder"):
            await refused(session, f"http://{odd}.example/")
        with pytest.raises(ConnectError, match="only records"):
            await session.get("http://both.example/", options={"max_retries": 0})
        # Names that do not exist are told as ever.
        with pytest.raises(Exception, match="cannot be resolved") as caught:
            await session.get("http://none.example/")
        assert not isinstance(caught.value, AddressRefused)
    assert recorder.dialled == [[PUBLIC, "2606:4700::1111"]]


async def test_a_name_that_moves_is_judged_at_each_dial(world: World, names: Names) -> None:
    """DNS rebinding."""
    recorder = Recorder()
    async with world.session(transports=[AddressGuard(), SystemResolver(ttl=0), recorder]) as session:
        names["h.example"] = [PUBLIC]
        with pytest.raises(ConnectError):
            await session.get("http://h.example/")
        names["h.example"] = ["127.0.0.1"]
        await refused(session, "http://h.example/")
    assert recorder.dialled == [[PUBLIC]]
    # What is remembered is judged, too.
    async with world.session(transports=[AddressGuard()]) as session:
        for _ in range(2):
            await refused(session, "http://h.example/")


@pytest.mark.parametrize(
    "target", ["http://10.0.0.1/", "http://metadata.example/", "http://[::1]:{port}/", "https://127.0.0.1:{port}/"]
)
async def test_a_redirect_leads_nowhere_else(world: World, names: Names, target: str) -> None:
    names["h.example"], names["metadata.example"] = ["127.0.0.1"], ["169.254.169.254"]

    def answer(request: Any) -> Response:
        if request.url.path == "/there":
            return Response(200)
        location = "/there" if request.url.path == "/here" else target.format(port=server.port)
        return Response(302, headers={"Location": location})

    with Server(answer) as server:
        async with world.session(transports=[AddressGuard(allow=[f"h.example:{server.port}"])]) as session:
            assert (await session.get(f"http://h.example:{server.port}/here")).ok
            with pytest.raises(AddressRefused) as caught:
                await session.get(f"http://h.example:{server.port}/away")
            assert caught.value.phase == "resolve"
        assert [call.url.path for call in server.calls] == ["/here", "/there", "/away"]


@pytest.mark.parametrize("versions", [("http/1.1",), ("h2",)])
@pytest.mark.parametrize("allow", ["127.0.0.0/8", "127.0.0.1", "localhost", "LOCALHOST.:{port}"])
async def test_what_is_allowed_is_reached(world: World, allow: str, versions: tuple[str, ...]) -> None:
    with Server(tls=True, http_versions=versions) as server:
        guard = AddressGuard(allow=(allow.format(port=server.port),))
        async with world.session(transports=[guard], tls=server.tls_config, http_versions=versions) as session:
            response = await session.get(
                f"https://localhost:{server.port}/hello", options={"local_address": "127.0.0.2"}
            )
            assert response.ok
            assert response.connection.local_address.host == "127.0.0.2"
            await refused(session, "http://10.0.0.1/")
            if "localhost" in allow.lower():
                await refused(session, f"https://127.0.0.1:{server.port}/hello")
            if "{port}" in allow:
                await refused(session, "https://localhost:1/")


async def test_what_is_denied_is_not_reached_whatever_is_allowed(world: World, names: Names) -> None:
    names.update({"h.example": [PUBLIC], "db.internal": ["10.1.0.1"], "other.internal": ["10.2.0.1"]})
    denied = ["10.1.0.0/16", "h.example", "1.1.1.0/24", "64:ff9b::808:0/112"]
    guard = AddressGuard(allow=["10.0.0.0/8", "db.internal"], deny=denied)
    recorder = Recorder()
    async with world.session(transports=[guard, recorder]) as session:
        for host in ("db.internal", "10.1.2.3", "[::ffff:10.1.2.3]", "h.example", "[64:ff9b::808:808]"):
            assert "denied" in str(await refused(session, f"http://{host}/"))
        for host in ("1.1.1.1", "[::ffff:1.1.1.1]", "[64:ff9b::1.1.1.1]"):
            assert "denied" in str(await refused(session, f"http://{host}/"))
        with pytest.raises(ConnectError):
            await session.get("http://other.internal/")
    assert recorder.dialled == [["10.2.0.1"]]
    assert "h.example" not in names.asked


async def test_unix_sockets(world: World, tmp_path: Path) -> None:
    with Server() as server, Door(server.port, str(tmp_path / "s")) as door:
        async with world.session(transports=[AddressGuard()]) as session:
            assert (await refused(session, f"{door.url}/hello")).address == door.path
            await refused(session, "http://h.example/", options={"path": door.path})
        assert door.opened == 0
        (tmp_path / "link").symlink_to(door.path)
        async with world.session(transports=[AddressGuard(allow=[door.path, str(tmp_path / "link")])]) as session:
            assert (await session.get(f"{door.url}/hello")).ok
            assert (await session.get("http://h.example/hello", options={"path": str(tmp_path / "link")})).ok
            await refused(session, "http+unix://%2Frun%2Fother.sock/")
        # One that sends every request to its socket is found out when it has done so, before a byte goes out.
        async with world.session(transports=[AddressGuard(), Unix(door.path)]) as session:
            assert (await refused(session, "http://h.example/hello")).address == door.path
        assert len(server.calls) == 2
        async with world.session(transports=[AddressGuard(allow=[door.path]), Unix(door.path)]) as session:
            assert (await session.get("http://h.example/hello")).ok


async def test_a_resolver_before_the_guard_does_not_get_past_it(world: World) -> None:
    with Server() as server:
        pins = PinnedHosts({"h.example": "127.0.0.1"})
        async with world.session(transports=[pins, AddressGuard()]) as session:
            await refused(session, f"http://h.example:{server.port}/hello")
            assert session.stats().open == 0
        async with world.session(transports=[AddressGuard(), pins]) as session:
            await refused(session, f"http://h.example:{server.port}/hello")
        assert server.wait_closed()
        assert server.calls == []


class Headstrong:
    """A dialler that asks no resolver; `peer` False: and does not say where it went."""

    name = "headstrong"
    honours = frozenset({"*"})

    def __init__(self, port: int, tells: bool) -> None:
        self.port = port
        self.tells = tells

    def refuse(self, route: Any) -> None:
        return None

    async def dial(self, route: Any, connecting: Any) -> Stream:
        [address] = await SystemResolver().resolve("127.0.0.1", self.port, connecting)
        stream: Stream = await connecting.runtime.dial_tcp([address], connecting.deadline.at)
        if not self.tells:
            stream.extra = lambda key, default=None: default  # type: ignore[method-assign, assignment]
        return stream


async def test_a_dialler_that_asks_no_resolver_is_judged_by_its_peer(world: World) -> None:
    with Server() as server:
        async with world.session(transports=[AddressGuard(), Headstrong(server.port, True)]) as session:
            await refused(session, "http://h.example/hello")
        async with world.session(transports=[AddressGuard(), Headstrong(server.port, False)]) as session:
            with pytest.raises(ConnectError, match="cannot be told"):
                await session.get("http://h.example/hello")
        assert server.wait_closed()
        assert server.calls == []


# -- proxies -----------------------------------------------------------------------------------------------------------


async def test_a_proxy_is_refused_unless_it_is_trusted(world: World, names: Names) -> None:
    script: list[Any] = [
        expect_head(b"CONNECT origin.example:80 HTTP/1.1\r\n"),
        send(b"HTTP/1.1 200 Connection established\r\n\r\n"),
        expect_head(b"GET /x HTTP/1.1\r\n"),
        send(OK),
    ]
    names["proxy.example"] = ["127.0.0.1"]
    with ScriptedPeer(script) as peer:
        proxy = f"http://proxy.example:{peer.port}"
        async with world.session(proxy=proxy, transports=[AddressGuard(), ConnectProxy()]) as session:
            assert "allow_proxies" in str(await refused(session, "http://origin.example/x"))
        assert peer.accepted == 0
        guard = AddressGuard(allow_proxies=True, deny=["secret.example", "10.0.0.0/8"])
        async with world.session(proxy=proxy, transports=[guard, ConnectProxy()]) as session:
            assert (await session.get("http://origin.example/x")).text == "ok"
            await refused(session, "http://secret.example/x")
            for address in ("10.1.2.3", "[::ffff:10.1.2.3]", "[64:ff9b::a01:203]"):  # what a name is, the proxy knows
                assert "denied" in str(await refused(session, f"http://{address}/"))
            # The proxy itself is trusted as a proxy only.
            await refused(session, f"{proxy}/x", proxy=None)
            await refused(session, "http://proxy.example:1/", proxy=None)
        assert peer.accepted == 1


async def test_a_proxy_that_wants_an_address_gets_one_that_was_judged(world: World, names: Names) -> None:
    """As SOCKS does where the client resolves."""
    names.update({"proxy.example": ["127.0.0.1"], "origin.example": ["10.0.0.1"]})

    class Resolving(ConnectProxy):
        async def dial(self, route: Any, connecting: Any) -> Stream:
            await connecting.resolve(route.host, route.port)
            return await super().dial(route, connecting)

    with ScriptedPeer() as peer:
        transports = [AddressGuard(allow_proxies=True), Resolving()]
        async with world.session(proxy=f"http://proxy.example:{peer.port}", transports=transports) as session:
            await refused(session, "http://origin.example/x")
        assert peer.accepted == 0


async def test_shipped_proxies_are_refused_unless_they_are_trusted(world: World, names: Names) -> None:
    names.update({"proxy.example": ["127.0.0.1"], "origin.example": ["10.0.0.1"]})
    script: list[Any] = [expect_head(b"GET http://origin.example/x HTTP/1.1\r\n"), send(OK)]
    with ScriptedPeer(script) as peer:
        place = f"proxy.example:{peer.port}"
        async with world.session(transports=["address-guard"]) as session:
            for scheme in ("http", "https", "socks5", "socks5h"):
                await refused(session, "http://origin.example/x", proxy=f"{scheme}://{place}")
        async with world.session(transports=[AddressGuard(allow_proxies=True)]) as session:
            assert (await session.get("http://origin.example/x", proxy=f"http://{place}")).text == "ok"
            # Here the client resolves, so there is something to be judged.
            error = await refused(session, "http://origin.example/x", proxy=f"socks5://{place}")
            assert error.address == "10.0.0.1"
        assert peer.accepted == 1


async def test_a_proxy_of_the_environment_is_one_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with world.session(transports=["address-guard"]) as session:
        assert "allow_proxies" in str(await refused(session, "http://origin.example/x"))
