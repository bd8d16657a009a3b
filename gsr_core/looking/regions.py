"""Where in each image the object of its class is: boxes or masks, from a column of the data.

A box is `x0, y0, x1, y1` in pixels of the image as its file has it, from the upper left corner,
ends not included; blanks may stand for the commas. A mask is the path of an image below the
folder of the images, as large as its image, and bright where the object is. An empty cell says
that it is not known.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.data.inputs import ImageFiles
from gsr_core.data.source import Source
from gsr_core.errors import InputError, SettingError
from gsr_core.readers.files import IMAGE_SUFFIXES, are_files
from gsr_core.settings import suggestion

__all__ = ["Regions", "choose_region", "open_regions", "region_columns"]

_TRIED = 20
"""Cells that are looked at to tell whether a column has boxes or masks."""


@dataclass(frozen=True)
class Regions:
    """The object of each image.

    Attributes:
        column: Where they came from.
        names: (n,) what to call the samples in messages.
        boxes: A box or None for each of n rows; empty where there are masks.
        masks: The n files, where there are no boxes.
    """

    column: str
    names: list[str]
    boxes: list[tuple[float, ...] | None]
    masks: ImageFiles | None

    @property
    def known(self) -> np.ndarray:
        """(n,) bool: whether there is a box or a mask."""
        if self.masks is not None:
            return np.array([bool(path) for path in self.masks.paths.to_pylist()])
        return np.array([box is not None for box in self.boxes])

    def digest(self) -> str:
        """Return a SHA-256 that changes with the boxes, or with the files of the masks."""
        boxes = hashlib.sha256(repr((self.column, self.boxes)).encode()).hexdigest()
        return boxes if self.masks is None else self.masks.digest()

    def at(self, row: int, height: int, width: int) -> np.ndarray:
        """Return where the object of a known row is.

        Args:
            row: Position in the bundle.
            height: Of its image, in pixels.
            width: Of its image.

        Returns:
            (height, width) bool.

        Raises:
            InputError: If the box is not inside the image, or the mask cannot be read, is of
                another size, or is empty.
        """
        what = f"the sample '{self.names[row]}' in column '{self.column}'"
        if self.masks is not None:
            return _mask(self.masks, row, height, width, what)
        box = self.boxes[row]
        assert box is not None
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise InputError(
                f"the box of {what} is {x0:g}, {y0:g}, {x1:g}, {y1:g}, and its image has {width} x "
                f"{height} pixels; expected x0 < x1 and y0 < y1 inside the image: correct it, or "
                "leave the cell empty"
            )
        # A pixel belongs to the box where its middle does.
        across, down = np.arange(width) + 0.5, np.arange(height) + 0.5
        inside = ((down >= y0) & (down <= y1))[:, None] & ((across >= x0) & (across <= x1))
        if not inside.any():
            raise InputError(
                f"the box of {what} holds the middle of no pixel of its image; give boxes in pixels"
            )
        return inside


def _mask(masks: ImageFiles, row: int, height: int, width: int, what: str) -> np.ndarray:
    """Return where a mask is bright.

    Raises:
        InputError: If it cannot be read, is of another size, or is black.
    """
    try:
        mask = masks.load(row)
    except InputError as error:
        raise InputError(
            f"the mask of {what} cannot be read: {error}; bring it back, or leave the cell empty"
        ) from error
    if mask.shape[:2] != (height, width):
        raise InputError(
            f"the mask of {what} has {mask.shape[1]} x {mask.shape[0]} pixels, and its image "
            f"{width} x {height}; bring them to one size"
        )
    # Masks are written as 0 and 1 as well as 0 and 255, and some are blurred at the edge.
    bright = mask.max(axis=2)
    if not bright.any():
        raise InputError(
            f"the mask of {what} is black, so that there is no object; correct it, or leave the "
            "cell empty"
        )
    return bright >= bright.max() / 2


def region_columns(source: Source) -> list[str]:
    """Return the columns of a source that have boxes or masks, the layout's own first."""
    found = [str(name) for name in source.table.columns if _kind(source, name)]
    own = [source.region] * (source.region in found)
    return list(dict.fromkeys([*own, *found]))


