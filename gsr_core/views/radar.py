"""What a repair did, on the Compare page: the subsets that lost most, and what the head leans on.

The pair is the page's reference and the entry held against it, by their runs of one seed.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from gsr_core.comparing.changes import shared_run
from gsr_core.comparing.entries import Entry
from gsr_core.comparing.radar import Radar
from gsr_core.curation.subsets import Subset
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.figures.reliance import lean_before_after
from gsr_core.runs.store import Run
from gsr_core.views.charts import percent, plain, show, show_error, show_rows
from gsr_core.views.compare_pairs import count_link
from gsr_core.views.loading import load_radar, load_reliance
from gsr_core.views.slices import offered_slice, slices_of

__all__ = ["what_broke", "what_it_leans_on"]

_SHOWN = 8
"""Subsets that are shown with links; the table below has all."""
_ATTRIBUTES = 10
"""Attributes that are measured, those of the largest pull."""


def what_broke(bundle: Bundle, reference: Entry, other: Entry) -> None:
    """Draw the subsets on which an entry is worse than the reference, the surest harm first.

    Args:
        bundle: The data.
        reference: What the other repairs.
        other: The repair.
    """
    one, two = shared_run(reference, other)
    try:
        found = load_radar(one, two, slices_of(bundle), bundle)
    except GsrError as error:
        show_error(error)
        return
    table = found.table
    harmed = table[table["net"] < 0]
    sure = int((table["verdict"] == "worse").sum())
    st.markdown(
        f"**{plain(other.label)} is worse on {sure:,}** and better on "
        f"{int((table['verdict'] == 'better').sum()):,} of {len(table):,} subsets, beyond chance "
        f"for all of them at once. {len(harmed):,} lost more samples than they gained."
    )
    if len(harmed):
        _rows(bundle, found, harmed.head(_SHOWN).to_dict("records"), one, two)
    with st.expander("Every subset in numbers"):
        _all(found)
    st.caption(
        "Subsets are the groups, saved slices, clusters, and values of the class and attributes "
        "crossed up to three at a time, of at least 20 test samples. McNemar's exact test on the "
        "same samples before and after, p corrected for all subsets (Holm), so that a "
        "group can be worse among the groups above and not for sure among so many here. Subsets "
        "overlap: one harm can show in several."
    )


def _rows(bundle: Bundle, found: Radar, harmed: list[dict[Any, Any]], one: Run, two: Run) -> None:
    widths, gap = [5, 5, 2, 3], "xsmall"
    with st.container(key="radar", gap="xsmall"):
        heads = ("subset", "accuracy", "fixed", "broken")
        for place, head in zip(st.columns(widths, gap=gap), heads, strict=True):
            place.caption(head)
        for row, subset in zip(harmed, found.subsets, strict=False):
            cells = st.columns(widths, gap=gap, vertical_alignment="center")
            verdict = f"**{row['verdict']}**" if row["verdict"] == "worse" else row["verdict"]
            cells[0].markdown(
                f"{plain(row['name'])}  \n:small[:gray[{row['kind']}, {row['samples']:,} samples: "
                f"{verdict}, p {row['p_holm']:.2g}]]"
            )
            cells[1].markdown(f"{percent(row['base'])} → {percent(row['repair'])}")
            for cell, what in zip(cells[2:], ("fixed", "broken"), strict=True):
                with cell:
                    count_link(row[what], what, one, two, *_place(bundle, subset))


def _place(bundle: Bundle, subset: Subset) -> tuple[str, str | None]:
    """Return the group and the set of samples by which Samples finds a subset."""
    if subset.kind == "group":
        return subset.name, None
    return "", offered_slice(bundle, subset.rows)


def _all(found: Radar) -> None:
    share = st.column_config.NumberColumn(format="percent")
    shown = found.table.rename(columns={"name": "subset", "base": "before", "repair": "after"})
    show_rows(
        shown[
            ["subset", "kind", "samples", "before", "after", "fixed", "broken", "verdict", "p_holm"]
        ],
        column_config={
            "subset": st.column_config.Column(width="medium", pinned=True),
            "before": share,
            "after": share,
            "p_holm": st.column_config.NumberColumn("p (Holm)", format="%.2g"),
        },
    )


def what_it_leans_on(bundle: Bundle, reference: Entry, other: Entry) -> None:
    """Draw how far each head leans on each attribute, before and after.

    Args:
        bundle: The data.
        reference: The head before.
        other: The head after.
    """
    one, two = shared_run(reference, other)
    try:
        table = load_reliance(one, two, bundle, _ATTRIBUTES)
    except GsrError as error:
        show_error(error)
        return
    if table.empty:
        st.info(
            "No attribute of this bundle has ten test samples with and without a value in two "
            "classes, which is what it takes to say what a head leans on."
        )
        return
    figure = lean_before_after(table, before=reference.label, after=other.label)
    show(figure, key="reliance", alt="Pull of each attribute on the score, before and after.")
    st.caption(
        "How far the score moves, in its standard deviations inside a class, when the attribute "
        "changes and the class does not; 0 is no reliance. Bars: 95 % intervals of test samples "
        "drawn anew. Share: of the score's variance over class and attribute, that of the "
        "attribute."
    )
    with st.expander("Reliance in numbers"):
        _numbers(table, {one.run_id: reference.label, two.run_id: other.label})


def _numbers(table: pd.DataFrame, labels: dict[str, str]) -> None:
    share = st.column_config.NumberColumn(format="percent")
    number = st.column_config.NumberColumn(format="%.2f")
    shown = table.assign(
        method=table["run"].map(labels), attribute=table["attribute"] + "=" + table["value"]
    ).rename(
        columns={
            "two": "towards",
            "lean": "pull",
            "core": "pull of the class",
            "joint_share": "of both together",
            "whitened": "whitened cosine",
            "worst_error": "worst error, if normal",
        }
    )
    columns = ["attribute", "method", "towards", "pull", "pull of the class", "share"]
    columns += ["of both together", "auroc", "whitened cosine", "worst error, if normal"]
    show_rows(
        shown[columns],
        column_config={
            **dict.fromkeys(("pull", "pull of the class", "auroc", "whitened cosine"), number),
            **dict.fromkeys(("share", "of both together", "worst error, if normal"), share),
            "auroc": st.column_config.NumberColumn(
                "AUROC",
                format="%.2f",
                help="Chance that of two samples of a class the one with the value has the higher "
                "score; 0.5 is no reliance.",
            ),
        },
    )
