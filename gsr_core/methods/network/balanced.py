"""Plain training of the whole network, and training on rows drawn in balance.

The network versions of `erm`, `class_balanced`, `rwg` and `subg`, whose laws they share: a weight
there is a probability here (Idrissi et al., "Simple data balancing achieves competitive worst-group
accuracy", CLeaR 2022: rows are drawn with replacement, n an epoch).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Values, settings
from gsr_core.methods.class_balanced import class_balanced_weight
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.network.loop import Epoch
from gsr_core.methods.rwg import group_shares
from gsr_core.methods.subg import balanced_subset

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkClassBalanced", "NetworkERM", "NetworkRWG", "NetworkSUBG"]

_EXACT = torch.zeros(0, dtype=torch.float64)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkERM(NetworkMethod):
    """Train the network plainly."""

    name: ClassVar[str] = "network_erm"
    title: ClassVar[str] = "Network ERM: plain training"
    summary: ClassVar[str] = "Trains the whole network with all rows alike: the reference."
    use_when: ClassVar[str] = "A reference is needed for the methods that train the network."
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.NONE

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield each row once an epoch, in random order.

        Args:
            loop: Where training stands.
        """
        while True:
            yield Epoch(loop.shuffled())


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class _Drawn(NetworkMethod, ABC):
    """Train on rows drawn with replacement by probabilities that never change."""

    values: ClassVar[Values] = Values.PROBABILITIES

    @abstractmethod
    def probability(self, loop: Loop) -> Tensor:
        """Return (n,) float64, sums to one."""

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield n draws an epoch.

        Args:
            loop: Where training stands.
        """
        probability = self.probability(loop)
        while True:
            yield Epoch(loop.drawn(probability), values=probability)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkClassBalanced(_Drawn):
    """Train the network on rows drawn so that all classes come equally often."""

    name: ClassVar[str] = "network_class_balanced"
    title: ClassVar[str] = "Network CB: classes drawn equally often"
    summary: ClassVar[str] = (
        "Trains the whole network on rows drawn with replacement, every class equally often."
    )
    use_when: ClassVar[str] = "The classes are of very unequal size, and nobody labelled groups."
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE

    def probability(self, loop: Loop) -> Tensor:
        """Return each row's chance (n,) if first a class is drawn and then one of its rows."""
        return class_balanced_weight(loop.labels, _EXACT)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkRWG(_Drawn):
    """Train the network on rows drawn so that all groups come equally often."""

    name: ClassVar[str] = "network_rwg"
    title: ClassVar[str] = "Network RWG: groups drawn equally often"
    summary: ClassVar[str] = (
        "Trains the whole network on rows drawn with replacement, every group equally often."
    )
    use_when: ClassVar[str] = (
        "Every training row has a group label, and the smallest group has dozens."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN

    def probability(self, loop: Loop) -> Tensor:
        """Return each row's chance (n,) if first a group is drawn and then one of its rows."""
        return group_shares(loop.trained, _EXACT).mean(dim=1)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkSUBG(NetworkMethod):
    """Train the network on a random part in which all groups are equally large."""

    name: ClassVar[str] = "network_subg"
    title: ClassVar[str] = "Network SUBG: group-balanced subsample"
    summary: ClassVar[str] = (
        "Trains the whole network on a random part of the rows in which every group is as large "
        "as the smallest."
    )
    use_when: ClassVar[str] = (
        "Every training row has a group label, and even the smallest group has hundreds."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN
    values: ClassVar[Values] = Values.SUBSET

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the same part every epoch, in random order.

        Args:
            loop: Where training stands.
        """
        drawn = balanced_subset(loop.trained, np.random.default_rng(self.seed))
        places, share = np.flatnonzero(drawn), torch.from_numpy(drawn / drawn.sum())
        note = f"{len(places):,} of {len(drawn):,} samples were drawn."
        while True:
            yield Epoch(loop.shuffled(places), values=share, note=note)
