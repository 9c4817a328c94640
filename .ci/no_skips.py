"""Reads pytest's junit reports: a skipped test is a failure in CI, unless its reason is named here.

no_skips.py REPORT             lists the skips that are not allowed, exit status 1 if there is one (or no test at all)
no_skips.py --total REPORT...  one closing line over all of them
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ALLOWED = frozenset({"needs an IPv6 loopback address"})
"""Reasons that lie in the machine, not in what was installed on it."""


def outcomes(report: str) -> Iterator[tuple[str, str, str]]:
    """(test, outcome, reason) of each entry in the report."""
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            yield name, "failed", ""
        elif (skipped := case.find("skipped")) is not None:
            kind = "xfailed" if skipped.get("type") == "pytest.xfail" else "skipped"
            yield name, kind, skipped.get("message", "")
        else:
            yield name, "passed", ""


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == "--total":
        reports = [report for report in arguments[1:] if Path(report).exists()]
        counts = Counter(outcome for report in reports for _, outcome, _ in outcomes(report))
        line = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
        print(f"{line} in {len(reports)} test runs")
        return 0
    found = list(outcomes(arguments[0]))
    forbidden = [(name, reason) for name, outcome, reason in found if outcome == "skipped" and reason not in ALLOWED]
    for name, reason in forbidden:
        print(f"skipped, but may not be: {name}: {reason}")
    if not found:
        print("no test ran")
    return 1 if forbidden or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
