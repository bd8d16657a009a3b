r"""Operating points of a run's head: what other offsets between its classes would do.

The head stays as it is, and what is predicted becomes :math:`\arg\max_c z_c + \beta_c` (Seo and
Han, "Re-evaluating group robustness via adaptive class-specific scaling", WACV 2025; see
`methods.class_scaling`, whose search this is). The offsets are chosen on `val` as those of the
highest

.. math:: \tau \, \text{worst}(\beta) + (1 - \tau) \, \text{average}(\beta) ,

and shown on another split beside those of the head as it is, with the paired bootstrap of the
difference (`bootstrap`). With :math:`\tau = 1` and the classifier as it came they are those of the
method `class_scaling`, which makes a run of them; those of any run can be exported with its head.

The *path* is what lies between. For two classes these are all multipliers of the rarer class, in
order; for more, what no other offsets beat on both accuracies of `val`, of all that the searches
for :math:`\tau \in \{0, 1/2, 1\}` have looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gsr_core.comparing.bootstrap import Bootstrap, bootstrap
from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.methods.class_scaling import (
    Scaling,
    Tradeoff,
    choose_offsets,
    narrowest_of,
)
from gsr_core.metrics import wilson_interval, worst_group
from gsr_core.runs.quality import kept_logits
from gsr_core.runs.store import Run

__all__ = [
    "AVERAGE_NAMES",
    "Judged",
    "OperatingPoints",
    "in_groups",
    "judged_rows",
    "operating_points",
]

AVERAGE_NAMES = {
    "mean_accuracy": "mean accuracy",
    "group_mean_accuracy": "mean of the groups",
    "adjusted_accuracy": "adjusted average",
}
"""Averages that can be held against the worst group: of all samples, of the groups alike, and of
the groups by their shares of the training set."""

POINTS = ("as it is", "chosen on val")

_TRADES = (0.0, 0.5, 1.0)
_MOST_ON_PATH = 80
_MOST_NUMBERS = 2**25
"""Rows by groups by classes that are searched while somebody waits."""


@dataclass(frozen=True)
class Judged:
    """Rows of one split that are in a group, or not, as a head scores them.

    Attributes:
        logits: (n, K), in the precision in which heads are scored.
        labels: (n,) int64.
        members: (n, m) bool.
    """

    logits: Tensor
    labels: Tensor
    members: Tensor

    def right(self, offset: Tensor) -> np.ndarray:
        """Return which rows are right with an offset (K,) on the logits, (n,) bool."""
        return ((self.logits + offset).argmax(dim=1) == self.labels).numpy()


@dataclass(frozen=True)
class OperatingPoints:
    """What other offsets would do for a run.

    Attributes:
        classes: Their K names.
        offset: (K,) chosen on val, added to the logits; 0 for the most frequent class of val.
        points: Two rows, column point one of `POINTS`: average and worst on the split with _low
            and _high (95 %, Wilson; of a mean of groups with as many rows as have its variance),
            worst_group, and val_average and val_worst, on which it was chosen.
        path: One row a setting: val_average, val_worst, average, worst, and offset (an array
            (K,)); of two classes by rising offset of the rarer, else by falling val_average.
        groups: One row a group of the split: group, n, and for either point (`own`, `chosen`)
            accuracy, low and high (Wilson), wrong (rows).
        change: On the split, chosen less as it is, of `worst` and `average`.
    """

    classes: list[str]
    offset: np.ndarray
    points: pd.DataFrame
    path: pd.DataFrame
    groups: pd.DataFrame
    change: dict[str, Bootstrap]

    @property
    def by_class(self) -> dict[str, float]:
        """The offset of each class, as `runs.export` takes it."""
        return dict(zip(self.classes, self.offset.tolist(), strict=True))


def operating_points(
    run: Run,
    split: str,
    bundle: Bundle | None = None,
    *,
    trade: float = 1.0,
    average: str = "mean_accuracy",
) -> OperatingPoints:
    """Choose offsets between the classes on val and show what they do on a split.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits, as the run's seed drew it; `val` itself flatters.
        bundle: The run's bundle, if it is open already.
        trade: Weight of the worst group against the average in what is to be highest, 0 to 1.
        average: One of `AVERAGE_NAMES`.

    Raises:
        SettingError: If a setting is not right, the average is not known, or the search would take
            too long.
        RunStateError: If the run has no head yet.
        BundleError: If the bundle has changed since.
    """
    if not 0 <= trade <= 1:
        raise SettingError(f"the weight of the worst group is {trade:g}; choose 0 to 1")
    if average not in AVERAGE_NAMES:
        raise SettingError(f"average is '{average}'; choose one of {', '.join(AVERAGE_NAMES)}")
    bundle = bundle or run.unchanged_bundle()
    val, shown = (judged_rows(run, each, bundle) for each in ("val", split))
    shares = [_shares(bundle, rows, name, average) for rows, name in ((val, "val"), (shown, split))]
    there = in_groups(val, "val")
    in_groups(shown, split)
    size = len(val.labels) * int(there.sum()) * val.logits.shape[1]
    if size > _MOST_NUMBERS:
        raise SettingError(
            f"{len(val.labels):,} rows of val in {int(there.sum()):,} groups and "
            f"{val.logits.shape[1]:,} classes take too long to search here; run the method "
            "class_scaling instead"
        )
    chosen, on_path = _search(val, there, trade, shares[0])
    offsets = torch.stack([torch.zeros_like(chosen.offset), chosen.offset])
    path = pd.DataFrame(
        {
            **_of_val(_accuracies(val, on_path, shares[0])),
            **_accuracies(shown, on_path, shares[1]),
            "offset": list(on_path.numpy()),
        }
    )
    points = pd.DataFrame(
        {
            "point": POINTS,
            **_of_val(_accuracies(val, offsets, shares[0])),
            **_accuracies(shown, offsets, shares[1]),
        }
    )
    own, other = (shown.right(offset) for offset in offsets)
    groups = _by_group(shown, own, other, bundle.group_names)
    _add_intervals(points, groups, shown, shares[1])
    return OperatingPoints(
        classes=bundle.manifest.classes,
        offset=chosen.offset.numpy(),
        points=points,
        path=path,
        groups=groups,
        change=_change(shown, own, other, shares[1]),
    )


def judged_rows(run: Run, split: str, bundle: Bundle) -> Judged:
    """Return the rows of a split as a run's kept head scores them.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits, as the run's seed drew it.
        bundle: The run's bundle.
    """
    rows = run.rows_of(split, bundle)
    return Judged(
        torch.from_numpy(kept_logits(run, rows, bundle)),
        torch.from_numpy(bundle.y[rows].astype(np.int64)),
        torch.from_numpy(bundle.membership[rows]),
    )


def in_groups(rows: Judged, split: str) -> Tensor:
    """Return which groups have rows, (m,) bool.

    Args:
        rows: Of the split.
        split: Its name, for the sentence about a mistake.

    Raises:
        SettingError: If none has.
    """
    there = rows.members.any(dim=0)
    if not bool(there.any()):
        raise SettingError(
            f"none of the {len(rows.labels):,} rows of {split} is in a known group, so that there "
            "is no worst group; choose a bundle or a split with groups"
        )
    return there


def _shares(bundle: Bundle, rows: Judged, split: str, average: str) -> Tensor | None:
    """Return the weights (m,) of the groups in an average, None where each row counts the same.

    Raises:
        SettingError: If they are not known.
    """
    if average == "mean_accuracy":
        return None
    there = in_groups(rows, split).double()
    if average == "group_mean_accuracy":
        return there / there.sum()
    shares = bundle.training_shares
    if shares is None or (shares[there.numpy() == 0] > 0).any():
        raise SettingError(
            f"the adjusted average is not known on {split}: it needs rows there of each group that "
            "the training set has; choose another average"
        )
    return torch.from_numpy(shares)


def _search(
    val: Judged, there: Tensor, trade: float, shares: Tensor | None
) -> tuple[Scaling, Tensor]:
    """Return the offsets that were chosen on val, and those (P, K) of the path."""
    logits, members = val.logits.double(), val.members[:, there]
    among = None if shares is None else shares[there]

    def search(weight: float) -> Scaling:
        return choose_offsets(
            logits,
            val.labels,
            members,
            narrowest=narrowest_of(val.logits),
            trade=weight,
            shares=among,
        )

    chosen = search(trade)
    if logits.shape[1] == 2:
        passed = chosen.tradeoff
        # The first sweep passes all that there is; before it stands no offset at all.
        places = (passed.sweep == 1).nonzero()[:, 0]
        of_path = passed.offsets(_some(places))
        rarer = passed.which[1]
        of_path = torch.cat([of_path, torch.stack([0 * chosen.offset, chosen.offset])])
        return chosen, of_path[of_path[:, rarer].argsort()].unique_consecutive(dim=0)
    searched = [chosen, *(search(weight) for weight in _TRADES if weight != trade)]
    passed = Tradeoff.of([each.tradeoff for each in searched])
    return chosen, passed.offsets(_some(passed.front()))


def _some(places: Tensor) -> Tensor:
    """Return at most `_MOST_ON_PATH` of some places, evenly."""
    kept = np.linspace(0, len(places) - 1, _MOST_ON_PATH).round().astype(int)
    return places[np.unique(kept)]


def _of_val(accuracies: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"val_{name}": values for name, values in accuracies.items()}


def _accuracies(rows: Judged, offsets: Tensor, shares: Tensor | None) -> dict[str, np.ndarray]:
    """Return average and worst (P,) of rows with each of some offsets (P, K)."""
    there = rows.members.any(dim=0)
    members, count = rows.members[:, there].double(), rows.members[:, there].sum(dim=0)
    average, worst = [], []
    for offset in offsets:
        right = torch.from_numpy(rows.right(offset)).double()
        of_groups = right @ members / count
        worst.append(float(of_groups.min()))
        average.append(float(right.mean() if shares is None else of_groups @ shares[there]))
    return {"average": np.array(average), "worst": np.array(worst)}


def _by_group(
    rows: Judged, own: np.ndarray, chosen: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    members = rows.members.numpy()
    count = members.sum(axis=0)
    table = pd.DataFrame({"group": names, "n": count})
    for point, right in (("own", own), ("chosen", chosen)):
        hits = right.astype(np.int64) @ members
        accuracy = hits / np.where(count > 0, count, np.nan)
        low, high = wilson_interval(accuracy, count)
        table[f"{point}_accuracy"], table[f"{point}_wrong"] = accuracy, count - hits
        table[f"{point}_low"], table[f"{point}_high"] = low, high
    return table[table["n"] > 0].reset_index(drop=True)


def _add_intervals(
    points: pd.DataFrame, groups: pd.DataFrame, rows: Judged, shares: Tensor | None
) -> None:
    """Add worst_group and the intervals of both points, in place."""
    size = np.array([float(len(rows.labels))])
    if shares is not None:
        # So many rows drawn at random as would make the mean of groups vary as it does.
        share, count = shares.numpy(), rows.members.sum(dim=0).numpy()
        size = 1 / (share[share > 0] ** 2 / count[share > 0]).sum(keepdims=True)
    worst = [worst_group(groups[f"{each}_accuracy"].to_numpy()) for each in ("own", "chosen")]
    points["worst_group"] = groups["group"].to_numpy()[worst]
    counts = groups["n"].to_numpy()[worst]
    for name, n in (("worst", counts), ("average", size)):
        low, high = wilson_interval(points[name].to_numpy(), n)
        points[f"{name}_low"], points[f"{name}_high"] = low, high


def _change(
    rows: Judged, own: np.ndarray, chosen: np.ndarray, shares: Tensor | None
) -> dict[str, Bootstrap]:
    weights = None if shares is None else shares.numpy()
    found = bootstrap(chosen[None], own[None], rows.members.numpy(), training_shares=weights)
    average = "mean_accuracy" if shares is None else "adjusted_accuracy"
    return {"worst": found["worst_group_accuracy"], "average": found[average]}
