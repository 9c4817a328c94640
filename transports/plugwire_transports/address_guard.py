"""The transport "address-guard": connections to the public internet only (against server-side request forgery).

How it works. Where users choose the URLs, a program can be made to ask what only it can reach: its own ports, the
machines beside it, the cloud's metadata at 169.254.169.254. To look at the URL does not help. A name may resolve to any
address, to another one the next time (DNS rebinding), a redirect may lead anywhere, and an address has many spellings.
So the guard looks at the address itself, where it is dialled, at each dial:

1. As a *resolver* it asks those below and lets through only the addresses that are allowed; of a host that has both
   kinds, the allowed ones are left. What it was shown is what is dialled: nobody looks the name up again.
2. As a *dialler* it takes every route and dials below. It sees what no resolver does: Unix sockets are refused, and
   proxies, which resolve names where we cannot see it. And it looks at the address of the peer once more when the
   stream is there, before a byte goes out, for a dialler below that asks no resolver, and a resolver before the guard.

`special` decides, and is pure: IANA's registries of special-purpose addresses as a table. IPv6 has many ways to mean an
IPv4 address: mapped ones (::ffff:10.0.0.1) are judged as what they are, those that a NAT64 gateway translates
(64:ff9b::10.0.0.1) by what is in them, and 6to4, Teredo and IPv4-compatible ones, which no site uses any more, are
refused as a whole. Which prefixes of its own a network gives to NAT64, nobody can know: put them into `deny`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from plugwire.errors import AddressRefused, UsageError
from plugwire.protocols import EVERYTHING, PEER_ADDRESS, Address
from plugwire_transports.pinned_hosts import Place, parse_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.protocols import Connecting, Route, Stream

IPAddress: TypeAlias = "IPv4Address | IPv6Address"
IPNetwork: TypeAlias = "IPv4Network | IPv6Network"

SPECIAL: Final[tuple[tuple[IPNetwork, str], ...]] = tuple(
    (ip_network(network), words)
    for network, words in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier's NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "the cloud's own (Azure)"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "for protocols of the IETF"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "of 6to4 relays"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b:1::/48", "of a NAT64 of its network"),
        ("100::/64", "discarded"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "for protocols of the IETF"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "for documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
"""What is not the public internet, the narrower networks first (IANA's registries of special-purpose IPv4 and IPv6
addresses; RFC 6890)."""

PUBLIC_IPV6: Final = IPv6Network("2000::/3")
"""All that was ever given out as global unicast (RFC 4291, 2.4)."""

MAPPED: Final = IPv6Network("::ffff:0:0/96")
NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 4291, 2.5.5.2; RFC 6052, 2.1."""


def special(address: IPAddress) -> str | None:
    """What an address is, in words, if it is not of the public internet; None if it is."""
    if isinstance(address, IPv6Address):
        inner = behind_nat64(address)
        if inner is not None:
            words = special(inner)
            return words and f"{inner} behind NAT64, {words}"
        address = unmapped(address)
    for network, words in SPECIAL:
        if address in network:
            return words
    # Python's own tables are younger than ours one day.
    if not address.is_global or (address.version == 6 and address not in PUBLIC_IPV6):
        return "not of the public internet"
    return None


