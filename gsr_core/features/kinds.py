"""The interface of all kinds of network: a request for one, what it gives, and their table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gsr_core.errors import CheckpointError, GsrError, SettingError
from gsr_core.features.checkpoints import Checkpoint
from gsr_core.features.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PAIR,
    ImagePreprocessing,
    NumbersPreprocessing,
    Preprocessing,
    TextPreprocessing,
)
from gsr_core.features.text_sides import TextSide

if TYPE_CHECKING:
    from gsr_core.features.merging import Merge, Written

__all__ = [
    "KINDS",
    "Built",
    "Classifier",
    "Kind",
    "Request",
    "Siamese",
    "digest_of",
    "downloading",
    "first_line",
    "preprocessing_from_options",
    "weights_digest",
]


@dataclass
class Request:
    """A caller's request for a network.

    Attributes:
        architecture: The whole name, such as `timm:resnet18`.
        name: What follows the colon.
        file: The checkpoint's path, as given.
        checkpoint: Its contents, where a kind takes a state dict.
        weights: Name of published weights to download, or "".
        n_classes: Classes of the head to train, or None.
        layer: Name of the layer that is the head, or "".
        trust: Run code that comes with the files.
        arguments: For the factory that makes the network.
        options: Overrides; a kind takes out those that it understands itself.
    """

    architecture: str
    name: str
    file: Path | None
    checkpoint: Checkpoint | None
    weights: str
    n_classes: int | None
    layer: str
    trust: bool
    arguments: dict[str, Any]
    options: dict[str, Any]

    def without_weights(self) -> None:
        """Refuse the name of published weights, where there are none.

        Raises:
            SettingError: If one was given.
        """
        if self.weights:
            raise SettingError(
                f"weights='{self.weights}' means nothing for {self.architecture}; leave it out"
                + ("" if self.file else " and give a checkpoint")
            )

    def without_arguments(self) -> None:
        """Refuse arguments for a factory, where there is none.

        Raises:
            SettingError: If some were given.
        """
        if self.arguments:
            raise SettingError(
                f"{self.architecture} takes no arguments, but {', '.join(self.arguments)} were "
                "given; leave them out"
            )


@dataclass
class Built:
    """What a kind gives: a network, maybe with weights, maybe with a head.

    Attributes:
        module: Maps a prepared batch to its output.
        preprocessing: The model's own.
        trained: It holds trained weights already, before any checkpoint.
        encoder: Its output are features; it has no head to take off.
        head: weight (K, d) and bias (K,) of a head that the module no longer contains.
        files: What its weights were read from.
        facts: More to store about it.
        frozen: Why it cannot be trained, or "".
        loaded: The checkpoint is in it already.
        new_head: Of what it holds, the head is not trained.
        texts: Opens the encoder of texts that belongs to an encoder of images; None if it has none.
    """

    module: nn.Module
    preprocessing: Preprocessing
    trained: bool = False
    encoder: bool = False
    head: tuple[np.ndarray, np.ndarray] | None = None
    files: list[Path] = field(default_factory=list)
    facts: dict[str, str | int | float | None] = field(default_factory=dict)
    frozen: str = ""
    loaded: bool = False
    new_head: bool = False
    texts: Callable[[], TextSide] | None = None


class Classifier(nn.Module):
    """An encoder with a linear head put on it."""

    def __init__(self, trunk: nn.Module, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, batch: Any) -> Tensor:
        """Return logits (n, K)."""
        return self.head(self.trunk(batch))


class Siamese(nn.Module):
    """An encoder of texts that also compares pairs: (u, v, |u - v|)."""

    def __init__(self, encode: nn.Module) -> None:
        super().__init__()
        self.encode = encode

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return features (n, d) of texts, (n, 3 d) of pairs that are to be compared."""
        first = {name: value for name, value in batch.items() if not name.startswith(PAIR)}
        second = {n.removeprefix(PAIR): v for n, v in batch.items() if n.startswith(PAIR)}
        u = self.encode(first)
        if not second:
            return u
        v = self.encode(second)
        return torch.cat([u, v, (u - v).abs()], dim=1)


