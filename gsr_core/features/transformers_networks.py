"""Image and text models of Hugging Face transformers, from a local directory or the hub.

A model that was saved with a classifier keeps it. The features of a bare encoder are pooled: `mean`
over the tokens (or places of the image), `cls` for the first token, `last` for the last one,
`pooler` for the model's own pooled output, `projection` for the shared space of CLIP.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gsr_core.errors import SettingError
from gsr_core.extras import require
from gsr_core.features.heads import CutTrunk, find_head, uncut
from gsr_core.features.hub import from_hub, weight_files
from gsr_core.features.kinds import (
    Built,
    Classifier,
    Request,
    Siamese,
    first_line,
    preprocessing_from_options,
)
from gsr_core.features.merging import Merge, Written, save_beside, save_tokenizer
from gsr_core.features.preprocessing import (
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
    load_tokenizer,
)
from gsr_core.features.text_sides import TextSide, temperature_of

__all__ = ["Pooled", "load_transformers", "write_transformers"]

POOLINGS = ("mean", "cls", "last", "pooler", "projection")
CLASSIFIERS = ("ForImageClassification", "ForSequenceClassification")
HEAD_KEYS = re.compile(r"(^|\.)(classifier|score|classification_head|pre_classifier)\.")
INTERPOLATION = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's numbers, which the configuration files have."""


class Logits(nn.Module):
    """A classifier of transformers, from a prepared batch to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return logits (n, K)."""
        return self.model(**_by_name(batch)).logits


