"""Maps: many numbers a row drawn as two.

PCA is linear, instant and exact. UMAP (McInnes, Healy and Melville, "UMAP: Uniform Manifold
Approximation and Projection for Dimension Reduction", 2018, https://arxiv.org/abs/1802.03426)
keeps neighbourhoods; distances between its clusters mean little.

UMAP starts from the PCA map, not from the graph's spectrum: as good a start (Kobak and Linderman,
"Initialization is critical for preserving global data structure", Nature Biotechnology 2021), and
the eigenvalue solver that can stall or fail on a graph in several pieces is never run.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from gsr_core.gradients.neighbours import Metric

__all__ = ["FIT_LIMIT", "Progress", "pca_map", "umap_map"]

FIT_LIMIT = 50_000
"""Above so many rows UMAP is fitted to a sample, and the others are placed among them."""

Progress = Callable[[float, str], None]
"""Told the fraction done and what is being done."""

_N_COMPONENTS = 50
_MAX_EIGH = 1024
"""Up to so many columns PCA is an eigenvalue problem, solved exactly; above, randomised."""
_KEPT_PER_STRATUM = 100
_SMALLEST = 4
"""Rows below which there is no neighbourhood to keep."""
# numba's simplest threading layer ends the process if two threads enter it at once.
_ONE_AT_A_TIME = threading.Lock()


def pca_map(representation: Tensor | np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the two leading principal components of each row, (n, 2) float32.

    Each component's largest loading is positive, so that the picture does not flip.

    Args:
        representation: (n, r).
        seed: Of the random start that more than 1,024 columns need; rounding apart, it does not
            show.
    """
    return _leading(_array(representation), 2, seed=seed, centred=True).astype(np.float32)


def umap_map(
    representation: Tensor | np.ndarray,
    *,
    metric: Metric = "cosine",
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    seed: int | None = 0,
    strata: np.ndarray | None = None,
    limit: int = FIT_LIMIT,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return a UMAP embedding of the rows, (n, 2) float32.

    More than 50 columns are first reduced to 50: by principal components, not centred where the
    metric is cosine, because centring would change the angles.

    Args:
        representation: (n, r).
        metric: Geometry of the rows.
        n_neighbors: Neighbours that each row keeps close; fewer where there are not so many rows.
        min_dist: How tightly rows may be packed.
        seed: Makes the map repeatable, on one thread; None is faster on several.
        strata: (n,) whatever each row should be represented by in the sample; rare values are
            kept whole where there is room.
        limit: Fit to at most so many rows, place the others.
        progress: Told the fraction done and what is being done.
    """
    tell = progress or (lambda fraction, text: None)
    matrix = _array(representation)
    n = len(matrix)
    if n < _SMALLEST:
        return pca_map(matrix)
    if matrix.shape[1] > _N_COMPONENTS:
        tell(0.0, f"Reducing {matrix.shape[1]} columns to {_N_COMPONENTS}")
        matrix = _leading(matrix, _N_COMPONENTS, seed=seed or 0, centred=metric != "cosine")
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)

    generator = np.random.default_rng(seed)
    fitted = np.arange(n)
    if n > limit:
        fitted = _sample(n, max(limit, _SMALLEST), strata, generator)
    tell(0.05, "Loading UMAP")
    with _ONE_AT_A_TIME:
        model = _umap_class()(
            n_neighbors=min(n_neighbors, len(fitted) - 1),
            min_dist=min_dist,
            metric=metric,
            init=_start(matrix[fitted], generator),
            random_state=seed,
            n_jobs=-1 if seed is None else 1,
            # The default drops edges between opposite directions and may leave rows without any.
            disconnection_distance=np.inf,
        )
        tell(0.1, f"Fitting UMAP to {len(fitted):,} rows")
        placed = np.empty((n, 2), dtype=np.float32)
        placed[fitted] = model.fit_transform(matrix[fitted])
        others = np.setdiff1d(np.arange(n), fitted, assume_unique=True)
        if others.size:
            tell(0.7, f"Placing {len(others):,} more rows")
            placed[others] = model.transform(matrix[others])
    tell(1.0, "Done")
    return placed


def _umap_class() -> type[Any]:
    with warnings.catch_warnings():
        # umap's first import says that its optional Tensorflow part is not there.
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        from umap import UMAP
    return UMAP


def _array(representation: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(representation, Tensor):
        representation = representation.cpu().numpy()
    return np.asarray(representation)


def _leading(matrix: np.ndarray, count: int, *, seed: int, centred: bool) -> np.ndarray:
    """Return the rows along `count` leading directions; zeros where there are fewer."""
    if not matrix.size:
        return np.zeros((len(matrix), count), dtype=matrix.dtype)
    if centred:
        matrix = matrix - matrix.mean(axis=0)
    if matrix.shape[1] <= _MAX_EIGH:
        _, vectors = np.linalg.eigh((matrix.T @ matrix).astype(np.float64))
        directions = vectors[:, ::-1][:, :count]
    else:
        _, _, rows = randomized_svd(matrix, min(count, *matrix.shape), random_state=seed)
        directions = rows.T
    largest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    scores = matrix @ (directions * signs).astype(matrix.dtype)
    return np.pad(scores, ((0, 0), (0, count - scores.shape[1])))


def _start(matrix: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the PCA map at UMAP's scale, with noise so that no two rows start at one place."""
    start = pca_map(matrix)
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
    kept = min(_KEPT_PER_STRATUM, size // len(counts))
    turn[rank < kept] = 0
    return np.sort(order[np.argsort(turn, kind="stable")[:size]])
