"""How far the heads of runs lean on each attribute of their bundle, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from gsr_core.data.attributes import attribute_values
from gsr_core.data.bundle import Bundle
from gsr_core.reliance import leanings, measure_reliance
from gsr_core.runs.store import Run

__all__ = ["reliance_table"]


def reliance_table(
    runs: Sequence[Run],
    split: str = "test",
    bundle: Bundle | None = None,
    *,
    most: int | None = None,
) -> pd.DataFrame:
    """Measure how far the kept heads of runs lean on each attribute with 2 to 20 values.

    Of several values and several classes, the value and the pair of classes are taken on which the
    lean of any of the runs is largest, the same for all runs. Each head is measured on the features
    that it is for: of a network that was trained anew, on its own.

    Args:
        runs: On one bundle, ended, such as those before and after a repair.
        split: One of the bundle's splits, as the first run drew it.
        bundle: The runs' bundle, if it is open already.
        most: Only so many attributes, those of the largest leans; None takes all.

    Returns:
        One row for each attribute and run, attributes of the largest lean first: attribute, value
        (held against all others), run, one and two (classes: a lean above 0 is towards `two`, as
        that of the first run is), and the fields of `reliance.Reliance`. An attribute without ten
        rows in each cell of two classes is left out.

    Raises:
        RunStateError: If a run has no head yet.
        SettingError: If there are more than 30 classes.
    """
    bundle = bundle or runs[0].unchanged_bundle()
    rows = np.sort(runs[0].rows_of(split, bundle))
    labels, classes = bundle.y[rows], bundle.manifest.classes
    heads = [(run.run_id, run.seen(bundle).features, *run.kept_head()) for run in runs]
    chosen = []
    for attribute, codes, values in attribute_values(bundle, rows):
        every = [leanings(each, rows, labels, codes, weight) for _, each, weight, _ in heads]
        largest = pd.concat(every, ignore_index=True).sort_values(
            "lean", key=abs, ascending=False, kind="stable"
        )
        if largest["lean"].notna().any():
            chosen.append((largest.iloc[0], every[0], attribute, codes, values))
    chosen.sort(key=lambda each: -abs(each[0]["lean"]))
    found = []
    for top, first, attribute, codes, values in chosen[:most]:
        value, one, two = (int(top[name]) for name in ("value", "one", "two"))
        if _lean_of(first, value, one, two) < 0:
            one, two = two, one
        inside = (codes >= 0) & np.isin(labels, [one, two])
        for name, features, weight, bias in heads:
            measured = measure_reliance(
                features,
                rows[inside],
                labels[inside] == two,
                codes[inside] == value,
                (weight[two] - weight[one]).astype(np.float64),
                # Of more than two classes, a pair's score does not say which class is named.
                bias=float(bias[two] - bias[one]) if len(classes) == 2 else np.nan,
            )
            own = {"attribute": attribute, "value": values[value], "run": name}
            found.append({**own, "one": classes[one], "two": classes[two], **asdict(measured)})
    return pd.DataFrame(found)


def _lean_of(table: pd.DataFrame, value: int, one: int, two: int) -> float:
    same = (table["value"] == value) & (table["one"] == one) & (table["two"] == two)
    return float(table["lean"].to_numpy()[same.to_numpy()][0])
