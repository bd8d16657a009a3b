"""Distances within a space, and nearest neighbours by comparing with every row.

All of it is exact and in blocks of bounded memory; gradients are compared by their factors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gsr_core.gradients.representations import (
    AnyGradients,
    CentredGradients,
    Gradients,
    gram,
    inner_products,
    unit_rows,
)

__all__ = ["Distances", "Metric", "Space", "distances_within", "nearest"]

Metric = Literal["cosine", "euclidean"]

Space = Tensor | np.ndarray | AnyGradients
"""n rows to compare: of a matrix (n, r), or gradients in factored form, which are never formed."""

_BLOCK_NUMBERS = 2**23
"""Distances held at a time, and numbers gathered for them."""
_CHUNK = 8192


class Distances(ABC):
    """How far the n rows of a space are from one another, float64 where the device has it.

    Attributes:
        device: Where the rows are.
        width: Numbers gathered for one distance.
        rough: Whether `to_all` has lost half the digits to a difference; `to_some` then has not.
    """

    device: torch.device
    width: int
    rough: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Return n."""

    @abstractmethod
    def to_all(self, rows: Tensor) -> Tensor:
        """Return the (q, n) distances from some rows to all.

        Args:
            rows: (q,) positions.
        """

    @abstractmethod
    def to_some(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return the (q, k) distances from some rows to k others each.

        Args:
            rows: (q,) positions.
            others: (q, k) positions.
        """

    def _chunks(self) -> tuple[Tensor, ...]:
        return torch.arange(len(self), device=self.device).split(_CHUNK)


class _OfMatrix(Distances):
    def __init__(self, matrix: Tensor, metric: Metric, *, hold: bool) -> None:
        self._matrix, self._metric, self._held = matrix, metric, False
        self.device, self.width = matrix.device, matrix.shape[1]
        self.rough = metric == "euclidean"
        if hold:
            self._matrix, self._held = self._rows(slice(None)), True

    def __len__(self) -> int:
        return len(self._matrix)

    def to_all(self, rows: Tensor) -> Tensor:
        block = self._rows(rows)
        parts = []
        for chunk in self._chunks():
            others = self._rows(slice(int(chunk[0]), int(chunk[-1]) + 1))
            if self._metric == "cosine":
                parts.append((1 - block @ others.T).clamp(min=0))
            else:
                # Ten times as fast as adding up squares of differences.
                mode = "use_mm_for_euclid_dist"
                parts.append(torch.cdist(block, others, compute_mode=mode))
        return torch.cat(parts, dim=1)

    def to_some(self, rows: Tensor, others: Tensor) -> Tensor:
        block, far = self._rows(rows), self._rows(others.flatten())
        far = far.view(*others.shape, -1)
        if self._metric == "cosine":
            return (1 - torch.einsum("qd,qkd->qk", block, far)).clamp(min=0)
        return (block[:, None] - far).norm(dim=2)

    def _rows(self, index: Tensor | slice) -> Tensor:
        if self._held:
            return self._matrix[index]
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        rows = self._matrix[index].to(wide)
        return unit_rows(rows) if self._metric == "cosine" else rows


class _OfGradients(Distances):
    def __init__(self, gradients: AnyGradients, metric: Metric) -> None:
        self._squares = None if metric == "cosine" else gradients.norms().square()
        self._gradients = gradients.unit() if metric == "cosine" else gradients
        factors = gradients.factors if isinstance(gradients, CentredGradients) else gradients
        self.device = factors.features.device
        self.width = factors.features.shape[1] + factors.residuals.shape[1]

    def __len__(self) -> int:
        return len(self._gradients)

    def to_all(self, rows: Tensor) -> Tensor:
        block = self._gradients.rows(rows)
        parts = [
            self._from_inner(gram(block, self._gradients.rows(chunk)), rows[:, None], chunk)
            for chunk in self._chunks()
        ]
        return torch.cat(parts, dim=1)

    def to_some(self, rows: Tensor, others: Tensor) -> Tensor:
        inner = inner_products(self._gradients.rows(rows), self._gradients.rows(others.flatten()))
        return self._from_inner(inner, rows[:, None], others)

    def _from_inner(self, inner: Tensor, rows: Tensor, others: Tensor) -> Tensor:
        if self._squares is None:
            return (1 - inner).clamp(min=0)
        return (self._squares[rows] + self._squares[others] - 2 * inner).clamp(min=0).sqrt()


def distances_within(space: Space, metric: Metric = "cosine", *, hold: bool = False) -> Distances:
    """Return the distances within a space.

    Args:
        space: n rows.
        metric: `cosine` is 1 - cos, in [0, 2]; a zero row is at 1 from every other. Euclidean
            distances of gradients in factored form have an error of 1e-8 of their length.
        hold: Keep a matrix in float64, which pays where all its rows are asked for.
    """
    if isinstance(space, Gradients | CentredGradients):
        return _OfGradients(space, metric)
    # An array may be read-only (memory-mapped), which torch shares only with a warning.
    matrix = space if isinstance(space, Tensor) else torch.tensor(space)
    return _OfMatrix(matrix, metric, hold=hold)


def nearest(
    space: Space | Distances,
    rows: Tensor | np.ndarray,
    k: int,
    metric: Metric = "cosine",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows nearest to each of some rows, itself left out.

    Args:
        space: n rows, or the distances within them.
        rows: (q,) positions to find the neighbours of.
        k: How many; n - 1 if that is fewer.
        metric: As in `distances_within`; ignored if that was called already.

    Returns:
        Positions (q, k) int64 and distances (q, k) float64, nearest first.
    """
    within = space if isinstance(space, Distances) else distances_within(space, metric)
    n = len(within)
    k = max(0, min(k, n - 1))
    indices, values = [], []
    positions = torch.as_tensor(rows, device=within.device).long()
    for index in positions.split(max(1, _BLOCK_NUMBERS // max(n, 1))):
        block = within.to_all(index)
        block[torch.arange(len(index)), index] = torch.inf
        value, position = block.topk(k, dim=1, largest=False)
        if within.rough and k:
            value, position = _measure(within, index, position)
        indices.append(position.cpu().numpy())
        values.append(value.cpu().numpy().astype(np.float64))
    return np.concatenate(indices), np.concatenate(values)


def _measure(within: Distances, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances to the (q, k) others to all digits, and the others in their order."""
    at_once = max(1, _BLOCK_NUMBERS // (others.shape[1] * within.width))
    pairs = zip(rows.split(at_once), others.split(at_once), strict=True)
    value, order = torch.cat([within.to_some(*pair) for pair in pairs]).sort(dim=1, stable=True)
    return value, others.gather(1, order)
