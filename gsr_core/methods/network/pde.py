"""Progressive data expansion (PDE), the whole network: as published.

Deng, Yang, Mirzasoleiman and Gu, "Robust Learning with Progressive Data Expansion Against Spurious
Correlation" (NeurIPS 2023): a warm-up of some epochs on a small group-balanced set, so that the
momentum settles on what tells the classes apart in every group; then some of the remaining rows
join every few epochs, at a lower learning rate. Optimiser and batch normalisation go on as they
are. An epoch is one of the current set, and val decides which is kept.

Rows join in the order of `gsr_core.methods.pde`, where it says how that differs from the released
code. Training ends a stage after the last have joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Values,
    settings,
)
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.network.loop import Epoch
from gsr_core.methods.pde import Expansion, joining_order, stage_in_words

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkPDE"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkPDE(Expansion, NetworkMethod):
    """Train the network on a balanced set first, then on sets that grow by a few rows a stage."""

    name: ClassVar[str] = "network_pde"
    title: ClassVar[str] = "Network PDE: progressive data expansion"
    summary: ClassVar[str] = (
        "Trains the whole network on a group-balanced part of the rows, then lets the others join "
        "a few at a time, at a lower learning rate."
    )
    use_when: ClassVar[str] = (
        "Every training row has a group label, and the rows that balance leaves out are too good "
        "to throw away."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN
    values: ClassVar[Values] = Values.SUBSET
    search: ClassVar[SearchSpace] = {
        **NetworkMethod.search,
        "expansion_lr": Range(1e-3, 1.0),
        "add": (5, 10, 50),
    }

    steps: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Epochs of the current set, the warm-up included; fewer if rows run out.",
        ),
    ] = 60
    warmup: Annotated[
        int, Field(ge=1, description="Epochs of the balanced set, among `steps`.")
    ] = 20
    every: Annotated[
        int, Field(ge=1, description="Epochs of a stage, at the start of which samples join.")
    ] = 10

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield each row of the current set once an epoch, until all have joined.

        Args:
            loop: Where training stands.
        """
        order, warm = joining_order(loop.trained, np.random.default_rng(self.seed))
        while True:
            stage = max(loop.epoch - self.warmup, -1) // self.every + 2
            if stage > 1 and warm + (stage - 2) * self.add >= len(order):
                return
            size = min(warm + (stage - 1) * self.add, len(order))
            places = np.sort(order[:size])
            share = torch.zeros(len(loop), dtype=torch.float64)
            share[torch.from_numpy(places)] = 1 / size
            loop.rate(1.0 if stage == 1 else self.expansion_lr)
            yield Epoch(
                loop.shuffled(places), values=share, note=stage_in_words(stage, size, len(loop))
            )
