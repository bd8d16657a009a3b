r"""Two scores of how odd a sample is for its class: gradient norm, and isolation.

The norm of a sample's gradient (Ahn, Kim and Yun, "Mitigating Dataset Bias by Using Per-sample
Gradient", ICLR 2023) is large where the head errs and the features are large.

Isolation is EPIC's (Yang, Liu and Mirzasoleiman, "Not All Poisons are Created Equal: Robust
Training against Data Poisoning", ICML 2022). In each class, k medoids are chosen greedily so that
every residual p_i - e_{y_i} is close to one of them (facility location),

.. math::
    F(S) = \sum_i \max_{j \in S} (c_0 - \lVert r_i - r_j \rVert) ,

and a medoid is isolated if no other sample of its class is nearer to it than to other medoids.

Where we differ: EPIC trains on without the isolated samples, again and again; here they are only
pointed out, at one head. A medoid that coincides with another one is a duplicate, not isolated,
which the published assignment leaves to a tie. Of a class with more rows than the search can take,
random parts are searched each alone.

Confident samples have residuals near zero, so that late in training the isolated ones are mostly
hard, and often a minority's: a score to look at, not to drop by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from torch import Tensor

from gsr_core.errors import SettingError
from gsr_core.gradients.representations import gradients
from gsr_core.linear.head import Head

__all__ = [
    "CLASS_LIMIT",
    "Isolation",
    "Medoids",
    "facility_location",
    "gradient_norms",
    "isolation",
]

CLASS_LIMIT = 20_000
"""Rows among which medoids are searched; time grows with the square, memory does not."""

_BLOCK_NUMBERS = 2**22
"""Distances held at a time."""
_AT_ONCE = 16
"""Candidates whose gain is computed anew together; most steps need fewer."""


@dataclass(frozen=True)
class Medoids:
    """Some points that stand for all.

    Attributes:
        positions: (k,) where they are, in the order of the choice.
        gains: (k,) by how much each raised the objective; never more than the one before.
        nearest: (n,) which medoid is nearest to each point, the earlier one on a tie.
        sizes: (k,) points of which each is the nearest, itself among them; 0 is a duplicate of an
            earlier one.
    """

    positions: np.ndarray
    gains: np.ndarray
    nearest: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Isolation:
    """How alone each of n samples is among those of its class.

    Attributes:
        score: (n,) distance of an isolated sample's residual from the nearest other medoid of its
            class, in (0, 2]; 0 of samples that are not isolated. The larger, the odder.
        isolated: (n,) bool.
        size: (n,) samples that share the nearest medoid, the sample itself among them.
    """

    score: np.ndarray
    isolated: np.ndarray
    size: np.ndarray


def gradient_norms(head: Head, features: Tensor, labels: Tensor) -> np.ndarray:
    """Return the length of each sample's cross-entropy gradient by weight and bias, (n,).

    Args:
        head: K classes.
        features: (n, d).
        labels: (n,) int64 classes.
    """
    return gradients(head, features, labels).norms().cpu().numpy()


def isolation(
    head: Head,
    features: Tensor,
    labels: Tensor,
    *,
    share: float = 0.2,
    seed: int = 0,
    class_limit: int = CLASS_LIMIT,
) -> Isolation:
    """Find the samples that no other sample of their class is like, to the head.

    A class of one row has nothing to be isolated from.

    Args:
        head: K classes.
        features: (n, d).
        labels: (n,) int64 classes.
        share: Medoids of a class, as a share of its rows, in (0, 1]; EPIC takes 0.1, 0.2 or 0.3.
            The more, the more are isolated: all of them at 1.
        seed: Of the parts of a class that is too large.
        class_limit: Rows of a class among which medoids are searched; a larger class is cut at
            random into parts of at most so many.

    Raises:
        SettingError: If the share is not in (0, 1] or the limit is below 2.
    """
    if not 0 < share <= 1:
        raise SettingError(f"share is {share}; medoids can be more than 0 and at most 1 of a class")
    if class_limit < 2:
        raise SettingError(f"class_limit is {class_limit}; medoids need at least 2 rows")
    residuals = gradients(head, features, labels).residuals.double().cpu().numpy()
    y = labels.cpu().numpy()
    n = len(y)
    result = Isolation(np.zeros(n), np.zeros(n, dtype=bool), np.ones(n, dtype=np.int64))
    generator = np.random.default_rng(seed)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        parts = [rows]
        if len(rows) > class_limit:
            count = -(-len(rows) // class_limit)
            parts = [np.sort(part) for part in np.array_split(generator.permutation(rows), count)]
        for part in parts:
            _isolate(result, residuals[part], part, share)
    return result


def facility_location(points: np.ndarray, k: int) -> Medoids:
    """Choose medoids greedily: each lowers the total distance to the nearest one most.

    Gains can only fall as medoids are added, so that stale ones are upper bounds, and only those
    candidates are computed anew whose bound is above the best gain (Minoux, "Accelerated greedy
    algorithms for maximizing submodular set functions", 1978). The choice is that of the plain
    greedy algorithm, the first point on a tie. Distances are computed when they are needed; those
    within rounding of zero are zero.

    Args:
        points: (n, r).
        k: How many.

    Raises:
        SettingError: If k is not in [1, n].
    """
    n = len(points)
    if not 1 <= k <= n:
        raise SettingError(f"{k} medoids were asked for; {n} points allow 1 to {n}")
    points = np.ascontiguousarray(points, dtype=np.float64)
    rounding = 64 * np.finfo(np.float64).eps * np.abs(points).max(initial=0)

    def distances(index: np.ndarray) -> np.ndarray:
        distance = cdist(points[index], points)
        distance[distance <= rounding] = 0
        return distance

    # Twice the distance from any one point bounds all distances.
    cover = np.full(n, 2 * distances(np.array([0])).max())
    block = max(1, _BLOCK_NUMBERS // n)
    bounds = np.concatenate(
        [
            (cover - distances(np.arange(start, min(start + block, n)))).sum(axis=1)
            for start in range(0, n, block)
        ]
    )
    fresh = np.ones(n, dtype=bool)
    medoids, gains = np.empty(k, dtype=np.int64), np.empty(k)
    nearest = np.zeros(n, dtype=np.int64)
    for step in range(k):
        while not fresh[best := int(bounds.argmax())]:
            stale = np.flatnonzero(~fresh & (bounds >= bounds[fresh].max(initial=0)))
            stale = stale[np.argsort(-bounds[stale], kind="stable")[:_AT_ONCE]]
            bounds[stale] = np.maximum(cover - distances(stale), 0).sum(axis=1)
            fresh[stale] = True
        medoids[step], gains[step] = best, bounds[best]
        own = distances(np.array([best]))[0]
        nearer = own < cover if step else np.ones(n, dtype=bool)
        nearest[nearer], cover[nearer] = step, own[nearer]
        bounds[best], fresh[:] = -np.inf, False
        fresh[medoids[: step + 1]] = True
    return Medoids(medoids, gains, nearest, np.bincount(nearest, minlength=k))


def _isolate(result: Isolation, residuals: np.ndarray, rows: np.ndarray, share: float) -> None:
    """Enter the isolated among some rows of one class into `result`."""
    if len(rows) < 2:
        return
    medoids = facility_location(residuals, max(1, round(share * len(rows))))
    result.size[rows] = medoids.sizes[medoids.nearest]
    alone = medoids.positions[medoids.sizes == 1]
    for start in range(0, len(alone), block := max(1, _BLOCK_NUMBERS // len(medoids.positions))):
        part = alone[start : start + block]
        far = cdist(residuals[part], residuals[medoids.positions])
        # Without itself, the nearest of all medoids.
        far[part[:, None] == medoids.positions] = np.inf
        result.score[rows[part]] = far.min(axis=1)
    result.isolated[rows[alone]] = True
