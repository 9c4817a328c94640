"""Other clients' names: each is either ours too, or its error names ours; and what it names exists."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import AsyncResponse, Limits, Proxy, Response, Timeout, TLSConfig
from plugwire.spellings import SPELLINGS, Place, hint
from plugwire.testing import MockTransport
from plugwire.view import CALL_KEYWORDS

if TYPE_CHECKING:
    from worlds import World

SESSION_KEYWORDS = set(signature(plugwire.Session.__init__).parameters) - {"self", "unknown"}

# -- that nothing is missing ---------------------------------------------------------------------------------------

THEIRS: dict[str, dict[Place, str]] = {
    "requests": {
        Place.KEYWORD: "params data json headers cookies files auth timeout allow_redirects proxies hooks stream "
        "verify cert",
        Place.SESSION: "headers auth proxies hooks params verify cert adapters trust_env max_redirects cookies request "
        "get options head post put patch delete send close mount get_adapter prepare_request",
        Place.RESPONSE: "status_code headers raw url encoding history reason cookies elapsed request connection ok "
        "is_redirect is_permanent_redirect next apparent_encoding iter_content iter_lines content text json links "
        "raise_for_status close",
        Place.MODULE: "Session Request Response get options head post put patch delete request codes exceptions "
        "RequestException HTTPError ConnectionError Timeout ReadTimeout ConnectTimeout TooManyRedirects "
        "JSONDecodeError",
    },
    "httpx": {
        Place.KEYWORD: "auth params headers cookies verify cert trust_env http1 http2 proxy mounts timeout "
        "follow_redirects limits max_redirects event_hooks base_url transport default_encoding content data files json "
        "extensions",
        Place.SESSION: "build_request request get options head post put patch delete send stream close aclose "
        "event_hooks auth base_url headers cookies params timeout trust_env is_closed",
        Place.RESPONSE: "status_code reason_phrase http_version url headers content text encoding charset_encoding "
        "is_closed is_stream_consumed is_informational is_success is_redirect is_client_error is_server_error is_error "
        "has_redirect_location raise_for_status json cookies links elapsed request next_request history "
        "num_bytes_downloaded read iter_bytes iter_raw iter_text iter_lines close aread aiter_bytes aiter_text "
        "aiter_lines aiter_raw aclose extensions default_encoding",
        Place.MODULE: "Client AsyncClient Request Response Headers URL QueryParams Cookies Timeout Limits Proxy "
        "BasicAuth DigestAuth NetRCAuth MockTransport HTTPTransport AsyncHTTPTransport create_ssl_context codes get "
        "options head post put patch delete request stream HTTPError RequestError TransportError TimeoutException "
        "ConnectTimeout ReadTimeout WriteTimeout PoolTimeout NetworkError ConnectError ReadError WriteError "
        "ProtocolError LocalProtocolError RemoteProtocolError ProxyError UnsupportedProtocol DecodingError "
        "TooManyRedirects HTTPStatusError InvalidURL StreamConsumed ResponseNotRead",
    },
    "aiohttp": {
        Place.KEYWORD: "base_url connector cookies headers proxy proxy_auth skip_auto_headers auth json_serialize "
        "version cookie_jar connector_owner raise_for_status timeout auto_decompress trust_env trace_configs "
        "read_bufsize max_line_size max_field_size fallback_charset_resolver middlewares params data json "
        "allow_redirects max_redirects compress chunked expect100 ssl server_hostname proxy_headers trace_request_ctx "
        "request_class response_class loop read_timeout conn_timeout",
        Place.SESSION: "request get options head post put patch delete close closed connector cookie_jar headers auth "
        "timeout trust_env ws_connect",
        Place.RESPONSE: "version status reason ok method cookies headers raw_headers links url real_url content_type "
        "charset content_disposition history request_info host connection content text json read release "
        "wait_for_close get_encoding raise_for_status",
        Place.MODULE: "ClientSession ClientResponse ClientTimeout TCPConnector UnixConnector BasicAuth FormData "
        "CookieJar TraceConfig request ClientError ClientResponseError ClientConnectionError ClientConnectorError "
        "ClientPayloadError ServerDisconnectedError ServerTimeoutError ContentTypeError InvalidURL TooManyRedirects",
    },
}


def is_ours(place: Place, name: str) -> bool:
    match place:
        case Place.KEYWORD:
            return name in SESSION_KEYWORDS | CALL_KEYWORDS
        case Place.SESSION:
            return all(hasattr(kind, name) for kind in (plugwire.Session, plugwire.AsyncSession))
        case Place.RESPONSE:
            return all(hasattr(kind, name) for kind in (Response, AsyncResponse))
        case Place.MODULE:
            return name in plugwire.__all__


@pytest.mark.parametrize("client", THEIRS)
@pytest.mark.parametrize("place", Place)
def test_each_name_of_theirs_is_ours_or_in_the_table(client: str, place: Place) -> None:
    spelled = {one.name for one in SPELLINGS[place] if client in one.clients}
    names = THEIRS[client][place].split()
    assert [name for name in names if not is_ours(place, name) and name not in spelled] == []


@pytest.mark.parametrize("place", Place)
def test_the_tables_have_only_names_that_we_do_not_have(place: Place) -> None:
    names = [one.name for one in SPELLINGS[place]]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    # `cookies` of a call is spelled otherwise; on a session it is ours.
    assert [name for name in names if is_ours(place, name)] == (["cookies"] if place is Place.KEYWORD else [])
    known = {*THEIRS, "urllib3"}
    assert all(one.clients and known.issuperset(one.clients) for one in SPELLINGS[place])


# -- that it is said -----------------------------------------------------------------------------------------------


async def test_a_keyword_names_ours(world: World) -> None:
    transport = MockTransport({"/": Response(200)})
    async with world.session(transports=[transport]) as session:
        for name, ours, _ in SPELLINGS[Place.KEYWORD]:
            message = re.escape(f"got an unexpected keyword argument {name!r}; plugwire spells it {ours}")
            for call in (session.get, session.post):
                with pytest.raises(TypeError, match=message):
                    await call("http://h/", **{name: True})
            with pytest.raises(TypeError, match=message):
                await session.send(plugwire.Request("GET", "http://h/"), **{name: True})
            with pytest.raises(TypeError, match=message):
                session.derive(**{name: True})
            if name not in SESSION_KEYWORDS:
                with pytest.raises(TypeError, match=message):
                    plugwire.Session(**{name: True})
    assert transport.calls == []


@pytest.mark.parametrize("kind", [plugwire.Session, plugwire.AsyncSession])
def test_an_attribute_of_a_session_names_ours(kind: Any) -> None:
    session = kind()
    for name, ours, _ in SPELLINGS[Place.SESSION]:
        message = re.escape(f"'{kind.__name__}' object has no attribute {name!r}; plugwire spells it {ours}")
        with pytest.raises(AttributeError, match=message):
            getattr(session, name)
        with pytest.raises(AttributeError, match=message):
            setattr(session, name, True)
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        session.nothing = 1
    with pytest.raises(AttributeError):
        session.headers = {}
    assert not hasattr(session, "nothing")


@pytest.mark.parametrize("kind", [Response, AsyncResponse])
def test_an_attribute_of_a_response_names_ours(kind: Any) -> None:
    response = kind(200)
    for name, ours, _ in SPELLINGS[Place.RESPONSE]:
        message = re.escape(f"'{kind.__name__}' object has no attribute {name!r}; plugwire spells it {ours}")
        with pytest.raises(AttributeError, match=message):
            getattr(response, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        _ = response.nothing
    assert not hasattr(response, "__len__")


def test_a_name_of_the_package_names_ours() -> None:
    for name, ours, _ in SPELLINGS[Place.MODULE]:
        with pytest.raises(AttributeError, match=re.escape(f"no attribute {name!r}; plugwire spells it {ours}")):
            getattr(plugwire, name)


def test_a_name_that_nobody_has() -> None:
    with plugwire.Session() as session, pytest.raises(TypeError, match=r"unexpected keyword argument 'headres'$"):
        session.get("http://h/", headres={})  # type: ignore[call-arg]
    assert all(hint(place, "headres") == "" for place in Place)


@pytest.mark.parametrize(
    ("keyword", "value", "ours"),
    [
        ("tls", False, "TLSConfig(verify=False)"),
        ("tls", "ca.pem", "TLSConfig(ca_file=...)"),
        ("auth", "token", "BearerAuth(token)"),
        ("auth", lambda request: request, "around_send"),
        ("timeout", (3, 30), "Timeout(connect=..., read=...)"),
        ("proxy", {"https://": "http://proxy.example"}, "a key is 'http', 'https' or 'all'"),
        ("cookies", {"a": "1"}, "base_url="),
    ],
)
def test_a_value_as_others_have_it_names_ours(keyword: str, value: Any, ours: str) -> None:
    with pytest.raises(plugwire.UsageError, match=re.escape(ours)):
        plugwire.Session(**{keyword: value})


# -- that ours exists ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", Place)
def test_what_the_tables_name_exists(place: Place) -> None:
    for _, ours, _ in SPELLINGS[place]:
        for name in re.findall(r"\bresponse\.(\w+)", ours):
            assert is_ours(Place.RESPONSE, name), ours
        for name in re.findall(r"\bsession\.(\w+)", ours):
            assert is_ours(Place.SESSION, name), ours
        for kind in (Limits, Timeout, TLSConfig, Proxy):
            for name in re.findall(rf"{kind.__name__}\((?:url, )?(\w+)=", ours):
                assert name in {field.name for field in fields(kind)}, ours
        for module, name in re.findall(r"\b(plugwire\w*(?:\.testing|\.events)?)\.(\w+)", ours):
            found = import_module(module)
            assert hasattr(found, name) or import_module(f"{module}.{name}"), ours
        for name in re.findall(r"(?<![\w(.])(\w+)=(?!=)", re.sub(r"\(.*?\)|\".*?\"", "", ours)):
            assert name in SESSION_KEYWORDS | CALL_KEYWORDS, ours
