"""A table's columns as features: standardised numbers and one-hot categories.

Means, medians and categories come from the training rows alone and are kept as a record in plain
JSON: an `Encoder` read back from its file gives the same features, and encodes rows that come
later. scikit-learn does the fitting:

- a number x becomes (x - mean) / std; a gap first takes the training median, and a column that
  has gaps in training is joined by one that is 1 in the gaps and 0 elsewhere;
- a category becomes one column for each category of the training rows; a gap is a category of its
  own. A category that no training row has is 0 in all of them;
- a column that is constant in the training rows is left out.

The module is long because fitting, the record and its checks are in one place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from gsr_core.data.column_values import categories_of, codes_among, gaps_of, numbers_of
from gsr_core.data.inputs import Inputs, Numbers
from gsr_core.data.source import Roles
from gsr_core.errors import InputError, SourceError

__all__ = [
    "CategoricalColumn",
    "Columns",
    "Encoder",
    "Missing",
    "NumericColumn",
]

Missing = Literal["stop", "impute"]


class NumericColumn(BaseModel):
    """How a column of numbers is encoded.

    Attributes:
        name: Of the column.
        median: What a gap is filled with.
        mean: Of the training rows, gaps filled.
        std: Likewise; None if they are constant, so that only their gaps say anything.
        indicator: Whether a feature says where the gaps are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    median: float
    mean: float
    std: float | None
    indicator: bool


class CategoricalColumn(BaseModel):
    """How a column of categories is encoded.

    Attributes:
        name: Of the column.
        categories: Those of the training rows, in the order of their features; None is a gap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    categories: tuple[str | None, ...]


class Encoder(BaseModel):
    """How a table's columns become features.

    Attributes:
        format: Version of the record.
        numeric: Columns of numbers.
        categorical: Columns of categories.
        missing: Whether a gap stops the encoding or is filled.
        left_out: Columns that are no features, and why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    numeric: tuple[NumericColumn, ...]
    categorical: tuple[CategoricalColumn, ...]
    missing: Missing = "stop"
    left_out: dict[str, str] = {}

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are needed."""
        return [column.name for column in (*self.numeric, *self.categorical)]

    @property
    def feature_names(self) -> list[str]:
        """Names of the d features: all numbers, then their gaps, then all categories."""
        return [
            *(column.name for column in self.numeric if column.std is not None),
            *(f"{column.name} is missing" for column in self.numeric if column.indicator),
            *(
                f"{column.name} is missing" if category is None else f"{column.name} = {category}"
                for column in self.categorical
                for category in column.categories
            ),
        ]

    def transform(self, table: pd.DataFrame) -> np.ndarray:
        """Encode rows.

        Args:
            table: n rows with at least the `columns`; others do not matter.

        Returns:
            (n, d) float32, in the order of `feature_names`.

        Raises:
            SourceError: If a column is not there, or a value is no number where one is needed,
                not finite, or missing where nothing may be.
        """
        return self._transform(table, np.arange(len(table)))

    def _transform(self, table: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
        for name in self.columns:
            if name not in table:
                raise SourceError(
                    f"there is no column '{name}', which was a feature when the encoding was "
                    f"fitted; the columns are {', '.join(map(str, table.columns))}"
                )
        if self.missing == "stop":
            _stop_at_gaps(table, self.columns, rows)
        values, gaps, flags = [], [], []
        for column in self.numeric:
            numbers = numbers_of(table[column.name], rows)
            missing = np.isnan(numbers)
            if column.std is not None:
                numbers[missing] = column.median
                # What overflows is reported below.
                with np.errstate(over="ignore"):
                    scaled = ((numbers - column.mean) / column.std).astype(np.float32)
                if (bad := np.flatnonzero(~np.isfinite(scaled))).size:
                    raise SourceError(
                        f"column '{column.name}' is {numbers[bad[0]]} in row {rows[bad[0]]}, too "
                        f"far from its mean {column.mean:g} for the deviation {column.std:g}; "
                        "correct the value or leave the column out"
                    )
                values.append(scaled)
            if column.indicator:
                gaps.append(missing.astype(np.float32))
        for column in self.categorical:
            codes = codes_among(categories_of(table[column.name]), column.categories)
            flags.append((codes[:, None] == np.arange(len(column.categories))).astype(np.float32))
        parts = [*(part[:, None] for part in (*values, *gaps)), *flags]
        return np.concatenate([np.empty((len(table), 0), np.float32), *parts], axis=1)

    def unseen(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the rows with a category that no training row had, by column, if there are any."""
        rows_by_column = {
            column.name: np.flatnonzero(
                codes_among(categories_of(table[column.name]), column.categories) < 0
            )
            for column in self.categorical
        }
        return {name: rows for name, rows in rows_by_column.items() if rows.size}


