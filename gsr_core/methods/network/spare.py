"""SPARE, the whole network: as published.

Yang et al., "Identifying Spurious Biases Early in Training through the Lens of Simplicity Bias"
(AISTATS 2024): after an epoch or two the outputs of a network are governed by what is easiest to
learn. The rows of each class are clustered by them, in eval mode and after softmax, by k-means with
the number of clusters of the best silhouette; a second network is trained from the start on n draws
an epoch, by the probabilities of `gsr_core.methods.importance`.

Where we differ: the published runs chose the epoch of the clustering by the groups of val; here it
is a setting, which a sweep may choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch

from gsr_core.inference.spare import MostClusters, Outputs, SpareInference
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, SearchSpace, Values, settings
from gsr_core.methods.importance import Importance, importance, importance_in_words
from gsr_core.methods.network.first import FirstNetwork, by_first, infer_groups, of_inferred
from gsr_core.methods.network.loop import Epoch

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkSpare"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkSpare(Importance, FirstNetwork):
    """Train a second network on draws inversely to the sizes of the first one's clusters."""

    name: ClassVar[str] = "network_spare"
    title: ClassVar[str] = "Network SPARE: early clusters, drawn inversely to size"
    summary: ClassVar[str] = (
        "Clusters each class by what a first network puts out early in training, where a shortcut "
        "shows first, and trains a second one with small clusters drawn more often."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and the shortcut is learned in the first epochs."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.PROBABILITIES
    search: ClassVar[SearchSpace] = {
        **FirstNetwork.search,
        "power_clear": (0.0, 1.0, 2.0),
        "power_blurred": (0.0, 1.0, 2.0),
    }

    outputs: Outputs = "softmax"
    max_clusters: MostClusters = 5

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the first network's epochs, then n draws an epoch for the second.

        Args:
            loop: Where training stands; it keeps the clusters and lambda of each class.
        """
        yield from self.first(loop, "whose outputs are clustered")
        if "power" not in loop.kept:
            inference = by_first(self, SpareInference, clustered="backbone")
            found = infer_groups(loop, inference, "logits")
            power = self.powers(found, loop.n_classes)
            powers = [power[label] for label in sorted(power)]
            loop.kept["power"] = torch.tensor(powers, dtype=torch.float64)
        power = dict(enumerate(loop.kept["power"].tolist()))
        drawn = importance(loop.kept["group"].numpy(), loop.labels.numpy(), power)
        probability, note = torch.from_numpy(drawn), importance_in_words(power, drawn)
        while True:
            epoch = Epoch(loop.drawn(probability), values=probability)
            yield of_inferred(loop, epoch, note)
