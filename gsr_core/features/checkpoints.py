"""Files with the weights of a network: read without running code, matched key by key, written.

A checkpoint is a state dict, as safetensors or as written by `torch.save(model.state_dict(),
file)`, also inside the dictionaries that Lightning and others save. Anything that a pickle would
run is refused unless the caller trusts the file.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gsr_core.errors import CheckpointError, TrustError
from gsr_core.files import replace_file

__all__ = [
    "HOW_TO_TRUST",
    "Checkpoint",
    "load_pickle",
    "load_state",
    "need_trust",
    "read_checkpoint",
    "save_checkpoint",
    "some",
]

HOW_TO_TRUST = (
    "if you know where it comes from, say so with --trust on the command line, trust=True in "
    "Python or 'I trust this file' in the app"
)

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.", "network.")
"""Prefixes that data-parallel training, torch.compile and frameworks put before every key."""

STATES = ("state_dict", "model", "model_state_dict", "model_state", "net")
"""Keys under which a checkpoint of several things keeps the network's weights."""

KEYS_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a network, as they are named in a file.

    Attributes:
        file: Where they come from.
        state: Tensors by name.
        metadata: What the header of a safetensors file says.
    """

    file: Path
    state: dict[str, Tensor]
    metadata: dict[str, str]


def need_trust(what: str, trust: bool) -> None:
    """Refuse to load something that runs code of its own, unless the caller trusts it.

    Raises:
        TrustError: If `trust` is false.
    """
    if not trust:
        raise TrustError(f"{what} runs code of its own when it is loaded; {HOW_TO_TRUST}")


def read_checkpoint(file: Path, *, trust: bool = False) -> Checkpoint:
    """Read a state dict; on the CPU.

    Args:
        file: Safetensors by its name's ending, else what `torch.save` writes.
        trust: Unpickle whatever it holds, a whole network included.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds something else.
        TrustError: If it could only be read by running its code, and `trust` is false.
    """
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint {file}; give the path of a file")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as archive:
                metadata = archive.metadata() or {}
                state = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise CheckpointError(
                f"{file.name} is not a safetensors file ({error}); save the network again"
            ) from error
        return Checkpoint(file, state, metadata)

    content = load_pickle(file, trust=trust)
    if isinstance(content, nn.Module):
        content = content.state_dict()
    for key in STATES:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping | nn.Module):
            inner = content[key]
            content = inner.state_dict() if isinstance(inner, nn.Module) else inner
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise CheckpointError(
            f"{file.name} holds something other than a state dict of named tensors; write it with "
            "torch.save(model.state_dict(), file) or as safetensors"
        )
    return Checkpoint(file, dict(content), {})


def load_pickle(file: Path, *, trust: bool) -> Any:
    """Return what `torch.save` wrote; tensors and plain containers only, unless trusted.

    Raises:
        CheckpointError: If the file is damaged or nothing that torch wrote.
        TrustError: If it holds more than that, and `trust` is false.
    """
    if _is_torchscript(file):
        raise CheckpointError(
            f"{file.name} is a TorchScript program, not a state dict; load it as "
            f"torchscript:{file.name}"
        )
    try:
        with warnings.catch_warnings():
            # A pickle that torch did not write draws a warning before it is refused.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=not trust)
    except Exception as error:
        text = str(error)
        if not trust and ("WeightsUnpickler error: Unsupported" in text or "GLOBAL" in text):
            raise TrustError(
                f"{file.name} is not a state dict of plain tensors but a pickle of Python objects, "
                f"which runs code of its own when it is loaded; {HOW_TO_TRUST}, or write it again "
                "with torch.save(model.state_dict(), file)"
            ) from error
        reason = (text.splitlines() or [type(error).__name__])[0][:200]
        if reason.startswith("Weights only"):
            reason = "it is nothing that torch.save wrote"
        # A damaged or hostile pickle makes the unpickler raise nearly anything.
        raise CheckpointError(
            f"{file.name} cannot be read ({reason}); "
            "write it with torch.save(model.state_dict(), file) or as safetensors"
        ) from error


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def load_state(
    network: nn.Module, checkpoint: Checkpoint, architecture: str, *, head: str = ""
) -> bool:
    """Load a checkpoint into a network whose head may have another number of classes.

    Prefixes that training puts before every key are dropped (or added) where that makes more
    keys fit.

    Args:
        network: Changed in place; its head gets the number of classes of the checkpoint's.
        checkpoint: What to load. It may lack the head, but nothing else.
        architecture: The network's name, for messages.
        head: Name of the layer that is the head, linear or a 1 x 1 convolution.

    Returns:
        Whether the checkpoint has the head.

    Raises:
        CheckpointError: If keys are missing or unexpected, or shapes differ.
    """
    state = _best_names(checkpoint.state, set(network.state_dict()))
    has_head = not head or f"{head}.weight" in state
    if head and has_head:
        _resize(network, head, state)
    expected = network.state_dict()
    wrong = [
        f"{key} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    missing = [key for key in expected if key not in state]
    if not has_head:
        missing = [key for key in missing if key.rpartition(".")[0] != head]
    # Running counts came later than batch normalisation, and position numbers are no weights.
    missing = [key for key in missing if not key.endswith(("num_batches_tracked", "position_ids"))]
    unexpected = [
        key
        for key in state
        if key not in expected and not key.endswith(("num_batches_tracked", "position_ids"))
    ]
    complaints = [
        f"it {what} {len(keys)} keys ({some(keys)})"
        for what, keys in (("lacks", missing), ("has the unexpected", unexpected))
        if keys
    ]
    if wrong:
        complaints.append(f"{len(wrong)} tensors have another shape ({some(wrong)})")
    if complaints:
        raise CheckpointError(
            f"{checkpoint.file.name} does not fit {architecture}: {' and '.join(complaints)}; "
            "choose the architecture that the checkpoint was trained with"
        )
    network.load_state_dict({k: v for k, v in state.items() if k in expected}, strict=False)
    return has_head


def save_checkpoint(model: nn.Module, file: Path, *, training: str = "") -> None:
    """Write a network's state dict as safetensors: whole, or not at all.

    Args:
        model: The network, head included.
        file: Where; missing parents are made, an existing file is replaced.
        training: How it was trained, in words; kept in the file's header and read back by
            `load_backbone`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Copies, because safetensors refuses tensors that share memory.
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    with replace_file(file) as temporary:
        # One entry only: the order of several differs from write to write, and with it the digest.
        safetensors.torch.save_file(state, temporary, {"training": training} if training else None)


