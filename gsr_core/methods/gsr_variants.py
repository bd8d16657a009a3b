r"""GSR with another inverse Hessian: none, by conjugate gradients, by a Neumann series.

The ablations of Qiao, Wu, Wang, Koh and Low, "Group-robust Sample Reweighting for Subpopulation
Shifts via Influence Functions" (ICLR 2025), on the head, where the exact solves of `gsr` are the
reference. The outer loop is that of `gsr`; only the score of a sample,

.. math:: I_{ig} = -(\nabla \ell_i + \nabla R)^\top s_g , \qquad s_g \approx H^{-1} \nabla R_g ,

is another one.

- `gsr_hf` takes H to be the identity: the effect of one gradient step of the head, the score of
  MAPLE, with the head refitted. Such scores lack the scale of 1/H, so that GSR's `lr` would not
  mean the same. So the update is brought to one norm: :math:`\xi \leftarrow \xi \cdot
  \texttt{step\_norm} / (\sqrt n \, \lVert\xi\rVert)`, after which the root mean square change of a
  weight is `lr * step_norm` times 1/n, the uniform weight, before the projection. GSR's own updates
  have about norm 1 in this unit on standardised features, and `lr` decays for both alike.
- `gsr_cg` solves by conjugate gradients from the solutions of the step before. It is `gsr`, to its
  tolerance, by products with the Hessian only.
- `gsr_lissa` sums a truncated Neumann series of the full-batch Hessian. `largest_eigenvalue`: sigma
  is 1.1 times the largest eigenvalue by power iteration, and the depth, of the order of sigma /
  mu_min, the least at which no direction is off by more than `accuracy`; mu_min is bounded from
  below by the penalty's 2 * l2. `published`: sigma = 1e4 and 1000 terms as in the authors' code,
  which scales every direction of curvature below about 1 by the same 0.1 and is thereby nearly
  Hessian-free.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.linear.influence import Inverted
from gsr_core.linear.iterative import (
    Scaling,
    conjugate_gradients,
    hessian_product,
    neumann_series,
    plan_series,
)
from gsr_core.methods.base import SETTINGS_CONFIG, Range, SearchSpace, settings
from gsr_core.methods.gsr import GroupRobust
from gsr_core.methods.inner import Fitted

__all__ = ["GSRCG", "GSRHF", "GSRLiSSA", "rescale"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GSRHF(GroupRobust):
    """GSR with the Hessian replaced by the identity."""

    name: ClassVar[str] = "gsr_hf"
    title: ClassVar[str] = "GSR-HF: without the Hessian"
    summary: ClassVar[str] = (
        "GSR with the inverse Hessian left out: a sample's weight follows how its loss gradient "
        "agrees with those of the target groups."
    )
    use_when: ClassVar[str] = (
        "To see what the Hessian adds to GSR, or where solving with it takes too long."
    )
    search: ClassVar[SearchSpace] = {
        **{key: each for key, each in GroupRobust.search.items() if key != "lr"},
        "step_norm": Range(0.03, 10.0),
    }

    step_norm: Annotated[
        float,
        Field(
            ge=0,
            description="Every update is brought to this root mean square, in units of 1/n, before "
            "lr; 0 leaves it as it is, and clips it.",
        ),
    ] = 1.0

    def invert(
        self, at: Fitted, right: Tensor, *, tolerance: float, start: Tensor | None = None
    ) -> Inverted:
        """Take the identity for the inverse Hessian."""
        return Inverted(
            right,
            note="The influence is without the inverse Hessian: what one gradient step would do.",
        )

    def shorten(self, xi: Tensor) -> tuple[Tensor, bool]:
        """Return the direction (n,) of the step, and whether it was clipped."""
        return (rescale(xi, self.step_norm), False) if self.step_norm else super().shorten(xi)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GSRCG(GroupRobust):
    """GSR with the inverse Hessian by conjugate gradients."""

    name: ClassVar[str] = "gsr_cg"
    title: ClassVar[str] = "GSR-CG: by conjugate gradients"
    summary: ClassVar[str] = (
        "GSR with its influences solved by plain conjugate gradients on Hessian-vector products; "
        "the same weights, by what a whole network would allow."
    )
    use_when: ClassVar[str] = "To check GSR by the solves that a whole network would allow."

    tolerance: Annotated[
        float, Field(gt=0, lt=1, description="Relative residual at which a solve is done.")
    ] = 1e-10
    max_products: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="Hessian products of a step after which to give up."),
    ] = 2000

    def invert(
        self, at: Fitted, right: Tensor, *, tolerance: float, start: Tensor | None = None
    ) -> Inverted:
        """Solve by conjugate gradients."""
        solution = conjugate_gradients(
            hessian_product(at.objective, at.state, times=1),
            right,
            tolerance=max(self.tolerance, tolerance),
            max_products=self.max_products,
            start=start,
        )
        return Inverted(
            solution.columns,
            solution.ending,
            "The largest relative residual of the conjugate gradients is "
            f"{float(solution.residual.max()):.1e}, after {solution.products} products with the "
            "Hessian.",
        )


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GSRLiSSA(GroupRobust):
    """GSR with the inverse Hessian by a truncated Neumann series."""

    name: ClassVar[str] = "gsr_lissa"
    title: ClassVar[str] = "GSR-LiSSA: by a Neumann series"
    summary: ClassVar[str] = (
        "GSR with its influences from a truncated Neumann series of the inverse Hessian, scaled "
        "properly or as published, which is nearly without the Hessian."
    )
    use_when: ClassVar[str] = "To see what a truncated series does to GSR, as published."
    search: ClassVar[SearchSpace] = {
        **GroupRobust.search,
        "scaling": ("largest_eigenvalue", "published"),
    }

    scaling: Annotated[
        Scaling,
        Field(
            description="largest_eigenvalue: sigma is 1.1 times the largest eigenvalue, the depth "
            "of the order of sigma over the smallest; published: sigma 1e4, depth 1000."
        ),
    ] = "largest_eigenvalue"
    accuracy: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="Share of the inverse that may be missing in any direction "
            "(largest_eigenvalue).",
        ),
    ] = 0.1
    max_depth: Annotated[
        int,
        Field(ge=1, le=10_000_000, description="Most terms of the series (largest_eigenvalue)."),
    ] = 10_000

    def invert(
        self, at: Fitted, right: Tensor, *, tolerance: float, start: Tensor | None = None
    ) -> Inverted:
        """Sum the truncated series."""
        # The same start, and so the same scale, whatever is to be multiplied by the inverse.
        groups = at.target.groups
        vector = at.gradients(at.target.shares(right.new_ones(groups.shape[1])))
        series = plan_series(
            self.scaling,
            hessian_product(at.objective, at.state, times=1),
            vector if bool(vector.any()) else torch.ones_like(vector),
            smallest=2 * at.objective.l2,
            accuracy=self.accuracy,
            max_depth=self.max_depth,
        )
        product = hessian_product(at.objective, at.state, times=series.depth)
        columns = neumann_series(product, right, scale=series.scale, depth=series.depth)
        return Inverted(columns, series.ending, series.note)


def rescale(xi: Tensor, step_norm: float) -> Tensor:
    """Return (n,) with a root mean square of `step_norm` / n; nothing stays nothing."""
    norm = float(xi.norm())
    return xi * (step_norm / (len(xi) ** 0.5 * norm)) if norm else xi
