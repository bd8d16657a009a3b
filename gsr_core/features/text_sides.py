"""The text side of a network: from phrases into the space of its features.

Networks of images and texts (CLIP: Radford et al., "Learning Transferable Visual Models From
Natural Language Supervision", ICML 2021) have two encoders whose outputs share a space: the
features of an image and the embedding of a phrase are compared by their cosine. Of a network of
texts, the features of a phrase are such an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gsr_core.errors import SettingError
from gsr_core.names import check_text

__all__ = ["Projections", "TextSide", "tidy"]

_BATCH = 64
"""Phrases a forward pass."""

_SHOWN = 60
"""Most characters of a phrase in a message."""


@dataclass(frozen=True)
class Projections:
    """The last linear maps of two encoders into the space that they share, and what is before them.

    The embedding of a batch of images is `image(batch) @ image_matrix`, that of phrases
    `text(tokens) @ text_matrix`; neither is normalised. Where a map has a bias, the features end in
    a one, and the matrix in the bias.

    Attributes:
        image: Prepared images to features before the projection (n, d_v); in eval mode.
        image_matrix: (d_v, e).
        text: Tokens to features before the projection (t, d_t); in eval mode.
        text_matrix: (d_t, e).
        temperature: What cosines are divided by in the network's own loss; above 0.
    """

    image: nn.Module
    image_matrix: Tensor
    text: Callable[[Any], Tensor]
    text_matrix: Tensor
    temperature: float


@dataclass(frozen=True)
class TextSide:
    """The part of a network that takes phrases.

    Attributes:
        encode: Tokens to embeddings (t, e) in the space of the network's features, not normalised.
        tokenise: Phrases to what `encode` takes.
        count: The number of tokens of one phrase, special ones included.
        most: Tokens that the network reads of a phrase.
        projections: Gives the last linear maps of both encoders; None where these do not end in
            such maps.
        facts: Of the network, as `Backbone.facts` has them.
    """

    encode: Callable[[Any], Tensor]
    tokenise: Callable[[list[str]], Any]
    count: Callable[[str], int]
    most: int
    projections: Callable[[], Projections] | None = None
    facts: dict[str, str | int | float | None] = field(default_factory=dict)

    def embed(self, phrases: Sequence[str]) -> Tensor:
        """Return the embeddings of phrases.

        Args:
            phrases: t of them, each with a word at least.

        Returns:
            (t, e) float32 on the CPU, not normalised.

        Raises:
            SettingError: If a phrase is empty, or longer than the network reads.
        """
        return self._through(self.encode, phrases)

    def before_projection(self, phrases: Sequence[str], projections: Projections) -> Tensor:
        """Return the features of phrases before the last linear map.

        Args:
            phrases: t of them.
            projections: What `projections()` gave.

        Returns:
            (t, d_t) float32 on the CPU; `@ projections.text_matrix` is what `embed` returns.

        Raises:
            SettingError: If a phrase is empty, or longer than the network reads.
        """
        return self._through(projections.text, phrases)

    def _through(self, encode: Callable[[Any], Tensor], phrases: Sequence[str]) -> Tensor:
        texts = [self._checked(phrase) for phrase in phrases]
        with torch.inference_mode():
            parts = [
                encode(self.tokenise(texts[start : start + _BATCH])).float().cpu()
                for start in range(0, len(texts), _BATCH)
            ]
        # Out of inference mode, so that a caller may train with them.
        return torch.cat(parts).clone()

    def _checked(self, phrase: str) -> str:
        text = tidy(phrase)
        if (found := self.count(text)) > self.most:
            shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
            raise SettingError(
                f"the phrase '{shown}' has {found} tokens, but the network reads {self.most} and "
                "would not see its end; write a shorter one"
            )
        return text


def tidy(phrase: str) -> str:
    """Return a phrase with single spaces between its words.

    Raises:
        SettingError: If it has none, or is no text that can be stored.
    """
    check_text("phrase", phrase)
    text = " ".join(phrase.split())
    if not text:
        raise SettingError("the phrase is empty; write a few words, such as 'a red digit'")
    return text
