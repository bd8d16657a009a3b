r"""Paired bootstrap over seeds and test rows of the difference between two entries.

An interval over seeds alone says nothing of another test set, one over rows alone nothing of
another seed. One replicate draws both: S seeds with replacement, the pair kept, and within each
combination of groups as many rows as it has, the same rows for all seeds and both entries,

.. math:: \Delta^* = \frac1S \sum_{s \in S^*}
    \left[ M(a_s; \text{rows}^*) - M(b_s; \text{rows}^*) \right] ,

M the score: accuracy of the worst group, of all rows, or the groups' accuracies weighted by their
shares of the training set. The interval is that between the 2.5th and the 97.5th percentile (Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3), around the difference that
was observed.

The least of several accuracies is biased down, and drawing again repeats that; it cancels in a
difference on the same rows, but worst groups of test sets of different size cannot be compared.
With few seeds their spread is understated, by the factor (S - 1) / S of its variance: beside it
stands the t interval over seeds (`paired`), and a verdict asks both.

Rows that all heads answer alike count as one: whole counts are drawn instead of single rows, which
is the same draw and does not grow with the test set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gsr_core.comparing.entries import Entry
from gsr_core.comparing.mcnemar import holm
from gsr_core.comparing.paired import paired
from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import patterns
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.summary import AVERAGES

__all__ = ["Bootstrap", "bootstrap", "bootstrap_entries", "judged"]

REPLICATES = 5000
_ROUNDING = 1e-12
_AT_ONCE = 2**23
"""Numbers that an array over replicates may have."""
_POWER = 1.959964 + 0.841621
"""Standard normal quantiles for 5 % two-sided and a power of 80 %."""


@dataclass(frozen=True)
class Bootstrap:
    """How a difference of two entries varies.

    Attributes:
        difference: As observed: the mean over the seeds of first minus second.
        low: 2.5th percentile of the replicates; NaN, as `high` and `p`, where nothing is drawn.
        high: 97.5th percentile.
        p: Two-sided, of a difference of zero.
        seeds_needed: About how many seeds would tell such a difference from zero four times in
            five on these test rows, infinite if no number would.
        rows_needed: About how many times as many test rows would with these seeds, likewise.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds_needed: float
    rows_needed: float


def bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    membership: np.ndarray,
    *,
    training_shares: np.ndarray | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Bootstrap]:
    """Bootstrap the differences between two entries on the same seeds and rows.

    Args:
        first: (S, n) bool, which rows the first entry gets right, seed by seed.
        second: The same of the second.
        membership: (n, m) bool, overlap allowed; one row at least is in a group.
        training_shares: (m,) fractions that weigh the groups in `adjusted_accuracy`, or None where
            they are not known, and that score not either.
        replicates: How many to draw.
        seed: Decides the draws.

    Returns:
        By score, each of `AVERAGES`, from the same draws.

    Example:
        >>> right = np.ones((3, 40), dtype=bool)
        >>> wrong = right.copy()
        >>> wrong[:, :5] = False
        >>> groups = np.repeat([[True, False], [False, True]], 20, axis=0)
        >>> found = bootstrap(right, wrong, groups)["worst_group_accuracy"]
        >>> found.difference, found.low > 0
        (0.25, True)
    """
    kinds, which = patterns(np.column_stack([membership, first.T, second.T]))
    counts = np.bincount(which)
    combinations, stratum = patterns(kinds[:, : membership.shape[1]])
    right = kinds[:, membership.shape[1] :].astype(np.float64)
    parts = [
        (counts[own], right[own]) for own in (stratum == np.arange(len(combinations))[:, None])
    ]
    totals = np.array([number.sum() for number, _ in parts])
    there = np.any(combinations, axis=0)
    share = combinations[:, there] / (totals @ combinations[:, there])
    weights = np.full(len(there), np.nan) if training_shares is None else training_shares
    if (weights[~there] > 0).any():
        weights = np.full(len(there), np.nan)

    def differences(hits: np.ndarray) -> np.ndarray:
        """Return (3, R, S): of each score and seed, from right rows (R, 2 S, strata)."""
        of_groups = hits @ share
        mean = hits.sum(axis=2) / totals.sum()
        scores = np.stack([of_groups.min(axis=2), mean, of_groups @ weights[there]])
        return scores[:, :, : len(first)] - scores[:, :, len(first) :]

    generator = np.random.default_rng(seed)
    hits = [_draw(generator, number, answers, replicates) for number, answers in parts]
    each = differences(np.stack(hits, axis=2))
    seeds = generator.integers(len(first), size=(replicates, len(first)))
    as_they_are = np.stack([number @ answers for number, answers in parts], axis=1)
    observed = differences(as_they_are[None])[:, 0]
    return {
        name: _summary(seen, by_seed, np.take_along_axis(by_seed, seeds, axis=1).mean(axis=1))
        for name, seen, by_seed in zip(AVERAGES, observed, each, strict=True)
    }


