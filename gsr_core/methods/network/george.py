"""GEORGE, the whole network: as published.

Sohoni et al., "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained Classification
Problems" (NeurIPS 2020): the features that a first network makes of each class are reduced and
clustered (`gsr_core.inference.george`, where it says how that differs); the clusters are the groups
of group DRO of a second network, which is trained from the start.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from gsr_core.inference.george import GeorgeInference, Mixtures
from gsr_core.methods.base import SETTINGS_CONFIG, SearchSpace, settings
from gsr_core.methods.network.first import by_first
from gsr_core.methods.network.inferred import InferThenRobust

__all__ = ["NetworkGeorge"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkGeorge(Mixtures, InferThenRobust):
    """Train for the worst of the clusters of a first network's features."""

    name: ClassVar[str] = "network_george"
    title: ClassVar[str] = "Network GEORGE: mixtures of features"
    summary: ClassVar[str] = (
        "Fits a Gaussian mixture to a first network's reduced features of each class, and trains a "
        "second one for the worst of its components."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and they form clumps in what a network makes of their class."
    )
    search: ClassVar[SearchSpace] = {
        **InferThenRobust.search,
        "reduce": ("umap", "pca"),
        "overcluster": (1, 2, 5, 10),
    }
    space: ClassVar[Literal["features", "logits"]] = "features"

    def inference(self) -> GeorgeInference:
        """Return the inference by the inputs of the first network's head."""
        return by_first(self, GeorgeInference, reference="backbone")
