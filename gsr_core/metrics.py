"""How good a head is: per group, at worst, and by both kinds of average."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.data.stored import FeatureBlocks
from gsr_core.linear.head import Head

__all__ = ["GroupScores", "group_scores", "wilson_interval", "worst_group"]

_BLOCK = 2**24
"""Numbers that an array over rows may have while they are scored."""


@dataclass(frozen=True)
class GroupScores:
    """A head's scores on one split.

    Attributes:
        count: (m,) samples of each group.
        accuracy: (m,) fraction right; NaN for a group without samples.
        loss: (m,) mean cross-entropy, nats; NaN for a group without samples.
        mean_accuracy: Fraction right over all rows of the split, in a group or not.
        mean_loss: Mean cross-entropy over all rows, nats.
    """

    count: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    mean_accuracy: float
    mean_loss: float

    @property
    def worst_group_accuracy(self) -> float:
        """Lowest accuracy of any group that has samples."""
        return float(np.nanmin(self.accuracy))

    @property
    def worst_group_loss(self) -> float:
        """Highest loss of any group that has samples."""
        return float(np.nanmax(self.loss))

    def adjusted_accuracy(self, training_shares: np.ndarray | None) -> float:
        """Return the group accuracies weighted by the groups' shares of the training set.

        This is the average that the papers report on Waterbirds, whose test split is balanced
        while its training split is not.

        Args:
            training_shares: (m,) fractions that sum to one, or None where they are not known.

        Returns:
            A fraction; NaN without shares or if a group with a share has no samples here.
        """
        if training_shares is None:
            return math.nan
        present = training_shares > 0
        return float(training_shares[present] @ self.accuracy[present])


def group_scores(
    head: Head, features: Tensor | FeatureBlocks, labels: Tensor, groups: Tensor
) -> GroupScores:
    """Score a head.

    Args:
        head: On raw features.
        features: (n, d).
        labels: (n,) int64.
        groups: (n, m) bool; may overlap.
    """
    count = groups.sum(dim=0).cpu().numpy()
    # In float64 on the CPU, so that a fraction is exact on every device.
    per_group, overall = np.zeros((2, len(count))), np.zeros(2)
    size = max(_BLOCK // max(len(head.bias), features.shape[1], len(count)), 1)
    parts = features.split(size), labels.split(size), groups.split(size)
    for rows, label, members in zip(*parts, strict=True):
        logits = head.logits(rows)
        losses = cross_entropy(logits, label, reduction="none")
        correct = (logits.argmax(dim=1) == label).to(losses)
        each = torch.stack([losses, correct]).cpu().double().numpy()
        per_group += each @ members.cpu().double().numpy()
        overall += each.sum(axis=1)
    with np.errstate(invalid="ignore"):
        (loss, accuracy), (mean_loss, mean_accuracy) = per_group / count, overall / len(labels)
    return GroupScores(
        count=count.astype(np.int64),
        accuracy=accuracy,
        loss=loss,
        mean_accuracy=float(mean_accuracy),
        mean_loss=float(mean_loss),
    )


def worst_group(accuracy: np.ndarray) -> int:
    """Return the index of the group with the lowest accuracy; groups without one are skipped.

    Args:
        accuracy: (m,) fractions, NaN for a group without samples.

    Example:
        >>> worst_group(np.array([0.9, 0.3, np.nan]))
        1
    """
    return int(np.nanargmin(accuracy))


def wilson_interval(
    accuracy: np.ndarray | float, count: np.ndarray | int, z: float = 1.959964
) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's confidence interval of a fraction (Wilson, JASA 1927).

    Args:
        accuracy: Fractions in [0, 1].
        count: How many samples each fraction was measured on.
        z: Standard normal quantile; the default gives 95 %.

    Returns:
        Lower and upper ends, in [0, 1]; NaN where the count is 0.

    Example:
        >>> [round(float(end), 3) for end in wilson_interval(0.5, 100)]
        [0.404, 0.596]
    """
    share, n = np.asarray(accuracy, dtype=np.float64), np.asarray(count, dtype=np.float64)
    n = np.where(n > 0, n, np.nan)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
