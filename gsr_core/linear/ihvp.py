r"""Solves with the Hessian that only multiply by it: conjugate gradients and Neumann series.

These are what is left for a network whose Hessian cannot be written down (Koh and Liang,
"Understanding Black-box Predictions via Influence Functions", ICML 2017, section 3). On a head,
where `gsr_core.linear.solver` is exact and faster, they are there to be compared with it. Both
need H to be positive definite, which conjugate gradients check on their way.

**Neumann series** (LiSSA: Agarwal, Bullins and Hazan, "Second-Order Stochastic Optimization for
Machine Learning in Linear Time", JMLR 2017), here with the whole Hessian in every term:

.. math::
    s_J = \frac1\sigma \sum_{j=0}^{J} \Big(I - \frac{H}{\sigma}\Big)^j b ,

which inverts a direction of curvature mu as :math:`(1 - (1 - \mu/\sigma)^{J+1}) / \mu`: to 1/mu
where mu J is far above sigma, but to about (J + 1) / sigma, the same for all, where it is far
below. It diverges unless sigma exceeds half the largest curvature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsr_core.linear.objective import Objective, State

__all__ = [
    "Product",
    "Solution",
    "conjugate_gradients",
    "depth_for",
    "hessian_product",
    "largest_eigenvalue",
    "neumann_series",
]

Product = Callable[[Tensor], Tensor]
"""Multiplies (p, c, r) columns by a symmetric matrix."""


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found.

    Attributes:
        columns: (p, c, r).
        residual: Largest residual norm of a column, relative to its right-hand side.
        products: How many times the matrix was multiplied by.
        curved: Whether it curved upwards along all directions taken; where it did not, it is not
            positive definite, and the iteration ended there.
    """

    columns: Tensor
    residual: float
    products: int
    curved: bool


def conjugate_gradients(
    product: Product,
    right: Tensor,
    *,
    tolerance: float,
    max_products: int,
    start: Tensor | None = None,
) -> Solution:
    """Solve `H x = right` for r right-hand sides at once, without a preconditioner.

    Args:
        product: Multiplies by H.
        right: (p, c, r).
        tolerance: Residual norm of each column to reach, relative to its right-hand side.
        max_products: Products after which to stop, come what may.
        start: (p, c, r) where to begin; at zero if None.
    """
    scale = _norms(right)
    columns = torch.zeros_like(right) if start is None else start
    residual = right if start is None else right - product(start)
    products, curved = int(start is not None), True
    direction, before = residual, residual.square().sum(dim=(0, 1))
    while products < max_products:
        active = before.sqrt() > tolerance * scale
        if not bool(active.any()):
            break
        across = product(direction)
        products += 1
        curvature = (direction * across).sum(dim=(0, 1))
        if not bool((curvature[active] > 0).all()):
            curved = False
            break
        # A column that is done stays as it is; its step could be 0 / 0.
        step = torch.where(active, before / curvature, 0.0)
        columns = columns + step * direction
        residual = residual - step * across
        now = residual.square().sum(dim=(0, 1))
        direction = residual + torch.where(active, now / before, 0.0) * direction
        before = now
    # Measured anew: what the recursion has left of it may be lower than what is true.
    true = _norms(right - product(columns))
    relative = torch.where(scale > 0, true / scale, true)
    return Solution(columns, float(relative.max()), products + 1, curved)


def largest_eigenvalue(
    product: Product, start: Tensor, *, tolerance: float = 1e-3, max_products: int = 200
) -> float:
    """Return the largest eigenvalue of a positive definite matrix, by power iteration.

    It is approached from below.

    Args:
        product: Multiplies by the matrix.
        start: (p, c, 1), not orthogonal to the eigenvector.
        tolerance: Relative change between two products at which to stop.
        max_products: Products after which to stop, come what may.
    """
    vector, value = start / start.norm(), 0.0
    for _ in range(max_products):
        moved = product(vector)
        before, value = value, float(moved.norm())
        vector = moved / value
        if abs(value - before) <= tolerance * value:
            break
    return value


def neumann_series(product: Product, right: Tensor, *, scale: float, depth: int) -> Tensor:
    """Return the Neumann series of `H^-1 right`, truncated.

    Args:
        product: Multiplies by H.
        right: (p, c, r).
        scale: sigma.
        depth: J, the number of products.
    """
    total = right
    for _ in range(depth):
        total = right + total - product(total) / scale
    return total / scale


def hessian_product(objective: Objective, state: State, *, times: int) -> Product:
    """Return the product with the Hessian of an objective.

    For many products a Hessian that is small enough is written down, which changes nothing but the
    time.

    Args:
        objective: Whose Hessian.
        state: Where it is taken.
        times: About how many products will be wanted.
    """
    (n, p), c = objective.design.shape, objective.basis.shape[1]
    # Writing it down costs about n p c numbers for each of its rows, a product n p c.
    worth = c * p < min(times, 2 * n)
    if not worth or objective.design.dtype != objective.basis.dtype:
        return lambda columns: objective.hessian_product(state, columns)
    matrix = objective.hessian(state)

    def product(columns: Tensor) -> Tensor:
        flat = columns.transpose(0, 1).reshape(c * p, -1)
        return (matrix @ flat).reshape(c, p, -1).transpose(0, 1)

    return product


def depth_for(scale: float, smallest: float, accuracy: float) -> int:
    """Return the least depth at which every direction is inverted to a relative accuracy.

    Args:
        scale: sigma.
        smallest: Lower bound of the curvature, at most `scale`.
        accuracy: In (0, 1): the share of 1/mu that may be missing.
    """
    if smallest >= scale:
        return 0
    return max(math.ceil(math.log(accuracy) / math.log1p(-smallest / scale)) - 1, 0)


def _norms(columns: Tensor) -> Tensor:
    return columns.square().sum(dim=(0, 1)).sqrt()
