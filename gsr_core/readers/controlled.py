"""Coloured MNIST in the three forms that the papers use.

A digit's grey value is multiplied by a colour that mostly goes with the class. Everything is drawn
from `seed`; where a share is given it is met exactly, class by class, unless the paper draws each
sample on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import ImageArrays
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.draws import another, by_split, carve, cells, paint, spread
from gsr_core.readers.originals import Originals, mnist, subset

__all__ = [
    "ColouredMNIST",
    "ColouredMNIST10",
    "ColouredMNISTSpare",
    "Controlled",
    "Share",
    "roles_of",
]

Share = Annotated[float, Field(ge=0, le=1)]
MNIST_PATH = "mnist.npz, a folder with it, or torchvision's folder"


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Controlled(Reader):
    """What the sets that are made of MNIST or CIFAR-10 have in common."""

    download: Annotated[
        bool, Field(description="Let torchvision fetch what is missing into the folder `path`.")
    ] = False
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Of every draw.")] = 0

    def _place(self) -> Path:
        if not self.path:
            raise SourceError(f"{self.name} has no path; give {self.path_help}")
        return self.location


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class ColouredMNIST(Controlled):
    """ColoredMNIST-S: two classes of digits, red or green.

    "Group-robust Sample Reweighting for Subpopulation Shifts via Influence Functions" (ICLR 2025),
    appendix E: digits 0 to 5, class 1 from digit 3 on, 10,000 / 2,000 / 27,375 images, 10 % of the
    training images and half of the others in the colour of the other class, no label noise.

    The paper leaves open how images are drawn and how many pixels they have: here all three splits
    are drawn at random from MNIST's 70,000 images taken together, at 28 x 28. With label noise the
    colour goes with the label as it reads (Arjovsky et al., "Invariant Risk Minimization", 2019),
    unless `colour_follows` says the digit.
    """

    name: ClassVar[str] = "coloured-mnist"
    title: ClassVar[str] = "Coloured MNIST, two classes"
    summary: ClassVar[str] = (
        "Made from MNIST: two classes of digits in red and green (ColoredMNIST-S of GSR)."
    )
    path_help: ClassVar[str] = MNIST_PATH

    digits: Annotated[
        int, Field(ge=2, le=10, description="Only digits below this one are used.")
    ] = 6
    threshold: Annotated[
        int, Field(ge=1, le=9, description="Class 1 is this digit and those above it.")
    ] = 3
    conflicting: Annotated[
        Share, Field(description="Share of the training images in the other class's colour.")
    ] = 0.1
    conflicting_elsewhere: Annotated[
        Share, Field(description="The same share of the validation and test images.")
    ] = 0.5
    label_noise: Annotated[
        Share, Field(description="Share of the training labels that are flipped.")
    ] = 0.0
    colour_follows: Annotated[
        Literal["label", "digit"],
        Field(description="What a training colour goes with where the label is flipped."),
    ] = "label"
    n_train: Annotated[int, Field(ge=1, description="Training images, held-out included.")] = 10_000
    n_validation: Annotated[int, Field(ge=1, description="Validation images.")] = 2_000
    n_test: Annotated[int, Field(ge=1, description="Test images.")] = 27_375

    def read(self) -> Source:
        """Draw and colour the images.

        Raises:
            SourceError: If MNIST is not there, or has fewer images than are asked for.
        """
        if self.threshold >= self.digits:
            raise SourceError(
                f"threshold is {self.threshold}, but only digits below {self.digits} are used, so "
                "class 1 is empty; lower threshold or raise digits"
            )
        originals = mnist(self._place(), download=self.download)
        rng = np.random.default_rng(self.seed)
        pool = np.flatnonzero(originals.labels < self.digits)
        sizes = {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}
        n = sum(sizes.values())
        if n > len(pool):
            raise SourceError(
                f"n_train, n_validation and n_test are {n:,} together, but there are {len(pool):,} "
                f"images of digits below {self.digits}; lower them"
            )
        rows = rng.permutation(pool)[:n]
        split = np.repeat(list(sizes), list(sizes.values()))
        train = split == "train"

        digit = originals.labels[rows]
        clean = (digit >= self.threshold).astype(np.int64)
        flipped = train & spread(clean, np.where(train, self.label_noise, 0.0), rng)
        label = clean ^ flipped
        source = label if self.colour_follows == "label" else clean
        share = np.where(train, self.conflicting, self.conflicting_elsewhere)
        conflicting = spread(cells(split, source), share, rng)
        colour = source ^ conflicting

        table = _table(originals, rows, split, label, digit)
        table["colour"] = np.array(["red", "green"])[colour]
        table["flipped"] = flipped
        classes = (_span(0, self.threshold - 1), _span(self.threshold, self.digits - 1))
        table["clean_label"] = np.array(classes)[clean]
        palette = np.array([[255, 0, 0], [0, 255, 0]], dtype=np.uint8)
        return Source(
            table=table,
            inputs=ImageArrays(paint(originals.load(rows), palette[colour])),
            roles=roles_of(["colour", "digit", "flipped", "clean_label"], groups=("colour",)),
            origin=f"MNIST, coloured; seed {self.seed}",
            names={"label": dict(enumerate(classes))},
            title=self.title,
            notes=(
                f"{self.conflicting:.1%} of the training images and "
                f"{self.conflicting_elsewhere:.0%} of the others have the colour of the other "
                "class.",
                *(
                    (
                        f"{self.label_noise:.1%} of the training labels are flipped; the column "
                        "'flipped' says which, and the groups go by the label as it reads.",
                    )
                    if flipped.any()
                    else ()
                ),
            ),
        )


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class ColouredMNIST10(Controlled):
    """CMNIST: ten digits, ten colours.

    "Mitigating Dataset Bias by Using Per-sample Gradient" (ICLR 2023), section 4.1 and appendix
    A.1: ten colours drawn uniformly; each training image conflicts with probability rho and then
    has one of the other nine colours; every image's colour has Gaussian noise of variance 1e-4.
    55,000 / 5,000 / 10,000 images; in test rho = 0.9, so that colour says nothing.

    The paper does not say how the validation images are coloured. Here they are like the test
    images: at rho = 0.5 % they would hold 25 conflicting images, too few for anything that looks
    at groups; `conflicting_validation` sets it. Uniform colours can be dark or alike; the notes
    list them.
    """

    name: ClassVar[str] = "coloured-mnist-10"
    title: ClassVar[str] = "Coloured MNIST, ten classes"
    summary: ClassVar[str] = "Made from MNIST: ten digits in ten colours (CMNIST of PGD)."
    path_help: ClassVar[str] = MNIST_PATH

    conflicting: Annotated[
        Share,
        Field(
            description="Probability of another class's colour in training (rho of the paper: "
            "0.005, 0.01 or 0.05)."
        ),
    ] = 0.005
    conflicting_validation: Annotated[Share, Field(description="The same for validation.")] = 0.9
    conflicting_test: Annotated[Share, Field(description="The same for test.")] = 0.9
    variance: Annotated[
        float, Field(ge=0, le=1, description="Of each colour channel, which runs from 0 to 1.")
    ] = 1e-4
    limit: Annotated[
        int, Field(ge=0, description="Use so many of the images, drawn at random; 0 for all.")
    ] = 0

    def read(self) -> Source:
        """Draw and colour the images.

        Raises:
            SourceError: If MNIST is not there.
        """
        originals = mnist(self._place(), download=self.download)
        rng = np.random.default_rng(self.seed)
        colours = rng.uniform(size=(10, 3))
        rows = subset(originals, self.limit, rng)
        split = carve(originals.in_test[rows], 5_000 / 60_000, rng)
        digit = originals.labels[rows]
        rho = by_split(split, self.conflicting, self.conflicting_validation, self.conflicting_test)
        conflicting = rng.uniform(size=len(rows)) < rho
        colour = np.where(conflicting, another(digit, 10, rng), digit)
        shades = colours[colour] + rng.normal(scale=self.variance**0.5, size=(len(rows), 3))
        ink = np.rint(255 * shades.clip(0, 1)).astype(np.uint8)

        table = _table(originals, rows, split, digit, digit)
        table["colour"] = [f"colour {index}" for index in colour]
        table["alignment"] = np.where(conflicting, "conflicting", "aligned")
        return Source(
            table=table,
            inputs=ImageArrays(paint(originals.load(rows), ink)),
            roles=roles_of(["colour", "alignment"], groups=("alignment",)),
            origin=f"MNIST, coloured; seed {self.seed}",
            names={"label": {index: f"digit {index}" for index in range(10)}},
            title=self.title,
            notes=(
                "Colours: "
                + ", ".join(
                    f"{index} is #{''.join(f'{round(255 * part):02x}' for part in value)}"
                    for index, value in enumerate(colours.tolist())
                )
                + ".",
                f"{conflicting[split == 'train'].mean():.2%} of the training images have another "
                "class's colour; the groups are class x aligned or conflicting.",
            ),
        )


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class ColouredMNISTSpare(Controlled):
    """CMNIST of SPARE: five classes of two digits, five colours.

    UCLA thesis "Data-efficient and Robust Deep Learning from Large Vision and Language Data",
    chapter 5 and section 9.4.4.1: digits {0,1}, {2,3}, {4,5}, {6,7}, {8,9}; 50,000 of the 60,000
    training images for train, 10,000 for validation, the official test images; in training 99.5 %
    of a class have the class's colour and the others one of the other four at random. Groups are
    class x colour.

    The thesis does not say how validation and test are coloured: here uniformly over the five
    colours (80 % conflicting), which gives the published average of ERM, about 20 %. The first
    colour is damaged in print ("ffo000") and read as #ff0000.
    """

    name: ClassVar[str] = "coloured-mnist-spare"
    title: ClassVar[str] = "Coloured MNIST, five classes"
    summary: ClassVar[str] = "Made from MNIST: five pairs of digits in five colours (of SPARE)."
    path_help: ClassVar[str] = MNIST_PATH

    COLOURS: ClassVar[Mapping[str, tuple[int, int, int]]] = {
        "#ff0000": (255, 0, 0),
        "#85ff00": (133, 255, 0),
        "#00fff3": (0, 255, 243),
        "#6e00ff": (110, 0, 255),
        "#ff0018": (255, 0, 24),
    }

    conflicting: Annotated[
        Share, Field(description="Share of each class's training images in another colour.")
    ] = 0.005
    conflicting_elsewhere: Annotated[
        Share, Field(description="The same for validation and test; 0.8 is a uniform colour.")
    ] = 0.8
    limit: Annotated[
        int, Field(ge=0, description="Use so many of the images, drawn at random; 0 for all.")
    ] = 0

    def read(self) -> Source:
        """Draw and colour the images.

        Raises:
            SourceError: If MNIST is not there.
        """
        originals = mnist(self._place(), download=self.download)
        rng = np.random.default_rng(self.seed)
        rows = subset(originals, self.limit, rng)
        split = carve(originals.in_test[rows], 10_000 / 60_000, rng)
        digit = originals.labels[rows]
        label = digit // 2
        share = np.where(split == "train", self.conflicting, self.conflicting_elsewhere)
        conflicting = spread(cells(split, label), share, rng)
        colour = np.where(conflicting, another(label, 5, rng), label)

        table = _table(originals, rows, split, label, digit)
        table["colour"] = np.array(list(self.COLOURS))[colour]
        table["alignment"] = np.where(conflicting, "conflicting", "aligned")
        palette = np.array(list(self.COLOURS.values()), dtype=np.uint8)
        return Source(
            table=table,
            inputs=ImageArrays(paint(originals.load(rows), palette[colour])),
            roles=roles_of(["colour", "digit", "alignment"], groups=("colour",)),
            origin=f"MNIST, coloured; seed {self.seed}",
            names={"label": {k: f"digits {2 * k} and {2 * k + 1}" for k in range(5)}},
            title=self.title,
            notes=(
                f"{self.conflicting:.2%} of the training images of each class have a colour of "
                "another class.",
                "The colours #ff0000 and #ff0018 are nearly the same, as published.",
            ),
        )


def _span(first: int, last: int) -> str:
    return f"digit {first}" if first == last else f"digits {first}-{last}"


def _table(
    originals: Originals, rows: np.ndarray, split: np.ndarray, label: np.ndarray, digit: np.ndarray
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": originals.ids(rows),
            "split": split,
            "label": label,
            "digit": digit,
        }
    )


def roles_of(attributes: Sequence[str], *, groups: tuple[str, ...]) -> Roles:
    """Return the roles of a table with `label`, `sample_id` and `split`."""
    return Roles(
        label="label",
        sample_id="sample_id",
        attributes=tuple(attributes),
        groups=GroupRule(columns=groups),
        split=SplitRule(column="split"),
    )
