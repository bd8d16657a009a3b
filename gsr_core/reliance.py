r"""The reliance meter: how far a head's scores lean on an attribute, beside how far on the class.

The idea of splitting what a classifier uses into an attribute's direction and the class's own is
that of SCER (Park et al., ICLR 2026); the measures here are chosen for heads on frozen features.
Attributes are read to report, never to fit.

For a pair of classes the score of a row is :math:`w \cdot x` with w the difference of the two
rows of the head's weight. Of an attribute's value against all its other values there are four
cells (y, A) with means :math:`\mu_{yA}` and the covariance S inside of them, pooled with equal
weight of cells and shrunk: :math:`(1 - t) S + t \, (\mathrm{tr} S / d) I`. Then, with the
attribute's and the class's directions

.. math:: a = \frac{1}{2} \sum_y (\mu_{y1} - \mu_{y0}), \qquad
          c = \frac{1}{2} \sum_A (\mu_{1A} - \mu_{0A}), \qquad \sigma^2 = w^T S w,

the head's *lean* is :math:`D_a = w \cdot a / \sigma` and its *core* :math:`D_c = w \cdot c /
\sigma`: by how many standard deviations inside a cell the score moves when the attribute changes
and the class does not, and the other way round. The variance of the four cells' mean scores is
:math:`(w \cdot c)^2 / 4 + (w \cdot a)^2 / 4 + J^2`, of which the attribute has a *share*; J, the
interaction, is large where a head uses the attribute in one class only.

These do not change with the scale of the weight, nor, without shrinkage, with any invertible
linear map of the features and shift; a cosine of w and a does, which the one whitened by S does
not. Where S is normal, the error in a cell is :math:`\Phi(-y' (w \cdot \mu_{yA} + b) / \sigma)`,
:math:`y' = \pm 1`.

Where we differ from SCER: its ratio divides by two norms that leave it neither bounded nor
invariant, and its mean differences lose their signs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.special import ndtr

from gsr_core.errors import SettingError
from gsr_core.quality import auroc

__all__ = ["MOST_CLASSES", "SHRINKAGE", "Reliance", "leanings", "measure_reliance"]

SHRINKAGE = 0.05
"""t, the weight of a multiple of the identity in the covariance."""

MOST_CLASSES = 30
"""With more classes there are too many pairs."""

_MIN_CELL = 10
"""Rows that each of the four cells must have."""
_WIDEST = 2048
"""Features up to which the whitened cosine is computed, which takes their covariance."""
_DRAWS, _MOST_DRAWN = 500, 2**23
_BLOCK = 2**22
"""Numbers of features that are held in float64 at a time."""


@dataclass(frozen=True)
class Reliance:
    """What one score uses of one attribute, with 95 % intervals of rows drawn inside the cells.

    Attributes:
        lean: D_a, standard deviations; its sign is that of the score where the value is there.
        lean_low: Lower end of its interval.
        lean_high: Upper end.
        core: D_c, standard deviations.
        share: Of the variance of the cells' mean scores, that of the attribute, in [0, 1].
        share_low: Lower end of its interval.
        share_high: Upper end.
        core_share: That of the class.
        joint_share: That of the interaction; the three sum to one.
        cosine: Of w and a, in [-1, 1]; it depends on the features' scale.
        whitened: The same in the metric of S; NaN with more than 2,048 features.
        core_cosine: Of w and c.
        core_whitened: The same in the metric of S.
        auroc: Chance that, of two rows of a class, the one with the value has the higher score,
            mean over both classes; 0.5 says that the score does not know the attribute.
        worst_error: Highest error of a cell if scores were normal in each; NaN without a bias.
    """

    lean: float
    lean_low: float
    lean_high: float
    core: float
    share: float
    share_low: float
    share_high: float
    core_share: float
    joint_share: float
    cosine: float
    whitened: float
    core_cosine: float
    core_whitened: float
    auroc: float
    worst_error: float


@np.errstate(divide="ignore", invalid="ignore")
def leanings(
    features: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    values: np.ndarray,
    weight: np.ndarray,
    *,
    shrinkage: float = SHRINKAGE,
) -> pd.DataFrame:
    """Return the lean on each value of an attribute for each pair of classes.

    Args:
        features: (N, d), perhaps memory-mapped.
        rows: (n,) which of them.
        labels: (n,) classes in [0, K).
        values: (n,) numbers of the attribute's values, -1 for rows without one.
        weight: (K, d) of the head.
        shrinkage: t, in [0, 1].

    Returns:
        Columns value, one, two (classes; a positive score speaks for `two`), lean, core, share.
        Only where each of the four cells has ten rows; of an attribute with two values only the
        second is there, since the first turns all signs round.

    Raises:
        SettingError: If there are more than 30 classes, or t is not allowed.
    """
    classes = len(weight)
    if classes > MOST_CLASSES:
        raise SettingError(
            f"there are {classes} classes; reliance is measured of up to {MOST_CLASSES}"
        )
    _check(shrinkage)
    known = values >= 0
    rows, labels, values = rows[known], labels[known], values[known]
    many = int(values.max(initial=-1)) + 1
    cell = labels * many + values
    counts = np.bincount(cell, minlength=classes * many).reshape(classes, many)
    sums = np.zeros((classes * many, weight.shape[1]))
    squares = np.zeros(classes * many)
    logits = np.empty((len(rows), classes))
    for part, block in _blocks(features, rows):
        member = cell[part][:, None] == np.arange(classes * many)
        sums += member.T.astype(np.float64) @ block
        squares += np.bincount(cell[part], np.square(block).sum(axis=1), classes * many)
        logits[part] = block @ weight.T
    sums, squares = sums.reshape(classes, many, -1), squares.reshape(classes, many)
    found = []
    for one, two in combinations(range(classes), 2):
        pair, of_pair = [one, two], np.isin(labels, [one, two])
        score = logits[of_pair, two] - logits[of_pair, one]
        score -= score.mean() if len(score) else 0.0
        cells = (labels[of_pair] == two) * many + values[of_pair]
        first, second = (
            np.bincount(cells, power, 2 * many).reshape(2, many) for power in (score, score**2)
        )
        norm = float(np.square(weight[two] - weight[one]).sum())
        for value in range(0 if many > 2 else 1, many):
            # Means and variances of the four cells, [class, whether the value is there].
            n, m1, m2, sq = (
                np.stack([each.sum(axis=1) - each[:, value], each[:, value]], axis=1)
                for each in (counts[pair], first, second, squares[pair])
            )
            if n.min() < _MIN_CELL:
                continue
            here = sums[pair][:, value]
            total = np.stack([sums[pair].sum(axis=1) - here, here], axis=1)
            trace = (sq - np.square(total).sum(axis=2) / n) / (n - 1)
            inside = (m2 - m1**2 / n) / (n - 1)
            spread = _spread(inside.mean(), trace.mean() / weight.shape[1], norm, shrinkage)
            shift, core, joint = _effects(m1 / n)
            found.append(
                {
                    "value": value,
                    "one": one,
                    "two": two,
                    "lean": shift / spread,
                    "core": core / spread,
                    "share": _shares(shift, core, joint)[0],
                }
            )
    return pd.DataFrame(found, columns=["value", "one", "two", "lean", "core", "share"])


@np.errstate(divide="ignore", invalid="ignore")
def measure_reliance(
    features: np.ndarray,
    rows: np.ndarray,
    positive: np.ndarray,
    inside: np.ndarray,
    direction: np.ndarray,
    *,
    bias: float = np.nan,
    shrinkage: float = SHRINKAGE,
    seed: int = 0,
) -> Reliance:
    """Measure what a score uses of an attribute with two values, for two classes.

    Args:
        features: (N, d), perhaps memory-mapped.
        rows: (n,) which of them.
        positive: (n,) bool, rows of the class that a positive score speaks for.
        inside: (n,) bool, whether the attribute's value is there.
        direction: (d,) w.
        bias: b, for the error that normal scores would have.
        shrinkage: t, in [0, 1]. With 0, nothing depends on the features' basis or scale.
        seed: Of the rows that are drawn for intervals.

    Raises:
        SettingError: If a cell has fewer than ten rows, t is not allowed, or it is 0 where the
            covariance cannot be inverted.
    """
    _check(shrinkage)
    cell = 2 * positive.astype(int) + inside.astype(int)
    counts = np.bincount(cell, minlength=4)
    if counts.min() < _MIN_CELL:
        raise SettingError(
            f"a cell of class and attribute has {counts.min()} rows; {_MIN_CELL} are needed in each"
        )
    wide = len(direction)
    mean, score = np.zeros((4, wide)), np.empty(len(rows))
    for part, block in _blocks(features, rows):
        for each in range(4):
            mean[each] += block[cell[part] == each].sum(axis=0) / counts[each]
        score[part] = block @ direction
    trace, covariance = 0.0, np.zeros((wide, wide)) if wide <= _WIDEST else None
    for part, block in _blocks(features, rows):
        centred = (block - mean[cell[part]]) / np.sqrt(4 * (counts[cell[part]] - 1))[:, None]
        trace += float(np.square(centred).sum())
        if covariance is not None:
            covariance += centred.T @ centred
    norm = float(direction @ direction)
    scores = [score[cell == each] for each in range(4)]
    pooled = float(np.mean([each.var(ddof=1) for each in scores]))
    spread = _spread(pooled, trace / wide, norm, shrinkage)
    means = np.array([each.mean() for each in scores]).reshape(2, 2)
    shift, core, joint = _effects(means)
    shares = _shares(shift, core, joint)
    drawn = _draws(scores, np.random.default_rng(seed))
    lean_drawn = drawn[0] / _spread(drawn[3], trace / wide, norm, shrinkage)
    share_drawn = _shares(*drawn[:3])[0]
    ends = [np.percentile(each, [2.5, 97.5]) for each in (lean_drawn, share_drawn)]
    four = mean.reshape(2, 2, wide)
    attribute = (four[:, 1] - four[:, 0]).mean(axis=0)
    own = (four[1] - four[0]).mean(axis=0)
    signs = np.array([[-1], [1]])
    return Reliance(
        lean=float(shift / spread),
        lean_low=float(ends[0][0]),
        lean_high=float(ends[0][1]),
        core=float(core / spread),
        share=float(shares[0]),
        share_low=float(ends[1][0]),
        share_high=float(ends[1][1]),
        core_share=float(shares[1]),
        joint_share=float(shares[2]),
        cosine=_cosine(direction, attribute),
        whitened=_whitened(shift, spread, attribute, covariance, trace, shrinkage),
        core_cosine=_cosine(direction, own),
        core_whitened=_whitened(core, spread, own, covariance, trace, shrinkage),
        auroc=float(
            np.mean(
                [
                    auroc(score[each], inside[each], interval=False).value
                    for each in (positive, ~positive)
                ]
            )
        ),
        worst_error=float(ndtr(-signs * (means + bias) / spread).max()),
    )


def _check(shrinkage: float) -> None:
    if not 0 <= shrinkage <= 1:
        raise SettingError(f"shrinkage is {shrinkage:g}; allowed are fractions from 0 to 1")


def _blocks(features: np.ndarray, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    size = max(_BLOCK // features.shape[1], 1)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield part, np.asarray(features[rows[part]], dtype=np.float64)


def _spread(
    inside: np.ndarray | float, trace: float, norm: float, shrinkage: float
) -> np.ndarray | float:
    """Return sigma: of the pooled variance of scores, the mean variance of features, and |w|²."""
    return np.sqrt((1 - shrinkage) * inside + shrinkage * trace * norm)


def _effects(means: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shifts by attribute and class and the interaction of (..., 2, 2) mean scores."""
    s00, s01, s10, s11 = (means[..., y, a] for y in (0, 1) for a in (0, 1))
    return (s01 - s00 + s11 - s10) / 2, (s10 - s00 + s11 - s01) / 2, (s11 - s10 - s01 + s00) / 4


