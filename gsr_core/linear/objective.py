r"""The weighted, l2-regularised softmax objective of a head, and its derivatives.

.. math::
    F(\theta) = \sum_i \bar w_i \, \ell_i(\theta) + \lambda \lVert \theta \rVert^2, \qquad
    \ell_i = -\log \operatorname{softmax}(\theta^\top z_i)_{y_i}, \quad \sum_i \bar w_i = 1 .

Adding one vector to all K class columns of theta changes no probability, so the penalty makes the
columns of the optimum sum to zero. We therefore optimise in an orthonormal basis Q, (K, c) with
c = K - 1, of that subspace, :math:`\theta = u Q^\top`: norms are kept, the Hessian is c p wide
instead of K p, and two classes need one coordinate a column. It is exact, not an approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Objective", "State", "centred_basis", "gram", "times", "transposed_times"]

_PANELS, _WIDE = 4, 512
"""Panels of columns in which a Gram matrix is computed, and the width from which they save time."""
_CHUNK = 8192
"""Rows at a time where float32 rows meet float64 vectors, to bound the memory of the cast."""


def centred_basis(n_classes: int, like: Tensor) -> Tensor:
    """Return Q (K, K - 1): orthonormal columns, each summing to zero (a Helmert basis).

    Args:
        n_classes: K, at least 2.
        like: A tensor whose device and precision to use.

    Example:
        >>> centred_basis(3, torch.zeros(1))
        tensor([[-0.7071, -0.4082],
                [ 0.7071, -0.4082],
                [ 0.0000,  0.8165]])
    """
    basis = like.new_zeros(n_classes, n_classes - 1)
    for column in range(n_classes - 1):
        size = column + 1
        basis[:size, column] = -1 / math.sqrt(size * (size + 1))
        basis[size, column] = size / math.sqrt(size * (size + 1))
    return basis


def times(design: Tensor, columns: Tensor) -> Tensor:
    """Return `design @ columns`, accumulated in the precision of `columns`."""
    # With few columns, BLAS is several times as fast on the transposed product.
    across = columns.T.contiguous()
    if design.dtype == columns.dtype:
        return (across @ design.T).T
    return torch.cat([across @ chunk.to(columns.dtype).T for chunk in design.split(_CHUNK)], 1).T


def transposed_times(design: Tensor, rows: Tensor) -> Tensor:
    """Return `design.T @ rows`, accumulated in the precision of `rows`."""
    across = rows.T.contiguous()
    if design.dtype == rows.dtype:
        return (across @ design).T
    total = rows.new_zeros(rows.shape[1], design.shape[1])
    for chunk, part in zip(design.split(_CHUNK), across.split(_CHUNK, dim=1), strict=True):
        total += part @ chunk.to(rows.dtype)
    return total.T


def gram(design: Tensor, coefficients: Tensor) -> Tensor:
    """Return the symmetric (p, p) matrix `design.T @ diag(coefficients) @ design`.

    Only the panels on and above the diagonal are multiplied, which saves three eighths of the
    work of a full product, and rows go through in chunks, so that no second (n, p) matrix exists.

    Args:
        design: (n, p).
        coefficients: (n,), of either sign.
    """
    n, p = design.shape
    total = design.new_zeros(p, p)
    coefficients = coefficients.to(design.dtype)
    panels = torch.arange(p, device="cpu").tensor_split(_PANELS if p >= _WIDE else 1)
    for start in range(0, n, _CHUNK):
        rows = design[start : start + _CHUNK]
        scaled = rows * coefficients[start : start + _CHUNK, None]
        for panel in panels:
            low, high = int(panel[0]), int(panel[-1]) + 1
            total[low:high, low:].addmm_(rows[:, low:high].T, scaled[:, low:])
    return torch.triu(total) + torch.triu(total, 1).T


@dataclass(frozen=True)
class State:
    """The objective's values at a point u.

    Attributes:
        u: (p, c) free coordinates of the head.
        logits: (n, K).
        probabilities: (n, K).
        losses: (n,) cross-entropy, nats.
        value: The objective, nats.
    """

    u: Tensor
    logits: Tensor
    probabilities: Tensor
    losses: Tensor
    value: Tensor


@dataclass(frozen=True)
class Objective:
    """The inner problem for one set of weights.

    Attributes:
        design: (n, p) rows.
        labels: (n,) int64 classes.
        sample_weight: (n,) non-negative, sums to one.
        l2: Penalty on the squared norm of all parameters, bias included; positive.
        basis: (K, c) from `centred_basis`; its precision is that of all vectors here.
    """

    design: Tensor
    labels: Tensor
    sample_weight: Tensor
    l2: float
    basis: Tensor

    def zero(self) -> Tensor:
        """Return the zero head, (p, c)."""
        return self.basis.new_zeros(self.design.shape[1], self.basis.shape[1])

    def at(self, u: Tensor, logits: Tensor | None = None) -> State:
        """Evaluate the objective at u; known `logits` save the product with the design."""
        if logits is None:
            logits = times(self.design, u) @ self.basis.T
        log_probabilities = torch.log_softmax(logits, dim=1)
        losses = -log_probabilities.gather(1, self.labels[:, None]).squeeze(1)
        value = self.sample_weight @ losses + self.l2 * u.square().sum()
        return State(u, logits, log_probabilities.exp(), losses, value)

    def residuals(self, state: State) -> Tensor:
        """Return (n, c): `(p_i - e_{y_i}) Q`, the gradient of each loss by its logits."""
        return state.probabilities @ self.basis - self.basis[self.labels]

    def gradient(self, state: State) -> Tensor:
        """Return the (p, c) gradient of the objective."""
        weighted = self.sample_weight[:, None] * self.residuals(state)
        return transposed_times(self.design, weighted) + 2 * self.l2 * state.u

    def hessian_product(self, state: State, columns: Tensor) -> Tensor:
        """Return the Hessian applied to r directions.

        Args:
            state: Where the Hessian is taken.
            columns: (p, c, r).

        Returns:
            (p, c, r).
        """
        p, c, r = columns.shape
        moved = times(self.design, columns.reshape(p, c * r)).reshape(-1, c, r)
        moved = torch.einsum("kc,ncr->nkr", self.basis, moved)
        probabilities = state.probabilities[:, :, None]
        curved = probabilities * (moved - (probabilities * moved).sum(dim=1, keepdim=True))
        curved = torch.einsum("kc,nkr->ncr", self.basis, curved * self.sample_weight[:, None, None])
        back = transposed_times(self.design, curved.reshape(-1, c * r)).reshape(p, c, r)
        return back + 2 * self.l2 * columns

    def hessian(self, state: State) -> Tensor:
        """Return the Hessian as (c p, c p), coordinate by coordinate, in design precision."""
        p, c = self.design.shape[1], self.basis.shape[1]
        matrix = self.design.new_empty(c * p, c * p)
        probabilities = state.probabilities
        mean = probabilities @ self.basis
        for a in range(c):
            for b in range(a, c):
                curvature = probabilities @ (self.basis[:, a] * self.basis[:, b])
                curvature = curvature - mean[:, a] * mean[:, b]
                block = gram(self.design, self.sample_weight * curvature)
                matrix[a * p : (a + 1) * p, b * p : (b + 1) * p] = block
                if a != b:
                    matrix[b * p : (b + 1) * p, a * p : (a + 1) * p] = block
        matrix.diagonal().add_(2 * self.l2)
        return matrix

    def mean_curvature(self, state: State) -> Tensor:
        """Return (p, p): the Hessian's diagonal blocks averaged over the c coordinates."""
        c = self.basis.shape[1]
        spread = 1 - state.probabilities.square().sum(dim=1)
        matrix = gram(self.design, self.sample_weight * spread / c)
        matrix.diagonal().add_(2 * self.l2)
        return matrix
