"""How a background job stands: one small file, replaced whole."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from gsr_core.errors import DiskFullError, GsrError
from gsr_core.files import disk_full, replace_file
from gsr_core.jobs.lock import worker_alive
from gsr_core.jobs.registry import job_class
from gsr_core.progress import Status
from gsr_core.workspace import Workspace

if TYPE_CHECKING:
    from gsr_core.jobs.base import Job

__all__ = [
    "JobState",
    "forget_job",
    "job_lock",
    "keep_job",
    "kept_job",
    "list_jobs",
    "read_job",
    "request_stop",
    "stop_requested",
    "write_job",
]

_START_LIMIT = 300.0
"""Seconds after which a job that has no worker is given up."""


class JobState(BaseModel):
    """A background job.

    Attributes:
        kind: What it does.
        key: Which one of its kind it is.
        status: See `Status`.
        fraction: How far it is, in [0, 1].
        text: What it is doing, or why it failed.
        written: Time of the last change, seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    key: str
    status: Status = Status.QUEUED
    fraction: float = 0.0
    text: str = ""
    written: float = 0.0

    @property
    def active(self) -> bool:
        """Whether the job waits or is under way."""
        return self.status.active


def _stem(kind: str, key: str) -> str:
    return f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def job_lock(workspace: Workspace, kind: str, key: str) -> FileLock:
    """Return the lock that whoever does the job holds."""
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    return FileLock(workspace.jobs / f"{_stem(kind, key)}.lock", timeout=0)


def request_stop(workspace: Workspace, kind: str, key: str) -> None:
    """Ask a job to stop; what it has done stays. A new start of it takes the wish back."""
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    (workspace.jobs / f"{_stem(kind, key)}.stop").touch()


def stop_requested(workspace: Workspace, kind: str, key: str) -> bool:
    """Return whether somebody asked a job to stop."""
    return (workspace.jobs / f"{_stem(kind, key)}.stop").exists()


def write_job(workspace: Workspace, state: JobState) -> None:
    """Replace a job's state.

    Raises:
        DiskFullError: If there is no room; an empty file says so until the job is started again.
    """
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    stamped = state.model_copy(update={"written": time.time()})
    file = workspace.jobs / f"{_stem(state.kind, state.key)}.json"
    if state.status is Status.QUEUED:
        for suffix in (".stop", ".full"):
            file.with_suffix(suffix).unlink(missing_ok=True)
    try:
        with disk_full("how a job stands"), replace_file(file) as temporary:
            temporary.write_text(stamped.model_dump_json())
    except DiskFullError:
        file.with_suffix(".full").touch()
        raise


def read_job(workspace: Workspace, kind: str, key: str) -> JobState | None:
    """Return a job's state, or None if it was never started.

    A job whose process died is marked failed first, and so is one that waited for minutes while
    there is no worker; behind a worker that is busy a job may wait as long as it takes.
    """
    file = workspace.jobs / f"{_stem(kind, key)}.json"
    try:
        state = JobState.model_validate_json(file.read_text())
    except FileNotFoundError:
        return None
    found_full = state.active and file.with_suffix(".full").exists()
    lost = (
        found_full
        or state.status is Status.RUNNING
        or (
            state.status is Status.QUEUED
            and time.time() - state.written > _START_LIMIT
            and not worker_alive(workspace, job_class(kind).queue)
        )
    )
    if lost:
        try:
            with job_lock(workspace, kind, key):
                state = JobState.model_validate_json(file.read_text())
                if state.active:
                    reason = (
                        "The disk was full; make room and start it again."
                        if found_full
                        else "The process that did this ended without a word; start it again."
                    )
                    state = state.model_copy(update={"status": Status.FAILED, "text": reason})
                    with suppress(DiskFullError):
                        write_job(workspace, state)
        except Timeout:
            pass
    return state


def list_jobs(workspace: Workspace, kind: str) -> list[JobState]:
    """Return the jobs of a kind that were ever started and not forgotten, newest first."""
    found = []
    for file in workspace.jobs.glob(f"{kind}-*.json"):
        try:
            key = JobState.model_validate_json(file.read_text()).key
        except FileNotFoundError:
            continue  # Forgotten by another window meanwhile.
        state = read_job(workspace, kind, key)
        if state is not None:
            found.append(state)
    return sorted(found, key=lambda state: state.written, reverse=True)


def forget_job(workspace: Workspace, kind: str, key: str) -> None:
    """Take away what is known of a job that has ended."""
    for suffix in ("json", "arguments", "full"):
        (workspace.jobs / f"{_stem(kind, key)}.{suffix}").unlink(missing_ok=True)


def keep_job(workspace: Workspace, job: Job) -> None:
    """Write down what a job is started with, so that anybody can start it again."""
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    with replace_file(workspace.jobs / f"{_stem(job.kind, job.key)}.arguments") as temporary:
        temporary.write_text(json.dumps(job.arguments()))


def kept_job(workspace: Workspace, kind: str, key: str) -> Job | None:
    """Return a job as it was last started; None if that is not known or cannot be done again."""
    try:
        arguments = json.loads((workspace.jobs / f"{_stem(kind, key)}.arguments").read_text())
        return job_class(kind).restore(workspace, key, arguments)
    except (FileNotFoundError, ValueError, GsrError):
        return None
