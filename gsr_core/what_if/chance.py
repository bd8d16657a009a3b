r"""The same edit of random rows: what chance does, and how far influence can be believed.

As many random rows as the edit changes are drawn, among those that it would change, and the head
is fitted anew for each draw. Two things are read off:

- whether the rows that were chosen do more than chance. Of R draws, b of them at or below and a at
  or above the change that was seen, :math:`p = \min(1, 2 (1 + \min(a, b)) / (R + 1))`, which holds
  for rows drawn alike and needs no bell curve;
- how far predicted changes rank what happens: Spearman's correlation of both over the draws, group
  by group. Over random subsets of training rows this is the linear datamodeling score of Park et
  al., "TRAK: Attributing Model Behavior at Scale" (ICML 2023), here with refits that are exact. Its
  interval is that of Bonett and Wright (Psychometrika 2000).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gsr_core.data.edits import RowEdit
from gsr_core.errors import SettingError
from gsr_core.progress import Report, silent
from gsr_core.what_if.refits import Outcome, Refits

__all__ = ["DRAWS", "Chance", "beyond_chance", "draw", "validity"]

DRAWS = 100
"""Random subsets that are drawn unless told otherwise."""

_LEAST = 10
"""Fewest draws of which anything can be said."""


@dataclass(frozen=True)
class Chance:
    """What an edit does to random rows.

    Attributes:
        size: Rows in each draw.
        predicted: By split, (R, m) changes of the groups' losses that influence predicts, nats.
        loss: By split, (R, m) changes of the groups' losses that happened, nats.
        accuracy: By split, (R, m) changes of the groups' accuracies, fractions.
    """

    size: int
    predicted: Mapping[str, np.ndarray]
    loss: Mapping[str, np.ndarray]
    accuracy: Mapping[str, np.ndarray]


def draw(
    refits: Refits,
    edit: RowEdit,
    count: int = DRAWS,
    *,
    seed: int = 0,
    report: Report = silent,
) -> Chance:
    """Do what an edit does to random rows instead, many times.

    Args:
        refits: The run.
        edit: What is done, and to how many rows.
        count: R, at least 10.
        seed: Decides the draws.
        report: Told how far it is.

    Raises:
        SettingError: If there are too few draws, or if the edit changes all rows that it could, so
            that there are no others to draw.
    """
    if count < _LEAST:
        raise SettingError(f"{count} random subsets were asked for; give a number from {_LEAST} on")
    able = np.flatnonzero(refits.can_change(edit))
    size = len(np.intersect1d(able, refits.places(edit)))
    if size == len(able):
        raise SettingError(
            f"the edit changes all {size:,} rows that it could, so that there are no random ones "
            "to hold against them; choose fewer rows"
        )
    generator = np.random.default_rng(seed)
    seen: list[Outcome] = []
    for number in range(count):
        seen.append(refits.refit_places(edit, np.sort(generator.choice(able, size, replace=False))))
        report((number + 1) / count, f"random subset {number + 1} of {count}")

    def stacked(split: str, what: str) -> np.ndarray:
        before = getattr(refits.before[split], what)
        return np.stack(
            [refits.group_means(getattr(each.answers[split], what), split) for each in seen]
        ) - refits.group_means(before, split)

    splits = list(refits.before)
    return Chance(
        size=size,
        predicted={split: np.stack([each.predicted[split] for each in seen]) for split in splits},
        loss={split: stacked(split, "losses") for split in splits},
        accuracy={split: stacked(split, "right") for split in splits},
    )


def beyond_chance(table: pd.DataFrame, chance: Chance, split: str) -> pd.DataFrame:
    """Return `Refits.changes` with the share of random subsets that do as much.

    Returns:
        The table with columns chance_accuracy and chance_loss: two-sided p of the change under
        random rows, NaN for a group without samples.
    """
    return table.assign(
        chance_accuracy=_rank_p(table["change"].to_numpy(), chance.accuracy[split]),
        chance_loss=_rank_p(table["loss_change"].to_numpy(), chance.loss[split]),
    )


def _rank_p(seen: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return (m,) p of changes (m,) under draws (R, m)."""
    slack = 1e-12  # Equal changes of a fraction may differ in their last bits.
    below, above = (draws <= seen + slack).sum(axis=0), (draws >= seen - slack).sum(axis=0)
    p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (len(draws) + 1))
    return np.where(np.isnan(seen), np.nan, p)


def validity(chance: Chance, split: str, names: list[str]) -> pd.DataFrame:
    """Return how far predicted changes of the loss rank what happens, one row a group with samples.

    Args:
        chance: From `draw`.
        split: Of the groups.
        names: m names.

    Returns:
        Columns group; rank (Spearman's correlation over the draws, NaN where one side is constant)
        with low and high; and slope, nats that happened for a predicted one: 1 is the right size.
    """
    rows = []
    for name, guessed, happened in zip(
        names, chance.predicted[split].T, chance.loss[split].T, strict=True
    ):
        if np.isnan(happened).any():
            continue
        varied = min(float(np.ptp(guessed)), float(np.ptp(happened))) > 0
        rank = pd.Series(guessed).corr(pd.Series(happened), "spearman") if varied else math.nan
        low, high = _rank_interval(float(rank), len(guessed))
        slope = float(guessed @ happened / (guessed @ guessed)) if varied else math.nan
        rows.append({"group": name, "rank": rank, "low": low, "high": high, "slope": slope})
    return pd.DataFrame(rows, columns=["group", "rank", "low", "high", "slope"])


def _rank_interval(rank: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a rank correlation over so many draws."""
    if math.isnan(rank) or abs(rank) >= 1:
        return rank, rank
    half = 1.959964 * math.sqrt((1 + rank**2 / 2) / (count - 3))
    return math.tanh(math.atanh(rank) - half), math.tanh(math.atanh(rank) + half)
