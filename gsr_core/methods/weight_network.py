"""The small networks that learn weights: from a sample's features or loss to one number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gsr_core.data.problem import Rows
from gsr_core.linear.feature_map import FeatureMap

__all__ = ["MOMENTUM", "Network", "descend", "network_inputs", "network_weight"]

MOMENTUM = 0.9
"""Of the descent of every network here, as in the paper."""


@dataclass(frozen=True)
class Network:
    """A network of at most one hidden layer, its parameters in one vector.

    Attributes:
        inputs: How many numbers it is given.
        hidden: Hidden units; 0 makes it linear.
        outputs: How many, of which each row has one.
    """

    inputs: int
    hidden: int
    outputs: int = 1

    def start(self, seed: int, like: Tensor) -> Tensor:
        """Return parameters at which the output is 0 everywhere."""
        last = self.outputs * ((self.hidden or self.inputs) + 1)
        if self.hidden == 0:
            return like.new_zeros(last)
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(self.hidden, self.inputs + 1, generator=generator)
        first[:, -1] = 0
        return torch.cat([first.flatten(), torch.zeros(last)]).to(like)

    def __call__(self, parameters: Tensor, inputs: Tensor, which: Tensor | None = None) -> Tensor:
        """Return the (n,) outputs for inputs (n, i).

        Args:
            parameters: Of all its layers.
            inputs: (n, i).
            which: (n,) int64 the output that each row has; the only one by default.
        """
        if self.hidden:
            cut = self.hidden * (self.inputs + 1)
            first = parameters[:cut].reshape(self.hidden, self.inputs + 1)
            inputs = torch.tanh(inputs @ first[:, :-1].T + first[:, -1])
            parameters = parameters[cut:]
        if which is None:
            return inputs @ parameters[:-1] + parameters[-1]
        last = parameters.reshape(self.outputs, -1)[which]
        return (inputs * last[:, :-1]).sum(dim=1) + last[:, -1]


def network_inputs(rows: Rows, *, standardise: bool, dtype: torch.dtype) -> Tensor:
    """Return (n, d): the features, scaled so that a row's length is about one.

    They are not in the row space, whose axes depend on the order of the rows.
    """
    scaling = FeatureMap.fit(rows.features, standardise=standardise, dtype=dtype, row_space=False)
    features = scaling.design(rows.features, dtype)[:, :-1]
    length = features.square().sum(dim=1).mean().sqrt()
    return features / length.clamp(min=torch.finfo(dtype).tiny)


def network_weight(outputs: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return (n,) weights from a network's outputs (n,): sigmoids over their sum.

    Args:
        outputs: (n,).
        counted: (n,) bool, which rows have a weight, those of the others being zero; all if None.
    """
    shares = torch.sigmoid(outputs)
    shares = shares if counted is None else torch.where(counted, shares, 0)
    return shares / shares.sum()


def descend(
    parameters: Tensor, velocity: Tensor, slope: Tensor, lr: float
) -> tuple[Tensor, Tensor]:
    """Return parameters and velocity after a step with momentum against a slope."""
    velocity = MOMENTUM * velocity + slope
    return parameters - lr * velocity, velocity
