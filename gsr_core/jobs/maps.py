"""Maps of a bundle's samples, with the head of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.gradients.maps import MapConfig, compute_map
from gsr_core.linear.head import Head
from gsr_core.runs.store import Run, open_run
from gsr_core.workspace import Workspace

__all__ = ["draw_map", "map_head"]


def map_head(bundle: Bundle, run: Run | None) -> Head | None:
    """Return the head whose gradients to draw: the run's, else the backbone's own, else None."""
    arrays = run.head() if run is not None else bundle.head
    return None if arrays is None else Head(*(torch.from_numpy(part) for part in arrays))


def draw_map(
    workspace: Workspace,
    config: dict[str, Any],
    *,
    run_id: str | None,
    bundle: str,
    progress: Callable[[float, str], None] | None = None,
) -> pd.DataFrame:
    """Compute a map from plain values, or read it if it is known.

    Args:
        workspace: Where maps are kept.
        config: Fields of a `MapConfig`.
        run_id: The run whose head to use, or None for the backbone's own.
        bundle: Name of the bundle.
        progress: Told the fraction done and what is being done.
    """
    opened = open_bundle(workspace, bundle)
    run = None if run_id is None else open_run(workspace, run_id)
    head = map_head(opened, run)
    return compute_map(workspace, opened, head, MapConfig.model_validate(config), progress)