class Pooled(nn.Module):
    """An encoder of transformers, from a prepared batch to one row of features each."""

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, batch: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return features (n, d)."""
        arguments = _by_name(batch)
        if self.pooling == "projection":
            model: Any = self.model
            project = (
                model.get_image_features if isinstance(batch, Tensor) else model.get_text_features
            )
            output = project(**arguments)
            return output if isinstance(output, Tensor) else output.pooler_output
        output = self.model(**arguments)
        if self.pooling == "pooler":
            return output.pooler_output.flatten(1)
        hidden: Tensor = output.last_hidden_state
        if hidden.ndim == 4:  # Convolutional networks: (n, d, height, width).
            return hidden.mean(dim=(2, 3))
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = arguments.get("attention_mask", torch.ones_like(hidden[:, :, 0]))
        if self.pooling == "last":
            places = torch.arange(hidden.shape[1], device=hidden.device)
            return hidden[torch.arange(len(hidden)), (mask * places).argmax(1)]
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


def load_transformers(request: Request) -> Built:
    """Return a classifier or encoder of transformers.

    Raises:
        SettingError: If an option is not allowed, or the model is of neither kind.
        CheckpointError: If the model cannot be fetched.
        MissingExtraError: If transformers is not installed.
    """
    transformers = require("transformers", "huggingface")
    request.without_weights()
    request.without_arguments()
    name = request.name
    if (local := Path(name).expanduser()).is_dir():
        name = str(local)
    pooling = request.options.pop("pooling", None)
    if pooling is not None and pooling not in POOLINGS:
        raise SettingError(f"pooling is {pooling!r}; allowed are {', '.join(POOLINGS)}")
    remote = {"trust_remote_code": request.trust}
    with from_hub(name, "huggingface"):
        config = transformers.AutoConfig.from_pretrained(name, **remote)
        modality = request.options.pop("modality", None) or _modality(transformers, config)
        state = request.checkpoint.state if request.checkpoint else {}
        saved = any(each.endswith(CLASSIFIERS) for each in config.architectures or [])
        has_head = saved or request.n_classes is not None or any(map(HEAD_KEYS.search, state))
        classifier = has_head and pooling is None and "trunk." not in "".join(list(state)[:1])
        if classifier and not saved:
            # The head of a checkpoint is resized when it is loaded.
            config.num_labels = request.n_classes or 2
        auto = transformers.AutoModel
        if classifier:
            auto = (
                transformers.AutoModelForImageClassification
                if modality == "image"
                else transformers.AutoModelForSequenceClassification
            )
        if request.checkpoint is not None:
            model = auto.from_config(config, **remote)
        else:
            model = auto.from_pretrained(name, config=config, **remote)
        preprocessing = (
            _image_preprocessing(transformers, request, name, remote)
            if modality == "image"
            else _text_preprocessing(request, name, config)
        )
    if modality == "text" and getattr(config, "pad_token_id", 0) is None:
        model.config.pad_token_id = load_tokenizer(name, request.trust).pad_token_id
    facts: dict[str, str | int | float | None] = {}
    if not classifier:
        pooling = pooling or _usual_pooling(model, config, modality)
        module: nn.Module = Pooled(model, pooling)
        module = Siamese(module) if modality == "text" else module
        facts["pooling"] = pooling
    elif isinstance(score := getattr(model, "score", None), nn.Linear):
        # Language models classify every token and then pick the last one; the other way round
        # there is one row of features each.
        module = Classifier(Pooled(model.base_model, "last"), score.in_features, score.out_features)
        with torch.no_grad():
            module.head.weight.copy_(score.weight)
            module.head.bias.zero_()
        facts["pooling"] = "last"
    else:
        module = Logits(model)
    return Built(
        module,
        preprocessing,
        trained=request.checkpoint is None,
        encoder=not classifier,
        files=weight_files(name) if request.checkpoint is None else [],
        facts=facts,
        new_head=classifier and not saved,
        texts=(lambda: _text_side(model, config, name, request.trust))
        if modality == "image" and pooling == "projection"
        else None,
    )


def _text_side(model: Any, config: Any, name: str, trust: bool) -> TextSide:
    """Return the text side of a CLIP or SigLIP model.

    Raises:
        SettingError: If its directory has no tokenizer.
    """
    tokenizer = load_tokenizer(name, trust)
    most = min(int(tokenizer.model_max_length), config.text_config.max_position_embeddings)
    # SigLIP was trained on padded texts alone, and pools the last place.
    padding = "max_length" if config.model_type.startswith("siglip") else True
    model = model.float().eval().requires_grad_(False)
    return TextSide(
        encode=Pooled(model, "projection"),
        tokenise=lambda texts: dict(
            tokenizer(texts, padding=padding, truncation=True, max_length=most, return_tensors="pt")
        ),
        count=lambda text: len(tokenizer(text, verbose=False)["input_ids"]),
        most=most,
        temperature=temperature_of(model),
    )


def _by_name(batch: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"pixel_values": batch} if isinstance(batch, Tensor) else dict(batch)


def _modality(transformers: Any, config: Any) -> str:
    auto = transformers.models.auto.modeling_auto
    images = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    looks = any(each.endswith(CLASSIFIERS[0]) for each in config.architectures or [])
    return "image" if looks or config.model_type in images or _is_clip(config) else "text"


def _is_clip(config: Any) -> bool:
    return hasattr(config, "vision_config") and hasattr(config, "text_config")


def _usual_pooling(model: Any, config: Any, modality: str) -> str:
    if _is_clip(config) and hasattr(model, "get_image_features"):
        return "projection"
    if modality == "image" and getattr(config, "patch_size", None) is not None:
        return "cls" if any("cls_token" in name for name, _ in model.named_parameters()) else "mean"
    return "mean"


def _text_preprocessing(request: Request, name: str, config: Any) -> TextPreprocessing:
    directory = str(request.options.pop("tokenizer", name))
    tokenizer = load_tokenizer(directory, request.trust)
    text = getattr(config, "text_config", config)
    positions = getattr(text, "max_position_embeddings", None) or 512
    if "roberta" in text.model_type or text.model_type in ("camembert", "mpnet", "longformer"):
        # Their positions begin after that of the padding.
        positions -= 2
    return TextPreprocessing(
        tokenizer=directory,
        max_length=min(int(tokenizer.model_max_length), positions),
        trust=request.trust,
    )


def _image_preprocessing(
    transformers: Any, request: Request, name: str, remote: Mapping[str, Any]
) -> Preprocessing:
    """Return what the model's image processor does.

    Raises:
        SettingError: If it does something other than resize, crop and normalise to a square.
    """
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **remote)
    except (OSError, ValueError, ImportError) as error:
        if {"image_size", "mean", "std"} <= set(request.options):
            return preprocessing_from_options(request)
        raise SettingError(
            f"{request.architecture} has no image processor ({first_line(error)}); put its "
            "preprocessor_config.json into the directory, or set image_size, mean and std"
        ) from error
    size = {k: v for k, v in dict(processor.size or {}).items() if v is not None}
    crop = {k: v for k, v in dict(getattr(processor, "crop_size", None) or {}).items() if v}
    cropped = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    fit: Literal["shortest", "both", "longest"] = "both"
    resize = size.get("height")
    if "shortest_edge" in size:
        fit, resize = "shortest", size["shortest_edge"]
    elif "longest_edge" in size:
        fit, resize = "longest", size["longest_edge"]
    square = crop if cropped else size
    image_size = square.get("height", resize)
    fraction = getattr(processor, "crop_pct", None)
    if fraction and fit == "shortest" and not cropped and (image_size or 0) < 384:
        # ConvNeXT: small inputs are the centre of a larger image, others are squashed.
        resize = int((image_size or 0) / fraction)
    elif fraction and fit == "shortest" and not cropped:
        fit = "both"
    if image_size is None or square.get("height") != square.get("width"):
        raise SettingError(
            f"{request.architecture} makes inputs of {square}, but only squares are prepared; set "
            "image_size, resize and fit"
        )
    # A factor other than 1/255 is the same as another mean and std.
    scale = 255 * (processor.rescale_factor if processor.do_rescale else 1.0)
    normalised = bool(processor.do_normalize)
    mean = processor.image_mean if normalised else (0.0, 0.0, 0.0)
    std = processor.image_std if normalised else (1.0, 1.0, 1.0)
    resample = processor.resample
    return ImagePreprocessing(
        image_size=image_size,
        resize=resize if getattr(processor, "do_resize", True) else image_size,
        mean=_scale(mean, scale),
        std=_scale(std, scale),
        fit=fit,
        interpolation=INTERPOLATION[2 if resample is None else int(resample)],  # pyright: ignore[reportArgumentType]
    )


def _scale(values: Sequence[float], scale: float) -> tuple[float, float, float]:
    red, green, blue = (value / scale for value in values)
    return red, green, blue


def write_transformers(merge: Merge, folder: Path) -> Written:
    """Write a directory that `from_pretrained` takes: model, class names and what prepares inputs.

    The features of an encoder are often what its classifier of transformers begins with, and then
    it becomes that one. Else (pooled otherwise, compared pairs, or a classifier without a bias) the
    encoder is written, and the head beside it.

    Raises:
        SettingError: If the features are not those before its head.
    """
    transformers = require("transformers", "huggingface")
    backbone, trust = merge.backbone, merge.trust
    remote = {"trust_remote_code": trust}
    pooled = next((each for each in backbone.trunk.modules() if isinstance(each, Pooled)), None)
    network = merge.network() if pooled is None else _as_classifier(transformers, merge, pooled)
    if network is not None:
        assert isinstance(network, Logits)
        model: Any = network.model
        config = model.config
        config.num_labels = model.num_labels = len(merge.classes)
        config.id2label = dict(enumerate(merge.classes))
        config.label2id = {name: number for number, name in enumerate(merge.classes)}
        config.problem_type = "single_label_classification"
        auto = "ImageClassification" if backbone.modality == "image" else "SequenceClassification"
        written = Written(
            "of_transformers",
            f"AutoModelFor{auto}.from_pretrained('DIR')",
            about={"trust": trust, "tokenizer": "."},
        )
    else:
        assert pooled is not None
        model = pooled.model
        save_beside(merge, folder)
        written = Written(
            "of_transformers_encoder",
            f"AutoModel.from_pretrained('DIR') with head.safetensors on its output "
            f"({pooled.pooling})",
            about={"trust": trust, "tokenizer": ".", "pooling": pooled.pooling},
        )
    # Where it was read from is a path of this machine.
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    save_tokenizer(merge, folder)
    if isinstance(backbone.preprocessing, ImagePreprocessing):
        _save_processor(transformers, merge, backbone.preprocessing, remote, folder)
    return written


def _as_classifier(transformers: Any, merge: Merge, pooled: Pooled) -> Logits | None:
    """Return transformers' classifier of an encoder with the head; None if it takes others."""
    backbone = merge.backbone
    image = backbone.modality == "image"
    auto = (
        transformers.AutoModelForImageClassification
        if image
        else transformers.AutoModelForSequenceClassification
    )
    encoder: Any = pooled.model
    preprocessing = backbone.preprocessing
    batch = preprocessing.collate([preprocessing.prepare(preprocessing.example())] * 2)
    config = copy.deepcopy(encoder.config)
    config.num_labels = len(merge.classes)
    try:
        model = auto.from_config(config, trust_remote_code=merge.trust).float().eval()
        body = getattr(model, model.base_model_prefix)
        if body.load_state_dict(encoder.state_dict(), strict=False).missing_keys:
            return None
        network = Logits(model)
        seat = find_head(network, batch, merge.architecture)
        if network.get_submodule(seat.name).bias is None or not seat.logits:
            return None
        with torch.inference_mode():
            own, expected = CutTrunk(network, seat.name)(batch), backbone.trunk(batch)
    except (ValueError, AttributeError, RuntimeError, TypeError):
        # It has no classifier, or one that takes something else.
        return None
    if own.shape != expected.shape or not torch.allclose(own, expected, rtol=1e-4, atol=1e-5):
        return None
    return uncut(network, seat, merge.weight, merge.bias)  # pyright: ignore[reportReturnType]


def _save_processor(
    transformers: Any,
    merge: Merge,
    preprocessing: ImagePreprocessing,
    remote: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write the model's image processor; one with other settings where these differ from its own.

    transformers prepares no image by its longest side with black beside it; then none is written.
    """
    name = str(Path(merge.name).expanduser())
    request = Request(merge.architecture, name, None, None, "", None, "", merge.trust, {}, {})
    try:
        own = _image_preprocessing(transformers, request, name, remote)
    except SettingError:
        own = None
    if own == preprocessing:
        transformers.AutoImageProcessor.from_pretrained(name, **remote).save_pretrained(folder)
    elif preprocessing.fit != "longest":
        size, side = preprocessing.image_size, preprocessing.resize or preprocessing.image_size
        whole = {"height": side, "width": side}
        transformers.CLIPImageProcessor(
            size={"shortest_edge": side} if preprocessing.fit == "shortest" else whole,
            crop_size={"height": size, "width": size},
            image_mean=list(preprocessing.mean),
            image_std=list(preprocessing.std),
            resample=INTERPOLATION.index(preprocessing.interpolation),
        ).save_pretrained(folder)
