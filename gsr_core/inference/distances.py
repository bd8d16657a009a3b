r"""Distances of the rows of a class, from inner products alone.

With inner products G of n vectors and those with their mean, :math:`a_i = \langle f_i, \mu
\rangle`, everything relative to the mean follows:

.. math::
    C_{ij} = \langle f_i - \mu, f_j - \mu \rangle = G_{ij} - a_i - a_j + \lVert \mu \rVert^2 .

So vectors whose inner products factorise, such as a head's gradients, are compared without being
written down. `cosine` is :math:`1 - C_{ij} / \sqrt{C_{ii} C_{jj}}`, in [0, 2]; a vector that
equals the mean up to rounding has no direction, and is at distance 1 from every other. `euclidean`
is the squared distance in units of its mean over all pairs of rows,

.. math::
    \frac{C_{ii} + C_{jj} - 2 C_{ij}}{2 \, \overline{C_{kk}}} ,

which does not depend on a unit and is the cosine distance of rows of equal length, so that one grid
of radii serves both. Being a square, it is no metric; its root is.
"""

from __future__ import annotations

from copy import copy
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gsr_core.gradients.representations import Gradients, gram

__all__ = ["BLOCK", "Distances", "Metric"]

Metric = Literal["cosine", "euclidean"]

BLOCK = 2**22
"""Distances held at a time in full precision."""


class Distances:
    """Distances to the n rows of a class, whose mean is the centre."""

    def __init__(self, own: Gradients, metric: Metric = "cosine") -> None:
        """Find the mean of the rows.

        Args:
            own: n rows, at least one.
            metric: As the module defines it.
        """
        # In full precision once, not in every block.
        self._own = Gradients(own.residuals, own.features.to(own.residuals))
        uniform = own.residuals.new_full((len(own), 1), 1 / len(own))
        self._mean = self._own.transposed_times(uniform)
        self._total = self._mean.square().sum()
        self._along, self._square, self._inverse = self._relative(self._own)
        self._spread = 2 * self._square.mean() if metric == "euclidean" else None

    def __len__(self) -> int:
        """Return n."""
        return len(self._own)

    def among(self, index: np.ndarray) -> Distances:
        """Return the distances to some of the rows, relative to the mean of all."""
        part, kept = copy(self), torch.from_numpy(index).to(self._along.device)
        part._own = self._own.rows(kept)
        part._along, part._square, part._inverse = (
            each[kept] for each in (self._along, self._square, self._inverse)
        )
        return part

    def to(self, others: Gradients) -> Tensor:
        """Return (q, n) distances of q rows to the n.

        Args:
            others: q rows, so few that their distances fit into memory.
        """
        along, square, inverse = self._relative(others)
        return self._between(others, along, square, inverse, 0)

    def matrix(self) -> np.ndarray:
        """Return (n, n) distances between the rows, computed in blocks and kept in float32.

        They are symmetric to the bit, with a diagonal of zeros.
        """
        n = len(self)
        matrix = np.empty((n, n), dtype=np.float32)
        size = max(1, BLOCK // n)
        for start in range(0, n, size):
            part = slice(start, start + size)
            index = torch.arange(start, min(start + size, n), device=self._along.device)
            block = self._between(
                self._own.rows(index),
                self._along[part],
                self._square[part],
                self._inverse[part],
                start,
            )
            # Its first columns are the same rows, whose two triangles are rounded apart.
            corner = block[:, : len(block)]
            block[:, : len(block)] = ((corner + corner.T) / 2).fill_diagonal_(0)
            matrix[part, start:] = block.cpu().numpy()
            matrix[start:, part] = matrix[part, start:].T
        return matrix

    def _relative(self, rows: Gradients) -> tuple[Tensor, Tensor, Tensor]:
        """Return inner products with the mean, squared distances from it and inverse distances."""
        along, square = rows.times(self._mean)[:, 0], rows.norms().square()
        centred = square - 2 * along + self._total
        # What rounding alone could leave is no direction.
        noise = 64 * torch.finfo(centred.dtype).eps * (square + 2 * along.abs())
        centred = torch.where(centred > noise, centred, 0.0)
        return along, centred, torch.where(centred > 0, centred.rsqrt(), 0.0)

    def _between(
        self, rows: Gradients, along: Tensor, square: Tensor, inverse: Tensor, first: int
    ) -> Tensor:
        """Return the distances of rows to the own ones from the first on."""
        own = self._own
        if first:
            own = Gradients(own.residuals[first:], own.features[first:])
        centred = gram(rows, own).sub_(along[:, None]).sub_(self._along[first:] - self._total)
        if self._spread is None:
            centred.mul_(inverse[:, None]).mul_(self._inverse[first:])
            return centred.neg_().add_(1).clamp_(0, 2)
        centred.mul_(-2).add_(square[:, None]).add_(self._square[first:])
        return centred.clamp_(min=0).div_(torch.where(self._spread > 0, self._spread, 1.0))
