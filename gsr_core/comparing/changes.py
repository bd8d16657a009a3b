"""Samples that one entry fixes or breaks against another."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gsr_core.comparing.entries import Entry
from gsr_core.comparing.mcnemar import judge
from gsr_core.data.bundle import Bundle
from gsr_core.errors import ComparisonError
from gsr_core.runs.store import Run

__all__ = ["changed_samples", "flips", "shared_run"]


def shared_run(reference: Entry, other: Entry) -> tuple[Run, Run]:
    """Return the runs of both entries at the lowest seed they share, else their first runs."""
    shared = sorted(set(reference.seeds) & set(other.seeds))
    if shared:
        return reference.run_of(shared[0]), other.run_of(shared[0])
    return reference.runs[0], other.runs[0]


def flips(
    reference: pd.DataFrame, other: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which rows only one of two heads gets right.

    Args:
        reference: `sample_table` of one run.
        other: `sample_table` of another, of the same split and rows.

    Returns:
        (n,) positions in the bundle, and which of them are fixed (wrong under the reference, right
        under the other) and broken (the other way round), (n,) bool.

    Raises:
        ComparisonError: If the two are not of the same rows.
    """
    rows = reference["row"].to_numpy()
    if not np.array_equal(rows, other["row"].to_numpy()):
        raise ComparisonError("the two runs were not scored on the same samples")
    before, after = reference["correct"].to_numpy(), other["correct"].to_numpy()
    return rows, ~before & after, before & ~after


def changed_samples(
    bundle: Bundle, reference: pd.DataFrame, other: pd.DataFrame
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return the samples that one of two heads gets right and the other wrong.

    Args:
        bundle: The data.
        reference: `sample_table` of one run.
        other: `sample_table` of another, of the same split and rows.

    Returns:
        A table with one row for each group (group, samples, fixed, broken, net, and p, p_holm,
        verdict, needed of `mcnemar.judge`), and the positions in the bundle of the samples that
        are fixed (wrong under the reference, right under the other) and broken (the other way
        round).

    Raises:
        ComparisonError: If the two are not of the same rows.
    """
    rows, fixed, broken = flips(reference, other)
    members = bundle.membership[rows]
    table = pd.DataFrame(
        {
            "group": bundle.group_names,
            "samples": members.sum(axis=0),
            "fixed": (members & fixed[:, None]).sum(axis=0),
            "broken": (members & broken[:, None]).sum(axis=0),
        }
    )
    table["net"] = table["fixed"] - table["broken"]
    return table.join(judge(table)), rows[fixed], rows[broken]
