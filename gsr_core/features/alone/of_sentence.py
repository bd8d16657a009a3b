"""Open the network beside this file with sentence-transformers, which also makes the tokens.

Its last module is the head where texts are classified; where pairs are, the head is beside it and
takes (u, v, |u - v|).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load"]

HERE = Path(__file__).parent


def load() -> Callable[[list[Any]], np.ndarray]:
    """Return the network, from texts or pairs of texts to logits (n, K)."""
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer

    network = SentenceTransformer(str(HERE), device="cpu")
    if not (HERE / "head.safetensors").is_file():
        # The prompt is before each text already.
        return lambda texts: np.asarray(network.encode(texts, prompt=""))
    head = load_file(HERE / "head.safetensors")

    def logits(pairs: list[Any]) -> np.ndarray:
        u, v = (
            np.asarray(network.encode(list(each), prompt="")) for each in zip(*pairs, strict=True)
        )
        return np.concatenate([u, v, abs(u - v)], axis=1) @ head["weight"].T + head["bias"]

    return logits
