"""A table whose columns are the features: numbers and categories."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

import pandas as pd
from pydantic import BeforeValidator, Field

from gsr_core.data.column_values import numbers_of
from gsr_core.data.encoding import Columns, Missing
from gsr_core.data.proposal import propose_roles
from gsr_core.data.source import GroupRule, Source
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import read_table

__all__ = ["Names", "Table"]

SENSITIVE = (
    "sex",
    "gender",
    "race",
    "ethnicity",
    "ethnic_group",
    "nationality",
    "religion",
    "disability",
    "age_cat",
    "age_group",
)
"""Usual names of columns that groups are made of."""
MAX_LISTED = 40


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Names of columns; a text is cut at its commas."""


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Table(Reader):
    """A table of numbers and categories; needs no backbone.

    The label, the split, ids and attributes are never features, whatever roles the user gives, and
    neither are columns whose names look like one of these. An attribute such as race stays out
    because whoever makes groups of it for training should not need it for a prediction; name it in
    `numeric` or `categorical`, or set `attributes_as_features`, where that is wanted.
    """

    name: ClassVar[str] = "table"
    title: ClassVar[str] = "Table of numbers and categories"
    summary: ClassVar[str] = (
        "A CSV, TSV, parquet or JSONL file whose columns are the features: numbers are "
        "standardised and categories one-hot, as the training rows have them."
    )
    path_help: ClassVar[str] = "the .csv, .tsv, .parquet or .jsonl file"

    numeric: Annotated[
        Names,
        Field(description="Feature columns of numbers. If this or categorical is given, no others"),
    ] = ()
    categorical: Annotated[
        Names,
        Field(description="Feature columns of categories. If this or numeric is given, no others."),
    ] = ()
    exclude: Annotated[
        Names,
        Field(description="Columns that are no features, such as what is known only afterwards."),
    ] = ()
    missing: Annotated[
        Missing,
        Field(
            description="A gap in a feature stops the import, or is filled with the training "
            "median and marked in a further column."
        ),
    ] = "stop"
    max_categories: Annotated[
        int,
        Field(
            ge=2, le=10_000, description="A column of text with more different values is left out."
        ),
    ] = 50
    attributes_as_features: Annotated[
        bool, Field(description="Whether attributes, of which groups are made, are features too.")
    ] = False

    def read(self) -> Source:
        """Read the table and find the feature columns.

        Raises:
            SourceError: If the file cannot be read, a named column is not there, or one of numbers
                holds something else.
        """
        table = read_table(self.location, unique=False)
        _check_names(table, (*self.numeric, *self.categorical, *self.exclude))
        roles = propose_roles(table)
        explicit = bool(self.numeric or self.categorical)
        notes: list[str] = []
        if explicit:
            numeric = [name for name in dict.fromkeys(self.numeric) if name not in self.exclude]
            categorical = [
                name for name in dict.fromkeys(self.categorical) if name not in self.exclude
            ]
            if both := set(numeric) & set(categorical):
                raise SourceError(
                    f"column '{min(both)}' is in numeric and in categorical; keep it in one of them"
                )
            for name in numeric:
                numbers_of(table[name])
        else:
            # By their names; a second label would give away the one that is chosen.
            role_columns = (roles.label, roles.sample_id, roles.split.column)
            numeric, categorical, notes = self._columns_by_value(
                table.drop(columns=[name for name in role_columns if name is not None])
            )
        columns = Columns(
            table,
            numeric=numeric,
            categorical=categorical,
            missing=self.missing,
            explicit=explicit,
            attributes_as_features=self.attributes_as_features,
        )
        # An attribute is not a feature, so few are proposed.
        free = [name for name in roles.attributes if not (explicit and name in columns.table)]
        usual = [name for name in free if name.lower() in SENSITIVE]
        texts = [name for name in free if not pd.api.types.is_numeric_dtype(table[name])]
        attributes = tuple(usual or texts[:1] or (free[:1] if explicit else ()))
        return Source(
            table=table,
            inputs=columns,
            roles=roles.model_copy(
                update={
                    "attributes": attributes,
                    "groups": GroupRule(columns=attributes[:1]),
                    # No backbone was trained on them, so every training row may carry a weight.
                    "split": roles.split.model_copy(update={"heldout": 1.0}),
                }
            ),
            origin=f"columns of {self.location.name}",
            notes=tuple(notes),
        )

    def _columns_by_value(self, table: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
        """Return the columns of numbers and of categories by their values, and notes."""
        numeric: list[str] = []
        categorical: list[str] = []
        empty, many, other, twice = [], [], [], []
        for name in map(str, table.columns):
            column = table[name]
            # The index that pandas' to_csv writes.
            if name in self.exclude or name.startswith("Unnamed:"):
                continue
            original = re.sub(r"\.\d+$", "", name)
            if column.isna().all():
                empty.append(name)
            elif original != name and original in table and column.equals(table[original]):
                twice.append(name)
            elif pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(
                column
            ):
                numeric.append(name)
            elif not _is_text(column):
                other.append(name)
            elif column.nunique() > self.max_categories:
                many.append(name)
            else:
                categorical.append(name)
        columns = [*numeric, *categorical]
        listing = ", ".join(columns[:MAX_LISTED]) + (", ..." if len(columns) > MAX_LISTED else "")
        notes = [
            f"{len(numeric)} columns of numbers and {len(categorical)} of categories were found "
            f"({listing}): whichever is not the label, the split, ids or an attribute "
            "becomes a feature, so exclude what would not be known at prediction time."
        ]
        for names, reason in (
            (empty, "they are empty"),
            (twice, "another column has the same name and values"),
            (other, "they are neither numbers nor text"),
            (
                many,
                f"their texts have more than {self.max_categories} different values (max_categories"
                ", or name them in categorical)",
            ),
        ):
            if names:
                notes.append(f"Columns that are no features: {', '.join(names)}; {reason}.")
        return numeric, categorical, notes


def _is_text(column: pd.Series) -> bool:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _is_text(pd.Series(column.cat.categories))
    if column.dtype != object:
        return pd.api.types.is_string_dtype(column)
    return bool(column.dropna().map(lambda value: isinstance(value, str | bool)).all())


def _check_names(table: pd.DataFrame, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in table:
            listing = ", ".join(map(str, table.columns[:MAX_LISTED]))
            more = ", ..." if len(table.columns) > MAX_LISTED else ""
            raise SourceError(f"there is no column '{name}'; the columns are {listing}{more}")
