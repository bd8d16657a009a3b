r"""SELF by early-stop disagreement: retrain the head where an early and a final head disagree.

LaBonte, Muthukumar and Kumar, "Towards Last-Layer Retraining for Group Robustness with Fewer
Annotations" (NeurIPS 2023, https://arxiv.org/abs/2309.08534): held-out points are ranked by

.. math:: D_i = \mathrm{KL}\big(p^{\mathrm{final}}_i \,\Vert\, p^{\mathrm{early}}_i\big),

the top ones, equally many of each class, make a set in which minorities are over-represented, and
the last layer is retrained on it. Group labels are not read.

Where we differ:

- **Final** and **early** are both cross-fitted on the held-out rows, fold by fold the same, so that
  neither has seen the rows that it judges and both have learned from data of one kind. The
  backbone's own head as the final one has learned from other rows: the divergence then ranks by
  the offset between the two data sets, and can miss the conflicting samples of a whole class.
- **Early** is not a checkpoint, as frozen features have none, but a strong penalty: on a convex
  loss, early stopping from zero and a strong penalty trace nearly one path.
- A strong penalty also shrinks the logits, and the divergence would then rank by confidence of the
  final head, which is highest on the majority. So the early logits are first multiplied by the one
  number at which their cross-entropy is lowest (temperature scaling).
- Equally many are taken of each class, which the small class limits; the head is fitted exactly.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Values, settings
from gsr_core.methods.crossfit import crossfitted_logits, draw_folds
from gsr_core.methods.inner import InnerProblem, Refit

__all__ = ["SelfDisagreement", "best_scale", "divergence", "top_of_each_class"]

_SCALES = (1e-3, 1e6)
"""Range of the scale of the early logits; heads of any penalty in use lie inside."""
_BISECTIONS = 60
"""Halvings of that range in the log; they leave 2e-17, less than rounding does."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class SelfDisagreement(Refit):
    """Refit the head on the samples on which an early and a final head disagree most."""

    name: ClassVar[str] = "self"
    title: ClassVar[str] = "SELF: early-stop disagreement"
    summary: ClassVar[str] = (
        "Refits the head on the held-out samples, equally many of each class, on which a strongly "
        "penalised head and the final one disagree most."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and a strongly penalised head and the final one disagree on "
        "the minority."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.SUBSET
    search: ClassVar[SearchSpace] = {
        **Refit.search,
        "points": (20, 50, 100, 200, 500),
        "early_l2": Range(1.0, 300.0),
    }

    points: Annotated[
        int, Field(ge=2, le=1_000_000, description="Samples to retrain on, all classes together.")
    ] = 100
    early_l2: Annotated[
        float, Field(gt=0, description="Penalty of the early head; larger is earlier.")
    ] = 100.0
    folds: Annotated[int, Field(ge=2, le=50, description="Folds of the cross-fitting.")] = 5

    def weigh(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return the weights (n,): equal on the samples of most disagreement, zero off them."""
        rows = problem.weighted
        fold = draw_folds(rows, self.folds, np.random.default_rng(self.seed))
        early_inner = InnerProblem(problem, rows, l2=self.early_l2, standardise=self.standardise)
        early, final = (crossfitted_logits(each, fold) for each in (early_inner, inner))
        apart = divergence(final, best_scale(early, rows.labels) * early)
        chosen = top_of_each_class(apart, rows.labels, self.points // problem.n_classes)
        weight = chosen.to(inner.basis)
        note = (
            f"{int(chosen.sum())} of {len(rows)} samples, equally many of each class, are those on "
            "which cross-fitted heads and early ones disagree most."
        )
        return weight / weight.sum(), note


def divergence(final: Tensor, early: Tensor) -> Tensor:
    """Return (n,) KL(final, early) of the softmaxes of two sets of logits (n, K), nats."""
    final, early = final.log_softmax(dim=1), early.log_softmax(dim=1)
    return (final.exp() * (final - early)).sum(dim=1)


def best_scale(logits: Tensor, labels: Tensor) -> float:
    """Return the positive factor at which logits (n, K) have their lowest cross-entropy.

    The cross-entropy is convex in it, so its derivative is bisected; logits that are worse than
    zeros at every scale get the smallest.
    """
    truth = one_hot(labels, logits.shape[1]).to(logits)
    low, high = (float(each) for each in np.log(_SCALES))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        probabilities = (np.exp(middle) * logits).softmax(dim=1)
        if float(((probabilities - truth) * logits).sum()) < 0:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def top_of_each_class(score: Tensor, labels: Tensor, quota: int) -> Tensor:
    """Return (n,) bool: the rows of each class with the highest scores, equally many of each.

    Args:
        score: (n,).
        labels: (n,).
        quota: How many of each class; at least one, at most what the smallest class has.
    """
    members = [torch.where(labels == label)[0] for label in labels.unique()]
    quota = max(min(quota, *(len(each) for each in members)), 1)
    chosen = torch.zeros_like(labels, dtype=torch.bool)
    for each in members:
        chosen[each[score[each].argsort(descending=True, stable=True)[:quota]]] = True
    return chosen
