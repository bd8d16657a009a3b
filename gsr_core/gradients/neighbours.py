"""Nearest neighbours by comparing with every row: exact, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gsr_core.gradients.representations import Gradients, gram, unit_rows

__all__ = ["Metric", "cosine_neighbours", "nearest"]

Metric = Literal["cosine", "euclidean"]

_BLOCK_NUMBERS = 2**23
"""Distances held at a time."""
_CHUNK = 8192


def nearest(
    representation: Tensor | np.ndarray,
    rows: Tensor | np.ndarray,
    k: int,
    metric: Metric = "cosine",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows nearest to each of some rows, itself left out.

    Args:
        representation: (n, r).
        rows: (q,) positions to find the neighbours of.
        k: How many; n - 1 if that is fewer.
        metric: `cosine` is 1 - cos, in [0, 2]; a zero row is at 1 from every other.

    Returns:
        Positions (q, k) int64 and distances (q, k) float64, nearest first.
    """
    # An array may be read-only (memory-mapped), which torch shares only with a warning.
    matrix = representation if isinstance(representation, Tensor) else torch.tensor(representation)
    wide = torch.float32 if matrix.device.type == "mps" else torch.float64

    def inner(block: Tensor, chunk: Tensor) -> Tensor:
        block, chunk = block.to(wide), chunk.to(wide)
        if metric == "cosine":
            return 1 - unit_rows(block) @ unit_rows(chunk).T
        return torch.cdist(block, chunk, compute_mode="donot_use_mm_for_euclid_dist")

    def distances(index: Tensor) -> Tensor:
        block = matrix[index]
        return torch.cat([inner(block, chunk) for chunk in matrix.split(_CHUNK)], dim=1)

    return _smallest(distances, len(matrix), torch.as_tensor(rows, device=matrix.device), k)


def cosine_neighbours(
    gradients: Gradients, rows: Tensor | np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k gradients of closest direction, exactly, from the factors alone.

    The result is that of `nearest` on the full gradients, which are never formed.

    Args:
        gradients: Of n samples.
        rows: (q,) positions to find the neighbours of.
        k: How many; n - 1 if that is fewer.
    """
    unit = gradients.unit()
    every = torch.arange(len(unit), device=unit.features.device)

    def distances(index: Tensor) -> Tensor:
        block = unit.rows(index)
        return torch.cat([1 - gram(block, unit.rows(part)) for part in every.split(_CHUNK)], dim=1)

    return _smallest(distances, len(unit), torch.as_tensor(rows, device=every.device), k)


def _smallest(
    distances: Callable[[Tensor], Tensor], n: int, rows: Tensor, k: int
) -> tuple[np.ndarray, np.ndarray]:
    k = max(0, min(k, n - 1))
    indices, values = [], []
    for index in rows.long().split(max(1, _BLOCK_NUMBERS // max(n, 1))):
        block = distances(index).clamp(min=0)
        block[torch.arange(len(index)), index] = torch.inf
        value, position = block.topk(k, dim=1, largest=False)
        indices.append(position.cpu().numpy())
        values.append(value.cpu().numpy().astype(np.float64))
    return np.concatenate(indices), np.concatenate(values)
