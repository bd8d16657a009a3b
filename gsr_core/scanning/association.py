r"""How strongly two things that are counted go together, and whether that is more than chance.

The effect is Cramér's V with Bergsma's correction ("A bias-correction for Cramér's V and
Tschuprow's T", Journal of the Korean Statistical Society 2013): with n rows, an r × k table and
:math:`\varphi^2 = \chi^2 / n`,

.. math:: V = \sqrt{\frac{\max(0, \varphi^2 - \frac{(r - 1)(k - 1)}{n - 1})}
          {\min(\tilde r, \tilde k) - 1}}, \qquad \tilde r = r - \frac{(r - 1)^2}{n - 1},

from 0 (independent) to 1 (one tells the other). So a column of ten cells is held to the same scale
as one of two, and numbers that are cut into cells need not rise or fall with the class.

Chance is a permutation of the rows: tables with the same margins (`scipy.stats.random_table`). The
draws stop once enough of them are as large as the table's own :math:`\chi^2`, by the rule of Besag
and Clifford ("Sequential Monte Carlo p-values", Biometrika 1991), which keeps p valid. The interval
is of rows drawn anew, the cells staying as they are: the distance of a drawn V to the mean of them
all is taken for that of V to the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["FEWEST_DRAWS", "Association", "associate", "cramers_v", "most_draws"]

FEWEST_DRAWS = 1000
_ENOUGH = 20
"""Draws as large as the table itself after which no more are made."""
_CHUNK = 200
_REDRAWN = 500
_MOST_REDRAWN = 2**24
"""Counts that are held for the interval of one table."""
_MOST_NUMBERS = 2**26
"""Counts that are drawn for one table at most; a second or two."""


@dataclass(frozen=True)
class Association:
    """How strongly two things go together.

    Attributes:
        value: V, in [0, 1].
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: Chance of a table as far from independence if nothing goes together.
    """

    value: float
    low: float
    high: float
    p: float


def associate(table: np.ndarray, *, draws: int = FEWEST_DRAWS, seed: int = 0) -> Association:
    """Measure the association of rows and columns of a table of counts.

    Args:
        table: (r, k) counts.
        draws: Permutations at most, and no more than `most_draws`: p is 1 / (draws + 1) at the
            least.
        seed: Of the draws.

    Returns:
        NaN, and a p of 1, where fewer than two rows or columns have counts.

    Example:
        >>> found = associate(np.array([[45, 5], [5, 45]]))
        >>> round(found.value, 2), found.low > 0.6, found.p < 0.01
        (0.8, True, True)
    """
    table = table[table.any(axis=1)][:, table.any(axis=0)].astype(np.int64)
    if min(table.shape) < 2:
        return Association(np.nan, np.nan, np.nan, 1.0)
    generator = np.random.default_rng(seed)
    value = float(cramers_v(table))
    n = int(table.sum())
    times = min(_REDRAWN, max(_MOST_REDRAWN // table.size, 100))
    drawn = generator.multinomial(n, table.ravel() / n, size=times).reshape(times, *table.shape)
    again = cramers_v(drawn)
    # Around their own mean: drawn tables are on average further from independence.
    below, above = np.percentile(again - again.mean(), [2.5, 97.5])
    low, high = np.clip([value - above, value - below], 0, 1)
    return Association(value, float(low), float(high), _permuted(table, draws, generator))


def most_draws(table: np.ndarray) -> int:
    """Return how many permutations of a table are drawn at most, so that it does not take long."""
    return max(_MOST_NUMBERS // table.size, _ENOUGH)


def cramers_v(tables: np.ndarray, *, corrected: bool = True) -> np.ndarray:
    """Return Cramér's V of tables of counts.

    Args:
        tables: (..., r, k); a row or column without counts in one of them counts as there.
        corrected: Whether to take away what independent rows show on average.

    Example:
        >>> float(cramers_v(np.array([[30, 10], [10, 30]]), corrected=False))
        0.5
    """
    n = tables.sum(axis=(-2, -1))
    r, k = tables.shape[-2:]
    share = _chi_square(tables) / n
    if not corrected:
        return np.sqrt(share / (min(r, k) - 1))
    excess = (r - 1) * (k - 1) / (n - 1)
    sizes = np.minimum(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1))
    # Nearly as many cells as rows leave no scale to measure on.
    scale = np.maximum(sizes - 1, 1e-9)
    return np.minimum(np.sqrt(np.maximum(share - excess, 0) / scale), 1.0)


def _chi_square(tables: np.ndarray) -> np.ndarray:
    rows, columns = tables.sum(axis=-1, keepdims=True), tables.sum(axis=-2, keepdims=True)
    expected = rows * columns / tables.sum(axis=(-2, -1), keepdims=True)
    there = expected > 0
    return ((tables - expected) ** 2 / np.where(there, expected, 1)).sum(axis=(-2, -1))


def _permuted(table: np.ndarray, draws: int, generator: np.random.Generator) -> float:
    """Return the p of a table among those with its margins."""
    # Pages import this module, and most of them draw no table.
    from scipy.stats import random_table

    # A sum in another order is no other table.
    own = float(_chi_square(table)) * (1 - 1e-9)
    alike = random_table(table.sum(axis=1), table.sum(axis=0), seed=generator)
    draws = min(draws, most_draws(table))
    as_large = done = 0
    while done < draws:
        size = min(_CHUNK, draws - done)
        larger = np.cumsum(_chi_square(alike.rvs(size=size)) >= own)
        if as_large + larger[-1] >= _ENOUGH:
            return _ENOUGH / (done + int(np.searchsorted(larger, _ENOUGH - as_large)) + 1)
        as_large, done = as_large + int(larger[-1]), done + size
    return (as_large + 1) / (draws + 1)
