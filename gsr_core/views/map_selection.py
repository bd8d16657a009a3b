"""What is selected on the maps: numbers, pictures, a table, and what to do with them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.curation.tables import describe_rows
from gsr_core.views.charts import percent
from gsr_core.views.gallery import gallery
from gsr_core.views.map_choices import MapView
from gsr_core.views.slices import downloads, open_in_samples, save_and_flag

__all__ = ["selection"]


def selection(looked: MapView, rows: np.ndarray) -> None:
    """Draw the samples that are selected: numbers, pictures, a table, and what to do with them."""
    if not len(rows):
        st.caption(
            "Nothing is selected. Draw a lasso around points to see their samples."
            if looked.dimensions == 2
            else "A map in space can be turned, not selected on; the plane can."
        )
        return
    samples, bundle = looked.samples, looked.bundle
    table = samples[samples["row"].isin(rows)]
    order = "rank" if "rank" in table.columns else "loss"
    table = table.sort_values(order, ascending=order == "rank")
    st.subheader(f"{len(table):,} selected", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    with right:
        _statistics(looked, table)
    with left:
        how = st.segmented_control(
            "Show as",
            ["pictures", "table"],
            default="pictures",
            required=True,
            key="selected as",
            label_visibility="collapsed",
        )
        if how == "table":
            st.dataframe(table, hide_index=True, key="selected table")
        else:
            gallery(bundle, table, key="selected", sizes=(12,))
    with st.container(horizontal=True, vertical_alignment="center", key="selected actions"):
        open_in_samples(bundle, rows, "Open these in Samples")
        save_and_flag(bundle, rows, f"selected on the map of {looked.split}")
        downloads(
            lambda: describe_rows(bundle, rows),
            label="Selection as",
            name=f"{bundle.name}-selection",
            key="selection",
        )


def _statistics(looked: MapView, table: pd.DataFrame) -> None:
    """Draw how the selected samples differ from the others of the split."""
    samples = looked.samples

    def measured(part: pd.DataFrame) -> dict[str, float]:
        found = {"samples": len(part), "accuracy": part["correct"].mean()}
        found["mean loss, nats"] = part["loss"].mean()
        if "weight" in part.columns:
            found["mean weight"] = part["weight"].mean()
        return found

    inside, everything = measured(table), measured(samples)
    with st.container(horizontal=True):
        st.metric(
            "Right",
            percent(inside["accuracy"]),
            border=True,
            help=f"Of all samples of {looked.split}: {percent(everything['accuracy'])}.",
        )
        st.metric(
            "Mean loss",
            f"{inside['mean loss, nats']:.2g}",
            border=True,
            help=f"In nats. Of all: {everything['mean loss, nats']:.2g}.",
        )
        if "mean weight" in inside:
            st.metric(
                "Mean weight",
                f"{inside['mean weight']:.2g}×",
                border=True,
                help="Relative to an equal share.",
            )
    by = "cluster" if looked.colour == "cluster" else "group"
    counts = table[by].value_counts()
    total = samples[by].value_counts()
    st.dataframe(
        pd.DataFrame(
            {
                by: counts.index,
                "selected": counts.to_numpy(),
                "of all": (counts / total[counts.index]).to_numpy(),
                "right": table.groupby(by)["correct"].mean()[counts.index].to_numpy(),
            }
        ),
        hide_index=True,
        key=f"selected by {by}",
        column_config={
            "of all": st.column_config.NumberColumn(
                format="percent", help=f"Share of the {by}'s samples in {looked.split}."
            ),
            "right": st.column_config.NumberColumn(format="percent"),
        },
    )
