"""Tables of the Audit page."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from gsr_core.data.bundle import MIN_GROUP_SIZE, Bundle
from gsr_core.metrics import wilson_interval, worst_group
from gsr_core.runs.store import Run
from gsr_core.runs.summary import group_table, overall, run_label
from gsr_core.views import navigation as nav
from gsr_core.views.frame import Frame

__all__ = ["accuracy_table", "confusion_table", "pick_run"]


def pick_run(page: Frame) -> tuple[Run, str]:
    """Draw the choice of classifier and split; the classifier as it came is the default.

    Stops the page, with a word why, while there is nothing to show.
    """
    ended = page.ended
    if not ended:
        waiting = [run for run in page.runs if run.state.active]
        if waiting:
            st.info("The classifier is being scored; this takes a few seconds.")
        else:
            failed = page.runs[0].state if page.runs else None
            st.error(f"The classifier could not be scored. {failed.message if failed else ''}")
        st.stop()
    reference = next((run for run in ended if run.config.method == "erm"), None)
    came = page.bundle.head is not None
    first = "The classifier as it came" if came else "ERM, fitted here: the bundle has no head"
    labels = {} if reference is None else {reference.run_id: first}
    for run in ended:
        labels.setdefault(run.run_id, run_label(run.config))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = nav.select(
            "classifier", "Classifier", list(labels), format_func=lambda key: labels[key], width=420
        )
        split = nav.select("split", "Split", ["test", "val", "target"], width=160)
    return next(run for run in ended if run.run_id == chosen), split


def accuracy_table(
    history: pd.DataFrame, split: str, step: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the table of `figures.groups.group_accuracy` and the averages."""
    table = group_table(history, split, step).rename(columns={"count": "n"})
    table["low"], table["high"] = wilson_interval(
        table["accuracy"].to_numpy(), table["n"].to_numpy()
    )
    table["worst"] = table.index == worst_group(table["accuracy"].to_numpy())
    table["enough"] = table["n"] >= MIN_GROUP_SIZE
    return table, overall(history, split, step)


def confusion_table(bundle: Bundle, samples: pd.DataFrame) -> pd.DataFrame:
    """Return group, y, prediction and share, for `figures.groups.confusion`."""
    classes = bundle.manifest.classes
    members = bundle.membership[samples["row"].to_numpy()]
    parts = []
    for g, name in enumerate(bundle.group_names):
        inside = samples[members[:, g]]
        counts = inside.groupby(["y", "prediction"]).size().rename("count").reset_index()
        counts["share"] = counts["count"] / counts.groupby("y")["count"].transform("sum")
        parts.append(counts.assign(group=name))
    table = pd.concat(parts, ignore_index=True)
    for column in ("y", "prediction"):
        table[column] = table[column].map(dict(enumerate(classes)))
    return table[["group", "y", "prediction", "share"]]
