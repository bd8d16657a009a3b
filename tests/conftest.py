"""Fixtures that several test modules share, how tests are shared out, and what chance may fail."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported, and for every process that a test starts: each problem here is small,
# and threads that wait for each other make it slow.
os.environ["OMP_NUM_THREADS"] = "1"
# WILDS asks a package index, in a thread, whether it is the newest; a warning there fails whatever
# test is at work.
os.environ["OUTDATED_IGNORE"] = "1"

import pytest
from filelock import FileLock

import gsr_core  # noqa: F401  It sets how threads wait, before torch is imported.

if TYPE_CHECKING:  # Processes that only look after others need no torch.
    from gsr_core.compute import Compute
    from gsr_core.data.bundle import Bundle

FIRST = ("browser", "features", "cli", "jobs")
"""Where the longest tests are: what takes long and begins last leaves the other processes idle."""

MOST_RERUNS = 10
"""Where more tests than this fail, something is broken, and running them again costs time."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cpu, cuda, mps or auto")


def is_whole(config: pytest.Config) -> bool:
    """Whether pytest was asked for the whole suite, as the gate asks."""
    chosen = config.option.keyword or config.option.markexpr
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not chosen


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite in several processes, and a part of it, or a debugger, in this one.

    There is one more than cores, because a test in a browser waits more than it computes.
    """
    return min((os.cpu_count() or 1) + 1, 4) if is_whole(config) else 0


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """In the whole suite, run what fails once more; who works on a part sees it fail at once."""
    if is_whole(config) and config.option.reruns is None and not config.option.usepdb:
        config.option.reruns = 1
        config.option.max_suite_reruns = MOST_RERUNS
        config.option.rerun_show_tracebacks = True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name loudly and count what failed and then passed."""
    stats = terminalreporter.stats
    again = {report.nodeid for report in stats.get("rerun", [])}
    failed = {report.nodeid for kind in ("failed", "error") for report in stats.get(kind, [])}
    if flaky := sorted(again - failed):
        terminalreporter.section("FLAKY", sep="!", yellow=True, bold=True)
        for name in flaky:
            terminalreporter.write_line(f"FLAKY (passed on a second run): {name}", yellow=True)
        terminalreporter.write_line(f"FLAKY: {len(flaky)} in all", yellow=True, bold=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    rank = {folder: number for number, folder in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(here).parts[0], len(FIRST)))


@pytest.fixture
def exact_solves_stall(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let every solve as exact as an influence that is shown fall short; return what is said."""
    from gsr_core.linear.iterative import SolveEnding
    from gsr_core.linear.solver import Solver

    real = Solver.solve

    def solve(self, *args, tolerance, **kwargs):
        solution = real(self, *args, tolerance=tolerance, **kwargs)
        return solution if tolerance > 1e-9 else replace(solution, ending=SolveEnding.STALLED)

    monkeypatch.setattr(Solver, "solve", solve)
    return f"The influence is not solved: {SolveEnding.STALLED}."


@pytest.fixture(scope="session")
def compute(request: pytest.FixtureRequest) -> Compute:
    from gsr_core.compute import pick

    return pick(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Bundle:
    """The built-in example at seed 0; it takes seconds to make, so one process makes it for all."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.examples import coloured_digits
    from gsr_core.workspace import Workspace

    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    workspace = Workspace(shared / "digits")
    with FileLock(shared / "digits.lock"):
        if (workspace.bundles / "coloured-digits").exists():
            return open_bundle(workspace, "coloured-digits")
        return coloured_digits(workspace)
