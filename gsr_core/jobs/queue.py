"""The queues of jobs, and the worker processes that empty them.

The queue itself is Huey with its SQLite storage: a small, well-kept library without a server,
whose database is a file in the workspace. A queue has one worker process with one worker thread,
so that a device does one job at a time and the rest wait in order; processes are detached from
whoever started them, so that closing the dashboard stops nothing.

Queues are `cpu`, `cuda:0` and so on for runs, `background` for what must not keep a run waiting
(preparing the example, computing maps, clustering), `imports` for what may take hours, and
`studies`, for sweeps too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from huey import SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer

from gsr_core.errors import DiskFullError
from gsr_core.files import disk_full
from gsr_core.jobs.base import Job
from gsr_core.jobs.lock import worker_alive, worker_file
from gsr_core.jobs.state import JobState, forget_job, keep_job, read_job, write_job
from gsr_core.jobs.tasks import make_tasks
from gsr_core.workspace import Workspace

__all__ = ["enqueue", "ensure_worker", "open_queue", "start_job"]


class _Json(Serializer):
    """Keeps tasks as JSON: reading Huey's default, pickle, runs whatever the file says."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps(data._asdict()).encode()

    def _deserialize(self, data: bytes) -> Message:
        return Message(**json.loads(data))


_started: dict[tuple[Workspace, str], subprocess.Popen[bytes]] = {}
"""The last worker of each queue that this process started; it may have ended."""


def open_queue(workspace: Workspace, name: str) -> SqliteHuey:
    """Open a queue of a workspace; results are not kept, since jobs write their own."""
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    return SqliteHuey(
        name=name,
        filename=str(workspace.jobs / "queue.sqlite3"),
        results=False,
        serializer=_Json(),
        timeout=30,
    )


def ensure_worker(workspace: Workspace, name: str) -> None:
    """Start a queue's worker unless one is alive. Returns at once: asking often costs nothing."""
    started = _started.get((workspace, name))
    if started is not None and started.poll() is None:
        return
    if worker_alive(workspace, name):
        return
    with worker_file(workspace, name, "log").open("ab") as output:
        _started[workspace, name] = subprocess.Popen(
            [sys.executable, "-m", "gsr_core.jobs.worker", str(workspace.root), name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def enqueue(workspace: Workspace, job: Job) -> None:
    """Put a job at the end of its queue and see that a worker is there.

    Raises:
        DiskFullError: If there is no room for it; then it waits nowhere.
    """
    queue = job.own_queue()
    try:
        with disk_full("a job for the worker"):
            make_tasks(workspace, open_queue(workspace, queue))[job.kind](**job.message())
    except DiskFullError:
        job.give_up(workspace)
        raise
    ensure_worker(workspace, queue)


def start_job(workspace: Workspace, job: Job) -> JobState:
    """Start a tracked job unless the same one is under way, and say how it stands.

    Raises:
        DiskFullError: If there is no room for it; then it waits nowhere.
    """
    state = read_job(workspace, job.kind, job.key)
    if state is not None and state.active:
        # It may have been queued for a worker that died since.
        ensure_worker(workspace, job.own_queue())
        return state
    state = JobState(kind=job.kind, key=job.key, text="Waiting for the worker")
    try:
        with disk_full("a job"):
            keep_job(workspace, job)
            write_job(workspace, state)
        enqueue(workspace, job)
    except DiskFullError:
        forget_job(workspace, job.kind, job.key)
        raise
    return state
