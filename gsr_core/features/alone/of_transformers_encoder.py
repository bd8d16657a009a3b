"""Open the encoder beside this file with transformers, and the head with safetensors.

The encoder has no classifier of its own that takes these features: its output is pooled, and the
head is a linear layer on that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load"]

HERE = Path(__file__).parent


def load() -> Callable[[Any], np.ndarray]:
    """Return the network, from prepared images, tokens or tokens of pairs to logits (n, K)."""
    import torch
    from safetensors.torch import load_file
    from torch import Tensor
    from transformers import AutoModel

    about = json.loads((HERE / "about.json").read_text())
    encoder = AutoModel.from_pretrained(str(HERE), trust_remote_code=about["trust"]).eval()
    head = load_file(HERE / "head.safetensors")

    def features(batch: Any) -> Tensor:
        looks = not isinstance(batch, dict)
        given = {"pixel_values": batch} if looks else batch
        tensors = {name: torch.from_numpy(value) for name, value in given.items()}
        if about["pooling"] == "projection":
            project = encoder.get_image_features if looks else encoder.get_text_features
            output = project(**tensors)
            return output if isinstance(output, Tensor) else output.pooler_output
        output = encoder(**tensors)
        if about["pooling"] == "pooler":
            return output.pooler_output.flatten(1)
        hidden = output.last_hidden_state
        if hidden.ndim == 4:  # Convolutional networks: (n, d, height, width).
            return hidden.mean(dim=(2, 3))
        if about["pooling"] == "cls":
            return hidden[:, 0]
        mask = tensors.get("attention_mask", torch.ones_like(hidden[:, :, 0]))
        if about["pooling"] == "last":
            places = torch.arange(hidden.shape[1])
            return hidden[torch.arange(len(hidden)), (mask * places).argmax(1)]
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def logits(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            if isinstance(batch, list):
                u, v = (features(each) for each in batch)
                rows = torch.cat([u, v, (u - v).abs()], dim=1)
            else:
                rows = features(batch)
            return (rows @ head["weight"].T + head["bias"]).numpy()

    return logits