def choose_region(source: Source, column: str = "") -> str:
    """Return the column of boxes or masks to take.

    Args:
        source: Of the bundle.
        column: What was asked for; "" takes the layout's own, or the only one that there is.

    Raises:
        SettingError: If there is no such column, or it is not clear which.
    """
    if column:
        if column not in source.table.columns:
            known = [str(name) for name in source.table.columns]
            raise SettingError(
                f"the data has no column '{column}'{suggestion(column, known)}; "
                f"{_candidates(region_columns(source))}"
            )
        return column
    found = region_columns(source)
    if source.region in found:
        return source.region
    if len(found) != 1:
        raise SettingError(f"it is not known where the objects are; {_candidates(found)}")
    return found[0]


def _candidates(found: list[str]) -> str:
    if found:
        return f"columns with boxes or masks are {', '.join(found)}: name one"
    return (
        "the data has no column of boxes (x0, y0, x1, y1 in pixels) or of masks (paths of images "
        "below the folder of the images): add one to its table; where the network looks in one "
        "sample can be seen without, in its detail or by gsr look --sample"
    )


def open_regions(source: Source, names: list[str], column: str = "") -> Regions:
    """Read the boxes of a column, or find its masks.

    Args:
        source: In the order of the bundle's rows.
        names: (n,) what to call the samples.
        column: See `choose_region`.

    Raises:
        SettingError: If there is no such column, or it has something else.
    """
    column = choose_region(source, column)
    cells = [_text(value) for value in source.table[column]]
    kind = _kind(source, column)
    if kind == "masks" and isinstance(source.inputs, ImageFiles):
        folder = source.inputs.folder
        return Regions(column, names, [], ImageFiles(folder, _below(cells, folder), gaps=True))
    boxes = [_box(text) if text else None for text in cells]
    wrong = [place for place, text in enumerate(cells) if text and boxes[place] is None]
    if wrong or not any(cells):
        value = f"'{cells[wrong[0]]}' for the sample '{names[wrong[0]]}'" if wrong else "no value"
        raise SettingError(
            f"column '{column}' has {value}, which is no box; expected four numbers x0, y0, x1, y1 "
            "in pixels, or paths of masks below the folder of the images"
        )
    return Regions(column, names, boxes, None)


def _kind(source: Source, column: Hashable) -> str:
    """Return `boxes`, `masks`, or "" for a column, from its first cells."""
    values: pd.Series = source.table[column]
    if pd.api.types.is_numeric_dtype(values) or column == "path":
        return ""
    cells = [text for value in values.dropna()[:_TRIED] if (text := _text(value))]
    if not cells:
        return ""
    if all(_box(text) for text in cells):
        return "boxes"
    inputs = source.inputs
    if not isinstance(inputs, ImageFiles) or not cells[0].lower().endswith(IMAGE_SUFFIXES):
        return ""
    paths = _below(cells, inputs.folder)
    images = set(inputs.paths.slice(0, 10 * _TRIED).to_pylist())
    # The column of the images themselves is none of masks.
    there = are_files(inputs.folder, paths).any()
    return "masks" if there and not images & set(paths) else ""


def _below(cells: list[str], folder: Path) -> list[str]:
    """Return paths from the folder on, where they are spelt out."""
    return [text.replace("\\", "/").removeprefix(f"{folder.as_posix()}/") for text in cells]


def _text(value: Any) -> str:
    """Return a cell as text; "" if it is empty."""
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(str(each) for each in value)
    return "" if value is None or value is pd.NA or value != value else str(value).strip()


def _box(text: str) -> tuple[float, ...] | None:
    """Return the four numbers of a box, None if the text is something else."""
    parts = re.split(r"[\s,;]+", text.strip("[]() \t"))
    try:
        box = tuple(float(part) for part in parts)
    except ValueError:
        return None
    return box if len(box) == 4 and bool(np.isfinite(box).all()) else None
