"""pytest fixtures. In a conftest.py: `pytest_plugins = ["plugwire.testing.fixtures"]`.

Not an entry point of pytest's: an installed package should not import itself into every test run of the machine.

- `plugwire_mock`: every session of the process is answered by it while the test runs:
  `plugwire_mock.add("GET https://h/x", Response(200))`. It is a `Mock`, with `calls`.
- `plugwire_server`: a `Server` with the default routes, one for the whole run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from plugwire.testing.mock import intercept
from plugwire.testing.server import Server

if TYPE_CHECKING:
    from collections.abc import Generator

    from plugwire.testing.mock import Mock


@pytest.fixture
def plugwire_mock() -> Generator[Mock]:
    """Answers in place of every wire of the process; knows nothing until `add` is called."""
    with intercept({}) as mock:
        yield mock


@pytest.fixture(scope="session")
def plugwire_server() -> Generator[Server]:
    """An embedded server on loopback, without TLS."""
    with Server() as server:
        yield server
