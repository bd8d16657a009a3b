r"""The weighted, l2-regularised softmax objective of a head, and its derivatives.

.. math::
    F(\theta) = \sum_i \bar w_i \, \ell_i(\theta) + \lambda \lVert \theta \rVert^2, \qquad
    \ell_i = -\log \operatorname{softmax}(\theta^\top z_i)_{y_i}, \quad \sum_i \bar w_i = 1 .

Adding one vector to all K class columns of theta changes no probability, so the penalty makes the
columns of the optimum sum to zero. We therefore optimise in an orthonormal basis Q, (K, c) with
c = K - 1, of that subspace, :math:`\theta = u Q^\top`: norms are kept, the Hessian is c p wide
instead of K p, and two classes need one coordinate a column. It is exact, not an approximation.

The module is long because it has both what an objective answers, wherever its rows are, and how one
with its rows in memory does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = [
    "HeadObjective",
    "Objective",
    "State",
    "centred_basis",
    "curvature_of",
    "directions_at_once",
    "gram",
    "gram_of_parts",
    "times",
    "transposed_times",
]

_PANELS, _WIDE = 4, 512
"""Panels of columns in which a Gram matrix is computed, and the width from which they save time."""
_CHUNK = 8192
"""Rows at a time where float32 rows meet float64 vectors, to bound the memory of the cast."""
_CACHED = 2**21
"""Bytes of rows that are multiplied by twice while a core's cache has them."""
_AT_ONCE = 2**27
"""Numbers that one array over rows, coordinates and directions may have; more go in blocks."""


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
    parts = zip(design.split(_CHUNK), coefficients.split(_CHUNK), strict=True)
    return gram_of_parts(parts, design.new_zeros(design.shape[1], design.shape[1]))


def gram_of_parts(parts: Iterable[tuple[Tensor, Tensor]], total: Tensor) -> Tensor:
    """Return `gram` of rows that come in parts.

    Args:
        parts: Rows (b, p) and their coefficients (b,).
        total: (p, p) zeros, in the rows' precision; they are overwritten.
    """
    p = len(total)
    panels = torch.arange(p, device="cpu").tensor_split(_PANELS if p >= _WIDE else 1)
    for rows, coefficients in parts:
        scaled = rows * coefficients.to(rows.dtype)[:, None]
        for panel in panels:
            low, high = int(panel[0]), int(panel[-1]) + 1
            total[low:high, low:].addmm_(rows[:, low:high].T, scaled[:, low:])
    return torch.triu(total) + torch.triu(total, 1).T


@dataclass(frozen=True)
class State:
    """The objective's values at a point u.

    Attributes:
        u: (p, c) free coordinates of the head.
        losses: (n,) cross-entropy, nats.
        value: The objective, nats.
        evaluate: Returns the (n, K) logits.
    """

    u: Tensor
    losses: Tensor
    value: Tensor
    evaluate: Callable[[], Tensor]

    @cached_property
    def logits(self) -> Tensor:
        """(n, K)."""
        return self.evaluate()

    @cached_property
    def probabilities(self) -> Tensor:
        """(n, K)."""
        return torch.softmax(self.logits, dim=1)


class HeadObjective(ABC):
    """The inner problem for one set of weights, wherever its rows are.

    Attributes:
        labels: (n,) int64 classes.
        sample_weight: (n,) non-negative, sums to one.
        l2: Penalty on the squared norm of all parameters, bias included.
        basis: (K, c) from `centred_basis`; its precision is that of all vectors here.
    """

    labels: Tensor
    sample_weight: Tensor
    l2: float
    basis: Tensor

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of columns p of the rows."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision in which the rows are kept."""

    @property
    @abstractmethod
    def has_rough(self) -> bool:
        """Whether `rough` products, in float32, are faster than exact ones and not too rough."""

    @abstractmethod
    def weighted(self, sample_weight: Tensor, l2: float | None = None) -> Self:
        """Return the objective under other weights (n,), and another penalty if one is given."""

    @abstractmethod
    def relabelled(self, labels: Tensor) -> Self:
        """Return the objective of the same rows with other classes (n,)."""

    @abstractmethod
    def at(self, u: Tensor) -> State:
        """Evaluate the objective at u, (p, c)."""

    @abstractmethod
    def at_zero(self) -> State:
        """Evaluate the objective at the zero u: the zero head, or the base head if it has one."""

    @abstractmethod
    def along(self, state: State, step: Tensor) -> Callable[[float], State]:
        """Return what evaluates the objective at `u + size * step` for a size.

        Args:
            state: At u.
            step: (p, c).
        """

    @abstractmethod
    def wrong(self, state: State) -> Tensor:
        """Return (n,) bool: whose likeliest class is not their own."""

    @abstractmethod
    def gradients(self, *states: State) -> list[Tensor]:
        """Return the (p, c) gradient of the objective at each state, by one pass over the rows."""

    @abstractmethod
    def loss_gradients(self, state: State, share: Tensor) -> Tensor:
        """Return the gradients of r sums of losses, without the penalty.

        Args:
            state: Where they are taken.
            share: (n, r) factor of each row's loss in each sum.

        Returns:
            (p, c, r).
        """

    @abstractmethod
    def gradient_products(self, state: State, directions: Tensor) -> Tensor:
        """Return the inner product of each sample's loss gradient with each direction, (n, r) nats.

        Args:
            state: Where the gradients are taken.
            directions: (p, c, r).
        """

    @abstractmethod
    def hessian_product(self, state: State, columns: Tensor, *, rough: bool = False) -> Tensor:
        """Return the Hessian applied to r directions.

        Args:
            state: Where the Hessian is taken.
            columns: (p, c, r).
            rough: Whether float32 will do, to a relative error of about 1e-7.

        Returns:
            (p, c, r).
        """

    @abstractmethod
    def hessian(self, state: State, *, rough: bool = False) -> Tensor:
        """Return the Hessian as (c p, c p), coordinate by coordinate, in the rows' precision.

        Args:
            state: Where it is taken.
            rough: Whether float32 will do.
        """

    @abstractmethod
    def mean_curvature(self, state: State, *, rough: bool = False) -> Tensor:
        """Return (p, p): the Hessian's diagonal blocks averaged over the c coordinates.

        Args:
            state: Where it is taken.
            rough: Whether float32 will do.
        """

    def zero(self) -> Tensor:
        """Return the zero head, (p, c)."""
        return self.basis.new_zeros(self.width, self.basis.shape[1])

    def residuals(self, state: State) -> Tensor:
        """Return (n, c): `(p_i - e_{y_i}) Q`, the gradient of each loss by its logits."""
        return state.probabilities @ self.basis - self.basis[self.labels]

    def gradient(self, state: State) -> Tensor:
        """Return the (p, c) gradient of the objective."""
        return self.gradients(state)[0]


