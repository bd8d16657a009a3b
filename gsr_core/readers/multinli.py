"""MultiNLI as the authors of group DRO split it.

Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts" (ICLR 2020,
https://arxiv.org/abs/1911.08731). Their table `metadata_random.csv` (or `metadata_preset.csv`,
with MultiNLI's own split) has a label, a flag for a negation word in the second sentence, and a
split. Its rows are those of MultiNLI's train, matched and mismatched files one after the other,
without the pairs that have no agreed label; its index counts those too. The sentences are not in
it: they are read from MultiNLI itself, or from GLUE's copy, and every label is compared. The
tokens that the authors publish beside it are pickles and never opened.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import Texts
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import need_columns, read_table
from gsr_core.readers.texts import empty_texts, text_column

__all__ = ["LABELS", "NEGATION_WORDS", "MultiNLI"]

LABELS = ("contradiction", "entailment", "neutral")
NEGATION_WORDS = frozenset(("nobody", "no", "never", "nothing"))
"""Words that count as a negation, after Gururangan et al. 2018."""
NEGATION = "sentence2_has_negation"
FILES = (
    ("multinli_1.0_train.jsonl", "multinli_1.0_dev_matched.jsonl",
     "multinli_1.0_dev_mismatched.jsonl"),
    ("multinli_1.0_train.txt", "multinli_1.0_dev_matched.txt", "multinli_1.0_dev_mismatched.txt"),
    ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"),
)  # fmt: skip
"""MultiNLI's own files in either form, and GLUE's."""
FOLDERS = (".", "data", "multinli_1.0", "data/multinli_1.0", "glue_data/MNLI", "MNLI")
COLUMNS = ("gold_label", "sentence1", "sentence2", "genre")


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class MultiNLI(Reader):
    """MultiNLI with negation as the attribute: 6 groups."""

    name: ClassVar[str] = "multinli"
    title: ClassVar[str] = "MultiNLI"
    summary: ClassVar[str] = (
        "The group DRO release: data/metadata_random.csv with gold_label, sentence2_has_negation "
        "and split, beside MultiNLI's own multinli_1.0 files (or GLUE's MNLI) with the sentences."
    )
    path_help: ClassVar[str] = "the folder above data/, or that metadata file"

    splits: Annotated[
        Literal["random", "preset"],
        Field(
            description="The published random split (50/20/30 %), or MultiNLI's own: train, "
            "matched, mismatched."
        ),
    ] = "random"

    def read(self) -> Source:
        """Read the pairs.

        Raises:
            SourceError: If files are missing, or the table does not belong to the sentences.
        """
        file = self._metadata_file()
        if file is None:
            table = self._preset(self._sentences(self.location))
            origin = "MultiNLI's own files"
        else:
            table = _standard(read_table(file, unique=False), file)
            if "sentence1" not in table:
                table = _join(table, self._sentences(file.parent), file)
            origin = f"pairs of MultiNLI, split by {file.name}"
        columns = [text_column(table, name, origin) for name in ("sentence1", "sentence2")]
        attributes = (NEGATION, "genre") if "genre" in table else (NEGATION,)
        return Source(
            table=table,
            inputs=Texts(*columns),
            roles=Roles(
                label="gold_label",
                attributes=attributes,
                groups=GroupRule(columns=(NEGATION,)),
                split=SplitRule(column="split"),
            ),
            origin=origin,
            names={
                "gold_label": dict(enumerate(LABELS)),
                NEGATION: {0: "no negation", 1: "negation"},
            },
            title="MultiNLI",
            notes=empty_texts(columns),
        )

    def _metadata_file(self) -> Path | None:
        """Return the table of splits; None if there is none and none is needed.

        Raises:
            SourceError: If it is needed and missing.
        """
        place = self.location
        if place.is_file():
            return place
        names = [f"metadata_{self.splits}.csv"]
        names += ["metadata_multinli.csv"] if self.splits == "random" else []
        for folder in (place, place / "data", place / "multinli"):
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        if self.splits == "preset":
            return None
        raise SourceError(
            f"{place} has no data/{names[0]}, which says how group DRO splits MultiNLI; put it "
            "there (it is in the authors' repository, under dataset_metadata/multinli), or set "
            "splits to preset for MultiNLI's own split"
        )

    def _sentences(self, start: Path) -> list[pd.DataFrame]:
        """Return the pairs of the three files.

        Raises:
            SourceError: If a file is missing or damaged.
        """
        place = self.location.parent if self.location.is_file() else self.location
        bases = dict.fromkeys(
            (base / each).resolve() for base in (place, start, start.parent) for each in FOLDERS
        )
        for base in bases:
            for names in FILES:
                there = [(base / name).is_file() for name in names]
                if all(there):
                    return [_read_pairs(base / name) for name in names]
                if there[0]:
                    missing = names[there.index(False)]
                    raise SourceError(f"{base} has {names[0]} but no {missing}; put it there too")
        cached = next((each for base in bases for each in base.glob("cached_*bert*")), None)
        hint = f" ({cached.name} holds tokens, and as a pickle it is not opened)" if cached else ""
        raise SourceError(
            f"no sentences of MultiNLI near {start}{hint}; unpack multinli_1.0.zip there, so that "
            f"{place / 'multinli_1.0' / FILES[0][0]} is a file"
        )

    def _preset(self, files: list[pd.DataFrame]) -> pd.DataFrame:
        table = pd.concat(
            [pairs.assign(split=split) for split, pairs in enumerate(files)], ignore_index=True
        )
        table = table[table["gold_label"].isin(LABELS)].reset_index(drop=True)
        table["gold_label"] = table["gold_label"].map(LABELS.index)
        table[NEGATION] = [int(has_negation(sentence)) for sentence in table["sentence2"]]
        return table


def has_negation(sentence: str) -> bool:
    """Return whether a sentence has one of the words, without case and punctuation."""
    bare = sentence.translate(str.maketrans("", "", string.punctuation)).lower()
    return not NEGATION_WORDS.isdisjoint(bare.split(" "))


def _standard(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Return the table with the release's own names and codes, its index as column `index`.

    Raises:
        SourceError: If a column is missing or a value unknown.
    """
    if "gold_label" not in table and {"y", "a"} <= set(table.columns):
        table = table.rename(columns={"y": "gold_label", "a": NEGATION})
    need_columns(table, ["gold_label", NEGATION, "split"], file)
    standard = table[["split"]].copy()
    codes = {**{str(code): code for code in range(3)}, **{n: i for i, n in enumerate(LABELS)}}
    standard["gold_label"] = _codes(table["gold_label"], codes, file)
    standard[NEGATION] = _codes(table[NEGATION], {"0": 0, "1": 1, "false": 0, "true": 1}, file)
    for first, second in (("sentence1", "sentence2"), ("premise", "hypothesis")):
        if first in table and second in table:
            standard["sentence1"], standard["sentence2"] = table[first], table[second]
    if "Unnamed: 0" in table:
        standard["index"] = table["Unnamed: 0"]
    return standard


