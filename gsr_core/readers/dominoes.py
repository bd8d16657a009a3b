"""MNIST-CIFAR Dominoes: a digit above a photograph, of which only the photograph is the class."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import ImageArrays
from gsr_core.data.source import Source
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, settings
from gsr_core.readers.controlled import Controlled, Share, roles_of
from gsr_core.readers.originals import CIFAR10_CLASSES, cifar10, mnist

__all__ = ["Dominoes"]


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Dominoes(Controlled):
    """A digit 0 or 1 of MNIST, padded to 32 x 32, above an automobile or a truck of CIFAR-10.

    Shah et al., "The Pitfalls of Simplicity Bias in Neural Networks" (NeurIPS 2020): images of
    64 x 32 pixels; zero goes with automobile and one with truck. As in Kirichenko et al., "Last
    Layer Re-Training is Sufficient for Robustness to Spurious Correlations" (ICLR 2023), the
    photograph is the class and the digit agrees with it in 95 % of the training images (they also
    try 99 % and 100 %).

    Every original is used at most once, so there are as many images of a class as the scarcer
    original allows: 5,000 for training and 980 for test. The papers leave open how many are for
    validation and how the digits are shared out there and in test: here a fifth of the training
    images, and half of them agree in both.
    """

    name: ClassVar[str] = "dominoes"
    title: ClassVar[str] = "MNIST-CIFAR Dominoes"
    summary: ClassVar[str] = (
        "Made from MNIST and CIFAR-10: a misleading digit 0 or 1 above an automobile or truck."
    )
    path_help: ClassVar[str] = (
        "torchvision's folder of both, or a folder with mnist.npz and cifar10.parquet"
    )

    conflicting: Annotated[
        Share, Field(description="Share of each class's training images with the wrong digit.")
    ] = 0.05
    conflicting_elsewhere: Annotated[
        Share, Field(description="The same for validation and test.")
    ] = 0.5
    validation: Annotated[
        float, Field(gt=0, lt=1, description="Share of the training images kept for validation.")
    ] = 0.2
    limit: Annotated[
        int, Field(ge=0, description="At most so many images of a class in train and in test.")
    ] = 0

    def read(self) -> Source:
        """Pair digits with photographs.

        Raises:
            SourceError: If MNIST or CIFAR-10 is not there, or lacks one of the four classes.
        """
        place = self._place()
        if not place.is_dir() and not self.download:
            raise SourceError(f"{place} is not a folder; give {self.path_help}")
        digits = mnist(place, download=self.download)
        photographs = cifar10(place, download=self.download)
        rng = np.random.default_rng(self.seed)

        parts = []
        for test in (False, True):
            tops = [_rows(digits.labels, digits.in_test == test, k, rng) for k in (0, 1)]
            bottoms = [
                _rows(photographs.labels, photographs.in_test == test, k, rng) for k in (1, 9)
            ]
            n = min(len(rows) for rows in (*tops, *bottoms))
            n = min(n, self.limit or n)
            n_validation = 0 if test else round(self.validation * n)
            sizes = {"test": n} if test else {"train": n - n_validation, "validation": n_validation}
            if not min(sizes.values()):
                raise SourceError(
                    f"{place} has {n} images of a class for {'test' if test else 'training'}; "
                    "there must be digits 0 and 1, automobiles and trucks in both parts"
                )
            for split, size in sizes.items():
                share = self.conflicting if split == "train" else self.conflicting_elsewhere
                n_wrong = round(share * size)
                parts += [
                    pd.DataFrame(
                        {
                            "split": split,
                            "label": label,
                            "digit": digit,
                            "top": [tops[digit].pop() for _ in range(count)],
                            "bottom": [bottoms[label].pop() for _ in range(count)],
                        }
                    )
                    for label in (0, 1)
                    for digit, count in ((label, size - n_wrong), (1 - label, n_wrong))
                    # An empty frame would make the columns objects.
                    if count
                ]
        table = pd.concat(parts, ignore_index=True)
        table = table.iloc[rng.permutation(len(table))].reset_index(drop=True)
        top, bottom = table.pop("top").to_numpy(), table.pop("bottom").to_numpy()

        images = np.zeros((len(table), 64, 32, 3), dtype=np.uint8)
        images[:, 2:30, 2:30] = digits.load(top)[..., None]
        images[:, 32:] = photographs.load(bottom)
        wrong = (table["digit"] != table["label"]).to_numpy()
        table.insert(0, "sample_id", photographs.ids(bottom))
        table["digit"] = np.array(["zero", "one"])[table["digit"]]
        table["digit_id"] = digits.ids(top)
        table["alignment"] = np.where(wrong, "conflicting", "aligned")
        table["digit_box"], table["photograph_box"] = "0 0 32 32", "0 32 32 64"
        return Source(
            table=table,
            inputs=ImageArrays(images),
            roles=roles_of(["digit", "alignment"], groups=("digit",)),
            origin=f"MNIST above CIFAR-10; seed {self.seed}",
            names={"label": {0: CIFAR10_CLASSES[1], 1: CIFAR10_CLASSES[9]}},
            region="photograph_box",
            title=self.title,
            notes=(
                f"The digit disagrees with the photograph in {self.conflicting:.1%} of the "
                f"training images and {self.conflicting_elsewhere:.0%} of the others.",
                "Ids are those of the photographs; 'digit_id' names the digit.",
            ),
        )


def _rows(labels: np.ndarray, part: np.ndarray, label: int, rng: np.random.Generator) -> list[int]:
    """Return the rows of one class in one part, in random order."""
    return rng.permutation(np.flatnonzero(part & (labels == label))).tolist()
