"""What is looked at: attributes, columns of a table, properties and phrases, cut into cells.

A category's cells are its values, of many the commonest and one for all others. Numbers are cut at
deciles and quartiles of all rows. What is asked of a cell, or of several together, is asked of a
*side*: its rows against all others with a value. Of numbers the sides are the lowest quarter, the
highest quarter and what lies above the median; of two categories one is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.data.column_values import categories_of

__all__ = ["MOST_CELLS", "Candidate", "Side", "candidates", "cut"]

MOST_CELLS = 20
"""Values of a category that are looked at one by one, and of numbers that count as categories."""

_QUANTILES = np.array([0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9])
_OTHERS = "other values"


@dataclass(frozen=True)
class Side:
    """Some cells of a candidate, held against its other ones.

    Attributes:
        name: Such as `red` or `> 0.31`.
        cells: (r,) bool.
    """

    name: str
    cells: np.ndarray


@dataclass(frozen=True)
class Candidate:
    """One attribute, column or property.

    Attributes:
        name: Its name, unique among those of a scan.
        source: `attribute`, `column` (of a table), `measured` or `phrase`.
        codes: (n,) int8, the cell of each row of the bundle, -1 for none.
        n_cells: r.
        sides: At least one; the first of numbers is what lies above their median.
        values: Of a category, what each cell is called; of numbers nothing.
    """

    name: str
    source: str
    codes: np.ndarray
    n_cells: int
    sides: Sequence[Side]
    values: Sequence[str] = ()

    @property
    def numeric(self) -> bool:
        """Whether it has numbers."""
        return not self.values

    def inside(self, side: Side) -> np.ndarray:
        """Return (n,) bool: which rows are on a side; those without a value are on none."""
        return np.append(side.cells, False)[self.codes]

    @property
    def known(self) -> np.ndarray:
        """(n,) bool: which rows have a value."""
        return self.codes >= 0


def candidates(
    bundle: Bundle, measured: pd.DataFrame | None = None, phrases: pd.DataFrame | None = None
) -> tuple[list[Candidate], dict[str, str]]:
    """Return what can be looked at, and why other columns cannot.

    Args:
        bundle: The data.
        measured: From `measure_inputs`.
        phrases: From `phrase_similarities`.

    Returns:
        The candidates, and by the names of the others one reason each.
    """
    found: list[Candidate] = []
    left_out: dict[str, str] = {}
    for name, source, column in _columns(bundle, measured, phrases):
        made = cut(name, source, column, bundle.y)
        if isinstance(made, Candidate):
            found.append(made)
        else:
            left_out[name] = made
    return found, left_out


def _columns(
    bundle: Bundle, measured: pd.DataFrame | None, phrases: pd.DataFrame | None
) -> Iterator[tuple[str, str, pd.Series]]:
    """Yield name, source and values of every column; a name that is taken gets its source."""
    names: set[str] = set()
    attributes = bundle.manifest.attributes
    table = bundle.columns()
    parts = [
        ("attribute", {name: bundle.column(name).to_pandas() for name in attributes}),
        ("column", {} if table is None else table.drop(columns=attributes, errors="ignore")),
        ("measured", {} if measured is None else measured),
        ("phrase", {} if phrases is None else phrases),
    ]
    for source, columns in parts:
        for name in columns:
            own = str(name) if str(name) not in names else f"{name} ({source})"
            names.add(own)
            yield own, source, columns[name]


def cut(name: str, source: str, column: pd.Series, y: np.ndarray) -> Candidate | str:
    """Cut a column into cells, or return why that says nothing.

    Args:
        name: Of the candidate.
        source: Where the column is from.
        column: n values.
        y: (n,) classes, to know a column that only repeats them.
    """
    column = column.reset_index(drop=True)
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric and column.nunique() > MOST_CELLS:
        return _cut_numbers(name, source, column.to_numpy(np.float64, na_value=np.nan))
    values = pd.Series(categories_of(column), dtype=object)
    counts = values.value_counts()
    known = int(counts.sum())
    if len(counts) < 2:
        return f"it has the one value '{counts.index[0]}'" if known else "no row has a value"
    if len(counts) > max(known / 2, MOST_CELLS):
        return f"it has {len(counts):,} values in {known:,} rows: it names rows"
    pairs = pd.DataFrame({"value": values, "y": y}).dropna().drop_duplicates()
    if len(pairs) == len(counts) == pairs["y"].nunique():
        return "it is the class itself"
    many = len(counts) > MOST_CELLS
    order = sorted(counts.index[:MOST_CELLS], key=float if numeric else str) + [_OTHERS] * many
    codes = pd.Index(order, dtype=object).get_indexer(pd.Index(values))
    if many:
        codes = np.where((codes < 0) & values.notna(), MOST_CELLS, codes)
    cells = np.eye(len(order), dtype=bool)
    sides = [Side(str(value), inside) for value, inside in zip(order, cells, strict=True)]
    # Of two values the one says what the other does, the other way round.
    sides = sides[-1:] if len(sides) == 2 else sides
    return Candidate(name, source, codes.astype(np.int8), len(order), sides, order)


def _cut_numbers(name: str, source: str, numbers: np.ndarray) -> Candidate:
    known = np.isfinite(numbers)
    values = numbers[known]
    quantiles, top = np.quantile(values, _QUANTILES), values.max()
    # Above an edge there are rows: where most of them share the largest number, only what lies
    # below it can be told from it.
    edges = np.unique(quantiles[quantiles < top])
    edges = edges if len(edges) else values[values < top].max(keepdims=True)
    codes = np.where(known, np.searchsorted(edges, numbers, side="left"), -1)
    places = np.minimum(np.searchsorted(edges, quantiles), len(edges) - 1)
    low, middle, high = (int(places[each == _QUANTILES][0]) for each in (0.25, 0.5, 0.75))
    cells = np.arange(len(edges) + 1)
    names = [f"{edge:.4g}" if abs(edge) < 1000 else f"{edge:,.0f}" for edge in edges]
    sides = {f"> {names[middle]}": cells > middle, f"≤ {names[low]}": cells <= low}
    sides.setdefault(f"> {names[high]}", cells > high)
    made = [Side(text, inside) for text, inside in sides.items()]
    return Candidate(name, source, codes.astype(np.int8), len(cells), made)
