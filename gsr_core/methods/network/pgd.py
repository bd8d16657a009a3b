r"""Per-sample gradient-norm debiasing (PGD), the whole network: as published.

Ahn, Kim and Yun, "Mitigating Dataset Bias by Using Per-sample Gradient" (ICLR 2023,
https://arxiv.org/abs/2205.15704): a first network is biased by the generalised cross-entropy
:math:`(1 - p_y^\alpha)/\alpha`. By the cross-entropy, in eval mode and on inputs that nothing
changes, each row has the gradient of its last layer, whose norm factorises into those of the
residual and of the layer's input (`gsr_core.methods.pgd`). The network goes on from where it is,
with a new optimiser, by cross-entropy on n draws an epoch in proportion to these norms.

A first network that is sure of the shortcut gives nearly all draws to what conflicts with it, which
turns the shortcut round where conflicts are not very rare; the note says how many, and a `power`
below one makes them fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, SearchSpace, Values, settings
from gsr_core.methods.network.first import FirstNetwork
from gsr_core.methods.network.lff import gce_loss
from gsr_core.methods.network.loop import Batch, Epoch
from gsr_core.methods.pgd import GradientSampling, top_in_words

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkPGD"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkPGD(GradientSampling, FirstNetwork):
    """Train a biased network on with rows drawn by the norm of their gradient."""

    name: ClassVar[str] = "network_pgd"
    title: ClassVar[str] = "Network PGD: per-sample gradient norms"
    summary: ClassVar[str] = (
        "Trains a deliberately biased network, and trains it on with each row drawn in proportion "
        "to the norm of its gradient there."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, labels are clean, and the minority is very small."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.PROBABILITIES
    search: ClassVar[SearchSpace] = {
        **FirstNetwork.search,
        "alpha": (0.3, 0.5, 0.7, 0.9),
        "power": (0.25, 0.5, 1.0),
    }

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the biased network's epochs, then n draws an epoch for the same network.

        Args:
            loop: Where training stands; it keeps the norms of the gradients.
        """

        def biased(batch: Batch) -> Tensor:
            loss = gce_loss(loop.learner.logits(batch.inputs), batch.labels, self.alpha).mean()
            loop.learner.descend(loss)
            return loss.detach()

        yield from self.first(loop, "which is biased on purpose", biased)
        if "probability" not in loop.kept:
            features = loop.features().to(loop.device, torch.float64)
            residuals = loop.head().logits(features).softmax(dim=1).cpu()
            residuals = residuals - one_hot(loop.labels, loop.n_classes)
            design = pad(features.cpu(), (0, 1), value=1.0)
            loop.kept["probability"] = self.chances(design, residuals)
            loop.refresh()
        probability = loop.kept["probability"]
        note = top_in_words(probability)
        while True:
            yield Epoch(loop.drawn(probability), values=probability, note=note)
