r"""Correct-n-contrast (CnC), the whole network: features of a class are pulled together.

Zhang, Sohoni, Zhang, Finn and Ré, "Correct-N-Contrast: A Contrastive Approach for Improving
Robustness to Spurious Correlations" (ICML 2022, https://arxiv.org/abs/2203.01517). A first network
is trained plainly; what it predicts stands for what is spurious. To an anchor i, rows of its class
with another prediction are positives P, rows of another class with its prediction negatives N. A
second network, from the start, descends

.. math::
    \lambda L_{\text{con}} + (1 - \lambda) L_{\text{CE}}, \qquad
    L_{\text{con}} = - \operatorname*{mean}_i \frac{1}{|P_i|} \sum_{r \in P_i} \log
        \frac{e^{s_{ir}}}{\sum_{m \in P_i} e^{s_{im}} + \sum_{n \in N_i} e^{s_{in}}}, \qquad
    s_{ij} = \frac{\cos(z_i, z_j)}{\tau},

z the inputs of the head. A batch has four equal parts: rows of one class that the first network got
right, the class drawn as often as it has such rows; positives to them; negatives to them; and
negatives to these positives, since both sides have anchors, as in the paper.

Where we differ, and why:

- All rows of a batch that have a positive and a negative in it are anchors, where the paper takes
  one anchor with positives and negatives of its own: the same terms from a fraction of the passes.
- An epoch draws as many rows as there are, where the paper's has every anchor with all that belongs
  to it, so that an epoch here costs one of plain training.
- Where a part has no rows, others of the class, or of other classes, stand in, so that a class that
  was learned without an error is not lost; they have no part in the contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from gsr_core.errors import SettingError
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Values,
    settings,
)
from gsr_core.methods.contrast import contrast
from gsr_core.methods.network.first import FirstNetwork
from gsr_core.methods.network.loop import Batch, Epoch

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkCnC", "Parts", "contrastive_loss"]

_PARTS = 4
"""Of a batch: anchors, positives, negatives, and negatives to the positives."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkCnC(FirstNetwork):
    """Train a second network to see rows alike that the first one tells apart within a class."""

    name: ClassVar[str] = "network_cnc"
    title: ClassVar[str] = "Network CnC: correct-n-contrast"
    summary: ClassVar[str] = (
        "Trains a first network, then a second one whose features are pulled together within a "
        "class where the first predicts differently, and apart between classes where it predicts "
        "the same."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, labels are clean, and what the network makes of the inputs is to "
        "lose the shortcut, not only its head."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.PROBABILITIES
    search: ClassVar[SearchSpace] = {
        **FirstNetwork.search,
        "contrast": (0.25, 0.5, 0.75, 0.9),
        "temperature": Range(0.05, 1.0),
    }

    contrast: Annotated[
        float, Field(ge=0, le=1, description="Lambda: share of the contrastive loss.")
    ] = 0.75
    temperature: Annotated[
        float, Field(gt=0, le=100, description="Tau, by which cosines of features are divided.")
    ] = 0.1

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the first network's epochs, then contrasting batches for the second.

        Args:
            loop: Where training stands; it keeps what the first network predicts.

        Raises:
            SettingError: If a batch is too small, or the first network leaves nothing to contrast.
        """
        if loop.training.batch_size < _PARTS:
            raise SettingError(
                f"batch_size is {loop.training.batch_size}; {self.name} needs {_PARTS} or more, to "
                "contrast rows within a batch"
            )
        yield from self.first(loop, "whose predictions are contrasted")
        if "predicted" not in loop.kept:
            loop.kept["predicted"] = loop.logits().argmax(dim=1)
            loop.restart()
        predicted = loop.kept["predicted"]
        parts = Parts(loop.labels.numpy(), predicted.numpy())
        if not parts.contrasted:
            raise SettingError(
                f"the first network got {int((predicted != loop.labels).sum()):,} of "
                f"{len(loop):,} rows wrong, and in no class some right and some wrong, which are "
                "contrasted; change first_epochs"
            )

        def update(batch: Batch) -> Tensor:
            with loop.captured(loop.learner) as inputs:
                logits = loop.learner.logits(batch.inputs)
            loss = cross_entropy(logits, batch.labels)
            bias = predicted[batch.places].to(batch.labels)
            apart = contrastive_loss(inputs.pop().float(), batch.labels, bias, self.temperature)
            loop.learner.descend(self.contrast * apart + (1 - self.contrast) * loss)
            return loss.detach()

        size = loop.training.batch_size
        probability = torch.from_numpy(parts.probability(size))
        note = (
            f"{int((predicted != loop.labels).sum()):,} of {len(loop):,} samples were "
            f"misclassified by the first network; {len(parts.contrasted)} of {loop.n_classes} "
            "classes are contrasted."
        )
        while True:
            batches = parts.batches(max(len(loop) // size, 1), size, loop.rng())
            yield Epoch(batches, update=update, values=probability, note=note)


@dataclass(frozen=True)
class Parts:
    """From which rows the parts of a batch are drawn, by the class of its anchors.

    Attributes:
        labels: (n,) classes.
        predicted: (n,) what the first network predicts.
    """

    labels: np.ndarray
    predicted: np.ndarray

    @property
    def contrasted(self) -> list[int]:
        """The classes of which the first network got some rows right and some wrong."""
        right = self.labels == self.predicted
        return sorted({*self.labels[right]} & {*self.labels[~right]})

    def of(self, label: int) -> list[np.ndarray]:
        """Return the rows of which each part of a batch is drawn, if its anchors are of a class."""
        own, taken_for = self.labels == label, self.predicted == label
        positives = own & ~taken_for
        opposed = np.isin(self.predicted, np.unique(self.predicted[positives]))
        wanted = own & taken_for, positives, ~own & taken_for, ~own & opposed
        instead = own, own, ~own, ~own
        return [
            np.flatnonzero(part if part.any() else other)
            for part, other in zip(wanted, instead, strict=True)
        ]

    def anchors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes that have anchors, and how often each is drawn."""
        right = self.labels[self.labels == self.predicted]
        classes, counts = np.unique(right, return_counts=True)
        return classes, counts / counts.sum()

    def batches(self, number: int, size: int, generator: np.random.Generator) -> list[np.ndarray]:
        """Draw batches, with replacement.

        Args:
            number: How many.
            size: Rows of each.
            generator: Is advanced.
        """
        classes, shares = self.anchors()
        drawn = generator.choice(classes, size=number, p=shares)
        parts = {label: self.of(label) for label in np.unique(drawn)}
        return [
            np.concatenate(
                [
                    generator.choice(rows, size=many)
                    for rows, many in zip(parts[label], _sizes(size), strict=True)
                ]
            )
            for label in drawn
        ]

    def probability(self, size: int) -> np.ndarray:
        """Return (n,) each row's expected share of a batch; they sum to one.

        Args:
            size: Rows of the batch.
        """
        probability = np.zeros(len(self.labels))
        for label, share in zip(*self.anchors(), strict=True):
            for rows, many in zip(self.of(label), _sizes(size), strict=True):
                probability[rows] += share * many / size / len(rows)
        return probability


def contrastive_loss(features: Tensor, labels: Tensor, bias: Tensor, temperature: float) -> Tensor:
    """Return the contrastive loss of a batch, nats; zero without an anchor.

    Args:
        features: (b, d) z.
        labels: (b,) classes.
        bias: (b,) what the first network predicts.
        temperature: Tau.
    """
    unit = normalize(features, dim=1)
    similarity = unit @ unit.T / temperature
    same_class, same_bias = (each[:, None] == each for each in (labels, bias))
    positive, negative = same_class & ~same_bias, ~same_class & same_bias
    return contrast(similarity, positive, negative).loss


def _sizes(size: int) -> list[int]:
    """Return how many rows of a batch of some size each part has."""
    return [len(part) for part in np.array_split(np.arange(size), _PARTS)]
