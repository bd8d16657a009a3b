"""The samples selected on the maps: numbers, pictures, a table, and actions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.curation.tables import describe_rows
from gsr_core.views.charts import percent, show_rows
from gsr_core.views.gallery import gallery
from gsr_core.views.map_choices import MapView
from gsr_core.views.slices import ask_what_if, downloads, open_in_samples, save_and_flag

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
    table = table.sort_values(order, ascending=order == "rank", kind="stable")
    st.subheader(f"{len(table):,} selected", anchor=False)
    _numbers(view, table)
    how = st.segmented_control(
        "Show as",
        ["pictures" if bundle.has_images else "samples", "table"],
        default="pictures" if bundle.has_images else "samples",
        required=True,
        key="selected as",
        label_visibility="collapsed",
    )
    if how == "table":
        show_rows(table, key="selected table")
    else:
        gallery(bundle, table, key="selected", sizes=(6,))
    _by_group(view, table)
    with st.container(horizontal=True, vertical_alignment="center", key="selected actions"):
        open_in_samples(bundle, rows, "Open these in Samples")
        if "weight" in table.columns:
            ask_what_if(bundle, rows, "selected")
        save_and_flag(bundle, rows, f"selected on the map of {view.split}")
        downloads(
            lambda: describe_rows(bundle, rows),
            label="Selection as",
            name=f"{bundle.name}-selection",
            key="selection",
        )


def _numbers(view: MapView, table: pd.DataFrame) -> None:
    """Draw how the selected samples differ from all of the split, in one line."""
    everything = view.samples
    parts = [
        f"**{percent(table['correct'].mean())}** right (all: "
        f"{percent(everything['correct'].mean())})",
        f"mean loss **{table['loss'].mean():.2g}** nats ({everything['loss'].mean():.2g})",
    ]
    if "weight" in table.columns:
        parts.append(f"mean weight **{table['weight'].mean():.2g}×** an equal share")
    st.markdown(" · ".join(parts))


def _by_group(view: MapView, table: pd.DataFrame) -> None:
    """Draw how many of each group, or cluster, are selected."""
    by = "cluster" if view.colour == "cluster" else "group"
    counts = table[by].value_counts()
    total = view.samples[by].value_counts()
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
