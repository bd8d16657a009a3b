"""Maps: many numbers a row drawn as two or three.

PCA is linear, instant and exact. UMAP (McInnes, Healy and Melville, "UMAP: Uniform Manifold
Approximation and Projection for Dimension Reduction", 2018, https://arxiv.org/abs/1802.03426)
keeps neighbourhoods; distances between its clusters mean little.

UMAP starts from the PCA map, not from the graph's spectrum: as good a start (Kobak and Linderman,
"Initialization is critical for preserving global data structure", Nature Biotechnology 2021), and
the eigenvalue solver that can stall or fail on a graph in several pieces is never run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from torch import Tensor

from gsr_core.gradients.graph import ONE_AT_A_TIME, NeighbourGraph
from gsr_core.gradients.neighbours import Metric
from gsr_core.gradients.reduction import N_COLUMNS, as_array, leading, reduce_columns
from gsr_core.progress import Report, silent

__all__ = ["FIT_LIMIT", "Dimensions", "Report", "pca_map", "umap_map"]

Dimensions = Literal[2, 3]

FIT_LIMIT = 50_000
"""Above so many rows UMAP is fitted to a sample, and the others are placed among them."""

_KEPT_PER_STRATUM = 100
_SMALLEST = 4
"""Rows below which there is no neighbourhood to keep."""


def pca_map(
    representation: Tensor | np.ndarray, seed: int = 0, *, dimensions: Dimensions = 2
) -> np.ndarray:
    """Return the leading principal components of each row, (n, dimensions) float32.

    Each component's largest loading is positive, so that the picture does not flip.

    Args:
        representation: (n, r).
        seed: Of the random start that more than 1,024 columns need; rounding apart, it does not
            show.
        dimensions: How many components.
    """
    matrix = as_array(representation)
    return leading(matrix, dimensions, centred=True, seed=seed).astype(np.float32)


def umap_map(
    representation: Tensor | np.ndarray,
    *,
    metric: Metric = "cosine",
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    dimensions: Dimensions = 2,
    seed: int | None = 0,
    graph: NeighbourGraph | None = None,
    strata: np.ndarray | None = None,
    limit: int = FIT_LIMIT,
    progress: Report | None = None,
) -> np.ndarray:
    """Return a UMAP embedding of the rows, (n, dimensions) float32.

    More than 50 columns are first reduced to 50: by principal components, not centred where the
    metric is cosine, because centring would change the angles.

    Args:
        representation: (n, r).
        metric: Geometry of the rows.
        n_neighbors: Neighbours that each row keeps close, itself among them; fewer where there are
            not so many rows.
        min_dist: How tightly rows may be packed.
        dimensions: Coordinates of a row.
        seed: Makes the map repeatable, on one thread; None is faster on several.
        graph: The rows' neighbours if they are known, at least n_neighbors - 1 of each. Ignored
            above `limit` rows.
        strata: (n,) whatever each row should be represented by in the sample; rare values are
            kept whole where there is room.
        limit: Fit to at most so many rows, place the others.
        progress: Called with the fraction done and what is being done.

    Raises:
        SettingError: If the graph has too few neighbours.
    """
    tell = progress or silent
    matrix = as_array(representation)
    n = len(matrix)
    if n < _SMALLEST:
        return pca_map(matrix, dimensions=dimensions)
    if matrix.shape[1] > N_COLUMNS:
        tell(0.0, f"Reducing {matrix.shape[1]} columns to {N_COLUMNS}")
    matrix = reduce_columns(matrix, centred=metric != "cosine", seed=seed or 0)

    generator = np.random.default_rng(seed)
    sample = np.arange(n)
    if n > limit:
        sample = _sample(n, max(limit, _SMALLEST), strata, generator)
    n_neighbors = min(n_neighbors, len(sample) - 1)
    neighbours = None if graph is None or n > limit else _neighbours_for_umap(graph, n_neighbors)
    tell(0.05, "Loading UMAP")
    with ONE_AT_A_TIME, warnings.catch_warnings():
        # Rows are only placed among those of a sample, whose neighbours UMAP finds itself.
        warnings.filterwarnings("ignore", r"precomputed_knn\[2\]", UserWarning)
        fitting = f"Fitting UMAP to {len(sample):,} rows"
        end = 0.95 if len(sample) == n else 0.7
        model = _umap_class()(
            n_neighbors=n_neighbors,
            n_components=dimensions,
            min_dist=min_dist,
            metric=metric,
            init=_start(matrix[sample], dimensions, generator),
            random_state=seed,
            n_jobs=-1 if seed is None else 1,
            # The default drops edges between opposite directions and may leave rows without any.
            disconnection_distance=np.inf,
            precomputed_knn=(None, None, None) if neighbours is None else neighbours,
            tqdm_kwds=_epochs(lambda done: tell(0.2 + (end - 0.2) * done, fitting)),
        )
        tell(0.1, fitting)
        places = np.empty((n, dimensions), dtype=np.float32)
        places[sample] = model.fit_transform(matrix[sample])
        others = np.setdiff1d(np.arange(n), sample, assume_unique=True)
        if others.size:
            placing = f"Placing {len(others):,} more rows"
            tell(0.7, placing)
            model.tqdm_kwds = _epochs(lambda done: tell(0.85 + 0.1 * done, placing))
            places[others] = model.transform(matrix[others])
    tell(1.0, "Done")
    return places


def _neighbours_for_umap(graph: NeighbourGraph, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a graph as UMAP takes one: with the row itself as its first neighbour."""
    others = graph.first(n_neighbors - 1)
    own = np.arange(len(graph), dtype=np.int32)[:, None]
    return (
        np.hstack([own, others.indices]),
        np.hstack([np.zeros(own.shape, np.float32), others.distances]),
    )


class _Epochs:
    """A text file for tqdm to draw its bar on, which is `done of all`."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell

    def write(self, text: str) -> None:
        if match := re.search(r"(\d+) of (\d+)", text):
            self._tell(int(match[1]) / int(match[2]))

    def flush(self) -> None:
        pass


def _epochs(tell: Callable[[float], None]) -> dict[str, Any]:
    """Return the settings of UMAP's progress bar that report the fraction of its epochs instead."""
    return {"disable": False, "file": _Epochs(tell), "bar_format": "{n} of {total}"}


def _umap_class() -> type[Any]:
    with warnings.catch_warnings():
        # umap's first import says that its optional Tensorflow part is not there.
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        from umap import UMAP
    return UMAP


def _start(
    matrix: np.ndarray, dimensions: Dimensions, generator: np.random.Generator
) -> np.ndarray:
    """Return the PCA map at UMAP's scale, with noise so that no two rows start at one place."""
    start = pca_map(matrix, dimensions=dimensions)
    if (extent := np.abs(start).max()) > 0:
        start = 10 * (start / extent)
    return start + generator.normal(scale=1e-3, size=start.shape).astype(np.float32)


def _sample(
    n: int, size: int, strata: np.ndarray | None, generator: np.random.Generator
) -> np.ndarray:
    """Draw positions in proportion to the strata, at least 100 of each while there is room."""
    order = generator.permutation(n)
    if strata is None:
        return np.sort(order[:size])
    _, stratum, counts = np.unique(strata[order], return_inverse=True, return_counts=True)
    by_stratum = np.argsort(stratum, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[by_stratum] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = (rank + 0.5) / counts[stratum]
    least = min(_KEPT_PER_STRATUM, size // len(counts))
    turn[rank < least] = 0
    return np.sort(order[np.argsort(turn, kind="stable")[:size]])
