"""A folder of images and a table that says what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import ImageFiles
from gsr_core.data.proposal import propose_roles
from gsr_core.data.source import Source
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import (
    TABLE_SUFFIXES,
    are_files,
    need_columns,
    need_file,
    need_folder,
    read_table,
)

__all__ = ["Images", "image_files"]

COLUMN_NAMES = (
    "path",
    "image_path",
    "img_path",
    "file_path",
    "filepath",
    "filename",
    "file_name",
    "img_filename",
    "image_filename",
    "image_file",
    "img_file",
    "file",
    "image",
    "img",
    "image_name",
    "image_id",
    "img_id",
    "id",
)
SUFFIXES = (".jpg", ".png", ".jpeg")
"""Suffixes to try in turn if the table leaves them out."""
TRIED = 500
"""Values of a column to look up, to tell whether it holds paths."""


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Images(Reader):
    """A folder of images with a table of paths, labels and attributes."""

    name: ClassVar[str] = "images"
    title: ClassVar[str] = "Images with a table"
    summary: ClassVar[str] = (
        "A folder of images and a metadata.csv (or TSV, parquet, JSONL) with columns of paths, "
        "labels and attributes."
    )
    path_help: ClassVar[str] = "the folder that the paths start from"

    metadata: Annotated[
        str,
        Field(
            description="The table, from the folder on or from the root; metadata.csv or the like "
            "in the folder if empty."
        ),
    ] = ""
    image_column: Annotated[
        str, Field(description="Column of the images' paths; found automatically if empty.")
    ] = ""

    def read(self) -> Source:
        """Read the table and check which files exist.

        Raises:
            SourceError: If the folder, the table or the column of paths is not there, a path
                leaves the folder, or not one file exists.
        """
        folder, file = self._places()
        try:
            table = read_table(file)
            column, suffix = _image_column(table, folder, file, self.image_column)
        except SourceError as error:
            if file != self.location:
                raise
            raise SourceError(
                f"{file} is a file, and not a table of images "
                f"({str(error).removeprefix(f'{file} ').partition(';')[0]}); give the folder of "
                "the images, or choose the reader texts, table or embeddings"
            ) from error
        paths = _relative(table[column], folder, suffix)
        inputs, notes = image_files(folder, paths, where=f"column '{column}' of {file.name}")
        if suffix:
            notes += (f"Column '{column}' has no suffixes; '{suffix}' was added.",)
        if column != "path" and "path" in table:
            notes += (f"Column 'path' of {file.name} is not used; '{column}' holds the paths.",)
        roles = propose_roles(table, inputs=(column,))
        table["path"] = paths
        if roles.sample_id is None and table["path"].is_unique:
            roles = roles.model_copy(update={"sample_id": "path"})
        return Source(
            table=table,
            inputs=inputs,
            roles=roles,
            origin=f"images of {folder.name} with {file.name}",
            notes=notes,
        )

    def _places(self) -> tuple[Path, Path]:
        """Return the folder and the table.

        Raises:
            SourceError: If one is missing.
        """
        folder = self.location
        if not self.metadata and folder.is_file() and folder.suffix.lower() in TABLE_SUFFIXES:
            return folder.parent, folder
        need_folder(folder)
        if self.metadata:
            return folder, need_file(folder / Path(self.metadata).expanduser())
        tables = sorted(each for each in folder.iterdir() if each.suffix.lower() in TABLE_SUFFIXES)
        usual = [each for each in tables if each.stem.lower() == "metadata"]
        if len(candidates := usual or tables) == 1:
            return folder, candidates[0]
        raise SourceError(
            f"{folder} has {_listing([each.name for each in candidates])}; expected one "
            "metadata.csv (or .tsv, .parquet, .jsonl): say which table to read with the setting "
            "metadata"
        )


def image_files(
    folder: Path, paths: Sequence[str], *, where: str
) -> tuple[ImageFiles, tuple[str, ...]]:
    """Return images by path, and a note on those that are missing.

    Args:
        folder: The folder.
        paths: n paths relative to it.
        where: What names them, for the messages.

    Raises:
        SourceError: If a path is missing or leaves the folder, or not one file exists.
    """
    inputs = ImageFiles(folder, paths)
    there = are_files(folder, paths)
    if there.all():
        return inputs, ()
    first = inputs.name(int(np.flatnonzero(~there)[0]))
    if not there.any():
        listing = _listing(sorted(each.name for each in folder.iterdir()))
        raise SourceError(
            f"none of the {len(paths):,} images that {where} names is there (the first would be "
            f"{folder / first}); {folder} has {listing}: give the folder that the paths start from"
        )
    return inputs, (
        f"{int((~there).sum()):,} of {len(paths):,} image files are missing (first: {first}).",
    )


def _image_column(table: pd.DataFrame, folder: Path, file: Path, setting: str) -> tuple[str, str]:
    """Return the column of paths, and the suffix that they lack.

    Raises:
        SourceError: If there is none, or not the one that was asked for.
    """
    if setting:
        need_columns(table, [setting], file)
        columns = [setting]
    else:
        columns = [str(column) for column in table.columns if _has_text(table[column])]
        plain = {column.strip().lower().replace(" ", "_"): column for column in columns}
        usual = [plain[name] for name in COLUMN_NAMES if name in plain]
        columns = usual + [column for column in columns if column not in usual]
    # Few columns have paths, so that most cost a look at one file that is not there.
    for suffix in ("", *SUFFIXES):
        shares = [
            float(
                are_files(folder, _relative(table[column].dropna()[:TRIED], folder, suffix)).mean()
            )
            for column in columns
        ]
        if shares and max(shares) > 0:
            return columns[int(np.argmax(shares))], suffix
    if setting:
        return setting, ""
    if columns and columns[0].strip().lower().replace(" ", "_") in COLUMN_NAMES[:-3]:
        return columns[0], ""
    raise SourceError(
        f"no column of {file} has paths of files below {folder}; the columns are "
        f"{_listing([str(column) for column in table.columns])}: name one with the setting "
        "image_column, or give the folder that the paths start from"
    )


def _has_text(column: pd.Series) -> bool:
    first = column.dropna()[:1]
    return len(first) > 0 and isinstance(first.iloc[0], str)


def _relative(column: pd.Series, folder: Path, suffix: str) -> list[str]:
    """Return paths with '/', without the folder in front where it is spelt out."""
    starts = {f"{each.as_posix().rstrip('/')}/" for each in (folder.absolute(), folder.resolve())}
    paths = []
    for value in column.to_numpy(object).tolist():
        path = "" if pd.isna(value) else str(value).strip()
        # Written on Windows; elsewhere no data set has backslashes in its names.
        path = path.replace("\\", "/")
        for start in starts:
            path = path.removeprefix(start)
        paths.append(path + suffix if path else "")
    return paths


def _listing(names: Sequence[str]) -> str:
    if not names:
        return "nothing of that kind"
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
