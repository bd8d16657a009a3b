"""A bundle of the same samples whose groups are the classes by one more attribute."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import rewrite_bundle
from gsr_core.data.group_rules import MAX_GROUPS, make_groups
from gsr_core.data.source import GroupRule
from gsr_core.errors import SettingError

__all__ = ["regrouped"]


def regrouped(
    bundle: Bundle,
    directory: Path,
    attribute: str,
    values: pd.Series,
    *,
    source: str,
    note: str,
    advice: str,
    order: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle with an attribute, and the groups of class and attribute.

    Features are linked, not copied. Rows without a value are in no group.

    Args:
        bundle: The data.
        directory: Of the new bundle.
        attribute: Its name; a column of that name is written over.
        values: n values; None for none.
        source: Of the new bundle.
        note: One more note.
        advice: What to do where the groups are too many, or one has no row in target.
        order: The values in the order of the groups; their own order if None.
        overwrite: Replace a bundle of that name.

    Raises:
        SettingError: If there are more than 1,000 groups, or one has no row in target.
        BundleError: If a check fails; see `write_bundle`.
    """
    classes = bundle.manifest.classes
    if (count := len(classes) * values.nunique()) > MAX_GROUPS:
        raise SettingError(
            f"{len(classes):,} classes by {values.nunique():,} values of '{attribute}' are "
            f"{count:,} groups; at most {MAX_GROUPS:,} are allowed: {advice}"
        )
    samples = bundle.samples.assign(**{attribute: values})
    named: dict[Hashable, str] = {each: each for each in order or ()}
    names = {attribute: named} if named else None
    rule = GroupRule(columns=(attribute,))
    groups, membership, _ = make_groups(samples, bundle.y, classes, rule, names)
    lost = np.flatnonzero(~membership[bundle.rows_of["target"]].any(axis=0))
    if len(lost):
        raise SettingError(
            f"group '{groups[lost[0]].name}' would have no sample in target, so that nothing could "
            f"drive its weights; {advice}"
        )
    return rewrite_bundle(
        bundle,
        directory,
        samples,
        membership,
        groups=groups,
        source=source,
        note=note,
        overwrite=overwrite,
    )
