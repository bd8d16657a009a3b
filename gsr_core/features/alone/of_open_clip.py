"""Open the network beside this file with open_clip: its image tower, and a linear layer on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load"]

HERE = Path(__file__).parent


def load() -> Callable[[np.ndarray], np.ndarray]:
    """Return the network, from prepared images (n, 3, s, s) to logits (n, K)."""
    import open_clip
    import torch
    from safetensors.torch import load_file

    state = load_file(HERE / "model.safetensors")
    tower: Any = open_clip.create_model(
        f"local-dir:{HERE}", load_weights=False, pretrained_text=False
    ).visual
    tower.load_state_dict(
        {
            name.removeprefix("trunk.visual."): value
            for name, value in state.items()
            if not name.startswith("head.")
        }
    )
    tower.eval()

    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            features = tower(torch.from_numpy(pixels))
            return (features @ state["head.weight"].T + state["head.bias"]).numpy()

    return logits
