"""The history of a fit: one record for each step, split, group and metric."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from gsr_core.methods.base import Step

__all__ = [
    "HISTORY_COLUMNS",
    "SEEN_VAL",
    "Record",
    "choosing_metrics",
    "choosing_split",
    "records_at",
    "split_metrics",
    "step_records",
]

HISTORY_COLUMNS = ["step", "split", "group", "metric", "value"]

SEEN_VAL = "val seen"
"""In place of the split: val by the groups that the method saw, where its steps are judged by
others."""

Record = tuple[int, str, str, str, float]
"""Step, split ("" for none), group ("" for all together), metric and value."""


def split_metrics(records: Iterable[Record], split: str) -> dict[str, float]:
    """Return a split's metrics of all groups together, by name, from the records of one step."""
    return {
        metric: value for _, where, group, metric, value in records if (where, group) == (split, "")
    }


def choosing_split(splits: Iterable[str]) -> str:
    """Return which of a history's splits chose the step: val, by the groups that were seen."""
    return SEEN_VAL if SEEN_VAL in splits else "val"


def choosing_metrics(records: list[Record]) -> dict[str, float]:
    """Return what a rule of selection may look at, by name, from the records of one step."""
    return {**split_metrics(records, "val"), **split_metrics(records, SEEN_VAL)}


def step_records(index: int, step: Step, seconds: float) -> list[Record]:
    """Return the records of a step that are of no split."""
    return [
        (index, "", "", "objective", step.objective),
        (index, "", "", "gradient_norm", step.gradient_norm),
        (index, "", "", "relative_gradient_norm", step.relative_gradient_norm),
        (index, "", "", "solved", float(step.solved)),
        (index, "", "", "step_size", step.step_size),
        (index, "", "", "clipped", float(step.clipped)),
        (index, "", "", "seconds", seconds),
        *((index, "", "", name, value) for name, value in step.terms.items()),
    ]


def records_at(history: pd.DataFrame, step: int) -> list[Record]:
    """Return the records of one step of a history."""
    return list(history[history["step"] == step].itertuples(index=False, name=None))
