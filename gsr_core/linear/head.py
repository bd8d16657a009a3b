"""A linear classification head on raw features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Head", "head_digest"]


@dataclass(frozen=True)
class Head:
    """Weight (K, d) and bias (K,) of a softmax classifier on raw backbone features."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return (n, K) logits of (n, d) features, in the features' precision.

        Args:
            features: On the raw scale of the backbone.

        Example:
            >>> import torch
            >>> head = Head(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.0, -1.0]))
            >>> head.logits(torch.tensor([[3.0, 1.0], [0.0, 2.0]]))
            tensor([[3., 1.],
                    [0., 3.]])
        """
        weight, bias = self.weight.to(features), self.bias.to(features)
        # With few classes, BLAS is several times as fast on the transposed product.
        return (weight @ features.T).T + bias


def head_digest(head: Head) -> str:
    """Return the SHA-256 of a head's numbers, whatever device and precision hold them."""
    state = hashlib.sha256(f"{tuple(head.weight.shape)}".encode())
    for part in (head.weight, head.bias):
        state.update(part.detach().cpu().double().contiguous().numpy().tobytes())
    return state.hexdigest()
