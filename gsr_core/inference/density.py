r"""Density clusters of stored distances, for a whole grid of radii and densities at once.

Ester, Kriegel, Sander and Xu, "A Density-Based Algorithm for Discovering Clusters in Large Spatial
Databases with Noise" (KDD 1996): a core sample has m others within the radius; core samples within
the radius of each other share a cluster, and a border sample, which is within the radius of a core
sample without being one, joins it. Here a border sample joins its *nearest* core sample, where
scikit-learn has it join the cluster that was numbered first, which depends on the order of rows.
Core samples and outliers are the same.

With the distance :math:`c_i` to the m-th other sample, i and j share a core cluster at radius r
exactly if a path of edges of length

.. math:: \max(c_i, c_j, d_{ij}) \le r

joins them. So one spanning tree of these lengths, by Prim's algorithm in O(n^2) time and O(n)
memory, has the core clusters for every radius. Prim's order is all that is kept of it: an edge
longer than r is only taken when nothing within r is left, so each cluster at r is a run of that
order that no longer edge interrupts (the reachability plot of Ankerst, Breunig, Kriegel and Sander,
"OPTICS: Ordering Points to Identify the Clustering Structure", SIGMOD 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gsr_core.inference.base import OUTLIER
from gsr_core.inference.distances import BLOCK

__all__ = ["DensityClustering", "Nearest", "dbscan_grid", "nearest_others", "order", "silhouettes"]

_COLUMNS = 256
"""Clusters whose distances are summed at a time."""


@dataclass(frozen=True)
class Nearest:
    """The nearest others of n samples, nearest first, those of equal distance in order.

    Attributes:
        index: (n, k) int32.
        distance: (n, k) float32.
    """

    index: np.ndarray
    distance: np.ndarray

    def core(self, density: int) -> np.ndarray:
        """Return (n,) distances to the m-th other sample, infinite if there are not so many."""
        n, k = self.distance.shape
        return self.distance[:, density - 1] if density <= k else np.full(n, np.inf, np.float32)


@dataclass(frozen=True)
class DensityClustering:
    """DBSCAN's clusters at one radius and density.

    Attributes:
        radius: In units of the distances.
        density: Other samples within the radius of a core sample.
        labels: (n,) int64 clusters from 0, `OUTLIER` for none.
        core: (n,) bool.
    """

    radius: float
    density: int
    labels: np.ndarray
    core: np.ndarray


def nearest_others(distance: np.ndarray, k: int) -> Nearest:
    """Return the k nearest others of each sample, all of them if there are fewer.

    Args:
        distance: (n, n) float32, symmetric.
        k: At least one.
    """
    n = len(distance)
    k = min(k, n - 1)
    index, value = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
    size = max(1, BLOCK // n)
    for start in range(0, n if k else 0, size):
        part = slice(start, min(start + size, n))
        block = distance[part].copy()
        np.fill_diagonal(block[:, start:], np.inf)
        chosen = np.argpartition(block, k - 1, axis=1)[:, :k]
        length = np.take_along_axis(block, chosen, axis=1)
        by_distance = np.lexsort((chosen, length))
        index[part] = np.take_along_axis(chosen, by_distance, axis=1)
        value[part] = np.take_along_axis(length, by_distance, axis=1)
    return Nearest(index, value)


def order(distance: np.ndarray, core: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return samples in Prim's order, and the length of the edge by which each was reached.

    Args:
        distance: (n, n) float32, symmetric.
        core: (n,) float32 distances to the m-th other sample.
        limit: Samples with a larger one are core samples at no radius in use, and left out.

    Returns:
        Positions and lengths; the first has length infinity.
    """
    inside = core <= limit
    places = np.empty(int(inside.sum()), dtype=np.int64)
    lengths = np.empty(len(places), dtype=np.float32)
    closed = np.where(inside, np.float32(0), np.float32(np.inf))
    best, row = np.full_like(core, np.inf), np.empty_like(core)
    current = int(inside.argmax())
    for step in range(len(places)):
        places[step], lengths[step] = current, best[current]
        closed[current] = np.inf
        np.maximum(distance[current], core, out=row)
        np.maximum(row, core[current], out=row)
        np.minimum(best, row, out=best)
        np.maximum(best, closed, out=row)
        current = int(row.argmin())
    return places, lengths


