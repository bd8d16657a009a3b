"""Groups that a method sees where its run is judged by those of the bundle.

Group labels are often coarser, or of other attributes, than what a classifier is judged by: on
CivilComments, as WILDS has it (Koh et al., ICML 2021, https://arxiv.org/abs/2012.07421), methods
train on 4 groups, class by whether any identity is mentioned, and the worst of 16 overlapping
groups, class by each identity, is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.data.group_rules import MAX_VALUES, make_groups
from gsr_core.data.source import GroupRule
from gsr_core.data.variation import CLASS, in_words
from gsr_core.errors import SettingError
from gsr_core.settings import suggestion

__all__ = ["SeenGroups", "cross_attributes", "own_groups"]

_NAMED = 3
"""Most groups that a sentence names."""


@dataclass(frozen=True)
class SeenGroups:
    """Groups of all rows of a bundle, as a method sees them.

    Attributes:
        names: m names, in the order of the membership's columns.
        membership: (n, m) bool.
        own: Whether they are the bundle's own groups.
    """

    names: list[str]
    membership: np.ndarray
    own: bool


def own_groups(bundle: Bundle) -> SeenGroups:
    """Return the groups of the bundle."""
    return SeenGroups(bundle.group_names, bundle.membership, own=True)


def cross_attributes(
    bundle: Bundle, attributes: Sequence[str], positions: Mapping[str, np.ndarray]
) -> SeenGroups:
    """Return the groups of the class crossed with attributes.

    If they are the bundle's own groups in another order, they are returned as the bundle has them,
    so that a run gives the same bits.

    Args:
        bundle: The data.
        attributes: Names of attributes of the bundle, all different; without any, the groups are
            the classes.
        positions: Rows of each split, as the run has them. A row without a value of an attribute
            is in no group.

    Raises:
        SettingError: If there is no such attribute, it has too many values, or a group has no row
            of target or of the weighted split, or val has no row of any group.
        SourceError: If there are too many groups.
    """
    manifest = bundle.manifest
    for name in attributes:
        if name not in manifest.attributes:
            there = ", ".join(manifest.attributes[:20]) or "none"
            raise SettingError(
                f"there is no attribute '{name}' to see groups by"
                f"{suggestion(name, manifest.attributes)}; the attributes of bundle "
                f"'{bundle.name}' are {there}; '{CLASS}' is the classes alone"
            )
    # Text that is empty stands for a gap.
    table = pd.DataFrame(
        {name: bundle.column(name).to_pandas().replace("", np.nan) for name in attributes},
        index=pd.RangeIndex(len(bundle)),
    )
    for name in attributes:
        if (values := table[name].nunique()) > MAX_VALUES:
            raise SettingError(
                f"attribute '{name}' has {values:,} different values, and groups can be seen by "
                f"at most {MAX_VALUES}; choose another, or import the data with a column that has "
                "its ranges"
            )
    rule = GroupRule(columns=tuple(attributes))
    groups, membership, _ = make_groups(table, bundle.y, manifest.classes, rule)
    if _columns(membership) == _columns(bundle.membership):
        return own_groups(bundle)
    seen = SeenGroups([group.name for group in groups], membership, own=False)
    _check_rows(bundle, seen, attributes, positions)
    return seen


def _columns(membership: np.ndarray) -> set[bytes]:
    return {np.packbits(column).tobytes() for column in membership.T}


def _check_rows(
    bundle: Bundle,
    seen: SeenGroups,
    attributes: Sequence[str],
    positions: Mapping[str, np.ndarray],
) -> None:
    """Check that a method has rows of every group that it sees.

    Raises:
        SettingError: If not.
    """
    what = in_words(attributes)
    for split in ("target", bundle.manifest.weighted_split):
        counts = seen.membership[positions[split]].sum(axis=0)
        if (empty := np.flatnonzero(counts == 0)).size:
            named = "; ".join(seen.names[g] for g in empty[:_NAMED])
            more = f" and {len(empty) - _NAMED} others" * (len(empty) > _NAMED)
            raise SettingError(
                f"of the {len(counts)} groups of {what}, {split} has no row of '{named}'{more}, so "
                "that a method could not be trained with them; see groups by fewer or coarser "
                f"attributes, or import the data with rows of them in {split}"
            )
    if not seen.membership[positions["val"]].any():
        raise SettingError(
            f"val has no row of any group of {what}, since it has no values of them, so that no "
            "step could be chosen; see groups by another attribute"
        )
