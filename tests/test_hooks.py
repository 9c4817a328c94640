"""Each hook by a test of its name, and the documents: complete, and their examples run."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import plugwire
import plugwire.protocols
from plugwire import AsyncResponse, Response, hookimpl
from plugwire.events import CallStep, Head
from plugwire.hookspecs import ASYNC_HOOKS, DEFAULT_STAGES, HOOKS, Hooks, Stage
from plugwire.protocols import Body, WatchedBody
from plugwire.registry import entry_points
from plugwire.shipped import DEFAULT_PLUGINS, SHIPPED_PLUGINS
from plugwire.testing import MockTransport
from worlds import World

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("hooks.md", "writing-plugins.md", "writing-transports.md")


def mock() -> MockTransport:
    return MockTransport(lambda request: Response(200, text=request.url.path))


async def test_around_call(world: World) -> None:
    class Plugin:
        @hookimpl
        async def around_call(self, request: Any, call_next: Any, call: Any) -> AsyncResponse:
            assert "host" not in request.headers
            request.url = plugwire.URL("http://elsewhere/a")
            response = await call_next(request)
            response.headers["x-origin"] = str(call.origin)
            return response  # type: ignore[no-any-return]

    async with world.session(plugins=[Plugin()], transports=[mock()]) as session:
        response = await session.get("http://h/")
    assert (response.text, response.headers["x-origin"]) == ("/a", "http://h")


async def test_around_send(world: World) -> None:
    class Plugin:
        @hookimpl
        async def around_send(self, request: Any, call_next: Any, call: Any) -> AsyncResponse:
            request.headers["x-seen"] = f"{request.headers['host']} {call.attempt}"
            return await call_next(request)  # type: ignore[no-any-return]

    transport = mock()
    async with world.session(plugins=[Plugin()], transports=[transport]) as session:
        await session.get("http://h/")
    assert transport.calls[0].headers["x-seen"] == "h 1"


async def test_around_read(world: World) -> None:
    class Doubled(WatchedBody):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            return await self.inner.receive(max_bytes) * 2

    class Plugin:
        @hookimpl
        def around_read(self, response: AsyncResponse, body: Body, call: Any) -> Body:
            return Doubled(body) if response.status_code == 200 else body

    async with world.session(plugins=[Plugin()], transports=[mock()]) as session:
        assert (await session.get("http://h/ab")).text == "/ab/ab"


async def test_observe(world: World) -> None:
    seen: list[Any] = []

    class Plugin:
        events = (Head,)

        @hookimpl
        def observe(self, event: Any) -> None:
            seen.append(event)

    async with world.session(plugins=[Plugin()], transports=[mock()]) as session:
        await session.get("http://h/")
        await session.get("http://h/", observe=lambda event: None)
    assert [type(event) for event in seen] == [Head, Head]
    assert CallStep not in map(type, seen)


async def test_session_opened(world: World) -> None:
    class Plugin:
        opened = 0

        @hookimpl
        async def session_opened(self, session: Any) -> None:
            assert isinstance(session, plugwire.protocols.Session)
            assert session.runtime.name == world.name
            self.opened += 1
            session.headers["x-opened"] = str(self.opened)

    transport, plugin = mock(), Plugin()
    async with world.session(plugins=[plugin], transports=[transport]) as session:
        await world.gather(*[lambda: session.get("http://h/")] * 10)  # at once, and still only one of them opens
    assert plugin.opened == 1
    assert {call.headers["x-opened"] for call in transport.calls} == {"1"}


async def test_session_closed(world: World) -> None:
    log: list[bool] = []

    class Plugin:
        @hookimpl
        async def session_closed(self, session: Any) -> None:
            log.append(session.is_closed)

    async with world.session(plugins=[Plugin()], transports=[mock()]) as session:
        await session.get("http://h/")
        assert log == []
    assert log == [True]


# -- the documents -----------------------------------------------------------------------------------------------------


def signature(hook: str) -> str:
    """A hook's signature as a heading of the documents spells it."""
    function = getattr(Hooks, hook)
    found = inspect.signature(function)
    arguments = ", ".join(name for name in found.parameters if name != "self")
    return f"{'async ' if hook in ASYNC_HOOKS else ''}{hook}({arguments}) -> {found.return_annotation}"


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_documented_and_tested(hook: str) -> None:
    assert f"\n## `{signature(hook)}`\n" in (DOCS / "hooks.md").read_text()
    assert f"test_{hook}" in globals()
    assert getattr(Hooks, hook).__doc__
    assert inspect.iscoroutinefunction(getattr(Hooks, hook)) == (hook in ASYNC_HOOKS)


def test_no_other_hook_is_documented() -> None:
    headings = re.findall(r"^## `(.*)`$", (DOCS / "hooks.md").read_text(), re.MULTILINE)
    assert headings == [signature(hook) for hook in HOOKS]
    assert {name for name in vars(Hooks) if not name.startswith("_")} == set(HOOKS)


def test_stages_are_documented_in_order() -> None:
    text = (DOCS / "hooks.md").read_text()
    table = [line for line in text.splitlines() if line.startswith(("| call:", "| send:"))]
    documented = [re.findall(r"`(\w+)`", line) for line in table]
    assert documented == [
        [stage.word for stage in Stage if stage.is_in_call_tier],
        [stage.word for stage in Stage if not stage.is_in_call_tier],
    ]
    for hook, stage in DEFAULT_STAGES.items():
        assert re.search(rf"`{hook}`( stands)? at `{stage.word}`", text)


def test_the_stages_of_shipped_plugins_are_documented() -> None:
    table = (DOCS / "hooks.md").read_text().partition("| shipped plugin | stands at |\n")[2].partition("\n\n")[0]
    with plugwire.Session(plugins=[name for name in SHIPPED_PLUGINS if name not in DEFAULT_PLUGINS]) as session:
        layers = [[layer.name, layer.stage.word] for layer in session.view.engine.layers]
    assert [re.findall(r"`([\w-]+)`", line) for line in table.splitlines()[1:]] == layers


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_the_documents_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    module = ModuleType(page)
    monkeypatch.setitem(sys.modules, page, module)  # dataclasses look for the module they stand in
    for block in blocks:
        exec(compile(block, page, "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_documents_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (DOCS / page).read_text()):
        assert (DOCS / target).exists(), target


# -- the example packages ----------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example packages, laid out as an installer would: their sources, and the entry points of their pyproject."""
    for file in (DOCS / "examples").glob("*/pyproject.toml"):
        table = tomllib.loads(file.read_text())["project"]
        shutil.copytree(file.parent / "src", tmp_path, dirs_exist_ok=True)
        info = tmp_path / f"{table['name'].replace('-', '_')}-{table['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {table['name']}\nVersion: {table['version']}\n")
        groups = table["entry-points"].items()
        lines = [
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items()) for group, points in groups
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    entry_points.cache_clear()
    yield
    entry_points.cache_clear()
    for name in ("plugwire_stamp", "plugwire_mem"):
        sys.modules.pop(name, None)


async def test_example_packages_work_once_installed(world: World, installed: None) -> None:
    transport = mock()
    async with world.session(plugins=["stamp"], transports=[transport], options={"stamp": "mine"}) as session:
        await session.get("http://h/")
    assert transport.calls[0].headers["x-stamp"] == "mine"
    async with world.session() as session:
        assert (await session.get("mem://anywhere/")).content == b"from memory"
