"""How other clients spell what we call otherwise: the hints in our errors, and the tables of docs/coming-from.md.

Only names that we do not have. Where a name exists here and means something else, the page says so in prose.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple


class Place(Enum):
    """Where a name stands."""

    KEYWORD = "a keyword of a session or a call"
    SESSION = "an attribute of a session"
    RESPONSE = "an attribute of a response"
    MODULE = "a name of the package"


class Spelling(NamedTuple):
    """A name of other clients, and ours for the same thing.

    Attributes:
        name: theirs.
        ours: what to write here, as code or in few words.
        clients: those that spell it so.
    """

    name: str
    ours: str
    clients: tuple[str, ...]


_R, _H, _A = ("requests",), ("httpx",), ("aiohttp",)
_RH, _RA, _HA = (*_R, *_H), (*_R, *_A), (*_H, *_A)
_RHA = (*_R, *_H, *_A)
_U = ("urllib3",)

KEYWORDS: Final = (
    Spelling("verify", "tls=TLSConfig(verify=False) or TLSConfig(ca_file=...)", _RH),
    Spelling("cert", "tls=TLSConfig(client_cert=...)", _RH),
    Spelling("ssl", "tls=TLSConfig(...)", _A),
    Spelling("ssl_context", "tls=TLSConfig(context=...)", (*_A, *_U)),
    Spelling("verify_ssl", "tls=TLSConfig(verify=False)", _A),
    Spelling("fingerprint", "tls=TLSConfig(pins=(...,))", _A),
    Spelling("server_hostname", "tls=TLSConfig(server_hostname=...)", (*_A, *_U)),
    Spelling("proxies", "proxy=", _R),
    Spelling("proxy_auth", "proxy=Proxy(url, auth=...)", _A),
    Spelling("proxy_headers", "proxy=Proxy(url, headers=...)", (*_A, *_U)),
    Spelling("mounts", "transports=[...]", _H),
    Spelling("transport", "transports=[...]", _H),
    Spelling("app", "transports=[...]", _H),
    Spelling("connector", "limits=Limits(...) and transports=[...]", _A),
    Spelling("connector_owner", "session.derive(...): a view over the same pool", _A),
    Spelling("allow_redirects", "follow_redirects=", _RA),
    Spelling("stream", "session.stream(...)", _R),
    Spelling("http1", 'http_versions=("http/1.1",)', _H),
    Spelling("http2", 'http_versions=("h2", "http/1.1")', _H),
    Spelling("version", 'http_versions=("http/1.1",)', _A),
    Spelling("body", "content=", _U),
    Spelling("fields", "data= and files=", _U),
    Spelling("chunked", "content= of an iterable is sent chunked", _A),
    Spelling("compress", "content= of what you have compressed, with a Content-Encoding", _A),
    Spelling("expect100", 'headers={"Expect": "100-continue"}', _A),
    Spelling("json_serialize", 'options={"json_encoder": ...}', _A),
    Spelling("default_encoding", "response.encoding = ...", _H),
    Spelling("fallback_charset_resolver", "response.encoding = ...", _A),
    Spelling("hooks", "plugins=[...]", _R),
    Spelling("event_hooks", "plugins=[...]", _H),
    Spelling("middlewares", "plugins=[...]", _A),
    Spelling("trace_configs", "plugins=[...] with observe", _A),
    Spelling("trace_request_ctx", "context=", _A),
    Spelling("request_class", "plugins=[...]", _A),
    Spelling("response_class", "plugins=[...]", _A),
    Spelling("retries", "plugins=[Retries(...)]", _U),
    Spelling("extensions", "options= and timeout=", _H),
    Spelling("trust_env", "proxy=None for no proxy from the environment", _HA),
    Spelling("max_keepalive_connections", "limits=Limits(max_idle=...)", _H),
    Spelling("keepalive_expiry", "limits=Limits(idle_timeout=...)", _H),
    Spelling("read_bufsize", "response.readinto(buffer) or response.iter_bytes(size)", _A),
    Spelling("max_line_size", "limits=Limits(max_head_bytes=...)", _A),
    Spelling("max_field_size", "limits=Limits(max_head_bytes=...)", _A),
    Spelling("read_timeout", "timeout=Timeout(read=...)", _A),
    Spelling("conn_timeout", "timeout=Timeout(connect=...)", _A),
    Spelling("cookie_jar", "cookies=", _A),
    Spelling(
        "cookies",
        'session.cookies.set(name, value, domain=...), or headers={"Cookie": "name=value"} for one call',
        _RHA,
    ),
    Spelling("skip_auto_headers", "defaults=False", _A),
    Spelling("auto_decompress", 'options={"decode_content": False}', _A),
    Spelling("raise_for_status", "response.raise_for_status()", _A),
    Spelling("loop", "nothing: an AsyncSession binds to the loop of its first await", _A),
)

SESSION: Final = (
    Spelling("aclose", "session.close()", _H),
    Spelling("closed", "session.is_closed", _A),
    Spelling("build_request", "Request(...) or session.open_request(...)", _H),
    Spelling("prepare_request", "Request(...) or session.open_request(...)", _R),
    Spelling("mount", "transports=[...] of the constructor", _R),
    Spelling("get_adapter", "session.explain(url)", _R),
    Spelling("adapters", "transports=[...] of the constructor", _R),
    Spelling("hooks", "plugins=[...] of the constructor", _R),
    Spelling("event_hooks", "plugins=[...] of the constructor", _H),
    Spelling("verify", "tls=TLSConfig(verify=...) of the constructor, a call or session.derive(...)", _R),
    Spelling("cert", "tls=TLSConfig(client_cert=...) of the constructor, a call or session.derive(...)", _R),
    Spelling("proxies", "proxy= of the constructor, a call or session.derive(...)", _R),
    Spelling("trust_env", "proxy=None of the constructor, for no proxy from the environment", _RHA),
    Spelling("auth", "auth= of the constructor, a call or session.derive(...)", _RHA),
    Spelling("params", "params= of the constructor, a call or session.derive(...)", _RH),
    Spelling("timeout", "timeout= of the constructor, a call or session.derive(...)", _HA),
    Spelling("max_redirects", "max_redirects= of the constructor, a call or session.derive(...)", _R),
    Spelling("cookie_jar", "session.cookies", _A),
    Spelling("connector", "session.stats()", _A),
    Spelling("ws_connect", "session.stream(...) with an Upgrade, and response.take_stream()", _A),
)

RESPONSE: Final = (
    Spelling("status", "response.status_code", _A),
    Spelling("reason_phrase", "response.reason", _H),
    Spelling("version", "response.http_version", _A),
    Spelling("raw", "response.readinto(buffer) or response.take_stream()", _R),
    Spelling("raw_headers", "response.headers.items()", _A),
    Spelling("elapsed", "response.timings", _RH),
    Spelling("apparent_encoding", "response.encoding, which you may set", _R),
    Spelling("charset", "response.encoding", _A),
    Spelling("charset_encoding", "response.encoding", _H),
    Spelling("get_encoding", "response.encoding", _A),
    Spelling("default_encoding", "response.encoding, which you may set", _H),
    Spelling("content_type", 'response.headers.get("content-type")', _A),
    Spelling("content_disposition", 'response.headers.get("content-disposition")', _A),
    Spelling("method", "response.request.method", _A),
    Spelling("real_url", "response.url", _A),
    Spelling("host", "response.url.host", _A),
    Spelling("request_info", "response.request", _A),
    Spelling("is_informational", "100 <= response.status_code < 200", _H),
    Spelling("is_success", "200 <= response.status_code < 300", _H),
    Spelling("is_error", "not response.ok", _H),
    Spelling("is_client_error", "400 <= response.status_code < 500", _H),
    Spelling("is_server_error", "response.status_code >= 500", _H),
    Spelling("is_redirect", '"location" in response.headers', _RH),
    Spelling("is_permanent_redirect", "response.status_code in (301, 308)", _R),
    Spelling("has_redirect_location", '"location" in response.headers', _H),
    Spelling("next", 'response.url.join(response.headers["location"])', _R),
    Spelling("next_request", 'response.url.join(response.headers["location"])', _H),
    Spelling("is_stream_consumed", "response.is_closed", _H),
    Spelling("num_bytes_downloaded", "observe= with plugwire.events.Data", _H),
    Spelling("extensions", "response.connection", _H),
    Spelling("iter_content", "response.iter_bytes(size)", _R),
    Spelling("iter_raw", 'response.iter_bytes(size) with options={"decode_content": False}', _H),
    Spelling("iter_chunked", "response.iter_bytes(size)", _A),
    Spelling("iter_any", "response.iter_bytes()", _A),
    Spelling("aread", "response.read()", _H),
    Spelling("aiter_bytes", "response.iter_bytes()", _H),
    Spelling("aiter_text", "response.iter_text()", _H),
    Spelling("aiter_lines", "response.iter_lines()", _H),
    Spelling("aiter_raw", 'response.iter_bytes(size) with options={"decode_content": False}', _H),
    Spelling("aclose", "response.close()", _H),
    Spelling("release", "response.close()", _A),
    Spelling("wait_for_close", "response.close()", _A),
)

MODULE: Final = (
    Spelling("Client", "plugwire.Session", _H),
    Spelling("AsyncClient", "plugwire.AsyncSession", _H),
    Spelling("ClientSession", "plugwire.AsyncSession", _A),
    Spelling("ClientResponse", "plugwire.AsyncResponse", _A),
    Spelling("ClientTimeout", "plugwire.Timeout", _A),
    Spelling("TCPConnector", "plugwire.Limits and plugwire.TLSConfig", _A),
    Spelling("UnixConnector", "plugwire_transports.Unix", _A),
    Spelling("HTTPTransport", "transports=[...]", _H),
    Spelling("AsyncHTTPTransport", "transports=[...]", _H),
    Spelling("MockTransport", "plugwire.testing.MockTransport", _H),
    Spelling("Cookies", "plugwire_plugins.CookieJar", _H),
    Spelling("CookieJar", "plugwire_plugins.CookieJar", _A),
    Spelling("BasicAuth", "auth=(user, password)", _HA),
    Spelling("DigestAuth", "plugwire_plugins.DigestAuth", _H),
    Spelling("NetRCAuth", "plugwire_plugins.NetrcAuth", _H),
    Spelling("FormData", "data= and files=", _A),
    Spelling("TraceConfig", "a plugin with observe, or observe=", _A),
    Spelling("QueryParams", "params=, and plugwire.URL", _H),
    Spelling("create_ssl_context", "plugwire.TLSConfig", _H),
    Spelling("codes", "http.HTTPStatus", _RH),
    Spelling("exceptions", "plugwire.errors", _R),
    Spelling("RequestException", "plugwire.Error", _R),
    Spelling("HTTPError", "plugwire.HTTPStatusError, or plugwire.Error for whatever went wrong", _RH),
    Spelling("RequestError", "plugwire.Error", _H),
    Spelling("TransportError", "plugwire.NetworkError, plugwire.TimedOut and plugwire.PeerError", _H),
    Spelling("TimeoutException", "plugwire.TimedOut", _H),
    Spelling("ConnectionError", "plugwire.NetworkError", _R),
    Spelling("SSLError", "plugwire.TLSError", _R),
    Spelling("JSONDecodeError", "plugwire.DecodingError", _R),
    Spelling("ContentDecodingError", "plugwire.DecodingError", _R),
    Spelling("ChunkedEncodingError", "plugwire.IncompleteBody and plugwire.ProtocolError", _R),
    Spelling("MissingSchema", "plugwire.InvalidURL", _R),
    Spelling("InvalidSchema", "plugwire.NoTransport", _R),
    Spelling("UnsupportedProtocol", "plugwire.NoTransport", _H),
    Spelling("UnrewindableBodyError", "plugwire.NotReplayable", _R),
    Spelling("StreamConsumedError", "plugwire.BodyUnread", _R),
    Spelling("StreamConsumed", "plugwire.BodyUnread", _H),
    Spelling("ResponseNotRead", "plugwire.BodyUnread", _H),
    Spelling("RemoteProtocolError", "plugwire.ProtocolError", _H),
    Spelling("LocalProtocolError", "plugwire.UsageError", _H),
    Spelling("ClientError", "plugwire.Error", _A),
    Spelling("ClientResponseError", "plugwire.HTTPStatusError", _A),
    Spelling("ClientConnectionError", "plugwire.NetworkError", _A),
    Spelling("ClientConnectorError", "plugwire.ConnectError and plugwire.ResolveError", _A),
    Spelling("ClientPayloadError", "plugwire.IncompleteBody and plugwire.DecodingError", _A),
    Spelling("ServerDisconnectedError", "plugwire.ConnectionClosed", _A),
    Spelling("ServerTimeoutError", "plugwire.TimedOut", _A),
    Spelling("ContentTypeError", "plugwire.DecodingError", _A),
)

SPELLINGS: Final = {
    Place.KEYWORD: KEYWORDS, Place.SESSION: SESSION, Place.RESPONSE: RESPONSE, Place.MODULE: MODULE,
}  # fmt: skip

_OURS: Final = {place: {one.name: one.ours for one in table} for place, table in SPELLINGS.items()}


def hint(place: Place, name: str) -> str:
    """What an error says behind a name that does not exist: ours, where another client's was meant; else nothing."""
    ours = _OURS[place].get(name)
    return f"; plugwire spells it {ours}" if ours else ""
