"""An import as a job."""

from __future__ import annotations

from gsr_core.ingest.plan import Plan, make_plan
from gsr_core.ingest.words import import_words
from gsr_core.jobs.base import Job
from gsr_core.jobs.lock import IMPORTS
from gsr_core.progress import Report, ShouldStop
from gsr_core.workspace import Workspace

__all__ = ["ImportJob"]


class ImportJob(Job):
    """Import data by a plan.

    Attributes:
        plan: What and how.
        overwrite: Replace a bundle of that name.
    """

    kind = "import"
    queue = IMPORTS
    keyed = "plan.name"

    plan: Plan
    overwrite: bool = False

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Make the bundle."""
        from gsr_core.ingest.importing import import_data

        import_data(
            workspace,
            # An earlier version may have stored it.
            make_plan(**self.plan.model_dump(mode="json")),
            overwrite=self.overwrite,
            progress=report,
            should_stop=should_stop,
        )

    def words(self) -> list[str]:
        """Return the words of `gsr import`."""
        return import_words(self.plan) + ["--overwrite"] * self.overwrite