def _shares(
    shift: np.ndarray, core: np.ndarray, joint: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shares of attribute, class and interaction in the variance of mean scores."""
    parts = shift**2 / 4, core**2 / 4, joint**2
    total = sum(parts)
    return parts[0] / total, parts[1] / total, parts[2] / total


def _draws(scores: list[np.ndarray], generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return the three effects and the pooled variance of rows drawn anew inside each cell.

    The mean variance of the features is kept: it varies little beside these.
    """
    draws = min(max(_MOST_DRAWN // sum(map(len, scores)), 100), _DRAWS)
    means, variances = np.empty((draws, 4)), np.empty((draws, 4))
    for each, values in enumerate(scores):
        at_once = max(_BLOCK // len(values), 1)
        for start in range(0, draws, at_once):
            part = slice(start, min(start + at_once, draws))
            places = generator.integers(len(values), size=(part.stop - start, len(values)))
            taken = values[places]
            means[part, each], variances[part, each] = taken.mean(axis=1), taken.var(axis=1, ddof=1)
    return *_effects(means.reshape(draws, 2, 2)), variances.mean(axis=1)


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / np.sqrt((one @ one) * (two @ two)))


def _whitened(
    product: np.ndarray | float,
    spread: np.ndarray | float,
    direction: np.ndarray,
    covariance: np.ndarray | None,
    trace: float,
    shrinkage: float,
) -> float:
    """Return the cosine of w and a direction u in the metric of S.

    Args:
        product: w.u.
        spread: The norm of w in the metric of S.
        direction: (d,) u.
        covariance: (d, d) inside the cells; None where there are too many features.
        trace: Its trace.
        shrinkage: t.

    Raises:
        SettingError: If the covariance cannot be inverted.
    """
    if covariance is None:
        return np.nan
    wide = len(direction)
    shrunk = (1 - shrinkage) * covariance
    shrunk[np.diag_indices(wide)] += shrinkage * trace / wide
    try:
        half = np.linalg.solve(np.linalg.cholesky(shrunk), direction)
    except np.linalg.LinAlgError as error:
        raise SettingError(
            "the covariance inside the cells cannot be inverted; choose a shrinkage above 0"
        ) from error
    return float(product / (spread * np.sqrt(half @ half)))