def dbscan_grid(
    distance: np.ndarray, radii: Sequence[float], densities: Sequence[int]
) -> list[DensityClustering]:
    """Return the clusters for every radius with every density, radius by radius.

    Args:
        distance: (n, n) float32, symmetric, with a diagonal of zeros.
        radii: At least one.
        densities: Numbers of other samples, at least one.
    """
    near = nearest_others(distance, max(densities))
    clusterings = {}
    for density in densities:
        core = near.core(density)
        places, lengths = order(distance, core, max(radii))
        for radius in radii:
            clusterings[radius, density] = _cut(near, core, places, lengths, radius, density)
    return [clusterings[radius, density] for radius in radii for density in densities]


def _cut(
    near: Nearest,
    distance_of_core: np.ndarray,
    places: np.ndarray,
    lengths: np.ndarray,
    radius: float,
    density: int,
) -> DensityClustering:
    """Cut Prim's order where it is longer than the radius, and add the border samples."""
    core = distance_of_core <= radius
    run = np.full(len(core), OUTLIER, dtype=np.int64)
    run[places] = np.cumsum(lengths > radius)
    labels = np.full(len(core), OUTLIER, dtype=np.int64)
    labels[core] = np.unique(run[core], return_inverse=True)[1]
    # Fewer than m others are within the radius of a border sample, so its m nearest have them all.
    others = np.flatnonzero(~core)
    index, reach = near.index[others, :density], near.distance[others, :density]
    joins = core[index] & (reach <= radius)
    first = joins.argmax(axis=1) if joins.shape[1] else np.zeros(len(others), dtype=np.int64)
    border = joins.any(axis=1)
    labels[others[border]] = labels[index[border, first[border]]]
    return DensityClustering(radius, density, labels, core)


def silhouettes(
    distance: np.ndarray, labelings: Sequence[np.ndarray], *, root: bool = False
) -> list[float]:
    """Return the mean silhouette of each labelling, over the samples that it gives a cluster.

    Rousseeuw, "Silhouettes: A Graphical Aid to the Interpretation and Validation of Cluster
    Analysis" (1987). The distances are read once for many labellings.

    Args:
        distance: (n, n) float32, symmetric, with a diagonal of zeros.
        labelings: (n,) int64 clusters from 0 without gaps; `OUTLIER` is left out.
        root: Take the roots of the distances.

    Returns:
        In [-1, 1], and -1 where there are fewer than two clusters.
    """
    keys = [labels.tobytes() for labels in labelings]
    several = {
        key: labels
        for key, labels in zip(keys, labelings, strict=True)
        if labels.max(initial=0) > 0
    }
    scores: dict[bytes, float] = {}
    batch: dict[bytes, np.ndarray] = {}
    columns = 0
    for key, labels in several.items():
        k = int(labels.max()) + 1
        if batch and columns + k > _COLUMNS:
            scores |= _silhouettes(distance, batch, root)
            batch, columns = {}, 0
        batch[key] = labels
        columns += k
    if batch:
        scores |= _silhouettes(distance, batch, root)
    return [scores.get(key, -1.0) for key in keys]


def _silhouettes(
    distance: np.ndarray, labelings: dict[bytes, np.ndarray], root: bool
) -> dict[bytes, float]:
    """Return the mean silhouettes of labellings with two clusters or more, from one pass."""
    n = len(distance)
    sizes = [np.bincount(labels[labels >= 0]) for labels in labelings.values()]
    first = np.cumsum([0, *(len(each) for each in sizes)])
    member = np.zeros((n, first[-1]))
    for labels, offset in zip(labelings.values(), first, strict=False):
        kept = np.flatnonzero(labels >= 0)
        member[kept, offset + labels[kept]] = 1
    totals = np.zeros(len(labelings))
    rows = max(1, BLOCK // n)
    for start in range(0, n, rows):
        block = distance[start : start + rows].astype(np.float64)
        sums = (np.sqrt(block, out=block) if root else block) @ member
        for place, (labels, size) in enumerate(zip(labelings.values(), sizes, strict=True)):
            label = labels[start : start + rows]
            kept = np.flatnonzero((label >= 0) & (size[label] > 1))
            own = label[kept]
            mean = sums[kept, first[place] : first[place + 1]]
            inside = mean[np.arange(len(kept)), own] / (size[own] - 1)
            mean /= size
            mean[np.arange(len(kept)), own] = np.inf
            outside = mean.min(axis=1)
            larger = np.maximum(inside, outside)
            # Alone in its cluster, or at no distance from anything: 0.
            totals[place] += ((outside - inside) / np.where(larger > 0, larger, 1)).sum()
    counts = [int(size.sum()) for size in sizes]
    return dict(zip(labelings, (totals / counts).tolist(), strict=True))
