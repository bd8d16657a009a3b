"""Where a network ends in a linear layer, found by trying it, and how to take that layer off.

The layers are observed on one made-up batch rather than taken in the order of their declaration:
auxiliary classifiers are declared and never run, and others run in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsr_core.errors import CheckpointError, SettingError

__all__ = [
    "OUTPUT",
    "CutTrunk",
    "Seat",
    "cut",
    "find_head",
    "first_tensor",
    "head_arrays",
    "new_head",
    "uncut",
]


OUTPUT = "output"
"""The layer name that takes a network's output as features, without a head."""


@dataclass(frozen=True)
class Seat:
    """The layer that is the head, and how it sits in the network.

    Attributes:
        name: Dotted name of the layer.
        n_features: Its inputs d.
        last: Its output, apart from its shape, is what the network gives.
        flat: It takes a matrix (n, d), so that taking it away leaves the features.
        logits: It gives the network's logits: nothing but a softmax comes after it.
        pointwise: It is a 1 x 1 convolution.
    """

    name: str
    n_features: int
    last: bool
    flat: bool
    logits: bool
    pointwise: bool = False


class CutTrunk(nn.Module):
    """A network that is run to its end, of which only the input of one layer is taken."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network = network
        self.layer = layer

    def forward(self, batch: Any) -> Tensor:
        """Return the layer's input (n, d)."""
        caught: list[Tensor] = []
        with self.network.get_submodule(self.layer).register_forward_pre_hook(
            lambda _, inputs: caught.append(inputs[0])
        ):
            self.network(batch)
        return caught[-1].flatten(1)


def first_tensor(output: Any) -> Tensor:
    """Return what a network gives: its output, its `logits`, or the first of several.

    Raises:
        CheckpointError: If there is no tensor.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = [output["logits"]] if "logits" in output else list(output.values())
    for each in output if isinstance(output, tuple | list) else ():
        if isinstance(each, Tensor):
            return each
    raise CheckpointError(f"the network gives {type(output).__name__} instead of a tensor")


def find_head(network: nn.Module, batch: Any, architecture: str, layer: str = "") -> Seat:
    """Find the linear layer in which a network ends.

    Args:
        network: In eval mode.
        batch: One that it takes.
        architecture: Its name, for messages.
        layer: Dotted name of a linear layer to take instead.

    Raises:
        SettingError: If there is no layer of that name, or it is not linear, or not used.
        CheckpointError: If the network does not take the batch, or ends in something else.
    """
    modules = dict(network.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if layer and not _is_linear(modules.get(layer)):
        raise SettingError(
            f"{architecture} has no linear layer '{layer}'; its linear layers are "
            f"{', '.join(linear[-8:]) or 'none'}"
        )
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        inside = calls and calls[-1][0].startswith(f"{name}." if name else "")
        # A module that holds others as well as parameters is not a layer of its own.
        if not inside and inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            calls.append((name, module, inputs[0], output))

    handles = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: note(name, module, inputs, output)
        )
        for name, module in modules.items()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        with torch.inference_mode():
            output = first_tensor(network(batch))
    except (CheckpointError, SettingError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{architecture} does not take a batch of {_shape(batch)} "
            f"({(str(error).splitlines() or [type(error).__name__])[0][:200]}); set the "
            "preprocessing that the network was trained with, such as image_size"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    calls_of_layer = [call for call in calls if not layer or call[0] == layer]
    if not calls_of_layer:
        raise SettingError(
            f"{architecture} does not use the layer '{layer}' on plain inputs; choose another of "
            f"{', '.join(linear[-8:])}"
            if layer
            else f"{architecture} has no layer with parameters, so nothing that was trained"
        )
    name, module, layer_input, layer_output = calls_of_layer[-1]
    n = len(output)
    pointwise = isinstance(module, nn.Conv2d) and layer_input.shape[2:] == (1, 1)
    if not _is_linear(module) or not (isinstance(module, nn.Linear) or pointwise):
        raise CheckpointError(
            f"{architecture} ends in {type(module).__name__} '{name}', but features need a last "
            "layer that is linear; name one with layer="
            f"{' or '.join([*linear[-3:], OUTPUT])}"
        )
    if layer_input.numel() != n * layer_input.shape[-3 if pointwise else -1]:
        raise CheckpointError(
            f"the layer '{name}' of {architecture} is given {tuple(layer_input.shape)} for {n} "
            "samples, which is more than one row of features each; name a linear layer after "
            "the pooling"
        )
    same_size = layer_output.numel() == output.numel()
    last = same_size and layer_output.data_ptr() == output.data_ptr()
    flat_output, final = layer_output.reshape(n, -1).float(), output.reshape(n, -1).float()
    return Seat(
        name,
        n_features=layer_input.numel() // n,
        last=last,
        flat=layer_input.ndim == 2 or (pointwise and output.ndim == 2),
        logits=same_size
        and any(
            torch.allclose(flat_output.softmax(1), each, rtol=1e-4, atol=1e-6)
            for each in (final.softmax(1), final)
        ),
        pointwise=pointwise,
    )


def cut(network: nn.Module, seat: Seat) -> nn.Module:
    """Return the trunk of a network; the network itself loses its head."""
    if seat.last and seat.flat:
        network.set_submodule(seat.name, nn.Identity())
        return network
    return CutTrunk(network, seat.name)


def uncut(trunk: nn.Module, seat: Seat, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    """Return the network that a trunk was cut from, with another head; the trunk becomes it.

    Args:
        trunk: As `cut` gave it.
        seat: Of the head.
        weight: (K, d) on the trunk's features.
        bias: (K,).
    """
    network = trunk.network if isinstance(trunk, CutTrunk) else trunk
    layer = (
        nn.Conv2d(seat.n_features, len(weight), 1)
        if seat.pointwise
        else nn.Linear(seat.n_features, len(weight))
    )
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).view_as(layer.weight))
        layer.bias.copy_(torch.tensor(bias))  # pyright: ignore[reportOptionalMemberAccess]
    network.set_submodule(seat.name, layer.eval().requires_grad_(False))
    return network


def head_arrays(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (K, d) and bias (K,) of a linear layer, float32; no bias is one of zeros."""
    # Traced programs lack the name where there is no bias.
    weight, bias = layer.weight, getattr(layer, "bias", None)
    assert isinstance(weight, Tensor)
    array = weight.detach().float().cpu().flatten(1).numpy()
    zeros = np.zeros(len(array), np.float32)
    return array, bias.detach().float().cpu().numpy() if isinstance(bias, Tensor) else zeros


def new_head(network: nn.Module, seat: Seat, n_classes: int) -> None:
    """Give a network a new head, initialised from torch's global random state."""
    layer = network.get_submodule(seat.name)
    bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        fresh: nn.Module = nn.Conv2d(layer.in_channels, n_classes, 1, bias=bias)
    else:
        fresh = nn.Linear(seat.n_features, n_classes, bias=bias)
    network.set_submodule(seat.name, fresh)


def _is_linear(module: nn.Module | None) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _shape(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
    return type(batch).__name__
