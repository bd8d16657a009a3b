r"""What stands for the inverse of a network's curvature, in :math:`s = (C + \delta I)^{-1} b`.

C is the Hessian or the Gauss-Newton matrix of the objective, delta the damping. The three ways are
those of the ablations of Qiao et al., "Group-robust Sample Reweighting for Subpopulation Shifts via
Influence Functions" (ICLR 2025), appendix: conjugate gradients (GSR-F-EH), a Neumann series
(GSR-F-AH) and the identity (GSR-F-HF). The Hessian of a network may curve downwards. Then it has no
minimum's inverse, and a solve ends with that reason instead of a number that looks like one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings
from torch import Tensor

from gsr_core.curvature.products import Matrix
from gsr_core.errors import SettingError
from gsr_core.linear.iterative import (
    MOST_ITERATIONS,
    PUBLISHED_DEPTH,
    Operator,
    Scaling,
    SolveEnding,
    column_norms,
    conjugate_gradients,
    neumann_series,
    plan_series,
)

__all__ = ["SOLVE_VECTORS", "Solve", "Solved", "invert", "most_passes"]

SOLVE_VECTORS = 8
"""Vectors for each right-hand side that conjugate gradients hold at once: right, columns, left,
direction, product, the network's parameters, and two that are being made."""


@settings(
    frozen=True,
    kw_only=True,
    config=ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True),
)
class Solve:
    """How to apply the inverse curvature."""

    method: Annotated[
        Literal["cg", "lissa", "identity"],
        Field(
            description="cg: conjugate gradients, to the tolerance; lissa: a truncated Neumann "
            "series; identity: without the curvature."
        ),
    ] = "cg"
    matrix: Annotated[
        Matrix,
        Field(
            description="hessian, which may curve downwards, or gauss_newton, which does not and "
            "leaves the curvature of the network itself out (cg, lissa)."
        ),
    ] = "hessian"
    damping: Annotated[
        float, Field(ge=0, description="Added to every curvature, nats (cg, lissa).")
    ] = 0.0
    tolerance: Annotated[
        float, Field(gt=0, lt=1, description="Relative residual at which a solve is done (cg).")
    ] = 1e-5
    max_products: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="Passes over the rows after which to give up (cg)."),
    ] = 100
    scaling: Annotated[
        Scaling,
        Field(
            description="largest_eigenvalue: sigma is 1.1 times the largest eigenvalue, the depth "
            "of the order of sigma over the smallest; published: sigma 1e4, depth 1000 (lissa)."
        ),
    ] = "largest_eigenvalue"
    accuracy: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="Share of the inverse that may be missing in any direction "
            "(lissa, largest_eigenvalue).",
        ),
    ] = 0.1
    max_depth: Annotated[
        int,
        Field(
            ge=1,
            le=10_000_000,
            description="Most terms of the series (lissa, largest_eigenvalue).",
        ),
    ] = 1000
    one_batch: Annotated[
        bool,
        Field(
            description="Each term of the series takes the next batch for all rows, as published, "
            "instead of a pass over them (lissa)."
        ),
    ] = False


@dataclass(frozen=True)
class Solved:
    """Right-hand sides to which an inverse curvature was applied, or what stands for it.

    Attributes:
        columns: (P, k), or (P,) as the right-hand side was; unless `ending` is REACHED, not the
            solution that was asked for.
        residual: (k,) norm of what is left of each right-hand side, relative to it, measured on
            all rows; None for the identity, which solves nothing.
        products: Passes over the rows; a product with one batch's curvature is none.
        ending: Why the solve ended. The published series, which asks for no accuracy, ends as
            REACHED whatever its residual up to 1 is.
        note: What the user should know about it.
    """

    columns: Tensor
    residual: Tensor | None
    products: int
    ending: SolveEnding
    note: str


