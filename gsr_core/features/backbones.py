"""Trained networks, cut into a trunk that gives features and the linear head behind it.

The name of a network has its kind and the kind's own name for it:

| name | network | extra |
|---|---|---|
| `simconv1` | a small network for small images | |
| `torchvision:NAME` | any classification model of torchvision | |
| `timm:NAME` | any model of timm | timm |
| `hf:NAME` | image or text model of the Hugging Face hub, or a local directory | huggingface |
| `sentence:NAME` | sentence-transformers model, or a local directory | sentence |
| `open_clip:NAME` | image tower of an open_clip model | open_clip |
| `torchscript:FILE` | TorchScript program | |
| `export:FILE` | program of `torch.export.save` | |
| `onnx:FILE` | ONNX graph, through onnxruntime | onnx |
| `pickle:FILE` | whole network as `torch.save(network, file)` wrote it | |
| `own:package.module:factory` | the network that your own function returns | |

Weights are a checkpoint (a state dict, see `checkpoints`), published ones by name, or come with
the directory or program. Nothing that would run code of its own is loaded without `trust`.

The module is long because both loaders, for training and for features, document every argument of
a network and share one path.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gsr_core.data.inputs import Modality
from gsr_core.errors import CheckpointError, SettingError
from gsr_core.features.checkpoints import (
    Checkpoint,
    load_state,
    read_checkpoint,
    save_checkpoint,
)
from gsr_core.features.heads import (
    OUTPUT,
    Seat,
    cut,
    find_head,
    first_tensor,
    head_arrays,
    new_head,
)
from gsr_core.features.kinds import (
    KINDS,
    Built,
    Classifier,
    Request,
    digest_of,
    first_line,
    weights_digest,
)
from gsr_core.features.preprocessing import (
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
    check_overrides,
    load_tokenizer,
    override,
)
from gsr_core.features.simconv import SIMCONV_PREPROCESSING, SimConv1
from gsr_core.features.text_sides import TextSide
from gsr_core.features.torchvision_networks import (
    build_torchvision,
    published_preprocessing,
    torchvision_models,
)
from gsr_core.files import sha256

__all__ = [
    "OUTPUT",
    "Backbone",
    "Network",
    "Preprocessing",
    "SimConv1",
    "build",
    "default_preprocessing",
    "load_backbone",
    "load_network",
    "load_text_side",
    "save_checkpoint",
]

Facts = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Backbone:
    """A trained network with its head taken off.

    Attributes:
        trunk: Maps a prepared batch to features (n, d); in eval mode, without gradients.
        head: weight (K, d) and bias (K,) of the network's own head, float32; None if it has
            none that fits.
        preprocessing: How a sample becomes the trunk's input.
        facts: What a bundle stores about the network: `architecture`, `checkpoint` (file name),
            `sha256` (of that file, or of the weights if no file has them), `weights` (name of
            published ones), `n_parameters` (head included), `n_features`, `layer` (the head's
            name), `head` (kept, or why not), `training` (a description, None if the
            checkpoint has none), and what a kind adds.
        seat: How the head sat in the network; None if the trunk is a whole encoder, or a program
            that was cut by its own means.
    """

    trunk: nn.Module
    head: tuple[np.ndarray, np.ndarray] | None
    preprocessing: Preprocessing
    facts: Facts
    seat: Seat | None = None

    @property
    def modality(self) -> Modality:
        """What the network takes: `image`, `text` or `numbers`."""
        return self.preprocessing.modality

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return int(self.facts["n_features"] or 0)


@dataclass(frozen=True)
class Network:
    """A network with a head, to be trained or cut.

    Attributes:
        module: Maps a prepared batch to logits (n, K).
        head_name: Dotted name of the head within it.
        preprocessing: How a sample becomes its input.
        facts: As a backbone's.
        seat: How the head sits in the network.
    """

    module: nn.Module
    head_name: str
    preprocessing: Preprocessing
    facts: Facts
    seat: Seat

    @property
    def modality(self) -> Modality:
        """What the network takes: `image`, `text` or `numbers`."""
        return self.preprocessing.modality

    def backbone(self) -> Backbone:
        """Return a copy of the network as it is now, cut in two."""
        module = copy.deepcopy(self.module).cpu()
        head = head_arrays(module.get_submodule(self.head_name)) if self.seat.logits else None
        return _backbone(cut(module, self.seat), head, self.preprocessing, self.facts, self.seat)


@dataclass
class _Parts:
    """A network and the facts about it, before it is cut."""

    module: nn.Module
    built: Built
    preprocessing: Preprocessing
    seat: Seat | None
    has_head: bool
    facts: Facts


def load_network(
    name: str,
    checkpoint: Path | None = None,
    *,
    weights: str = "",
    n_classes: int | None = None,
    layer: str = "",
    trust: bool = False,
    arguments: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Network:
    """Load or make a whole network, to be trained.

    A new head is initialised from torch's global random state, which is left as it was.

    Args:
        name: Kind and name, see the module's table.
        checkpoint: A state dict to start from.
        weights: Name of published weights to start from; without these and a checkpoint the
            network is untrained.
        n_classes: Number of classes K; the network gets a new head unless its own has as many.
        layer: Dotted name of the linear layer that is the head; found automatically if "".
        trust: Run code that comes with the files.
        arguments: Of one's own factory, or of timm's.
        overrides: Of the preprocessing.

    Raises:
        SettingError: If the name or an option is not allowed.
        CheckpointError: If a file cannot be read or does not fit.
        TrustError: If something would run code of its own, and `trust` is false.
        MissingExtraError: If a library is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        parts = _load(
            name, checkpoint, weights, n_classes, layer, trust, arguments or {}, overrides or {}
        )
        module, seat = parts.module, parts.seat
        if parts.built.frozen:
            raise SettingError(f"{name} cannot be trained: {parts.built.frozen}")
        if seat is None:
            if n_classes is None:
                raise SettingError(f"{name} has no head; give the number of classes for a new one")
            n_features = int(parts.facts["n_features"] or 0)
            module = Classifier(module, n_features, n_classes)
            seat = Seat("head", n_features, last=True, flat=True, logits=True)
            parts.has_head = False
        elif n_classes is not None and _n_classes(module, seat) != n_classes:
            new_head(module, seat, n_classes)
            parts.has_head = False
    facts = parts.facts | {
        "layer": seat.name,
        "head": "its own" if parts.has_head else "new",
        "n_parameters": sum(parameter.numel() for parameter in module.parameters()),
    }
    return Network(module, seat.name, parts.preprocessing, facts, seat)


