"""The resolver "pinned-hosts": hosts whose addresses the program knows better than DNS."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from plugwire.errors import InvalidURL, UsageError
from plugwire.protocols import Address
from plugwire.url import URL

if TYPE_CHECKING:
    from plugwire.protocols import Connecting, Route

_PLACE: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]/?#@]+)(?::([0-9]{1,5}))?")

Pins: TypeAlias = "Mapping[str, str | Sequence[str]]"


class Place(NamedTuple):
    """A host, and the port if it is for one only."""

    host: str
    port: int | None = None


class PinnedHosts:
    """Pinned hosts, as by `curl --resolve`: a host is at these addresses, whatever DNS says of it.

        Session(transports=[PinnedHosts({"example.org": "127.0.0.1", "example.org:8443": ["::1", "10.0.0.1"]})])

    Only where it is dialled changes: Host, TLS name and pool keep the name. What is not pinned is resolved by the
    resolvers below. A proxy's host can be pinned too; what a proxy resolves itself cannot.

    Args:
        hosts: "host" or "host:port", an IPv6 address in brackets, in any spelling that a URL may have; for each one
            numeric address or several, best first (an IPv6 one with its interface if it is link-local: "fe80::1%eth0").
            Where both fit, the one with the port counts.

    Raises:
        UsageError: a host that cannot be, or an address that is none.
    """

    name = "pinned-hosts"
    honours = frozenset[str]()

    def __init__(self, hosts: Pins) -> None:
        if not isinstance(hosts, Mapping):
            raise UsageError(f"PinnedHosts({hosts!r}): a mapping of hosts to addresses")
        self._pins: dict[Place, tuple[Address, ...]] = {}
        for text, addresses in hosts.items():
            place = parse_place(text, "PinnedHosts")
            if place in self._pins:
                raise UsageError(f"PinnedHosts has {text!r} twice")
            self._pins[place] = _addresses(text, addresses)

    def __repr__(self) -> str:
        return f"PinnedHosts({len(self._pins)} hosts)"

    def refuse(self, route: Route) -> str | None:
        """Takes every route."""
        return None

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        """The pinned addresses, or what the resolvers below say."""
        name = host.removesuffix(".")
        pinned = self._pins.get(Place(name, port)) or self._pins.get(Place(name))
        if pinned is None:
            return await connecting.resolve(host, port)
        return [address._replace(port=port) for address in pinned]


def parse_place(text: Any, argument: str) -> Place:
    """A host in its canonical form, without a trailing dot, and the port that may stand behind it.

    Raises:
        UsageError: it is none; `argument` is who has it.
    """
    if not isinstance(text, str):
        raise UsageError(f"{argument} has {text!r}: a host is a str")
    written = f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text  # an IPv6 address alone
    found = _PLACE.fullmatch(written)
    if found is None:
        raise UsageError(f"{argument} has {text!r}: a host, or host:port, is wanted")
    port = int(found[2]) if found[2] else None
    if port is not None and not 0 < port < 65536:
        raise UsageError(f"{argument} has {text!r}: the port is not between 1 and 65535")
    try:
        return Place(URL(f"http://{found[1]}/").host.removesuffix("."), port)
    except InvalidURL as error:
        raise UsageError(f"{argument} has {text!r}: {error}") from None


def _addresses(text: str, given: object) -> tuple[Address, ...]:
    items = cast("Sequence[object]", (given,) if isinstance(given, str) else given)
    if not isinstance(given, (str, list, tuple)) or not items:
        raise UsageError(f"PinnedHosts: {text!r} has {given!r}: an address, or a list of them")
    return tuple(_address(text, item) for item in items)


def _address(text: str, given: object) -> Address:
    """A numeric address, without its port."""
    try:
        if not isinstance(given, str):
            raise ValueError("no str")
        found = ip_address(given.removeprefix("[").removesuffix("]"))
        if isinstance(found, IPv6Address):
            return Address(socket.AF_INET6, str(found).partition("%")[0], 0, 0, _scope(found.scope_id))
        return Address(socket.AF_INET, str(found), 0)
    except ValueError:
        raise UsageError(f"PinnedHosts: {text!r} has {given!r}, which is no numeric address") from None
    except OSError:
        raise UsageError(f"PinnedHosts: {text!r} has {given!r}, whose interface is not there") from None


def _scope(name: str | None) -> int:
    """The number of an interface that is given by name or number (RFC 4007, 11)."""
    if name is None:
        return 0
    return int(name) if name.isdecimal() else socket.if_nametoindex(name)
