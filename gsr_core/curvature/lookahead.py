r"""The effect of each row's weight on other rows' loss, through one step of a whole network.

.. math::
    \hat\theta = \theta - \eta \nabla \Big(\sum_j w_j \ell_j + \lambda \lVert \theta \rVert^2\Big)
        (\theta) , \qquad
    \frac{\mathrm{d} V(\hat\theta)}{\mathrm{d} w_j}
        = -\eta \, \langle \nabla V(\hat\theta), \nabla \ell_j(\theta) \rangle ,

V the mean loss of the rows that judge. No gradient of a row is stored: the inner products of all
rows are one pass in forward mode along the gradient of V. `gsr_core.methods.lookahead` has the same
of a head in closed form.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gsr_core.curvature.network import FlatNetwork
from gsr_core.curvature.products import gradient_products, loss_gradients

__all__ = ["weight_slopes"]


def weight_slopes(
    network: FlatNetwork,
    rows: tuple[Any, Tensor],
    weight: Tensor,
    judges: tuple[Any, Tensor],
    *,
    size: float,
    l2: float,
) -> tuple[Tensor, Tensor]:
    """Differentiate the judges' loss after one step by the weights of the rows of the step.

    The network is taken in eval mode, in which a row's loss depends on no other row.

    Args:
        network: At theta, which stays.
        rows: Inputs and labels (b,) of the rows of the step.
        weight: (b,) w.
        judges: Inputs and labels of the rows that make V.
        size: eta.
        l2: lambda.

    Returns:
        (b,) dV/dw_j, nats: negative where raising the weight lowers V; and V itself.

    Raises:
        SettingError: If an operation of the network has no forward-mode derivative.
    """
    theta = network.theta()
    with network.settled():
        (slope,), _ = loss_gradients(network, theta, rows, weight[None])
        ahead = theta - size * (slope + 2 * l2 * theta)
        equal = weight.new_full((1, len(judges[1])), 1 / len(judges[1]))
        along, losses = loss_gradients(network, ahead, judges, equal)
        (agreement,), _ = gradient_products(network, theta, rows, along)
    return -size * agreement, losses.mean()
