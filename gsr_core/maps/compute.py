"""Maps and neighbour graphs of a bundle, kept by the digest of all that they depend on.

A map is `<workspace>/maps/<digest>.parquet` with the columns `row` (position in the bundle), `x`,
`y` and, in three dimensions, `z`. A graph is `<workspace>/graphs/<digest>.npz` with `indices` and
`distances` of the k nearest others of each row, rows in the order of the map's, and `exact`. The
digests cover the bundle's content, the numbers of the head or of the influence, and the settings,
so that neither is ever out of date and equal requests share one file. All maps of a space share
its graph, which does not depend on how the space is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from gsr_core.data.bundle import Bundle
from gsr_core.files import replace_file
from gsr_core.gradients.graph import Report
from gsr_core.gradients.neighbours import Space as Rows
from gsr_core.gradients.projections import FIT_LIMIT, pca_map, umap_map
from gsr_core.gradients.reduction import N_COLUMNS
from gsr_core.gradients.representations import (
    CentredGradients,
    Gradients,
    project,
    unit_rows,
)
from gsr_core.linear.head import Head
from gsr_core.maps.config import InfluenceProfile, MapConfig
from gsr_core.maps.graphs import graph_of_space
from gsr_core.maps.rows import check_given, map_rows, space_rows
from gsr_core.progress import silent
from gsr_core.workspace import Workspace

__all__ = ["compute_map", "load_map", "map_path"]


def map_path(workspace: Workspace, config: MapConfig) -> Path:
    """Return where a map is kept."""
    return workspace.maps / f"{config.digest}.parquet"


def load_map(workspace: Workspace, config: MapConfig) -> pd.DataFrame | None:
    """Return a map if it was computed before: `row` int64; `x`, `y` and perhaps `z` float32."""
    try:
        return pd.read_parquet(map_path(workspace, config))
    except FileNotFoundError:
        return None


def compute_map(
    workspace: Workspace,
    bundle: Bundle,
    head: Head | None,
    config: MapConfig,
    progress: Report | None = None,
    *,
    profile: InfluenceProfile | None = None,
) -> pd.DataFrame:
    """Return a map, from the workspace if it is there; else compute it and keep it.

    Args:
        workspace: Where maps are kept.
        bundle: The data that `config` names.
        head: The head that `config` names, if its space has one.
        config: What to draw.
        progress: Called with the fraction done and what is being done.
        profile: The influence that `config` names, if that is its space.

    Raises:
        SettingError: If bundle, head or influence is not the one of `config`, or no row is left to
            draw.
    """
    check_given(bundle, head, config, profile)
    if (stored_map := load_map(workspace, config)) is not None:
        return stored_map
    tell = progress or silent
    rows = map_rows(bundle, config, profile=profile)
    tell(0.0, f"Computing {config.space} of {len(rows):,} rows")
    space = space_rows(bundle, head, config, profile=profile)
    matrix = _columns(space, config)
    if config.method == "pca":
        tell(0.5, "Computing PCA")
        places = pca_map(matrix, config.seed or 0, dimensions=config.dimensions)
    else:
        graph = None
        if 1 < len(rows) <= FIT_LIMIT:
            graph = graph_of_space(
                workspace,
                config,
                space,
                config.n_neighbors - 1,
                lambda fraction, text: tell(0.1 + 0.2 * fraction, text),
            )
        places = umap_map(
            matrix,
            metric=config.metric,
            n_neighbors=config.n_neighbors,
            min_dist=config.min_dist,
            dimensions=config.dimensions,
            seed=config.seed,
            graph=graph,
            strata=bundle.group_labels[rows].astype(str),
            progress=lambda fraction, text: tell(0.3 + 0.7 * fraction, text),
        )
    columns: dict[str, Any] = dict(zip("xyz", places.T, strict=False))
    frame = pd.DataFrame({"row": rows, **columns})
    workspace.maps.mkdir(parents=True, exist_ok=True)
    with replace_file(map_path(workspace, config)) as temporary:
        frame.to_parquet(temporary, index=False)
    tell(1.0, "Done")
    return frame


def _columns(space: Rows, config: MapConfig) -> torch.Tensor | np.ndarray:
    """Return the matrix to draw: rows at length one where the metric is cosine."""
    cosine = config.metric == "cosine"
    if isinstance(space, Gradients | CentredGradients):
        columns = project(space.unit() if cosine else space, N_COLUMNS, config.seed or 0)
        return columns.float()
    matrix = torch.as_tensor(space)
    return unit_rows(matrix) if cosine else matrix
