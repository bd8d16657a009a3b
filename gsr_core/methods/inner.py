"""The inner problem of every method that fits a weighted head on frozen features.

**Going on from a checkpoint.** A run that was interrupted gives, on a CPU, the bits of one that was
not. So a checkpoint has to hold, or a step has to `forget`, all that decides how numbers round:
where the next fit starts, and the factor that the solver works with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.data.stored import StoredFeatures
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.head import Head
from gsr_core.linear.influence import (
    EXACT,
    Influence,
    Inverted,
    influence,
    mean_shares,
)
from gsr_core.linear.objective import HeadObjective, Objective, State, centred_basis
from gsr_core.linear.solver import Fit, Solver
from gsr_core.linear.streaming import StreamedObjective
from gsr_core.methods.base import SETTINGS_CONFIG, Method, Range, SearchSpace, Step, settings

__all__ = ["TOLERANCE", "Fitted", "FittedHead", "InnerProblem", "Refit", "Scored", "invert_exactly"]

_WORTH_ROUGH = 2**22
"""Least size of the rows, in numbers, for which products in float32 pay for a copy: what a cache
does not hold."""
_CLEAR = 32
"""How far the smallest curvature must be above what float32 rounds away of the largest."""
_AT_ONCE = 2**23
"""Numbers that one array over a head and several groups may have."""
TOLERANCE = 1e-8
"""Gradient norm to which every fit is taken, relative to the norm at the zero head."""


@dataclass(frozen=True)
class Scored:
    """Group-labelled rows in design coordinates, ready for losses and gradients.

    Attributes:
        losses: Their mean loss, without a penalty.
        groups: (N, m) bool.
    """

    losses: HeadObjective
    groups: Tensor

    def __len__(self) -> int:
        """Return the number of rows N."""
        return len(self.groups)

    def at(self, u: Tensor) -> State:
        """Evaluate the rows under the head with coordinates u, (p, c)."""
        return self.losses.at(u)

    def group_means(self, each: Tensor) -> Tensor:
        """Return the (m,) means over each group's rows of (N,) numbers; 0 for a group without."""
        return each @ mean_shares(self.groups, each)

    def shares(self, group_weight: Tensor) -> Tensor:
        """Return (N, 1): each row's share in the sum of the groups' means under weights (m,)."""
        return (mean_shares(self.groups, group_weight) @ group_weight)[:, None]

    def gradients(self, state: State, share: Tensor) -> Tensor:
        """Return (p, c, r): the gradients at a state of sums of losses with factors (N, r)."""
        return self.losses.loss_gradients(state, share)


@dataclass(frozen=True)
class Fitted:
    """A fitted head, and what is needed to differentiate the target's losses through the fit.

    Attributes:
        solver: Has a factorisation of a Hessian near to the objective's.
        objective: The inner problem under the head's weights.
        state: Its minimiser.
        target: The rows whose groups count.
        on_target: These rows at the same head.
    """

    solver: Solver
    objective: HeadObjective
    state: State
    target: Scored
    on_target: State

    def gradients(self, share: Tensor) -> Tensor:
        """Return (p, c, r): gradients of sums of the target's losses with factors (N, r)."""
        return self.target.gradients(self.on_target, share)


def invert_exactly(
    at: Fitted, right: Tensor, *, tolerance: float = EXACT, start: Tensor | None = None
) -> Inverted:
    """Apply the inverse Hessian to columns.

    Args:
        at: Whose Hessian.
        right: (p, c, r).
        tolerance: Relative residual of each column.
        start: (p, c, r) what is near to the solution, if known.
    """
    solution = at.solver.solve(at.objective, at.state, right, tolerance=tolerance, start=start)
    return Inverted(solution.columns, solution.ending)


