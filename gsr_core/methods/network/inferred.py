"""Groups from a first network, then group DRO of a second one: EIIL and GEORGE.

Each method has the fields of its inference (`gsr_core.inference`, where each module names its
paper) and of `NetworkGroupDRO`. The inference sees the first network's logits or features in eval
mode, as it would see a bundle's; the second network is trained from the start.

Weights of inferred groups are not in the steps, whose groups are the known ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from torch.nn.functional import one_hot

from gsr_core.inference.base import GroupInference
from gsr_core.inference.eiil import EIILInference, EnvironmentSearch
from gsr_core.inference.george import GeorgeInference, Mixtures
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, SearchSpace, settings
from gsr_core.methods.network.first import FirstNetwork, infer_groups, of_inferred, shared
from gsr_core.methods.network.group_dro import Robust
from gsr_core.methods.network.loop import Epoch

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkEIIL", "NetworkGeorge"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class _InferThenRobust(FirstNetwork, Robust, ABC):
    """Infer groups from a first network, and train a second one for the worst of them."""

    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {**Robust.search, **FirstNetwork.search}
    space: ClassVar[Literal["features", "logits"]]
    """What of the first network the inference looks at."""

    @abstractmethod
    def inference(self) -> GroupInference:
        """Return the inference; its reference head is the first network's own."""

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the first network's epochs, then n draws an epoch for the second.

        Args:
            loop: Where training stands; it keeps the groups and their weights.
        """
        yield from self.first(loop, "from which groups are inferred")
        if "group" not in loop.kept:
            infer_groups(loop, self.inference(), self.space)
        members = one_hot(loop.kept["group"]).bool()
        for epoch in self.robust(loop, members):
            yield of_inferred(loop, epoch)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkEIIL(EnvironmentSearch, _InferThenRobust):
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

    def inference(self) -> EIILInference:
        """Return the inference by the first network's logits."""
        return EIILInference(
            seed=self.seed, reference="backbone", **shared(self, EnvironmentSearch)
        )


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkGeorge(Mixtures, _InferThenRobust):
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
        **_InferThenRobust.search,
        "reduce": ("umap", "pca"),
        "overcluster": (1, 2, 5, 10),
    }
    space: ClassVar[Literal["features", "logits"]] = "features"

    def inference(self) -> GeorgeInference:
        """Return the inference by the inputs of the first network's head."""
        return GeorgeInference(seed=self.seed, reference="backbone", **shared(self, Mixtures))
