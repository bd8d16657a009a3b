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
before the projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsr_core.linear.head import Head
from gsr_core.linear.objective import centred_basis

__all__ = [
    "Gradients",
    "centre_by_class",
    "gradient_representation",
    "gradients",
    "gram",
    "unit_rows",
]

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

    def columns(self) -> Tensor:
        """Return the full matrix, (n, (K - 1)(d + 1)); n times that many numbers."""
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


def gradients(head: Head, features: Tensor, labels: Tensor) -> Gradients:
    """Return the gradient of each sample's cross-entropy by the head's weight and bias.

    Args:
        head: K classes.
        features: (n, d).
        labels: (n,) int64 classes.
    """
    wide = torch.float32 if features.device.type == "mps" else torch.float64
    basis = centred_basis(len(head.bias), features.new_empty(0, dtype=wide))
    parts = []
    for start in range(0, max(len(features), 1), 8192):
        block, own = features[start : start + 8192].to(wide), labels[start : start + 8192, None]
        residuals = torch.softmax(head.logits(block), dim=1)
        # The negated sum of the other classes keeps its digits where p_y - 1 would lose them all.
        others = residuals.scatter(1, own, 0.0).sum(dim=1, keepdim=True)
        parts.append(residuals.scatter(1, own, -others) @ basis)
    return Gradients(torch.cat(parts), features)


def gram(left: Gradients, right: Gradients) -> Tensor:
    """Return all inner products between two sets of gradients, (n_left, n_right)."""
    wide = left.residuals
    inner = left.features.to(wide) @ right.features.to(wide).T + 1
    return (left.residuals @ right.residuals.T) * inner


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

    if unit and not centred:
        factors = factors.unit()
        unit = False
    scale = _centred_lengths(factors, labels).reciprocal() if unit else None

    def times(directions: Tensor) -> Tensor:
        product = factors.times(directions)
        product = centre_by_class(product, labels) if centred else product
        return product if scale is None else scale[:, None] * product

    def transposed_times(vectors: Tensor) -> Tensor:
        vectors = vectors if scale is None else scale[:, None] * vectors
        return factors.transposed_times(centre_by_class(vectors, labels) if centred else vectors)

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(
        factors.width, min(rank + _OVERSAMPLING, factors.width), generator=generator
    )
    directions = drawn.to(factors.residuals)
    for _ in range(_ITERATIONS):
        range_of_rows = torch.linalg.qr(times(directions)).Q
        directions = torch.linalg.qr(transposed_times(range_of_rows)).Q
    projected = times(directions)
    _, rotation = torch.linalg.eigh(projected.T @ projected)
    rotation = rotation.flip(1)[:, :rank]
    # A singular vector has no sign of its own: its largest coordinate is made positive.
    leading = directions @ rotation
    sign = leading.gather(0, leading.abs().argmax(dim=0, keepdim=True)).sign()
    return (projected @ (rotation * sign)).to(features.dtype)


def _centred_lengths(factors: Gradients, labels: Tensor) -> Tensor:
    """Return each gradient's distance from its class's mean, infinite where there is none."""
    count = labels.bincount()
    share = torch.nn.functional.one_hot(labels, len(count)).to(factors.residuals)
    means = factors.transposed_times(share / count.clamp(min=1).to(share))
    squares = factors.norms().square()
    along = torch.cat(
        [
            factors.rows(index).times(means[:, label, None])[:, 0]
            for label in range(len(count))
            for index in [(labels == label).nonzero()[:, 0]]
        ]
    )
    own = torch.empty_like(along)
    own[labels.argsort(stable=True)] = along
    mean_squares = means.square().sum(dim=0)[labels]
    distance = squares - 2 * own + mean_squares
    # What rounding alone could leave is no direction.
    noise = 64 * torch.finfo(distance.dtype).eps * (squares + mean_squares)
    return torch.where(distance > noise, distance, torch.inf).sqrt()
