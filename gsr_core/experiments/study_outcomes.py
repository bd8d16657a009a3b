"""Outcomes of a study: scores by level, and the weights of flipped rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from gsr_core.experiments.study import Study
from gsr_core.methods.base import Values
from gsr_core.methods.registry import METHODS
from gsr_core.runs.summary import overall

__all__ = ["flipped_weights", "outcomes", "summarise_flipped", "summarise_outcomes"]


_SCORES = ("worst_group_accuracy", "mean_accuracy")


def outcomes(study: Study) -> pd.DataFrame:
    """Return one row for each finished run.

    Returns:
        Columns method, level, seed, run (its name), target (rows of target, each with a group
        label), and `<split>_<score>` for val and test, and worst_group_accuracy and mean_accuracy
        at the kept step, as fractions.

    Example:
        >>> study = gsr.make_study(
        ...     place, "budget", "birds", ["llr"], levels=[0.2, 1], seeds=1, device="cpu"
        ... )
        >>> _ = gsr.run_study(study)
        >>> gsr.outcomes(study)[["method", "level", "target", "test_mean_accuracy"]]
          method  level  target  test_mean_accuracy
        0    llr    0.2       8               0.925
        1    llr    1.0      40               0.925
    """
    rows = []
    for cell, run in study.finished():
        history, step = run.metrics(), run.state.best_step
        row = {
            "method": cell.method,
            "level": cell.level,
            "seed": int(cell.settings["seed"]),
            "run": run.run_id,
            "target": len(run.rows_of("target")),
        }
        for split in ("val", "test"):
            metrics = overall(history, split, step)
            row |= {f"{split}_{score}": metrics.get(score, math.nan) for score in _SCORES}
        rows.append(row)
    columns = ["method", "level", "seed", "run", "target"]
    columns += [f"{split}_{score}" for split in ("val", "test") for score in _SCORES]
    return pd.DataFrame(rows, columns=columns)


def summarise_outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds, one row for each method and level.

    Args:
        table: From `outcomes`.

    Returns:
        Columns method, level, seeds, target (mean); `test`, `test_sd`, `val`, `val_sd`:
        worst-group accuracy; `gap` and `gap_sd`: val minus test of the same run; `mean`: mean
        accuracy on test. The sd is NaN for one seed.

    Example:
        >>> study = gsr.make_study(
        ...     place, "noise", "birds", ["llr"], levels=[0.2], seeds=2, device="cpu"
        ... )
        >>> _ = gsr.run_study(study)
        >>> summary = gsr.summarise_outcomes(gsr.outcomes(study))
        >>> summary[["method", "level", "seeds", "test", "test_sd"]].round(3)
          method  level  seeds  test  test_sd
        0    llr    0.2      2  0.45    0.212
    """
    worst = "worst_group_accuracy"
    wide = pd.DataFrame(
        {
            "method": table["method"],
            "level": table["level"],
            "target": table["target"],
            "test": table[f"test_{worst}"],
            "val": table[f"val_{worst}"],
            "gap": table[f"val_{worst}"] - table[f"test_{worst}"],
            "mean": table["test_mean_accuracy"],
        }
    )
    grouped = wide.groupby(["method", "level"], sort=False)
    means = grouped[["target", "test", "val", "gap", "mean"]].mean()
    spread = grouped[["test", "val", "gap"]].std().add_suffix("_sd")
    seeds = grouped.size().rename("seeds")
    summary = pd.concat([seeds, means, spread], axis=1).reset_index()
    columns = ["method", "level", "seeds", "target", "test", "test_sd", "val", "val_sd"]
    return summary[[*columns, "gap", "gap_sd", "mean"]].sort_values(
        ["method", "level"], key=_in_order(table), ignore_index=True
    )


def _in_order(table: pd.DataFrame) -> Callable[[pd.Series], pd.Series]:
    """Return a sort key by which methods keep their order and levels rise."""
    place = {method: at for at, method in enumerate(dict.fromkeys(table["method"]))}
    return lambda column: column.map(place) if column.name == "method" else column


def flipped_weights(study: Study) -> pd.DataFrame:
    """Return the mean weights of flipped and of clean samples, by run and group.

    Returns:
        Columns method, level, seed, group (as shown; "all" for all together), flipped (bool),
        samples (their number), weight (their mean, relative to uniform: 1 is an equal share).
        Runs without weights on the noisy rows are left out.
    """
    rows = []
    for cell, run in study.finished():
        on_noisy = run.values_split == run.bundle.manifest.weighted_split
        if METHODS[cell.method].values is Values.NONE or not on_noisy:
            continue
        weights = run.weights(["group", "weight", "flipped"])
        if weights is None:
            continue
        weights["weight"] *= len(weights)
        if "flipped" not in weights:
            weights["flipped"] = False
        own = {"method": cell.method, "level": cell.level, "seed": int(cell.settings["seed"])}
        for group, part in [("all", weights), *weights.groupby("group", sort=False)]:
            for flipped, some in part.groupby("flipped"):
                rows.append(
                    {
                        **own,
                        "group": str(group),
                        "flipped": bool(flipped),
                        "samples": len(some),
                        "weight": float(some["weight"].mean()),
                    }
                )
    columns = ["method", "level", "seed", "group", "flipped", "samples", "weight"]
    return pd.DataFrame(rows, columns=columns)


def summarise_flipped(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of `flipped_weights`.

    Returns:
        Columns method, level, group, flipped, samples (mean), weight, weight_sd (NaN for one
        seed).
    """
    keys = ["method", "level", "group", "flipped"]
    grouped = table.groupby(keys, sort=False)
    summary = grouped[["samples", "weight"]].mean()
    summary["weight_sd"] = grouped["weight"].std()
    return summary.reset_index()
