"""Fixtures that several test modules share, and how the tests are shared out to processes."""

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from gsr_core.compute import Compute, pick
from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.examples import coloured_digits
from gsr_core.workspace import Workspace

FIRST = ("browser", "features", "cli", "jobs")
"""Where the longest tests are: what takes long and begins last leaves the other processes idle."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cpu, cuda, mps or auto")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite in several processes, and a part of it, or a debugger, in this one."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    chosen = config.option.keyword or config.option.markexpr
    return min(os.cpu_count() or 1, 4) if whole and not chosen else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    rank = {folder: number for number, folder in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(here).parts[0], len(FIRST)))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Every problem here is small, and threads that wait for each other make it slow."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def compute(request: pytest.FixtureRequest) -> Compute:
    return pick(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Bundle:
    """The built-in example at seed 0; it takes seconds to make, so one process makes it for all."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    workspace = Workspace(shared / "digits")
    with FileLock(shared / "digits.lock"):
        if (workspace.bundles / "coloured-digits").exists():
            return open_bundle(workspace, "coloured-digits")
        return coloured_digits(workspace)
