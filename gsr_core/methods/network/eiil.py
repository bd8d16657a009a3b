"""EIIL, the whole network.

Creager, Jacobsen and Zemel, "Environment Inference for Invariant Learning" (ICML 2021): the rows
are split so that a first network, briefly trained, is least invariant between the two parts
(`gsr_core.inference.eiil`, on its logits); part by class are the groups of group DRO of a second
network, which is trained from the start.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from gsr_core.inference.eiil import (
    EIILInference,
    EnvironmentRate,
    EnvironmentSteps,
    Restarts,
)
from gsr_core.methods.base import SETTINGS_CONFIG, settings
from gsr_core.methods.network.first import by_first
from gsr_core.methods.network.inferred import InferThenRobust

__all__ = ["NetworkEIIL"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkEIIL(InferThenRobust):
    """Train for the worst of the environments under which a first network differs most."""

    name: ClassVar[str] = "network_eiil"
    title: ClassVar[str] = "Network EIIL: inferred environments"
    summary: ClassVar[str] = (
        "Splits the rows so that a first network differs most between the two parts, and trains a "
        "second one for the worst group of part and class."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and a briefly trained network fails just where the shortcut fails."
    )
    space: ClassVar[Literal["features", "logits"]] = "logits"

    environment_steps: EnvironmentSteps = 500
    environment_lr: EnvironmentRate = 0.1
    restarts: Restarts = 3

    def inference(self) -> EIILInference:
        """Return the inference by the first network's logits."""
        return by_first(self, EIILInference, reference="backbone")
