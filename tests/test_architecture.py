"""docs/architecture.md: the rooms that it lists are those that stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
SOURCES = ("framework/plugwire", "transports/plugwire_transports", "plugins/plugwire_plugins")
FOLDERS = [str(path.parent.relative_to(ROOT)) for source in SOURCES for path in (ROOT / source).glob("*/__init__.py")]


def rows(source: str) -> list[tuple[list[str], list[str]]]:
    """The rows of a package's table: the names in the first column, and those in the second."""
    table = PAGE.partition(f"| {source} | |\n")[2].partition("\n\n")[0]
    cells = [line.strip("|").split("|") for line in table.splitlines()[1:]]
    return [(re.findall(r"`([\w/]+)`", names), re.findall(r"`([\w/]+)`", words)) for names, words in cells]


def modules(folder: str) -> list[str]:
    """What stands in a folder: modules by name, folders with a "/"."""
    return sorted(
        f"{path.name}/" if path.is_dir() else path.stem
        for path in (ROOT / folder).iterdir()
        if (path.is_dir() and path.name[0] != "_") or (path.suffix == ".py" and path.name[0] != "_")
    )


@pytest.mark.parametrize("source", SOURCES)
def test_every_module_has_one_room(source: str) -> None:
    named = [name for names, _ in rows(source) for name in names]
    assert sorted(named) == modules(source)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_row_of_a_folder_names_its_modules(folder: str) -> None:
    source, _, name = folder.rpartition("/")
    [inside] = [words for names, words in rows(source) if f"{name}/" in names]
    assert sorted(inside) == modules(folder)
