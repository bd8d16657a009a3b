r"""Group distributionally robust optimisation (group DRO): the least loss of the worst group.

Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts" (ICLR
2020), minimise

.. math::
    \min_\theta \max_{q \in \Delta} \sum_g q_g \left(L_g(\theta) + \frac{C}{\sqrt{n_g}}\right)
    + \lambda \lVert\theta\rVert^2 ,

where L_g is the mean loss of group g on the rows that are fitted and C an adjustment for how badly
small groups generalise. For given q that is a weighted fit with :math:`w_i = \sum_{g \ni i}
q_g / n_g`, so q also sets the weight of each sample. A row in no known group has weight zero, and
a group without rows takes no part.

- `online` is the paper's rule: :math:`q_g \leftarrow q_g e^{\eta L_g}`, renormalised, then one step
  of the head. They take a gradient step on a batch; on frozen features all rows go in at once and
  the step is Newton's with a line search, which needs no learning rate of its own. It ends after
  `steps` updates, or when it has solved the problem.
- `exact` climbs the concave dual :math:`D(q) = \min_\theta \sum_g q_g L_g + \lambda
  \lVert\theta\rVert^2`, each value of which is an exact fit. By Danskin's theorem its gradient is
  L, by implicit differentiation its Hessian :math:`-J H^{-1} J^\top` with J the gradients of the
  groups' losses. Each step maximises this quadratic model over the simplex. It ends when the groups
  that carry weight have equal losses and no group a higher one, as at the optimum only. That step
  is kept: the best on val of those before it would be another method, of which the first is RWG.

`exact` is the default: it needs some five to ten fits where `online` needs hundreds of updates.
The note of a step bounds its distance from the optimum: the primal value less a lower bound of the
dual.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.linear.influence import mean_shares
from gsr_core.linear.objective import State
from gsr_core.linear.solver import ARMIJO, Fit, FitEnding
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    SelectionField,
    Step,
    settings,
)
from gsr_core.methods.inner import TOLERANCE, FittedHead, InnerProblem
from gsr_core.methods.rwg import group_shares, groups_with_rows

__all__ = ["GroupDRO", "best_on_simplex"]

_CARRIES = 1e-6
"""Group weight above which a group carries weight."""
_EQUAL = 1e-5
"""Losses that differ by no more are equal, nats."""
_CLOSE = 1e-11
"""Relative gradient norm of the exact fits: losses inherit the head's error, to first order."""
_RIDGE = 1e-9
"""Added to the curvature of the dual, relative to its scale: groups with equal gradients make it
singular, and the model is that of one step only."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GroupDRO(FittedHead):
    """Minimise the loss of the worst group of the held-out rows."""

    name: ClassVar[str] = "group_dro"
    title: ClassVar[str] = "Group DRO: least loss of the worst group"
    summary: ClassVar[str] = (
        "Plays head against group weights, which follow the group with the highest loss, until "
        "the worst group of the held-out rows does best."
    )
    use_when: ClassVar[str] = (
        "Every row to fit on has a group label, and some groups are harder than others, not "
        "only smaller."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "adjustment": Range(0.0, 5.0, log=False),
    }

    selection: SelectionField = "solution"
    solver: Annotated[
        Literal["exact", "online"],
        Field(
            description="exact: the optimum, by Newton steps on the dual; online: the paper's "
            "rule, which tends to it, one step of the head for each update of the group weights."
        ),
    ] = "exact"
    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Updates of the group weights; fewer if solved.")
    ] = 200
    group_lr: Annotated[
        float,
        Field(gt=0, description="online: step size of the group weights, per nat of group loss."),
    ] = 0.1
    adjustment: Annotated[
        float,
        Field(ge=0, description="C: the loss of a group of n samples counts C / sqrt(n) more."),
    ] = 0.0

    @property
    def solves(self) -> bool:
        """Whether the last step is the optimum, and the others the way to it."""
        return self.solver == "exact"

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one head for each update of the group weights.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from equal group
                weights if None.
        """
        game = _Game(self.inner(problem), problem.weighted, self.adjustment)
        stored = game.inner.resume(checkpoint)
        if stored and bool(stored["ended"]):
            return
        moves = self._online if self.solver == "online" else self._exact
        for q, fit, memory in moves(game, stored):
            fitted = fit.relative_gradient_norm <= TOLERANCE
            ended = fitted and game.spread(q, fit) <= _EQUAL
            one_step = self.solver == "online" and fit.ending is not FitEnding.LINE_SEARCH
            kept = {"memory": memory, "u": fit.state.u, "ended": q.new_tensor(float(ended))}
            yield game.step(
                q,
                fit,
                solved=fitted or one_step,
                checkpoint={**kept, **game.inner.solver.state()},
            )
            if ended:
                return

    def _online(
        self, game: _Game, stored: Mapping[str, Tensor]
    ) -> Iterator[tuple[Tensor, Fit, Tensor]]:
        """Yield group weights, the head after one Newton step under them, and their logarithm."""
        inner = game.inner
        u = stored.get("u", inner.zero())
        log_q = stored.get("memory", game.equal().log())
        while True:
            losses = game.losses(inner.objective(inner.uniform()).at(u))
            log_q = (log_q + self.group_lr * losses).log_softmax(dim=0)
            q = log_q.exp()
            fit = inner.solver.minimise(
                inner.objective(game.weight(q)), u, tolerance=TOLERANCE, max_iterations=1
            )
            u = fit.state.u
            yield q, fit, log_q

    def _exact(
        self, game: _Game, stored: Mapping[str, Tensor]
    ) -> Iterator[tuple[Tensor, Fit, Tensor]]:
        """Yield group weights, the head fitted under them, and the weights again."""
        if stored:
            q, u = stored["memory"], stored["u"]
        else:
            q = game.equal()
            fit = game.fit(q, game.inner.zero())
            u = fit.state.u
            yield q, fit, q
        while (moved := game.ascend(q, u)) is not None:
            q, fit = moved
            u = fit.state.u
            yield q, fit, q


