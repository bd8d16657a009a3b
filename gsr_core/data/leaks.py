"""Columns of a table that give the class away, which is usual of what is known only afterwards."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gsr_core.data.column_values import categories_of, numbers_of
from gsr_core.data.encoding import Columns
from gsr_core.errors import SourceError

__all__ = ["class_told", "leak_warning"]

BINS = 10
"""Quantile bins of a column of numbers."""
MOST_LEFT = 0.3
"""A column is named if it leaves at most this share of the errors of the most common class."""
MAX_LISTED = 12


def class_told(columns: Columns, y: np.ndarray) -> dict[str, float]:
    """Return the share of rows whose class each column alone tells.

    What it tells of a row is the most common class of the other rows of its value: a category, a
    decile bin of numbers, or a gap. A value of few rows that happen to agree so tells nothing.

    Args:
        columns: The feature columns of n rows.
        y: (n,) class of each row.
    """
    shares = {}
    for name in (*columns.numeric, *columns.categorical):
        try:
            values = _values(columns, name)
        except SourceError:
            continue  # The import says what is wrong with it.
        pairs, counts = np.unique(values * (y.max() + 1) + y, return_counts=True)
        value = pairs // (y.max() + 1)
        # Within a value, the most common class comes last.
        order = np.lexsort((counts, value))
        value, count = value[order], counts[order]
        last = np.append(value[1:] != value[:-1], True)
        second = np.where(np.append(False, value[1:] == value[:-1]), np.append(0, count[:-1]), 0)
        told = last & (count > second + 1)
        shares[name] = float(count[told].sum() / len(y))
    return shares


def _values(columns: Columns, name: str) -> np.ndarray:
    """Return (n,) int64, which value or bin each row of a column has; -1 for a gap."""
    if name in columns.categorical:
        return pd.factorize(categories_of(columns.table[name]))[0]
    numbers = numbers_of(columns.table[name])
    known = ~np.isnan(numbers)
    edges = np.quantile(numbers[known], np.linspace(0, 1, BINS + 1)[1:-1]) if known.any() else []
    return np.where(known, np.searchsorted(np.unique(edges), numbers, side="left"), -1)


def leak_warning(columns: Columns, y: np.ndarray) -> str:
    """Return a sentence on the columns that alone tell the class of most rows, or "".

    Args:
        columns: The feature columns of n rows.
        y: (n,) class of each row.
    """
    usual = float(np.bincount(y).max() / len(y))
    shares = class_told(columns, y)
    found = [name for name, share in shares.items() if 1 - share <= MOST_LEFT * (1 - usual)]
    if not found:
        return ""
    first, *others = found = sorted(found, key=lambda name: -shares[name])
    listing = [f"'{name}' of {shares[name]:.1%}" for name in others[:MAX_LISTED]]
    more = [f"{len(others) - MAX_LISTED} more columns of nearly as many"]
    return (
        f"'{first}' alone tells the class of {shares[first]:.1%} of the rows"
        + "".join(f", {each}" for each in listing + more * (len(others) > MAX_LISTED))
        + f" (the most common class is {usual:.1%}): exclude what is not known when the classifier "
        f"decides (exclude={','.join(found)})."
    )