def _best_names(state: Mapping[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Return the state under the names that fit best: as they are, without or with a prefix."""
    candidates = [dict(state)]
    stripped = dict(state)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in stripped)), ""):
        stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
        candidates.append(stripped)
    # Lightning keeps the network beside its loss and metrics: only its own keys have the prefix;
    # others keep the head beside the backbone.
    candidates += [
        {key.removeprefix(p): value for key, value in state.items() if beside or key.startswith(p)}
        for beside in (False, True)
        for p in PREFIXES
    ]
    candidates += [
        {f"{p}{key}": value for key, value in each.items()}
        for each in list(candidates)
        for p in ("model.", "trunk.")
    ]
    return max(candidates, key=lambda each: len(expected & each.keys()))


def _resize(network: nn.Module, head: str, state: Mapping[str, Tensor]) -> None:
    """Give the head the shape that the checkpoint's has, where only classes or bias differ."""
    layer, weight = network.get_submodule(head), state[f"{head}.weight"]
    bias = f"{head}.bias" in state
    same_inputs = weight.ndim == getattr(layer, "weight", weight).ndim
    if not same_inputs or weight.shape[1:] != getattr(layer, "weight", weight).shape[1:]:
        return
    if isinstance(layer, nn.Linear) and (
        weight.shape != layer.weight.shape or bias != (layer.bias is not None)
    ):
        network.set_submodule(head, nn.Linear(layer.in_features, len(weight), bias=bias))
    elif isinstance(layer, nn.Conv2d) and weight.shape != layer.weight.shape:
        network.set_submodule(head, nn.Conv2d(layer.in_channels, len(weight), 1, bias=bias))


def some(items: Sequence[str]) -> str:
    """Return the first few of many names."""
    return ", ".join(items[:KEYS_SHOWN]) + (", ..." if len(items) > KEYS_SHOWN else "")
