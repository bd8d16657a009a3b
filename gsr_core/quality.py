r"""How good a head's probabilities are in each group: calibration, Brier score, ranking, gaps.

- **Calibration error**, top label: confidences s of the predicted class, sorted and cut into B bins
  of nearly equal size, :math:`\sum_b \frac{n_b}{n} |\bar o_b - \bar s_b|`, o whether the row is
  right (Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
  Binning", AAAI 2015, with bins of equal mass). Even a perfectly calibrated head has an error above
  zero, the larger the fewer the rows: beside it stands what such a head stays below 95 times in
  100.
- **Brier score** in the form over all classes, :math:`\sum_k (p_k - [y = k])^2`, from 0 to 2
  (Brier, "Verification of Forecasts", 1950); for two classes twice the form with one probability.
- **AUROC** with DeLong's interval (DeLong, DeLong and Clarke-Pearson, Biometrics 1988) on the logit
  scale; where a side has fewer than 20 rows, a bootstrap of both sides; where that variance is
  zero, as at 0 and 1, Wilson's interval of a share of the smaller side.
- **Gaps** of two accuracies on different rows with Newcombe's interval (Newcombe, "Interval
  Estimation for the Difference Between Independent Proportions", 1998, method 10).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, log_softmax, logit

from gsr_core.metrics import wilson_interval

__all__ = [
    "Auroc",
    "auroc",
    "calibration_error",
    "difference_interval",
    "group_auroc",
    "group_quality",
    "reliability",
]

MIN_SIDE = 20
"""Fewer rows on a side than this, and DeLong's normal approximation is not trusted."""
_MOST_BINS, _ROWS_A_BIN = 15, 20
_DRAWS = 1000
_MOST_DRAWN = 2**23
"""Outcomes that are drawn for one chance level, in all."""
_Z = 1.959964


class Auroc(NamedTuple):
    """Chance that a positive row scores above a negative one, ties half, with a 95 % interval."""

    value: float
    low: float
    high: float


_NONE = Auroc(np.nan, np.nan, np.nan)


def auroc(
    score: np.ndarray, positive: np.ndarray, *, interval: bool = True, seed: int = 0
) -> Auroc:
    """Return the AUROC of a score and its interval.

    Args:
        score: (n,) higher speaks for positive.
        positive: (n,) bool.
        interval: Whether the interval is wanted; its ends are NaN if not.
        seed: Of the bootstrap, where one is drawn.

    Returns:
        NaN where a side is empty.

    Example:
        >>> score = np.array([0.9, 0.8, 0.7, 0.55, 0.5, 0.6, 0.5, 0.4, 0.3])
        >>> found = auroc(score, np.arange(9) < 5)
        >>> found.value
        0.875
    """
    ups, downs = score[positive], score[~positive]
    if not (len(ups) and len(downs)):
        return _NONE
    above, below = _placements(ups, downs)
    value = float(above.mean())
    if not interval:
        return Auroc(value, np.nan, np.nan)
    fewest = min(len(ups), len(downs))
    variance = above.var() + below.var()
    if value in (0.0, 1.0) or variance == 0:
        # As of a share of the smaller side: no draw of these rows would ever differ.
        low, high = wilson_interval(value, fewest)
        return Auroc(value, float(low), float(high))
    if fewest < MIN_SIDE:
        return Auroc(value, *_drawn_interval(ups, downs, seed))
    error = np.sqrt(above.var(ddof=1) / len(ups) + below.var(ddof=1) / len(downs))
    # By the delta method, so that the interval stays inside [0, 1].
    half = _Z * error / (value * (1 - value))
    return Auroc(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))


