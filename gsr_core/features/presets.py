"""How a network is trained by empirical risk minimisation (ERM), and what was published.

The settings are those of "Group-robust Sample Reweighting for Subpopulation Shifts via Influence
Functions" (ICLR 2025), stage 1: no learning rate schedule, no early stopping, no augmentation
that the paper mentions. The numbers of epochs on the two text sets are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as settings

from gsr_core.errors import SettingError
from gsr_core.settings import check_known, suggestion

__all__ = ["PRESETS", "Preset", "Training", "make_training"]

_NAMES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


@settings(
    frozen=True,
    kw_only=True,
    config=ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True),
)
class Training:
    """How to train: cross-entropy, every row once an epoch in random order, a constant rate."""

    optimiser: Annotated[Literal["sgd", "adam", "adamw"], Field(description="Optimiser.")] = "sgd"
    lr: Annotated[float, Field(gt=0, le=10, description="Learning rate, constant.")] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum of SGD.")] = 0.9
    batch_size: Annotated[
        int, Field(ge=2, le=65_536, description="Rows a step, over all devices together.")
    ] = 32
    weight_decay: Annotated[
        float,
        Field(ge=0, le=10, description="Penalty on all parameters; decoupled with adamw."),
    ] = 1e-4
    epochs: Annotated[int, Field(ge=1, le=100_000, description="Passes over the rows.")] = 10
    augment: Annotated[
        Literal["none", "crop-flip"],
        Field(
            description="Change images at random: none, or crop-flip: a crop of 70 to 100 % of "
            "the area, stretched to the network's size, and mirrored every other time."
        ),
    ] = "none"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(
            description="Type of the products; auto mixes in bfloat16 (float16 on older cards) on "
            "a CUDA device and is float32 elsewhere."
        ),
    ] = "auto"
    workers: Annotated[
        int | Literal["auto"],
        Field(description="Processes a device that read and prepare; auto: by the machine."),
    ] = "auto"
    devices: Annotated[
        int | Literal["auto"],
        Field(description="How many devices; auto: all CUDA devices, unless one was named."),
    ] = "auto"
    seed: Annotated[
        int,
        Field(ge=0, lt=2**32, description="Of the order of rows, augmentation and dropout."),
    ] = 0

    def __post_init__(self) -> None:
        """Refuse counts out of range, which would be lost in a union's several messages.

        Raises:
            ValueError: If a number of devices or workers is out of range.
        """
        if self.devices != "auto" and not 1 <= self.devices <= 1024:
            raise ValueError(f"devices is {self.devices}; allowed are auto and 1 to 1024")
        if self.workers != "auto" and not 0 <= self.workers <= 256:
            raise ValueError(f"workers is {self.workers}; allowed are auto and 0 to 256")

    def settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __str__(self) -> str:
        """Return how a network was trained, in words."""
        parts = [
            f"plain ERM on train: {_NAMES[self.optimiser]}",
            f"{self.epochs} epochs",
            f"learning rate {self.lr:g}",
            f"batches of {self.batch_size}",
        ]
        if self.optimiser == "sgd":
            parts.append(f"momentum {self.momentum:g}")
        if self.weight_decay:
            parts.append(f"weight decay {self.weight_decay:g}")
        if self.augment != "none":
            parts.append(self.augment)
        return ", ".join([*parts, f"seed {self.seed}"])


@dataclass(frozen=True)
class Preset:
    """Settings to begin with.

    Attributes:
        title: For people.
        training: The settings.
        backbone: The network that was trained so, as `load_network` names it; "" for any.
        weights: Its published weights to start from; "" for none or the library's own.
        overrides: Of its preprocessing.
        note: Where the numbers come from, and which are not published.
    """

    title: str
    training: Training
    backbone: str = ""
    weights: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


_PUBLISHED = "Published settings of GSR (ICLR 2025), stage 1."
_CHOSEN = (
    " The number of epochs is ours: the published one is not legible in the copy that was read."
)

PRESETS = {
    "quick": Preset(
        "Quick: a few epochs for a small set",
        Training(optimiser="adamw", lr=1e-4, batch_size=32, weight_decay=1e-4, epochs=5),
        note="Ours: enough to adapt pretrained weights to a few thousand rows.",
    ),
    "waterbirds": Preset(
        "Waterbirds: ResNet-50",
        Training(optimiser="sgd", lr=1e-3, batch_size=32, weight_decay=1e-3, epochs=100),
        backbone="torchvision:resnet50",
        weights="IMAGENET1K_V1",
        note=_PUBLISHED,
    ),
    "celeba": Preset(
        "CelebA: ResNet-50",
        Training(optimiser="sgd", lr=1e-3, batch_size=128, weight_decay=1e-4, epochs=50),
        backbone="torchvision:resnet50",
        weights="IMAGENET1K_V1",
        note=_PUBLISHED,
    ),
    "multinli": Preset(
        "MultiNLI: BERT",
        Training(optimiser="adamw", lr=2e-5, batch_size=32, weight_decay=1e-4, epochs=5),
        backbone="hf:bert-base-uncased",
        overrides={"max_length": 128},
        note=_PUBLISHED + _CHOSEN,
    ),
    "civilcomments": Preset(
        "CivilComments: BERT",
        Training(optimiser="adamw", lr=2e-5, batch_size=32, weight_decay=1e-4, epochs=5),
        backbone="hf:bert-base-uncased",
        overrides={"max_length": 300},
        note=_PUBLISHED + _CHOSEN,
    ),
}


def make_training(preset: str, values: Mapping[str, Any] | None = None) -> Training:
    """Make settings from a preset; text is read as the setting's type.

    Args:
        preset: A key of `PRESETS`.
        values: Settings that differ from the preset's.

    Raises:
        SettingError: If the preset or a setting is unknown, or a value is not allowed.
    """
    if preset not in PRESETS:
        raise SettingError(
            f"there is no training preset '{preset}'{suggestion(preset, PRESETS)}; presets are "
            f"{', '.join(PRESETS)}"
        )
    defaults = PRESETS[preset].training.settings()
    check_known("training", values or {}, defaults)
    try:
        return Training(**(defaults | dict(values or {})))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":
            raise SettingError(f"training: {first['msg'].removeprefix('Value error, ')}") from None
        setting = str(first["loc"][0])
        reason = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        if setting in ("workers", "devices"):
            reason = "allowed are auto and a whole number"
        raise SettingError(f"training: {setting} is {first['input']!r}; {reason}") from None
