"""Groups that a method sees where its run is judged by those of the bundle.

Group labels are often coarser, or of other attributes, than what a classifier is judged by: on
CivilComments, as WILDS has it (Koh et al., ICML 2021, https://arxiv.org/abs/2012.07421), methods
train on 4 groups, class by whether any identity is mentioned, and the worst of 16 overlapping
groups, class by each identity, is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.data.group_rules import MAX_VALUES, make_groups
from gsr_core.data.groups import Group
from gsr_core.data.source import GroupRule
from gsr_core.data.variation import CLASS, Variation, in_words
from gsr_core.errors import SettingError
from gsr_core.settings import suggestion

__all__ = ["SeenGroups", "seen_groups"]

_NAMED = 3
"""Most groups that a sentence names."""


@dataclass(frozen=True)
class SeenGroups:
    """Groups of all rows of a bundle, as a method sees them.

    Attributes:
        groups: m groups, in the order of the membership's columns.
        membership: (n, m) bool.
        words: What they are made of, as in "class × sex"; "" if they are the bundle's own.
    """

    groups: list[Group]
    membership: np.ndarray
    words: str = ""

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [group.name for group in self.groups]

    @property
    def own(self) -> bool:
        """Whether they are the groups of the bundle."""
        return not self.words

    def check_rows(self, positions: Mapping[str, np.ndarray], weighted_split: str) -> None:
        """Check that a method has rows of every group, if they are not the bundle's own.

        Args:
            positions: Rows of each split, as the run has them.
            weighted_split: The split whose rows the method fits.

        Raises:
            SettingError: If a group has no row of target or of the weighted split, or val has no
                row of any group.
        """
        if self.own:
            return
        for split in ("target", weighted_split):
            counts = self.membership[positions[split]].sum(axis=0)
            if (empty := np.flatnonzero(counts == 0)).size:
                named = "; ".join(self.names[g] for g in empty[:_NAMED])
                more = f" and {len(empty) - _NAMED} others" * (len(empty) > _NAMED)
                raise SettingError(
                    f"of the {len(counts)} groups of {self.words}, {split} has no row of "
                    f"'{named}'{more}, so that a method could not be trained with them; see groups "
                    f"by fewer or coarser attributes, or import the data with rows of them in "
                    f"{split}"
                )
        if not self.membership[positions["val"]].any():
            raise SettingError(
                f"val has no row of any group of {self.words}, since it has no values of them, so "
                "that no step could be chosen; see groups by another attribute"
            )


def seen_groups(bundle: Bundle, variation: Variation | None = None) -> SeenGroups:
    """Return the groups that the method of a run sees, before any noise in their labels.

    If the class and attributes make the bundle's own groups in another order, they are returned as
    the bundle has them, so that a run gives the same bits. A row without a value of an attribute
    is in no group.

    Args:
        bundle: The data.
        variation: Of the run.

    Raises:
        SettingError: If there is no such attribute, or it has too many values.
        SourceError: If there are too many groups.
    """
    own = SeenGroups(bundle.manifest.groups, bundle.membership)
    if variation is None or variation.seen_groups is None:
        return own
    attributes, manifest = variation.seen_groups, bundle.manifest
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
    rule = GroupRule(columns=attributes)
    groups, membership, _ = make_groups(table, bundle.y, manifest.classes, rule)
    if _columns(membership) == _columns(bundle.membership):
        return own
    return SeenGroups(groups, membership, in_words(attributes))


def _columns(membership: np.ndarray) -> set[bytes]:
    return {np.packbits(column).tobytes() for column in membership.T}
