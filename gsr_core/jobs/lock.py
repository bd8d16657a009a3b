"""Who works on a queue: the lock and the process id of its worker.

It imports next to nothing, so that a new worker takes the lock before its seconds of imports and
nobody starts a second one meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from gsr_core.workspace import Workspace

__all__ = [
    "BACKGROUND",
    "IMPORTS",
    "STUDIES",
    "worker_alive",
    "worker_file",
    "worker_lock",
]

BACKGROUND = "background"
"""The queue of everything that must not keep a run waiting."""

IMPORTS = "imports"
"""The queue of imports, which may take hours and must not keep a map waiting either."""

STUDIES = "studies"
"""The queue of studies and sweeps, which are many runs and must not keep a single run waiting."""


def worker_file(workspace: Workspace, name: str, suffix: str) -> Path:
    """Return a file of a queue's worker: `lock`, `pid` or `log`."""
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    return workspace.jobs / f"worker-{name.replace(':', '-')}.{suffix}"


def worker_lock(workspace: Workspace, name: str) -> FileLock:
    """Return the lock that a queue's worker holds as long as it lives."""
    return FileLock(worker_file(workspace, name, "lock"), timeout=0)


def worker_alive(workspace: Workspace, name: str) -> bool:
    """Return whether a queue has a worker."""
    try:
        with worker_lock(workspace, name):
            return False
    except Timeout:
        return True
