"""Measuring the inputs of a bundle, as a job."""

from __future__ import annotations

from gsr_core.jobs.base import Job
from gsr_core.progress import Report, ShouldStop
from gsr_core.workspace import Workspace

__all__ = ["MeasureJob"]


class MeasureJob(Job):
    """Measure the inputs of a bundle and keep what was found.

    Attributes:
        bundle: Name or directory of the bundle.
    """

    kind = "measure"
    keyed = "bundle"

    bundle: str

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Measure the inputs unless that was done."""
        from gsr_core.data.bundle import open_bundle
        from gsr_core.scanning.measured import measure_inputs

        bundle = open_bundle(workspace, self.bundle)
        measure_inputs(workspace, bundle, progress=report, should_stop=should_stop)

    def words(self) -> list[str]:
        """Return the words of `gsr scan`, which measures first."""
        return ["scan", self.bundle]
