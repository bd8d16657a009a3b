r"""Effective poison identification (EPIC), the whole network: isolated medoids are dropped.

Yang, Liu and Mirzasoleiman, "Not All Poisons are Created Equal: Robust Training against Data
Poisoning" (ICML 2022): after a warm-up on all rows, and then every T epochs, k_c medoids of each
class's gradients by the logits,

.. math:: F(S) = \sum_{i \in V_c} \max_{j \in S}
    \bigl(c_0 - \lVert g_i - g_j \rVert\bigr), \qquad g_i = p_i - e_{y_i},

are chosen by `gsr_core.gradients.coresets`, every row joins its nearest medoid, and medoids that
stay alone are dropped for good. Poisons that work, wrong labels and outliers are alone in gradient
space; so are rows of small groups.

k_c is a share of the class as it is then. A medoid that is the copy of another is not alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.gradients.coresets import medoids
from gsr_core.gradients.representations import residuals
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

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkEPIC", "isolated"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkEPIC(NetworkMethod):
    """Train the network on rows that are not alone in gradient space."""

    name: ClassVar[str] = "network_epic"
    title: ClassVar[str] = "Network EPIC: isolated samples dropped"
    summary: ClassVar[str] = (
        "Trains the whole network and drops, every few epochs, the samples that are alone in their "
        "class by their gradients."
    )
    use_when: ClassVar[str] = (
        "Some samples may be poisoned, mislabelled or outliers; not for small groups, which are "
        "dropped too."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.SUBSET
    search: ClassVar[SearchSpace] = {
        **NetworkMethod.search,
        "warmup": (2, 5, 10, 20),
        "every": (1, 2, 5, 10),
        "medoids": Range(0.05, 0.3),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Epochs, those of the warm-up included.")
    ] = 40
    warmup: Annotated[
        int,
        Field(
            ge=1,
            description="Epochs on all samples; with 0.2 or 0.3 of medoids take two or three times "
            "as many.",
        ),
    ] = 10
    every: Annotated[
        int, Field(ge=1, description="T: epochs from one look for isolated samples to the next.")
    ] = 2
    medoids: Annotated[
        float, Field(gt=0, lt=1, description="Share of each class that is chosen as medoids.")
    ] = 0.1
    for_good: Annotated[
        bool,
        Field(
            description="A dropped sample stays dropped, as published; else each look is at all "
            "samples."
        ),
    ] = True

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield all rows while it warms up, then those that are left.

        Args:
            loop: Where training stands; it keeps which rows are trained on.
        """
        n = len(loop)
        if "active" not in loop.kept:
            loop.kept["active"] = torch.ones(n, dtype=torch.bool)
        while True:
            since = loop.epoch - self.warmup
            if since >= 0 and since % self.every == 0:
                loop.kept["active"] = self._left(loop)
            active = loop.kept["active"]
            dropped = n - int(active.sum())
            yield Epoch(
                loop.shuffled(active.nonzero().squeeze(1).numpy()),
                values=active / active.sum() if since >= 0 else None,
                note=f"{dropped:,} of {n:,} samples are dropped as isolated."
                if since >= 0
                else f"Nothing is dropped before epoch {self.warmup + 1}.",
            )

    def _left(self, loop: Loop) -> Tensor:
        """Return (n,) bool: the rows that are trained on from now on."""
        looked = loop.kept["active"] if self.for_good else torch.ones(len(loop), dtype=torch.bool)
        rows = looked.nonzero().squeeze(1)
        labels = loop.labels[rows]
        alone = isolated(residuals(loop.logits(rows.numpy()), labels), labels, self.medoids)
        return looked.index_fill(0, rows[alone], False)


def isolated(points: Tensor, labels: Tensor, share: float) -> Tensor:
    """Find medoids that are alone in their cluster.

    Args:
        points: (n, r) floating.
        labels: (n,) int64 classes, each of which is looked at by itself.
        share: Of a class that is chosen as medoids, rounded down.

    Returns:
        (n,) bool.
    """
    found = torch.zeros(len(points), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        # The share may be a rounding below a whole number.
        k = int(share * len(rows) + 1e-9)
        if k:
            chosen = medoids(points[rows], k)
            found[rows[chosen.chosen[chosen.sizes == 1]]] = True
    return found