@dataclass(frozen=True)
class Objective(HeadObjective):
    """The inner problem for one set of weights, its rows in memory.

    Attributes:
        design: (n, p) rows.
        labels: (n,) int64 classes.
        sample_weight: (n,) non-negative, sums to one.
        l2: Penalty on the squared norm of all parameters, bias included; positive.
        basis: (K, c) from `centred_basis`; its precision is that of all vectors here.
        rough: (n, p) a copy of the rows in float32, for products that need not be exact; None where
            float32 would be too rough or would spare nothing.
        offset: (n, K) logits of a base head, to which u adds its own: the penalty is then on the
            distance from that head, which the zero u stands for. None if there is none.
    """

    design: Tensor
    labels: Tensor
    sample_weight: Tensor
    l2: float
    basis: Tensor
    rough: Tensor | None = None
    offset: Tensor | None = None

    @property
    def width(self) -> int:
        """Number of columns p of the rows."""
        return self.design.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the rows are kept."""
        return self.design.dtype

    @property
    def has_rough(self) -> bool:
        """Whether there is a copy of the rows in float32."""
        return self.rough is not None

    def weighted(self, sample_weight: Tensor, l2: float | None = None) -> Self:
        """Return the objective under other weights (n,), and another penalty if one is given."""
        return replace(self, sample_weight=sample_weight, l2=self.l2 if l2 is None else l2)

    def relabelled(self, labels: Tensor) -> Self:
        """Return the objective of the same rows with other classes (n,)."""
        return replace(self, labels=labels)

    def at(self, u: Tensor) -> State:
        """Evaluate the objective at u, (p, c)."""
        logits = times(self.design, u) @ self.basis.T
        return self._at(u, logits if self.offset is None else logits + self.offset)

    def at_zero(self) -> State:
        """Evaluate the objective at the zero u."""
        nothing = self.basis.new_zeros(len(self.labels), len(self.basis))
        return self._at(self.zero(), nothing if self.offset is None else self.offset)

    def along(self, state: State, step: Tensor) -> Callable[[float], State]:
        """Return what evaluates the objective at `u + size * step`, (p, c), for a size."""
        # One product with the design serves all sizes.
        moved = times(self.design, step) @ self.basis.T
        return lambda size: self._at(state.u + size * step, state.logits + size * moved)

    def _at(self, u: Tensor, logits: Tensor) -> State:
        losses = cross_entropy(logits, self.labels, reduction="none")
        value = self.sample_weight @ losses + self.l2 * u.square().sum()
        return State(u, losses, value, lambda: logits)

    def wrong(self, state: State) -> Tensor:
        """Return (n,) bool: whose likeliest class is not their own."""
        return state.logits.argmax(dim=1) != self.labels

    def gradients(self, *states: State) -> list[Tensor]:
        """Return the (p, c) gradient of the objective at each state, by one pass over the rows."""
        weighted = [self.sample_weight[:, None] * self.residuals(state) for state in states]
        parts = transposed_times(self.design, torch.cat(weighted, dim=1)).chunk(len(states), dim=1)
        return [part + 2 * self.l2 * state.u for part, state in zip(parts, states, strict=True)]

    def loss_gradients(self, state: State, share: Tensor) -> Tensor:
        """Return (p, c, r): the gradients of r sums of losses, with factors (n, r)."""
        residuals, (p, c) = self.residuals(state), state.u.shape
        parts = []
        for part in share.split(directions_at_once(len(share), c), dim=1):
            spread = residuals[:, :, None] * part[:, None, :]
            total = transposed_times(self.design, spread.reshape(len(share), -1))
            parts.append(total.reshape(p, c, part.shape[1]))
        return torch.cat(parts, dim=2)

    def gradient_products(self, state: State, directions: Tensor) -> Tensor:
        """Return (n, r): inner products of each loss gradient with directions (p, c, r)."""
        (p, c, _), n = directions.shape, len(self.labels)
        residuals, parts = self.residuals(state), []
        for part in directions.split(directions_at_once(n, c), dim=2):
            along = times(self.design, part.reshape(p, -1)).reshape(n, c, part.shape[2])
            parts.append((residuals[:, :, None] * along).sum(dim=1))
        return torch.cat(parts, dim=1)

    def hessian_product(self, state: State, columns: Tensor, *, rough: bool = False) -> Tensor:
        """Return the Hessian applied to directions (p, c, r), in float32 if that will do."""
        design = self._rows(rough)
        dtype = columns.dtype if design is self.design else design.dtype
        p, c, r = columns.shape
        across = columns.reshape(p, c * r).T.to(dtype).contiguous()
        total = torch.zeros_like(across)
        curve = curvature_of(state.probabilities, self.sample_weight, self.basis, dtype)
        # Each block of rows is read from memory once, and multiplied by on both sides.
        for rows in _blocks(design, dtype):
            block = design[rows].to(dtype)
            curved = curve((across @ block.T).reshape(c, r, -1), rows)
            total.addmm_(curved.reshape(c * r, -1), block)
        return total.T.reshape(p, c, r).to(columns) + 2 * self.l2 * columns

    def _rows(self, rough: bool) -> Tensor:
        """Return the (n, p) rows, in float32 if that will do and is there."""
        return self.rough if rough and self.rough is not None else self.design

    def hessian(self, state: State, *, rough: bool = False) -> Tensor:
        """Return the Hessian as (c p, c p), coordinate by coordinate."""
        design = self._rows(rough)
        p, c = design.shape[1], self.basis.shape[1]
        matrix = design.new_empty(c * p, c * p)
        probabilities = state.probabilities
        mean = probabilities @ self.basis
        for a in range(c):
            for b in range(a, c):
                curvature = probabilities @ (self.basis[:, a] * self.basis[:, b])
                curvature = curvature - mean[:, a] * mean[:, b]
                block = gram(design, self.sample_weight * curvature)
                matrix[a * p : (a + 1) * p, b * p : (b + 1) * p] = block
                if a != b:
                    matrix[b * p : (b + 1) * p, a * p : (a + 1) * p] = block
        matrix.diagonal().add_(2 * self.l2)
        return matrix

    def mean_curvature(self, state: State, *, rough: bool = False) -> Tensor:
        """Return (p, p): the Hessian's diagonal blocks averaged over the c coordinates."""
        design, c = self._rows(rough), self.basis.shape[1]
        spread = 1 - state.probabilities.square().sum(dim=1)
        matrix = gram(design, self.sample_weight * spread / c)
        matrix.diagonal().add_(2 * self.l2)
        return matrix


