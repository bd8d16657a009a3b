"""Open the network beside this file with torchvision and safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["load"]

HERE = Path(__file__).parent


def load() -> Callable[[np.ndarray], np.ndarray]:
    """Return the network, from prepared images (n, 3, s, s) to logits (n, K)."""
    import torch
    import torchvision
    from safetensors.torch import load_file

    about = json.loads((HERE / "about.json").read_text())
    network = torchvision.models.get_model(
        about["model"], weights=None, num_classes=len(about["classes"]), **about["arguments"]
    )
    if head := about["head"]:
        network.set_submodule(head["name"], torch.nn.Linear(head["inputs"], len(about["classes"])))
    network.load_state_dict(load_file(HERE / "model.safetensors"))
    network.eval()

    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(pixels)).numpy()

    return logits
