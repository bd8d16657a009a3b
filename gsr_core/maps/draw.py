"""A map from plain values."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gsr_core.data.bundle import open_bundle
from gsr_core.maps.compute import compute_map
from gsr_core.maps.config import MapConfig
from gsr_core.maps.heads import WhichHead, map_head, map_profile
from gsr_core.progress import Report
from gsr_core.runs.store import open_run
from gsr_core.workspace import Workspace

__all__ = ["draw_map"]


def draw_map(
    workspace: Workspace,
    config: dict[str, Any],
    *,
    run_id: str | None,
    bundle: str,
    which: WhichHead = "run",
    progress: Report | None = None,
) -> pd.DataFrame:
    """Compute a map from plain values, or read it if it is stored.

    Args:
        workspace: Where maps are kept.
        config: Fields of a `MapConfig`.
        run_id: The run whose head, data and influence to use, or None for the bundle's own.
        bundle: Name of the bundle.
        which: As in `map_head`.
        progress: Called with the fraction done and what is being done.
    """
    data = open_bundle(workspace, bundle)
    run = None if run_id is None else open_run(workspace, run_id)
    settings = MapConfig.model_validate(config)
    of_a_head = settings.space in ("gradients", "logits")
    head = map_head(data, run, which) if of_a_head else None
    profile = map_profile(run) if run is not None and settings.space == "influence" else None
    return compute_map(workspace, data, head, settings, progress, profile=profile)
