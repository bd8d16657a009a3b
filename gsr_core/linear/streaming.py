r"""The objective of a head whose rows are too many for the memory.

Features stay in their file and go through in blocks, and so does everything that has a number for
each row and class: logits are computed anew from the head whenever a block comes by, which makes a
product with the Hessian half as dear again. What is kept is one number a row (its loss, its weight)
and what is as large as a head.

Rows are not standardised one by one. With :math:`z = ((x - \mu) / \sigma, 1)`,

.. math::
    z^\top v = x^\top (v_x / \sigma) + (v_1 - \mu^\top (v_x / \sigma)), \qquad
    \sum_i a_i z_i = \Big( \Big( \sum_i a_i x_i - \mu \sum_i a_i \Big) / \sigma, \sum_i a_i \Big),

so that a block is multiplied by as it is in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.data.stored import StoredFeatures
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.head import Head
from gsr_core.linear.objective import HeadObjective, State, curvature_of, gram_of_parts

__all__ = ["StreamedObjective"]

_BLOCK = 2**21
"""Numbers that an array over a block of rows may have: enough that what a block costs besides its
arithmetic does not count."""
_GRAM_BLOCK = 2**23
"""The same where a block's product is a matrix over features, which takes as much again to add."""


@dataclass(frozen=True)
class StreamedObjective(HeadObjective):
    """The inner problem for one set of weights, its rows in their file.

    A state's logits and probabilities, (n, K), are there for who asks; nothing here does.

    Attributes:
        features: The rows, n > d of them.
        to_design: From features to the coordinates that the penalty acts on; all columns, since
            there are more rows than features.
        labels: (n,) int64 classes.
        sample_weight: (n,) non-negative, sums to one.
        l2: Penalty on the squared norm of all parameters, bias included.
        basis: (K, c) from `centred_basis`; its precision is that of all vectors here.
        precision: Of a Hessian that is written down.
        rough: Whether products in float32 are not too rough.
        base: A head on raw features, to whose logits u adds its own; None if there is none.
    """

    features: StoredFeatures
    to_design: FeatureMap
    labels: Tensor
    sample_weight: Tensor
    l2: float
    basis: Tensor
    precision: torch.dtype
    rough: bool = False
    base: Head | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of a Hessian that is written down."""
        return self.precision

    @property
    def has_rough(self) -> bool:
        """Whether products in float32 are not too rough."""
        return self.rough

    @property
    def width(self) -> int:
        """Number of columns p, d + 1."""
        return self.features.shape[1] + 1

    def weighted(self, sample_weight: Tensor, l2: float | None = None) -> Self:
        """Return the objective under other weights (n,), and another penalty if one is given."""
        return replace(self, sample_weight=sample_weight, l2=self.l2 if l2 is None else l2)

    def relabelled(self, labels: Tensor) -> Self:
        """Return the objective of the same rows with other classes (n,)."""
        return replace(self, labels=labels)

    def at(self, u: Tensor) -> State:
        """Evaluate the objective at u, (p, c)."""
        losses = self.basis.new_empty(len(self.labels))
        for rows, _, logits in self._passing(u):
            losses[rows] = cross_entropy(logits, self.labels[rows], reduction="none")
        value = self.sample_weight @ losses + self.l2 * u.square().sum()
        return State(u, losses, value, lambda: torch.cat([part for *_, part in self._passing(u)]))

    def at_zero(self) -> State:
        """Evaluate the objective at the zero u."""
        return self.at(self.zero())

    def along(self, state: State, step: Tensor) -> Callable[[float], State]:
        """Return what evaluates the objective at `u + size * step`, (p, c), for a size."""
        return lambda size: self.at(state.u + size * step)

    def wrong(self, state: State) -> Tensor:
        """Return (n,) bool: whose likeliest class is not their own."""
        likeliest = torch.empty_like(self.labels)
        for rows, _, logits in self._passing(state.u):
            likeliest[rows] = logits.argmax(dim=1)
        return likeliest != self.labels

    def gradients(self, *states: State) -> list[Tensor]:
        """Return the (p, c) gradient of the objective at each state."""
        weight = self.sample_weight[:, None]
        parts = [self.loss_gradients(state, weight)[:, :, 0] for state in states]
        return [part + 2 * self.l2 * state.u for part, state in zip(parts, states, strict=True)]

    def loss_gradients(self, state: State, share: Tensor) -> Tensor:
        """Return (p, c, r): the gradients of r sums of losses, with factors (n, r)."""
        c, r = self.basis.shape[1], share.shape[1]
        total = _Total(self, c * r)
        for rows, block, logits in self._passing(state.u, columns=c * r):
            residuals = self._residuals(logits, rows)
            spread = residuals.T[:, None, :] * share[rows].T
            total.add(spread.reshape(c * r, -1), block)
        return total.columns().reshape(self.width, c, r)

    def gradient_products(self, state: State, directions: Tensor) -> Tensor:
        """Return (n, r): inner products of each loss gradient with directions (p, c, r)."""
        p, c, r = directions.shape
        across, offset = self._fold(directions.reshape(p, c * r))
        products = directions.new_empty(len(self.labels), r)
        for rows, block, logits in self._passing(state.u, columns=c * r):
            moved = (across @ block.T + offset).reshape(c, r, -1)
            residuals = self._residuals(logits, rows)
            products[rows] = (residuals.T[:, None, :] * moved).sum(dim=0).T
        return products

    def hessian_product(self, state: State, columns: Tensor, *, rough: bool = False) -> Tensor:
        """Return the Hessian applied to directions (p, c, r), in float32 if that will do."""
        dtype = torch.float32 if rough and self.rough else columns.dtype
        p, c, r = columns.shape
        across, offset = (part.to(dtype) for part in self._fold(columns.reshape(p, c * r)))
        total = _Total(self, c * r, dtype)
        for rows, block, logits in self._passing(state.u, dtype, columns=c * r):
            curve = curvature_of(
                torch.softmax(logits, dim=1), self.sample_weight[rows], self.basis, dtype
            )
            moved = (across @ block.T + offset).reshape(c, r, -1)
            total.add(curve(moved, slice(None)).reshape(c * r, -1), block)
        return total.columns().reshape(p, c, r) + 2 * self.l2 * columns

    def hessian(self, state: State, *, rough: bool = False) -> Tensor:
        """Return the Hessian as (c p, c p), coordinate by coordinate."""
        p, c = self.width, self.basis.shape[1]
        matrix = self.basis.new_zeros(c * p, c * p, dtype=self.precision)
        for rows, block, logits in self._passing(state.u, numbers=_GRAM_BLOCK):
            design = self.to_design.design(block, self.precision)
            probabilities = torch.softmax(logits, dim=1)
            mean = probabilities @ self.basis
            for a in range(c):
                for b in range(c):
                    curvature = probabilities @ (self.basis[:, a] * self.basis[:, b])
                    curvature -= mean[:, a] * mean[:, b]
                    scaled = (self.sample_weight[rows] * curvature).to(self.precision)[
                        :, None
                    ] * design
                    matrix[a * p : (a + 1) * p, b * p : (b + 1) * p] += design.T @ scaled
        matrix.diagonal().add_(2 * self.l2)
        return matrix

    def mean_curvature(self, state: State, *, rough: bool = False) -> Tensor:
        """Return (p, p): the Hessian's diagonal blocks averaged over the c coordinates."""
        dtype = torch.float32 if rough and self.rough else self.precision

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            for rows, block, logits in self._passing(state.u, numbers=_GRAM_BLOCK):
                spread = 1 - torch.softmax(logits, dim=1).square().sum(dim=1)
                coefficient = self.sample_weight[rows] * spread / self.basis.shape[1]
                yield self.to_design.design(block, dtype), coefficient

        total = self.basis.new_zeros(self.width, self.width, dtype=dtype)
        matrix = gram_of_parts(parts(), total)
        matrix.diagonal().add_(2 * self.l2)
        return matrix

    def _residuals(self, logits: Tensor, rows: slice) -> Tensor:
        return torch.softmax(logits, dim=1) @ self.basis - self.basis[self.labels[rows]]

    def _fold(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return (k, d) and (k, 1): what columns (p, k) are for features as they are."""
        weight = columns[:-1] / self.to_design.scale[:, None]
        return weight.T.contiguous(), (columns[-1] - self.to_design.mean @ weight)[:, None]

    def _passing(
        self,
        u: Tensor,
        dtype: torch.dtype | None = None,
        *,
        columns: int = 1,
        numbers: int | None = None,
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield blocks of rows: which, their features (b, d) and their logits (b, K).

        Args:
            u: (p, c) the head.
            dtype: Precision of both; that of the vectors if None.
            columns: How many numbers a row the caller makes of a block.
            numbers: How many an array over the block may have; `_BLOCK` if None.
        """
        dtype = self.basis.dtype if dtype is None else dtype
        across, offset = (part.to(dtype) for part in self._fold(u))
        basis, n = self.basis.to(dtype), len(self.labels)
        numbers = _BLOCK if numbers is None else numbers
        size = max(numbers // max(self.width, len(basis), columns), 1)
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            block = self.features.read(rows).to(dtype)
            logits = (basis @ (across @ block.T + offset)).T
            yield rows, block, logits if self.base is None else logits + self.base.logits(block)


class _Total:
    """Sums, over blocks, of rows times columns."""

    def __init__(
        self, objective: StreamedObjective, columns: int, dtype: torch.dtype | None = None
    ) -> None:
        self._map, like = objective.to_design, objective.basis
        self._products = like.new_zeros(columns, objective.width - 1, dtype=dtype)
        self._sums = like.new_zeros(columns, dtype=dtype)

    def add(self, factors: Tensor, block: Tensor) -> None:
        """Add the products of factors (k, b) and features (b, d)."""
        self._products.addmm_(factors, block)
        self._sums += factors.sum(dim=1)

    def columns(self) -> Tensor:
        """Return the (p, k) sums of the products with the rows that the features stand for."""
        sums = self._sums.to(self._map.mean)
        weight = (self._products.to(sums) - sums[:, None] * self._map.mean) / self._map.scale
        return torch.cat([weight.T, sums[None]])
