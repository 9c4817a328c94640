"""What every test may ask for."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Real servers: ca, nginx, apache, node, asgi, nghttpd, peer, site, h2_site. And `names`, in place of DNS.
pytest_plugins = ["peers.fixtures", "worlds", "names"]


# Whoever runs the tests behind a proxy: what they talk to is this machine.
for _name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)

# Whoever runs them in the background of a script, where SIGINT is ignored: what is interrupted here would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# CI sees the same examples in every run, so that a red run can be had again; at home each run looks elsewhere.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=200)
settings.register_profile("dev", deadline=None, max_examples=50)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def no_company() -> Iterator[None]:
    """However long a dial takes on a busy machine, nobody who waits for it dials too: tests count connections. Modules
    about this very thing have a fixture of the same name that changes nothing."""
    with pytest.MonkeyPatch.context() as patch:  # one of its own: tests undo theirs in the midst
        patch.setattr("plugwire.pool_table.COMPANY", 600.0)
        yield


def pytest_collection_finish() -> None:
    """The tests themselves, and what they import, are for ever: the many collections that tests ask for need not look
    at them again. With them each took as long as a hundred tests."""
    gc.collect()
    gc.freeze()
