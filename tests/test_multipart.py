"""Multipart forms: what `files=` makes of what it is given, and how it travels."""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.formparser import parse_form_data

import plugwire
from plugwire import Headers, InvalidHeader, NotReplayable, Request, Response, UsageError, file_sources
from plugwire.drive import drive
from plugwire.events import Data
from plugwire.file_sources import PathSource
from plugwire.multipart import JOIN_UP_TO, guessed_type
from plugwire.runtimes import blocking_runtime
from plugwire.testing import MockTransport, Server
from plugwire.testing.interrupts import Interrupts
from plugwire.testing.peer import ScriptedPeer, abort, expect_end, expect_head, expect_request, receive, send
from plugwire_plugins import Retries
from worlds import in_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worlds import World

URL = "http://h.example/"
B = {"Content-Type": "multipart/form-data; boundary=B"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = bytes(range(256)) * 4096


def form(**keywords: Any) -> bytes:
    """The form, with the boundary B; of what lies in memory and is small."""
    content = Request("POST", URL, headers=B, **keywords).content
    assert content is not None
    return content


def one(part: Any, name: str = "f") -> bytes:
    """What stands between the delimiters of a form with one file."""
    content = form(files=[(name, part)])
    assert content.startswith(b"--B\r\n") and content.endswith(b"\r\n--B--\r\n")
    return content[5 : -len(b"\r\n--B--\r\n")]


def head(names: str, kind: str = "application/octet-stream") -> bytes:
    return f"Content-Disposition: form-data; {names}\r\nContent-Type: {kind}\r\n\r\n".encode()


class Pieces:
    """An async iterable that never suspends, or a file whose read is awaited."""

    def __init__(self, data: bytes, size: int = 1000, name: str | None = None) -> None:
        self._file = io.BytesIO(data)
        self._size = size
        if name is not None:
            self.name = name

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> bytes:
        data = self._file.read(self._size)
        if not data:
            raise StopAsyncIteration
        return data


class AwaitedFile(Pieces):
    async def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


class WrappedFile(AwaitedFile):
    """As anyio and trio have them."""

    @property
    def wrapped(self) -> Any:
        return self._file


# -- what goes out -------------------------------------------------------------------------------------------------


def test_a_whole_form(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b"{}")
    content = form(
        data={"a": "1", "b": ["x", "ü"], "c": None, "d": True},
        files=[("f", ("one.txt", b"first")), ("f", ("two.bin", "zwö", "x/y", {"X-Part": "2"}))],
    )
    assert content == (
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--B\r\nContent-Disposition: form-data; name="b"\r\n\r\nx\r\n'
        b'--B\r\nContent-Disposition: form-data; name="b"\r\n\r\n' + "ü".encode() + b"\r\n"
        b'--B\r\nContent-Disposition: form-data; name="d"\r\n\r\ntrue\r\n'
        b'--B\r\nContent-Disposition: form-data; name="f"; filename="one.txt"\r\nContent-Type: text/plain\r\n\r\n'
        b"first\r\n"
        b'--B\r\nContent-Disposition: form-data; name="f"; filename="two.bin"\r\nX-Part: 2\r\nContent-Type: x/y\r\n\r\n'
        + "zwö".encode()
        + b"\r\n--B--\r\n"
    )


def named(data: bytes, name: Any) -> io.BytesIO:
    file = io.BytesIO(data)
    file.name = name
    return file


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (b"x", head('name="f"; filename="f"') + b"x"),
        ("ü", head('name="f"; filename="f"') + "ü".encode()),
        (bytearray(b"x"), head('name="f"; filename="f"') + b"x"),
        (("a.png", b"x"), head('name="f"; filename="a.png"', "image/png") + b"x"),
        (("a.png", b"x", None), head('name="f"; filename="a.png"', "image/png") + b"x"),
        (("a.png", b"x", "a/b"), head('name="f"; filename="a.png"', "a/b") + b"x"),
        (("a", b"x", None, {"Content-Type": "c/d"}), head('name="f"; filename="a"', "c/d") + b"x"),
        (("a", b"x", "a/b", {"content-type": "c/d"}), head('name="f"; filename="a"', "a/b") + b"x"),
        ((None, b"x"), b'Content-Disposition: form-data; name="f"\r\n\r\nx'),
        ((None, "{}", "application/json"), head('name="f"', "application/json") + b"{}"),
        (("", b"x"), head('name="f"; filename=""') + b"x"),
        (("ü/ä.txt", b"x"), head('name="f"; filename="ü/ä.txt"', "text/plain") + b"x"),
    ],
)
def test_what_a_part_may_be(part: Any, expected: bytes) -> None:
    assert one(part) == expected


