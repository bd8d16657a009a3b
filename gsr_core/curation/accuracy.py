"""Accuracy of a run on slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gsr_core.curation.slices import Slice
from gsr_core.data.bundle import MIN_GROUP_SIZE, Bundle
from gsr_core.metrics import wilson_interval
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run

__all__ = ["accuracies_on", "slice_accuracy"]


def slice_accuracy(bundle: Bundle, table: pd.DataFrame, slices: Sequence[Slice]) -> pd.DataFrame:
    """Return the accuracy of one head on the samples that slices have in one split.

    Args:
        bundle: The data.
        table: `sample_table` of the run and split.
        slices: Sets of samples.

    Returns:
        One row for each slice: slice, key, n (samples in the split), wrong (wrong predictions among
        them), accuracy (NaN without samples), low and high (ends of its 95 % Wilson interval),
        group (the one that most samples are in, "" if none is in any), purity (share of the samples
        in it), enough (n is large enough to judge), worst (the lowest accuracy among the slices
        with enough samples).
    """
    rows, correct = table["row"].to_numpy(), table["correct"].to_numpy()
    table_rows = []
    for each in slices:
        inside = np.isin(rows, each.rows)
        n = int(inside.sum())
        members = bundle.membership[rows[inside]].sum(axis=0)
        majority = int(members.argmax())
        right = int(correct[inside].sum())
        table_rows.append(
            {
                "slice": each.name,
                "key": each.key,
                "n": n,
                "wrong": n - right,
                "accuracy": right / n if n else np.nan,
                "group": bundle.group_names[majority] if members[majority] else "",
                "purity": members[majority] / n if n else np.nan,
            }
        )
    columns = ["slice", "key", "n", "wrong", "accuracy", "group", "purity"]
    scored = pd.DataFrame(table_rows, columns=columns)
    n, accuracy = scored["n"].to_numpy(dtype=int), scored["accuracy"].to_numpy(dtype=float)
    scored["low"], scored["high"] = wilson_interval(accuracy, n)
    scored["enough"] = n >= MIN_GROUP_SIZE
    scored["worst"] = False
    if scored["enough"].any():
        scored.loc[scored.loc[scored["enough"], "accuracy"].idxmin(), "worst"] = True
    return scored


def accuracies_on(run: Run, split: str, slices: Sequence[Slice], bundle: Bundle) -> pd.DataFrame:
    """Return slice, count and accuracy of a run's kept head on a split, as the run drew it.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits.
        slices: Sets of samples.
        bundle: The run's bundle.

    Raises:
        RunStateError: If the run has no head yet.
    """
    rows = run.rows_of(split, bundle)
    correct = keep_scores(run, bundle)["prediction"][rows] == bundle.y[rows]
    inside = [np.isin(rows, each.rows) for each in slices]
    return pd.DataFrame(
        {
            "slice": [each.name for each in slices],
            "count": [int(each.sum()) for each in inside],
            "accuracy": [float(correct[each].mean()) if each.any() else np.nan for each in inside],
        }
    )
