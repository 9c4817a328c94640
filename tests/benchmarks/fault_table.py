"""Every scenario with every fault at every operation in every world; then an interrupt at any bytecode.

    python tests/benchmarks/fault_table.py                         # all: some minutes
    python tests/benchmarks/fault_table.py --scenario TLS --world trio --fault reset

Prints how many runs there were, by scenario and world, and by fault. After each run nothing was left (streams, places
of the pool, waiters), the error told the truth, and the same session did two more requests; a run of which that does
not hold is printed and counted, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fault_scenarios import INTERRUPTED, SCENARIOS, Sites, interrupted, swept
from plugwire.testing.faults import FAULTS, FaultFailure
from worlds import WORLDS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="", help="only those with this in their name")
    parser.add_argument("--world", choices=WORLDS, help="only this one")
    parser.add_argument("--fault", default="", help="only those with this in their name; 'bytecode' for the last part")
    options = parser.parse_args()
    worlds = [options.world] if options.world else list(WORLDS)
    scenarios = [scenario for scenario in SCENARIOS if options.scenario in scenario.name]
    runs: Counter[tuple[str, str]] = Counter()
    by_fault: Counter[str] = Counter()
    failures: list[str] = []
    began = time.monotonic()
    with Sites() as sites:
        before = len(os.listdir("/proc/self/fd"))
        print(f"{'runs':<26}" + "".join(f"{world:>10}" for world in worlds))
        for scenario in scenarios:
            print(f"{scenario.name:<26}", end="", flush=True)
            for world in worlds:
                for fault in scenario.faults(world):
                    if options.fault not in fault.name:
                        continue
                    try:
                        count = len(swept(sites, scenario, fault, world))
                    except FaultFailure as failure:
                        failures.append(f"{scenario.name}, {world}: {failure}")
                        continue
                    runs[scenario.name, world] += count
                    by_fault[fault.name] += count
                print(f"{runs[scenario.name, world]:>10}", end="", flush=True)
            print()
        bytecodes = 0
        if "blocking" in worlds and options.fault in "bytecode":
            for scenario in scenarios:
                if scenario.name in INTERRUPTED:
                    try:
                        count = len(interrupted(sites, scenario))
                    except FaultFailure as failure:
                        failures.append(str(failure))
                        continue
                    bytecodes += count
                    print(f"{scenario.name + ', any bytecode':<26}{count:>10}", flush=True)
        closed = sites.wait_closed(5)
        left = len(os.listdir("/proc/self/fd")) - before
    print()
    for fault in FAULTS:
        if by_fault[fault.name]:
            print(f"{fault.name:<26}{by_fault[fault.name]:>10}")
    print()
    for failure in failures:
        print(f"FAILED  {failure}")
    print(f"{sum(runs.values())} runs with a fault at an operation, {bytecodes} interrupted at a bytecode,")
    print(
        f"{len(failures)} failures, {max(left, 0)} descriptors left, connections left open: {'no' if closed else 'YES'}"
    )
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if failures or left > 0 or not closed else 0


if __name__ == "__main__":
    sys.exit(main())
