"""Tables of the Audit page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.data.bundle import MIN_GROUP_SIZE, Bundle
from gsr_core.metrics import GroupScores, wilson_interval, worst_group
from gsr_core.runs.store import Run
from gsr_core.runs.summary import group_table, overall, run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show_error, show_rows
from gsr_core.views.frame import Frame
from gsr_core.views.loading import load_history, load_quality
from gsr_core.views.slices import SliceChoice, choose_slice

__all__ = [
    "accuracy_table",
    "accuracy_within",
    "confusion_table",
    "nothing_within",
    "pick_run",
    "show_quality",
]


def pick_run(page: Frame) -> tuple[Run, str, SliceChoice | None]:
    """Draw the choice of classifier, split and slice; the classifier as it came is the default.

    Stops the page, and says why, while there is nothing to show.
    """
    ended = page.ended
    if not ended:
        waiting = [run for run in page.runs if run.state.active]
        if waiting:
            st.info("The classifier is being scored; this takes a few seconds.")
        else:
            failed = page.runs[0].state if page.runs else None
            show_error(f"The classifier could not be scored. {failed.message if failed else ''}")
        st.stop()
    reference = next((run for run in ended if run.config.is_erm), None)
    has_head = page.bundle.head is not None
    first = "The classifier as it came" if has_head else "ERM, fitted here: the bundle has no head"
    labels = {} if reference is None else {reference.run_id: first}
    for run in ended:
        labels.setdefault(run.run_id, run_label(run))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = nav.select(
            "classifier", "Classifier", list(labels), format_func=lambda key: labels[key], width=420
        )
        split = nav.select("split", "Split", ["test", "val", "target"], width=160)
        within = choose_slice(page.bundle)
    return next(run for run in ended if run.run_id == chosen), split, within


def nothing_within(bundle: Bundle, samples: pd.DataFrame, split: str, within: SliceChoice) -> bool:
    """Return whether no sample of a slice in a split belongs to a group, and say so if none does.

    Args:
        bundle: The data.
        samples: The rows of `sample_table` in the slice.
        split: The split of these rows.
        within: The slice.
    """
    if bundle.membership[samples["row"].to_numpy()].any():
        return False
    advice = "none of them in a group" if len(samples) else "choose another split or slice"
    st.info(f"{plain(within.label)}: {len(samples):,} samples in {split}; {advice}.")
    return True


def accuracy_table(run: Run, split: str) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the table of `figures.groups.group_accuracy` and the averages that the run kept."""
    history, step = load_history(run), run.state.best_step
    table = group_table(history, split, step).rename(columns={"count": "n"})
    return _with_intervals(table), overall(history, split, step)


def accuracy_within(bundle: Bundle, samples: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return what `accuracy_table` does for some samples alone, without groups that have none.

    Args:
        bundle: The data.
        samples: Rows of `sample_table`, at least one of them in a group.
    """
    correct = samples["correct"].to_numpy()
    members = bundle.membership[samples["row"].to_numpy()]
    count = members.sum(axis=0)
    with np.errstate(invalid="ignore"):
        accuracy, loss = (
            np.stack([correct, samples["loss"].to_numpy()]).astype(float) @ members / count
        )
    scores = GroupScores(
        count, accuracy, loss, float(correct.mean()), float(samples["loss"].mean())
    )
    averages = {
        "worst_group_accuracy": scores.worst_group_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "adjusted_accuracy": scores.adjusted_accuracy(bundle.training_shares),
    }
    table = pd.DataFrame({"group": bundle.group_names, "n": count, "accuracy": accuracy})
    return _with_intervals(table[table["n"] > 0].reset_index(drop=True)), averages


def _with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Add the interval of each accuracy, which group is the worst, and which n suffices."""
    table["low"], table["high"] = wilson_interval(
        table["accuracy"].to_numpy(), table["n"].to_numpy()
    )
    table["worst"] = table.index == worst_group(table["accuracy"].to_numpy())
    table["enough"] = table["n"] >= MIN_GROUP_SIZE
    return table


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


def show_quality(run: Run, split: str, bundle: Bundle) -> None:
    """Draw gaps, recall, calibration and ranking of each group and attribute value in numbers.

    Args:
        run: The run.
        split: The split.
        bundle: The data.
    """
    table = load_quality(run, split)
    classes = dict(enumerate(bundle.manifest.classes))
    share = st.column_config.NumberColumn(format="percent")
    points = st.column_config.NumberColumn(format="%+.1f pp")
    ratio = st.column_config.NumberColumn(format="%.3f")
    show_rows(
        {
            "group or attribute": table["group"],
            "samples": table["n"],
            "accuracy": table["accuracy"],
            "gap to the rest": 100 * table["gap"],
            "from": 100 * table["gap_low"],
            "to": 100 * table["gap_high"],
            "lowest recall": table["recall"],
            "of class": table["recall_class"].map(classes),
            "calibration error": table["calibration"],
            "by chance up to": table["calibration_chance"],
            "Brier score": table["brier"],
            "AUROC": table["auroc"],
            "AUROC from": table["auroc_low"],
            "AUROC to": table["auroc_high"],
        },
        column_config={
            "group or attribute": st.column_config.Column(width="medium", pinned=True),
            **dict.fromkeys(("accuracy", "lowest recall"), share),
            **dict.fromkeys(("gap to the rest", "from", "to"), points),
            **dict.fromkeys(
                ("calibration error", "by chance up to", "Brier score", "AUROC"), ratio
            ),
            **dict.fromkeys(("AUROC from", "AUROC to"), ratio),
        },
    )
    st.caption(
        "Gap: accuracy less that of all other samples, in percentage points, with Newcombe's 95 % "
        "interval. Calibration error: distance of confidence and accuracy over bins of equal size; "
        "a perfectly calibrated head of so many samples stays below *by chance up to* 95 times in "
        "100. Brier score: 0 is sure and right, 2 sure and wrong. AUROC: how well the score of its "
        "class tells a sample of the group from those of other classes, within the group where it "
        "has several classes; 0.5 is chance, with a 95 % interval."
    )
