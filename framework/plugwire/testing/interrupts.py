"""An interrupt at any bytecode: what Ctrl-C may do in the blocking world, and worse.

    from plugwire.testing.interrupts import Interrupts

    for number in count(1):
        interrupts = Interrupts(number)
        with Session() as session:
            try:
                interrupts.run(lambda: session.get(url))
            except KeyboardInterrupt:
                ...                                       # whatever must hold now
        if not interrupts.was_raised:
            break

A trace function follows the bytecodes that plugwire executes in this thread, and raises at the n-th at which CPython
looks for signals: behind each call, at the begin of a function and at jumps back. Between two others no signal handler
runs, and must not: `with lock:` leaves its block by some bytecodes that no handler of exceptions covers, so a lock
would stay held that no program can give back. `is_everywhere` raises at these as well.
"""

from __future__ import annotations

import dis
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

T = TypeVar("T")

__all__ = ["Interrupts", "plugwire_directories"]


def plugwire_directories() -> tuple[str, ...]:
    """Where the packages of plugwire lie, this one for tests left out."""
    names = ("plugwire", "plugwire_transports", "plugwire_plugins")
    found = [sys.modules[name].__file__ for name in names if name in sys.modules]
    return tuple(f"{Path(file).parent}/" for file in found if file is not None)


_TESTING: Final = f"{Path(__file__).parent}/"
_LOOKS_AT_ONCE: Final = frozenset(dis.opmap[name] for name in ("RESUME", "JUMP_BACKWARD") if name in dis.opmap)
_LOOKS_AFTER: Final = frozenset(
    code for name, code in dis.opmap.items() if name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW")
)


class Interrupts:
    """Raises at the `number`-th bytecode, from 1; 0: never, only counts.

    Args:
        number: at which bytecode.
        error: what is raised.
        directories: of the files whose bytecodes count; None: those of plugwire.

        is_everywhere: at any bytecode, also where CPython does not look for signals.

    Attributes:
        count: bytecodes so far that count.
        was_raised: whether it came to that.
        where: file, line and function where it was raised.
    """

    def __init__(
        self,
        number: int,
        error: type[BaseException] = KeyboardInterrupt,
        directories: Sequence[str] | None = None,
        *,
        is_everywhere: bool = False,
    ) -> None:
        self.number = number
        self.error = error
        self.count = 0
        self.was_raised = False
        self.where = ""
        self._is_everywhere = is_everywhere
        self._codes: dict[object, bytes] = {}
        self._last: dict[int, int] = {}  # of each frame: the opcode before
        self._directories = tuple(directories) if directories is not None else plugwire_directories()

    def run(self, function: Callable[[], T]) -> T:
        """Call `function` in this thread, and raise in the midst of it."""
        # CPython 3.12 traces opcodes only if some frame has asked for it before; the first run would see none of them.
        sys._getframe().f_trace_opcodes = True  # pyright: ignore[reportPrivateUsage]  (documented)
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return function()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if self.was_raised or not name.startswith(self._directories) or name.startswith(_TESTING):
            return None
        frame.f_trace = self._step  # before the next line: CPython 3.13 does not trace the opcodes of a frame without
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event in ("return", "exception"):  # behind a call that raised nobody looks for signals
            self._last.pop(id(frame), None)
        if event == "opcode" and not self.was_raised and self._counts(frame):
            self.count += 1
            if self.count == self.number:
                self.was_raised = True
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
                raise self.error
        return self._step

    def _counts(self, frame: FrameType) -> bool:
        """Whether CPython looks for signals before this bytecode."""
        if self._is_everywhere:
            return True
        code = frame.f_code
        codes = self._codes.get(code)
        if codes is None:
            codes = self._codes[code] = code.co_code
        now = codes[frame.f_lasti]
        before = self._last.get(id(frame), -1)
        self._last[id(frame)] = now
        return now in _LOOKS_AT_ONCE or before in _LOOKS_AFTER
