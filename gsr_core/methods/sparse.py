"""Heads with an l1 penalty, and methods that fit their heads with either penalty.

The penalty is given as a fraction of that at which all weights are zero, which means the same on
any data: towards 1 a head uses only the feature that is easiest.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.head import Head
from gsr_core.linear.l1 import L1Fit, L1Objective
from gsr_core.methods.base import SETTINGS_CONFIG, Range, SearchSpace, Step, settings
from gsr_core.methods.inner import TOLERANCE, FittedHead

__all__ = ["EitherPenalty", "SparseProblem"]


class SparseProblem:
    """Fits weighted heads with an l1 penalty on one set of rows."""

    def __init__(self, problem: Problem, rows: Rows, *, standardise: bool) -> None:
        """Map the rows to design coordinates; of features that stay in their file, all are read.

        Args:
            problem: Gives the number of classes and the precision.
            rows: The rows to fit on.
            standardise: Whether to standardise the features on `rows`.
        """
        wide = problem.compute.accumulate_dtype
        # In the row space the l1 norm would be that of rotated features.
        self._map = FeatureMap.fit(
            rows.source, standardise=standardise, dtype=wide, row_space=False
        )
        self.design = self._map.design(rows.features, wide)
        self.labels = rows.labels
        self._n_classes = problem.n_classes

    def uniform(self) -> Tensor:
        """Return the weights 1/n."""
        return self.design.new_full((len(self.labels),), 1 / len(self.labels))

    def fit(self, sample_weight: Tensor, fraction: float) -> L1Fit:
        """Fit the head under weights (n,) that sum to one.

        Args:
            sample_weight: (n,).
            fraction: The penalty, as a fraction of that at which all weights are zero.
        """
        counts = sample_weight > 0
        objective = L1Objective(
            self.design[counts], self.labels[counts], sample_weight[counts], self._n_classes
        )
        return objective.fit(fraction * objective.rho_max, tolerance=TOLERANCE)

    def head(self, fit: L1Fit) -> Head:
        """Return a fitted head on raw features."""
        return self._map.head(fit.theta)

    def step(self, sample_weight: Tensor, fraction: float, note: str = "") -> Step:
        """Fit the head as `fit` does and return it as a step, whose note is extended."""
        fit = self.fit(sample_weight, fraction)
        note += f" {fit.n_features:,} of {len(fit.theta) - 1:,} features have a weight."
        if not fit.converged:
            note += f" The fit of the head is not solved: {fit.ending}."
        return Step(
            head=self.head(fit),
            sample_weight=sample_weight,
            objective=fit.value,
            gradient_norm=fit.residual,
            relative_gradient_norm=fit.relative_residual,
            solved=fit.converged,
            note=note.strip(),
        )


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class EitherPenalty(FittedHead, ABC):
    """A method that fits its heads with an l2 or an l1 penalty."""

    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "penalty": ("l2", "l1"),
        "rho": Range(0.01, 0.5),
    }

    penalty: Annotated[
        Literal["l2", "l1"],
        Field(
            description="Of the fitted heads. l2: as in all other methods; l1: sparse, as "
            "published, without influence."
        ),
    ] = "l2"
    rho: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="l1: penalty on the sizes of the weights, as a fraction of that at which "
            "all are zero; the bias is free.",
        ),
    ] = 0.1

    def refit(self, problem: Problem) -> Callable[[Tensor, str], Step]:
        """Return what fits a head under weights (n,) of the weighted rows, with a note.

        Each fit starts anew, so that none depends on those before it.
        """
        rows = problem.weighted
        if self.penalty == "l1":
            sparse = SparseProblem(problem, rows, standardise=self.standardise)
            return lambda weight, note: sparse.step(weight, self.rho, note)
        inner = self.inner(problem)
        target = inner.scored(problem.target)

        def step(weight: Tensor, note: str) -> Step:
            inner.forget()
            return inner.step(weight, target=target, note=note)

        return step
