r"""Learning from failure (LfF): a biased and a debiased head, trained together.

Nam et al., "Learning from Failure: Training Debiased Classifier from Biased Classifier" (NeurIPS
2020, https://arxiv.org/abs/2007.02561). The biased head descends the generalised cross-entropy
(`biased`), the debiased one the cross-entropy weighted with the relative difficulty

.. math:: W_i = \frac{b_i}{b_i + d_i}, \qquad
    b_i = \frac{\bar\ell_{b,i}}{\max_{j: y_j = y_i} \bar\ell_{b,j}}, \quad
    d_i = \frac{\bar\ell_{d,i}}{\max_{j: y_j = y_i} \bar\ell_{d,j}},

where the bars are exponential averages, over the updates, of each sample's cross-entropy, and W is
a constant to the gradient.

Where we differ: both heads take full-batch steps from zero, each of one over the curvature's bound;
W is divided by its sum, to whose scale the authors' Adam is blind. The head of a step is the
debiased head of the dynamics, as published; with `refit` it is fitted to the end under its W, which
is another method: a few hundred steps from zero stay far from that fit. The dynamics have no end:
the biased head goes on towards what is hard, so that `steps` and the selection stop them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.biased import curvature_bound, gce_gradient
from gsr_core.methods.inner import TOLERANCE, FittedHead
from gsr_core.methods.lookahead import Descent

__all__ = ["LfF", "relative_difficulty"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class LfF(FittedHead):
    """Weight samples by how much harder they are for a biased head than for a debiased one."""

    name: ClassVar[str] = "lff"
    title: ClassVar[str] = "LfF: learning from failure"
    summary: ClassVar[str] = (
        "Trains a biased and a debiased head together, and weights each held-out sample by how "
        "much harder it is for the biased one."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and the shortcut is learned faster than the classes."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    before: ClassVar[Mapping[str, str | float | bool]] = {"refit": True}
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "q": (0.3, 0.5, 0.7, 0.9),
        "updates": Range(3, 100),
        "refit": (False, True),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Heads that are scored, one after another.")
    ] = 20
    updates: Annotated[
        int,
        Field(ge=1, le=100_000, description="Full-batch steps of both heads between two of them."),
    ] = 20
    refit: Annotated[
        bool,
        Field(description="Score heads that are fitted to the end under the weights instead."),
    ] = False
    q: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Exponent of the biased head's generalised cross-entropy; towards 0 it is "
            "cross-entropy.",
        ),
    ] = 0.7
    average: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of the past in the running mean of each loss."),
    ] = 0.7

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield a head after every `updates` updates, without end; the driver counts.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from zero heads if None.
        """
        inner = self.inner(problem)
        bound = curvature_bound(inner)
        descent, n = Descent(bound), len(inner.labels)
        uniform = inner.objective(inner.uniform())
        weight, zero = uniform.sample_weight, uniform.at(inner.zero())
        stored = inner.resume(
            checkpoint,
            biased=zero.u,
            debiased=zero.u,
            biased_loss=zero.losses,
            debiased_loss=zero.losses,
        )
        biased, debiased = stored["biased"], stored["debiased"]
        biased_loss, debiased_loss = stored["biased_loss"], stored["debiased_loss"]

        while True:
            for _ in range(self.updates):
                at_biased, at_debiased = uniform.at(biased), uniform.at(debiased)
                biased_loss = torch.lerp(at_biased.losses, biased_loss, self.average)
                debiased_loss = torch.lerp(at_debiased.losses, debiased_loss, self.average)
                difficulty = relative_difficulty(biased_loss, debiased_loss, inner.labels)
                weight = difficulty / difficulty.sum()
                biased = biased - gce_gradient(inner, at_biased, self.q) / bound
                objective = inner.objective(weight)
                gradient = objective.gradient(at_debiased)
                debiased = debiased - gradient / descent.curvature(objective)

            inner.forget()
            failed = uniform.at(biased).probabilities.argmax(dim=1) != inner.labels
            kept = {
                "biased": biased,
                "debiased": debiased,
                "biased_loss": biased_loss,
                "debiased_loss": debiased_loss,
            }
            note = f"The biased head is wrong on {int(failed.sum())} of {n} samples."
            if self.refit:
                yield inner.step(weight, debiased, checkpoint=kept, note=note)
                continue
            fit = inner.solver.minimise(
                inner.objective(weight), debiased, tolerance=TOLERANCE, max_iterations=0
            )
            yield inner.as_step(fit, weight, solved=True, checkpoint=kept, note=note)


def relative_difficulty(biased_loss: Tensor, debiased_loss: Tensor, labels: Tensor) -> Tensor:
    """Return (n,) in [0, 1]: each sample's share of the biased head in its two relative losses.

    Args:
        biased_loss: (n,) nats, each divided by the largest of its class.
        debiased_loss: (n,) nats, likewise.
        labels: (n,).
    """
    biased, debiased = (_by_class_maximum(each, labels) for each in (biased_loss, debiased_loss))
    total = biased + debiased
    # Both are 0 where both heads are certain: then neither fails more than the other.
    return torch.where(total > 0, biased / total.where(total > 0, 1), 0.5)


def _by_class_maximum(loss: Tensor, labels: Tensor) -> Tensor:
    largest = loss.new_zeros(int(labels.max()) + 1)
    largest = largest.scatter_reduce(0, labels, loss, "amax")
    return loss / largest[labels].clamp(min=torch.finfo(loss.dtype).tiny)
