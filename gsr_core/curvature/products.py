r"""Derivatives of the losses of one batch, along all directions at once.

.. math::
    H_B v = \sum_{i \in B} w_i \nabla^2 \ell_i v , \qquad
    G_B v = \sum_{i \in B} w_i J_i^\top (\operatorname{diag} p_i - p_i p_i^\top) J_i v ,

with J_i the Jacobian of the logits of row i. The product with the Hessian is forward over reverse
(Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 1994): the derivative
of the gradient along v. The forward pass, and the reverse pass of the gradient itself, are made
once for all directions of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.func import grad, jvp, vjp, vmap
from torch.nn.functional import cross_entropy

from gsr_core.curvature.network import FlatNetwork

__all__ = [
    "PRODUCTS",
    "Matrix",
    "gauss_newton_products",
    "gradient_products",
    "hessian_products",
    "loss_gradients",
]

Matrix = Literal["hessian", "gauss_newton"]
"""Which curvature: the Hessian of the objective, which may curve downwards, or the Gauss-Newton
matrix, which leaves the curvature of the network itself out and never does."""


def hessian_products(
    network: FlatNetwork,
    theta: Tensor,
    rows: tuple[Any, Tensor, Tensor],
    directions: Tensor,
) -> tuple[Tensor, Tensor]:
    """Multiply the Hessian of the weighted sum of a batch's losses.

    Args:
        network: Settled.
        theta: (P,) where.
        rows: Inputs, labels (b,), weights (b,).
        directions: (k, P).

    Returns:
        (k, P), and the (b,) losses.
    """
    inputs, labels, weights = rows

    def total(at: Tensor) -> tuple[Tensor, Tensor]:
        losses = network.losses(at, inputs, labels)
        return weights @ losses, losses

    def product(direction: Tensor) -> tuple[Tensor, Tensor]:
        found = jvp(grad(total, has_aux=True), (theta,), (direction,), has_aux=True)
        return found[1], found[-1]

    moved, losses = vmap(product)(directions)
    return moved, losses[0]


def gauss_newton_products(
    network: FlatNetwork,
    theta: Tensor,
    rows: tuple[Any, Tensor, Tensor],
    directions: Tensor,
) -> tuple[Tensor, Tensor]:
    """Multiply the Gauss-Newton matrix of the weighted sum of a batch's losses.

    Args:
        network: Settled.
        theta: (P,) where.
        rows: Inputs, labels (b,), weights (b,).
        directions: (k, P).

    Returns:
        (k, P), and the (b,) losses.
    """
    inputs, labels, weights = rows

    def logits(at: Tensor) -> Tensor:
        return network.logits(at, inputs)

    pulled = vjp(logits, theta)
    values, pull = pulled[0], pulled[1]
    share = values.softmax(dim=1)

    def product(direction: Tensor) -> Tensor:
        moved = jvp(logits, (theta,), (direction,))[1]
        curved = share * (moved - (share * moved).sum(dim=1, keepdim=True))
        return pull(weights[:, None] * curved)[0]

    return vmap(product)(directions), cross_entropy(values, labels, reduction="none")


PRODUCTS: dict[Matrix, Callable[..., tuple[Tensor, Tensor]]] = {
    "hessian": hessian_products,
    "gauss_newton": gauss_newton_products,
}


def loss_gradients(
    network: FlatNetwork,
    theta: Tensor,
    rows: tuple[Any, Tensor],
    share: Tensor,
) -> tuple[Tensor, Tensor]:
    """Differentiate sums of a batch's losses.

    Args:
        network: Settled.
        theta: (P,) where.
        rows: Inputs, labels (b,).
        share: (k, b) factor of each loss in each sum.

    Returns:
        (k, P) gradients, and the (b,) losses.
    """
    pulled = vjp(lambda at: network.losses(at, *rows), theta)
    return vmap(lambda each: pulled[1](each)[0])(share), pulled[0]


def gradient_products(
    network: FlatNetwork,
    theta: Tensor,
    rows: tuple[Any, Tensor],
    directions: Tensor,
) -> tuple[Tensor, Tensor]:
    """Differentiate each row's loss along directions (k, P); return (k, b), and the losses (b,)."""

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        found = jvp(lambda at: network.losses(at, *rows), (theta,), (direction,))
        return found[1], found[0]

    moved, losses = vmap(along)(directions)
    return moved, losses[0]
