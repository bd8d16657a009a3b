"""From one sample to a network's input: what a model's own configuration says, or an override.

`prepare` runs on one sample in a worker process, `collate` on a list of prepared ones. Each is a
record of plain values, so that a bundle can store it and another machine can repeat it.

Images are resized by Pillow with antialiasing, as torchvision's, timm's and open_clip's published
evaluation transforms do on Pillow images: the resized pixels are theirs, level for level.
Transforms on tensors (Hugging Face's fast image processors) round differently, by less than half
of 255 levels on average.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from gsr_core.data.inputs import Modality
from gsr_core.errors import InputError, SettingError
from gsr_core.extras import require
from gsr_core.settings import suggestion

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PAIR",
    "ImagePreprocessing",
    "NumbersPreprocessing",
    "Preprocessing",
    "TextPreprocessing",
    "check_overrides",
    "load_tokenizer",
    "override",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PAIR = "pair_"
"""Prefix of the names of the tensors of the second texts of pairs."""


def _per_channel(value: Any) -> Any:
    """Take one number for all channels, and `0.5,0.5,0.5` as a command line gives it."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
        value = value[0] if len(value) == 1 else value
    return value if isinstance(value, tuple | list) else (value,) * 3


_Above0 = Annotated[float, Field(gt=0)]
Pixels = Annotated[int, Field(ge=1, le=8192)]
Channels = Annotated[tuple[float, float, float], BeforeValidator(_per_channel)]
Positive = Annotated[tuple[_Above0, _Above0, _Above0], BeforeValidator(_per_channel)]


