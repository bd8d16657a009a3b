"""A network that is being trained: its module, optimiser and scaler on one device."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsr_core.errors import GsrError, SettingError
from gsr_core.features.batches import to_device
from gsr_core.features.heads import first_tensor
from gsr_core.features.presets import Training

__all__ = [
    "Learner",
    "autocast_dtype",
    "check_finite",
    "explain_memory_errors",
    "random_states",
    "seed_random",
    "seeded",
]

_MODULE, _OPTIMISER, _SCALER = "module.", "optimiser.", "scaler."


class Learner:
    """A network with what its next update depends on.

    Attributes:
        module: The network, on the device; its mode is the caller's.
        model: The same as several processes see it.
        optimiser: Of its trainable parameters.
        scaler: Of the loss, which only float16 needs.
    """

    def __init__(
        self,
        module: nn.Module,
        training: Training,
        device: torch.device,
        dtype: torch.dtype | None,
        fabric: Any = None,
    ) -> None:
        """Take a network over; it is trained in place, unless several processes share it.

        Args:
            module: The network.
            training: How to train.
            device: Where.
            dtype: In which products are mixed; None for float32 throughout.
            fabric: Lightning Fabric's, where several processes train.
        """
        self.device, self.dtype = device, dtype
        if fabric is not None:
            # Tensors sent to a process share their memory with all the others.
            module = copy.deepcopy(module)
            if device.type == "cuda":
                module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        self.module = module.to(device)
        self.model = module if fabric is None else fabric.setup_module(module)
        self.optimiser = _optimiser(training, module)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def logits(self, batch: Any) -> Tensor:
        """Return the logits (n, K) float32 of a prepared batch."""
        # To score, processes come unequally often, for which the shared module would wait.
        module = self.model if self.model.training else self.module
        with self.autocast():
            return first_tensor(module(to_device(batch, self.device))).float()

    def descend(self, loss: Tensor) -> None:
        """Take one step of the optimiser on a loss."""
        self.optimiser.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def is_finite(self) -> bool:
        """Return whether all parameters are finite."""
        return all(bool(each.isfinite().all()) for each in self.module.parameters())

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the network's state dict, on the CPU."""
        return {
            name: value.detach().to("cpu", copy=True)
            for name, value in self.module.state_dict().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return a copy of everything that the next update depends on, on the CPU."""
        state = {f"{_MODULE}{name}": value for name, value in self.weights().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            for name, value in values.items():
                if value is not None:
                    tensor = torch.as_tensor(value).detach().to("cpu", copy=True)
                    state[f"{_OPTIMISER}{index}.{name}"] = tensor
        for name, value in self.scaler.state_dict().items():
            state[f"{_SCALER}{name}"] = torch.tensor(value, dtype=torch.float64)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was called."""
        self.module.load_state_dict(_part(state, _MODULE))
        values: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(state, _OPTIMISER).items():
            index, _, name = key.partition(".")
            values.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": values, "param_groups": groups})
        if scaler := _part(state, _SCALER):
            known = self.scaler.state_dict()
            self.scaler.load_state_dict(
                {name: type(known[name])(value.item()) for name, value in scaler.items()}
            )


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type in which products are mixed; None for float32 throughout.

    Raises:
        SettingError: If the device has no such products.
    """
    if precision == "float32" or (precision == "auto" and device.type != "cuda"):
        return None
    if precision == "float16" and device.type != "cuda":
        raise SettingError(
            f"precision is float16, which needs a CUDA device, not {device}; set it to bfloat16, "
            "float32 or auto"
        )
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float16
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def check_finite(loss: float, epoch: int, lr: float) -> None:
    """Refuse a loss that is not finite.

    Raises:
        SettingError: If it is not.
    """
    if not math.isfinite(loss):
        raise SettingError(
            f"the loss is no longer finite in epoch {epoch}, at learning rate {lr:g}; set a "
            f"smaller lr, such as {lr / 10:g}; the last checkpoint is from before and stays"
        )


@contextmanager
def explain_memory_errors(device: torch.device, batch_size: int, least: int) -> Iterator[None]:
    """Say what to do where a batch does not fit into memory.

    Args:
        device: Where the batch was to go.
        batch_size: Rows of it.
        least: Smallest batch that is allowed.

    Raises:
        SettingError: Instead of an error of the memory.
        RuntimeError: Any other, as it came.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, GsrError) or not _is_out_of_memory(error):
            raise
        advice = (
            f"set batch_size to {batch_size // 2}"
            if batch_size >= 2 * least
            else "take a smaller network or smaller inputs"
        )
        raise SettingError(
            f"a batch of {batch_size} rows does not fit into the memory of {device}; {advice}"
        ) from error


def seed_random(seed: int, device: torch.device) -> None:
    """Seed the global states, which are all that dropout knows, on the CPU and one device.

    `torch.manual_seed` would touch every device's.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def random_states(device: torch.device) -> Iterator[None]:
    """Put torch's random states, on CPU and CUDA, back to what they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Draw what is drawn within from a state that follows from some numbers alone."""
    state = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    with random_states(device):
        seed_random(state >> 1, device)
        yield


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _optimiser(training: Training, module: nn.Module) -> torch.optim.Optimizer:
    parameters = [each for each in module.parameters() if each.requires_grad]
    shared: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
    match training.optimiser:
        case "sgd":
            return torch.optim.SGD(parameters, momentum=training.momentum, **shared)
        case "adam":
            return torch.optim.Adam(parameters, **shared)
        case "adamw":
            return torch.optim.AdamW(parameters, **shared)


def _is_out_of_memory(error: Exception) -> bool:
    # Only CUDA has an error class of its own.
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in text for words in ("can't allocate memory", "out of memory")
    )
