"""Open the network beside this file: call its factory, give it its head, load the weights.

The factory's module has to be importable, from here or from the working directory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["load"]

HERE = Path(__file__).parent


def load() -> Callable[[Any], Any]:
    """Return the network, from a prepared batch to what it gives (n, K)."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    about = json.loads((HERE / "about.json").read_text())
    module, _, name = about["factory"].partition(":")
    sys.path.insert(0, "")
    factory: Any = import_module(module)
    for part in name.split("."):
        factory = getattr(factory, part)
    sys.path.remove("")
    network: Any = factory(**about["arguments"])
    if head := about["head"]:
        sides = head["inputs"], len(about["classes"])
        layer = nn.Conv2d(*sides, 1) if head["pointwise"] else nn.Linear(*sides)
        network.set_submodule(head["name"], layer)
    network.load_state_dict(load_file(HERE / "model.safetensors"))
    network.eval()

    def outputs(batch: Any) -> Any:
        with torch.inference_mode():
            if isinstance(batch, dict):
                return network({key: torch.from_numpy(each) for key, each in batch.items()})
            return network(torch.from_numpy(batch))

    return outputs
