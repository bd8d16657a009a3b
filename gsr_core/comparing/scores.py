"""Scores of entries over seeds, and their spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from gsr_core.comparing.entries import Entry
from gsr_core.metrics import wilson_interval, worst_group
from gsr_core.runs.store import Run
from gsr_core.runs.summary import AVERAGES, group_table, overall

__all__ = ["group_scores", "mean_history", "outcome", "scores", "spread"]


Outcome = Callable[[Run, str], tuple[dict[str, float], pd.DataFrame]]
"""Reads what `outcome` reads; pages pass a function with a cache."""


def outcome(run: Run, split: str) -> tuple[dict[str, float], pd.DataFrame]:
    """Return a run's metrics at its kept step, of all groups together and of each group."""
    metrics, step = run.metrics(), run.state.best_step
    return overall(metrics, split, step), group_table(metrics, split, step)


def scores(
    compared: Sequence[Entry], *, split: str = "test", read: Outcome = outcome
) -> pd.DataFrame:
    """Return the scores of entries, one row for each entry and seed.

    Columns entry, seed, every_seed (whether one run stands for all seeds), run, `AVERAGES`,
    worst_group (its name), worst_count (its samples), step and seconds.

    Args:
        compared: The entries.
        split: `val` or `test`, at the kept step.
        read: Reads a run's outcome.
    """
    rows = []
    for entry in compared:
        for seed, run in zip(entry.seeds, entry.runs, strict=True):
            state, (together, groups) = run.state, read(run, split)
            worst = groups.iloc[worst_group(groups["accuracy"].to_numpy())]
            rows.append(
                {
                    "entry": entry.label,
                    "seed": seed,
                    # Other seeds draw another val.
                    "every_seed": entry.every_seed and split == "test",
                    "run": run.run_id,
                    **{name: together[name] for name in AVERAGES},
                    "worst_group": worst["group"],
                    "worst_count": int(worst["count"]),
                    "step": state.best_step,
                    "seconds": state.seconds,
                }
            )
    return pd.DataFrame(rows)


def group_scores(
    compared: Sequence[Entry], *, split: str = "test", read: Outcome = outcome
) -> pd.DataFrame:
    """Return entry, seed, run, group, count, accuracy: a row for each entry, seed and group.

    Args:
        compared: The entries.
        split: `val` or `test`, at the kept step.
        read: Reads a run's outcome.
    """
    parts = []
    for entry in compared:
        for seed, run in zip(entry.seeds, entry.runs, strict=True):
            table = read(run, split)[1][["group", "count", "accuracy"]]
            parts.append(table.assign(entry=entry.label, seed=seed, run=run.run_id))
    return pd.concat(parts, ignore_index=True)


def mean_history(histories: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean of several runs' histories over the steps that all of them have.

    Args:
        histories: From `Run.metrics`, one a seed.

    Returns:
        Columns step, split, group, metric, value (the mean) and sd (one standard deviation, with
        k - 1 in the denominator).
    """
    keys = ["step", "split", "group", "metric"]
    last = min(int(history["step"].max()) for history in histories)
    rows = pd.concat(histories, ignore_index=True)
    grouped = rows[rows["step"] <= last].groupby(keys, sort=False)["value"]
    return grouped.agg(value="mean", sd="std").reset_index()


def spread(values: Sequence[float] | np.ndarray | pd.Series, count: int | None) -> dict[str, float]:
    """Return the mean of an accuracy over seeds and how far it varies.

    Args:
        values: One value for each seed.
        count: Number of samples behind it, for the interval of a single seed; None for a mean over
            groups, which has no such interval.

    Returns:
        `mean`; `sd`, with k - 1 in the denominator, NaN for one seed; `low` and `high`: mean minus
        and plus sd, or Wilson's 95 % interval for one seed, NaN where neither is known.
    """
    known = np.asarray(values, dtype=float)
    mean = float(known.mean())
    if len(known) > 1:
        sd = float(known.std(ddof=1))
        return {"mean": mean, "sd": sd, "low": mean - sd, "high": mean + sd}
    low, high = (math.nan, math.nan) if count is None else wilson_interval(mean, count)
    return {"mean": mean, "sd": math.nan, "low": float(low), "high": float(high)}