@pytest.mark.parametrize(
    ("name", "filename"),
    [
        ("/tmp/a b.html", "a b.html"),
        (b"/tmp/a.html", "a.html"),
        (Path("/tmp/a.html"), "a.html"),
        ("<stdin>", "f"),
        (7, "f"),
        ("", "f"),
        (None, "f"),
    ],
)
async def test_a_file_is_called_as_it_is_called(world: World, name: Any, filename: str) -> None:
    mock = MockTransport({"/": Response(200)})
    async with world.session(transports=[mock]) as session:
        await session.post(URL, files={"f": named(b"x", name)}, headers=B)
    assert f'filename="{filename}"\r\n'.encode() in (mock.calls[0].content or b"")


def test_types_by_name() -> None:
    names = {
        "a.txt": "text/plain", "A.PNG": "image/png", "a": "application/octet-stream", "": "application/octet-stream",
        "a.tar.gz": "application/gzip", "a.txt.bz2": "application/octet-stream", "x/y.html": "text/html",
        "data:text/html,x": "application/octet-stream", "data:a\r\nb/c,x": "application/octet-stream",
    }  # fmt: skip
    assert {name: guessed_type(name) for name in names} == names


def test_the_content_type_names_a_random_boundary() -> None:
    kinds = {Request("POST", URL, files={"f": b"x"}).headers["content-type"] for _ in range(20)}
    assert len(kinds) == 20
    assert all(re.fullmatch(r"multipart/form-data; boundary=[0-9a-f]{32}", kind) for kind in kinds)


def test_a_boundary_that_is_in_the_content_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter(["aaaa", "bbbb", "cccc"])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(found))
    request = Request("POST", URL, data={"x": "--aaaa"}, files={"f": b"--bbbb"})
    assert request.headers["content-type"] == "multipart/form-data; boundary=cccc"


def test_the_callers_content_type() -> None:
    request = Request("POST", URL, files={"f": b"x"}, headers={"content-type": "multipart/mixed"})
    kind, _, boundary = request.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/mixed" and (request.content or b"").startswith(b"--" + boundary.encode())
    quoted = Request("POST", URL, files={"f": b"x"}, headers={"content-type": 'multipart/form-data; boundary="a b"'})
    assert (quoted.content or b"").endswith(b"\r\n--a b--\r\n")
    assert quoted.headers["content-type"] == 'multipart/form-data; boundary="a b"'
    for kind, message in [
        ("application/json", "makes a multipart form, but the Content-Type is 'application/json'"),
        ("multipart/form-data; boundary=" + "x" * 71, "cannot be one"),
        ('multipart/form-data; boundary="a;b"', "cannot be one"),
        ('multipart/form-data; boundary="a "', "cannot be one"),
        ('multipart/form-data; boundary=""', "cannot be one"),
    ]:
        with pytest.raises(UsageError, match=message):
            Request("POST", URL, files={"f": b"x"}, headers={"content-type": kind})


