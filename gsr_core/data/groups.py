"""Groups of samples: who belongs to which, and what each one means.

Membership is a boolean matrix (n, m), because groups may overlap (CivilComments has sixteen,
and a comment can mention several identities) and because a sample may belong to none.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

__all__ = [
    "UNKNOWN",
    "Group",
    "beside_class",
    "class_by_attribute",
    "describe",
    "membership_from_index",
    "patterns",
    "training_shares",
]

_Value = TypeVar("_Value", int, str)

UNKNOWN = "unknown"
"""Shown as the group of a sample without any."""

_OF_CLASS = re.compile(r"class = .+? and ")
"""In the definition of a group of one class and more."""


class Group(BaseModel):
    """One group.

    Attributes:
        name: Short name, shown in every legend.
        definition: What a sample must satisfy to belong, in words.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    definition: str


def membership_from_index(index: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the membership matrix of disjoint groups.

    Args:
        index: (n,) integers in [-1, n_groups); -1 means unknown, a row without any group.
        n_groups: Number of groups m.

    Returns:
        (n, m) bool.

    Example:
        >>> membership_from_index(np.array([0, -1]), 2)
        array([[ True, False],
               [False, False]])
    """
    return index[:, None] == np.arange(n_groups)[None, :]


def class_by_attribute(
    samples: pd.DataFrame,
    attribute: str,
    classes: Sequence[str],
    values: Mapping[_Value, str],
) -> tuple[list[Group], np.ndarray]:
    """Make the ordinary groups, one for each class and value of an attribute.

    Args:
        samples: Has the columns `y` (class index) and `attribute` (integers or text, keys of
            `values`).
        attribute: Name of the attribute column.
        classes: Class names.
        values: Name of each value of the attribute.

    Returns:
        The groups, class by class, and their (n, m) membership.
    """
    cells = list(itertools.product(range(len(classes)), values))
    groups = [
        Group(
            name=f"{classes[label]}, {values[value]}",
            definition=f"class = {classes[label]} and {attribute} = {values[value]}",
        )
        for label, value in cells
    ]
    y, a = samples["y"].to_numpy(), samples[attribute].to_numpy()
    membership = np.stack([(y == label) & (a == value) for label, value in cells], axis=1)
    return groups, membership


def patterns(membership: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the combinations of groups that occur: few, even among many rows.

    Args:
        membership: (n, m) bool.

    Returns:
        The p different rows of `membership`, (p, m) bool, in the order of `np.unique(axis=0)`, and
        for each row which of them it is, (n,) int64.
    """
    codes = np.zeros(len(membership), dtype=np.int64)
    # A code that is renumbered is below n, so that it cannot overflow.
    packed = np.packbits(membership, axis=1).astype(np.int64)
    for start in range(0, packed.shape[1], 2):
        for byte in packed[:, start : start + 2].T:
            codes = codes * 256 + byte
        codes, uniques = pd.factorize(codes)
        # In order of their values, so that the first columns matter most.
        order = np.argsort(uniques)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        codes = rank[codes]
    example = np.zeros(codes.max(initial=-1) + 1, dtype=np.int64)
    example[codes] = np.arange(len(codes))
    return membership[example], codes


def beside_class(
    groups: Sequence[Group], membership: np.ndarray, y: np.ndarray, classes: Sequence[str]
) -> np.ndarray | None:
    """Number what each group is made of beside its class: its values of attributes.

    The definition of a group of one class names the class where that is part of what makes the
    groups, or at least its name begins with it; what is left of either is the rest. A group with
    rows of several classes is its own rest.

    Args:
        groups: m groups.
        membership: (n, m) bool.
        y: (n,) class indices.
        classes: K class names.

    Returns:
        (m,) numbers, equal for groups that differ in nothing but the class; None if some group is
        of one class and neither definition nor name says what else it is.

    Example:
        >>> kinds = ["class = cat and red", "class = cat and blue", "class = dog and red"]
        >>> groups = [Group(name=each, definition=each) for each in kinds]
        >>> beside_class(groups, np.eye(3, dtype=bool), np.array([0, 0, 1]), ["cat", "dog"])
        array([0, 1, 0])
    """
    rest = []
    for group, member in zip(groups, membership.T, strict=True):
        labels = np.unique(y[member])
        of_one = len(labels) == 1
        text = _without_class(group, classes[int(labels[0])]) if of_one else group.definition
        if text is None:
            return None
        rest.append(text)
    return pd.factorize(np.array(rest, dtype=object))[0]


def _without_class(group: Group, name: str) -> str | None:
    """Return what makes a group of one class beside that class, in words; None if nothing does."""
    # A class may be written otherwise there than it is called.
    for part in (f"class = {name} and ", *_OF_CLASS.findall(group.definition)):
        if part in group.definition:
            return group.definition.replace(part, "")
    if group.name.startswith(f"{name}, "):
        return group.name.removeprefix(f"{name}, ")
    return None


def describe(membership: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Name each row's group for display: joined by ` + ` where groups overlap.

    Args:
        membership: (n, m) bool; of many rows, first find the `patterns`.
        names: m group names.

    Returns:
        (n,) strings; `unknown` for a row without any group.

    Example:
        >>> list(map(str, describe(np.array([[True, True], [False, False]]), ["a", "b"])))
        ['a + b', 'unknown']
    """
    return np.array(
        [
            " + ".join(name for name, member in zip(names, row, strict=True) if member) or UNKNOWN
            for row in membership
        ],
        dtype=object,
    )


def training_shares(membership: np.ndarray) -> np.ndarray | None:
    """Return each group's share of the training rows, for the adjusted average accuracy.

    Args:
        membership: (n, m) bool over the training rows; rows without a group do not count.

    Returns:
        (m,) fractions that sum to one, or None if no training row has a known group.
    """
    counts = membership.sum(axis=0).astype(np.float64)
    total = counts.sum()
    return counts / total if total else None
