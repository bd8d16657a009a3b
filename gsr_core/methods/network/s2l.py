r"""Small to large (S2L), the whole network: a subset from clusters of loss trajectories.

Yang, Mishra, Chiang and Mirzasoleiman, "SmallToLarge (S2L): Scalable Data Selection for Fine-tuning
Large Language Models by Summarizing Training Trajectories of Small Models" (NeurIPS 2024): while a
proxy trains, the loss of every row is noted T times; the rows of each source are clustered by
k-means on these T losses; from the clusters, smallest first, with |S| rows chosen so far,

.. math:: R_k = \Bigl\lfloor \frac{B - |S|}{K - k + 1} \Bigr\rfloor

rows are drawn of cluster k of K, or all of it if it is smaller, B in all; the network is trained on
these. Rare kinds of rows have losses of their own kind, and come more often than in the data.

Where we differ: the source of a row is its class. The proxy is the network itself from the same
start, trained for `first_epochs`, with the losses noted after each. A class has at most a class's
part of B as clusters, since otherwise the smallest clusters would give nothing. The paper chooses
data to fine-tune language models and does not speak of robustness; rows with wrong labels have
losses of their own kind too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Values,
    settings,
)
from gsr_core.methods.network.first import FirstNetwork
from gsr_core.methods.network.loop import Epoch

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkS2L", "chosen_evenly", "scaled_losses", "trajectory_clusters"]

_ITERATIONS = 20
"""Of k-means, as published."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkS2L(FirstNetwork):
    """Train a second network on rows drawn evenly from clusters of the first one's losses."""

    name: ClassVar[str] = "network_s2l"
    title: ClassVar[str] = "Network S2L: subset from loss trajectories"
    summary: ClassVar[str] = (
        "Notes every row's loss while a first network trains, clusters each class by these losses, "
        "and trains a second network on as many rows of every cluster."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, labels are clean, and the rows are more than one can train on."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.SUBSET
    search: ClassVar[SearchSpace] = {
        **FirstNetwork.search,
        "first_epochs": (2, 4, 6, 8),
        "budget": Range(0.05, 0.5),
        "clusters": (5, 20, 50, 100, 200),
        "scale": ("raw", "log", "standard"),
    }

    first_epochs: Annotated[
        int,
        Field(ge=1, description="T: epochs of the first network, among `steps`; from 4 on better."),
    ] = 4
    budget: Annotated[
        float, Field(gt=0, le=1, description="Share of the rows that is chosen, B over n.")
    ] = 0.2
    clusters: Annotated[
        int, Field(ge=1, le=1000, description="K of each class, fewer where B is small.")
    ] = 100
    scale: Annotated[
        Literal["raw", "log", "standard"],
        Field(
            description="Losses that are clustered. raw: as they are, so that early epochs count "
            "most; log: their logarithms; standard: of mean 0 and deviation 1 in each epoch."
        ),
    ] = "raw"

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the first network's epochs, then those of the second on the subset.

        Args:
            loop: Where training stands; it keeps the losses, then the rows' clusters and the
                subset.
        """
        while "chosen" not in loop.kept:
            if loop.epoch:
                self._note_losses(loop)
            if loop.epoch < self.first_epochs:
                yield next(self.first(loop, "whose losses are noted"))
            else:
                self._choose(loop)
                loop.restart()
        chosen = loop.kept["chosen"]
        places, share = chosen.nonzero().squeeze(1).numpy(), chosen / chosen.sum()
        note = _in_words(chosen, loop.kept["cluster"])
        while True:
            yield Epoch(loop.shuffled(places), values=share, note=note)

    def _note_losses(self, loop: Loop) -> None:
        """Add the rows' losses after the epoch that is done."""
        losses = cross_entropy(loop.logits(), loop.labels, reduction="none")[:, None]
        before = loop.kept.get("losses", losses[:, :0])
        loop.kept["losses"] = torch.cat([before, losses], dim=1)

    def _choose(self, loop: Loop) -> None:
        """Keep the rows' clusters and the subset in place of their losses."""
        budget = max(2, round(self.budget * len(loop)))
        cluster = trajectory_clusters(
            scaled_losses(loop.kept.pop("losses"), self.scale),
            loop.labels,
            max(1, min(self.clusters, budget // loop.n_classes)),
            self.seed,
        )
        loop.kept["cluster"] = cluster
        loop.kept["chosen"] = chosen_evenly(cluster, budget, loop.rng())


def scaled_losses(losses: Tensor, scale: Literal["raw", "log", "standard"]) -> Tensor:
    """Return losses (n, T) as they are clustered, float64.

    Args:
        losses: (n, T) nats.
        scale: As the setting of `NetworkS2L`.
    """
    losses = losses.double()
    if scale == "log":
        # Below, a float32 softmax is one.
        return losses.clamp(min=torch.finfo(torch.float32).eps).log()
    if scale == "standard":
        deviation = losses.std(dim=0, correction=0)
        return (losses - losses.mean(dim=0)) / torch.where(deviation > 0, deviation, 1.0)
    return losses


def trajectory_clusters(losses: Tensor, labels: Tensor, k: int, seed: int) -> Tensor:
    """Cluster the rows of each class by k-means on their losses.

    Args:
        losses: (n, T).
        labels: (n,) int64 classes.
        k: Clusters of each class; fewer where fewer rows of it differ.
        seed: Of the starts.

    Returns:
        (n,) int64 from 0 on, those of class 0 first.
    """
    # Not above: importing scikit-learn would keep the dashboard's first page waiting.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    cluster, first = torch.zeros_like(labels), 0
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().squeeze(1)
        own = losses[rows].numpy()
        number = min(k, len(np.unique(own, axis=0)))
        model = KMeans(number, max_iter=_ITERATIONS, random_state=seed).set_params(n_init=1)
        with warnings.catch_warnings():
            # Rows that differ by rounding alone cannot be told apart.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = model.fit_predict(own)
        found = np.unique(found, return_inverse=True)[1]
        cluster[rows] = first + torch.from_numpy(found)
        first += int(found.max()) + 1
    return cluster


def chosen_evenly(cluster: Tensor, budget: int, generator: np.random.Generator) -> Tensor:
    """Choose rows of all clusters, as equally many of each as there are.

    Args:
        cluster: (n,) int64 from 0 on.
        budget: B.
        generator: Is advanced.

    Returns:
        (n,) bool, min(B, n) of them true.
    """
    chosen = torch.zeros(len(cluster), dtype=torch.bool)
    sizes = cluster.bincount()
    left = budget
    # Ascending, so that what small clusters lack comes from larger ones.
    for place, number in enumerate(sizes.argsort(stable=True).tolist()):
        rows = (cluster == number).nonzero().squeeze(1)
        quota = left // (len(sizes) - place)
        chosen[rows[generator.permutation(len(rows))[:quota]]] = True
        left -= min(quota, len(rows))
    return chosen


def _in_words(chosen: Tensor, cluster: Tensor) -> str:
    sizes, taken = cluster.bincount(), cluster[chosen].bincount(minlength=int(cluster.max()) + 1)
    whole = int((taken == sizes).sum())
    return (
        f"{int(chosen.sum()):,} of {len(chosen):,} samples were chosen, from {len(sizes):,} "
        f"clusters of {int(sizes.min()):,} to {int(sizes.max()):,}: at most {int(taken.max()):,} "
        f"of each, and all of {whole:,}."
    )
