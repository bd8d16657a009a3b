r"""Linear solves that only multiply by the matrix: conjugate gradients and Neumann series.

Both need a symmetric, positive definite matrix H, which conjugate gradients check on their way.
With a preconditioner near to H they are what `gsr_core.linear.solver` solves with. Without one
they are what is left for a network whose Hessian cannot be written down (Koh and Liang,
"Understanding Black-box Predictions via Influence Functions", ICML 2017, section 3), for which
`gsr_core.curvature` takes them; on a head they are there to be compared with the solver, which is
faster.

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
from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor

from gsr_core.linear.objective import HeadObjective, State

__all__ = [
    "MOST_ITERATIONS",
    "PUBLISHED_DEPTH",
    "Operator",
    "Scaling",
    "Series",
    "Solution",
    "SolveEnding",
    "column_norms",
    "conjugate_gradients",
    "depth_for",
    "hessian_product",
    "largest_eigenvalue",
    "neumann_series",
    "plan_series",
]

Scaling = Literal["largest_eigenvalue", "published"]
"""How sigma and the depth of a Neumann series are chosen."""
_PUBLISHED_SCALE, PUBLISHED_DEPTH = 1e4, 1000
"""sigma and J of the code of Qiao et al. (see `gsr_core.methods.gsr_variants`)."""
MOST_ITERATIONS = 200
"""Products that power iteration takes at most."""
_MARGIN = 1.1
"""On the largest eigenvalue, which power iteration approaches from below."""

Operator = Callable[[Tensor], Tensor]
"""Applies a symmetric, linear map to (p, c, r) columns, each by itself."""


class SolveEnding(StrEnum):
    """Why a linear solve ended; its value is the text shown."""

    REACHED = "the residual is within the tolerance"
    PRODUCTS = "the products with the Hessian ran out"
    STALLED = "the residual stopped falling, at what rounding allows"
    NOT_CURVED = "the Hessian does not curve upwards along some direction"
    DIVERGED = "the series grows instead of settling"


@dataclass(frozen=True)
class Solution:
    """The outcome of a linear solve.

    Attributes:
        columns: (p, c, r).
        left: (p, c, r) what is left of the right-hand sides, `right - H @ columns`.
        residual: (r,) norm of that, relative to the right-hand side.
        products: How often the matrix was multiplied by.
        ending: Why the solve ended.
    """

    columns: Tensor
    left: Tensor
    residual: Tensor
    products: int
    ending: SolveEnding

    @property
    def reached(self) -> bool:
        """Whether every column is within the tolerance."""
        return self.ending is SolveEnding.REACHED


def conjugate_gradients(
    product: Operator,
    right: Tensor,
    *,
    tolerance: float,
    max_products: int,
    precondition: Operator | None = None,
    start: Tensor | Solution | None = None,
    measure: bool = True,
) -> Solution:
    """Solve `H x = right` for r right-hand sides at once.

    Args:
        product: Multiplies by H.
        right: (p, c, r).
        tolerance: Residual norm of each column to reach, relative to its right-hand side.
        max_products: Products after which to stop, those of `start` included; measuring the
            residual takes one more.
        precondition: Multiplies by the inverse of a positive definite matrix near to H; by one if
            None.
        start: Columns (p, c, r) to begin at, or an earlier solution of the same system to go on
            from; zero if None.
        measure: Whether the residual is measured at the end, rather than taken from the recursion,
            which in float32 goes on falling where rounding stops the true one.

    Example:
        >>> import torch
        >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> right = torch.tensor([1.0, 2.0], dtype=torch.float64).reshape(2, 1, 1)
        >>> def product(columns):
        ...     return torch.einsum("pq,qcr->pcr", matrix, columns)
        >>> solution = conjugate_gradients(product, right, tolerance=1e-12, max_products=10)
        >>> solution.columns.flatten()
        tensor([0.0909, 0.6364], dtype=torch.float64)
        >>> solution.reached, solution.products
        (True, 3)
        >>> conjugate_gradients(product, right, tolerance=1e-12, max_products=1).ending.value
        'the products with the Hessian ran out'
    """
    scale = column_norms(right)
    if isinstance(start, Solution):
        columns, left, products = start.columns, start.left, start.products
    elif start is None:
        columns, left, products = torch.zeros_like(right), right, 0
    else:
        columns, left, products = start, right - product(start), 1
    ending = SolveEnding.PRODUCTS
    direction = along_before = None
    while products < max_products:
        active = column_norms(left) > tolerance * scale
        if not bool(active.any()):
            ending = SolveEnding.STALLED
            break
        ahead = left if precondition is None else precondition(left)
        along = (left * ahead).sum(dim=(0, 1))
        if direction is None or along_before is None:
            direction = ahead
        else:
            direction = ahead + torch.where(active, along / along_before, 0.0) * direction
        across = product(direction)
        products += 1
        curvature = (direction * across).sum(dim=(0, 1))
        if not bool((curvature[active] > 0).all()):
            ending = SolveEnding.NOT_CURVED
            break
        # A column that is done stays as it is; its step could be 0 / 0.
        step = torch.where(active, along / curvature, 0.0)
        columns = columns + step * direction
        left = left - step * across
        along_before = along
    if measure:
        left, products = right - product(columns), products + 1
    norms = column_norms(left)
    if ending is not SolveEnding.NOT_CURVED and bool((norms <= tolerance * scale).all()):
        ending = SolveEnding.REACHED
    residual = torch.where(scale > 0, norms / scale, norms)
    return Solution(columns, left, residual, products, ending)


def largest_eigenvalue(
    product: Operator,
    start: Tensor,
    *,
    tolerance: float = 1e-3,
    max_products: int = MOST_ITERATIONS,
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


def neumann_series(product: Operator, right: Tensor, *, scale: float, depth: int) -> Tensor:
    """Return the truncated Neumann series of `H^-1 right`.

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


