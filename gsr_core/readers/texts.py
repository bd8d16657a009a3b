"""Texts and pairs of texts in a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import Texts
from gsr_core.data.proposal import LABEL_NAMES, SPLIT_NAMES, propose_roles
from gsr_core.data.source import Roles, Source
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import need_columns, read_table

__all__ = ["NO_PAIR", "TextTable", "choose_texts", "empty_texts", "second_text", "text_column"]

NO_PAIR = "none"
"""Value of `pair` that says there is no second text, though a column looks like one."""
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
"""Columns that belong together in the usual data sets of pairs."""
SINGLES = ("text", "sentence", "comment_text", "comment", "content", "review", "document", "tweet")
PROSE = 20
"""Mean characters from which a column of an unknown name is taken for texts."""


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class TextTable(Reader):
    """A table with a column of texts, or two of them."""

    name: ClassVar[str] = "texts"
    title: ClassVar[str] = "Texts or pairs of texts"
    summary: ClassVar[str] = (
        "A CSV, TSV, parquet or JSONL file with a column of texts (or two, for pairs), and columns "
        "of labels and attributes."
    )
    path_help: ClassVar[str] = "the .csv, .tsv, .parquet or .jsonl file"

    text: Annotated[
        str,
        Field(
            description="Column of the text, or of a pair's first; found automatically if empty."
        ),
    ] = ""
    pair: Annotated[
        str,
        Field(
            description="Column of a pair's second text; found automatically if empty, 'none' for "
            "no pair."
        ),
    ] = ""

    def read(self) -> Source:
        """Read the table.

        Raises:
            SourceError: If the file cannot be read, or has no such columns of text.
        """
        table = read_table(self.location, unique=False)
        names = choose_texts(table, self.location, text=self.text, pair=self.pair)
        roles = propose_roles(table, inputs=names)
        columns = [text_column(table, name, self.location) for name in names]
        listing = " and ".join(f"'{name}'" for name in names)
        return Source(
            table=table,
            inputs=Texts(*columns),
            roles=roles,
            origin=f"texts in {listing} of {self.location.name}",
            notes=empty_texts(columns),
            warnings=() if self.pair else second_text(table, names, roles),
        )


def choose_texts(
    table: pd.DataFrame, where: Path | str, *, text: str = "", pair: str = ""
) -> tuple[str, ...]:
    """Return the column of the text, and that of a pair's second text if there is one.

    Args:
        table: The table.
        where: What it was read from, for messages.
        text: The column, or "" to find it: a usual pair, a usual name, or else the longest texts.
        pair: The second column, `NO_PAIR`, or "" to look for the usual partner of the first.

    Raises:
        SourceError: If a named column is missing, or none looks like texts.
    """
    lower = {str(column).lower(): str(column) for column in reversed(list(table.columns))}
    pairs = [
        (lower[first], lower[second])
        for first, second in PAIRS
        if first in lower and second in lower and _is_text(table[lower[second]])
    ]
    need_columns(table, [name for name in (text, pair) if name and name != NO_PAIR], Path(where))
    if not text:
        if pair in ("", NO_PAIR) and pairs:
            text = pairs[0][0]
        elif (first := {second: first for first, second in pairs}.get(pair)) is not None:
            text = first
        else:
            text = _likely(table, lower, where, leave_out=pair)
    if not pair:
        pair = dict(reversed(pairs)).get(text, NO_PAIR)
    if pair == text:
        raise SourceError(
            f"text and pair are both '{text}'; name two columns, or set pair to '{NO_PAIR}'"
        )
    return (text,) if pair == NO_PAIR else (text, pair)


def _likely(
    table: pd.DataFrame, lower: dict[str, str], where: Path | str, *, leave_out: str
) -> str:
    usual = [lower[name] for name in SINGLES if name in lower and lower[name] != leave_out]
    if usual := [name for name in usual if _is_text(table[name])]:
        return usual[0]
    lengths = _lengths(table, leave_out)
    if not lengths:
        raise SourceError(
            f"{where} has no column that looks like texts; name it as the setting text: the "
            f"columns are {', '.join(map(str, table.columns))}"
        )
    return max(lengths, key=lambda name: (_has_words(table[name]), lengths[name]))


def second_text(table: pd.DataFrame, names: Sequence[str], roles: Roles) -> tuple[str, ...]:
    """Return a warning if a column beside a single text looks like the second text of pairs.

    Args:
        table: The table.
        names: The columns of texts, as `choose_texts` returned them.
        roles: Proposed for the others.
    """
    if len(names) == 2:
        return ()
    taken = (roles.label, roles.sample_id, *roles.attributes)
    likely = [
        name for name in _lengths(table, names[0]) if name not in taken and _has_words(table[name])
    ]
    if not likely:
        return ()
    listing = " and ".join(f"'{name}'" for name in likely)
    verb = "looks" if len(likely) == 1 else "look"
    return (
        f"Text: '{names[0]}'; second text: none; {listing} {verb} like a text too: set "
        f"pair={likely[0]} to read pairs, or pair={NO_PAIR} if single texts are meant.",
    )


def _lengths(table: pd.DataFrame, leave_out: str) -> dict[str, float]:
    """Return the mean characters of the columns that may be texts, whatever their names."""
    lengths = {
        str(column): table[column].dropna().astype(str).str.len().mean()
        for column in table.columns
        if _is_text(table[column])
        and str(column) != leave_out
        and str(column).lower() not in (*LABEL_NAMES, *SPLIT_NAMES)
    }
    return {name: length for name, length in lengths.items() if length >= PROSE}


def _has_words(column: pd.Series) -> bool:
    """Return whether most values have a space inside, unlike paths and identifiers."""
    return bool(column.dropna().astype(str).str.strip().str.contains(" ").mean() > 0.5)


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(column.dropna())


def text_column(table: pd.DataFrame, name: str, where: Path | str) -> np.ndarray:
    """Return a column as (n,) objects: a string, or None where there is no text.

    Raises:
        SourceError: If it holds something else.
    """
    column = table[name]
    if column.isna().all():
        raise SourceError(f"column '{name}' of {where} is empty; choose the column of the texts")
    present = column.notna().to_numpy()
    values = column.to_numpy(dtype=object, copy=True)
    for row in np.flatnonzero(present):
        if not isinstance(values[row], str):
            raise SourceError(
                f"column '{name}' of {where} is {values[row]!r} in row {row}, which is not a text; "
                "choose the column of the texts"
            )
    values[~present] = None
    return values


def empty_texts(columns: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Return a note on the rows whose text, or one of whose texts, is missing or blank."""
    blank = np.zeros(len(columns[0]), dtype=bool)
    for column in columns:
        blank |= np.array([text is None or not text.strip() for text in column])
    if not blank.any():
        return ()
    return (
        f"{int(blank.sum()):,} of {len(blank):,} rows have an empty text (the first is row "
        f"{int(np.flatnonzero(blank)[0])}); such rows stop the import or are left out, as asked.",
    )
