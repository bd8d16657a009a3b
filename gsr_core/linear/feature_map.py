r"""From raw features to the rows of the inner problem, and back to a head on raw features.

Three changes of coordinates. The first is a choice, which decides what the penalty acts on; the
way back to raw features is exact for all of them.

- **Standardise** (optional): :math:`z = (x - \mu) / \sigma`, fitted on the rows that carry the
  weights. The l2 penalty then acts on the standardised coordinates, so that the fitted classifier
  differs from that on raw features.
- **Bias**: a column of ones, penalised like every other column (the convention of the code
  released with the GSR paper, so that published settings carry over).
- **Row space**: with fewer rows than columns the optimum lies in the span of the rows (representer
  theorem), so the rows are rotated onto an orthonormal basis of that span, n columns instead of
  d + 1. Inner products and norms, hence objective, Hessian, influence and the fitted classifier,
  are unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsr_core.data.stored import StoredFeatures
from gsr_core.linear.head import Head

__all__ = ["FeatureMap"]

_CHUNK = 4096
"""Rows at a time of features that stay in their file."""
_CONSTANT = 1e-6
"""A feature whose deviation is below this fraction of its magnitude is constant in float32."""


@dataclass(frozen=True)
class FeatureMap:
    """An affine map of features (n, d) to design rows (n, p).

    Attributes:
        mean: (d,) subtracted from each feature.
        scale: (d,) each feature is divided by; 1 for constant features.
        basis: (d + 1, p) orthonormal columns that span the fitted rows, or None for all columns.

    Example:
        >>> import torch
        >>> features = torch.tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
        >>> to_design = FeatureMap.fit(features, standardise=True, dtype=torch.float64)
        >>> to_design.design(features, torch.float64)  # the constant feature is only centred
        tensor([[-1.2247,  0.0000,  1.0000],
                [ 0.0000,  0.0000,  1.0000],
                [ 1.2247,  0.0000,  1.0000]], dtype=torch.float64)
        >>> theta = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
        >>> to_design.head(theta).logits(features)  # of raw features
        tensor([[ 0.0000, -0.7247],
                [ 0.0000,  0.5000],
                [ 0.0000,  1.7247]])
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor | None

    @classmethod
    def fit(
        cls,
        features: Tensor | StoredFeatures,
        *,
        standardise: bool,
        dtype: torch.dtype,
        row_space: bool = True,
    ) -> FeatureMap:
        """Fit the map on the rows that carry the weights.

        Args:
            features: (n, d); the row space of those that stay in their file is not used.
            standardise: Whether to centre and scale each feature.
            dtype: Precision of the map.
            row_space: Whether to use the row space where it is smaller; false for tests.
        """
        d = features.shape[1]
        if standardise:
            variance, mean = _moments(features, dtype)
            scale = variance.sqrt()
            constant = scale <= _CONSTANT * mean.abs().clamp(min=torch.finfo(dtype).tiny)
            scale = torch.where(constant, torch.ones_like(scale), scale)
        else:
            mean = torch.zeros(d, dtype=dtype, device=features.device)
            scale = torch.ones_like(mean)
        plain = cls(mean, scale, None)
        if isinstance(features, StoredFeatures) or not row_space:
            return plain
        return plain.in_row_space(features)

    def in_row_space(self, features: Tensor) -> FeatureMap:
        """Return this map onto the span of the rows (n, d), or as it is if that is no smaller."""
        if len(features) > features.shape[1]:
            return self
        basis, _ = torch.linalg.qr(self.design(features, self.mean.dtype).T)
        return replace(self, basis=basis)

    def design(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the (n, p) design rows of (n, d) features in the given precision."""
        n, d = features.shape
        rows = torch.empty(n, d + 1, dtype=self.mean.dtype, device=features.device)
        torch.sub(features, self.mean, out=rows[:, :d])
        rows[:, :d] /= self.scale
        rows[:, d] = 1
        if self.basis is not None:
            rows = rows @ self.basis
        return rows.to(dtype)

    def head(self, theta: Tensor) -> Head:
        """Return the head on raw features that equals `theta`, (p, K), on design rows."""
        if self.basis is not None:
            theta = self.basis @ theta.to(self.basis)
        weight = theta[:-1].T / self.scale
        return Head(weight, theta[-1] - weight @ self.mean)


def _moments(features: Tensor | StoredFeatures, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the variance and the mean (d,) of each feature."""
    if isinstance(features, Tensor):
        return torch.var_mean(features.to(dtype), dim=0, correction=0)
    # Each part is added at once: what is kept between two of them would keep the allocator from
    # giving one the place of the other, and memory would grow with the rows.
    mean = torch.zeros(features.shape[1], dtype=dtype, device=features.device)
    for part in features.split(_CHUNK):
        mean += part.to(dtype).sum(dim=0)
    mean /= len(features)
    # In a second pass: of squares and their mean, little would be left of a small variance.
    variance = torch.zeros_like(mean)
    for part in features.split(_CHUNK):
        variance += (part.to(dtype) - mean).square_().sum(dim=0)
    return variance / len(features), mean
