"""What follows a fit: told after each step, able to stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gsr_core.methods.base import Step
from gsr_core.methods.history import Record, split_metrics

__all__ = ["Monitor", "Progress"]


@dataclass(frozen=True)
class Progress:
    """What a monitor is told after each step.

    Attributes:
        step_index: The step, counted from one.
        steps: How many there will be.
        step: The step itself.
        records: This step's rows of the history.
        best_index: The step that would be kept if the fit stopped here.
        seconds: Time since the fit began, earlier parts of a continued fit included.
    """

    step_index: int
    steps: int
    step: Step
    records: list[Record]
    best_index: int
    seconds: float

    @property
    def val(self) -> dict[str, float]:
        """The step's metrics on val, over all groups, by name."""
        return split_metrics(self.records, "val")


Monitor = Callable[[Progress], "bool | None"]
"""Called after each step; returning True stops the fit, and the steps done are kept."""
