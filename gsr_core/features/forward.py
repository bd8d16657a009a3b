"""A trunk on its device: batches go in, features come out while the next batch is on its way.

On a GPU three things happen at once: a batch travels there on a stream of its own, the network
works on the one before, and the features of the one before that travel back. When memory runs out
the batch is cut in halves, and later batches too, down to single samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gsr_core.errors import CheckpointError, DeviceError, SettingError
from gsr_core.features.backbones import Backbone

__all__ = ["Forward", "Precision", "out_of_memory", "resolve_precision"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return in what type a device multiplies.

    `auto` is bfloat16 on a GPU that has it and float32 elsewhere; never float16, whose largest
    number, 65,504, some networks exceed.

    Raises:
        SettingError: If there is no such precision, or not on this device.
    """
    if precision not in get_args(Precision):
        raise SettingError(
            f"precision is '{precision}'; allowed are {', '.join(get_args(Precision))}"
        )
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float32"
    if precision == "float16" and device.type == "cpu":
        raise SettingError(
            "precision is float16, which needs a GPU; set it to bfloat16, float32 or auto"
        )
    return precision


class Forward:
    """A backbone's trunk on a device."""

    def __init__(self, backbone: Backbone, device: torch.device, precision: str) -> None:
        """Move the trunk.

        Args:
            backbone: The network.
            device: Where to compute.
            precision: As `resolve_precision` gives it.
        """
        self.trunk = backbone.trunk.to(device)
        self.n_features = backbone.n_features
        self.device = device
        self.dtype = _TYPES[precision]
        self.limit: int | None = None
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Convolutions on tensor cores work on channels last, and would reorder each time.
        self._layout = torch.contiguous_format
        if device.type == "cuda" and any(each.ndim == 4 for each in self.trunk.parameters()):
            self._layout = torch.channels_last
            self.trunk.to(memory_format=self._layout)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Set torch up for the block: no gradients, and products in their full precision."""
        # cuDNN rounds the factors of convolutions to 10 bits by default; that would depend on the
        # batch size through the algorithm that it picks.
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(allow_tf32=False),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            yield

    def __call__(self, batch: Any) -> Callable[[], np.ndarray]:
        """Start to compute a batch.

        Args:
            batch: A tensor whose first axis is the samples, or such tensors by name.

        Returns:
            A function that waits for the features, (k, d) float32, from any thread.

        Raises:
            DeviceError: If memory does not suffice for a single sample.
            CheckpointError: If the trunk gives something other than features.
        """
        size = _length(batch)
        parts: list[Tensor] = []
        start = 0
        while start < size:
            stop = min(start + (self.limit or size), size)
            part = self._try(batch, start, stop)
            if part is not None:
                parts.append(part)
                start = stop
                continue
            # Outside the handler, whose traceback keeps the tensors alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.limit = (stop - start) // 2
        features = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.device.type != "cuda":
            return features.cpu().numpy
        host = features.to("cpu", non_blocking=True)  # Into pinned memory.
        arrived = torch.cuda.current_stream(self.device).record_event()

        def wait() -> np.ndarray:
            arrived.synchronize()
            return host.numpy()

        return wait

    def _try(self, batch: Any, start: int, stop: int) -> Tensor | None:
        """Return the features of a part of a batch, None if there is no memory for it.

        Raises:
            DeviceError: If the part is a single sample.
            RuntimeError: If the network fails.
        """
        try:
            return self._features(self._send(batch, start, stop))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if stop - start == 1:
                raise DeviceError(
                    f"the memory of '{self.device}' does not suffice for a single sample; take a "
                    "smaller network or image size, or another device"
                ) from error
            return None

    def _send(self, batch: Any, start: int, stop: int) -> Any:
        if isinstance(batch, dict):
            return {name: self._send(value, start, stop) for name, value in batch.items()}
        if self._copying is None:
            return batch[start:stop].to(self.device)
        working = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copying):
            sent = batch[start:stop].to(self.device, non_blocking=True)
        working.wait_stream(self._copying)
        sent.record_stream(working)
        return sent

    def _features(self, batch: Any) -> Tensor:
        if self._layout == torch.channels_last and isinstance(batch, Tensor) and batch.ndim == 4:
            try:
                output = self.trunk(batch.contiguous(memory_format=torch.channels_last))
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                # Some networks flatten with `view`, which wants the usual order.
                self._layout = torch.contiguous_format
                self.trunk.to(memory_format=self._layout)
                output = self.trunk(batch)
        else:
            output = self.trunk(batch)
        shape = tuple(getattr(output, "shape", ()))
        if shape != (_length(batch), self.n_features):
            raise CheckpointError(
                f"the network gives {shape or type(output).__name__} for a batch of "
                f"{_length(batch)}; expected features ({_length(batch)}, {self.n_features}): name "
                "another layer"
            )
        return output.float()


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch means that memory ran out."""
    # Only CUDA has a class for it.
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error)
        for words in ("not enough memory", "can't allocate memory", "out of memory")
    )


def _length(batch: Any) -> int:
    return len(next(iter(batch.values()))) if isinstance(batch, dict) else len(batch)
