"""Answers as files: what a queue asks, what was answered, and what somebody filled in elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gsr_core.curation.tables import ENDINGS, describe_rows, write_table
from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.labelling.answers import SKIPPED, add_answers, answers, positions_of_ids
from gsr_core.runs.store import now
from gsr_core.settings import suggestion
from gsr_core.workspace import Workspace

__all__ = ["describe_answers", "export_answers", "import_answers"]

_NEEDED = ("sample_id", "answer")
"""Columns of a file that is imported; `by`, `at` and `order` may be there too."""


def describe_answers(workspace: Workspace, bundle: Bundle) -> pd.DataFrame:
    """Return the answers and skips that hold as `describe_rows` does, with who gave them and when.

    Args:
        workspace: Where.
        bundle: Whose answers.

    Raises:
        GsrError: If the file of answers cannot be read.
    """
    given = answers(workspace, bundle)
    told = {name: given[name] for name in ("answer", "by", "at", "order")}
    return describe_rows(bundle, given["row"].to_numpy(np.int64), **told)


def export_answers(
    workspace: Workspace, bundle: Bundle, path: Path, queue: pd.DataFrame | None = None
) -> tuple[int, int]:
    """Write the answers to a new .csv or .parquet file, and below them what is to be answered.

    The file may be filled in elsewhere and imported: what has no answer is left out then.

    Args:
        workspace: Where.
        bundle: Whose answers.
        path: A new file.
        queue: Rows to answer, with the column row, in their order.

    Returns:
        How many answers and skips it has, and how many open rows.

    Raises:
        SettingError: If the file exists or its ending is another.
        GsrError: If the file of answers cannot be read.
    """
    table = describe_answers(workspace, bundle)
    done = len(table)
    if queue is not None:
        rows = queue["row"].to_numpy(np.int64)
        asked = describe_rows(bundle, rows, answer="", by="", at="", order="")
        table = pd.concat([table, asked], ignore_index=True) if done else asked
    write_table(table, path)
    return done, len(table) - done


def import_answers(workspace: Workspace, bundle: Bundle, path: Path, *, by: str = "") -> int:
    """Take the answers of a .csv or .parquet file: all, or, if one is not allowed, none.

    Answers that hold already are not taken twice. Rows without an answer are open and left out,
    unless `at` says when they were skipped.

    Args:
        workspace: Where.
        bundle: Whose samples.
        path: With the columns sample_id and answer, and perhaps by, at and order.
        by: Who answered, where the file does not say; the user of this process if "".

    Returns:
        How many were taken.

    Raises:
        SettingError: If the file cannot be read or lacks a column, names a sample twice or one that
            is not in the bundle, or an answer is not allowed.
        GsrError: If the file of answers cannot be read.
    """
    table = _read(path)
    for name in _NEEDED:
        if name not in table:
            raise SettingError(
                f"'{path.name}' has no column '{name}'"
                f"{suggestion(name, [str(each) for each in table.columns])}; it needs the columns "
                f"{' and '.join(_NEEDED)}, as 'gsr label {bundle.name} --export FILE' writes them"
            )
    for name in ("by", "at", "order"):
        if name not in table:
            table[name] = ""
    table = table[(table["answer"] != SKIPPED) | (table["at"] != "")].reset_index(drop=True)
    if (twice := table["sample_id"].duplicated()).any():
        name = table.loc[twice, "sample_id"].iloc[0]
        raise SettingError(f"'{path.name}' has sample '{name}' twice; leave one of its answers")
    table["row"] = positions_of_ids(bundle, table["sample_id"].tolist())
    if (gone := table["row"] < 0).any():
        name = table.loc[gone, "sample_id"].iloc[0]
        raise SettingError(
            f"'{path.name}' has sample '{name}', which is not in bundle '{bundle.name}'; take out "
            "its row, or name the bundle that it is of"
        )
    table["by"] = table["by"].where(table["by"] != "", by)
    table["order"] = table["order"].where(table["order"] != "", "file")
    held = pd.MultiIndex.from_frame(answers(workspace, bundle)[["row", "answer"]])
    fresh = table[~pd.MultiIndex.from_frame(table[["row", "answer"]]).isin(held)]
    if not len(fresh):
        return 0
    add_answers(
        workspace,
        bundle,
        fresh["row"].to_numpy(np.int64),
        fresh["answer"].tolist(),
        by=fresh["by"].tolist(),
        at=fresh["at"].where(fresh["at"] != "", now()).tolist(),
        order=fresh["order"].tolist(),
    )
    return len(fresh)


def _read(path: Path) -> pd.DataFrame:
    """Read a table, all as text.

    Raises:
        SettingError: If there is none, or it cannot be read.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise SettingError(
            f"'{path.name}' ends in '{path.suffix}'; answers are read from {' or '.join(ENDINGS)}"
        )
    if not path.is_file():
        raise SettingError(f"there is no file {path}; give one with the answers")
    try:
        if ending == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        with pq.ParquetFile(path) as opened:
            return opened.read().to_pandas().fillna("").astype(str)
    except (ValueError, pa.ArrowException) as error:
        raise SettingError(
            f"'{path.name}' is not a table that can be read ({error}); write it as {ending} anew"
        ) from error
