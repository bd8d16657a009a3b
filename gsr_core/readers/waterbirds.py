"""Waterbirds as its authors publish it.

Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts" (ICLR 2020,
https://arxiv.org/abs/1911.08731): birds of CUB-200-2011 before places of Places. The folder
`waterbird_complete95_forest2water2` has the images in folders of species and a `metadata.csv`
with `img_id, img_filename, y, split, place, place_filename`; WILDS' copy, `waterbirds_v1.0`, is
the same. y is 1 for a waterbird, place 1 for water, split 0, 1, 2 for train, validation, test.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import need_columns, need_file, need_folder, read_table
from gsr_core.readers.images import image_files

__all__ = ["Waterbirds"]

METADATA = "metadata.csv"
VALUES = {"y": (0, 1), "place": (0, 1), "split": (0, 1, 2)}
NAMES = {"y": {0: "landbird", 1: "waterbird"}, "place": {0: "land", 1: "water"}}


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Waterbirds(Reader):
    """Waterbirds: land and water birds on land and water, 4 groups."""

    name: ClassVar[str] = "waterbirds"
    title: ClassVar[str] = "Waterbirds"
    summary: ClassVar[str] = (
        "waterbird_complete95_forest2water2 (or WILDS' waterbirds_v1.0): metadata.csv with "
        "img_filename, y, split and place beside the folders of images."
    )
    path_help: ClassVar[str] = "the folder with metadata.csv"

    def read(self) -> Source:
        """Read the table.

        Raises:
            SourceError: If the table, a column or every image is missing, or a value is not one
                of the data set's.
        """
        folder = self._folder()
        file = folder / METADATA
        table = read_table(file)
        need_columns(table, ["img_filename", *VALUES], file)
        for column, allowed in VALUES.items():
            _check_values(table[column], allowed, file)
        table["path"] = table["img_filename"]
        inputs, notes = image_files(
            folder, table["path"].tolist(), where=f"column 'img_filename' of {METADATA}"
        )
        identity = "img_id" if "img_id" in table and table["img_id"].is_unique else "path"
        return Source(
            table=table,
            inputs=inputs,
            roles=Roles(
                label="y",
                sample_id=identity,
                attributes=("place",),
                groups=GroupRule(columns=("place",)),
                split=SplitRule(column="split"),
            ),
            origin="Waterbirds (Sagawa et al. 2020)",
            names=NAMES,
            title="Waterbirds",
            notes=(
                *notes,
                "In train most birds are before their own place; in validation and test half are. "
                "Papers therefore quote the adjusted average: group accuracies weighted by the "
                "groups' shares of train.",
            ),
        )

    def _folder(self) -> Path:
        """Return the folder with the table: the path itself, or the only one below that has one.

        Raises:
            SourceError: If there is none.
        """
        folder = self.location
        if folder.name == METADATA and folder.is_file():
            return folder.parent
        need_folder(folder)
        below = sorted(each.parent for each in folder.glob(f"*/{METADATA}"))
        if not (folder / METADATA).is_file() and len(below) == 1:
            return below[0]
        need_file(folder / METADATA)
        return folder


def _check_values(column: pd.Series, allowed: tuple[int, ...], file: Path) -> None:
    if (bad := np.flatnonzero(~column.isin(allowed))).size:
        raise SourceError(
            f"column '{column.name}' of {file} is {column.iloc[bad[0]]} in row {bad[0]}; in "
            f"Waterbirds it is {' or '.join(str(value) for value in allowed)}: a table of another "
            "kind is read by the reader images"
        )
