r"""Learning from failure (LfF), the whole network: a biased and a debiased one, trained together.

Nam et al., "Learning from Failure: Training Debiased Classifier from Biased Classifier" (NeurIPS
2020, https://arxiv.org/abs/2007.02561), algorithm 1: on each batch the biased network descends the
generalised cross-entropy :math:`(1 - p_y^q)/q`, the debiased one the cross-entropy weighted with
the relative difficulty of `gsr_core.methods.lff`, of running means over each row's own visits.

Both are scored in training mode, on the batch at hand, as the authors do. Where we differ: the
biased network starts from the same weights as the debiased one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, SearchSpace, settings
from gsr_core.methods.lff import relative_difficulty
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.network.loop import Batch, Epoch

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkLfF", "gce_loss"]

_MEANS = ("biased_loss", "debiased_loss")
"""What is kept: each row's running mean under either network, NaN before its first visit."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkLfF(NetworkMethod):
    """Train a network on what a biased one finds hard."""

    name: ClassVar[str] = "network_lff"
    title: ClassVar[str] = "Network LfF: learning from failure"
    summary: ClassVar[str] = (
        "Trains a biased and a debiased network together, and weights each row by how much harder "
        "it is for the biased one."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and the shortcut is learned faster than the classes."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {**NetworkMethod.search, "q": (0.3, 0.5, 0.7, 0.9)}

    q: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Exponent of the biased network's loss; towards 0 it is cross-entropy.",
        ),
    ] = 0.7
    average: Annotated[
        float, Field(ge=0, lt=1, description="Share of the past in each row's running mean.")
    ] = 0.7

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield each row once an epoch, for both networks.

        Args:
            loop: Where training stands; it keeps the running means.
        """
        biased = loop.other("biased")
        if "biased_loss" not in loop.kept:
            unseen = torch.full((len(loop),), torch.nan)
            loop.kept |= {name: unseen.clone() for name in _MEANS}

        def update(batch: Batch) -> Tensor:
            of_biased, of_debiased = (
                learner.logits(batch.inputs) for learner in (biased, loop.learner)
            )
            for name, logits in zip(_MEANS, (of_biased, of_debiased), strict=True):
                self._remember(loop, name, batch, logits)
            weight = self._weight(loop)[batch.places].to(of_debiased)
            biased.descend(gce_loss(of_biased, batch.labels, self.q).mean())
            losses = cross_entropy(of_debiased, batch.labels, reduction="none")
            loop.learner.descend((weight * losses).mean())
            return losses.detach().mean()

        def values() -> Tensor:
            weight = self._weight(loop).double()
            return weight / weight.sum()

        while True:
            yield Epoch(loop.shuffled(), update=update, values=values)

    def _remember(self, loop: Loop, name: str, batch: Batch, logits: Tensor) -> None:
        """Take a batch's losses into the running mean of each of its rows."""
        now = cross_entropy(logits.detach(), batch.labels, reduction="none").cpu()
        before = loop.kept[name][batch.places]
        mean = torch.where(before.isnan(), now, torch.lerp(now, before, self.average))
        loop.kept[name][batch.places] = mean

    def _weight(self, loop: Loop) -> Tensor:
        """Return (n,) W; rows not seen yet have none, and no part in the class's largest loss."""
        biased, debiased = (loop.kept[name].nan_to_num(0.0) for name in _MEANS)
        return relative_difficulty(biased, debiased, loop.labels)


def gce_loss(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """Return the generalised cross-entropy (b,) of each row; its gradient is p_y^q that of CE.

    Args:
        logits: (b, K).
        labels: (b,) int64.
        q: Exponent in (0, 1]; towards 0 it is cross-entropy.
    """
    log_p = logits.log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    return -torch.expm1(q * log_p) / q
