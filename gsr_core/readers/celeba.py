"""CelebA as its authors publish it, and as tables of Kaggle, WILDS and group DRO have it.

Liu et al., "Deep Learning Face Attributes in the Wild" (ICCV 2015): 202,599 faces with 40
attributes. The originals are `list_attr_celeba.txt` (a line with the number of images, a line
with the names of the attributes, then a file name and -1 or 1 for each) and
`list_eval_partition.txt` (file name and 0, 1 or 2 for train, validation, test), in one folder or in
`Anno` and `Eval`. The others have the same as `list_attr_celeba.csv` and `list_eval_partition.csv`
with a column `image_id`. The images are in `img_align_celeba`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import need_columns, need_folder, read_table
from gsr_core.readers.images import image_files

__all__ = ["CelebA"]

ATTRIBUTES = "list_attr_celeba"
PARTITION = "list_eval_partition"
IMAGES = "img_align_celeba"
FOLDERS = (".", "data", "Anno", "Eval", "Img", "celeba", "CelebA", "celebA", "celebA_v1.0")
"""Folders below the given one that may hold the parts."""


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class CelebA(Reader):
    """CelebA with one attribute as the class and another for the groups; 4 groups."""

    name: ClassVar[str] = "celeba"
    title: ClassVar[str] = "CelebA"
    summary: ClassVar[str] = (
        "list_attr_celeba and list_eval_partition (the original .txt, or .csv) beside "
        "img_align_celeba; any of the 40 attributes is the class."
    )
    path_help: ClassVar[str] = "the folder with list_attr_celeba.txt or .csv"

    target: Annotated[str, Field(description="Attribute that is the class.")] = "Blond_Hair"
    attribute: Annotated[
        str, Field(description="Attribute that makes the groups, with the class.")
    ] = "Male"

    def read(self) -> Source:
        """Read attributes and partition.

        Raises:
            SourceError: If a part is missing or damaged, or there is no such attribute.
        """
        folder = need_folder(self.location)
        file = _find(folder, ATTRIBUTES)
        flags = _attributes(file)
        attributes = [str(name) for name in flags.columns]
        for name in (self.target, self.attribute):
            if name not in attributes:
                near = difflib.get_close_matches(name, attributes, n=1, cutoff=0.4)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise SourceError(
                    f"CelebA has no attribute '{name}'; {hint}The attributes of {file.name} are "
                    f"{', '.join(attributes)}"
                )
        if self.target == self.attribute:
            raise SourceError(
                f"target and attribute are both '{self.target}'; groups need another attribute "
                "than the class"
            )
        split = _partition(_find(folder, PARTITION))
        images = _images(folder)
        below = images.relative_to(folder).as_posix()
        paths = [name if below == "." else f"{below}/{name}" for name in flags.index]
        inputs, notes = image_files(folder, paths, where=file.name)
        return Source(
            table=pd.DataFrame(
                {
                    "image_id": flags.index.to_numpy(object),
                    "path": paths,
                    "split": _align(flags.index, split, file),
                    **{name: flags[name].to_numpy() for name in attributes},
                }
            ),
            inputs=inputs,
            roles=Roles(
                label=self.target,
                sample_id="image_id",
                attributes=(self.attribute,),
                groups=GroupRule(columns=(self.attribute,)),
                split=SplitRule(column="split"),
            ),
            origin="CelebA (Liu et al. 2015)",
            names={name: {0: f"not {name}", 1: name} for name in attributes},
            title=f"CelebA: {self.target} by {self.attribute}",
            notes=notes,
        )


def _find(folder: Path, stem: str) -> Path:
    for place in FOLDERS:
        for suffix in (".txt", ".csv"):
            if (file := folder / place / f"{stem}{suffix}").is_file():
                return file
    entries = sorted(each.name for each in folder.iterdir())
    raise SourceError(
        f"{folder} has no {stem}.txt or {stem}.csv, nor has a folder data, Anno, Eval or celeba in "
        f"it; found {', '.join(entries[:8]) or 'nothing'}"
    )


def _images(folder: Path) -> Path:
    for place in FOLDERS:
        # Kaggle's archive has the folder within a folder of its name.
        for each in (folder / place / IMAGES / IMAGES, folder / place / IMAGES):
            if each.is_dir():
                return each
    raise SourceError(
        f"{folder} has no folder {IMAGES}, nor has data, Img or celeba in it; unpack {IMAGES}.zip "
        "there"
    )


def _attributes(file: Path) -> pd.DataFrame:
    """Return 0 or 1 for each image and attribute, with the file names as the index.

    Raises:
        SourceError: If the file is damaged.
    """
    if file.suffix == ".csv":
        table = read_table(file)
        need_columns(table, ["image_id"], file)
        table = table.set_index("image_id")
    else:
        table = _original(file)
    table = table.drop(columns=[name for name in table if str(name).startswith("Unnamed:")])
    values = table.to_numpy()
    # Most have -1 for no; some copies have 0.
    if (bad := np.argwhere(~np.isin(values, (-1, 0, 1)))).size:
        row, column = bad[0]
        raise SourceError(
            f"attribute '{table.columns[column]}' of {table.index[row]} is {values[row, column]} "
            f"in {file}; expected -1 or 1: get the file again"
        )
    if (twice := table.index.duplicated()).any():
        raise SourceError(f"image {table.index[twice][0]} is twice in {file}; get the file again")
    return (table > 0).astype(np.int8)


def _original(file: Path) -> pd.DataFrame:
    with file.open(encoding="utf-8", errors="replace") as lines:
        first, names = lines.readline().strip(), lines.readline().split()
        rows = [line.split() for line in lines if line.strip()]
    if not first.isdigit() or not names:
        raise SourceError(
            f"{file} begins with '{first[:60]}'; expected a line with the number of images and a "
            "line with the attributes' names: get the file again"
        )
    for row, fields in enumerate(rows):
        if len(fields) != len(names) + 1:
            raise SourceError(
                f"line {row + 3} of {file} has {len(fields)} fields; expected a file name and "
                f"{len(names)} values: get the file again"
            )
    if len(rows) != int(first):
        raise SourceError(
            f"{file} has {len(rows):,} images, but its first line says {int(first):,}; get the "
            "file again"
        )
    try:
        values = np.array([fields[1:] for fields in rows], dtype=np.int8)
    except ValueError as error:
        raise SourceError(
            f"{file} has a value that is not a number ({error}); get the file again"
        ) from error
    return pd.DataFrame(values, columns=names, index=[fields[0] for fields in rows])


def _partition(file: Path) -> pd.Series:
    """Return 0, 1 or 2 for each file name.

    Raises:
        SourceError: If the file is damaged.
    """
    if file.suffix == ".csv":
        table = read_table(file)
        need_columns(table, ["image_id", "partition"], file)
        split = table.set_index("image_id")["partition"]
    else:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = [line.split() for line in lines if line.strip()]
        if bad := next((row for row, pair in enumerate(pairs, 1) if len(pair) != 2), None):
            raise SourceError(
                f"line {bad} of {file} has {len(pairs[bad - 1])} fields; expected a file name and "
                "0, 1 or 2: get the file again"
            )
        split = pd.Series(
            pd.to_numeric(pd.Series([pair[1] for pair in pairs], dtype=object), errors="coerce")
            .fillna(-1)
            .to_numpy(int),
            index=[pair[0] for pair in pairs],
        )
    if (bad := np.flatnonzero(~split.isin((0, 1, 2)))).size:
        raise SourceError(
            f"the split of {split.index[bad[0]]} in {file} is not 0, 1 or 2; get the file again"
        )
    return split[~split.index.duplicated()].astype(int)


def _align(images: pd.Index, split: pd.Series, file: Path) -> np.ndarray:
    codes = split.reindex(images)
    if (lost := codes.isna()).any():
        raise SourceError(
            f"{int(lost.sum()):,} images of {file.name} are not in {PARTITION} (first: "
            f"{images[lost][0]}); get both files from one place"
        )
    return codes.to_numpy(int)
