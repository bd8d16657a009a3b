"""The outcome of a run in one object, as the command line prints it."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import pandas as pd

from gsr_core.data.variation import make_variation
from gsr_core.methods.history import SEEN_VAL
from gsr_core.methods.registry import make_method
from gsr_core.names import method_label
from gsr_core.runs.record import RunConfig
from gsr_core.runs.store import Run

__all__ = [
    "AVERAGES",
    "changed_settings",
    "group_table",
    "headline",
    "overall",
    "run_label",
    "summarise",
    "unsolved_steps",
    "weights_by_group",
]

AVERAGES = ("worst_group_accuracy", "mean_accuracy", "adjusted_accuracy")


def summarise(run: Run) -> dict[str, Any]:
    """Return the outcome of a run at its kept step.

    Accuracies are fractions, losses nats; what could not be measured is None. `val_seen` is of val
    by the groups that the method saw, None where those are the groups by which it is judged.

    >>> outcome = summarise(gsr.run(place, "birds", "erm"))
    >>> outcome["status"], outcome["best_step"]
    ('finished', 1)
    >>> outcome["test"]["worst_group_accuracy"]
    0.8
    """
    config, state = run.config, run.state
    history = run.metrics()
    return {
        "run_id": run.run_id,
        "run_dir": str(run.path),
        "title": run.title,
        "status": str(state.status),
        "method": config.method,
        "bundle": config.bundle,
        "seed": config.seed,
        "device": state.device or config.device,
        "settings": config.settings,
        "variation": config.variation,
        "steps": state.step,
        "best_step": state.best_step,
        "seconds": state.seconds,
        "seconds_per_step": state.seconds / state.step if state.step else None,
        "unsolved_steps": unsolved_steps(history),
        "message": state.message,
        "note": state.note,
        **{split: _split(history, split, state.best_step) for split in ("val", "test")},
        "val_seen": _split(history, SEEN_VAL, state.best_step),
    }


def unsolved_steps(history: pd.DataFrame) -> int:
    """Return how many steps' fits did not reach the relative gradient norm of 1e-8."""
    return int((history.loc[history["metric"] == "solved", "value"] == 0).sum())


def run_label(run: Run) -> str:
    """Return a run's name for people: the user's, else method and what differs; and local time.

    What differs are settings from the method's defaults, and rows from the bundle's.
    """
    config = run.config
    created = datetime.fromisoformat(config.created).astimezone()
    when = f"{created.day} {created:%b %H:%M}"
    own = [*changed_settings(config), *make_variation(config.variation).phrases]
    name = [run.title] if run.title else [method_label(config.method), *own]
    return " · ".join([*name, when])


def changed_settings(config: RunConfig) -> list[str]:
    """Return what differs from the method's defaults, as `name value`."""
    defaults = make_method(config.method).settings()
    return [
        f"{key} {value}"
        for key, value in config.whole_settings.items()
        if value != defaults.get(key)
    ]


def overall(history: pd.DataFrame, split: str, step: int) -> dict[str, float]:
    """Return the metrics of all groups together at a step, by name."""
    rows = history[
        (history["step"] == step) & (history["split"] == split) & (history["group"] == "")
    ]
    return {
        str(metric): float(value)
        for metric, value in zip(rows["metric"], rows["value"], strict=True)
    }


def group_table(history: pd.DataFrame, split: str, step: int) -> pd.DataFrame:
    """Return one row a group at a step: group, count, accuracy, loss, in the bundle's order."""
    rows = history[
        (history["step"] == step) & (history["split"] == split) & (history["group"] != "")
    ]
    order = list(dict.fromkeys(rows["group"]))
    table = rows.pivot(index="group", columns="metric", values="value").loc[order].reset_index()
    table.columns.name = None
    table["count"] = table["count"].astype(int)
    return table


def weights_by_group(history: pd.DataFrame, step: int) -> pd.DataFrame:
    """Return weight_sum, weight_mean and effective_sample_size of each group at a step."""
    names = ["weight_sum", "weight_mean", "effective_sample_size"]
    rows = history[(history["step"] == step) & history["metric"].isin(names)]
    return rows[rows["group"] != ""].pivot(index="group", columns="metric", values="value")


def headline(
    run: Run, split: str = "test", *, history: pd.DataFrame | None = None
) -> dict[str, float]:
    """Return worst-group, mean and adjusted accuracy at the kept step; NaN before the first.

    Args:
        run: The run.
        split: `val` or `test`.
        history: The run's metrics, if they have been read already.
    """
    metrics = run.metrics() if history is None else history
    scores = overall(metrics, split, run.state.best_step)
    return {name: scores.get(name, math.nan) for name in AVERAGES}


def _split(history: pd.DataFrame, split: str, step: int) -> dict[str, Any] | None:
    scores = overall(history, split, step)
    if not scores:
        return None
    groups = group_table(history, split, step)
    return {
        **{name: _number(scores[name]) for name in AVERAGES},
        "groups": [
            {
                "group": row["group"],
                "n": row["count"],
                "accuracy": _number(row["accuracy"]),
                "loss": _number(row["loss"]),
            }
            for row in groups.to_dict("records")
        ],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
