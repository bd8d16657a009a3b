"""A bundle whose groups are the classes by an attribute, a column, a property or a phrase."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gsr_core.data.bundle import INFLUENCE, RESERVED_COLUMNS, Bundle
from gsr_core.data.bundle_writing import bundle_directory
from gsr_core.data.column_values import categories_of
from gsr_core.data.regrouping import regrouped
from gsr_core.errors import SettingError
from gsr_core.scanning.candidates import Candidate, Side
from gsr_core.scanning.scan import find_candidate
from gsr_core.workspace import Workspace

__all__ = ["groups_by"]


def groups_by(
    workspace: Workspace,
    bundle: Bundle,
    name: str,
    by: str,
    side: str = "",
    *,
    measured: pd.DataFrame | None = None,
    phrases: pd.DataFrame | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle of the same samples whose groups are the classes by something scanned.

    Features are linked, not copied. Rows without a value are in no group.

    Args:
        workspace: Where the new bundle goes.
        bundle: The data.
        name: Of the new bundle.
        by: An attribute, a column of the table, a measured property or a phrase.
        side: One of its sides, held against all else; "" takes every value of a category, and of
            numbers what lies above the median and below.
        measured: Properties of the inputs, from `measure_inputs`.
        phrases: How near the samples are to some phrases, from `phrase_similarities`.
        overwrite: Replace a bundle of that name.

    Raises:
        SettingError: If there is no such attribute or side, it cannot tell rows apart, or a group
            would have no row in target.
        BundleError: If the name is not allowed or taken, or the groups cannot be measured.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> gsr.groups_by(place, bundle, "birds-by-colour", "colour", "red").group_names
        ['cat, not red', 'cat, red', 'dog, not red', 'dog, red']
    """
    directory = bundle_directory(workspace, name, overwrite=overwrite)
    candidate = find_candidate(bundle, by, measured, phrases)
    values = _values(candidate, _side(candidate, side))
    attribute = _attribute(bundle, by, side, values)
    several = not side and len(candidate.sides) > 1
    advice = (
        f"hold one value against all others ({_sides(candidate)})"
        if several
        else "choose another attribute, or move rows of it to target"
    )
    unknown = int((~candidate.known).sum())
    return regrouped(
        bundle,
        directory,
        attribute,
        bundle.samples.get(attribute, values),
        source=f"{bundle.manifest.source}; groups by {by}",
        note=f"The groups are the classes of '{bundle.name}' by {_origin(candidate)}"
        + (f"; {unknown:,} rows without a value are in no group." if unknown else "."),
        advice=advice,
        overwrite=overwrite,
    )


def _side(candidate: Candidate, name: str) -> Side | None:
    """Return the side of that name; None for every value.

    Raises:
        SettingError: If there is none.
    """
    if not name:
        return candidate.sides[0] if candidate.numeric else None
    for each in candidate.sides:
        if each.name == name:
            return each
    raise SettingError(
        f"'{candidate.name}' has no side '{name}'; choose one of {_sides(candidate)}"
    )


def _sides(candidate: Candidate) -> str:
    return ", ".join(f"'{each.name}'" for each in candidate.sides)


def _values(candidate: Candidate, side: Side | None) -> pd.Series:
    """Return n values as text, "" for none."""
    if side is None:
        texts = np.array([*candidate.values, None], dtype=object)[candidate.codes]
    else:
        name = f"{candidate.name} {side.name}" if candidate.numeric else side.name
        texts = np.where(candidate.inside(side), name, f"not {name}").astype(object)
    return pd.Series(texts, dtype=object).where(candidate.known, None)


def _attribute(bundle: Bundle, by: str, side: str, values: pd.Series) -> str:
    """Return the name of the attribute that has these values, or is to have them.

    Raises:
        SettingError: If its names are taken by other attributes.
    """
    samples = bundle.samples
    by = f"column {by}" if by in RESERVED_COLUMNS or by.startswith(INFLUENCE) else by
    for name in (by, f"{by}: {side or 'its values'}"):
        if name not in samples.columns:
            return name
        # It may be there already, perhaps as numbers; an empty text is no missing value.
        there = samples[name].isna() if values.isna().any() else False
        if ((categories_of(samples[name]) == values) | (there & values.isna())).all():
            return name
    raise SettingError(
        f"bundle '{bundle.name}' has other attributes of the names '{by}' and '{name}' already; "
        "make the groups in the bundle that these were made from"
    )


def _origin(candidate: Candidate) -> str:
    origin = {
        "attribute": "its attribute",
        "column": "the column",
        "measured": "what was measured of the inputs as",
        "phrase": "how near its network finds them to the phrase",
    }
    return f"{origin[candidate.source]} '{candidate.name}'"
