"""A clustering as a job."""

from __future__ import annotations

from gsr_core.clusterings.request import ClusteringRequest
from gsr_core.inference.registry import INFERENCES
from gsr_core.jobs.base import Job
from gsr_core.jobs.command import pairs
from gsr_core.progress import Report, ShouldStop
from gsr_core.workspace import Workspace

__all__ = ["ClusterJob"]


class ClusterJob(Job):
    """Compute a clustering and keep it.

    Attributes:
        request: All that it depends on.
    """

    kind = "cluster"
    keyed = "request.name"

    request: ClusteringRequest

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Compute the clustering unless it is there."""
        from gsr_core.clusterings.compute import compute_clustering

        compute_clustering(workspace, self.request, progress=report)

    def words(self) -> list[str]:
        """Return the words of `gsr cluster`; nothing for the clusters of a run on other rows."""
        request, usual = self.request, INFERENCES[self.request.inference]()
        if request.seed or request.variation:
            return []
        changed = {
            key: value for key, value in request.settings.items() if value != getattr(usual, key)
        }
        words = ["cluster", request.bundle, "--with", request.inference]
        words += pairs("--set", changed)
        return words + (["--run", request.run] if request.run else [])
