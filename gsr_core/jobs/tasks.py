"""What a worker can do. Each task is queued by name with plain arguments."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from filelock import Timeout
from huey import SqliteHuey

from gsr_core.errors import GsrError, RunStateError
from gsr_core.jobs.state import JobState, job_lock, stop_requested, write_job
from gsr_core.progress import Report, Status
from gsr_core.runs.store import open_run
from gsr_core.workspace import Workspace

__all__ = ["make_tasks"]


def make_tasks(workspace: Workspace, queue: SqliteHuey) -> dict[str, Any]:
    """Return the tasks of a queue by name; calling one queues it.

    The heavy imports are inside the tasks, so that queueing one costs nothing.
    """

    @queue.task(name="run")
    def run(run_id: str) -> None:
        from gsr_core.runs.execute import execute

        try:
            execute(open_run(workspace, run_id))
        except RunStateError:
            return  # Another process has it.

    @queue.task(name="example")
    def example(key: str, seed: int) -> None:
        from gsr_core.examples import coloured_digits

        with _job(workspace, "example", key) as report:
            coloured_digits(workspace, seed=seed, name=key, progress=report)

    @queue.task(name="map")
    def map_(
        key: str,
        config: dict[str, Any],
        run_id: str | None,
        bundle: str,
        which: Literal["run", "backbone", "refit", "early"] = "run",
    ) -> None:
        from gsr_core.maps.draw import draw_map

        with _job(workspace, "map", key) as report:
            draw_map(workspace, config, run_id=run_id, bundle=bundle, which=which, progress=report)

    @queue.task(name="cluster")
    def cluster(key: str, request: dict[str, Any]) -> None:
        from gsr_core.clusterings.compute import compute_clustering
        from gsr_core.clusterings.request import ClusteringRequest

        with _job(workspace, "cluster", key) as report:
            compute_clustering(
                workspace, ClusteringRequest.model_validate(request), progress=report
            )

    @queue.task(name="import")
    def import_(key: str, plan: dict[str, Any], overwrite: bool) -> None:
        from gsr_core.ingest.importing import import_data
        from gsr_core.ingest.plan import make_plan

        with _job(workspace, "import", key) as report:
            if stop_requested(workspace, "import", key):
                raise RunStateError("the import was stopped before it began")
            import_data(
                workspace,
                make_plan(**plan),
                overwrite=overwrite,
                progress=report,
                should_stop=lambda: stop_requested(workspace, "import", key),
            )

    @queue.task(name="study")
    def study(key: str) -> None:
        from gsr_core.experiments.strength import compute_study, failure_message
        from gsr_core.experiments.study import open_study

        with _job(workspace, "study", key) as report:
            failed = compute_study(
                open_study(workspace, key),
                progress=report,
                should_stop=lambda: stop_requested(workspace, "study", key),
            )
            if failed:
                raise RunStateError(failure_message(failed))

    @queue.task(name="sweep")
    def sweep(key: str, jobs: int) -> None:
        from gsr_core.experiments.sweep import open_sweep
        from gsr_core.experiments.sweep_loop import run_sweep

        with _job(workspace, "sweep", key) as report:
            run_sweep(
                open_sweep(workspace, key),
                jobs=jobs,
                progress=report,
                should_stop=lambda: stop_requested(workspace, "sweep", key),
            )

    return {
        "run": run,
        "example": example,
        "map": map_,
        "cluster": cluster,
        "import": import_,
        "study": study,
        "sweep": sweep,
    }


@contextmanager
def _job(workspace: Workspace, kind: str, key: str) -> Iterator[Report]:
    """Hold a job's lock, pass its progress on, and write down how it ended."""
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

    try:
        with job_lock(workspace, kind, key):
            write_job(workspace, state)
            try:
                yield report
                outcome = {"status": Status.FINISHED, "fraction": 1.0, "text": "Done"}
            except GsrError as error:
                asked = isinstance(error, RunStateError) and stop_requested(workspace, kind, key)
                outcome = {
                    "status": Status.CANCELLED if asked else Status.FAILED,
                    "text": str(error),
                }
            except Exception as error:
                traceback.print_exc()
                outcome = {"status": Status.FAILED, "text": f"{type(error).__name__}: {error}"}
            write_job(workspace, state.model_copy(update=outcome))
    except Timeout:
        return  # The same job is under way.
