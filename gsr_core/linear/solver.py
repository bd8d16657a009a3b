r"""Newton's method and exact linear solves, sharing one factorisation.

Between two steps of a reweighting method the weights, and with them the Hessian, change little.
A Cholesky factor of an earlier Hessian is then a nearly perfect preconditioner, and conjugate
gradients on the *current* Hessian, which needs only products with the design, reach the exact
solution in a handful of iterations. A solve that would need more iterations than a factorisation
is worth makes a new factor, with which it ends in one or two. So the results are those of an exact
solve, to the residual asked for, at the price of a few matrix-vector products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import torch
from torch import Tensor

from gsr_core.linear.iterative import (
    Solution,
    SolveEnding,
    column_norms,
    conjugate_gradients,
)
from gsr_core.linear.objective import HeadObjective, State

__all__ = ["ARMIJO", "MAX_FACTOR_WIDTH", "Fit", "FitEnding", "Solver"]

MAX_FACTOR_WIDTH = 1024
"""Widest Hessian (c p) of more than two classes that is factorised whole. Above it the mean
diagonal block serves: a solve takes half as many products again, each several times as fast."""

ARMIJO = 1e-4
"""Share of the change that the slope promises which a step of a line search must bring; the usual
one (Nocedal and Wright, "Numerical Optimization", section 3.1)."""

_WIDTH_PER_PRODUCT = 30
"""Measured on a CPU: a product, and what goes with it in a solve, costs about 30 / (c p) of
assembling and factorising a Hessian."""
_PATIENCE = (4, 25)
"""Fewest and most products with an old factor before a new one is made. A good factor needs a few
even where a new one is cheap, and one that needs more than 25 would hold up the next solves too."""
_MAX_PRODUCTS = 200
"""Far more than a solve takes with a new factor: rounding then keeps it from ending."""
_ROUGH = 1e-5
"""Residual to which products in float32 are trusted: a hundred units in the last place."""
_MAX_NEWTON = 100
"""Far more than a fit takes: what follows is a fit that has gone wrong."""
_FORCING = 0.1
"""Largest relative residual of a Newton step; far from the optimum a rough direction will do."""
_LAST_FORCING = 0.3
"""Share of the gradient norm to reach below which the residual of a Newton step need not be: the
step then ends the fit, with room for Newton's own error."""
_HALVINGS = 30
"""Of a Newton step; if 1e-9 of it does not lower the objective, its direction is wrong."""
_SLACK = 8
"""Units in the last place of the objective that count as no increase."""
_RIDGE = 1e-5
"""Share of the largest diagonal entry that makes a Hessian with rounded-off eigenvalues definite:
about a hundred units in the last place of float32."""


class FitEnding(StrEnum):
    """Why a fit ended; its value is the text shown."""

    CONVERGED = "the gradient is within the tolerance"
    ITERATIONS = "the Newton iterations ran out"
    LINE_SEARCH = "no step along Newton's direction lowers the objective"


@dataclass(frozen=True)
class Fit:
    """A fitted head in the coordinates of its objective.

    Attributes:
        state: The last point.
        gradient_norm: Norm of the gradient there, nats.
        relative_gradient_norm: The same, divided by the norm at the zero head.
        iterations: Newton iterations.
        ending: Why the fit ended.
    """

    state: State
    gradient_norm: float
    relative_gradient_norm: float
    iterations: int
    ending: FitEnding

    @property
    def converged(self) -> bool:
        """Whether the relative gradient norm is within the tolerance."""
        return self.ending is FitEnding.CONVERGED


