"""Open the network beside this file with transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load"]

HERE = Path(__file__).parent


def load() -> Callable[[Any], np.ndarray]:
    """Return the network, from prepared images or tokens to logits (n, K)."""
    import torch
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    about = json.loads((HERE / "about.json").read_text())
    looks = about["takes"] == "pixels"
    auto = AutoModelForImageClassification if looks else AutoModelForSequenceClassification
    network = auto.from_pretrained(str(HERE), trust_remote_code=about["trust"]).eval()

    def logits(batch: Any) -> np.ndarray:
        tokens = {"pixel_values": batch} if looks else batch
        with torch.inference_mode():
            return network(**{k: torch.from_numpy(v) for k, v in tokens.items()}).logits.numpy()

    return logits
