"""Open the network beside this file with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load"]

HERE = Path(__file__).parent
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


def load() -> Callable[[Any], Any]:
    """Return the network, from a prepared batch to what it gives (n, K)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(HERE / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    inputs = session.get_inputs()

    def outputs(batch: Any) -> Any:
        arrays = [batch[each.name] for each in inputs] if isinstance(batch, dict) else [batch]
        given = {
            each.name: array.astype(_TYPES[each.type])
            for each, array in zip(inputs, arrays, strict=True)
        }
        return session.run(None, given)

    return outputs
