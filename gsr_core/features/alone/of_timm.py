"""Open the network beside this file with timm, which also prepares the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["load"]

HERE = Path(__file__).parent


def load() -> Callable[[list[Image.Image]], np.ndarray]:
    """Return the network, from images to logits (n, K)."""
    import timm
    import torch

    network = timm.create_model(f"local-dir:{HERE}", pretrained=True).eval()
    settings = timm.data.resolve_data_config({}, model=network)  # pyright: ignore
    prepare = timm.data.create_transform(**settings)  # pyright: ignore

    def logits(images: list[Image.Image]) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.stack([prepare(image) for image in images])).numpy()

    return logits
