"""A column's values as numbers, or as categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.errors import SourceError

__all__ = ["categories_of", "codes_among", "gaps_of", "numbers_of"]

FLOAT32_MAX = float(np.finfo(np.float32).max)


def numbers_of(column: pd.Series, rows: np.ndarray | None = None) -> np.ndarray:
    """Return a column as numbers.

    Args:
        column: n numbers, yes or no, or texts that spell numbers.
        rows: (n,) numbers of the rows in messages; 0, 1, 2 and so on by default.

    Returns:
        (n,) float64, a gap is NaN.

    Raises:
        SourceError: If a value is no number, or not within float32's range.
    """
    rows = np.arange(len(column)) if rows is None else rows
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        numbers = column.to_numpy(np.float64, na_value=np.nan).copy()
    else:
        texts = categories_of(column)
        series = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce")
        numbers = series.to_numpy(np.float64, na_value=np.nan).copy()
        gaps = np.array([text is None for text in texts], dtype=bool)
        if (bad := np.flatnonzero(np.isnan(numbers) & ~gaps)).size:
            raise SourceError(
                f"column '{column.name}' is '{texts[bad[0]]}' in row {rows[bad[0]]}, which is not "
                "a number; correct it, or take the column as categories (categorical=...)"
            )
    if (bad := np.flatnonzero(np.abs(numbers) > FLOAT32_MAX)).size:
        raise SourceError(
            f"column '{column.name}' is {numbers[bad[0]]:g} in row {rows[bad[0]]}; every number "
            "must be finite and within float32's range: correct it or leave the column out"
        )
    return numbers


def categories_of(column: pd.Series) -> np.ndarray:
    """Return a column's values as text, the same whether a file had 1, 1.0 or "1".

    Returns:
        (n,) of str, or None for a gap; a blank text is a gap.
    """
    if column.dtype == object:
        # Here True and 1 would share a code and take the text of whichever comes first.
        gaps = column.isna().to_numpy(bool)
        texts = [None if gap else _text(value) for gap, value in zip(gaps, column, strict=True)]
        return np.array([*texts, None], dtype=object)[:-1]
    codes, values = pd.factorize(column)
    texts = np.array([*(_text(value) for value in values), None], dtype=object)
    return texts[codes]


def _text(value: Any) -> str | None:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value) if str(value).strip() else None


def codes_among(values: np.ndarray, categories: Sequence[str | None]) -> np.ndarray:
    """Return each value's place among the categories, -1 if it has none."""
    place = {category: code for code, category in enumerate(categories)}
    return np.array([place.get(value, -1) for value in values], dtype=np.int64)


def gaps_of(column: pd.Series) -> np.ndarray:
    """Return (n,) bool, whether each value is missing or a blank text."""
    if pd.api.types.is_numeric_dtype(column):
        return column.isna().to_numpy(bool)
    return np.array([value is None for value in categories_of(column)], dtype=bool)
