"""Group-balanced subsampling (SUBG): the head fitted on as many rows of each group as the smallest.

Idrissi, Arjovsky, Pezeshki and Lopez-Paz, "Simple data balancing achieves competitive
worst-group-accuracy" (CLeaR 2022). Rows are drawn without replacement, once; the subset S is G
times as large as the smallest group that has rows, and its rows weigh 1/|S|. Where groups overlap
a row may be drawn for two of them and then counts twice. Rows in no known group are never drawn.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Values, settings
from gsr_core.methods.draws import per_row
from gsr_core.methods.inner import InnerProblem, Refit
from gsr_core.methods.rwg import groups_with_rows

__all__ = ["SUBG", "balanced_subset"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class SUBG(Refit):
    """Fit the head on a random subset in which all groups are equally large."""

    name: ClassVar[str] = "subg"
    title: ClassVar[str] = "SUBG: group-balanced subsample"
    summary: ClassVar[str] = (
        "Refits the head on a random part of the held-out rows in which every group is as large "
        "as the smallest."
    )
    use_when: ClassVar[str] = (
        "Every row to fit on has a group label, and even the smallest group has hundreds."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN
    values: ClassVar[Values] = Values.SUBSET

    def weigh(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return the weights (n,): equal on the subset that was drawn, zero off it."""
        drawn = balanced_subset(problem.weighted, np.random.default_rng(self.seed))
        weight = inner.basis.new_tensor(drawn / drawn.sum())
        return weight, f"{int((drawn > 0).sum()):,} of {len(drawn):,} samples were drawn."


def balanced_subset(rows: Rows, generator: np.random.Generator) -> np.ndarray:
    """Draw a group-balanced subset.

    Every group that has rows gives as many, drawn without replacement, as the smallest has.

    Args:
        rows: n rows, one of them in a group.
        generator: Is advanced.

    Returns:
        (n,) int64, for how many groups each row was drawn.
    """
    members = rows.groups[:, groups_with_rows(rows)].cpu().numpy()
    size = members.sum(axis=0).min()
    drawn = np.zeros(len(rows), dtype=np.int64)
    for column in members.T:
        # Rows of other groups come last.
        numbers = np.where(column, per_row(rows, generator), np.inf)
        drawn[np.argsort(numbers)[:size]] += 1
    return drawn