@dataclass(frozen=True)
class Series:
    """Where a Neumann series is cut off.

    Attributes:
        scaling: How it was chosen.
        scale: sigma.
        depth: J, the number of products.
        needed: The depth that was asked for, before it was limited.
        accuracy: Share of the inverse that may be missing at that depth.
    """

    scaling: Scaling
    scale: float
    depth: int
    needed: int
    accuracy: float

    @property
    def ending(self) -> SolveEnding:
        """Whether all terms are there."""
        return SolveEnding.REACHED if self.depth == self.needed else SolveEnding.PRODUCTS

    @property
    def note(self) -> str:
        """What the user should know about it."""
        note = f"Neumann series of {self.depth:,} terms with sigma {self.scale:.3g}"
        note += f" ({self.scaling})."
        if self.depth < self.needed:
            note += (
                f" It would take {self.needed:,} terms to be within {self.accuracy:.0%} everywhere."
            )
        return note


def plan_series(
    scaling: Scaling,
    product: Operator,
    start: Tensor,
    *,
    smallest: float,
    accuracy: float,
    max_depth: int,
) -> Series:
    """Choose sigma and the depth of a Neumann series.

    Args:
        scaling: `largest_eigenvalue`: sigma is 1.1 times that, by power iteration, and the depth
            the least at which no direction is off by more than `accuracy`; `published`: 1e4 and
            1000, whatever the matrix, the bound and the limit are.
        product: Multiplies by the matrix.
        start: (p, c, 1), of the power iteration.
        smallest: Lower bound of the curvature, positive.
        accuracy: In (0, 1): the share of the inverse that may be missing in any direction.
        max_depth: Depth at which to cut off at the latest.
    """
    if scaling == "published":
        depth = PUBLISHED_DEPTH
        return Series(scaling, _PUBLISHED_SCALE, depth, depth, accuracy)
    scale = _MARGIN * largest_eigenvalue(product, start)
    needed = depth_for(scale, smallest, accuracy)
    return Series(scaling, scale, min(needed, max_depth), needed, accuracy)


def hessian_product(objective: HeadObjective, state: State, *, times: int) -> Operator:
    """Return the product with the Hessian of an objective.

    For many products a Hessian that is small enough is written down, which changes nothing but the
    time.

    Args:
        objective: Whose Hessian.
        state: Where it is taken.
        times: About how many products there will be.
    """
    n, p, c = len(objective.labels), objective.width, objective.basis.shape[1]
    # Writing it down costs about n p c operations for each of its rows, a product n p c.
    worth = c * p < min(times, 2 * n)
    if not worth or objective.dtype != objective.basis.dtype:
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

    Example:
        >>> depth_for(scale=1.1, smallest=0.02, accuracy=0.1)
        125
    """
    if smallest >= scale:
        return 0
    return max(math.ceil(math.log(accuracy) / math.log1p(-smallest / scale)) - 1, 0)


def column_norms(columns: Tensor) -> Tensor:
    """Return the (r,) norms of (p, c, r) columns."""
    return columns.square().sum(dim=(0, 1)).sqrt()
