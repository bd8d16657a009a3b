"""Tables and folders of images as files have them, and the messages when they are wrong."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gsr_core.errors import SourceError
from gsr_core.settings import suggestion

__all__ = [
    "IMAGE_SUFFIXES",
    "TABLE_SUFFIXES",
    "are_files",
    "json_line",
    "list_images",
    "need_columns",
    "need_file",
    "need_folder",
    "read_table",
]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson")
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".pgm",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    ".gif",
)
"""torchvision's, and `.gif`; a suffix in capitals counts too."""
MISSING_WORDS = frozenset(
    ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A")
)
"""Words for a missing number; in a column of text they are text."""
MAX_LISTED = 20


def read_table(file: Path, *, unique: bool = True) -> pd.DataFrame:
    """Read a table with its column names: CSV, TSV, parquet or JSON lines.

    Text files are UTF-8, with or without a byte-order mark; a CSV may be separated by semicolons
    or tabs if its header has no comma. Only an empty field is missing in a column of text, so
    that a class may be called "None"; in a column of numbers the usual words are missing too.

    Args:
        file: The file; its suffix says what it is.
        unique: Whether a CSV file with two columns of one name is refused; otherwise the second
            `a` is called `a.1`.

    Returns:
        At least one row, columns in the file's order with names that differ, rows numbered from 0.

    Raises:
        SourceError: If it is missing, of another kind, damaged, empty, not UTF-8, or has two
            columns of one name.
    """
    need_file(file)
    suffix = file.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise SourceError(
            f"{file} ends in '{suffix}'; a table ends in {', '.join(TABLE_SUFFIXES)}: convert it, "
            "or rename it to what it is"
        )
    if file.stat().st_size == 0:
        raise SourceError(f"{file} is empty; expected a header and rows")
    if suffix in (".csv", ".tsv"):
        table = _read_csv(file, "\t" if suffix == ".tsv" else None, unique=unique)
    elif suffix in (".parquet", ".pq"):
        table = _read_parquet(file)
    else:
        table = _read_jsonl(file)
    if not len(table):
        raise SourceError(f"{file} has column names but no rows; expected one row a sample")
    return table


def need_file(file: Path) -> Path:
    """Return a path after checking that it is a file.

    Raises:
        SourceError: If there is none of that name; files of similar names are named.
    """
    if file.is_file():
        return file
    if file.is_dir():
        raise SourceError(f"{file} is a folder; give the file itself")
    raise SourceError(f"there is no file {file}{_similar(file)}")


def need_folder(folder: Path) -> Path:
    """Return a path after checking that it is a folder.

    Raises:
        SourceError: If there is none of that name; similar names are named.
    """
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise SourceError(
            f"{folder} is a file; give the folder, or choose a reader of one file: texts, table, "
            "embeddings or npz"
        )
    raise SourceError(f"there is no folder {folder}{_similar(folder)}")


def need_columns(table: pd.DataFrame, names: Sequence[str], file: Path) -> None:
    """Check that a table has some columns.

    Raises:
        SourceError: If one is missing; the sentence names the nearest one and all that are there.
    """
    columns = [str(column) for column in table.columns]
    for name in names:
        if name not in columns:
            more = ", ..." if len(columns) > MAX_LISTED else ""
            raise SourceError(
                f"{file} has no column '{name}'{suggestion(name, columns)}; the columns are "
                f"{', '.join(columns[:MAX_LISTED])}{more}"
            )


