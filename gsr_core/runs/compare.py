r"""Runs beside each other: over seeds, in pairs, and sample by sample.

What is compared is an *entry*: the runs of one method with the same settings on the same data,
which differ in their seeds alone. Two entries are compared over the seeds that they share, because
a seed draws the same target and val for both, so that the luck of the draw cancels:

.. math:: d_s = a_s - b_s, \qquad \bar d \pm t_{0.975,\,k-1}\, \mathrm{sd}(d) / \sqrt{k}

(Student's t with k - 1 degrees of freedom; k shared seeds). The interval speaks of what a seed
draws, target and val and whatever the method draws, and of nothing else: test, heldout and backbone
stay as they are. Where every seed gives the same difference, seeds say nothing about chance, and no
verdict is given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from gsr_core.data.bundle import Bundle
from gsr_core.errors import ComparisonError, GsrError
from gsr_core.methods.base import Values
from gsr_core.methods.registry import METHODS
from gsr_core.metrics import wilson_interval, worst_group
from gsr_core.runs.protocol import method_of
from gsr_core.runs.record import RunConfig
from gsr_core.runs.store import Run
from gsr_core.runs.summary import AVERAGES, changed_settings, group_table, overall

__all__ = [
    "Entry",
    "changed_samples",
    "check_comparable",
    "default_reference",
    "entries",
    "group_scores",
    "identity",
    "outcome",
    "paired",
    "paired_values",
    "rank_correlation",
    "same_but_for_seed",
    "scores",
    "seed_differences",
    "shared_run",
    "spread",
    "what_differs",
]

Outcome = Callable[[Run, str], tuple[dict[str, float], pd.DataFrame]]
"""Reads what `outcome` does; pages have one that remembers."""

_EQUAL = 1e-12
"""Differences of accuracies below this are rounding."""


@dataclass(frozen=True)
class Entry:
    """What is compared: a method with its settings, once for each seed.

    Attributes:
        label: Name for people, unique among the entries it was made with.
        config: Of the first of its runs.
        runs: One run a seed, by rising seed.
        seeds: Their seeds.
    """

    label: str
    config: RunConfig
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]

    @property
    def run_id(self) -> str:
        """Name of its first run, which stands for the entry in addresses."""
        return self.runs[0].run_id

    def run_of(self, seed: int) -> Run:
        """Return the run of a seed that the entry has."""
        return self.runs[self.seeds.index(seed)]


def entries(runs: Iterable[Run]) -> list[Entry]:
    """Group runs into entries, in the order in which each first appears.

    Of several runs of one seed, which repeat each other, the newest counts.
    """
    found: dict[str, dict[int, tuple[RunConfig, Run]]] = {}
    for run in runs:
        config = run.config
        seeds = found.setdefault(identity(config), {})
        if config.seed not in seeds or config.created > seeds[config.seed][0].created:
            seeds[config.seed] = config, run
    made = []
    for seeds in found.values():
        ordered = sorted(seeds)
        first = seeds[ordered[0]][0]
        made.append((first, tuple(seeds[seed][1] for seed in ordered), tuple(ordered)))
    labels = _labels([config for config, _, _ in made])
    return [
        Entry(label, config, runs, seeds)
        for label, (config, runs, seeds) in zip(labels, made, strict=True)
    ]


def same_but_for_seed(chosen: Sequence[Run], others: Iterable[Run]) -> list[Run]:
    """Return the chosen runs and those of the others that differ from one in the seed alone.

    A study's run is joined only by runs of the same study.
    """
    known = {(identity(run.config), run.config.part_of) for run in chosen}
    there = {run.run_id for run in chosen}
    more = [run for run in others if run.run_id not in there]
    return [
        *chosen,
        *(run for run in more if (identity(run.config), run.config.part_of) in known),
    ]


def identity(config: RunConfig) -> str:
    """Return what two runs that differ in nothing but their seed have in common."""
    method = method_of(config)
    # A setting that came after the run was made has its default.
    settings = config.settings if method is None else method.settings()
    settings = {key: value for key, value in settings.items() if key != "seed"}
    # A sweep spends labels of val, so that its winner is not what the same settings are by hand.
    parts = [config.bundle_digest, config.method, settings, config.variation, config.sweep]
    return json.dumps(parts, sort_keys=True, default=str)


def _labels(configs: Sequence[RunConfig]) -> list[str]:
    labels = []
    for config in configs:
        variation = [f"{key.replace('_', ' ')} {value}" for key, value in config.variation.items()]
        changed = [text for text in changed_settings(config) if not text.startswith("seed ")]
        sweep = [f"sweep {config.sweep}"] * bool(config.sweep)
        labels.append(" · ".join([config.method.upper(), *changed, *variation, *sweep]))
    return [
        # Only the data differ, which `check_comparable` refuses but a list may show.
        label if labels.count(label) == 1 else f"{label} ({config.bundle}, {config.run_id[-6:]})"
        for label, config in zip(labels, configs, strict=True)
    ]


def check_comparable(runs: Sequence[Run]) -> None:
    """Check that runs can stand in one table: that they have a result on the same data.

    Raises:
        ComparisonError: If one has no result, or they ran on different data; the sentence says
            what differs.
    """
    if not runs:
        raise ComparisonError("there is nothing to compare; name at least one run")
    for run in runs:
        if run.head() is None:
            raise ComparisonError(
                f"run '{run.run_id}' has no result to compare: it is {run.state.status}; wait for "
                "it or leave it out"
            )
    first = runs[0]
    for other in runs[1:]:
        if other.config.bundle_digest != first.config.bundle_digest:
            raise ComparisonError(
                f"'{first.run_id}' and '{other.run_id}' are not compared, because "
                f"{what_differs(first, other)}"
            )


def what_differs(a: Run, b: Run) -> str:
    """Return why two runs on different data are not compared, as the end of a sentence."""
    one, two = a.config, b.config
    if one.bundle == two.bundle:
        return (
            f"bundle '{one.bundle}' was written anew between them and its samples, features, "
            "splits or groups changed; run one of them again"
        )
    where = f"they ran on bundles '{one.bundle}' and '{two.bundle}'"
    try:
        first, second = a.unchanged_bundle().manifest, b.unchanged_bundle().manifest
    except (GsrError, OSError):
        return f"{where}; compare runs of one bundle"
    for what, left, right in (
        ("classes", first.classes, second.classes),
        ("groups", first.groups, second.groups),
        ("splits", first.split_sizes, second.split_sizes),
        ("splits", first.digests["samples.parquet"], second.digests["samples.parquet"]),
        ("groups", first.digests["groups.parquet"], second.digests["groups.parquet"]),
    ):
        if left != right:
            return f"{where}, whose {what} differ; compare runs of one bundle"
    return f"{where}, whose features or heads differ; compare runs of one bundle"


def default_reference(found: Sequence[Entry]) -> Entry:
    """Return the classifier as it came, if it is among the entries, else the first."""
    return next((entry for entry in found if entry.config.method == "erm"), found[0])


# Scores --------------------------------------------------------------------------------------


def outcome(run: Run, split: str) -> tuple[dict[str, float], pd.DataFrame]:
    """Return a run's metrics of all groups together and of each group, at its kept step."""
    metrics, step = run.metrics(), run.state.best_step
    return overall(metrics, split, step), group_table(metrics, split, step)


