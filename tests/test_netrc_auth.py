"""Netrc files: which hosts get what, when the file is read, and where its passwords must not go."""

from __future__ import annotations

import os
import threading
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from plugwire import Request, Response, UsageError
from plugwire.testing import MockTransport
from plugwire_plugins import NetrcAuth, netrc_auth

if TYPE_CHECKING:
    from worlds import World

FILE = """\
machine Example.COM login user password pass#1
machine b\u00fccher.example login reader password "a word"
machine ::1 login six password six
machine [2001:DB8::1] login eight password eight
machine 127.1 login four password four
machine example.com:8080 login port password port
machine user@evil.example login at password at
machine path.example/x login path password path
machine colon.example login a:b password colon
macdef init
cd /

default login anyone password anything
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, which is also `~/.netrc`."""
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".netrc"
    write(file, FILE)
    return file


def write(file: Path, text: str, mode: int = 0o600) -> None:
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)


async def sent(world: World, auth: NetrcAuth, /, *urls: str, **given: Any) -> list[str | None]:
    """What each request carries: user and password, or None."""
    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock], auth=auth) as session:
        for url in urls:
            await session.get(url, **given)
    fields = [request.headers.get("authorization") for request in mock.calls]
    return [field and b64decode(field.removeprefix("Basic ")).decode() for field in fields]


async def test_a_host_gets_the_entry_of_its_own_name_and_no_other(world: World, path: Path) -> None:
    hosts = {
        "http://example.com/": "user:pass#1",
        "https://EXAMPLE.com:8443/x": "user:pass#1",
        "http://b\u00dccher.example/": "reader:a word",
        "http://xn--bcher-kva.example/": "reader:a word",
        "http://[0:0::1]/": "six:six",
        "http://[2001:db8::1]:81/": "eight:eight",
        "http://127.0.0.1/": "four:four",
        "http://www.example.com/": None,
        "http://example.com.evil.example/": None,
        "http://evilexample.com/": None,
        "http://com/": None,
        "http://example.com./": None,
        "http://evil.example/": None,
        "http://path.example/x": None,
        "http://default/": None,
    }
    assert await sent(world, NetrcAuth(path), *hosts) == list(hosts.values())


async def test_the_default_entry_only_if_asked(world: World, path: Path) -> None:
    urls = ("http://example.com/", "http://other.example/", "http://default/")
    assert await sent(world, NetrcAuth(path, use_default=True), *urls) == ["user:pass#1", *["anyone:anything"] * 2]
    write(path, "machine example.com login user password x\n")
    assert await sent(world, NetrcAuth(path, use_default=True), *urls) == ["user:x", None, None]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com:@evil.example/",
        "http://example.com:@evil.example:80/",
        "http://example.com@evil.example/",
        "http://evil.example/@example.com",
        "http://evil.example?example.com",
        "http://evil.example#@example.com/",
        "http://evil.example:80#@example.com",
        "http://evil.example/http://example.com/",
    ],
)
async def test_requests_cve_2024_47081_the_password_goes_to_the_host_that_is_connected_to(
    world: World, path: Path, url: str
) -> None:
    """Where one rule takes the host out of the URL for the look-up and another one for the connection, the password of
    example.com goes to evil.example."""
    for auth in (NetrcAuth(path), NetrcAuth()):
        (carried,) = await sent(world, auth, url)
        assert carried == ("example.com:" if "@evil" in url else None)  # what the URL itself names, and no more


@pytest.mark.parametrize("url", ["http://example.com\\@evil.example/", "http://evil.example\\.example.com/"])
async def test_requests_cve_2024_47081_what_two_programs_read_differently_is_refused(
    world: World, path: Path, url: str
) -> None:
    with pytest.raises(plugwire.InvalidURL):
        await sent(world, NetrcAuth(path), url)


async def test_requests_cve_2024_47081_the_file_is_not_asked_for_the_target_of_a_redirect(
    world: World, path: Path
) -> None:
    def answer(request: Request) -> Response:
        targets = {"first.example": "http://example.com/", "example.com": "http://second.example/"}
        location = targets.get(request.url.host) if request.url.path == "/" else None
        return Response(302, headers={"Location": f"{location}x"}) if location else Response(200)

    mock = MockTransport(answer)
    async with world.session(transports=[mock], auth=NetrcAuth(path)) as session:
        assert (await session.get("http://first.example/")).url == plugwire.URL("http://example.com/x")
        assert (await session.get("http://example.com/")).url == plugwire.URL("http://second.example/x")
    carried = [(call.url.host, "authorization" in call.headers) for call in mock.calls]
    assert carried == [
        ("first.example", False), ("example.com", False), ("example.com", True), ("second.example", False),
    ]  # fmt: skip


