"""The resolver "system": `getaddrinfo`, in a thread of its own, so that a deadline ends it in every world."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

from plugwire.protocols import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.protocols import Connecting, Route, Waiter


class SystemResolver:
    """The operating system's own resolver. Numeric addresses are taken as they are."""

    name = "system"
    honours = frozenset[str]()

    def refuse(self, route: Route) -> str | None:
        """Takes every route."""
        return None

    async def resolve(self, host: str, port: int, connecting: Connecting) -> Sequence[Address]:
        """Addresses in the order of RFC 6724, as getaddrinfo gives them.

        Raises:
            OSError: what getaddrinfo says (`socket.gaierror`).
            TimeoutError: the deadline has passed; the thread is left to itself, because nothing can end getaddrinfo.
        """
        numeric = _numeric(host, port)
        if numeric is not None:
            return [numeric]
        look_up = _LookUp(host, port, connecting.runtime.waiter())
        threading.Thread(target=look_up.run, name=f"plugwire resolves {host}", daemon=True).start()
        with connecting.call.waiting(look_up.waiter):
            in_time = await look_up.waiter.wait(connecting.deadline.at)
        connecting.call.check()
        if not in_time:
            raise TimeoutError
        if look_up.error is not None:
            raise look_up.error
        return look_up.addresses


class _LookUp:
    """One call of getaddrinfo: runs in its thread, leaves its result, wakes the waiter."""

    def __init__(self, host: str, port: int, waiter: Waiter) -> None:
        self.host = host
        self.port = port
        self.waiter = waiter
        self.addresses: list[Address] = []
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            found: list[Any] = list(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
            for family, _, _, _, place in found:
                address = Address(family, *place)  # (host, port), and for IPv6 flowinfo and scope_id
                if address not in self.addresses:
                    self.addresses.append(address)
        except OSError as error:
            self.error = error
        except UnicodeError as error:
            # A label over 63 characters: the idna codec raises before any look-up.
            self.error = socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}")
        finally:
            self.waiter.wake()


def _numeric(host: str, port: int) -> Address | None:
    """The address that the host is already, or None. A scope ("fe80::1%eth0") is left to getaddrinfo."""
    for family in (socket.AF_INET6,) if ":" in host else (socket.AF_INET,):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return Address(family, host, port)
    return None