def scores(found: Sequence[Entry], *, split: str = "test", read: Outcome = outcome) -> pd.DataFrame:
    """Return one row an entry and seed: entry, seed, run, `AVERAGES`, worst_group, step, seconds.

    `worst_group` names the group, with `worst_count` samples; `count` is of all groups' samples.

    Args:
        found: The entries.
        split: `val` or `test`, at the kept step.
        read: Reads a run's outcome.
    """
    rows = []
    for entry in found:
        for seed, run in zip(entry.seeds, entry.runs, strict=True):
            state, (together, groups) = run.state, read(run, split)
            worst = groups.iloc[worst_group(groups["accuracy"].to_numpy())]
            rows.append(
                {
                    "entry": entry.label,
                    "seed": seed,
                    "run": run.run_id,
                    **{name: together[name] for name in AVERAGES},
                    "worst_group": worst["group"],
                    "worst_count": int(worst["count"]),
                    "step": state.best_step,
                    "seconds": state.seconds,
                }
            )
    return pd.DataFrame(rows)


def group_scores(
    found: Sequence[Entry], *, split: str = "test", read: Outcome = outcome
) -> pd.DataFrame:
    """Return one row an entry, seed and group: entry, seed, run, group, count, accuracy.

    Args:
        found: The entries.
        split: `val` or `test`, at the kept step.
        read: Reads a run's outcome.
    """
    parts = []
    for entry in found:
        for seed, run in zip(entry.seeds, entry.runs, strict=True):
            table = read(run, split)[1][["group", "count", "accuracy"]]
            parts.append(table.assign(entry=entry.label, seed=seed, run=run.run_id))
    return pd.concat(parts, ignore_index=True)


