"""`ssl.SSLContext`s: built lazily from a `TLSConfig`, once, and shared.

Building one costs some 20 ms and 0.7 MB (it parses the whole CA bundle), so every connection with the same settings
uses the same object. The cache knows when a file that went into a context has changed on disk: short-lived client
certificates that are rotated in place are picked up by the next connection.

What every context of ours has, on every Python alike:

- `PROTOCOL_TLS_CLIENT` with Python's own ciphers, TLS 1.2 or the configured minimum, no compression (CRIME), no
  renegotiation (RFC 9113, 9.2.1 forbids it, and nobody needs it).
- `VERIFY_X509_PARTIAL_CHAIN`: a certificate in the bundle is an anchor though it is not self-signed, as in curl and Go.
- Not `VERIFY_X509_STRICT`, which Python 3.13 began to set in `create_default_context`: it refuses private CAs for
  the form of their certificates (no key identifier, basicConstraints not critical) and guards against no attack that
  the other checks let through. Whether a peer is accepted must not depend on the interpreter's version. Who wants it
  brings a `context`.
- Names are looked for in subjectAltName only, as RFC 9110, 4.3.4 has it; OpenSSL would take the subject's common name
  where that is missing.
- `SSLKEYLOGFILE` in the environment names a file for the session secrets, as curl and browsers have it.

A caller's own context is used as it is and never changed: ALPN offers what it was set to offer.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections import OrderedDict
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from plugwire import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugwire import TLSConfig

MAX_CONTEXTS = 64

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

_contexts: OrderedDict[object, ssl.SSLContext] = OrderedDict()
_lock = Lock()


def _after_fork() -> None:
    """In the child: another thread may have been building a context, and here nobody would ever give the lock back."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def context_for(config: TLSConfig, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """The context for these settings. The same object for equal settings, from any thread.

    Args:
        config: `server_hostname` and `pins` do not matter here.
        alpn: the protocols to offer (RFC 7301), best first. A caller's own context is not touched.

    Raises:
        UsageError: a file cannot be read or does not hold what it should; it is named.
    """
    if config.context is not None:
        return config.context
    key_log = _key_log()
    key = (replace(config, server_hostname=None, pins=()), tuple(alpn), key_log, _stamps(config))
    # Built under the lock: two threads that need the same one would otherwise both spend the 20 ms.
    with _lock:
        context = _contexts.get(key)
        if context is None:
            context = _contexts[key] = _build(config, alpn, key_log)
            if len(_contexts) > MAX_CONTEXTS:
                _contexts.popitem(last=False)
        else:
            _contexts.move_to_end(key)
        return context


def _build(config: TLSConfig, alpn: Sequence[str], key_log: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[config.minimum_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Python 3.13 does not set STRICT here, only in create_default_context; a distribution may.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    if config.verify:
        _load_authorities(context, config)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.client_cert is not None:
        _load_client_cert(context, config.client_cert)
        # Servers that ask for a certificate only when they have seen the path (RFC 8446, 4.6.2).
        context.post_handshake_auth = True
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if key_log is not None:
        try:
            context.keylog_filename = key_log
        except OSError as error:
            raise UsageError(f"SSLKEYLOGFILE={key_log!r} cannot be written: {error.strerror}") from error
    return context


def _load_authorities(context: ssl.SSLContext, config: TLSConfig) -> None:
    if config.ca_file == "system":
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    elif config.ca_file is not None:
        _check_readable("ca_file", config.ca_file)
        try:
            context.load_verify_locations(cafile=config.ca_file)
        except ssl.SSLError as error:
            raise UsageError(f"TLSConfig(ca_file={config.ca_file!r}) holds no PEM certificate: {error}") from error
    elif config.ca_data is None:
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    if config.ca_data is not None:
        try:
            context.load_verify_locations(cadata=config.ca_data)
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(f"TLSConfig(ca_data=...) holds no PEM certificate: {error}") from error


def _load_client_cert(context: ssl.SSLContext, client_cert: str | tuple[str, ...]) -> None:
    paths = _client_files(client_cert)
    password = client_cert[2] if isinstance(client_cert, tuple) and len(client_cert) > 2 else None
    for path in paths:
        _check_readable("client_cert", path)

    def answer() -> str:
        # Without this OpenSSL asks on the terminal, and the program hangs.
        if password is None:
            raise UsageError(f"TLSConfig(client_cert=...): the key in {paths[-1]!r} is encrypted and needs a password")
        return password

    try:
        context.load_cert_chain(paths[0], paths[-1], answer)
    except ssl.SSLError as error:
        names = " and ".join(repr(path) for path in paths)
        doubt = "" if password is None else ", or the password is wrong"
        text = f"TLSConfig(client_cert=...): no certificate with its key in {names}{doubt}: {error}"
        raise UsageError(text) from error


def _client_files(client_cert: str | tuple[str, ...]) -> tuple[str, ...]:
    return (client_cert,) if isinstance(client_cert, str) else client_cert[:2]


def _check_readable(name: str, path: str) -> None:
    """`ssl` says "No such file or directory" without a name."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UsageError(f"TLSConfig({name}={path!r}) cannot be read: {error.strerror}") from error


def _stamps(config: TLSConfig) -> tuple[object, ...]:
    """What changes when a file of the configuration is replaced."""
    paths = [] if config.client_cert is None else list(_client_files(config.client_cert))
    if config.ca_file not in (None, "system"):
        paths.append(config.ca_file)
    return tuple(_stamp(path) for path in paths)


def _stamp(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _key_log() -> str | None:
    return None if sys.flags.ignore_environment else os.environ.get("SSLKEYLOGFILE") or None
