r"""Cosine distances of centred vectors, from inner products alone.

With the Gram matrix G of n vectors, their mean and everything relative to it follow from row means:

.. math::
    \langle f_i - \mu, f_j - \mu \rangle = G_{ij} - \bar G_{i\cdot} - \bar G_{\cdot j} + \bar G .

So vectors whose inner products factorise, such as a head's gradients, are compared without ever
being written down. A vector that equals the mean up to rounding has no direction, and is at
distance 1 from every other.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["centred_cosine", "centred_cosine_to"]


def centred_cosine(gram: Tensor) -> Tensor:
    """Return 1 - cos between vectors after their mean was taken away, (n, n).

    Args:
        gram: (n, n) inner products.

    Returns:
        In [0, 2], symmetric, with a diagonal of zeros.
    """
    mean = gram.mean(dim=1)
    centred = gram - mean[:, None] - mean[None, :] + mean.mean()
    inverse = _inverse_length(centred.diagonal(), gram.diagonal(), mean)
    distance = 1 - centred * inverse[:, None] * inverse[None, :]
    distance = ((distance + distance.T) / 2).clamp_(0, 2)
    return distance.fill_diagonal_(0)


def centred_cosine_to(cross: Tensor, squares: Tensor, gram: Tensor) -> Tensor:
    """Return 1 - cos between other vectors and the first n, all relative to the first's mean.

    Args:
        cross: (q, n) inner products of the others with the first.
        squares: (q,) squared lengths of the others.
        gram: (n, n) inner products of the first.

    Returns:
        (q, n), in [0, 2].
    """
    mean, other_mean = gram.mean(dim=1), cross.mean(dim=1)
    total = mean.mean()
    centred = cross - other_mean[:, None] - mean[None, :] + total
    own = _inverse_length(gram.diagonal() - 2 * mean + total, gram.diagonal(), mean)
    other = _inverse_length(squares - 2 * other_mean + total, squares, other_mean)
    return (1 - centred * other[:, None] * own[None, :]).clamp_(0, 2)


def _inverse_length(centred: Tensor, square: Tensor, mean: Tensor) -> Tensor:
    """Return (n,) inverse lengths of centred vectors, 0 where rounding is all there is.

    Args:
        centred: Squared lengths, a difference of the following.
        square: Squared lengths before centring.
        mean: Inner products with the mean.
    """
    noise = 64 * torch.finfo(centred.dtype).eps * (square + 2 * mean.abs())
    return torch.where(centred > noise, centred.clamp(min=0).rsqrt(), 0.0)
