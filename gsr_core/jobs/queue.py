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
from typing import Any

from huey import SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer

from gsr_core.errors import DeviceError
from gsr_core.jobs.lock import BACKGROUND, job_queue, worker_alive, worker_file
from gsr_core.jobs.state import JobState, keep_arguments, read_job, write_job
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

__all__ = [
    "BACKGROUND",
    "ensure_run_worker",
    "ensure_worker",
    "open_queue",
    "queue_of",
    "start_job",
    "submit",
]


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


def queue_of(device: str) -> str:
    """Return the queue of the device that `device`, perhaps `auto`, means on this machine."""
    from gsr_core.compute import pick

    chosen = pick(device).device
    return f"cuda:{chosen.index or 0}" if chosen.type == "cuda" else chosen.type


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


def submit(run: Run) -> None:
    """Queue a waiting run on its device and see that a worker is there."""
    name = queue_of(run.config.device)
    _enqueue(run.workspace, name, "run", {"run_id": run.run_id})


def ensure_run_worker(run: Run) -> None:
    """See that a waiting run has a worker: the one it was queued for may have died since.

    A new worker takes up by itself every run that waits on its device. A run that waits on a
    device which this machine does not have is left to the machine that has it.
    """
    try:
        name = queue_of(run.config.device)
    except DeviceError:
        return
    ensure_worker(run.workspace, name)


def start_job(workspace: Workspace, kind: str, key: str, arguments: dict[str, Any]) -> JobState:
    """Start a background job unless the same one is under way.

    Args:
        workspace: Where.
        kind: A task of the worker: `example`, `map`, `cluster`, `import`, `study` or `sweep`.
        key: Identifies the job among its kind.
        arguments: Passed to the task; plain values only.
    """
    state = read_job(workspace, kind, key)
    if state is not None and state.active:
        # It may have been queued for a worker that died since.
        ensure_worker(workspace, job_queue(kind))
        return state
    state = JobState(kind=kind, key=key, text="Waiting for the worker")
    keep_arguments(workspace, kind, key, arguments)
    write_job(workspace, state)
    _enqueue(workspace, job_queue(kind), kind, {"key": key, **arguments})
    return state


def _enqueue(workspace: Workspace, queue: str, task: str, arguments: dict[str, Any]) -> None:
    from gsr_core.jobs.tasks import make_tasks

    make_tasks(workspace, open_queue(workspace, queue))[task](**arguments)
    ensure_worker(workspace, queue)