def preprocessing_from_options(request: Request, own: Preprocessing | None = None) -> Preprocessing:
    """Return the preprocessing of a network that does not say its own, from the overrides.

    Args:
        request: Its options may have `modality`, `tokenizer`, `max_length` and `n_inputs`.
        own: The network's own preprocessing, if it has one.

    Raises:
        SettingError: If the modality is unknown, or something that it needs is missing.
    """
    options = request.options
    modality = options.pop("modality", own.modality if own else "image")
    if own is not None and own.modality == modality:
        return own
    if modality == "image":
        # The usual evaluation of networks trained on ImageNet.
        return ImagePreprocessing(image_size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    needed = {"text": "tokenizer", "numbers": "n_inputs"}.get(str(modality))
    if needed is None:
        raise SettingError(f"modality is {modality!r}; allowed are image, text, numbers")
    if needed not in options:
        raise SettingError(f"{request.architecture} takes {modality}; set {needed} as well")
    if modality == "text":
        return TextPreprocessing(tokenizer=str(options["tokenizer"]), max_length=128)
    return NumbersPreprocessing(n_inputs=1)


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Turn an error while something is fetched into one sentence.

    Args:
        what: What is fetched.
        instead: How to do without.

    Raises:
        CheckpointError: If anything goes wrong.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, GsrError):
            raise
        raise CheckpointError(
            f"{what} cannot be fetched ({first_line(error)}); without a connection {instead}"
        ) from error


def first_line(error: BaseException) -> str:
    """Return what an error says, shortened; its kind, if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def digest_of(files: list[Path], sha256: Callable[[Path], str]) -> str:
    """Return one digest of several files: a single one's own, else that of all digests."""
    digests = [sha256(file) for file in sorted(files)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def weights_digest(network: nn.Module) -> str:
    """Return a digest of the weights themselves, where no file has them."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class Kind:
    """One kind of network.

    Attributes:
        loads: Module and function that load it.
        writes: Function of that module that writes it with another head, in its library's form.
        example: A name, or what stands for one.
        state: It takes a state dict; otherwise the file is the network.
    """

    loads: str
    writes: str
    example: str
    state: bool = True

    @property
    def load(self) -> Callable[[Request], Built]:
        """The function that loads it; its module is imported only now."""
        module, _, name = self.loads.partition(":")
        return getattr(import_module(f"gsr_core.features.{module}"), name)

    @property
    def write(self) -> Callable[[Merge, Path], Written]:
        """The function that writes it with another head to a folder; imported only now."""
        module, _, _ = self.loads.partition(":")
        return getattr(import_module(f"gsr_core.features.{module}"), self.writes)


KINDS = {
    "simconv1": Kind("simconv:load_simconv", "write_simconv", ""),
    "torchvision": Kind("torchvision_networks:load_torchvision", "write_torchvision", "resnet50"),
    "timm": Kind("timm_networks:load_timm", "write_timm", "vit_small_patch16_224"),
    "hf": Kind("transformers_networks:load_transformers", "write_transformers", "DIRECTORY"),
    "sentence": Kind("sentence_networks:load_sentence", "write_sentence", "DIRECTORY"),
    "open_clip": Kind("open_clip_networks:load_open_clip", "write_open_clip", "ViT-B-32"),
    "torchscript": Kind("programs:load_torchscript", "write_torchscript", "FILE", state=False),
    "export": Kind("programs:load_export", "write_export", "FILE", state=False),
    "onnx": Kind("onnx_networks:load_onnx", "write_onnx", "FILE", state=False),
    "pickle": Kind("own:load_pickled", "write_pickled", "FILE", state=False),
    "own": Kind("own:load_own", "write_own", "package.module:factory"),
}
"""By what stands before the colon of a name."""
