"""A map that is too slow to compute while a page waits, as a job."""

from __future__ import annotations

from gsr_core.data.bundle import open_bundle
from gsr_core.jobs.base import Job
from gsr_core.maps.config import OF_A_HEAD, MapConfig
from gsr_core.maps.heads import WhichHead
from gsr_core.progress import Report, ShouldStop
from gsr_core.runs.store import open_run
from gsr_core.workspace import Workspace

__all__ = ["MapJob"]


class MapJob(Job):
    """Compute a map and keep it.

    Attributes:
        config: The map.
        run_id: The run whose head, data and influence to use, or None for the bundle's own.
        bundle: Name or directory of the bundle.
        which: As in `map_head`.
    """

    kind = "map"
    keyed = "config.digest"

    config: MapConfig
    run_id: str | None
    bundle: str
    which: WhichHead = "run"

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Compute the map unless it is there."""
        from gsr_core.maps.compute import compute_map
        from gsr_core.maps.heads import map_head, map_profile

        bundle = open_bundle(workspace, self.bundle)
        run = None if self.run_id is None else open_run(workspace, self.run_id)
        bundle = bundle if run is None else run.seen(bundle)
        head = map_head(bundle, run, self.which) if self.config.space in OF_A_HEAD else None
        profile = map_profile(run) if run and self.config.space == "influence" else None
        compute_map(workspace, bundle, head, self.config, report, profile=profile)
