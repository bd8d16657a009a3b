"""Groups from a first network, then group DRO of a second one: what such methods share.

The inference sees the first network's logits or features in eval mode, as it would see a bundle's;
the second network is trained from the start, as `NetworkGroupDRO` is.

Weights of inferred groups are not in the steps, whose groups are the known ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from torch.nn.functional import one_hot

from gsr_core.inference.base import GroupInference
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, SearchSpace, settings
from gsr_core.methods.network.first import FirstNetwork, infer_groups, of_inferred
from gsr_core.methods.network.group_dro import Robust
from gsr_core.methods.network.loop import Epoch

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["InferThenRobust"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class InferThenRobust(FirstNetwork, Robust, ABC):
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