def invert(
    how: Solve,
    product: Operator,
    right: Tensor,
    *,
    start: Tensor | None,
    smallest: float,
    one_batch: Callable[[], Operator],
) -> Solved:
    """Apply the inverse of a matrix, or what stands for it.

    Args:
        how: By what.
        product: Multiplies by the matrix, damping included.
        right: (P, 1, k).
        start: (P, 1, k), of an earlier solve of nearly the same system; None for zero.
        smallest: Lower bound of the curvature, if it is positive.
        one_batch: Begins products by one batch after another, each scaled up to all rows.

    Returns:
        Columns (P, 1, k).

    Raises:
        SettingError: If a depth of the series is to follow from a bound that is zero.
    """
    if how.method == "identity":
        note = "The influence is without the inverse curvature: what one gradient step would do."
        return Solved(right, None, 0, SolveEnding.REACHED, note)
    if smallest == 0 and how.method == "lissa" and how.scaling == "largest_eigenvalue":
        raise SettingError(
            "l2 and damping are 0, so that no depth of the series is enough; set damping above 0, "
            "such as 0.01, or scaling to published"
        )
    if how.method == "lissa":
        return _sum_series(how, product, right, start, smallest, one_batch)
    solution = conjugate_gradients(
        product, right, tolerance=how.tolerance, max_products=how.max_products, start=start
    )
    largest = float(solution.residual.max())
    note = (
        f"Conjugate gradients: the largest relative residual is {largest:.1e} after "
        f"{solution.products:,} passes over the rows; {solution.ending}."
    )
    return Solved(solution.columns, solution.residual, solution.products, solution.ending, note)


def most_passes(how: Solve, n_batches: float) -> float:
    """Return how many passes over the rows a solve may take, one of a single batch being a part.

    Args:
        how: The solve.
        n_batches: Batches in a pass.
    """
    if how.method == "identity":
        return 0
    if how.method == "cg":
        return how.max_products + 1
    depth = PUBLISHED_DEPTH if how.scaling == "published" else how.max_depth
    iterations = 0 if how.scaling == "published" else MOST_ITERATIONS
    # Besides, what a start leaves, the residual, and the curvature along it.
    return iterations + (depth / n_batches if how.one_batch else depth) + 3


def _sum_series(
    how: Solve,
    product: Operator,
    right: Tensor,
    start: Tensor | None,
    smallest: float,
    one_batch: Callable[[], Operator],
) -> Solved:
    """Sum a Neumann series from zero or a start, and see what is left."""
    products = 0

    def counted(columns: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return product(columns)

    # Drawn on the CPU, so that the series is the same on every device.
    vector = torch.randn(len(right), 1, 1, generator=torch.Generator().manual_seed(0))
    series = plan_series(
        how.scaling,
        counted,
        vector.to(right),
        smallest=smallest,
        accuracy=how.accuracy,
        max_depth=how.max_depth,
    )
    left = right if start is None else right - counted(start)
    terms = one_batch() if how.one_batch else counted
    columns = neumann_series(terms, left, scale=series.scale, depth=series.depth)
    columns = columns if start is None else start + columns
    left = right - counted(columns)
    scale, norms = column_norms(right), column_norms(left)
    residual = torch.where(scale > 0, norms / scale, norms)
    ending = series.ending
    if how.scaling == "largest_eigenvalue" and not bool((residual <= how.accuracy).all()):
        ending = SolveEnding.PRODUCTS
    if not bool((residual <= 1).all()):
        ending = SolveEnding.DIVERGED
    # Terms shrink most where the curvature is large: what is left lies where it is small or less.
    if bool((left * counted(left)).sum(dim=(0, 1))[norms > 0].le(0).any()):
        ending = SolveEnding.NOT_CURVED
    note = (
        f"{series.note} The largest relative residual is {float(residual.max()):.1e} after "
        f"{products:,} passes over the rows."
    )
    if ending not in (SolveEnding.REACHED, SolveEnding.PRODUCTS):
        note += f" It is not solved: {ending}."
    return Solved(columns, residual, products, ending, note)