class Columns(Inputs):
    """A table's feature columns as they are in the file.

    They become numbers once it is known which rows are for training; see `fit`.
    """

    modality = "numbers"

    def __init__(
        self,
        table: pd.DataFrame,
        *,
        numeric: Sequence[str],
        categorical: Sequence[str],
        missing: Missing = "stop",
        explicit: bool = False,
        attributes_as_features: bool = False,
        rows: np.ndarray | None = None,
    ) -> None:
        """Keep the columns.

        Args:
            table: n rows with those columns; others are ignored.
            numeric: Columns of numbers.
            categorical: Columns of categories.
            missing: Whether a gap in a feature stops the encoding or is filled.
            explicit: Whether the user named these columns, so that attributes among them are meant.
            attributes_as_features: Whether attributes are features too.
            rows: (n,) numbers of the rows in messages; 0, 1, 2 and so on by default.
        """
        self.numeric = tuple(numeric)
        self.categorical = tuple(categorical)
        self.table = table[[*self.numeric, *self.categorical]].reset_index(drop=True)
        self.missing: Missing = missing
        self.explicit = explicit
        self.attributes_as_features = attributes_as_features
        self.rows = np.arange(len(table)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.table)

    def load(self, row: int) -> NoReturn:
        """Refuse: a row has no numbers before the encoding is fitted.

        Raises:
            InputError: Always.
        """
        raise InputError("the table's columns are not encoded yet; fit them with Columns.fit")

    def name(self, row: int) -> str:
        """Return the row."""
        return f"row {self.rows[row]}"

    def take(self, rows: np.ndarray) -> Columns:
        """Return some rows."""
        return self._with(table=self.table.iloc[rows], rows=self.rows[rows])

    def digest(self) -> str:
        """Return the digest of all values and of how they are encoded."""
        digest = hashlib.sha256(f"columns {self.missing} {len(self)}".encode())
        for kind, names in (("numeric", self.numeric), ("categorical", self.categorical)):
            for name in names:
                column = self.table[name]
                digest.update(f"\0{kind}\0{name}\0{column.dtype}\0".encode())
                hashes = pd.util.hash_pandas_object(column, index=False)
                digest.update(hashes.to_numpy(np.uint64).tobytes())
        return digest.hexdigest()

    def without(self, columns: Iterable[str]) -> Columns:
        """Return all columns but some."""
        dropped = set(columns)
        return self._with(
            numeric=[name for name in self.numeric if name not in dropped],
            categorical=[name for name in self.categorical if name not in dropped],
        )

    def under(self, roles: Roles) -> Columns:
        """Return the columns that are features under these roles.

        The label, the split and the ids never are; attributes only if the user named them among
        the features, or wants all of them there.

        Raises:
            SourceError: If the user named one as a feature that cannot be.
        """
        role_of = {roles.label: "label", roles.split.column: "split", roles.sample_id: "ids"}
        features = (*self.numeric, *self.categorical)
        for name in features if self.explicit else ():
            if name in role_of:
                raise SourceError(
                    f"column '{name}' is among the features, but it is the column of the "
                    f"{role_of[name]}; take it out of numeric or categorical"
                )
        excluded = [name for name in features if name in role_of]
        if not (self.explicit or self.attributes_as_features):
            excluded += [*roles.attributes, *roles.groups.columns, *roles.groups.bins]
        return self.without(excluded)

    def fit(self, rows: np.ndarray) -> tuple[Numbers, Encoder, list[str]]:
        """Fit the encoding on some rows and encode all.

        Args:
            rows: Positions, or a mask, of the rows of train and heldout.

        Returns:
            The (n, d) features, how they were made, and what a user should know about it, one
            sentence each.

        Raises:
            SourceError: If there are no such rows, no column is left as a feature, or a value is
                no number where one is needed, not finite, or missing where nothing may be.
        """
        train = self.table.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows]
        if not len(train):
            raise SourceError("no row is in train or heldout, so no encoding can be fitted")
        # Of all rows, so that a bad value is reported with its row in the file.
        numbers = {name: numbers_of(self.table[name], self.rows) for name in self.numeric}
        if self.missing == "stop":
            _stop_at_gaps(self.table, (*self.numeric, *self.categorical), self.rows)
        left_out: dict[str, str] = {}
        numeric = [
            column
            for name in self.numeric
            if (column := _fit_numeric(name, numbers[name][train.index], left_out))
        ]
        categorical = [
            column
            for name in self.categorical
            if (column := _fit_categorical(name, categories_of(train[name]), left_out))
        ]
        encoder = Encoder(
            numeric=tuple(numeric),
            categorical=tuple(categorical),
            missing=self.missing,
            left_out=left_out,
        )
        if not encoder.columns:
            reasons = "; ".join(f"'{name}' has {reason}" for name, reason in left_out.items())
            raise SourceError(
                "no column is left as a feature"
                + (f" ({reasons})" if reasons else "")
                + "; the label, the split, ids and attributes are not features: name columns with "
                "numeric=... and categorical=..., or set attributes_as_features=true"
            )
        features = encoder._transform(self.table, self.rows)
        return Numbers(features), encoder, self._notes(encoder)

    def _notes(self, encoder: Encoder) -> list[str]:
        notes = [
            f"Column '{name}' is no feature: it has {reason}."
            for name, reason in encoder.left_out.items()
        ]
        for column in encoder.numeric:
            if filled := int(gaps_of(self.table[column.name]).sum()):
                notes.append(
                    f"Column '{column.name}' has {filled} gaps, filled with the training rows' "
                    f"median {column.median:g}."
                )
        for name, rows in encoder.unseen(self.table).items():
            first = categories_of(self.table[name].iloc[rows[:1]])[0]
            category = "a gap" if first is None else f"'{first}'"
            notes.append(
                f"Column '{name}' has categories that no training row has in {len(rows)} rows "
                f"(first: {category} in row {self.rows[rows[0]]}); they count as none of the known "
                "ones."
            )
        return notes

    def _with(self, **changes: Any) -> Columns:
        arguments = {
            "table": self.table,
            "numeric": self.numeric,
            "categorical": self.categorical,
            "missing": self.missing,
            "explicit": self.explicit,
            "attributes_as_features": self.attributes_as_features,
            "rows": self.rows,
        }
        return Columns(**{**arguments, **changes})


