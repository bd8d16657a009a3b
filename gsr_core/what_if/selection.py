"""Which rows of a run an edit is of: named in words, checked, and made into an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gsr_core.clusterings.store import open_clustering
from gsr_core.curation.flags import flagged
from gsr_core.curation.slices import checked_rows, find_slice
from gsr_core.data.edits import MOST_TIMES, EditKind, RowEdit, class_of, rows_as_text
from gsr_core.errors import RunStateError, SettingError
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import Run
from gsr_core.settings import suggestion
from gsr_core.what_if.refits import Refits

__all__ = [
    "ORDERS",
    "Selection",
    "by_position",
    "by_sample_id",
    "in_cluster",
    "in_slice",
    "make_edit",
    "on_flag_list",
    "the_first",
]

ORDERS = {
    "heaviest": ("rank", True),
    "lightest": ("rank", False),
    "most harmful": ("goal", False),
    "most helpful": ("goal", True),
}
"""By name, the column of `sample_table` that rows are ordered by, and whether it ascends."""

_NAMED = 3
"""Positions and ranges that are named in words."""


@dataclass(frozen=True)
class Selection:
    """Rows that were chosen, and how.

    Attributes:
        rows: (q,) positions in the bundle.
        about: How, in words.
    """

    rows: np.ndarray
    about: str


def in_slice(run: Run, name: str) -> Selection:
    """Return the rows of a named slice of the run's bundle.

    Raises:
        SettingError: If there is none of that name.
    """
    found = find_slice(run.workspace, run.bundle, name)
    return Selection(found.rows, f"slice {found.name}")


def on_flag_list(run: Run) -> Selection:
    """Return the flagged rows of the run's bundle."""
    return Selection(flagged(run.workspace, run.bundle)["row"].to_numpy(), "flagged")


def in_cluster(run: Run, clustering: str, cluster: str) -> Selection:
    """Return the rows of a cluster.

    Args:
        run: On the clustering's bundle.
        clustering: Name of the clustering.
        cluster: Name of the cluster.

    Raises:
        RunNotFoundError: If there is no such clustering.
        SettingError: If it has no such cluster, or is of another bundle.
    """
    opened = open_clustering(run.workspace, clustering)
    opened.check_data(run.config.bundle_digest, run.config.bundle)
    names = opened.names
    wanted = [number for number, name in names.items() if name == cluster]
    if not wanted:
        raise SettingError(
            f"clustering '{clustering}' has no cluster '{cluster}'"
            f"{suggestion(cluster, names.values())}; its clusters are {', '.join(names.values())}"
        )
    table = opened.assigned()
    return Selection(
        table.loc[table["cluster"].isin(wanted), "row"].to_numpy(), f"cluster {cluster}"
    )


def by_position(rows: np.ndarray) -> Selection:
    """Return rows by their positions in the bundle.

    Args:
        rows: (q,) positions, at least one.

    Example:
        >>> by_position(np.array([9, 3, 4, 12, 20])).about
        'rows 3-4, 9, 12, ...'
    """
    parts = rows_as_text(rows).split(",")
    shown = [*parts[:_NAMED], *["..."] * (len(parts) > _NAMED)]
    return Selection(rows, f"rows {', '.join(shown)}")


def by_sample_id(run: Run, ids: Sequence[str]) -> Selection:
    """Return the rows with these sample_ids.

    In words they are positions: an edit's words stand in reports that leave out single samples.

    Raises:
        SettingError: If the bundle has no sample of an id.
    """
    known = pd.Index(run.bundle.column("sample_id").to_pandas().astype(str))
    if unknown := [each for each in ids if each not in known]:
        raise SettingError(
            f"bundle '{run.config.bundle}' has no sample '{unknown[0]}'"
            f"{suggestion(unknown[0], known)}; 'sample_id' in its tables has the names"
        )
    return by_position(np.flatnonzero(known.isin(ids)))


def the_first(run: Run, count: int, order: str, table: pd.DataFrame | None = None) -> Selection:
    """Return the first rows of a run by weight or by influence on what it minimises.

    Rows of weight 0 are passed over, since no edit of them changes anything.

    Args:
        run: Ended, with weights.
        count: How many, at least one.
        order: One of `ORDERS`. Most harmful: more weight raises the groups' losses most.
        table: `sample_table` of the rows that have weights, if it is there already.

    Raises:
        SettingError: If so many rows are not there.
        RunStateError: If the run has no influence to order by.
    """
    table = sample_table(run, run.values_split) if table is None else table
    column, ascending = ORDERS[order]
    if "weight" in table.columns:
        table = table[table["weight"] > 0]
    if column not in table.columns:
        raise RunStateError(
            f"run '{run.run_id}' has no {'weights' if column == 'rank' else 'influence'} of single "
            "rows to order them by; choose other rows, or a run of gsr"
        )
    if not 1 <= count <= len(table):
        raise SettingError(
            f"the {count:,} {order} rows were asked for; {len(table):,} have a weight above 0, so "
            f"give a number from 1 to {len(table):,}"
        )
    ordered = table.sort_values(column, ascending=ascending, kind="stable")
    return Selection(ordered["row"].to_numpy()[:count], f"the {count:,} {order}")


def make_edit(
    refits: Refits,
    chosen: Selection,
    kind: EditKind,
    *,
    times: float = 1.0,
    label: str = "",
) -> RowEdit:
    """Return an edit of those of the chosen rows that have weights.

    Args:
        refits: The run.
        chosen: Rows of any split of its bundle.
        kind: What is done to them.
        times: Factor of their weights, for `times`.
        label: Name of their new class, for `relabel`.

    Raises:
        SettingError: If the edit would change nothing, or leave nothing to fit.

    Example:
        >>> refits = gsr.open_refits(gsr.run(place, "birds", "gsr", steps=3))
        >>> edit = gsr.make_edit(refits, gsr.Selection(refits.position[:2], "a try"), "drop")
        >>> edit.words
        'without 2 rows (a try)'
    """
    split, run = refits.run.values_split, refits.run
    rows = checked_rows(refits.bundle, chosen.rows)
    own = np.intersect1d(rows, refits.position)
    if not len(rows):
        raise SettingError(
            f"there is no row to edit ({chosen.about}); choose among the {len(refits.position):,} "
            f"rows of {split}"
        )
    if not len(own):
        raise SettingError(
            f"none of the {len(rows):,} rows ({chosen.about}) has a weight in run '{run.run_id}'; "
            f"choose among the {len(refits.position):,} rows of {split}"
        )
    if kind == "times" and not (0 <= times <= MOST_TIMES and times != 1):
        raise SettingError(
            f"the factor of the weights is {times:g}; give a number from 0 to {MOST_TIMES:g} other "
            "than 1"
        )
    if kind == "relabel":
        class_of(label, refits.bundle.manifest.classes)
    edit = RowEdit(
        base=run.run_id,
        kind=kind,
        rows=rows_as_text(own),
        times=times if kind == "times" else 1.0,
        label=label if kind == "relabel" else "",
        about=chosen.about,
    )
    if not refits.can_change(edit)[refits.places(edit)].any():
        why = "have weight 0" + f" or are '{label}' already" * (kind == "relabel")
        raise SettingError(
            f"all {len(own):,} rows ({chosen.about}) {why}, so that nothing would change; choose "
            "others"
        )
    edit.weights(refits.weight, refits.position)
    return edit
