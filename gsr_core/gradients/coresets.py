r"""Medoids that stand for many points: facility location by the greedy algorithm.

.. math:: F(S) = \sum_i \max_{j \in S} \bigl(c_0 - \lVert x_i - x_j \rVert\bigr)

with :math:`c_0` the largest distance is monotone and submodular, so that taking the point of
largest gain, again and again, reaches at least 1 - 1/e of the best (Nemhauser, Wolsey and Fisher,
"An analysis of approximations for maximizing submodular set functions", Mathematical Programming
1978).

All gains are kept up to date: a choice changes them only through the points that it is nearest to,
and these are few after the first choices. In all that is some n ln k rows of distances. Lazy
evaluation (Minoux 1978), which computes the gains anew that may be the largest, took as long at
5,000 points and two to three times as long at 10,000 whose gains are nearly alike.

Of the published libraries, apricot-select has had no release since 2021, and submodlib-py has
wheels for some systems only; both want the (n, n) similarities. They would spare one function.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Medoids", "medoids"]

_BLOCK_NUMBERS = 2**20
"""Distances in the largest temporary."""
_KEPT_NUMBERS = 2**25
"""Distances up to which all are kept, those of 5,792 points; of more they are computed again."""


@dataclass(frozen=True)
class Medoids:
    """Points that were chosen out of n, in the order of their choice.

    Attributes:
        chosen: (k,) int64, which of the n points.
        cluster: (n,) int64 in [0, k), whose medoid is the nearest; the earliest of several, so that
            the copy of a medoid that is one too has no cluster of its own.
        sizes: (k,) int64 of the clusters, medoid included; they sum to n.
        gains: (k,) by how much each raised F; none is above the one before, up to rounding.
    """

    chosen: Tensor
    cluster: Tensor
    sizes: Tensor
    gains: Tensor


def medoids(points: Tensor, k: int) -> Medoids:
    """Choose k of n points greedily.

    Args:
        points: (n, r) floating; distances are Euclidean.
        k: At least 1, at most n.

    Raises:
        ValueError: If k is out of range.

    Example:
        >>> found = medoids(torch.tensor([[0.0], [0.1], [0.2], [9.0]]), 2)
        >>> found.chosen.tolist(), found.sizes.tolist()
        ([1, 3], [3, 1])
    """
    n = len(points)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; allowed are 1 to the number of points, {n}")
    distances = _Distances(points)
    gain = n * distances.longest - distances.sums
    # A smaller gain is rounding: copies of medoids gain nothing, and the first of them is taken.
    noise = 16 * torch.finfo(points.dtype).eps * gain.max()
    nearest = distances.longest.expand(n).clone()
    cluster = torch.zeros(n, dtype=torch.int64, device=points.device)
    chosen, gains = [], []
    for number in range(k):
        best = torch.where(gain.abs() > noise, gain, 0.0).argmax()
        chosen.append(best)
        gains.append(gain[best].clone())
        own = distances.of(best[None])[0]
        moved = (own < nearest).nonzero().squeeze(1)
        for part in moved.split(distances.rows_at_once):
            to_all = distances.of(part)
            before = (nearest[part, None] - to_all).clamp_(min=0)
            gain -= (before - (own[part, None] - to_all).clamp_(min=0)).sum(dim=0)
        cluster[moved], nearest[moved] = number, own[moved]
        gain[best] = -torch.inf
    return Medoids(torch.stack(chosen), cluster, cluster.bincount(minlength=k), torch.stack(gains))


class _Distances:
    """Distances between n points.

    Attributes:
        sums: (n,) of each point to all.
        longest: The largest of all.
        rows_at_once: Of how many points to ask for the distances together.
    """

    def __init__(self, points: Tensor) -> None:
        self.rows_at_once = max(1, _BLOCK_NUMBERS // len(points))
        self._points, self._kept = points, None
        sums, longest, kept = [], [], []
        for block in points.split(self.rows_at_once):
            distances = self._between(block)
            sums.append(distances.sum(dim=1))
            longest.append(distances.max())
            if len(points) ** 2 <= _KEPT_NUMBERS:
                kept.append(distances)
        self.sums, self.longest = torch.cat(sums), torch.stack(longest).max()
        if kept:
            self._kept = torch.cat(kept)

    def of(self, rows: Tensor) -> Tensor:
        """Return the distances (b, n) of some points to all."""
        return self._between(self._points[rows]) if self._kept is None else self._kept[rows]

    def _between(self, block: Tensor) -> Tensor:
        # By a product, points that are close would lose their digits.
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(block, self._points, compute_mode=mode)
