"""Flags: samples that somebody suspects, with reasons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gsr_core.curation.slices import checked_rows, locked
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError, SettingError
from gsr_core.files import replace_file
from gsr_core.names import check_text
from gsr_core.runs.store import now
from gsr_core.settings import suggestion
from gsr_core.workspace import Workspace

__all__ = ["flag_rows", "flagged", "unflag_rows"]


_BETWEEN = "; "
"""Between two reasons of one flag."""

_FLAGS = pa.schema(
    [
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("note", pa.string()),
        ("proposed_label", pa.string()),
        ("created", pa.string()),
    ]
)


def flag_rows(
    workspace: Workspace,
    bundle: Bundle,
    rows: np.ndarray,
    reason: str,
    *,
    note: str | None = None,
    proposed_label: str | None = None,
) -> None:
    """Flag samples as suspect. A sample has one flag, which collects the reasons.

    Args:
        workspace: Where.
        bundle: Whose samples.
        rows: (q,) positions in the bundle.
        reason: Why, in words; semicolons separate several reasons.
        note: More words; None leaves an earlier note as it is.
        proposed_label: Name of the class that the samples seem to be of, "" for none; None leaves
            an earlier label as it is.

    Raises:
        SettingError: If a row, the class, the reason or the note is not allowed.
        GsrError: If the workspace's list of flags cannot be read.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> gsr.flag_rows(place, bundle, np.array([3, 5]), "too dark")
        >>> gsr.flag_rows(place, bundle, np.array([5]), "two birds", proposed_label="dog")
        >>> flags = gsr.flagged(place, bundle).set_index("row")
        >>> flags.loc[5, ["reason", "proposed_label"]].tolist()
        ['too dark; two birds', 'dog']
    """
    positions = np.unique(checked_rows(bundle, rows))
    for what, text in (("reason", reason), ("note", note or "")):
        check_text(what, text)
    reasons = _reasons(reason)
    if not reasons:
        raise SettingError(f"the reason of a flag is {reason!r}; say why in at least one word")
    classes = bundle.manifest.classes
    if proposed_label and proposed_label not in classes:
        raise SettingError(
            f"proposed label '{proposed_label}' is not a class{suggestion(proposed_label, classes)}"
            f"; the classes are {', '.join(classes)}"
        )
    with locked(workspace.flags, bundle):
        before = flagged(workspace, bundle).set_index("row")
        table = before.reindex(before.index.union(pd.Index(positions, name="row")))
        fresh = {"reason": "", "note": "", "proposed_label": "", "created": now()}
        table = table.fillna(fresh)
        old = table.loc[positions, "reason"]
        # There are few different texts, however many rows there are.
        joined = {
            each: _BETWEEN.join(dict.fromkeys([*_reasons(each), *reasons])) for each in old.unique()
        }
        table.loc[positions, "reason"] = old.map(joined)
        for column, value in (("note", note), ("proposed_label", proposed_label)):
            if value is not None:
                table.loc[positions, column] = " ".join(value.split())
        _write_flags(workspace, bundle, table.reset_index())


def unflag_rows(workspace: Workspace, bundle: Bundle, rows: np.ndarray) -> None:
    """Delete the flags of samples, with their reasons and notes.

    Raises:
        SettingError: If a row is not in the bundle.
        GsrError: If the workspace's list of flags cannot be read.
    """
    positions = checked_rows(bundle, rows)
    with locked(workspace.flags, bundle):
        table = flagged(workspace, bundle)
        _write_flags(workspace, bundle, table[~table["row"].isin(positions)])


def flagged(workspace: Workspace, bundle: Bundle) -> pd.DataFrame:
    """Return the flags of a bundle's content by row: row, reason, note, proposed_label, created.

    `created` is the time of a sample's first flag, ISO 8601, UTC; a missing text is "".

    Raises:
        GsrError: If the workspace's list of flags cannot be read.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> gsr.flag_rows(place, bundle, np.array([7]), "blurred", note="seen on the map")
        >>> gsr.flagged(place, bundle).query("row == 7")[["row", "reason", "note"]].values.tolist()
        [[7, 'blurred', 'seen on the map']]
    """
    file = workspace.flags / f"{bundle.manifest.digest}.parquet"
    if not file.exists():
        return _FLAGS.empty_table().to_pandas()
    try:
        with pq.ParquetFile(file) as opened:
            return opened.read(columns=_FLAGS.names).cast(_FLAGS).to_pandas()
    except (pa.ArrowException, ValueError) as error:
        raise GsrError(f"{file} is not a list of flags; restore it or remove it") from error


def _reasons(text: str) -> list[str]:
    return [part for each in text.split(";") if (part := " ".join(each.split()))]


def _write_flags(workspace: Workspace, bundle: Bundle, table: pd.DataFrame) -> None:
    content = pa.Table.from_pandas(table, schema=_FLAGS, preserve_index=False)
    with replace_file(workspace.flags / f"{bundle.manifest.digest}.parquet") as temporary:
        pq.write_table(content, temporary)
