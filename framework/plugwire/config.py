"""The values that a session is configured with: `Limits`, `TLSConfig`, and the options of one call (`Proxy` stands in
`proxies`).

All of them are immutable and hashable, because a `Route` carries them and the pool compares routes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypedDict

from plugwire.errors import UsageError
from plugwire.timeouts import is_seconds

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from plugwire.bodies import Json, SourceTypes
    from plugwire.messages import AuthTypes, HeaderTypes, ParamTypes
    from plugwire.multipart import FileTypes
    from plugwire.protocols import Observer
    from plugwire.proxies import ProxyTypes
    from plugwire.timeouts import Timeout


@dataclass(frozen=True, slots=True)
class Limits:
    """What a session holds at most, and what a peer may make it hold.

    Attributes:
        max_connections: open connections in all, idle ones included.
        max_connections_per_origin: open connections to one origin; None: only the total counts.
        max_idle: connections kept open while nobody uses them; the longest idle one is closed first.
        idle_timeout: seconds after which an idle connection is closed; None: never.
        max_lifetime: seconds after which a connection takes no new request; None: never.
        max_head_bytes: a response's head, its trailers alone, or one line of either.
        max_headers: field lines in a head, and in a trailer section.
        max_informational: 1xx responses before the final one.
        max_decoded_bytes: the body of a response, as received (coded or not), and its content after decoding; None: no
            limit on the size.
        max_ratio: bytes that a content coding may give for each byte received, counted after its first 10 MiB.
    """

    max_connections: int = 100
    max_connections_per_origin: int | None = None
    max_idle: int = 100
    idle_timeout: float | None = 60.0
    max_lifetime: float | None = None
    max_head_bytes: int = 256 * 1024
    max_headers: int = 1000
    max_informational: int = 20
    max_decoded_bytes: int | None = None
    max_ratio: int = 200

    def __post_init__(self) -> None:
        for name in ("idle_timeout", "max_lifetime"):
            value = getattr(self, name)
            if value is not None and not is_seconds(value):
                raise UsageError(f"Limits({name}={value!r}): a number of seconds above 0, or None")
        for name in ("max_connections_per_origin", "max_decoded_bytes"):
            if getattr(self, name) is not None:
                self._check_count(name, 1)
        for name in ("max_connections", "max_head_bytes", "max_headers", "max_ratio"):
            self._check_count(name, 1)
        for name in ("max_idle", "max_informational"):
            self._check_count(name, 0)

    def _check_count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"Limits({name}={value!r}): a whole number, at least {least}")


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """How a TLS peer is verified, and what we show it.

    Attributes:
        verify: check the peer's certificate and its name. False opens the connection to anyone in between.
        ca_file: None: the bundle of `certifi`; "system": the system's store; else the path of a PEM file.
        ca_data: further or only CA certificates as PEM text, beside `ca_file` if that is given, else alone.
        client_cert: path of a PEM file with certificate and key, or (certificate, key) or (certificate, key, password).
        server_hostname: the name to send (SNI) and to verify; None: the URL's host.
        pins: SHA-256 hex digests, at least one of which must be that of the peer's certificate (DER).
        minimum_version: the lowest TLS version, "TLSv1.2" or "TLSv1.3".
        context: an `ssl.SSLContext` of your own; then only server_hostname and pins are used from the rest.
    """

    verify: bool = True
    ca_file: str | None = None
    ca_data: str | None = None
    client_cert: str | tuple[str, str] | tuple[str, str, str] | None = field(default=None, repr=False)
    server_hostname: str | None = None
    pins: tuple[str, ...] = ()
    minimum_version: str = "TLSv1.2"
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        pins: object = self.pins
        if isinstance(pins, (str, bytes)) or not isinstance(pins, tuple):
            raise UsageError(f"TLSConfig(pins={pins!r}): a tuple of SHA-256 digests in hex")
        object.__setattr__(self, "pins", tuple(pin.replace(":", "").lower() for pin in self.pins))
        for pin in self.pins:
            if len(pin) != 64 or not set(pin) <= set("0123456789abcdef"):
                raise UsageError(f"TLSConfig(pins=...): {pin!r} is not a SHA-256 digest in hex (64 digits)")
        if self.minimum_version not in ("TLSv1.2", "TLSv1.3"):
            raise UsageError(f"TLSConfig(minimum_version={self.minimum_version!r}): 'TLSv1.2' or 'TLSv1.3'")

    def demands(self) -> frozenset[str]:
        """The names of the fields that are not at their default, as `Route.demands` spells them."""
        return frozenset(f"tls.{f.name}" for f in fields(self) if getattr(self, f.name) != f.default)


@dataclass(frozen=True, slots=True)
class ContentOptions:
    """The options of the core itself: `options={"json_encoder": orjson.dumps}`, on a session or on a call.

    Attributes:
        json_encoder: called with the value of `json=`; gives bytes or str, which is sent as it is. None: `json.dumps`,
            compact and without NaN.
    """

    json_encoder: Callable[[Any], bytes | str] | None = None

    def __post_init__(self) -> None:
        if self.json_encoder is not None and not callable(self.json_encoder):
            raise UsageError(f"option json_encoder={self.json_encoder!r}: a callable that gives bytes or str")


class CallOptions(TypedDict, total=False):
    """The keywords of a call: `session.get(url, **options)` and its like. What is left out is inherited from the
    session.

    params: added to the URL's query. headers: added to the session's, replacing those of the same name. content: the
    body as bytes, str, a binary file, a path, an iterable of pieces, or a callable that gives one. data: form fields,
    sent url-encoded: a mapping, whose values may be lists, or pairs. json: a value, sent as JSON; None: none. files: a
    multipart form, of the fields of data and of files: a mapping or pairs of a field's name and a content (as for
    content), or (filename, content[, content-type[, headers]]). auth: any object with around_send, or (user, password);
    None: none.
    timeout: seconds, or a `Timeout`. context: any value, seen by observers. observe: a callable that gets the events of
    this call. proxy, tls, http_versions: this call's way. follow_redirects: False: a redirect is given as it is.
    max_redirects: followed at most; one more is `TooManyRedirects`. options: the options of plugins, json_encoder, and
    the rest of the route, by name.
    """

    params: ParamTypes
    headers: HeaderTypes
    content: SourceTypes
    data: Mapping[str, object] | list[tuple[str, object]]
    json: Json
    files: FileTypes
    auth: AuthTypes
    timeout: Timeout | float | None
    context: object
    observe: Observer
    proxy: ProxyTypes
    tls: TLSConfig
    http_versions: tuple[str, ...]
    follow_redirects: bool
    max_redirects: int
    options: Mapping[str, object]
