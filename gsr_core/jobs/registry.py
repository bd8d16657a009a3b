"""Every kind of job, imported when it is first asked for."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsr_core.jobs.base import Job

__all__ = ["JOBS", "job_class"]

JOBS = {
    "run": "gsr_core.runs.job:RunJob",
    "example": "gsr_core.example_job:ExampleJob",
    "map": "gsr_core.maps.job:MapJob",
    "cluster": "gsr_core.clusterings.job:ClusterJob",
    "import": "gsr_core.ingest.job:ImportJob",
    "measure": "gsr_core.scanning.job:MeasureJob",
    "study": "gsr_core.experiments.study_job:StudyJob",
    "sweep": "gsr_core.experiments.sweep_job:SweepJob",
}
"""Module and class of each kind: a worker, or a page that queues one, imports no other."""


def job_class(kind: str) -> type[Job]:
    """Return the class of a kind of job."""
    return resolve_name(JOBS[kind])
