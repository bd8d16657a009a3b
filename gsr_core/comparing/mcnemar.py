r"""Whether one head does better than another on the same rows: McNemar's exact test by group.

Of b rows that only the first gets right and c that only the second does, equal heads would have
as many either way:

.. math:: p = \min\left(1,\; 2 \Pr(X \le \min(b, c))\right), \qquad X \sim B(b + c, 1/2)

(McNemar, Psychometrika 1947; exact form), with p = 1 where no row changes. Several groups are
judged together, so that p is corrected by Holm's step-down procedure (Scand. J. Statist. 1979),
which holds for overlapping groups too.

How much accuracy is lost at most is said by the lower end of a score interval of the difference
(Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 1998), which is there at few changed rows, and at
none. Its level is approximate: where a loss is so small that often no row of 30 or more changes,
a bound of 95 % is above the truth up to 7.5 times in a hundred.

The rows are one run's. The test says nothing of another draw of them, or of another seed; and not
which head has the better *worst* group, since that may be another one for each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import bdtr

__all__ = [
    "LEVEL",
    "difference_bound",
    "holm",
    "judge",
    "mcnemar",
    "paired_interval",
    "rows_for",
    "rows_needed",
]

LEVEL = 0.05
"""Corrected p below which two heads are told apart."""

_Z_HALF_LEVEL, _Z_POWER = 1.959964, 0.841621
"""Normal quantiles of 97.5 % and of 80 %."""


def mcnemar(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the exact two-sided p.

    Args:
        one: (m,) rows that only the first gets right.
        two: (m,) rows that only the second gets right.

    Example:
        >>> mcnemar(np.array([10, 15, 5, 6, 0]), np.array([2, 5, 0, 6, 0])).round(6).tolist()
        [0.038574, 0.041389, 0.0625, 1.0, 1.0]
    """
    changed = one + two
    return np.minimum(2 * bdtr(np.minimum(one, two).astype(float), changed, 0.5), 1.0)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values (m,) after Holm's step-down correction; NaN stays.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
        [0.03, 0.06, 0.06]
    """
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def rows_needed(samples: int, one: int, two: int) -> float:
    r"""Return how many rows would tell two heads apart that differ as much as here.

    With shares :math:`\psi = (b + c) / n` of changed rows and :math:`\delta = (c - b) / n`, at 5 %
    two-sided and a power of 80 %,

    .. math:: \left(1.96 \sqrt\psi + 0.84 \sqrt{\psi - \delta^2}\right)^2 / \delta^2

    (Connor, Biometrics 1987). It takes the difference seen here for the true one, which is a
    guess, and corrects for no other group.

    Args:
        samples: n, rows here.
        one: b, rows that only the first gets right.
        two: c, rows that only the second gets right.

    Returns:
        A whole number; infinite where b = c.
    """
    if one == two:
        return np.inf
    return rows_for((one + two) / samples, (two - one) / samples)


def rows_for(changed: float, net: float) -> float:
    """Return how many rows tell a difference from chance, as `rows_needed` has it.

    Args:
        changed: Share of the rows that only one head gets right, at least that of `net`.
        net: Difference of the heads' accuracies, not 0.

    Example:
        >>> rows_for(0.1, 0.05)
        312.0
    """
    root = _Z_HALF_LEVEL * np.sqrt(changed) + _Z_POWER * np.sqrt(changed - net**2)
    return float(np.ceil((root / net) ** 2))


def difference_bound(samples: int, fixed: int, broken: int, z: float) -> float:
    r"""Return the lower end of Tango's score interval of the difference of two accuracies.

    It is the difference :math:`\Delta` at which

    .. math:: \frac{c - b - n \Delta}{\sqrt{n (2 \tilde q + \Delta (1 - \Delta))}} = z

    with :math:`\tilde q` the likeliest rate of broken rows where the difference is
    :math:`\Delta`: the larger root of
    :math:`2 n q^2 - (b + c - (2 n + b - c) \Delta) q - b \Delta (1 - \Delta) = 0`.

    Args:
        samples: n, at least 1.
        fixed: c, rows that only the second head gets right.
        broken: b, rows that only the first gets right.
        z: Standard normal quantile: 1.644854 for a one-sided bound of 95 %.

    Returns:
        A fraction in [-1, 1]: the accuracy of the second less that of the first is at least this.

    Example:
        >>> round(difference_bound(100, 0, 0, 1.644854), 4)
        -0.0263
    """
    # Pages import this module, and most of them need no root.
    from scipy.optimize import brentq

    if broken == samples:
        return -1.0

    def above(difference: float) -> float:
        linear = (2 * samples + broken - fixed) * difference - broken - fixed
        constant = broken * difference * (1 - difference)
        root = np.sqrt(max(linear**2 + 8 * samples * constant, 0.0))
        rate = (root - linear) / (4 * samples)
        variance = samples * (2 * rate + difference * (1 - difference))
        return fixed - broken - samples * difference - z * np.sqrt(max(variance, 0.0))

    # Just above -1 the difference is positive, and just below what was observed negative: at the
    # two ends nothing varies.
    observed = (fixed - broken) / samples
    bound: Any = brentq(above, -1 + 1e-12, observed - 1e-9)
    return float(bound)


def paired_interval(
    samples: np.ndarray, one: np.ndarray, two: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of how much more accurate the second head is on the same rows.

    Its ends are those of `difference_bound`, which do not meet where few rows change, or none.

    Args:
        samples: (m,) n, rows.
        one: (m,) b, rows that only the first gets right.
        two: (m,) c, rows that only the second gets right.

    Returns:
        Lower and upper ends in [-1, 1], NaN where there are no rows.

    Example:
        >>> low, high = paired_interval(np.array([50]), np.array([2]), np.array([10]))
        >>> round(float(low[0]), 3), round(float(high[0]), 3)
        (0.028, 0.301)
    """

    def bounds(up: np.ndarray, down: np.ndarray) -> np.ndarray:
        counts = zip(samples.tolist(), up.tolist(), down.tolist(), strict=True)
        return np.array(
            [difference_bound(n, c, b, _Z_HALF_LEVEL) if n else np.nan for n, c, b in counts]
        )

    return bounds(two, one), -bounds(one, two)


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Return the test of each group, and what it says in a word.

    Args:
        table: Columns samples, fixed (rows that only the second gets right) and broken (only the
            first), one row a group.

    Returns:
        Columns p, p_holm (corrected for all groups with rows), verdict and needed
        (`rows_needed`). The verdict is of the second head: `better`, `worse`, `not
        distinguishable`, or `too few changed`, where p would stay above 5 % whichever way all of
        the changed rows went, so that nothing can be said; "" for a group without rows.
    """
    fixed, broken = table["fixed"].to_numpy(), table["broken"].to_numpy()
    there = table["samples"].to_numpy() > 0
    p = np.where(there, mcnemar(broken, fixed), np.nan)
    corrected = holm(p)
    # The least p that as many changed rows can give, where this group's is the smallest of all.
    least = mcnemar(np.zeros_like(fixed), fixed + broken) * there.sum()
    verdict = np.where(
        corrected < LEVEL,
        np.where(fixed > broken, "better", "worse"),
        np.where(least < LEVEL, "not distinguishable", "too few changed"),
    )
    counts = zip(table["samples"], broken, fixed, strict=True)
    return pd.DataFrame(
        {
            "p": p,
            "p_holm": corrected,
            "verdict": np.where(there, verdict, ""),
            "needed": [rows_needed(*each) if each[0] else np.nan for each in counts],
        },
        index=table.index,
    )
