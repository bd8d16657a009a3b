r"""Group-balanced weights (RWG): every group is drawn equally often.

Idrissi, Arjovsky, Pezeshki and Lopez-Paz, "Simple data balancing achieves competitive
worst-group-accuracy" (CLeaR 2022), draw batches with probabilities

.. math:: p_i \propto \sum_{g \ni i} \frac{1}{n_g} ,

that is, first a group, all equally likely, then one of its rows. The head that such batches lead
to is the one that minimises the expected loss, which is the loss weighted by p; it is fitted
exactly instead of drawn for. A row in several groups has the sum of its chances, a row in no known
group has none, and a group without rows is left out.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Values, settings
from gsr_core.methods.inner import InnerProblem, Refit

__all__ = ["RWG", "group_shares", "groups_with_rows"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class RWG(Refit):
    """Fit the head as if every group were drawn equally often."""

    name: ClassVar[str] = "rwg"
    title: ClassVar[str] = "RWG: group-balanced weights"
    summary: ClassVar[str] = (
        "Refits the head on the held-out rows as if every group were drawn equally often."
    )
    use_when: ClassVar[str] = (
        "Every row to fit on has a group label, and the smallest group has dozens."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN
    values: ClassVar[Values] = Values.PROBABILITIES

    def weigh(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return each row's chance (n,) if first a group is drawn and then one of its rows."""
        shares = group_shares(problem.weighted, inner.basis)
        weight = shares.mean(dim=1)
        outside = int((weight == 0).sum())
        note = f"Each of {shares.shape[1]} groups is drawn with probability 1/{shares.shape[1]}."
        if outside:
            note += f" {outside:,} of {len(weight):,} samples are in no known group: never drawn."
        return weight, note


def groups_with_rows(rows: Rows) -> Tensor:
    """Return which groups have rows, (m,) bool.

    Raises:
        SettingError: If there is none, so that there is nothing to balance.
    """
    present = rows.groups.any(dim=0)
    if not bool(present.any()):
        raise SettingError(
            f"none of the {len(rows):,} rows to fit on is in a known group; choose a method that "
            "does not read their groups"
        )
    return present


def group_shares(rows: Rows, like: Tensor) -> Tensor:
    """Return the uniform distribution over each group that has rows.

    Args:
        rows: n rows, one of them in a group.
        like: A tensor whose precision to use.

    Returns:
        (n, m') one column for each of the m' groups with rows, in their order; each sums to one.
    """
    members = rows.groups[:, groups_with_rows(rows)].to(like)
    return members / members.sum(dim=0)
