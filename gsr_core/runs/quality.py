"""How good a run's probabilities are in each group."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gsr_core.data.attributes import attribute_values
from gsr_core.data.bundle import Bundle
from gsr_core.errors import RunStateError
from gsr_core.quality import group_quality
from gsr_core.runs.store import Run

__all__ = ["quality_table"]

_CHUNK = 1 << 26
"""Bytes of features that are held at a time."""


def quality_table(run: Run, split: str, bundle: Bundle | None = None) -> pd.DataFrame:
    """Return the table of `group_quality` for a run's kept head on one split.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits, as the run's seed drew it.
        bundle: The run's bundle, if it is open already.

    Returns:
        One row a group, and one for each value of an attribute with few, named `attribute=value`:
        these hold several classes. Column kind is `group` or `attribute`.

    Raises:
        RunStateError: If the run has no head yet.
        BundleError: If the bundle has changed since.
    """
    bundle = bundle or run.unchanged_bundle()
    head = run.head()
    if head is None:
        raise RunStateError(f"run '{run.run_id}' has no head yet; wait until it has ended")
    weight, bias = head
    rows = run.rows_of(split, bundle)
    size, features = max(_CHUNK // (4 * weight.shape[1]), 1), run.seen(bundle).features
    parts = [
        np.asarray(features[rows[start : start + size]]) @ weight.T + bias
        for start in range(0, len(rows), size)
    ]
    logits, labels = np.concatenate(parts), bundle.y[rows]
    table = group_quality(logits, labels, bundle.membership[rows], bundle.group_names)
    tables = [table.assign(kind="group")]
    for attribute, codes, values in attribute_values(bundle, rows):
        members = codes[:, None] == np.arange(len(values))
        names = [f"{attribute}={value}" for value in values]
        tables.append(group_quality(logits, labels, members, names).assign(kind="attribute"))
    return pd.concat([each for each in tables if len(each)] or tables[:1], ignore_index=True)
