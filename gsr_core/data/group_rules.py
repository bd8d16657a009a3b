"""Groups from columns: every kind of `GroupRule`, with a definition for each group.

Groups are defined, never assumed: each one carries the sentence that says who belongs to it.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from gsr_core.data.groups import Group
from gsr_core.data.source import GroupRule
from gsr_core.errors import SourceError

__all__ = ["MAX_GROUPS", "MAX_VALUES", "make_groups", "propose_merges"]

MAX_VALUES = 50
"""Most values of a column that can be crossed; others are cut into bins or used as names."""
MAX_GROUPS = 1_000
FLAG_FROM = 0.5
"""Least score that counts as a yes, as in WILDS for CivilComments."""
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def make_groups(
    table: pd.DataFrame,
    y: np.ndarray,
    classes: Sequence[str],
    rule: GroupRule,
    names: Mapping[str, Mapping[Hashable, str]] | None = None,
) -> tuple[list[Group], np.ndarray, list[str]]:
    """Make groups from columns.

    Args:
        table: n rows with the rule's columns.
        y: (n,) class indices.
        classes: K class names.
        rule: How groups are defined.
        names: For a column, the name of each value that has one, in the order to keep.

    Returns:
        The m groups, their (n, m) membership, and notes for the user. A row that lacks a value,
        or a name, belongs to no group: its group is unknown.

    Raises:
        SourceError: If a column is missing or does not suit the rule.
    """
    for column in (*rule.columns, *rule.bins):
        if column not in table:
            raise SourceError(
                f"there is no column '{column}' to make groups of; {_near(column, table)}"
            )
    if unused := [each for each in rule.bins if rule.kind != "crossed" or each not in rule.columns]:
        crossed = ", ".join(rule.columns) if rule.kind == "crossed" else ""
        raise SourceError(
            f"bins are given for '{unused[0]}', which makes no groups that can be cut; columns "
            f"that do are {crossed or 'none'}: make it an attribute that is crossed (--attribute "
            f"{unused[0]}), or leave its bins out"
        )
    names = names or {}
    if rule.kind == "crossed":
        groups, membership, notes = _cross(table, y, classes, rule, names)
    elif rule.kind == "overlapping":
        groups, membership, notes = _overlapping(table, y, classes, rule)
    else:
        groups, membership, notes = _by_name(table, rule, names)
    groups, membership = _merge(groups, membership, rule.merge)
    return groups, membership, notes


def _near(column: str, table: pd.DataFrame) -> str:
    columns = [str(each) for each in table.columns]
    near = difflib.get_close_matches(column, columns, n=1)
    hint = f"did you mean '{near[0]}'? The" if near else "the"
    return f"{hint} columns are {', '.join(columns[:20])}{', ...' if len(columns) > 20 else ''}"


def _cross(
    table: pd.DataFrame,
    y: np.ndarray,
    classes: Sequence[str],
    rule: GroupRule,
    names: Mapping[str, Mapping[Hashable, str]],
) -> tuple[list[Group], np.ndarray, list[str]]:
    factors: list[tuple[str, list[str], list[str], np.ndarray]] = []
    if rule.with_class:
        factors.append(("class", list(classes), list(classes), y))
    for column in rule.columns:
        values, labels, codes = _levels(table[column], column, rule.bins.get(column), names)
        factors.append((column, values, labels, codes))
    if not factors:
        raise SourceError(
            "there is neither the class nor a column to make groups of; choose an attribute, or "
            "let the class take part"
        )
    known = np.all([codes >= 0 for *_, codes in factors], axis=0)
    sizes = tuple(len(values) for _, values, _, _ in factors)
    code = np.ravel_multi_index([np.maximum(codes, 0) for *_, codes in factors], sizes)
    counts = np.bincount(code[known], minlength=int(np.prod(sizes)))
    groups, cells = [], []
    for cell, levels in enumerate(itertools.product(*(range(size) for size in sizes))):
        if not counts[cell]:
            continue
        cells.append(cell)
        parts = list(zip(factors, levels, strict=True))
        groups.append(
            Group(
                name=", ".join(labels[level] for (_, _, labels, _), level in parts),
                definition=" and ".join(
                    values[level]
                    if values[level].startswith(f"{column} ")
                    else f"{column} = {values[level]}"
                    for (column, values, _, _), level in parts
                ),
            )
        )
    if len(groups) > MAX_GROUPS:
        raise SourceError(
            f"these columns make {len(groups)} groups; at most {MAX_GROUPS} are allowed: use fewer "
            "columns, or cut numbers into fewer bins"
        )
    notes = []
    if (empty := len(counts) - len(cells)) and counts.any():
        notes.append(f"{empty} of {len(counts)} combinations of the groups' values never occur.")
    if unknown := int((~known).sum()):
        notes.append(
            f"{unknown:,} rows lack a value of {', '.join(rule.columns)}: their group is unknown."
        )
    membership = (code[:, None] == np.array(cells, dtype=np.int64)) & known[:, None]
    return groups, membership, notes


def _levels(
    column: pd.Series,
    name: str,
    bins: int | None,
    names: Mapping[str, Mapping[Hashable, str]],
) -> tuple[list[str], list[str], np.ndarray]:
    """Return the values of a column as text, how a group's name shows them, and (n,) codes.

    Raises:
        SourceError: If the column has too many values, or is to be cut and is not numeric.
    """
    if bins is not None:
        return _quantiles(column, name, bins)
    order = list(names.get(name, {}))
    occurring = list(pd.unique(column.dropna()))
    order += sorted((each for each in occurring if each not in order), key=_sort_key)
    if len(order) > MAX_VALUES:
        advice = "cut it into bins" if pd.api.types.is_numeric_dtype(column) else "choose another"
        raise SourceError(
            f"column '{name}' has {len(order)} different values; at most {MAX_VALUES} can be "
            f"crossed: {advice}, or use it as a column of group names"
        )
    codes = pd.Categorical(column, categories=order).codes.astype(np.int64)
    value_names = names.get(name, {})
    values = [str(value_names.get(each, _text(each))) for each in order]
    # A bare 0 or "yes" says nothing without its column's name.
    labels = [
        text if each in value_names or not _terse(text) else f"{name} {text}"
        for each, text in zip(order, values, strict=True)
    ]
    return values, labels, codes


def _quantiles(column: pd.Series, name: str, bins: int) -> tuple[list[str], list[str], np.ndarray]:
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        raise SourceError(f"column '{name}' is not numeric, so it cannot be cut into bins")
    if bins < 2:
        raise SourceError(f"column '{name}' is to be cut into {bins} bins; give 2 or more")
    edges = np.unique(np.quantile(column.dropna().to_numpy(float), np.arange(1, bins) / bins))
    values = column.to_numpy(float, na_value=np.nan)
    codes = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="left"))
    limits = [f"{edge:.6g}" for edge in edges]
    texts = [f"{name} ≤ {limits[0]}"]
    texts += [f"{name} > {low} and ≤ {high}" for low, high in itertools.pairwise(limits)]
    texts.append(f"{name} > {limits[-1]}")
    return texts, texts, codes


def _overlapping(
    table: pd.DataFrame, y: np.ndarray, classes: Sequence[str], rule: GroupRule
) -> tuple[list[Group], np.ndarray, list[str]]:
    if not rule.columns:
        raise SourceError("overlapping groups need columns, one flag a group; choose at least one")
    flags = {column: _flag(table[column], column) for column in rule.columns}
    groups, columns = [], []
    for label in range(len(classes)) if rule.with_class else (None,):
        for column, flag in flags.items():
            inside = flag if label is None else flag & (y == label)
            if label is None:
                groups.append(Group(name=column, definition=f"{column} is set"))
            else:
                groups.append(
                    Group(
                        name=f"{classes[label]}, {column}",
                        definition=f"class = {classes[label]} and {column} is set",
                    )
                )
            columns.append(inside)
    membership = np.stack(columns, axis=1)
    nobody = int((~membership.any(axis=1)).sum())
    notes = [f"{nobody:,} rows belong to none of the groups."] if nobody else []
    return groups, membership, notes


def _flag(column: pd.Series, name: str) -> np.ndarray:
    if pd.api.types.is_bool_dtype(column):
        return column.to_numpy(bool)
    numbers = pd.to_numeric(
        column.map(lambda value: _WORDS.get(str(value).strip().lower(), value)), errors="coerce"
    )
    if (bad := np.flatnonzero(numbers.isna() & column.notna())).size:
        raise SourceError(
            f"column '{name}' is '{column.iloc[bad[0]]}' in row {bad[0]}; an overlapping group "
            "needs 0/1, false/true or a score from 0 to 1"
        )
    return numbers.fillna(0.0).to_numpy(float) >= FLAG_FROM


def _by_name(
    table: pd.DataFrame, rule: GroupRule, names: Mapping[str, Mapping[Hashable, str]]
) -> tuple[list[Group], np.ndarray, list[str]]:
    if len(rule.columns) != 1:
        raise SourceError(
            f"groups by name need exactly one column, not {len(rule.columns)}; choose the column "
            "with the names"
        )
    name = rule.columns[0]
    column = table[name].replace("", np.nan)
    order = list(names.get(name, {}))
    order += sorted(
        (each for each in pd.unique(column.dropna()) if each not in order), key=_sort_key
    )
    if not 0 < len(order) <= MAX_GROUPS:
        raise SourceError(
            f"column '{name}' has {len(order)} different names; 1 to {MAX_GROUPS} are allowed: "
            "choose a column of group names"
        )
    codes = pd.Categorical(column, categories=order).codes
    value_names = names.get(name, {})
    groups = [
        Group(name=str(value_names.get(each, _text(each))), definition=f"{name} = {_text(each)}")
        for each in order
    ]
    unknown = int((codes < 0).sum())
    notes = (
        [f"{unknown:,} rows have no name in '{name}': their group is unknown."] if unknown else []
    )
    return groups, codes[:, None] == np.arange(len(order)), notes


def _merge(
    groups: list[Group], membership: np.ndarray, merges: Sequence[Sequence[str]]
) -> tuple[list[Group], np.ndarray]:
    for merge in merges:
        names = [group.name for group in groups]
        for name in merge:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise SourceError(
                    f"there is no group '{name}' to merge; {hint}The groups are {'; '.join(names)}"
                )
        members = [names.index(name) for name in dict.fromkeys(merge)]
        if len(members) < 2:
            raise SourceError(f"a merge needs two groups or more, not only '{merge[0]}'")
        first = members[0]
        union = Group(
            name=" or ".join(groups[g].name for g in members),
            definition=" or ".join(f"({groups[g].definition})" for g in members),
        )
        column = membership[:, members].any(axis=1)
        remaining = [g for g in range(len(groups)) if g == first or g not in members]
        membership = membership[:, remaining]
        membership[:, remaining.index(first)] = column
        groups = [union if g == first else groups[g] for g in remaining]
    return groups, membership


def propose_merges(
    groups: Sequence[Group], counts: np.ndarray, *, least: int, with_class: bool
) -> list[tuple[str, ...]]:
    """Propose merges of groups that are too small to measure with each other.

    A small group never joins a large one, in which it would disappear: what a classifier does to
    it could then not be seen any more. Nor do groups of different classes become one.

    Args:
        groups: m groups.
        counts: (splits, m) number of samples; the smallest of a column decides.
        least: A group below this is too small.
        with_class: Whether a definition begins with the class.

    Returns:
        Names of groups that could become one, two or more, the smallest first.
    """
    smallest = counts.min(axis=0)
    parts = [group.definition.split(" and ") for group in groups]
    # The smallest first, each with those that share the most of its definition.
    left = [int(g) for g in np.argsort(smallest, kind="stable") if smallest[g] < least]
    proposals = []
    while left:
        merged = [left.pop(0)]
        alike = [g for g in left if not with_class or parts[g][0] == parts[merged[0]][0]]
        alike.sort(key=lambda g: (-len(set(parts[g]) & set(parts[merged[0]])), smallest[g]))
        while alike and smallest[merged].sum() < least:
            merged.append(alike.pop(0))
            left.remove(merged[-1])
        if len(merged) > 1:
            proposals.append(tuple(groups[g].name for g in merged))
    return proposals


def _terse(text: str) -> bool:
    return text.lower() in _WORDS or text.replace(".", "", 1).lstrip("-").isdigit()


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _sort_key(value: object) -> tuple[int, float, str]:
    """Order numbers by size, then everything else by its text."""
    if isinstance(value, int | float | np.number):
        return 0, float(value), ""
    return 1, 0.0, str(value)
