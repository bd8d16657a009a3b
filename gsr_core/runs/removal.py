"""Taking runs and bundles out of a workspace: only what nobody computes, whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import ExitStack
from pathlib import Path

from gsr_core.data.bundle import open_bundle
from gsr_core.errors import BundleError
from gsr_core.jobs.state import list_jobs
from gsr_core.runs.store import Run, list_runs
from gsr_core.workspace import Workspace

__all__ = ["delete_bundle", "delete_run", "runs_on"]


def delete_run(run: Run) -> None:
    """Delete a run and all that is stored of it.

    A queued run is cancelled by that; a study or sweep that it was part of computes it again when
    it goes on.

    Raises:
        RunStateError: If it is being computed.
    """
    with run.lock():
        _remove(run.path)


def delete_bundle(workspace: Workspace, name: str) -> int:
    """Delete a bundle of the workspace and the runs on it; return how many runs there were.

    Slices and flags are kept: they are of the content, and are there again if it is imported again.

    Args:
        workspace: Where.
        name: Of the bundle.

    Raises:
        BundleNotFoundError: If there is none.
        BundleError: If its directory is not in the workspace, or a job may be reading or replacing
            it; then nothing is deleted.
        RunStateError: If a run on it is being computed; then nothing is deleted.
    """
    bundle = open_bundle(workspace, name)
    if bundle.path.parent != workspace.bundles:
        raise BundleError(
            f"{bundle.path} is not in the workspace {workspace.root}; remove the directory yourself"
        )
    for kind, title in (("import", "import"), ("map", "map"), ("cluster", "clustering")):
        for job in list_jobs(workspace, kind):
            # Which bundle a map or a clustering reads is not in its state.
            if job.active and (kind != "import" or job.key == name):
                raise BundleError(
                    f"bundle '{name}' cannot be deleted while a job that may need it is under way "
                    f"({title}: {job.text or job.status}); wait for it, or stop it first"
                )
    runs = runs_on(workspace, name)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.lock())
        for run in runs:
            _remove(run.path)
        _remove(bundle.path)
    return len(runs)


def runs_on(workspace: Workspace, name: str) -> list[Run]:
    """Return the runs on a bundle, those on its content of before among them, newest first."""
    return [run for run in list_runs(workspace) if run.config.bundle == name]


def _remove(directory: Path) -> None:
    """Remove a directory at once for whoever looks, then file by file."""
    aside = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.tmp")
    os.rename(directory, aside)
    # Without it the directory is no run, should something in it not be removed.
    (aside / "config.json").unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