class Preprocessing(BaseModel, frozen=True):
    """How a sample becomes a network's input."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    modality: Modality

    @abstractmethod
    def prepare(self, item: Any) -> Any:
        """Return one sample, ready to be collated.

        Args:
            item: What `Inputs.load` gives.

        Raises:
            InputError: If it is something other than this network takes.
        """

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> Any:
        """Return the batch of several prepared samples: a tensor, or tensors by name."""

    @abstractmethod
    def example(self) -> Any:
        """Return one made-up sample, not prepared, to try a network on."""


class ImagePreprocessing(Preprocessing, frozen=True):
    """How an 8-bit image becomes the input of a network.

    Attributes:
        image_size: Height and width of the input, in pixels: the centre of the resized image.
        mean: Subtracted from each channel, on the scale from 0 to 1.
        std: Each channel is divided by it afterwards.
        resize: The image is brought to this many pixels first; `image_size` by default.
        fit: Which side gets `resize` pixels: the `shortest`, so that the crop loses what a long
            image has beyond a square; `both`, with the shape lost; or the `longest`, with black
            beside it.
        interpolation: How pixels are interpolated.
    """

    modality: Literal["image"] = "image"
    image_size: Pixels
    mean: Channels
    std: Positive
    resize: Pixels | None = None
    fit: Literal["shortest", "both", "longest"] = "shortest"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = (
        "bilinear"
    )

    def prepare(self, item: np.ndarray) -> Tensor:
        """Return an image (H, W, 3) uint8 as (3, image_size, image_size) float32.

        Raises:
            InputError: If it is something else.
        """
        # A copy, because torch warns of Pillow's read-only pixels.
        return self._normalised(torch.from_numpy(np.array(self.seen(item))).permute(2, 0, 1))

    def prepare_as_they_are(self, images: np.ndarray) -> Tensor | None:
        """Return images that need no other size (n, 3, image_size, image_size) float32, at once.

        The numbers are those of `prepare`, in a tenth of the time for small images.

        Args:
            images: (n, H, W, 3) uint8.

        Returns:
            None if they have to be resized or cropped.
        """
        size = self.image_size
        if images.shape[1:] != (size, size, 3) or self.resize not in (None, size):
            return None
        return self._normalised(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2))

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels (..., 3, H, W) uint8 on the network's scale."""
        # Here, and below, since pages import this module, and torchvision takes a second.
        from torchvision.transforms.v2 import functional

        scaled = functional.to_dtype(pixels.contiguous(), torch.float32, scale=True)
        return functional.normalize(scaled, list(self.mean), list(self.std))

    def seen(self, item: np.ndarray) -> Image.Image:
        """Return what the network sees of an image: resized and cropped, not yet normalised.

        Args:
            item: (H, W, 3) uint8.

        Raises:
            InputError: If it is something else.
        """
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        if not isinstance(item, np.ndarray) or item.dtype != np.uint8 or item.shape[2:] != (3,):
            shape = getattr(item, "shape", type(item).__name__)
            raise InputError(f"found {shape} where the network takes an image (H, W, 3) of uint8")
        size = [self.image_size, self.image_size]
        # torchvision takes Pillow's images as well as tensors, but its signatures do not say so.
        image: Any = Image.fromarray(item)
        target = self.resize or self.image_size
        sides = {"shortest": [min(image.size)], "longest": [max(image.size)], "both": image.size}
        if any(side != target for side in sides[self.fit]):
            interpolation = InterpolationMode(self.interpolation)
            width, height = (max(1, round(side)) for side in self._resized(*image.size))
            shape = [target] if self.fit == "shortest" else [height, width]
            image = functional.resize(image, shape, interpolation, antialias=True)
        if image.size != tuple(size):
            image = functional.center_crop(image, size)
        return image

    def kept(self, width: int, height: int) -> float:
        """Return the share of an image that the network sees; the crop loses the rest.

        Args:
            width: In pixels.
            height: In pixels.
        """
        sides = self._resized(width, height)
        return math.prod(min(self.image_size, side) / side for side in sides)

    def _resized(self, width: int, height: int) -> tuple[float, float]:
        """Return width and height, in pixels, after resizing and before the crop."""
        target = self.resize or self.image_size
        if self.fit == "both":
            return target, target
        scale = target / (min if self.fit == "shortest" else max)(width, height)
        return scale * width, scale * height

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        """Return (n, 3, image_size, image_size)."""
        return torch.stack(list(items))

    def example(self) -> np.ndarray:
        """Return noise of the network's size."""
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (self.image_size, self.image_size, 3), dtype=np.uint8)

    def __call__(self, images: Tensor | np.ndarray) -> Tensor:
        """Return the network's input (n, 3, image_size, image_size) as float32.

        Args:
            images: (n, C, H, W) uint8 with C of 1 or 3; one channel is repeated.
        """
        array = np.asarray(images).transpose(0, 2, 3, 1)
        return self.collate(
            [self.prepare(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
             for image in array]
        )  # fmt: skip


class TextPreprocessing(Preprocessing, frozen=True):
    """How a text, or a pair of texts, becomes token numbers.

    Attributes:
        tokenizer: Directory with the tokenizer's files, or its name on the Hugging Face hub.
        max_length: Tokens kept of a text (of both of a pair together), special ones included.
        pairs: What becomes of a pair: `joint`, one sequence with a separator, as cross-encoders
            are trained; or `siamese`, two sequences, of which the network gives the features
            (u, v, |u - v|), as Reimers and Gurevych, "Sentence-BERT" (EMNLP 2019), classify.
        prompt: Put before every text.
        trust: Run code that comes with the tokenizer.
    """

    modality: Literal["text"] = "text"
    tokenizer: str
    max_length: Annotated[int, Field(ge=2, le=1_000_000)]
    pairs: Literal["joint", "siamese"] = "joint"
    prompt: str = ""
    trust: bool = False

    def prepare(self, item: str | tuple[str, str]) -> str | tuple[str, str]:
        """Return the text or pair with the prompt before it.

        Raises:
            InputError: If it is no text, or a single one where pairs are compared.
        """
        parts = (item,) if isinstance(item, str) else item
        if not isinstance(parts, tuple | list) or not all(isinstance(part, str) for part in parts):
            raise InputError(f"found {type(item).__name__} where the network takes a text")
        if len(parts) != 2 and (len(parts) != 1 or self.pairs == "siamese"):
            raise InputError(
                f"found {len(parts)} texts where the network compares pairs; set pairs=joint"
            )
        # Whitespace around a text would be tokens to some tokenizers.
        first, *rest = (self.prompt + part.strip() for part in parts)
        return (first, rest[0]) if rest else first

    def collate(self, items: Sequence[str | tuple[str, str]]) -> dict[str, Tensor]:
        """Return tensors (n, t) by name, padded to the longest text of the batch."""
        if self.pairs == "siamese":
            second = self._tokenise([item[1] for item in items])
            return self._tokenise([item[0] for item in items]) | {
                PAIR + name: value for name, value in second.items()
            }
        if isinstance(items[0], str):
            return self._tokenise([str(item) for item in items])
        return self._tokenise([item[0] for item in items], [item[1] for item in items])

    def example(self) -> str | tuple[str, str]:
        """Return a short sentence, or a pair."""
        sentence = "A photograph of a bird on water."
        return (sentence, "A bird.") if self.pairs == "siamese" else sentence

    def _tokenise(self, texts: list[str], pairs: list[str] | None = None) -> dict[str, Tensor]:
        tokenizer = load_tokenizer(self.tokenizer, self.trust)
        encoded = tokenizer(
            texts,
            pairs,
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return dict(encoded)


class NumbersPreprocessing(Preprocessing, frozen=True):
    """How a row of numbers becomes a network's input: as it is.

    Attributes:
        n_inputs: Numbers a row.
    """

    modality: Literal["numbers"] = "numbers"
    n_inputs: Annotated[int, Field(ge=1)]

    def prepare(self, item: np.ndarray) -> Tensor:
        """Return a row (n_inputs,) as float32.

        Raises:
            InputError: If it has another length or holds something other than finite numbers.
        """
        row = np.asarray(item, dtype=np.float32)
        if row.shape != (self.n_inputs,):
            raise InputError(f"found {row.shape} where the network takes {self.n_inputs} numbers")
        if not np.isfinite(row).all():
            raise InputError("the row holds a number that is not finite")
        return torch.from_numpy(row.copy())

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        """Return (n, n_inputs)."""
        return torch.stack(list(items))

    def example(self) -> np.ndarray:
        """Return noise."""
        return np.random.default_rng(0).standard_normal(self.n_inputs).astype(np.float32)


KINDS: dict[str, type[Preprocessing]] = {
    "image": ImagePreprocessing,
    "text": TextPreprocessing,
    "numbers": NumbersPreprocessing,
}


def override(preprocessing: Preprocessing, overrides: Mapping[str, Any]) -> Preprocessing:
    """Return a preprocessing with some of its values replaced.

    Args:
        preprocessing: The model's own.
        overrides: Values by field; numbers may come as text, as from a command line.

    Raises:
        SettingError: If a field is unknown or its value is not allowed.
    """
    cls = type(preprocessing)
    allowed = [name for name in cls.model_fields if name not in ("modality", "trust")]
    if unknown := sorted(set(overrides) - set(allowed)):
        raise SettingError(
            f"preprocessing of {preprocessing.modality} inputs has no setting '{unknown[0]}'"
            f"{suggestion(unknown[0], allowed)}; allowed are {', '.join(allowed)}"
        )
    values = preprocessing.model_dump() | dict(overrides)
    if "image_size" in overrides and "resize" not in overrides:
        # The published margin around the centre stays what it is, in proportion.
        resize, size = values["resize"], preprocessing.model_dump()["image_size"]
        try:
            values["resize"] = resize and round(resize * int(values["image_size"]) / size)
        except (TypeError, ValueError):
            values["resize"] = None  # The size itself is wrong, as the check below reports.
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise SettingError(f"preprocessing: {_sentence(error)}") from error


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse what no preprocessing allows, before a network is loaded.

    Args:
        overrides: Values by field; those of no known field are not looked at.

    Raises:
        SettingError: If a value is not allowed.
    """
    for cls in KINDS.values():
        for name in overrides.keys() & cls.model_fields.keys() - {"modality"}:
            try:
                TypeAdapter(cls.model_fields[name].rebuild_annotation()).validate_python(
                    overrides[name]
                )
            except ValidationError as error:
                raise SettingError(f"preprocessing: {_sentence(error, name)}") from error


def _sentence(error: ValidationError, name: str = "") -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join([name] * bool(name) + [str(each) for each in first["loc"]]) or "it"
    return f"{where} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


@cache
def load_tokenizer(name: str, trust: bool = False) -> Any:
    """Return the tokenizer of a directory or hub name, loaded once a process.

    Raises:
        MissingExtraError: If transformers is not installed.
        SettingError: If there is none.
    """
    # The workers are the parallelism; a tokenizer with threads of its own that is then forked
    # warns and may wait for ever. A user's own setting stays.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers = require("transformers", "huggingface")
    try:
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
    except Exception as error:
        raise SettingError(
            f"there is no tokenizer in '{name}' ({_first_line(error)}); give a directory with "
            "tokenizer.json as tokenizer"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
