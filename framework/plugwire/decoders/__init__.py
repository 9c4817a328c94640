"""Decoders for `response.iter_decoded(decoder)`: bytes in, items out, without any I/O.

    with session.stream("GET", url) as response:
        for event in response.iter_decoded(ServerSentEvents()):
            print(event.data)

The same in `async for`. One of your own has `feed` and `end`, as `Decoder` says. A decoder is used for one body. Those
of items (`ServerSentEvents`, `NDJSON`, `MultipartMixed`) bound what a peer can make them hold: an item of more than 16
MiB is `LimitExceeded`, unless you say otherwise. `Lines` has no bound, like a body that is read whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugwire.decoders.iterators import AsyncDecoded, Decoded, Decoder
    from plugwire.decoders.mixed import BodyPart, MultipartMixed
    from plugwire.decoders.ndjson import NDJSON
    from plugwire.decoders.sse import ServerSentEvent, ServerSentEvents
    from plugwire.decoders.text import Lines, Pieces, Text

__all__ = [
    "NDJSON",
    "AsyncDecoded",
    "BodyPart",
    "Decoded",
    "Decoder",
    "Lines",
    "MultipartMixed",
    "Pieces",
    "ServerSentEvent",
    "ServerSentEvents",
    "Text",
]

_WHERE = {
    "AsyncDecoded": "iterators",
    "BodyPart": "mixed",
    "Decoded": "iterators",
    "Decoder": "iterators",
    "Lines": "text",
    "MultipartMixed": "mixed",
    "NDJSON": "ndjson",
    "Pieces": "text",
    "ServerSentEvent": "sse",
    "ServerSentEvents": "sse",
    "Text": "text",
}


def __getattr__(name: str) -> Any:
    # Lazily: whoever reads lines does not pay for multipart.
    if name not in _WHERE:
        raise AttributeError(f"module 'plugwire.decoders' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"plugwire.decoders.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
