"""The choice of samples: split, filters and order, all in the URL."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.comparing.changes import changed_samples
from gsr_core.data.bundle import SIMILARITY, SPLITS, Bundle
from gsr_core.errors import GsrError
from gsr_core.methods.base import Values
from gsr_core.methods.registry import METHODS
from gsr_core.runs.store import Run, open_run
from gsr_core.runs.summary import run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show_error
from gsr_core.views.frame import Frame
from gsr_core.views.loading import load_samples, load_search, load_values
from gsr_core.views.phrases import passing_phrase, with_similarity
from gsr_core.views.session import workspace
from gsr_core.views.slices import choose_slice, downloads

__all__ = ["choose_samples", "download", "passing"]

_SORTS = {
    "nearest to the phrase": (SIMILARITY, False),
    "heaviest": ("rank", True),
    "lightest": ("rank", False),
    "helps the goal most": ("goal", True),
    "harms the goal most": ("goal", False),
    "heavier than in B": ("difference", False),
    "lighter than in B": ("difference", True),
    "highest loss": ("loss", False),
    "lowest loss": ("loss", True),
    "least confident": ("confidence", True),
    "row": ("row", True),
}
"""Column of each order, and whether it ascends. An order is offered where its column is there."""

_MEASURES = ("weight", "goal", "difference", "loss", "confidence")
"""Columns that a range can be asked of."""

_FILTERS = ("group", "y", "prediction", "slice", "changed", "other", *nav.FOUND_BY)
"""Choices that a reset clears."""

_MOST_VALUES = 200
"""Values of an attribute that can be chosen from."""


def choose_samples(page: Frame) -> tuple[pd.DataFrame, np.ndarray, str, str]:
    """Draw the filters.

    Returns:
        The split's `sample_table`, with a column `difference` where a run B is chosen; the
        positions that pass, in order; the filters in words; and what the order is by.
    """
    bundle, run = page.bundle, page.run
    assert run is not None
    manifest = bundle.manifest
    present = [split for split in SPLITS if split in manifest.split_sizes]
    with st.container(horizontal=True, vertical_alignment="bottom", key="filters"):
        split = nav.select("split", "Split", present, default=run.values_split, width=120)
        table = with_similarity(bundle, load_samples(run, split))
        others = _others(page, split) if "weight" in table.columns else {}
        if (other := others.get(nav.get("other"))) is not None:
            table = table.assign(difference=_difference(table, load_samples(other, split)))
        sorts = [name for name, (column, _) in _SORTS.items() if column in table.columns]
        order = nav.select("sort", "Order", sorts, width=180)
        group = nav.select("group", "Group", ["", *bundle.group_names], format_func=_all, width=190)
        y = nav.select("y", "Class", ["", *manifest.classes], format_func=_all, width=140)
        prediction = nav.select(
            "prediction",
            "Prediction",
            ["", "right", "wrong", *manifest.classes],
            format_func=_all,
            width=140,
        )
        slice_ = choose_slice(bundle)
        words = nav.write(
            "search",
            "Search",
            placeholder="id, text or value",
            help="Any part of an id, a text or a value; a number is the whole value. "
            "“age: 25” looks in the column age alone.",
            width=170,
        )
        attribute, measure = _more_filters(bundle, table, others)
        changed = _changed(bundle, run, split, table)
        if any(nav.get(name) for name in _FILTERS):
            st.button(
                "Reset",
                icon=":material/filter_alt_off:",
                key="reset filters",
                on_click=lambda: nav.put(**dict.fromkeys(_FILTERS)),
            )
    near = passing_phrase(bundle, table, split) if SIMILARITY in table.columns else None
    chosen = _all_of(
        near,
        None if slice_ is None else slice_.rows,
        changed,
        load_search(bundle, words) if words else None,
    )
    if METHODS[run.config.method].values is Values.NONE:
        st.caption("In this run all samples count alike, so that none has a weight.")
    elif "weight" not in table.columns:
        st.caption(
            f"The samples of {split} carry no weight in this run; those of {run.values_split} do."
        )
    places = passing(
        bundle,
        table,
        group=group,
        y=y,
        prediction=prediction,
        rows=chosen,
        attribute=attribute,
        measure=measure,
        order=order,
    )
    filters = [f"split {split}"]
    filters += [f"group {group}"] * bool(group) + [f"class {y}"] * bool(y)
    filters += [f"prediction {prediction}"] * bool(prediction)
    filters += [] if slice_ is None else [f"only {slice_.label}"]
    filters += [f"with “{words}”"] * bool(words)
    if near is not None:
        filters.append(f"similarity to “{nav.get('phrase')}” from {nav.get('near')}")
    filters += [f"{attribute[0]} {attribute[1]}"] if attribute else []
    filters += [_range_in_words(*measure)] if measure else []
    filters += [f"{nav.get('changed')} against another run"] * (changed is not None)
    if _SORTS[order][0] == SIMILARITY:
        order = f"nearness to “{nav.get('phrase')}”"
    return table, places, ", ".join(filters), order


def passing(
    bundle: Bundle,
    table: pd.DataFrame,
    *,
    group: str = "",
    y: str = "",
    prediction: str = "",
    rows: np.ndarray | None = None,
    attribute: tuple[str, str] | None = None,
    measure: tuple[str, float, float] | None = None,
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
        attribute: Column of the table and the value, as text, that it must have.
        measure: Column of the table, and its least and its greatest value.
        order: A key of the orders that are offered, such as `heaviest`, `highest loss` or `row`;
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
    if attribute is not None:
        keep &= (table[attribute[0]].astype(str) == attribute[1]).to_numpy()
    if measure is not None:
        keep &= table[measure[0]].between(*measure[1:]).to_numpy()
    column, ascending = _SORTS[order]
    # Sort only this column: to reorder all would take longer than everything else.
    positions = np.flatnonzero(keep)
    values = table[column].to_numpy()[positions]
    return positions[np.argsort(values if ascending else -values, kind="stable")]


def _others(page: Frame, split: str) -> dict[str, Run]:
    """Return the runs by name that give the samples of a split weights too."""
    run = page.run
    assert run is not None
    if split != run.values_split:
        return {}
    mine = METHODS[run.config.method].values_on
    return {
        each.run_id: each
        for each in page.ended
        if each.run_id != run.run_id
        and METHODS[each.config.method].values_on == mine
        and (each.path / "weights.parquet").exists()
    }


def _difference(table: pd.DataFrame, other: pd.DataFrame) -> np.ndarray:
    """Return (n,) how much heavier each sample is than in another run, in equal shares.

    NaN for those that the other run gives no weight.
    """
    weight = other.set_index("row")["weight"].reindex(table["row"])
    return table["weight"].to_numpy() - weight.to_numpy()


def _more_filters(
    bundle: Bundle, table: pd.DataFrame, others: dict[str, Run]
) -> tuple[tuple[str, str] | None, tuple[str, float, float] | None]:
    """Draw the filters that are needed less often; return those on an attribute and on a range."""
    values = load_values(bundle, _MOST_VALUES)
    measures = [name for name in _MEASURES if name in table.columns]
    name = value = ""
    in_use = sum(bool(nav.get(name)) for name in ("value", "measure", "other"))
    with st.popover(f"More ({in_use})" if in_use else "More", icon=":material/tune:"):
        if values:
            left, right = st.columns(2)
            with left:
                name = nav.select(
                    "attribute", "Attribute", ["", *values], format_func=_all, clears=("value",)
                )
            with right:
                value = nav.select(
                    "value",
                    "Value",
                    ["", *values.get(name, [])],
                    format_func=_all,
                    disabled=not name,
                )
        first, low_place, high_place = st.columns([2, 1, 1])
        with first:
            measure = nav.select("measure", "Range of", ["", *measures], format_func=_none)
        with low_place:
            low = nav.write("low", "From", placeholder="any", disabled=not measure)
        with high_place:
            high = nav.write("high", "To", placeholder="any", disabled=not measure)
        if others:
            nav.select(
                "other",
                "Run B, to order by the difference of the weights",
                ["", *others],
                format_func=lambda run_id: run_label(others[run_id]) if run_id else "none",
            )
    attribute = (name, value) if name and value else None
    try:
        ends = float(low or "-inf"), float(high or "inf")
    except ValueError:
        show_error(
            f"the range of {measure} is from '{low}' to '{high}'; give two numbers, or leave a "
            "field empty"
        )
        return attribute, None
    return attribute, (measure, *ends) if measure and (low or high) else None


def _range_in_words(measure: str, low: float, high: float) -> str:
    ends = [f"from {low:g}"] * (low > -np.inf) + [f"to {high:g}"] * (high < np.inf)
    return f"{measure} {' '.join(ends)}"


def _none(option: str) -> str:
    return option or "nothing"


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
    # Without their number: other filters leave some of them out, and the gallery counts those left.
    st.button(
        f"Only {what} against {plain(run_label(reference))}",
        icon=":material/close:",
        help="Fixed: wrong under the other run, right under this one. Broken: the other way "
        "round. Press to show all samples again.",
        key="drop changed",
        on_click=lambda: nav.put(changed=None),
    )
    return rows


def _all_of(*sets: np.ndarray | None) -> np.ndarray | None:
    """Return the rows that pass every filter; None is no filter."""
    given = [each for each in sets if each is not None]
    return reduce(np.intersect1d, given) if given else None


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
