"""Open the network beside this file with torch: a program, or a network that was pickled whole.

A pickle needs the classes that it is made of to be importable, from here or from the working
directory. All three run code that they hold.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["load"]

HERE = Path(__file__).parent


def load() -> Callable[[Any], Any]:
    """Return the network, from a prepared batch to what it gives (n, K)."""
    import torch

    about = json.loads((HERE / "about.json").read_text())
    file = HERE / about["model"]
    sys.path.insert(0, "")
    with warnings.catch_warnings():
        # TorchScript is deprecated.
        warnings.simplefilter("ignore")
        if file.suffix == ".ts":
            network: Any = torch.jit.load(file, map_location="cpu").eval()
        elif file.suffix == ".pt2":
            network = torch.export.load(file).module()
        else:
            network = torch.load(file, map_location="cpu", weights_only=False).eval()
    sys.path.remove("")

    def outputs(batch: Any) -> Any:
        with torch.inference_mode():
            if not isinstance(batch, dict):
                return network(torch.from_numpy(batch))
            tensors = {key: torch.from_numpy(each) for key, each in batch.items()}
            if names := about["inputs"]:
                # Programs take their tensors in an order.
                known = set(names) <= set(tensors)
                return network(*([tensors[name] for name in names] if known else tensors.values()))
            return network(tensors)

    return outputs
