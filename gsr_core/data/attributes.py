"""The values of a bundle's attributes on some rows, where there are few enough to tell apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from gsr_core.data.bundle import Bundle

__all__ = ["MOST_VALUES", "attribute_values"]

MOST_VALUES = 20
"""Values that an attribute may have to be split by."""


def attribute_values(
    bundle: Bundle, rows: np.ndarray
) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    """Yield each attribute that has 1 to 20 values on these rows.

    Args:
        bundle: The data.
        rows: (n,) positions in the bundle.

    Yields:
        Its name, (n,) the number of each row's value, -1 for none, and the values as text, sorted.
    """
    places = pa.array(rows)
    for attribute in bundle.manifest.attributes:
        values = bundle.column(attribute).take(places).to_pandas()
        known = sorted(values.dropna().unique(), key=str)
        if 0 < len(known) <= MOST_VALUES:
            # As objects: a column of categories could not say -1.
            index = pd.Index(known, dtype=object)
            codes = index.get_indexer(pd.Index(values.astype(object)))
            yield attribute, codes.astype(np.int64), [str(value) for value in known]