def _codes(column: pd.Series, codes: dict[str, int], file: Path) -> np.ndarray:
    keys = column.map(lambda value: str(value).strip().lower().removesuffix(".0"))
    values = keys.map(codes)
    if (bad := np.flatnonzero(values.isna())).size:
        raise SourceError(
            f"{column.name} is {column.iloc[bad[0]]!r} in row {bad[0]} of {file}; expected "
            f"{', '.join(codes)}"
        )
    return values.to_numpy(np.int64)


def _join(table: pd.DataFrame, files: list[pd.DataFrame], file: Path) -> pd.DataFrame:
    """Put each row's sentences beside it.

    Raises:
        SourceError: If there are not as many rows, or a label differs.
    """
    pairs = pd.concat(files, ignore_index=True)
    labelled = pairs[pairs["gold_label"].isin(LABELS)]
    if len(labelled) == len(table):
        matches = labelled
    elif (
        "index" in table
        and len(table) < len(labelled) < len(pairs)
        and table["index"].between(0, len(pairs) - 1).all()
    ):
        # Some rows of the whole table: its index counts the pairs without a label too.
        matches = pairs.iloc[table["index"].to_numpy(np.int64)]
    else:
        raise SourceError(
            f"{file} has {len(table):,} rows, but MultiNLI's files have {len(labelled):,} pairs "
            "with a label; use the whole, unchanged files of version 1.0"
        )
    labels = matches["gold_label"].to_numpy(object)
    claims = np.array(LABELS, dtype=object)[table["gold_label"].to_numpy()]
    if (bad := np.flatnonzero(labels != claims)).size:
        raise SourceError(
            f"row {bad[0]} of {file} says {claims[bad[0]]}, but the pair in MultiNLI's files says "
            f"{labels[bad[0]]}; the table belongs to other files or is in another order"
        )
    result = table.drop(columns="index", errors="ignore")
    for name in ("sentence1", "sentence2", "genre"):
        result[name] = matches[name].to_numpy(object)
    return result


def _read_pairs(file: Path) -> pd.DataFrame:
    """Read one of MultiNLI's or GLUE's files.

    Raises:
        SourceError: If a line is damaged.
    """
    is_json = file.suffix == ".jsonl"
    rows: list[list[str]] = []
    places: list[int] = []
    # Only "\n" ends a line: sentences have other characters that Python takes for an end.
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            try:
                line = raw.decode().rstrip("\r\n")
                if is_json:
                    pair = json.loads(line)
                    rows.append([pair[name] for name in COLUMNS])
                    continue
                fields = line.split("\t")
                if number == 1:
                    places = [fields.index(name) for name in COLUMNS]
                else:
                    rows.append([fields[place] for place in places])
            except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
                raise SourceError(
                    f"line {number} of {file} is not a pair of MultiNLI ({error}); expected "
                    f"{', '.join(COLUMNS)}: download the file again"
                ) from error
    return pd.DataFrame(rows, columns=list(COLUMNS))
