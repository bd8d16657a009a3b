r"""Accuracy with an attribute and without it, class by class.

For class c and side s, :math:`\delta = \mathrm{acc}(c, s = 1) - \mathrm{acc}(c, s = 0)`: what
another class cannot explain. The interval is Newcombe's (`quality.difference_interval`); p is
Fisher's exact test of the same four counts, twice the smaller tail, which is what permuting the
rows of the class gives. Cells of few rows say nothing, so that both sides need ten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.quality import difference_interval
from gsr_core.scanning.candidates import Candidate

__all__ = ["GAP_COLUMNS", "SUPPORT", "find_gaps", "sure"]

SUPPORT = 10
"""Rows of a class that each side must have."""

GAP_COLUMNS = (
    *("attribute", "side", "y", "n_with", "n_without", "accuracy_with", "accuracy_without"),
    *("delta", "low", "high", "p", "taken_for"),
)


def find_gaps(
    looked_at: Sequence[Candidate], rows: np.ndarray, labels: np.ndarray, prediction: np.ndarray
) -> pd.DataFrame:
    """Measure every side of every candidate in every class with enough rows on both sides.

    Args:
        looked_at: The candidates.
        rows: (q,) positions in the bundle.
        labels: (q,) their classes in [0, K).
        prediction: (q,) what is predicted for them, in [0, K).

    Returns:
        One row a candidate, side and class, columns `GAP_COLUMNS`: y is the class; n_with and
        n_without count its rows, accuracies, delta, low and high are fractions; taken_for is the
        class that the wrong ones of the worse side are most often taken for, -1 without any.
    """
    of_class = [np.flatnonzero(labels == y) for y in np.unique(labels)]
    found = [
        cell
        for candidate in looked_at
        for places in of_class
        for cell in _of_class(candidate, rows[places], labels[places], prediction[places])
    ]
    table = pd.DataFrame(found, columns=list(GAP_COLUMNS))
    # A table without rows has no types of its own.
    return table.assign(p=_fisher(table) if len(table) else np.zeros(0))


def sure(gaps: pd.DataFrame) -> pd.Series:
    """Return how large each gap is at least: the end of its interval that is nearer to none."""
    nearer = np.maximum(gaps["low"].to_numpy(), -gaps["high"].to_numpy())
    return pd.Series(np.maximum(nearer, 0.0), index=gaps.index)


def _of_class(
    candidate: Candidate, rows: np.ndarray, labels: np.ndarray, prediction: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield the gaps of one candidate in one class, as rows of the table but for p."""
    codes = candidate.codes[rows]
    known, right = codes >= 0, prediction == labels
    counts = np.bincount(codes[known], minlength=candidate.n_cells)
    rights = np.bincount(codes[known & right], minlength=candidate.n_cells)
    for side in candidate.sides:
        n_with, n_without = int(counts[side.cells].sum()), int(counts[~side.cells].sum())
        if min(n_with, n_without) < SUPPORT:
            continue
        there, absent = rights[side.cells].sum() / n_with, rights[~side.cells].sum() / n_without
        low, high = difference_interval(float(there), n_with, float(absent), n_without)
        worse = known & ~right & (np.append(side.cells, False)[codes] == (there < absent))
        mistakes = np.bincount(prediction[worse])
        yield {
            "attribute": candidate.name,
            "side": side.name,
            "y": int(labels[0]),
            "n_with": n_with,
            "n_without": n_without,
            "accuracy_with": float(there),
            "accuracy_without": float(absent),
            "delta": float(there - absent),
            "low": low,
            "high": high,
            "taken_for": int(mistakes.argmax()) if mistakes.any() else -1,
        }


def _fisher(table: pd.DataFrame) -> np.ndarray:
    """Return p of each row: twice the smaller tail of right rows with the attribute, up to 1."""
    # Pages import this module, and most of them ask for no test.
    from scipy.stats import hypergeom

    n_with, n_without = table["n_with"].to_numpy(), table["n_without"].to_numpy()
    right = np.rint(table["accuracy_with"] * n_with).to_numpy()
    every = right + np.rint(table["accuracy_without"] * n_without).to_numpy()
    spread = hypergeom(n_with + n_without, every, n_with)
    tails = np.minimum(spread.cdf(right), spread.sf(right - 1))
    return np.minimum(2 * tails, 1.0)