def list_images(folder: Path) -> list[str]:
    """Return the images below a folder, links included, as sorted relative paths with '/'.

    Hidden files and folders are skipped. The order is that of the paths' characters, whatever
    the file system's is.
    """
    paths: list[str] = []
    # A link to a folder above itself would go on for ever.
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        start = "" if place == str(folder) else Path(place).relative_to(folder).as_posix() + "/"
        paths += [
            start + name
            for name in files
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(paths)


def are_files(folder: Path, paths: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return (n,) bool, whether each path below a folder is a file, by one listing of each folder.

    Asking for each of a million files by itself takes minutes on a network disk.
    """
    listed: dict[str, set[str]] = {}
    there = np.zeros(len(paths), dtype=bool)
    for row, path in enumerate(paths):
        if not path:
            continue
        place, _, name = str(path).replace(os.sep, "/").rpartition("/")
        if place not in listed:
            listed[place] = _files_in(os.path.join(folder, place))
        there[row] = name in listed[place]
    return there


def _files_in(place: str) -> set[str]:
    try:
        with os.scandir(place) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f", nor a folder {path.parent}; check the path"
    names = sorted(each.name for each in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=3)
    if near:
        return f"; did you mean {' or '.join(repr(name) for name in near)} beside it?"
    if not names:
        return f"; {path.parent} is empty: check the path"
    more = ", ..." if len(names) > 5 else ""
    return f"; {path.parent} has {', '.join(names[:5])}{more}: check the path"


def _read_csv(file: Path, separator: str | None, *, unique: bool) -> pd.DataFrame:
    _check_utf8(file)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        first = next((line for line in lines if line.strip()), "")
    if not first:
        raise SourceError(f"{file} has only empty lines; expected a header and rows")
    if separator is None:
        # Spreadsheets that write decimal commas separate by semicolons.
        separator = next((each for each in (",", ";", "\t") if each in first), ",")
    try:
        with warnings.catch_warnings():
            # Fewer names than fields: pandas would drop the rest with this warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            header = pd.read_csv(
                file, sep=separator, header=None, nrows=1, dtype=str, encoding="utf-8-sig"
            )
            if unique:
                _check_unique([str(name) for name in header.iloc[0].dropna()], file)
            table = pd.read_csv(
                file,
                sep=separator,
                encoding="utf-8-sig",
                index_col=False,
                keep_default_na=False,
                na_values=[""],
                low_memory=False,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise SourceError(
            f"{file} cannot be read as a table ({reason}); every row needs as many fields as the "
            "header, and a field that has a separator or a line break needs quotes around it"
        ) from error
    except csv.Error as error:
        raise SourceError(f"{file} cannot be read as a table ({error}); write it again") from error
    for name in table.columns:
        table[name] = _without_words(table[name])
    return table


def _without_words(column: pd.Series) -> pd.Series:
    """Make words for missing numbers missing, where the rest of the column is numbers."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    words = column.isin(MISSING_WORDS)
    if not words.any():
        return column
    numbers = pd.to_numeric(column.where(~words), errors="coerce")
    return numbers if (numbers.notna() | words | column.isna()).all() else column


def _check_utf8(file: Path) -> None:
    """Check a text file's encoding, line by line, so that the place can be named.

    Raises:
        SourceError: If it is not UTF-8.
    """
    start = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise SourceError(
                    f"{file} is UTF-16; expected UTF-8: save it as 'CSV UTF-8', or convert it with "
                    f"iconv -f UTF-16 -t UTF-8 {file.name} > utf8{file.suffix}"
                )
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise SourceError(
                    f"{file} is not UTF-8: byte 0x{line[error.start]:02x} at position "
                    f"{start + error.start} (line {number}); save it as 'CSV UTF-8', or convert it "
                    f"with iconv -f WINDOWS-1252 -t UTF-8 {file.name} > utf8{file.suffix}"
                ) from error
            start += len(line)


def _check_unique(names: Sequence[str], file: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(
            f"{file} has more than one column called '{twice[0]}'; rename or drop all but one"
        )


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        columns = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise SourceError(
            f"{file} cannot be read as parquet ({reason}); write the file again"
        ) from error
    _check_unique(columns.column_names, file)
    unnamed = [name for name in columns.column_names if re.fullmatch(r"__index_level_\d+__", name)]
    # A named index becomes a column again; a plain numbering is dropped.
    table = columns.drop_columns(unnamed).to_pandas(ignore_metadata=True)
    for name in table.columns:
        if isinstance(table[name].dtype, pd.CategoricalDtype):
            table[name] = table[name].astype(table[name].cat.categories.dtype)
    return table


def json_line(line: str, number: int, file: Path) -> object:
    """Return what a line of JSON says.

    Args:
        line: The line.
        number: Which one it is, counted from 1.
        file: Where it is from.

    Raises:
        SourceError: If it is no JSON, or deeper or longer than Python reads.
    """
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"line {number} of {file} is not JSON ({error.msg}, character {error.pos}); "
            "expected one object a line"
        ) from error
    except RecursionError:
        raise SourceError(
            f"line {number} of {file} has brackets within brackets too deep to be read; expected "
            'one flat object a line, such as {"path": "a.jpg", "y": 0}'
        ) from None
    except ValueError as error:
        # Python's limit of 4,300 digits is against files that would keep it busy for hours.
        raise SourceError(
            f"line {number} of {file} has a whole number of more digits than can be read; write it "
            "in quotes, as a text, or in the form 1e5000"
        ) from error


def _read_jsonl(file: Path) -> pd.DataFrame:
    _check_utf8(file)
    rows: list[dict[str, object]] = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = json_line(line, number, file)
            if not isinstance(row, dict):
                raise SourceError(
                    f"line {number} of {file} is a JSON {type(row).__name__}; expected one object "
                    'a line, such as {"path": "a.jpg", "y": 0}'
                )
            rows.append(row)
    return pd.DataFrame(rows)
