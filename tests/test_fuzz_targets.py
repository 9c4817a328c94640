"""The fuzz targets hold on what they begin with, and on what was found; without the fuzzer, in every interpreter."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from fuzz import TARGETS

FOUND: dict[str, list[bytes]] = {
    "http11": [],
    "url": [],
    "headers": [
        # Python remembers every charset it was asked for: a peer could name a new one in each response.
        *(b"\2a/b; charset=x%d\0" % number for number in range(500)),
        *(b"\2a/b; charset=utf" + b"-" * number + b"8\0" for number in range(500)),
    ],
    "http2": [],
    "hpack": [],
    "decoders": [],
    "codings": [],
    "cookies": [],
    "challenges": [],
}
"""Inputs that were findings once."""


@pytest.fixture(params=TARGETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def target(name: str) -> Any:
    return importlib.import_module(TARGETS[name])


def test_every_seed_holds(name: str) -> None:
    seeds = target(name).seeds()
    assert len(seeds) > 20
    for seed in seeds:
        target(name).check(seed)


def test_what_was_found_holds(name: str) -> None:
    for data in FOUND[name]:
        target(name).check(data)


def test_nothing_is_an_input_too(name: str) -> None:
    target(name).check(b"")


def test_words_can_be_written_into_a_dictionary(name: str) -> None:
    assert all(0 < len(word) <= 64 for word in target(name).WORDS)
