"""What a method that trains a whole network gets: the inputs and the network behind a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from gsr_core.data.inputs import Inputs
from gsr_core.features.presets import Training
from gsr_core.progress import Report, ShouldStop, never, silent

if TYPE_CHECKING:  # Pages import this, and what opens networks takes long to import.
    from gsr_core.features.backbones import Network

__all__ = ["Start", "Trainable"]

Start = Literal["initial", "trained", "random"]
"""Weights to begin with: those that the bundle's own training began with (or was given, where it
had none), those that gave the bundle's features, or none but random ones."""


@dataclass(frozen=True)
class Trainable:
    """A network and the inputs of a bundle's rows.

    Attributes:
        inputs: Of all N rows of the bundle, in their order.
        network: Makes the network from a start and a seed, which a new head is drawn from.
        training: How the bundle's network was trained, None if it was not trained here.
        device: Where to train.
        report: Told how far the step in hand is, as a fraction, and what is being done.
        should_stop: Asked after each batch.
    """

    inputs: Inputs
    network: Callable[[Start, int], Network]
    training: Training | None
    device: torch.device
    report: Report = silent
    should_stop: ShouldStop = never
