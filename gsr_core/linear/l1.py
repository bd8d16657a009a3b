r"""Softmax heads with an l1 penalty on their weights, fitted exactly.

.. math::
    F(\theta) = \sum_i \bar w_i \, \ell_i(\theta) + \rho \sum_{j k} \lvert W_{jk} \rvert , \qquad
    \theta = (W, b), \quad \sum_i \bar w_i = 1 ,

with the bias b free. At a minimiser the gradient g of the loss is

.. math::
    g_{jk} = -\rho \operatorname{sign} W_{jk} \ (W_{jk} \neq 0), \qquad
    \lvert g_{jk} \rvert \le \rho \ (W_{jk} = 0), \qquad g_b = 0 ,

so that all weights are zero from :math:`\rho_{\max} = \max_{jk} \lvert g_{jk} \rvert` on, taken at
W = 0 with the bias fitted, which gives every class its share. What is missing from these
conditions is the *residual*, the subgradient of F nearest to zero; a fit ends when it is small.

By proximal gradient steps with momentum, which restarts where it points uphill (FISTA: Beck and
Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems", SIAM
Journal on Imaging Sciences 2009; the restart: O'Donoghue and Candes, "Adaptive Restart for
Accelerated Gradient Schemes", 2015). They run on a working set of features, which those join that
break the conditions most, because few have a weight in the end; the conditions are checked on all.

For two classes the two columns of W are opposite, and the penalty is :math:`\rho` times the l1 norm
of their difference, as in binary logistic regression. For more it is that of the softmax, not one
class against the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from gsr_core.linear.objective import gram

__all__ = ["L1Ending", "L1Fit", "L1Objective"]

_ABSENT = 1e-12
"""Share from which the bias of a class without weight is taken, instead of minus infinity."""
_FEWEST = 10
"""Features that may join the working set at once; as many as it has if these are more."""
_SHARPER = 0.01
"""Share of the residual over all features that the fit on a working set leaves of its own."""
_CHECK = 10
"""Steps between two measurements of the residual, each of which costs half a step."""
_MAX_STEPS = 100_000
"""Far more than a fit takes, all working sets together."""
_ROUNDED = 32
"""Units in the last place of a residual that rounding does not let fall."""


class L1Ending(StrEnum):
    """Why a fit ended; its value is the text shown."""

    CONVERGED = "the subgradient is within the tolerance"
    STEPS = "the proximal steps ran out"


@dataclass(frozen=True)
class L1Fit:
    """A fitted head in design coordinates.

    Attributes:
        theta: (p, K), the bias last; weights that the penalty removes are exactly zero.
        value: The objective, nats.
        residual: Norm of the subgradient nearest to zero, nats.
        relative_residual: The same, divided by the gradient's norm at the zero head.
        steps: Proximal steps taken.
        ending: Why the fit ended.
    """

    theta: Tensor
    value: float
    residual: float
    relative_residual: float
    steps: int
    ending: L1Ending

    @property
    def converged(self) -> bool:
        """Whether the relative residual is within the tolerance."""
        return self.ending is L1Ending.CONVERGED

    @property
    def n_features(self) -> int:
        """Number of features that have a weight for some class."""
        return int((self.theta[:-1] != 0).any(dim=1).sum())


@dataclass(frozen=True)
class L1Objective:
    """The weighted loss that an l1 penalty is added to.

    Attributes:
        design: (n, p) rows, their last column ones; its precision is that of the fit.
        labels: (n,) int64 classes.
        sample_weight: (n,) non-negative, sums to one.
        n_classes: K.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 1.0], [3.0, 1.0], [-1.0, 1.0], [-3.0, 1.0]]).double()
        >>> labels = torch.tensor([1, 1, 0, 1])
        >>> objective = L1Objective(rows, labels, torch.full((4,), 0.25).double(), 2)
        >>> objective.rho_max
        0.25
        >>> objective.fit(0.25).theta  # only the classes' shares are left
        tensor([[ 0.0000,  0.0000],
                [-1.3863, -0.2877]], dtype=torch.float64)
    """

    design: Tensor
    labels: Tensor
    sample_weight: Tensor
    n_classes: int

    @cached_property
    def null(self) -> Tensor:
        """(p, K): the best head with all weights zero, which gives each class its share.

        A class without weight would have a bias of minus infinity, and gets a low one instead.
        """
        share = self.sample_weight @ self._truth
        theta = self.design.new_zeros(self.design.shape[1], self.n_classes)
        theta[-1] = share.clamp(min=_ABSENT).log()
        return theta

    @cached_property
    def rho_max(self) -> float:
        """The smallest penalty at which all weights are zero."""
        return float(self._gradient(self.null)[:-1].abs().max())

    def fit(self, rho: float, *, tolerance: float = 1e-8) -> L1Fit:
        """Minimise the loss and rho times the l1 norm of the weights.

        Args:
            rho: The penalty, not negative; from `rho_max` on the weights are exactly zero.
            tolerance: Residual to reach, relative to the gradient's norm at the zero head; in
                float32 no less than what rounding allows.
        """
        theta = self.null.clone()
        scale = float(self._gradient(torch.zeros_like(theta)).norm())
        allowed = scale * max(tolerance, _ROUNDED * torch.finfo(theta.dtype).eps)
        active = torch.zeros(len(theta) - 1, dtype=torch.bool, device=theta.device)
        left, steps = self._residual(theta, rho), 0
        while float(left.norm()) > allowed and steps < _MAX_STEPS:
            # What has a weight stays, and of the others those join that break a condition most.
            active = (theta[:-1] != 0).any(dim=1)
            broken = left[:-1].norm(dim=1).masked_fill(active, 0.0)
            most = min(max(int(active.sum()), _FEWEST), len(broken))
            found = broken.topk(most)
            active[found.indices[found.values > 0]] = True
            columns = torch.cat([active, active.new_ones(1)]).nonzero()[:, 0]
            part = L1Objective(
                *(self.design[:, columns], self.labels, self.sample_weight, self.n_classes)
            )
            wanted = max(allowed / 2, _SHARPER * float(left.norm()))
            theta[columns], taken = part._descend(theta[columns], rho, wanted, _MAX_STEPS - steps)
            steps += taken
            left = self._residual(theta, rho)
        residual = float(left.norm())
        losses = cross_entropy(self.design @ theta, self.labels, reduction="none")
        return L1Fit(
            theta=theta,
            value=float(self.sample_weight @ losses + rho * theta[:-1].abs().sum()),
            residual=residual,
            relative_residual=residual / scale if scale > 0 else 0.0,
            steps=steps,
            ending=L1Ending.CONVERGED if residual <= allowed else L1Ending.STEPS,
        )

    def _descend(self, theta: Tensor, rho: float, allowed: float, most: int) -> tuple[Tensor, int]:
        """Return the head after proximal steps to a residual, or after `most`, and their number."""
        # A softmax has a curvature of at most one half in its logits. On the CPU, because not
        # every device has eigenvalues.
        moment = gram(self.design, self.sample_weight).cpu()
        size = 2 / float(torch.linalg.eigvalsh(moment)[-1])
        ahead, momentum = theta, 1.0
        for step in range(most):
            if step % _CHECK == 0 and float(self._residual(theta, rho).norm()) <= allowed:
                return theta, step
            moved = ahead - size * self._gradient(ahead)
            moved[:-1] = _shrunk(moved[:-1], size * rho)
            change = moved - theta
            if float(((ahead - moved) * change).sum()) > 0:
                momentum = 1.0
            after = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = moved + (momentum - 1) / after * change
            theta, momentum = moved, after
        return theta, most

    @cached_property
    def _truth(self) -> Tensor:
        """(n, K) one-hot labels."""
        return one_hot(self.labels, self.n_classes).to(self.design)

    def _gradient(self, theta: Tensor) -> Tensor:
        """Return the (p, K) gradient of the loss."""
        residuals = (self.design @ theta).softmax(dim=1) - self._truth
        return self.design.T @ (self.sample_weight[:, None] * residuals)

    def _residual(self, theta: Tensor, rho: float) -> Tensor:
        """Return the (p, K) subgradient of the objective that is nearest to zero."""
        left = self._gradient(theta)
        weight, slope = theta[:-1], left[:-1]
        left[:-1] = torch.where(weight != 0, slope + rho * weight.sign(), _shrunk(slope, rho))
        return left


def _shrunk(values: Tensor, by: float) -> Tensor:
    """Return values moved towards zero, those within reach of it to zero exactly."""
    return values.sign() * (values.abs() - by).clamp(min=0)
