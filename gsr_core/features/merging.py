"""What a kind of network gets to put a head into the network that gave the features.

Each kind writes the whole network in its library's own form, so that it is loaded without us. A
network that ends in no linear layer gets one of its library's own kind where there is such a thing;
else its encoder is written with the head beside it. `alone` has the scripts that open each form
again; that of a merged network is copied beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import safetensors.numpy
from torch import nn

from gsr_core.errors import SettingError
from gsr_core.features.checkpoints import save_checkpoint
from gsr_core.features.heads import uncut
from gsr_core.features.preprocessing import TextPreprocessing, load_tokenizer

if TYPE_CHECKING:  # Which imports the kinds, and they this.
    from gsr_core.features.backbones import Backbone

__all__ = [
    "HEAD_ALONE",
    "Merge",
    "Written",
    "save_beside",
    "save_state",
    "save_tokenizer",
]

HEAD_ALONE = "an export ('gsr export', or Export on the Run page) has the head alone"
_INPUTS = {"image": "pixels", "text": "tokens", "numbers": "numbers"}


@dataclass(frozen=True)
class Merge:
    """A head, and the network that it belongs to.

    Attributes:
        architecture: The network's whole name, such as `timm:resnet18`.
        file: Its checkpoint or program, if it was given one.
        arguments: Of the factory that made it.
        trust: Whether code that comes with its files may run.
        backbone: The network without its own head; a kind that puts the new one in changes it.
        weight: (K, d) float32, on the backbone's features as they are.
        bias: (K,) float32.
        classes: K names.
    """

    architecture: str
    file: Path | None
    arguments: dict[str, Any]
    trust: bool
    backbone: Backbone
    weight: np.ndarray
    bias: np.ndarray
    classes: list[str]

    @property
    def kind(self) -> str:
        """What stands before the colon of the network's name."""
        return self.architecture.partition(":")[0]

    @property
    def name(self) -> str:
        """What follows the colon."""
        return self.architecture.partition(":")[2]

    @property
    def program(self) -> Path:
        """Where a program is, whose name is its file unless a checkpoint was given."""
        file = Path(self.name).expanduser() if self.name else self.file
        assert file is not None
        return file

    def network(self) -> nn.Module:
        """Return the whole network with the head in the place of its own.

        Raises:
            SettingError: If it does not end in a linear layer on the features.
        """
        seat = self.backbone.seat
        if seat is None or not seat.logits:
            self.refuse()
        return uncut(self.backbone.trunk, seat, self.weight, self.bias)

    @property
    def place(self) -> dict[str, Any]:
        """Where the head sits, for a script that puts an empty one there before it loads."""
        seat = self.backbone.seat
        assert seat is not None
        return {"name": seat.name, "inputs": seat.n_features, "pointwise": seat.pointwise}

    def refuse(self) -> NoReturn:
        """Say that the network has no place for the head.

        Raises:
            SettingError: Always.
        """
        seat = self.backbone.seat
        raise SettingError(
            f"{self.architecture} has no place for the head: "
            + (
                "no linear layer is known that comes after its features"
                if seat is None
                else f"the features are taken before '{seat.name}', and it does not end there"
            )
            + f"; {HEAD_ALONE}"
        )


@dataclass(frozen=True)
class Written:
    """How a merged network was written.

    Attributes:
        script: Name of the module of `alone` that opens it.
        how: The call that opens it, in words of its library.
        takes: What that gives takes: `pixels` (n, 3, s, s), `tokens` by name, `numbers` (n, d),
            `images` or `texts`, which its library prepares itself; "" for the usual of the
            network's inputs.
        about: What the script needs to know beside the classes.
    """

    script: str
    how: str
    takes: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    def takes_of(self, modality: str) -> str:
        """Return `takes`, or the usual for inputs of this kind."""
        return self.takes or _INPUTS[modality]


def save_state(network: nn.Module, folder: Path) -> None:
    """Write a network's state dict to `model.safetensors`."""
    save_checkpoint(network, folder / "model.safetensors")


def save_beside(merge: Merge, folder: Path) -> None:
    """Write the head alone to `head.safetensors`, where a library has no place for it."""
    arrays = {"weight": merge.weight, "bias": merge.bias}
    safetensors.numpy.save_file(arrays, folder / "head.safetensors")


def save_tokenizer(merge: Merge, folder: Path) -> None:
    """Write the tokenizer of a network that takes texts; nothing for others."""
    preprocessing = merge.backbone.preprocessing
    if isinstance(preprocessing, TextPreprocessing):
        tokenizer = load_tokenizer(preprocessing.tokenizer, preprocessing.trust)
        tokenizer.save_pretrained(folder)
