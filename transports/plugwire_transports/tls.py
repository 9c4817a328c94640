"""The securer "tls": a stream in, a `TLSStream` out. Context, handshake, pins, session resumption."""

from __future__ import annotations

import ssl
from dataclasses import fields
from hashlib import sha256
from typing import TYPE_CHECKING

from plugwire import CertificateError, Error, TLSConfig, TLSError, UsageError
from plugwire.protocols import TLSInfo
from plugwire_transports.tls_context import context_for
from plugwire_transports.tls_sessions import Sessions
from plugwire_transports.tls_stream import RECORDS, TLSStream, in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire.protocols import Connecting, Route, Stream

NO_CONFIG = TLSConfig()


class TLSSecurer:
    """The transport "tls": TLS 1.2 and 1.3 by the standard library's `ssl`, for https and wss.

    Obeys every field of `TLSConfig`; offers `http_versions` by ALPN (RFC 7301) in their order; resumes sessions of
    earlier connections over the same route.
    """

    name = "tls"
    honours = frozenset({"http_versions", *(f"tls.{field.name}" for field in fields(TLSConfig))})

    def __init__(self) -> None:
        self._sessions = Sessions()

    def refuse(self, route: Route) -> str | None:
        """Refuses a route without TLS, and one whose files (CA, client certificate) cannot be used."""
        config = route.tls
        if config is None:
            return f"{route.scheme} is a scheme without TLS"
        if config.ca_file is not None or config.ca_data is not None or config.client_cert is not None:
            # The context is needed in a moment anyhow; made here, a bad file is told before anything is dialled.
            try:
                context_for(config, offered(route))
            except UsageError as error:
                return str(error)
        return None

    async def secure(self, stream: Stream, route: Route, connecting: Connecting) -> TLSStream:
        """A TLS stream after the handshake.

        Raises:
            CertificateError: the certificate was not accepted, or is not among the pins.
            TLSError: the handshake failed.
            UsageError: the configuration cannot be used: a file, or a host that cannot be a name in TLS.
            TimeoutError: `connecting.deadline` has passed.
        """
        config = route.tls or NO_CONFIG
        context = context_for(config, offered(route))
        # RFC 6066, 3: the name goes without a trailing dot; certificates have none either.
        hostname = route.server_hostname.removesuffix(".")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = self._sessions.take(route, context)
        try:
            tls = context.wrap_bio(incoming, outgoing, server_hostname=hostname, session=session)
        except (ValueError, ssl.SSLError) as error:
            raise UsageError(f"TLS with {hostname!r} cannot begin: {error}") from error
        await shake_hands(tls, incoming, outgoing, stream, hostname, connecting.deadline.at)
        certificate = tls.getpeercert(binary_form=True)
        check_pins(config.pins, certificate, hostname)
        cipher = tls.cipher()
        info = TLSInfo(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            alpn=tls.selected_alpn_protocol(),
            server_hostname=hostname,
            peer_certificate=certificate,
            resumed=bool(tls.session_reused),
            verified=context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname,
        )
        return TLSStream(stream, tls, incoming, outgoing, info, lambda: self._sessions.keep(route, tls))


def offered(route: Route) -> tuple[str, ...]:
    """What ALPN offers: the route's versions, but for HTTP/3, which does not run over a stream."""
    return tuple(version for version in route.http_versions if not version.startswith("h3"))


async def shake_hands(
    tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, lower: Stream, hostname: str, at: float
) -> None:
    """Drive the handshake to its end, the last flight sent included."""
    first = b""  # what the peer sent first, to tell one that speaks something else
    try:
        while True:
            try:
                tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                is_done = False
            lower.write_now(outgoing.read())
            while lower.unsent:
                await lower.wait(False, True, at)
                lower.write_now(b"")
            if is_done:
                return
            data = await lower.receive(RECORDS, at)
            if not data:
                raise ConnectionResetError("the peer closed the connection in the middle of the handshake")
            if len(first) < 32:
                first += data[: 32 - len(first)]
            incoming.write(data)
    except (TimeoutError, Error):
        raise
    except ssl.SSLCertVerificationError as error:
        say_why(lower, outgoing)
        text = f"the certificate of {hostname} is not accepted: {error.verify_message.rstrip('.')}"
        raise CertificateError(text).at("tls") from error
    except OSError as error:
        say_why(lower, outgoing)
        # RFC 8446, 5.1: a peer's first record is a handshake message (22) or an alert (21).
        if first and first[0] not in (21, 22):
            text = f"{hostname}: the peer does not speak TLS (it sent {first!r})"
        else:
            text = f"TLS handshake with {hostname}: {in_words(error)}"
        raise TLSError(text).at("tls") from error


def say_why(lower: Stream, outgoing: ssl.MemoryBIO) -> None:
    """Send the alert that tells the peer what was wrong with it, if it goes out at once."""
    try:
        lower.write_now(outgoing.read())
    except OSError:
        pass


def check_pins(pins: Sequence[str], certificate: bytes | None, hostname: str) -> None:
    """Raise CertificateError unless the certificate is one of `pins`, or there are none."""
    if pins:
        digest = sha256(certificate or b"").hexdigest()
        if certificate is None or digest not in pins:
            text = f"the certificate of {hostname} is not among the pins: its SHA-256 is {digest}"
            raise CertificateError(text).at("tls")
