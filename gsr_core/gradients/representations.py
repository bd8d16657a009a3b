r"""Per-sample gradients of a head, without the matrix of all of them.

The gradient of a sample's unregularised cross-entropy by weight and bias is an outer product,

.. math::
    g_i = (p_i - e_{y_i}) \otimes [x_i; 1], \qquad
    \langle g_i, g_j \rangle = \langle p_i - e_{y_i}, p_j - e_{y_j} \rangle
                               \,(\langle x_i, x_j \rangle + 1),

so n x K (d + 1) numbers are never needed. The entries of p_i - e_y sum to zero, so K - 1
coordinates in an orthonormal basis carry all of it, and no length or angle changes: two classes
have d + 1 columns. Where fewer are wanted, the gradients are projected orthogonally onto their
leading right singular subspace, found by subspace iteration from a random start (Halko, Martinsson
and Tropp, "Finding Structure with Randomness", SIAM Review 2011) with products by the factors
alone. The error of a projection r_i of g_i is known row by row:

.. math::
    |\langle g_i, g_j \rangle - \langle r_i, r_j \rangle| \le \epsilon_i \epsilon_j, \qquad
    \epsilon_i^2 = \lVert g_i \rVert^2 - \lVert r_i \rVert^2 .

Clustering in gradient space takes each class's mean away and then scales to length one (Zeng et
al., "Outlier-Robust Group Inference via Gradient Space Clustering", 2022); both are offered here,
before the projection. What is centred no longer factorises, but its inner products follow from
those of the factors and of the class means,

.. math::
    \langle g_i - \mu_a, g_j - \mu_b \rangle = \langle g_i, g_j \rangle
        - \langle g_i, \mu_b \rangle - \langle \mu_a, g_j \rangle + \langle \mu_a, \mu_b \rangle .
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsr_core.errors import SettingError
from gsr_core.linear.head import Head
from gsr_core.linear.objective import centred_basis

__all__ = [
    "COLUMNS_BUDGET",
    "AnyGradients",
    "CentredGradients",
    "Gradients",
    "centre_by_class",
    "gradient_representation",
    "gradients",
    "gram",
    "inner_products",
    "project",
    "residuals",
    "unit_rows",
]

COLUMNS_BUDGET = 2**30
"""Bytes up to which the full matrix of gradients is built; its centred and its scaled copy come on
top."""

_BLOCK_NUMBERS = 2**22
"""Numbers in the largest temporary of a blockwise product."""
_OVERSAMPLING = 10
_ITERATIONS = 4
"""Of the subspace iteration; each is two passes over the rows."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of n samples as two factors; row i is `residuals[i]` outer `[features[i]; 1]`.

    Attributes:
        residuals: (n, K - 1) coordinates of p - e_y in the centred basis, in float64 where the
            device has it.
        features: (n, d).
    """

    residuals: Tensor
    features: Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.features)

    @property
    def width(self) -> int:
        """Columns of the full matrix, (K - 1)(d + 1)."""
        return self.residuals.shape[1] * (self.features.shape[1] + 1)

    def rows(self, index: Tensor) -> Gradients:
        """Return the gradients of some samples."""
        return Gradients(self.residuals[index], self.features[index])

    def norms(self) -> Tensor:
        """Return the length of each gradient, (n,)."""
        parts = [
            residuals.norm(dim=1) * design.norm(dim=1) for _, residuals, design in self._blocks(1)
        ]
        return torch.cat(parts)

    def unit(self) -> Gradients:
        """Return the same directions at length one; a zero gradient stays zero."""
        lengths = [design.norm(dim=1) for _, _, design in self._blocks(1)]
        return replace(self, residuals=unit_rows(self.residuals) / torch.cat(lengths)[:, None])

    def centred(self, labels: Tensor) -> CentredGradients:
        """Return the gradients less the mean of their class.

        Args:
            labels: (n,) int64 classes.
        """
        return CentredGradients.of(self, labels)

    def columns(self) -> Tensor:
        """Return the full matrix, (n, (K - 1)(d + 1)).

        Raises:
            SettingError: If it would take more than `COLUMNS_BUDGET` bytes.
        """
        needed = len(self) * self.width * self.residuals.element_size()
        if needed > COLUMNS_BUDGET:
            raise SettingError(
                f"the full gradients of {len(self):,} samples, {self.width:,} numbers each, take "
                f"{needed / 2**30:.1f} GiB; at most {COLUMNS_BUDGET / 2**30:.1f} GiB are built, so "
                "project them by rank=50 or so"
            )
        parts = [
            (design[:, :, None] * residuals[:, None, :]).flatten(1)
            for _, residuals, design in self._blocks(self.residuals.shape[1])
        ]
        return torch.cat(parts)

    def times(self, directions: Tensor) -> Tensor:
        """Return the full matrix times ((K - 1)(d + 1), l) directions: (n, l)."""
        c, width = self.residuals.shape[1], directions.shape[1]
        folded = directions.reshape(-1, c * width)
        parts = [
            torch.einsum("bc,bcl->bl", residuals, (design @ folded).reshape(-1, c, width))
            for _, residuals, design in self._blocks(c * width)
        ]
        return torch.cat(parts)

    def transposed_times(self, vectors: Tensor) -> Tensor:
        """Return the transposed full matrix times (n, l) vectors: ((K - 1)(d + 1), l)."""
        c, width = self.residuals.shape[1], vectors.shape[1]
        total = vectors.new_zeros(self.features.shape[1] + 1, c * width)
        for part, residuals, design in self._blocks(c * width):
            total += design.T @ (residuals[:, :, None] * vectors[part][:, None, :]).flatten(1)
        return total.reshape(-1, width)

    def _blocks(self, columns: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield slices of the rows with their residuals and `[x; 1]`, wide enough to add up."""
        size = max(1, _BLOCK_NUMBERS // max(columns, self.features.shape[1] + 1))
        for start in range(0, max(len(self), 1), size):
            part = slice(start, start + size)
            features = self.features[part].to(self.residuals)
            design = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
            yield part, self.residuals[part], design


@dataclass(frozen=True)
class CentredGradients:
    """Gradients less the mean of their class, in factored form; row i times `scale[i]`.

    A row that equals its mean up to rounding is zero, so that scaling cannot make a direction of
    the rounding.

    Attributes:
        factors: The gradients of n samples.
        labels: (n,) int64 classes.
        means: ((K - 1)(d + 1), K) mean gradient of each class.
        along: (n, K) inner products of the gradients with the means.
        between: (K, K) inner products of the means with each other.
        scale: (n,) factor of each row; 0 makes it zero.
    """

    factors: Gradients
    labels: Tensor
    means: Tensor
    along: Tensor
    between: Tensor
    scale: Tensor

    @classmethod
    def of(cls, factors: Gradients, labels: Tensor) -> CentredGradients:
        """Centre gradients by class.

        Args:
            factors: Of n samples.
            labels: (n,) int64 classes.
        """
        count = labels.bincount()
        share = torch.nn.functional.one_hot(labels, len(count)).to(factors.residuals)
        means = factors.transposed_times(share / count.clamp(min=1).to(share))
        along, one = factors.times(means), share.new_ones(len(labels))
        whole = cls(factors, labels, means, along, means.T @ means, one)
        return replace(whole, scale=(whole.norms() > 0).to(one))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    @property
    def width(self) -> int:
        """Columns of the full matrix, (K - 1)(d + 1)."""
        return self.factors.width

    def rows(self, index: Tensor) -> CentredGradients:
        """Return some samples, still relative to the means of all."""
        return replace(
            self,
            factors=self.factors.rows(index),
            labels=self.labels[index],
            along=self.along[index],
            scale=self.scale[index],
        )

    def norms(self) -> Tensor:
        """Return the length of each row, (n,)."""
        squares = self.factors.norms().square()
        own = self.along.gather(1, self.labels[:, None])[:, 0]
        mean_squares = self.between.diagonal()[self.labels]
        distance = squares - 2 * own + mean_squares
        # What rounding alone could leave is no direction.
        noise = 64 * torch.finfo(distance.dtype).eps * (squares + mean_squares)
        return torch.where(distance > noise, distance, 0.0).sqrt() * self.scale

    def unit(self) -> CentredGradients:
        """Return the same directions at length one; a zero row stays zero."""
        norms = self.norms()
        return replace(self, scale=torch.where(norms > 0, self.scale / norms, 0.0))

    def times(self, directions: Tensor) -> Tensor:
        """Return the full matrix times ((K - 1)(d + 1), l) directions: (n, l)."""
        moved = self.factors.times(directions) - (self.means.T @ directions)[self.labels]
        return self.scale[:, None] * moved

    def transposed_times(self, vectors: Tensor) -> Tensor:
        """Return the transposed full matrix times (n, l) vectors: ((K - 1)(d + 1), l)."""
        vectors = self.scale[:, None] * vectors
        by_class = vectors.new_zeros(self.means.shape[1], vectors.shape[1])
        by_class.index_add_(0, self.labels, vectors)
        return self.factors.transposed_times(vectors) - self.means @ by_class


AnyGradients = Gradients | CentredGradients


def gradients(head: Head, features: Tensor, labels: Tensor) -> Gradients:
    """Return the gradient of each sample's cross-entropy by the head's weight and bias.

    Args:
        head: K classes.
        features: (n, d).
        labels: (n,) int64 classes.
    """
    wide, parts = _wide(features), []
    for start in range(0, max(len(features), 1), 8192):
        block = slice(start, start + 8192)
        parts.append(residuals(head.logits(features[block].to(wide)), labels[block]))
    return Gradients(torch.cat(parts), features)


def residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradients by the logits, p - e_y, in the centred basis.

    Their lengths, distances and inner products are those of p - e_y.

    Args:
        logits: (n, K).
        labels: (n,) int64 classes.

    Returns:
        (n, K - 1), in float64 where the device has it.
    """
    logits = logits.to(_wide(logits))
    basis = centred_basis(logits.shape[1], logits.new_empty(0))
    softmax, own = torch.softmax(logits, dim=1), labels[:, None]
    # The negated sum of the other classes keeps its digits where p_y - 1 would lose them all.
    others = softmax.scatter(1, own, 0.0).sum(dim=1, keepdim=True)
    return softmax.scatter(1, own, -others) @ basis


def gram(left: AnyGradients, right: AnyGradients) -> Tensor:
    """Return all inner products between two sets of gradients, (n_left, n_right).

    Args:
        left: Gradients, as they are or centred.
        right: Of the same kind; relative to the same means if centred.
    """
    if isinstance(left, CentredGradients) and isinstance(right, CentredGradients):
        inner = gram(left.factors, right.factors)
        inner -= left.along[:, right.labels]
        inner -= right.along[:, left.labels].T
        inner += left.between[left.labels][:, right.labels]
        return left.scale[:, None] * inner * right.scale
    assert isinstance(left, Gradients)
    assert isinstance(right, Gradients)
    wide = left.residuals
    inner = left.features.to(wide) @ right.features.to(wide).T + 1
    return (left.residuals @ right.residuals.T) * inner


def inner_products(left: AnyGradients, right: AnyGradients) -> Tensor:
    """Return the inner products of q gradients with k others each, (q, k).

    Args:
        left: q gradients, as they are or centred.
        right: q k of the same kind, the first one's k first.
    """
    q = len(left)
    if isinstance(left, CentredGradients) and isinstance(right, CentredGradients):
        labels, own = right.labels.view(q, -1), left.labels[:, None]
        inner = inner_products(left.factors, right.factors)
        inner -= left.along.gather(1, labels)
        inner -= right.along.gather(1, own.expand_as(labels).reshape(-1, 1)).view_as(labels)
        inner += left.between[own, labels]
        return left.scale[:, None] * inner * right.scale.view(q, -1)
    assert isinstance(left, Gradients)
    assert isinstance(right, Gradients)
    wide = left.residuals
    features = right.features.to(wide).view(q, -1, right.features.shape[1])
    residuals = right.residuals.view(q, -1, right.residuals.shape[1])
    inner = torch.einsum("qd,qkd->qk", left.features.to(wide), features) + 1
    return torch.einsum("qc,qkc->qk", left.residuals, residuals) * inner


def unit_rows(matrix: Tensor) -> Tensor:
    """Return the rows at length one; a zero row stays zero."""
    # Dividing by the largest entry first: the square of a tiny one would be zero.
    peak = matrix.abs().amax(dim=1, keepdim=True)
    scaled = matrix / torch.where(peak > 0, peak, 1)
    length = scaled.norm(dim=1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1)


def centre_by_class(matrix: Tensor, labels: Tensor) -> Tensor:
    """Return the (n, r) matrix with each class's mean row taken away.

    A row that equals its mean up to rounding becomes zero, so that scaling cannot make a direction
    of the rounding.
    """
    count = labels.bincount()
    total = matrix.new_zeros(len(count), matrix.shape[1]).index_add_(0, labels, matrix)
    centred = matrix - (total / count.clamp(min=1).to(matrix)[:, None])[labels]
    noise = 64 * torch.finfo(matrix.dtype).eps * matrix.norm(dim=1, keepdim=True)
    return torch.where(centred.norm(dim=1, keepdim=True) > noise, centred, 0.0)


def gradient_representation(
    head: Head,
    features: Tensor,
    labels: Tensor,
    *,
    rank: int | None = 50,
    seed: int = 0,
    centred: bool = False,
    unit: bool = False,
) -> Tensor:
    """Return vectors whose inner products are those of the gradients, or close.

    Exact up to rounding if `rank` is None or no less than (K - 1)(d + 1); below that an orthogonal
    projection onto the leading subspace, with the error that the module states. Time is
    n (K - 1)(d + 1) rank, memory beyond the result (K - 1)(d + 1) rank.

    Args:
        head: K classes.
        features: (n, d); their precision is that of the result.
        labels: (n,) int64 classes.
        rank: At most so many columns.
        seed: Of the random start of the subspace iteration; rounding apart, it does not show.
        centred: Take each class's mean gradient away.
        unit: Then scale each gradient to length one, so that inner products are cosines. A zero
            gradient stays zero. A projection is shorter than one by what it left out.

    Returns:
        (n, r), columns in falling order of their share if projected.
    """
    factors = gradients(head, features, labels)
    if rank is None or rank >= factors.width:
        exact = factors.columns()
        exact = centre_by_class(exact, labels) if centred else exact
        return (unit_rows(exact) if unit else exact).to(features.dtype)
    space = factors.centred(labels) if centred else factors
    return project(space.unit() if unit else space, rank, seed).to(features.dtype)


def project(space: AnyGradients, rank: int, seed: int = 0) -> Tensor:
    """Return the orthogonal projection of gradients onto their leading subspace.

    Args:
        space: Gradients, as they are or centred.
        rank: At most so many columns.
        seed: Of the random start of the subspace iteration.

    Returns:
        (n, rank), columns in falling order of their share; (n, width) if there are fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(space.width, min(rank + _OVERSAMPLING, space.width), generator=generator)
    factors = space.factors if isinstance(space, CentredGradients) else space
    directions = random.to(factors.residuals)
    for _ in range(_ITERATIONS):
        range_of_rows = torch.linalg.qr(space.times(directions)).Q
        directions = torch.linalg.qr(space.transposed_times(range_of_rows)).Q
    projected = space.times(directions)
    _, rotation = torch.linalg.eigh(projected.T @ projected)
    rotation = rotation.flip(1)[:, :rank]
    # A singular vector has no sign of its own: its largest coordinate is made positive.
    leading = directions @ rotation
    sign = leading.gather(0, leading.abs().argmax(dim=0, keepdim=True)).sign()
    return projected @ (rotation * sign)


def _wide(like: Tensor) -> torch.dtype:
    """Return the widest type of a tensor's device."""
    return torch.float32 if like.device.type == "mps" else torch.float64