async def test_credentials_of_the_call_go_first(world: World, path: Path) -> None:
    """requests#3929: there the file won over them."""
    url = "http://example.com/"
    assert await sent(world, NetrcAuth(path), url, auth=("own", "x")) == ["own:x"]
    assert await sent(world, NetrcAuth(path), url, auth=None) == [None]
    assert await sent(world, NetrcAuth(path), "http://own:x@example.com/") == ["own:x"]
    field = {"Authorization": "Basic eDp5"}
    assert await sent(world, NetrcAuth(path), url, headers=field) == ["x:y"]
    assert await sent(world, NetrcAuth("not even asked for"), url, headers=field) == ["x:y"]


async def test_no_file_is_read_unless_the_program_says_so(world: World, path: Path) -> None:
    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock]) as session:
        await session.get("http://example.com/")
    assert "authorization" not in mock.calls[0].headers


async def test_it_is_read_once_in_a_session(world: World, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, lock = [], threading.Lock()
    real = netrc_auth.read_netrc

    def counted(path: Any) -> Any:
        with lock:
            read.append(path)
        return real(path)

    monkeypatch.setattr(netrc_auth, "read_netrc", counted)
    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock], auth=NetrcAuth(path)) as session:

        async def ask() -> None:
            await session.get("http://example.com/")

        await world.gather(*[ask] * 10)
        await session.derive(headers={"x": "1"}).get("http://other.example/")
    assert read == [path]


async def test_without_a_path_the_variable_names_it_or_else_it_is_in_the_home_directory(
    world: World, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://example.com/"
    assert await sent(world, NetrcAuth(), url) == ["user:pass#1"]
    other = tmp_path / "other"
    write(other, "machine example.com login other password x\n")
    monkeypatch.setenv("NETRC", str(other))
    assert await sent(world, NetrcAuth(), url) == ["other:x"]
    assert await sent(world, NetrcAuth(path), url) == ["user:pass#1"]
    assert await sent(world, NetrcAuth("~/other"), url) == ["other:x"]
    monkeypatch.setenv("NETRC", "")
    assert await sent(world, NetrcAuth(), url) == ["user:pass#1"]


async def test_a_file_that_is_named_must_be_there_and_the_usual_one_need_not(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    url = "http://example.com/"
    assert await sent(world, NetrcAuth(), url) == [None]
    missing = str(tmp_path / "missing")
    with pytest.raises(UsageError, match=f"no netrc file {missing}"):
        await sent(world, NetrcAuth(missing), url)
    monkeypatch.setenv("NETRC", missing)
    with pytest.raises(UsageError, match=f"no netrc file {missing}"):
        await sent(world, NetrcAuth(), url)


async def test_what_is_wrong_with_the_file_is_said_before_anything_is_sent_and_nothing_of_it_is_shown(
    world: World, path: Path, tmp_path: Path
) -> None:
    url = "http://example.com/"
    write(path, "machine example.com login user pasword s3cret\n")
    with pytest.raises(UsageError, match="line") as caught:
        await sent(world, NetrcAuth(path), url)
    assert "s3cret" not in str(caught.value) and "pasword" not in str(caught.value) and not caught.value.sent
    with pytest.raises(UsageError, match="cannot be read"):
        await sent(world, NetrcAuth(tmp_path), url)
    with pytest.raises(UsageError, match="':'"):
        write(path, "machine example.com login a:b password s3cret\n")
        await sent(world, NetrcAuth(path), url)
    assert await sent(world, NetrcAuth(path), "http://other.example/") == [None]


async def test_others_must_not_have_access_to_the_file_in_the_home_directory(world: World, path: Path) -> None:
    write(path, FILE, 0o644)
    with pytest.raises(UsageError, match="permissions"):
        await sent(world, NetrcAuth(), "http://example.com/")
    assert await sent(world, NetrcAuth(path), "http://example.com/") == ["user:pass#1"]


async def test_a_file_that_was_wrong_is_read_again(world: World, path: Path) -> None:
    write(path, "machine")
    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock], auth=NetrcAuth(path)) as session:
        with pytest.raises(UsageError):
            await session.get("http://example.com/")
        write(path, FILE)
        await session.get("http://example.com/")
    assert len(mock.calls) == 1 and "authorization" in mock.calls[0].headers


def test_nothing_is_read_or_shown_by_the_object_itself(path: Path) -> None:
    assert repr(NetrcAuth()) == "<NetrcAuth>"
    assert repr(NetrcAuth(path)) == f"<NetrcAuth {os.fspath(path)}>"
    assert "pass#1" not in repr(netrc_auth.read_netrc(path))
    with pytest.raises(UsageError):
        NetrcAuth(17)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com", "example.com"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("a:80", None),
        ("a:", None),
        ("a@b", None),
        ("a/b", None),
        ("a?b", None),
        ("a#b", None),
        ("a\\b", None),
        ("a b", None),
        ("", None),
        ("1.2.3.4.5", None),
    ],
)
def test_names_of_entries(name: str, host: str | None) -> None:
    assert netrc_auth.host_of(name) == host
