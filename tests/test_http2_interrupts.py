"""An interrupt (Ctrl-C) at any step of one thread's request on a shared HTTP/2 connection: other threads' requests
still end, nothing hangs, nothing is left over.

CPython raises what a signal handler raises at certain instructions only: when a function begins, after a call, on the
way back in a loop. A trace function raises KeyboardInterrupt at the n-th of these, for every n (`PLUGWIRE_SOAK=100`) or
for a sample: in CI the same in every run, at home another one each time.
"""

from __future__ import annotations

import dis
import gc
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import plugwire
from h2_peer import ClientClosed, Conversation, H2Peer
from plugwire.testing import PeerFailure

SCALE = int(os.environ.get("PLUGWIRE_SOAK", "1"))
RUNS = 40
"""Interrupts of each kind in an ordinary run."""

PATIENCE = 20
CHECKED = {
    number
    for name, number in dis.opmap.items()
    if name.startswith("CALL") or name in ("JUMP_BACKWARD", "RESUME", "CALL_FUNCTION_EX", "SEND")
}
BROKEN = (plugwire.ConnectionClosed, plugwire.WriteError, plugwire.ReadError)
SHORT = bytes(300)
LONG = bytes(100_000)


class Interrupter:
    """Raises KeyboardInterrupt at the `at`-th step of what it traces; `seen` counts them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        self.where = ""
        self._last: dict[FrameType, int] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if "plugwire" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        if "/testing/" in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            last = self._last.get(frame)
            self._last[frame] = frame.f_code.co_code[frame.f_lasti]
            if last in CHECKED:
                self.seen += 1
                if self.seen == self.at:
                    raise KeyboardInterrupt
        elif event in ("return", "exception"):  # behind a call that raised nobody looks for signals
            self._last.pop(frame, None)
        return self._step

    def run(self, function: Callable[[], object]) -> None:
        sys._getframe().f_trace_opcodes = True  # for CPython 3.12, as in `Interrupts.run`
        sys.settrace(self)
        try:
            function()
        except (KeyboardInterrupt, plugwire.Error) as error:
            self.where = (
                "".join(traceback.format_tb(error.__traceback__)[-4:-1]) if isinstance(error, KeyboardInterrupt) else ""
            )
        finally:
            sys.settrace(None)
            self._last.clear()


class Peer:
    """Answers each request at once, but for `/held` and `/late`: they wait for a `/release` on their connection.

    Who is told that the interrupt has torn its connection asks again (GET) on another one, and nobody knows when: the
    last `/release` may have come before that. So what comes as `/held` once more is answered at once; the first is not,
    wherever it hangs.
    """

    def __init__(self) -> None:
        self.came = {"/held": threading.Event(), "/main": threading.Event()}

    def __call__(self, h2: Conversation) -> None:
        try:
            self._play(h2)
        except (ConnectionError, ClientClosed):  # the interrupt ended the connection
            h2.await_end()

    def _play(self, h2: Conversation) -> None:
        held: list[int] = []
        for stream, fields in h2.requests():
            path = fields[":path"]
            if path == "/held" and self.came[path].is_set():
                h2.respond(stream, 200, b"/held")
                continue
            if path in self.came:
                self.came[path].set()
            if path in ("/held", "/late"):
                held.append(stream)
                continue
            if path == "/release":
                for each in held:
                    h2.respond(each, 200, b"/held")
                held.clear()
            if fields[":method"] == "POST" and stream in h2.fields:
                try:
                    h2.await_body(stream)
                except ClientClosed:
                    raise
                except PeerFailure:  # reset
                    continue
            h2.headers(stream, [(":status", "200")])
            h2.data(stream, SHORT, end_stream=True)


def gets(session: plugwire.Session, url: str) -> None:
    assert session.get(url + "/main").content == SHORT


def reads_and_closes(session: plugwire.Session, url: str) -> None:
    with session.stream("GET", url + "/main") as response:
        response.read(10)


def uploads(session: plugwire.Session, url: str) -> None:
    session.post(url + "/main", content=iter([LONG[:40_000], LONG[:40_000]]))


def times_out(session: plugwire.Session, url: str) -> None:
    with session.stream("GET", url + "/late", timeout=0.002) as response:
        response.read()


def one_run(deed: Callable[[plugwire.Session, str], None], at: int, main_leads: bool) -> bool:
    """Whether the interrupt came."""
    script = Peer()
    with H2Peer(script, repeat=True) as peer, plugwire.Session(http_versions=("h2",), timeout=PATIENCE) as session:
        session.get(peer.url)
        outcomes: list[BaseException | bytes] = []

        def other() -> None:
            if main_leads:
                script.came["/main"].wait(PATIENCE)
            try:
                outcomes.append(session.get(peer.url + "/held").content)
            except BaseException as error:
                outcomes.append(error)

        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        if not main_leads:
            assert script.came["/held"].wait(PATIENCE)
        interrupter = Interrupter(at)
        interrupter.run(lambda: deed(session, peer.url))
        script.came["/main"].set()
        if main_leads:
            until = time.monotonic() + PATIENCE
            while not script.came["/held"].wait(0.01) and not outcomes:
                assert time.monotonic() < until, f"it never came: {interrupter.where}"
        for _ in range(3):
            # The first may meet what the interrupt left of the connection.
            assert session.get(peer.url + "/release").content == SHORT
        thread.join(PATIENCE / 2)
        assert not thread.is_alive(), f"hangs after the interrupt at step {at}: {interrupter.where}"
        (outcome,) = outcomes
        assert outcome == b"/held" or isinstance(outcome, BROKEN), outcome
        stats = session.stats()
        if stats.open != stats.idle:
            gc.collect()  # a place that lies in the traceback's cycle
            stats = session.stats()
        assert (stats.open, stats.waiting) == (stats.idle, 0), (at, interrupter.where, stats)
        return interrupter.seen >= at


@pytest.mark.parametrize(
    ("deed", "main_leads"),
    # Who times out waits for somebody else.
    [(deed, leads) for deed in (gets, reads_and_closes, uploads, times_out) for leads in (True, False)
     if not (deed is times_out and leads)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_step(deed: Callable[[plugwire.Session, str], None], main_leads: bool) -> None:
    steps = 1
    while one_run(deed, steps, main_leads):
        steps *= 2
    chance = random.Random(f"{deed.__name__}, {main_leads}" if os.environ.get("CI") else None)
    chosen = chance.sample(range(1, steps), min(RUNS * SCALE // 8, steps - 1))
    for at in chosen:
        one_run(deed, at, main_leads)
