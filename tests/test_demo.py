"""The demo tells all seven steps in both worlds, over both versions of HTTP, and sees it when something stays open."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from plugwire import demo
from plugwire.cli import main


def test_the_demo_runs_everywhere_and_leaves_nothing_over() -> None:
    out = io.StringIO()
    assert demo.run(out)
    text = out.getvalue()
    for step in range(1, 8):
        assert text.count(f"\n  {step} ") == 6  # blocking and asyncio; plain, TLS and HTTP/2
    assert (text.count(", HTTP/1.1, no TLS"), text.count(", HTTP/1.1, TLSv1."), text.count(", HTTP/2, TLSv1.")) == (
        2,
        2,
        2,
    )
    assert text.count("404 is a response, response.ok is False") == 6
    assert text.count("503, then 200") == 6
    assert text.count("ConnectError, phase dial") == 6
    for world in ("threads", "tasks"):
        assert text.count(f"8 {world}, each answered when all were there: HTTP/1.1 took 8 connections\n") == 2
        assert text.count(f"8 {world}, each answered when all were there: HTTP/2 took 1 connection\n") == 1
    assert text.count("connections: 8 opened, 8 closed") == 4
    assert text.count("connections: 1 opened, 1 closed") == 2
    assert text.endswith("Nothing is left over.\n")


@pytest.mark.parametrize(
    ("balance", "is_even"),
    [
        (demo.Balance(2, 2, 2, 0), True),
        (demo.Balance(2, 1, 2, 0), False),
        (demo.Balance(2, 2, 3, 0), False),
        (demo.Balance(2, 2, 2, 1), False),
        (demo.Balance(0, 0, 0, 0), False),
    ],
)
def test_a_balance_is_even_when_all_that_was_opened_was_closed(balance: demo.Balance, is_even: bool) -> None:
    assert balance.is_even is is_even


def test_a_connection_that_stays_open_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forgetful(self: demo.Tally, event: object) -> None:
        if isinstance(event, demo.Open):
            self.opened.add(event.connection.id)

    monkeypatch.setattr(demo.Tally, "observe", demo.plugwire.hookimpl(forgetful))
    assert main(["demo"]) == 1
    assert "SOMETHING IS LEFT OVER" in capsys.readouterr().out


def test_the_demo_as_a_program() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "plugwire", "demo"], capture_output=True, timeout=120
    )
    # Slow steps are told by the debug mode of asyncio, which belongs to -X dev.
    complaints = [
        line for line in run.stderr.splitlines() if not (line.startswith(b"Executing ") and b" took " in line)
    ]
    assert (run.returncode, complaints) == (0, [])
    assert run.stdout.endswith(b"Nothing is left over.\n")
