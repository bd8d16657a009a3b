r"""Per-sample gradient-norm debiasing (PGD): samples that move a biased head most are drawn most.

Ahn, Kim and Yun, "Mitigating Dataset Bias by Using Per-sample Gradient" (ICLR 2023,
https://arxiv.org/abs/2205.15704). A head is trained with the generalised cross-entropy (`biased`);
then, by the *cross-entropy*, with residuals e and standardised features z,

.. math::
    r_i = \lVert \nabla_{W, b}\, \ell_i \rVert_s = \lVert p_i - e_{y_i} \rVert_s \,
          \lVert [z_i; 1] \rVert_s, \qquad h_i = r_i^k \Big/ \sum_j r_j^k ,

because the gradient is an outer product, whose entrywise norms factorise. h are the probabilities
with which samples are drawn to train a second head.

Where we differ: the paper's second model goes on from the first by stochastic steps on draws from
h. The mean of such a step is the gradient of the loss weighted with h, which is convex in a head;
so that is fitted exactly, and where it starts does not matter. `resample` instead fits n draws with
replacement, what a network would see in one epoch; the values of the samples are h either way. The
biased head is stopped by its number of steps: the surer it gets, the more of the mass goes to the
samples that conflict with it, up to well beyond balance; the note gives the share of the top.
Augmentation has no meaning on cached features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from gsr_core.data.problem import Problem, Rows
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.objective import State
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Step,
    Values,
    settings,
)
from gsr_core.methods.biased import curvature_bound, gce_gradient
from gsr_core.methods.inner import FittedHead, InnerProblem

__all__ = ["PGD", "GradientSampling", "biased_state", "gradient_norms", "top_in_words"]

_ORDERS = {"l1": 1.0, "l2": 2.0, "linf": float("inf")}
_TOP = 0.1
"""Share of the samples whose probability the note gives."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GradientSampling:
    """How biased the first model is, and how often a sample is drawn by its gradient there."""

    alpha: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Exponent of the generalised cross-entropy; towards 0 it is cross-entropy.",
        ),
    ] = 0.7
    norm: Annotated[Literal["l1", "l2", "linf"], Field(description="Norm of the gradients.")] = "l2"
    power: Annotated[float, Field(gt=0, description="Power to which the norms are raised.")] = 1.0

    def chances(self, design: Tensor, residuals: Tensor) -> Tensor:
        """Return h (n,), which sums to one.

        Args:
            design: (n, d + 1) features and a one.
            residuals: (n, K) probabilities less the one-hot label.
        """
        score = gradient_norms(design, residuals, self.norm) ** self.power
        return score / score.sum()


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class PGD(GradientSampling, FittedHead):
    """Refit the head on samples drawn by the gradient norm that they have at a biased head."""

    name: ClassVar[str] = "pgd"
    title: ClassVar[str] = "PGD: per-sample gradient norms"
    summary: ClassVar[str] = (
        "Trains a deliberately biased head, and refits the head with each held-out sample drawn in "
        "proportion to the norm of its gradient there."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, labels are clean, and the minority is very small."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.PROBABILITIES
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "alpha": (0.3, 0.5, 0.7, 0.9),
        "updates": Range(3, 1000),
    }

    updates: Annotated[
        int, Field(ge=1, le=100_000, description="Full-batch steps of the biased head.")
    ] = 10
    resample: Annotated[
        bool,
        Field(
            description="Fit the head on as many samples as there are, drawn with replacement, "
            "instead of with the probabilities as weights."
        ),
    ] = False

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one step.

        Args:
            problem: The data.
            checkpoint: Not used; there is nothing to go on from.
        """
        inner, rows = self.inner(problem), problem.weighted
        state = biased_state(inner, exponent=self.alpha, updates=self.updates)
        residuals = state.probabilities - one_hot(rows.labels, problem.n_classes)
        dtype = problem.compute.accumulate_dtype
        # In the row space the l1 and linf norms would be those of rotated features.
        scaling = FeatureMap.fit(
            rows.features, standardise=self.standardise, dtype=dtype, row_space=False
        )
        probability = self.chances(scaling.design(rows.features, dtype), residuals)
        weight = self._draw(rows, probability) if self.resample else probability
        note = top_in_words(probability)
        step = inner.step(weight, target=inner.scored(problem.target), note=note)
        yield replace(step, sample_weight=probability)

    def _draw(self, rows: Rows, probability: Tensor) -> Tensor:
        """Return (n,) how often each row is drawn, as a share of the n draws."""
        # In the order of the bundle, so that the same samples in another order draw the same.
        order = torch.from_numpy(np.argsort(rows.position, kind="stable")).to(rows.labels.device)
        generator = np.random.default_rng(self.seed)
        chances = probability[order].cpu().numpy()
        counts = generator.multinomial(len(rows), chances / chances.sum())
        weight = torch.empty_like(probability)
        weight[order] = torch.from_numpy(counts).to(probability)
        return weight / len(rows)


def biased_state(inner: InnerProblem, *, exponent: float, updates: int) -> State:
    """Return the head after some full-batch steps on the generalised cross-entropy from zero."""
    objective = inner.objective(inner.uniform())
    size = 1 / curvature_bound(inner)
    state = objective.at(inner.zero())
    for _ in range(updates):
        state = objective.at(state.u - size * gce_gradient(inner, state, exponent))
    return state


def gradient_norms(design: Tensor, residuals: Tensor, norm: str) -> Tensor:
    """Return the norm of each row's cross-entropy gradient by the head's weight and bias.

    Args:
        design: (n, d + 1) features and a one.
        residuals: (n, K) probabilities less the one-hot label.
        norm: l1, l2 or linf, over all entries of the gradient.
    """
    order = _ORDERS[norm]
    vector_norm = torch.linalg.vector_norm
    return vector_norm(residuals, order, dim=1) * vector_norm(design, order, dim=1)


def top_in_words(probability: Tensor) -> str:
    """Return a sentence about how often the samples with the largest gradients (n,) are drawn."""
    top = max(int(_TOP * len(probability)), 1)
    mass = float(probability.sort(descending=True).values[:top].sum())
    return (
        f"The {_TOP:.0%} of the samples with the largest gradients are drawn {mass:.0%} of the "
        "time."
    )
