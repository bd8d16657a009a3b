"""The Compare page, lower half: differences from a reference, over seeds and by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.comparing.bootstrap import judged
from gsr_core.comparing.changes import changed_samples, shared_run
from gsr_core.comparing.entries import Entry, default_reference
from gsr_core.comparing.paired import paired_values, rank_correlation, seed_differences
from gsr_core.data.bundle import Bundle
from gsr_core.errors import ComparisonError
from gsr_core.figures.pairs import paired_differences, weight_against_weight
from gsr_core.methods.base import Values
from gsr_core.methods.registry import METHODS
from gsr_core.runs.store import Run
from gsr_core.runs.summary import run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import (
    colours_of,
    plain,
    sentence,
    show,
    show_rows,
    side_by_side,
    single_group,
)
from gsr_core.views.loading import load_bootstrap, load_samples
from gsr_core.views.slices import choose_slice, within

__all__ = [
    "choose_reference",
    "count_link",
    "differences",
    "fixed_and_broken",
    "value_against_value",
]

_MOST_POINTS = 30_000
_MOST_SEEDS, _MOST_ROWS = 100, 100
"""More than so many seeds, or so many times the test samples, nobody will have."""
_ONE_VALUE = {
    Values.WEIGHTS: "weight",
    Values.PROBABILITIES: "probability",
    Values.SUBSET: "share of subsets",
}


def choose_reference(compared: list[Entry]) -> Entry:
    """Draw the choice of the entry that the others are compared with, and return it."""
    return _choose("reference", "Reference", compared, default_reference(compared))


def _choose(name: str, label: str, compared: list[Entry], default: Entry) -> Entry:
    by_id = {entry.run_id: entry for entry in compared}
    of_run = {run.run_id: entry.run_id for entry in compared for run in entry.runs}
    # A link may name the run of any seed.
    if (current := nav.get(name)) in of_run:
        nav.put(**{name: of_run[current]})
    chosen = nav.select(
        name,
        label,
        list(by_id),
        default=default.run_id,
        format_func=lambda run_id: by_id[run_id].label,
        width=360,
    )
    return by_id[chosen]


def differences(
    bundle: Bundle,
    compared: list[Entry],
    table: pd.DataFrame,
    reference: Entry,
    average: str,
    average_name: str,
) -> None:
    """Draw how much better or worse than the reference each entry is, over seeds and test rows.

    Args:
        bundle: The data.
        compared: The entries.
        table: From `comparing.scores.scores`.
        reference: The entry that is subtracted.
        average: Metric of the average shown beside the worst group.
        average_name: Its name.
    """
    others = [entry for entry in compared if entry != reference]
    drawn = {entry.label: load_bootstrap(entry, reference, bundle) for entry in others}
    worst = judged(table, reference, drawn)
    beside = judged(table, reference, drawn, average)
    left, right = side_by_side()
    with left:
        points = seed_differences(table, reference.label)
        figure = paired_differences(worst, points, reference=reference.label)
        show(figure, key="paired", alt="Difference of worst-group accuracy with its interval.")
    with right:
        points_of = st.column_config.NumberColumn(format="%+.1f pp", help="Percentage points.")
        show_rows(
            {
                "method": worst["entry"],
                "worst group": 100 * worst["difference"],
                "verdict": worst["verdict"],
                "to tell them apart": [_needed(row) for row in worst.to_dict("records")],
                "shared seeds": worst["seeds"],
                "p (Holm)": worst["p_holm"],
                average_name: 100 * beside["difference"],
                "its verdict": beside["verdict"],
            },
            column_config={
                "method": st.column_config.Column(width="medium", pinned=True),
                "worst group": points_of,
                average_name: points_of,
                "p (Holm)": st.column_config.NumberColumn(
                    format="%.2g", help="Of the worst group; corrected for all rows."
                ),
            },
        )
        st.caption(
            "95 % intervals of the difference on the same seeds and test samples, each for one "
            "comparison: the wider ends of a t interval over seeds and of a bootstrap over seeds "
            "and test samples. An interval that contains 0 does not tell the two apart; what would "
            "takes this difference for the true one. p is corrected for all rows (Holm). Seeds "
            "redraw target, val and the method's own draws, not heldout or the backbone."
        )


def _needed(row: Mapping[Any, Any]) -> str:
    """Return what would tell an entry from the reference, "" where they are told apart."""
    if row["verdict"] in ("better", "worse"):
        return ""
    if row["verdict"] == "add seeds":
        return "two seeds at least"
    ways = []
    if 0 < row["seeds_needed"] < _MOST_SEEDS:
        # The t interval of few seeds asks for more than the normal one that this is counted by.
        ways.append(f"about {max(row['seeds_needed'], row['seeds'] + 1):.0f} seeds")
    if 1 < row["rows_needed"] < _MOST_ROWS:
        ways.append(f"{row['rows_needed']:.2g} × the test samples")
    return " or ".join(ways) or "no such number in reach"


def fixed_and_broken(bundle: Bundle, compared: list[Entry], reference: Entry, best: str) -> Entry:
    """Draw how many test samples of each group only one of two entries gets right, as links.

    Returns the entry that is held against the reference.

    Args:
        bundle: The data.
        compared: The entries.
        reference: The entry that the other is compared with.
        best: Label of the entry to show first, unless it is the reference.
    """
    others = [entry for entry in compared if entry != reference]
    first = next((entry for entry in others if entry.label == best), others[0])
    with st.container(horizontal=True, vertical_alignment="bottom", key="changed choices"):
        other = _choose("against", "Held against it", others, first)
        chosen = choose_slice(bundle)
    one, two = shared_run(reference, other)
    before, after = (within(load_samples(run, "test"), chosen) for run in (one, two))
    try:
        table, fixed, broken = changed_samples(bundle, before, after)
    except ComparisonError as error:
        st.info(sentence(error))
        return other
    widths, gap = [5, 3, 3, 3, 2], "xsmall"
    heads = ("group", "samples", "fixed", "broken", "net")
    with st.container(key="changed", gap="xsmall"):
        for place, head in zip(st.columns(widths, gap=gap), heads, strict=True):
            place.caption(head)
        rows = table.to_dict("records")
        everyone = {
            "group": "",
            "samples": len(before),
            "fixed": len(fixed),
            "broken": len(broken),
            "net": len(fixed) - len(broken),
        }
        for row in [*rows, everyone]:
            cells = st.columns(widths, gap=gap, vertical_alignment="center")
            everything = "all samples" if chosen is None else f"all of {plain(chosen.label)}"
            name = plain(row["group"]) or f"**{everything}**"
            verdict = _verdict(row)
            cells[0].markdown(f"{name}  \n:small[:gray[{verdict}]]" if verdict else name)
            cells[1].markdown(f"{row['samples']:,}")
            for cell, what in zip(cells[2:4], ("fixed", "broken"), strict=True):
                with cell:
                    count_link(
                        row[what], what, one, two, row["group"], chosen.key if chosen else None
                    )
            cells[4].markdown(f"{row['net']:+,}")
    st.caption(
        f"Fixed: wrong under {plain(run_label(one))}, right under "
        f"{plain(run_label(two))}, both of seed {two.config.seed}"
        f"{'' if one.config.seed == two.config.seed else f' and {one.config.seed}'}. Broken: the "
        "other way round. A count opens its samples. The verdict is McNemar's exact test on these "
        "samples, p corrected for all groups (Holm); it says nothing of another seed. So many "
        "samples as it needs would tell such a difference from chance four times in five. "
        "Too few changed: not even if all of them had changed the same way."
    )
    return other


def _verdict(row: dict[Any, Any]) -> str:
    """Return what the test of a group says, and how many samples it lacks."""
    verdict = row.get("verdict", "")
    if not verdict:
        return ""
    if verdict in ("better", "worse"):
        return f"**{verdict}**, p {row['p_holm']:.2g}"
    needed = row["needed"]
    if np.isfinite(needed) and needed > row["samples"]:
        return f"{verdict} (needs about {needed:,.0f} samples)"
    return str(verdict)


def count_link(
    count: int, what: str, one: Run, two: Run, group: str = "", key: str | None = None
) -> None:
    """Draw a number of changed samples as a link that opens them.

    Args:
        count: How many.
        what: `fixed` or `broken`.
        one: The run before.
        two: The run after.
        group: Only samples of this group; "" for all.
        key: Only samples of this slice; None for all.
    """
    if not count:
        st.markdown("0")
        return
    samples = nav.params(
        run=two.run_id,
        reference=one.run_id,
        changed=what,
        split="test",
        group=group,
        sort="highest loss",
        slice=key,
        **dict.fromkeys(("y", "prediction", "sample", *nav.FOUND_BY)),
    )
    st.page_link(
        nav.PAGES["Samples"],
        label=f"{count:,}",
        icon=":material/arrow_outward:",
        icon_position="right",
        query_params=samples,
    )


def value_against_value(bundle: Bundle, compared: list[Entry]) -> None:
    """Draw each sample's value under one method against that under another."""
    left, right = _first_pair(compared) or (compared[0], compared[1])
    with st.container(horizontal=True):
        a = _choose("left", "Across", compared, left)
        b = _choose("right", "Upwards", compared, right)
    one, two = shared_run(a, b)
    try:
        table = paired_values(one, two)
    except ComparisonError as error:
        st.info(f"Nothing to draw: {plain(error)}. Choose two methods that have values.")
        return
    correlation = rank_correlation(table)
    total = len(table)
    if total > _MOST_POINTS:
        table = table.sample(_MOST_POINTS, random_state=0)
    table = table.assign(group=single_group(bundle, table["row"].to_numpy()))
    figure = weight_against_weight(
        table,
        label_a=a.label,
        label_b=b.label,
        value_a=_ONE_VALUE.get(METHODS[a.config.method].values, "value"),
        value_b=_ONE_VALUE.get(METHODS[b.config.method].values, "value"),
        correlation=correlation,
        colours=colours_of(bundle),
    )
    show(figure, key="pair", alt="Value of each sample under both methods.")
    parts = [f"{total:,} samples of {one.values_split}, seeds {one.config.seed}, {two.config.seed}"]
    parts += [f"{len(table):,} of them drawn"] * (len(table) < total)
    parts += ["no rank correlation: one side is constant"] * math.isnan(correlation)
    st.caption("; ".join(parts) + ".")


def _first_pair(compared: list[Entry]) -> tuple[Entry, Entry] | None:
    """Return the first two that give values to the same rows, if possible values that differ."""
    able = [entry for entry in compared if METHODS[entry.config.method].values is not Values.NONE]
    pairs = [
        (one, two)
        for place, one in enumerate(able)
        for two in able[place + 1 :]
        if len({run.values_split for run in shared_run(one, two)}) == 1
    ]
    telling = (pair for pair in pairs if all(_differ(run) for run in shared_run(*pair)))
    return next(telling, pairs[0] if pairs else None)


def _differ(run: Run) -> bool:
    """Return whether a run gives its samples different values: kept at step 1, they are equal."""
    weights = run.weights(columns=["weight"])
    return weights is not None and bool(np.ptp(weights["weight"].to_numpy()) > 0)
