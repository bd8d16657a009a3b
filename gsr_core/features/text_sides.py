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
from torch import Tensor

from gsr_core.errors import SettingError
from gsr_core.names import check_text

__all__ = ["TextSide", "temperature_of", "tidy"]

_BATCH = 64
"""Phrases a forward pass."""

_SHOWN = 60
"""Most characters of a phrase in a message."""


@dataclass(frozen=True)
class TextSide:
    """The part of a network that takes phrases.

    Attributes:
        encode: Tokens to embeddings (t, e) in the space of the network's features, not normalised.
        tokenise: Phrases to what `encode` takes.
        count: The number of tokens of one phrase, special ones included.
        most: Tokens that the network reads of a phrase.
        temperature: What cosines are divided by in the network's own loss, above 0; None if it has
            none or does not say it.
        facts: Of the network, as `Backbone.facts` has them.
    """

    encode: Callable[[Any], Tensor]
    tokenise: Callable[[list[str]], Any]
    count: Callable[[str], int]
    most: int
    temperature: float | None = None
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
        texts = [self._checked(phrase) for phrase in phrases]
        with torch.inference_mode():
            parts = [
                self.encode(self.tokenise(texts[start : start + _BATCH])).float().cpu()
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


def temperature_of(model: Any) -> float | None:
    """Return what a network of images and texts divides cosines by in its own loss.

    Args:
        model: With the logarithm of the scale, 1 / temperature, as CLIP names it; None without.
    """
    scale = getattr(model, "logit_scale", None)
    return None if scale is None else float(1 / scale.exp())


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
