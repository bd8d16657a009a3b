"""From a reader's table to a data set: labels, groups and splits settled, no features yet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.data.bundle import INFLUENCE, RESERVED_COLUMNS, SPLITS
from gsr_core.data.bundle_checks import check_rows
from gsr_core.data.group_rules import make_groups
from gsr_core.data.groups import Group
from gsr_core.data.inputs import Inputs, Texts
from gsr_core.data.source import Roles, Source
from gsr_core.data.splits import LEFT_OUT, make_splits
from gsr_core.errors import SourceError
from gsr_core.settings import suggestion

__all__ = ["Dataset", "amend", "check_definition", "define"]

MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Dataset:
    """A bundle before its features.

    Attributes:
        samples: One row a sample: `sample_id`, `split`, `y`, attributes, optional `path`, `text`
            and `text_pair`.
        membership: (n, m) bool.
        groups: m groups.
        classes: K class names.
        inputs: The n inputs of the backbone.
        source: Where the rows came from, in words.
        rows: (n,) the source's row of each sample; some may have been left out.
        notes: What a user should know, one sentence each.
    """

    samples: pd.DataFrame
    membership: np.ndarray
    groups: list[Group]
    classes: list[str]
    inputs: Inputs
    source: Source
    rows: np.ndarray
    notes: list[str]

    def __len__(self) -> int:
        """Return the number of samples n."""
        return len(self.samples)

    def take(self, rows: np.ndarray) -> Dataset:
        """Return some of the samples, in the order of `rows`."""
        return replace(
            self,
            samples=self.samples.iloc[rows].reset_index(drop=True),
            membership=self.membership[rows],
            inputs=self.inputs.take(rows),
            rows=self.rows[rows],
        )

    def counts(self) -> tuple[list[str], np.ndarray]:
        """Return the splits that are there, and their (splits, m) number of samples a group."""
        split = self.samples["split"].to_numpy()
        present = [name for name in SPLITS if (split == name).any()]
        return present, np.stack([self.membership[split == name].sum(axis=0) for name in present])


def amend(roles: Roles, changes: Mapping[str, Any]) -> Roles:
    """Return a reader's proposal with a user's corrections.

    Args:
        roles: The proposal.
        changes: Fields of `Roles` that differ, nested as `Roles.model_dump` nests them. New
            attributes become the columns of the groups unless those are given too.

    Raises:
        pydantic.ValidationError: If a field is unknown or has a value that is not allowed.
    """
    fields = roles.model_dump()
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, Mapping) else value
    groups = changes.get("groups")
    attributes = changes.get("attributes") or ()
    if "attributes" in changes and not (isinstance(groups, Mapping) and "columns" in groups):
        fields["groups"]["columns"] = attributes
    return Roles.model_validate(fields)


def define(source: Source, roles: Roles | None = None) -> Dataset:
    """Settle labels, groups and splits.

    Args:
        source: What a reader returned.
        roles: What each column is for; the reader's proposal by default.

    Raises:
        SourceError: If a column is missing or does not suit its role; the sentence names the
            column, the row (counted from 0) and the fix.
    """
    roles = source.roles if roles is None else roles
    table = source.table.reset_index(drop=True)
    if not len(table):
        raise SourceError(f"{source.origin} has no rows; there is nothing to import")
    if roles.label is None:
        raise SourceError(
            f"no column looks like the label; name it with --label: {_columns(table)}"
        )
    for column in _role_columns(roles):
        if column not in table:
            hint = suggestion(column, [str(each) for each in table.columns])
            raise SourceError(f"there is no column '{column}'{hint}; {_columns(table)}")

    notes = list(source.notes)
    y, classes = _labels(table[roles.label], source.names.get(roles.label, {}))
    if source.membership is not None:
        definitions = source.membership.attrs.get("definitions", {})
        groups = [
            Group(name=str(name), definition=definitions.get(name, f"column '{name}' of the file"))
            for name in source.membership.columns
        ]
        membership = source.membership.to_numpy(bool)
        labelled = np.ones(len(table), dtype=bool)
    else:
        groups, membership, more = make_groups(table, y, classes, roles.groups, source.names)
        notes += more
        # Groups that overlap may leave a row out on purpose: it is known to be in none.
        overlap = roles.groups.kind == "overlapping"
        labelled = np.asarray(membership.any(axis=1) | overlap)
    if source.membership is not None and roles.split == source.roles.split:
        split = table[roles.split.column].to_numpy(dtype=object)  # Complete as it is.
    else:
        split, more = make_splits(
            None if roles.split.column is None else table[roles.split.column],
            _strata(y, membership),
            labelled,
            roles.split,
        )
        notes += more
    rows = np.flatnonzero(split != LEFT_OUT)
    if source.membership is None:  # Else the file is complete, and says itself what it lacks.
        _check_classes(y[rows], split[rows].astype(str), classes, rows)

    samples = pd.DataFrame(
        {
            "sample_id": _identities(table, roles.sample_id),
            "split": split.astype(str),
            "y": y,
        }
    )
    for column in roles.attributes:
        if column in (roles.label, roles.sample_id, roles.split.column):
            continue
        name, note = _attribute_name(column)
        notes += note
        samples[name] = _attribute(table[column], source.names.get(column, {}))
    if "path" in table:
        samples["path"] = table["path"].astype(str)
    if isinstance(source.inputs, Texts):
        samples = samples.assign(**source.inputs.columns())
    whole = Dataset(
        samples=samples,
        membership=membership,
        groups=groups,
        classes=classes,
        inputs=source.inputs,
        source=source,
        rows=np.arange(len(table)),
        notes=notes,
    )
    return whole if len(rows) == len(table) else whole.take(rows)


def check_definition(dataset: Dataset) -> None:
    """Check all of a bundle but its features, which take the time.

    Raises:
        BundleError: If the parts do not fit together, or a split or group lacks what it needs.
    """
    check_rows(
        dataset.samples,
        dataset.membership,
        dataset.groups,
        dataset.classes,
        np.broadcast_to(np.float32(0), (len(dataset), 1)),
    )


def _role_columns(roles: Roles) -> list[str]:
    columns = (roles.label, roles.sample_id, roles.split.column, *roles.attributes)
    return [column for column in columns if column is not None]


def _columns(table: pd.DataFrame) -> str:
    names = [str(each) for each in table.columns]
    return f"the columns are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"


def _labels(column: pd.Series, names: Mapping[Hashable, str]) -> tuple[np.ndarray, list[str]]:
    if (missing := np.flatnonzero(column.isna())).size:
        raise SourceError(
            f"label '{column.name}' is missing in row {missing[0]} ({len(missing)} rows in all); "
            "fill it in or drop the rows"
        )
    values = list(pd.unique(column))
    if pd.api.types.is_float_dtype(column):
        if not all(float(value).is_integer() for value in values):
            first = next(value for value in values if not float(value).is_integer())
            raise SourceError(
                f"label '{column.name}' has the value {first}, which is not a class; choose a "
                "column of class names or whole numbers"
            )
        column, values = column.astype(np.int64), [int(value) for value in values]
    order: list[Hashable] = list(names)
    rest = [value for value in values if value not in names]
    numeric = all(isinstance(value, int | np.integer) for value in rest)
    order += sorted(rest) if numeric else sorted(rest, key=str)
    if not 2 <= len(order) <= min(MAX_CLASSES, max(2, len(column) - 1)):
        raise SourceError(
            f"label '{column.name}' has {len(order)} different values in {len(column)} rows; 2 to "
            f"{MAX_CLASSES} classes are allowed: choose the column of the class"
        )
    codes = pd.Categorical(column, categories=order).codes.astype(np.int64)
    classes = [
        names[value] if value in names else f"class {value}" if _is_number(value) else str(value)
        for value in order
    ]
    return codes, classes


def _is_number(value: object) -> bool:
    return str(value).lstrip("-").isdigit()


def _strata(y: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """Number every class and combination of groups that occurs."""
    packed = np.packbits(membership, axis=1)
    keys = np.column_stack([y[:, None].view(np.uint8).reshape(len(y), -1), packed])
    keys = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).ravel()
    return np.unique(keys, return_inverse=True)[1]


def _check_classes(
    y: np.ndarray, split: np.ndarray, classes: Sequence[str], rows: np.ndarray
) -> None:
    weighted = "heldout" if (split == "heldout").any() else "train"
    learnt = np.bincount(y[split == weighted], minlength=len(classes)) > 0
    lost = ~learnt[y]
    if (bad := np.flatnonzero(lost)).size:
        raise SourceError(
            f"class '{classes[int(y[bad[0]])]}' occurs in row {rows[bad[0]]} ({split[bad[0]]}), "
            f"but in no {weighted} row, so no head could learn it; add {weighted} rows of it, or "
            f"leave the {int(lost.sum())} rows out"
        )


def _identities(table: pd.DataFrame, column: str | None) -> list[str]:
    if column is None:
        return [str(row) for row in range(len(table))]
    names = table[column].map(str)
    if (twice := names.duplicated()).any():
        row = int(np.flatnonzero(twice)[0])
        raise SourceError(
            f"sample id '{names.iloc[row]}' in row {row} of column '{column}' is there twice; "
            "drop the duplicate, or choose another column of ids"
        )
    return names.tolist()


def _attribute_name(column: str) -> tuple[str, list[str]]:
    if column in RESERVED_COLUMNS or column.startswith(INFLUENCE):
        name = f"{column}_column" if column in RESERVED_COLUMNS else f"column {column}"
        return name, [f"Column '{column}' is kept as attribute '{name}': the name is taken."]
    return column, []


def _attribute(column: pd.Series, names: Mapping[Hashable, str]) -> pd.Series:
    if names:
        return column.map(lambda value: names.get(value, value)).astype(str)
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return column
    return column.astype(str).where(column.notna(), "")
