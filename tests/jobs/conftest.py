import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.jobs.queue import _started
from gsr_core.runs.store import Run, create_run
from gsr_core.workspace import Workspace

PATIENCE = 120
"""Seconds that a busy machine may take for what takes a few."""


def worker_pids(workspace: Workspace) -> list[int]:
    return [int(file.read_text()) for file in workspace.jobs.glob("worker-*.pid")]


def kill(pid: int) -> None:
    """Kill a worker and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for process in _started.values():
        if process.pid == pid:
            process.wait()


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with the bundle `tiny`, whose workers are killed in the end."""
    rng = np.random.default_rng(0)
    group = np.tile([0, 1, 2, 3], 40)
    split = np.repeat(["heldout", "target", "val", "test"], 40)
    features = rng.normal(size=(160, 4)) + group[:, None]
    np.savez(tmp_path / "t.npz", features=features, y=group // 2, group=group, split=split)
    workspace = Workspace.at(tmp_path / "workspace")
    import_data(
        workspace, make_plan(name="tiny", reader="npz", settings={"path": str(tmp_path / "t.npz")})
    )
    yield workspace
    for pid in worker_pids(workspace):
        kill(pid)


@pytest.fixture
def make(workspace: Workspace) -> Callable[..., Run]:
    """A run that waits; it takes about a second."""

    def make(steps: int = 200) -> Run:
        return create_run(workspace, "tiny", "gsr", {"steps": steps}, device="cpu")

    return make
