"""Projections that descend contrastive terms, batch by batch: what methods of that kind share."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.methods.base import SETTINGS_CONFIG, Method, settings
from gsr_core.methods.contrast import Contrast
from gsr_core.methods.weight_network import descend

__all__ = ["SHARPEST", "Pass", "TrainedProjection", "Training"]

SHARPEST = 100.0
"""Largest 1 / tau, as CLIP bounds it: above, one pair of rows decides the loss."""
_SHARPNESS = "log_sharpness"

Terms = Mapping[str, Contrast]
"""The terms of a batch by the name of their metric."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class TrainedProjection(Method, ABC):
    """A method that trains a linear projection in passes over the weighted rows.

    One step is one pass; selection on val picks it.
    """

    steps: Annotated[
        int,
        Field(
            ge=1, le=10_000, description="Passes over the rows; the first only measures the terms."
        ),
    ] = 20
    lr: Annotated[float, Field(gt=0, description="Step size of the projection.")] = 0.1
    weight_decay: Annotated[
        float, Field(ge=0, description="Decay of the projection, as a share of each step size.")
    ] = 1e-4
    batch_size: Annotated[
        int, Field(ge=4, le=8192, description="Rows that are contrasted with each other.")
    ] = 256
    grouping: Annotated[
        Literal["class_attribute", "attribute"],
        Field(
            description="What a group is in a term between groups. class_attribute: class and "
            "attribute; attribute: the attribute across classes, as the paper defines it, which "
            "rewards a shortcut."
        ),
    ] = "class_attribute"


class Training:
    """Parameters that descend a weighted sum of terms, batch by batch.

    The logarithm of 1 / tau is one of them; it does not decay, and stays between 0 and that of
    `SHARPEST`.
    """

    def __init__(
        self,
        method: TrainedProjection,
        weights: Mapping[str, float],
        start: Callable[[], Mapping[str, Tensor]],
        temperature: float,
        like: Tensor,
        checkpoint: Mapping[str, Tensor] | None,
    ) -> None:
        """Begin, or go on where a checkpoint was made.

        Args:
            method: Gives the step size and the decay.
            weights: Of each term.
            start: Gives the parameters at the beginning, by name.
            temperature: Tau at the beginning.
            like: A tensor whose device and precision to use.
            checkpoint: From `checkpoint`, or None.
        """
        self._lr, self._decay, self._weights = method.lr, method.weight_decay, weights
        if checkpoint is None:
            first = {**start(), _SHARPNESS: like.new_tensor(-math.log(temperature))}
            still = {f"velocity of {name}": torch.zeros_like(each) for name, each in first.items()}
            checkpoint = {**first, **still, "passes": torch.tensor(0)}
        stored = {name: each.to(like).clone() for name, each in checkpoint.items()}
        self.passes = int(stored.pop("passes"))
        self._velocity = {
            name.removeprefix("velocity of "): stored.pop(name)
            for name in list(stored)
            if name.startswith("velocity of ")
        }
        self._values = stored

    def __getitem__(self, name: str) -> Tensor:
        """Return a parameter."""
        return self._values[name]

    @property
    def temperature(self) -> float:
        """Tau as it is now."""
        return math.exp(-float(self._values[_SHARPNESS]))

    def checkpoint(self) -> dict[str, Tensor]:
        """Return what to go on from."""
        speeds = {f"velocity of {name}": each for name, each in self._velocity.items()}
        return {**self._values, **speeds, "passes": torch.tensor(self.passes)}

    def step(self, terms: Callable[[Mapping[str, Tensor], Tensor], Terms]) -> Terms:
        """Take a step down the terms of a batch, and return them as they were before it.

        In the first pass nothing moves: it measures what the projection is before it is trained.

        Args:
            terms: Computes them from the parameters and 1 / tau.
        """
        free = {name: each.detach().requires_grad_() for name, each in self._values.items()}
        found = terms(free, free[_SHARPNESS].exp())
        if self.passes == 0:
            return found
        loss = torch.stack([self._weights[name] * term.loss for name, term in found.items()]).sum()
        # A text is no part of a loss of images alone, and the other way round.
        slopes = torch.autograd.grad(loss, list(free.values()), allow_unused=True)
        for (name, value), slope in zip(self._values.items(), slopes, strict=True):
            if slope is None:
                continue
            is_sharpness = name == _SHARPNESS
            slope = slope if is_sharpness else slope + self._decay * value
            moved, self._velocity[name] = descend(value, self._velocity[name], slope, self._lr)
            self._values[name] = moved.clamp(0, math.log(SHARPEST)) if is_sharpness else moved
        return found


class Pass:
    """The terms of one pass over the rows, batch by batch."""

    def __init__(self) -> None:
        """Begin with no batch."""
        self._sums: dict[str, list[float]] = {}

    def add(self, terms: Terms) -> None:
        """Count a batch's terms."""
        for name, term in terms.items():
            anchors = int(term.anchors)
            sums = self._sums.setdefault(name, [0.0, 0, 0])
            for place, more in enumerate((anchors * term.loss.item(), anchors, term.rows)):
                sums[place] += more

    def numbers(self) -> dict[str, float]:
        """Return each term, the mean over its anchors, and the share of rows that were none."""
        numbers = {}
        for name, (total, anchors, rows) in self._sums.items():
            numbers[name] = total / anchors if anchors else math.nan
            numbers[f"{name}_skipped"] = 1 - anchors / rows
        return numbers
