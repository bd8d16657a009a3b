"""Classification models of torchvision, with its own weights or one's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gsr_core.errors import SettingError
from gsr_core.features.kinds import Built, Request, downloading
from gsr_core.features.merging import Merge, Written, save_state
from gsr_core.features.preprocessing import ImagePreprocessing
from gsr_core.settings import suggestion

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

__all__ = [
    "build_torchvision",
    "load_torchvision",
    "published_preprocessing",
    "torchvision_models",
    "write_torchvision",
]

PATIENCE = 15.0
"""Seconds to wait for a server that does not answer."""
_AUXILIARY = {"googlenet", "inception_v3"}
"""Models with classifiers on the way, which are used in training alone."""


def build_torchvision(name: str, n_classes: int) -> nn.Module:
    """Return a new model, initialised from torch's global random state.

    Raises:
        SettingError: If there is no classification model of that name.
    """
    _check(name)
    # These two warn about the slow initialisation that they do by default.
    settings: dict[str, Any] = {"init_weights": False} if name in _AUXILIARY else {}
    return _models().get_model(name, weights=None, num_classes=n_classes, **settings)


def load_torchvision(request: Request) -> Built:
    """Return a model; with the published weights if they are named.

    Raises:
        SettingError: If the model or its weights are unknown.
        CheckpointError: If the weights cannot be downloaded.
    """
    name = request.name
    _check(name)
    request.without_arguments()
    if not request.weights:
        module = build_torchvision(name, _classes(request))
        return Built(module, published_preprocessing(name))

    published = _models().get_model_weights(name)
    if request.weights not in published.__members__:
        raise SettingError(
            f"weights '{request.weights}' of {request.architecture} are unknown; allowed are "
            f"{', '.join(published.__members__) or 'none'}, and a checkpoint of your own"
        )
    weights = published[request.weights]
    with (
        downloading(
            f"weights {weights.name} of {request.architecture}",
            f"fetch {weights.url} elsewhere and give the file as checkpoint",
        ),
        _impatient(),
    ):
        # `check_hash`: an incomplete download is refused.
        state = weights.get_state_dict(progress=False, check_hash=True)
    module = build_torchvision(name, len(weights.meta["categories"]))
    if name in _AUXILIARY:
        state = {key: value for key, value in state.items() if key in module.state_dict()}
    module.load_state_dict(state)
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    return Built(
        module,
        _from_transforms(weights),
        trained=True,
        files=[file] if file.is_file() else [],
        facts={"weights": weights.name},
    )


def published_preprocessing(name: str, weights: str = "") -> ImagePreprocessing:
    """Return the evaluation transform of torchvision's own weights; nothing is downloaded.

    Args:
        name: Of the model.
        weights: Name of published weights; the usual ones if "" or unknown.

    Raises:
        SettingError: If there is no classification model of that name.
    """
    _check(name)
    published = _models().get_model_weights(name)
    if weights in published.__members__:
        return _from_transforms(published[weights])
    # The first weights, not the default ones: the usual recipe, and what fine-tuning code uses.
    return _from_transforms(published.__members__.get("IMAGENET1K_V1", next(iter(published))))


def torchvision_models() -> list[str]:
    """Return the names of torchvision's classification models."""
    return _models().list_models(module=_models())


def _models() -> ModuleType:
    """Return `torchvision.models`; pages, which import this file, do not wait for it."""
    from torchvision import models

    return models


def _check(name: str) -> None:
    if name not in (known := torchvision_models()):
        raise SettingError(
            f"torchvision has no classification model '{name}'{suggestion(name, known)}; allowed "
            "are names such as resnet50, vit_b_16 or convnext_tiny, as "
            "torchvision.models.list_models() gives them"
        )


def _from_transforms(weights: WeightsEnum) -> ImagePreprocessing:
    transform = weights.transforms()
    return ImagePreprocessing(
        image_size=transform.crop_size[0],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
    )


def _classes(request: Request) -> int:
    """Return the classes of the checkpoint's head, which auxiliary heads share."""
    state = request.checkpoint.state if request.checkpoint else {}
    matrices = [value for key, value in state.items() if key.endswith("weight") and value.ndim == 2]
    return len(matrices[-1]) if matrices else (request.n_classes or 1000)


@contextmanager
def _impatient() -> Iterator[None]:
    """Let no connection hang for the minutes that the system allows."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def write_torchvision(merge: Merge, folder: Path) -> Written:
    """Write the state dict of `torchvision.models.get_model(NAME, num_classes=K)`.

    Raises:
        SettingError: If the features are not those before its head.
    """
    network: Any = merge.network()
    seat = merge.backbone.seat
    assert seat is not None
    with torch.device("meta"):
        own: Any = build_torchvision(merge.name, len(merge.classes)).get_submodule(seat.name)
    arguments: dict[str, Any] = {}
    if merge.name in _AUXILIARY:
        # Their auxiliary classifiers, which only training uses, are for other classes.
        network.aux_logits = False
        for name, _ in list(network.named_children()):
            if name.lower().startswith("aux"):
                delattr(network, name)
        arguments = {"aux_logits": False, "init_weights": False}
    save_state(network, folder)
    return Written(
        "of_torchvision",
        f"torchvision.models.get_model('{merge.name}', num_classes={len(merge.classes)}) with "
        "model.safetensors",
        # MaxViT's own head has no bias.
        about={
            "model": merge.name,
            "arguments": arguments,
            "head": merge.place if own.bias is None else None,
        },
    )
