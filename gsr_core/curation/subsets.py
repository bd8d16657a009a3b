"""Subsets of judged rows: groups, saved slices, and crossings of the class and attributes.

A classifier can fail, or a repair can break, where nobody drew a group. So every value of the
class and of the attributes is a subset here, and so is every combination of values of two or
three of them that has enough rows. Clusters come from `clusterings.describe.cluster_subsets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gsr_core.curation.slices import Slice
from gsr_core.data.attributes import attribute_values
from gsr_core.data.bundle import MIN_GROUP_SIZE, Bundle
from gsr_core.errors import SettingError

__all__ = ["DEEPEST", "Subset", "crossings", "distinct", "group_subsets", "slice_subsets"]

DEEPEST = 3
"""Columns that are crossed at most."""

_MANY_COLUMNS = 12
"""With more columns than this, two are crossed at most: all triples would be too many to judge."""


@dataclass(frozen=True)
class Subset:
    """Some of the rows of a split, and what they have in common.

    Attributes:
        kind: `group`, `slice`, `cluster`, `value` or, of two columns and more, `crossing`.
        name: For people.
        rows: (q,) positions in the bundle, ascending.
    """

    kind: str
    name: str
    rows: np.ndarray


def group_subsets(bundle: Bundle, rows: np.ndarray) -> list[Subset]:
    """Return the bundle's groups as subsets of some rows; those without a row are left out.

    Args:
        bundle: The data.
        rows: (n,) positions in the bundle, ascending.
    """
    members = bundle.membership[rows]
    return [
        Subset("group", name, rows[inside])
        for name, inside in zip(bundle.group_names, members.T, strict=True)
        if inside.any()
    ]


def slice_subsets(slices: Sequence[Slice], rows: np.ndarray) -> list[Subset]:
    """Return slices as subsets of some rows; those without a row are left out."""
    parts = ((each.name, np.intersect1d(each.rows, rows)) for each in slices)
    return [Subset("slice", name, inside) for name, inside in parts if len(inside)]


def crossings(
    bundle: Bundle,
    rows: np.ndarray,
    *,
    depth: int = DEEPEST,
    min_rows: int = MIN_GROUP_SIZE,
) -> Iterator[Subset]:
    """Yield each combination of values of up to `depth` columns that has enough rows.

    Columns are the class and the attributes with 2 to 20 values among the rows; with more than 12
    of them, two are crossed at most. A row without a value is in no subset of that attribute.

    Args:
        bundle: The data.
        rows: (n,) positions in the bundle, ascending.
        depth: 1 takes single values alone, 2 also pairs, 3 also triples.
        min_rows: Combinations with fewer rows are left out.

    Raises:
        SettingError: If the depth is none of these.
    """
    if not 1 <= depth <= DEEPEST:
        raise SettingError(f"depth is {depth}; allowed are 1 to {DEEPEST} crossed columns")
    columns = dict(_columns(bundle, rows))
    depth = depth if len(columns) <= _MANY_COLUMNS else min(depth, 2)
    for crossed in range(1, depth + 1):
        for names in combinations(columns, crossed):
            yield from _cells([(name, *columns[name]) for name in names], rows, min_rows)


def _columns(bundle: Bundle, rows: np.ndarray) -> Iterator[tuple[str, tuple[np.ndarray, list]]]:
    """Yield name, codes (n,), -1 for no value, and the values as text, of what can be crossed."""
    yield "class", (bundle.y[rows], bundle.manifest.classes)
    for attribute, codes, values in attribute_values(bundle, rows):
        if len(values) > 1:
            yield attribute if attribute != "class" else "attribute: class", (codes, values)


def _cells(
    crossed: Sequence[tuple[str, np.ndarray, list[str]]], rows: np.ndarray, min_rows: int
) -> Iterator[Subset]:
    """Yield the combinations of values of these columns that have enough rows."""
    there = np.all([codes >= 0 for _, codes, _ in crossed], axis=0)
    shape = tuple(len(values) for _, _, values in crossed)
    cell = np.ravel_multi_index(tuple(codes[there] for _, codes, _ in crossed), shape)
    order = np.argsort(cell, kind="stable")
    found, starts = np.unique(cell[order], return_index=True)
    for place, inside in zip(found, np.split(rows[there][order], starts[1:]), strict=True):
        if len(inside) >= min_rows:
            at = np.unravel_index(place, shape)
            parts = zip(crossed, at, strict=True)
            name = " · ".join(f"{column}={values[i]}" for (column, _, values), i in parts)
            yield Subset("crossing" if len(crossed) > 1 else "value", name, inside)


def distinct(subsets: Iterable[Subset]) -> list[Subset]:
    """Return the subsets without those that have the same rows as one before them."""
    seen: set[bytes] = set()
    kept = []
    for each in subsets:
        content = each.rows.astype(np.int64).tobytes()
        if content not in seen:
            seen.add(content)
            kept.append(each)
    return kept
