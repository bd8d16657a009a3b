"""The choice of samples: split, filters and order, all in the URL."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.comparing.changes import changed_samples
from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.errors import GsrError
from gsr_core.runs.store import Run, open_run
from gsr_core.runs.summary import run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain
from gsr_core.views.session import load_samples, workspace
from gsr_core.views.slices import choose_slice, downloads

__all__ = ["choose_samples", "download", "passing"]

_WEIGHT_SORTS = {"heaviest": ("rank", True), "lightest": ("rank", False)}
_OTHER_SORTS = {
    "highest loss": ("loss", False),
    "lowest loss": ("loss", True),
    "least confident": ("confidence", True),
    "row": ("row", True),
}
_SORTS = {**_WEIGHT_SORTS, **_OTHER_SORTS}
"""Column of each order, and whether it ascends."""


def choose_samples(bundle: Bundle, run: Run) -> tuple[pd.DataFrame, np.ndarray, str]:
    """Draw the filters.

    Returns:
        The split's `sample_table`, the positions that pass, in order, and the filters in words.
    """
    manifest = bundle.manifest
    present = [split for split in SPLITS if split in manifest.split_sizes]
    with st.container(horizontal=True, vertical_alignment="bottom", key="filters"):
        split = nav.select("split", "Split", present, default=run.values_split, width=130)
        table = load_samples(run, split)
        sorts = _SORTS if "weight" in table.columns else _OTHER_SORTS
        order = nav.select("sort", "Order", list(sorts), width=170)
        group = nav.select("group", "Group", ["", *bundle.group_names], format_func=_all, width=200)
        y = nav.select("y", "Class", ["", *manifest.classes], format_func=_all, width=170)
        prediction = nav.select(
            "prediction",
            "Prediction",
            ["", "right", "wrong", *manifest.classes],
            format_func=_all,
            width=170,
        )
        slice_ = choose_slice(bundle)
        changed = _changed(bundle, run, split, table)
    chosen = _both(None if slice_ is None else slice_.rows, changed)
    if "weight" not in table.columns:
        st.caption(
            f"The samples of {split} carry no weight in this run; those of {run.values_split} do."
        )
    places = passing(
        bundle, table, group=group, y=y, prediction=prediction, rows=chosen, order=order
    )
    filters = [f"split {split}"]
    filters += [f"group {group}"] * bool(group) + [f"class {y}"] * bool(y)
    filters += [f"prediction {prediction}"] * bool(prediction)
    filters += [] if slice_ is None else [f"only {slice_.label}"]
    filters += [f"{nav.get('changed')} against another run"] * (changed is not None)
    return table, places, ", ".join(filters)


def passing(
    bundle: Bundle,
    table: pd.DataFrame,
    *,
    group: str = "",
    y: str = "",
    prediction: str = "",
    rows: np.ndarray | None = None,
    order: str = "row",
) -> np.ndarray:
    """Return the rows of a table that pass some filters, in order; an empty filter passes all.

    Args:
        bundle: The data.
        table: From `sample_table`.
        group: Name of a group.
        y: Name of a class.
        prediction: `right`, `wrong` or the name of a class.
        rows: (q,) positions in the bundle.
        order: `heaviest`, `lightest`, `highest loss`, `lowest loss`, `least confident` or `row`;
            equal rows keep their order in the table.

    Returns:
        (p,) positions in the table.
    """
    classes = bundle.manifest.classes
    keep = np.ones(len(table), dtype=bool)
    if group:
        keep &= bundle.membership[table["row"].to_numpy(), bundle.group_names.index(group)]
    if y:
        keep &= table["y"].to_numpy() == classes.index(y)
    if prediction in ("right", "wrong"):
        keep &= table["correct"].to_numpy() == (prediction == "right")
    elif prediction:
        keep &= table["prediction"].to_numpy() == classes.index(prediction)
    if rows is not None:
        keep &= np.isin(table["row"].to_numpy(), rows)
    column, ascending = _SORTS[order]
    # Sort only this column: to reorder all would take longer than everything else.
    positions = np.flatnonzero(keep)
    values = table[column].to_numpy()[positions]
    return positions[np.argsort(values if ascending else -values, kind="stable")]


def _all(option: str) -> str:
    return option or "all"


def _changed(bundle: Bundle, run: Run, split: str, table: pd.DataFrame) -> np.ndarray | None:
    """Return the rows that the run fixed or broke against a reference; draw how to clear them.

    The URL, to which the Compare page links, says which of the two and against which run.
    """
    what, name = nav.get("changed"), nav.get("reference")
    if what not in ("fixed", "broken") or name in ("", run.run_id):
        return None
    try:
        reference = open_run(workspace(), name)
        _, *sets = changed_samples(bundle, load_samples(reference, split), table)
    except GsrError as error:
        st.caption(f"Cannot tell what was {what}: {plain(error)}")
        return None
    rows = sets[0 if what == "fixed" else 1]
    st.button(
        f"{len(rows):,} {what} against {plain(run_label(reference.config))}",
        icon=":material/close:",
        help="Fixed: wrong under the other run, right under this one. Broken: the other way "
        "round. Press to show all samples again.",
        key="drop changed",
        on_click=lambda: nav.put(changed=None),
    )
    return rows


def _both(one: np.ndarray | None, two: np.ndarray | None) -> np.ndarray | None:
    """Return the rows that pass both of two filters; None is no filter."""
    if one is None or two is None:
        return two if one is None else one
    return np.intersect1d(one, two)


def download(bundle: Bundle, run: Run, table: pd.DataFrame, places: np.ndarray) -> None:
    """Offer the samples shown as CSV and as parquet."""
    classes = dict(enumerate(bundle.manifest.classes))

    def shown() -> pd.DataFrame:
        rows = table.iloc[places]
        return rows.assign(y=rows["y"].map(classes), prediction=rows["prediction"].map(classes))

    downloads(
        shown,
        label=f"Download these {len(places):,} as",
        name=f"{bundle.name}-{run.run_id}-samples",
        key="samples",
    )