class InnerProblem:
    """Fits weighted heads on one set of rows, each from the last, and differentiates them."""

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        *,
        l2: float,
        standardise: bool,
        base: Head | None = None,
    ) -> None:
        """Map the rows to design coordinates.

        Args:
            problem: Gives the number of classes and the precision.
            rows: The rows to fit on.
            l2: Penalty on all parameters. It may be raised later, not lowered: it decides
                whether products in float32 are precise enough.
            standardise: Whether to standardise the features on `rows`.
            base: A head on raw features that the fitted ones are to stay near. Coordinates u are
                then what a head has beyond it, and the penalty is on these; the zero u is the
                base head.
        """
        compute = problem.compute
        self.l2 = l2
        self.labels = rows.labels
        self._rows, self._base = rows, base
        self._precision = compute.design_dtype
        self._map = FeatureMap.fit(
            rows.source, standardise=standardise, dtype=compute.accumulate_dtype
        )
        accumulated = torch.zeros((), dtype=compute.accumulate_dtype, device=compute.device)
        self.basis = centred_basis(problem.n_classes, accumulated)
        self._uniform = self._objective(rows.source, rows.labels, l2)
        self.solver = Solver()

    @cached_property
    def design(self) -> Tensor:
        """(n, p) rows; of features that stay in their file, all are read."""
        if isinstance(self._uniform, Objective):
            return self._uniform.design
        return self._map.design(self._rows.features, self._precision)

    def uniform(self) -> Tensor:
        """Return the weights 1/n."""
        return self._uniform.sample_weight

    def zero(self) -> Tensor:
        """Return the coordinates (p, c) of the zero head, or of the base head if there is one."""
        return self._uniform.zero()

    def objective(self, sample_weight: Tensor) -> HeadObjective:
        """Return the objective under weights (n,) that sum to one."""
        return self._uniform.weighted(sample_weight, self.l2)

    def resume(self, checkpoint: Mapping[str, Tensor] | None, **start: Tensor) -> dict[str, Tensor]:
        """Return where to go on, and give the solver back what it remembered there.

        Args:
            checkpoint: `Step.checkpoint` of the step after which to go on, or None.
            **start: Where to begin without one.
        """
        if checkpoint is None:
            return start
        # Cloned, so that values read from a file are aligned in memory like computed ones: BLAS
        # may round differently otherwise.
        stored = {key: value.to(self.basis).clone() for key, value in checkpoint.items()}
        self.solver.restore(self.objective(self.uniform()), stored)
        return stored

    def forget(self) -> None:
        """Begin with a new solver, so that a checkpoint need not hold what this one remembers."""
        self.solver = Solver()

    def fit(self, sample_weight: Tensor, start: Tensor) -> Fit:
        """Fit the head under weights (n,), starting from coordinates (p, c)."""
        return self.solver.minimise(self.objective(sample_weight), start, tolerance=TOLERANCE)

    def head(self, u: Tensor) -> Head:
        """Return the head on raw features with coordinates u."""
        head = self._map.head(u @ self.basis.T)
        if self._base is None:
            return head
        return Head(self._base.weight + head.weight, self._base.bias + head.bias)

    def scored(self, rows: Rows) -> Scored:
        """Map group-labelled rows to design coordinates."""
        return Scored(self._objective(rows.source, rows.labels, 0.0), rows.groups)

    def influence(
        self,
        sample_weight: Tensor,
        u: Tensor,
        target: Scored,
        invert: Callable[[Fitted, Tensor], Inverted] = invert_exactly,
    ) -> Callable[[], Influence]:
        """Return what computes the derivative of each group's target loss by each weight.

        Nothing is computed before it is asked for, and then it depends on nothing but weights and
        head, the factor included.

        Args:
            sample_weight: (n,).
            u: (p, c) the head fitted under them.
            target: The rows whose groups count.
            invert: Applies the inverse Hessian to (p, c, r) columns, or what stands for it.
        """
        objective = self.objective(sample_weight)

        def compute() -> Influence:
            at = Fitted(Solver(), objective, objective.at(u), target, target.at(u))
            # What is as large as a head and a group is bounded; rows are by the objective.
            at_once = max(_AT_ONCE // u.numel(), 1)
            shares = mean_shares(target.groups, self.basis).split(at_once, dim=1)
            return influence(
                partial(invert, at), objective, at.state, (at.gradients(part) for part in shares)
            )

        return compute

    def _objective(
        self, source: Tensor | StoredFeatures, labels: Tensor, l2: float
    ) -> HeadObjective:
        """Return the objective of rows at uniform weights."""
        weight = self.basis.new_full((len(labels),), 1 / len(labels))
        if isinstance(source, StoredFeatures):
            # As they are in the file, features may be far from zero for their spread.
            size = float((1 + (self._map.mean / self._map.scale).square()).sum() + 1)
            return StreamedObjective(
                *(source, self._map, labels, weight, l2, self.basis, self._precision),
                rough=_is_clear(l2, size),
                base=self._base,
            )
        design = self._map.design(source, self._precision)
        offset = None if self._base is None else self._base.logits(source.to(self.basis))
        return Objective(design, labels, weight, l2, self.basis, _rough(design, l2), offset)

    def step(
        self,
        sample_weight: Tensor,
        start: Tensor | None = None,
        target: Scored | None = None,
        note: str = "",
        **more: Any,
    ) -> Step:
        """Fit the head under weights (n,) and return it as a step.

        Args:
            sample_weight: (n,), sums to one.
            start: (p, c) where the fit begins; the zero head if None.
            target: Rows on whose groups the influence of each weight is measured; not if None.
            note: `Step.note`.
            **more: Further attributes of the step.
        """
        fit = self.fit(sample_weight, self.zero() if start is None else start)
        if target is not None:
            more["u"] = fit.state.u
            more["measure"] = self.influence(sample_weight, fit.state.u, target)
        return self.as_step(fit, sample_weight, solved=fit.converged, note=note, **more)

    def as_step(
        self, fit: Fit, sample_weight: Tensor, *, solved: bool, note: str = "", **more: Any
    ) -> Step:
        """Return a fit as a step; where that is not `solved`, its note says how the fit ended.

        Args:
            fit: The fit.
            sample_weight: (n,) its weights.
            solved: `Step.solved`.
            note: `Step.note`.
            **more: Further attributes of the step.
        """
        if not solved and not fit.converged:
            note += f" The fit of the head is not solved: {fit.ending}."
        measured = {
            "objective": float(fit.state.value),
            "gradient_norm": fit.gradient_norm,
            "relative_gradient_norm": fit.relative_gradient_norm,
        }
        return Step(
            head=self.head(fit.state.u),
            sample_weight=sample_weight,
            solved=solved,
            note=note.strip(),
            **{**measured, **more},
        )


def _rough(design: Tensor, l2: float) -> Tensor | None:
    """Return the rows in float32 if products with them are faster and not too rough, else None."""
    if design.dtype == torch.float64 and design.numel() < _WORTH_ROUGH:
        return None
    size = sum(float(part.square().sum()) for part in design.split(8192)) / len(design)
    return design.float() if _is_clear(l2, size) else None


def _is_clear(l2: float, size: float) -> bool:
    """Return whether the penalty's curvature stands out of what float32 rounds away.

    Args:
        l2: The penalty.
        size: Mean squared norm of the rows; no curvature exceeds half of it under uniform weights.
    """
    return 2 * l2 >= _CLEAR * torch.finfo(torch.float32).eps * size / 2


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class FittedHead(Method, ABC):
    """A method that fits a penalised head to convergence."""

    search: ClassVar[SearchSpace] = {"l2": Range(1e-4, 1.0)}

    l2: Annotated[
        float,
        Field(gt=0, description="Penalty on the squared norm of the head, bias included."),
    ] = 0.01
    standardise: Annotated[
        bool,
        Field(
            description="Standardise the features on the fitted rows; off for settings published "
            "on raw features."
        ),
    ] = True

    def inner(self, problem: Problem, rows: Rows | None = None) -> InnerProblem:
        """Return the inner problem on some rows, by default the weighted ones."""
        rows = problem.weighted if rows is None else rows
        return InnerProblem(problem, rows, l2=self.l2, standardise=self.standardise)

    def influence_of_refit(
        self,
        problem: Problem,
        sample_weight: Tensor,
        u: Tensor | None,
        invert: Callable[[Fitted, Tensor], Inverted] = invert_exactly,
    ) -> Callable[[], Influence]:
        """Return `Step.measure` of a step of an earlier run whose head was fitted to the end.

        Args:
            problem: The data.
            sample_weight: (n,) of the step.
            u: (p, c) of the step; fitted under these weights if None.
            invert: Applies the inverse Hessian to (p, c, r) columns, or what stands for it.
        """

        def compute() -> Influence:
            # The rows are mapped only if somebody asks; the run has its own.
            inner = self.inner(problem)
            at = inner.fit(sample_weight, inner.zero()).state.u if u is None else u
            return inner.influence(sample_weight, at, inner.scored(problem.target), invert)()

        return compute


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Refit(FittedHead, ABC):
    """A method of one step: the head refitted under weights that need no fit of it."""

    @abstractmethod
    def weigh(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return the weights (n,), which sum to one, and what the user should know about them."""

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one step.

        Args:
            problem: The data.
            checkpoint: Not used; there is nothing to go on from.
        """
        inner = self.inner(problem)
        weight, note = self.weigh(problem, inner)
        yield inner.step(weight, target=inner.scored(problem.target), note=note)