def _stop_at_gaps(table: pd.DataFrame, columns: Sequence[str], rows: np.ndarray) -> None:
    gaps = {name: np.flatnonzero(gaps_of(table[name])) for name in columns}
    gaps = {name: where for name, where in gaps.items() if where.size}
    if not gaps:
        return
    name = next(iter(gaps))
    others = [f"'{other}' ({len(where)})" for other, where in gaps.items() if other != name]
    raise SourceError(
        f"column '{name}' has no value in row {rows[gaps[name][0]]} ({len(gaps[name])} rows in "
        f"all{'; also ' + ', '.join(others) if others else ''}); fill the gaps in, leave the "
        f"column out (exclude={name}), or set missing=impute"
    )


def _fit_numeric(name: str, numbers: np.ndarray, left_out: dict[str, str]) -> NumericColumn | None:
    # Not above: importing scikit-learn would keep the dashboard's first page waiting.
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    gaps = np.isnan(numbers)
    if gaps.all():
        left_out[name] = "no value in any training row"
        return None
    imputer = SimpleImputer(strategy="median").fit(numbers[:, None])
    scaler = StandardScaler().fit(imputer.transform(numbers[:, None]))
    median, mean, variance, std = (
        float(np.asarray(statistic)[0])
        for statistic in (imputer.statistics_, scaler.mean_, scaler.var_, scaler.scale_)
    )
    # scikit-learn divides by 1 what is constant up to rounding.
    constant = std != np.sqrt(variance)
    if constant and not gaps.any():
        left_out[name] = "one value in all training rows"
        return None
    return NumericColumn(
        name=name,
        median=median,
        mean=mean,
        std=None if constant else std,
        indicator=bool(gaps.any()),
    )


def _fit_categorical(
    name: str, values: np.ndarray, left_out: dict[str, str]
) -> CategoricalColumn | None:
    from sklearn.preprocessing import OneHotEncoder

    (categories,) = OneHotEncoder().fit(values[:, None]).categories_
    if len(categories) == 1:
        left_out[name] = "one value in all training rows"
        return None
    return CategoricalColumn(name=name, categories=tuple(categories))
