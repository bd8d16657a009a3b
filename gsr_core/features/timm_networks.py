"""Image models of timm, with published weights or one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsr_core.errors import SettingError
from gsr_core.extras import require
from gsr_core.features.heads import find_head, uncut
from gsr_core.features.hub import from_hub
from gsr_core.features.kinds import Built, Classifier, Request, first_line
from gsr_core.features.merging import Merge, Written
from gsr_core.features.preprocessing import ImagePreprocessing

__all__ = ["load_timm", "timm_preprocessing", "write_timm"]

FIT = {"center": "shortest", "squash": "both", "border": "longest"}


def load_timm(request: Request) -> Built:
    """Return a model of timm.

    `weights` is `DEFAULT`, or the tag of published ones such as `a1_in1k`. The arguments go to
    `timm.create_model`.

    Raises:
        SettingError: If the model or an argument is unknown.
        CheckpointError: If published weights cannot be fetched.
        MissingExtraError: If timm is not installed.
    """
    timm = require("timm", "timm")
    name, weights = request.name, request.weights
    elsewhere = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not elsewhere and not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name.partition('.')[0].partition('_')[0]}*")[:3]
        raise SettingError(
            f"timm has no model '{name}'; allowed are those of timm.list_models(), such as "
            f"{', '.join(near or ['resnet50', 'vit_small_patch16_224'])}"
        )
    if weights and weights.upper() != "DEFAULT":
        name = f"{name.partition('.')[0]}.{weights}"
    pretrained = bool(weights) or (elsewhere and request.checkpoint is None)

    def create() -> Any:
        try:
            return timm.create_model(name, pretrained=pretrained, **request.arguments)
        except (TypeError, RuntimeError, AssertionError) as error:
            raise SettingError(
                f"timm cannot make '{name}' with the arguments "
                f"{', '.join(request.arguments) or '(none)'}: {first_line(error)}"
            ) from error

    if pretrained:
        with from_hub(name.removeprefix("local-dir:"), "timm"):
            module = create()
    else:
        module = create()
    config = timm.data.resolve_data_config({}, model=module)
    return Built(
        module,
        timm_preprocessing(config, request.architecture),
        trained=pretrained,
        encoder=getattr(module, "num_classes", None) == 0,
        facts={"weights": name if pretrained else None},
    )


def timm_preprocessing(config: Mapping[str, Any], architecture: str) -> ImagePreprocessing:
    """Return timm's evaluation transform.

    Args:
        config: As `timm.data.resolve_data_config` gives it.
        architecture: The network's name, for messages.

    Raises:
        SettingError: If the input is not a square of three channels.
    """
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise SettingError(
            f"{architecture} takes {channels} channels of {height} x {width} pixels, but only "
            "square inputs of 3 channels are prepared; choose another network"
        )
    interpolation = config["interpolation"]
    return ImagePreprocessing(
        image_size=height,
        resize=math.floor(height / config["crop_pct"]),
        mean=config["mean"],
        std=config["std"],
        fit=FIT[config.get("crop_mode") or "center"],  # pyright: ignore[reportArgumentType]
        interpolation="bilinear" if interpolation == "random" else interpolation,
    )


def write_timm(merge: Merge, folder: Path) -> Written:
    """Write a directory as timm writes it for the hub: configuration, preprocessing and weights.

    A model that was made without a classifier gets timm's own.

    Raises:
        SettingError: If the features are not those before its head.
    """
    timm = require("timm", "timm")
    backbone, n_classes = merge.backbone, len(merge.classes)
    preprocessing = backbone.preprocessing
    assert isinstance(preprocessing, ImagePreprocessing)
    model: Any = backbone.trunk.trunk if isinstance(backbone.trunk, Classifier) else backbone.trunk
    if getattr(model, "num_classes", None) == 0:
        model.reset_classifier(n_classes)
        batch = preprocessing.collate([preprocessing.prepare(preprocessing.example())] * 2)
        seat = find_head(model.eval(), batch, merge.architecture)
        model = uncut(model, seat, merge.weight, merge.bias)
    else:
        model = merge.network()
    model.num_classes = n_classes
    size, resize = preprocessing.image_size, preprocessing.resize or preprocessing.image_size
    shares = (size / resize, size / (resize + 0.5))
    settings = {
        "input_size": (3, size, size),
        # timm rounds the resized side down, and must not land one below for a rounding error.
        "crop_pct": next(share for share in shares if math.floor(size / share) == resize),
        "crop_mode": {ours: theirs for theirs, ours in FIT.items()}[preprocessing.fit],
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }
    model.pretrained_cfg = {**model.pretrained_cfg, **settings}
    timm.models.save_for_hf(
        model,
        folder,
        model_config={"label_names": merge.classes},
        model_args={key: v for key, v in merge.arguments.items() if key != "num_classes"},
        safe_serialization=True,
    )
    return Written("of_timm", "timm.create_model('local-dir:DIR', pretrained=True)", takes="images")
