"""Fuzz targets, one for each parser that a peer or a caller feeds; `run.py` is the command.

A target is a module with

    check(data)   takes any bytes, returns if all is well. What it raises is a finding: an AssertionError for a promise
                  that is not kept, anything else for an exception that the parser should not have let out
    seeds()       inputs to begin with, made of the tests' examples
    WORDS         what is worth being put into an input, for the fuzzer's dictionary

and knows nothing of the fuzzer: `tests/test_fuzz_targets.py` runs each over its seeds, and over what was once found.
"""

from __future__ import annotations

TARGETS = {
    "http11": "fuzz.http11_wire",
    "url": "fuzz.urls",
    "headers": "fuzz.header_fields",
    "http2": "fuzz.http2_wire",
    "hpack": "fuzz.hpack_blocks",
    "decoders": "fuzz.decoders",
    "codings": "fuzz.content_codings",
    "cookies": "fuzz.cookies",
    "challenges": "fuzz.challenges",
}
"""The modules, by the names that the command takes."""
