"""Last-layer retraining (LLR): the head refitted on the held-out rows at uniform weights.

It is step 1 of every reweighting method, and separates what new rows bring from what their
weights bring. Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for
Robustness to Spurious Correlations" (ICLR 2023), study it with group-balanced rows.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Values, settings
from gsr_core.methods.inner import InnerProblem, Refit

__all__ = ["LLR"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class LLR(Refit):
    """Refit the head on the held-out rows, all weights equal."""

    name: ClassVar[str] = "llr"
    title: ClassVar[str] = "LLR: last-layer retraining"
    summary: ClassVar[str] = (
        "Refits the head on the held-out rows at equal weights: what new rows bring without "
        "reweighting."
    )
    use_when: ClassVar[str] = "Always: what new rows alone bring, without any reweighting."
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.NONE

    def weigh(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return the weights 1/n."""
        note = "The head refitted at uniform weights."
        if problem.weighted_split == "train":
            note = (
                "The bundle has no heldout split: the head was refitted at uniform weights on "
                "train, the rows that the backbone was trained on."
            )
        return inner.uniform(), note
