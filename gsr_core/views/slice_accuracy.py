"""How a classifier does on each slice, on the Audit page."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from gsr_core.curation.accuracy import slice_accuracy
from gsr_core.data.bundle import Bundle
from gsr_core.figures.groups import group_accuracy
from gsr_core.figures.theme import UNKNOWN
from gsr_core.runs.store import Run
from gsr_core.views.charts import colours_of, percent, plain, show, show_rows
from gsr_core.views.frame import link
from gsr_core.views.slices import NO_SLICE, slices_of

__all__ = ["accuracy_of_slices"]


def accuracy_of_slices(bundle: Bundle, run: Run, split: str, samples: pd.DataFrame) -> None:
    """Draw the accuracy of a classifier on each slice, with links to its mistakes.

    Args:
        bundle: The data.
        run: The classifier.
        split: The split of the samples.
        samples: `sample_table` of the whole split.
    """
    st.subheader(f"Accuracy of each slice on {split}", anchor=False)
    slices = slices_of(bundle)
    if not slices:
        st.caption(NO_SLICE)
        return
    scored = slice_accuracy(bundle, samples, slices)
    there, missing = scored[scored["n"] > 0], scored.loc[scored["n"] == 0, "slice"]
    if len(missing):
        names = ", ".join(plain(name) for name in missing)
        st.caption(f"Without a sample in {split}: {names}.")
    if there.empty:
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        colours = colours_of(bundle)
        figure = group_accuracy(
            there.drop(columns="group").rename(columns={"slice": "group"}),
            colours={
                name: colours.get(group, UNKNOWN)
                for name, group in zip(there["slice"], there["group"], strict=True)
            },
            mean=float(samples["correct"].mean()),
            what="slice",
        )
        show(figure, key="slice accuracy", alt="Accuracy of each slice with its 95 % interval.")
        st.caption(
            f"Dots are accuracies on the slice's samples in {split}, bars 95 % Wilson intervals; "
            "grey means fewer than 20 samples. The colour is that of the group that most of the "
            "slice's samples are in."
        )
    with right:
        _worst(there)
        share = st.column_config.NumberColumn(format="percent")
        show_rows(
            there[["slice", "accuracy", "group", "purity", "n"]],
            column_config={
                "slice": st.column_config.Column(pinned=True),
                "accuracy": share,
                "group": st.column_config.Column("mostly of group"),
                "purity": st.column_config.NumberColumn(
                    "its share",
                    format="percent",
                    help=f"Share of the slice's samples in {split} that are in that group.",
                ),
            },
        )
    with st.container(horizontal=True, key="slice mistakes"):
        for row in there.to_dict("records"):
            link(
                "Samples",
                f"{plain(row['slice'])}: {row['wrong']:,} of {row['n']:,} wrong",
                run=run.run_id,
                split=split,
                slice=row["key"],
                prediction="wrong",
                sort="highest loss",
                **dict.fromkeys(("group", "y", "changed", "sample")),
            )


def _worst(there: pd.DataFrame) -> None:
    if not there["worst"].any():
        st.caption("Every slice has fewer than 20 samples here, too few to name a worst one.")
        return
    row = there[there["worst"]].iloc[0]
    of = f", of which {percent(row['purity'])} are {plain(row['group'])}" if row["group"] else ""
    st.markdown(
        f"Worst slice: **{plain(row['slice'])}**, {percent(row['accuracy'])} right of "
        f"{row['n']:,} samples{of}."
    )
