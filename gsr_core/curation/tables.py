"""Tables of samples of slices and flags, on the screen and in files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gsr_core.curation.flags import flagged
from gsr_core.curation.slices import checked_rows, list_slices
from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.files import replace_file
from gsr_core.workspace import Workspace

__all__ = [
    "ENDINGS",
    "check_table_file",
    "curated",
    "describe_flags",
    "describe_rows",
    "encode_table",
    "export_flags",
    "export_table",
    "write_table",
]


ENDINGS = (".csv", ".parquet")
"""Endings of the files that a table of samples can be written to."""


def describe_rows(bundle: Bundle, rows: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Return what a bundle knows about samples, with more columns.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
        **columns: One value, or one for each row.

    Returns:
        sample_id, row, split, class, group, `columns`, and the bundle's attributes; an attribute
        that has the name of a column before it gets "attribute: " before its own.

    Raises:
        SettingError: If a row is not in the bundle.
    """
    rows = checked_rows(bundle, rows)
    places = pa.array(rows)
    table = pd.DataFrame(
        {
            "sample_id": bundle.column("sample_id").take(places).to_pandas(),
            "row": rows,
            "split": bundle.column("split").take(places).to_pandas(),
            "class": np.array(bundle.manifest.classes, dtype=object)[bundle.y[rows]],
            "group": bundle.labels_at(rows).to_pandas(),
        }
    )
    for name, value in columns.items():
        # By position: the index of a series means nothing here.
        table[name] = value.to_numpy() if isinstance(value, pd.Series) else value
    own = set(table.columns)
    for name in bundle.manifest.attributes:
        values = bundle.column(name).take(places).to_pandas()
        table[f"attribute: {name}" if name in own else name] = values
    return table


def describe_flags(workspace: Workspace, bundle: Bundle) -> pd.DataFrame:
    """Return the flagged samples as `describe_rows` does, with the content of their flags.

    Raises:
        GsrError: If the workspace's list of flags cannot be read.
    """
    flags = flagged(workspace, bundle).rename(columns={"created": "flagged"})
    rows = flags.pop("row").to_numpy()
    return describe_rows(bundle, rows, **{str(key): flags[key] for key in flags})


def curated(workspace: Workspace, bundle: Bundle) -> dict[str, pd.DataFrame]:
    """Return all that the user picked out of a bundle, by name: `flags` and `slices`.

    Each is as `describe_rows` has it; that of slices has a row for each slice of a sample, named in
    its column slice. What is empty is left out.

    Raises:
        GsrError: If the workspace's list of flags or of slices cannot be read.
    """
    flags = describe_flags(workspace, bundle)
    slices = [
        describe_rows(bundle, each.rows, slice=each.name) for each in list_slices(workspace, bundle)
    ]
    tables = {"flags": flags} if len(flags) else {}
    return {**tables, **({"slices": pd.concat(slices, ignore_index=True)} if slices else {})}


def export_table(bundle: Bundle, rows: np.ndarray, path: Path, **columns: Any) -> None:
    """Write `describe_rows` to a file, CSV or parquet by its ending: whole, or not at all.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
        path: A new file.
        **columns: More columns, such as the slice's name: one value, or one for each row.

    Raises:
        SettingError: If a row is not in the bundle, the file exists or its ending is another.
    """
    write_table(describe_rows(bundle, rows, **columns), path)


def export_flags(workspace: Workspace, bundle: Bundle, path: Path) -> int:
    """Write `describe_flags` to a file as `export_table` does; return the number of samples.

    Raises:
        SettingError: If the file exists or its ending is another.
        GsrError: If the workspace's list of flags cannot be read.
    """
    table = describe_flags(workspace, bundle)
    write_table(table, path)
    return len(table)


def check_table_file(path: Path) -> None:
    """Check that a table can be written to a file.

    Raises:
        SettingError: If the file exists or its ending is none of `ENDINGS`.
    """
    if path.suffix.lower() not in ENDINGS:
        raise SettingError(
            f"'{path.name}' ends in '{path.suffix}'; a table is written as {' or '.join(ENDINGS)}"
        )
    if path.exists():
        raise SettingError(f"{path} exists already; give a file that does not")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table to a new file, CSV or parquet by its ending: whole, or not at all.

    Raises:
        SettingError: If the file exists or its ending is another.
    """
    check_table_file(path)
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path.resolve()) as temporary:
        temporary.write_bytes(encode_table(table, path.suffix.lower()))


def encode_table(table: pd.DataFrame, ending: str) -> bytes:
    """Return a table as the content of a file with one of `ENDINGS`."""
    if ending == ".csv":
        return table.to_csv(index=False).encode()
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink)
    return sink.getvalue()
