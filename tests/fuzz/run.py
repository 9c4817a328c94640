"""Run the fuzz targets: python tests/fuzz/run.py [--seconds N | --runs N] [target ...]

Each target runs in a process of its own, one after the other, under libFuzzer (atheris), guided by the branches of
plugwire that an input takes. An exception, an input that takes longer than --timeout, and more than --memory are
findings: the input is kept, its trace is shown, and the command fails. To see a finding again:

    python tests/fuzz/run.py --input FILE target

With --corpus what was learnt is kept in a directory, and the executions are counted there from run to run.

Needs the extra `fuzz`: pip install -e '.[fuzz]'
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent.parent
# Not this directory, which Python has put here: its modules are `fuzz.something`.
sys.path[0] = str(TESTS)

from fuzz import TARGETS  # noqa: E402

# What guides the fuzzer. Not the judges: h11, hpack, ada and the targets themselves.
GUIDED_BY = (
    "plugwire.url", "plugwire.hosts", "plugwire.headers", "plugwire.messages", "plugwire.decoders",
    "plugwire_transports.http11_wire", "plugwire_transports.http2", "plugwire_plugins.content_codings",
    "plugwire_plugins.set_cookie", "plugwire_plugins.cookie_table", "plugwire_plugins.cookie_jar",
    "plugwire_plugins.challenges", "plugwire_plugins.digest_auth",
)  # fmt: skip


class Result(NamedTuple):
    """Of one target. `branches`: those that were taken, as the fuzzer counts."""

    executions: int
    branches: int
    seconds: float
    status: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=int, default=0, help="for each target (60 if --runs is not given either)")
    parser.add_argument("--runs", type=int, default=0, help="executions of each target")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzzer's choices; 0: another in each run")
    parser.add_argument("--timeout", type=int, default=10, help="seconds after which one input is a hang")
    parser.add_argument("--memory", type=int, default=800, help="MiB that a target's process may come to")
    parser.add_argument("--max-length", type=int, default=400, help="of an input, in bytes")
    parser.add_argument("--corpus", type=Path, help="directory to keep what was learnt in; else it is forgotten")
    parser.add_argument("--input", type=Path, help="run one input, without the fuzzer")
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    names = options.targets or list(TARGETS)
    if options.input:
        for name in names:
            importlib.import_module(TARGETS[name]).check(options.input.read_bytes())
        return 0
    if not options.seconds and not options.runs:
        options.seconds = 60
    with tempfile.TemporaryDirectory(prefix="plugwire-fuzz-") as scratch:
        results = {name: _run(name, options, Path(scratch)) for name in names}
    return _report(results, options.corpus)


def _run(name: str, options: argparse.Namespace, scratch: Path) -> Result:
    """One target in its own process."""
    corpus: Path = (options.corpus or scratch) / name
    findings: Path = (options.corpus or Path.cwd()) / "findings"
    begin = scratch / f"{name}-seeds"
    for directory in (corpus, begin, findings):
        directory.mkdir(parents=True, exist_ok=True)
    target = importlib.import_module(TARGETS[name])
    for number, seed in enumerate(target.seeds()):
        (begin / f"{number:05}").write_bytes(seed)
    words = scratch / f"{name}-words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.WORDS))
    command = [
        sys.executable, str(Path(__file__).resolve()), "--worker", name,
        str(corpus), str(begin), f"-dict={words}", f"-artifact_prefix={findings}/{name}-",
        f"-timeout={options.timeout}", f"-rss_limit_mb={options.memory}", f"-max_len={options.max_length}",
        "-print_final_stats=1", "-verbosity=1",
    ]  # fmt: skip
    if options.seconds:
        command.append(f"-max_total_time={options.seconds}")
    if options.runs:
        command.append(f"-runs={options.runs}")
    if options.seed:
        command.append(f"-seed={options.seed}")
    print(f"--- {name}", flush=True)
    began = time.monotonic()
    executions = branches = 0
    said: list[str] = []
    with subprocess.Popen(
        command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as worker:
        assert worker.stdout is not None
        try:
            for line in worker.stdout:
                if found := re.match(r"#(\d+)\s|stat::number_of_executed_units:\s*(\d+)", line):
                    executions = max(executions, int(found[1] or found[2]))
                    if found := re.search(r" cov: (\d+)", line):
                        branches = int(found[1])
                else:
                    said = [*said, line][-80:]
        except KeyboardInterrupt:
            worker.terminate()
    result = Result(executions, branches, time.monotonic() - began, worker.returncode)
    if result.status:
        print("".join(said), flush=True)
    if options.corpus:
        _count(options.corpus, name, executions)
    if not any(findings.iterdir()):
        findings.rmdir()
    return result


def _escaped(word: bytes) -> str:
    return "".join([f"\\x{byte:02x}" for byte in word])


def _count(corpus: Path, name: str, executions: int) -> None:
    """Add to what is counted over all runs."""
    file = corpus / "executions.json"
    counted = json.loads(file.read_text()) if file.exists() else {}
    counted[name] = counted.get(name, 0) + executions
    file.write_text(json.dumps(counted, indent=1))


def _report(results: dict[str, Result], corpus: Path | None) -> int:
    print(f"{'target':10} {'executions':>12} {'seconds':>8} {'a second':>9} {'branches':>9}")
    for name, (executions, branches, seconds, status) in results.items():
        verdict = "" if status == 0 else f"  FINDING (status {status})"
        print(f"{name:10} {executions:12,} {seconds:8.0f} {executions / seconds:9.0f} {branches:9,}{verdict}")
    print(f"{'in all':10} {sum(result.executions for result in results.values()):12,}")
    if corpus is not None:
        counted = json.loads((corpus / "executions.json").read_text())
        print(f"{'ever':10} {sum(counted.values()):12,}")
    return int(any(result.status for result in results.values()))


def _work(name: str, arguments: list[str]) -> int:
    """In the worker: never comes back, the fuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(GUIDED_BY)):
        for module in GUIDED_BY:
            importlib.import_module(module)
        target = importlib.import_module(TARGETS[name])
    atheris.Setup([name, *arguments], target.check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(_work(sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == ["--worker"] else main())