def spread(values: Sequence[float] | np.ndarray | pd.Series, count: int | None) -> dict[str, float]:
    """Return the mean of an accuracy over seeds and how far it varies.

    Args:
        values: One value a seed.
        count: Samples behind it, for the interval where there is only one seed; None for a mean
            of groups, which has no such interval.

    Returns:
        `mean`; `sd`, with k - 1 in the denominator, NaN for one seed; `low` and `high`: mean minus
        and plus sd, or Wilson's 95 % interval for one seed, NaN where neither is known.
    """
    known = np.asarray(values, dtype=float)
    mean = float(known.mean())
    if len(known) > 1:
        sd = float(known.std(ddof=1))
        return {"mean": mean, "sd": sd, "low": mean - sd, "high": mean + sd}
    low, high = (math.nan, math.nan) if count is None else wilson_interval(mean, count)
    return {"mean": mean, "sd": math.nan, "low": float(low), "high": float(high)}


# Pairs ---------------------------------------------------------------------------------------


def seed_differences(
    table: pd.DataFrame, reference: str, metric: str = AVERAGES[0]
) -> pd.DataFrame:
    """Return entry, seed, difference: what each entry has more than the reference, seed by seed.

    Args:
        table: From `scores`.
        reference: Label of the entry that is subtracted; it has no rows itself.
        metric: Which score.
    """
    base = table[table["entry"] == reference].set_index("seed")[metric]
    others = table[(table["entry"] != reference) & table["seed"].isin(base.index)]
    difference = others[metric].to_numpy() - base.loc[others["seed"]].to_numpy()
    difference[np.abs(difference) < _EQUAL] = 0.0
    return others[["entry", "seed"]].assign(difference=difference).reset_index(drop=True)