def _draw(
    generator: np.random.Generator, counts: np.ndarray, right: np.ndarray, replicates: int
) -> np.ndarray:
    """Return (R, 2 S): how many rows of a stratum each head gets right, rows drawn anew.

    Args:
        generator: Is advanced.
        counts: (kinds,) rows of each kind; as many as these are drawn, with replacement.
        right: (kinds, 2 S) 1 where a head gets the kind right, else 0.
        replicates: R.
    """
    total, size = counts.sum(), max(_AT_ONCE // len(counts), 1)
    return np.concatenate(
        [
            generator.multinomial(total, counts / total, size=min(size, replicates - done)).astype(
                np.float64
            )
            @ right
            for done in range(0, replicates, size)
        ]
    )


def _summary(observed: np.ndarray, by_seed: np.ndarray, delta: np.ndarray) -> Bootstrap:
    """Summarise replicates.

    Args:
        observed: (S,) difference of each seed.
        by_seed: (R, S) that of each seed on drawn rows.
        delta: (R,) mean over drawn seeds on drawn rows.
    """
    mean = float(observed.mean())
    if math.isnan(mean):
        return Bootstrap(*[math.nan] * 6)
    low, high = np.percentile(delta, [2.5, 97.5])
    # A difference of rounding is none.
    below, above = (delta <= _ROUNDING).sum(), (delta >= -_ROUNDING).sum()
    # Both variances shrink as one over the number; what the other leaves is to be below the whole.
    of_seeds = float(observed.var(ddof=1)) if len(observed) > 1 else 0.0
    of_rows = float(by_seed.mean(axis=1).var())
    whole = (mean / _POWER) ** 2
    for_seeds, for_rows = whole - of_rows, whole - of_seeds / len(observed)
    return Bootstrap(
        difference=mean,
        low=float(low),
        high=float(high),
        p=float(min(1.0, 2 * min(1 + below, 1 + above) / (len(delta) + 1))),
        seeds_needed=math.ceil(of_seeds / for_seeds) if for_seeds > 0 else math.inf,
        rows_needed=of_rows / for_rows if for_rows > 0 else math.inf,
    )


def bootstrap_entries(entry: Entry, reference: Entry, bundle: Bundle) -> dict[str, Bootstrap]:
    """Bootstrap an entry against the reference on test over the seeds that both have.

    Args:
        entry: The first.
        reference: What is subtracted.
        bundle: Their bundle.

    Returns:
        By score; empty if they share no seed.
    """
    rows = bundle.rows_of["test"]
    seeds = _shared_seeds(entry, reference)

    def answers(of: Entry) -> np.ndarray:
        runs = [of.runs[0] if of.every_seed else of.run_of(seed) for seed in seeds]
        found = [keep_scores(run, bundle)[rows]["prediction"] == bundle.y[rows] for run in runs]
        return np.stack(found)

    if not seeds:
        return {}
    return bootstrap(
        answers(entry),
        answers(reference),
        bundle.membership[rows],
        training_shares=bundle.training_shares,
    )


def _shared_seeds(one: Entry, two: Entry) -> Sequence[int]:
    if one.every_seed and two.every_seed:
        return one.seeds[:1]
    if one.every_seed or two.every_seed:
        return two.seeds if one.every_seed else one.seeds
    return sorted(set(one.seeds) & set(two.seeds))


def judged(
    table: pd.DataFrame,
    reference: Entry,
    drawn: Mapping[str, Mapping[str, Bootstrap]],
    metric: str = AVERAGES[0],
) -> pd.DataFrame:
    """Return how each entry differs from the reference, over seeds and test rows.

    Args:
        table: From `scores`, of test.
        reference: The entry that is subtracted.
        drawn: By label of each entry, `bootstrap_entries`.
        metric: A score, one of `AVERAGES`.

    Returns:
        As `paired`, whose interval and p are now in `seeds_low`, `seeds_high` and `seeds_p`, and
        the interval of the bootstrap in `rows_low` and `rows_high`; `low` and `high` hold both. `p`
        is the larger of both, p_holm corrected. The verdict is `better` or `worse` where both
        intervals say so, and else `not distinguishable`; `add seeds` where two entries that seeds
        change share fewer than two. Columns seeds_needed and rows_needed are those of `Bootstrap`.
    """
    pairs = paired(table, reference.label, metric)
    fixed = table.groupby("entry")["every_seed"].all()
    rows = []
    for pair in pairs.to_dict("records"):
        found = drawn.get(str(pair["entry"]), {}).get(metric)
        row = {**pair, "seeds_low": pair["low"], "seeds_high": pair["high"]}
        row["seeds_p"] = pair["p"]
        row |= dict.fromkeys(("rows_low", "rows_high", "seeds_needed", "rows_needed"), math.nan)
        if found is not None and not math.isnan(found.difference):
            row |= {"rows_low": found.low, "rows_high": found.high}
            row |= {"seeds_needed": found.seeds_needed, "rows_needed": found.rows_needed}
            row["low"] = float(np.nanmin([pair["low"], found.low]))
            row["high"] = float(np.nanmax([pair["high"], found.high]))
            same_for_all = bool(fixed[pair["entry"]]) and reference.every_seed
            if pair["verdict"] != "add seeds" or same_for_all:
                row["p"] = float(np.nanmax([pair["p"], found.p]))
                up, down = row["low"] > 0, row["high"] < 0
                row["verdict"] = "better" if up else "worse" if down else "not distinguishable"
        rows.append(row)
    added = [
        "seeds_low",
        "seeds_high",
        "seeds_p",
        "rows_low",
        "rows_high",
        "seeds_needed",
        "rows_needed",
    ]
    result = pd.DataFrame(rows, columns=[*pairs.columns, *added])
    result["p_holm"] = holm(result["p"].to_numpy(float))
    return result
