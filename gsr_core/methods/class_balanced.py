r"""Class balancing: every class carries the same weight, whatever its size.

The plainest repair, and the reference that separates what group labels bring from what a balanced
loss brings by itself (the CB, RWY of Idrissi, Arjovsky, Pezeshki and Lopez-Paz, "Simple data
balancing achieves competitive worst-group-accuracy", CLeaR 2022):

.. math:: w_i = \frac{n}{K \, n_{y_i}} ,

here divided by n, so that the weights sum to one. K counts the classes that have a row. The head
is fitted to convergence, where they train a network for some epochs.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, settings
from gsr_core.methods.inner import InnerProblem, Refit

__all__ = ["ClassBalanced", "class_balanced_weight"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class ClassBalanced(Refit):
    """Fit the head with the same total weight on every class."""

    name: ClassVar[str] = "class_balanced"
    title: ClassVar[str] = "CB: class balancing"
    summary: ClassVar[str] = (
        "Refits the head on the held-out rows so that every class carries the same weight."
    )
    use_when: ClassVar[str] = "The classes are of very unequal size, and nobody labelled groups."
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE

    def weigh(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return the weights (n,) that give every class the same sum."""
        del problem
        weight = class_balanced_weight(inner.labels, inner.uniform())
        low, high = (float(end) * len(weight) for end in weight.aminmax())
        note = (
            f"Samples of the largest class count {low:.3g} times, those of the smallest {high:.3g} "
            "times."
        )
        return weight, note


def class_balanced_weight(labels: Tensor, like: Tensor) -> Tensor:
    """Return weights that give every class the same sum.

    Args:
        labels: (n,) int64.
        like: A tensor whose precision to use.

    Returns:
        (n,), sums to one.

    Example:
        >>> class_balanced_weight(torch.tensor([0, 0, 0, 1]), torch.ones(1, dtype=torch.float64))
        tensor([0.1667, 0.1667, 0.1667, 0.5000], dtype=torch.float64)
    """
    count = torch.bincount(labels).to(like)
    return 1 / (count[labels] * (count > 0).sum())
