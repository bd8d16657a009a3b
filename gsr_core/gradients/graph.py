"""The k nearest neighbours of every row: one graph a space, for maps and for panels.

Up to 20,000 rows every pair is compared. Beyond, candidates come from nearest-neighbour descent
(Dong, Charikar and Li, "Efficient k-nearest neighbor graph construction for generic similarity
measures", WWW 2011) in at most 50 leading columns, by PyNNDescent. Their distances are then
computed in the space itself: a distance in a graph is exact, and *approximate* only means that a
nearer row may be missing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsr_core.errors import SettingError
from gsr_core.gradients.neighbours import (
    Distances,
    Metric,
    Space,
    distances_within,
    nearest,
)
from gsr_core.gradients.reduction import N_COLUMNS, as_array, reduce_columns
from gsr_core.gradients.representations import CentredGradients, Gradients, project, unit_rows
from gsr_core.progress import Report, silent

__all__ = ["EXACT_LIMIT", "ONE_AT_A_TIME", "NeighbourGraph", "neighbour_graph"]

EXACT_LIMIT = 20_000
"""Rows up to which every pair is compared."""

ONE_AT_A_TIME = threading.Lock()
"""numba's simplest threading layer ends the process if two threads enter it at once."""


_BLOCK_NUMBERS = 2**23
"""Numbers gathered at a time."""
_MORE = 1.5
"""Candidates for a neighbour; what is lost by the reduction is found again among them."""
_FAR = 4.0
"""Length of a row that is farther from all rows of length one than these are from each other."""


@dataclass(frozen=True)
class NeighbourGraph:
    """The k nearest other rows of n rows, nearest first.

    Attributes:
        indices: (n, k) int32 positions, never the row's own.
        distances: (n, k) float32; 1 - cos where the metric is cosine.
        exact: Whether no nearer row can be missing.
    """

    indices: np.ndarray
    distances: np.ndarray
    exact: bool

    def __len__(self) -> int:
        """Return n."""
        return len(self.indices)

    @property
    def k(self) -> int:
        """Neighbours of a row."""
        return self.indices.shape[1]

    def first(self, k: int) -> NeighbourGraph:
        """Return the graph of the k nearest alone.

        Args:
            k: How many; n - 1 if that is fewer.

        Raises:
            SettingError: If the graph has fewer.
        """
        k = min(k, max(len(self) - 1, 0))
        if k > self.k:
            raise SettingError(
                f"{k} neighbours were asked for, and this graph has {self.k} of each row; make one "
                f"with k={k}"
            )
        return NeighbourGraph(self.indices[:, :k], self.distances[:, :k], self.exact)


def neighbour_graph(
    space: Space,
    k: int,
    metric: Metric = "cosine",
    *,
    seed: int = 0,
    exact_limit: int = EXACT_LIMIT,
    progress: Report | None = None,
) -> NeighbourGraph:
    """Return the k nearest neighbours of every row; the same for the same space and seed.

    Args:
        space: n rows: of a matrix (n, r), or gradients in factored form.
        k: How many; n - 1 if that is fewer.
        metric: `cosine` is 1 - cos, in [0, 2]; a zero row is at 1 from every other.
        seed: Of the approximate search.
        exact_limit: Rows up to which every pair is compared.
        progress: Called with the fraction done and what is being done.

    Raises:
        SettingError: If k is below 1.
    """
    if k < 1:
        raise SettingError(f"k is {k}; a graph needs at least 1 neighbour of each row")
    tell = progress or silent
    n = len(space)
    k = max(0, min(k, n - 1))
    indices = np.empty((n, k), dtype=np.int32)
    distances = np.empty((n, k), dtype=np.float32)
    exact = n <= exact_limit
    within = distances_within(space, metric, hold=exact)
    if exact:
        blocks = np.array_split(np.arange(n), max(1, -(-n * n // _BLOCK_NUMBERS)))
        for block in blocks if k else ():
            tell(block[0] / n, f"Comparing {n:,} rows with each other")
            indices[block], distances[block] = nearest(within, block, k)
    else:
        tell(0.0, f"Searching the neighbours of {n:,} rows")
        candidates = _candidates(space, min(n, int(_MORE * k) + 2), metric, seed)
        blocks = np.array_split(
            np.arange(n), max(1, -(-candidates.size * within.width // _BLOCK_NUMBERS))
        )
        for block in blocks:
            tell(0.8 + 0.2 * block[0] / n, f"Measuring the distances of {n:,} rows")
            indices[block], distances[block] = _closest(within, block, candidates[block], k)
    return NeighbourGraph(indices, distances, exact)


def _candidates(space: Space, count: int, metric: Metric, seed: int) -> np.ndarray:
    """Return (n, count) positions of rows that are likely near, -1 where too few were found."""
    from pynndescent import NNDescent

    cosine = metric == "cosine"
    if isinstance(space, Gradients | CentredGradients):
        space = project(space.unit() if cosine else space, N_COLUMNS, seed)
    matrix = space.cpu() if isinstance(space, Tensor) else torch.tensor(space)
    matrix = unit_rows(matrix) if cosine else matrix
    columns = reduce_columns(as_array(matrix), centred=not cosine, seed=seed)
    if cosine:
        # At length one both metrics have the same order, and one is compiled for both. A zero row,
        # which is at 1 from every other, is put away from all of them.
        columns = unit_rows(torch.from_numpy(columns)).numpy()
        columns[~columns.any(axis=1), 0] = _FAR
    with ONE_AT_A_TIME:
        search: Any = NNDescent(columns, n_neighbors=count, random_state=seed)
        return search.neighbor_graph[0]


def _closest(
    within: Distances, rows: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of each row's candidates; of all rows where too few are candidates."""
    index = torch.from_numpy(rows).to(within.device)
    others = torch.from_numpy(candidates.astype(np.int64)).to(within.device)
    distance = within.to_some(index, others.clamp(min=0))
    distance[(others < 0) | (others == index[:, None])] = torch.inf
    values, order = distance.topk(k, dim=1, largest=False)
    indices, distances = _numpy(others.gather(1, order)), _numpy(values)
    if len(short := np.flatnonzero(np.isinf(distances[:, -1]))):
        indices[short], distances[short] = nearest(within, rows[short], k)
    return indices, distances


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
