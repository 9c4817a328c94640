"""A certificate for loopback, made by the package trustme when first needed, and kept as long as the process lives."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from plugwire.config import TLSConfig
from plugwire.errors import UsageError

if TYPE_CHECKING:
    import ssl

    from trustme import CA

NAMES: Final = ("localhost", "127.0.0.1", "::1")


class Identity(NamedTuple):
    """The server's side, and what a client needs to trust it."""

    context: ssl.SSLContext
    client: TLSConfig


@lru_cache(maxsize=1)
def _authority() -> CA:
    try:
        from trustme import CA
    except ImportError as error:
        raise UsageError(
            "a TLS server for tests needs the package trustme: pip install 'plugwire[demo]' brings it"
        ) from error
    return CA()


@lru_cache(maxsize=8)
def loopback_identity(protocols: tuple[str, ...] = ("http/1.1",)) -> Identity:
    """A certificate for localhost, 127.0.0.1 and ::1, by an authority of its own, the same for all of them.

    Args:
        protocols: what ALPN chooses from, the server's preference first.

    Raises:
        UsageError: trustme is not installed.
    """
    import ssl

    authority = _authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(list(protocols))
    leaf = authority.issue_cert(*NAMES)
    leaf.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # it also takes pyOpenSSL's contexts
    return Identity(context, TLSConfig(ca_data=authority.cert_pem.bytes().decode("ascii")))
