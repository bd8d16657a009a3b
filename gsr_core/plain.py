"""Numbers as JSON can hold them: it has neither NaN nor infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["finite", "record", "records"]


def finite(value: Any) -> Any:
    """Return a value as it is, or None if it is a number that is not finite, or no time.

    >>> finite(0.5), finite(float("nan")), finite(float("-inf")), finite("nan")
    (0.5, None, None, 'nan')
    """
    # NaT, too, is the only one that differs from itself.
    missing = value != value or (isinstance(value, float) and math.isinf(value))
    return None if missing else value


def record(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return values by name, with None for what is not finite."""
    return {str(key): finite(value) for key, value in values.items()}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table, with None for what is not finite."""
    return [record(row) for row in table.to_dict("records")]
