"""A guess at what the columns of an unknown table are for, by their names and values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from gsr_core.data.source import GroupRule, Roles, SplitRule
from gsr_core.data.splits import WORDS

__all__ = ["LABEL_NAMES", "SPLIT_NAMES", "propose_roles"]

LABEL_NAMES = (
    "y",
    "label",
    "labels",
    "class",
    "class_name",
    "target",
    "category",
    "gold_label",
    "class_label",
    "label_name",
    "y_true",
)
SPLIT_NAMES = ("split", "partition", "subset", "set", "fold")
ID_NAMES = ("sample_id", "id", "image_id", "img_id", "uid", "uuid", "guid")
GROUP_NAMES = ("group", "group_name", "subgroup", "group_id", "group_idx")
MAX_VALUES = 20
"""Most different values of a column that can be an attribute."""
MAX_CLASSES = 1000
MAX_LENGTH = 60
"""Longest text, in characters, that can name a value."""


def propose_roles(table: pd.DataFrame, *, inputs: Sequence[str] = ()) -> Roles:
    """Propose roles; a user corrects them.

    Names decide, and values can object: a label has 2 classes or more and no fractions, a split
    column has words of splits, ids are unique. A column of such words is the split by any name.
    Attributes are the columns of few different values that say something other than the label. A
    column with a usual name for groups makes them alone; otherwise the first attribute does, with
    the class.

    Args:
        table: As read from the file.
        inputs: Columns that hold paths, texts or numbers for the backbone, so are no attributes.
    """
    free = [str(column) for column in table.columns if str(column) not in inputs]
    plain = {_plain(column): column for column in reversed(free)}

    def matches(names: Iterable[str]) -> list[str]:
        return [plain[name] for name in names if name in plain]

    ids = [*matches(ID_NAMES), *(column for column in free if _plain(column).endswith("_id"))]
    identity = next((each for each in ids if _is_identity(table[each])), None)
    split = next((each for each in matches(SPLIT_NAMES) if _is_split(table[each])), None)
    if split is None:
        # By any other name, words of splits alone say so, if one column has them.
        spoken = [column for column in free if _speaks_of_splits(table[column])]
        split = spoken[0] if len(spoken) == 1 else None
    label = next((each for each in matches(LABEL_NAMES) if _is_label(table[each])), None)
    attributes = tuple(
        column
        for column in free
        if column not in (label, split, identity)
        and not column.startswith("Unnamed:")
        and _is_attribute(table[column])
        and not (label is not None and _same(table[column], table[label]))
    )
    group_column = next((each for each in matches(GROUP_NAMES) if each in attributes), None)
    return Roles(
        label=label,
        sample_id=identity,
        attributes=attributes,
        groups=GroupRule(columns=attributes[:1])
        if group_column is None
        else GroupRule(kind="named", columns=(group_column,), with_class=False),
        split=SplitRule(column=split),
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())


def _values(column: pd.Series) -> list[object] | None:
    """Return a column's different values; None if they are lists or the like."""
    try:
        return list(column.dropna().unique())
    except TypeError:
        return None


def _is_identity(column: pd.Series) -> bool:
    values = _values(column)
    return values is not None and len(values) == len(column)


def _is_split(column: pd.Series) -> bool:
    values = _values(column)
    if values is None or len(values) > MAX_VALUES:
        return False
    # A column named split is one, even if its words need an explanation; other names mean other
    # things too, such as the folds of a cross-validation.
    if _plain(str(column.name)) == "split":
        return True
    words = {str(value).strip().lower().removesuffix(".0") for value in values}
    return words <= set(WORDS) and ("0" in words or not any(word.isdigit() for word in words))


def _speaks_of_splits(column: pd.Series) -> bool:
    """Return whether the values are words for train and test, or for train and validation."""
    values = _values(column)
    if values is None or not 2 <= len(values) <= MAX_VALUES:
        return False
    words = {str(value).strip().lower() for value in values}
    if not words <= set(WORDS) or any(word.isdigit() for word in words):
        return False
    meanings = {WORDS[word] for word in words}
    return "train" in meanings and len(meanings) > 1


def _is_label(column: pd.Series) -> bool:
    values = _values(column)
    if values is None or not 2 <= len(values) <= MAX_CLASSES:
        return False
    return all(not isinstance(value, float) or value.is_integer() for value in values)


def _is_attribute(column: pd.Series) -> bool:
    values = _values(column)
    if values is None or not 2 <= len(values) <= MAX_VALUES:
        return False
    # In a table of few rows names and paths are few, too.
    if len(values) > 2 and 2 * len(values) > int(column.notna().sum()):
        return False
    return all(not isinstance(value, str) or len(value) <= MAX_LENGTH for value in values)


def _same(column: pd.Series, label: pd.Series) -> bool:
    """Return whether two columns say the same in other words."""
    pairs = pd.DataFrame({"a": column, "b": label}).drop_duplicates()
    complete = bool(pairs.notna().to_numpy().all())
    return complete and pairs["a"].is_unique and pairs["b"].is_unique
