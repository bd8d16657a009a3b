"""CivilComments as WILDS releases it.

Koh et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts" (ICML 2021,
https://arxiv.org/abs/2012.07421): online comments, toxic or not, and the identities that they
mention. Annotators' scores count from 0.5.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import Texts
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import need_columns, need_file, read_table
from gsr_core.readers.texts import empty_texts, text_column

__all__ = ["IDENTITIES", "CivilComments"]

FILE = "all_data_with_identities.csv"
IDENTITIES = (
    "male",
    "female",
    "LGBTQ",
    "christian",
    "muslim",
    "other_religions",
    "black",
    "white",
)
"""The identities of WILDS' worst-group accuracy, in its order."""
ANY = "identity_any"
YES_FROM = 0.5
"""Least share of the annotators for which a comment counts as toxic or as mentioning somebody."""


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class CivilComments(Reader):
    """CivilComments: toxic or not, with the identities a comment mentions.

    Scores become 0 or 1, as WILDS reads them; the class is the column `toxic`.
    """

    name: ClassVar[str] = "civilcomments"
    title: ClassVar[str] = "CivilComments"
    summary: ClassVar[str] = (
        f"The WILDS release: {FILE} with comment_text, split, toxicity and a score for each "
        "identity; 16 groups that overlap."
    )
    path_help: ClassVar[str] = f"the folder civilcomments_v1.0, or {FILE}"

    groups: Annotated[
        Literal["identities", "any"],
        Field(
            description="Each of 8 identities with each class (16 groups, which overlap), or any "
            "identity at all against none (4 groups)."
        ),
    ] = "identities"

    def read(self) -> Source:
        """Read the comments and their scores.

        Raises:
            SourceError: If the file or a column is missing, or a score is no number from 0 to 1.
        """
        file = self.location
        if file.is_dir():
            folders = (file, file / "civilcomments_v1.0")
            file = next((each / FILE for each in folders if (each / FILE).is_file()), file / FILE)
        table = read_table(need_file(file), unique=False)
        flags = [*IDENTITIES, ANY] if self.groups == "any" or ANY in table else [*IDENTITIES]
        need_columns(table, ["comment_text", "split", "toxicity", *flags], file)
        texts = text_column(table, "comment_text", file)
        comments = table[["comment_text", "split"]].assign(
            toxicity=table["toxicity"],
            toxic=_yes(table["toxicity"], file.name),
            **{flag: _yes(table[flag], file.name) for flag in flags},
        )
        has_id = "id" in table and table["id"].notna().all() and table["id"].is_unique
        if has_id:
            comments.insert(0, "id", table["id"])
        overlapping = self.groups == "identities"
        return Source(
            table=comments,
            inputs=Texts(texts),
            roles=Roles(
                label="toxic",
                sample_id="id" if has_id else None,
                attributes=tuple(flags),
                groups=GroupRule(
                    kind="overlapping" if overlapping else "crossed",
                    columns=IDENTITIES if overlapping else (ANY,),
                ),
                split=SplitRule(column="split"),
            ),
            origin=f"comments of {file.name}",
            names={
                "toxic": {0: "non-toxic", 1: "toxic"},
                **({} if overlapping else {ANY: {0: "no identity", 1: "any identity"}}),
            },
            title="CivilComments",
            notes=empty_texts([texts]),
        )


def _yes(column: pd.Series, where: str) -> np.ndarray:
    """Return (n,) int, 1 where the score says yes.

    Raises:
        SourceError: If a score is missing or not from 0 to 1.
    """
    scores = pd.to_numeric(column, errors="coerce").to_numpy(float)
    if (bad := np.flatnonzero(~((scores >= 0) & (scores <= 1)))).size:
        raise SourceError(
            f"{column.name} is {column.iloc[bad[0]]!r} in row {bad[0]} of {where}; expected a "
            "score from 0 to 1: use the file as it was released"
        )
    return (scores >= YES_FROM).astype(np.int64)