class _Game:
    """Head against group weights, over the groups that have rows."""

    def __init__(self, inner: InnerProblem, rows: Rows, adjustment: float) -> None:
        self.inner = inner
        self._present = groups_with_rows(rows)
        self._members = rows.groups[:, self._present]
        self._shares = group_shares(rows, inner.basis)
        self.margin = adjustment / self._members.sum(dim=0).to(inner.basis).sqrt()

    def equal(self) -> Tensor:
        """Return equal group weights."""
        return torch.full_like(self.margin, 1 / len(self.margin))

    def weight(self, q: Tensor) -> Tensor:
        """Return the sample weights (n,) that follow from group weights q."""
        return self._shares @ q

    def fit(self, q: Tensor, u: Tensor) -> Fit:
        """Fit the head under group weights q, starting from u, as closely as losses need it."""
        objective = self.inner.objective(self.weight(q))
        return self.inner.solver.minimise(objective, u, tolerance=_CLOSE)

    def losses(self, state: State) -> Tensor:
        """Return each group's mean loss with its adjustment, nats."""
        return state.losses @ self._shares + self.margin

    def spread(self, q: Tensor, fit: Fit) -> float:
        """Return how far the loss of a group that carries weight is below the highest, nats."""
        losses = self.losses(fit.state)
        return float(losses.max() - losses[q > _CARRIES].min())

    def ascend(self, q: Tensor, u: Tensor) -> tuple[Tensor, Fit] | None:
        """Raise the dual by one Newton step over the simplex.

        Args:
            q: Group weights.
            u: The head fitted under them.

        Returns:
            Better group weights and the head fitted under them; None if the dual cannot be raised.
        """
        inner = self.inner
        objective = inner.objective(self.weight(q))
        state = objective.at(u)
        losses = self.losses(state)
        share = mean_shares(self._members, losses)
        gradients = objective.loss_gradients(state, share)
        moved = inner.solver.solve(objective, state, gradients, tolerance=TOLERANCE).columns
        curvature = torch.einsum("pcg,pch->gh", gradients, moved)
        best = q.new_tensor(best_on_simplex(*(x.cpu().numpy() for x in (curvature, losses, q))))
        slope = float(losses @ (best - q))
        value = float(state.value + self.margin @ q)
        size = 1.0
        while size * slope > torch.finfo(q.dtype).eps:
            candidate = (1 - size) * q + size * best
            fit = self.fit(candidate, u)
            raised = float(fit.state.value + self.margin @ candidate) - value
            if raised >= ARMIJO * size * slope:
                return candidate, fit
            size /= 2
        return None

    def step(self, q: Tensor, fit: Fit, *, solved: bool, checkpoint: Mapping[str, Tensor]) -> Step:
        """Return the head as a step, with a bound of its distance from the optimum."""
        losses = self.losses(fit.state)
        worst = float(losses.max())
        # A 2 l2-strongly convex function with gradient g is at most g^2 / (4 l2) above its minimum.
        short = fit.gradient_norm**2 / (4 * self.inner.l2)
        gap = worst - float(q @ losses) + short
        everywhere = q.new_zeros(len(self._present))
        everywhere[self._present] = q
        return self.inner.as_step(
            fit,
            self.weight(q),
            solved=solved,
            note=f"The objective is at most {max(gap, 0.0):.2g} nats above the optimum; the losses "
            f"of the groups that carry weight differ by {self.spread(q, fit):.2g} nats.",
            objective=worst + self.inner.l2 * float(fit.state.u.square().sum()),
            group_weight=everywhere,
            checkpoint=checkpoint,
        )


def best_on_simplex(curvature: np.ndarray, slope: np.ndarray, point: np.ndarray) -> np.ndarray:
    r"""Maximise a concave quadratic over the simplex.

    The model :math:`s^\top p - \tfrac12 (p - q)^\top A (p - q)` is, up to a constant,
    :math:`-\tfrac12 \lVert B p - c\rVert^2` with :math:`A = B^\top B`. On the simplex
    :math:`c = c 1^\top p`, which leaves the shortest vector in the convex hull of the columns of
    :math:`B - c 1^\top`; and that is a non-negative least squares problem.

    Args:
        curvature: (m, m) A, positive semi-definite.
        slope: (m,) s, the gradient at q.
        point: (m,) q, on the simplex.

    Returns:
        (m,) on the simplex; what is zero is exactly zero.

    Example:
        >>> slope, point = np.array([0.3, 0.2, -9.0]), np.full(3, 1 / 3)
        >>> best_on_simplex(np.diag([1.0, 2.0, 4.0]), slope, point).round(4)
        array([0.5889, 0.4111, 0.    ])
    """
    # Not above: importing it would keep the dashboard's first page waiting.
    from scipy.optimize import nnls

    m = len(slope)
    ridge = _RIDGE * (np.trace(curvature) / m + np.ptp(slope)) + np.finfo(float).tiny
    curvature = (curvature + curvature.T) / 2 + ridge * np.eye(m)
    root = np.linalg.cholesky(curvature).T
    # A constant in s changes nothing on the simplex, and rounds.
    target = np.linalg.solve(root.T, curvature @ point + slope - slope.mean())
    columns = root - target[:, None]
    unit = np.linalg.norm(columns, axis=0).max()
    if unit == 0:
        return point
    system = np.vstack([columns, np.full(m, unit)])
    shares, _ = nnls(system, np.append(np.zeros(m), unit))
    return shares / shares.sum()