def _placements(ups: np.ndarray, downs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of negatives below each positive, and of positives above each negative."""
    pooled, of_ups, of_downs = (
        pd.Series(each).rank().to_numpy() for each in (np.concatenate([ups, downs]), ups, downs)
    )
    above = (pooled[: len(ups)] - of_ups) / len(downs)
    below = 1 - (pooled[len(ups) :] - of_downs) / len(ups)
    return above, below


def _drawn_interval(ups: np.ndarray, downs: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the percentiles of AUROCs of rows drawn anew on both sides."""
    # Of each pair of different values how often the positive wins; counts are drawn, not rows.
    high, of_high = np.unique(ups, return_counts=True)
    low, of_low = np.unique(downs, return_counts=True)
    generator = np.random.default_rng(seed)
    first = generator.multinomial(len(ups), of_high / len(ups), size=_DRAWS) / len(ups)
    second = generator.multinomial(len(downs), of_low / len(downs), size=_DRAWS) / len(downs)
    # The share of the drawn negatives below each positive value, and half of those equal to it.
    cumulative = np.concatenate([np.zeros((_DRAWS, 1)), second.cumsum(axis=1)], axis=1)
    below, upto = (np.searchsorted(low, high, side=side) for side in ("left", "right"))
    wins = (cumulative[:, below] + cumulative[:, upto]) / 2
    drawn = (first * wins).sum(axis=1)
    low_end, high_end = np.percentile(drawn, [2.5, 97.5])
    return float(low_end), float(high_end)


def group_auroc(
    probability: np.ndarray,
    labels: np.ndarray,
    member: np.ndarray,
    *,
    interval: bool = True,
    seed: int = 0,
) -> Auroc:
    """Return how well the score of a class tells a group's rows of it from those of other classes.

    The other rows are those of the group where it has several classes, and else all: a group of one
    class is held against every row of the others, as in the subgroup AUCs of Borkan et al.,
    "Nuanced Metrics for Measuring Unintended Bias" (2019). Of several classes the lowest counts.

    Args:
        probability: (n, K).
        labels: (n,) classes.
        member: (n,) bool, which rows are in the group.
        interval: Whether the interval is wanted.
        seed: Of the bootstrap, where one is drawn.
    """
    present = np.unique(labels[member])
    among = member if len(present) > 1 else np.ones_like(member)
    # With two classes, each is the other turned round.
    classes = present[:1] if len(present) == 1 or probability.shape[1] == 2 else present
    found = []
    for label in classes:
        own = member & (labels == label)
        rows = own | (among & (labels != label))
        found.append(auroc(probability[rows, label], own[rows], interval=interval, seed=seed))
    return min(found, key=lambda each: each.value, default=_NONE)


class _Bins:
    """Confidences of rows in bins of nearly equal size."""

    def __init__(self, confidence: np.ndarray) -> None:
        self.n = len(confidence)
        # Rows that are equally sure share their outcome, so that their order decides nothing.
        self.sure, self.which, self.counts = np.unique(
            confidence.astype(np.float64), return_inverse=True, return_counts=True
        )
        bins = min(_MOST_BINS, max(self.n // _ROWS_A_BIN, 1))
        edges = np.linspace(0, self.n, bins + 1).round().astype(int)
        self.starts, self.sizes = edges[:-1], np.diff(edges)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return (R, bins) sums over the rows of each bin, from (R, values) of each confidence."""
        each = np.repeat(values, self.counts, axis=-1)
        return np.add.reduceat(each, self.starts, axis=-1)

    def of_rows(self, right: np.ndarray) -> np.ndarray:
        """Return the (values,) numbers of right rows of each confidence, from (n,) bool."""
        return np.bincount(self.which, weights=right, minlength=len(self.sure))

    def drawn(self, seed: int) -> Iterator[np.ndarray]:
        """Yield such numbers (R, values) of a calibrated head, some draws at a time."""
        generator, at_once = np.random.default_rng(seed), max(2**22 // self.n, 1)
        # Of many rows the chance level is small and fewer draws settle it.
        draws = min(max(_MOST_DRAWN // self.n, 100), _DRAWS)
        for done in range(0, draws, at_once):
            size = (min(at_once, draws - done), len(self.sure))
            yield generator.binomial(self.counts, self.sure, size=size)


def calibration_error(
    confidence: np.ndarray, right: np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """Return the calibration error, and what a calibrated head stays below 95 times in 100.

    There are 15 bins, or fewer where these would have less than 20 rows each.

    Args:
        confidence: (n,) probability of the predicted class.
        right: (n,) bool.
        seed: Of the draws of a calibrated head.

    Returns:
        Both in [0, 1]; NaN without rows.

    Example:
        >>> error, chance = calibration_error(np.full(100, 0.9), np.arange(100) < 60)
        >>> round(error, 3), error > chance
        (0.3, True)
    """
    if not len(confidence):
        return np.nan, np.nan
    bins = _Bins(confidence)

    def error(rights: np.ndarray) -> np.ndarray:
        """Return (R,) errors from (R, values) numbers of right rows of each confidence."""
        return np.abs(bins.sums(rights / bins.counts - bins.sure)).sum(axis=-1) / bins.n

    chance = [error(rights) for rights in bins.drawn(seed)]
    return float(error(bins.of_rows(right))), float(np.percentile(np.concatenate(chance), 95))


def reliability(confidence: np.ndarray, right: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    """Return the reliability curve over the bins of `calibration_error`, by rising confidence.

    Args:
        confidence: (n,) probability of the predicted class.
        right: (n,) bool.
        seed: Of the draws of a calibrated head.

    Returns:
        Columns n (rows of the bin), confidence and accuracy (means over them, fractions), low and
        high: between which a calibrated head's accuracy is there 95 times in 100. No rows without
        rows.

    Example:
        >>> curve = reliability(np.full(100, 0.9), np.arange(100) < 60)
        >>> curve[["n", "confidence", "accuracy"]].iloc[0].round(2).tolist()
        [20.0, 0.9, 0.6]
    """
    columns = ["n", "confidence", "accuracy", "low", "high"]
    if not len(confidence):
        return pd.DataFrame(columns=columns)
    bins = _Bins(confidence)
    drawn = [bins.sums(rights / bins.counts) / bins.sizes for rights in bins.drawn(seed)]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    accuracy = bins.sums(bins.of_rows(right) / bins.counts) / bins.sizes
    parts = (bins.sizes, bins.sums(bins.sure) / bins.sizes, accuracy, low, high)
    return pd.DataFrame(dict(zip(columns, parts, strict=True)))


def difference_interval(
    first: float, n_first: int, second: float, n_second: int
) -> tuple[float, float]:
    """Return Newcombe's 95 % interval of the difference of two fractions on different rows.

    Example:
        >>> [round(end, 4) for end in difference_interval(56 / 70, 70, 48 / 80, 80)]
        [0.0524, 0.3339]
    """
    (low1, high1), (low2, high2) = (
        wilson_interval(*each) for each in ((first, n_first), (second, n_second))
    )
    gap = first - second
    down = np.hypot(first - low1, high2 - second)
    up = np.hypot(high1 - first, second - low2)
    return float(gap - down), float(gap + up)


def group_quality(
    logits: np.ndarray, labels: np.ndarray, membership: np.ndarray, names: list[str]
) -> pd.DataFrame:
    """Return how good the probabilities are in each group, one row a group with rows.

    Args:
        logits: (n, K).
        labels: (n,) classes in [0, K).
        membership: (n, m) bool, overlap allowed.
        names: m names.

    Returns:
        Columns group, n, accuracy with low and high (Wilson), gap (accuracy less that of all rows
        outside the group) with gap_low and gap_high, recall (the lowest of a class in the group)
        and recall_class, calibration and calibration_chance (`calibration_error`), brier, auroc
        with auroc_low and auroc_high (`group_auroc`). Fractions, except brier in [0, 2]; NaN where
        there is nothing to measure.
    """
    log_probability = log_softmax(logits.astype(np.float64), axis=1)
    probability = np.exp(log_probability)
    prediction = logits.argmax(axis=1)
    right, confidence = prediction == labels, probability.max(axis=1)
    own = probability[np.arange(len(labels)), labels]
    brier = np.square(probability).sum(axis=1) - 2 * own + 1
    rows = []
    for g, name in enumerate(names):
        member = membership[:, g]
        n, rest = int(member.sum()), int((~member).sum())
        if not n:
            continue
        accuracy = float(right[member].mean())
        low, high = wilson_interval(accuracy, n)
        others = float(right[~member].mean()) if rest else np.nan
        ends = difference_interval(accuracy, n, others, rest) if rest else (np.nan, np.nan)
        recall = {
            int(label): float(right[member & (labels == label)].mean())
            for label in np.unique(labels[member])
        }
        lowest = min(recall, key=lambda label: recall[label])
        error, chance = calibration_error(confidence[member], right[member])
        ranking = group_auroc(probability, labels, member)
        rows.append(
            {
                "group": name,
                "n": n,
                "accuracy": accuracy,
                "low": float(low),
                "high": float(high),
                "gap": accuracy - others,
                "gap_low": ends[0],
                "gap_high": ends[1],
                "recall": recall[lowest],
                "recall_class": lowest,
                "calibration": error,
                "calibration_chance": chance,
                "brier": float(brier[member].mean()),
                "auroc": ranking.value,
                "auroc_low": ranking.low,
                "auroc_high": ranking.high,
            }
        )
    return pd.DataFrame(rows)
