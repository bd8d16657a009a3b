r"""Just train twice (JTT), the whole network: as published.

Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information" (ICML
2021, https://arxiv.org/abs/2107.09044): a first network is trained plainly and briefly; the rows
that it gets wrong, in eval mode, are copied so that each comes `up` times; a second network is
trained from the start on the n + (up - 1) |E| rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, settings
from gsr_core.methods.network.first import FirstNetwork
from gsr_core.methods.network.loop import Epoch

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkJTT"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkJTT(FirstNetwork):
    """Train a second network with the first one's errors counted many times."""

    name: ClassVar[str] = "network_jtt"
    title: ClassVar[str] = "Network JTT: just train twice"
    summary: ClassVar[str] = (
        "Trains a first network briefly, then a second one from the start with the rows that the "
        "first got wrong many times over."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, labels are clean, and a briefly trained network errs on the "
        "minority."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {**FirstNetwork.search, "up": Range(2, 100)}

    up: Annotated[
        int, Field(ge=1, le=100_000, description="How many times a misclassified row comes.")
    ] = 20

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the first network's epochs, then the second's.

        Args:
            loop: Where training stands; it keeps how often each row comes.
        """
        yield from self.first(loop, "whose errors are counted")
        if "copies" not in loop.kept:
            wrong = loop.logits().argmax(dim=1) != loop.labels
            loop.kept["copies"] = 1 + (self.up - 1) * wrong.long()
            loop.restart()
        copies = loop.kept["copies"]
        places = np.repeat(np.arange(len(loop)), copies.numpy())
        note = (
            f"{int((copies > 1).sum()):,} of {len(loop):,} samples were misclassified by the first "
            f"network and come {self.up:,} times."
            if self.up > 1
            else ""
        )
        while True:
            yield Epoch(loop.shuffled(places), values=copies / copies.sum(), note=note)
