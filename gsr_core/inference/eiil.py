r"""EIIL's groups: the two environments under which a reference head is least invariant.

Creager, Jacobsen and Zemel, "Environment Inference for Invariant Learning" (ICML 2021): with soft
assignments :math:`q_i = \operatorname{sigmoid}(e_i)` and a scalar w = 1 on the logits z,

.. math::
    \max_e \; \tfrac12 \Big( \big(\tfrac1n \sum_i q_i d_i\big)^2
    + \big(\tfrac1n \sum_i (1 - q_i) d_i\big)^2 \Big), \qquad
    d_i = \frac{\partial \ell_i(w z)}{\partial w}\Big|_{w=1} = \sum_k p_{ik} z_{ik} - z_{i y_i} ,

by Adam on e, one number a row; then q > 1/2 is one environment. With d in closed form no network is
needed. The two terms have a constant sum, so the maximum puts all positive d on one side: the
environments are the rows whose loss rises when the logits are scaled up, for two classes exactly
the misclassified ones, and the rest. Rows that the search did not see go to the side their
derivative pushes them to, which is that same rule.

The groups are environment by class.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    GroupInference,
    InferredGroups,
    Space,
    by_environment,
    settings,
    splits_of,
)
from gsr_core.inference.references import Reference, logits_of_splits, reference_head
from gsr_core.linear.head import Head

__all__ = [
    "EIILInference",
    "EnvironmentRate",
    "EnvironmentSteps",
    "Restarts",
    "loss_by_scale",
    "penalty",
    "search",
]

_DECAY, _EPSILON = (0.9, 0.999), 1e-8
"""Adam's usual constants."""


EnvironmentSteps = Annotated[
    int, Field(ge=1, le=100_000, description="Steps of Adam on the assignment.")
]
EnvironmentRate = Annotated[float, Field(gt=0, description="Step size of Adam.")]
Restarts = Annotated[
    int, Field(ge=1, le=50, description="Starts at random; the largest penalty is taken.")
]


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class EIILInference(GroupInference):
    """Split the rows so that a reference head differs most between the two parts."""

    title: ClassVar[str] = "EIIL: inferred environments"
    summary: ClassVar[str] = (
        "Splits the samples so that a reference head differs most between the two parts, which "
        "are those that it gets right and wrong."
    )
    space: ClassVar[Space] = "logits"

    reference: Annotated[
        Reference,
        Field(
            description="The head whose failures are split off: one stopped early, as published, "
            "the backbone's own (an early one where there is none), or one fitted to the end."
        ),
    ] = "early"
    environment_steps: EnvironmentSteps = 500
    environment_lr: EnvironmentRate = 0.1
    restarts: Restarts = 3

    def reference_of(self, problem: Problem) -> Head:
        """Return the head whose failures are split off.

        Args:
            problem: As `infer` gives it.
        """
        return reference_head(problem, self.reference)

    def partition(self, problem: Problem) -> InferredGroups:
        """Search the environments on the weighted rows.

        Args:
            problem: As `infer` gives it.
        """
        logits = logits_of_splits(problem, self.reference_of(problem))
        derivative = {
            split: loss_by_scale(torch.from_numpy(logits[split]), rows.labels.cpu())
            for split, rows in splits_of(problem).items()
        }
        own = derivative["weighted"]
        generator = torch.Generator().manual_seed(self.seed)
        start = torch.randn(self.restarts, len(own), generator=generator, dtype=own.dtype)
        assignment = search(own, start, steps=self.environment_steps, lr=self.environment_lr)
        reached = penalty(own, assignment)
        best = int(reached.argmax())
        soft = assignment[best]
        # The derivative of the penalty by an assignment has the sign of d times this.
        side = float(own @ (2 * soft - 1))
        environment = {
            split: (soft > 0.5 if split == "weighted" else side * each > 0).numpy()
            for split, each in derivative.items()
        }
        share = float((soft > 0.5).double().mean())
        choice = (
            f"the largest penalty of {self.restarts} starts, {float(reached[best]):.3g}, puts "
            f"{min(share, 1 - share):.1%} of the samples into the smaller environment"
        )
        candidates = [
            {"start": each, "penalty": float(value), "chosen": each == best}
            for each, value in enumerate(reached)
        ]
        return by_environment(problem, environment, choice, candidates)


def loss_by_scale(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (n,) derivatives of each loss by a factor on the logits, at one.

    Args:
        logits: (n, K).
        labels: (n,) int64 classes.
    """
    expected = (logits.softmax(dim=1) * logits).sum(dim=1)
    return expected - logits.gather(1, labels[:, None]).squeeze(1)


def penalty(derivative: Tensor, assignment: Tensor) -> Tensor:
    """Return (s,) mean squared derivatives of the two environments' losses.

    Args:
        derivative: (n,) from `loss_by_scale`.
        assignment: (s, n) shares of each row in the first environment, in [0, 1].
    """
    first = assignment @ derivative / len(derivative)
    second = (1 - assignment) @ derivative / len(derivative)
    return (first.square() + second.square()) / 2


def search(derivative: Tensor, start: Tensor, *, steps: int, lr: float) -> Tensor:
    """Climb the penalty by Adam from several starts at once.

    Args:
        derivative: (n,).
        start: (s, n) logits of the assignments.
        steps: How many.
        lr: Step size.

    Returns:
        (s, n) assignments in (0, 1).
    """
    # Adam does not see the scale of the objective but for its epsilon.
    scaled = derivative / derivative.abs().max().clamp(min=torch.finfo(derivative.dtype).tiny)
    logits, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, steps + 1):
        soft = logits.sigmoid()
        side = (2 * soft - 1) @ scaled
        gradient = side[:, None] * scaled * soft * (1 - soft)
        mean = _DECAY[0] * mean + (1 - _DECAY[0]) * gradient
        square = _DECAY[1] * square + (1 - _DECAY[1]) * gradient.square()
        corrected = (square / (1 - _DECAY[1] ** step)).sqrt() + _EPSILON
        logits = logits + lr * mean / (1 - _DECAY[0] ** step) / corrected
    return logits.sigmoid()
