"""How a worker carries out a job that was queued.

The queue stores a task by the name of this module and the kind of its job, with the job's message.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from filelock import Timeout
from huey import SqliteHuey
from pydantic import ValidationError

from gsr_core.errors import GsrError, RunNotFoundError, RunStateError
from gsr_core.files import is_full
from gsr_core.jobs.registry import JOBS, job_class
from gsr_core.jobs.state import JobState, job_lock, stop_requested, write_job
from gsr_core.progress import Status, never, silent
from gsr_core.settings import what_is_wrong
from gsr_core.workspace import Workspace

__all__ = ["make_tasks", "perform"]


def make_tasks(workspace: Workspace, queue: SqliteHuey) -> dict[str, Callable[..., Any]]:
    """Return the tasks of a queue by kind of job; calling one with a job's message queues it."""

    def task(kind: str) -> Callable[..., Any]:
        return queue.task(name=kind)(lambda **message: perform(workspace, kind, message))

    return {kind: task(kind) for kind in JOBS}


def perform(workspace: Workspace, kind: str, message: Mapping[str, Any]) -> None:
    """Do a job: hold its lock, pass its progress on, and write down how it ended.

    Args:
        workspace: Where.
        kind: Of the job.
        message: As `Job.message` returned it.
    """
    arguments = dict(message)
    key = arguments.pop("key", "")
    made = job_class(kind)
    if not made.tracked:
        # What waited may have been deleted meanwhile.
        with suppress(RunNotFoundError):
            made.restore(workspace, key, arguments).run(workspace, silent, never)
        return
    state = JobState(kind=kind, key=key, status=Status.RUNNING, text="Starting")
    written = 0.0

    def report(fraction: float, text: str) -> None:
        nonlocal written
        # Ten times a second is as much as anybody can see.
        if time.monotonic() - written > 0.1:
            written = time.monotonic()
            write_job(
                workspace, state.model_copy(update={"fraction": min(fraction, 1.0), "text": text})
            )

    def stopped() -> bool:
        return stop_requested(workspace, kind, key)

    try:
        with job_lock(workspace, kind, key):
            write_job(workspace, state)
            try:
                if stopped():
                    outcome = {
                        "status": Status.CANCELLED,
                        "text": f"the {kind} was stopped before it began",
                    }
                else:
                    made.restore(workspace, key, arguments).run(workspace, report, stopped)
                    outcome = {"status": Status.FINISHED, "fraction": 1.0, "text": "Done"}
            except Exception as error:
                outcome = _failure(error, stopped=stopped())
            write_job(workspace, state.model_copy(update=outcome))
    except Timeout:
        return  # The same job is under way.


def _failure(error: Exception, *, stopped: bool) -> dict[str, Any]:
    """Return how a job stands that ended with an error, as changes of its state."""
    if is_full(error):
        return {
            "status": Status.FAILED,
            "text": "The disk was full; make room and start it again.",
        }
    if isinstance(error, ValidationError):
        return {"status": Status.FAILED, "text": what_is_wrong(error)}
    if isinstance(error, GsrError):
        asked = isinstance(error, RunStateError) and stopped
        return {"status": Status.CANCELLED if asked else Status.FAILED, "text": str(error)}
    traceback.print_exception(error)
    return {"status": Status.FAILED, "text": f"{type(error).__name__}: {error}"}
