r"""Class balancing: every class carries the same weight, whatever its size.

The plainest repair, and the reference that separates what group labels bring from what a balanced
loss brings by itself (the CB, RWY of Idrissi, Arjovsky, Pezeshki and Lopez-Paz, "Simple data
balancing achieves competitive worst-group-accuracy", CLeaR 2022):

.. math:: w_i = \frac{n}{K \, n_{y_i}} ,

here divided by n, so that the weights sum to one. K counts the classes that have a row. The head
is fitted to convergence, where they train a network for some epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Step, settings
from gsr_core.methods.inner import FittedHead

__all__ = ["ClassBalanced", "class_balanced_weight"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class ClassBalanced(FittedHead):
    """Fit the head with the same total weight on every class."""

    name: ClassVar[str] = "class_balanced"
    title: ClassVar[str] = "CB: class balancing"
    summary: ClassVar[str] = (
        "Refits the head on the held-out rows so that every class carries the same weight."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one step.

        Args:
            problem: The data.
            checkpoint: Not used; there is nothing to go on from.
        """
        inner = self.inner(problem)
        weight = class_balanced_weight(inner.labels, inner.uniform())
        low, high = (float(end) * len(weight) for end in weight.aminmax())
        note = (
            f"Samples of the largest class count {low:.3g} times, those of the smallest {high:.3g} "
            "times."
        )
        yield inner.step(weight, target=inner.scored(problem.target), note=note)


def class_balanced_weight(labels: Tensor, like: Tensor) -> Tensor:
    """Return weights that give every class the same sum.

    Args:
        labels: (n,) int64.
        like: A tensor whose precision to use.

    Returns:
        (n,), sums to one.
    """
    count = torch.bincount(labels).to(like)
    return 1 / (count[labels] * (count > 0).sum())
