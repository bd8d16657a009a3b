r"""Reference heads of an inference: early, converged, or the backbone's own.

Early in training from zero a head follows the strongest feature alone, which is the shortcut where
there is one: SPARE and EIIL build on that. Instead of their one or two epochs of minibatch steps
there are a few full-batch steps of gradient descent without a penalty, in units of 1 / L, where L
bounds the curvature. So "early" means the same on any data, and nothing is drawn.

The features are centred and divided by one number, their spread, so that penalties do not depend
on a unit; but they are not standardised one by one: the size of a feature decides how early it is
learnt, and how much it tells where labelled rows are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.inference.base import splits_of
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.head import Head
from gsr_core.linear.objective import Objective, centred_basis, times, transposed_times
from gsr_core.linear.solver import Solver

__all__ = [
    "EARLY_STEPS",
    "STEP_SIZE",
    "Reference",
    "by_spread",
    "early_heads",
    "fitted_head",
    "largest_curvature",
    "logits_of_splits",
    "reference_head",
]

Reference = Literal["backbone", "early", "converged"]
"""Which head; `backbone` is an early one where the bundle has no head of the backbone."""

EARLY_STEPS = 4
"""Gradient steps of an early head."""
STEP_SIZE = 0.25
"""Of gradient descent, in units of 1 / L; above 2 it would diverge."""

_POWER_ITERATIONS = 30
"""They give L from below; steps of a quarter of 1 / L have room for what is missing."""
_TOLERANCE = 1e-8
"""Relative gradient norm of a converged head."""


def reference_head(problem: Problem, reference: Reference, l2: float = 1e-3) -> Head:
    """Return the reference head.

    Args:
        problem: The data; a head is fitted on its weighted rows.
        reference: Which head.
        l2: Penalty of a converged one.
    """
    if reference == "converged":
        return fitted_head(problem, problem.weighted, l2=l2)
    if reference == "backbone" and problem.backbone_head is not None:
        return Head(*problem.backbone_head)
    return early_heads(problem, [EARLY_STEPS])[0]


def fitted_head(problem: Problem, rows: Rows, *, l2: float, n_classes: int | None = None) -> Head:
    """Return the head of least mean cross-entropy and penalty on some rows.

    Args:
        problem: Gives the precision.
        rows: To fit on.
        l2: Penalty on all parameters.
        n_classes: Of `rows.labels`; those of the problem if None.
    """
    to_design, objective = _objective(problem, rows, l2, n_classes or problem.n_classes)
    fit = Solver().minimise(objective, objective.zero(), tolerance=_TOLERANCE)
    return to_design.head(fit.state.u @ objective.basis.T)


def early_heads(problem: Problem, steps: Sequence[int]) -> list[Head]:
    """Return the heads after some numbers of steps from zero, on the weighted rows.

    Args:
        problem: The data.
        steps: Increasing numbers of gradient steps.
    """
    to_design, objective = _objective(problem, problem.weighted, 0.0, problem.n_classes)
    size = STEP_SIZE / largest_curvature(objective.design, objective.basis)
    u, heads = objective.zero(), []
    for step in range(1, steps[-1] + 1):
        u = u - size * objective.gradient(objective.at(u))
        if step in steps:
            heads.append(to_design.head(u @ objective.basis.T))
    return heads


def by_spread(features: Tensor, dtype: torch.dtype) -> FeatureMap:
    """Return the map that centres features (n, d) and divides all by one number, their spread.

    Args:
        features: Of the rows to fit on, in whose span the map works if that is smaller.
        dtype: Precision of the map.
    """
    variance, mean = torch.var_mean(features.to(dtype), dim=0, correction=0)
    spread = variance.mean().sqrt()
    spread = torch.where(spread > 0, spread, 1.0)
    return FeatureMap(mean, spread.expand_as(mean), None).in_row_space(features)


def logits_of_splits(problem: Problem, head: Head) -> dict[str, np.ndarray]:
    """Return a head's (n, K) logits of the rows of `weighted`, `target` and `val`, float64."""
    wide = problem.compute.accumulate_dtype
    return {
        split: head.logits(rows.features.to(wide)).double().cpu().numpy()
        for split, rows in splits_of(problem).items()
    }


def _objective(
    problem: Problem, rows: Rows, l2: float, n_classes: int
) -> tuple[FeatureMap, Objective]:
    compute = problem.compute
    to_design = by_spread(rows.features, compute.accumulate_dtype)
    basis = centred_basis(n_classes, to_design.mean)
    design = to_design.design(rows.features, compute.design_dtype)
    uniform = basis.new_full((len(rows),), 1 / len(rows))
    return to_design, Objective(design, rows.labels, uniform, l2, basis)


def largest_curvature(design: Tensor, like: Tensor) -> float:
    """Return L: half the largest eigenvalue of the design's second moments.

    Args:
        design: (n, p) rows; of weighted ones, each times the root of n times its weight.
        like: A tensor whose precision to use.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(design.shape[1], 1, generator=generator, dtype=torch.float64)
    direction, largest = direction.to(like), direction.new_ones(()).to(like)
    for _ in range(_POWER_ITERATIONS):
        direction = direction / direction.norm()
        moved: Tensor = transposed_times(design, times(design, direction)) / len(design)
        largest, direction = moved.norm(), moved
    # The curvature of a softmax by its logits is at most one half.
    return float(largest) / 2
