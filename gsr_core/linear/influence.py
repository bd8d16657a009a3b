r"""Influence of each sample's weight on each group's target loss.

Koh and Liang, "Understanding Black-box Predictions via Influence Functions" (ICML 2017), with the
weights normalised, as in Qiao et al., "Group-robust Sample Reweighting for Subpopulation Shifts
via Influence Functions" (ICLR 2025), equations 5 to 7:

.. math::
    I_{ig} = \frac{\mathrm{d} R_g(\hat\theta(w))}{\mathrm{d} w_i}
           = -\,(\nabla \ell_i + \nabla R)^\top H^{-1} \nabla R_g ,

where R is the penalty, H the Hessian of the whole objective and R_g the mean, unregularised loss
of group g on the target set. The paper leaves the penalty's gradient out; it belongs there because
the weights are renormalised, and finite differences confirm it. With it, the influences of each
group average to zero under the weights.

**Negative means that raising the weight of the sample lowers the loss of the group.**

The (n, c p) matrix of per-sample gradients is never formed: each is an outer product of a design
row and a residual, so its inner products with the m solutions need one product with the design.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsr_core.linear.iterative import SolveEnding
from gsr_core.linear.objective import HeadObjective, State

__all__ = [
    "EXACT",
    "Influence",
    "Inverted",
    "influence",
    "influence_along",
    "mean_shares",
    "predicted_change",
    "shortfall",
]

EXACT = 1e-10
"""Relative residual of the linear solves behind an influence that is shown: far below what can be
told apart, and far above what rounding leaves in float64."""


@dataclass(frozen=True)
class Inverted:
    """Right-hand sides to which an inverse Hessian was applied, or what stands for it.

    Attributes:
        columns: (p, c, r).
        ending: Why the solve ended.
        note: What the user should know about it, or "".
    """

    columns: Tensor
    ending: SolveEnding = SolveEnding.REACHED
    note: str = ""


@dataclass(frozen=True)
class Influence:
    """Influences, and how the linear solves behind them ended.

    Attributes:
        values: (n, m) derivative of each group's loss by each normalised weight, nats.
        ending: Why the solves ended; of several, the first that fell short.
    """

    values: Tensor
    ending: SolveEnding = SolveEnding.REACHED


def mean_shares(groups: Tensor, like: Tensor) -> Tensor:
    """Return (N, m): each row's share in the mean over each group.

    Args:
        groups: (N, m) bool; groups may overlap. One without a row has no mean: zeros.
        like: A tensor whose precision to use.
    """
    share = groups.to(like)
    return share / share.sum(dim=0).clamp(min=1)


def influence(
    invert: Callable[[Tensor], Inverted],
    objective: HeadObjective,
    state: State,
    gradients: Iterable[Tensor],
) -> Influence:
    """Return the derivative of each group's loss by each normalised weight.

    Args:
        invert: Applies the inverse Hessian to (p, c, r) columns, or what stands for it.
        objective: The inner problem.
        state: Its minimiser; away from it the result means nothing.
        gradients: Of the groups' losses, (p, c, r), some groups at a time.
    """
    values, ending = [], SolveEnding.REACHED
    for right in gradients:
        inverted = invert(right)
        values.append(influence_along(objective, state, inverted.columns))
        if ending is SolveEnding.REACHED:
            ending = inverted.ending
    return Influence(torch.cat(values, dim=1), ending)


def shortfall(ending: SolveEnding) -> str:
    """Return how the solve behind influences fell short, a sentence after a blank, or ""."""
    if ending is SolveEnding.REACHED:
        return ""
    return f" The influence is not solved: {ending}."


def predicted_change(edited: HeadObjective, state: State, directions: Tensor) -> Tensor:
    r"""Return the change of losses that influence predicts of an edit of the inner problem.

    The edit takes the objective F to F' of other weights, which sum to one again, or of other
    classes. To first order its minimiser moves by one step with the old Hessian,

    .. math::
        \Delta R_g \approx -\,\nabla F'(\hat\theta)^\top H^{-1} \nabla R_g ,
        \qquad \nabla F'(\hat\theta) = \sum_i (\bar w'_i \nabla \ell'_i - \bar w_i \nabla \ell_i) .

    Under other weights alone it is :math:`\sum_i (\bar w'_i - \bar w_i) I_{ig}`; a new class of a
    row adds the difference of its two gradients.

    Args:
        edited: F'; the penalty is that of F.
        state: Of `edited`, at the minimiser of F.
        directions: (p, c, r) the solutions of `H v = grad R_g`.

    Returns:
        (r,) nats.
    """
    return -torch.einsum("pc,pcr->r", edited.gradient(state), directions)


def influence_along(objective: HeadObjective, state: State, directions: Tensor) -> Tensor:
    """Return `-(grad l_i + grad R)^T v_r` for each sample and direction, (n, r) nats.

    Along the exact solutions of `H v = grad R_g` it is the influence, along others an
    approximation of it.

    Args:
        objective: The inner problem.
        state: Its minimiser.
        directions: (p, c, r).
    """
    penalty = 2 * objective.l2 * torch.einsum("pc,pcr->r", state.u, directions)
    return -(objective.gradient_products(state, directions) + penalty)
