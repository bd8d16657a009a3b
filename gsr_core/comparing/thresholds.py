r"""The threshold between two classes for what an error of either kind costs.

A row is decided for the class b from the probability t on, :math:`p_b \ge t`, and for the other
class a from 1 - t on. That is an offset of :math:`\beta_b = \log \frac{1 - t}{t}` on its logit, so
that thresholds are operating points like others (`operating`), chosen by another rule: the least
cost on `val`,

.. math:: \frac1n \left( c \cdot \#\{y = b, \hat y = a\} + \#\{y = a, \hat y = b\} \right) ,

by the same exact sweep, as the average of the classes' accuracies weighted by
:math:`c\, n_b` and :math:`n_a`. Where probabilities are calibrated the best threshold is
:math:`1 / (1 + c)` (Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001), so that the
distance of the two tells of calibration. The rarer class of `val` is b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit
from torch.nn.functional import one_hot

from gsr_core.comparing.operating import Judged, judged_rows
from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.methods.class_scaling import choose_offsets, narrowest_of
from gsr_core.runs.store import Run

__all__ = ["Thresholds", "thresholds_of"]

_STEPS = 121
"""Thresholds at which the errors of each group are counted for the curve."""
_OUTSIDE = 0.005
"""Share of the rows at either end whose own thresholds are not drawn."""
_DRAWS = 2000


@dataclass(frozen=True)
class Thresholds:
    """What a threshold that was chosen on val does on a split.

    Attributes:
        positive: The class b.
        negative: The class a.
        threshold: Probability of b from which a row is decided for it, chosen on val.
        by_class: The offset of each class that does so, as `runs.export` takes it.
        calibrated: That of a calibrated head.
        val_cost: Mean cost of a row of val at 1/2 and at the threshold, in false alarms.
        cost: The same on the split.
        change: Difference of the two costs on the split, and its 95 % interval by a bootstrap of
            rows within the classes.
        groups: One row a group of the split: group, n, and at 1/2 (`own`) and at the threshold
            (`chosen`) how many of b are missed (`own_missed`) and of a are taken for b
            (`own_false`).
        curve: Columns threshold, log_odds (of the threshold), group, wrong (fraction of the
            group's rows): the split's errors at other thresholds.
    """

    positive: str
    negative: str
    threshold: float
    by_class: dict[str, float]
    calibrated: float
    val_cost: tuple[float, float]
    cost: tuple[float, float]
    change: tuple[float, float, float]
    groups: pd.DataFrame
    curve: pd.DataFrame


def thresholds_of(
    run: Run, split: str, bundle: Bundle | None = None, *, cost: float = 1.0, seed: int = 0
) -> Thresholds:
    """Choose the threshold between two classes on val and show what it does on a split.

    Args:
        run: A run of two classes that has ended with a head.
        split: One of the bundle's splits, as the run's seed drew it; `val` itself flatters.
        bundle: The run's bundle, if it is open already.
        cost: How many false alarms one missed row of the rarer class is worth; above zero.
        seed: Of the bootstrap.

    Raises:
        SettingError: If there are not two classes, val lacks one of them, or the cost is not right.
        RunStateError: If the run has no head yet.
        BundleError: If the bundle has changed since.
    """
    if not (0 < cost < math.inf):
        raise SettingError(
            f"a missed sample costs {cost:g} false alarms; choose a finite number above 0"
        )
    bundle = bundle or run.unchanged_bundle()
    classes = bundle.manifest.classes
    if len(classes) != 2:
        raise SettingError(
            f"bundle '{bundle.name}' has {len(classes)} classes and thresholds are between two; "
            "look at class scaling instead, which has an offset for each"
        )
    val, shown = (judged_rows(run, each, bundle) for each in ("val", split))
    found = one_hot(val.labels, 2).bool()
    if not bool(found.any(dim=0).all()):
        missing = classes[int(found.any(dim=0).int().argmin())]
        raise SettingError(f"val has no rows of '{missing}', so that it can choose no threshold")
    price = found.sum(dim=0).double()
    # Of equals the second, as the search takes them.
    positive = int(price[1] <= price[0])
    price[positive] *= cost
    scaling = choose_offsets(
        val.logits.double(),
        val.labels,
        found,
        narrowest=narrowest_of(val.logits),
        trade=0.0,
        shares=price / price.sum(),
    )
    # From `offset` on the margin, the logit of b less that of a, a row is decided for b.
    offset = float(scaling.offset[1 - positive] - scaling.offset[positive])
    costs = [_costs(rows, positive, (0.0, offset), cost) for rows in (val, shown)]
    own, chosen = costs[1]
    return Thresholds(
        positive=classes[positive],
        negative=classes[1 - positive],
        threshold=float(expit(offset)),
        by_class=dict(zip(classes, scaling.offset.tolist(), strict=True)),
        calibrated=1 / (1 + cost),
        val_cost=(float(costs[0][0].mean()), float(costs[0][1].mean())),
        cost=(float(own.mean()), float(chosen.mean())),
        change=_change(chosen - own, shown.labels.numpy(), seed),
        groups=_errors(shown, positive, (0.0, offset), bundle.group_names),
        curve=_curve(shown, positive, offset, bundle.group_names),
    )


def _margin(rows: Judged, positive: int) -> np.ndarray:
    """Return the logit of b less that of a, (n,)."""
    logits = rows.logits.double().numpy()
    return logits[:, positive] - logits[:, 1 - positive]


def _costs(
    rows: Judged, positive: int, offsets: tuple[float, float], cost: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each row costs at two thresholds on the margin."""
    is_b, margin = rows.labels.numpy() == positive, _margin(rows, positive)
    one, two = (np.where(is_b, cost, 1.0) * ((margin > at) != is_b) for at in offsets)
    return one, two


def _errors(
    rows: Judged, positive: int, offsets: tuple[float, float], names: list[str]
) -> pd.DataFrame:
    is_b, margin = rows.labels.numpy() == positive, _margin(rows, positive)
    members = rows.members.numpy().astype(np.int64)
    table = pd.DataFrame({"group": names, "n": members.sum(axis=0)})
    for point, at in zip(("own", "chosen"), offsets, strict=True):
        table[f"{point}_missed"] = (is_b & (margin <= at)) @ members
        table[f"{point}_false"] = (~is_b & (margin > at)) @ members
    return table[table["n"] > 0].reset_index(drop=True)


def _curve(rows: Judged, positive: int, offset: float, names: list[str]) -> pd.DataFrame:
    """Return the share of each group's rows that is wrong at thresholds over the margins."""
    is_b, margin = rows.labels.numpy() == positive, _margin(rows, positive)
    ends = np.quantile(margin, [_OUTSIDE, 1 - _OUTSIDE])
    grid = np.linspace(min(ends[0], offset, 0), max(ends[1], offset, 0), _STEPS)
    parts = []
    for name, member in zip(names, rows.members.numpy().T, strict=True):
        if not member.any():
            continue
        ups, downs = np.sort(margin[member & is_b]), np.sort(margin[member & ~is_b])
        wrong = np.searchsorted(ups, grid, "right") + len(downs)
        wrong = wrong - np.searchsorted(downs, grid, "right")
        share = wrong / member.sum()
        columns = {"threshold": expit(grid), "log_odds": grid, "group": name, "wrong": share}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _change(delta: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Return the mean of differences (n,) and its interval, rows drawn anew within classes."""
    generator, total = np.random.default_rng(seed), np.zeros(_DRAWS)
    for label in np.unique(labels):
        # A row's difference has three values at most, so that their counts are drawn.
        values, counts = np.unique(delta[labels == label], return_counts=True)
        size = counts.sum()
        total += generator.multinomial(size, counts / size, size=_DRAWS) @ values
    low, high = np.percentile(total / len(delta), [2.5, 97.5])
    return float(delta.mean()), float(low), float(high)