def behind_nat64(address: IPAddress) -> IPv4Address | None:
    """The IPv4 address that a NAT64 gateway connects to for this one; None if it is no such address."""
    if isinstance(address, IPv6Address) and address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address that the system dials for an IPv4-mapped one."""
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if inner is None else inner


@dataclass(frozen=True, slots=True)
class Rules:
    """What a caller allows or denies beyond the table."""

    networks: tuple[IPNetwork, ...] = ()
    places: frozenset[Place] = frozenset()
    paths: frozenset[str] = frozenset()

    def has_address(self, address: IPAddress) -> bool:
        """True if a network has it."""
        return any(address in network for network in self.networks)

    def has_place(self, host: str, port: int) -> bool:
        """True if the host is named, for this port or for all."""
        name = host.removesuffix(".")
        return Place(name) in self.places or Place(name, port) in self.places


def parse_rules(given: Sequence[str], argument: str) -> Rules:
    """Rules from networks, addresses, hosts and paths as text.

    Raises:
        UsageError: one of them is none of these.
    """
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise UsageError(f"{argument}={given!r}: a list of networks, hosts and paths of Unix sockets")
    networks: list[IPNetwork] = []
    places: set[Place] = set()
    paths: set[str] = set()
    for item in cast("Sequence[object]", given):
        if not isinstance(item, str) or not item:
            raise UsageError(f"{argument} has {item!r}: a network, a host or a path, as a str")
        if item[0] in "/\0":
            paths.add(item)
        elif (network := _network(item, argument)) is not None:
            networks.append(network)
        else:
            places.add(parse_place(item, argument))
    return Rules(tuple(networks), frozenset(places), frozenset(paths))


def _network(text: str, argument: str) -> IPNetwork | None:
    try:
        network = ip_network(text)
    except ValueError as error:
        if "/" in text:
            raise UsageError(f"{argument} has {text!r}: {error}") from None
        return None
    if isinstance(network, IPv6Network) and network.overlaps(MAPPED) and network.prefixlen >= MAPPED.prefixlen:
        raise UsageError(f"{argument} has {text!r}: write IPv4 networks as such; mapped addresses are taken for IPv4")
    return network


class AddressGuard:
    """Lets connections through to the public internet only: `Session(transports=[AddressGuard()])`, or "address-guard".

    Refuses private, loopback, link-local, carrier-NAT, multicast, reserved and other special addresses, in every
    spelling and every IPv6 form of them; Unix sockets; and proxies. What it refuses raises `AddressRefused`.

    Put it first: a transport that is listed before it is asked before it. A *whole* transport (HTTP/3, ASGI, a mock)
    makes its connections all by itself, so the guard does not see them; nor is it asked which schemes a URL may have.
    If users choose URLs, check that theirs are http or https.

    Args:
        allow: what may be reached all the same: networks and addresses ("10.0.0.0/8", "::1"), hosts wherever they are
            ("db.internal", "db.internal:8080"), paths of Unix sockets ("/run/docker.sock").
        deny: what may not, even if `allow` has it.
        allow_proxies: True: let requests go through proxies, whose own addresses are not checked, because the program
            chose them. Whom the proxy connects to is then the proxy's business: it must guard itself.

    Raises:
        UsageError: an entry that is none of these.
    """

    name = "address-guard"
    honours = frozenset({EVERYTHING})

    def __init__(self, allow: Sequence[str] = (), *, deny: Sequence[str] = (), allow_proxies: bool = False) -> None:
        self._allow = parse_rules(allow, "allow")
        self._deny = parse_rules(deny, "deny")
        self._allow_proxies = allow_proxies

    def refuse(self, route: Route) -> str | None:
        """Takes every route: what it stepped aside for, others would dial."""
        return None

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        """The allowed ones among the addresses that the resolvers below know.

        Raises:
            AddressRefused: there is none.
        """
        self._check_host(host, port)
        found = await connecting.resolve(host, port)
        reasons = {address: self._why_not(connecting.route, host, port, address) for address in found}
        allowed = [address for address, reason in reasons.items() if reason is None]
        if not allowed:
            address, reason = next(iter(reasons.items()))
            raise _refused(host, address.host, reason or "")
        return allowed

    async def dial(self, route: Route, connecting: Connecting) -> Stream:
        """A stream of the diallers below, to an address that is allowed.

        Raises:
            AddressRefused: it is none, or a Unix socket or a proxy that is not allowed.
        """
        self._check_host(route.host, route.port)
        if route.proxy is not None:
            return await self._dial_through(route, connecting)
        if route.path is not None:
            # The peer may call its socket by another name: /var/run is a link to /run.
            self._check_path(route.host, route.path)
            return await connecting.dial(route)
        stream = await connecting.dial(route)
        try:
            self._check_peer(route, stream.extra(PEER_ADDRESS))
        except BaseException:
            stream.close()
            raise
        return stream

    async def _dial_through(self, route: Route, connecting: Connecting) -> Stream:
        if not self._allow_proxies:
            reason = "a proxy is on the way, which resolves it unseen (see AddressGuard, allow_proxies)"
            raise _refused(route.host, None, reason)
        return await connecting.dial(route)

    def _check_host(self, host: str, port: int) -> None:
        if self._deny.has_place(host, port) or self._is_denied(_address(host)):
            raise _refused(host, None, "denied")

    def _check_path(self, host: str, path: str) -> None:
        if path not in self._allow.paths or path in self._deny.paths:
            raise _refused(host, path, "a Unix socket")

    def _check_peer(self, route: Route, peer: Address | str | None) -> None:
        """Who is at the other end."""
        if isinstance(peer, Address):
            if reason := self._why_not(route, route.host, route.port, peer):
                raise _refused(route.host, peer.host, reason)
        elif peer is not None:
            self._check_path(route.host, peer)
        else:
            # Gone already, most likely: the system tells the address of a connected socket only.
            raise ConnectionResetError("the peer's address cannot be told, so it cannot be checked")

    def _why_not(self, route: Route | None, host: str, port: int, address: Address) -> str | None:
        found = _address(address.host)
        if found is None:
            return "no IP address"
        if self._is_denied(found):
            return "denied"
        is_chosen = self._allow.has_place(host, port) or (self._allow_proxies and _is_proxy(route, host, port))
        return None if is_chosen or self._allow.has_address(found) else special(found)

    def _is_denied(self, address: IPAddress | None) -> bool:
        """True if a denied network has it, or what a NAT64 makes of it."""
        forms = (address, behind_nat64(address)) if address is not None else ()
        return any(self._deny.has_address(form) for form in forms if form is not None)


def _address(host: str) -> IPAddress | None:
    """The address that a host is, as the system dials it; None if it is a name."""
    try:
        return unmapped(ip_address(host))
    except ValueError:
        return None


def _is_proxy(route: Route | None, host: str, port: int) -> bool:
    """True if the host is the proxy on the way, which the program chose."""
    if route is None:
        return False
    hop = route if route.hop_of is not None else route.to_proxy() if route.proxy is not None else None
    return hop is not None and (host.removesuffix("."), port) == (hop.host.removesuffix("."), hop.port)


def _refused(host: str, address: str | None, reason: str) -> AddressRefused:
    where: Any = f" at {address!r}" if address is not None and address != host else ""
    return AddressRefused(f"{host}{where} is out of bounds: {reason}", host, address).at("resolve")