class Solver:
    """Solves with the Hessians of a slowly changing sequence of objectives.

    It remembers one factor. Two solvers that remember the same give bitwise the same results, which
    is what lets a run be continued exactly.
    """

    def __init__(self) -> None:
        self._anchor: tuple[Tensor, Tensor] | None = None
        self._factor: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs: the weights (n,) and the head (p, c) of the factor."""
        if self._anchor is None:
            return {}
        weight, u = self._anchor
        return {"anchor_weight": weight, "anchor_u": u}

    def restore(self, objective: HeadObjective, state: Mapping[str, Tensor]) -> None:
        """Go on as the solver whose `state` this is.

        Args:
            objective: The inner problem, under any weights.
            state: Other keys may be among it; nothing is done if the solver's are not.
        """
        if "anchor_u" in state:
            anchored = objective.weighted(state["anchor_weight"])
            self.factorise(anchored, state["anchor_u"])

    def factorise(self, objective: HeadObjective, u: Tensor) -> None:
        """Factorise the Hessian of `objective` at u (p, c) and remember it."""
        # A line search adds up logits; `restore` has to give the same bits from u alone.
        state = objective.at(u)
        whole = objective.width * objective.basis.shape[1] <= MAX_FACTOR_WIDTH
        assemble = objective.hessian if whole else objective.mean_curvature
        matrix = assemble(state, rough=True)
        factor, fault = torch.linalg.cholesky_ex(matrix)
        if fault.item():
            # Rounding of a float32 Hessian can exceed a tiny penalty; any positive definite
            # matrix will do here, because the solution does not depend on the factor.
            matrix.diagonal().add_(matrix.diagonal().max() * _RIDGE)
            factor = torch.linalg.cholesky(matrix)
        self._factor = factor
        self._anchor = (objective.sample_weight.clone(), u.clone())

    def _precondition(self, residual: Tensor) -> Tensor:
        """Apply the inverse of the factorised matrix to (p, c, r)."""
        assert self._factor is not None
        p, c, r = residual.shape
        if self._factor.shape[0] == p:
            flat = residual.reshape(p, c * r).to(self._factor)
            return torch.cholesky_solve(flat, self._factor).reshape(p, c, r).to(residual)
        flat = residual.transpose(0, 1).reshape(c * p, r).to(self._factor)
        solved = torch.cholesky_solve(flat, self._factor)
        return solved.reshape(c, p, r).transpose(0, 1).to(residual)

    def solve(
        self,
        objective: HeadObjective,
        state: State,
        right: Tensor,
        *,
        tolerance: float,
        start: Tensor | None = None,
        rough: bool = False,
    ) -> Solution:
        """Solve `hessian @ x = right` for r right-hand sides at once.

        Args:
            objective: Whose Hessian.
            state: Where it is taken.
            right: (p, c, r).
            tolerance: Largest residual norm of each column, relative to its right-hand side.
            start: (p, c, r) what is near to the solution; zero if None.
            rough: Whether the residual may be that of products in float32, where these are the
                faster ones; else it is measured by exact ones.
        """
        patience = _MAX_PRODUCTS
        if self._factor is None:
            self.factorise(objective, state.u)
        else:
            fewest, most = _PATIENCE
            patience = min(max(right.shape[0] * right.shape[1] // _WIDTH_PER_PRODUCT, fewest), most)
        if rough or not objective.has_rough:
            return self._solve(objective, state, right, tolerance, start, patience, rough=rough)

        # Iterative refinement: rough solves for what exact products leave.
        allowed = tolerance * column_norms(right)
        columns = torch.zeros_like(right) if start is None else start
        left, products = right, 0
        if start is not None:
            left, products = right - objective.hessian_product(state, start), 1
        norm = column_norms(left)
        while bool((norm > allowed).any()):
            # What is done is left alone; conjugate gradients give nothing for nothing.
            rest = torch.where(norm > allowed, left, 0.0)
            wanted = max(float((allowed / norm)[norm > allowed].min()) / 2, _ROUGH)
            part = self._solve(objective, state, rest, wanted, None, patience, rough=True)
            # A new factor is good for the rest of the solve.
            patience = patience - part.products if part.products < patience else _MAX_PRODUCTS
            columns = columns + part.columns
            left, before = right - objective.hessian_product(state, columns), norm
            norm, products = column_norms(left), products + part.products + 1
            if bool((norm > torch.maximum(allowed, before / 2)).any()):
                return self._solve(objective, state, right, tolerance, columns, _MAX_PRODUCTS)
        residual = torch.where(allowed > 0, tolerance * norm / allowed, norm)
        # What is not a number is above nothing, and not reached either.
        reached = bool((norm <= allowed).all())
        ending = SolveEnding.REACHED if reached else SolveEnding.STALLED
        return Solution(columns, left, residual, products, ending)

    def _solve(
        self,
        objective: HeadObjective,
        state: State,
        right: Tensor,
        tolerance: float,
        start: Tensor | None,
        patience: int,
        *,
        rough: bool = False,
    ) -> Solution:
        """Solve by one kind of product, with a new factor if the old one runs out of patience."""

        def run(
            max_products: int, start: Tensor | Solution | None, *, measure: bool = False
        ) -> Solution:
            return conjugate_gradients(
                partial(objective.hessian_product, state, rough=rough),
                right,
                tolerance=tolerance,
                max_products=max_products,
                precondition=self._precondition,
                start=start,
                measure=measure,
            )

        solution = run(patience, start)
        if solution.ending is SolveEnding.PRODUCTS and patience < _MAX_PRODUCTS:
            self.factorise(objective, state.u)
            solution = run(_MAX_PRODUCTS, solution)
        # In float64 the recursion's residual is as good as the true one.
        rounded = right.dtype == torch.float32
        return run(_MAX_PRODUCTS, solution, measure=True) if rounded else solution

    def minimise(
        self,
        objective: HeadObjective,
        start: Tensor,
        *,
        tolerance: float,
        max_iterations: int = _MAX_NEWTON,
    ) -> Fit:
        """Minimise the objective by Newton's method with a backtracking line search.

        Args:
            objective: What to minimise; strongly convex, so that there is one minimiser.
            start: (p, c) where to begin; the minimiser does not depend on it.
            tolerance: Gradient norm to reach, relative to the norm at the zero head.
            max_iterations: Newton iterations after which to stop.
        """
        state = objective.at(start)
        at_zero, gradient = objective.gradients(objective.at_zero(), state)
        reference = max(float(at_zero.norm()), torch.finfo(start.dtype).tiny)
        norm = float(gradient.norm())
        iterations, ending = 0, FitEnding.ITERATIONS
        while norm > tolerance * reference and iterations < max_iterations:
            # Solving more precisely than Newton's own error would be wasted; this forcing term
            # keeps convergence superlinear.
            forcing = min(_FORCING, math.sqrt(norm / reference))
            forcing = max(forcing, _LAST_FORCING * tolerance * reference / norm)
            # The gradient is exact, so that a direction that is not costs an iteration at most.
            solution = self.solve(
                objective, state, -gradient[:, :, None], tolerance=forcing, rough=True
            )
            moved = _line_search(objective, state, gradient, solution.columns[:, :, 0])
            if moved is None:
                ending = FitEnding.LINE_SEARCH
                break
            state = moved
            gradient = objective.gradient(state)
            norm = float(gradient.norm())
            iterations += 1
        if norm <= tolerance * reference:
            ending = FitEnding.CONVERGED
        return Fit(
            state=state,
            gradient_norm=norm,
            relative_gradient_norm=norm / reference,
            iterations=iterations,
            ending=ending,
        )


def _line_search(
    objective: HeadObjective, state: State, gradient: Tensor, step: Tensor
) -> State | None:
    """Return the first point along the step that lowers the objective, or None."""
    slope = float((gradient * step).sum())
    along = objective.along(state, step)
    # Near the optimum the decrease drowns in rounding; there the full step is right.
    slack = _SLACK * torch.finfo(step.dtype).eps * abs(float(state.value))
    size = 1.0
    for _ in range(_HALVINGS):
        candidate = along(size)
        if float(candidate.value) <= float(state.value) + ARMIJO * size * slope + slack:
            return candidate
        size /= 2
    return None
