"""Which words of a text a head's scores come from: each is left out in turn.

Occlusion as Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014),
did to images, and Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation
Erasure" (2016), to words. It asks the network itself and no gradient, so that it holds for any
tokenizer and any encoder. What two words say only together shows at both of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["pieces_of", "word_effects"]

MOST_PIECES = 128
"""Pieces of a text that are left out; of a longer one, several words together are a piece."""


def pieces_of(text: str, most: int = MOST_PIECES) -> list[str]:
    """Return a text in pieces of a word, or of equally many words; joined, they are the text.

    Args:
        text: The text.
        most: Pieces at most.

    Example:
        >>> pieces_of("a red  bird")
        ['a ', 'red  ', 'bird']
    """
    words = re.findall(r"\s*\S+\s*(?=\S|$)", text) or [text]
    each = -(-len(words) // most)
    return ["".join(words[start : start + each]) for start in range(0, len(words), each)]


def word_effects(
    texts: Sequence[str], scores: Callable[[list[tuple[str, ...]]], np.ndarray]
) -> tuple[list[list[str]], list[np.ndarray]]:
    """Return how much each piece of a text, or of a pair, adds to each class's score.

    Args:
        texts: One text, or the two of a pair.
        scores: Gives (n, K) scores of n texts or pairs.

    Returns:
        For each text its pieces, and (K, pieces) effects: the score with the piece less the one
        without it, in the scores' unit.
    """
    pieces = [pieces_of(text) for text in texts]
    changed = [tuple(texts)]
    for place, parts in enumerate(pieces):
        for left_out in range(len(parts)):
            rest = "".join(parts[:left_out] + parts[left_out + 1 :])
            changed.append((*texts[:place], rest, *texts[place + 1 :]))
    found = scores(changed)
    effects = (found[0] - found[1:]).T
    ends = np.cumsum([len(parts) for parts in pieces])[:-1]
    return pieces, np.split(effects, ends, axis=1)
