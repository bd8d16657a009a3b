"""Entries compared on slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from gsr_core.comparing.entries import Entry
from gsr_core.curation.accuracy import accuracies_on
from gsr_core.curation.slices import Slice
from gsr_core.data.bundle import Bundle
from gsr_core.runs.store import Run

__all__ = ["slice_scores"]


def slice_scores(
    compared: Sequence[Entry],
    slices: Sequence[Slice],
    bundle: Bundle,
    *,
    split: str = "test",
    read: Callable[[Run, str, Sequence[Slice], Bundle], pd.DataFrame] = accuracies_on,
) -> pd.DataFrame:
    """Return entry, seed, run, slice, count, accuracy: a row for each entry, seed and slice.

    Args:
        compared: The entries.
        slices: Sets of samples; at least one.
        bundle: The runs' bundle.
        split: One of the bundle's splits, as each run drew it, at the kept step.
        read: Does what `accuracies_on` does; pages pass a function with a cache.
    """
    parts = [
        read(run, split, slices, bundle).assign(entry=entry.label, seed=seed, run=run.run_id)
        for entry in compared
        for seed, run in zip(entry.seeds, entry.runs, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)
