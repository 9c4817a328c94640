"""Which proxy a request goes by: the decision, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plugwire
from plugwire import InvalidHeader, Proxy, Session, TLSConfig, UsageError
from plugwire.no_proxy import is_exempt, parse_list, parse_rule
from plugwire.proxies import Environment, checked_proxy, choose, read_environment
from plugwire.testing import MockTransport
from plugwire.url import URL
from plugwire_transports import TCP, Unix

A, B, C = "http://a:1", "http://b:2", "http://c:3"


def nothing() -> Environment:
    raise AssertionError("the environment was asked")


def chosen(setting: Any, url: str, variables: Mapping[str, str] | None = None) -> str | None:
    """The URL of the proxy, by a setting and variables."""

    def environment() -> Environment:
        return nothing() if variables is None else read_environment(variables)

    proxy = choose(checked_proxy(setting), URL(url).origin, environment).proxy
    return proxy.url if proxy is not None else None


# -- settings ------------------------------------------------------------------------------------------------------

TABLE = {
    "all": A,
    "http": B,
    "https": C,
    "all://example.org": "http://host:4",
    "https://example.org": "http://both:5",
    "http://example.org:8080": "http://port:6",
    "all://direct.example": None,
    "ws://ws.example": "http://ws:7",
}


@pytest.mark.parametrize(
    ("setting", "url", "proxy"),
    [
        (None, "http://h/", None),
        (A, "http://h/", A),
        (A, "https://h/", A),
        (URL("http://a:1/"), "https://h/", A),
        (Proxy(A), "wss://h/", A),
        ({"http": A}, "http://h/", A),
        ({"http": A}, "https://h/", None),
        ({"http": A}, "ws://h/", A),
        ({"https": A}, "wss://h/", A),
        ({"http": A, "ws": B}, "ws://h/", B),
        ({"HTTP": A}, "http://h/", A),
        ({}, "http://h/", None),
        ({"all": A}, "mem://h/", A),
        (TABLE, "http://h/", B),
        (TABLE, "https://h/", C),
        (TABLE, "mem://h/", A),
        (TABLE, "http://example.org/", "http://host:4"),
        (TABLE, "https://example.org/", "http://both:5"),
        (TABLE, "http://example.org:8080/", "http://port:6"),
        (TABLE, "https://example.org:8080/", "http://both:5"),
        (TABLE, "https://www.example.org/", C),
        (TABLE, "http://direct.example/", None),
        (TABLE, "ws://ws.example/", "http://ws:7"),
        ({"all://BÜCHER.example": A}, "http://xn--bcher-kva.example/", A),
        ({"http://[::1]:80": A, "all": B}, "http://[0::1]/", A),
        ({"http://h:443": A, "all": B}, "http://h:443/", A),
        ({"https://h:443": A, "all": B}, "https://h/", A),
    ],
)
def test_the_most_specific_setting_wins(setting: Any, url: str, proxy: str | None) -> None:
    assert chosen(setting, url) == proxy


def test_a_table_may_leave_it_to_the_environment() -> None:
    setting = {"all": "env", "all://h": None}
    assert chosen(setting, "http://other/", {"http_proxy": A}) == A
    assert chosen(setting, "http://h/", {"http_proxy": A}) is None


@pytest.mark.parametrize(
    "setting",
    [
        5,
        b"http://a:1",
        "ftp://a:1",
        "socks4://a:1",
        "http://",
        "http://a:1/path",
        "http://a:1?query",
        "http://a:99999",
        "",
        {"ftp": A},
        {"http://": A},
        {"": A},
        {5: A},
        {"all://u:geheim@h": A},
        {"all://h/path": A},
        {"all": 5},
        {"all": {"http": A}},
        ("http", A),
    ],
)
def test_what_is_no_setting(setting: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Session(proxy=setting)
    assert "geheim" not in str(caught.value)


# -- Proxy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("proxy:3128", "http://proxy:3128"),
        ("proxy", "http://proxy"),
        ("http://proxy:80", "http://proxy"),
        ("HTTP://Proxy.Example:3128/", "http://proxy.example:3128"),
        ("https://proxy", "https://proxy"),
        ("https://proxy:80", "https://proxy:80"),
        ("socks5://proxy", "socks5://proxy:1080"),
        ("socks5h://PROXY:80", "socks5h://proxy:80"),
        ("socks5h://[0::1]", "socks5h://[::1]:1080"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("http://bücher.example:1", "http://xn--bcher-kva.example:1"),
        ("socks5://bücher.example:1", "socks5://xn--bcher-kva.example:1"),
    ],
)
def test_the_url_of_a_proxy_has_one_form(url: str, canonical: str) -> None:
    proxy = Proxy(url)
    assert proxy.url == canonical
    assert Proxy(canonical) == proxy
    assert str(proxy.origin) == canonical


def test_a_password_in_the_url_becomes_auth_and_is_never_shown() -> None:
    proxy = Proxy("http://ich:p%40ss%3Ageheim@proxy:3128")
    assert proxy.auth == ("ich", "p@ss:geheim")
    assert proxy.url == "http://proxy:3128"
    assert "geheim" not in repr(proxy)
    assert proxy == Proxy("proxy:3128", auth=("ich", "p@ss:geheim"))
    assert hash(proxy) == hash(Proxy("proxy:3128", auth=("ich", "p@ss:geheim")))
    assert proxy != Proxy("proxy:3128", auth=("ich", "another"))
    assert proxy.authenticator() is not None


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"url": "http://u:geheim@p", "auth": ("u", "geheim")}, UsageError),
        ({"url": "http://u:ge@heim@p"}, UsageError),
        ({"url": "http://p", "auth": "geheim"}, UsageError),
        ({"url": "http://p", "auth": ("u:", "geheim")}, UsageError),
        ({"url": "http://p", "tls": TLSConfig()}, UsageError),
        ({"url": "https://p", "tls": True}, UsageError),
        ({"url": "socks5://p", "auth": object()}, UsageError),
        ({"url": "socks5://p", "auth": ("u" * 256, "geheim")}, UsageError),
        ({"url": "socks5://p", "headers": (("A", "b"),)}, UsageError),
        ({"url": "http://p", "headers": (("A", "geheim\n"),)}, InvalidHeader),
        ({"url": "http://p", "headers": (("Content-Length", "5"),)}, InvalidHeader),
        ({"url": "http://p", "headers": (("host", "h"),)}, InvalidHeader),
        ({"url": "http://p", "no_proxy": "example.org"}, UsageError),
        ({"url": "http://p", "no_proxy": (5,)}, UsageError),
        ({"url": "http://p", "no_proxy": ("192.0.2.0/33",)}, UsageError),
        ({"url": 5}, UsageError),
    ],
)
def test_what_is_no_proxy(keywords: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        Proxy(**keywords)
    assert "geheim" not in str(caught.value)


def test_proxies_are_part_of_the_pools_key() -> None:
    with Session(proxy=None) as session:
        request = plugwire.Request("GET", "https://h/")

        def route(proxy: Proxy) -> Any:
            request.proxy = proxy
            call = session.view.call(request, {}, streaming=False)
            return session.view.route(request, call)

        one = route(Proxy("https://p", tls=TLSConfig(verify=False)))
        assert one == route(Proxy("https://p", tls=TLSConfig(verify=False)))
        assert len({one, route(Proxy("https://p")), route(Proxy("https://p", auth=("a", "b"))), route(Proxy("p"))}) == 4


# -- NO_PROXY ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "url", "matches"),
    [
        ("*", "http://h/", True),
        ("a, *", "http://h/", True),
        ("", "http://h/", False),
        (" , ,", "http://h/", False),
        ("example.org", "http://example.org/", True),
        ("example.org", "http://www.example.org/", True),
        ("example.org", "http://a.www.example.org/", True),
        ("example.org", "http://notexample.org/", False),
        ("example.org", "http://example.org.evil/", False),
        (".example.org", "http://example.org/", True),
        (".example.org", "http://www.example.org/", True),
        (".example.org", "http://notexample.org/", False),
        ("*.example.org", "http://www.example.org/", True),
        ("*.example.org", "http://example.org/", False),
        ("EXAMPLE.org.", "http://example.org/", True),
        ("example.org", "http://example.org./", True),
        ("bücher.example", "http://www.xn--bcher-kva.example/", True),
        ("a b\tc\nh", "http://h/", True),
        ("a,h", "http://h/", True),
        ("h:8080", "http://h:8080/", True),
        ("h:8080", "http://h/", False),
        ("h:443", "https://h/", True),
        ("h:80", "https://h/", False),
        ("192.0.2.7", "http://192.0.2.7/", True),
        ("192.0.2.7", "http://0xC0000207/", True),
        ("192.0.2.7", "http://a.192.0.2.7.example/", False),
        ("192.0.2.7:8080", "http://192.0.2.7:8080/", True),
        ("192.0.2.7:8080", "http://192.0.2.7/", False),
        ("192.0.2.0/24", "http://192.0.2.7/", True),
        ("192.0.2.9/24", "http://192.0.2.7/", True),
        ("192.0.2.0/24", "http://192.0.3.7/", False),
        ("0.0.0.0/0", "http://example.org/", False),
        ("::1", "http://[::1]/", True),
        ("[::1]", "http://[::1]/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]/", False),
        ("2001:db8::/32", "http://[2001:db8::7]/", True),
        ("[2001:db8::]/32", "http://[2001:db8::7]/", True),
        ("2001:db8::/32", "http://[2001:db9::7]/", False),
        ("2001:db8::/32", "http://192.0.2.7/", False),
        ("192.0.2.0/24", "http://[::ffff:192.0.2.7]/", True),
        ("::ffff:192.0.2.7", "http://192.0.2.7/", True),
        ("::ffff:192.0.2.0/120", "http://192.0.2.7/", True),
        ("localhost", "http://127.0.0.1/", False),
        ("no such[pattern, 1/99, [::1, h:99999, *x*, h", "http://h/", True),
        ("no such[pattern, 1/99, [::1, h:99999, *x*", "http://h/", False),
    ],
)
def test_no_proxy(patterns: str, url: str, matches: bool) -> None:
    origin = URL(url).origin
    assert is_exempt(parse_list(patterns), origin.host, origin.port) is matches


LABEL = st.text("abcxyz019", min_size=1, max_size=4).filter(lambda label: not label.isdigit() and label[:2] != "0x")
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@given(NAME, NAME, st.sampled_from(["", "."]))
def test_a_name_matches_at_the_borders_of_labels_only(pattern: str, host: str, dot: str) -> None:
    wanted, labels = pattern.split("."), host.split(".")
    expected = labels[-len(wanted) :] == wanted
    assert is_exempt([parse_rule(dot + pattern)], host, 80) is expected
    below = expected and len(labels) > len(wanted)
    assert is_exempt([parse_rule("*." + pattern)], host, 80) is below


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_a_network_is_what_ipaddress_says_it_is(base: IPv4Address, address: IPv4Address, length: int) -> None:
    network = IPv4Network(f"{base}/{length}", strict=False)
    assert is_exempt([parse_rule(f"{base}/{length}")], str(address), 80) is (address in network)


@given(st.ip_addresses(v=6), st.integers(1, 65535), st.integers(1, 65535))
def test_an_address_means_itself_and_its_port(address: IPv6Address, one: int, other: int) -> None:
    host = URL(f"http://[{address}]/").host
    assert is_exempt([parse_rule(str(address))], host, other)
    assert is_exempt([parse_rule(f"[{address}]:{one}")], host, other) is (one == other)


@given(st.text(max_size=30), st.one_of(NAME, st.ip_addresses().map(str)))
def test_any_list_is_understood_or_left_out(text: str, host: str) -> None:
    rules = parse_list(text)
    is_exempt(rules, host, 80)
    for rule in rules:
        assert rule.network is not None or rule.name == rule.name.lower()


@given(st.ip_addresses())
def test_names_are_not_taken_for_addresses(address: Any) -> None:
    assert not is_exempt([parse_rule(str(ip_address(address)))], "example.org", 80)


# -- the environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "http://h/", None),
        ({"http_proxy": A}, "http://h/", A),
        ({"http_proxy": A}, "https://h/", None),
        ({"HTTP_PROXY": A}, "http://h/", A),
        ({"http_proxy": A, "HTTP_PROXY": B}, "http://h/", A),
        ({"http_proxy": "", "HTTP_PROXY": B}, "http://h/", None),
        ({"http_proxy": "", "ALL_PROXY": B}, "http://h/", B),
        ({"HTTPS_PROXY": A}, "https://h/", A),
        ({"https_proxy": A, "HTTPS_PROXY": B}, "https://h/", A),
        ({"ALL_PROXY": A}, "http://h/", A),
        ({"all_proxy": A}, "https://h/", A),
        ({"ALL_PROXY": A, "HTTPS_PROXY": B}, "https://h/", B),
        ({"http_proxy": A}, "ws://h/", A),
        ({"https_proxy": A}, "wss://h/", A),
        ({"ALL_PROXY": A}, "mem://h/", None),
        ({"http_proxy": " a:1 "}, "http://h/", A),
        ({"http_proxy": "socks5h://a"}, "http://h/", "socks5h://a:1080"),
        ({"http_proxy": A, "NO_PROXY": "h"}, "http://h/", None),
        ({"http_proxy": A, "no_proxy": "x", "NO_PROXY": "h"}, "http://h/", A),
        ({"http_proxy": A, "no_proxy": "", "NO_PROXY": "*"}, "http://h/", A),
        ({"http_proxy": "ftp://bad", "https_proxy": A}, "https://h/", A),
    ],
)
def test_variables(variables: dict[str, str], url: str, proxy: str | None) -> None:
    assert chosen("env", url, variables) == proxy


def test_httpoxy_cve_2016_1000110() -> None:
    """In a CGI program HTTP_PROXY is what the client put into its header field "Proxy"."""
    assert chosen("env", "http://h/", {"HTTP_PROXY": A, "REQUEST_METHOD": "GET"}) is None
    assert chosen("env", "http://h/", {"http_proxy": B, "HTTP_PROXY": A, "REQUEST_METHOD": "GET"}) == B
    assert chosen("env", "https://h/", {"HTTPS_PROXY": A, "REQUEST_METHOD": "GET"}) == A


@pytest.mark.parametrize("url", ["ich:ge://heim@proxy:3128", "ge heim://proxy"])
def test_what_stands_before_the_slashes_is_shown_only_if_it_is_a_scheme(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Proxy(url)
    assert "ge" not in str(caught.value).replace(" reached ", "")
    with pytest.raises(UsageError, match="not by 'ftp'"):
        Proxy("ftp://proxy")


def test_a_variable_that_nobody_understands_is_named_and_its_password_is_not() -> None:
    with pytest.raises(UsageError, match="the variable HTTPS_PROXY: ") as caught:
        chosen("env", "https://h/", {"HTTPS_PROXY": "http://u:geheim@p:99999"})
    assert "geheim" not in str(caught.value)
    read = read_environment({"HTTPS_PROXY": "http://u:geheim@p"})
    assert "HTTPS_PROXY" in repr(read) and "geheim" not in repr(read)


# -- in a session --------------------------------------------------------------------------------------------------


def route_line(session: Session, url: str, **keywords: Any) -> str:
    [line] = [line for line in session.explain(url, **keywords).splitlines() if line.startswith("route")]
    return line.split(", ")[1]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://ich:geheim@proxy:3128")
    monkeypatch.setenv("HTTPS_PROXY", "https://proxy:3129")
    monkeypatch.setenv("NO_PROXY", "direct.example")


@pytest.mark.usefixtures("variables")
def test_explain_says_which_proxy_and_why() -> None:
    with Session() as session:
        assert route_line(session, "http://h/") == "proxy http://proxy:3128 (http_proxy)"
        assert route_line(session, "https://h/") == "proxy https://proxy:3129 (HTTPS_PROXY)"
        assert route_line(session, "https://direct.example/") == "proxy none (NO_PROXY matched)"
        assert route_line(session, "http://h/", proxy=None) == "proxy none"
        assert route_line(session, "http://h/", proxy="p:1") == "proxy http://p:1"
        own = Proxy("p:1", no_proxy=("h",))
        assert route_line(session, "http://h/", proxy=own) == "proxy none (no_proxy matched)"
        assert route_line(session, "http://h/", options={"path": "/x"}) == "proxy none (a Unix socket)"
        assert "geheim" not in session.explain("http://h/")
        assert route_line(session.derive(proxy={"https": "q:2"}), "https://h/") == "proxy http://q:2"


def test_the_environment_is_read_once_for_each_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with Session() as session:
        early = session.derive(headers={"a": "b"})
        monkeypatch.setenv("http_proxy", A)
        assert route_line(session, "http://h/") == "proxy http://a:1 (http_proxy)"
        monkeypatch.setenv("http_proxy", B)
        assert route_line(session, "http://other/") == "proxy http://a:1 (http_proxy)"
        assert route_line(early, "http://h/") == "proxy http://a:1 (http_proxy)"
    with Session() as another:
        assert route_line(another, "http://h/") == "proxy http://b:2 (http_proxy)"


@pytest.mark.usefixtures("variables")
def test_what_the_program_has_set_up_itself_goes_before_the_environment() -> None:
    class Memory:
        name = "memory"
        honours = frozenset[str]()

        def refuse(self, route: Any) -> None: ...

        async def dial(self, route: Any, connecting: Any) -> Any:
            raise AssertionError("there was I/O")

    with Session(transports=[Unix("/run/x.sock")]) as session:
        assert route_line(session, "http://h/") == "proxy none (unix knows nothing of proxies)"
        assert route_line(session, "http://h/", proxy="p:1") == "proxy http://p:1"
    with Session(transports=[Memory()]) as session:
        assert route_line(session, "http://h/") == "proxy none (memory knows nothing of proxies)"
    with Session(transports=[TCP()]) as session:
        assert route_line(session, "http://h/") == "proxy http://proxy:3128 (http_proxy)"
    with Session(transports=[MockTransport({})]) as session:
        assert route_line(session, "http://h/") == "proxy http://proxy:3128 (http_proxy)"


def test_a_unix_socket_by_way_of_a_proxy_is_refused() -> None:
    with Session(proxy=A) as session, pytest.raises(plugwire.NoTransport) as caught:
        session.get("http://h/", options={"path": "/run/x.sock"})
    assert caught.value.reasons["unix"] == "the route has a proxy"
    assert caught.value.reasons["http-proxy"] == "the route has a socket path"
    with Session(proxy=A) as session, pytest.raises(plugwire.NoTransport):
        session.get("http+unix://%2Frun%2Fx.sock/")


def test_the_scheme_of_a_proxy_is_none_to_speak_http() -> None:
    with Session() as session, pytest.raises(plugwire.NoTransport, match="socks5 is a way to a proxy"):
        session.get("socks5://h:1080/")
