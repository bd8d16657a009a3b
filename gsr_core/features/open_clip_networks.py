"""Image towers of open_clip models, with published weights or one's own, and their text sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gsr_core.errors import SettingError
from gsr_core.extras import require
from gsr_core.features.checkpoints import load_state
from gsr_core.features.hub import from_hub
from gsr_core.features.kinds import Built, Classifier, Request
from gsr_core.features.merging import Merge, Written, save_state
from gsr_core.features.preprocessing import ImagePreprocessing
from gsr_core.features.text_sides import TextSide, temperature_of

__all__ = ["ImageTower", "load_open_clip", "write_open_clip"]

FIT = {"shortest": "shortest", "squash": "both", "longest": "longest"}


class ImageTower(nn.Module):
    """The part of a CLIP model that turns images into its shared space; not normalised."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (n, d)."""
        return self.visual(images)


def load_open_clip(request: Request) -> Built:
    """Return the image tower of an open_clip model.

    `weights` is the tag of published ones, such as `laion2b_s34b_b79k`; a checkpoint is a state
    dict of the whole model.

    Raises:
        SettingError: If the model or its weights are unknown.
        CheckpointError: If the weights cannot be fetched or do not fit.
        MissingExtraError: If open_clip is not installed.
    """
    open_clip = require("open_clip", "open_clip")
    name, weights = request.name, request.weights
    request.without_arguments()
    if not name.startswith(("hf-hub:", "local-dir:")):
        known = open_clip.list_models()
        if name not in known:
            raise SettingError(
                f"open_clip has no model '{name}'; allowed are {', '.join(known[:5])}, ..., as "
                "open_clip.list_models() gives them"
            )
        tags = open_clip.list_pretrained_tags_by_model(name)
        if weights and weights not in tags:
            raise SettingError(
                f"weights '{weights}' of {request.architecture} are unknown; allowed are "
                f"{', '.join(tags) or 'none'}, and a checkpoint of your own"
            )

    def create(**settings: Any) -> Any:
        # Only what is asked for: the text tower's own weights would be fetched as well.
        return open_clip.create_model(name, pretrained_text=False, **settings)

    ready = bool(weights) or (":" in name and request.checkpoint is None)
    if ready:
        with from_hub(name.removeprefix("local-dir:"), "open_clip"):
            # Else a directory without weights would give a network drawn at random.
            model = create(pretrained=weights or None, require_pretrained=True)
    else:
        model = create(load_weights=False)
    state = request.checkpoint.state if request.checkpoint else {}
    whole = bool(state) and "head.weight" not in state
    if whole and request.checkpoint is not None:
        load_state(model, request.checkpoint, request.architecture)
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    if not isinstance(size, int):
        if size[0] != size[1]:
            raise SettingError(
                f"{request.architecture} takes {size[0]} x {size[1]} pixels, but only square "
                "inputs are prepared; choose another model"
            )
        size = size[0]
    return Built(
        ImageTower(model.visual),
        ImagePreprocessing(
            image_size=size,
            mean=config["mean"],
            std=config["std"],
            fit=FIT[config["resize_mode"]],  # pyright: ignore[reportArgumentType]
            interpolation=config["interpolation"],
        ),
        trained=ready or whole,
        loaded=whole,
        encoder=True,
        facts={"weights": weights or None, "pooling": "the model's projected image embedding"},
        # A state dict of a tower that was trained with a head has no encoder of texts.
        texts=(lambda: _text_side(open_clip, model, name)) if ready or whole else None,
    )


def _text_side(open_clip: Any, model: Any, name: str) -> TextSide:
    """Return the text side of a model, with open_clip's own tokenizer for it.

    Raises:
        CheckpointError: If the tokenizer cannot be fetched.
        MissingExtraError: If it is one of transformers, which is not installed.
    """
    with from_hub(name.removeprefix("local-dir:"), "open_clip"):
        tokenizer = open_clip.get_tokenizer(name)
    model = model.float().eval().requires_grad_(False)
    # Tokenizers of transformers are wrapped, and add special tokens themselves.
    inner = getattr(tokenizer, "tokenizer", None)
    return TextSide(
        encode=model.encode_text,
        tokenise=tokenizer,
        count=lambda text: (
            len(tokenizer.encode(text)) + 2 if inner is None else len(inner(text)["input_ids"])
        ),
        most=tokenizer.context_length,
        temperature=temperature_of(model),
    )


def write_open_clip(merge: Merge, folder: Path) -> Written:
    """Write open_clip's configuration and the image tower with a linear layer after it.

    The tower ends in the shared space of images and texts, so that open_clip itself has no place
    for classes. The state dict is what `--checkpoint` takes.
    """
    open_clip = require("open_clip", "open_clip")
    trunk = merge.backbone.trunk
    tower = trunk.trunk if isinstance(trunk, Classifier) else trunk
    network = Classifier(tower, merge.weight.shape[1], len(merge.classes))
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor(merge.weight))
        network.head.bias.copy_(torch.tensor(merge.bias))
    save_state(network, folder)
    config = {"model_cfg": open_clip.get_model_config(merge.name)}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return Written(
        "of_open_clip",
        "open_clip.create_model('local-dir:DIR', load_weights=False).visual and a linear layer, "
        "with model.safetensors",
    )
