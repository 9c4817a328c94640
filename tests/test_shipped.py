"""What is shipped: the registry's tables, our entry points and the public names say the same."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

import plugwire
from plugwire.shipped import DEFAULT_PLUGINS, DEFAULT_TRANSPORTS, SHIPPED_PLUGINS, SHIPPED_TRANSPORTS

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.mark.parametrize(
    ("group", "table"), [("plugwire.plugins", SHIPPED_PLUGINS), ("plugwire.transports", SHIPPED_TRANSPORTS)]
)
def test_the_tables_are_our_entry_points(group: str, table: Mapping[str, str]) -> None:
    ours = {
        point.name: point.value
        for point in entry_points(group=group)
        if point.dist is not None and point.dist.name == "plugwire"
    }
    assert ours == dict(table), "after a change to pyproject.toml: pip install -e ."


@pytest.mark.parametrize("name", SHIPPED_PLUGINS)
def test_each_plugin_can_be_given_by_its_name(name: str) -> None:
    plugwire.Session(plugins=[name])


def test_defaults_are_shipped() -> None:
    assert set(DEFAULT_PLUGINS) <= set(SHIPPED_PLUGINS)
    defaults = {name for names in DEFAULT_TRANSPORTS.values() for name in names}
    assert defaults == set(SHIPPED_TRANSPORTS) - {"address-guard"}, "what restricts a session is asked for"


@pytest.mark.parametrize("package", ["plugwire_plugins", "plugwire_transports"])
def test_public_names_are_all_there_and_each_shipped_class_is_public(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        assert value.__name__ == name and value.__module__.startswith(f"{package}.")
    assert set(module.__all__) <= set(dir(module))
    for path in (*SHIPPED_PLUGINS.values(), *SHIPPED_TRANSPORTS.values()):
        where, _, name = path.partition(":")
        if where.startswith(f"{package}."):
            assert name in module.__all__
    with pytest.raises(AttributeError, match="Nothing"):
        _ = module.Nothing


@pytest.mark.parametrize("package", ["plugwire_plugins", "plugwire_transports"])
def test_importing_a_package_imports_none_of_its_modules(package: str) -> None:
    code = f"import sys, {package}; print([name for name in sys.modules if name.startswith('{package}.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