def test_empty_files_are_none_as_requests_and_httpx_have_it() -> None:
    for files in ({}, [], iter(())):
        request = Request("POST", URL, files=files, data={"a": 1})  # type: ignore[arg-type]  # of several kinds
        assert request.content == b"a=1"
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    request = Request("POST", URL, files={})
    assert (request.content, "content-type" in request.headers) == (b"", False)
    # A form of fields alone, in the way that works everywhere.
    assert form(files={"a": (None, "1")}) == (b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--B--\r\n')


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (5, "files as a mapping or as pairs, not int"),
        (b"x", "int is no pair"),
        (io.BytesIO(b"x"), "a file as the whole body goes into content="),
        ([("f",)], "tuple is no pair"),
        ({"f": 5}, "the part 'f' of files= is int"),
        ({"f": None}, "has no content"),
        ({"f": ("a", None)}, "has no content"),
        ({"f": {"a": 1}}, "is a mapping"),
        ({"f": [b"x"]}, "is a list; several files of one name are given as pairs"),
        ({"f": ("a",)}, r"\(filename, content"),
        ({"f": ("a", b"x", "t", {}, 5)}, r"\(filename, content"),
        ({"f": (5, b"x")}, "filename and content-type are str or None"),
        ({"f": ("a", b"x", 5)}, "filename and content-type are str or None"),
        ({5: b"x"}, "a field's name is a str, not int"),
        ({"f": ("a", b"x", None, {"Content-Disposition": "form-data"})}, "is made of its names"),
        ({"f": io.StringIO("x")}, "'f': the request's body is a text file"),
        ({"f": Path("/nonexistent/file")}, "'f': the request's body is a path that cannot be read"),
        ({"f": Path("/")}, "'f': the request's body is a directory"),
    ],
)
def test_what_cannot_be_a_form(files: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request("POST", URL, files=files)


# -- nothing breaks out --------------------------------------------------------------------------------------------

BREAKOUTS = ('a"; filename="b', "a\r\nX: 1", "a\nX: 1", "a\rX: 1", "a\r\n\r\nb", 'a"\r\n--B--')


@pytest.mark.parametrize("text", BREAKOUTS)
def test_aiohttp_cve_2023_49082_names_of_parts_stay_in_their_place(text: str) -> None:
    escaped = text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").encode()
    forms: list[dict[str, Any]] = [
        {"files": {text: ("x", b"-")}}, {"files": {"x": (text, b"-", "a/b")}},
        {"data": {text: "-"}, "files": {"x": (None, "")}},
    ]  # fmt: skip
    for content in (form(**keywords) for keywords in forms):
        lines = content.split(b"\r\n")
        # One part: delimiter, head, empty line, content, last delimiter. Or two, of which the second has no type.
        assert len(lines) == (7 if b"Content-Type" in content else 10)
        assert escaped in lines[1]
    assert form(files={"ü": ("€", b"")}).split(b"\r\n")[1].endswith('name="ü"; filename="€"'.encode())


@pytest.mark.parametrize("text", ["a\0b", "\0"])
def test_aiohttp_cve_2023_49082_nul_in_a_name_is_refused(text: str) -> None:
    for keywords in ({"files": {text: b""}}, {"files": {"x": (text, b"")}}, {"data": {text: 1}, "files": {"x": b""}}):
        with pytest.raises(InvalidHeader):
            Request("POST", URL, **keywords)  # type: ignore[arg-type]  # of several kinds


@pytest.mark.parametrize("text", ["a/b\r\nX: 1", "a/b\n", "a\0b", "a/b\r\n\r\nx"])
def test_aiohttp_cve_2026_34514_types_and_headers_of_parts_are_refused(text: str) -> None:
    for part in (("x", b"", text), ("x", b"", None, {"y": text}), ("x", b"", None, {text: "y"})):
        with pytest.raises(InvalidHeader):
            Request("POST", URL, files={"f": part})  # type: ignore[dict-item]  # of several kinds


NAMES = st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"]), min_size=1)


def as_servers_say(name: str) -> str:
    return name.replace("\r", "%0D").replace("\n", "%0A").replace("%22", '"')


@given(
    st.lists(st.tuples(NAMES, st.text(st.characters(exclude_categories=["Cs"]))), max_size=4),
    st.lists(st.tuples(NAMES, NAMES, st.binary(max_size=2000)), min_size=1, max_size=4),
)
@example([('a"b', 'c"\r\n--')], [("f\r\ng", 'n"\r\nm.txt', b"x\r\n--")])
def test_a_servers_parser_finds_the_same_parts(fields: Any, files: Any) -> None:
    request = Request("POST", URL, data=fields, files=[(name, (filename, data)) for name, filename, data in files])
    content = request.content
    assert content is not None and request.body.length == len(content)
    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": request.headers["content-type"],
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.input": io.BytesIO(content),
    }
    # In memory: by itself it makes temporary files, and closes none.
    _, form, uploads = parse_form_data(environ, stream_factory=lambda *args, **kwargs: io.BytesIO(), silent=False)
    assert sorted(form.items(multi=True)) == sorted((as_servers_say(name), value) for name, value in fields)
    found = [(name, upload.filename, upload.read()) for name, upload in uploads.items(multi=True)]
    expected = [(as_servers_say(name), as_servers_say(filename), data) for name, filename, data in files]
    assert sorted(found) == sorted(expected)


