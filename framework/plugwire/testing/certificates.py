"""A certificate for loopback, made by the package trustme when first needed, and kept as long as the process lives."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from plugwire.config import TLSConfig
from plugwire.errors import UsageError

if TYPE_CHECKING:
    import ssl

NAMES: Final = ("localhost", "127.0.0.1", "::1")


class Identity(NamedTuple):
    """The server's side, and what a client needs to trust it."""

    context: ssl.SSLContext
    client: TLSConfig


@lru_cache(maxsize=1)
def loopback_identity() -> Identity:
    """An authority of its own and a certificate for localhost, 127.0.0.1 and ::1; ALPN chooses http/1.1.

    Raises:
        UsageError: trustme is not installed.
    """
    import ssl

    try:
        import trustme
    except ImportError as error:
        raise UsageError(
            "a TLS server for tests needs the package trustme: pip install 'plugwire[demo]' brings it"
        ) from error
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    leaf = authority.issue_cert(*NAMES)
    leaf.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # it also takes pyOpenSSL's contexts
    return Identity(context, TLSConfig(ca_data=authority.cert_pem.bytes().decode("ascii")))
