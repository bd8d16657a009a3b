r"""The effect of each weight on the mean target loss, through one gradient step of a head.

.. math::
    \hat u = u - \eta \nabla \Big(\sum_j w_j \ell_j + R\Big)(u), \qquad
    \frac{\mathrm{d} V(\hat u)}{\mathrm{d} w_j}
        = -\eta \, \langle \nabla V(\hat u), \nabla \ell_j(u) \rangle ,

V the mean loss of the target rows, which reads their classes and not their groups. Both gradients
are outer products of a row and a residual, :math:`\langle \nabla \ell_v, \nabla \ell_j \rangle =
\langle z_v, z_j \rangle \langle p_v - e_v, p_j - e_j \rangle`, so that all inner products take one
product with the design.
"""

from __future__ import annotations

from torch import Tensor

from gsr_core.linear.objective import HeadObjective
from gsr_core.methods.inner import InnerProblem, Scored

__all__ = ["Descent", "agreement", "target_gradient"]


def target_gradient(target: Scored, u: Tensor) -> Tensor:
    """Return the (p, c, 1) gradient of the mean target loss at u, without the penalty."""
    return target.losses.gradient(target.at(u))[:, :, None]


def agreement(inner: InnerProblem, target: Scored, u: Tensor, ahead: Tensor) -> Tensor:
    """Return (n,) inner products of each sample's loss gradient with that of the target.

    Args:
        inner: Has the samples.
        target: The target rows; their groups are not read.
        u: (p, c) where the samples' gradients are taken.
        ahead: (p, c) where the target's is.
    """
    objective = inner.objective(inner.uniform())
    slope = target_gradient(target, ahead)
    return objective.gradient_products(objective.at(u), slope)[:, 0]


class Descent:
    """Full-batch steps of a head, of a size that cannot overshoot."""

    def __init__(self, bound: float) -> None:
        """Take a bound on the curvature of the rows' mean loss, `biased.curvature_bound`."""
        self._bound = bound

    def curvature(self, objective: HeadObjective) -> float:
        """Return a bound on the curvature of an objective."""
        weight = objective.sample_weight
        # No weighted second moment exceeds the plain one by more than the largest weight.
        return len(weight) * float(weight.max()) * self._bound + 2 * objective.l2

    def size(self, objective: HeadObjective) -> float:
        """Return the step size under an objective."""
        return 1 / self.curvature(objective)

    def step(self, objective: HeadObjective, u: Tensor) -> Tensor:
        """Return the head (p, c) one step further down."""
        return u - self.size(objective) * objective.gradient(objective.at(u))
