"""The samples selected on the maps: numbers, pictures, a table, and actions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.curation.tables import describe_rows
from gsr_core.views.charts import percent, show_rows
from gsr_core.views.gallery import gallery
from gsr_core.views.map_choices import MapView
from gsr_core.views.slices import downloads, open_in_samples, save_and_flag

__all__ = ["selection"]


def selection(view: MapView, rows: np.ndarray) -> None:
    """Draw the selected samples: numbers, pictures, a table, and actions on them."""
    if not len(rows):
        st.caption(
            "Nothing is selected. Draw a lasso around points to see their samples."
            if view.dimensions == 2
            else "A map in 3-D can be turned, but samples are selected on a map in 2-D."
        )
        return
    samples, bundle = view.samples, view.bundle
    table = samples[samples["row"].isin(rows)]
    order = "rank" if "rank" in table.columns else "loss"
    table = table.sort_values(order, ascending=order == "rank")
    st.subheader(f"{len(table):,} selected", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    with right:
        _statistics(view, table)
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
            show_rows(table, key="selected table")
        else:
            gallery(bundle, table, key="selected", sizes=(12,))
    with st.container(horizontal=True, vertical_alignment="center", key="selected actions"):
        open_in_samples(bundle, rows, "Open these in Samples")
        save_and_flag(bundle, rows, f"selected on the map of {view.split}")
        downloads(
            lambda: describe_rows(bundle, rows),
            label="Selection as",
            name=f"{bundle.name}-selection",
            key="selection",
        )


def _statistics(view: MapView, table: pd.DataFrame) -> None:
    """Draw how the selected samples differ from the others of the split."""
    samples = view.samples

    def measured(part: pd.DataFrame) -> dict[str, float]:
        numbers = {"samples": len(part), "accuracy": part["correct"].mean()}
        numbers["mean loss, nats"] = part["loss"].mean()
        if "weight" in part.columns:
            numbers["mean weight"] = part["weight"].mean()
        return numbers

    inside, everything = measured(table), measured(samples)
    with st.container(horizontal=True):
        st.metric(
            "Right",
            percent(inside["accuracy"]),
            border=True,
            help=f"All samples of {view.split}: {percent(everything['accuracy'])}.",
        )
        st.metric(
            "Mean loss",
            f"{inside['mean loss, nats']:.2g}",
            border=True,
            help=f"In nats. All samples: {everything['mean loss, nats']:.2g}.",
        )
        if "mean weight" in inside:
            st.metric(
                "Mean weight",
                f"{inside['mean weight']:.2g}×",
                border=True,
                help="Relative to an equal share.",
            )
    by = "cluster" if view.colour == "cluster" else "group"
    counts = table[by].value_counts()
    total = samples[by].value_counts()
    show_rows(
        pd.DataFrame(
            {
                by: counts.index,
                "selected": counts.to_numpy(),
                "of all": (counts / total[counts.index]).to_numpy(),
                "right": table.groupby(by)["correct"].mean()[counts.index].to_numpy(),
            }
        ),
        key=f"selected by {by}",
        column_config={
            "of all": st.column_config.NumberColumn(
                format="percent", help=f"Share of the {by}'s samples in {view.split}."
            ),
            "right": st.column_config.NumberColumn(format="percent"),
        },
    )
