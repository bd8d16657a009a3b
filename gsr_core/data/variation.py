"""Variations of a run's data: noisy labels, fewer group labels, one set for target and val.

A study asks how far a repair can be trusted when the data are worse than they are. A variation
says how much worse; it is kept with the run and applied when the rows are loaded, so that nothing
is written twice and the same run gives the same outcome.

Every draw belongs to a sample's position in the bundle and to the run's seed. The same seed
therefore flips the same rows whatever order they have in memory, and a smaller share is a part of
a larger one: points of one curve differ in what is studied and not in the luck of another draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gsr_core.errors import SettingError
from gsr_core.settings import check_known, what_is_wrong

__all__ = ["Variation", "flip_labels", "keep_share", "make_variation"]

_NOISE, _BUDGET = 1, 2
"""Streams of a seed, so that neither draw depends on whether the other is made."""


class Variation(BaseModel):
    """What is changed about the rows that a method sees; nothing by default.

    Attributes:
        label_noise: Share of the weighted rows whose class is flipped to another one. Groups stay
            as they are, and so do all other splits.
        target_share: Share of the target rows that is kept, of each class and combination of
            groups alike and at least one of each.
        leak: Whether the target rows are also the val rows, so that what drove the weights
            selects among them as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_noise: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    target_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    leak: bool = False

    def changes(self) -> dict[str, Any]:
        """Return what differs from the data as they are, by name; a run keeps this."""
        return self.model_dump(exclude_defaults=True)


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
    by_position = np.argsort(position, kind="stable")
    number = np.empty(len(position))
    number[by_position] = np.random.default_rng([seed, _BUDGET]).random(len(position))
    kept = np.zeros(len(position), dtype=bool)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        count = max(round(share * len(members)), 1)
        kept[members[np.argsort(number[members], kind="stable")[:count]]] = True
    return position[kept]
