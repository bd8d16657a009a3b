"""Whether the browser tests fail by chance: run them many times, some beside busy processes.

    python benchmarks/steadiness.py [--rounds 10] [--beside 5] [--busy 4] [TESTS ...]

Prints a line a round: what else the machine did, tests passed and failed, and the seconds; below it
what failed, and why. The last rounds are those beside `--busy` processes that do nothing but
compute. A failed test is not run again here, so that each failure counts. Exit status 1 if any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]


def spin() -> None:
    """Compute for ever."""
    while True:
        pass


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes busy."""
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()


def run(tests: list[str]) -> tuple[int, list[str]]:
    """Run tests in two processes; return how many passed, and what failed and why."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "--quiet", "--numprocesses=2"),
                *("--reruns=0", f"--junitxml={report}", *tests),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {}
    for case in cases:
        for fault in (*case.iterfind("failure"), *case.iterfind("error")):
            failed[name_of(case)] = " ".join((fault.get("message") or "").split())[:300]
    passed = {name_of(case) for case in cases} - set(failed)
    return len(passed), [f"{name}: {reason}" for name, reason in sorted(failed.items())]


def name_of(case: ElementTree.Element) -> str:
    """Return the name of a test."""
    return f"{case.get('classname')}::{case.get('name')}"


def main() -> None:
    """Read the command line and report round by round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--beside", type=int, help="rounds beside busy processes; half by default")
    parser.add_argument("--busy", type=int, default=4, help="how many these are")
    parser.add_argument("tests", nargs="*", default=["tests/browser"])
    arguments = parser.parse_args()
    beside = arguments.rounds // 2 if arguments.beside is None else arguments.beside
    print("round  busy  passed  failed  seconds")
    failures = 0
    for number in range(1, arguments.rounds + 1):
        processes = arguments.busy if number > arguments.rounds - beside else 0
        began = time.monotonic()
        with busy(processes):
            passed, failed = run(arguments.tests)
        failures += len(failed)
        print(
            f"{number:5}  {processes:4}  {passed:6}  {len(failed):6}"
            f"  {time.monotonic() - began:7.0f}",
            *failed,
            sep="\n       ",
            flush=True,
        )
    print(f"{failures} failures in {arguments.rounds} rounds")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
