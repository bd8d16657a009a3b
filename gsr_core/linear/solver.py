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
from dataclasses import dataclass

import torch
from torch import Tensor

from gsr_core.linear.objective import Objective, State

__all__ = ["MAX_FACTOR_WIDTH", "Fit", "Solver"]

MAX_FACTOR_WIDTH = 6144
"""Widest Hessian (c p) that is factorised whole; above it the mean diagonal block serves."""

_ARMIJO = 1e-4


@dataclass(frozen=True)
class Fit:
    """A fitted head in the coordinates of its objective.

    Attributes:
        state: The point reached.
        gradient_norm: Norm of the gradient there, nats.
        relative_gradient_norm: The same, divided by the norm at the zero head.
        iterations: Newton iterations.
        converged: Whether the relative gradient norm is at most the tolerance.
    """

    state: State
    gradient_norm: float
    relative_gradient_norm: float
    iterations: int
    converged: bool


class Solver:
    """Solves with the Hessians of a slowly changing sequence of objectives.

    Attributes:
        anchor: The weights (n,) and the coordinates u (p, c) whose Hessian is factorised, or
            None. Two solvers with the same anchor give bitwise the same results, which is what
            lets a run be continued exactly.
        reached: Whether the last `solve` met its tolerance.
    """

    def __init__(self) -> None:
        self.anchor: tuple[Tensor, Tensor] | None = None
        self.reached = True
        self._factor: Tensor | None = None

    def factorise(self, objective: Objective, state: State) -> None:
        """Factorise the Hessian of `objective` at `state` and make that the anchor."""
        # A line search adds up logits; the anchor has to give the same bits from u alone.
        state = objective.at(state.u)
        whole = objective.design.shape[1] * objective.basis.shape[1] <= MAX_FACTOR_WIDTH
        matrix = objective.hessian(state) if whole else objective.mean_curvature(state)
        factor, fault = torch.linalg.cholesky_ex(matrix)
        if fault.item():
            # Rounding of a float32 Hessian can exceed a tiny penalty; any positive definite
            # matrix will do here, because the solution does not depend on the factor.
            matrix.diagonal().add_(matrix.diagonal().max() * 1e-5)
            factor = torch.linalg.cholesky(matrix)
        self._factor = factor
        self.anchor = (objective.sample_weight.clone(), state.u.clone())

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
        objective: Objective,
        state: State,
        right: Tensor,
        *,
        tolerance: float,
        max_iterations: int = 200,
    ) -> Tensor:
        """Solve `hessian @ x = right` for r right-hand sides at once.

        Args:
            objective: Whose Hessian.
            state: Where it is taken.
            right: (p, c, r).
            tolerance: Largest residual norm of each column, relative to its right-hand side.
            max_iterations: Products with the Hessian after which to stop, come what may;
                `reached` then says that the tolerance was not met.

        Returns:
            (p, c, r).
        """
        # Measured on a CPU: one product costs about 80 / (c p) of assembling and factorising.
        width = right.shape[0] * right.shape[1]
        patience = min(max(width // 80, 4), 25)
        if self._factor is None:
            self.factorise(objective, state)
            patience = max_iterations

        target = tolerance * _norms(right)
        solution = torch.zeros_like(right)
        residual = right
        direction: Tensor | None = None
        product: Tensor | None = None
        for iteration in range(max_iterations):
            active = _norms(residual) > target
            if not bool(active.any()):
                break
            if iteration == patience:
                self.factorise(objective, state)
                direction = None
            preconditioned = self._precondition(residual)
            fresh = (residual * preconditioned).sum(dim=(0, 1))
            if direction is None or product is None:
                direction = preconditioned
            else:
                direction = preconditioned + direction * (fresh / product)
            curved = objective.hessian_product(state, direction)
            step = fresh / (direction * curved).sum(dim=(0, 1))
            # A column that is done stays as it is; its step could be 0 / 0.
            step = torch.where(active, step, 0.0)
            solution = solution + step * direction
            residual = residual - step * curved
            product = torch.where(fresh != 0, fresh, 1.0)
        if residual.dtype == torch.float32:
            # The recursion's residual goes on falling where rounding stops the true one.
            residual = right - objective.hessian_product(state, solution)
        self.reached = bool((_norms(residual) <= target).all())
        return solution

    def minimise(
        self,
        objective: Objective,
        start: Tensor,
        *,
        tolerance: float,
        max_iterations: int = 100,
    ) -> Fit:
        """Minimise the objective by Newton's method with a backtracking line search.

        Args:
            objective: What to minimise; strongly convex, so that there is one minimiser.
            start: (p, c) where to begin; the minimiser does not depend on it.
            tolerance: Gradient norm to reach, relative to the norm at the zero head.
            max_iterations: Newton iterations after which to stop.
        """
        logits = start.new_zeros(len(objective.labels), objective.basis.shape[0])
        zero = objective.at(objective.zero(), logits)
        reference = float(objective.gradient(zero).norm())
        reference = max(reference, torch.finfo(start.dtype).tiny)
        state = objective.at(start)
        gradient = objective.gradient(state)
        norm = float(gradient.norm())
        iterations = 0
        while norm > tolerance * reference and iterations < max_iterations:
            # Solving more precisely than Newton's own error would be wasted; this forcing term
            # keeps convergence superlinear.
            forcing = min(0.1, math.sqrt(norm / reference))
            forcing = max(forcing, 0.3 * tolerance * reference / norm)
            step = self.solve(objective, state, -gradient[:, :, None], tolerance=forcing)[:, :, 0]
            moved = self._line_search(objective, state, gradient, step)
            if moved is None:
                break
            state = moved
            gradient = objective.gradient(state)
            norm = float(gradient.norm())
            iterations += 1
        return Fit(
            state=state,
            gradient_norm=norm,
            relative_gradient_norm=norm / reference,
            iterations=iterations,
            converged=norm <= tolerance * reference,
        )

    def _line_search(
        self, objective: Objective, state: State, gradient: Tensor, step: Tensor
    ) -> State | None:
        """Return the first point along the step that decreases the objective, or None."""
        slope = float((gradient * step).sum())
        moved_logits = objective.at(step).logits
        # Near the optimum the decrease drowns in rounding; there the full step is right.
        slack = 8 * torch.finfo(step.dtype).eps * abs(float(state.value))
        size = 1.0
        for _ in range(30):
            candidate = objective.at(state.u + size * step, state.logits + size * moved_logits)
            if float(candidate.value) <= float(state.value) + _ARMIJO * size * slope + slack:
                return candidate
            size /= 2
        return None


def _norms(columns: Tensor) -> Tensor:
    """Return the (r,) norms of (p, c, r) columns."""
    return columns.square().sum(dim=(0, 1)).sqrt()
