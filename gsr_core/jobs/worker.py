"""The worker process of one queue: `python -m gsr_core.jobs.worker WORKSPACE QUEUE`.

It stays, with everything imported, so that a job starts at once, and leaves by itself after an
hour without work.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from gsr_core.jobs.lock import BACKGROUND, IMPORTS, STUDIES, worker_file, worker_lock
from gsr_core.workspace import Workspace

__all__ = ["main"]

_PATIENCE = 0.5
"""Seconds to wait for the lock, which whoever looks for a worker holds for a moment."""

_IDLE_LIMIT = 3600.0
"""Seconds without a job after which the worker leaves."""


def main(root: str, name: str) -> None:
    """Work until there is nothing to do for an hour or a signal comes."""
    workspace = Workspace.at(Path(root))
    try:
        with worker_lock(workspace, name).acquire(timeout=_PATIENCE):
            with suppress(OSError):  # The disk may be full.
                worker_file(workspace, name, "pid").write_text(f"{os.getpid()}\n")
            _work(workspace, name)
    except Timeout:
        return  # Another worker was faster.


def _work(workspace: Workspace, name: str) -> None:
    from gsr_core.jobs.queue import open_queue
    from gsr_core.jobs.registry import job_class
    from gsr_core.jobs.tasks import make_tasks

    queue = open_queue(workspace, name)
    tasks = make_tasks(workspace, queue)
    if name not in (BACKGROUND, IMPORTS, STUDIES):
        # A device does runs; those that wait for it may have been lost with the worker before.
        queued = [task.kwargs for task in queue.pending()]
        for job in job_class("run").waiting(workspace, name):
            if job.message() not in queued:
                tasks[job.kind](**job.message())
    busy = threading.Event()
    last = time.monotonic()

    @queue.pre_execute(name="started")
    def started(task: object) -> None:
        busy.set()

    @queue.post_execute(name="ended")
    def ended(task: object, value: object, error: object) -> None:
        nonlocal last
        last = time.monotonic()
        busy.clear()

    def leave_when_idle() -> None:
        while busy.is_set() or time.monotonic() - last < _IDLE_LIMIT:
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=leave_when_idle, daemon=True).start()
    with suppress(OSError):
        print(
            f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} process {os.getpid()} is ready"
        )
    queue.create_consumer(
        workers=1, periodic=False, initial_delay=0.05, backoff=1.1, max_delay=0.2
    ).run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
