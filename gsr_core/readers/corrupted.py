"""Corrupted CIFAR-10: each class mostly seen through one kind of corruption."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import ImageArrays
from gsr_core.data.source import Source
from gsr_core.readers.base import READER_CONFIG, settings
from gsr_core.readers.controlled import Controlled, Share, roles_of
from gsr_core.readers.corruptions import CORRUPTIONS, corrupt
from gsr_core.readers.draws import another, by_split, carve, cells, spread
from gsr_core.readers.originals import CIFAR10_CLASSES, cifar10, subset

__all__ = ["CorruptedCIFAR10"]


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class CorruptedCIFAR10(Controlled):
    """CCIFAR: ten objects, ten corruptions.

    "Mitigating Dataset Bias by Using Per-sample Gradient" (ICLR 2023), section 4.1 and appendix
    A.1: snow, frost, fog, brightness, contrast, spatter, elastic, JPEG, pixelate and saturate, one
    for each class in that order; a share rho of each class's training images has one of the other
    nine; 45,000 / 5,000 / 10,000 images; in test rho = 0.9, so that the corruption says nothing.

    The paper downloaded its images, and does not state the severity, which corruption goes with
    which class, or how validation is corrupted. Here the severity is 4, which public code for the
    set uses (it comes from Nam et al., "Learning from Failure", NeurIPS 2020); classes take
    corruptions in the order of both lists; validation is like test (`conflicting_validation`).
    Pixels are not those of the download: `gsr_core.readers.corruptions` says what differs.
    """

    name: ClassVar[str] = "corrupted-cifar10"
    title: ClassVar[str] = "Corrupted CIFAR-10"
    summary: ClassVar[str] = (
        "Made from CIFAR-10: each class mostly under one of ten corruptions (CCIFAR of PGD)."
    )
    path_help: ClassVar[str] = "a CIFAR-10 parquet file, a folder with it, or torchvision's folder"

    conflicting: Annotated[
        Share,
        Field(
            description="Share of each class's training images under another class's corruption "
            "(rho of the paper: 0.005, 0.01 or 0.05)."
        ),
    ] = 0.005
    conflicting_validation: Annotated[Share, Field(description="The same for validation.")] = 0.9
    conflicting_test: Annotated[Share, Field(description="The same for test.")] = 0.9
    severity: Annotated[int, Field(ge=1, le=5, description="Of every corruption.")] = 4
    limit: Annotated[
        int, Field(ge=0, description="Use so many of the images, drawn at random; 0 for all.")
    ] = 0

    def read(self) -> Source:
        """Corrupt the images.

        Raises:
            SourceError: If CIFAR-10 is not there.
        """
        originals = cifar10(self._place(), download=self.download)
        rng = np.random.default_rng(self.seed)
        rows = subset(originals, self.limit, rng)
        split = carve(originals.in_test[rows], 5_000 / 50_000, rng)
        label = originals.labels[rows]
        share = by_split(
            split, self.conflicting, self.conflicting_validation, self.conflicting_test
        )
        conflicting = spread(cells(split, label), share, rng)
        kind = np.where(conflicting, another(label, 10, rng), label)
        images = originals.load(rows)
        for index, name in enumerate(CORRUPTIONS):
            same_kind = kind == index
            images[same_kind] = corrupt(images[same_kind], name, self.severity, rng)
        table = pd.DataFrame(
            {
                "sample_id": originals.ids(rows),
                "split": split,
                "label": label,
                "corruption": np.array(list(CORRUPTIONS))[kind],
                "alignment": np.where(conflicting, "conflicting", "aligned"),
            }
        )
        return Source(
            table=table,
            inputs=ImageArrays(images),
            roles=roles_of(["corruption", "alignment"], groups=("alignment",)),
            origin=f"CIFAR-10, corrupted at severity {self.severity}; seed {self.seed}",
            names={"label": dict(enumerate(CIFAR10_CLASSES))},
            title=self.title,
            notes=(
                f"{self.conflicting:.2%} of the training images of each class have another class's "
                "corruption; the groups are class x aligned or conflicting.",
                "The corruptions follow CIFAR-10-C's definitions, but frost is drawn instead of "
                "photographed.",
            ),
        )
