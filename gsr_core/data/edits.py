"""Edits of the rows that a head is fitted on: drop some, weigh them more, or relabel them.

An edit belongs to a finished run, whose head is fitted anew under the weights of its kept step with
that one change. It is kept with the new run as a part of its variation, so that the run can be told
from others and loaded again; positions are written as ranges, which a lasso has few of.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gsr_core.errors import SettingError
from gsr_core.jobs.command import option
from gsr_core.settings import suggestion

__all__ = ["MOST_TIMES", "EditKind", "RowEdit", "class_of", "rows_as_text", "rows_from_text"]

EditKind = Literal["drop", "times", "relabel"]

MOST_TIMES = 1e6
"""Largest factor of a weight: far above what leaves the other rows any say."""


class RowEdit(BaseModel):
    """One change of some of the weighted rows of a run.

    Attributes:
        base: Name of the run whose kept weights are changed.
        kind: `drop` takes the rows out, `times` multiplies their weights, `relabel` gives them
            another class and leaves their weights. All weights then sum to one again; the penalty
            and the standardisation of the features stay those of the run.
        rows: Positions in the bundle, ascending, as `rows_as_text` writes them.
        times: Factor of the weights under `times`, else 1.
        label: Name of the class under `relabel`, else "".
        about: Which rows they are, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    kind: EditKind
    rows: Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")]
    times: Annotated[float, Field(ge=0, le=MOST_TIMES, allow_inf_nan=False)] = 1.0
    label: str = ""
    about: str = ""

    @property
    def positions(self) -> np.ndarray:
        """(q,) int64 positions in the bundle, ascending. Not to be changed."""
        return _positions(self.rows)

    @property
    def factor(self) -> float:
        """What the weights of the rows are multiplied by."""
        return 0.0 if self.kind == "drop" else self.times

    @property
    def words(self) -> str:
        """What is changed, in words."""
        n = len(self.positions)
        which = f"{n:,} row{'s' * (n != 1)}" + f" ({self.about})" * bool(self.about)
        if self.kind == "drop":
            return f"without {which}"
        if self.kind == "times":
            return f"{which} × {self.times:g}"
        return f"{which} as '{self.label}'"

    @property
    def command(self) -> list[str]:
        """The words of `gsr` that fit the run's head after the edit."""
        what = {"times": f"{self.times:g}", "relabel": self.label}.get(self.kind)
        words = ["whatif", self.base]
        words += [f"--{self.kind}"] if what is None else option(f"--{self.kind}", what)
        return [*words, *option("--rows", self.rows)]

    def weights(
        self, weight: np.ndarray, position: np.ndarray, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the (n,) weights after the edit; they sum to one.

        Args:
            weight: (n,) before, none is negative.
            position: (n,) positions in the bundle of the rows that have them.
            rows: (q,) positions of other rows to do the same to; the edit's own if None.

        Raises:
            SettingError: If no weight is left.
        """
        chosen = np.isin(position, self.positions if rows is None else rows)
        changed = weight * np.where(chosen, self.factor, 1.0)
        total = float(changed.sum())
        if not total > 0:
            raise SettingError(
                f"the run is to be fitted {self.words}, and no other row has a weight; leave some "
                "rows with weight"
            )
        return changed / total

    def labels(self, y: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """Return the (N,) classes of all rows of the bundle after the edit.

        Args:
            y: (N,) before.
            classes: Their names.

        Raises:
            SettingError: If there is no such class.
        """
        if self.kind != "relabel":
            return y
        changed = y.copy()
        changed[self.positions] = class_of(self.label, classes)
        return changed


def class_of(label: str, classes: Sequence[str]) -> int:
    """Return the number of a class.

    Raises:
        SettingError: If none has that name.
    """
    if label not in classes:
        raise SettingError(
            f"'{label}' is not a class{suggestion(label, classes)}; the classes are "
            f"{', '.join(classes)}"
        )
    return list(classes).index(label)


def rows_as_text(rows: np.ndarray) -> str:
    """Return positions as text, ascending: ranges and single ones.

    Args:
        rows: (q,) whole numbers, none negative; q is at least one.

    Example:
        >>> rows_as_text(np.array([7, 3, 4, 5, 9]))
        '3-5,7,9'
    """
    ordered = np.unique(rows)
    stretches = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ",".join(str(s[0]) if len(s) == 1 else f"{s[0]}-{s[-1]}" for s in stretches)


def rows_from_text(text: str, below: int | None = None) -> np.ndarray:
    """Return the positions that a text names, ascending.

    Args:
        text: Numbers and ranges, as `rows_as_text` writes them.
        below: How many rows there are, if it is to be looked at.

    Raises:
        SettingError: If the text is not made of numbers and ranges, or names a row that is not
            there.

    Example:
        >>> rows_from_text("3-5,7")
        array([3, 4, 5, 7])
    """
    stretches = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SettingError(
                f"rows are '{part.strip()}', which is neither a number nor a range; write them as "
                "3-17,20"
            )
        ends = int(first), int(last or first)
        if below is not None and max(ends) >= below:
            raise SettingError(
                f"row {max(ends)} is not in the bundle; its rows are 0 to {below - 1}"
            )
        stretches.append(np.arange(min(ends), max(ends) + 1, dtype=np.int64))
    return np.unique(np.concatenate(stretches))


@lru_cache(maxsize=64)
def _positions(text: str) -> np.ndarray:
    return rows_from_text(text)
