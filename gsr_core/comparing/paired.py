r"""Differences between two entries over the seeds that they share, and between two runs' values.

A seed draws the same target and val for both entries, so that the luck of the draw cancels:

.. math:: d_s = a_s - b_s, \qquad \bar d \pm t_{0.975,\,k-1}\, \mathrm{sd}(d) / \sqrt{k}

(Student's t with k - 1 degrees of freedom; k shared seeds). An entry that is the same for every
seed, such as the unchanged classifier, shares all seeds of the other. The interval covers what a
seed draws: target and val, and whatever the method draws. It covers nothing else: test, heldout and
backbone are the same for all seeds. Where every seed gives the same difference, the seeds say
nothing about chance, and there is no verdict.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from gsr_core.comparing.mcnemar import holm
from gsr_core.errors import ComparisonError
from gsr_core.methods.base import Values
from gsr_core.methods.registry import METHODS
from gsr_core.names import method_label
from gsr_core.runs.store import Run
from gsr_core.runs.summary import AVERAGES

__all__ = ["paired", "paired_values", "rank_correlation", "seed_differences"]


_EQUAL = 1e-12
"""Differences of accuracies below this are rounding errors."""


def seed_differences(
    table: pd.DataFrame, reference: str, metric: str = AVERAGES[0]
) -> pd.DataFrame:
    """Return entry, seed, difference: each entry minus the reference, seed by seed.

    Args:
        table: From `scores`.
        reference: Label of the entry to subtract; it has no rows itself.
        metric: A score, one of `AVERAGES`.
    """
    is_base = table["entry"] == reference
    others = _over_seeds_of(table[is_base], table[~is_base])
    base = _over_seeds_of(others, table[is_base]).set_index("seed")[metric]
    others = others[others["seed"].isin(base.index)]
    difference = others[metric].to_numpy() - base.loc[others["seed"]].to_numpy()
    difference[np.abs(difference) < _EQUAL] = 0.0
    return others[["entry", "seed"]].assign(difference=difference).reset_index(drop=True)


def _over_seeds_of(other: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which each entry that is the same for every seed has those of another."""
    if not table["every_seed"].any():
        return table
    parts = []
    for _, rows in table.groupby("entry", sort=False):
        if rows["every_seed"].all():
            seeds = np.union1d(rows["seed"], other["seed"])
            rows = rows.iloc[[0] * len(seeds)].assign(seed=seeds)
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def paired(table: pd.DataFrame, reference: str, metric: str = AVERAGES[0]) -> pd.DataFrame:
    """Return how each entry differs from the reference over the seeds they share.

    Args:
        table: From `scores`.
        reference: Label of the entry to subtract.
        metric: A score, one of `AVERAGES`.

    Returns:
        One row for each entry: entry, seeds (number of shared seeds), difference, sd, low and high
        (95 % t interval of the difference), p (two-sided, of a difference of 0), p_holm (the same
        after Holm's step-down correction for all entries here), verdict: `better`, `worse`, `not
        distinguishable` (the interval contains 0), `same on every seed` (all differences are equal
        and not 0, so that there is no spread to judge them by) or `add seeds` (fewer than two
        shared).
    """
    each = seed_differences(table, reference, metric)
    rows = []
    for entry in table.loc[table["entry"] != reference, "entry"].unique():
        differences = each.loc[each["entry"] == entry, "difference"].dropna().to_numpy()
        rows.append({"entry": entry, **_t_interval(differences)})
    columns = ["entry", "seeds", "difference", "sd", "low", "high", "p", "verdict"]
    pairs = pd.DataFrame(rows, columns=columns)
    pairs.insert(columns.index("verdict"), "p_holm", holm(pairs["p"].to_numpy(float)))
    return pairs


def _t_interval(differences: np.ndarray) -> dict[str, Any]:
    k = len(differences)
    mean = float(differences.mean()) if k else math.nan
    row = dict.fromkeys(("sd", "low", "high", "p"), math.nan)
    row |= {"seeds": k, "difference": mean}
    if k < 2:
        return {**row, "verdict": "add seeds"}
    if np.ptp(differences) < _EQUAL:
        same = "not distinguishable" if mean == 0 else "same on every seed"
        return {**row, "sd": 0.0, "verdict": same}
    sd = float(differences.std(ddof=1))
    error = sd / math.sqrt(k)
    half = float(stdtrit(k - 1, 0.975)) * error
    low, high = mean - half, mean + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
    p = 2 * float(stdtr(k - 1, -abs(mean) / error))
    return {**row, "sd": sd, "low": low, "high": high, "p": p, "verdict": verdict}


def paired_values(a: Run, b: Run) -> pd.DataFrame:
    """Return row, sample_id, weight_a and weight_b (1 is uniform) of the samples in both runs.

    Raises:
        ComparisonError: If one has no per-sample values, or they have no sample in common.
    """
    first, second = _relative_values(a), _relative_values(b)
    common = first.merge(second[["row", "weight"]], on="row", suffixes=("_a", "_b"))
    if common.empty:
        raise ComparisonError(
            f"the values of {method_label(a.config.method)} are on {a.values_split}, those of "
            f"{method_label(b.config.method)} on {b.values_split}: no sample has both"
        )
    return common


def _relative_values(run: Run) -> pd.DataFrame:
    table = run.weights(columns=["row", "sample_id", "weight"])
    if table is None:
        name, values = method_label(run.config.method), METHODS[run.config.method].values
        why = "its method makes none" if values is Values.NONE else "this run has none"
        raise ComparisonError(f"{name} has no values of single samples: {why}")
    return table.assign(weight=table["weight"] * len(table))


def rank_correlation(values: pd.DataFrame) -> float:
    """Return Spearman's correlation of `paired_values`; NaN where one side is constant."""
    sides = values["weight_a"], values["weight_b"]
    if min(float(np.ptp(side.to_numpy())) for side in sides) == 0:
        return math.nan
    return float(sides[0].corr(sides[1], "spearman"))
