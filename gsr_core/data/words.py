"""What a method may know of a bundle in words: classes, attributes, and embeddings of phrases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Words"]


@dataclass(frozen=True)
class Words:
    """Names, and the encoder of texts that belongs to the network behind the features.

    Attributes:
        classes: K class names.
        attributes: What groups are made of beside the class, by the numbers of
            `Problem.beside_class`; empty where nobody knows.
        embed: Phrases to their (t, d) embeddings in the space of the features, not normalised.
        temperature: What cosines are divided by in the network's own loss; None if it does not say.
    """

    classes: list[str]
    attributes: list[str]
    embed: Callable[[Sequence[str]], Tensor]
    temperature: float | None
