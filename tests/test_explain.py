"""What session.explain says, and what it keeps to itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

import plugwire
from plugwire.events import Head
from plugwire.testing import MockTransport


@dataclass(frozen=True)
class CacheOptions:
    cache_ttl: int = 10
    cache_secret: str | None = None
    hidden: str = field(default="not to be seen", repr=False)


class Cache:
    option_types = (CacheOptions,)
    events = (Head,)

    @plugwire.hookimpl
    async def around_call(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)

    @plugwire.hookimpl(stage="cache")
    async def around_send(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)

    @plugwire.hookimpl
    def observe(self, event: Any) -> None: ...


@dataclass(eq=False)
class Token:
    token: str

    @plugwire.hookimpl(stage="sign")
    async def around_send(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


class Refuser(MockTransport):
    name = "refuser"

    def refuse(self, route: plugwire.protocols.Route) -> str | None:
        return "has no mind to"


def rows(text: str, title: str) -> list[str]:
    """The lines of one section, spaces joined."""
    found: list[str] = []
    current = ""
    for line in text.splitlines()[1:]:
        current = line[:9].strip() or current
        if current == title:
            found.append(" ".join(line[9:].split()))
    return found


def test_plugins_stand_in_the_order_in_which_they_run() -> None:
    with plugwire.Session(plugins=[Token("geheim"), Cache()], auth=("user", "geheim")) as session:
        text = session.explain("https://api.example/users")
    plugins = rows(text, "plugins")
    assert [row for row in plugins if not row.endswith("default")][:4] == [
        "call around_call Cache yours #2",
        "auth around_send BasicAuth *** for https://api.example",
        "cache around_send Cache yours #2",
        "sign around_send Token yours #1",
    ]
    assert "- observe Cache yours #2" in plugins
    assert any(row.endswith("default") for row in plugins)
    assert "geheim" not in text


def test_the_wire_names_who_takes_the_route_and_why_the_others_do_not() -> None:
    with plugwire.Session(transports=[Refuser({})]) as session:
        text = session.explain("https://api.example/")
        assert rows(text, "wire") == ["system > tcp > tls(h2, http/1.1) > h2 or http/1.1"]
        assert "refuser: has no mind to" in rows(text, "refused")
        assert any(row.startswith("unix: ") for row in rows(text, "refused"))
        assert rows(session.explain("http://api.example/"), "wire") == ["system > tcp > http/1.1"]
        by_path = session.explain("http://api.example/", options={"path": "/run/x.sock"})
        assert rows(by_path, "wire") == ["unix > http/1.1"]
        assert "path='/run/x.sock' (call)" in rows(by_path, "options")


def test_a_whole_transport_comes_before_the_chain() -> None:
    with plugwire.Session(transports=[MockTransport({})]) as session:
        assert rows(session.explain("http://api.example/"), "wire") == ["mock, else system > tcp > http/1.1"]


def test_a_route_that_nobody_takes_is_told_not_raised() -> None:
    with plugwire.Session(http_versions=("h3",)) as session:
        text = session.explain("https://api.example/")
    assert rows(text, "wire") == ["nobody: no speaker takes this route"]
    assert "http/1.1: http/1.1 is not in http_versions" in rows(text, "refused")


def test_the_route_tells_what_decides_who_may_share_a_connection() -> None:
    tls = plugwire.TLSConfig(
        ca_file="system", pins=("00" * 32,), client_cert="/my.pem", server_hostname="other.example"
    )
    with plugwire.Session() as session:
        [route] = rows(session.explain("https://[::1]:8443/", tls=tls), "route")
        assert route.startswith("https://[::1]:8443, proxy none, verify on (system), client cert given, ")
        assert "server_hostname other.example" in route and "1 pins" in route
        [route] = rows(session.explain("https://h/", tls=plugwire.TLSConfig(verify=False)), "route")
        assert "verify OFF" in route
        [route] = rows(session.explain("https://h/", proxy="http://u:geheim@proxy.example:3128"), "route")
        assert "proxy http://proxy.example:3128" in route and "geheim" not in route


def test_each_value_says_where_it_comes_from() -> None:
    with plugwire.Session(plugins=[Cache()], options={"cache_ttl": 60}, timeout=7, defaults=False) as session:
        text = session.explain("http://h/", options={"cache_secret": "geheim"})
        assert rows(text, "timeout") == ["total 7, head -, pool -, connect 10, read 60, write 60 (session)"]
        assert rows(text, "options") == [
            "cache_ttl=60 (session)", "cache_secret=*** (call)", "hidden=*** (default of Cache)"
        ]  # fmt: skip
        text = session.explain("http://h/", timeout=None)
        assert rows(text, "timeout") == ["total -, head -, pool -, connect -, read -, write - (call)"]
    with plugwire.Session(defaults=False) as session:
        text = session.explain("http://h/")
        assert rows(text, "timeout")[0].endswith("(default)")
        assert rows(text, "options") == ["none"]


def test_the_first_line_has_neither_user_nor_query() -> None:
    with plugwire.Session(base_url="https://user:geheim@h.example/v1") as session:
        text = session.explain("users?token=geheim", "DELETE")
    assert text.splitlines()[0] == "DELETE https://h.example/v1/users"
    assert "geheim" not in text


def test_an_async_session_explains_without_a_loop() -> None:
    assert "route    http://h:80" in plugwire.AsyncSession().explain("http://h/")


def test_what_the_call_would_refuse_is_refused() -> None:
    with plugwire.Session() as session:
        with pytest.raises(plugwire.InvalidURL):
            session.explain("nowhere")
        with pytest.raises(plugwire.UnknownOption):
            session.explain("http://h/", options={"cache_tll": 1})
        with pytest.raises(TypeError, match="follow_redirects"):
            session.explain("http://h/", allow_redirects=True)