def load_backbone(
    name: str,
    checkpoint: Path | None = None,
    *,
    weights: str = "",
    n_classes: int | None = None,
    layer: str = "",
    trust: bool = False,
    arguments: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Backbone:
    """Load a trained network and take its head off.

    Args:
        name: Kind and name, see the module's table.
        checkpoint: A state dict; it may lack the head, but nothing else.
        weights: Name of published weights, where there is no checkpoint.
        n_classes: Number of classes K of the data; a head for another number is left out, and
            the fact `head` says so. None keeps any.
        layer: Dotted name of the linear layer whose input are the features, or `output` for
            what the network gives; found automatically if "".
        trust: Run code that comes with the files.
        arguments: Of one's own factory, or of timm's.
        overrides: Of the preprocessing.

    Raises:
        SettingError: If the name or an option is not allowed.
        CheckpointError: If a file cannot be read or does not fit, or there are no weights.
        TrustError: If something would run code of its own, and `trust` is false.
        MissingExtraError: If a library is not installed.

    Example:
        >>> from gsr_core.features.checkpoints import save_checkpoint
        >>> network = load_network("simconv1", n_classes=2)
        >>> save_checkpoint(network.module, Path("net.safetensors"))
        >>> backbone = gsr.load_backbone("simconv1", Path("net.safetensors"))
        >>> backbone.n_features, backbone.modality, backbone.facts["head"]
        (64, 'image', 'its own')
    """
    with torch.random.fork_rng(devices=[]):
        parts = _load(
            name, checkpoint, weights, None, layer, trust, arguments or {}, overrides or {}
        )
    module, seat, head = parts.module, parts.seat, parts.built.head
    if checkpoint is None and not parts.built.trained:
        raise CheckpointError(
            f"{name} comes without trained weights; give a checkpoint"
            + (", weights='DEFAULT'" if name.startswith(("torchvision:", "timm:")) else "")
            + " or a training (--train quick)"
        )
    note = "its own" if head is not None else "none"
    n_parameters = int(parts.facts["n_parameters"] or 0)
    if seat is not None:
        last = module.get_submodule(seat.name)
        if not parts.has_head:
            note = "none in the checkpoint"
            n_parameters -= sum(parameter.numel() for parameter in last.parameters())
        elif not seat.logits:
            note = f"left out: the network does not end in '{seat.name}'"
        else:
            head, note = head_arrays(last), "its own"
        module = cut(module, seat)
    if head is not None and n_classes is not None and len(head[0]) != n_classes:
        note = f"left out: it is for {len(head[0])} classes, and the data has {n_classes}"
        head = None
    facts = parts.facts | {"head": note, "n_parameters": n_parameters}
    return _backbone(module, head, parts.preprocessing, facts, seat)


def load_text_side(
    name: str,
    checkpoint: Path | None = None,
    *,
    weights: str = "",
    layer: str = "",
    trust: bool = False,
    arguments: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TextSide:
    """Load what turns phrases into the space of the features that `load_backbone` gives.

    Args:
        name: Kind and name, see the module's table.
        checkpoint: As of `load_backbone`, and so are all others.
        weights: Name of published weights.
        layer: Dotted name of the linear layer whose input are the features.
        trust: Run code that comes with the files.
        arguments: Of one's own factory, or of timm's.
        overrides: Of the preprocessing.

    Raises:
        SettingError: If the network takes no texts, or compares pairs of them.
        CheckpointError: If a file cannot be read or does not fit.
        TrustError: If something would run code of its own, and `trust` is false.
        MissingExtraError: If a library is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        parts = _load(
            name, checkpoint, weights, None, layer, trust, arguments or {}, overrides or {}
        )
        prepares = parts.preprocessing
        if parts.built.texts is not None:
            side = parts.built.texts()
        elif isinstance(prepares, TextPreprocessing) and prepares.pairs == "joint":
            side = _text_side(parts, prepares)
        else:
            raise SettingError(
                f"{name} has no text side here: "
                + (
                    "it compares pairs of texts"
                    if isinstance(prepares, TextPreprocessing)
                    else f"what was loaded takes {prepares.modality}s alone"
                )
                + "; phrases need a network of images and texts (open_clip:NAME, or hf:NAME of a "
                "CLIP or SigLIP) or of single texts (sentence:NAME)"
            )
    return replace(side, facts=parts.facts)


def _text_side(parts: _Parts, prepares: TextPreprocessing) -> TextSide:
    """Return a network of texts without its head as its own text side."""
    trunk = parts.module if parts.seat is None else cut(parts.module, parts.seat)
    tokenizer = load_tokenizer(prepares.tokenizer, prepares.trust)
    return TextSide(
        encode=trunk.float().eval().requires_grad_(False),
        tokenise=lambda texts: prepares.collate([prepares.prepare(each) for each in texts]),
        count=lambda text: len(tokenizer(prepares.prompt + text, verbose=False)["input_ids"]),
        most=prepares.max_length,
    )


def default_preprocessing(architecture: str, weights: str = "") -> ImagePreprocessing:
    """Return the preprocessing that networks of an architecture are usually trained with.

    Args:
        architecture: `simconv1` or `torchvision:NAME`.
        weights: Name of published weights, whose own preprocessing is returned; "" for the usual.

    Raises:
        SettingError: If the architecture is unknown.
    """
    kind, name = _split(architecture)
    if kind == "simconv1":
        return SIMCONV_PREPROCESSING
    if kind == "torchvision":
        return published_preprocessing(name, weights)
    raise SettingError(f"{architecture} says its own preprocessing; load it")


def build(architecture: str, n_classes: int) -> nn.Module:
    """Return a new network, initialised from torch's global random state.

    Args:
        architecture: `simconv1` or `torchvision:NAME`.
        n_classes: Number of classes K.

    Raises:
        SettingError: If the architecture is unknown.
    """
    kind, name = _split(architecture)
    if kind == "simconv1":
        return SimConv1(n_classes)
    if kind == "torchvision":
        return build_torchvision(name, n_classes)
    raise SettingError(f"{architecture} is made by load_network")


def _split(architecture: str) -> tuple[str, str]:
    """Return the kind and what follows the colon.

    Raises:
        SettingError: If there is no such kind, or nothing follows.
    """
    kind, _, name = architecture.partition(":")
    if kind not in KINDS or (KINDS[kind].example == "") != (":" not in architecture):
        allowed = [
            f"{key}:{value.example}" if value.example else key for key, value in KINDS.items()
        ]
        raise SettingError(
            f"architecture '{architecture}' is unknown{_meant(architecture)}; allowed are "
            f"{', '.join(allowed)}"
        )
    return kind, name


def _meant(architecture: str) -> str:
    """Return which name was probably meant, as `settings.suggestion` does.

    A name without its kind is most often one of torchvision's.
    """
    kind, colon, name = architecture.partition(":")
    if colon:
        near = difflib.get_close_matches(kind, list(KINDS), n=1)
        whole = near and (f"{near[0]}:{name}" if KINDS[near[0]].example else near[0])
        return f" (did you mean '{whole}'?)" if whole else ""
    known = {key: key for key in KINDS} | {
        each: f"torchvision:{each}" for each in torchvision_models()
    }
    near = difflib.get_close_matches(kind, list(known), n=1)
    return f" (did you mean '{known[near[0]]}'?)" if near else ""


def _load(
    architecture: str,
    file: Path | None,
    weights: str,
    n_classes: int | None,
    layer: str,
    trust: bool,
    arguments: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> _Parts:
    name_of_kind, name = _split(architecture)
    kind = KINDS[name_of_kind]
    if not name and kind.example and (kind.state or file is None):
        raise SettingError(f"'{architecture}' lacks a name, as in {name_of_kind}:{kind.example}")
    if file is not None and weights:
        raise SettingError("both a checkpoint and weights were given; leave one of them out")
    check_overrides(overrides)
    checkpoint: Checkpoint | None = None
    if file is not None and kind.state:
        checkpoint = read_checkpoint(file, trust=trust)
    request = Request(
        architecture,
        name,
        file,
        checkpoint,
        weights,
        n_classes,
        layer,
        trust,
        dict(arguments),
        dict(overrides),
    )
    built = kind.load(request)
    preprocessing = override(built.preprocessing, request.options)
    module = built.module.float().eval()
    batch = preprocessing.collate([preprocessing.prepare(preprocessing.example())] * 2)

    seat = None
    if built.encoder and checkpoint is not None and "head.weight" in checkpoint.state:
        weight = checkpoint.state["head.weight"]
        module = Classifier(module, weight.shape[1], len(weight))
        seat = Seat("head", weight.shape[1], last=True, flat=True, logits=True)
    elif not built.encoder and layer != OUTPUT:
        seat = find_head(module, batch, architecture, layer)
    has_head = built.trained and not built.new_head and seat is not None
    if checkpoint is not None and not built.loaded:
        has_head = load_state(module, checkpoint, architecture, head=seat.name if seat else "")
        has_head = has_head and seat is not None
    n_features = seat.n_features if seat is not None else _width(module, batch, architecture)

    files = [file] if checkpoint is not None and file is not None else built.files
    facts: Facts = {
        "architecture": architecture,
        "checkpoint": ", ".join(each.name for each in files) or None,
        "sha256": digest_of(files, sha256) if files else weights_digest(module),
        "weights": None,
        "n_parameters": sum(parameter.numel() for parameter in module.parameters()),
        "n_features": n_features,
        "layer": seat.name if seat else OUTPUT,
        "training": checkpoint.metadata.get("training") if checkpoint else None,
    }
    return _Parts(module, built, preprocessing, seat, has_head, facts | built.facts)


def _width(module: nn.Module, batch: Any, architecture: str) -> int:
    """Return the number of features that an encoder gives.

    Raises:
        CheckpointError: If it does not take the batch, or gives more than a row a sample.
    """
    try:
        with torch.inference_mode():
            features = first_tensor(module(batch))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{architecture} does not take its own input ({first_line(error)}); set the "
            "preprocessing that the network was trained with, such as image_size"
        ) from error
    if features.ndim != 2:
        raise CheckpointError(
            f"{architecture} gives {tuple(features.shape)} for 2 samples, but features are one "
            "row each; name the linear layer whose input to take"
        )
    return features.shape[1]


def _n_classes(module: nn.Module, seat: Seat) -> int:
    return len(head_arrays(module.get_submodule(seat.name))[0])


def _backbone(
    trunk: nn.Module,
    head: tuple[np.ndarray, np.ndarray] | None,
    preprocessing: Preprocessing,
    facts: Facts,
    seat: Seat | None,
) -> Backbone:
    trunk = trunk.float().eval().requires_grad_(False)
    return Backbone(trunk, head, preprocessing, dict(facts), seat)