# -- how it travels ------------------------------------------------------------------------------------------------

PROTOCOLS = pytest.mark.parametrize("version", ["http/1.1", "h2"])


async def posted(world: World, version: str, **keywords: Any) -> Request:
    """The request as a server got it."""
    with Server({"/": Response(200)}, http_versions=(version,)) as server:
        async with world.session(http_versions=(version,)) as session:
            response = await session.post(server.url, **keywords)
            assert response.status_code == 200
        return server.calls[0]


@PROTOCOLS
async def test_files_are_streamed_with_a_known_length_and_their_progress_told(
    world: World, tmp_path: Path, version: str
) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    told: list[Data] = []

    def observe(event: Any) -> None:
        if isinstance(event, Data) and event.sent:
            told.append(event)

    with path.open("rb") as file:
        file.seek(1000)
        files = {"path": path, "file": file, "memory": LARGE[:JOIN_UP_TO]}
        request = await posted(world, version, data={"a": "1"}, files=files, headers=B, observe=observe)
    content = request.content or b""
    expected = (
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--B\r\n'
        + head('name="path"; filename="large.bin"')
        + LARGE
        + b"\r\n--B\r\n"
        + head('name="file"; filename="large.bin"')
        + LARGE[1000:]
        + b"\r\n--B\r\n"
        + head('name="memory"; filename="memory"')
        + LARGE[:JOIN_UP_TO]
        + b"\r\n--B--\r\n"
    )
    assert content == expected
    assert request.headers.get_int("content-length") == len(expected)
    # What a progress bar needs: it knows the end from the start, never steps back, and comes to it.
    done = [event.done for event in told]
    assert {event.total for event in told} == {len(expected)}
    assert done == sorted(done) and done[-1] == len(expected)
    assert max(event.size for event in told) <= 262144 and len(told) > 8
    assert sum(event.size for event in told) == len(expected)


@PROTOCOLS
@pytest.mark.parametrize("make", [
    lambda: iter([b"one", "zwö"]), lambda: Pieces(b"onezw\xc3\xb6"), lambda: AwaitedFile(b"onezw\xc3\xb6"),
    lambda: lambda: [b"one", b"zw\xc3\xb6"],
], ids=["generator", "async iterable", "awaited file", "callable"])  # fmt: skip
async def test_parts_of_unknown_length(world: World, make: Any, version: str) -> None:
    request = await posted(world, version, files={"f": ("x", make())}, headers=B)
    assert request.content == b"--B\r\n" + head('name="f"; filename="x"') + "onezwö".encode() + b"\r\n--B--\r\n"
    assert "content-length" not in request.headers
    assert (request.headers.get("transfer-encoding") == "chunked") is (version == "http/1.1")


@PROTOCOLS
async def test_an_async_file_over_a_plain_one_has_a_length(world: World, version: str) -> None:
    file = WrappedFile(LARGE, name="dir/a.txt")
    await file.read(7)
    request = await posted(world, version, files={"f": file}, headers=B)
    expected = b"--B\r\n" + head('name="f"; filename="a.txt"', "text/plain") + LARGE[7:] + b"\r\n--B--\r\n"
    assert request.content == expected
    assert request.headers.get_int("content-length") == len(expected)


async def test_a_file_of_trio(world: World, tmp_path: Path) -> None:
    if world.name != "trio":
        return
    path = tmp_path / "a.txt"
    path.write_bytes(LARGE)
    async with await trio.open_file(path, "rb") as file:
        request = await posted(world, "http/1.1", files={"f": file}, headers=B)
    assert request.headers.get_int("content-length") == len(request.content or b"") > len(LARGE)
    assert b'filename="a.txt"' in (request.content or b"")


