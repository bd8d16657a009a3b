"""Features that stay in their file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["FeatureBlocks", "StoredFeatures"]


class FeatureBlocks(Protocol):
    """Features (n, d) that come block by block, wherever they are."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        ...

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows, so many at a time."""
        ...


@dataclass(frozen=True)
class StoredFeatures:
    """Some rows of a file of features, read when they are asked for and not kept.

    Attributes:
        file: (N, d) float32, memory-mapped.
        position: (n,) int64, which of its rows.
        device: Where the tensors go.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> file = np.arange(12, dtype=np.float32).reshape(6, 2)
        >>> stored = StoredFeatures(file, np.array([5, 0, 1]), torch.device("cpu"))
        >>> stored.shape, stored.read(slice(0, 2))
        ((3, 2), tensor([[10., 11.],
                [ 0.,  1.]]))
    """

    file: np.ndarray
    position: np.ndarray
    device: torch.device

    def __len__(self) -> int:
        """Return the number of rows n."""
        return len(self.position)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self), self.file.shape[1]

    def numel(self) -> int:
        """Return how many numbers there are, n d."""
        return len(self) * self.file.shape[1]

    def read(self, rows: slice = slice(None)) -> Tensor:
        """Return some of the rows, by default all of them."""
        return torch.from_numpy(np.asarray(self.file)[self.position[rows]]).to(self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows, so many at a time."""
        return (self.read(slice(start, start + size)) for start in range(0, len(self), size))
