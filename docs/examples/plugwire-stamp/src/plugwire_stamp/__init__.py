"""A plugin that stamps every request: `Session(plugins=["stamp"], options={"stamp": "mine"})`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plugwire import hookimpl

if TYPE_CHECKING:
    from plugwire.protocols import AsyncResponse, Call, Next, Request


@dataclass(frozen=True)
class StampOptions:
    """The options of `Stamp`. stamp: the text of the field X-Stamp."""

    stamp: str = "default"


class Stamp:
    """Adds the field X-Stamp."""

    option_types = (StampOptions,)

    @hookimpl
    async def around_send(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        request.headers["X-Stamp"] = call.options(StampOptions).stamp
        return await call_next(request)
