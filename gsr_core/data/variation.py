"""Variations of a run's data: noisy labels, fewer or other groups, one set for two splits.

A study asks how far a repair can be trusted when the data are worse than they are. A variation
says how much worse; it is kept with the run and applied when the rows are loaded, so that nothing
is written twice and the same run gives the same outcome.

Every draw belongs to a sample's position in the bundle and to the run's seed. The same seed
therefore flips the same rows whatever order they have in memory, and a smaller share is a part of
a larger one: points of one curve differ in what is studied and not in the luck of another draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gsr_core.data.edits import RowEdit
from gsr_core.errors import SettingError
from gsr_core.settings import check_known, what_is_wrong

__all__ = [
    "CLASS",
    "Variation",
    "balance",
    "flip_groups",
    "flip_labels",
    "in_words",
    "keep_share",
    "make_variation",
]

CLASS = "class"
"""Stands for the class among attributes; none of this name can be seen."""

_NOISE, _BUDGET, _GROUPS, _BALANCE = 1, 2, 3, 4
"""Streams of a seed, so that no draw depends on whether another is made."""


class Variation(BaseModel):
    """What is changed about the rows that a method sees; nothing by default.

    Attributes:
        label_noise: Share of the weighted rows whose class is flipped to another one. Groups stay
            as they are, and so do all other splits.
        group_noise: Share of the weighted and of the target rows in a group whose groups are
            replaced by those of another combination that is found in their class, such as the other
            background. Val and test stay as they are.
        target_balance: Target rows are left out until their groups have, within each class and
            among the classes, shares between those of the weighted rows (0) and equal ones (1);
            the number of rows is the same for every value. None leaves target as it is.
        target_share: Share of the target rows that is kept, of each class and combination of
            groups alike and at least one of each.
        leak: Whether the target rows are also the val rows, so that what drove the weights
            selects among them as well.
        seen_groups: Attributes of the bundle that make, crossed with the class, the groups that
            the method sees of the weighted, target and val rows; without any, the classes. The
            word `class` may be among them and changes nothing. None leaves it the bundle's own.
            Rows are drawn and the run is judged by the bundle's own in any case, so that runs
            that see different groups compare.
        edits: Changes of the weighted rows of the run that this one is made of, oldest first. All
            of them change classes, and the last one weights: those that it begins with have been
            through the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_noise: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    group_noise: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    target_balance: Annotated[float, Field(ge=0, le=1)] | None = None
    target_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    leak: bool = False
    seen_groups: tuple[str, ...] | None = None
    edits: tuple[RowEdit, ...] = ()

    @field_validator("seen_groups")
    @classmethod
    def _without_the_class(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return names and tuple(name for name in dict.fromkeys(names) if name != CLASS)

    def changes(self) -> dict[str, Any]:
        """Return what differs from the data as they are, by name; a run keeps this."""
        return self.model_dump(exclude_defaults=True)

    @property
    def seeded(self) -> bool:
        """Whether a seed may decide what is changed."""
        return not self.changes().keys() <= {"seen_groups", "edits"}

    @property
    def changes_labels(self) -> bool:
        """Whether the method may see a row as another class than the bundle's."""
        return self.label_noise > 0 or any(edit.kind == "relabel" for edit in self.edits)

    @property
    def phrases(self) -> list[str]:
        """What differs from the data as they are, in words."""
        values = self.changes()
        values.pop("edits", None)
        if self.seen_groups is not None:
            values["seen_groups"] = in_words(self.seen_groups)
        named = [f"{name.replace('_', ' ')} {value}" for name, value in values.items()]
        return [*named, *(edit.words for edit in self.edits)]


def in_words(attributes: Sequence[str]) -> str:
    """Return groups that a method sees, in words.

    >>> in_words(["sex", "race"])
    'class × sex × race'
    """
    return " × ".join([CLASS, *attributes])


def make_variation(values: Mapping[str, Any] | None = None) -> Variation:
    """Make a variation from what differs, as a run keeps it.

    Raises:
        SettingError: If a name is unknown or a value is not allowed.
    """
    check_known("a variation", values or {}, list(Variation.model_fields))
    try:
        return Variation(**(values or {}))
    except ValidationError as error:
        raise SettingError(what_is_wrong(error)) from None


def flip_labels(
    labels: np.ndarray, position: np.ndarray, *, share: float, n_classes: int, seed: int
) -> np.ndarray:
    """Return labels of which a share, rounded to whole rows, is another class.

    Args:
        labels: (n,) classes in [0, K).
        position: (n,) positions in the bundle, all different.
        share: Of the rows to flip.
        n_classes: K; the new class is any of the other K - 1 with equal chance.
        seed: Decides which rows are flipped, and to what.

    Returns:
        (n,) int64.
    """
    noisy = np.array(labels, dtype=np.int64)
    generator = np.random.default_rng([seed, _NOISE])
    by_position = np.argsort(position, kind="stable")
    which, step = generator.random(len(labels)), generator.integers(1, n_classes, len(labels))
    lowest = np.argsort(which, kind="stable")[: round(share * len(labels))]
    rows = by_position[lowest]
    noisy[rows] = (noisy[rows] + step[lowest]) % n_classes
    return noisy


def flip_groups(
    labels: np.ndarray,
    pattern: np.ndarray,
    position: np.ndarray,
    *,
    share: float,
    known: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Return combinations of groups of which a share, rounded to whole rows, is another one.

    Args:
        labels: (n,) classes in [0, K).
        pattern: (n,) number of each row's combination of groups, in [0, P).
        position: (n,) positions in the bundle, all different.
        share: Of the rows to change.
        known: (K, P) bool: which combinations are found in which class. The new one is any other
            of the row's class with equal chance; a row whose class has no other keeps its own.
        seed: Decides which rows change, and to what.

    Returns:
        (n,) int64.
    """
    noisy = np.array(pattern, dtype=np.int64)
    generator = np.random.default_rng([seed, _GROUPS])
    by_position = np.argsort(position, kind="stable")
    which, chance = generator.random(len(labels)), generator.random(len(labels))
    lowest = np.argsort(which, kind="stable")[: round(share * len(labels))]
    rows = by_position[lowest]
    others = known[labels[rows]]
    others[np.arange(len(rows)), pattern[rows]] = False
    number = others.cumsum(axis=1)
    # Counted from one among the others; a class without another combination finds none.
    taken = 1 + (chance[lowest] * number[:, -1]).astype(np.int64)
    noisy[rows] = np.where(
        number[:, -1] > 0, (number >= taken[:, None]).argmax(axis=1), pattern[rows]
    )
    return noisy


def balance(
    position: np.ndarray, stratum: np.ndarray, natural: np.ndarray, *, level: float, seed: int
) -> np.ndarray:
    """Return the positions of rows whose strata have shares from natural to equal.

    The shares are :math:`(1 - t) s + t / S` over the S strata with rows, s the natural ones. As
    many rows are kept as both ends allow, so that levels differ in their shares alone.

    Args:
        position: (n,) positions in the bundle, all different.
        stratum: (n,) stratum of each row.
        natural: (n,) natural share of each row's stratum; above zero for one at least.
        level: t in [0, 1].
        seed: Decides which rows are kept.

    Returns:
        The kept positions in their order in `position`, at least one of each stratum.

    Example:
        >>> stratum = np.repeat([0, 1], [60, 60])
        >>> natural = np.where(stratum == 0, 0.9, 0.1)
        >>> for level in (0, 0.5, 1):
        ...     kept = balance(np.arange(120), stratum, natural, level=level, seed=0)
        ...     print((kept < 60).sum(), (kept >= 60).sum())
        60 7
        47 20
        33 33
    """
    values, first, sizes = np.unique(stratum, return_index=True, return_counts=True)
    shares = natural[first] / natural[first].sum()
    with np.errstate(divide="ignore"):
        total = min((sizes / shares).min(), len(values) * sizes.min())
    wanted = total * ((1 - level) * shares + level / len(values))
    number = _numbers(position, seed, _BALANCE)
    kept = np.zeros(len(position), dtype=bool)
    for value, count in zip(values, wanted, strict=True):
        members = np.flatnonzero(stratum == value)
        chosen = members[np.argsort(number[members], kind="stable")]
        kept[chosen[: max(round(count), 1)]] = True
    return position[kept]


def keep_share(position: np.ndarray, stratum: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Return the positions of a share of the rows, the same of every stratum.

    Args:
        position: (n,) positions in the bundle, all different.
        stratum: (n,) stratum of each row; at least one row of each is kept.
        share: Of each stratum's rows to keep, rounded to whole rows.
        seed: Decides which.

    Returns:
        The kept positions in their order in `position`.
    """
    number = _numbers(position, seed, _BUDGET)
    kept = np.zeros(len(position), dtype=bool)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        count = max(round(share * len(members)), 1)
        kept[members[np.argsort(number[members], kind="stable")[:count]]] = True
    return position[kept]


def _numbers(position: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """Return a number at random for each row, which belongs to its place among the positions."""
    number = np.empty(len(position))
    generator = np.random.default_rng([seed, stream])
    number[np.argsort(position, kind="stable")] = generator.random(len(position))
    return number
