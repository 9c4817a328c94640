"""Progress of uploads and downloads, as a bar is drawn: by `observe=`, in every world, over both protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from plugwire import AsyncResponse, Request, Response
from plugwire.events import Data
from plugwire.protocols import Body
from plugwire.testing import MockTransport, Server
from plugwire_plugins import Retries

if TYPE_CHECKING:
    from pathlib import Path

    from worlds import World

CONTENT = bytes(range(256)) * 4000
PROTOCOLS = pytest.mark.parametrize("version", ["http/1.1", "h2"])


class Bar:
    """What a progress bar keeps: for each direction and attempt where it stood, and of how much."""

    def __init__(self) -> None:
        self.drawn: dict[tuple[bool, int], list[tuple[int, int | None]]] = {}

    def __call__(self, event: Any) -> None:
        if isinstance(event, Data):
            stood = self.drawn.setdefault((event.sent, event.attempt), [(0, event.total)])
            assert event.size > 0 and event.done == stood[-1][0] + event.size
            stood.append((event.done, event.total))

    def ends(self, sent: bool, attempt: int = 1) -> tuple[int, int | None]:
        return self.drawn[sent, attempt][-1]


class Unknown(Body):
    """Content of unknown length, in pieces."""

    def __init__(self) -> None:
        self._left = 5

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self._left -= 1
        return CONTENT[:1000] if self._left >= 0 else b""


def answer(request: Request) -> AsyncResponse:
    if request.url.path == "/unknown":
        return AsyncResponse(200, body=Unknown())
    return AsyncResponse(200, content=CONTENT)


@PROTOCOLS
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_bar_of_a_download(world: World, version: str, is_streamed: bool) -> None:
    for path, size, total in (("/", len(CONTENT), len(CONTENT)), ("/unknown", 5000, None)):
        bar = Bar()
        with Server(answer, http_versions=(version,)) as server:
            async with world.session(http_versions=(version,)) as session:
                if is_streamed:
                    async with session.stream("GET", server.url + path, observe=bar) as response:
                        assert len(await response.read()) == size
                else:
                    assert len((await session.get(server.url + path, observe=bar)).content) == size
        assert bar.drawn.keys() == {(False, 1)}
        assert bar.ends(sent=False)[0] == size
        # What came whole with the head has a length, whether the peer has said it or not.
        assert {known for _, known in bar.drawn[False, 1]} in ({total}, {size})


@PROTOCOLS
async def test_a_bar_of_an_upload_of_files(world: World, tmp_path: Path, version: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    bar = Bar()
    with Server({"/": Response(200)}, http_versions=(version,)) as server:
        async with world.session(http_versions=(version,)) as session:
            await session.post(server.url, files={"f": path}, data={"a": "1"}, observe=bar)
        size = len(server.calls[0].content or b"")
    assert len(bar.drawn[True, 1]) > 4
    assert bar.ends(sent=True) == (size, size)
    assert size > len(CONTENT)


async def test_a_bar_begins_anew_with_each_attempt(world: World, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    bar = Bar()
    mock = MockTransport({"/": [Response(503, text="busy"), Response(200, text="ok")]})
    async with world.session(transports=[mock], plugins=[Retries(random=lambda: 0.0)]) as session:
        await session.put("http://h/", content=path, observe=bar)
    assert [bar.ends(True, attempt) for attempt in (1, 2)] == [(5, 5), (5, 5)]
    assert bar.ends(False, 2) == (2, 2)