def curvature_of(
    probabilities: Tensor, weight: Tensor, basis: Tensor, dtype: torch.dtype
) -> Callable[[Tensor, slice], Tensor]:
    """Return what multiplies (c, r, b) changes of b rows' logits by these rows' curvature.

    Args:
        probabilities: (n, K).
        weight: (n,) of each row.
        basis: (K, c) from `centred_basis`.
        dtype: Precision of the changes.
    """
    if basis.shape[1] == 1:
        basis = basis.to(probabilities)
        along = probabilities @ basis
        scale = probabilities @ basis.square() - along.square()
        scale = (weight * scale[:, 0]).to(dtype)
        return lambda moved, rows: moved * scale[rows]
    basis, weight = basis.to(dtype), weight.to(dtype)
    probabilities = probabilities.T.to(dtype).contiguous()

    def curve(moved: Tensor, rows: slice) -> Tensor:
        c, r, b = moved.shape
        share = probabilities[:, None, rows]
        moved = (basis @ moved.reshape(c, r * b)).reshape(-1, r, b)
        moved = share * (moved - (share * moved).sum(dim=0)) * weight[rows]
        return (basis.T @ moved.reshape(-1, r * b)).reshape(c, r, b)

    return curve


def directions_at_once(n: int, c: int) -> int:
    """Return how many directions may go at once through arrays over n rows and c coordinates."""
    return max(_AT_ONCE // (n * c), 1)


def _blocks(design: Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """Yield blocks of rows to be multiplied by on both sides, in the given precision."""
    n, p = design.shape
    size = max(_CACHED // (p * dtype.itemsize), 1)
    if design.device.type != "cpu":
        # Its memory is fast and its calls are slow; only a cast has to be bounded.
        size = n if design.dtype == dtype else _CHUNK
    elif n <= 2 * size:
        size = n
    return (slice(start, start + size) for start in range(0, n, size))
