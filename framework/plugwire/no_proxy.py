"""NO_PROXY: which hosts are reached without a proxy.

Nobody has written this format down. What is taken here is what curl, Go and Python's own clients agree on; where they
differ, the reading that a reader expects:

    *                            every host
    example.org  .example.org    the host and what is below it: www.example.org, never notexample.org
    *.example.org                what is below it
    192.0.2.7  2001:db8::7       an address that the URL names; nothing is resolved for this
    192.0.2.0/24  2001:db8::/32  the addresses of a network (CIDR)

Each but the first and the last may have a port behind it, and then means that port only; IPv6 stands in brackets then,
and may in any case. A list is separated by commas or white space. Names are compared as URLs have them: in lower case,
internationalised ones by their A-labels, without the dot at their end.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple

from plugwire.errors import UsageError
from plugwire.hosts import InvalidHost, parse_host

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEPARATORS: Final = re.compile(r"[,\s]+")
_PORT: Final = re.compile(r"(.*):([0-9]{1,5})")


class Rule(NamedTuple):
    """One pattern.

    network: of an address or a range. name: else, without dots at its ends; "" means every host. only_below: the name
    itself is not meant. port: None for all ports.
    """

    name: str = ""
    network: IPv4Network | IPv6Network | None = None
    only_below: bool = False
    port: int | None = None

    def matches(self, name: str, address: IPv4Address | IPv6Address | None, port: int | None) -> bool:
        """Whether it means this host, of which `address` is set if it is one."""
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address is not None and address in self.network  # False for the other family
        if not self.name:
            return True
        if address is not None:
            return False
        return name.endswith("." + self.name) or (not self.only_below and name == self.name)


def is_exempt(rules: Sequence[Rule], host: str, port: int | None) -> bool:
    """Whether one of the rules means this host, canonical as in an `Origin`, and its effective port."""
    if not rules:
        return False
    address = _address(host)
    name = host.removesuffix(".")
    return any(rule.matches(name, address, port) for rule in rules)


def parse_list(text: str) -> tuple[Rule, ...]:
    """The rules of a list from outside of the program. What is no pattern is left out, as everybody does: the variable
    may have been written for another program."""
    rules: list[Rule] = []
    for item in _SEPARATORS.split(text):
        if item:
            try:
                rules.append(parse_rule(item))
            except UsageError:
                pass
    return tuple(rules)


@lru_cache(256)
def parse_rule(text: str) -> Rule:
    """The rule that a pattern stands for.

    Raises:
        UsageError: it is none.
    """
    if text == "*":
        return Rule()
    try:
        return _network_rule(text) or _host_rule(text)
    except (InvalidHost, ValueError) as error:
        raise UsageError(f"no_proxy: {text!r} is no host, address or network: {error}") from None


def _network_rule(text: str) -> Rule | None:
    """An address or a range of them; None if it is written like a name."""
    port = None
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and rest[0] not in ":/"):
            raise ValueError("'[' without its ']'")
        if rest.startswith(":"):
            port, rest = _parse_port(rest[1:]), ""
        text = inside + rest
    elif text.count(":") == 1 and (found := _PORT.fullmatch(text)):
        text, port = found[1], _parse_port(found[2])
    if "/" in text:
        return Rule(network=_unmapped(ip_network(text, strict=False)), port=port)
    address = _address(text)
    return Rule(network=ip_network(address), port=port) if address is not None else None


def _host_rule(text: str) -> Rule:
    port = None
    if found := _PORT.fullmatch(text):
        text, port = found[1], _parse_port(found[2])
    only_below = text.startswith("*.")
    name = parse_host(text.removeprefix("*").lstrip("."), True).strip(".")
    if not name or "*" in name:
        raise ValueError("'*' stands alone, or in front of the first dot")
    address = _address(name.strip("[]"))  # written in a way that only URLs have: 0x7f.1
    if address is not None:
        return Rule(network=ip_network(address), port=port)
    return Rule(name, only_below=only_below, port=port)


def _parse_port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError("a port is between 1 and 65535")
    return port


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is, an IPv4 one if it is mapped into IPv6 (RFC 4291, 2.5.5.2); None if it is a name."""
    if not (":" in host or host[-1:].isdigit()):
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """The same for a range."""
    mapped = isinstance(network, IPv6Network) and network.network_address.ipv4_mapped
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network
