"""Random draws that belong to the samples, not to their places in memory."""

from __future__ import annotations

import numpy as np

from gsr_core.data.problem import Rows

__all__ = ["per_row"]


def per_row(rows: Rows, generator: np.random.Generator) -> np.ndarray:
    """Draw a number for each row.

    The numbers go by the rows' positions in the bundle, so that a sample draws the same number
    whatever the order in memory. A random subset is the rows with the smallest numbers.

    Args:
        rows: (n,) rows.
        generator: Is advanced.

    Returns:
        (n,) uniform in [0, 1).
    """
    drawn = np.empty(len(rows))
    drawn[np.argsort(rows.position, kind="stable")] = generator.random(len(rows))
    return drawn
