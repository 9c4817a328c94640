"""The three worlds: blocking, asyncio and trio. The only place (beside the faces) that asks which of them it is in.

Importing this imports none of them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from plugwire.errors import UsageError

if TYPE_CHECKING:
    from plugwire.protocols import Runtime

__all__ = ["blocking_runtime", "current_async_runtime"]


def blocking_runtime() -> Runtime:
    """A new runtime for the blocking world."""
    from plugwire.runtimes.blocking import BlockingRuntime

    return BlockingRuntime()


def current_async_runtime() -> Runtime:
    """A new runtime for the event loop that runs the caller: trio or asyncio.

    Raises:
        UsageError: neither of them does.
    """
    # Whose loop runs has imported it. trio first: as a guest it runs inside of an asyncio loop.
    if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_task():
        from plugwire.runtimes.trio import TrioRuntime

        return TrioRuntime()
    if (asyncio := sys.modules.get("asyncio")) is not None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            from plugwire.runtimes.asyncio import AsyncioRuntime

            return AsyncioRuntime()
    raise UsageError("an async session needs a running event loop of asyncio or trio; without one use Session")