class Watched(io.BytesIO):
    """A file that knows how much was asked of it at a time."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None and size >= 0
        self.largest = max(self.largest, size)
        return super().read(size)


async def test_a_file_is_never_read_as_a_whole(world: World) -> None:
    file = Watched(LARGE * 2)
    request = await posted(world, "http/1.1", files={"f": file})
    assert 0 < file.largest <= 262144 < len(request.content or b"")


async def test_a_form_is_sent_again_if_all_its_parts_can_be(world: World, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"path")
    mock = MockTransport({"/": [Response(503), Response(200), Response(503), Response(200)]})
    plugin = Retries(random=lambda: 0.0)
    files: dict[str, Any] = {"p": path, "f": io.BytesIO(b"file"), "l": ("x", lambda: [b"li", b"st"])}
    async with world.session(transports=[mock], plugins=[plugin]) as session:
        assert (await session.put(URL, files=files, headers=B)).status_code == 200
        first, again = mock.calls
        assert first.content == again.content
        assert all(data in (again.content or b"") for data in (b"path", b"file", b"list"))
        response = await session.put(URL, files={**files, "g": ("x", iter([b"once"]))})
        assert response.status_code == 503


async def test_a_form_that_can_be_sent_once_is_not_sent_twice(world: World) -> None:
    request = Request("POST", URL, files={"g": ("x", iter([b"once"]))})
    assert not request.body.is_replayable
    mock = MockTransport({"/": Response(200)})
    async with world.session(transports=[mock]) as session:
        await session.send(request)
        with pytest.raises(NotReplayable):
            await session.send(request)


@pytest.mark.parametrize("kind", ["file", "path"])
async def test_a_part_that_grows_is_sent_as_long_as_it_was(world: World, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"12345")
    with path.open("rb") as file, path.open("ab") as log:
        request = Request("POST", URL, files={"f": ("log", file if kind == "file" else path)}, headers=B)
        log.write(b"67890")
        log.flush()
        mock = MockTransport({"/": Response(200)})
        async with world.session(transports=[mock]) as session:
            await session.send(request)
    assert (mock.calls[0].content or b"").endswith(b"\r\n\r\n12345\r\n--B--\r\n")


@PROTOCOLS
@pytest.mark.parametrize("kind", ["file", "path"])
async def test_a_part_that_shrinks_is_named(world: World, tmp_path: Path, kind: str, version: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(LARGE)
    with path.open("rb") as file, Server({"/": Response(200)}, http_versions=(version,)) as server:
        request = Request("POST", server.url, files={"f": file if kind == "file" else path, "g": b"x"})
        os.truncate(path, 4)
        async with world.session(http_versions=(version,)) as session:
            with pytest.raises(UsageError, match=f"the part 'f' ended after 4 bytes; {len(LARGE)} were announced"):
                await session.send(request)
            if version == "http/1.1":
                assert session.stats().open == 0, "the peer waits for the rest, and gets the end of the connection"


class Talkative:
    """A source that gives more than it announced."""

    length = 3
    content = None
    is_replayable = True

    def open(self, call: Any) -> Any:
        return plugwire.bodies.MemoryBody(b"12345")


async def test_a_part_that_gives_more_than_it_announced(world: World) -> None:
    async with world.session(transports=[MockTransport({"/": Response(200)})]) as session:
        with pytest.raises(UsageError, match="the part 'f' gave 5 bytes; 3 were announced"):
            await session.post(URL, files={"f": Talkative()})


async def test_a_part_is_closed_however_the_upload_ends(world: World, tmp_path: Path) -> None:
    closed: list[str] = []

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(65536)
        finally:
            closed.append("generator")

    path = tmp_path / "x"
    path.write_bytes(bytes(30_000_000))
    for part in (pieces(), path):
        with ScriptedPeer([expect_head(), receive(100_000), abort()]) as peer:
            async with world.session() as session:
                with pytest.raises(plugwire.NetworkError):
                    await session.post(peer.url, files={"f": ("x", part)})
    assert closed == ["generator"]  # and the world looks for open descriptors


# -- paths as whole bodies -----------------------------------------------------------------------------------------


@PROTOCOLS
async def test_a_path_is_a_body(world: World, tmp_path: Path, version: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(LARGE)
    request = await posted(world, version, content=path)
    assert request.content == LARGE
    assert request.headers.get_int("content-length") == len(LARGE)
    assert "content-type" not in request.headers


async def test_a_pipe_by_its_path_is_sent_chunked_and_once(world: World, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    request = Request("POST", URL, content=path)
    assert (request.body.length, request.body.is_replayable) == (None, False)
    mock = MockTransport({"/": Response(200)})
    writer = threading.Thread(target=path.write_bytes, args=(b"through a pipe",))
    writer.start()
    async with world.session(transports=[mock]) as session:
        await session.send(request)
        with pytest.raises(NotReplayable):
            await session.send(request)
    writer.join()
    assert mock.calls[0].content == b"through a pipe"


async def test_a_path_that_is_gone_meanwhile(world: World, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    request = Request("POST", URL, content=path)
    path.unlink()
    with ScriptedPeer([expect_head(), expect_end()]) as peer:
        request.url = plugwire.URL(peer.url)
        async with world.session() as session:
            with pytest.raises(UsageError, match="could not be read"):
                await session.send(request)


async def test_a_file_that_was_closed_meanwhile(world: World) -> None:
    file = tempfile.TemporaryFile()  # noqa: SIM115  (closed below)
    file.write(b"12345")
    file.seek(0)
    request = Request("POST", URL, files={"f": file})
    file.close()
    async with world.session(transports=[MockTransport({"/": Response(200)})]) as session:
        with pytest.raises(UsageError, match="closed meanwhile"):
            await session.send(request)


@pytest.mark.parametrize("while_it", ["opens", "reads"])
def test_a_path_is_closed_though_a_cancelled_read_goes_on_in_its_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, while_it: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"hello")
    began, may_go_on = threading.Event(), threading.Event()
    opened: list[Any] = []

    class Slow(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if while_it == "reads":
                began.set()
                assert may_go_on.wait(10)
            return super().read(size) or b""

    def slow_open(path: str, mode: str) -> Any:
        if while_it == "opens":
            began.set()
            assert may_go_on.wait(10)
        opened.append(Slow(path, mode))
        return opened[0]

    monkeypatch.setattr("builtins.open", slow_open)
    body: Any = PathSource(path).open(SimpleNamespace(runtime=blocking_runtime()))  # type: ignore[arg-type]  # enough
    thread = threading.Thread(target=drive, args=(body.receive(),))
    thread.start()
    assert began.wait(10)
    drive(body.close())  # does not wait for the thread, which has the file
    may_go_on.set()
    thread.join()
    assert opened[0].closed
    assert drive(body.receive()) == b""


def test_an_interrupt_of_its_close_leaves_nothing_that_a_read_would_hang_on(tmp_path: Path) -> None:
    """A cancelled read may begin only then, in its thread."""
    path = tmp_path / "x"
    path.write_bytes(b"hello")
    for number in count(1):
        body: Any = PathSource(path).open(SimpleNamespace(runtime=blocking_runtime()))  # type: ignore[arg-type]  # enough
        assert drive(body.receive(2)) == b"he"
        interrupts = Interrupts(number, directories=(file_sources.__file__,))
        try:
            interrupts.run(lambda body=body: drive(body.close()))  # type: ignore[misc]
        except KeyboardInterrupt:
            pass
        file = body._file
        in_time(lambda body=body: body._read(2))  # type: ignore[misc]
        drive(body.close())
        assert file.closed, interrupts.where
        if not interrupts.was_raised:
            break
    assert number > 2


def test_headers_stay_what_they_were() -> None:
    given_headers = Headers(B)
    Request("POST", URL, headers=given_headers, files={"f": b"x"})
    assert list(given_headers.items()) == list(B.items())


def test_expect_request_sees_the_end_of_a_chunked_form() -> None:
    with ScriptedPeer([expect_request(), send(OK)]) as peer, plugwire.Session() as session:
        assert session.post(peer.url, files={"f": ("x", iter([b"1"]))}).text == "ok"