def paired(table: pd.DataFrame, reference: str, metric: str = AVERAGES[0]) -> pd.DataFrame:
    """Return how each entry differs from the reference over the seeds they share.

    Args:
        table: From `scores`.
        reference: Label of the entry that is subtracted.
        metric: Which score.

    Returns:
        One row an entry: entry, seeds (how many are shared), difference, sd, low and high (95 %
        t interval of the difference), p (two-sided, of a difference of 0), p_holm (the same after
        Holm's step-down correction for all entries here), verdict: `better`, `worse`, `not
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
    found = pd.DataFrame(rows, columns=columns)
    found.insert(columns.index("verdict"), "p_holm", _holm(found["p"].to_numpy(float)))
    return found


def _t_interval(differences: np.ndarray) -> dict[str, Any]:
    k = len(differences)
    mean = float(differences.mean()) if k else math.nan
    found = dict.fromkeys(("sd", "low", "high", "p"), math.nan)
    found |= {"seeds": k, "difference": mean}
    if k < 2:
        return {**found, "verdict": "add seeds"}
    if np.ptp(differences) < _EQUAL:
        same = "not distinguishable" if mean == 0 else "same on every seed"
        return {**found, "sd": 0.0, "verdict": same}
    sd = float(differences.std(ddof=1))
    error = sd / math.sqrt(k)
    half = float(stdtrit(k - 1, 0.975)) * error
    low, high = mean - half, mean + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
    p = 2 * float(stdtr(k - 1, -abs(mean) / error))
    return {**found, "sd": sd, "low": low, "high": high, "p": p, "verdict": verdict}


def _holm(p: np.ndarray) -> np.ndarray:
    """Return p-values after Holm's step-down correction (Scand. J. Statist. 1979); NaN stays."""
    adjusted = np.full(len(p), math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def shared_run(reference: Entry, other: Entry) -> tuple[Run, Run]:
    """Return the runs of both entries at the lowest seed they share, or else their first ones."""
    shared = sorted(set(reference.seeds) & set(other.seeds))
    if shared:
        return reference.run_of(shared[0]), other.run_of(shared[0])
    return reference.runs[0], other.runs[0]


# Sample by sample ----------------------------------------------------------------------------


def changed_samples(
    bundle: Bundle, reference: pd.DataFrame, other: pd.DataFrame
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return whom one of two heads gets right and the other does not.

    Args:
        bundle: The data.
        reference: `sample_table` of one run.
        other: `sample_table` of another, of the same split and rows.

    Returns:
        A table with one row a group (group, samples, fixed, broken, net), and the positions in
        the bundle of the samples that are fixed (wrong under the reference, right under the other)
        and broken (the other way round).

    Raises:
        ComparisonError: If the two are not of the same rows.
    """
    rows = reference["row"].to_numpy()
    if not np.array_equal(rows, other["row"].to_numpy()):
        raise ComparisonError("the two runs were not scored on the same samples")
    before, after = reference["correct"].to_numpy(), other["correct"].to_numpy()
    fixed, broken = ~before & after, before & ~after
    members = bundle.membership[rows]
    table = pd.DataFrame(
        {
            "group": bundle.group_names,
            "samples": members.sum(axis=0),
            "fixed": (members & fixed[:, None]).sum(axis=0),
            "broken": (members & broken[:, None]).sum(axis=0),
        }
    )
    table["net"] = table["fixed"] - table["broken"]
    return table, rows[fixed], rows[broken]


def paired_values(a: Run, b: Run) -> pd.DataFrame:
    """Return row, sample_id, weight_a and weight_b (1 is uniform) of the samples in both runs.

    Raises:
        ComparisonError: If one has no per-sample values, or they have no sample in common.
    """
    first, second = _relative_values(a), _relative_values(b)
    found = first.merge(second[["row", "weight"]], on="row", suffixes=("_a", "_b"))
    if found.empty:
        raise ComparisonError(
            f"the values of {a.config.method.upper()} are on {a.values_split}, those of "
            f"{b.config.method.upper()} on {b.values_split}: no sample has both"
        )
    return found


def _relative_values(run: Run) -> pd.DataFrame:
    table = run.weights(columns=["row", "sample_id", "weight"])
    if table is None:
        name, values = run.config.method.upper(), METHODS[run.config.method].values
        why = "its method makes none" if values is Values.NONE else "this run has none"
        raise ComparisonError(f"{name} has no values of single samples: {why}")
    return table.assign(weight=table["weight"] * len(table))


def rank_correlation(values: pd.DataFrame) -> float:
    """Return Spearman's correlation of `paired_values`; NaN where one side is constant."""
    sides = values["weight_a"], values["weight_b"]
    if min(float(np.ptp(side.to_numpy())) for side in sides) == 0:
        return math.nan
    return float(sides[0].corr(sides[1], "spearman"))
