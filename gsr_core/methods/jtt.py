r"""Just train twice (JTT): samples that a first head gets wrong count many times in a second.

Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information" (ICML
2021, https://arxiv.org/abs/2107.09044):

.. math::
    E = \{i : \arg\max_k f_k(x_i) \neq y_i\}, \qquad w_i \propto 1 + (\mathrm{up} - 1) [i \in E] .

There the first model is a network stopped early. On frozen features it is one of three:

- a strongly penalised head, the default: on a convex loss it is close to the published early
  stopping from zero, without a number of steps to choose;
- the backbone's own head, which has not seen the held-out rows that it gets wrong, but is trained
  to the end: it has learned more than the shortcut;
- cross-fitted heads, so that no row is judged by a head that learned from it.

A weight of `up` is the same as `up` copies, and the second head is fitted exactly. Where classes
are unequal, E is often just the small class; then `class_balanced` does the same.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.linear.head import Head
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, settings
from gsr_core.methods.crossfit import crossfitted_logits, draw_folds
from gsr_core.methods.inner import InnerProblem, Refit

__all__ = ["JTT"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class JTT(Refit):
    """Refit the head with the misclassified samples counted many times."""

    name: ClassVar[str] = "jtt"
    title: ClassVar[str] = "JTT: just train twice"
    summary: ClassVar[str] = (
        "Finds the held-out samples that a first head gets wrong, and refits the head with each of "
        "them counted many times."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, labels are clean, and an early head errs on the minority."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **Refit.search,
        "identify": ("backbone", "early", "crossfit"),
        "early_l2": Range(0.1, 100),
        "up": Range(1, 200),
    }

    identify: Annotated[
        Literal["backbone", "early", "crossfit"],
        Field(
            description="Whose errors count. backbone: the backbone's own head, crossfit if there "
            "is none; early: a strongly penalised head; crossfit: heads that did not learn from "
            "the sample."
        ),
    ] = "early"
    up: Annotated[
        float, Field(ge=1, description="How many times a misclassified sample counts.")
    ] = 20.0
    early_l2: Annotated[
        float, Field(gt=0, description="Penalty of the early head; larger is earlier.")
    ] = 1.0
    folds: Annotated[int, Field(ge=2, le=50, description="Folds of the cross-fitting.")] = 5

    def weigh(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return the weights (n,): `up` shares for each sample that the first head gets wrong."""
        logits, judge = self._first_logits(problem, inner)
        wrong = logits.argmax(dim=1) != inner.labels
        weight = 1 + (self.up - 1) * wrong.to(inner.basis)
        note = (
            f"{int(wrong.sum())} of {len(wrong)} samples were misclassified by {judge} and count "
            f"{self.up:g} times."
        )
        return weight / weight.sum(), note

    def _first_logits(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return the (n, K) logits of the first head on the weighted rows, and its name."""
        features = problem.weighted.features
        if self.identify == "backbone" and problem.backbone_head is not None:
            return Head(*problem.backbone_head).logits(features), "the backbone's own head"
        if self.identify == "early":
            early = InnerProblem(
                problem, problem.weighted, l2=self.early_l2, standardise=self.standardise
            )
            head = early.step(early.uniform()).head
            return head.logits(features), f"a head of penalty {self.early_l2:g}"
        fold = draw_folds(problem.weighted, self.folds, np.random.default_rng(self.seed))
        return crossfitted_logits(inner, fold), "heads that did not learn from them"
