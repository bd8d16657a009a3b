"""Handwritten digits in a misleading colour: images that come with scikit-learn, no file needed.

The 1,797 digits of 8 x 8 pixels are from Alpaydin and Kaynak, "Optical Recognition of Handwritten
Digits" (UCI Machine Learning Repository, 1998). The class is whether the digit is at least 5.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from gsr_core.data.bundle import SPLITS
from gsr_core.data.inputs import ImageArrays
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.readers.base import READER_CONFIG, Reader, settings

__all__ = ["CLASSES", "COLOURS", "CONFLICTING", "DRAWS", "TRAINED", "ColouredDigits"]

CLASSES = ("digit 0-4", "digit 5-9")
COLOURS = ("red", "green")
IMAGE_SIZE = 32
MAX_SHIFT = 2
"""Pixels, in each direction."""
BRIGHTNESS = (0.75, 1.0)
"""Range of the brightest pixel of an image."""

N_TARGET = N_VAL = 300
TRAINING_SHARE = 0.45
"""Of the source images, train and heldout together; test takes what target and val leave."""
HELDOUT_SHARE = 0.2
DRAWS = 4
"""Training images made of each source image; target, val and test have one."""
CONFLICTING = 0.08
"""Share of train and heldout in the other class's colour; of the other splits it is one half."""
TRAINED = ("train", "heldout")


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class ColouredDigits(Reader):
    """The built-in example: digits below and from 5 on, red or green.

    The images are upscaled to 32 x 32 pixels, shifted by up to two pixels and coloured in a shade
    of their own. In train and heldout the colour agrees with the class but for the share
    `conflicting`, exact to the image; in target, val and test it says nothing. Splits are made by
    source image, before shifting and colouring.
    """

    name: ClassVar[str] = "coloured-digits"
    title: ClassVar[str] = "Coloured digits"
    summary: ClassVar[str] = (
        "Made from scikit-learn's handwritten digits: two classes in red and green (the example)."
    )
    path_help: ClassVar[str] = "nothing: no file is read"

    conflicting: Annotated[
        float,
        Field(gt=0, lt=1, description="Share of the training images in the other class's colour."),
    ] = CONFLICTING
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Of every draw.")] = 0

    def read(self) -> Source:
        """Draw and colour the images."""
        images, table = self._draw()
        return Source(
            table=table,
            inputs=ImageArrays(images.transpose(0, 2, 3, 1)),
            roles=Roles(
                label="y",
                sample_id="sample_id",
                attributes=("colour", "digit", "source"),
                groups=GroupRule(columns=("colour",)),
                split=SplitRule(column="split"),
            ),
            origin=f"1,797 handwritten digits of scikit-learn, coloured; seed {self.seed}",
            names={"y": dict(enumerate(CLASSES))},
            title=self.title,
            notes=(
                f"The colour agrees with the class for {100 * (1 - self.conflicting):g} % of train "
                "and heldout and for 50 % of target, val and test.",
                "Splits were made by source image before shifting and colouring: no digit of "
                "heldout, target, val or test was seen by the backbone in any form, and no two "
                "splits share one.",
                f"Train and heldout hold each source image {DRAWS} times, each time with a new "
                "shift and colour.",
            ),
        )

    def _draw(self) -> tuple[np.ndarray, pd.DataFrame]:
        """Return the images (n, 3, H, W) uint8, split by split, and what is known about each."""
        # Not above: pages import this file, and these take seconds.
        from sklearn.datasets import load_digits
        from torchvision.transforms.v2 import functional

        rng = np.random.default_rng(self.seed)
        pixels, digits = map(np.asarray, load_digits(return_X_y=True))
        small = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16).float()
        grey = functional.resize(small, [IMAGE_SIZE, IMAGE_SIZE], antialias=True)[:, 0].numpy()

        images, tables = [], []
        for split, sources in _split_sources(digits, self.seed).items():
            draws = DRAWS if split in TRAINED else 1
            source = np.repeat(sources, draws)
            y = (digits[source] >= 5).astype(np.int64)
            agrees = _exact_share(y, 1 - (self.conflicting if split in TRAINED else 0.5), rng)
            colour = np.where(agrees, y, 1 - y)
            images.append(_paint(_shift(grey[source], rng), colour, rng))
            table = pd.DataFrame(
                {
                    "split": split,
                    "y": y,
                    "colour": np.array(COLOURS)[colour],
                    "digit": digits[source],
                    "source": source,
                }
            )
            draw = np.tile(np.arange(draws), len(sources))
            table.insert(
                0,
                "sample_id",
                [f"{split}-{s:04d}-{k}" for s, k in zip(source, draw, strict=True)],
            )
            tables.append(table)
        return np.concatenate(images), pd.concat(tables, ignore_index=True)


def _split_sources(digits: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the positions of each split's source images, stratified by digit."""
    from sklearn.model_selection import train_test_split

    def part(rows: np.ndarray, size: float | int) -> tuple[np.ndarray, np.ndarray]:
        first, rest = train_test_split(
            rows, train_size=size, stratify=digits[rows], random_state=seed
        )
        return np.sort(first), np.sort(rest)

    pool, rest = part(np.arange(len(digits)), TRAINING_SHARE)
    heldout, train = part(pool, HELDOUT_SHARE)
    target, rest = part(rest, N_TARGET)
    val, test = part(rest, N_VAL)
    parts = {"train": train, "heldout": heldout, "target": target, "val": val, "test": test}
    return {split: parts[split] for split in SPLITS}


def _exact_share(y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return (n,) bool, true for this share of each class: to the row, not only on average."""
    mask = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        mask[rows[: round(share * len(rows))]] = True
    return mask


def _shift(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move each image (n, H, W) by up to `MAX_SHIFT` pixels; pixels that move in are black."""
    n, size = len(grey), grey.shape[1]
    padded = np.zeros((n, size + 2 * MAX_SHIFT, size + 2 * MAX_SHIFT), grey.dtype)
    padded[:, MAX_SHIFT : MAX_SHIFT + size, MAX_SHIFT : MAX_SHIFT + size] = grey
    down, right = rng.integers(0, 2 * MAX_SHIFT + 1, size=(2, n))
    pixel = np.arange(size)
    return padded[
        np.arange(n)[:, None, None],
        (down[:, None] + pixel)[:, :, None],
        (right[:, None] + pixel)[:, None, :],
    ]


def _paint(grey: np.ndarray, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour each image (n, H, W) in its own shade of red (0) or green (1): (n, 3, H, W) uint8."""
    n = len(grey)
    shade = np.zeros((n, 3))
    shade[np.arange(n), colour] = rng.uniform(*BRIGHTNESS, size=n)
    return np.round(255 * grey[:, None] * shade[:, :, None, None]).astype(np.uint8)
